package contractor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/admission"
	"mlaas.dev/mlaas/contractor/jobengine"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Who may start. Waiting runs stand in one line: higher priority first, then
// whoever asked first; a run that begins again keeps its place. The line is
// served from its head. A run starts as a whole: when all that it asks for fits
// what one cluster has free. A run that does not fit yet sets aside what it
// needs on the clusters that could hold it, before the next in line is looked
// at; so a smaller run passes a larger one only where that delays nobody (it
// needs none of what the larger one waits for, or goes to another cluster), and
// nobody starves behind a stream of small runs. The price is that a core may
// stand idle while the head of the line waits for its neighbour.
//
// What a run is given is subtracted from its cluster's ledger in the commit
// that starts it, at the ledger's revision: the same core is never promised
// twice. Runs that start in one pass share commits, and with them one writing of
// each ledger. One contractor at a time serves the line, so that its order is one.

// together is how many runs are placed in one commit.
const together = 64

// A line is what admission remembers from pass to pass.
type line struct {
	known   map[key]mlaas.Run                    // the wishes of waiting runs, which never change
	ledgers map[string]store.Found[mlaas.Ledger] // by cluster, as they were last; they are long, and mostly as they were
}

// waiting is one run in line.
type waiting struct {
	run   mlaas.Run
	state mlaas.RunState
	rev   int64
}

// backing is the records behind a room, which are in the commit that takes of it.
type backing struct {
	spec store.Row // that the cluster is wanted so
	rev  int64     // of its ledger
}

// admit serves the line until nothing more can start.
func (c *Contractor) admit(ctx context.Context, line *line) (err error) {
	defer safely(&err)
	n := together
	for range tries {
		again, err := c.pass(ctx, line, n)
		if err != nil || !again {
			return err
		}
		n = 1 // what changes all the time is in the way of one run alone
	}
	return nil // others commit faster than we read; their commits wake us again
}

// pass goes through the line once, and places up to n runs in one commit. again
// is true if another commit came between, so that what was read is old.
func (c *Contractor) pass(ctx context.Context, line *line, n int) (again bool, err error) {
	queued, err := store.RunStates(c.DB).All(ctx, store.Query{Index: "state=" + string(mlaas.Queued)})
	if err != nil {
		return false, err
	}
	known := map[key]mlaas.Run{}
	var all []waiting
	for _, q := range queued {
		at := key{q.Value.Tenant, q.Value.Run}
		run, ok := line.known[at]
		if !ok {
			if run, _, err = store.Runs(c.DB).Get(ctx, at.tenant, string(at.run)); errors.Is(err, mlaas.ErrNotFound) {
				continue // it was removed
			} else if err != nil {
				return false, err
			}
		}
		known[at] = run
		all = append(all, waiting{admission.Sized(run, q.Value.Sizes), q.Value, q.Rev})
	}
	line.known = known
	if line.ledgers == nil {
		line.ledgers = map[string]store.Found[mlaas.Ledger]{}
	}
	if len(all) == 0 {
		return false, nil
	}
	rooms, behind, err := c.rooms(ctx, line)
	if err != nil {
		return false, err
	}
	slices.SortFunc(all, func(a, b waiting) int { return admission.Before(a.run, b.run, a.state, b.state) })
	var news store.Batch
	placed := placing{line: line, behind: behind, rooms: map[*admission.Room]bool{}}
	defer func() { placed.over(errUnplaced) }()
	position := 0
	for i := range all {
		w := &all[i]
		if err := ctx.Err(); err != nil {
			return false, err
		}
		position++
		if w.state.Allocation.Cluster != "" || pauses(w.state, c.now()) {
			continue // its last attempt still ends, or it pauses; it keeps its place
		}
		d := admission.Elect(w.run.Spec, w.state.Excluded, rooms)
		switch {
		case d.Never != "" && (d.Shut || w.state.Epoch == 0): // one that ran may wait for a cluster as large as it had
			err = c.refuse(ctx, w, d.Never)
		case d.Place != nil:
			if err = c.place(ctx, w, d, &placed); err == nil && len(placed.told) == n {
				err = c.start(ctx, &placed)
			}
			position--
		default:
			d.SetAside(&w.run)
			if err = c.start(ctx, &placed); err != nil {
				break // what it waits for is told by what is there
			}
			var reason string
			if reason, err = c.waits(ctx, w, d, position); err != nil {
				break
			}
			if w.state.Reason != reason || !w.state.Next.After(c.now()) {
				w.state.Reason, w.state.Next = reason, c.now().Add(review)
				news.Put = append(news.Put, store.RunStates(c.DB).Put(w.state, w.rev))
			}
		}
		switch {
		case errors.Is(err, mlaas.ErrConflict):
			c.counts().Conflicts.Inc()
			return true, nil
		case err != nil: // the run's own, which is in the way of those behind it alone
			return false, errors.Join(err, c.start(ctx, &placed))
		}
	}
	err = c.start(ctx, &placed)
	if err == nil && !news.Empty() {
		err = c.DB.Commit(ctx, news)
	}
	if errors.Is(err, mlaas.ErrConflict) {
		c.counts().Conflicts.Inc()
		return true, nil
	}
	return false, err
}

