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
	"time"

	"mlaas.dev/mlaas"
)

// A Line is one line of a run's log.
type Line struct {
	Cursor  int64  `json:"cursor"` // dense from 1 over all replicas of the run; 0: of a container's own log, which nobody numbers
	Seq     int64  `json:"seq"`    // dense from 1 in its replica
	Replica string `json:"replica"`
	Attempt int    `json:"attempt"`
	mlaas.LogLine
}

// A LogQuery asks for lines of a run.
type LogQuery struct {
	From    int64  // the first cursor; 0: from the beginning
	Last    int    // > 0: instead of From, the last so many
	Replica string // empty: all
	Attempt int    // 0: all

	Previous bool      // the attempt before the newest alone
	Since    time.Time // zero: any; else lines that were written then or later
	Until    time.Time // zero: any; else lines that were written before

	Grep   string // regular expression (RE2); empty: every line
	Follow bool   // go on until the run has ended

	// Lost is called when a followed log loses its server, and again with nil
	// when it is found; the log itself goes on without a gap or a doubled
	// line. nil: nobody is told.
	Lost func(err error)
}

// Log goes through the log of a run in the order of its arrival. Where it
// follows, it lives through lost connections and restarts of the server, and
// ends by itself once the run has ended and its last line was given.
func (c *Client) Log(ctx context.Context, run mlaas.RunID, q LogQuery) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		t := tail{c: c, run: run, q: q, next: max(q.From, 1)}
		for failures := 0; ; {
			before := t.next
			ended := q.Follow && t.ended(ctx) // asked first: what was written before the end is read after it
			more, err := t.read(ctx, yield, q.Follow && !ended)
			if !more {
				return
			}
			switch {
			case err == nil && t.next == before && (ended || !q.Follow):
				return
			case err == nil:
				failures = 0
				if t.next != before || q.Follow && !ended && wait(ctx, 200*time.Millisecond) == nil {
					continue
				}
			case q.Follow && errors.Is(err, mlaas.ErrUnavailable) && ctx.Err() == nil:
				if t.next != before {
					failures = 0
				}
				if failures++; failures == 1 && q.Lost != nil {
					q.Lost(err)
				}
				t.lost = true
				if wait(ctx, min(5*time.Second, 100*time.Millisecond<<min(failures, 10))) == nil {
					continue
				}
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Line{}, err)
			}
			return
		}
	}
}

// A tail is one reading of a log.
type tail struct {
	c    *Client
	run  mlaas.RunID
	q    LogQuery
	next int64 // the cursor that is wanted next
	lost bool  // the server was away

	containers bool // lines of containers, which have no number, were given
}

// pageLines is how many lines are asked for at once.
const pageLines = 10_000

// read gives the lines of one answer. more is false where the caller has had
// enough.
func (t *tail) read(ctx context.Context, yield func(Line, error) bool, follow bool) (more bool, err error) {
	q := url.Values{}
	if t.q.Last > 0 && t.next <= 1 {
		q.Set("last", text(t.q.Last))
	} else {
		q.Set("from", text(t.next))
	}
	if t.q.Replica != "" {
		q.Set("replica", t.q.Replica)
	}
	if t.q.Grep != "" {
		q.Set("grep", t.q.Grep)
	}
	if t.q.Attempt > 0 {
		q.Set("attempt", text(t.q.Attempt))
	}
	if t.q.Previous {
		q.Set("previous", "true")
	}
	for name, at := range map[string]time.Time{"since": t.q.Since, "until": t.q.Until} {
		if !at.IsZero() {
			q.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	before := t.containers
	if follow {
		q.Set("follow", "true")
	} else {
		q.Set("limit", text(pageLines))
	}
	resp, err := t.c.Send(ctx, Request{Method: http.MethodGet, Path: path("run", string(t.run), "log"), Query: q, Accept: "application/x-ndjson"})
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if t.lost && t.q.Lost != nil {
		t.q.Lost(nil)
	}
	t.lost = false
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			if ctx.Err() != nil {
				return true, ctx.Err()
			}
			return true, lost(t.c.URL, err)
		}
		if len(text) > 1 {
			var l Line
			if jerr := json.Unmarshal(text, &l); jerr != nil {
				if err != nil {
					return true, lost(t.c.URL, io.ErrUnexpectedEOF) // cut in the middle of a line
				}
				return true, fmt.Errorf("the log of run %s has a line that cannot be read: %w", t.run, mlaas.ErrInternal)
			}
			if l.Cursor >= t.next || l.Cursor == 0 && !before {
				t.next = max(t.next, l.Cursor+1)
				t.containers = t.containers || l.Cursor == 0
				if !yield(l, nil) {
					return false, nil
				}
			}
		}
		if err != nil {
			return true, nil
		}
	}
}

// ended reports whether nothing more will be written to the log. Where the
// server does not say, it will.
func (t *tail) ended(ctx context.Context) bool {
	r, err := t.c.Run(ctx, string(t.run))
	return err == nil && r.Status.State.Final()
}
