package booster

import (
	"context"
	"fmt"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// evaluation records what a program evaluated, if its content is here.
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
	made := mlaas.Evaluated{Tenant: f.Tenant, Run: f.Run, Epoch: f.Epoch, Replica: f.Replica, Name: e.Name, Step: e.Step,
		Task: e.Task, Rows: e.Rows, Scores: e.Scores, Content: e.Content, Created: m.b.Now().UTC()}
	return record(ctx, m, f, store.Evaluations(m.b.DB), made, func(before mlaas.Evaluated) bool { return before.Content == made.Content })
}
