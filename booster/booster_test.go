package booster_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A house is a booster with a scripted cluster and everything it needs. The
// test is the contractor.
type house struct {
	*testing.T
	ctx   context.Context
	db    store.Driver
	blobs *files.Files
	lines *series.Store
	place *scripted.Executor
	front func(booster.Executor) booster.Executor // stands before the place; nil: nothing does
	boost *booster.Booster
	hooks *hooks

	mu    sync.Mutex
	heard []string // what the contractor was told
	end   func()   // of the booster
}

// hooks takes webhooks.
type hooks struct {
	mu   sync.Mutex
	fail int
	got  []booster.Notice
	when []time.Time
	raw  []*http.Request // as they came; their bodies are in text
	text []string
}

func (h *hooks) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.when = append(h.when, time.Now())
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	h.raw, h.text = append(h.raw, r), append(h.text, string(body))
	if h.fail > 0 {
		h.fail--
		return nil, errors.New("connection refused")
	}
	var n booster.Notice
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, err
	}
	h.got = append(h.got, n)
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

// bubble runs test in a house in a bubble.
func bubble(t *testing.T, play func(f mlaas.Fence) scripted.Script, test func(h *house)) {
	t.Helper()
	dir, blobs := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h, end := build(t, dir, blobs, play)
		defer end()
		test(h)
	})
}

// plain is a house outside of any bubble, where there are real connections.
func plain(t *testing.T, play func(f mlaas.Fence) scripted.Script) *house {
	t.Helper()
	h, end := build(t, t.TempDir(), t.TempDir(), play)
	t.Cleanup(end)
	return h
}

