package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"mlaas.dev/mlaas"
)

// planned parses a command line as mlaas run does.
func planned(t *testing.T, had *mlaas.JobSpec, line ...string) (*plan, error) {
	t.Helper()
	var s specFlags
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	s.register(f)
	if err := f.Parse(line); err != nil {
		t.Fatal(err)
	}
	src, err := look(f.Arg(0), s.Entry)
	if err != nil {
		return nil, err
	}
	return s.make(src, had, f.Args()[1:], func(k string) (string, bool) { return "from here", k == "HERE" })
}

func TestPlan(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"train.py":             "import tensorflow\nimport helper",
		"helper.py":            "import pandas",
		"plain.py":             "print(1)",
		"inline.py":            "# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"six[extra]>=1\",\n#   'rich',\n# ]\n# ///\nimport acme\n",
		"net/main.py":          "import torch",
		"net/requirements.txt": "torch==2.9\n# why\n--index-url x\nnumpy # for arrays\n",
		"file/mlaas.yaml":      "name: mnist\nroles:\n  worker: {replicas: 2-4, cpu: 1.5}\n  ps: {replicas: 1}\nexecution:\n  command: [python, go.py]\n  parameters: {steps: 100}\n",
		"file/go.py":           "import keras",
		"files/a.csv":          "1",
	})
	t.Chdir(root)
	tests := []struct {
		name string
		line string
		had  string // the job as it is, in JSON
		want string // what differs from an empty spec, in JSON
	}{
		{"a file", "train.py", "", `{"name": "train", "environment": {"framework": "tensorflow", "packages": ["pandas"]},
			"execution": {"command": ["python", "train.py"]}}`},
		{"its arguments", "plain.py -- --lr 0.1", "", `{"name": "plain", "execution": {"command": ["python", "plain.py", "--lr", "0.1"]}}`},
		{"packages in the program's head", "inline.py", "", `{"name": "inline", "environment": {"packages": ["six[extra]>=1", "rich"]},
			"execution": {"command": ["python", "inline.py"]}}`},
		{"a folder", "net", "", `{"name": "net", "environment": {"framework": "pytorch", "packages": ["torch==2.9", "numpy"]},
			"execution": {"command": ["python", "main.py"]}}`},
		{"a job file", "file", "", `{"name": "mnist", "environment": {"framework": "keras"},
			"roles": {"worker": {"replicas": "2-4", "cpu": "1.5"}, "ps": {"replicas": 1}},
			"execution": {"command": ["python", "go.py"], "parameters": {"steps": 100}}}`},
		{"a job file by its name, and flags over it", "file/mlaas.yaml --name other --workers 8-8 --ps 0 --param steps=5 --param lr=1e-3 --cpu 300m", "",
			`{"name": "other", "environment": {"framework": "keras"}, "roles": {"worker": {"replicas": "8-8", "cpu": "300m"}},
			"execution": {"command": ["python", "go.py"], "parameters": {"steps": 5, "lr": 0.001}}}`},
		{"replicas and amounts", "plain.py --workers 4 --ps 2 --cpu worker=2,ps=500m --mem 1.5GiB --disk worker=20Gi --gpu h200:1", "",
			`{"name": "plain", "execution": {"command": ["python", "plain.py"]}, "roles": {
			"worker": {"replicas": {"min": 1, "max": 4}, "cpu": "2", "memory": "1.5Gi", "disk": "20Gi", "gpu": {"count": 1, "kind": "h200"}},
			"ps": {"replicas": {"min": 2, "max": 2}, "cpu": "500m", "memory": "1.5Gi"}}}`},
		{"environment", "plain.py --environment jax@3.11 --package numpy==2.1 --env A=1 --env HERE --secret hub-token --secret x=Y", "",
			`{"name": "plain", "execution": {"command": ["python", "plain.py"]}, "environment": {"framework": "jax", "python": "3.11",
			"packages": ["numpy==2.1"], "variables": {"A": "1", "HERE": "from here"},
			"secrets": [{"secret": "hub-token", "variable": "HUB_TOKEN"}, {"secret": "x", "variable": "Y"}]}}`},
		{"data", "plain.py --data mnist --data old=dataset:mnist@1 --data web=https://x/y", "",
			`{"name": "plain", "execution": {"command": ["python", "plain.py"]}, "data": [{"name": "mnist", "source": "dataset:mnist"},
			{"name": "old", "source": "dataset:mnist@1"}, {"name": "web", "source": "https://x/y"}]}`},
		{"any field", "plain.py --set execution.timeout=2h --set evaluation.metric=acc --set execution.restarts.user=3", "",
			`{"name": "plain", "execution": {"command": ["python", "plain.py"], "timeout": 7200, "restarts": {"user": 3}}, "evaluation": {"metric": "acc"}}`},
		{"what it was before stays", "plain.py --mem 2Gi", `{"name": "plain", "environment": {"framework": "jax", "lock": "sha256:1111111111111111111111111111111111111111111111111111111111111111", "variables": {"A": "1"}},
			"roles": {"worker": {"replicas": "2-3", "cpu": "2"}}, "execution": {"command": ["python", "old.py", "x"], "parameters": {"lr": 1}}, "labels": {"team": "a"}}`,
			`{"name": "plain", "environment": {"framework": "jax", "lock": "sha256:1111111111111111111111111111111111111111111111111111111111111111", "variables": {"A": "1"}}, "labels": {"team": "a"},
			"roles": {"worker": {"replicas": "2-3", "cpu": "2", "memory": "2Gi"}}, "execution": {"command": ["python", "plain.py"], "parameters": {"lr": 1}}}`},
		{"a job file leaves what the platform wrote", "file", `{"name": "mnist", "environment": {"framework": "keras", "lock": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}, "labels": {"mlaas.dev/lock-before": "sha256:0", "team": "a"}}`,
			`{"name": "mnist", "environment": {"framework": "keras", "lock": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}, "labels": {"mlaas.dev/lock-before": "sha256:0"},
			"roles": {"worker": {"replicas": "2-4", "cpu": "1.5"}, "ps": {"replicas": 1}},
			"execution": {"command": ["python", "go.py"], "parameters": {"steps": 100}}}`},
		{"another environment is locked anew", "plain.py --package six", `{"name": "plain", "environment": {"framework": "jax", "lock": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}}`,
			`{"name": "plain", "environment": {"framework": "jax", "packages": ["six"]}, "execution": {"command": ["python", "plain.py"]}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var had *mlaas.JobSpec
			if tt.had != "" {
				had = new(mlaas.JobSpec)
				if err := json.Unmarshal([]byte(tt.had), had); err != nil {
					t.Fatal(err)
				}
			}
			p, err := planned(t, had, strings.Fields(tt.line)...)
			if err != nil {
				t.Fatal(err)
			}
			var want mlaas.JobSpec
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			want.Complete()
			if diff := cmp.Diff(generic(t, want), generic(t, p.Spec)); diff != "" {
				t.Errorf("the plan is not as wanted (-want +got):\n%s", diff)
			}
		})
	}
}

func generic(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPlanRefuses(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"train.py":        "print(1)",
		"bad/mlaas.yaml":  "name: x\nroels: {}\n",
		"bad/main.py":     "",
		"cut/mlaas.yaml":  "name: [x\n",
		"cut/main.py":     "",
		"neg/mlaas.yaml":  "name: x\nroles: {worker: {cpu: -1}}\n",
		"neg/main.py":     "",
		"text/mlaas.yaml": "name: x\nroles: many\n",
		"text/main.py":    "",
	})
	t.Chdir(root)
	tests := []struct {
		line string
		what string // that the message has in it
		fix  string
		kind *mlaas.Kind
	}{
		{"tran.py", "there is no file or folder tran.py", "did you mean   train.py ?", mlaas.ErrNotFound},
		{"train.py --workers none", `--workers is "none", want a number such as 4 or a range such as "2-8"`, "", mlaas.ErrInvalid},
		{"train.py --cpu 0", `--cpu is "0", want cores`, "", mlaas.ErrInvalid},
		{"train.py --cpu ps=1", `this job has no role "ps"`, "its roles are worker", mlaas.ErrInvalid},
		{"train.py --gpu some", `--gpu is "some", want a count such as 1`, "", mlaas.ErrInvalid},
		{"train.py --name Bad!", `name is "Bad!", want 1 to 63 of`, "", mlaas.ErrInvalid},
		{"train.py --env NOTHERE", "there is no such variable here to take", "--env NOTHERE=VALUE", mlaas.ErrInvalid},
		{"train.py --param lr", "--param lr has no value", "--param lr=VALUE", mlaas.ErrInvalid},
		{"train.py --data x=./nothing", "there is no file or folder ./nothing", "", mlaas.ErrNotFound},
		{"train.py --set evaluation.metirc=acc", "evaluation.metirc is not a field, want metric", "", mlaas.ErrInvalid},
		{"train.py --entry x.py", "--entry is for folders", "leave --entry away", mlaas.ErrInvalid},
		{"bad", "mlaas.yaml: roels is not a field, want roles", "", mlaas.ErrInvalid},
		{"cut", "mlaas.yaml: this is no YAML: line 1", "", mlaas.ErrSyntax},
		{"neg", `mlaas.yaml: roles.worker.cpu is "-1", want cores`, "", mlaas.ErrInvalid},
		{"text", `mlaas.yaml: roles is "many", want an object`, "", mlaas.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			_, err := planned(t, nil, strings.Fields(tt.line)...)
			if err == nil {
				t.Fatal("is accepted")
			}
			said, _ := explain(err)
			if !strings.Contains(err.Error(), tt.what) || !strings.Contains(said.Fix, tt.fix) {
				t.Errorf("says %v, fix %q; want %s, fix %q", err, said.Fix, tt.what, tt.fix)
			}
			if !errors.Is(err, tt.kind) {
				t.Errorf("is %v, want %v", mlaas.KindOf(err), tt.kind)
			}
		})
	}
}

func TestPlanSaysWhy(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"train.py": "import sklearn\nimport acme", "mlaas.yaml": "name: x"})
	p, err := planned(t, nil, filepath.Join(root, "train.py"), "--workers", "2")
	if err != nil {
		t.Fatal(err)
	}
	want := `  job        train                      from the file's name
  program    python train.py            the file that you named
  framework  scikit-learn               train.py:1 imports sklearn
  worker     1 to 2 replicas            --workers
             each cpu 500m, memory 1Gi  defaults to be placed by, no ceiling
`
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("the plan reads otherwise (-want +got):\n%s", diff)
	}
	notes := strings.Join(p.Notes, "\n")
	for _, want := range []string{"mlaas.yaml beside it is not used: run the folder to use it", "train.py:2 imports acme, which nothing here brings"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes are %q, want %q in them", notes, want)
		}
	}
}

func TestJobName(t *testing.T) {
	for in, want := range map[string]string{"Train": "train", "my model (1)": "my-model-1", "__": "job", "ü": "job", strings.Repeat("a", 80): strings.Repeat("a", 63)} {
		got := jobName(in)
		if got != want {
			t.Errorf("jobName(%q) is %q, want %q", in, got, want)
		}
		if err := mlaas.CheckName("name", got); err != nil {
			t.Error(err)
		}
	}
}

func TestSendsFilesFirst(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"a.py": "", "files/x.csv": "1"})
	p, err := planned(t, nil, filepath.Join(root, "a.py"), "--data", "mnist="+filepath.Join(root, "files"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Send["mnist"] != filepath.Join(root, "files") || p.Spec.Data[0].Source != "dataset:mnist" {
		t.Errorf("sends %v for %v", p.Send, p.Spec.Data)
	}
	if _, err := os.Stat(p.Send["mnist"]); err != nil {
		t.Error(err)
	}
}

// A job that describes a network takes no code along, and one in guiding mode
// is started by the engine's main program, which its folder need not have.
func TestLessCode(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"net.yaml":          "name: net\ndata: [{name: d, source: 'dataset:d'}]\ncode: {composed: {backend: pytorch, input: {data: d, format: images, shape: [8, 8, 3]}, output: {neurons: 2}}}\n",
		"large.py":          "",
		"guided/model.py":   "import jax\n",
		"guided/points.py":  "",
		"guided/mlaas.yaml": "code: {mode: guiding}\n",
	})
	p, err := planned(t, nil, filepath.Join(root, "net.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e := p.Spec.Environment
	if e.Framework != "pytorch" || !slices.Contains(e.Packages, "pillow") || len(p.Spec.Execution.Command) > 0 || p.Spec.Code.Mode != "composed" {
		t.Errorf("framework %q, packages %v, command %v, mode %q", e.Framework, e.Packages, p.Spec.Execution.Command, p.Spec.Code.Mode)
	}
	if !strings.Contains(p.String(), "written from code.composed") {
		t.Errorf("the plan is\n%s", p)
	}
	p, err = planned(t, nil, filepath.Join(root, "guided"))
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Spec.Execution.Command; !slices.Equal(c, []string{"python", "main.py"}) || p.Spec.Environment.Framework != "jax" {
		t.Errorf("command %v, framework %q", c, p.Spec.Environment.Framework)
	}
}

// What a network does not say of its input, a folder of this machine does.
func TestComposeLooks(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"a.csv": "x,y,label\n1,2,3\n"})
	spec := mlaas.JobSpec{Code: mlaas.Code{Composed: &mlaas.Composed{Input: mlaas.ComposedInput{Target: "label"}}}}
	out, wrong, err := lookAt(spec, root)
	if err != nil || wrong != nil || !slices.Equal(out.Code.Composed.Input.Shape, []int{2}) || out.Code.Composed.Input.Format != "csv" {
		t.Errorf("%+v, %v, %v", out.Code.Composed, wrong, err)
	}
	spec.Code.Composed.Input.Target = "labl"
	if _, wrong, err = lookAt(spec, root); err != nil || wrong == nil {
		t.Errorf("a column that is not there: %v, %v", wrong, err)
	}
	if _, _, err = lookAt(spec, filepath.Join(root, "none")); err == nil {
		t.Error("a folder that is not there was looked at")
	}
}
