package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// Add asks to add N to the counter Name.
type Add struct {
	Name string `json:"name"`
	N    int    `json:"n"`
}

func (Add) To() string    { return "adder" }
func (a Add) Key() string { return a.Name }

// Poison is a message that nobody can handle.
type Poison struct{}

func (Poison) To() string  { return "adder" }
func (Poison) Key() string { return "poison" }

type Counter struct {
	Name  string `json:"name"`
	Sum   int    `json:"sum"`
	Parts []int  `json:"parts"`
}

func counters(db store.Driver) store.Records[Counter] {
	return store.Records[Counter]{DB: db, Kind: "counter", Key: func(c Counter) (mlaas.Tenant, string) { return "", c.Name }}
}

// A bench is an inbox over a store, in a bubble.
type bench struct {
	*Inbox
	t    *testing.T
	db   *sqlitestore.Store
	log  bytes.Buffer
	stop func()
}

func bubble(t *testing.T, test func(t *testing.T, b *bench)) {
	for _, path := range []string{":memory:", "file"} {
		t.Run(path, func(t *testing.T) {
			name := path
			if name == "file" {
				name = filepath.Join(t.TempDir(), "db")
			}
			synctest.Test(t, func(t *testing.T) {
				b := &bench{t: t}
				log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				db, err := sqlitestore.Open(t.Context(), name, sqlitestore.Options{Log: log})
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				b.db = db
				b.Inbox = &Inbox{DB: db, Name: "adder", Log: log}
				b.stop = func() {}
				test(t, b)
				b.stop()
			})
		})
	}
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run ends with %v", err)
		}
	})
}

func (b *bench) tell(messages ...store.Message) {
	b.t.Helper()
	if err := b.db.Commit(b.t.Context(), store.Batch{Tell: messages}); err != nil {
		b.t.Fatal(err)
	}
}

// done wants every message to be handled or parked within d.
func (b *bench) done(d time.Duration, parked int64) {
	b.t.Helper()
	for range 1000 {
		time.Sleep(d / 1000)
		st, err := b.db.Stats(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		if st.Waiting == 0 {
			if st.Parked != parked {
				b.t.Fatalf("%d messages are parked, want %d; log:\n%s", st.Parked, parked, &b.log)
			}
			return
		}
	}
	b.t.Fatalf("not done after %v; log:\n%s", d, &b.log)
}

func (b *bench) counter(name string) Counter {
	b.t.Helper()
	c, _, err := counters(b.db).Get(b.t.Context(), "", name)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// add reads the counter and answers the batch that adds to it.
func add(db store.Driver) func(context.Context, Add) (store.Batch, error) {
	return func(ctx context.Context, m Add) (store.Batch, error) {
		c, rev, err := counters(db).Get(ctx, "", m.Name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return store.Batch{}, err
		}
		c.Name = m.Name
		c.Sum += m.N
		c.Parts = append(c.Parts, m.N)
		return store.Batch{Put: []store.Row{counters(db).Put(c, rev)}}, nil
	}
}

func TestOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		On(b.Inbox, add(b.db))
		b.run()
		for i := range 100 {
			b.tell(Tell(Add{fmt.Sprint(i % 7), i}))
		}
		b.done(time.Minute, 0)
		for k := range 7 {
			if c := b.counter(fmt.Sprint(k)); !slices.IsSorted(c.Parts) || len(c.Parts) < 14 {
				t.Errorf("%s was added in the order %v", c.Name, c.Parts)
			}
		}
	})
}

// Every message has its effect once, though handlers race, also with another
// inbox on the same store, and outlive their leases.
func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var calls atomic.Int64
		slow := func(ctx context.Context, m Add) (store.Batch, error) {
			batch, err := add(b.db)(ctx, Add{"sum", m.N}) // the same record for all keys
			if n := calls.Add(1); n%10 == 0 {
				time.Sleep(90 * time.Second) // longer than the lease: another gets it
			}
			return batch, err
		}
		On(b.Inbox, slow)
		b.run()
		other := &bench{t: t, Inbox: &Inbox{DB: b.db, Name: b.Name, Log: b.Log}}
		On(other.Inbox, slow)
		other.run()
		defer other.stop()
		want := 0
		for i := range 100 {
			b.tell(Tell(Add{fmt.Sprint(i), i}))
			want += i
		}
		b.done(time.Hour, 0)
		if c := b.counter("sum"); c.Sum != want || len(c.Parts) != 100 {
			t.Errorf("the sum is %d of %d parts, want %d of 100", c.Sum, len(c.Parts), want)
		}
		if calls.Load() < 101 {
			t.Error("no handler lost a race: the test shows nothing")
		}
	})
}

