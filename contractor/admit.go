package contractor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
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

// told is how many waiting runs are told what they wait for in numbers; those
// behind them are told that they are behind.
const told = 100

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

// room is what a cluster has, as far as a pass has come.
type room struct {
	cluster mlaas.Cluster
	wanted  string    // of it
	spec    store.Row // that this is so
	ledger  mlaas.Ledger
	rev     int64
	free    mlaas.Resources // of nobody
	left    mlaas.Resources // free, less what runs further ahead in line set aside
	aside   map[string]int  // by kind of GPU, where there are several: what they set aside
	first   *waiting        // the first that set something aside here
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
		all = append(all, waiting{sized(run, q.Value.Sizes), q.Value, q.Rev})
	}
	line.known = known
	if line.ledgers == nil {
		line.ledgers = map[string]store.Found[mlaas.Ledger]{}
	}
	if len(all) == 0 {
		return false, nil
	}
	rooms, err := c.rooms(ctx, line)
	if err != nil {
		return false, err
	}
	slices.SortFunc(all, func(a, b waiting) int {
		return cmp.Or(
			-cmp.Compare(a.run.Spec.Execution.Priority, b.run.Spec.Execution.Priority),
			a.state.Queued.Compare(b.state.Queued),
			cmp.Compare(a.run.ID, b.run.ID))
	})
	var news store.Batch
	placed := placing{line: line, rooms: map[*room]bool{}}
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
		d := elect(w, rooms)
		switch {
		case d.never != "" && (d.shut || w.state.Epoch == 0): // one that ran may wait for a cluster as large as it had
			err = c.refuse(ctx, w, d.never)
		case d.place != nil:
			if err = c.place(ctx, w, d, &placed); err == nil && len(placed.told) == n {
				err = c.start(ctx, &placed)
			}
			position--
		default:
			for _, r := range d.could {
				r.left = minus(r.left, d.ask)
				if r.first == nil {
					r.first = w
				}
			}
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
	line  *line
	batch store.Batch
	rooms map[*room]bool // whose ledgers are changed
	told  []func(error)  // what is said of each once it is committed, or is not
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
		p.batch.Put = append(p.batch.Put, store.Ledgers(c.DB).Put(r.ledger, r.rev))
		p.batch.Check = append(p.batch.Check, r.spec)
	}
	failpoint.Hit("contractor.place.before")
	err := c.DB.Commit(ctx, p.batch)
	if err == nil {
		failpoint.Hit("contractor.place.after")
		for r := range p.rooms {
			r.rev++
			p.line.ledgers[r.cluster.Name] = store.Found[mlaas.Ledger]{Value: r.ledger, Rev: r.rev}
		}
	}
	p.over(err)
	return err
}

