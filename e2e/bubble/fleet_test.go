package bubble_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/store"
)

// add is management: somebody adds a cluster. With no cores nobody can call it.
func (w *world) add(name string, cores mlaas.MilliCPU) *spot {
	var place *spot
	if cores > 0 {
		place = w.build(name, cores)
		w.mu.Lock()
		if w.come == nil {
			w.come = map[string]*spot{}
		}
		w.come[name] = place
		w.mu.Unlock()
	}
	spec := mlaas.ClusterSpec{Name: name, Kind: mlaas.ClusterKubernetes, Wanted: mlaas.ClusterServe, Created: time.Now(), Changed: time.Now()}
	w.must(w.book.commit(w.ctx, "", store.Batch{Put: []store.Row{store.ClusterSpecs(w.book).Put(spec, 0), store.ClusterKeys(w.book).Put(mlaas.ClusterKey{Cluster: name}, 0)}}))
	return place
}

// want is management: somebody says what is wanted of a cluster.
func (w *world) want(name, what string, change ...func(*mlaas.ClusterSpec)) {
	w.Helper()
	spec, rev, err := store.ClusterSpecs(w.book).Get(w.ctx, "", name)
	w.must(err)
	spec.Wanted = what
	for _, c := range change {
		c(&spec)
	}
	w.must(w.book.commit(w.ctx, "", store.Batch{Put: []store.Row{store.ClusterSpecs(w.book).Put(spec, rev)}}))
}

func (w *world) cluster(name string) mlaas.Cluster {
	w.Helper()
	synctest.Wait()
	c, _, err := store.Clusters(w.book).Get(w.ctx, "", name)
	if err != nil {
		w.Errorf("after %s, cluster %s: %v", time.Since(w.began), name, err)
	}
	return c
}

// Clusters come and go while runs go on elsewhere, among others that nobody can
// call: those neither delay nor disturb anybody.
func TestFleet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.ask("long", `{"roles": {"worker": {"replicas": 2, "cpu": 3}}}`, saves)
		for i := range 5 {
			w.add(fmt.Sprint("dead", i), 0)
		}
		time.Sleep(time.Minute)
		w.is("long", mlaas.Running, 1, "north")
		for i := range 5 {
			if c := w.cluster(fmt.Sprint("dead", i)); c.Up || !strings.Contains(c.Reason, "its token has expired") || c.Kind != "kubernetes" {
				t.Errorf("a cluster that nobody can call is %+v", c)
			}
		}

		// One is added, and its runs start as anywhere.
		south := w.add("south", 24)
		time.Sleep(time.Second)
		if c := w.cluster("south"); !c.Up || c.Capacity.CPU != 24000 {
			t.Errorf("a second after it was added it is %+v", c)
		}
		w.ask("big", `{"roles": {"worker": {"replicas": 2, "cpu": 6}}}`, saves)
		time.Sleep(3 * time.Minute)
		w.is("big", mlaas.Running, 1, "south")

		// Other credentials: it is connected anew, and what runs there goes on.
		w.want("south", mlaas.ClusterServe, func(s *mlaas.ClusterSpec) { s.Changed = time.Now() })
		time.Sleep(3 * time.Second)
		if c, spec := w.cluster("south"), w.spec("south"); !c.Up || !c.Of.Equal(spec.Changed) {
			t.Errorf("connected anew it is %+v of %s", c, spec.Changed)
		}

		// Drained: what runs there goes on, nothing new begins.
		w.want("south", mlaas.ClusterDrain)
		time.Sleep(time.Second)
		w.ask("other", `{"roles": {"worker": {"replicas": 1, "cpu": 9}}}`, saves)
		time.Sleep(time.Minute)
		if s := w.is("other", mlaas.Queued, 0, ""); !strings.Contains(s.Reason, "south") || !strings.Contains(s.Reason, "mlaas cluster resume south") {
			t.Errorf("what waits for a drained cluster says %q", s.Reason)
		}
		w.is("big", mlaas.Running, 1, "south")
		w.want("south", mlaas.ClusterServe)
		time.Sleep(time.Minute)
		w.is("other", mlaas.Running, 1, "south")

		// Removed: what runs there moves, from its last checkpoint and at no cost
		// of a restart; then nothing of it is left.
		w.add("island", 24)
		time.Sleep(time.Second)
		w.want("south", mlaas.ClusterGone)
		time.Sleep(90 * time.Second)
		for _, id := range []mlaas.RunID{"big", "other"} {
			s := w.is(id, mlaas.Running, 2, "island")
			if a := s.Attempts[len(s.Attempts)-1]; id == "big" && a.Step < 18 || s.Restarts != (mlaas.Restarts{}) {
				t.Errorf("%s moved to step %d with restarts %+v", id, a.Step, s.Restarts)
			}
			if !strings.Contains(s.Attempts[0].Reason, "cluster south is being removed") {
				t.Errorf("its first attempt ended because %q", s.Attempts[0].Reason)
			}
		}
		w.forgotten("south")
		if left := w.alive(south); len(left) > 0 {
			t.Errorf("on the cluster that is gone there are still %v", left)
		}
		for i := range 5 {
			w.want(fmt.Sprint("dead", i), mlaas.ClusterGone)
		}
		time.Sleep(time.Second)
		for i := range 5 {
			w.forgotten(fmt.Sprint("dead", i))
		}

		// What is still told to it is heard, and a cluster of its name is another.
		time.Sleep(2 * time.Minute)
		if s, err := w.book.Stats(w.ctx); err != nil || s.Oldest > time.Minute || s.Parked > 0 {
			t.Errorf("a message waits for %s, %d were given up (%v)", s.Oldest, s.Parked, err)
		}
		w.add("south", 4)
		time.Sleep(5 * time.Second)
		if c := w.cluster("south"); !c.Up || c.Capacity.CPU != 4000 {
			t.Errorf("added again it is %+v", c)
		}
		time.Sleep(20 * time.Minute)
		w.is("long", mlaas.Succeeded, 1, "north")
		w.is("big", mlaas.Succeeded, 2, "island")
		w.is("other", mlaas.Succeeded, 2, "island")
	})
}

