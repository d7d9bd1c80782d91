// Package code runs the programs of examples/gallery, which know nothing of
// mlaas, by plain Python and on the platform, and compares what was found of
// them with what they print themselves. From what it saw it writes the table of
// docs/reference/tracking.md.
package code

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mlaas.dev/mlaas/bench/rig"
)

var update = flag.Bool("update", false, "write the table of docs/reference/tracking.md anew")

// An example is a folder of examples/gallery.
type example struct {
	folder      string
	mode        string            // of code.mode
	framework   string            // as the table calls it
	environment string            // of environments.sh
	printed     map[string]string // what it prints, by the metric that is the same
	parameters  map[string]any    // some that must be found
	step        int64             // of the last value of the first metric that counts steps
	counts      string            // that metric
}

var examples = []example{
	{"tf1-annotation", "annotation", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"loss": "last loss", "eval/accuracy": "test accuracy"}, nil, 1500, "loss"},
	{"tf1-nonintrusive", "nonintrusive", "TensorFlow 1: Session", "tensorflow",
		map[string]string{"loss": "last loss", "accuracy": "test accuracy"}, map[string]any{"optimizer": "AdamOptimizer"}, 1500, "loss"},
	{"monitored", "nonintrusive", "TensorFlow 1: MonitoredTrainingSession", "tensorflow",
		map[string]string{"accuracy": "accuracy"}, map[string]any{"optimizer": "AdamOptimizer", "learning_rate": 0.001}, 0, "loss"},
	{"estimator", "nonintrusive", "TensorFlow 2.15: Estimator", "tensorflow-old",
		map[string]string{"eval_average_loss": "test loss", "eval_accuracy": "test accuracy"}, map[string]any{"estimator": "DNNClassifierV2"}, 800, "eval_accuracy"},
	{"keras-fit", "nonintrusive", "Keras 3: fit", "tensorflow",
		map[string]string{"loss": "train loss", "val_accuracy": "validation accuracy", "test_loss": "test loss", "test_accuracy": "test accuracy"},
		map[string]any{"optimizer": "Adam", "epochs": 3.0}, 1620, "loss"},
	{"keras-loop", "nonintrusive", "TensorFlow 2: GradientTape", "tensorflow",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "Adam"}, 1800, "loss"},
	{"torch-loop", "nonintrusive", "PyTorch", "torch",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "SGD", "momentum": 0.9, "epochs": 3.0, "batch": 100.0}, 1800, "loss"},
	{"torch-ddp", "nonintrusive", "PyTorch: DistributedDataParallel", "torch",
		map[string]string{"loss": "last loss", "test_accuracy": "test accuracy"}, map[string]any{"optimizer": "SGD", "lr": 0.1}, 1200, "loss"},
	{"lightning", "nonintrusive", "Lightning", "torch",
		map[string]string{"train_loss": "train loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy"}, map[string]any{"width": 100.0, "max_epochs": 2.0}, 400, "val_loss"},
	{"transformers", "nonintrusive", "Hugging Face Trainer", "torch",
		map[string]string{"loss": "last loss", "eval_loss": "validation loss"}, map[string]any{"learning_rate": 0.003, "num_train_epochs": 4.0}, 200, "loss"},
	{"jax", "nonintrusive", "JAX", "jax",
		map[string]string{"train_loss": "train loss", "test_accuracy": "test accuracy"}, nil, 3, "train_loss"},
	{"sklearn", "nonintrusive", "scikit-learn", "trees",
		map[string]string{"f1": "f1", "loss": "last loss", "accuracy": "test accuracy"}, map[string]any{"logisticregression__C": 0.5, "hidden_layer_sizes": "(100,)"}, 0, "loss"},
	{"xgboost", "nonintrusive", "XGBoost", "trees",
		map[string]string{"train/mlogloss": "train loss", "test/mlogloss": "test loss", "test/merror": "test error"}, map[string]any{"max_depth": 4.0, "num_boost_round": 20.0}, 20, "test/mlogloss"},
	{"lightgbm", "nonintrusive", "LightGBM", "trees",
		map[string]string{"test/multi_logloss": "test loss", "test/multi_error": "test error"}, map[string]any{"num_leaves": 15.0, "num_boost_round": 20.0}, 20, "test/multi_logloss"},
}

