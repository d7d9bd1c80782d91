package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/template"
)

// A RunView is a run as it is shown: the wish, and what became of it.
type RunView struct {
	mlaas.Run
	Status mlaas.RunState `json:"status"`
}

// A RunAsk is what a run may have otherwise than its job.
type RunAsk struct {
	Version    mlaas.VersionID        `json:"version,omitempty" doc:"v7, 7 or latest; where not said the job's, or the newest" example:"v1"`
	Parameters map[string]any         `json:"parameters,omitempty" doc:"Over those of the job; null takes one away"`
	Roles      map[string]*mlaas.Role `json:"roles,omitempty" doc:"Over those of the job, field by field"`
}

type startRunIn struct {
	jobIn
	Body json.RawMessage `body:"optional"`
}

func (m *Management) startRun(ctx context.Context, in *startRunIn) (*Answer[RunView], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	run, rows, err := m.newRun(ctx, &j, in.Body)
	if err != nil {
		return nil, none, err
	}
	run.Trace = trace.Of(ctx)
	b := store.Batch{
		Put:  append(rows, putJob(m.DB, &j), store.Runs(m.DB).Put(run, 0)),
		Tell: tells(mlaas.RunAsked{Tenant: run.Tenant, Run: run.ID}),
	}
	return &Answer[RunView]{Body: RunView{run, asked(run)}, Location: "/api/run/" + string(run.ID)}, b, nil
}

// newRun is the next run of j, whose count it raises: everything that it needs
// is looked up now and written down, so that it can be done again. The rows are
// what is to be written besides: the version that a network was composed to.
func (m *Management) newRun(ctx context.Context, j *mlaas.Job, body json.RawMessage) (run mlaas.Run, rows []store.Row, err error) {
	var ask RunAsk
	spec := j.JobSpec
	if len(body) > 0 {
		if err := mlaas.Decode(body, &ask); err != nil {
			return run, nil, err
		}
		var patch struct {
			Parameters json.RawMessage `json:"parameters,omitempty"`
			Roles      json.RawMessage `json:"roles,omitempty"`
		}
		if err := json.Unmarshal(body, &patch); err != nil {
			return run, nil, err
		}
		over := map[string]any{}
		if patch.Parameters != nil {
			over["execution"] = map[string]any{"parameters": patch.Parameters}
		}
		if patch.Roles != nil {
			over["roles"] = patch.Roles
		}
		text, err := json.Marshal(over)
		if err != nil {
			return run, nil, err
		}
		if spec, err = patchSpec(spec, text); err != nil {
			return run, nil, err
		}
	}
	if err := m.checkSpec(ctx, &spec); err != nil {
		return run, nil, err
	}
	want := ask.Version
	if want == "" {
		want = spec.Code.Version
	}
	var version mlaas.Version
	if spec.Code.Mode == "composed" && want == "" {
		version, rows, err = m.composed(ctx, j, spec)
	} else {
		version, err = m.versionToRun(ctx, *j, want)
	}
	if err != nil {
		return run, nil, err
	}
	spec.Code.Version = version.ID
	if err := startable(spec, version); err != nil {
		return run, nil, err
	}
	if err := m.resolve(ctx, j.Tenant, &spec); err != nil {
		return run, nil, err
	}
	if err := m.prepares(ctx, mlaas.Run{Tenant: j.Tenant, Job: j.ID, JobName: j.Name, Version: version, Spec: spec}); err != nil {
		return run, nil, err
	}
	version.Files = []mlaas.File{} // they are in the bundle, and with the version
	now := m.stamp()
	if j.Runs > 0 { // ids sort by the millisecond, and runs by their ids
		last, err := m.newestRun(ctx, *j)
		if err != nil {
			return run, nil, err
		}
		if !now.After(last.Created) {
			now = last.Created.Add(time.Millisecond)
		}
	}
	j.Runs++
	return mlaas.Run{ID: mlaas.RunID(mlaas.NewID(now)), Tenant: j.Tenant, Job: j.ID, JobName: j.Name, Number: j.Runs,
		Version: version, Spec: spec, Wanted: mlaas.WantRun, Created: now}, rows, nil
}

