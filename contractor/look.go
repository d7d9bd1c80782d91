package contractor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/contractor/codeengine"
	"mlaas.dev/mlaas/contractor/jobengine"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/rule"
	"mlaas.dev/mlaas/store"
)

// A look is what the records say about one run at one moment, and the batch
// that follows from it.
type look struct {
	c        *Contractor
	now      time.Time
	run      mlaas.Run
	state    mlaas.RunState
	rev      int64
	changed  bool
	released bool                                  // the run may be on nodes now that it was kept from
	replicas map[string]store.Found[mlaas.Replica] // by name, of any attempt
	batch    store.Batch
}

// look reads what there is of a run, lets the job engine decide as long as it
// knows a rule, and returns what is to be committed. A run that was removed
// needs nothing.
func (c *Contractor) look(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, fired *mlaas.RuleFired) (store.Batch, error) {
	l := &look{c: c, now: c.now(), replicas: map[string]store.Found[mlaas.Replica]{}}
	var err error
	if l.run, _, err = store.Runs(c.DB).Get(ctx, tenant, string(id)); err != nil {
		if errors.Is(err, mlaas.ErrNotFound) {
			return store.Batch{}, nil
		}
		return store.Batch{}, err
	}
	l.state, l.rev, err = store.RunStates(c.DB).Get(ctx, tenant, string(id))
	switch {
	case errors.Is(err, mlaas.ErrNotFound):
		l.state = mlaas.RunState{Run: id, Tenant: tenant, Job: l.run.Job, Kernel: l.run.Kernel != nil, State: mlaas.Created, Queued: l.now, Attempts: []mlaas.Attempt{}}
	case err != nil:
		return store.Batch{}, err
	case l.state.State.Final():
		return store.Batch{}, nil
	}
	if err := l.find(ctx); err != nil {
		return store.Batch{}, err
	}
	l.anywhere()
	for {
		s, err := l.see(ctx, fired)
		if err != nil {
			return store.Batch{}, err
		}
		rule, ok := jobengine.Next(l.state.State, s.event)
		if !ok {
			break
		}
		if err := l.do(ctx, rule, s); err != nil {
			return store.Batch{}, err
		}
		fired = nil
	}
	l.progress()
	if l.changed {
		l.batch.Put = append(l.batch.Put, store.RunStates(c.DB).Put(l.state, l.rev))
	}
	return l.batch, nil
}

// anywhere forgets on which nodes none of a role may run, if the user has said
// so since.
func (l *look) anywhere() {
	if l.run.Anywhere <= l.state.Anywhere {
		return
	}
	l.state.Anywhere, l.changed = l.run.Anywhere, true
	l.released = len(l.state.Excluded) > 0
	l.state.Excluded = nil
}

// barred reports whether a replica waits that was kept from nodes which it may
// run on by now: what it was asked for with does not change.
func (l *look) barred() bool {
	for _, name := range l.names() {
		if r, ok := l.replica(name); ok && l.released && r.Ready == nil && !r.Status.Final() && len(r.Exclude) > 0 {
			return true
		}
	}
	return false
}

// find reads the replicas of the run.
func (l *look) find(ctx context.Context) error {
	if l.state.Epoch == 0 {
		return nil
	}
	found, err := store.Replicas(l.c.DB).All(ctx, store.Query{Tenant: l.run.Tenant, Prefix: string(l.run.ID) + "/"})
	for _, r := range found {
		l.replicas[r.Value.Fence.Replica] = r
	}
	return err
}

// A sight is what a look saw: an event, and what is to be said of it.
type sight struct {
	event  jobengine.Event
	why    string
	exit   *int
	launch *mlaas.Launch // with ReplicasReady
	rule   *effect       // with RuleRestart and RuleResize: what else it changes
	checks []store.Row   // that what was seen still stands at the commit
}

