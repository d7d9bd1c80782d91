package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/imports"
	"mlaas.dev/mlaas/template"
)

// jobFile is the file in a folder that says what its job is. It is the same
// object as the body of POST /api/job.
const jobFile = "mlaas.yaml"

// specFlags are the flags that say what a job is.
type specFlags struct {
	Name        string
	Framework   string
	Environment string
	Python      string
	Image       string
	Workers     string
	PS          string
	CPU         string
	Memory      string
	Disk        string
	GPU         string
	Entry       string
	Data        []string
	Variables   []string
	Packages    []string
	Parameters  []string
	Secrets     []string
	Set         []string
}

func (s *specFlags) register(f *pflag.FlagSet) {
	f.StringVar(&s.Name, "name", "", "name of the job (else from the file or folder)")
	f.StringVar(&s.Framework, "framework", "", "tensorflow, keras, pytorch, jax, scikit-learn, xgboost, lightgbm or python (else from the imports)")
	f.StringVar(&s.Environment, "environment", "", "the same with a Python: tensorflow@3.11")
	f.StringVar(&s.Image, "image", "", "container image to run in, on clusters")
	f.StringArrayVar(&s.Packages, "package", nil, "package to install, as pip reads it: numpy==2.1; may be repeated")
	f.StringVar(&s.Workers, "workers", "", "how many workers: 4 is up to 4, 2-8 at least 2, 8-8 all or nothing")
	f.StringVar(&s.PS, "ps", "", "how many parameter servers")
	f.StringVar(&s.CPU, "cpu", "", "cores for each replica: 0.3, 300m, or worker=2,ps=500m; also the ceiling")
	f.StringVar(&s.Memory, "mem", "", "memory for each replica: 1.5Gi, 512M, or worker=2Gi,ps=1Gi; also the ceiling")
	f.StringVar(&s.Disk, "disk", "", "room for what each replica writes, on clusters: 20Gi, or worker=20Gi; also the ceiling")
	f.StringVar(&s.GPU, "gpu", "", "GPUs for each worker: 1, h200:2, or worker=1")
	f.StringArrayVar(&s.Data, "data", nil, "input at $MLAAS_DATA/NAME: NAME or NAME@V of a dataset, NAME=URL, or NAME=PATH to send it first; may be repeated")
	f.StringArrayVar(&s.Variables, "env", nil, "variable of the program: K=V, or K to take it from here; may be repeated")
	f.StringArrayVar(&s.Secrets, "secret", nil, "secret as a variable of the program: NAME=VARIABLE; may be repeated")
	f.StringArrayVar(&s.Parameters, "param", nil, "parameter, reaches the program as --k v and MLAAS_PARAM_K: k=v; may be repeated")
	f.StringVar(&s.Entry, "entry", "", "file to start, of a folder (else main.py)")
	f.StringArrayVar(&s.Set, "set", nil, "any other field by its path: execution.timeout=2h; may be repeated")
}

// A choice is a value that nobody stated, and the reason for it.
type choice struct {
	Value  string
	Reason string
}

// A source is what the user named: a file, a folder, or a job file.
type source struct {
	Bundle   *bundle
	File     *mlaas.JobSpec // of the job file; nil: there is none
	FileName string         // of it, below the folder
	Name     choice         // of the job
	Entry    choice         // the file to start; empty where the job file has a command
	Found    []imports.Module
	Required []string // packages that the code itself asks for
	Requires string   // where it does: requirements.txt, or the program
	Notes    []string // what the user should hear
}

