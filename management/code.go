package management

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

type pushCodeIn struct {
	jobIn
	Upload *upload
}

// pushCode makes a version of what came. Equal code answers the version that
// is there, so that pushing twice makes one.
func (m *Management) pushCode(ctx context.Context, in *pushCodeIn) (*Answer[mlaas.Version], store.Batch, error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, store.Batch{}, err
	}
	up, err := in.Upload.read(ctx, m)
	if err != nil {
		return nil, store.Batch{}, err
	}
	if !up.Code {
		return nil, store.Batch{}, mlaas.Invalid("files", wantFiles, "nothing")
	}
	if j.Code.Mode == "composed" {
		return nil, store.Batch{}, errComposed(j)
	}
	return m.addVersion(ctx, j, up)
}

// errComposed is why no code can be put into a job whose code is written for it.
func errComposed(j mlaas.Job) error {
	return fmt.Errorf("job %s is composed: its code is written from code.composed. To change the program itself, make it an ordinary job with POST /api/job/%s/eject, or `mlaas code eject %s`: %w", j.Name, j.Name, j.Name, mlaas.ErrConflict)
}

func (m *Management) addVersion(ctx context.Context, j mlaas.Job, up *uploaded) (*Answer[mlaas.Version], store.Batch, error) {
	none := store.Batch{}
	if err := checkLabels(up.Labels); err != nil {
		return nil, none, err
	}
	v, rows, err := m.nextVersion(ctx, &j, up)
	if err != nil {
		return nil, none, err
	}
	a := &Answer[mlaas.Version]{Status: http.StatusOK, Body: v, Location: fmt.Sprintf("/api/job/%s/code/%s", j.ID, v.ID)}
	if len(rows) == 0 {
		return a, none, nil
	}
	a.Status = http.StatusCreated
	return a, store.Batch{Put: append(rows, putJob(m.DB, &j))}, nil
}

// nextVersion is the version of j that is equal to what came, or a new one with
// the row that makes it; then j counts it, and is to be written too.
func (m *Management) nextVersion(ctx context.Context, j *mlaas.Job, up *uploaded) (v mlaas.Version, rows []store.Row, err error) {
	same, _, err := store.Versions(m.DB).List(ctx, store.Query{Tenant: j.Tenant, Index: fmt.Sprintf("bundle=%s/%s", j.ID, up.Tree), Limit: 1})
	if err != nil {
		return v, nil, err
	}
	if len(same) > 0 {
		return same[0].Value, nil, nil
	}
	v, row := m.newVersion(j, up)
	return v, []store.Row{row}, nil
}

// newVersion is the next version of j, which counts it, and the row that makes it.
func (m *Management) newVersion(j *mlaas.Job, up *uploaded) (mlaas.Version, store.Row) {
	j.Versions++
	j.Updated = m.stamp()
	v := mlaas.Version{ID: mlaas.VersionID(fmt.Sprintf("v%d", j.Versions)), Job: j.ID, Tenant: j.Tenant, Number: j.Versions, Bundle: up.Tree,
		Files: up.Files, Entry: entryOf(up.Files), Size: up.Size, Labels: up.Labels, Created: j.Updated}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	return v, store.Versions(m.DB).Put(v, 0)
}

func checkLabels(labels map[string]string) error {
	if len(labels) > 64 {
		return mlaas.Invalid("labels", "at most 64", len(labels))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k == "" || len(k) > 63 || len(labels[k]) > 1024 {
			return mlaas.Invalid("labels", "names of 1 to 63 letters and values of at most 1024", clip(k, 80))
		}
	}
	return nil
}

// entryOf is the file to start: main.py, or the only .py at the top, or the
// only one at all.
func entryOf(files []mlaas.File) string {
	var top, all []string
	for _, f := range files {
		switch {
		case f.Path == "main.py":
			return f.Path
		case path.Ext(f.Path) != ".py":
			continue
		case path.Dir(f.Path) == ".":
			top = append(top, f.Path)
		}
		all = append(all, f.Path)
	}
	switch {
	case len(top) == 1:
		return top[0]
	case len(all) == 1:
		return all[0]
	}
	return ""
}

type versionsIn struct {
	jobIn
	Paging
}

