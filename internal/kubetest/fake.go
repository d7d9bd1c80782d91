//go:build linux

package kubetest

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
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
	var all sync.WaitGroup
	work, failed := make(chan int), make(chan error, c.opts.Nodes.number)
	for range 8 { // more are not faster on two cores
		all.Go(func() {
			for i := range work {
				if err := c.makeFake(ctx, i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range c.opts.Nodes.number {
		c.nodes = append(c.nodes, &node{cluster: c, index: i, name: fmt.Sprintf("%s-%d", c.opts.Name, i)})
		work <- i
	}
	close(work)
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return c.awaitNodes(ctx)
	}
}

func (c *Cluster) makeFake(ctx context.Context, i int) error {
	name := c.nodes[i].name
	resources := map[string]string{"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "8"}
	return c.Call(ctx, http.MethodPost, "/api/v1/nodes", map[string]any{
		"metadata": meta{Name: name, Labels: map[string]string{
			alive: "", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
		}},
		"status": map[string]any{"allocatable": resources, "capacity": resources},
	}, nil)
}
