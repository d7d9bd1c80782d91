package contractor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A toy is a booster whose replicas are timers: they are ready after 5 s, make
// a step each second, save every 10 minutes, and end after an hour of steps. A
// parameter server never ends.
type toy struct {
	db  store.Driver
	ctx context.Context // of run: replicas outlive the message that asked for them
	all sync.WaitGroup

	mu     sync.Mutex
	starts map[mlaas.Fence]int // how often each program was started
}

const oneHour = 60 * 60 // in steps

func (b *toy) run(ctx context.Context) error {
	b.ctx = ctx
	in := &queue.Inbox{DB: b.db, Name: mlaas.ToBooster("local"), Log: slog.New(slog.DiscardHandler)}
	queue.On(in, func(ctx context.Context, m mlaas.ReplicasWanted) (store.Batch, error) {
		s, rev, err := store.RunStates(b.db).Get(ctx, m.Tenant, string(m.Run))
		if err != nil || s.State != mlaas.Starting || s.Epoch != m.Epoch {
			return store.Batch{}, err
		}
		var batch store.Batch
		for role, n := range s.Allocation.Granted {
			for i := range n {
				name := mlaas.ReplicaName(role, i)
				old, oldRev, err := store.Replicas(b.db).Get(ctx, m.Tenant, store.ReplicaKey(m.Run, name))
				if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
					return store.Batch{}, err
				}
				if err == nil && old.Epoch >= m.Epoch {
					continue
				}
				r := mlaas.Replica{Fence: mlaas.Fence{Tenant: m.Tenant, Run: m.Run, Epoch: m.Epoch, Replica: name, Incarnation: 1},
					Role: role, Index: i, Cluster: s.Allocation.Cluster, Node: "box", Status: mlaas.ReplicaWanted, Asked: time.Now()}
				batch.Put = append(batch.Put, store.Replicas(b.db).Put(r, oldRev))
				b.later(5*time.Second, r.Fence, func(r *mlaas.Replica) {
					r.Status, r.Address, r.Ports = mlaas.ReplicaReady, "127.0.0.1", []int{4000 + i, 5000 + i}
				})
			}
		}
		if len(batch.Put) > 0 {
			batch.Check = append(batch.Check, store.RunStates(b.db).At(m.Tenant, string(m.Run), rev))
		}
		return batch, nil
	})
	queue.On(in, func(ctx context.Context, m mlaas.CodeReady) (store.Batch, error) {
		launch, _, err := store.Launches(b.db).Get(ctx, m.Tenant, store.LaunchKey(m.Run, m.Epoch))
		if err != nil {
			return store.Batch{}, err
		}
		for name := range launch.Replicas {
			f := mlaas.Fence{Tenant: m.Tenant, Run: m.Run, Epoch: m.Epoch, Replica: name, Incarnation: 1}
			if b.change(ctx, f, func(r *mlaas.Replica) { r.Status, r.Program, r.Started = mlaas.ReplicaRunning, true, new(time.Now()) }) {
				b.mu.Lock()
				b.starts[f]++
				b.mu.Unlock()
				b.all.Go(func() { b.train(b.ctx, f, launch.ResumeStep) })
			}
		}
		return store.Batch{}, nil
	})
	queue.On(in, func(ctx context.Context, m mlaas.ReplicasUnwanted) (store.Batch, error) {
		found, err := store.Replicas(b.db).All(ctx, store.Query{Tenant: m.Tenant, Prefix: string(m.Run) + "/"})
		if err != nil {
			return store.Batch{}, err
		}
		for _, f := range found {
			if f.Value.Epoch <= m.Epoch && !f.Value.Status.Final() {
				b.later(time.Second, f.Value.Fence, func(r *mlaas.Replica) { r.Status, r.Reason = mlaas.ReplicaStopped, m.Reason })
			}
		}
		return store.Batch{}, nil
	})
	err := in.Run(ctx)
	b.all.Wait()
	return err
}

// later changes a replica after a while.
func (b *toy) later(d time.Duration, f mlaas.Fence, edit func(*mlaas.Replica)) {
	b.all.Go(func() {
		select {
		case <-b.ctx.Done():
		case <-time.After(d):
			b.change(b.ctx, f, edit)
		}
	})
}

