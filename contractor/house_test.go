package contractor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A judge is a *testing.T or a *rapid.T.
type judge interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
	Context() context.Context
}

// A house is a contractor over a store, with the hands of the test in the
// place of management and booster.
type house struct {
	t    judge
	db   *recorder
	c    *Contractor
	time time.Time
	line line
	ids  []mlaas.RunID // in the order in which they were asked for
}

// A recorder remembers what was told with commits that held.
type recorder struct {
	store.Driver
	mu   sync.Mutex
	told []store.Message
}

func (r *recorder) Commit(ctx context.Context, b store.Batch) error {
	err := r.Driver.Commit(ctx, b)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, b.Tell...)
	}
	return err
}

func newHouse(t judge, db store.Driver) *house {
	h := &house{t: t, db: &recorder{Driver: db}, time: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)}
	h.c = &Contractor{DB: h.db, Now: func() time.Time { return h.time }}
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) ctx() context.Context { return h.t.Context() }

// put writes v over whatever is there, as its writing service would.
func put[T any](h *house, records store.Records[T], v T) {
	h.t.Helper()
	tenant, id := records.Key(v)
	_, rev, err := records.Get(h.ctx(), tenant, id)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		h.t.Fatal(err)
	}
	h.must(h.db.Driver.Commit(h.ctx(), store.Batch{Put: []store.Row{records.Put(v, rev)}}))
}

func (h *house) cluster(name, cpu, memory string, gpus int) {
	h.t.Helper()
	c := mlaas.Cluster{Name: name, Up: true, Limits: []string{}}
	var err error
	c.Capacity.CPU, err = mlaas.ParseCPU(cpu)
	h.must(err)
	c.Capacity.Memory, err = mlaas.ParseBytes(memory)
	h.must(err)
	c.Capacity.GPU = mlaas.GPU{Count: gpus}
	if gpus > 0 {
		c.Capacity.GPU.Kind = "h200"
	}
	put(h, store.Clusters(h.db), c)
}

func (h *house) down(name, why string) {
	h.t.Helper()
	c, _, err := store.Clusters(h.db).Get(h.ctx(), "", name)
	h.must(err)
	c.Up, c.Reason = why == "", why
	put(h, store.Clusters(h.db), c)
}

// ask is management: a run of a job named so, with a spec in JSON.
func (h *house) ask(name, spec string) mlaas.RunID {
	h.t.Helper()
	run := mlaas.Run{ID: mlaas.RunID(fmt.Sprintf("r%03d", len(h.ids))), Tenant: mlaas.DefaultTenant, Job: "job-" + mlaas.JobID(name), JobName: name, Number: 1,
		Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Wanted: mlaas.WantRun, Created: h.time}
	h.must(json.Unmarshal([]byte(spec), &run.Spec))
	run.Spec.Name = name
	run.Spec.Complete()
	h.ids = append(h.ids, run.ID)
	put(h, store.Runs(h.db), run)
	return run.ID
}

func (h *house) stop(id mlaas.RunID, why string) {
	h.t.Helper()
	run, _, err := store.Runs(h.db).Get(h.ctx(), mlaas.DefaultTenant, string(id))
	h.must(err)
	run.Wanted, run.Why = mlaas.WantStop, why
	put(h, store.Runs(h.db), run)
}

// turn looks at each run as if a message had come, and serves the line.
func (h *house) turn() {
	h.t.Helper()
	for _, id := range h.ids {
		h.must(h.c.settle(h.ctx(), mlaas.DefaultTenant, id))
	}
	h.must(h.c.admit(h.ctx(), &h.line))
}

// later lets time pass, and turns.
func (h *house) later(d time.Duration) {
	h.t.Helper()
	h.time = h.time.Add(d)
	h.turn()
}

func (h *house) state(id mlaas.RunID) mlaas.RunState {
	h.t.Helper()
	s, _, err := store.RunStates(h.db).Get(h.ctx(), mlaas.DefaultTenant, string(id))
	if errors.Is(err, mlaas.ErrNotFound) {
		return mlaas.RunState{State: mlaas.Created}
	}
	h.must(err)
	return s
}

// is checks where a run stands and what is said of it.
func (h *house) is(id mlaas.RunID, want mlaas.State, reason string) {
	h.t.Helper()
	s := h.state(id)
	if s.State != want {
		h.t.Fatalf("run %s is %s (%s), want %s", id, s.State, s.Reason, want)
	}
	if reason != "" && s.Reason != reason {
		h.t.Errorf("run %s says\n  %q, want\n  %q", id, s.Reason, reason)
	}
}

