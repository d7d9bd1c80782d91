package management

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/draft"
	"mlaas.dev/mlaas/store"
)

// The draft of a job is its code as it is edited: one folder for everybody, so
// that two tabs or two people work on the same text. Management is the
// authority of which change came first, and keeps each before it answers. What
// is saved is a version as any other.

// A DraftView is a draft as people see it.
type DraftView struct {
	Job     mlaas.JobID     `json:"job"`
	Base    int             `json:"base" doc:"The number of the version that it was made from or saved as; 0: of none"`
	Newest  int             `json:"newest" doc:"The number of the newest version"`
	Came    int             `json:"came,omitempty" doc:"The number of a version that came past the draft, as by a push: to be merged, or not"`
	Changes int             `json:"changes" doc:"Of its files, so far: what comes with fewer is older"`
	Changed bool            `json:"changed" doc:"Whether it is other than its base"`
	Files   []DraftFileView `json:"files" doc:"Sorted by path"`
	Removed []string        `json:"removed" doc:"Files of the base that it has no more"`
	People  []DraftPerson   `json:"people" doc:"Who has a text open"`

	Content map[string]string `json:"content,omitempty" doc:"The files that are text, by their paths, with \\n at the ends of lines"`
}

// A DraftFileView is one file of a draft.
type DraftFileView struct {
	mlaas.File
	Doc    string `json:"doc,omitempty" doc:"The id of its text, once it was opened"`
	Change string `json:"change,omitempty" doc:"Against the base: new or edited"`
}

// A DraftPerson is who has a text open, and where in it.
type DraftPerson struct {
	Client string `json:"client" doc:"The word that its edits carry"`
	Name   string `json:"name"`
	Doc    string `json:"doc"`
	Anchor int    `json:"anchor" doc:"Where the selection begins, in UTF-16 units"`
	Head   int    `json:"head" doc:"Where the cursor is"`
}

// A drafting is a draft that is being changed, with its texts.
type drafting struct {
	m    *Management
	job  mlaas.Job
	rev  int64 // 0: there is no record yet
	docs map[string]store.Found[mlaas.Doc]
	base mlaas.Version // what it is compared with; zero: nothing

	mlaas.Draft
	batch store.Batch // of the texts
}

// drafting reads the draft of a job. Where there is none, it is that of the
// newest version.
func (m *Management) drafting(ctx context.Context, job string) (*drafting, error) {
	j, err := m.findJob(ctx, tenantOf(ctx), job)
	if err != nil {
		return nil, err
	}
	if j.Code.Mode == "composed" {
		return nil, fmt.Errorf("job %s is composed: its code is written from code.composed. To edit the program itself, make it an ordinary job with POST /api/job/%s/eject, or `mlaas code eject %s`: %w", j.Name, j.Name, j.Name, mlaas.ErrConflict)
	}
	return m.draftingOf(ctx, j)
}

func (m *Management) draftingOf(ctx context.Context, j mlaas.Job) (*drafting, error) {
	d := &drafting{m: m, job: j, docs: map[string]store.Found[mlaas.Doc]{}}
	docs, err := store.Docs(m.DB).All(ctx, store.Query{Tenant: j.Tenant, Prefix: string(j.ID) + "/"})
	if err != nil {
		return nil, err
	}
	for _, f := range docs {
		d.docs[f.Value.ID] = f
	}
	d.Draft, d.rev, err = store.Drafts(m.DB).Get(ctx, j.Tenant, string(j.ID))
	none := errors.Is(err, mlaas.ErrNotFound)
	if none {
		d.Draft = mlaas.Draft{Tenant: j.Tenant, Job: j.ID, Base: j.Versions, Seen: j.Versions}
	} else if err != nil {
		return nil, err
	}
	if d.Base > 0 {
		if d.base, err = m.findVersion(ctx, j, fmt.Sprint(d.Base)); err != nil {
			return nil, err
		}
	}
	if none {
		for _, f := range d.base.Files {
			d.Files = append(d.Files, mlaas.DraftFile{File: f})
		}
	}
	return d, nil
}

// now is a file as it would be saved now.
func (d *drafting) now(f mlaas.DraftFile) mlaas.File {
	doc, ok := d.docs[f.Doc]
	if !ok || doc.Value.Version == 0 { // as it was, byte for byte
		return f.File
	}
	data := draft.Bytes(doc.Value)
	f.File.Digest, f.File.Size = blob.Name(data), int64(len(data))
	return f.File
}