// see says what is true of the run now. Where several things are, the first
// here wins: that the workers are done stands against everything that comes
// after, so that a run whose program has ended well is never run again.
func (l *look) see(ctx context.Context, fired *mlaas.RuleFired) (sight, error) {
	st := &l.state
	switch st.State {
	case mlaas.Created:
		if l.run.Wanted == mlaas.WantStop {
			return sight{event: jobengine.StopAsked, why: l.stopped()}, nil
		}
		if err := codeengine.Check(l.run); err != nil {
			return sight{event: jobengine.StartRefused, why: sentence(err)}, nil
		}
		return sight{event: jobengine.RunAsked}, nil
	case mlaas.Queued, mlaas.Starting, mlaas.Running, mlaas.Resizing: // in line: of the attempt whose replicas still end
		if s, done := l.done(); done {
			return s, nil
		}
	}
	if l.run.Wanted == mlaas.WantStop && st.State != mlaas.Stopping && !st.State.Final() {
		return sight{event: jobengine.StopAsked, why: l.stopped()}, nil
	}
	if st.State == mlaas.Starting && l.barred() {
		return sight{event: jobengine.RuleRestart, why: "its user lets it on every node again", rule: &effect{}}, nil
	}
	switch st.State {
	case mlaas.Queued:
		if st.Allocation.Cluster == "" {
			return sight{}, nil // admission looks after it
		}
		gone, checks, err := l.gone(ctx)
		if gone || err != nil {
			return sight{event: jobengine.ReplicasGone, checks: checks}, err
		}
	case mlaas.Stopping:
		gone, checks, err := l.gone(ctx)
		if gone || err != nil {
			return sight{event: jobengine.Gone(st.Verdict), checks: checks}, err
		}
	case mlaas.Starting, mlaas.Running:
		if s, ok := l.fault(); ok {
			return s, nil
		}
		if l.c.going[st.Allocation.Cluster] {
			return sight{event: jobengine.ClusterGoes, why: fmt.Sprintf("cluster %s is being removed", st.Allocation.Cluster)}, nil
		}
		if s, ok := l.rule(fired); ok {
			return s, nil
		}
		if s, ok, err := l.start(ctx); ok || err != nil {
			return s, err
		}
	case mlaas.Resizing:
		gone, checks, err := l.gone(ctx)
		if gone || err != nil {
			return sight{event: jobengine.ReplicasGone, checks: checks}, err
		}
		if s, ok := l.rule(fired); ok {
			return s, nil
		}
	default:
		return sight{}, nil
	}
	if l.overdue() {
		return sight{event: jobengine.Overdue}, nil
	}
	return sight{}, nil
}

// overdue reports whether the run's deadline has come. One further ahead than
// any is set was set by a clock that was ahead, or ours went back.
func (l *look) overdue() bool {
	next := l.state.Next
	if l.state.State == mlaas.Running || next.IsZero() {
		return !next.IsZero() && !next.After(l.now)
	}
	return !next.After(l.now) || next.Sub(l.now) > codeengine.Grace(l.run.Spec).Duration()+askAgain
}

// names are the replicas that the run was granted, in the order of their roles.
func (l *look) names() []string {
	var all []string
	for _, role := range mlaas.RoleOrder {
		for i := range l.state.Allocation.Granted[role] {
			all = append(all, mlaas.ReplicaName(role, i))
		}
	}
	return all
}

// replica is what is known of a replica in this attempt; ok is false while
// booster has not heard of the attempt.
func (l *look) replica(name string) (r mlaas.Replica, ok bool) {
	if r := l.replicas[name].Value; r.Epoch == l.state.Epoch {
		return r, r.Epoch > 0
	}
	return mlaas.Replica{}, false
}

// done reports whether chief and workers have all ended well.
func (l *look) done() (sight, bool) {
	n, why := 0, "every worker ended with exit code 0"
	names := l.names()
	if len(names) == 0 { // its attempt gave back what it held; the records of an attempt are written all at once
		names = slices.DeleteFunc(slices.Sorted(maps.Keys(l.replicas)), func(name string) bool { _, ok := l.replica(name); return !ok })
	}
	for _, name := range names {
		r, ok := l.replica(name)
		if role, _, _ := mlaas.SplitReplica(name); role != mlaas.Chief && role != mlaas.Worker && role != mlaas.Kernel {
			continue
		}
		if !ok || r.Status != mlaas.ReplicaSucceeded {
			return sight{}, false
		}
		if r.Role == mlaas.Kernel {
			why = r.Reason
		}
		n++
	}
	zero := 0
	return sight{event: jobengine.WorkersDone, why: why, exit: &zero}, n > 0
}

