package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// An Executor runs replicas in a place that calls at its gateway. Fill in the
// fields, serve Gateway, and Close it at the end. While nobody has called, the
// place is away.
type Executor struct {
	Cluster  string              // its name
	Token    string              // the SHA-256, in hex, of what the one who calls has to show
	Settings *mlaas.KubeSettings // what it lends, for who calls; nil: nothing is said
	Epoch    int64               // of the lease by which it is served; who calls refuses what is older
	Log      *slog.Logger        // nil: silent

	mu      sync.Mutex
	caller  *caller
	changed chan struct{} // closed when who has called is another
	refused string        // why the last one was not let in, or has gone
	closed  bool
}

var (
	_ booster.Executor = (*Executor)(nil)
	_ booster.Leaver   = (*Executor)(nil)
)

// A caller is who is connected.
type caller struct {
	id     string
	client *http.Client
	end    func()
	kind   string // of the executor inside
}

// Kind is the kind of cluster.
func (e *Executor) Kind() string { return mlaas.ClusterRemote }

func (e *Executor) log() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

// Gateway takes the call of the booster inside: GET, a WebSocket.
func (e *Executor) Gateway() http.Handler { return http.HandlerFunc(e.take) }

// admit says whether who calls may.
func (e *Executor) admit(r *http.Request) error {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(token))
	if e.Token == "" || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(e.Token)) != 1 {
		return fmt.Errorf("this is not the token of cluster %s; `mlaas cluster token %s` makes a new one: %w", e.Cluster, e.Cluster, mlaas.ErrUnauthorized)
	}
	if err := speaks(r.Header.Get(versionHeader)); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.caller; c != nil && c.id != r.Header.Get(agentHeader) {
		return fmt.Errorf("another booster (%s) is connected for cluster %s; this one is let in when it goes: %w", c.id, e.Cluster, mlaas.ErrConflict)
	}
	if e.closed {
		return fmt.Errorf("this process does not serve cluster %s any more: %w", e.Cluster, mlaas.ErrUnavailable)
	}
	return nil
}

func (e *Executor) take(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(versionHeader, strconv.Itoa(Version))
	if err := e.admit(r); err != nil {
		if !errors.Is(err, mlaas.ErrConflict) { // somebody is there
			e.note(err)
		}
		fail(w, err)
		return
	}
	socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has answered
	}
	socket.SetReadLimit(-1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context())) // hijacked: it ends when we say so
	defer cancel()
	gone := make(chan struct{})
	var once sync.Once
	conn := watched{websocket.NetConn(ctx, socket, websocket.MessageBinary), gone, func() { once.Do(func() { close(gone) }) }}
	c := &caller{id: r.Header.Get(agentHeader), end: func() { conn.Close() }}
	c.client = &http.Client{Transport: &http.Transport{
		Protocols: protocols(), HTTP2: pings(), DisableCompression: true,
		DialContext: dialOnce(conn),
	}}
	if err := e.open(ctx, c); err != nil {
		e.note(err)
		e.log().Warn("the booster inside a cluster is not taken", "cluster", e.Cluster, "agent", c.id, "error", err)
		conn.Close()
		return
	}
	if !e.enter(c) {
		conn.Close()
		return
	}
	e.log().Info("the booster inside a cluster is connected", "cluster", e.Cluster, "agent", c.id, "kind", c.kind)
	<-gone
	e.leave(c)
	e.log().Info("the booster inside a cluster is gone", "cluster", e.Cluster, "agent", c.id)
}

// dialOnce gives the connection to the first who asks; there is no second.
func dialOnce(c net.Conn) func(context.Context, string, string) (net.Conn, error) {
	took := make(chan struct{}, 1)
	took <- struct{}{}
	return func(context.Context, string, string) (net.Conn, error) {
		select {
		case <-took:
			return c, nil
		default:
			return nil, fmt.Errorf("the booster inside is gone: %w", mlaas.ErrUnavailable)
		}
	}
}

// openWithin is how long the executor inside may take to be made.
const openWithin = 10 * time.Second

// open tells who has called what the cluster lends.
func (e *Executor) open(ctx context.Context, c *caller) error {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	var settings mlaas.KubeSettings
	if e.Settings != nil {
		settings = *e.Settings
	}
	var out struct {
		Kind string `json:"kind"`
	}
	if err := e.askOf(ctx, c, "/open", settings, &out); err != nil {
		return fmt.Errorf("the booster inside cluster %s cannot serve it: %w", e.Cluster, err)
	}
	c.kind = out.Kind
	return nil
}

func (e *Executor) note(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refused = problemOf(err).Message
}

// enter makes c the one who has called. One with the same name called again.
func (e *Executor) enter(c *caller) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.caller != nil && e.caller.id != c.id {
		return false
	}
	if e.caller != nil {
		e.caller.end()
	}
	e.caller, e.refused = c, ""
	e.ring()
	return true
}

func (e *Executor) leave(c *caller) {
	c.client.CloseIdleConnections()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.caller == c {
		e.caller, e.refused = nil, "its connection broke"
		e.ring()
	}
}

