package jobengine_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	. "mlaas.dev/mlaas/contractor/jobengine"
)

var update = flag.Bool("update", false, "write the picture anew")

func TestLives(t *testing.T) {
	tests := []struct {
		name   string
		events []Event
		want   mlaas.State
	}{
		{"as it should be", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, WorkersDone, GoneSucceeded}, mlaas.Succeeded},
		{"every message twice", []Event{RunAsked, RunAsked, Admitted, Admitted, ReplicasReady, ProgramsStarted, ProgramsStarted, WorkersDone, WorkersDone, GoneSucceeded, GoneSucceeded}, mlaas.Succeeded},
		{"over before it was seen running", []Event{RunAsked, Admitted, ReplicasReady, WorkersDone, GoneSucceeded, ProgramsStarted}, mlaas.Succeeded},
		{"asks for more than there is", []Event{RunAsked, CannotEver, Admitted}, mlaas.Failed},
		{"code of a mode that is not built", []Event{StartRefused, RunAsked}, mlaas.Failed},
		{"stopped before it was heard of", []Event{StopAsked, RunAsked}, mlaas.Stopped},
		{"stopped in line", []Event{RunAsked, StopAsked, Admitted, GoneStopped}, mlaas.Stopped},
		{"stopped before a replica came", []Event{RunAsked, Admitted, StopAsked, ReplicasReady, GoneStopped}, mlaas.Stopped},
		{"stopped while training", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, StopAsked, Loss, GoneStopped}, mlaas.Stopped},
		{"a package that does not exist", []Event{RunAsked, Admitted, ReplicasReady, StartRefused, GoneFailed}, mlaas.Failed},
		{"exit code 1, no restart", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, UserFaultSpent, WorkersDone, GoneFailed}, mlaas.Failed},
		{"exit code 1, one restart", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, UserFault, ReplicasGone, Admitted, ReplicasReady, ProgramsStarted, UserFaultSpent, GoneFailed}, mlaas.Failed},
		{"machine lost while training", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, Loss}, mlaas.Queued},
		{"machine lost, then well", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, Loss, Loss, ReplicasGone, ReplicasGone, Admitted, ReplicasReady, ProgramsStarted, WorkersDone, GoneSucceeded}, mlaas.Succeeded},
		{"machine lost while starting", []Event{RunAsked, Admitted, Loss, ReplicasGone, Admitted, LossSpent, GoneFailed}, mlaas.Failed},
		{"machine lost again and again", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, LossSpent, Loss, GoneFailed}, mlaas.Failed},
		{"lost after the workers were done", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, WorkersDone, Loss, LossSpent, GoneSucceeded}, mlaas.Succeeded},
		{"done although a ps was lost", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, Loss, WorkersDone, GoneSucceeded, Admitted}, mlaas.Succeeded},
		{"stopped while the old replicas end", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, Loss, StopAsked, GoneStopped}, mlaas.Stopped},
		{"a rule restarts it", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, RuleRestart, RuleRestart}, mlaas.Queued},
		{"a rule stops it", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, RuleStop, RuleRestart, GoneStopped}, mlaas.Stopped},
		{"takes too long", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, UserFaultSpent, Overdue, GoneFailed}, mlaas.Failed},
		{"nothing happens for a while", []Event{RunAsked, Overdue, Admitted, Overdue, ReplicasReady, Overdue, ProgramsStarted, Overdue, WorkersDone, Overdue, GoneSucceeded, Overdue}, mlaas.Succeeded},
		{"grows by the next attempt", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, ResizeAsked, ReplicasGone, Admitted, ReplicasReady, ProgramsStarted}, mlaas.Running},
		{"grows in place", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, ResizeAsked, Resized}, mlaas.Running},
		{"done while it was to grow", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, ResizeAsked, WorkersDone, ReplicasGone, GoneSucceeded}, mlaas.Succeeded},
		{"stopped while it was to grow", []Event{RunAsked, Admitted, ReplicasReady, ProgramsStarted, ResizeAsked, StopAsked, Resized, GoneStopped}, mlaas.Stopped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := mlaas.Created
			for _, e := range tt.events {
				r, _ := Next(s, e)
				s = r.To
			}
			if s != tt.want {
				t.Errorf("ends %s, want %s", s, tt.want)
			}
		})
	}
}