// gone reports whether nothing of the attempt is left to wait for. A replica
// without a record was never started: the commit checks that it has none
// still. Those of a cluster that is down are not waited for; should they be
// alive, their epoch keeps out whatever they say.
func (l *look) gone(ctx context.Context) (bool, []store.Row, error) {
	var checks []store.Row
	for _, name := range l.names() {
		f, found := l.replicas[name]
		if r, ok := l.replica(name); ok && !r.Status.Final() {
			cluster, _, err := store.Clusters(l.c.DB).Get(ctx, "", l.state.Allocation.Cluster)
			if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
				return false, nil, err
			}
			return !cluster.Up, nil, nil
		} else if !ok {
			row := store.Replicas(l.c.DB).At(l.run.Tenant, store.ReplicaKey(l.run.ID, name), 0)
			if found {
				row.Rev = f.Rev
			}
			checks = append(checks, row)
		}
	}
	return true, checks, nil
}

// fault says what went wrong with the attempt, if anything did. A loss goes
// before a failure: a program that fails because its peer is gone is not at
// fault.
func (l *look) fault() (sight, bool) {
	var failed *mlaas.Replica
	for _, name := range l.names() {
		r, ok := l.replica(name)
		switch {
		case !ok:
		case r.Status == mlaas.ReplicaLost:
			s := l.lost(say(name+" was lost", r.Reason))
			s.rule = l.elsewhere(r)
			return s, true
		case r.Status == mlaas.ReplicaStopped: // nobody here asked for it
			return l.lost(say(name+" was stopped", r.Reason)), true
		case r.Status == mlaas.ReplicaFailed && (failed == nil || before(r.Ended, failed.Ended)):
			failed = &r
		}
	}
	switch {
	case failed != nil && !failed.Program:
		return sight{event: jobengine.StartRefused, why: say(failed.Fence.Replica+" could not start", failed.Reason), exit: failed.ExitCode}, true
	case failed != nil:
		why := failed.Fence.Replica + " failed"
		if code := failed.ExitCode; code != nil && !strings.Contains(failed.Reason, fmt.Sprintf("exit code %d", *code)) {
			why += fmt.Sprintf(" with exit code %d", *code)
		}
		s := l.failed(say(why, failed.Reason), failed.ExitCode)
		if s.event == jobengine.UserFaultSpent {
			s = l.excused(s, *failed)
		}
		return s, true
	}
	if why := l.disagree(); why != "" {
		return sight{event: jobengine.StartRefused, why: why}, true
	}
	switch l.state.State {
	case mlaas.Starting:
		if name, r, waiting := l.unready(); waiting && l.now.Sub(l.began()) >= readyLimit {
			return l.lost(say(fmt.Sprintf("%s was not ready after %s", name, span(readyLimit)), r.Reason)), true
		}
	case mlaas.Running:
		if end := l.timeout(); !end.IsZero() && !l.now.Before(end) {
			return l.failed("the attempt took longer than its limit of "+span(l.run.Spec.Execution.Timeout.Duration()), nil), true
		}
	}
	return sight{}, false
}

// disagree says which replicas run different code; empty: none do. The same
// recipe gives the same code everywhere, unless their Pythons read it otherwise.
func (l *look) disagree() string {
	var first mlaas.Replica
	for _, name := range l.names() {
		r, ok := l.replica(name)
		switch {
		case !ok || r.Prepared == nil:
		case first.Prepared == nil:
			first = r
		case r.Prepared.Digest != first.Prepared.Digest:
			return fmt.Sprintf("%s and %s would run different code: prepared by Python %s it is %s, by Python %s it is %s; state environment.python, or use code.mode plain",
				first.Fence.Replica, name, first.Prepared.Python, first.Prepared.Digest, r.Prepared.Python, r.Prepared.Digest)
		}
	}
	return ""
}

// lost is the end of an attempt by nobody's program.
func (l *look) lost(why string) sight {
	budget := mlaas.DefaultInfrastructureRestarts
	if n := l.run.Spec.Execution.Restarts.Infrastructure; n != nil {
		budget = *n
	}
	if l.state.Restarts.Infrastructure >= budget {
		return sight{event: jobengine.LossSpent, why: why + spent(budget, "a loss")}
	}
	return sight{event: jobengine.Loss, why: why}
}

