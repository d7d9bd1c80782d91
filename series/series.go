// Package series keeps what replicas say: log lines and metric points, in
// order, durably, and finds them again quickly.
//
// A [Store] appends frames to a segment file with one fsync for all that wait
// (group commit), seals full segments as compressed chunks into blob, and reads
// both as if they were one: tail from a sequence number, range, search,
// downsample. Frames that come again are dropped by their fence and sequence
// number, so at-least-once delivery becomes exactly-once storage.
package series

import (
	"math"
	"regexp"
	"time"

	"mlaas.dev/mlaas"
)

// A Batch is a frame and the incarnation that sent it.
type Batch struct {
	Fence mlaas.Fence
	Frame mlaas.Frame
}

// A Line is one stored log line of a run.
type Line struct {
	Cursor  int64  `json:"cursor"` // dense from 1 over all replicas of the run, in the order of arrival
	Seq     int64  `json:"seq"`    // dense from 1 in the replica, over all its attempts and both streams
	Replica string `json:"replica"`
	Attempt int    `json:"attempt"` // the epoch
	mlaas.LogLine
}

// A LineQuery asks for lines of one run.
type LineQuery struct {
	Tenant  mlaas.Tenant
	Run     mlaas.RunID
	Replica string         // empty: all, and From counts in Cursor; else From counts in Seq
	From    int64          // inclusive; below 1: from the first
	Limit   int            // 0: 1000; at most 10000
	Grep    *regexp.Regexp // nil: every line
	Last    int            // > 0: instead of From, the last so many lines that match
	Since   time.Time      // zero: any; else only lines that were written then or later
	Until   time.Time      // zero: any; else only lines that were written before
	Kernel  bool           // the events of a kernel instead of what people read
}

// of reports whether l is of the kind that is asked for.
func (q *LineQuery) of(l *Line) bool { return q.Kernel == (l.Stream == mlaas.KernelStream) }

// any reports whether q asks for every line, so that what is missing is told.
func (q *LineQuery) any() bool { return q.Grep == nil && q.Since.IsZero() && q.Until.IsZero() }

// meets reports whether lines of that stretch of time can be asked for.
func (q *LineQuery) meets(t stretchOfTime) bool {
	return (q.Since.IsZero() || t.to >= q.Since.Unix()) && (q.Until.IsZero() || t.from <= q.Until.Unix())
}

// within reports whether a line of that time is asked for.
func (q *LineQuery) within(at time.Time) bool {
	return (q.Since.IsZero() || !at.Before(q.Since)) && (q.Until.IsZero() || at.Before(q.Until))
}

// A stretchOfTime is from the earliest to the latest of some lines, in Unix
// seconds. Lines come in the order of arrival, so stretches overlap.
type stretchOfTime struct {
	from, to int64
}

// someTime is the stretch of no line; any that is added makes it that one.
func someTime() stretchOfTime { return stretchOfTime{math.MaxInt64, math.MinInt64} }

// anyTime is the stretch of lines whose times are not known.
func anyTime() stretchOfTime { return stretchOfTime{math.MinInt64, math.MaxInt64} }

func (t *stretchOfTime) add(o stretchOfTime) { t.from, t.to = min(t.from, o.from), max(t.to, o.to) }

// A RunPoint is one stored point of a run.
type RunPoint struct {
	Cursor  int64  `json:"cursor"` // dense from 1 over all replicas of the run, in the order of arrival
	Replica string `json:"replica"`
	mlaas.Point
}

// A PointQuery asks for curves of one run.
type PointQuery struct {
	Tenant   mlaas.Tenant
	Run      mlaas.RunID
	Replica  string // empty: all
	Key      string // empty: all
	Buckets  int    // 0: every point, at most MaxPoints of the last; else at most so many buckets a curve
	FromStep *int64
	ToStep   *int64 // inclusive
}

// MaxPoints is how many raw points of one curve a query returns.
const MaxPoints = 100_000

// A Curve is one key of one replica, by step. A step that was measured again
// (after a restart from a checkpoint) has its newest value alone.
type Curve struct {
	Replica string
	Key     string
	Points  []mlaas.Point // where Buckets was 0
	Buckets []Bucket      // else
}

// A Bucket is a stretch of a curve: the last step and time in it, and the
// smallest, largest and last value. NaN counts for Last alone.
type Bucket struct {
	Step, Time     int64
	Min, Max, Last mlaas.Number
}
