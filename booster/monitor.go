package booster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

const (
	checkpointStream = "checkpoint" // of an Ack; Seq is the step then

	helloWithin  = 30 * time.Second
	silence      = 90 * time.Second // a supervisor beats every 10 s
	sendWithin   = time.Minute
	drainWithin  = 5 * time.Second
	onTheWay     = 3 * time.Second // since its last frame, a replica still delivers
	gatherFrames = 1024
	gatherBytes  = 8 << 20
	inFlight     = 64 << 20 // of frames that are not durable yet, over all lines
	maxPorts     = 16
)

// A Monitor is the door: supervisors keep a line to it, on which they bring
// what their programs say and get told what to do.
type Monitor struct {
	b      *Booster
	frames chan piece
	room   *semaphore.Weighted
	born   time.Time

	mu    sync.Mutex
	lines map[mlaas.RunID]map[mlaas.Fence]*conn

	waits waiting // for streams that supervisors were told to open
}

func newMonitor(b *Booster) *Monitor {
	return &Monitor{b: b, frames: make(chan piece, gatherFrames), room: semaphore.NewWeighted(inFlight), born: time.Now(), lines: map[mlaas.RunID]map[mlaas.Fence]*conn{}}
}

// clock is nanoseconds that only go forward: nothing is decided by how long
// somebody is silent on a clock that may jump. It is never 0.
func (m *Monitor) clock() int64 { return int64(time.Since(m.born)) + 1 }

// A conn is one line that a supervisor keeps to us.
type conn struct {
	fence mlaas.Fence
	line  mlaas.Line[mlaas.Down, mlaas.Up]
	cell  *cell
	end   context.CancelCauseFunc
	done  chan struct{} // closed when all that was received is in the records

	heard atomic.Int64 // when, as Monitor.clock tells it
	frame atomic.Int64 // the same, of the last frame; 0: there was none

	mu      sync.Mutex
	out     []mlaas.Down
	acks    map[string]int64 // the highest of each stream
	wake    chan struct{}
	phase   mlaas.Phase // the last that it said
	started bool        // its part of the launch was sent
	opens   bool        // it answers Open
	recipes int         // the newest version of recipes that it can apply

	next map[string]int64 // by stream, the reader's own: the first number that is new
}

