//go:build linux

package kubetest

import (
	"net/http"
	"testing"
)

func TestFake(t *testing.T) {
	t.Parallel()
	c := Start(t, Opts{Name: "fake", Nodes: Fake(3)})
	pod := map[string]any{"metadata": meta{Name: "a"}, "spec": map[string]any{"containers": []any{map[string]any{"name": "main", "image": "none"}}}}
	if err := c.Call(t.Context(), http.MethodPost, "/api/v1/namespaces/default/pods", pod, nil); err != nil {
		t.Fatal(err)
	}
	err := Until(t.Context(), c, "/api/v1/namespaces/default/pods", func(p struct{ Status struct{ Phase string } }) (bool, error) {
		return p.Status.Phase == "Running", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReal(t *testing.T) {
	c := Start(t, Opts{Name: "real", Nodes: Real(1)})
	pod := map[string]any{"metadata": meta{Name: "a"}, "spec": map[string]any{"containers": []any{map[string]any{"name": "main", "image": pauseRef, "imagePullPolicy": "Never"}}}}
	if err := c.Call(t.Context(), http.MethodPost, "/api/v1/namespaces/default/pods", pod, nil); err != nil {
		t.Fatal(err)
	}
	err := Until(t.Context(), c, "/api/v1/namespaces/default/pods", func(p struct{ Status struct{ Phase string } }) (bool, error) {
		t.Log(p.Status.Phase)
		return p.Status.Phase == "Running", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
