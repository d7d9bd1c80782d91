package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A disk that something keeps busy is given up after a while, and who keeps it
// is known.
func TestDiskIsGivenUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a disk image")
	}
	dir := t.TempDir()
	d, err := makeDisk(filepath.Join(dir, "images"), filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.Create(filepath.Join(d.Mount, "kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if says := d.holders(); !strings.Contains(says, "is "+kept.Name()) {
		t.Errorf("who keeps it busy: %s", says)
	}
	if err := d.unmount(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept.Name()); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
