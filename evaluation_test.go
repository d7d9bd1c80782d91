package mlaas

import (
	"errors"
	"strings"
	"testing"
)

func TestDirectionOf(t *testing.T) {
	for name, want := range map[string]string{
		"accuracy": "max", "val_acc": "max", "val/loss": "min", "test/auc_macro": "max", "rmse": "min", "valid-mae": "min",
		"top_5": "max", "brier": "min", "loss_accuracy": "max", "log_loss": "min", "mcc": "max", "Perplexity": "min",
		"lr": "", "epoch": "", "system/cpu": "", "placebo": "", "closs": "", "accelerate": "",
	} {
		if got := DirectionOf(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestHeadline(t *testing.T) {
	for _, tt := range []struct {
		name     string
		e        Evaluation
		measured string
		want     string // metric and direction
	}{
		{"what is held back first", Evaluation{}, "loss accuracy val_loss val_accuracy lr", "val_accuracy max"},
		{"chosen by validation, not by test", Evaluation{}, "test/accuracy val_acc", "val_acc max"},
		{"nothing held back", Evaluation{}, "loss lr", "loss min"},
		{"regression", Evaluation{Task: "regression"}, "val_loss val_r2 val_mae", "val_r2 max"},
		{"named", Evaluation{Metric: "score_x", Direction: "min"}, "val_accuracy", "score_x min"},
		{"named, direction by name", Evaluation{Metric: "val_loss"}, "val_accuracy", "val_loss min"},
		{"nothing tells", Evaluation{}, "lr epoch", ""},
		{"nothing measured", Evaluation{}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.e.Headline(strings.Fields(tt.measured))
			got := ""
			if h != nil {
				got = h.Metric + " " + h.Direction
				if h.Why == "" {
					t.Error("it says no reason")
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	r := Replica{Step: 9, Metrics: map[string]Number{"val_acc": 0.8, "loss": 1}, Best: map[string]Best{"val_acc": {0.9, 5}}}
	j := Evaluation{}.Judge(r)
	if j == nil || j.Metric != "val_acc" || j.Value != 0.8 || j.Best != (Best{0.9, 5}) {
		t.Errorf("%+v", j)
	}
	if j := (Evaluation{Metric: "auc"}).Judge(r); j != nil {
		t.Errorf("judged by what was not measured: %+v", j)
	}
}

func TestEvaluationIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"task": "clustering"}`:                    "evaluation.task is \"clustering\", want classification, regression, ranking, other",
		`{"metric": "goodness"}`:                    "evaluation.direction is \"\", want max or min: it does not follow from the name goodness",
		`{"metric": "acc", "direction": "up"}`:      "evaluation.direction is \"up\", want max or min",
		`{"labels": ["a", "b", "a"]}`:               "evaluation.labels[2] is \"a\", want a label that no other class has",
		`{"charts": ["roc", "pie"]}`:                "evaluation.charts[1] is \"pie\", want scores, confusion, roc",
		`{"smoothing": 1}`:                          "evaluation.smoothing is 1, want 0 (as measured) to 0.99",
		`{"metric": "val_acc", "smoothing": 0.6}`:   "",
		`{"metric": "goodness", "direction":"max"}`: "",
	} {
		spec, err := ReadJob([]byte(`{"name": "j", "evaluation": ` + text + `}`))
		if err == nil {
			spec.Complete()
			err = spec.Check()
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestReadEvaluation(t *testing.T) {
	good := `{"format": 1, "name": "test", "step": 3, "task": "binary", "rows": 4, "scores": {"accuracy": 0.5, "auc": null}, "roc": [{"label": "1", "auc": 0.5, "points": [[0, 0], [1, 1]]}]}`
	c, err := ReadEvaluation([]byte(good))
	if err != nil || *c.Scores["accuracy"] != 0.5 || c.Scores["auc"] != nil || len(c.ROC[0].Points) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{
		`nonsense`, `{"format": 2, "name": "a", "task": "binary"}`, `{"format": 1, "name": "", "task": "binary"}`,
		`{"format": 1, "name": "a\u0007", "task": "binary"}`, `{"format": 1, "name": "a", "task": "sorting"}`,
		`{"format": 1, "name": "a", "task": "binary", "step": -1}`, `{"format": 1, "name": "a", "task": "binary", "roc": "none"}`,
		`{"format": 1, "name": "` + strings.Repeat("a", MaxEvaluation) + `"}`,
	} {
		if _, err := ReadEvaluation([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60s: %v, want that it is invalid", bad, err)
		}
	}
}