// A placing is the runs that are placed and not committed yet.
type placing struct {
	line   *line
	behind map[*admission.Room]*backing
	batch  store.Batch
	rooms  map[*admission.Room]bool // whose ledgers are changed
	told   []func(error)            // what is said of each once it is committed, or is not
}

var errUnplaced = fmt.Errorf("another commit came between: %w", mlaas.ErrConflict)

// over says of all that is left what became of it.
func (p *placing) over(err error) {
	for _, tell := range p.told {
		tell(err)
	}
	p.batch, p.told = store.Batch{}, nil
	clear(p.rooms)
}

// start commits what was placed.
func (c *Contractor) start(ctx context.Context, p *placing) error {
	if len(p.told) == 0 {
		return nil
	}
	for r := range p.rooms {
		p.batch.Put = append(p.batch.Put, store.Ledgers(c.DB).Put(r.Ledger, p.behind[r].rev))
		p.batch.Check = append(p.batch.Check, p.behind[r].spec)
	}
	failpoint.Hit("contractor.place.before")
	err := c.DB.Commit(ctx, p.batch)
	if err == nil {
		failpoint.Hit("contractor.place.after")
		for r := range p.rooms {
			p.behind[r].rev++
			p.line.ledgers[r.Cluster.Name] = store.Found[mlaas.Ledger]{Value: r.Ledger, Rev: p.behind[r].rev}
		}
	}
	p.over(err)
	return err
}

// rooms is what each cluster has free, by name.
func (c *Contractor) rooms(ctx context.Context, line *line) ([]*admission.Room, map[*admission.Room]*backing, error) {
	clusters, err := store.Clusters(c.DB).All(ctx, store.Query{})
	if err != nil {
		return nil, nil, err
	}
	specs := store.ClusterSpecs(c.DB)
	found, err := specs.All(ctx, store.Query{})
	if err != nil {
		return nil, nil, err
	}
	wanted := map[string]store.Found[mlaas.ClusterSpec]{}
	for _, f := range found {
		wanted[f.Value.Name] = f
	}
	var all []*admission.Room
	behind := map[*admission.Room]*backing{}
	for _, f := range clusters {
		ledger, rev, err := c.ledger(ctx, line, f.Value.Name)
		if err != nil {
			return nil, nil, err
		}
		spec := wanted[f.Value.Name] // none: it is served for as long as it is there
		r := admission.NewRoom(f.Value, spec.Value.Wanted, ledger)
		behind[r] = &backing{spec: specs.At("", f.Value.Name, spec.Rev), rev: rev}
		all = append(all, r)
	}
	return all, behind, nil
}

// ledger is that of a cluster, decoded anew where it has changed.
func (c *Contractor) ledger(ctx context.Context, line *line, cluster string) (mlaas.Ledger, int64, error) {
	ledgers := store.Ledgers(c.DB)
	row, err := c.DB.Get(ctx, ledgers.At("", cluster, 0).Key)
	known := line.ledgers[cluster]
	switch {
	case errors.Is(err, mlaas.ErrNotFound):
		delete(line.ledgers, cluster)
		return mlaas.Ledger{}, 0, nil
	case err != nil || known.Rev == row.Rev:
		return known.Value, row.Rev, err
	}
	known.Rev = row.Rev
	if known.Value, err = ledgers.Decode(row); err == nil {
		line.ledgers[cluster] = known
	}
	return known.Value, known.Rev, err
}

