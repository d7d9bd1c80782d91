package bubble_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/store"
)

// weather is a store whose messages come twice, late or never. What is
// committed stays true.
type weather struct {
	store.Driver
	mu    sync.Mutex
	dice  *rand.Rand
	clear bool
}

func (w *weather) Commit(ctx context.Context, b store.Batch) error {
	w.mu.Lock()
	var tell []store.Message
	for _, m := range b.Tell {
		copies := 1
		if !w.clear {
			copies = []int{0, 1, 1, 1, 1, 1, 1, 2, 2, 3}[w.dice.IntN(10)]
		}
		for range copies {
			late := m
			if !w.clear && w.dice.IntN(3) == 0 {
				late.Due = time.Now().Add(time.Duration(w.dice.IntN(40_000)) * time.Millisecond)
			}
			tell = append(tell, late)
		}
	}
	w.mu.Unlock()
	b.Tell = tell
	return w.Driver.Commit(ctx, b)
}

// fate is a part that a replica plays by the dice: mostly well.
func fate(dice *rand.Rand) scripted.Script {
	d := func(n int) time.Duration { return time.Duration(dice.IntN(n)) * time.Second }
	s := scripted.Script{Slow: d(20), Prepare: d(60), Steps: 10 + dice.Int64N(60), Every: time.Minute, Save: 1 + dice.Int64N(10), Leave: d(8)}
	switch dice.IntN(12) {
	case 0:
		s.LostAt = d(3600)
	case 1:
		s.FailAt = 1 + dice.Int64N(s.Steps)
	case 2:
		s.Deaf = true
	case 3:
		s.Every = time.Second
	}
	if dice.IntN(60) == 0 {
		s.Refuse = "there is no such package"
	}
	return s
}

// simulate is one life of a platform: runs are asked for and stopped, replicas
// fail, services die and come back, messages get lost.
func simulate(t *testing.T, seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 1))
	sky := &weather{dice: rand.New(rand.NewPCG(seed, 2))}
	in(t, 6, func(db store.Driver) store.Driver { sky.Driver = db; return sky }, func(p *platform) {
		var mu sync.Mutex
		play := rand.New(rand.NewPCG(seed, 3))
		part := func(f mlaas.Fence) scripted.Script {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(f.Replica, mlaas.PS) && play.IntN(8) > 0 {
				return scripted.Script{Slow: time.Duration(play.IntN(9)) * time.Second}
			}
			return fate(play)
		}
		specs := []string{
			`{}`, psAndTwo,
			`{"roles": {"worker": {"replicas": 3, "cpu": 1}}, "execution": {"restarts": {"user": 2}}}`,
			`{"roles": {"worker": {"cpu": 5}}, "execution": {"priority": 1}}`,
			`{"roles": {"chief": {"replicas": 1}, "worker": {"replicas": 2}, "evaluator": {"replicas": 1}}, "execution": {"timeout": "30m", "grace": 5}}`,
			`{"roles": {"worker": {"cpu": 7}}}`,
			`{"rules": [{"name": "again", "on": {"status": "failed"}, "do": "restart", "once": true}]}`,
		}
		boosting, contracting := true, true
		ended := map[mlaas.RunID]mlaas.RunState{}
		for range 80 {
			switch n := dice.IntN(20); {
			case n < 5 && len(p.ids) < 12:
				p.ask(fmt.Sprint("job", len(p.ids)), specs[dice.IntN(len(specs))], part)
			case n < 7 && len(p.ids) > 0:
				p.stop(p.ids[dice.IntN(len(p.ids))])
			case n < 10 && boosting:
				p.booster.end()
				boosting = false
			case n < 14 && !boosting:
				p.startBooster()
				boosting = true
			case n < 16 && contracting:
				p.contractor.end()
				contracting = false
			case n < 20 && !contracting:
				p.startContractor()
				contracting = true
			}
			time.Sleep(time.Duration(dice.IntN(240_000)) * time.Millisecond)
			if dice.IntN(2) == 0 {
				synctest.Wait()
			}
			p.sane(ended)
		}
		if !boosting {
			p.startBooster()
		}
		if !contracting {
			p.startContractor()
		}
		sky.mu.Lock()
		sky.clear = true
		sky.mu.Unlock()
		for range 48 { // hours; every run ends once the sky is clear
			time.Sleep(time.Hour)
			synctest.Wait()
			p.sane(ended)
			if len(ended) == len(p.ids) {
				break
			}
		}
		for _, id := range p.ids {
			if _, ok := ended[id]; !ok {
				t.Errorf("it never ends:\n%s", p.tell(id))
			}
		}
		time.Sleep(5 * time.Minute)
		p.empty()
		ends, attempts := map[mlaas.State]int{}, 0
		for _, s := range ended {
			ends[s.State]++
			attempts += s.Epoch
		}
		t.Logf("%d runs, %d attempts: %v", len(ended), attempts, ends)
	})
}

