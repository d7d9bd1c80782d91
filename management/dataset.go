package management

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// DatasetAsk is a version of a dataset, by files whose bytes are here.
type DatasetAsk struct {
	Name  string       `json:"name" example:"mnist"`
	Files []mlaas.File `json:"files"`
}

type createDatasetIn struct {
	Body DatasetAsk
}

func (m *Management) createDataset(ctx context.Context, in *createDatasetIn) (*Answer[mlaas.Dataset], store.Batch, error) {
	if err := mlaas.CheckName("name", in.Body.Name); err != nil {
		return nil, store.Batch{}, err
	}
	up, err := m.named(ctx, in.Body.Files, "files")
	if err != nil {
		return nil, store.Batch{}, err
	}
	return m.addDataset(ctx, in.Body.Name, up)
}

type datasetIn struct {
	Name string `path:"name" doc:"The name of a dataset" example:"mnist"`
}

type pushDatasetIn struct {
	datasetIn
	Upload *upload
}

func (m *Management) pushDataset(ctx context.Context, in *pushDatasetIn) (*Answer[mlaas.Dataset], store.Batch, error) {
	if err := mlaas.CheckName("name", in.Name); err != nil {
		return nil, store.Batch{}, err
	}
	up, err := in.Upload.read(ctx, m)
	if err != nil {
		return nil, store.Batch{}, err
	}
	if !up.Code {
		return nil, store.Batch{}, mlaas.Invalid("files", wantFiles, "nothing")
	}
	return m.addDataset(ctx, in.Name, up)
}

// addDataset makes the next version, unless the newest is equal.
func (m *Management) addDataset(ctx context.Context, name string, up *uploaded) (*Answer[mlaas.Dataset], store.Batch, error) {
	none, tenant := store.Batch{}, tenantOf(ctx)
	at := func(d mlaas.Dataset) string { return fmt.Sprintf("/api/dataset/%s/%d", d.Name, d.Version) }
	newest, err := m.findDataset(ctx, tenant, name)
	switch {
	case errors.Is(err, mlaas.ErrNotFound):
	case err != nil:
		return nil, none, err
	case newest.Tree == up.Tree:
		return &Answer[mlaas.Dataset]{Status: http.StatusOK, Body: newest, Location: at(newest)}, none, nil
	}
	d := mlaas.Dataset{Name: name, Tenant: tenant, Version: newest.Version + 1, Tree: up.Tree, Files: len(up.Files), Size: up.Size, Created: m.stamp()}
	return &Answer[mlaas.Dataset]{Status: http.StatusCreated, Body: d, Location: at(d)},
		store.Batch{Put: []store.Row{store.Datasets(m.DB).Put(d, 0)}}, nil
}

// findDataset returns the dataset that NAME, NAME@7 or NAME@latest means.
func (m *Management) findDataset(ctx context.Context, tenant mlaas.Tenant, name string) (mlaas.Dataset, error) {
	name, version, _ := strings.Cut(name, "@")
	none := fmt.Errorf("there is no dataset %q of version %q: %w", name, version, mlaas.ErrNotFound)
	if mlaas.CheckName("name", name) != nil {
		return mlaas.Dataset{}, none
	}
	if version == "" || version == "latest" {
		found, _, err := store.Datasets(m.DB).List(ctx, store.Query{Tenant: tenant, Prefix: name + "/", Reverse: true, Limit: 1})
		if err != nil || len(found) == 0 {
			return mlaas.Dataset{}, errors.Join(err, notUnless(err, none))
		}
		return found[0].Value, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(version, "v"))
	if err != nil || n < 1 {
		return mlaas.Dataset{}, none
	}
	d, _, err := store.Datasets(m.DB).Get(ctx, tenant, store.DatasetKey(name, n))
	if errors.Is(err, mlaas.ErrNotFound) {
		return d, none
	}
	return d, err
}

func notUnless(err, none error) error {
	if err != nil {
		return nil
	}
	return none
}

type listDatasetsIn struct{ Paging }

func (m *Management) listDatasets(ctx context.Context, in *listDatasetsIn) (*Answer[List[mlaas.Dataset]], error) {
	return m.datasets(ctx, store.Query{Tenant: tenantOf(ctx)}, in.Paging)
}

type listDatasetVersionsIn struct {
	datasetIn
	Paging
}

func (m *Management) listDatasetVersions(ctx context.Context, in *listDatasetVersionsIn) (*Answer[List[mlaas.Dataset]], error) {
	if _, err := m.findDataset(ctx, tenantOf(ctx), in.Name); err != nil {
		return nil, err
	}
	return m.datasets(ctx, store.Query{Tenant: tenantOf(ctx), Prefix: in.Name + "/", Reverse: true}, in.Paging)
}

func (m *Management) datasets(ctx context.Context, q store.Query, p Paging) (*Answer[List[mlaas.Dataset]], error) {
	return pageOf(ctx, store.Datasets(m.DB), q, p, func(f store.Found[mlaas.Dataset]) (mlaas.Dataset, bool, error) { return f.Value, true, nil })
}

type datasetVersionIn struct {
	datasetIn
	Version string `path:"version" doc:"7, v7 or latest" example:"1"`
}

// A DatasetView is a version of a dataset with its files.
type DatasetView struct {
	mlaas.Dataset
	Members []mlaas.File `json:"members"`
}

func (m *Management) getDataset(ctx context.Context, in *datasetVersionIn) (*Answer[DatasetView], error) {
	d, err := m.findDataset(ctx, tenantOf(ctx), in.Name+"@"+in.Version)
	if err != nil {
		return nil, err
	}
	files, err := m.filesOf(ctx, d.Tree)
	return &Answer[DatasetView]{Body: DatasetView{d, files}}, err
}

