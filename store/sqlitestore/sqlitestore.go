// Package sqlitestore keeps records and messages in one SQLite file, for one
// process.
//
// One goroutine writes. While it waits for the disk others queue up, and all
// of them go into its next transaction, so that many callers share one fsync.
// Each batch is checked in full before anything of it is written: a conflict
// undoes only itself. Readers see the last commit and never wait for the
// writer; the newest rows are in memory (tail.go). The log is copied back into
// the file off the path of commits.
package sqlitestore

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/store"
)

// Options are what a store needs besides its file. The zero value is right for
// production.
type Options struct {
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: slog.Default()
	Group  int              // commits in one transaction at most; 0: 512; 1: each one alone
	Gone   int              // deletions that Watch can look back over; 0: 100,000
	Synced *meter.Histogram // how long durable writes take; nil: nobody asks

	long int // longLog, less in tests
}

// A Store is a store.Driver.
type Store struct {
	path string // empty: in memory
	now  func() time.Time
	log  *slog.Logger
	keep int
	lock *os.File

	synced *meter.Histogram

	readers chan *conn // a pool; in memory it has the one connection that there is
	pooled  int        // how many there are
	writer  writer
	bells   bells
	tail    tail
	copying sync.Mutex // of the log

	seq     atomic.Int64 // of the last commit
	trimmed atomic.Int64 // deletions up to this one are forgotten
	commits atomic.Int64
	syncs   atomic.Int64

	closing chan struct{}
	once    sync.Once
	all     sync.WaitGroup // the goroutines born in Open
}

var _ store.Driver = (*Store)(nil)

const (
	version = 1 // of the schema
	pool    = 4 // readers
)

// seq numbers every write of a row and every message, and is never used twice.
// It is the place of a row in its table, so that the newest are together at
// the end: a group of commits touches few pages, and a watcher reads on from
// where it was.
const schema = `
CREATE TABLE rows (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL,
	rev INTEGER NOT NULL, idx TEXT NOT NULL, data BLOB);
CREATE UNIQUE INDEX rows_key ON rows (kind, tenant, id);
CREATE TABLE indexes (kind TEXT NOT NULL, value TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL,
	PRIMARY KEY (kind, value, tenant, id)) WITHOUT ROWID;
CREATE TABLE gone (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL);
CREATE TABLE messages (id INTEGER PRIMARY KEY, inbox TEXT NOT NULL, subject TEXT NOT NULL, key TEXT NOT NULL,
	body BLOB, due INTEGER NOT NULL, ready INTEGER NOT NULL, token TEXT NOT NULL, deliveries INTEGER NOT NULL,
	orphaned INTEGER NOT NULL, parked INTEGER NOT NULL, why TEXT NOT NULL);
CREATE INDEX messages_ready ON messages (inbox, ready, id, key) WHERE parked = 0;
CREATE INDEX messages_parked ON messages (id) WHERE parked = 1;
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO numbers VALUES ('seq', 0), ('trimmed', 0);
PRAGMA user_version = 1;
`

// Open opens the store in the file path, or makes it; ":memory:" is one that
// is forgotten at Close. A file has one process at a time: a second one is
// refused. Messages that the process before held are due again at once.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &Store{
		now:     o.Now,
		log:     cmp.Or(o.Log, slog.Default()),
		keep:    cmp.Or(o.Gone, 100_000),
		readers: make(chan *conn, pool),
		closing: make(chan struct{}),
		synced:  cmp.Or(o.Synced, new(meter.Histogram)),
		tail:    tail{most: tailChanges},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if path != ":memory:" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		s.path = abs
	}
	s.writer = writer{store: s, limit: cmp.Or(o.Group, 512), long: cmp.Or(o.long, longLog), wake: make(chan struct{}, 1), heavy: make(chan struct{}, 1), used: make(chan struct{}, 1)}
	err := s.open()
	if errors.Is(err, mlaas.ErrDisk) && s.spend() {
		s.free()
		err = s.open()
	}
	if err != nil {
		s.free()
		return nil, err
	}
	s.all.Go(s.writer.run)
	if s.path != "" {
		s.reserve()
		s.all.Go(s.checkpoints)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if s.path != "" {
		if s.lock, err = lock(s.path); err != nil {
			return err
		}
		// The timestamps that fsync writes besides are nothing that a commit needs.
		_, _ = sqlite.Fdatasync(true)
	}
	if err := s.writer.dial(); err != nil {
		return explain(s.path, err)
	}
	if err := s.writer.prepare(); err != nil {
		return explain(s.path, err)
	}
	s.writer.inherit()
	if s.path == "" {
		s.readers <- s.writer.conn
		s.pooled = 1
		return nil
	}
	for range pool {
		c, err := s.dial("query_only(1)", "cache_size(-4000)")
		if err != nil {
			return explain(s.path, err)
		}
		s.readers <- c
		s.pooled++
	}
	return nil
}

// dial makes one more connection to the file.
func (s *Store) dial(pragmas ...string) (*conn, error) {
	if s.path == "" {
		return dial(":memory:", pragmas...)
	}
	name := url.URL{Scheme: "file", Path: s.path}
	return dial(name.String(), append([]string{"busy_timeout(5000)"}, pragmas...)...)
}

// Close ends what Open began. A second Close does nothing.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.writer.close()
		s.all.Wait()
		s.free()
	})
	return nil
}

