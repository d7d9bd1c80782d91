package booster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/rule"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

const (
	// softEvery is how often the record of a replica is written at most for
	// what changes all the time: steps, metrics, what it uses.
	softEvery = 2 * time.Second

	// heardOnly is the same where nothing but the time of its last word is new.
	heardOnly = 30 * time.Second

	maxKeys    = 256
	maxKey     = 256
	maxHistory = 200
	maxSources = 100 // of a replica that are told
	maxReason  = 1 << 10
)

// An informer turns news into records.
type informer struct {
	mu     sync.Mutex
	cells  map[mlaas.Fence]*cell
	sights map[sight]time.Time
	rules  map[runKey][]rule.Rule // of runs that were asked about, whose rules never change
}

// A runKey names a run.
type runKey struct {
	mlaas.Tenant
	mlaas.RunID
}

// A sight is a replica in a status that it should not stay in.
type sight struct {
	mlaas.Fence
	status mlaas.ReplicaStatus
}

// seen is how long ago this process first saw f like this, by a clock that does
// not jump, as those in the records may have.
func (i *informer) seen(f mlaas.Fence, s mlaas.ReplicaStatus) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	at, ok := i.sights[sight{f, s}]
	if !ok {
		at = time.Now()
		i.sights[sight{f, s}] = at
	}
	return time.Since(at)
}

// A cell is what is known of a replica and not yet in its record. It is only a
// cache: what it loses with the process is said again by the supervisor, or
// was a number that the next one replaces.
type cell struct {
	mu      sync.Mutex
	step    int64
	metrics map[string]mlaas.Number
	best    map[string]best // of each key in metrics
	judged  mlaas.Evaluation
	usage   *mlaas.Usage
	reason  string
	stages  []mlaas.Stage
	heard   time.Time
	last    time.Time // the same, by a clock that does not jump
	fresh   bool      // something other than heard is new
	written time.Time // the record, last
	wake    chan struct{}
	watch   *watch
}

// A best is the best value of a key so far; direction is empty where nobody
// knows which way is better.
type best struct {
	mlaas.Best
	direction string
	set       bool
}

// better keeps the best value of a key. The lock is held.
func (c *cell) better(p mlaas.Point) {
	b, known := c.best[p.Key]
	if !known {
		b.direction = mlaas.DirectionOf(p.Key)
		if p.Key == c.judged.Metric && c.judged.Direction != "" {
			b.direction = c.judged.Direction
		}
	}
	if b.direction != "" && !math.IsNaN(float64(p.Value)) && (!b.set || b.Better(p.Value, b.direction)) {
		b.Best, b.set = mlaas.Best{Value: p.Value, Step: p.Step}, true
		c.best[p.Key] = b
	} else if !known {
		c.best[p.Key] = b
	}
}

func (i *informer) cell(f mlaas.Fence) *cell {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.cells[f]
	if c == nil {
		c = &cell{metrics: map[string]mlaas.Number{}, best: map[string]best{}, wake: make(chan struct{}, 1)}
		i.cells[f] = c
	}
	return c
}

// known is what is known of f, or nil.
func (i *informer) known(f mlaas.Fence) *cell {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cells[f]
}

func (i *informer) forget(f mlaas.Fence) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.cells, f)
	maps.DeleteFunc(i.sights, func(s sight, _ time.Time) bool { return s.Fence == f })
}

