package booster

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// giveUp takes the replicas of a cluster that is away for too long for lost,
// so that their runs go on elsewhere. One that still talks to us is not: it is
// the cluster's API alone that is away. Should others be alive, their epoch
// keeps out what they say, and they are ended when the cluster is back.
func (b *Booster) giveUp(ctx context.Context) error {
	p := b.place
	p.mu.Lock()
	heard, away, fault := p.heard, p.away, p.fault
	p.mu.Unlock()
	if away.IsZero() || time.Since(heard) < givenUp {
		return nil
	}
	gone, all := b.others.gone(p.name, away)
	if all == 1 {
		return nil // there is no other to go on
	}
	alone := ""
	if 2*gone > all {
		alone = fmt.Sprintf("%d of %d clusters went away at the same moment, so the fault may be the platform's, and nothing is moved: ", gone, all)
	}
	p.mu.Lock()
	said := p.alone == alone || p.synced
	if !said {
		p.alone = alone
	}
	p.mu.Unlock()
	if !said && alone != "" {
		b.Log.Error("many clusters went away at the same moment: the fault may be ours, and nothing is moved", "cluster", p.name, "away", gone, "of", all)
	}
	if !said {
		b.measure(ctx)
	}
	if alone != "" {
		return nil
	}
	live, err := b.live(ctx)
	if err != nil {
		return err
	}
	for _, r := range live {
		if b.inform.silent(r.Fence) < givenUp-probeEvery {
			continue
		}
		_, err := b.change(ctx, r.Fence, func(r *mlaas.Replica) store.Batch {
			b.move(r, mlaas.ReplicaLost, fmt.Sprintf("cluster %s has not answered for %s (%s), and neither has it", p.name, time.Since(heard).Round(time.Second), fault))
			return store.Batch{}
		})
		if known(err) != nil {
			return err
		}
	}
	return nil
}

// silent is how long nothing was heard of a replica; of one that never talked
// to this process, for ever.
func (i *informer) silent(f mlaas.Fence) time.Duration {
	c := i.known(f)
	if c == nil {
		return math.MaxInt64
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.last)
}

// neighbours are the clusters of the platform, as their boosters write of
// them: many that go away at once are a sign that we are cut off, not they.
type neighbours struct {
	mu   sync.Mutex
	away map[string]time.Time // when each was seen to go; long ago where it was away before; zero: it is not
}

// together is how close to each other clusters go away that do so at once.
const together = 30 * time.Second

// watch follows the records of the clusters.
func (n *neighbours) watch(ctx context.Context, db store.Driver, log *slog.Logger) error {
	records := store.Clusters(db)
	n.mu.Lock()
	n.away = map[string]time.Time{}
	n.mu.Unlock()
	for first := true; ; first = false {
		changes, ended := make(chan store.Change), make(chan error, 1)
		go func() { ended <- db.Watch(ctx, 0, []string{records.Kind}, changes) }()
		now := time.Now
		if first {
			now = func() time.Time { return time.Unix(0, 0) } // until Synced: long ago
		}
		for watching := true; watching; {
			select {
			case c := <-changes:
				if c.Synced {
					now = time.Now
				} else {
					n.take(records, c, now())
				}
			case err := <-ended:
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				log.Warn("the clusters cannot be watched", "error", err)
				watching = false
			}
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (n *neighbours) take(records store.Records[mlaas.Cluster], c store.Change, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := c.Row.Key.ID
	cluster, err := records.Decode(c.Row)
	switch {
	case c.Deleted:
		delete(n.away, name)
	case err != nil || cluster.Up:
		n.away[name] = time.Time{}
	case n.away[name].IsZero():
		n.away[name] = now
	}
}

// gone counts the clusters that went away when this one did, itself too, and
// all that there are.
func (n *neighbours) gone(name string, when time.Time) (gone, all int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	gone, all = 1, 1
	for other, at := range n.away {
		if other == name {
			continue
		}
		all++
		if !at.IsZero() && at.Sub(when).Abs() <= together {
			gone++
		}
	}
	return gone, all
}
