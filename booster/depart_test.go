package booster_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/store"
)

// A lingering place still has one replica of a run that is over, and lets go of
// it when it likes.
type lingering struct {
	booster.Executor
	f    mlaas.Fence
	gone chan struct{}
	left atomic.Int32 // how often it was asked to take away what it keeps
}

func (l *lingering) Leave(context.Context) error {
	l.left.Add(1)
	return errors.New("it may not") // which keeps nobody
}

func (l *lingering) Stop(ctx context.Context, f mlaas.Fence) error {
	if f != l.f {
		return l.Executor.Stop(ctx, f)
	}
	select {
	case <-l.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lingering) Watch(ctx context.Context, out chan<- booster.News) error {
	select {
	case <-l.gone:
	default:
		select {
		case out <- booster.News{Fence: l.f, Status: mlaas.ReplicaReady, Reason: "its pod is being ended"}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() {
		select {
		case <-l.gone:
			select {
			case out <- booster.News{Fence: l.f, Status: mlaas.ReplicaStopped, Reason: "it was stopped"}:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}()
	return l.Executor.Watch(ctx, out)
}

// A cluster that is to go is there until nothing is left on it, whoever let go
// of it already; it says what is left, and goes as soon as that does.
func TestRemovedWhenNothingIsLeft(t *testing.T) {
	bubble(t, mute, func(h *house) {
		specs, clusters := store.ClusterSpecs(h.db), store.Clusters(h.db)
		spec := mlaas.ClusterSpec{Name: "stage", Kind: mlaas.ClusterRemote, Wanted: mlaas.ClusterGone, Created: time.Now(), Changed: time.Now()}
		time.Sleep(time.Second) // somebody has heard of it
		h.end()
		h.commit(store.Batch{Put: []store.Row{specs.Put(spec, 0)}})
		place := &lingering{Executor: h.place, f: fence(run("run0", nil), 1, "worker-0"), gone: make(chan struct{})}
		ctx, cancel := context.WithCancel(h.ctx)
		ended := make(chan error, 1)
		b := &booster.Booster{DB: h.db, Blob: h.blobs, Series: h.lines, Key: make([]byte, 32), Cluster: "stage", Executor: place, DoorURL: "pipe"}
		go func() { ended <- b.Run(ctx) }()
		h.end = func() {
			cancel()
			<-ended
		}
		time.Sleep(10 * time.Minute)
		c, _, err := clusters.Get(h.ctx, "", "stage")
		if want := []string{"run0-1-worker-0-1 has ended, and is being cleared away"}; err != nil || !slices.Equal(c.Left, want) {
			t.Errorf("while something is left it is %+v, %v; want left %q", c, err, want)
		}
		if n := place.left.Load(); n > 0 {
			t.Errorf("while something is left it was asked %d times to leave", n)
		}
		close(place.gone)
		time.Sleep(time.Second)
		_, _, cluster := clusters.Get(h.ctx, "", "stage")
		_, _, wish := specs.Get(h.ctx, "", "stage")
		if !errors.Is(cluster, mlaas.ErrNotFound) || !errors.Is(wish, mlaas.ErrNotFound) {
			t.Errorf("a second after the last has gone, its records are %v and %v; want none", cluster, wish)
		}
		if n := place.left.Load(); n != 1 {
			t.Errorf("it was asked %d times to leave, want once", n)
		}
	})
}