// note changes what is known. What is fresh is written soon.
func (c *cell) note(now time.Time, fresh bool, edit func()) {
	c.mu.Lock()
	c.heard, c.last = now, time.Now()
	if now.Before(c.written) {
		c.written = time.Time{} // the clock went back
	}
	if edit != nil {
		edit()
	}
	poke := fresh && !c.fresh
	c.fresh = c.fresh || fresh
	c.mu.Unlock()
	if poke {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// due is when the record wants to be written.
func (c *cell) due() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh {
		return c.written.Add(softEvery)
	}
	return c.written.Add(heardOnly)
}

// points takes the last value of each key.
func (c *cell) points(now time.Time, points []mlaas.Point) {
	c.note(now, len(points) > 0, func() {
		for _, p := range points {
			if p.Step > c.step || len(c.metrics) == 0 {
				c.watch.steps(time.Now(), p.Step)
			}
			c.step = max(c.step, p.Step)
			if _, ok := c.metrics[p.Key]; ok || len(c.metrics) < maxKeys {
				c.metrics[p.Key] = p.Value
				c.better(p)
			}
		}
	})
}

// pour writes what is known into a record.
func (c *cell) pour(r *mlaas.Replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.After(r.Heard) {
		r.Heard = c.heard.UTC()
	}
	r.Step = max(r.Step, c.step)
	if len(c.metrics) > 0 {
		if r.Metrics == nil {
			r.Metrics = map[string]mlaas.Number{}
		}
		for k, v := range c.metrics {
			if _, ok := r.Metrics[k]; ok || len(r.Metrics) < maxKeys {
				r.Metrics[k] = v
			}
		}
		for k, b := range c.best {
			old, had := r.Best[k]
			if _, measured := r.Metrics[k]; !b.set || !measured || had && !old.Better(b.Value, b.direction) {
				continue
			}
			if r.Best == nil {
				r.Best = map[string]mlaas.Best{}
			}
			r.Best[k] = b.Best
		}
	}
	if c.usage != nil {
		r.Usage = *c.usage
	}
	if len(c.stages) > 0 {
		r.Stages = c.stages
	}
	if c.reason != "" && !r.Status.Final() && r.Status != mlaas.ReplicaStopping {
		r.Reason = c.reason
	}
}

// wrote notes that all of it is in the record now, unless more came meanwhile.
func (c *cell) wrote(now, heard time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = now
	if !c.heard.After(heard) {
		c.fresh, c.reason, c.stages = false, "", nil
	}
}

// A draft is the record of an incarnation as it is to become.
type draft struct {
	mlaas.Replica
	batch store.Batch // with the record; empty: nothing is to be written
	told  bool        // the contractor is to hear of it
	moved bool        // to another status
	cell  *cell       // nil: nothing else is known of it
	now   time.Time
	heard time.Time // the last word that is in it
}

// change edits the record of an incarnation, and tells of it in the same
// commit. edit is called again where another commit came between; it returns
// what else there is to check and to tell. An older incarnation changes nothing: that is
// mlaas.ErrStale.
func (b *Booster) change(ctx context.Context, f mlaas.Fence, edit func(r *mlaas.Replica) store.Batch) (mlaas.Replica, error) {
	for {
		d, err := b.draft(ctx, f, edit)
		if err == nil {
			err = b.write(ctx, d)
		}
		if !errors.Is(err, mlaas.ErrConflict) {
			return d.Replica, err
		}
	}
}

// draft reads a record and edits it.
func (b *Booster) draft(ctx context.Context, f mlaas.Fence, edit func(r *mlaas.Replica) store.Batch) (d draft, err error) {
	records := store.Replicas(b.DB)
	r, rev, err := records.Get(ctx, f.Tenant, store.ReplicaKey(f.Run, f.Replica))
	if err == nil && r.Fence != f {
		err = fmt.Errorf("attempt %d of %s is over, attempt %d has begun: %w", f.Epoch, f.Replica, r.Epoch, mlaas.ErrStale)
	}
	if err != nil {
		d.Replica = r
		return d, err
	}
	was, before := rule.Of(r), r
	d.cell, d.now = b.inform.known(f), b.Now()
	d.batch = edit(&r)
	if c := d.cell; c != nil {
		c.mu.Lock()
		d.heard = c.heard
		c.mu.Unlock()
		if d.batch.Empty() && d.now.Before(c.due()) && alike(before, r) {
			d.Replica = r
			return d, nil
		}
		c.pour(&r)
	}
	if d.moved = r.Status != was.Status; d.moved || r.Reason != was.Reason {
		more, err := b.match(ctx, was, &r)
		if err != nil {
			return d, err
		}
		d.batch = d.batch.Plus(more)
	}
	d.Replica, d.told = r, !alike(before, r)
	if d.told || d.cell != nil || !d.batch.Empty() {
		d.batch.Put = append(d.batch.Put, records.Put(r, rev))
	}
	return d, nil
}

// write commits drafts of one attempt, and tells of all of them at once.
func (b *Booster) write(ctx context.Context, drafts ...draft) error {
	var all store.Batch
	told := false
	for _, d := range drafts {
		all = all.Plus(d.batch)
		if d.told && !told {
			told = true
			all.Tell = append(all.Tell, queue.Tell(mlaas.ReplicaChanged{Tenant: d.Tenant, Run: d.Run, Epoch: d.Epoch, Replica: d.Fence.Replica}))
		}
	}
	if all.Empty() {
		return nil
	}
	if err := b.DB.Commit(ctx, all); err != nil {
		return err
	}
	for _, d := range drafts {
		if d.cell != nil && len(d.batch.Put) > 0 {
			d.cell.wrote(d.now, d.heard)
		}
		if d.moved && d.Status.Final() {
			b.ended(d.Replica)
		}
	}
	return nil
}

// known is an error of change that is no failure: the replica is of the past.
func known(err error) error {
	if errors.Is(err, mlaas.ErrStale) || errors.Is(err, mlaas.ErrNotFound) {
		return nil
	}
	return err
}

// alike reports whether two records say the same of a replica, but for what
// changes all the time.
func alike(a, b mlaas.Replica) bool {
	for _, r := range []*mlaas.Replica{&a, &b} {
		r.Heard, r.Step, r.Metrics, r.Best, r.Usage = time.Time{}, 0, nil, nil, mlaas.Usage{}
	}
	return reflect.DeepEqual(a, b)
}

func same(a, b mlaas.Cluster) bool {
	return a.Name == b.Name && a.Kind == b.Kind && a.Node == b.Node && a.Capacity == b.Capacity &&
		a.Of.Equal(b.Of) && a.Up == b.Up && a.Reason == b.Reason && slices.Equal(a.GPUs, b.GPUs) && slices.Equal(a.Limits, b.Limits) && slices.Equal(a.Left, b.Left)
}

// move brings r to a status, if that is forward, with an entry in its history.
func (b *Booster) move(r *mlaas.Replica, s mlaas.ReplicaStatus, reason string) bool {
	return moveAt(r, s, reason, b.Now().UTC())
}

func moveAt(r *mlaas.Replica, s mlaas.ReplicaStatus, reason string, at time.Time) bool {
	if !s.After(r.Status) {
		return false
	}
	at = moment(*r, at)
	r.Status, r.Reason = s, short(reason)
	if s.Final() {
		r.Ended = &at
	}
	happened(r, at, r.Reason)
	return true
}

// moment is at, or the last moment of the attempt that r tells of where that is
// later: the clocks of several boosters differ, and any may jump, but nothing
// takes less than no time.
func moment(r mlaas.Replica, at time.Time) time.Time {
	if r.Asked.After(at) {
		at = r.Asked
	}
	for _, t := range []*time.Time{r.Ready, r.Started} {
		if t != nil && t.After(at) {
			at = *t
		}
	}
	for _, e := range r.History {
		if e.Epoch == r.Epoch && e.Time.After(at) {
			at = e.Time
		}
	}
	return at
}

// happened adds an entry to the history of r.
func happened(r *mlaas.Replica, at time.Time, reason string) {
	e := mlaas.Event{Time: at, Epoch: r.Epoch, Status: r.Status, Reason: reason}
	if r.Status.Final() {
		e.ExitCode, e.OOM, e.NodeLost = r.ExitCode, r.OOM, r.NodeLost
	}
	r.History = append(slices.Clone(r.History), e)
	if n := len(r.History); n > maxHistory {
		r.History = r.History[n-maxHistory:]
	}
}

// ended gives back what a replica still holds once its end is recorded: its
// supervisor has nothing more to say then. One that was lost may have: it is
// given time by the reconciler.
func (b *Booster) ended(r mlaas.Replica) {
	if b.monitor.line(r.Fence) == nil {
		b.inform.forget(r.Fence)
	}
	if r.Status == mlaas.ReplicaLost {
		return
	}
	b.soon(func(ctx context.Context) {
		if err := b.stop(ctx, r.Fence); err != nil && ctx.Err() == nil {
			b.Log.Warn("what ended cannot be cleared away yet", "run", r.Run, "replica", r.Fence.Replica, "error", err)
		}
	})
}

// heard takes the news of an executor: what is seen from the outside. What the
// supervisor said of itself weighs more. An end is written a moment later, once
// the replica's last words are here.
func (b *Booster) heard(ctx context.Context, n News) {
	if n.Status.Final() {
		if b.leaving.asked.Load() {
			b.wake() // it may be the last that is waited for
		}
		b.soon(func(ctx context.Context) {
			if c := b.monitor.line(n.Fence); c != nil {
				c.drained(ctx) // its last words may say how it ended
			}
			b.outside(ctx, n)
		})
		return
	}
	b.outside(ctx, n)
}

func (b *Booster) outside(ctx context.Context, n News) {
	if n.Status == mlaas.ReplicaFailed || n.Status == mlaas.ReplicaLost && n.ExitCode != nil {
		r, _, err := store.Replicas(b.DB).Get(ctx, n.Fence.Tenant, store.ReplicaKey(n.Fence.Run, n.Fence.Replica))
		if err == nil && r.Fence == n.Fence && r.Ready == nil && !r.Status.Final() {
			b.keepLog(ctx, n.Fence)
		}
	}
	_, err := b.change(ctx, n.Fence, func(r *mlaas.Replica) store.Batch {
		b.seen(ctx, r, n)
		return store.Batch{}
	})
	b.unwritten(ctx, n.Fence, err)
}

// unwritten notes that news could not be written: the reconciler finds the same.
func (b *Booster) unwritten(ctx context.Context, f mlaas.Fence, err error) {
	if known(err) != nil && ctx.Err() == nil {
		b.Log.Error("write the news of a replica", "run", f.Run, "replica", f.Replica, "error", err)
		b.wake()
	}
}

// seen makes news part of a record.
func (b *Booster) seen(ctx context.Context, r *mlaas.Replica, n News) {
	if n.Node != "" && r.Node == "" {
		r.Node = n.Node
	}
	switch n.Status {
	case mlaas.ReplicaCreating, mlaas.ReplicaPending:
		b.waits(r, n.Status, n.Reason)
	case mlaas.ReplicaReady:
		b.waits(r, mlaas.ReplicaPending, "its supervisor runs and is about to call")
	case mlaas.ReplicaStopped, mlaas.ReplicaFailed, mlaas.ReplicaLost:
		if r.Status.Final() {
			return
		}
		r.OOM, r.NodeLost = r.OOM || n.OOM, n.NodeLost
		status, reason := n.Status, n.Reason
		switch {
		case r.Status == mlaas.ReplicaStopping:
			status, reason = mlaas.ReplicaStopped, r.Reason // as it was asked to
		case r.Ready == nil && status != mlaas.ReplicaStopped:
			reason += b.lastWords(ctx, n.Fence)
		}
		b.move(r, status, reason)
	}
}

// waits notes what a replica waits for, as long as it has not spoken itself.
func (b *Booster) waits(r *mlaas.Replica, s mlaas.ReplicaStatus, reason string) {
	if !b.move(r, s, reason) && r.Status == s && r.Ready == nil && reason != "" {
		r.Reason = short(reason)
	}
}

// lastWords is the end of what a supervisor wrote that never called.
func (b *Booster) lastWords(ctx context.Context, f mlaas.Fence) string {
	text, _, err := b.monitor.Log(ctx, f)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return "; it wrote: " + short(last)
	}
	return ""
}