func (d *drafting) view() DraftView {
	v := DraftView{Job: d.Job, Base: d.Base, Newest: d.job.Versions, Changes: d.Changes, Files: []DraftFileView{}, Removed: []string{}, People: []DraftPerson{}}
	if d.job.Versions > d.Seen {
		v.Came = d.job.Versions
	}
	was := byPath(d.base.Files)
	for _, f := range d.Files {
		now := DraftFileView{File: d.now(f), Doc: f.Doc}
		switch before, ok := was[f.Path]; {
		case !ok:
			now.Change = "new"
		case before != now.File:
			now.Change = "edited"
		}
		v.Changed = v.Changed || now.Change != ""
		delete(was, f.Path)
		v.Files = append(v.Files, now)
		for _, client := range slices.Sorted(maps.Keys(d.docs[f.Doc].Value.People)) {
			if p := d.docs[f.Doc].Value.People[client]; d.m.now().Sub(p.Seen) < draft.Present {
				v.People = append(v.People, DraftPerson{Client: client, Name: p.Name, Doc: f.Doc, Anchor: p.Anchor, Head: p.Head})
			}
		}
	}
	v.Removed = append(v.Removed, slices.Sorted(maps.Keys(was))...)
	v.Changed = v.Changed || len(v.Removed) > 0
	return v
}

func byPath(files []mlaas.File) map[string]mlaas.File {
	all := map[string]mlaas.File{}
	for _, f := range files {
		all[f.Path] = f
	}
	return all
}

// find is the index of the file of this path.
func (d *drafting) find(path string) (int, error) {
	i := slices.IndexFunc(d.Files, func(f mlaas.DraftFile) bool { return f.Path == path })
	if i < 0 {
		return i, fmt.Errorf("the draft of job %s has no file %q: %w", d.job.Name, path, mlaas.ErrNotFound)
	}
	return i, nil
}

// put writes the draft and the texts that were changed, in one commit.
func (d *drafting) put() (store.Batch, error) {
	slices.SortFunc(d.Files, func(a, b mlaas.DraftFile) int { return strings.Compare(a.Path, b.Path) })
	files := make([]mlaas.File, len(d.Files))
	for i, f := range d.Files {
		files[i] = f.File
	}
	if len(files) > 0 {
		if err := d.m.check(files, "path"); err != nil {
			return store.Batch{}, err
		}
	}
	d.Changes++
	d.Changed = d.m.stamp()
	return d.batch.Plus(store.Batch{Put: []store.Row{store.Drafts(d.m.DB).Put(d.Draft, d.rev)}}), nil
}

// open gives a file its text, if it has none yet.
func (d *drafting) open(ctx context.Context, i int) (mlaas.Doc, error) {
	if f, ok := d.docs[d.Files[i].Doc]; ok {
		return f.Value, nil
	}
	data, err := blob.GetBytes(ctx, d.m.Blob, d.Files[i].Digest, draft.MaxText+1)
	if err != nil && !errors.Is(err, mlaas.ErrTooLarge) {
		return mlaas.Doc{}, err
	}
	if err != nil {
		data = make([]byte, draft.MaxText+1) // it is told of as any that is too large
	}
	doc, err := draft.Open(d.Files[i].Path, data)
	if err != nil {
		return doc, err
	}
	d.Docs++
	doc.Tenant, doc.Job, doc.ID = d.Tenant, d.Job, fmt.Sprint(d.Docs)
	d.Files[i].Doc = doc.ID
	d.keep(doc)
	return doc, nil
}

// keep has a text written with the draft; it may be kept more than once.
func (d *drafting) keep(doc mlaas.Doc) {
	row := store.Docs(d.m.DB).Put(doc, d.docs[doc.ID].Rev)
	d.batch.Put = slices.DeleteFunc(d.batch.Put, func(r store.Row) bool { return r.Key == row.Key })
	d.batch.Put = append(d.batch.Put, row)
	d.docs[doc.ID] = store.Found[mlaas.Doc]{Value: doc, Rev: d.docs[doc.ID].Rev}
}