func (w *world) spec(name string) mlaas.ClusterSpec {
	w.Helper()
	s, _, err := store.ClusterSpecs(w.book).Get(w.ctx, "", name)
	w.must(err)
	return s
}

// forgotten checks that no record of a cluster is left.
func (w *world) forgotten(name string) {
	w.Helper()
	synctest.Wait()
	_, _, spec := store.ClusterSpecs(w.book).Get(w.ctx, "", name)
	_, _, key := store.ClusterKeys(w.book).Get(w.ctx, "", name)
	_, _, there := store.Clusters(w.book).Get(w.ctx, "", name)
	_, _, ledger := store.Ledgers(w.book).Get(w.ctx, "", name)
	for what, err := range map[string]error{"spec": spec, "key": key, "record": there, "ledger": ledger} {
		if !errors.Is(err, mlaas.ErrNotFound) {
			w.Errorf("after %s the %s of cluster %s is still there (%v)", time.Since(w.began), what, name, err)
		}
	}
}

// A cluster that is to go and does not answer is given up as one that is away,
// and then forgotten; a run that no other cluster can hold waits.
func TestFleetRemovesWhatIsAway(t *testing.T) {
	inWorld(t, func(w *world) {
		south := w.add("south", 24)
		time.Sleep(time.Second)
		w.ask("run", `{"roles": {"worker": {"replicas": 1, "cpu": 2}}}`, saves)
		w.ask("big", `{"roles": {"worker": {"replicas": 1, "cpu": 20}}}`, func(mlaas.Fence) scripted.Script { return scripted.Script{Save: 6} })
		time.Sleep(2 * time.Minute)
		w.is("big", mlaas.Running, 1, "south")
		south.set(silent, silent)
		time.Sleep(10 * time.Second)
		w.want("south", mlaas.ClusterGone)
		time.Sleep(2 * time.Minute)
		w.forgotten("south")
		s := w.is("big", mlaas.Queued, 1, "")
		if !strings.Contains(s.Reason, "needs 20 CPU for one worker; the largest cluster, north, has 8") {
			t.Errorf("it waits because %q", s.Reason)
		}
		w.add("island", 24)
		time.Sleep(time.Minute)
		w.is("big", mlaas.Running, 2, "island")
		w.stop("big")
		time.Sleep(time.Minute)
	})
}