// keepLog makes the log that the executor keeps of a replica the replica's own,
// so that it is there when container and cluster are gone. It is called for one
// that has ended without a word, and says nothing any more.
func (b *Booster) keepLog(ctx context.Context, f mlaas.Fence) {
	if log, _ := b.Series.Durable(f); log > 0 {
		return
	}
	text, _, err := b.monitor.Log(ctx, f)
	if err != nil || strings.TrimSpace(text) == "" {
		return // what is not there cannot be kept
	}
	frame := mlaas.Frame{Stream: mlaas.LogStream, First: 1}
	for line := range strings.Lines(text) {
		l := mlaas.LogLine{Time: b.Now().UTC(), Stream: mlaas.ContainerStream, Text: strings.TrimRight(line, "\r\n")}
		l.Text = strings.ReplaceAll(l.Text[:min(len(l.Text), mlaas.MaxLine)], "\x00", "\uFFFD")
		l.Text = strings.ToValidUTF8(l.Text, "")
		frame.Lines = append(frame.Lines, l)
	}
	if err := b.Series.Append(ctx, series.Batch{Fence: f, Frame: frame}); err != nil && ctx.Err() == nil {
		b.Log.Warn("the log of a container cannot be kept", "run", f.Run, "replica", f.Replica, "error", err)
	}
}

