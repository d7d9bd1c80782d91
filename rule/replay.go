package rule

import (
	"cmp"
	"slices"
	"time"

	"mlaas.dev/mlaas"
)

// A Replay is what rules would have done in a run that was. Hand it all that is
// known of the run, in any order, then ask for Fired.
type Replay struct {
	rules  []Rule
	news   []news
	lines  map[string][]line // by replica
	stalls []stall
}

type news struct {
	at      time.Time
	attempt int
	is      Seen
}

type line struct {
	at      time.Time
	attempt int
	rule    int
	text    string
}

type stall struct {
	attempt       int
	replica, role string
	from, to      time.Time
	step          int64
}

// A Firing is one time that a rule would have fired.
type Firing struct {
	Time    time.Time
	Rule    string
	Do      string
	Replica string
	Attempt int
	Saw     string
}

// NewReplay tries these rules.
func NewReplay(rules []Rule) *Replay { return &Replay{rules: rules, lines: map[string][]line{}} }

// Change says what a replica had become at a time.
func (p *Replay) Change(at time.Time, attempt int, is Seen) {
	p.news = append(p.news, news{at, attempt, is})
}

// Line says that a replica wrote a line that the rule of this index matches.
func (p *Replay) Line(at time.Time, attempt int, replica string, rule int, text string) {
	p.lines[replica] = append(p.lines[replica], line{at, attempt, rule, text})
}

// Stall says that a replica, whose program ran, made no step between two times,
// and at which step it stood.
func (p *Replay) Stall(attempt int, replica, role string, from, to time.Time, step int64) {
	p.stalls = append(p.stalls, stall{attempt, replica, role, from, to, step})
}

// Fired is what would have fired, in order of time. What a restart or a stop
// would have changed of what came after it is not known, and so not thought of.
func (p *Replay) Fired() (all []Firing) {
	slices.SortStableFunc(p.news, func(a, b news) int { return a.at.Compare(b.at) })
	for i, r := range p.rules {
		var would []Firing
		fire := func(at time.Time, attempt int, replica, saw string) {
			would = append(would, Firing{at, r.Name, r.Do, replica, attempt, saw})
		}
		last := map[string]news{}
		status := map[string][]news{} // what each replica was from when on
		for _, n := range p.news {
			was := last[n.is.Replica]
			if was.attempt != n.attempt {
				was = news{}
			}
			last[n.is.Replica] = n
			status[n.is.Replica] = append(status[n.is.Replica], n)
			if !r.Change(was.is, n.is) {
				continue
			}
			wrote := ""
			if r.log != nil {
				if wrote = p.wrote(i, n); wrote == "" {
					continue
				}
			}
			fire(n.at, n.attempt, n.is.Replica, r.Saw(n.is, wrote))
		}
		if r.AtLine() {
			for replica, lines := range p.lines {
				for _, l := range lines {
					if l.rule == i && (r.On.Status == "" || stood(status[replica], l) == r.On.Status) {
						fire(l.at, l.attempt, replica, Wrote(replica, l.text))
					}
				}
			}
		}
		if r.On.NoStep > 0 && r.On.CPUIdle == 0 && r.On.GPUIdle == 0 {
			for _, s := range p.stalls {
				q := Quiet{Step: s.from, At: s.step}
				if at, ok := r.Due(q); ok && r.ForRole(s.role) && !at.After(s.to) {
					fire(at, s.attempt, s.replica, r.Waited(s.replica, q))
				}
			}
		}
		all = append(all, r.thin(would)...)
	}
	slices.SortStableFunc(all, func(a, b Firing) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Replica, b.Replica))
	})
	return all
}

// wrote is the last line before a change that a rule matches; empty: none does.
func (p *Replay) wrote(rule int, n news) (text string) {
	var at time.Time
	for _, l := range p.lines[n.is.Replica] {
		if l.rule == rule && l.attempt == n.attempt && !l.at.After(n.at) && !l.at.Before(at) {
			at, text = l.at, l.text
		}
	}
	return text
}

// stood is what a replica was when it wrote a line.
func stood(all []news, l line) (s mlaas.ReplicaStatus) {
	for _, n := range all {
		if n.attempt == l.attempt && !n.at.After(l.at) {
			s = n.is.Status
		}
	}
	return s
}

// thin leaves away what does not fire because the rule just did.
func (r Rule) thin(would []Firing) (all []Firing) {
	slices.SortStableFunc(would, func(a, b Firing) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Replica, b.Replica))
	})
	last := map[string]time.Time{}
	for _, f := range would {
		if r.Once && len(all) > 0 {
			break
		}
		at, before := last[f.Replica]
		if before && (r.log != nil && r.AtLine() || r.reason != nil) && f.Time.Sub(at) < Again {
			continue
		}
		last[f.Replica] = f.Time
		all = append(all, f)
	}
	return all
}
