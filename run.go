package mlaas

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Run is the wish for one execution of a version: immutable input, so that
// it can be done again. Management alone writes it; after it is made only
// Wanted and Anywhere change.
type Run struct {
	ID      RunID   `json:"id"`
	Tenant  Tenant  `json:"-"`
	Job     JobID   `json:"job"`
	JobName string  `json:"jobName"`
	Number  int     `json:"number"` // people write NAME/7; 0: it is a kernel
	Version Version `json:"version"`
	Spec    JobSpec `json:"spec"` // as it was when run was pressed, with the run's own parameters and roles
	Wanted  Wanted  `json:"wanted"`
	Why     string  `json:"why,omitempty"` // why it is to stop

	Kernel *KernelSpec `json:"kernel,omitempty"` // it is a kernel; nil: it runs the program

	// Anywhere is how often its user let it on every node again: what rules have
	// excluded until then is forgotten.
	Anywhere int `json:"anywhere,omitempty"`

	Created time.Time `json:"created"`
	Trace   string    `json:"trace,omitempty"` // the W3C traceparent of the request that asked for it
}

// Wanted is what the user wants of a run.
type Wanted string

// What may be wanted of a run.
const (
	WantRun  Wanted = "run"
	WantStop Wanted = "stop"
)

// State is where a run stands; package jobengine owns the moves.
type State string

// The states of a run. The last three are final.
const (
	Created   State = "created"
	Queued    State = "queued"
	Starting  State = "starting"
	Running   State = "running"
	Resizing  State = "resizing"
	Stopping  State = "stopping"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Stopped   State = "stopped"
)

// States lists all states in the order of a run's life.
var States = []State{Created, Queued, Starting, Running, Resizing, Stopping, Succeeded, Failed, Stopped}

// Final reports whether nothing can follow s.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Stopped }

// A RunState is what became of a Run. Contractor alone writes it.
type RunState struct {
	Run     RunID  `json:"run"`
	Tenant  Tenant `json:"-"`
	Job     JobID  `json:"job"`
	Kernel  bool   `json:"kernel,omitempty"` // it is no run of the program
	State   State  `json:"state"`
	Reason  string `json:"reason"`            // a sentence: why, what would end it, when it is expected
	Verdict State  `json:"verdict,omitempty"` // while stopping: the final state that follows

	// Epoch counts attempts; it is the fence: what an older epoch sends is
	// refused where it arrives. Raised in the commit that places the run.
	Epoch      int        `json:"epoch"`
	Attempts   []Attempt  `json:"attempts"`
	Allocation Allocation `json:"allocation"`
	Restarts   Restarts   `json:"restarts"`

	Queued  time.Time  `json:"queued"`
	Started *time.Time `json:"started,omitempty"` // of the first attempt's program
	Ended   *time.Time `json:"ended,omitempty"`
	Next    time.Time  `json:"next,omitzero"` // when it is looked at again if nothing happens

	ExitCode *int `json:"exitCode,omitempty"` // of the program: the chief's, or the first that failed

	// What action rules have changed of the run's wish: how many replicas of a
	// role it is to have instead, and on which nodes none of a role may run.
	Sizes    map[string]int      `json:"sizes,omitempty"`
	Excluded map[string][]string `json:"excluded,omitempty"` // by role, newest last, at most 16
	Anywhere int                 `json:"anywhere,omitempty"` // the run's, when Excluded was forgotten last
}

// An Attempt is one try of the whole set of replicas.
type Attempt struct {
	Epoch   int        `json:"epoch"`
	Cluster string     `json:"cluster"`
	Resume  Digest     `json:"resume,omitempty"` // the checkpoint that it began from
	Step    int64      `json:"step,omitempty"`   // of that checkpoint
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	Reason  string     `json:"reason,omitempty"` // why it ended
}

// An Allocation is what a run has been given now, by role. Granted plus
// Remainder is Requested.
type Allocation struct {
	Cluster   string         `json:"cluster,omitempty"`
	Requested map[string]int `json:"requested,omitempty"`
	Granted   map[string]int `json:"granted,omitempty"`
	Remainder map[string]int `json:"remainder,omitempty"`
	Total     Resources      `json:"total"` // of what is granted
}

// Restarts counts the attempts that were begun again, by whose fault it was.
type Restarts struct {
	User           int `json:"user"`
	Infrastructure int `json:"infrastructure"`
	Resize         int `json:"resize"`
}

// ReplicaStatus is where one replica stands.
type ReplicaStatus string

// The statuses of a replica. The last four are final for its attempt.
const (
	ReplicaWanted    ReplicaStatus = "wanted"    // asked for
	ReplicaCreating  ReplicaStatus = "creating"  // being made
	ReplicaPending   ReplicaStatus = "pending"   // waiting for its place, image or environment
	ReplicaReady     ReplicaStatus = "ready"     // its supervisor waits for code
	ReplicaRunning   ReplicaStatus = "running"   // the user's program runs
	ReplicaStopping  ReplicaStatus = "stopping"  // asked to end
	ReplicaSucceeded ReplicaStatus = "succeeded" // the program ended with 0
	ReplicaFailed    ReplicaStatus = "failed"    // the program ended otherwise
	ReplicaStopped   ReplicaStatus = "stopped"   // ended because it was asked to
	ReplicaLost      ReplicaStatus = "lost"      // gone without a word
)

