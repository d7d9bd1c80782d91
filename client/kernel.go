package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mlaas.dev/mlaas"
)

// A Kernel is where the kernel of a job stands.
type Kernel struct {
	Run       mlaas.RunID     `json:"run"`   // empty: there was none
	State     string          `json:"state"` // none, queued, starting, idle, busy, dead, stopped
	Reason    string          `json:"reason"`
	Version   mlaas.VersionID `json:"version,omitempty"`
	Execution string          `json:"execution,omitempty"`
}

// An Execution is code that a kernel was given, and how it went.
type Execution struct {
	mlaas.KernelExecution
	State   string     `json:"state"`
	Error   string     `json:"error,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// An ExecuteAsk is code to be executed.
type ExecuteAsk struct {
	Code    string          `json:"code"`
	Path    string          `json:"path,omitempty"` // of the file that it is part of
	Line    int             `json:"line,omitempty"` // of its first line there
	Version mlaas.VersionID `json:"version,omitempty"`
}

// Kernel says where the kernel of a job stands.
func (c *Client) Kernel(ctx context.Context, job string) (k Kernel, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodGet, Path: path("job", job, "kernel")}, &k)
}

// StartKernel starts the kernel of a job, or finds the one that lives.
func (c *Client) StartKernel(ctx context.Context, job, key string) (k Kernel, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "kernel"), Key: key}, &k)
}

// TellKernel tells the kernel of a job to stop, restart or interrupt.
func (c *Client) TellKernel(ctx context.Context, job, what string) (k Kernel, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "kernel", what)}, &k)
}

// Answer answers what a program in the kernel asks its user.
func (c *Client) Answer(ctx context.Context, job, value string) error {
	body := map[string]string{"value": value}
	return c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "kernel", "input"), JSON: body}, nil)
}

// Execute gives the kernel of a job code to execute, and starts it where none
// lives. Repeated with the same key it asks once.
func (c *Client) Execute(ctx context.Context, job string, ask ExecuteAsk, key string) (e Execution, err error) {
	return e, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "kernel", "execute"), JSON: ask, Key: key}, &e)
}

// Executions lists what the newest kernel of a job was given, newest first.
func (c *Client) Executions(ctx context.Context, job string) iter.Seq2[Execution, error] {
	return each[Execution](ctx, c, path("job", job, "kernel", "execution"), nil)
}

// KernelEvents gives what a kernel says after the event number from, as it comes,
// until ctx ends. Where the server goes away it goes on when that is back.
func (c *Client) KernelEvents(ctx context.Context, run mlaas.RunID, from int64) iter.Seq2[mlaas.KernelEvent, error] {
	return func(yield func(mlaas.KernelEvent, error) bool) {
		for failures := 0; ; failures++ {
			q := url.Values{"topic": {"kernel"}, "run": {string(run)}, "from": {strconv.FormatInt(from, 10)}}
			resp, err := c.Send(ctx, Request{Method: http.MethodGet, Path: "/api/stream", Query: q, Accept: "application/x-ndjson"})
			if err != nil && !errors.Is(err, mlaas.ErrUnavailable) {
				yield(mlaas.KernelEvent{}, err)
				return
			}
			if err == nil {
				before := from
				done, err := events(resp.Body, &from, yield)
				resp.Body.Close()
				if done {
					return
				}
				if err != nil && !errors.Is(err, mlaas.ErrUnavailable) {
					yield(mlaas.KernelEvent{}, err)
					return
				}
				if from != before {
					failures = 0
				}
			}
			if wait(ctx, min(5*time.Second, 100*time.Millisecond<<min(failures, 10))) != nil {
				yield(mlaas.KernelEvent{}, context.Cause(ctx))
				return
			}
		}
	}
}

// events gives those of one answer; done where nobody wants more.
func events(r io.Reader, from *int64, yield func(mlaas.KernelEvent, error) bool) (done bool, err error) {
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return false, fmt.Errorf("the stream broke off: %v: %w", err, mlaas.ErrUnavailable)
		}
		var in struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		}
		var some []mlaas.KernelEvent
		if err := json.Unmarshal(line, &in); err != nil {
			return false, err
		}
		switch in.Type {
		case "delta", "snapshot":
			if err := json.Unmarshal(in.Data, &some); err != nil {
				return false, err
			}
		case "error":
			return false, fmt.Errorf("the stream ended: %s: %w", in.Data, mlaas.ErrInternal)
		case "reset":
			*from = 0
		}
		for _, e := range some {
			if !yield(e, nil) {
				return true, nil
			}
			*from = e.Seq
		}
	}
}