// ring tells those who wait for a caller. The lock is held.
func (e *Executor) ring() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// Close ends the connection, and takes no other.
func (e *Executor) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.caller != nil {
		e.caller.end()
		e.caller = nil
	}
	e.ring()
}

// who is connected; else an error that says why nobody is.
func (e *Executor) who() (*caller, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.caller != nil {
		return e.caller, nil, nil
	}
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	why := ""
	if e.refused != "" {
		why = ": " + e.refused
	}
	return nil, e.changed, fmt.Errorf("no booster inside cluster %s is connected%s: %w", e.Cluster, why, mlaas.ErrUnavailable)
}

// ask asks who is connected.
func (e *Executor) ask(ctx context.Context, path string, in, out any) error {
	c, _, err := e.who()
	if err != nil {
		return err
	}
	return e.askOf(ctx, c, path, in, out)
}

func (e *Executor) askOf(ctx context.Context, c *caller, path string, in, out any) error {
	answer, err := e.send(ctx, c, path, in)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, answer.Body)
	} else {
		err = json.NewDecoder(answer.Body).Decode(out)
	}
	if err != nil {
		return e.broke(ctx, err)
	}
	return nil
}

// send asks, and returns an answer that is no error. The caller closes it.
func (e *Executor) send(ctx context.Context, c *caller, path string, in any) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	r, err := e.request(ctx, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return e.do(c, r)
}

func (e *Executor) request(ctx context.Context, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://inside"+path, body)
	if err == nil {
		r.Header.Set(tenureHeader, strconv.FormatInt(e.Epoch, 10))
	}
	return r, err
}

func (e *Executor) do(c *caller, r *http.Request) (*http.Response, error) {
	answer, err := c.client.Do(r)
	if err != nil {
		return nil, e.broke(r.Context(), err)
	}
	if err := failed(answer); err != nil {
		answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// broke is what a broken conversation is.
func (e *Executor) broke(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, mlaas.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("the connection with the booster inside cluster %s broke: %v: %w", e.Cluster, err, mlaas.ErrUnavailable)
}

// Start asks for a replica.
func (e *Executor) Start(ctx context.Context, s booster.Spec) error {
	return e.ask(ctx, "/start", s, nil)
}

// Stop ends a replica.
func (e *Executor) Stop(ctx context.Context, f mlaas.Fence) error {
	return e.ask(ctx, "/stop", f, nil)
}

// Leave takes away what is kept in the place besides replicas. One inside that
// is older knows of no such thing.
func (e *Executor) Leave(ctx context.Context) error {
	return e.ask(ctx, "/leave", struct{}{}, nil)
}

// Capacity tells what the place has.
func (e *Executor) Capacity(ctx context.Context) (have booster.Capacity, err error) {
	return have, e.ask(ctx, "/capacity", struct{}{}, &have)
}

// Watch waits until somebody has called, and then sends what is told.
func (e *Executor) Watch(ctx context.Context, out chan<- booster.News) error {
	c, changed, err := e.who()
	for err != nil {
		e.mu.Lock()
		closed := e.closed
		e.mu.Unlock()
		if closed {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
		c, changed, err = e.who()
	}
	answer, err := e.send(ctx, c, "/watch", struct{}{})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	for d := json.NewDecoder(answer.Body); ; {
		var t told
		if err := d.Decode(&t); err != nil {
			return e.broke(ctx, err)
		}
		switch {
		case t.End != nil:
			return t.End.err()
		case t.News != nil:
			select {
			case out <- *t.News:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// Logs returns what a supervisor itself wrote.
func (e *Executor) Logs(ctx context.Context, f mlaas.Fence, follow bool) (io.ReadCloser, error) {
	c, _, err := e.who()
	if err != nil {
		return nil, err
	}
	answer, err := e.send(ctx, c, "/logs", reading{f, follow})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// Exec runs a command inside a running replica.
func (e *Executor) Exec(ctx context.Context, f mlaas.Fence, command []string, in io.Reader, out io.Writer) (exit int, err error) {
	c, _, err := e.who()
	if err != nil {
		return 0, err
	}
	if in == nil {
		in = http.NoBody
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also what is still being read of in
	r, err := e.request(ctx, "/exec", io.NopCloser(in))
	if err != nil {
		return 0, err
	}
	r.ContentLength = -1
	r.Header.Set(askHeader, encode(asking{f, command}))
	answer, err := e.do(c, r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(out, answer.Body); err != nil {
		return 0, e.broke(ctx, err)
	}
	if code := answer.Trailer.Get(codeHeader); code != "" {
		p := problem{Code: code}
		if err := decode(answer.Trailer.Get(messageHeader), &p.Message); err != nil {
			return 0, err
		}
		return 0, p.err()
	}
	if exit, err = strconv.Atoi(answer.Trailer.Get(exitHeader)); err != nil {
		return 0, fmt.Errorf("the booster inside cluster %s does not say how the command ended: %w", e.Cluster, mlaas.ErrUnavailable)
	}
	return exit, nil
}
