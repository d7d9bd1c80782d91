package store

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
)

// An Exporter is a Driver that can be copied whole, as a backup does.
type Exporter interface {
	// Export calls row with every record and message with every message that
	// is not acknowledged, parked ones too, all of them as they stood after one
	// commit, whose number it returns. Commits go on meanwhile. An error of
	// row or message ends it.
	Export(ctx context.Context, row func(Row) error, message func(Claim) error) (seq int64, err error)
}

// An Importer is a Driver that can be filled with what another one exported.
type Importer interface {
	// Import writes rows at the revisions that they have, and messages, in one
	// commit. It is mlaas.ErrConflict if one of the rows is there.
	Import(ctx context.Context, rows []Row, messages []Message) error
}

// Export copies a store as it stands after one commit: see [Exporter]. Of a
// driver that is none it copies the records alone, and parked messages: whole
// is false then. What the other messages would have told is found by the
// services in the records.
func Export(ctx context.Context, db Driver, row func(Row) error, message func(Claim) error) (seq int64, whole bool, err error) {
	if e, ok := db.(Exporter); ok {
		seq, err = e.Export(ctx, row, message)
		return seq, true, err
	}
	rows, seq, err := Gather(ctx, db)
	if err != nil {
		return 0, false, err
	}
	for _, r := range rows {
		if err := row(r); err != nil {
			return 0, false, err
		}
	}
	parked, err := db.Parked(ctx)
	if err != nil {
		return 0, false, err
	}
	for _, c := range parked {
		if err := message(c); err != nil {
			return 0, false, err
		}
	}
	return seq, false, nil
}

// Gather is every row of these kinds, none meaning all, as they stood after one
// commit, whose number it returns: what Watch has sent when it says that it is
// up to date.
func Gather(ctx context.Context, db Driver, kinds ...string) (rows map[Key]Row, seq int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan Change, 256)
	rows = map[Key]Row{}
	g, watching := errgroup.WithContext(ctx)
	synced := false
	g.Go(func() error { return db.Watch(watching, 0, kinds, changes) })
	g.Go(func() error {
		defer cancel() // Watch goes on for ever
		for {
			select {
			case <-watching.Done():
				return watching.Err()
			case c := <-changes:
				switch {
				case c.Synced:
					seq, synced = c.Seq, true
					return nil
				case c.Deleted:
					delete(rows, c.Row.Key)
				default:
					rows[c.Row.Key] = c.Row
				}
			}
		}
	})
	if err = g.Wait(); synced {
		err = nil
	}
	return rows, seq, err
}

// Import fills a store with what another one exported, a part at a time. Where
// the driver cannot keep revisions, they begin again.
func Import(ctx context.Context, db Driver, rows []Row, messages []Message) error {
	if i, ok := db.(Importer); ok {
		return i.Import(ctx, rows, messages)
	}
	b := Batch{Put: make([]Row, len(rows)), Tell: messages}
	for i, r := range rows {
		r.Rev = 0
		b.Put[i] = r
	}
	return db.Commit(ctx, b)
}

// Empty reports that nothing was ever put into a store, but for what a doctor
// leaves who looks whether it can be written; the error says what is there.
func Empty(ctx context.Context, db Driver) error {
	s, err := db.Stats(ctx)
	if err != nil {
		return err
	}
	probes := 0
	for q := (Query{Kind: "probe"}); ; {
		some, next, err := db.List(ctx, q)
		if err != nil {
			return err
		}
		probes += len(some)
		if q.After = next; next == (Key{}) {
			break
		}
	}
	if n := int(s.Records) - probes; n+int(s.Waiting+s.Parked) > 0 {
		return fmt.Errorf("the store holds %d records and %d messages already: %w", n, s.Waiting+s.Parked, mlaas.ErrConflict)
	}
	return nil
}
