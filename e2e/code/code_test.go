// Package code runs the programs of examples/gallery, which know nothing of
// mlaas, by plain Python and on the platform, and compares what was found of
// them with what they print themselves. From what it saw it writes the table of
// docs/reference/tracking.md.
package code

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mlaas.dev/mlaas/bench/rig"
)

var update = flag.Bool("update", false, "write the table of docs/reference/tracking.md anew")

// An example is a folder of examples/gallery: a job as a user has it, with its
// own environment, mode and data.
type example struct {
	folder      string
	framework   string            // as the table calls it
	environment string            // of environments.sh, by whose Python it is run alone
	printed     map[string]string // what it prints, by the metric that is the same
	parameters  map[string]any    // some that must be found
	step        int64             // of the last value of counts; 0: it does not say
	counts      string            // a metric that counts steps
}

var examples = []example{
	{"tf1-guiding", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"test_accuracy": "test_accuracy"}, nil, 2000, "loss"},
	{"tf1-annotation", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"loss": "last loss", "eval/accuracy": "test accuracy"}, map[string]any{"optimizer": "AdamOptimizer", "learning_rate": 0.001}, 1500, "loss"},
	{"tf1-nonintrusive", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"loss": "last loss", "accuracy": "test accuracy"}, map[string]any{"optimizer": "AdamOptimizer", "learning_rate": 0.001}, 1500, "loss"},
	{"monitored", "TensorFlow 1: MonitoredTrainingSession", "tensorflow",
		map[string]string{"accuracy": "accuracy"}, map[string]any{"optimizer": "AdamOptimizer", "learning_rate": 0.001}, 0, "loss"},
	{"estimator", "TensorFlow 2.15: Estimator", "tensorflow-old",
		map[string]string{"eval_average_loss": "test loss", "eval_accuracy": "test accuracy"}, map[string]any{"estimator": "DNNClassifierV2"}, 800, "eval_accuracy"},
	{"keras-guiding", "Keras 3", "tensorflow",
		map[string]string{"test_accuracy": "test_accuracy", "test_loss": "test_loss"}, nil, 2000, "loss"},
	{"keras-fit", "Keras 3: fit", "tensorflow",
		map[string]string{"loss": "train loss", "val_accuracy": "validation accuracy", "test_loss": "test loss", "test_accuracy": "test accuracy"},
		map[string]any{"optimizer": "Adam", "epochs": 3.0}, 1620, "loss"},
	{"keras-loop", "TensorFlow 2: GradientTape", "tensorflow",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "Adam"}, 1800, "loss"},
	{"torch-guiding", "PyTorch", "torch",
		map[string]string{"test_accuracy": "test_accuracy"}, nil, 2000, "loss"},
	{"torch-loop", "PyTorch", "torch",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "SGD", "momentum": 0.9, "epochs": 3.0, "batch": 100.0}, 1800, "loss"},
	{"torch-ddp", "PyTorch: DistributedDataParallel", "torch",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "SGD", "lr": 0.1}, 1200, "loss"},
	{"lightning", "Lightning", "torch",
		map[string]string{"train_loss": "train loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy"}, map[string]any{"width": 100.0, "max_epochs": 2.0}, 400, "val_loss"},
	{"transformers", "Hugging Face Trainer", "torch",
		map[string]string{"loss": "last loss", "eval_loss": "validation loss"}, map[string]any{"learning_rate": 0.003, "num_train_epochs": 4.0}, 200, "loss"},
	{"jax-guiding", "JAX", "jax",
		map[string]string{"test_accuracy": "test_accuracy"}, nil, 2000, "loss"},
	{"jax", "JAX", "jax",
		map[string]string{"train_loss": "train loss", "test_accuracy": "test accuracy"}, nil, 3, "train_loss"},
	{"sklearn", "scikit-learn", "trees",
		map[string]string{"f1": "f1", "loss": "last loss", "accuracy": "test accuracy"}, map[string]any{"logisticregression__C": 0.5, "hidden_layer_sizes": "(100,)"}, 0, "loss"},
	{"xgboost", "XGBoost", "trees",
		map[string]string{"train/mlogloss": "train loss", "test/mlogloss": "test loss", "test/merror": "test error"}, map[string]any{"max_depth": 4.0, "num_boost_round": 20.0}, 20, "test/mlogloss"},
	{"lightgbm", "LightGBM", "trees",
		map[string]string{"test/multi_logloss": "test loss", "test/multi_error": "test error"}, map[string]any{"num_leaves": 15.0, "num_boost_round": 20.0}, 20, "test/multi_logloss"},
	{"composed-tf1", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"loss": "loss", "test_accuracy": "test accuracy", "validation_accuracy": "validation accuracy"}, nil, 2160, "loss"},
	{"composed-keras", "Keras 3", "tensorflow",
		map[string]string{"test_accuracy": "test accuracy", "validation_accuracy": "validation accuracy"}, nil, 2160, "loss"},
	{"composed-torch", "PyTorch", "torch",
		map[string]string{"loss": "loss", "test_accuracy": "test accuracy", "validation_accuracy": "validation accuracy"}, nil, 2160, "loss"},
}

