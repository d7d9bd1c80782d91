package series_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mlaas.dev/mlaas/store"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// A bucket is objects in memory. What it does to order is said by around,
// which is called before and after each change.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	around  func(op, key string, done bool) error // nil: nothing
}

func newBucket() *bucket { return &bucket{objects: map[string][]byte{}} }

func (b *bucket) step(op, key string, done bool) error {
	b.mu.Lock()
	f := b.around
	b.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op, key, done)
}

func (b *bucket) Put(_ context.Context, key string, data []byte) error {
	if err := b.step("put", key, false); err != nil {
		return err
	}
	b.mu.Lock()
	b.objects[key] = bytes.Clone(data)
	b.mu.Unlock()
	return b.step("put", key, true)
}

func (b *bucket) Get(_ context.Context, key string) ([]byte, error) {
	if err := b.step("get", key, false); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.objects[key]
	if !ok {
		return nil, mlaas.ErrNotFound
	}
	return bytes.Clone(data), nil
}

func (b *bucket) List(_ context.Context, prefix string) (found []series.Object, err error) {
	if err := b.step("list", prefix, false); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if strings.HasPrefix(key, prefix) {
			found = append(found, series.Object{Key: key, Size: int64(len(b.objects[key]))})
		}
	}
	return found, nil
}

func (b *bucket) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		if err := b.step("delete", key, false); err != nil {
			return err
		}
		b.mu.Lock()
		delete(b.objects, key)
		b.mu.Unlock()
		if err := b.step("delete", key, true); err != nil {
			return err
		}
	}
	return nil
}

// fail has operations of that kind fail from now on, before or after they have
// done what they do; the kind "" is none.
func (b *bucket) fail(op string, after bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.around = nil
	if op != "" {
		b.around = func(o, _ string, done bool) error {
			if o == op && done == after {
				return errors.New("the network is away")
			}
			return nil
		}
	}
}

// count is how many objects there are.
func (b *bucket) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.objects)
}

// A fuse lets so many steps happen, over objects, records and blobs; then
// everything fails, as when a process dies or its network is cut.
type fuse struct {
	mu    sync.Mutex
	left  int
	blown bool
}

var errFuse = fmt.Errorf("everything is away: %w", mlaas.ErrUnavailable)

func (f *fuse) step() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left < 0 {
		f.blown = true
		return errFuse
	}
	return nil
}

// fusedRecords are records that a fuse is before and behind.
type fusedRecords struct {
	store.Driver
	fuse *fuse
}

func (r fusedRecords) Get(ctx context.Context, k store.Key) (store.Row, error) {
	if err := r.fuse.step(); err != nil {
		return store.Row{}, err
	}
	return r.Driver.Get(ctx, k)
}

func (r fusedRecords) Commit(ctx context.Context, b store.Batch) error {
	err := r.fuse.step()
	if err == nil {
		err = r.Driver.Commit(ctx, b)
	}
	return errors.Join(err, r.fuse.step())
}

type fusedBlobs struct {
	*memory
	fuse *fuse
}

func (b fusedBlobs) Put(ctx context.Context, r io.Reader, d mlaas.Digest) (mlaas.Digest, int64, error) {
	if err := b.fuse.step(); err != nil {
		return "", 0, err
	}
	d, n, err := b.memory.Put(ctx, r, d)
	return d, n, errors.Join(err, b.fuse.step())
}

func (b fusedBlobs) Delete(ctx context.Context, d mlaas.Digest) error {
	if err := b.fuse.step(); err != nil {
		return err
	}
	return errors.Join(b.memory.Delete(ctx, d), b.fuse.step())
}