// ReplicaStatuses lists all, in the order of a replica's life.
var ReplicaStatuses = []ReplicaStatus{
	ReplicaWanted, ReplicaCreating, ReplicaPending, ReplicaReady, ReplicaRunning,
	ReplicaStopping, ReplicaSucceeded, ReplicaFailed, ReplicaStopped, ReplicaLost,
}

// Final reports whether nothing can follow s in the same attempt.
func (s ReplicaStatus) Final() bool {
	return s == ReplicaSucceeded || s == ReplicaFailed || s == ReplicaStopped || s == ReplicaLost
}

// After reports whether s may follow old in one attempt: news that is late or
// doubled may not.
func (s ReplicaStatus) After(old ReplicaStatus) bool {
	return !old.Final() && slices.Index(ReplicaStatuses, s) > slices.Index(ReplicaStatuses, old)
}

// A Fence names one incarnation of one replica: whatever carries an older one
// is refused where it arrives.
type Fence struct {
	Tenant      Tenant `json:"tenant"`
	Run         RunID  `json:"run"`
	Epoch       int    `json:"epoch"`
	Replica     string `json:"replica"` // "worker-0"
	Incarnation int    `json:"incarnation"`
}

// String is a name that is safe in files, cgroups and pods.
func (f Fence) String() string {
	return fmt.Sprintf("%s-%d-%s-%d", f.Run, f.Epoch, f.Replica, f.Incarnation)
}

// ReplicaName is "worker-0". It stays the same from attempt to attempt.
func ReplicaName(role string, index int) string { return role + "-" + strconv.Itoa(index) }

// SplitReplica is the reverse of ReplicaName.
func SplitReplica(name string) (role string, index int, err error) {
	role, n, ok := strings.Cut(name, "-")
	index, err = strconv.Atoi(n)
	if !ok || err != nil || index < 0 || role == "" {
		return "", 0, Invalid("replica", `a name such as "worker-0"`, name)
	}
	return role, index, nil
}

// A Replica is one started process of a role. Booster alone writes it; there
// is one record for each name in a run, and it tells of the newest attempt.
type Replica struct {
	Fence
	Job      JobID             `json:"job"`
	Role     string            `json:"role"`
	Index    int               `json:"index"`
	Cluster  string            `json:"cluster"`
	Node     string            `json:"node,omitempty"` // the machine
	Status   ReplicaStatus     `json:"status"`
	Reason   string            `json:"reason"`
	Program  bool              `json:"program"` // whether the user's program was started
	ExitCode *int              `json:"exitCode,omitempty"`
	OOM      bool              `json:"oom,omitempty"`      // ended by its memory ceiling
	Failure  *Failure          `json:"failure,omitempty"`  // where its program failed, as far as Python said
	NodeLost bool              `json:"nodeLost,omitempty"` // lost with its node
	Exclude  []string          `json:"exclude,omitempty"`  // nodes that it may not run on
	Address  string            `json:"address,omitempty"`  // where the other replicas reach it
	Ports    []int             `json:"ports,omitempty"`    // that it holds for the program
	Asked    time.Time         `json:"asked"`
	Ready    *time.Time        `json:"ready,omitempty"`
	Started  *time.Time        `json:"started,omitempty"`
	Ended    *time.Time        `json:"ended,omitempty"`
	Heard    time.Time         `json:"heard,omitzero"` // the supervisor's last word, to 30 s
	Step     int64             `json:"step"`
	Metrics  map[string]Number `json:"metrics,omitempty"` // the last value of each key, to 2 s; at most 256 keys
	Best     map[string]Best   `json:"best,omitempty"`    // of those of the same keys whose direction is known
	Usage    Usage             `json:"usage"`
	Outputs  Digest            `json:"outputs,omitempty"`  // tree of what it left in $MLAAS_OUTPUT
	Data     []Fetched         `json:"data,omitempty"`     // what its sources gave, in this attempt or the one before
	Prepared *Prepared         `json:"prepared,omitempty"` // its code, where that is not as it was written
	Stages   []Stage           `json:"stages,omitempty"`   // of its getting ready, in this attempt; some go on at once
	History  []Event           `json:"history"`            // of this run, all attempts, newest last, at most 200
}

// A Stage is a part of getting ready between Ready and Started: fetching the
// code, making the environment, preparing the code, and the like.
type Stage struct {
	Name  string     `json:"name"` // StageCode and its like
	Began time.Time  `json:"began"`
	Ended *time.Time `json:"ended,omitempty"` // not there: it goes on, or failed
}

