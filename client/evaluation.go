package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
)

// An EvaluationQuery asks for evaluations of a run.
type EvaluationQuery struct {
	Name    string // empty: of every name
	Replica string // empty: of all
	Step    *int64 // of this step; nil: the newest
}

func (q EvaluationQuery) values() url.Values {
	v := url.Values{}
	if q.Replica != "" {
		v.Set("replica", q.Replica)
	}
	if q.Step != nil {
		v.Set("step", strconv.FormatInt(*q.Step, 10))
	}
	return v
}

// Evaluations lists what a run's program evaluated, newest first.
func (c *Client) Evaluations(ctx context.Context, run mlaas.RunID, q EvaluationQuery) iter.Seq2[mlaas.Evaluated, error] {
	v := q.values()
	if q.Name != "" {
		v.Set("name", q.Name)
	}
	return each[mlaas.Evaluated](ctx, c, path("run", string(run), "evaluation"), v)
}

// Evaluation reads the evaluation of a name whole.
func (c *Client) Evaluation(ctx context.Context, run mlaas.RunID, q EvaluationQuery) (e mlaas.EvaluationContent, err error) {
	// A name may have slashes, and they are slashes of the path.
	at := path(append([]string{"run", string(run), "evaluation"}, strings.Split(q.Name, "/")...)...)
	return e, c.Do(ctx, Request{Method: http.MethodGet, Path: at, Query: q.values()}, &e)
}
