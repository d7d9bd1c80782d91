package contractor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const hung = `"rules": [{"name": "hung", "on": {"noStep": "10m"}, "do": "restart-elsewhere"}]`

// node makes a cluster a single node, as this machine is.
func (h *house) node(cluster, node string) {
	h.t.Helper()
	c, _, err := store.Clusters(h.db).Get(h.ctx(), "", cluster)
	h.must(err)
	c.Node = node
	put(h, store.Clusters(h.db), c)
}

// A rule that restarts elsewhere keeps the role away from the node, attempt
// after attempt, and the run goes to another cluster where its own is that node.
func TestRestartElsewhere(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("big", "8", "16Gi", 0)
	h.node("big", "box")
	h.cluster("other", "4", "16Gi", 0)
	h.node("other", "shed")
	id := h.ask("mnist", `{"roles": {"worker": {"replicas": "2-2"}}, `+hung+`}`)
	h.turn()
	h.runs(id)
	if c := h.state(id).Allocation.Cluster; c != "big" {
		t.Fatalf("it runs on %s", c)
	}
	h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-1", Rule: "hung", Saw: "worker-1 made no step for 10m0s"})
	h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-1", Rule: "hung", Saw: "worker-1 made no step for 10m0s"})
	h.is(id, mlaas.Queued, "rule hung restarts the run, no worker on node box: worker-1 made no step for 10m0s; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended")
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.later(time.Second)
	s := h.state(id)
	if s.Allocation.Cluster != "other" || !slices.Equal(s.Excluded["worker"], []string{"box"}) || s.Restarts.User != 1 {
		t.Fatalf("the second attempt is on %s, excluded %v, restarts %+v", s.Allocation.Cluster, s.Excluded, s.Restarts)
	}
	// There as well: no node is left, and it says so.
	h.runs(id)
	r, _, err := store.Replicas(h.db).Get(t.Context(), mlaas.DefaultTenant, store.ReplicaKey(id, "worker-0"))
	h.must(err)
	r.Node = "shed"
	put(h, store.Replicas(h.db), r)
	h.fire(mlaas.RuleFired{Run: id, Epoch: 2, Replica: "worker-0", Rule: "hung", Saw: "worker-0 made no step for 10m0s"})
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.later(time.Minute)
	if s := h.state(id); s.State != mlaas.Failed || s.Reason[:3] != "no " {
		t.Errorf("%s: %s", s.State, s.Reason)
	}
	h.is(id, mlaas.Failed, "no worker may run on node shed, as a rule of its job says, and there is no other")
}

// The reason of a run says where rules keep it from. Where its user lets it on
// every node again, one that waits for another node begins anew, at no cost, and
// one that runs goes on.
func TestAnywhere(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("many", "8", "16Gi", 0)
	id := h.ask("mnist", `{"roles": {"worker": {"replicas": "2-2"}}, `+hung+`}`)
	h.turn()
	h.runs(id)
	anywhere := func() {
		t.Helper()
		r, _, err := store.Runs(h.db).Get(h.ctx(), mlaas.DefaultTenant, string(id))
		h.must(err)
		r.Anywhere++
		put(h, store.Runs(h.db), r)
		h.turn()
	}
	h.set(id, "worker-1", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Node = "n7" })
	h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-1", Rule: "hung", Saw: "worker-1 made no step for 10m0s"})
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.later(time.Second)
	h.set(id, "worker-0", mlaas.ReplicaPending, because("the cluster has no place for it"), func(r *mlaas.Replica) { r.Exclude = []string{"n7"} })
	h.turn()
	h.is(id, mlaas.Starting, "starting on many: 0 of 2 replicas ready; worker-0: the cluster has no place for it; no worker on node n7, as a rule says; attempt 2, from the beginning, as there is no checkpoint, because rule hung restarts the run, no worker on node n7: worker-1 made no step for 10m0s")
	anywhere()
	h.is(id, mlaas.Queued, "its user lets it on every node again; attempt 3 begins in 2s at the earliest, after the replicas of attempt 2 have ended")
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.later(time.Minute)
	h.runs(id)
	s := h.state(id)
	if s.State != mlaas.Running || s.Excluded != nil || s.Restarts != (mlaas.Restarts{User: 1}) || strings.Contains(s.Reason, "as a rule says") {
		t.Errorf("%s: %s; excluded %v, restarts %+v", s.State, s.Reason, s.Excluded, s.Restarts)
	}
	anywhere()
	if s := h.state(id); s.State != mlaas.Running || s.Epoch != 3 {
		t.Errorf("one that runs is %s in attempt %d: %s", s.State, s.Epoch, s.Reason)
	}
}

