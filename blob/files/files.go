// Package files keeps blobs as files: the bytes whose digest begins with ab are
// in the folder ab, under all 64 digits.
//
// A blob is written to a temporary file, made durable, and only then renamed
// to its place, so whatever stands there is whole. What is stored again
// replaces the file, which mends damage.
package files

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/failpoint"
)

// Files is a blob.Driver over one folder.
type Files struct {
	root  *os.Root
	now   func() time.Time
	used  atomic.Int64
	top   syncer
	parts [256]part
}

// A part is one of the 256 folders, which are made when they are needed.
type part struct {
	name string
	made atomic.Bool // and durable
	mu   sync.Mutex  // held while a file comes or goes, never during a sync
	sync syncer
}

const (
	temporary = "tmp"
	abandoned = 24 * time.Hour // after which a temporary file has no owner any more
)

// Open uses dir, which is made if it is not there. Times are told by now, or
// by time.Now if that is nil.
func Open(dir string, now func() time.Time) (*Files, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, full(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &Files{root: root, now: now}
	if err := f.prepare(); err != nil {
		root.Close()
		return nil, fmt.Errorf("open blobs in %s: %w", dir, full(err))
	}
	return f, nil
}

func (f *Files) prepare() error {
	if err := f.root.Mkdir(temporary, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for i := range f.parts {
		f.parts[i].name = fmt.Sprintf("%02x", i)
		f.parts[i].sync.flush = func() error { return f.flush(f.parts[i].name) }
	}
	f.top.flush = func() error { return f.flush(".") }
	if err := f.top.wait(); err != nil {
		return err
	}
	left, err := f.list(temporary)
	if err != nil {
		return err
	}
	for _, l := range left {
		if f.now().Sub(l.ModTime()) > abandoned {
			if err := f.root.Remove(temporary + "/" + l.Name()); err != nil {
				return err
			}
		}
	}
	return f.Each(context.Background(), func(i blob.Info) error {
		f.used.Add(i.Size)
		return nil
	})
}

// Close frees the folder. Nothing may be called after it.
func (f *Files) Close() error { return f.root.Close() }

// Usage is how much all blobs are together. It is kept, not counted anew.
func (f *Files) Usage() mlaas.Bytes { return mlaas.Bytes(f.used.Load()) }

// Put is described at blob.Driver.
func (f *Files) Put(ctx context.Context, r io.Reader, want mlaas.Digest) (mlaas.Digest, int64, error) {
	if want != "" {
		if _, err := blob.CheckDigest(want); err != nil {
			return "", 0, err
		}
	}
	name := temporary + "/" + rand.Text()
	digest, size, err := f.write(ctx, name, r, want)
	if err == nil {
		err = f.place(name, digest, size)
	}
	if err != nil {
		_ = f.root.Remove(name) // if it stays, Open removes it
		return "", 0, fmt.Errorf("store a blob: %w", full(err))
	}
	return digest, size, nil
}

// write makes the temporary file, durably.
func (f *Files) write(ctx context.Context, name string, r io.Reader, want mlaas.Digest) (mlaas.Digest, int64, error) {
	file, err := f.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.CopyBuffer(io.MultiWriter(file, sum), reading{ctx, r}, make([]byte, 128<<10))
	if err != nil {
		return "", 0, err
	}
	digest := blob.Sum(sum.Sum(nil))
	if want != "" && digest != want {
		return "", 0, mlaas.Invalid("digest", "that of the bytes, which is "+string(digest), string(want))
	}
	// The time protects it from being collected, so it must be this driver's.
	now := f.now()
	if err := f.root.Chtimes(name, now, now); err != nil {
		return "", 0, err
	}
	return digest, size, file.Sync()
}

// place renames the temporary file to where digest is found.
func (f *Files) place(name string, digest mlaas.Digest, size int64) error {
	p, at, err := f.where(digest)
	if err != nil {
		return err
	}
	if !p.made.Load() {
		if err := f.root.Mkdir(p.name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := f.top.wait(); err != nil {
			return err
		}
		p.made.Store(true)
	}
	failpoint.Hit("blob.place.before")
	p.mu.Lock()
	before := int64(0)
	if old, err := f.root.Lstat(at); err == nil {
		before = old.Size()
	}
	err = f.root.Rename(name, at)
	if err == nil {
		f.used.Add(size - before)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	failpoint.Hit("blob.place.between")
	err = p.sync.wait()
	failpoint.Hit("blob.place.after")
	return err
}

// Get is described at blob.Driver. Bytes that are read from the first to the
// last are checked: the error at their end is blob.ErrDamaged if they are not
// what was stored.
func (f *Files) Get(ctx context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error) {
	_, at, err := f.where(d)
	if err != nil {
		return nil, err
	}
	file, err := f.root.Open(at)
	if err != nil {
		return nil, missing(d, err)
	}
	info, err := file.Stat()
	if err == nil && (offset < 0 || offset > info.Size()) {
		err = mlaas.Invalid("offset", fmt.Sprintf("0 to %d, the size of the blob", info.Size()), offset)
	}
	if err == nil && offset > 0 {
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	if offset > 0 {
		return struct {
			io.Reader
			io.Closer
		}{reading{ctx, file}, file}, nil
	}
	return &checked{reading{ctx, file}, file, sha256.New(), d}, nil
}

// Stat is described at blob.Driver.
func (f *Files) Stat(_ context.Context, d mlaas.Digest) (blob.Info, error) {
	_, at, err := f.where(d)
	if err != nil {
		return blob.Info{}, err
	}
	info, err := f.root.Lstat(at)
	if err != nil {
		return blob.Info{}, missing(d, err)
	}
	return blob.Info{Digest: d, Size: info.Size(), Time: info.ModTime()}, nil
}

// Touch is described at blob.Touch.
func (f *Files) Touch(ctx context.Context, d mlaas.Digest) (blob.Info, error) {
	p, at, err := f.where(d)
	if err != nil {
		return blob.Info{}, err
	}
	p.mu.Lock() // or it would be collected between the two
	defer p.mu.Unlock()
	now := f.now()
	if err := f.root.Chtimes(at, now, now); err != nil {
		return blob.Info{}, missing(d, err)
	}
	return f.Stat(ctx, d)
}

// Each is described at blob.Driver.
func (f *Files) Each(ctx context.Context, each func(blob.Info) error) error {
	for i := range f.parts {
		name := f.parts[i].name
		infos, err := f.list(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				return err
			}
			d := mlaas.Digest("sha256:" + info.Name())
			if _, err := blob.CheckDigest(d); err != nil || info.Name()[:2] != name {
				continue // not ours
			}
			if err := each(blob.Info{Digest: d, Size: info.Size(), Time: info.ModTime()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete is described at blob.Driver.
func (f *Files) Delete(_ context.Context, d mlaas.Digest) error {
	_, err := f.remove(d, func(fs.FileInfo) bool { return true })
	return err
}

// DeleteBefore deletes d unless it was stored since, and says whether it did.
// A Put at the same time is either seen here or stores the bytes anew.
func (f *Files) DeleteBefore(_ context.Context, d mlaas.Digest, since time.Time) (bool, error) {
	return f.remove(d, func(i fs.FileInfo) bool { return i.ModTime().Before(since) })
}

func (f *Files) remove(d mlaas.Digest, when func(fs.FileInfo) bool) (bool, error) {
	p, at, err := f.where(d)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := f.root.Lstat(at)
	if err == nil && when(info) {
		if err = f.root.Remove(at); err == nil {
			f.used.Add(-info.Size())
			return true, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return false, err
}

func (f *Files) where(d mlaas.Digest) (*part, string, error) {
	digits, err := blob.CheckDigest(d)
	if err != nil {
		return nil, "", err
	}
	i, err := strconv.ParseUint(digits[:2], 16, 8)
	if err != nil {
		return nil, "", err
	}
	return &f.parts[i], digits[:2] + "/" + digits, nil
}

// list is what is in a folder now; what goes meanwhile is left out.
func (f *Files) list(name string) ([]fs.FileInfo, error) {
	dir, err := f.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// flush makes the names in a folder durable.
func (f *Files) flush(name string) error {
	dir, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// A syncer makes one flush serve all who wait for one: whoever comes while a
// flush runs shares the next.
type syncer struct {
	flush func() error

	mu      sync.Mutex
	running bool
	next    *round
}

type round struct {
	done chan struct{}
	err  error
}

// wait returns when a flush has ended that began after wait was called.
func (s *syncer) wait() error {
	s.mu.Lock()
	if s.running { // its flush may have begun before our change
		if s.next == nil {
			s.next = &round{done: make(chan struct{})}
		}
		r := s.next
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	s.running = true
	s.mu.Unlock()
	err := s.flush()
	s.mu.Lock()
	r := s.next
	s.next = nil
	s.running = r != nil
	s.mu.Unlock()
	if r != nil {
		go s.serve(r)
	}
	return err
}

// serve flushes for those who came during the last flush, until nobody waits.
func (s *syncer) serve(r *round) {
	for r != nil {
		r.err = s.flush()
		s.mu.Lock()
		done := r.done
		r = s.next
		s.next = nil
		s.running = r != nil
		s.mu.Unlock()
		close(done)
	}
}

// reading ends with the context.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// checked compares what was read with its name when the end is reached.
type checked struct {
	io.Reader
	io.Closer
	sum  hash.Hash
	want mlaas.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && blob.Sum(c.sum.Sum(nil)) != c.want {
		err = fmt.Errorf("blob %s is %w", c.want, blob.ErrDamaged)
	}
	return n, err
}

func missing(d mlaas.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", d, mlaas.ErrNotFound)
	}
	return err
}

// full makes the kind of an error that says there is no room, or that the disk
// does not take what is written.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", err, mlaas.ErrDisk)
	}
	return err
}
