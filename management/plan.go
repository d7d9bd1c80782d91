package management

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"

	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/admission"
	"mlaas.dev/mlaas/imports"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/template"
)

// A PlanAsk is a job that may not be there yet, with its code.
type PlanAsk struct {
	Spec    mlaas.JobSpec     `json:"spec" doc:"The job, as for POST /api/job"`
	Text    string            `json:"text,omitempty" doc:"Instead of spec: the job as the text of a job file, YAML or JSON"`
	Job     string            `json:"job,omitempty" doc:"A job whose code is looked at where neither files nor tree are given" example:"mnist"`
	Version mlaas.VersionID   `json:"version,omitempty" doc:"Which version of it; empty: the newest" example:"v1"`
	Files   map[string]string `json:"files,omitempty" doc:"Its code: texts by their paths"`
	Tree    []mlaas.File      `json:"tree,omitempty" doc:"Instead of texts: files whose bytes are here already"`
}

// A Plan is what would become of a job that is run now. Nothing of it is done.
type Plan struct {
	Starts      string            `json:"starts" enum:"now,waits,never,unknown" doc:"now: it starts at once; waits: it stands in line; never: it is refused; unknown: what is wrong with its roles is in problems"`
	Reason      string            `json:"reason" doc:"Why, in the words in which a run says it"`
	Position    int               `json:"position,omitempty" doc:"In line, where it waits"`
	Allocation  *mlaas.Allocation `json:"allocation,omitempty" doc:"What it would be given, and of which cluster"`
	Rows        []PlanRow         `json:"rows" doc:"Each thing that is decided, and why it is so"`
	Environment PlanEnvironment   `json:"environment"`
	Says        []string          `json:"says" doc:"What is otherwise than where the program is run by hand"`
	Changes     []mlaas.Change    `json:"changes" doc:"What would be injected: files that are not as they were written"`
	Spread      *mlaas.Spread     `json:"spread,omitempty" doc:"How it trains as one on several replicas, where there are several"`
	Problems    []PlanProblem     `json:"problems" doc:"What is in the way; none: a run would not be refused"`
	Notes       []string          `json:"notes" doc:"What to know besides"`
	Spec        mlaas.JobSpec     `json:"spec" doc:"The job with every default"`
	Stated      map[string]any    `json:"stated" doc:"What of the job was stated: without defaults, as text or spec said it"`
	File        string            `json:"file" doc:"What was stated as the text of a job file: mlaas.yaml"`
}

// A PlanRow is one thing that is decided.
type PlanRow struct {
	What  string `json:"what" example:"worker"`
	Value string `json:"value" example:"up to 4"`
	Why   string `json:"why" example:"stated"`
}

// A PlanEnvironment says whether what the program needs is there.
type PlanEnvironment struct {
	State string       `json:"state" enum:"known,new,image" doc:"known: it was resolved before and is kept; new: it is resolved and made when the first run starts; image: it is a container image"`
	Lock  mlaas.Digest `json:"lock,omitempty"`
	Why   string       `json:"why"`
}

// A PlanProblem is one thing that is in the way of a run.
type PlanProblem struct {
	Field   string `json:"field,omitempty" doc:"Of the job, where it is one" example:"roles.worker.cpu"`
	File    string `json:"file,omitempty" doc:"Of its code, where it is there" example:"main.py"`
	Line    int    `json:"line,omitempty" doc:"In that file, from 1" example:"12"`
	Message string `json:"message" doc:"What is wrong, and what would be right"`
}

type planIn struct {
	Body json.RawMessage `doc:"The job and its code"`
}

