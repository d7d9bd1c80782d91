package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// serve answers with a handler; the client of it waits as long as a test may.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &client.Client{URL: s.URL, Token: "secret", Patience: 5 * time.Second}
}

func problem(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"title": "x", "status": %d, "detail": %q, "error_code": %q, "message": %q, "request_id": "r1", "field": "f"}`, status, message, code, message)
}

func TestKindsSurviveTheWire(t *testing.T) {
	for _, kind := range mlaas.Kinds {
		t.Run(kind.Code, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, kind.Status, kind.Code, "it is so") })
			c.Patience = 0
			_, err := c.Job(t.Context(), "x")
			if !errors.Is(err, kind) {
				t.Errorf("is %v, want %v", mlaas.KindOf(err), kind)
			}
			if err.Error() != "it is so" {
				t.Errorf("says %q", err)
			}
			if e, ok := errors.AsType[*client.Error](err); !ok || e.RequestID != "r1" || e.Field != "f" || e.Status != kind.Status {
				t.Errorf("lost what the server said: %+v", e)
			}
		})
	}
}

func TestStrangeAnswers(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		kind   *mlaas.Kind
		says   string
	}{
		{"a proxy's page", 502, "<html>Bad Gateway</html>", mlaas.ErrUnavailable, "answered 502 Bad Gateway without saying why"},
		{"no mlaas at all", 200, "<html>hello</html>", mlaas.ErrInternal, "something that is no mlaas answer"},
		{"a teapot", 418, "", mlaas.ErrSyntax, "answered 418"},
		{"empty", 500, "", mlaas.ErrInternal, "answered 500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status); fmt.Fprint(w, tt.body) })
			c.Patience = 0
			_, err := c.Job(t.Context(), "x")
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("is %v and says %v, want %v and %s", mlaas.KindOf(err), err, tt.kind, tt.says)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	down := func(w http.ResponseWriter) { problem(w, 503, "unavailable", "not now") }
	broken := func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }
	post := func(c *client.Client) error {
		_, err := c.CreateJob(t.Context(), mlaas.JobSpec{Name: "x"}, "")
		return err
	}
	patch := func(c *client.Client) error { _, err := c.PatchJob(t.Context(), "x", map[string]any{}, 3); return err }
	get := func(c *client.Client) error { _, err := c.Job(t.Context(), "x"); return err }
	tests := []struct {
		name  string
		fail  func(http.ResponseWriter)
		call  func(*client.Client) error
		tries int32
		kind  *mlaas.Kind // of the last error; nil: it worked
	}{
		{"read, not now", down, get, 3, nil},
		{"write, not now", down, post, 3, nil},
		{"edit, not now: it was not begun", down, patch, 3, nil},
		{"read, broken off", broken, get, 3, nil},
		{"write, broken off: the key makes it one", broken, post, 3, nil},
		{"edit, broken off: it may have been done", broken, patch, 1, mlaas.ErrUnavailable},
		{"refused for good", func(w http.ResponseWriter) { problem(w, 409, "conflict", "no") }, post, 1, mlaas.ErrConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var tries atomic.Int32
			keys := map[string]bool{}
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				keys[r.Header.Get("Idempotency-Key")] = true
				if tries.Add(1) < 3 {
					tt.fail(w)
				}
				io.WriteString(w, `{"id": "1"}`)
			})
			c.HTTP = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // else net/http tries again by itself
			err := tt.call(c)
			if tries.Load() != tt.tries {
				t.Errorf("tried %d times, want %d", tries.Load(), tt.tries)
			}
			if tt.kind == nil && err != nil || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("ends with %v, want %v", err, tt.kind)
			}
			if len(keys) != 1 {
				t.Errorf("one call has the keys %v", keys)
			}
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	c := &client.Client{URL: "http://127.0.0.1:1", Patience: 150 * time.Millisecond}
	_, err := c.Job(t.Context(), "x")
	if !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("is %v", err)
	}
	if want := "cannot reach mlaas at http://127.0.0.1:1: nothing listens there"; err.Error() != want {
		t.Errorf("says %q, want %q", err, want)
	}
}

func TestPages(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("authorization %q", got)
		}
		next := map[string]string{"": "a", "a": "b", "b": ""}[r.FormValue("page_token")]
		fmt.Fprintf(w, `{"items": [{"name": "of-%s"}], "next_page_token": %q}`, r.FormValue("page_token"), next)
	})
	jobs, err := client.Collect(c.Jobs(t.Context(), false))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, j := range jobs {
		names = append(names, j.Name)
	}
	if diff := cmp.Diff([]string{"of-", "of-a", "of-b"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestDiff(t *testing.T) {
	read := func(text string) (spec mlaas.JobSpec) {
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			t.Fatal(err)
		}
		spec.Complete()
		return spec
	}
	from := read(`{"name": "a", "environment": {"framework": "jax", "variables": {"A": "1", "B": "2"}}, "roles": {"ps": {"replicas": 1}}, "labels": {"x": "y"}}`)
	to := read(`{"name": "a", "environment": {"framework": "jax", "packages": ["six"], "variables": {"A": "3"}}, "roles": {"worker": {"cpu": "2"}}}`)
	got, err := client.Diff(from, to)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"environment": map[string]any{"packages": []any{"six"}, "variables": map[string]any{"A": "3", "B": nil}},
		"roles":       map[string]any{"ps": nil, "worker": map[string]any{"cpu": "2"}},
		"labels":      nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the patch is another (-want +got):\n%s", diff)
	}
	if got, err := client.Diff(to, to); err != nil || len(got) != 0 {
		t.Errorf("equal specs differ by %v, %v", got, err)
	}
}

// TestFollow: a log is followed through a broken connection and a server that
// is away, without a gap or a doubled line, up to its end.
func TestFollow(t *testing.T) {
	const lines = 10
	var answers atomic.Int32
	var ended atomic.Bool
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/log") {
			state := mlaas.Running
			if ended.Load() {
				state = mlaas.Succeeded
			}
			fmt.Fprintf(w, `{"id": "r", "status": {"state": %q}}`, state)
			return
		}
		n := answers.Add(1)
		from, _ := strconv.Atoi(r.FormValue("from"))
		if from == 0 {
			t.Errorf("asks for %s", r.URL)
		}
		switch n {
		case 2:
			problem(w, 503, "unavailable", "starting")
			return
		case 4:
			ended.Store(true)
		}
		for i := max(1, from-1); i <= lines && i < from+4; i++ { // one that it has already
			fmt.Fprintf(w, `{"cursor": %d, "seq": %d, "replica": "worker-0", "attempt": 1, "stream": "stdout", "line": "line %d"}`+"\n", i, i, i)
		}
		if n == 1 {
			io.WriteString(w, `{"cursor": 5, "se`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	c.Patience = 0
	var got []string
	var lost []bool
	q := client.LogQuery{Follow: true, Lost: func(err error) { lost = append(lost, err != nil) }}
	for l, err := range c.Log(t.Context(), "r", q) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Text)
	}
	var want []string
	for i := range lines {
		want = append(want, fmt.Sprintf("line %d", i+1))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the log is another (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]bool{true, false}, lost); diff != "" {
		t.Errorf("the loss is told otherwise (-want +got):\n%s", diff)
	}
}