// variables are those of each program: quiet, and one thread, since threads
// that wait for each other on a busy machine take twenty times as long.
var variables = map[string]string{"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

const gallery = "../../examples/gallery"

// TestGallery needs the environments that `make e2e-code` makes.
func TestGallery(t *testing.T) {
	environments := os.Getenv("MLAAS_CODE_ENVIRONMENTS")
	if environments == "" {
		t.Skip("it needs environments with many frameworks: make e2e-code makes them and runs it")
	}
	data := os.Getenv("MLAAS_CODE_DATA") // the four files of MNIST
	platform, err := rig.Start(rig.Options{Binary: binary(t), Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	put := exec.Command(binary(t), "data", "put", "mnist", data)
	put.Env = append(os.Environ(), "MLAAS_URL="+platform.URL, "MLAAS_TOKEN="+platform.Token)
	if out, err := put.CombinedOutput(); err != nil {
		t.Fatalf("mlaas data put: %v\n%s", err, out)
	}
	only := strings.Fields(os.Getenv("MLAAS_CODE_ONLY"))
	rows := map[string]string{} // by folder
	for _, e := range examples {
		if len(only) > 0 && !slices.Contains(only, e.folder) {
			continue
		}
		t.Run(e.folder, func(t *testing.T) {
			python := filepath.Join(environments, e.environment, "bin", "python")
			if _, err := os.Stat(python); err != nil {
				t.Fatalf("its environment is not there: %v", err)
			}
			byHand := alone(t, python, e.folder, data)
			run := onPlatform(t, platform, python, e)
			compare(t, e, byHand, run)
			if !t.Failed() {
				rows[e.folder] = run.row(e)
			}
		})
	}
	table(t, rows)
}

func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("MLAAS_BIN")
	if path == "" {
		t.Fatal("MLAAS_BIN names no binary")
	}
	return path
}

// alone runs an example as a user does without the platform.
func alone(t *testing.T, python, folder, data string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(gallery, folder))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(data, filepath.Join(dir, "data", "mnist")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "main.py")
	cmd.Dir = dir
	cmd.Env = os.Environ()
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

// A tracked is what a run said, and what was found of it.
type tracked struct {
	lines  []string
	curves map[string][]sample
	found  struct {
		Parameters  map[string]any
		Environment struct{ Packages map[string]string }
		Models      []struct {
			Kind       string
			Parameters int
			Rounds     int
		}
	}
}

type sample struct {
	step  int64
	value float64
}

func onPlatform(t *testing.T, p *rig.Platform, python string, e example) tracked {
	t.Helper()
	programs, err := filepath.Glob(filepath.Join(gallery, e.folder, "*.py"))
	must(t, err)
	files := map[string]string{}
	for _, path := range programs {
		text, err := os.ReadFile(path)
		must(t, err)
		files[filepath.Base(path)] = string(text)
	}
	job := map[string]any{"name": e.folder, "code": map[string]string{"mode": e.mode}, "execution": map[string]any{"command": []string{python, "main.py"}, "timeout": "10m"},
		"environment": map[string]any{"variables": variables},
		"data":        []map[string]string{{"name": "mnist", "source": "dataset:mnist"}}}
	must(t, p.Do("POST", "/api/job", job, nil))
	must(t, p.Do("POST", "/api/job/"+e.folder+"/code", map[string]any{"files": files}, nil))
	var run struct{ ID string }
	must(t, p.Do("POST", "/api/job/"+e.folder+"/run", map[string]any{}, &run))
	var r tracked
	var stderr []string
	must(t, p.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Line, Stream string }
		if json.Unmarshal(line, &l) == nil && l.Stream == "stdout" {
			r.lines = append(r.lines, l.Line)
		} else {
			stderr = append(stderr, l.Line)
		}
		return true
	}))
	if err := p.Wait(run.ID); err != nil {
		t.Fatalf("on the platform: %v\n%s", err, strings.Join(stderr, "\n"))
	}
	for _, l := range stderr {
		if strings.Contains(l, "not tracked") || strings.HasPrefix(l, "mlaas: ") {
			t.Errorf("it was said: %s", l)
		}
	}
	var curves struct {
		Items []struct {
			Key    string
			Points [][]json.RawMessage
		}
	}
	must(t, p.Do("GET", "/api/run/"+run.ID+"/metric?limit=1000", nil, &curves))
	r.curves = map[string][]sample{}
	for _, c := range curves.Items {
		for _, s := range c.Points {
			step, _ := strconv.ParseInt(string(s[0]), 10, 64)
			value, err := strconv.ParseFloat(strings.Trim(string(s[2]), `"`), 64)
			must(t, err)
			r.curves[c.Key] = append(r.curves[c.Key], sample{step, value})
		}
	}
	must(t, p.Do("GET", "/api/run/"+run.ID+"/artifact/worker-0/mlaas/tracked.json", nil, &r.found))
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
	shape := func(lines []string) string { return number.ReplaceAllString(strings.Join(lines, "\n"), "N") }
	if !strings.HasPrefix(e.folder, "monitored") && shape(byHand) != shape(r.lines) {
		t.Errorf("by hand it prints\n%s\nand on the platform\n%s", strings.Join(byHand, "\n"), strings.Join(r.lines, "\n"))
	}
	for key, name := range e.printed {
		want, ok := r.said(name)
		last, found := r.last(key)
		if !ok || !found || math.Abs(last.value-want) > 0.6e-4 {
			t.Errorf("%s: found %v (%v), printed as %s: %v", key, last, found, name, want)
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
	if want, ok := r.said("parameters"); ok && e.folder != "jax" {
		if !slices.ContainsFunc(r.found.Models, func(m struct {
			Kind       string
			Parameters int
			Rounds     int
		}) bool {
			return m.Parameters == int(want)
		}) {
			t.Errorf("no model of %v parameters: %+v", want, r.found.Models)
		}
	}
	if want, ok := r.said("rounds"); ok && (len(r.found.Models) != 1 || r.found.Models[0].Rounds != int(want)) {
		t.Errorf("no model of %v rounds: %+v", want, r.found.Models)
	}
	if len(r.found.Environment.Packages) < 3 {
		t.Errorf("the packages are %v", r.found.Environment.Packages)
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

// said is the last number that the program printed after name.
func (r tracked) said(name string) (float64, bool) {
	rule := regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `[ :=]+(` + number.String() + `)`)
	for _, l := range slices.Backward(r.lines) {
		if m := rule.FindStringSubmatch(l); m != nil {
			v, err := strconv.ParseFloat(m[1], 64)
			return v, err == nil
		}
	}
	return 0, false
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
	model := "–"
	if len(r.found.Models) > 0 {
		m := r.found.Models[0]
		model = m.Kind
		if m.Parameters > 0 {
			model += fmt.Sprintf(", %d parameters", m.Parameters)
		}
		if m.Rounds > 0 {
			model += fmt.Sprintf(", %d rounds", m.Rounds)
		}
	}
	return fmt.Sprintf("| %s | %s | [%s](../../examples/gallery/%s) | %s | %s | %s | %s | %s |", e.mode, e.framework, e.folder, e.folder,
		strings.Join(losses, " "), strings.Join(others, " "), rate, yes(len(r.found.Parameters) > 0), model)
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
		t.Errorf("the table of %s is not what was seen; make e2e-code writes it:\n%s", page, made)
	}
}
