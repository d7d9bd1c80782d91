// Package executortest is the conformance suite of booster.Executor: what
// every place that runs replicas has to keep. A driver's test file is a
// [Harness] and one call of [Run].
//
// Rule one of anything that is watched: everything first, then changes.
package executortest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// A Harness is one empty place and what the suite must be able to do in it
// behind the driver's back. It is made anew for each test; what it made goes
// with t.Cleanup.
type Harness struct {
	// Open opens the place. A second call is a new process of the platform:
	// it gets a new driver that finds what the first one left. The suite does
	// not use the first one any more then.
	Open func(t *testing.T) booster.Executor

	// Spec is a replica whose supervisor writes f.String() into its own log,
	// starts at least one more process, and then runs, with all its processes
	// deaf to polite words, until End.
	Spec func(t *testing.T, f mlaas.Fence) booster.Spec

	// Broken is a replica that cannot be started; nil: there is no such thing.
	Broken func(t *testing.T, f mlaas.Fence) booster.Spec

	// End makes the supervisor of f end by itself with this exit code.
	End func(t *testing.T, f mlaas.Fence, code int)

	// Starts counts how many supervisors of f ever began.
	Starts func(t *testing.T, f mlaas.Fence) int

	// Left lists what of f is still there: processes, control groups, mounts.
	Left func(t *testing.T, f mlaas.Fence) []string

	// NoProgram says why a replica of this place has no program and no log, as
	// where machines are only played; then Logs and Exec are not tested. Empty:
	// it has.
	NoProgram string

	// Wait is how long the suite waits for one event before it gives up; 0:
	// 30 s. Nothing takes that long unless it is broken.
	Wait time.Duration
}

// Run runs the suite. harness makes an empty place.
func Run(t *testing.T, harness func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*place)
	}{
		{"everything first, then changes", everythingFirst},
		{"one life", oneLife},
		{"started twice", startedTwice},
		{"started after its end", startedAfterEnd},
		{"started after it was stopped", startedAfterStop},
		{"cannot start", cannotStart},
		{"ended by itself", endedByItself},
		{"stop what is unknown", stopUnknown},
		{"stop ends everything", stopEndsAll},
		{"stop twice at once", stopTwice},
		{"stop at once", stopAtOnce},
		{"two watchers", twoWatchers},
		{"a watcher that does not listen", deafWatcher},
		{"a watch ends with its context", watchEnds},
		{"opened again", reopened},
		{"ended while nobody watched", endedUnwatched},
		{"incarnations are apart", incarnations},
		{"capacity", capacity},
		{"logs", logs},
		{"exec", exec},
		{"a node that is excluded", excluded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := harness(t)
			if h.Wait == 0 {
				h.Wait = 30 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*h.Wait)
			t.Cleanup(cancel)
			p := &place{T: t, Harness: h, ctx: ctx}
			t.Cleanup(p.end)
			tt.run(p)
		})
	}
}

// A place is one test's harness and what it has started.
type place struct {
	*testing.T
	Harness
	ctx     context.Context
	mu      sync.Mutex
	started []mlaas.Fence
}

// end leaves nothing behind, also where a test failed.
func (p *place) end() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), p.Wait)
	defer cancel()
	if len(p.started) == 0 {
		return
	}
	e := p.Open(p.T)
	var all sync.WaitGroup
	for _, f := range p.started {
		all.Go(func() {
			if err := e.Stop(ctx, f); err != nil {
				p.Errorf("at the end, Stop(%s): %v", f, err)
			}
		})
	}
	all.Wait()
}

func (p *place) fence(replica string) mlaas.Fence {
	return mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(mlaas.NewID(time.Now())), Epoch: 1, Replica: replica, Incarnation: 1}
}

func (p *place) start(e booster.Executor, f mlaas.Fence) {
	p.Helper()
	p.mu.Lock()
	p.started = append(p.started, f)
	p.mu.Unlock()
	if err := e.Start(p.ctx, p.Spec(p.T, f)); err != nil {
		p.Fatalf("Start(%s): %v", f, err)
	}
}

func (p *place) stop(e booster.Executor, f mlaas.Fence) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, p.Wait)
	defer cancel()
	if err := e.Stop(ctx, f); err != nil {
		p.Fatalf("Stop(%s): %v", f, err)
	}
}

// A watcher collects the news of one Watch.
type watcher struct {
	p      *place
	cancel context.CancelFunc
	done   chan error
	news   chan booster.News
	seen   []booster.News
}

