package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"

	"mlaas.dev/mlaas"
)

// A Replica is a replica as the API shows it.
type Replica struct {
	ID      string `json:"id"` // "worker-0"
	Attempt int    `json:"attempt"`
	mlaas.Replica
}

// A Run is a run as the API shows it: the wish, and what became of it.
type Run struct {
	mlaas.Run
	Status mlaas.RunState `json:"status"`
}

// A RunAsk is what a run may have otherwise than its job.
type RunAsk struct {
	Version    mlaas.VersionID        `json:"version,omitempty"`
	Parameters map[string]any         `json:"parameters,omitempty"`
	Roles      map[string]*mlaas.Role `json:"roles,omitempty"`
}

// StartRun asks for a run of a job. Repeated with the same key it asks once.
func (c *Client) StartRun(ctx context.Context, job string, ask RunAsk, key string) (r Run, err error) {
	return r, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "run"), JSON: ask, Key: key}, &r)
}

// Runs lists the runs of a job, newest first.
func (c *Client) Runs(ctx context.Context, job string) iter.Seq2[Run, error] {
	return each[Run](ctx, c, path("job", job, "run"), nil)
}

// Run reads one run by its id, or as JOB.7.
func (c *Client) Run(ctx context.Context, run string) (r Run, err error) {
	return r, c.Do(ctx, Request{Method: http.MethodGet, Path: path("run", run)}, &r)
}

// Stop asks for the end of a job's live runs, or of one run alone, and returns
// those that it concerns.
func (c *Client) Stop(ctx context.Context, job string, run mlaas.RunID) ([]Run, error) {
	var stopped Page[Run]
	err := c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "stop"), Query: ofRun(run)}, &stopped)
	return stopped.Items, err
}

// Anywhere lets a run on every node again, also those that its rules have kept
// it from.
func (c *Client) Anywhere(ctx context.Context, run mlaas.RunID) (r Run, err error) {
	return r, c.Do(ctx, Request{Method: http.MethodPost, Path: path("run", string(run), "anywhere")}, &r)
}

// Replicas lists the replicas of a run; of a job's newest run where run is
// empty.
func (c *Client) Replicas(ctx context.Context, job string, run mlaas.RunID) iter.Seq2[Replica, error] {
	return each[Replica](ctx, c, path("job", job, "node"), ofRun(run))
}

// Checkpoints lists the checkpoints of a run, newest first.
func (c *Client) Checkpoints(ctx context.Context, run mlaas.RunID) iter.Seq2[mlaas.Checkpoint, error] {
	return each[mlaas.Checkpoint](ctx, c, path("run", string(run), "checkpoint"), nil)
}

func ofRun(run mlaas.RunID) url.Values {
	if run == "" {
		return nil
	}
	return url.Values{"run": {string(run)}}
}

// A MetricQuery asks for curves of a run.
type MetricQuery struct {
	Replica string // empty: all
	Key     string // empty: all
	Buckets int    // 0: raw points
}

// A Curve is one metric of one replica.
type Curve struct {
	Key     string   `json:"key"`
	Replica string   `json:"replica"`
	Points  []Sample `json:"points"`
}

// A Sample is one point of a curve, or a bucket of it. A raw point has its
// value as Min, Max and Last.
type Sample struct {
	Step, Time     int64 // Time in Unix milliseconds
	Min, Max, Last mlaas.Number
}

// UnmarshalJSON reads [step, time, value] or [step, time, min, max, last].
func (s *Sample) UnmarshalJSON(data []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	into := []any{&s.Step, &s.Time, &s.Min, &s.Max, &s.Last}
	if len(parts) == 3 {
		into = []any{&s.Step, &s.Time, &s.Last}
	}
	if len(parts) != len(into) {
		return fmt.Errorf("a point has %d parts, want 3 or 5: %w", len(parts), mlaas.ErrSyntax)
	}
	for i, p := range parts {
		if err := json.Unmarshal(p, into[i]); err != nil {
			return err
		}
	}
	if len(parts) == 3 {
		s.Min, s.Max = s.Last, s.Last
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (s Sample) MarshalJSON() ([]byte, error) {
	if s.Min == s.Last && s.Max == s.Last || s.Last != s.Last {
		return json.Marshal([]any{s.Step, s.Time, s.Last})
	}
	return json.Marshal([]any{s.Step, s.Time, s.Min, s.Max, s.Last})
}

// Metrics lists the curves of a run.
func (c *Client) Metrics(ctx context.Context, run mlaas.RunID, m MetricQuery) iter.Seq2[Curve, error] {
	q := url.Values{}
	if m.Replica != "" {
		q.Set("replica", m.Replica)
	}
	if m.Key != "" {
		q.Set("key", m.Key)
	}
	if m.Buckets > 0 {
		q.Set("buckets", text(m.Buckets))
	}
	return each[Curve](ctx, c, path("run", string(run), "metric"), q)
}
