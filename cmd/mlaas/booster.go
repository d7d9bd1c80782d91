package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

func (c *cli) boosterCommand() *cobra.Command {
	var x boosterFlags
	var give share
	return c.serviceCommand("booster", "Run the service that starts replicas on clusters and watches them",
		`Runs the booster: it starts replicas, watches them, and is the door that their
supervisors bring logs, metrics and checkpoints to. It serves every cluster that
was added (mlaas cluster add), as they come and go; with --local this machine is
one too. One booster at a time serves a cluster; others with the same cluster
stand by and take over when it dies.

Inside a cluster that nobody can reach, --gateway makes it call such a booster
instead, with the token of the cluster: it starts replicas there and passes on
what they say, and needs no store, no key and no way in.`,
		`  mlaas booster --store redis://:PASSWORD@10.0.0.2:6379/mlaas --blob s3://mlaas?endpoint=https://10.0.0.3 --key-file key
  mlaas booster --cluster local        this machine alone
  mlaas booster --cluster lab,dc2      two of the clusters that were added
  mlaas booster --cluster far --gateway https://booster.example.org --cluster-token-file far.token`,
		func(cmd *cobra.Command, s *service) {
			x.flags(cmd.Flags())
			give.flags(cmd.Flags())
			inside := &x.inside
			cmd.Flags().StringSliceVar(&inside.gateways, "gateway", nil, "inside a cluster: URLs of the boosters to call, each tried in turn")
			cmd.Flags().StringVar(&inside.tokenFile, "cluster-token-file", "", "with --gateway: file with the token of the cluster")
			cmd.Flags().StringVar(&inside.on, "on", "local", "with --gateway: where replicas run: \"local\", this machine, or \"kubernetes\", the cluster that this pod is in")
			cmd.Flags().StringVar(&inside.door, "door", "", "with --on kubernetes: URL of this process as replicas there see it")
			cmd.PreRun = func(*cobra.Command, []string) { s.Inside = len(inside.gateways) > 0 }
		},
		func(ctx context.Context, s *service) error {
			if s.Inside {
				return runInside(ctx, s, x, give)
			}
			return runBooster(ctx, s, x, give)
		})
}

// boosterFlags are what a booster is told beyond what every service is.
type boosterFlags struct {
	clusters []string
	local    bool
	exec     bool
	ca       string
	inside   inside
}

func (x *boosterFlags) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&x.clusters, "cluster", nil, "serve these clusters alone; \"local\" is this machine")
	f.BoolVar(&x.local, "local", false, "this machine is a cluster too")
	fleetFlags(f, &x.exec, &x.ca)
}

// fleetFlags are what whoever serves clusters that were added is told.
func fleetFlags(f *pflag.FlagSet, exec *bool, ca *string) {
	f.BoolVar(exec, "allow-exec", false, "run the program that a kubeconfig names to find credentials")
	f.StringVar(ca, "door-ca", "", "certificates in PEM by which replicas on clusters know the door (else those of their image)")
}

// readCA reads certificates, if a file is named.
func readCA(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, mlaas.Invalid("--door-ca", "a file with certificates in PEM", file)
	}
	return pem, nil
}

func runBooster(ctx context.Context, s *service, x boosterFlags, give share) error {
	ca, err := readCA(x.ca)
	if err != nil {
		return err
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
	if m.binary, err = os.Executable(); err != nil {
		return err
	}
	if m.remote, err = s.remote(db, blobs); err != nil {
		return err
	}
	others := &recorded{kinds: kinds(x.exec, ca), secret: s.secret, mail: s.mail, blobs: blobs, counts: new(booster.Counts), tracer: s.tracer, log: s.Log, lines: m.lines, show: m.shards.set}
	showBooster(s.metrics, "added", others.counts)
	fleet := &booster.Fleet{Member: s.member, DB: db, Log: s.Log}
	for _, name := range x.clusters {
		if name != localCluster {
			fleet.Only = append(fleet.Only, name)
		}
	}
	if x.local || slices.Contains(x.clusters, localCluster) {
		for _, sub := range []string{"door", "replicas", "env"} {
			// Others may pass through: replicas run as users of their own.
			if err := os.MkdirAll(filepath.Join(s.Dir, sub), 0o711); err != nil {
				return err
			}
		}
		fleet.Fixed = []string{localCluster}
		showBooster(s.metrics, localCluster, m.counts)
	}
	if len(x.clusters) > 0 && len(fleet.Only) == 0 {
		fleet.DB = nil // this machine alone
	}
	fleet.Serve = func(ctx context.Context, t *lease.Tenure, c booster.Reach, open func(http.Handler)) error {
		if c.Spec.Name == localCluster {
			return m.serve(ctx, t, open)
		}
		return others.serve(ctx, t, c, open)
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
func (m *machine) serve(ctx context.Context, t *lease.Tenure, open func(http.Handler)) error {
	log := m.Log.With("cluster", localCluster)
	db := t.Over()
	x, err := m.give.executor(m.Dir, m.binary, log)
	if err != nil {
		return err
	}
	defer x.Close()
	lines, keep, close, err := m.lines(localCluster, t, log)
	if err != nil {
		return err
	}
	defer close()
	b := newBooster(localCluster, x, db, m.blobs, lines, m.secret, doorAt(m.Dir), m.mail, log)
	b.Counts, b.Trace = m.counts, m.tracer
	door, err := openDoor(m.Dir)
	if err != nil {
		return err
	}
	open(b.Monitor().Handler())
	defer m.shards.set(localCluster, lines, b.Monitor())()

	all, ctx := errgroup.WithContext(ctx)
	server := &http.Server{Handler: m.fleet.Door(localCluster), ReadHeaderTimeout: 10 * time.Second}
	all.Go(func() error { return (platform{Dir: m.Dir, Log: log}).keepDoor(ctx, server, door, doorEvery) })
	all.Go(func() error { return keep(ctx) })
	all.Go(func() error { return b.Run(ctx) })
	all.Go(func() error { return m.sweepDaily(ctx, x) })
	return all.Wait()
}

// lines opens the shard of a cluster.
func (m *machine) lines(cluster string, t *lease.Tenure, log *slog.Logger) (s *series.Store, run func(context.Context) error, close func(), err error) {
	segment, err := m.give.segmentBytes()
	if err != nil {
		return nil, nil, nil, err
	}
	s = &series.Store{Blob: m.blobs, Objects: m.blobs.objects, DB: t.Over(), Shard: cluster, Epoch: t.Epoch, Held: t.Held, Take: m.remote.Take, Log: log, SegmentBytes: segment}
	if err := s.Open(); err != nil {
		return nil, nil, nil, err
	}
	return s, s.Run, func() { s.Close() }, nil
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