// look reads what the user named.
func look(target, entry string) (*source, error) {
	info, err := os.Stat(target)
	if err != nil {
		return nil, missing(target, err)
	}
	abs, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	s := &source{}
	root, base := abs, ""
	if !info.IsDir() {
		root, base = filepath.Split(abs)
	}
	root = filepath.Clean(root)
	yamlNamed := strings.HasSuffix(base, ".yaml") || strings.HasSuffix(base, ".yml")
	switch {
	case yamlNamed:
		s.FileName = base
	case base == "":
		if _, err := os.Stat(filepath.Join(root, jobFile)); err == nil {
			s.FileName = jobFile
		}
	default:
		if _, err := os.Stat(filepath.Join(root, jobFile)); err == nil {
			s.Notes = append(s.Notes, fmt.Sprintf("%s beside it is not used: run the folder to use it", jobFile))
		}
	}
	if s.FileName != "" {
		if s.File, err = readSpec(filepath.Join(root, s.FileName)); err != nil {
			return nil, err
		}
	}
	if s.composed() {
		s.Name = choice{jobName(filepath.Base(root)), "from the folder's name"}
		if s.File.Name != "" {
			s.Name = choice{s.File.Name, s.FileName}
		}
		return s, nil
	}
	if base != "" && !yamlNamed {
		if entry != "" {
			return nil, tell{What: "--entry is for folders, and " + target + " is a file", Fix: "leave --entry away", Kind: mlaas.ErrInvalid}
		}
		return s, s.single(root, base)
	}
	return s, s.folder(root, entry)
}

// composed reports whether the job file describes a network: there is no code
// to take along.
func (s *source) composed() bool {
	return s.File != nil && s.File.Code.Composed != nil && (s.File.Code.Mode == "" || s.File.Code.Mode == "composed")
}

// single takes one file, and what it imports from beside it.
func (s *source) single(root, base string) (err error) {
	files := []string{base}
	if strings.HasSuffix(base, ".py") {
		s.Found, files = imports.Of(os.DirFS(root), base)
		if s.Required, err = inlined(filepath.Join(root, base)); err != nil {
			return err
		}
		s.Requires = base
	}
	if s.Bundle, err = only(root, files); err != nil {
		return err
	}
	s.Entry = choice{base, "the file that you named"}
	s.Name = choice{jobName(strings.TrimSuffix(base, path.Ext(base))), "from the file's name"}
	if base == "main.py" {
		s.Name = choice{jobName(filepath.Base(root)), "from the folder's name"}
	}
	return nil
}

// folder takes a whole folder.
func (s *source) folder(root, entry string) (err error) {
	if s.Bundle, err = collect(root); err != nil {
		return err
	}
	s.Name = choice{jobName(filepath.Base(root)), "from the folder's name"}
	if s.FileName != "" && s.File.Name != "" {
		s.Name = choice{s.File.Name, s.FileName}
	}
	command := s.File != nil && len(s.File.Execution.Command) > 0
	switch {
	case entry != "" && !s.Bundle.has(path.Clean(filepath.ToSlash(entry))):
		return missing(filepath.Join(root, entry), fs.ErrNotExist)
	case entry != "":
		s.Entry = choice{path.Clean(filepath.ToSlash(entry)), "--entry"}
	case s.File != nil && s.File.Code.Mode == "guiding":
		s.Entry = choice{template.Entry, "the main program of guiding mode"}
	case !command:
		if s.Entry, err = s.Bundle.entry(); err != nil {
			return err
		}
	}
	reading := s.Entry.Value
	if s.File != nil && s.File.Code.Mode == "guiding" {
		reading = template.User
	}
	if command {
		for _, word := range s.File.Execution.Command {
			if s.Bundle.has(word) && reading == "" {
				reading = word
			}
		}
	}
	if strings.HasSuffix(reading, ".py") {
		s.Found, _ = imports.Of(os.DirFS(root), reading)
	}
	if s.Bundle.has("requirements.txt") {
		var left []string
		s.Requires = "requirements.txt"
		if s.Required, left, err = requirements(filepath.Join(root, "requirements.txt")); err != nil {
			return err
		}
		for _, l := range left {
			s.Notes = append(s.Notes, fmt.Sprintf("requirements.txt: %q is an option of pip and left out", l))
		}
	}
	for _, skipped := range s.Bundle.Skipped {
		s.Notes = append(s.Notes, "left out: "+skipped)
	}
	return nil
}

// missing is the error for a path that is not there; it offers a near one.
func missing(target string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t := tell{What: "there is no file or folder " + target, Kind: mlaas.ErrNotFound}
	var names []string
	entries, _ := os.ReadDir(filepath.Dir(target)) // an offer: without it there is none
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if near := meant(filepath.Base(target), names); near != "" {
		t.Fix = "did you mean   " + filepath.Join(filepath.Dir(target), near) + " ?"
	} else {
		t.Fix = "name a Python file or a folder:   mlaas run train.py"
	}
	return t
}

