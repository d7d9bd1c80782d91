package series_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a place for blobs that takes no time.
type memory struct {
	mu    sync.Mutex
	blobs map[mlaas.Digest][]byte
	fail  error  // of Put
	event func() // before Put and Delete return
	reads int
}

func newMemory() *memory { return &memory{blobs: map[mlaas.Digest][]byte{}} }

func (m *memory) Put(_ context.Context, r io.Reader, _ mlaas.Digest) (mlaas.Digest, int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return "", 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return "", 0, m.fail
	}
	d := blob.Name(data)
	m.blobs[d] = data
	if m.event != nil {
		m.event()
	}
	return d, int64(len(data)), nil
}

func (m *memory) Get(_ context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.blobs[d]
	if m.reads++; !ok {
		return nil, mlaas.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(data[offset:])), nil
}

func (m *memory) Stat(_ context.Context, d mlaas.Digest) (blob.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.blobs[d]
	if !ok {
		return blob.Info{}, mlaas.ErrNotFound
	}
	return blob.Info{Digest: d, Size: int64(len(data))}, nil
}

func (m *memory) Each(_ context.Context, f func(blob.Info) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d, data := range m.blobs {
		if err := f(blob.Info{Digest: d, Size: int64(len(data))}); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Delete(_ context.Context, d mlaas.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, d)
	if m.event != nil {
		m.event()
	}
	return nil
}

// A medium is where a test has its stores.
type medium struct {
	name    string
	prepare func(t testing.TB, s *series.Store)

	// crash opens what s leaves when its process ends without a word.
	crash func(t testing.TB, s *series.Store) *series.Store
}

var inFolder = medium{"folder", func(t testing.TB, s *series.Store) {
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
}, func(t testing.TB, s *series.Store) *series.Store {
	next := like(s)
	next.Dir = t.TempDir()
	copyStore(t, s.Dir, next.Dir)
	s.Close()
	return next
}}

var onObjects = medium{"objects", func(t testing.TB, s *series.Store) {
	if s.Objects == nil {
		s.Objects = newBucket()
	}
	if s.DB == nil {
		s.DB = newRecords(t)
	}
	if s.Shard == "" {
		s.Shard = "here"
	}
	if s.Every == 0 {
		s.Every = time.Nanosecond // what gathers is tested on its own
	}
}, func(_ testing.TB, s *series.Store) *series.Store { return like(s) }} // s goes on, and nobody hears it

// like is a store of the same place.
func like(s *series.Store) *series.Store {
	return &series.Store{Dir: s.Dir, Blob: s.Blob, Log: s.Log, SegmentBytes: s.SegmentBytes, LogBytes: s.LogBytes, MaxKeys: s.MaxKeys,
		Objects: s.Objects, DB: s.DB, Shard: s.Shard, Epoch: s.Epoch, Held: s.Held, Take: s.Take, Every: s.Every, GatherBytes: s.GatherBytes}
}

func newRecords(t testing.TB) store.Driver {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestStore is what holds wherever a store is.
func TestStore(t *testing.T) {
	tests := map[string]func(*testing.T, medium){
		"Lines":                 testLines,
		"Delivery":              testDelivery,
		"Refused":               testRefused,
		"Junk":                  testJunk,
		"Changed":               testChanged,
		"Points":                testPoints,
		"NaNCountsForLastAlone": testNaNCountsForLastAlone,
		"Buckets":               testBuckets,
		"TooManyKeys":           testTooManyKeys,
		"Delete":                testDelete,
		"LimitOnLog":            testLimitOnLog,
		"Trim":                  testTrim,
		"UsageAndBlobs":         testUsageAndBlobs,
		"Together":              testTogether,
		"Idle":                  testIdle,
		"SealingFails":          testSealingFails,
		"Cancelled":             testCancelled,
		"FlippedBitInChunk":     testFlippedBitInChunk,
		"LostChunk":             testLostChunk,
		"Times":                 testTimes,
		"Model":                 testModel,
	}
	for _, on := range []medium{inFolder, onObjects} {
		for name, test := range tests {
			t.Run(on.name+"/"+name, func(t *testing.T) { test(t, on) })
		}
	}
}

func open(t testing.TB, s *series.Store) *series.Store {
	t.Helper()
	return inFolder.open(t, s)
}

func (on medium) open(t testing.TB, s *series.Store) *series.Store {
	t.Helper()
	on.prepare(t, s)
	if s.Blob == nil {
		s.Blob = newMemory()
	}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// again opens what another store left, after it was closed.
func again(t testing.TB, old *series.Store) *series.Store {
	t.Helper()
	s := like(old)
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// seal runs the store until everything that is full is sealed.
func seal(t testing.TB, s *series.Store) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func usage(t testing.TB, s *series.Store) mlaas.Bytes {
	t.Helper()
	n, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const tenant = mlaas.DefaultTenant

func fence(replica string, epoch int) mlaas.Fence {
	return mlaas.Fence{Tenant: tenant, Run: "run", Epoch: epoch, Replica: replica, Incarnation: 1}
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

func logFrame(f mlaas.Fence, first int64, texts ...string) series.Batch {
	b := series.Batch{Fence: f, Frame: mlaas.Frame{Stream: mlaas.LogStream, First: first}}
	for i, text := range texts {
		b.Frame.Lines = append(b.Frame.Lines, mlaas.LogLine{Time: began.Add(time.Duration(first+int64(i)) * time.Second), Stream: "stdout", Text: text})
	}
	return b
}

func pointFrame(f mlaas.Fence, first int64, points ...mlaas.Point) series.Batch {
	return series.Batch{Fence: f, Frame: mlaas.Frame{Stream: mlaas.MetricStream, First: first, Points: points}}
}

func add(t testing.TB, s *series.Store, batches ...series.Batch) {
	t.Helper()
	if err := s.Append(t.Context(), batches...); err != nil {
		t.Fatal(err)
	}
}

func lines(t testing.TB, s *series.Store, q series.LineQuery) []series.Line {
	t.Helper()
	q.Tenant = tenant
	if q.Run == "" {
		q.Run = "run"
	}
	got, err := s.Lines(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// short is lines as cursor:replica/seq:text.
func short(list []series.Line) string {
	var out []string
	for _, l := range list {
		out = append(out, fmt.Sprintf("%d:%s/%d:%s", l.Cursor, l.Replica, l.Seq, l.Text))
	}
	return strings.Join(out, " ")
}

func testLines(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	w0, w1 := fence("worker-0", 1), fence("worker-1", 1)
	if got := short(lines(t, s, series.LineQuery{})); got != "" {
		t.Errorf("before the first there is %s", got)
	}
	add(t, s, logFrame(w0, 1, "a", "b"), logFrame(w1, 1, "c"))
	add(t, s, logFrame(w0, 3, "d"))
	add(t, s, logFrame(fence("worker-0", 2), 1, "again a"))
	check := func(s *series.Store) {
		t.Helper()
		tests := []struct {
			q    series.LineQuery
			want string
		}{
			{series.LineQuery{}, "1:worker-0/1:a 2:worker-0/2:b 3:worker-1/1:c 4:worker-0/3:d 5:worker-0/4:again a"},
			{series.LineQuery{From: -7, Limit: 2}, "1:worker-0/1:a 2:worker-0/2:b"},
			{series.LineQuery{From: 3, Limit: 2}, "3:worker-1/1:c 4:worker-0/3:d"},
			{series.LineQuery{From: 6}, ""},
			{series.LineQuery{Replica: "worker-0", From: 2}, "2:worker-0/2:b 4:worker-0/3:d 5:worker-0/4:again a"},
			{series.LineQuery{Replica: "worker-1"}, "3:worker-1/1:c"},
			{series.LineQuery{Replica: "worker-9"}, ""},
			{series.LineQuery{Grep: regexp.MustCompile("^a")}, "1:worker-0/1:a 5:worker-0/4:again a"},
			{series.LineQuery{Grep: regexp.MustCompile("a"), From: 2}, "5:worker-0/4:again a"},
			{series.LineQuery{Grep: regexp.MustCompile("nowhere")}, ""},
			{series.LineQuery{Last: 2}, "4:worker-0/3:d 5:worker-0/4:again a"},
			{series.LineQuery{Last: 100}, "1:worker-0/1:a 2:worker-0/2:b 3:worker-1/1:c 4:worker-0/3:d 5:worker-0/4:again a"},
			{series.LineQuery{Last: 2, Replica: "worker-0", Grep: regexp.MustCompile("[ad]$")}, "4:worker-0/3:d 5:worker-0/4:again a"},
			{series.LineQuery{Run: "other"}, ""},
		}
		for _, tt := range tests {
			if got := short(lines(t, s, tt.q)); got != tt.want {
				t.Errorf("%+v: %s, want %s", tt.q, got, tt.want)
			}
		}
		if log, metric, err := s.LastCursor(t.Context(), tenant, "run"); err != nil || log != 5 || metric != 0 {
			t.Errorf("the last cursors are %d, %d", log, metric)
		}
		if got, err := s.LastSeq(t.Context(), tenant, "run", "worker-0"); err != nil || got != 4 {
			t.Errorf("the last seq is %d", got)
		}
		if log, metric := s.Durable(w0); log != 3 || metric != 0 {
			t.Errorf("durable are %d, %d", log, metric)
		}
		l := lines(t, s, series.LineQuery{From: 5})[0]
		if l.Attempt != 2 || !l.Time.Equal(began.Add(time.Second)) || l.Stream != "stdout" || l.Time.Location() != time.UTC {
			t.Errorf("the last is %+v", l)
		}
	}
	check(s)
	seal(t, s)
	check(s)
	s.Close()
	check(again(t, s))
}

func testDelivery(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "a", "b", "c"))
	add(t, s, logFrame(w, 1, "a", "b", "c"))      // again
	add(t, s, logFrame(w, 2, "b", "c", "d", "e")) // overlapping
	err := s.Append(t.Context(), logFrame(w, 7, "g"))
	if !errors.Is(err, mlaas.ErrConflict) || err.Error() != "replica worker-0 of run run sent 7 of its log where 6 is next: conflict" {
		t.Errorf("a gap: %v", err)
	}
	// One wrong batch does not keep the others out.
	err = s.Append(t.Context(), logFrame(fence("worker-1", 1), 3, "x"), logFrame(w, 6, "f"))
	if !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("a gap among others: %v", err)
	}
	add(t, s) // nothing
	if got, want := short(lines(t, s, series.LineQuery{})), "1:worker-0/1:a 2:worker-0/2:b 3:worker-0/3:c 4:worker-0/4:d 5:worker-0/5:e 6:worker-0/6:f"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}

func testRefused(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	w := fence("worker-0", 1)
	bad := map[string]series.Batch{
		"tenant":  {Fence: mlaas.Fence{Run: "run", Replica: "worker-0"}, Frame: logFrame(w, 1, "a").Frame},
		"run":     {Fence: mlaas.Fence{Tenant: tenant, Run: "../up", Replica: "worker-0"}, Frame: logFrame(w, 1, "a").Frame},
		"replica": {Fence: mlaas.Fence{Tenant: tenant, Run: "run"}, Frame: logFrame(w, 1, "a").Frame},
		"first":   logFrame(w, 0, "a"),
		"stream":  {Fence: w, Frame: mlaas.Frame{Stream: "other", First: 1}},
		"mixed":   {Fence: w, Frame: mlaas.Frame{Stream: mlaas.LogStream, First: 1, Points: make([]mlaas.Point, 1)}},
		"channel": {Fence: w, Frame: mlaas.Frame{Stream: mlaas.LogStream, First: 1, Lines: []mlaas.LogLine{{Stream: "third"}}}},
	}
	for name, b := range bad {
		if err := s.Append(t.Context(), b); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	if _, err := s.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "../../etc"}); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("a run outside: %v", err)
	}
}

func testJunk(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	w := fence("worker-0", 1)
	long := strings.Repeat("ä", 50_000) // 100,000 bytes
	add(t, s, logFrame(w, 1, "\x1b[31mred\x00\xff\xfe", long, "after"))
	got := lines(t, s, series.LineQuery{})
	if len(got) != 4 || got[0].Text != "\x1b[31mred\x00\uFFFD" || got[1].Part != 1 || got[2].Part != 2 || got[3].Part != 0 {
		t.Fatalf("there are %d lines", len(got))
	}
	if got[1].Text+got[2].Text != long || len(got[1].Text) > mlaas.MaxLine {
		t.Errorf("the long line is %d and %d bytes", len(got[1].Text), len(got[2].Text))
	}
	if log, _ := s.Durable(w); log != 3 {
		t.Errorf("durable is %d, want 3: what was sent, not what became of it", log)
	}
	add(t, s, logFrame(w, 4, strings.Repeat("\xff a", 3<<20)))
	for _, l := range lines(t, s, series.LineQuery{}) {
		if len(l.Text) > mlaas.MaxLine {
			t.Errorf("a line has %d bytes", len(l.Text))
		}
	}
	times := []time.Time{{}, time.Unix(1<<40, 999_999_999).UTC(), time.Unix(-5, 1).UTC()}
	b := logFrame(w, 5, "1", "2", "3")
	for i := range times {
		b.Frame.Lines[i].Time = times[i]
	}
	add(t, s, b)
	for i, l := range lines(t, s, series.LineQuery{Last: 3}) {
		if !l.Time.Equal(times[i]) {
			t.Errorf("time %d is %s, want %s", i, l.Time, times[i])
		}
	}
}

func testChanged(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	mine, _ := s.Changed(tenant, "run")
	other, leave := s.Changed(tenant, "other")
	add(t, s, logFrame(fence("worker-0", 1), 1, "a"))
	select {
	case <-mine:
	default:
		t.Error("it is not closed")
	}
	select {
	case <-other:
		t.Error("that of another run is closed")
	default:
	}
	leave()
	next, _ := s.Changed(tenant, "run")
	if err := s.Delete(t.Context(), tenant, "run"); err != nil {
		t.Fatal(err)
	}
	<-next
}

func pt(key string, step int64, value float64) mlaas.Point {
	return mlaas.Point{Key: key, Step: step, Time: 1000 * step, Value: mlaas.Number(value)}
}

// drawn is curves as replica.key step=value ...
func drawn(curves []series.Curve) string {
	var out []string
	for _, c := range curves {
		line := c.Replica + "." + c.Key
		for _, p := range c.Points {
			line += fmt.Sprintf(" %d=%v", p.Step, float64(p.Value))
		}
		for _, b := range c.Buckets {
			line += fmt.Sprintf(" %d=%v..%v,%v", b.Step, float64(b.Min), float64(b.Max), float64(b.Last))
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func points(t testing.TB, s *series.Store, q series.PointQuery) []series.Curve {
	t.Helper()
	q.Tenant, q.Run = tenant, "run"
	got, err := s.Points(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func testPoints(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	w0, w10, w2 := fence("worker-0", 1), fence("worker-10", 1), fence("worker-2", 1)
	nan, inf := math.NaN(), math.Inf(-1)
	add(t, s,
		pointFrame(w0, 1, pt("loss", 1, 5), pt("acc", 1, 0.1), pt("loss", 2, nan), pt("loss", 3, inf)),
		pointFrame(w10, 1, pt("acc", 1, 10)), pointFrame(w2, 1, pt("acc", 1, 2)))
	add(t, s, pointFrame(fence("worker-0", 2), 1, pt("loss", 2, 4), pt("loss", 4, 1))) // from a checkpoint
	two, three := int64(2), int64(3)
	check := func(s *series.Store) {
		t.Helper()
		tests := []struct {
			q    series.PointQuery
			want string
		}{
			{series.PointQuery{}, "worker-0.acc 1=0.1; worker-0.loss 1=5 2=4 3=-Inf 4=1; worker-2.acc 1=2; worker-10.acc 1=10"},
			{series.PointQuery{Replica: "worker-0", Key: "loss", FromStep: &two, ToStep: &three}, "worker-0.loss 2=4 3=-Inf"},
			{series.PointQuery{Key: "acc", FromStep: &two}, ""},
			{series.PointQuery{FromStep: &three, ToStep: &two}, ""},
			{series.PointQuery{Key: "loss", Buckets: 100}, "worker-0.loss 1=5..5,5 2=4..4,4 3=-Inf..-Inf,-Inf 4=1..1,1"},
			{series.PointQuery{Key: "loss", Buckets: 2}, "worker-0.loss 2=4..5,4 4=-Inf..1,1"},
			{series.PointQuery{Key: "loss", Buckets: 1}, "worker-0.loss 4=-Inf..5,1"},
			{series.PointQuery{Replica: "nobody"}, ""},
		}
		for _, tt := range tests {
			if got := drawn(points(t, s, tt.q)); got != tt.want {
				t.Errorf("%+v: %s, want %s", tt.q, got, tt.want)
			}
		}
		got, err := s.RunPoints(t.Context(), tenant, "run", 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, p := range got {
			text = append(text, fmt.Sprintf("%d:%s.%s %d=%v", p.Cursor, p.Replica, p.Key, p.Step, float64(p.Value)))
		}
		if got, want := strings.Join(text, "; "), "2:worker-0.acc 1=0.1; 3:worker-0.loss 2=NaN; 4:worker-0.loss 3=-Inf"; got != want {
			t.Errorf("from 2 there is %s, want %s", got, want)
		}
		if got, err := s.RunPoints(t.Context(), tenant, "run", 9, 3); err != nil || len(got) != 0 {
			t.Errorf("from 9 there is %v, %v", got, err)
		}
		if keys, err := s.Keys(t.Context(), tenant, "run"); err != nil || !slices.Equal(keys, []string{"acc", "loss"}) {
			t.Errorf("the keys are %v, %v", keys, err)
		}
		if log, metric := s.Durable(w0); log != 0 || metric != 4 {
			t.Errorf("durable are %d, %d", log, metric)
		}
		if _, last, err := s.LastCursor(t.Context(), tenant, "run"); err != nil || last != 8 {
			t.Errorf("the last cursor is %d", last)
		}
	}
	check(s)
	seal(t, s)
	check(s)
	s.Close()
	check(again(t, s))
}

func testNaNCountsForLastAlone(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	nan := math.NaN()
	add(t, s, pointFrame(fence("worker-0", 1), 1, pt("x", 0, nan), pt("x", 1, 2), pt("x", 2, nan), pt("y", 0, nan), pt("y", 1, nan)))
	if got, want := drawn(points(t, s, series.PointQuery{Buckets: 1})), "worker-0.x 2=2..2,NaN; worker-0.y 1=NaN..NaN,NaN"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}

// Buckets of sealed and unsealed points, many and few, must be of exactly the
// points that are there.
func testBuckets(t *testing.T, on medium) {
	const n = 200_000
	s := on.open(t, &series.Store{SegmentBytes: 1 << 20})
	w := fence("worker-0", 1)
	all := make([]mlaas.Point, n)
	for i := range all {
		all[i] = mlaas.Point{Key: "x", Step: int64(i * 3), Time: int64(i), Value: mlaas.Number(math.Sin(float64(i)/1000) * float64(i%977))}
	}
	for i := 0; i < n; i += 5000 {
		add(t, s, pointFrame(w, int64(i+1), all[i:i+5000]...))
		if i == n/2 {
			seal(t, s)
		}
	}
	from, to := int64(1001), int64(2*n)
	for _, q := range []series.PointQuery{{Buckets: 1}, {Buckets: 7}, {Buckets: 500}, {Buckets: 2000}, {Buckets: n}, {Buckets: 300, FromStep: &from, ToStep: &to}, {Buckets: 5, FromStep: &from}} {
		curves := points(t, s, q)
		if len(curves) != 1 {
			t.Fatalf("there are %d curves", len(curves))
		}
		low, high := int64(math.MinInt64), int64(math.MaxInt64)
		if q.FromStep != nil {
			low = *q.FromStep
		}
		if q.ToStep != nil {
			high = *q.ToStep
		}
		if err := exact(curves[0].Buckets, all, low, high); err != nil {
			t.Errorf("%d buckets from %d to %d: %v", q.Buckets, low, high, err)
		}
		if got := len(curves[0].Buckets); got > q.Buckets || got < min(q.Buckets, 2000)/3 {
			t.Errorf("%d buckets are asked for, there are %d", q.Buckets, got)
		}
	}
	raw := points(t, s, series.PointQuery{})[0].Points
	if len(raw) != series.MaxPoints || raw[0].Step != all[n-series.MaxPoints].Step || raw[len(raw)-1] != all[n-1] {
		t.Errorf("there are %d raw points from step %d", len(raw), raw[0].Step)
	}
}

// exact reports what is wrong with buckets of points by rising step.
func exact(buckets []series.Bucket, all []mlaas.Point, low, high int64) error {
	i := 0
	for i < len(all) && all[i].Step < low {
		i++
	}
	for _, b := range buckets {
		lo, hi, last := math.NaN(), math.NaN(), mlaas.Point{Step: -1}
		for ; i < len(all) && all[i].Step <= b.Step; i++ {
			last = all[i]
			v := float64(all[i].Value)
			if !(lo <= v) && v == v {
				lo = v
			}
			if !(hi >= v) && v == v {
				hi = v
			}
		}
		want := series.Bucket{Step: last.Step, Time: last.Time, Min: mlaas.Number(lo), Max: mlaas.Number(hi), Last: last.Value}
		if fmt.Sprint(b) != fmt.Sprint(want) {
			return fmt.Errorf("a bucket is %v, want %v", b, want)
		}
	}
	if i < len(all) && all[i].Step <= high {
		return fmt.Errorf("point %v and more are in none", all[i])
	}
	return nil
}

func testTooManyKeys(t *testing.T, on medium) {
	s := on.open(t, &series.Store{MaxKeys: 3})
	w := fence("worker-0", 1)
	add(t, s, pointFrame(w, 1, pt("a", 1, 1), pt("", 1, 1), pt("b", 1, 1), pt(strings.Repeat("k", 1000), 1, 1), pt("c", 1, 1), pt("d", 1, 1), pt("a", 2, 2)))
	var many []mlaas.Point
	for i := range 20_000 {
		many = append(many, pt(fmt.Sprintf("key-%d", i), 1, 1))
	}
	add(t, s, pointFrame(w, 8, many...))
	add(t, s, pointFrame(w, 20_008, pt("c", 2, 2)))
	check := func(s *series.Store) {
		t.Helper()
		if got, want := drawn(points(t, s, series.PointQuery{})), "worker-0.a 1=1 2=2; worker-0.b 1=1; worker-0.c 1=1 2=2"; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
		k, err := s.Kept(t.Context(), tenant, "run")
		if err != nil || k.Points != 5 || k.DroppedPoints != 20_003 || k.Lines != 1 {
			t.Errorf("kept is %+v, %v", k, err)
		}
		l := lines(t, s, series.LineQuery{})
		if len(l) != 1 || l[0].Stream != "platform" || !strings.Contains(l[0].Text, "a run keeps 3 names of 1 to 512 bytes") {
			t.Errorf("the log says %s", short(l))
		}
		if _, metric := s.Durable(w); metric != 20_008 {
			t.Errorf("durable is %d", metric)
		}
	}
	check(s)
	s.Close()
	s = again(t, s)
	check(s)
	seal(t, s)
	check(s)
	s.Close()
	check(again(t, s))
}

func testDelete(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	place := s.Blob.(*memory)
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "a"), pointFrame(w, 1, pt("x", 1, 1)))
	seal(t, s)
	add(t, s, logFrame(w, 2, "b"))
	if len(place.blobs) != 2 {
		t.Errorf("there are %d blobs", len(place.blobs))
	}
	for range 2 {
		if err := s.Delete(t.Context(), tenant, "run"); err != nil {
			t.Fatal(err)
		}
	}
	check := func(s *series.Store) {
		t.Helper()
		if got := short(lines(t, s, series.LineQuery{})); got != "" {
			t.Errorf("there is %s", got)
		}
		if got := drawn(points(t, s, series.PointQuery{})); got != "" {
			t.Errorf("there is %s", got)
		}
		if log, metric, err := s.LastCursor(t.Context(), tenant, "run"); err != nil || log != 0 || metric != 0 {
			t.Errorf("the last cursors are %d, %d", log, metric)
		}
	}
	check(s)
	if len(place.blobs) != 0 {
		t.Errorf("there are %d blobs left", len(place.blobs))
	}
	s.Close()
	s = again(t, s)
	check(s)
	add(t, s, logFrame(w, 1, "new")) // names are never used again, but if one were it begins anew
	seal(t, s)
	s.Close()
	if got := short(lines(t, again(t, s), series.LineQuery{})); got != "1:worker-0/1:new" {
		t.Errorf("there is %s", got)
	}
}

func testLimitOnLog(t *testing.T, on medium) {
	s := on.open(t, &series.Store{SegmentBytes: 10_000, LogBytes: 80_000})
	w := fence("worker-0", 1)
	text := strings.Repeat("x", 90)
	const n = 3000
	for i := range int64(n / 10) {
		var texts []string
		for k := range 10 {
			texts = append(texts, fmt.Sprintf("%05d %s", i*10+int64(k)+1, text))
		}
		add(t, s, logFrame(w, i*10+1, texts...))
		seal(t, s)
	}
	check := func(s *series.Store) {
		t.Helper()
		for _, q := range []series.LineQuery{{Limit: 10_000}, {Limit: 10_000, Replica: "worker-0"}, {Last: 10_000}} {
			got := lines(t, s, q)
			next, gaps := int64(1), 0
			for _, l := range got {
				n := max(l.Seq, l.Cursor)
				if l.Stream == "platform" {
					gaps++
					want := fmt.Sprintf("%d lines are not here any more: a run keeps 80000 of log, old runs make room for new ones, and a damaged disk loses some.", n-next+1)
					if l.Text != want {
						t.Errorf("it says %q, want %q", l.Text, want)
					}
				} else if n != next || !strings.HasPrefix(l.Text, fmt.Sprintf("%05d ", n)) {
					t.Fatalf("line %d comes where %d is next: %s", n, next, l.Text)
				}
				next = n + 1
			}
			if next != n+1 || gaps != 1 || got[0].Stream == "platform" {
				t.Errorf("%+v: %d lines up to %d with %d gaps", q, len(got), next-1, gaps)
			}
		}
		// From inside the gap one goes on behind it.
		got := lines(t, s, series.LineQuery{From: n / 2, Limit: 2})
		if len(got) != 2 || got[0].Stream != "platform" || got[1].Cursor != got[0].Cursor+1 {
			t.Errorf("in the middle there is %s", short(got))
		}
		k, err := s.Kept(t.Context(), tenant, "run")
		if err != nil || k.Lines+k.DroppedLines != n || k.Lines < 500 || k.Lines > 1000 {
			t.Errorf("kept is %+v, %v", k, err)
		}
	}
	check(s)
	s.Close()
	check(again(t, s))
}

func testTrim(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	for i := range 4 {
		f := fence("worker-0", 1)
		f.Run = mlaas.RunID(fmt.Sprintf("run%d", i))
		var noise []string
		for k := range 200 {
			noise = append(noise, string(blob.Name(fmt.Append(nil, i, k))))
		}
		add(t, s, logFrame(f, 1, noise...), pointFrame(f, 1, pt("x", 1, 1)))
	}
	seal(t, s)
	before := usage(t, s)
	finished := func(_ mlaas.Tenant, id mlaas.RunID) bool { return id != "run0" }
	freed, err := s.Trim(t.Context(), before, finished)
	if err != nil || freed != 0 {
		t.Errorf("with room it frees %d, %v", freed, err)
	}
	freed, err = s.Trim(t.Context(), before-1, finished)
	if err != nil || freed <= 0 || usage(t, s) != before-freed {
		t.Errorf("it frees %d of %d, %v; %d are left", freed, before, err, usage(t, s))
	}
	for i, want := range []string{"", "200 lines are not here any more", "", ""} {
		got := lines(t, s, series.LineQuery{Run: mlaas.RunID(fmt.Sprintf("run%d", i)), Last: 300})
		if (want == "") != (len(got) == 200) || want != "" && !strings.HasPrefix(got[0].Text, want) {
			t.Errorf("run%d has %d lines", i, len(got))
		}
	}
	if _, err := s.Trim(t.Context(), 0, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Blob.(*memory).blobs); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	if log, metric, err := s.LastCursor(t.Context(), tenant, "run3"); err != nil || log != 200 || metric != 1 {
		t.Errorf("the last cursors are %d, %d", log, metric)
	}
	s.Close()
	got := lines(t, again(t, s), series.LineQuery{Run: "run3"})
	if len(got) != 1 || got[0].Cursor != 200 {
		t.Errorf("what is left is %s", short(got))
	}
}

func testUsageAndBlobs(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	if got := usage(t, s); got != 0 {
		t.Errorf("empty it uses %d", got)
	}
	w := fence("worker-0", 1)
	for i := range int64(10) {
		add(t, s, logFrame(w, i+1, strings.Repeat("x", 100)), pointFrame(w, i+1, pt("x", i, 1)))
		seal(t, s)
	}
	named := map[mlaas.Digest]bool{}
	err := s.Blobs(t.Context(), func(d mlaas.Digest) error { named[d] = true; return nil })
	if err != nil {
		t.Fatal(err)
	}
	var size int
	for d, data := range s.Blob.(*memory).blobs {
		size += len(data)
		if !named[d] {
			t.Errorf("nobody names %s", d)
		}
	}
	if len(named) != len(s.Blob.(*memory).blobs) || len(named) > 6 {
		t.Errorf("%d blobs are named, %d are there", len(named), len(s.Blob.(*memory).blobs))
	}
	used := usage(t, s)
	if used < mlaas.Bytes(size) || used > mlaas.Bytes(size)+100 {
		t.Errorf("it uses %d, want %d and the head of a segment", used, size)
	}
	s.Close()
	if got := usage(t, again(t, s)); got < mlaas.Bytes(size) || got > used {
		t.Errorf("opened again it uses %d, was %d", got, used)
	}
}

func testTogether(t *testing.T, on medium) {
	s := on.open(t, &series.Store{SegmentBytes: 20_000})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	const replicas, frames = 8, 60
	var writers sync.WaitGroup
	for i := range replicas {
		writers.Go(func() {
			f := fence(mlaas.ReplicaName("worker", i), 1)
			for k := range int64(frames) {
				err := s.Append(ctx, logFrame(f, 3*k+1, "one", "two", "three"), pointFrame(f, k+1, pt("x", k, float64(k))))
				if err != nil {
					t.Error(err)
					return
				}
				if log, metric := s.Durable(f); log != 3*k+3 || metric != k+1 {
					t.Errorf("durable are %d, %d after %d", log, metric, k)
				}
			}
		})
	}
	// A reader that follows sees each line once, in order.
	wg.Go(func() {
		next := int64(1)
		for next <= replicas*frames*3 {
			changed, leave := s.Changed(tenant, "run")
			got, err := s.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run", From: next, Limit: 100})
			if err != nil {
				t.Error(err)
				return
			}
			for _, l := range got {
				if l.Cursor != next {
					t.Errorf("line %d comes where %d is next", l.Cursor, next)
					return
				}
				next++
			}
			if len(got) == 0 {
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
			leave()
		}
		cancel()
	})
	writers.Wait()
	wg.Wait()
	for i := range replicas {
		q := series.LineQuery{Replica: mlaas.ReplicaName("worker", i), Limit: 10_000}
		for k, l := range lines(t, s, q) {
			if l.Seq != int64(k+1) || l.Text != []string{"one", "two", "three"}[k%3] {
				t.Fatalf("line %d of %s is %+v", k, q.Replica, l)
			}
		}
	}
	if curves := points(t, s, series.PointQuery{}); len(curves) != replicas || len(curves[0].Points) != frames {
		t.Errorf("the curves are %s", drawn(curves))
	}
}

// In a bubble a segment that nobody appends to is sealed after a while.
func testIdle(t *testing.T, on medium) {
	synctest.Test(t, func(t *testing.T) {
		s := on.open(t, &series.Store{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		add(t, s, logFrame(fence("worker-0", 1), 1, "a"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(s.Blob.(*memory).blobs); n != 1 {
			t.Errorf("there are %d blobs", n)
		}
		if got := short(lines(t, s, series.LineQuery{})); got != "1:worker-0/1:a" {
			t.Errorf("there is %s", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Where blobs cannot be stored everything stays readable and durable, and is
// sealed when they can be again.
func testSealingFails(t *testing.T, on medium) {
	synctest.Test(t, func(t *testing.T) {
		place := newMemory()
		place.fail = fmt.Errorf("no room: %w", mlaas.ErrDisk)
		s := on.open(t, &series.Store{Blob: place, SegmentBytes: 1000})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		w := fence("worker-0", 1)
		var err error
		var n int64
		for err == nil && n < 1000 {
			if err = s.Append(ctx, logFrame(w, n+1, strings.Repeat("x", 300))); err == nil {
				n++
			}
		}
		if !errors.Is(err, mlaas.ErrDisk) {
			t.Errorf("it ends with %v, want disk_full", err)
		}
		if got := int64(len(lines(t, s, series.LineQuery{}))); got != n {
			t.Errorf("%d lines are there, %d were acknowledged", got, n)
		}
		place.mu.Lock()
		place.fail = nil
		place.mu.Unlock()
		time.Sleep(10 * time.Minute)
		add(t, s, logFrame(w, n+1, "there is room"))
		if got := lines(t, s, series.LineQuery{Last: 1}); len(got) != 1 || got[0].Cursor != n+1 {
			t.Errorf("the last is %s", short(got))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func testCancelled(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	ctx, cancel := context.WithCancel(t.Context())
	add(t, s, logFrame(fence("worker-0", 1), 1, "a"))
	cancel()
	if _, err := s.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run"}); !errors.Is(err, context.Canceled) {
		t.Errorf("it says %v", err)
	}
}

// copyStore is the folder of a store as a crash would leave it now.
func copyStore(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTornTail(t *testing.T) {
	s := open(t, &series.Store{})
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "one"))
	add(t, s, logFrame(w, 2, "two"))
	seg := segments(t, s.Dir)[0]
	whole, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, logFrame(w, 3, "three"))
	more, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for cut := len(whole); cut < len(more); cut += 5 {
		for _, junk := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "mls1junk"} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(seg)), append(slices.Clone(more[:cut]), junk...), 0o600); err != nil {
				t.Fatal(err)
			}
			s := &series.Store{Dir: dir, Blob: newMemory()}
			if err := s.Open(); err != nil {
				t.Fatal(err)
			}
			if log, _ := s.Durable(w); log != 2 {
				t.Fatalf("cut at %d: durable is %d", cut, log)
			}
			add(t, s, logFrame(w, 3, "three")) // it was not acknowledged, so it comes again
			s.Close()
			s = &series.Store{Dir: dir, Blob: s.Blob}
			if err := s.Open(); err != nil {
				t.Fatal(err)
			}
			if got := short(lines(t, s, series.LineQuery{})); got != "1:worker-0/1:one 2:worker-0/2:two 3:worker-0/3:three" {
				t.Fatalf("cut at %d: there is %s", cut, got)
			}
			s.Close()
		}
	}
}

// A crash in the middle of sealing: with a chunk that no manifest names, and
// with a manifest whose segment is still there.
func TestCrashWhileSealing(t *testing.T) {
	s := open(t, &series.Store{})
	place := s.Blob.(*memory)
	w := fence("worker-0", 1)
	type crash struct {
		dir   string
		blobs map[mlaas.Digest][]byte
		n     int64
	}
	var crashes []crash
	n := int64(0)
	place.event = func() {
		dir := t.TempDir()
		copyStore(t, s.Dir, dir)
		crashes = append(crashes, crash{dir, maps.Clone(place.blobs), n})
	}
	for n < 6 {
		add(t, s, logFrame(w, n+1, fmt.Sprintf("line %d", n+1)), pointFrame(w, n+1, pt("x", n+1, float64(n+1))))
		n++
		seal(t, s)
	}
	if len(crashes) < 15 {
		t.Errorf("there were %d moments to crash at", len(crashes))
	}
	for i, c := range crashes {
		s := open(t, &series.Store{Dir: c.dir, Blob: &memory{blobs: c.blobs}})
		for range 2 { // as it was, and when it is sealed after all
			for k, l := range lines(t, s, series.LineQuery{Limit: 100}) {
				if l.Cursor != int64(k+1) || l.Text != fmt.Sprintf("line %d", k+1) {
					t.Fatalf("crash %d: line %d is %+v", i, k+1, l)
				}
			}
			got, err := s.RunPoints(t.Context(), tenant, "run", 1, 100)
			if err != nil || int64(len(got)) != c.n {
				t.Fatalf("crash %d: %d points, %v, want %d", i, len(got), err, c.n)
			}
			if log, metric := s.Durable(w); log != c.n || metric != c.n {
				t.Fatalf("crash %d: durable are %d, %d, want %d", i, log, metric, c.n)
			}
			k, err := s.Kept(t.Context(), tenant, "run")
			if err != nil || k.Lines != c.n || k.Points != c.n {
				t.Fatalf("crash %d: kept is %+v, %v, want %d", i, k, err, c.n)
			}
			seal(t, s)
		}
	}
}

func TestOneProcess(t *testing.T) {
	s := open(t, &series.Store{})
	two := &series.Store{Dir: s.Dir, Blob: s.Blob}
	if err := two.Open(); !errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("it says %v", err)
	}
	s.Close()
	again(t, s)
}

func TestFlippedBit(t *testing.T) {
	base := open(t, &series.Store{})
	w := fence("worker-0", 1)
	for i := range int64(5) {
		add(t, base, logFrame(w, i+1, fmt.Sprintf("line %d", i+1)))
	}
	seg := filepath.Base(segments(t, base.Dir)[0])
	whole, err := os.ReadFile(filepath.Join(base.Dir, seg))
	if err != nil {
		t.Fatal(err)
	}
	base.Close()
	for at := 0; at < len(whole); at += 3 {
		dir := t.TempDir()
		data := slices.Clone(whole)
		data[at] ^= 1 << (at % 8)
		if err := os.WriteFile(filepath.Join(dir, seg), data, 0o600); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		s := &series.Store{Dir: dir, Blob: newMemory(), Log: slog.New(slog.NewTextHandler(&said, nil))}
		if err := s.Open(); err != nil {
			t.Fatal(err)
		}
		kept, lost := 0, int64(0)
		next := int64(1)
		for _, l := range lines(t, s, series.LineQuery{}) {
			if l.Stream == "platform" {
				lost += l.Cursor - next + 1
			} else {
				kept++
				if l.Text != fmt.Sprintf("line %d", l.Cursor) {
					t.Fatalf("bit at %d: line %d is %q", at, l.Cursor, l.Text)
				}
			}
			next = l.Cursor + 1
		}
		if kept < 4 {
			t.Errorf("bit at %d: %d lines are left of 5, %d said to be lost", at, kept, lost)
		}
		if !strings.Contains(said.String(), "damaged") && !strings.Contains(said.String(), "cut off") {
			t.Errorf("bit at %d: nothing is said of it", at)
		}
		// The replica goes on where it was, whatever is lost here.
		add(t, s, logFrame(w, 6, "line 6"))
		if got := lines(t, s, series.LineQuery{Last: 1}); got[0].Text != "line 6" {
			t.Errorf("bit at %d: the last is %s", at, short(got))
		}
		if err := s.Append(t.Context(), logFrame(w, 9, "line 9")); !errors.Is(err, mlaas.ErrConflict) {
			t.Errorf("bit at %d: a gap without damage: %v", at, err)
		}
		s.Close()
	}
}

// A flipped bit in a chunk costs the block that it is in.
func testFlippedBitInChunk(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	place := s.Blob.(*memory)
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "one"), pointFrame(w, 1, pt("x", 1, 1)))
	seal(t, s)
	for d, data := range place.blobs {
		data = slices.Clone(data)
		data[10] ^= 1
		place.blobs[d] = data
	}
	for i := range int64(3) { // sealing does not stumble over it
		add(t, s, logFrame(w, i+2, "more"), pointFrame(w, i+2, pt("x", i+2, 2)))
		seal(t, s)
	}
	got := lines(t, s, series.LineQuery{})
	if len(got) != 4 || got[0].Stream != "platform" || got[1].Cursor != 2 || got[3].Cursor != 4 {
		t.Errorf("there is %s", short(got))
	}
	if got, want := drawn(points(t, s, series.PointQuery{})), "worker-0.x 2=2 3=2 4=2"; got != want {
		t.Errorf("there is %s, want %s", got, want)
	}
	if got, err := s.RunPoints(t.Context(), tenant, "run", 1, 10); err != nil || len(got) != 3 {
		t.Errorf("there is %v, %v", got, err)
	}
}

// A stretch of time is read without the rest, wherever it is.
func testTimes(t *testing.T, on medium) {
	place := newMemory()
	s := on.open(t, &series.Store{Blob: place, SegmentBytes: 1 << 20})
	w := fence("worker-0", 1)
	const n = 20_000
	for i := int64(1); i <= n; i += 100 {
		var texts []string
		for k := range int64(100) {
			texts = append(texts, fmt.Sprint(i+k, " ", blob.Name(fmt.Append(nil, i+k)))) // a second each, by logFrame
		}
		add(t, s, logFrame(w, i, texts...))
		if i == n/2+1 {
			seal(t, s)
		}
	}
	check := func(q series.LineQuery, first, last int64) {
		t.Helper()
		got := lines(t, s, q)
		if int64(len(got)) != last-first+1 || len(got) > 0 && (got[0].Cursor != first || got[len(got)-1].Cursor != last) {
			t.Errorf("%+v: there are %d lines, want %d to %d", q, len(got), first, last)
		}
	}
	at := func(i int64) time.Time { return began.Add(time.Duration(i) * time.Second) }
	for range 2 {
		place.mu.Lock()
		place.reads = 0
		place.mu.Unlock()
		check(series.LineQuery{Since: at(3000), Until: at(3010)}, 3000, 3009)
		check(series.LineQuery{Since: at(3000).Add(1), Until: at(3010).Add(1), Replica: "worker-0"}, 3001, 3010)
		if place.reads > 6 { // an index and at most two blocks, of a chunk of more than twenty
			t.Errorf("%d reads for ten lines", place.reads)
		}
		check(series.LineQuery{Since: at(n - 4)}, n-4, n)
		check(series.LineQuery{Until: at(6)}, 1, 5)
		check(series.LineQuery{Until: at(n / 2), Last: 3}, n/2-3, n/2-1)
		check(series.LineQuery{Since: at(5000), Limit: 2, Grep: regexp.MustCompile("^50[0-9]* ")}, 5000, 5001)
		check(series.LineQuery{Since: at(5000), From: 6000, Limit: 5}, 6000, 6004)
		check(series.LineQuery{Since: at(2 * n)}, 1, 0)
		seal(t, s)
	}
}

// A chunk that is lost costs what is in it; sealing goes on, and so does what
// comes after.
func testLostChunk(t *testing.T, on medium) {
	s := on.open(t, &series.Store{})
	place := s.Blob.(*memory)
	w := fence("worker-0", 1)
	add(t, s, logFrame(w, 1, "one"), pointFrame(w, 1, pt("x", 1, 1)))
	seal(t, s)
	clear(place.blobs)
	for i := range int64(2) {
		add(t, s, logFrame(w, i+2, "more"), pointFrame(w, i+2, pt("x", i+2, 2)))
		seal(t, s)
	}
	if got := lines(t, s, series.LineQuery{}); len(got) != 3 || got[0].Stream != "platform" || got[2].Cursor != 3 {
		t.Errorf("there is %s", short(got))
	}
	if got, want := drawn(points(t, s, series.PointQuery{})), "worker-0.x 2=2 3=2"; got != want {
		t.Errorf("there is %s, want %s", got, want)
	}
}

func TestFlippedBitInManifest(t *testing.T) {
	s := open(t, &series.Store{})
	add(t, s, logFrame(fence("worker-0", 1), 1, "one"))
	seal(t, s)
	s.Close()
	at := filepath.Join(s.Dir, "runs", string(tenant), "run.json")
	data, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	data[20] ^= 1
	if err := os.WriteFile(at, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = again(t, s)
	if _, err := s.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); err == nil || !strings.Contains(err.Error(), "the manifest of run run: it is damaged on disk") {
		t.Errorf("it says %v", err)
	}
	if err := s.Blobs(t.Context(), func(mlaas.Digest) error { return nil }); err == nil {
		t.Error("nothing may be collected now")
	}
	other := fence("worker-0", 1)
	other.Run = "other"
	add(t, s, logFrame(other, 1, "works"))
	if err := s.Delete(t.Context(), tenant, "run"); err != nil {
		t.Error(err)
	}
	add(t, s, logFrame(fence("worker-0", 1), 1, "new"))
}
