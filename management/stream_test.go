package management

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A heard is an event as a client gets it.
type heard struct {
	ID, Topic, Type string
	Seq             int64
	Data            json.RawMessage
}

// A listener is a client of the live stream.
type listener struct {
	t    *testing.T
	conn *websocket.Conn
}

func (a *api) dial(headers ...string) (*listener, *http.Response, error) {
	a.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(headers); i += 2 {
		if h.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			h.Del(headers[i])
		}
	}
	c, res, err := websocket.Dial(a.t.Context(), a.url+"/api/stream", &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		return nil, res, err
	}
	c.SetReadLimit(16 << 20)
	a.t.Cleanup(func() { c.CloseNow() })
	return &listener{a.t, c}, res, nil
}

func (a *api) listen(headers ...string) *listener {
	a.t.Helper()
	l, _, err := a.dial(headers...)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

func (l *listener) say(text string) *listener {
	l.t.Helper()
	if err := l.conn.Write(l.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		l.t.Fatal(err)
	}
	return l
}

func (l *listener) subscribe(s Subscription) *listener {
	l.t.Helper()
	text, err := json.Marshal(map[string]any{"subscribe": s})
	if err != nil {
		l.t.Fatal(err)
	}
	return l.say(string(text))
}

func (l *listener) next() (e heard) {
	l.t.Helper()
	_, data, err := l.conn.Read(l.t.Context())
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil {
		l.t.Fatalf("the stream: %v %s", err, data)
	}
	return e
}

// hears checks the next event: "TYPE: the fields of each of its items".
func (l *listener) hears(want string, fields ...string) heard {
	l.t.Helper()
	e := l.next()
	if got := e.says(l.t, fields...); got != want {
		l.t.Fatalf("heard %q, want %q (%s)", got, want, e.Data)
	}
	return e
}

func (e heard) says(t *testing.T, fields ...string) string {
	t.Helper()
	out := e.Type
	if len(e.Data) > 0 && e.Data[0] == '{' {
		return out + ": " + only(t, e.Data, fields...)
	}
	var items []json.RawMessage
	if len(e.Data) > 0 {
		if err := json.Unmarshal(e.Data, &items); err != nil {
			t.Fatal(err)
		}
	}
	for i, item := range items {
		out += [2]string{"; ", ": "}[min(1, max(0, 1-i))] + only(t, item, fields...)
	}
	return out
}

func from(seq int64) *int64 { return &seq }

func tailOf(n int) *int { return &n }

func TestStreamJobs(t *testing.T) {
	a := start(t)
	l := a.listen().subscribe(Subscription{ID: "all", Topic: "job"})
	if e := l.hears("snapshot"); e.ID != "all" || e.Topic != "job" || string(e.Data) != "[]" {
		t.Fatalf("the first event is %+v", e)
	}
	id := a.do("POST", "/api/job", map[string]any{"name": "one"}).want(201).get("id").(string)
	l.hears("delta: one map[reason:It was never run. run: state:created]", "name", "status")
	a.do("POST", "/api/job/one/code", `{"files": {"main.py": "print(1)\n"}}`).want(201) // is no news of where it stands
	run := a.do("POST", "/api/job/one/run", nil).want(202).get("id").(string)
	seen := l.next()
	if !strings.Contains(string(seen.Data), run) {
		t.Fatalf("a run is asked for: %s", seen.Data)
	}
	a.becomes(run, mlaas.Running, "it runs")
	if seen = l.next(); !strings.Contains(string(seen.Data), `"running"`) {
		t.Fatalf("it runs: %s", seen.Data)
	}

	// Two jobs in one commit are two events, and who lost the connection between
	// them gets the second.
	other := a.ready("two")
	l.hears("delta: two", "name")
	x, rev, err := store.Jobs(a.DB).Get(t.Context(), mlaas.DefaultTenant, id)
	if err != nil {
		t.Fatal(err)
	}
	y, rev2, err := store.Jobs(a.DB).Get(t.Context(), mlaas.DefaultTenant, other)
	if err != nil {
		t.Fatal(err)
	}
	x.Name, y.Name = "uno", "due"
	a.commit(store.Batch{Put: []store.Row{store.Jobs(a.DB).Put(x, rev), store.Jobs(a.DB).Put(y, rev2)}})
	first := l.hears("delta: uno", "name")
	second := l.hears("delta: due", "name")
	if first.Seq >= second.Seq {
		t.Errorf("numbers %d and %d", first.Seq, second.Seq)
	}
	again := a.listen().subscribe(Subscription{ID: "all", Topic: "job", From: from(first.Seq)})
	again.hears("synced")
	if e := again.hears("delta: due", "name"); e.Seq != second.Seq {
		t.Errorf("number %d, want %d", e.Seq, second.Seq)
	}

	// One alone.
	mine := a.listen().subscribe(Subscription{Topic: "job", Job: other})
	mine.hears("snapshot: due", "name")
	a.do("DELETE", "/api/job/"+other, nil).want(204)
	mine.hears("delta: due true", "name", "deleted")
	l.hears("delta: due true", "name", "deleted")
	a.listen().subscribe(Subscription{Topic: "job"}).hears("snapshot: uno", "name") // what is deleted is not shown

	// What is no longer known begins again.
	lost := a.listen().subscribe(Subscription{Topic: "job", From: from(1 << 40)})
	lost.hears("reset")
	lost.hears("snapshot: uno", "name")
	a.listen().subscribe(Subscription{Topic: "job", Job: "nobody"}).hears("error: not_found", "error_code")
}

func TestStreamReplicas(t *testing.T) {
	a, run := running(t)
	l := a.listen().subscribe(Subscription{ID: "r", Topic: "replica", Run: mlaas.RunID(run)})
	l.hears("snapshot: worker-0 running; worker-1 running", "replica", "status")
	one := a.listen().subscribe(Subscription{Topic: "replica", Run: mlaas.RunID(run), Replica: "worker-1"})
	one.hears("snapshot: worker-1", "replica")
	a.replica(run, "worker-0", mlaas.ReplicaSucceeded, nil)
	e := l.hears("delta: worker-0 succeeded", "replica", "status")
	a.replica(run, "worker-1", mlaas.ReplicaFailed, nil)
	l.hears("delta: worker-1 failed", "replica", "status")
	one.hears("delta: worker-1 failed", "replica", "status")
	again := a.listen().subscribe(Subscription{Topic: "replica", Run: mlaas.RunID(run), From: from(e.Seq)})
	again.hears("synced")
	again.hears("delta: worker-1 failed", "replica", "status")
	a.listen().subscribe(Subscription{Topic: "replica", Run: "nothing"}).hears("error: not_found", "error_code")
}

func TestStreamLines(t *testing.T) {
	a, run := running(t)
	id := mlaas.RunID(run)
	a.says(run, "worker-0", 1, 1, "one", "two")
	a.says(run, "worker-1", 1, 1, "three")
	l := a.listen().subscribe(Subscription{Topic: "log", Run: id, Tail: tailOf(2)})
	e := l.hears("snapshot: two; three", "line")
	a.says(run, "worker-0", 1, 3, "four", "epoch 5")
	l.hears("delta: four; epoch 5", "line")
	for _, tt := range []struct {
		name string
		sub  Subscription
		want []string
	}{
		{"from where it was", Subscription{From: from(e.Seq)}, []string{"synced", "delta: four; epoch 5"}},
		{"from the first", Subscription{From: from(0)}, []string{"synced", "delta: one; two; three; four; epoch 5"}},
		{"one replica", Subscription{Replica: "worker-0"}, []string{"snapshot: one; two; four; epoch 5"}},
		{"one replica, on", Subscription{Replica: "worker-0", From: from(2)}, []string{"synced", "delta: four; epoch 5"}},
		{"no tail", Subscription{Tail: tailOf(0)}, []string{"snapshot"}},
		{"those that match", Subscription{Grep: "^(one|epoch .)$"}, []string{"snapshot: one; epoch 5"}},
		{"those that match, on", Subscription{Grep: "^(one|epoch .)$", From: from(1)}, []string{"synced", "delta: epoch 5"}},
		{"of a time that is lost", Subscription{From: from(99), Tail: tailOf(1)}, []string{"reset", "snapshot: epoch 5"}},
	} {
		tt.sub.Topic, tt.sub.Run = "log", id
		l := a.listen().subscribe(tt.sub)
		for _, want := range tt.want {
			if got := l.next().says(t, "line"); got != want {
				t.Errorf("%s: heard %q, want %q", tt.name, got, want)
			}
		}
	}
	if err := a.Series.Delete(t.Context(), mlaas.DefaultTenant, id); err != nil {
		t.Fatal(err)
	}
	l.hears("error: gone", "error_code")
}

func TestStreamPoints(t *testing.T) {
	a, run := running(t)
	point := func(replica string, first int64, step int64, value float64) {
		a.appends(series.Batch{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: replica},
			Frame: mlaas.Frame{Stream: mlaas.MetricStream, First: first, Points: []mlaas.Point{{Key: "loss", Step: step, Time: 5, Value: mlaas.Number(value)}}}})
	}
	point("worker-0", 1, 1, 0.5)
	l := a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run)})
	e := l.hears("snapshot: loss worker-0 [[1 5 0.5 0.5 0.5]]", "key", "replica", "points")
	one := a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run), Replica: "worker-1"})
	one.hears("snapshot")
	point("worker-0", 2, 2, 0.25)
	l.hears("delta: loss worker-0 2 0.25", "key", "replica", "step", "value")
	point("worker-1", 1, 2, 0.75)
	l.hears("delta: loss worker-1 2 0.75", "key", "replica", "step", "value")
	one.hears("delta: loss worker-1 2 0.75", "key", "replica", "step", "value")
	again := a.listen().subscribe(Subscription{Topic: "metric", Run: mlaas.RunID(run), From: from(e.Seq)})
	again.hears("synced")
	again.hears("delta: worker-0 2", "replica", "step") // the pages that the other was sent
	again.hears("delta: worker-1 2", "replica", "step")
}