func build(t *testing.T, dir, blobs string, play func(f mlaas.Fence) scripted.Script) (h *house, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	db, err := sqlitestore.Open(ctx, ":memory:", sqlitestore.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	b, err := files.Open(blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &series.Store{Dir: dir, Blob: b, Log: log}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	h = &house{T: t, ctx: ctx, db: db, blobs: b, lines: s, hooks: &hooks{}}
	h.place = &scripted.Executor{Play: func(s booster.Spec) scripted.Script { return play(s.Fence) }}
	var all sync.WaitGroup
	all.Go(func() { h.place.Run(ctx) })
	contractor := &queue.Inbox{DB: db, Name: mlaas.ToContractor, Log: log}
	queue.On(contractor, func(_ context.Context, m mlaas.ReplicaChanged) (store.Batch, error) {
		return store.Batch{}, nil
	})
	queue.On(contractor, func(_ context.Context, m mlaas.RuleFired) (store.Batch, error) {
		h.tell("rule %s fired for %s in %d: %s", m.Rule, m.Replica, m.Epoch, m.Saw)
		return store.Batch{}, nil
	})
	all.Go(func() { contractor.Run(ctx) })
	h.open()
	return h, func() {
		h.end()
		cancel()
		all.Wait()
		if err := errors.Join(s.Close(), db.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	}
}

type writer struct{ *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (h *house) tell(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, fmt.Sprintf(format, args...))
}

func (h *house) told(prefix string) (all []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.heard {
		if strings.HasPrefix(s, prefix) {
			all = append(all, s)
		}
	}
	return all
}

// open starts a booster; it is a new process of the platform.
func (h *house) open() {
	var place booster.Executor = h.place
	if h.front != nil {
		place = h.front(place)
	}
	h.boost = &booster.Booster{
		DB: h.db, Blob: h.blobs, Series: h.lines, Key: make([]byte, 32), Webhooks: h.hooks,
		Cluster: "stage", Executor: place, DoorURL: "pipe",
		Secrets: func(_ context.Context, tenant mlaas.Tenant, use mlaas.SecretUse) (string, error) {
			if use.Secret == "missing" {
				return "", fmt.Errorf("there is no secret of this name: %w", mlaas.ErrNotFound)
			}
			if use.Secret == "hook" {
				return "whsec_" + base64.StdEncoding.EncodeToString([]byte("the key")), nil
			}
			return fmt.Sprintf("%s of %s, version %d", use.Secret, tenant, use.Version), nil
		},
		Log: slog.New(slog.NewTextHandler(writer{h.T}, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	ctx, cancel := context.WithCancel(h.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := h.boost.Run(ctx); !errors.Is(err, context.Canceled) {
			h.Errorf("Run: %v", err)
		}
	}()
	h.place.Connect(h.boost.Monitor())
	h.end = func() {
		h.place.Connect(nil)
		cancel()
		<-ended
	}
}

// run is the wish that the tests make.
func run(id mlaas.RunID, roles map[string]int) mlaas.Run {
	r := mlaas.Run{ID: id, Tenant: "team", Job: "job1", JobName: "mnist", Number: 7, Spec: mlaas.JobSpec{
		Name: "mnist", Roles: map[string]*mlaas.Role{}, Environment: mlaas.Environment{Framework: "python"},
	}}
	for role, n := range roles {
		r.Spec.Roles[role] = &mlaas.Role{Replicas: mlaas.Count{Min: n, Max: n}}
	}
	return r
}

func (h *house) commit(b store.Batch) {
	h.Helper()
	if err := h.db.Commit(h.ctx, b); err != nil {
		h.Fatal(err)
	}
}

// ask commits the run's next attempt, as contractor does.
func (h *house) ask(r mlaas.Run, epoch int) {
	h.Helper()
	var b store.Batch
	if _, _, err := store.Runs(h.db).Get(h.ctx, r.Tenant, string(r.ID)); err != nil {
		b.Put = append(b.Put, store.Runs(h.db).Put(r, 0))
	}
	granted := map[string]int{}
	for role, x := range r.Spec.Roles {
		granted[role] = x.Replicas.Max
	}
	_, rev, _ := store.RunStates(h.db).Get(h.ctx, r.Tenant, string(r.ID))
	b.Put = append(b.Put, store.RunStates(h.db).Put(mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Job: r.Job, State: mlaas.Starting,
		Epoch: epoch, Allocation: mlaas.Allocation{Cluster: "stage", Granted: granted}}, rev))
	b.Tell = append(b.Tell, queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Cluster: "stage"}))
	h.commit(b)
}

// launch commits what the replicas are told to do, as contractor does.
func (h *house) launch(r mlaas.Run, epoch int) {
	h.Helper()
	l := mlaas.Launch{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Environment: r.Spec.Environment, Replicas: map[string]*mlaas.Program{}}
	for role, x := range r.Spec.Roles {
		for i := range x.Replicas.Max {
			l.Replicas[mlaas.ReplicaName(role, i)] = &mlaas.Program{Command: []string{"python", "main.py"}, Variables: map[string]string{"RANK": fmt.Sprint(i)}}
		}
	}
	h.commit(store.Batch{Put: []store.Row{store.Launches(h.db).Put(l, 0)},
		Tell: []store.Message{queue.Tell(mlaas.CodeReady{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Cluster: "stage"})}})
}

// move writes the state of a run, as contractor does.
func (h *house) move(r mlaas.Run, edit func(*mlaas.RunState), tell ...store.Message) {
	h.Helper()
	s, rev, err := store.RunStates(h.db).Get(h.ctx, r.Tenant, string(r.ID))
	if err != nil {
		h.Fatal(err)
	}
	edit(&s)
	h.commit(store.Batch{Put: []store.Row{store.RunStates(h.db).Put(s, rev)}, Tell: tell})
}

func (h *house) unwanted(r mlaas.Run, epoch int, grace time.Duration) {
	h.Helper()
	h.move(r, func(s *mlaas.RunState) { s.State = mlaas.Stopping }, queue.Tell(mlaas.ReplicasUnwanted{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Cluster: "stage", Grace: mlaas.Seconds(grace.Seconds()), Reason: "every worker ended"}))
}

func (h *house) replica(r mlaas.Run, name string) (mlaas.Replica, int64) {
	h.Helper()
	rep, rev, err := store.Replicas(h.db).Get(h.ctx, r.Tenant, store.ReplicaKey(r.ID, name))
	if err != nil {
		h.Fatal(err)
	}
	return rep, rev
}

// until waits, on the bubble's clock, for the record of a replica.
func (h *house) until(r mlaas.Run, name string, limit time.Duration, what string, ok func(mlaas.Replica) bool) mlaas.Replica {
	h.Helper()
	var rep mlaas.Replica
	for end := time.Now().Add(limit); ; time.Sleep(max(limit/1000, 10*time.Millisecond)) {
		var err error
		if rep, _, err = store.Replicas(h.db).Get(h.ctx, r.Tenant, store.ReplicaKey(r.ID, name)); err == nil && ok(rep) {
			return rep
		}
		if time.Now().After(end) {
			h.Fatalf("%s is %s (%s) after %s, want %s", name, rep.Status, rep.Reason, limit, what)
		}
	}
}

func (h *house) status(r mlaas.Run, name string, limit time.Duration, s mlaas.ReplicaStatus) mlaas.Replica {
	h.Helper()
	return h.until(r, name, limit, string(s), func(rep mlaas.Replica) bool { return rep.Status == s })
}

func fence(r mlaas.Run, epoch int, name string) mlaas.Fence {
	return mlaas.Fence{Tenant: r.Tenant, Run: r.ID, Epoch: epoch, Replica: name, Incarnation: 1}
}

// texts are the stored lines of a replica.
func (h *house) texts(r mlaas.Run, name string) (all []string) {
	h.Helper()
	lines, err := h.lines.Lines(h.ctx, series.LineQuery{Tenant: r.Tenant, Run: r.ID, Replica: name, Limit: 10000})
	if err != nil {
		h.Fatal(err)
	}
	for _, l := range lines {
		all = append(all, fmt.Sprintf("%d %s", l.Attempt, l.Text))
	}
	return all
}

func (h *house) steps(r mlaas.Run, name string, attempt int, from, to int64) {
	h.Helper()
	var want []string
	for i := from; i <= to; i++ {
		want = append(want, fmt.Sprintf("%d step %d", attempt, i))
	}
	if got := h.texts(r, name); !slices.Equal(got, want) {
		h.Errorf("%s has %d lines, want %d, dense: %.300q", name, len(got), len(want), got)
	}
}

func (h *house) nothingLeft() {
	h.Helper()
	time.Sleep(time.Second)
	if left := h.place.Running(); len(left) > 0 {
		h.Errorf("still running: %v", left)
	}
}

// A three-hour training of two workers and a parameter server.
func TestLife(t *testing.T) {
	began := time.Now()
	bubble(t, func(f mlaas.Fence) scripted.Script {
		if strings.HasPrefix(f.Replica, "ps") {
			return scripted.Script{}
		}
		return scripted.Script{Slow: 3 * time.Second, Prepare: 20 * time.Second, Steps: 90, Every: 2 * time.Minute}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 2, "ps": 1})
		r.Spec.Environment.Secrets = []mlaas.SecretUse{{Secret: "hf", Variable: "HF_TOKEN", Version: 2}}
		h.ask(r, 1)
		for _, name := range []string{"worker-0", "worker-1", "ps-0"} {
			rep := h.status(r, name, 5*time.Second, mlaas.ReplicaReady)
			if rep.Address == "" || len(rep.Ports) != 2 || rep.Ready == nil || rep.Node != "stage" {
				t.Errorf("%s is ready without an address: %+v", name, rep)
			}
		}
		h.launch(r, 1)
		rep := h.until(r, "worker-0", 5*time.Second, "an environment being made", func(r mlaas.Replica) bool { return r.Reason == "making its environment" })
		if rep.Status != mlaas.ReplicaReady || rep.Program {
			t.Errorf("while its environment is made it is %s", rep.Status)
		}
		for _, name := range []string{"worker-0", "worker-1", "ps-0"} {
			if rep := h.status(r, name, time.Minute, mlaas.ReplicaRunning); !rep.Program || rep.Started == nil {
				t.Errorf("%s runs without a program: %+v", name, rep)
			}
		}
		for _, name := range []string{"worker-0", "worker-1"} {
			rep := h.status(r, name, 4*time.Hour, mlaas.ReplicaSucceeded)
			if rep.ExitCode == nil || *rep.ExitCode != 0 || rep.Step != 90 || rep.Metrics["loss"] != mlaas.Number(1/90.0) {
				t.Errorf("%s ended as %+v", name, rep)
			}
			h.steps(r, name, 1, 1, 90)
			var lived []string
			for _, e := range rep.History {
				lived = append(lived, string(e.Status))
			}
			if got := strings.Join(lived, " "); got != "creating pending ready running succeeded" {
				t.Errorf("the history of %s is %s", name, got)
			}
		}
		told := h.place.Told(fence(r, 1, "worker-1"))
		if len(told) == 0 || told[0].Start == nil || told[0].Start.Secrets["HF_TOKEN"] != "hf of team, version 2" || told[0].Start.Program.Variables["RANK"] != "1" {
			t.Errorf("worker-1 was told %+v", told)
		}
		if strings.Contains(fmt.Sprint(rep), "version 2") {
			t.Error("a secret is in a record")
		}
		h.unwanted(r, 1, 10*time.Second)
		if rep := h.status(r, "ps-0", 20*time.Second, mlaas.ReplicaStopped); rep.Reason != "every worker ended" {
			t.Errorf("the ps is stopped because %q", rep.Reason)
		}
		h.nothingLeft()
	})
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("three hours took %s", d)
	}
}

