package management

import (
	"encoding/json"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// evaluated writes what booster would write of an evaluation.
func (a *api) evaluated(run, name, replica string, epoch int, step int64, accuracy float64) {
	a.t.Helper()
	n := mlaas.Number(accuracy)
	text, err := json.Marshal(mlaas.EvaluationContent{Format: 1, Name: name, Step: step, Task: "binary", Rows: 4, Labels: []string{"cat", "dog"},
		Scores:    map[string]*mlaas.Number{"accuracy": &n, "auc": nil},
		Confusion: &mlaas.Confusion{Matrix: [][]mlaas.Number{{3, 0}, {1, 0}}},
		ROC:       []mlaas.AreaCurve{{Label: "dog", Points: [][]mlaas.Number{{0, 0}, {0.5, 1}, {1, 1}}}}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.commit(store.Batch{Put: []store.Row{store.Evaluations(a.DB).Put(mlaas.Evaluated{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: epoch,
		Replica: replica, Name: name, Step: step, Task: "binary", Rows: 4, Scores: map[string]mlaas.Number{"accuracy": n}, Content: a.put(string(text)), Created: a.stamp()}, 0)}})
}

// read decodes an answer.
func read(a *api, path string, into any) {
	a.t.Helper()
	if err := json.Unmarshal(a.do("GET", path, nil).want(200).Body, into); err != nil {
		a.t.Fatal(err)
	}
}

func TestEvaluations(t *testing.T) {
	a := start(t)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.evaluated(run, "val/dogs", "worker-0", 1, 10, 0.5)
	a.evaluated(run, "val/dogs", "worker-0", 2, 10, 0.6)
	a.evaluated(run, "val/dogs", "worker-1", 2, 20, 0.1)
	a.evaluated(run, "val/dogs", "worker-0", 2, 20, 0.7)
	a.evaluated(run, "test", "worker-0", 2, 5, 0.9)

	var list struct{ Items []mlaas.Evaluated }
	read(a, "/api/run/j.1/evaluation?name=val/dogs&replica=worker-0", &list)
	if len(list.Items) != 3 || list.Items[0].Step != 20 || list.Items[0].Scores["accuracy"] != 0.7 {
		t.Errorf("%+v", list.Items)
	}
	of := func(query string) float64 {
		t.Helper()
		return a.do("GET", "/api/run/j.1/evaluation/val/dogs"+query, nil).want(200).get("scores").(map[string]any)["accuracy"].(float64)
	}
	if got := of(""); got != 0.7 {
		t.Errorf("the newest of the first replica has %v, want 0.7", got)
	}
	if got := of("?step=10"); got != 0.6 {
		t.Errorf("step 10 has %v, want that of the newest attempt", got)
	}
	if got := of("?replica=worker-1"); got != 0.1 {
		t.Errorf("of worker-1: %v", got)
	}
	table := string(a.do("GET", "/api/run/j.1/evaluation/test?format=csv&chart=confusion", nil).want(200).Body)
	if want := "true,predicted,rows\ncat,cat,3\ncat,dog,0\ndog,cat,1\ndog,dog,0\n"; table != want {
		t.Errorf("%q, want %q", table, want)
	}
	if table := string(a.do("GET", "/api/run/j.1/evaluation/test?format=csv&chart=scores", nil).want(200).Body); table != "score,value\naccuracy,0.9\nauc,\n" {
		t.Errorf("%q", table)
	}
	if said := string(a.do("GET", "/api/run/j.1/evaluation/test?format=csv&chart=pie", nil).want(422).Body); !strings.Contains(said, "chart is \\\"pie\\\", want scores") {
		t.Error(said)
	}
	if said := string(a.do("GET", "/api/run/j.1/evaluation/none", nil).want(404).Body); !strings.Contains(said, `run j/1 has no evaluation`) || !strings.Contains(said, "mlaas.evaluate(") {
		t.Error(said)
	}
}

func TestJudgeJob(t *testing.T) {
	a := start(t)
	a.ready("j")
	measured := func(last, best float64, step int64) string {
		run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
		a.becomes(run, mlaas.Running, "")
		a.replica(run, "worker-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) {
			r.Step, r.Metrics = 9, map[string]mlaas.Number{"val_loss": mlaas.Number(last), "lr": 1}
			r.Best = map[string]mlaas.Best{"val_loss": {Value: mlaas.Number(best), Step: step}}
		})
		a.becomes(run, mlaas.Succeeded, "")
		return run
	}
	var none JobJudged
	read(a, "/api/job/j/judged", &none)
	if none.Headline != nil || none.Best != "" || len(none.Runs) != 0 {
		t.Errorf("before the first run: %+v", none)
	}
	measured(0.5, 0.4, 3)
	good := measured(0.6, 0.2, 4)
	measured(0.3, 0.3, 9)
	var got JobJudged
	read(a, "/api/job/j/judged", &got)
	if got.Headline == nil || got.Headline.Metric != "val_loss" || got.Headline.Direction != "min" || string(got.Best) != good || len(got.Runs) != 3 || got.Runs[1].Best.Step != 4 {
		t.Errorf("%+v", got)
	}
	results := a.do("GET", "/api/job/j", nil).want(200).get("results").(map[string]any)
	if judged := results["judged"].(map[string]any); judged["value"] != 0.3 || judged["best"].(map[string]any)["value"] != 0.3 {
		t.Errorf("%v", judged)
	}
}