// rooms is what each cluster has free, by name.
func (c *Contractor) rooms(ctx context.Context, line *line) ([]*room, error) {
	clusters, err := store.Clusters(c.DB).All(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	specs := store.ClusterSpecs(c.DB)
	found, err := specs.All(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	wanted := map[string]store.Found[mlaas.ClusterSpec]{}
	for _, f := range found {
		wanted[f.Value.Name] = f
	}
	var all []*room
	for _, f := range clusters {
		spec := wanted[f.Value.Name] // none: it is served for as long as it is there
		r := &room{cluster: f.Value, wanted: cmp.Or(spec.Value.Wanted, mlaas.ClusterServe), spec: specs.At("", f.Value.Name, spec.Rev)}
		if r.ledger, r.rev, err = c.ledger(ctx, line, f.Value.Name); err != nil {
			return nil, err
		}
		r.ledger.Cluster = f.Value.Name
		if r.ledger.Grants == nil {
			r.ledger.Grants = map[mlaas.RunID]mlaas.Grant{}
		}
		r.free = minus(f.Value.Capacity, r.ledger.Used())
		r.left = r.free
		all = append(all, r)
	}
	return all, nil
}

// face turns a cluster that has GPUs of several kinds to the one that a run
// asks for: what it has, and what is free and left, is of that kind from here on.
func (r *room) face(kind string) {
	if len(r.cluster.GPUs) == 0 {
		return
	}
	if r.aside == nil {
		r.aside = map[string]int{}
	}
	r.aside[r.free.GPU.Kind] = r.free.GPU.Count - r.left.GPU.Count
	g := slices.MaxFunc(r.cluster.GPUs, func(x, y mlaas.GPU) int { return cmp.Compare(x.Count, y.Count) })
	if i := slices.IndexFunc(r.cluster.GPUs, func(x mlaas.GPU) bool { return strings.EqualFold(x.Kind, kind) }); i >= 0 {
		g = r.cluster.GPUs[i]
	}
	r.cluster.Capacity.GPU = g
	r.free.GPU = mlaas.GPU{Count: max(g.Count-r.ledger.UsedGPU(g.Kind), 0), Kind: g.Kind}
	r.left.GPU = mlaas.GPU{Count: max(r.free.GPU.Count-r.aside[g.Kind], 0), Kind: g.Kind}
}

// held is what runs hold of what the room faces: none of the GPUs of other kinds.
func (r *room) held() mlaas.Ledger {
	if len(r.cluster.GPUs) == 0 {
		return r.ledger
	}
	l := r.ledger
	l.Grants = maps.Clone(l.Grants)
	for id, g := range l.Grants {
		if k := g.Total.GPU.Kind; k != "" && !strings.EqualFold(k, r.free.GPU.Kind) {
			g.Total.GPU = mlaas.GPU{}
			l.Grants[id] = g
		}
	}
	return l
}

// kindOf is the kind of GPU that a run names; all of its roles share it.
func kindOf(spec mlaas.JobSpec) string {
	for _, name := range mlaas.RoleOrder {
		if role := spec.Roles[name]; role != nil && role.Replicas.Max > 0 && role.GPU.Count > 0 && role.GPU.Kind != "" {
			return role.GPU.Kind
		}
	}
	return ""
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

// minus is what is left of r; what is overdrawn is nothing, not a debt.
func minus(r, o mlaas.Resources) mlaas.Resources {
	r = r.Minus(o)
	r.CPU, r.Memory, r.GPU.Count = max(r.CPU, 0), max(r.Memory, 0), max(r.GPU.Count, 0)
	return r
}

// A decision is what becomes of a run whose turn it is.
type decision struct {
	place   *room           // it starts here; nil: it waits
	could   []*room         // it waits for room in one of these
	never   string          // it can never start, because
	shut    bool            // by a rule of its job: it waits for no other cluster
	down    *room           // it could start here, if the cluster were up and lent anything
	workers int             // how many it is given, at most what it asks for
	ask     mlaas.Resources // what it needs then
}

// elect decides among the clusters where a run may run at all: one that is a
// single node is none where a rule keeps a role of the run away from that node.
// A cluster of many nodes finds another of its own.
func elect(w *waiting, rooms []*room) decision {
	if len(w.state.Excluded) == 0 {
		return decide(w.run.Spec, rooms)
	}
	var open []*room
	var role, node string
	for _, r := range rooms {
		shut := false
		for name, nodes := range w.state.Excluded {
			if x := w.run.Spec.Roles[name]; x != nil && x.Replicas.Max > 0 && r.cluster.Node != "" && slices.Contains(nodes, r.cluster.Node) {
				shut, role, node = true, name, r.cluster.Node
			}
		}
		if !shut {
			open = append(open, r)
		}
	}
	if len(open) == 0 && node != "" {
		return decision{shut: true, never: fmt.Sprintf("no %s may run on node %s, as a rule of its job says, and there is no other", role, node)}
	}
	return decide(w.run.Spec, open)
}

// decide says whether a run may start now, and where. It is given as many
// workers as it wants, or as many as the largest cluster could hold when empty.
func decide(spec mlaas.JobSpec, rooms []*room) decision {
	d := decision{workers: -1}
	best, kind := -1, kindOf(spec)
	for _, r := range rooms {
		r.face(kind)
		n, ok := most(spec, r.cluster.Capacity)
		switch {
		case !ok:
		case !r.cluster.Up || r.wanted != mlaas.ClusterServe:
			if d.down == nil || d.down.wanted != mlaas.ClusterServe {
				d.down = r
			}
		case n > best:
			best, d.could = n, []*room{r}
		case n == best:
			d.could = append(d.could, r)
		}
	}
	if len(d.could) == 0 {
		if d.down == nil && len(rooms) > 0 {
			d.never = never(spec, rooms)
		}
		return d
	}
	d.workers = best
	d.ask = need(spec, best)
	for _, r := range d.could {
		if d.ask.Fits(r.left) && (d.place == nil || r.left.CPU > d.place.left.CPU) {
			d.place = r
		}
	}
	return d
}

// counts is how many replicas of each role a run has with so many workers.
func counts(spec mlaas.JobSpec, workers int) map[string]int {
	n := map[string]int{}
	for name, role := range spec.Roles {
		n[name] = role.Replicas.Max
	}
	if spec.Roles[mlaas.Worker] != nil {
		n[mlaas.Worker] = workers
	}
	return n
}

// need is what a run asks for with so many workers.
func need(spec mlaas.JobSpec, workers int) (total mlaas.Resources) {
	for name, n := range counts(spec, workers) {
		total = total.Plus(spec.Roles[name].Need().Times(n))
	}
	return total
}

// most is with how many workers a run fits into capacity, at most what it asks
// for; ok is false where not even the fewest that it accepts do.
func most(spec mlaas.JobSpec, capacity mlaas.Resources) (workers int, ok bool) {
	for _, role := range spec.Roles {
		if role.Replicas.Max > 0 && !role.Need().Fits(capacity) {
			return 0, false // also the wrong kind of GPU
		}
	}
	var want mlaas.Count
	if w := spec.Roles[mlaas.Worker]; w != nil {
		want = w.Replicas
	}
	more := sort.Search(want.Max-want.Min+1, func(i int) bool { return !need(spec, want.Min+i).Fits(capacity) })
	return want.Min + more - 1, more > 0
}

// place starts a run: its next epoch, the newest checkpoint to begin from, what
// it is granted, and the ledger that it is granted from, in one commit.
func (c *Contractor) place(ctx context.Context, w *waiting, d decision, p *placing) error {
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
	st.Attempts = append(slices.Clone(st.Attempts), mlaas.Attempt{Epoch: st.Epoch, Cluster: d.place.cluster.Name, Resume: base.Tree, Step: base.Step, Began: moment(l.now, *st)})
	st.Allocation = mlaas.Allocation{
		Cluster:   d.place.cluster.Name,
		Requested: counts(w.run.Spec, 0),
		Granted:   counts(w.run.Spec, d.workers),
		Total:     d.ask,
	}
	if role := w.run.Spec.Roles[mlaas.Worker]; role != nil {
		st.Allocation.Requested[mlaas.Worker] = role.Replicas.Max
		if less := role.Replicas.Max - d.workers; less > 0 {
			st.Allocation.Remainder = map[string]int{mlaas.Worker: less}
		}
	}
	st.Next = l.now.Add(askAgain)
	l.progress()
	ctx, end := trace.Start(ctx, c.Trace, "contractor place", w.run.Trace, "run", string(w.run.ID))
	told := queue.Traced(store.Batch{
		Tell: []store.Message{queue.Tell(mlaas.ReplicasWanted{Tenant: w.run.Tenant, Run: w.run.ID, Epoch: st.Epoch, Cluster: st.Allocation.Cluster})},
	}, trace.Of(ctx))
	told.Put, told.Check = []store.Row{store.RunStates(c.DB).Put(*st, w.rev)}, as
	p.batch = p.batch.Plus(told)
	p.rooms[d.place] = true
	delete(p.line.ledgers, d.place.cluster.Name) // until it is as it will be
	p.told = append(p.told, func(err error) {
		end(err)
		if err == nil {
			c.moved(w.run, rule, st.Reason)
		}
	})
	d.place.ledger.Grants[w.run.ID] = mlaas.Grant{Tenant: w.run.Tenant, Epoch: st.Epoch, Total: d.ask}
	d.place.free = minus(d.place.free, d.ask)
	d.place.left = minus(d.place.left, d.ask)
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

// An amount is one thing that a cluster has and a run needs.
type amount struct {
	name string
	of   func(mlaas.Resources) int64
	text func(int64) string
}

var amounts = []amount{
	{" CPU", func(r mlaas.Resources) int64 { return int64(r.CPU) }, func(n int64) string { return decimal(float64(n) / 1000) }},
	{" memory", func(r mlaas.Resources) int64 { return int64(r.Memory) }, size},
	{" GPU", func(r mlaas.Resources) int64 { return int64(r.GPU.Count) }, func(n int64) string { return strconv.FormatInt(n, 10) }},
}

func decimal(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 3, 64), "0"), ".")
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return strings.TrimSuffix(strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64), ".0") + "Gi"
	case n >= 1<<20:
		return strings.TrimSuffix(strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64), ".0") + "Mi"
	default:
		return strconv.FormatInt(n, 10)
	}
}