// prepares refuses a run whose code cannot be prepared, where a Python is here
// to say so: else its supervisors do.
func (m *Management) prepares(ctx context.Context, run mlaas.Run) error {
	if m.Prepare == nil || run.Spec.Code.Mode != "annotation" && !run.Spec.Spreads() {
		return nil
	}
	_, err := m.prepare(ctx, run)
	if err != nil && !errors.Is(err, mlaas.ErrInvalid) {
		m.Log.Info("code is not read before its run starts", "job", run.JobName, "version", run.Version.ID, "error", err)
		return nil
	}
	return err
}

// versionToRun returns the version that a run takes.
func (m *Management) versionToRun(ctx context.Context, j mlaas.Job, want mlaas.VersionID) (mlaas.Version, error) {
	if j.Versions == 0 {
		return mlaas.Version{}, fmt.Errorf("job %s has no code yet: push some with POST /api/job/%s/code, or `mlaas code push %s`: %w", j.Name, j.Name, j.Name, mlaas.ErrConflict)
	}
	v, err := m.findVersion(ctx, j, string(want))
	if errors.Is(err, mlaas.ErrNotFound) {
		return v, mlaas.Invalid("version", fmt.Sprintf("v1 to v%d, or latest", j.Versions), string(want))
	}
	return v, err
}

// startable reports whether the version has the file that the command starts.
func startable(spec mlaas.JobSpec, v mlaas.Version) error {
	has := func(file string) bool {
		return slices.ContainsFunc(v.Files, func(f mlaas.File) bool { return f.Path == path.Clean(file) })
	}
	if spec.Code.Mode == "guiding" {
		if _, err := template.Main(spec.Environment.Framework); err != nil {
			return err
		}
		if !has(template.User) {
			return mlaas.Invalid("code.mode", fmt.Sprintf("another one, or code with a file %s, which has the functions of guiding mode: %s has %s", template.User, v.ID, someOf(v.Files)), spec.Code.Mode)
		}
		return nil
	}
	command := spec.Execution.Command
	if len(command) == 0 {
		if v.Entry == "" && spec.Environment.Image == "" {
			return mlaas.Invalid("execution.command", fmt.Sprintf("which file of %s to start, such as [\"python\", \"train.py\"]: it has no main.py, and not one .py alone", v.ID), command)
		}
		return nil
	}
	file, at := "", 0
	switch base := path.Base(command[0]); {
	case strings.HasPrefix(command[0], "./"):
		file = command[0]
	case strings.HasPrefix(base, "python") || base == "sh" || base == "bash":
		// The first word that is no option is the file, unless an option says
		// that the program is elsewhere.
		for i, word := range command[1:] {
			if word == "-m" || word == "-c" || word == "-" {
				return nil
			}
			if !strings.HasPrefix(word, "-") {
				file, at = word, i+1
				break
			}
		}
	}
	if file != "" && !path.IsAbs(file) && (strings.HasSuffix(file, ".py") || strings.HasSuffix(file, ".sh") || at == 0) && !has(file) {
		return mlaas.Invalid(fmt.Sprintf("execution.command[%d]", at), fmt.Sprintf("a file of %s, which has %s", v.ID, someOf(v.Files)), file)
	}
	return nil
}

func someOf(files []mlaas.File) string {
	var names []string
	for i, f := range files {
		if i == 8 {
			names = append(names, fmt.Sprintf("%d more", len(files)-i))
			break
		}
		names = append(names, f.Path)
	}
	return strings.Join(names, ", ")
}

// resolve names what the spec means today: the version of each dataset and
// secret, and the lock of its environment where there is one.
func (m *Management) resolve(ctx context.Context, tenant mlaas.Tenant, spec *mlaas.JobSpec) error {
	spec.Data = slices.Clone(spec.Data)
	for i := range spec.Data {
		name, ok := strings.CutPrefix(spec.Data[i].Source, "dataset:")
		if !ok {
			continue
		}
		d, err := m.findDataset(ctx, tenant, name)
		if errors.Is(err, mlaas.ErrNotFound) {
			return mlaas.Invalid(fmt.Sprintf("data[%d].source", i), "a dataset that is there: send it with `mlaas data put`", spec.Data[i].Source)
		}
		if err != nil {
			return err
		}
		spec.Data[i].Source = fmt.Sprintf("dataset:%s@%d", d.Name, d.Version)
	}
	if err := m.checkSigners(ctx, tenant, spec.Rules); err != nil {
		return err
	}
	e := &spec.Environment
	pinned, err := m.pinSecrets(ctx, tenant, e.Secrets)
	if err != nil {
		return err
	}
	e.Secrets = pinned
	if e.Image != "" {
		return m.runsImages(ctx, e.Image)
	}
	if e.Lock == "" {
		lock, _, err := store.Locks(m.DB).Get(ctx, tenant, string(e.Spec()))
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return err
		}
		e.Lock = lock.Lock
		return nil
	}
	if _, err := m.Blob.Stat(ctx, e.Lock); err != nil {
		return mlaas.Invalid("environment.lock", "the digest of a lock that is there, or none", string(e.Lock))
	}
	return nil
}

