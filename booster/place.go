package booster

import (
	"context"
	"errors"
	"fmt"
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

	mu     sync.Mutex
	synced bool      // its news come
	fault  string    // why not, once that is known
	alone  string    // why nothing is moved from it although it is away; empty: it is
	heard  time.Time // when it answered last; at first: when we began to ask
	away   time.Time // when we found that it does not answer; zero: it does
}

func newPlace(name string, e Executor) *place {
	return &place{Executor: e, name: name, heard: time.Now()}
}

const (
	// probeEvery and probeWithin are how soon a cluster that says nothing is
	// suspected: it is asked again and again, and answers in time or is away.
	probeEvery  = 5 * time.Second
	probeWithin = 5 * time.Second

	// givenUp is how long a cluster may be away, since its last answer, until
	// its replicas are taken for lost. An outage of 45 s costs nobody an
	// attempt: the last answer may be probeEvery older than the outage.
	givenUp = 45*time.Second + probeEvery
)

// probe asks the place whether it is there, until it does not answer.
func (p *place) probe(ctx context.Context) error {
	timer := time.NewTimer(probeEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		if _, err := p.capacity(ctx); err != nil {
			return err
		}
		timer.Reset(probeEvery)
	}
}

// capacity is what the place has, if it says so in time.
func (p *place) capacity(ctx context.Context) (Capacity, error) {
	within, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	asked := time.Now()
	have, err := p.Capacity(within)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("it does not answer within %s: %w", probeWithin, mlaas.ErrUnavailable)
	}
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.heard = asked
	}
	return have, err
}

// heardEvery is how often a cluster's record is written although nothing about
// it changed.
const heardEvery = 10 * time.Minute

// follow takes the news of the place, and begins again when it comes back.
func (b *Booster) follow(ctx context.Context) error {
	p := b.place
	const first, longest = time.Second, 10 * time.Second
	wait := first
	late := time.AfterFunc(givenUp, b.wake) // what is there is given up on time, also while it is being asked
	defer late.Stop()
	for {
		began := time.Now()
		err := b.listen(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.Log.Warn("a cluster is lost", "cluster", p.name, "error", err, "again", wait)
		p.mu.Lock()
		p.synced, p.fault = false, sentence(err)
		if p.away.IsZero() {
			p.away = time.Now()
		}
		if left := time.Until(p.heard.Add(givenUp)); left > 0 {
			late.Reset(left)
		}
		p.mu.Unlock()
		b.measure(ctx)
		b.wake()
		if time.Since(began) > longest {
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

// listen is one Watch. What it tells is gathered by run, so that the news of a
// run's replicas are one commit.
func (b *Booster) listen(ctx context.Context) error {
	p := b.place
	g, ctx := errgroup.WithContext(ctx)
	news := make(chan News)
	g.Go(func() error { return p.probe(ctx) })
	g.Go(func() error {
		err := p.Watch(ctx, news)
		if err == nil {
			err = errors.New("its news ended")
		}
		return err
	})
	g.Go(func() error {
		all := gathering{b: b, piles: map[runKey]*pile{}, slots: make(chan struct{}, atOnce)}
		defer all.wait.Wait()
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case n := <-news:
				if !n.Synced {
					all.add(ctx, n)
					continue
				}
				p.mu.Lock()
				p.synced, p.fault, p.alone = true, "", ""
				p.heard, p.away = time.Now(), time.Time{}
				p.mu.Unlock()
				b.measure(ctx)
				b.wake()
			}
		}
	})
	return g.Wait()
}

// measure writes what the place has into its record, if that changed.
func (b *Booster) measure(ctx context.Context) {
	p := b.place
	p.mu.Lock()
	up, fault, alone := p.synced, p.fault, p.alone
	p.mu.Unlock()
	if !up && fault == "" {
		return // it is only just being asked
	}
	var have Capacity
	if up {
		var err error
		if have, err = p.capacity(ctx); err != nil {
			up, fault = false, sentence(err)
		}
	}
	if ctx.Err() != nil {
		return
	}
	b.writing <- struct{}{}
	defer func() { <-b.writing }()
	if b.leaving.over.Load() {
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
		c.Name, c.Kind, c.Up, c.Reason, c.Of = p.name, p.name, up, alone+fault, b.Of
		if k, ok := p.Executor.(interface{ Kind() string }); ok {
			c.Kind = k.Kind()
		}
		if up {
			c.Node, c.Capacity, c.GPUs, c.Limits, c.Reason = have.Node, have.Total, have.GPUs, have.Limits, "it is up"
		}
		if c.Limits == nil {
			c.Limits = []string{}
		}
		if !b.leaving.asked.Load() {
			c.Left = nil
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

// away is an error of the cluster, not of the store: it does not answer.
type away struct{ error }

func (a away) Unwrap() error { return a.error }

// answers is how long a cluster may take to start or to end a replica.
const answers = 20 * time.Second

// start and stop ask the place, and do not wait for one that is silent.
func (p *place) start(ctx context.Context, s Spec) error {
	return p.ask(ctx, func(ctx context.Context) error { return p.Start(ctx, s) })
}

func (p *place) stop(ctx context.Context, f mlaas.Fence) error {
	return p.ask(ctx, func(ctx context.Context) error { return p.Stop(ctx, f) })
}

func (p *place) ask(ctx context.Context, f func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, answers)
	defer cancel()
	err := f(within)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case within.Err() != nil:
		return away{fmt.Errorf("it does not answer within %s: %w", answers, mlaas.ErrUnavailable)}
	case errors.Is(err, mlaas.ErrUnavailable):
		return away{err}
	}
	return err
}
