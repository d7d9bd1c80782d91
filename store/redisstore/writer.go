package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/store"
)

const (
	lanes      = 2       // groups on their way at once: while the server writes one, the next is made
	groupMany  = 256     // batches in a group
	groupBytes = 4 << 20 // of a group that is more than one batch
	batchBytes = 256 << 20
)

// A writer carries batches to the server. Callers queue; whatever queued while
// a lane was on its way makes up its next group.
type writer struct {
	store  *Store
	script *redis.Script
	ran    sync.WaitGroup // the lanes

	mu     sync.Mutex
	queue  []*request
	closed bool
	wake   chan struct{} // holds one for each lane
}

// A request is one caller's batch, as the script reads it.
type request struct {
	ctx    context.Context
	args   []any
	size   int
	answer string
	err    error
	done   chan struct{}
}

// A lane sends one group after another, each with the next number.
type lane struct {
	*writer
	client string
	number int64
}

func (w *writer) begin(s *Store) {
	w.store, w.script, w.wake = s, redis.NewScript(commitText), make(chan struct{}, lanes)
	for range lanes {
		l := &lane{writer: w, client: rand.Text()}
		w.ran.Go(l.run)
	}
}

// submit hands a batch to a lane and returns the word that the script says of
// it. After some seconds, or when ctx ends, it is not waited for any more.
func (w *writer) submit(ctx context.Context, args []any, size int) (string, error) {
	r := &request{ctx: ctx, args: args, size: size, done: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return "", w.store.closed()
	}
	w.queue = append(w.queue, r)
	w.mu.Unlock()
	w.notify()
	late := time.NewTimer(patience + confirmTime/4)
	defer late.Stop()
	select {
	case <-r.done:
		return r.answer, r.err
	case <-late.C:
		return "", fmt.Errorf("the Redis server %s does not answer; it may or may not be there: %w", w.store, mlaas.ErrUnavailable)
	case <-ctx.Done():
		return "", fmt.Errorf("not waited for, it may or may not be there: %w", ctx.Err())
	}
}

func (w *writer) notify() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// close lets the lanes end once the queue is empty.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for range lanes {
		w.notify()
	}
}

func (w *writer) wait() { w.ran.Wait() }

// take returns the next group; nil with ended false: there is none now.
func (w *writer) take() (group []*request, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, n := 0, 0
	for n < len(w.queue) && n < groupMany {
		size += w.queue[n].size
		if n > 0 && size > groupBytes {
			break
		}
		n++
	}
	group = w.queue[:n:n]
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue = nil
	}
	if len(w.queue) > 0 {
		w.notify()
	}
	return group, w.closed
}

func (l *lane) run() {
	for {
		group, closed := l.take()
		switch {
		case len(group) > 0:
			l.commit(group)
			for _, r := range group {
				close(r.done)
			}
		case closed:
			return
		default:
			<-l.wake
		}
	}
}

// commit sends a group and deals out the answers.
func (l *lane) commit(group []*request) {
	s := l.store
	live := group[:0:0]
	for _, r := range group {
		if r.err = r.ctx.Err(); r.err == nil {
			live = append(live, r)
		}
	}
	if len(live) == 0 {
		return
	}
	l.number++
	args := make([]any, 0, 4+len(live)*24)
	args = append(args, s.prefix, l.client, l.number)
	for _, r := range live {
		args = append(args, r.args...)
	}
	args = append(args, s.keep)
	failpoint.Hit("store.commit.before")
	answer, err := l.send(args)
	if err != nil {
		// What there is no room for is the business of one; who makes room goes alone.
		if len(live) > 1 && errors.Is(err, mlaas.ErrDisk) {
			for i := range live {
				l.commit(live[i : i+1])
			}
			return
		}
		for _, r := range live {
			r.err = err
		}
		return
	}
	failpoint.Hit("store.commit.after")
	s.syncs.Add(1)
	words := strings.Split(answer, " ")
	for i, r := range live {
		if i < len(words) {
			r.answer = words[i]
		}
		if r.answer == "ok" {
			s.commits.Add(1)
		}
	}
}

// errUnconfirmed is a group that the primary has, and not enough replicas.
var errUnconfirmed = fmt.Errorf("not confirmed by a replica; it may or may not be there: %w", mlaas.ErrUnavailable)

// send has the group done once, however often it is sent.
func (l *lane) send(args []any) (answer string, err error) {
	s := l.store
	err = s.try(s.ended, func(ctx context.Context, _ bool) error {
		if s.orphaned.CompareAndSwap(true, false) {
			s.conns.closeAll() // the next connection says to which history it belongs
		}
		if s.wait == 0 {
			answer, err = l.script.Run(ctx, s.db, nil, args...).Text()
			return err
		}
		pipe := s.db.Pipeline()
		said := l.script.EvalSha(ctx, pipe, nil, args...)
		replicas := pipe.Do(ctx, "WAIT", s.wait, confirmTime.Milliseconds())
		_, _ = pipe.Exec(ctx) // each has its own error
		if redis.HasErrorPrefix(said.Err(), "NOSCRIPT") {
			pipe = s.db.Pipeline()
			said = l.script.Eval(ctx, pipe, nil, args...)
			replicas = pipe.Do(ctx, "WAIT", s.wait, confirmTime.Milliseconds())
			_, _ = pipe.Exec(ctx)
		}
		if answer, err = said.Text(); err != nil {
			return err
		}
		if n, err := replicas.Int64(); err != nil {
			return err
		} else if n < int64(s.wait) {
			return errUnconfirmed
		}
		return nil
	})
	return answer, err
}

