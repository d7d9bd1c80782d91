package management

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/stream"
)

// An echo is a replica in which every stream says what was asked for, then
// gives back what it gets until there is no more.
type echo struct {
	t     *testing.T
	url   string
	ended chan struct{} // one for each stream that is over
}

func newEcho(t *testing.T) *echo {
	e := &echo{t: t, ended: make(chan struct{}, 16)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		s, ctx := stream.Over(context.Background(), c)
		defer func() {
			s.Close()
			e.ended <- struct{}{}
		}()
		for p := (stream.Packet{Kind: stream.Data, Data: []byte(r.URL.RawQuery)}); ; {
			if err := s.Send(ctx, p); err != nil || p.Kind == stream.Exit {
				return
			}
			if p, err = s.Receive(ctx); err != nil {
				return
			}
			if p.Kind == stream.End {
				p = stream.JSON(stream.Exit, stream.Ending{Code: 3})
			}
		}
	}))
	t.Cleanup(server.Close)
	e.url = server.URL
	return e
}

func (e *echo) Log(context.Context, string, mlaas.Fence) (string, int64, error) {
	return "", 0, mlaas.ErrNotFound
}

func (e *echo) FollowLog(context.Context, string, mlaas.Fence, int64) (io.ReadCloser, error) {
	return nil, mlaas.ErrNotFound
}

func (e *echo) Open(ctx context.Context, cluster string, f mlaas.Fence, ask mlaas.Open, by string) (*stream.Stream, error) {
	text, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	u := strings.NewReplacer(" ", "+", `"`, "'").Replace(cluster + " " + f.Replica + " " + by + " " + string(text))
	c, _, err := websocket.Dial(ctx, e.url+"/?"+u, nil)
	if err != nil {
		return nil, err
	}
	s, _ := stream.Over(context.Background(), c)
	return s, nil
}

func (a *api) stream(path string, headers ...string) (*stream.Stream, *http.Response) {
	a.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(headers); i += 2 {
		if h.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			h.Del(headers[i])
		}
	}
	c, answer, err := websocket.Dial(a.t.Context(), a.url+path, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		return nil, answer
	}
	s, _ := stream.Over(a.t.Context(), c)
	a.t.Cleanup(func() { s.Close() })
	return s, answer
}

func next(t *testing.T, s *stream.Stream) string {
	t.Helper()
	p, err := s.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(p.Kind) + string(p.Data)
}

