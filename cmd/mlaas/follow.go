package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// follow shows a run live until it has ended: what it waits for, what its
// replicas say, how far it is. It returns the run as it ended.
func (c *cli) follow(ctx context.Context, cl *client.Client, run client.Run, from client.LogQuery) (client.Run, error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &follower{c: c, screen: screen{c: c}, run: run, began: time.Now(), last: map[string]sight{}}
	f.printer = printer{c: c, alone: replicasOf(run.Spec) == 1}
	events := make(chan func() error, 256)
	send := func(do func() error) {
		select {
		case events <- do:
		case <-inner.Done():
		}
	}
	from.Follow = true
	from.Lost = func(err error) { send(func() error { f.away(err); return nil }) }
	patient := *cl
	patient.Patience = 0 // the log has a patience of its own
	go func() {
		var failed error
		for line, err := range patient.Log(inner, run.ID, from) {
			if failed = err; err == nil {
				send(func() error { f.screen.line(c.Out, f.printer.format(line)); return nil })
			}
		}
		send(func() error { f.logged = true; return failed })
	}()
	go func() {
		for seen, err := range patient.Watch(inner, run.ID) {
			if err != nil {
				send(func() error { return err })
				return
			}
			send(func() error { f.saw(seen); return nil })
		}
	}()
	return f.loop(ctx, events)
}

func replicasOf(spec mlaas.JobSpec) (n int) {
	for _, r := range spec.Roles {
		n += r.Replicas.Max
	}
	return n
}

// A follower is the state of what is shown.
type follower struct {
	c        *cli
	screen   screen
	printer  printer
	run      client.Run
	replicas []client.Replica
	logged   bool // the last line was given
	began    time.Time
	last     map[string]sight // of each replica, what was said last
	lastRun  string
	lost     time.Time // since when the server is away

	steps      int64 // that there will be; 0: unknown
	stepsKnown bool
	firstStep  int64
	firstAt    time.Time
	newStep    int64 // the last that was heard of, and when
	newAt      time.Time
	saidStep   time.Time
}

type sight struct {
	status mlaas.ReplicaStatus
	reason string
	at     time.Time
}

func (f *follower) loop(ctx context.Context, events <-chan func() error) (client.Run, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer f.screen.hide()
	for !(f.logged && f.run.Status.State.Final()) {
		select {
		case <-ctx.Done():
			return f.run, ctx.Err()
		case do := <-events:
			if err := do(); err != nil {
				return f.run, err
			}
			if len(events) == 0 {
				f.screen.draw()
			}
		case <-tick.C:
			f.screen.bar = f.bar(time.Now())
			f.screen.draw()
		}
	}
	return f.run, nil
}

func (f *follower) away(err error) {
	switch {
	case err != nil && f.lost.IsZero():
		f.lost = time.Now()
		f.tell("%s %v", f.c.paint(yellow, "!"), err)
		f.tell("  the run goes on without it; trying again")
	case err == nil && !f.lost.IsZero():
		f.tell("%s mlaas answers again after %s", f.c.paint(green, "✓"), span(time.Since(f.lost)))
		f.lost = time.Time{}
	}
}

func (f *follower) tell(format string, args ...any) {
	if !f.c.quiet {
		f.screen.line(f.c.Err, fmt.Sprintf(format, args...))
	}
}

// saw shows what is new in a sight of the run.
func (f *follower) saw(seen client.Sight) {
	f.run, f.replicas = seen.Run, seen.Replicas
	now := time.Now()
	state := f.run.Status
	if said := f.worthSaying(); said != "" && said != f.lastRun {
		f.tell("  %s", f.c.paint(dim, said))
		f.lastRun = said
	}
	groups := map[sight][]string{}
	for _, r := range seen.Replicas {
		is, was := sight{r.Status, r.Reason, time.Time{}}, f.last[r.ID]
		changed := is.status != was.status || is.reason != was.reason && (f.c.Width == nil && now.Sub(was.at) >= 3*time.Second)
		if !changed || slices.Contains(quietly, r.Status) {
			continue
		}
		f.last[r.ID] = sight{is.status, is.reason, now}
		groups[is] = append(groups[is], r.ID)
	}
	order := slices.SortedFunc(maps.Keys(groups), func(a, b sight) int { return cmp.Compare(groups[a][0], groups[b][0]) })
	for _, is := range order {
		names := groups[is]
		who := strings.Join(names, ", ")
		if len(names) > 4 {
			who = fmt.Sprintf("%s, %s and %d more", names[0], names[1], len(names)-2)
		}
		f.tell("  %s", f.c.paint(dim, who+" "+standing(is.status, is.reason)))
	}
	if f.c.Width == nil && state.State == mlaas.Running {
		if p := f.progress(now); p != "" && now.Sub(f.saidStep) >= 10*time.Second {
			if !f.saidStep.IsZero() {
				f.tell("  %s", p)
			}
			f.saidStep = now
		}
	}
	f.screen.bar = f.bar(now)
}

