//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

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

// promised runs promise as a process of its own, and returns its processor time
// in seconds.
func (b *bench) promised(ctx context.Context) (cpu float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	args := []string{"-promise", "-runs", strconv.Itoa(b.runs), "-replicas", strconv.Itoa(b.replicas)}
	if b.profile != "" {
		args = append(args, "-profile", filepath.Join(b.profile, "promise"))
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

// promise is what the platform does for the same runs besides pods and requests:
// contractor and three boosters over a store on disk decide, commit and tell of
// replicas that an executor plays, each of which is seen to wait and then to
// run. It is what records that outlive every process cost.
func promise(ctx context.Context, b *bench) (err error) {
	dir, err := os.MkdirTemp("", "mlaas-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "db"), sqlitestore.Options{Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	kept, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		return err
	}
	said := &series.Store{Dir: filepath.Join(dir, "series"), Blob: kept, Log: log}
	if err := said.Open(); err != nil {
		return err
	}
	defer said.Close()
	life, end := context.WithCancel(ctx)
	parts, life := errgroup.WithContext(life)
	run := func(f func(context.Context) error) {
		parts.Go(func() error {
			if err := f(life); life.Err() == nil {
				return err
			}
			return nil
		})
	}
	defer func() {
		end()
		err = errors.Join(err, parts.Wait())
	}()
	for _, name := range []string{"a", "b", "c"} {
		place := &scripted.Executor{Node: name, Total: mlaas.Resources{CPU: 100 * 32000, Memory: 100 * 256 << 30},
			Play: func(booster.Spec) scripted.Script {
				return scripted.Script{Silent: true, Slow: 200*time.Millisecond + rand.N(600*time.Millisecond)} // as pods of played nodes take
			}}
		run(place.Run)
		b := &booster.Booster{DB: db, Blob: kept, Series: said, Key: make([]byte, 32), Cluster: name, Executor: place, DoorURL: "pipe", Log: log}
		place.Connect(b.Monitor())
		run(b.Run)
	}
	member := &lease.Member{DB: db, Service: "contractor", ID: "contractor", Alone: true, Log: log}
	run((&contractor.Contractor{DB: db, Member: member, Log: log}).Run)
	if b.profile != "" {
		if err := os.MkdirAll(b.profile, 0o700); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(b.profile, "cpu.pprof"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	spec := mlaas.JobSpec{Name: "many", Roles: map[string]*mlaas.Role{mlaas.Worker: {
		Replicas: mlaas.Count{Min: b.replicas, Max: b.replicas}, CPU: new(mlaas.MilliCPU(100)), Memory: new(mlaas.Bytes(64 << 20))}}}
	spec.Complete()
	if err := spec.Check(); err != nil {
		return err
	}
	began := time.Now()
	ask, within := errgroup.WithContext(ctx)
	ask.SetLimit(8)
	for i := range b.runs {
		ask.Go(func() error {
			r := mlaas.Run{ID: mlaas.RunID(mlaas.NewID(time.Now())), Tenant: mlaas.DefaultTenant, Job: "many", JobName: "many", Number: i + 1,
				Version: mlaas.Version{ID: "v1", Bundle: "sha256:code", Entry: "main.py"}, Spec: spec, Wanted: mlaas.WantRun, Created: time.Now().UTC()}
			return db.Commit(within, store.Batch{Put: []store.Row{store.Runs(db).Put(r, 0)},
				Tell: []store.Message{queue.Tell(mlaas.RunAsked{Tenant: r.Tenant, Run: r.ID})}})
		})
	}
	if err := ask.Wait(); err != nil {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for last, still := int64(-1), 0; still < 15; still++ { // three seconds, longer than news are gathered
		select {
		case <-life.Done():
			return context.Cause(life)
		case <-tick.C:
		}
		st, err := db.Stats(ctx)
		if err != nil {
			return err
		}
		if st.Commits != last || st.Waiting > 0 {
			last, still = st.Commits, 0
		}
	}
	took := time.Since(began)
	all, err := store.Replicas(db).All(ctx, store.Query{Index: "live"})
	if err != nil {
		return err
	}
	seen := 0
	for _, r := range all {
		if r.Value.Status == mlaas.ReplicaPending {
			seen++
		}
	}
	if seen != b.runs*b.replicas {
		return fmt.Errorf("%d replicas of %d were seen to run", seen, b.runs*b.replicas)
	}
	st, err := db.Stats(ctx)
	if err != nil {
		return err
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return err
	}
	cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	n := float64(b.runs)
	fmt.Printf("without pods and requests a run was %.2f ms of CPU, %.1f commits, %.1f writes to disk; %d runs in %.1f s\n",
		cpu.Seconds()*1000/n, float64(st.Commits)/n, float64(st.Syncs)/n, b.runs, took.Seconds())
	return nil
}
