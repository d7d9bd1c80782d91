package main

import (
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

func TestEvaluationText(t *testing.T) {
	n := func(v mlaas.Number) *mlaas.Number { return &v }
	e := mlaas.EvaluationContent{Name: "test", Step: 9, Task: "binary", Rows: 5, Labels: []string{"cat", "dog"}, Notes: []string{"mind this"},
		Scores:    map[string]*mlaas.Number{"accuracy": n(0.8), "auc": nil},
		PerClass:  []mlaas.ClassScores{{Label: "dog", Precision: 1, Recall: 0.5, F1: 2.0 / 3, Support: 2, AUC: n(0.75)}},
		Confusion: &mlaas.Confusion{Matrix: [][]mlaas.Number{{3, 0}, {1, 1}}}}
	text := evaluationText(e)
	flat := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{"test at step 9: binary, 5 rows", "! mind this", "accuracy 0.8", "auc -", "dog 1 0.5 0.6667 2 0.75", "cat 3 0", "dog 1 1"} {
		if !strings.Contains(flat, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if got := scoresText(mlaas.Evaluated{Scores: map[string]mlaas.Number{"mse": 4, "rmse": 2, "r2": 0.5}}); got != "r2 0.5, rmse 2" {
		t.Error(got)
	}
}
