// Package store keeps records and messages: small JSON values under keys, each
// with a revision, so that two writers never silently undo each other; and the
// messages that their changes cause, written in the same commit.
//
// Services use [Records] and package queue; [Driver] is what a database
// implements. Drivers live in subfolders and all pass storetest.
package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
)

// A Driver is a database: rows and messages, no knowledge of jobs. Methods are
// safe for concurrent use.
type Driver interface {
	// Get returns one row, or mlaas.ErrNotFound.
	Get(ctx context.Context, key Key) (Row, error)

	// List returns the rows that q asks for, and the key to give as q.After for
	// the next page; that is the zero Key on the last page.
	List(ctx context.Context, q Query) ([]Row, Key, error)

	// Watch sends every row of these kinds (nil: of every kind) as it stands,
	// then one Change with Synced, then each change in the order of the
	// commits, until ctx ends. It does not close out. Changes of one row that
	// follow each other quickly may come as the last one only. What changes
	// while the rows are sent comes before Synced too, also as Deleted.
	//
	// With from > 0 it sends only what changed after that sequence number, and
	// no row before Synced; it is mlaas.ErrGone if that is no longer known.
	Watch(ctx context.Context, from int64, kinds []string, out chan<- Change) error

	// Commit does all of b or nothing, durably, and returns when it is on disk.
	// It is mlaas.ErrConflict if a row or check is not at its revision, or if
	// the claim of b is no longer held; mlaas.ErrDisk if there is no room.
	// The error names the key.
	Commit(ctx context.Context, b Batch) error

	// Next waits for a message to this inbox that is due and claims it: nobody
	// else gets it before the lease has passed. A message that was claimed
	// MaxDeliveries times without being acknowledged is parked.
	Next(ctx context.Context, inbox string, lease time.Duration) (Claim, error)

	// Parked returns the messages that were given up, oldest first, at most
	// 1000.
	Parked(ctx context.Context) ([]Claim, error)

	// Requeue delivers a parked message again from the beginning, or is
	// mlaas.ErrNotFound.
	Requeue(ctx context.Context, id int64) error

	// Stats tells how the store is doing.
	Stats(ctx context.Context) (Stats, error)

	// Close frees what the driver holds. Nothing may be called after it.
	Close() error
}

// MaxDeliveries is how often a message is delivered before it is parked.
const MaxDeliveries = 5

// MaxData is how many bytes a row or a message may have; more is
// mlaas.ErrTooLarge. Large things are blobs.
const MaxData = 16 << 20

// ErrNotHeld is the mlaas.ErrConflict of a claim that passed to another, so
// that a hearer knows that handling the message again is not its business.
var ErrNotHeld = fmt.Errorf("the message is no longer held: %w", mlaas.ErrConflict)

// A Key names a record. The tenant is part of it, so that a forgotten check
// finds nothing.
type Key struct {
	Kind   string       // "job", "run", ...
	Tenant mlaas.Tenant // empty for what belongs to the platform
	ID     string
}

func (k Key) String() string {
	if k.Tenant == "" {
		return k.Kind + " " + k.ID
	}
	return fmt.Sprintf("%s %s of %s", k.Kind, k.ID, k.Tenant)
}

// A Row is one record.
type Row struct {
	Key   Key
	Rev   int64           // 1 for a new record; each commit that writes it adds 1
	Data  json.RawMessage // a JSON object
	Index []string        // what List finds it by, such as "state=running"
}

// A Batch is what one Commit does.
type Batch struct {
	Put    []Row // Rev is the revision that is replaced; 0: it must not exist yet
	Delete []Row // Key and Rev are used
	Check  []Row // Key and Rev are used: it must stand there, 0: must not exist
	Tell   []Message
	Ack    *Claim // the message whose handling this is
	Retry  *Claim // give the message back instead: it is due again after Delay
	Delay  time.Duration
	Why    string // with Retry: what failed, to be read where the message is parked
}

// Plus is b and o in one commit.
func (b Batch) Plus(o Batch) Batch {
	b.Put = append(b.Put[:len(b.Put):len(b.Put)], o.Put...)
	b.Delete = append(b.Delete[:len(b.Delete):len(b.Delete)], o.Delete...)
	b.Check = append(b.Check[:len(b.Check):len(b.Check)], o.Check...)
	b.Tell = append(b.Tell[:len(b.Tell):len(b.Tell)], o.Tell...)
	return b
}

// Empty reports whether committing b would do nothing.
func (b Batch) Empty() bool {
	return len(b.Put)+len(b.Delete)+len(b.Check)+len(b.Tell) == 0 && b.Ack == nil && b.Retry == nil
}

