package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/compose"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// keepDeleted is how long a deleted job can be restored.
const keepDeleted = 7 * 24 * time.Hour

type jobIn struct {
	Job string `path:"id" doc:"The job, by its id or its name" example:"mnist"`
}

type createJobIn struct {
	Body mlaas.JobSpec
}

func (m *Management) createJob(ctx context.Context, in *createJobIn) (*Answer[mlaas.Job], store.Batch, error) {
	spec := in.Body
	spec.Complete()
	if err := m.checkSpec(ctx, &spec); err != nil {
		return nil, store.Batch{}, err
	}
	now := m.stamp()
	j := mlaas.Job{ID: mlaas.JobID(mlaas.NewID(now)), Tenant: tenantOf(ctx), JobSpec: spec, Created: now, Updated: now}
	name, err := m.takeName(ctx, j)
	if err != nil {
		return nil, store.Batch{}, err
	}
	row := putJob(m.DB, &j)
	j.Status = &mlaas.JobStatus{State: mlaas.Created, Reason: neverRun}
	return &Answer[mlaas.Job]{Body: j, Revision: j.Revision, Location: "/api/job/" + string(j.ID)},
		store.Batch{Put: []store.Row{row, name}}, nil
}

const neverRun = "It was never run."

// checkSpec reports what a job may not be, besides what no job anywhere may.
func (m *Management) checkSpec(ctx context.Context, spec *mlaas.JobSpec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	if err := checkLabels(spec.Labels); err != nil {
		return err
	}
	if spec.Code.Mode == "composed" {
		looked, err := m.lookAt(ctx, *spec)
		if err != nil {
			return mlaas.In("code.composed", err)
		}
		if err := compose.Check(looked).Err(); err != nil {
			return err
		}
	}
	if e := spec.Environment; e.Image == "" && len(m.Catalogue) > 0 && !slices.ContainsFunc(m.Catalogue, func(f Framework) bool { return f.Name == e.Framework }) {
		var names []string
		for _, f := range m.Catalogue {
			names = append(names, f.Name)
		}
		return mlaas.Invalid("environment.framework", "one of "+strings.Join(names, ", "), e.Framework)
	}
	return nil
}

// putJob is the row that writes j over the revision that it was read at; j has
// the next one then. What is filled in when it is read is not written.
func putJob(db store.Driver, j *mlaas.Job) store.Row {
	was := j.Revision
	j.Revision++
	stored := *j
	stored.Status, stored.Results = nil, nil
	return store.Jobs(db).Put(stored, was)
}

// takeName is the row by which a job holds its name; mlaas.ErrConflict where
// another job has it.
func (m *Management) takeName(ctx context.Context, j mlaas.Job) (store.Row, error) {
	names := store.JobNames(m.DB)
	n, _, err := names.Get(ctx, j.Tenant, j.Name)
	switch {
	case err == nil:
		return store.Row{}, fmt.Errorf("a job named %s is there already (%s): change it with PATCH, or take another name: %w", j.Name, n.Job, mlaas.ErrConflict)
	case !errors.Is(err, mlaas.ErrNotFound):
		return store.Row{}, err
	}
	return names.Put(store.JobName{Tenant: j.Tenant, Name: j.Name, Job: j.ID}, 0), nil
}

