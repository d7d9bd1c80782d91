// Package rule says when an action rule holds (paper §4.3.4): live, as
// booster's informer sees a replica change, speak or fall silent, and over the
// past, so that a rule can be tried before it is trusted. It is pure: no I/O
// and no clock of its own.
package rule

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// Again is how often a rule fires for one replica at most, where what it is
// about may come at any rate: lines and reasons.
const Again = time.Minute

// Busy is the part of a core, or of the time of its GPUs, from which on a
// replica is not idle.
const Busy = 0.05

// Seen is what is known of a replica at one moment.
type Seen struct {
	Replica  string
	Role     string
	Status   mlaas.ReplicaStatus
	Reason   string
	ExitCode *int
	OOM      bool
	NodeLost bool
}

// Of is what the record of a replica says.
func Of(r mlaas.Replica) Seen {
	return Seen{r.Fence.Replica, r.Role, r.Status, r.Reason, r.ExitCode, r.OOM, r.NodeLost}
}

// A Rule is an action rule that can be read.
type Rule struct {
	mlaas.ActionRule
	log, reason *regexp.Regexp // nil: any
}

// Compile reads a rule. The error names the part that cannot be read.
func Compile(r mlaas.ActionRule) (Rule, error) {
	out := Rule{ActionRule: r}
	for _, p := range []struct {
		field, text string
		to          **regexp.Regexp
	}{{"on.log", r.On.Log, &out.log}, {"on.reason", r.On.Reason, &out.reason}} {
		if p.text == "" {
			continue
		}
		re, err := regexp.Compile(p.text)
		if err != nil {
			return out, mlaas.Invalid(p.field, "a regular expression (RE2)", p.text)
		}
		*p.to = re
	}
	return out, nil
}

// ForRole reports whether r is about replicas of a role at all.
func (r Rule) ForRole(role string) bool { return r.On.Role == "" || r.On.Role == role }

// AtLine reports whether r is looked at with each line: one that also names how
// a replica ends is looked at when it has ended.
func (r Rule) AtLine() bool {
	return r.log != nil && r.On.ExitCode == nil && r.reason == nil && !r.On.OOM && !r.On.NodeLost
}

// AtChange reports whether r is looked at when a replica changes.
func (r Rule) AtChange() bool {
	return !r.On.Timed() && (r.log == nil || r.On.Status != "" || !r.AtLine())
}

// Line reports whether a line of the program sets r off, if the rest holds.
// Words of the platform set nothing off.
func (r Rule) Line(l mlaas.LogLine) bool {
	return r.log != nil && (l.Stream == "stdout" || l.Stream == "stderr") && r.log.MatchString(l.Text)
}

// Pattern is what a line must match; nil: r is not about lines.
func (r Rule) Pattern() *regexp.Regexp { return r.log }

// Holds reports whether what r says of a replica itself is true: all but lines
// and times.
func (r Rule) Holds(s Seen) bool {
	on := r.On
	return r.ForRole(s.Role) &&
		(on.Status == "" || on.Status == s.Status) &&
		(on.ExitCode == nil || s.Status.Final() && s.ExitCode != nil && *s.ExitCode == *on.ExitCode) &&
		(!on.OOM || s.OOM) &&
		(!on.NodeLost || s.NodeLost) &&
		(r.reason == nil || r.reason.MatchString(s.Reason))
}

// Change reports whether the change of a replica from was to is sets r off,
// lines apart. A status comes once in an attempt, so r fires once for it; a
// reason that changes while the status stays counts for rules about reasons
// alone, and only where it did not match before.
func (r Rule) Change(was, is Seen) bool {
	switch {
	case !r.AtChange() || !r.Holds(is):
		return false
	case was.Status != is.Status:
		return true
	default:
		return r.reason != nil && was.Reason != is.Reason && !r.Holds(was)
	}
}

// Saw is what set r off, in a phrase. line is what a rule about lines found.
func (r Rule) Saw(s Seen, line string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s", s.Replica, s.Status)
	if s.Status.Final() && s.ExitCode != nil {
		fmt.Fprintf(&b, " with exit code %d", *s.ExitCode)
	}
	if r.On.OOM {
		b.WriteString(", out of memory")
	}
	if r.On.NodeLost {
		b.WriteString(", its node is lost")
	}
	if r.reason != nil {
		b.WriteString(": " + s.Reason)
	}
	if line != "" {
		b.WriteString("; it wrote: " + line)
	}
	return b.String()
}

// Wrote is the phrase of a rule that is about lines alone.
func Wrote(replica, line string) string { return replica + " wrote: " + line }

// Quiet is since when a replica has made no step and used nothing; what is zero
// is not known, and no rule about it holds.
type Quiet struct {
	Step, CPU, GPU time.Time
	At             int64 // the step that it stands at
}

// Due is when the times of r are over, if nothing happens before; ok is false
// where r is not about times, or not all of them are known.
func (r Rule) Due(q Quiet) (at time.Time, ok bool) {
	for _, p := range []struct {
		after mlaas.Seconds
		since time.Time
	}{{r.On.NoStep, q.Step}, {r.On.CPUIdle, q.CPU}, {r.On.GPUIdle, q.GPU}} {
		if p.after <= 0 {
			continue
		}
		if p.since.IsZero() {
			return time.Time{}, false
		}
		if end := p.since.Add(p.after.Duration()); end.After(at) {
			at = end
		}
		ok = true
	}
	return at, ok
}

// Since is the time from which on r is counted, among those of q: it fires once
// for each.
func (r Rule) Since(q Quiet) (since time.Time) {
	for _, p := range []struct {
		after mlaas.Seconds
		since time.Time
	}{{r.On.NoStep, q.Step}, {r.On.CPUIdle, q.CPU}, {r.On.GPUIdle, q.GPU}} {
		if p.after > 0 && p.since.After(since) {
			since = p.since
		}
	}
	return since
}

// Waited is the phrase of a rule about times.
func (r Rule) Waited(replica string, q Quiet) string {
	var parts []string
	if d := r.On.NoStep; d > 0 {
		what := "made no step for " + d.Duration().String()
		if q.At > 0 {
			what += fmt.Sprintf(" after step %d", q.At)
		}
		parts = append(parts, what)
	}
	if d := r.On.CPUIdle; d > 0 {
		parts = append(parts, "used no CPU to speak of for "+d.Duration().String())
	}
	if d := r.On.GPUIdle; d > 0 {
		parts = append(parts, "left its GPUs idle for "+d.Duration().String())
	}
	return replica + " " + strings.Join(parts, " and ")
}
