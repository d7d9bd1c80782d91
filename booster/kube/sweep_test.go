package kube

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"mlaas.dev/mlaas"
)

// What a platform leaves is gone when a cluster is removed: what it keeps for
// this cluster, and nothing of another cluster, of others, or that they share.
func TestLeave(t *testing.T) {
	s := newServer()
	e := s.executor(t)
	if err := e.Start(t.Context(), plainSpec("worker-0")); err != nil {
		t.Fatal(err)
	}
	if err := e.sheaf(plainSpec("worker-0").Fence).stop(t.Context(), secretKey(plainSpec("worker-0").Fence)); err != nil {
		t.Fatal(err)
	}
	of := func(cluster, namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{labelManaged: manager, labelCluster: cluster}}
	}
	rules := func(cluster, namespace string) {
		for _, o := range []apiruntime.Object{&corev1.LimitRange{ObjectMeta: of(cluster, namespace, manager)}, &corev1.ResourceQuota{ObjectMeta: of(cluster, namespace, manager)}} {
			if err := s.ObjectTracker.Add(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	rules("east", DefaultNamespace)
	rules("east", "shared")
	rules("west", "theirs")
	for _, m := range []metav1.ObjectMeta{
		of("west", "shared", "run-1"),
		{Namespace: DefaultNamespace, Name: "registry"},
	} {
		if err := s.ObjectTracker.Add(&corev1.Secret{ObjectMeta: m}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // and once more, as who comes after a crash does
		if err := e.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	note := func(kind string, m metav1.ObjectMeta) {
		left = append(left, fmt.Sprintf("%s %s/%s", kind, m.Namespace, m.Name))
	}
	secrets, err := e.api.Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range secrets.Items {
		note("secret", x.ObjectMeta)
	}
	quotas, err := e.api.ResourceQuotas("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range quotas.Items {
		note("quota", x.ObjectMeta)
	}
	ranges, err := e.api.LimitRanges("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ranges.Items {
		note("defaults", x.ObjectMeta)
	}
	want := []string{"secret mlaas/registry", "secret shared/run-1", "quota shared/mlaas", "quota theirs/mlaas", "defaults shared/mlaas", "defaults theirs/mlaas"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	if err := e.Stop(t.Context(), mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: run, Epoch: 1, Replica: "worker-1", Incarnation: 1}); err != nil { // late
		t.Error(err)
	}
}
