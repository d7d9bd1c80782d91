package booster_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Runs whose replicas fail, vanish, do not listen and go on talking, under a
// platform that is ended and started again all the time: every line is kept
// once and in order, nothing runs twice, and nothing is left over.
func TestChaos(t *testing.T) {
	seeds, _ := strconv.ParseUint(os.Getenv("MLAAS_SEEDS"), 10, 64) // more than one to look for trouble
	for seed := range max(seeds, 1) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	part := func(f mlaas.Fence) scripted.Script {
		sum := fnv.New64a()
		sum.Write([]byte(f.String()))
		r := rand.New(rand.NewPCG(seed, sum.Sum64()))
		s := scripted.Script{
			Slow: time.Duration(r.IntN(5)) * time.Second, Prepare: time.Duration(r.IntN(10)) * time.Second,
			Steps: 20 + r.Int64N(100), Leave: time.Duration(r.IntN(20)) * time.Second, Save: 25,
			Every: time.Duration(200+r.IntN(1000)) * time.Millisecond,
		}
		switch r.IntN(12) {
		case 0:
			s.LostAt = time.Duration(r.IntN(100)) * time.Second
		case 1:
			s.FailAt, s.OOM = 1+r.Int64N(s.Steps), r.IntN(2) == 0
		case 2:
			s.Deaf = true
		case 3:
			s.Broken = "there is no such image"
		case 4:
			s.Refuse = "there is no such package"
		case 5:
			s.Never = true
		}
		return s
	}
	bubble(t, part, func(h *house) {
		random := rand.New(rand.NewPCG(seed, 0))
		over := make(chan struct{})
		var runs, storm sync.WaitGroup
		for i := range 3 {
			r := run(mlaas.RunID(fmt.Sprintf("run%d", i)), map[string]int{"worker": 3})
			runs.Go(func() { h.live(r) })
		}
		storm.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(random.IntN(40_000)) * time.Millisecond):
				}
				h.end()
				time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
				h.open()
			}
		})
		runs.Wait()
		close(over)
		storm.Wait()
		time.Sleep(2 * time.Minute)
		h.nothingLeft()
		for _, s := range []mlaas.ReplicaStatus{mlaas.ReplicaSucceeded, mlaas.ReplicaFailed} {
			if len(h.told(string(s))) == 0 {
				t.Errorf("no replica is %s: this seed shows little", s)
			}
		}
		stats, err := h.db.Stats(h.ctx)
		if err != nil || stats.Parked != 0 {
			t.Errorf("%d messages were parked, %v", stats.Parked, err)
		}
	})
}

// live takes a run through its attempts, as contractor does.
func (h *house) live(r mlaas.Run) {
	all := func(epoch int, ok func(mlaas.Replica) bool) bool {
		found, err := store.Replicas(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/"})
		if err != nil {
			h.Error(err)
			return false
		}
		n := 0
		for _, f := range found {
			if f.Value.Epoch == epoch && ok(f.Value) {
				n++
			}
		}
		return n == 3
	}
	wait := func(limit time.Duration, ok func() bool) bool {
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
			if ok() {
				return true
			}
		}
		return false
	}
	final := func(r mlaas.Replica) bool { return r.Status.Final() }
	epochs := 0
	for epoch := 1; epoch <= 4; epoch++ {
		epochs = epoch
		h.ask(r, epoch)
		bad := func() bool {
			return all(epoch, func(mlaas.Replica) bool { return true }) && !all(epoch, func(r mlaas.Replica) bool {
				return !r.Status.Final() || r.Status == mlaas.ReplicaSucceeded
			})
		}
		wait(2*time.Minute, func() bool {
			return bad() || all(epoch, func(r mlaas.Replica) bool { return r.Status == mlaas.ReplicaReady })
		})
		h.launch(r, epoch)
		good := func() bool {
			return all(epoch, func(r mlaas.Replica) bool { return r.Status == mlaas.ReplicaSucceeded })
		}
		wait(10*time.Minute, func() bool { return bad() || good() })
		h.move(r, func(s *mlaas.RunState) { s.State = mlaas.Queued },
			queue.Tell(mlaas.ReplicasUnwanted{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Cluster: "stage", Grace: 10, Reason: "the attempt is over"}))
		found, err := store.Replicas(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/"})
		if err != nil {
			h.Error(err)
		}
		for _, f := range found {
			h.tell("%s", f.Value.Status)
		}
		if !wait(5*time.Minute, func() bool { return all(epoch, final) }) {
			h.Errorf("%s: attempt %d does not end", r.ID, epoch)
		}
		if good() {
			break
		}
	}
	h.move(r, func(s *mlaas.RunState) { s.State = mlaas.Stopped })
	time.Sleep(time.Minute) // what was lost may deliver its log
	for i := range 3 {
		name := mlaas.ReplicaName("worker", i)
		rep, _ := h.replica(r, name)
		next := map[string]int{}
		for _, text := range h.texts(r, name) {
			attempt, step, _ := strings.Cut(text, " step ")
			n, err := strconv.Atoi(step)
			if want := next[attempt] + 1; err != nil || n != want {
				h.Errorf("%s %s, attempt %s: step %s follows %d", r.ID, name, attempt, step, want-1)
				break
			}
			next[attempt] = n
		}
		if rep.Status == mlaas.ReplicaSucceeded && int64(next[strconv.Itoa(rep.Epoch)]) != rep.Step {
			h.Errorf("%s %s succeeded at step %d with %d lines", r.ID, name, rep.Step, next[strconv.Itoa(rep.Epoch)])
		}
		for epoch := range epochs {
			if n := h.place.Starts(fence(r, epoch+1, name)); n > 1 {
				h.Errorf("%s %s, attempt %d: started %d times", r.ID, name, epoch+1, n)
			}
		}
		statuses := []mlaas.ReplicaStatus{}
		for _, e := range rep.History {
			if e.Epoch == rep.Epoch && (len(statuses) == 0 || statuses[len(statuses)-1] != e.Status) {
				statuses = append(statuses, e.Status)
			}
		}
		if !slices.IsSortedFunc(statuses, func(a, b mlaas.ReplicaStatus) int {
			return slices.Index(mlaas.ReplicaStatuses, a) - slices.Index(mlaas.ReplicaStatuses, b)
		}) {
			h.Errorf("%s %s went back: %v", r.ID, name, statuses)
		}
	}
}
