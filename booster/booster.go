// Package booster is the one door to computing resources: it starts replicas
// on clusters, watches them, and reports what they do (paper §4.3).
//
// A [Booster] serves one cluster, for as long as it holds the cluster's lease;
// a process has one for each of its clusters, so that none waits for another.
// booster.go takes requests from the queue, reconcile.go compares records with
// what runs, place.go knows whether the cluster answers, gather.go keeps its
// news together by run, informer.go turns them into records and messages,
// rule.go watches the action rules, monitor.go is the door for logs, metrics and
// checkpoints, executor.go says what a cluster must do.
package booster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/rule"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A Booster is the service. Fill in the fields, hand [Booster.Monitor] to
// whatever serves the door, then call Run, once.
type Booster struct {
	DB     store.Driver
	Blob   blob.Driver
	Series Series

	Cluster  string    // its name
	Of       time.Time // when the spec by which it is served was changed last; zero: it has none
	Executor Executor  // what runs its replicas
	DoorURL  string    // where the door is, as seen from them

	Key []byte // signs job tokens

	// Secrets opens a sealed secret as a run names it, or the newest of its name
	// where it names no version; nil: there are none.
	Secrets func(ctx context.Context, tenant mlaas.Tenant, use mlaas.SecretUse) (string, error)

	// AllowLoopback lets webhooks go to this machine itself, as is right where
	// whoever writes the rules owns it.
	AllowLoopback bool

	// Mail sends what somebody wants to be told by e-mail; nil: nobody can be.
	Mail *Mailer

	// Webhooks sends them; nil: over the network, guarded against addresses
	// that a rule has no business with.
	Webhooks http.RoundTripper

	MaxBlob mlaas.Bytes // the largest blob that the door takes; 0: 1 Ti

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: silent

	Counts *Counts      // what it did; one may be kept over several boosters. nil: nobody asks
	Trace  trace.Tracer // nil: nobody watches

	once     sync.Once
	begun    chan struct{} // closed when Run begins
	life     context.Context
	tasks    tasks
	poke     chan struct{} // compare records with what runs, soon
	place    *place
	monitor  *Monitor
	inform   informer
	others   neighbours
	leaving  departure
	indexed  atomic.Bool         // all live replicas of the cluster are found by it
	writing  chan struct{}       // has one in it while the cluster's record is written
	starting *semaphore.Weighted // counts the replicas of messages that are being started
	hooks    *http.Client
}

// A Series is what a booster needs of what replicas say: *series.Store has it.
type Series interface {
	Append(ctx context.Context, batches ...series.Batch) error
	Durable(fence mlaas.Fence) (log, metric int64)
	Lines(ctx context.Context, q series.LineQuery) ([]series.Line, error)
}

const (
	// reconcileEvery is how long a lost message delays at most.
	reconcileEvery = 30 * time.Second

	// patience is what a replica has beyond its grace to deliver what its
	// program said last.
	patience = 10 * time.Second

	// delivery is how long it has in all while it does deliver.
	delivery = 2 * time.Minute

	// tokenLife is longer than any attempt: the door closes with the attempt,
	// whatever its token says.
	tokenLife = 365 * 24 * time.Hour

	// atOnce is how many replicas of one message are started or ended together,
	// and allAtOnce how many are started of all: some runs of several replicas, or
	// many of one.
	atOnce    = 16
	allAtOnce = 32
)

func (b *Booster) init() {
	b.once.Do(func() {
		if b.Now == nil {
			b.Now = time.Now
		}
		if b.Log == nil {
			b.Log = slog.New(slog.DiscardHandler)
		}
		if b.Counts == nil {
			b.Counts = new(Counts)
		}
		if b.MaxBlob == 0 {
			b.MaxBlob = 1 << 40
		}
		b.begun = make(chan struct{})
		b.poke, b.writing = make(chan struct{}, 1), make(chan struct{}, 1)
		b.starting = semaphore.NewWeighted(allAtOnce)
		b.place = newPlace(b.Cluster, b.Executor)
		b.inform.cells, b.inform.sights, b.inform.rules = map[mlaas.Fence]*cell{}, map[sight]time.Time{}, map[runKey][]rule.Rule{}
		b.hooks = b.webhooks()
		b.monitor = newMonitor(b)
	})
}

