package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A kernel is a run of a job with one replica, which executes what it is given:
// see docs/design/0015-kernel.md. What it says is in the series of its run, so
// nothing here keeps output. What it is given is a record until it has it:
// courier.go brings it there.

// A KernelView is where the kernel of a job stands.
type KernelView struct {
	Run       mlaas.RunID     `json:"run" doc:"Of the newest kernel, also of one that has ended; empty: there was none"`
	State     string          `json:"state" doc:"none, queued, starting, idle, busy, dead (it begins again), stopped"`
	Reason    string          `json:"reason" doc:"A sentence: what it waits for, or why it ended"`
	Version   mlaas.VersionID `json:"version,omitempty" doc:"With whose files it began"`
	Execution string          `json:"execution,omitempty" doc:"That runs now"`
}

// An ExecutionView is an execution and how it went.
type ExecutionView struct {
	mlaas.KernelExecution
	State   string     `json:"state" doc:"queued, running, ok, error, interrupted, lost (its kernel ended first)"`
	Error   string     `json:"error,omitempty" doc:"In one sentence"`
	Started *time.Time `json:"started,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// noKernel is what is said where a job has none that lives.
func noKernel(j mlaas.Job) error {
	return fmt.Errorf("job %s has no kernel now: start one with POST /api/job/%s/kernel, or `mlaas kernel %s start`: %w", j.Name, j.Name, j.Name, mlaas.ErrConflict)
}

// kernelOf is the newest kernel of a job. live is false where it has ended, is
// to end, or where there never was one: then its ID is empty.
func (m *Management) kernelOf(ctx context.Context, j mlaas.Job) (f store.Found[mlaas.Run], s mlaas.RunState, live bool, err error) {
	page, _, err := store.Runs(m.DB).List(ctx, store.Query{Tenant: j.Tenant, Index: "kernel=" + string(j.ID), Reverse: true, Limit: 1})
	if err != nil || len(page) == 0 {
		return f, s, false, err
	}
	f = page[0]
	s, err = m.stateOf(ctx, f.Value)
	return f, s, err == nil && !s.State.Final() && f.Value.Wanted == mlaas.WantRun, err
}

// liveKernel is the kernel of a job that lives, or an error that says how to
// start one.
func (m *Management) liveKernel(ctx context.Context, job string) (mlaas.Job, mlaas.Run, error) {
	j, err := m.findJob(ctx, tenantOf(ctx), job)
	if err != nil {
		return j, mlaas.Run{}, err
	}
	f, _, live, err := m.kernelOf(ctx, j)
	if err == nil && !live {
		err = noKernel(j)
	}
	return j, f.Value, err
}

// kernelView says where a kernel stands.
func (m *Management) kernelView(ctx context.Context, r mlaas.Run, s mlaas.RunState) (KernelView, error) {
	v := KernelView{Run: r.ID, State: "none", Reason: "no kernel was started yet"}
	if r.ID == "" {
		return v, nil
	}
	v.Version, v.Reason = r.Version.ID, s.Reason
	switch {
	case s.State.Final() || r.Wanted == mlaas.WantStop || s.State == mlaas.Stopping:
		v.State = "stopped"
		return v, nil
	case s.State == mlaas.Created || s.State == mlaas.Queued:
		v.State = "queued"
		return v, nil
	}
	v.State = "starting"
	last, err := m.lastEvent(ctx, r, kernelSaid)
	if err != nil || last == nil || last.attempt != s.Epoch {
		return v, err
	}
	v.State, v.Execution = last.State, last.Execution
	if last.Reason != "" {
		v.Reason = last.Reason
	}
	return v, nil
}

// What the events of a kind begin with: a kernel writes their type first.
var (
	kernelSaid    = regexp.MustCompile(`^\{"type":"kernel"`)
	executionSaid = regexp.MustCompile(`^\{"type":"execution"`)
)

// An attempted is an event and the attempt of the run that it is of.
type attempted struct {
	mlaas.KernelEvent
	attempt int
}

// lastEvent is the newest event of a kernel that begins so; nil: there is none.
func (m *Management) lastEvent(ctx context.Context, r mlaas.Run, begins *regexp.Regexp) (*attempted, error) {
	lines, err := m.Series.Lines(ctx, series.LineQuery{Tenant: r.Tenant, Run: r.ID, Kernel: true, Grep: begins, Last: 1})
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	e := &attempted{attempt: lines[0].Attempt}
	if err := json.Unmarshal([]byte(lines[0].Text), &e.KernelEvent); err != nil {
		return nil, nil // a part of one that is too long: it is of no kind that we ask for
	}
	return e, nil
}

func (m *Management) getKernel(ctx context.Context, in *jobIn) (*Answer[KernelView], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	f, s, _, err := m.kernelOf(ctx, j)
	if err != nil {
		return nil, err
	}
	v, err := m.kernelView(ctx, f.Value, s)
	return &Answer[KernelView]{Body: v}, err
}

// A KernelAsk is what a kernel may have otherwise than its job.
type KernelAsk struct {
	Version mlaas.VersionID `json:"version,omitempty" doc:"Whose files it begins with: v7, 7 or latest; where not said the job's, or the newest" example:"v1"`
	Idle    mlaas.Seconds   `json:"idle,omitempty" doc:"How long it waits for something to execute; an hour where not said" example:"1800"`
}

type startKernelIn struct {
	jobIn
	Body KernelAsk `body:"optional"`
}

func (m *Management) startKernel(ctx context.Context, in *startKernelIn) (*Answer[KernelView], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	r, s, b, err := m.aKernel(ctx, &j, in.Body)
	if err != nil {
		return nil, none, err
	}
	v, err := m.kernelView(ctx, r, s)
	a := &Answer[KernelView]{Body: v, Location: "/api/run/" + string(r.ID)}
	if b.Empty() {
		a.Status = 200
	}
	return a, b, err
}

// aKernel is the live kernel of a job, or a new one and the batch that makes it.
// The batch writes the job too, so that two who ask at once get one.
func (m *Management) aKernel(ctx context.Context, j *mlaas.Job, ask KernelAsk) (mlaas.Run, mlaas.RunState, store.Batch, error) {
	none := store.Batch{}
	f, s, live, err := m.kernelOf(ctx, *j)
	if err != nil || live {
		return f.Value, s, none, err
	}
	spec := j.JobSpec
	if err := m.checkSpec(ctx, &spec); err != nil {
		return f.Value, s, none, err
	}
	if spec.Environment.Image != "" {
		return f.Value, s, none, mlaas.Invalid("environment.image", "a framework instead: a kernel is not made of images yet", spec.Environment.Image)
	}
	if ask.Version == "" {
		ask.Version = spec.Code.Version
	}
	var rows []store.Row
	var version mlaas.Version
	if spec.Code.Mode == "composed" && ask.Version == "" {
		version, rows, err = m.composed(ctx, j, spec)
	} else {
		version, err = m.versionToRun(ctx, *j, ask.Version)
	}
	if err == nil {
		err = m.resolve(ctx, j.Tenant, &spec)
	}
	if err != nil {
		return f.Value, s, none, err
	}
	spec.Code.Version = version.ID
	version.Files = []mlaas.File{} // they are in the bundle, and with the version
	role := spec.Roles[mlaas.Chief]
	if role == nil {
		role = spec.Roles[mlaas.Worker]
	}
	one := *role
	one.Replicas = mlaas.Count{Min: 1, Max: 1}
	spec.Roles, spec.Rules = map[string]*mlaas.Role{mlaas.Kernel: &one}, nil
	if ask.Idle == 0 {
		ask.Idle = mlaas.DefaultIdle
	}
	now := m.stamp()
	if f.Value.ID != "" && !now.After(f.Value.Created) {
		now = f.Value.Created.Add(time.Millisecond)
	}
	run := mlaas.Run{ID: mlaas.RunID(mlaas.NewID(now)), Tenant: j.Tenant, Job: j.ID, JobName: j.Name, Version: version, Spec: spec,
		Wanted: mlaas.WantRun, Created: now, Trace: trace.Of(ctx), Kernel: &mlaas.KernelSpec{Idle: ask.Idle}}
	return run, asked(run), store.Batch{
		Put:  append(rows, putJob(m.DB, j), store.Runs(m.DB).Put(run, 0)),
		Tell: tells(mlaas.RunAsked{Tenant: run.Tenant, Run: run.ID}),
	}, nil
}

func (m *Management) stopKernel(ctx context.Context, in *jobIn) (*Answer[KernelView], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	f, s, live, err := m.kernelOf(ctx, j)
	if err != nil {
		return nil, none, err
	}
	b := none
	if live {
		b = m.stops([]store.Found[mlaas.Run]{f}, stoppedByUser)
		f.Value.Wanted, f.Value.Why = mlaas.WantStop, stoppedByUser
	}
	v, err := m.kernelView(ctx, f.Value, s)
	return &Answer[KernelView]{Body: v}, b, err
}

// An ExecuteAsk is code to be executed.
type ExecuteAsk struct {
	Code    string          `json:"code" doc:"Python as IPython takes it" example:"print(1)"`
	Path    string          `json:"path,omitempty" doc:"Of the file that it is part of: errors name it" example:"main.py"`
	Line    int             `json:"line,omitempty" doc:"Of its first line in that file, from 1" example:"12"`
	Cell    string          `json:"cell,omitempty" doc:"Of a notebook: repeated in what is said of it"`
	Version mlaas.VersionID `json:"version,omitempty" doc:"The kernel has the files of this version first: v7, 7 or latest; those that it has where not said"`
}

type executeIn struct {
	jobIn
	Body ExecuteAsk
}

// maxCode is how much code one execution takes.
const maxCode = 1 << 20

func (m *Management) execute(ctx context.Context, in *executeIn) (*Answer[ExecutionView], store.Batch, error) {
	none, ask := store.Batch{}, in.Body
	switch {
	case ask.Code == "":
		return nil, none, mlaas.Invalid("code", "some code", ask.Code)
	case len(ask.Code) > maxCode:
		return nil, none, mlaas.Invalid("code", "at most 1 MiB", fmt.Sprintf("%d bytes", len(ask.Code)))
	case ask.Line < 0:
		return nil, none, mlaas.Invalid("line", "1 or more", ask.Line)
	}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	r, _, b, err := m.aKernel(ctx, &j, KernelAsk{Version: ask.Version})
	if err != nil {
		return nil, none, err
	}
	now := m.stamp()
	e := mlaas.KernelExecution{ID: mlaas.NewID(now), Tenant: r.Tenant, Run: r.ID, Job: j.ID, Code: ask.Code, Path: ask.Path, Line: ask.Line, Cell: ask.Cell,
		By: auth.From(ctx).Name, Created: now}
	if ask.Version != "" {
		v, err := m.versionToRun(ctx, j, ask.Version)
		if err != nil {
			return nil, none, err
		}
		e.Version, e.Bundle = v.ID, v.Bundle
	}
	b.Put = append(b.Put, store.Executions(m.DB).Put(e, 0))
	return &Answer[ExecutionView]{Body: ExecutionView{KernelExecution: e, State: mlaas.ExecutionQueued}}, b, nil
}

type executionsIn struct {
	jobIn
	Paging
	Run mlaas.RunID `query:"run" doc:"Of this kernel; the newest where not said"`
}

func (m *Management) listExecutions(ctx context.Context, in *executionsIn) (*Answer[List[ExecutionView]], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	f, s, _, err := m.kernelOf(ctx, j)
	if err == nil && in.Run != "" && in.Run != f.Value.ID {
		if f.Value, _, err = store.Runs(m.DB).Get(ctx, j.Tenant, string(in.Run)); err == nil {
			s, err = m.stateOf(ctx, f.Value)
		}
		if err == nil && (f.Value.Job != j.ID || f.Value.Kernel == nil) {
			err = fmt.Errorf("run %s is no kernel of job %s: %w", in.Run, j.Name, mlaas.ErrNotFound)
		}
	}
	if err != nil || f.Value.ID == "" {
		return part([]ExecutionView{}, in.Paging)
	}
	all, err := m.executions(ctx, f.Value, s)
	if err != nil {
		return nil, err
	}
	return part(all, in.Paging)
}

// executions are those of a kernel, newest first: also what came to it by
// Jupyter's protocol.
func (m *Management) executions(ctx context.Context, r mlaas.Run, s mlaas.RunState) ([]ExecutionView, error) {
	found, err := store.Executions(m.DB).All(ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/"})
	if err != nil {
		return nil, err
	}
	all, at, epoch := []ExecutionView{}, map[string]int{}, map[string]int{}
	for _, f := range found {
		at[f.Value.ID] = len(all)
		all = append(all, ExecutionView{KernelExecution: f.Value, State: mlaas.ExecutionQueued})
	}
	q := series.LineQuery{Tenant: r.Tenant, Run: r.ID, Kernel: true, Grep: executionSaid, Limit: 10_000}
	for q.From = 1; ; {
		lines, err := m.Series.Lines(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			q.From = l.Cursor + 1
			var e mlaas.KernelEvent
			if json.Unmarshal([]byte(l.Text), &e) != nil {
				continue // its code is so long that the line was cut: the record has it
			}
			i, known := at[e.Execution]
			if !known {
				i, at[e.Execution] = len(all), len(all)
				all = append(all, ExecutionView{KernelExecution: mlaas.KernelExecution{ID: e.Execution, Run: r.ID, Job: r.Job, Code: e.Code, Created: l.Time, Sent: true}})
			}
			x := &all[i]
			x.State, x.Error, epoch[e.Execution] = e.State, e.Error, l.Attempt
			if e.State == mlaas.ExecutionRunning {
				x.Started = &l.Time
			} else if e.State != mlaas.ExecutionQueued {
				x.Ended = &l.Time
			}
		}
		if len(lines) < q.Limit {
			break
		}
	}
	for i := range all {
		x := &all[i]
		over := x.State == mlaas.ExecutionQueued || x.State == mlaas.ExecutionRunning
		if over && (s.State.Final() || x.Sent && epoch[x.ID] != 0 && epoch[x.ID] != s.Epoch) {
			x.State, x.Error = mlaas.ExecutionLost, "its kernel ended first: "+s.Reason
		}
	}
	slices.SortStableFunc(all, func(a, b ExecutionView) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// A kernelWord is what is asked of a kernel, and kernelAnswer what it answers.
type kernelWord struct {
	Op     string `json:"op"`
	Code   string `json:"code,omitempty"`
	Cursor *int   `json:"cursor,omitempty"`
	Value  string `json:"value,omitempty"`

	Execution *mlaas.KernelExecution `json:"execution,omitempty"`
}

type kernelAnswer struct {
	Error     string           `json:"error"`
	Matches   []KernelMatch    `json:"matches"`
	Start     int              `json:"start"`
	End       int              `json:"end"`
	Found     bool             `json:"found"`
	Text      string           `json:"text"`
	Variables []mlaas.Variable `json:"variables"`
}

// askKernel asks the kernel r, which has these files then; empty: those that it
// has.
func (m *Management) askKernel(ctx context.Context, r mlaas.Run, bundle mlaas.Digest, word kernelWord) (out kernelAnswer, err error) {
	text, err := json.Marshal(word)
	if err != nil {
		return out, err
	}
	in := nodeIn{jobIn: jobIn{Job: string(r.Job)}, Node: mlaas.KernelReplica, Run: string(r.ID)}
	if err := m.look(ctx, in, mlaas.Open{Kernel: &mlaas.OpenKernel{Bundle: bundle}}, append(text, '\n'), &out); err != nil {
		return out, err
	}
	if out.Error != "" {
		return out, fmt.Errorf("%s: %w", out.Error, mlaas.ErrConflict)
	}
	return out, nil
}

// told passes a word to the live kernel of a job, and says where it stands then.
func (m *Management) told(ctx context.Context, job string, word kernelWord) (*Answer[KernelView], error) {
	j, r, err := m.liveKernel(ctx, job)
	if err == nil {
		_, err = m.askKernel(ctx, r, "", word)
	}
	if err != nil {
		return nil, err
	}
	return m.getKernel(ctx, &jobIn{Job: string(j.ID)})
}

func (m *Management) restartKernel(ctx context.Context, in *jobIn) (*Answer[KernelView], error) {
	return m.told(ctx, in.Job, kernelWord{Op: "restart"})
}

func (m *Management) interruptKernel(ctx context.Context, in *jobIn) (*Answer[KernelView], error) {
	return m.told(ctx, in.Job, kernelWord{Op: "interrupt"})
}

// A KernelInput answers what a program asks its user.
type KernelInput struct {
	Value string `json:"value" doc:"Without the end of the line"`
}

type kernelInputIn struct {
	jobIn
	Body KernelInput
}

func (m *Management) kernelInput(ctx context.Context, in *kernelInputIn) (*Answer[KernelView], error) {
	return m.told(ctx, in.Job, kernelWord{Op: "input", Value: in.Body.Value})
}

// A KernelPlace is a place in some code.
type KernelPlace struct {
	Code   string `json:"code"`
	Cursor int    `json:"cursor" doc:"In units of UTF-16, as JavaScript counts"`
}

type kernelPlaceIn struct {
	jobIn
	Body KernelPlace
}

// A KernelMatch is what may stand there.
type KernelMatch struct {
	Text string `json:"text"`
	Type string `json:"type" doc:"function, module, instance, ...; empty where it is not known"`
}

// A Completion is what may stand in place of start to end.
type Completion struct {
	Matches []KernelMatch `json:"matches"`
	Start   int           `json:"start" doc:"In units of UTF-16"`
	End     int           `json:"end"`
}

func (m *Management) kernelComplete(ctx context.Context, in *kernelPlaceIn) (*Answer[Completion], error) {
	_, r, err := m.liveKernel(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	a, err := m.askKernel(ctx, r, "", kernelWord{Op: "complete", Code: in.Body.Code, Cursor: &in.Body.Cursor})
	if err != nil {
		return nil, err
	}
	return &Answer[Completion]{Body: Completion{some(a.Matches), a.Start, a.End}}, nil
}

// An Inspection is what is known of a name.
type Inspection struct {
	Found bool   `json:"found"`
	Text  string `json:"text" doc:"As IPython writes it, with colours of a terminal"`
}

func (m *Management) kernelInspect(ctx context.Context, in *kernelPlaceIn) (*Answer[Inspection], error) {
	_, r, err := m.liveKernel(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	a, err := m.askKernel(ctx, r, "", kernelWord{Op: "inspect", Code: in.Body.Code, Cursor: &in.Body.Cursor})
	if err != nil {
		return nil, err
	}
	return &Answer[Inspection]{Body: Inspection{a.Found, a.Text}}, nil
}

type kernelVariablesIn struct {
	jobIn
	Paging
}

func (m *Management) kernelVariables(ctx context.Context, in *kernelVariablesIn) (*Answer[List[mlaas.Variable]], error) {
	_, r, err := m.liveKernel(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	a, err := m.askKernel(ctx, r, "", kernelWord{Op: "variables"})
	if err != nil {
		return nil, err
	}
	return part(some(a.Variables), in.Paging)
}

var errNotReady = errors.New("the kernel is not there yet")