// planJob says what would become of a job that is run now: which cluster takes
// it, what it is given, what it waits for, what is done to its code, and why
// each thing is so. What is wrong with the job is its answer, and no problem:
// who writes one wants to see the rest as well.
func (m *Management) planJob(ctx context.Context, in *planIn) (*Answer[Plan], error) {
	var ask PlanAsk
	if err := mlaas.Decode(in.Body, &ask); err != nil {
		return nil, err
	}
	said, err := ask.stated(in.Body)
	if err != nil {
		return nil, err
	}
	tenant := tenantOf(ctx)
	p := &planning{m: m, Plan: Plan{Stated: said, Rows: []PlanRow{}, Says: []string{}, Changes: []mlaas.Change{}, Problems: []PlanProblem{}, Notes: []string{}}}
	file, err := yaml.Marshal(said)
	if err != nil {
		return nil, err
	}
	p.File = string(file)
	spec := ask.Spec
	code, err := p.code(ctx, tenant, ask)
	if err != nil {
		return nil, err
	}
	framework, packages := p.imports(&spec, code)
	spec.Complete()
	checked := spec
	if checked.Name == "" {
		if err := p.wrong(mlaas.CheckName("name", "")); err != nil {
			return nil, err
		}
		checked.Name = "job"
	}
	err = m.checkSpec(ctx, &checked)
	if err := p.wrong(err); err != nil {
		return nil, err
	}
	p.rows(spec, code, framework, packages)
	if p.roles() {
		if err := p.place(ctx, tenant, checked); err != nil {
			return nil, err
		}
	} else {
		p.Starts, p.Reason = "unknown", "What is wrong with its roles comes first."
	}
	resolved := checked
	if err := p.wrong(m.resolve(ctx, tenant, &resolved)); err != nil {
		return nil, err
	}
	p.environment(resolved)
	if err == nil {
		if err := p.prepared(ctx, tenant, resolved, code); err != nil {
			return nil, err
		}
	}
	p.Spec = spec
	return &Answer[Plan]{Body: p.Plan}, nil
}

// planning is a plan that is being made.
type planning struct {
	Plan
	m *Management
}