// Messages come twice, late, and of the past.
func TestTwice(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Steps: 100} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 2})
		h.ask(r, 1)
		again := func(m ...store.Message) {
			h.commit(store.Batch{Tell: append(m, m...)})
			time.Sleep(time.Second)
		}
		again(queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: r.ID, Epoch: 1, Cluster: "stage"}))
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		again(queue.Tell(mlaas.CodeReady{Tenant: r.Tenant, Run: r.ID, Epoch: 1, Cluster: "stage"}))
		h.status(r, "worker-0", time.Second, mlaas.ReplicaRunning)
		again(queue.Tell(mlaas.CodeReady{Tenant: r.Tenant, Run: r.ID, Epoch: 1, Cluster: "stage"}), queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: r.ID, Epoch: 1, Cluster: "stage"}))
		again(queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: r.ID, Epoch: 0, Cluster: "stage"}), queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: "gone", Epoch: 1, Cluster: "stage"}),
			queue.Tell(mlaas.ReplicasUnwanted{Tenant: r.Tenant, Run: r.ID, Epoch: 0, Cluster: "stage", Grace: 1}), queue.Tell(mlaas.CodeReady{Tenant: r.Tenant, Run: "gone", Epoch: 1, Cluster: "stage"}))
		for _, name := range []string{"worker-0", "worker-1"} {
			f := fence(r, 1, name)
			if n := h.place.Starts(f); n != 1 {
				t.Errorf("%s was started %d times", name, n)
			}
			starts := 0
			for _, d := range h.place.Told(f) {
				if d.Start != nil {
					starts++
				}
			}
			if starts != 1 {
				t.Errorf("%s was told to start %d times in one conversation", name, starts)
			}
			h.status(r, name, 3*time.Minute, mlaas.ReplicaSucceeded)
		}
		h.unwanted(r, 1, time.Second)
		again(queue.Tell(mlaas.ReplicasWanted{Tenant: r.Tenant, Run: r.ID, Epoch: 1, Cluster: "stage"}))
		if rep, _ := h.replica(r, "worker-0"); rep.Status != mlaas.ReplicaSucceeded {
			t.Errorf("late messages made it %s", rep.Status)
		}
		h.nothingLeft()
	})
}

// What was never wanted any more is not started.
func TestUnwantedFirst(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		h.end()
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.unwanted(r, 1, 10*time.Second)
		h.open()
		time.Sleep(time.Minute)
		if n := h.place.Starts(fence(r, 1, "worker-0")); n != 0 {
			t.Error("it was started although the run was stopping")
		}
	})
}

// The ends that a replica can come to, and what is said of them.
func TestEnds(t *testing.T) {
	tests := []struct {
		name    string
		part    scripted.Script
		edit    func(*mlaas.Run)
		status  mlaas.ReplicaStatus
		reason  string
		exit    int // -1: none
		program bool
	}{
		{"succeeds", scripted.Script{Steps: 3}, nil, mlaas.ReplicaSucceeded, "the program ended with exit code 0", 0, true},
		{"fails", scripted.Script{FailAt: 3, Exit: 4}, nil, mlaas.ReplicaFailed, "the program ended with exit code 4", 4, true},
		{"out of memory", scripted.Script{FailAt: 2, OOM: true}, nil, mlaas.ReplicaFailed, "the program used more memory than its ceiling", 137, true},
		{"is lost", scripted.Script{LostAt: time.Minute}, nil, mlaas.ReplicaLost, "it is gone without a word", -1, true},
		{"cannot be started", scripted.Script{Broken: "there is no such image"}, nil, mlaas.ReplicaFailed, "there is no such image", -1, false},
		{"cannot start its program", scripted.Script{Refuse: "package nosuch does not exist"}, nil, mlaas.ReplicaFailed, "package nosuch does not exist", -1, false},
		{"has no such secret", scripted.Script{}, func(r *mlaas.Run) {
			r.Spec.Environment.Secrets = []mlaas.SecretUse{{Secret: "missing", Variable: "X"}}
		}, mlaas.ReplicaFailed, "it could not be told to start: secret missing: there is no secret of this name", -1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(mlaas.Fence) scripted.Script { return tt.part }, func(h *house) {
				r := run("run1", map[string]int{"worker": 1})
				if tt.edit != nil {
					tt.edit(&r)
				}
				h.ask(r, 1)
				rep := h.until(r, "worker-0", time.Minute, "ready or over", func(r mlaas.Replica) bool {
					return r.Status == mlaas.ReplicaReady || r.Status.Final()
				})
				if !rep.Status.Final() {
					h.launch(r, 1)
				}
				rep = h.until(r, "worker-0", time.Hour, "over", func(r mlaas.Replica) bool { return r.Status.Final() })
				exit := -1
				if rep.ExitCode != nil {
					exit = *rep.ExitCode
				}
				if rep.Status != tt.status || rep.Reason != tt.reason || exit != tt.exit || rep.Program != tt.program || rep.OOM != tt.part.OOM || rep.Ended == nil {
					t.Errorf("it is %s (%s), exit %d, program %t, oom %t; want %s (%s), exit %d", rep.Status, rep.Reason, exit, rep.Program, rep.OOM, tt.status, tt.reason, tt.exit)
				}
				time.Sleep(time.Minute) // the reconciler clears away what was lost
				h.nothingLeft()
			})
		})
	}
}

// What cannot be, however often it is tried, fails; what another attempt may
// mend is lost, and is not the user's fault; and a cluster that does not answer
// is asked again.
func TestNotStarted(t *testing.T) {
	tests := []struct {
		err    error
		status mlaas.ReplicaStatus
		reason string
	}{
		{errors.New("the link is down"), mlaas.ReplicaLost, "it could not be started on stage: the link is down"},
		{fmt.Errorf("no answer: %w", mlaas.ErrUnavailable), mlaas.ReplicaCreating, "stage cannot be asked for it: no answer"},
		{fmt.Errorf("no room: %w", mlaas.ErrDisk), mlaas.ReplicaLost, "it could not be started on stage: no room"},
		{mlaas.Invalid("environment.image", "no image", "x"), mlaas.ReplicaFailed, `it could not be started on stage: environment.image is "x", want no image`},
		{fmt.Errorf("image x: %w", mlaas.ErrNotFound), mlaas.ReplicaFailed, "it could not be started on stage: image x"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
				r := run("run1", map[string]int{"worker": 1})
				h.ask(r, 1)
				h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
				r2 := run("run2", map[string]int{"worker": 1})
				h.place.Fail(tt.err)
				h.ask(r2, 1)
				if rep := h.status(r2, "worker-0", time.Minute, tt.status); rep.Reason != tt.reason || rep.Program {
					t.Errorf("says %q, program %t", rep.Reason, rep.Program)
				}
			})
		})
	}
}