func (p *place) watch(e booster.Executor) *watcher {
	p.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	w := &watcher{p: p, cancel: cancel, done: make(chan error, 1), news: make(chan booster.News)}
	go func() { w.done <- e.Watch(ctx, w.news) }()
	p.Cleanup(cancel)
	return w
}

// leave ends the watch and waits for that.
func (w *watcher) leave() {
	w.p.Helper()
	w.cancel()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		w.p.Errorf("Watch returns %v, want %v", err, context.Canceled)
	}
}

// until waits for news that match, and checks the order on the way.
func (w *watcher) until(what string, match func(booster.News) bool) booster.News {
	w.p.Helper()
	for _, n := range w.seen {
		if match(n) {
			return n
		}
	}
	timer := time.NewTimer(w.p.Wait)
	defer timer.Stop()
	for {
		select {
		case n := <-w.news:
			w.check(n)
			w.seen = append(w.seen, n)
			if match(n) {
				return n
			}
		case err := <-w.done:
			w.p.Fatalf("Watch ended while waiting for %s: %v\nseen: %s", what, err, w.told())
		case <-timer.C:
			w.p.Fatalf("no news of %s in %s\nseen: %s", what, w.p.Wait, w.told())
		}
	}
}

func (w *watcher) check(n booster.News) {
	w.p.Helper()
	if n.Synced {
		if n.Fence != (mlaas.Fence{}) {
			w.p.Errorf("the synced news names %s, want no fence", n.Fence)
		}
		if slices.ContainsFunc(w.seen, func(o booster.News) bool { return o.Synced }) {
			w.p.Error("synced came twice")
		}
		return
	}
	known := []mlaas.ReplicaStatus{mlaas.ReplicaCreating, mlaas.ReplicaPending, mlaas.ReplicaReady, mlaas.ReplicaStopped, mlaas.ReplicaFailed, mlaas.ReplicaLost}
	if !slices.Contains(known, n.Status) {
		w.p.Errorf("news of %s has status %q: an executor sees %v", n.Fence, n.Status, known)
	}
	if n.Status.Final() && n.Reason == "" {
		w.p.Errorf("%s is %s without a reason", n.Fence, n.Status)
	}
	for i := len(w.seen) - 1; i >= 0; i-- {
		if old := w.seen[i]; old.Fence == n.Fence && !old.Synced {
			if old.Status != n.Status && !n.Status.After(old.Status) {
				w.p.Errorf("%s is %s after it was %s", n.Fence, n.Status, old.Status)
			}
			break
		}
	}
}

func (w *watcher) told() string {
	var b strings.Builder
	for _, n := range w.seen {
		if n.Synced {
			fmt.Fprint(&b, "\n  synced")
		} else {
			fmt.Fprintf(&b, "\n  %s %s: %s", n.Fence, n.Status, n.Reason)
		}
	}
	return b.String()
}

func (w *watcher) synced() {
	w.p.Helper()
	w.until("being synced", func(n booster.News) bool { return n.Synced })
}

func (w *watcher) status(f mlaas.Fence, s mlaas.ReplicaStatus) booster.News {
	w.p.Helper()
	return w.until(fmt.Sprintf("%s being %s", f, s), func(n booster.News) bool { return n.Fence == f && n.Status == s })
}

// final waits for the end of f, whichever it is.
func (w *watcher) final(f mlaas.Fence) booster.News {
	w.p.Helper()
	return w.until(f.String()+" having ended", func(n booster.News) bool { return n.Fence == f && n.Status.Final() })
}

// before lists what is known of f before Synced.
func (w *watcher) before(f mlaas.Fence) (out []mlaas.ReplicaStatus) {
	w.p.Helper()
	w.synced()
	for _, n := range w.seen {
		if n.Synced {
			return out
		}
		if n.Fence == f {
			out = append(out, n.Status)
		}
	}
	return out
}

func last(s []mlaas.ReplicaStatus) mlaas.ReplicaStatus {
	if len(s) == 0 {
		return ""
	}
	return s[len(s)-1]
}

// settled returns when the place has had time to do what it does behind a
// call: a replica that was asked for afterwards runs.
func (p *place) settled(e booster.Executor, w *watcher) {
	p.Helper()
	f := p.fence("worker-9")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	p.stop(e, f)
}

func (p *place) starts(f mlaas.Fence, want int) {
	p.Helper()
	if n := p.Starts(p.T, f); n != want {
		p.Errorf("%d supervisors of %s began, want %d", n, f, want)
	}
}

