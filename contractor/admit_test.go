package contractor

import (
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const (
	oneCore = `{"roles": {"worker": {"cpu": 1, "memory": "1Gi"}}}`
	three   = `{"roles": {"worker": {"cpu": 3, "memory": "1Gi"}}}`
	four    = `{"roles": {"worker": {"cpu": 4, "memory": "1Gi"}}}`
)

// A cluster has GPUs of several kinds: each is promised apart, and what waits for
// one kind keeps nothing of another.
func TestKindsOfGPU(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("many", "64", "256Gi", 0)
	c, _, err := store.Clusters(h.db).Get(h.ctx(), "", "many")
	h.must(err)
	c.Capacity.GPU = mlaas.GPU{Count: 4, Kind: "t4"}
	c.GPUs = []mlaas.GPU{{Count: 2, Kind: "h100"}, {Count: 4, Kind: "t4"}}
	put(h, store.Clusters(h.db), c)
	ask := func(name, gpu string) mlaas.RunID {
		return h.ask(name, `{"roles": {"worker": {"replicas": "1-1", "cpu": 1, "gpu": `+gpu+`}}}`)
	}
	first := ask("first", `{"count": 2, "kind": "h100"}`)
	second := ask("second", `{"count": 1, "kind": "H100"}`)
	third := ask("third", `{"count": 3, "kind": "t4"}`)
	fourth := ask("fourth", `{"count": 2, "kind": "t4"}`)
	any := ask("any", `1`)
	h.turn()
	h.is(first, mlaas.Starting, "")
	h.is(second, mlaas.Queued, "queued, position 1: needs 1 GPU (0 free of 2); first/1 holds 2, ends unknown")
	h.is(third, mlaas.Starting, "")
	h.is(fourth, mlaas.Queued, "queued, position 2: needs 2 GPU (1 free of 4); third/1 holds 3, ends unknown")
	if s := h.state(any); s.State != mlaas.Queued {
		t.Errorf("one of any kind is %s, but what is left of the kind that there is most of is set aside", s.State)
	}
	other := ask("other", `{"count": 1, "kind": "a100"}`)
	big := ask("big", `{"count": 3, "kind": "h100"}`)
	h.turn()
	h.is(other, mlaas.Failed, "needs a GPU of kind a100 for one worker; no cluster that is large enough has one")
	h.is(big, mlaas.Failed, "needs 3 GPU for one worker; the largest cluster, many, has 2")
	h.stop(third, "enough")
	h.turn()
	h.all(third, mlaas.ReplicaStopped)
	h.turn()
	h.is(fourth, mlaas.Starting, "")
}

// done ends a run's only worker, and turns.
func (h *house) done(id mlaas.RunID) {
	h.t.Helper()
	h.all(id, mlaas.ReplicaSucceeded)
	h.turn()
	h.is(id, mlaas.Succeeded, "")
}

// The line is served from its head; what the head waits for is not given away.
func TestLine(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	a := h.ask("a", three)
	h.later(time.Second)
	b := h.ask("b", four)
	h.later(time.Second)
	c := h.ask("c", oneCore)
	h.later(time.Second)
	h.is(a, mlaas.Starting, "")
	h.is(b, mlaas.Queued, "queued, position 1: needs 4 CPU (1 free of 4); a/1 holds 3, ends unknown")
	h.is(c, mlaas.Queued, "queued, position 2: needs 1 CPU, which b/1 before it waits for")
	h.turn()
	if got := h.held("local"); got != "r000:3" {
		t.Errorf("the ledger holds %q", got)
	}
	h.runs(a)
	h.done(a)
	h.is(b, mlaas.Starting, "")
	h.is(c, mlaas.Queued, "queued, position 1: needs 1 CPU (0 free of 4); b/1 holds 4, ends unknown")
	h.runs(b)
	h.done(b)
	h.is(c, mlaas.Starting, "")
}

func TestPriority(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	h.ask("a", four)
	h.turn()
	b := h.ask("b", four)
	h.later(time.Second)
	c := h.ask("c", strings.TrimSuffix(four, "}")+`, "execution": {"priority": 5}}`)
	h.turn()
	h.is(b, mlaas.Queued, "queued, position 2: needs 4 CPU (0 free of 4); a/1 holds 4, ends unknown")
	h.is(c, mlaas.Queued, "queued, position 1: needs 4 CPU (0 free of 4); a/1 holds 4, ends unknown")
}

// A run passes where it takes nothing of what the one before it waits for.
func TestPasses(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "8", "16Gi", 1)
	gpu := `{"roles": {"worker": {"cpu": 1, "memory": "1Gi", "gpu": 1}}}`
	a := h.ask("a", gpu)
	h.turn()
	b := h.ask("b", gpu)
	h.turn()
	c := h.ask("c", oneCore)
	h.turn()
	h.is(a, mlaas.Starting, "")
	h.is(b, mlaas.Queued, "queued, position 1: needs 1 GPU (0 free of 1); a/1 holds 1, ends unknown")
	h.is(c, mlaas.Starting, "")

	h.cluster("west", "2", "4Gi", 0) // too small for what waits at local
	d := h.ask("d", `{"roles": {"worker": {"cpu": 8, "memory": "1Gi"}}}`)
	h.later(time.Second)
	e := h.ask("e", oneCore)
	h.turn()
	h.is(d, mlaas.Queued, "queued, position 2: needs 8 CPU (6 free of 8); a/1 holds 1, ends unknown; c/1 holds 1, ends unknown")
	h.is(e, mlaas.Starting, "")
	if s := h.state(e); s.Allocation.Cluster != "west" {
		t.Errorf("e is on %s", s.Allocation.Cluster)
	}
}

