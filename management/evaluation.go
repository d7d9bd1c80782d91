package management

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

type evaluationsIn struct {
	runIn
	Paging
	Name    string `query:"name" doc:"Only those of this name" example:"test"`
	Replica string `query:"replica" doc:"Of this replica alone" example:"worker-0"`
}

func (m *Management) listEvaluations(ctx context.Context, in *evaluationsIn) (*Answer[List[mlaas.Evaluated]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/", Reverse: true}
	return pageOf(ctx, store.Evaluations(m.DB), q, in.Paging, func(f store.Found[mlaas.Evaluated]) (mlaas.Evaluated, bool, error) {
		e := f.Value
		return e, (in.Name == "" || e.Name == in.Name) && (in.Replica == "" || e.Replica == in.Replica), nil
	})
}

type evaluationIn struct {
	runIn
	Name    string `path:"name" doc:"Of the evaluation" example:"test"`
	Step    *int64 `query:"step" minimum:"0" doc:"That of this step; the newest where not said"`
	Replica string `query:"replica" doc:"Of this replica; the first that has one where not said" example:"worker-0"`
	Format  string `query:"format" enum:"json,csv" doc:"json where not said"`
	Chart   string `query:"chart" doc:"With format=csv: scores, confusion, roc, pr, calibration, classes, residuals or sample" example:"confusion"`
}

func (m *Management) getEvaluation(w http.ResponseWriter, r *http.Request, in *evaluationIn) error {
	ctx := r.Context()
	run, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return err
	}
	e, err := m.evaluated(ctx, run, in)
	if err != nil {
		return err
	}
	c, err := m.evaluation(ctx, e)
	if err != nil {
		return err
	}
	if in.Format != "csv" {
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(c)
	}
	rows, err := tableOf(c, in.Chart)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%d-%s.csv"`, run.JobName, run.Number, in.Chart))
	return csv.NewWriter(w).WriteAll(rows)
}

// evaluated finds the one that is meant.
func (m *Management) evaluated(ctx context.Context, run mlaas.Run, in *evaluationIn) (best mlaas.Evaluated, err error) {
	q := store.Query{Tenant: run.Tenant, Prefix: string(run.ID) + "/", Reverse: true}
	found := false
	for {
		page, next, err := store.Evaluations(m.DB).List(ctx, q)
		if err != nil {
			return best, err
		}
		for _, f := range page {
			e := f.Value
			if e.Name != in.Name || in.Step != nil && e.Step != *in.Step || in.Replica != "" && e.Replica != in.Replica {
				continue
			}
			// The newest first: those that follow of the same step may be of an
			// earlier replica, which is the one that leads.
			if found && (e.Epoch != best.Epoch || e.Step != best.Step) {
				return best, nil
			}
			best, found = e, true
		}
		if next == (store.Key{}) {
			break
		}
		q.After = next
	}
	if !found {
		what := fmt.Sprintf("run %s/%d has no evaluation %q", run.JobName, run.Number, in.Name)
		if in.Step != nil {
			what += fmt.Sprintf(" of step %d", *in.Step)
		}
		return best, fmt.Errorf("%s: its program says one with mlaas.evaluate(y_true, y_score, name=%q): %w", what, in.Name, mlaas.ErrNotFound)
	}
	return best, nil
}

// evaluation reads the content of one. It was said by a program: what is no
// evaluation is none of it.
func (m *Management) evaluation(ctx context.Context, e mlaas.Evaluated) (mlaas.EvaluationContent, error) {
	r, err := m.Blob.Get(ctx, e.Content, 0)
	if err != nil {
		return mlaas.EvaluationContent{}, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, mlaas.MaxEvaluation+1))
	if err != nil {
		return mlaas.EvaluationContent{}, err
	}
	return mlaas.ReadEvaluation(text)
}

