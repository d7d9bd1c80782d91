package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// The live stream: one WebSocket at /api/stream for everything that a page
// shows, or the same events as NDJSON for `curl -N`.
//
// A client subscribes to topics. Each subscription answers with a snapshot and
// then with deltas, every one with a sequence number; a client that lost its
// connection subscribes again with the last number it saw and gets what
// followed, without a gap or a duplicate. Nothing is buffered for a client:
// each subscription reads on from where the client is, so one that reads
// slowly costs nothing, and one that does not read at all is dropped.

// A Subscription asks for one topic.
type Subscription struct {
	ID      string      `json:"id"`                // chosen by the client, repeated in each event
	Topic   string      `json:"topic"`             // job | replica | log | metric
	Job     string      `json:"job,omitempty"`     // topic job: this one alone; by id or name
	Run     mlaas.RunID `json:"run,omitempty"`     // the other topics
	Replica string      `json:"replica,omitempty"` // topics replica, log and metric: this one alone
	Grep    string      `json:"grep,omitempty"`    // topic log: lines that match (RE2)
	Tail    *int        `json:"tail,omitempty"`    // topic log: lines in the snapshot; 100 where not stated
	From    *int64      `json:"from,omitempty"`    // go on after this sequence number, without a snapshot
}

// A StreamEvent is what the server sends.
type StreamEvent struct {
	ID    string `json:"id"`
	Topic string `json:"topic"`
	// Type is snapshot, delta, synced (nothing older follows), reset (From is no
	// longer known: a snapshot follows), error (the subscription is over: Data
	// is a problem) or beat (nothing happened for 15 s).
	Type string `json:"type"`
	Seq  int64  `json:"seq"`
	Data any    `json:"data,omitempty"`
}

// fromClient is a message of a WebSocket client: one field is set.
type fromClient struct {
	Subscribe   *Subscription `json:"subscribe"`
	Unsubscribe string        `json:"unsubscribe"`
}

const (
	beatEvery   = 15 * time.Second
	writeWithin = 10 * time.Second // a client that takes nothing for so long is dropped
	maxTopics   = 64               // of one connection
	linesAtOnce = 500
)

type streamIn struct {
	Topic   string      `query:"topic" doc:"Without a WebSocket: job, replica, log or metric" example:"job"`
	Job     string      `query:"job" doc:"Topic job: this one alone"`
	Run     mlaas.RunID `query:"run" doc:"The other topics: the id of a run"`
	Replica string      `query:"replica" doc:"Topics replica, log and metric: this one alone" example:"worker-0"`
	Grep    string      `query:"grep" doc:"Topic log: lines that match this regular expression (RE2)"`
	Tail    *int        `query:"tail" minimum:"0" doc:"Topic log: lines in the snapshot; 100 where not said"`
	From    *int64      `query:"from" minimum:"0" doc:"Go on after this sequence number, without a snapshot"`
}

func (in *streamIn) subscription() Subscription {
	return Subscription{Topic: in.Topic, Job: in.Job, Run: in.Run, Replica: in.Replica, Grep: in.Grep, Tail: in.Tail, From: in.From}
}

// stream serves GET /api/stream. As a WebSocket the client sends
// {"subscribe": {...}} and {"unsubscribe": "id"}; without an upgrade the query
// (topic, job, run, replica, grep, tail, from) is the one subscription and the
// answer is NDJSON.
func (m *Management) stream(w http.ResponseWriter, r *http.Request, in *streamIn) error {
	if r.Header.Get("Upgrade") == "" {
		return m.streamLines(w, r, in.subscription())
	}
	// Cross-origin pages were refused before: see the middleware in routes.go.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // Accept has answered
	}
	defer c.CloseNow()
	c.SetReadLimit(64 << 10)
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	s := &streamer{m: m, tenant: tenantOf(ctx), stop: stop, live: map[string]context.CancelFunc{}}
	s.write = func(data []byte) error {
		ctx, done := context.WithTimeout(ctx, writeWithin)
		defer done()
		return c.Write(ctx, websocket.MessageText, data)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { s.beat(ctx) })
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			return nil
		}
		var in fromClient
		if err := json.Unmarshal(data, &in); err != nil || (in.Subscribe == nil) == (in.Unsubscribe == "") {
			s.send(StreamEvent{Type: "error", Data: problemOf(mlaas.Invalid("message", `{"subscribe": {...}} or {"unsubscribe": "id"}`, string(data)))})
			continue
		}
		if in.Unsubscribe != "" {
			s.end(in.Unsubscribe)
			continue
		}
		sub, ok := s.begin(ctx, *in.Subscribe)
		if ok {
			all.Go(func() { s.serve(sub, *in.Subscribe) })
		}
	}
}

