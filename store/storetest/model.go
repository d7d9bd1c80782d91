package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// model runs random batches against a driver and against a plain map, and
// wants the same rows, the same conflicts and the same messages. rapid prints
// the seed of a failure and makes it small. A slow driver has fewer rounds.
func model(t *testing.T, s *suite) {
	round, failed, began := 0, false, time.Now()
	rapid.Check(t, func(t *rapid.T) {
		if !failed && time.Since(began) > time.Second {
			return
		}
		failed = true // unless the end is reached
		round++
		m := &modelled{suite: s, prefix: fmt.Sprintf("%d/", round), rows: map[string]store.Row{}}
		t.Repeat(map[string]func(*rapid.T){
			"commit": m.commit,
			"hear":   m.hear,
			"":       func(t *rapid.T) { m.check(t, "") },
		})
		for _, index := range []string{"i", "j", "k"} {
			m.check(t, index)
		}
		m.drain(t)
		failed = false
	})
	t.Logf("%d rounds", round)
}

type modelled struct {
	*suite
	prefix string
	rows   map[string]store.Row
	told   []int // not yet acknowledged
	held   []store.Claim
	n      int
}

// id draws one of few rows, so that conflicts happen.
func (m *modelled) id(t *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "id")
}

// rev draws a revision, which is mostly the right one.
func (m *modelled) rev(t *rapid.T, id string) int64 {
	return m.rows[id].Rev + rapid.SampledFrom([]int64{0, 0, 0, 0, 0, 0, 0, 1, -1}).Draw(t, "off")
}

func (m *modelled) commit(t *rapid.T) {
	var b store.Batch
	conflict := false
	used := map[string]bool{}
	for range rapid.IntRange(0, 3).Draw(t, "puts") {
		id := m.id(t)
		if used[id] {
			continue
		}
		used[id] = true
		m.n++
		r := row(id, m.rev(t, id), m.n, rapid.SliceOfDistinct(rapid.SampledFrom([]string{"i", "j", "k"}), rapid.ID).Draw(t, "index")...)
		if len(r.Index) == 0 {
			r.Index = nil
		}
		for i := range r.Index {
			r.Index[i] = m.prefix + r.Index[i]
		}
		conflict = conflict || r.Rev != m.rows[id].Rev
		b.Put = append(b.Put, r)
	}
	for range rapid.IntRange(0, 1).Draw(t, "deletes") {
		id := m.id(t)
		if used[id] {
			continue
		}
		used[id] = true
		r := store.Row{Key: key(id), Rev: m.rev(t, id)}
		conflict = conflict || r.Rev != m.rows[id].Rev || r.Rev == 0
		b.Delete = append(b.Delete, r)
	}
	for range rapid.IntRange(0, 1).Draw(t, "checks") {
		id := m.id(t)
		r := store.Row{Key: key(id), Rev: m.rev(t, id)}
		conflict = conflict || r.Rev != m.rows[id].Rev
		b.Check = append(b.Check, r)
	}
	var told []int
	for range rapid.IntRange(0, 2).Draw(t, "tells") {
		m.n++
		told = append(told, m.n)
		b.Tell = append(b.Tell, tell(m.prefix, rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "key"), m.n))
	}
	var claim *store.Claim
	if len(m.held) > 0 && rapid.Bool().Draw(t, "answer") {
		c := m.held[rapid.IntRange(0, len(m.held)-1).Draw(t, "claim")]
		claim = &c
		if c.Delivery < store.MaxDeliveries && rapid.Bool().Draw(t, "retry") {
			b.Retry = claim
		} else {
			b.Ack = claim
		}
	}
	err := m.DB.Commit(m.ctx, b)
	if conflict != errors.Is(err, mlaas.ErrConflict) || !conflict && err != nil {
		t.Fatalf("commit of %+v: %v, want a conflict: %v", b, err, conflict)
	}
	if err != nil {
		return
	}
	for _, r := range b.Put {
		r.Rev++
		m.rows[r.Key.ID] = r
	}
	for _, r := range b.Delete {
		delete(m.rows, r.Key.ID)
	}
	m.told = append(m.told, told...)
	if claim != nil {
		m.held = slices.DeleteFunc(m.held, func(c store.Claim) bool { return c.ID == claim.ID })
		if b.Ack != nil {
			m.told = slices.DeleteFunc(m.told, func(n int) bool { return n == number(*claim) })
		}
	}
}

// hear takes a message when one must come: none is held that it could wait for.
func (m *modelled) hear(t *rapid.T) {
	if len(m.held) > 0 || len(m.told) == 0 {
		t.Skip("nothing is sure to come")
	}
	c, err := m.DB.Next(m.ctx, m.prefix, 1000*m.unit)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(m.told, number(c)) {
		t.Fatalf("heard %+v, which was not told or is done", c)
	}
	m.held = append(m.held, c)
}

// check compares what is listed by an index, or all.
func (m *modelled) check(t *rapid.T, index string) {
	if index != "" {
		index = m.prefix + index
	}
	var want []store.Row
	for _, id := range slices.Sorted(maps.Keys(m.rows)) {
		if r := m.rows[id]; index == "" || slices.Contains(r.Index, index) {
			want = append(want, r)
		}
	}
	got, _, err := m.DB.List(m.ctx, store.Query{Kind: "thing", Tenant: "team", Index: index, Prefix: m.prefix})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, equal) {
		t.Fatalf("index %q has\n%v\nwant\n%v", index, got, want)
	}
}

func equal(a, b store.Row) bool {
	return a.Key == b.Key && a.Rev == b.Rev && string(a.Data) == string(b.Data) && slices.Equal(a.Index, b.Index)
}

// drain hears what is left, each message once.
func (m *modelled) drain(t *rapid.T) {
	for _, c := range m.held {
		if err := m.DB.Commit(m.ctx, store.Batch{Ack: &c}); err != nil {
			t.Fatal(err)
		}
		m.told = slices.DeleteFunc(m.told, func(n int) bool { return n == number(c) })
	}
	m.held = nil
	for len(m.told) > 0 {
		m.hear(t)
		c := m.held[0]
		if err := m.DB.Commit(m.ctx, store.Batch{Ack: &c}); err != nil {
			t.Fatal(err)
		}
		m.told = slices.DeleteFunc(m.told, func(n int) bool { return n == number(c) })
		m.held = nil
	}
}
