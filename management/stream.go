package management

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// The live stream: one WebSocket at /api/stream for everything that a page
// shows, or the same events as NDJSON for `curl -N`.
//
// A client subscribes to topics. Each subscription answers with a snapshot and
// then with deltas, every one with a sequence number; a client that lost its
// connection subscribes again with the last number it saw and gets what
// followed. No change is left out. Events of jobs, replicas and points say what
// is so, so that one that comes again changes nothing; lines never come again.
//
// Nothing is buffered for a client: each subscription reads on from where the
// client is, one page at a time for the whole connection, so one that reads
// slowly costs a page, and one that does not read at all is dropped. Those who
// stand at the same place are sent the same page: see crowd.go and hub.go.

// A Subscription asks for one topic.
type Subscription struct {
	ID      string      `json:"id"`                // chosen by the client, repeated in each event
	Topic   string      `json:"topic"`             // job | replica | log | metric | draft | kernel | evaluation
	Job     string      `json:"job,omitempty"`     // topic job: this one alone; topic draft: whose; by id or name
	Doc     string      `json:"doc,omitempty"`     // topic draft: the edits of this text
	Run     mlaas.RunID `json:"run,omitempty"`     // the other topics
	Replica string      `json:"replica,omitempty"` // topics replica, log, metric and evaluation: this one alone
	Grep    string      `json:"grep,omitempty"`    // topic log: lines that match (RE2)
	Tail    *int        `json:"tail,omitempty"`    // topic log: lines in the snapshot, at most 2000; 100 where not stated
	From    *int64      `json:"from,omitempty"`    // go on after this sequence number, without a snapshot
}

// A StreamEvent is what the server sends.
type StreamEvent struct {
	ID    string `json:"id" doc:"Of the subscription; empty for what concerns the connection"`
	Topic string `json:"topic"`
	Type  string `json:"type" doc:"snapshot: how it stands; delta: what changed; synced: from is known, what followed it comes next; reset: from is not known any more, a snapshot comes next; error: the subscription is over, data is a problem; beat: nothing happened for 15 s"`
	Seq   int64  `json:"seq" doc:"Send the last one as from to go on after it"`
	Data  any    `json:"data,omitempty" doc:"Of a snapshot or delta: a list, by topic"`
}

// fromClient is a message of a WebSocket client: one field is set.
type fromClient struct {
	Subscribe   *Subscription `json:"subscribe"`
	Unsubscribe *string       `json:"unsubscribe"`
}

const (
	beatEvery   = 15 * time.Second
	writeWithin = 8 * time.Second // a client that takes nothing for so long is dropped: with what the kernel holds for it, within 10
	maxTopics   = 64              // of one connection
	maxTail     = 2000            // lines
	linesAtOnce = 200
	eventBytes  = 8 << 10 // of lines in an event, about: one is held for each client that takes nothing
	shownPoints = 50_000  // of a snapshot, shared by the curves
)

type streamIn struct {
	Topic   string      `query:"topic" doc:"Without a WebSocket: job, replica, log, metric, draft, kernel or evaluation" example:"job"`
	Job     string      `query:"job" doc:"Topic job: this one alone; topic draft: whose"`
	Doc     string      `query:"doc" doc:"Topic draft: the edits of this text"`
	Run     mlaas.RunID `query:"run" doc:"The other topics: the id of a run"`
	Replica string      `query:"replica" doc:"Topics replica, log, metric and evaluation: this one alone" example:"worker-0"`
	Grep    string      `query:"grep" doc:"Topic log: lines that match this regular expression (RE2)"`
	Tail    *int        `query:"tail" minimum:"0" doc:"Topic log: lines in the snapshot, at most 2000; 100 where not said"`
	From    *int64      `query:"from" minimum:"0" doc:"Go on after this sequence number, without a snapshot"`
}

func (in *streamIn) subscription() Subscription {
	return Subscription{Topic: in.Topic, Job: in.Job, Doc: in.Doc, Run: in.Run, Replica: in.Replica, Grep: in.Grep, Tail: in.Tail, From: in.From}
}

// stream serves GET /api/stream. As a WebSocket the client sends
// {"subscribe": {...}} and {"unsubscribe": "id"}; without an upgrade the query
// (topic, job, doc, run, replica, grep, tail, from) is the one subscription and the
// answer is NDJSON. It ends with the session that it was opened by, and with
// the platform.
func (m *Management) stream(w http.ResponseWriter, r *http.Request, in *streamIn) error {
	narrow(r.Context())
	if r.Header.Get("Upgrade") == "" {
		return m.streamLines(w, r, in.subscription())
	}
	// Pages of others were refused before: see who in serve.go.
	c, err := websocket.Accept(slim{w}, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // Accept has answered
	}
	c.SetReadLimit(64 << 10)
	// The request is over when this returns, and with it what it held.
	s, ctx := m.newStreamer(context.WithoutCancel(r.Context()))
	s.write = func(parts ...[]byte) error {
		within, done := context.WithCancel(ctx)
		defer done()
		late := time.AfterFunc(writeWithin, func() { // before the connection is closed, which a writer does
			s.drop()
			done()
		})
		defer late.Stop()
		w, err := c.Writer(within, websocket.MessageText)
		for _, part := range parts {
			if err == nil {
				_, err = w.Write(part)
			}
		}
		if err != nil {
			return err
		}
		return w.Close()
	}
	s.close = func(code websocket.StatusCode, why string) { _ = c.Close(code, why) } // it is closed either way
	leave := s.attend(ctx)
	go func() {
		defer c.CloseNow()
		defer leave()
		s.listen(ctx, c)
	}()
	return nil
}

