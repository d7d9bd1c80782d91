package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

const (
	usualLines = 1000   // in an answer that does not say how many
	mostLines  = 10_000 // in an answer that does not follow
)

// LogRange says which lines are wanted.
type LogRange struct {
	From   int64  `query:"from" minimum:"0" doc:"The first number wanted, inclusive; from the beginning where not said" example:"1"`
	Limit  int    `query:"limit" minimum:"0" doc:"How many at most; 1000 where not said, never more than 10000; all where it follows"`
	Tail   int    `query:"tail" minimum:"0" doc:"Instead of from: the last so many"`
	Last   int    `query:"last" minimum:"0" doc:"The same as tail"`
	Follow bool   `query:"follow" doc:"Go on until there will be no more"`
	Grep   string `query:"grep" doc:"Only lines that match this regular expression (RE2)" example:"(?i)error"`
	Since  string `query:"since" doc:"Only lines that were written then or later: a time, or how long ago" example:"10m"`
	Until  string `query:"until" doc:"Only lines that were written before: the same" example:"2026-01-02T03:04:05Z"`

	Attempt  int  `query:"attempt" minimum:"0" doc:"Only lines of this attempt"`
	Previous bool `query:"previous" doc:"Only lines of the attempt before the newest"`
}

// A ReplicaLine is a line of one replica's log.
type ReplicaLine struct {
	Seq    int64     `json:"seq" doc:"From 1, without a gap, over both streams and all attempts of the replica"`
	Time   time.Time `json:"time,omitzero" doc:"Not there where nobody noted it, which goes for a container's own log"`
	Stream string    `json:"stream" enum:"stdout,stderr,platform,container" doc:"container: the log that the cluster kept of a replica whose supervisor never delivered a line. While the replica lives it has the numbers 0"`
	Line   string    `json:"line"`
	Part   int       `json:"part,omitempty" doc:"1, 2, ... where one line was cut, at 64 KiB"`
}

// A RunLine is a line of a run's log.
type RunLine struct {
	Cursor  int64  `json:"cursor" doc:"From 1, without a gap, over all replicas of the run, in the order of arrival"`
	Replica string `json:"replica" example:"worker-0"`
	Attempt int    `json:"attempt"`
	ReplicaLine
}

func replicaLine(l series.Line) ReplicaLine {
	return ReplicaLine{l.Seq, l.Time.UTC(), l.LogLine.Stream, l.Text, l.Part}
}

type nodeLogIn struct {
	nodeIn
	LogRange
}

func (m *Management) nodeLog(w http.ResponseWriter, r *http.Request, in *nodeLogIn) error {
	run, a, err := m.node(r.Context(), in.nodeIn)
	if err != nil {
		return err
	}
	l := &lines{m: m, run: run, replica: a.Fence.Replica, newest: a.Epoch, want: in.LogRange,
		shown: func(l series.Line) any { return replicaLine(l) }}
	return l.serve(w, r)
}

type runLogIn struct {
	runIn
	LogRange
	Replica string `query:"replica" doc:"Only lines of this replica; from counts in cursor all the same" example:"worker-0"`
}

func (m *Management) runLog(w http.ResponseWriter, r *http.Request, in *runLogIn) error {
	run, _, err := m.findRun(r.Context(), tenantOf(r.Context()), in.Run)
	if err != nil {
		return err
	}
	if in.Replica != "" {
		if _, _, err := mlaas.SplitReplica(in.Replica); err != nil {
			return err
		}
	}
	s, err := m.stateOf(r.Context(), run)
	if err != nil {
		return err
	}
	l := &lines{m: m, run: run, only: in.Replica, newest: s.Epoch, want: in.LogRange,
		shown: func(l series.Line) any { return RunLine{l.Cursor, l.Replica, l.Attempt, replicaLine(l)} }}
	return l.serve(w, r)
}

// lines is one reading of a log. Nothing is buffered for who reads: it is read
// on from where they are, so one who is slow costs nothing.
type lines struct {
	m       *Management
	run     mlaas.Run
	replica string // counted in its own numbers; empty: the whole run, in cursors
	only    string // of a whole run: this replica's lines
	attempt int    // 0: all
	newest  int    // attempt
	want    LogRange
	shown   func(series.Line) any

	containers map[attemptOf]*container // that are followed
	words      chan word                // of these
}

