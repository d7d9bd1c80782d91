package queue

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/store"
)

func TestTraced(t *testing.T) {
	const a, b = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-aaaaaaaaaaaaaaaa-01", "00-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bbbbbbbbbbbbbbbb-01"
	batch := store.Batch{Tell: []store.Message{Tell(Add{"x", 1}), {To: "y", Body: []byte("{}")}, {To: "z"}, {To: "n", Body: []byte("null")}}}
	got := Traced(Traced(batch, a), b) // the first stands
	var m Add
	if err := json.Unmarshal(got.Tell[0].Body, &m); err != nil || m != (Add{"x", 1}) || traceOf(got.Tell[0].Body) != a {
		t.Errorf("%s reads %+v, %v", got.Tell[0].Body, m, err)
	}
	if string(got.Tell[1].Body) != `{"traceparent":"`+a+`"}` || got.Tell[2].Body != nil || string(got.Tell[3].Body) != "null" {
		t.Errorf("%s, %s, %s", got.Tell[1].Body, got.Tell[2].Body, got.Tell[3].Body)
	}
	if traceOf(batch.Tell[0].Body) != "" {
		t.Error("the batch that was given is another one now")
	}
	if same := Traced(batch, ""); &same.Tell[0] != &batch.Tell[0] {
		t.Error("without a trace it is copied")
	}
}

// spans notes what is part of what.
type spans struct {
	mu   sync.Mutex
	made []string
}

func (s *spans) Start(ctx context.Context, name, from, key, value string) (context.Context, func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, name+" of "+from)
	return trace.With(ctx, name), func(error) {}
}

func (s *spans) Past(string, string, time.Time, time.Time, string, string) {}

// What a handler tells is part of what it heard, and both are counted.
func TestInboxTraces(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		s := new(spans)
		b.Trace, b.Counts = s, new(Counts)
		On(b.Inbox, func(ctx context.Context, m Add) (store.Batch, error) {
			batch, err := add(b.db)(ctx, m)
			if m.N < 3 {
				batch.Tell = []store.Message{Tell(Add{m.Name, m.N + 1})}
			}
			return batch, err
		})
		b.run()
		if err := b.db.Commit(t.Context(), Traced(store.Batch{Tell: []store.Message{Tell(Add{"a", 1})}}, "the request")); err != nil {
			t.Fatal(err)
		}
		b.done(time.Minute, 0)
		s.mu.Lock()
		defer s.mu.Unlock()
		want := []string{"adder Add of the request", "adder Add of adder Add", "adder Add of adder Add"}
		if len(s.made) != 3 || s.made[0] != want[0] || s.made[1] != want[1] || s.made[2] != want[2] {
			t.Errorf("%q, want %q", s.made, want)
		}
		if _, n, _ := b.Counts.Took.Read(); b.Counts.Handled.Value() != 3 || n != 3 || b.Counts.Redelivered.Value() != 0 {
			t.Errorf("%d were handled, %d measured", b.Counts.Handled.Value(), n)
		}
	})
}
