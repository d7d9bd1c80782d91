// Package contractor schedules runs: it hears what was asked and what the
// replicas do, lets the job engine decide, and tells booster.
//
// It keeps nothing that a restart could not read back. What a run needs next is
// read from records each time (look.go), decided by package jobengine, and
// committed together with the messages that it causes. Who may start is decided
// for all waiting runs at once (admit.go). A message is only a reason to look:
// if one is lost, the look that comes every 30 s finds the same.
package contractor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/contractor/jobengine"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Contractor is the service. Fill in the fields, then call Run. Several may
// run over one store: all hear messages, and each commit checks that what it
// decided on still stands. One of them at a time, who holds the lease, says who
// may start and looks where nobody was told to.
type Contractor struct {
	DB     store.Driver
	Member *lease.Member    // of this process, which runs it
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nobody listens

	Counts *Counts      // what it did; nil: nobody asks
	Trace  trace.Tracer // nil: nobody watches

	uncounted Counts          // where nobody asks
	going     map[string]bool // the clusters that are to be removed; of the keeper alone
}

// Counts are what a contractor did.
type Counts struct {
	Queue      queue.Counts
	Conflicts  meter.Counter // another commit was faster, and it decided anew
	Reconciled meter.Moment  // when it looked at every live run; only who holds the lease does
}

const (
	// lookAgain is how long the records of a live run go unlooked at.
	lookAgain = 30 * time.Second
	// review is when a run that nothing is expected of is looked at again.
	review = time.Hour
	// askAgain is when a wish that had no effect yet is said once more.
	askAgain = time.Minute
	// readyLimit is how long a supervisor may take until it waits for code; on
	// a cluster this includes the image.
	readyLimit = 15 * time.Minute
	// firstPause and longestPause are how long a run waits before it begins
	// again; the pause doubles with each short attempt.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// shortAttempt is how long an attempt lasts at most to make the pause grow.
	shortAttempt = 10 * time.Minute
	// tries is how often a commit that meets another one is tried anew before
	// it is left to the next look.
	tries = 10
)

func (c *Contractor) counts() *Counts {
	if c.Counts != nil {
		return c.Counts
	}
	return &c.uncounted
}

