package mlaas

import (
	"errors"
	"strings"
	"testing"
)

func TestKubeSettings(t *testing.T) {
	tests := []struct {
		change func(*KubeSettings)
		wrong  string
	}{
		{func(s *KubeSettings) { s.Supervisor = "" }, "supervisor"},
		{func(s *KubeSettings) { s.Namespace = "Team A" }, "namespace"},
		{func(s *KubeSettings) { s.Images = map[string]string{"jax": "a b"} }, "images.jax"},
		{func(s *KubeSettings) { s.Environments = &KubeVolume{Claim: "c", Path: "env"} }, "environments.path"},
		{func(s *KubeSettings) { s.Volumes = []KubeVolume{{Claim: "c", Path: KubeHome + "/bin"}} }, "volumes[0].path"},
		{func(s *KubeSettings) { s.Volumes = []KubeVolume{{Claim: "", Path: "/data"}} }, "volumes[0].claim"},
		{func(s *KubeSettings) {
			s.Volumes = []KubeVolume{{Claim: "c", Path: "/data"}, {Claim: "d", Path: "/data"}}
		}, "volumes[1].path"},
		{func(s *KubeSettings) {
			s.Volumes = []KubeVolume{{Claim: "c", Path: "/data", SubPath: "../x"}}
		}, "volumes[0].subPath"},
		{func(s *KubeSettings) { s.GPU = map[string]KubeGPU{"a100": {}} }, "gpu.a100.resource"},
		{func(s *KubeSettings) { s.NodeSelector = map[string]string{"a b": "c"} }, "nodeSelector"},
		{func(s *KubeSettings) { s.Tolerations = []KubeToleration{{Operator: "Equal"}} }, "tolerations[0]"},
		{func(s *KubeSettings) { s.Tolerations = []KubeToleration{{Key: "k", Effect: "No"}} }, "tolerations[0].effect"},
		{func(s *KubeSettings) { s.ImagePullSecrets = []string{"A_B"} }, "imagePullSecrets[0]"},
		{func(s *KubeSettings) { s.Quota.CPU = -1 }, "quota"},
		{func(s *KubeSettings) { s.Copy = "magic" }, "copy"},
	}
	for _, tt := range tests {
		s := KubeSettings{Supervisor: "mlaas:1"}
		tt.change(&s)
		if err := s.Check(); !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "kube."+tt.wrong) {
			t.Errorf("%+v: Check() = %v, want kube.%s to be wrong", s, err, tt.wrong)
		}
	}
}
