package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/local"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/supervisor"
	"mlaas.dev/mlaas/supervisor/environment"
)

// A share is what this machine gives to replicas, as a command line says it.
type share struct {
	cpu, memory string
	segment     string
	alone       time.Duration
}

func (x *share) flags(f *pflag.FlagSet) {
	f.StringVar(&x.cpu, "cpu", "", "cores that replicas may be promised (else twice what the machine has)")
	f.StringVar(&x.memory, "memory", "", "memory that replicas may be promised (else 80 % of the machine's)")
	f.StringVar(&x.segment, "segment", "", "how much of what replicas say is gathered before it is sealed as content (else 16 MiB)")
	f.DurationVar(&x.alone, "alone", supervisor.DefaultQuiet, "how long a replica goes on that hears nothing of the platform; then it saves and stops")
}

// executor runs replicas on this machine, with folders in dir.
func (x share) executor(dir, binary string, log *slog.Logger) (*local.Executor, error) {
	var have mlaas.Resources
	var err error
	if x.cpu != "" {
		if have.CPU, err = mlaas.ParseCPU(x.cpu); err != nil {
			return nil, err
		}
	}
	if x.memory != "" {
		if have.Memory, err = mlaas.ParseBytes(x.memory); err != nil {
			return nil, err
		}
	}
	if x.alone < 0 {
		return nil, mlaas.Invalid("--alone", "a time such as 24h", x.alone)
	}
	return &local.Executor{
		Dir:    filepath.Join(dir, "replicas"),
		EnvDir: filepath.Join(dir, "env"),
		Binary: binary,
		Node:   nodeName(),
		Total:  have,
		Quiet:  x.alone,
		Log:    log,
	}, nil
}

// segmentBytes is how large a segment of series is; 0: as usual.
func (x share) segmentBytes() (int64, error) {
	if x.segment == "" {
		return 0, nil
	}
	n, err := mlaas.ParseBytes(x.segment)
	if err == nil && n < 4<<10 {
		err = mlaas.Invalid("--segment", "at least 4 KiB", x.segment)
	}
	return int64(n), err
}

// newBooster is the booster of one cluster, in whatever layout.
func newBooster(cluster string, x booster.Executor, db store.Driver, blobs blob.Driver, lines *series.Store, key []byte, door string, mail *booster.Mailer, log *slog.Logger) *booster.Booster {
	return &booster.Booster{
		DB: db, Blob: blobs, Series: lines, Key: key, Log: log,
		Cluster: cluster, Executor: x, DoorURL: door, Mail: mail,
		AllowLoopback: true, // who writes the rules owns the platform
		Secrets: func(ctx context.Context, tenant mlaas.Tenant, use mlaas.SecretUse) (string, error) {
			s, err := sealed(ctx, db, tenant, use)
			if err != nil {
				return "", err
			}
			plain, err := auth.Unseal(key, s.About(), s.Sealed)
			return string(plain), err
		},
	}
}

// mailer is how e-mail is sent: MLAAS_SMTP says it, as it has a password; nil:
// not at all.
func mailer(env func(string) string) (*booster.Mailer, error) {
	if env == nil || env("MLAAS_SMTP") == "" {
		return nil, nil
	}
	m, err := booster.ParseMailer(env("MLAAS_SMTP"))
	return m, mlaas.In("MLAAS_SMTP", err)
}

// sealed is a secret as a run names it; without a version the newest.
func sealed(ctx context.Context, db store.Driver, tenant mlaas.Tenant, use mlaas.SecretUse) (store.Secret, error) {
	if use.Version > 0 {
		s, _, err := store.Secrets(db).Get(ctx, tenant, store.SecretKey(use.Secret, use.Version))
		return s, err
	}
	found, _, err := store.Secrets(db).List(ctx, store.Query{Tenant: tenant, Prefix: use.Secret + "/", Reverse: true, Limit: 1})
	if err != nil {
		return store.Secret{}, err
	}
	if len(found) == 0 {
		return store.Secret{}, fmt.Errorf("it was never set, or was deleted: %w", mlaas.ErrNotFound)
	}
	return found[0].Value, nil
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
