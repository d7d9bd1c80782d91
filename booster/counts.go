package booster

import (
	"context"
	"errors"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Counts are what a booster did.
type Counts struct {
	Queue      queue.Counts
	Notices    queue.Counts  // of webhooks
	Stale      meter.Counter // what an attempt that is over wanted, and was refused
	Reconciled meter.Moment  // when every cluster was compared with the records
	Lines      meter.Counter // supervisors that called
}

// stale counts err, if it refuses what an older attempt wants.
func (b *Booster) stale(err error) {
	if errors.Is(err, mlaas.ErrStale) {
		b.Counts.Stale.Inc()
	}
}

// began tells of a program that was started, from when its replica was asked
// for: the last part of the trace of the request for its run.
func (b *Booster) began(ctx context.Context, r mlaas.Replica) {
	if b.Trace == nil || r.Started == nil {
		return
	}
	run, _, err := store.Runs(b.DB).Get(ctx, r.Tenant, string(r.Run))
	if err != nil || run.Trace == "" {
		return
	}
	b.Trace.Past(run.Trace, "program started", r.Asked, *r.Started, "replica", r.Fence.String())
}
