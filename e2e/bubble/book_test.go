package bubble_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A book reads along with every commit and says at once when one does what may
// not be. It knows nothing that is not in the commits.
type book struct {
	store.Driver
	w     *world
	seed  uint64
	spoil atomic.Int64 // of 1000 appends to the series, so many fail, before or after

	mu       sync.Mutex
	runs     map[mlaas.RunID]mlaas.Run
	states   map[mlaas.RunID]mlaas.RunState
	raised   map[mlaas.RunID]time.Time // when the epoch was
	done     map[mlaas.RunID]int       // the attempt whose workers all ended well
	replicas map[mlaas.RunID]map[string]mlaas.Replica
	ledgers  map[string]mlaas.Ledger
	leases   map[string]store.Lease
	commits  int
}

func newBook(w *world, db store.Driver) *book {
	return &book{Driver: db, w: w, runs: map[mlaas.RunID]mlaas.Run{}, states: map[mlaas.RunID]mlaas.RunState{}, raised: map[mlaas.RunID]time.Time{},
		done: map[mlaas.RunID]int{}, replicas: map[mlaas.RunID]map[string]mlaas.Replica{}, ledgers: map[string]mlaas.Ledger{}, leases: map[string]store.Lease{}}
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

func read[T any](b *book, r store.Records[T], row store.Row) T {
	v, err := r.Decode(row)
	b.w.must(err)
	return v
}

// commit commits for a process (none: for a user) and reads what it did.
func (b *book) commit(ctx context.Context, who string, batch store.Batch) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.Driver.Commit(ctx, batch); err != nil {
		return err
	}
	b.commits++
	placed := map[mlaas.RunID]bool{}
	ledgers := false
	for _, row := range batch.Put {
		switch row.Key.Kind {
		case "run":
			v := read(b, store.Runs(b), row)
			b.runs[v.ID] = v
		case "lease":
			v := read(b, store.Leases(b), row)
			if v.Holder != "" {
				b.w.note("%s takes %s, epoch %d", v.Holder, v.Name, v.Epoch)
			}
			b.leases[v.Name] = v
		case "ledger":
			v := read(b, store.Ledgers(b), row)
			b.ledgers[v.Cluster] = v
			ledgers = true
		case "cluster":
			v := read(b, store.Clusters(b), row)
			b.served(who, v.Name, "says how cluster "+v.Name+" is")
			b.w.note("cluster %s is up: %v, %s", v.Name, v.Up, v.Reason)
		case "runstate":
			v := read(b, store.RunStates(b), row)
			if old := b.states[v.Run]; v.Epoch > old.Epoch {
				placed[v.Run] = true
				b.raised[v.Run] = time.Now()
			}
			b.state(who, b.states[v.Run], v)
			b.states[v.Run] = v
			ledgers = true
		}
	}
	for _, row := range batch.Put { // what stands on the states
		switch row.Key.Kind {
		case "replica":
			b.replica(who, read(b, store.Replicas(b), row))
		case "checkpoint":
			v := read(b, store.Checkpoints(b), row)
			if now := b.states[v.Run].Epoch; v.Epoch != now {
				b.w.fault("a checkpoint of attempt %d of %s is accepted in attempt %d", v.Epoch, v.Run, now)
			}
		}
	}
	if ledgers {
		b.promises()
	}
	if batch.Ack != nil {
		b.handled(batch.Ack.Message)
	}
	return nil
}

// holds reports whether a process has a lease.
func (b *book) holds(who, lease string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leases[lease].Holder == who
}

// served: what is written of a cluster is written by who serves it.
func (b *book) served(who, cluster, what string) {
	if l := b.leases[store.ClusterLease(cluster)]; l.Holder != who {
		b.w.fault("%s %s, which %s serves", who, what, l.Holder)
	}
}

