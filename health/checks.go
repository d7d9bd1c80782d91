package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// What makes a process unready is what it cannot do itself: write, hear, keep
// bytes. That a message waits for long is the business of who should handle
// it; a cluster that is down is nobody's readiness.

const (
	// late is how old a message may be before people should look.
	late = 10 * time.Second
	// stuck is how old it may be before who should handle it counts as unable
	// to. One that is tried again and parked is gone by then.
	stuck = time.Minute
	// forgotten is how old the probe of a process is that has gone, or is not
	// asked: it has nothing in its inbox but what it did not live to hear.
	forgotten = 30 * time.Second
)

// A probe is the record that a process writes to see that it can, and the
// message that it tells itself.
type probe struct {
	Process string    `json:"process"`
	Nonce   string    `json:"nonce"`
	Time    time.Time `json:"time"`
}

const probeKind = "probe"

func probes(db store.Driver) store.Records[probe] {
	return store.Records[probe]{DB: db, Kind: probeKind, Key: func(p probe) (mlaas.Tenant, string) { return "", p.Process }}
}

func (p probe) inbox() string { return probeKind + "/" + p.Process }

// To is the process's own inbox, where nothing but its own silence can delay
// it.
func (p probe) To() string { return p.inbox() }

// Key is empty: one message waits for no other.
func (p probe) Key() string { return "" }

// Store writes a small record, durably, and a message in the same commit, to
// an inbox that nobody else hears, and waits until it has come round. process
// names this one among all that use the store.
func Store(db store.Driver, process string) Check {
	var tidied time.Time
	return Check{Name: "store", Do: func(ctx context.Context) (string, error) {
		began := time.Now()
		p := probe{Process: process, Nonce: mlaas.NewID(began), Time: began.UTC()}
		for {
			_, rev, err := probes(db).Get(ctx, "", process)
			if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
				return "", fmt.Errorf("a record cannot be read: %w", err)
			}
			err = db.Commit(ctx, store.Batch{Put: []store.Row{probes(db).Put(p, rev)}, Tell: []store.Message{queue.Tell(p)}})
			if err == nil {
				break
			}
			if !errors.Is(err, mlaas.ErrConflict) {
				return "", fmt.Errorf("a record cannot be written: %w", err)
			}
		}
		wrote := time.Since(began)
		if err := hear(ctx, db, p); err != nil {
			return "", fmt.Errorf("a message does not come round: %w", err)
		}
		if began.Sub(tidied) >= forgotten {
			if err := tidy(ctx, db, process, began); err != nil {
				return "", err
			}
			tidied = began
		}
		return fmt.Sprintf("a record was written in %s, a message came round in %s", short(wrote), short(time.Since(began)-wrote)), nil
	}}
}

// hear takes messages of the process's own inbox until p has come: one before
// it is of a probe that was not waited for.
func hear(ctx context.Context, db store.Driver, p probe) error {
	for {
		claim, err := db.Next(ctx, p.inbox(), time.Minute)
		if err != nil {
			return err
		}
		if err := db.Commit(ctx, store.Batch{Ack: &claim}); err != nil {
			return err
		}
		var got probe
		if err := json.Unmarshal(claim.Message.Body, &got); err == nil && got.Nonce == p.Nonce {
			return nil
		}
	}
}

// tidy takes away what processes left that will not come back: their messages
// would look like messages that nobody handles.
func tidy(ctx context.Context, db store.Driver, self string, now time.Time) error {
	all, err := probes(db).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	for _, f := range all {
		if f.Value.Process == self || now.Sub(f.Value.Time) < forgotten {
			continue
		}
		moment, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		for {
			claim, err := db.Next(moment, f.Value.inbox(), time.Minute)
			if err != nil {
				break // there are no more
			}
			if err := db.Commit(ctx, store.Batch{Ack: &claim}); err != nil {
				break
			}
		}
		cancel()
		err := db.Commit(ctx, store.Batch{Delete: []store.Row{probes(db).At("", f.Value.Process, f.Rev)}})
		if err != nil && !errors.Is(err, mlaas.ErrConflict) {
			return err
		}
	}
	return nil
}

// Messages looks at the oldest message that nobody has handled. Where owns is
// true, this process should have: then one that waits for a minute makes it
// unready; otherwise, and before that, it is a warning.
func Messages(db store.Driver, owns bool) Check {
	return Check{Name: "messages", Do: func(ctx context.Context) (string, error) {
		s, err := db.Stats(ctx)
		if err != nil {
			return "", err
		}
		says := fmt.Sprintf("%d wait, the oldest for %s", s.Waiting, short(s.Oldest))
		switch {
		case owns && s.Oldest > stuck:
			return "", fmt.Errorf("%s: what should handle it does not: %w", says, mlaas.ErrUnavailable)
		case s.Oldest > late:
			return "", fmt.Errorf("%s: %w", says, ErrWarning)
		case s.Parked > 0:
			return "", fmt.Errorf("%d were given up; see `mlaas doctor`: %w", s.Parked, ErrWarning)
		}
		return says, nil
	}}
}

// kept is what Blob keeps: always the same, so that it is stored once.
const kept = "mlaas looks whether bytes can be kept\n"

// Kept is the name of the bytes that Blob leaves.
func Kept() mlaas.Digest { return blob.Name([]byte(kept)) }

// Blob keeps a few bytes, and reads them back.
func Blob(b blob.Driver) Check {
	return Check{Name: "blob", Do: func(ctx context.Context) (string, error) {
		text := []byte(kept)
		began := time.Now()
		d, _, err := b.Put(ctx, bytes.NewReader(text), "")
		if err != nil {
			return "", fmt.Errorf("bytes cannot be kept: %w", err)
		}
		r, err := b.Get(ctx, d, 0)
		if err != nil {
			return "", fmt.Errorf("bytes cannot be read back: %w", err)
		}
		defer r.Close()
		var got bytes.Buffer
		if _, err := got.ReadFrom(r); err != nil {
			return "", fmt.Errorf("bytes cannot be read back: %w", err)
		}
		if !bytes.Equal(got.Bytes(), text) {
			return "", fmt.Errorf("bytes do not come back as they were kept: %w", mlaas.ErrInternal)
		}
		return "bytes were kept and read back in " + short(time.Since(began)), nil
	}}
}

// The disk of the data folder must keep this much free: a twentieth of it, or
// less where that would be much.
const (
	leastShare = 0.05
	enough     = 10 << 30
)

// Disk looks at the room that is left where folder is.
func Disk(folder string) Check {
	return Check{Name: "disk", Do: func(context.Context) (string, error) {
		free, total, err := Room(folder)
		if err != nil {
			return "", err
		}
		return enoughRoom(folder, free, total)
	}}
}

func enoughRoom(folder string, free, total mlaas.Bytes) (string, error) {
	share := float64(free) / max(float64(total), 1)
	says := fmt.Sprintf("%s of %s are free (%.0f %%)", human(free), human(total), 100*share)
	if share < leastShare && free < enough {
		return "", fmt.Errorf("%s in %s, less than %.0f %%; free some with `mlaas gc`: %w", says, folder, 100*leastShare, mlaas.ErrDisk)
	}
	return says, nil
}

func human(b mlaas.Bytes) string {
	v, units := float64(b), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[0]
}

func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond / 10).String()
	}
	return d.Round(time.Second / 10).String()
}