// stated is the job as its user wrote it; what came as the text of a job file is
// the spec from then on.
func (ask *PlanAsk) stated(body json.RawMessage) (map[string]any, error) {
	raw := body
	if ask.Text != "" {
		var err error
		if raw, err = yaml.YAMLToJSONStrict([]byte(ask.Text)); err != nil {
			return nil, fmt.Errorf("the text is no YAML: %s: %w", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n ", ""), "yaml: "), mlaas.ErrSyntax)
		}
		if err := mlaas.Decode(raw, &ask.Spec); err != nil {
			return nil, err
		}
		raw = append(append([]byte(`{"spec":`), raw...), '}')
	}
	var said struct {
		Spec map[string]any `json:"spec"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return nil, fmt.Errorf("the job is no object: %w", mlaas.ErrSyntax)
	}
	if said.Spec == nil {
		said.Spec = map[string]any{}
	}
	return said.Spec, nil
}

// states reports whether the job's user wrote the field at a path.
func (p *planning) states(at ...string) bool {
	var v any = p.Stated
	for _, part := range at {
		m, ok := v.(map[string]any)
		if !ok {
			return false
		}
		v = m[part]
	}
	switch v := v.(type) {
	case nil:
		return false
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

func (p *planning) row(what, value, why string) {
	p.Rows = append(p.Rows, PlanRow{what, value, why})
}

// place of a file in a sentence: "main.py:12: ..." or "main.py line 12".
var inFile = regexp.MustCompile(`([\w./-]+\.py)(?::| line |, line )(\d+)`)

// wrong keeps what is wrong with the job; any other error is returned.
func (p *planning) wrong(err error) error {
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, mlaas.ErrInvalid) && !errors.Is(err, mlaas.ErrConflict):
		return err
	}
	problem := PlanProblem{Message: strings.TrimSuffix(err.Error(), ": "+mlaas.KindOf(err).Code)}
	if f, ok := errors.AsType[*mlaas.FieldError](err); ok {
		problem.Field = f.Field
	}
	if at := inFile.FindStringSubmatch(problem.Message); at != nil {
		problem.File = at[1]
		problem.Line, _ = strconv.Atoi(at[2]) // it is digits
	}
	if !slices.Contains(p.Problems, problem) {
		p.Problems = append(p.Problems, problem)
	}
	return nil
}

// roles reports whether nothing is wrong with how many replicas there are and
// what they need.
func (p *planning) roles() bool {
	return !slices.ContainsFunc(p.Problems, func(x PlanProblem) bool { return strings.HasPrefix(x.Field, "roles") })
}

// A planned is the code of a plan: none where nothing was given.
type planned struct {
	mlaas.Version
	texts map[string]string
}

// code is what was given, or the code of the job that was named.
func (p *planning) code(ctx context.Context, tenant mlaas.Tenant, ask PlanAsk) (c planned, err error) {
	m := p.m
	var up *uploaded
	switch {
	case len(ask.Files) > 0:
		up, err = m.texts(ctx, ask.Files)
		c.texts = ask.Files
	case len(ask.Tree) > 0:
		up, err = m.named(ctx, ask.Tree, "tree")
	case ask.Job != "":
		var j mlaas.Job
		if j, err = m.findJob(ctx, tenant, ask.Job); err != nil || j.Versions == 0 {
			return c, err
		}
		c.Version, err = m.findVersion(ctx, j, string(ask.Version))
	}
	if err == nil && up != nil {
		c.Version = mlaas.Version{ID: "v1", Number: 1, Tenant: tenant, Bundle: up.Tree, Files: up.Files, Entry: entryOf(up.Files), Size: up.Size}
	}
	if err != nil || c.texts != nil || c.Bundle == "" {
		return c, err
	}
	c.texts, err = m.programs(ctx, c.Files)
	return c, err
}

// maxPrograms is how much of the Python of a version is read for its imports.
const maxPrograms = 8 << 20

// programs are the texts of the Python files, as many as are read at all.
func (m *Management) programs(ctx context.Context, files []mlaas.File) (map[string]string, error) {
	out, left := map[string]string{}, int64(maxPrograms)
	for _, f := range files {
		if path.Ext(f.Path) != ".py" || f.Size > left {
			continue
		}
		left -= f.Size
		r, err := m.Blob.Get(ctx, f.Digest, 0)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		out[f.Path] = string(text)
	}
	return out, nil
}

// imports decides framework and packages by what the program imports, where the
// job says none.
func (p *planning) imports(spec *mlaas.JobSpec, code planned) (framework string, packages []string) {
	e := &spec.Environment
	entry := code.Entry
	if spec.Code.Mode == "guiding" {
		entry = template.User
	}
	for _, word := range spec.Execution.Command {
		if _, ok := code.texts[path.Clean(word)]; ok {
			entry = path.Clean(word)
		}
	}
	if entry == "" || e.Image != "" || spec.Code.Composed != nil {
		return "", nil
	}
	folder := fstest.MapFS{}
	for name, text := range code.texts {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	found, _ := imports.Of(folder, entry)
	choice, add, unknown := imports.Guess(found)
	if e.Framework == "" {
		e.Framework, framework = choice.Value, choice.Reason
	}
	if len(e.Packages) == 0 {
		for _, a := range add {
			if !strings.EqualFold(a.Value, e.Framework) {
				e.Packages = append(e.Packages, a.Value)
				packages = append(packages, a.Reason)
			}
		}
	}
	for _, u := range unknown {
		p.Notes = append(p.Notes, fmt.Sprintf("%s, which is no package that mlaas is sure of: name it under packages, if the program needs it", u))
	}
	return framework, packages
}

// rows says each thing that is decided, and why.
func (p *planning) rows(spec mlaas.JobSpec, code planned, framework string, packages []string) {
	const stated = "stated"
	why := func(is bool, otherwise string) string {
		if is {
			return stated
		}
		return otherwise
	}
	e := spec.Environment
	switch {
	case e.Image != "":
		p.row("environment", e.Image, stated)
	default:
		p.row("framework", e.Framework, why(p.states("environment", "framework"), cmp.Or(framework, frameworkBy(spec))))
		if e.Python != "" {
			p.row("python", e.Python, stated)
		}
		if len(e.Packages) > 0 {
			p.row("packages", strings.Join(e.Packages, " "), why(p.states("environment", "packages"), cmp.Or(strings.Join(packages, ", "), "what reads its data needs them")))
		}
	}
	for _, name := range mlaas.RoleOrder {
		r := spec.Roles[name]
		if r == nil || r.Replicas.Max == 0 {
			continue
		}
		if r.Replicas.Min < r.Replicas.Max {
			p.row(name, fmt.Sprintf("%d to %d", r.Replicas.Min, r.Replicas.Max), fmt.Sprintf("stated: as many as one cluster can hold, at least %d", r.Replicas.Min))
		} else {
			p.row(name, strconv.Itoa(r.Replicas.Max), why(p.states("roles", name, "replicas"), "one is enough to begin with"))
		}
		need := r.Need()
		p.row(name+" CPU", need.CPU.String(), why(r.CPU != nil, "reserved where nothing is said; nothing is enforced")+ceiling(r.CPU != nil))
		p.row(name+" memory", need.Memory.String(), why(r.Memory != nil, "reserved where nothing is said; nothing is enforced")+ceiling(r.Memory != nil))
		if r.GPU.Count > 0 {
			p.row(name+" GPU", strings.TrimSpace(fmt.Sprint(r.GPU.Count)+" "+r.GPU.Kind), stated)
		}
		if r.Disk != nil {
			p.row(name+" disk", r.Disk.String(), stated+ceiling(true))
		}
	}
	p.row("mode", spec.Code.Mode, why(p.states("code", "mode"), modeBy(spec)))
	switch {
	case spec.Code.Mode == "guiding":
		p.row("program", template.Entry, "the main program of guiding mode, which calls the functions of "+template.User)
	case spec.Code.Mode == "composed":
		p.row("program", "main.py", "it is written from the network")
	case len(spec.Execution.Command) > 0:
		p.row("program", strings.Join(spec.Execution.Command, " "), stated)
	case code.Entry != "":
		p.row("program", "python "+code.Entry, entryBy(code))
	}
	for _, d := range spec.Data {
		p.row("data "+d.Name, d.Source, stated)
	}
}

func frameworkBy(spec mlaas.JobSpec) string {
	if spec.Code.Composed != nil {
		return "what backend " + spec.Code.Composed.On("") + " runs in"
	}
	return "nothing says another"
}

func modeBy(spec mlaas.JobSpec) string {
	if spec.Code.Mode == "composed" {
		return "the job describes a network"
	}
	return "where none is said, code runs as it is and hooks record what frameworks do"
}

func entryBy(code planned) string {
	if code.Entry == "main.py" {
		return "the code has a main.py"
	}
	return "it is the only Python file that can be meant"
}

func ceiling(is bool) string {
	if is {
		return "; it is also the ceiling"
	}
	return ""
}

// environment says whether what the program needs is there.
func (p *planning) environment(spec mlaas.JobSpec) {
	e := spec.Environment
	switch {
	case e.Image != "":
		p.Environment = PlanEnvironment{State: "image", Why: "a container image brings all that it needs"}
	case e.Lock != "":
		p.Environment = PlanEnvironment{State: "known", Lock: e.Lock, Why: "it was resolved before: the same packages in the same versions, which a node that had them keeps"}
	default:
		p.Environment = PlanEnvironment{State: "new", Why: "it was never resolved: the first run finds its versions, installs them, and they are kept"}
	}
}

// prepared says what is done to the code before it starts.
func (p *planning) prepared(ctx context.Context, tenant mlaas.Tenant, spec mlaas.JobSpec, code planned) error {
	m := p.m
	if spec.Code.Mode == "composed" {
		up, err := m.program(ctx, spec)
		if err != nil {
			return p.wrong(err)
		}
		code.Version = mlaas.Version{ID: "v1", Number: 1, Tenant: tenant, Bundle: up.Tree, Files: up.Files, Entry: entryOf(up.Files)}
	}
	if code.Bundle == "" {
		p.Notes = append(p.Notes, "There is no code yet: it is looked at when there is.")
		return nil
	}
	if err := startable(spec, code.Version); err != nil {
		return p.wrong(err)
	}
	if m.Prepare == nil {
		p.Notes = append(p.Notes, "This platform has no Python to read code with: its replicas say what becomes of it.")
		return nil
	}
	spec.Code.Version = code.ID
	done, err := m.prepare(ctx, mlaas.Run{Tenant: tenant, JobName: spec.Name, Version: code.Version, Spec: spec})
	switch {
	case errors.Is(err, mlaas.ErrInvalid):
		return p.wrong(err)
	case err != nil:
		p.Notes = append(p.Notes, "The code could not be read before its run: "+err.Error())
		return nil
	}
	p.Says, p.Changes, p.Spread = says(spec, done), some(done.Changes), done.Spread
	return nil
}

// place says which cluster would take the job, or what it would wait for: the
// line is served as contractor does, with the job at its place in it.
func (p *planning) place(ctx context.Context, tenant mlaas.Tenant, spec mlaas.JobSpec) error {
	rooms, err := p.m.rooms(ctx)
	if err != nil {
		return err
	}
	line, err := p.m.line(ctx)
	if err != nil {
		return err
	}
	mine := waiting{run: mlaas.Run{Tenant: tenant, JobName: spec.Name, Number: 1, Spec: spec}, state: mlaas.RunState{Queued: p.m.now()}}
	position := 0
	for _, w := range line {
		if admission.Before(mine.run, w.run, mine.state, w.state) < 0 {
			break
		}
		position++
		if w.state.Allocation.Cluster != "" {
			continue // its last attempt still ends
		}
		switch d := admission.Elect(w.run.Spec, w.state.Excluded, rooms); {
		case d.Never != "":
		case d.Place != nil:
			d.Place.Grant(w.run, w.state.Epoch+1, d.Ask)
			position--
		default:
			d.SetAside(&w.run)
		}
	}
	d := admission.Elect(spec, nil, rooms)
	switch {
	case d.Never != "":
		p.Starts, p.Reason = "never", d.Never
	case d.Place != nil:
		a := d.Allocation(spec)
		p.Starts, p.Allocation = "now", &a
		p.Reason = "starts at once on " + a.Cluster
		if n := a.Remainder[mlaas.Worker]; n > 0 {
			p.Reason += fmt.Sprintf(", with %d of %d workers: the cluster can hold no more", a.Granted[mlaas.Worker], a.Requested[mlaas.Worker])
		}
	default:
		p.Starts, p.Position = "waits", position+1
		p.Reason, err = d.Waits(mine.run, nil, p.Position, func(id mlaas.RunID) (admission.Holder, error) { return p.m.holder(ctx, tenant, id) })
	}
	return err
}

// rooms are the clusters, with what of them is promised.
func (m *Management) rooms(ctx context.Context) (rooms []*admission.Room, err error) {
	all, err := m.clusters(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Created != nil && c.Heard.IsZero() {
			continue // nobody has looked what it has
		}
		l, _, err := store.Ledgers(m.DB).Get(ctx, "", c.Name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, err
		}
		rooms = append(rooms, admission.NewRoom(c.Cluster, c.Wanted, l))
	}
	return rooms, nil
}

// waiting is a run in line.
type waiting struct {
	run   mlaas.Run
	state mlaas.RunState
}

// line is the runs that wait, in the order in which they are served.
func (m *Management) line(ctx context.Context) (all []waiting, err error) {
	queued, err := store.RunStates(m.DB).All(ctx, store.Query{Index: "state=" + string(mlaas.Queued)})
	if err != nil {
		return nil, err
	}
	for _, q := range queued {
		run, _, err := store.Runs(m.DB).Get(ctx, q.Value.Tenant, string(q.Value.Run))
		switch {
		case errors.Is(err, mlaas.ErrNotFound):
			continue // it was removed
		case err != nil:
			return nil, err
		}
		all = append(all, waiting{admission.Sized(run, q.Value.Sizes), q.Value})
	}
	slices.SortFunc(all, func(a, b waiting) int { return admission.Before(a.run, b.run, a.state, b.state) })
	return all, nil
}

func (m *Management) holder(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (admission.Holder, error) {
	run, _, err := store.Runs(m.DB).Get(ctx, tenant, string(id))
	if errors.Is(err, mlaas.ErrNotFound) {
		// It is one of those in line that would start before.
		return admission.Holder{Run: mlaas.Run{JobName: "a run before it"}, Ends: "ends unknown"}, nil
	}
	if err != nil {
		return admission.Holder{}, err
	}
	st, err := m.stateOf(ctx, run)
	return admission.HolderOf(run, st), err
}
