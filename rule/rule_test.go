package rule

import (
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

func TestChange(t *testing.T) {
	seven, one := 7, 1
	pending := Seen{Replica: "worker-0", Role: "worker", Status: mlaas.ReplicaPending, Reason: "looking for image x"}
	stuck := pending
	stuck.Reason = "image x cannot be pulled"
	failed := Seen{Replica: "worker-0", Role: "worker", Status: mlaas.ReplicaFailed, Reason: "it ended", ExitCode: &seven}
	full := failed
	full.OOM = true
	lost := Seen{Replica: "worker-0", Role: "worker", Status: mlaas.ReplicaLost, Reason: "node n7 is gone", NodeLost: true}
	tests := []struct {
		name    string
		on      mlaas.RuleOn
		was, is Seen
		want    bool
		saw     string
	}{
		{"a status", mlaas.RuleOn{Status: mlaas.ReplicaFailed}, pending, failed, true, "worker-0 is failed with exit code 7"},
		{"another status", mlaas.RuleOn{Status: mlaas.ReplicaLost}, pending, failed, false, ""},
		{"another role", mlaas.RuleOn{Status: mlaas.ReplicaFailed, Role: "ps"}, pending, failed, false, ""},
		{"an exit code", mlaas.RuleOn{ExitCode: &seven}, pending, failed, true, "worker-0 is failed with exit code 7"},
		{"another exit code", mlaas.RuleOn{ExitCode: &one}, pending, failed, false, ""},
		{"memory", mlaas.RuleOn{OOM: true}, pending, full, true, "worker-0 is failed with exit code 7, out of memory"},
		{"no memory", mlaas.RuleOn{OOM: true}, pending, failed, false, ""},
		{"a lost node", mlaas.RuleOn{NodeLost: true}, pending, lost, true, "worker-0 is lost, its node is lost"},
		{"a reason", mlaas.RuleOn{Reason: "cannot"}, pending, stuck, true, "worker-0 is pending: image x cannot be pulled"},
		{"a reason that stays", mlaas.RuleOn{Reason: "image"}, pending, stuck, false, ""},
		{"a role alone, at a change of status", mlaas.RuleOn{Role: "worker"}, pending, failed, true, "worker-0 is failed with exit code 7"},
		{"a role alone, at a change of reason", mlaas.RuleOn{Role: "worker"}, pending, stuck, false, ""},
		{"lines alone", mlaas.RuleOn{Log: "x"}, pending, failed, false, ""},
		{"times", mlaas.RuleOn{NoStep: 5}, pending, failed, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Compile(mlaas.ActionRule{On: tt.on})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Change(tt.was, tt.is)
			if got != tt.want {
				t.Fatalf("Change: %t, want %t", got, tt.want)
			}
			if saw := r.Saw(tt.is, ""); got && saw != tt.saw {
				t.Errorf("Saw: %q, want %q", saw, tt.saw)
			}
		})
	}
}

func TestDue(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	both, _ := Compile(mlaas.ActionRule{On: mlaas.RuleOn{NoStep: 60, CPUIdle: 120}})
	if _, ok := both.Due(Quiet{Step: t0}); ok {
		t.Error("a time that is not known is over")
	}
	at, ok := both.Due(Quiet{Step: t0.Add(3 * time.Minute), CPU: t0})
	if !ok || !at.Equal(t0.Add(4*time.Minute)) {
		t.Errorf("Due: %s, %t; want both times to be over", at, ok)
	}
	if s := both.Since(Quiet{Step: t0.Add(3 * time.Minute), CPU: t0}); !s.Equal(t0.Add(3 * time.Minute)) {
		t.Errorf("Since: %s", s)
	}
}

func TestCompile(t *testing.T) {
	for _, on := range []mlaas.RuleOn{{Log: "("}, {Reason: "("}} {
		if _, err := Compile(mlaas.ActionRule{On: on}); err == nil {
			t.Errorf("%+v is read", on)
		}
	}
}
