package booster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/store"
)

var errLink = fmt.Errorf("the link is down: %w", mlaas.ErrUnavailable)

// others writes the records of other clusters.
func (h *house) others(names ...string) {
	for _, name := range names {
		h.commit(store.Batch{Put: []store.Row{store.Clusters(h.db).Put(mlaas.Cluster{Name: name, Up: true}, 0)}})
	}
}

// A cable is a door that may be cut off.
type cable struct {
	scripted.Door
	whole context.Context
}

func (c cable) Serve(ctx context.Context, f mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.whole, cancel)()
	return c.Door.Serve(ctx, f, line)
}

// What is given up on a cluster that is away, and when.
func TestGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		others []string
		talks  bool // only the API is away
		after  time.Duration
		want   mlaas.ReplicaStatus
	}{
		{"not within 45 s", []string{"east", "west"}, false, 45 * time.Second, mlaas.ReplicaReady},
		{"within 55 s", []string{"east", "west"}, false, 55 * time.Second, mlaas.ReplicaLost},
		{"not while it talks", []string{"east", "west"}, true, time.Hour, mlaas.ReplicaReady},
		{"not where there is no other", nil, false, time.Hour, mlaas.ReplicaReady},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
				h.others(tt.others...)
				whole, cut := context.WithCancel(h.ctx)
				defer cut()
				h.place.Connect(cable{h.boost.Monitor(), whole})
				r := run("run1", map[string]int{"worker": 1})
				h.ask(r, 1)
				h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
				time.Sleep(time.Minute)
				if h.place.Fail(errLink); !tt.talks {
					h.place.Connect(nil)
					cut()
				}
				time.Sleep(tt.after)
				if rep, _ := h.replica(r, "worker-0"); rep.Status != tt.want {
					t.Errorf("after %s it is %s: %s", tt.after, rep.Status, rep.Reason)
				}
			})
		})
	}
}

// A message to a cluster that does not answer is not at fault, and not parked.
func TestAskedWhileAway(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		r, r2 := run("run1", map[string]int{"worker": 1}), run("run2", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.place.Fail(errLink)
		h.ask(r2, 1)
		h.unwanted(r, 1, 0)
		time.Sleep(10 * time.Minute)
		if stats, err := h.db.Stats(h.ctx); err != nil || stats.Parked > 0 {
			t.Errorf("%d messages are parked, %v", stats.Parked, err)
		}
		h.place.Fail(nil)
		h.status(r, "worker-0", 15*time.Second, mlaas.ReplicaStopped)
		h.status(r2, "worker-0", 15*time.Second, mlaas.ReplicaReady)
	})
}