// failed is the end of an attempt by the user's program.
func (l *look) failed(why string, exit *int) sight {
	budget := mlaas.DefaultUserRestarts
	if n := l.run.Spec.Execution.Restarts.User; n != nil {
		budget = *n
	}
	if l.state.Restarts.User >= budget {
		return sight{event: jobengine.UserFaultSpent, why: why + spent(budget, "a failure"), exit: exit}
	}
	return sight{event: jobengine.UserFault, why: why, exit: exit}
}

// excused is a failure that a rule of the job answers with another attempt. The
// informer tells of it too, but the failure may be seen first.
func (l *look) excused(s sight, r mlaas.Replica) sight {
	for _, x := range l.answers(r) {
		switch again := l.obey(x, r, s.why); again.event {
		case jobengine.RuleRestart:
			return again
		case jobengine.UserFaultSpent:
			return sight{event: s.event, why: again.why, exit: s.exit}
		}
	}
	return s
}

// answers are the rules of the job that begin another attempt because of how r
// has ended.
func (l *look) answers(r mlaas.Replica) (all []mlaas.ActionRule) {
	for _, x := range l.run.Spec.Rules {
		c, err := rule.Compile(x)
		if err != nil || c.Pattern() != nil || x.On.Timed() || !c.Holds(rule.Of(r)) {
			continue
		}
		switch x.Do {
		case mlaas.RuleRestart, mlaas.RuleElsewhere, mlaas.RuleResize:
			all = append(all, x)
		}
	}
	return all
}

// elsewhere is what a rule that restarts elsewhere changes because r was lost:
// the attempt that follows has its reason already.
func (l *look) elsewhere(r mlaas.Replica) *effect {
	for _, x := range l.answers(r) {
		if x.Do == mlaas.RuleElsewhere {
			return away(r)
		}
	}
	return nil
}

// An effect is what a rule, or the user, changes of a run for the attempts that
// follow.
type effect struct {
	role    string
	exclude string // a node on which none of the role may run
	size    int    // how many of the role there are to be
}

// maxExcluded is on how many nodes a role may not run: the newest count.
const maxExcluded = 16

// change makes the effect part of the state.
func (l *look) change(e *effect) {
	st := &l.state
	switch {
	case e == nil:
	case e.exclude != "":
		nodes := slices.DeleteFunc(slices.Clone(st.Excluded[e.role]), func(n string) bool { return n == e.exclude })
		nodes = append(nodes, e.exclude)
		st.Excluded = maps.Clone(st.Excluded)
		if st.Excluded == nil {
			st.Excluded = map[string][]string{}
		}
		st.Excluded[e.role] = nodes[max(0, len(nodes)-maxExcluded):]
	case e.size > 0:
		st.Sizes = maps.Clone(st.Sizes)
		if st.Sizes == nil {
			st.Sizes = map[string]int{}
		}
		st.Sizes[e.role] = e.size
	}
}

// obey is what a rule that begins another attempt amounts to, with what r did
// to set it off. It has the user's budget where one is stated, and otherwise as
// many restarts as a loss has: a rule that always matches must end somewhere.
func (l *look) obey(x mlaas.ActionRule, r mlaas.Replica, saw string) sight {
	budget := mlaas.DefaultInfrastructureRestarts
	if n := l.run.Spec.Execution.Restarts.User; n != nil {
		budget = *n
	}
	begun := l.state.Restarts.User
	does, effect := "restarts the run", (*effect)(nil)
	switch x.Do {
	case mlaas.RuleElsewhere:
		effect = away(r)
		does = "restarts the run elsewhere"
		if effect != nil {
			does = fmt.Sprintf("restarts the run, no %s on node %s", r.Role, r.Node)
		}
	case mlaas.RuleResize:
		if effect = l.resized(x.Resize); effect == nil {
			return sight{} // it has that size
		}
		does = fmt.Sprintf("gives the run %d %s replicas", effect.size, effect.role)
		budget, begun = mlaas.DefaultInfrastructureRestarts, l.state.Restarts.Resize
	}
	switch {
	case x.Once && begun > 0:
		return sight{}
	case begun >= budget && x.Do == mlaas.RuleResize:
		return sight{} // it goes on as large as it is
	case begun >= budget:
		return sight{event: jobengine.UserFaultSpent, why: saw + fmt.Sprintf("; rule %s would restart the run", x.Name) + spent(budget, "a failure")}
	}
	return sight{event: jobengine.RuleRestart, why: say(fmt.Sprintf("rule %s %s", x.Name, does), saw), rule: effect}
}