// state: what may become of a run.
func (b *book) state(who string, old, s mlaas.RunState) {
	b.w.note("%s is %s in attempt %d, says %s: %s", s.Run, s.State, s.Epoch, who, s.Reason)
	wrong := func(format string, args ...any) {
		b.w.fault("%s, %s in attempt %d by %s: %s", s.Run, s.State, s.Epoch, who, fmt.Sprintf(format, args...))
	}
	if old.State.Final() {
		wrong("it was over as %s", old.State)
	}
	if s.Epoch < old.Epoch || s.Epoch > old.Epoch+1 {
		wrong("it was in attempt %d", old.Epoch)
	}
	if s.Epoch > old.Epoch {
		if l := b.leases[store.AdmissionLease]; l.Holder != who {
			wrong("it is placed, but %s places", l.Holder)
		}
		if at, ok := b.done[s.Run]; ok {
			wrong("attempt %d was done", at)
		}
	}
	if s.Reason == "" {
		wrong("it has no reason")
	}
	if !s.State.Final() && s.Next.IsZero() {
		wrong("it is never looked at again")
	}
	for i, a := range s.Attempts {
		switch {
		case a.Ended != nil && a.Ended.Before(a.Began):
			wrong("attempt %d lasted %s", a.Epoch, a.Ended.Sub(a.Began))
		case i > 0 && (a.Epoch != s.Attempts[i-1].Epoch+1 || s.Attempts[i-1].Ended == nil || a.Began.Before(*s.Attempts[i-1].Ended)):
			wrong("attempt %d does not follow the one before: %+v", a.Epoch, s.Attempts)
		case i > 0 && a.Step < s.Attempts[i-1].Step:
			wrong("attempt %d goes back to step %d", a.Epoch, a.Step)
		}
	}
	if s.Started != nil && s.Started.Before(s.Queued) || s.Ended != nil && (s.Ended.Before(s.Queued) || s.Started != nil && s.Ended.Before(*s.Started)) {
		wrong("it ended at %v, was asked for at %v and started at %v", s.Ended, s.Queued, s.Started)
	}
	if s.State == mlaas.Succeeded {
		for name, r := range b.replicas[s.Run] {
			if r.Epoch == s.Epoch && (r.Role == mlaas.Worker || r.Role == mlaas.Chief) && r.Status != mlaas.ReplicaSucceeded {
				wrong("%s is %s", name, r.Status)
			}
		}
	}
}

// replica: what may become of a replica.
func (b *book) replica(who string, r mlaas.Replica) {
	name := r.Fence.Replica
	b.served(who, r.Cluster, "writes of "+r.Fence.String())
	if b.replicas[r.Run] == nil {
		b.replicas[r.Run] = map[string]mlaas.Replica{}
	}
	old := b.replicas[r.Run][name]
	if r.Status != old.Status || r.Epoch != old.Epoch {
		b.w.note("%s is %s, says %s: %s", r.Fence, r.Status, who, r.Reason)
	}
	switch now := b.states[r.Run]; {
	case r.Epoch < old.Epoch:
		b.w.fault("%s comes after attempt %d of it", r.Fence, old.Epoch)
	case r.Epoch > now.Epoch:
		b.w.fault("%s is of an attempt to come: %d is the newest", r.Fence, now.Epoch)
	case r.Epoch > old.Epoch && (r.Epoch != now.Epoch || now.Allocation.Cluster != r.Cluster):
		b.w.fault("%s begins on %s in attempt %d, which is on %q", r.Fence, r.Cluster, now.Epoch, now.Allocation.Cluster)
	case r.Epoch > old.Epoch && now.State != mlaas.Starting && now.State != mlaas.Running:
		b.w.fault("%s begins, and its run is %s", r.Fence, now.State)
	case r.Epoch == old.Epoch && r.Status != old.Status && !r.Status.After(old.Status):
		b.w.fault("%s was %s and is %s", r.Fence, old.Status, r.Status)
	}
	if r.Started != nil && r.Ended != nil && r.Ended.Before(*r.Started) || r.Ended != nil && r.Ended.Before(r.Asked) {
		b.w.fault("%s was asked for at %v, started at %v and ended at %v", r.Fence, r.Asked, r.Started, r.Ended)
	}
	b.replicas[r.Run][name] = r
	workers, well := 0, true
	for _, o := range b.replicas[r.Run] {
		if o.Epoch == r.Epoch && (o.Role == mlaas.Worker || o.Role == mlaas.Chief) {
			workers++
			well = well && o.Status == mlaas.ReplicaSucceeded
		}
	}
	if _, known := b.done[r.Run]; workers > 0 && well && r.Epoch == b.states[r.Run].Epoch && !known {
		b.done[r.Run] = r.Epoch
		b.w.note("every worker of %s is done", r.Run)
	}
}

