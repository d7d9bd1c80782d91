package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/local"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/internal/stream"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/management"
	"mlaas.dev/mlaas/observe"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
	"mlaas.dev/mlaas/supervisor/environment"
	"mlaas.dev/mlaas/web"
)

// parts are what a platform on one machine is made of.
type parts struct {
	db         store.Driver
	blob       *files.Files
	series     *series.Store
	executor   *local.Executor
	management *management.Management
	contractor *contractor.Contractor
	booster    *booster.Booster
	monitor    *booster.Monitor
	fleet      *booster.Fleet // the clusters that were added
	clusters   *clusterFile   // nil: no file says which there are
	metrics    *observe.Metrics
}

// localCluster is the name of this machine among the clusters.
const localCluster = "local"

// open makes the parts, each over the ones before it.
func (p platform) open(ctx context.Context, key []byte, token, binary string, tracer trace.Tracer) (x *parts, err error) {
	x = new(parts)
	defer func() {
		if err != nil {
			x.Close()
			x = nil
		}
	}()
	synced := new(meter.Histogram)
	options := sqlitestore.Options{Log: p.Log, Synced: synced}
	if !p.Group {
		options.Group = 1
	}
	db, err := sqlitestore.Open(ctx, filepath.Join(p.Dir, "mlaas.db"), options)
	if err != nil {
		return x, err
	}
	x.db = queue.Unruly(db)
	if err = store.Admit(ctx, x.db); err != nil {
		return x, err
	}
	if x.blob, err = files.Open(filepath.Join(p.Dir, "blob"), nil); err != nil {
		return x, err
	}
	segment, err := p.Give.segmentBytes()
	if err != nil {
		return x, err
	}
	x.series = &series.Store{Dir: filepath.Join(p.Dir, "series"), Blob: x.blob, Log: p.Log, SegmentBytes: segment}
	if err = x.series.Open(); err != nil {
		return x, err
	}
	if x.executor, err = p.Give.executor(p.Dir, binary, p.Log); err != nil {
		return x, err
	}
	// No other process can use this store: what one alone must do is ours.
	member := &lease.Member{DB: x.db, Service: "up", ID: "up-" + mlaas.NewID(time.Now()), Version: release(), Alone: true, Log: p.Log}
	x.contractor = &contractor.Contractor{DB: x.db, Member: member, Log: p.Log, Trace: tracer, Counts: new(contractor.Counts)}
	mail, err := mailer(p.Env)
	if err != nil {
		return x, err
	}
	x.booster = newBooster(localCluster, x.executor, x.db, x.blob, x.series, key, doorAt(p.Dir), mail, p.Log)
	x.booster.Trace, x.booster.Counts = tracer, new(booster.Counts)
	x.monitor = x.booster.Monitor()
	inside := &monitors{}
	inside.set(localCluster, nil, x.monitor)
	x.management = &management.Management{
		Health: &health.Prober{Checks: []health.Check{
			health.Store(x.db, "up"), health.Messages(x.db, true), health.Blob(x.blob), health.Disk(p.Dir),
		}},
		DB: x.db, Blob: x.blob, Series: x.series, Inside: inside, Key: key, Log: p.Log, Trace: tracer,
		Auth:      &auth.Requests{DB: x.db, Token: token},
		Catalogue: catalogue(),
		Info:      func(ctx context.Context) (management.Info, error) { return p.info(ctx, x) },
		Prepare:   preview{Dir: filepath.Join(p.Dir, "preview"), Env: filepath.Join(p.Dir, "env"), Binary: binary, Blob: x.blob, Log: p.Log}.Prepare,
		Fetch:     repositories{Private: p.Private, Log: p.Log}.Fetch,
		Sweep: func(ctx context.Context) ([]string, error) {
			return sweepMachine(ctx, x.db, x.executor, filepath.Join(p.Dir, "env"), p.Log)
		},
	}
	ca, err := readCA(p.DoorCA)
	if err != nil {
		return x, err
	}
	others := &recorded{kinds: kinds(p.Exec, ca), secret: key, mail: mail, blobs: x.blob, counts: new(booster.Counts), tracer: tracer, log: p.Log,
		lines: func(string, *lease.Tenure, *slog.Logger) (*series.Store, func(context.Context) error, func(), error) {
			return x.series, waits, func() {}, nil // one keeps what is said on all clusters
		},
		show: inside.set}
	x.fleet = &booster.Fleet{Member: member, DB: x.db, Serve: others.serve, Log: p.Log}
	x.management.AllowExec = p.Exec
	if p.Clusters != "" {
		x.clusters = &clusterFile{Path: p.Clusters, Exec: p.Exec, Apply: x.management.Declare, Log: p.Log}
		if err = x.clusters.once(ctx); err != nil {
			return x, err
		}
	}
	x.metrics = observe.NewMetrics(release())
	x.metrics.Store(x.db)
	showSyncs(x.metrics, synced)
	showManagement(x.metrics, x.management)
	showContractor(x.metrics, x.contractor.Counts)
	showBooster(x.metrics, localCluster, x.booster.Counts)
	showBooster(x.metrics, "added", others.counts)
	x.management.Metrics = x.metrics.Handler()
	return x, nil
}

