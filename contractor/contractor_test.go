package contractor

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/contractor/jobengine"
	"mlaas.dev/mlaas/store"
)

// The Makefile writes every golden of contractor/... anew with one flag.
var _ = flag.Bool("update", false, "nothing here is made from the code")

const psAndTwo = `{"environment": {"framework": "tensorflow"}, "roles": {"ps": {"replicas": 1}, "worker": {"replicas": 2}}}`

// One ps and two workers, from the press to the end: each step with what is
// told and what the user reads.
func TestLife(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.is(id, mlaas.Starting, "starting on local: 0 of 3 replicas ready")
	h.hears("ReplicasWanted r000/1")
	if got := h.held("local"); got != "r000:1500m" {
		t.Errorf("the ledger holds %q", got)
	}
	h.set(id, "ps-0", mlaas.ReplicaReady)
	h.set(id, "worker-0", mlaas.ReplicaPending, because("waits for a place"))
	h.turn()
	h.is(id, mlaas.Starting, "starting on local: 1 of 3 replicas ready; worker-0: waits for a place")
	h.all(id, mlaas.ReplicaReady)
	h.turn()
	h.is(id, mlaas.Starting, "starting on local: 0 of 3 programs started")
	h.hears("CodeReady r000/1")
	launch, _, err := store.Launches(h.db).Get(t.Context(), mlaas.DefaultTenant, store.LaunchKey(id, 1))
	h.must(err)
	if p := launch.Replicas["worker-1"]; p == nil || p.Variables["RANK"] != "1" || !strings.Contains(p.Variables["TF_CONFIG"], `"ps":["127.0.0.1:4002"]`) {
		t.Errorf("worker-1 is told %+v", p)
	}
	h.set(id, "worker-1", mlaas.ReplicaReady, because("makes the environment: torch"))
	h.set(id, "worker-0", mlaas.ReplicaRunning)
	h.turn()
	h.is(id, mlaas.Starting, "starting on local: 1 of 3 programs started; worker-1: makes the environment: torch")
	h.all(id, mlaas.ReplicaRunning)
	h.turn()
	h.turn()
	h.is(id, mlaas.Running, "running 3 replicas on local")
	h.later(3 * time.Hour)
	h.set(id, "worker-0", mlaas.ReplicaSucceeded)
	h.turn()
	h.is(id, mlaas.Running, "running 3 replicas on local")
	h.hears()
	h.set(id, "worker-1", mlaas.ReplicaSucceeded)
	h.turn()
	h.is(id, mlaas.Stopping, "every worker ended with exit code 0; ends ps-0")
	h.hears("ReplicasUnwanted r000/1 every worker ended with exit code 0")
	h.set(id, "ps-0", mlaas.ReplicaStopped)
	h.turn()
	h.is(id, mlaas.Succeeded, "every worker ended with exit code 0")
	h.turn()
	h.hears()
	s := h.state(id)
	if s.ExitCode == nil || *s.ExitCode != 0 || s.Ended == nil || s.Started == nil || s.Ended.Sub(*s.Started) != 3*time.Hour || !s.Next.IsZero() {
		t.Errorf("the result is %+v", s)
	}
	if got := h.held("local"); got != "" {
		t.Errorf("the ledger still holds %q", got)
	}
	if b, err := h.c.look(t.Context(), mlaas.DefaultTenant, id, nil); err != nil || !b.Empty() {
		t.Errorf("a run that is over is written again: %v, %v", b, err)
	}
}

// A program that is over before anyone saw it run, told in one message.
func TestShortProgram(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("hello", `{}`)
	h.turn()
	h.set(id, "worker-0", mlaas.ReplicaReady)
	h.turn()
	h.set(id, "worker-0", mlaas.ReplicaSucceeded)
	h.turn()
	h.is(id, mlaas.Succeeded, "every worker ended with exit code 0")
	h.hears("ReplicasWanted r000/1", "CodeReady r000/1", "ReplicasUnwanted r000/1 every worker ended with exit code 0")
	if s := h.state(id); s.Started == nil {
		t.Error("it never started")
	}
}

