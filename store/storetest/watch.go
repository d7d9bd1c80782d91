package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A watcher keeps what it was sent, as a service would.
type watcher struct {
	out  chan store.Change
	rows map[string]int64 // ID: revision
	seq  int64
	stop func() error
}

func (s *suite) watch(from int64, buffer int, kinds ...string) *watcher {
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watcher{out: make(chan store.Change, buffer), rows: map[string]int64{}}
	done := make(chan error, 1)
	go func() { done <- s.DB.Watch(ctx, from, kinds, w.out) }()
	w.stop = func() error {
		cancel()
		for {
			select {
			case <-w.out:
			case err := <-done:
				return err
			}
		}
	}
	return w
}

// stopped ends the watch.
func (w *watcher) stopped(t *testing.T) {
	t.Helper()
	if err := w.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("watch ends with %v", err)
	}
}

// next waits for a change and applies it.
func (w *watcher) next(t *testing.T) store.Change {
	t.Helper()
	c := <-w.out
	if c.Seq < w.seq {
		t.Errorf("change %d after %d", c.Seq, w.seq)
	}
	w.seq = c.Seq
	switch {
	case c.Synced:
	case c.Deleted:
		if c.Row.Data != nil || c.Row.Rev != 0 {
			t.Errorf("a deleted row has more than its key: %+v", c.Row)
		}
		delete(w.rows, c.Row.Key.ID)
	default:
		w.rows[c.Row.Key.ID] = c.Row.Rev
	}
	return c
}

// sync applies changes up to Synced and returns how many there were.
func (w *watcher) sync(t *testing.T) (n int) {
	t.Helper()
	for !w.next(t).Synced {
		n++
	}
	return n
}

// until applies changes up to this revision of a row; 0 is its deletion.
func (w *watcher) until(t *testing.T, id string, rev int64) {
	t.Helper()
	for {
		c := w.next(t)
		if c.Row.Key.ID == id && c.Row.Rev == rev && c.Deleted == (rev == 0) {
			return
		}
	}
}

func watch(t *testing.T, s *suite) {
	other := row("other", 0, 1)
	other.Key.Kind = "other"
	s.commit(t, put(row("a", 0, 1, "i"), row("b", 0, 1), other))
	s.commit(t, store.Batch{Put: []store.Row{row("a", 1, 2, "i")}, Delete: []store.Row{row("b", 1, nil)}})
	s.commit(t, put(row("c", 0, 1)))

	w, all, none := s.watch(0, 0, "thing"), s.watch(0, 0), s.watch(0, 0, "nothing")
	if n := w.sync(t); n != 2 {
		t.Errorf("%d changes before Synced, want every row once", n)
	}
	same(t, "rows", w.rows, map[string]int64{"a": 2, "c": 1})
	all.sync(t)
	same(t, "rows of every kind", all.rows, map[string]int64{"a": 2, "c": 1, "other": 1})
	if n := none.sync(t); n != 0 {
		t.Errorf("%d changes of a kind that has none", n)
	}

	other.Rev = 1
	s.commit(t, put(other))
	s.commit(t, put(row("a", 2, "three", "j")))
	c := w.next(t)
	want := row("a", 3, "three", "j")
	same(t, "change", c.Row, want)
	s.commit(t, store.Batch{Delete: []store.Row{row("a", 3, nil)}})
	if c := w.next(t); !c.Deleted || c.Row.Key != key("a") {
		t.Errorf("the change is %+v, want the deletion of a", c)
	}
	s.commit(t, put(row("a", 0, 1)))
	if c := w.next(t); c.Row.Key.ID != "a" || c.Row.Rev != 1 {
		t.Errorf("the change is %+v, want a made again", c)
	}
	all.until(t, "a", 1)
	same(t, "rows of every kind", all.rows, map[string]int64{"a": 1, "c": 1, "other": 2})
	for _, w := range []*watcher{w, all, none} {
		w.stopped(t)
	}
}

