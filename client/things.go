package client

import (
	"context"
	"io"
	"iter"
	"net/http"
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

// A Secret is what is known of a secret; never what it holds.
type Secret struct {
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Updated time.Time `json:"updated"`
}

// Secrets lists the secrets by name.
func (c *Client) Secrets(ctx context.Context) iter.Seq2[Secret, error] {
	return each[Secret](ctx, c, "/api/secret", nil)
}

// SetSecret makes the next version of a secret. Nobody reads it back.
func (c *Client) SetSecret(ctx context.Context, name, value string) (s Secret, err error) {
	body := struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}{name, value}
	return s, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/secret", JSON: body}, &s)
}

// DeleteSecret deletes every version of a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("secret", name)}, nil)
}

// A Session is one browser that was let in.
type Session struct {
	ID      string     `json:"id"`
	Agent   string     `json:"agent"`
	Address string     `json:"address"`
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	Revoked *time.Time `json:"revoked,omitempty"`
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

// A GC is what was collected.
type GC struct {
	Jobs        int         `json:"jobs"`        // deleted too long ago to be restored
	Checkpoints int         `json:"checkpoints"` // beyond those that are kept of each run
	Blobs       int         `json:"blobs"`       // pieces of content that nothing names
	Freed       mlaas.Bytes `json:"freed"`       // of those
	Logs        mlaas.Bytes `json:"logs"`        // of lines and points over the cap
	Places      []string    `json:"places"`      // what else was swept, a sentence each
}

// GC removes what nothing needs any more.
func (c *Client) GC(ctx context.Context) (out GC, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/gc"}, &out)
}

// Status tells how the platform is.
func (c *Client) Status(ctx context.Context) (out map[string]any, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: "/api/status"}, &out)
}