// How a replica was lost is known to contractor before the rule's message
// comes: the node is excluded all the same, and the loss counts as one.
func TestLostElsewhere(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("many", "8", "16Gi", 0)
	id := h.ask("mnist", `{"roles": {"worker": {"replicas": "2-2"}, "ps": {"replicas": 1}}, "rules": [{"name": "node", "on": {"nodeLost": true}, "do": "restart-elsewhere"}]}`)
	h.turn()
	h.runs(id)
	h.set(id, "worker-1", mlaas.ReplicaLost, because("node n7 is gone"), func(r *mlaas.Replica) { r.Node, r.NodeLost = "n7", true })
	h.turn()
	h.is(id, mlaas.Queued, "worker-1 was lost: node n7 is gone; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended")
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.later(time.Second)
	s := h.state(id)
	if s.State != mlaas.Starting || !slices.Equal(s.Excluded["worker"], []string{"n7"}) || s.Excluded["ps"] != nil || s.Restarts != (mlaas.Restarts{Infrastructure: 1}) {
		t.Errorf("%s, excluded %v, %+v", s.State, s.Excluded, s.Restarts)
	}
}

// A rule that resizes lets the run save its work; the next attempt has the size.
func TestRuleResizes(t *testing.T) {
	tests := []struct {
		name, resize string
		role         string
		granted      map[string]int // of the second attempt; nil: nothing happens
		why          string
	}{
		{"to fewer", `{"to": 2}`, "worker", map[string]int{"worker": 2, "ps": 1}, "rule smaller gives the run 2 worker replicas"},
		{"by a half, rounded down", `{"by": 0.5}`, "worker", map[string]int{"worker": 1, "ps": 1}, "rule smaller gives the run 1 worker replicas"},
		{"to more", `{"by": 1.5}`, "worker", map[string]int{"worker": 5, "ps": 1}, "rule smaller gives the run 5 worker replicas"},
		{"to more than there is room for", `{"to": 100}`, "worker", map[string]int{"worker": 12, "ps": 1}, "rule smaller gives the run 100 worker replicas"},
		{"another role", `{"role": "ps", "to": 2}`, "ps", map[string]int{"worker": 3, "ps": 2}, "rule smaller gives the run 2 ps replicas"},
		{"to what it has", `{"to": 3}`, "worker", nil, ""},
		{"a role that it does not have", `{"role": "evaluator", "to": 3}`, "evaluator", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, open(t))
			h.cluster("local", "13", "64Gi", 0)
			id := h.ask("mnist", `{"roles": {"worker": {"replicas": "1-3", "cpu": 1}, "ps": {"replicas": 1, "cpu": 1}},
				"rules": [{"name": "smaller", "on": {"log": "NCCL"}, "do": "resize", "resize": `+tt.resize+`}]}`)
			h.turn()
			h.runs(id)
			h.heard()
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "smaller", Saw: "worker-0 wrote: NCCL"})
			if tt.granted == nil {
				h.is(id, mlaas.Running, "")
				h.hears()
				return
			}
			h.is(id, mlaas.Resizing, tt.why+": worker-0 wrote: NCCL; it saves its work, to go on with another number of workers")
			h.hears("ReplicasUnwanted r000/1 " + tt.why + ": worker-0 wrote: NCCL")
			h.checkpoint(id, 1, 70, "worker-0", "sha256:70")
			h.all(id, mlaas.ReplicaStopped)
			h.turn()
			h.later(time.Second)
			s := h.state(id)
			if s.State != mlaas.Starting || s.Epoch != 2 || s.Restarts != (mlaas.Restarts{Resize: 1}) || s.Attempts[1].Step != 70 || s.Attempts[0].Reason != tt.why+": worker-0 wrote: NCCL" {
				t.Fatalf("%s: %+v", s.State, s)
			}
			for role, n := range tt.granted {
				if s.Allocation.Granted[role] != n {
					t.Errorf("granted %v, want %v", s.Allocation.Granted, tt.granted)
				}
			}
			run, _, err := store.Runs(h.db).Get(t.Context(), mlaas.DefaultTenant, string(id))
			h.must(err)
			if run.Spec.Roles["worker"].Replicas.Max != 3 {
				t.Error("the wish itself was changed")
			}
		})
	}
}

// A failure that a rule answers by another size needs no budget for failures.
func TestResizeInsteadOfFailing(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", `{"roles": {"worker": {"replicas": "1-4", "cpu": 1}}, "rules": [{"name": "less", "on": {"oom": true}, "do": "resize", "resize": {"by": 0.5}}]}`)
	h.turn()
	for _, want := range []int{4, 2, 1} {
		h.runs(id)
		if n := h.state(id).Allocation.Granted["worker"]; n != want {
			t.Fatalf("granted %d workers, want %d", n, want)
		}
		h.set(id, "worker-0", mlaas.ReplicaFailed, exit(137, true), func(r *mlaas.Replica) { r.OOM = true })
		h.turn()
		for i := range want {
			if name := mlaas.ReplicaName("worker", i); name != "worker-0" {
				h.set(id, name, mlaas.ReplicaStopped)
			}
		}
		h.turn()
		h.later(5 * time.Minute)
	}
	h.is(id, mlaas.Failed, "worker-0 failed with exit code 137")
	if s := h.state(id); s.Restarts != (mlaas.Restarts{Resize: 2}) {
		t.Errorf("restarts %+v", s.Restarts)
	}
}
