package sqlitestore

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const watchPage = 256

// Watch sends every row as it stands, then one Change with Synced, then each
// change. It reads the rows in the order in which they were written last, page
// by page, on and on: a row that changes meanwhile comes again further on. What
// was committed just now is read from the tail instead. A slow receiver holds up
// nobody.
func (s *Store) Watch(ctx context.Context, from int64, kinds []string, out chan<- store.Change) error {
	last, synced, deletions := from, false, from
	if from == 0 {
		deletions = s.seq.Load() // what was deleted before is not there to be sent
	} else if now := s.seq.Load(); from > now {
		return fmt.Errorf("change %d is not known here, the last one is %d: begin again: %w", from, now, mlaas.ErrGone)
	}
	send := func(c store.Change) error {
		select {
		case out <- c:
			return nil
		case <-s.closing:
			return s.closed()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ear, stop := s.tail.listen(kinds)
	defer stop()
	for {
		last = max(last, s.tail.heard(ear))
		if trimmed := s.trimmed.Load(); max(last, deletions) < trimmed {
			return fmt.Errorf("what was deleted up to change %d is no longer known, and %d was asked for: begin again: %w", trimmed, max(last, deletions), mlaas.ErrGone)
		}
		if from > 0 && !synced {
			synced = true
			if err := send(store.Change{Seq: from, Synced: true}); err != nil {
				return err
			}
		}
		page, recent := []store.Change(nil), false
		if synced {
			page, recent = s.tail.after(last, ear)
		}
		now := s.seq.Load()
		if !recent {
			var err error
			if page, err = s.changes(ctx, last, max(last, deletions), kinds); err != nil {
				return err
			}
		}
		for _, c := range page {
			if err := send(c); err != nil {
				return err
			}
			last = c.Seq
		}
		switch {
		case len(page) == watchPage:
		case recent:
			if err := s.wait(ctx, ear.ring, 0); err != nil {
				return err
			}
		default:
			last = max(last, now) // up to there was nothing else of these kinds
			if !synced {
				synced = true
				if err := send(store.Change{Seq: last, Synced: true}); err != nil {
					return err
				}
			}
		}
	}
}

// changes is a page of what was written after one number and deleted after
// another, in the order of their numbers.
func (s *Store) changes(ctx context.Context, written, deleted int64, kinds []string) (page []store.Change, err error) {
	of, args := "", make([]any, 0, 2*len(kinds)+3)
	if len(kinds) > 0 { // the plus keeps SQLite from going by kind, and then sorting all of them
		of = " AND +kind IN (?" + strings.Repeat(", ?", len(kinds)-1) + ")"
	}
	for _, after := range []int64{written, deleted} {
		args = append(args, after)
		for _, k := range kinds {
			args = append(args, k)
		}
	}
	err = s.read(ctx, func(c *conn) error {
		return c.query(func(v []driver.Value) bool {
			seq, row := scanRow(v)
			change := store.Change{Seq: seq, Row: row}
			if row.Rev == 0 {
				change.Row, change.Deleted = store.Row{Key: row.Key}, true
			}
			page = append(page, change)
			return true
		}, "SELECT "+rowColumns+" FROM rows r WHERE seq > ?"+of+
			" UNION ALL SELECT seq, kind, tenant, id, 0, '', NULL FROM gone g WHERE seq > ?"+of+
			" AND NOT EXISTS (SELECT 1 FROM rows n WHERE n.kind = g.kind AND n.tenant = g.tenant AND n.id = g.id)"+
			" ORDER BY 1 LIMIT ?", append(args, watchPage)...)
	})
	return page, err
}
