package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

func tell(inbox, key string, n int) store.Message {
	return store.Message{To: inbox, Subject: "S", Key: key, Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}
}

func number(c store.Claim) int {
	var body struct{ N int }
	if err := json.Unmarshal(c.Message.Body, &body); err != nil {
		return -1
	}
	return body.N
}

// hear waits for the next message.
func (s *suite) hear(t *testing.T, inbox string) store.Claim {
	t.Helper()
	return s.hearFor(t, inbox, s.unit)
}

func (s *suite) hearFor(t *testing.T, inbox string, lease time.Duration) store.Claim {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 1000*s.unit)
	defer cancel()
	c, err := s.DB.Next(ctx, inbox, lease)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID == 0 || c.Token == "" || c.Delivery < 1 || c.Message.To != inbox {
		t.Fatalf("claim %+v lacks something", c)
	}
	return c
}

// silent wants nothing to be heard now.
func (s *suite) silent(t *testing.T, inbox string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, s.unit/100)
	defer cancel()
	if c, err := s.DB.Next(ctx, inbox, s.unit); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("heard %+v (%v), want nothing yet", c, err)
	}
}

func messageCommit(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Put: []store.Row{row("a", 0, 1)}, Tell: []store.Message{tell("x", "k", 1), tell("y", "k", 2)}})
	s.stands(t, "a", 1, 1)
	y := s.hear(t, "y")
	x := s.hear(t, "x")
	want := tell("x", "k", 1)
	if x.Delivery != 1 || x.Message.Subject != "S" || x.Message.Key != "k" || string(x.Message.Body) != string(want.Body) || number(y) != 2 {
		t.Errorf("heard %+v and %+v", x, y)
	}
	s.silent(t, "x")

	// The handling is one commit: what changes, what it causes, and that it is done.
	s.commit(t, store.Batch{Put: []store.Row{row("a", 1, 2)}, Tell: []store.Message{tell("y", "k", 3)}, Ack: &x})
	s.refused(t, store.Batch{Put: []store.Row{row("a", 2, 3)}, Ack: &x}, store.ErrNotHeld, "S")
	s.stands(t, "a", 2, 2)
	forged := y
	forged.Token = "guess"
	s.refused(t, store.Batch{Ack: &forged}, mlaas.ErrConflict, "S")

	// A conflict leaves the message held.
	s.refused(t, store.Batch{Put: []store.Row{row("a", 1, 3)}, Ack: &y}, mlaas.ErrConflict, key("a").String())
	s.commit(t, store.Batch{Put: []store.Row{row("a", 2, 3)}, Ack: &y})
	if c := s.hear(t, "y"); number(c) != 3 {
		t.Errorf("heard %+v, want the third", c)
	}
}

func messageWakes(t *testing.T, s *suite) {
	heard := make(chan store.Claim, 2)
	for range 2 {
		go func() {
			c, err := s.DB.Next(s.ctx, "inbox", s.unit)
			if err != nil {
				t.Error(err)
			}
			heard <- c
		}()
	}
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "a", 1)}})
	one := <-heard
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "b", 2)}})
	two := <-heard
	if number(one) != 1 || number(two) != 2 || one.Token == two.Token {
		t.Errorf("heard %+v and %+v", one, two)
	}
}

func due(t *testing.T, s *suite) {
	began := time.Now()
	late, soon, past := tell("inbox", "k", 3), tell("inbox", "k", 2), tell("inbox", "k", 1)
	late.Due, soon.Due, past.Due = began.Add(3*s.unit), began.Add(s.unit), began.Add(-s.unit)
	s.commit(t, store.Batch{Tell: []store.Message{late, soon}})
	s.silent(t, "inbox")
	s.commit(t, store.Batch{Tell: []store.Message{past}})
	for i, at := range []time.Duration{0, s.unit, 3 * s.unit} {
		c := s.hear(t, "inbox")
		if number(c) != i+1 {
			t.Errorf("heard %d, want %d", number(c), i+1)
		}
		if took := time.Since(began); took < at-time.Millisecond || took > at+s.unit*9/10 {
			t.Errorf("message %d came after %v, want %v", i+1, took, at)
		}
		s.commit(t, store.Batch{Ack: &c})
	}
}

