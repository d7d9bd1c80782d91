package client

import (
	"context"
	"iter"
	"net/http"
	"time"

	"mlaas.dev/mlaas"
)

// A RuleReport is what rules would have done in a run.
type RuleReport struct {
	Run     mlaas.RunID   `json:"run"`
	Number  int           `json:"number"`
	Fired   []RuleFiring  `json:"fired"` // in order of time
	Unknown []RuleUnknown `json:"unknown"`
}

// A RuleFiring is one time that a rule would have fired.
type RuleFiring struct {
	Time    time.Time `json:"time"`
	Rule    string    `json:"rule"`
	Do      string    `json:"do"`
	Replica string    `json:"replica"`
	Attempt int       `json:"attempt"`
	Saw     string    `json:"saw"`
}

// A RuleUnknown is what cannot be told of a rule, and why.
type RuleUnknown struct {
	Rule string `json:"rule"`
	Why  string `json:"why"`
}

// TryRules says what rules would have done in a run of a job: of its newest
// run where run is empty, by the rules of the job where there are none.
func (c *Client) TryRules(ctx context.Context, job string, run mlaas.RunID, rules []mlaas.ActionRule) (r RuleReport, err error) {
	body := struct {
		Run   mlaas.RunID        `json:"run,omitempty"`
		Rules []mlaas.ActionRule `json:"rules,omitempty"`
	}{run, rules}
	return r, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "rule", "dry-run"), JSON: body}, &r)
}

// Deliveries lists the webhooks that rules of a run sent, newest first.
func (c *Client) Deliveries(ctx context.Context, run mlaas.RunID) iter.Seq2[mlaas.Delivery, error] {
	return each[mlaas.Delivery](ctx, c, path("run", string(run), "delivery"), nil)
}

// Redeliver asks for a webhook to be sent again.
func (c *Client) Redeliver(ctx context.Context, run mlaas.RunID, delivery string) (d mlaas.Delivery, err error) {
	return d, c.Do(ctx, Request{Method: http.MethodPost, Path: path("run", string(run), "delivery", delivery, "redeliver")}, &d)
}
