package series

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
)

const (
	maxKey   = 512      // bytes of a metric name
	maxGroup = 16 << 20 // bytes that one fsync makes durable
)

// Append stores the batches and returns when they are durable; all that are
// appended at the same time share one fsync. What an incarnation has delivered
// before, by its spool numbers, is dropped. A frame that begins behind what is
// expected next is mlaas.ErrConflict, and so are those of that stream after
// it. An error of one batch does not keep the others from being stored, and
// all may be appended again after any error. It is mlaas.ErrDisk if there is
// no room.
//
// Text becomes valid UTF-8 and is cut at mlaas.MaxLine. Points with a name
// beyond MaxKeys, or with one that is empty or longer than 512 bytes, are
// counted and dropped.
func (s *Store) Append(ctx context.Context, batches ...Batch) error {
	req := &request{turn: make(chan bool, 1)}
	for i := range batches {
		if err := req.add(&batches[i]); err != nil {
			req.err = errors.Join(req.err, err)
		}
	}
	for _, p := range req.pieces {
		if n := len(req.held); n > 0 && req.held[n-1].key == p.key {
			continue
		}
		r, release, err := s.find(ctx, p.key, toAppend, p.fence.Epoch)
		if err != nil {
			p.err = err
			req.err = errors.Join(req.err, err)
			continue
		}
		req.held = append(req.held, r)
		defer release()
	}
	req.pieces = slices.DeleteFunc(req.pieces, func(p *piece) bool { return p.err != nil })
	if len(req.pieces) == 0 {
		return req.err
	}
	if err := s.room(ctx); err != nil {
		return errors.Join(req.err, err)
	}
	return s.submit(ctx, req)
}

// room helps sealing if it is behind, so that what waits for it is bounded.
func (s *Store) room(ctx context.Context) error {
	for {
		s.mu.Lock()
		behind := len(s.full) > s.maxFull()
		s.mu.Unlock()
		if !behind {
			return nil
		}
		if _, err := s.sealOldest(ctx); err != nil {
			return err
		}
	}
}

// A request is what one caller waits for.
type request struct {
	pieces []*piece
	held   []*run
	forget *run      // instead of pieces
	turn   chan bool // true: lead the queue; false: it is done
	err    error
}

// A piece is a frame, or a part of a long one, that becomes one record.
type piece struct {
	key    key
	fence  mlaas.Fence
	kind   byte
	first  int64
	items  int64
	raw    []mlaas.LogLine // as they came
	points []mlaas.Point
	body   []byte
	n      int64
	keys   []string
	err    error
}

// add prepares a batch: what needs no lock is done here, by each caller.
func (req *request) add(b *Batch) error {
	f := &b.Frame
	p := piece{key: key{b.Fence.Tenant, b.Fence.Run}, fence: b.Fence, first: f.First}
	if err := checkKey(p.key); err != nil {
		return err
	}
	if !safeName(b.Fence.Replica) {
		return mlaas.Invalid("replica", `a name such as "worker-0"`, b.Fence.Replica)
	}
	if f.First < 1 {
		return mlaas.Invalid("first", "1 or more", f.First)
	}
	switch {
	case f.Stream == mlaas.LogStream && len(f.Points) == 0:
		p.kind = kindLines
		for i := range f.Lines {
			if _, ok := streamByte(f.Lines[i].Stream); !ok {
				return mlaas.Invalid("stream", "stdout, stderr or platform", f.Lines[i].Stream)
			}
			if f.Lines[i].Part < 0 {
				return mlaas.Invalid("part", "0 or more", f.Lines[i].Part)
			}
		}
		p.raw = f.Lines
	case f.Stream == mlaas.MetricStream && len(f.Lines) == 0:
		p.kind, p.points = kindPoints, f.Points
	default:
		return mlaas.Invalid("stream", "log with lines or metric with points", f.Stream)
	}
	for p.len() > 0 {
		p.body, p.keys = nil, nil
		rest := p.fill()
		if p.items > 0 {
			done := p
			req.pieces = append(req.pieces, &done)
		}
		p.first += p.items
		p.raw, p.points = rest.raw, rest.points
	}
	return nil
}

func (p *piece) len() int { return len(p.raw) + len(p.points) }