// An attempt of the past is refused, however long it goes on talking.
func TestZombie(t *testing.T) {
	bubble(t, func(f mlaas.Fence) scripted.Script {
		return scripted.Script{Steps: 100000, Zombie: f.Epoch == 1, Save: 10}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		h.until(r, "worker-0", time.Minute, "step 20", func(r mlaas.Replica) bool { return r.Step >= 20 })
		h.ask(r, 2)
		h.until(r, "worker-0", time.Minute, "attempt 2", func(r mlaas.Replica) bool { return r.Epoch == 2 && r.Status == mlaas.ReplicaReady })
		h.launch(r, 2)
		placed := len(h.texts(r, "worker-0"))
		h.until(r, "worker-0", time.Hour, "step 100 again", func(r mlaas.Replica) bool { return r.Step >= 100 })
		if !slices.Contains(h.place.Running(), fence(r, 1, "worker-0").String()) {
			t.Fatal("the zombie is gone; this test shows nothing")
		}
		for _, l := range h.texts(r, "worker-0")[placed:] {
			if !strings.HasPrefix(l, "2 ") {
				t.Errorf("a line of attempt 1 was taken: %q", l)
			}
		}
		refused := h.place.Refused(fence(r, 1, "worker-0"))
		if len(refused) == 0 || refused[len(refused)-1].Error() != "attempt 1 of run run1 is over: attempt 2 has begun: stale" {
			t.Errorf("the zombie was refused: %q", refused)
		}
		made, err := store.Checkpoints(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range made {
			if c.Value.Epoch == 1 && c.Value.Step > 30 {
				t.Errorf("a checkpoint of attempt 1 was taken: step %d", c.Value.Step)
			}
		}
	})
}

// The platform goes away and comes back: replicas go on, nothing is said
// twice, and what happened meanwhile is found out.
func TestReopen(t *testing.T) {
	bubble(t, func(f mlaas.Fence) scripted.Script {
		if f.Replica == "worker-1" {
			return scripted.Script{Steps: 600, LostAt: 100 * time.Second}
		}
		return scripted.Script{Steps: 600, Save: 100}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 3})
		h.ask(r, 1)
		for i := range 3 {
			h.status(r, mlaas.ReplicaName("worker", i), time.Second, mlaas.ReplicaReady)
		}
		h.end()
		h.launch(r, 1) // nobody is told, but the record is there
		h.open()
		h.until(r, "worker-0", time.Minute, "step 50", func(r mlaas.Replica) bool { return r.Step >= 50 })
		for range 3 {
			h.end()
			time.Sleep(30 * time.Second)
			h.open()
			time.Sleep(10 * time.Second)
		}
		if rep := h.status(r, "worker-1", time.Minute, mlaas.ReplicaLost); rep.Reason != "it is gone without a word" {
			t.Errorf("what was lost meanwhile says %q", rep.Reason)
		}
		h.status(r, "worker-0", time.Hour, mlaas.ReplicaSucceeded)
		h.steps(r, "worker-0", 1, 1, 600)
		if n := h.place.Starts(fence(r, 1, "worker-0")); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		h.status(r, "worker-2", time.Hour, mlaas.ReplicaSucceeded)
		made, err := store.Checkpoints(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"})
		if err != nil || len(made) < 6 {
			t.Errorf("%d checkpoints, %v", len(made), err)
		}
		time.Sleep(time.Minute)
		h.nothingLeft()
	})
}

// Killed between the record and the start: it is started later, and once.
func TestStartInterrupted(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		h.end()
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.commit(store.Batch{Put: []store.Row{store.Replicas(h.db).Put(mlaas.Replica{Fence: fence(r, 1, "worker-0"), Job: r.Job, Role: "worker",
			Cluster: "stage", Status: mlaas.ReplicaCreating, Asked: time.Now()}, 0)}})
		claim, err := h.db.Next(h.ctx, mlaas.ToBooster("stage"), time.Hour) // the message is lost for an hour
		if err != nil {
			t.Fatal(err)
		}
		h.open()
		h.status(r, "worker-0", 40*time.Second, mlaas.ReplicaReady)
		h.commit(store.Batch{Retry: &claim})
		time.Sleep(time.Minute)
		if n := h.place.Starts(fence(r, 1, "worker-0")); n != 1 {
			t.Errorf("it was started %d times", n)
		}
	})
}

// A replica that does not listen is ended when its grace is over, also by
// another booster than the one that asked.
func TestStop(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		t.Run(fmt.Sprintf("reopen=%t", reopen), func(t *testing.T) {
			bubble(t, func(f mlaas.Fence) scripted.Script {
				return scripted.Script{Deaf: f.Replica == "worker-0", Leave: 5 * time.Second, Steps: 1e6}
			}, func(h *house) {
				r := run("run1", map[string]int{"worker": 2})
				h.ask(r, 1)
				h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
				h.status(r, "worker-1", time.Second, mlaas.ReplicaReady)
				h.launch(r, 1)
				h.status(r, "worker-0", time.Second, mlaas.ReplicaRunning)
				h.status(r, "worker-1", time.Second, mlaas.ReplicaRunning)
				asked := time.Now()
				h.unwanted(r, 1, 30*time.Second)
				h.status(r, "worker-0", time.Second, mlaas.ReplicaStopping)
				if reopen {
					h.end()
					time.Sleep(time.Minute)
					h.open()
				} else if rep := h.status(r, "worker-1", 8*time.Second, mlaas.ReplicaStopped); rep.ExitCode == nil {
					t.Error("the one that listens left without an exit code")
				}
				h.status(r, "worker-0", 70*time.Second, mlaas.ReplicaStopped)
				if d := time.Since(asked); !reopen && d < 30*time.Second {
					t.Errorf("its grace was %s, want 30s", d)
				}
				h.status(r, "worker-1", 10*time.Second, mlaas.ReplicaStopped)
				h.nothingLeft()
			})
		})
	}
}

// Nobody to talk to: there is no reason to wait.
func TestStopAtOnce(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Never: true} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", 2*gathered, mlaas.ReplicaPending)
		h.unwanted(r, 1, time.Hour)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaStopped)
		h.nothingLeft()
	})
}

// The wish to stop was lost; the run's state says it.
func TestStopForgotten(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Steps: 1e6} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaRunning)
		h.move(r, func(s *mlaas.RunState) { s.State = mlaas.Stopping })
		h.status(r, "worker-0", time.Minute, mlaas.ReplicaStopped)
		h.nothingLeft()
	})
}

// What no record knows is ended.
func TestStrays(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 2)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		for _, f := range []mlaas.Fence{fence(r, 1, "worker-0"), fence(r, 1, "worker-5"), fence(run("gone", nil), 1, "worker-0")} {
			if err := h.place.Start(h.ctx, booster.Spec{Fence: f}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if got := h.place.Running(); !slices.Equal(got, []string{"run1-2-worker-0-1"}) {
			t.Errorf("running: %v", got)
		}
	})
}

