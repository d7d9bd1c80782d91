package backup

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// Why is what a run that was live says that it begins again for.
const Why = "restored from a backup"

// An again is what becomes of records that are of a platform which went on
// after its backup was made: its replicas may still be alive somewhere, under
// epochs that the backup knows nothing of.
type again struct {
	now    time.Time
	by     int
	live   map[mlaas.RunID]mlaas.RunState // as the backup has them
	names  map[mlaas.RunID]string
	queued []string
	logins int
}

// newAgain raises epochs by more than anybody can have raised them since the
// backup was made: an attempt has a pause before it, so that a run has fewer
// than one a minute for long.
func newAgain(now, made time.Time) *again {
	return &again{now: now, by: 1000 + int(max(now.Sub(made), 0)/time.Minute), live: map[mlaas.RunID]mlaas.RunState{}, names: map[mlaas.RunID]string{}}
}

// look remembers which runs are live.
func (a *again) look(r store.Row) error {
	switch r.Key.Kind {
	case "runstate":
		s, err := store.RunStates(nil).Decode(r)
		if err == nil && !s.State.Final() {
			a.live[s.Run] = s
		}
		return err
	case "run":
		run, err := store.Runs(nil).Decode(r)
		a.names[run.ID] = fmt.Sprintf("%s/%d", run.JobName, run.Number)
		return err
	}
	return nil
}

// change is the record as it is to be here; keep is false where it is not.
func (a *again) change(r store.Row) (out store.Row, keep bool, err error) {
	switch r.Key.Kind {
	case "runstate":
		s, err := store.RunStates(nil).Decode(r)
		if _, live := a.live[s.Run]; err != nil || !live {
			return r, true, err
		}
		return store.RunStates(nil).Put(a.run(s), r.Rev), true, nil
	case "replica":
		p, err := store.Replicas(nil).Decode(r)
		if s, live := a.live[p.Run]; err != nil || !live || p.Epoch != s.Epoch {
			return r, true, err
		}
		return store.Replicas(nil).Put(a.replica(p), r.Rev), true, nil
	case "ledger":
		l, err := store.Ledgers(nil).Decode(r)
		for run, g := range l.Grants {
			if _, live := a.live[run]; live {
				g.Epoch += a.by
				l.Grants[run] = g
			}
		}
		return store.Ledgers(nil).Put(l, r.Rev), true, err
	case "cluster": // that it was up is no news any more
		c, err := store.Clusters(nil).Decode(r)
		c.Up, c.Reason = false, Why+"; it was not heard of yet"
		return store.Clusters(nil).Put(c, r.Rev), true, err
	case "schema": // it is written when all is there
		return r, !store.IsForms(r), nil
	case "session", "link":
		a.logins++
		return r, false, nil
	case "lease": // nobody holds it; who held it elsewhere has an older epoch than the next holder
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(r.Data, &fields); err != nil {
			return r, false, fmt.Errorf("%s: %w", r.Key, err)
		}
		var epoch int64
		if err := json.Unmarshal(fields["epoch"], &epoch); err != nil {
			return r, false, fmt.Errorf("%s: %w", r.Key, err)
		}
		fields["epoch"] = json.RawMessage(strconv.FormatInt(epoch+int64(a.by), 10))
		fields["holder"] = json.RawMessage(`""`)
		delete(fields, "url")
		r.Data, err = json.Marshal(fields)
		return r, true, err
	}
	return r, true, nil
}

// run is a live run, back in line. One that was stopping still is: its verdict
// stands.
func (a *again) run(s mlaas.RunState) mlaas.RunState {
	if s.Epoch > 0 {
		s.Epoch += a.by
	}
	s.Next = a.now // it is looked at as soon as anybody looks
	switch s.State {
	case mlaas.Starting, mlaas.Running, mlaas.Resizing:
		s.State = mlaas.Queued
		s.Reason = "queued: " + Why + "; it goes on from its last checkpoint"
		a.queued = append(a.queued, a.names[s.Run])
	}
	if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Ended == nil {
		s.Attempts = slices.Clone(s.Attempts)
		s.Attempts[n-1].Ended, s.Attempts[n-1].Reason = &a.now, Why
	}
	return s
}

// replica is one of the newest attempt: what had ended has, also here, so that
// a run whose work was done is not done again; the others are lost.
func (a *again) replica(p mlaas.Replica) mlaas.Replica {
	p.Epoch += a.by
	if p.Status.Final() {
		return p
	}
	p.Status, p.Reason, p.Ended = mlaas.ReplicaLost, Why, &a.now
	p.History = append(slices.Clone(p.History), mlaas.Event{Time: a.now, Epoch: p.Epoch, Status: p.Status, Reason: Why})
	return p
}
