package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/store"
)

// A writer is the one goroutine that writes. Callers queue; whatever queued
// while one transaction was on its way to the disk makes up the next.
type writer struct {
	store *Store
	limit int // requests in one transaction
	long  int // longLog, less in tests

	mu     sync.Mutex
	queue  []*request
	closed bool
	wake   chan struct{} // holds one: there is something in the queue
	heavy  chan struct{} // holds one: the log is long
	used   chan struct{} // holds one: the log is not empty

	// The rest belongs to the goroutine. It mirrors the file, and is read from
	// it again after a transaction that failed.
	conn    *conn
	relaxed bool              // commits are not synced now
	seq     int64             // the last number given
	gone    int64             // deletions remembered
	claims  map[int64]claimed // the messages that are handed out, by ID
	held    map[line]int64    // which of them is the last of its line
	claimed int64             // counts claims, for turns
	pages   int               // written since the log was copied
	counted int               // what conn.written was then
}

// A line is the messages of one key in one inbox, which go one after another.
type line struct{ inbox, key string }

// claimed is a message that somebody holds.
type claimed struct {
	line
	token   string
	until   int64 // Unix microseconds
	blocked bool  // somebody waits for it to be done
}

// A request is one caller's part of a transaction. do checks everything before
// it writes anything: an error that wraps a mlaas.Kind says that nothing was
// written, any other ends the whole transaction.
type request struct {
	ctx     context.Context
	durable bool // it must be on disk before its caller goes on
	do      func(*txn) error
	err     error
	done    chan struct{}
}

// A txn is a transaction under way, and what is to be told once it is there.
type txn struct {
	*writer
	now   int64 // Unix microseconds
	wrote bool
	rows  []*recent              // that changed
	at    map[store.Key]standing // how each of them is now
	rings map[string]bool        // inboxes
	notes []func()               // said when it is true
}

// submit hands do to the writer and returns what became of it.
func (w *writer) submit(ctx context.Context, durable bool, do func(*txn) error) error {
	r := &request{ctx: ctx, durable: durable, do: do, done: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return w.store.closed()
	}
	w.queue = append(w.queue, r)
	w.mu.Unlock()
	notify(w.wake)
	<-r.done // soon: what was queued is answered, and only the disk can make it wait
	return r.err
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close lets run end once the queue is empty.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	notify(w.wake)
}

func (w *writer) run() {
	for {
		w.mu.Lock()
		n := min(len(w.queue), w.limit)
		group := w.queue[:n:n]
		if w.queue = w.queue[n:]; len(w.queue) == 0 {
			w.queue = nil
		}
		closed := w.closed
		w.mu.Unlock()
		switch {
		case n > 0:
			w.commit(group)
			for _, r := range group {
				close(r.done)
			}
		case closed:
			return
		default:
			<-w.wake
		}
	}
}

// commit does a group in one transaction. What breaks a transaction is the
// business of one request, unless it is the disk: then the others go alone.
func (w *writer) commit(group []*request) {
	err := w.try(group)
	if err == nil {
		return
	}
	w.recover(err)
	err = explain(w.store.path, err)
	if len(group) > 1 && !errors.Is(err, mlaas.ErrDisk) {
		for i := range group {
			w.commit(group[i : i+1])
		}
		return
	}
	for _, r := range group {
		r.err = err
	}
}

