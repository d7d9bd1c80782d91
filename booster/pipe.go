package booster

import (
	"context"
	"io"
	"sync"

	"mlaas.dev/mlaas"
)

// Pipe is a conversation inside this process: the supervisor's end and the
// door's. Like a connection it keeps order, delivers what was sent before it
// was closed, and holds a little that nobody has received yet.
func Pipe() (mlaas.Line[mlaas.Up, mlaas.Down], mlaas.Line[mlaas.Down, mlaas.Up]) {
	up, down, over := make(chan mlaas.Up, 16), make(chan mlaas.Down, 16), &ending{done: make(chan struct{})}
	return &end[mlaas.Up, mlaas.Down]{out: up, in: down, ending: over}, &end[mlaas.Down, mlaas.Up]{out: down, in: up, ending: over}
}

// An ending is shared by both ends.
type ending struct {
	once sync.Once
	done chan struct{}
	why  error // set before done is closed
}

func (e *ending) end(why error) {
	e.once.Do(func() {
		e.why = why
		close(e.done)
	})
}

type end[Out, In any] struct {
	out chan<- Out
	in  <-chan In
	*ending
}

// Send waits until there is room for m.
func (e *end[Out, In]) Send(ctx context.Context, m Out) error {
	select {
	case <-e.done:
		return e.why
	default:
	}
	select {
	case e.out <- m:
		return nil
	case <-e.done:
		return e.why
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Receive waits for a message. What was sent before the end comes first.
func (e *end[Out, In]) Receive(ctx context.Context) (m In, err error) {
	select {
	case m = <-e.in:
		return m, nil
	default:
	}
	select {
	case m = <-e.in:
		return m, nil
	case <-e.done:
		select {
		case m = <-e.in:
			return m, nil
		default:
			return m, e.why
		}
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
}

// Close ends the conversation for both.
func (e *end[Out, In]) Close() error {
	e.end(io.EOF)
	return nil
}

// Refuse ends it with a reason that the other end gets.
func (e *end[Out, In]) Refuse(why error) { e.end(why) }
