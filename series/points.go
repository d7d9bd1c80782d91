package series

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"

	"mlaas.dev/mlaas"
)

// maxAnswer is how many points or buckets one answer has over all its curves;
// where there are many curves each one has fewer.
const maxAnswer = 2_000_000

// Keys returns the metric names of a run, sorted.
func (s *Store) Keys(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]string, error) {
	r, release, err := s.find(ctx, key{tenant, id}, toRead, 0)
	if err != nil {
		return nil, err
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(r.keys)), nil
}

// Points returns the curves that q asks for, by replica and key. A curve
// without a point in the steps asked for is left out.
//
// One answer has at most two million points or buckets, shared evenly where
// there are very many curves.
func (s *Store) Points(ctx context.Context, q PointQuery) (curves []Curve, err error) {
	r, release, err := s.find(ctx, key{q.Tenant, q.Run}, toRead, 0)
	if err != nil {
		return nil, err
	}
	defer release()
	wanted := func(c curve) bool {
		return (q.Replica == "" || c.replica == q.Replica) && (q.Key == "" || c.key == q.Key)
	}
	var chunks []chunk
	var live []map[curve]column
	err = fresh(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		chunks, live = r.Metrics, nil
		for _, p := range r.parts {
			some := map[curve]column{}
			if q.Replica != "" && q.Key != "" {
				if c := p.curves[curve{q.Replica, q.Key}]; c != nil {
					some[curve{q.Replica, q.Key}] = *c
				}
			} else {
				for name, c := range p.curves {
					if wanted(name) {
						some[name] = *c
					}
				}
			}
			live = append(live, some)
		}
	}, func(lenient bool) error {
		curves, err = s.curves(ctx, q, chunks, live, wanted, lenient)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("points of run %s: %w", q.Run, err)
	}
	return curves, nil
}

