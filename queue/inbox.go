package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/store"
)

const (
	conflicts = 20                     // calls of a handler that loses against other commits, per delivery
	firstWait = time.Second            // before a message that failed comes again; doubles each time
	longWait  = time.Minute            // no wait is longer
	grace     = 5 * time.Second        // for handlers under way when Run is to end
	busyWait  = 100 * time.Millisecond // before a store that cannot write is asked again; doubles up to 5 s
)

// Run hears messages until ctx ends, and then returns nil: it takes no more,
// and handlers under way have 5 s to finish. Messages of one key are handled
// one after another. A store that fails is asked again, and does not end it.
func (in *Inbox) Run(ctx context.Context) error {
	h := &hearing{Inbox: in, log: cmp.Or(in.Log, slog.Default()).With("inbox", in.Name), lease: cmp.Or(in.Lease, time.Minute), last: map[string]chan struct{}{}, counts: in.Counts}
	if h.counts == nil {
		h.counts = new(Counts)
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	slots := make(chan struct{}, cmp.Or(in.Parallel, 16))
	var all sync.WaitGroup
	wait := busyWait
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		claim, err := in.DB.Next(ctx, in.Name, h.lease)
		if err != nil {
			<-slots
			if ctx.Err() != nil {
				continue
			}
			h.log.Warn("no message can be fetched, trying again", "error", err, "after", wait)
			pause(ctx, wait)
			wait = min(2*wait, 5*time.Second)
			continue
		}
		wait = busyWait
		turn, done := h.turn(claim.Message.Key)
		all.Go(func() {
			defer func() { <-slots }()
			defer done()
			h.handle(work, claim, turn)
		})
	}
	late := time.AfterFunc(grace, stop)
	defer late.Stop()
	all.Wait()
	return nil
}

// hearing is what one Run has in hand.
type hearing struct {
	*Inbox
	log   *slog.Logger
	lease time.Duration
	mu    sync.Mutex

	counts *Counts
	last   map[string]chan struct{} // of each key: closed when its last message is done
}

// turn queues behind the message of the same key that came before, if there is
// one: turn is closed when that is done, and done is to be called after.
func (h *hearing) turn(key string) (turn <-chan struct{}, done func()) {
	mine, open := make(chan struct{}), make(chan struct{})
	close(open)
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.last[key]
	if before == nil || key == "" {
		before = open
	}
	h.last[key] = mine
	return before, func() {
		<-before // also where this one gave up waiting: the next must not overtake
		h.mu.Lock()
		defer h.mu.Unlock()
		close(mine)
		if h.last[key] == mine {
			delete(h.last, key)
		}
	}
}

// handle calls the handler and commits what it answers with the
// acknowledgement.
func (h *hearing) handle(work context.Context, claim store.Claim, turn <-chan struct{}) {
	m := claim.Message
	log := h.log.With("subject", m.Subject, "key", m.Key, "delivery", claim.Delivery)
	// It ends before the lease does: afterwards another may have the message.
	ctx, cancel := context.WithTimeout(work, h.lease-h.lease/10)
	defer cancel()
	select {
	case <-turn:
	case <-ctx.Done():
		log.Debug("message given back: the one before it took too long")
		h.giveBack(work, claim)
		return
	}
	if claim.Delivery > 1 {
		h.counts.Redelivered.Inc()
	}
	began := time.Now()
	ctx, end := trace.Start(ctx, h.Trace, h.Name+" "+m.Subject, traceOf(m.Body), "key", m.Key)
	err := h.do(ctx, claim)
	end(err)
	h.counts.Took.Observe(time.Since(began))
	switch {
	case err == nil:
		h.counts.Handled.Inc()
		return
	case errors.Is(err, store.ErrNotHeld):
		log.Info("message left to who holds it now", "error", err)
		return
	case work.Err() != nil:
		log.Info("message given back: its handler did not finish before the end", "error", err)
		h.giveBack(work, claim)
		return
	}
	delay := min(firstWait<<min(claim.Delivery-1, 16), longWait)
	if claim.Delivery >= store.MaxDeliveries {
		h.counts.Parked.Inc()
		log.Error("message parked", "error", err)
	} else {
		h.counts.Failed.Inc()
		log.Warn("message not handled, trying again", "error", err, "after", delay)
	}
	failpoint.Hit("queue.retry.before")
	err = h.commit(work, store.Batch{Retry: &claim, Delay: delay, Why: err.Error()})
	if err != nil && !errors.Is(err, store.ErrNotHeld) {
		log.Warn("message not given back: its lease will pass", "error", err)
	}
}

// giveBack lets another have the message at once, without waiting for the
// lease. The last delivery is left to the lease: giving it back would park it.
func (h *hearing) giveBack(work context.Context, claim store.Claim) {
	if claim.Delivery >= store.MaxDeliveries {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(work), time.Second)
	defer cancel()
	_ = h.DB.Commit(ctx, store.Batch{Retry: &claim, Why: "the process that handled it ended"})
}

// do calls the handler until its batch is committed, or another error than a
// conflict.
func (h *hearing) do(ctx context.Context, claim store.Claim) error {
	wait, away := time.Millisecond, busyWait
	for try := 1; ; try++ {
		failpoint.Hit("queue.handle.before")
		b, err := h.call(ctx, claim.Message)
		if errors.Is(err, mlaas.ErrUnavailable) && pause(ctx, away) {
			away = min(2*away, 5*time.Second) // no fault of the message: to give it back would bring it closer to being parked
			try--
			continue
		}
		if err != nil {
			return err
		}
		b.Ack = &claim
		b = Traced(b, trace.Of(ctx))
		failpoint.Hit("queue.ack.before")
		err = h.commit(ctx, b)
		if err == nil {
			failpoint.Hit("queue.ack.after")
			return nil
		}
		if !errors.Is(err, mlaas.ErrConflict) || errors.Is(err, store.ErrNotHeld) {
			return err
		}
		h.counts.Conflicts.Inc()
		if try == conflicts {
			return fmt.Errorf("others were faster %d times: %w", try, err)
		}
		if !pause(ctx, time.Duration(rand.Int64N(int64(wait)))) {
			return ctx.Err()
		}
		wait = min(2*wait, 64*time.Millisecond)
	}
}

// call turns whatever a handler does into an answer.
func (h *hearing) call(ctx context.Context, m store.Message) (b store.Batch, err error) {
	handler := h.handlers[m.Subject]
	if handler == nil {
		return b, fmt.Errorf("%s has no handler for %q: %w", h.Name, m.Subject, mlaas.ErrInternal)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler of %s panicked: %v\n%s", m.Subject, p, debug.Stack())
		}
	}()
	return handler(ctx, m.Body)
}

// commit waits for a store that has no room or is away, as long as ctx lets it:
// calling the handler again would not help.
func (h *hearing) commit(ctx context.Context, b store.Batch) error {
	for wait := busyWait; ; wait = min(2*wait, 5*time.Second) {
		err := h.DB.Commit(ctx, b)
		if !errors.Is(err, mlaas.ErrDisk) && !errors.Is(err, mlaas.ErrUnavailable) || !pause(ctx, wait) {
			return err
		}
	}
}

// pause waits, and reports whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
