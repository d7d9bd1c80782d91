// Package scripted is a place that plays replicas instead of running them: for
// tests, simulation and demonstrations. What each one does is a [Script]; it
// talks to the door as a supervisor does. All of it is timers, so that in a
// synctest bubble three hours of training take no time.
//
// scripted.go is the place, actor.go a supervisor that plays its part.
package scripted

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// A Script is the part that one replica plays. The zero Script is a program
// that runs until it is stopped, as a parameter server does.
type Script struct {
	Slow    time.Duration // from Start to ready
	Never   bool          // it is pending for ever
	Broken  string        // it cannot be started: why
	Silent  bool          // its supervisor runs, but never calls the door
	Prepare time.Duration // from the word to start until the program runs
	Refuse  string        // the program cannot be started: why

	Steps   int64                                    // the program ends after so many; 0: it runs until it is stopped
	Every   time.Duration                            // one step takes; 0: 1 s
	FailAt  int64                                    // it fails at this step; 0: it does not
	Exit    int                                      // with this exit code; 0: 1, or 137 with OOM
	OOM     bool                                     // because its memory was not enough
	LostAt  time.Duration                            // after the program began it is gone without a word; 0: it is not
	Machine bool                                     // it is lost with its machine
	HangAt  int64                                    // it makes no step after this one; 0: it goes on
	Uses    func(ran time.Duration) mlaas.Usage      // what it has used when its program ran for so long; nil: 64 MiB
	Deaf    bool                                     // it does not listen to polite words
	Zombie  bool                                     // it goes on talking when it was stopped: the place lies
	Leave   time.Duration                            // from a polite word to the end of the program
	Save    int64                                    // a checkpoint every so many steps; 0: none
	Metric  func(step int64) map[string]mlaas.Number // nil: a loss that falls
	Lines   func(step int64) []string                // nil: "step N"
	Quiet   bool                                     // no lines and no metrics
	Lock    *mlaas.Locked                            // an environment that it resolves
	Outputs mlaas.Digest
}

// A Door is what an actor talks to: *booster.Monitor.
type Door interface {
	Serve(ctx context.Context, f mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) error
	Put(ctx context.Context, r io.Reader) (mlaas.Digest, int64, error)
}

// An Executor is the place. Fill in the fields and call Run: that is its
// power, replicas live as long. They outlive boosters: hand the same Executor
// to the next one, and call Connect with its door.
type Executor struct {
	// Play says which part a replica plays; nil: the zero Script.
	Play func(s booster.Spec) Script

	// Command plays Exec; nil: there is no such command.
	Command func(f mlaas.Fence, command []string, in io.Reader, out io.Writer) (exit int, err error)

	Node   string          // empty: "stage"
	Total  mlaas.Resources // zero: 64 cores and 256 GiB
	Limits []string
	Now    func() time.Time // nil: time.Now

	once     sync.Once
	mu       sync.Mutex
	life     context.Context // nil: there is no power yet
	actors   map[mlaas.Fence]*actor
	watchers map[*watcher]bool
	door     Door
	doors    chan struct{} // closed and made anew when the door changes
	outage   error
	all      sync.WaitGroup
}

func (e *Executor) init() {
	e.once.Do(func() {
		if e.Play == nil {
			e.Play = func(booster.Spec) Script { return Script{} }
		}
		if e.Now == nil {
			e.Now = time.Now
		}
		e.Node = cmp.Or(e.Node, "stage")
		if e.Total == (mlaas.Resources{}) {
			e.Total = mlaas.Resources{CPU: 64000, Memory: 256 << 30}
		}
		e.actors, e.watchers = map[mlaas.Fence]*actor{}, map[*watcher]bool{}
		e.doors = make(chan struct{})
	})
}

// Run gives the place its power until ctx ends; then all replicas die.
func (e *Executor) Run(ctx context.Context) error {
	e.init()
	e.mu.Lock()
	if e.life != nil {
		e.mu.Unlock()
		return fmt.Errorf("this place runs already: %w", mlaas.ErrConflict)
	}
	e.life = ctx
	for _, a := range e.actors {
		e.raise(a)
	}
	e.mu.Unlock()
	<-ctx.Done()
	e.all.Wait()
	return ctx.Err()
}