// jobName makes a name that a job may have.
func jobName(s string) string {
	s = regexp.MustCompile(`[^a-z0-9._-]+`).ReplaceAllString(strings.ToLower(s), "-")
	s = strings.Trim(s[:min(len(s), 63)], "-._")
	if s == "" {
		return "job"
	}
	return s
}

// readSpec reads a job file. A field that does not exist is an error: it is
// most often a slip of the pen.
func readSpec(file string) (*mlaas.JobSpec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, missing(file, err)
	}
	spec, err := parseSpec(text)
	if err != nil {
		return nil, inFile(filepath.Base(file), err)
	}
	return spec, nil
}

// inFile puts the name of a file before what is wrong in it.
func inFile(file string, err error) error {
	if t, ok := errors.AsType[tell](err); ok {
		t.What = file + ": " + t.What
		return t
	}
	return tell{What: file + ": " + strings.TrimSuffix(err.Error(), ": "+mlaas.KindOf(err).Code), Kind: mlaas.KindOf(err)}
}

// parseSpec reads YAML, or JSON, which is YAML too.
func parseSpec(text []byte) (*mlaas.JobSpec, error) {
	raw, err := fromYAML(text)
	if err != nil {
		return nil, err
	}
	spec := new(mlaas.JobSpec)
	return spec, mlaas.Decode(raw, spec)
}

// fromYAML makes JSON of a job, or of a list of rules. The word on is true in
// YAML: in a rule it is the name of a field, whether it is quoted or not.
func fromYAML(text []byte) (json.RawMessage, error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, tell{What: "this is no YAML: " + strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n ", ""), "yaml: "), Kind: mlaas.ErrSyntax,
			Fix: "see   mlaas job get NAME -o yaml   for how a job looks"}
	}
	var rules []map[string]json.RawMessage
	if json.Unmarshal(raw, &rules) == nil {
		return quoteOn(raw, rules), nil
	}
	var job map[string]json.RawMessage
	if json.Unmarshal(raw, &job) != nil || json.Unmarshal(job["rules"], &rules) != nil {
		return raw, nil // it has no rules, or what is wrong with it is said elsewhere
	}
	job["rules"] = quoteOn(job["rules"], rules)
	return json.Marshal(job)
}

func quoteOn(raw json.RawMessage, rules []map[string]json.RawMessage) json.RawMessage {
	for _, r := range rules {
		if on, ok := r["true"]; ok && r["on"] == nil {
			r["on"] = on
			delete(r, "true")
		}
	}
	out, err := json.Marshal(rules)
	if err != nil {
		return raw
	}
	return out
}

// requirements reads the lines of a requirements.txt, and the options in it,
// which are not sent.
func requirements(file string) (lines, options []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), " #")
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#':
		case line[0] == '-':
			options = append(options, line)
		default:
			lines = append(lines, line)
		}
	}
	return lines, options, nil
}

var (
	inlineRule   = regexp.MustCompile(`(?m)^# /// script[ \t]*\n((?:#[^\n]*\n)*?)# ///[ \t]*$`)
	dependencies = regexp.MustCompile(`(?s)\bdependencies\s*=\s*\[(.*?)\n?#?\s*\]\s*(?:\n|$)`)
	quotedRule   = regexp.MustCompile(`"([^"\n]+)"|'([^'\n]+)'`)
)

// inlined reads the packages that a program names in its own head, in a block
// "# /// script" (PEP 723).
func inlined(file string) (out []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, missing(file, err)
	}
	block := inlineRule.FindSubmatch(text)
	if block == nil {
		return nil, nil
	}
	list := dependencies.FindSubmatch(block[1])
	if list == nil {
		return nil, nil
	}
	for _, m := range quotedRule.FindAllSubmatch(list[1], -1) {
		out = append(out, string(m[1])+string(m[2]))
	}
	return out, nil
}

// A plan is what will be asked of the platform, and why.
type plan struct {
	Spec  mlaas.JobSpec
	Rows  []planRow
	Send  map[string]string // datasets to send first: name to path
	Notes []string
}

type planRow struct{ What, Value, Why string }

