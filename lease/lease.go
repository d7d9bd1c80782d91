// Package lease decides which of several processes does what one alone must
// do: say who may start, serve one cluster.
//
// Each process is a [Member] with one record, which it writes every two
// seconds: that it lives. Who holds what is another record, which changes only
// when it passes on, and then its epoch rises. Nobody compares clocks: a member
// is dead to another when its record has not changed for ten seconds of the
// other's own time, and it gives up by itself when it could not write for six.
// So neither skew nor a jump of a clock takes anything from anybody.
//
// What a holder commits goes through [Tenure.Over], which checks in each commit
// that the lease has not passed on: one that was stopped and wakes up late
// changes nothing.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

const (
	beatEvery = 2 * time.Second
	lostAfter = 6 * time.Second  // without a beat that was written, counted from before it was tried
	deadAfter = 10 * time.Second // without a beat that was seen; longer than lostAfter, and both by clocks that only run forward
	goneAfter = 10 * time.Minute // without a beat that was seen; then the record goes too
	again     = time.Second      // before a store that fails is asked again
)

// A Member is one process. Fill in the fields, call Run, and Hold beside it.
type Member struct {
	DB      store.Driver
	Service string // "management", "contractor", "booster"
	ID      string // tells processes apart; no other ever had it
	URL     string // of its internal API, for the other services; empty: it has none
	Version string

	// Alone says that no other process can use the store: everything is taken
	// at once and never lost, and nothing needs to be written for it.
	Alone bool

	Now func() time.Time // nil: time.Now; for records only, nothing is decided by it
	Log *slog.Logger     // nil: silent

	once    sync.Once
	writing chan struct{} // has one in it while a commit of this member's own record is under way
	rev     int64         // of that record

	mu      sync.Mutex
	alive   time.Time // up to when what is held may be used
	leases  map[string]store.Found[store.Lease]
	members map[string]sign
	synced  bool // the two are as the store has them
	changed chan struct{}
}

// A sign is when a member was last seen to live.
type sign struct {
	rev  int64
	seen time.Time
}

func (m *Member) init() {
	m.once.Do(func() {
		if m.Now == nil {
			m.Now = time.Now
		}
		if m.Log == nil {
			m.Log = slog.New(slog.DiscardHandler)
		}
		m.writing = make(chan struct{}, 1)
		m.leases, m.members, m.changed = map[string]store.Found[store.Lease]{}, map[string]sign{}, make(chan struct{})
	})
}

// Run says that this member lives, until ctx ends.
func (m *Member) Run(ctx context.Context) error {
	m.init()
	if m.Alone {
		<-ctx.Done()
		return nil
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { m.watch(ctx) })
	beat := time.NewTimer(0)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			m.leave(ctx)
			return nil
		case <-beat.C:
		}
		if err := m.beat(ctx); err != nil && ctx.Err() == nil {
			m.Log.Warn("this process cannot say that it lives; without it what it holds passes on", "member", m.ID, "error", err)
			beat.Reset(again)
			continue
		}
		beat.Reset(beatEvery)
		m.sweep(ctx)
	}
}

// sweep removes the records of members that died without a word long ago.
func (m *Member) sweep(ctx context.Context) {
	var gone []store.Row
	m.mu.Lock()
	for id, s := range m.members {
		if id != m.ID && time.Since(s.seen) > goneAfter {
			gone = append(gone, store.Members(m.DB).At("", id, s.rev))
		}
	}
	m.mu.Unlock()
	for _, row := range gone {
		if err := m.DB.Commit(ctx, store.Batch{Delete: []store.Row{row}}); err != nil {
			m.Log.Debug("the record of a dead process stays", "member", row.Key.ID, "error", err)
		}
	}
}

// beat writes the record of this member, with what else is to be committed.
func (m *Member) beat(ctx context.Context, also ...func(*store.Batch)) error {
	m.writing <- struct{}{}
	defer func() { <-m.writing }()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, lostAfter)
	defer cancel()
	records := store.Members(m.DB)
	me := store.Member{ID: m.ID, Service: m.Service, URL: m.URL, Version: m.Version, Beat: m.Now().UTC()}
	b := store.Batch{Put: []store.Row{records.Put(me, m.rev)}}
	for _, f := range also {
		f(&b)
	}
	err := m.DB.Commit(ctx, b)
	if errors.Is(err, mlaas.ErrConflict) || err != nil && len(also) == 0 {
		// Nobody else writes this record, so it was a commit whose answer got
		// lost, or what else was to be committed did not fit.
		_, rev, at := records.Get(ctx, "", m.ID)
		if at == nil || errors.Is(at, mlaas.ErrNotFound) {
			m.rev = rev
		}
	}
	if err != nil {
		return err
	}
	m.rev++
	m.mu.Lock()
	m.alive = began.Add(lostAfter)
	m.ring()
	m.mu.Unlock()
	return nil
}