// Wherever it is cut off, before or after anything that it does to objects,
// records and blobs: what was acknowledged is there for the next owner, once,
// and what is sent again is known.
func TestCutAnywhere(t *testing.T) {
	db, at := newRecords(t), 0
	for done := false; !done; at++ {
		f, b, place := &fuse{left: 1 << 30}, newBucket(), newMemory()
		b.around = func(string, string, bool) error { return f.step() }
		shard := fmt.Sprint("shard", at)
		s := &series.Store{Objects: b, DB: fusedRecords{db, f}, Blob: fusedBlobs{place, f}, Shard: shard, SegmentBytes: 400, Every: time.Nanosecond}
		if err := s.Open(); err != nil {
			t.Fatal(err)
		}
		f.left = at
		// What a run says, sealing, handing over, deleting: any of it may fail.
		w := fence("worker-0", 1)
		w.Run = mlaas.RunID(fmt.Sprint("run", at))
		gone := w
		gone.Run = mlaas.RunID(fmt.Sprint("gone", at))
		acked, deleted := int64(0), false
		for i := range int64(5) {
			frames := []series.Batch{logFrame(w, acked+1, fmt.Sprint("line ", acked+1)), pointFrame(w, acked+1, pt("x", acked+1, 1)), logFrame(gone, 1, "gone")}
			if err := s.Append(t.Context(), frames[:2]...); err == nil {
				acked++
			} else if !errors.Is(err, mlaas.ErrUnavailable) {
				t.Fatalf("cut at %d: append says %v", at, err)
			}
			switch i {
			case 1:
				_ = s.Append(t.Context(), frames[2])
			case 2:
				_ = s.Flush(t.Context())
			case 3:
				deleted = s.Delete(t.Context(), tenant, gone.Run) == nil
			}
		}
		_ = s.Flush(t.Context())
		done = !f.blown
		f.left = 1 << 30
		next := &series.Store{Objects: b, DB: db, Blob: place, Shard: shard, SegmentBytes: 400, Every: time.Nanosecond}
		if err := next.Open(); err != nil {
			t.Fatal(err)
		}
		// The former owner is still there, with its network back: it changes nothing.
		if err := s.Append(t.Context(), logFrame(w, acked+1, "of a zombie")); err == nil {
			t.Fatalf("cut at %d: the former owner acknowledges", at)
		}
		_ = s.Flush(t.Context()) // it changes nothing, whatever it says
		for range 2 {            // as it was, and sealed
			log, metric := next.Durable(w)
			if log < acked || log > acked+1 || metric < acked || metric > acked+1 {
				t.Fatalf("cut at %d: %d were acknowledged, durable are %d, %d", at, acked, log, metric)
			}
			add(t, next, logFrame(w, acked+1, fmt.Sprint("line ", acked+1)), pointFrame(w, acked+1, pt("x", acked+1, 1))) // sent again
			got := lines(t, next, series.LineQuery{Run: w.Run})
			for i, l := range got {
				if l.Cursor != int64(i+1) || l.Seq != int64(i+1) || l.Text != fmt.Sprint("line ", i+1) {
					t.Fatalf("cut at %d: line %d is %+v", at, i+1, l)
				}
			}
			if int64(len(got)) != acked+1 {
				t.Fatalf("cut at %d: there are %d lines, want %d", at, len(got), acked+1)
			}
			points, err := next.RunPoints(t.Context(), tenant, w.Run, 1, 100)
			if err != nil || int64(len(points)) != acked+1 {
				t.Fatalf("cut at %d: there are %d points, %v, want %d", at, len(points), err, acked+1)
			}
			if got := lines(t, next, series.LineQuery{Run: gone.Run}); deleted && len(got) > 0 {
				t.Fatalf("cut at %d: what was deleted is %s", at, short(got))
			}
			acked++
			seal(t, next)
		}
		if n := b.count(); n != 0 {
			t.Fatalf("cut at %d: %d objects are left where all is sealed", at, n)
		}
		s.Close()
		next.Close()
	}
	if at < 60 {
		t.Errorf("there were %d places to cut at", at)
	}
	t.Logf("cut at %d places", at)
}

