package supervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor/source"
)

// Limits of what is fetched and kept.
const (
	maxTree      = 256 << 20 // bytes of the description of a folder
	maxTreeFiles = 1_000_000
	maxSource    = 100 << 30 // of one https:// source
	sourceTime   = 2 * time.Hour
	atOnce       = 8 // files
)

func digestOf(h hash.Hash) mlaas.Digest {
	return mlaas.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

func digestBytes(b []byte) mlaas.Digest {
	h := sha256.New()
	h.Write(b)
	return digestOf(h)
}

// blobBytes fetches what is small enough for memory.
func (s *Supervisor) blobBytes(ctx context.Context, d mlaas.Digest, limit int64) ([]byte, error) {
	var out []byte
	err := s.patiently(ctx, func() error {
		r, err := s.Door.Get(ctx, d, 0)
		if err != nil {
			return err
		}
		defer r.Close()
		out, err = io.ReadAll(io.LimitReader(r, limit+1))
		if err != nil {
			return fmt.Errorf("%w: %w", mlaas.ErrUnavailable, err)
		}
		if int64(len(out)) > limit {
			return fmt.Errorf("%s has more than %d bytes: %w", d, limit, mlaas.ErrTooLarge)
		}
		return nil
	})
	if err == nil && digestBytes(out) != d {
		return nil, fmt.Errorf("%s came damaged", d)
	}
	return out, err
}

// patiently does what needs the door until it works or cannot work: a door may
// be away for a while.
func (s *Supervisor) patiently(ctx context.Context, do func() error) error {
	wait := 100 * time.Millisecond
	for {
		err := do()
		later := errors.Is(err, mlaas.ErrUnavailable) || errors.Is(err, mlaas.ErrTooMany) || errors.Is(err, mlaas.ErrDisk)
		if err == nil || ctx.Err() != nil || !later {
			return err
		}
		s.Log.Debug("the door does not answer", "error", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// pause waits, or returns the reason why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// tree fetches the description of a folder.
func (s *Supervisor) tree(ctx context.Context, d mlaas.Digest) (t mlaas.Tree, err error) {
	data, err := s.blobBytes(ctx, d, maxTree)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("%s is not a folder: %w", d, err)
	}
	for _, f := range t.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return t, mlaas.Invalid("path", "a path inside the folder", f.Path)
		}
	}
	return t, nil
}

// noRoom reports whether an error says that a disk is full.
func noRoom(err error) bool {
	return errors.Is(err, mlaas.ErrDisk) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// roomily does what needs room on this machine's disk, again and again until
// there is some: a disk that is full for a while is no fault of the program,
// which waits for it, and says so.
func (s *Supervisor) roomily(ctx context.Context, do func() error) error {
	wait := 250 * time.Millisecond
	for {
		err := do()
		if !noRoom(err) || ctx.Err() != nil {
			return err
		}
		s.say("waiting for room on the disk of its machine: " + err.Error())
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// fetchFolder puts the files of the tree d into the folder dir, which is there
// and empty, and returns the tree.
func (s *Supervisor) fetchFolder(ctx context.Context, d mlaas.Digest, dir string, writable bool) (mlaas.Tree, error) {
	t, err := s.tree(ctx, d)
	if err != nil {
		return t, err
	}
	return t, s.roomily(ctx, func() error {
		err := s.fetchTree(ctx, t, dir, writable)
		if noRoom(err) { // what came of it is taken away again, for the next try
			entries, e := os.ReadDir(dir)
			for _, entry := range entries {
				e = errors.Join(e, os.RemoveAll(filepath.Join(dir, entry.Name())))
			}
			if e != nil {
				return e
			}
		}
		return err
	})
}

// fetchTree puts the files of a tree into the folder dir, which is there.
// writable files can be changed by the program's user.
func (s *Supervisor) fetchTree(ctx context.Context, t mlaas.Tree, dir string, writable bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	made := map[string]bool{".": true}
	for _, f := range t.Files {
		if err := s.folders(root, path.Dir(f.Path), made, writable); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, f := range t.Files {
		g.Go(func() error {
			err := s.fetchFile(ctx, root, f, writable)
			if err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *Supervisor) folders(root *os.Root, dir string, made map[string]bool, writable bool) error {
	if made[dir] {
		return nil
	}
	if err := s.folders(root, path.Dir(dir), made, writable); err != nil {
		return err
	}
	made[dir] = true
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.give(root, dir, writable)
}

func (s *Supervisor) give(root *os.Root, name string, writable bool) error {
	if s.Owner == 0 || !writable {
		return nil
	}
	return root.Lchown(name, s.Owner, s.Owner)
}

func (s *Supervisor) fetchFile(ctx context.Context, root *os.Root, f mlaas.File, writable bool) error {
	mode := fs.FileMode(0o444)
	if writable {
		mode = 0o644
	}
	if f.Exec {
		mode |= 0o111
	}
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	h, at := sha256.New(), int64(0)
	err = s.patiently(ctx, func() error {
		in, err := s.Door.Get(ctx, f.Digest, at)
		if err != nil {
			return err
		}
		defer in.Close()
		n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(netReader{in}, f.Size-at+1))
		at += n
		return err
	})
	switch {
	case err != nil:
		return err
	case digestOf(h) != f.Digest:
		return fmt.Errorf("it came damaged: %d bytes instead of %d", at, f.Size)
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	if s.Owner != 0 && writable {
		return out.Chown(s.Owner, s.Owner)
	}
	return nil
}

// A netReader tells a connection that broke from a disk that is full.
type netReader struct{ r io.Reader }

func (n netReader) Read(p []byte) (int, error) {
	c, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", mlaas.ErrUnavailable, err)
	}
	return c, err
}

// shared returns a folder of the machine's cache, making it once for all
// replicas that ask for it at the same time.
func (s *Supervisor) shared(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	if err := os.MkdirAll(s.DataDir, 0o755); err != nil {
		return "", err
	}
	dir := filepath.Join(s.DataDir, name)
	if used(dir) {
		return dir, nil
	}
	lock, err := waitLock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if used(dir) {
		return dir, nil
	}
	temp := dir + ".tmp"
	if err := os.RemoveAll(temp); err != nil { // of one that was killed
		return "", err
	}
	if err := os.Mkdir(temp, 0o755); err != nil {
		return "", err
	}
	if err := fill(temp); err != nil {
		os.RemoveAll(temp)
		return "", err
	}
	return dir, os.Rename(temp, dir)
}

// used reports whether dir is there, and says when it was used last.
func used(dir string) bool {
	now := time.Now()
	return os.Chtimes(dir, now, now) == nil
}

func waitLock(ctx context.Context, path string) (*os.File, error) {
	if f, err := lockFile(path, false); err == nil {
		return f, nil
	}
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() {
		f, err := lockFile(path, true)
		got <- result{f, err}
	}()
	select {
	case r := <-got:
		return r.f, r.err
	case <-ctx.Done():
		go func() { // the lock comes when its holder ends
			if r := <-got; r.err == nil {
				r.f.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// data makes $MLAAS_DATA/NAME and returns what else the program must see: the
// folder in the machine's cache that the name leads to.
func (s *Supervisor) data(ctx context.Context, d mlaas.DataTree, getenv func(string) string) (see string, err error) {
	var dir string
	in := "" // of dir
	if d.Tree != "" {
		dir, err = s.shared(ctx, strings.ReplaceAll(string(d.Tree), ":", "-"), func(dir string) error {
			t, err := s.tree(ctx, d.Tree)
			if err != nil {
				return err
			}
			s.say(fmt.Sprintf("fetching data %s: %d files", d.Name, len(t.Files)))
			return s.fetchTree(ctx, t, dir, false)
		})
	} else {
		dir, err = s.source(ctx, d, getenv)
		in = sourceFiles
	}
	if err != nil {
		return "", fmt.Errorf("data %s: %w", d.Name, err)
	}
	if !filepath.IsLocal(d.Name) {
		return "", mlaas.Invalid("data.name", "a plain name", d.Name)
	}
	return dir, os.Symlink(filepath.Join(dir, in), filepath.Join(s.Folder, DataDir, d.Name))
}

// What is in the folder of a source.
const (
	sourceFiles = "files"
	sourceAbout = "fetched.json"
)

// source fetches data that may be something else tomorrow: once for each run,
// so that all its replicas see the same, and what it was is told to the
// platform.
func (s *Supervisor) source(ctx context.Context, d mlaas.DataTree, getenv func(string) string) (string, error) {
	name := digestBytes([]byte(string(s.Fence.Run) + " " + d.Source))
	dir, err := s.shared(ctx, "source-"+string(name[7:]), func(dir string) error {
		ctx, cancel := context.WithTimeoutCause(ctx, sourceTime, fmt.Errorf("it took more than %s", sourceTime))
		defer cancel()
		files := filepath.Join(dir, sourceFiles)
		if err := os.Mkdir(files, 0o755); err != nil {
			return err
		}
		f := &source.Fetcher{Getenv: getenv, Most: maxSource, Files: maxTreeFiles, Guard: s.reach().Transport, Say: func(text string) { s.say("data " + d.Name + ": " + text) }}
		var got mlaas.Fetched
		var err error
		switch {
		case strings.HasPrefix(d.Source, "https://"), strings.HasPrefix(d.Source, "http://"):
			s.say("fetching data " + d.Name + " from " + hostOf(d.Source))
			got, err = s.download(ctx, d.Source, files)
		case strings.HasPrefix(d.Source, "s3://"):
			got, err = f.Objects(ctx, d.Source, files)
		case strings.HasPrefix(d.Source, "git+https://"):
			got, err = f.Commit(ctx, d.Source, files, filepath.Join(dir, "git"), d.Was)
		default:
			err = mlaas.Invalid("source", "dataset:NAME@VERSION, https://, s3:// or git+https://", d.Source)
		}
		if err == nil && d.Was != nil {
			err = source.Same(*d.Was, got)
		}
		if err != nil {
			return err
		}
		return WriteFile(filepath.Join(dir, sourceAbout), got)
	})
	if err != nil {
		return "", err
	}
	var got mlaas.Fetched
	text, err := os.ReadFile(filepath.Join(dir, sourceAbout))
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		return "", fmt.Errorf("what was fetched is not known any more: %w", err)
	}
	got.Name = d.Name
	s.fetched(got)
	return dir, nil
}

// fetched tells the platform what a source gave.
func (s *Supervisor) fetched(got mlaas.Fetched) {
	what := fmt.Sprintf("data %s is %s: %d files of %s, %s", got.Name, got.Source, got.Files, got.Size, got.Tree)
	if got.Commit != "" {
		what += ", commit " + got.Commit
	}
	s.tell(what)
	s.setPhase(func(p *mlaas.Phase) { p.Data = append(slices.Clone(p.Data), got) })
}

func hostOf(source string) string {
	u, err := url.Parse(source)
	if err != nil {
		return source
	}
	return u.Host
}

// download fetches a URL that a user named into dir. It may not lead into the
// platform's own network.
func (s *Supervisor) download(ctx context.Context, from, dir string) (got mlaas.Fetched, err error) {
	u, err := url.Parse(from)
	if err != nil {
		return got, mlaas.Invalid("source", "a URL", from)
	}
	name := path.Base(path.Clean("/" + u.Path))
	if name == "/" || name == "." || strings.ContainsAny(name, "\\\x00") {
		name = "data"
	}
	client, err := s.guarded(u)
	if err != nil {
		return got, err
	}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return got, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return got, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return got, fmt.Errorf("%s answers %s", u.Host, answer.Status)
	}
	out, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return got, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(answer.Body, maxSource+1))
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil && n > maxSource {
		err = fmt.Errorf("it is larger than %s: %w", mlaas.Bytes(maxSource), mlaas.ErrTooLarge)
	}
	if err != nil {
		return got, err
	}
	got.Source, got.ETag = from, strings.ToValidUTF8(answer.Header.Get("ETag"), "")
	return got, source.Tree(&got, []mlaas.File{{Path: name, Digest: digestOf(h), Size: n}})
}

// reach is where data may come from.
func (s *Supervisor) reach() source.Reach { return source.Reach{Private: s.PrivateData} }

// guarded is a client that reaches public addresses only, as reach has it.
func (s *Supervisor) guarded(u *url.URL) (*http.Client, error) {
	t, err := s.reach().Transport(u)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("it redirects more than 5 times")
		}
		if r.URL.Scheme != via[0].URL.Scheme {
			return fmt.Errorf("it redirects from %s to %s", via[0].URL.Scheme, r.URL.Scheme)
		}
		return s.reach().May(r.URL)
	}}, nil
}

// keep stores the folder named dir inside root as a tree, and returns its name
// and size. What is not a plain file is left out: the program made this folder
// and could lead us anywhere.
func (s *Supervisor) keep(ctx context.Context, root *os.Root, dir string, limit int64, files int) (d mlaas.Digest, size mlaas.Bytes, skipped int, err error) {
	inside, err := root.OpenRoot(dir)
	if err != nil {
		return "", 0, 0, err
	}
	defer inside.Close()
	t := mlaas.Tree{Files: []mlaas.File{}}
	err = fs.WalkDir(inside.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			skipped++
			return nil
		}
		if len(t.Files) == files {
			return fmt.Errorf("more than %d files: %w", files, mlaas.ErrTooLarge)
		}
		f, err := s.keepFile(ctx, inside, p, limit-int64(size))
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		size += mlaas.Bytes(f.Size)
		t.Files = append(t.Files, f)
		return nil
	})
	if err != nil {
		return "", 0, 0, err
	}
	slices.SortFunc(t.Files, func(a, b mlaas.File) int { return strings.Compare(a.Path, b.Path) })
	data, err := json.Marshal(t)
	if err != nil {
		return "", 0, 0, err
	}
	d = digestBytes(data)
	return d, size, skipped, s.upload(ctx, d, int64(len(data)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}

func (s *Supervisor) keepFile(ctx context.Context, root *os.Root, p string, room int64) (out mlaas.File, err error) {
	open := func() (*os.File, error) {
		// A file may become a pipe between two looks: do not wait for its writer.
		f, err := root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
			f.Close()
			return nil, errors.Join(err, errors.New("it is no plain file any more"))
		}
		return f, nil
	}
	f, err := open()
	if err != nil {
		return out, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return out, err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, room+1))
	if err != nil {
		return out, err
	}
	if n > room {
		return out, fmt.Errorf("the folder is too large to be kept: %w", mlaas.ErrTooLarge)
	}
	out = mlaas.File{Path: p, Digest: digestOf(h), Size: n, Exec: info.Mode()&0o111 != 0}
	return out, s.upload(ctx, out.Digest, n, func() (io.ReadCloser, error) { return open() })
}

// upload stores bytes that the door does not have yet.
func (s *Supervisor) upload(ctx context.Context, d mlaas.Digest, size int64, open func() (io.ReadCloser, error)) error {
	return s.patiently(ctx, func() error {
		if has, err := s.Door.Has(ctx, d); err != nil || has {
			return err
		}
		r, err := open()
		if err != nil {
			return err
		}
		defer r.Close()
		return s.Door.Put(ctx, d, io.LimitReader(r, size), size)
	})
}