// drop has the text of a file removed.
func (d *drafting) drop(i int) {
	id := d.Files[i].Doc
	d.Files[i].Doc = ""
	f, ok := d.docs[id]
	if !ok {
		return
	}
	delete(d.docs, id)
	row := store.Docs(d.m.DB).At(d.Tenant, store.DocKey(d.Job, id), f.Rev)
	d.batch.Put = slices.DeleteFunc(d.batch.Put, func(r store.Row) bool { return r.Key == row.Key })
	if f.Rev > 0 {
		d.batch.Delete = append(d.batch.Delete, row)
	}
}

// take makes a file what is stored; who has its text open sees it change.
func (d *drafting) take(ctx context.Context, f mlaas.File, by string) error {
	i, err := d.find(f.Path)
	if err != nil {
		d.Files = append(d.Files, mlaas.DraftFile{File: f})
		return nil
	}
	was := d.now(d.Files[i])
	d.Files[i].File = f
	if was.Digest == f.Digest {
		return nil
	}
	doc, ok := d.docs[d.Files[i].Doc]
	if !ok {
		return nil
	}
	data, err := blob.GetBytes(ctx, d.m.Blob, f.Digest, draft.MaxText)
	if err == nil {
		err = draft.Set(&doc.Value, data, by)
	}
	switch {
	case errors.Is(err, mlaas.ErrTooLarge), errors.Is(err, mlaas.ErrInvalid):
		d.drop(i) // it is no text any more
		return nil
	case err != nil:
		return err
	}
	d.keep(doc.Value)
	return nil
}

// reset makes the draft what a version is.
func (d *drafting) reset(ctx context.Context, v mlaas.Version) error {
	has := byPath(v.Files)
	for i := len(d.Files) - 1; i >= 0; i-- {
		if _, ok := has[d.Files[i].Path]; !ok {
			d.remove(i)
		}
	}
	for _, f := range v.Files {
		if err := d.take(ctx, f, string(v.ID)); err != nil {
			return err
		}
	}
	d.base, d.Base, d.Seen = v, v.Number, d.job.Versions
	return nil
}

func (d *drafting) remove(i int) {
	d.drop(i)
	d.Files = slices.Delete(d.Files, i, i+1)
}

// follow takes the newest version where nothing is edited.
func (d *drafting) follow(ctx context.Context) error {
	if d.job.Versions <= d.Seen || d.view().Changed {
		return nil
	}
	v, err := d.m.findVersion(ctx, d.job, "")
	if err != nil {
		return err
	}
	return d.reset(ctx, v)
}

type draftIn struct {
	jobIn
	Content bool `query:"content" doc:"With the texts of its files"`
}

func (m *Management) getDraft(ctx context.Context, in *draftIn) (*Answer[DraftView], error) {
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	v := d.view()
	if in.Content {
		v.Content, err = d.texts(ctx)
	}
	return &Answer[DraftView]{Body: v}, err
}

// texts are the files of the draft that can be edited.
func (d *drafting) texts(ctx context.Context) (map[string]string, error) {
	texts, size := map[string]string{}, 0
	for _, f := range d.Files {
		doc, ok := d.docs[f.Doc]
		if !ok {
			if f.Size > draft.MaxText {
				continue
			}
			data, err := blob.GetBytes(ctx, d.m.Blob, f.Digest, draft.MaxText)
			if err != nil {
				return nil, err
			}
			if doc.Value, err = draft.Open(f.Path, data); err != nil {
				continue // it is no text
			}
		}
		texts[f.Path] = doc.Value.Text
		if size += len(doc.Value.Text); size > maxContent {
			return nil, fmt.Errorf("the texts of the draft are more than %s: open them file by file: %w", mlaas.Bytes(maxContent), mlaas.ErrTooLarge)
		}
	}
	return texts, nil
}

// changed is what is answered to a change of a draft, and what it writes.
func (d *drafting) changed() (*Answer[DraftView], store.Batch, error) {
	batch, err := d.put()
	if err != nil {
		return nil, batch, err
	}
	return &Answer[DraftView]{Body: d.view()}, batch, nil
}

type openDocIn struct {
	jobIn
	Body struct {
		Path string `json:"path" doc:"A file of the draft" example:"main.py"`
	}
}

// A DocView is the text of a file of a draft.
type DocView struct {
	Doc     string `json:"doc" doc:"Its id"`
	Path    string `json:"path"`
	Version int64  `json:"version" doc:"How often it was edited: what an edit of this text is to say"`
	Text    string `json:"text" doc:"With \\n at the ends of lines, whatever the file has"`
}