// What a handler needs is away for longer than a message may fail: that is no
// fault of the message, which is handled when it is back.
func TestAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		back := time.Now().Add(3 * time.Minute)
		On(b.Inbox, func(ctx context.Context, m Add) (store.Batch, error) {
			if time.Now().Before(back) {
				return store.Batch{}, fmt.Errorf("the records cannot be read: %w", mlaas.ErrUnavailable)
			}
			return add(b.db)(ctx, m)
		})
		b.run()
		b.tell(Tell(Add{"a", 1}))
		time.Sleep(3*time.Minute + 10*time.Second)
		b.done(time.Second, 0)
		if c := b.counter("a"); c.Sum != 1 {
			t.Errorf("the sum is %d", c.Sum)
		}
	})
}

// A message that cannot be handled is parked, and delays nobody.
func TestPoison(t *testing.T) {
	tests := []struct {
		name   string
		handle func(context.Context, Poison) (store.Batch, error) // nil: none
		why    string
	}{
		{"error", func(context.Context, Poison) (store.Batch, error) {
			return store.Batch{}, errors.New("it tastes bad")
		}, "it tastes bad"},
		{"panic", func(context.Context, Poison) (store.Batch, error) { panic("it burns") }, "panicked: it burns"},
		{"slow", func(ctx context.Context, _ Poison) (store.Batch, error) {
			<-ctx.Done()
			return store.Batch{}, ctx.Err()
		}, "deadline"},
		{"unknown", nil, `no handler for "Poison"`},
		{"always against others", func(context.Context, Poison) (store.Batch, error) {
			return store.Batch{Check: []store.Row{{Key: store.Key{Kind: "no", ID: "such"}, Rev: 7}}}, nil
		}, "others were faster 20 times"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				On(b.Inbox, add(b.db))
				if tt.handle != nil {
					On(b.Inbox, tt.handle)
				}
				b.run()
				began := time.Now()
				b.tell(Tell(Poison{}), Tell(Add{"a", 1}))
				for b.sum("a") != 1 {
					time.Sleep(time.Millisecond)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("another message waited %v", took)
				}
				b.done(10*time.Minute, 1)
				parked, err := b.db.Parked(t.Context())
				if err != nil || len(parked) != 1 || !strings.Contains(parked[0].Why, tt.why) {
					t.Errorf("parked: %+v, %v, want because %q", parked, err, tt.why)
				}
				for level, times := range map[string]int{"WARN": store.MaxDeliveries - 1, "ERROR": 1} {
					if n := strings.Count(b.log.String(), "level="+level); n != times {
						t.Errorf("%d lines of level %s, want %d:\n%s", n, level, times, &b.log)
					}
				}
			})
		})
	}
}

func (b *bench) sum(name string) int {
	c, _, _ := counters(b.db).Get(b.t.Context(), "", name)
	return c.Sum
}

// A message that fails comes again after 1, 2, 4 and 8 seconds.
func TestDelays(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		began := time.Now()
		var at []time.Duration
		On(b.Inbox, func(context.Context, Poison) (store.Batch, error) {
			at = append(at, time.Since(began).Round(100*time.Millisecond))
			return store.Batch{}, errors.New("no")
		})
		b.run()
		b.tell(Tell(Poison{}))
		b.done(time.Minute, 1)
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("it came at %v, want %v", at, want)
		}
	})
}

// At most Parallel messages are handled at once, and not two of one key.
func TestParallel(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.Parallel = 3
		var now, most atomic.Int64
		keys := sync.Map{}
		On(b.Inbox, func(_ context.Context, m Add) (store.Batch, error) {
			if _, busy := keys.LoadOrStore(m.Name, true); busy {
				t.Errorf("two messages of %s at once", m.Name)
			}
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			keys.Delete(m.Name)
			return store.Batch{}, nil
		})
		b.run()
		began := time.Now()
		for i := range 30 {
			b.tell(Tell(Add{fmt.Sprint(i % 5), i}))
		}
		b.done(time.Minute, 0)
		if most.Load() != 3 {
			t.Errorf("%d at once, want 3", most.Load())
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("30 messages of a second by 3 took %v", took)
		}
	})
}