// Where a value comes from, if not from a flag.
const (
	asBefore  = "as before"
	byDefault = "default"
)

// make builds the spec of a job: from the job file or from the job as it is,
// changed by the flags, completed by what the code says.
func (s *specFlags) make(src *source, had *mlaas.JobSpec, args []string, env func(string) (string, bool)) (*plan, error) {
	p := &plan{Send: map[string]string{}, Notes: src.Notes}
	kept := byDefault
	switch {
	case src.File != nil:
		p.Spec, kept = clone(*src.File), src.FileName
		if !src.composed() {
			p.Spec.Environment.Framework = src.File.Environment.Framework // empty: the imports say
		}
	case had != nil:
		p.Spec, kept = clone(*had), asBefore
	}
	name := src.Name
	if s.Name != "" {
		name = choice{s.Name, "--name"}
	}
	p.Spec.Name = name.Value
	p.row("job", name.Value, name.Reason)
	p.command(src, args)
	if err := s.environment(p, src, kept, env); err != nil {
		return nil, err
	}
	if err := s.roles(p, kept); err != nil {
		return nil, err
	}
	if err := s.inputs(p, kept); err != nil {
		return nil, err
	}
	for _, set := range s.Set {
		if err := p.set(set); err != nil {
			return nil, err
		}
	}
	p.Spec.Complete()
	if src.File != nil && had != nil {
		p.keep(had)
	}
	return p, p.Spec.Check()
}

// keep keeps what a job file says nothing of because it is not its user who
// writes it: the lock of an unchanged environment, and the platform's labels.
func (p *plan) keep(had *mlaas.JobSpec) {
	if e := &p.Spec.Environment; e.Lock == "" && e.Spec() == had.Environment.Spec() {
		e.Lock = had.Environment.Lock
	}
	for k, v := range had.Labels {
		if !strings.HasPrefix(k, "mlaas.dev/") {
			continue
		}
		if p.Spec.Labels == nil {
			p.Spec.Labels = map[string]string{}
		}
		p.Spec.Labels[k] = v
	}
}

func clone(spec mlaas.JobSpec) (out mlaas.JobSpec) {
	spec.Complete() // on maps that are shared it adds what is added anyway
	text, err := json.Marshal(spec)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		panic(err) // our own type, as it was decoded before
	}
	return out
}

func (p *plan) row(what, value, why string) { p.Rows = append(p.Rows, planRow{what, value, why}) }

func (p *plan) command(src *source, args []string) {
	e := &p.Spec.Execution
	if src.composed() {
		e.Command = args
		p.row("program", "written from code.composed", src.FileName)
		return
	}
	why := src.Entry.Reason
	switch file := src.Entry.Value; {
	case file == "":
		why = src.FileName
	case strings.HasSuffix(file, ".py"):
		e.Command = []string{"python", file}
	case strings.HasSuffix(file, ".sh"):
		e.Command = []string{"sh", file}
	default:
		e.Command = []string{"./" + file}
	}
	e.Command = append(e.Command, args...)
	p.row("program", strings.Join(e.Command, " "), why)
}

func (s *specFlags) roles(p *plan, kept string) error {
	if p.Spec.Roles == nil {
		p.Spec.Roles = map[string]*mlaas.Role{}
	}
	why := map[string]string{}
	for role := range p.Spec.Roles {
		why[role] = kept
	}
	for _, f := range []struct{ flag, role, text string }{{"--workers", mlaas.Worker, s.Workers}, {"--ps", mlaas.PS, s.PS}} {
		if f.text == "" {
			continue
		}
		n, err := mlaas.ParseCount(f.text)
		if err != nil {
			return flagged(f.flag, err)
		}
		if n.Max == 0 && f.role != mlaas.Worker {
			delete(p.Spec.Roles, f.role)
			delete(why, f.role)
			continue
		}
		r := p.Spec.Roles[f.role]
		if r == nil {
			r = &mlaas.Role{}
			p.Spec.Roles[f.role] = r
		}
		r.Replicas, why[f.role] = n, f.flag
	}
	if p.Spec.Roles[mlaas.Worker] == nil && p.Spec.Roles[mlaas.Chief] == nil {
		p.Spec.Roles[mlaas.Worker] = &mlaas.Role{Replicas: mlaas.Count{Min: 1, Max: 1}}
		why[mlaas.Worker] = byDefault
	}
	amounts, err := s.amounts(p.Spec.Roles)
	if err != nil {
		return err
	}
	p.Spec.Complete() // makes ranges of bare numbers
	for _, name := range mlaas.JobRoles {
		if r := p.Spec.Roles[name]; r != nil {
			p.row(name, replicas(r), why[name])
			p.row("", perReplica(r), because(amounts[name], r, kept))
		}
	}
	return nil
}

