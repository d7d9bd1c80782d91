package kube

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	corefake "k8s.io/client-go/kubernetes/typed/core/v1/fake"
	kubetesting "k8s.io/client-go/testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// A server is what of an API server can be had in memory, so that its clock and
// its mistakes are ours.
type server struct {
	kubetesting.Fake
	kubetesting.ObjectTracker
}

func newServer() *server {
	s := &server{ObjectTracker: kubetesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())}
	s.AddReactor("*", "*", kubetesting.ObjectReaction(s.ObjectTracker))
	s.AddWatchReactor("*", func(a kubetesting.Action) (bool, watch.Interface, error) {
		w, err := s.Watch(a.GetResource(), a.GetNamespace())
		return true, w, err
	})
	return s
}

// inMemory is a client that cannot have a watch begin with what is there.
type inMemory struct{ *corefake.FakeCoreV1 }

func (inMemory) IsWatchListSemanticsUnSupported() bool { return true }

// executor is one of the platform's processes. Namespaces are there.
func (s *server) executor(t *testing.T) *Executor {
	t.Helper()
	e := &Executor{Cluster: "east", Settings: mlaas.KubeSettings{Supervisor: "mlaas:1", Images: map[string]string{"": "python:3"}, Copy: "image"}}
	e.api = inMemory{&corefake.FakeCoreV1{Fake: &s.Fake}}
	e.post = func(ctx context.Context, p *corev1.Pod) (string, error) {
		made, err := e.api.Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return made.ResourceVersion, nil
	}
	if err := e.begin(); err != nil {
		t.Fatal(err)
	}
	e.spaces[DefaultNamespace] = &space{done: true}
	return e
}

func (s *server) count(verb, resource string) (n int) {
	for _, a := range s.Actions() {
		if a.Matches(verb, resource) {
			n++
		}
	}
	return n
}

func plainSpec(replica string) booster.Spec {
	return booster.Spec{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: run, Epoch: 1, Replica: replica, Incarnation: 1},
		Job: "job", Token: "token", Door: "http://door", Need: mlaas.Resources{CPU: 100}}
}

