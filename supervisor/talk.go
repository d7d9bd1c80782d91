package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"mlaas.dev/mlaas"
)

// How frames are made: the first line goes at once, then what comes within
// gather goes together; window frames may be unacknowledged.
const (
	gather     = 50 * time.Millisecond
	frameItems = 1000
	frameBytes = 256 << 10
	window     = 8
	beatEvery  = 10 * time.Second
)

// errLeave ends a conversation because there is nothing left to say.
var errLeave = errors.New("all is said")

// converse keeps a conversation with the door, dialling again for as long as
// it takes.
func (s *Supervisor) converse(ctx context.Context) error {
	wait := 50 * time.Millisecond
	defer close(s.left)
	ctx, end := context.WithCancel(ctx)
	defer s.opens.wait.Wait()
	defer end() // who looks in leaves with us
	for {
		line, err := s.Door.Dial(ctx)
		if err == nil {
			began := s.Now()
			err = s.talk(ctx, line)
			if s.Now().Sub(began) > 10*time.Second {
				wait = 50 * time.Millisecond
			}
		}
		s.mu.Lock()
		if s.away.IsZero() {
			s.away = s.Now()
		}
		s.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errLeave) {
			return nil
		}
		s.Log.Info("no conversation with the door", "error", err, "again", wait)
		// Some disorder, so that a thousand replicas do not knock together.
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-s.leave:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// A talk is one conversation.
type talk struct {
	*Supervisor
	line   mlaas.Line[mlaas.Up, mlaas.Down]
	logs   flow
	metric flow
	phase  int // the last that was said
	made   map[*mlaas.CheckpointMade]bool
	told   map[*mlaas.EvaluationMade]bool
	beat   time.Time
}

// A flow is how far a stream has gone in one conversation.
type flow struct {
	next int64   // to be sent
	last []int64 // of each frame that is not acknowledged
	sent time.Time
}

func (s *Supervisor) talk(ctx context.Context, line mlaas.Line[mlaas.Up, mlaas.Down]) error {
	t := &talk{Supervisor: s, line: line, made: map[*mlaas.CheckpointMade]bool{}, told: map[*mlaas.EvaluationMade]bool{}, beat: s.Now()}
	closed := false
	defer func() {
		if !closed {
			line.Close()
		}
	}()
	p, version, whole := s.public()
	if t.phase = version; !whole {
		t.phase--
	}
	hello := &mlaas.Hello{Version: mlaas.DoorVersion, Fence: s.Fence, Node: s.Node, Address: s.Address, Ports: s.numbers, Phase: p, Opens: true, Recipes: mlaas.RecipeVersion}
	if err := line.Send(ctx, mlaas.Up{Hello: hello}); err != nil {
		return err
	}
	first, enough := context.WithTimeout(ctx, 30*time.Second)
	down, err := line.Receive(first)
	enough()
	if err != nil {
		return err
	}
	if down.Welcome == nil {
		return errors.New("the door did not say welcome")
	}
	if err := errors.Join(s.lines.ack(down.Welcome.Log), s.points.ack(down.Welcome.Metric)); err != nil {
		return err
	}
	t.logs.next, t.metric.next = down.Welcome.Log+1, down.Welcome.Metric+1
	s.evaluated.welcomed(down.Welcome.Evaluations)
	s.keeping.bump()
	if p.Status.Final() {
		s.announce()
	}
	s.mu.Lock()
	s.away = time.Time{}
	s.mu.Unlock()

	// The receiver outlives the sender, so that the last words are followed by
	// a proper goodbye rather than by a broken connection.
	speak, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	acks := make(chan mlaas.Ack, 64)
	over := make(chan struct{})
	go func() {
		defer close(over)
		cancel(s.hear(ctx, speak, line, acks))
	}()
	err = t.send(speak, acks)
	closed = true
	line.Close()
	<-over
	return err
}

// public is the phase that the door may know, its version, and whether that is
// all we know: that the program ended is told when everything it wrote is
// there, so that whoever hears of the end finds the whole log.
func (s *Supervisor) public() (p mlaas.Phase, version int, whole bool) {
	all := s.delivered()
	s.mu.Lock()
	defer s.mu.Unlock()
	p = s.phase
	if s.final && !all {
		p.Status, p.Reason, p.ExitCode, p.OOM = mlaas.ReplicaRunning, "its program has ended; what it wrote is being delivered", nil, false
	}
	if !s.final {
		p.Usage = s.usage
		p.Usage.Dropped = s.dropped
	}
	return p, s.said, all || !s.final
}

// announce notes that the door was told the final phase.
func (s *Supervisor) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.announced:
	default:
		close(s.announced)
	}
}

