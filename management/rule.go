package management

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/rule"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// How much of a run rules are tried on.
const (
	mostMatches = 50_000    // lines that one rule matches
	mostPoints  = 2_000_000 // of all replicas
)

// A RuleTrial says which rules to try on which run.
type RuleTrial struct {
	Run   string             `json:"run,omitempty" doc:"Its id, JOB.7 or 7; the newest where not said"`
	Rules []mlaas.ActionRule `json:"rules,omitempty" doc:"Those of the job, as they are now, where not said"`
}

// A RuleReport is what rules would have done in a run.
type RuleReport struct {
	Run     mlaas.RunID   `json:"run"`
	Number  int           `json:"number"`
	Fired   []RuleFiring  `json:"fired" doc:"In order of time. What a restart or a stop would have changed of what came after is not thought of"`
	Unknown []RuleUnknown `json:"unknown" doc:"What cannot be told from what is kept of a run"`
}

// A RuleFiring is one time that a rule would have fired.
type RuleFiring struct {
	Time    time.Time `json:"time"`
	Rule    string    `json:"rule"`
	Do      string    `json:"do" example:"restart"`
	Replica string    `json:"replica" example:"worker-0"`
	Attempt int       `json:"attempt"`
	Saw     string    `json:"saw" example:"worker-0 made no step for 10m0s after step 1200"`
}

// A RuleUnknown is what cannot be told of a rule.
type RuleUnknown struct {
	Rule string `json:"rule"`
	Why  string `json:"why"`
}

type ruleTrialIn struct {
	jobIn
	Body RuleTrial `body:"optional"`
}

func (m *Management) tryRules(ctx context.Context, in *ruleTrialIn) (*Answer[RuleReport], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	rules := in.Body.Rules
	if rules == nil {
		rules = j.Rules
	}
	if err := mlaas.CheckRules(rules); err != nil {
		return nil, err
	}
	r, _, err := m.runOf(ctx, j, in.Body.Run)
	if err != nil {
		return nil, err
	}
	t := &trial{m: m, run: r, out: RuleReport{Run: r.ID, Number: r.Number, Fired: []RuleFiring{}, Unknown: []RuleUnknown{}}}
	for _, x := range rules {
		c, err := rule.Compile(x)
		if err != nil {
			return nil, err
		}
		t.rules = append(t.rules, c)
	}
	if err := t.play(ctx); err != nil {
		return nil, err
	}
	return &Answer[RuleReport]{Body: t.out}, nil
}

// A trial plays what is kept of a run to rules.
type trial struct {
	m     *Management
	run   mlaas.Run
	rules []rule.Rule
	out   RuleReport
}

func (t *trial) unknown(r rule.Rule, why string) {
	t.out.Unknown = append(t.out.Unknown, RuleUnknown{r.Name, why})
}

func (t *trial) play(ctx context.Context) error {
	replicas, err := t.m.replicasOf(ctx, t.run.Tenant, t.run.ID)
	if err != nil {
		return err
	}
	past := rule.NewReplay(t.rules)
	steps := false
	for i, r := range t.rules {
		if r.Pattern() != nil {
			if err := t.lines(ctx, past, i); err != nil {
				return err
			}
		}
		if r.On.Reason != "" {
			t.unknown(r, "a reason that changed while the status stayed is not kept: only reasons at a change of status were looked at")
		}
		if r.On.CPUIdle > 0 || r.On.GPUIdle > 0 {
			t.unknown(r, "what a replica used from moment to moment is not kept: idle times cannot be told afterwards")
		} else if r.On.NoStep > 0 {
			steps = true
		}
	}
	spans := map[string]map[int]*span{}
	for _, a := range replicas {
		spans[a.Fence.Replica] = t.history(past, a)
	}
	if steps {
		if err := t.stalls(ctx, past, spans); err != nil {
			return err
		}
	}
	for _, f := range past.Fired() {
		t.out.Fired = append(t.out.Fired, RuleFiring(f))
	}
	return nil
}

// A span is one attempt of a replica: while its program ran, and how far it was.
type span struct {
	role     string
	from, to time.Time
	step     int64
	moved    time.Time // the last step
	any      bool      // there was a step
}

// maxHistory is how many events of a replica are kept.
const maxHistory = 200

// history plays how a replica changed, and returns when its program ran.
func (t *trial) history(past *rule.Replay, a mlaas.Replica) map[int]*span {
	spans := map[int]*span{}
	if len(a.History) >= maxHistory {
		for _, r := range t.rules {
			t.unknown(r, fmt.Sprintf("of %s only the last %d events are kept", a.Fence.Replica, maxHistory))
		}
	}
	var was mlaas.Event
	for _, e := range a.History {
		if e.Epoch == was.Epoch && e.Status == was.Status {
			continue // something that happened to it, and no change
		}
		was = e
		s := rule.Seen{Replica: a.Fence.Replica, Role: a.Role, Status: e.Status, Reason: e.Reason, ExitCode: e.ExitCode, OOM: e.OOM, NodeLost: e.NodeLost}
		if e.Status.Final() && e.Epoch == a.Epoch { // an event of before these were kept in it
			s.OOM, s.NodeLost = s.OOM || a.OOM, s.NodeLost || a.NodeLost
		}
		past.Change(e.Time, e.Epoch, s)
		at := spans[e.Epoch]
		switch {
		case e.Status == mlaas.ReplicaRunning:
			spans[e.Epoch] = &span{role: a.Role, from: e.Time, moved: e.Time}
		case at != nil && at.to.IsZero() && e.Status.After(mlaas.ReplicaRunning):
			at.to = e.Time
		}
	}
	for _, at := range spans {
		if at.to.IsZero() {
			at.to = t.m.stamp()
		}
	}
	return spans
}

