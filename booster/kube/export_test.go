package kube

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"mlaas.dev/mlaas/booster"
)

// Count has f called for each request to the API server.
func (a *Access) Count(f func(*http.Request)) {
	a.config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			f(r)
			return next.RoundTrip(r)
		})
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Pod is what Start would make of s.
func (e *Executor) Pod(s booster.Spec) (*corev1.Pod, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	return e.shape.pod(s)
}

// Client is what an Executor talks to its cluster with.
func (e *Executor) Client() (corev1client.CoreV1Interface, error) {
	err := e.begin()
	return e.api, err
}