func (w *writer) try(group []*request) (err error) {
	if w.store.path == "" {
		c := <-w.store.readers
		defer func() { w.store.readers <- c }()
	}
	if err := w.ready(); err != nil {
		return err
	}
	durable := false
	for _, r := range group {
		durable = durable || r.durable
	}
	// A claim may be forgotten in a power failure, together with whoever held
	// it. It survives the death of the process even when it is not synced.
	if durable == w.relaxed {
		level := "FULL"
		if !durable {
			level = "NORMAL"
		}
		if err := w.conn.script("PRAGMA synchronous = " + level); err != nil {
			return err
		}
		w.relaxed = !durable
	}
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	t := txn{writer: w, now: w.store.now().UnixMicro()}
	done := int64(0)
	for _, r := range group {
		if r.err = r.ctx.Err(); r.err != nil {
			continue
		}
		if r.err = r.do(&t); r.err == nil {
			if r.durable {
				done++
			}
		} else if _, refused := errors.AsType[*mlaas.Kind](r.err); !refused {
			return r.err
		}
	}
	if !t.wrote {
		_, err := w.conn.exec("COMMIT")
		return err
	}
	if _, err := w.conn.exec("UPDATE numbers SET value = ? WHERE name = 'seq'", w.seq); err != nil {
		return err
	}
	w.store.tail.withhold(t.rows)
	failpoint.Hit("store.commit.before")
	began := time.Now()
	if _, err := w.conn.exec("COMMIT"); err != nil {
		return err
	}
	failpoint.Hit("store.commit.after")
	if durable {
		w.store.syncs.Add(1)
		w.store.synced.Observe(time.Since(began))
	}
	w.store.commits.Add(done)
	w.store.tail.add(t.rows, w.seq) // before the number: who sees that finds them
	w.store.seq.Store(w.seq)
	for inbox := range t.rings {
		w.store.bells.ring(inbox)
	}
	for _, note := range t.notes {
		note()
	}
	w.account()
	return nil
}

// recover undoes a transaction that failed. After an error of the disk the
// connection is not trusted any more; in memory there is no disk.
func (w *writer) recover(err error) {
	if w.conn == nil {
		return
	}
	_, failed := w.conn.exec("ROLLBACK")
	if w.store.path == "" {
		_ = w.load() // memory answers, or nothing does
		return
	}
	if failed == nil && !errors.Is(explain("", err), mlaas.ErrDisk) {
		failed = w.load()
	} else {
		failed = err
	}
	if failed != nil {
		w.drop()
		notify(w.heavy) // copying the log makes room in it
	}
}

func (w *writer) drop() {
	w.conn.close()
	w.conn = nil
}

// ready makes sure that there is a connection.
func (w *writer) ready() error {
	if w.conn != nil {
		return nil
	}
	if err := w.dial(); err != nil {
		return err
	}
	if err := w.load(); err != nil {
		w.drop()
		return err
	}
	return nil
}

func (w *writer) dial() error {
	pragmas := []string{"journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(0)", "journal_size_limit(67108864)", "cache_size(-16000)"}
	if w.store.path == "" {
		pragmas = nil
	}
	c, err := w.store.dial(pragmas...)
	if err != nil {
		return err
	}
	w.conn, w.relaxed, w.counted = c, false, 0
	return nil
}

// prepare makes the tables where there are none, and takes the messages back
// that the process before held: it is dead, or the file would be locked. Its
// death does not count as a delivery, except for a message that seems to be
// what kills it.
func (w *writer) prepare() error {
	found, err := w.conn.number("PRAGMA user_version")
	switch {
	case err != nil:
		return err
	case found > version:
		return fmt.Errorf("%s was written by a newer mlaas (its version is %d, this one knows %d): use that one: %w", w.store.path, found, version, mlaas.ErrConflict)
	case found == 0:
		if err := w.conn.script("BEGIN IMMEDIATE;" + schema + "COMMIT;"); err != nil {
			return err
		}
	}
	if _, err := w.conn.exec(`UPDATE messages SET token = '', ready = 0, orphaned = orphaned + 1,
		deliveries = CASE WHEN orphaned < ? THEN deliveries - 1 ELSE deliveries END WHERE token <> ''`, 4*store.MaxDeliveries); err != nil {
		return err
	}
	return w.load()
}

// load reads what the writer keeps in memory.
func (w *writer) load() (err error) {
	number := func(sql string) (n int64) {
		if err == nil {
			n, err = w.conn.number(sql)
		}
		return n
	}
	w.seq = number("SELECT value FROM numbers WHERE name = 'seq'")
	trimmed := number("SELECT value FROM numbers WHERE name = 'trimmed'")
	w.gone = number("SELECT count(*) FROM gone")
	if err != nil {
		return err
	}
	w.claims, w.held = map[int64]claimed{}, map[line]int64{}
	err = w.conn.query(func(v []driver.Value) bool {
		c := claimed{line: line{v[1].(string), v[2].(string)}, token: v[3].(string), until: v[4].(int64), blocked: true}
		w.claims[v[0].(int64)] = c
		w.held[c.line] = v[0].(int64)
		return true
	}, "SELECT id, inbox, key, token, ready FROM messages WHERE parked = 0 AND token <> ''")
	w.store.tail.begin(w.seq)
	w.store.seq.Store(w.seq)
	w.store.trimmed.Store(trimmed)
	return err
}