// away keeps the role of r from the node that it ran on; nil: that is not known.
func away(r mlaas.Replica) *effect {
	if r.Node == "" {
		return nil
	}
	return &effect{role: r.Role, exclude: r.Node}
}

// resized is the size that a rule asks for; nil: the run has it, or has no such
// role.
func (l *look) resized(x *mlaas.Resize) *effect {
	if x == nil {
		return nil
	}
	role := cmp.Or(x.Role, mlaas.Worker)
	now := l.state.Allocation.Granted[role]
	if now == 0 {
		return nil
	}
	to := x.To
	switch {
	case x.By > 1:
		to = int(math.Ceil(float64(now) * x.By))
	case x.By > 0:
		to = int(float64(now) * x.By)
	}
	if to = min(max(to, 1), mlaas.MaxReplicas); to == now {
		return nil
	}
	return &effect{role: role, size: to}
}

// rule says what an action rule that fired in this attempt asks for.
func (l *look) rule(fired *mlaas.RuleFired) (sight, bool) {
	if fired == nil || fired.Epoch != l.state.Epoch {
		return sight{}, false
	}
	i := slices.IndexFunc(l.run.Spec.Rules, func(r mlaas.ActionRule) bool { return r.Name == fired.Rule })
	if i < 0 {
		return sight{}, false
	}
	saw := fired.Saw
	if fired.Replica != "" && !strings.HasPrefix(saw, fired.Replica) { // it may be named there
		saw = say(fired.Replica, fired.Saw)
	}
	switch x := l.run.Spec.Rules[i]; x.Do {
	case mlaas.RuleRestart, mlaas.RuleElsewhere, mlaas.RuleResize:
		r, _ := l.replica(fired.Replica)
		s := l.obey(x, r, saw)
		if s.event == jobengine.RuleRestart && x.Do == mlaas.RuleResize && l.state.State == mlaas.Running {
			s.event = jobengine.ResizeAsked
		}
		return s, s.event != ""
	case mlaas.RuleStop:
		return sight{event: jobengine.RuleStop, why: say(fmt.Sprintf("rule %s stops the run", x.Name), saw)}, true
	}
	return sight{}, false
}

// start says how far the start of the attempt has come.
func (l *look) start(ctx context.Context) (sight, bool, error) {
	if l.state.State != mlaas.Starting {
		return sight{}, false, nil
	}
	if _, _, waiting := l.unready(); waiting {
		return sight{}, false, nil
	}
	started := true
	for _, name := range l.names() {
		r, _ := l.replica(name)
		started = started && r.Program
	}
	if started {
		return sight{event: jobengine.ProgramsStarted}, true, nil
	}
	_, _, err := store.Launches(l.c.DB).Get(ctx, l.run.Tenant, store.LaunchKey(l.run.ID, l.state.Epoch))
	if err == nil || !errors.Is(err, mlaas.ErrNotFound) {
		return sight{}, false, err
	}
	for _, row := range l.batch.Put {
		if row.Key.Kind == "launch" {
			return sight{}, false, nil // a moment ago
		}
	}
	launch, err := l.launch(ctx)
	switch k := mlaas.KindOf(err); {
	case err == nil:
		return sight{event: jobengine.ReplicasReady, launch: &launch}, true, nil
	case k == mlaas.ErrInvalid || k == mlaas.ErrNotFound || k == mlaas.ErrGone:
		return sight{event: jobengine.StartRefused, why: sentence(err)}, true, nil
	default:
		return sight{}, false, err
	}
}

