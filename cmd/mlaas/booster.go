package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

func (c *cli) boosterCommand() *cobra.Command {
	var clusters []string
	var give share
	return c.serviceCommand("booster", "Run the service that starts replicas on clusters and watches them",
		`Runs the booster: it starts replicas, watches them, and is the door that their
supervisors bring logs, metrics and checkpoints to. One booster at a time serves
a cluster; others with the same cluster stand by and take over when it dies.`,
		"  mlaas booster --store redis://:PASSWORD@10.0.0.2:6379/mlaas --blob s3://mlaas?endpoint=https://10.0.0.3 --key-file key --cluster local",
		func(cmd *cobra.Command) {
			cmd.Flags().StringSliceVar(&clusters, "cluster", []string{localCluster}, "the clusters to serve; \"local\" is this machine")
			give.flags(cmd.Flags())
		},
		func(ctx context.Context, s *service) error { return runBooster(ctx, s, clusters, give) })
}

func runBooster(ctx context.Context, s *service, clusters []string, give share) error {
	for _, sub := range []string{"door", "replicas", "env"} {
		// Others may pass through: replicas run as users of their own.
		if err := os.MkdirAll(filepath.Join(s.Dir, sub), 0o711); err != nil {
			return err
		}
	}
	blobs, err := openBucket(ctx, s.Blob, s.Log)
	if err != nil {
		return err
	}
	db, l, err := s.join(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	m := &machine{service: s, give: give, db: db, blobs: blobs, shards: &shards{}, counts: new(booster.Counts)}
	showBooster(s.metrics, localCluster, m.counts)
	if m.binary, err = os.Executable(); err != nil {
		return err
	}
	if m.remote, err = s.remote(db, blobs); err != nil {
		return err
	}
	fleet := &booster.Fleet{Member: s.member, Log: s.Log, Clusters: map[string]func(context.Context, *lease.Tenure, func(*booster.Monitor)) error{}}
	for _, name := range clusters {
		if name != localCluster {
			return mlaas.Invalid("--cluster", `"local", this machine`, name)
		}
		fleet.Clusters[name] = m.serve
	}
	m.fleet = fleet
	s.prober(health.Store(db, s.ID), health.Messages(db, true), health.Blob(blobs), health.Disk(s.Dir))
	mux := s.internalAPI(m.shards.handler())
	mux.Handle("/cluster/", fleet.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return s.serve(ctx, l, server, nil, nil, map[string]func(context.Context) error{"booster": fleet.Run})
}

// A machine is this machine as a cluster of several services: everything that
// one booster may touch is made when its tenure begins, and let go of when it
// ends.
type machine struct {
	*service
	give   share
	db     store.Driver
	blobs  bucket
	shards *shards
	fleet  *booster.Fleet
	binary string
	remote *series.Remote  // the series of the other clusters
	counts *booster.Counts // over all tenures
}

// serve is one tenure.
func (m *machine) serve(ctx context.Context, t *lease.Tenure, open func(*booster.Monitor)) error {
	log := m.Log.With("cluster", localCluster)
	db := t.Over()
	x, err := m.give.executor(m.Dir, m.binary, log)
	if err != nil {
		return err
	}
	defer x.Close()
	lines := &series.Store{Blob: m.blobs, Objects: m.blobs.objects, DB: db, Shard: localCluster, Epoch: t.Epoch, Held: t.Held, Take: m.remote.Take, Log: log}
	if err := lines.Open(); err != nil {
		return err
	}
	defer lines.Close()
	b := newBooster(localCluster, x, db, m.blobs, lines, m.secret, filepath.Join(m.Dir, "door", "door.sock"), log)
	b.Counts, b.Trace = m.counts, m.tracer
	door, err := openDoor(m.Dir)
	if err != nil {
		return err
	}
	open(b.Monitor())
	defer m.shards.set(localCluster, lines, b.Monitor())()

	all, ctx := errgroup.WithContext(ctx)
	server := &http.Server{Handler: m.fleet.Door(localCluster), ReadHeaderTimeout: 10 * time.Second}
	all.Go(func() error { return (platform{Dir: m.Dir, Log: log}).keepDoor(ctx, server, door, doorEvery) })
	all.Go(func() error { return lines.Run(ctx) })
	all.Go(func() error { return b.Run(ctx) })
	all.Go(func() error { return m.sweepDaily(ctx, x) })
	return all.Wait()
}

// sweepDaily removes what the machine keeps unused, once a day.
func (m *machine) sweepDaily(ctx context.Context, x sweeper) error {
	for wait := time.Hour; ; wait = 24 * time.Hour {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		did, err := sweepMachine(ctx, m.db, x, filepath.Join(m.Dir, "env"), m.Log)
		if err != nil && ctx.Err() == nil {
			m.Log.Warn("what this machine keeps unused could not be swept; tomorrow again", "error", err)
		}
		m.Log.Info("swept", "did", did)
	}
}