// Numbers that change all the time cost a write every two seconds, and nothing
// costs none.
func TestQuiet(t *testing.T) {
	bubble(t, func(f mlaas.Fence) scripted.Script {
		return scripted.Script{Steps: 1e6, Every: 250 * time.Millisecond, Quiet: f.Replica == "worker-1"}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 2})
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.status(r, "worker-1", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaRunning)
		h.status(r, "worker-1", time.Second, mlaas.ReplicaRunning)
		time.Sleep(30 * time.Second)
		_, busy := h.replica(r, "worker-0")
		_, idle := h.replica(r, "worker-1")
		time.Sleep(10 * time.Minute)
		rep, rev := h.replica(r, "worker-0")
		if n := rev - busy; n < 250 || n > 301 {
			t.Errorf("2,400 steps in ten minutes made %d writes, want one every 2 s", n)
		}
		if rep.Step < 2400 {
			t.Errorf("its step is %d", rep.Step)
		}
		rep, rev = h.replica(r, "worker-1")
		if n := rev - idle; n < 15 || n > 21 {
			t.Errorf("a replica that only lives made %d writes in ten minutes, want one every 30 s", n)
		}
		if d := time.Since(rep.Heard); d > 40*time.Second {
			t.Errorf("it was heard %s ago", d)
		}
		if rep.Usage.Memory != 64<<20 {
			t.Errorf("its usage is %+v", rep.Usage)
		}
	})
}

func TestClusters(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		var written int64 // how often: whoever places runs watches it
		get := func() mlaas.Cluster {
			c, rev, err := store.Clusters(h.db).Get(h.ctx, "", "stage")
			if err != nil {
				t.Fatal(err)
			}
			written = rev
			return c
		}
		time.Sleep(time.Second)
		if c := get(); !c.Up || c.Capacity.CPU != 64000 || c.Node != "stage" || c.Kind != "scripted" || c.Limits == nil {
			t.Errorf("the cluster is %+v", c)
		}
		time.Sleep(5 * time.Minute)
		if get(); written != 1 {
			t.Errorf("written %d times although nothing changed", written)
		}
		h.place.Resize(mlaas.Resources{CPU: 1000, Memory: 1 << 30})
		time.Sleep(31 * time.Second)
		if c := get(); c.Capacity.CPU != 1000 || written != 2 {
			t.Errorf("after it shrank: %+v, written %d times", c, written)
		}
		r := run("run1", map[string]int{"worker": 1})
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.place.Fail(errors.New("the link is down"))
		time.Sleep(time.Minute)
		if c := get(); c.Up || c.Reason != "the link is down" || c.Capacity.CPU != 1000 || written != 3 {
			t.Errorf("while it is away: %+v, written %d times", c, written)
		}
		if rep, _ := h.replica(r, "worker-0"); rep.Status != mlaas.ReplicaReady {
			t.Errorf("its replica, which talks to us, is %s", rep.Status)
		}
		h.place.Fail(nil)
		time.Sleep(time.Minute)
		if c := get(); !c.Up || written != 4 {
			t.Errorf("when it is back: %+v, written %d times", c, written)
		}
	})
}

func TestRules(t *testing.T) {
	seven := 7
	rules := []mlaas.ActionRule{
		{Name: "again", On: mlaas.RuleOn{ExitCode: &seven}, Do: "restart"},
		{Name: "other", On: mlaas.RuleOn{Status: mlaas.ReplicaFailed, Role: "ps"}, Do: "stop"},
		{Name: "nan", On: mlaas.RuleOn{Log: `loss[= ]nan`, Role: "worker"}, Do: "stop"},
		{Name: "cuda", On: mlaas.RuleOn{Log: `CUDA`, Status: mlaas.ReplicaFailed}, Do: "restart"},
		{Name: "first", On: mlaas.RuleOn{Status: mlaas.ReplicaRunning}, Do: "notify", URL: "http://hook.example/x", Once: true},
		{Name: "bad", On: mlaas.RuleOn{Log: `(`}, Do: "stop"},
	}
	bubble(t, func(f mlaas.Fence) scripted.Script {
		return scripted.Script{FailAt: 150, Exit: 7, Lines: func(step int64) []string {
			switch {
			case f.Replica == "worker-0" && step > 20:
				return []string{"loss=nan", "loss=nan"}
			case f.Replica == "worker-1" && step == 9:
				return []string{"CUDA out of memory"}
			}
			return nil
		}}
	}, func(h *house) {
		h.hooks.fail = 2
		r := run("run1", map[string]int{"worker": 2})
		r.Spec.Rules = rules
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.status(r, "worker-1", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		h.status(r, "worker-0", time.Hour, mlaas.ReplicaFailed)
		h.status(r, "worker-1", time.Hour, mlaas.ReplicaFailed)
		time.Sleep(time.Minute)
		got := h.told("rule")
		slices.Sort(got)
		want := []string{
			"rule again fired for worker-0 in 1: worker-0 is failed with exit code 7",
			"rule again fired for worker-1 in 1: worker-1 is failed with exit code 7",
			"rule cuda fired for worker-1 in 1: worker-1 is failed with exit code 7; it wrote: CUDA out of memory",
			"rule nan fired for worker-0 in 1: worker-0 wrote: loss=nan",
			"rule nan fired for worker-0 in 1: worker-0 wrote: loss=nan",
			"rule nan fired for worker-0 in 1: worker-0 wrote: loss=nan",
		}
		if !slices.Equal(got, want) { // 130 s of NaN: at most once a minute
			t.Errorf("fired:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		h.hooks.mu.Lock()
		defer h.hooks.mu.Unlock()
		if len(h.hooks.got) != 1 || len(h.hooks.when) != 3 {
			t.Fatalf("webhooks: %+v at %v, want one, at the third try", h.hooks.got, h.hooks.when)
		}
		n := h.hooks.got[0]
		if n.Rule != "first" || n.Name != "mnist/7" || n.Run != r.ID || n.Job != r.Job || n.Epoch != 1 || !strings.HasSuffix(n.Saw, " is running") || n.Time.IsZero() {
			t.Errorf("the webhook says %+v", n)
		}
		if d := h.hooks.when[2].Sub(h.hooks.when[0]); d != 6*time.Second {
			t.Errorf("three tries took %s, want 6s", d)
		}
		rep, _ := h.replica(r, "worker-0")
		if !slices.ContainsFunc(rep.History, func(e mlaas.Event) bool {
			return e.Reason == "rule again fired: worker-0 is failed with exit code 7"
		}) {
			t.Errorf("its history does not say that a rule fired: %+v", rep.History)
		}
	})
}

// A webhook that nobody takes is given up, and that is visible.
func TestWebhookGivenUp(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Steps: 1e6, Every: time.Minute} }, func(h *house) {
		h.hooks.fail = 1000
		r := run("run1", map[string]int{"worker": 1})
		r.Spec.Rules = []mlaas.ActionRule{{Name: "hello", On: mlaas.RuleOn{Status: mlaas.ReplicaRunning}, Do: "notify", URL: "http://hook.example/x"}}
		h.ask(r, 1)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.launch(r, 1)
		h.until(r, "worker-0", time.Hour, "a word about the webhook", func(r mlaas.Replica) bool {
			return slices.ContainsFunc(r.History, func(e mlaas.Event) bool {
				return strings.Contains(e.Reason, "the webhook of rule hello was not taken after 6 tries: ") && strings.HasSuffix(e.Reason, "connection refused")
			})
		})
		time.Sleep(time.Hour)
		h.hooks.mu.Lock()
		defer h.hooks.mu.Unlock()
		if n := len(h.hooks.when); n != 6 {
			t.Errorf("tried %d times, want 6", n)
		}
	})
}

