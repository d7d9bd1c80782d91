package remote_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/executortest"
	"mlaas.dev/mlaas/booster/remote"
	"mlaas.dev/mlaas/booster/scripted"
)

const token = "a token of a cluster, that is long enough"

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// A gateway is what an agent calls: the executor of this moment, and its door,
// behind TLS and a wire that can be cut.
type gateway struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	e     *remote.Executor
	door  http.Handler
	conns map[net.Conn]bool
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t, conns: map[net.Conn]bool{}}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	g.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.Config.ConnState = func(c net.Conn, s http.ConnState) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if s == http.StateNew {
			g.conns[c] = true
		}
	}
	g.StartTLS()
	t.Cleanup(func() {
		g.set(nil, nil)
		g.cut()
		g.Close()
	})
	return g
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	e, door := g.e, g.door
	g.mu.Unlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/cluster/far/door/") && door != nil:
		http.StripPrefix("/cluster/far", door).ServeHTTP(w, r)
	case r.URL.Path == "/cluster/far/gateway" && e != nil:
		e.Gateway().ServeHTTP(w, r)
	default:
		http.Error(w, "this process does not serve cluster far now", http.StatusServiceUnavailable)
	}
}

// set makes e the one who is called; the one before is another process.
func (g *gateway) set(e *remote.Executor, door http.Handler) {
	g.mu.Lock()
	old := g.e
	g.e, g.door = e, door
	g.mu.Unlock()
	if old != nil && old != e {
		old.Close()
	}
}

// cut ends every connection without a word.
func (g *gateway) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		c.Close()
	}
	clear(g.conns)
}

// agent starts one inside, with an executor behind it.
func (g *gateway) agent(id string, e booster.Executor) *remote.Agent {
	a := &remote.Agent{Gateways: []string{g.URL}, Cluster: "far", Token: token, ID: id, HTTP: g.Client(), Door: "http://inside",
		Open: func(mlaas.KubeSettings) (booster.Executor, error) { return e, nil }}
	g.run(a)
	return a
}

func (g *gateway) run(a *remote.Agent) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := a.Run(ctx); ctx.Err() == nil {
			g.t.Errorf("the agent ended by itself: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	g.t.Cleanup(stop)
	return stop
}

// connected waits until somebody has called, and answers.
func connected(t *testing.T, e *remote.Executor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	for {
		within, stop := context.WithCancel(ctx)
		news, ended := make(chan booster.News), make(chan error, 1)
		go func() { ended <- e.Watch(within, news) }()
		var err error
		for synced := false; !synced && err == nil; {
			select {
			case n := <-news:
				synced = n.Synced
			case err = <-ended:
			}
		}
		stop()
		if err == nil {
			<-ended
			return
		}
		if ctx.Err() != nil || !errors.Is(err, mlaas.ErrUnavailable) { // else of the connection before
			t.Fatalf("nobody has called: %v", err)
		}
	}
}

func stage(t *testing.T, e *scripted.Executor) *scripted.Executor {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return e
}

// The suite runs over a real connection, with an agent that calls.
func TestConformance(t *testing.T) {
	executortest.Run(t, func(t *testing.T) executortest.Harness {
		inside := stage(t, &scripted.Executor{
			Limits: []string{"nothing runs here, it is played"},
			Play: func(s booster.Spec) scripted.Script {
				if s.Environment.Image == "broken" {
					return scripted.Script{Broken: "there is no such image"}
				}
				return scripted.Script{Deaf: true, Slow: time.Millisecond}
			},
			Command: func(_ mlaas.Fence, command []string, in io.Reader, out io.Writer) (int, error) {
				if command[0] == "cat" {
					_, err := io.Copy(out, in)
					return 0, err
				}
				var code int
				_, err := fmt.Sscanf(strings.Join(command, " "), "sh -c exit %d", &code)
				return code, err
			},
		})
		g := newGateway(t)
		g.agent("a", inside)
		epoch := int64(0)
		return executortest.Harness{
			Open: func(t *testing.T) booster.Executor {
				epoch++
				e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: epoch}
				g.set(e, nil)
				connected(t, e)
				return e
			},
			Spec: func(_ *testing.T, f mlaas.Fence) booster.Spec { return booster.Spec{Fence: f} },
			Broken: func(_ *testing.T, f mlaas.Fence) booster.Spec {
				return booster.Spec{Fence: f, Environment: mlaas.Environment{Image: "broken"}}
			},
			End:    func(_ *testing.T, f mlaas.Fence, code int) { inside.End(f, code) },
			Starts: func(_ *testing.T, f mlaas.Fence) int { return inside.Starts(f) },
			Left: func(_ *testing.T, f mlaas.Fence) (left []string) {
				for _, name := range inside.Running() {
					if name == f.String() {
						left = append(left, name)
					}
				}
				return left
			},
		}
	})
}