func (l *lines) number(s series.Line) int64 {
	if l.replica != "" {
		return s.Seq
	}
	return s.Cursor
}

func (l *lines) last(ctx context.Context) (int64, error) {
	if l.replica != "" {
		return l.m.Series.LastSeq(ctx, l.run.Tenant, l.run.ID, l.replica)
	}
	log, _, err := l.m.Series.LastCursor(ctx, l.run.Tenant, l.run.ID)
	return log, err
}

func (l *lines) takes(s series.Line) bool {
	return (l.attempt == 0 || s.Attempt == l.attempt) && (l.only == "" || s.Replica == l.only)
}

func (l *lines) serve(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	l.containers, l.words = map[attemptOf]*container{}, make(chan word)
	if r.Method == http.MethodHead {
		l.want.Follow = false // there is nothing to follow
	}
	q := series.LineQuery{Tenant: l.run.Tenant, Run: l.run.ID, Replica: l.replica, From: max(l.want.From, 1), Limit: linesAtOnce}
	if l.want.Grep != "" {
		re, err := regexp.Compile(l.want.Grep)
		if err != nil || len(l.want.Grep) > 1000 {
			return mlaas.Invalid("grep", "a regular expression (RE2) of at most 1000 letters", clip(l.want.Grep, 100))
		}
		q.Grep = re
	}
	if err := l.bounds(&q); err != nil {
		return err
	}
	left := l.want.Limit // 0: no end
	if !l.want.Follow {
		if left == 0 {
			left = usualLines
		}
		left = min(left, mostLines)
	}
	// What is over by now is over before the lines are read, so that the last
	// of them is not missed.
	over, err := l.over(ctx)
	if err != nil {
		return err
	}
	first, err := l.first(ctx, &q)
	if err != nil {
		return err
	}
	leave := make(chan struct{}) // the platform goes down: who follows comes again
	if !l.want.Follow {
		leave = nil
	} else if l.m.streams.add(l, func() { close(leave) }) {
		defer l.m.streams.remove(l)
	} else {
		close(leave)
	}
	out := newLines(w)
	for _, s := range first {
		if err := out.write(l.shown(s)); err != nil {
			return err
		}
	}
	done, err := l.pass(ctx, out, &q, &left)
	if err != nil && !(l.want.Follow && errors.Is(err, mlaas.ErrUnavailable)) {
		return err
	}
	if !done {
		if err := l.look(ctx, out, q); err != nil {
			return err
		}
	}
	if done || !l.want.Follow {
		return out.flush()
	}
	var lull lull
	for {
		more, err := l.turn(ctx, out, &q, &left, &over, &lull, leave)
		if err != nil || !more {
			return err
		}
	}
}

// bounds reads from when to when, and of which attempt, lines are wanted.
func (l *lines) bounds(q *series.LineQuery) (err error) {
	if q.Since, err = l.m.moment("since", l.want.Since); err != nil {
		return err
	}
	if q.Until, err = l.m.moment("until", l.want.Until); err != nil {
		return err
	}
	l.attempt = l.want.Attempt
	if !l.want.Previous {
		return nil
	}
	if l.attempt != 0 {
		return mlaas.Invalid("previous", "either previous or attempt", l.attempt)
	}
	if l.attempt = l.newest - 1; l.attempt < 1 {
		return fmt.Errorf("run %s/%d has no attempt before its first: %w", l.run.JobName, l.run.Number, mlaas.ErrNotFound)
	}
	return nil
}

// moment reads a time, or how long ago it was; zero where nothing is said.
func (m *Management) moment(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return m.now().Add(-d), nil
	}
	return time.Time{}, mlaas.Invalid(field, "a time such as 2026-01-02T03:04:05Z, or how long ago, such as 10m", clip(text, 100))
}

