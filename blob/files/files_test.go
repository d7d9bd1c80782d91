package files_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/blobtest"
	"mlaas.dev/mlaas/blob/files"
)

func open(t *testing.T, dir string) *files.Files {
	t.Helper()
	f, err := files.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Driver { return open(t, t.TempDir()) })
}

func TestFlippedBit(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	digest, err := blob.PutBytes(t.Context(), f, []byte("a model of great value"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, string(digest[7:9]), string(digest[7:]))
	if err := os.WriteFile(at, []byte("a model of great valuf"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		r, err := f.Get(t.Context(), digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	if err := read(); !errors.Is(err, blob.ErrDamaged) || err.Error() != "blob "+string(digest)+" is damaged on disk: internal" {
		t.Errorf("reading it says %v", err)
	}
	if _, err := blob.PutBytes(t.Context(), f, []byte("a model of great value")); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Errorf("after it was stored again: %v", err)
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	want := func(f *files.Files, n mlaas.Bytes) {
		t.Helper()
		if got := f.Usage(); got != n {
			t.Errorf("usage is %d, want %d", got, n)
		}
	}
	want(f, 0)
	for range 2 {
		if _, err := blob.PutBytes(t.Context(), f, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		want(f, 1000)
	}
	small, err := blob.PutBytes(t.Context(), f, []byte("abc"))
	if err != nil {
		t.Fatal(err)
	}
	want(f, 1003)
	want(open(t, dir), 1003)
	for range 2 {
		if err := f.Delete(t.Context(), small); err != nil {
			t.Fatal(err)
		}
		want(f, 1000)
	}
}

func TestAbandoned(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	for name, age := range map[string]time.Duration{"old": 48 * time.Hour, "new": time.Minute} {
		p := filepath.Join(dir, "tmp", name)
		if err := os.WriteFile(p, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, time.Now().Add(-age), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	f := open(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "tmp", "old")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file of two days ago is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tmp", "new")); err != nil {
		t.Errorf("a temporary file of a minute ago may be in use: %v", err)
	}
	if got := f.Usage(); got != 0 {
		t.Errorf("temporary files count %d", got)
	}
}

// Where there is no room, nothing half-done stays and the next Put works.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	_, _, err := f.Put(t.Context(), io.MultiReader(bytes.NewReader(make([]byte, 1000)), fails{syscall.ENOSPC}), "")
	if !errors.Is(err, mlaas.ErrDisk) {
		t.Errorf("the error is %v, want disk_full", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	if _, err := blob.PutBytes(t.Context(), f, []byte("there is room again")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

type fails struct{ err error }

func (f fails) Read([]byte) (int, error) { return 0, f.err }

func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	for _, part := range []string{"00", "ab"} {
		if err := os.Mkdir(filepath.Join(dir, part), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"00/README", "ab/" + strings.Repeat("0", 64)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("not ours"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := f.Each(t.Context(), func(i blob.Info) error {
		t.Errorf("it lists %s", i.Digest)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
