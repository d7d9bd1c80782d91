package mlaas

import (
	"encoding/json"
	"time"
)

// KernelReplica is the one replica of a run that is a kernel.
const KernelReplica = Kernel + "-0"

// A KernelSpec makes a run a kernel: instead of the job's program it runs an
// interactive Python in the same environment, with the same data and variables,
// that executes what it is given until it is stopped, or has had nothing to
// execute for Idle.
type KernelSpec struct {
	Idle Seconds `json:"idle"`
}

// DefaultIdle is how long a kernel waits for something to execute where the job
// does not say.
const DefaultIdle Seconds = 3600

// A KernelExecution is code that a kernel was given. Management alone writes it; how
// it went is told by the events of the kernel.
type KernelExecution struct {
	ID      string    `json:"id"`
	Tenant  Tenant    `json:"-"`
	Run     RunID     `json:"run"`
	Job     JobID     `json:"job"`
	Code    string    `json:"code"`
	Path    string    `json:"path,omitempty"`    // of the file that it is part of
	Line    int       `json:"line,omitempty"`    // of its first line in that file, from 1
	Cell    string    `json:"cell,omitempty"`    // of a notebook
	Version VersionID `json:"version,omitempty"` // whose files the kernel has while it runs
	Bundle  Digest    `json:"bundle,omitempty"`  // of that version
	By      string    `json:"by,omitempty"`
	Created time.Time `json:"created"`
	Sent    bool      `json:"sent,omitempty"` // the kernel has it
}

// SetTenant fills in what the key says.
func (e *KernelExecution) SetTenant(t Tenant) { e.Tenant = t }

// The states of an execution. The last four are final.
const (
	ExecutionQueued      = "queued"
	ExecutionRunning     = "running"
	ExecutionOK          = "ok"
	ExecutionError       = "error"
	ExecutionInterrupted = "interrupted"
	ExecutionLost        = "lost" // its kernel ended before it did
)

// A KernelEvent is what a kernel says: it goes to series as lines of
// [KernelStream], each event one JSON text, so that nothing of it is lost
// whoever listens. Which fields are set depends on Type.
type KernelEvent struct {
	Seq       int64     `json:"seq,omitempty"` // grows; go on after it
	Time      time.Time `json:"time,omitzero"`
	Execution string    `json:"execution,omitempty"` // that it is of; empty: of the kernel itself
	Type      string    `json:"type"`                // kernel, execution, stream, display, result, update, clear, error, input, variables

	State  string `json:"state,omitempty"`  // kernel: starting, idle, busy, dead; execution: see its states
	Reason string `json:"reason,omitempty"` // kernel: a sentence, where there is something to say
	Code   string `json:"code,omitempty"`   // execution, as it begins
	Path   string `json:"path,omitempty"`   // the same
	Line   int    `json:"line,omitempty"`   // the same; error: where it happened, in File
	Cell   string `json:"cell,omitempty"`

	Name string `json:"name,omitempty"` // stream: stdout or stderr
	Text string `json:"text,omitempty"` // stream

	Data     map[string]json.RawMessage `json:"data,omitempty"` // display, result, update: by media type; pictures are base64
	Metadata map[string]json.RawMessage `json:"metadata,omitempty"`
	Display  string                     `json:"display,omitempty"` // by which an update names what it replaces
	Wait     bool                       `json:"wait,omitempty"`    // clear: when the next output comes

	Error     string        `json:"error,omitempty"`     // error: the class; execution: one sentence
	Value     string        `json:"value,omitempty"`     // error: what it says
	Traceback []string      `json:"traceback,omitempty"` // error: as IPython writes it, with colours of a terminal
	File      string        `json:"file,omitempty"`      // error: the innermost file of the code
	Frames    []KernelWhere `json:"frames,omitempty"`    // error: those in the code, innermost last

	Prompt   string `json:"prompt,omitempty"`   // input
	Password bool   `json:"password,omitempty"` // input: what is typed is not to be shown

	Variables []Variable `json:"variables,omitempty"` // variables: all, as they are after an execution
}

// A KernelWhere is a place in the code.
type KernelWhere struct {
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1
	Function string `json:"function,omitempty"`
}

// A Variable is a name of a kernel's namespace and what it stands for. Finding
// it out computes nothing: what is on another device stays there.
type Variable struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Shape []int  `json:"shape,omitempty"`
	DType string `json:"dtype,omitempty"`
	Size  int64  `json:"size,omitempty"` // bytes of an array, items of a collection
	Repr  string `json:"repr,omitempty"` // at most 200 letters
}