func TestFaults(t *testing.T) {
	lost := func(h *house, id mlaas.RunID) { h.set(id, "worker-1", mlaas.ReplicaLost, because("machine restarted")) }
	fails := func(h *house, id mlaas.RunID) {
		h.set(id, "worker-1", mlaas.ReplicaFailed, exit(3, true), because("ValueError: shapes differ"))
	}
	tests := []struct {
		name    string
		spec    string // besides psAndTwo's roles
		happens func(h *house, id mlaas.RunID)
		state   mlaas.State
		reason  string
		exit    int // -1: none
	}{
		{"a worker fails", `{}`, fails, mlaas.Failed, "worker-1 failed with exit code 3: ValueError: shapes differ", 3},
		{"a worker fails, one restart", `{"execution": {"restarts": {"user": 1}}}`, fails, mlaas.Queued,
			"worker-1 failed with exit code 3: ValueError: shapes differ; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended", -1},
		{"a ps fails", `{}`, func(h *house, id mlaas.RunID) {
			h.set(id, "ps-0", mlaas.ReplicaFailed, exit(137, true), because("used more than its 256Mi of memory"))
		}, mlaas.Failed, "ps-0 failed with exit code 137: used more than its 256Mi of memory", 137},
		{"a worker is lost", `{}`, lost, mlaas.Queued,
			"worker-1 was lost: machine restarted; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended", -1},
		{"a worker is lost and none may be", `{"execution": {"restarts": {"infrastructure": 0}}}`, lost, mlaas.Failed, "worker-1 was lost: machine restarted", -1},
		{"a worker fails because its peer is lost", `{}`, func(h *house, id mlaas.RunID) {
			fails(h, id)
			h.set(id, "worker-0", mlaas.ReplicaLost)
		}, mlaas.Queued, "worker-0 was lost; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended", -1},
		{"a worker stops without being asked", `{}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-0", mlaas.ReplicaStopped, because("heard nothing for 24 h"))
		}, mlaas.Queued, "worker-0 was stopped: heard nothing for 24 h; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended", -1},
		{"the first that failed gives the exit code", `{}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-1", mlaas.ReplicaFailed, exit(3, true))
			h.time = h.time.Add(time.Second)
			h.set(id, "worker-0", mlaas.ReplicaFailed, exit(1, true))
		}, mlaas.Failed, "worker-1 failed with exit code 3", 3},
		{"it takes too long", `{"execution": {"timeout": "1h"}}`, func(h *house, _ mlaas.RunID) { h.time = h.time.Add(time.Hour + time.Minute) },
			mlaas.Failed, "the attempt took longer than its limit of 1h", -1},
		{"it does not take too long", `{"execution": {"timeout": "1h"}}`, func(h *house, _ mlaas.RunID) { h.time = h.time.Add(59 * time.Minute) },
			mlaas.Running, "running 3 replicas on local", -1},
		{"a rule restarts what failed", `{"rules": [{"name": "again", "on": {"status": "failed", "exitCode": 3}, "do": "restart"}]}`, fails, mlaas.Queued,
			"rule again restarts the run: worker-1 failed with exit code 3: ValueError: shapes differ; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended", -1},
		{"a rule for another exit code", `{"rules": [{"name": "again", "on": {"status": "failed", "exitCode": 4}, "do": "restart"}]}`, fails, mlaas.Failed,
			"worker-1 failed with exit code 3: ValueError: shapes differ", 3},
		{"a rule that fired restarts", `{"rules": [{"name": "stuck", "on": {"log": "deadlock"}, "do": "restart"}]}`, func(h *house, id mlaas.RunID) {
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "stuck", Saw: `"deadlock"`})
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "stuck", Saw: `"deadlock"`})
		}, mlaas.Queued, `rule stuck restarts the run: worker-0: "deadlock"; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended`, -1},
		{"a rule that fired stops", `{"rules": [{"name": "nan", "on": {"log": "loss nan"}, "do": "stop"}]}`, func(h *house, id mlaas.RunID) {
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "nan", Saw: `"loss nan"`})
		}, mlaas.Stopped, `rule nan stops the run: worker-0: "loss nan"`, -1},
		{"a rule that fired names its replica once", `{"rules": [{"name": "nan", "on": {"log": "loss nan"}, "do": "stop"}]}`, func(h *house, id mlaas.RunID) {
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "nan", Saw: "worker-0 wrote: loss nan"})
		}, mlaas.Stopped, "rule nan stops the run: worker-0 wrote: loss nan", -1},
		{"a rule that fired in an attempt of before", `{"rules": [{"name": "nan", "on": {"log": "loss nan"}, "do": "stop"}]}`, func(h *house, id mlaas.RunID) {
			h.fire(mlaas.RuleFired{Run: id, Epoch: 0, Replica: "worker-0", Rule: "nan"})
		}, mlaas.Running, "", -1},
		{"a rule that is not the job's", `{}`, func(h *house, id mlaas.RunID) {
			h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Replica: "worker-0", Rule: "whose"})
		}, mlaas.Running, "", -1},
		{"the ps is lost after the workers are done", `{}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-0", mlaas.ReplicaSucceeded)
			h.set(id, "worker-1", mlaas.ReplicaSucceeded)
			h.set(id, "ps-0", mlaas.ReplicaLost)
		}, mlaas.Succeeded, "every worker ended with exit code 0", 0},
		{"stopped", `{}`, func(h *house, id mlaas.RunID) { h.stop(id, "") }, mlaas.Stopped, "stopped by the user", -1},
		{"stopped for a reason", `{}`, func(h *house, id mlaas.RunID) { h.stop(id, "the job was deleted") }, mlaas.Stopped, "stopped: the job was deleted", -1},
		{"stopped and lost at once", `{}`, func(h *house, id mlaas.RunID) { lost(h, id); h.stop(id, "") }, mlaas.Stopped, "stopped by the user", -1},
		{"stopped when it was done", `{}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-0", mlaas.ReplicaSucceeded)
			h.set(id, "worker-1", mlaas.ReplicaSucceeded)
			h.stop(id, "")
		}, mlaas.Succeeded, "every worker ended with exit code 0", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, open(t))
			h.cluster("local", "4", "16Gi", 0)
			id := h.ask("mnist", strings.TrimSuffix(psAndTwo, "}")+", "+strings.TrimPrefix(strings.Replace(tt.spec, "{}", `{"labels": {}}`, 1), "{"))
			h.turn()
			h.runs(id)
			tt.happens(h, id)
			h.turn()
			if s := h.state(id); s.State == mlaas.Stopping { // booster does as it is told
				if !strings.Contains(s.Reason, tt.reason) {
					t.Errorf("says %q while it stops, want %q in it", s.Reason, tt.reason)
				}
				for _, name := range []string{"ps-0", "worker-0", "worker-1"} {
					r, _, err := store.Replicas(h.db).Get(t.Context(), mlaas.DefaultTenant, store.ReplicaKey(id, name))
					h.must(err)
					if !r.Status.Final() {
						h.set(id, name, mlaas.ReplicaStopped)
					}
				}
				h.turn()
			}
			h.is(id, tt.state, tt.reason)
			s := h.state(id)
			switch {
			case tt.exit < 0 && s.ExitCode != nil:
				t.Errorf("exit code %d, want none", *s.ExitCode)
			case tt.exit >= 0 && (s.ExitCode == nil || *s.ExitCode != tt.exit):
				t.Errorf("exit code %v, want %d", s.ExitCode, tt.exit)
			}
			if s.State.Final() != (h.held("local") == "") {
				t.Errorf("%s, and the ledger holds %q", s.State, h.held("local"))
			}
			if !s.State.Final() && (s.Reason == "" || !s.Next.After(h.time)) {
				t.Errorf("no reason or no deadline: %+v", s)
			}
		})
	}
}