// raise begins the life of an actor. The lock is held.
func (e *Executor) raise(a *actor) {
	if a.begun || e.life == nil || e.life.Err() != nil {
		return
	}
	a.begun = true
	ctx, cancel := context.WithCancelCause(e.life)
	a.kill = cancel
	e.all.Go(func() { a.run(ctx) })
}

// Connect says where the door is now; nil: it is away.
func (e *Executor) Connect(d Door) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.door = d
	close(e.doors)
	e.doors = make(chan struct{})
}

// where is the door now, and what is closed when that changes.
func (e *Executor) where() (Door, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.door, e.doors
}

// Fail makes the whole place unreachable with this error, or reachable again
// with nil. Replicas go on.
func (e *Executor) Fail(err error) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outage = err
	for w := range e.watchers {
		w.poke()
	}
}

// Resize changes what the place has.
func (e *Executor) Resize(total mlaas.Resources) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Total = total
}

// End makes the supervisor of f end by itself with this exit code, whatever
// its part.
func (e *Executor) End(f mlaas.Fence, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.actors[f]; a != nil && a.kill != nil {
		a.kill(&exited{code: code})
	}
}

// Running lists the replicas that are alive, by name. A zombie is.
func (e *Executor) Running() (all []string) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	for f, a := range e.actors {
		if a.begun && !a.dead {
			all = append(all, f.String())
		}
	}
	slices.Sort(all)
	return all
}

// Starts counts how often a supervisor of f began.
func (e *Executor) Starts(f mlaas.Fence) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.actors[f]; a != nil && a.begun && !a.never {
		return 1
	}
	return 0
}

// Told lists what the door told the replica of f, in order.
func (e *Executor) Told(f mlaas.Fence) []mlaas.Down {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.actors[f]; a != nil {
		return slices.Clone(a.told)
	}
	return nil
}

// Refused lists why the door refused the replica of f, in order.
func (e *Executor) Refused(f mlaas.Fence) []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.actors[f]; a != nil {
		return slices.Clone(a.refused)
	}
	return nil
}

// Kind is the kind of cluster.
func (e *Executor) Kind() string { return "scripted" }