func (m *Management) deleteDataset(ctx context.Context, in *datasetIn) (*Answer[None], store.Batch, error) {
	tenant := tenantOf(ctx)
	if _, err := m.findDataset(ctx, tenant, in.Name); err != nil {
		return nil, store.Batch{}, err
	}
	live, err := store.RunStates(m.DB).All(ctx, store.Query{Tenant: tenant, Index: "live"})
	if err != nil {
		return nil, store.Batch{}, err
	}
	for _, s := range live {
		r, _, err := store.Runs(m.DB).Get(ctx, tenant, string(s.Value.Run))
		if err != nil {
			return nil, store.Batch{}, err
		}
		if slices.ContainsFunc(r.Spec.Data, func(d mlaas.Data) bool { return strings.HasPrefix(d.Source, "dataset:"+in.Name+"@") }) {
			return nil, store.Batch{}, fmt.Errorf("run %s/%d reads dataset %s: stop it first: %w", r.JobName, r.Number, in.Name, mlaas.ErrConflict)
		}
	}
	all, err := store.Datasets(m.DB).All(ctx, store.Query{Tenant: tenant, Prefix: in.Name + "/"})
	var b store.Batch
	for _, d := range all {
		b.Delete = append(b.Delete, store.Datasets(m.DB).At(tenant, store.DatasetKey(d.Value.Name, d.Value.Version), d.Rev))
	}
	return &Answer[None]{}, b, err
}

type blobIn struct {
	Digest mlaas.Digest `path:"digest" doc:"sha256: and 64 hex digits" example:"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
}

// BlobInfo is bytes that are kept.
type BlobInfo struct {
	Digest mlaas.Digest `json:"digest"`
	Size   int64        `json:"size"`
}

func (m *Management) putBlob(w http.ResponseWriter, r *http.Request, in *blobIn) error {
	if _, err := blob.CheckDigest(in.Digest); err != nil {
		return err
	}
	from := &remember{r: bodyOfRequest(w, r, m.limits().Blob)}
	d, size, err := m.Blob.Put(r.Context(), from, in.Digest)
	if from.err != nil {
		return brokenBody(from.err)
	}
	if err != nil {
		return err
	}
	return send(w, r, http.StatusCreated, &Answer[BlobInfo]{Body: BlobInfo{d, size}})
}

// headBlob is asked before bytes are named instead of sent, so they must not
// be collected in between.
func (m *Management) headBlob(w http.ResponseWriter, r *http.Request, in *blobIn) error {
	if _, err := blob.Touch(r.Context(), m.Blob, in.Digest); err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	return m.getBlob(w, r, in)
}

func (m *Management) getBlob(w http.ResponseWriter, r *http.Request, in *blobIn) error {
	if _, err := blob.CheckDigest(in.Digest); err != nil {
		return err
	}
	return m.serveBlob(w, r, in.Digest, "")
}

// serveBlob answers with bytes as they are, or a part of them. They are a
// user's, so a browser may save them and nothing else.
func (m *Management) serveBlob(w http.ResponseWriter, r *http.Request, d mlaas.Digest, name string) error {
	info, err := m.Blob.Stat(r.Context(), d)
	if err != nil {
		if errors.Is(err, mlaas.ErrNotFound) {
			return fmt.Errorf("the bytes %s are not here: %w", d, mlaas.ErrNotFound)
		}
		return err
	}
	f := &blobFile{ctx: r.Context(), d: m.Blob, digest: d, size: info.Size}
	defer f.Close()
	var content io.ReadSeeker = f
	if info.Size <= wholeBlob && r.Method != http.MethodHead {
		data, err := blob.GetBytes(r.Context(), m.Blob, d, wholeBlob)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	attach(w, octets, name)
	w.Header().Set("ETag", `"`+string(d)+`"`)
	http.ServeContent(w, r, "", time.Time{}, content)
	if f.err != nil {
		m.log().Error("bytes could not be served to their end", "digest", d, "error", f.err)
	}
	return nil
}

// wholeBlob is how large bytes may be that are read, and so checked, before the
// first of them is served.
const wholeBlob = 1 << 20

func attach(w http.ResponseWriter, media, name string) {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Security-Policy", "sandbox")
	how := "attachment"
	if name != "" {
		if full := mime.FormatMediaType(how, map[string]string{"filename": name}); full != "" {
			how = full
		}
	}
	h.Set("Content-Disposition", how)
}

// A blobFile reads a blob from any place, for http.ServeContent.
type blobFile struct {
	ctx    context.Context
	d      blob.Driver
	digest mlaas.Digest
	size   int64
	at     int64
	r      io.ReadCloser
	err    error
}

// Read holds the last bytes back until it is known that all were right: an
// answer that is cut off is seen to be, and one that is wrong is not.
func (f *blobFile) Read(p []byte) (n int, err error) {
	if f.at >= f.size {
		return 0, io.EOF
	}
	if f.r == nil {
		r, err := f.d.Get(f.ctx, f.digest, f.at)
		if err != nil {
			f.err = err
			return 0, err
		}
		f.r = r
	}
	n, err = f.r.Read(p)
	f.at += int64(n)
	if err == nil && f.at == f.size {
		_, err = f.r.Read(make([]byte, 1))
	}
	if err != nil && err != io.EOF {
		f.err, n = err, 0
	}
	return n, err
}

func (f *blobFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, errors.New("a place before the beginning")
	}
	if offset != f.at {
		f.Close()
	}
	f.at = offset
	return offset, nil
}

// Close may be called more than once.
func (f *blobFile) Close() error {
	if f.r == nil {
		return nil
	}
	r := f.r
	f.r = nil
	return r.Close()
}
