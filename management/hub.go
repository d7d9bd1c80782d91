package management

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A hub tells of changes of records: one Watch for everyone who waits for news
// of a run, and for every topic of the live stream that tells of records. A
// session is waited for in the same way as a run, by its id in place of a
// run's.
//
// What changed last is kept for a while, so that each topic reads on from where
// its client is. Who is further behind looks into the store.
type hub struct {
	mu      sync.Mutex
	waiting map[runKey]*wake
	calls   map[runKey]map[*func()]bool

	recent []store.Change // the last of all, oldest first
	live   bool           // every change after known is among recent, or is still to come
	known  int64
	life   int64         // another one has begun where something may have been missed
	more   chan struct{} // closed when there is a change, or another life

	execution func(runKey) // hears of executions; nil: nobody does
}

// kindsTold are the kinds of records of which a hub tells.
var kindsTold = []string{"job", "run", "runstate", "replica", "session", "version", "draft", "doc", "execution", "evaluation"}

// kindsNamed are those of which what they hold is read anew.
var kindsNamed = []string{"version", "draft", "doc"}

// keepRecent is how many changes a hub keeps.
const keepRecent = 512

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

// call has f called, in a goroutine of its own, at each change for which others
// would wait with changed, until stop is called.
func (h *hub) call(k runKey, f func()) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.calls == nil {
		h.calls = map[runKey]map[*func()]bool{}
	}
	if h.calls[k] == nil {
		h.calls[k] = map[*func()]bool{}
	}
	h.calls[k][&f] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.calls[k], &f); len(h.calls[k]) == 0 {
			delete(h.calls, k)
		}
	}
}

// onExecution has f called when an execution of a kernel changes; nil: no more.
func (h *hub) onExecution(f func(runKey)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.execution = f
}

func (h *hub) tell(k runKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wake(k)
}

func (h *hub) tellAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.waiting {
		h.wake(k)
	}
	for k := range h.calls {
		h.wake(k)
	}
}

// wake tells those who wait for k; the caller holds mu.
func (h *hub) wake(k runKey) {
	if w := h.waiting[k]; w != nil {
		close(w.c)
		delete(h.waiting, k)
	}
	for f := range h.calls[k] {
		go (*f)()
	}
}

// living is which life it is: with it [hub.after] tells of all that changes
// after this.
func (h *hub) living() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life
}

// after returns what changed after seq, and where that is nothing yet, what is
// closed when there may be something. It is false where not all of it is kept,
// and mlaas.ErrGone where it is another life.
func (h *hub) after(life, seq int64) (changes []store.Change, more <-chan struct{}, kept bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if life != h.life {
		return nil, nil, false, fmt.Errorf("what changed after change %d may have been missed: begin again: %w", seq, mlaas.ErrGone)
	}
	if !h.live || seq < h.known {
		return nil, nil, false, nil
	}
	n := len(h.recent)
	for n > 0 && h.recent[n-1].Seq > seq {
		n--
	}
	if n < len(h.recent) {
		return slices.Clone(h.recent[n:]), nil, true, nil
	}
	if h.more == nil {
		h.more = make(chan struct{})
	}
	return nil, h.more, true, nil
}

// begin says that from now on every change after known comes.
func (h *hub) begin(known int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent, h.live, h.known = nil, true, known
	h.ring()
}

// take keeps a change. Of texts, which are large and change with each key that
// is pressed, it keeps that they changed.
func (h *hub) take(c store.Change) {
	if slices.Contains(kindsNamed, c.Row.Key.Kind) {
		c.Row.Data = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) == keepRecent {
		h.known = h.recent[0].Seq
		h.recent = slices.Delete(h.recent, 0, 1)
	}
	h.recent = append(h.recent, c)
	h.ring()
	if run, _, _ := strings.Cut(c.Row.Key.ID, "/"); c.Row.Key.Kind == "execution" && !c.Deleted && h.execution != nil {
		go h.execution(runKey{c.Row.Key.Tenant, mlaas.RunID(run)})
	}
}

// lose ends a life: something may have been missed.
func (h *hub) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent, h.live = nil, false
	h.life++
	h.ring()
}

// ring wakes who follows; the caller holds mu.
func (h *hub) ring() {
	if h.more != nil {
		close(h.more)
		h.more = nil
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
		h.lose()
	}
}

func (h *hub) watch(ctx context.Context, db store.Driver, from int64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes, ended := make(chan store.Change), make(chan error, 1)
	go func() { ended <- db.Watch(ctx, from, kindsTold, changes) }()
	for {
		select {
		case err := <-ended:
			return err
		case c := <-changes:
			switch run, _, _ := strings.Cut(c.Row.Key.ID, "/"); {
			case c.Synced:
				h.begin(c.Seq)
				h.tellAll()
			default:
				h.take(c)
				h.tell(runKey{c.Row.Key.Tenant, mlaas.RunID(run)})
			}
		}
	}
}