func inside(t *testing.T) (*api, *echo) {
	a, run := running(t)
	e := newEcho(t)
	a.Management.Inside = e
	a.replica(run, "worker-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Incarnation = 1 })
	a.replica(run, "worker-1", mlaas.ReplicaSucceeded, func(r *mlaas.Replica) { r.Incarnation = 1 })
	return a, e
}

func TestShellAndPort(t *testing.T) {
	a, e := inside(t)
	node := "/api/job/j/node/worker-0"
	for path, want := range map[string]string{
		"/shell?command=ls&command=-l":                                "dlocal+worker-0+owner+{'id':'','command':['ls','-l']}",
		"/shell?command=vi&terminal=true&columns=100&rows=30&term=vt": "dlocal+worker-0+owner+{'id':'','command':['vi'],'terminal':{'columns':100,'rows':30},'term':'vt'}",
		"/port/6006": "dlocal+worker-0+owner+{'id':'','port':6006}",
	} {
		s, _ := a.stream(node + path)
		if s == nil {
			t.Fatalf("%s: refused", path)
		}
		if got := next(t, s); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if err := s.Send(t.Context(), stream.Packet{Kind: stream.Data, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if got := next(t, s); got != "dx" {
			t.Errorf("it gives back %q", got)
		}
		if err := s.Send(t.Context(), stream.Packet{Kind: stream.End}); err != nil {
			t.Fatal(err)
		}
		if got := next(t, s); got != `q{"code":3}` {
			t.Errorf("it ends with %q", got)
		}
		if _, err := s.Receive(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after its end: %v", err)
		}
		<-e.ended
	}
	// Who goes away ends what they opened.
	s, _ := a.stream(node + "/shell")
	if got := next(t, s); !strings.Contains(got, "exec+bash") {
		t.Errorf("a shell is %s", got)
	}
	s.Close()
	<-e.ended

	a.do("GET", node+"/shell", nil).refuses(422, "invalid", "", "this is a WebSocket")
	a.do("GET", node+"/port/70000", nil).refuses(422, "invalid", "port", "1 to 65535")
	for path, want := range map[string]int{"/api/job/j/node/worker-1/shell": 409, "/api/job/j/node/worker-7/shell": 404, "/api/job/no/node/worker-0/shell": 404} {
		if s, answer := a.stream(path); s != nil || answer.StatusCode != want {
			t.Errorf("%s: %v, want %d", path, answer, want)
		}
	}
	if s, answer := a.stream(node+"/shell", "Authorization", ""); s != nil || answer.StatusCode != 401 {
		t.Errorf("without a token: %v", answer)
	}
}

// A shell ends with the login by which it was opened, and no page of another
// site opens one.
func TestShellEndsWithSession(t *testing.T) {
	a, e := inside(t)
	cookie := auth.Cookie + "=" + a.enter(a.link()).Value
	if s, answer := a.stream("/api/job/j/node/worker-0/shell", "Authorization", "", "Cookie", cookie, "Origin", "https://evil.example"); s != nil || answer.StatusCode != 403 {
		t.Fatalf("from another site's page: %v", answer)
	}
	s, _ := a.stream("/api/job/j/node/worker-0/shell", "Authorization", "", "Cookie", cookie, "Origin", a.url)
	if s == nil {
		t.Fatal("refused")
	}
	next(t, s)
	id := a.do("GET", "/api/session", nil).want(200).get("items.0.id").(string)
	a.do("DELETE", "/api/session/"+id, nil).want(204)
	if _, err := s.Receive(t.Context()); err == nil {
		t.Error("it goes on")
	}
	<-e.ended
}

// An answerer is a replica that answers what it is asked, and ends.
type answerer struct {
	*echo
	text string
	end  stream.Ending
	ask  mlaas.Open
}

func (a *answerer) Open(ctx context.Context, _ string, _ mlaas.Fence, ask mlaas.Open, _ string) (*stream.Stream, error) {
	a.ask = ask
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		s, ctx := stream.Over(context.Background(), c)
		defer s.Close()
		half := len(a.text) / 2
		for _, p := range []stream.Packet{{Kind: stream.Data, Data: []byte(a.text[:half])}, {Kind: stream.Data, Data: []byte(a.text[half:])}, {Kind: stream.Errors, Data: []byte("why")}, stream.JSON(stream.Exit, a.end)} {
			if s.Send(ctx, p) != nil {
				return
			}
		}
		for {
			if _, err := s.Receive(ctx); err != nil {
				return // they have gone
			}
		}
	}))
	a.t.Cleanup(server.Close)
	c, _, err := websocket.Dial(ctx, server.URL, nil)
	if err != nil {
		return nil, err
	}
	s, _ := stream.Over(context.Background(), c)
	return s, nil
}

func TestStackAndDebugger(t *testing.T) {
	a, e := inside(t)
	node := "/api/job/j/node/worker-0"
	in := &answerer{echo: e, text: `{"processes": [{"pid": 7, "command": ["python", "main.py"], "threads": [{"id": "0x1", "frames": [{"file": "main.py", "line": 3, "function": "f", "text": "x"}]}]}]}`}
	a.Management.Inside = in
	a.do("GET", node+"/stack", nil).want(200).is("processes.0.pid", 7).is("processes.0.threads.0.frames.0.line", 3)
	if in.ask.Look != mlaas.LookStacks {
		t.Errorf("it was asked for %+v", in.ask)
	}
	in.text = `{"processes": []}`
	a.do("GET", node+"/stack", nil).refuses(409, "conflict", "", "no Python process of worker-0 can be asked: with code.mode plain")
	in.text = `{"port": 5678, "pid": 7, "error": ""}`
	a.do("POST", node+"/debugger", nil).want(200).is("port", 5678)
	if in.ask.Look != mlaas.LookDebugger {
		t.Errorf("it was asked for %+v", in.ask)
	}
	in.text = `{"port": 0, "pid": 7, "error": "its environment has no debugpy"}`
	a.do("POST", node+"/debugger", nil).refuses(409, "conflict", "", "no debugger can be let into worker-0: its environment has no debugpy")
	in.end = stream.Ending{Code: 1}
	a.do("GET", node+"/stack", nil).refuses(500, "internal", "", "")
	in.end = stream.Fail(mlaas.ErrConflict)
	a.do("GET", node+"/stack", nil).refuses(409, "conflict", "", "")
	a.do("GET", "/api/job/j/node/worker-1/stack", nil).refuses(409, "conflict", "", "nothing of it runs")
}
