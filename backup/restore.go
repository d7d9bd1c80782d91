package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A Target is an empty platform that nobody serves.
type Target struct {
	DB       store.Driver
	Blob     blob.Driver
	Series   string // the folder of the series, which is made; empty: they become records, all of them sealed
	Key      []byte // that secrets are sealed with here; empty: the one of the backup, if it has one
	Progress Progress
	Now      func() time.Time
}

// A Result is what a restore did.
type Result struct {
	Header  Header
	Summary Summary
	Key     []byte   // what secrets are sealed with; empty: nobody has it, and they cannot be opened
	Queued  []string // the runs that begin again, from their last checkpoint: JOB/7
	Raised  int      // how much every epoch was raised by
	Logins  int      // that were left out: one that was revoked since would be good again
}

// Read restores a backup. Records come last, when the hash of everything was
// verified: a target that it fails on has content that nothing names, and no
// record. What runs are live goes back to the line under an epoch that nobody
// has ever had, before anything talks to a cluster.
func (t Target) Read(ctx context.Context, r io.Reader) (res Result, err error) {
	if err := store.Empty(ctx, t.DB); err != nil {
		return res, fmt.Errorf("a backup is restored into an empty store: %w", err)
	}
	in := &reading{Target: t, seen: map[string]Entry{}, puts: new(errgroup.Group)}
	in.puts.SetLimit(32)
	defer func() {
		if e := in.puts.Wait(); err == nil {
			err = e
		}
	}()
	if in.spool, err = newSpool(); err != nil {
		return res, err
	}
	defer in.spool.file.Close()
	foreign, err := os.MkdirTemp("", "mlaas-restore-*")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(foreign)
	in.lines = series.Restoring{Dir: foreign, DB: t.DB, Blob: t.Blob}
	if err := in.read(ctx, tar.NewReader(bufio.NewReaderSize(r, 1<<20))); err != nil {
		return res, err
	}
	res.Header, res.Summary, res.Key = in.header, in.manifest.Summary, in.key
	if err := store.Restoring(ctx, t.DB); err != nil {
		return res, err
	}
	if err := in.records(ctx, &res); err != nil {
		return res, err
	}
	return res, store.Restored(ctx, t.DB, in.header.Schema)
}

// Check reads a backup and reports whether it is whole and can be read here,
// and what it has. It writes nothing.
func Check(ctx context.Context, r io.Reader) (Header, Summary, error) {
	in := &reading{dry: true, seen: map[string]Entry{}, puts: new(errgroup.Group)}
	err := in.read(ctx, tar.NewReader(bufio.NewReaderSize(r, 1<<20)))
	return in.header, in.manifest.Summary, err
}

// A reading is one restore under way.
type reading struct {
	Target
	dry      bool // nothing is written: hashes are compared
	header   Header
	manifest Manifest
	key      []byte
	spool    *spool
	lines    series.Restoring // what is not in a folder that is to be one
	seen     map[string]Entry
	blobs    int64
	puts     *errgroup.Group // of small content: many share one write to disk
}

func broken(format string, args ...any) error {
	return fmt.Errorf("this is no whole backup: "+format+": %w", append(args, mlaas.ErrInvalid)...)
}

// read takes the entries, one by one, and then compares them with the manifest.
func (in *reading) read(ctx context.Context, t *tar.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			if err := in.puts.Wait(); err != nil {
				return err
			}
			return in.complete()
		case err != nil:
			return broken("%v", err)
		case h.Typeflag != tar.TypeReg:
			return broken("%q is not a file", h.Name)
		case in.manifest.Entries != nil:
			return broken("%q comes after the manifest", h.Name)
		case in.header.Format == 0 && h.Name != headerName && h.Name != keyName:
			return broken("it begins with %q, not with %q", h.Name, headerName)
		}
		if _, twice := in.seen[h.Name]; twice {
			return broken("%q is there twice", h.Name)
		}
		sum := sha256.New()
		data := io.TeeReader(t, sum)
		err = in.entry(ctx, h, data)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return broken("it is cut off in %s", h.Name)
		}
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, data); err != nil { // of JSON, what follows it
			return broken("%v", err)
		}
		in.seen[h.Name] = Entry{h.Name, h.Size, hexSum(sum)}
	}
}