// reopen serves what is in a folder, until the function it returns is called.
func reopen(t *testing.T, dir string) (*api, func()) {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &Management{DB: db, Blob: b, Auth: &auth.Requests{DB: db, Token: token}, Key: bytes.Repeat([]byte{7}, 32), Log: slog.New(slog.DiscardHandler),
		Series: &series.Store{Dir: filepath.Join(dir, "series"), Blob: b}}
	if err := m.store().Open(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	server, ended := httptest.NewServer(m.Handler()), make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return &api{Management: m, t: t, url: server.URL, http: server.Client()}, func() {
		stop()
		<-ended
		server.Close()
		m.store().Close()
		db.Close()
		b.Close()
	}
}

// A client that loses its connection again and again, also because the server
// is started anew, gets every line once and in order while lines are appended.
func TestStreamResumes(t *testing.T) {
	const each, rounds = 40, 6
	dir := t.TempDir()
	var run string
	var got []string
	var at *int64
	for round := range rounds {
		a, end := reopen(t, dir)
		if round == 0 {
			a.ready("j")
			run = a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
		}
		go func() {
			for i := range each {
				n := int64(round*each + i + 1)
				err := a.store().Append(context.WithoutCancel(t.Context()), series.Batch{
					Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0"},
					Frame: mlaas.Frame{Stream: mlaas.LogStream, First: n, Lines: []mlaas.LogLine{{Stream: "stdout", Text: fmt.Sprint(n)}}}})
				if err != nil {
					t.Errorf("append: %v", err)
				}
			}
		}()
		for len(got) < (round+1)*each {
			l := a.listen().subscribe(Subscription{Topic: "log", Run: mlaas.RunID(run), From: at, Tail: tailOf(2000)})
			for range 3 {
				e := l.next()
				if e.Type == "error" || e.Type == "reset" || at != nil && e.Type == "snapshot" {
					t.Fatalf("%s after %d lines: %s", e.Type, len(got), e.Data)
				}
				got = append(got, strings.FieldsFunc(e.says(t, "line"), func(r rune) bool { return strings.ContainsRune(":; ", r) })[1:]...)
				if at = from(e.Seq); len(got) == (round+1)*each {
					break
				}
			}
			l.conn.CloseNow()
		}
		end()
	}
	for i, text := range got {
		if text != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %s: %v", i+1, text, got)
		}
	}
	if len(got) != each*rounds {
		t.Fatalf("%d lines, want %d", len(got), each*rounds)
	}
}

