package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	restfake "k8s.io/client-go/rest/fake"
	kubetesting "k8s.io/client-go/testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// mostCalls is how many calls a minute a job may cost that cannot start.
const mostCalls = 10

// A job that cannot start costs few calls, by whatever it is held up: what a
// whole booster asks of its cluster, counted over minutes of its own clock, with
// such a job and without.
func TestWaitingCostsLittle(t *testing.T) {
	pods := corev1.Resource("pods")
	refuse := func(err error) func(*server) {
		return func(s *server) {
			s.PrependReactor("create", "pods", func(kubetesting.Action) (bool, apiruntime.Object, error) { return true, nil, err })
		}
	}
	becomes := func(status corev1.PodStatus) func(*server) {
		return func(s *server) {
			s.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, apiruntime.Object, error) {
				p := a.(kubetesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
				p.Status = status
				if len(status.ContainerStatuses) > 0 {
					p.Spec.NodeName = "n1"
				}
				return true, p, s.Create(a.GetResource(), p, p.Namespace)
			})
		}
	}
	tests := []struct {
		name string
		be   func(*server)
		says string
	}{
		{"no room", becomes(corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient cpu.",
		}}}), "the cluster has no place for it"},
		{"no image", becomes(corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			Name: containerName, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}},
		}}}), "cannot be pulled on n1"},
		{"a quota that is used up", refuse(apierrors.NewForbidden(pods, "x", errors.New("exceeded quota: mlaas, requested: pods=1"))), "the quota of its namespace is used up"},
		{"a webhook that does not answer", refuse(apierrors.NewInternalError(errors.New(`failed calling webhook "pods.example.org": timeout`))), "an admission webhook does not answer"},
		{"a namespace that goes", refuse(apierrors.NewForbidden(pods, "x", errors.New("unable to create new content in namespace mlaas because it is being terminated"))), "is being deleted"},
		{"a namespace that is gone", refuse(apierrors.NewNotFound(corev1.Resource("namespaces"), "mlaas")), "its namespace is not there"},
		{"credentials that may not", refuse(apierrors.NewForbidden(pods, "x", errors.New(`User "joe" cannot create resource "pods"`))), "our credentials may not do this"},
		{"an API server that is too busy", refuse(apierrors.NewTooManyRequestsError("later")), "the API server says"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, kept := t.TempDir(), t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				tt.be(s)
				b := newBooster(t, s, dir, kept)
				time.Sleep(time.Minute) // it has begun
				minute := func() int {
					before := len(s.Actions())
					time.Sleep(time.Minute)
					return len(s.Actions()) - before
				}
				idle := minute()
				b.ask()
				for i := range 3 {
					if n := minute(); n-idle > mostCalls {
						t.Errorf("in minute %d its cluster is asked %d times, and %d without it: want at most %d more", i+1, n, idle, mostCalls)
					} else {
						t.Logf("minute %d: %d calls, %d without it", i+1, n, idle)
					}
				}
				r, _, err := store.Replicas(b.db).Get(t.Context(), mlaas.DefaultTenant, store.ReplicaKey(run, "worker-0"))
				if err != nil {
					t.Fatal(err)
				}
				if r.Status.Final() || r.Ready != nil || !strings.Contains(r.Reason, tt.says) {
					t.Errorf("it is %s: %s; want it to wait, because %s", r.Status, r.Reason, tt.says)
				}
				b.end()
			})
		})
	}
}

// A wholeBooster is a booster with all that it needs, over a server in memory.
type wholeBooster struct {
	t   *testing.T
	db  store.Driver
	end func()
}

func newBooster(t *testing.T, s *server, dir, kept string) *wholeBooster {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	db, err := sqlitestore.Open(ctx, ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := files.Open(kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := &series.Store{Dir: dir, Blob: blobs}
	if err := lines.Open(); err != nil {
		t.Fatal(err)
	}
	e := s.executor(t)
	e.api = counting{e.api, s}
	if _, err := e.api.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b := &booster.Booster{DB: db, Blob: blobs, Series: lines, Key: make([]byte, 32), Cluster: "east", Executor: e, DoorURL: "http://door"}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	return &wholeBooster{t, db, func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if err := errors.Join(lines.Close(), db.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	}}
}

// ask commits a run of one worker, as contractor does.
func (b *wholeBooster) ask() {
	b.t.Helper()
	job := mlaas.JobSpec{Name: "mnist", Roles: map[string]*mlaas.Role{mlaas.Worker: {Replicas: mlaas.Count{Min: 1, Max: 1}}}}
	batch := store.Batch{
		Put: []store.Row{
			store.Runs(b.db).Put(mlaas.Run{ID: run, Tenant: mlaas.DefaultTenant, Job: "job", JobName: "mnist", Number: 1, Spec: job}, 0),
			store.RunStates(b.db).Put(mlaas.RunState{Run: run, Tenant: mlaas.DefaultTenant, Job: "job", State: mlaas.Starting, Epoch: 1,
				Allocation: mlaas.Allocation{Cluster: "east", Granted: map[string]int{mlaas.Worker: 1}}}, 0),
		},
		Tell: []store.Message{queue.Tell(mlaas.ReplicasWanted{Tenant: mlaas.DefaultTenant, Run: run, Epoch: 1, Cluster: "east"})},
	}
	if err := b.db.Commit(b.t.Context(), batch); err != nil {
		b.t.Fatal(err)
	}
}

// counting is a client whose server also says which it is, and notes that it
// was asked.
type counting struct {
	corev1client.CoreV1Interface
	s *server
}

func (counting) IsWatchListSemanticsUnSupported() bool { return true }

func (c counting) RESTClient() rest.Interface {
	return &restfake.RESTClient{NegotiatedSerializer: scheme.Codecs.WithoutConversion(), Client: restfake.CreateHTTPClient(func(r *http.Request) (*http.Response, error) {
		_, err := c.s.Invokes(kubetesting.NewRootGetAction(corev1.SchemeGroupVersion.WithResource("version"), r.URL.Path), nil)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
			Body: io.NopCloser(bytes.NewReader([]byte(`{"major": "1", "minor": "37"}`)))}, nil
	})}
}
