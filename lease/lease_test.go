package lease_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A wire is the way of one process to the store. It may be cut, or held up as
// if the process were stopped.
type wire struct {
	store.Driver
	mu   sync.Mutex
	cut  bool
	stop chan struct{} // nil: not stopped
}

func (w *wire) pass(ctx context.Context) error {
	w.mu.Lock()
	cut, stop := w.cut, w.stop
	w.mu.Unlock()
	if stop != nil {
		<-stop
	}
	if cut {
		return fmt.Errorf("the wire is cut: %w", mlaas.ErrUnavailable)
	}
	return ctx.Err()
}

func (w *wire) Commit(ctx context.Context, b store.Batch) error {
	if err := w.pass(ctx); err != nil {
		return err
	}
	return w.Driver.Commit(ctx, b)
}

func (w *wire) Get(ctx context.Context, k store.Key) (store.Row, error) {
	if err := w.pass(ctx); err != nil {
		return store.Row{}, err
	}
	return w.Driver.Get(ctx, k)
}

func (w *wire) set(cut bool) { w.mu.Lock(); w.cut = cut; w.mu.Unlock() }

// halt stops the process at its next word to the store; call the answer to let
// it go on.
func (w *wire) halt() (resume func()) {
	stop := make(chan struct{})
	w.mu.Lock()
	w.stop = stop
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		w.stop = nil
		w.mu.Unlock()
		close(stop)
	}
}

// A process holds the lease "it" whenever it can, and counts its tenures.
type process struct {
	*wire
	id     string
	tenure atomic.Pointer[lease.Tenure]
	took   atomic.Int64
	kill   func()
	done   chan struct{}
	member *lease.Member
}

func start(t *testing.T, db store.Driver, id string) *process {
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{wire: &wire{Driver: db}, id: id, done: make(chan struct{})}
	p.kill = func() { cancel(); <-p.done }
	m := &lease.Member{DB: p.wire, ID: id, Service: "test", URL: "http://" + id, Log: slog.New(slog.DiscardHandler)}
	p.member = m
	go func() {
		defer close(p.done)
		var all sync.WaitGroup
		all.Go(func() { _ = m.Run(ctx) })
		all.Go(func() {
			err := m.Hold(ctx, "it", func(ctx context.Context, tenure *lease.Tenure) error {
				p.tenure.Store(tenure)
				p.took.Add(1)
				<-ctx.Done()
				p.tenure.Store(nil)
				return ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Hold ends with %v", id, err)
			}
		})
		all.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

func bubble(t *testing.T, f func(t *testing.T, db store.Driver)) {
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		f(t, db)
	})
}

// one checks that one of them holds the lease, by its own belief and by the
// record, and returns it.
func one(t *testing.T, db store.Driver, all ...*process) *process {
	t.Helper()
	synctest.Wait()
	var who *process
	for _, p := range all {
		if p.tenure.Load() != nil {
			if who != nil {
				t.Fatalf("%s and %s both hold it", who.id, p.id)
			}
			who = p
		}
	}
	if who == nil {
		t.Fatal("nobody holds it")
	}
	l, _, err := store.Leases(db).Get(t.Context(), "", "it")
	if err != nil || l.Holder != who.id || l.URL != "http://"+who.id || l.Epoch != who.tenure.Load().Epoch {
		t.Fatalf("the record says %+v (%v), and %s holds it", l, err, who.id)
	}
	return who
}

func thing(n int64) store.Batch {
	return store.Batch{Put: []store.Row{{Key: store.Key{Kind: "thing", ID: "x"}, Rev: n, Data: []byte(`{}`)}}}
}

func TestPassesOn(t *testing.T) {
	tests := []struct {
		name   string
		fault  func(p *process) (heal func())
		within time.Duration
	}{
		{"given back", func(p *process) func() { p.kill(); return func() {} }, 0},
		{"died without a word", func(p *process) func() { p.set(true); return func() { p.set(false) } }, 13 * time.Second},
		{"stopped", func(p *process) func() { return p.halt() }, 13 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, db store.Driver) {
				a := start(t, db, "a")
				time.Sleep(time.Second)
				b := start(t, db, "b")
				time.Sleep(10 * time.Minute)
				if one(t, db, a, b) != a || a.took.Load() != 1 {
					t.Fatal("it passed on without a reason")
				}
				epoch := a.tenure.Load().Epoch
				defer tt.fault(a)()
				time.Sleep(tt.within)
				if one(t, db, a, b) != b || b.tenure.Load().Epoch != epoch+1 {
					t.Errorf("after %s it has not passed on to b with epoch %d", tt.within, epoch+1)
				}
			})
		})
	}
}

