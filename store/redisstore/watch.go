package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const (
	watchPage = 256
	blockTime = 2 * time.Second // one blocking read of the feed; its answer shows that the server is there
)

// bells wake those who wait for something to be committed: "k" and a kind of
// rows, or "i" and an inbox.
type bells struct {
	mu   sync.Mutex
	wait map[string]chan struct{}
}

// hear returns a channel that is closed when the bell rings next. Ask for it
// before looking at what is there: then nothing rings unheard.
func (b *bells) hear(name string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.wait[name]
	if c == nil {
		if b.wait == nil {
			b.wait = map[string]chan struct{}{}
		}
		c = make(chan struct{})
		b.wait[name] = c
	}
	return c
}

const (
	everything = "*"
	anyRow     = "k" // rings with every kind
)

func (b *bells) ring(names map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, c := range b.wait {
		if names[name] || names[everything] {
			close(c)
			delete(b.wait, name)
		}
	}
}

// lastNews is the number of the last entry of the feed.
func (s *Store) lastNews(ctx context.Context) (string, error) {
	found, err := s.db.XRevRangeN(ctx, s.prefix+"feed", "+", "-", 1).Result()
	if err != nil || len(found) == 0 {
		return "0-0", err
	}
	return found[0].ID, nil
}

// follow reads the feed and rings the bells until Close. After a connection
// that failed, and when much came at once, all of them ring: who looks and finds
// nothing waits again.
func (s *Store) follow() {
	pause, away := firstPause, false
	for s.ended.Err() == nil {
		ctx, cancel := context.WithTimeout(s.ended, 2*blockTime)
		rings := map[string]bool{}
		var err error
		if away {
			// It may be another server, whose numbers are others.
			if s.last, err = s.lastNews(ctx); err == nil {
				away, rings[everything] = false, true
			}
		} else {
			var found []redis.XStream
			found, err = s.db.XRead(ctx, &redis.XReadArgs{Streams: []string{s.prefix + "feed", s.last}, Count: 1000, Block: blockTime}).Result()
			if errors.Is(err, redis.Nil) {
				err = nil
			}
			for _, stream := range found {
				for _, m := range stream.Messages {
					s.last = m.ID
					for name := range m.Values {
						rings[name] = true
						if name[0] == 'k' {
							rings[anyRow] = true
						}
					}
				}
				if len(stream.Messages) > 500 {
					rings[everything] = true
				}
			}
		}
		cancel()
		s.bells.ring(rings)
		if err == nil {
			pause = firstPause
			continue
		}
		if s.ended.Err() != nil {
			return
		}
		if !away {
			s.log.Warn("the feed of the store is interrupted", "error", s.explain(err))
		}
		away = true
		s.conns.suspect(err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.ended.Done():
		}
		timer.Stop()
		pause = min(2*pause, longPause)
	}
}

// Watch sends every row as it stands, then one Change with Synced, then each
// change. It reads the rows in the order in which they were written last, page
// by page, on and on: a row that changes meanwhile comes again further on. A
// slow receiver holds up nobody. While the server is away it waits, and goes on
// from where it was.
func (s *Store) Watch(ctx context.Context, from int64, kinds []string, out chan<- store.Change) error {
	last, deletions, synced := from, from, false
	if from == 0 {
		deletions = -1 // what was deleted before is not there to be sent
	}
	send := func(c store.Change) error {
		select {
		case out <- c:
			return nil
		case <-s.closing:
			return s.closed()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		rings := s.hearRows(kinds)
		page, err := s.changes(ctx, last, deletions, kinds)
		if errors.Is(err, mlaas.ErrUnavailable) && !errors.As(err, new(unsafe)) {
			err = s.pause(ctx, nil, longPause)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if deletions < 0 {
			deletions = page.now
		}
		switch known := max(last, deletions); {
		case known > page.now:
			return fmt.Errorf("change %d is not known here, the last one is %d: begin again: %w", known, page.now, mlaas.ErrGone)
		case known < page.trimmed:
			return fmt.Errorf("what was deleted up to change %d is no longer known, and %d was asked for: begin again: %w", page.trimmed, known, mlaas.ErrGone)
		}
		if from > 0 && !synced {
			synced = true
			if err := send(store.Change{Seq: from, Synced: true}); err != nil {
				return err
			}
		}
		for _, c := range page.changes {
			if err := send(c); err != nil {
				return err
			}
		}
		last = page.known
		if last < page.now {
			continue
		}
		if !synced {
			synced = true
			if err := send(store.Change{Seq: last, Synced: true}); err != nil {
				return err
			}
		}
		if err := s.pauseAny(ctx, rings); err != nil {
			return err
		}
	}
}

func (s *Store) hearRows(kinds []string) (rings []<-chan struct{}) {
	if len(kinds) == 0 {
		return []<-chan struct{}{s.bells.hear(anyRow)}
	}
	for _, k := range kinds {
		rings = append(rings, s.bells.hear("k"+k))
	}
	return rings
}

// pauseAny returns when one of a few bells rings.
func (s *Store) pauseAny(ctx context.Context, rings []<-chan struct{}) error {
	if len(rings) == 1 {
		return s.pause(ctx, rings[0], -1)
	}
	one := make(chan struct{})
	var once sync.Once
	over := make(chan struct{})
	defer close(over)
	for _, r := range rings {
		go func() {
			select {
			case <-r:
				once.Do(func() { close(one) })
			case <-over:
			}
		}()
	}
	return s.pause(ctx, one, -1)
}

// A page of changes: what is known of up to a number.
type page struct {
	now, trimmed, known int64
	changes             []store.Change
}

func (s *Store) changes(ctx context.Context, written, deleted int64, kinds []string) (p page, err error) {
	args := make([]any, 0, 5+len(kinds))
	args = append(args, s.prefix, written, deleted, watchPage, pageBytes)
	for _, k := range kinds {
		args = append(args, k)
	}
	answer, err := s.ask(ctx, s.scripts.changes, args...)
	if err != nil {
		return p, err
	}
	p.now, p.trimmed, p.known = number(answer[0]), number(answer[1]), number(answer[2])
	for i := 3; i+3 < len(answer); i += 4 {
		c := store.Change{Seq: number(answer[i]), Row: store.Row{Key: keyOf(text(answer[i+1]), text(answer[i+2]))}}
		if value := text(answer[i+3]); value == "" {
			c.Deleted = true
		} else if c.Row, err = readRow(c.Row.Key, value); err != nil {
			return p, err
		}
		p.changes = append(p.changes, c)
	}
	return p, nil
}
