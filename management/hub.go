package management

import (
	"context"
	"errors"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A hub wakes those who wait for news of a run: one Watch for all of them. A
// session is waited for in the same way, by its id in place of a run's.
type hub struct {
	mu      sync.Mutex
	waiting map[runKey]*wake
}

type runKey struct {
	tenant mlaas.Tenant
	run    mlaas.RunID
}

type wake struct {
	c chan struct{}
	n int // who holds it
}

// changed returns a channel that is closed when the state or a replica of the
// run changes, and what to call when it is no longer waited for.
func (h *hub) changed(k runKey) (<-chan struct{}, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting == nil {
		h.waiting = map[runKey]*wake{}
	}
	w := h.waiting[k]
	if w == nil {
		w = &wake{c: make(chan struct{})}
		h.waiting[k] = w
	}
	w.n++
	return w.c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if w.n--; w.n == 0 && h.waiting[k] == w {
			delete(h.waiting, k)
		}
	}
}

func (h *hub) tell(k runKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.waiting[k]; w != nil {
		close(w.c)
		delete(h.waiting, k)
	}
}

func (h *hub) tellAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, w := range h.waiting {
		close(w.c)
		delete(h.waiting, k)
	}
}

func (h *hub) run(ctx context.Context, db store.Driver) error {
	for {
		stats, err := db.Stats(ctx)
		if err != nil {
			return err
		}
		err = h.watch(ctx, db, stats.Seq)
		h.tellAll() // something may have been missed: they all look again
		if !errors.Is(err, mlaas.ErrGone) || ctx.Err() != nil {
			return err
		}
	}
}

func (h *hub) watch(ctx context.Context, db store.Driver, from int64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes, ended := make(chan store.Change), make(chan error, 1)
	go func() { ended <- db.Watch(ctx, from, []string{"replica", "runstate", "session"}, changes) }()
	for {
		select {
		case err := <-ended:
			return err
		case c := <-changes:
			switch run, _, _ := strings.Cut(c.Row.Key.ID, "/"); {
			case c.Synced:
				h.tellAll()
			default:
				h.tell(runKey{c.Row.Key.Tenant, mlaas.RunID(run)})
			}
		}
	}
}