// variables are those of each program: quiet, and one thread, since threads
// that wait for each other on a busy machine take twenty times as long.
var variables = map[string]string{"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

const gallery = "../../examples/gallery"

// A place is where the examples run: with the Python environments of
// environments.sh, and on a platform that has MNIST.
type place struct {
	environments, binary, data string
	platform                   *rig.Platform
}

// start gives a place, or skips where `make e2e-code` has made none.
func start(t *testing.T) *place {
	t.Helper()
	p := &place{os.Getenv("MLAAS_CODE_ENVIRONMENTS"), os.Getenv("MLAAS_BIN"), os.Getenv("MLAAS_CODE_DATA"), nil}
	if p.environments == "" {
		t.Skip("it needs environments with many frameworks: make e2e-code makes them and runs it")
	}
	// The public index has PyTorch for CUDA alone: what environments.sh made of it
	// is served as an index would.
	wheels := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(p.environments, "index"))))
	t.Cleanup(wheels.Close)
	var err error
	p.platform, err = rig.Start(rig.Options{Binary: p.binary, Log: os.Stderr, Env: []string{"MLAAS_TORCH=" + wheels.URL}})
	must(t, err)
	t.Cleanup(p.platform.Close)
	p.cli(t, "data", "put", "mnist", p.data)
	return p
}