// change edits a replica, if it is of this incarnation, moves forward and has
// not ended, and tells of it.
func (b *toy) change(ctx context.Context, f mlaas.Fence, edit func(*mlaas.Replica)) bool {
	for {
		r, rev, err := store.Replicas(b.db).Get(ctx, f.Tenant, store.ReplicaKey(f.Run, f.Replica))
		if err != nil || r.Fence != f {
			return false
		}
		was := r.Status
		if edit(&r); !r.Status.After(was) {
			return false
		}
		err = b.db.Commit(ctx, store.Batch{Put: []store.Row{store.Replicas(b.db).Put(r, rev)},
			Tell: []store.Message{queue.Tell(mlaas.ReplicaChanged{Tenant: f.Tenant, Run: f.Run, Epoch: f.Epoch, Replica: f.Replica})}})
		if err == nil {
			return true
		}
		if !errors.Is(err, mlaas.ErrConflict) {
			return false
		}
	}
}

func (b *toy) train(ctx context.Context, f mlaas.Fence, step int64) {
	if strings.HasPrefix(f.Replica, mlaas.PS) {
		return
	}
	for step < oneHour {
		more := min(600-step%600, oneHour-step)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(more) * time.Second):
		}
		step += more
		if f.Replica != "worker-0" {
			continue
		}
		r, rev, err := store.Replicas(b.db).Get(ctx, f.Tenant, store.ReplicaKey(f.Run, f.Replica))
		if err != nil || r.Fence != f || r.Status.Final() {
			return
		}
		c := mlaas.Checkpoint{Tenant: f.Tenant, Run: f.Run, Epoch: f.Epoch, Replica: f.Replica, Step: step, Tree: mlaas.Digest(fmt.Sprint("sha256:", step)), Created: time.Now()}
		b.db.Commit(ctx, store.Batch{Put: []store.Row{store.Checkpoints(b.db).Put(c, 0)}, Check: []store.Row{{Key: store.Key{Kind: "replica", Tenant: f.Tenant, ID: store.ReplicaKey(f.Run, f.Replica)}, Rev: rev}}})
	}
	b.change(ctx, f, func(r *mlaas.Replica) {
		r.Status, r.ExitCode, r.Ended = mlaas.ReplicaSucceeded, new(0), new(time.Now())
	})
}

// A bubble is a contractor and a toy over a real store, in fake time.
type bubble struct {
	*testing.T
	ctx context.Context
	db  store.Driver
	toy *toy
	end []func()
}

func inBubble(t *testing.T, f func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		b := &bubble{T: t, ctx: t.Context(), db: db, toy: &toy{db: db, starts: map[mlaas.Fence]int{}}}
		defer func() {
			for _, end := range b.end {
				end()
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		b.commit(store.Batch{Put: []store.Row{store.Clusters(db).Put(mlaas.Cluster{Name: "local", Up: true, Capacity: mlaas.Resources{CPU: 4000, Memory: 16 << 30}}, 0)}})
		b.service(b.toy.run)
		f(b)
	})
}

// service runs until the test ends, or until what it returns is called.
func (b *bubble) service(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(b.ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := run(ctx); ctx.Err() == nil {
			b.Errorf("a service ended by itself: %v", err)
		}
	}()
	stop = func() { cancel(); <-over }
	b.end = append(b.end, stop)
	return stop
}

func (b *bubble) contractor() (stop func()) {
	log := slog.New(slog.NewTextHandler(b.Output(), nil))
	m := &lease.Member{DB: b.db, Service: "contractor", ID: mlaas.NewID(time.Now()), Log: log}
	c := &contractor.Contractor{DB: b.db, Member: m, Log: log}
	return b.service(func(ctx context.Context) error {
		var all sync.WaitGroup
		defer all.Wait()
		all.Go(func() { _ = m.Run(ctx) })
		return c.Run(ctx)
	})
}

func (b *bubble) commit(batch store.Batch) {
	b.Helper()
	if err := b.db.Commit(b.ctx, batch); err != nil {
		b.Fatal(err)
	}
}

// ask is management: somebody pressed run.
func (b *bubble) ask(id mlaas.RunID, spec string) {
	b.Helper()
	run := mlaas.Run{ID: id, Tenant: mlaas.DefaultTenant, Job: "job", JobName: string(id), Number: 1, Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Wanted: mlaas.WantRun, Created: time.Now()}
	if err := json.Unmarshal([]byte(spec), &run.Spec); err != nil {
		b.Fatal(err)
	}
	run.Spec.Name = string(id)
	run.Spec.Complete()
	asked := queue.Tell(mlaas.RunAsked{Tenant: run.Tenant, Run: id})
	b.commit(store.Batch{Put: []store.Row{store.Runs(b.db).Put(run, 0)}, Tell: []store.Message{asked, asked}})
}

