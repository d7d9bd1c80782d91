package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubetesting "k8s.io/client-go/testing"

	"mlaas.dev/mlaas"
)

func amounts(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func node(name string, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pool": "training"}}, Status: corev1.NodeStatus{
		Allocatable: amounts("cpu", "7500m", "memory", "16Gi", "nvidia.com/gpu", "4"),
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	if change != nil {
		change(n)
	}
	return n
}

// The room is what nodes have that take replicas, without what others use.
func TestCapacity(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} }
	}
	silent := func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
	other := func(at string, requests corev1.ResourceList) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "other"}, Spec: corev1.PodSpec{NodeName: at, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: requests}}}}}
	}
	tests := []struct {
		name     string
		settings func(*mlaas.KubeSettings)
		there    []apiruntime.Object
		want     mlaas.Resources
		limit    string // in one of the limits; empty: there is none
	}{
		{"none", nil, nil, mlaas.Resources{}, ""},
		{"two", nil, []apiruntime.Object{node("a", nil), node("b", nil)}, mlaas.Resources{CPU: 15000, Memory: 32 << 30, GPU: mlaas.GPU{Count: 8}}, ""},
		{"closed, silent, tainted and of another pool", func(s *mlaas.KubeSettings) { s.NodeSelector = map[string]string{"pool": "training"} }, []apiruntime.Object{
			node("a", nil),
			node("b", func(n *corev1.Node) { n.Spec.Unschedulable = true }),
			node("c", silent),
			node("d", taint("other", corev1.TaintEffectNoSchedule)),
			node("e", func(n *corev1.Node) { n.Labels = nil }),
		}, mlaas.Resources{CPU: 7500, Memory: 16 << 30, GPU: mlaas.GPU{Count: 4}}, "Node c does not answer, so nothing is placed there."},
		{"all silent", nil, []apiruntime.Object{node("d", silent), node("b", silent), node("a", silent), node("c", silent)},
			mlaas.Resources{}, "Nodes a, b, c and 1 more do not answer"},
		{"silent, and of another pool", func(s *mlaas.KubeSettings) { s.NodeSelector = map[string]string{"pool": "serving"} }, []apiruntime.Object{node("a", silent)}, mlaas.Resources{}, ""},
		{"taints that are put up with", func(s *mlaas.KubeSettings) { s.Tolerations = []mlaas.KubeToleration{{Key: "gpu", Operator: "Exists"}} }, []apiruntime.Object{
			node("a", taint("gpu", corev1.TaintEffectNoSchedule)), node("b", taint("slow", corev1.TaintEffectPreferNoSchedule)),
		}, mlaas.Resources{CPU: 15000, Memory: 32 << 30, GPU: mlaas.GPU{Count: 8}}, ""},
		{"others", nil, []apiruntime.Object{node("a", nil), other("a", amounts("cpu", "500m", "memory", "1Gi", "nvidia.com/gpu", "1"))},
			mlaas.Resources{CPU: 7000, Memory: 15 << 30, GPU: mlaas.GPU{Count: 3}}, ""},
		{"others elsewhere", nil, []apiruntime.Object{node("a", nil), other("b", amounts("cpu", "500m"))}, mlaas.Resources{CPU: 7500, Memory: 16 << 30, GPU: mlaas.GPU{Count: 4}}, ""},
		{"more than there is", nil, []apiruntime.Object{node("a", nil), other("a", amounts("cpu", "9"))}, mlaas.Resources{CPU: 0, Memory: 16 << 30, GPU: mlaas.GPU{Count: 4}}, ""},
		{"a quota", func(s *mlaas.KubeSettings) { s.Quota = mlaas.Resources{CPU: 100, GPU: mlaas.GPU{Count: 2}} }, []apiruntime.Object{node("a", nil)},
			mlaas.Resources{CPU: 100, Memory: 16 << 30, GPU: mlaas.GPU{Count: 2}}, ""},
		{"kinds of GPU", func(s *mlaas.KubeSettings) {
			s.GPU = map[string]mlaas.KubeGPU{
				"a100": {Resource: "nvidia.com/gpu", NodeSelector: map[string]string{"gpu": "a100"}},
				"t4":   {Resource: "nvidia.com/gpu", NodeSelector: map[string]string{"gpu": "t4"}},
			}
		}, []apiruntime.Object{
			node("a", func(n *corev1.Node) { n.Labels["gpu"] = "a100" }), node("b", func(n *corev1.Node) { n.Labels["gpu"] = "t4" }), node("c", func(n *corev1.Node) { n.Labels["gpu"] = "t4" }),
			other("c", amounts("nvidia.com/gpu", "1")),
		}, mlaas.Resources{CPU: 22500, Memory: 48 << 30, GPU: mlaas.GPU{Count: 7, Kind: "t4"}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer()
			e := s.executor(t)
			if tt.settings != nil {
				tt.settings(&e.Settings)
				e.shape.settings = e.Settings
			}
			for _, o := range tt.there {
				if err := s.ObjectTracker.Add(o); err != nil {
					t.Fatal(err)
				}
			}
			have, err := e.Capacity(t.Context())
			if err != nil || have.Total != tt.want {
				t.Errorf("it is %+v, %v; want %+v", have.Total, err, tt.want)
			}
			var gpus []mlaas.GPU
			if tt.name == "kinds of GPU" {
				gpus = []mlaas.GPU{{Count: 4, Kind: "a100"}, {Count: 7, Kind: "t4"}}
			}
			if !slices.Equal(have.GPUs, gpus) {
				t.Errorf("its GPUs are %+v, want %+v", have.GPUs, gpus)
			}
			if all := strings.Join(have.Limits, " "); (tt.limit == "") != (all == "") || !strings.Contains(all, tt.limit) {
				t.Errorf("its limits are %q, want %q", all, tt.limit)
			}
		})
	}
}

