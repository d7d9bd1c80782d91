package scripted

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// An actor plays a supervisor and its program. Fields up to gone belong to the
// Executor's lock; the rest to itself.
type actor struct {
	e       *Executor
	spec    booster.Spec
	part    Script
	news    booster.News
	begun   bool
	dead    bool
	halted  bool // by Stop
	never   bool // stopped before there was power
	kill    context.CancelCauseFunc
	gone    chan struct{} // closed when it is dead
	spoke   chan struct{} // closed when its supervisor has written its log
	log     strings.Builder
	told    []mlaas.Down
	refused []error

	// What a supervisor keeps on disk, guarded by the Executor's lock too: the
	// program writes it, the conversation reads it.
	phase     mlaas.Phase
	said      int // grows with each phase
	lines     kept[mlaas.LogLine]
	points    kept[mlaas.Point]
	made      []mlaas.CheckpointMade // not acknowledged
	announced bool                   // the final phase was said
	wake      chan struct{}
	start     *mlaas.Start
	stop      *mlaas.Stop
	orders    chan struct{} // closed and made anew when start or stop came
	ran       time.Time     // since when the program runs
}

// kept is one stream: what is not acknowledged, and the number before it.
type kept[T any] struct {
	acked int64
	items []T
}

func (k *kept[T]) ack(seq int64) {
	if n := min(seq-k.acked, int64(len(k.items))); n > 0 {
		k.items = slices.Delete(k.items, 0, int(n))
		k.acked += n
	}
}

// from returns at most 1000 items, from number first on.
func (k *kept[T]) from(first int64) []T {
	skip := max(first-k.acked-1, 0)
	if skip >= int64(len(k.items)) {
		return nil
	}
	items := k.items[skip:]
	return slices.Clone(items[:min(len(items), 1000)])
}