func (m *Management) listVersions(ctx context.Context, in *versionsIn) (*Answer[List[mlaas.Version]], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: j.Tenant, Prefix: string(j.ID) + "/", Reverse: true}
	return pageOf(ctx, store.Versions(m.DB), q, in.Paging, func(f store.Found[mlaas.Version]) (mlaas.Version, bool, error) {
		return f.Value, true, nil
	})
}

// findVersion returns the version that people mean: v7, 7, latest, or nothing,
// which is latest.
func (m *Management) findVersion(ctx context.Context, j mlaas.Job, version string) (mlaas.Version, error) {
	v, _, err := m.versionAt(ctx, j, version)
	return v, err
}

func (m *Management) versionAt(ctx context.Context, j mlaas.Job, version string) (v mlaas.Version, rev int64, err error) {
	n := j.Versions
	if version != "" && version != "latest" {
		if n, err = strconv.Atoi(strings.TrimPrefix(version, "v")); err != nil {
			n = 0
		}
	}
	if n > 0 {
		v, rev, err = store.Versions(m.DB).Get(ctx, j.Tenant, store.VersionKey(j.ID, n))
		if !errors.Is(err, mlaas.ErrNotFound) {
			return v, rev, err
		}
	}
	return v, 0, fmt.Errorf("job %s has no version %q; it has %d: %w", j.Name, version, j.Versions, mlaas.ErrNotFound)
}

type versionIn struct {
	jobIn
	Version string `path:"versionId" doc:"The version: v7, 7 or latest" example:"v1"`
}

type getVersionIn struct {
	versionIn
	Content bool   `query:"content" doc:"With the texts of its files"`
	Format  string `query:"format" doc:"As an archive instead: zip or tar.gz" example:"zip"`
}

// A VersionView is a version, with what its files say where that was asked.
type VersionView struct {
	mlaas.Version
	Content map[string]string `json:"content,omitempty" doc:"The files that are text, by their paths"`
}

// maxContent is how much ?content=true shows.
const maxContent = 32 << 20

func (m *Management) getVersion(w http.ResponseWriter, r *http.Request, in *getVersionIn) error {
	ctx := r.Context()
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return err
	}
	v, rev, err := m.versionAt(ctx, j, in.Version)
	if err != nil {
		return err
	}
	view := VersionView{Version: v}
	switch in.Format {
	case "", "json":
	case "zip", "tar.gz":
		return m.archive(w, r, v, fmt.Sprintf("%s-%s.%s", j.Name, v.ID, in.Format))
	default:
		return mlaas.Invalid("format", "zip or tar.gz", in.Format)
	}
	if in.Content {
		if v.Size > maxContent {
			return fmt.Errorf("version %s is %s, more than %s: read it with ?format=zip, or file by file: %w", v.ID, v.Size, mlaas.Bytes(maxContent), mlaas.ErrTooLarge)
		}
		view.Content = map[string]string{}
		for _, f := range v.Files {
			data, err := blob.GetBytes(ctx, m.Blob, f.Digest, maxContent)
			if err != nil {
				return err
			}
			if utf8.Valid(data) && !bytes.ContainsRune(data, 0) {
				view.Content[f.Path] = string(data)
			}
		}
	}
	return send(w, r, http.StatusOK, &Answer[VersionView]{Body: view, Revision: rev})
}

// archive writes the files of a version as one file.
func (m *Management) archive(w http.ResponseWriter, r *http.Request, v mlaas.Version, name string) error {
	if strings.HasSuffix(name, ".zip") {
		attach(w, "application/zip", name)
		z := zip.NewWriter(w)
		for _, f := range v.Files {
			h := &zip.FileHeader{Name: f.Path, Method: zip.Deflate, Modified: v.Created}
			h.SetMode(modeOf(f))
			to, err := z.CreateHeader(h)
			if err == nil {
				err = m.copyBlob(r.Context(), to, f.Digest)
			}
			if err != nil {
				return err
			}
		}
		return z.Close()
	}
	attach(w, "application/gzip", name)
	gz := gzip.NewWriter(w)
	t := tar.NewWriter(gz)
	for _, f := range v.Files {
		err := t.WriteHeader(&tar.Header{Name: f.Path, Size: f.Size, Mode: int64(modeOf(f)), ModTime: v.Created})
		if err == nil {
			err = m.copyBlob(r.Context(), t, f.Digest)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), gz.Close())
}