// after: the clock of whoever tells does not matter.
func after(t *testing.T, s *suite) {
	began := time.Now()
	late, soon := tell("inbox", "k", 2), tell("inbox", "k", 1)
	late.After, soon.After = 3*s.unit, s.unit
	late.Due = began.Add(-time.Hour)
	s.commit(t, store.Batch{Tell: []store.Message{late, soon}})
	s.silent(t, "inbox")
	for i, at := range []time.Duration{s.unit, 3 * s.unit} {
		c := s.hear(t, "inbox")
		if number(c) != i+1 {
			t.Errorf("heard %d, want %d", number(c), i+1)
		}
		if took := time.Since(began); took < at-time.Millisecond || took > at+s.unit*9/10 {
			t.Errorf("message %d came after %v, want %v", i+1, took, at)
		}
		s.commit(t, store.Batch{Ack: &c})
	}
}

func lease(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 1)}})
	began := time.Now()
	first := s.hear(t, "inbox")
	s.silent(t, "inbox")
	second := s.hear(t, "inbox")
	if took := time.Since(began); took < s.unit*9/10 {
		t.Errorf("the lease was over after %v, want %v", took, s.unit)
	}
	if second.ID != first.ID || second.Token == first.Token || second.Delivery != 2 {
		t.Errorf("heard %+v, want %+v for the second time", second, first)
	}
	s.commit(t, store.Batch{Ack: &second})
	s.silent(t, "inbox")
}

func lateAck(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 1)}})
	stale := s.hear(t, "inbox")
	held := s.hear(t, "inbox") // after the lease
	s.refused(t, store.Batch{Put: []store.Row{row("a", 0, 1)}, Ack: &stale}, store.ErrNotHeld, "S")
	s.refused(t, store.Batch{Retry: &stale}, mlaas.ErrConflict, "S")
	s.stands(t, "a", 0, nil)
	s.commit(t, store.Batch{Put: []store.Row{row("a", 0, 1)}, Ack: &held})
	s.refused(t, store.Batch{Put: []store.Row{row("a", 1, 1)}, Ack: &held}, store.ErrNotHeld, "S")
	s.silent(t, "inbox")
}

func retry(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 1)}})
	c := s.hear(t, "inbox")
	s.commit(t, store.Batch{Retry: &c, Why: "not yet"}) // at once
	c = s.hear(t, "inbox")
	if c.Delivery != 2 || c.Why != "not yet" {
		t.Errorf("heard %+v, want it a second time and why", c)
	}
	began := time.Now()
	s.commit(t, store.Batch{Retry: &c, Delay: 2 * s.unit, Put: []store.Row{row("a", 0, 1)}})
	s.stands(t, "a", 1, 1)
	s.silent(t, "inbox")
	c = s.hear(t, "inbox")
	if took := time.Since(began); took < 2*s.unit-time.Millisecond {
		t.Errorf("it came again after %v, want %v", took, 2*s.unit)
	}
	s.commit(t, store.Batch{Ack: &c})
}

func parked(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 1), tell("inbox", "k", 2)}})
	for i := range store.MaxDeliveries {
		var c store.Claim
		for c = s.hear(t, "inbox"); number(c) != 1; c = s.hear(t, "inbox") {
			s.commit(t, store.Batch{Ack: &c})
		}
		if c.Delivery != i+1 {
			t.Errorf("delivery %d, want %d", c.Delivery, i+1)
		}
		s.commit(t, store.Batch{Retry: &c, Delay: time.Millisecond, Why: fmt.Sprint("failure ", i+1)})
	}
	s.pass(2 * time.Millisecond)
	// Whether the second came before or comes now, the first does not come.
	if st, err := s.DB.Stats(s.ctx); err != nil || st.Parked != 1 {
		t.Fatalf("stats are %+v (%v), want one parked", st, err)
	} else if st.Waiting == 1 {
		c := s.hear(t, "inbox")
		if number(c) != 2 {
			t.Errorf("heard %+v, want the second", c)
		}
		s.commit(t, store.Batch{Ack: &c})
	}
	s.silent(t, "inbox")
	found, err := s.DB.Parked(s.ctx)
	if err != nil || len(found) != 1 {
		t.Fatalf("parked: %+v, %v", found, err)
	}
	if p := found[0]; number(p) != 1 || p.Delivery != store.MaxDeliveries || p.Why != fmt.Sprint("failure ", store.MaxDeliveries) || p.Message.To != "inbox" {
		t.Errorf("parked is %+v", p)
	}
	if err := s.DB.Requeue(s.ctx, found[0].ID+1000); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("requeue of nothing: %v", err)
	}
	if err := s.DB.Requeue(s.ctx, found[0].ID); err != nil {
		t.Fatal(err)
	}
	c := s.hear(t, "inbox")
	if number(c) != 1 || c.Delivery != 1 {
		t.Errorf("heard %+v, want the first from the beginning", c)
	}
	if err := s.DB.Requeue(s.ctx, c.ID); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("requeue of what is not parked: %v", err)
	}
	s.commit(t, store.Batch{Ack: &c})
	if found, err := s.DB.Parked(s.ctx); err != nil || len(found) != 0 {
		t.Errorf("parked: %+v, %v", found, err)
	}
}

