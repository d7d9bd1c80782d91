package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A topic is one subscription of a connection.
type topic struct {
	*streamer
	Subscription
	ctx    context.Context
	cancel context.CancelFunc
}

// send writes an event of the subscription, unless it has ended.
func (t *topic) send(kind string, seq int64, data any) error {
	text := encode(StreamEvent{ID: t.ID, Topic: t.Topic, Type: kind, Seq: seq, Data: data})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live[t.ID] == t {
		t.put(text)
	}
	return t.ctx.Err()
}

// serve runs the subscription until it ends.
func (t *topic) serve() {
	var err error
	switch t.Topic {
	case "job":
		err = t.jobs()
	case "replica":
		err = t.replicas()
	case "draft":
		err = t.drafts()
	case "evaluation":
		err = t.evaluations()
	case "log":
		err = t.lines()
	case "metric":
		err = t.points()
	case "kernel":
		err = t.events()
	}
	if err != nil && t.ctx.Err() == nil {
		if mlaas.KindOf(err).Status >= 500 {
			// Not what the client asked for: it comes again, and goes on.
			t.m.log().Error("a subscription failed", "topic", t.Topic, "run", t.Run, "error", err)
			t.finish(websocket.StatusTryAgainLater, "the platform failed at topic "+t.Topic)
			return
		}
		_ = t.send("error", 0, problemOf(err)) // it is over either way
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live[t.ID] == t { // else the id is another's by now
		delete(t.live, t.ID)
	}
	t.cancel()
}

// A JobEvent is what the topic job tells: where a job and its newest run stand.
type JobEvent struct {
	Job     mlaas.JobID      `json:"job"`
	Name    string           `json:"name"`
	Status  *mlaas.JobStatus `json:"status,omitempty"`
	Deleted bool             `json:"deleted,omitempty"`
}

func (t *topic) jobs() error {
	ctx, tenant := t.ctx, t.who.Tenant
	var only mlaas.JobID
	if t.Job != "" {
		j, err := t.m.findJob(ctx, tenant, t.Job)
		if err != nil {
			return err
		}
		only = j.ID
	}
	told := map[mlaas.JobID]JobEvent{} // what the client knows: the same is not said twice
	snapshot := func() (any, error) {
		clear(told)
		events := []JobEvent{}
		take := func(j mlaas.Job) error {
			e, err := t.m.jobEvent(ctx, j)
			if err == nil && !e.Deleted {
				told[j.ID] = e
				events = append(events, e)
			}
			return err
		}
		if only != "" {
			j, _, err := store.Jobs(t.m.DB).Get(ctx, tenant, string(only))
			if err == nil {
				err = take(j)
			}
			return events, err
		}
		q := store.Query{Tenant: tenant}
		for {
			page, next, err := store.Jobs(t.m.DB).List(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, f := range page {
				if err := take(f.Value); err != nil {
					return nil, err
				}
			}
			if next == (store.Key{}) {
				return events, nil
			}
			q.After = next
		}
	}
	return t.watch([]string{"job", "run", "runstate"}, snapshot, func(c store.Change) (any, error) {
		id, err := jobOf(c)
		if err != nil || id == "" || only != "" && id != only {
			return nil, err
		}
		e := JobEvent{Job: id, Deleted: true}
		j, _, err := store.Jobs(t.m.DB).Get(ctx, tenant, string(id))
		if err == nil {
			e, err = t.m.jobEvent(ctx, j)
		}
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, err
		}
		if old, known := told[id]; known && reflect.DeepEqual(old, e) {
			return nil, nil
		}
		if told[id] = e; e.Deleted {
			delete(told, id)
		}
		return []JobEvent{e}, nil
	})
}

// jobOf is the job that a row of kind job, run or runstate belongs to; empty
// where it cannot be told of a row that is gone.
func jobOf(c store.Change) (mlaas.JobID, error) {
	if c.Row.Key.Kind == "job" {
		return mlaas.JobID(c.Row.Key.ID), nil
	}
	if c.Deleted {
		return "", nil // the job goes with it, or it went unseen
	}
	var of struct {
		Job mlaas.JobID `json:"job"`
	}
	err := json.Unmarshal(c.Row.Data, &of)
	return of.Job, err
}

// jobEvent tells where a job stands now.
func (m *Management) jobEvent(ctx context.Context, j mlaas.Job) (JobEvent, error) {
	if j.Deleted != nil {
		return JobEvent{Job: j.ID, Name: j.Name, Deleted: true}, nil
	}
	status, err := m.statusOf(ctx, j)
	if errors.Is(err, mlaas.ErrNotFound) {
		return JobEvent{Job: j.ID, Name: j.Name, Deleted: true}, nil // it is being purged
	}
	return JobEvent{Job: j.ID, Name: j.Name, Status: &status}, err
}

func (t *topic) replicas() error {
	if err := t.known(); err != nil {
		return err
	}
	records := store.Replicas(t.m.DB)
	mine := func(r mlaas.Replica) bool { return t.Replica == "" || r.Fence.Replica == t.Replica }
	told := map[string]int64{} // revisions
	snapshot := func() (any, error) {
		clear(told)
		all, err := records.All(t.ctx, store.Query{Tenant: t.who.Tenant, Prefix: string(t.Run) + "/"})
		list := []mlaas.Replica{}
		for _, f := range all {
			told[f.Value.Fence.Replica] = f.Rev
			if mine(f.Value) {
				list = append(list, f.Value)
			}
		}
		return list, err
	}
	return t.watch([]string{"replica"}, snapshot, func(c store.Change) (any, error) {
		name, ours := strings.CutPrefix(c.Row.Key.ID, string(t.Run)+"/")
		if !ours || c.Deleted || c.Row.Rev <= told[name] {
			return nil, nil
		}
		r, err := records.Decode(c.Row)
		if err != nil || !mine(r) {
			return nil, err
		}
		return []mlaas.Replica{r}, nil
	})
}

// known is mlaas.ErrNotFound where there is no such run of the team.
func (t *topic) known() error {
	_, _, err := store.Runs(t.m.DB).Get(t.ctx, t.who.Tenant, string(t.Run))
	return err
}

// watch turns changes of records into events: a snapshot, and a delta for each
// change that turn has something to say of. Each has a number of its own, so
// a client that lost its connection between two changes of one commit misses
// neither.
func (t *topic) watch(kinds []string, snapshot func() (any, error), turn func(store.Change) (any, error)) error {
	from := int64(0)
	if t.From != nil {
		from = *t.From
	}
	resumed := from > 0
	for {
		life := t.m.hub.living() // before reading, as the number is
		if !resumed {
			stats, err := t.m.DB.Stats(t.ctx) // before reading: what changes meanwhile is watched
			if err != nil {
				return err
			}
			from = stats.Seq
			data, err := snapshot()
			if err == nil {
				err = t.send("snapshot", from, data)
			}
			if err != nil {
				return err
			}
		}
		err := t.changes(life, from, kinds, resumed, turn)
		if !errors.Is(err, mlaas.ErrGone) || t.ctx.Err() != nil {
			return err
		}
		if err := t.send("reset", 0, nil); err != nil {
			return err
		}
		resumed = false
	}
}

// changes sends what changes after from: of what the hub keeps, which all share,
// and what is further back from the store.
func (t *topic) changes(life, from int64, kinds []string, resumed bool, turn func(store.Change) (any, error)) error {
	for at := from; ; {
		changes, more, kept, err := t.m.hub.after(life, at)
		switch {
		case err != nil:
			return err
		case resumed || !kept: // only the store knows whether it knows what the client says
			if at, err = t.behind(life, at, kinds, resumed, turn); err != nil {
				return err
			}
			resumed = false
			continue
		}
		for _, c := range changes {
			at = c.Seq
			if err := t.tell(c, kinds, turn); err != nil {
				return err
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-more:
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

// behind sends what changes after from as the store tells it, until the hub
// keeps what follows, and returns up to where.
func (t *topic) behind(life, from int64, kinds []string, resumed bool, turn func(store.Change) (any, error)) (int64, error) {
	ctx, stop := context.WithCancel(t.ctx)
	changes, ended := make(chan store.Change), make(chan error, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() { ended <- t.m.DB.Watch(ctx, from, kinds, changes) })
	for {
		select {
		case err := <-ended:
			return 0, err
		case c := <-changes:
			switch {
			case !c.Synced:
				if err := t.tell(c, kinds, turn); err != nil {
					return 0, err
				}
			case resumed:
				if err := t.send("synced", c.Seq, nil); err != nil {
					return 0, err
				}
			}
			if _, _, kept, err := t.m.hub.after(life, c.Seq); err != nil || kept {
				return c.Seq, err
			}
		}
	}
}

// tell sends a change, if it is one of the topic's.
func (t *topic) tell(c store.Change, kinds []string, turn func(store.Change) (any, error)) error {
	if c.Row.Key.Tenant != t.who.Tenant || !slices.Contains(kinds, c.Row.Key.Kind) {
		return nil
	}
	data, err := turn(c)
	if err != nil || data == nil {
		return err
	}
	return t.send("delta", c.Seq, data)
}

func (t *topic) lines() error {
	if err := t.known(); err != nil {
		return err
	}
	crowd, leave := t.m.crowds.join(runKey{t.who.Tenant, t.Run})
	defer leave()
	q := series.LineQuery{Tenant: t.who.Tenant, Run: t.Run, Replica: t.Replica, Limit: linesAtOnce}
	if t.Grep != "" {
		q.Grep = regexp.MustCompile(t.Grep) // check has compiled it
	}
	number := func(l series.Line) int64 { return l.Cursor }
	last := func() (int64, error) {
		end, _, err := t.m.Series.LastCursor(t.ctx, q.Tenant, q.Run)
		return end, err
	}
	if t.Replica != "" {
		number = func(l series.Line) int64 { return l.Seq }
		last = func() (int64, error) { return t.m.Series.LastSeq(t.ctx, q.Tenant, q.Run, q.Replica) }
	}
	tail := func() (int64, error) {
		t.turn.Lock()
		defer t.turn.Unlock()
		at, err := last()
		if err != nil {
			return 0, err
		}
		lines, tail := []series.Line{}, q
		if tail.Last = 100; t.Tail != nil {
			tail.Last = min(*t.Tail, maxTail)
		}
		if tail.Last > 0 && at > 0 {
			err := crowd.turn(t.ctx, func() (err error) {
				lines, err = t.m.Series.Lines(t.ctx, tail)
				return err
			})
			if err != nil {
				return 0, err
			}
		}
		if n := len(lines); n > 0 {
			at = max(at, number(lines[n-1])) // some came meanwhile
			if t.Tail == nil {
				lines = slices.Clone(lines)
				slices.Reverse(lines)
				lines = lines[:fitting(lines)]
				slices.Reverse(lines)
			}
		}
		return at, t.send("snapshot", at, lines)
	}
	return t.follow(last, tail, func(from, to int64) (int64, error) {
		t.turn.Lock()
		defer t.turn.Unlock()
		return t.share(crowd, "delta", from, func() (any, int64, error) {
			q.From = from
			lines, err := t.m.Series.Lines(t.ctx, q)
			if err != nil || len(lines) == 0 {
				return nil, to, err // nothing up to there matches
			}
			lines = lines[:fitting(lines)]
			q.Limit = min(2*len(lines), linesAtOnce) // no more is read than is sent, about
			return lines, number(lines[len(lines)-1]), nil
		})
	})
}

// share sends the page of the crowd that begins at from, or its snapshot, and
// returns up to where it tells.
func (t *topic) share(c *crowd, kind string, from int64, read func() (any, int64, error)) (int64, error) {
	k := pageKey{topic: t.Topic, replica: t.Replica, grep: t.Grep, from: from, snapshot: kind == "snapshot"}
	p, err := c.page(t.ctx, k, func() (data json.RawMessage, to int64, err error) {
		list, to, err := read()
		if err == nil && list != nil {
			data, err = json.Marshal(list)
		}
		return data, to, err
	})
	switch {
	case err != nil:
		return 0, err
	case p.data == nil:
		return p.to, nil
	}
	return p.to, t.send(kind, p.to, p.data)
}

// fitting is how many of lines fit into one event, at least one: an event is
// what a client that reads nothing keeps in memory.
func fitting(lines []series.Line) int {
	size := 0
	for i, l := range lines {
		if size += len(l.Text) + 64; size > eventBytes {
			return max(i, 1)
		}
	}
	return len(lines)
}

func (t *topic) points() error {
	if err := t.known(); err != nil {
		return err
	}
	tenant := t.who.Tenant
	crowd, leave := t.m.crowds.join(runKey{tenant, t.Run})
	defer leave()
	last := func() (int64, error) {
		_, end, err := t.m.Series.LastCursor(t.ctx, tenant, t.Run)
		return end, err
	}
	snapshot := func() (int64, error) {
		t.turn.Lock()
		defer t.turn.Unlock()
		return t.share(crowd, "snapshot", 0, func() (any, int64, error) {
			keys, err := t.m.Series.Keys(t.ctx, tenant, t.Run)
			if err != nil {
				return nil, 0, err
			}
			at, err := last() // before reading: a point that comes meanwhile is in both, under one step
			if err != nil {
				return nil, 0, err
			}
			curves, err := t.m.Series.Points(t.ctx, series.PointQuery{Tenant: tenant, Run: t.Run, Replica: t.Replica,
				Buckets: max(10, min(500, shownPoints/max(1, len(keys))))})
			return curvesOut(curves), at, err
		})
	}
	return t.follow(last, snapshot, func(from, to int64) (int64, error) {
		t.turn.Lock()
		defer t.turn.Unlock()
		return t.share(crowd, "delta", from, func() (any, int64, error) {
			points, err := t.m.Series.RunPoints(t.ctx, tenant, t.Run, from, linesAtOnce)
			if err != nil || len(points) == 0 {
				return nil, to, err
			}
			at := points[len(points)-1].Cursor
			mine := slices.DeleteFunc(points, func(p series.RunPoint) bool { return t.Replica != "" && p.Replica != t.Replica })
			if len(mine) == 0 {
				return nil, at, nil
			}
			return mine, at, nil
		})
	})
}

// follow sends what a series has and gets: a snapshot, or what follows From,
// and then each page. Numbers are dense: last is the newest, snapshot returns
// up to where it has told, and page tells some of what is between two of them,
// both included, and returns up to where. While what is asked for cannot be
// reached, because who has it is being replaced, it waits and goes on.
func (t *topic) follow(last func() (int64, error), snapshot func() (int64, error), page func(from, to int64) (int64, error)) error {
	f := &reading{topic: t, last: last, snapshot: snapshot, page: page, resume: t.From != nil}
	if f.resume {
		f.at = *t.From
	}
	var lull lull
	for {
		if err := f.turn(&lull); err != nil {
			return err
		}
	}
}

// A reading is where a topic of numbered things stands.
type reading struct {
	*topic
	last     func() (int64, error)
	snapshot func() (int64, error)
	page     func(from, to int64) (int64, error)
	resume   bool // at is what the client says
	begun    bool // at is what it was told
	at       int64
}

// turn sends what there is now and waits for more.
func (f *reading) turn(lull *lull) error {
	changed, leave := f.m.Series.Changed(f.who.Tenant, f.Run) // before reading: what comes meanwhile wakes us
	defer leave()
	err := f.begin()
	if err == nil {
		err = f.pages()
	}
	retry := lull.after(err)
	if err != nil && retry == nil {
		return err
	}
	select {
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-changed:
	case <-retry:
	}
	return nil
}

// begin is what comes first.
func (f *reading) begin() error {
	if f.begun {
		return nil
	}
	if f.resume {
		end, err := f.last()
		if err != nil {
			return err
		}
		if f.at <= end {
			f.begun = true
			return f.send("synced", f.at, nil)
		}
		// It is of a time that is lost, as after a restore.
		f.resume = false
		if err := f.send("reset", 0, nil); err != nil {
			return err
		}
	}
	at, err := f.snapshot()
	if err == nil {
		f.at, f.begun = at, true
	}
	return err
}

func (f *reading) pages() error {
	end, err := f.last()
	for err == nil && f.at < end {
		var at int64
		if at, err = f.page(f.at+1, end); err == nil {
			f.at = at
		}
	}
	if err != nil {
		return err
	}
	if end, err = f.last(); err == nil && end < f.at { // asked again: what came meanwhile was told too
		return fmt.Errorf("what run %s has said was removed: %w", f.Run, mlaas.ErrGone)
	}
	return err
}