// set is booster: a replica of the run's attempt has this status now.
func (h *house) set(id mlaas.RunID, name string, status mlaas.ReplicaStatus, change ...func(*mlaas.Replica)) {
	h.t.Helper()
	s := h.state(id)
	role, index, err := mlaas.SplitReplica(name)
	h.must(err)
	r, _, err := store.Replicas(h.db).Get(h.ctx(), mlaas.DefaultTenant, store.ReplicaKey(id, name))
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		h.t.Fatal(err)
	}
	if r.Epoch != s.Epoch {
		r = mlaas.Replica{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: id, Epoch: s.Epoch, Replica: name, Incarnation: 1},
			Role: role, Index: index, Cluster: s.Allocation.Cluster, Node: "box", Asked: h.time}
	}
	r.Status, r.Reason = status, ""
	switch status {
	case mlaas.ReplicaReady:
		r.Address, r.Ports, r.Ready = "127.0.0.1", []int{4000 + 10*index + len(role), 4005 + 10*index + len(role)}, &h.time
	case mlaas.ReplicaRunning:
		r.Program, r.Started = true, new(h.time)
	case mlaas.ReplicaSucceeded:
		r.Program, r.ExitCode = true, new(0)
	}
	if status.Final() {
		r.Ended = new(h.time)
	}
	for _, f := range change {
		f(&r)
	}
	put(h, store.Replicas(h.db), r)
}

// all sets every replica that the run was granted.
func (h *house) all(id mlaas.RunID, status mlaas.ReplicaStatus) {
	h.t.Helper()
	for _, role := range mlaas.RoleOrder {
		for i := range h.state(id).Allocation.Granted[role] {
			h.set(id, mlaas.ReplicaName(role, i), status)
		}
	}
}

// runs brings a run that was admitted to running.
func (h *house) runs(id mlaas.RunID) {
	h.t.Helper()
	h.all(id, mlaas.ReplicaReady)
	h.turn()
	h.all(id, mlaas.ReplicaRunning)
	h.turn()
	h.is(id, mlaas.Running, "")
}

func because(reason string) func(*mlaas.Replica) {
	return func(r *mlaas.Replica) { r.Reason = reason }
}

func exit(code int, program bool) func(*mlaas.Replica) {
	return func(r *mlaas.Replica) { r.ExitCode, r.Program = &code, program }
}

// heard is what was told since the last time, in words.
func (h *house) heard() string {
	var all []string
	for _, m := range h.db.told {
		var body struct {
			Run    string
			Epoch  int
			Reason string
		}
		h.must(json.Unmarshal(m.Body, &body))
		all = append(all, strings.TrimSuffix(fmt.Sprintf("%s %s/%d %s", m.Subject, body.Run, body.Epoch, body.Reason), " "))
	}
	h.db.told = nil
	return strings.Join(all, "\n")
}

func (h *house) hears(want ...string) {
	h.t.Helper()
	if got := h.heard(); got != strings.Join(want, "\n") {
		h.t.Errorf("told\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// held is what the ledger of a cluster says, as "run:cpu".
func (h *house) held(cluster string) string {
	h.t.Helper()
	l, _, err := store.Ledgers(h.db).Get(h.ctx(), "", cluster)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		h.t.Fatal(err)
	}
	var all []string
	for _, id := range slices.Sorted(maps.Keys(l.Grants)) {
		all = append(all, fmt.Sprintf("%s:%s", id, l.Grants[id].Total.CPU))
	}
	return strings.Join(all, " ")
}

func (h *house) checkpoint(id mlaas.RunID, epoch int, step int64, replica, tree string) {
	h.t.Helper()
	put(h, store.Checkpoints(h.db), mlaas.Checkpoint{Tenant: mlaas.DefaultTenant, Run: id, Epoch: epoch, Step: step, Replica: replica, Tree: mlaas.Digest(tree), Created: h.time})
}

// fire is booster's informer: a rule of the job matched.
func (h *house) fire(m mlaas.RuleFired) {
	h.t.Helper()
	m.Tenant = mlaas.DefaultTenant
	h.must(h.c.commit(h.ctx(), func() (store.Batch, error) { return h.c.ruleFired(h.ctx(), m) }))
}