// said takes what a supervisor says of itself.
func (b *Booster) said(r *mlaas.Replica, p mlaas.Phase) {
	if r.Status.Final() || !slices.Contains(mlaas.ReplicaStatuses, p.Status) || p.Status == mlaas.ReplicaLost {
		return
	}
	at := p.At.UTC()
	if now := b.Now().UTC(); p.At.IsZero() || at.After(now) || at.Before(r.Asked) {
		at = now // its clock is not ours
	}
	at = moment(*r, at)
	if p.Program && !r.Program {
		r.Program, r.Started = true, &at
	}
	if len(p.Data) > 0 {
		r.Data = fetched(p.Data)
	}
	if len(p.Stages) > 0 {
		r.Stages = stages(p.Stages)
	}
	if p.Prepared != nil {
		if _, err := blob.CheckDigest(p.Prepared.Digest); err == nil {
			prepared := *p.Prepared
			prepared.Python = short(prepared.Python)
			r.Prepared = &prepared
		}
	}
	if p.Status.Final() {
		r.ExitCode, r.OOM, r.Failure = p.ExitCode, r.OOM || p.OOM, failed(p.Failure)
		if _, err := blob.CheckDigest(p.Outputs); err == nil {
			r.Outputs = p.Outputs
		}
	}
	if !moveAt(r, p.Status, p.Reason, at) && r.Status != mlaas.ReplicaStopping && p.Reason != "" {
		r.Reason = short(p.Reason)
	}
}

