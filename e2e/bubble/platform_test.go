// Package bubble_test runs the whole platform in a synctest bubble: contractor,
// booster and its door over a real store, with replicas that play their parts.
// Hours of training take milliseconds, and any service may die at any moment.
//
// platform_test.go is the platform of one process; world_test.go is several of
// each service over clusters and a store that fail, book_test.go what may never
// be, and simulate_test.go the lives that are played there.
package bubble_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A platform is everything but the people.
type platform struct {
	*testing.T
	ctx    context.Context
	log    *slog.Logger
	db     store.Driver
	blob   *files.Files
	series *series.Store
	place  *scripted.Executor

	mu    sync.Mutex
	parts map[mlaas.RunID]func(f mlaas.Fence) scripted.Script

	ids        []mlaas.RunID
	ends       []func()
	booster    *service
	contractor *service
}

// in runs f in a bubble with a platform whose machine has so many cores.
func in(t *testing.T, cores mlaas.MilliCPU, f func(p *platform)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &platform{T: t, ctx: t.Context(), parts: map[mlaas.RunID]func(mlaas.Fence) scripted.Script{}}
		p.log = slog.New(slog.DiscardHandler)
		if os.Getenv("MLAAS_LOG") != "" {
			p.log = slog.New(slog.NewTextHandler(t.Output(), nil))
		}
		defer func() {
			for _, end := range slices.Backward(p.ends) {
				end()
			}
		}()
		db, err := sqlitestore.Open(p.ctx, ":memory:", sqlitestore.Options{Log: p.log})
		p.must(err)
		p.ends = append(p.ends, func() { p.must(db.Close()) })
		p.db = db
		p.blob, err = files.Open(t.TempDir(), nil)
		p.must(err)
		p.series = &series.Store{Dir: t.TempDir(), Blob: p.blob, Log: p.log}
		p.must(p.series.Open())
		p.ends = append(p.ends, func() { p.must(p.series.Close()) })
		p.start("series", p.series.Run)
		p.place = &scripted.Executor{
			Total: mlaas.Resources{CPU: cores * 1000, Memory: 64 << 30},
			Play: func(s booster.Spec) scripted.Script {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.parts[s.Fence.Run](s.Fence)
			},
		}
		p.start("place", p.place.Run)
		p.startBooster()
		p.startContractor()
		f(p)
	})
}

func (p *platform) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// A service runs until it is ended, which waits until nothing of it is left.
type service struct{ end func() }

func (p *platform) start(name string, run func(context.Context) error) *service {
	ctx, cancel := context.WithCancel(p.ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := run(ctx); ctx.Err() == nil {
			p.Errorf("%s ended by itself: %v", name, err)
		}
	}()
	s := &service{end: func() { cancel(); <-over }}
	p.ends = append(p.ends, s.end)
	return s
}

func (p *platform) startContractor() {
	log := p.log.With("service", "contractor")
	m := &lease.Member{DB: p.db, Service: "contractor", ID: mlaas.NewID(time.Now()), Alone: true, Log: log} // the one that there is
	p.contractor = p.start("contractor", (&contractor.Contractor{DB: p.db, Member: m, Log: log}).Run)
}

func (p *platform) startBooster() {
	b := &booster.Booster{DB: p.db, Blob: p.blob, Series: p.series, Key: []byte("a key of 32 bytes, as there is one"),
		Cluster: "stage", Executor: p.place, DoorURL: "pipe", Log: p.log.With("service", "booster")}
	p.place.Connect(b.Monitor())
	s := p.start("booster", b.Run)
	p.booster = &service{end: func() {
		p.place.Connect(nil)
		s.end()
	}}
}

// ask is management: somebody pressed run. part is what its replicas play.
func (p *platform) ask(name, spec string, part func(f mlaas.Fence) scripted.Script) mlaas.RunID {
	p.Helper()
	id := mlaas.RunID(mlaas.NewID(time.Now()))
	run := mlaas.Run{ID: id, Tenant: mlaas.DefaultTenant, Job: mlaas.JobID(name), JobName: name, Number: 1,
		Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Wanted: mlaas.WantRun, Created: time.Now()}
	p.must(json.Unmarshal([]byte(spec), &run.Spec))
	run.Spec.Name = name
	run.Spec.Complete()
	p.must(run.Spec.Check())
	p.mu.Lock()
	p.parts[id] = part
	p.mu.Unlock()
	p.ids = append(p.ids, id)
	p.must(p.db.Commit(p.ctx, store.Batch{
		Put:  []store.Row{store.Runs(p.db).Put(run, 0)},
		Tell: []store.Message{queue.Tell(mlaas.RunAsked{Tenant: run.Tenant, Run: id})},
	}))
	return id
}

