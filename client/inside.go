package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
)

// A ShellAsk says what to run beside a program.
type ShellAsk struct {
	Command  []string    // empty: a shell
	Terminal *mlaas.Size // nil: no terminal, and standard error apart
	Term     string      // what kind of terminal, as $TERM says it
}

// Shell runs a command in a running replica, as the program's user. What goes
// over the stream, docs/reference/stream.md says. Who calls it closes it.
func (c *Client) Shell(ctx context.Context, job string, run mlaas.RunID, replica string, ask ShellAsk) (*stream.Stream, error) {
	q := url.Values{}
	for _, w := range ask.Command {
		q.Add("command", w)
	}
	if t := ask.Terminal; t != nil {
		q.Set("terminal", "true")
		q.Set("columns", text(t.Columns))
		q.Set("rows", text(t.Rows))
		q.Set("term", ask.Term)
	}
	return c.stream(ctx, path("job", job, "node", replica, "shell"), run, q)
}

// Stacks reads what every thread of a running replica's Python processes does.
func (c *Client) Stacks(ctx context.Context, job string, run mlaas.RunID, replica string) (out mlaas.Stacks, err error) {
	q := url.Values{"run": {string(run)}}
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: path("job", job, "node", replica, "stack"), Query: q}, &out)
}

// Debugger has a running replica's program let a debugger in.
func (c *Client) Debugger(ctx context.Context, job string, run mlaas.RunID, replica string) (out mlaas.Debugger, err error) {
	q := url.Values{"run": {string(run)}}
	return out, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "node", replica, "debugger"), Query: q}, &out)
}

// Port connects to a port of a running replica. Who calls it closes the stream.
func (c *Client) Port(ctx context.Context, job string, run mlaas.RunID, replica string, port int) (*stream.Stream, error) {
	return c.stream(ctx, path("job", job, "node", replica, "port", strconv.Itoa(port)), run, url.Values{})
}

func (c *Client) stream(ctx context.Context, path string, run mlaas.RunID, q url.Values) (*stream.Stream, error) {
	if run != "" {
		q.Set("run", string(run))
	}
	at := strings.TrimSuffix(c.URL, "/") + path + "?" + q.Encode()
	h := http.Header{}
	if c.Token != "" {
		h.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Agent != "" {
		h.Set("User-Agent", c.Agent)
	}
	conn, answer, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: c.HTTP, HTTPHeader: h})
	if err != nil {
		if answer != nil && answer.StatusCode >= 400 {
			c.trace(http.MethodGet, at, answer.Status)
			defer answer.Body.Close()
			return nil, problem(answer)
		}
		c.trace(http.MethodGet, at, err.Error())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, lost(c.URL, err)
	}
	c.trace(http.MethodGet, at, answer.Status)
	s, _ := stream.Over(ctx, conn)
	return s, nil
}