// Commit does all of b or nothing.
func (s *Store) Commit(ctx context.Context, b store.Batch) error {
	size, err := valid(b)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	word, err := s.writer.submit(ctx, s.batchArgs(b), size)
	if err != nil {
		return err
	}
	answered := b.Ack
	if answered == nil {
		answered = b.Retry
	}
	switch {
	case word == "ok":
		return nil
	case word == "held":
		return fmt.Errorf("%s %d of %s: %w", answered.Message.Subject, answered.ID, answered.Message.To, store.ErrNotHeld)
	}
	at, rev, ok := strings.Cut(word, ":")
	i, err := strconv.Atoi(at)
	if all := append(append(append([]store.Row{}, b.Check...), b.Put...), b.Delete...); ok && err == nil && i < len(all) {
		return conflict(all[i], rev)
	}
	return fmt.Errorf("the script of commits says %q: %w", word, mlaas.ErrInternal)
}

// Confirm has replicas confirm what was read: those who read share a group that
// writes nothing of theirs. Where no replica is waited for, an answer of the
// server says that its disk has what is in it.
func (s *Store) Confirm(ctx context.Context) error {
	if s.wait == 0 {
		return nil
	}
	return s.Commit(ctx, store.Batch{})
}

func conflict(r store.Row, rev string) error {
	switch {
	case rev == "0":
		return fmt.Errorf("%s is not there, revision %d was expected: %w", r.Key, r.Rev, mlaas.ErrConflict)
	case r.Rev == 0:
		return fmt.Errorf("%s is there already: %w", r.Key, mlaas.ErrConflict)
	}
	return fmt.Errorf("%s is at revision %s, not %d: %w", r.Key, rev, r.Rev, mlaas.ErrConflict)
}

// valid refuses what no commit can do, and counts bytes.
func valid(b store.Batch) (size int, err error) {
	if b.Ack != nil && b.Retry != nil {
		return 0, mlaas.Invalid("retry", "a batch without ack: a message is done or it is not", b.Retry.ID)
	}
	seen := make(map[store.Key]bool, len(b.Put)+len(b.Delete))
	for _, rows := range [][]store.Row{b.Put, b.Delete} {
		for _, r := range rows {
			switch {
			case r.Key.Kind == "" || r.Key.ID == "":
				return 0, mlaas.Invalid("key", "a kind and an id", r.Key.String())
			case strings.Contains(r.Key.Kind+string(r.Key.Tenant)+r.Key.ID, "\x00"):
				return 0, mlaas.Invalid("key", "names without a zero byte", r.Key.String())
			case seen[r.Key]:
				return 0, mlaas.Invalid("key", "each key once in a batch", r.Key.String())
			case len(r.Data) > store.MaxData:
				return 0, fmt.Errorf("%s has %d bytes, at most %d are kept in a record: %w", r.Key, len(r.Data), store.MaxData, mlaas.ErrTooLarge)
			}
			seen[r.Key] = true
			size += 200 + len(r.Data)
		}
	}
	for _, r := range b.Delete {
		if r.Rev == 0 {
			return 0, fmt.Errorf("%s cannot be deleted without its revision: %w", r.Key, mlaas.ErrConflict)
		}
	}
	for _, m := range b.Tell {
		switch {
		case m.To == "" || strings.Contains(m.To, "\x00"):
			return 0, mlaas.Invalid("to", "the name of an inbox", m.To)
		case len(m.Body) > store.MaxData:
			return 0, fmt.Errorf("message %s to %s has %d bytes, at most %d are kept in one: %w", m.Subject, m.To, len(m.Body), store.MaxData, mlaas.ErrTooLarge)
		}
		size += 200 + len(m.Body)
	}
	if size > batchBytes {
		return 0, fmt.Errorf("a batch has %d bytes, at most %d go into one: %w", size, batchBytes, mlaas.ErrTooLarge)
	}
	return size, nil
}

// batchArgs writes b as the script reads it.
func (s *Store) batchArgs(b store.Batch) []any {
	args := make([]any, 0, 8+2*len(b.Check)+6*len(b.Put)+4*len(b.Delete)+5*len(b.Tell))
	switch {
	case b.Ack != nil:
		args = append(args, "ack", b.Ack.ID, b.Ack.Token, 0, "")
	case b.Retry != nil:
		args = append(args, "retry", b.Retry.ID, b.Retry.Token, max(b.Delay, 0).Microseconds(), b.Why)
	default:
		args = append(args, "")
	}
	args = append(args, len(b.Check))
	for _, r := range b.Check {
		args = append(args, s.rowName(r.Key), r.Rev)
	}
	args = append(args, len(b.Put))
	for _, r := range b.Put {
		index := indexText(r.Index)
		args = append(args, s.rowName(r.Key), r.Rev, r.Key.Kind, member(r.Key), index, writeRow(r, index))
	}
	args = append(args, len(b.Delete))
	for _, r := range b.Delete {
		args = append(args, s.rowName(r.Key), r.Rev, r.Key.Kind, member(r.Key))
	}
	args = append(args, len(b.Tell))
	for _, m := range b.Tell {
		due := int64(0)
		if !m.Due.IsZero() {
			due = m.Due.UnixMicro()
		}
		args = append(args, m.To, m.Subject, m.Key, []byte(m.Body), due, m.After.Microseconds())
	}
	return args
}
