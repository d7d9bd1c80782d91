// Package client speaks to a running mlaas over HTTP: the same calls as the
// REST API, typed. The command line and the end-to-end tests use nothing else.
//
// A call that may be repeated without harm is repeated while the server cannot
// be reached, for as long as [Client.Patience] says: reads, writes that name
// their whole content, and every POST, which carries an Idempotency-Key.
// Failures come back as the kinds of package mlaas, so errors.Is works as it
// does inside the server; [Error] has what else the server said.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
)

// A Client calls one server as one user. Its methods are safe for concurrent
// use; its fields are set before the first call.
type Client struct {
	URL   string // http://host:port, without a path
	Token string // empty: calls are made as nobody

	// Patience is how long one call is tried again while the server refuses
	// connections or says 503. 0 is not at all.
	Patience time.Duration

	HTTP  *http.Client                      // nil: http.DefaultClient; it must not have a Timeout, as logs are followed for days
	Agent string                            // the User-Agent
	Trace func(method, url, outcome string) // nil, or called after each exchange
	Now   func() time.Time                  // nil: time.Now
}

// A Request is one call. Path begins with a slash and is already escaped.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Accept string // empty: application/json

	// At most one of JSON and Body is set. Open is called again for each try.
	JSON any
	Open func() (io.ReadCloser, error)
	Type string // of what Open gives
	Size int64  // of what Open gives, where it is known

	// Key makes a repeated POST the same one; empty: a fresh key.
	Key string

	// Revision makes the call fail with mlaas.ErrStale unless the thing is at
	// this revision; 0: whatever it is at.
	Revision int64
}

// An Error is what the server said about a failed call. It wraps its kind.
type Error struct {
	Kind      *mlaas.Kind
	Status    int    // of HTTP; 0 where no answer came
	Message   string // a sentence: what and why
	Field     string // of the input, where one is wrong
	Fix       string // how to mend it, where the server knows
	RequestID string
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the kind, for errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

// Do makes a call and decodes its JSON answer into out, unless out is nil. An
// answer of 304 or 204 leaves out alone.
func (c *Client) Do(ctx context.Context, r Request, out any) error {
	resp, err := c.Send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return lost(c.URL, err)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = body
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{Kind: mlaas.ErrInternal, Status: resp.StatusCode,
			Message: fmt.Sprintf("%s answered %s %s with something that is no mlaas answer: %v", c.URL, r.Method, r.Path, err)}
	}
	return nil
}

