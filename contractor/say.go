package contractor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// What a user reads in the Reason of a run is written here and in admit.go.

// progress says how far a starting run has come.
func (l *look) progress() {
	if l.state.State != mlaas.Starting {
		return
	}
	names, ready, running := l.names(), 0, 0
	for _, name := range names {
		r, ok := l.replica(name)
		if ok && (r.Status == mlaas.ReplicaReady || r.Status.After(mlaas.ReplicaReady)) {
			ready++
		}
		if ok && r.Program {
			running++
		}
	}
	reason := fmt.Sprintf("starting on %s: %d of %s ready", l.state.Allocation.Cluster, ready, count(len(names), "replica"))
	if name, r, waiting := l.unready(); waiting && r.Reason != "" {
		reason += "; " + say(name, r.Reason)
	}
	if ready == len(names) {
		reason = fmt.Sprintf("starting on %s: %d of %s started", l.state.Allocation.Cluster, running, count(len(names), "program"))
		for _, name := range names {
			if r, ok := l.replica(name); ok && !r.Program && r.Reason != "" {
				reason += "; " + say(name, r.Reason) // the environment is made, the code is fetched
				break
			}
		}
	}
	reason += l.apart() + l.from()
	if reason != l.state.Reason {
		l.state.Reason = reason
		l.changed = true
	}
}

// running says where and since what a running run runs.
func (l *look) running() string {
	text := fmt.Sprintf("running %s on %s", count(len(l.names()), "replica"), l.state.Allocation.Cluster)
	if n := l.state.Allocation.Remainder[mlaas.Worker]; n > 0 {
		text += fmt.Sprintf(", %d of %s: the cluster can hold no more", l.state.Allocation.Granted[mlaas.Worker], count(l.state.Allocation.Requested[mlaas.Worker], "worker"))
	}
	return text + l.apart() + l.from()
}

// apart says on which nodes none of a role may run.
func (l *look) apart() (text string) {
	for _, role := range slices.Sorted(maps.Keys(l.state.Excluded)) {
		nodes := l.state.Excluded[role]
		text += fmt.Sprintf("; no %s on node %s, as a rule says", role, list(nodes))
	}
	return text
}

// from says what a later attempt began from, and why there is one.
func (l *look) from() string {
	n := len(l.state.Attempts)
	if n < 2 {
		return ""
	}
	origin := "the beginning, as there is no checkpoint"
	if a := l.attempt(); a.Resume != "" {
		origin = fmt.Sprintf("the checkpoint of step %d", a.Step)
	}
	text := fmt.Sprintf("; attempt %d, from %s", n, origin)
	if why := l.state.Attempts[n-2].Reason; why != "" {
		text += ", because " + why
	}
	return text
}

// left names the replicas that are still to end.
func (l *look) left() string {
	var live []string
	for _, name := range l.names() {
		if r, ok := l.replica(name); ok && !r.Status.Final() {
			live = append(live, name)
		}
	}
	switch {
	case len(live) == 0:
		return "now"
	case len(live) > 4:
		return count(len(live), "replica")
	default:
		return list(live)
	}
}

// stopped says who stopped the run.
func (l *look) stopped() string {
	if l.run.Why != "" {
		return "stopped: " + l.run.Why
	}
	return "stopped by the user"
}

// outcome is the last word on a run.
func (l *look) outcome(why string) string {
	switch {
	case l.state.State == mlaas.Stopped && l.run.Wanted == mlaas.WantStop:
		return l.stopped()
	case why != "":
		return why
	default:
		return l.attempt().Reason
	}
}

// name is what people call a run.
func name(run mlaas.Run) string { return fmt.Sprintf("%s/%d", run.JobName, run.Number) }

// say joins what happened and why, once.
func say(what, why string) string {
	if why == "" || strings.Contains(what, why) {
		return what
	}
	return what + ": " + why
}

// sentence is an error without the word of its kind, which is for machines.
func sentence(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+mlaas.KindOf(err).Code)
}

func spent(budget int, what string) string {
	if budget == 0 {
		return "" // nobody expected another attempt
	}
	return fmt.Sprintf("; %s after %s used up", count(budget, "restart"), what)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// span is a duration as people say it: 15m, 1h30m, 90s.
func span(d time.Duration) string {
	text := d.Round(time.Second).String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

func before(a, b *time.Time) bool { return a != nil && (b == nil || a.Before(*b)) }
