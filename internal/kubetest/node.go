//go:build linux

package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// A node is a machine of a cluster, fake or real.
type node struct {
	cluster *Cluster
	index   int
	name    string
	machine *machine // nil: fake
}

// Node is the name of the i-th node, from 0.
func (c *Cluster) Node(i int) string { return c.nodes[i].name }

// KillNode cuts the power of the i-th node: what runs on it is gone, and it
// says nothing more. What a real node has on its disk stays. Kubernetes takes a
// while to believe it: see [Opts].
func (c *Cluster) KillNode(ctx context.Context, i int) error {
	n := c.nodes[i]
	if n.machine != nil {
		n.machine.kill()
		return nil
	}
	return n.setAlive(ctx, false)
}

// RestartNode turns the i-th node on again after [Cluster.KillNode], and
// returns when it is ready.
func (c *Cluster) RestartNode(ctx context.Context, i int) error {
	n := c.nodes[i]
	start := func() error { return n.setAlive(ctx, true) }
	if n.machine != nil {
		start = func() error { return n.machine.start(ctx) }
	}
	if err := start(); err != nil {
		return err
	}
	return n.awaitReady(ctx)
}

// KillKubelet ends the kubelet of the i-th node, which is a real one, as
// kill -9 does: its pods run on, and nobody tells of them.
func (c *Cluster) KillKubelet(i int) error {
	n := c.nodes[i]
	if n.machine == nil {
		return fmt.Errorf("%s is a fake node, want a real one: %w", n.name, errors.ErrUnsupported)
	}
	return n.machine.kubelet.killInner()
}

// RestartKubelet starts the kubelet of the i-th node again, and returns when
// it answers and its node is ready.
func (c *Cluster) RestartKubelet(ctx context.Context, i int) error {
	n := c.nodes[i]
	if n.machine == nil {
		return fmt.Errorf("%s is a fake node, want a real one: %w", n.name, errors.ErrUnsupported)
	}
	if err := n.machine.startKubelet(ctx); err != nil {
		return err
	}
	return n.awaitReady(ctx)
}

// setAlive has kwok care for a fake node, or not any more.
func (n *node) setAlive(ctx context.Context, is bool) error {
	var value any // null removes the label
	if is {
		value = ""
	}
	return n.cluster.Call(ctx, http.MethodPatch, "/api/v1/nodes/"+n.name,
		map[string]any{"metadata": map[string]any{"labels": map[string]any{alive: value}}}, nil)
}

// nodeReady is what of a node says whether it is well.
type nodeReady struct {
	Metadata meta
	Spec     struct {
		Taints []struct{ Key, Effect string }
	}
	Status struct {
		Conditions []struct{ Type, Status string }
	}
}

// ready reports whether pods may go there: the taint of a node that has begun
// is taken off an instant after it is ready.
func (n nodeReady) ready() bool {
	for _, t := range n.Spec.Taints {
		if t.Key == "node.kubernetes.io/not-ready" {
			return false
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (n *node) awaitReady(ctx context.Context) error {
	return Until(ctx, n.cluster, "/api/v1/nodes?fieldSelector=metadata.name="+n.name, func(n nodeReady) (bool, error) { return n.ready(), nil })
}

// awaitNodes returns when every node is ready.
func (c *Cluster) awaitNodes(ctx context.Context) error {
	ready := map[string]bool{}
	err := Until(ctx, c, "/api/v1/nodes", func(n nodeReady) (bool, error) {
		if delete(ready, n.Metadata.Name); n.ready() {
			ready[n.Metadata.Name] = true
		}
		return len(ready) == len(c.nodes), nil
	})
	if err != nil {
		return fmt.Errorf("wait for %d nodes, of which %d are ready: %w", len(c.nodes), len(ready), err)
	}
	return nil
}
