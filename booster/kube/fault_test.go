//go:build linux

package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/internal/kubetest"
)

type manifest = map[string]any

// post makes an object.
func post(t *testing.T, c *kubetest.Cluster, path string, o manifest) {
	t.Helper()
	if err := c.Call(t.Context(), http.MethodPost, path, o, nil); err != nil {
		t.Fatal(err)
	}
}

// What a real API server, scheduler and controllers say and do when something
// is wrong: each is told by its own sentence, with the kind that it is.
func TestFaults(t *testing.T) {
	c := kubetest.Start(t, kubetest.Opts{Name: "faults", Nodes: kubetest.Fake(3), FastEviction: true})

	// refused starts a replica that the cluster does not take.
	refused := func(t *testing.T, e booster.Executor, s booster.Spec, kinds []*mlaas.Kind, says string) {
		t.Helper()
		err := e.Start(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Fatalf("Start says %v, want %q", err, says)
		}
		if kind := mlaas.KindOf(err); kind != kinds[0] {
			t.Errorf("%v is of kind %v, want %v", err, kind, kinds[0])
		}
		for _, k := range kinds {
			if !errors.Is(err, k) {
				t.Errorf("%v is no %v", err, k)
			}
		}
	}

	t.Run("quota", func(t *testing.T) {
		p := newPlace(c)
		p.settings.Quota = mlaas.Resources{CPU: 15}
		e := p.open(t)
		if err := e.Start(t.Context(), p.spec(fence("worker-0"))); err != nil {
			t.Fatal(err)
		}
		// What has no pod waits for one: it is asked for again, as of a cluster that does not answer.
		refused(t, e, p.spec(fence("worker-1")), []*mlaas.Kind{mlaas.ErrTooMany, mlaas.ErrUnavailable}, "the quota of its namespace is used up: mlaas, requested: requests.cpu=10m, used: requests.cpu=10m, limited: requests.cpu=15m")
		if have, err := e.Capacity(t.Context()); err != nil || have.Total.CPU != 15 {
			t.Errorf("the capacity is %+v, %v; want no more than the quota", have.Total, err)
		}
	})

	t.Run("a policy of the cluster", func(t *testing.T) {
		p := newPlace(c)
		e := p.open(t)
		const admission = "/apis/admissionregistration.k8s.io/v1/"
		post(t, c, admission+"validatingadmissionpolicies", manifest{"metadata": manifest{"name": p.name}, "spec": manifest{
			"matchConstraints": manifest{"resourceRules": []any{manifest{"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE"}, "resources": []string{"pods"}}}},
			"validations":      []any{manifest{"expression": "object.metadata.namespace != '" + p.name + "'", "message": "no replicas on Sundays"}},
		}})
		post(t, c, admission+"validatingadmissionpolicybindings", manifest{"metadata": manifest{"name": p.name}, "spec": manifest{"policyName": p.name, "validationActions": []string{"Deny"}}})
		comesToRefuse(t, p, e, mlaas.ErrForbidden, "no replicas on Sundays")
	})

	t.Run("webhooks", func(t *testing.T) {
		p := newPlace(c)
		e := p.open(t)
		if err := e.Start(t.Context(), p.spec(fence("ps-0"))); err != nil { // so that its namespace is there
			t.Fatal(err)
		}
		hook := func(url string) manifest {
			return manifest{"metadata": manifest{"name": p.name}, "webhooks": []any{manifest{
				"name": "pods.example.org", "admissionReviewVersions": []string{"v1"}, "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 1,
				"clientConfig":      manifest{"url": url},
				"namespaceSelector": manifest{"matchLabels": manifest{"kubernetes.io/metadata.name": p.name}},
				"rules":             []any{manifest{"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE"}, "resources": []string{"pods"}}},
			}}}
		}
		post(t, c, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", hook("https://127.0.0.1:1/"))
		comesToRefuse(t, p, e, mlaas.ErrUnavailable, "an admission webhook does not answer")
	})

	t.Run("no room", func(t *testing.T) {
		p := newPlace(c)
		access, calls := counted(t, c)
		e := &kube.Executor{Access: access, Cluster: p.name, Settings: p.settings}
		f, s := fence("worker-0"), p.spec(fence("worker-0"))
		s.Fence, s.Need.CPU, s.Ceiling = f, 1_000_000, mlaas.Resources{}
		if err := e.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		n := news(t, e, f, "its wait", func(n booster.News) bool { return strings.Contains(n.Reason, "Insufficient cpu") })
		if n.Status != mlaas.ReplicaPending || !strings.HasPrefix(n.Reason, "the cluster has no place for it: 0/3 nodes are available") {
			t.Errorf("it is %s: %s", n.Status, n.Reason)
		}
		// A job that cannot start costs calls while it is asked for, and none while it waits.
		if total := calls(); total > 12 {
			t.Errorf("%d calls were made for it", total)
		}
		if err := e.Stop(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a node is lost", func(t *testing.T) {
		p := newPlace(c)
		e := p.open(t)
		e.Silence = 2 * time.Second
		f, s := fence("worker-0"), p.spec(fence("worker-0"))
		s.Fence = f
		if err := e.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		n := news(t, e, f, "its start", func(n booster.News) bool { return n.Status == mlaas.ReplicaReady })
		for i := range 3 {
			if c.Node(i) == n.Node {
				if err := c.KillNode(t.Context(), i); err != nil {
					t.Fatal(err)
				}
			}
		}
		// Nobody says how it ended, and nobody will confirm that it is gone.
		stopped := time.Now()
		if n = news(t, e, f, "its loss", final); !n.NodeLost || n.Status != mlaas.ReplicaLost || n.Reason != "node "+n.Node+" is lost: it does not answer" {
			t.Errorf("it is %s: %s", n.Status, n.Reason)
		}
		t.Logf("told after %s", time.Since(stopped).Round(time.Second))
		if err := e.Stop(t.Context(), f); err != nil {
			t.Error(err)
		}
		if left := p.left(t, f); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})

	t.Run("excluded nodes", func(t *testing.T) {
		p := newPlace(c)
		e := p.open(t)
		f, s := fence("worker-0"), p.spec(fence("worker-0"))
		s.Fence, s.Exclude = f, []string{c.Node(0), c.Node(1), c.Node(2)}
		if err := e.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		news(t, e, f, "its wait", func(n booster.News) bool {
			return n.Status == mlaas.ReplicaPending && strings.HasSuffix(n.Reason, "it may not run on "+strings.Join(s.Exclude, ", "))
		})
		if err := e.Stop(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("credentials", func(t *testing.T) {
		p := newPlace(c)
		with := func(kubeconfig []byte) *kube.Executor {
			access, err := kube.Parse(kubeconfig, "", kube.Allow{})
			if err != nil {
				t.Fatal(err)
			}
			return &kube.Executor{Access: access, Cluster: p.name, Settings: p.settings}
		}
		expired, err := c.KubeconfigFor("joe", []string{"system:masters"}, time.Now().Add(-time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		nobody, err := c.KubeconfigFor("joe", nil, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		other := kubetest.Start(t, kubetest.Opts{Name: "other"})
		foreign := bytes.Replace(other.Kubeconfig(), []byte(serverOf(t, other)), []byte(serverOf(t, c)), 1)
		dead, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dead.Close()
		nowhere := bytes.Replace(c.Kubeconfig(), []byte(serverOf(t, c)), []byte("https://"+dead.Addr().String()), 1)
		for _, tt := range []struct {
			name       string
			kubeconfig []byte
			kind       *mlaas.Kind
			says       string
		}{
			{"expired", expired, mlaas.ErrUnauthorized, "give the cluster a new kubeconfig"},
			{"without rights", nobody, mlaas.ErrUnauthorized, "our credentials may not do this"},
			{"of another cluster", foreign, mlaas.ErrUnavailable, "is signed by an authority that the kubeconfig does not name"},
			{"of nobody", nowhere, mlaas.ErrUnavailable, "does not answer"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				e := with(tt.kubeconfig)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, capacity := e.Capacity(ctx)
				for what, err := range map[string]error{
					"Capacity": capacity, "Watch": e.Watch(ctx, make(chan booster.News)),
					"Start": e.Start(ctx, p.spec(fence("worker-0"))), "Stop": e.Stop(ctx, fence("worker-0")),
				} {
					if err == nil || mlaas.KindOf(err) != tt.kind || !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), tt.says) {
						t.Errorf("%s says %v of kind %v, want %q of kind %v that is also %v", what, err, mlaas.KindOf(err), tt.says, tt.kind, mlaas.ErrUnavailable)
					}
				}
			})
		}
	})

	t.Run("the API server is away", func(t *testing.T) {
		p := newPlace(c)
		e := p.open(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		all, ended := make(chan booster.News), make(chan error, 1)
		go func() { ended <- e.Watch(ctx, all) }()
		if n := <-all; !n.Synced {
			t.Fatalf("the first news is %+v", n)
		}
		a, b := fence("worker-0"), fence("worker-1")
		for _, f := range []mlaas.Fence{a, b} {
			if err := e.Start(ctx, p.spec(f)); err != nil {
				t.Fatal(err)
			}
		}
		for ready := map[mlaas.Fence]bool{}; len(ready) < 2; {
			if n := <-all; n.Status == mlaas.ReplicaReady {
				ready[n.Fence] = true
			}
		}
		c.StopAPIServer()
		if _, err := e.Capacity(ctx); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("Capacity says %v, want that it does not answer", err)
		}
		if err := e.Start(ctx, p.spec(fence("worker-2"))); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("Start says %v, want that it does not answer", err)
		}
		if err := c.StartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		// Behind our back, before or after the news come again.
		if err := c.Call(ctx, http.MethodDelete, p.pods()+"/"+a.String(), nil, nil); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case n := <-all:
				if n.Fence == b {
					t.Errorf("news of what nothing happened to: %+v", n)
				}
				if n.Fence == a && n.Status == mlaas.ReplicaLost {
					return
				}
			case err := <-ended: // its watch was cut: whoever follows it begins again
				if !errors.Is(err, mlaas.ErrUnavailable) {
					t.Fatalf("Watch ends with %v", err)
				}
				go func() { ended <- e.Watch(ctx, all) }()
				// What is gone is not there, and what is, is.
				seen := map[mlaas.Fence]bool{}
				for n := range all {
					if n.Synced {
						break
					}
					seen[n.Fence] = true
				}
				if !seen[b] {
					t.Error("what runs is not there any more")
				}
				if !seen[a] {
					return
				}
			case <-time.After(time.Minute):
				t.Fatal("no news of what was deleted")
			}
		}
	})
}

