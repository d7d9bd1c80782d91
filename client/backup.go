package client

import (
	"context"
	"io"
	"net/http"
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