// watchResume leaves a watcher behind again and again, and goes on from the
// last number that it has.
func watchResume(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 1), row("b", 0, 1), row("c", 0, 1)))
	w := s.watch(0, 0, "thing")
	w.sync(t)
	rows, seq := w.rows, w.seq
	w.stopped(t)

	s.commit(t, store.Batch{Put: []store.Row{row("a", 1, 2)}, Delete: []store.Row{row("b", 1, nil)}})
	s.commit(t, put(row("d", 0, 1)))
	s.commit(t, put(row("e", 0, 1)))
	s.commit(t, store.Batch{Delete: []store.Row{row("e", 1, nil)}}) // never seen

	// One change at a time, each by a new watcher.
	for n := 0; len(rows) != 3 || rows["a"] != 2 || rows["b"] != 0 || rows["d"] != 1; n++ {
		if n == 10 {
			t.Fatalf("rows are %v", rows)
		}
		w := s.watch(seq, 0, "thing")
		w.rows, w.seq = rows, seq
		if c := w.next(t); !c.Synced || c.Seq != seq {
			t.Fatalf("the first change is %+v, want Synced at %d", c, seq)
		}
		c := w.next(t)
		if c.Seq <= seq {
			t.Errorf("change %d came again after %d", c.Seq, seq)
		}
		seq = w.seq
		w.stopped(t)
	}
	same(t, "rows", rows, map[string]int64{"a": 2, "c": 1, "d": 1})

	// Up to date: nothing comes again.
	w = s.watch(seq, 0, "thing")
	w.rows, w.seq = rows, seq
	w.sync(t)
	s.commit(t, put(row("c", 1, 2)))
	for {
		c := w.next(t)
		if c.Row.Key.ID == "c" {
			break
		}
		if c.Row.Key.ID != "e" || !c.Deleted {
			t.Errorf("%+v came again", c)
		}
	}
	w.stopped(t)
}

func watchFuture(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 1)))
	err := s.DB.Watch(s.ctx, 1<<40, []string{"thing"}, make(chan store.Change))
	if !errors.Is(err, mlaas.ErrGone) {
		t.Errorf("watching from a number that was never given: %v, want gone", err)
	}
}

// watchSlow commits a lot while nobody receives.
func watchSlow(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 0)))
	w := s.watch(0, 0, "thing")
	for i := range 100 {
		s.commit(t, put(row("a", int64(i+1), i), row(fmt.Sprint("b", i), 0, i)))
	}
	w.until(t, "b99", 1)
	if len(w.rows) != 101 {
		t.Errorf("%d rows are known, want 101", len(w.rows))
	}
	w.stopped(t)
}

// watchChurn begins watchers while rows come, change and go. In the end each
// knows what is there.
func watchChurn(t *testing.T, s *suite) {
	const rounds = 100
	done := make(chan error, 1)
	go func() {
		revs := map[string]int64{}
		for i := range rounds {
			id := fmt.Sprint("r", i*7%23)
			b := put(row(id, revs[id], i))
			revs[id]++
			if i%5 == 4 && revs[id] > 1 {
				b = store.Batch{Delete: []store.Row{row(id, revs[id]-1, nil)}}
				delete(revs, id)
			}
			if err := s.DB.Commit(s.ctx, b); err != nil {
				done <- err
				return
			}
		}
		done <- s.DB.Commit(s.ctx, put(row("end", 0, 0)))
	}()
	watchers := make(chan *watcher, 4)
	for range cap(watchers) {
		go func() {
			w := s.watch(0, 0, "thing")
			for {
				if c := w.next(t); c.Row.Key.ID == "end" {
					watchers <- w
					return
				}
			}
		}()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	found, _, err := s.DB.List(s.ctx, store.Query{Kind: "thing"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range found {
		want[r.Key.ID] = r.Rev
	}
	for range cap(watchers) {
		w := <-watchers
		same(t, "rows", w.rows, want)
		w.stopped(t)
	}
}

// pass lets time go by.
func (s *suite) pass(d time.Duration) { time.Sleep(d) }
