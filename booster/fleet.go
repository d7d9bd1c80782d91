package booster

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/store"
)

// A Fleet is the clusters of one process. Each is served while its lease is
// held, by itself: no cluster waits for another, and what ends one ends no
// other. Another process with the same clusters stands by.
type Fleet struct {
	Member *lease.Member // of this process, which runs it

	// Clusters serve one cluster each: make what it needs, over t.Over(), call
	// open with its monitor, run, and return when ctx ends or it cannot go on.
	Clusters map[string]func(ctx context.Context, t *lease.Tenure, open func(*Monitor)) error

	Log *slog.Logger // nil: silent

	mu    sync.Mutex
	doors map[string]http.Handler // of the clusters that are served at this moment
}

// Run serves until ctx ends. A cluster that fails is served again after a
// while, by this process or another.
func (f *Fleet) Run(ctx context.Context) error {
	if f.Log == nil {
		f.Log = slog.New(slog.DiscardHandler)
	}
	g, ctx := errgroup.WithContext(ctx)
	for name, serve := range f.Clusters {
		g.Go(func() error {
			for wait := time.Second; ; wait = min(2*wait, time.Minute) {
				began := time.Now()
				err := f.Member.Hold(ctx, store.ClusterLease(name), func(ctx context.Context, t *lease.Tenure) error {
					defer f.door(name, nil)
					return serve(ctx, t, func(m *Monitor) { f.door(name, m.Handler()) })
				})
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				f.Log.Error("a cluster cannot be served; it is tried again", "cluster", name, "error", err, "after", wait)
				if time.Since(began) > time.Minute {
					wait = time.Second
				}
				timer := time.NewTimer(wait)
				select {
				case <-ctx.Done():
				case <-timer.C:
				}
				timer.Stop()
			}
		})
	}
	return g.Wait()
}

func (f *Fleet) door(cluster string, h http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.doors == nil {
		f.doors = map[string]http.Handler{}
	}
	if f.doors[cluster] = h; h == nil {
		delete(f.doors, cluster)
	}
}

// Door is the door of a cluster, as its supervisors reach it below the address
// that they were given. Where another process serves the cluster it says so,
// and they call again.
func (f *Fleet) Door(cluster string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		h := f.doors[cluster]
		f.mu.Unlock()
		if h == nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprintf("this process does not serve cluster %s now", cluster), mlaas.ErrUnavailable.Status)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Handler is the doors of all clusters: that of cluster NAME is below
// /cluster/NAME.
func (f *Fleet) Handler() http.Handler {
	mux := http.NewServeMux()
	for name := range f.Clusters {
		at := "/cluster/" + name
		mux.Handle(at+"/", http.StripPrefix(at, f.Door(name)))
	}
	return mux
}
