package client

import (
	"context"
	"encoding/json"
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
	body := struct {
		Name  string       `json:"name"`
		Files []mlaas.File `json:"files"`
	}{name, files}
	return d, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/dataset", JSON: body}, &d)
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

// A LoginLink lets one browser in, once.
type LoginLink struct {
	Path    string    `json:"path"` // below the address of the platform
	Expires time.Time `json:"expires"`
}

// Login makes a link that lets one browser in, once.
func (c *Client) Login(ctx context.Context) (l LoginLink, err error) {
	return l, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/session/link"}, &l)
}

// RevokeSession ends a login.
func (c *Client) RevokeSession(ctx context.Context, id string) error {
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("session", id)}, nil)
}

// Clusters lists the places to run replicas.
func (c *Client) Clusters(ctx context.Context) iter.Seq2[Cluster, error] {
	return each[Cluster](ctx, c, "/api/cluster", nil)
}

// A Cluster is a place to run replicas: what is wanted of it, how it does, and
// what of it is promised.
type Cluster struct {
	mlaas.Cluster
	Wanted   string              `json:"wanted"`
	Door     string              `json:"door,omitempty"`
	Server   string              `json:"server,omitempty"`
	Kube     *mlaas.KubeSettings `json:"kube,omitempty"`
	Declared bool                `json:"declared,omitempty"`
	Created  *time.Time          `json:"created,omitempty"`
	Changed  *time.Time          `json:"changed,omitempty"`
	Used     mlaas.Resources     `json:"used"`
	UsedGPUs []mlaas.GPU         `json:"usedGpus,omitempty"`
	Runs     int                 `json:"runs"`
}

// Current reports whether what it says of itself is of how it is reached now.
func (c Cluster) Current() bool { return c.Changed == nil || !c.Of.Before(*c.Changed) }

// A ClusterAsk is a cluster to be added, or what is to be changed of one.
type ClusterAsk struct {
	Name       string `json:"name,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Wanted     string `json:"wanted,omitempty"`
	Door       string `json:"door,omitempty"`
	Kube       any    `json:"kube,omitempty"` // *mlaas.KubeSettings, or a patch of them
	Kubeconfig string `json:"kubeconfig,omitempty"`
	Context    string `json:"context,omitempty"`
}

// Cluster reads one place to run replicas.
func (c *Client) Cluster(ctx context.Context, name string) (k Cluster, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodGet, Path: path("cluster", name)}, &k)
}

// AddCluster adds a place to run replicas.
func (c *Client) AddCluster(ctx context.Context, ask ClusterAsk) (k Cluster, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/cluster", JSON: ask}, &k)
}

// EditCluster changes what ask has of a cluster.
func (c *Client) EditCluster(ctx context.Context, name string, ask ClusterAsk) (k Cluster, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodPatch, Path: path("cluster", name), JSON: ask}, &k)
}

// RemoveCluster says that a cluster is to go.
func (c *Client) RemoveCluster(ctx context.Context, name string) (k Cluster, err error) {
	return k, c.Do(ctx, Request{Method: http.MethodDelete, Path: path("cluster", name)}, &k)
}

// ClusterToken makes the token of a remote cluster; the one before ends.
func (c *Client) ClusterToken(ctx context.Context, name string) (string, error) {
	var out struct {
		Token string `json:"token"`
	}
	err := c.Do(ctx, Request{Method: http.MethodPost, Path: path("cluster", name) + "/token"}, &out)
	return out.Token, err
}

// Environments are those that were resolved, and what there is to choose from.
type Environments struct {
	Items     []mlaas.Locked `json:"items"`
	Catalogue []Framework    `json:"catalogue"`
}

// A Framework is what an environment can be of.
type Framework struct {
	Name     string   `json:"name"`
	Packages []string `json:"packages"`
	Pythons  []string `json:"pythons"`
	Notes    string   `json:"notes,omitempty"`
}

// Environments reads what environments can be of, and those of one framework,
// or of all, that were resolved.
func (c *Client) Environments(ctx context.Context, framework string) (out Environments, err error) {
	q := url.Values{"limit": {"500"}}
	if framework != "" {
		q.Set("framework", framework)
	}
	for {
		var page struct {
			Environments
			Next string `json:"next_page_token"`
		}
		if err := c.Do(ctx, Request{Method: http.MethodGet, Path: "/api/environment", Query: q}, &page); err != nil {
			return out, err
		}
		out.Items, out.Catalogue = append(out.Items, page.Items...), page.Catalogue
		if page.Next == "" {
			return out, nil
		}
		q.Set("page_token", page.Next)
	}
}

// A GC is what was collected.
type GC struct {
	Jobs        int         `json:"jobs"`        // deleted too long ago to be restored
	Checkpoints int         `json:"checkpoints"` // beyond those that are kept of each run
	Blobs       int         `json:"blobs"`       // pieces of content that nothing names
	Freed       mlaas.Bytes `json:"freed"`       // of those
	Logs        mlaas.Bytes `json:"logs"`        // of lines and points over the cap
	Logins      int         `json:"logins"`      // links that are too old, and logins that ended long ago
	Places      []string    `json:"places"`      // what else was swept, a sentence each
}

// A ParkedMessage is one between the services that was given up.
type ParkedMessage struct {
	ID         int64           `json:"id"`
	To         string          `json:"to"` // the service that could not handle it
	Subject    string          `json:"subject"`
	Key        string          `json:"key"` // what it is about
	Deliveries int             `json:"deliveries"`
	Why        string          `json:"why"` // what failed the last time
	Body       json.RawMessage `json:"body"`
}

// Parked lists the messages between the services that were given up, oldest
// first.
func (c *Client) Parked(ctx context.Context) iter.Seq2[ParkedMessage, error] {
	return each[ParkedMessage](ctx, c, "/api/message", nil)
}

// GC removes what nothing needs any more.
func (c *Client) GC(ctx context.Context) (out GC, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/gc"}, &out)
}

// A Status is how the platform is.
type Status struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Data    string    `json:"data,omitempty"`
	Disk    struct {
		Used map[string]int64 `json:"used"`
		Caps map[string]int64 `json:"caps"`
		Free int64            `json:"free"`
	} `json:"disk"`
	Store struct {
		Records int64   `json:"records"`
		Waiting int64   `json:"waiting"`
		Parked  int64   `json:"parked"`
		Oldest  float64 `json:"oldest_seconds"`
		Commits int64   `json:"commits"`
		Syncs   int64   `json:"syncs"`
		Size    int64   `json:"size"`
		Seq     int64   `json:"seq"`
	} `json:"store"`
	Runs     map[string]int `json:"runs"`
	Replicas map[string]int `json:"replicas"`
	Clusters []Cluster      `json:"clusters"`
	Limits   []string       `json:"limits"`
	Process  struct {
		Goroutines int   `json:"goroutines"`
		Heap       int64 `json:"heap"`
	} `json:"process"`
}

// Status tells how the platform is.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: "/api/status"}, &out)
}