// promises: no core is promised twice, and whoever has one has it by right.
func (b *book) promises() {
	for _, s := range b.w.spots {
		l := b.ledgers[s.name]
		if used := l.Used(); used.CPU > s.Total.CPU || used.Memory > s.Total.Memory {
			b.w.fault("%s CPU and %s are promised of %s, which has %s and %s", used.CPU, used.Memory, s.name, s.Total.CPU, s.Total.Memory)
		}
		for _, id := range slices.Sorted(maps.Keys(l.Grants)) {
			if r := b.states[id]; r.State.Final() || r.Epoch != l.Grants[id].Epoch || r.Allocation.Cluster != s.name {
				b.w.fault("%s holds something of %s for attempt %d, and is %s in attempt %d", id, s.name, l.Grants[id].Epoch, r.State, r.Epoch)
			}
		}
	}
	for id, s := range b.states {
		if at := s.Allocation.Cluster; at != "" && !s.State.Final() {
			if g, ok := b.ledgers[at].Grants[id]; !ok || g.Epoch != s.Epoch || g.Total != s.Allocation.Total {
				b.w.fault("%s runs on %s in attempt %d, which has %+v in the ledger", id, at, s.Epoch, g)
			}
		}
	}
}

// handled: what a message asks for is in the records when it is acknowledged.
func (b *book) handled(m store.Message) {
	var id mlaas.ReplicasWanted // the others have some of its fields
	b.w.must(json.Unmarshal(m.Body, &id))
	s, known := b.states[id.Run]
	switch m.Subject {
	case "RunAsked":
		if !known {
			b.w.fault("%s %s is acknowledged, and the run has no state", m.Subject, id.Run)
		}
	case "StopAsked":
		if known && !s.State.Final() && s.State != mlaas.Stopping {
			b.w.fault("%s %s is acknowledged, and the run is %s", m.Subject, id.Run, s.State)
		}
	case "ReplicasWanted":
		if s.Epoch != id.Epoch || s.State != mlaas.Starting && s.State != mlaas.Running {
			return
		}
		for role, n := range s.Allocation.Granted {
			for i := range n {
				if name := mlaas.ReplicaName(role, i); b.replicas[id.Run][name].Epoch != id.Epoch {
					b.w.fault("%s %s of attempt %d is acknowledged, and %s has no record", m.Subject, id.Run, id.Epoch, name)
				}
			}
		}
	}
}

// fresh is how long after the begin of an attempt the door may still take what
// the one before says: who holds a lease knows of it by then.
const fresh = 10 * time.Second

// late: what is appended of an attempt that is long over.
func (b *book) late(batches []series.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range batches {
		if s := b.states[a.Fence.Run]; a.Fence.Epoch < s.Epoch && time.Since(b.raised[s.Run]) > fresh {
			b.w.fault("%s speaks in attempt %d, %s after that began", a.Fence, s.Epoch, time.Since(b.raised[s.Run]))
		}
	}
}

// over reports whether every run is, and what those say that are not.
func (b *book) over() (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for _, id := range slices.Sorted(maps.Keys(b.runs)) {
		if s := b.states[id]; !s.State.Final() {
			fmt.Fprintf(&text, "%s is %s in attempt %d: %s\n", id, s.State, s.Epoch, s.Reason)
		}
	}
	return text.Len() == 0, text.String()
}

// of is what the book knows of a run.
func (b *book) of(id mlaas.RunID) (mlaas.RunState, map[string]mlaas.Replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.states[id], maps.Clone(b.replicas[id])
}