// leave says that this member is no more.
func (m *Member) leave(ctx context.Context) {
	m.writing <- struct{}{}
	defer func() { <-m.writing }()
	if m.rev == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatEvery)
	defer cancel()
	if err := m.DB.Commit(ctx, store.Batch{Delete: []store.Row{store.Members(m.DB).At("", m.ID, m.rev)}}); err != nil {
		m.Log.Debug("the record of this process stays: others find out by themselves", "member", m.ID, "error", err)
	}
}

// watch keeps what is known of the others.
func (m *Member) watch(ctx context.Context) {
	leases, members := store.Leases(m.DB), store.Members(m.DB)
	for ctx.Err() == nil {
		changes, ended := make(chan store.Change), make(chan error, 1)
		go func() { ended <- m.DB.Watch(ctx, 0, []string{leases.Kind, members.Kind}, changes) }()
		there := map[string]bool{} // before Synced: who is not among them is gone
		for watching := true; watching; {
			select {
			case err := <-ended:
				if ctx.Err() == nil {
					m.Log.Warn("the other processes cannot be watched", "error", err)
				}
				watching = false
			case c := <-changes:
				m.take(c, there)
			}
		}
		pause := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

func (m *Member) take(c store.Change, there map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.ring()
	id := c.Row.Key.ID
	switch {
	case c.Synced:
		for id := range m.members {
			if !there[id] {
				delete(m.members, id)
			}
		}
		m.synced = true
	case c.Row.Key.Kind == store.Members(m.DB).Kind && c.Deleted:
		delete(m.members, id)
		delete(there, id)
	case c.Row.Key.Kind == store.Members(m.DB).Kind:
		there[id] = true
		if m.members[id].rev != c.Row.Rev {
			m.members[id] = sign{c.Row.Rev, time.Now()}
		}
	default:
		if l, err := store.Leases(m.DB).Decode(c.Row); err == nil {
			m.leases[l.Name] = store.Found[store.Lease]{Value: l, Rev: c.Row.Rev}
		}
	}
}

// ring wakes who waits for any change. The caller holds mu.
func (m *Member) ring() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Hold waits until the lease called name is free, takes it, and calls work with
// a context that ends when it is lost. After that it waits again, until ctx
// ends or work itself returns while the lease is held; then the lease is given
// back and the error is work's.
func (m *Member) Hold(ctx context.Context, name string, work func(ctx context.Context, t *Tenure) error) error {
	m.init()
	for {
		t, err := m.acquire(ctx, name)
		if err != nil {
			return err
		}
		m.Log.Info("lease taken", "lease", name, "epoch", t.Epoch, "member", m.ID)
		life, lost := context.WithCancelCause(ctx)
		t.lost = func() {
			lost(fmt.Errorf("%s is another process's business by now: %w", name, mlaas.ErrUnavailable))
		}
		var guard sync.WaitGroup
		guard.Go(func() { m.guard(life, t) })
		err = work(life, t)
		mine := life.Err() == nil || ctx.Err() != nil
		lost(nil)
		guard.Wait()
		if mine {
			m.giveBack(ctx, t)
			return err
		}
		m.Log.Warn("lease lost", "lease", name, "epoch", t.Epoch, "member", m.ID, "error", err)
	}
}

// Holder says who holds the lease called name, as far as this process can
// tell: nobody does whose holder has not been seen to live for ten seconds.
// Until this process has seen the leases it is mlaas.ErrUnavailable.
func (m *Member) Holder(name string) (l store.Lease, held bool, err error) {
	m.init()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.synced {
		return l, false, fmt.Errorf("who holds what is not known yet: %w", mlaas.ErrUnavailable)
	}
	l = m.leases[name].Value
	holder, there := m.members[l.Holder]
	return l, l.Holder != "" && there && time.Since(holder.seen) < deadAfter, nil
}

// acquire waits for the lease and takes it.
func (m *Member) acquire(ctx context.Context, name string) (*Tenure, error) {
	if m.Alone {
		records := store.Leases(m.DB)
		old, rev, err := records.Get(ctx, "", name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, err
		}
		l := store.Lease{Name: name, Epoch: old.Epoch + 1, Holder: m.ID, URL: m.URL, Since: m.Now().UTC()}
		err = m.DB.Commit(ctx, store.Batch{Put: []store.Row{records.Put(l, rev)}})
		return &Tenure{Lease: l, db: m.DB, rev: rev + 1}, err
	}
	timer := time.NewTimer(deadAfter)
	defer timer.Stop()
	for {
		m.mu.Lock()
		changed, wait := m.changed, deadAfter
		old, holder := m.leases[name], sign{}
		free := m.synced && time.Now().Before(m.alive)
		if free && old.Value.Holder != "" && old.Value.Holder != m.ID { // ours, before we lost it: nobody else wanted it
			var there bool
			if holder, there = m.members[old.Value.Holder]; there {
				wait = time.Until(holder.seen.Add(deadAfter))
				free = wait <= 0
			}
		}
		m.mu.Unlock()
		if free {
			t, err := m.seize(ctx, name, old, holder)
			if err == nil {
				return t, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if !errors.Is(err, mlaas.ErrConflict) {
				m.Log.Warn("a lease cannot be taken", "lease", name, "error", err)
			}
			wait = again // somebody was faster, or lives: the news is on its way
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		case <-timer.C:
		}
	}
}

// seize takes a lease whose holder is dead or gave it back: in one commit with
// a sign of our own life, and only if the holder gave none meanwhile.
func (m *Member) seize(ctx context.Context, name string, old store.Found[store.Lease], holder sign) (*Tenure, error) {
	l := store.Lease{Name: name, Epoch: old.Value.Epoch + 1, Holder: m.ID, URL: m.URL, Since: m.Now().UTC()}
	err := m.beat(ctx, func(b *store.Batch) {
		b.Put = append(b.Put, store.Leases(m.DB).Put(l, old.Rev))
		if h := old.Value.Holder; h != "" && h != m.ID {
			b.Check = append(b.Check, store.Members(m.DB).At("", h, holder.rev))
		}
	})
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.leases[name].Rev <= old.Rev {
		m.leases[name] = store.Found[store.Lease]{Value: l, Rev: old.Rev + 1}
	}
	m.mu.Unlock()
	return &Tenure{Lease: l, db: m.DB, rev: old.Rev + 1}, nil
}

// guard ends a tenure when this member cannot say any more that it lives, or
// when it hears that the lease has passed on.
func (m *Member) guard(ctx context.Context, t *Tenure) {
	if m.Alone {
		return
	}
	timer := time.NewTimer(lostAfter)
	defer timer.Stop()
	for {
		m.mu.Lock()
		changed, left, now := m.changed, time.Until(m.alive), m.leases[t.Name]
		m.mu.Unlock()
		if left <= 0 || now.Rev > t.rev {
			t.lost()
			return
		}
		timer.Reset(left)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timer.C:
		}
	}
}

// giveBack frees a lease, so that nobody needs to wait for it.
func (m *Member) giveBack(ctx context.Context, t *Tenure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatEvery)
	defer cancel()
	free := t.Lease
	free.Holder, free.URL = "", ""
	err := m.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Leases(m.DB).Put(free, t.rev)}})
	if err != nil {
		m.Log.Debug("a lease is not given back: others find out by themselves", "lease", t.Name, "error", err)
	}
}

