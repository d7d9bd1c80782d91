package booster

import (
	"context"
	"io"

	"mlaas.dev/mlaas"
)

// An Executor runs replicas in one place: a Kubernetes cluster, or this
// machine. It knows processes and containers, not runs, and not what their
// supervisors say: that comes through the door. Methods are safe for
// concurrent use. Drivers pass executortest.
//
// A replica's life: Start once; Watch reports creating, pending, and that its
// supervisor runs or why it cannot; Stop at any time ends in gone. One whose
// supervisor ended by itself is there, with how it ended, until Stop.
type Executor interface {
	// Start asks for a replica and returns once it will be found by Watch even
	// if this process dies. A second Start with the same fence does nothing,
	// and so does one whose replica has ended.
	Start(ctx context.Context, r Spec) error

	// Stop ends a replica with everything that it started and frees what it
	// held, without waiting for it: its supervisor was asked before. What is
	// unknown is gone already. It returns when nothing of it is left.
	Stop(ctx context.Context, f mlaas.Fence) error

	// Watch sends news of every replica that is there, then one News with
	// Synced, then each change, until ctx ends. It does not close out. Any
	// other error means that the place is lost.
	Watch(ctx context.Context, out chan<- News) error

	// Logs returns what the supervisor itself wrote (not the program, whose
	// lines come through the door): for a supervisor that never delivered a
	// word. With follow it goes on with what is added, until the supervisor has
	// ended or ctx ends. The caller closes it.
	Logs(ctx context.Context, f mlaas.Fence, follow bool) (io.ReadCloser, error)

	// Exec runs a command inside a running replica, as its program's user.
	Exec(ctx context.Context, f mlaas.Fence, command []string, in io.Reader, out io.Writer) (exit int, err error)

	// Capacity tells what the place has, and what it cannot enforce.
	Capacity(ctx context.Context) (Capacity, error)
}

// A Leaver is an Executor that keeps something in its place besides replicas.
type Leaver interface {
	// Leave takes that away. It is called when the place is to be used no more
	// and no replica is left there; nothing is started afterwards.
	Leave(ctx context.Context) error
}

// A Spec is what an Executor starts: a supervisor with its limits.
type Spec struct {
	Fence   mlaas.Fence
	Job     mlaas.JobID
	Need    mlaas.Resources // what it was placed by
	Ceiling mlaas.Resources // what it may not exceed; 0: no ceiling
	Disk    mlaas.Bytes     // for what it writes, where the place can keep it apart; 0: no ceiling
	Exclude []string        // nodes that it may not run on; a place that has no other refuses
	Token   string          // its job token, for the door
	Door    string          // where the door is, as seen from the replica

	Environment mlaas.Environment // what its program will run in: a container has it from the start
}

// Capacity is what a place has.
type Capacity struct {
	Node   string // the machine's name; empty where there are many
	Total  mlaas.Resources
	GPUs   []mlaas.GPU // of each kind by its name, where there are several; Total has the one of which there is most
	Limits []string    // what is not isolated or enforced here, a sentence each
}

// News is what an executor sees of a replica from the outside.
type News struct {
	Fence    mlaas.Fence
	Status   mlaas.ReplicaStatus // creating | pending | ready (its supervisor runs) | stopped (after Stop) | failed (it could not start) | lost (it was there and is gone)
	Reason   string
	Node     string
	ExitCode *int // of the supervisor, where it ended by itself
	OOM      bool
	Blocked  bool // pending, and it does not go on before something else changes: Reason is to be read at once
	NodeLost bool // lost, because its machine is: not the program's fault and not its supervisor's
	Synced   bool // Fence is empty: what follows happened after Watch began
}
