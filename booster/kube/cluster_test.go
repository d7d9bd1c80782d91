//go:build linux

package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/executortest"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/internal/kubetest"
)

// A place is a part of a Kubernetes cluster that one test has for itself: a
// namespace, and a name of the platform's.
type place struct {
	c        *kubetest.Cluster
	name     string
	settings mlaas.KubeSettings
}

var places atomic.Int32

func newPlace(c *kubetest.Cluster) *place {
	name := fmt.Sprintf("place-%d", places.Add(1))
	return &place{c: c, name: name, settings: mlaas.KubeSettings{
		Namespace: name, Supervisor: "kubetest.local/supervisor:1", Images: map[string]string{"": "kubetest.local/program:1"},
	}}
}

func (p *place) open(t testing.TB) *kube.Executor {
	t.Helper()
	access, err := kube.Parse(p.c.Kubeconfig(), "", kube.Allow{})
	if err != nil {
		t.Fatal(err)
	}
	return &kube.Executor{Access: access, Cluster: p.name, Settings: p.settings, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func (p *place) spec(f mlaas.Fence) booster.Spec {
	return booster.Spec{
		Fence: f, Job: "job", Token: "secret-token", Door: "http://127.0.0.1:1/cluster/" + p.name,
		Need: mlaas.Resources{CPU: 10, Memory: 16 << 20}, Ceiling: mlaas.Resources{CPU: 500, Memory: 256 << 20},
	}
}

func (p *place) pods() string { return "/api/v1/namespaces/" + p.name + "/pods" }

type object struct {
	Metadata struct{ Name, UID, Namespace string }
	Data     map[string]string
}

// left lists what is there of a replica: its pod, and its token.
func (p *place) left(t *testing.T, f mlaas.Fence) (left []string) {
	t.Helper()
	var pods, secrets struct{ Items []object }
	if err := p.c.Call(context.WithoutCancel(t.Context()), http.MethodGet, p.pods(), nil, &pods); err != nil {
		t.Fatal(err)
	}
	for _, o := range pods.Items {
		if o.Metadata.Name == f.String() {
			left = append(left, "pod "+o.Metadata.Name)
		}
	}
	if err := p.c.Call(context.WithoutCancel(t.Context()), http.MethodGet, "/api/v1/namespaces/"+p.name+"/secrets", nil, &secrets); err != nil {
		t.Fatal(err)
	}
	for _, o := range secrets.Items {
		for key, v := range o.Data {
			if v != "" && o.Metadata.Name+"-"+key == f.String() {
				left = append(left, "the token in Secret "+o.Metadata.Name)
			}
		}
	}
	return left
}

// broken is a replica whose image no registry has a name for.
func (p *place) broken(_ *testing.T, f mlaas.Fence) booster.Spec {
	s := p.spec(f)
	s.Environment.Image = "No Image"
	return s
}

// The suite on a real control plane whose nodes are played: what API server,
// scheduler and controllers do is real, and this test is the kubelet.
func TestConformanceFake(t *testing.T) {
	c := kubetest.Start(t, kubetest.Opts{Name: "fake", Nodes: kubetest.Fake(2)})
	executortest.Run(t, func(t *testing.T) executortest.Harness {
		p := newPlace(c)
		return executortest.Harness{
			NoProgram: "the nodes of this cluster are played: no container of theirs runs, so there are no logs and no commands",
			Open:      func(t *testing.T) booster.Executor { return p.open(t) },
			Spec:      func(_ *testing.T, f mlaas.Fence) booster.Spec { return p.spec(f) },
			Broken:    p.broken,
			End: func(t *testing.T, f mlaas.Fence, code int) {
				status := map[string]any{"status": map[string]any{"phase": "Failed", "containerStatuses": []any{map[string]any{
					"name": "replica", "image": "x", "imageID": "x", "ready": false, "restartCount": 0,
					"state": map[string]any{"terminated": map[string]any{"exitCode": code, "reason": "Error"}},
				}}}}
				if err := c.Call(t.Context(), http.MethodPatch, p.pods()+"/"+f.String()+"/status", status, nil); err != nil {
					t.Fatal(err)
				}
			},
			Starts: p.starts,
			Left:   p.left,
		}
	})
}

// starts counts how many pods of a replica ever had a node: each leaves an
// event, and has an identity of its own.
func (p *place) starts(t *testing.T, f mlaas.Fence) int {
	t.Helper()
	uids := map[string]bool{}
	var events struct {
		Items []struct {
			InvolvedObject struct{ Kind, Name, UID string }
			Reason         string
		}
	}
	if err := p.c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/"+p.name+"/events", nil, &events); err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == "Pod" && e.InvolvedObject.Name == f.String() && e.Reason == "Scheduled" {
			uids[e.InvolvedObject.UID] = true
		}
	}
	var pods struct{ Items []object }
	if err := p.c.Call(t.Context(), http.MethodGet, p.pods(), nil, &pods); err != nil {
		t.Fatal(err)
	}
	for _, o := range pods.Items {
		if o.Metadata.Name == f.String() {
			uids[o.Metadata.UID] = true
		}
	}
	return len(uids)
}
