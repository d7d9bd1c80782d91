package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/blob/s3"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/redisstore"
)

// openStore opens the store that the services share.
func openStore(ctx context.Context, at string, log *slog.Logger) (store.Driver, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, mlaas.Invalid("--store", "a URL such as redis://:PASSWORD@HOST:6379/NAME", "something else")
	}
	switch u.Scheme {
	case "redis", "rediss", "redis+unix", "unix", "redis+sentinel", "rediss+sentinel":
		db, err := redisstore.Open(ctx, at, redisstore.Options{Log: log})
		if err != nil {
			return nil, err
		}
		return queue.Unruly(db), nil
	}
	return nil, mlaas.Invalid("--store", "a URL that begins with redis://, rediss:// or redis+sentinel://", u.Scheme+"://...")
}

// places are where content and series are.
type places struct {
	blob.Driver
	close   func() error
	objects *s3.Objects // nil: in a folder that the machine has
	usage   func() mlaas.Bytes
}

// Close frees what openBlob holds.
func (p places) Close() error { return p.close() }

// openBlob opens the place for content that the services share.
func openBlob(ctx context.Context, at string, log *slog.Logger) (places, error) {
	u, err := url.Parse(at)
	if err != nil {
		return places{}, mlaas.Invalid("--blob", "a URL such as s3://BUCKET?endpoint=https://HOST", "something else")
	}
	switch u.Scheme {
	case "s3":
		b, err := s3.Open(ctx, at, s3.Options{Log: log})
		if err != nil {
			return places{}, err
		}
		return places{Driver: b, objects: b.Objects(), close: func() error { return nil }, usage: func() mlaas.Bytes { return 0 }}, nil
	case "file":
		b, err := files.Open(u.Path, nil)
		if err != nil {
			return places{}, err
		}
		return places{Driver: b, close: b.Close, usage: b.Usage}, nil
	}
	return places{}, mlaas.Invalid("--blob", "a URL that begins with s3:// or, on one machine, file://", u.Scheme+"://...")
}

// series opens the lines and points of a cluster for the one who serves it:
// beside the blobs where those are in a bucket, else in a folder.
func (p places) series(dir, cluster string, t *lease.Tenure, client *http.Client, log *slog.Logger) (*series.Store, error) {
	s := &series.Store{Blob: p.Driver, Log: log}
	if p.objects == nil {
		s.Dir = filepath.Join(dir, "series", cluster)
	} else {
		db := t.Over()
		remote := &series.Remote{Client: client, Log: log}
		s.Objects, s.DB, s.Shard, s.Epoch, s.Held = p.objects, db, cluster, t.Epoch, t.Held
		s.Take = func(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID, from string) error {
			at, err := shardURL(ctx, db, from)
			if err != nil {
				return err
			}
			if at == "" {
				return fmt.Errorf("nobody serves cluster %s now: %w", from, mlaas.ErrUnavailable)
			}
			return remote.Release(ctx, at, tenant, run)
		}
	}
	if err := s.Open(); err != nil {
		return nil, err
	}
	return s, nil
}

// shardURL is where the series of a cluster are served; empty: nowhere now.
func shardURL(ctx context.Context, db store.Driver, cluster string) (string, error) {
	l, _, err := store.Leases(db).Get(ctx, "", store.ClusterLease(cluster))
	if errors.Is(err, mlaas.ErrNotFound) || err == nil && l.URL == "" {
		return "", nil
	}
	return l.URL + "/internal/cluster/" + url.PathEscape(cluster), err
}

// shards are the series of the clusters that this process serves, for the
// other services to read.
type shards struct {
	mu  sync.Mutex
	all map[string]http.Handler
}

// set serves the series of a cluster until what it returns is called.
func (x *shards) set(cluster string, s *series.Store) (unset func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.all == nil {
		x.all = map[string]http.Handler{}
	}
	x.all[cluster] = series.Handler(s)
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.all, cluster)
	}
}

// handler serves them below /internal/cluster/NAME.
func (x *shards) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/internal/cluster/{name}/", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		x.mu.Lock()
		h := x.all[name]
		x.mu.Unlock()
		if h == nil {
			http.Error(w, fmt.Sprintf("this process does not serve cluster %s now", name), mlaas.ErrUnavailable.Status)
			return
		}
		http.StripPrefix("/internal/cluster/"+name, h).ServeHTTP(w, r)
	})
	return mux
}

// clusterNames are the clusters that there are, each with a shard of series.
func clusterNames(db store.Driver) func(context.Context) ([]string, error) {
	return func(ctx context.Context) (names []string, err error) {
		all, err := store.Clusters(db).All(ctx, store.Query{})
		for _, c := range all {
			names = append(names, c.Value.Name)
		}
		return names, err
	}
}

// findShard says where the series of a run are served: by the booster of the
// cluster that it ran on last.
func findShard(db store.Driver) func(context.Context, mlaas.Tenant, mlaas.RunID) (string, error) {
	return func(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) (string, error) {
		state, _, err := store.RunStates(db).Get(ctx, tenant, string(run))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return "", err
		}
		n := len(state.Attempts)
		if n == 0 {
			return "", fmt.Errorf("run %s has said nothing yet: %w", run, mlaas.ErrNotFound)
		}
		return shardURL(ctx, db, state.Attempts[n-1].Cluster)
	}
}

var _ io.Closer = places{}
