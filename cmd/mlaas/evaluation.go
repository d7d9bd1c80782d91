package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) evaluationCommand() *cobra.Command {
	var q client.EvaluationQuery
	var step int64
	cmd := &cobra.Command{
		Use:   "evaluation JOB|JOB/N [NAME]",
		Short: "Show what a run's program evaluated: scores, classes, confusion",
		Example: `  mlaas evaluation mnist                each evaluation with its scores, newest first
  mlaas evaluation mnist/7 test         the newest called "test": scores, classes, confusion
  mlaas evaluation mnist/7 test --step 900 -o json   with every curve`,
		Args: cobra.RangeArgs(1, 2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				q.Name = args[1]
				if step >= 0 {
					q.Step = &step
				}
				e, err := cl.Evaluation(ctx, run.ID, q)
				if err != nil {
					return err
				}
				return c.show(e, []string{e.Name}, func() string { return evaluationText(e) })
			}
			all, err := client.Collect(cl.Evaluations(ctx, run.ID, q))
			if err != nil {
				return err
			}
			var names []string
			t := table{Head: []string{"NAME", "STEP", "TASK", "REPLICA", "ROWS", "SCORES"}}
			for _, e := range all {
				names = append(names, e.Name)
				t.row(e.Name, fmt.Sprint(e.Step), e.Task, e.Replica, fmt.Sprint(e.Rows), scoresText(e))
			}
			if len(all) == 0 {
				c.say("%s evaluated nothing yet: a program does so by   mlaas.evaluate(y_true, y_score, name=\"test\")", runName(run))
			}
			return c.show(all, names, t.String)
		}),
	}
	cmd.Flags().StringVar(&q.Replica, "replica", "", "of one replica alone")
	cmd.Flags().Int64Var(&step, "step", -1, "that of this step, else the newest (with NAME)")
	return cmd
}

// headlineScores are what is shown of an evaluation in one line.
var headlineScores = []string{"accuracy", "f1", "f1_macro", "auc", "auc_macro", "log_loss", "r2", "rmse", "mae"}

func scoresText(e mlaas.Evaluated) string {
	var parts []string
	for _, k := range headlineScores {
		if v, ok := e.Scores[k]; ok {
			parts = append(parts, k+" "+number(v))
		}
	}
	return strings.Join(parts[:min(4, len(parts))], ", ")
}

// mostShown is how many classes a terminal has room for.
const mostShown = 20

func evaluationText(e mlaas.EvaluationContent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at step %d: %s, %d rows\n", e.Name, e.Step, e.Task, e.Rows)
	for _, n := range e.Notes {
		fmt.Fprintf(&b, "! %s\n", n)
	}
	if e.Approximate != "" {
		fmt.Fprintf(&b, "! approximate: %s\n", e.Approximate)
	}
	scores := table{Head: []string{"SCORE", "VALUE"}}
	var keys []string
	for k := range e.Scores {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		value := "-"
		if v := e.Scores[k]; v != nil {
			value = number(*v)
		}
		scores.row(k, value)
	}
	fmt.Fprintf(&b, "\n%s", scores.String())
	if len(e.PerClass) > 0 {
		t := table{Head: []string{"CLASS", "PRECISION", "RECALL", "F1", "SUPPORT", "AUC"}}
		for _, k := range e.PerClass[:min(mostShown, len(e.PerClass))] {
			auc := "-"
			if k.AUC != nil {
				auc = number(*k.AUC)
			}
			t.row(k.Label, number(k.Precision), number(k.Recall), number(k.F1), number(k.Support), auc)
		}
		fmt.Fprintf(&b, "\n%s", t.String())
		if more := len(e.PerClass) - mostShown; more > 0 {
			fmt.Fprintf(&b, "and %d more: -o json has all\n", more)
		}
	}
	if e.Confusion != nil && len(e.Confusion.Matrix) > 0 && len(e.Confusion.Matrix) <= mostShown && len(e.Labels) == len(e.Confusion.Matrix) {
		t := table{Head: append([]string{"TRUE \\ PREDICTED"}, e.Labels...)}
		for i, row := range e.Confusion.Matrix {
			cells := []string{e.Labels[i]}
			for _, v := range row {
				cells = append(cells, number(v))
			}
			t.row(cells...)
		}
		fmt.Fprintf(&b, "\n%s", t.String())
	}
	return b.String()
}
