package bubble_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A world is a platform with several of each service over one store, clusters
// whose replicas play their parts, and everything that may go wrong between
// them. Services are killed, stopped and cut off by their [gate]; clusters by
// their [spot]; the [book] reads along with every commit.
type world struct {
	*testing.T
	ctx    context.Context
	began  time.Time
	log    *slog.Logger
	book   *book
	blob   *memory
	series *series.Store
	spots  []*spot          // the clusters that are there without a record
	come   map[string]*spot // those that come and go by their records
	life   context.Context  // of all clusters
	power  sync.WaitGroup   // of their replicas
	all    []*server
	broken breakage // nil: it is not

	mu     sync.Mutex
	trace  []string // what happened, for whoever reads a failure
	wrong  []string // what may not happen and did
	sky    sky
	parts  map[mlaas.RunID]func(f mlaas.Fence) scripted.Script
	said   map[mlaas.Fence][]string // by programs, in their order
	stage  map[mlaas.Fence]*spot    // where each was started
	living []mlaas.Fence            // all that were ever started, in order
	ended  sync.WaitGroup           // of what was killed
}

// A breakage is how a deliberately broken build commits a batch.
type breakage func(db store.Driver, b store.Batch) []store.Batch

// The sky is the weather that all messages travel in.
type sky struct{ twice, late, never int } // per mille

func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  ", time.Since(w.began).Seconds()) + fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.trace = append(w.trace, line)
	w.mu.Unlock()
	if os.Getenv("MLAAS_LOG") != "" {
		w.Log(line)
	}
}

