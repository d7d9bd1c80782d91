package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// A stand is a server with one run whose life is told by the test.
type stand struct {
	mu       sync.Mutex
	run      client.Run
	replicas []client.Replica
	lines    []client.Line
	changed  chan struct{} // closed and made anew at each change
}

func newStand(t *testing.T, spec string) (*stand, *client.Client) {
	t.Helper()
	s := &stand{changed: make(chan struct{})}
	s.run.ID, s.run.Job, s.run.JobName, s.run.Number = "r", "j", "mnist", 7
	s.run.Created = time.Now()
	s.run.Status.State = mlaas.Queued
	if err := json.Unmarshal([]byte(spec), &s.run.Spec); err != nil {
		t.Fatal(err)
	}
	s.run.Spec.Complete()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, &client.Client{URL: server.URL}
}

// change changes what the server says.
func (s *stand) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stand) say(replica, text string) {
	s.change(func() {
		n := int64(len(s.lines) + 1)
		s.lines = append(s.lines, client.Line{Cursor: n, Seq: n, Replica: replica, Attempt: 1, LogLine: mlaas.LogLine{Time: time.Now(), Stream: "stdout", Text: text}})
	})
}

func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/log"):
		var from int
		fmt.Sscan(r.FormValue("from"), &from)
		for {
			for ; from <= len(s.lines); from++ {
				json.NewEncoder(w).Encode(s.lines[max(from, 1)-1])
			}
			if r.FormValue("follow") == "" || s.run.Status.State.Final() {
				return
			}
			w.(http.Flusher).Flush()
			news := s.changed
			s.mu.Unlock()
			select {
			case <-news:
			case <-r.Context().Done():
			}
			s.mu.Lock()
			if r.Context().Err() != nil {
				return
			}
		}
	case strings.HasSuffix(r.URL.Path, "/node"):
		json.NewEncoder(w).Encode(client.Page[client.Replica]{Items: s.replicas})
	case strings.HasSuffix(r.URL.Path, "/checkpoint"):
		json.NewEncoder(w).Encode(client.Page[mlaas.Checkpoint]{Items: []mlaas.Checkpoint{{Step: 1500, Size: 1_200_000}}})
	default:
		json.NewEncoder(w).Encode(s.run)
	}
}

// A tape keeps what is written, and wakes who waits for something in it.
type tape struct {
	mu   sync.Mutex
	b    bytes.Buffer
	news chan struct{}
}

func (p *tape) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
	return p.b.Write(b)
}

func (p *tape) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func (p *tape) await(t *testing.T, text string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for !strings.Contains(p.String(), text) {
		select {
		case <-p.news:
		case <-late:
			t.Fatalf("%q does not come; there is\n%s", text, p.String())
		}
	}
}

func newTape() *tape { return &tape{news: make(chan struct{}, 1)} }

func replicaAt(name string, status mlaas.ReplicaStatus, reason string, step int64, metrics map[string]mlaas.Number) client.Replica {
	r := client.Replica{ID: name, Attempt: 1}
	r.Role, r.Index, _ = mlaas.SplitReplica(name)
	r.Status, r.Reason, r.Step, r.Metrics = status, reason, step, metrics
	return r
}

const psSpec = `{"name": "mnist", "roles": {"ps": {"replicas": 1}, "worker": {"replicas": 2}}, "execution": {"command": ["python", "main.py", "--steps", "2000"]}}`