func TestNever(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"cpu", `{"roles": {"worker": {"cpu": 64}}}`, "needs 64 CPU for one worker; the largest cluster, local, has 4"},
		{"memory", `{"roles": {"worker": {"memory": "1.5Ti"}}}`, "needs 1536Gi memory for one worker; the largest cluster, local, has 16Gi"},
		{"gpus", `{"roles": {"worker": {"gpu": 2}}}`, "needs 2 GPU for one worker; the largest cluster, local, has 1"},
		{"kind", `{"roles": {"worker": {"gpu": {"count": 1, "kind": "a100"}}}}`, "needs a GPU of kind a100 for one worker; no cluster that is large enough has one"},
		{"together", `{"roles": {"ps": {"replicas": 1, "cpu": "500m"}, "worker": {"replicas": {"min": 5, "max": 9}, "cpu": 1}}}`, "needs 5.5 CPU for 5 workers and 1 ps; the largest cluster, local, has 4"},
		{"no two things in one place", `{"roles": {"worker": {"cpu": 3, "memory": "10Gi"}}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, open(t))
			h.cluster("local", "4", "16Gi", 1)
			h.cluster("east", "2", "8Gi", 0)
			id := h.ask("mnist", tt.spec)
			h.turn()
			if tt.want == "" {
				h.is(id, mlaas.Starting, "")
				return
			}
			h.is(id, mlaas.Failed, tt.want)
			if s := h.state(id); s.Epoch != 0 || s.Ended == nil || !s.Next.IsZero() {
				t.Errorf("it ended as %+v", s)
			}
		})
	}
	h := newHouse(t, open(t))
	h.cluster("small", "8", "1Gi", 0)
	h.cluster("thin", "1", "16Gi", 0)
	id := h.ask("mnist", `{"roles": {"worker": {"cpu": 4, "memory": "8Gi"}}}`)
	h.turn()
	h.is(id, mlaas.Failed, "needs for 1 worker more than any one cluster has")
}

// A run is given what the largest cluster could hold; the rest is recorded.
func TestRemainder(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	h.cluster("east", "2", "16Gi", 0)
	first := h.ask("first", oneCore)
	h.turn()
	h.runs(first)
	if s := h.state(first); s.Allocation.Cluster != "local" {
		t.Errorf("the first is on %s, which has less free", s.Allocation.Cluster)
	}
	id := h.ask("wide", `{"roles": {"ps": {"replicas": 1, "cpu": "500m"}, "worker": {"replicas": 10, "cpu": 1}}}`)
	h.turn()
	h.is(id, mlaas.Queued, "queued, position 1: needs 3.5 CPU (3 free of 4); first/1 holds 1, ends unknown")
	h.done(first)
	h.runs(id)
	h.is(id, mlaas.Running, "running 4 replicas on local, 3 of 10 workers: the cluster can hold no more")
	a := h.state(id).Allocation
	if a.Requested["worker"] != 10 || a.Granted["worker"] != 3 || a.Remainder["worker"] != 7 || a.Granted["ps"] != 1 || a.Total.CPU != 3500 {
		t.Errorf("the allocation is %+v", a)
	}
}

func TestClusterDown(t *testing.T) {
	h := newHouse(t, open(t))
	id := h.ask("mnist", oneCore)
	h.turn()
	h.is(id, mlaas.Queued, "queued, position 1: no cluster is connected")
	h.cluster("local", "4", "16Gi", 0)
	h.down("local", "its certificate expired")
	h.turn()
	h.is(id, mlaas.Queued, "queued, position 1: cluster local, which could hold it, is down: its certificate expired")
	h.down("local", "")
	h.turn()
	h.is(id, mlaas.Starting, "")
}

func TestHolders(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	limited := h.ask("limited", `{"roles": {"worker": {"cpu": 2}}, "execution": {"timeout": "1h", "grace": 30}}`)
	h.turn()
	h.runs(limited)
	h.ask("b", `{"roles": {"worker": {"cpu": "600m"}}}`)
	h.ask("c", `{"roles": {"worker": {"cpu": "500m"}}}`)
	h.ask("d", `{"roles": {"worker": {"cpu": "400m"}}}`)
	h.turn()
	id := h.ask("mnist", `{"roles": {"worker": {"cpu": 3, "memory": "15Gi"}}}`)
	h.turn()
	h.is(id, mlaas.Queued, "queued, position 1: needs 3 CPU (0.5 free of 4) and 15Gi memory (12Gi free of 16Gi); limited/1 holds 2, ends by Nov 23 10:01 UTC at the latest; b/1 holds 0.6, ends unknown; c/1 holds 0.5, ends unknown; and 1 more")

	other, _, err := store.Runs(h.db).Get(t.Context(), mlaas.DefaultTenant, string(limited))
	h.must(err)
	other.ID, other.Tenant = "other", "spies"
	put(h, store.Runs(h.db), other)
	put(h, store.Ledgers(h.db), mlaas.Ledger{Cluster: "local", Grants: map[mlaas.RunID]mlaas.Grant{"other": {Tenant: "spies", Epoch: 1, Total: mlaas.Resources{CPU: 4000}}}})
	h.turn()
	h.is(id, mlaas.Queued, "queued, position 1: needs 3 CPU (0 free of 4); a run of another team holds 4, ends unknown")
}

// A thousand waiting runs cost one look each, and are not written again unless
// what they are told changes.
func TestLongLine(t *testing.T) {
	h := newHouse(t, newMemory())
	h.cluster("local", "4", "16Gi", 0)
	a := h.ask("a", four)
	h.turn()
	for range 150 {
		h.ask("b", four)
	}
	h.turn()
	h.is(h.ids[100], mlaas.Queued, "queued, position 100: needs 4 CPU (0 free of 4); a/1 holds 4, ends unknown")
	h.is(h.ids[101], mlaas.Queued, "queued behind more than 100 runs")
	commits := func() int64 { s, _ := h.db.Stats(t.Context()); return s.Seq }
	before := commits()
	h.turn()
	if n := commits() - before; n != 0 {
		t.Errorf("%d commits though nothing changed", n)
	}
	h.runs(a)
	h.done(a)
	h.is(h.ids[1], mlaas.Starting, "")
	h.is(h.ids[101], mlaas.Queued, "queued, position 100: needs 4 CPU (0 free of 4); b/1 holds 4, ends unknown")
}

// Two contractors that serve the line at once never promise a core twice.
func TestTwoContractors(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	for range 8 {
		h.ask("a", oneCore)
	}
	for _, id := range h.ids {
		h.must(h.c.settle(t.Context(), mlaas.DefaultTenant, id))
	}
	failed := make(chan error, 3)
	for range 3 {
		go func() { failed <- h.c.admit(t.Context(), &line{}) }()
	}
	for range 3 {
		h.must(<-failed)
	}
	h.must(h.c.admit(t.Context(), &h.line))
	l, _, err := store.Ledgers(h.db).Get(t.Context(), "", "local")
	h.must(err)
	if len(l.Grants) != 4 {
		t.Errorf("%d runs were admitted, 4 fit", len(l.Grants))
	}
}
