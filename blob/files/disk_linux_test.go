package files_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// A disk that is really full: nothing half-done stays, and what goes makes room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("a small disk cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	f := open(t, dir)
	first, err := blob.PutBytes(t.Context(), f, bytes.Repeat([]byte("a"), 64<<10))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := blob.PutBytes(t.Context(), f, bytes.Repeat([]byte("b"), 80<<10)); !errors.Is(err, mlaas.ErrDisk) {
			t.Fatalf("it says %v, want disk_full", err)
		}
	}
	if used := f.Usage(); used != 64<<10 {
		t.Errorf("it uses %d", used)
	}
	if err := f.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.PutBytes(t.Context(), f, bytes.Repeat([]byte("b"), 80<<10)); err != nil {
		t.Errorf("with room it says %v", err)
	}
}