// never says why no cluster can ever hold a run.
func never(spec mlaas.JobSpec, rooms []*room) string {
	// One replica that is too large for every cluster says it shortest.
	for _, name := range mlaas.RoleOrder {
		role := spec.Roles[name]
		if role == nil || role.Replicas.Max == 0 {
			continue
		}
		if s, small := tooSmall(role.Need(), "one "+name, rooms); small {
			return s
		}
		if kind := role.Need().GPU.Kind; kind != "" && !slices.ContainsFunc(rooms, func(r *room) bool { return role.Need().Fits(r.cluster.Capacity) }) {
			return fmt.Sprintf("needs a GPU of kind %s for one %s; no cluster that is large enough has one", kind, name)
		}
	}
	least := 0
	if w := spec.Roles[mlaas.Worker]; w != nil {
		least = w.Replicas.Min
	}
	var who []string
	n := counts(spec, least)
	for _, name := range mlaas.RoleOrder {
		if n[name] > 0 {
			what := name
			if n[name] > 1 && name != mlaas.PS {
				what += "s"
			}
			who = append(who, fmt.Sprintf("%d %s", n[name], what))
		}
	}
	if s, small := tooSmall(need(spec, least), list(who), rooms); small {
		return s
	}
	return "needs for " + list(who) + " more than any one cluster has"
}

