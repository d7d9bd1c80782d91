package booster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A departure is whether the cluster is to go. Contractor moves what runs on it;
// once nothing is left, its records are removed, and nobody serves it any more.
type departure struct {
	asked atomic.Bool // it is to go
	over  atomic.Bool // its records are removed: nothing is written of it any more
}

// watch follows what is wanted of the cluster. While it is to go, every ledger
// that changes is a reason to look whether anything is left.
func (d *departure) watch(ctx context.Context, b *Booster) error {
	specs := store.ClusterSpecs(b.DB)
	for {
		within, cancel := context.WithCancel(ctx)
		kinds := []string{specs.Kind}
		asked := d.asked.Load()
		if asked {
			kinds = append(kinds, store.Ledgers(b.DB).Kind)
		}
		changes, ended := make(chan store.Change), make(chan error, 1)
		go func() { ended <- b.DB.Watch(within, 0, kinds, changes) }()
		var err error
		for watching := true; watching; {
			select {
			case c := <-changes:
				if c.Synced || c.Row.Key.ID != b.Cluster {
					continue
				}
				if c.Row.Key.Kind == specs.Kind && !c.Deleted {
					spec, err := specs.Decode(c.Row)
					if err == nil {
						d.asked.Store(spec.Wanted == mlaas.ClusterGone)
					}
				}
				if d.asked.Load() {
					b.wake()
				}
				if d.asked.Load() != asked {
					cancel()
				}
			case err = <-ended:
				watching = false
			}
		}
		turned := within.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !turned {
			b.Log.Warn("what is wanted of a cluster cannot be watched", "cluster", b.Cluster, "error", err)
			pause(ctx, time.Second)
		}
	}
}

// stop ends a replica. What is gone may be the last that a cluster waits for
// which is to go.
func (b *Booster) stop(ctx context.Context, f mlaas.Fence) error {
	err := b.place.stop(ctx, f)
	if err == nil && b.leaving.asked.Load() {
		b.wake()
	}
	return err
}

// depart removes the records of a cluster that is to go, if nothing is left on
// it, and else says what is. A cluster that is away is not waited for once its
// replicas are given up: their epochs keep out whatever comes from there.
func (b *Booster) depart(ctx context.Context) error {
	if !b.leaving.asked.Load() || b.leaving.over.Load() {
		return nil
	}
	ledgers, clusters, specs, keys := store.Ledgers(b.DB), store.Clusters(b.DB), store.ClusterSpecs(b.DB), store.ClusterKeys(b.DB)
	var gone []store.Row
	ledger, rev, err := ledgers.Get(ctx, "", b.Cluster)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	if rev > 0 {
		gone = append(gone, ledgers.At("", b.Cluster, rev))
	}
	left, err := b.left(ctx, ledger)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return b.remains(ctx, left)
	}
	spec, specRev, err := specs.Get(ctx, "", b.Cluster)
	if err != nil || spec.Wanted != mlaas.ClusterGone {
		return known(err)
	}
	gone = append(gone, specs.At("", b.Cluster, specRev))
	if _, rev, err := keys.Get(ctx, "", b.Cluster); err == nil {
		gone = append(gone, keys.At("", b.Cluster, rev))
	} else if !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	b.leave(ctx)
	b.writing <- struct{}{}
	defer func() { <-b.writing }()
	if _, rev, err := clusters.Get(ctx, "", b.Cluster); err == nil {
		gone = append(gone, clusters.At("", b.Cluster, rev))
	} else if !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	err = b.DB.Commit(ctx, store.Batch{Delete: gone})
	if errors.Is(err, mlaas.ErrConflict) {
		b.wake() // something came between
		return nil
	}
	if err == nil {
		b.leaving.over.Store(true)
		b.Log.Info("a cluster is removed", "cluster", b.Cluster)
	}
	return err
}

// leave has the place take away what it keeps besides replicas, if it answers.
// What cannot be removed is in nobody's way, and does not keep the cluster.
func (b *Booster) leave(ctx context.Context) {
	l, ok := b.Executor.(Leaver)
	b.place.mu.Lock()
	up := b.place.synced
	b.place.mu.Unlock()
	if !ok || !up {
		return
	}
	if err := b.place.ask(ctx, l.Leave); err != nil && ctx.Err() == nil {
		b.Log.Warn("a cluster is removed, and something of the platform's is left there", "cluster", b.Cluster, "error", err)
	}
}

// maxLeft is how much is named of what is left.
const maxLeft = 20

// left is what of a cluster that is to go is there still, a sentence each: it
// ends, moves, or is being cleared. A cluster that is given up, or never
// answered anybody, is not asked.
func (b *Booster) left(ctx context.Context, ledger mlaas.Ledger) (left []string, err error) {
	live, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	told, runs := map[mlaas.Fence]bool{}, map[mlaas.RunID]bool{}
	for _, r := range live {
		told[r.Fence], runs[r.Run] = true, true
		left = append(left, fmt.Sprintf("%s is %s: %s", r.Fence, r.Status, r.Reason))
	}
	record, _, err := store.Clusters(b.DB).Get(ctx, "", b.Cluster)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return nil, err
	}
	b.place.mu.Lock()
	up, silent := b.place.synced, time.Since(b.place.heard)
	b.place.mu.Unlock()
	switch {
	case !up && silent < givenUp && !record.Heard.IsZero(): // perhaps we have only just begun to ask
		left = append(left, "it has not answered for "+silent.Round(time.Second).String()+", so what is there is not known")
	case up:
		there, err := b.there(ctx)
		if err != nil {
			return nil, err
		}
		for f, n := range there {
			if n.Status != mlaas.ReplicaStopped && !told[f] {
				runs[f.Run] = true
				left = append(left, fmt.Sprintf("%s has ended, and is being cleared away", f))
			}
		}
	}
	for run := range ledger.Grants {
		if !runs[run] {
			left = append(left, fmt.Sprintf("run %s is placed there", run))
		}
	}
	slices.Sort(left)
	if more := len(left) - maxLeft; more > 0 {
		left = append(left[:maxLeft], fmt.Sprintf("and %d more", more))
	}
	return left, nil
}

// remains writes what is left, for who waits until nothing is.
func (b *Booster) remains(ctx context.Context, left []string) error {
	b.writing <- struct{}{}
	defer func() { <-b.writing }()
	clusters := store.Clusters(b.DB)
	c, rev, err := clusters.Get(ctx, "", b.Cluster)
	if err != nil || slices.Equal(c.Left, left) {
		return known(err)
	}
	c.Left = left
	err = b.DB.Commit(ctx, store.Batch{Put: []store.Row{clusters.Put(c, rev)}})
	if errors.Is(err, mlaas.ErrConflict) {
		b.wake() // something came between
		return nil
	}
	return err
}