// fill makes the body of p of as much as belongs into one record, and returns
// what is left.
func (p *piece) fill() (rest piece) {
	if p.kind == kindLines {
		var lines []mlaas.LogLine
		size, n := 0, 0
		for n < len(p.raw) && (n == 0 || size+len(p.raw[n].Text) < maxBody) {
			size += len(p.raw[n].Text) + 16
			lines = cutLine(lines, p.raw[n])
			n++
		}
		p.body, p.n = appendLines(make([]byte, 0, size+256), lines), int64(len(lines))
		rest.raw, p.raw, p.items = p.raw[n:], p.raw[:n], int64(n)
		return rest
	}
	size, n := 0, 0
	for n < len(p.points) && (n == 0 || size+len(p.points[n].Key) < maxBody) {
		size += len(p.points[n].Key) + 32
		n++
	}
	rest.points, p.points, p.items = p.points[n:], p.points[:n], int64(n)
	p.body, p.keys = appendPoints(make([]byte, 0, n*14+256), p.points)
	p.n = int64(n)
	return rest
}

// cutLine appends l as lines that may be stored.
func cutLine(lines []mlaas.LogLine, l mlaas.LogLine) []mlaas.LogLine {
	if len(l.Text) > maxLen/4 { // far beyond what a supervisor sends: the rest of it is not worth a refusal
		l.Text = l.Text[:maxLen/4]
	}
	if !utf8.ValidString(l.Text) {
		l.Text = strings.ToValidUTF8(l.Text, "\uFFFD")
	}
	if len(l.Text) <= mlaas.MaxLine {
		return append(lines, l)
	}
	part, text := max(l.Part, 1), l.Text
	for text != "" {
		l.Part = part
		l.Text, text = cutText(text)
		lines = append(lines, l)
		part++
	}
	return lines
}

// A queue lets one of those who wait work for all.
type queue struct {
	mu      sync.Mutex
	leading bool
	waiting []*request
	hurry   chan struct{} // not nil: who leads gathers; closed when it is time
	room    int64         // how much more may gather until then
}

// join puts req behind those who wait. The caller holds mu.
func (q *queue) join(req *request) {
	q.waiting = append(q.waiting, req)
	if q.room -= req.weight(); q.hurry != nil && (q.room < 0 || req.empty() || req.forget != nil) {
		close(q.hurry)
		q.hurry = nil
	}
}

// exclusively calls f while nobody leads.
func (q *queue) exclusively(f func()) {
	req := &request{turn: make(chan bool, 1)}
	q.mu.Lock()
	lead := !q.leading
	q.leading = true
	if !lead {
		q.join(req)
	}
	q.mu.Unlock()
	if !lead {
		<-req.turn // collect leaves it in the queue, so this is the lead
	}
	f()
	q.next()
}

// next hands the lead to the first who waits.
func (q *queue) next() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leading = len(q.waiting) > 0; q.leading {
		req := q.waiting[0]
		q.waiting = q.waiting[1:]
		req.turn <- true
	}
}

// empty reports whether req only wants the lead.
func (req *request) empty() bool { return len(req.pieces) == 0 && req.forget == nil }

// collect takes those who wait and can share the fsync of the leader.
func (q *queue) collect(lead *request) []*request {
	group := []*request{lead}
	if lead.forget != nil {
		return group
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	size := lead.size()
	for len(q.waiting) > 0 {
		req := q.waiting[0]
		if size += req.size(); req.empty() || req.forget != nil || size > maxGroup {
			break
		}
		group = append(group, req)
		q.waiting = q.waiting[1:]
	}
	return group
}

func (req *request) size() (n int) {
	for _, p := range req.pieces {
		n += len(p.body) + 200
	}
	return n
}

// weight is how much of GatherBytes req takes: who sends many pieces is not to
// wait either, however small they are.
func (req *request) weight() int64 { return int64(req.size() + len(req.pieces)<<13) }

// leave takes req out of those who wait; it is too late if someone works on it.
func (q *queue) leave(req *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, req)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

// submit returns when req is done, by this goroutine or by another.
func (s *Store) submit(ctx context.Context, req *request) error {
	q := &s.queue
	q.mu.Lock()
	lead := !q.leading
	q.leading = true
	if !lead {
		q.join(req)
	}
	q.mu.Unlock()
	if !lead {
		select {
		case lead = <-req.turn:
		case <-ctx.Done():
			if q.leave(req) {
				return errors.Join(req.err, ctx.Err())
			}
			lead = <-req.turn
		}
	}
	if !lead {
		return req.err
	}
	if err := s.gather(ctx, req); err != nil {
		q.next()
		return errors.Join(req.err, err)
	}
	group := q.collect(req)
	if err := s.commit(group); err != nil {
		for _, r := range group {
			r.err = errors.Join(r.err, err)
		}
	}
	for _, r := range group[1:] {
		r.turn <- false
	}
	q.next()
	return req.err
}

// gather lets others join the leader of the queue, where what is written next
// is an object and the last one was begun just now: many small ones cost more
// than they are worth. The first after a while goes at once.
func (s *Store) gather(ctx context.Context, req *request) error {
	wait := s.every() - time.Since(s.wrote)
	if s.wrote.IsZero() || wait <= 0 || req.forget != nil || !s.news(req) {
		return nil
	}
	q := &s.queue
	q.mu.Lock()
	q.room = s.gatherBytes() - req.weight()
	for _, other := range q.waiting {
		if q.room -= other.weight(); other.empty() || other.forget != nil {
			q.room = -1
		}
	}
	hurry := make(chan struct{})
	if q.hurry = hurry; q.room < 0 {
		q.hurry = nil
		close(hurry)
	}
	q.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-hurry:
	case <-timer.C:
	case <-ctx.Done():
	}
	q.mu.Lock()
	q.hurry = nil
	q.mu.Unlock()
	return ctx.Err()
}

