package booster

import (
	"context"
	"errors"
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

// depart removes the records of a cluster that is to go, if nothing is left on
// it. A cluster that is away is not waited for once its replicas are given up:
// their epochs keep out whatever comes from there.
func (b *Booster) depart(ctx context.Context) error {
	if !b.leaving.asked.Load() || b.leaving.over.Load() {
		return nil
	}
	ledgers, clusters, specs, keys := store.Ledgers(b.DB), store.Clusters(b.DB), store.ClusterSpecs(b.DB), store.ClusterKeys(b.DB)
	var gone []store.Row
	ledger, rev, err := ledgers.Get(ctx, "", b.Cluster)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) || len(ledger.Grants) > 0 {
		return err
	}
	if rev > 0 {
		gone = append(gone, ledgers.At("", b.Cluster, rev))
	}
	live, err := store.Replicas(b.DB).All(ctx, store.Query{Index: "live"})
	if err != nil {
		return err
	}
	for _, f := range live {
		if f.Value.Cluster == b.Cluster {
			return nil
		}
	}
	b.place.mu.Lock()
	up := b.place.synced
	b.place.mu.Unlock()
	if up {
		there, err := b.there(ctx)
		if err != nil {
			return err
		}
		for _, n := range there {
			if n.Status != mlaas.ReplicaStopped {
				return nil // it is being cleared
			}
		}
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