func (m *Management) streamLines(w http.ResponseWriter, r *http.Request, sub Subscription) error {
	if err := sub.check(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	s := &streamer{m: m, tenant: tenantOf(ctx), stop: stop, live: map[string]context.CancelFunc{}}
	s.write = func(data []byte) error {
		flush.SetWriteDeadline(time.Now().Add(writeWithin)) // where it cannot be set, the server's own holds
		if _, err := w.Write(append(data, '\n')); err != nil {
			return err
		}
		return flush.Flush()
	}
	var all sync.WaitGroup
	all.Go(func() { s.beat(ctx) })
	s.serve(ctx, sub)
	stop()
	all.Wait()
	return nil
}

func (s Subscription) check() error {
	switch s.Topic {
	case "job":
		return nil
	case "replica", "log", "metric":
		if s.Run == "" {
			return mlaas.Invalid("run", "the id of a run", s.Run)
		}
	default:
		return mlaas.Invalid("topic", "job, replica, log or metric", s.Topic)
	}
	if _, err := regexp.Compile(s.Grep); err != nil {
		return mlaas.Invalid("grep", "a regular expression (RE2): "+err.Error(), s.Grep)
	}
	return nil
}

// A streamer is one connection.
type streamer struct {
	m      *Management
	tenant mlaas.Tenant
	stop   context.CancelFunc
	write  func([]byte) error

	mu   sync.Mutex // of write and what follows
	last time.Time  // when something was written
	live map[string]context.CancelFunc
}

func (s *streamer) begin(ctx context.Context, sub Subscription) (context.Context, bool) {
	err := sub.check()
	s.mu.Lock()
	if _, twice := s.live[sub.ID]; twice && err == nil {
		err = mlaas.Invalid("id", "an id that no other subscription of this connection has", sub.ID)
	}
	if len(s.live) >= maxTopics && err == nil {
		err = fmt.Errorf("at most %d subscriptions on one connection: %w", maxTopics, mlaas.ErrTooMany)
	}
	if err != nil {
		s.mu.Unlock()
		s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "error", Data: problemOf(err)})
		return nil, false
	}
	own, end := context.WithCancel(ctx)
	s.live[sub.ID] = end
	s.mu.Unlock()
	return own, true
}

func (s *streamer) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := s.live[id]; end != nil {
		end()
		delete(s.live, id)
	}
}

// send writes one event; a client that does not take it loses its connection.
func (s *streamer) send(e StreamEvent) bool {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // our own types always encode
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.write(data); err != nil {
		s.stop()
		return false
	}
	s.last = s.m.now()
	return true
}

func (s *streamer) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			quiet := s.m.now().Sub(s.last) >= beatEvery
			s.mu.Unlock()
			if quiet && !s.send(StreamEvent{Type: "beat"}) {
				return
			}
		}
	}
}

// serve runs one subscription until ctx ends.
func (s *streamer) serve(ctx context.Context, sub Subscription) {
	defer s.end(sub.ID)
	var err error
	switch sub.Topic {
	case "job":
		err = s.jobs(ctx, sub)
	case "replica":
		err = s.replicas(ctx, sub)
	case "log":
		err = s.lines(ctx, sub)
	case "metric":
		err = s.points(ctx, sub)
	}
	if err != nil && ctx.Err() == nil {
		s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "error", Data: problemOf(err)})
	}
}

// A JobEvent is what the topic job tells: where a job and its newest run stand.
type JobEvent struct {
	Job     mlaas.JobID      `json:"job"`
	Name    string           `json:"name"`
	Status  *mlaas.JobStatus `json:"status,omitempty"`
	Deleted bool             `json:"deleted,omitempty"`
}