func (t *txn) exec(sql string, args ...any) error {
	t.wrote = true
	_, err := t.conn.exec(sql, args...)
	return err
}

func (t *txn) next() int64 {
	t.seq++
	return t.seq
}

func (t *txn) ring(inbox string) {
	if t.rings == nil {
		t.rings = map[string]bool{}
	}
	t.rings[inbox] = true
}

// Commit does all of b or nothing.
func (s *Store) Commit(ctx context.Context, b store.Batch) error {
	if err := valid(b); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.writer.submit(ctx, true, func(t *txn) error { return t.commit(b) })
}

// valid refuses what no commit can do.
func valid(b store.Batch) error {
	if b.Ack != nil && b.Retry != nil {
		return mlaas.Invalid("retry", "a batch without ack: a message is done or it is not", b.Retry.ID)
	}
	seen := make(map[store.Key]bool, len(b.Put)+len(b.Delete))
	for _, rows := range [][]store.Row{b.Put, b.Delete} {
		for _, r := range rows {
			switch {
			case r.Key.Kind == "" || r.Key.ID == "":
				return mlaas.Invalid("key", "a kind and an id", r.Key.String())
			case seen[r.Key]:
				return mlaas.Invalid("key", "each key once in a batch", r.Key.String())
			case len(r.Data) > store.MaxData:
				return fmt.Errorf("%s has %d bytes, at most %d are kept in a record: %w", r.Key, len(r.Data), store.MaxData, mlaas.ErrTooLarge)
			}
			seen[r.Key] = true
		}
	}
	for _, m := range b.Tell {
		switch {
		case m.To == "":
			return mlaas.Invalid("to", "the name of an inbox", m.To)
		case len(m.Body) > store.MaxData:
			return fmt.Errorf("message %s to %s has %d bytes, at most %d are kept in one: %w", m.Subject, m.To, len(m.Body), store.MaxData, mlaas.ErrTooLarge)
		}
	}
	return nil
}

// standing is what is there under a key; the zero value is nothing.
type standing struct {
	seq, rev int64
	index    string
}

func (t *txn) find(k store.Key) (s standing, err error) {
	if s, ok := t.at[k]; ok {
		return s, nil
	}
	if r, ok := t.store.tail.row(k); ok {
		if r.Deleted {
			return s, nil
		}
		return standing{r.Seq, r.Row.Rev, r.index}, nil
	}
	err = t.conn.query(func(v []driver.Value) bool {
		s = standing{v[0].(int64), v[1].(int64), v[2].(string)}
		return false
	}, "SELECT seq, rev, idx FROM rows WHERE kind = ? AND tenant = ? AND id = ?", k.Kind, string(k.Tenant), k.ID)
	return s, err
}

// expect finds what is there and checks its revision.
func (t *txn) expect(r store.Row) (standing, error) {
	s, err := t.find(r.Key)
	switch {
	case err != nil || s.rev == r.Rev:
		return s, err
	case s.rev == 0:
		return s, fmt.Errorf("%s is not there, revision %d was expected: %w", r.Key, r.Rev, mlaas.ErrConflict)
	case r.Rev == 0:
		return s, fmt.Errorf("%s is there already: %w", r.Key, mlaas.ErrConflict)
	}
	return s, fmt.Errorf("%s is at revision %d, not %d: %w", r.Key, s.rev, r.Rev, mlaas.ErrConflict)
}