func TestFollowShowsAWholeLife(t *testing.T) {
	s, cl := newStand(t, psSpec)
	out, talk := newTape(), newTape()
	c := &cli{In: strings.NewReader(""), Out: out, Err: talk, Env: func(string) string { return "" }}
	type end struct {
		run client.Run
		err error
	}
	ended, first := make(chan end, 1), s.run
	go func() {
		run, err := c.follow(t.Context(), cl, first, client.LogQuery{})
		ended <- end{run, err}
	}()
	s.change(func() { s.run.Status.Reason = "waiting for 1 core: run other/1 has it" })
	talk.await(t, "queued: waiting for 1 core: run other/1 has it")
	s.change(func() {
		s.run.Status.State, s.run.Status.Reason = mlaas.Starting, "3 replicas on local"
		s.replicas = []client.Replica{
			replicaAt("ps-0", mlaas.ReplicaPending, "the environment is downloaded: tensorflow-cpu 120 of 320 MB", 0, nil),
			replicaAt("worker-0", mlaas.ReplicaReady, "", 0, nil), replicaAt("worker-1", mlaas.ReplicaReady, "", 0, nil),
		}
	})
	talk.await(t, "ps-0 pending: the environment is downloaded: tensorflow-cpu 120 of 320 MB")
	talk.await(t, "worker-0, worker-1 ready")
	began := time.Now()
	s.change(func() {
		s.run.Status.State, s.run.Status.Reason, s.run.Status.Started = mlaas.Running, "", &began
		s.replicas[1] = replicaAt("worker-0", mlaas.ReplicaRunning, "", 500, map[string]mlaas.Number{"loss": 0.3})
	})
	s.say("worker-0", "step 500")
	s.say("ps-0", "serving")
	out.await(t, "worker-0 | step 500\n")
	out.await(t, "ps-0     | serving\n")
	code := 0
	s.say("worker-1", "last word")
	s.change(func() {
		s.run.Status.State, s.run.Status.ExitCode, s.run.Status.Ended = mlaas.Succeeded, &code, &began
		s.run.Status.Attempts = []mlaas.Attempt{{Epoch: 1, Began: s.run.Created.Add(100 * time.Millisecond)}}
		ready, started := s.run.Created.Add(time.Second), began
		for i := range s.replicas {
			s.replicas[i].Ready, s.replicas[i].Started = &ready, &started
		}
		s.replicas[1].Metrics = map[string]mlaas.Number{"loss": 0.1, "acc": 0.94}
		s.replicas[1].Step = 2000
	})
	e := <-ended
	if e.err != nil {
		t.Fatal(e.err)
	}
	if got := out.String(); !strings.HasSuffix(got, "worker-1 | last word\n") {
		t.Errorf("the log ends before its last word:\n%s", got)
	}
	if err := c.ended(t.Context(), cl, e.run, nil); err != nil {
		t.Errorf("a run that succeeded ends with %v", err)
	}
	for _, want := range []string{"✓ mnist/7 succeeded in", "queued 0.1 s · replicas 0.9 s", "acc 0.94 · loss 0.1  (step 2000)", "1 checkpoint, the last of step 1500 (1.2 MB)", "next     mlaas metrics mnist/7"} {
		if !strings.Contains(talk.String(), want) {
			t.Errorf("the summary does not say %q:\n%s", want, talk.String())
		}
	}
	if strings.Contains(talk.String(), "\x1b") || strings.Contains(out.String(), "\x1b") {
		t.Error("without a terminal there are escape sequences")
	}
}

func TestFollowOnATerminal(t *testing.T) {
	s, cl := newStand(t, psSpec)
	both := newTape()
	c := &cli{In: strings.NewReader(""), Out: both, Err: both, Terminal: true, Width: func() int { return 100 }, Env: func(string) string { return "" }}
	ended, first := make(chan error, 1), s.run
	go func() {
		_, err := c.follow(t.Context(), cl, first, client.LogQuery{})
		ended <- err
	}()
	began := time.Now().Add(-10 * time.Second)
	s.change(func() {
		s.run.Status.State, s.run.Status.Started = mlaas.Running, &began
		s.replicas = []client.Replica{replicaAt("worker-0", mlaas.ReplicaRunning, "", 500, map[string]mlaas.Number{"loss": 0.25})}
	})
	both.await(t, "━━━━━━──────────────────\x1b[0m  25 %  step 500/2000  loss 0.25  10 s")
	s.say("worker-0", "\x1b[2Jhello\x1b[31m red\x1b[0m")
	both.await(t, "\r\x1b[K\x1b[36mworker-0 |\x1b[0m hello\x1b[31m red\x1b[0m\n")
	s.change(func() { s.run.Status.State = mlaas.Failed })
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(both.String(), "\r\x1b[K") {
		t.Error("the bar is left behind")
	}
}

func TestExitCodeOfARun(t *testing.T) {
	tests := []struct {
		state mlaas.State
		code  int
		none  bool
		want  int
	}{
		{mlaas.Succeeded, 0, false, 0},
		{mlaas.Succeeded, 0, true, 0},
		{mlaas.Failed, 3, false, 3},
		{mlaas.Failed, -9, false, 137},
		{mlaas.Failed, 137, false, 137},
		{mlaas.Failed, 0, true, exitPlatform},
		{mlaas.Stopped, 0, true, exitInterrupted},
		{mlaas.Stopped, 143, false, 143},
	}
	for _, tt := range tests {
		var r client.Run
		r.Status.State = tt.state
		if !tt.none {
			r.Status.ExitCode = &tt.code
		}
		if got := codeOf(r); got != tt.want {
			t.Errorf("%s with code %d (none: %v) gives %d, want %d", tt.state, tt.code, tt.none, got, tt.want)
		}
	}
}

func TestTotal(t *testing.T) {
	tests := []struct {
		spec string
		want int64
	}{
		{`{"execution": {"parameters": {"steps": 200}}}`, 200},
		{`{"execution": {"parameters": {"max-steps": "1e3"}}}`, 1000},
		{`{"execution": {"parameters": {"steps": "many"}}}`, 0},
		{`{"execution": {"command": ["python", "x.py", "--steps=50"]}}`, 50},
		{`{"execution": {"command": ["python", "x.py", "--train_steps", "60"]}}`, 60},
		{`{"execution": {"command": ["python", "x.py", "--steps"]}}`, 0},
		{`{}`, 0},
	}
	for _, tt := range tests {
		var spec mlaas.JobSpec
		if err := json.Unmarshal([]byte(tt.spec), &spec); err != nil {
			t.Fatal(err)
		}
		if got := total(spec); got != tt.want {
			t.Errorf("%s has %d steps, want %d", tt.spec, got, tt.want)
		}
	}
}

var _ io.Writer = (*tape)(nil)