// slim has the connection of a client kept with small buffers: large parts of
// events go past them, and clients say little.
type slim struct{ http.ResponseWriter }

const slimBuffer = 512 // bytes

func (w slim) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := buffers.Flush(); err != nil {
		return nil, nil, err
	}
	said, err := buffers.Peek(buffers.Reader.Buffered()) // right after the request
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(said)), c), max(slimBuffer, len(said)))
	if _, err := in.Peek(len(said)); err != nil { // whoever takes the connection looks for it in the buffer
		return nil, nil, err
	}
	return c, bufio.NewReadWriter(in, bufio.NewWriterSize(c, slimBuffer)), nil
}

// listen does what the client of a WebSocket says, until it is closed.
func (s *streamer) listen(ctx context.Context, c *websocket.Conn) {
	var all sync.WaitGroup
	defer all.Wait()
	defer s.stop()
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			return
		}
		var in fromClient
		err = mlaas.Decode(data, &in)
		if err == nil && (in.Subscribe == nil) == (in.Unsubscribe == nil) {
			err = mlaas.Invalid("message", `{"subscribe": {...}} or {"unsubscribe": "id"}`, clip(string(data), 200))
		}
		switch {
		case err != nil:
			s.send(StreamEvent{Type: "error", Data: problemOf(err)})
		case in.Unsubscribe != nil:
			s.end(*in.Unsubscribe)
		default:
			if t := s.begin(ctx, *in.Subscribe); t != nil {
				all.Go(t.serve)
			}
		}
	}
}

func (m *Management) streamLines(w http.ResponseWriter, r *http.Request, sub Subscription) error {
	if err := sub.check(); err != nil {
		return err
	}
	if sub.Run != "" { // so that a mistake is answered by its status
		if _, _, err := store.Runs(m.DB).Get(r.Context(), tenantOf(r.Context()), string(sub.Run)); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", ndjson)
	flush := http.NewResponseController(w)
	s, ctx := m.newStreamer(r.Context())
	s.write = func(parts ...[]byte) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_ = flush.SetWriteDeadline(time.Now().Add(writeWithin)) // where it cannot be set, there is no network
		for _, part := range append(parts, []byte("\n")) {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return flush.Flush()
	}
	s.close = func(websocket.StatusCode, string) { s.stop() }
	defer s.attend(ctx)()
	defer s.stop()
	if t := s.begin(ctx, sub); t != nil {
		t.serve()
	}
	return nil
}

func (s Subscription) check() error {
	switch {
	case s.From != nil && *s.From < 0:
		return mlaas.Invalid("from", "a sequence number, 0 or more", *s.From)
	case s.Tail != nil && *s.Tail < 0:
		return mlaas.Invalid("tail", "a number of lines, 0 or more", *s.Tail)
	}
	switch s.Topic {
	case "job":
		return nil
	case "draft":
		if s.Job == "" {
			return mlaas.Invalid("job", "the id or the name of a job", s.Job)
		}
		return nil
	case "replica", "log", "metric", "kernel", "evaluation":
		if s.Run == "" {
			return mlaas.Invalid("run", "the id of a run", string(s.Run))
		}
	default:
		return mlaas.Invalid("topic", "job, replica, log, metric, draft, kernel or evaluation", s.Topic)
	}
	if _, err := regexp.Compile(s.Grep); err != nil {
		return mlaas.Invalid("grep", "a regular expression (RE2): "+err.Error(), s.Grep)
	}
	return nil
}

// streams are the connections that are open, and the logs that are followed.
// They end when Run does, as no server waits for a WebSocket, or when they are
// told to leave before.
type streams struct {
	mu    sync.Mutex
	ended bool
	open  map[any]func() // by who, how to be told
	empty chan struct{}  // closed when they have ended and none is open
}

func (x *streams) run(ctx context.Context) error {
	<-ctx.Done()
	x.end()
	return ctx.Err()
}

// end tells all of them, and returns what is closed when they have gone.
func (x *streams) end() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.ended, x.empty = true, make(chan struct{})
		for _, leave := range x.open {
			leave()
		}
		if len(x.open) == 0 {
			close(x.empty)
		}
	}
	return x.empty
}

func (x *streams) leave(ctx context.Context) {
	select {
	case <-x.end():
	case <-ctx.Done():
	}
}

// add is false where they have ended: who is to leave at once. Each that was
// added is removed.
func (x *streams) add(who any, leave func()) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return false
	}
	if x.open == nil {
		x.open = map[any]func(){}
	}
	x.open[who] = leave
	return true
}