// monitors are the clusters that this process serves, for its own management.
type monitors struct {
	mu  sync.Mutex
	all map[string]*booster.Monitor
}

// set shows a cluster until hide is called.
func (x *monitors) set(cluster string, _ *series.Store, m *booster.Monitor) (hide func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.all == nil {
		x.all = map[string]*booster.Monitor{}
	}
	x.all[cluster] = m
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.all[cluster] == m {
			delete(x.all, cluster)
		}
	}
}

func (x *monitors) of(cluster string) (*booster.Monitor, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if m := x.all[cluster]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("nobody serves cluster %s now: %w", cluster, mlaas.ErrUnavailable)
}

// Open opens a stream into a replica.
func (x *monitors) Open(ctx context.Context, cluster string, f mlaas.Fence, ask mlaas.Open, by string) (*stream.Stream, error) {
	m, err := x.of(cluster)
	if err != nil {
		return nil, err
	}
	return m.Open(ctx, f, ask, by)
}

// Log is what the executor keeps of a replica's container.
func (x *monitors) Log(ctx context.Context, cluster string, f mlaas.Fence) (string, int64, error) {
	m, err := x.of(cluster)
	if err != nil {
		return "", 0, err
	}
	return m.Log(ctx, f)
}

// FollowLog is what is added to it.
func (x *monitors) FollowLog(ctx context.Context, cluster string, f mlaas.Fence, after int64) (io.ReadCloser, error) {
	m, err := x.of(cluster)
	if err != nil {
		return nil, err
	}
	return m.FollowLog(ctx, f, after)
}

// services are what runs until the platform ends, by name.
func (x *parts) services() map[string]func(context.Context) error {
	all := map[string]func(context.Context) error{
		"series":     x.series.Run,
		"contractor": x.contractor.Run,
		"booster":    x.booster.Run,
		"fleet":      x.fleet.Run,
		"management": x.management.Run,
	}
	if x.clusters != nil {
		all["clusters"] = x.clusters.Run
	}
	return all
}

// waits does nothing until ctx ends.
func waits(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// beside serves the doors of clusters below /cluster/, and all else by h.
func beside(h http.Handler, fleet *booster.Fleet) http.Handler {
	doors := fleet.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/cluster/") {
			doors.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// site is what is served to people: the page, and the API that it calls.
func site(m *management.Management) http.Handler { return web.Handler(m.Handler()) }

// login is a link that lets one browser in, once.
func (x *parts) login(ctx context.Context, url string) (string, error) {
	path, err := x.management.Invite(ctx, mlaas.DefaultTenant)
	return url + path, err
}

// running counts the replicas that go on without the platform.
func (x *parts) running(ctx context.Context) int {
	live, err := store.Replicas(x.db).All(ctx, store.Query{Index: "live"})
	if err != nil {
		return 0
	}
	return len(live)
}

// Close frees what open holds, the last first.
func (x *parts) Close() {
	if x.executor != nil {
		x.executor.Close()
	}
	if x.series != nil {
		x.series.Close()
	}
	if x.blob != nil {
		x.blob.Close()
	}
	if x.db != nil {
		x.db.Close()
	}
}

// How much of the disk the caches of this machine may take, and how long what
// ended replicas left is kept to look at.
const (
	maxEnvironments = 20 << 30
	keepReplicas    = 7 * 24 * time.Hour
)

// info says what only this machine knows.
func (p platform) info(ctx context.Context, x *parts) (management.Info, error) {
	i := management.Info{Version: release(), Data: p.Dir, Disk: map[string]mlaas.Bytes{},
		Caps: map[string]mlaas.Bytes{"env": maxEnvironments}}
	i.Disk["blob"] = x.blob.Usage()
	used, err := x.series.Usage(ctx)
	if err != nil {
		return i, err
	}
	i.Disk["series"] = used
	for _, sub := range []string{"mlaas.db", "mlaas.db-wal", "replicas", "env", "data"} {
		i.Disk[sub] = folderSize(filepath.Join(p.Dir, sub))
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(p.Dir, &disk); err != nil {
		return i, fmt.Errorf("%s: %w", p.Dir, err)
	}
	i.Free = mlaas.Bytes(disk.Bavail) * mlaas.Bytes(disk.Bsize)
	return i, nil
}

// folderSize is what the files below a path take; files that share their
// content by a hard link count once.
func folderSize(root string) (size mlaas.Bytes) {
	seen := map[uint64]bool{}
	//nolint:errcheck // what cannot be read is not counted
	filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it went meanwhile
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			if s.Nlink > 1 && seen[s.Ino] {
				return nil
			}
			seen[s.Ino] = true
		}
		size += mlaas.Bytes(info.Size())
		return nil
	})
	return size
}

// catalogue is what environments can be of, as the API shows it.
func catalogue() (all []management.Framework) {
	for _, e := range environment.Catalogue() {
		all = append(all, management.Framework{Name: e.Name, Packages: e.Packages, Pythons: e.Pythons, Notes: e.Notes})
	}
	return all
}