func (p *place) gone(f mlaas.Fence) {
	p.Helper()
	if left := p.Left(p.T, f); len(left) > 0 {
		p.Errorf("left of %s: %s", f, strings.Join(left, ", "))
	}
}

func everythingFirst(p *place) {
	e := p.Open(p.T)
	first := p.watch(e)
	first.synced()
	if len(first.seen) != 1 {
		p.Errorf("an empty place has news: %s", first.told())
	}
	var fences []mlaas.Fence
	for i := range 3 {
		f := p.fence(mlaas.ReplicaName(mlaas.Worker, i))
		p.start(e, f)
		fences = append(fences, f)
	}
	for _, f := range fences {
		first.status(f, mlaas.ReplicaReady)
	}
	// Who watches later is told of what began before.
	second := p.watch(e)
	for _, f := range fences {
		if s := second.before(f); last(s) != mlaas.ReplicaReady {
			p.Errorf("before synced a later watcher heard of %s: %v, want ready", f, s)
		}
	}
	f := p.fence("ps-0")
	p.start(e, f)
	second.status(f, mlaas.ReplicaReady)
}

func oneLife(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	w.synced()
	f := p.fence("worker-0")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	p.starts(f, 1)
	p.stop(e, f)
	if n := w.final(f); n.Status != mlaas.ReplicaStopped {
		p.Errorf("after Stop it is %s (%s), want stopped", n.Status, n.Reason)
	}
	p.gone(f)
}

func startedTwice(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	var all sync.WaitGroup
	for range 4 { // also at the same time
		all.Go(func() { p.start(e, f) })
	}
	all.Wait()
	w.status(f, mlaas.ReplicaReady)
	p.start(e, f)
	p.settled(e, w)
	p.starts(f, 1)
}

func startedAfterEnd(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	p.End(p.T, f, 0)
	w.final(f)
	p.start(e, f)
	p.settled(e, w)
	p.starts(f, 1)
}

func startedAfterStop(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	p.stop(e, f)
	w.final(f)
	p.start(e, f)
	p.settled(e, w)
	p.starts(f, 1)
	p.gone(f)
	again := p.Open(p.T) // nor does a new process start it again
	w = p.watch(again)
	p.start(again, f)
	p.settled(again, w)
	p.starts(f, 1)
	p.gone(f)
}

func cannotStart(p *place) {
	if p.Broken == nil {
		p.Skip("everything can be started here")
	}
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.started = append(p.started, f)
	if err := e.Start(p.ctx, p.Broken(p.T, f)); err != nil {
		return // said at once is as good
	}
	if n := w.final(f); n.Status != mlaas.ReplicaFailed {
		p.Errorf("what could not start is %s (%s), want failed", n.Status, n.Reason)
	}
	p.stop(e, f)
	p.gone(f)
}

func endedByItself(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	for _, code := range []int{0, 7} {
		f := p.fence("worker-0")
		p.start(e, f)
		w.status(f, mlaas.ReplicaReady)
		p.End(p.T, f, code)
		n := w.final(f)
		if n.Status != mlaas.ReplicaLost {
			p.Errorf("a supervisor that ended by itself is %s, want lost: nobody asked it to", n.Status)
		}
		if n.ExitCode == nil || *n.ExitCode != code {
			p.Errorf("its exit code is %v, want %d", show(n.ExitCode), code)
		}
		// It is there, with its exit code, until it is stopped.
		late := p.watch(e)
		if s := late.before(f); last(s) != mlaas.ReplicaLost {
			p.Errorf("a later watcher hears %v of what ended by itself, want lost", s)
		}
		p.stop(e, f)
		p.gone(f)
	}
}

func show(code *int) any {
	if code == nil {
		return "unknown"
	}
	return *code
}

func stopUnknown(p *place) {
	e := p.Open(p.T)
	p.stop(e, p.fence("worker-0"))
}

func stopEndsAll(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	a, b := p.fence("worker-0"), p.fence("worker-1")
	p.start(e, a)
	p.start(e, b)
	w.status(a, mlaas.ReplicaReady)
	w.status(b, mlaas.ReplicaReady)
	if len(p.Left(p.T, a)) == 0 {
		p.Error("the harness finds nothing of a replica that runs")
	}
	p.stop(e, a)
	p.gone(a) // at once: Stop returns when nothing is left
	if len(p.Left(p.T, b)) == 0 {
		p.Error("stopping one replica ended another")
	}
	p.stop(e, b)
	p.gone(b)
}

