package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/supervisor/environment"
)

// newBooster is the booster of this machine, in whatever layout.
func newBooster(cluster string, x booster.Executor, db store.Driver, blobs blob.Driver, lines *series.Store, key []byte, socket string, log *slog.Logger) *booster.Booster {
	return &booster.Booster{
		DB: db, Blob: blobs, Series: lines, Key: key, Log: log,
		Cluster: cluster, Executor: x, DoorURL: "unix://" + socket,
		AllowLoopback: true, // who writes the rules owns this machine
		Secrets: func(ctx context.Context, tenant mlaas.Tenant, use mlaas.SecretUse) (string, error) {
			s, _, err := store.Secrets(db).Get(ctx, tenant, store.SecretKey(use.Secret, use.Version))
			if err != nil {
				return "", err
			}
			plain, err := auth.Unseal(key, s.About(), s.Sealed)
			return string(plain), err
		},
	}
}

// A sweeper is an executor that keeps what ended replicas left.
type sweeper interface {
	Sweep(ctx context.Context, before time.Time) (int, error)
}

// sweepMachine removes environments beyond the cap that were not used for
// longest, and what ended replicas left.
func sweepMachine(ctx context.Context, db store.Driver, x sweeper, env string, log *slog.Logger) (did []string, err error) {
	n, err := x.Sweep(ctx, time.Now().Add(-keepReplicas))
	if err != nil {
		return did, err
	}
	did = append(did, fmt.Sprintf("%d folders of replicas that ended more than a week ago", n))
	live, err := store.RunStates(db).All(ctx, store.Query{Index: "live"})
	if err != nil {
		return did, err
	}
	var inUse []mlaas.Digest
	for _, s := range live {
		l, _, err := store.Launches(db).Get(ctx, s.Value.Tenant, store.LaunchKey(s.Value.Run, s.Value.Epoch))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return did, err
		}
		if err == nil && l.Environment.Lock != "" {
			inUse = append(inUse, l.Environment.Lock)
		}
	}
	envs := &environment.Manager{Dir: env, Log: log}
	swept, err := envs.Sweep(ctx, maxEnvironments, inUse)
	if err != nil {
		return did, err
	}
	return append(did, fmt.Sprintf("environments over their cap, those that were not used for longest: %s", size(swept.Freed))), nil
}
