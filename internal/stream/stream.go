// Package stream is what goes to and fro between somebody and a replica: a
// terminal, a command with its input and output, or a connection to a port. On
// the wire a stream is a WebSocket of binary messages, each a byte that says
// what it is and the rest. It goes hop by hop: client, management, booster,
// supervisor. Each hop holds one packet in each direction, so whoever does not
// read holds up whoever writes, and nobody else.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
)

// Kind is what a packet is.
type Kind byte

// The kinds of packets.
const (
	Data   Kind = 'd' // bytes: to standard input or the port; from standard output, the terminal or the port
	Errors Kind = 'e' // bytes from standard error
	Size   Kind = 's' // JSON of an mlaas.Size: the terminal has another size now
	End    Kind = 'x' // no Data follows in this direction; the other goes on
	Exit   Kind = 'q' // JSON of an Ending: nothing follows
)

// Chunk is how many bytes a packet has at most.
const Chunk = 32 << 10

// A Packet is one message of a stream.
type Packet struct {
	Kind Kind
	Data []byte
}

// An Ending is how what was opened has ended.
type Ending struct {
	Code  int    `json:"code"`            // of a command; 128 and the signal, where one ended it
	Error string `json:"error,omitempty"` // a sentence: why there is no code, or nothing was opened
	Kind  string `json:"kind,omitempty"`  // the word of its kind
}

// Fail is the ending of what could not be opened.
func Fail(err error) Ending {
	k := mlaas.KindOf(err)
	text := err.Error()
	if end := ": " + k.Code; len(text) > len(end) && text[len(text)-len(end):] == end {
		text = text[:len(text)-len(end)]
	}
	return Ending{Code: -1, Error: text, Kind: k.Code}
}

// Err is the error that e tells of, as the kind that it was; nil: there is a
// code.
func (e Ending) Err() error {
	if e.Error == "" {
		return nil
	}
	for _, k := range mlaas.Kinds {
		if k.Code == e.Kind {
			return fmt.Errorf("%s: %w", e.Error, k)
		}
	}
	return errors.New(e.Error)
}

// JSON is a packet whose data is v.
func JSON(k Kind, v any) Packet {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	return Packet{k, data}
}

// A Stream is one end. Send and Receive may be called by one sender and one
// receiver at a time; Close by anybody, and again.
type Stream struct {
	c    *websocket.Conn
	once sync.Once
	end  context.CancelCauseFunc
	done chan struct{}
	wait sync.WaitGroup
}

const (
	sendWithin = time.Minute      // whoever takes nothing for so long is dropped
	pingEvery  = 30 * time.Second // so that one who is gone without a word is found out
	pongWithin = 2 * time.Minute  // also by who stopped to read for a while
)

// Over makes a stream of a connection. The context that it returns ends with
// the stream, whoever ends it. Who calls it calls Close.
func Over(ctx context.Context, c *websocket.Conn) (*Stream, context.Context) {
	c.SetReadLimit(2 * Chunk)
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Stream{c: c, end: cancel, done: make(chan struct{})}
	s.wait.Go(func() { s.keep(ctx) })
	return s, ctx
}

// keep finds out that the other side is gone without a word.
func (s *Stream) keep(ctx context.Context) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		within, cancel := context.WithTimeout(ctx, pongWithin)
		err := s.c.Ping(within)
		cancel()
		if err != nil {
			s.end(fmt.Errorf("the other side is gone: %w", mlaas.ErrUnavailable))
			s.c.CloseNow()
			return
		}
	}
}

// Send sends one packet. It waits while the other side does not read, for a
// minute at most.
func (s *Stream) Send(ctx context.Context, p Packet) error {
	within, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	err := s.c.Write(within, websocket.MessageBinary, append([]byte{byte(p.Kind)}, p.Data...))
	if err != nil {
		s.end(err)
	}
	return err
}

// Receive waits for a packet; io.EOF: the other side has closed.
func (s *Stream) Receive(ctx context.Context) (Packet, error) {
	_, data, err := s.c.Read(ctx)
	switch code := websocket.CloseStatus(err); {
	case code == websocket.StatusNormalClosure || code == websocket.StatusGoingAway:
		err = io.EOF
	case err == nil && len(data) == 0:
		err = fmt.Errorf("a packet is empty: %w", mlaas.ErrSyntax)
	}
	if err != nil {
		s.end(err)
		return Packet{}, err
	}
	return Packet{Kind(data[0]), data[1:]}, nil
}

// Close ends the stream. What was sent before arrives.
func (s *Stream) Close() error {
	s.once.Do(func() {
		_ = s.c.Close(websocket.StatusNormalClosure, "") // it is closed either way
		s.end(io.EOF)
		s.wait.Wait()
		close(s.done)
	})
	return nil
}

// Done is closed when Close was called.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Relay brings what comes from a to b and from b to a, until an Exit has passed,
// either ends, or ctx does. It closes both.
func Relay(ctx context.Context, a, b *Stream) {
	defer context.AfterFunc(ctx, func() {
		a.c.CloseNow()
		b.c.CloseNow()
	})()
	var all sync.WaitGroup
	pass := func(from, to *Stream) {
		// Half of it is no stream. What was sent arrives: that is why neither is
		// simply cut off.
		defer b.Close()
		defer a.Close()
		for {
			p, err := from.Receive(ctx)
			if err != nil || to.Send(ctx, p) != nil || p.Kind == Exit {
				return
			}
		}
	}
	all.Go(func() { pass(a, b) })
	all.Go(func() { pass(b, a) })
	all.Wait()
}