// A Query asks for rows of one kind, in the order of (Tenant, ID).
type Query struct {
	Kind    string
	Tenant  mlaas.Tenant // empty: of every tenant
	Index   string       // empty: every row; else those that carry exactly this
	Prefix  string       // of ID
	After   Key          // the cursor: rows that follow it; the zero Key for the first page
	Limit   int          // 0: 1000
	Reverse bool         // newest first, for IDs that sort by age
}

// A Change is one row that was written or deleted, or the end of the rows that
// were there before.
type Change struct {
	Seq     int64 // grows with every commit; hand the last one to Watch to go on
	Row     Row
	Deleted bool // Row has its Key alone
	Synced  bool // Row is empty: what follows happened after Watch began
}

// A Message waits in an inbox until its handling is acknowledged. Messages
// with the same Key are delivered in the order of their commits as long as
// nothing fails; a hearer must not depend on it.
type Message struct {
	To      string // the inbox
	Subject string // the type of the message
	Key     string
	Body    json.RawMessage
	Due     time.Time     // not before; zero: now
	After   time.Duration // not before so long after the commit, by the store's own clock: whatever that of the sender says
}

// A Claim is a message that was handed out.
type Claim struct {
	ID       int64
	Token    string // proves who holds it
	Delivery int    // 1 for the first time
	Why      string // what the last Retry said
	Message  Message
}

// Stats is how a store is doing.
type Stats struct {
	Records int64
	Waiting int64         // messages not yet acknowledged
	Parked  int64         // messages given up after MaxDeliveries
	Oldest  time.Duration // age of the oldest message that is due and not acknowledged
	Commits int64         // since the driver was opened
	Syncs   int64         // durable writes since then: fewer than commits when they are grouped
	Size    mlaas.Bytes   // on disk
	Seq     int64         // of the last commit
}

// Records of one type. Each type has one writing service (design rule 2).
type Records[T any] struct {
	DB    Driver
	Kind  string
	Key   func(T) (mlaas.Tenant, string)
	Index func(T) []string // nil: none

	// See form.go: the form that is written, 0 is 1; and what turns form i+1
	// into form i+2, up to the newest that can be read.
	Writes   int
	Upgrades []Upgrade

	// Mend changes the fields of a record that cannot be read, which an older
	// version took because it did not look inside; nil: there are none.
	Mend Upgrade
}

// Get returns the record named id and its revision.
func (r Records[T]) Get(ctx context.Context, tenant mlaas.Tenant, id string) (v T, rev int64, err error) {
	row, err := r.DB.Get(ctx, Key{r.Kind, tenant, id})
	if err != nil {
		return v, 0, err
	}
	v, err = r.decode(row)
	return v, row.Rev, err
}

// Put is the row that writes v over revision rev, 0 for a new record; hand it
// to Commit.
func (r Records[T]) Put(v T, rev int64) Row {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	tenant, id := r.Key(v)
	row := Row{Key: Key{r.Kind, tenant, id}, Rev: rev, Data: stamp(data, r.Writes)}
	if r.Index != nil {
		row.Index = r.Index(v)
	}
	return row
}

// At is the row that names the record and a revision, for Delete and Check.
func (r Records[T]) At(tenant mlaas.Tenant, id string, rev int64) Row {
	return Row{Key: Key{r.Kind, tenant, id}, Rev: rev}
}

// Found is a record and its revision.
type Found[T any] struct {
	Value T
	Rev   int64
}

// List returns one page; q.Kind is set for the caller.
func (r Records[T]) List(ctx context.Context, q Query) ([]Found[T], Key, error) {
	q.Kind = r.Kind
	rows, next, err := r.DB.List(ctx, q)
	if err != nil {
		return nil, Key{}, err
	}
	out := make([]Found[T], len(rows))
	for i, row := range rows {
		if out[i].Value, err = r.decode(row); err != nil {
			return nil, Key{}, err
		}
		out[i].Rev = row.Rev
	}
	return out, next, nil
}

// All returns every record that q asks for, page by page.
func (r Records[T]) All(ctx context.Context, q Query) ([]Found[T], error) {
	var all []Found[T]
	for {
		page, next, err := r.List(ctx, q)
		all = append(all, page...)
		if err != nil || next == (Key{}) {
			return all, err
		}
		q.After = next
	}
}

// Decode reads a row of this kind, as Watch sends it.
func (r Records[T]) Decode(row Row) (T, error) { return r.decode(row) }

func (r Records[T]) decode(row Row) (v T, err error) {
	data, err := r.upgraded(row.Data)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil && r.Mend != nil {
		v, err = r.mended(data, err)
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", row.Key, err)
	}
	if t, ok := any(&v).(interface{ SetTenant(mlaas.Tenant) }); ok {
		t.SetTenant(row.Key.Tenant)
	}
	return v, nil
}