// Monitor is the door of this booster. It lets nobody in before Run begins,
// and everybody out when Run ends.
func (b *Booster) Monitor() *Monitor {
	b.init()
	return b.monitor
}

// Run serves until ctx ends. Replicas go on without it.
func (b *Booster) Run(ctx context.Context) error {
	b.init()
	inbox := &queue.Inbox{DB: b.DB, Name: mlaas.ToBooster(b.Cluster), Log: b.Log, Counts: &b.Counts.Queue, Trace: b.Trace}
	queue.On(inbox, b.replicasWanted)
	queue.On(inbox, b.codeReady)
	queue.On(inbox, b.replicasUnwanted)
	old := b.oldInbox()
	notices := &queue.Inbox{DB: b.DB, Name: toNotices, Log: b.Log, Counts: &b.Counts.Notices}
	queue.On(notices, b.notify)
	webhooks := &queue.Inbox{DB: b.DB, Name: mlaas.ToWebhooks, Log: b.Log, Counts: &b.Counts.Notices}
	queue.On(webhooks, b.deliver)
	queue.On(webhooks, b.runEnded)
	queue.On(webhooks, b.testAsked)

	work, ctx := errgroup.WithContext(ctx)
	b.life = ctx
	close(b.begun)
	work.Go(func() error { return inbox.Run(ctx) })
	work.Go(func() error { return old.Run(ctx) })
	work.Go(func() error { return notices.Run(ctx) })
	work.Go(func() error { return webhooks.Run(ctx) })
	work.Go(func() error { return b.reconcile(ctx) })
	work.Go(func() error { return b.monitor.append(ctx) })
	work.Go(func() error { return b.monitor.fenceOff(ctx) })
	work.Go(func() error { return b.follow(ctx) })
	work.Go(func() error { return b.others.watch(ctx, b.DB, b.Log) })
	work.Go(func() error { return b.leaving.watch(ctx, b) })
	err := work.Wait()
	b.tasks.close()
	return err
}

// tasks are what runs beside Run's own loops: lines, and what is done soon.
// Run waits for them, so that nothing of a booster outlives it.
type tasks struct {
	mu     sync.Mutex
	closed bool
	wait   sync.WaitGroup
}

// begin counts one in; ok is false when it is too late.
func (t *tasks) begin() (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.wait.Add(1)
	}
	return !t.closed
}

func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wait.Wait()
}

// soon does f beside everything else. Its context ends with Run.
func (b *Booster) soon(f func(ctx context.Context)) {
	if b.tasks.begin() {
		go func() {
			defer b.tasks.wait.Done()
			f(b.life)
		}()
	}
}

// wake makes the reconciler look soon.
func (b *Booster) wake() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// active are the states of a run in which its replicas are wanted.
func active(s mlaas.State) bool {
	return s == mlaas.Starting || s == mlaas.Running || s == mlaas.Resizing
}

