package management

import (
	"context"
	"sync"

	"mlaas.dev/mlaas"
)

// turns are taken by requests that write the same: where one lost against
// another, they go one after the other for as long as there are several. A crowd
// that does not would decide all of it anew for each that is faster.
type turns struct {
	mu    sync.Mutex
	lines map[turnKey]*line
}

// A turnKey is what requests want to write: the path that they ask for.
type turnKey struct {
	tenant mlaas.Tenant
	path   string
}

// A line is those who have a turn or wait for it.
type line struct {
	n    int           // how many
	free chan struct{} // has one in it while nobody has the turn
}

// A turn is that of one request.
type turn struct {
	of   *turns
	key  turnKey
	line *line // nil: it has none
	mine bool  // it has it; else it was not waited for
}

// take waits for the turn, if it is not had: where others have one, or where
// there must be one. When ctx ends, it goes on without.
func (t *turn) take(ctx context.Context, must bool) {
	if t.line != nil {
		return
	}
	t.of.mu.Lock()
	l := t.of.lines[t.key]
	if l == nil {
		if !must {
			t.of.mu.Unlock()
			return
		}
		l = &line{free: make(chan struct{}, 1)}
		l.free <- struct{}{}
		if t.of.lines == nil {
			t.of.lines = map[turnKey]*line{}
		}
		t.of.lines[t.key] = l
	}
	l.n++
	t.line = l
	t.of.mu.Unlock()
	select {
	case <-l.free:
		t.mine = true
	case <-ctx.Done():
	}
}

// giveBack lets the next one go.
func (t *turn) giveBack() {
	if t.line == nil {
		return
	}
	if t.mine {
		t.line.free <- struct{}{}
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.line.n--; t.line.n == 0 {
		delete(t.of.lines, t.key)
	}
	t.line, t.mine = nil, false
}
