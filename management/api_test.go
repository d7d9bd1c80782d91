package management

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

const token = "t0ken"

// An api is a whole management over its drivers, and a client of it.
type api struct {
	*Management
	t     *testing.T
	url   string
	http  *http.Client
	ahead atomic.Int64 // of the real clock
}

// later moves the clock of the server.
func (a *api) later(d time.Duration) { a.ahead.Add(int64(d)) }

// store is what is read, where it is to be appended to.
func (m *Management) store() *series.Store {
	switch r := m.Series.(type) {
	case *away:
		return r.Reader.(*series.Store)
	case *slowCurves:
		return r.Reader.(*series.Store)
	}
	return m.Series.(*series.Store)
}

// start starts it; change may alter what it is made of.
func start(t *testing.T, change ...func(*Management)) *api {
	t.Helper()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &api{t: t}
	m := &Management{Now: func() time.Time { return time.Now().Add(time.Duration(a.ahead.Load())) }, DB: db, Blob: b, Auth: &auth.Requests{DB: db, Token: token}, Key: bytes.Repeat([]byte{7}, 32),
		Log: slog.New(slog.DiscardHandler), Series: &series.Store{Dir: filepath.Join(dir, "series"), Blob: b},
		Catalogue: []Framework{{Name: "python"}, {Name: "tensorflow"}}}
	for _, c := range change {
		c(m)
	}
	if err := m.store().Open(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(m.Handler())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		server.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		m.store().Close()
		db.Close()
	})
	a.Management, a.url, a.http = m, server.URL, server.Client()
	return a
}

// A reply is what came back.
type reply struct {
	t      *testing.T
	what   string
	Status int
	Header http.Header
	Body   []byte
}

// do calls the API; headers are name, value, ... and replace those that are
// sent anyway.
func (a *api) do(method, path string, body any, headers ...string) *reply {
	a.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			a.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, a.url+path, r)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	res, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return &reply{a.t, method + " " + path, res.StatusCode, res.Header, data}
}

func (r *reply) want(status int) *reply {
	r.t.Helper()
	if r.Status != status {
		r.t.Fatalf("%s: %d, want %d: %s", r.what, r.Status, status, r.Body)
	}
	return r
}

// get is a field of a JSON answer by its path; nil where it is not there.
func (r *reply) get(path string) any {
	r.t.Helper()
	var v any
	if err := json.Unmarshal(r.Body, &v); err != nil {
		r.t.Fatalf("%s: %v: %s", r.what, err, r.Body)
	}
	for part := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[part]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func (r *reply) is(path string, want any) *reply {
	r.t.Helper()
	if got := r.get(path); fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("%s: %s is %v, want %v: %s", r.what, path, got, want, r.Body)
	}
	return r
}

// refuses checks a problem: its status, its code and that it says this.
func (r *reply) refuses(status int, code, field, says string) {
	r.t.Helper()
	r.want(status)
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		r.t.Errorf("%s: Content-Type %s", r.what, got)
	}
	r.is("error_code", code).is("status", status)
	if field != "" {
		r.is("field", field)
	}
	if message := fmt.Sprint(r.get("message")); !strings.Contains(message, says) {
		r.t.Errorf("%s: says %q, want something with %q", r.what, message, says)
	}
	if r.get("request_id") != r.Header.Get("X-Request-Id") || r.get("title") == "" || r.get("detail") != r.get("message") {
		r.t.Errorf("%s: not a whole problem: %s", r.what, r.Body)
	}
}

func (a *api) commit(b store.Batch) {
	a.t.Helper()
	if err := a.DB.Commit(a.t.Context(), b); err != nil {
		a.t.Fatal(err)
	}
}

// becomes writes what the contractor would write of a run.
func (a *api) becomes(run string, state mlaas.State, reason string) {
	a.t.Helper()
	r, _, err := store.Runs(a.DB).Get(a.t.Context(), mlaas.DefaultTenant, run)
	if err != nil {
		a.t.Fatal(err)
	}
	s, rev, err := store.RunStates(a.DB).Get(a.t.Context(), r.Tenant, run)
	if err != nil {
		s = mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Job: r.Job, Epoch: 1, Attempts: []mlaas.Attempt{}}
	}
	s.State, s.Reason = state, reason
	a.commit(store.Batch{Put: []store.Row{store.RunStates(a.DB).Put(s, rev)}})
}

// replica writes what booster would write of a replica.
func (a *api) replica(run, name string, status mlaas.ReplicaStatus, change func(*mlaas.Replica)) {
	a.t.Helper()
	role, index, err := mlaas.SplitReplica(name)
	if err != nil {
		a.t.Fatal(err)
	}
	_, rev, err := store.Replicas(a.DB).Get(a.t.Context(), mlaas.DefaultTenant, store.ReplicaKey(mlaas.RunID(run), name))
	if err != nil {
		rev = 0
	}
	r := mlaas.Replica{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: name},
		Role: role, Index: index, Cluster: "local", Status: status, Reason: "it is " + string(status)}
	if change != nil {
		change(&r)
	}
	a.commit(store.Batch{Put: []store.Row{store.Replicas(a.DB).Put(r, rev)}})
}

// ready makes a job with code, and returns its id.
func (a *api) ready(name string) string {
	a.t.Helper()
	id := a.do("POST", "/api/job", map[string]any{"name": name}).want(201).get("id").(string)
	a.do("POST", "/api/job/"+id+"/code", `{"files": {"main.py": "print(1)\n"}}`).want(201)
	return id
}

// told is how many messages of a type wait for the contractor.
func (a *api) told(subject string) (n int) {
	a.t.Helper()
	stats, err := a.DB.Stats(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return int(stats.Waiting)
}

func (a *api) state(run string) (mlaas.RunState, int64, error) {
	return store.RunStates(a.DB).Get(a.t.Context(), mlaas.DefaultTenant, run)
}

func (a *api) setState(s mlaas.RunState, rev int64) {
	a.t.Helper()
	a.commit(store.Batch{Put: []store.Row{store.RunStates(a.DB).Put(s, rev)}})
}

// size is for how many runs someone waits.
func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting)
}