// tell sends m when the line has room. It never waits.
func (c *conn) tell(m mlaas.Down) {
	c.mu.Lock()
	if a := m.Ack; a != nil && a.Stream != checkpointStream && a.Stream != mlaas.EvaluationStream {
		c.acks[a.Stream] = max(c.acks[a.Stream], a.Seq)
	} else {
		c.out = append(c.out, m)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// delivering reports whether the program was told to end and what it said last
// is still on its way.
func (m *Monitor) delivering(c *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.frame.Load()
	return c.phase.Status == mlaas.ReplicaStopping && last > 0 && time.Duration(m.clock()-last) < onTheWay
}

// drained waits until the line has ended and all it brought is in the records,
// but not for long.
func (c *conn) drained(ctx context.Context) {
	timer := time.NewTimer(drainWithin)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// line is the line of f; nil: it has none.
func (m *Monitor) line(f mlaas.Fence) *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lines[f.Run][f]
}

// of lists the lines of a run.
func (m *Monitor) of(run mlaas.RunID) (all []*conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.lines[run] {
		all = append(all, c)
	}
	return all
}

func (m *Monitor) all() (all []*conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, lines := range m.lines {
		for _, c := range lines {
			all = append(all, c)
		}
	}
	return all
}

// enter registers c. A line of the same fence is of a connection that broke
// without a word: the new one takes its place.
func (m *Monitor) enter(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lines[c.fence.Run] == nil {
		m.lines[c.fence.Run] = map[mlaas.Fence]*conn{}
	}
	if old := m.lines[c.fence.Run][c.fence]; old != nil {
		old.end(fmt.Errorf("%s called again: %w", c.fence, mlaas.ErrConflict))
	}
	m.lines[c.fence.Run][c.fence] = c
}

func (m *Monitor) leave(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lines[c.fence.Run][c.fence] == c {
		delete(m.lines[c.fence.Run], c.fence)
		if len(m.lines[c.fence.Run]) == 0 {
			delete(m.lines, c.fence.Run)
		}
	}
}

// closeOlder shows out what is older than the epoch of a run.
func (m *Monitor) closeOlder(run mlaas.RunID, epoch int) {
	for _, c := range m.of(run) {
		if c.fence.Epoch < epoch {
			c.end(old(c.fence, epoch))
		}
	}
}

func old(f mlaas.Fence, epoch int) error {
	return fmt.Errorf("attempt %d of run %s is over: attempt %d has begun: %w", f.Epoch, f.Run, epoch, mlaas.ErrStale)
}

// fenceOff closes the lines of an attempt as soon as the next one is placed.
func (m *Monitor) fenceOff(ctx context.Context) error {
	states := store.RunStates(m.b.DB)
	for {
		stats, err := m.b.DB.Stats(ctx)
		if err == nil {
			// From now on; what changed before is asked for, line by line.
			for _, c := range m.all() {
				if state, _, err := states.Get(ctx, c.fence.Tenant, string(c.fence.Run)); err == nil {
					m.closeOlder(c.fence.Run, state.Epoch)
				}
			}
			g, ctx := errgroup.WithContext(ctx)
			changes := make(chan store.Change, 64)
			g.Go(func() error { return m.b.DB.Watch(ctx, stats.Seq, []string{states.Kind}, changes) })
			g.Go(func() error {
				for {
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case change := <-changes:
						run := mlaas.RunID(change.Row.Key.ID)
						if change.Synced || change.Deleted || len(m.of(run)) == 0 {
							continue
						}
						if state, err := states.Decode(change.Row); err == nil {
							m.closeOlder(run, state.Epoch)
						}
					}
				}
			})
			err = g.Wait()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m.b.Log.Warn("the states of runs cannot be watched", "error", err)
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// lastWords is how long after the end of its replica a token is good for
// anything, once its run is over too.
const lastWords = 5 * time.Second

// admit reports why the supervisor of f may not talk to us; nil: it may. The
// rest of a log is taken as long as its attempt is the newest and its run is
// not over.
func (m *Monitor) admit(ctx context.Context, f mlaas.Fence) (_ mlaas.Replica, err error) {
	defer func() { m.b.stale(err) }()
	state, _, err := store.RunStates(m.b.DB).Get(ctx, f.Tenant, string(f.Run))
	if err != nil {
		return mlaas.Replica{}, err
	}
	if state.Epoch != f.Epoch {
		return mlaas.Replica{}, old(f, state.Epoch)
	}
	r, _, err := store.Replicas(m.b.DB).Get(ctx, f.Tenant, store.ReplicaKey(f.Run, f.Replica))
	if err != nil {
		return r, err
	}
	if r.Fence != f {
		return r, fmt.Errorf("%s was replaced by %s: %w", f, r.Fence, mlaas.ErrStale)
	}
	if over := r.Ended; state.State.Final() && over != nil && (m.b.Now().Before(*over) || m.b.Now().Sub(*over) >= lastWords) { // the clock that wrote it may be ahead
		return r, fmt.Errorf("run %s is over: %w", f.Run, mlaas.ErrStale)
	}
	return r, nil
}

// Serve keeps the conversation with the supervisor of fence, whose token was
// checked, until it ends; the line is closed then. Whoever is refused gets the
// reason, as far as the line can carry it.
func (m *Monitor) Serve(ctx context.Context, fence mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) (err error) {
	defer func() {
		if r, ok := line.(interface{ Refuse(error) }); ok && err != nil {
			r.Refuse(err)
		}
		line.Close()
	}()
	select {
	case <-m.b.begun:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	away := fmt.Errorf("the platform goes down: %w", mlaas.ErrUnavailable)
	if !m.b.tasks.begin() {
		return away
	}
	defer m.b.tasks.wait.Done()
	defer context.AfterFunc(m.b.life, func() { cancel(away) })()

	c, hello, err := m.greet(ctx, fence, line)
	if err != nil {
		return err
	}
	m.b.Counts.Lines.Inc()
	c.end = cancel
	m.enter(c)
	defer close(c.done)
	defer m.leave(c)
	// Known to us before the record is read: whoever changes the record from
	// here on finds the line.
	r, err := m.admit(ctx, fence)
	if err != nil {
		return err
	}
	c.cell = m.b.inform.cell(fence)
	if err := m.learn(ctx, c); err != nil {
		return err
	}
	log, metric := m.b.Series.Durable(fence)
	c.next = map[string]int64{mlaas.LogStream: log + 1, mlaas.MetricStream: metric + 1}
	if err := line.Send(ctx, mlaas.Down{Welcome: &mlaas.Welcome{Log: log, Metric: metric, Evaluations: true}}); err != nil {
		return err
	}
	if r, err = m.hello(ctx, c, hello); err != nil {
		return err
	}
	if r.Status.Final() {
		m.b.wake() // it should not be there much longer
	}

	made := make(chan mlaas.CheckpointMade, 8)
	evaluated := make(chan mlaas.EvaluationMade, 8)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.hear(ctx, c, made, evaluated) })
	g.Go(func() error { return m.send(ctx, c) })
	g.Go(func() error { return m.tend(ctx, c) })
	g.Go(func() error {
		return handed(ctx, m, c, made, m.checkpoint, func(cm mlaas.CheckpointMade) (string, mlaas.Ack) {
			return fmt.Sprintf("the checkpoint of step %d", cm.Step), mlaas.Ack{Stream: checkpointStream, Seq: cm.Step}
		})
	})
	g.Go(func() error {
		return handed(ctx, m, c, evaluated, m.evaluation, func(e mlaas.EvaluationMade) (string, mlaas.Ack) {
			return fmt.Sprintf("the evaluation %q of step %d", e.Name, e.Step), mlaas.Ack{Stream: mlaas.EvaluationStream, Seq: e.Seq}
		})
	})
	g.Go(func() error {
		if err := m.direct(ctx, c); err != nil && ctx.Err() == nil {
			m.b.Log.Error("tell a replica what to do", "run", fence.Run, "replica", fence.Replica, "error", err)
			m.b.wake()
		}
		return nil
	})
	err = g.Wait()
	m.flush(context.WithoutCancel(ctx), c)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// greet takes the first word.
func (m *Monitor) greet(ctx context.Context, fence mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) (*conn, *mlaas.Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	up, err := line.Receive(ctx)
	if err != nil {
		return nil, nil, err
	}
	h := up.Hello
	switch {
	case h == nil:
		return nil, nil, fmt.Errorf("the first word must be hello: %w", mlaas.ErrInvalid)
	case h.Version != mlaas.DoorVersion && h.Version != mlaas.DoorVersion-1:
		return nil, nil, fmt.Errorf("the door speaks version %d and the one before, not %d: %w", mlaas.DoorVersion, h.Version, mlaas.ErrInvalid)
	case h.Fence != fence:
		return nil, nil, fmt.Errorf("the token is for %s, not for %s: %w", fence, h.Fence, mlaas.ErrForbidden)
	case len(h.Address) > 253 || len(h.Ports) > maxPorts:
		return nil, nil, fmt.Errorf("hello names an address of %d characters and %d ports: %w", len(h.Address), len(h.Ports), mlaas.ErrInvalid)
	}
	for _, p := range h.Ports {
		if p < 1 || p > 65535 {
			return nil, nil, mlaas.Invalid("hello.ports", "1 to 65535", p)
		}
	}
	c := &conn{fence: fence, line: line, done: make(chan struct{}), opens: h.Opens, recipes: h.Recipes,
		acks: map[string]int64{}, wake: make(chan struct{}, 1), phase: h.Phase}
	c.heard.Store(m.clock())
	return c, h, nil
}

// learn reads the rules of the run, once for a replica.
func (m *Monitor) learn(ctx context.Context, c *conn) error {
	c.cell.mu.Lock()
	known := c.cell.watch != nil
	c.cell.mu.Unlock()
	if known {
		return nil
	}
	run, _, err := store.Runs(m.b.DB).Get(ctx, c.fence.Tenant, string(c.fence.Run))
	if err != nil {
		return err
	}
	role, _, _ := mlaas.SplitReplica(c.fence.Replica)
	c.cell.mu.Lock()
	defer c.cell.mu.Unlock()
	if c.cell.watch == nil { // a line that broke may have been as far
		c.cell.watch = m.b.watching(run, role)
		c.cell.judged = run.Spec.Evaluation
	}
	return nil
}

// hello writes what a supervisor says of itself.
func (m *Monitor) hello(ctx context.Context, c *conn, h *mlaas.Hello) (mlaas.Replica, error) {
	u := used(h.Phase.Usage)
	c.cell.note(m.b.Now(), false, func() {
		c.cell.usage = &u
		c.cell.watch.begins(time.Now(), h.Phase.Program)
	})
	if err := m.lock(ctx, c, h.Phase); err != nil {
		return mlaas.Replica{}, err
	}
	return m.b.change(ctx, c.fence, func(r *mlaas.Replica) store.Batch {
		if r.Status.Final() {
			return store.Batch{}
		}
		if r.Ready == nil {
			now := m.b.Now().UTC()
			r.Ready = &now
		}
		r.Node, r.Address, r.Ports = short(h.Node), short(h.Address), append([]int(nil), h.Ports...) // nil where it has none
		m.b.said(r, h.Phase)
		return store.Batch{}
	})
}

// hear takes what the supervisor says, in its order.
func (m *Monitor) hear(ctx context.Context, c *conn, made chan<- mlaas.CheckpointMade, evaluated chan<- mlaas.EvaluationMade) error {
	for {
		up, err := c.line.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		now := m.b.Now()
		c.heard.Store(m.clock())
		switch {
		case up.Frame != nil:
			err = m.frame(ctx, c, *up.Frame)
		case up.Beat != nil:
			u := used(up.Beat.Usage)
			c.cell.note(now, false, func() {
				c.cell.fresh = c.cell.fresh || c.cell.usage == nil || *c.cell.usage != u
				c.cell.usage = &u
				c.cell.watch.uses(time.Now(), u)
			})
			c.poke()
		case up.Phase != nil:
			err = m.phase(ctx, c, *up.Phase)
		case up.Checkpoint != nil:
			select {
			case made <- *up.Checkpoint:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		case up.Evaluation != nil:
			select {
			case evaluated <- *up.Evaluation:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		default:
			err = fmt.Errorf("hello was said already, or nothing was said: %w", mlaas.ErrInvalid)
		}
		if err != nil {
			return err
		}
	}
}

// poke has the record looked after.
func (c *conn) poke() {
	select {
	case c.cell.wake <- struct{}{}:
	default:
	}
}

// A piece is a frame that is to be made durable.
type piece struct {
	c     *conn
	frame mlaas.Frame
	size  int64
}

func (p piece) last() int64 {
	return p.frame.First + int64(len(p.frame.Lines)+len(p.frame.Points)) - 1
}

// frame takes a batch of a stream. It returns as soon as there is room, long
// before it is durable: the next one may come.
func (m *Monitor) frame(ctx context.Context, c *conn, f mlaas.Frame) error {
	size := int64(1 << 10)
	switch {
	case f.First < 1:
		return fmt.Errorf("a frame begins at %d, want at least 1: %w", f.First, mlaas.ErrInvalid)
	case f.Stream == mlaas.LogStream && len(f.Points) == 0:
		for i := range f.Lines {
			size += int64(len(f.Lines[i].Text)) + 64
			tidy(&f.Lines[i], m.b.Now())
		}
	case f.Stream == mlaas.MetricStream && len(f.Lines) == 0:
		size += int64(len(f.Points)) * 64
		clip(f.Points)
	default:
		return fmt.Errorf("a frame of stream %q with %d lines and %d points: %w", f.Stream, len(f.Lines), len(f.Points), mlaas.ErrInvalid)
	}
	if len(f.Lines)+len(f.Points) == 0 {
		return nil
	}
	p := piece{c: c, frame: f, size: min(size, inFlight)}
	if err := m.room.Acquire(ctx, p.size); err != nil {
		return context.Cause(ctx)
	}
	select {
	case m.frames <- p:
	case <-ctx.Done():
		m.room.Release(p.size)
		return context.Cause(ctx)
	}
	now := m.b.Now()
	c.frame.Store(m.clock())
	// What comes again was counted before.
	skip := min(max(c.next[f.Stream]-f.First, 0), int64(len(f.Lines)+len(f.Points)))
	c.next[f.Stream] = max(c.next[f.Stream], p.last()+1)
	if f.Stream == mlaas.MetricStream {
		c.cell.points(now, f.Points[skip:])
	} else {
		c.cell.note(now, false, nil)
		m.b.read(ctx, c, f.Lines[skip:])
	}
	return nil
}

// tidy makes a line what door.go says that it is.
func tidy(l *mlaas.LogLine, now time.Time) {
	if !validText(l.Text) {
		l.Text = strings.ReplaceAll(strings.ToValidUTF8(l.Text, "\uFFFD"), "\x00", "\uFFFD")
	}
	if len(l.Text) > mlaas.MaxLine {
		l.Text = strings.ToValidUTF8(l.Text[:mlaas.MaxLine], "")
	}
	if l.Stream != "stdout" && l.Stream != "stderr" && l.Stream != mlaas.KernelStream {
		l.Stream = "platform"
	}
	if l.Time.IsZero() || l.Time.Year() < 2000 || l.Time.Year() > 9999 {
		l.Time = now
	}
	l.Time, l.Part = l.Time.UTC(), max(l.Part, 0)
}

func validText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// append makes frames durable. While one write to disk is under way, the
// frames of all lines gather, and the next write is for all of them.
func (m *Monitor) append(ctx context.Context) error {
	for {
		var pieces []piece
		size := int64(0)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case p := <-m.frames:
			pieces, size = append(pieces, p), p.size
		}
		for more := true; more && len(pieces) < gatherFrames && size < gatherBytes; {
			select {
			case p := <-m.frames:
				pieces, size = append(pieces, p), size+p.size
			default:
				more = false
			}
		}
		m.keep(ctx, pieces)
		m.room.Release(size)
	}
}

// keep makes pieces durable and acknowledges them. If that fails for all
// together, each one is tried alone: one that is refused is not the fault of
// the others.
func (m *Monitor) keep(ctx context.Context, pieces []piece) {
	batches := make([]series.Batch, len(pieces))
	for i, p := range pieces {
		batches[i] = series.Batch{Fence: p.c.fence, Frame: p.frame}
	}
	err := m.b.Series.Append(ctx, batches...)
	failpoint.Hit("monitor.append.after") // durable, not acknowledged
	for i, p := range pieces {
		single := err
		if err != nil && len(pieces) > 1 && ctx.Err() == nil {
			single = m.b.Series.Append(ctx, batches[i])
		}
		if single != nil {
			if ctx.Err() == nil {
				m.b.Log.Warn("what a replica said cannot be kept", "run", p.c.fence.Run, "replica", p.c.fence.Replica, "stream", p.frame.Stream, "error", single)
			}
			p.c.end(single) // it has it still, and calls again
			continue
		}
		p.c.tell(mlaas.Down{Ack: &mlaas.Ack{Stream: p.frame.Stream, Seq: p.last()}})
	}
}

// send brings what is to be told down the line, the newest acknowledgements
// only.
func (m *Monitor) send(ctx context.Context, c *conn) error {
	for {
		c.mu.Lock()
		out := c.out
		c.out = nil
		for _, stream := range []string{mlaas.LogStream, mlaas.MetricStream} {
			if seq, ok := c.acks[stream]; ok {
				out = append(out, mlaas.Down{Ack: &mlaas.Ack{Stream: stream, Seq: seq}})
				delete(c.acks, stream)
			}
		}
		c.mu.Unlock()
		for _, d := range out {
			within, cancel := context.WithTimeout(ctx, sendWithin)
			err := c.line.Send(within, d)
			cancel()
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.wake:
		}
	}
}

// tend writes the record when it is due, and ends a line that went silent.
func (m *Monitor) tend(ctx context.Context, c *conn) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := m.b.Now()
		quiet := time.Duration(m.clock() - c.heard.Load())
		if quiet >= silence {
			return fmt.Errorf("nothing was heard of %s for %s: %w", c.fence, quiet, mlaas.ErrUnavailable)
		}
		c.cell.mu.Lock()
		news := c.cell.fresh || c.cell.heard.Sub(c.cell.written) >= heardOnly
		c.cell.mu.Unlock()
		due := c.cell.due()
		if news && !now.Before(due) {
			if _, err := m.b.change(ctx, c.fence, func(*mlaas.Replica) store.Batch { return store.Batch{} }); known(err) != nil {
				return err
			}
			due = c.cell.due()
		}
		wait := min(silence-quiet, m.b.overdue(ctx, c))
		if news {
			wait = min(wait, max(due.Sub(now), time.Millisecond))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-c.cell.wake:
		}
	}
}

// flush writes what is left when a line ends, and forgets a replica that has
// nothing more to say.
func (m *Monitor) flush(ctx context.Context, c *conn) {
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	c.cell.mu.Lock()
	fresh := c.cell.fresh
	if fresh {
		c.cell.written = time.Time{} // it is due
	}
	c.cell.mu.Unlock()
	r, err := m.b.change(ctx, c.fence, func(*mlaas.Replica) store.Batch { return store.Batch{} })
	if known(err) != nil {
		m.b.Log.Warn("the last numbers of a replica are not in its record", "run", c.fence.Run, "replica", c.fence.Replica, "error", err)
		return
	}
	if err != nil || r.Status.Final() {
		m.b.inform.forget(c.fence)
	}
}

// phase takes where the supervisor stands. A reason that changes often is
// written with the numbers.
func (m *Monitor) phase(ctx context.Context, c *conn, p mlaas.Phase) error {
	u := used(p.Usage)
	c.mu.Lock()
	begins := p.Program && !c.phase.Program
	minor := p.Status == c.phase.Status && p.Program == c.phase.Program && !p.Status.Final() && p.Lock == nil && len(p.Data) == len(c.phase.Data) && (p.Prepared == nil) == (c.phase.Prepared == nil)
	c.phase = p
	c.mu.Unlock()
	c.cell.note(m.b.Now(), minor, func() {
		c.cell.usage = &u
		if begins {
			c.cell.watch.begins(time.Now(), true)
			defer c.poke() // rules may wait for something now
		}
		if minor {
			c.cell.reason, c.cell.stages = short(p.Reason), stages(p.Stages)
		} else {
			c.cell.reason, c.cell.stages = "", nil
		}
	})
	if minor {
		return nil
	}
	if err := m.lock(ctx, c, p); err != nil {
		return err
	}
	first := false
	r, err := m.b.change(ctx, c.fence, func(r *mlaas.Replica) store.Batch {
		first = p.Program && !r.Program
		m.b.said(r, p)
		return store.Batch{}
	})
	if err == nil && first {
		m.b.began(ctx, r)
	}
	return err
}

// lock keeps an environment that was resolved. One that is refused is only
// logged: the program runs in it already.
func (m *Monitor) lock(ctx context.Context, c *conn, p mlaas.Phase) error {
	if p.Lock == nil {
		return nil
	}
	err := m.b.keepLock(ctx, c.fence, *p.Lock)
	if k := mlaas.KindOf(err); err != nil && (k == mlaas.ErrInvalid || k == mlaas.ErrNotFound) {
		m.b.Log.Warn("a lock is refused", "run", c.fence.Run, "replica", c.fence.Replica, "error", err)
		return nil
	}
	return err
}

// direct tells a replica what the records say that it should do: end, or
// start.
func (m *Monitor) direct(ctx context.Context, c *conn) error {
	r, err := m.admit(ctx, c.fence)
	if err != nil {
		return known(err)
	}
	c.mu.Lock()
	waits := !c.started && (c.phase.Status == mlaas.ReplicaReady || c.phase.Status == mlaas.ReplicaPending)
	c.mu.Unlock()
	run, _, err := store.Runs(m.b.DB).Get(ctx, c.fence.Tenant, string(c.fence.Run))
	if err != nil {
		return known(err)
	}
	if r.Status == mlaas.ReplicaStopping {
		grace := run.Spec.Execution.Grace
		if grace == 0 {
			grace = 10
		}
		c.tell(mlaas.Down{Stop: &mlaas.Stop{Grace: grace, Reason: r.Reason}})
		return nil
	}
	if r.Status.Final() || !waits {
		return nil
	}
	launch, _, err := store.Launches(m.b.DB).Get(ctx, c.fence.Tenant, store.LaunchKey(c.fence.Run, c.fence.Epoch))
	if err != nil {
		return known(err) // not yet
	}
	start, err := m.start(ctx, launch, c)
	if err != nil && ctx.Err() == nil && mlaas.KindOf(err) != mlaas.ErrUnavailable {
		why := "it could not be told to start: " + sentence(err)
		_, err = m.b.change(ctx, c.fence, func(r *mlaas.Replica) store.Batch {
			m.b.move(r, mlaas.ReplicaFailed, why)
			return store.Batch{}
		})
		return known(err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	already := c.started
	c.started = true
	c.mu.Unlock()
	if !already {
		c.tell(mlaas.Down{Start: start})
	}
	return nil
}

// start is one replica's part of a launch. Secrets are opened here and go
// nowhere but down the line.
func (m *Monitor) start(ctx context.Context, l mlaas.Launch, c *conn) (*mlaas.Start, error) {
	program := l.Replicas[c.fence.Replica]
	if program == nil {
		return nil, fmt.Errorf("the launch has no part for %s: %w", c.fence.Replica, mlaas.ErrInternal)
	}
	if l.Recipe.Changes() && l.Recipe.Version > c.recipes { // else its code is as it was written: an older one does no less
		return nil, fmt.Errorf("its supervisor is older than the platform and cannot prepare code in mode %s: use code.mode plain, or upgrade what its cluster starts: %w", l.Recipe.Mode, mlaas.ErrInvalid)
	}
	s := &mlaas.Start{Bundle: l.Bundle, Recipe: l.Recipe, Environment: l.Environment, Data: l.Data, Resume: l.Resume, ResumeStep: l.ResumeStep,
		Program: *program, Grace: l.Grace, Timeout: l.Timeout}
	if s.Environment.Lock == "" && s.Environment.Image == "" {
		lock, _, err := store.Locks(m.b.DB).Get(ctx, l.Tenant, string(s.Environment.Spec()))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", mlaas.ErrUnavailable, err)
		}
		s.Environment.Lock = lock.Lock
	}
	for _, use := range l.Environment.Secrets {
		if m.b.Secrets == nil {
			return nil, fmt.Errorf("secret %s: there are no secrets here: %w", use.Secret, mlaas.ErrNotFound)
		}
		value, err := m.b.Secrets(ctx, l.Tenant, use)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", use.Secret, err)
		}
		if s.Secrets == nil {
			s.Secrets = map[string]string{}
		}
		s.Secrets[use.Variable] = value
	}
	return s, nil
}

// checkpoint records one, if it is whole.
func (m *Monitor) checkpoint(ctx context.Context, f mlaas.Fence, cm mlaas.CheckpointMade) error {
	if cm.Step < 0 {
		return mlaas.Invalid("checkpoint.step", "0 or more", cm.Step)
	}
	size, err := m.whole(ctx, cm.Tree)
	if err != nil {
		return err
	}
	made := mlaas.Checkpoint{Tenant: f.Tenant, Run: f.Run, Epoch: f.Epoch, Replica: f.Replica, Step: cm.Step,
		Tree: cm.Tree, Size: size, Best: short(cm.Best), Created: m.b.Now().UTC()}
	return record(ctx, m, f, store.Checkpoints(m.b.DB), made, func(before mlaas.Checkpoint) bool { return before.Tree == made.Tree })
}

// whole reports the size of a tree, if it and every file in it are here.
func (m *Monitor) whole(ctx context.Context, tree mlaas.Digest) (mlaas.Bytes, error) {
	t, err := blob.GetTree(ctx, m.b.Blob, tree)
	if err != nil {
		return 0, fmt.Errorf("its tree: %w", err)
	}
	for _, f := range t.Files {
		info, err := m.b.Blob.Stat(ctx, f.Digest)
		if err != nil {
			return 0, fmt.Errorf("its file %s: %w", f.Path, err)
		}
		if info.Size != f.Size {
			return 0, fmt.Errorf("its file %s has %d bytes, not %d: %w", f.Path, info.Size, f.Size, mlaas.ErrInvalid)
		}
	}
	return blob.TreeSize(t), nil
}

// Put stores bytes for a supervisor inside this process.
func (m *Monitor) Put(ctx context.Context, r io.Reader) (mlaas.Digest, int64, error) {
	return m.b.Blob.Put(ctx, r, "")
}