// unready is the first replica that does not wait for code yet.
func (l *look) unready() (name string, r mlaas.Replica, waiting bool) {
	for _, name := range l.names() {
		r, ok := l.replica(name)
		reached := r.Status == mlaas.ReplicaReady || r.Status.After(mlaas.ReplicaReady)
		if !ok || !reached || r.Address == "" || len(r.Ports) < 2 {
			return name, r, true
		}
	}
	return "", mlaas.Replica{}, false
}

// launch is what the replicas are told to do, with all that it names resolved.
func (l *look) launch(ctx context.Context) (mlaas.Launch, error) {
	in := codeengine.Input{Run: l.run, Attempt: l.attempt(), Key: rand.Text()}
	for _, name := range l.names() {
		r, _ := l.replica(name)
		in.Replicas = append(in.Replicas, r)
	}
	env := &l.run.Spec.Environment
	if env.Lock == "" && env.Image == "" {
		lock, _, err := store.Locks(l.c.DB).Get(ctx, l.run.Tenant, string(env.Spec()))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return mlaas.Launch{}, err
		}
		in.Lock = lock.Lock // none yet: the first supervisor resolves it
	}
	for _, d := range l.run.Spec.Data {
		tree, err := l.dataset(ctx, d)
		if err != nil {
			return mlaas.Launch{}, err
		}
		in.Data = append(in.Data, tree)
	}
	return codeengine.Launch(in)
}

// dataset resolves one input. Without a version it is the newest.
func (l *look) dataset(ctx context.Context, d mlaas.Data) (mlaas.DataTree, error) {
	out := mlaas.DataTree{Name: d.Name, Source: d.Source}
	ref, ok := strings.CutPrefix(d.Source, "dataset:")
	if !ok { // the supervisor fetches it
		out.Was = l.fetched(d)
		return out, nil
	}
	name, version, _ := strings.Cut(ref, "@")
	rows, _, err := store.Datasets(l.c.DB).List(ctx, store.Query{Tenant: l.run.Tenant, Prefix: name + "/", Reverse: true})
	if err != nil {
		return out, err
	}
	for _, r := range rows {
		if v := fmt.Sprint(r.Value.Version); version == "" || version == v || version == "v"+v {
			out.Tree = r.Value.Tree
			return out, nil
		}
	}
	return out, fmt.Errorf("data %s: there is no %s, see mlaas data ls: %w", d.Name, ref, mlaas.ErrNotFound)
}

// fetched is what a source gave to an attempt before, if one came so far.
func (l *look) fetched(d mlaas.Data) *mlaas.Fetched {
	for _, name := range slices.Sorted(maps.Keys(l.replicas)) {
		for _, was := range l.replicas[name].Value.Data {
			if was.Name == d.Name && was.Source == d.Source && was.Tree != "" {
				return &was
			}
		}
	}
	return nil
}

const resizes = "the run changes its size"