// tooSmall says of which amount even the cluster that has most has too little.
func tooSmall(need mlaas.Resources, who string, rooms []*room) (string, bool) {
	for _, a := range amounts {
		most := slices.MaxFunc(rooms, func(x, y *room) int { return cmp.Compare(a.of(x.cluster.Capacity), a.of(y.cluster.Capacity)) })
		if a.of(need) <= a.of(most.cluster.Capacity) {
			continue
		}
		return fmt.Sprintf("needs %s%s for %s; the largest cluster, %s, has %s", a.text(a.of(need)), a.name, who, most.cluster.Name, a.text(a.of(most.cluster.Capacity))), true
	}
	return "", false
}

// waits says what a run waits for: what is short with numbers, who holds it,
// and where it stands in line.
func (c *Contractor) waits(ctx context.Context, w *waiting, d decision, position int) (string, error) {
	if position > told {
		return fmt.Sprintf("queued behind more than %d runs", told), nil
	}
	head := fmt.Sprintf("queued, position %d", position)
	if n := len(w.state.Attempts); n > 0 {
		head += fmt.Sprintf(" (attempt %d, because %s)", n+1, w.state.Attempts[n-1].Reason)
	}
	if len(d.could) == 0 {
		switch {
		case d.never != "":
			return head + ": " + d.never, nil
		case d.down == nil:
			return head + ": no cluster is connected", nil
		case d.down.wanted == mlaas.ClusterDrain:
			return fmt.Sprintf("%s: cluster %s, which could hold it, is drained: `mlaas cluster resume %s` ends that", head, d.down.cluster.Name, d.down.cluster.Name), nil
		case d.down.wanted == mlaas.ClusterGone:
			return fmt.Sprintf("%s: cluster %s, which could hold it, is being removed", head, d.down.cluster.Name), nil
		}
		return head + ": " + say(fmt.Sprintf("cluster %s, which could hold it, is down", d.down.cluster.Name), d.down.cluster.Reason), nil
	}
	r := slices.MaxFunc(d.could, func(x, y *room) int { return cmp.Compare(x.free.CPU, y.free.CPU) })
	var lack []string
	var first *amount
	for _, a := range amounts {
		if need, free := a.of(d.ask), a.of(r.free); need > free {
			lack = append(lack, fmt.Sprintf("%s%s (%s free of %s)", a.text(need), a.name, a.text(free), a.text(a.of(r.cluster.Capacity))))
			if first == nil {
				first = &a
			}
		}
	}
	if first == nil {
		ahead := "a run of another team"
		if r.first.run.Tenant == w.run.Tenant {
			ahead = name(r.first.run)
		}
		return fmt.Sprintf("%s: needs %s CPU, which %s before it waits for", head, amounts[0].text(int64(d.ask.CPU)), ahead), nil
	}
	text := head + ": needs " + strings.Join(lack, " and ")
	if len(d.could) > 1 {
		text += " on " + r.cluster.Name
	}
	holders, err := c.holders(ctx, w.run.Tenant, r.held(), *first)
	return text + holders, err
}

// holders names up to three runs that hold most of what is short.
func (c *Contractor) holders(ctx context.Context, tenant mlaas.Tenant, ledger mlaas.Ledger, a amount) (string, error) {
	ids := slices.SortedFunc(maps.Keys(ledger.Grants), func(x, y mlaas.RunID) int {
		return cmp.Or(-cmp.Compare(a.of(ledger.Grants[x].Total), a.of(ledger.Grants[y].Total)), cmp.Compare(x, y))
	})
	ids = slices.DeleteFunc(ids, func(id mlaas.RunID) bool { return a.of(ledger.Grants[id].Total) == 0 })
	var b strings.Builder
	for i, id := range ids {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(ids)-3)
			break
		}
		g := ledger.Grants[id]
		who, ends := "a run of another team", "ends unknown"
		if g.Tenant == tenant {
			run, _, err := store.Runs(c.DB).Get(ctx, tenant, string(id))
			if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
				return "", err
			}
			st, _, err := store.RunStates(c.DB).Get(ctx, tenant, string(id))
			if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
				return "", err
			}
			who = name(run)
			switch {
			case st.State == mlaas.Stopping || st.State == mlaas.Queued:
				ends = "is ending"
			case st.State == mlaas.Running && run.Spec.Execution.Timeout > 0:
				ends = "ends by " + st.Next.UTC().Format("Jan 2 15:04") + " UTC at the latest"
			}
		}
		fmt.Fprintf(&b, "; %s holds %s, %s", who, a.text(a.of(g.Total)), ends)
	}
	return b.String(), nil
}
