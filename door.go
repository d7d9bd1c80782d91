package mlaas

import (
	"context"
	"time"
)

// DoorVersion is the version of what a supervisor and its door say to each
// other. A door serves this one and the one before.
const DoorVersion = 1

// A Line is one end of the conversation between a supervisor and its door (the
// monitor of a booster). The supervisor always dials. On the wire it is a
// WebSocket at MLAAS_DOOR + "/door/line" whose messages are JSON texts, with
// the job token as "Authorization: Bearer"; in a simulation it is a pair of
// channels. Methods may be called by one sender and one receiver at a time.
type Line[Out, In any] interface {
	Send(ctx context.Context, m Out) error
	Receive(ctx context.Context) (In, error) // an error ends the conversation
	Close() error
}

// Up is what a supervisor says: exactly one field is set.
type Up struct {
	Hello      *Hello          `json:"hello,omitempty"`
	Frame      *Frame          `json:"frame,omitempty"`
	Beat       *Beat           `json:"beat,omitempty"`
	Phase      *Phase          `json:"phase,omitempty"`
	Checkpoint *CheckpointMade `json:"checkpoint,omitempty"`
	Evaluation *EvaluationMade `json:"evaluation,omitempty"` // only where Welcome.Evaluations
}

// Down is what the door answers: exactly one field is set.
type Down struct {
	Welcome    *Welcome  `json:"welcome,omitempty"`
	Ack        *Ack      `json:"ack,omitempty"`
	Start      *Start    `json:"start,omitempty"`
	Checkpoint *struct{} `json:"checkpoint,omitempty"` // make one now, if the program can
	Stop       *Stop     `json:"stop,omitempty"`
	Open       *Open     `json:"open,omitempty"` // only where Hello.Opens
}

// Hello is the first word on every connection. The door closes a connection
// whose fence is older than the run's epoch.
type Hello struct {
	Version int    `json:"version"`
	Fence   Fence  `json:"fence"`
	Node    string `json:"node"`    // the machine's name
	Address string `json:"address"` // where other replicas reach this one
	Ports   []int  `json:"ports"`   // held free for the program, at least two
	Phase   Phase  `json:"phase"`   // where it stands: a door may be new
	Opens   bool   `json:"opens"`   // it answers Open
	Recipes int    `json:"recipes"` // the newest version of recipes that it can apply; 0: none
}

// Welcome answers Hello: up to where the door has everything durably.
type Welcome struct {
	Log    int64 `json:"log"` // the last sequence number of each stream, 0 for none
	Metric int64 `json:"metric"`

	Evaluations bool `json:"evaluations,omitempty"` // it takes Up.Evaluation
}

// The streams of a replica.
const (
	LogStream        = "log"
	MetricStream     = "metric"
	CheckpointStream = "checkpoint" // acknowledged by step; it has no frames
	EvaluationStream = "evaluation" // acknowledged by Seq; it has no frames
)

// A Frame is a batch of one stream. Sequence numbers start at 1 in each
// incarnation, are dense, and are given by the supervisor's spool; what is
// sent again carries the same ones, so the door drops what it has.
type Frame struct {
	Stream string    `json:"stream"` // LogStream | MetricStream
	First  int64     `json:"first"`  // the sequence number of the first
	Lines  []LogLine `json:"lines,omitempty"`
	Points []Point   `json:"points,omitempty"`
}

// A LogLine is one line that a replica wrote, or a part of at most 64 KiB of a
// longer one.
type LogLine struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"`         // stdout | stderr | platform | kernel; ContainerStream is of no supervisor
	Text   string    `json:"line"`           // valid UTF-8, without the newline
	Part   int       `json:"part,omitempty"` // 1, 2, ... where one line was cut
}

// ContainerStream is the stream of lines that an executor kept of a replica
// whose supervisor never delivered one.
const ContainerStream = "container"

// KernelStream is the stream of what a kernel says: each line is the JSON of a
// [KernelEvent].
const KernelStream = "kernel"

// MaxLine is where lines are cut.
const MaxLine = 64 << 10

// A Point is one measured value.
type Point struct {
	Key   string `json:"key"`
	Step  int64  `json:"step"`
	Time  int64  `json:"time"` // Unix milliseconds
	Value Number `json:"value"`
}

// Ack says that a stream is durable up to and including Seq; the spool may
// forget it.
type Ack struct {
	Stream string `json:"stream"`
	Seq    int64  `json:"seq"`
}

// Beat is said at least every 10 s: the supervisor is alive.
type Beat struct {
	Usage Usage `json:"usage"`
}