// openDoc answers the text of a file, to be edited from then on.
func (m *Management) openDoc(ctx context.Context, in *openDocIn) (*Answer[DocView], store.Batch, error) {
	none := store.Batch{}
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, none, err
	}
	if err := d.follow(ctx); err != nil {
		return nil, none, err
	}
	i, err := d.find(in.Body.Path)
	if err != nil {
		return nil, none, err
	}
	doc, err := d.open(ctx, i)
	if err != nil {
		return nil, none, err
	}
	a := &Answer[DocView]{Body: DocView{Doc: doc.ID, Path: in.Body.Path, Version: doc.Version, Text: doc.Text}}
	if d.batch.Empty() {
		return a, none, nil
	}
	batch, err := d.put()
	return a, batch, err
}

type pushEditsIn struct {
	jobIn
	Body struct {
		Doc     string       `json:"doc" doc:"The id of a text"`
		Version int64        `json:"version" doc:"The version that the first edit is made of"`
		Edits   []mlaas.Edit `json:"edits,omitempty" doc:"At most 256; none: to say where one is"`
		Client  string       `json:"client" doc:"Who has it open: a word that this editor made up"`
		Name    string       `json:"name,omitempty" doc:"What others call who that is; empty: it has gone"`
		Anchor  int          `json:"anchor,omitempty" doc:"Where the selection begins, in UTF-16 units"`
		Head    int          `json:"head,omitempty" doc:"Where the cursor is"`
	}
}

// A Pushed is what became of edits.
type Pushed struct {
	Version int64        `json:"version" doc:"Of the text now"`
	Taken   bool         `json:"taken" doc:"Whether the edits are in it; else another came first: what is in edits comes before, and the rest is to be pushed anew"`
	Known   bool         `json:"known" doc:"False where the version is so old that what came since is no longer kept: the text is to be opened anew"`
	Edits   []mlaas.Edit `json:"edits" doc:"What came since the version that was pushed to, one's own included"`
}

// pushEdits makes edits of a text, if nobody was first. The same edits pushed
// again are made once.
func (m *Management) pushEdits(ctx context.Context, in *pushEditsIn) (*Answer[Pushed], store.Batch, error) {
	none, ask := store.Batch{}, in.Body
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	switch {
	case len(ask.Edits) > 256:
		return nil, none, mlaas.Invalid("edits", "at most 256", len(ask.Edits))
	case ask.Client == "" || len(ask.Client) > 64:
		return nil, none, mlaas.Invalid("client", "a word of 1 to 64 letters", clip(ask.Client, 80))
	case len(ask.Name) > 64:
		return nil, none, mlaas.Invalid("name", "at most 64 letters", clip(ask.Name, 80))
	}
	doc, rev, err := store.Docs(m.DB).Get(ctx, j.Tenant, store.DocKey(j.ID, ask.Doc))
	if errors.Is(err, mlaas.ErrNotFound) {
		return nil, none, fmt.Errorf("the draft of job %s has no text %q any more: its file was removed: %w", j.Name, ask.Doc, mlaas.ErrGone)
	}
	if err != nil {
		return nil, none, err
	}
	before := doc.Version
	taken, err := draft.Push(&doc, ask.Version, ask.Edits)
	if err != nil {
		return nil, none, err
	}
	since, known := draft.Since(doc, ask.Version)
	a := &Answer[Pushed]{Body: Pushed{Version: doc.Version, Taken: taken, Known: known, Edits: some(since)}}
	if !draft.Meet(&doc, ask.Client, mlaas.Person{Name: ask.Name, Anchor: ask.Anchor, Head: ask.Head, Seen: m.stamp()}) && doc.Version == before {
		return a, none, nil
	}
	return a, store.Batch{Put: []store.Row{store.Docs(m.DB).Put(doc, rev)}}, nil
}

type addFileIn struct {
	jobIn
	Body struct {
		Path    string       `json:"path" doc:"With slashes, from the folder of the code" example:"model/net.py"`
		Text    string       `json:"text,omitempty" doc:"What it says"`
		Digest  mlaas.Digest `json:"digest,omitempty" doc:"Instead of a text: bytes that are here, as by PUT /api/blob"`
		Exec    bool         `json:"exec,omitempty" doc:"May be executed"`
		Replace bool         `json:"replace,omitempty" doc:"Where there is a file of this path, in its place; else that is refused"`
	}
}