// run is the life of a supervisor.
func (a *actor) run(ctx context.Context) {
	e := a.e
	e.mu.Lock()
	a.phase = mlaas.Phase{Status: mlaas.ReplicaReady, Reason: "waiting for its code", At: e.Now().UTC()}
	e.mu.Unlock()
	err := a.live(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a.dead = true
	close(a.gone)
	zero := 0
	exit := &exited{}
	switch {
	case a.halted || errors.Is(err, errKilled):
		e.tell(a, mlaas.ReplicaStopped, "it was stopped", nil, false)
	case errors.As(err, &exit):
		e.tell(a, mlaas.ReplicaLost, fmt.Sprintf("its supervisor ended with exit code %d", exit.code), &exit.code, exit.oom)
	case err == nil:
		e.tell(a, mlaas.ReplicaLost, "its supervisor ended with exit code 0", &zero, false)
	case a.part.Broken != "":
		e.tell(a, mlaas.ReplicaFailed, a.part.Broken, nil, false)
	default:
		e.tell(a, mlaas.ReplicaLost, "it is gone without a word", nil, false)
	}
}

func (a *actor) live(ctx context.Context) error {
	if a.part.Broken != "" {
		return errors.New(a.part.Broken)
	}
	if a.part.Slow > 0 || a.part.Never {
		a.outside(mlaas.ReplicaPending, "waiting for its place")
	}
	if a.part.Never {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := pause(ctx, a.part.Slow); err != nil {
		return err
	}
	a.e.mu.Lock()
	fmt.Fprintf(&a.log, "supervisor of %s\n", a.spec.Fence)
	close(a.spoke)
	a.e.mu.Unlock()
	a.outside(mlaas.ReplicaReady, "its supervisor runs")
	g, ctx := errgroup.WithContext(ctx)
	if !a.part.Silent {
		g.Go(func() error { return a.converse(ctx) })
	}
	g.Go(func() error {
		a.setPhase(a.play(ctx))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// The door has it all when it says stop; a zombie never goes.
		for {
			stop, orders := a.ordered()
			if stop != nil && a.finished() && !a.part.Zombie {
				return errDone
			}
			select {
			case <-orders:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	if err := g.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

var errDone = errors.New("done")

func (a *actor) outside(s mlaas.ReplicaStatus, reason string) {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	a.e.tell(a, s, reason, nil, false)
}

func (a *actor) setPhase(p mlaas.Phase) {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	p.At = a.e.Now().UTC()
	a.phase = p
	a.said++
	a.poke()
}

// poke has the conversation look. The lock is held.
func (a *actor) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// ordered is whether it was told to stop, and what is closed at the next word.
func (a *actor) ordered() (*mlaas.Stop, <-chan struct{}) {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.stop, a.orders
}

// finished reports whether the door was told everything, the end too.
func (a *actor) finished() bool {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.delivered() && a.announced
}

func (a *actor) delivered() bool {
	return len(a.lines.items)+len(a.points.items)+len(a.made) == 0
}

// play is the program, from the word to start to its end.
func (a *actor) play(ctx context.Context) mlaas.Phase {
	var start *mlaas.Start
	for start == nil {
		a.e.mu.Lock()
		start = a.start
		stop, orders := a.stop, a.orders
		a.e.mu.Unlock()
		if stop != nil && !a.part.Deaf && !a.part.Zombie {
			return mlaas.Phase{Status: mlaas.ReplicaStopped, Reason: "stopped before its program began: " + stop.Reason}
		}
		if start == nil {
			select {
			case <-orders:
			case <-ctx.Done():
				return mlaas.Phase{}
			}
		}
	}
	if a.part.Prepare > 0 {
		a.setPhase(mlaas.Phase{Status: mlaas.ReplicaReady, Reason: "making its environment"})
		if pause(ctx, a.part.Prepare) != nil {
			return mlaas.Phase{}
		}
	}
	if a.part.Refuse != "" {
		return mlaas.Phase{Status: mlaas.ReplicaFailed, Reason: a.part.Refuse}
	}
	a.setPhase(mlaas.Phase{Status: mlaas.ReplicaRunning, Reason: "the program runs", Program: true, Lock: a.part.Lock})
	a.e.mu.Lock()
	a.ran = a.e.Now()
	a.e.mu.Unlock()
	if a.part.LostAt > 0 {
		timer := time.AfterFunc(a.part.LostAt, func() { a.kill(errVanish) })
		defer timer.Stop()
	}
	end := func(code int, oom bool, reason string) mlaas.Phase {
		status := mlaas.ReplicaFailed
		if code == 0 {
			status = mlaas.ReplicaSucceeded
		}
		return mlaas.Phase{Status: status, Reason: reason, Program: true, ExitCode: &code, OOM: oom, Outputs: a.part.Outputs}
	}
	every := a.part.Every
	if every == 0 {
		every = time.Second
	}
	for step := start.ResumeStep + 1; a.part.Steps == 0 || step <= a.part.Steps; step++ {
		timer := time.NewTimer(every)
		for waiting := true; waiting; {
			stop, orders := a.ordered()
			if stop != nil && !a.part.Deaf && !a.part.Zombie {
				timer.Stop()
				a.setPhase(mlaas.Phase{Status: mlaas.ReplicaStopping, Reason: stop.Reason, Program: true})
				if pause(ctx, a.part.Leave) != nil {
					return mlaas.Phase{}
				}
				code := 143
				return mlaas.Phase{Status: mlaas.ReplicaStopped, Reason: stop.Reason, Program: true, ExitCode: &code}
			}
			if a.part.Steps == 0 && a.part.FailAt == 0 || a.part.HangAt > 0 && step > a.part.HangAt { // nothing happens but orders
				select {
				case <-orders:
				case <-ctx.Done():
					timer.Stop()
					return mlaas.Phase{}
				}
				continue
			}
			select {
			case <-timer.C:
				waiting = false
			case <-orders:
			case <-ctx.Done():
				timer.Stop()
				return mlaas.Phase{}
			}
		}
		a.step(ctx, step)
		if step == a.part.FailAt {
			code := a.part.Exit
			switch {
			case a.part.OOM && code == 0:
				code = 137
			case code == 0:
				code = 1
			}
			reason := fmt.Sprintf("the program ended with exit code %d", code)
			if a.part.OOM {
				reason = "the program used more memory than its ceiling"
			}
			return end(code, a.part.OOM, reason)
		}
	}
	return end(a.part.Exit, false, fmt.Sprintf("the program ended with exit code %d", a.part.Exit))
}

// step is what the program says and saves at one step.
func (a *actor) step(ctx context.Context, step int64) {
	now := a.e.Now()
	lines := []string{fmt.Sprintf("step %d", step)}
	if a.part.Lines != nil {
		lines = a.part.Lines(step)
	}
	metrics := map[string]mlaas.Number{"loss": mlaas.Number(1 / float64(step))}
	if a.part.Metric != nil {
		metrics = a.part.Metric(step)
	}
	a.e.mu.Lock()
	if !a.part.Quiet {
		for _, text := range lines {
			a.lines.items = append(a.lines.items, mlaas.LogLine{Time: now.UTC(), Stream: "stdout", Text: text})
		}
		for key, v := range metrics {
			a.points.items = append(a.points.items, mlaas.Point{Key: key, Step: step, Time: now.UnixMilli(), Value: v})
		}
	}
	a.poke()
	a.e.mu.Unlock()
	if a.part.Save > 0 && step%a.part.Save == 0 {
		a.save(ctx, step)
	}
}

// save uploads a checkpoint of one file, if the door is there, and hands it
// over.
func (a *actor) save(ctx context.Context, step int64) {
	door, _ := a.e.where()
	if door == nil {
		return
	}
	state := fmt.Sprintf("%s at step %d", a.spec.Fence, step)
	d, size, err := door.Put(ctx, strings.NewReader(state))
	if err != nil {
		return
	}
	tree, err := json.Marshal(mlaas.Tree{Files: []mlaas.File{{Path: "state", Digest: d, Size: size}}})
	if err != nil {
		return
	}
	if d, _, err = door.Put(ctx, strings.NewReader(string(tree))); err != nil {
		return
	}
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	a.made = append(a.made, mlaas.CheckpointMade{Step: step, Tree: d, Size: mlaas.Bytes(size)})
	a.poke()
}

// converse keeps talking to the door, wherever it is.
func (a *actor) converse(ctx context.Context) error {
	wait := 50 * time.Millisecond
	for {
		door, moved := a.e.where()
		if door == nil {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		began := a.e.Now()
		err := a.talk(ctx, door)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			a.e.mu.Lock()
			a.refused = append(a.refused, err)
			a.e.mu.Unlock()
		}
		if a.e.Now().Sub(began) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-moved:
		case <-ctx.Done():
		}
		timer.Stop()
		wait = min(2*wait, 10*time.Second)
	}
}

// talk is one conversation. The door's end of it does not die with the actor,
// as no other machine would: it still reads what was sent.
func (a *actor) talk(ctx context.Context, door Door) error {
	mine, theirs := booster.Pipe()
	defer mine.Close()
	a.e.all.Go(func() {
		// Why it ends reaches the other end too.
		_ = door.Serve(a.e.life, a.spec.Fence, theirs)
	})
	return a.speak(ctx, mine)
}

// beat is how often a supervisor says that it is alive.
const beat = 10 * time.Second

func (a *actor) speak(ctx context.Context, line mlaas.Line[mlaas.Up, mlaas.Down]) error {
	a.e.mu.Lock()
	phase, said := a.public(), a.said
	a.e.mu.Unlock()
	sum := sha256.Sum256([]byte(a.spec.Fence.Replica))
	port := 20000 + int(sum[0])<<6 + int(sum[1])&62
	hello := &mlaas.Hello{Version: mlaas.DoorVersion, Fence: a.spec.Fence, Node: a.e.Node, Address: a.spec.Fence.Replica + ".stage", Ports: []int{port, port + 1}, Phase: phase, Recipes: mlaas.RecipeVersion}
	if err := line.Send(ctx, mlaas.Up{Hello: hello}); err != nil {
		return err
	}
	down, err := line.Receive(ctx)
	if err != nil {
		return err
	}
	if down.Welcome == nil {
		return errors.New("the door did not say welcome")
	}
	if phase.Status.Final() {
		a.announce()
	}
	a.e.mu.Lock()
	a.lines.ack(down.Welcome.Log)
	a.points.ack(down.Welcome.Metric)
	log, metric := a.lines.acked+1, a.points.acked+1
	a.e.mu.Unlock()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			down, err := line.Receive(ctx)
			if err != nil {
				return err
			}
			a.hear(down)
		}
	})
	g.Go(func() error {
		sent := map[int64]bool{}
		timer := time.NewTimer(beat)
		defer timer.Stop()
		hidden := phase.Status != a.phaseNow().Status
		for {
			var out []mlaas.Up
			a.e.mu.Lock()
			if items := a.lines.from(log); len(items) > 0 {
				out = append(out, mlaas.Up{Frame: &mlaas.Frame{Stream: mlaas.LogStream, First: log, Lines: items}})
				log += int64(len(items))
			}
			if items := a.points.from(metric); len(items) > 0 {
				out = append(out, mlaas.Up{Frame: &mlaas.Frame{Stream: mlaas.MetricStream, First: metric, Points: items}})
				metric += int64(len(items))
			}
			for _, c := range a.made {
				if !sent[c.Step] {
					sent[c.Step] = true
					out = append(out, mlaas.Up{Checkpoint: &c})
				}
			}
			if p := a.public(); a.said != said || hidden && p.Status == a.phase.Status {
				if hidden = p.Status != a.phase.Status; !hidden {
					said = a.said
					out = append(out, mlaas.Up{Phase: &p})
				}
			}
			a.e.mu.Unlock()
			for _, up := range out {
				if err := line.Send(ctx, up); err != nil {
					return err
				}
				if up.Phase != nil && up.Phase.Status.Final() {
					a.announce()
				}
			}
			if len(out) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-a.wake:
			case <-timer.C:
				timer.Reset(beat)
				if err := line.Send(ctx, mlaas.Up{Beat: &mlaas.Beat{Usage: a.uses()}}); err != nil {
					return err
				}
			}
		}
	})
	return g.Wait()
}

// uses is what the program has used by now.
func (a *actor) uses() mlaas.Usage {
	a.e.mu.Lock()
	ran := a.ran
	a.e.mu.Unlock()
	if a.part.Uses == nil {
		return mlaas.Usage{Memory: 64 << 20, Peak: 64 << 20}
	}
	if ran.IsZero() {
		return mlaas.Usage{}
	}
	return a.part.Uses(a.e.Now().Sub(ran))
}

// announce notes that the door heard the end.
func (a *actor) announce() {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	a.announced = true
	close(a.orders)
	a.orders = make(chan struct{})
}

func (a *actor) phaseNow() mlaas.Phase {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.phase
}

// public is the phase that the door may know: an end is told when everything
// else is there. The lock is held.
func (a *actor) public() mlaas.Phase {
	p := a.phase
	if p.Status.Final() && !a.delivered() {
		p.Status, p.Reason, p.ExitCode, p.OOM = mlaas.ReplicaRunning, "its program has ended; what it wrote is being delivered", nil, false
	}
	return p
}

func (a *actor) hear(down mlaas.Down) {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	switch {
	case down.Ack != nil && down.Ack.Stream == mlaas.LogStream:
		a.lines.ack(down.Ack.Seq)
	case down.Ack != nil && down.Ack.Stream == mlaas.MetricStream:
		a.points.ack(down.Ack.Seq)
	case down.Ack != nil:
		a.made = slices.DeleteFunc(a.made, func(c mlaas.CheckpointMade) bool { return c.Step == down.Ack.Seq })
	default:
		a.told = append(a.told, down)
		if down.Start != nil && a.start == nil {
			a.start = down.Start
		}
		if down.Stop != nil && a.stop == nil {
			a.stop = down.Stop
		}
	}
	a.poke()
	close(a.orders)
	a.orders = make(chan struct{})
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