func (t *txn) commit(b store.Batch) error {
	for _, c := range []*store.Claim{b.Ack, b.Retry} {
		if c != nil && t.claims[c.ID].token != c.Token {
			return fmt.Errorf("%s %d of %s: %w", c.Message.Subject, c.ID, c.Message.To, store.ErrNotHeld)
		}
	}
	for _, r := range b.Check {
		if _, err := t.expect(r); err != nil {
			return err
		}
	}
	was := make([]standing, 0, 8)
	for _, rows := range [][]store.Row{b.Put, b.Delete} {
		for _, r := range rows {
			s, err := t.expect(r)
			if err != nil {
				return err
			}
			if was = append(was, s); s.rev == 0 && len(was) > len(b.Put) {
				return fmt.Errorf("%s is not there: %w", r.Key, mlaas.ErrConflict)
			}
		}
	}
	// From here on nothing can be against it but the disk.
	for i, r := range b.Put {
		if err := t.put(r, was[i], was[i].rev+1); err != nil {
			return err
		}
	}
	for i, r := range b.Delete {
		if err := t.delete(r.Key, was[len(b.Put)+i]); err != nil {
			return err
		}
	}
	for _, m := range b.Tell {
		if err := t.tell(m); err != nil {
			return err
		}
	}
	if b.Ack != nil {
		return t.ack(b.Ack.ID)
	}
	if b.Retry != nil {
		return t.retry(*b.Retry, b.Delay, b.Why)
	}
	return nil
}

// put writes a row at revision rev over what was there.
func (t *txn) put(r store.Row, was standing, rev int64) (err error) {
	k, index := r.Key, indexText(r.Index)
	if was.rev == 0 {
		err = t.exec("INSERT INTO rows (seq, kind, tenant, id, rev, idx, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
			t.next(), k.Kind, string(k.Tenant), k.ID, rev, index, []byte(r.Data))
	} else {
		err = t.exec("UPDATE rows SET seq = ?, rev = ?, idx = ?, data = ? WHERE seq = ?",
			t.next(), rev, index, []byte(r.Data), was.seq)
	}
	r.Rev = rev
	t.changed(&recent{Change: store.Change{Seq: t.seq, Row: r}, index: index})
	if err != nil || index == was.index {
		return err
	}
	if err := t.unindex(k, was); err != nil {
		return err
	}
	for _, value := range r.Index {
		if err := t.exec("INSERT OR IGNORE INTO indexes (kind, value, tenant, id) VALUES (?, ?, ?, ?)", k.Kind, value, string(k.Tenant), k.ID); err != nil {
			return err
		}
	}
	return nil
}

// changed notes what was written.
func (t *txn) changed(r *recent) {
	t.rows = append(t.rows, r)
	if t.at == nil {
		t.at = map[store.Key]standing{}
	}
	t.at[r.Row.Key] = standing{}
	if !r.Deleted {
		t.at[r.Row.Key] = standing{r.Seq, r.Row.Rev, r.index}
	}
}

func (t *txn) unindex(k store.Key, was standing) error {
	for _, value := range indexOf(was.index) {
		if err := t.exec("DELETE FROM indexes WHERE kind = ? AND value = ? AND tenant = ? AND id = ?", k.Kind, value, string(k.Tenant), k.ID); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) delete(k store.Key, was standing) error {
	if err := t.exec("DELETE FROM rows WHERE seq = ?", was.seq); err != nil {
		return err
	}
	if err := t.unindex(k, was); err != nil {
		return err
	}
	if err := t.exec("INSERT INTO gone (seq, kind, tenant, id) VALUES (?, ?, ?, ?)", t.next(), k.Kind, string(k.Tenant), k.ID); err != nil {
		return err
	}
	t.changed(&recent{Change: store.Change{Seq: t.seq, Row: store.Row{Key: k}, Deleted: true}})
	t.gone++
	return t.trim()
}

// trim forgets old deletions, a tenth of them at a time.
func (t *txn) trim() error {
	keep := int64(t.store.keep)
	if t.gone <= keep+keep/10 {
		return nil
	}
	last, err := t.conn.number("SELECT seq FROM gone ORDER BY seq DESC LIMIT 1 OFFSET ?", keep)
	if err != nil {
		return err
	}
	if err := t.exec("DELETE FROM gone WHERE seq <= ?", last); err != nil {
		return err
	}
	if err := t.exec("UPDATE numbers SET value = ? WHERE name = 'trimmed'", last); err != nil {
		return err
	}
	t.gone = keep
	t.notes = append(t.notes, func() { t.store.trimmed.Store(last) })
	return nil
}

// micro is a time in a column.
func micro(t time.Time) int64 { return t.UnixMicro() }