// runsImages reports whether there is a cluster that runs containers.
func (m *Management) runsImages(ctx context.Context, image string) error {
	clusters, err := store.Clusters(m.DB).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if c.Value.Kind != "local" {
			return nil
		}
	}
	return mlaas.Invalid("environment.image", "an environment.framework: an image needs a cluster that runs containers, and there is only this machine", image)
}

// asked is the state of a run that the contractor has not heard of.
func asked(r mlaas.Run) mlaas.RunState {
	s := mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Job: r.Job, State: mlaas.Created, Attempts: []mlaas.Attempt{}, Queued: r.Created,
		Reason: "It was asked for and waits for the contractor to hear of it, which takes a moment."}
	if r.Wanted == mlaas.WantStop {
		s.Reason = "It is to stop before it began: " + r.Why + "."
	}
	return s
}

// stateOf says what became of a run.
func (m *Management) stateOf(ctx context.Context, r mlaas.Run) (mlaas.RunState, error) {
	s, _, err := store.RunStates(m.DB).Get(ctx, r.Tenant, string(r.ID))
	if errors.Is(err, mlaas.ErrNotFound) {
		return asked(r), nil
	}
	if s.Attempts == nil {
		s.Attempts = []mlaas.Attempt{}
	}
	return s, err
}

func (m *Management) viewOf(ctx context.Context, r mlaas.Run) (RunView, error) {
	s, err := m.stateOf(ctx, r)
	return RunView{r, s}, err
}

// newestRun returns the newest run of a job, or mlaas.ErrNotFound.
func (m *Management) newestRun(ctx context.Context, j mlaas.Job) (mlaas.Run, error) {
	if j.Runs == 0 {
		return mlaas.Run{}, fmt.Errorf("job %s was never run: %w", j.Name, mlaas.ErrNotFound)
	}
	r, _, err := m.numbered(ctx, j, j.Runs)
	return r, err
}

// findRun returns the run that people mean: its id, JOB/7 or JOB.7.
func (m *Management) findRun(ctx context.Context, tenant mlaas.Tenant, run string) (mlaas.Run, int64, error) {
	r, rev, err := store.Runs(m.DB).Get(ctx, tenant, run)
	if !errors.Is(err, mlaas.ErrNotFound) {
		return r, rev, err
	}
	none := fmt.Errorf("there is no run %q: %w", run, mlaas.ErrNotFound)
	at := strings.LastIndexAny(run, "/.")
	if at < 0 {
		return r, 0, none
	}
	n, err := strconv.Atoi(run[at+1:])
	if err != nil {
		return r, 0, none
	}
	j, err := m.findJob(ctx, tenant, run[:at])
	if err != nil {
		return r, 0, none
	}
	return m.numbered(ctx, j, n)
}

// numbered returns the nth run of a job.
func (m *Management) numbered(ctx context.Context, j mlaas.Job, n int) (mlaas.Run, int64, error) {
	found, _, err := store.Runs(m.DB).List(ctx, store.Query{Tenant: j.Tenant, Index: fmt.Sprintf("number=%s/%d", j.ID, n), Limit: 1})
	if err != nil {
		return mlaas.Run{}, 0, err
	}
	if len(found) == 0 {
		return mlaas.Run{}, 0, fmt.Errorf("there is no run %s/%d: %w", j.Name, n, mlaas.ErrNotFound)
	}
	return found[0].Value, found[0].Rev, nil
}