// freeName is the row to delete so that another job may take a name that j
// holds; none where it holds it no more.
func (m *Management) freeName(ctx context.Context, j mlaas.Job, name string) ([]store.Row, error) {
	names := store.JobNames(m.DB)
	n, rev, err := names.Get(ctx, j.Tenant, name)
	switch {
	case errors.Is(err, mlaas.ErrNotFound), err == nil && n.Job != j.ID:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []store.Row{names.At(j.Tenant, name, rev)}, nil
}

// findJob returns the job with this id or name. A deleted one is not found.
func (m *Management) findJob(ctx context.Context, tenant mlaas.Tenant, job string) (mlaas.Job, error) {
	j, err := m.anyJob(ctx, tenant, job)
	if err == nil && j.Deleted != nil {
		return j, fmt.Errorf("job %s was deleted at %s; until %s POST /api/job/%s/restore brings it back: %w", j.Name,
			j.Deleted.Format(time.RFC3339), j.Deleted.Add(keepDeleted).Format(time.RFC3339), j.ID, mlaas.ErrNotFound)
	}
	return j, err
}

// anyJob returns the job with this id, deleted or not, or with this name.
func (m *Management) anyJob(ctx context.Context, tenant mlaas.Tenant, job string) (mlaas.Job, error) {
	j, rev, err := store.Jobs(m.DB).Get(ctx, tenant, job)
	if errors.Is(err, mlaas.ErrNotFound) {
		var n store.JobName
		if n, _, err = store.JobNames(m.DB).Get(ctx, tenant, job); err == nil {
			j, rev, err = store.Jobs(m.DB).Get(ctx, tenant, string(n.Job))
		}
	}
	if errors.Is(err, mlaas.ErrNotFound) {
		return j, fmt.Errorf("there is no job %q: %w", job, mlaas.ErrNotFound)
	}
	j.Revision = rev
	return j, err
}

type listJobsIn struct {
	Paging
	Status  string   `query:"status" doc:"Only those in this state, or in one of these: running,queued" example:"running"`
	Name    string   `query:"name" doc:"Only those whose name begins so"`
	Label   []string `query:"label" doc:"Only those that carry this label: team=vision, or team; may be repeated"`
	Deleted bool     `query:"deleted" doc:"The deleted ones instead, which can be restored for 7 days"`
}

func (m *Management) listJobs(ctx context.Context, in *listJobsIn) (*Answer[List[mlaas.Job]], error) {
	states, err := statesOf(in.Status)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: tenantOf(ctx), Index: "live", Reverse: true}
	if in.Deleted {
		q.Index = "deleted"
	}
	keep := func(f store.Found[mlaas.Job]) (mlaas.Job, bool, error) {
		j := f.Value
		j.Revision = f.Rev
		if in.Deleted != (j.Deleted != nil) || !strings.HasPrefix(j.Name, in.Name) || !labelled(j.Labels, in.Label) {
			return j, false, nil
		}
		s, err := m.statusOf(ctx, j)
		if err != nil {
			return j, false, err
		}
		j.Status = &s
		return j, states == nil || slices.Contains(states, s.State), nil
	}
	found, few, err := m.inStates(ctx, q.Tenant, states)
	if err != nil {
		return nil, err
	}
	if !few {
		return pageOf(ctx, store.Jobs(m.DB), q, in.Paging, keep)
	}
	var ids []string // of jobs with any run in such a state: keep looks at the newest
	for _, s := range found {
		ids = append(ids, string(s.Job))
	}
	return pageAmong(ctx, store.Jobs(m.DB), q.Tenant, ids, in.Paging, keep)
}

// statesOf reads "running,queued".
func statesOf(text string) (states []mlaas.State, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		s := mlaas.State(strings.TrimSpace(part))
		if !slices.Contains(mlaas.States, s) {
			return nil, mlaas.Invalid("status", "one of "+strings.Trim(fmt.Sprint(mlaas.States), "[]"), part)
		}
		states = append(states, s)
	}
	return states, nil
}

func labelled(labels map[string]string, want []string) bool {
	for _, w := range want {
		k, v, valued := strings.Cut(w, "=")
		if got, ok := labels[k]; !ok || valued && got != v {
			return false
		}
	}
	return true
}

func (m *Management) getJob(ctx context.Context, in *jobIn) (*Answer[mlaas.Job], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	if err := m.fill(ctx, &j); err != nil {
		return nil, err
	}
	return &Answer[mlaas.Job]{Body: j, Revision: j.Revision}, nil
}

// fill puts into j what is not stored with it.
func (m *Management) fill(ctx context.Context, j *mlaas.Job) error {
	s, err := m.statusOf(ctx, *j)
	if err != nil {
		return err
	}
	j.Status = &s
	j.Results, err = m.resultsOf(ctx, *j)
	return err
}