// amounts sets what each replica needs, and returns the flags that said so.
func (s *specFlags) amounts(roles map[string]*mlaas.Role) (map[string][]string, error) {
	said := map[string][]string{}
	each := func(flag, text string, ordinary []string, set func(r *mlaas.Role, v string) error) error {
		for part := range strings.SplitSeq(text, ",") {
			if part == "" {
				continue
			}
			names := ordinary
			v := part
			if role, amount, ok := strings.Cut(part, "="); ok {
				if roles[role] == nil {
					return tell{What: fmt.Sprintf("%s %s: this job has no role %q", flag, text, role), Kind: mlaas.ErrInvalid,
						Fix: "its roles are " + strings.Join(slices.Sorted(maps.Keys(roles)), ", ")}
				}
				names, v = []string{role}, amount
			}
			for _, name := range names {
				if r := roles[name]; r != nil {
					if err := set(r, v); err != nil {
						return flagged(flag, err)
					}
					said[name] = append(said[name], flag)
				}
			}
		}
		return nil
	}
	err := each("--cpu", s.CPU, mlaas.JobRoles, func(r *mlaas.Role, v string) error {
		c, err := mlaas.ParseCPU(v)
		r.CPU = &c
		return err
	})
	if err == nil {
		err = each("--mem", s.Memory, mlaas.JobRoles, func(r *mlaas.Role, v string) error {
			m, err := mlaas.ParseBytes(v)
			r.Memory = &m
			return err
		})
	}
	if err == nil {
		err = each("--disk", s.Disk, mlaas.JobRoles, func(r *mlaas.Role, v string) error {
			d, err := mlaas.ParseBytes(v)
			r.Disk = &d
			return err
		})
	}
	if err == nil { // a parameter server computes on its processor
		err = each("--gpu", s.GPU, []string{mlaas.Chief, mlaas.Worker, mlaas.Evaluator}, func(r *mlaas.Role, v string) error {
			kind, n, ok := strings.Cut(v, ":")
			if !ok {
				kind, n = "", v
			}
			count, err := strconv.Atoi(n)
			if err != nil {
				return mlaas.Invalid("gpu", "a count such as 1, or KIND:COUNT such as h200:2", v)
			}
			r.GPU = mlaas.GPU{Count: count, Kind: kind}
			return nil
		})
	}
	return said, err
}

func flagged(flag string, err error) error {
	if f, ok := errors.AsType[*mlaas.FieldError](err); ok {
		return &mlaas.FieldError{Field: flag, Want: f.Want, Got: f.Got}
	}
	return err
}

func replicas(r *mlaas.Role) string {
	if r.Replicas.Min == r.Replicas.Max {
		return count(r.Replicas.Max, "replica")
	}
	return fmt.Sprintf("%d to %d replicas", r.Replicas.Min, r.Replicas.Max)
}

func perReplica(r *mlaas.Role) string {
	n := r.Need()
	text := fmt.Sprintf("each cpu %s, memory %s", n.CPU, n.Memory)
	if r.Disk != nil {
		text += ", disk " + r.Disk.String()
	}
	if n.GPU.Count > 0 {
		text += fmt.Sprintf(", %s %s", count(n.GPU.Count, "GPU"), n.GPU.Kind)
	}
	return strings.TrimSpace(text)
}

// because says who decided what each replica of a role needs.
func because(flags []string, r *mlaas.Role, kept string) string {
	why := strings.Join(flags, ", ")
	switch {
	case r.CPU == nil && r.Memory == nil:
		return join("; ", why, "defaults to be placed by, no ceiling")
	case r.CPU == nil:
		return join("; ", first(why, kept), "cpu by default, no ceiling")
	case r.Memory == nil:
		return join("; ", first(why, kept), "memory by default, no ceiling")
	}
	return first(why, kept)
}

