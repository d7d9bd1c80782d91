package contractor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// memory is a store for simulations that commit some hundred thousand times.
// What it promises is in package store; what is not asked of it here (leases
// that run out, messages that are parked) it leaves out.
type memory struct {
	store.Driver
	mu      sync.Mutex
	rows    map[store.Key]store.Row
	waiting []store.Message
	seq     int64
}

func newMemory() *memory { return &memory{rows: map[store.Key]store.Row{}} }

func (m *memory) Get(_ context.Context, k store.Key) (store.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row, ok := m.rows[k]
	if !ok {
		return store.Row{}, fmt.Errorf("%s: %w", k, mlaas.ErrNotFound)
	}
	return row, nil
}

func (m *memory) List(_ context.Context, q store.Query) ([]store.Row, store.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []store.Row
	for k, row := range m.rows {
		if k.Kind == q.Kind && (q.Tenant == "" || k.Tenant == q.Tenant) && strings.HasPrefix(k.ID, q.Prefix) && (q.Index == "" || slices.Contains(row.Index, q.Index)) {
			all = append(all, row)
		}
	}
	order := func(a, b store.Key) int {
		c := strings.Compare(string(a.Tenant)+"\x00"+a.ID, string(b.Tenant)+"\x00"+b.ID)
		if q.Reverse {
			return -c
		}
		return c
	}
	slices.SortFunc(all, func(a, b store.Row) int { return order(a.Key, b.Key) })
	if q.After != (store.Key{}) {
		all = slices.DeleteFunc(all, func(r store.Row) bool { return order(r.Key, q.After) <= 0 })
	}
	limit := q.Limit
	if limit == 0 {
		limit = 1000
	}
	if len(all) > limit {
		return all[:limit], all[limit-1].Key, nil
	}
	return all, store.Key{}, nil
}

func (m *memory) Commit(_ context.Context, b store.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range slices.Concat(b.Put, b.Delete, b.Check) {
		if m.rows[row.Key].Rev != row.Rev {
			return fmt.Errorf("%s is at %d, not at %d: %w", row.Key, m.rows[row.Key].Rev, row.Rev, mlaas.ErrConflict)
		}
	}
	for _, row := range b.Put {
		row.Rev++
		m.rows[row.Key] = row
	}
	for _, row := range b.Delete {
		delete(m.rows, row.Key)
	}
	m.waiting = append(m.waiting, b.Tell...)
	m.seq++
	return nil
}

func (m *memory) Watch(ctx context.Context, _ int64, _ []string, _ chan<- store.Change) error {
	<-ctx.Done()
	return ctx.Err()
}

func (m *memory) Next(ctx context.Context, _ string, _ time.Duration) (store.Claim, error) {
	<-ctx.Done()
	return store.Claim{}, ctx.Err()
}

func (m *memory) Stats(context.Context) (store.Stats, error) {
	return store.Stats{Records: int64(len(m.rows)), Seq: m.seq}, nil
}

func (m *memory) Close() error { return nil }
