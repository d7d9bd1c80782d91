package mlaas

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Job is what a user makes and edits (paper §4.1): code version, data
// source, execution parameters, environment parameters and results.
// Management alone writes it. Status and Results are not stored with it:
// management fills them in from the newest run when it is read.
type Job struct {
	ID     JobID  `json:"id"`
	Tenant Tenant `json:"-"`
	JobSpec
	Versions int        `json:"versions"` // how many there are; v1 is the first
	Runs     int        `json:"runs"`     // how many were asked for; NAME/1 is the first
	Created  time.Time  `json:"created"`
	Updated  time.Time  `json:"updated"`
	Deleted  *time.Time `json:"deleted,omitempty"` // restorable for 7 days
	Revision int64      `json:"revision"`
	Status   *JobStatus `json:"status,omitempty"`
	Results  *Results   `json:"results"` // null until a run has finished
}

// A JobSpec is the part of a job that its user writes: the body of POST
// /api/job, and the file mlaas.yaml. Everything but the name has a default.
type JobSpec struct {
	Name        string            `json:"name"`
	Environment Environment       `json:"environment"`
	Roles       map[string]*Role  `json:"roles"`
	Execution   Execution         `json:"execution"`
	Data        []Data            `json:"data"`
	Code        Code              `json:"code"`
	Evaluation  Evaluation        `json:"evaluation"`
	Rules       []ActionRule      `json:"rules,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// An Environment is the runtime for user code. With an Image it is that
// container image and nothing else may be named.
type Environment struct {
	Framework string            `json:"framework"`        // of the catalogue: tensorflow, keras, pytorch, jax, scikit-learn, xgboost, python
	Python    string            `json:"python,omitempty"` // "3.11"; empty: the one that is there
	Packages  []string          `json:"packages"`         // requirements as pip reads them
	Lock      Digest            `json:"lock,omitempty"`   // of the resolved requirements; empty: resolved at first use and then kept
	Image     string            `json:"image,omitempty"`  // clusters only
	Variables map[string]string `json:"variables"`        // of the user's process
	Secrets   []SecretUse       `json:"secrets,omitempty"`
}

// A SecretUse puts a secret into the user's process as an environment variable.
type SecretUse struct {
	Secret   string `json:"secret"`            // its name
	Variable string `json:"variable"`          // where the program finds it
	Version  int    `json:"version,omitempty"` // empty in a job: the newest, which its run then names
}

// The roles of a replica.
const (
	Chief     = "chief"
	Worker    = "worker"
	PS        = "ps"
	Evaluator = "evaluator"
	Kernel    = "kernel" // of a run that is one; no job asks for it
)

// RoleOrder is the order in which roles are numbered, started and shown.
var RoleOrder = []string{Chief, Worker, PS, Evaluator, Kernel}

// JobRoles are the roles that a job may ask for.
var JobRoles = []string{Chief, Worker, PS, Evaluator}

// A Role says how many replicas of a kind a run has, and what each one needs.
type Role struct {
	Replicas Count     `json:"replicas"`
	CPU      *MilliCPU `json:"cpu,omitempty"`    // empty: 500m to be placed by, and no ceiling
	Memory   *Bytes    `json:"memory,omitempty"` // empty: 1Gi to be placed by, and no ceiling
	GPU      GPU       `json:"gpu"`

	// Disk is for what a replica writes: on clusters it is placed by it, and may
	// not exceed it. Empty: whatever its node has.
	Disk *Bytes `json:"disk,omitempty"`
}

// What a role asks for where its user says nothing. A default is a request for
// placement; a stated value is also the ceiling.
const (
	DefaultCPU    MilliCPU = 500
	DefaultMemory Bytes    = 1 << 30
)

// Need is what one replica of r is placed by.
func (r *Role) Need() Resources {
	n := Resources{DefaultCPU, DefaultMemory, r.GPU}
	if r.CPU != nil {
		n.CPU = *r.CPU
	}
	if r.Memory != nil {
		n.Memory = *r.Memory
	}
	return n
}

// Ceiling is what one replica of r may not exceed; 0 is no ceiling.
func (r *Role) Ceiling() Resources {
	c := Resources{GPU: r.GPU}
	if r.CPU != nil {
		c.CPU = *r.CPU
	}
	if r.Memory != nil {
		c.Memory = *r.Memory
	}
	return c
}

// Count is how many replicas: at least Min, at most Max. In JSON it is
// {"min", "max"}, or N, which means {1, N} for workers (paper §5.3.1) and
// exactly N for every other role, or the text "2-8".
type Count struct {
	Min  int  `json:"min"`
	Max  int  `json:"max"`
	bare bool // written as N; Complete makes it a range by its role
}

// N is a count written as one number.
func N(n int) Count { return Count{n, n, true} }

// ParseCount reads "4" or "2-8".
func ParseCount(s string) (Count, error) {
	low, high, ranged := strings.Cut(s, "-")
	lo, err := strconv.Atoi(low)
	hi, err2 := lo, error(nil)
	if ranged {
		hi, err2 = strconv.Atoi(high)
	}
	if err != nil || err2 != nil {
		return Count{}, Invalid("replicas", `a number such as 4 or a range such as "2-8"`, s)
	}
	return Count{lo, hi, !ranged}, nil
}

// UnmarshalJSON reads N, "2-8" or {"min", "max"}; null is as if it were not
// there.
func (c *Count) UnmarshalJSON(data []byte) (err error) {
	if string(data) == "null" {
		return nil
	}
	if text := strings.TrimSpace(unquote(data)); !strings.HasPrefix(text, "{") {
		*c, err = ParseCount(text)
		return err
	}
	type plain struct {
		Min *int `json:"min"`
		Max *int `json:"max"`
	}
	var p plain
	if err := strictly(data, &p); err != nil {
		return Invalid("replicas", `N, "2-8" or {"min", "max"}`, string(data))
	}
	*c = Count{Min: 1, Max: 1}
	switch {
	case p.Min != nil && p.Max != nil:
		c.Min, c.Max = *p.Min, *p.Max
	case p.Min != nil:
		c.Min, c.Max = *p.Min, max(*p.Min, 1)
	case p.Max != nil:
		c.Min, c.Max = min(1, *p.Max), *p.Max
	}
	return nil
}

// Execution is how the program is started.
type Execution struct {
	Command    []string       `json:"command"`           // empty: python and the entry file of the version
	Parameters map[string]any `json:"parameters"`        // reach the program as --name value and as MLAAS_PARAM_NAME
	Timeout    Seconds        `json:"timeout,omitempty"` // of one attempt; 0: none
	Grace      Seconds        `json:"grace,omitempty"`   // between a polite stop and the end; 0: 10 s
	Restarts   Budget         `json:"restarts"`
	Priority   int            `json:"priority,omitempty"` // higher goes first; 0 is ordinary
}

// Seconds is a duration. In JSON it is a number of seconds, or "90s", "5m".
type Seconds float64

// UnmarshalJSON reads 90, "90s" or "1h30m"; null is as if it were not there.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	text := unquote(data)
	if v, err := strconv.ParseFloat(text, 64); err == nil && v >= 0 && v <= 1e9 {
		*s = Seconds(v)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return Invalid("duration", `seconds, or a text such as "90s" or "5m"`, text)
	}
	*s = Seconds(d.Seconds())
	return nil
}

// Duration is s as the time package has it.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Budget is how often a run may begin again, counted apart by whose fault it
// was.
type Budget struct {
	User           *int `json:"user,omitempty"`           // the program failed; empty: 0
	Infrastructure *int `json:"infrastructure,omitempty"` // a machine or the platform did; empty: 10
}

// The restarts that a run has where its user says nothing.
const (
	DefaultUserRestarts           = 0
	DefaultInfrastructureRestarts = 10
)

// Data is one input of a job, found at $MLAAS_DATA/NAME.
type Data struct {
	Name   string `json:"name"`
	Source string `json:"source"` // dataset:NAME@V, https://, s3://, git+https://
}

// Code says which code a run takes, and how it is made trackable.
type Code struct {
	Mode    string    `json:"mode"`              // plain | guiding | annotation | nonintrusive | composed
	Version VersionID `json:"version,omitempty"` // empty: the newest
	Hooks   *bool     `json:"hooks,omitempty"`   // whether post-import hooks record; empty: in annotation and nonintrusive
	Locals  bool      `json:"locals,omitempty"`  // a failure tells the local variables of its frames

	// Distribute says how a program that knows one replica runs on several.
	Distribute Distribution `json:"distribute,omitempty"` // one of Distributions; empty: auto
	Composed   *Composed    `json:"composed,omitempty"`   // mode composed only
}

// A Distribution is a way of running a program that was written for one replica
// on several. In auto its code says which; in off each replica runs it as it
// stands, and finds the others by its variables.
type Distribution string

// Distributions are all of them.
var Distributions = []string{"auto", "off", "parameter-server", "data-parallel", "sync"}

// UnmarshalJSON reads a text, and false as off, which YAML makes of it.
func (d *Distribution) UnmarshalJSON(data []byte) error {
	if string(data) == "false" {
		*d = "off"
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return Invalid("distribute", strings.Join(Distributions, ", "), string(data))
	}
	*d = Distribution(text)
	return nil
}

// Modes are the ways of making code trackable (paper §4.4).
var Modes = []string{"plain", "guiding", "annotation", "nonintrusive", "composed"}

// JobStatus is where the newest run of a job stands.
type JobStatus struct {
	State  State  `json:"state"`
	Reason string `json:"reason"`
	Run    RunID  `json:"run"` // empty: it was never run
	Number int    `json:"number,omitempty"`
}

// Results is what the newest finished run came to.
type Results struct {
	Run         RunID             `json:"run"`
	State       State             `json:"state"`
	Metrics     map[string]Number `json:"metrics"`          // the last value of each key
	Judged      *Judged           `json:"judged,omitempty"` // by its headline metric, where one is known
	Step        int64             `json:"step"`
	Checkpoints int               `json:"checkpoints"`
	Artifacts   int               `json:"artifacts"`
}

// Complete fills in every default. It is idempotent.
func (j *JobSpec) Complete() {
	j.completeComposed()
	if j.Environment.Framework == "" && j.Environment.Image == "" {
		j.Environment.Framework = "python"
	}
	if j.Environment.Packages == nil {
		j.Environment.Packages = []string{}
	}
	if j.Environment.Variables == nil {
		j.Environment.Variables = map[string]string{}
	}
	if j.Roles == nil {
		j.Roles = map[string]*Role{}
	}
	if j.Roles[Worker] == nil && j.Roles[Chief] == nil {
		j.Roles[Worker] = &Role{Replicas: Count{Min: 1, Max: 1}}
	}
	for name, r := range j.Roles {
		switch {
		case r == nil:
			j.Roles[name] = &Role{Replicas: Count{Min: 1, Max: 1}}
		case r.Replicas == (Count{}):
			r.Replicas = Count{Min: 1, Max: 1}
		case r.Replicas.bare && name == Worker:
			r.Replicas = Count{Min: min(1, r.Replicas.Max), Max: r.Replicas.Max}
		}
		if r != nil {
			r.Replicas.bare = false
		}
	}
	if j.Execution.Command == nil {
		j.Execution.Command = []string{}
	}
	if j.Execution.Parameters == nil {
		j.Execution.Parameters = map[string]any{}
	}
	if j.Data == nil {
		j.Data = []Data{}
	}
	if j.Code.Mode == "" {
		j.Code.Mode = "nonintrusive"
	}
}

// Trainers is how many chiefs and workers a run may have at most, and how many
// parameter servers hold their variables.
func (j *JobSpec) Trainers() (replicas, servers int) {
	for name, role := range j.Roles {
		switch name {
		case Chief, Worker:
			replicas += role.Replicas.Max
		case PS:
			servers += role.Replicas.Max
		}
	}
	return replicas, servers
}

// Spreads reports whether a program may be spread over the replicas of a run:
// there are several, and the job does not want them apart.
func (j *JobSpec) Spreads() bool {
	replicas, servers := j.Trainers()
	return j.Code.Mode != "plain" && j.Code.Mode != "" && j.Code.Distribute != "off" && (replicas > 1 || servers > 0)
}

// Check reports the first field of a completed spec that is wrong: which,
// what it is, and what would be right.
func (j *JobSpec) Check() error {
	if err := CheckName("name", j.Name); err != nil {
		return err
	}
	if err := j.Environment.check(); err != nil {
		return In("environment", err)
	}
	for _, name := range slices.Sorted(maps.Keys(j.Roles)) {
		if !slices.Contains(JobRoles, name) {
			return Invalid("roles", "roles named "+strings.Join(JobRoles, ", "), name)
		}
		if err := j.Roles[name].check(name); err != nil {
			return In("roles."+name, err)
		}
	}
	if c := j.Roles[Chief]; c != nil && c.Replicas.Max > 1 {
		return Invalid("roles.chief.replicas", "1: there is one chief", c.Replicas.Max)
	}
	if err := j.Execution.check(); err != nil {
		return In("execution", err)
	}
	seen := map[string]bool{}
	for i, d := range j.Data {
		if err := d.check(); err != nil {
			return In(fmt.Sprintf("data[%d]", i), err)
		}
		if seen[d.Name] {
			return Invalid(fmt.Sprintf("data[%d].name", i), "a name that no other data has", d.Name)
		}
		seen[d.Name] = true
	}
	if err := j.Code.check(); err != nil {
		return In("code", err)
	}
	if err := j.checkComposed(); err != nil {
		return err
	}
	if err := j.Evaluation.check(); err != nil {
		return In("evaluation", err)
	}
	return CheckRules(j.Rules)
}

func (e *Environment) check() error {
	if e.Image != "" && (e.Framework != "" || len(e.Packages) > 0) {
		return Invalid("image", "an image alone, without framework and packages", e.Image)
	}
	if e.Image != "" {
		if err := CheckImage("image", e.Image); err != nil {
			return err
		}
	}
	if e.Python != "" && !pythonRule.MatchString(e.Python) {
		return Invalid("python", "a version such as 3.11", e.Python)
	}
	for i, p := range e.Packages {
		if p == "" || strings.HasPrefix(strings.TrimSpace(p), "-") || strings.ContainsAny(p, "\n\r\x00") {
			return Invalid(fmt.Sprintf("packages[%d]", i), "one requirement such as numpy or numpy==2.1", p)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Variables)) {
		if !variableRule.MatchString(k) {
			return Invalid("variables", "names of letters, digits and _", k)
		}
		if v := e.Variables[k]; len(v) > maxWord || strings.ContainsRune(v, 0) {
			return Invalid("variables."+k, "a text without a NUL, of at most 64 KiB", v)
		}
	}
	if e.Lock != "" && !digestRule.MatchString(string(e.Lock)) {
		return Invalid("lock", `"sha256:" and 64 hex digits`, string(e.Lock))
	}
	for i, s := range e.Secrets {
		if err := CheckName("secret", s.Secret); err != nil {
			return In(fmt.Sprintf("secrets[%d]", i), err)
		}
		if s.Version < 0 {
			return Invalid(fmt.Sprintf("secrets[%d].version", i), "1, 2, ... or nothing, which is the newest", s.Version)
		}
		if !variableRule.MatchString(s.Variable) {
			return Invalid(fmt.Sprintf("secrets[%d].variable", i), "a name of letters, digits and _", s.Variable)
		}
	}
	return nil
}

// MaxReplicas is how many replicas of a role a run may have.
const MaxReplicas = 10000

func (r *Role) check(name string) error {
	least := 0
	if name == Worker || name == Chief {
		least = 1
	}
	switch c := r.Replicas; {
	case c.Min < least || c.Max < c.Min:
		return Invalid("replicas", fmt.Sprintf("min of at least %d and max of at least min", least), fmt.Sprintf("%d-%d", c.Min, c.Max))
	case c.Max > MaxReplicas:
		return Invalid("replicas", "at most 10000", c.Max)
	case name != Worker && c.Min != c.Max:
		return Invalid("replicas", "one number: only workers may be a range", fmt.Sprintf("%d-%d", c.Min, c.Max))
	}
	if r.CPU != nil && *r.CPU <= 0 {
		return Invalid("cpu", `cores such as 0.3 or thousandths such as "300m", more than 0`, r.CPU.String())
	}
	if r.Memory != nil && *r.Memory < 1<<20 { // 1.5 is more likely a slip
		return Invalid("memory", `bytes such as "256Mi", "1.5Gi" or 2000000000, at least 1Mi`, r.Memory.String())
	}
	if r.Disk != nil && *r.Disk < 1<<20 {
		return Invalid("disk", `bytes such as "500Mi", "20Gi" or 2000000000, at least 1Mi`, r.Disk.String())
	}
	if r.GPU.Count < 0 || r.GPU.Count > 1024 {
		return Invalid("gpu", "0 to 1024", r.GPU.Count)
	}
	return nil
}

// maxWord is how long one word of a command or the environment may be: the
// system takes twice as much, with the name.
const maxWord = 64 << 10

func (e *Execution) check() error {
	for i, c := range e.Command {
		if c == "" && i == 0 || len(c) > maxWord || strings.ContainsRune(c, 0) {
			return Invalid(fmt.Sprintf("command[%d]", i), "a word without a NUL, of at most 64 KiB", c)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Parameters)) {
		if !variableRule.MatchString(strings.ReplaceAll(k, "-", "_")) {
			return Invalid("parameters", "names of letters, digits, - and _", k)
		}
		switch v := e.Parameters[k].(type) {
		case string:
			if len(v) > maxWord || strings.ContainsRune(v, 0) {
				return Invalid("parameters."+k, "a text without a NUL, of at most 64 KiB", v)
			}
		case float64, bool, json.Number, int:
		default:
			text, _ := json.Marshal(e.Parameters[k]) // it came as JSON
			return Invalid("parameters."+k, "a text, a number, true or false", shown(text))
		}
	}
	for field, n := range map[string]*int{"user": e.Restarts.User, "infrastructure": e.Restarts.Infrastructure} {
		if n != nil && (*n < 0 || *n > 1000) {
			return Invalid("restarts."+field, "0 to 1000", *n)
		}
	}
	return nil
}

func (c *Code) check() error {
	if !slices.Contains(Modes, c.Mode) {
		return Invalid("mode", strings.Join(Modes, ", "), c.Mode)
	}
	if c.Mode == "plain" && c.Hooks != nil && *c.Hooks {
		return Invalid("hooks", "false, or another code.mode: in plain nothing is added to the program", true)
	}
	if c.Distribute != "" && !slices.Contains(Distributions, string(c.Distribute)) {
		return Invalid("distribute", strings.Join(Distributions, ", "), string(c.Distribute))
	}
	if c.Mode == "plain" && c.Distribute != "" && c.Distribute != "off" {
		return Invalid("distribute", "off, or another code.mode: in plain nothing is added to the program", string(c.Distribute))
	}
	if c.Mode == "plain" && c.Locals {
		return Invalid("locals", "false, or another code.mode: in plain nothing is added to the program", true)
	}
	return nil
}

// Hooked reports whether post-import hooks record what the program does. A
// guided or composed program records by itself.
func (c *Code) Hooked() bool {
	if c.Hooks != nil {
		return *c.Hooks && c.Mode != "plain"
	}
	return c.Mode == "annotation" || c.Mode == "nonintrusive"
}

func (d Data) check() error {
	if err := CheckName("name", d.Name); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(d.Source, "s3://"):
		return checkBucket(d.Source)
	case strings.HasPrefix(d.Source, "git+"):
		_, err := ParseRepository(d.Source)
		return err
	}
	for _, scheme := range []string{"dataset:", "https://", "http://"} {
		if rest, ok := strings.CutPrefix(d.Source, scheme); ok && rest != "" {
			return nil
		}
	}
	return Invalid("source", "dataset:NAME@VERSION, https://, s3:// or git+https://", d.Source)
}

// A Version is an immutable, content-addressed snapshot of a job's code.
// Management alone writes it; only its labels may change.
type Version struct {
	ID      VersionID         `json:"id"` // "v7"
	Job     JobID             `json:"job"`
	Tenant  Tenant            `json:"-"`
	Number  int               `json:"number"`
	Bundle  Digest            `json:"bundle"` // of its manifest, a [Tree]
	Files   []File            `json:"files"`
	Entry   string            `json:"entry,omitempty"` // the file to start: main.py, or the only .py
	Size    Bytes             `json:"size"`
	Labels  map[string]string `json:"labels"`
	Created time.Time         `json:"created"`
}

// A File is one entry of a tree: a path with slashes, its content, its mode.
type File struct {
	Path   string `json:"path"`
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"`
	Exec   bool   `json:"exec,omitempty"`
}