func (m *Management) addDraftFile(ctx context.Context, in *addFileIn) (*Answer[DraftView], store.Batch, error) {
	none, ask := store.Batch{}, in.Body
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, none, err
	}
	if _, err := d.find(ask.Path); err == nil && !ask.Replace {
		return nil, none, fmt.Errorf("there is a file %q in the draft of job %s: choose another name, or replace it with replace: true: %w", ask.Path, d.job.Name, mlaas.ErrConflict)
	}
	f := mlaas.File{Path: ask.Path, Digest: ask.Digest, Exec: ask.Exec}
	if err := mlaas.In("path", blob.CheckPath(ask.Path)); err != nil {
		return nil, none, err
	}
	if f.Digest == "" {
		if f.Digest, err = blob.PutBytes(ctx, m.Blob, []byte(ask.Text)); err != nil {
			return nil, none, err
		}
	}
	info, err := blob.Touch(ctx, m.Blob, f.Digest)
	if errors.Is(err, mlaas.ErrNotFound) {
		return nil, none, mlaas.Invalid("digest", "bytes that are here: send them with PUT /api/blob/"+string(f.Digest), string(f.Digest))
	}
	if err != nil {
		return nil, none, err
	}
	f.Size = info.Size
	if err := d.take(ctx, f, "upload"); err != nil {
		return nil, none, err
	}
	return d.changed()
}

type draftFileIn struct {
	jobIn
	Path string `path:"path" doc:"The path of a file" example:"main.py"`
}

func (m *Management) removeDraftFile(ctx context.Context, in *draftFileIn) (*Answer[DraftView], store.Batch, error) {
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, store.Batch{}, err
	}
	i, err := d.find(in.Path)
	if err != nil {
		return nil, store.Batch{}, err
	}
	d.remove(i)
	return d.changed()
}

type renameFileIn struct {
	jobIn
	Body struct {
		From string `json:"from" doc:"The path of a file" example:"net.py"`
		To   string `json:"to" doc:"Its new path" example:"model/net.py"`
	}
}

func (m *Management) renameDraftFile(ctx context.Context, in *renameFileIn) (*Answer[DraftView], store.Batch, error) {
	none := store.Batch{}
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, none, err
	}
	i, err := d.find(in.Body.From)
	if err != nil {
		return nil, none, err
	}
	if _, err := d.find(in.Body.To); err == nil && in.Body.To != in.Body.From {
		return nil, none, fmt.Errorf("there is a file %q in the draft of job %s: choose another name, or remove that one first: %w", in.Body.To, d.job.Name, mlaas.ErrConflict)
	}
	if err := mlaas.In("to", blob.CheckPath(in.Body.To)); err != nil {
		return nil, none, err
	}
	d.Files[i].Path = in.Body.To
	return d.changed()
}

type saveDraftIn struct {
	jobIn
	Body struct {
		Labels map[string]string `json:"labels,omitempty" doc:"Of the version"`
	} `body:"optional"`
}

// A SavedDraft is the version that a draft was saved as.
type SavedDraft struct {
	Version mlaas.Version `json:"version"`
	Between int           `json:"between,omitempty" doc:"The number of a version that had come past the draft: it is kept beside this one"`
	Draft   DraftView     `json:"draft"`
}

// saveDraft makes a version of the draft. An equal one that is there is
// answered.
func (m *Management) saveDraft(ctx context.Context, in *saveDraftIn) (*Answer[SavedDraft], store.Batch, error) {
	none := store.Batch{}
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, none, err
	}
	if err := checkLabels(in.Body.Labels); err != nil {
		return nil, none, err
	}
	up, err := d.stored(ctx)
	if err != nil {
		return nil, none, err
	}
	up.Labels = in.Body.Labels
	v, rows, err := m.nextVersion(ctx, &d.job, up)
	if err != nil {
		return nil, none, err
	}
	out := SavedDraft{Version: v}
	before := d.job.Versions
	if len(rows) > 0 { // then the job counts it
		rows = append(rows, putJob(m.DB, &d.job))
		before--
	}
	if before > d.Seen {
		out.Between = before
	}
	d.base, d.Base, d.Seen = v, v.Number, d.job.Versions
	for i := range d.Files {
		d.Files[i].File = d.now(d.Files[i])
	}
	batch, err := d.put()
	if err != nil {
		return nil, none, err
	}
	out.Draft = d.view()
	a := &Answer[SavedDraft]{Status: http.StatusOK, Body: out, Location: fmt.Sprintf("/api/job/%s/code/%s", d.Job, v.ID)}
	if len(rows) > 0 {
		a.Status = http.StatusCreated
	}
	return a, batch.Plus(store.Batch{Put: rows}), nil
}

