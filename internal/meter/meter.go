// Package meter counts: what a service did, and how long it took. Its types
// work from their zero value on and know nobody; package observe shows them to
// those who watch.
package meter

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Counter only grows.
type Counter struct{ n atomic.Int64 }

// Inc counts one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add counts n.
func (c *Counter) Add(n int64) { c.n.Add(n) }

// Value is how many were counted.
func (c *Counter) Value() int64 { return c.n.Load() }

// A Moment is when something happened last.
type Moment struct{ at atomic.Int64 }

// Set says that it happened at t.
func (m *Moment) Set(t time.Time) { m.at.Store(t.UnixNano()) }

// Time is when it happened last; the zero time if it never did.
func (m *Moment) Time() time.Time {
	if at := m.at.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Bounds are the upper ends of the buckets of a Histogram; one more has the
// rest.
func Bounds() []time.Duration { return slices.Clone(bounds[:]) }

var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// A Histogram counts durations in buckets.
type Histogram struct {
	buckets [len(bounds) + 1]atomic.Int64
	sum     atomic.Int64
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Read returns how many were counted up to each bound, how many in all, and
// their sum.
func (h *Histogram) Read() (upTo []int64, n int64, sum time.Duration) {
	upTo = make([]int64, len(bounds))
	for i := range h.buckets {
		n += h.buckets[i].Load()
		if i < len(upTo) {
			upTo[i] = n
		}
	}
	return upTo, n, time.Duration(h.sum.Load())
}

// Histograms are one for each name. Names must be few: a route, not a path.
type Histograms[Name comparable] struct {
	mu sync.RWMutex
	by map[Name]*Histogram
}

// Of is the histogram of a name.
func (h *Histograms[Name]) Of(name Name) *Histogram {
	h.mu.RLock()
	one := h.by[name]
	h.mu.RUnlock()
	if one != nil {
		return one
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = map[Name]*Histogram{}
	}
	if h.by[name] == nil {
		h.by[name] = new(Histogram)
	}
	return h.by[name]
}

// Each calls f for each name that there is.
func (h *Histograms[Name]) Each(f func(Name, *Histogram)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for name, one := range h.by {
		f(name, one)
	}
}