// cli calls the binary as a user does. It gives what was said on stdout.
func (p *place) cli(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(p.binary, args...)
	cmd.Env = append(os.Environ(), "MLAAS_URL="+p.platform.URL, "MLAAS_TOKEN="+p.platform.Token)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("mlaas %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func wanted(folder string) bool {
	only := strings.Fields(os.Getenv("MLAAS_CODE_ONLY"))
	return len(only) == 0 || slices.Contains(only, folder)
}

// TestGallery needs the environments that `make e2e-code` makes.
func TestGallery(t *testing.T) {
	p := start(t)
	rows := map[string]string{} // by folder
	for _, e := range examples {
		if !wanted(e.folder) {
			continue
		}
		t.Run(e.folder, func(t *testing.T) {
			byHand := p.alone(t, e)
			run := p.run(t, e.folder)
			compare(t, e, byHand, run)
			if !t.Failed() {
				rows[e.folder] = run.row(e)
			}
		})
		if *update { // at once: it takes a while to the last
			table(t, rows)
		}
	}
	table(t, rows)
}

// TestTable is about what is seen without a run: every folder of the gallery is
// an example or is spread, and the table has a row for each.
func TestTable(t *testing.T) {
	folders, err := os.ReadDir(gallery)
	must(t, err)
	text, err := os.ReadFile(page)
	must(t, err)
	_, rest, _ := strings.Cut(string(text), begin)
	rows, _, _ := strings.Cut(rest, end)
	for _, f := range folders {
		example := slices.ContainsFunc(examples, func(e example) bool { return e.folder == f.Name() })
		if !example && !slices.ContainsFunc(spreads, func(s spread) bool { return s.folder == f.Name() }) {
			t.Errorf("examples/gallery/%s is run by no test of e2e/code", f.Name())
		}
		if example && !strings.Contains(rows, "["+f.Name()+"]") {
			t.Errorf("the table of %s has no row for %s: make e2e-code UPDATE=-update writes it", page, f.Name())
		}
	}
}

// alone runs an example as a user does without the platform. It gives the lines
// that it printed.
func (p *place) alone(t *testing.T, e example) []string {
	t.Helper()
	dir := t.TempDir()
	from := filepath.Join(gallery, e.folder)
	if _, err := os.Stat(filepath.Join(from, "main.py")); err == nil {
		must(t, os.CopyFS(dir, os.DirFS(from)))
	} else { // it is composed
		p.cli(t, "code", "compose", filepath.Join(from, "mlaas.yaml"), filepath.Join(dir, "composed"))
		dir = filepath.Join(dir, "composed")
	}
	must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
	must(t, os.Symlink(p.data, filepath.Join(dir, "data", "mnist")))
	cmd := exec.Command(filepath.Join(p.environments, e.environment, "bin", "python"), "main.py")
	cmd.Dir = dir
	cmd.Env = os.Environ()
	if usesPackage(t, dir) {
		library, err := filepath.Abs("../../python")
		must(t, err)
		cmd.Env = append(cmd.Env, "PYTHONPATH="+library)
	}
	for k, v := range variables {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("by plain Python: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// usesPackage says whether a program imports the package mlaas: those of
// guiding mode and composed ones do.
func usesPackage(t *testing.T, dir string) bool {
	t.Helper()
	programs, err := filepath.Glob(filepath.Join(dir, "*.py"))
	must(t, err)
	for _, path := range programs {
		text, err := os.ReadFile(path)
		must(t, err)
		if regexp.MustCompile(`(?m)^\s*import mlaas$`).Match(text) {
			return true
		}
	}
	return false
}

// A tracked is what a run said, and what was found of it.
type tracked struct {
	mode   string
	lines  map[string][]string // of stdout, by replica
	curves map[string][]sample // of worker-0
	files  []string            // that worker-0 left in $MLAAS_OUTPUT
	found  struct {
		Parameters  map[string]any
		Environment struct{ Packages map[string]string }
		Models      []model
	}
}

type model struct {
	Kind       string
	Parameters int
	Rounds     int
}

type sample struct {
	step  int64
	value float64
}

// run runs an example by `mlaas run FOLDER`, with more flags.
func (p *place) run(t *testing.T, folder string, flags ...string) tracked {
	t.Helper()
	args := append([]string{"run", filepath.Join(gallery, folder), "-d", "--set", "execution.timeout=20m"}, flags...)
	for k, v := range variables {
		args = append(args, "--env", k+"="+v)
	}
	job, number, _ := strings.Cut(p.cli(t, args...), "/")
	var runs struct {
		Items []struct {
			ID     string
			Number int
		}
	}
	must(t, p.platform.Do("GET", "/api/job/"+job+"/run", nil, &runs))
	id := ""
	for _, r := range runs.Items {
		if strconv.Itoa(r.Number) == number {
			id = r.ID
		}
	}
	r := tracked{lines: map[string][]string{}, curves: map[string][]sample{}}
	var stderr []string
	must(t, p.platform.Lines("/api/run/"+id+"/log?follow=true", func(line []byte) bool {
		var l struct{ Line, Stream, Replica string }
		if json.Unmarshal(line, &l) == nil && l.Stream == "stdout" {
			r.lines[l.Replica] = append(r.lines[l.Replica], l.Line)
		} else {
			stderr = append(stderr, l.Replica+": "+l.Line)
		}
		return true
	}))
	if err := p.platform.Wait(id); err != nil {
		t.Fatalf("on the platform: %v\n%s", err, strings.Join(stderr, "\n"))
	}
	for _, l := range stderr {
		if strings.Contains(l, "not tracked") || strings.Contains(l, "mlaas: something") {
			t.Errorf("it was said: %s", l)
		}
	}
	var spec struct{ Code struct{ Mode string } }
	must(t, p.platform.Do("GET", "/api/job/"+job, nil, &spec))
	r.mode = spec.Code.Mode
	var curves struct {
		Items []struct {
			Key    string
			Points [][]json.RawMessage
		}
	}
	must(t, p.platform.Do("GET", "/api/run/"+id+"/metric?limit=1000&replica=worker-0", nil, &curves))
	for _, c := range curves.Items {
		for _, s := range c.Points {
			step, err := strconv.ParseInt(string(s[0]), 10, 64)
			must(t, err)
			value, err := strconv.ParseFloat(strings.Trim(string(s[2]), `"`), 64)
			must(t, err)
			r.curves[c.Key] = append(r.curves[c.Key], sample{step, value})
		}
	}
	var files struct {
		Items []struct{ Replica, Path string }
	}
	must(t, p.platform.Do("GET", "/api/run/"+id+"/artifact?limit=1000", nil, &files))
	for _, f := range files.Items {
		if f.Replica == "worker-0" {
			r.files = append(r.files, f.Path)
		}
	}
	if slices.Contains(r.files, "mlaas/tracked.json") {
		must(t, p.platform.Do("GET", "/api/run/"+id+"/artifact/worker-0/mlaas/tracked.json", nil, &r.found))
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var number = regexp.MustCompile(`-?\d+(\.\d+)?(e-?\d+)?`)

// compare says where what was found is not what the program printed.
func compare(t *testing.T, e example, byHand []string, r tracked) {
	t.Helper()
	lines := r.lines["worker-0"]
	shape := func(lines []string) string { return number.ReplaceAllString(strings.Join(lines, "\n"), "N") }
	if shape(byHand) != shape(lines) {
		t.Errorf("by hand it prints\n%s\nand on the platform\n%s", strings.Join(byHand, "\n"), strings.Join(lines, "\n"))
	}
	for key, name := range e.printed {
		want, ok := said(lines, name)
		_, decimals, _ := strings.Cut(want, ".")
		last, found := r.last(key)
		if got := strconv.FormatFloat(last.value, 'f', len(decimals), 64); !ok || !found || got != want {
			t.Errorf("%s: found %s at step %d, printed as %s: %q", key, got, last.step, name, want)
		}
	}
	if last, _ := r.last(e.counts); e.step > 0 && last.step != e.step {
		t.Errorf("%s ends at step %d, want %d", e.counts, last.step, e.step)
	}
	for key, want := range e.parameters {
		if got := r.found.Parameters[key]; got != want {
			t.Errorf("parameter %s is %v, want %v", key, got, want)
		}
	}
	has := func(is func(model) bool) bool { return slices.ContainsFunc(r.found.Models, is) }
	// A JAX program has no model but arrays.
	if want, ok := said(lines, "parameters"); ok && e.folder != "jax" && !has(func(m model) bool { return strconv.Itoa(m.Parameters) == want }) {
		t.Errorf("no model of %s parameters: %+v", want, r.found.Models)
	}
	if want, ok := said(lines, "rounds"); ok && !has(func(m model) bool { return strconv.Itoa(m.Rounds) == want }) {
		t.Errorf("no model of %s rounds: %+v", want, r.found.Models)
	}
	switch r.mode {
	case "guiding", "composed": // without hooks: what is kept is the model itself
		if r.model() == "" {
			t.Errorf("there is no model among the results: %v", r.files)
		}
	default:
		if len(r.found.Environment.Packages) < 3 {
			t.Errorf("the packages are %v", r.found.Environment.Packages)
		}
	}
	for key, samples := range r.curves {
		seen := map[int64]bool{}
		for _, s := range samples {
			if seen[s.step] {
				t.Errorf("%s was recorded twice at step %d", key, s.step)
			}
			seen[s.step] = true
		}
	}
}

// said is the last number, as it is written, that was printed after name.
func said(lines []string, name string) (string, bool) {
	rule := regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `[ :=]+(` + number.String() + `)`)
	for _, l := range slices.Backward(lines) {
		if m := rule.FindStringSubmatch(l); m != nil {
			return m[1], true
		}
	}
	return "", false
}

func (r tracked) last(key string) (last sample, found bool) {
	for _, s := range r.curves[key] {
		if !found || s.step >= last.step {
			last, found = s, true
		}
	}
	return last, found
}

// row is what was found of one example, as the table says it.
func (r tracked) row(e example) string {
	var losses, others []string
	rate := "–"
	for _, key := range slices.Sorted(maps.Keys(r.curves)) {
		switch {
		case key == "lr":
			rate = "yes"
		case strings.Contains(key, "loss"):
			losses = append(losses, "`"+key+"`")
		default:
			others = append(others, "`"+key+"`")
		}
	}
	what := r.model()
	if len(r.found.Models) > 0 {
		m := r.found.Models[0]
		what = m.Kind
		if m.Parameters > 0 {
			what += fmt.Sprintf(", %d parameters", m.Parameters)
		}
		if m.Rounds > 0 {
			what += fmt.Sprintf(", %d rounds", m.Rounds)
		}
	}
	return fmt.Sprintf("| %s | %s | [%s](../../examples/gallery/%s) | %s | %s | %s | %s | %s |", r.mode, e.framework, e.folder, e.folder,
		strings.Join(losses, " "), strings.Join(others, " "), rate, yes(len(r.found.Parameters) > 0), cmp.Or(what, "–"))
}

// model is the file among the results that holds the trained model; "" if
// there is none.
func (r tracked) model() string {
	for _, f := range r.files {
		if strings.HasPrefix(path.Base(f), "model") && path.Dir(f) == "." {
			return "`" + f + "`"
		}
	}
	return ""
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "–"
}

const (
	page  = "../../docs/reference/tracking.md"
	begin = "<!-- made by e2e/code -->\n"
	end   = "<!-- end -->"
	head  = "| mode | framework | program | losses | other metrics | learning rate | parameters | model |\n|---|---|---|---|---|---|---|---|\n"
)

// table compares the rows with those of the page, or writes them there. Those
// of examples that were not run stay as they are.
func table(t *testing.T, rows map[string]string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	before, rest, ok := strings.Cut(string(text), begin)
	was, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	made := begin + head
	for _, e := range examples {
		row := rows[e.folder]
		if row == "" {
			for line := range strings.Lines(was) {
				if strings.Contains(line, "["+e.folder+"]") {
					row = strings.TrimSpace(line)
				}
			}
		}
		if row != "" {
			made += row + "\n"
		}
	}
	want := before + made + end + after
	switch {
	case want == string(text):
	case *update:
		must(t, os.WriteFile(page, []byte(want), 0o644))
	default:
		t.Errorf("the table of %s is not what was seen; make e2e-code UPDATE=-update writes it:\n%s", page, made)
	}
}
