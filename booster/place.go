package booster

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A place is the cluster and whether it answers.
type place struct {
	Executor
	name string
	seed maphash.Seed

	mu     sync.Mutex
	synced bool   // its news come
	fault  string // why not, once that is known
}

func newPlace(name string, e Executor) *place {
	return &place{Executor: e, name: name, seed: maphash.MakeSeed()}
}

// heardEvery is how often a cluster's record is written although nothing about
// it changed.
const heardEvery = 10 * time.Minute

// follow takes the news of the place, and begins again when it comes back.
func (b *Booster) follow(ctx context.Context) error {
	p := b.place
	const first, longest = time.Second, 30 * time.Second
	wait := first
	for {
		began := b.Now()
		err := b.listen(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.Log.Warn("a cluster is lost", "cluster", p.name, "error", err, "again", wait)
		p.mu.Lock()
		p.synced, p.fault = false, sentence(err)
		p.mu.Unlock()
		b.measure(ctx)
		if b.Now().Sub(began) > longest {
			wait = first
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		wait = min(2*wait, longest)
	}
}

// listen is one Watch. News of one replica stay in order; of many they are
// written side by side, so that their commits share a write to disk.
func (b *Booster) listen(ctx context.Context) error {
	p := b.place
	g, ctx := errgroup.WithContext(ctx)
	news := make(chan News)
	var side [8]chan News
	for i := range side {
		side[i] = make(chan News, 64)
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case n := <-side[i]:
					b.heard(ctx, n)
				}
			}
		})
	}
	g.Go(func() error {
		err := p.Watch(ctx, news)
		if err == nil {
			err = errors.New("its news ended")
		}
		return err
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case n := <-news:
				if n.Synced {
					p.mu.Lock()
					p.synced, p.fault = true, ""
					p.mu.Unlock()
					b.measure(ctx)
					b.wake()
					continue
				}
				select {
				case side[maphash.Comparable(p.seed, n.Fence)%uint64(len(side))] <- n:
				case <-ctx.Done():
				}
			}
		}
	})
	return g.Wait()
}

// measure writes what the place has into its record, if that changed.
func (b *Booster) measure(ctx context.Context) {
	p := b.place
	p.mu.Lock()
	up, fault := p.synced, p.fault
	p.mu.Unlock()
	if !up && fault == "" {
		return // it is only just being asked
	}
	have, err := p.Capacity(ctx)
	if err != nil {
		up, fault = false, sentence(err)
	}
	if ctx.Err() != nil {
		return
	}
	records := store.Clusters(b.DB)
	for {
		old, rev, err := records.Get(ctx, "", p.name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			b.Log.Error("read a cluster's record", "cluster", p.name, "error", err)
			return
		}
		c := old
		c.Name, c.Kind, c.Up, c.Reason = p.name, p.name, up, fault
		if k, ok := p.Executor.(interface{ Kind() string }); ok {
			c.Kind = k.Kind()
		}
		if up {
			c.Node, c.Capacity, c.Limits, c.Reason = have.Node, have.Total, have.Limits, "it is up"
		}
		if c.Limits == nil {
			c.Limits = []string{}
		}
		now := b.Now().UTC()
		changed := rev == 0 || !same(c, old)
		if !changed && (!up || now.Sub(c.Heard) < heardEvery) {
			return
		}
		if up {
			c.Heard = now
		}
		if err := b.DB.Commit(ctx, store.Batch{Put: []store.Row{records.Put(c, rev)}}); errors.Is(err, mlaas.ErrConflict) {
			continue
		} else if err != nil {
			b.Log.Error("write a cluster's record", "cluster", p.name, "error", err)
		}
		return
	}
}

// there is what the place has at this moment, replica by replica.
func (b *Booster) there(ctx context.Context) (map[mlaas.Fence]News, error) {
	ctx, cancel := context.WithTimeout(ctx, reconcileEvery)
	defer cancel()
	news, ended := make(chan News), make(chan error, 1)
	go func() {
		defer close(ended)
		ended <- b.place.Watch(ctx, news)
	}()
	all := map[mlaas.Fence]News{}
	for {
		select {
		case n := <-news:
			if n.Synced {
				cancel()
				for range ended { // until it is over
				}
				return all, nil
			}
			all[n.Fence] = n
		case err := <-ended:
			if err == nil {
				err = errors.New("its news ended")
			}
			return nil, err
		}
	}
}
