package series_test

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// A disk that is really full: what was acknowledged stays, nothing half-done
// counts, and it goes on where there is room again.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small disk cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := open(t, &series.Store{Dir: filepath.Join(dir, "series")})
	w := fence("worker-0", 1)
	text := strings.Repeat("x", 3000)
	var n int64
	fill := func() {
		t.Helper()
		for range 1000 {
			err := s.Append(t.Context(), logFrame(w, n+1, text, text))
			if errors.Is(err, mlaas.ErrDisk) {
				return
			}
			if err != nil {
				t.Fatalf("it says %v, want disk_full", err)
			}
			n += 2
		}
		t.Fatal("the disk is never full")
	}
	check := func(s *series.Store) {
		t.Helper()
		if log, _ := s.Durable(w); log != n {
			t.Errorf("durable is %d, want %d", log, n)
		}
		got := lines(t, s, series.LineQuery{})
		if int64(len(got)) != n || got[n-1].Cursor != n || got[n-1].Text != text {
			t.Errorf("there are %d lines, want %d", len(got), n)
		}
	}
	fill()
	fill() // again, where it is full already
	check(s)
	// Room for a few more.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=320k"); err != nil {
		t.Fatal(err)
	}
	before := n
	fill()
	if n == before {
		t.Error("with room it still says that the disk is full")
	}
	check(s)
	s.Close()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	s = again(t, s)
	check(s)
	seal(t, s)
	check(s)
	add(t, s, logFrame(w, n+1, text))
	n++
	check(s)
}
