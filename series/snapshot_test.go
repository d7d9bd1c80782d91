package series_test

import (
	"context"
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
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
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
		copied, err := s.Snapshot(t.Context(), func(name string, size int64, data io.Reader) error {
			_, err := series.Restored(name)
			if err != nil {
				return err
			}
			text, err := io.ReadAll(data)
			if err != nil || int64(len(text)) != size {
				t.Errorf("%s has %d bytes, not %d: %v", name, len(text), size, err)
			}
			path := filepath.Join(dir, filepath.FromSlash(name))
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
		place := newMemory()
		blobs.mu.Lock()
		for _, d := range copied.Blobs {
			if blobs.blobs[d] == nil {
				t.Errorf("blob %s is gone while it is copied", d)
			}
			place.blobs[d] = blobs.blobs[d]
		}
		blobs.mu.Unlock()
		copied.Release()
		c := &series.Store{Dir: dir, Blob: place}
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
	if _, err := s.Snapshot(t.Context(), func(string, int64, io.Reader) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of who copies becomes %v", err)
	}
	seal(t, s) // nothing is held any more: what is replaced goes
	if n := len(slices.Collect(maps.Keys(blobs.blobs))); n == 0 {
		t.Error("there are no blobs")
	}
}

func TestRestored(t *testing.T) {
	for name, want := range map[string]bool{
		"0000000000000007.seg": false, "runs/default/01abc.json": false,
		"local/seg/00000000000000000007-0000000001-00000000000000000006": true, "runs/seg/00000000000000000007-0000000001-00000000000000000006": true,
	} {
		if object, err := series.Restored(name); err != nil || object != want {
			t.Errorf("%s: %v, %v", name, object, err)
		}
	}
	for _, name := range []string{
		"", "lock", "7.seg", "runs/x.json", "runs/../x/y.json", "../runs/default/r.json", "/runs/default/r.json", "runs/default/r.json.tmp", "runs/default//r.json", "x/0000000000000007.seg", "runs/default/../../r.json", "runs/de fault/r.json",
		"../seg/00000000000000000007-0000000001-00000000000000000006", "/seg/00000000000000000007-0000000001-00000000000000000006", "local/seg/7-1-6", "local/seg/../00000000000000000007-0000000001-00000000000000000006", "a/b/seg/00000000000000000007-0000000001-00000000000000000006",
	} {
		if object, err := series.Restored(name); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%q: %v, %v", name, object, err)
		}
	}
}

// A slow place for objects does something before each list and each object
// that is got.
type slow struct {
	series.Objects
	step func()
}

func (s slow) List(ctx context.Context, prefix string) ([]series.Object, error) {
	s.step()
	return s.Objects.List(ctx, prefix)
}

func (s slow) Get(ctx context.Context, key string) ([]byte, error) {
	s.step()
	return s.Objects.Get(ctx, key)
}

// A snapshot of what is in objects, taken from afar while lines and points
// come, segments are sealed, runs go from shard to shard and others are
// deleted: all that was acknowledged before is in it, no run has a gap, and
// what was deleted is gone. It is so in a folder and in objects.
func TestSnapshotAfar(t *testing.T) {
	db, objects, blobs := newRecords(t), newBucket(), newMemory()
	var shards [2]*series.Store
	for i := range shards {
		shards[i] = &series.Store{Objects: objects, DB: db, Blob: blobs, Shard: fmt.Sprint("shard", i), SegmentBytes: 4 << 10, Every: time.Nanosecond}
		if err := shards[i].Open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { shards[i].Close() })
	}
	stop := make(chan struct{})
	more := make(chan struct{})
	goOn := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	said := func() { // nobody goes on before somebody looks
		select {
		case more <- struct{}{}:
		case <-stop:
		}
	}
	var all sync.WaitGroup
	// Runs that stay, and one that goes from shard to shard with each attempt.
	var acked [5]atomic.Int64
	for w := range acked {
		all.Go(func() {
			at, n, epoch, lines := w%2, int64(1), 1, int64(0)
			for goOn() {
				f := fence("worker-0", 1)
				f.Run, f.Epoch = mlaas.RunID(fmt.Sprint("run", w)), epoch
				if err := shards[at].Append(t.Context(), logFrame(f, n, fmt.Sprint("line ", lines+1)), pointFrame(f, n, pt("x", lines+1, 1))); err != nil {
					t.Error(err)
					return
				}
				n, lines = n+1, lines+1
				acked[w].Store(lines)
				said()
				if w == len(acked)-1 && lines%7 == 0 {
					if err := shards[at].Release(t.Context(), tenant, f.Run); err != nil {
						t.Error(err)
						return
					}
					at, n, epoch = 1-at, 1, epoch+1
				}
			}
		})
	}
	// Runs that are deleted.
	var deleted atomic.Int64
	all.Go(func() {
		for i := int64(0); goOn(); i++ {
			f := fence("worker-0", 1)
			f.Run = mlaas.RunID(fmt.Sprint("gone", i))
			if err := errors.Join(shards[0].Append(t.Context(), logFrame(f, 1, "gone")), shards[0].Delete(t.Context(), tenant, f.Run)); err != nil {
				t.Error(err)
				return
			}
			deleted.Store(i + 1)
			said()
		}
	})
	for _, s := range shards {
		all.Go(func() {
			for goOn() {
				if err := s.Flush(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// It asks nobody, and something happens between each step and the next.
	r := &series.Remote{DB: db, Objects: slow{objects, func() { <-more }}, Blob: blobs}
	sealed := func() (n int64) {
		t.Helper()
		all, err := store.Shards(db).All(t.Context(), store.Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, sh := range all {
			n += sh.Value.Sealed
		}
		return n
	}
	meanwhile := 0
	for round := range 8 {
		for range 150 {
			<-more
		}
		var before [len(acked)]int64
		for w := range acked {
			before[w] = acked[w].Load()
		}
		gone := deleted.Load()
		from := sealed()
		into := &series.Restoring{Dir: t.TempDir(), DB: newRecords(t), Blob: newMemory()}
		copied, err := r.Snapshot(t.Context(), func(name string, size int64, data io.Reader) error {
			return into.File(name, data)
		})
		if err != nil {
			t.Fatal(err)
		}
		if sealed() > from {
			meanwhile++
		}
		for range 100 {
			<-more
		}
		blobs.mu.Lock()
		for _, d := range copied.Blobs {
			if blobs.blobs[d] == nil {
				t.Errorf("blob %s is gone while it is copied", d)
			}
			into.Blob.(*memory).blobs[d] = blobs.blobs[d]
		}
		blobs.mu.Unlock()
		copied.Release()
		if err := store.Import(t.Context(), into.DB, copied.Records, nil); err != nil {
			t.Fatal(err)
		}
		folder := ""
		if round%2 == 0 {
			folder = t.TempDir()
		}
		if err := into.Finish(t.Context(), folder); err != nil {
			t.Fatal(err)
		}
		c := &series.Store{Dir: folder, Blob: into.Blob}
		if folder == "" {
			c = &series.Store{Objects: newBucket(), DB: into.DB, Blob: into.Blob, Shard: "another", Every: time.Nanosecond}
		}
		if err := c.Open(); err != nil {
			t.Fatal(err)
		}
		check := func(w int, more int64) {
			t.Helper()
			run := mlaas.RunID(fmt.Sprint("run", w))
			lines, err := c.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: run, From: 1, Limit: 1_000_000})
			if err != nil || int64(len(lines)) < before[w]+more {
				t.Fatalf("%s: %d lines, of %d that were acknowledged: %v", run, len(lines), before[w]+more, err)
			}
			for i, l := range lines {
				if l.Cursor != int64(i+1) || l.Seq != int64(i+1) || more == 0 && l.Text != fmt.Sprint("line ", i+1) {
					t.Fatalf("round %d, %s: line %d of %d is %d, %d %q, more %d", round, run, i+1, len(lines), l.Cursor, l.Seq, l.Text, more)
				}
			}
			points, err := c.RunPoints(t.Context(), tenant, run, 1, 1_000_000)
			if err != nil || int64(len(points)) < before[w] {
				t.Fatalf("%s: %d points, of %d that were acknowledged: %v", run, len(points), before[w], err)
			}
		}
		for w := range acked {
			check(w, 0)
			// The next attempt goes on there, and is there when it is opened again.
			f := fence("worker-0", 1)
			f.Run, f.Epoch = mlaas.RunID(fmt.Sprint("run", w)), 1_000_000
			if err := c.Append(t.Context(), logFrame(f, 1, "goes on")); err != nil {
				t.Fatal(err)
			}
		}
		for i := range gone {
			if log, _, err := c.LastCursor(t.Context(), tenant, mlaas.RunID(fmt.Sprint("gone", i))); err != nil || log != 0 {
				t.Fatalf("what was deleted has %d lines: %v", log, err)
			}
		}
		c.Close()
		if err := c.Open(); err != nil {
			t.Fatal(err)
		}
		for w := range acked {
			check(w, 1)
		}
		c.Close()
	}
	close(stop)
	all.Wait()
	if meanwhile < 4 {
		t.Errorf("in %d rounds something was sealed while it was copied: the test shows nothing", meanwhile)
	}
	for _, s := range shards { // what was left for the copies goes
		f := fence("worker-0", 1)
		f.Run = mlaas.RunID("of-" + s.Shard)
		add(t, s, logFrame(f, 1, "one more"))
		seal(t, s)
	}
	if n := objects.count(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
	if n, err := store.Copyings(db).All(t.Context(), store.Query{}); err != nil || len(n) != 0 {
		t.Errorf("copies are said to go on that are over: %v, %v", n, err)
	}
	broken := errors.New("the disk is full")
	add(t, shards[0], logFrame(fence("worker-9", 1), 1, "one more"))
	r.Objects = objects
	if _, err := r.Snapshot(t.Context(), func(string, int64, io.Reader) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of who copies becomes %v", err)
	}
}

// While a copy is made nothing is deleted that it may need; one whose maker
// died counts for a while only, and the next one clears it away.
func TestCopying(t *testing.T) {
	db, objects := newRecords(t), newBucket()
	s := onObjects.open(t, &series.Store{DB: db, Objects: objects, Every: time.Nanosecond})
	copies := store.Copyings(db)
	say := func(c store.Copying) {
		t.Helper()
		_, rev, err := copies.Get(t.Context(), "", c.ID)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			t.Fatal(err)
		}
		if err := db.Commit(t.Context(), store.Batch{Put: []store.Row{copies.Put(c, rev)}}); err != nil {
			t.Fatal(err)
		}
	}
	blobs := s.Blob.(*memory)
	now := time.Now()
	for i, tt := range []struct {
		copy          store.Copying
		objects, more int // left; blobs that come
	}{
		{store.Copying{ID: "alive", Objects: true, Until: now.Add(time.Minute)}, 1, 1},
		{store.Copying{ID: "alive", Until: now.Add(time.Minute)}, 0, 1}, // it has the objects
		{store.Copying{ID: "alive", Objects: true, Until: now.Add(-time.Hour)}, 0, 0},
	} {
		say(tt.copy)
		before := len(blobs.blobs)
		add(t, s, logFrame(fence("worker-0", 1), int64(i+1), "a line")) // in one chunk with those before
		seal(t, s)
		if n, more := objects.count(), len(blobs.blobs)-before; n != tt.objects || more != tt.more {
			t.Errorf("with %+v %d objects are left, and %d blobs came", tt.copy, n, more)
		}
	}
	c, err := (&series.Remote{DB: db, Objects: objects, Blob: blobs}).Snapshot(t.Context(), func(string, int64, io.Reader) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	all, err := copies.All(t.Context(), store.Query{})
	if err != nil || len(all) != 1 || all[0].Value.ID == "alive" || all[0].Value.Objects {
		t.Errorf("the copies are %+v, %v", all, err)
	}
	c.Release()
	c.Release()
	if all, err := copies.All(t.Context(), store.Query{}); err != nil || len(all) != 0 {
		t.Errorf("the copies are %+v, %v", all, err)
	}
}
