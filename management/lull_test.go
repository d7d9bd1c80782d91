package management

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// away is a reader that fails each fourth time or so, as while another booster
// takes a cluster over.
type away struct {
	series.Reader
	mu    sync.Mutex
	luck  *rand.Rand
	fails int
}

func (r *away) now() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.luck.IntN(4) == 0 {
		r.fails++
		return fmt.Errorf("it is being replaced: %w", mlaas.ErrUnavailable)
	}
	return nil
}

func (r *away) Lines(ctx context.Context, q series.LineQuery) ([]series.Line, error) {
	return unless(r.now(), func() ([]series.Line, error) { return r.Reader.Lines(ctx, q) })
}

func (r *away) Points(ctx context.Context, q series.PointQuery) ([]series.Curve, error) {
	return unless(r.now(), func() ([]series.Curve, error) { return r.Reader.Points(ctx, q) })
}

func (r *away) RunPoints(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from int64, limit int) ([]series.RunPoint, error) {
	return unless(r.now(), func() ([]series.RunPoint, error) { return r.Reader.RunPoints(ctx, tenant, id, from, limit) })
}

func (r *away) Keys(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]string, error) {
	return unless(r.now(), func() ([]string, error) { return r.Reader.Keys(ctx, tenant, id) })
}

func (r *away) LastCursor(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (log, metric int64, err error) {
	if err := r.now(); err != nil {
		return 0, 0, err
	}
	return r.Reader.LastCursor(ctx, tenant, id)
}

func (r *away) LastSeq(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (int64, error) {
	return unless(r.now(), func() (int64, error) { return r.Reader.LastSeq(ctx, tenant, id, replica) })
}

func unless[T any](err error, f func() (T, error)) (none T, _ error) {
	if err != nil {
		return none, err
	}
	return f()
}

// Whoever follows what runs say rides through a series that is away again and
// again: each line once, in order, and no word of it.
func TestFollowRidesThrough(t *testing.T) {
	a, run := running(t)
	flaky := &away{Reader: a.Series, luck: rand.New(rand.NewPCG(1, 2))}
	a.Management.Series = flaky
	snapshot := a.listen().subscribe(Subscription{Topic: "log", Run: mlaas.RunID(run)})
	if e := snapshot.next(); e.Type != "snapshot" {
		t.Fatalf("the first is %+v", e)
	}
	resumed := a.listen().subscribe(Subscription{Topic: "log", Run: mlaas.RunID(run), Replica: "worker-0", From: from(0)})
	if e := resumed.next(); e.Type != "synced" {
		t.Fatalf("the first is %+v", e)
	}
	curves := a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run)})
	if e := curves.next(); e.Type != "snapshot" {
		t.Fatalf("the first is %+v", e)
	}
	plain := a.follow("/api/run/" + run + "/log?follow=true")
	const n = 4
	for i := range int64(n) {
		f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0", Incarnation: 1}
		text := fmt.Sprint(i + 1)
		err := a.store().Append(t.Context(),
			series.Batch{Fence: f, Frame: mlaas.Frame{Stream: mlaas.LogStream, First: i + 1, Lines: []mlaas.LogLine{{Stream: "stdout", Text: text}}}},
			series.Batch{Fence: f, Frame: mlaas.Frame{Stream: mlaas.MetricStream, First: i + 1, Points: []mlaas.Point{{Key: "x", Step: i + 1}}}})
		if err != nil {
			t.Fatal(err)
		}
		snapshot.hears("delta: "+text, "line")
		resumed.hears("delta: "+text, "line")
		curves.hears("delta: "+text, "step")
		if s := plain.next("line"); s != text {
			t.Fatalf("%q comes where %s is next", s, text)
		}
	}
	flaky.mu.Lock()
	if flaky.fails < n {
		t.Errorf("it was away %d times", flaky.fails)
	}
	flaky.mu.Unlock()
	// Who does not follow is told, and comes again.
	refused := 0
	for range 40 {
		if r := a.do("GET", "/api/run/"+run+"/log", nil); r.Status == 503 {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nobody is told that it is away")
	}
	if err := flaky.Delete(t.Context(), mlaas.DefaultTenant, mlaas.RunID(run)); err != nil {
		t.Fatal(err)
	}
	if e := resumed.next(); e.Type != "error" {
		t.Errorf("of a run that is removed it says %+v", e)
	}
	if err := (&lull{}).after(errors.New("other")); err != nil {
		t.Error("any error is waited out")
	}
}