func (s *specFlags) environment(p *plan, src *source, kept string, env func(string) (string, bool)) error {
	e := &p.Spec.Environment
	before := fmt.Sprint(e.Framework, e.Python, e.Packages, e.Image)
	framework, add, unknown := imports.Guess(src.Found)
	why := kept
	switch name, python, _ := strings.Cut(s.Environment, "@"); {
	case s.Image != "":
		e.Image, e.Framework, e.Packages, why = s.Image, "", nil, "--image"
	case s.Framework != "":
		e.Framework, e.Image, why = s.Framework, "", "--framework"
	case name != "":
		e.Framework, e.Image, why = name, "", "--environment"
		if python != "" {
			e.Python = python
		}
	case src.File != nil && (e.Framework != "" || e.Image != ""):
	case e.Image != "":
	case framework.Value != "python" || e.Framework == "":
		e.Framework, why = framework.Value, framework.Reason
	}
	if e.Image != "" {
		if len(s.Packages) > 0 {
			return tell{What: "an image has its packages in it: --package cannot add to it", Kind: mlaas.ErrInvalid,
				Fix: "leave --package or --image away"}
		}
		p.row("environment", e.Image, why)
	} else {
		p.row("framework", join(" with Python ", e.Framework, e.Python), why)
		s.packages(p, src, add, unknown, kept)
	}
	if before != fmt.Sprint(e.Framework, e.Python, e.Packages, e.Image) && src.File == nil {
		e.Lock = "" // it was of what the environment was before
	}
	for _, v := range s.Variables {
		k, value, ok := strings.Cut(v, "=")
		if !ok {
			if value, ok = env(k); !ok {
				return tell{What: fmt.Sprintf("--env %s: there is no such variable here to take", k), Kind: mlaas.ErrInvalid,
					Fix: fmt.Sprintf("give its value:   --env %s=VALUE", k)}
			}
		}
		if e.Variables == nil {
			e.Variables = map[string]string{}
		}
		e.Variables[k] = value
	}
	for _, v := range s.Secrets {
		name, variable, ok := strings.Cut(v, "=")
		if !ok {
			variable = strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
		}
		use := mlaas.SecretUse{Secret: name, Variable: variable}
		e.Secrets = append(slices.DeleteFunc(e.Secrets, func(o mlaas.SecretUse) bool { return o.Variable == variable }), use)
		p.row("secret", name+" as $"+variable, "--secret")
	}
	if len(e.Variables) > 0 {
		p.row("variables", strings.Join(slices.Sorted(maps.Keys(e.Variables)), ", "), stated("--env", len(s.Variables), kept))
	}
	return nil
}

func (s *specFlags) packages(p *plan, src *source, add []imports.Choice, unknown []imports.Module, kept string) {
	e := &p.Spec.Environment
	have := func(pkg string) bool {
		return slices.ContainsFunc(e.Packages, func(o string) bool { return project(o) == project(pkg) })
	}
	switch {
	case src.File != nil && src.File.Environment.Packages != nil:
		if len(e.Packages) > 0 {
			p.row("packages", strings.Join(e.Packages, " "), src.FileName)
		}
	case len(src.Required) > 0:
		e.Packages = slices.Clone(src.Required)
		p.row("packages", strings.Join(e.Packages, " "), src.Requires)
	default:
		if len(e.Packages) > 0 {
			p.row("packages", strings.Join(e.Packages, " "), kept)
		}
		for _, a := range add {
			if !have(a.Value) && a.Value != e.Framework {
				e.Packages = append(e.Packages, a.Value)
				p.row("package", a.Value, a.Reason)
			}
		}
	}
	for _, pkg := range s.Packages {
		e.Packages = append(slices.DeleteFunc(e.Packages, func(o string) bool { return project(o) == project(pkg) }), pkg)
		p.row("package", pkg, "--package")
	}
	for _, u := range unknown {
		if len(src.Required) == 0 && !have(u.Name) && (src.File == nil || src.File.Environment.Packages == nil) {
			p.Notes = append(p.Notes, fmt.Sprintf("%s, which nothing here brings: if it is a package, add   --package NAME", u))
		}
	}
}

