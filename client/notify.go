package client

import (
	"context"
	"iter"
	"net/http"

	"mlaas.dev/mlaas"
)

// A Notification says who is to be told of which ends of runs: a webhook or a
// mailbox, for one job or, where that is empty, for all.
type Notification struct {
	Job    string        `json:"job,omitempty"`
	On     []mlaas.State `json:"on,omitempty"` // empty: failed
	URL    string        `json:"url,omitempty"`
	Secret string        `json:"secret,omitempty"`
	Email  string        `json:"email,omitempty"`
}

// Notify has somebody told when runs end.
func (c *Client) Notify(ctx context.Context, n Notification) (s mlaas.Subscription, err error) {
	return s, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/notification", JSON: n}, &s)
}

// Notifications lists whom you want to be told, newest first.
func (c *Client) Notifications(ctx context.Context) iter.Seq2[mlaas.Subscription, error] {
	return each[mlaas.Subscription](ctx, c, "/api/notification", nil)
}

// DeleteNotification has somebody told no more.
func (c *Client) DeleteNotification(ctx context.Context, id string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("notification", id)}, nil)
}

// TestNotification sends a test, and returns the id of its delivery.
func (c *Client) TestNotification(ctx context.Context, id string) (delivery string, err error) {
	var out struct {
		Delivery string `json:"delivery"`
	}
	err = c.Do(ctx, Request{Method: http.MethodPost, Path: path("notification", id, "test")}, &out)
	return out.Delivery, err
}

// Notified lists what was sent for a notification, newest first.
func (c *Client) Notified(ctx context.Context, id string) iter.Seq2[mlaas.Delivery, error] {
	return each[mlaas.Delivery](ctx, c, path("notification", id, "delivery"), nil)
}
