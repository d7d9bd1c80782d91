package contractor

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A chance is a house in which anything happens in any order: messages come
// late, twice or never, a contractor commits what it decided long ago, replicas
// fail and get lost, clusters come and go.
type chance struct {
	*house
	memory  *memory
	t       *rapid.T
	final   map[mlaas.RunID]store.Row // as they were when they ended
	epoch   map[mlaas.RunID]int
	done    map[mlaas.RunID]int // the epoch in which every worker ended well
	stale   []store.Batch       // decided, not committed yet
	outages bool
}

func newChance(t *rapid.T) *chance {
	m := newMemory()
	h := &chance{house: newHouse(t, m), memory: m, t: t, final: map[mlaas.RunID]store.Row{}, epoch: map[mlaas.RunID]int{}, done: map[mlaas.RunID]int{}}
	h.cluster("local", "4", "16Gi", 0)
	h.cluster("east", "2", "8Gi", 1)
	return h
}

func (h *chance) some() mlaas.RunID {
	if len(h.ids) == 0 {
		h.t.Skip("no run yet")
	}
	return rapid.SampledFrom(h.ids).Draw(h.t, "run")
}

func (h *chance) replicas() (all []mlaas.Replica) {
	found, err := store.Replicas(h.db).All(h.ctx(), store.Query{Index: "live"})
	h.must(err)
	for _, f := range found {
		all = append(all, f.Value)
	}
	return all
}

// booster does what one message says.
func (h *chance) booster(m store.Message) {
	var id mlaas.ReplicasWanted // the others have its fields
	h.must(json.Unmarshal(m.Body, &id))
	s := h.state(id.Run)
	switch m.Subject {
	case "ReplicasWanted":
		if s.State != mlaas.Starting || s.Epoch != id.Epoch {
			return
		}
		for role, n := range s.Allocation.Granted {
			for i := range n {
				name := mlaas.ReplicaName(role, i)
				r, _, err := store.Replicas(h.db).Get(h.ctx(), id.Tenant, store.ReplicaKey(id.Run, name))
				if errors.Is(err, mlaas.ErrNotFound) || r.Epoch < id.Epoch {
					h.set(id.Run, name, mlaas.ReplicaWanted)
				}
			}
		}
	case "CodeReady":
		for _, r := range h.replicas() {
			if r.Run == id.Run && r.Epoch == id.Epoch && r.Status == mlaas.ReplicaReady && s.Epoch == id.Epoch {
				h.set(id.Run, r.Fence.Replica, mlaas.ReplicaRunning)
			}
		}
	case "ReplicasUnwanted":
		for _, r := range h.replicas() {
			if r.Run == id.Run && r.Epoch <= id.Epoch {
				r.Status = mlaas.ReplicaStopped
				put(h.house, store.Replicas(h.db), r)
			}
		}
	}
}