// replicasWanted writes the records of what the run was granted, then starts
// it. The records come first: a supervisor that dials finds its own.
func (b *Booster) replicasWanted(ctx context.Context, m mlaas.ReplicasWanted) (store.Batch, error) {
	run, _, err := store.Runs(b.DB).Get(ctx, m.Tenant, string(m.Run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return store.Batch{}, nil
	} else if err != nil {
		return store.Batch{}, err
	}
	replicas, older, err := b.record(ctx, m, run)
	if err != nil {
		return store.Batch{}, err
	}
	// What an older attempt left goes first, so that two never share a core
	// that was promised once. A cluster that does not answer is not waited for:
	// its epoch keeps out whatever comes from there.
	if err := b.each(ctx, older, func(ctx context.Context, r mlaas.Replica) error {
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := b.stop(within, r.Fence); err != nil {
			b.Log.Warn("an older attempt cannot be ended yet", "run", r.Run, "replica", r.Fence.Replica, "epoch", r.Epoch, "error", err)
		}
		return ctx.Err()
	}); err != nil {
		return store.Batch{}, err
	}
	free, err := b.turn(ctx, len(replicas))
	if err != nil {
		return store.Batch{}, err
	}
	defer free()
	return store.Batch{}, b.each(ctx, replicas, func(ctx context.Context, r mlaas.Replica) error {
		return b.begin(ctx, run, r)
	})
}

// turn waits until few other replicas are being started: a cluster that is asked
// for all at once is late with each of them, where it could have had the first
// runs complete. One that answers nothing keeps nobody waiting for long.
func (b *Booster) turn(ctx context.Context, replicas int) (free func(), err error) {
	n := int64(min(replicas, atOnce))
	if n == 0 {
		return func() {}, nil
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if b.starting.Acquire(within, n) == nil {
		return func() { b.starting.Release(n) }, nil
	}
	return func() {}, ctx.Err()
}

// record writes what the run was granted, and returns the replicas that are to
// be started and those of older attempts that may be there still. It does so
// only while the run wants them: that is part of the commit.
func (b *Booster) record(ctx context.Context, m mlaas.ReplicasWanted, run mlaas.Run) (start, older []mlaas.Replica, err error) {
	for {
		start, older = nil, nil
		state, rev, err := store.RunStates(b.DB).Get(ctx, m.Tenant, string(m.Run))
		if errors.Is(err, mlaas.ErrNotFound) {
			return nil, nil, nil
		} else if err != nil {
			return nil, nil, err
		}
		if state.Epoch != m.Epoch || !active(state.State) || state.Allocation.Cluster != b.Cluster {
			return nil, nil, nil // late
		}
		found, err := store.Replicas(b.DB).All(ctx, store.Query{Tenant: m.Tenant, Prefix: string(m.Run) + "/"})
		if err != nil {
			return nil, nil, err
		}
		there := map[string]store.Found[mlaas.Replica]{}
		for _, f := range found {
			there[f.Value.Fence.Replica] = f
		}
		var batch store.Batch
		elsewhere := map[string]bool{}
		leave := func(r mlaas.Replica) {
			if r.Cluster == b.Cluster {
				older = append(older, r)
			} else if !elsewhere[r.Cluster] { // the run has moved here: its old cluster may not know yet
				elsewhere[r.Cluster] = true
				batch.Tell = append(batch.Tell, queue.Tell(mlaas.ReplicasUnwanted{Tenant: m.Tenant, Run: m.Run, Epoch: m.Epoch - 1,
					Cluster: r.Cluster, Reason: "attempt " + strconv.Itoa(m.Epoch) + " runs on " + b.Cluster}))
			}
		}
		now := b.Now().UTC()
		for _, role := range mlaas.RoleOrder {
			for i := range state.Allocation.Granted[role] {
				name := mlaas.ReplicaName(role, i)
				old, ok := there[name]
				delete(there, name)
				if ok && old.Value.Epoch >= m.Epoch {
					if s := old.Value.Status; s == mlaas.ReplicaWanted || s == mlaas.ReplicaCreating {
						start = append(start, old.Value)
					}
					continue
				}
				r := mlaas.Replica{
					Fence: mlaas.Fence{Tenant: m.Tenant, Run: m.Run, Epoch: m.Epoch, Replica: name, Incarnation: 1},
					Job:   run.Job, Role: role, Index: i, Cluster: b.Cluster,
					Status: mlaas.ReplicaCreating, Reason: "asked " + b.Cluster + " for it",
					Asked: now, History: old.Value.History,
					Data:    old.Value.Data, // what the run had is what it gets again
					Exclude: state.Excluded[role],
				}
				happened(&r, now, r.Reason)
				batch.Put = append(batch.Put, store.Replicas(b.DB).Put(r, old.Rev))
				start = append(start, r)
				if ok { // also one that is over: something of it may be left
					leave(old.Value)
				}
			}
		}
		for _, f := range there { // the attempt before had more
			if r := f.Value; r.Epoch < m.Epoch && !r.Status.Final() {
				leave(r)
				moveAt(&r, mlaas.ReplicaStopped, "the next attempt has fewer replicas", now)
				batch.Put = append(batch.Put, store.Replicas(b.DB).Put(r, f.Rev))
			}
		}
		if len(batch.Put) == 0 {
			return start, older, nil
		}
		batch.Check = []store.Row{store.RunStates(b.DB).At(m.Tenant, string(m.Run), rev)}
		failpoint.Hit("booster.record.before")
		if err := b.DB.Commit(ctx, batch); err == nil {
			failpoint.Hit("booster.record.after") // wanted, not started
			b.monitor.closeOlder(m.Run, m.Epoch)
			for _, r := range older {
				b.inform.forget(r.Fence)
			}
			return start, older, nil
		} else if !errors.Is(err, mlaas.ErrConflict) {
			return nil, nil, err
		}
	}
}

// each calls f for all replicas, some at once, and returns the first error.
func (b *Booster) each(ctx context.Context, replicas []mlaas.Replica, f func(context.Context, mlaas.Replica) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, r := range replicas {
		g.Go(func() error { return f(ctx, r) })
	}
	return g.Wait()
}

// begin starts one replica. That it cannot be started is its end: the user's
// fault where what was asked for cannot be, and otherwise a loss, which another
// attempt may mend. That we are ending is an error.
func (b *Booster) begin(ctx context.Context, run mlaas.Run, r mlaas.Replica) error {
	role := run.Spec.Roles[r.Role]
	var disk mlaas.Bytes
	if role != nil && role.Disk != nil {
		disk = *role.Disk
	}
	var err error
	if role == nil {
		err = fmt.Errorf("the job has no role %s: %w", r.Role, mlaas.ErrInvalid)
	} else {
		within, end := trace.Start(ctx, b.Trace, "start replica", run.Trace, "replica", r.Fence.String())
		err = b.place.start(within, Spec{
			Fence: r.Fence, Job: r.Job, Need: role.Need(), Ceiling: role.Ceiling(), Disk: disk, Environment: run.Spec.Environment, Exclude: r.Exclude,
			Token: auth.SignJob(b.Key, r.Fence, b.Now().Add(tokenLife)), Door: b.DoorURL,
		})
		end(err)
	}
	failpoint.Hit("booster.start.after")
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, ok := errors.AsType[away](err); ok { // it is asked again when it answers, or given up with the cluster
		b.Log.Warn("a replica cannot be started yet", "run", r.Run, "replica", r.Fence.Replica, "error", err)
		_, err = b.change(ctx, r.Fence, func(r *mlaas.Replica) store.Batch {
			b.waits(r, mlaas.ReplicaCreating, b.Cluster+" cannot be asked for it: "+sentence(err))
			return store.Batch{}
		})
		return known(err)
	}
	b.Log.Warn("a replica could not be started", "run", r.Run, "replica", r.Fence.Replica, "error", err)
	status := mlaas.ReplicaLost
	if slices.Contains([]*mlaas.Kind{mlaas.ErrInvalid, mlaas.ErrNotFound, mlaas.ErrForbidden, mlaas.ErrTooLarge}, mlaas.KindOf(err)) {
		status = mlaas.ReplicaFailed
	}
	_, err = b.change(ctx, r.Fence, func(r *mlaas.Replica) store.Batch {
		b.move(r, status, "it could not be started on "+b.Cluster+": "+sentence(err))
		return store.Batch{}
	})
	return known(err)
}

// codeReady sends each replica of the attempt that has called its part of the
// launch. Those that call later get it then.
func (b *Booster) codeReady(ctx context.Context, m mlaas.CodeReady) (store.Batch, error) {
	lines := slices.DeleteFunc(b.monitor.of(m.Run), func(c *conn) bool { return c.fence.Epoch != m.Epoch })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, c := range lines {
		g.Go(func() error { return b.monitor.direct(ctx, c) })
	}
	return store.Batch{}, g.Wait()
}

// replicasUnwanted asks politely and comes back when the grace is over: as a
// message of its own, which is there even if this process is not. Without a
// grace it ends them.
func (b *Booster) replicasUnwanted(ctx context.Context, m mlaas.ReplicasUnwanted) (store.Batch, error) {
	found, err := store.Replicas(b.DB).All(ctx, store.Query{Tenant: m.Tenant, Prefix: string(m.Run) + "/"})
	if err != nil {
		return store.Batch{}, err
	}
	var (
		mu    sync.Mutex
		again time.Duration
		live  []mlaas.Replica
	)
	for _, f := range found {
		if r := f.Value; r.Epoch <= m.Epoch && !r.Status.Final() && r.Cluster == b.Cluster {
			live = append(live, r)
		}
	}
	err = b.each(ctx, live, func(ctx context.Context, r mlaas.Replica) error {
		wait, err := b.dismiss(ctx, r, m.Grace.Duration(), m.Reason)
		if _, ok := errors.AsType[away](err); ok {
			b.Log.Warn("a replica cannot be ended yet", "run", r.Run, "replica", r.Fence.Replica, "error", err)
			wait, err = patience, nil // no fault of the message
		}
		mu.Lock()
		defer mu.Unlock()
		again = max(again, wait)
		return err
	})
	if err != nil || again == 0 {
		return store.Batch{}, err
	}
	m.Grace = 0
	return store.Batch{Tell: []store.Message{queue.TellAfter(again, m)}}, nil
}

// dismiss ends a replica: politely if there is a grace and somebody to talk
// to, and says after how long to come back if that was not the end of it.
func (b *Booster) dismiss(ctx context.Context, r mlaas.Replica, grace time.Duration, reason string) (again time.Duration, err error) {
	c := b.monitor.line(r.Fence)
	if grace > 0 && (c != nil || r.Program) {
		if _, err := b.change(ctx, r.Fence, func(r *mlaas.Replica) store.Batch {
			b.move(r, mlaas.ReplicaStopping, reason)
			return store.Batch{}
		}); err != nil {
			return 0, known(err)
		}
		// After the commit: whoever calls from here on sees it in the record.
		if c := b.monitor.line(r.Fence); c != nil {
			c.tell(mlaas.Down{Stop: &mlaas.Stop{Grace: mlaas.Seconds(grace.Seconds()), Reason: reason}})
		}
		return grace + patience, nil
	}
	if c != nil && b.monitor.delivering(c) && b.inform.seen(r.Fence, mlaas.ReplicaStopping) < delivery {
		return patience / 2, nil // its program has ended; what it said last is on its way
	}
	return 0, b.end(ctx, r, reason)
}

// end ends a replica with everything that it started, then says so. Why it is
// ended is written first: its cluster tells of the end too, and may be faster.
func (b *Booster) end(ctx context.Context, r mlaas.Replica, reason string) error {
	to := func(s mlaas.ReplicaStatus) error {
		_, err := b.change(ctx, r.Fence, func(r *mlaas.Replica) store.Batch {
			b.move(r, s, reason)
			return store.Batch{}
		})
		return known(err)
	}
	if err := to(mlaas.ReplicaStopping); err != nil {
		return err
	}
	if err := b.stop(ctx, r.Fence); err != nil {
		return fmt.Errorf("end %s: %w", r.Fence, err)
	}
	failpoint.Hit("booster.stop.after")
	if c := b.monitor.line(r.Fence); c != nil {
		c.drained(ctx) // what it said before its end still counts
	}
	return to(mlaas.ReplicaStopped)
}

// sentence is an error without the word of its kind, which is for machines.
func sentence(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+mlaas.KindOf(err).Code)
}
