package bubble_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/store"
)

// inWorld runs f in a bubble with two of each service and three clusters, of
// which all are known.
func inWorld(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w, end := newWorld(t, nil)
		defer end()
		for _, name := range []string{"contractor1", "contractor2"} {
			w.contract(name)
		}
		for _, name := range []string{"booster1", "booster2"} {
			w.boost(name)
		}
		time.Sleep(15 * time.Second)
		f(w)
		synctest.Wait()
		for _, text := range w.wrong {
			t.Error(text)
		}
		if t.Failed() {
			t.Log("the trace:\n" + strings.Join(w.trace, "\n"))
		}
	})
}

// saves is a program that runs for 15 minutes and saves its work every minute.
func saves(mlaas.Fence) scripted.Script {
	return scripted.Script{Steps: 90, Every: 10 * time.Second, Save: 6}
}

// is waits until everybody has done what there was to do, and wants a run to be
// in an attempt on a cluster.
func (w *world) is(id mlaas.RunID, state mlaas.State, epoch int, cluster string) mlaas.RunState {
	w.Helper()
	synctest.Wait()
	s, _ := w.book.of(id)
	if s.State != state || s.Epoch != epoch || s.Allocation.Cluster != cluster {
		w.Errorf("%s after %s: it is %s in attempt %d on %q, want %s in %d on %s: %s", id, time.Since(w.began), s.State, s.Epoch, s.Allocation.Cluster, state, epoch, cluster, s.Reason)
	}
	return s
}

var outages = []struct {
	name     string
	api, net road
}{
	{"it refuses", refused, refused},
	{"it is silent", silent, silent},
}

// A cluster that is away for less than 45 s costs nobody an attempt.
func TestShortOutage(t *testing.T) {
	for _, tt := range outages {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.ask("run", `{"roles": {"worker": {"replicas": 2, "cpu": 3}}}`, saves)
				time.Sleep(time.Minute)
				w.is("run", mlaas.Running, 1, "north")
				for range 5 {
					w.spots[2].set(tt.api, tt.net)
					time.Sleep(12 * time.Second)
					if c, _, err := store.Clusters(w.book).Get(w.ctx, "", "north"); err != nil || c.Up {
						t.Errorf("after 12 s it is not suspected: %+v, %v", c, err)
					}
					time.Sleep(33*time.Second - time.Millisecond)
					w.spots[2].set(open, open)
					time.Sleep(time.Minute)
					w.is("run", mlaas.Running, 1, "north")
				}
			})
		})
	}
}

// A cluster that is away for longer is given up: its run goes on elsewhere from
// its last checkpoint, 45 to 60 s after the outage began. When the cluster is
// back, what lived on there is refused and ended within 30 s.
func TestLongOutage(t *testing.T) {
	for _, tt := range outages {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.ask("run", `{"roles": {"worker": {"replicas": 2}}}`, saves)
				time.Sleep(5 * time.Minute)
				old := w.is("run", mlaas.Running, 1, "north")
				w.spots[2].set(tt.api, tt.net)
				time.Sleep(45*time.Second - time.Millisecond)
				w.is("run", mlaas.Running, 1, "north")
				time.Sleep(15 * time.Second)
				synctest.Wait()
				s, _ := w.book.of("run")
				if s.Epoch != 2 || s.Allocation.Cluster == "north" || s.State != mlaas.Running && s.State != mlaas.Starting || s.Attempts[1].Step < 24 {
					t.Errorf("60 s after the outage began it is %s in attempt %d on %s, from step %d: %s", s.State, s.Epoch, s.Allocation.Cluster, s.Attempts[len(s.Attempts)-1].Step, s.Reason)
				}
				time.Sleep(2 * time.Minute)
				if n := len(w.alive(w.spots[2])); n != 2 {
					t.Errorf("%d replicas live on behind the outage, want 2: the test shows nothing", n)
				}
				w.spots[2].set(open, open)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if left := w.alive(w.spots[2]); len(left) > 0 {
					t.Errorf("30 s after the cluster came back there are still %v", left)
				}
				time.Sleep(15 * time.Minute)
				if s = w.is("run", mlaas.Succeeded, 2, s.Allocation.Cluster); s.Restarts.Infrastructure != 1 || len(s.Attempts) != 2 || old.Epoch != 1 {
					t.Errorf("it ended as %+v", s)
				}
				w.heard("run", s, nil)
			})
		})
	}
}

// A cluster whose API alone is away keeps its runs: they talk to us.
func TestAPIAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ask("run", `{"roles": {"worker": {"replicas": 2}}}`, saves)
		time.Sleep(time.Minute)
		w.spots[2].set(silent, open)
		time.Sleep(10 * time.Minute)
		w.is("run", mlaas.Running, 1, "north")
		w.spots[2].set(open, open)
		time.Sleep(10 * time.Minute)
		w.is("run", mlaas.Succeeded, 1, "north")
	})
}

// When most clusters go away at once it is we who are cut off: nothing is
// moved, and it is said.
func TestAllAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ask("run", `{"roles": {"worker": {"replicas": 2}}}`, saves)
		time.Sleep(time.Minute)
		w.spots[2].set(silent, silent)
		time.Sleep(5 * time.Second)
		w.spots[0].set(refused, refused)
		time.Sleep(5 * time.Minute)
		w.is("run", mlaas.Running, 1, "north")
		for _, name := range []string{"east", "north"} {
			c, _, err := store.Clusters(w.book).Get(w.ctx, "", name)
			if want := "2 of 3 clusters went away at the same moment"; err != nil || c.Up || !strings.HasPrefix(c.Reason, want) {
				t.Errorf("%s says %q (%v), want %q", name, c.Reason, err, want)
			}
		}
		w.spots[0].set(open, open) // the other is alone in being away now
		time.Sleep(time.Minute)
		synctest.Wait()
		if s, _ := w.book.of("run"); s.Epoch != 2 || s.Allocation.Cluster == "north" {
			t.Errorf("it is not moved: %s on %s in attempt %d: %s", s.State, s.Allocation.Cluster, s.Epoch, s.Reason)
		}
	})
}

// A booster that is away for 12 minutes is not a cluster that is.
func TestNobodyServes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ask("run", `{"roles": {"worker": {"replicas": 2}}}`, saves)
		time.Sleep(time.Minute)
		for _, name := range []string{"booster1", "booster2"} {
			w.server(name).kill()
		}
		time.Sleep(12 * time.Minute)
		w.is("run", mlaas.Running, 1, "north")
		w.server("booster1").start()
		time.Sleep(10 * time.Minute)
		s := w.is("run", mlaas.Succeeded, 1, "north")
		w.heard("run", s, nil)
		if n := len(w.said[mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: "run", Epoch: 1, Replica: "worker-0", Incarnation: 1}]); n != 90 {
			t.Errorf("it made %d steps", n)
		}
	})
}