// statusOf says where the newest run of a job stands.
func (m *Management) statusOf(ctx context.Context, j mlaas.Job) (mlaas.JobStatus, error) {
	if j.Runs == 0 {
		return mlaas.JobStatus{State: mlaas.Created, Reason: neverRun}, nil
	}
	r, err := m.newestRun(ctx, j)
	if err != nil {
		return mlaas.JobStatus{}, err
	}
	s, err := m.stateOf(ctx, r)
	return mlaas.JobStatus{State: s.State, Reason: s.Reason, Run: r.ID, Number: r.Number}, err
}

// resultsOf says what the newest finished run of a job came to; nil where none
// has finished.
func (m *Management) resultsOf(ctx context.Context, j mlaas.Job) (*mlaas.Results, error) {
	if j.Runs == 0 {
		return nil, nil
	}
	q := store.Query{Tenant: j.Tenant, Index: "job=" + string(j.ID), Reverse: true, Limit: 20}
	for {
		page, next, err := store.RunStates(m.DB).List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			if f.Value.State.Final() && !f.Value.Kernel {
				return m.resultsOfRun(ctx, f.Value)
			}
		}
		if next == (store.Key{}) {
			return nil, nil
		}
		q.After = next
	}
}

func (m *Management) resultsOfRun(ctx context.Context, s mlaas.RunState) (*mlaas.Results, error) {
	res := &mlaas.Results{Run: s.Run, State: s.State, Metrics: map[string]mlaas.Number{}}
	replicas, err := m.replicasOf(ctx, s.Tenant, s.Run)
	if err != nil {
		return nil, err
	}
	run, _, err := store.Runs(m.DB).Get(ctx, s.Tenant, string(s.Run))
	if err != nil {
		return nil, err
	}
	// They are in the order of roles: the chief is the first, or worker 0.
	if len(replicas) > 0 {
		first := replicas[0]
		res.Step = first.Step
		if first.Metrics != nil {
			res.Metrics = first.Metrics
		}
		res.Judged = run.Spec.Evaluation.Judge(first)
	}
	for _, r := range replicas {
		files, err := m.outputsOf(ctx, r)
		if err != nil {
			return nil, err
		}
		res.Artifacts += len(files)
	}
	checkpoints, err := store.Checkpoints(m.DB).All(ctx, store.Query{Tenant: s.Tenant, Prefix: string(s.Run) + "/"})
	res.Checkpoints = len(checkpoints)
	return res, err
}

type patchJobIn struct {
	jobIn
	Match string          `header:"If-Match" doc:"Change it only if its ETag is this one; else 412"`
	Body  json.RawMessage `doc:"JSON merge patch (RFC 7396): fields that are named are replaced, null takes them away"`
}

func (m *Management) patchJob(ctx context.Context, in *patchJobIn) (*Answer[mlaas.Job], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "job "+j.Name, j.Revision); err != nil {
		return nil, none, err
	}
	spec, err := patchSpec(j.JobSpec, in.Body)
	if err != nil {
		return nil, none, err
	}
	if err := m.checkSpec(ctx, &spec); err != nil {
		return nil, none, err
	}
	before, b := j.JobSpec, none
	j.JobSpec = spec
	if !sameJSON(before, spec) {
		j.Updated = m.stamp()
		if spec.Name != before.Name {
			name, err := m.takeName(ctx, j)
			if err != nil {
				return nil, none, err
			}
			if b.Delete, err = m.freeName(ctx, j, before.Name); err != nil {
				return nil, none, err
			}
			b.Put = append(b.Put, name)
		}
		b.Put = append(b.Put, putJob(m.DB, &j))
	}
	if err := m.fill(ctx, &j); err != nil {
		return nil, none, err
	}
	return &Answer[mlaas.Job]{Body: j, Revision: j.Revision}, b, nil
}

// patchSpec is spec changed by a JSON merge patch.
func patchSpec(spec mlaas.JobSpec, patch json.RawMessage) (out mlaas.JobSpec, err error) {
	if p := bytes.TrimSpace(patch); len(p) == 0 || p[0] != '{' {
		return out, mlaas.Invalid("body", "an object: a JSON merge patch of the job", string(p[:min(len(p), 40)]))
	}
	// A null takes away what is not there as well: its name is looked at first.
	if err := mlaas.Decode(patch, new(mlaas.JobSpec)); err != nil {
		return out, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return out, err
	}
	text, err = mergePatch(text, patch)
	if err != nil {
		return out, err
	}
	return mlaas.ReadJob(text)
}