func (x *streams) remove(who any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := len(x.open)
	delete(x.open, who)
	if x.ended && before == 1 && len(x.open) == 0 {
		close(x.empty)
	}
}

// A streamer is one connection.
type streamer struct {
	m     *Management
	who   auth.Principal
	stop  context.CancelFunc
	write func(parts ...[]byte) error // one event
	close func(websocket.StatusCode, string)
	drop  func() // a client that takes nothing, with what the kernel holds for it

	turn sync.Mutex // held while a page is read and sent: a connection has one in memory

	mu   sync.Mutex // of write and what follows; taken after turn
	last time.Time  // when something was written
	live map[string]*topic
}

func (m *Management) newStreamer(request context.Context) (*streamer, context.Context) {
	ctx, stop := context.WithCancel(request)
	drop := func() {
		m.Counts.Dropped.Inc()
		abandon(request)
	}
	return &streamer{m: m, who: auth.From(ctx), drop: drop, stop: stop, last: m.now(), live: map[string]*topic{}}, ctx
}

// attend keeps a connection alive until leave is called, and ends it with the
// session or the platform. Between two events of a connection nobody waits for
// it: there are many.
func (s *streamer) attend(ctx context.Context) (leave func()) {
	down := func() { go s.finish(websocket.StatusGoingAway, "the platform goes down") }
	if !s.m.streams.add(s, down) {
		down()
	}
	unhear := func() {}
	if s.who.Session != "" {
		unhear = s.m.hub.call(runKey{s.who.Tenant, mlaas.RunID(s.who.Session)}, func() { s.look(ctx) })
		s.look(ctx) // it may have ended before
	}
	var beat *time.Timer
	s.mu.Lock() // of beat too
	beat = time.AfterFunc(beatEvery, func() {
		s.look(ctx)
		s.mu.Lock()
		quiet := s.m.now().Sub(s.last) >= beatEvery
		s.mu.Unlock()
		if quiet {
			s.send(StreamEvent{Type: "beat"})
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if ctx.Err() == nil {
			beat.Reset(beatEvery)
		}
	})
	s.mu.Unlock()
	return func() {
		beat.Stop()
		unhear()
		s.m.streams.remove(s)
	}
}

// look ends a connection whose session has ended. Where the store cannot say
// now, the next beat asks again.
func (s *streamer) look(ctx context.Context) {
	if s.who.Session == "" {
		return
	}
	session, _, err := store.Sessions(s.m.DB).Get(ctx, s.who.Tenant, s.who.Session)
	switch {
	case errors.Is(err, mlaas.ErrNotFound), err == nil && (session.Revoked != nil || !s.m.now().Before(session.Expires)):
		s.finish(websocket.StatusPolicyViolation, "this session has ended")
	}
}

// finish ends every subscription and then the connection.
func (s *streamer) finish(code websocket.StatusCode, why string) {
	s.mu.Lock()
	for id, t := range s.live {
		t.cancel()
		delete(s.live, id)
	}
	s.mu.Unlock()
	s.close(code, why)
	s.stop()
}

// begin makes a subscription; nil where the client was told why not.
func (s *streamer) begin(ctx context.Context, sub Subscription) *topic {
	err := sub.check()
	s.mu.Lock()
	if s.live[sub.ID] != nil && err == nil {
		err = mlaas.Invalid("id", "an id that no other subscription of this connection has", sub.ID)
	}
	if len(s.live) >= maxTopics && err == nil {
		err = fmt.Errorf("at most %d subscriptions on one connection: %w", maxTopics, mlaas.ErrTooMany)
	}
	if err != nil {
		s.mu.Unlock()
		s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "error", Data: problemOf(err)})
		return nil
	}
	t := &topic{streamer: s, Subscription: sub}
	t.ctx, t.cancel = context.WithCancel(ctx)
	s.live[sub.ID] = t
	s.mu.Unlock()
	return t
}

// end ends a subscription: no event of it follows.
func (s *streamer) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.live[id]; t != nil {
		t.cancel()
		delete(s.live, id)
	}
}

// send writes an event that is of no subscription. A client that does not take
// it loses its connection.
func (s *streamer) send(e StreamEvent) {
	parts := encode(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(parts)
}

// put writes an event; the caller holds mu.
func (s *streamer) put(parts [][]byte) {
	if err := s.write(parts...); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drop()
		}
		s.stop()
		return
	}
	s.last = s.m.now()
}

// encode is an event in parts: data that is encoded already is shared by all who
// are sent it, and not copied.
func encode(e StreamEvent) [][]byte {
	data, encoded := e.Data.(json.RawMessage)
	if encoded {
		e.Data = nil
	}
	head, err := json.Marshal(e)
	if err != nil {
		panic(err) // our own types always encode
	}
	if !encoded {
		return [][]byte{head}
	}
	return [][]byte{append(head[:len(head)-1], `,"data":`...), data, []byte("}")}
}
