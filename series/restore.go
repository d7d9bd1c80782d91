package series

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// A Restoring brings a snapshot of any medium into any other: all of it is
// sealed, and what becomes of it is manifests that no shard holds.
type Restoring struct {
	Dir  string       // for the files of the snapshot, until they are sealed
	DB   store.Driver // has the records of the snapshot, and nobody else uses it
	Blob blob.Driver  // has the blobs that it names
}

// File takes a file of the snapshot.
func (r *Restoring) File(name string, data io.Reader) error {
	object, err := Restored(name)
	if err != nil {
		return err
	}
	return writeBelow(r.place(object), name, data)
}

func (r *Restoring) place(object bool) string {
	if object {
		return filepath.Join(r.Dir, "objects")
	}
	return filepath.Join(r.Dir, "folder")
}

// writeBelow makes a file that is not there yet, durably but for its name.
func writeBelow(dir, name string, data io.Reader) error {
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Sync(), f.Close())
}

// Finish seals what came, and leaves it as the folder of a store; or, where
// that is "", as records which any shard may take. It is called after the last
// file, when the records are there.
func (r *Restoring) Finish(ctx context.Context, folder string) error {
	if err := r.sealObjects(ctx); err != nil {
		return fmt.Errorf("seal what objects have: %w", err)
	}
	to := &Store{Dir: folder, Blob: r.Blob}
	if folder != "" {
		if err := to.open(ctx); err != nil {
			return err
		}
		defer to.Close()
	}
	work, some := errgroup.WithContext(ctx)
	work.SetLimit(fetches) // of commits and fsyncs, which they share
	err := r.each(some, func(one *run) {
		work.Go(func() error { return r.put(some, to, one) })
	})
	if err := errors.Join(work.Wait(), err); err != nil {
		return err
	}
	return r.clear(ctx, folder != "")
}

// each calls f with every run, of which all is sealed.
func (r *Restoring) each(ctx context.Context, f func(*run)) error {
	found, err := store.Series(r.DB).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	for _, m := range found {
		one := (&Store{}).newRun(key{m.Value.Tenant, m.Value.Run})
		if err := one.decode(m.Value.Body); err != nil {
			return err
		}
		one.rev = m.Rev
		f(one)
	}
	if _, err := os.Stat(r.place(false)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := &Store{Dir: r.place(false), Blob: r.Blob}
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.Close()
	if err := s.Flush(ctx); err != nil {
		return fmt.Errorf("seal what the folder has: %w", err)
	}
	return s.medium.each(ctx, func(_ key, one *run, err error) error {
		if err == nil {
			f(one)
		}
		return err
	})
}

// put keeps the manifest of a run. Up to which segment all is sealed is not
// known any more: their numbers begin again.
func (r *Restoring) put(ctx context.Context, to *Store, one *run) error {
	m := one.manifest
	m.Shard, m.Released, m.Sealed = "", to.Dir == "", 0
	data, err := one.encode(m)
	if err != nil {
		return err
	}
	if to.Dir != "" {
		_, err = to.medium.save(ctx, one, m, data)
		return err
	}
	row := store.Manifest{Tenant: one.key.tenant, Run: one.key.run, Released: true, Body: data}
	return r.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Series(r.DB).Put(row, one.rev)}})
}

// clear removes the records that nobody needs any more.
func (r *Restoring) clear(ctx context.Context, manifests bool) error {
	var gone []store.Row
	shards, err := store.Shards(r.DB).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	for _, sh := range shards {
		gone = append(gone, store.Shards(r.DB).At("", sh.Value.Name, sh.Rev))
	}
	if manifests {
		found, err := store.Series(r.DB).All(ctx, store.Query{})
		if err != nil {
			return err
		}
		for _, m := range found {
			gone = append(gone, store.Series(r.DB).At(m.Value.Tenant, string(m.Value.Run), m.Rev))
		}
	}
	for some := range slices.Chunk(gone, 500) {
		if err := r.DB.Commit(ctx, store.Batch{Delete: some}); err != nil {
			return err
		}
	}
	return nil
}

// sealObjects seals each shard as its next owner would.
func (r *Restoring) sealObjects(ctx context.Context) error {
	shards, err := store.Shards(r.DB).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.place(true), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(r.place(true))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range shards {
		s := &Store{Objects: files{root}, DB: r.DB, Blob: r.Blob, Shard: f.Value.Name, Epoch: f.Value.Epoch}
		if err := s.open(ctx); err != nil {
			return err
		}
		if err := errors.Join(s.Flush(ctx), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// files are the objects of a snapshot as files, by their key below "series/".
type files struct{ root *os.Root }

func (f files) at(key string) string { return filepath.FromSlash(key[len(objectsPrefix):]) }

func (f files) Put(_ context.Context, key string, data []byte) error {
	if err := f.root.MkdirAll(filepath.Dir(f.at(key)), 0o700); err != nil {
		return err
	}
	return f.root.WriteFile(f.at(key), data, 0o600)
}

func (f files) Get(_ context.Context, key string) ([]byte, error) {
	data, err := f.root.ReadFile(f.at(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", key, mlaas.ErrNotFound)
	}
	return data, err
}

func (f files) List(_ context.Context, prefix string) (all []Object, err error) {
	dir := path.Clean(f.at(prefix))
	entries, err := fs.ReadDir(f.root.FS(), filepath.ToSlash(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		all = append(all, Object{Key: prefix + e.Name()})
	}
	return all, err
}

func (f files) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		if err := f.root.Remove(f.at(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
