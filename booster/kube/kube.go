// Package kube runs replicas as pods of a Kubernetes cluster, with nothing
// installed there: no operator, no resources of our own.
//
// A replica is a pod whose name is its fence, so that however often and by
// whomever it is started there is one. Its container runs our supervisor in the
// image of the job; the tokens of an attempt are in one Secret, where a stopped
// replica leaves a mark, so that it is never started again. Replicas reach each
// other by the addresses of their pods, which supervisors tell the door.
//
// kubeconfig.go says how a cluster is reached, pod.go what a replica is made of,
// kube.go how it is started and stopped, token.go keeps its token, feed.go
// knows what is there, slim.go reads no more of it than is used, news.go says in sentences what the cluster says of a
// pod, fault.go what its API server says, reach.go goes into a pod, room.go
// adds up what the nodes have, sweep.go takes away what is left.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// An Executor runs replicas on one cluster. Fill in the fields. It needs no end:
// it is connected while somebody watches, and holds nothing besides. Any number
// of processes may have one for the same cluster.
type Executor struct {
	Access   *Access // how it is reached
	Cluster  string  // its name on the platform
	Settings mlaas.KubeSettings
	DoorCA   []byte       // certificates in PEM by which replicas know an https door; empty: those of their image
	Log      *slog.Logger // nil: silent

	// Silence is how long a node may not answer until its replicas are given up;
	// 0: a minute.
	Silence time.Duration

	once   sync.Once
	broken error
	api    corev1client.CoreV1Interface
	post   func(ctx context.Context, p *corev1.Pod) (version string, err error) // makes a pod
	config *rest.Config

	room room // what the nodes have

	prepared sync.Mutex // held while the shape is decided
	decided  bool
	shape    *shape

	mu     sync.Mutex
	feed   *feed
	spaces map[string]*space
	sheafs map[string]*sheaf
	held   map[mlaas.Fence]chan struct{}
	idle   map[string]time.Time // Secrets without a pod, since when
}

var (
	_ booster.Executor = (*Executor)(nil)
	_ booster.Leaver   = (*Executor)(nil)
)

// Kind is the kind of cluster.
func (e *Executor) Kind() string { return "kubernetes" }

func (e *Executor) server() string {
	if e.Access == nil {
		return "the API server"
	}
	return e.Access.Server
}

// begin makes the client. It does not connect.
func (e *Executor) begin() error {
	e.once.Do(func() {
		if e.Log == nil {
			e.Log = slog.New(slog.DiscardHandler)
		}
		e.spaces, e.sheafs = map[string]*space{}, map[string]*sheaf{}
		e.held, e.idle = map[mlaas.Fence]chan struct{}{}, map[string]time.Time{}
		e.shape = &shape{cluster: e.Cluster, settings: e.Settings, doorCA: e.DoorCA, silence: int64(cmp.Or(e.Silence, time.Minute).Seconds())}
		if e.broken = e.Settings.Check(); e.broken != nil || e.api != nil {
			return
		}
		if e.Access == nil {
			e.broken = mlaas.Invalid("access", "a kubeconfig", nil)
			return
		}
		e.config = rest.CopyConfig(e.Access.config)
		e.config.QPS = -1 // we are few, and the server says when it is too much
		e.config.ContentType = "application/vnd.kubernetes.protobuf"
		e.config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		e.config.UserAgent = "mlaas-booster"
		config := rest.CopyConfig(e.config)
		config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
		config.NegotiatedSerializer = slimming{rest.CodecFactoryForGeneratedClient(scheme.Scheme, scheme.Codecs).WithoutConversion()}
		client, err := rest.RESTClientFor(config)
		if err != nil {
			e.broken = e.fault(err)
			return
		}
		e.api, e.post = corev1client.New(client), func(ctx context.Context, p *corev1.Pod) (string, error) {
			answer := client.Post().Namespace(p.Namespace).Resource("pods").SetHeader("Accept", bareMetadata).Body(p).Do(ctx)
			if err := answer.Error(); err != nil { // with what the server says of it
				return "", err
			}
			said, err := answer.Raw()
			if err != nil {
				return "", err
			}
			m, err := metadataOf(said)
			return m.ResourceVersion, err
		}
	})
	return e.broken
}