func (h *chance) actions() map[string]func(*rapid.T) {
	specs := []string{
		`{}`, psAndTwo, oneCore, four,
		`{"roles": {"worker": {"cpu": 99}}}`,
		`{"code": {"mode": "guiding"}}`,
		`{"roles": {"worker": {"replicas": 9, "cpu": 1}}, "execution": {"restarts": {"user": 2, "infrastructure": 2}}}`,
		`{"roles": {"worker": {"gpu": 1}}, "execution": {"priority": 3, "timeout": 60}}`,
		`{"roles": {"chief": {"replicas": 1}, "evaluator": {"replicas": 1}}, "rules": [{"name": "again", "on": {"status": "failed"}, "do": "restart"}, {"name": "halt", "on": {"log": "x"}, "do": "stop"}]}`,
		`{"roles": {"worker": {"replicas": "1-3", "cpu": 1}}, "rules": [{"name": "again", "on": {"noStep": 60}, "do": "restart-elsewhere"}, {"name": "halt", "on": {"log": "x"}, "do": "resize", "resize": {"by": 0.5}}]}`,
	}
	return map[string]func(*rapid.T){
		"ask": func(t *rapid.T) {
			if len(h.ids) > 12 {
				t.Skip("enough")
			}
			h.ask(fmt.Sprint("job", len(h.ids)), rapid.SampledFrom(specs).Draw(t, "spec"))
		},
		"stop":  func(t *rapid.T) { h.stop(h.some(), "") },
		"look":  func(t *rapid.T) { h.must(h.c.settle(h.ctx(), mlaas.DefaultTenant, h.some())) },
		"admit": func(t *rapid.T) { h.must(h.c.admit(h.ctx(), &h.line)) },
		"turn":  func(t *rapid.T) { h.turn() },
		"all": func(t *rapid.T) {
			k := &keeper{c: h.c, next: map[key]time.Time{}}
			h.must(k.all(h.ctx()))
		},
		"time": func(t *rapid.T) {
			h.time = h.time.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second)
		},
		"rule": func(t *rapid.T) {
			h.fire(mlaas.RuleFired{Run: h.some(), Epoch: rapid.IntRange(0, 3).Draw(t, "epoch"), Replica: "worker-0", Rule: rapid.SampledFrom([]string{"again", "halt"}).Draw(t, "rule")})
		},
		"decide": func(t *rapid.T) {
			b, err := h.c.look(h.ctx(), mlaas.DefaultTenant, h.some(), nil)
			h.must(err)
			if !b.Empty() {
				h.stale = append(h.stale, b)
			}
		},
		"commit late": func(t *rapid.T) {
			if len(h.stale) == 0 {
				t.Skip("nothing is late")
			}
			b := h.stale[0]
			h.stale = h.stale[1:]
			if err := h.db.Commit(h.ctx(), b); err != nil && !errors.Is(err, mlaas.ErrConflict) {
				t.Fatal(err)
			}
		},
		"message": func(t *rapid.T) {
			if len(h.memory.waiting) == 0 {
				t.Skip("no message")
			}
			i := rapid.IntRange(0, len(h.memory.waiting)-1).Draw(t, "which")
			m := h.memory.waiting[i]
			how := rapid.SampledFrom([]string{"once", "once", "twice", "never"}).Draw(t, "how often")
			if how != "twice" {
				h.memory.waiting = slices.Delete(h.memory.waiting, i, i+1)
			}
			if how != "never" {
				h.booster(m)
			}
		},
		"replica": func(t *rapid.T) {
			live := h.replicas()
			if len(live) == 0 {
				t.Skip("no replica")
			}
			r := rapid.SampledFrom(live).Draw(t, "replica")
			if h.state(r.Run).Epoch != r.Epoch {
				t.Skip("a zombie") // what it says is refused at the door
			}
			next := []mlaas.ReplicaStatus{mlaas.ReplicaLost}
			switch r.Status {
			case mlaas.ReplicaWanted:
				next = append(next, mlaas.ReplicaReady, mlaas.ReplicaReady, mlaas.ReplicaFailed)
			case mlaas.ReplicaRunning:
				next = append(next, mlaas.ReplicaSucceeded, mlaas.ReplicaSucceeded, mlaas.ReplicaSucceeded, mlaas.ReplicaFailed)
			}
			h.set(r.Run, r.Fence.Replica, rapid.SampledFrom(next).Draw(t, "status"))
		},
		"cluster": func(t *rapid.T) {
			if !h.outages {
				t.Skip("every cluster stays")
			}
			h.down(rapid.SampledFrom([]string{"local", "east"}).Draw(t, "cluster"), rapid.SampledFrom([]string{"", "no answer"}).Draw(t, "why"))
		},
		"": func(t *rapid.T) { h.check() },
	}
}