// fault notes what may not happen and did.
func (w *world) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("WRONG: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, text)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// newWorld makes a world without services. The caller calls end.
func newWorld(t *testing.T, broken breakage) (w *world, end func()) {
	w = &world{T: t, ctx: t.Context(), began: time.Now(), broken: broken, blob: &memory{},
		parts: map[mlaas.RunID]func(mlaas.Fence) scripted.Script{}, said: map[mlaas.Fence][]string{}, stage: map[mlaas.Fence]*spot{}}
	w.log = slog.New(slog.DiscardHandler)
	if os.Getenv("MLAAS_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	db, err := sqlitestore.Open(w.ctx, ":memory:", sqlitestore.Options{})
	w.must(err)
	w.book = newBook(w, db)
	w.series = &series.Store{Dir: scratch(t), Blob: w.blob}
	w.must(w.series.Open())
	ctx, cancel := context.WithCancel(w.ctx)
	power := &w.power
	w.life = ctx
	power.Go(func() { _ = w.series.Run(ctx) })
	for _, s := range []struct {
		name  string
		cores mlaas.MilliCPU
	}{{"east", 4}, {"west", 4}, {"north", 8}} {
		w.spots = append(w.spots, w.build(s.name, s.cores))
	}
	return w, func() {
		for _, s := range w.all {
			s.kill()
		}
		w.ended.Wait()
		cancel()
		power.Wait()
		w.must(w.series.Close())
		w.must(db.Close())
	}
}

// build makes a cluster with so many cores.
func (w *world) build(name string, cores mlaas.MilliCPU) *spot {
	place := &spot{w: w, name: name, changed: make(chan struct{}), lines: map[*crossing]context.CancelCauseFunc{}}
	place.Executor = &scripted.Executor{Node: name, Total: mlaas.Resources{CPU: cores * 1000, Memory: 64 << 30}, Play: place.play}
	place.Connect(place)
	w.power.Go(func() { _ = place.Executor.Run(w.life) })
	return place
}

// scratch is a folder in memory where there is one: a simulation has its own
// ways to lose what is on disk.
func scratch(t *testing.T) string {
	if dir, err := os.MkdirTemp("/dev/shm", "mlaas-*"); err == nil { //nolint:usetesting // t.TempDir is on a disk
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

// ask is management: somebody pressed run.
func (w *world) ask(id mlaas.RunID, spec string, part func(f mlaas.Fence) scripted.Script) {
	run := mlaas.Run{ID: id, Tenant: mlaas.DefaultTenant, Job: mlaas.JobID(id), JobName: string(id), Number: 1,
		Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Wanted: mlaas.WantRun, Created: time.Now()}
	w.must(json.Unmarshal([]byte(spec), &run.Spec))
	run.Spec.Name = string(id)
	run.Spec.Complete()
	w.must(run.Spec.Check())
	w.mu.Lock()
	w.parts[id] = part
	w.mu.Unlock()
	w.must(w.book.commit(w.ctx, "", store.Batch{
		Put:  []store.Row{store.Runs(w.book).Put(run, 0)},
		Tell: []store.Message{queue.Tell(mlaas.RunAsked{Tenant: run.Tenant, Run: id})},
	}))
}

// stop is management: somebody pressed stop.
func (w *world) stop(id mlaas.RunID) {
	run, rev, err := store.Runs(w.book).Get(w.ctx, mlaas.DefaultTenant, string(id))
	w.must(err)
	run.Wanted = mlaas.WantStop
	w.must(w.book.commit(w.ctx, "", store.Batch{
		Put:  []store.Row{store.Runs(w.book).Put(run, rev)},
		Tell: []store.Message{queue.Tell(mlaas.StopAsked{Tenant: run.Tenant, Run: id})},
	}))
}

// A server is one process of a service, and those that come after it under the
// same name.
type server struct {
	w    *world
	name string
	make func(s *server, m *lease.Member) func(context.Context) error

	lives int
	gate  *gate
	id    string // of the member that it is now
	stop  context.CancelFunc
	done  chan struct{} // closed when nothing of it is left
	skew  atomic.Int64  // of its clock
}

func (w *world) serve(name string, make func(*server, *lease.Member) func(context.Context) error) *server {
	s := &server{w: w, name: name, make: make}
	w.all = append(w.all, s)
	s.start()
	return s
}

func (s *server) now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

func (s *server) up() bool { return s.gate != nil }

// start begins a new process.
func (s *server) start() {
	if s.up() {
		return
	}
	s.lives++
	s.id = fmt.Sprintf("%s.%d", s.name, s.lives)
	s.gate = &gate{w: s.w, who: s.id, dead: make(chan struct{}), broke: make(chan struct{}), dice: rand.New(rand.NewPCG(s.w.book.seed, hash(s.id)))}
	ctx, cancel := context.WithCancel(s.w.ctx)
	s.stop, s.done = cancel, make(chan struct{})
	m := &lease.Member{DB: s.gate, Service: strings.TrimRight(s.name, "12"), ID: s.id, URL: "http://" + s.id, Now: s.now, Log: s.w.log.With("process", s.id)}
	run, gate, done := s.make(s, m), s.gate, s.done
	var all sync.WaitGroup
	all.Go(func() { _ = m.Run(ctx) })
	all.Go(func() {
		if err := run(ctx); ctx.Err() == nil {
			s.w.fault("%s ended by itself: %v", gate.who, err)
		}
	})
	s.w.ended.Go(func() {
		all.Wait()
		close(done)
	})
}

// kill is kill -9: nothing that it does from here on reaches anybody.
func (s *server) kill() {
	if s.up() {
		s.gate.kill()
		s.stop()
		s.gate = nil
	}
}

// term is SIGTERM. The process has all the time that it wants.
func (s *server) term() {
	if s.up() {
		s.gate.goOn()
		s.stop()
		<-s.done
		s.gate.kill()
		s.gate = nil
	}
}

func (w *world) contract(name string) *server {
	return w.serve(name, func(s *server, m *lease.Member) func(context.Context) error {
		return (&contractor.Contractor{DB: s.gate, Member: m, Now: s.now, Log: m.Log}).Run
	})
}

func (w *world) boost(name string) *server {
	return w.serve(name, func(s *server, m *lease.Member) func(context.Context) error {
		gate := s.gate
		f := &booster.Fleet{Member: m, DB: gate, Log: m.Log}
		at := map[string]*spot{}
		for _, place := range w.spots {
			f.Fixed = append(f.Fixed, place.name)
			at[place.name] = place
		}
		f.Serve = func(ctx context.Context, t *lease.Tenure, c booster.Reach, open func(http.Handler)) error {
			place := at[c.Spec.Name]
			if place == nil {
				w.mu.Lock()
				place = w.come[c.Spec.Name]
				w.mu.Unlock()
			}
			b := &booster.Booster{DB: t.Over(), Blob: w.blob, Key: []byte("a key of 32 bytes, as there is one"),
				Cluster: c.Spec.Name, Of: c.Spec.Changed, DoorURL: "pipe", Now: s.now, Log: m.Log.With("cluster", c.Spec.Name)}
			if place == nil { // it cannot even be called
				b.Series, b.Executor = w.series, booster.Unreached("kubernetes", fmt.Errorf("its token has expired: %w", mlaas.ErrUnauthorized))
				return b.Run(ctx)
			}
			b.Series, b.Executor = &keeping{w.series, w, gate, place}, &reach{place.Executor, place, gate}
			open(b.Monitor().Handler())
			defer place.opened(gate, b.Monitor())()
			return b.Run(ctx)
		}
		return f.Run
	})
}

var (
	errDead  = errors.New("this process was killed")
	errStore = fmt.Errorf("the store does not answer: %w", mlaas.ErrUnavailable)
	errPlace = fmt.Errorf("the cluster does not answer: %w", mlaas.ErrUnavailable)
)

// A gate stands between a process and all that is outside of it, and is its
// way to the store. A dead process reaches nothing. What a stopped one says,
// or is told, waits until it goes on, whatever became of its contexts: it is on
// its way. (Its timers run meanwhile, unlike those of a process that got
// SIGSTOP.)
type gate struct {
	w    *world
	who  string
	dead chan struct{} // closed when it is killed
	cut  atomic.Bool   // off the store
	fail atomic.Int64  // of 1000 calls to the store, so many are not heard
	lose atomic.Int64  // and of so many the answer gets lost
	slow atomic.Int64  // every call takes so many nanoseconds at most
	hang atomic.Int64  // of 1000 calls, so many take up to 90 s on their way, whatever became of who called

	mu    sync.Mutex
	held  chan struct{} // not nil: it is stopped, until this is closed
	broke chan struct{} // closed and made anew: who waits at the store is told that it is gone
	dice  *rand.Rand
}

func (g *gate) kill() {
	g.goOn()
	close(g.dead)
}

func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == nil {
		g.held = make(chan struct{})
	}
}

func (g *gate) goOn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// drop ends the calls that wait at the store.
func (g *gate) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.broke)
	g.broke = make(chan struct{})
}

// pass waits while the process is stopped.
func (g *gate) pass() error {
	for {
		g.mu.Lock()
		held := g.held
		g.mu.Unlock()
		if held == nil {
			select {
			case <-g.dead:
				return errDead
			default:
				return nil
			}
		}
		select {
		case <-held:
		case <-g.dead:
		}
	}
}

func (g *gate) roll(n int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dice.Int64N(n)
}

// call is one question to the store and its answer.
func (g *gate) call(ctx context.Context, f func() error) error {
	return g.perhaps(ctx, g.hang.Load(), f)
}

// perhaps is a call of which so many of 1000 hang.
func (g *gate) perhaps(ctx context.Context, hang int64, f func() error) error {
	if err := g.pass(); err != nil {
		return err
	}
	if slow := g.slow.Load(); slow > 0 {
		if !idle(ctx, time.Duration(g.roll(slow))) {
			return ctx.Err()
		}
	}
	if g.roll(1000) < hang {
		g.linger(time.Duration(g.roll(int64(90 * time.Second))))
	} else if ctx.Err() != nil {
		return ctx.Err()
	}
	if g.cut.Load() || g.roll(1000) < g.fail.Load() {
		return errStore
	}
	err := f()
	if at := g.pass(); at != nil {
		return at
	}
	if g.cut.Load() || g.roll(1000) < g.lose.Load() {
		return errStore
	}
	return err
}

// linger waits, unless the process is killed.
func (g *gate) linger(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.dead:
	}
}

