package codeengine_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/contractor/codeengine"
)

var update = flag.Bool("update", false, "write the goldens anew")

// input is a run of spec, given as JSON, and its replicas on one machine each
// with two ports, or on machines of their own.
func input(t *testing.T, spec string, sameNode bool) codeengine.Input {
	t.Helper()
	run := mlaas.Run{ID: "run1", Job: "job1", JobName: "mnist", Number: 3, Version: mlaas.Version{ID: "v2", Bundle: "sha256:bb", Entry: "main.py"}}
	if err := json.Unmarshal([]byte(spec), &run.Spec); err != nil {
		t.Fatal(err)
	}
	run.Spec.Name = "mnist"
	run.Spec.Complete()
	if err := run.Spec.Check(); err != nil {
		t.Fatal(err)
	}
	in := codeengine.Input{Run: run, Attempt: mlaas.Attempt{Epoch: 1}}
	port := 4000
	for _, role := range slices.Backward(mlaas.RoleOrder) { // the order in which they come says nothing
		if run.Spec.Roles[role] == nil {
			continue
		}
		for i := range run.Spec.Roles[role].Replicas.Max {
			r := mlaas.Replica{Fence: mlaas.Fence{Run: "run1", Epoch: 1, Replica: mlaas.ReplicaName(role, i)}, Role: role, Index: i,
				Cluster: "local", Node: "box", Address: "127.0.0.1", Ports: []int{port, port + 1}}
			if !sameNode {
				r.Node = r.Fence.Replica
				r.Address = "10.0.0." + strconv.Itoa(port%100+1)
			}
			port += 2
			in.Replicas = append(in.Replicas, r)
		}
	}
	return in
}

func TestGolden(t *testing.T) {
	tests := []struct {
		name     string
		spec     string
		sameNode bool
		change   func(*codeengine.Input)
	}{
		{"alone", `{"execution": {"parameters": {"lr": 0.001, "steps": 20000, "name": "a b", "fast": true, "batch-size": 50}}}`, true, nil},
		{"alone-ceiling", `{"roles": {"worker": {"cpu": "300m"}}, "execution": {"command": ["sh", "-c", "echo hi"]}}`, true, nil},
		{"ps", `{"environment": {"framework": "tensorflow"}, "roles": {"ps": {"replicas": 1}, "worker": {"replicas": 2}}}`, true, nil},
		{"chief-evaluator", `{"roles": {"chief": {"replicas": 1, "cpu": "2.5"}, "worker": {"replicas": 2, "cpu": "1.5"}, "ps": {"replicas": 2}, "evaluator": {"replicas": 1}}}`, false, nil},
		{"resumed", `{"data": [{"name": "mnist", "source": "dataset:mnist@3"}], "execution": {"timeout": "1h", "grace": 30}}`, true, func(in *codeengine.Input) {
			in.Attempt = mlaas.Attempt{Epoch: 2, Resume: "sha256:cc", Step: 1000}
			in.Lock = "sha256:ll"
			in.Data = []mlaas.DataTree{{Name: "mnist", Source: "dataset:mnist@3", Tree: "sha256:dd"}}
		}},
		{"guiding", `{"environment": {"framework": "keras"}, "code": {"mode": "guiding"}, "execution": {"command": ["python", "-u", "model.py", "--more"], "parameters": {"steps": 10}}}`, true, nil},
		{"composed", `{"data": [{"name": "d", "source": "dataset:d"}], "code": {"composed": {"input": {"data": "d", "format": "idx", "shape": [4]}, "output": {"neurons": 2}}}}`, true, nil},
		{"own-variables", `{"environment": {"variables": {"OMP_NUM_THREADS": "7", "XLA_FLAGS": "--mine", "RANK": "9"}, "secrets": [{"secret": "s", "variable": "MASTER_PORT"}]}, "roles": {"worker": {"cpu": 1}}}`, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.spec, tt.sameNode)
			if tt.change != nil {
				tt.change(&in)
			}
			l, err := codeengine.Launch(in)
			if err != nil {
				t.Fatal(err)
			}
			if l.Recipe != nil {
				for file := range l.Recipe.Files {
					l.Recipe.Files[file] = "..." // package template's own
				}
			}
			got, err := json.MarshalIndent(l, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", tt.name+".json")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got; run go test -update if this is meant):\n%s", file, diff)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	in := input(t, `{"code": {"mode": "guiding"}, "environment": {"framework": "xgboost"}}`, true)
	if err := codeengine.Check(in.Run); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), `environment.framework is "xgboost", want one that guiding mode is for: jax, keras, pytorch, tensorflow`) {
		t.Errorf("guiding mode without a main program: %v", err)
	}
	if _, err := codeengine.Launch(in); err == nil {
		t.Error("it was launched")
	}
	in = input(t, `{}`, true)
	in.Run.Version.Entry = ""
	if err := codeengine.Check(in.Run); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "main.py") {
		t.Errorf("nothing to start: %v", err)
	}
	in = input(t, `{}`, true)
	in.Replicas[0].Ports = in.Replicas[0].Ports[:1]
	if _, err := codeengine.Launch(in); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("a replica with one port: %v", err)
	}
}

// A role without a ceiling gets no thread limits where it has its machine to
// itself, and one thread where default requests share it.
func TestThreads(t *testing.T) {
	const two = `{"roles": {"worker": {"replicas": 2}}}`
	for _, tt := range []struct {
		name, spec string
		sameNode   bool
		want       string
	}{
		{"alone", `{}`, true, ""},
		{"two on one machine", two, true, "1"},
		{"two on machines of their own", two, false, ""},
		{"a ceiling of 300m", `{"roles": {"worker": {"cpu": 0.3}}}`, true, "1"},
		{"a ceiling of 1.5 cores", `{"roles": {"worker": {"cpu": 1.5}}}`, true, "2"},
		{"a ceiling of 8 cores", `{"roles": {"worker": {"cpu": 8}}}`, true, "8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := codeengine.Launch(input(t, tt.spec, tt.sameNode))
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Replicas["worker-0"].Variables["OMP_NUM_THREADS"]; got != tt.want {
				t.Errorf("OMP_NUM_THREADS is %q, want %q", got, tt.want)
			}
		})
	}
}