// do carries a rule out: what becomes of the state, and whom to tell.
func (l *look) do(ctx context.Context, r jobengine.Rule, s sight) error {
	st := &l.state
	st.State = r.To
	l.changed = true
	l.batch.Check = append(l.batch.Check, s.checks...)
	l.c.moved(l.run, r, s.why)
	l.change(s.rule)
	switch r.Do {
	case jobengine.Enqueue:
		st.Reason = "queued: waits for its turn"
		st.Next = l.now.Add(review)
	case jobengine.DeliverCode:
		l.batch.Put = append(l.batch.Put, store.Launches(l.c.DB).Put(*s.launch, 0))
		l.tell(queue.Tell(mlaas.CodeReady{Tenant: l.run.Tenant, Run: l.run.ID, Epoch: st.Epoch, Cluster: st.Allocation.Cluster}))
		l.batch = queue.Traced(l.batch, l.run.Trace) // what brought us here is the news of a replica, which has none
		st.Next = l.now.Add(askAgain)
	case jobengine.Wait:
		st.Reason = l.running()
		if r.From != r.To {
			l.started()
		}
		st.Next = l.now.Add(review)
		if end := l.timeout(); !end.IsZero() {
			st.Next = end
		}
	case jobengine.AskAgain:
		l.ask()
		st.Next = l.now.Add(askAgain)
	case jobengine.Succeed, jobengine.Fail, jobengine.Stop:
		st.Verdict = r.Do.Verdict()
		st.ExitCode = s.exit
		if r.On == jobengine.WorkersDone {
			l.started()
		}
		l.end(s.why)
		if n := len(st.Attempts); n > 0 && r.On == jobengine.WorkersDone {
			st.Attempts[n-1].Reason = s.why // also where a loss was seen first
		}
		st.Reason = s.why + "; ends " + l.left()
		l.unwanted(s.why)
		st.Next = l.now.Add(codeengine.Grace(l.run.Spec).Duration() + askAgain)
	case jobengine.Again:
		switch {
		case r.On == jobengine.Loss:
			st.Restarts.Infrastructure++
		case s.rule != nil && s.rule.size > 0:
			st.Restarts.Resize++
		case r.On == jobengine.ClusterGoes || s.rule != nil && *s.rule == effect{}: // nothing failed: it costs no restart
		default:
			st.Restarts.User++
		}
		l.end(s.why)
		st.Next = l.now.Add(codeengine.Grace(l.run.Spec).Duration() + askAgain) // its replicas should be gone long before
		st.Reason = fmt.Sprintf("%s; attempt %d begins in %s at the earliest, after the replicas of attempt %d have ended", s.why, st.Epoch+1, span(pause(*st)), st.Epoch)
		l.unwanted(s.why)
	case jobengine.Resize:
		st.Reason = "saves its work, to go on with another number of workers"
		if s.why != "" {
			st.Reason = s.why + "; it " + st.Reason
		}
		st.Attempts[len(st.Attempts)-1].Reason = s.why
		l.unwanted(cmp.Or(s.why, resizes))
		st.Next = l.now.Add(codeengine.Grace(l.run.Spec).Duration() + askAgain)
	case jobengine.Free, jobengine.FreeAgain:
		if r.Do == jobengine.FreeAgain {
			st.Restarts.Resize++
			l.end(cmp.Or(l.attempt().Reason, "it changes its size"))
			st.Reason = fmt.Sprintf("gave its replicas back to change its size; attempt %d begins in %s at the earliest", st.Epoch+1, span(pause(*st)))
		}
		if err := l.free(ctx); err != nil {
			return err
		}
		st.Allocation = mlaas.Allocation{Requested: st.Allocation.Requested}
		st.Next = later(l.now, notBefore(*st))
	case jobengine.Finish:
		if err := l.free(ctx); err != nil {
			return err
		}
		st.Ended = new(moment(l.now, *st))
		st.Next = time.Time{}
		st.Reason = l.outcome(s.why)
		return l.notify(ctx)
	default:
		return fmt.Errorf("rule %v: a look cannot do this: %w", r, mlaas.ErrInternal)
	}
	return nil
}

// notify tells that the run has ended, where somebody wants to be told: else it
// would cost each run a message.
func (l *look) notify(ctx context.Context) error {
	if l.run.Number == 0 {
		return nil // it is no run of the job's, but a part of its editor
	}
	wanted, _, err := store.Subscriptions(l.c.DB).List(ctx, store.Query{Tenant: l.run.Tenant, Limit: 1})
	if err == nil && len(wanted) > 0 {
		l.tell(queue.Tell(mlaas.RunEnded{Tenant: l.run.Tenant, Run: l.run.ID}))
	}
	return err
}

func (l *look) tell(m store.Message) { l.batch.Tell = append(l.batch.Tell, m) }

// unwanted ends the replicas of the attempt, if there ever was one.
func (l *look) unwanted(why string) {
	if l.state.Epoch > 0 {
		l.tell(queue.Tell(mlaas.ReplicasUnwanted{Tenant: l.run.Tenant, Run: l.run.ID, Epoch: l.state.Epoch, Cluster: l.attempt().Cluster,
			Grace: codeengine.Grace(l.run.Spec), Reason: why}))
	}
}

// ask says the wish of the run's state once more.
func (l *look) ask() {
	id := mlaas.ReplicasWanted{Tenant: l.run.Tenant, Run: l.run.ID, Epoch: l.state.Epoch, Cluster: l.state.Allocation.Cluster}
	if l.state.State != mlaas.Starting {
		why := l.attempt().Reason
		if why == "" {
			why = resizes // the one reason that an attempt learns when it is over
		}
		l.unwanted(why)
		return
	}
	if _, _, waiting := l.unready(); waiting {
		l.tell(queue.Tell(id))
	} else {
		l.tell(queue.Tell(mlaas.CodeReady(id)))
	}
}