// runOf returns the run of a job that ?run= names: its id, JOB/7 or 7; the
// newest where it names none.
func (m *Management) runOf(ctx context.Context, j mlaas.Job, run string) (mlaas.Run, int64, error) {
	if run == "" {
		r, err := m.newestRun(ctx, j)
		return r, 0, err
	}
	if n, err := strconv.Atoi(run); err == nil && len(run) < 26 {
		return m.numbered(ctx, j, n)
	}
	r, rev, err := m.findRun(ctx, j.Tenant, run)
	if err == nil && r.Job != j.ID {
		return r, 0, fmt.Errorf("run %s is of job %s, not of %s: %w", run, r.JobName, j.Name, mlaas.ErrNotFound)
	}
	return r, rev, err
}

type listRunsIn struct {
	Paging
	Status string `query:"status" doc:"Only those in this state, or in one of these: running,queued" example:"running"`
}

type jobRunsIn struct {
	jobIn
	listRunsIn
}

func (m *Management) listRuns(ctx context.Context, in *listRunsIn) (*Answer[List[RunView]], error) {
	return m.runs(ctx, in, "")
}

func (m *Management) listJobRuns(ctx context.Context, in *jobRunsIn) (*Answer[List[RunView]], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	return m.runs(ctx, &in.listRunsIn, "job="+string(j.ID))
}

func (m *Management) runs(ctx context.Context, in *listRunsIn, index string) (*Answer[List[RunView]], error) {
	states, err := statesOf(in.Status)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: tenantOf(ctx), Index: index, Reverse: true}
	if states == nil || slices.Contains(states, mlaas.Created) { // some of those have no record of their state yet
		return pageOf(ctx, store.Runs(m.DB), q, in.Paging, func(f store.Found[mlaas.Run]) (RunView, bool, error) {
			v, err := m.viewOf(ctx, f.Value)
			return v, states == nil || slices.Contains(states, v.Status.State), err
		})
	}
	// States sort as their runs do: so many of each hold the page.
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	if after != "" {
		q.After = store.Key{Kind: store.RunStates(m.DB).Kind, Tenant: q.Tenant, ID: after}
	}
	q.Limit = in.limit() + 1
	var ids []string
	for _, s := range states {
		of := q
		if of.Index = "state=" + string(s); index != "" {
			of.Index, of.Limit = index, 0
		}
		for {
			page, next, err := store.RunStates(m.DB).List(ctx, of)
			if err != nil {
				return nil, err
			}
			for _, f := range page {
				if f.Value.State == s {
					ids = append(ids, string(f.Value.Run))
				}
			}
			if index == "" || next == (store.Key{}) {
				break
			}
			of.After = next
		}
	}
	return pageAmong(ctx, store.Runs(m.DB), q.Tenant, ids, in.Paging, func(f store.Found[mlaas.Run]) (RunView, bool, error) {
		v, err := m.viewOf(ctx, f.Value)
		return v, true, err // it was in that state a moment ago, and the page stays full
	})
}

// manyRuns is how many runs of a state are too many to find their jobs by them:
// then the newest jobs are soon found by looking at all.
const manyRuns = 1000

// inStates finds the runs in one of these states. few is false where their jobs
// cannot be found so: where no state is asked for, where jobs that were never
// run are among them, and where there are very many.
func (m *Management) inStates(ctx context.Context, tenant mlaas.Tenant, states []mlaas.State) (found []mlaas.RunState, few bool, err error) {
	if states == nil || slices.Contains(states, mlaas.Created) {
		return nil, false, nil
	}
	for _, s := range states {
		page, _, err := store.RunStates(m.DB).List(ctx, store.Query{Tenant: tenant, Index: "state=" + string(s), Limit: manyRuns + 1 - len(found)})
		if err != nil || len(page)+len(found) > manyRuns {
			return nil, false, err
		}
		for _, f := range page {
			found = append(found, f.Value)
		}
	}
	return found, true, nil
}

type runIn struct {
	Run string `path:"id" doc:"The run, by its id, or as JOB.7" example:"mnist.7"`
}

func (m *Management) getRun(ctx context.Context, in *runIn) (*Answer[RunView], error) {
	r, rev, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	v, err := m.viewOf(ctx, r)
	return &Answer[RunView]{Body: v, Revision: rev}, err
}