// podOf is a pod as the cluster has it, in one state of its container.
func podOf(t *testing.T, replica string, at int, running bool) *corev1.Pod {
	t.Helper()
	s := &shape{cluster: "east", settings: mlaas.KubeSettings{Supervisor: "mlaas:1", Images: map[string]string{"": "python:3"}}}
	p, err := s.pod(plainSpec(replica))
	if err != nil {
		t.Fatal(err)
	}
	p.ResourceVersion = strconv.Itoa(at)
	p.Spec.NodeName = "n1"
	if running {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: containerName, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	return p
}

// told is what a watcher of f has to send, in order.
func told(f *feed, w *watcher) (out []string) {
	for {
		n, ok := f.next(w)
		if !ok {
			return out
		}
		if n.Synced {
			out = append(out, "synced")
		} else {
			out = append(out, fmt.Sprintf("%s %s", n.Fence.Replica, n.Status))
		}
	}
}

// Events that come late, twice or never, and lists that are old.
func TestFeed(t *testing.T) {
	both := func(t *testing.T) (*feed, *watcher) {
		t.Helper()
		f := &feed{pods: map[string]*pod{}, watchers: map[*watcher]bool{}, synced: make(chan struct{})}
		if err := f.Replace([]any{podOf(t, "worker-0", 10, true), podOf(t, "worker-1", 11, false)}, "20"); err != nil {
			t.Fatal(err)
		}
		w := f.watch()
		if got := told(f, w); !slices.Equal(got, []string{"worker-0 ready", "worker-1 pending", "synced"}) {
			t.Fatalf("at first it tells %v", got)
		}
		return f, w
	}
	tests := []struct {
		name string
		do   func(f *feed) error
		want []string
	}{
		{"an event", func(f *feed) error { return f.Update(podOf(t, "worker-1", 21, true)) }, []string{"worker-1 ready"}},
		{"an event twice", func(f *feed) error {
			return errors.Join(f.Update(podOf(t, "worker-1", 21, true)), f.Update(podOf(t, "worker-1", 21, true)))
		}, []string{"worker-1 ready"}},
		{"a late event", func(f *feed) error {
			return errors.Join(f.Update(podOf(t, "worker-1", 21, true)), f.Update(podOf(t, "worker-1", 15, false)))
		}, []string{"worker-1 ready"}},
		{"a step back", func(f *feed) error { return f.Update(podOf(t, "worker-0", 21, false)) }, nil},
		{"gone", func(f *feed) error { return f.Delete(podOf(t, "worker-0", 21, true)) }, []string{"worker-0 lost"}},
		{"gone unseen", func(f *feed) error { return f.Replace([]any{podOf(t, "worker-0", 10, true)}, "30") }, []string{"worker-1 lost"}},
		{"new unseen", func(f *feed) error {
			return f.Replace([]any{podOf(t, "worker-0", 10, true), podOf(t, "worker-1", 11, false), podOf(t, "worker-2", 25, true)}, "30")
		}, []string{"worker-2 ready"}},
		{"an old list", func(f *feed) error {
			if err := f.Update(podOf(t, "worker-2", 25, false)); err != nil { // as Start notes it
				return err
			}
			return f.Replace([]any{podOf(t, "worker-0", 10, true), podOf(t, "worker-1", 11, false)}, "22")
		}, []string{"worker-2 pending"}},
		{"stopped", func(f *feed) error {
			f.stopping(DefaultNamespace + "/" + podOf(t, "worker-0", 1, true).Name)
			gone := podOf(t, "worker-0", 22, true)
			gone.DeletionTimestamp = &metav1.Time{}
			return errors.Join(f.Update(gone), f.Delete(gone))
		}, []string{"worker-0 stopped"}},
		{"stopped unseen", func(f *feed) error {
			f.stopping(DefaultNamespace + "/" + podOf(t, "worker-0", 1, true).Name)
			return f.Replace([]any{podOf(t, "worker-1", 11, false)}, "30")
		}, []string{"worker-0 stopped"}},
		{"of somebody else", func(f *feed) error {
			p := podOf(t, "worker-3", 22, true)
			delete(p.Labels, labelIncarnation)
			return f.Update(p)
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, w := both(t)
			if err := tt.do(f); err != nil {
				t.Fatal(err)
			}
			if got := told(f, w); !slices.Equal(got, tt.want) {
				t.Errorf("it tells %v, want %v", got, tt.want)
			}
		})
	}
}

// watching keeps the last news of each replica until ctx ends; "" is none.
func watching(ctx context.Context, e *Executor) (last func(replica string) mlaas.ReplicaStatus, end <-chan error) {
	var mu sync.Mutex
	known := map[string]mlaas.ReplicaStatus{}
	all, over := make(chan booster.News), make(chan error, 1)
	go func() { over <- e.Watch(ctx, all) }()
	go func() {
		for {
			select {
			case n := <-all:
				mu.Lock()
				known[n.Fence.Replica] = n.Status
				mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(replica string) mlaas.ReplicaStatus {
		mu.Lock()
		defer mu.Unlock()
		return known[replica]
	}, over
}

// A watch that says nothing for ever is found out: everything is read again.
func TestLostEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.PrependWatchReactor("pods", func(kubetesting.Action) (bool, watch.Interface, error) {
			return true, watch.NewFake(), nil
		})
		e := s.executor(t)
		ctx, cancel := context.WithCancel(t.Context())
		last, ended := watching(ctx, e)
		synctest.Wait()
		if _, err := e.api.Pods(DefaultNamespace).Create(ctx, podOf(t, "worker-0", 1, true), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(relistEvery / 2)
		synctest.Wait()
		if s := last("worker-0"); s != "" {
			t.Fatalf("news came by a watch that says nothing: %s", s)
		}
		time.Sleep(relistEvery)
		synctest.Wait()
		if last("worker-0") != mlaas.ReplicaReady {
			t.Errorf("after %s it is %q, want ready", relistEvery, last("worker-0"))
		}
		if err := e.api.Pods(DefaultNamespace).Delete(ctx, podOf(t, "worker-0", 1, true).Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(relistEvery + time.Minute)
		synctest.Wait()
		if last("worker-0") != mlaas.ReplicaLost {
			t.Errorf("deleted unseen, it is %q, want lost", last("worker-0"))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ends with %v", err)
		}
		synctest.Wait()
	})
}

// A watch that is too old, or cut, begins again with a list, and not in a hurry.
func TestWatchGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		watches := 0
		s.PrependWatchReactor("pods", func(kubetesting.Action) (bool, watch.Interface, error) {
			watches++
			w := watch.NewFakeWithChanSize(1, false)
			w.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old resource version"})
			return true, w, nil
		})
		e := s.executor(t)
		ctx, cancel := context.WithCancel(t.Context())
		last, ended := watching(ctx, e)
		synctest.Wait()
		if _, err := e.api.Pods(DefaultNamespace).Create(ctx, podOf(t, "worker-0", 1, true), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if last("worker-0") != mlaas.ReplicaReady {
			t.Errorf("it is %q, want ready", last("worker-0"))
		}
		if watches < 3 || watches > 12 {
			t.Errorf("in 10 s it watched %d times", watches)
		}
		cancel()
		<-ended
		synctest.Wait()
	})
}

// What an API server answers to a list is why the place is lost.
func TestWatchRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.PrependReactor("list", "pods", func(kubetesting.Action) (bool, apiruntime.Object, error) {
			return true, nil, apierrors.NewUnauthorized("Unauthorized")
		})
		err := s.executor(t).Watch(t.Context(), make(chan booster.News))
		if mlaas.KindOf(err) != mlaas.ErrUnauthorized || !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("Watch ends with %v of kind %v, want %v that is also %v", err, mlaas.KindOf(err), mlaas.ErrUnauthorized, mlaas.ErrUnavailable)
		}
		synctest.Wait()
	})
}

