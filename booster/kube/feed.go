package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// relistEvery is how long an event that never came is missed at most: whatever
// the watch said, everything is read again then and compared.
const relistEvery = 5 * time.Minute

// again is how long lies between two watches at least.
const again = time.Second

// A feed is what is known of the pods of this cluster, for as long as somebody
// watches. client-go's reflector lists and watches, and begins again where the
// watch was cut or is too old; here its pods become news: what was seen before
// and is not in a new list is gone, what is older than what is known is not
// believed.
type feed struct {
	e      *Executor
	cancel context.CancelFunc
	users  int // under e.mu

	synced chan struct{} // closed when everything is known
	ended  chan struct{} // closed when nothing comes any more; err says why
	err    error

	mu       sync.Mutex
	pods     map[string]*pod // by namespace/name
	watchers map[*watcher]bool
}

// A pod is all that is kept of one: a cluster may have thousands.
type pod struct {
	version uint64       // of the object; 0: it was not seen yet
	news    booster.News // the last that was told
	leaving string       // why it is being deleted, if it is and not by us
	lost    bool         // because its node is gone
	asked   bool         // by us
	gone    chan struct{}
}

// join makes sure that there is a feed. leave it.
func (e *Executor) join() *feed {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.feed; f != nil {
		select {
		case <-f.ended:
		default:
			f.users++
			return f
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{
		e: e, cancel: cancel, users: 1, synced: make(chan struct{}), ended: make(chan struct{}),
		pods: map[string]*pod{}, watchers: map[*watcher]bool{},
	}
	e.feed = f
	go f.run(ctx)
	return f
}

func (f *feed) leave() {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.users--; f.users == 0 {
		f.cancel()
		if f.e.feed == f {
			f.e.feed = nil
		}
	}
}

// ready returns once everything is known.
func (f *feed) ready(ctx context.Context) error {
	select {
	case <-f.synced:
		return nil
	case <-f.ended:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run keeps the feed until ctx ends or the cluster is lost.
func (f *feed) run(ctx context.Context) {
	defer close(f.ended)
	defer f.cancel()
	quiet := logr.FromSlogHandler(slog.DiscardHandler) // what matters comes as an error
	ctx = klog.NewContext(ctx, quiet)
	in, err := f.e.everywhere(ctx)
	if err != nil {
		f.err = f.e.fault(err)
		return
	}
	var watched time.Time
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.LabelSelector = f.e.shape.ours(); o.ResourceVersion == "0" {
				o.ResourceVersion = "" // as it is now, not as a cache has it
			}
			return f.e.api.Pods(in).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			// A watch that is cut at once is not tried in a hurry: the reflector
			// itself would, where the server says that it is too old.
			if !watched.IsZero() && time.Since(watched) < again {
				if err := pause(ctx, again); err != nil {
					return nil, err
				}
			}
			watched = time.Now()
			o.LabelSelector = f.e.shape.ours()
			return f.e.api.Pods(in).Watch(ctx, o)
		},
	}, f.e.api)
	swept := time.Now()
	for {
		within, cancel := context.WithTimeout(ctx, relistEvery)
		err := cache.NewReflectorWithOptions(source, &corev1.Pod{}, f, cache.ReflectorOptions{Name: f.e.Cluster, Logger: &quiet}).ListAndWatchWithContext(within)
		cancel()
		switch {
		case ctx.Err() != nil:
			f.err = ctx.Err()
			return
		case err != nil && !apierrors.IsGone(err) && !apierrors.IsResourceExpired(err):
			f.err = f.e.fault(err)
			return
		}
		if time.Since(swept) >= relistEvery {
			swept = time.Now()
			f.e.sweep(ctx, f, in)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func podKey(namespace, name string) string { return namespace + "/" + name }

// version is a resource version as a number: a later one is greater.
func version(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Add, Update, Delete, Replace and Resync make a feed the store of a reflector.
func (f *feed) Add(o any) error { return f.Update(o) }

// Update takes a pod as it is now.
func (f *feed) Update(o any) error {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("%T is no pod", o)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.see(p)
	return nil
}

// Delete takes that a pod is gone.
func (f *feed) Delete(o any) error {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("%T is no pod", o)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.see(p) // it may say how it ended
	f.vanish(podKey(p.Namespace, p.Name))
	return nil
}

// Replace takes everything that is there.
func (f *feed) Replace(all []any, at string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := make(map[string]bool, len(all))
	for _, o := range all {
		p, ok := o.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("%T is no pod", o)
		}
		there[podKey(p.Namespace, p.Name)] = true
		f.see(p)
	}
	now := version(at)
	for key, p := range f.pods {
		if !there[key] && (p.version <= now || now == 0) {
			f.vanish(key)
		}
	}
	select {
	case <-f.synced:
	default:
		close(f.synced)
	}
	return nil
}

// Resync has nothing to do.
func (f *feed) Resync() error { return nil }

// see notes how a pod is. The lock is held.
func (f *feed) see(p *corev1.Pod) {
	fence, ok := fenceOf(p.Labels)
	if !ok {
		return // somebody else uses our labels
	}
	key := podKey(p.Namespace, p.Name)
	known := f.pods[key]
	if known == nil {
		known = &pod{gone: make(chan struct{})}
		f.pods[key] = known
	}
	v := version(p.ResourceVersion)
	if v < known.version {
		return // late
	}
	known.version = v
	n := look(intern(fence, known.news.Fence), p)
	if p.DeletionTimestamp != nil && !known.asked {
		known.leaving = "its pod was deleted by somebody else"
		if d := condition(p, corev1.DisruptionTarget); d != nil {
			known.leaving, known.lost = disruption(p, d), nodeLost(d)
		}
	}
	if known.asked {
		known.news.Fence = n.Fence
		return // how it ends is known
	}
	f.tell(known, n)
}

// intern keeps the strings of an old value where the new one is the same.
func intern(f, old mlaas.Fence) mlaas.Fence {
	if f == old {
		return old
	}
	return f
}

// vanish notes that a pod is gone. The lock is held.
func (f *feed) vanish(key string) {
	p := f.pods[key]
	if p == nil {
		return
	}
	delete(f.pods, key)
	close(p.gone)
	n := p.news
	switch {
	case n.Fence == mlaas.Fence{}:
		return // it was never seen
	case p.asked:
		n.Status, n.Reason = mlaas.ReplicaStopped, "it was stopped"
	default:
		n.Status, n.Reason, n.NodeLost = mlaas.ReplicaLost, p.leaving, p.lost
		if n.Reason == "" {
			n.Reason = "its pod was deleted by somebody else"
		}
	}
	f.tell(p, n)
}

// tell makes news of a replica, if it is a step forward. The lock is held.
func (f *feed) tell(p *pod, n booster.News) {
	old := p.news
	if old.Status.Final() || old.Status != "" && n.Status != old.Status && !n.Status.After(old.Status) {
		return
	}
	if old.Status == n.Status && old.Reason == n.Reason && old.Node == n.Node {
		return
	}
	p.news = n
	for w := range f.watchers {
		w.add(n)
	}
}

// stopping notes that we delete a pod, and returns what is closed when it is
// gone.
func (f *feed) stopping(key string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[key]
	if p == nil {
		p = &pod{gone: make(chan struct{})}
		f.pods[key] = p
	}
	p.asked = true
	return p.gone
}

// missing notes that a pod that we wanted to delete is not there.
func (f *feed) missing(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vanish(key)
}

// A watcher has its own list of news to send, so that none waits for another.
// Of one replica it keeps the newest only.
type watcher struct {
	wake  chan struct{}
	order []mlaas.Fence
	news  map[mlaas.Fence]booster.News
}

func (w *watcher) add(n booster.News) {
	if _, ok := w.news[n.Fence]; !ok {
		w.order = append(w.order, n.Fence)
	}
	w.news[n.Fence] = n
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watch begins with everything.
func (f *feed) watch() *watcher {
	w := &watcher{wake: make(chan struct{}, 1), news: map[mlaas.Fence]booster.News{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(f.pods)) {
		if p := f.pods[key]; p.news.Status != "" { // also what is being stopped: it is there until it is gone
			w.add(p.news)
		}
	}
	w.add(booster.News{Synced: true})
	f.watchers[w] = true
	return w
}

// next is what a watcher has to send.
func (f *feed) next(w *watcher) (n booster.News, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(w.order) == 0 {
		return n, false
	}
	n = w.news[w.order[0]]
	delete(w.news, w.order[0])
	w.order = w.order[1:]
	return n, true
}

// Watch sends news of every replica that is there, then each change.
func (e *Executor) Watch(ctx context.Context, out chan<- booster.News) error {
	if err := e.begin(); err != nil {
		return err
	}
	f := e.join()
	defer f.leave()
	if err := f.ready(ctx); err != nil {
		return err
	}
	w := f.watch()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}()
	for {
		if n, ok := f.next(w); ok {
			select {
			case out <- n:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		select {
		case <-w.wake:
		case <-f.ended:
			if errors.Is(f.err, context.Canceled) { // of the feed, not of ours
				return fmt.Errorf("its news ended: %w", mlaas.ErrUnavailable)
			}
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// has reports whether a pod of this attempt is known.
func (f *feed) has(namespace, attempt string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.pods {
		if strings.HasPrefix(key, namespace+"/"+attempt+"-") {
			return true
		}
	}
	return false
}