func stopTwice(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := e.Stop(p.ctx, f); err != nil {
				p.Errorf("Stop: %v", err)
			}
			p.gone(f)
		})
	}
	all.Wait()
	p.stop(e, f)
}

func stopAtOnce(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.start(e, f)
	p.stop(e, f)
	p.gone(f)
	p.settled(e, w)
	p.gone(f)
	// A new watcher may not have heard of it at all, but not as alive.
	if s := last(p.watch(e).before(f)); s != "" && s != mlaas.ReplicaStopped {
		p.Errorf("what was stopped is %s", s)
	}
}

func twoWatchers(p *place) {
	e := p.Open(p.T)
	a, b := p.watch(e), p.watch(e)
	a.synced()
	b.synced()
	f := p.fence("worker-0")
	p.start(e, f)
	a.status(f, mlaas.ReplicaReady)
	b.status(f, mlaas.ReplicaReady)
	a.cancel()
	g := p.fence("worker-1")
	p.start(e, g)
	b.status(g, mlaas.ReplicaReady)
	p.stop(e, f)
	b.status(f, mlaas.ReplicaStopped)
}

func deafWatcher(p *place) {
	e := p.Open(p.T)
	deaf := p.watch(e) // nobody reads it
	w := p.watch(e)
	w.synced()
	for i := range 3 {
		f := p.fence(mlaas.ReplicaName(mlaas.Worker, i))
		p.start(e, f)
		w.status(f, mlaas.ReplicaReady)
		p.stop(e, f)
		w.status(f, mlaas.ReplicaStopped)
	}
	deaf.cancel()
	select {
	case err := <-deaf.done:
		if !errors.Is(err, context.Canceled) {
			p.Errorf("a watch that nobody listens to ends with %v, want %v", err, context.Canceled)
		}
	case <-time.After(p.Wait):
		p.Error("a watch that nobody listens to does not end with its context")
	}
}

func watchEnds(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	w.synced()
	w.cancel()
	select {
	case err := <-w.done:
		if !errors.Is(err, context.Canceled) {
			p.Errorf("Watch returns %v, want %v: any other error says that the place is lost", err, context.Canceled)
		}
	case <-time.After(p.Wait):
		p.Fatal("Watch does not end with its context")
	}
	select {
	case _, open := <-w.news:
		if !open {
			p.Error("Watch closed its channel; that is the caller's")
		}
	default:
	}
}

func reopened(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	a, b := p.fence("worker-0"), p.fence("worker-1")
	p.start(e, a)
	p.start(e, b)
	w.status(a, mlaas.ReplicaReady)
	w.status(b, mlaas.ReplicaReady)
	w.leave()

	again := p.Open(p.T)
	w = p.watch(again)
	for _, f := range []mlaas.Fence{a, b} {
		if s := w.before(f); last(s) != mlaas.ReplicaReady {
			p.Errorf("opened again, %s is %v, want ready", f, s)
		}
		p.start(again, f) // which does nothing
	}
	p.settled(again, w)
	p.starts(a, 1)
	p.starts(b, 1)
	p.End(p.T, a, 5) // it is no child of this process, and is seen to end
	if n := w.final(a); n.Status != mlaas.ReplicaLost {
		p.Errorf("adopted, then ended by itself: %s, want lost", n.Status)
	}
	p.stop(again, b)
	p.gone(b)
	w.status(b, mlaas.ReplicaStopped)
}

func endedUnwatched(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	w.leave()
	p.End(p.T, f, 3)
	again := p.Open(p.T)
	if n := p.watch(again).final(f); n.Status != mlaas.ReplicaLost {
		p.Errorf("what ended while nobody watched is %s, want lost", n.Status)
	}
}

func incarnations(p *place) {
	e := p.Open(p.T)
	w := p.watch(e)
	one := p.fence("worker-0")
	two := one
	two.Incarnation = 2
	three := one
	three.Epoch = 2
	for _, f := range []mlaas.Fence{one, two, three} {
		p.start(e, f)
		w.status(f, mlaas.ReplicaReady)
	}
	p.stop(e, one)
	p.gone(one)
	for _, f := range []mlaas.Fence{two, three} {
		if len(p.Left(p.T, f)) == 0 {
			p.Errorf("stopping %s ended %s", one, f)
		}
	}
}