func (s *Store) curves(ctx context.Context, q PointQuery, chunks []chunk, live []map[curve]column, wanted func(curve) bool, lenient bool) ([]Curve, error) {
	all := map[curve][]stretch{}
	for _, c := range chunks {
		x, err := indexOf(ctx, s, c, readPointIndex)
		if err = s.leaveOut(q.Run, err, lenient); err != nil {
			return nil, err
		}
		if x == nil {
			continue
		}
		blocks := &blockReader{s: s, ctx: ctx, chunk: c, index: x}
		for i := range x.entries {
			e := &x.entries[i]
			if !wanted(e.curve) {
				continue
			}
			all[e.curve] = append(all[e.curve], stretch{
				n: e.n, low: e.low, high: e.high, rising: e.rising, rollups: e.rollups,
				read: func() ([]point, error) {
					points, _, err := blocks.stretch(e)
					return points, s.leaveOut(q.Run, err, lenient)
				},
			})
		}
	}
	for _, some := range live {
		for name, c := range some {
			all[name] = append(all[name], stretch{n: len(c.points), low: c.low, high: c.high, rising: c.rising, points: c.points})
		}
	}
	names := slices.SortedFunc(maps.Keys(all), compareCurves)
	share := max(maxAnswer/max(len(names), 1), 1)
	out := make([]Curve, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c, err := draw(name, all[name], q, share)
		if err != nil {
			return nil, err
		}
		if len(c.Points)+len(c.Buckets) > 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

// draw makes one curve of its stretches.
func draw(name curve, all []stretch, q PointQuery, share int) (Curve, error) {
	c := Curve{Replica: name.replica, Key: name.key}
	low, high := int64(math.MinInt64), int64(math.MaxInt64)
	if q.FromStep != nil {
		low = *q.FromStep
	}
	if q.ToStep != nil {
		high = *q.ToStep
	}
	count, first, last := 0, int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range all {
		if s.n > 0 && s.high >= low && s.low <= high {
			count += s.n
			first, last = min(first, max(s.low, low)), max(last, min(s.high, high))
		}
	}
	if count == 0 || low > high {
		return c, nil
	}
	if q.Buckets <= 0 {
		most := min(MaxPoints, share)
		var kept []point
		err := merge(all, low, high, false, func(points []point) {
			kept = append(kept, points[max(0, len(points)-most):]...)
			if len(kept) > 4*most { // the last are wanted
				kept = append(kept[:0], kept[len(kept)-most:]...)
			}
		}, nil)
		if len(kept) > most {
			kept = kept[len(kept)-most:]
		}
		c.Points = make([]mlaas.Point, len(kept))
		for i, p := range kept {
			c.Points[i] = mlaas.Point{Key: name.key, Step: p.step, Time: p.time, Value: mlaas.Number(p.value)}
		}
		return c, err
	}
	buckets := min(q.Buckets, share)
	if count <= buckets { // each its own
		err := merge(all, low, high, false, func(points []point) {
			for _, p := range points {
				v := mlaas.Number(p.value)
				c.Buckets = append(c.Buckets, Bucket{p.step, p.time, v, v, v})
			}
		}, nil)
		return c, err
	}
	r := newReducer(first, last, buckets)
	// A rollup belongs where its last point does, which is as good as can be
	// seen where a bucket is wider.
	err := merge(all, low, high, count/buckets >= 2*rollup, r.points, func(items []item) {
		for _, i := range items {
			r.add(i)
		}
	})
	r.flush()
	c.Buckets = r.out
	return c, err
}

// leaveOut reports what cannot be read for good, and lets the rest be read.
func (s *Store) leaveOut(run mlaas.RunID, err error, lenient bool) error {
	if err == nil {
		return nil
	}
	if _, broken := errors.AsType[*damage](err); broken || lenient && errors.Is(moved(err), errMoved) {
		s.log().Error("series: points cannot be read and are left out", "run", run, "error", err)
		return nil
	}
	return moved(err)
}

// A blockReader reads stretches of one chunk and holds the block of the last.
type blockReader struct {
	s     *Store
	ctx   context.Context
	chunk chunk
	index *pointIndex
	held  int
	raw   []byte
}

func (b *blockReader) stretch(e *pointEntry) ([]point, []int64, error) {
	if b.raw == nil || b.held != e.block {
		at := b.index.blocks[e.block]
		raw, err := b.s.block(b.ctx, b.chunk, at[0], at[1])
		if err != nil {
			return nil, nil, err
		}
		b.raw, b.held = raw, e.block
	}
	if e.size > len(b.raw) || e.offset > len(b.raw)-e.size {
		return nil, nil, &damage{errBroken}
	}
	points, cursors, err := readStretch(b.raw[e.offset:e.offset+e.size], e.n)
	if err != nil {
		return nil, nil, &damage{err}
	}
	return points, cursors, nil
}

// RunPoints returns the points of a run from cursor from on, at most limit (0:
// 1000; at most 10,000), in the order of arrival. What is not kept any more is
// passed over.
func (s *Store) RunPoints(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from int64, limit int) (points []RunPoint, err error) {
	r, release, err := s.find(ctx, key{tenant, id}, toRead, 0)
	if err != nil {
		return nil, err
	}
	defer release()
	from, limit = max(from, 1), limitOf(limit)
	var v view
	err = fresh(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		v = view{chunks: r.Metrics, last: r.Points}
		for _, p := range r.parts {
			v.parts, v.lists = append(v.parts, p), append(v.lists, p.points)
		}
	}, func(lenient bool) error {
		at := from
		for at <= v.last {
			points, err = s.window(ctx, id, v, at, at+int64(limit), lenient)
			if err != nil || len(points) > 0 {
				return err
			}
			at = v.after(at + int64(limit))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("points of run %s: %w", id, err)
	}
	return points, nil
}

// after is at, or the first cursor behind it that something may have.
func (v *view) after(at int64) int64 {
	for _, c := range v.chunks {
		if c.Last >= at {
			return max(at, c.First)
		}
	}
	for _, list := range v.lists {
		if n := len(list); n > 0 && list[n-1].last() >= at {
			return max(at, list[0].cursor)
		}
	}
	return v.last + 1
}

// window returns the points from one cursor to before another.
func (s *Store) window(ctx context.Context, id mlaas.RunID, v view, from, to int64, lenient bool) ([]RunPoint, error) {
	var out []RunPoint
	for _, c := range v.chunks {
		if c.Last < from || c.First >= to {
			continue
		}
		x, err := indexOf(ctx, s, c, readPointIndex)
		if err = s.leaveOut(id, err, lenient); err != nil {
			return nil, err
		}
		if x == nil {
			continue
		}
		blocks := &blockReader{s: s, ctx: ctx, chunk: c, index: x}
		for i := range x.entries {
			e := &x.entries[i]
			if e.last < from || e.first >= to {
				continue
			}
			points, cursors, err := blocks.stretch(e)
			if err = s.leaveOut(id, err, lenient); err != nil {
				return nil, err
			}
			at, _ := slices.BinarySearch(cursors, from)
			for ; at < len(cursors) && cursors[at] < to; at++ {
				p := points[at]
				out = append(out, RunPoint{cursors[at], e.curve.replica, mlaas.Point{Key: e.curve.key, Step: p.step, Time: p.time, Value: mlaas.Number(p.value)}})
			}
		}
	}
	slices.SortFunc(out, func(a, b RunPoint) int { return cmp.Compare(a.Cursor, b.Cursor) })
	for i, p := range v.parts {
		list := v.lists[i]
		for _, m := range list[sort.Search(len(list), func(i int) bool { return list[i].last() >= from }):] {
			if m.cursor >= to {
				return out, nil
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			sp, err := p.seg.read(m)
			if errors.Is(err, mlaas.ErrInternal) {
				err = &damage{err}
			}
			if err != nil {
				if err = s.leaveOut(id, err, lenient); err != nil {
					return nil, err
				}
				continue
			}
			points, err := sp.points()
			if err != nil {
				return nil, err
			}
			for i, v := range points {
				if at := sp.cursor + int64(i); at >= from && at < to {
					out = append(out, RunPoint{at, m.replica, v})
				}
			}
		}
	}
	return out, nil
}
