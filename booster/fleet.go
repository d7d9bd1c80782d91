package booster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// A Fleet is the clusters of one process, which come and go while it runs. Each
// is served while its lease is held, by itself: no cluster waits for another,
// and what ends one ends no other. Another process with the same clusters stands
// by.
type Fleet struct {
	Member *lease.Member // of this process, which runs it

	// Fixed are the clusters that need no record: this machine.
	Fixed []string

	// DB has the records of the others; nil: there are none.
	DB store.Driver

	// Only are the names of the clusters that are served; empty: all.
	Only []string

	// Serve serves one cluster: it makes what that needs, over t.Over(), calls
	// open with what is to be served below the cluster's address, and returns
	// when ctx ends or it cannot go on. It is called again when how the cluster
	// is reached, or what it lends, has changed.
	Serve func(ctx context.Context, t *lease.Tenure, c Reach, open func(http.Handler)) error

	Log *slog.Logger // nil: silent

	mu    sync.Mutex
	doors map[string]http.Handler // of the clusters that are served at this moment
}

// A Reach is a cluster and how it is reached. Of a fixed one it has the name
// alone.
type Reach struct {
	Spec mlaas.ClusterSpec
	Key  mlaas.ClusterKey // zero: it has none
}

// Run serves until ctx ends. A cluster that fails is served again after a
// while, by this process or another.
func (f *Fleet) Run(ctx context.Context) error {
	if f.Log == nil {
		f.Log = slog.New(slog.DiscardHandler)
	}
	var all sync.WaitGroup
	defer all.Wait()
	charges := map[string]*charge{}
	take := func(name string, r *Reach) {
		if c := charges[name]; c != nil {
			c.set(r)
			return
		}
		c := &charge{name: name, reach: r, changed: make(chan struct{})}
		charges[name] = c
		all.Go(func() { f.keep(ctx, c) })
	}
	for _, name := range f.Fixed {
		take(name, &Reach{Spec: mlaas.ClusterSpec{Name: name}})
	}
	if f.DB == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for {
		err := f.follow(ctx, take, func(there map[string]bool) {
			for name := range charges {
				if !there[name] && !slices.Contains(f.Fixed, name) {
					take(name, nil)
				}
			}
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.Log.Warn("the clusters that are wanted cannot be watched", "error", err)
		pause(ctx, time.Second)
	}
}

// follow takes every cluster that is wanted, then each change.
func (f *Fleet) follow(ctx context.Context, take func(string, *Reach), synced func(there map[string]bool)) error {
	specs := store.ClusterSpecs(f.DB)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, ended := make(chan store.Change, 64), make(chan error, 1)
	go func() { ended <- f.DB.Watch(ctx, 0, []string{specs.Kind}, changes) }()
	there := map[string]bool{}
	for {
		select {
		case err := <-ended:
			return err
		case c := <-changes:
			name := c.Row.Key.ID
			switch {
			case c.Synced:
				if err := f.past(ctx, there, take); err != nil {
					cancel()
					<-ended //nolint:errcheck // it was told to end
					return err
				}
				synced(there)
			case !f.serves(name):
			case c.Deleted:
				delete(there, name)
				take(name, nil)
			default:
				there[name] = true
				spec, err := specs.Decode(c.Row)
				var key mlaas.ClusterKey
				if err == nil {
					key, _, err = store.ClusterKeys(f.DB).Get(ctx, "", name)
				}
				if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
					f.Log.Error("a cluster's record cannot be read", "cluster", name, "error", err)
					if ctx.Err() == nil && mlaas.KindOf(err) == mlaas.ErrUnavailable {
						cancel()
						<-ended    //nolint:errcheck // it was told to end
						return err // all of it is read again
					}
					continue
				}
				if spec.Kind == mlaas.ClusterLocal {
					continue // another machine's own, which was drained once
				}
				take(name, &Reach{spec, key})
			}
		}
	}
}

// serves reports whether a cluster of the records is ours.
func (f *Fleet) serves(name string) bool {
	return !slices.Contains(f.Fixed, name) && (len(f.Only) == 0 || slices.Contains(f.Only, name))
}

// past takes the clusters that were and are not any more: somebody may still
// have told them something.
func (f *Fleet) past(ctx context.Context, there map[string]bool, take func(string, *Reach)) error {
	leases, err := store.Leases(f.DB).All(ctx, store.Query{Prefix: store.ClusterLease("")})
	if err != nil {
		return err
	}
	for _, l := range leases {
		name := strings.TrimPrefix(l.Value.Name, store.ClusterLease(""))
		if there[name] || !f.serves(name) {
			continue
		}
		_, _, err := store.Clusters(f.DB).Get(ctx, "", name)
		if errors.Is(err, mlaas.ErrNotFound) {
			take(name, nil)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// A charge is one cluster of a fleet.
type charge struct {
	name string

	mu      sync.Mutex
	reach   *Reach        // nil: it was, and is not any more
	changed chan struct{} // closed when how it is reached is another
}

// set says how it is reached from now on. What is only wanted of it changes
// nothing for who serves it.
func (c *charge) set(r *Reach) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r == nil && c.reach == nil || r != nil && c.reach != nil && r.Spec.Changed.Equal(c.reach.Spec.Changed) && r.Spec.Created.Equal(c.reach.Spec.Created) {
		return
	}
	c.reach = r
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *charge) get() (*Reach, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reach, c.changed
}

// longestWait is between two tries to serve a cluster.
const longestWait = time.Minute

// keep serves one cluster until ctx ends, backing off while it fails.
func (f *Fleet) keep(ctx context.Context, c *charge) {
	for wait := time.Second; ctx.Err() == nil; {
		reach, changed := c.get()
		began := time.Now()
		var err error
		if reach == nil {
			err = f.deaf(ctx, c.name, changed)
		} else {
			err = f.hold(ctx, c, changed)
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-changed:
			wait = time.Second
			continue
		default:
		}
		f.Log.Error("a cluster cannot be served; it is tried again", "cluster", c.name, "error", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		if wait = min(2*wait, longestWait); time.Since(began) > longestWait {
			wait = time.Second
		}
	}
}

// hold serves a cluster while its lease is held. What is changed meanwhile is
// served anew by the same tenure.
func (f *Fleet) hold(ctx context.Context, c *charge, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // one that is forgotten while another process has it is waited for no longer
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			var r *Reach
			if r, changed = c.get(); r == nil {
				cancel()
				return
			}
		}
	}()
	return f.Member.Hold(ctx, store.ClusterLease(c.name), func(ctx context.Context, t *lease.Tenure) error {
		for {
			reach, changed := c.get()
			if reach == nil {
				return nil
			}
			err := f.once(ctx, t, *reach, changed)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			select {
			case <-changed:
			default:
				return err
			}
		}
	})
}

// once serves a cluster as it is reached now, until that changes.
func (f *Fleet) once(ctx context.Context, t *lease.Tenure, r Reach, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name := r.Spec.Name
	defer f.door(name, nil)
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx, t, r, func(h http.Handler) { f.door(name, h) }) }()
	select {
	case err := <-ended:
		return err
	case <-changed:
		cancel()
		return <-ended
	}
}