// Who may not call is told why, and so is who asks outside.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change     func(a *remote.Agent, e *remote.Executor)
		kind       *mlaas.Kind
		says, sees string
	}{
		"nobody": {func(a *remote.Agent, _ *remote.Executor) { a.Gateways = []string{"https://127.0.0.1:1"} }, mlaas.ErrUnavailable, "", "no booster inside cluster far is connected"},
		"another token": {func(a *remote.Agent, _ *remote.Executor) { a.Token = "another" }, mlaas.ErrUnavailable, "",
			"this is not the token of cluster far"},
		"no token outside": {func(_ *remote.Agent, e *remote.Executor) { e.Token = "" }, mlaas.ErrUnavailable, "", "this is not the token"},
		"settings that cannot be": {func(a *remote.Agent, _ *remote.Executor) {
			a.Open = func(mlaas.KubeSettings) (booster.Executor, error) {
				return nil, mlaas.Invalid("kube.supervisor", "an image", "")
			}
		}, mlaas.ErrUnavailable, "", "cannot serve it: kube.supervisor"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 1}
			a := &remote.Agent{Gateways: []string{g.URL}, Cluster: "far", Token: token, ID: "a", HTTP: g.Client(),
				Open: func(mlaas.KubeSettings) (booster.Executor, error) { return &scripted.Executor{}, nil }}
			tt.change(a, e)
			g.set(e, nil)
			g.run(a)
			var err error
			for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
				if _, err = e.Capacity(t.Context()); err != nil && strings.Contains(err.Error(), tt.sees) {
					break
				}
				<-time.After(5 * time.Millisecond) // what is seen outside has no event of its own
			}
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.sees) {
				t.Errorf("outside it is %v, want %s", err, tt.sees)
			}
			if a.Connected() == nil {
				t.Error("it believes that it is connected")
			}
		})
	}
}

// A connection that breaks is made again, and replicas do not notice.
func TestReconnect(t *testing.T) {
	inside := stage(t, &scripted.Executor{})
	g := newGateway(t)
	e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 1}
	g.set(e, nil)
	g.agent("a", inside)
	connected(t, e)
	f := mlaas.Fence{Tenant: "t", Run: "r", Epoch: 1, Replica: "worker-0", Incarnation: 1}
	if err := e.Start(t.Context(), booster.Spec{Fence: f}); err != nil {
		t.Fatal(err)
	}
	news, ended := make(chan booster.News, 100), make(chan error, 1)
	go func() { ended <- e.Watch(t.Context(), news) }()
	<-news
	for range 3 {
		g.cut()
		if err := <-ended; !errors.Is(err, mlaas.ErrUnavailable) {
			t.Fatalf("a watch whose connection breaks ends with %v", err)
		}
		go func() { ended <- e.Watch(t.Context(), news) }()
		connected(t, e)
	}
	if n := inside.Starts(f); n != 1 {
		t.Errorf("it was started %d times", n)
	}
	if err := e.Start(t.Context(), booster.Spec{Fence: f}); err != nil || inside.Starts(f) != 1 {
		t.Errorf("started again: %v, %d times", err, inside.Starts(f))
	}
}