// Secrets of attempts that are over are taken away, and those that are not stay.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		e := s.executor(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, ended := watching(ctx, e)
		synctest.Wait()
		old, live := plainSpec("worker-0"), plainSpec("worker-0")
		live.Fence.Epoch = 2
		for _, r := range []booster.Spec{old, live} {
			if err := e.Start(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Stop(ctx, old.Fence); err != nil {
			t.Fatal(err)
		}
		names := func() (out []string) {
			all, err := e.api.Secrets(DefaultNamespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all.Items {
				out = append(out, s.Name)
			}
			slices.Sort(out)
			return out
		}
		time.Sleep(keepFor)
		if got := names(); len(got) != 2 {
			t.Errorf("after %s there are %v", keepFor, got)
		}
		time.Sleep(2 * relistEvery)
		synctest.Wait()
		if got := names(); !slices.Equal(got, []string{secretName(live.Fence)}) {
			t.Errorf("in the end there are %v, want that of the attempt that is not over", got)
		}
		if len(e.sheafs) != 1 && len(e.sheafs) != 0 {
			t.Errorf("%d sheafs are kept", len(e.sheafs))
		}
		cancel()
		<-ended
		synctest.Wait()
	})
}

// How much memory a pod takes that is watched.
func TestMemory(t *testing.T) {
	const n, most = 5000, 1536
	f := &feed{pods: map[string]*pod{}, watchers: map[*watcher]bool{}, synced: make(chan struct{})}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range n {
		if err := f.Update(podOf(t, mlaas.ReplicaName(mlaas.Worker, i), i+1, true)); err != nil {
			t.Fatal(err)
		}
	}
	each := int64(heap()-before) / n
	t.Logf("%d bytes a pod", each)
	if each > most || len(f.pods) != n {
		t.Errorf("%d pods take %d bytes each, want at most %d", len(f.pods), each, most)
	}
	runtime.KeepAlive(f)
}

var secretsResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
