package client

import (
	"context"
	"net/http"

	"mlaas.dev/mlaas"
)

// A PlanAsk is a job that may not be there yet, with its code.
type PlanAsk struct {
	Spec  mlaas.JobSpec     `json:"spec"`
	Job   string            `json:"job,omitempty"`   // whose code is looked at where no files are given
	Files map[string]string `json:"files,omitempty"` // texts by their paths
}

// A Plan is what would become of a job that is run now.
type Plan struct {
	Starts      string            `json:"starts"` // now, waits, never or unknown
	Reason      string            `json:"reason"` // in the words in which a run says it
	Position    int               `json:"position,omitempty"`
	Allocation  *mlaas.Allocation `json:"allocation,omitempty"`
	Environment struct {
		State string       `json:"state"` // known, new or image
		Lock  mlaas.Digest `json:"lock,omitempty"`
		Why   string       `json:"why"`
	} `json:"environment"`
	Says     []string       `json:"says"`
	Changes  []mlaas.Change `json:"changes"`
	Spread   *mlaas.Spread  `json:"spread,omitempty"`
	Problems []struct {
		Field   string `json:"field,omitempty"`
		File    string `json:"file,omitempty"`
		Line    int    `json:"line,omitempty"`
		Message string `json:"message"`
	} `json:"problems"`
	Notes []string      `json:"notes"`
	Spec  mlaas.JobSpec `json:"spec"`
}

// Plan says what would become of a job that is run now. Nothing is done.
func (c *Client) Plan(ctx context.Context, ask PlanAsk) (p Plan, err error) {
	return p, c.Do(ctx, Request{Method: http.MethodPost, Path: path("plan"), JSON: ask}, &p)
}
