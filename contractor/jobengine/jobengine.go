// Package jobengine decides what happens next to a run.
//
// It is one table and no I/O: a state and an event give the next state and the
// action that the contractor then carries out. Read [Table] aloud and you know
// the life of a run.
package jobengine

import (
	"fmt"
	"strings"

	"mlaas.dev/mlaas"
)

//go:generate go test . -run TestPicture -update

// An Event is something that is true of a run now. The contractor sees it in
// the records, or was told.
type Event string

// The events.
const (
	RunAsked        Event = "run asked"         // the user pressed run
	Admitted        Event = "admitted"          // all that it asks for fits what is free, and was set aside
	CannotEver      Event = "can never fit"     // no cluster is large enough even when empty
	ReplicasReady   Event = "replicas ready"    // each supervisor waits for code
	ProgramsStarted Event = "programs started"  // the user's program runs in each replica
	WorkersDone     Event = "workers done"      // chief and workers all ended with 0
	StartRefused    Event = "start refused"     // the code, the environment or a limit does not allow a start
	UserFault       Event = "user fault"        // a program failed or took too long; a restart is left
	UserFaultSpent  Event = "user fault, spent" // the same, and no restart is left
	Loss            Event = "loss"              // a replica is gone without the program's fault; a restart is left
	LossSpent       Event = "loss, spent"       // the same, and no restart is left
	ClusterGoes     Event = "cluster goes"      // its cluster is to be removed
	StopAsked       Event = "stop asked"        // the user pressed stop
	RuleStop        Event = "rule: stop"        // an action rule of the job says so
	RuleRestart     Event = "rule: restart"     // the same; a restart is left
	ResizeAsked     Event = "resize asked"      // it is to have more replicas, or fewer
	Resized         Event = "resized"           // it has them, and its program went on
	ReplicasGone    Event = "replicas gone"     // nothing of the attempt is left
	GoneSucceeded   Event = "gone, succeeded"   // the same while stopping, with the verdict
	GoneFailed      Event = "gone, failed"
	GoneStopped     Event = "gone, stopped"
	Overdue         Event = "overdue" // nothing happened until the run's deadline
)

// Gone is the event that nothing is left of a run that is stopping with this
// verdict.
func Gone(verdict mlaas.State) Event {
	switch verdict {
	case mlaas.Succeeded:
		return GoneSucceeded
	case mlaas.Stopped:
		return GoneStopped
	default:
		return GoneFailed
	}
}

// An Action is what the contractor does as the run enters the next state. All
// of it is one commit with the state.
type Action string

// The actions.
const (
	Wait        Action = "wait"
	Enqueue     Action = "enter the line"
	AskReplicas Action = "ask for replicas"        // under the next epoch, from the newest checkpoint
	DeliverCode Action = "deliver code"            // write the launch and tell of it
	AskAgain    Action = "ask again"               // say the last wish once more: it may have been lost
	Succeed     Action = "release: succeeded"      // end every replica; the verdict is succeeded
	Fail        Action = "release: failed"         // the same; the verdict is failed
	Stop        Action = "release: stopped"        // the same; the verdict is stopped
	Again       Action = "release and begin again" // end every replica; the next epoch follows
	Resize      Action = "release and resize"      // let every replica save and end; the next epoch has another size
	Free        Action = "give back"               // what the attempt held of its cluster is free again
	FreeAgain   Action = "give back and begin again"
	Finish      Action = "finish" // the same, and the result is written; nothing follows
)

// Verdict is the final state that follows when the replicas that the action
// ends are gone; it is empty where none does.
func (a Action) Verdict() mlaas.State {
	switch a {
	case Succeed:
		return mlaas.Succeeded
	case Fail:
		return mlaas.Failed
	case Stop:
		return mlaas.Stopped
	default:
		return ""
	}
}

// A Rule says: in state From, on event On, go To and do Do.
type Rule struct {
	From mlaas.State
	On   Event
	To   mlaas.State
	Do   Action
}

func (r Rule) String() string {
	return fmt.Sprintf("%s --%s--> %s (%s)", r.From, r.On, r.To, r.Do)
}

