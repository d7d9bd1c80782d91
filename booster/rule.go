package booster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/rule"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// watch is what the action rules of a run need to remember of one of its
// replicas. All but list is under the lock of its cell.
type watch struct {
	list  []rule.Rule          // those about its role
	when  map[string]time.Time // a rule about lines fired last
	since map[string]time.Time // for which time without anything a rule has fired
	quiet rule.Quiet           // by a clock that does not jump
	cpu   float64              // seconds, as of the last beat
	beat  time.Time
}

// watching reads the rules of a run for one of its replicas.
func (b *Booster) watching(run mlaas.Run, role string) *watch {
	w := &watch{when: map[string]time.Time{}, since: map[string]time.Time{}}
	for _, r := range b.rulesOf(run) {
		if r.ForRole(role) {
			w.list = append(w.list, r)
		}
	}
	return w
}

func (b *Booster) rulesOf(run mlaas.Run) (all []rule.Rule) {
	for _, r := range run.Spec.Rules {
		c, err := rule.Compile(r)
		if err != nil {
			b.Log.Warn("a rule cannot be read", "run", run.ID, "rule", r.Name, "error", err)
			continue
		}
		all = append(all, c)
	}
	return all
}

// begins forgets how long the program has been quiet: what it did while nobody
// listened comes with the line that begins now.
func (w *watch) begins(now time.Time, runs bool) {
	w.quiet = rule.Quiet{At: w.quiet.At}
	w.beat = time.Time{}
	if runs {
		w.quiet.Step = now
	}
}

// steps notes that the program has come further.
func (w *watch) steps(now time.Time, step int64) {
	if w != nil {
		w.quiet.Step, w.quiet.At = now, step
	}
}

// uses notes what the program has used since the last beat.
func (w *watch) uses(now time.Time, u mlaas.Usage) {
	if w.beat.IsZero() || u.CPUSeconds < w.cpu {
		w.beat, w.cpu, w.quiet.CPU = now, u.CPUSeconds, now
	} else if d := now.Sub(w.beat).Seconds(); d > 0 {
		if (u.CPUSeconds-w.cpu)/d >= rule.Busy {
			w.quiet.CPU = now
		}
		w.beat, w.cpu = now, u.CPUSeconds
	}
	switch {
	case u.GPUBusy == nil:
		w.quiet.GPU = time.Time{}
	case *u.GPUBusy >= rule.Busy || w.quiet.GPU.IsZero():
		w.quiet.GPU = now
	}
}

// read looks at lines that just came from the replica of c.
func (b *Booster) read(ctx context.Context, c *conn, lines []mlaas.LogLine) {
	for _, r := range c.cell.watch.list {
		if !r.AtLine() {
			continue // it is looked at when the replica ends; see match
		}
		i := slices.IndexFunc(lines, r.Line)
		if i < 0 {
			continue
		}
		c.cell.mu.Lock()
		soon := b.Now().Sub(c.cell.watch.when[r.Name]) < rule.Again
		c.cell.mu.Unlock()
		if soon {
			continue
		}
		if b.fires(ctx, c, r, rule.Wrote(c.fence.Replica, short(lines[i].Text)), func(record *mlaas.Replica) bool {
			return r.Holds(rule.Of(*record)) && b.Now().Sub(lastFired(*record, r.Name)) >= rule.Again
		}) {
			c.cell.mu.Lock()
			c.cell.watch.when[r.Name] = b.Now()
			c.cell.mu.Unlock()
		}
	}
}

// overdue fires the rules of the replica of c about times that have passed, and
// returns after how long the next one may.
func (b *Booster) overdue(ctx context.Context, c *conn) time.Duration {
	next := silence
	c.mu.Lock()
	runs := c.phase.Status == mlaas.ReplicaRunning && c.phase.Program
	c.mu.Unlock()
	if !runs {
		return next
	}
	w := c.cell.watch
	for _, r := range w.list {
		if !r.On.Timed() {
			continue
		}
		now := time.Now()
		c.cell.mu.Lock()
		q := w.quiet
		at, ok := r.Due(q)
		done := w.since[r.Name].Equal(r.Since(q))
		c.cell.mu.Unlock()
		switch {
		case !ok || done:
		case at.After(now):
			next = min(next, at.Sub(now))
		case b.fires(ctx, c, r, r.Waited(c.fence.Replica, q), func(record *mlaas.Replica) bool { return record.Status == mlaas.ReplicaRunning }):
			c.cell.mu.Lock()
			w.since[r.Name] = r.Since(q)
			c.cell.mu.Unlock()
		default:
			next = min(next, softEvery) // its record could not be written, or is not that far
		}
	}
	return next
}

// fires commits that a rule fired for the replica of c, if that still holds.
func (b *Booster) fires(ctx context.Context, c *conn, r rule.Rule, saw string, holds func(*mlaas.Replica) bool) (fired bool) {
	_, err := b.change(ctx, c.fence, func(record *mlaas.Replica) (also store.Batch) {
		if fired = holds(record); fired {
			also, fired = b.fire(ctx, record, r.ActionRule, saw)
		}
		return also
	})
	if known(err) != nil && ctx.Err() == nil {
		b.Log.Error("fire a rule", "run", c.fence.Run, "rule", r.Name, "error", err)
	}
	return fired && err == nil
}