// stages are what a supervisor may say of its getting ready: each known one
// once, and none that takes less than no time.
func stages(said []mlaas.Stage) (known []mlaas.Stage) {
	for _, x := range said {
		if !slices.Contains(mlaas.StageNames, x.Name) || slices.ContainsFunc(known, func(k mlaas.Stage) bool { return k.Name == x.Name }) {
			continue
		}
		x.Began = x.Began.UTC()
		if x.Ended != nil {
			x.Ended = new(x.Ended.UTC())
			if x.Ended.Before(x.Began) {
				x.Ended = &x.Began
			}
		}
		known = append(known, x)
	}
	return known
}

// failed is what a supervisor may say of a failure.
func failed(f *mlaas.Failure) *mlaas.Failure {
	if f == nil {
		return nil
	}
	out := *f
	for _, text := range []*string{&out.Error, &out.File, &out.Function, &out.Text} {
		*text = short(*text)
	}
	out.Line = max(out.Line, 0)
	return &out
}

// fetched is what a supervisor may say of its sources: in lengths that a record
// may have.
func fetched(data []mlaas.Fetched) []mlaas.Fetched {
	data = slices.Clone(data[:min(len(data), maxSources)])
	for i := range data {
		d := &data[i]
		for _, text := range []*string{&d.Name, &d.Source, &d.Commit, &d.ETag, &d.Version} {
			*text = short(*text)
		}
		if _, err := blob.CheckDigest(d.Tree); err != nil {
			d.Tree = ""
		}
	}
	return data
}

// used is what a supervisor may say of its use: numbers that encode.
func used(u mlaas.Usage) mlaas.Usage {
	if math.IsNaN(u.CPUSeconds) || math.IsInf(u.CPUSeconds, 0) || u.CPUSeconds < 0 {
		u.CPUSeconds = 0
	}
	u.Memory, u.Peak, u.Dropped = max(u.Memory, 0), max(u.Peak, 0), max(u.Dropped, 0)
	u.Isolation = short(u.Isolation)
	if g := u.GPUBusy; g != nil && !(*g >= 0 && *g <= 1) {
		u.GPUBusy = nil
	}
	return u
}

// short is s in a length that a record may have.
func short(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason-3], "") + "..."
	}
	return s
}

// keepLock keeps the environment that a supervisor resolved for its own run,
// unless another one was first.
func (b *Booster) keepLock(ctx context.Context, f mlaas.Fence, l mlaas.Locked) error {
	run, _, err := store.Runs(b.DB).Get(ctx, f.Tenant, string(f.Run))
	if err != nil {
		return err
	}
	env := run.Spec.Environment
	if l.Spec != env.Spec() {
		return fmt.Errorf("the lock is of %s, but the run asks for %s: %w", l.Spec, env.Spec(), mlaas.ErrInvalid)
	}
	if _, err := b.Blob.Stat(ctx, l.Lock); err != nil {
		return fmt.Errorf("the text of the lock is not here: %w", err)
	}
	l.Tenant, l.Previous, l.Created = f.Tenant, nil, b.Now().UTC()
	l.Framework, l.Python, l.Packages = env.Framework, short(l.Python), env.Packages
	err = b.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Locks(b.DB).Put(l, 0)}})
	if errors.Is(err, mlaas.ErrConflict) {
		return nil
	}
	return err
}

// clip makes points safe to keep: the sequence stays dense, so that none is
// left out.
func clip(points []mlaas.Point) {
	for i := range points {
		if k := points[i].Key; len(k) > maxKey || !validText(k) {
			k = strings.ToValidUTF8(k, "\uFFFD")
			points[i].Key = strings.ToValidUTF8(k[:min(len(k), maxKey)], "")
		}
	}
}