// What cannot start fails at once, whatever restarts are left.
func TestStartRefused(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		happens    func(h *house, id mlaas.RunID)
		reason     string
	}{
		{"guiding mode of a framework that has none", `{"code": {"mode": "guiding"}}`, nil, "environment.framework is \"python\", want one that guiding mode is for: jax, keras, pytorch, tensorflow"},
		{"a dataset that is not there", `{"data": [{"name": "d", "source": "dataset:mnist@3"}]}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-0", mlaas.ReplicaReady)
		}, "data d: there is no mnist@3, see mlaas data ls"},
		{"a package that does not exist", `{"execution": {"restarts": {"user": 5}}}`, func(h *house, id mlaas.RunID) {
			h.set(id, "worker-0", mlaas.ReplicaReady)
			h.turn()
			h.set(id, "worker-0", mlaas.ReplicaFailed, because("there is no package tensorflwo"))
		}, "worker-0 could not start: there is no package tensorflwo"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, open(t))
			h.cluster("local", "4", "16Gi", 0)
			id := h.ask("mnist", tt.spec)
			h.turn()
			if tt.happens != nil {
				tt.happens(h, id)
				h.turn()
				h.all(id, mlaas.ReplicaStopped)
				h.turn()
			}
			h.is(id, mlaas.Failed, tt.reason)
			if got := h.held("local"); got != "" {
				t.Errorf("the ledger holds %q", got)
			}
		})
	}
}

// Replicas that run different code are no attempt at anything.
func TestCodeDisagrees(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	prepared := func(digest mlaas.Digest, python string) func(*mlaas.Replica) {
		return func(r *mlaas.Replica) { r.Prepared = &mlaas.Prepared{Digest: digest, Python: python} }
	}
	h.set(id, "worker-0", mlaas.ReplicaRunning, prepared("sha256:a", "3.11.2"))
	h.set(id, "ps-0", mlaas.ReplicaRunning, prepared("sha256:a", "3.12.1"))
	h.turn()
	h.is(id, mlaas.Running, "")
	h.set(id, "worker-1", mlaas.ReplicaRunning, prepared("sha256:b", "3.8.1"))
	h.turn()
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.is(id, mlaas.Failed, "worker-0 and worker-1 would run different code: prepared by Python 3.11.2 it is sha256:a, by Python 3.8.1 it is sha256:b; state environment.python, or use code.mode plain")
}

func TestDataset(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	for v := 1; v <= 3; v++ {
		put(h, store.Datasets(h.db), mlaas.Dataset{Tenant: mlaas.DefaultTenant, Name: "mnist", Version: v, Tree: mlaas.Digest(fmt.Sprint("sha256:", v))})
	}
	env := mlaas.Environment{Framework: "pytorch", Packages: []string{"numpy"}}
	put(h, store.Locks(h.db), mlaas.Locked{Tenant: mlaas.DefaultTenant, Spec: env.Spec(), Lock: "sha256:lock"})
	id := h.ask("mnist", `{"environment": {"framework": "pytorch", "packages": ["numpy"]}, "data": [
		{"name": "a", "source": "dataset:mnist@2"}, {"name": "b", "source": "dataset:mnist"}, {"name": "c", "source": "dataset:mnist@v1"}, {"name": "d", "source": "https://example.org/x"}]}`)
	h.turn()
	h.set(id, "worker-0", mlaas.ReplicaReady)
	h.turn()
	launch, _, err := store.Launches(h.db).Get(t.Context(), mlaas.DefaultTenant, store.LaunchKey(id, 1))
	h.must(err)
	if got := fmt.Sprint(launch.Data); got != "[{a dataset:mnist@2 sha256:2 <nil>} {b dataset:mnist sha256:3 <nil>} {c dataset:mnist@v1 sha256:1 <nil>} {d https://example.org/x  <nil>}]" {
		t.Errorf("data are %s", got)
	}
	if launch.Environment.Lock != "sha256:lock" {
		t.Errorf("the lock is %q", launch.Environment.Lock)
	}
}

// What a source gave to one attempt is what the next is told to get.
func TestSourceIsKept(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("repo", `{"data": [{"name": "a", "source": "git+https://host/repo"}, {"name": "b", "source": "https://host/x"}]}`)
	h.turn()
	h.runs(id)
	was := mlaas.Fetched{Name: "a", Source: "git+https://host/repo", Tree: "sha256:a", Commit: "abc"}
	h.set(id, "worker-0", mlaas.ReplicaLost, because("machine restarted"))
	h.turn()
	h.later(2 * time.Minute)
	h.set(id, "worker-0", mlaas.ReplicaReady, func(r *mlaas.Replica) { r.Data = []mlaas.Fetched{was} }) // booster keeps them
	h.turn()
	launch, _, err := store.Launches(h.db).Get(t.Context(), mlaas.DefaultTenant, store.LaunchKey(id, 2))
	h.must(err)
	if d := launch.Data; len(d) != 2 || d[0].Was == nil || *d[0].Was != was || d[1].Was != nil {
		t.Errorf("data are %+v", d)
	}
}

// A run that lost a replica waits for the others to end, pauses, and begins
// again under the next epoch, from the newest checkpoint.
func TestBeginsAgain(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "2", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	h.checkpoint(id, 1, 900, "worker-0", "sha256:900")
	h.checkpoint(id, 1, 1000, "worker-1", "sha256:other")
	h.checkpoint(id, 1, 1000, "worker-0", "sha256:1000")
	h.heard()
	h.time = h.time.Add(90 * time.Minute)
	h.set(id, "worker-1", mlaas.ReplicaLost, because("machine restarted"))
	h.turn()
	h.hears("ReplicasUnwanted r000/1 worker-1 was lost: machine restarted")
	h.later(2 * time.Second)
	h.is(id, mlaas.Queued, "")
	if got := h.held("local"); got != "r000:1500m" {
		t.Errorf("replicas still live, and the ledger holds %q", got)
	}
	h.later(2 * time.Minute) // booster did not hear it
	h.hears("ReplicasUnwanted r000/1 worker-1 was lost: machine restarted")
	h.set(id, "ps-0", mlaas.ReplicaStopped)
	h.set(id, "worker-0", mlaas.ReplicaStopped)
	h.turn()
	h.is(id, mlaas.Starting, "starting on local: 0 of 3 replicas ready; attempt 2, from the checkpoint of step 1000, because worker-1 was lost: machine restarted")
	h.hears("ReplicasWanted r000/2")
	s := h.state(id)
	if s.Epoch != 2 || s.Restarts.Infrastructure != 1 || len(s.Attempts) != 2 || s.Attempts[1].Resume != "sha256:1000" || s.Attempts[0].Reason != "worker-1 was lost: machine restarted" {
		t.Errorf("the second attempt is %+v", s)
	}
	h.all(id, mlaas.ReplicaReady)
	h.turn()
	launch, _, err := store.Launches(h.db).Get(t.Context(), mlaas.DefaultTenant, store.LaunchKey(id, 2))
	h.must(err)
	if launch.Resume != "sha256:1000" || launch.ResumeStep != 1000 || launch.Epoch != 2 {
		t.Errorf("it resumes from %+v", launch)
	}
	h.all(id, mlaas.ReplicaRunning)
	h.turn()
	h.is(id, mlaas.Running, "running 3 replicas on local; attempt 2, from the checkpoint of step 1000, because worker-1 was lost: machine restarted")
}

// Attempts that do not last come slower and slower, and end with the budget.
func TestPauses(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "2", "16Gi", 0)
	id := h.ask("flaky", `{}`)
	h.turn()
	var waits []time.Duration
	for h.state(id).State != mlaas.Failed {
		h.set(id, "worker-0", mlaas.ReplicaLost, because("evicted"))
		h.turn()
		s := h.state(id)
		if s.State == mlaas.Queued {
			waits = append(waits, s.Next.Sub(h.time))
			h.later(s.Next.Sub(h.time) - time.Millisecond)
			h.is(id, mlaas.Queued, "")
			h.later(time.Millisecond)
			h.is(id, mlaas.Starting, "")
		}
	}
	if got := fmt.Sprint(waits); got != "[1s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s]" {
		t.Errorf("it waits %s", got)
	}
	h.is(id, mlaas.Failed, "worker-0 was lost: evicted; 10 restarts after a loss used up")
	if s := h.state(id); s.Epoch != 11 {
		t.Errorf("%d attempts", s.Epoch)
	}

	id = h.ask("long", `{}`)
	h.turn()
	for range 3 {
		h.later(time.Hour)
		h.set(id, "worker-0", mlaas.ReplicaLost)
		h.turn()
		if wait := h.state(id).Next.Sub(h.time); wait != time.Second {
			t.Errorf("after a long attempt it waits %v", wait)
		}
		h.later(time.Second)
	}
}

// What the replicas hold is free when they are gone, or their cluster is.
func TestGrantOutlives(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("east", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	h.cluster("west", "4", "16Gi", 0)
	h.down("east", "no answer for 60 s")
	h.set(id, "worker-0", mlaas.ReplicaLost, because("cluster east does not answer"))
	h.turn()
	h.later(time.Second)
	h.is(id, mlaas.Starting, "starting on west: 0 of 3 replicas ready; attempt 2, from the beginning, as there is no checkpoint, because worker-0 was lost: cluster east does not answer")
	if east, west := h.held("east"), h.held("west"); east != "" || west != "r000:1500m" {
		t.Errorf("east holds %q, west %q", east, west)
	}
	// The zombies of east say something of their epoch: nothing follows.
	h.fire(mlaas.RuleFired{Run: id, Epoch: 1, Rule: "whose"})
	h.is(id, mlaas.Starting, "")
}

// A run can be stopped wherever it stands, also before booster heard of it.
func TestStopAnywhere(t *testing.T) {
	for _, tt := range []struct {
		name string
		come func(h *house, id mlaas.RunID)
	}{
		{"created", func(*house, mlaas.RunID) {}},
		{"queued", func(h *house, id mlaas.RunID) { h.ask("large", `{"roles": {"worker": {"cpu": 4}}}`); h.turn() }},
		{"starting, not heard of", func(h *house, id mlaas.RunID) { h.turn() }},
		{"starting", func(h *house, id mlaas.RunID) { h.turn(); h.all(id, mlaas.ReplicaPending); h.turn() }},
		{"running", func(h *house, id mlaas.RunID) { h.turn(); h.runs(id) }},
		{"back in line", func(h *house, id mlaas.RunID) {
			h.turn()
			h.runs(id)
			h.set(id, "worker-0", mlaas.ReplicaLost)
			h.turn()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, open(t))
			h.cluster("local", "4", "16Gi", 0)
			if tt.name == "queued" {
				h.ask("first", `{"roles": {"worker": {"cpu": 4}}}`)
			}
			id := h.ask("mnist", psAndTwo)
			tt.come(h, id)
			h.stop(id, "")
			h.turn()
			if s := h.state(id); s.State == mlaas.Stopping {
				for _, name := range []string{"ps-0", "worker-0", "worker-1"} {
					if r, _, err := store.Replicas(h.db).Get(t.Context(), mlaas.DefaultTenant, store.ReplicaKey(id, name)); err == nil && !r.Status.Final() {
						h.set(id, name, mlaas.ReplicaStopped)
					}
				}
				h.turn()
			}
			h.is(id, mlaas.Stopped, "stopped by the user")
			if strings.Contains(h.held("local"), string(id)) {
				t.Errorf("the ledger holds %q", h.held("local"))
			}
			h.turn()
			h.is(id, mlaas.Stopped, "stopped by the user")
		})
	}
}

// A wish that had no effect is said again; a replica that does not come is a
// loss in the end.
func TestOverdue(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", `{}`)
	h.turn()
	h.hears("ReplicasWanted r000/1")
	h.later(30 * time.Second)
	h.hears()
	h.later(30 * time.Second)
	h.hears("ReplicasWanted r000/1")
	h.set(id, "worker-0", mlaas.ReplicaReady)
	h.turn()
	h.hears("CodeReady r000/1")
	h.later(time.Minute)
	h.hears("CodeReady r000/1")
	h.set(id, "worker-0", mlaas.ReplicaRunning)
	h.turn()
	h.stop(id, "")
	h.turn()
	h.heard()
	h.later(2 * time.Minute)
	h.hears("ReplicasUnwanted r000/1 stopped by the user")
	h.set(id, "worker-0", mlaas.ReplicaStopped)
	h.turn()

	id = h.ask("mnist", `{}`)
	h.turn()
	h.set(id, "worker-0", mlaas.ReplicaPending, because("image not found"))
	h.later(15 * time.Minute)
	h.is(id, mlaas.Queued, "worker-0 was not ready after 15m: image not found; attempt 2 begins in 1s at the earliest, after the replicas of attempt 1 have ended")
}

// What the 30-second look heals: a run nobody heard of, a grant that outlived
// its run, replicas without a run.
func TestHeals(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", `{}`)
	k := &keeper{c: h.c, next: map[key]time.Time{}}
	h.must(k.all(t.Context()))
	h.is(id, mlaas.Queued, "queued: waits for its turn")
	h.must(h.c.admit(t.Context(), &k.line))
	h.runs(id)
	h.set(id, "worker-0", mlaas.ReplicaSucceeded)
	h.must(k.all(t.Context()))
	h.is(id, mlaas.Succeeded, "")

	put(h, store.Ledgers(h.db), mlaas.Ledger{Cluster: "local", Grants: map[mlaas.RunID]mlaas.Grant{id: {Tenant: mlaas.DefaultTenant, Epoch: 1, Total: mlaas.Resources{CPU: 4000}}}})
	h.set(id, "worker-0", mlaas.ReplicaRunning)
	h.heard()
	h.must(k.all(t.Context()))
	h.hears("ReplicasUnwanted r000/1 the attempt is over")
	if got := h.held("local"); got != "" {
		t.Errorf("the ledger holds %q", got)
	}
}

// A contractor that decided on a loss, and was slow to commit it, while the
// last worker ended well: the run was done, and is not run again.
func TestDoneAfterAll(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	h.set(id, "worker-0", mlaas.ReplicaSucceeded)
	h.set(id, "ps-0", mlaas.ReplicaLost)
	slow, err := h.c.look(t.Context(), mlaas.DefaultTenant, id, nil)
	h.must(err)
	h.set(id, "worker-1", mlaas.ReplicaSucceeded)
	h.must(h.db.Commit(t.Context(), slow))
	h.is(id, mlaas.Queued, "")
	h.turn()
	h.is(id, mlaas.Succeeded, "every worker ended with exit code 0")
	if s := h.state(id); s.Epoch != 1 || s.ExitCode == nil || *s.ExitCode != 0 {
		t.Errorf("it ended as %+v", s)
	}
}

// The same where nobody waited for the workers, because their cluster did not
// answer, and the attempt has given back what it held.
func TestDoneAfterItWasFreed(t *testing.T) {
	for _, placing := range []bool{false, true} {
		h := newHouse(t, open(t))
		h.cluster("local", "4", "16Gi", 0)
		id := h.ask("mnist", psAndTwo)
		h.turn()
		h.runs(id)
		h.set(id, "ps-0", mlaas.ReplicaLost)
		h.down("local", "it does not answer")
		h.turn()
		h.is(id, mlaas.Queued, "")
		if held := h.held("local"); held != "" {
			t.Fatalf("the ledger holds %q: the test shows nothing", held)
		}
		for _, name := range []string{"worker-0", "worker-1"} {
			h.set(id, name, mlaas.ReplicaSucceeded, func(r *mlaas.Replica) { r.Cluster = "local" })
		}
		h.cluster("east", "4", "16Gi", 0)
		h.time = h.time.Add(time.Minute)
		if placing { // before anybody has looked at the run
			h.must(h.c.admit(h.ctx(), &h.line))
		}
		h.turn()
		h.is(id, mlaas.Succeeded, "every worker ended with exit code 0")
		if s := h.state(id); s.Epoch != 1 {
			t.Errorf("it was run again: %+v", s)
		}
	}
}

// The clock of the contractor that looks may be behind that of the one before,
// or go back: nothing takes less than no time, or waits longer than it should.
func TestClocks(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	h.time = h.time.Add(-time.Hour)
	h.set(id, "worker-1", mlaas.ReplicaLost)
	h.turn()
	for _, name := range []string{"ps-0", "worker-0"} {
		h.set(id, name, mlaas.ReplicaStopped)
	}
	h.turn()
	h.is(id, mlaas.Starting, "")
	for _, a := range h.state(id).Attempts {
		if a.Ended != nil && a.Ended.Before(a.Began) {
			t.Errorf("attempt %d lasted %s", a.Epoch, a.Ended.Sub(a.Began))
		}
	}
	if a := h.state(id).Attempts; len(a) != 2 || a[1].Began.Before(*a[0].Ended) {
		t.Errorf("the attempts are %+v", a)
	}
	h.heard()
	h.time = h.time.Add(-time.Hour) // its wish may be lost, and its deadline is two hours away
	h.turn()
	h.hears("ReplicasWanted r000/2")
}

// A run that is stopped before booster heard of it ends at once, unless booster
// begins at the same moment.
func TestStoppedAsItStarts(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", `{}`)
	h.turn()
	h.stop(id, "")
	slow, err := h.c.look(t.Context(), mlaas.DefaultTenant, id, nil)
	h.must(err)
	h.set(id, "worker-0", mlaas.ReplicaWanted)
	if err := h.db.Commit(t.Context(), slow); !errors.Is(err, mlaas.ErrConflict) {
		t.Fatalf("the run ends over a replica that begins: %v", err)
	}
	h.turn()
	h.is(id, mlaas.Stopping, "stopped by the user; ends worker-0")
	h.set(id, "worker-0", mlaas.ReplicaStopped)
	h.turn()
	h.is(id, mlaas.Stopped, "stopped by the user")
}

// A run that changes its size lets its replicas save and end, and goes on with
// the next attempt.
func TestResizes(t *testing.T) {
	h := newHouse(t, open(t))
	h.cluster("local", "4", "16Gi", 0)
	id := h.ask("mnist", psAndTwo)
	h.turn()
	h.runs(id)
	h.heard()
	run, _, err := store.Runs(h.db).Get(t.Context(), mlaas.DefaultTenant, string(id))
	h.must(err)
	state, rev, err := store.RunStates(h.db).Get(t.Context(), mlaas.DefaultTenant, string(id))
	h.must(err)
	rule, _ := jobengine.Next(state.State, jobengine.ResizeAsked)
	l := &look{c: h.c, now: h.time, run: run, state: state, rev: rev}
	h.must(l.do(t.Context(), rule, sight{}))
	l.batch.Put = append(l.batch.Put, store.RunStates(h.db).Put(l.state, rev))
	h.must(h.db.Commit(t.Context(), l.batch))
	h.is(id, mlaas.Resizing, "saves its work, to go on with another number of workers")
	h.hears("ReplicasUnwanted r000/1 the run changes its size")
	h.later(2 * time.Minute)
	h.is(id, mlaas.Resizing, "")
	h.hears("ReplicasUnwanted r000/1 the run changes its size")
	h.checkpoint(id, 1, 70, "worker-0", "sha256:70")
	h.all(id, mlaas.ReplicaStopped)
	h.turn()
	h.is(id, mlaas.Queued, "gave its replicas back to change its size; attempt 2 begins in 1s at the earliest")
	h.later(time.Second)
	h.is(id, mlaas.Starting, "starting on local: 0 of 3 replicas ready; attempt 2, from the checkpoint of step 70, because it changes its size")
	if s := h.state(id); s.Restarts != (mlaas.Restarts{Resize: 1}) || s.Epoch != 2 {
		t.Errorf("the second attempt is %+v", s)
	}
}
