// Command series measures the store of lines and points alone, in a folder and
// on objects: how much it makes durable in a second, how fast it draws a long
// curve, and what reading the tail of a long log costs, here and from another
// process. The objects are files, each with an fsync, so that what is measured
// is ours.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store/sqlitestore"
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
	ctx := context.Background()
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "db"), sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer db.Close()
	bucket, err := openBucket(filepath.Join(dir, "bucket"))
	if err != nil {
		return err
	}
	return errors.Join(
		measure(ctx, "files", &series.Store{Dir: filepath.Join(dir, "series"), Blob: place}, last, replicas),
		measure(ctx, "objects", &series.Store{Objects: bucket, DB: db, Shard: "bench", Blob: place}, last, replicas))
}

func measure(ctx context.Context, name string, s *series.Store, last time.Duration, replicas int) error {
	if err := s.Open(); err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b := bench{name, s, true}
	err := errors.Join(b.ingest(ctx, last, replicas), b.tail(ctx), b.curve(ctx))
	if s.Dir == "" {
		err = errors.Join(err, b.afar(ctx))
	}
	cancel()
	err = errors.Join(err, <-ended)
	if err == nil && !b.holds {
		err = fmt.Errorf("on %s not every limit holds", name)
	}
	return err
}

// A bench measures one store.
type bench struct {
	name  string
	store *series.Store
	holds bool
}

// row prints a figure beside its limit.
func (b *bench) row(what string, got, limit float64, unit string, atMost bool, note string) {
	b.holds = rig.Row(b.name+": "+what, got, limit, unit, atMost, note) && b.holds
}

// A bucket is objects as files, durable when Put returns.
type bucket struct{ root *os.Root }

func openBucket(dir string) (bucket, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return bucket{}, err
	}
	root, err := os.OpenRoot(dir)
	return bucket{root}, err
}

// name is the file of a key: one folder is enough.
func (bucket) name(key string) string { return strings.ReplaceAll(key, "/", "+") }

func (b bucket) Put(_ context.Context, key string, data []byte) error {
	f, err := b.root.OpenFile(b.name(key), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	folder, err := b.root.Open(".")
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

func (b bucket) Get(_ context.Context, key string) ([]byte, error) {
	data, err := b.root.ReadFile(b.name(key))
	if errors.Is(err, fs.ErrNotExist) {
		err = mlaas.ErrNotFound
	}
	return data, err
}

func (b bucket) List(_ context.Context, prefix string) (found []series.Object, err error) {
	all, err := fs.ReadDir(b.root.FS(), ".")
	for _, e := range all {
		if key := strings.ReplaceAll(e.Name(), "+", "/"); strings.HasPrefix(key, prefix) {
			if info, err := e.Info(); err == nil { // else it went meanwhile
				found = append(found, series.Object{Key: key, Size: info.Size()})
			}
		}
	}
	return found, err
}

func (b bucket) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		if err := b.root.Remove(b.name(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ingest appends lines of 100 bytes and points from many replicas at once.
func (b *bench) ingest(ctx context.Context, last time.Duration, replicas int) error {
	batch := int64(200)
	if b.store.Dir == "" { // what a replica has on its way: an object is on its way for longer than an fsync
		batch = 2000
	}
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
				for k := range batch {
					log.Lines[k] = mlaas.LogLine{Time: now, Stream: "stdout", Text: fmt.Sprintf("step %09d loss %.12f accuracy %.12f learning rate 0.001 examples per second %012d", first+k, 1/float64(first+k), 1-1/float64(first+k), first*k)[:100]}
					metric.Points[k] = mlaas.Point{Key: [...]string{"loss", "accuracy", "rate", "time"}[k%4], Step: (first + k) / 4, Time: now.UnixMilli(), Value: mlaas.Number(math.Sin(float64(first + k)))}
				}
				if err := b.store.Append(ctx, series.Batch{Fence: f, Frame: log}, series.Batch{Fence: f, Frame: metric}); err != nil {
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
	note := fmt.Sprintf("%d replicas, frames of %d; %.2f cores; p50 %s, p99 %s to durable; heap %d MiB", replicas, batch, spent/took,
		waits[len(waits)/2].Round(time.Millisecond), waits[len(waits)*99/100].Round(time.Millisecond), m.HeapAlloc>>20)
	b.row("lines of 100 bytes durable in a second", float64(lines.Load())/took, 100_000, "/s", false, note)
	b.row("points durable in the same second", float64(points.Load())/took, 100_000, "/s", false, "")
	return nil
}

// tail reads the end of the long logs that ingest made.
func (b *bench) tail(ctx context.Context) error {
	best := math.MaxFloat64
	var n int
	for range 20 {
		began := time.Now()
		lines, err := b.store.Lines(ctx, series.LineQuery{Tenant: mlaas.DefaultTenant, Run: "run0", Last: 100})
		if err != nil {
			return err
		}
		best, n = min(best, time.Since(began).Seconds()*1000), len(lines)
	}
	log, _, err := b.store.LastCursor(ctx, mlaas.DefaultTenant, "run0")
	if err != nil {
		return err
	}
	b.row(fmt.Sprintf("the last %d of %d lines", n, log), best, 10, "ms", true, "")
	return nil
}

// curve draws a million points, first as they came, then from their chunks.
func (b *bench) curve(ctx context.Context) error {
	const n, batch, together = 1_000_000, 5000, 20
	f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: "curve", Epoch: 1, Replica: "worker-0", Incarnation: 1}
	frames := make([]series.Batch, 0, together)
	value := 0.0
	for first := int64(1); first <= n; first += batch {
		frame := mlaas.Frame{Stream: mlaas.MetricStream, First: first, Points: make([]mlaas.Point, batch)}
		for k := range int64(batch) {
			value += math.Sin(float64((first+k)*7919%1000)) / 10
			frame.Points[k] = mlaas.Point{Key: "loss", Step: first + k, Time: 1_700_000_000_000 + 10*(first+k), Value: mlaas.Number(value)}
		}
		if frames = append(frames, series.Batch{Fence: f, Frame: frame}); len(frames) < together {
			continue
		}
		if err := b.store.Append(ctx, frames...); err != nil {
			return err
		}
		frames = frames[:0]
	}
	if err := b.draw(ctx, b.store, "as they came"); err != nil {
		return err
	}
	if err := b.store.Flush(ctx); err != nil {
		return err
	}
	return b.draw(ctx, b.store, "sealed")
}

func (b *bench) draw(ctx context.Context, r series.Reader, what string) error {
	var all []float64
	var n int
	for range 20 {
		began := time.Now()
		curves, err := r.Points(ctx, series.PointQuery{Tenant: mlaas.DefaultTenant, Run: "curve", Buckets: 2000})
		if err != nil {
			return err
		}
		all = append(all, time.Since(began).Seconds()*1000)
		n = len(curves[0].Buckets)
	}
	b.row(fmt.Sprintf("1e6 points to %d buckets, %s", n, what), rig.Median(all), 20, "ms", true, "")
	return nil
}

// afar reads from another process, and by itself where the owner is gone.
func (b *bench) afar(ctx context.Context) error {
	server := httptest.NewServer(series.Handler(b.store))
	defer server.Close()
	at := server.URL
	r := &series.Remote{DB: b.store.DB, Blob: b.store.Blob, Objects: b.store.Objects, Client: server.Client(),
		Serves: func(context.Context, string) (string, error) { return at, nil }}
	if err := b.draw(ctx, r, "asked over HTTP"); err != nil {
		return err
	}
	at = ""
	return b.draw(ctx, r, "with nobody to ask")
}