// free gives back what is held, once the last reader has finished. The last
// connection to close empties the log.
func (s *Store) free() {
	for range s.pooled {
		if c := <-s.readers; c != s.writer.conn {
			c.close()
		}
	}
	if s.writer.conn != nil {
		s.writer.conn.close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
	s.pooled, s.writer.conn, s.lock = 0, nil, nil
}

func (s *Store) closed() error {
	return fmt.Errorf("the store was closed: %w", mlaas.ErrUnavailable)
}

// ended reports why nothing is to be read any more.
func (s *Store) ended(ctx context.Context) error {
	select {
	case <-s.closing:
		return s.closed()
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}

// read lends a connection to f.
func (s *Store) read(ctx context.Context, f func(c *conn) error) error {
	if err := s.ended(ctx); err != nil { // before a connection that is free
		return err
	}
	select {
	case <-s.closing:
		return s.closed()
	case <-ctx.Done():
		return ctx.Err()
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		if err := f(c); err != nil {
			return explain(s.path, err)
		}
		return nil
	}
}

const rowColumns = "r.seq, r.kind, r.tenant, r.id, r.rev, r.idx, r.data"

func scanRow(v []driver.Value) (seq int64, row store.Row) {
	row.Key = store.Key{Kind: v[1].(string), Tenant: mlaas.Tenant(v[2].(string)), ID: v[3].(string)}
	row.Rev = v[4].(int64)
	row.Index = indexOf(v[5].(string))
	row.Data, _ = v[6].([]byte)
	return v[0].(int64), row
}

// The index values of a row are kept with it as JSON, so that the next writer
// knows what to remove; nothing is the empty text.
func indexText(index []string) string {
	if len(index) == 0 {
		return ""
	}
	text, err := json.Marshal(index)
	if err != nil {
		panic(err) // strings always encode
	}
	return string(text)
}

func indexOf(text string) (index []string) {
	if text != "" {
		_ = json.Unmarshal([]byte(text), &index) // indexText wrote it
	}
	return index
}

// Get returns one row, or mlaas.ErrNotFound.
func (s *Store) Get(ctx context.Context, key store.Key) (row store.Row, err error) {
	if err := s.ended(ctx); err != nil {
		return row, err
	}
	if r, ok := s.tail.row(key); ok {
		row = r.Row
	} else {
		err = s.read(ctx, func(c *conn) error {
			return c.query(func(v []driver.Value) bool {
				_, row = scanRow(v)
				return false
			}, "SELECT "+rowColumns+" FROM rows r WHERE kind = ? AND tenant = ? AND id = ?", key.Kind, string(key.Tenant), key.ID)
		})
	}
	if err == nil && row.Rev == 0 {
		err = fmt.Errorf("%s: %w", key, mlaas.ErrNotFound)
	}
	return row, err
}

// List returns a page of rows and the cursor of the next.
func (s *Store) List(ctx context.Context, q store.Query) (rows []store.Row, next store.Key, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 1000
	}
	sql, args := "SELECT "+rowColumns+" FROM rows r WHERE r.kind = ?", []any{q.Kind}
	at := "r"
	if q.Index != "" {
		sql = "SELECT " + rowColumns + " FROM indexes i CROSS JOIN rows r ON r.kind = i.kind AND r.tenant = i.tenant AND r.id = i.id" +
			" WHERE i.kind = ? AND i.value = ?"
		args = append(args, q.Index)
		at = "i"
	}
	where := func(condition string, values ...any) {
		sql += " AND " + condition
		args = append(args, values...)
	}
	tenant, id := at+".tenant", at+".id"
	if q.Tenant != "" {
		where(tenant+" = ?", string(q.Tenant))
	}
	if q.Prefix != "" {
		where(id+" >= ?", q.Prefix)
		if end := after(q.Prefix); end != "" {
			where(id+" < ?", end)
		}
	}
	order, follows := "", " > "
	if q.Reverse {
		order, follows = " DESC", " < "
	}
	if q.After != (store.Key{}) {
		where("("+tenant+", "+id+")"+follows+"(?, ?)", string(q.After.Tenant), q.After.ID)
	}
	sql += " ORDER BY " + tenant + order + ", " + id + order + " LIMIT ?"
	err = s.read(ctx, func(c *conn) error {
		return c.query(func(v []driver.Value) bool {
			if len(rows) == limit {
				next = rows[limit-1].Key // there is one more
				return false
			}
			_, row := scanRow(v)
			rows = append(rows, row)
			return true
		}, sql, append(args, limit+1)...)
	})
	return rows, next, err
}

// after is the smallest text that is larger than every text with this prefix;
// empty where there is none.
func after(prefix string) string {
	b := []byte(prefix)
	for len(b) > 0 {
		if last := len(b) - 1; b[last] < 0xff {
			b[last]++
			return string(b)
		}
		b = b[:len(b)-1]
	}
	return ""
}

// Stats tells how the store is doing.
func (s *Store) Stats(ctx context.Context) (stats store.Stats, err error) {
	stats = store.Stats{Commits: s.commits.Load(), Syncs: s.syncs.Load(), Seq: s.seq.Load()}
	now := s.now().UnixMicro()
	err = s.read(ctx, func(c *conn) error {
		return c.query(func(v []driver.Value) bool {
			stats.Records, stats.Waiting, stats.Parked = v[0].(int64), v[1].(int64), v[2].(int64)
			if oldest, ok := v[3].(int64); ok && oldest < now {
				stats.Oldest = time.Duration(now-oldest) * time.Microsecond
			}
			return false
		}, `SELECT (SELECT count(*) FROM rows), (SELECT count(*) FROM messages WHERE parked = 0),
			(SELECT count(*) FROM messages WHERE parked = 1), (SELECT min(due) FROM messages WHERE parked = 0)`)
	})
	if err != nil || s.path == "" {
		return stats, err
	}
	for _, part := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(s.path + part)
		if err == nil {
			stats.Size += mlaas.Bytes(info.Size())
		} else if !errors.Is(err, os.ErrNotExist) {
			return stats, err
		}
	}
	return stats, nil
}
