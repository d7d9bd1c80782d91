package management

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"
)

// crowds are who follows what runs say.
type crowds struct {
	mu    sync.Mutex
	byRun map[runKey]*crowd
}

// A crowd is who follows one run. A page of its lines or points is read and
// encoded once for all of them: it is kept for a while, by where it begins, and
// who comes there gets the same bytes. So clients that follow together cost one
// reading, and those that do not take what they get all hold the same page. What
// a newcomer is sent of the curves is a page as well, and a short while new
// enough for those who come after: the pages that follow tell them the rest.
type crowd struct {
	n     int           // how many; held by crowds.mu
	turns chan struct{} // holds one for each page that is read now

	mu    sync.Mutex
	pages map[pageKey]*page
	order []pageKey // of pages, oldest first
}

const (
	readers   = 8  // pages of one run that are read at the same time, over all connections
	keepPages = 32 // of one run

	newEnough = time.Second // a snapshot, for who comes then
)

// A pageKey is what a page is of, and the number that it begins with.
type pageKey struct {
	topic, replica, grep string
	from                 int64
	snapshot             bool // all up to now, in short; from is 0
}

// A page is some of what a run said, as it is sent.
type page struct {
	data json.RawMessage // a list; nil where nothing up to there is wanted
	to   int64           // the number of its last

	done chan struct{} // closed when the above is so, or it has failed
	err  error
}

// join makes one more follow a run, until leave is called. Each run has a crowd
// of its own: one whose lines cannot be reached holds up nobody who reads
// another's.
func (x *crowds) join(k runKey) (c *crowd, leave func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byRun == nil {
		x.byRun = map[runKey]*crowd{}
	}
	if c = x.byRun[k]; c == nil {
		c = &crowd{turns: make(chan struct{}, readers), pages: map[pageKey]*page{}}
		x.byRun[k] = c
	}
	c.n++
	return c, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if c.n--; c.n == 0 {
			delete(x.byRun, k)
		}
	}
}

// turn calls read when it is its turn: what is read at the same time, and not
// what is open, is what the memory must hold.
func (c *crowd) turn(ctx context.Context, read func() error) error {
	select {
	case c.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turns }()
	return read()
}

// page is the one that begins there. Where none is kept, and nobody reads it by
// now, read says what it holds, encoded as a list, and up to where.
func (c *crowd) page(ctx context.Context, k pageKey, read func() (json.RawMessage, int64, error)) (*page, error) {
	for {
		c.mu.Lock()
		p := c.pages[k]
		mine := p == nil
		if mine {
			p = &page{done: make(chan struct{})}
			c.pages[k] = p
			c.order = append(c.order, k)
			if len(c.order) > keepPages {
				delete(c.pages, c.order[0])
				c.order = c.order[1:]
			}
		}
		c.mu.Unlock()
		if mine {
			p.err = c.turn(ctx, func() (err error) {
				p.data, p.to, err = read()
				return err
			})
			switch {
			case p.err != nil:
				c.forget(k, p)
			case k.snapshot:
				time.AfterFunc(newEnough, func() { c.forget(k, p) })
			}
			close(p.done)
			return p, p.err
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !errors.Is(p.err, context.Canceled) {
			return p, p.err
		} // who read it has gone: the next one reads
	}
}

// forget lets a page be read again.
func (c *crowd) forget(k pageKey, p *page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages[k] == p {
		delete(c.pages, k)
		c.order = slices.DeleteFunc(c.order, func(o pageKey) bool { return o == k })
	}
}
