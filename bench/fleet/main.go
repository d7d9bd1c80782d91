// Command fleet measures what clusters that cannot be reached cost the others:
// how soon 45 live ones among 50 are connected, and how long a run takes to start
// on them with and without the dead ones. The live ones are played, each behind
// a server of its own that is asked over TLS; the dead ones are real kubeconfigs
// that lead nowhere, to silence, to another certificate, and to servers that
// refuse their token.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

const (
	live = 45
	dead = 5

	within      = 3 * time.Second // until all live ones are connected
	mostMedian  = 1.1             // of a start, with the dead ones by without
	mostHighest = 1.5             // the same, of the 99th of 100
)

func main() {
	n := flag.Int("n", 200, "how many starts with the dead clusters, and without")
	flag.Parse()
	if err := run(context.Background(), *n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A played cluster asks its server before it does anything.
type played struct {
	*scripted.Executor
	server *httptest.Server
}

func (p *played) Kind() string { return "kubernetes" }

func (p *played) ask(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server.URL, nil)
	if err != nil {
		return err
	}
	answer, err := p.server.Client().Do(r)
	if err != nil {
		return fmt.Errorf("%v: %w", err, mlaas.ErrUnavailable)
	}
	return answer.Body.Close()
}

func (p *played) Watch(ctx context.Context, out chan<- booster.News) error {
	if err := p.ask(ctx); err != nil {
		return err
	}
	return p.Executor.Watch(ctx, out)
}

func (p *played) Capacity(ctx context.Context) (booster.Capacity, error) {
	if err := p.ask(ctx); err != nil {
		return booster.Capacity{}, err
	}
	return p.Executor.Capacity(ctx)
}

func (p *played) Start(ctx context.Context, s booster.Spec) error {
	if err := p.ask(ctx); err != nil {
		return err
	}
	return p.Executor.Start(ctx, s)
}

// A platform is contractor and fleet over a store on disk.
type platform struct {
	db      store.Driver
	changes chan store.Change
	places  map[string]*played
	configs map[string][]byte // of the dead ones
	runs    int
}

func run(ctx context.Context, n int) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	dir, err := os.MkdirTemp("", "mlaas-fleet-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	defer all.Wait()
	defer cancel()
	content, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		return err
	}
	lines := &series.Store{Dir: filepath.Join(dir, "series"), Blob: content}
	if err := lines.Open(); err != nil {
		return err
	}
	p := &platform{db: db, changes: make(chan store.Change, 1024), places: map[string]*played{}, configs: map[string][]byte{}}
	for i := range live {
		place := &played{
			Executor: &scripted.Executor{Play: func(booster.Spec) scripted.Script {
				return scripted.Script{Steps: 1, Every: time.Millisecond, Quiet: true}
			}},
			server: httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
		}
		defer place.server.Close()
		p.places[fmt.Sprintf("live-%02d", i)] = place
		all.Go(func() { _ = place.Executor.Run(ctx) })
	}
	end, err := p.bury()
	if err != nil {
		return err
	}
	defer end()
	log := slog.New(slog.DiscardHandler)
	member := &lease.Member{DB: db, Service: "bench", ID: mlaas.NewID(time.Now()), Alone: true, Log: log}
	fleet := &booster.Fleet{Member: member, DB: db, Log: log, Serve: func(ctx context.Context, t *lease.Tenure, c booster.Reach, open func(http.Handler)) error {
		b := &booster.Booster{DB: t.Over(), Blob: content, Series: lines, Cluster: c.Spec.Name, Of: c.Spec.Changed, Key: bytes.Repeat([]byte{7}, 32), DoorURL: "pipe", Log: log}
		if place := p.places[c.Spec.Name]; place != nil {
			b.Executor = place
			place.Connect(b.Monitor())
			defer place.Connect(nil)
		} else {
			access, err := kube.Parse(p.configs[c.Spec.Name], "", kube.Allow{})
			if err != nil {
				return err
			}
			b.Executor = &kube.Executor{Access: access, Cluster: c.Spec.Name, Settings: mlaas.KubeSettings{Supervisor: "registry.invalid/mlaas:1"}, Log: log}
		}
		open(b.Monitor().Handler())
		return b.Run(ctx)
	}}
	all.Go(func() { _ = lines.Run(ctx) })
	all.Go(func() { _ = (&contractor.Contractor{DB: db, Member: member, Log: log}).Run(ctx) })
	all.Go(func() { _ = db.Watch(ctx, 0, []string{"cluster", "clusterspec", "runstate"}, p.changes) })
	all.Go(func() { _ = fleet.Run(ctx) })

	// All 50 come at once.
	took, err := p.connect(ctx, append(p.names("live"), p.names("dead")...))
	if err != nil {
		return err
	}
	fmt.Printf("connected   %d live clusters among %d in %.2f s, at most %s\n", live, live+dead, took.Seconds(), within)
	with, err := p.starts(ctx, n/2)
	if err != nil {
		return err
	}
	if err := p.forget(ctx, p.names("dead")); err != nil {
		return err
	}
	without, err := p.starts(ctx, n)
	if err != nil {
		return err
	}
	// And again with them, so that neither half is the one that was warm.
	if err := p.add(ctx, p.names("dead")); err != nil {
		return err
	}
	more, err := p.starts(ctx, n-n/2)
	if err != nil {
		return err
	}
	with = append(with, more...)
	median, highest := ratio(with, without, 0.5), ratio(with, without, 0.99)
	fmt.Printf("start       median %s with dead ones, %s without: %.2fx, at most %.1fx\n", at(with, 0.5), at(without, 0.5), median, mostMedian)
	fmt.Printf("            p99    %s with dead ones, %s without: %.2fx, at most %.1fx\n", at(with, 0.99), at(without, 0.99), highest, mostHighest)
	if took > within || median > mostMedian || highest > mostHighest {
		return errors.New("over its limit")
	}
	return nil
}