// liveRuns returns the runs of a job that are not over.
func (m *Management) liveRuns(ctx context.Context, j mlaas.Job) (live []store.Found[mlaas.Run], err error) {
	if j.Runs == 0 {
		return nil, nil
	}
	q := store.Query{Tenant: j.Tenant, Index: "job=" + string(j.ID)}
	states, err := store.RunStates(m.DB).All(ctx, q)
	if err != nil {
		return nil, err
	}
	over := map[mlaas.RunID]bool{}
	for _, s := range states {
		over[s.Value.Run] = s.Value.State.Final()
	}
	runs, err := store.Runs(m.DB).All(ctx, q)
	for _, r := range runs {
		if !over[r.Value.ID] {
			live = append(live, r)
		}
	}
	return live, err
}

// stops is the batch that asks for the end of runs. One that is to stop
// already is left alone.
func (m *Management) stops(runs []store.Found[mlaas.Run], why string) (b store.Batch) {
	for _, f := range runs {
		r := f.Value
		if r.Wanted == mlaas.WantStop {
			continue
		}
		r.Wanted, r.Why = mlaas.WantStop, why
		b.Put = append(b.Put, store.Runs(m.DB).Put(r, f.Rev))
		b.Tell = append(b.Tell, tells(mlaas.StopAsked{Tenant: r.Tenant, Run: r.ID})...)
	}
	return b
}

const stoppedByUser = "its user stopped it"

type stopJobIn struct {
	jobIn
	Run string `query:"run" doc:"This run alone: its id, JOB.7 or 7; all that live where not said"`
}

func (m *Management) stopJob(ctx context.Context, in *stopJobIn) (*Answer[List[RunView]], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	live, err := m.liveRuns(ctx, j)
	if err != nil {
		return nil, none, err
	}
	if in.Run != "" {
		r, _, err := m.runOf(ctx, j, in.Run)
		if err != nil {
			return nil, none, err
		}
		live = slices.DeleteFunc(live, func(f store.Found[mlaas.Run]) bool { return f.Value.ID != r.ID })
	}
	views := []RunView{}
	for _, f := range live {
		r := f.Value
		r.Wanted, r.Why = mlaas.WantStop, stoppedByUser
		v, err := m.viewOf(ctx, r)
		if err != nil {
			return nil, none, err
		}
		views = append(views, v)
	}
	return whole(views), m.stops(live, stoppedByUser), nil
}

func (m *Management) stopRun(ctx context.Context, in *runIn) (*Answer[RunView], store.Batch, error) {
	none := store.Batch{}
	r, rev, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, none, err
	}
	s, err := m.stateOf(ctx, r)
	if err != nil || s.State.Final() {
		return &Answer[RunView]{Body: RunView{r, s}}, none, err // it is over already
	}
	b := m.stops([]store.Found[mlaas.Run]{{Value: r, Rev: rev}}, stoppedByUser)
	r.Wanted, r.Why = mlaas.WantStop, stoppedByUser
	return &Answer[RunView]{Body: RunView{r, s}}, b, nil
}

// runAnywhere says that what rules have excluded so far is forgotten.
func (m *Management) runAnywhere(ctx context.Context, in *runIn) (*Answer[RunView], store.Batch, error) {
	none := store.Batch{}
	r, rev, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, none, err
	}
	s, err := m.stateOf(ctx, r)
	if err != nil || s.State.Final() || len(s.Excluded) == 0 {
		return &Answer[RunView]{Body: RunView{r, s}}, none, err // it is over, or nothing is excluded
	}
	r.Anywhere = s.Anywhere + 1
	return &Answer[RunView]{Body: RunView{r, s}}, store.Batch{
		Put:  []store.Row{store.Runs(m.DB).Put(r, rev)},
		Tell: tells(mlaas.RunAsked{Tenant: r.Tenant, Run: r.ID}),
	}, nil
}

type checkpointsIn struct {
	runIn
	Paging
}

func (m *Management) listCheckpoints(ctx context.Context, in *checkpointsIn) (*Answer[List[mlaas.Checkpoint]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/", Reverse: true}
	return pageOf(ctx, store.Checkpoints(m.DB), q, in.Paging, func(f store.Found[mlaas.Checkpoint]) (mlaas.Checkpoint, bool, error) {
		return f.Value, true, nil
	})
}
