// Command series measures the store of lines and points alone: how much it
// makes durable in a second, how fast it draws a long curve, and what reading
// the tail of a long log costs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
)

func main() {
	dir := flag.String("dir", "", "where to write; empty: a temporary folder")
	last := flag.Duration("for", 5*time.Second, "how long to append")
	replicas := flag.Int("replicas", 32, "how many append at the same time")
	flag.Parse()
	if err := run(*dir, *last, *replicas); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string, last time.Duration, replicas int) error {
	dir, err := os.MkdirTemp(dir, "mlaas-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	place, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		return err
	}
	defer place.Close()
	s := &series.Store{Dir: filepath.Join(dir, "series"), Blob: place}
	if err := s.Open(); err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	err = errors.Join(ingest(ctx, s, last, replicas), tail(ctx, s), curve(ctx, s))
	cancel()
	return errors.Join(err, <-ended)
}

// row prints a figure beside its limit, and how many times better it is.
func row(what string, got, limit float64, unit string, atLeast bool) error {
	ratio, word := got/limit, "at least"
	if !atLeast {
		ratio, word = limit/got, "at most"
	}
	fmt.Printf("%-46s %12.1f %s (%s %g; %.1fx)\n", what, got, unit, word, limit, ratio)
	if ratio < 1 {
		return fmt.Errorf("%s: %.1f %s, want %s %g", what, got, unit, word, limit)
	}
	return nil
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ingest appends lines of 100 bytes and points from many replicas at once.
func ingest(ctx context.Context, s *series.Store, last time.Duration, replicas int) error {
	const batch = 200
	var lines, points atomic.Int64
	var mu sync.Mutex
	var waits []time.Duration
	began, used := time.Now(), cpu()
	var wg sync.WaitGroup
	errs := make(chan error, replicas)
	for i := range replicas {
		wg.Go(func() {
			f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(fmt.Sprintf("run%d", i%4)), Epoch: 1, Replica: mlaas.ReplicaName("worker", i), Incarnation: 1}
			log := mlaas.Frame{Stream: mlaas.LogStream, Lines: make([]mlaas.LogLine, batch)}
			metric := mlaas.Frame{Stream: mlaas.MetricStream, Points: make([]mlaas.Point, batch)}
			var mine []time.Duration
			for first := int64(1); time.Since(began) < last; first += batch {
				now := time.Now()
				log.First, metric.First = first, first
				for k := range int64(batch) {
					log.Lines[k] = mlaas.LogLine{Time: now, Stream: "stdout", Text: fmt.Sprintf("step %09d loss %.12f accuracy %.12f learning rate 0.001 examples per second %012d", first+k, 1/float64(first+k), 1-1/float64(first+k), first*k)[:100]}
					metric.Points[k] = mlaas.Point{Key: [...]string{"loss", "accuracy", "rate", "time"}[k%4], Step: (first + k) / 4, Time: now.UnixMilli(), Value: mlaas.Number(math.Sin(float64(first + k)))}
				}
				if err := s.Append(ctx, series.Batch{Fence: f, Frame: log}, series.Batch{Fence: f, Frame: metric}); err != nil {
					errs <- err
					return
				}
				mine = append(mine, time.Since(now))
				lines.Add(batch)
				points.Add(batch)
			}
			mu.Lock()
			waits = append(waits, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took, spent := time.Since(began).Seconds(), (cpu() - used).Seconds()
	select {
	case err := <-errs:
		return err
	default:
	}
	slices.Sort(waits)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("%d replicas in 4 runs, frames of %d; %.2f cores used; p50 %s, p99 %s from call to durable; heap %d MiB\n", replicas, batch, spent/took,
		waits[len(waits)/2].Round(time.Microsecond), waits[len(waits)*99/100].Round(time.Microsecond), m.HeapAlloc>>20)
	return errors.Join(
		row("lines of 100 bytes durable in a second", float64(lines.Load())/took, 100_000, "/s", true),
		row("points durable in the same second", float64(points.Load())/took, 100_000, "/s", true))
}

// tail reads the end of the long logs that ingest made.
func tail(ctx context.Context, s *series.Store) error {
	best := math.MaxFloat64
	var n int
	for range 20 {
		began := time.Now()
		lines, err := s.Lines(ctx, series.LineQuery{Tenant: mlaas.DefaultTenant, Run: "run0", Last: 100})
		if err != nil {
			return err
		}
		best, n = min(best, time.Since(began).Seconds()*1000), len(lines)
	}
	log, _, err := s.LastCursor(ctx, mlaas.DefaultTenant, "run0")
	if err != nil {
		return err
	}
	return row(fmt.Sprintf("the last %d of %d lines", n, log), best, 10, "ms", false)
}

// curve draws a million points, first as they came, then from their chunks.
func curve(ctx context.Context, s *series.Store) error {
	const n, batch = 1_000_000, 5000
	f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: "curve", Epoch: 1, Replica: "worker-0", Incarnation: 1}
	frame := mlaas.Frame{Stream: mlaas.MetricStream, Points: make([]mlaas.Point, batch)}
	value := 0.0
	for first := int64(1); first <= n; first += batch {
		frame.First = first
		for k := range int64(batch) {
			value += math.Sin(float64((first+k)*7919%1000)) / 10
			frame.Points[k] = mlaas.Point{Key: "loss", Step: first + k, Time: 1_700_000_000_000 + 10*(first+k), Value: mlaas.Number(value)}
		}
		if err := s.Append(ctx, series.Batch{Fence: f, Frame: frame}); err != nil {
			return err
		}
	}
	draw := func(what string) error {
		var all []float64
		var n int
		for range 20 {
			began := time.Now()
			curves, err := s.Points(ctx, series.PointQuery{Tenant: f.Tenant, Run: f.Run, Buckets: 2000})
			if err != nil {
				return err
			}
			all = append(all, time.Since(began).Seconds()*1000)
			n = len(curves[0].Buckets)
		}
		slices.Sort(all)
		return row(fmt.Sprintf("1e6 points to %d buckets, %s", n, what), all[len(all)/2], 20, "ms", false)
	}
	err := draw("as they came")
	return errors.Join(err, s.Flush(ctx), draw("sealed"))
}