func (s *streamer) jobs(ctx context.Context, sub Subscription) error {
	var only mlaas.JobID
	if sub.Job != "" {
		j, err := s.m.findJob(ctx, s.tenant, sub.Job)
		if err != nil {
			return err
		}
		only = j.ID
	}
	told := map[mlaas.JobID]JobEvent{} // what the client knows: the same is not said twice
	tell := func(id mlaas.JobID) (JobEvent, bool, error) {
		if only != "" && id != only {
			return JobEvent{}, false, nil
		}
		e, err := s.m.jobEvent(ctx, s.tenant, id)
		if err != nil {
			return e, false, err
		}
		if old, known := told[id]; known && reflect.DeepEqual(old, e) {
			return e, false, nil
		}
		told[id] = e
		return e, true, nil
	}
	return s.watch(ctx, sub, []string{"job", "run", "runstate"}, func(rows []store.Row) (any, error) {
		events := []JobEvent{}
		for _, row := range rows {
			id, err := s.m.jobOf(row)
			if err != nil {
				return nil, err
			}
			if id == "" {
				continue
			}
			e, news, err := tell(id)
			if err != nil {
				return nil, err
			}
			if news {
				events = append(events, e)
			}
		}
		return events, nil
	})
}

func (s *streamer) replicas(ctx context.Context, sub Subscription) error {
	if _, _, err := store.Runs(s.m.DB).Get(ctx, s.tenant, string(sub.Run)); err != nil {
		return err
	}
	records := store.Replicas(s.m.DB)
	return s.watch(ctx, sub, []string{"replica"}, func(rows []store.Row) (any, error) {
		events := []mlaas.Replica{}
		for _, row := range rows {
			r, err := records.Decode(row)
			if err != nil {
				return nil, err
			}
			if r.Run == sub.Run && (sub.Replica == "" || r.Fence.Replica == sub.Replica) {
				events = append(events, r)
			}
		}
		return events, nil
	})
}

// watch turns changes of records into events. What is there before Synced is
// the snapshot; each change after it is a delta. turn gives the data for rows,
// a slice; an empty one is not sent, except as a snapshot.
func (s *streamer) watch(ctx context.Context, sub Subscription, kinds []string, turn func([]store.Row) (any, error)) error {
	from := int64(0)
	if sub.From != nil {
		from = *sub.From
	}
	changes := make(chan store.Change)
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	start := func(from int64) {
		go func() { ended <- s.m.DB.Watch(ctx, from, kinds, changes) }()
	}
	start(from)
	var before []store.Row
	synced := from > 0
	event := func(kind string, seq int64, rows []store.Row) error {
		data, err := turn(rows)
		if err != nil {
			return err
		}
		if kind == "delta" && reflect.ValueOf(data).Len() == 0 {
			return nil
		}
		if !s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: kind, Seq: seq, Data: data}) {
			return ctx.Err()
		}
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			if errors.Is(err, mlaas.ErrGone) && from > 0 {
				s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "reset"})
				from, synced = 0, false
				start(0)
				continue
			}
			return err
		case c := <-changes:
			switch {
			case c.Row.Key.Kind != "" && c.Row.Key.Tenant != s.tenant:
			case c.Synced && !synced:
				synced = true
				if err := event("snapshot", c.Seq, before); err != nil {
					return err
				}
				before = nil
			case c.Synced:
				s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "synced", Seq: c.Seq})
			case !synced:
				before = append(before, c.Row)
			case !c.Deleted:
				if err := event("delta", c.Seq, []store.Row{c.Row}); err != nil {
					return err
				}
			}
		}
	}
}

