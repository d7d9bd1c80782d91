package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"mlaas.dev/mlaas"
)

func (s *server) secret(t *testing.T, e *Executor, f mlaas.Fence) map[string][]byte {
	t.Helper()
	got, err := e.api.Secrets(DefaultNamespace).Get(t.Context(), secretName(f), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Data
}

// Many replicas that are started at once share a write, and those that come
// while it is under way the next one.
func TestTokensTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		e := s.executor(t)
		first, n := make(chan struct{}), 50
		s.PrependReactor("create", "secrets", func(kubetesting.Action) (bool, apiruntime.Object, error) {
			<-first
			return false, nil, nil
		})
		sheaf := e.sheaf(plainSpec("worker-0").Fence)
		var all sync.WaitGroup
		start := func(from, to int) {
			for i := from; i < to; i++ {
				all.Go(func() {
					if over, err := sheaf.start(t.Context(), fmt.Sprintf("worker-%d-1", i), "token"); over || err != nil {
						t.Errorf("start gives %t, %v", over, err)
					}
				})
			}
			time.Sleep(moment)
			synctest.Wait()
		}
		start(0, n/2)
		if waits := len(sheaf.asked); waits > 0 {
			t.Errorf("%d that were asked for at once are not in the first write", waits)
		}
		start(n/2, n)
		close(first)
		all.Wait()
		if got := s.secret(t, e, plainSpec("worker-0").Fence); len(got) != n {
			t.Errorf("%d tokens are kept, want %d", len(got), n)
		}
		if c, u := s.count("create", "secrets"), s.count("update", "secrets"); c != 1 || u != 1 {
			t.Errorf("%d were made and %d changed, want 1 and 1", c, u)
		}
	})
}

// A run of one replica takes two calls to start, one for its token and one for
// its pod: docs/design/0009-pods.md says why not one.
func TestCallsOfOne(t *testing.T) {
	s := newServer()
	if err := s.executor(t).Start(t.Context(), plainSpec("worker-0")); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Actions()); n != 2 || s.count("create", "secrets") != 1 || s.count("create", "pods") != 1 {
		t.Errorf("it took %d calls: %v", n, s.Actions())
	}
}

// What one process stopped, another does not start.
func TestTokensOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := s.executor(t), s.executor(t)
		x, y := plainSpec("worker-0"), plainSpec("worker-1")
		for _, e := range []*Executor{a, b} { // each knows the Secret from here on
			if err := e.Start(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, ended := watching(ctx, a)
		synctest.Wait() // the server in memory tells a watch only of what follows
		// Nor does it compare versions as a real one does.
		version := 0
		s.PrependReactor("update", "secrets", func(action kubetesting.Action) (bool, apiruntime.Object, error) {
			next := action.(kubetesting.UpdateAction).GetObject().(*corev1.Secret)
			was, err := s.Get(secretsResource, next.Namespace, next.Name)
			if err != nil {
				return true, nil, err
			}
			if was.(*corev1.Secret).ResourceVersion != next.ResourceVersion {
				return true, nil, apierrors.NewConflict(secretsResource.GroupResource(), next.Name, errors.New("changed"))
			}
			version++
			next = next.DeepCopy()
			next.ResourceVersion = fmt.Sprint(version)
			return true, next, s.Update(secretsResource, next, next.Namespace)
		})
		if err := a.Stop(t.Context(), x.Fence); err != nil {
			t.Fatal(err)
		}
		if err := b.Start(t.Context(), y); err != nil { // what it knows is old
			t.Fatal(err)
		}
		if err := b.Start(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		got := s.secret(t, a, x.Fence)
		if len(got) != 2 || len(got[secretKey(x.Fence)]) != 0 || string(got[secretKey(y.Fence)]) != "token" {
			t.Errorf("the Secret has %q, want nothing for %s and the token of %s", got, secretKey(x.Fence), secretKey(y.Fence))
		}
		pods, err := a.api.Pods(DefaultNamespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(pods.Items) != 1 || pods.Items[0].Name != podName(y.Fence) {
			t.Errorf("there are %d pods, %v; want that of %s alone", len(pods.Items), err, y.Fence.Replica)
		}
		cancel()
		<-ended
		synctest.Wait()
	})
}

// A Secret that somebody took away is made again, with what is asked for then.
func TestTokensTakenAway(t *testing.T) {
	s := newServer()
	e := s.executor(t)
	x, y := plainSpec("worker-0"), plainSpec("worker-1")
	if err := e.Start(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if err := e.api.Secrets(DefaultNamespace).Delete(t.Context(), secretName(x.Fence), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), y); err != nil {
		t.Fatal(err)
	}
	if got := s.secret(t, e, x.Fence); string(got[secretKey(y.Fence)]) != "token" {
		t.Errorf("the Secret has %q", got)
	}
	if err := e.Stop(t.Context(), plainSpec("ps-0").Fence); err != nil { // it never was
		t.Fatal(err)
	}
}
