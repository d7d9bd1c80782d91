package booster

import (
	"context"
	"errors"
	"fmt"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// evaluations records what programs evaluated, one after another.
func (m *Monitor) evaluations(ctx context.Context, c *conn, made <-chan mlaas.EvaluationMade) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-made:
			err := m.evaluation(ctx, c.fence, e)
			switch k := mlaas.KindOf(err); {
			case err == nil:
			case k == mlaas.ErrInvalid || k == mlaas.ErrNotFound:
				// It will not get better: it is let go, visibly.
				why := fmt.Sprintf("the evaluation %q of step %d was not kept: %s", e.Name, e.Step, sentence(err))
				m.b.Log.Warn("an evaluation is refused", "run", c.fence.Run, "replica", c.fence.Replica, "step", e.Step, "error", err)
				if _, err := m.b.change(ctx, c.fence, func(r *mlaas.Replica) store.Batch {
					happened(r, m.b.Now().UTC(), short(why))
					return store.Batch{}
				}); err != nil {
					return err
				}
			default:
				return err // said again after the next hello
			}
			c.tell(mlaas.Down{Ack: &mlaas.Ack{Stream: mlaas.EvaluationStream, Seq: e.Seq}})
		}
	}
}

// evaluation records one, if its content is here and its attempt is the newest.
func (m *Monitor) evaluation(ctx context.Context, f mlaas.Fence, e mlaas.EvaluationMade) error {
	if err := mlaas.CheckEvaluated(e.Name, e.Step, e.Task, len(e.Scores)); err != nil {
		return err
	}
	info, err := m.b.Blob.Stat(ctx, e.Content)
	if err != nil {
		return fmt.Errorf("its content: %w", err)
	}
	if info.Size > mlaas.MaxEvaluation {
		return mlaas.Invalid("evaluation.content", fmt.Sprintf("at most %d bytes", mlaas.MaxEvaluation), info.Size)
	}
	records := store.Evaluations(m.b.DB)
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
		made := mlaas.Evaluated{Tenant: f.Tenant, Run: f.Run, Epoch: f.Epoch, Replica: f.Replica, Name: e.Name, Step: e.Step,
			Task: e.Task, Rows: e.Rows, Scores: e.Scores, Content: e.Content, Created: m.b.Now().UTC()}
		tenant, id := records.Key(made)
		before, had, err := records.Get(ctx, tenant, id)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return err
		}
		if had > 0 && before.Content == made.Content {
			return nil
		}
		err = m.b.DB.Commit(ctx, store.Batch{
			Put:   []store.Row{records.Put(made, had)},
			Check: []store.Row{store.RunStates(m.b.DB).At(f.Tenant, string(f.Run), rev)},
		})
		if !errors.Is(err, mlaas.ErrConflict) {
			return err
		}
	}
}
