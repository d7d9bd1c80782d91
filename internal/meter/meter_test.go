package meter

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, time.Second, time.Hour, -1} {
		all.Go(func() { h.Observe(d) })
	}
	all.Wait()
	upTo, n, sum := h.Read()
	if n != 6 || sum != time.Hour+time.Second+201*time.Microsecond-1 {
		t.Errorf("%d durations of %v", n, sum)
	}
	at := func(d time.Duration) int64 { return upTo[slices.Index(Bounds(), d)] }
	if at(100*time.Microsecond) != 3 || at(250*time.Microsecond) != 4 || at(time.Second) != 5 || at(30*time.Second) != 5 {
		t.Errorf("up to each bound: %v", upTo)
	}
}

func TestZero(t *testing.T) {
	var c Counter
	var m Moment
	var h Histograms[string]
	c.Inc()
	c.Add(2)
	if c.Value() != 3 || !m.Time().IsZero() {
		t.Errorf("%d, %v", c.Value(), m.Time())
	}
	m.Set(time.Unix(7, 0))
	h.Of("a").Observe(1)
	h.Of("a").Observe(1)
	seen := 0
	h.Each(func(name string, one *Histogram) {
		_, n, _ := one.Read()
		seen += int(n)
	})
	if seen != 2 || !m.Time().Equal(time.Unix(7, 0)) {
		t.Errorf("%d durations, %v", seen, m.Time())
	}
}