// Send makes a call and returns its answer, whose body the caller closes. An
// answer of 400 or more is an error.
func (c *Client) Send(ctx context.Context, r Request) (*http.Response, error) {
	if r.Method == http.MethodPost && r.Key == "" {
		r.Key = mlaas.NewID(c.now())
	}
	var body []byte
	if r.JSON != nil {
		var err error
		if body, err = json.Marshal(r.JSON); err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		r.Type, r.Size = "application/json", int64(len(body))
		r.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	until := c.now().Add(c.Patience)
	for try := 0; ; try++ {
		resp, err := c.once(ctx, r)
		if err == nil {
			return resp, nil
		}
		pause, again := retry(r, err, try)
		if !again || ctx.Err() != nil || c.now().Add(pause).After(until) {
			return nil, err
		}
		if wait(ctx, pause) != nil {
			return nil, err
		}
	}
}

func (c *Client) once(ctx context.Context, r Request) (*http.Response, error) {
	at := strings.TrimSuffix(c.URL, "/") + r.Path
	if len(r.Query) > 0 {
		at += "?" + r.Query.Encode()
	}
	var body io.ReadCloser
	if r.Open != nil {
		var err error
		if body, err = r.Open(); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, at, nil)
	if err != nil {
		if body != nil {
			body.Close()
		}
		return nil, fmt.Errorf("%q is no address of a server: %w", c.URL, mlaas.ErrSyntax)
	}
	if body != nil {
		req.Body, req.ContentLength = body, -1
		if r.Size > 0 {
			req.ContentLength = r.Size
		} else if r.JSON != nil {
			req.ContentLength = 0
		}
		req.Header.Set("Content-Type", r.Type)
	}
	accept := r.Accept
	if accept == "" {
		accept = "application/json"
	}
	req.Header.Set("Accept", accept)
	if c.Agent != "" {
		req.Header.Set("User-Agent", c.Agent)
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if r.Key != "" {
		req.Header.Set("Idempotency-Key", r.Key)
	}
	if r.Revision > 0 {
		req.Header.Set("If-Match", strconv.Quote(strconv.FormatInt(r.Revision, 10)))
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		c.trace(r.Method, at, err.Error())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, lost(c.URL, err)
	}
	c.trace(r.Method, at, resp.Status)
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

// lost is the error of a call that got no whole answer.
func lost(at string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &unreachable{at, err}
}

// unreachable wraps both what happened and the kind that it is to the caller.
type unreachable struct {
	at  string
	err error
}

func (u *unreachable) Error() string {
	why := u.err.Error()
	switch {
	case errors.Is(u.err, syscall.ECONNREFUSED):
		why = "nothing listens there"
	case errors.Is(u.err, io.EOF), errors.Is(u.err, io.ErrUnexpectedEOF), errors.Is(u.err, syscall.ECONNRESET):
		why = "the connection broke off"
	}
	return fmt.Sprintf("cannot reach mlaas at %s: %s", u.at, why)
}

func (u *unreachable) Unwrap() []error { return []error{mlaas.ErrUnavailable, u.err} }

// retry tells whether a failed call may be made again, and after what pause.
func retry(r Request, err error, try int) (time.Duration, bool) {
	pause := min(2*time.Second, 50*time.Millisecond<<min(try, 10))
	pause += time.Duration(rand.Int64N(int64(pause)/2 + 1)) // apart from the others that wait
	var said *retryAfter
	switch {
	case errors.As(err, &said):
		return max(pause, said.pause), true // it was not begun
	case errors.Is(err, syscall.ECONNREFUSED):
		return pause, true // it never arrived
	case errors.Is(err, mlaas.ErrUnavailable):
		var dns *net.DNSError
		repeatable := r.Method != http.MethodPatch && (r.Method != http.MethodPost || r.Key != "") && r.Revision == 0
		return pause, repeatable && !errors.As(err, &dns)
	}
	return 0, false
}

// retryAfter is an answer of 503 or 429.
type retryAfter struct {
	said  *Error
	pause time.Duration
}

func (r *retryAfter) Error() string { return r.said.Message }
func (r *retryAfter) Unwrap() error { return r.said }

func problem(resp *http.Response) error {
	var p struct {
		Title     string `json:"title"`
		Detail    string `json:"detail"`
		Code      string `json:"error_code"`
		Message   string `json:"message"`
		RequestID string `json:"request_id"`
		Field     string `json:"field"`
		Fix       string `json:"fix"`
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what came is what there is to say
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	e := &Error{Status: resp.StatusCode, Kind: kindOf("", resp.StatusCode), RequestID: resp.Header.Get("X-Request-Id")}
	if strings.HasSuffix(kind, "json") && json.Unmarshal(text, &p) == nil {
		e.Kind, e.Field, e.Fix = kindOf(p.Code, resp.StatusCode), p.Field, p.Fix
		for _, m := range []string{p.Message, p.Detail, p.Title} {
			if e.Message == "" {
				e.Message = m
			}
		}
		if p.RequestID != "" {
			e.RequestID = p.RequestID
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("%s answered %s without saying why", resp.Request.URL.Host, resp.Status)
	}
	if resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests {
		s, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &retryAfter{e, time.Duration(s) * time.Second}
	}
	return e
}

func kindOf(code string, status int) *mlaas.Kind {
	for _, k := range mlaas.Kinds {
		if k.Code == code {
			return k
		}
	}
	for _, k := range mlaas.Kinds {
		if k.Status == status {
			return k
		}
	}
	switch {
	case status == http.StatusBadGateway || status == http.StatusGatewayTimeout:
		return mlaas.ErrUnavailable
	case status < 500:
		return mlaas.ErrSyntax
	}
	return mlaas.ErrInternal
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *Client) trace(method, at, outcome string) {
	if c.Trace != nil {
		c.Trace(method, at, outcome)
	}
}

// path joins escaped parts to "/api/...".
func path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/api")
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}