// A Tenure is the time from the taking of a lease to its loss.
type Tenure struct {
	store.Lease
	db   store.Driver
	rev  int64 // of the lease's record, which changes only when it passes on
	lost func()
}

// Held reports an error if the lease has passed on. What was done before a nil
// was done while it was held.
func (t *Tenure) Held(ctx context.Context) error {
	_, rev, err := store.Leases(t.db).Get(ctx, "", t.Name)
	if err != nil {
		return err
	}
	if rev != t.rev {
		t.lost()
		return fmt.Errorf("%s is another process's business by now: %w", t.Name, mlaas.ErrUnavailable)
	}
	return nil
}

// Over is the store for the holder: each commit checks that the lease has not
// passed on, and is mlaas.ErrUnavailable if it has.
func (t *Tenure) Over() store.Driver { return fenced{t.db, t} }

type fenced struct {
	store.Driver
	t *Tenure
}

func (f fenced) Commit(ctx context.Context, b store.Batch) error {
	check := b.Check
	b.Check = append(check[:len(check):len(check)], store.Leases(f.t.db).At("", f.t.Name, f.t.rev))
	err := f.Driver.Commit(ctx, b)
	if errors.Is(err, mlaas.ErrConflict) {
		if held := f.t.Held(ctx); held != nil {
			return held
		}
	}
	return err
}