// talk is a supervisor in the test's own hands.
func (h *house) talk(f mlaas.Fence) (line mlaas.Line[mlaas.Up, mlaas.Down], ended chan error) {
	mine, theirs := booster.Pipe()
	ended = make(chan error, 1)
	go func() { ended <- h.boost.Monitor().Serve(h.ctx, f, theirs) }()
	return mine, ended
}

func (h *house) hello(f mlaas.Fence, s mlaas.ReplicaStatus) mlaas.Line[mlaas.Up, mlaas.Down] {
	h.Helper()
	line, _ := h.talk(f)
	err := line.Send(h.ctx, mlaas.Up{Hello: &mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "here", Ports: []int{1, 2}, Phase: mlaas.Phase{Status: s}}})
	if err != nil {
		h.Fatal(err)
	}
	if d, err := line.Receive(h.ctx); err != nil || d.Welcome == nil {
		h.Fatalf("no welcome: %+v, %v", d, err)
	}
	return line
}

// silent is a replica whose supervisor is the test.
func (h *house) silent(r mlaas.Run, epoch int) mlaas.Fence {
	h.Helper()
	h.ask(r, epoch)
	h.status(r, "worker-0", 2*gathered, mlaas.ReplicaPending)
	return fence(r, epoch, "worker-0")
}

func mute(mlaas.Fence) scripted.Script { return scripted.Script{Silent: true} }

func TestRefused(t *testing.T) {
	hello := func(edit func(*mlaas.Hello)) func(mlaas.Fence) mlaas.Up {
		return func(f mlaas.Fence) mlaas.Up {
			up := mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "here", Ports: []int{1, 2}, Phase: mlaas.Phase{Status: mlaas.ReplicaReady}}
			edit(&up)
			return mlaas.Up{Hello: &up}
		}
	}
	same := func(f mlaas.Fence) mlaas.Fence { return f }
	tests := []struct {
		name  string
		as    func(mlaas.Fence) mlaas.Fence
		first func(mlaas.Fence) mlaas.Up
		want  string
	}{
		{"no hello", same, func(mlaas.Fence) mlaas.Up { return mlaas.Up{Beat: &mlaas.Beat{}} }, "the first word must be hello: invalid"},
		{"a later version", same, hello(func(h *mlaas.Hello) { h.Version = 9 }), "the door speaks version 1 and the one before, not 9: invalid"},
		{"another's fence", same, hello(func(h *mlaas.Hello) { h.Fence.Replica = "worker-1" }), "the token is for run1-2-worker-0-1, not for run1-2-worker-1-1: forbidden"},
		{"an older epoch", func(f mlaas.Fence) mlaas.Fence { f.Epoch = 1; return f }, hello(func(*mlaas.Hello) {}), "attempt 1 of run run1 is over: attempt 2 has begun: stale"},
		{"an older incarnation", func(f mlaas.Fence) mlaas.Fence { f.Incarnation = 0; return f }, hello(func(*mlaas.Hello) {}), "run1-2-worker-0-0 was replaced by run1-2-worker-0-1: stale"},
		{"no such run", func(f mlaas.Fence) mlaas.Fence { f.Run = "gone"; return f }, hello(func(*mlaas.Hello) {}), "runstate gone of team: not_found"},
		{"an impossible port", same, hello(func(h *mlaas.Hello) { h.Ports = []int{0} }), "hello.ports is 0, want 1 to 65535"},
		{"nothing", same, nil, "context deadline exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, mute, func(h *house) {
				f := tt.as(h.silent(run("run1", map[string]int{"worker": 1}), 2))
				line, ended := h.talk(f)
				if tt.first != nil {
					if err := line.Send(h.ctx, tt.first(f)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := line.Receive(h.ctx); err == nil || err.Error() != tt.want {
					t.Errorf("the supervisor hears %v, want %s", err, tt.want)
				}
				if err := <-ended; err == nil || err.Error() != tt.want {
					t.Errorf("Serve returns %v", err)
				}
			})
		})
	}
}

// Frames are acknowledged when they are durable, and kept once.
func TestFrames(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaReady)
		send := func(first int64, texts ...string) {
			frame := &mlaas.Frame{Stream: mlaas.LogStream, First: first}
			for _, s := range texts {
				frame.Lines = append(frame.Lines, mlaas.LogLine{Stream: "stdout", Text: s})
			}
			if err := line.Send(h.ctx, mlaas.Up{Frame: frame}); err != nil {
				t.Fatal(err)
			}
		}
		acked := func(want int64) {
			t.Helper()
			for {
				d, err := line.Receive(h.ctx)
				if err != nil {
					t.Fatalf("waiting for %d: %v", want, err)
				}
				if d.Ack != nil && d.Ack.Stream == mlaas.LogStream && d.Ack.Seq >= want {
					return
				}
			}
		}
		send(1, "a", "b")
		send(3, "c")
		send(4, "bin\xff\x00ary", strings.Repeat("x", mlaas.MaxLine+10))
		acked(5)
		line.Close()
		time.Sleep(time.Second)

		line, _ = h.talk(f)
		line.Send(h.ctx, mlaas.Up{Hello: &mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "here", Ports: []int{1, 2}}})
		if d, err := line.Receive(h.ctx); err != nil || d.Welcome == nil || d.Welcome.Log != 5 {
			t.Fatalf("welcome is %+v, %v; want log 5", d.Welcome, err)
		}
		send(3, "c", "again", "again")
		send(6, "d")
		acked(6)
		got := h.texts(r, "worker-0")
		if len(got) != 6 || got[0] != "1 a" || got[2] != "1 c" || got[5] != "1 d" {
			t.Errorf("kept %.200q", got)
		}
		if len(got) > 4 && (got[3] != "1 bin\uFFFD\uFFFDary" || len(got[4]) != mlaas.MaxLine+2) {
			t.Errorf("kept %.60q and one of %d", got[3], len(got[4]))
		}
		line.Send(h.ctx, mlaas.Up{Frame: &mlaas.Frame{Stream: "nonsense", First: 1}})
		for {
			if _, err := line.Receive(h.ctx); err != nil {
				if !strings.Contains(err.Error(), `a frame of stream "nonsense"`) {
					t.Errorf("hears %v", err)
				}
				break
			}
		}
	})
}