func idle(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// long is a context for a call that waits at the store.
func (g *gate) long(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	g.mu.Lock()
	broke := g.broke
	g.mu.Unlock()
	over := make(chan struct{})
	go func() {
		select {
		case <-broke:
			cancel(errStore)
		case <-g.dead:
			cancel(errDead)
		case <-over:
		}
	}()
	return ctx, func() { close(over); cancel(nil) }
}

func (g *gate) Commit(ctx context.Context, b store.Batch) error {
	parts := []store.Batch{b}
	if g.w.broken != nil {
		parts = g.w.broken(g.w.book, b)
	}
	for _, b := range parts {
		b.Tell = g.weather(b.Tell)
		hang := g.hang.Load()
		if hang > 0 && (slices.ContainsFunc(b.Check, func(r store.Row) bool { return r.Key.Kind == "runstate" }) || writes(b, "ledger")) {
			hang = 400 // what others write too is hit where it hurts
		}
		if err := g.perhaps(ctx, hang, func() error { return g.w.book.commit(context.WithoutCancel(ctx), g.who, b) }); err != nil {
			return err
		}
	}
	return nil
}

// weather is what becomes of messages on their way.
func (g *gate) weather(all []store.Message) (out []store.Message) {
	g.w.mu.Lock()
	sky := g.w.sky
	g.w.mu.Unlock()
	if sky == (sky0) {
		return all
	}
	for _, m := range all {
		n := 1
		switch dice := int(g.roll(1000)); {
		case dice < sky.never:
			n = 0
		case dice < sky.never+sky.twice:
			n = 2
		}
		for range n {
			if int(g.roll(1000)) < sky.late {
				m.Due = time.Now().Add(time.Duration(g.roll(int64(40 * time.Second))))
			}
			out = append(out, m)
		}
	}
	return out
}

var sky0 sky

func (g *gate) Get(ctx context.Context, k store.Key) (row store.Row, err error) {
	err = g.call(ctx, func() error { row, err = g.w.book.Get(ctx, k); return err })
	return row, err
}

func (g *gate) List(ctx context.Context, q store.Query) (rows []store.Row, next store.Key, err error) {
	err = g.call(ctx, func() error { rows, next, err = g.w.book.List(ctx, q); return err })
	return rows, next, err
}

func (g *gate) Stats(ctx context.Context) (s store.Stats, err error) {
	err = g.call(ctx, func() error { s, err = g.w.book.Stats(ctx); return err })
	return s, err
}

func (g *gate) Next(ctx context.Context, inbox string, lease time.Duration) (c store.Claim, err error) {
	long, done := g.long(ctx)
	defer done()
	err = g.call(ctx, func() error {
		if c, err = g.w.book.Next(long, inbox, lease); err != nil && ctx.Err() == nil && long.Err() != nil {
			return context.Cause(long)
		}
		return err
	})
	return c, err
}

func (g *gate) Watch(ctx context.Context, from int64, kinds []string, out chan<- store.Change) error {
	long, done := g.long(ctx)
	defer done()
	return g.call(ctx, func() error {
		changes, ended := make(chan store.Change), make(chan error, 1)
		go func() { ended <- g.w.book.Watch(long, from, kinds, changes) }()
		for {
			select {
			case c := <-changes:
				if g.pass() != nil {
					<-ended
					return errDead
				}
				select {
				case out <- c:
				case <-long.Done():
				}
			case err := <-ended:
				if ctx.Err() == nil && long.Err() != nil {
					return context.Cause(long)
				}
				return err
			}
		}
	})
}

func (g *gate) Parked(context.Context) ([]store.Claim, error) { return nil, errors.ErrUnsupported }
func (g *gate) Requeue(context.Context, int64) error          { return errors.ErrUnsupported }
func (g *gate) Close() error                                  { return nil }

// A spot is a cluster, and the roads to it: that to its API, and that between
// its replicas and whoever serves it.
type spot struct {
	*scripted.Executor
	w    *world
	name string

	mu      sync.Mutex
	api     road
	net     road
	changed chan struct{} // closed and made anew with each change of a road
	doors   []doorway
	lines   map[*crossing]context.CancelCauseFunc
	flaky   int64 // of 1000 calls of the API, so many fail, before or after they did what they do
}

type road int

const (
	open    road = iota
	refused      // whoever comes is told that it is closed
	silent       // whoever comes waits
)

type doorway struct {
	gate    *gate
	monitor *booster.Monitor
}

// play is the part of a replica that is being started here.
func (s *spot) play(spec booster.Spec) scripted.Script {
	f := spec.Fence
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if at := s.w.stage[f]; at == nil {
		s.w.stage[f] = s
		s.w.living = append(s.w.living, f)
	} else if at != s {
		s.w.wrong = append(s.w.wrong, fmt.Sprintf("%s is started on %s and on %s", f, at.name, s.name))
	}
	script := s.w.parts[f.Run](f)
	script.Lines = func(step int64) []string { return s.w.says(f, step) }
	return script
}

// says is the one line that a program writes at a step. A program that was
// started twice would be at two steps at once.
func (w *world) says(f mlaas.Fence, step int64) []string {
	text := fmt.Sprintf("%s step %d", f, step)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.said[f]); n > 0 && w.said[f][n-1] != fmt.Sprintf("%s step %d", f, step-1) {
		w.wrong = append(w.wrong, fmt.Sprintf("%q follows %q: its program was started twice", text, w.said[f][n-1]))
	}
	w.said[f] = append(w.said[f], text)
	return []string{text}
}

