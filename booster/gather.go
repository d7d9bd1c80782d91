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
	// quietFor is for how long nothing more is to come of a run until its news
	// are written, and gatherFor how long they wait at most. The replicas of a run
	// are asked for together, and each is in several states within a moment; what
	// they wait for is to be read by people. An end is not kept waiting, and
	// neither is what a replica says itself.
	quietFor  = time.Second
	gatherFor = 2 * time.Second

	// blockedFor is how long they wait where a replica has come upon something
	// that does not pass by itself: the others of the run often come upon it too.
	// It is of the first such news of a replica; those that follow are mostly the
	// same in other words.
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

// A pile is the news of one run, in the order in which they came. What it says is
// under the gathering's lock.
type pile struct {
	news    []News
	first   time.Time            // when the first of them came
	due     time.Time            // when they are written; without any: when the pile is forgotten
	hurried bool                 // due is not put off any more
	blocked map[mlaas.Fence]bool // replicas of which that is known
	sooner  chan struct{}        // has one in it when due has come nearer
}

// add takes news, which are written in their order. When ctx ends, all that is
// left is.
func (g *gathering) add(ctx context.Context, n News) {
	key := runKey{n.Fence.Tenant, n.Fence.Run}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	p := g.piles[key]
	if p == nil {
		p = &pile{blocked: map[mlaas.Fence]bool{}, sooner: make(chan struct{}, 1)}
		g.piles[key] = p
		g.wait.Go(func() { g.tend(ctx, key, p) })
	}
	if len(p.news) == 0 {
		p.first, p.hurried = now, false
		notify(p.sooner)
	}
	p.news = append(p.news, n)
	if !p.hurried {
		p.due = earlier(now.Add(quietFor), p.first.Add(gatherFor))
	}
	switch {
	case n.Status.Final():
		p.hurry(now)
	case n.Blocked && !p.blocked[n.Fence]:
		p.blocked[n.Fence] = true
		p.hurry(now.Add(blockedFor))
	}
}

// hurry has the news written by then.
func (p *pile) hurry(by time.Time) {
	p.due, p.hurried = earlier(by, p.due), true
	notify(p.sooner)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tend writes a pile again and again, until nothing came for a while.
func (g *gathering) tend(ctx context.Context, key runKey, p *pile) {
	for {
		g.mu.Lock()
		left := time.Until(p.due)
		g.mu.Unlock()
		if left > 0 && ctx.Err() == nil {
			timer := time.NewTimer(left)
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-p.sooner:
			}
			timer.Stop()
			continue // it may have been put off
		}
		g.slots <- struct{}{}
		g.mu.Lock()
		news := p.news
		p.news, p.due = nil, time.Now().Add(gatherFor)
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