// The same of records: whatever is lost, each replica ends as it is.
func TestStreamResumesRecords(t *testing.T) {
	dir := t.TempDir()
	var run string
	var at *int64
	known := map[string]string{}
	for round := range 4 {
		a, end := reopen(t, dir)
		if round == 0 {
			a.ready("j")
			run = a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
		}
		for i := range 5 {
			a.replica(run, fmt.Sprintf("worker-%d", i), mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Step = int64(round) })
		}
		l := a.listen().subscribe(Subscription{Topic: "replica", Run: mlaas.RunID(run), From: at})
		for changed := 0; changed < 3+round; { // not all: the rest is heard of after the restart
			e := l.next()
			if e.Type == "reset" || e.Type == "error" {
				t.Fatal("the number is not known after a restart")
			}
			var list []mlaas.Replica
			if len(e.Data) > 0 {
				if err := json.Unmarshal(e.Data, &list); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range list {
				known[r.Fence.Replica] = fmt.Sprint(r.Step)
				changed++
			}
			if at = from(e.Seq); round == 3 && len(known) == 5 && changed >= 5 {
				break
			}
		}
		l.conn.CloseNow()
		end()
	}
	for i := range 5 {
		if name := fmt.Sprintf("worker-%d", i); known[name] != "3" {
			t.Errorf("%s is at %q, want 3", name, known[name])
		}
	}
}