// Who was stopped and wakes up late changes nothing, and learns of it.
func TestZombie(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		a := start(t, db, "a")
		time.Sleep(time.Second)
		old := one(t, db, a).tenure.Load()
		if err := old.Over().Commit(t.Context(), thing(0)); err != nil {
			t.Fatal(err)
		}
		if err := old.Over().Commit(t.Context(), thing(0)); !errors.Is(err, mlaas.ErrConflict) {
			t.Fatalf("a conflict of the holder's own is %v", err)
		}
		b := start(t, db, "b")
		time.Sleep(time.Second)
		resume := a.halt()
		late := make(chan error, 1)
		go func() { late <- old.Over().Commit(t.Context(), thing(1)) }() // under way when it is stopped
		time.Sleep(20 * time.Second)
		if b.took.Load() != 1 {
			t.Fatal("b did not take it")
		}
		resume()
		if err := <-late; !errors.Is(err, mlaas.ErrUnavailable) || errors.Is(err, mlaas.ErrConflict) {
			t.Errorf("the late commit is %v, want unavailable", err)
		}
		if err := old.Held(t.Context()); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("held: %v", err)
		}
		if one(t, db, a, b) != b {
			t.Error("b lost it to a zombie")
		}
		if row, err := db.Get(t.Context(), store.Key{Kind: "thing", ID: "x"}); err != nil || row.Rev != 1 {
			t.Errorf("the zombie wrote: %+v, %v", row, err)
		}
	})
}

// A store that is away for all makes everybody give up, and one goes on after.
func TestStoreAway(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		all := []*process{start(t, db, "a"), start(t, db, "b"), start(t, db, "c")}
		time.Sleep(time.Second)
		one(t, db, all...)
		for range 20 {
			for _, p := range all {
				p.set(true)
			}
			time.Sleep(7 * time.Second) // longer than lostAfter, shorter than deadAfter
			synctest.Wait()
			for _, p := range all {
				if p.tenure.Load() != nil {
					t.Fatalf("%s still believes that it holds the lease", p.id)
				}
			}
			for _, p := range all {
				p.set(false)
			}
			time.Sleep(15 * time.Second)
			one(t, db, all...)
		}
	})
}

// Everybody knows who holds it, and who only did.
func TestHolder(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		a := start(t, db, "a")
		time.Sleep(time.Second)
		reader := &lease.Member{DB: db, ID: "reader"}
		if _, _, err := reader.Holder("it"); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("before it runs: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = reader.Run(ctx) }()
		is := func(want string) {
			t.Helper()
			synctest.Wait()
			l, held, err := reader.Holder("it")
			if err != nil || held != (want != "") || held && l.URL != "http://"+want {
				t.Errorf("the holder is %+v, %v, %v, want %q", l, held, err, want)
			}
		}
		time.Sleep(time.Minute)
		is("a")
		if _, held, _ := reader.Holder("other"); held {
			t.Error("nobody holds the other")
		}
		a.set(true) // it dies without a word, and nobody takes it
		time.Sleep(9 * time.Second)
		time.Sleep(4 * time.Second)
		is("")
		b := start(t, db, "b")
		time.Sleep(15 * time.Second)
		is("b")
		b.kill()
		is("")
	})
}

// Wall clocks that jump and differ take nothing from anybody.
func TestClocks(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		skew := atomic.Int64{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var tenures [2]atomic.Int64
		var all sync.WaitGroup
		for i := range 2 {
			m := &lease.Member{DB: db, ID: fmt.Sprint("m", i), Now: func() time.Time {
				return time.Now().Add(time.Duration(skew.Load()) * time.Duration(2*i-1))
			}}
			all.Go(func() { _ = m.Run(ctx) })
			all.Go(func() {
				_ = m.Hold(ctx, "it", func(ctx context.Context, _ *lease.Tenure) error {
					tenures[i].Add(1)
					<-ctx.Done()
					return nil
				})
			})
		}
		for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * time.Minute, -24 * time.Hour} {
			time.Sleep(time.Minute)
			skew.Store(int64(jump))
		}
		time.Sleep(time.Minute)
		cancel()
		all.Wait()
		if n := tenures[0].Load() + tenures[1].Load(); n != 2 { // the second when the first ended
			if n != 1 {
				t.Errorf("there were %d tenures", n)
			}
		}
	})
}

// Nobody else can use the store: nothing is waited for.
func TestAlone(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		for epoch := int64(1); epoch < 4; epoch++ {
			m := &lease.Member{DB: db, ID: fmt.Sprint("up-", epoch), Alone: true}
			began := time.Now()
			err := m.Hold(t.Context(), "it", func(ctx context.Context, tenure *lease.Tenure) error {
				if tenure.Epoch != epoch || time.Since(began) != 0 {
					t.Errorf("epoch %d after %s", tenure.Epoch, time.Since(began))
				}
				return tenure.Over().Commit(ctx, thing(epoch-1))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The record of a process that died long ago goes.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T, db store.Driver) {
		a, b := start(t, db, "a"), start(t, db, "b")
		time.Sleep(time.Minute)
		a.set(true)
		time.Sleep(11 * time.Minute)
		left, err := store.Members(db).All(t.Context(), store.Query{})
		if err != nil || len(left) != 1 || left[0].Value.ID != "b" {
			t.Errorf("the members are %v (%v), want b alone", left, err)
		}
		_ = b
	})
}
