package booster

import (
	"context"
	"errors"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/store"
)

// handed keeps what a program hands over, one after another, and acknowledges
// each when it is kept. What will never be is let go, visibly; about says what
// a thing is called, and by what it is acknowledged.
func handed[T any](ctx context.Context, m *Monitor, c *conn, made <-chan T, keep func(context.Context, mlaas.Fence, T) error, about func(T) (string, mlaas.Ack)) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case v := <-made:
			name, ack := about(v)
			err := keep(ctx, c.fence, v)
			switch k := mlaas.KindOf(err); {
			case err == nil:
			case k == mlaas.ErrInvalid || k == mlaas.ErrNotFound: // it will not get better
				m.b.Log.Warn(name+" is refused", "run", c.fence.Run, "replica", c.fence.Replica, "error", err)
				if _, err := m.b.change(ctx, c.fence, func(r *mlaas.Replica) store.Batch {
					happened(r, m.b.Now().UTC(), short(name+" was not kept: "+sentence(err)))
					return store.Batch{}
				}); err != nil {
					return err
				}
			default:
				return err // said again after the next hello
			}
			c.tell(mlaas.Down{Ack: &ack})
		}
	}
}

// record writes what an attempt made, unless the same is there, if the attempt
// is the newest: that is part of the commit, so that a later attempt never
// begins from something that was recorded after it.
func record[T any](ctx context.Context, m *Monitor, f mlaas.Fence, records store.Records[T], made T, same func(before T) bool) error {
	for {
		state, rev, err := store.RunStates(m.b.DB).Get(ctx, f.Tenant, string(f.Run))
		if err != nil {
			return err
		}
		if state.Epoch != f.Epoch {
			err := old(f, state.Epoch)
			m.b.stale(err)
			return err
		}
		tenant, id := records.Key(made)
		before, had, err := records.Get(ctx, tenant, id)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return err
		}
		if had > 0 && same(before) {
			return nil
		}
		failpoint.Hit("monitor.record.before")
		err = m.b.DB.Commit(ctx, store.Batch{
			Put:   []store.Row{records.Put(made, had)},
			Check: []store.Row{store.RunStates(m.b.DB).At(f.Tenant, string(f.Run), rev)},
		})
		failpoint.Hit("monitor.record.after")
		if !errors.Is(err, mlaas.ErrConflict) {
			return err
		}
	}
}
