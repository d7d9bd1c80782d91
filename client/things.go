package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"mlaas.dev/mlaas"
)

// Datasets lists the datasets.
func (c *Client) Datasets(ctx context.Context) iter.Seq2[mlaas.Dataset, error] {
	return each[mlaas.Dataset](ctx, c, "/api/dataset", nil)
}

// DeleteDataset deletes every version of a dataset.
func (c *Client) DeleteDataset(ctx context.Context, name string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("dataset", name)}, nil)
}

// PutBlob keeps bytes under their digest; open gives them, once for each try.
func (c *Client) PutBlob(ctx context.Context, d mlaas.Digest, size int64, open func() (io.ReadCloser, error)) error {
	return c.Do(ctx, Request{Method: http.MethodPut, Path: path("blob", string(d)), Open: open, Size: size, Type: "application/octet-stream"}, nil)
}

// HasBlob reports whether the server has bytes of this digest.
func (c *Client) HasBlob(ctx context.Context, d mlaas.Digest) (bool, error) {
	resp, err := c.Send(ctx, Request{Method: http.MethodHead, Path: path("blob", string(d))})
	if err != nil {
		if mlaas.KindOf(err) == mlaas.ErrNotFound {
			return false, nil
		}
		return false, err
	}
	return true, resp.Body.Close()
}

// MakeDataset makes the next version of a dataset from files whose bytes the
// server has. Equal content is the version that is there already.
func (c *Client) MakeDataset(ctx context.Context, name string, files []mlaas.File) (d mlaas.Dataset, err error) {
	return d, c.Do(ctx, Request{Method: http.MethodPost, Path: path("dataset", name), JSON: mlaas.Tree{Files: files}}, &d)
}

// A Secret is what is known of a secret; never its value.
type Secret struct {
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Secrets lists the secrets by name.
func (c *Client) Secrets(ctx context.Context) iter.Seq2[Secret, error] {
	return each[Secret](ctx, c, "/api/secret", nil)
}

// SetSecret makes the next version of a secret. Nobody reads it back.
func (c *Client) SetSecret(ctx context.Context, name, value string) (s Secret, err error) {
	body := struct {
		Value string `json:"value"`
	}{value}
	return s, c.Do(ctx, Request{Method: http.MethodPut, Path: path("secret", name), JSON: body}, &s)
}

// DeleteSecret deletes every version of a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("secret", name)}, nil)
}

// A Session is one login.
type Session struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Agent   string    `json:"agent"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Seen    time.Time `json:"seen"`
}

// Sessions lists who is logged in.
func (c *Client) Sessions(ctx context.Context) iter.Seq2[Session, error] {
	return each[Session](ctx, c, "/api/session", nil)
}

// RevokeSession ends a login.
func (c *Client) RevokeSession(ctx context.Context, id string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("session", id)}, nil)
}

// Clusters lists the places to run replicas.
func (c *Client) Clusters(ctx context.Context) iter.Seq2[Cluster, error] {
	return each[Cluster](ctx, c, "/api/cluster", nil)
}

// A Cluster is a place to run replicas, and what of it is promised.
type Cluster struct {
	mlaas.Cluster
	Used mlaas.Resources `json:"used"`
	Runs int             `json:"runs"`
}

// Environments lists the frameworks that an environment may be of, and the
// locked environments there are.
func (c *Client) Environments(ctx context.Context) iter.Seq2[Environment, error] {
	return each[Environment](ctx, c, "/api/environment", nil)
}

// An Environment is a locked environment.
type Environment struct {
	mlaas.Locked
}

// GC frees what is no longer needed, and tells what it freed.
func (c *Client) GC(ctx context.Context, dry bool) (out map[string]any, err error) {
	q := url.Values{}
	if dry {
		q.Set("dry", "true")
	}
	return out, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/gc", Query: q}, &out)
}

// Status tells how the platform is.
func (c *Client) Status(ctx context.Context) (out map[string]any, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: "/api/status"}, &out)
}