// check is what always holds.
func (h *chance) check() {
	clusters, err := store.Clusters(h.db).All(h.ctx(), store.Query{})
	h.must(err)
	held := map[string]map[mlaas.RunID]mlaas.Grant{}
	for _, c := range clusters {
		l, _, err := store.Ledgers(h.db).Get(h.ctx(), "", c.Value.Name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			h.t.Fatal(err)
		}
		if !l.Used().Fits(c.Value.Capacity) {
			h.t.Fatalf("more is promised of %s than it has: %+v", c.Value.Name, l.Grants)
		}
		held[c.Value.Name] = l.Grants
	}
	grants := 0
	for _, id := range h.ids {
		s := h.state(id)
		if s.State == mlaas.Created {
			continue
		}
		row, err := h.memory.Get(h.ctx(), store.Key{Kind: "runstate", Tenant: mlaas.DefaultTenant, ID: string(id)})
		h.must(err)
		if was, ended := h.final[id]; ended && was.Rev != row.Rev {
			h.t.Fatalf("run %s was over and changed: %s", id, row.Data)
		}
		if s.State.Final() {
			h.final[id] = row
		}
		if s.Epoch < h.epoch[id] || s.Epoch > h.epoch[id]+1 {
			h.t.Fatalf("run %s goes from epoch %d to %d", id, h.epoch[id], s.Epoch)
		}
		h.epoch[id] = s.Epoch
		if s.Reason == "" || !s.State.Final() == s.Next.IsZero() {
			h.t.Fatalf("run %s has no reason or no deadline, or one too many: %+v", id, s)
		}
		if len(s.Attempts) != s.Epoch {
			h.t.Fatalf("run %s has %d attempts in epoch %d", id, len(s.Attempts), s.Epoch)
		}
		if s.Allocation.Cluster != "" && !s.State.Final() {
			grants++
			if g, ok := held[s.Allocation.Cluster][id]; !ok || g.Epoch != s.Epoch || g.Total != s.Allocation.Total {
				h.t.Fatalf("run %s is %s with %+v, and the ledger says %+v", id, s.State, s.Allocation, g)
			}
		}
		if e, ok := h.done[id]; ok && s.Epoch > e {
			h.t.Fatalf("run %s was done in epoch %d and runs again in %d", id, e, s.Epoch)
		}
		workers := s.Allocation.Granted[mlaas.Worker] + s.Allocation.Granted[mlaas.Chief]
		for _, r := range h.all(id) {
			if r.Epoch == s.Epoch && r.Status == mlaas.ReplicaSucceeded && (r.Role == mlaas.Worker || r.Role == mlaas.Chief) {
				workers--
			}
			if r.Epoch < s.Epoch && !r.Status.Final() && !h.outages {
				h.t.Fatalf("run %s is in epoch %d, and %s of epoch %d lives", id, s.Epoch, r.Fence.Replica, r.Epoch)
			}
		}
		if workers == 0 && s.Allocation.Cluster != "" && !s.State.Final() && s.State != mlaas.Stopping {
			h.done[id] = s.Epoch
		}
	}
	for _, g := range held {
		grants -= len(g)
	}
	if grants != 0 {
		h.t.Fatalf("ledgers hold %d grants too many: %+v", -grants, held)
	}
}

func (h *chance) all(id mlaas.RunID) (all []mlaas.Replica) {
	found, err := store.Replicas(h.db).All(h.ctx(), store.Query{Tenant: mlaas.DefaultTenant, Prefix: string(id) + "/"})
	h.must(err)
	for _, f := range found {
		all = append(all, f.Value)
	}
	return all
}

// calm lets everything go well from now on: then every run ends.
func (h *chance) calm() {
	for _, name := range []string{"local", "east"} {
		h.down(name, "")
	}
	for range 400 {
		waiting := h.memory.waiting
		h.memory.waiting = nil
		for _, m := range waiting {
			h.booster(m)
		}
		for _, r := range h.replicas() {
			switch s := h.state(r.Run); {
			case r.Epoch < s.Epoch || s.State.Final(): // of a cluster that came back
				r.Status = mlaas.ReplicaStopped
				put(h.house, store.Replicas(h.db), r)
			case r.Status == mlaas.ReplicaWanted:
				h.set(r.Run, r.Fence.Replica, mlaas.ReplicaReady)
			case r.Status == mlaas.ReplicaRunning:
				h.set(r.Run, r.Fence.Replica, mlaas.ReplicaSucceeded)
			}
		}
		h.later(time.Minute)
		h.check()
		if !slices.ContainsFunc(h.ids, func(id mlaas.RunID) bool { return !h.state(id).State.Final() }) {
			return
		}
	}
	var b strings.Builder
	for _, id := range h.ids {
		fmt.Fprintf(&b, "%s %s: %s\n", id, h.state(id).State, h.state(id).Reason)
	}
	h.t.Fatalf("not every run ended:\n%s", b.String())
}

// Whatever happens in whatever order: an end is an end, a core is promised
// once, epochs grow by one, one attempt lives at a time, what is done is not
// done again; and when calm returns every run ends.
func TestAnyOrder(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // quick, unless somebody asks for more
		if err := f.Value.Set("20"); err != nil {
			t.Fatal(err)
		}
		defer f.Value.Set(f.DefValue)
	}
	for _, outages := range []bool{false, true} {
		t.Run(fmt.Sprintf("outages=%v", outages), rapid.MakeCheck(func(t *rapid.T) {
			h := newChance(t)
			h.outages = outages
			t.Repeat(h.actions())
			h.calm()
		}))
	}
}
