package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

var (
	_ store.Exporter = (*Store)(nil)
	_ store.Importer = (*Store)(nil)
)

// Export reads everything in one read transaction: the writer goes on, and the
// log of the file grows until it is over.
func (s *Store) Export(ctx context.Context, row func(store.Row) error, message func(store.Claim) error) (seq int64, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		if err := c.script("BEGIN"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.script("COMMIT")) }()
		// The first read fixes the moment.
		if seq, err = c.number("SELECT value FROM numbers WHERE name = 'seq'"); err != nil {
			return err
		}
		var failed error
		each := func(f func(v []driver.Value) error) func(v []driver.Value) bool {
			return func(v []driver.Value) bool {
				if failed = ctx.Err(); failed == nil {
					failed = f(v)
				}
				return failed == nil
			}
		}
		err = c.query(each(func(v []driver.Value) error {
			_, r := scanRow(v)
			return row(r)
		}), "SELECT "+rowColumns+" FROM rows r ORDER BY seq")
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		err = c.query(each(func(v []driver.Value) error { return message(scanClaim(v)) }), "SELECT "+claimColumns+" FROM messages ORDER BY id")
		return errors.Join(err, failed)
	})
	return seq, err
}

// Import writes rows as they were elsewhere, their revisions too.
func (s *Store) Import(ctx context.Context, rows []store.Row, messages []store.Message) error {
	if err := valid(store.Batch{Put: rows, Tell: messages}); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Rev < 1 {
			return mlaas.Invalid("rev", "the revision that the record had", r.Rev)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.writer.submit(ctx, true, func(t *txn) error {
		for _, r := range rows {
			was, err := t.find(r.Key)
			if err != nil {
				return err
			}
			if was.rev != 0 {
				return fmt.Errorf("%s is there already: %w", r.Key, mlaas.ErrConflict)
			}
		}
		for _, r := range rows {
			if err := t.put(r, standing{}, r.Rev); err != nil {
				return err
			}
		}
		for _, m := range messages {
			if err := t.tell(m); err != nil {
				return err
			}
		}
		return nil
	})
}
