package sqlitestore

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A message is ready from a time on; 0 is at once, whatever the clock does. A
// claim moves that time to the end of its lease. The others of its line wait
// until it is acknowledged, given back or expired.

func (t *txn) tell(m store.Message) error {
	due, ready := t.now, int64(0)
	if !m.Due.IsZero() && micro(m.Due) > t.now {
		due = micro(m.Due)
		ready = due
	}
	if after := t.now + m.After.Microseconds(); after > due {
		due, ready = after, after
	}
	t.ring(m.To)
	return t.exec(`INSERT INTO messages (id, inbox, subject, key, body, due, ready, token, deliveries, orphaned, parked, why)
		VALUES (?, ?, ?, ?, ?, ?, ?, '', 0, 0, 0, '')`, t.next(), m.To, m.Subject, m.Key, []byte(m.Body), due, ready)
}

// release forgets that somebody holds the message, and wakes who waited.
func (t *txn) release(id int64) {
	c := t.claims[id]
	delete(t.claims, id)
	if t.held[c.line] == id {
		delete(t.held, c.line)
	}
	if c.blocked {
		t.ring(c.inbox)
	}
}

func (t *txn) ack(id int64) error {
	t.release(id)
	return t.exec("DELETE FROM messages WHERE id = ?", id)
}

func (t *txn) retry(c store.Claim, delay time.Duration, why string) error {
	ready := int64(0)
	if delay > 0 {
		ready = t.now + delay.Microseconds()
	}
	t.ring(t.claims[c.ID].inbox)
	t.release(c.ID)
	return t.exec("UPDATE messages SET token = '', ready = ?, why = ?, parked = deliveries >= ? WHERE id = ?",
		ready, why, store.MaxDeliveries, c.ID)
}

// Who comes first: what is ready at once in the order of the commits, and
// every fourth time what was to wait, so that a flood cannot starve it.
var turns = [2]string{
	"SELECT id, key FROM messages WHERE inbox = ? AND parked = 0 AND ready <= 0 AND ? ORDER BY ready, id",
	"SELECT id, key FROM messages WHERE inbox = ? AND parked = 0 AND ready > 0 AND ready <= ? ORDER BY ready, id",
}

// pick finds the message to hand out next, if there is one.
func (t *txn) pick(inbox string) (found int64, l line, err error) {
	for i := range turns {
		if t.claimed%4 == 3 {
			i = 1 - i
		}
		err := t.conn.query(func(v []driver.Value) bool {
			l = line{inbox, v[1].(string)}
			if id, held := t.held[l]; held && l.key != "" {
				if c := t.claims[id]; c.until > t.now {
					c.blocked = true
					t.claims[id] = c
					return true
				}
			}
			found = v[0].(int64)
			return false
		}, turns[i], inbox, t.now)
		if err != nil || found != 0 {
			return found, l, err
		}
	}
	return 0, l, nil
}

// claim hands a message out. If there is none, at is when the next one may be
// ready; 0 if none is known.
func (t *txn) claim(inbox string, lease time.Duration) (c store.Claim, at int64, err error) {
	for {
		id, l, err := t.pick(inbox)
		if err != nil {
			return c, 0, err
		}
		if id == 0 {
			at, err := t.conn.number("SELECT min(ready) FROM messages WHERE inbox = ? AND parked = 0 AND ready > ?", inbox, t.now)
			return store.Claim{}, at, err
		}
		if err := t.conn.query(func(v []driver.Value) bool {
			c = scanClaim(v)
			return false
		}, "SELECT "+claimColumns+" FROM messages WHERE id = ?", id); err != nil {
			return c, 0, err
		}
		if c.Delivery >= store.MaxDeliveries {
			if err := t.park(c); err != nil {
				return c, 0, err
			}
			continue
		}
		c.Delivery++
		c.Token = rand.Text()
		t.claimed++
		until := t.now + max(lease, time.Millisecond).Microseconds()
		t.claims[id] = claimed{line: l, token: c.Token, until: until}
		t.held[l] = id
		return c, 0, t.exec("UPDATE messages SET ready = ?, token = ?, deliveries = ? WHERE id = ?", until, c.Token, c.Delivery, id)
	}
}

// park gives a message up whose holders all went silent.
func (t *txn) park(c store.Claim) error {
	t.release(c.ID)
	why := fmt.Sprintf("it was handed out %d times and never acknowledged in time", c.Delivery)
	if c.Why != "" {
		why += "; the last failure was: " + c.Why
	}
	t.notes = append(t.notes, func() {
		t.store.log.Error("message parked", "inbox", c.Message.To, "subject", c.Message.Subject, "key", c.Message.Key, "message", c.ID, "reason", why)
	})
	return t.exec("UPDATE messages SET token = '', why = ?, parked = 1 WHERE id = ?", why, c.ID)
}

const claimColumns = "id, inbox, subject, key, body, due, deliveries, why"

func scanClaim(v []driver.Value) store.Claim {
	body, _ := v[4].([]byte)
	return store.Claim{ID: v[0].(int64), Delivery: int(v[6].(int64)), Why: v[7].(string), Message: store.Message{
		To: v[1].(string), Subject: v[2].(string), Key: v[3].(string), Body: body, Due: time.UnixMicro(v[5].(int64)).UTC(),
	}}
}

// Next waits for a message to this inbox that is due and claims it.
func (s *Store) Next(ctx context.Context, inbox string, lease time.Duration) (store.Claim, error) {
	for {
		ring := s.bells.hear(inbox)
		var (
			found store.Claim
			at    int64
		)
		err := ctx.Err()
		if err == nil {
			err = s.writer.submit(ctx, false, func(t *txn) (err error) {
				found, at, err = t.claim(inbox, lease)
				return err
			})
		}
		if err != nil {
			return store.Claim{}, err
		}
		if found.ID != 0 {
			return found, nil
		}
		if err := s.wait(ctx, ring, at); err != nil {
			return store.Claim{}, err
		}
	}
}

// wait returns when something rings, or at a time on this store's clock; 0 is
// never.
func (s *Store) wait(ctx context.Context, ring <-chan struct{}, at int64) error {
	var due <-chan time.Time
	if at != 0 {
		// A clock that is set forward is noticed within a minute.
		left := min(time.Duration(at-micro(s.now()))*time.Microsecond, time.Minute)
		timer := time.NewTimer(max(left, 0))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ring:
		return nil
	case <-due:
		return nil
	case <-s.closing:
		return s.closed()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Parked returns the messages that were given up, oldest first.
func (s *Store) Parked(ctx context.Context) (parked []store.Claim, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.query(func(v []driver.Value) bool {
			parked = append(parked, scanClaim(v))
			return true
		}, "SELECT "+claimColumns+" FROM messages WHERE parked = 1 ORDER BY id LIMIT 1000")
	})
	return parked, err
}

// Requeue delivers a parked message again from the beginning.
func (s *Store) Requeue(ctx context.Context, id int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.writer.submit(ctx, true, func(t *txn) error {
		inbox := ""
		err := t.conn.query(func(v []driver.Value) bool {
			inbox = v[0].(string)
			return false
		}, "SELECT inbox FROM messages WHERE id = ? AND parked = 1", id)
		if err != nil {
			return err
		}
		if inbox == "" {
			return fmt.Errorf("no parked message %d: %w", id, mlaas.ErrNotFound)
		}
		t.ring(inbox)
		return t.exec("UPDATE messages SET parked = 0, ready = 0, deliveries = 0, orphaned = 0 WHERE id = ?", id)
	})
}