func (c *Contractor) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (c *Contractor) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Run works until ctx ends, and then returns nil.
func (c *Contractor) Run(ctx context.Context) error {
	in := &queue.Inbox{DB: c.DB, Name: mlaas.ToContractor, Log: c.log(), Counts: &c.counts().Queue, Trace: c.Trace}
	queue.On(in, c.runAsked)
	queue.On(in, c.stopAsked)
	queue.On(in, c.replicaChanged)
	queue.On(in, c.ruleFired)
	queue.On(in, func(context.Context, CapacityChanged) (store.Batch, error) { return store.Batch{}, nil })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return in.Run(ctx) })
	g.Go(func() error { return c.Member.Hold(ctx, store.AdmissionLease, c.keep) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// keep is the work of the one contractor that holds the lease. What it commits
// checks that it still does.
func (c *Contractor) keep(ctx context.Context, t *lease.Tenure) error {
	holder := &Contractor{DB: t.Over(), Now: c.Now, Log: c.Log, Counts: c.counts(), Trace: c.Trace, going: map[string]bool{}}
	k := &keeper{c: holder, next: map[key]time.Time{}}
	k.run(ctx)
	return ctx.Err()
}

// CapacityChanged was told by version 0.1. It is heard so that what such a
// version left behind is not parked: clusters are watched instead.
type CapacityChanged struct {
	Cluster string `json:"cluster"`
}

// To is who hears the message.
func (CapacityChanged) To() string { return mlaas.ToContractor }

// Key is what must be handled in order.
func (m CapacityChanged) Key() string { return m.Cluster }

func (c *Contractor) runAsked(ctx context.Context, m mlaas.RunAsked) (store.Batch, error) {
	return c.look(ctx, m.Tenant, m.Run, nil)
}

func (c *Contractor) stopAsked(ctx context.Context, m mlaas.StopAsked) (store.Batch, error) {
	return c.look(ctx, m.Tenant, m.Run, nil)
}

func (c *Contractor) replicaChanged(ctx context.Context, m mlaas.ReplicaChanged) (store.Batch, error) {
	return c.look(ctx, m.Tenant, m.Run, nil)
}

// ruleFired is the one message that says more than the records do.
func (c *Contractor) ruleFired(ctx context.Context, m mlaas.RuleFired) (store.Batch, error) {
	return c.look(ctx, m.Tenant, m.Run, &m)
}

type key struct {
	tenant mlaas.Tenant
	run    mlaas.RunID
}

// A keeper looks where nobody was told to: at runs whose deadline has come, at
// all live runs every 30 s, and at the line when anything changed that may let
// a run in. What it remembers is only when to look.
type keeper struct {
	c    *Contractor
	next map[key]time.Time
	line line

	leave bool // a cluster is to be removed, of which that was not known

	seen  store.Key    // how far the search for runs that nobody heard of has come
	heard map[key]bool // runs that have a state, which they keep
}

func (k *keeper) run(ctx context.Context) {
	changes := make(chan store.Change, 256)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { k.watch(ctx, changes) })
	regular := time.NewTimer(0) // at once: somebody may have died before us
	defer regular.Stop()
	deadline := time.NewTimer(review)
	defer deadline.Stop()
	for {
		deadline.Reset(k.until())
		admit := false
		select {
		case <-ctx.Done():
			return
		case change := <-changes:
			admit = k.note(change)
			for more := true; more; { // a burst is one reason to look
				select {
				case change = <-changes:
					admit = k.note(change) || admit
				default:
					more = false
				}
			}
		case <-deadline.C:
			admit = k.due(ctx)
		case <-regular.C:
			if err := k.all(ctx); err == nil {
				k.c.counts().Reconciled.Set(time.Now())
			} else if ctx.Err() == nil {
				k.c.log().Error("look at every run", "error", err)
			}
			regular.Reset(lookAgain)
			admit = true
		}
		if k.leave {
			k.leave = false
			regular.Reset(0) // what runs there moves
		}
		if !admit {
			continue
		}
		if err := k.c.admit(ctx, &k.line); err != nil && ctx.Err() == nil {
			k.c.log().Error("admit runs", "error", err)
		}
	}
}

// watch tells of every record that admission depends on, from the beginning
// each time the store loses the thread.
func (k *keeper) watch(ctx context.Context, changes chan<- store.Change) {
	for {
		err := k.c.DB.Watch(ctx, 0, []string{"runstate", "ledger", "cluster", "clusterspec"}, changes)
		if ctx.Err() != nil {
			return
		}
		k.c.log().Error("watch the records", "error", err)
		pause := time.NewTimer(firstPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// note remembers when a run is to be looked at, and reports whether the change
// may let a waiting run in.
func (k *keeper) note(change store.Change) (admit bool) {
	row := change.Row
	if change.Synced {
		return true
	}
	if row.Key.Kind == "clusterspec" {
		k.wanted(change)
		return true
	}
	if row.Key.Kind != "runstate" {
		return true
	}
	at := key{row.Key.Tenant, mlaas.RunID(row.Key.ID)}
	if change.Deleted || !slices.Contains(row.Index, "live") {
		delete(k.next, at)
		return false // what it held is in a ledger, whose change is told apart
	}
	state, err := store.RunStates(k.c.DB).Decode(row)
	if err != nil {
		k.c.log().Error("read the state of a run", "run", at.run, "error", err)
		return false
	}
	k.next[at] = state.Next
	return state.State == mlaas.Queued
}

// wanted remembers which clusters are to be removed.
func (k *keeper) wanted(change store.Change) {
	name := change.Row.Key.ID
	if change.Deleted {
		delete(k.c.going, name)
		return
	}
	spec, err := store.ClusterSpecs(k.c.DB).Decode(change.Row)
	if err != nil {
		k.c.log().Error("read what is wanted of a cluster", "cluster", name, "error", err)
		return
	}
	if spec.Wanted != mlaas.ClusterGone {
		delete(k.c.going, name)
	} else if !k.c.going[name] {
		k.c.going[name], k.leave = true, true
	}
}

// until is how long nothing is due.
func (k *keeper) until() time.Duration {
	wait := review
	now := k.c.now()
	for _, t := range k.next {
		if !t.IsZero() {
			wait = min(wait, t.Sub(now))
		}
	}
	return max(wait, 0)
}

// due looks at the runs whose deadline has come. A run is forgotten until its
// record changes: one that a look does not move on is left to the regular look.
func (k *keeper) due(ctx context.Context) (admit bool) {
	now := k.c.now()
	for at, t := range k.next {
		if t.IsZero() || t.After(now) {
			continue
		}
		delete(k.next, at)
		admit = true // the pause of a waiting run may be what is over
		if err := k.c.settle(ctx, at.tenant, at.run); err != nil && ctx.Err() == nil {
			k.c.log().Error("look at a run", "run", at.run, "error", err)
		}
	}
	return admit
}

// scrub is at how many runs a regular look checks that somebody heard of them,
// and remember of how many it remembers that somebody did.
const (
	scrub    = 200
	remember = 20 * scrub
)

// all looks at every live run, at runs that nobody seems to have heard of, and
// at what is held or alive without a right to be.
func (k *keeper) all(ctx context.Context) error {
	states := store.RunStates(k.c.DB)
	found, err := states.All(ctx, store.Query{Index: "live"})
	if err != nil {
		return err
	}
	var failed error
	live := map[key]mlaas.RunState{}
	for _, s := range found {
		at := key{s.Value.Tenant, s.Value.Run}
		live[at] = s.Value
		k.next[at] = s.Value.Next
		failed = errors.Join(failed, k.c.settle(ctx, at.tenant, at.run))
	}
	runs, next, err := k.c.DB.List(ctx, store.Query{Kind: "run", Reverse: true, After: k.seen, Limit: scrub}) // their names are enough
	if err != nil {
		return errors.Join(failed, err)
	}
	k.seen = next // zero on the last page: begin again
	if k.heard == nil || len(k.heard) > remember {
		k.heard = map[key]bool{}
	}
	for _, r := range runs {
		at := key{r.Key.Tenant, mlaas.RunID(r.Key.ID)}
		if _, ok := live[at]; ok || k.heard[at] {
			continue
		}
		_, _, err := states.Get(ctx, at.tenant, string(at.run))
		if errors.Is(err, mlaas.ErrNotFound) {
			err = k.c.settle(ctx, at.tenant, at.run)
		}
		k.heard[at] = err == nil
		failed = errors.Join(failed, err)
	}
	return errors.Join(failed, k.c.tidy(ctx, live))
}

// settle looks at a run and commits what follows. A run that makes us panic
// harms itself alone.
func (c *Contractor) settle(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) (err error) {
	defer safely(&err)
	return c.commit(ctx, func() (store.Batch, error) { return c.look(ctx, tenant, run, nil) })
}

// commit commits what decide says, deciding anew whenever another commit came
// between.
func (c *Contractor) commit(ctx context.Context, decide func() (store.Batch, error)) error {
	for try := 1; ; try++ {
		b, err := decide()
		if err != nil || b.Empty() {
			return err
		}
		if err = c.DB.Commit(ctx, b); !errors.Is(err, mlaas.ErrConflict) || try == tries {
			return err
		}
		c.counts().Conflicts.Inc()
	}
}

// safely makes a panic an error of the function that defers it.
func safely(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// tidy ends what has no right to be: replicas of a run that is over or in a
// later attempt, and what a ledger still holds for such a run. Both are
// mistakes of a moment between two commits, and both heal here. live is what
// was read a moment ago; what seems wrong by it is read again.
func (c *Contractor) tidy(ctx context.Context, live map[key]mlaas.RunState) error {
	over := func(tenant mlaas.Tenant, run mlaas.RunID, epoch int) (bool, store.Row, error) {
		if s, ok := live[key{tenant, run}]; ok && epoch >= s.Epoch {
			return false, store.Row{}, nil
		}
		s, rev, err := store.RunStates(c.DB).Get(ctx, tenant, string(run))
		gone := errors.Is(err, mlaas.ErrNotFound)
		if err != nil && !gone {
			return false, store.Row{}, err
		}
		return gone || s.State.Final() || s.Epoch > epoch, store.RunStates(c.DB).At(tenant, string(run), rev), nil
	}
	replicas, err := store.Replicas(c.DB).All(ctx, store.Query{Index: "live"})
	if err != nil {
		return err
	}
	var unwanted store.Batch
	told := map[mlaas.ReplicasUnwanted]bool{}
	for _, r := range replicas {
		m := mlaas.ReplicasUnwanted{Tenant: r.Value.Tenant, Run: r.Value.Run, Epoch: r.Value.Epoch, Cluster: r.Value.Cluster, Reason: "the attempt is over"}
		if told[m] {
			continue
		}
		told[m] = true
		end, _, err := over(m.Tenant, m.Run, m.Epoch)
		if err != nil {
			return err
		}
		if end {
			unwanted.Tell = append(unwanted.Tell, queue.Tell(m))
		}
	}
	var failed error
	if !unwanted.Empty() {
		failed = c.DB.Commit(ctx, unwanted)
	}
	ledgers, err := store.Ledgers(c.DB).All(ctx, store.Query{})
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, l := range ledgers {
		var b store.Batch
		for run, g := range l.Value.Grants {
			end, row, err := over(g.Tenant, run, g.Epoch)
			if err != nil {
				return errors.Join(failed, err)
			}
			if end {
				delete(l.Value.Grants, run)
				b.Check = append(b.Check, row)
				c.log().Warn("a grant outlived its attempt", "run", run, "cluster", l.Value.Cluster)
			}
		}
		if b.Empty() {
			continue
		}
		b.Put = append(b.Put, store.Ledgers(c.DB).Put(l.Value, l.Rev))
		if err := c.DB.Commit(ctx, b); err != nil && !errors.Is(err, mlaas.ErrConflict) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// moved logs a step of a run.
func (c *Contractor) moved(run mlaas.Run, r jobengine.Rule, why string) {
	c.log().Info("a run moved", "run", run.ID, "name", name(run), "from", r.From, "event", r.On, "to", r.To, "do", r.Do, "why", why)
}