// hear takes what the door says.
func (s *Supervisor) hear(ctx, speak context.Context, line mlaas.Line[mlaas.Up, mlaas.Down], acks chan<- mlaas.Ack) error {
	for {
		down, err := line.Receive(ctx)
		if err != nil {
			return err
		}
		switch {
		case down.Ack != nil:
			select {
			case acks <- *down.Ack:
			case <-speak.Done(): // nobody sends any more
			}
		case down.Start != nil:
			select {
			case s.start <- *down.Start:
			default: // it comes twice
			}
		case down.Stop != nil:
			select {
			case s.stop <- *down.Stop:
			default:
			}
		case down.Open != nil:
			s.opens.begin(ctx, *down.Open)
		case down.Checkpoint != nil:
			s.Log.Info("a checkpoint was asked for; programs make them when they can")
		}
	}
}

// send says all there is to say, then waits for more.
func (t *talk) send(ctx context.Context, acks <-chan mlaas.Ack) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, err := t.round(ctx)
		if err != nil {
			return err
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case a := <-acks:
			if err := t.acked(a); err != nil {
				return err
			}
		case <-t.wake:
		case <-timer.C:
		case <-t.leave:
			return errLeave
		}
	}
}

func (t *talk) acked(a mlaas.Ack) error {
	defer t.keeping.bump()
	switch a.Stream {
	case mlaas.LogStream:
		t.logs.acked(a.Seq)
		return t.lines.ack(a.Seq)
	case mlaas.MetricStream:
		t.metric.acked(a.Seq)
		return t.points.ack(a.Seq)
	case checkpointStream:
		t.keeping.acked(a.Seq)
	case mlaas.EvaluationStream:
		t.evaluated.acked(a.Seq)
	}
	return nil
}

func (f *flow) acked(seq int64) {
	for len(f.last) > 0 && f.last[0] <= seq {
		f.last = f.last[1:]
	}
}

// round sends what is due now, and returns when something will be.
func (t *talk) round(ctx context.Context) (next time.Duration, err error) {
	next = t.beat.Add(beatEvery).Sub(t.Now())
	if next <= 0 {
		t.beat, next = t.Now(), beatEvery
		if err := t.line.Send(ctx, mlaas.Up{Beat: &mlaas.Beat{Usage: t.measure()}}); err != nil {
			return 0, err
		}
	}
	for _, c := range t.keeping.kept() {
		if !t.made[c] {
			t.made[c] = true
			if err := t.line.Send(ctx, mlaas.Up{Checkpoint: c}); err != nil {
				return 0, err
			}
		}
	}
	for _, e := range t.evaluated.made() {
		if !t.told[e] {
			t.told[e] = true
			if err := t.line.Send(ctx, mlaas.Up{Evaluation: e}); err != nil {
				return 0, err
			}
		}
	}
	wait, err := flush(ctx, t, &t.logs, t.lines, func(first int64, v []mlaas.LogLine) *mlaas.Frame {
		return &mlaas.Frame{Stream: mlaas.LogStream, First: first, Lines: v}
	})
	if err != nil {
		return 0, err
	}
	next = min(next, wait)
	wait, err = flush(ctx, t, &t.metric, t.points, func(first int64, v []mlaas.Point) *mlaas.Frame {
		return &mlaas.Frame{Stream: mlaas.MetricStream, First: first, Points: v}
	})
	if err != nil {
		return 0, err
	}
	next = min(next, wait)

	if p, version, whole := t.public(); whole && version != t.phase {
		if err := t.line.Send(ctx, mlaas.Up{Phase: &p}); err != nil {
			return 0, err
		}
		t.phase = version
		if p.Status.Final() {
			t.announce()
		}
	}
	return next, nil
}

// flush sends the frames of one stream that are due, and returns when the next
// one will be.
func flush[T any](ctx context.Context, t *talk, f *flow, s *spool[T], frame func(int64, []T) *mlaas.Frame) (time.Duration, error) {
	for len(f.last) < window {
		some, enough := s.waiting(f.next, frameItems, frameBytes)
		if !some {
			break
		}
		if since := t.Now().Sub(f.sent); !enough && since < gather && since >= 0 {
			return gather - since, nil
		}
		first, items, err := s.take(f.next, frameItems, frameBytes)
		if err != nil {
			return 0, fmt.Errorf("the spool cannot be read: %w", err)
		}
		if len(items) == 0 {
			break
		}
		if err := t.line.Send(ctx, mlaas.Up{Frame: frame(first, items)}); err != nil {
			return 0, err
		}
		f.next, f.sent = first+int64(len(items)), t.Now()
		f.last = append(f.last, f.next-1)
	}
	return beatEvery, nil
}
