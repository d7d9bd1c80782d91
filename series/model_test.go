package series_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// model is what a store should be, in the simplest way.
type model struct {
	lines  []series.Line
	points []series.RunPoint
	seqs   map[string]int64
	sent   map[mlaas.Fence][2]int64
}

func newModel() *model {
	return &model{seqs: map[string]int64{}, sent: map[mlaas.Fence][2]int64{}}
}

func (m *model) append(b series.Batch) (ok bool) {
	at := m.sent[b.Fence]
	which, n := 0, len(b.Frame.Lines)
	if b.Frame.Stream == mlaas.MetricStream {
		which, n = 1, len(b.Frame.Points)
	}
	if n == 0 {
		return true
	}
	if b.Frame.First > at[which]+1 {
		return false
	}
	for i := range n {
		spool := b.Frame.First + int64(i)
		if spool <= at[which] {
			continue
		}
		at[which] = spool
		if which == 0 {
			m.seqs[b.Fence.Replica]++
			m.lines = append(m.lines, series.Line{Cursor: int64(len(m.lines) + 1), Seq: m.seqs[b.Fence.Replica], Replica: b.Fence.Replica, Attempt: b.Fence.Epoch, LogLine: b.Frame.Lines[i]})
		} else {
			m.points = append(m.points, series.RunPoint{Cursor: int64(len(m.points) + 1), Replica: b.Fence.Replica, Point: b.Frame.Points[i]})
		}
	}
	m.sent[b.Fence] = at
	return true
}

func (m *model) query(q series.LineQuery) (out []series.Line) {
	limit := q.Limit
	if limit == 0 {
		limit = 1000
	}
	for _, l := range m.lines {
		n := l.Cursor
		if q.Replica != "" {
			n = l.Seq
		}
		if (q.Replica == "" || l.Replica == q.Replica) && (q.Last > 0 || n >= q.From) && (q.Grep == nil || q.Grep.MatchString(l.Text)) {
			out = append(out, l)
		}
	}
	if q.Last > 0 {
		return out[max(0, len(out)-q.Last):]
	}
	return out[:min(limit, len(out))]
}

// curves is the newest value of each step, by replica and key.
func (m *model) curves() map[[2]string]map[int64]mlaas.Point {
	out := map[[2]string]map[int64]mlaas.Point{}
	for _, p := range m.points {
		k := [2]string{p.Replica, p.Key}
		if out[k] == nil {
			out[k] = map[int64]mlaas.Point{}
		}
		out[k][p.Step] = p.Point
	}
	return out
}

// testModel does anything in any order, crashes included, and compares with
// the model.
func testModel(t *testing.T, on medium) {
	rapid.Check(t, func(rt *rapid.T) {
		begin := func(s *series.Store) *series.Store {
			if err := s.Open(); err != nil {
				rt.Fatal(err)
			}
			return s
		}
		s := &series.Store{Blob: newMemory(), SegmentBytes: 2000}
		on.prepare(t, s)
		begin(s)
		defer func() { s.Close() }()
		models := map[mlaas.RunID]*model{"a": newModel(), "b": newModel()}
		counter := 0

		runID := rapid.SampledFrom([]mlaas.RunID{"a", "b"})
		replica := rapid.SampledFrom([]string{"chief-0", "worker-0", "worker-1"})
		batch := func(rt *rapid.T) series.Batch {
			f := mlaas.Fence{Tenant: tenant, Run: runID.Draw(rt, "run"), Epoch: rapid.IntRange(1, 2).Draw(rt, "epoch"), Replica: replica.Draw(rt, "replica"), Incarnation: 1}
			b := series.Batch{Fence: f}
			which := rapid.IntRange(0, 1).Draw(rt, "stream")
			at := models[f.Run].sent[f][which]
			// Mostly what comes next; also again, overlapping, with a gap.
			b.Frame.First = max(1, at+rapid.SampledFrom([]int64{1, 1, 1, 1, 0, -1, -3, 2, 5}).Draw(rt, "offset"))
			n := rapid.IntRange(0, 8).Draw(rt, "n")
			b.Frame.Stream = []string{mlaas.LogStream, mlaas.MetricStream}[which]
			for i := range n {
				counter++
				// What comes again is the same as the first time, so it is made
				// from its number.
				spool := b.Frame.First + int64(i)
				if which == 0 {
					b.Frame.Lines = append(b.Frame.Lines, logFrame(f, spool, fmt.Sprintf("%s-%d %d", f.Replica, f.Epoch, spool)).Frame.Lines...)
				} else {
					// Step goes back now and then, as from a checkpoint.
					b.Frame.Points = append(b.Frame.Points, mlaas.Point{Key: []string{"loss", "acc"}[spool%2], Step: spool % 17, Time: spool, Value: mlaas.Number(100*float64(f.Epoch) + float64(spool))})
				}
			}
			return b
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				batches := []series.Batch{batch(rt)}
				want := models[batches[0].Fence.Run].append(batches[0])
				if rapid.Bool().Draw(rt, "two") {
					b := batch(rt)
					batches = append(batches, b)
					want = models[b.Fence.Run].append(b) && want
				}
				fault := "none"
				b, faulty := s.Objects.(*bucket)
				if faulty {
					fault = rapid.SampledFrom([]string{"none", "none", "put fails", "its reply is lost"}).Draw(rt, "fault")
				}
				if fault != "none" && want { // it is sent again, perhaps to the next owner
					b.fail("put", fault == "its reply is lost")
					err := s.Append(t.Context(), batches...)
					b.fail("", false)
					if err != nil && !errors.Is(err, mlaas.ErrUnavailable) {
						rt.Fatalf("Append where %s: %v", fault, err)
					}
					if rapid.Bool().Draw(rt, "crash") {
						s = begin(on.crash(t, s))
					}
				}
				err := s.Append(t.Context(), batches...)
				if want && err != nil || !want && !errors.Is(err, mlaas.ErrConflict) {
					rt.Fatalf("Append of %+v says %v", batches, err)
				}
			},
			"seal": func(rt *rapid.T) {
				if err := s.Flush(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = begin(like(s))
			},
			"crash": func(rt *rapid.T) {
				old := s
				s = begin(on.crash(t, old))
				if old.Dir != "" {
					return
				}
				// One that does not know that it was replaced acknowledges
				// nothing, and what it puts is never seen.
				f := mlaas.Fence{Tenant: tenant, Run: runID.Draw(rt, "run"), Epoch: 1, Replica: "worker-0", Incarnation: 1}
				at := models[f.Run].sent[f][0]
				if err := old.Append(t.Context(), logFrame(f, at+1, "of a zombie")); !errors.Is(err, mlaas.ErrUnavailable) {
					rt.Fatalf("a zombie's line is acknowledged: %v", err)
				}
				_ = old.Flush(t.Context()) // whatever it says, it changes nothing
				old.Close()
			},
			"delete": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "rarely") > 0 {
					rt.Skip()
				}
				id := runID.Draw(rt, "run")
				if err := s.Delete(t.Context(), tenant, id); err != nil {
					rt.Fatal(err)
				}
				models[id] = newModel()
			},
			"lines": func(rt *rapid.T) {
				q := series.LineQuery{Tenant: tenant, Run: runID.Draw(rt, "run"), Limit: rapid.IntRange(0, 12).Draw(rt, "limit"), From: int64(rapid.IntRange(-1, 40).Draw(rt, "from"))}
				if rapid.Bool().Draw(rt, "one") {
					q.Replica = replica.Draw(rt, "replica")
				}
				if rapid.Bool().Draw(rt, "grep") {
					q.Grep = regexp.MustCompile("1 [0-9]*[135]$")
				}
				if rapid.Bool().Draw(rt, "backward") {
					q.Last = rapid.IntRange(1, 12).Draw(rt, "last")
				}
				got, err := s.Lines(t.Context(), q)
				if err != nil {
					rt.Fatal(err)
				}
				if want := models[q.Run].query(q); short(got) != short(want) {
					rt.Fatalf("%+v: %s, want %s", q, short(got), short(want))
				}
			},
			"": func(rt *rapid.T) {
				for id, m := range models {
					compare(rt, s, id, m)
				}
			},
		})
	})
}

