// Package source fetches what a job names as its data outside the platform:
// objects of a bucket, a folder of a commit. A user named the server and
// strangers filled it, so neither is trusted: connections are made by who made
// the Fetcher, and files are written inside one folder whatever they are
// called.
package source

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// A Fetcher fetches sources of one job.
type Fetcher struct {
	// Guard makes connections for requests to a URL, to where data may come
	// from and nowhere else.
	Guard func(*url.URL) (*http.Transport, error)

	Getenv func(string) string // the secrets and variables of the job
	Say    func(string)        // takes a sentence for the user
	Most   mlaas.Bytes         // of one source
	Files  int                 // of one source
}

// tooMuch says that a source is over a limit.
func (f *Fetcher) tooMuch(files int, size mlaas.Bytes) error {
	switch {
	case size > f.Most:
		return fmt.Errorf("it is larger than %s: %w", f.Most, mlaas.ErrTooLarge)
	case files > f.Files:
		return fmt.Errorf("it has more than %d files: %w", f.Files, mlaas.ErrTooLarge)
	}
	return nil
}

// Tree fills in what fetched files are.
func Tree(got *mlaas.Fetched, files []mlaas.File) error {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b mlaas.File) int { return strings.Compare(a.Path, b.Path) })
	data, err := json.Marshal(mlaas.Tree{Files: append([]mlaas.File{}, files...)})
	if err != nil {
		return err
	}
	got.Tree, got.Files, got.Size = blob.Name(data), len(files), 0
	for _, file := range files {
		got.Size += mlaas.Bytes(file.Size)
	}
	return nil
}

// Same reports whether a source gave what it gave before.
func Same(was, is mlaas.Fetched) error {
	if was.Tree == is.Tree {
		return nil
	}
	return fmt.Errorf("%s changed since this run fetched it first: it had %d files of %s, and now has %d of %s that are not the same; start a new run to take it as it is now: %w",
		is.Source, was.Files, was.Size, is.Files, is.Size, mlaas.ErrConflict)
}

// A folder is where files are written, by several at once.
type folder struct {
	*os.Root
	mu   sync.Mutex
	made map[string]bool
}

func openFolder(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	return &folder{Root: root, made: map[string]bool{".": true}}, err
}

// file makes a new file, and the folders that it is in.
func (d *folder) file(name string) (*os.File, error) {
	if err := d.in(name); err != nil {
		return nil, err
	}
	f, err := d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return f, clash(name, err)
}

// in makes the folders that a file is in.
func (d *folder) in(name string) error {
	if err := blob.CheckPath(name); err != nil {
		return err
	}
	dir := path.Dir(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.made[dir] {
		return nil
	}
	d.made[dir] = true
	return clash(name, d.MkdirAll(dir, 0o755))
}

// clash says why a file cannot be where it should.
func clash(name string, err error) error {
	if errors.Is(err, fs.ErrExist) || err != nil && strings.Contains(err.Error(), "not a directory") {
		return mlaas.Invalid("path", "names that can be files of one folder", name)
	}
	return err
}

// A written file is counted and summed up while it is written.
type written struct {
	f   *os.File
	sum hash.Hash
	n   int64
}

func newWritten(f *os.File) *written { return &written{f: f, sum: sha256.New()} }

func (w *written) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.sum.Write(p[:n])
	w.n += int64(n)
	return n, err
}

// done ends a file that has everything.
func (w *written) done(name string, exec bool) (mlaas.File, error) {
	mode := fs.FileMode(0o444)
	if exec {
		mode = 0o555
	}
	err := w.f.Chmod(mode)
	if e := w.f.Close(); err == nil {
		err = e
	}
	return mlaas.File{Path: name, Size: w.n, Exec: exec, Digest: blob.Sum(w.sum.Sum(nil))}, err
}