// turn writes what there is now and waits for more. While nobody can say what
// there is, because who has it is being replaced, a follower waits too: q
// stands where they are.
func (l *lines) turn(ctx context.Context, out *lineWriter, q *series.LineQuery, left *int, over *bool, lull *lull, leave <-chan struct{}) (more bool, err error) {
	changed, unwatch := l.m.Series.Changed(l.run.Tenant, l.run.ID) // before reading: what comes meanwhile wakes us
	defer unwatch()
	moved, unfollow := l.m.hub.changed(runKey{l.run.Tenant, l.run.ID})
	defer unfollow()
	if !*over {
		if *over, err = l.over(ctx); err != nil {
			return false, err
		}
	}
	done, err := l.pass(ctx, out, q, left)
	retry := lull.after(err)
	if l.want.Follow && retry != nil {
		done, err = false, nil
	} else if done = done || *over; done {
		for _, c := range l.containers {
			err = errors.Join(err, l.finish(ctx, out, *q, c))
		}
	}
	if err == nil {
		err = out.flush()
	}
	if err != nil || done || !l.want.Follow {
		return false, err
	}
	select {
	case <-ctx.Done():
	case <-leave:
		return false, nil
	case <-changed:
	case <-moved: // perhaps a container began, or its supervisor speaks
		err = l.look(ctx, out, *q)
	case w := <-l.words:
		err = l.hear(out, *q, w)
	case <-retry:
	}
	return ctx.Err() == nil, err // who followed may have gone
}

// A lull is how long what runs have said cannot be reached.
type lull struct{ wait time.Duration }

// after returns what to wait for before trying again, where err says that this
// helps; else nil.
func (l *lull) after(err error) <-chan time.Time {
	if !errors.Is(err, mlaas.ErrUnavailable) {
		l.wait = 0
		return nil
	}
	l.wait = min(max(2*l.wait, 100*time.Millisecond), 2*time.Second)
	return time.After(l.wait)
}

// first returns the last lines, where so many were asked for, and moves q
// behind them.
func (l *lines) first(ctx context.Context, q *series.LineQuery) ([]series.Line, error) {
	tail := max(l.want.Tail, l.want.Last)
	if tail == 0 {
		return nil, nil
	}
	end, err := l.last(ctx)
	if err != nil {
		return nil, err
	}
	q.From = end + 1
	if end == 0 {
		return nil, nil
	}
	if l.only != "" || l.attempt != 0 {
		return l.back(ctx, *q, end, min(tail, mostLines))
	}
	ask := *q
	ask.Last, ask.From = min(tail, mostLines), 0
	found, err := l.m.Series.Lines(ctx, ask)
	if n := len(found); n > 0 {
		q.From = max(q.From, l.number(found[n-1])+1)
	}
	return found, err
}

// back looks for the last lines that are taken, stretch by stretch.
func (l *lines) back(ctx context.Context, q series.LineQuery, end int64, want int) (last []series.Line, err error) {
	for stretch := int64(want); end > 0 && len(last) < want; stretch *= 2 {
		from := max(1, end-stretch+1)
		var some []series.Line
		for at := from; at <= end; {
			q.From, q.Limit = at, int(min(end-at+1, mostLines))
			found, err := l.m.Series.Lines(ctx, q)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 {
				break
			}
			for _, s := range found {
				if l.takes(s) && l.number(s) <= end {
					some = append(some, s)
				}
			}
			at = l.number(found[len(found)-1]) + 1
		}
		last = append(some, last...)
		end = from - 1
	}
	return last[max(0, len(last)-want):], nil
}

// pass writes what there is now, and reports whether no more is wanted.
func (l *lines) pass(ctx context.Context, out *lineWriter, q *series.LineQuery, left *int) (done bool, err error) {
	end, err := l.last(ctx)
	if err != nil {
		return false, err
	}
	for q.From <= end {
		if *left > 0 && l.only == "" && l.attempt == 0 {
			q.Limit = min(linesAtOnce, *left)
		}
		found, err := l.m.Series.Lines(ctx, *q)
		if err != nil {
			return false, err
		}
		if len(found) == 0 {
			q.From = end + 1 // nothing up to there matches
			return false, nil
		}
		for _, s := range found {
			q.From = l.number(s) + 1
			if !l.takes(s) {
				continue
			}
			if again, err := l.again(ctx, out, *q, s); err != nil || again {
				if err != nil {
					return false, err
				}
				continue
			}
			if err := out.write(l.shown(s)); err != nil {
				return false, err
			}
			if *left > 0 {
				if *left--; *left == 0 {
					return true, nil
				}
			}
		}
		if ctx.Err() != nil {
			return true, nil
		}
	}
	return false, nil
}