// stored puts what the draft has now where a version would have it.
func (d *drafting) stored(ctx context.Context) (*uploaded, error) {
	files := make([]mlaas.File, len(d.Files))
	for i, f := range d.Files {
		files[i] = d.now(f)
		if files[i].Digest != f.Digest {
			if _, err := blob.PutBytes(ctx, d.m.Blob, draft.Bytes(d.docs[f.Doc].Value)); err != nil {
				return nil, err
			}
		}
	}
	return d.m.folder(ctx, files, "files")
}

type draftVersionIn struct {
	jobIn
	Body struct {
		Version string `json:"version" doc:"v7, 7 or latest" example:"v7"`
		Keep    bool   `json:"keep,omitempty" doc:"When merging: leave the draft as it is, and say no more that this version came"`
	}
}

// resetDraft makes the draft what a version is: to give changes up, or to go
// back to an older version.
func (m *Management) resetDraft(ctx context.Context, in *draftVersionIn) (*Answer[DraftView], store.Batch, error) {
	d, v, err := m.draftAnd(ctx, in)
	if err == nil {
		err = d.reset(ctx, v)
	}
	if err != nil {
		return nil, store.Batch{}, err
	}
	return d.changed()
}

func (m *Management) draftAnd(ctx context.Context, in *draftVersionIn) (*drafting, mlaas.Version, error) {
	d, err := m.drafting(ctx, in.Job)
	if err != nil {
		return nil, mlaas.Version{}, err
	}
	v, err := m.findVersion(ctx, d.job, in.Body.Version)
	return d, v, err
}

// A MergedDraft is a draft that took in what a version changed.
type MergedDraft struct {
	Draft DraftView `json:"draft"`
	Says  []string  `json:"says" doc:"Where both changed the same, a sentence each"`
}

// mergeDraft takes into the draft what a version changed since the draft's base.
func (m *Management) mergeDraft(ctx context.Context, in *draftVersionIn) (*Answer[MergedDraft], store.Batch, error) {
	none := store.Batch{}
	d, v, err := m.draftAnd(ctx, in)
	if err != nil {
		return nil, none, err
	}
	out := MergedDraft{Says: []string{}}
	if in.Body.Keep {
		d.Seen = d.job.Versions
	} else if out.Says, err = d.merge(ctx, v); err != nil {
		return nil, none, err
	}
	batch, err := d.put()
	if err != nil {
		return nil, none, err
	}
	out.Draft = d.view()
	return &Answer[MergedDraft]{Body: out}, batch, nil
}