// stop is management: somebody pressed stop.
func (p *platform) stop(id mlaas.RunID) {
	p.Helper()
	run, rev, err := store.Runs(p.db).Get(p.ctx, mlaas.DefaultTenant, string(id))
	p.must(err)
	run.Wanted = mlaas.WantStop
	p.must(p.db.Commit(p.ctx, store.Batch{
		Put:  []store.Row{store.Runs(p.db).Put(run, rev)},
		Tell: []store.Message{queue.Tell(mlaas.StopAsked{Tenant: run.Tenant, Run: id})},
	}))
}

func (p *platform) state(id mlaas.RunID) mlaas.RunState {
	p.Helper()
	s, _, err := store.RunStates(p.db).Get(p.ctx, mlaas.DefaultTenant, string(id))
	if err != nil {
		return mlaas.RunState{Run: id, State: mlaas.Created, Reason: err.Error()}
	}
	return s
}

// is checks where a run stands when everybody has done what there was to do.
func (p *platform) is(id mlaas.RunID, want mlaas.State) mlaas.RunState {
	p.Helper()
	synctest.Wait()
	s := p.state(id)
	if s.State != want {
		p.Fatalf("run %s is %s, want %s\n%s", id, s.State, want, p.tell(id))
	}
	return s
}

// tell is all that is known of a run, for a reader.
func (p *platform) tell(id mlaas.RunID) string {
	var b strings.Builder
	s := p.state(id)
	fmt.Fprintf(&b, "%s %s, epoch %d: %s (next %s)\n", id, s.State, s.Epoch, s.Reason, s.Next.Format(time.TimeOnly))
	for _, a := range s.Attempts {
		fmt.Fprintf(&b, "  attempt %d from step %d, began %s: %s\n", a.Epoch, a.Step, a.Began.Format(time.TimeOnly), a.Reason)
	}
	for _, r := range p.replicas(id) {
		fmt.Fprintf(&b, "  %s of epoch %d is %s: %s\n", r.Fence.Replica, r.Epoch, r.Status, r.Reason)
	}
	return b.String()
}

func (p *platform) replicas(id mlaas.RunID) (all []mlaas.Replica) {
	found, err := store.Replicas(p.db).All(p.ctx, store.Query{Tenant: mlaas.DefaultTenant, Prefix: string(id) + "/"})
	p.must(err)
	for _, f := range found {
		all = append(all, f.Value)
	}
	return all
}

func (p *platform) checkpoints(id mlaas.RunID) (all []mlaas.Checkpoint) {
	found, err := store.Checkpoints(p.db).All(p.ctx, store.Query{Tenant: mlaas.DefaultTenant, Prefix: string(id) + "/"})
	p.must(err)
	for _, f := range found {
		all = append(all, f.Value)
	}
	return all
}

// empty checks that nothing is held and nothing runs.
func (p *platform) empty() {
	p.Helper()
	synctest.Wait()
	ledgers, err := store.Ledgers(p.db).All(p.ctx, store.Query{})
	p.must(err)
	for _, l := range ledgers {
		if len(l.Value.Grants) > 0 {
			p.Errorf("the ledger of %s still holds %v", l.Value.Cluster, slices.Collect(maps.Keys(l.Value.Grants)))
		}
	}
	if left := p.place.Running(); len(left) > 0 {
		p.Errorf("replicas are left over: %v", left)
	}
}

// trains is the part of a training: the ps serves, workers make a step every
// five minutes for three hours, and the first of them saves every ten.
func trains(f mlaas.Fence) scripted.Script {
	switch {
	case strings.HasPrefix(f.Replica, mlaas.PS):
		return scripted.Script{}
	case f.Replica == "worker-0":
		return scripted.Script{Slow: 2 * time.Second, Prepare: 5 * time.Second, Steps: 36, Every: 5 * time.Minute, Save: 2}
	default:
		return scripted.Script{Slow: time.Second, Steps: 36, Every: 5 * time.Minute}
	}
}