// parkedSilent lets every lease pass.
func parkedSilent(t *testing.T, s *suite) {
	s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 1)}})
	var c store.Claim
	for range store.MaxDeliveries {
		c = s.hearFor(t, "inbox", s.unit/10)
	}
	s.pass(s.unit / 5)
	s.silent(t, "inbox")
	s.refused(t, store.Batch{Ack: &c}, store.ErrNotHeld, "S")
	if found, err := s.DB.Parked(s.ctx); err != nil || len(found) != 1 || found[0].Why == "" {
		t.Errorf("parked: %+v, %v, want one that says why", found, err)
	}
}

func order(t *testing.T, s *suite) {
	for i := range 20 {
		s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", "k", 2*i), tell("inbox", "k", 2*i+1)}})
	}
	for i := range 40 {
		c := s.hear(t, "inbox")
		if number(c) != i {
			t.Fatalf("heard %d, want %d", number(c), i)
		}
		s.commit(t, store.Batch{Ack: &c})
	}
}

// lines has several hearers: messages of one key never overtake each other.
func lines(t *testing.T, s *suite) {
	const keys, each = 5, 20
	for i := range each {
		var b store.Batch
		for k := range keys {
			b.Tell = append(b.Tell, tell("inbox", fmt.Sprint("k", k), i))
		}
		s.commit(t, b)
	}
	heard := make(chan store.Claim)
	ctx, cancel := context.WithCancel(s.ctx)
	var hearers sync.WaitGroup
	defer hearers.Wait()
	defer cancel()
	for range 4 {
		hearers.Go(func() {
			for {
				c, err := s.DB.Next(ctx, "inbox", s.unit)
				if err != nil {
					return
				}
				heard <- c
				if err := s.DB.Commit(s.ctx, store.Batch{Ack: &c}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := map[string]int{}
	for range keys * each {
		c := <-heard
		if n := number(c); n != next[c.Message.Key] {
			t.Errorf("%s: heard %d, want %d", c.Message.Key, n, next[c.Message.Key])
		}
		next[c.Message.Key] = number(c) + 1
	}
}

// eachOnce has many tellers and hearers: what is acknowledged is handed out
// once.
func eachOnce(t *testing.T, s *suite) {
	const tellers, each, hearers = 8, 10, 8
	told := make(chan error, tellers)
	for i := range tellers {
		go func() {
			for j := range each {
				if err := s.DB.Commit(s.ctx, store.Batch{Tell: []store.Message{tell("inbox", fmt.Sprint("k", j%7), i*each+j)}}); err != nil {
					told <- err
					return
				}
			}
			told <- nil
		}()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	heard := make(chan int)
	for range hearers {
		go func() {
			for {
				c, err := s.DB.Next(ctx, "inbox", 10*s.unit)
				if err != nil {
					return
				}
				if err := s.DB.Commit(s.ctx, store.Batch{Ack: &c}); err != nil {
					t.Error(err)
				}
				heard <- number(c)
			}
		}()
	}
	for range tellers {
		if err := <-told; err != nil {
			t.Error(err)
		}
	}
	times := map[int]int{}
	for range tellers * each {
		times[<-heard]++
	}
	for n := range tellers * each {
		if times[n] != 1 {
			t.Errorf("message %d was heard %d times", n, times[n])
		}
	}
	s.silent(t, "inbox")
}

// flood keeps the inbox full: what was to wait is heard all the same.
func flood(t *testing.T, s *suite) {
	waits := tell("inbox", "timer", -2)
	waits.Due = time.Now().Add(s.unit / 10)
	s.commit(t, store.Batch{Tell: []store.Message{waits}})
	s.pass(s.unit / 5)
	for i := range 50 {
		s.commit(t, store.Batch{Tell: []store.Message{tell("inbox", fmt.Sprint("k", i), i), tell("inbox", fmt.Sprint("l", i), i)}})
		c := s.hear(t, "inbox")
		s.commit(t, store.Batch{Ack: &c})
		if number(c) == -2 {
			return
		}
	}
	t.Error("a message that was due was overtaken 50 times")
}