func (d *drafting) merge(ctx context.Context, v mlaas.Version) (says []string, err error) {
	base, theirs := byPath(d.base.Files), byPath(v.Files)
	says = []string{}
	for i := len(d.Files) - 1; i >= 0; i-- {
		f := d.Files[i]
		was, had := base[f.Path]
		if _, has := theirs[f.Path]; has || !had {
			continue
		}
		if d.now(f).Digest != was.Digest {
			says = append(says, fmt.Sprintf("%s was removed in %s and edited here: it stays.", f.Path, v.ID))
			continue
		}
		d.remove(i)
	}
	for _, t := range v.Files {
		was, had := base[t.Path]
		if had && was == t {
			continue // they changed nothing
		}
		i, missing := d.find(t.Path)
		switch {
		case missing != nil && had:
			says = append(says, fmt.Sprintf("%s was edited in %s and removed here: it is back.", t.Path, v.ID))
			fallthrough
		case missing != nil, had && d.now(d.Files[i]).Digest == was.Digest:
			err = d.take(ctx, t, string(v.ID))
		case d.now(d.Files[i]).Digest == t.Digest:
			d.Files[i].Exec = t.Exec
		default:
			var say string
			if say, err = d.mergeFile(ctx, i, was, t, v); say != "" {
				says = append(says, say)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	d.base, d.Base, d.Seen = v, v.Number, d.job.Versions
	slices.Sort(says)
	return says, nil
}

// mergeFile takes into a file what another one has, both made of the one that
// was.
func (d *drafting) mergeFile(ctx context.Context, i int, was, theirs mlaas.File, v mlaas.Version) (say string, err error) {
	stays := fmt.Sprintf("%s was changed here and in %s, and is not text: it stays as it is here.", theirs.Path, v.ID)
	text := func(digest mlaas.Digest) (string, bool, error) {
		if digest == "" {
			return "", true, nil
		}
		data, err := blob.GetBytes(ctx, d.m.Blob, digest, draft.MaxText)
		if err != nil {
			return "", false, notText(err)
		}
		doc, err := draft.Open(theirs.Path, data)
		return doc.Text, err == nil, notText(err)
	}
	before, ok, err := text(was.Digest)
	if err != nil || !ok {
		return stays, err
	}
	other, ok, err := text(theirs.Digest)
	if err != nil || !ok {
		return stays, err
	}
	doc, err := d.open(ctx, i)
	if err != nil {
		return stays, notText(err)
	}
	merged, conflicts := draft.Merge(before, doc.Text, other, "the draft", string(v.ID))
	if err := draft.Set(&doc, draft.Bytes(mlaas.Doc{Text: merged, CRLF: doc.CRLF}), string(v.ID)); err != nil {
		return stays, notText(err)
	}
	d.keep(doc)
	if conflicts > 0 {
		say = fmt.Sprintf("%s: %d places were changed here and in %s; both stay, between <<<<<<< and >>>>>>>.", theirs.Path, conflicts, v.ID)
	}
	return say, nil
}

// notText is nil for what says of a file that it cannot be edited as text.
func notText(err error) error {
	if errors.Is(err, mlaas.ErrTooLarge) || errors.Is(err, mlaas.ErrInvalid) {
		return nil
	}
	return err
}

// A DocEvent is what the topic draft tells of a text.
type DocEvent struct {
	Doc     string       `json:"doc"`
	Version int64        `json:"version"` // after the edits
	Edits   []mlaas.Edit `json:"edits"`
	Gone    bool         `json:"gone,omitempty"` // its file was removed
}

// drafts tells how the draft of a job stands, each time as a whole, or what is
// edited of one of its texts.
func (t *topic) drafts() error {
	j, err := t.m.findJob(t.ctx, t.who.Tenant, t.Job)
	if err != nil {
		return err
	}
	if t.Doc != "" {
		return t.edits(j)
	}
	var told *DraftView
	view := func() (*DraftView, error) {
		j, err := t.m.findJob(t.ctx, t.who.Tenant, string(j.ID)) // it counts its versions
		if err != nil {
			return nil, err
		}
		d, err := t.m.draftingOf(t.ctx, j)
		if err != nil {
			return nil, err
		}
		v := d.view()
		return &v, nil
	}
	snapshot := func() (any, error) {
		v, err := view()
		if err != nil {
			return nil, err
		}
		told = v
		return []DraftView{*v}, nil
	}
	return t.watch(kindsNamed, snapshot, func(c store.Change) (any, error) {
		if of, _, _ := strings.Cut(c.Row.Key.ID, "/"); of != string(j.ID) {
			return nil, nil
		}
		v, err := view()
		if err != nil || told != nil && reflect.DeepEqual(told, v) {
			return nil, err
		}
		told = v
		return []DraftView{*v}, nil
	})
}

// edits tells what is edited of a text. It begins with the edits that are
// kept: who opened the text a moment before has missed none.
func (t *topic) edits(j mlaas.Job) error {
	told := int64(-1) // the version that the client knows
	key := store.DocKey(j.ID, t.Doc)
	read := func() (any, error) {
		doc, _, err := store.Docs(t.m.DB).Get(t.ctx, j.Tenant, key)
		if errors.Is(err, mlaas.ErrNotFound) {
			return []DocEvent{{Doc: t.Doc, Gone: true, Edits: []mlaas.Edit{}}}, nil
		}
		if err != nil || doc.Version == told {
			return nil, err
		}
		since, known := draft.Since(doc, told)
		if !known {
			since = doc.Edits
		}
		told = doc.Version
		return []DocEvent{{Doc: t.Doc, Version: doc.Version, Edits: some(since)}}, nil
	}
	snapshot := func() (any, error) {
		told = -1
		return read()
	}
	return t.watch([]string{"doc"}, snapshot, func(c store.Change) (any, error) {
		if c.Row.Key.ID != key {
			return nil, nil
		}
		return read()
	})
}