var projectRule = regexp.MustCompile(`^[A-Za-z0-9._-]+`)

// project is the name of a requirement as pip compares it.
func project(requirement string) string {
	return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(projectRule.FindString(requirement)))
}

func (s *specFlags) inputs(p *plan, kept string) error {
	if n := len(p.Spec.Data); n > 0 && len(s.Data) == 0 {
		var names []string
		for _, d := range p.Spec.Data {
			names = append(names, d.Name)
		}
		p.row("data", strings.Join(names, ", "), kept)
	}
	for _, text := range s.Data {
		name, src, ok := strings.Cut(text, "=")
		if !ok {
			name, _, _ = strings.Cut(text, "@")
			src = "dataset:" + text
		} else if _, err := os.Stat(src); err == nil {
			p.Send[name] = src
			src = "dataset:" + name
		} else if !strings.Contains(src, ":") {
			return tell{What: fmt.Sprintf("--data %s: there is no file or folder %s", text, src), Kind: mlaas.ErrNotFound,
				Fix: "name one to send it, or an address, or a dataset that is there:   --data NAME=dataset:OTHER"}
		}
		d := mlaas.Data{Name: name, Source: src}
		p.Spec.Data = append(slices.DeleteFunc(p.Spec.Data, func(o mlaas.Data) bool { return o.Name == name }), d)
		p.row("data", join(" from ", "$MLAAS_DATA/"+name, join(", sent from ", src, p.Send[name])), "--data")
	}
	e := &p.Spec.Execution
	for _, text := range s.Parameters {
		k, v, ok := strings.Cut(text, "=")
		if !ok {
			return tell{What: fmt.Sprintf("--param %s has no value", text), Fix: fmt.Sprintf("write   --param %s=VALUE", text), Kind: mlaas.ErrInvalid}
		}
		if e.Parameters == nil {
			e.Parameters = map[string]any{}
		}
		e.Parameters[k] = parameter(v)
	}
	if len(e.Parameters) > 0 {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(e.Parameters)) {
			all = append(all, fmt.Sprintf("%s=%v", k, e.Parameters[k]))
		}
		p.row("parameters", strings.Join(all, " "), stated("--param", len(s.Parameters), kept))
	}
	return nil
}

// parameter is a number or a truth value where the text is one, else the text.
func parameter(text string) any {
	var v any
	if json.Unmarshal([]byte(text), &v) == nil {
		switch v := v.(type) {
		case bool:
			return v
		case float64:
			return json.Number(text) // written as it was
		}
	}
	return text
}

func stated(flag string, n int, kept string) string {
	if n > 0 {
		return flag
	}
	return kept
}

func join(by, a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + by + b
}

// set changes one field of the spec by its path.
func (p *plan) set(text string) error {
	at, value, ok := strings.Cut(text, "=")
	if !ok {
		return tell{What: fmt.Sprintf("--set %s has no value", text), Fix: "write   --set execution.timeout=2h", Kind: mlaas.ErrInvalid}
	}
	raw, err := json.Marshal(p.Spec)
	if err != nil {
		return err
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return err
	}
	var v any
	if err := yaml.Unmarshal([]byte(value), &v); err != nil {
		v = value
	}
	here, parts := tree, strings.Split(at, ".")
	for _, part := range parts[:len(parts)-1] {
		next, ok := here[part].(map[string]any)
		if !ok {
			next = map[string]any{}
			here[part] = next
		}
		here = next
	}
	here[parts[len(parts)-1]] = v
	if raw, err = json.Marshal(tree); err != nil {
		return err
	}
	spec, err := parseSpec(raw)
	if err != nil {
		return inFile("--set "+text, err)
	}
	p.Spec = *spec
	p.row("set", at+" = "+value, "--set")
	return nil
}

// String shows the plan: what, and why.
func (p *plan) String() string {
	t := &table{Head: []string{"", "", ""}}
	for _, r := range p.Rows {
		t.row("  "+r.What, r.Value, r.Why)
	}
	_, body, _ := strings.Cut(t.String(), "\n")
	return body
}
