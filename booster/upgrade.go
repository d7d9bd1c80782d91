package booster

import (
	"context"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// oldInbox hears what version 0.1 told and did not handle before it was
// upgraded: it knew one cluster, and told one inbox.
func (b *Booster) oldInbox() *queue.Inbox {
	in := &queue.Inbox{DB: b.DB, Name: "booster", Log: b.Log}
	queue.On(in, func(ctx context.Context, m mlaas.ReplicasWanted) (store.Batch, error) {
		m.Cluster = b.Cluster
		return b.replicasWanted(ctx, m)
	})
	queue.On(in, func(ctx context.Context, m mlaas.CodeReady) (store.Batch, error) {
		m.Cluster = b.Cluster
		return b.codeReady(ctx, m)
	})
	queue.On(in, func(ctx context.Context, m mlaas.ReplicasUnwanted) (store.Batch, error) {
		m.Cluster = b.Cluster
		return b.replicasUnwanted(ctx, m)
	})
	return in
}