// Start asks for a replica.
func (e *Executor) Start(ctx context.Context, s booster.Spec) error {
	e.init()
	part := e.Play(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := cmp.Or(e.outage, ctx.Err()); err != nil {
		return err
	}
	if e.actors[s.Fence] != nil {
		return nil
	}
	if slices.Contains(s.Exclude, e.Node) {
		return mlaas.Invalid("exclude", "another node than the only one here", e.Node)
	}
	a := &actor{e: e, spec: s, part: part, gone: make(chan struct{}), spoke: make(chan struct{}), wake: make(chan struct{}, 1), orders: make(chan struct{})}
	e.actors[s.Fence] = a
	e.tell(a, mlaas.ReplicaCreating, "it is being made", nil, false)
	e.raise(a)
	return nil
}

// Stop ends a replica.
func (e *Executor) Stop(ctx context.Context, f mlaas.Fence) error {
	e.init()
	e.mu.Lock()
	if e.outage != nil {
		defer e.mu.Unlock()
		return e.outage
	}
	a := e.actors[f]
	if a == nil {
		e.mu.Unlock()
		return nil
	}
	a.halted = true
	if !a.begun { // and never will
		a.begun, a.dead, a.never = true, true, true
		close(a.gone)
	}
	zombie := a.part.Zombie && !a.dead
	if a.kill != nil && !zombie {
		a.kill(errKilled)
	}
	e.mu.Unlock()
	if !zombie {
		select {
		case <-a.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(a, mlaas.ReplicaStopped, "it was stopped", nil, false)
	return nil
}

// Logs returns what the supervisor of f wrote.
func (e *Executor) Logs(ctx context.Context, f mlaas.Fence, follow bool) (io.ReadCloser, error) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.actors[f]
	if a == nil {
		return nil, fmt.Errorf("replica %s: %w", f, mlaas.ErrNotFound)
	}
	if follow {
		return io.NopCloser(&following{ctx: ctx, a: a}), nil
	}
	return io.NopCloser(strings.NewReader(a.log.String())), nil
}

// following reads the log of an actor until that is gone.
type following struct {
	ctx context.Context
	a   *actor
	at  int
}

func (r *following) Read(p []byte) (int, error) {
	for over := false; ; {
		r.a.e.mu.Lock()
		text := r.a.log.String()[r.at:]
		r.a.e.mu.Unlock()
		if text != "" {
			n := copy(p, text)
			r.at += n
			return n, nil
		}
		if over {
			return 0, io.EOF
		}
		more := r.a.spoke
		if r.at > 0 {
			more = nil // it says one thing
		}
		select {
		case <-more:
		case <-r.a.gone:
			over = true
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

// Exec plays a command in a running replica.
func (e *Executor) Exec(_ context.Context, f mlaas.Fence, command []string, in io.Reader, out io.Writer) (int, error) {
	e.init()
	e.mu.Lock()
	a := e.actors[f]
	alive := a != nil && a.begun && !a.dead && !a.halted
	e.mu.Unlock()
	switch {
	case !alive:
		return 0, fmt.Errorf("replica %s does not run: %w", f, mlaas.ErrNotFound)
	case e.Command == nil:
		fmt.Fprintf(out, "%s: command not found\n", command[0])
		return 127, nil
	}
	return e.Command(f, command, in, out)
}

// Capacity tells what the place has.
func (e *Executor) Capacity(context.Context) (booster.Capacity, error) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	return booster.Capacity{Node: e.Node, Total: e.Total, Limits: slices.Clone(e.Limits)}, e.outage
}

// A watcher has its own list of news to send, so that none waits for another.
// Of one replica it keeps the newest only.
type watcher struct {
	wake  chan struct{}
	order []mlaas.Fence
	news  map[mlaas.Fence]booster.News
}

func (w *watcher) add(n booster.News) {
	if _, ok := w.news[n.Fence]; !ok {
		w.order = append(w.order, n.Fence)
	}
	w.news[n.Fence] = n
	w.poke()
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch sends the news of all replicas, then each change.
func (e *Executor) Watch(ctx context.Context, out chan<- booster.News) error {
	e.init()
	w := &watcher{wake: make(chan struct{}, 1), news: map[mlaas.Fence]booster.News{}}
	e.mu.Lock()
	for _, f := range slices.SortedFunc(maps.Keys(e.actors), func(a, b mlaas.Fence) int { return strings.Compare(a.String(), b.String()) }) {
		if a := e.actors[f]; !a.halted {
			w.add(a.news)
		}
	}
	w.order = append(w.order, mlaas.Fence{})
	w.news[mlaas.Fence{}] = booster.News{Synced: true}
	w.poke()
	e.watchers[w] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, w)
	}()
	for {
		e.mu.Lock()
		if err := e.outage; err != nil {
			e.mu.Unlock()
			return err
		}
		var next *booster.News
		if len(w.order) > 0 {
			n := w.news[w.order[0]]
			next = &n
			delete(w.news, w.order[0])
			w.order = w.order[1:]
		}
		e.mu.Unlock()
		if next != nil {
			select {
			case out <- *next:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell makes news of a replica, if it is a step forward. The lock is held.
func (e *Executor) tell(a *actor, s mlaas.ReplicaStatus, reason string, code *int, oom bool) {
	old := a.news.Status
	if old != "" && !s.After(old) {
		return
	}
	a.news = booster.News{Fence: a.spec.Fence, Status: s, Reason: reason, Node: e.Node, ExitCode: code, OOM: oom,
		Blocked: s == mlaas.ReplicaPending && a.part.Never, NodeLost: s == mlaas.ReplicaLost && a.part.Machine}
	for w := range e.watchers {
		w.add(a.news)
	}
}

// exited is the cause of the end of a supervisor that ended by itself.
type exited struct {
	code int
	oom  bool
}

func (x *exited) Error() string { return fmt.Sprintf("exit code %d", x.code) }

var (
	errKilled = errors.New("killed")
	errVanish = errors.New("gone without a word")
)