func TestStreamMessages(t *testing.T) {
	a, run := running(t)
	id := mlaas.RunID(run)
	l := a.listen()
	for _, tt := range []struct{ say, want string }{
		{`{`, "error: syntax"},
		{`{}`, "error: invalid message"},
		{`{"subscribe": {"topic": "job"}, "unsubscribe": "x"}`, "error: invalid message"},
		{`{"subscribe": {"topic": "jobs"}}`, "error: invalid topic"},
		{`{"subscribe": {"topic": "log"}}`, "error: invalid run"},
		{`{"subscribe": {"topic": "log", "run": "x", "grep": "("}}`, "error: invalid grep"},
		{`{"subscribe": {"topic": "log", "run": "x", "from": -1}}`, "error: invalid from"},
		{`{"subscribe": {"topic": "log", "run": "x", "tail": -1}}`, "error: invalid tail"},
		{`{"subscribe": {"topic": "log", "run": "x"}}`, "error: not_found"},
		{`{"subscribe": {"topic": "job", "runn": "x"}}`, "error: invalid subscribe.runn"},
	} {
		e := l.say(tt.say).next()
		if got := strings.TrimSuffix(e.says(t, "error_code", "field"), " <nil>"); got != tt.want {
			t.Errorf("%s: %q, want %q (%s)", tt.say, got, tt.want, e.Data)
		}
	}
	// An id is free again when its subscription has ended, and nothing of the
	// old one comes under it.
	l.subscribe(Subscription{ID: "x", Topic: "log", Run: id}).hears("snapshot")
	l.subscribe(Subscription{ID: "x", Topic: "job"}).hears("error: invalid id", "error_code", "field")
	a.says(run, "worker-0", 1, 1, "one")
	l.hears("delta: one", "line")
	for range 20 {
		l.say(`{"unsubscribe": "x"}`).subscribe(Subscription{ID: "x", Topic: "replica", Run: id}).hears("snapshot: worker-0; worker-1", "replica")
		l.say(`{"unsubscribe": "x"}`).subscribe(Subscription{ID: "x", Topic: "log", Run: id}).hears("snapshot: one", "line")
	}
	l.say(`{"unsubscribe": "x"}`).say(`{"unsubscribe": "nothing"}`)
	l.subscribe(Subscription{ID: "y", Topic: "job"}).hears("snapshot: j", "name") // so they were read
	l.say(`{"unsubscribe": "y"}`)
	a.says(run, "worker-0", 1, 2, "two") // is not heard
	for i := range maxTopics {
		l.subscribe(Subscription{ID: fmt.Sprint(i), Topic: "log", Run: id, Tail: tailOf(0)}).hears("snapshot")
	}
	l.subscribe(Subscription{ID: "more", Topic: "job"}).hears("error: too_many_requests", "error_code")
}

