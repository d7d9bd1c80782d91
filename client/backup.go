package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"mlaas.dev/mlaas"
)

// Backup opens a copy of the platform: see package backup. Whoever reads it
// looks for the manifest at its end. The caller closes it.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.Send(ctx, Request{Method: http.MethodGet, Path: "/api/backup", Accept: "application/x-tar"})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// A Check is one thing that the server looks at to know whether it is ready.
type Check struct {
	Name  string `json:"name"`
	Level string `json:"level"` // ok, warning or failing
	Says  string `json:"says"`
}

// Ready asks the server how it is: every check, also those that fail.
func (c *Client) Ready(ctx context.Context) (checks []Check, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	res, err := http.DefaultClient.Do(req) // not Send: 503 is an answer here
	if err != nil {
		return nil, lost(c.URL, err)
	}
	defer res.Body.Close()
	var out struct{ Checks []Check }
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("/readyz of %s answers %s and cannot be read: %w", c.URL, res.Status, mlaas.ErrInternal)
	}
	return out.Checks, nil
}
