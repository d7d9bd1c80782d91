// Command scale measures what many records cost: a filtered list among ten
// thousand live runs against one among a hundred, and how long a platform that
// was killed over a hundred thousand records takes until it is ready.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	flag.Parse()
	if err := run(*binary); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

const (
	failed = 60 // runs that the filter finds, in either population
	rounds = 40
)

func run(binary string) error {
	var platforms [2]*rig.Platform
	for i, live := range []int{100, 10_000} {
		dir, err := os.MkdirTemp("", "mlaas-scale-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := fill(dir, live, failed); err != nil {
			return err
		}
		if platforms[i], err = rig.Start(rig.Options{Binary: binary, Dir: dir, Log: os.Stderr}); err != nil {
			return err
		}
		defer platforms[i].Close()
	}
	for _, path := range []string{"/api/run?status=failed&limit=50", "/api/job?status=failed&limit=50", "/api/run?status=running&limit=50"} {
		var took [2][]float64
		for range rounds {
			for i, p := range platforms {
				began := time.Now()
				var page struct{ Items []json.RawMessage }
				if err := p.Do("GET", path, nil, &page); err != nil {
					return err
				}
				if len(page.Items) != 50 {
					return fmt.Errorf("%s of population %d: %d items, want 50", path, i, len(page.Items))
				}
				took[i] = append(took[i], float64(time.Since(began).Microseconds())/1000)
			}
		}
		few, many := rig.Median(took[0]), rig.Median(took[1])
		rig.Row("list "+path+": 10,000 live runs / 100", many/few, 2, "x", true, fmt.Sprintf("%.2f ms against %.2f ms, medians of %d in turn", many, few, rounds))
	}
	return restart(binary)
}

// restart kills a platform that holds 100,000 records, several times.
func restart(binary string) error {
	dir, err := os.MkdirTemp("", "mlaas-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := fill(dir, 1000, 32_000); err != nil { // 3 records each of a run that is over, 4 of one that is live
		return err
	}
	var took []float64
	var records float64
	for range 5 {
		began := time.Now()
		p, err := rig.Start(rig.Options{Binary: binary, Dir: dir, Log: os.Stderr})
		if err != nil {
			return err
		}
		defer p.Close()
		if err := ready(p.URL); err != nil {
			return err
		}
		took = append(took, time.Since(began).Seconds())
		var s struct {
			Store struct{ Records float64 }
		}
		if err := p.Do("GET", "/api/status", nil, &s); err != nil {
			return err
		}
		records = s.Store.Records
		p.Kill()
	}
	if records < 100_000 {
		return fmt.Errorf("there are %v records, want 100,000", records)
	}
	rig.Row("kill -9 -> started again and ready, 100,000 records", rig.Median(took), 5, "s", true, fmt.Sprintf("slowest %.2f s of %d, %.0f records", rig.Quantile(took, 1), len(took), records))
	return nil
}

// ready waits until /readyz says so.
func ready(url string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(5 * time.Millisecond) { // an address tells nobody when it answers
		answer, err := http.Get(url + "/readyz")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("%s is not ready after a minute", url)
}

// fill makes the store of a platform with so many runs that run, on a cluster
// that is not here, and so many that failed, each of a job of its own.
func fill(dir string, live, failed int) error {
	ctx := context.Background()
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	now := time.Now().UTC()
	far := mlaas.Cluster{Name: "far", Kind: "scripted", Up: true, Capacity: mlaas.Resources{CPU: 1e8, Memory: 1 << 50}, Heard: now}
	ledger := mlaas.Ledger{Cluster: far.Name, Grants: map[mlaas.RunID]mlaas.Grant{}}
	var b store.Batch
	commit := func() error {
		err := db.Commit(ctx, b)
		b = store.Batch{}
		return err
	}
	for i := range live + failed {
		at := now.Add(time.Duration(i-live-failed) * time.Second)
		j := mlaas.Job{ID: mlaas.JobID(mlaas.NewID(at)), Tenant: mlaas.DefaultTenant, Created: at, Runs: 1}
		j.Name = fmt.Sprintf("job-%d", i)
		j.Complete()
		run := mlaas.Run{ID: mlaas.RunID(mlaas.NewID(at)), Tenant: j.Tenant, Job: j.ID, JobName: j.Name, Number: 1, Spec: j.JobSpec, Wanted: mlaas.WantRun, Created: at}
		state := mlaas.RunState{Run: run.ID, Tenant: j.Tenant, Job: j.ID, State: mlaas.Failed, Reason: "worker-0 failed with exit code 1", Queued: at, Ended: &at, Attempts: []mlaas.Attempt{}}
		if total := live + failed; (i+1)*live/total > i*live/total { // evenly among the others
			need := j.Roles[mlaas.Worker].Need()
			state.State, state.Reason, state.Ended, state.Epoch, state.Next = mlaas.Running, "1 of 1 workers run.", nil, 1, now.Add(time.Hour)
			state.Attempts = []mlaas.Attempt{{Epoch: 1, Cluster: far.Name, Began: at}}
			state.Allocation = mlaas.Allocation{Cluster: far.Name, Requested: map[string]int{"worker": 1}, Granted: map[string]int{"worker": 1}, Total: need}
			ledger.Grants[run.ID] = mlaas.Grant{Tenant: j.Tenant, Epoch: 1, Total: need}
			b.Put = append(b.Put, store.Replicas(db).Put(mlaas.Replica{
				Fence: mlaas.Fence{Tenant: j.Tenant, Run: run.ID, Epoch: 1, Replica: "worker-0", Incarnation: 1}, Job: j.ID, Role: "worker", Cluster: far.Name,
				Status: mlaas.ReplicaRunning, Program: true, Address: "10.0.0.1", Ports: []int{4000, 4001}, Asked: at, Started: &at, Ready: &at, Heard: now,
			}, 0))
		}
		b.Put = append(b.Put, store.Jobs(db).Put(j, 0), store.JobNames(db).Put(store.JobName{Tenant: j.Tenant, Name: j.Name, Job: j.ID}, 0),
			store.Runs(db).Put(run, 0), store.RunStates(db).Put(state, 0))
		if len(b.Put) > 2000 {
			if err := commit(); err != nil {
				return err
			}
		}
	}
	b.Put = append(b.Put, store.Clusters(db).Put(far, 0), store.Ledgers(db).Put(ledger, 0))
	return commit()
}