func (s *streamer) lines(ctx context.Context, sub Subscription) error {
	if _, _, err := store.Runs(s.m.DB).Get(ctx, s.tenant, string(sub.Run)); err != nil {
		return err
	}
	var grep *regexp.Regexp
	if sub.Grep != "" {
		grep = regexp.MustCompile(sub.Grep) // check has compiled it
	}
	q := series.LineQuery{Tenant: s.tenant, Run: sub.Run, Replica: sub.Replica, Grep: grep, Limit: linesAtOnce}
	number := func(l series.Line) int64 {
		if sub.Replica != "" {
			return l.Seq
		}
		return l.Cursor
	}
	last := func() int64 {
		if sub.Replica != "" {
			return s.m.Series.LastSeq(s.tenant, sub.Run, sub.Replica)
		}
		end, _ := s.m.Series.LastCursor(s.tenant, sub.Run)
		return end
	}
	if sub.From != nil {
		q.From = *sub.From + 1
	} else {
		tail := 100
		if sub.Tail != nil {
			tail = *sub.Tail
		}
		at, lines := last(), []series.Line{}
		if tail > 0 && at > 0 {
			var err error
			if lines, err = s.m.Series.Lines(ctx, series.LineQuery{Tenant: s.tenant, Run: sub.Run, Replica: sub.Replica, Grep: grep, Last: min(tail, 10_000)}); err != nil {
				return err
			}
		}
		if n := len(lines); n > 0 {
			at = max(at, number(lines[n-1]))
		}
		if !s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "snapshot", Seq: at, Data: lines}) {
			return nil
		}
		q.From = at + 1
	}
	for {
		changed := s.m.Series.Changed(s.tenant, sub.Run) // before reading: what comes meanwhile wakes us
		end := last()
		for q.From <= end {
			lines, err := s.m.Series.Lines(ctx, q)
			if err != nil {
				return err
			}
			if len(lines) == 0 {
				q.From = end + 1 // nothing up to here matches
				break
			}
			q.From = number(lines[len(lines)-1]) + 1
			if !s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "delta", Seq: q.From - 1, Data: lines}) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (s *streamer) points(ctx context.Context, sub Subscription) error {
	if _, _, err := store.Runs(s.m.DB).Get(ctx, s.tenant, string(sub.Run)); err != nil {
		return err
	}
	var from int64
	if sub.From != nil {
		from = *sub.From + 1
	} else {
		_, at := s.m.Series.LastCursor(s.tenant, sub.Run) // before reading the curves: a point may be in both, under one step
		curves, err := s.m.Series.Points(ctx, series.PointQuery{Tenant: s.tenant, Run: sub.Run, Replica: sub.Replica, Buckets: 500})
		if err != nil {
			return err
		}
		if !s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "snapshot", Seq: at, Data: curvesOut(curves)}) {
			return nil
		}
		from = at + 1
	}
	for {
		changed := s.m.Series.Changed(s.tenant, sub.Run)
		for {
			points, err := s.m.Series.RunPoints(ctx, s.tenant, sub.Run, from, linesAtOnce)
			if err != nil {
				return err
			}
			if len(points) == 0 {
				break
			}
			from = points[len(points)-1].Cursor + 1
			mine := points[:0]
			for _, p := range points {
				if sub.Replica == "" || p.Replica == sub.Replica {
					mine = append(mine, p)
				}
			}
			if len(mine) > 0 && !s.send(StreamEvent{ID: sub.ID, Topic: sub.Topic, Type: "delta", Seq: from - 1, Data: mine}) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// jobOf is the job that a row of kind job, run or runstate belongs to.
func (m *Management) jobOf(row store.Row) (mlaas.JobID, error) {
	if row.Key.Kind == "job" {
		return mlaas.JobID(row.Key.ID), nil
	}
	var of struct {
		Job mlaas.JobID `json:"job"`
	}
	err := json.Unmarshal(row.Data, &of)
	return of.Job, err
}

// jobEvent tells where a job stands now.
func (m *Management) jobEvent(ctx context.Context, tenant mlaas.Tenant, id mlaas.JobID) (JobEvent, error) {
	j, _, err := store.Jobs(m.DB).Get(ctx, tenant, string(id))
	if errors.Is(err, mlaas.ErrNotFound) {
		return JobEvent{Job: id, Deleted: true}, nil
	}
	if err != nil {
		return JobEvent{}, err
	}
	status, err := m.statusOf(ctx, j)
	return JobEvent{Job: id, Name: j.Name, Status: &status, Deleted: j.Deleted != nil}, err
}