// sane checks what holds at every moment.
func (p *platform) sane(ended map[mlaas.RunID]mlaas.RunState) {
	p.Helper()
	ledgers, err := store.Ledgers(p.db).All(p.ctx, store.Query{})
	p.must(err)
	for _, l := range ledgers {
		if used := l.Value.Used(); used.CPU > p.place.Total.CPU {
			p.Fatalf("%s CPU are promised of %s", used.CPU, p.place.Total.CPU)
		}
	}
	for _, id := range p.ids {
		s := p.state(id)
		if s.State == mlaas.Created {
			continue
		}
		if was, ok := ended[id]; ok && (was.State != s.State || was.Epoch != s.Epoch || was.Reason != s.Reason) {
			p.Fatalf("it was over as %s and changed:\n%s", was.State, p.tell(id))
		}
		if s.State.Final() {
			ended[id] = s
			for _, r := range p.replicas(id) {
				if s.State == mlaas.Succeeded && r.Epoch == s.Epoch && (r.Role == mlaas.Worker || r.Role == mlaas.Chief) && r.Status != mlaas.ReplicaSucceeded {
					p.Fatalf("it succeeded without its workers:\n%s", p.tell(id))
				}
			}
		} else if s.Reason == "" || s.Next.IsZero() {
			p.Fatalf("it has no reason or no deadline:\n%s", p.tell(id))
		}
		if live := p.epochs(id); len(live) > 1 {
			p.Fatalf("attempts %v live at once:\n%s", live, p.tell(id))
		}
		for _, c := range p.checkpoints(id) {
			if c.Epoch > s.Epoch {
				p.Fatalf("a checkpoint of an epoch to come: %+v", c)
			}
		}
		for i, a := range s.Attempts[:max(len(s.Attempts), 1)-1] {
			if next := s.Attempts[i+1]; next.Step < a.Step || next.Epoch != a.Epoch+1 || a.Ended == nil || next.Began.Before(*a.Ended) {
				p.Fatalf("attempt %d does not follow attempt %d:\n%s", next.Epoch, a.Epoch, p.tell(id))
			}
		}
	}
}

// Random lives: MLAAS_SEEDS says how many, MLAAS_SEED repeats one.
func TestSimulation(t *testing.T) {
	seeds, first := uint64(2), uint64(1)
	if n, err := strconv.ParseUint(os.Getenv("MLAAS_SEEDS"), 10, 64); err == nil {
		seeds, first = n, rand.Uint64()
	}
	if n, err := strconv.ParseUint(os.Getenv("MLAAS_SEED"), 10, 64); err == nil {
		seeds, first = 1, n
	}
	for i := range seeds {
		seed := first + i
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { simulate(t, seed) }) {
			t.Logf("repeat it with MLAAS_SEED=%d go test ./e2e/bubble -run Simulation", seed)
		}
	}
}
