package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"reflect"

	"mlaas.dev/mlaas"
)

// Jobs lists the jobs, newest first; deleted ones instead where so asked.
func (c *Client) Jobs(ctx context.Context, deleted bool) iter.Seq2[mlaas.Job, error] {
	q := url.Values{}
	if deleted {
		q.Set("deleted", "true")
	}
	return each[mlaas.Job](ctx, c, "/api/job", q)
}

// Job reads one job by its id or its name.
func (c *Client) Job(ctx context.Context, job string) (j mlaas.Job, err error) {
	return j, c.Do(ctx, Request{Method: http.MethodGet, Path: path("job", job)}, &j)
}

// CreateJob makes a job. Repeated with the same key it makes one; an empty key
// is a fresh one.
func (c *Client) CreateJob(ctx context.Context, spec mlaas.JobSpec, key string) (j mlaas.Job, err error) {
	spec.Complete() // a bare number of workers is a range
	return j, c.Do(ctx, Request{Method: http.MethodPost, Path: "/api/job", JSON: spec, Key: key}, &j)
}

// EditJob changes a job from one spec into another: it sends what differs. It
// is mlaas.ErrStale where the job is not at this revision any more; 0 does not
// look.
func (c *Client) EditJob(ctx context.Context, job string, from, to mlaas.JobSpec, revision int64) (j mlaas.Job, err error) {
	from.Complete()
	to.Complete()
	patch, err := Diff(from, to)
	if err != nil {
		return j, err
	}
	return c.PatchJob(ctx, job, patch, revision)
}

// PatchJob changes a job by a JSON merge patch (RFC 7396).
func (c *Client) PatchJob(ctx context.Context, job string, patch any, revision int64) (j mlaas.Job, err error) {
	return j, c.Do(ctx, Request{Method: http.MethodPatch, Path: path("job", job), JSON: patch, Revision: revision}, &j)
}

// DeleteJob deletes a job; it can be restored for 7 days. It is
// mlaas.ErrConflict while a run lives, unless force stops it first.
func (c *Client) DeleteJob(ctx context.Context, job string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return c.Do(ctx, Request{Method: http.MethodDelete, Path: path("job", job), Query: q}, nil)
}

// RestoreJob brings a deleted job back.
func (c *Client) RestoreJob(ctx context.Context, job string) (j mlaas.Job, err error) {
	return j, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "restore")}, &j)
}

// Diff is the JSON merge patch (RFC 7396) that turns one value into another;
// an empty object where they are equal.
func Diff(from, to any) (map[string]any, error) {
	a, err := tree(from)
	if err != nil {
		return nil, err
	}
	b, err := tree(to)
	return diff(a, b), err
}

func tree(v any) (out map[string]any, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	return out, err
}

func diff(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for k := range from {
		if _, ok := to[k]; !ok {
			patch[k] = nil
		}
	}
	for k, b := range to {
		a, ok := from[k]
		x, one := a.(map[string]any)
		y, two := b.(map[string]any)
		switch {
		case one && two:
			if d := diff(x, y); len(d) > 0 {
				patch[k] = d
			}
		case !ok || !reflect.DeepEqual(a, b):
			patch[k] = b
		}
	}
	return patch
}

// An Ejected is a job whose composed network became code.
type Ejected struct {
	Job     mlaas.Job     `json:"job"`
	Version mlaas.Version `json:"version"`
}

// Eject makes a composed job an ordinary one: its program is its newest
// version. It is mlaas.ErrStale where the job is not at this revision any more.
func (c *Client) Eject(ctx context.Context, job string, revision int64) (out Ejected, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "eject"), Revision: revision}, &out)
}

// Versions lists the versions of a job's code, newest first.
func (c *Client) Versions(ctx context.Context, job string) iter.Seq2[mlaas.Version, error] {
	return each[mlaas.Version](ctx, c, path("job", job, "code"), nil)
}

// Version reads what is known of one version.
func (c *Client) Version(ctx context.Context, job string, v mlaas.VersionID) (out mlaas.Version, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: path("job", job, "code", string(v))}, &out)
}

// Prepared is the code of a version as a run of the job would start it.
type Prepared struct {
	Version mlaas.VersionID `json:"version"`
	Bundle  mlaas.Digest    `json:"bundle"`
	Digest  mlaas.Digest    `json:"digest"`
	Mode    string          `json:"mode"`
	Python  string          `json:"python,omitempty"` // by which it was read
	Hooks   bool            `json:"hooks"`
	Says    []string        `json:"says"`
	Spread  *mlaas.Spread   `json:"spread,omitempty"` // where there are several replicas
	Files   []mlaas.Change  `json:"files"`            // that are not as they were written
}

// Prepared reads what a run of a version would start.
func (c *Client) Prepared(ctx context.Context, job string, v mlaas.VersionID) (out Prepared, err error) {
	return out, c.Do(ctx, Request{Method: http.MethodGet, Path: path("job", job, "code", string(v), "prepared")}, &out)
}

// PushCode makes a version of a job from a tar.gz, which open gives, once for
// each try. Equal code is the version that is there already.
func (c *Client) PushCode(ctx context.Context, job string, size int64, open func() (io.ReadCloser, error)) (v mlaas.Version, err error) {
	return v, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "code"), Open: open, Size: size, Type: "application/gzip"}, &v)
}

// PushFiles makes a version of a job from texts by their paths.
func (c *Client) PushFiles(ctx context.Context, job string, files map[string]string) (v mlaas.Version, err error) {
	body := struct {
		Files map[string]string `json:"files"`
	}{files}
	return v, c.Do(ctx, Request{Method: http.MethodPost, Path: path("job", job, "code"), JSON: body}, &v)
}

// Blob opens bytes by their digest. The caller closes them.
func (c *Client) Blob(ctx context.Context, d mlaas.Digest) (io.ReadCloser, error) {
	resp, err := c.Send(ctx, Request{Method: http.MethodGet, Path: path("blob", string(d)), Accept: "application/octet-stream"})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