// One agent at a time: another one waits until the first is gone.
func TestStandby(t *testing.T) {
	first, second := stage(t, &scripted.Executor{Node: "first"}), stage(t, &scripted.Executor{Node: "second"})
	g := newGateway(t)
	e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 1}
	g.set(e, nil)
	a := &remote.Agent{Gateways: []string{g.URL}, Cluster: "far", Token: token, ID: "a", HTTP: g.Client(), Open: func(mlaas.KubeSettings) (booster.Executor, error) { return first, nil }}
	stop := g.run(a)
	connected(t, e)
	b := g.agent("b", second)
	for range 20 {
		<-time.After(20 * time.Millisecond)
		if have, err := e.Capacity(t.Context()); err != nil || have.Node != "first" || b.Connected() == nil {
			t.Fatalf("while the first is there: %+v, %v; the second: %v", have, err, b.Connected())
		}
	}
	stop()
	connected(t, e)
	if have, err := e.Capacity(t.Context()); err != nil || have.Node != "second" {
		t.Errorf("when the first is gone: %+v, %v", have, err)
	}
}

// A tenant keeps something in its place besides replicas.
type tenant struct {
	*scripted.Executor
	err error // of taking it away
}

func (k tenant) Leave(context.Context) error { return k.err }

// What is kept inside is taken away there, and why it cannot be is told outside.
func TestLeave(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inside booster.Executor
		want   error
	}{
		{"something", tenant{Executor: stage(t, &scripted.Executor{})}, nil},
		{"nothing", stage(t, &scripted.Executor{}), nil},
		{"for ever", tenant{stage(t, &scripted.Executor{}), fmt.Errorf("it may not remove Secrets: %w", mlaas.ErrForbidden)}, mlaas.ErrForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t)
			e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 1}
			g.set(e, nil)
			g.agent("a", tt.inside)
			connected(t, e)
			if err := e.Leave(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("it says %v, want %v", err, tt.want)
			}
		})
	}
}

// What a gateway asks whose lease has passed on is refused.
func TestFenced(t *testing.T) {
	inside := stage(t, &scripted.Executor{})
	g := newGateway(t)
	e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 7}
	g.set(e, nil)
	g.agent("a", inside)
	connected(t, e)
	old := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 6}
	g.set(old, nil) // it does not know
	var err error
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		if _, err = old.Capacity(t.Context()); strings.Contains(fmt.Sprint(err), "tenure 6") {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if !strings.Contains(fmt.Sprint(err), "another process serves cluster far by now: tenure 6 asks, and 7 did") {
		t.Errorf("it is told %v", err)
	}
	if err := old.Start(t.Context(), booster.Spec{Fence: mlaas.Fence{Run: "r", Replica: "worker-0"}}); err == nil || len(inside.Running()) > 0 {
		t.Errorf("it started %v (%v)", inside.Running(), err)
	}
}

// What replicas say passes through: bodies of any size, both ways, and the line,
// with their tokens.
func TestDoor(t *testing.T) {
	g := newGateway(t)
	e := &remote.Executor{Cluster: "far", Token: digest(token), Epoch: 1}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /door/blob/{digest}", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, _ := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%s %d %s", r.PathValue("digest"), n, r.Header.Get("Authorization"))
	})
	mux.HandleFunc("GET /door/blob/{digest}", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this attempt is over "+r.Header.Get("Range"), http.StatusPreconditionFailed)
	})
	g.set(e, mux)
	a := g.agent("a", stage(t, &scripted.Executor{}))
	door := httptest.NewServer(a.Handler())
	defer door.Close()
	connected(t, e)
	do := func(method, path string, body io.Reader) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, door.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer of-a-job")
		r.Header.Set("Range", "bytes=5-")
		answer, err := door.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, strings.TrimSpace(string(text))
	}
	if code, text := do("PUT", "/door/blob/sha256:abc", io.LimitReader(zeros{}, 32<<20)); code != 200 || text != "sha256:abc 33554432 Bearer of-a-job" {
		t.Errorf("a blob passes as %d %s", code, text)
	}
	if code, text := do("GET", "/door/blob/sha256:abc", nil); code != 412 || text != "this attempt is over bytes=5-" {
		t.Errorf("a refusal passes as %d %s", code, text)
	}
	if code, _ := do("GET", "/api/job", nil); code != 404 {
		t.Errorf("something else than the door answers %d", code)
	}
	g.set(nil, nil)
	g.cut()
	for until := time.Now().Add(20 * time.Second); a.Connected() == nil && time.Now().Before(until); {
		<-time.After(5 * time.Millisecond)
	}
	if code, text := do("GET", "/door/blob/sha256:abc", nil); code != 503 || !strings.Contains(text, "connected to no gateway") {
		t.Errorf("without a gateway it is %d %s", code, text)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