// set changes the roads.
func (s *spot) set(api, net road) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api, s.net = api, net
	close(s.changed)
	s.changed = make(chan struct{})
	if net != open {
		for _, end := range s.lines {
			end(errPlace)
		}
	}
}

// travel goes down a road, or waits at it.
func (s *spot) travel(ctx context.Context, which func() road) error {
	for {
		s.mu.Lock()
		r, changed := which(), s.changed
		s.mu.Unlock()
		switch r {
		case open:
			return ctx.Err()
		case refused:
			return errPlace
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *spot) byAPI() road { return s.api }
func (s *spot) byNet() road { return s.net }

// opened is a booster that serves this cluster, until the answer is called.
func (s *spot) opened(g *gate, m *booster.Monitor) (closed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors = append(s.doors, doorway{g, m})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.doors = slices.DeleteFunc(s.doors, func(d doorway) bool { return d.monitor == m })
	}
}

// dial finds who serves this cluster, also where that is a process that only
// believes so.
func (s *spot) dial(ctx context.Context, f mlaas.Fence) (doorway, error) {
	if err := s.travel(ctx, s.byNet); err != nil {
		return doorway{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.doors) == 0 {
		return doorway{}, fmt.Errorf("nobody serves %s: %w", s.name, mlaas.ErrUnavailable)
	}
	return s.doors[hash(fmt.Sprint(f, time.Since(s.w.began)))%uint64(len(s.doors))], nil
}

// Serve is the door, as supervisors of this cluster see it.
func (s *spot) Serve(ctx context.Context, f mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) error {
	d, err := s.dial(ctx, f)
	if err != nil {
		line.(interface{ Refuse(error) }).Refuse(err)
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &crossing{line, d.gate}
	s.mu.Lock()
	s.lines[c] = cancel
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.lines, c)
	}()
	return d.monitor.Serve(ctx, f, c)
}

// Put is the door for bytes.
func (s *spot) Put(ctx context.Context, r io.Reader) (mlaas.Digest, int64, error) {
	d, err := s.dial(ctx, mlaas.Fence{})
	if err == nil {
		err = d.gate.pass()
	}
	if err != nil {
		return "", 0, err
	}
	return d.monitor.Put(ctx, r)
}

// A crossing is a line to a process, which may be stopped.
type crossing struct {
	mlaas.Line[mlaas.Down, mlaas.Up]
	gate *gate
}

func (c *crossing) Send(ctx context.Context, d mlaas.Down) error {
	if err := c.gate.pass(); err != nil {
		return err
	}
	return c.Line.Send(ctx, d)
}

func (c *crossing) Receive(ctx context.Context) (mlaas.Up, error) {
	up, err := c.Line.Receive(ctx)
	if at := c.gate.pass(); at != nil {
		return up, at
	}
	return up, err
}

func (c *crossing) Refuse(why error) { c.Line.(interface{ Refuse(error) }).Refuse(why) }

// reach is a cluster's API, as one process sees it.
type reach struct {
	*scripted.Executor
	s    *spot
	gate *gate
}

func (r *reach) call(ctx context.Context, f func() error) error {
	if err := r.gate.pass(); err != nil {
		return err
	}
	if err := r.s.travel(ctx, r.s.byAPI); err != nil {
		return err
	}
	r.s.mu.Lock()
	flaky := r.s.flaky
	r.s.mu.Unlock()
	dice := r.gate.roll(1000)
	if dice < flaky/2 {
		return errPlace
	}
	err := f()
	if at := r.gate.pass(); at != nil {
		return at
	}
	if dice < flaky {
		return errPlace
	}
	if at := r.s.travel(ctx, r.s.byAPI); at != nil {
		return at
	}
	return err
}

func (r *reach) Start(ctx context.Context, spec booster.Spec) error {
	return r.call(ctx, func() error { return r.Executor.Start(context.WithoutCancel(ctx), spec) })
}

func (r *reach) Stop(ctx context.Context, f mlaas.Fence) error {
	return r.call(ctx, func() error { return r.Executor.Stop(context.WithoutCancel(ctx), f) })
}

func (r *reach) Capacity(ctx context.Context) (have booster.Capacity, err error) {
	err = r.call(ctx, func() error { have, err = r.Executor.Capacity(ctx); return err })
	return have, err
}

func (r *reach) Logs(ctx context.Context, f mlaas.Fence, follow bool) (log io.ReadCloser, err error) {
	err = r.call(ctx, func() error { log, err = r.Executor.Logs(ctx, f, follow); return err })
	return log, err
}

func (r *reach) Watch(ctx context.Context, out chan<- booster.News) error {
	return r.call(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		news, ended := make(chan booster.News), make(chan error, 1)
		go func() { ended <- r.Executor.Watch(ctx, news) }()
		for {
			r.s.mu.Lock()
			api, changed := r.s.api, r.s.changed
			r.s.mu.Unlock()
			if api == refused {
				return errPlace
			}
			select {
			case n := <-news:
				if err := r.gate.pass(); err != nil {
					return err
				}
				if err := r.s.travel(ctx, r.s.byAPI); err != nil {
					return err
				}
				select {
				case out <- n:
				case <-ctx.Done():
					return ctx.Err()
				}
			case <-changed:
			case <-r.gate.dead:
				return errDead
			case err := <-ended:
				return err
			}
		}
	})
}

