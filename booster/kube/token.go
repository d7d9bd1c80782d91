package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// A sheaf is the Secret of one attempt: the tokens of the replicas that were
// started, and nothing in the place of those that were stopped, which are never
// started again, by whomever. What is asked for in the moment before a write goes
// into it, and what comes while it is under way into the next one, so that many
// replicas cost few calls.
type sheaf struct {
	api    corev1client.SecretInterface
	name   string
	labels map[string]string

	mu    sync.Mutex
	asked []*entry
	busy  bool
	known *corev1.Secret // as it was last; of the one that is busy
	used  time.Time
}

// An entry is one change of a sheaf.
type entry struct {
	key   string
	token string // empty: the replica is stopped
	over  bool   // a start came after the stop
	err   error
	done  chan struct{}
}

const (
	// writeWithin is how long one write of a sheaf may take.
	writeWithin = 15 * time.Second

	// moment is how long the first of several waits for the others: the replicas
	// of a run are asked for at once, but not in the same microsecond.
	moment = 2 * time.Millisecond
)

// start keeps the token of a replica. over: it was stopped before.
func (s *sheaf) start(ctx context.Context, key, token string) (over bool, err error) {
	e := &entry{key: key, token: token}
	err = s.ask(ctx, e)
	return e.over, err
}

// stop takes the token away, so that the replica is never started again.
func (s *sheaf) stop(ctx context.Context, key string) error {
	return s.ask(ctx, &entry{key: key})
}

func (s *sheaf) ask(ctx context.Context, e *entry) error {
	e.done = make(chan struct{})
	s.mu.Lock()
	s.used = time.Now()
	s.asked = append(s.asked, e)
	if !s.busy {
		s.busy = true
		go s.work(context.WithoutCancel(ctx)) // for all who ask: it does not end with the first
	}
	s.mu.Unlock()
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work writes until nothing is asked for.
func (s *sheaf) work(ctx context.Context) {
	_ = pause(ctx, moment) // ctx does not end
	for {
		s.mu.Lock()
		all := s.asked
		s.asked = nil
		if len(all) == 0 {
			s.busy = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		within, cancel := context.WithTimeout(ctx, writeWithin)
		err := s.write(within, all)
		cancel()
		for _, e := range all {
			e.err = err
			close(e.done)
		}
	}
}

// write makes the Secret say all of it. Whoever else writes it is read first.
func (s *sheaf) write(ctx context.Context, all []*entry) error {
	for range 8 {
		next, changed := s.with(all)
		var got *corev1.Secret
		var err error
		switch {
		case s.known != nil && !changed:
			return nil
		case s.known != nil:
			got, err = s.api.Update(ctx, next, metav1.UpdateOptions{})
		case changed:
			got, err = s.api.Create(ctx, next, metav1.CreateOptions{})
		default: // only to be stopped: there may be none
			got, err = s.api.Get(ctx, s.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil {
				s.known = got
				continue
			}
		}
		switch {
		case err == nil:
			s.known = got
			return nil
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			s.known, err = s.api.Get(ctx, s.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				s.known, err = nil, nil
			}
			if err != nil {
				s.known = nil
				return err
			}
		case apierrors.IsNotFound(err) && s.known != nil: // somebody took it away
			s.known = nil
		default:
			s.known = nil
			return err
		}
	}
	return fmt.Errorf("Secret %s is changed by others all the time", s.name)
}

// with is the Secret as it should be.
func (s *sheaf) with(all []*entry) (next *corev1.Secret, changed bool) {
	if s.known != nil {
		next = s.known.DeepCopy()
	} else {
		next = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: s.name, Labels: s.labels}, Type: corev1.SecretTypeOpaque}
	}
	if next.Data == nil {
		next.Data = map[string][]byte{}
	}
	for _, e := range all {
		was, there := next.Data[e.key]
		switch {
		case e.token != "" && !there:
			next.Data[e.key], changed = []byte(e.token), true
		case e.token != "":
			e.over = len(was) == 0
		case there && len(was) > 0 || s.known != nil && !there:
			next.Data[e.key], changed = []byte{}, true
		}
	}
	return next, changed
}