// quietly lists what replicas pass through without a word: what went before or
// what comes after says it.
var quietly = []mlaas.ReplicaStatus{mlaas.ReplicaWanted, mlaas.ReplicaCreating, mlaas.ReplicaStopping, mlaas.ReplicaSucceeded}

// worthSaying is how the run stands, where its replicas do not say it: what it
// waits for in the queue, in every word, and each change of its state.
func (f *follower) worthSaying() string {
	s := f.run.Status
	switch s.State {
	case mlaas.Queued:
		return standing(s.State, s.Reason)
	case mlaas.Starting, mlaas.Resizing, mlaas.Stopping:
		if strings.HasPrefix(f.lastRun, string(s.State)) {
			return ""
		}
		return standing(s.State, s.Reason)
	}
	return ""
}

// step is how far the farthest replica is.
func (f *follower) step() (n int64) {
	for _, r := range f.replicas {
		n = max(n, r.Step)
	}
	return n
}

// total is how many steps there will be, as the run's parameters or the words
// of its command say; 0: they do not.
func total(spec mlaas.JobSpec) int64 {
	names := []string{"steps", "max_steps", "train_steps", "num_steps", "total_steps", "iterations", "iters", "max_iter"}
	for k, v := range spec.Execution.Parameters {
		if slices.Contains(names, strings.ReplaceAll(k, "-", "_")) {
			if n, err := strconv.ParseFloat(fmt.Sprint(v), 64); err == nil && n >= 1 {
				return int64(n)
			}
		}
	}
	for i, word := range spec.Execution.Command {
		k, v, ok := strings.Cut(word, "=")
		if !ok && i+1 < len(spec.Execution.Command) {
			v = spec.Execution.Command[i+1]
		}
		if name, dashed := strings.CutPrefix(k, "--"); dashed && slices.Contains(names, strings.ReplaceAll(name, "-", "_")) {
			if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 1 {
				return n
			}
		}
	}
	return 0
}

// progress is one line on how far the run is.
func (f *follower) progress(now time.Time) string {
	if !f.stepsKnown {
		f.steps, f.stepsKnown = total(f.run.Spec), true
	}
	step := f.step()
	var parts []string
	if step > 0 {
		if f.firstAt.IsZero() {
			f.firstStep, f.firstAt = step, now
		}
		if step != f.newStep {
			f.newStep, f.newAt = step, now
		}
		text := fmt.Sprintf("step %d", step)
		if f.steps > 0 {
			text = fmt.Sprintf("%3d %%  step %d/%d", min(100, step*100/f.steps), step, f.steps)
		}
		parts = append(parts, text)
	}
	parts = append(parts, f.metrics(3)...)
	if started := f.run.Status.Started; started != nil && step > 0 {
		took := span(now.Sub(*started))
		if done := step - f.firstStep; done > 0 && f.steps > step {
			left := time.Duration(float64(f.newAt.Sub(f.firstAt)) / float64(done) * float64(f.steps-step))
			took += ", " + span(max(0, left-now.Sub(f.newAt)).Truncate(time.Second)) + " left"
		}
		parts = append(parts, took)
	}
	return strings.Join(parts, "  ")
}

// metrics are the last values, the job's own measure first.
func (f *follower) metrics(most int) []string {
	values := map[string]mlaas.Number{}
	for _, r := range slices.Backward(f.replicas) { // the first replica's word counts
		for k, v := range r.Metrics {
			if k != "step" && !strings.Contains(k, "/") {
				values[k] = v
			}
		}
	}
	return few(values, f.run.Spec.Evaluation.Metric, most)
}