// Checkpoints are recorded when they are whole.
func TestCheckpoints(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaReady)
		put := func(text string) mlaas.Digest {
			d, _, err := h.boost.Monitor().Put(h.ctx, strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		tree := func(files ...mlaas.File) mlaas.Digest {
			data, err := json.Marshal(mlaas.Tree{Files: files})
			if err != nil {
				t.Fatal(err)
			}
			return put(string(data))
		}
		made := func(step int64, d mlaas.Digest) {
			t.Helper()
			if err := line.Send(h.ctx, mlaas.Up{Checkpoint: &mlaas.CheckpointMade{Step: step, Tree: d, Size: 1, Best: "acc"}}); err != nil {
				t.Fatal(err)
			}
			for {
				d, err := line.Receive(h.ctx)
				if err != nil {
					t.Fatal(err)
				}
				if d.Ack != nil && d.Ack.Stream == "checkpoint" && d.Ack.Seq == step {
					return
				}
			}
		}
		none := mlaas.Digest("sha256:" + strings.Repeat("0", 64))
		good := tree(mlaas.File{Path: "state", Digest: put("weights"), Size: 7})
		made(10, good)
		made(10, good) // said again
		made(20, tree(mlaas.File{Path: "state", Digest: none, Size: 7}))
		made(30, tree(mlaas.File{Path: "state", Digest: put("weights"), Size: 8}))
		made(40, none)
		made(50, put("no tree"))
		all, err := store.Checkpoints(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"})
		if err != nil || len(all) != 1 {
			t.Fatalf("recorded %+v, %v; want step 10 alone", all, err)
		}
		if c := all[0].Value; c.Step != 10 || c.Tree != good || c.Size != 7 || c.Epoch != 1 || c.Replica != "worker-0" || c.Best != "acc" {
			t.Errorf("recorded %+v", c)
		}
		rep, _ := h.replica(r, "worker-0")
		var why []string
		for _, e := range rep.History {
			if strings.HasPrefix(e.Reason, "the checkpoint of step") {
				why = append(why, e.Reason)
			}
		}
		if len(why) != 4 || !strings.HasPrefix(why[0], "the checkpoint of step 20 was not kept: its file state: ") {
			t.Errorf("the history says %q", why)
		}
		// The next attempt seals this one, before anybody told booster.
		h.move(r, func(s *mlaas.RunState) { s.Epoch = 2 })
		line.Send(h.ctx, mlaas.Up{Checkpoint: &mlaas.CheckpointMade{Step: 60, Tree: good}})
		for {
			if _, err := line.Receive(h.ctx); err != nil {
				break
			}
		}
		if all, _ := store.Checkpoints(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"}); len(all) != 1 {
			t.Error("a checkpoint of an attempt that is over was recorded")
		}
	})
}

