//go:build linux

package kubetest

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// alive is a label of fake nodes that live: kwok cares for those alone.
const alive = "kubetest.mlaas.dev/alive"

func (c *Cluster) startFake(ctx context.Context) error {
	if c.opts.Nodes.number == 0 {
		return nil
	}
	kubeconfig, err := c.pki.component("kwok", "kwok", administrators...)
	if err != nil {
		return err
	}
	_, err = c.run("kwok", filepath.Join(c.bin, "kwok"), "--kubeconfig="+kubeconfig, "--config="+filepath.Join(c.bin, "stages.yaml"),
		"--manage-nodes-with-label-selector="+alive, fmt.Sprintf("--node-lease-duration-seconds=%d", c.lease()),
		"--cidr=10.250.0.0/16", "--server-address=127.0.0.1:10247")
	if err != nil {
		return err
	}
	for i := range c.opts.Nodes.number {
		c.nodes = append(c.nodes, &node{cluster: c, index: i, name: fmt.Sprintf("%s-%d", c.opts.Name, i)})
	}
	makers, makerContext := errgroup.WithContext(ctx)
	makers.SetLimit(8) // more are not faster on two cores
	for _, n := range c.nodes {
		makers.Go(func() error { return n.makeFake(makerContext) })
	}
	if err := makers.Wait(); err != nil {
		return err
	}
	return c.awaitNodes(ctx)
}

func (n *node) makeFake(ctx context.Context) error {
	resources := map[string]string{"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "8"}
	return n.cluster.Call(ctx, http.MethodPost, "/api/v1/nodes", map[string]any{
		"metadata": meta{Name: n.name, Labels: map[string]string{
			alive: "", "kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
		}},
		"status": map[string]any{"allocatable": resources, "capacity": resources},
	}, nil)
}
