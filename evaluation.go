package mlaas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Evaluation says what counts as good: which metric a job is judged by, and
// how the page draws it. What is left empty is inferred from what was measured.
type Evaluation struct {
	Task      string   `json:"task,omitempty"`      // one of Tasks
	Metric    string   `json:"metric,omitempty"`    // the primary one; empty: see Headline
	Direction string   `json:"direction,omitempty"` // max | min; empty: by the metric's name
	Labels    []string `json:"labels,omitempty"`    // names of the classes, in the order of their numbers
	Charts    []string `json:"charts,omitempty"`    // some of Charts, in the order wanted; empty: all there are
	Smoothing *Number  `json:"smoothing,omitempty"` // of curves where the page is opened: 0 (as measured) to 0.99
}

// Tasks are what a job may be about.
var Tasks = []string{"classification", "regression", "ranking", "other"}

// Charts are what the page draws of an evaluation.
var Charts = []string{"scores", "confusion", "roc", "pr", "calibration", "classes", "residuals", "sample"}

const maxClasses = 5_000

func (e *Evaluation) check() error {
	if e.Task != "" && !slices.Contains(Tasks, e.Task) {
		return Invalid("task", strings.Join(Tasks, ", "), e.Task)
	}
	if len(e.Metric) > maxMetricName || !Legible(e.Metric) {
		return Invalid("metric", "the name of a metric such as val_acc, of at most 256 bytes", e.Metric)
	}
	if d := e.Direction; d != "" && d != "max" && d != "min" {
		return Invalid("direction", "max or min", d)
	}
	if e.Metric != "" && e.Direction == "" && DirectionOf(e.Metric) == "" {
		return Invalid("direction", fmt.Sprintf("max or min: it does not follow from the name %s", e.Metric), "")
	}
	if len(e.Labels) > maxClasses {
		return Invalid("labels", "at most 5000", len(e.Labels))
	}
	for i, l := range e.Labels {
		if l == "" || len(l) > maxMetricName || !Legible(l) {
			return Invalid(fmt.Sprintf("labels[%d]", i), "a text of 1 to 256 bytes", l)
		}
		if slices.Contains(e.Labels[:i], l) {
			return Invalid(fmt.Sprintf("labels[%d]", i), "a label that no other class has", l)
		}
	}
	for i, c := range e.Charts {
		if !slices.Contains(Charts, c) {
			return Invalid(fmt.Sprintf("charts[%d]", i), strings.Join(Charts, ", "), c)
		}
	}
	if s := e.Smoothing; s != nil && !(*s >= 0 && *s <= 0.99) {
		return Invalid("smoothing", "0 (as measured) to 0.99", *s)
	}
	return nil
}

const maxMetricName = 256

// Legible reports whether text is UTF-8 without control characters.
func Legible(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
}

// more and less match metrics of which more, or less, is better. What is in
// both ("loss_accuracy") is said by the last word.
var (
	more = regexp.MustCompile(`(?:^|[^a-z])(?:acc|accuracy|auc|auroc|auprc|ap|map|f1|f1_score|fscore|precision|recall|sensitivity|specificity|r2|mcc|kappa|iou|miou|dice|ndcg|mrr|bleu|rouge|psnr|ssim|reward|return|score|hit|top_?[0-9]+|explained_variance|jaccard|win_rate)(?:$|[^a-z])`)
	less = regexp.MustCompile(`(?:^|[^a-z])(?:loss|losses|mae|mse|rmse|rmsle|mape|smape|error|err|wer|cer|perplexity|ppl|nll|logloss|log_loss|cross_?entropy|brier|ece|fid|kl|bpc|bpb|hinge|deviance|distance|hamming)(?:$|[^a-z])`)
)

// DirectionOf says by the name of a metric which way is better, max or min;
// empty where the name does not tell.
func DirectionOf(metric string) string {
	name := strings.ToLower(metric)
	at := func(r *regexp.Regexp) int {
		last := -1
		for _, m := range r.FindAllStringIndex(name, -1) {
			last = m[1]
		}
		return last
	}
	switch up, down := at(more), at(less); {
	case up < 0 && down < 0:
		return ""
	case up > down:
		return "max"
	default:
		return "min"
	}
}

// A Headline is the one metric that a job is judged by.
type Headline struct {
	Metric    string `json:"metric"`
	Direction string `json:"direction"` // max | min
	Why       string `json:"why"`       // a sentence
}

// A Best is the best value of a metric, and the first step at which it was.
type Best struct {
	Value Number `json:"value"`
	Step  int64  `json:"step"`
}