// over reports whether nothing more will be written. A replica tells that it
// has ended when everything it wrote is here; one that failed may begin again
// with the next attempt, until the run itself is over.
func (l *lines) over(ctx context.Context) (bool, error) {
	if !l.want.Follow {
		return true, nil
	}
	s, err := l.m.stateOf(ctx, l.run)
	if err != nil || s.State.Final() {
		return err == nil, err
	}
	if l.attempt > 0 && l.attempt < s.Epoch {
		return true, nil // nothing of it says anything any more
	}
	if l.replica == "" {
		return false, nil
	}
	all, err := l.m.replicasOf(ctx, l.run.Tenant, l.run.ID)
	for _, a := range all {
		if a.Fence.Replica == l.replica && a.Epoch == s.Epoch {
			ended := a.Status == mlaas.ReplicaSucceeded || a.Status == mlaas.ReplicaStopped
			return ended || a.Status.Final() && s.State == mlaas.Stopping, err
		}
	}
	return false, err
}

// A lineWriter writes NDJSON.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	encode  *json.Encoder
	set     time.Time // when the deadline was set
}

func newLines(w http.ResponseWriter) *lineWriter {
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("X-Accel-Buffering", "no") // proxies hold back what they could fill a page with
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return &lineWriter{w: w, control: http.NewResponseController(w), encode: e}
}

func (o *lineWriter) write(v any) error {
	o.deadline()
	return o.encode.Encode(v)
}

func (o *lineWriter) flush() error {
	o.deadline()
	return o.control.Flush()
}

// deadline drops a client that takes nothing for writeWithin.
func (o *lineWriter) deadline() {
	if now := time.Now(); now.Sub(o.set) > time.Second {
		o.set = now
		_ = o.control.SetWriteDeadline(now.Add(writeWithin + time.Second)) // a test has no network to be slow
	}
}

// MetricRange says which points are wanted.
type MetricRange struct {
	Key     string `query:"key" doc:"This metric alone" example:"loss"`
	Buckets int    `query:"buckets" minimum:"0" doc:"At most so many buckets a curve, each [step, time, min, max, last]; 0: every point, as [step, time, value]" example:"500"`
	From    *int64 `query:"from_step" doc:"From this step on"`
	To      *int64 `query:"to_step" doc:"Up to this step, inclusive"`
}

// A Curve is one metric of one replica, by step.
type Curve struct {
	Key     string   `json:"key" example:"loss"`
	Replica string   `json:"replica" example:"worker-0"`
	Points  []Sample `json:"points"`
}

// A Sample is [step, time, value], or of a bucket [step, time, min, max, last].
// Time is in Unix milliseconds; NaN and the infinities are words.
type Sample []any

func curvesOut(curves []series.Curve) []Curve {
	out := make([]Curve, 0, len(curves))
	for _, c := range curves {
		shown := Curve{Key: c.Key, Replica: c.Replica, Points: make([]Sample, 0, len(c.Points)+len(c.Buckets))}
		for _, p := range c.Points {
			shown.Points = append(shown.Points, Sample{p.Step, p.Time, p.Value})
		}
		for _, b := range c.Buckets {
			shown.Points = append(shown.Points, Sample{b.Step, b.Time, b.Min, b.Max, b.Last})
		}
		out = append(out, shown)
	}
	return out
}

type nodeMetricIn struct {
	nodeIn
	MetricRange
	Paging
}

func (m *Management) nodeMetric(ctx context.Context, in *nodeMetricIn) (*Answer[List[Curve]], error) {
	r, a, err := m.node(ctx, in.nodeIn)
	if err != nil {
		return nil, err
	}
	return m.curves(ctx, r, a.Fence.Replica, in.MetricRange, in.Paging)
}

type runMetricIn struct {
	runIn
	MetricRange
	Paging
	Replica string `query:"replica" doc:"Of this replica alone" example:"worker-0"`
}

func (m *Management) runMetric(ctx context.Context, in *runMetricIn) (*Answer[List[Curve]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	return m.curves(ctx, r, in.Replica, in.MetricRange, in.Paging)
}

func (m *Management) curves(ctx context.Context, r mlaas.Run, replica string, in MetricRange, p Paging) (*Answer[List[Curve]], error) {
	curves, err := m.Series.Points(ctx, series.PointQuery{Tenant: r.Tenant, Run: r.ID, Replica: replica, Key: in.Key,
		Buckets: min(in.Buckets, 10_000), FromStep: in.From, ToStep: in.To})
	if err != nil {
		return nil, err
	}
	return part(curvesOut(curves), p)
}
