package booster

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// reconcile compares, at the start and every 30 s, what the records say with
// what the cluster has: a message or news that was lost delays and never
// strands.
func (b *Booster) reconcile(ctx context.Context) error {
	timer := time.NewTimer(reconcileEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-b.poke: // also when a cluster's news come for the first time
		}
		timer.Reset(reconcileEvery)
		var g errgroup.Group
		var failed atomic.Bool
		g.Go(func() error {
			b.measure(ctx)
			if err := b.compare(ctx); err != nil && ctx.Err() == nil {
				failed.Store(true)
				b.Log.Error("compare the cluster with the records", "cluster", b.Cluster, "error", err)
			}
			if err := b.depart(ctx); err != nil && ctx.Err() == nil {
				failed.Store(true)
				b.Log.Error("remove a cluster", "cluster", b.Cluster, "error", err)
			}
			return nil
		})
		for _, c := range b.monitor.all() {
			g.Go(func() error {
				if err := b.monitor.direct(ctx, c); err != nil && ctx.Err() == nil {
					b.Log.Error("tell a replica what to do", "run", c.fence.Run, "replica", c.fence.Replica, "error", err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if !failed.Load() {
			b.Counts.Reconciled.Set(time.Now())
		}
	}
}

// compareWithin keeps a cluster that answers nothing from holding up others.
const compareWithin = time.Minute

// compare looks at the place. Records are read before what is there: what they
// say has been started must be found.
func (b *Booster) compare(ctx context.Context) error {
	p := b.place
	p.mu.Lock()
	up := p.synced
	p.mu.Unlock()
	if !up {
		return b.giveUp(ctx) // it is being called
	}
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	live, err := b.live(ctx)
	if err != nil {
		return err
	}
	there, err := b.there(ctx)
	if err != nil {
		return err
	}
	runs, alive := map[runKey]wish{}, map[mlaas.Fence]bool{}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, r := range live {
		alive[r.Fence] = true
		key := runKey{r.Tenant, r.Run}
		w, ok := runs[key]
		if !ok {
			if w, err = b.wish(ctx, key); err != nil {
				break
			}
			runs[key] = w
		}
		g.Go(func() error {
			n, ok := there[r.Fence]
			return b.mend(within, r, w, n, ok)
		})
	}
	for f, n := range there {
		if n.Status != mlaas.ReplicaStopped && !alive[f] && err == nil {
			g.Go(func() error { return b.clear(within, f) })
		}
	}
	return errors.Join(err, g.Wait())
}

// live are the replicas of this cluster that are not final. Those that v0.1
// wrote are only found among those of all clusters; once there are none, it is
// not looked for any: while we serve the cluster nobody else writes them.
func (b *Booster) live(ctx context.Context) (all []mlaas.Replica, err error) {
	records := store.Replicas(b.DB)
	q := store.Query{Kind: records.Kind, Index: "live"}
	if b.indexed.Load() {
		q.Index = store.LiveOn(b.Cluster)
	}
	indexed := true
	for {
		rows, next, err := b.DB.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			r, err := records.Decode(row)
			if err != nil {
				return nil, err
			}
			if r.Cluster == b.Cluster {
				all = append(all, r)
				indexed = indexed && slices.Contains(row.Index, store.LiveOn(b.Cluster))
			}
		}
		if next == (store.Key{}) {
			b.indexed.Store(indexed)
			return all, nil
		}
		q.After = next
	}
}

// A wish is what is wanted of a run.
type wish struct {
	run   mlaas.Run
	state mlaas.RunState
	gone  bool // it was removed
}

func (b *Booster) wish(ctx context.Context, of runKey) (w wish, err error) {
	w.state, _, err = store.RunStates(b.DB).Get(ctx, of.Tenant, string(of.RunID))
	if err == nil {
		w.run, _, err = store.Runs(b.DB).Get(ctx, of.Tenant, string(of.RunID))
	}
	if w.gone = errors.Is(err, mlaas.ErrNotFound); w.gone {
		err = nil
	}
	return w, err
}

// mend brings one live record and what is there together.
func (b *Booster) mend(ctx context.Context, r mlaas.Replica, w wish, n News, there bool) error {
	run, state := w.run, w.state
	grace := run.Spec.Execution.Grace.Duration()
	if grace == 0 {
		grace = 10 * time.Second
	}
	switch {
	case w.gone || state.Epoch > r.Epoch || state.State.Final():
		return b.end(ctx, r, "its attempt is over")
	case r.Status == mlaas.ReplicaStopping && b.inform.seen(r.Fence, r.Status) > grace+patience+delivery:
		return b.end(ctx, r, r.Reason)
	case !active(state.State) && r.Status != mlaas.ReplicaStopping:
		_, err := b.dismiss(ctx, r, grace, "the run is "+string(state.State)) // the message is late
		return err
	case there && n.Status.Final():
		b.heard(ctx, n)
	case there:
	case b.monitor.line(r.Fence) != nil:
		// It talks to us. When it ends, so does its line.
	case r.Status == mlaas.ReplicaWanted || r.Status == mlaas.ReplicaCreating:
		return b.begin(ctx, run, r) // its message was interrupted
	default:
		b.heard(ctx, News{Fence: r.Fence, Status: mlaas.ReplicaLost, Reason: "it is not on " + b.Cluster + " any more"})
	}
	return nil
}

// clear ends what is there without a live record: of an older attempt, of a
// run that was removed, or over already. What was lost to us, but talks, may
// deliver the rest of its log first.
func (b *Booster) clear(ctx context.Context, f mlaas.Fence) error {
	r, _, err := store.Replicas(b.DB).Get(ctx, f.Tenant, store.ReplicaKey(f.Run, f.Replica))
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	if err == nil && r.Fence == f {
		if !r.Status.Final() {
			return nil
		}
		if b.monitor.line(f) != nil && b.inform.seen(f, r.Status) < delivery {
			return nil
		}
	}
	b.Log.Info("end what has no right to be there", "run", f.Run, "replica", f.Replica, "epoch", f.Epoch)
	err = b.stop(ctx, f)
	if err == nil {
		b.inform.forget(f)
	}
	return err
}