// What a program evaluated is recorded once, where its content is here and its
// attempt is the newest.
func TestEvaluations(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaReady)
		content, _, err := h.boost.Monitor().Put(h.ctx, strings.NewReader(`{"format": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		made := func(seq int64, name string, d mlaas.Digest) {
			t.Helper()
			e := &mlaas.EvaluationMade{Seq: seq, Name: name, Step: 7, Task: "binary", Rows: 3, Scores: map[string]mlaas.Number{"accuracy": 0.5}, Content: d}
			if err := line.Send(h.ctx, mlaas.Up{Evaluation: e}); err != nil {
				t.Fatal(err)
			}
			for {
				d, err := line.Receive(h.ctx)
				if err != nil {
					t.Fatal(err)
				}
				if d.Ack != nil && d.Ack.Stream == mlaas.EvaluationStream && d.Ack.Seq == seq {
					return
				}
			}
		}
		made(1, "val", content)
		made(1, "val", content) // said again
		made(2, "", content)
		made(3, "test", mlaas.Digest("sha256:"+strings.Repeat("0", 64)))
		all, err := store.Evaluations(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"})
		if err != nil || len(all) != 1 {
			t.Fatalf("recorded %+v, %v; want val alone", all, err)
		}
		if e := all[0].Value; e.Name != "val" || e.Step != 7 || e.Content != content || e.Epoch != 1 || e.Replica != "worker-0" || e.Scores["accuracy"] != 0.5 {
			t.Errorf("recorded %+v", e)
		}
		rep, _ := h.replica(r, "worker-0")
		refused := 0
		for _, e := range rep.History {
			if strings.HasPrefix(e.Reason, "the evaluation ") {
				refused++
			}
		}
		if refused != 2 {
			t.Errorf("the history tells of %d refused, want 2: %+v", refused, rep.History)
		}
		h.move(r, func(s *mlaas.RunState) { s.Epoch = 2 })
		line.Send(h.ctx, mlaas.Up{Evaluation: &mlaas.EvaluationMade{Seq: 4, Name: "late", Task: "binary", Content: content}})
		for {
			if _, err := line.Receive(h.ctx); err != nil {
				break
			}
		}
		if all, _ := store.Evaluations(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: "run1/"}); len(all) != 1 {
			t.Error("an evaluation of an attempt that is over was recorded")
		}
	})
}

// An environment that a supervisor resolved is kept for its own run, once.
func TestLock(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		text, _, err := h.boost.Monitor().Put(h.ctx, strings.NewReader("numpy==2.1"))
		if err != nil {
			t.Fatal(err)
		}
		line := h.hello(f, mlaas.ReplicaReady)
		env := r.Spec.Environment
		say := func(l mlaas.Locked, s mlaas.ReplicaStatus) {
			if err := line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: s, Program: true, Lock: &l}}); err != nil {
				t.Fatal(err)
			}
		}
		other := mlaas.Environment{Framework: "pytorch"}
		say(mlaas.Locked{Spec: other.Spec(), Lock: text}, mlaas.ReplicaRunning)
		say(mlaas.Locked{Spec: env.Spec(), Python: "3.11", Lock: text}, mlaas.ReplicaRunning)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaRunning)
		time.Sleep(time.Second)
		all, err := store.Locks(h.db).All(h.ctx, store.Query{})
		if err != nil || len(all) != 1 || all[0].Value.Spec != env.Spec() || all[0].Value.Lock != text || all[0].Value.Tenant != "team" || all[0].Value.Python != "3.11" {
			t.Errorf("locks: %+v, %v", all, err)
		}
	})
}

// What a supervisor fetched is in the record at once, though nothing else
// changed, in lengths that a record may have, and stays for the next attempt.
func TestFetched(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		line := h.hello(h.silent(r, 1), mlaas.ReplicaPending)
		got := mlaas.Fetched{Name: "a", Source: "git+https://host/repo", Tree: blob.Name(nil), Files: 3, Size: 5, Commit: "abc"}
		long := got
		long.ETag, long.Tree = strings.Repeat("x", 1<<20), "no digest"
		for _, data := range [][]mlaas.Fetched{{got}, {got, long}} {
			if err := line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: mlaas.ReplicaPending, Data: data}}); err != nil {
				t.Fatal(err)
			}
			rep := h.until(r, "worker-0", 100*time.Millisecond, "with data", func(rep mlaas.Replica) bool { return len(rep.Data) == len(data) })
			if rep.Data[0] != got {
				t.Errorf("recorded is %+v", rep.Data)
			}
			if len(data) == 2 && (len(rep.Data[1].ETag) > 2000 || rep.Data[1].Tree != "") {
				t.Errorf("recorded is an ETag of %d bytes and tree %q", len(rep.Data[1].ETag), rep.Data[1].Tree)
			}
		}
		h.ask(r, 2)
		rep := h.until(r, "worker-0", time.Minute, "of the next attempt", func(rep mlaas.Replica) bool { return rep.Epoch == 2 })
		if len(rep.Data) != 2 || rep.Data[0] != got {
			t.Errorf("the next attempt has %+v", rep.Data)
		}
	})
}

// How long each part of getting ready took stands in the record, of this
// attempt alone; what a supervisor makes up does not.
func TestStages(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		line := h.hello(h.silent(r, 1), mlaas.ReplicaPending)
		began := time.Now().Add(-3 * time.Second)
		before := began.Add(-time.Second)
		said := []mlaas.Stage{{Name: mlaas.StageCode, Began: began, Ended: &before}, {Name: "made up", Began: began}, {Name: mlaas.StageEnvironment, Began: began}, {Name: mlaas.StageCode, Began: before}}
		if err := line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: mlaas.ReplicaPending, Reason: "fetching its code", Stages: said}}); err != nil {
			t.Fatal(err)
		}
		rep := h.until(r, "worker-0", time.Minute, "with stages", func(rep mlaas.Replica) bool { return len(rep.Stages) > 0 })
		if s := rep.Stages; len(s) != 2 || s[0].Name != mlaas.StageCode || !s[0].Ended.Equal(began) || s[1].Name != mlaas.StageEnvironment || s[1].Ended != nil {
			t.Errorf("recorded is %+v", s)
		}
		h.ask(r, 2)
		if rep := h.until(r, "worker-0", time.Minute, "of the next attempt", func(rep mlaas.Replica) bool { return rep.Epoch == 2 }); rep.Stages != nil {
			t.Errorf("the next attempt begins with the stages of the one before: %+v", rep.Stages)
		}
	})
}

// The rest of a log is taken after the end, but it changes no status; a line
// that goes silent is ended; what was said last wins over what was seen.
func TestAfterTheEnd(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaRunning)
		h.place.End(f, 1)
		rep := h.status(r, "worker-0", 10*time.Second, mlaas.ReplicaLost)
		if rep.Reason != "its supervisor ended with exit code 1" {
			t.Errorf("says %q", rep.Reason)
		}
		line.Send(h.ctx, mlaas.Up{Frame: &mlaas.Frame{Stream: mlaas.LogStream, First: 1, Lines: []mlaas.LogLine{{Text: "late"}}}})
		line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: mlaas.ReplicaSucceeded}})
		time.Sleep(time.Second)
		if got := h.texts(r, "worker-0"); !slices.Equal(got, []string{"1 late"}) {
			t.Errorf("kept %q", got)
		}
		if rep, _ := h.replica(r, "worker-0"); rep.Status != mlaas.ReplicaLost {
			t.Errorf("it became %s", rep.Status)
		}
	})
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaRunning)
		zero := 0
		h.place.End(f, 0) // seen from the outside before its last word was read
		line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: mlaas.ReplicaSucceeded, Program: true, ExitCode: &zero}})
		line.Close()
		h.status(r, "worker-0", 10*time.Second, mlaas.ReplicaSucceeded)
	})
	bubble(t, mute, func(h *house) { // it never called: what it wrote says why
		r := run("run1", map[string]int{"worker": 1})
		h.place.End(h.silent(r, 1), 3)
		rep := h.status(r, "worker-0", 10*time.Second, mlaas.ReplicaLost)
		if rep.Reason != "its supervisor ended with exit code 3; it wrote: supervisor of run1-1-worker-0-1" {
			t.Errorf("says %q", rep.Reason)
		}
	})
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		f := h.silent(r, 1)
		line, ended := h.talk(f)
		line.Send(h.ctx, mlaas.Up{Hello: &mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "here", Ports: []int{1, 2}, Phase: mlaas.Phase{Status: mlaas.ReplicaRunning}}})
		began := time.Now()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "nothing was heard") {
			t.Errorf("a silent line ends with %v", err)
		}
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("after %s", d)
		}
		if rep, _ := h.replica(r, "worker-0"); rep.Status != mlaas.ReplicaRunning {
			t.Errorf("silence alone made it %s", rep.Status)
		}
	})
}

func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		up, down := booster.Pipe()
		for i := range 3 {
			if err := up.Send(ctx, mlaas.Up{Checkpoint: &mlaas.CheckpointMade{Step: int64(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		up.Close()
		for i := range 3 {
			if m, err := down.Receive(ctx); err != nil || m.Checkpoint.Step != int64(i) {
				t.Errorf("message %d: %+v, %v", i, m, err)
			}
		}
		if _, err := down.Receive(ctx); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		if err := down.Send(ctx, mlaas.Down{}); !errors.Is(err, io.EOF) {
			t.Errorf("sending after the end: %v", err)
		}
	})
}

// A run that moves here is ended on the cluster that it was on.
func TestMoves(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		there := fence(r, 1, "worker-0")
		h.commit(store.Batch{Put: []store.Row{store.Replicas(h.db).Put(mlaas.Replica{Fence: there, Role: "worker", Cluster: "far", Status: mlaas.ReplicaRunning}, 0)}})
		h.ask(r, 2)
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		if rep, _ := h.replica(r, "worker-0"); rep.Cluster != "stage" || rep.Epoch != 2 {
			t.Errorf("the replica is %+v", rep)
		}
		claim, err := h.db.Next(h.ctx, mlaas.ToBooster("far"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var m mlaas.ReplicasUnwanted
		if err := json.Unmarshal(claim.Message.Body, &m); err != nil || claim.Message.Subject != "ReplicasUnwanted" || m.Epoch != 1 || m.Run != r.ID || m.Reason == "" {
			t.Errorf("the other cluster is told %s %s (%v)", claim.Message.Subject, claim.Message.Body, err)
		}
	})
}

// What version 0.1 told and did not handle is handled after the upgrade.
func TestOldInbox(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		old := func(m store.Message, body string) store.Message {
			m.To, m.Body = "booster", json.RawMessage(body)
			return m
		}
		h.commit(store.Batch{
			Put: []store.Row{store.Runs(h.db).Put(r, 0), store.RunStates(h.db).Put(mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Job: r.Job, State: mlaas.Starting,
				Epoch: 1, Allocation: mlaas.Allocation{Cluster: "stage", Granted: map[string]int{"worker": 1}}}, 0)},
			Tell: []store.Message{old(queue.Tell(mlaas.ReplicasWanted{}), `{"tenant":"team","run":"run1","epoch":1}`)},
		})
		h.status(r, "worker-0", time.Second, mlaas.ReplicaReady)
		h.move(r, func(s *mlaas.RunState) { s.State = mlaas.Stopping },
			old(queue.Tell(mlaas.ReplicasUnwanted{}), `{"tenant":"team","run":"run1","epoch":1,"grace":1,"reason":"it is over"}`))
		h.status(r, "worker-0", time.Minute, mlaas.ReplicaStopped)
	})
}