func compare(rt *rapid.T, s *series.Store, id mlaas.RunID, m *model) {
	log, metric, err := s.LastCursor(rt.Context(), tenant, id)
	if log != int64(len(m.lines)) || metric != int64(len(m.points)) {
		rt.Fatalf("run %s: the last cursors are %d, %d, want %d, %d", id, log, metric, len(m.lines), len(m.points))
	}
	for f, at := range m.sent {
		if log, metric := s.Durable(f); log != at[0] || metric != at[1] {
			rt.Fatalf("durable of %s are %d, %d, want %v", f, log, metric, at)
		}
	}
	for replica, seq := range m.seqs {
		if got, err := s.LastSeq(rt.Context(), tenant, id, replica); err != nil || got != seq {
			rt.Fatalf("the last seq of %s is %d, want %d", replica, got, seq)
		}
	}
	k, err := s.Kept(rt.Context(), tenant, id)
	if err != nil || k.Lines != log || k.Points != metric || k.DroppedLines+k.DroppedPoints != 0 {
		rt.Fatalf("kept of %s is %+v, %v", id, k, err)
	}
	got, err := s.RunPoints(rt.Context(), tenant, id, 1, 10_000)
	if err != nil || !slices.Equal(got, m.points) {
		rt.Fatalf("run %s: points are %v, %v, want %v", id, got, err, m.points)
	}
	want := m.curves()
	curves, err := s.Points(rt.Context(), series.PointQuery{Tenant: tenant, Run: id})
	if err != nil || len(curves) != len(want) {
		rt.Fatalf("run %s: %d curves, %v, want %d", id, len(curves), err, len(want))
	}
	for _, c := range curves {
		w := want[[2]string{c.Replica, c.Key}]
		var list []mlaas.Point
		for _, step := range slices.Sorted(maps.Keys(w)) {
			list = append(list, w[step])
		}
		if !slices.Equal(c.Points, list) {
			rt.Fatalf("curve %s of %s is %v, want %v", c.Key, c.Replica, c.Points, list)
		}
		few, err := s.Points(rt.Context(), series.PointQuery{Tenant: tenant, Run: id, Replica: c.Replica, Key: c.Key, Buckets: 3})
		if err != nil || len(few) != 1 || len(few[0].Buckets) > 3 {
			rt.Fatalf("curve %s of %s in buckets is %v, %v", c.Key, c.Replica, few, err)
		}
		if err := exact(few[0].Buckets, list, -1, 1000); err != nil {
			rt.Fatalf("curve %s of %s in buckets: %v", c.Key, c.Replica, err)
		}
	}
}