// Table is the whole engine, in the order of a run's life. Nobody changes it.
var Table = []Rule{
	// A run is asked for and waits in line until all of it fits.
	{mlaas.Created, RunAsked, mlaas.Queued, Enqueue},
	{mlaas.Created, StartRefused, mlaas.Failed, Finish},
	{mlaas.Created, StopAsked, mlaas.Stopped, Finish},
	{mlaas.Queued, Admitted, mlaas.Starting, AskReplicas},
	{mlaas.Queued, CannotEver, mlaas.Failed, Finish},
	{mlaas.Queued, StopAsked, mlaas.Stopping, Stop},

	// Back in line, the replicas of the last attempt end first. It may turn out
	// that their work was done: then nothing runs again.
	{mlaas.Queued, ReplicasGone, mlaas.Queued, Free},
	{mlaas.Queued, WorkersDone, mlaas.Stopping, Succeed},
	{mlaas.Queued, Overdue, mlaas.Queued, AskAgain},

	// Replicas come, get their code and start. A short program may be over
	// before anyone has seen it run.
	{mlaas.Starting, ReplicasReady, mlaas.Starting, DeliverCode},
	{mlaas.Starting, ProgramsStarted, mlaas.Running, Wait},
	{mlaas.Starting, WorkersDone, mlaas.Stopping, Succeed},
	{mlaas.Starting, StartRefused, mlaas.Stopping, Fail},
	{mlaas.Starting, UserFault, mlaas.Queued, Again},
	{mlaas.Starting, UserFaultSpent, mlaas.Stopping, Fail},
	{mlaas.Starting, Loss, mlaas.Queued, Again},
	{mlaas.Starting, LossSpent, mlaas.Stopping, Fail},
	{mlaas.Starting, ClusterGoes, mlaas.Queued, Again},
	{mlaas.Starting, RuleRestart, mlaas.Queued, Again},
	{mlaas.Starting, RuleStop, mlaas.Stopping, Stop},
	{mlaas.Starting, StopAsked, mlaas.Stopping, Stop},
	{mlaas.Starting, Overdue, mlaas.Starting, AskAgain},

	// The workers work. A parameter server never ends by itself (paper figure
	// 4.3): it is ended when they are done.
	{mlaas.Running, WorkersDone, mlaas.Stopping, Succeed},
	{mlaas.Running, UserFault, mlaas.Queued, Again},
	{mlaas.Running, UserFaultSpent, mlaas.Stopping, Fail},
	{mlaas.Running, Loss, mlaas.Queued, Again},
	{mlaas.Running, LossSpent, mlaas.Stopping, Fail},
	{mlaas.Running, ClusterGoes, mlaas.Queued, Again},
	{mlaas.Running, RuleRestart, mlaas.Queued, Again},
	{mlaas.Running, RuleStop, mlaas.Stopping, Stop},
	{mlaas.Running, StopAsked, mlaas.Stopping, Stop},
	{mlaas.Running, StartRefused, mlaas.Stopping, Fail},
	{mlaas.Running, ResizeAsked, mlaas.Resizing, Resize},
	{mlaas.Running, Overdue, mlaas.Running, Wait},

	// It changes its size: in place, or by the next attempt.
	{mlaas.Resizing, Resized, mlaas.Running, Wait},
	{mlaas.Resizing, ReplicasGone, mlaas.Queued, FreeAgain},
	{mlaas.Resizing, WorkersDone, mlaas.Stopping, Succeed},
	{mlaas.Resizing, UserFault, mlaas.Queued, Again},
	{mlaas.Resizing, UserFaultSpent, mlaas.Stopping, Fail},
	{mlaas.Resizing, RuleStop, mlaas.Stopping, Stop},
	{mlaas.Resizing, StopAsked, mlaas.Stopping, Stop},
	{mlaas.Resizing, Overdue, mlaas.Resizing, AskAgain},

	// The verdict stands; it is over when nothing is left.
	{mlaas.Stopping, GoneSucceeded, mlaas.Succeeded, Finish},
	{mlaas.Stopping, GoneFailed, mlaas.Failed, Finish},
	{mlaas.Stopping, GoneStopped, mlaas.Stopped, Finish},
	{mlaas.Stopping, Overdue, mlaas.Stopping, AskAgain},
}

// Next returns the rule for event e in state s. An event that has no rule is
// late or doubled news: ok is false and the run stays as it is.
func Next(s mlaas.State, e Event) (r Rule, ok bool) {
	for _, r := range Table {
		if r.From == s && r.On == e {
			return r, true
		}
	}
	return Rule{From: s, On: e, To: s, Do: Wait}, false
}

// Picture draws the table as a mermaid state diagram. Events that lead from
// one state to the same other state share an arrow.
func Picture() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> created\n")
	drawn := map[[2]mlaas.State]bool{}
	for _, r := range Table {
		arrow := [2]mlaas.State{r.From, r.To}
		if drawn[arrow] {
			continue
		}
		drawn[arrow] = true
		var on []string
		for _, o := range Table {
			if o.From == r.From && o.To == r.To {
				on = append(on, strings.ReplaceAll(string(o.On), ":", ""))
			}
		}
		fmt.Fprintf(&b, "    %s --> %s: %s\n", r.From, r.To, strings.Join(on, " / "))
	}
	for _, s := range mlaas.States {
		if s.Final() {
			fmt.Fprintf(&b, "    %s --> [*]\n", s)
		}
	}
	return b.String()
}