// While an object is put, and for a second after it was begun, what comes
// gathers; the first after a while goes at once, and so does much.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		s := onObjects.open(t, &series.Store{Objects: b, Every: time.Second, GatherBytes: 1 << 20})
		b.around = func(op, _ string, done bool) error {
			if op == "put" && !done {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		next := map[mlaas.Fence]int64{}
		var mu sync.Mutex
		say := func(replica int, text string) time.Duration {
			f := fence(mlaas.ReplicaName("worker", replica), 1)
			mu.Lock()
			next[f]++
			n := next[f]
			mu.Unlock()
			began := time.Now()
			add(t, s, logFrame(f, n, text))
			return time.Since(began)
		}
		puts := func(want int, what string) {
			t.Helper()
			if n := b.count(); n != want {
				t.Errorf("%s: there are %d objects, want %d", what, n, want)
			}
		}
		if took := say(0, "a"); took != 100*time.Millisecond {
			t.Errorf("the first takes %s", took)
		}
		puts(1, "the first")
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				if took := say(i, "b"); took > time.Second+100*time.Millisecond {
					t.Errorf("one that gathers takes %s", took)
				}
			})
		}
		all.Wait()
		puts(2, "50 in half a second")
		time.Sleep(time.Minute)
		if took := say(0, "c"); took != 100*time.Millisecond {
			t.Errorf("the first after a while takes %s", took)
		}
		if took := say(0, strings.Repeat("x", 60_000)); took != time.Second {
			t.Errorf("little that follows takes %s", took)
		}
		var quick atomic.Int32
		for i := range 20 { // together they are much; the last are little again
			all.Go(func() {
				if say(i, strings.Repeat("x", 64_000)) <= 200*time.Millisecond {
					quick.Add(1)
				}
			})
		}
		all.Wait()
		if n := quick.Load(); n < 14 { // more may join before it goes
			t.Errorf("%d of much are quick", n)
		}
		// Who gives up while it gathers leaves nothing behind, and nobody waits.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		f := fence("worker-0", 1)
		if err := s.Append(ctx, logFrame(f, next[f]+1, "given up")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gives up is told %v", err)
		}
		if err := s.Append(t.Context(), logFrame(f, 1, "a")); err != nil {
			t.Errorf("what is here already: %v", err)
		}
		began := time.Now()
		seal(t, s) // it does not wait for what gathers
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("sealing takes %s", took)
		}
		if got := lines(t, s, series.LineQuery{Limit: 1000}); len(got) != 73 || got[72].Cursor != 73 {
			t.Errorf("there are %d lines", len(got))
		}
	})
}

// Nothing is acknowledged by who has lost the lease, or the shard.
func TestLeaseLost(t *testing.T) {
	lost := error(nil)
	s := onObjects.open(t, &series.Store{Epoch: 5, Held: func(context.Context) error { return lost }})
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "one"))
	b := s.Objects.(*bucket)
	b.around = func(op, _ string, done bool) error {
		if op == "put" && done {
			lost = errors.New("the lease is lost") // while the object was put
		}
		return nil
	}
	if err := s.Append(t.Context(), logFrame(w, 2, "two")); !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), "the lease is lost") {
		t.Errorf("it says %v", err)
	}
	if got := short(lines(t, s, series.LineQuery{})); got != "1:worker-0/1:one" {
		t.Errorf("it shows %s", got)
	}
	n := b.count()
	if err := s.Append(t.Context(), logFrame(w, 2, "two")); !errors.Is(err, mlaas.ErrUnavailable) || b.count() != n {
		t.Errorf("without a lease it puts objects: %v", err)
	}
	old := like(s)
	old.Epoch, old.Held = 4, nil
	if err := old.Open(); !errors.Is(err, mlaas.ErrStale) {
		t.Errorf("an older lease opens it: %v", err)
	}
	next := like(s)
	next.Epoch, next.Held = 6, nil
	b.fail("", false)
	if err := next.Open(); err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	add(t, next, logFrame(w, 2, "two")) // it was there, and is known
	if got := short(lines(t, next, series.LineQuery{})); got != "1:worker-0/1:one 2:worker-0/2:two" {
		t.Errorf("the next shows %s", got)
	}
	lost = nil // as if its clock were wrong
	if err := s.Append(t.Context(), logFrame(w, 2, "two"), logFrame(w, 3, "three")); !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), "opened by another") {
		t.Errorf("it says %v", err)
	}
	if err := s.Release(t.Context(), tenant, "run"); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("it releases what is not its: %v", err)
	}
	add(t, next, logFrame(w, 3, "drei"))
	seal(t, next)
	if got := short(lines(t, next, series.LineQuery{From: 3})); got != "3:worker-0/3:drei" {
		t.Errorf("the next shows %s", got)
	}
}