// Better reports whether v is better than b by a direction, max or min.
func (b Best) Better(v Number, direction string) bool {
	return direction == "max" && v > b.Value || direction == "min" && v < b.Value
}

// A Judged is how a run did by the one metric that it is judged by.
type Judged struct {
	Headline
	Value Number `json:"value"` // the last
	Best  Best   `json:"best"`
}

// Judge says how a replica's run did; nil where nothing that was measured
// tells.
func (e Evaluation) Judge(r Replica) *Judged {
	h := e.Headline(slices.Collect(maps.Keys(r.Metrics)))
	if h == nil {
		return nil
	}
	v, ok := r.Metrics[h.Metric]
	if !ok {
		return nil
	}
	best, ok := r.Best[h.Metric]
	if !ok {
		best = Best{v, r.Step}
	}
	return &Judged{*h, v, best}
}

// Headline says which of the metrics that were measured counts: the one that
// e names, else the first by what they are called. nil: none of them tells.
func (e Evaluation) Headline(measured []string) *Headline {
	if e.Metric != "" {
		h := &Headline{e.Metric, e.Direction, "the job's evaluation names it"}
		if h.Direction == "" {
			h.Direction = DirectionOf(e.Metric)
		}
		if h.Direction == "" {
			return nil
		}
		return h
	}
	best, rank := "", 0
	for _, m := range slices.Sorted(slices.Values(measured)) {
		if r := e.rank(m); r > rank {
			best, rank = m, r
		}
	}
	if best == "" {
		return nil
	}
	d := DirectionOf(best)
	why := map[string]string{"max": "more of it is better", "min": "less of it is better"}[d] + " by its name"
	if heldBack.MatchString(strings.ToLower(best)) {
		why += ", and it is of data that was held back"
	}
	if e.Direction != "" {
		d = e.Direction
	}
	return &Headline{best, d, why + "; evaluation.metric names another"}
}

// Data that was held back: a model is chosen by validation, and a test tells
// how good the chosen one is, so the first goes before the second.
var (
	heldBack   = regexp.MustCompile(`(?:^|[^a-z])(?:val|valid|validation|test|eval|evaluation|dev)(?:$|[^a-z])`)
	validation = regexp.MustCompile(`(?:^|[^a-z])(?:val|valid|validation|dev)(?:$|[^a-z])`)
)

// preferred are the words of metrics that say most, the best last.
var preferred = map[string][]string{
	"regression": {"loss", "mse", "mae", "rmse", "r2"},
	"ranking":    {"loss", "map", "mrr", "ndcg"},
	"":           {"loss", "rmse", "mae", "f1", "auc", "acc", "accuracy"},
}