// news reports whether req has anything that is not here already.
func (s *Store) news(req *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(req.pieces, func(p *piece) bool {
		r := s.runs[p.key]
		return r != nil && p.first+p.items-1 > r.fences[tellerOf(p.fence)].of(p.kind)
	})
}

// A plan is what a group will have changed once it is durable.
type plan struct {
	s      *Store
	buffer []byte
	steps  []step
	runs   map[*run]*ahead
}

type step struct {
	run    *run
	span   span
	offset int
	size   int
	points []mlaas.Point
}

// ahead is a run as it will be.
type ahead struct {
	lines, points int64
	seqs          map[string]int64
	fences        map[teller]marks
	keys          map[string]struct{} // new ones
	told          bool
}

// commit makes a group durable: one write, one fsync. Only the leader calls it,
// so nobody else changes what a plan is made from.
func (s *Store) commit(group []*request) error {
	p := &plan{s: s, runs: map[*run]*ahead{}}
	s.mu.Lock()
	for _, req := range group {
		if req.forget != nil {
			k := req.forget.key
			p.buffer = appendRecord(p.buffer, func(b []byte) []byte {
				return appendString(appendString(append(b, kindForget), string(k.tenant)), string(k.run))
			})
			continue
		}
		for _, piece := range req.pieces {
			if err := p.add(s.runs[piece.key], piece); err != nil {
				req.err = errors.Join(req.err, err)
			}
		}
	}
	g := s.active
	s.mu.Unlock()
	if len(p.buffer) == 0 {
		return nil // all of it was here before
	}
	var err error
	if g == nil {
		if g, err = s.medium.begin(); err != nil {
			return err
		}
		s.mu.Lock()
		s.active = g
		s.mu.Unlock()
	}
	failpoint.Hit("series.append.before")
	if err := s.medium.write(g, p.buffer); err != nil {
		return fmt.Errorf("append to a segment: %w", err)
	}
	failpoint.Hit("series.append.after")
	s.mu.Lock()
	defer s.mu.Unlock()
	if !g.holds() {
		s.nudge() // from now on time alone seals it
	}
	for i := range p.steps {
		t := &p.steps[i]
		t.run.take(g, &t.span, g.size+int64(t.offset), t.size, t.points)
		if s.tolerant {
			t.run.lived[tellerOf(t.span.fence)] = true
		}
	}
	for _, req := range group {
		if req.forget != nil {
			s.drop(req.forget)
			s.changed(req.forget.key)
		}
	}
	for r := range p.runs {
		s.changed(r.key)
	}
	g.size += int64(len(p.buffer))
	s.unsealed.Add(int64(len(p.buffer)))
	s.appended = s.now()
	if g.size >= s.segmentBytes() || s.medium.crowded(g) {
		s.retire(g)
	}
	return nil
}