// Who may not see the nodes needs a quota, and is told.
func TestCapacityUnseen(t *testing.T) {
	s := newServer()
	s.PrependReactor("list", "nodes", func(kubetesting.Action) (bool, apiruntime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New(`User "joe" cannot list resource "nodes"`))
	})
	e := s.executor(t)
	if _, err := e.Capacity(t.Context()); mlaas.KindOf(err) != mlaas.ErrUnauthorized {
		t.Errorf("without a quota: %v", err)
	}
	e.Settings.Quota = mlaas.Resources{CPU: 4000, Memory: 8 << 30}
	have, err := e.Capacity(t.Context())
	if err != nil || have.Total != e.Settings.Quota || len(have.Limits) != 1 {
		t.Errorf("with a quota: %+v, %v", have, err)
	}
}

func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	of := func(policy *corev1.ContainerRestartPolicy, pairs ...string) corev1.Container {
		return corev1.Container{RestartPolicy: policy, Resources: corev1.ResourceRequirements{Requests: amounts(pairs...)}}
	}
	p := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{of(nil, "cpu", "1"), of(&always, "cpu", "200m"), of(nil, "cpu", "2", "memory", "1Gi")},
		Containers:     []corev1.Container{of(nil, "cpu", "500m", "memory", "2Gi"), of(nil, "cpu", "500m", "nvidia.com/gpu", "2")},
		Overhead:       amounts("cpu", "50m"),
	}}
	// The second of the first containers runs beside the third, which is the most.
	if cpu, memory, gpus := requests(p); cpu != 2250 || memory != 2<<30 || gpus["nvidia.com/gpu"] != 2 {
		t.Errorf("it holds %d, %d and %v", cpu, memory, gpus)
	}
}

func TestMountsImages(t *testing.T) {
	for runtime, want := range map[string]bool{
		"containerd://2.1.0": true, "containerd://2.4.2": true, "containerd://v3.0.0": true, "containerd://2.0.5": false, "containerd://1.7.27": false,
		"cri-o://1.33.1": true, "cri-o://1.32.0": false, "docker://28.0.0": false, "containerd://": false, "": false, "containerd://x.y": false,
	} {
		if got := mountsImages(runtime); got != want {
			t.Errorf("mountsImages(%q) is %t", runtime, got)
		}
	}
}
