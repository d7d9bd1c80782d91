package main

import (
	"context"
	"log/slog"
	"net/http"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/booster/remote"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/series"
)

// A driver makes the executor of a cluster of its kind. key is how the cluster
// is reached. It does not connect: what it refuses can never work as it is.
type driver func(t *lease.Tenure, c booster.Reach, key []byte, log *slog.Logger) (booster.Executor, error)

// kinds are the drivers of clusters that have records, by their kind. exec lets
// a kubeconfig name a program that finds credentials; ca are the certificates by
// which replicas know the door, empty: those of their image.
func kinds(exec bool, ca []byte) map[string]driver {
	return map[string]driver{
		mlaas.ClusterRemote: func(t *lease.Tenure, c booster.Reach, key []byte, log *slog.Logger) (booster.Executor, error) {
			return &remote.Executor{Cluster: c.Spec.Name, Token: string(key), Settings: c.Spec.Kube, Epoch: t.Epoch, Log: log}, nil
		},
		mlaas.ClusterKubernetes: func(_ *lease.Tenure, c booster.Reach, key []byte, log *slog.Logger) (booster.Executor, error) {
			access, err := kube.Parse(key, "", kube.Allow{Exec: exec})
			if err != nil {
				return nil, err
			}
			var settings mlaas.KubeSettings
			if c.Spec.Kube != nil {
				settings = *c.Spec.Kube
			}
			if err := settings.Check(); err != nil {
				return nil, err
			}
			return &kube.Executor{Access: access, Cluster: c.Spec.Name, Settings: settings, DoorCA: ca, Log: log}, nil
		},
	}
}

// A recorded serves clusters that have records, in whatever layout.
type recorded struct {
	kinds  map[string]driver
	secret []byte // opens how they are reached
	mail   *booster.Mailer
	blobs  blob.Driver
	counts *booster.Counts
	tracer trace.Tracer
	log    *slog.Logger

	// lines opens what keeps what the runs of a cluster say: run, until ctx
	// ends, then close.
	lines func(cluster string, t *lease.Tenure, log *slog.Logger) (s *series.Store, run func(context.Context) error, close func(), err error)

	// show lets the other services at what a cluster's replicas have said, and
	// into them, until hide is called.
	show func(cluster string, s *series.Store, m *booster.Monitor) (hide func())
}

// executor is what runs the replicas of a cluster. Where that cannot even be
// made, it is one that says why.
func (x *recorded) executor(t *lease.Tenure, c booster.Reach, log *slog.Logger) booster.Executor {
	open := x.kinds[c.Spec.Kind]
	if open == nil {
		return booster.Unreached(c.Spec.Kind, mlaas.Invalid("kind", "a kind of cluster that this version knows", c.Spec.Kind))
	}
	var key []byte
	if c.Key.Cluster != "" {
		var err error
		if key, err = auth.Unseal(x.secret, c.Key.About(), c.Key.Sealed); err != nil {
			return booster.Unreached(c.Spec.Kind, err)
		}
	}
	e, err := open(t, c, key, log)
	if err != nil {
		return booster.Unreached(c.Spec.Kind, err)
	}
	return e
}

// serve is one tenure of one cluster.
func (x *recorded) serve(ctx context.Context, t *lease.Tenure, c booster.Reach, open func(http.Handler)) error {
	name := c.Spec.Name
	log := x.log.With("cluster", name)
	lines, run, close, err := x.lines(name, t, log)
	if err != nil {
		return err
	}
	defer close()
	e := x.executor(t, c, log)
	b := newBooster(name, e, t.Over(), x.blobs, lines, x.secret, c.Spec.Door, x.mail, log)
	b.Of, b.Counts, b.Trace = c.Spec.Changed, x.counts, x.tracer
	mux := http.NewServeMux()
	mux.Handle("/", b.Monitor().Handler())
	if g, ok := e.(interface{ Gateway() http.Handler }); ok {
		mux.Handle("/gateway", g.Gateway())
	}
	if e, ok := e.(interface{ Close() }); ok {
		defer e.Close()
	}
	open(mux)
	defer x.show(name, lines, b.Monitor())()
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return run(ctx) })
	all.Go(func() error { return b.Run(ctx) })
	return all.Wait()
}
