//go:build failpoints

package queue

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// Unruly is db, whose messages are as unreliable as MLAAS_FAULT_MESSAGES says:
// "dup:0.2,late:0.3" commits one in five twice, and lets one in three, and the
// second of two, be due only up to some seconds later and in no order with the
// others of its key; "refuse:0.1" commits nothing of what one handler in ten
// answers, so that its message comes again. That is what a hearer must bear
// anyway.
func Unruly(db store.Driver) store.Driver {
	spec := os.Getenv("MLAAS_FAULT_MESSAGES")
	if spec == "" {
		return db
	}
	u := unruly{Driver: db}
	for part := range strings.SplitSeq(spec, ",") {
		name, text, _ := strings.Cut(part, ":")
		p, err := strconv.ParseFloat(text, 64)
		into := map[string]*float64{"dup": &u.dup, "late": &u.late, "refuse": &u.refuse}[name]
		if into == nil || err != nil {
			panic(fmt.Sprintf("MLAAS_FAULT_MESSAGES is %q, want dup:0.2,late:0.3,refuse:0.1", spec)) // else the test tests nothing
		}
		*into = p
	}
	return u
}

type unruly struct {
	store.Driver
	dup, late, refuse float64
}

// Confirm is that of the driver below.
func (u unruly) Confirm(ctx context.Context) error { return store.Confirm(ctx, u.Driver) }

// unrulyTime is how late a message may be.
const unrulyTime = 4 * time.Second

// Commit commits b with other messages than were asked for.
func (u unruly) Commit(ctx context.Context, b store.Batch) error {
	if b.Ack != nil && mathrand.Float64() < u.refuse {
		return fmt.Errorf("refused, as MLAAS_FAULT_MESSAGES says: %w", mlaas.ErrInternal)
	}
	var tell []store.Message
	for _, m := range b.Tell {
		again := m
		if mathrand.Float64() < u.late {
			m = late(m)
		}
		tell = append(tell, m)
		if mathrand.Float64() < u.dup {
			tell = append(tell, late(again))
		}
	}
	mathrand.Shuffle(len(tell), func(i, j int) { tell[i], tell[j] = tell[j], tell[i] })
	b.Tell = tell
	return u.Driver.Commit(ctx, b)
}

// late is m, later, and in order with nothing.
func late(m store.Message) store.Message {
	if now := time.Now(); m.Due.Before(now) {
		m.Due = now
	}
	m.Due = m.Due.Add(mathrand.N(unrulyTime))
	m.Key += " unruly " + rand.Text()
	return m
}