// The stages of getting ready.
const (
	StageCode        = "code"        // its code is fetched
	StageEnvironment = "environment" // its environment is made
	StageData        = "data"        // its data are fetched
	StageCheckpoint  = "checkpoint"  // the checkpoint from which it goes on is fetched
	StagePrepare     = "prepare"     // its code is prepared by the recipe
)

// StageNames are all of them.
var StageNames = []string{StageCode, StageEnvironment, StageData, StageCheckpoint, StagePrepare}

// Usage is what a replica has used, as its supervisor measures it.
type Usage struct {
	CPUSeconds float64 `json:"cpuSeconds"`
	Memory     Bytes   `json:"memory"` // now
	Peak       Bytes   `json:"peak"`
	Dropped    int64   `json:"dropped,omitempty"`   // log lines and points that its spool had no room for
	Isolation  string  `json:"isolation,omitempty"` // what could not be enforced here

	// GPUBusy is the part of the last second in which its GPUs worked, from 0 to
	// 1, the mean over them; empty: it has none, or they do not say.
	GPUBusy *float64 `json:"gpuBusy,omitempty"`
}

// A Failure is where a program failed: the innermost call in its own code.
type Failure struct {
	Error    string `json:"error"`          // what Python said
	File     string `json:"file,omitempty"` // of the code; empty: nothing of it was being called
	Line     int    `json:"line,omitempty"` // from 1
	Function string `json:"function,omitempty"`
	Text     string `json:"text,omitempty"` // of that line
}

// An Event is one thing that happened to a replica.
type Event struct {
	Time     time.Time     `json:"time"`
	Epoch    int           `json:"epoch"`
	Status   ReplicaStatus `json:"status"`
	Reason   string        `json:"reason"`
	ExitCode *int          `json:"exitCode,omitempty"`
	OOM      bool          `json:"oom,omitempty"`
	NodeLost bool          `json:"nodeLost,omitempty"`
}

// A Checkpoint is resumable state, committed whole: its tree, with hashes, was
// stored before this record was. Booster alone writes it.
type Checkpoint struct {
	Tenant  Tenant    `json:"-"`
	Run     RunID     `json:"run"`
	Epoch   int       `json:"epoch"`
	Replica string    `json:"replica"`
	Step    int64     `json:"step"`
	Tree    Digest    `json:"tree"`
	Size    Bytes     `json:"size"`
	Best    string    `json:"best,omitempty"` // the metric by which it is kept
	Created time.Time `json:"created"`
}

// A Launch is what the replicas of one attempt are told to do, as pure data.
// Contractor writes it once, when all replicas are ready; booster reads it and
// gives each supervisor its part.
type Launch struct {
	Tenant      Tenant              `json:"-"`
	Run         RunID               `json:"run"`
	Epoch       int                 `json:"epoch"`
	Bundle      Digest              `json:"bundle"`           // tree of the code
	Recipe      *Recipe             `json:"recipe,omitempty"` // how the code is prepared; nil: it runs as it was written
	Environment Environment         `json:"environment"`
	Data        []DataTree          `json:"data"`
	Resume      Digest              `json:"resume,omitempty"` // tree of the checkpoint to begin from
	ResumeStep  int64               `json:"resumeStep,omitempty"`
	Replicas    map[string]*Program `json:"replicas"` // by replica name
	Grace       Seconds             `json:"grace"`
	Timeout     Seconds             `json:"timeout,omitempty"`
}

// A Program is the command of one replica and the variables that its place in
// the run adds: TF_CONFIG, RANK, OMP_NUM_THREADS and the like.
type Program struct {
	Command   []string          `json:"command"`
	Variables map[string]string `json:"variables"`
	Kernel    *KernelSpec       `json:"kernel,omitempty"` // instead of a command
}

// DataTree is one input, resolved to what it is now.
type DataTree struct {
	Name   string `json:"name"`
	Source string `json:"source"`
	Tree   Digest `json:"tree,omitempty"` // datasets; others are fetched by Source

	// Was is what the source gave to this run before: an attempt that begins
	// again gets the same or fails.
	Was *Fetched `json:"was,omitempty"`
}

// A Ledger is what is promised of one cluster, to whom. Contractor alone
// writes it, in the commit that places or releases a run, so that two
// contractors can never promise the same core.
type Ledger struct {
	Cluster string          `json:"cluster"`
	Grants  map[RunID]Grant `json:"grants"`
}

// A Grant is what one run holds of a cluster.
type Grant struct {
	Tenant Tenant    `json:"tenant"`
	Epoch  int       `json:"epoch"`
	Total  Resources `json:"total"`
}

// UsedGPU is how many GPUs of a kind are granted. One of no kind may be of any.
func (l Ledger) UsedGPU(kind string) (n int) {
	for _, g := range l.Grants {
		if k := g.Total.GPU.Kind; k == "" || strings.EqualFold(k, kind) {
			n += g.Total.GPU.Count
		}
	}
	return n
}

// Used is the sum of all grants.
func (l Ledger) Used() (r Resources) {
	for _, g := range l.Grants {
		r = r.Plus(g.Total)
	}
	return r
}