// lines plays the lines that a rule matches.
func (t *trial) lines(ctx context.Context, past *rule.Replay, i int) error {
	r := t.rules[i]
	q := series.LineQuery{Tenant: t.run.Tenant, Run: t.run.ID, Grep: r.Pattern(), From: 1, Limit: mostLines}
	for n := 0; n < mostMatches; {
		found, err := t.m.Series.Lines(ctx, q)
		if err != nil {
			return err
		}
		for _, l := range found {
			role, _, _ := mlaas.SplitReplica(l.Replica)
			if r.ForRole(role) && r.Line(l.LogLine) {
				past.Line(l.Time, l.Attempt, l.Replica, i, clip(l.Text, 1000))
			}
		}
		if len(found) == 0 {
			return nil
		}
		n += len(found)
		q.From = found[len(found)-1].Cursor + 1
	}
	t.unknown(r, fmt.Sprintf("more than %d lines match: those after them were not looked at", mostMatches))
	return nil
}

// during is the attempt in which a replica measured something at a time: the
// last that had begun. A point that comes late is of before.
func during(all map[int]*span, at time.Time) (attempt int, s *span) {
	for n, x := range all {
		if !x.from.After(at.Add(time.Second)) && n > attempt { // the clock of the program may be a little behind
			attempt, s = n, x
		}
	}
	return attempt, s
}

// stalls plays the times without a step.
func (t *trial) stalls(ctx context.Context, past *rule.Replay, spans map[string]map[int]*span) error {
	end := func(replica string, attempt int, s *span, at time.Time) {
		if at.After(s.moved) {
			past.Stall(attempt, replica, s.role, s.moved, at, s.step)
		}
	}
	from := int64(1)
	for n := 0; ; {
		points, err := t.m.Series.RunPoints(ctx, t.run.Tenant, t.run.ID, from, mostLines)
		if err != nil {
			return err
		}
		for _, p := range points {
			from = p.Cursor + 1
			at := time.UnixMilli(p.Time).UTC()
			attempt, s := during(spans[p.Replica], at)
			if s == nil || s.any && p.Step <= s.step {
				continue
			}
			if at.After(s.to) {
				at = s.to
			}
			end(p.Replica, attempt, s, at)
			s.any, s.step = true, p.Step
			if at.After(s.moved) {
				s.moved = at
			}
		}
		if len(points) == 0 {
			break
		}
		if n += len(points); n >= mostPoints {
			for _, r := range t.rules {
				if r.On.NoStep > 0 {
					t.unknown(r, fmt.Sprintf("there are more than %d points: steps after them were not looked at", mostPoints))
				}
			}
			return nil
		}
	}
	for replica, all := range spans {
		for attempt, s := range all {
			end(replica, attempt, s, s.to)
		}
	}
	return nil
}

type deliveriesIn struct {
	runIn
	Paging
	State string `query:"state" doc:"Only those in this state" example:"failed"`
}

func (m *Management) listDeliveries(ctx context.Context, in *deliveriesIn) (*Answer[List[mlaas.Delivery]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/", Reverse: true}
	return pageOf(ctx, store.Deliveries(m.DB), q, in.Paging, func(f store.Found[mlaas.Delivery]) (mlaas.Delivery, bool, error) {
		return f.Value, in.State == "" || string(f.Value.State) == in.State, nil
	})
}

type deliveryIn struct {
	runIn
	Delivery string `path:"delivery" doc:"The id of the event"`
}

var deliveryRule = regexp.MustCompile(`^[0-9A-Za-z]{1,40}$`)

// redeliver asks booster, which alone writes deliveries, to send one again.
func (m *Management) redeliver(ctx context.Context, in *deliveryIn) (*Answer[mlaas.Delivery], store.Batch, error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, store.Batch{}, err
	}
	if !deliveryRule.MatchString(in.Delivery) {
		return nil, store.Batch{}, fmt.Errorf("run %s/%d has no delivery %q: %w", r.JobName, r.Number, clip(in.Delivery, 100), mlaas.ErrNotFound)
	}
	d, _, err := store.Deliveries(m.DB).Get(ctx, r.Tenant, store.DeliveryKey(r.ID, in.Delivery))
	if err != nil {
		return nil, store.Batch{}, err
	}
	return &Answer[mlaas.Delivery]{Body: d}, store.Batch{Tell: []store.Message{
		queue.Tell(mlaas.WebhookWanted{Tenant: r.Tenant, Run: r.ID, Delivery: d.ID, Again: true})}}, nil
}