// to is every state that a run in one of these can come to.
func to(from ...mlaas.State) map[mlaas.State]bool {
	reached := map[mlaas.State]bool{}
	for len(from) > 0 {
		s := from[0]
		from = from[1:]
		if reached[s] {
			continue
		}
		reached[s] = true
		for _, r := range Table {
			if r.From == s {
				from = append(from, r.To)
			}
		}
	}
	return reached
}

// The table as a graph: no two rules for one event, nothing leaves an end,
// every state is reached, an end is in reach of every other state, and a user
// can stop a run from wherever it stands.
func TestTable(t *testing.T) {
	seen := map[[2]string]bool{}
	for _, r := range Table {
		k := [2]string{string(r.From), string(r.On)}
		if seen[k] {
			t.Errorf("two rules: %v", r)
		}
		seen[k] = true
		if r.From.Final() {
			t.Errorf("leaves an end: %v", r)
		}
		if !slices.Contains(mlaas.States, r.From) || !slices.Contains(mlaas.States, r.To) {
			t.Errorf("no such state: %v", r)
		}
		if r.To.Final() != (r.Do == Finish) {
			t.Errorf("an end is written exactly where a run ends: %v", r)
		}
		if (r.Do.Verdict() != "") != (r.To == mlaas.Stopping && r.From != mlaas.Stopping) {
			t.Errorf("a verdict is passed exactly where a run begins to stop: %v", r)
		}
	}
	reached := to(mlaas.Created)
	for _, s := range mlaas.States {
		if !reached[s] {
			t.Errorf("no way to %s", s)
		}
		if s.Final() {
			continue
		}
		if r, ok := Next(s, StopAsked); s != mlaas.Stopping && (!ok || r.To != mlaas.Stopping && r.To != mlaas.Stopped) {
			t.Errorf("no way to stop from %s", s)
		}
		ends := to(s)
		if !ends[mlaas.Failed] && !ends[mlaas.Succeeded] && !ends[mlaas.Stopped] {
			t.Errorf("no way to an end from %s", s)
		}
		if _, ok := Next(s, Overdue); !ok && s != mlaas.Created {
			t.Errorf("nothing happens when %s takes too long", s)
		}
	}
}

// A verdict leads to its own end and to no other.
func TestVerdicts(t *testing.T) {
	for _, a := range []Action{Succeed, Fail, Stop} {
		r, ok := Next(mlaas.Stopping, Gone(a.Verdict()))
		if !ok || r.To != a.Verdict() {
			t.Errorf("%s ends in %s", a, r.To)
		}
	}
	if v := AskReplicas.Verdict(); v != "" {
		t.Errorf("asking for replicas is a verdict: %s", v)
	}
}

// The picture in the documentation is the table.
func TestPicture(t *testing.T) {
	const file = "../../docs/explanation/run-states.md"
	const before = `# The life of a run

Made from ` + "`contractor/jobengine.Table`" + ` by ` + "`go generate ./contractor/jobengine`" + `; do not edit. A run moves along one
arrow when one of the events beside it is seen. An event without an arrow is late or doubled news, and nothing happens.

While a run is stopping its verdict already stands; it is over when nothing of it is left. A run that goes back to
` + "`queued`" + ` begins its next attempt, under the next epoch, from its newest checkpoint.

`
	want := before + "```mermaid\n" + Picture() + "```\n"
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not the table's picture: run go generate ./contractor/jobengine", file)
	}
	for _, r := range Table {
		if !strings.Contains(want, string(r.From)+" --> "+string(r.To)+": ") {
			t.Errorf("the picture lacks %v", r)
		}
	}
}

func TestRuleReads(t *testing.T) {
	r, _ := Next(mlaas.Queued, Admitted)
	if got, want := r.String(), "queued --admitted--> starting (ask for replicas)"; got != want {
		t.Errorf("reads %q, want %q", got, want)
	}
}