func (e Evaluation) rank(metric string) int {
	if DirectionOf(metric) == "" || strings.HasPrefix(metric, "system/") {
		return 0
	}
	words, ok := preferred[e.Task]
	if !ok {
		words = preferred[""]
	}
	r := 1
	parts := strings.FieldsFunc(strings.ToLower(metric), func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') })
	for i, w := range words {
		if slices.Contains(parts, w) {
			r = i + 2
		}
	}
	switch name := strings.ToLower(metric); {
	case validation.MatchString(name):
		r += 200
	case heldBack.MatchString(name):
		r += 100
	}
	return r
}

// An Evaluated is one call of mlaas.evaluate in a program: what it came to, in
// numbers. Content has all of it. Booster alone writes it.
type Evaluated struct {
	Tenant  Tenant            `json:"-"`
	Run     RunID             `json:"run"`
	Epoch   int               `json:"epoch"`
	Replica string            `json:"replica"`
	Name    string            `json:"name"`
	Step    int64             `json:"step"`
	Task    string            `json:"task"` // binary | multiclass | multilabel | regression
	Rows    int64             `json:"rows"`
	Scores  map[string]Number `json:"scores"`
	Content Digest            `json:"content"` // an EvaluationContent as JSON
	Created time.Time         `json:"created"`
}

// EvaluationMade says that a program evaluated, and that the content is in
// blob. The door answers with an Ack of EvaluationStream once its record is
// committed. Twice: the same record.
type EvaluationMade struct {
	Seq     int64             `json:"seq"` // from 1 in each incarnation
	Name    string            `json:"name"`
	Step    int64             `json:"step"`
	Task    string            `json:"task"`
	Rows    int64             `json:"rows"`
	Scores  map[string]Number `json:"scores"`
	Content Digest            `json:"content"`
	Size    Bytes             `json:"size"`
}

// An EvaluationContent is what mlaas.evaluate found. What each field is stands
// in docs/reference/evaluation.md.
type EvaluationContent struct {
	Format      int                `json:"format"` // 1
	Name        string             `json:"name"`
	Step        int64              `json:"step"`
	Task        string             `json:"task"` // binary | multiclass | multilabel | regression
	Rows        int64              `json:"rows"`
	Weighted    bool               `json:"weighted"`
	Labels      []string           `json:"labels,omitempty"`
	Threshold   *Number            `json:"threshold,omitempty"`   // from which score on a row counts as the class
	Approximate string             `json:"approximate,omitempty"` // what of it is not exact, and why
	Notes       []string           `json:"notes,omitempty"`
	Scores      map[string]*Number `json:"scores"` // null: it cannot be said of this data
	Confusion   *Confusion         `json:"confusion,omitempty"`
	PerLabel    [][][]Number       `json:"perLabel,omitempty"` // multilabel: [[tn, fp], [fn, tp]] of each label
	PerClass    []ClassScores      `json:"perClass,omitempty"`
	ROC         []AreaCurve        `json:"roc,omitempty"`         // points are [false positive rate, true positive rate]
	PR          []AreaCurve        `json:"pr,omitempty"`          // points are [recall, precision]
	Calibration []CalibrationCurve `json:"calibration,omitempty"` // of each class
	Residuals   *Residuals         `json:"residuals,omitempty"`
	Sample      [][]Number         `json:"sample,omitempty"` // regression: [true, predicted] of some rows
}

// A Confusion is how many rows of each true class were taken for which.
type Confusion struct {
	Matrix [][]Number `json:"matrix,omitempty"` // a row for each true class, a column for each predicted one
	Cells  [][]Number `json:"cells,omitempty"`  // of many classes: [true, predicted, rows], the largest first
	Hidden int        `json:"hidden,omitempty"` // smaller cells that are not said
}

// ClassScores are what is told of one class.
type ClassScores struct {
	Label     string  `json:"label"`
	Precision Number  `json:"precision"`
	Recall    Number  `json:"recall"`
	F1        Number  `json:"f1"`
	Support   Number  `json:"support"` // its rows, or their weight
	AUC       *Number `json:"auc,omitempty"`
	AP        *Number `json:"ap,omitempty"`
}

// An AreaCurve is a curve in the unit square, thinned, and the area under it
// before that.
type AreaCurve struct {
	Label   string     `json:"label"`
	Average bool       `json:"average,omitempty"` // over the classes: macro or micro
	AUC     *Number    `json:"auc,omitempty"`
	AP      *Number    `json:"ap,omitempty"`
	Points  [][]Number `json:"points"`
}

// A CalibrationCurve is how sure predictions were and how often they were right.
type CalibrationCurve struct {
	Label string     `json:"label"`
	Bins  [][]Number `json:"bins"` // [mean probability, part that is positive, rows]
}

// Residuals are how far predictions were below what is true.
type Residuals struct {
	Edges     []Number   `json:"edges"`  // of the histogram, one more than counts
	Counts    []Number   `json:"counts"` // rows, or their weight
	Mean      Number     `json:"mean"`
	Std       Number     `json:"std"`
	Quantiles [][]Number `json:"quantiles"` // [which, value]
}

// MaxEvaluation is how large the content of an evaluation may be.
const MaxEvaluation = 2 << 20

// ReadEvaluation reads what a program says that it found: strictly, as programs
// may say anything.
func ReadEvaluation(text []byte) (c EvaluationContent, err error) {
	if len(text) > MaxEvaluation {
		return c, Invalid("evaluation", fmt.Sprintf("at most %d bytes", MaxEvaluation), len(text))
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&c); err != nil {
		return c, fmt.Errorf("the evaluation cannot be read: %v: %w", err, ErrInvalid)
	}
	if c.Format != 1 {
		return c, Invalid("evaluation.format", "1", c.Format)
	}
	return c, CheckEvaluated(c.Name, c.Step, c.Task, len(c.Scores))
}

// CheckEvaluated reports what is wrong with what is said of an evaluation.
func CheckEvaluated(name string, step int64, task string, scores int) error {
	if name == "" || len(name) > 100 || !Legible(name) {
		return Invalid("evaluation.name", "a text of 1 to 100 bytes", name)
	}
	if step < 0 {
		return Invalid("evaluation.step", "0 or more", step)
	}
	if !slices.Contains([]string{"binary", "multiclass", "multilabel", "regression"}, task) {
		return Invalid("evaluation.task", "binary, multiclass, multilabel or regression", task)
	}
	if scores > 100 {
		return Invalid("evaluation.scores", "at most 100", scores)
	}
	return nil
}