// free gives back what the attempt held of its cluster.
func (l *look) free(ctx context.Context) error {
	if l.state.Allocation.Cluster == "" {
		return nil
	}
	ledger, rev, err := store.Ledgers(l.c.DB).Get(ctx, "", l.state.Allocation.Cluster)
	if errors.Is(err, mlaas.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, held := ledger.Grants[l.run.ID]; held {
		delete(ledger.Grants, l.run.ID)
		l.batch.Put = append(l.batch.Put, store.Ledgers(l.c.DB).Put(ledger, rev))
	}
	return nil
}

// attempt is the newest one.
func (l *look) attempt() mlaas.Attempt {
	if n := len(l.state.Attempts); n > 0 {
		return l.state.Attempts[n-1]
	}
	return mlaas.Attempt{}
}

func (l *look) began() time.Time { return l.attempt().Began }

// end writes why the newest attempt is over, unless that is known.
func (l *look) end(why string) {
	if n := len(l.state.Attempts); n > 0 && l.state.Attempts[n-1].Ended == nil {
		l.state.Attempts[n-1].Ended = new(moment(l.now, l.state))
		l.state.Attempts[n-1].Reason = why
	}
}

// started writes when the run's program ran for the first time.
func (l *look) started() {
	if l.state.Started != nil {
		return
	}
	first := moment(l.now, l.state)
	for _, name := range l.names() {
		if r, ok := l.replica(name); ok && r.Started != nil && r.Started.Before(first) {
			first = *r.Started
		}
	}
	if first.Before(l.state.Queued) {
		first = l.state.Queued // a booster's clock is behind ours
	}
	l.state.Started = &first
}

// timeout is when the attempt has run for too long; zero where it may run for
// ever. Supervisors end their programs at the limit and say so; this comes
// after their grace, for one that does not.
func (l *look) timeout() time.Time {
	limit := l.run.Spec.Execution.Timeout.Duration()
	if limit <= 0 {
		return time.Time{}
	}
	last := l.began()
	for _, name := range l.names() {
		if r, ok := l.replica(name); ok && r.Started != nil && r.Started.After(last) {
			last = *r.Started
		}
	}
	return last.Add(limit + codeengine.Grace(l.run.Spec).Duration() + lookAgain)
}

// pause is how long the run waits before it begins again: longer each time it
// did not last.
func pause(st mlaas.RunState) time.Duration {
	short := 0
	for _, a := range slices.Backward(st.Attempts) {
		if a.Ended != nil && a.Ended.Sub(a.Began) >= shortAttempt {
			break
		}
		short++
	}
	wait := firstPause
	for ; short > 1 && wait < longestPause; short-- {
		wait *= 2
	}
	return min(wait, longestPause)
}

// notBefore is when a run may be placed again; zero for one that never was.
func notBefore(st mlaas.RunState) time.Time {
	n := len(st.Attempts)
	if n == 0 || st.Attempts[n-1].Ended == nil {
		return time.Time{}
	}
	return st.Attempts[n-1].Ended.Add(pause(st))
}

// pauses reports whether a run is not to be placed yet. A pause that seems
// longer than any can be is over: it was begun by a clock that was ahead.
func pauses(st mlaas.RunState, now time.Time) bool {
	left := notBefore(st).Sub(now)
	return left > 0 && left <= pause(st)
}

// moment is now, or the last moment that the state of a run tells of where that
// is later: the clocks of several contractors differ, and any may jump, but
// nothing takes less than no time.
func moment(now time.Time, st mlaas.RunState) time.Time {
	last := st.Queued
	for _, t := range []*time.Time{st.Started, st.Ended} {
		if t != nil && t.After(last) {
			last = *t
		}
	}
	if n := len(st.Attempts); n > 0 {
		if a := st.Attempts[n-1]; a.Began.After(last) {
			last = a.Began
		}
		if a := st.Attempts[n-1]; a.Ended != nil && a.Ended.After(last) {
			last = *a.Ended
		}
	}
	if last.After(now) {
		return last
	}
	return now
}

func later(now, t time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return now.Add(review)
}