func TestLogEnds(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("from") == "1" {
			io.WriteString(w, `{"cursor": 1, "line": "a"}`+"\n"+`{"cursor": 2, "line": "b"}`+"\n")
		}
	})
	got, err := client.Collect(c.Log(t.Context(), "r", client.LogQuery{}))
	if err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	for range c.Log(t.Context(), "r", client.LogQuery{}) {
		break // the caller has had enough
	}
}

func TestSamples(t *testing.T) {
	var c client.Curve
	if err := json.Unmarshal([]byte(`{"key": "loss", "points": [[1, 1000, 0.5], [2, 2000, "NaN"], [3, 3000, 0.1, 0.3, 0.2]]}`), &c); err != nil {
		t.Fatal(err)
	}
	if p := c.Points[0]; p.Step != 1 || p.Time != 1000 || p.Last != 0.5 || p.Min != 0.5 {
		t.Errorf("a point is %+v", p)
	}
	if !math.IsNaN(float64(c.Points[1].Last)) {
		t.Errorf("NaN is %v", c.Points[1].Last)
	}
	if p := c.Points[2]; p.Min != 0.1 || p.Max != 0.3 || p.Last != 0.2 {
		t.Errorf("a bucket is %+v", p)
	}
	text, err := json.Marshal(c.Points)
	if want := `[[1,1000,0.5],[2,2000,"NaN"],[3,3000,0.1,0.3,0.2]]`; err != nil || string(text) != want {
		t.Errorf("written as %s, %v; want %s", text, err, want)
	}
}