// A Tree is a folder by content: code, a dataset, a checkpoint, outputs. Its
// JSON, files sorted by path, is kept as a blob and named by its digest.
type Tree struct {
	Files []File `json:"files"`
}

// A Dataset is a named, versioned input. Management alone writes it.
type Dataset struct {
	Name    string    `json:"name"`
	Tenant  Tenant    `json:"-"`
	Version int       `json:"version"`
	Tree    Digest    `json:"tree"`
	Files   int       `json:"files"`
	Size    Bytes     `json:"size"`
	Created time.Time `json:"created"`
}

// A Locked environment is what a framework and packages resolved to, once and
// for all: text as pip reads it, with hashes, kept as a blob. Booster writes
// it when a supervisor has resolved one; management when a user upgrades.
type Locked struct {
	Spec      Digest    `json:"spec"` // of framework, python and packages
	Tenant    Tenant    `json:"-"`
	Framework string    `json:"framework"`
	Python    string    `json:"python"`
	Packages  []string  `json:"packages"`
	Lock      Digest    `json:"lock"`
	Previous  []Digest  `json:"previous,omitempty"` // newest last; to go back to
	Created   time.Time `json:"created"`
}

// Spec names what e asks for: its framework, Python and packages, whatever
// their order. Equal specs share a [Locked].
func (e *Environment) Spec() Digest {
	packages := make([]string, 0, len(e.Packages))
	for _, p := range e.Packages {
		packages = append(packages, strings.TrimSpace(p))
	}
	slices.Sort(packages)
	text, _ := json.Marshal([]any{e.Framework, e.Python, slices.Compact(packages)}) // strings: cannot fail
	return Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(text)))
}
