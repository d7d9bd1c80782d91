package series

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"mlaas.dev/mlaas"
)

// A column is the points of one curve in the order of arrival.
type column struct {
	points    []point
	low, high int64 // steps
	rising    bool  // each step is larger than the one before
}

func (c *column) add(p point) {
	if len(c.points) == 0 {
		c.low, c.high = p.step, p.step
	} else if p.step <= c.high {
		c.rising = false
	}
	c.low, c.high = min(c.low, p.step), max(c.high, p.step)
	c.points = append(c.points, p)
}

const (
	maxStretch = 1024 // points of a stretch
	rollup     = 128  // points of one item of it
)

// An item is one point, or the rollup of points that follow each other.
type item struct {
	step, time     int64 // of the last
	min, max, last float64
}

func itemOf(p point) item { return item{p.step, p.time, p.value, p.value, p.value} }

// join makes i the rollup of i and of o, which follows it. A NaN counts as
// last alone.
func (i *item) join(o item) {
	i.step, i.time, i.last = o.step, o.time, o.last
	if math.IsNaN(i.min) || o.min < i.min {
		i.min = o.min
	}
	if math.IsNaN(i.max) || o.max > i.max {
		i.max = o.max
	}
}

// rollups summarise points, so many at a time.
func rollups(points []point) []item {
	out := make([]item, 0, (len(points)+rollup-1)/rollup)
	for group := range slices.Chunk(points, rollup) {
		i := itemOf(group[0])
		for _, p := range group[1:] {
			i.join(itemOf(p))
		}
		out = append(out, i)
	}
	return out
}

// A stretch is points of one curve in the order of arrival, wherever they are.
type stretch struct {
	n         int
	low, high int64 // steps
	rising    bool
	rollups   []item // nil: none were made
	points    []point
	read      func() ([]point, error) // where points is nil
}

func (s *stretch) load() ([]point, error) {
	if s.points != nil || s.read == nil {
		return s.points, nil
	}
	return s.read()
}

// within leaves out what is not from low to high.
func within(points []point, low, high int64) []point {
	return slices.DeleteFunc(slices.Clone(points), func(p point) bool { return p.step < low || p.step > high })
}

// merge calls each with the points or rollups of one curve by rising step, the
// newest of each step alone. Stretches come in the order of arrival. Rollups
// are used where coarse is set and no step can have been measured again.
func merge(all []stretch, low, high int64, coarse bool, points func([]point), items func([]item)) error {
	order := make([]int, 0, len(all))
	for i, s := range all {
		if s.n > 0 && s.high >= low && s.low <= high {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(all[a].low, all[b].low) })
	for i := 0; i < len(order); {
		first := &all[order[i]]
		end, top := i+1, first.high
		for end < len(order) && all[order[end]].low <= top {
			top = max(top, all[order[end]].high)
			end++
		}
		if end == i+1 && first.rising {
			switch inside := first.low >= low && first.high <= high; {
			case inside && coarse && first.rollups != nil:
				items(first.rollups)
			default:
				p, err := first.load()
				if err != nil {
					return err
				}
				if !inside {
					from, _ := slices.BinarySearchFunc(p, low, func(p point, step int64) int { return cmp.Compare(p.step, step) })
					to := len(p)
					if high < math.MaxInt64 {
						to, _ = slices.BinarySearchFunc(p, high+1, func(p point, step int64) int { return cmp.Compare(p.step, step) })
					}
					p = p[from:to]
				}
				points(p)
			}
			i = end
			continue
		}
		group := order[i:end]
		slices.Sort(group) // by arrival again
		var mixed []point
		for _, at := range group {
			p, err := all[at].load()
			if err != nil {
				return err
			}
			mixed = append(mixed, within(p, low, high)...)
		}
		points(newest(mixed))
		i = end
	}
	return nil
}

// newest sorts points by step and keeps the last that came of each.
func newest(points []point) []point {
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.step, b.step) })
	out := points[:0]
	for i, p := range points {
		if i+1 < len(points) && points[i+1].step == p.step {
			continue
		}
		out = append(out, p)
	}
	return out
}