func capacity(p *place) {
	c, err := p.Open(p.T).Capacity(p.ctx)
	if err != nil {
		p.Fatal(err)
	}
	if c.Total.CPU <= 0 || c.Total.Memory <= 0 || c.Total.GPU.Count < 0 {
		p.Errorf("capacity is %+v, want some", c.Total)
	}
	for _, s := range c.Limits {
		if len(strings.Fields(s)) < 3 {
			p.Errorf("limit %q is not a sentence", s)
		}
	}
}

func logs(p *place) {
	if p.NoProgram != "" {
		p.Skip(p.NoProgram)
	}
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	for _, follow := range []bool{false, true} {
		if _, err := e.Logs(p.ctx, f, follow); !errors.Is(err, mlaas.ErrNotFound) {
			p.Errorf("the log of what is not there: %v, want %v", err, mlaas.ErrNotFound)
		}
	}
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	// What follows has the first word while the supervisor runs, and ends with it.
	live, err := e.Logs(p.ctx, f, true)
	if err != nil {
		p.Fatal(err)
	}
	defer live.Close()
	reader := bufio.NewReader(live)
	said := ""
	for !strings.Contains(said, f.String()) {
		line, err := reader.ReadString('\n')
		if said += line; err != nil {
			p.Fatalf("its log, followed, has %q and then ends with %v; want its fence in it", said, err)
		}
	}
	p.End(p.T, f, 1)
	w.final(f)
	rest, err := io.ReadAll(reader)
	if err != nil {
		p.Errorf("its log, followed, ends with %v", err)
	}
	r, err := e.Logs(p.ctx, f, false)
	if err != nil {
		p.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil || string(text) != said+string(rest) {
		p.Errorf("the supervisor wrote %q, %v; followed, its log was %q", text, err, said+string(rest))
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.Wait)
	defer cancel()
	again, err := e.Logs(ctx, f, true)
	if err != nil {
		p.Fatal(err)
	}
	defer again.Close()
	if text, err := io.ReadAll(again); err != nil || !strings.Contains(string(text), f.String()) {
		p.Errorf("followed after its end, its log is %q, %v", text, err)
	}
}

func exec(p *place) {
	if p.NoProgram != "" {
		p.Skip(p.NoProgram)
	}
	e := p.Open(p.T)
	w := p.watch(e)
	f := p.fence("worker-0")
	if _, err := e.Exec(p.ctx, f, []string{"cat"}, nil, io.Discard); !errors.Is(err, mlaas.ErrNotFound) {
		p.Errorf("a command in what is not there: %v, want %v", err, mlaas.ErrNotFound)
	}
	p.start(e, f)
	w.status(f, mlaas.ReplicaReady)
	var out bytes.Buffer
	code, err := e.Exec(p.ctx, f, []string{"cat"}, strings.NewReader("to and fro"), &out)
	if err != nil || code != 0 || out.String() != "to and fro" {
		p.Errorf("cat gives %q, %d, %v", out.String(), code, err)
	}
	code, err = e.Exec(p.ctx, f, []string{"sh", "-c", "exit 3"}, nil, io.Discard)
	if err != nil || code != 3 {
		p.Errorf("sh -c 'exit 3' gives %d, %v; want 3 and no error", code, err)
	}
	p.stop(e, f)
	if _, err := e.Exec(p.ctx, f, []string{"cat"}, nil, io.Discard); err == nil {
		p.Error("a command ran in a replica that is stopped")
	}
}

// excluded: a place of one node refuses what may not run on it, with a sentence
// that names the node, and keeps nothing. One of many nodes takes another,
// which its own tests show.
func excluded(p *place) {
	e := p.Open(p.T)
	c, err := e.Capacity(p.ctx)
	if err != nil {
		p.Fatal(err)
	}
	f := p.fence("worker-0")
	s := p.Spec(p.T, f)
	s.Exclude = []string{"no-such-node"}
	if c.Node != "" {
		s.Exclude = append(s.Exclude, c.Node)
		if err := e.Start(p.ctx, s); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), c.Node) {
			p.Errorf("Start on a node that is excluded: %v, want %v that names %s", err, mlaas.ErrInvalid, c.Node)
		}
		p.gone(f)
		s.Exclude = s.Exclude[:1]
	}
	p.mu.Lock()
	p.started = append(p.started, f)
	p.mu.Unlock()
	if err := e.Start(p.ctx, s); err != nil {
		p.Errorf("Start where another node is excluded: %v", err)
	}
	p.watch(e).status(f, mlaas.ReplicaReady)
	p.stop(e, f)
}
