package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/s3"
	"mlaas.dev/mlaas/booster"
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

// joinStore opens it for a service, which may have to stay out: a newer version
// may have written what is there, or it is not all there yet.
func joinStore(ctx context.Context, at string, log *slog.Logger) (store.Driver, error) {
	db, err := openStore(ctx, at, log)
	if err != nil {
		return nil, err
	}
	if err := store.Admit(ctx, db); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// A bucket is where content and series are.
type bucket struct {
	*s3.S3
	objects *s3.Objects
}

// openBucket opens the bucket that the services share.
func openBucket(ctx context.Context, at string, log *slog.Logger) (bucket, error) {
	u, err := url.Parse(at)
	if err != nil {
		return bucket{}, mlaas.Invalid("--blob", "a URL such as s3://BUCKET?endpoint=https://HOST", "something else")
	}
	if u.Scheme != "s3" {
		return bucket{}, mlaas.Invalid("--blob", "a URL that begins with s3://", u.Scheme+"://...")
	}
	b, err := s3.Open(ctx, at, s3.Options{Log: log})
	if err != nil {
		return bucket{}, err
	}
	return bucket{b, b.Objects()}, nil
}

// remote reads the series of every cluster, from whoever serves it.
func (s *service) remote(db store.Driver, b bucket) (*series.Remote, error) {
	client, err := s.internal()
	return &series.Remote{Serves: s.serves, Client: client, DB: db, Blob: b, Objects: b.objects, Log: s.Log}, err
}

// inside reaches into the replicas of the clusters that other processes serve.
func (s *service) inside() (*booster.Inside, error) {
	client, err := s.internal()
	return &booster.Inside{Serves: s.serves, Client: client}, err
}

// serves says where the internal API of a cluster is; empty: nobody serves it.
func (s *service) serves(_ context.Context, cluster string) (string, error) {
	l, held, err := s.member.Holder(store.ClusterLease(cluster))
	if err != nil || !held {
		return "", err
	}
	return l.URL + "/internal/cluster/" + url.PathEscape(cluster), nil
}

// shards are the clusters that this process serves, for the other services:
// what their replicas have said, and a way into them.
type shards struct {
	mu  sync.Mutex
	all map[string]http.Handler
}

// set serves a cluster until what it returns is called.
func (x *shards) set(cluster string, s *series.Store, m *booster.Monitor) (unset func()) {
	mux := http.NewServeMux()
	mux.Handle("/", series.Handler(s))
	mux.Handle("/replica/", m.Internal())
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.all == nil {
		x.all = map[string]http.Handler{}
	}
	x.all[cluster] = mux
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
