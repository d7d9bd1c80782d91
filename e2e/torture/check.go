package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
)

// settlePatience is how long runs may take to be over when nothing is wrong
// any more.
const settlePatience = 4 * time.Minute

type run struct {
	ID, Job string
	Status  runStatus
}

// settle waits until every run is over, and reports those that are not.
func settle(ctx context.Context, api *API) error {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	var open []string
	for {
		runs, err := list[run](ctx, api, "/api/run")
		if err == nil {
			open = nil
			for _, r := range runs {
				if !mlaas.State(r.Status.State).Final() {
					open = append(open, fmt.Sprintf("%s %s (%s)", r.ID, r.Status.State, r.Status.Reason))
				}
			}
			if len(open) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d runs are not over after %v: %s (%v)", len(open), settlePatience, strings.Join(open[:min(5, len(open))], "; "), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// A Check compares entries of the ledger with what the platform shows now.
type Check struct {
	api     *API
	tally   *Tally
	damaged bool            // something was damaged on purpose: what says so counts as told
	full    map[string]bool // faults whose runs may have found no room: one that says that it dropped something counts as told
}

// checkers is how many entries are looked at at once.
const checkers = 8

// all looks for every entry.
func (c *Check) all(ctx context.Context, entries []Entry) {
	c.tally.mu.Lock()
	c.tally.Acknowledged += len(entries)
	c.tally.mu.Unlock()
	c.names(ctx)
	versions, stops := map[string]int{}, map[string]bool{}
	registers := map[string]Entry{}
	for _, e := range entries {
		switch e.Kind {
		case "version":
			versions[e.Job]++
		case "stop":
			stops[e.ID] = true
		case "register":
			if e.Revision > registers[e.ID].Revision {
				registers[e.ID] = e
			}
		}
	}
	work := make(chan Entry)
	var all sync.WaitGroup
	for range checkers {
		all.Go(func() {
			for e := range work {
				found, err := false, error(nil)
				switch e.Kind {
				case "job":
					found, err = c.job(ctx, e)
				case "version":
					found, err = c.version(ctx, e, versions[e.Job])
				case "run":
					found, err = c.run(ctx, e, false)
				case "long":
					found, err = c.run(ctx, e, true)
				case "stop":
					found, err = c.stop(ctx, e)
				case "blob":
					found, err = c.bytes(ctx, "/api/blob/sha256:"+e.ID, e.Digest)
				case "dataset":
					found, err = c.dataset(ctx, e)
				case "register":
					found, err = c.register(ctx, e, registers[e.ID])
				case "seen":
					found, err = c.seen(ctx, e)
				}
				if !found && c.damaged && told(err) {
					c.tally.mu.Lock()
					c.tally.Told++
					c.tally.mu.Unlock()
					continue
				}
				if !found {
					c.tally.lost("%s %s (%s): %v", e.Kind, e.ID, e.Key, err)
					continue
				}
				c.tally.mu.Lock()
				c.tally.Found++
				c.tally.mu.Unlock()
			}
		})
	}
	for _, e := range entries {
		work <- e
	}
	close(work)
	all.Wait()
}

// readPatience is how long reading may be put off when nothing is wrong any
// more: who took the place of one that was killed may have only begun.
const readPatience = 40 * time.Second

// do asks, and again while the answer is "not now".
func (c *Check) do(ctx context.Context, ask Ask) (Got, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	for {
		got, err := c.api.do(ctx, ask)
		r, refused := errors.AsType[*Refused](err)
		if err == nil || !later(err) || c.damaged && !(refused && r.Status == http.StatusServiceUnavailable) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Check) get(ctx context.Context, path string, out any) error {
	got, err := c.do(ctx, Ask{Method: "GET", Path: path})
	if err != nil {
		return err
	}
	return json.Unmarshal(got.Body, out)
}

// told reports whether an error says of itself that something is wrong there: a
// status of 500 or more, or an answer that was broken off.
func told(err error) bool {
	r, refused := errors.AsType[*Refused](err)
	return err != nil && (refused && r.Status >= 500 || errors.Is(err, io.ErrUnexpectedEOF))
}

// names looks for two jobs of one name, and for messages that were given up.
func (c *Check) names(ctx context.Context) {
	jobs, err := list[struct{ ID, Name string }](ctx, c, "/api/job")
	if err != nil {
		c.tally.illegal("the jobs cannot be listed: %v", err)
		return
	}
	seen := map[string]string{}
	for _, j := range jobs {
		if other := seen[j.Name]; other != "" {
			c.tally.duplicated("%s and %s are both job %s", other, j.ID, j.Name)
		}
		seen[j.Name] = j.ID
	}
	var parked page[json.RawMessage]
	if err := c.get(ctx, "/api/message", &parked); err != nil {
		c.tally.illegal("the messages that were given up cannot be listed: %v", err)
	}
	for _, m := range parked.Items {
		c.tally.illegal("a message was given up: %s", m)
	}
}

func (c *Check) job(ctx context.Context, e Entry) (bool, error) {
	var j struct{ ID, Name string }
	err := c.get(ctx, "/api/job/"+e.ID, &j)
	if err == nil && j.Name != e.Name {
		err = fmt.Errorf("it is called %s, and was %s", j.Name, e.Name)
	}
	return err == nil, err
}

func (c *Check) version(ctx context.Context, e Entry, want int) (bool, error) {
	all, err := list[struct{ ID string }](ctx, c, "/api/job/"+e.Job+"/code")
	if err != nil {
		return false, err
	}
	if len(all) > want {
		c.tally.duplicated("job %s has %d versions of %d uploads", e.Job, len(all), want)
	}
	return c.bytes(ctx, "/api/job/"+e.Job+"/code/"+e.ID+"/file/main.py", e.Digest)
}

// bytes compares what is there with what was sent.
func (c *Check) bytes(ctx context.Context, path, digest string) (bool, error) {
	got, err := c.do(ctx, Ask{Method: "GET", Path: path})
	if err == nil && sum(got.Body) != digest {
		err = fmt.Errorf("%d bytes with another digest came", len(got.Body))
	}
	return err == nil, err
}

func (c *Check) dataset(ctx context.Context, e Entry) (bool, error) {
	all, err := list[struct{ Version int }](ctx, c, "/api/dataset/"+e.Name)
	if err != nil {
		return false, err
	}
	if len(all) > 1 {
		c.tally.duplicated("dataset %s has %d versions for one key", e.Name, len(all))
	}
	var d struct{ Members []mlaas.File }
	if err := c.get(ctx, "/api/dataset/"+e.Name+"/"+e.ID, &d); err != nil {
		return false, err
	}
	if len(d.Members) != 1 || string(d.Members[0].Digest) != "sha256:"+e.Digest {
		return false, fmt.Errorf("it holds %v", d.Members)
	}
	return true, nil
}

func (c *Check) stop(ctx context.Context, e Entry) (bool, error) {
	var r run
	if err := c.get(ctx, "/api/run/"+e.ID, &r); err != nil {
		return false, err
	}
	if r.Status.State == "stopped" {
		return true, nil
	}
	replicas, err := c.replicas(ctx, e.ID)
	if err != nil {
		return false, err
	}
	// A program may have come to its end before anybody asked: the answer that it
	// is to stop says no more than that it does not go on.
	for _, r := range replicas {
		for _, h := range r.History {
			if h.Status == string(mlaas.ReplicaSucceeded) && h.Time.Before(e.Asked) {
				return true, nil
			}
		}
	}
	c.tally.illegal("run %s was to stop, asked for at %s, and %s: %s (%s)", e.ID, e.Asked.Format(storyTime), r.Status.State, r.Status.Reason, story(replicas))
	return true, nil
}

func (c *Check) register(ctx context.Context, e, last Entry) (bool, error) {
	got, err := c.do(ctx, Ask{Method: "GET", Path: "/api/job/" + e.ID})
	if err != nil {
		return false, err
	}
	now, err := readRegister(got)
	switch {
	case err != nil:
		return false, err
	case now.revision < e.Revision:
		return false, fmt.Errorf("it is at revision %d, and %d was acknowledged", now.revision, e.Revision)
	case now.revision == last.Revision && now.value != last.Value:
		return false, fmt.Errorf("revision %d is %d, and was acknowledged as %d", now.revision, now.value, last.Value)
	}
	return true, nil
}

func (c *Check) seen(ctx context.Context, e Entry) (bool, error) {
	n, digest, err := readPrefix(ctx, c, e.ID, e.Lines)
	switch {
	case err != nil:
		return false, err
	case n < e.Lines:
		return false, fmt.Errorf("there are %d lines, and %d were shown", n, e.Lines)
	case digest != e.Digest:
		return false, errors.New("other lines are there than were shown")
	}
	return true, nil
}

// run compares a run with what its program does. One that was stopped may lack
// its end.
func (c *Check) run(ctx context.Context, e Entry, stopped bool) (bool, error) {
	runs, err := list[run](ctx, c, "/api/job/"+e.Job+"/run")
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(runs, func(r run) bool { return r.ID == e.ID })
	if at < 0 {
		return false, errors.New("it is not among the runs of its job")
	}
	if len(runs) > 1 {
		c.tally.duplicated("job %s has %d runs for one key", e.Job, len(runs))
	}
	if s := runs[at].Status; !stopped && s.State != "succeeded" {
		c.tally.illegal("run %s %s: %s", e.ID, s.State, s.Reason)
	}
	var checkpoints page[struct{ Step, Epoch int }]
	if err := c.get(ctx, "/api/run/"+e.ID+"/checkpoint", &checkpoints); err != nil {
		return false, err
	}
	missing, err := c.lines(ctx, e, stopped, checkpoints.Items)
	if err != nil {
		return false, err
	}
	if !stopped {
		points, err := c.points(ctx, e)
		if err != nil {
			return false, err
		}
		missing = append(missing, points...)
	}
	dropped := false
	if len(missing) > 0 && c.full[e.Fault] {
		if dropped, err = c.dropped(ctx, e.ID); err != nil {
			return false, err
		}
	}
	for _, m := range missing {
		if dropped {
			c.tally.find(&c.tally.Told, "told: %s", m)
		} else {
			c.tally.lost("%s (%s)", m, c.story(ctx, e.ID))
		}
	}
	if stopped {
		return true, nil
	}
	if n := len(checkpoints.Items); n == 0 {
		c.tally.lost("the checkpoint of step %d of run %s", e.Lines/2, e.ID)
	} else if n > 1 {
		c.tally.duplicated("run %s made one checkpoint and has %d", e.ID, n)
	}
	return true, nil
}

type replica struct {
	Replica string
	History []struct {
		Time           time.Time
		Epoch          int
		Status, Reason string
	}
}

func (c *Check) replicas(ctx context.Context, run string) ([]replica, error) {
	var all page[replica]
	err := c.get(ctx, "/api/run/"+run+"/node", &all)
	return all.Items, err
}

// storyTime is to the millisecond, of a day.
const storyTime = "15:04:05.000"

// story is what became of the replicas of a run, for who must find out why
// something of it is not there.
func story(replicas []replica) string {
	var story []string
	for _, r := range replicas {
		for _, e := range r.History {
			story = append(story, fmt.Sprintf("%s %s attempt %d %s: %s", e.Time.Format(storyTime), r.Replica, e.Epoch, e.Status, e.Reason))
		}
	}
	return strings.Join(story, "; ")
}

func (c *Check) story(ctx context.Context, run string) string {
	replicas, err := c.replicas(ctx, run)
	if err != nil {
		return err.Error()
	}
	return story(replicas)
}

// dropped reports whether a run says that lines or points of it found no room
// and are not there: its program is never held up for them.
func (c *Check) dropped(ctx context.Context, run string) (said bool, err error) {
	err = lines(ctx, c, "/api/run/"+run+"/log?limit=10000", func(text []byte) error {
		var l logLine
		err := json.Unmarshal(text, &l)
		said = said || l.Stream == "platform" && strings.Contains(l.Line, "dropped")
		return err
	})
	var replicas page[struct{ Usage struct{ Dropped int } }]
	if err == nil && !said {
		err = c.get(ctx, "/api/run/"+run+"/node", &replicas)
	}
	for _, r := range replicas.Items {
		said = said || r.Usage.Dropped > 0
	}
	return said, err
}

// lines reads the whole log: in each attempt the lines follow each other from
// where it began, and the last attempt came to its end. It returns what is
// missing.
func (c *Check) lines(ctx context.Context, e Entry, stopped bool, checkpoints []struct{ Step, Epoch int }) (missing []string, err error) {
	lost := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	next, cursor, last := map[int]int{}, int64(0), 0
	err = lines(ctx, c, "/api/run/"+e.ID+"/log?limit=10000", func(text []byte) error {
		var l logLine
		if err := json.Unmarshal(text, &l); err != nil {
			return err
		}
		if l.passing() {
			return nil
		}
		if l.Cursor != cursor+1 {
			c.tally.illegal("run %s: cursor %d follows %d", e.ID, l.Cursor, cursor)
		}
		cursor = l.Cursor
		if l.Stream != "stdout" {
			return nil
		}
		word, number, _ := strings.Cut(l.Line, " ")
		i, err := strconv.Atoi(number)
		if err != nil {
			c.tally.illegal("run %s: nobody wrote %q", e.ID, l.Line)
			return nil
		}
		want, began := next[l.Attempt]
		switch {
		case word == "begin" && began:
			c.tally.duplicated("the program of run %s began again in attempt %d", e.ID, l.Attempt)
		case word == "begin":
			if l.Attempt < last {
				c.tally.illegal("run %s: attempt %d wrote after attempt %d", e.ID, l.Attempt, last)
			}
			if i != 0 && !slices.ContainsFunc(checkpoints, func(p struct{ Step, Epoch int }) bool { return p.Step == i-1 && p.Epoch < l.Attempt }) {
				c.tally.illegal("attempt %d of run %s goes on from step %d, of which there is no checkpoint", l.Attempt, e.ID, i-1)
			}
			next[l.Attempt], last = i, l.Attempt
		case !began:
			lost("the first line of attempt %d of run %s", l.Attempt, e.ID)
			next[l.Attempt], last = i+1, l.Attempt
		case i < want:
			c.tally.duplicated("line %d of attempt %d of run %s", i, l.Attempt, e.ID)
		case i > want:
			lost("lines %d to %d of attempt %d of run %s", want, i-1, l.Attempt, e.ID)
			next[l.Attempt] = i + 1
		default:
			next[l.Attempt]++
		}
		return nil
	})
	if err == nil && !stopped && next[last] != e.Lines {
		lost("the lines of run %s from %d on, of %d", e.ID, next[last], e.Lines)
	}
	return missing, err
}

// points reads the curve that the program logged: every step once. It returns
// what is missing.
func (c *Check) points(ctx context.Context, e Entry) (missing []string, err error) {
	var curves page[struct {
		Key    string
		Points [][]any
	}]
	err = c.get(ctx, "/api/run/"+e.ID+"/metric?key=i", &curves)
	if r, refused := errors.AsType[*Refused](err); refused && r.Status == http.StatusNotFound {
		return []string{"the curve of run " + e.ID}, nil
	}
	if err != nil {
		return nil, err
	}
	steps := map[int]int{}
	for _, curve := range curves.Items {
		for _, p := range curve.Points {
			step, _ := p[0].(float64)
			if steps[int(step)]++; len(p) != 3 || p[2] != p[0] {
				c.tally.illegal("run %s logged %v at step %v", e.ID, p[0], p)
			}
		}
	}
	var none, more []int
	for i := range e.Lines {
		switch n := steps[i]; {
		case n == 0:
			none = append(none, i)
		case n > 1:
			more = append(more, i)
		}
	}
	if len(none) > 0 {
		missing = append(missing, fmt.Sprintf("the points %v of run %s", none, e.ID))
	}
	if len(more) > 0 {
		c.tally.duplicated("the points %v of run %s", more, e.ID)
	}
	if len(steps) > e.Lines {
		c.tally.illegal("run %s has %d steps, and logged %d", e.ID, len(steps), e.Lines)
	}
	return missing, nil
}