func few(values map[string]mlaas.Number, primary string, most int) (out []string) {
	keys := slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		if (a == primary) != (b == primary) {
			if a == primary {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	for _, k := range keys[:min(most, len(keys))] {
		out = append(out, k+" "+number(values[k]))
	}
	return out
}

// bar is the line at the bottom of a terminal.
func (f *follower) bar(now time.Time) string {
	if f.c.Width == nil {
		return ""
	}
	spinner := string([]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[now.UnixMilli()/100%10])
	if !f.lost.IsZero() {
		return fmt.Sprintf("%s waiting for mlaas at its address for %s; data as of %s", spinner, span(now.Sub(f.lost)), f.lost.Format("15:04:05"))
	}
	state := f.run.Status.State
	if state != mlaas.Running {
		text := fmt.Sprintf("%s %s %s", f.c.paint(cyan, spinner), dash(string(state)), span(now.Sub(f.began)))
		if why := f.waiting(); why != "" {
			text += "  " + why
		}
		return text
	}
	p := f.progress(now)
	if f.steps > 0 && f.step() > 0 {
		return f.c.paint(cyan, gauge(float64(f.step())/float64(f.steps), 24)) + " " + p
	}
	if p == "" && f.run.Status.Started != nil {
		p = span(now.Sub(*f.run.Status.Started))
	}
	return fmt.Sprintf("%s running %s", f.c.paint(cyan, spinner), p)
}

// waiting is what the slowest replica waits for, or the run itself.
func (f *follower) waiting() string {
	for _, r := range f.replicas {
		if slices.Contains([]mlaas.ReplicaStatus{mlaas.ReplicaCreating, mlaas.ReplicaPending, mlaas.ReplicaReady}, r.Status) && r.Reason != "" {
			return r.ID + ": " + r.Reason
		}
	}
	return f.run.Status.Reason
}

// gauge is a bar of a width, filled to a part of 1.
func gauge(part float64, width int) string {
	full := min(width, max(0, int(part*float64(width)+0.5)))
	return strings.Repeat("━", full) + strings.Repeat("─", width-full)
}

// summary says how a run ended, where its time went, what it came to and what
// to look at next.
func (c *cli) summary(ctx context.Context, cl *client.Client, run client.Run) {
	if c.quiet {
		return
	}
	name, s := runName(run), run.Status
	end := time.Now()
	if s.Ended != nil {
		end = *s.Ended
	}
	took := span(end.Sub(run.Created))
	replicas, err := client.Collect(cl.Replicas(ctx, string(run.Job), run.ID))
	if err != nil {
		replicas = nil // the summary is shorter without them
	}
	switch s.State {
	case mlaas.Succeeded:
		c.done("%s succeeded in %s", name, took)
	case mlaas.Failed:
		c.say("%s %s failed after %s: %s", c.paint(red, "✗"), name, took, s.Reason)
	default:
		c.say("%s %s was stopped after %s: %s", c.paint(yellow, "■"), name, took, s.Reason)
	}
	if stages := stages(run, replicas, end); len(stages) > 0 {
		c.say("  time     %s", strings.Join(stages, " · "))
	}
	f := follower{c: c, run: run, replicas: replicas}
	if m := f.metrics(6); len(m) > 0 {
		c.say("  metrics  %s  (step %d)", strings.Join(m, " · "), f.step())
	}
	var kept []string
	if points, err := client.Collect(cl.Checkpoints(ctx, run.ID)); err == nil && len(points) > 0 {
		newest := slices.MaxFunc(points, func(a, b mlaas.Checkpoint) int { return cmp.Compare(a.Step, b.Step) })
		kept = append(kept, fmt.Sprintf("%s, the last of step %d (%s)", count(len(points), "checkpoint"), newest.Step, size(newest.Size)))
	}
	for _, r := range replicas {
		if r.Outputs != "" {
			kept = append(kept, "outputs of "+r.ID)
		}
	}
	if len(kept) > 0 {
		c.say("  kept     %s", strings.Join(kept, " · "))
	}
	next := []string{"mlaas metrics " + name, "mlaas logs " + name}
	switch {
	case s.State == mlaas.Failed && len(s.Attempts) == 0:
		next = []string{"mlaas cluster ls", "mlaas job edit " + run.JobName}
	case s.State == mlaas.Failed:
		next = []string{"mlaas replicas " + name, "mlaas logs " + name + " --tail 50"}
	}
	c.say("  next     %s", strings.Join(next, "   "))
}

// stages tells where the time of a run went.
func stages(run client.Run, replicas []client.Replica, end time.Time) (out []string) {
	s := run.Status
	if len(s.Attempts) == 0 {
		return nil
	}
	stage := func(name string, from, to time.Time) {
		if !from.IsZero() && !to.IsZero() && !to.Before(from) {
			out = append(out, name+" "+span(to.Sub(from)))
		}
	}
	began := s.Attempts[0].Began
	stage("queued", run.Created, began)
	var ready, started time.Time
	for _, r := range replicas {
		if r.Ready != nil && r.Ready.After(ready) {
			ready = *r.Ready
		}
		if r.Started != nil && r.Started.After(started) {
			started = *r.Started
		}
	}
	if len(s.Attempts) > 1 { // the replicas tell of the last attempt alone
		if s.Started != nil {
			stage("first start", began, *s.Started)
			stage("running", *s.Started, end)
		}
		return append(out, count(len(s.Attempts), "attempt"))
	}
	stage("replicas", began, ready)
	stage("code and environment", ready, started)
	stage("running", started, end)
	return out
}

// codeOf is the exit code that a run gives to the command that waited for it.
func codeOf(run client.Run) int {
	s := run.Status
	code := 0
	if s.ExitCode != nil {
		code = *s.ExitCode
	}
	if code < 0 {
		code = 128 - code // ended by a signal
	}
	switch {
	case s.State == mlaas.Succeeded:
		return 0
	case code != 0:
		return code & 0xff
	case s.State == mlaas.Stopped:
		return exitInterrupted
	}
	return exitPlatform
}

// ended turns the end of a followed run into the end of the command.
func (c *cli) ended(ctx context.Context, cl *client.Client, run client.Run, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		name := runName(run)
		c.say("\n%s detached: %s goes on", c.paint(yellow, "■"), name)
		c.say("  watch it   mlaas logs %s -f", name)
		c.say("  stop it    mlaas job stop %s", name)
		return exit(exitInterrupted)
	}
	if err != nil {
		return err
	}
	c.summary(ctx, cl, run)
	if code := codeOf(run); code != 0 {
		return exit(code)
	}
	return nil
}
