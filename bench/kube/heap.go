//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
)

// heap measures what the driver keeps of pods that it watches, in this process.
func (b *bench) heap(ctx context.Context) error {
	all, err := fakes(ctx, []string{"heap"}, b.nodes)
	if err != nil {
		return err
	}
	defer end(all) //nolint:errcheck // what was measured stands
	c := all["heap"]
	access, err := kube.Parse(c.Kubeconfig(), "", kube.Allow{})
	if err != nil {
		return err
	}
	e := &kube.Executor{Access: access, Cluster: "heap", Settings: mlaas.KubeSettings{Namespace: namespace, Supervisor: supervisorRef}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news, ended := make(chan booster.News), make(chan error, 1)
	go func() { ended <- e.Watch(ctx, news) }()
	hear := func(is func(booster.News) bool) error {
		late := time.NewTimer(20 * time.Minute)
		defer late.Stop()
		for {
			select {
			case n := <-news:
				if is(n) {
					return nil
				}
			case err := <-ended:
				return err
			case <-late.C:
				return errors.New("the news do not come")
			}
		}
	}
	if err := hear(func(n booster.News) bool { return n.Synced }); err != nil {
		return err
	}
	before := used()
	client, err := connect(c.Kubeconfig())
	if err != nil {
		return err
	}
	made, within := errgroup.WithContext(ctx)
	made.SetLimit(16)
	go func() {
		for i := range b.pods {
			run := mlaas.RunID(mlaas.NewID(time.Now()))
			f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: run, Epoch: 1, Replica: "worker-0", Incarnation: 1}
			made.Go(func() error {
				_, err := client.Pods(namespace).Create(within, bare(f.String(), map[string]string{
					"app.kubernetes.io/managed-by": "mlaas", "mlaas.dev/cluster": "heap", "mlaas.dev/tenant": string(f.Tenant), "mlaas.dev/job": strconv.Itoa(i),
					runLabel: string(run), "mlaas.dev/epoch": "1", "mlaas.dev/role": "worker", "mlaas.dev/index": "0", "mlaas.dev/incarnation": "1",
				}), metav1.CreateOptions{})
				return err
			})
		}
		if err := made.Wait(); err != nil {
			ended <- err
		}
	}()
	ready := 0
	if err := hear(func(n booster.News) bool {
		if n.Status == mlaas.ReplicaReady {
			ready++
		}
		return ready == b.pods
	}); err != nil {
		return err
	}
	after := used()
	rig.Row("heap of the driver after GC, for each pod that it watches", (after-before)/float64(b.pods)/1000, 1.5, "KB", true,
		fmt.Sprintf("%.1f MB more for %d pods; what booster itself keeps of each is not in it", (after-before)/1e6, b.pods))
	return nil
}

// used is the heap in use after a collection, in bytes.
func used() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers freed
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
