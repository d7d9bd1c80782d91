package redisstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// beat shows that this process is there, and gives back what others hold that
// are not. It compares how often each has beaten with what was so a while ago
// by its own clock, so that nobody's clock is asked for the time.
func (s *Store) beat() {
	type other struct {
		count string
		since time.Time
	}
	seen := map[string]other{}
	for every := time.NewTicker(s.dead / 5); ; {
		ctx, cancel := context.WithTimeout(s.ended, onePatience)
		pipe := s.db.Pipeline()
		pipe.HIncrBy(ctx, s.prefix+"alive", s.client, 1)
		all := pipe.HGetAll(ctx, s.prefix+"alive")
		_, err := pipe.Exec(ctx)
		now := time.Now()
		if err != nil {
			clear(seen) // who cannot see the others cannot tell who is gone
		}
		for client, count := range all.Val() {
			before, known := seen[client]
			if !known || before.count != count {
				seen[client] = other{count, now}
				continue
			}
			if client == s.client || now.Sub(before.since) < s.dead {
				continue
			}
			delete(seen, client)
			n, err := s.scripts.release.Run(ctx, s.db, nil, s.prefix, client, count).Int()
			if err == nil && n > 0 {
				s.log.Warn("a process is gone, what it held is handed out again", "messages", n)
			}
		}
		cancel()
		select {
		case <-every.C:
		case <-s.closing:
			every.Stop()
			return
		}
	}
}

// giveBack lets others have at once what nobody here will answer any more. If
// that fails, they find out by themselves.
func (s *Store) giveBack() {
	ctx, cancel := context.WithTimeout(s.ended, onePatience)
	defer cancel()
	if err := s.scripts.release.Run(ctx, s.db, nil, s.prefix, s.client).Err(); err != nil {
		s.log.Warn("what this process holds is not given back, and comes again when it is found gone", "error", s.explain(err))
	}
}

// Next waits for a message to this inbox that is due and claims it.
func (s *Store) Next(ctx context.Context, inbox string, lease time.Duration) (store.Claim, error) {
	for {
		ring := s.bells.hear("i" + inbox)
		if err := ctx.Err(); err != nil {
			return store.Claim{}, err
		}
		found, left, err := s.claim(ctx, inbox, lease)
		if err != nil || found.ID != 0 {
			return found, err
		}
		if err := s.pause(ctx, ring, left); err != nil {
			return store.Claim{}, err
		}
	}
}

// claim has a message handed out. If there is none, left is the time until the
// next may be ready, on the clock of the server; negative if none is known.
func (s *Store) claim(ctx context.Context, inbox string, lease time.Duration) (c store.Claim, left time.Duration, err error) {
	select {
	case <-s.closing:
		return c, 0, s.closed()
	default:
	}
	// What is handed out must not be lost because the caller turned away: ctx
	// is looked at before and after.
	token, turn := s.client+"-"+rand.Text(), s.turn.Add(1)%4
	var answer []any
	err = s.try(s.ended, func(work context.Context, again bool) (err error) {
		how := ""
		if again {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			how = "again"
		}
		answer, err = s.scripts.next.Run(work, s.db, nil, s.prefix, inbox, max(lease, time.Millisecond).Microseconds(), s.client, token, turn, how).Slice()
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return c, 0, err
	}
	parked, _ := answer[0].([]any)
	for i := 0; i+3 < len(parked); i += 4 {
		s.log.Error("message parked", "inbox", inbox, "subject", text(parked[i+1]), "key", text(parked[i+2]), "message", number(parked[i]), "reason", text(parked[i+3]))
	}
	switch len(answer) {
	case 1:
		return c, -1, nil
	case 2:
		return c, time.Duration(number(answer[1])) * time.Microsecond, nil
	}
	c = store.Claim{ID: number(answer[1]), Token: token, Delivery: int(number(answer[2])), Why: text(answer[7]), Message: store.Message{
		To: inbox, Subject: text(answer[3]), Key: text(answer[4]), Body: body(answer[5]), Due: time.UnixMicro(number(answer[6])).UTC(),
	}}
	return c, 0, nil
}

func body(v any) []byte {
	if t := text(v); t != "" {
		return []byte(t)
	}
	return nil
}

// pause returns when something rings, or after left if that is not negative.
func (s *Store) pause(ctx context.Context, ring <-chan struct{}, left time.Duration) error {
	var due <-chan time.Time
	if left >= 0 {
		// A clock of the server that is set forward is noticed within a minute. A
		// millisecond more, and what is due is due there too.
		timer := time.NewTimer(min(left+time.Millisecond, time.Minute))
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
	select {
	case <-s.closing:
		return nil, s.closed()
	default:
	}
	err = s.try(ctx, func(ctx context.Context, _ bool) error {
		parked = nil
		ids, err := s.db.ZRange(ctx, s.prefix+"parked", 0, 999).Result()
		if err != nil {
			return err
		}
		for _, id := range ids {
			m, err := s.db.HGetAll(ctx, s.prefix+"m:"+id).Result()
			if err != nil {
				return err
			}
			if m["inbox"] == "" {
				continue // requeued and done meanwhile
			}
			parked = append(parked, store.Claim{ID: number(id), Delivery: int(number(m["n"])), Why: m["why"], Message: store.Message{
				To: m["inbox"], Subject: m["subject"], Key: m["key"], Body: body(m["body"]), Due: time.UnixMicro(number(m["due"])).UTC(),
			}})
		}
		return nil
	})
	return parked, err
}

// Requeue delivers a parked message again from the beginning.
func (s *Store) Requeue(ctx context.Context, id int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	word, err := s.writer.submit(ctx, []any{"requeue", id, "", 0, "", 0, 0, 0, 0}, 0)
	if err == nil && word == "none" {
		err = fmt.Errorf("no parked message %d: %w", id, mlaas.ErrNotFound)
	}
	return err
}