// small is the size of an entry that is read into memory.
const small = 1 << 30

func (in *reading) entry(ctx context.Context, h *tar.Header, data io.Reader) error {
	decode := func(v any) error {
		if h.Size > small {
			return broken("%s has %d bytes", h.Name, h.Size)
		}
		if err := json.NewDecoder(data).Decode(v); err != nil {
			return broken("%s: %v", h.Name, err)
		}
		return nil
	}
	switch folder, name, _ := strings.Cut(h.Name, "/"); {
	case h.Name == keyName:
		text, err := io.ReadAll(io.LimitReader(data, 1<<10))
		if err == nil {
			in.key, err = hex.DecodeString(strings.TrimSpace(string(text)))
		}
		if err != nil {
			return broken("the key: %v", err)
		}
		return nil
	case h.Name == headerName:
		if err := decode(&in.header); err != nil {
			return err
		}
		return in.welcome()
	case in.dry && h.Name != manifestName:
		return nil
	case h.Name == recordsName || h.Name == messagesName || h.Name == manifests:
		in.spool.begin(h.Name)
		_, err := io.Copy(in.spool, data)
		return err
	case folder+"/" == seriesFolder:
		return in.series(name, data)
	case folder+"/" == blobFolder:
		if in.blobs++; in.blobs%100 == 0 {
			in.progress("content", in.blobs, 0)
		}
		return in.content(ctx, mlaas.Digest(name), h.Size, data)
	case h.Name == manifestName:
		return decode(&in.manifest)
	}
	return broken("%q is none of its entries", h.Name)
}

// welcome reports whether this program can read such a backup, and has the key
// that goes with it.
func (in *reading) welcome() error {
	h := in.header
	switch {
	case h.Format < 1:
		return broken("its format is %d", h.Format)
	case h.Format > Format:
		return fmt.Errorf("this backup was written by a newer mlaas (%s; format %d, this one reads up to %d): use that version: %w", h.Version, h.Format, Format, mlaas.ErrConflict)
	}
	if err := store.CheckForms(h.Schema); err != nil {
		return fmt.Errorf("this backup was written by mlaas %s: %w", h.Version, err)
	}
	for _, k := range [][]byte{in.key, in.Key} {
		if len(k) > 0 && Fingerprint(k) != h.Key {
			return fmt.Errorf("the key is not the one that this backup's secrets were sealed with (fingerprint %s, want %s): %w", Fingerprint(k), h.Key, mlaas.ErrInvalid)
		}
	}
	if len(in.Key) > 0 {
		in.key = in.Key
	}
	return nil
}

// content keeps a piece of content under the name that it must have.
func (in *reading) content(ctx context.Context, d mlaas.Digest, size int64, data io.Reader) error {
	if _, err := blob.CheckDigest(d); err != nil {
		return broken("content %q: %v", d, err)
	}
	put := func(data io.Reader) error {
		if _, _, err := in.Blob.Put(ctx, data, d); err != nil {
			return fmt.Errorf("content %s: %w", d, err)
		}
		return nil
	}
	if size > 1<<20 {
		return put(data)
	}
	text, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	in.puts.Go(func() error { return put(bytes.NewReader(text)) })
	return nil
}

func (in *reading) series(name string, data io.Reader) error {
	object, err := series.Restored(name)
	if err != nil {
		return broken("%v", err)
	}
	if object || in.Series == "" {
		return in.lines.File(name, data)
	}
	path := filepath.Join(in.Series, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Sync(), f.Close())
}