func (m *Management) copyBlob(ctx context.Context, to io.Writer, d mlaas.Digest) error {
	from, err := m.Blob.Get(ctx, d, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

type putVersionIn struct {
	versionIn
	Match  string `header:"If-Match" doc:"Replace its labels only if its ETag is this one; else 412"`
	Upload *upload
}

// putVersion makes a new version of code that came, since versions never
// change; with labels alone it replaces those of this one.
func (m *Management) putVersion(ctx context.Context, in *putVersionIn) (*Answer[mlaas.Version], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	v, rev, err := m.versionAt(ctx, j, in.Version)
	if err != nil {
		return nil, none, err
	}
	up, err := in.Upload.read(ctx, m)
	if err != nil {
		return nil, none, err
	}
	if up.Code {
		return m.addVersion(ctx, j, up)
	}
	if err := match(in.Match, fmt.Sprintf("version %s of job %s", v.ID, j.Name), rev); err != nil {
		return nil, none, err
	}
	if err := checkLabels(up.Labels); err != nil {
		return nil, none, err
	}
	v.Labels = up.Labels
	return &Answer[mlaas.Version]{Body: v, Revision: rev + 1}, store.Batch{Put: []store.Row{store.Versions(m.DB).Put(v, rev)}}, nil
}

type fileIn struct {
	versionIn
	Path string `path:"path" doc:"The path of a file" example:"main.py"`
}

func (m *Management) getFile(w http.ResponseWriter, r *http.Request, in *fileIn) error {
	ctx := r.Context()
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return err
	}
	v, err := m.findVersion(ctx, j, in.Version)
	if err != nil {
		return err
	}
	return m.serveFile(w, r, v.Files, in.Path, fmt.Sprintf("version %s of job %s", v.ID, j.Name))
}

// serveFile answers with the one of files that has this path.
func (m *Management) serveFile(w http.ResponseWriter, r *http.Request, files []mlaas.File, name, of string) error {
	i := slices.IndexFunc(files, func(f mlaas.File) bool { return f.Path == name })
	if i < 0 {
		return fmt.Errorf("%s has no file %q: %w", of, name, mlaas.ErrNotFound)
	}
	return m.serveBlob(w, r, files[i].Digest, path.Base(name))
}

// outputsOf returns what a replica left in $MLAAS_OUTPUT.
func (m *Management) outputsOf(ctx context.Context, r mlaas.Replica) ([]mlaas.File, error) {
	if r.Outputs == "" {
		return nil, nil
	}
	return m.filesOf(ctx, r.Outputs)
}

// filesOf reads the description of a folder.
func (m *Management) filesOf(ctx context.Context, d mlaas.Digest) ([]mlaas.File, error) {
	t, err := blob.GetTree(ctx, m.Blob, d)
	return some(t.Files), err
}

// An Artifact is a file that a replica left.
type Artifact struct {
	Replica string `json:"replica" example:"worker-0"`
	mlaas.File
}

type artifactsIn struct {
	runIn
	Paging
}

func (m *Management) artifacts(ctx context.Context, r mlaas.Run) (all []Artifact, err error) {
	replicas, err := m.replicasOf(ctx, r.Tenant, r.ID)
	if err != nil {
		return nil, err
	}
	for _, a := range replicas {
		files, err := m.outputsOf(ctx, a)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			all = append(all, Artifact{a.Fence.Replica, f})
		}
	}
	return all, nil
}

func (m *Management) listArtifacts(ctx context.Context, in *artifactsIn) (*Answer[List[Artifact]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	all, err := m.artifacts(ctx, r)
	if err != nil {
		return nil, err
	}
	return part(all, in.Paging)
}

type artifactIn struct {
	runIn
	Replica string `path:"replica" doc:"The replica that left it" example:"worker-0"`
	Path    string `path:"path" doc:"The path of a file" example:"model.keras"`
}

func (m *Management) getArtifact(w http.ResponseWriter, r *http.Request, in *artifactIn) error {
	ctx := r.Context()
	run, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return err
	}
	all, err := m.artifacts(ctx, run)
	if err != nil {
		return err
	}
	var files []mlaas.File
	for _, a := range all {
		if a.Replica == in.Replica {
			files = append(files, a.File)
		}
	}
	return m.serveFile(w, r, files, in.Path, fmt.Sprintf("replica %s of run %s", in.Replica, in.Run))
}

func modeOf(f mlaas.File) fs.FileMode {
	if f.Exec {
		return 0o755
	}
	return 0o644
}
