package management

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
	"mlaas.dev/mlaas/series"
)

// says appends lines as a replica's supervisor would; first is the number of
// the first of them in this attempt.
func (a *api) says(run, replica string, epoch int, first int64, texts ...string) {
	a.t.Helper()
	f := mlaas.Frame{Stream: mlaas.LogStream, First: first}
	for _, text := range texts {
		stream := "stdout"
		if rest, ok := strings.CutPrefix(text, "!"); ok {
			text, stream = rest, "stderr"
		}
		f.Lines = append(f.Lines, mlaas.LogLine{Time: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), Stream: stream, Text: text})
	}
	a.appends(series.Batch{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: epoch, Replica: replica}, Frame: f})
}

func (a *api) appends(b series.Batch) {
	a.t.Helper()
	if err := a.store().Append(a.t.Context(), b); err != nil {
		a.t.Fatal(err)
	}
}

// running makes a job with a run of two workers.
func running(t *testing.T) (*api, string) {
	a := start(t)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.replica(run, "worker-0", mlaas.ReplicaRunning, nil)
	a.replica(run, "worker-1", mlaas.ReplicaRunning, nil)
	return a, run
}

// lines is an NDJSON answer, each line as the values of these fields.
func (r *reply) lines(fields ...string) string {
	r.t.Helper()
	r.want(200)
	if got := r.Header.Get("Content-Type"); got != "application/x-ndjson" {
		r.t.Errorf("%s: Content-Type %s", r.what, got)
	}
	var out []string
	for text := range strings.Lines(string(r.Body)) {
		out = append(out, only(r.t, []byte(text), fields...))
	}
	return strings.Join(out, "; ")
}

func only(t *testing.T, text []byte, fields ...string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var out []string
	for _, f := range fields {
		out = append(out, fmt.Sprint(v[f]))
	}
	return strings.Join(out, " ")
}

