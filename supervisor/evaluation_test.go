package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"mlaas.dev/mlaas"
)

// What a program evaluated outlives its supervisor until the door has it, and
// what is no evaluation is refused with a reason.
func TestEvaluationsAreKept(t *testing.T) {
	s := &Supervisor{Config: Config{Folder: t.TempDir(), Fence: mlaas.Fence{Replica: "worker-0"}}, Log: slog.New(slog.DiscardHandler)}
	e, err := openEvaluations(s)
	if err != nil {
		t.Fatal(err)
	}
	if !e.delivered() {
		t.Error("nothing was taken and something is not delivered")
	}
	for _, bad := range []string{`{`, `{"format": 1, "name": "a", "task": "sorting"}`} {
		if err := e.take([]byte(bad)); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, name := range []string{"val", "test"} {
		if err := e.take([]byte(`{"format": 1, "name": "` + name + `", "step": 2, "task": "binary", "scores": {"accuracy": 1, "auc": null}, "unknown": true}`)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openEvaluations(s)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := again.next()
	if !ok || n != 1 || again.last != 2 || again.delivered() {
		t.Errorf("after a restart: next %d %v, last %d, delivered %v", n, ok, again.last, again.delivered())
	}
	again.welcomed(false)
	if !again.delivered() {
		t.Error("a door that takes none keeps the replica from its end")
	}
	again.welcomed(true)
	again.files, again.ready = nil, []*mlaas.EvaluationMade{{Seq: 2}, {Seq: 1}}
	if made := again.made(); len(made) != 2 || made[0].Seq != 1 {
		t.Errorf("told in the order %+v", made)
	}
	again.acked(1)
	again.acked(2)
	if left, _ := os.ReadDir(again.dir); len(left) != 0 || !again.delivered() {
		t.Errorf("delivered, and there is still %v", left)
	}
}

func TestEvaluationsAreBounded(t *testing.T) {
	s := &Supervisor{Config: Config{Folder: t.TempDir()}, Log: slog.New(slog.DiscardHandler)}
	e, err := openEvaluations(s)
	if err != nil {
		t.Fatal(err)
	}
	e.last = maxEvaluations
	one := []byte(`{"format": 1, "name": "a", "task": "binary", "scores": {}}`)
	if err := e.take(one); !errors.Is(err, mlaas.ErrTooLarge) {
		t.Errorf("one too many: %v", err)
	}
	if err := e.take(one); err != nil {
		t.Errorf("it is said once, and again came %v", err)
	}
}
