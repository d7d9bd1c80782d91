package queue

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// Reconcile compares what is wished with what is there, again and again until
// ctx ends: records are the truth, and a message that was lost delays a thing
// but never strands it. It calls f at once, then after each interval, and
// early when wake says something (nil: never). An error or a panic of f is
// logged and does not end it; Reconcile returns nil.
func Reconcile(ctx context.Context, log *slog.Logger, every time.Duration, wake <-chan struct{}, f func(context.Context) error) error {
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		if err := safely(ctx, f); err != nil && ctx.Err() == nil {
			log.Warn("reconciling failed, trying again", "error", err, "after", every)
		}
		timer.Reset(every)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case _, open := <-wake:
			if !open {
				wake = nil
			}
		}
	}
}

func safely(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f(ctx)
}
