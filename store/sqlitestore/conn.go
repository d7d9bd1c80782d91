package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"modernc.org/sqlite"

	"mlaas.dev/mlaas"
)

// A conn is one connection with its prepared statements. It is used by one
// goroutine at a time. It goes around database/sql, whose pool, conversions
// and goroutines would cost more than the statements themselves.
type conn struct {
	raw   driver.Conn
	stmts map[string]driver.Stmt
	args  []driver.NamedValue
}

func dial(dsn string, pragmas ...string) (*conn, error) {
	raw, err := new(sqlite.Driver).Open(dsn)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw, stmts: map[string]driver.Stmt{}}
	for _, p := range pragmas {
		if err := c.script("PRAGMA " + p); err != nil {
			c.close()
			return nil, fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	return c, nil
}

func (c *conn) close() {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	_ = c.raw.Close()
}

// script runs SQL that is not kept prepared.
func (c *conn) script(sql string) error {
	_, err := c.raw.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

func (c *conn) prepared(sql string) (driver.Stmt, error) {
	if s := c.stmts[sql]; s != nil {
		return s, nil
	}
	s, err := c.raw.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	c.stmts[sql] = s
	return s, nil
}

// bind numbers the arguments. int and string, []byte, int64, nil and bool are
// what there is.
func (c *conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		if n, ok := a.(int); ok {
			a = int64(n)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(sql string, args ...any) (int64, error) {
	s, err := c.prepared(sql)
	if err != nil {
		return 0, err
	}
	r, err := s.(driver.StmtExecContext).ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query calls each for every row until it returns false. The values are valid
// after the call.
func (c *conn) query(each func(row []driver.Value) bool, sql string, args ...any) (err error) {
	s, err := c.prepared(sql)
	if err != nil {
		return err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), c.bind(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if !each(row) {
			return nil
		}
	}
}

// number returns the one number that sql asks for; nothing and NULL are 0.
func (c *conn) number(sql string, args ...any) (n int64, err error) {
	err = c.query(func(row []driver.Value) bool {
		n, _ = row[0].(int64)
		return false
	}, sql, args...)
	return n, err
}

// written is how many pages this connection has written since it was opened.
func (c *conn) written() int {
	n, _, err := c.raw.(sqlite.DBStatus).Status(sqlite.DBStatusCacheWrite, false)
	if err != nil {
		return 0
	}
	return n
}

// Result codes of SQLite that say something about the disk.
const (
	sqliteReadOnly = 8
	sqliteIOErr    = 10
	sqliteCorrupt  = 11
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteNotADB   = 26
)

// explain says what an error of SQLite means to whoever runs the platform.
func explain(path string, err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case sqliteFull:
		return fmt.Errorf("no room left on the disk of %s; the store goes on by itself when there is some again: %w", path, mlaas.ErrDisk)
	case sqliteIOErr, sqliteReadOnly, sqliteCantOpen:
		return fmt.Errorf("the disk of %s cannot be used (%w): %w", path, e, mlaas.ErrDisk)
	case sqliteCorrupt, sqliteNotADB:
		return fmt.Errorf("%s is damaged (%w); restore it from a backup: %w", path, e, mlaas.ErrInternal)
	}
	return fmt.Errorf("%s: %w", path, err)
}