func TestLog(t *testing.T) {
	a, run := running(t)
	a.says(run, "worker-0", 1, 1, "one", "!two")
	a.says(run, "worker-1", 1, 1, "uno")
	a.says(run, "worker-0", 1, 3, "three <b> & \x1b[31m")
	node, whole := "/api/job/j/node/worker-0/log", "/api/run/"+run+"/log"
	got := a.do("GET", node, nil)
	if s := got.lines("seq", "stream", "line"); s != "1 stdout one; 2 stderr two; 3 stdout three <b> & \x1b[31m" {
		t.Errorf("%s", s)
	}
	first, _, _ := strings.Cut(string(got.Body), "\n")
	if first != `{"seq":1,"time":"2026-01-02T03:04:05.006Z","stream":"stdout","line":"one"}` {
		t.Errorf("%s", first)
	}
	for query, want := range map[string]string{
		"?from=2":                 "2 two; 3 three <b> & \x1b[31m",
		"?from=0":                 "1 one; 2 two; 3 three <b> & \x1b[31m",
		"?from=4":                 "",
		"?from=2&limit=1":         "2 two",
		"?tail=1":                 "3 three <b> & \x1b[31m",
		"?tail=100":               "1 one; 2 two; 3 three <b> & \x1b[31m",
		"?grep=^t":                "2 two; 3 three <b> & \x1b[31m",
		"?grep=^t&limit=1":        "2 two",
		"?attempt=2":              "",
		"?run=1&limit=1":          "1 one",
		"?attempt=1&tail=2":       "2 two; 3 three <b> & \x1b[31m",
		"?grep=nothing":           "",
		"?run=" + run + "&last=1": "3 three <b> & \x1b[31m",
	} {
		if s := a.do("GET", node+query, nil).lines("seq", "line"); s != want {
			t.Errorf("%s: %q, want %q", query, s, want)
		}
	}
	for query, want := range map[string]string{
		"":                          "1 worker-0 1 1 one; 2 worker-0 1 2 two; 3 worker-1 1 1 uno; 4 worker-0 1 3 three <b> & \x1b[31m",
		"?from=3&limit=1":           "3 worker-1 1 1 uno",
		"?replica=worker-1":         "3 worker-1 1 1 uno",
		"?replica=worker-0&tail=2":  "2 worker-0 1 2 two; 4 worker-0 1 3 three <b> & \x1b[31m",
		"?replica=worker-0&limit=1": "1 worker-0 1 1 one",
		"?grep=o$":                  "2 worker-0 1 2 two; 3 worker-1 1 1 uno",
		"?replica=worker-7":         "",
	} {
		if s := a.do("GET", whole+query, nil).lines("cursor", "replica", "attempt", "seq", "line"); s != want {
			t.Errorf("%s: %q, want %q", query, s, want)
		}
	}
	a.do("GET", node+"?grep=(", nil).refuses(422, "invalid", "grep", "a regular expression (RE2)")
	a.do("GET", node+"?from=x", nil).refuses(422, "invalid", "from", "a whole number")
	a.do("GET", node+"?follow=maybe", nil).refuses(422, "invalid", "follow", "true or false")
	a.do("GET", whole+"?replica=..", nil).refuses(422, "invalid", "replica", "worker-0")
	// A replica that has not been made has said nothing.
	a.do("PATCH", "/api/job/j", `{"roles": {"ps": {"replicas": 1}}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).want(202)
	if s := a.do("GET", "/api/job/j/node/ps-0/log", nil).lines("line"); s != "" {
		t.Errorf("%q", s)
	}
}

// A follower reads line by line as they come.
type follower struct {
	t    *testing.T
	stop context.CancelFunc
	res  *http.Response
	r    *bufio.Reader
}

func (a *api) follow(path string) *follower {
	a.t.Helper()
	ctx, stop := context.WithCancel(a.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", a.url+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { stop(); res.Body.Close() })
	return &follower{a.t, stop, res, bufio.NewReader(res.Body)}
}

func (f *follower) next(fields ...string) string {
	f.t.Helper()
	text, err := f.r.ReadBytes('\n')
	if err != nil {
		return err.Error()
	}
	return only(f.t, text, fields...)
}

func TestFollow(t *testing.T) {
	a, run := running(t)
	node := a.follow("/api/job/j/node/worker-0/log?follow=true")
	whole := a.follow("/api/run/" + run + "/log?follow=true&from=2")
	few := a.follow("/api/run/" + run + "/log?follow=true&limit=2")
	found := a.follow("/api/run/" + run + "/log?follow=true&grep=three&tail=5")
	a.says(run, "worker-0", 1, 1, "one")
	if s := node.next("seq", "line"); s != "1 one" {
		t.Fatal(s)
	}
	a.says(run, "worker-1", 1, 1, "uno")
	if s := whole.next("cursor", "line"); s != "2 uno" {
		t.Fatal(s)
	}
	for _, want := range []string{"1 one", "2 uno", "EOF"} {
		if s := few.next("cursor", "line"); s != want {
			t.Fatalf("%q, want %q", s, want)
		}
	}
	// What failed may begin again with the next attempt; its log goes on.
	a.replica(run, "worker-0", mlaas.ReplicaFailed, nil)
	a.replica(run, "worker-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Epoch = 2 })
	a.says(run, "worker-0", 2, 1, "two", "three")
	for _, want := range []string{"2 two", "3 three"} {
		if s := node.next("seq", "line"); s != want {
			t.Fatalf("%q, want %q", s, want)
		}
	}
	if s := found.next("line"); s != "three" {
		t.Fatal(s)
	}
	a.says(run, "worker-0", 2, 3, "last")
	a.becomes(run, mlaas.Stopping, "")
	s, rev, err := a.state(run)
	if err != nil {
		t.Fatal(err)
	}
	s.Epoch = 2
	a.setState(s, rev)
	a.replica(run, "worker-0", mlaas.ReplicaSucceeded, func(r *mlaas.Replica) { r.Epoch = 2 })
	for _, want := range []string{"4 last", "EOF"} {
		if s := node.next("seq", "line"); s != want {
			t.Fatalf("%q, want %q", s, want)
		}
	}
	a.becomes(run, mlaas.Succeeded, "")
	for _, want := range []string{"two", "three", "last", "EOF"} {
		if s := whole.next("line"); s != want {
			t.Fatalf("%q, want %q", s, want)
		}
	}
	if s := found.next("line"); s != "EOF" {
		t.Fatal(s)
	}
	// What is over is read to its end at once.
	if s := a.do("GET", "/api/run/"+run+"/log?follow=true&from=5", nil).lines("line"); s != "last" {
		t.Errorf("%q", s)
	}
}

// One who goes away leaves nothing behind.
func TestFollowerGoes(t *testing.T) {
	a, run := running(t)
	f := a.follow("/api/run/" + run + "/log?follow=true")
	a.says(run, "worker-0", 1, 1, "one")
	f.next("line")
	f.stop()
	f.res.Body.Close()
	a.http.CloseIdleConnections()
	for a.hub.size() > 0 {
		// Each change wakes the handler, which then sees that nobody is there.
		a.replica(run, "worker-1", mlaas.ReplicaRunning, nil)
	}
}

func TestMetrics(t *testing.T) {
	a, run := running(t)
	point := func(key string, step int64, v float64) mlaas.Point {
		return mlaas.Point{Key: key, Step: step, Time: 1767225600000 + step, Value: mlaas.Number(v)}
	}
	f := mlaas.Frame{Stream: mlaas.MetricStream, First: 1}
	for i := range int64(100) {
		f.Points = append(f.Points, point("loss", i, 1/float64(i+1)))
	}
	f.Points = append(f.Points, point("odd", 1, math.NaN()), point("odd", 2, math.Inf(1)), point("odd", 3, math.Inf(-1)))
	fence := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0"}
	a.appends(series.Batch{Fence: fence, Frame: f})
	fence.Replica = "worker-1"
	a.appends(series.Batch{Fence: fence, Frame: mlaas.Frame{Stream: mlaas.MetricStream, First: 1, Points: []mlaas.Point{point("loss", 1, 0.25)}}})

	r := a.do("GET", "/api/job/j/node/worker-0/metric?key=odd", nil).want(200)
	if !strings.Contains(string(r.Body), `"points":[[1,1767225600001,"NaN"],[2,1767225600002,"Infinity"],[3,1767225600003,"-Infinity"]]`) {
		t.Errorf("%s", r.Body)
	}
	r = a.do("GET", "/api/job/j/node/worker-0/metric", nil).want(200).is("items.0.key", "loss").is("items.1.key", "odd").is("items.2", nil).is("items.0.points.0.2", 1)
	if n := len(r.get("items.0.points").([]any)); n != 100 {
		t.Errorf("%d points", n)
	}
	r = a.do("GET", "/api/job/j/node/worker-0/metric?key=loss&buckets=10", nil).want(200)
	points := r.get("items.0.points").([]any)
	if len(points) == 0 || len(points) > 10 || len(points[0].([]any)) != 5 {
		t.Errorf("%s", r.Body)
	}
	a.do("GET", "/api/job/j/node/worker-0/metric?key=loss&from_step=10&to_step=12", nil).want(200).is("items.0.points.0.0", 10).is("items.0.points.2.0", 12).is("items.0.points.3", nil)
	a.do("GET", "/api/run/j.1/metric?key=loss", nil).want(200).is("items.0.replica", "worker-0").is("items.1.replica", "worker-1").is("items.1.points.0.2", 0.25)
	a.do("GET", "/api/run/j.1/metric?replica=worker-1", nil).want(200).is("items.0.replica", "worker-1").is("items.1", nil)
	a.do("GET", "/api/run/j.1/metric?key=nothing", nil).want(200).is("items", []any{})
	a.do("GET", "/api/run/j.1/metric?buckets=-1", nil).refuses(422, "invalid", "buckets", "at least 0")
}

// Lines by when they were written, and of the attempt before.
func TestLogBounds(t *testing.T) {
	a, run := running(t)
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	says := func(epoch int, first int64, from int, texts ...string) {
		f := mlaas.Frame{Stream: mlaas.LogStream, First: first}
		for i, text := range texts {
			f.Lines = append(f.Lines, mlaas.LogLine{Time: at.Add(time.Duration(from+i) * time.Minute), Stream: "stdout", Text: text})
		}
		a.appends(series.Batch{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: epoch, Replica: "worker-0"}, Frame: f})
	}
	says(1, 1, 0, "a", "b", "c")
	node, whole := "/api/job/j/node/worker-0/log", "/api/run/"+run+"/log"
	a.do("GET", node+"?previous=true", nil).refuses(404, "not_found", "", "no attempt before its first")
	s, rev, err := a.state(run)
	if err != nil {
		t.Fatal(err)
	}
	s.Epoch = 2
	a.setState(s, rev)
	a.replica(run, "worker-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Epoch = 2; r.Ready = &at })
	says(2, 1, 10, "d", "e")
	for query, want := range map[string]string{
		"?since=2026-01-02T03:01:00Z":                            "b; c; d; e",
		"?until=2026-01-02T03:01:00Z":                            "a",
		"?since=2026-01-02T03:01:00Z&until=2026-01-02T03:10:00Z": "b; c",
		"?since=2026-01-02T03:01:00Z&tail=1":                     "e",
		"?since=1m":                                              "",
		"?previous=true":                                         "a; b; c",
		"?previous=true&tail=1":                                  "c",
		"?previous=true&follow=true":                             "a; b; c", // nothing of it says anything any more
		"?attempt=2":                                             "d; e",
		"?attempt=1&since=20000h&limit=2":                        "a; b",
	} {
		for _, path := range []string{node, whole} {
			if got := a.do("GET", path+query, nil).lines("line"); got != want {
				t.Errorf("%s%s: %q, want %q", path, query, got, want)
			}
		}
	}
	a.do("GET", node+"?since=yesterday", nil).refuses(422, "invalid", "since", "how long ago")
	a.do("GET", node+"?until=-5m", nil).refuses(422, "invalid", "until", "a time such as")
	a.do("GET", node+"?previous=true&attempt=1", nil).refuses(422, "invalid", "previous", "either")
}

// insides are containers whose logs an executor keeps.
type insides map[string]string

func (x insides) Log(_ context.Context, _ string, f mlaas.Fence) (string, int64, error) {
	text, ok := x[f.Replica]
	if !ok {
		return "", 0, mlaas.ErrNotFound
	}
	return text, int64(len(text)), nil
}

func (x insides) FollowLog(_ context.Context, _ string, f mlaas.Fence, after int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(x[f.Replica][after:])), nil
}

// A living container is one whose log grows.
type living struct {
	insides
	text string // what there was
	more *io.PipeReader
}

func (x living) Log(_ context.Context, _ string, f mlaas.Fence) (string, int64, error) {
	if f.Replica != "worker-0" {
		return "", 0, mlaas.ErrNotFound
	}
	return x.text, int64(len(x.text)), nil
}

func (x living) FollowLog(_ context.Context, _ string, _ mlaas.Fence, after int64) (io.ReadCloser, error) {
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(x.text[after:]), x.more), x.more}, nil
}

func (x insides) Open(context.Context, string, mlaas.Fence, mlaas.Open, string) (*stream.Stream, error) {
	return nil, fmt.Errorf("this lets nobody in: %w", mlaas.ErrConflict)
}

// The log of a container is what is served, and labelled, where its supervisor
// never delivered a word; and only there.
func TestContainerLog(t *testing.T) {
	a, run := running(t)
	at := time.Now()
	a.Management.Inside = insides{"worker-0": "exec format error\nit cannot start\n", "worker-1": "never shown\n"}
	a.replica(run, "worker-0", mlaas.ReplicaPending, nil)
	a.replica(run, "worker-1", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Ready = &at })
	a.says(run, "worker-1", 1, 1, "one")
	for path, want := range map[string]string{
		"/api/job/j/node/worker-0/log":              "0 container exec format error; 0 container it cannot start",
		"/api/job/j/node/worker-0/log?tail=1":       "0 container it cannot start",
		"/api/job/j/node/worker-0/log?grep=format":  "0 container exec format error",
		"/api/job/j/node/worker-0/log?attempt=2":    "",
		"/api/job/j/node/worker-0/log?from=2":       "",
		"/api/job/j/node/worker-0/log?since=1h":     "",
		"/api/job/j/node/worker-1/log":              "1 stdout one",
		"/api/run/" + run + "/log":                  "1 stdout one; 0 container exec format error; 0 container it cannot start",
		"/api/run/" + run + "/log?limit=1":          "1 stdout one",
		"/api/run/" + run + "/log?replica=worker-0": "0 container exec format error; 0 container it cannot start",
	} {
		if got := a.do("GET", path, nil).lines("seq", "stream", "line"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	f := a.follow("/api/run/" + run + "/log?follow=true")
	for _, want := range []string{"one", "exec format error", "it cannot start"} {
		if s := f.next("line"); s != want {
			t.Fatalf("%q comes where %q is next", s, want)
		}
	}
	a.says(run, "worker-1", 1, 2, "two")
	if s := f.next("line"); s != "two" {
		t.Errorf("%q follows", s)
	}
}

// While a container lives whose supervisor never delivered a word, its log is
// followed: a line comes when it is written, and not again when the container
// has ended and its log is kept.
func TestContainerLogGrows(t *testing.T) {
	a, run := running(t)
	more, write := io.Pipe()
	a.Management.Inside = living{text: "first\nsec", more: more}
	a.replica(run, "worker-0", mlaas.ReplicaPending, nil)
	f := a.follow("/api/run/" + run + "/log?follow=true")
	if s := f.next("seq", "stream", "line"); s != "0 container first" {
		t.Fatalf("at first comes %q", s)
	}
	for _, text := range []string{"ond\n", "third\n"} {
		if _, err := io.WriteString(write, text); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"ond\n": "second", "third\n": "third"}[text]
		if s := f.next("seq", "stream", "line"); s != "0 container "+want {
			t.Errorf("then comes %q, want %s", s, want)
		}
	}
	write.Close()
	frame := mlaas.Frame{Stream: mlaas.LogStream, First: 1}
	for _, text := range []string{"first", "second", "third", "and one that nobody saw"} {
		frame.Lines = append(frame.Lines, mlaas.LogLine{Stream: mlaas.ContainerStream, Text: text})
	}
	a.appends(series.Batch{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0"}, Frame: frame})
	if s := f.next("seq", "stream", "line"); s != "4 container and one that nobody saw" {
		t.Errorf("when it is kept comes %q", s)
	}
}
