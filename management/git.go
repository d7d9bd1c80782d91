package management

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// A GitAsk names a folder of a commit.
type GitAsk struct {
	URL    string `json:"url" doc:"Of a repository that anybody may read, by https" example:"https://example.com/team/train.git"`
	Ref    string `json:"ref,omitempty" doc:"A branch, a tag or a whole commit id; empty: what the repository takes as its newest" example:"main"`
	Folder string `json:"folder,omitempty" doc:"Empty: all of it" example:"mnist"`
}

type gitIn struct {
	jobIn
	Body GitAsk
}

// What a version of git says of itself in its labels.
const (
	labelRepository = "git.url"
	labelRef        = "git.ref"
	labelCommit     = "git.commit"
	labelFolder     = "git.folder"
)

// gitCode makes a version of a folder of a commit. Its labels say of which.
func (m *Management) gitCode(ctx context.Context, in *gitIn) (*Answer[mlaas.Version], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	if j.Code.Mode == "composed" {
		return nil, none, errComposed(j)
	}
	source, err := in.Body.source()
	if err != nil {
		return nil, none, err
	}
	up, err := m.fetched(ctx, source)
	if err != nil {
		return nil, none, err
	}
	up.Labels[labelRepository] = in.Body.URL
	if in.Body.Ref != "" {
		up.Labels[labelRef] = in.Body.Ref
	}
	if in.Body.Folder != "" {
		up.Labels[labelFolder] = in.Body.Folder
	}
	return m.addVersion(ctx, j, up)
}

// source is what was asked for as a source of data is written, which it is
// checked as.
func (a GitAsk) source() (string, error) {
	source := "git+" + a.URL
	if a.Ref != "" {
		source += "@" + a.Ref
	}
	if a.Folder != "" {
		source += "#" + a.Folder
	}
	r, err := mlaas.ParseRepository(source)
	switch {
	case err != nil:
		return "", err
	case r.Ref != a.Ref:
		return "", mlaas.Invalid("url", "https://HOST/PATH, with the branch, tag or commit as ref", a.URL)
	}
	return source, nil
}

// fetched is the code of a commit, with its id among the labels.
func (m *Management) fetched(ctx context.Context, source string) (*uploaded, error) {
	if m.Fetch == nil {
		return nil, fmt.Errorf("this management fetches no repositories: send the code itself: %w", mlaas.ErrConflict)
	}
	work, err := os.MkdirTemp("", "mlaas-git-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	dir := filepath.Join(work, "code")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	limits := m.limits()
	got, err := m.Fetch(ctx, source, dir, filepath.Join(work, "git"), blob.Limits{Files: limits.Files, Bytes: limits.Upload})
	if err != nil {
		return nil, err
	}
	digest, tree, err := blob.PutFolder(ctx, m.Blob, dir, blob.Limits{Files: limits.Files, Bytes: limits.Upload})
	if err != nil {
		return nil, err
	}
	if err := m.check(tree.Files, "folder"); err != nil {
		return nil, err
	}
	return &uploaded{Code: true, Tree: digest, Files: tree.Files, Size: blob.TreeSize(tree), Labels: map[string]string{labelCommit: got.Commit}}, nil
}