// add plans the record of a piece, or nothing if it is here already. The
// caller holds mu.
func (p *plan) add(r *run, c *piece) error {
	if r == nil || !r.ours || r.leaving {
		return fmt.Errorf("run %s was handed over: %w", c.key.run, mlaas.ErrStale)
	}
	a := p.runs[r]
	if a == nil {
		a = &ahead{lines: r.Lines, points: r.Points, told: r.told, seqs: map[string]int64{}, fences: map[teller]marks{}, keys: map[string]struct{}{}}
		p.runs[r] = a
	}
	who := tellerOf(c.fence)
	at, ok := a.fences[who]
	if !ok {
		at, ok = r.fences[who], r.lived[who]
	}
	last := at.of(c.kind)
	end := c.first + c.items - 1
	switch {
	case end <= last:
		return nil
	case c.first > last+1 && (ok || !p.s.tolerant):
		return fmt.Errorf("replica %s of run %s sent %d of its %s where %d is next: %w",
			c.fence.Replica, c.fence.Run, c.first, streamOf(c.kind), last+1, mlaas.ErrConflict)
	case c.first <= last:
		c = c.from(last + 1)
	}
	if c.kind == kindLines {
		seq, ok := a.seqs[c.fence.Replica]
		if !ok {
			seq = r.seqs[c.fence.Replica]
		}
		p.record(r, c, span{kind: c.kind, fence: c.fence, first: c.first, items: c.items, cursor: a.lines + 1, seq: seq + 1, n: c.n, body: c.body})
		a.lines += c.n
		a.seqs[c.fence.Replica] = seq + c.n
		at.log = end
	} else {
		items := c.items
		refused := p.allow(r, a, c)
		p.record(r, c, span{kind: c.kind, fence: c.fence, first: c.first, items: items, cursor: a.points + 1, n: c.n, body: c.body})
		a.points += c.n
		at.metric = end
		if refused != "" && !a.told {
			a.told = true
			p.tell(r, a, c.fence, fmt.Sprintf("Metric %.60q and others are not kept: a run keeps %d names of 1 to %d bytes.", refused, p.s.maxKeys(), maxKey))
		}
	}
	a.fences[who] = at
	return nil
}

func streamOf(kind byte) string {
	if kind == kindLines {
		return mlaas.LogStream
	}
	return mlaas.MetricStream
}

// from is p without what comes before the spool number first.
func (p *piece) from(first int64) *piece {
	skip := first - p.first
	rest := &piece{key: p.key, fence: p.fence, kind: p.kind, first: first}
	if p.kind == kindLines {
		rest.raw = p.raw[skip:]
	} else {
		rest.points = p.points[skip:]
	}
	rest.fill()
	return rest
}

// allow takes the points out of c whose names a run may not have, and returns
// one of those names.
func (p *plan) allow(r *run, a *ahead, c *piece) (refused string) {
	bad := map[string]bool{}
	for _, k := range c.keys {
		if _, ok := r.keys[k]; ok {
			continue
		}
		if _, ok := a.keys[k]; ok {
			continue
		}
		if k == "" || len(k) > maxKey || !utf8.ValidString(k) || len(r.keys)+len(a.keys) >= p.s.maxKeys() {
			bad[k], refused = true, k
			if k == "" {
				refused = " "
			}
			continue
		}
		a.keys[k] = struct{}{}
	}
	if len(bad) == 0 {
		return ""
	}
	kept := slices.DeleteFunc(slices.Clone(c.points), func(v mlaas.Point) bool { return bad[v.Key] })
	c.points = kept
	c.body, c.keys = appendPoints(nil, kept)
	c.n = int64(len(kept))
	return refused
}

// tell plans a line of our own.
func (p *plan) tell(r *run, a *ahead, fence mlaas.Fence, text string) {
	seq, ok := a.seqs[fence.Replica]
	if !ok {
		seq = r.seqs[fence.Replica]
	}
	body := appendLines(nil, []mlaas.LogLine{{Time: p.s.now().Round(time.Microsecond), Stream: "platform", Text: text}})
	p.record(r, nil, span{kind: kindLines, fence: fence, cursor: a.lines + 1, seq: seq + 1, n: 1, body: body})
	a.lines++
	a.seqs[fence.Replica] = seq + 1
}

// record appends a span to what will be written.
func (p *plan) record(r *run, c *piece, sp span) {
	at := len(p.buffer)
	p.buffer = appendRecord(p.buffer, sp.append)
	t := step{run: r, span: sp, offset: at, size: len(p.buffer) - at}
	if sp.kind == kindPoints {
		t.points = c.points
	}
	p.steps = append(p.steps, t)
}