// keeping is the series, as the booster of one cluster appends to it.
type keeping struct {
	*series.Store
	w    *world
	gate *gate
	s    *spot
}

// Append keeps what a booster hands over while it serves the cluster. (Where
// several boosters share a series, it asks that itself.)
func (k *keeping) Append(ctx context.Context, batches ...series.Batch) error {
	if err := k.gate.pass(); err != nil {
		return err
	}
	dice, fail := k.gate.roll(1000), k.w.book.spoil.Load()
	if dice < fail/2 {
		return fmt.Errorf("the series cannot be written: %w", mlaas.ErrUnavailable)
	}
	if !k.w.book.holds(k.gate.who, store.ClusterLease(k.s.name)) {
		return fmt.Errorf("%s is another booster's: %w", k.s.name, mlaas.ErrUnavailable)
	}
	k.w.book.late(batches)
	err := k.Store.Append(context.WithoutCancel(ctx), batches...)
	if at := k.gate.pass(); at != nil {
		return at
	}
	if dice < fail {
		return fmt.Errorf("the series does not answer: %w", mlaas.ErrUnavailable)
	}
	return err
}

// memory is blobs that nobody needs to wait for.
type memory struct {
	mu   sync.Mutex
	data map[mlaas.Digest][]byte
}

func (m *memory) Put(_ context.Context, r io.Reader, want mlaas.Digest) (mlaas.Digest, int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(data)
	d := mlaas.Digest("sha256:" + hex.EncodeToString(sum[:]))
	if want != "" && want != d {
		return "", 0, mlaas.Invalid("digest", string(want), d)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		m.data = map[mlaas.Digest][]byte{}
	}
	m.data[d] = data
	return d, int64(len(data)), nil
}

func (m *memory) Get(_ context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.data[d]
	if !ok || offset > int64(len(data)) {
		return nil, fmt.Errorf("blob %s: %w", d, mlaas.ErrNotFound)
	}
	return io.NopCloser(strings.NewReader(string(data[offset:]))), nil
}

func (m *memory) Stat(_ context.Context, d mlaas.Digest) (blob.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.data[d]
	if !ok {
		return blob.Info{}, fmt.Errorf("blob %s: %w", d, mlaas.ErrNotFound)
	}
	return blob.Info{Digest: d, Size: int64(len(data)), Time: time.Now()}, nil
}

func (m *memory) Each(context.Context, func(blob.Info) error) error { return errors.ErrUnsupported }

func (m *memory) Delete(_ context.Context, d mlaas.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, d)
	return nil
}
