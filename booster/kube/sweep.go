package kube

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// Leave takes away the Secrets of attempts, and the quota and the defaults of each
// namespace in which no other cluster of a platform is. Namespaces stay: what else
// is in them is not ours.
func (e *Executor) Leave(ctx context.Context) error {
	if err := e.begin(); err != nil {
		return err
	}
	if err := e.left(ctx); err != nil {
		return e.fault(err)
	}
	return nil
}

func (e *Executor) left(ctx context.Context) error {
	in, err := e.everywhere(ctx)
	if err != nil {
		return err
	}
	ours := metav1.ListOptions{LabelSelector: e.shape.ours()}
	secrets, err := e.api.Secrets(in).List(ctx, ours)
	if err != nil {
		return err
	}
	ranges, err := e.api.LimitRanges(in).List(ctx, ours) // there is one beside each quota
	if apierrors.IsForbidden(err) {
		ranges, err = new(corev1.LimitRangeList), nil // then we have made none
	}
	if err != nil {
		return err
	}
	for _, r := range ranges.Items {
		others, err := e.api.Secrets(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelManaged + "=" + manager + "," + labelCluster + "!=" + e.Cluster, Limit: 1})
		if err != nil {
			return err
		}
		if len(others.Items) > 0 {
			continue
		}
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{e.api.ResourceQuotas(r.Namespace).Delete, e.api.LimitRanges(r.Namespace).Delete} {
			if err := remove(ctx, manager, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, s := range secrets.Items {
		g.Go(func() error {
			err := e.api.Secrets(s.Namespace).Delete(within, s.Name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}
