//go:build linux

package kube_test

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/internal/kubetest"
)

// A rate is what it took to have all replicas run.
type rate struct {
	wall  time.Duration
	cpu   time.Duration // of this process
	calls int
}

func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRate compares the driver with a bare loop that creates the same pods
// and watches them run: runs of ten replicas, on played nodes.
//
//	go test ./booster/kube -run - -bench Rate -benchtime 1x -v
func BenchmarkRate(b *testing.B) {
	const runs, each, together = 50, 10, 16
	c := kubetest.Start(b, kubetest.Opts{Name: "rate", Nodes: kubetest.Fake(50)})
	open := func() (*kube.Executor, *place, func() int) {
		p := newPlace(c)
		p.settings.Copy = "image"
		access, calls := counted(b, c)
		return &kube.Executor{Access: access, Cluster: p.name, Settings: p.settings}, p, calls
	}
	// specs are all replicas, and all calls do for them, some at once.
	specs := func(p *place) (all []booster.Spec) {
		for range runs {
			f := fence("worker-0")
			for i := range each {
				f.Replica = mlaas.ReplicaName(mlaas.Worker, i)
				all = append(all, p.spec(f))
			}
		}
		return all
	}
	forAll := func(all []booster.Spec, do func(booster.Spec) error) {
		next := make(chan booster.Spec)
		var work sync.WaitGroup
		for range together {
			work.Go(func() {
				for s := range next {
					if err := do(s); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for _, s := range all {
			next <- s
		}
		close(next)
		work.Wait()
	}
	ours := func() rate {
		e, p, calls := open()
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		if err := e.Start(ctx, p.spec(fence("ps-0"))); err != nil { // what a namespace costs, once
			b.Fatal(err)
		}
		began, cpu, before := time.Now(), used(), calls()
		news, ended := make(chan booster.News), make(chan error, 1)
		go func() { ended <- e.Watch(ctx, news) }()
		all := specs(p)
		go forAll(all, func(s booster.Spec) error { return e.Start(ctx, s) })
		for ready := map[mlaas.Fence]bool{}; len(ready) <= len(all); { // and the first
			if n := <-news; n.Status == mlaas.ReplicaReady {
				ready[n.Fence] = true
			}
		}
		r := rate{time.Since(began), used() - cpu, calls() - before}
		cancel()
		<-ended
		return r
	}
	bare := func() rate {
		e, p, calls := open()
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		if err := e.Start(ctx, p.spec(fence("ps-0"))); err != nil {
			b.Fatal(err)
		}
		api, err := e.Client()
		if err != nil {
			b.Fatal(err)
		}
		var pods []*corev1.Pod
		all := specs(p)
		for _, s := range all {
			pod, err := e.Pod(s)
			if err != nil {
				b.Fatal(err)
			}
			pods = append(pods, pod)
		}
		began, cpu, before := time.Now(), used(), calls()
		running := make(chan string)
		note := func(o any) {
			if pod := o.(*corev1.Pod); pod.Status.Phase == corev1.PodRunning {
				select {
				case running <- pod.Name:
				case <-ctx.Done():
				}
			}
		}
		_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
					return api.Pods(p.name).List(ctx, o)
				},
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					return api.Pods(p.name).Watch(ctx, o)
				},
			}, api),
			ObjectType: &corev1.Pod{},
			Handler:    cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, o any) { note(o) }},
		})
		go informer.RunWithContext(ctx)
		var mu sync.Mutex
		i := 0
		go forAll(all, func(booster.Spec) error {
			mu.Lock()
			pod := pods[i]
			i++
			mu.Unlock()
			_, err := api.Pods(p.name).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		for seen := map[string]bool{}; len(seen) <= len(all); { // and the first
			seen[<-running] = true
		}
		return rate{time.Since(began), used() - cpu, calls() - before}
	}
	for b.Loop() {
		for i := range 2 { // each goes first once
			var o, r rate
			if i == 0 {
				r, o = bare(), ours()
			} else {
				o, r = ours(), bare()
			}
			n := runs * each
			b.Logf("%d replicas: bare %.1f/s, %.2f CPU s, %d calls; ours %.1f/s, %.2f CPU s, %d calls; rate %.2fx (at least 0.9), CPU %.2fx (at most 1.3), calls a replica %.2fx (at most 1.5)",
				n, float64(n)/r.wall.Seconds(), r.cpu.Seconds(), r.calls, float64(n)/o.wall.Seconds(), o.cpu.Seconds(), o.calls,
				r.wall.Seconds()/o.wall.Seconds(), o.cpu.Seconds()/r.cpu.Seconds(), float64(o.calls)/float64(r.calls))
		}
	}
}

