package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// Couriers bring executions to their kernels, one for each kernel that has
// some to get, in the order in which they were asked for. Each process has its
// own, and a kernel that is brought one twice drops it.
type couriers struct {
	mu   sync.Mutex
	busy map[runKey]bool // true: there is more to do than it has seen
	wait sync.WaitGroup
}

const (
	courierPause   = 200 * time.Millisecond // after a kernel could not be reached; doubled
	courierLongest = 10 * time.Second
)

// carryAll begins with what was left, and goes on with what comes.
func (m *Management) carryAll(ctx context.Context) error {
	defer m.couriers.wait.Wait()
	m.hub.onExecution(func(k runKey) { m.carry(ctx, k) })
	defer m.hub.onExecution(nil)
	var left []store.Found[mlaas.KernelExecution]
	for {
		var err error
		if left, err = store.Executions(m.DB).All(ctx, store.Query{Index: "unsent"}); err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.log().Warn("executions that kernels have not got cannot be read now", "error", err, "again", courierLongest)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(courierLongest):
		}
	}
	for _, f := range left {
		m.carry(ctx, runKey{f.Value.Tenant, f.Value.Run})
	}
	<-ctx.Done()
	return ctx.Err()
}

// carry has a courier look what there is for a kernel.
func (m *Management) carry(ctx context.Context, k runKey) {
	c := &m.couriers
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == nil {
		c.busy = map[runKey]bool{}
	}
	_, there := c.busy[k]
	c.busy[k] = there // one that works looks once more
	if there || ctx.Err() != nil {
		return
	}
	c.wait.Go(func() {
		for {
			if err := m.bring(ctx, k); err != nil && ctx.Err() == nil {
				m.log().Warn("executions are not brought to their kernel now", "run", k.run, "error", err)
			}
			c.mu.Lock()
			if more := c.busy[k]; !more || ctx.Err() != nil {
				delete(c.busy, k)
				c.mu.Unlock()
				return
			}
			c.busy[k] = false
			c.mu.Unlock()
		}
	})
}

// bring brings a kernel what it has not got, until there is nothing left or the
// kernel has ended.
func (m *Management) bring(ctx context.Context, k runKey) error {
	records, pause := store.Executions(m.DB), courierPause
	for {
		changed, leave := m.hub.changed(k) // before reading
		ready, err := m.bringSome(ctx, k, records)
		switch {
		case err == nil:
			leave()
			return nil
		case ready:
			m.log().Info("a kernel does not take an execution now", "run", k.run, "error", err, "again", pause)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
			pause = min(2*pause, courierLongest)
		}
		t.Stop()
		leave()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// bringSome is nil when there is nothing more to bring. ready is false where the
// kernel is not there yet.
func (m *Management) bringSome(ctx context.Context, k runKey, records store.Records[mlaas.KernelExecution]) (ready bool, err error) {
	r, _, err := store.Runs(m.DB).Get(ctx, k.tenant, string(k.run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return false, nil // it was removed
	}
	if err != nil {
		return true, err
	}
	s, err := m.stateOf(ctx, r)
	if err != nil {
		return true, err
	}
	if s.State.Final() {
		return false, nil // they are lost, and told so
	}
	found, err := records.All(ctx, store.Query{Tenant: k.tenant, Index: "unsent=" + string(k.run)})
	if err != nil || len(found) == 0 {
		return true, err
	}
	a, _, err := store.Replicas(m.DB).Get(ctx, k.tenant, store.ReplicaKey(k.run, mlaas.KernelReplica))
	if err != nil || !a.Program || a.Status.Final() || a.Epoch != s.Epoch {
		return false, errNotReady
	}
	for _, f := range found {
		e := f.Value
		who := auth.With(ctx, auth.Principal{Tenant: k.tenant, Name: e.By}) // who asked has gone on
		within, cancel := context.WithTimeout(who, lookWithin)
		_, err := m.askKernel(within, r, e.Bundle, kernelWord{Op: "execute", Execution: &e})
		cancel()
		if err != nil {
			return true, err
		}
		e.Sent = true
		err = m.DB.Commit(ctx, store.Batch{Put: []store.Row{records.Put(e, f.Rev)}})
		if err != nil && !errors.Is(err, mlaas.ErrConflict) { // another process has brought it too
			return true, err
		}
	}
	return true, nil
}

// events sends what a kernel says. A long event is several lines: it is sent
// when all are there, with the number of its last, so that who goes on after
// one misses nothing.
func (t *topic) events() error {
	if err := t.known(); err != nil {
		return err
	}
	q := series.LineQuery{Tenant: t.who.Tenant, Run: t.Run, Kernel: true, Limit: linesAtOnce}
	last := func() (int64, error) {
		end, _, err := t.m.Series.LastCursor(t.ctx, q.Tenant, q.Run)
		return end, err
	}
	var parts parts
	begin := func() (int64, error) { // all that it said: it is what the page shows
		return 0, t.send("snapshot", 0, []mlaas.KernelEvent{})
	}
	return t.follow(last, begin, func(from, to int64) (int64, error) {
		t.turn.Lock()
		defer t.turn.Unlock()
		q.From = from
		lines, err := t.m.Series.Lines(t.ctx, q)
		if err != nil || len(lines) == 0 {
			return to, err
		}
		at, size, told := from-1, 0, []mlaas.KernelEvent{}
		for _, l := range lines {
			at = l.Cursor
			e, whole := parts.add(l)
			if !whole {
				continue
			}
			told = append(told, e)
			if size += len(l.Text); size > eventBytes {
				break
			}
		}
		if len(told) == 0 {
			return at, nil
		}
		return at, t.send("delta", told[len(told)-1].Seq, told)
	})
}

// parts are the lines of an event that is not whole yet.
type parts struct{ text []byte }

// add is an event, where the line makes one whole.
func (p *parts) add(l series.Line) (e mlaas.KernelEvent, whole bool) {
	if l.LogLine.Stream != mlaas.KernelStream { // something is missing here, and this says so
		p.text = nil
		return mlaas.KernelEvent{Seq: l.Cursor, Time: l.Time, Type: "stream", Name: "platform", Text: l.Text + "\n"}, true
	}
	if l.Part <= 1 {
		p.text = nil
	}
	p.text = append(p.text, l.Text...)
	if l.Part > 0 && (!bytes.HasSuffix(p.text, []byte("}")) || !json.Valid(p.text)) {
		return e, false
	}
	if err := json.Unmarshal(p.text, &e); err != nil {
		e = mlaas.KernelEvent{Type: "stream", Name: "platform", Text: fmt.Sprintf("an event of the kernel cannot be read: %v\n", err)}
	}
	e.Seq, e.Time, p.text = l.Cursor, l.Time, nil
	return e, true
}
