package booster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/store"
)

// gathered is longer than news of one replica are gathered.
const gathered = time.Second + 10*time.Millisecond

// The news of a run's replicas are written together, and told together: however
// many there are, a run costs few commits.
func TestGathered(t *testing.T) {
	const replicas = 20
	bubble(t, func(f mlaas.Fence) scripted.Script {
		_, index, _ := mlaas.SplitReplica(f.Replica)
		return scripted.Script{Silent: true, Slow: time.Duration(index) * 10 * time.Millisecond}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": replicas})
		before, err := h.db.Stats(h.ctx)
		if err != nil {
			t.Fatal(err)
		}
		h.ask(r, 1)
		time.Sleep(3 * gathered)
		for i := range replicas {
			got, _ := h.replica(r, mlaas.ReplicaName(mlaas.Worker, i))
			if got.Status != mlaas.ReplicaPending || got.Reason != "its supervisor runs and is about to call" {
				t.Errorf("%s is %s: %s", got.Fence.Replica, got.Status, got.Reason)
			}
		}
		after, err := h.db.Stats(h.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := after.Commits - before.Commits; n > 10 {
			t.Errorf("%d commits for %d replicas", n, replicas)
		}
	})
}

// News that keep coming are written together, but not for ever; those that come
// after a pause do not wait for longer than the first.
func TestGatheredForAWhile(t *testing.T) {
	const replicas = 10
	bubble(t, func(f mlaas.Fence) scripted.Script {
		_, index, _ := mlaas.SplitReplica(f.Replica)
		return scripted.Script{Silent: true, Slow: time.Duration(index) * 900 * time.Millisecond}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": replicas})
		h.ask(r, 1)
		runs := func(at time.Duration) (n int) {
			time.Sleep(at)
			for i := range replicas {
				if got, _ := h.replica(r, mlaas.ReplicaName(mlaas.Worker, i)); got.Reason == "its supervisor runs and is about to call" {
					n++
				}
			}
			return n
		}
		for _, at := range []struct {
			after time.Duration // what was before
			want  int
			why   string
		}{
			{1900 * time.Millisecond, 0, "while news still come"},
			{200 * time.Millisecond, 3, "after two seconds"},
			{2500 * time.Millisecond, 3, "before two seconds since those that came then"},
			{200 * time.Millisecond, 6, "after them"},
			{4200 * time.Millisecond, 9, "before it was quiet for a second"},
			{200 * time.Millisecond, replicas, "after that"},
		} {
			if n := runs(at.after); n != at.want {
				t.Errorf("%d replicas are written %s, want %d", n, at.why, at.want)
			}
		}
	})
}

// What a replica is blocked by is written at once, with that of the others of
// its run: it is what its user looks for.
func TestBlockedIsNotGathered(t *testing.T) {
	const replicas = 20
	bubble(t, func(f mlaas.Fence) scripted.Script {
		return scripted.Script{Never: true}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": replicas})
		before, err := h.db.Stats(h.ctx)
		if err != nil {
			t.Fatal(err)
		}
		h.ask(r, 1)
		for i := range replicas {
			if got := h.status(r, mlaas.ReplicaName(mlaas.Worker, i), 200*time.Millisecond, mlaas.ReplicaPending); got.Reason != "waiting for its place" {
				t.Errorf("%s waits because %q", got.Fence.Replica, got.Reason)
			}
		}
		after, err := h.db.Stats(h.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := after.Commits - before.Commits; n > 10 {
			t.Errorf("%d commits for %d replicas", n, replicas)
		}
	})
}

// An end is not kept waiting, and comes after what came before.
func TestEndIsNotGathered(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script {
		return scripted.Script{Silent: true, Slow: gathered + 100*time.Millisecond}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		time.Sleep(gathered + 200*time.Millisecond) // it runs, and that is not written yet
		h.place.End(fence(r, 1, "worker-0"), 3)
		got := h.status(r, "worker-0", gathered/2, mlaas.ReplicaLost)
		var states []string
		for _, e := range got.History {
			states = append(states, string(e.Status))
		}
		if fmt.Sprint(states) != "[creating pending lost]" {
			t.Errorf("it was %q", states)
		}
	})
}

// Replicas that v0.1 wrote, which are found only among all, are looked after as
// those of now are.
func TestLiveOfBefore(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", 2*gathered, mlaas.ReplicaPending)
		record, rev := h.replica(r, "worker-0")
		row := store.Replicas(h.db).Put(record, rev)
		row.Index = []string{"live"}
		h.end()
		h.commit(store.Batch{Put: []store.Row{row}})
		if err := h.place.Stop(h.ctx, fence(r, 1, "worker-0")); err != nil { // and nobody hears of it
			t.Fatal(err)
		}
		h.open()
		h.status(r, "worker-0", time.Minute, mlaas.ReplicaLost)
	})
}

// A slow place takes its time to start replicas, and notes of how many runs it
// is asked at once.
type slow struct {
	booster.Executor
	takes time.Duration // 0: it answers nothing

	mu   sync.Mutex
	runs map[mlaas.RunID]int
	most int
}

func (s *slow) Start(ctx context.Context, r booster.Spec) error {
	s.mu.Lock()
	s.runs[r.Fence.Run]++
	s.most = max(s.most, len(s.runs))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.runs[r.Fence.Run]--; s.runs[r.Fence.Run] == 0 {
			delete(s.runs, r.Fence.Run)
		}
	}()
	if s.takes == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(s.takes)
	return s.Executor.Start(ctx, r)
}

// Runs that are asked for at once are started a few at a time, so that the first
// are complete early; where the cluster does not answer, none waits for another
// for long.
func TestFewRunsAtOnce(t *testing.T) {
	const runs, replicas = 12, 10
	tests := []struct {
		name  string
		takes time.Duration
		most  int           // runs at once
		first time.Duration // until one run is complete
	}{
		{"slow", time.Second, 3, 1100 * time.Millisecond},
		{"silent", 0, runs, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, mute, func(h *house) {
				place := &slow{takes: tt.takes, runs: map[mlaas.RunID]int{}}
				h.end()
				h.front = func(e booster.Executor) booster.Executor {
					place.Executor = e
					return place
				}
				h.open()
				time.Sleep(time.Second) // it has compared what is there
				for i := range runs {
					h.ask(run(mlaas.RunID(fmt.Sprintf("run%d", i)), map[string]int{"worker": replicas}), 1)
				}
				time.Sleep(tt.first)
				complete := 0
				for i := range runs {
					started := 0
					for k := range replicas {
						started += h.place.Starts(fence(run(mlaas.RunID(fmt.Sprintf("run%d", i)), nil), 1, mlaas.ReplicaName(mlaas.Worker, k)))
					}
					if started == replicas {
						complete++
					}
				}
				if tt.first > 0 && complete != tt.most {
					t.Errorf("after %s %d runs are complete, want %d", tt.first, complete, tt.most)
				}
				time.Sleep(15 * time.Second)
				place.mu.Lock()
				defer place.mu.Unlock()
				if place.most != tt.most {
					t.Errorf("%d runs were started at once, want %d", place.most, tt.most)
				}
			})
		})
	}
}