func (b *bubble) is(id mlaas.RunID, want mlaas.State) mlaas.RunState {
	b.Helper()
	synctest.Wait()
	s, _, err := store.RunStates(b.db).Get(b.ctx, mlaas.DefaultTenant, string(id))
	if err != nil {
		b.Fatal(err)
	}
	if s.State != want {
		b.Fatalf("run %s is %s (%s), want %s", id, s.State, s.Reason, want)
	}
	return s
}

func (b *bubble) lose(id mlaas.RunID, epoch int, name string) {
	b.Helper()
	f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: id, Epoch: epoch, Replica: name, Incarnation: 1}
	if !b.toy.change(b.ctx, f, func(r *mlaas.Replica) { r.Status, r.Reason = mlaas.ReplicaLost, "machine restarted" }) {
		b.Fatalf("%s is not there to be lost", f)
	}
}

const psAndTwo = `{"roles": {"ps": {"replicas": 1}, "worker": {"replicas": 2}}}`

// Two trainings of an hour, one of which loses a worker half way, take no
// time: it goes on from its last checkpoint, and both end well.
func TestOneHour(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.contractor()
		b.ask("a", psAndTwo)
		b.ask("b", `{}`)
		time.Sleep(35 * time.Minute)
		b.lose("a", 1, "worker-1")
		time.Sleep(time.Minute)
		s := b.is("a", mlaas.Running)
		if s.Epoch != 2 || s.Attempts[1].Step != 30*60 {
			t.Errorf("it goes on as %+v", s)
		}
		time.Sleep(24*time.Minute + 30*time.Second)
		b.is("b", mlaas.Succeeded)
		b.is("a", mlaas.Running)
		time.Sleep(10 * time.Minute)
		if s = b.is("a", mlaas.Succeeded); s.ExitCode == nil || *s.ExitCode != 0 {
			t.Errorf("it ended as %+v", s)
		}
		for f, n := range b.toy.starts {
			if n != 1 {
				t.Errorf("%s was started %d times", f, n)
			}
		}
	})
}

// A full machine, one run in line, and a contractor that dies at any moment.
func TestRestarts(t *testing.T) {
	inBubble(t, func(b *bubble) {
		stop := b.contractor()
		b.ask("a", `{"roles": {"worker": {"cpu": 3}}}`)
		b.is("a", mlaas.Starting)
		b.ask("b", `{"roles": {"worker": {"cpu": 3}}}`)
		if s := b.is("b", mlaas.Queued); s.Reason != "queued, position 1: needs 3 CPU (1 free of 4); a/1 holds 3, ends unknown" {
			t.Errorf("b waits: %s", s.Reason)
		}
		for range 10 {
			stop()
			time.Sleep(3 * time.Minute)
			stop = b.contractor()
			time.Sleep(3 * time.Minute)
		}
		time.Sleep(4 * time.Minute) // its code was ready while nobody was there
		b.is("a", mlaas.Succeeded)
		b.is("b", mlaas.Running)
		run, rev, err := store.Runs(b.db).Get(b.ctx, mlaas.DefaultTenant, "b")
		if err != nil {
			t.Fatal(err)
		}
		run.Wanted = mlaas.WantStop // and the message that says so is lost
		b.commit(store.Batch{Put: []store.Row{store.Runs(b.db).Put(run, rev)}})
		time.Sleep(time.Minute)
		b.is("b", mlaas.Stopped)
	})
}

// A run whose cluster comes later is admitted at once, and a pause ends by
// itself, without any message.
func TestWakes(t *testing.T) {
	inBubble(t, func(b *bubble) {
		c, rev, err := store.Clusters(b.db).Get(b.ctx, "", "local")
		if err != nil {
			t.Fatal(err)
		}
		c.Up, c.Reason = false, "not yet"
		b.commit(store.Batch{Put: []store.Row{store.Clusters(b.db).Put(c, rev)}})
		b.contractor()
		b.ask("a", `{}`)
		b.is("a", mlaas.Queued)
		time.Sleep(17 * time.Second)
		c.Up = true
		b.commit(store.Batch{Put: []store.Row{store.Clusters(b.db).Put(c, rev+1)}})
		b.is("a", mlaas.Starting)
		time.Sleep(6 * time.Second)
		b.is("a", mlaas.Running)
		b.lose("a", 1, "worker-0")
		b.is("a", mlaas.Queued)
		time.Sleep(time.Second)
		b.is("a", mlaas.Starting)
	})
}