// place starts a run: its next epoch, the newest checkpoint to begin from, what
// it is granted, and the ledger that it is granted from, in one commit.
func (c *Contractor) place(ctx context.Context, w *waiting, d admission.Decision, p *placing) error {
	rule, ok := jobengine.Next(w.state.State, jobengine.Admitted)
	if !ok {
		return fmt.Errorf("run %s is %s and was in line: %w", w.run.ID, w.state.State, mlaas.ErrInternal)
	}
	base, err := c.base(ctx, w.run)
	if err != nil {
		return err
	}
	l := &look{c: c, now: c.now(), run: w.run, state: w.state, replicas: map[string]store.Found[mlaas.Replica]{}}
	if err := l.find(ctx); err != nil {
		return err
	}
	if _, done := l.done(); done {
		return c.settle(ctx, w.run.Tenant, w.run.ID) // its last attempt ended well after all: nothing runs again
	}
	var as []store.Row // what says that it did not
	for name, r := range l.replicas {
		if r.Value.Epoch == l.state.Epoch {
			as = append(as, store.Replicas(c.DB).At(w.run.Tenant, store.ReplicaKey(w.run.ID, name), r.Rev))
		}
	}
	st := &l.state
	st.State = rule.To
	st.Epoch++
	st.Attempts = append(slices.Clone(st.Attempts), mlaas.Attempt{Epoch: st.Epoch, Cluster: d.Place.Cluster.Name, Resume: base.Tree, Step: base.Step, Began: moment(l.now, *st)})
	st.Allocation = d.Allocation(w.run.Spec)
	st.Next = l.now.Add(askAgain)
	l.progress()
	ctx, end := trace.Start(ctx, c.Trace, "contractor place", w.run.Trace, "run", string(w.run.ID))
	told := queue.Traced(store.Batch{
		Tell: []store.Message{queue.Tell(mlaas.ReplicasWanted{Tenant: w.run.Tenant, Run: w.run.ID, Epoch: st.Epoch, Cluster: st.Allocation.Cluster})},
	}, trace.Of(ctx))
	told.Put, told.Check = []store.Row{store.RunStates(c.DB).Put(*st, w.rev)}, as
	p.batch = p.batch.Plus(told)
	p.rooms[d.Place] = true
	delete(p.line.ledgers, d.Place.Cluster.Name) // until it is as it will be
	p.told = append(p.told, func(err error) {
		end(err)
		if err == nil {
			c.moved(w.run, rule, st.Reason)
		}
	})
	d.Place.Grant(w.run, st.Epoch, d.Ask)
	return nil
}

// base is the checkpoint that the next attempt begins from: the newest that was
// committed whole. Where several replicas saved the same step it is that of the
// first among them.
func (c *Contractor) base(ctx context.Context, run mlaas.Run) (mlaas.Checkpoint, error) {
	rows, _, err := store.Checkpoints(c.DB).List(ctx, store.Query{Tenant: run.Tenant, Prefix: string(run.ID) + "/", Reverse: true, Limit: 64})
	if err != nil || len(rows) == 0 {
		return mlaas.Checkpoint{}, err
	}
	best := rows[0].Value
	for _, r := range rows[1:] {
		if r.Value.Epoch != best.Epoch || r.Value.Step != best.Step {
			break
		}
		if rank(r.Value.Replica) < rank(best.Replica) {
			best = r.Value
		}
	}
	return best, nil
}

// rank orders replicas as programs do: chief, workers, the others.
func rank(replica string) int {
	role, index, _ := mlaas.SplitReplica(replica)
	return slices.Index(mlaas.RoleOrder, role)*100_000 + index
}

// refuse ends a run that no cluster can ever hold.
func (c *Contractor) refuse(ctx context.Context, w *waiting, why string) error {
	rule, ok := jobengine.Next(w.state.State, jobengine.CannotEver)
	if !ok {
		return nil
	}
	l := &look{c: c, now: c.now(), run: w.run, state: w.state, rev: w.rev}
	if err := l.do(ctx, rule, sight{why: why}); err != nil {
		return err
	}
	l.batch.Put = append(l.batch.Put, store.RunStates(c.DB).Put(l.state, l.rev))
	return c.DB.Commit(ctx, l.batch)
}

// waits says what a run waits for.
func (c *Contractor) waits(ctx context.Context, w *waiting, d admission.Decision, position int) (string, error) {
	return d.Waits(w.run, w.state.Attempts, position, func(id mlaas.RunID) (admission.Holder, error) {
		run, _, err := store.Runs(c.DB).Get(ctx, w.run.Tenant, string(id))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return admission.Holder{}, err
		}
		st, _, err := store.RunStates(c.DB).Get(ctx, w.run.Tenant, string(id))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return admission.Holder{}, err
		}
		return admission.HolderOf(run, st), nil
	})
}
