package sqlitestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A disk that is really full: a small one in memory, for whoever may mount.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no right to mount: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	s := open(t, filepath.Join(dir, "db"), Options{})
	defer s.Close()
	kept := 0
	var err error
	for ; err == nil && kept < 1000; kept++ {
		err = s.Commit(t.Context(), store.Batch{Put: []store.Row{row(fmt.Sprint(kept), 0, strings.Repeat("x", 50_000))}})
	}
	kept--
	if !errors.Is(err, mlaas.ErrDisk) {
		t.Fatalf("after %d records: %v, want disk full", kept, err)
	}
	t.Logf("after %d records: %v", kept, err)
	// Nothing can be written, everything can be read.
	large := os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 4<<20), 0o600)
	if large == nil {
		t.Fatal("the disk is not full")
	}
	for i := range kept {
		if _, err := s.Get(t.Context(), row(fmt.Sprint(i), 0, "").Key); err != nil {
			t.Error(err)
		}
	}
	if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("more", 0, strings.Repeat("x", 50_000))}}); !errors.Is(err, mlaas.ErrDisk) {
		t.Errorf("commit: %v", err)
	}
	// Room: it goes on by itself.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	put(t, s, row("more", 0, strings.Repeat("x", 50_000)))
	s.Close()
	s = open(t, filepath.Join(dir, "db"), Options{})
	defer s.Close()
	st, err := s.Stats(t.Context())
	if err != nil || st.Records != int64(kept)+1 {
		t.Errorf("%d records (%v), want %d", st.Records, err, kept+1)
	}
}

// A store that was closed, or killed, on a disk that has no page left then is
// opened, and has what it had.
func TestOpenedWhereTheDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("no right to mount: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	path := filepath.Join(dir, "db")
	s := open(t, path, Options{})
	put(t, s, row("kept", 0, "x"))
	s.Close()
	rest := filepath.Join(dir, "rest")
	if err := os.WriteFile(rest, make([]byte, 32<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v: the disk is not full", err)
	}
	s = open(t, path, Options{})
	if _, err := s.Get(t.Context(), row("kept", 0, "").Key); err != nil {
		t.Error(err)
	}
	put(t, s, row("more", 0, "x")) // as whoever makes room
	if _, err := os.Stat(path + reserveSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the room is there still: %v", err)
	}
	if err := os.Remove(rest); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path, Options{})
	defer s.Close()
	if info, err := os.Stat(path + reserveSuffix); err != nil || info.Size() != reserveSize {
		t.Errorf("with room again, none is kept: %v", err)
	}
}