// everywhere is the namespace to look for replicas in: all, or, where we may
// not see all, that of the team default. It is an error where nobody answers.
func (e *Executor) everywhere(ctx context.Context) (string, error) {
	_, err := e.api.Pods("").List(ctx, metav1.ListOptions{LabelSelector: e.shape.ours(), Limit: 1})
	if apierrors.IsForbidden(err) {
		return e.shape.namespace(mlaas.DefaultTenant), nil
	}
	return "", err
}

// A space is a namespace that has what it needs, once done is set.
type space struct {
	mu    sync.Mutex
	done  bool
	limit string // what we may not do there, a sentence
}

// Start asks for a replica. What it was told is in the cluster before it is:
// a process that dies between leaves nothing that runs.
func (e *Executor) Start(ctx context.Context, r booster.Spec) error {
	if err := e.begin(); err != nil {
		return err
	}
	if err := e.decide(ctx); err != nil {
		return err
	}
	p, err := e.shape.pod(r)
	if err != nil {
		return err
	}
	free, err := e.hold(ctx, r.Fence)
	if err != nil {
		return err
	}
	defer free()
	if err := e.space(ctx, p.Namespace); err != nil {
		return err
	}
	over, err := e.sheaf(r.Fence).start(ctx, secretKey(r.Fence), r.Token)
	if err != nil {
		return e.fault(err)
	}
	if over {
		return nil // it was stopped
	}
	err = e.create(ctx, p)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil
	case apierrors.IsNotFound(err): // its namespace was taken away
		e.mu.Lock()
		delete(e.spaces, p.Namespace)
		e.mu.Unlock()
		return e.fault(err)
	case err != nil:
		return e.fault(err)
	}
	e.mu.Lock()
	f := e.feed
	e.mu.Unlock()
	if f != nil { // what we did ourselves is known at once
		f.mu.Lock()
		f.see(p)
		f.mu.Unlock()
	}
	return nil
}

