package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

func TestCrowdReadsOnce(t *testing.T) {
	var all crowds
	k := runKey{mlaas.DefaultTenant, "r"}
	c, leave := all.join(k)
	other, leaveToo := all.join(k)
	if c != other {
		t.Fatal("two who follow one run are not of one crowd")
	}
	var reads atomic.Int64
	page := func(ctx context.Context, from int64, fails error) (*page, error) {
		return c.page(ctx, pageKey{topic: "log", from: from}, func() (json.RawMessage, int64, error) {
			reads.Add(1)
			return json.RawMessage(fmt.Sprintf("[%d]", from)), from + 1, fails
		})
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if p, err := page(t.Context(), 7, nil); err != nil || string(p.data) != "[7]" || p.to != 8 {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
	wait.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("it was read %d times", n)
	}
	// What failed is read again by the next who comes.
	broken := errors.New("broken")
	if _, err := page(t.Context(), 9, broken); !errors.Is(err, broken) {
		t.Errorf("a reading that failed: %v", err)
	}
	if p, err := page(t.Context(), 9, nil); err != nil || p.to != 10 {
		t.Errorf("%+v %v", p, err)
	}
	// Only so many are kept.
	for i := range int64(keepPages) {
		if _, err := page(t.Context(), 100+i, nil); err != nil {
			t.Fatal(err)
		}
	}
	if before := reads.Load(); len(c.pages) != keepPages || len(c.order) != keepPages {
		t.Errorf("%d and %d pages are kept", len(c.pages), len(c.order))
	} else if _, err := page(t.Context(), 7, nil); err != nil || reads.Load() != before+1 {
		t.Errorf("the oldest is still there: %v", err)
	}
	leave()
	leaveToo()
	if len(all.byRun) != 0 {
		t.Error("the pages of a run are kept though nobody follows it")
	}
}

// Who reads for others may go: another one reads.
func TestCrowdReaderGoes(t *testing.T) {
	var all crowds
	c, leave := all.join(runKey{mlaas.DefaultTenant, "r"})
	defer leave()
	ctx, cancel := context.WithCancel(t.Context())
	reading, k := make(chan struct{}), pageKey{from: 1}
	gone := make(chan error)
	go func() {
		_, err := c.page(ctx, k, func() (json.RawMessage, int64, error) {
			close(reading)
			<-ctx.Done()
			return nil, 0, ctx.Err()
		})
		gone <- err
	}()
	<-reading
	go cancel() // while the other waits for it
	p, err := c.page(t.Context(), k, func() (json.RawMessage, int64, error) { return json.RawMessage("[]"), 3, nil })
	if err != nil || p.to != 3 {
		t.Errorf("%+v %v", p, err)
	}
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
}

// slowCurves is a reader whose curves are read until free is closed.
type slowCurves struct {
	series.Reader
	come chan struct{} // one for each that is read
	free chan struct{}
}

func (r *slowCurves) Points(ctx context.Context, q series.PointQuery) ([]series.Curve, error) {
	r.come <- struct{}{}
	<-r.free
	return r.Reader.Points(ctx, q)
}

// The curves of a run are read once for all who come at the same time: each
// reading is held in memory until it is sent.
func TestCurvesReadOnce(t *testing.T) {
	slow := &slowCurves{come: make(chan struct{}), free: make(chan struct{})}
	a := start(t, func(m *Management) { slow.Reader, m.Series = m.Series, slow })
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	var all []*listener
	for range readers + 4 {
		all = append(all, a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run)}))
	}
	<-slow.come
	select {
	case <-slow.come:
		t.Error("they were read twice")
	case <-time.After(100 * time.Millisecond): // nothing tells that one does not come
	}
	close(slow.free)
	for _, l := range all {
		l.hears("snapshot")
	}
}

// Each replica's curves are a reading of their own, and only a few of them are
// made at the same time.
func TestCurvesInTurns(t *testing.T) {
	slow := &slowCurves{come: make(chan struct{}), free: make(chan struct{})}
	a := start(t, func(m *Management) { slow.Reader, m.Series = m.Series, slow })
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	var all []*listener
	for i := range readers + 4 {
		all = append(all, a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run), Replica: fmt.Sprintf("worker-%d", i)}))
	}
	for range readers {
		<-slow.come
	}
	select {
	case <-slow.come:
		t.Errorf("more than %d read at the same time", readers)
	case <-time.After(100 * time.Millisecond):
	}
	close(slow.free)
	go func() {
		for range 4 {
			<-slow.come
		}
	}()
	for _, l := range all {
		l.hears("snapshot")
	}
}

// A snapshot is for who comes while it is new; then it is read again.
func TestSnapshotIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all crowds
		c, leave := all.join(runKey{mlaas.DefaultTenant, "r"})
		defer leave()
		reads := 0
		ask := func() {
			k := pageKey{topic: "metric", snapshot: true}
			if _, err := c.page(t.Context(), k, func() (json.RawMessage, int64, error) { reads++; return json.RawMessage("[]"), 5, nil }); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		time.Sleep(newEnough - time.Millisecond)
		ask()
		if reads != 1 {
			t.Errorf("a new snapshot was read %d times", reads)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if len(c.pages) != 0 || len(c.order) != 0 {
			t.Error("an old snapshot is kept")
		}
		if ask(); reads != 2 {
			t.Errorf("an old snapshot was read %d times", reads)
		}
	})
}
