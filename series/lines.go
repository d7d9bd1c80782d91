package series

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"time"

	"mlaas.dev/mlaas"
)

const (
	defaultLimit = 1000
	maxLimit     = 10_000
)

func limitOf(n int) int {
	if n <= 0 {
		return defaultLimit
	}
	return min(n, maxLimit)
}

// A view is what a run has, at one moment. What it names can be gone when it
// is read, because it was sealed meanwhile: then another view is taken.
type view struct {
	chunks []chunk
	parts  []*part     // of which only seg is read
	lists  [][]mention // of parts
	last   int64       // the newest number that was given
}

// errMoved says that a view is too old.
var errMoved = fmt.Errorf("it was sealed meanwhile: %w", mlaas.ErrUnavailable)

func moved(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, mlaas.ErrNotFound) {
		return errMoved
	}
	return err
}

// fresh calls f with views until what they name is there. At last what is not
// there counts as damaged.
func fresh(view func(), f func(lenient bool) error) error {
	const tries = 5
	for i := range tries {
		view()
		if err := f(i == tries-1); !errors.Is(err, errMoved) {
			return err
		}
	}
	return errMoved
}

// Lines returns the lines that q asks for, oldest first. A run that is not
// known has none.
func (s *Store) Lines(ctx context.Context, q LineQuery) (lines []Line, err error) {
	r, release, err := s.find(ctx, key{q.Tenant, q.Run}, toRead, 0)
	if err != nil {
		return nil, err
	}
	defer release()
	var v view
	err = fresh(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		v = view{chunks: r.Logs, last: r.Lines}
		if q.Replica != "" {
			v.last = r.seqs[q.Replica]
		}
		for _, p := range r.parts {
			v.parts, v.lists = append(v.parts, p), append(v.lists, p.lines)
		}
	}, func(lenient bool) error {
		look := lookup{s: s, ctx: ctx, q: q, view: v, lenient: lenient}
		if q.Last > 0 {
			lines, err = look.backward()
		} else {
			lines, err = look.forward()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lines of run %s: %w", q.Run, err)
	}
	return lines, nil
}

// A lookup answers one query from one view.
type lookup struct {
	s       *Store
	ctx     context.Context
	q       LineQuery
	view    view
	lenient bool
}

// numbers are the first and last number of what is asked for in a stretch of
// lines: cursors, or the Seq of one replica. It is not ok if there is none.
func (l *lookup) numbers(first, last int64, seqs map[string][2]int64) (from, to int64, ok bool) {
	if l.q.Replica == "" {
		return first, last, true
	}
	at, ok := seqs[l.q.Replica]
	return at[0], at[1], ok
}

func (l *lookup) numbersOf(m mention) (from, to int64, ok bool) {
	if l.q.Replica == "" {
		return m.cursor, m.last(), true
	}
	return m.seq, m.seq + int64(m.n) - 1, m.replica == l.q.Replica
}

// number is where a line stands in what is asked for.
func (l *lookup) number(line *Line) int64 {
	if l.q.Replica == "" {
		return line.Cursor
	}
	return line.Seq
}

// chunk calls f with the spans of a chunk that have what is asked for, in
// blocks that want accepts.
func (l *lookup) chunk(c chunk, want func(from, to int64) bool, f func(span) error) error {
	if from, to, ok := l.numbers(c.First, c.Last, c.Seqs); !ok || !want(from, to) || !l.q.meets(c.time()) {
		return nil
	}
	err := l.s.eachLineBlock(l.ctx, c, func(e lineEntry) bool {
		from, to, ok := l.numbers(e.first, e.last, e.seqs)
		return ok && want(from, to) && l.q.meets(e.time)
	}, f)
	return l.damaged(err)
}

// damaged reports what cannot be read for good, and lets the rest be read.
func (l *lookup) damaged(err error) error {
	_, broken := errors.AsType[*damage](err)
	if broken || l.lenient && errors.Is(moved(err), errMoved) {
		l.s.log().Error("series: lines cannot be read and are left out", "run", l.q.Run, "error", err)
		return nil
	}
	return moved(err)
}

// eachLineBlock calls f with the spans of the blocks that want accepts.
// Damaged blocks are passed over, and reported when the others are read.
func (s *Store) eachLineBlock(ctx context.Context, c chunk, want func(lineEntry) bool, f func(span) error) error {
	x, err := indexOf(ctx, s, c, readLineIndex)
	if err != nil {
		return err
	}
	var lost error
	for _, e := range x.blocks {
		if !want(e) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		raw, err := s.block(ctx, c, e.offset, e.size)
		if err == nil {
			err = eachSpan(raw, f)
		}
		if _, broken := errors.AsType[*damage](err); broken {
			lost = err
			continue
		}
		if err != nil {
			return err
		}
	}
	return lost
}

var errEnough = errors.New("enough")

// lines calls f with the lines of a span that are asked for; matched says
// whether it is one that matches.
func (l *lookup) lines(sp span, f func(line *Line, matched bool) error) error {
	if l.q.Replica != "" && sp.fence.Replica != l.q.Replica {
		return nil
	}
	var failed error
	err := sp.eachLine(func(i int64, text []byte, rest func() mlaas.LogLine) bool {
		line := Line{Cursor: sp.cursor + i, Seq: sp.seq + i, Replica: sp.fence.Replica, Attempt: sp.fence.Epoch}
		matched := l.q.Grep == nil || l.q.Grep.Match(text)
		if matched {
			line.LogLine = rest()
			matched = l.q.of(&line) && l.q.within(line.Time)
		}
		failed = f(&line, matched)
		return failed == nil
	})
	return errors.Join(failed, err)
}

func (l *lookup) forward() (lines []Line, err error) {
	limit, next := limitOf(l.q.Limit), max(l.q.From, 1)
	take := func(line *Line, matched bool) error {
		n := l.number(line)
		if n < next {
			return nil
		}
		if n > next && l.q.any() {
			lines = append(lines, l.missing(next, n-1, line.Time))
			next = n
			if len(lines) == limit {
				return errEnough
			}
		}
		next = n + 1
		if matched {
			if lines = append(lines, *line); len(lines) == limit {
				return errEnough
			}
		}
		return nil
	}
	spans := func(sp span) error {
		end := sp.cursor + sp.n - 1
		if l.q.Replica != "" {
			end = sp.seq + sp.n - 1
		}
		if end < next {
			return nil
		}
		return l.lines(sp, take)
	}
	err = l.all(func(_, to int64) bool { return to >= next }, spans)
	switch {
	case errors.Is(err, errEnough):
		return lines, nil
	case err != nil:
		return nil, err
	}
	if next <= l.view.last && l.q.any() {
		at := time.Time{}
		if n := len(lines); n > 0 {
			at = lines[n-1].Time
		}
		lines = append(lines, l.missing(next, l.view.last, at))
	}
	return lines, nil
}

// all calls f with the spans in stretches that want accepts, oldest first.
func (l *lookup) all(want func(from, to int64) bool, f func(span) error) error {
	for _, c := range l.view.chunks {
		if err := l.chunk(c, want, f); err != nil {
			return err
		}
	}
	for i, p := range l.view.parts {
		list := l.view.lists[i]
		if l.q.Replica == "" {
			list = list[sort.Search(len(list), func(i int) bool { return want(list[i].cursor, list[i].last()) }):]
		}
		for _, m := range list {
			if from, to, ok := l.numbersOf(m); !ok || !want(from, to) || !l.q.meets(m.time) {
				continue
			}
			if err := l.mention(p.seg, m, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lookup) mention(g *segment, m mention, f func(span) error) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	sp, err := g.read(m)
	if errors.Is(err, mlaas.ErrInternal) {
		l.s.log().Error("series: lines cannot be read and are left out", "run", l.q.Run, "error", err)
		return nil
	}
	if err != nil {
		return moved(err)
	}
	return f(sp)
}

// missing is the line in place of those that are not here any more.
func (l *lookup) missing(from, to int64, at time.Time) Line {
	line := Line{Replica: l.q.Replica, LogLine: mlaas.LogLine{Time: at, Stream: "platform"}}
	if l.q.Replica == "" {
		line.Cursor = to
	} else {
		line.Seq = to
	}
	what := fmt.Sprintf("%d lines are", to-from+1)
	if to == from {
		what = "1 line is"
	}
	line.Text = fmt.Sprintf("%s not here any more: a run keeps %s of log, old runs make room for new ones, and a damaged disk loses some.", what, mlaas.Bytes(l.s.logBytes()))
	return line
}

// backward finds the last lines that match, newest first, and turns them.
func (l *lookup) backward() ([]Line, error) {
	most := min(l.q.Last, maxLimit)
	var found []Line // newest first, with those of the other kind, which are there and not asked for
	n := 0
	spans := func(list []span) error {
		for _, sp := range slices.Backward(list) {
			var some []Line
			err := l.lines(sp, func(line *Line, matched bool) error {
				if matched || l.q.any() {
					some = append(some, *line)
				}
				return nil
			})
			if err != nil {
				return err
			}
			for _, line := range slices.Backward(some) {
				if l.q.of(&line) {
					n++
				} else {
					line.Text = ""
				}
				found = append(found, line)
				if n == most {
					return errEnough
				}
			}
		}
		return nil
	}
	err := l.allBackward(spans)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	slices.Reverse(found)
	if !l.q.any() {
		return found, nil
	}
	// Say what is missing between them, behind them, and before them if these
	// are all there are.
	out := make([]Line, 0, len(found)+2)
	next := int64(1)
	if err != nil {
		next = math.MaxInt64 // there is more before
	}
	for i := range found {
		n := l.number(&found[i])
		if n > next {
			out = append(out, l.missing(next, n-1, found[i].Time))
		}
		if l.q.of(&found[i]) {
			out = append(out, found[i])
		}
		next = n + 1
	}
	if next <= l.view.last {
		at := time.Time{}
		if n := len(out); n > 0 {
			at = out[n-1].Time
		}
		out = append(out, l.missing(next, l.view.last, at))
	}
	return out, nil
}

// allBackward calls f with some spans at a time, the newest first.
func (l *lookup) allBackward(f func([]span) error) error {
	for i, p := range slices.Backward(l.view.parts) {
		for _, m := range slices.Backward(l.view.lists[i]) {
			if _, _, ok := l.numbersOf(m); !ok || !l.q.meets(m.time) {
				continue
			}
			if err := l.mention(p.seg, m, func(sp span) error { return f([]span{sp}) }); err != nil {
				return err
			}
		}
	}
	for _, c := range slices.Backward(l.view.chunks) {
		if _, _, ok := l.numbers(c.First, c.Last, c.Seqs); !ok || !l.q.meets(c.time()) {
			continue
		}
		x, err := indexOf(l.ctx, l.s, c, readLineIndex)
		if err != nil {
			if err = l.damaged(err); err != nil {
				return err
			}
			continue
		}
		for _, e := range slices.Backward(x.blocks) {
			var list []span
			err := l.s.eachLineBlock(l.ctx, c, func(o lineEntry) bool { return o.offset == e.offset && l.q.meets(e.time) }, func(sp span) error {
				list = append(list, sp)
				return nil
			})
			if err = l.damaged(err); err != nil {
				return err
			}
			if err := f(list); err != nil {
				return err
			}
		}
	}
	return nil
}
