package kube

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keepFor is how long the Secret of an attempt is kept that has no pods: a start
// or a stop that comes late finds it.
const keepFor = 15 * time.Minute

// sweep takes away the Secrets of attempts whose pods are gone. It counts the
// time itself: clocks differ.
func (e *Executor) sweep(ctx context.Context, f *feed, in string) {
	all, err := e.api.Secrets(in).List(ctx, metav1.ListOptions{LabelSelector: e.shape.ours()})
	if err != nil {
		e.Log.Warn("what is left of old runs cannot be looked for", "cluster", e.Cluster, "error", e.fault(err))
		return
	}
	e.mu.Lock()
	before, idle := e.idle, map[string]time.Time{}
	e.mu.Unlock()
	for i := range all.Items {
		s := &all.Items[i]
		key := podKey(s.Namespace, s.Name)
		if f.has(s.Namespace, fmt.Sprintf("%s-%s", s.Labels[labelRun], s.Labels[labelEpoch])) {
			continue
		}
		since, ok := before[key]
		if !ok {
			since = time.Now()
		}
		if idle[key] = since; time.Since(since) < keepFor {
			continue
		}
		// Not if it was written meanwhile: then something is being started.
		err := e.api.Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &s.ResourceVersion}})
		if err != nil {
			e.Log.Info("what is left of an old run cannot be removed; it is tried again at the next sweep", "secret", s.Name, "error", err)
			continue
		}
		delete(idle, key)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle = idle
	for key, s := range e.sheafs {
		s.mu.Lock()
		if !s.busy && time.Since(s.used) > keepFor {
			delete(e.sheafs, key)
		}
		s.mu.Unlock()
	}
}
