package booster

import (
	"context"
	"errors"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const (
	// gatherFor is how long news of a run wait for more of it. The replicas of a
	// run are asked for together, and each is in several states within a moment;
	// what they wait for is to be read by people. An end is not kept waiting, and
	// neither is what a replica says itself.
	gatherFor = 2 * time.Second

	// blockedFor is the same where a replica has come upon something that it
	// waits for until somebody does something: the others of the run often come
	// upon it too. It is of the first such news of a replica; those that follow
	// are mostly the same in other words.
	blockedFor = 100 * time.Millisecond
)

// A gathering keeps the news of a place that are not in the records yet.
type gathering struct {
	b     *Booster
	slots chan struct{} // has one in it for each pile that is being written
	wait  sync.WaitGroup

	mu    sync.Mutex
	piles map[runKey]*pile
}

// A pile is the news of one run, in the order in which they came.
type pile struct {
	news    []News               // under the gathering's lock
	blocked map[mlaas.Fence]bool // the same: those of which that is known
	now     chan struct{}        // has one in it when they are not to wait
	soon    chan struct{}        // has one in it when they are not to wait for long
}

// add takes news, which are written in their order. When ctx ends, all that is
// left is.
func (g *gathering) add(ctx context.Context, n News) {
	key := runKey{n.Fence.Tenant, n.Fence.Run}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.piles[key]
	if p == nil {
		p = &pile{blocked: map[mlaas.Fence]bool{}, now: make(chan struct{}, 1), soon: make(chan struct{}, 1)}
		g.piles[key] = p
		g.wait.Go(func() { g.tend(ctx, key, p) })
	}
	p.news = append(p.news, n)
	switch {
	case n.Status.Final():
		notify(p.now)
	case n.Blocked && !p.blocked[n.Fence]:
		p.blocked[n.Fence] = true
		notify(p.soon)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tend writes a pile again and again, until nothing came for a while.
func (g *gathering) tend(ctx context.Context, key runKey, p *pile) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	due := time.Now().Add(gatherFor)
	for {
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.now:
		case <-p.soon:
			if early := time.Now().Add(blockedFor); early.Before(due) {
				due = early
				timer.Reset(blockedFor)
			}
			continue
		}
		g.slots <- struct{}{}
		g.mu.Lock()
		news := p.news
		p.news = nil
		if len(news) == 0 {
			delete(g.piles, key)
		}
		g.mu.Unlock()
		if len(news) > 0 {
			g.b.heardAll(g.b.life, news)
		}
		<-g.slots
		if len(news) == 0 {
			return
		}
		timer.Reset(gatherFor)
		due = time.Now().Add(gatherFor)
	}
}

// heardAll takes news of one run. What does not end a replica is one commit,
// unless the run has rules: each may look at what another replica has set off.
func (b *Booster) heardAll(ctx context.Context, news []News) {
	rules, err := b.rules(ctx, news[0].Fence.Tenant, news[0].Fence.Run)
	if err != nil {
		b.unwritten(ctx, news[0].Fence, err)
		return
	}
	var ends []News
	var order []mlaas.Fence
	of := map[mlaas.Fence][]News{}
	for _, n := range news {
		switch {
		case n.Status.Final():
			ends = append(ends, n)
		case len(rules) > 0:
			b.outside(ctx, n)
		default:
			if of[n.Fence] == nil {
				order = append(order, n.Fence)
			}
			of[n.Fence] = append(of[n.Fence], n)
		}
	}
	for {
		var drafts []draft
		for _, f := range order {
			d, err := b.draft(ctx, f, func(r *mlaas.Replica) store.Batch {
				for _, n := range of[f] {
					b.seen(ctx, r, n)
				}
				return store.Batch{}
			})
			if err == nil {
				drafts = append(drafts, d)
			} else {
				b.unwritten(ctx, f, err)
			}
		}
		err := b.write(ctx, drafts...)
		if errors.Is(err, mlaas.ErrConflict) {
			continue
		}
		if err != nil {
			b.unwritten(ctx, order[0], err)
		}
		break
	}
	for _, n := range ends {
		b.heard(ctx, n)
	}
}