func TestStreamAsLines(t *testing.T) {
	a, run := running(t)
	a.do("GET", "/api/stream", nil).refuses(422, "invalid", "topic", "job, replica, log, metric or kernel")
	a.do("GET", "/api/stream?topic=log", nil).refuses(422, "invalid", "run", "the id of a run")
	a.do("GET", "/api/stream?topic=log&run=x", nil).refuses(404, "not_found", "", "")
	a.do("GET", "/api/stream?topic=job&from=-1", nil).refuses(422, "invalid", "from", "at least 0")
	a.do("GET", "/api/stream?topic=job", nil, "Authorization", "").refuses(401, "unauthorized", "", "who is asking?")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "GET", a.url+"/api/stream?topic=log&run="+run, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != ndjson {
		t.Errorf("Content-Type %s", got)
	}
	in := bufio.NewScanner(res.Body)
	for i, want := range []string{"snapshot", "delta: one", "delta: two"} {
		if i > 0 {
			a.says(run, "worker-0", 1, int64(i), strings.Fields("one two")[i-1])
		}
		if !in.Scan() {
			t.Fatal(in.Err())
		}
		var e heard
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if got := e.says(t, "line"); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

// What one team has is nothing to another.
func TestStreamTenants(t *testing.T) {
	a, run := running(t)
	others := store.Session{Tenant: "others", ID: "s1", Hash: auth.Hash("cookie"), Expires: time.Now().Add(time.Hour)}
	a.commit(store.Batch{Put: []store.Row{store.Sessions(a.DB).Put(others, 0)}})
	l := a.listen("Authorization", "", "Cookie", auth.Cookie+"=cookie")
	for _, topic := range []string{"replica", "log", "metric"} {
		l.subscribe(Subscription{ID: topic, Topic: topic, Run: mlaas.RunID(run)}).hears("error: not_found", "error_code")
	}
	l.subscribe(Subscription{ID: "1", Topic: "job", Job: "j"}).hears("error: not_found", "error_code")
	l.subscribe(Subscription{ID: "2", Topic: "job"}).hears("snapshot")
	a.becomes(run, mlaas.Succeeded, "") // is not heard
	theirs := mlaas.Job{ID: "x", Tenant: "others", JobSpec: mlaas.JobSpec{Name: "theirs"}}
	a.commit(store.Batch{Put: []store.Row{store.Jobs(a.DB).Put(theirs, 0)}})
	l.hears("delta: theirs", "name")
}

func TestStreamRefuses(t *testing.T) {
	a := start(t)
	good := store.Session{Tenant: mlaas.DefaultTenant, ID: "s1", Hash: auth.Hash("cookie"), Expires: time.Now().Add(time.Hour)}
	a.commit(store.Batch{Put: []store.Row{store.Sessions(a.DB).Put(good, 0)}})
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"nobody", []string{"Authorization", ""}, 401},
		{"a wrong token", []string{"Authorization", "Bearer wrong"}, 401},
		{"an unknown cookie", []string{"Authorization", "", "Cookie", auth.Cookie + "=wrong"}, 401},
		{"another site's page", []string{"Authorization", "", "Cookie", auth.Cookie + "=cookie", "Origin", "https://evil.example"}, 403},
		{"another site's page, as a new browser says it", []string{"Authorization", "", "Cookie", auth.Cookie + "=cookie", "Origin", a.url, "Sec-Fetch-Site", "cross-site"}, 403},
		{"our page", []string{"Authorization", "", "Cookie", auth.Cookie + "=cookie", "Origin", a.url}, 101},
	} {
		_, res, err := a.dial(tt.headers...)
		if res == nil || res.StatusCode != tt.status {
			t.Errorf("%s: %v %v, want %d", tt.name, res, err, tt.status)
		}
	}
}