// A driver may hand out two messages of a key at once: they are handled one
// after another all the same.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &loose{acks: make(chan int64, 10)}
		var got []int
		in := &Inbox{DB: d, Name: "adder", Log: slog.New(slog.DiscardHandler)}
		On(in, func(_ context.Context, m Add) (store.Batch, error) {
			time.Sleep(time.Duration(10-m.N) * time.Second)
			got = append(got, m.N)
			return store.Batch{}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		for range 5 {
			<-d.acks
		}
		cancel()
		<-done
		if !slices.Equal(got, []int{1, 2, 3, 4, 5}) {
			t.Errorf("handled in the order %v", got)
		}
	})
}

// loose hands out five messages of one key at once.
type loose struct {
	store.Driver
	given atomic.Int64
	acks  chan int64
}

func (d *loose) Next(ctx context.Context, inbox string, _ time.Duration) (store.Claim, error) {
	n := d.given.Add(1)
	if n > 5 {
		<-ctx.Done()
		return store.Claim{}, ctx.Err()
	}
	body, _ := json.Marshal(Add{"k", int(n)})
	return store.Claim{ID: n, Token: "t", Delivery: 1, Message: store.Message{To: inbox, Subject: "Add", Key: "k", Body: body}}, nil
}

func (d *loose) Commit(_ context.Context, b store.Batch) error {
	d.acks <- b.Ack.ID
	return nil
}

// Where the store has no room or is away, Run waits for it, and no message is
// the worse for it.
func TestStoreAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		d := &away{Driver: b.db}
		b.DB = d
		calls := 0
		On(b.Inbox, func(ctx context.Context, m Add) (store.Batch, error) {
			calls++
			return add(b.db)(ctx, m)
		})
		b.run()
		d.commits.Store(8)
		d.nexts.Store(4)
		b.tell(Tell(Add{"a", 1}))
		b.done(time.Hour, 0)
		if c := b.counter("a"); c.Sum != 1 || calls != 1 {
			t.Errorf("sum %d after %d calls, want 1 after 1", c.Sum, calls)
		}
	})
}

// away fails so many times.
type away struct {
	store.Driver
	commits, nexts atomic.Int64
}

func (d *away) Commit(ctx context.Context, b store.Batch) error {
	if d.commits.Add(-1) >= 0 {
		return fmt.Errorf("no room: %w", mlaas.ErrDisk)
	}
	return d.Driver.Commit(ctx, b)
}

func (d *away) Next(ctx context.Context, inbox string, lease time.Duration) (store.Claim, error) {
	c, err := d.Driver.Next(ctx, inbox, lease)
	if err == nil && d.nexts.Add(-1) >= 0 {
		return c, fmt.Errorf("lost on the way: %w", mlaas.ErrUnavailable)
	}
	return c, err
}

// When ctx ends, what is under way is finished, nothing new is begun, and
// nothing is left running.
func TestEnd(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		began := make(chan bool)
		On(b.Inbox, func(ctx context.Context, m Add) (store.Batch, error) {
			began <- true
			if m.Name == "stuck" {
				<-ctx.Done()
				return store.Batch{}, ctx.Err()
			}
			time.Sleep(2 * time.Second)
			return add(b.db)(ctx, m)
		})
		b.run()
		b.tell(Tell(Add{"a", 1}), Tell(Add{"stuck", 1}), Tell(Add{"a", 2}))
		<-began
		<-began
		at := time.Now()
		b.stop()
		if took := time.Since(at); took != grace {
			t.Errorf("it took %v to end, want %v", took, grace)
		}
		if c := b.counter("a"); c.Sum != 1 {
			t.Errorf("the sum is %d, want the first alone", c.Sum)
		}
		// What was not finished is there for the next at once.
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := b.db.Next(ctx, "adder", time.Minute); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	goleak.VerifyNone(t)
}

func TestReconcile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var at []time.Duration
		wake, done := make(chan struct{}), make(chan error)
		go func() {
			done <- Reconcile(ctx, slog.New(slog.NewTextHandler(&log, nil)), 30*time.Second, wake, func(context.Context) error {
				at = append(at, time.Since(began))
				switch len(at) {
				case 2:
					return errors.New("not today")
				case 3:
					panic("at all")
				}
				return nil
			})
		}()
		time.Sleep(40 * time.Second)
		wake <- struct{}{}
		time.Sleep(31 * time.Second)
		close(wake)
		time.Sleep(30 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 30 * time.Second, 40 * time.Second, 70 * time.Second, 71 * time.Second, 101 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("it ran at %v, want %v", at, want)
		}
		for _, part := range []string{"not today", "panic: at all"} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("%q is not in the log:\n%s", part, &log)
			}
		}
	})
}