// tableOf is one chart of an evaluation as rows, the first of which names the
// columns.
func tableOf(c mlaas.EvaluationContent, chart string) (rows [][]string, err error) {
	say := func(v mlaas.Number) string { return strconv.FormatFloat(float64(v), 'g', -1, 64) }
	maybe := func(v *mlaas.Number) string {
		if v == nil {
			return ""
		}
		return say(*v)
	}
	add := func(cells ...string) { rows = append(rows, cells) }
	numbers := func(lead []string, vs []mlaas.Number) {
		cells := slices.Clone(lead)
		for _, v := range vs {
			cells = append(cells, say(v))
		}
		add(cells...)
	}
	label := func(i int) string {
		if i >= 0 && i < len(c.Labels) {
			return c.Labels[i]
		}
		return strconv.Itoa(i)
	}
	curves := func(x, y string, of []mlaas.AreaCurve) {
		add("class", x, y)
		for _, curve := range of {
			for _, p := range curve.Points {
				numbers([]string{curve.Label}, p)
			}
		}
	}
	switch chart {
	case "scores":
		add("score", "value")
		for _, k := range sortedKeys(c.Scores) {
			add(k, maybe(c.Scores[k]))
		}
	case "confusion":
		add("true", "predicted", "rows")
		if c.Confusion == nil {
			break
		}
		for i, row := range c.Confusion.Matrix {
			for j, v := range row {
				add(label(i), label(j), say(v))
			}
		}
		for _, cell := range c.Confusion.Cells {
			if len(cell) == 3 {
				add(label(int(cell[0])), label(int(cell[1])), say(cell[2]))
			}
		}
	case "roc":
		curves("false positive rate", "true positive rate", c.ROC)
	case "pr":
		curves("recall", "precision", c.PR)
	case "calibration":
		add("class", "mean probability", "part positive", "rows")
		for _, curve := range c.Calibration {
			for _, b := range curve.Bins {
				numbers([]string{curve.Label}, b)
			}
		}
	case "classes":
		add("class", "precision", "recall", "f1", "support", "auc", "ap")
		for _, k := range c.PerClass {
			add(k.Label, say(k.Precision), say(k.Recall), say(k.F1), say(k.Support), maybe(k.AUC), maybe(k.AP))
		}
	case "residuals":
		add("from", "to", "rows")
		if c.Residuals != nil && len(c.Residuals.Edges) == len(c.Residuals.Counts)+1 {
			for i, n := range c.Residuals.Counts {
				add(say(c.Residuals.Edges[i]), say(c.Residuals.Edges[i+1]), say(n))
			}
		}
	case "sample":
		add("true", "predicted")
		for _, p := range c.Sample {
			numbers(nil, p)
		}
	default:
		return nil, mlaas.Invalid("chart", strings.Join(mlaas.Charts, ", "), chart)
	}
	return rows, nil
}

func sortedKeys[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// evaluations is the topic of what a run's program evaluates.
func (t *topic) evaluations() error {
	if err := t.known(); err != nil {
		return err
	}
	records := store.Evaluations(t.m.DB)
	prefix := string(t.Run) + "/"
	mine := func(e mlaas.Evaluated) bool { return t.Replica == "" || e.Replica == t.Replica }
	snapshot := func() (any, error) {
		all, err := records.All(t.ctx, store.Query{Tenant: t.who.Tenant, Prefix: prefix})
		list := []mlaas.Evaluated{}
		for _, f := range all {
			if mine(f.Value) {
				list = append(list, f.Value)
			}
		}
		return list, err
	}
	return t.watch([]string{"evaluation"}, snapshot, func(c store.Change) (any, error) {
		if !strings.HasPrefix(c.Row.Key.ID, prefix) || c.Deleted {
			return nil, nil
		}
		e, err := records.Decode(c.Row)
		if err != nil || !mine(e) {
			return nil, err
		}
		return []mlaas.Evaluated{e}, nil
	})
}

// A JobJudged says how the runs of a job did by the metric that it is judged by.
type JobJudged struct {
	Headline *mlaas.Headline `json:"headline" doc:"null: nothing that was measured tells which metric counts; name one with evaluation.metric"`
	Best     mlaas.RunID     `json:"best" doc:"The run that did best; empty: none has measured it"`
	Runs     []RunJudged     `json:"runs" doc:"Newest first"`
}

// A RunJudged is how one run did. Runs that did not measure the metric are not
// among them.
type RunJudged struct {
	Run     mlaas.RunID  `json:"run"`
	Number  int          `json:"number"`
	Version int          `json:"version"`
	State   mlaas.State  `json:"state"`
	Created time.Time    `json:"created"`
	Value   mlaas.Number `json:"value" doc:"The last"`
	Best    mlaas.Best   `json:"best"`
}

func (m *Management) judgeJob(ctx context.Context, in *jobIn) (*Answer[JobJudged], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	out := JobJudged{Runs: []RunJudged{}}
	runs, _, err := store.Runs(m.DB).List(ctx, store.Query{Tenant: j.Tenant, Index: "job=" + string(j.ID), Reverse: true, Limit: 200})
	if err != nil {
		return nil, err
	}
	for _, f := range runs {
		if f.Value.Number == 0 { // a kernel: it tries things out
			continue
		}
		replicas, err := m.replicasOf(ctx, j.Tenant, f.Value.ID)
		if err != nil {
			return nil, err
		}
		if len(replicas) == 0 {
			continue
		}
		// What the newest run measured says which metric counts; the others are
		// compared by the same.
		by := j.Evaluation
		if out.Headline != nil {
			by.Metric, by.Direction = out.Headline.Metric, out.Headline.Direction
		}
		got := by.Judge(replicas[0])
		if got == nil {
			continue
		}
		if out.Headline == nil {
			out.Headline = &got.Headline
		}
		s, err := m.stateOf(ctx, f.Value)
		if err != nil {
			return nil, err
		}
		r := RunJudged{f.Value.ID, f.Value.Number, f.Value.Version.Number, s.State, f.Value.Created, got.Value, got.Best}
		i := slices.IndexFunc(out.Runs, func(r RunJudged) bool { return r.Run == out.Best })
		if i < 0 || out.Runs[i].Best.Better(r.Best.Value, out.Headline.Direction) {
			out.Best = r.Run
		}
		out.Runs = append(out.Runs, r)
	}
	return &Answer[JobJudged]{Body: out}, nil
}