// complete compares what came with what the manifest says.
func (in *reading) complete() error {
	if in.manifest.Entries == nil {
		return broken("it is cut off: the manifest, which comes last, is not there")
	}
	delete(in.seen, keyName)
	delete(in.seen, manifestName)
	for _, e := range in.manifest.Entries {
		got, ok := in.seen[e.Name]
		if !ok {
			return broken("%s is missing", e.Name)
		}
		if got != e {
			return broken("%s is not what was written: %d bytes with SHA-256 %s, want %d with %s", e.Name, got.Size, got.SHA256, e.Size, e.SHA256)
		}
		delete(in.seen, e.Name)
	}
	for name := range in.seen {
		return broken("%s is not in its manifest", name)
	}
	in.progress("content", in.blobs, in.blobs)
	return nil
}

func (in *reading) progress(what string, done, of int64) {
	if in.Progress != nil {
		in.Progress(what, done, of)
	}
}

// eachLine calls f with each line of a part of the spool.
func (in *reading) eachLine(name string, f func(line []byte) error) error {
	for _, p := range in.spool.parts {
		if p.name != name {
			continue
		}
		r := bufio.NewReaderSize(io.NewSectionReader(in.spool.file, p.from, p.size), 256<<10)
		for {
			line, err := r.ReadBytes('\n')
			if len(bytes.TrimSpace(line)) > 0 {
				if err := f(line); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce is how many records, and how many bytes of them, one commit has.
const (
	atOnce      = 500
	bytesAtOnce = 4 << 20
)

// records writes the records and the messages, as they are to be here.
func (in *reading) records(ctx context.Context, res *Result) error {
	if err := in.spool.buf.Flush(); err != nil {
		return err
	}
	now := time.Now().UTC()
	if in.Now != nil {
		now = in.Now().UTC()
	}
	a := newAgain(now, in.header.Created)
	each := func(f func(store.Row) error) error {
		for _, part := range []string{recordsName, manifests} {
			err := in.eachLine(part, func(line []byte) error {
				var r row
				if err := json.Unmarshal(line, &r); err != nil {
					return broken("a record: %v", err)
				}
				return f(store.Row{Key: store.Key{Kind: r.Kind, Tenant: r.Tenant, ID: r.ID}, Rev: r.Rev, Index: r.Index, Data: r.Data})
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := each(a.look); err != nil {
		return err
	}
	total, done := int64(0), int64(0)
	for _, n := range in.manifest.Summary.Records {
		total += int64(n)
	}
	var rows []store.Row
	size := 0
	put := func() error {
		if len(rows) == 0 {
			return nil
		}
		err := store.Import(ctx, in.DB, rows, nil)
		done += int64(len(rows))
		in.progress("records", done, total)
		rows, size = nil, 0
		return err
	}
	err := each(func(r store.Row) error {
		r, keep, err := a.change(r)
		if err != nil || !keep {
			return err
		}
		rows = append(rows, r)
		if size += len(r.Data); len(rows) >= atOnce || size > bytesAtOnce {
			return put()
		}
		return nil
	})
	if err == nil {
		err = put()
	}
	if err != nil {
		return err
	}
	var tell []store.Message
	if in.Series == "" || in.manifest.Summary.Records["series"] > 0 {
		if err := in.lines.Finish(ctx, in.Series); err != nil {
			return fmt.Errorf("restore the series: %w", err)
		}
	}
	err = in.eachLine(messagesName, func(line []byte) error {
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return broken("a message: %v", err)
		}
		tell = append(tell, store.Message{To: m.To, Subject: m.Subject, Key: m.Key, Due: m.Due, Body: m.Body})
		if len(tell) < atOnce {
			return nil
		}
		err := store.Import(ctx, in.DB, nil, tell)
		tell = nil
		return err
	})
	if err == nil && len(tell) > 0 {
		err = store.Import(ctx, in.DB, nil, tell)
	}
	res.Queued, res.Raised, res.Logins = a.queued, a.by, a.logins
	return err
}