// create makes a pod and notes its version. A namespace that was made just now
// has no service account for a moment.
func (e *Executor) create(ctx context.Context, p *corev1.Pod) (err error) {
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		p.ResourceVersion, err = e.post(ctx, p)
		if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "error looking up service account") || wait > 5*time.Second {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// hold keeps others from starting and stopping the same replica.
func (e *Executor) hold(ctx context.Context, f mlaas.Fence) (free func(), err error) {
	for {
		e.mu.Lock()
		busy := e.held[f]
		if busy == nil {
			mine := make(chan struct{})
			e.held[f] = mine
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				delete(e.held, f)
				e.mu.Unlock()
				close(mine)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sheaf is where the token of a replica is.
func (e *Executor) sheaf(f mlaas.Fence) *sheaf {
	namespace, name := e.shape.namespace(f.Tenant), secretName(f)
	e.mu.Lock()
	defer e.mu.Unlock()
	key := podKey(namespace, name)
	s := e.sheafs[key]
	if s == nil {
		s = &sheaf{api: e.api.Secrets(namespace), name: name, labels: e.shape.labels(f)}
		e.sheafs[key] = s
	}
	return s
}

// decide finds out how the supervisor comes to pods here.
func (e *Executor) decide(ctx context.Context) error {
	e.prepared.Lock()
	defer e.prepared.Unlock()
	if e.decided {
		return nil
	}
	e.shape.init = e.Settings.Copy == "init"
	if e.Settings.Copy == "" {
		can, err := e.imageVolumes(ctx)
		if err != nil {
			return err
		}
		e.shape.init = !can
	}
	e.decided = true
	return nil
}

// space makes sure that a namespace is there with its rules and its quota.
func (e *Executor) space(ctx context.Context, name string) error {
	e.mu.Lock()
	s := e.spaces[name]
	if s == nil {
		s = new(space)
		e.spaces[name] = s
	}
	e.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return nil
	}
	as := metav1.ApplyOptions{FieldManager: manager, Force: true}
	labels := map[string]string{labelManaged: manager, labelCluster: e.Cluster}
	_, err := e.api.Namespaces().Apply(ctx, applycore.Namespace(name).WithLabels(map[string]string{
		labelManaged:                         manager,
		"pod-security.kubernetes.io/enforce": "restricted",
	}), as)
	may := func(err error) error {
		if apierrors.IsForbidden(err) { // an administrator has made it, or the pods will say that it is not there
			s.limit = "We may not set up namespace " + name + ", so its pod security, quota and defaults are what its administrator made of them."
			return nil
		}
		return err
	}
	if err := may(err); err != nil {
		return e.fault(err)
	}
	if s.limit == "" {
		if q := e.quota(); q != nil {
			_, err = e.api.ResourceQuotas(name).Apply(ctx, applycore.ResourceQuota(manager, name).WithLabels(labels).WithSpec(applycore.ResourceQuotaSpec().WithHard(q)), as)
		} else if err = e.api.ResourceQuotas(name).Delete(ctx, manager, metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
			err = nil
		}
		if err := may(err); err != nil {
			return e.fault(err)
		}
		// What others run there counts against the quota too, and says nothing.
		_, err = e.api.LimitRanges(name).Apply(ctx, applycore.LimitRange(manager, name).WithLabels(labels).WithSpec(applycore.LimitRangeSpec().WithLimits(
			applycore.LimitRangeItem().WithType(corev1.LimitTypeContainer).WithDefaultRequest(corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
			}))), as)
		if err := may(err); err != nil {
			return e.fault(err)
		}
	}
	s.done = true
	return nil
}

// quota is what the replicas of one team may hold; nil: no limit.
func (e *Executor) quota() corev1.ResourceList {
	q := e.Settings.Quota
	out := corev1.ResourceList{}
	if q.CPU > 0 {
		out[corev1.ResourceRequestsCPU] = *resource.NewMilliQuantity(int64(q.CPU), resource.DecimalSI)
	}
	if q.Memory > 0 {
		out[corev1.ResourceRequestsMemory] = *resource.NewQuantity(int64(q.Memory), resource.BinarySI)
	}
	if q.GPU.Count > 0 {
		if gpu, err := e.shape.gpu(q.GPU.Kind); err == nil {
			out[corev1.ResourceName("requests."+gpu.Resource)] = *resource.NewQuantity(int64(q.GPU.Count), resource.DecimalSI)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

const (
	// killSeconds is what the kubelet waits between a polite word and the end:
	// the supervisor was asked before. With 0 nobody would wait for it at all.
	killSeconds = 1

	// silent is how long a pod may take to go until its node is asked about.
	silent = 5 * time.Second
)

// Stop ends a replica and returns when its pod is gone. It is marked first, so
// that whoever starts it late, starts nothing.
func (e *Executor) Stop(ctx context.Context, f mlaas.Fence) error {
	if err := e.begin(); err != nil {
		return err
	}
	free, err := e.hold(ctx, f)
	if err != nil {
		return err
	}
	defer free()
	if err := e.sheaf(f).stop(ctx, secretKey(f)); err != nil {
		return e.fault(err)
	}
	feed := e.join()
	defer feed.leave()
	if err := feed.ready(ctx); err != nil {
		return err
	}
	namespace, name := e.shape.namespace(f.Tenant), podName(f)
	key := podKey(namespace, name)
	gone := feed.stopping(key)
	err = e.api.Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ref[int64](killSeconds)})
	if apierrors.IsNotFound(err) {
		feed.missing(key)
		return nil
	}
	if err != nil {
		return e.fault(err)
	}
	timer := time.NewTimer(silent)
	defer timer.Stop()
	for {
		select {
		case <-gone:
			return nil
		case <-feed.ended:
			return feed.err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			if err := e.force(ctx, namespace, name); err != nil {
				return err
			}
			timer.Reset(silent)
		}
	}
}

// force forgets a pod whose node does not answer: nobody there will say that it
// is gone. What still runs on it is kept out by its epoch.
func (e *Executor) force(ctx context.Context, namespace, name string) error {
	p, err := e.api.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // the news of it come
	}
	if err != nil {
		return e.fault(err)
	}
	node, err := e.api.Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	switch {
	case err == nil && works(node):
		return nil // it takes its time
	case err != nil && !apierrors.IsNotFound(err):
		return e.fault(err)
	}
	e.Log.Warn("a pod of a node that does not answer is forgotten", "pod", name, "node", p.Spec.NodeName)
	err = e.api.Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ref[int64](0)})
	if err != nil && !apierrors.IsNotFound(err) {
		return e.fault(err)
	}
	return nil
}

// Close is for those who close whatever they opened; there is nothing to do.
func (e *Executor) Close() error { return nil }

// limits are what is not enforced here, a sentence each.
func (e *Executor) limits() (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.spaces {
		s.mu.Lock()
		if s.limit != "" {
			out = append(out, s.limit)
		}
		s.mu.Unlock()
	}
	return out
}

// unknown is the error for a replica that has no pod, or none that runs.
func unknown(f mlaas.Fence) error {
	return fmt.Errorf("replica %s does not run: %w", f, mlaas.ErrNotFound)
}
