package series_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// A snapshot that is taken while lines come and chunks are made and replaced
// has every line that was acknowledged before, without a gap, and every blob
// that it names stays until it is released.
func TestSnapshot(t *testing.T) {
	blobs := newMemory()
	s := open(t, &series.Store{Blob: blobs, SegmentBytes: 4 << 10})
	stop := make(chan struct{})
	var all sync.WaitGroup
	var acked [3]atomic.Int64
	more := make(chan struct{})
	for w := range acked {
		all.Go(func() {
			for n := int64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.Append(t.Context(), logFrame(fence(fmt.Sprintf("worker-%d", w), 1), n, fmt.Sprint("line ", n))); err != nil {
					t.Error(err)
					return
				}
				acked[w].Store(n)
				select {
				case more <- struct{}{}:
				default:
				}
			}
		})
	}
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := s.Flush(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 10 {
		for range 50 {
			<-more
		}
		var before [3]int64
		for w := range acked {
			before[w] = acked[w].Load()
		}
		dir := t.TempDir()
		named, release, err := s.Snapshot(t.Context(), func(name string, size int64, data io.Reader) error {
			at, err := series.Restored(name)
			if err != nil {
				return err
			}
			text, err := io.ReadAll(data)
			if err != nil || int64(len(text)) != size {
				t.Errorf("%s has %d bytes, not %d: %v", name, len(text), size, err)
			}
			path := filepath.Join(dir, filepath.FromSlash(at))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			return os.WriteFile(path, text, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 { // much happens while it is copied
			<-more
		}
		copied := newMemory()
		blobs.mu.Lock()
		for _, d := range named {
			if blobs.blobs[d] == nil {
				t.Errorf("blob %s is gone while it is copied", d)
			}
			copied.blobs[d] = blobs.blobs[d]
		}
		blobs.mu.Unlock()
		release()
		c := &series.Store{Dir: dir, Blob: copied}
		if err := c.Open(); err != nil {
			t.Fatal(err)
		}
		for w := range before {
			lines, err := c.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run", Replica: fmt.Sprintf("worker-%d", w), From: 1, Limit: 1_000_000})
			if err != nil || int64(len(lines)) < before[w] {
				t.Errorf("worker-%d: %d lines, of %d that were acknowledged: %v", w, len(lines), before[w], err)
			}
			for i, l := range lines {
				if l.Seq != int64(i+1) || l.Text != fmt.Sprint("line ", i+1) {
					t.Fatalf("worker-%d: line %d is %d %q", w, i+1, l.Seq, l.Text)
				}
			}
		}
		c.Close()
	}
	close(stop)
	all.Wait()
	broken := errors.New("the disk is full")
	if _, _, err := s.Snapshot(t.Context(), func(string, int64, io.Reader) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of who copies becomes %v", err)
	}
	seal(t, s) // nothing is held any more: what is replaced goes
	if n := len(slices.Collect(maps.Keys(blobs.blobs))); n == 0 {
		t.Error("there are no blobs")
	}
}

func TestRestored(t *testing.T) {
	for _, name := range []string{"0000000000000007.seg", "runs/default/01abc.json"} {
		if at, err := series.Restored(name); err != nil || at != name {
			t.Errorf("%s: %q, %v", name, at, err)
		}
	}
	for _, name := range []string{"", "lock", "7.seg", "runs/x.json", "runs/../x/y.json", "../runs/default/r.json", "/runs/default/r.json", "runs/default/r.json.tmp", "runs/default//r.json", "x/0000000000000007.seg", "runs/default/../../r.json", "runs/de fault/r.json"} {
		if at, err := series.Restored(name); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%q: %q, %v", name, at, err)
		}
	}
}