// A stream ends with the session that opened it.
func TestStreamRevoked(t *testing.T) {
	a := start(t)
	cookie := func(id string) []string {
		s := store.Session{Tenant: mlaas.DefaultTenant, ID: id, Hash: auth.Hash(id), Expires: time.Now().Add(time.Hour)}
		a.commit(store.Batch{Put: []store.Row{store.Sessions(a.DB).Put(s, 0)}})
		return []string{"Authorization", "", "Cookie", auth.Cookie + "=" + id}
	}
	mine, other := cookie("mine"), cookie("other")
	l, stays := a.listen(mine...), a.listen(other...)
	l.subscribe(Subscription{Topic: "job"}).hears("snapshot")
	stays.subscribe(Subscription{Topic: "job"}).hears("snapshot")
	began := time.Now()
	a.do("DELETE", "/api/session/mine", nil).want(204)
	_, _, err := l.conn.Read(t.Context())
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation || !strings.Contains(err.Error(), "this session has ended") {
		t.Errorf("the stream of a revoked session: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it ended after %s", took)
	}
	if _, res, _ := a.dial(mine...); res == nil || res.StatusCode != 401 {
		t.Errorf("it is opened again: %v", res)
	}
	a.ready("j")
	stays.hears("delta: j", "name")
}

// A pipes is a network in a bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// A client that does not read is dropped within 10 s; one that is quiet hears
// a beat, and that the platform goes down.
func TestStreamDrops(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		db, err := sqlitestore.Open(ctx, ":memory:", sqlitestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b, err := files.Open(filepath.Join(dir, "blob"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		m := &Management{DB: db, Auth: &auth.Requests{DB: db, Token: token}, Log: slog.New(slog.DiscardHandler), Series: &series.Store{Dir: filepath.Join(dir, "series"), Blob: b}}
		if err := m.store().Open(); err != nil {
			t.Fatal(err)
		}
		defer m.store().Close()
		network := make(pipes)
		var server http.Server
		server.Handler = m.Handler()
		ended := make(chan struct{}, 2)
		go func() { server.Serve(network); ended <- struct{}{} }()
		go func() { m.Run(ctx); ended <- struct{}{} }()
		dial := func() *websocket.Conn {
			client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				network <- far
				return near, nil
			}}}
			c, _, err := websocket.Dial(ctx, "ws://localhost/api/stream", &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		deaf, quiet := dial(), dial()
		open := func() int {
			m.streams.mu.Lock()
			defer m.streams.mu.Unlock()
			return len(m.streams.open)
		}
		if err := deaf.Write(ctx, websocket.MessageText, []byte(`{"subscribe": {"topic": "job"}}`)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := open(); n != 2 {
			t.Fatalf("%d streams", n)
		}
		time.Sleep(writeWithin + time.Second)
		synctest.Wait()
		if n := open(); n != 1 {
			t.Errorf("%d streams: one that takes nothing is still there after %s", n, writeWithin)
		}
		if _, data, err := quiet.Read(ctx); err != nil || !strings.Contains(string(data), `"beat"`) {
			t.Errorf("the first that a quiet client hears is %s %v", data, err)
		}
		closed := make(chan error, 1)
		go func() {
			_, _, err := quiet.Read(context.Background())
			closed <- err
		}()
		stop()
		if err := <-closed; websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("at the end of the platform: %v", err)
		}
		deaf.CloseNow()
		quiet.CloseNow()
		server.Close()
		<-ended
		<-ended
	})
}