// deaf takes what is told to a cluster that is not any more, until it is again:
// nothing of it waits for ever.
func (f *Fleet) deaf(ctx context.Context, name string, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inbox := &queue.Inbox{DB: f.DB, Name: mlaas.ToBooster(name), Log: f.Log}
	drop := func(ctx context.Context) (store.Batch, error) {
		specs, clusters := store.ClusterSpecs(f.DB), store.Clusters(f.DB)
		_, _, spec := specs.Get(ctx, "", name)
		_, _, there := clusters.Get(ctx, "", name)
		if !errors.Is(spec, mlaas.ErrNotFound) || !errors.Is(there, mlaas.ErrNotFound) {
			return store.Batch{}, fmt.Errorf("cluster %s is there again: %w", name, errors.Join(spec, there, mlaas.ErrUnavailable))
		}
		return store.Batch{Check: []store.Row{specs.At("", name, 0), clusters.At("", name, 0)}}, nil
	}
	queue.On(inbox, func(ctx context.Context, _ mlaas.ReplicasWanted) (store.Batch, error) { return drop(ctx) })
	queue.On(inbox, func(ctx context.Context, _ mlaas.CodeReady) (store.Batch, error) { return drop(ctx) })
	queue.On(inbox, func(ctx context.Context, _ mlaas.ReplicasUnwanted) (store.Batch, error) { return drop(ctx) })
	ended := make(chan error, 1)
	go func() { ended <- inbox.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-changed:
		cancel()
		return <-ended
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
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
// and they call again: on another connection, for which a balancer between
// chooses anew.
func (f *Fleet) Door(cluster string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		h := f.doors[cluster]
		f.mu.Unlock()
		if h == nil {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Connection", "close")
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
	mux.HandleFunc("/cluster/{name}/", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		http.StripPrefix("/cluster/"+name, f.Door(name)).ServeHTTP(w, r)
	})
	return mux
}

// Served lists the clusters that this process serves at this moment.
func (f *Fleet) Served() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.doors))
}

// Unreached is the executor of a cluster that cannot even be called, because of
// err: bad credentials, a setting that is wrong. The cluster is away, and its
// record says why.
func Unreached(kind string, err error) Executor { return unreached{kind, err} }

type unreached struct {
	kind string
	err  error
}

// Kind is what kind of cluster it would be.
func (u unreached) Kind() string { return u.kind }

func (u unreached) cannot() error {
	if errors.Is(u.err, mlaas.ErrUnavailable) {
		return u.err
	}
	return fmt.Errorf("%s: %w", sentence(u.err), mlaas.ErrUnavailable) // no fault of a replica
}

func (u unreached) Start(context.Context, Spec) error          { return u.cannot() }
func (u unreached) Stop(context.Context, mlaas.Fence) error    { return u.cannot() }
func (u unreached) Watch(context.Context, chan<- News) error   { return u.cannot() }
func (u unreached) Capacity(context.Context) (Capacity, error) { return Capacity{}, u.cannot() }

func (u unreached) Logs(context.Context, mlaas.Fence, bool) (io.ReadCloser, error) {
	return nil, u.cannot()
}

func (u unreached) Exec(context.Context, mlaas.Fence, []string, io.Reader, io.Writer) (int, error) {
	return 0, u.cannot()
}
