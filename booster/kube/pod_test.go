package kube

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

var update = flag.Bool("update", false, "write what is there now into testdata")

const run = "01jdk3v8xw2m4n6p8q0rstvwxy"

func spec(role string, index int, need, ceiling mlaas.Resources) booster.Spec {
	return booster.Spec{
		Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: run, Epoch: 2, Replica: mlaas.ReplicaName(role, index), Incarnation: 1},
		Job:   "01jdk3v8xw0000000000000job", Need: need, Ceiling: ceiling,
		Token: "very-secret", Door: "https://mlaas.example.org/cluster/east",
		Environment: mlaas.Environment{Framework: "pytorch"},
	}
}

// What a cluster is asked for, whole: read the diff after -update.
func TestPods(t *testing.T) {
	images := map[string]string{"pytorch": "registry.example.org/pytorch:2.9", "": "python:3.12"}
	base := mlaas.KubeSettings{Supervisor: "registry.example.org/mlaas:1.0", Images: images}
	some := mlaas.Resources{CPU: 300, Memory: 1536 << 20}
	tests := []struct {
		name     string
		settings func(*mlaas.KubeSettings)
		init     bool
		spec     func() booster.Spec
	}{
		{name: "plain", spec: func() booster.Spec { return spec(mlaas.Worker, 0, some, some) }},
		{name: "no-ceiling", init: true, spec: func() booster.Spec { return spec(mlaas.PS, 1, some, mlaas.Resources{}) }},
		{name: "gpu", spec: func() booster.Spec {
			need := mlaas.Resources{CPU: 4000, Memory: 16 << 30, GPU: mlaas.GPU{Count: 2, Kind: "A100"}}
			s := spec(mlaas.Chief, 0, need, mlaas.Resources{GPU: need.GPU})
			s.Disk = 20 << 30
			return s
		}, settings: func(s *mlaas.KubeSettings) {
			s.NodeSelector = map[string]string{"pool": "training"}
			s.Tolerations = []mlaas.KubeToleration{{Key: "training", Operator: "Exists"}}
			s.ImagePullSecrets, s.PriorityClass = []string{"registry"}, "batch"
			s.GPU = map[string]mlaas.KubeGPU{"a100": {Resource: "nvidia.com/gpu", RuntimeClass: "nvidia",
				NodeSelector: map[string]string{"nvidia.com/gpu.product": "A100"},
				Tolerations:  []mlaas.KubeToleration{{Key: "nvidia.com/gpu", Operator: "Equal", Value: "present", Effect: "NoSchedule"}}}}
		}},
		{name: "volumes", init: true, spec: func() booster.Spec {
			s := spec(mlaas.Worker, 1234, some, some)
			s.Fence.Tenant, s.Environment.Packages, s.Exclude = "vision", []string{"einops"}, []string{"n1", "n2"}
			return s
		}, settings: func(s *mlaas.KubeSettings) {
			s.Namespace = "training"
			s.Environments = &mlaas.KubeVolume{Claim: "shared", Path: "/env", SubPath: "env"}
			s.Volumes = []mlaas.KubeVolume{{Claim: "shared", Path: "/data", SubPath: "data", ReadOnly: true}, {Claim: "scratch", Path: "/scratch"}}
		}},
		{name: "own-image", spec: func() booster.Spec {
			s := spec(mlaas.Worker, 0, some, some)
			s.Environment = mlaas.Environment{Image: "localhost:5000/team/train@sha256:" + strings.Repeat("ab", 32)}
			return s
		}, settings: func(s *mlaas.KubeSettings) { s.Environments = &mlaas.KubeVolume{Claim: "shared", Path: "/env"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			settings := base
			if tt.settings != nil {
				tt.settings(&settings)
			}
			if err := settings.Check(); err != nil {
				t.Fatal(err)
			}
			s := &shape{cluster: "east", settings: settings, init: tt.init, silence: 60}
			given := tt.spec()
			p, err := s.pod(given)
			if err != nil {
				t.Fatal(err)
			}
			if f, ok := fenceOf(p.Labels); !ok || f != given.Fence {
				t.Errorf("its labels say %v, want %v", f, given.Fence)
			}
			got, err := yaml.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(got), "very-secret") {
				t.Error("its token is in the pod, where more may read it than a Secret")
			}
			file := filepath.Join("testdata", tt.name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (-want +got; write it with -update):\n%s", file, d)
			}
		})
	}
}

func TestPodsThatCannotBe(t *testing.T) {
	images := map[string]string{"pytorch": "pytorch:2"}
	tests := []struct {
		name   string
		change func(*booster.Spec)
		wrong  string
	}{
		{"no image", func(s *booster.Spec) { s.Environment.Framework = "jax" }, `environment.framework is "jax", want one that cluster east has an image for (pytorch)`},
		{"no image's name", func(s *booster.Spec) { s.Environment.Image = "Not An Image" }, "environment.image"},
		{"packages", func(s *booster.Spec) { s.Environment.Packages = []string{"einops"} }, `environment.packages is ["einops"], want none`},
		{"a GPU of another kind", func(s *booster.Spec) { s.Need.GPU = mlaas.GPU{Count: 1, Kind: "h100"} }, `gpu.kind is "h100", want one that cluster east has: a100`},
		{"no replica", func(s *booster.Spec) { s.Fence.Replica = "worker" }, "replica"},
		{"no name of a host", func(s *booster.Spec) { s.Fence.Run = "UPPER" }, "fence"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			given := spec(mlaas.Worker, 0, mlaas.Resources{CPU: 1}, mlaas.Resources{})
			tt.change(&given)
			s := &shape{cluster: "east", settings: mlaas.KubeSettings{Images: images, GPU: map[string]mlaas.KubeGPU{"a100": {Resource: "nvidia.com/gpu"}}}}
			_, err := s.pod(given)
			if !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("the error is %v, want %q in it", err, tt.wrong)
			}
		})
	}
}