// A reducer makes at most so many buckets of what rises from low to high, each
// as wide in steps as the others.
type reducer struct {
	low, span uint64
	count     uint64
	at        uint64 // the number of the open bucket
	end       int64  // the first step behind it
	last      bool   // nothing is behind it
	open      bool
	item      item
	out       []Bucket
}

func newReducer(low, high int64, count int) *reducer {
	r := &reducer{low: uint64(low), span: uint64(high) - uint64(low) + 1, count: uint64(count)}
	if r.span == 0 {
		r.span = math.MaxUint64 // all there is
	}
	r.out = make([]Bucket, 0, min(count, 4096))
	return r
}

func (r *reducer) add(i item) {
	if r.open && (r.last || i.step < r.end) {
		r.item.join(i)
		return
	}
	r.flush()
	offset := min(uint64(i.step)-r.low, r.span-1)
	hi, lo := bits.Mul64(offset, r.count)
	r.at, _ = bits.Div64(hi, lo, r.span)
	// The end is the smallest offset that falls into the next bucket.
	hi, lo = bits.Mul64(r.at+1, r.span)
	end, rest := bits.Div64(hi, lo, r.count)
	if rest > 0 {
		end++
	}
	r.last = r.at+1 >= r.count
	r.end = int64(r.low + end)
	r.item, r.open = i, true
}

func (r *reducer) flush() {
	if r.open {
		n := mlaas.Number(r.item.last)
		r.out = append(r.out, Bucket{r.item.step, r.item.time, mlaas.Number(r.item.min), mlaas.Number(r.item.max), n})
		r.open = false
	}
}

// points is add for many, which is where the time goes.
func (r *reducer) points(list []point) {
	for len(list) > 0 {
		r.add(itemOf(list[0]))
		i := 1
		step, at, last, low, high := r.item.step, r.item.time, r.item.last, r.item.min, r.item.max
		for i < len(list) {
			p := &list[i]
			if p.step >= r.end && !r.last {
				break
			}
			step, at, last = p.step, p.time, p.value
			if p.value < low || low != low {
				low = p.value
			}
			if p.value > high || high != high {
				high = p.value
			}
			i++
		}
		r.item = item{step, at, low, high, last}
		list = list[i:]
	}
}

// appendStretch packs points of one curve and their cursors by columns, so
// that what is alike stands together: second differences of steps and times,
// differences of cursors, and values by byte after taking away what they share
// with the one before.
func appendStretch(b []byte, points []point, cursors []int64) []byte {
	var last, slope int64
	for _, p := range points {
		d := p.step - last
		b = binary.AppendVarint(b, d-slope)
		last, slope = p.step, d
	}
	last, slope = 0, 0
	for _, p := range points {
		d := p.time - last
		b = binary.AppendVarint(b, d-slope)
		last, slope = p.time, d
	}
	last = 0
	for _, c := range cursors {
		b = binary.AppendVarint(b, c-last)
		last = c
	}
	at, n := len(b), len(points)
	b = append(b, make([]byte, 8*n)...)
	var before uint64
	for i, p := range points {
		v := math.Float64bits(p.value)
		x := v ^ before
		before = v
		for k := range 8 {
			b[at+k*n+i] = byte(x >> (56 - 8*k))
		}
	}
	return b
}

// readStretch is the reverse of appendStretch.
func readStretch(b []byte, n int) (points []point, cursors []int64, err error) {
	if n < 0 || n > len(b)/8 {
		return nil, nil, errBroken
	}
	points, cursors = make([]point, n), make([]int64, n)
	d := decoder{b: b}
	var last, slope int64
	for i := range points {
		slope += d.int()
		last += slope
		points[i].step = last
	}
	last, slope = 0, 0
	for i := range points {
		slope += d.int()
		last += slope
		points[i].time = last
	}
	last = 0
	for i := range cursors {
		last += d.int()
		cursors[i] = last
	}
	raw := d.take(uint64(8 * n))
	if d.bad {
		return nil, nil, errBroken
	}
	var before uint64
	for i := range points {
		var x uint64
		for k := range 8 {
			x = x<<8 | uint64(raw[k*n+i])
		}
		before ^= x
		points[i].value = math.Float64frombits(before)
	}
	return points, cursors, nil
}