// A run that moves to another cluster takes its numbers with it, and back.
func TestHandOver(t *testing.T) {
	here := onObjects.open(t, &series.Store{Shard: "here"})
	there := onObjects.open(t, &series.Store{Shard: "there", Objects: here.Objects, DB: here.DB, Blob: here.Blob})
	first, second, third := fence("worker-0", 1), fence("worker-0", 2), fence("worker-0", 3)
	add(t, here, logFrame(first, 1, "one"), pointFrame(first, 1, pt("x", 1, 1)))
	seal(t, here)
	add(t, here, logFrame(first, 2, "two"))
	refused := func(s *series.Store, kind error, b series.Batch) {
		t.Helper()
		if err := s.Append(t.Context(), b); !errors.Is(err, kind) {
			t.Errorf("shard %s: it says %v, want %v", s.Shard, err, kind)
		}
	}
	refused(there, mlaas.ErrUnavailable, logFrame(second, 1, "three")) // it was not released
	if _, err := there.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("what is not all here is answered: %v", err)
	}
	if log, _ := there.Durable(second); log != 0 {
		t.Errorf("of an attempt that has said nothing %d lines are durable", log)
	}
	release := func(s *series.Store) {
		t.Helper()
		for range 2 { // again is nothing
			if err := s.Release(t.Context(), tenant, "run"); err != nil {
				t.Fatal(err)
			}
		}
	}
	changed, leave := here.Changed(tenant, "run")
	release(here)
	<-changed
	leave()
	refused(here, mlaas.ErrStale, logFrame(first, 3, "late"))
	if got := short(lines(t, there, series.LineQuery{})); got != "1:worker-0/1:one 2:worker-0/2:two" { // anybody may say what is sealed
		t.Errorf("between two shards there is %s", got)
	}
	refused(there, mlaas.ErrStale, logFrame(first, 3, "late, elsewhere"))
	add(t, there, logFrame(second, 1, "three"), pointFrame(second, 1, pt("x", 2, 2)))
	refused(here, mlaas.ErrStale, logFrame(first, 3, "later"))
	// Shard here opens again, with an object that has lines of the run.
	other := fence("worker-1", 1)
	other.Run = "other"
	add(t, here, logFrame(other, 1, "other"))
	here.Close()
	here = again(t, here)
	if got := short(lines(t, here, series.LineQuery{Run: "other"})); got != "1:worker-1/1:other" {
		t.Errorf("another run has %s", got)
	}
	release(there)
	add(t, here, logFrame(third, 1, "four"))
	here.Close()
	here = again(t, here)
	check := func() {
		t.Helper()
		if got := short(lines(t, here, series.LineQuery{})); got != "1:worker-0/1:one 2:worker-0/2:two 3:worker-0/3:three 4:worker-0/4:four" {
			t.Errorf("at last there is %s", got)
		}
		if got := drawn(points(t, here, series.PointQuery{})); got != "worker-0.x 1=1 2=2" {
			t.Errorf("the curve is %s", got)
		}
		if log, metric := here.Durable(second); log != 1 || metric != 1 {
			t.Errorf("durable of the second attempt are %d, %d", log, metric)
		}
	}
	check()
	seal(t, here)
	check()
	if err := there.Delete(t.Context(), tenant, "run"); err != nil { // whoever holds it
		t.Fatal(err)
	}
	if got := short(lines(t, there, series.LineQuery{})); got != "" {
		t.Errorf("deleted it has %s", got)
	}
	add(t, here, logFrame(third, 2, "after its end")) // here does not know
	here.Close()
	here = again(t, here)
	if got := short(lines(t, here, series.LineQuery{})); got != "" {
		t.Errorf("deleted it has %s", got)
	}
}