// maxRuled is of how many runs the rules are kept at hand.
const maxRuled = 4096

// rules are those of a run; none where it was removed.
func (b *Booster) rules(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]rule.Rule, error) {
	key := runKey{tenant, id}
	b.inform.mu.Lock()
	all, ok := b.inform.rules[key]
	b.inform.mu.Unlock()
	if ok {
		return all, nil
	}
	run, _, err := store.Runs(b.DB).Get(ctx, tenant, string(id))
	if errors.Is(err, mlaas.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	all = b.rulesOf(run)
	b.inform.mu.Lock()
	defer b.inform.mu.Unlock()
	if len(b.inform.rules) >= maxRuled {
		clear(b.inform.rules)
	}
	b.inform.rules[key] = all
	return all, nil
}

// match is what the rules say about the change of r from what it was.
func (b *Booster) match(ctx context.Context, was rule.Seen, r *mlaas.Replica) (also store.Batch, err error) {
	rules, err := b.rules(ctx, r.Tenant, r.Run)
	if err != nil {
		return also, err
	}
	is := rule.Of(*r)
	for _, x := range rules {
		if !x.Change(was, is) || was.Status == is.Status && b.Now().Sub(lastFired(*r, x.Name)) < rule.Again {
			continue
		}
		line := ""
		if x.Pattern() != nil {
			if line = b.wrote(ctx, *r, x); line == "" {
				continue
			}
		}
		if more, ok := b.fire(ctx, r, x.ActionRule, x.Saw(is, line)); ok {
			also = also.Plus(more)
		}
	}
	return also, nil
}

// wrote is the last line of this attempt of r that x matches; empty: none does.
// A supervisor tells of its end when all its lines are kept.
func (b *Booster) wrote(ctx context.Context, r mlaas.Replica, x rule.Rule) string {
	lines, err := b.Series.Lines(ctx, series.LineQuery{Tenant: r.Tenant, Run: r.Run, Replica: r.Fence.Replica, Grep: x.Pattern(), Last: 20})
	if err != nil {
		b.Log.Error("look for a line that a rule names", "run", r.Run, "replica", r.Fence.Replica, "error", err)
		return ""
	}
	for _, l := range slices.Backward(lines) {
		if l.Attempt == r.Epoch && x.Line(l.LogLine) {
			return short(l.Text)
		}
	}
	return ""
}

// fire is a rule's effect: an entry in the history of the replica that set it
// off, and a message to whoever acts.
func (b *Booster) fire(ctx context.Context, r *mlaas.Replica, x mlaas.ActionRule, saw string) (also store.Batch, ok bool) {
	if x.Once {
		// Once in the life of the run, whichever replica: nobody else may
		// write that it fired until we have.
		if !lastFired(*r, x.Name).IsZero() {
			return also, false
		}
		others, err := store.Replicas(b.DB).All(ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.Run) + "/"})
		if err != nil {
			b.Log.Error("look whether a rule fired before", "run", r.Run, "rule", x.Name, "error", err)
			return also, false
		}
		for _, o := range others {
			if o.Value.Fence.Replica == r.Fence.Replica {
				continue
			}
			if !lastFired(o.Value, x.Name).IsZero() {
				return store.Batch{}, false
			}
			also.Check = append(also.Check, store.Replicas(b.DB).At(r.Tenant, store.ReplicaKey(r.Run, o.Value.Fence.Replica), o.Rev))
		}
	}
	now := b.Now().UTC()
	happened(r, now, fired(x.Name)+saw)
	switch x.Do {
	case mlaas.RuleNotify:
		also.Tell = append(also.Tell, queue.Tell(notice{Tenant: r.Tenant, Run: r.Run, Epoch: r.Epoch, Replica: r.Fence.Replica, Rule: x.Name, Saw: saw, Time: now}))
	case mlaas.RuleWebhook:
		d := mlaas.Delivery{ID: mlaas.NewID(now), Tenant: r.Tenant, Run: r.Run, Epoch: r.Epoch, Replica: r.Fence.Replica, Rule: x.Name, Saw: saw,
			URL: x.URL, Secret: x.Secret, State: mlaas.DeliveryWaiting, Tries: []mlaas.DeliveryTry{}, Created: now}
		also.Put = append(also.Put, store.Deliveries(b.DB).Put(d, 0))
		also.Tell = append(also.Tell, queue.Tell(mlaas.WebhookWanted{Tenant: r.Tenant, Run: r.Run, Delivery: d.ID}))
	default:
		also.Tell = append(also.Tell, queue.Tell(mlaas.RuleFired{Tenant: r.Tenant, Run: r.Run, Epoch: r.Epoch, Replica: r.Fence.Replica, Rule: x.Name, Saw: saw}))
	}
	return also, true
}

// fired is how the history of a replica says that a rule did.
func fired(rule string) string { return "rule " + rule + " fired: " }

func lastFired(r mlaas.Replica, rule string) (at time.Time) {
	for _, e := range r.History {
		if strings.HasPrefix(e.Reason, fired(rule)) {
			at = e.Time
		}
	}
	return at
}