func (p *platform) names(kind string) (all []string) {
	if kind == "live" {
		for name := range p.places {
			all = append(all, name)
		}
	} else {
		for name := range p.configs {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// bury makes the dead ones.
func (p *platform) bury() (end func(), err error) {
	config := func(server string, ca []byte) []byte {
		cluster := map[string]any{"server": server}
		if ca != nil {
			cluster["certificate-authority-data"] = base64.StdEncoding.EncodeToString(ca)
		}
		text, err := json.Marshal(map[string]any{"current-context": "c",
			"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
			"clusters": []any{map[string]any{"name": "c", "cluster": cluster}},
			"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": "expired"}}}})
		if err != nil {
			panic(err) // texts always encode
		}
		return text
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nobody answers
	if err != nil {
		return nil, err
	}
	refuses := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401}`)
	}))
	refuses.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	its := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: refuses.Certificate().Raw})
	p.configs["dead-closed"] = config("https://127.0.0.1:1", nil)
	p.configs["dead-silent"] = config("https://"+silent.Addr().String(), nil)
	p.configs["dead-certificate"] = config(refuses.URL, nil)
	p.configs["dead-token"] = config(refuses.URL, its)
	p.configs["dead-name"] = config("https://no-such-cluster.invalid:6443", nil)
	return func() { silent.Close(); refuses.Close() }, nil
}

// add is an administrator who adds clusters.
func (p *platform) add(ctx context.Context, names []string) error {
	var b store.Batch
	for _, name := range names {
		b.Put = append(b.Put, store.ClusterSpecs(p.db).Put(mlaas.ClusterSpec{Name: name, Kind: mlaas.ClusterKubernetes, Wanted: mlaas.ClusterServe, Created: time.Now(), Changed: time.Now()}, 0))
	}
	return p.db.Commit(ctx, b)
}

// connect adds clusters, and returns how long it takes until all live ones are up.
func (p *platform) connect(ctx context.Context, names []string) (time.Duration, error) {
	began := time.Now()
	if err := p.add(ctx, names); err != nil {
		return 0, err
	}
	up := map[string]bool{}
	err := p.until(ctx, "every live cluster is up", func(c store.Change) bool {
		if k, err := store.Clusters(p.db).Decode(c.Row); c.Row.Key.Kind == "cluster" && err == nil && k.Up {
			up[k.Name] = true
		}
		return len(up) == live
	})
	return time.Since(began), err
}

// forget is an administrator who removes clusters; it waits until they are gone.
func (p *platform) forget(ctx context.Context, names []string) error {
	for _, name := range names {
		spec, rev, err := store.ClusterSpecs(p.db).Get(ctx, "", name)
		if err != nil {
			return err
		}
		spec.Wanted = mlaas.ClusterGone
		if err := p.db.Commit(ctx, store.Batch{Put: []store.Row{store.ClusterSpecs(p.db).Put(spec, rev)}}); err != nil {
			return err
		}
	}
	gone := map[string]bool{}
	return p.until(ctx, "clusters that were removed are gone", func(c store.Change) bool {
		if c.Row.Key.Kind == "clusterspec" && c.Deleted { // one that was never heard of has no other record
			gone[c.Row.Key.ID] = true
		}
		return len(gone) == len(names)
	})
}

func (p *platform) until(ctx context.Context, what string, done func(store.Change) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute", what)
		case c := <-p.changes:
			if !c.Synced && done(c) {
				return nil
			}
		}
	}
}

// starts asks for runs, one after the other, and returns how long each took
// until its program ran.
func (p *platform) starts(ctx context.Context, n int) (all []time.Duration, err error) {
	for i := range n + 5 { // the first warm up and are not counted
		p.runs++
		id := mlaas.RunID(mlaas.NewID(time.Now()))
		run := mlaas.Run{ID: id, Tenant: mlaas.DefaultTenant, Job: mlaas.JobID(id), JobName: "bench", Number: p.runs,
			Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Wanted: mlaas.WantRun, Created: time.Now()}
		if err := json.Unmarshal([]byte(`{"roles": {"worker": {"replicas": 1}}}`), &run.Spec); err != nil {
			return nil, err
		}
		run.Spec.Name = "bench"
		run.Spec.Complete()
		began := time.Now()
		if err := p.db.Commit(ctx, store.Batch{Put: []store.Row{store.Runs(p.db).Put(run, 0)}, Tell: []store.Message{queue.Tell(mlaas.RunAsked{Tenant: run.Tenant, Run: id})}}); err != nil {
			return nil, err
		}
		started := time.Duration(0)
		if err := p.until(ctx, fmt.Sprintf("run %d of %d starts and ends", i, n+5), func(c store.Change) bool {
			if c.Row.Key.Kind != "runstate" || c.Row.Key.ID != string(id) {
				return false
			}
			s, err := store.RunStates(p.db).Decode(c.Row)
			if err == nil && started == 0 && s.Started != nil {
				started = time.Since(began)
			}
			return err == nil && s.State.Final()
		}); err != nil {
			return nil, err
		}
		if i >= 5 {
			all = append(all, started)
		}
	}
	return all, nil
}

func at(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(10 * time.Microsecond)
}

func ratio(a, b []time.Duration, q float64) float64 { return float64(at(a, q)) / float64(at(b, q)) }