func serverOf(t *testing.T, c *kubetest.Cluster) string {
	t.Helper()
	access, err := kube.Parse(c.Kubeconfig(), "", kube.Allow{})
	if err != nil {
		t.Fatal(err)
	}
	return access.Server
}

// counted is an access whose calls are counted: watches and lists too.
func counted(t testing.TB, c *kubetest.Cluster) (*kube.Access, func() int) {
	t.Helper()
	access, err := kube.Parse(c.Kubeconfig(), "", kube.Allow{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	access.Count(func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
	})
	return access, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// What a run of ten replicas costs an API server.
func TestCalls(t *testing.T) {
	c := kubetest.Start(t, kubetest.Opts{Name: "calls", Nodes: kubetest.Fake(2)})
	p := newPlace(c)
	access, calls := counted(t, c)
	e := &kube.Executor{Access: access, Cluster: p.name, Settings: p.settings}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all, ended := make(chan booster.News), make(chan error, 1)
	go func() { ended <- e.Watch(ctx, all) }()
	if n := <-all; !n.Synced {
		t.Fatalf("the first news is %+v", n)
	}
	one := fence("ps-0") // what a namespace costs, once
	if err := e.Start(ctx, p.spec(one)); err != nil {
		t.Fatal(err)
	}
	const n = 10
	base := fence("worker-0")
	before := calls()
	each := func(do func(mlaas.Fence) error) {
		var together sync.WaitGroup
		for i := range n {
			f := base
			f.Replica = mlaas.ReplicaName(mlaas.Worker, i)
			together.Go(func() {
				if err := do(f); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
	}
	go func() {
		for {
			select {
			case <-all:
			case <-ctx.Done():
				return
			}
		}
	}()
	each(func(f mlaas.Fence) error { return e.Start(ctx, p.spec(f)) })
	started := calls() - before
	each(func(f mlaas.Fence) error { return e.Stop(ctx, f) })
	stopped := calls() - before - started
	t.Logf("%d calls to start %d replicas, %d to stop them", started, n, stopped)
	if most := n * 3 / 2; started > most || stopped > most {
		t.Errorf("%d calls to start and %d to stop %d replicas, want at most %d each", started, stopped, n, most)
	}
	if err := e.Stop(ctx, one); err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
}

// comesToRefuse starts replicas until the cluster refuses one: an API server
// takes up what it is to ask only when it has seen it.
func comesToRefuse(t *testing.T, p *place, e booster.Executor, kind *mlaas.Kind, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := 0; ctx.Err() == nil; i++ {
		f := fence(fmt.Sprintf("worker-%d", i))
		err := e.Start(ctx, p.spec(f))
		if err == nil {
			if err := e.Stop(ctx, f); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if mlaas.KindOf(err) != kind || !strings.Contains(err.Error(), says) {
			t.Errorf("Start says %v of kind %v", err, mlaas.KindOf(err))
		}
		return
	}
	t.Error("it was never refused")
}