// BenchmarkFirstLine compares the time from Start to the first line of a
// program, by its own clock, with that of a bare pod of the same image, both
// with everything pulled.
//
//	go test ./booster/kube -run - -bench FirstLine -benchtime 1x -v
func BenchmarkFirstLine(b *testing.B) {
	const times = 10
	c := kubetest.Start(b, kubetest.Opts{Name: "first", Nodes: kubetest.Real(1)})
	binary := filepath.Join(b.TempDir(), "mlaas")
	build(b, binary, "../../cmd/mlaas")
	python, err := kubetest.Python()
	if err != nil {
		b.Fatal(err)
	}
	give(b, c, kubetest.Image{Ref: "kubetest.local/supervisor:1", Files: map[string]string{"/mlaas": binary}}, python)
	d, server := newDoor(b)
	address, err := c.Expose(server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	p := newPlace(c)
	p.settings.Copy, p.settings.Images[""] = "image", kubetest.PythonRef
	e := p.open(b)
	ctx := b.Context()
	go e.Watch(ctx, d.watch(new(booster.News)))
	api, err := e.Client()
	if err != nil {
		b.Fatal(err)
	}
	const program = "import time; print('at', time.time(), flush=True)"
	after := func(began time.Time, text string) time.Duration {
		_, text, _ = strings.Cut(text, "at ")
		text, _, _ = strings.Cut(text, "\n")
		at, err := strconv.ParseFloat(text, 64)
		if err != nil {
			b.Fatal(err)
		}
		return time.Duration(at*1e9) - time.Duration(began.UnixNano())
	}
	ours := func() time.Duration {
		f := fence("worker-0")
		d.program(f, program)
		s := p.spec(f)
		s.Door = "http://" + address + "/cluster/east"
		began := time.Now()
		if err := e.Start(ctx, s); err != nil {
			b.Fatal(err)
		}
		_, lines := d.over(f)
		if err := e.Stop(ctx, f); err != nil {
			b.Fatal(err)
		}
		return after(began, lines)
	}
	bare := func() time.Duration {
		f := fence("worker-0")
		pod, err := e.Pod(p.spec(f))
		if err != nil {
			b.Fatal(err)
		}
		pod.Labels, pod.Spec.Volumes, pod.Spec.Containers[0].Env, pod.Spec.Containers[0].VolumeMounts = nil, nil, nil, nil
		pod.Spec.Containers[0].Command, pod.Spec.Containers[0].WorkingDir = []string{"/usr/bin/python3", "-c", program}, ""
		began := time.Now()
		if _, err := api.Pods(p.name).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		w, err := api.Pods(p.name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		for event := range w.ResultChan() {
			if now, ok := event.Object.(*corev1.Pod); ok && now.Status.Phase == corev1.PodSucceeded {
				break
			}
		}
		text, err := api.Pods(p.name).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			b.Fatal(err)
		}
		return after(began, string(text))
	}
	ours() // so that everything is there
	for b.Loop() {
		var o, r []time.Duration
		for range times {
			o, r = append(o, ours()), append(r, bare())
		}
		slices.Sort(o)
		slices.Sort(r)
		b.Logf("to the first line, median of %d: bare %s, ours %s (at most 1 s more)", times, r[times/2].Round(time.Millisecond), o[times/2].Round(time.Millisecond))
	}
}