// Phase is where a supervisor stands. It says so again in each Hello.
type Phase struct {
	Status   ReplicaStatus `json:"status"` // pending | ready | running | stopping | succeeded | failed | stopped
	Reason   string        `json:"reason"`
	Program  bool          `json:"program"` // whether the user's program was started
	ExitCode *int          `json:"exitCode,omitempty"`
	OOM      bool          `json:"oom,omitempty"`
	Failure  *Failure      `json:"failure,omitempty"`  // where its program failed, as far as Python said
	Outputs  Digest        `json:"outputs,omitempty"`  // its tree is in blob by now
	Lock     *Locked       `json:"lock,omitempty"`     // an environment that it resolved
	Data     []Fetched     `json:"data,omitempty"`     // what its sources gave
	Prepared *Prepared     `json:"prepared,omitempty"` // its code, where a recipe was applied to it
	Usage    Usage         `json:"usage"`
	Stages   []Stage       `json:"stages,omitempty"` // of getting ready, by its own clock
	At       time.Time     `json:"at"`
}

// CheckpointMade says that a checkpoint's tree, and every file in it, are in
// blob. The door answers with an Ack of CheckpointStream once its record is
// committed; until then the supervisor says it again after each Hello, which
// is harmless.
type CheckpointMade struct {
	Step int64  `json:"step"`
	Tree Digest `json:"tree"`
	Size Bytes  `json:"size"`
	Best string `json:"best,omitempty"`
}

// Start tells a supervisor to run the program. A supervisor starts once; what
// comes again is dropped.
type Start struct {
	Bundle      Digest            `json:"bundle"`
	Recipe      *Recipe           `json:"recipe,omitempty"` // only where Hello.Recipes is not older
	Environment Environment       `json:"environment"`      // Lock is set where it is known
	Data        []DataTree        `json:"data"`
	Resume      Digest            `json:"resume,omitempty"`
	ResumeStep  int64             `json:"resumeStep,omitempty"`
	Program     Program           `json:"program"`
	Secrets     map[string]string `json:"secrets,omitempty"` // variable: value; never written to disk or log
	Grace       Seconds           `json:"grace"`
	Timeout     Seconds           `json:"timeout,omitempty"`
}

// Stop tells a supervisor to end the program: SIGTERM, and SIGKILL after Grace.
type Stop struct {
	Grace  Seconds `json:"grace"`
	Reason string  `json:"reason"`
}

// Open tells a supervisor that somebody wants a stream into its replica: it
// dials DOOR/door/stream/ID, and there is a command, or a connection to a port,
// at the other end. What cannot be opened says so on that stream. Twice: the
// door knows an ID once.
type Open struct {
	ID       string   `json:"id"`
	Command  []string `json:"command,omitempty"`  // run beside the program, as its user and with its variables, in the folder of its code
	Terminal *Size    `json:"terminal,omitempty"` // the command gets a terminal of this size; empty: pipes
	Term     string   `json:"term,omitempty"`     // what kind of terminal, as $TERM says it
	Port     int      `json:"port,omitempty"`     // instead of a command
	Look     string   `json:"look,omitempty"`     // instead of a command: one of Looks; only where Hello.Recipes is not 0

	Kernel *OpenKernel `json:"kernel,omitempty"` // instead of a command: lines of JSON to and from its kernel
}

// OpenKernel says what a kernel has before it is asked.
type OpenKernel struct {
	Bundle Digest `json:"bundle,omitempty"` // the files in the folder of its code; empty: those that it has
}

// Looks are what can be found out of the Python processes of a program. The
// answer is a JSON text.
const (
	LookStacks   = "stacks"   // what each thread does now: a Stacks
	LookDebugger = "debugger" // a debugger is let in: a Debugger
)

// Stacks are what the Python processes of a replica do now.
type Stacks struct {
	Processes []PythonProcess `json:"processes"`
}

// A PythonProcess is one Python process of a replica.
type PythonProcess struct {
	PID     int      `json:"pid"` // as the replica sees it
	Command []string `json:"command"`
	Threads []Thread `json:"threads"`
	Error   string   `json:"error"` // why it does not say; else empty
}

// A Thread is what one thread does.
type Thread struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`    // empty where Python does not say
	Current bool         `json:"current"` // it answered for all: the main thread, as a rule
	Frames  []StackFrame `json:"frames"`  // innermost first, at most 100
}

// A StackFrame is a place in a program.
type StackFrame struct {
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1; 0: Python does not say
	Function string `json:"function"`
	Text     string `json:"text"` // of the line, where the file can be read
}

// A Debugger is where the program lets a debugger in.
type Debugger struct {
	Port  int    `json:"port"` // of the replica's loopback, in the debug adapter protocol
	PID   int    `json:"pid"`
	Error string `json:"error"` // why not; else empty
}

// A Size is that of a terminal.
type Size struct {
	Columns int `json:"columns"`
	Rows    int `json:"rows"`
}