// Run has the other side release what is needed here, while nobody waits.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := onObjects.open(t, &series.Store{Shard: "here"})
		there := onObjects.open(t, &series.Store{Shard: "there", Objects: here.Objects, DB: here.DB, Blob: here.Blob,
			Take: func(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID, from string) error {
				if from != "here" {
					t.Errorf("it is taken from %s", from)
				}
				time.Sleep(time.Second)
				return here.Release(ctx, tenant, run)
			}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- there.Run(ctx) }()
		add(t, here, logFrame(fence("worker-0", 1), 1, "one"))
		began := time.Now()
		if err := there.Append(ctx, logFrame(fence("worker-0", 2), 1, "two")); !errors.Is(err, mlaas.ErrUnavailable) || time.Since(began) > 0 {
			t.Errorf("after %s it says %v", time.Since(began), err)
		}
		time.Sleep(2 * time.Second)
		add(t, there, logFrame(fence("worker-0", 2), 1, "two"))
		if got := short(lines(t, there, series.LineQuery{})); got != "1:worker-0/1:one 2:worker-0/2:two" {
			t.Errorf("there is %s", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A bit that flips in an object, or an object that is lost, is told, costs what
// it is in, and the replica goes on.
func TestDamagedObjects(t *testing.T) {
	base := onObjects.open(t, &series.Store{})
	w := fence("worker-0", 1)
	for i := range int64(5) {
		add(t, base, logFrame(w, i+1, fmt.Sprintf("line %d", i+1)))
	}
	all := maps.Clone(base.Objects.(*bucket).objects)
	keys := slices.Sorted(maps.Keys(all))
	if len(keys) != 5 {
		t.Fatalf("there are %d objects", len(keys))
	}
	damage := map[string]func(b *bucket){}
	for _, key := range keys[:4] {
		damage["lost "+key] = func(b *bucket) { delete(b.objects, key) }
		for at := 0; at < len(all[key]); at += 3 {
			damage[fmt.Sprintf("bit %d of %s", at, key)] = func(b *bucket) {
				b.objects[key] = bytes.Clone(all[key])
				b.objects[key][at] ^= 1 << (at % 8)
			}
		}
	}
	for name, f := range damage {
		b := newBucket()
		b.objects = maps.Clone(all)
		f(b)
		var said bytes.Buffer
		s := like(base)
		s.Objects, s.Log = b, slog.New(slog.NewTextHandler(&said, nil))
		if err := s.Open(); err != nil {
			t.Fatal(err)
		}
		got := lines(t, s, series.LineQuery{})
		kept, next := 0, int64(1)
		for _, l := range got {
			if l.Stream != "platform" {
				kept++
				if l.Text != fmt.Sprintf("line %d", l.Cursor) {
					t.Errorf("%s: line %d is %q", name, l.Cursor, l.Text)
				}
			} else if l.Cursor != next {
				t.Errorf("%s: %q is said in place of lines %d to %d", name, l.Text, next, l.Cursor)
			}
			next = l.Cursor + 1
		}
		if kept != 4 || len(got) != 5 {
			t.Errorf("%s: there is %s", name, short(got))
		}
		if !strings.Contains(said.String(), "damaged") && !strings.Contains(said.String(), "lost") {
			t.Errorf("%s: nothing is said of it", name)
		}
		if err := s.Append(t.Context(), logFrame(w, 6, "line 6")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		seal(t, s)
		if got := lines(t, s, series.LineQuery{Last: 1}); got[0].Text != "line 6" {
			t.Errorf("%s: the last is %s", name, short(got))
		}
		if err := s.Delete(t.Context(), tenant, "run"); err != nil { // the next damage finds the manifest as it was
			t.Fatal(err)
		}
		s.Close()
		restore(t, base)
	}
}

// restore makes the records of the shard what they were when all was unsealed.
func restore(t *testing.T, s *series.Store) {
	t.Helper()
	run, _, err := store.Series(s.DB).Get(t.Context(), tenant, "run")
	if err == nil || !errors.Is(err, mlaas.ErrNotFound) {
		t.Fatalf("the manifest of run is %+v, %v", run, err)
	}
	shard, rev, err := store.Shards(s.DB).Get(t.Context(), "", s.Shard)
	if err != nil {
		t.Fatal(err)
	}
	shard.Sealed, shard.From, shard.Since = 0, 0, 0
	body := fmt.Appendf(nil, `{"tenant":%q,"run":"run","shard":%q,"epoch":1,"sealed":0,"lines":0,"points":0}`, tenant, s.Shard)
	err = s.DB.Commit(t.Context(), store.Batch{Put: []store.Row{
		store.Shards(s.DB).Put(shard, rev),
		store.Series(s.DB).Put(store.Manifest{Tenant: tenant, Run: "run", Shard: s.Shard, Body: body}, 0)}})
	if err != nil {
		t.Fatal(err)
	}
}

// What is not sealed is got several objects at a time.
func TestOpenInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := onObjects.open(t, &series.Store{})
		w := fence("worker-0", 1)
		for i := range int64(160) {
			add(t, s, logFrame(w, i+1, "a"))
		}
		s.Objects.(*bucket).around = func(op, _ string, _ bool) error {
			if op == "get" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		began := time.Now()
		next := again(t, s)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("160 objects of 100 ms take %s", took)
		}
		if log, _ := next.Durable(w); log != 160 {
			t.Errorf("durable is %d", log)
		}
	})
}