// mergePatch is target changed by patch, as RFC 7396 has it.
func mergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	var a, b any
	for text, into := range map[*json.RawMessage]*any{&target: &a, &patch: &b} {
		d := json.NewDecoder(bytes.NewReader(*text))
		d.UseNumber() // as it was written
		if err := d.Decode(into); err != nil {
			return nil, fmt.Errorf("the patch cannot be read: %v: %w", err, mlaas.ErrSyntax)
		}
	}
	return json.Marshal(merged(a, b))
}

func merged(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = merged(t[k], v)
		}
	}
	return t
}

func sameJSON(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

type deleteJobIn struct {
	jobIn
	Match string `header:"If-Match" doc:"Delete it only if its ETag is this one; else 412"`
	Force bool   `query:"force" doc:"Stop its live runs first"`
}

func (m *Management) deleteJob(ctx context.Context, in *deleteJobIn) (*Answer[None], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "job "+j.Name, j.Revision); err != nil {
		return nil, none, err
	}
	live, err := m.liveRuns(ctx, j)
	if err != nil {
		return nil, none, err
	}
	if len(live) > 0 && !in.Force {
		var names []string
		for _, r := range live {
			names = append(names, fmt.Sprintf("%s/%d (%s)", j.Name, r.Value.Number, r.Value.ID))
		}
		return nil, none, fmt.Errorf("job %s has a live run, %s: stop it first, or delete with ?force=true, which stops it: %w", j.Name, strings.Join(names, ", "), mlaas.ErrConflict)
	}
	b := m.stops(live, "its job was deleted")
	now := m.stamp()
	j.Deleted, j.Updated = &now, now
	b.Put = append(b.Put, putJob(m.DB, &j))
	if b.Delete, err = m.freeName(ctx, j, j.Name); err != nil {
		return nil, none, err
	}
	return &Answer[None]{}, b, nil
}

func (m *Management) restoreJob(ctx context.Context, in *jobIn) (*Answer[mlaas.Job], store.Batch, error) {
	none := store.Batch{}
	j, err := m.anyJob(ctx, tenantOf(ctx), in.Job)
	if errors.Is(err, mlaas.ErrNotFound) {
		j, err = m.deletedJob(ctx, tenantOf(ctx), in.Job)
	}
	if err != nil {
		return nil, none, err
	}
	b := none
	if j.Deleted != nil {
		if m.now().After(j.Deleted.Add(keepDeleted)) {
			return nil, none, fmt.Errorf("job %s was deleted at %s, which is more than 7 days ago: %w", j.Name, j.Deleted.Format(time.RFC3339), mlaas.ErrGone)
		}
		name, err := m.takeName(ctx, j)
		if err != nil {
			return nil, none, err
		}
		j.Deleted, j.Updated = nil, m.stamp()
		b.Put = []store.Row{putJob(m.DB, &j), name}
	}
	if err := m.fill(ctx, &j); err != nil {
		return nil, none, err
	}
	return &Answer[mlaas.Job]{Body: j, Revision: j.Revision}, b, nil
}

// deletedJob returns the one of this name that was deleted last.
func (m *Management) deletedJob(ctx context.Context, tenant mlaas.Tenant, name string) (newest mlaas.Job, err error) {
	all, err := store.Jobs(m.DB).All(ctx, store.Query{Tenant: tenant, Index: "deleted"})
	if err != nil {
		return newest, err
	}
	for _, f := range all {
		if f.Value.Name == name && (newest.Deleted == nil || f.Value.Deleted.After(*newest.Deleted)) {
			newest = f.Value
			newest.Revision = f.Rev
		}
	}
	if newest.ID == "" {
		return newest, fmt.Errorf("there is no job %q, and none that was deleted: %w", name, mlaas.ErrNotFound)
	}
	return newest, nil
}

// tells is the messages of a commit.
func tells[M queue.Message](ms ...M) (out []store.Message) {
	for _, msg := range ms {
		out = append(out, queue.Tell(msg))
	}
	return out
}
