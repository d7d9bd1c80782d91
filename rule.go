package mlaas

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An ActionRule says what to do when something is seen (paper §4.3.4). The
// informer sees and tells; contractor restarts, resizes or stops; booster sends
// webhooks. Package rule says when one holds.
type ActionRule struct {
	Name   string  `json:"name"` // no other rule of the job has it
	On     RuleOn  `json:"on"`
	Do     string  `json:"do"`               // restart | restart-elsewhere | resize | stop | webhook | notify
	Resize *Resize `json:"resize,omitempty"` // resize only
	URL    string  `json:"url,omitempty"`    // webhook and notify: http or https, gets a POST
	Secret string  `json:"secret,omitempty"` // webhook: the name of the secret that signs it; its newest version counts
	Once   bool    `json:"once,omitempty"`   // at most once in the life of the run
}

// What an action rule may do.
const (
	RuleRestart   = "restart"           // end every replica; the next attempt begins from the newest checkpoint
	RuleElsewhere = "restart-elsewhere" // the same, and the role of the replica keeps away from the node that it ran on
	RuleResize    = "resize"            // the same, with another number of replicas of a role
	RuleStop      = "stop"              // the run
	RuleWebhook   = "webhook"           // send a CloudEvent, signed, and log its delivery; see Delivery
	RuleNotify    = "notify"            // send a plain JSON text, not signed and not logged
)

var ruleDos = []string{RuleRestart, RuleElsewhere, RuleResize, RuleStop, RuleWebhook, RuleNotify}

// RuleOn is a condition: every part that is stated must hold. Status, reason,
// exit code, OOM and nodeLost are looked at when one of them changes, log at
// each line. NoStep and the idle times are measured while the program runs and
// its supervisor talks to us; they go with role and with each other alone.
type RuleOn struct {
	Status   ReplicaStatus `json:"status,omitempty"`
	Reason   string        `json:"reason,omitempty"` // regular expression (RE2) over the sentence that goes with the status
	ExitCode *int          `json:"exitCode,omitempty"`
	OOM      bool          `json:"oom,omitempty"`      // it was ended by its memory ceiling
	NodeLost bool          `json:"nodeLost,omitempty"` // it was lost with the machine that it ran on
	Log      string        `json:"log,omitempty"`      // regular expression (RE2) over a line
	NoStep   Seconds       `json:"noStep,omitempty"`   // since the last step, or the start of the program
	CPUIdle  Seconds       `json:"cpuIdle,omitempty"`  // during which it used less than 5 % of one core
	GPUIdle  Seconds       `json:"gpuIdle,omitempty"`  // during which its GPUs were busy for less than 5 % of the time
	Role     string        `json:"role,omitempty"`
}

// Timed reports whether o is about time that passes without something.
func (o RuleOn) Timed() bool { return o.NoStep > 0 || o.CPUIdle > 0 || o.GPUIdle > 0 }

// A Resize is how many replicas of a role a run is to have: To, or what it has
// times By. A factor below 1 rounds down, one above rounds up; at least one is
// left. The run may be given fewer, as at its start, where its role is a range.
type Resize struct {
	Role string  `json:"role,omitempty"` // empty: worker
	To   int     `json:"to,omitempty"`
	By   float64 `json:"by,omitempty"`
}

// The least that a rule may wait: what it is about is measured every 10 s.
const (
	leastNoStep = Seconds(1)
	leastIdle   = Seconds(30)
)

// CheckRules reports the first field of the rules of a job that is wrong.
func CheckRules(rules []ActionRule) error {
	seen := map[string]bool{}
	for i, r := range rules {
		at := fmt.Sprintf("rules[%d]", i)
		if err := r.check(); err != nil {
			return In(at, err)
		}
		if seen[r.Name] {
			return Invalid(at+".name", "a name that no other rule has", r.Name)
		}
		seen[r.Name] = true
	}
	return nil
}

func (r ActionRule) check() error {
	if err := CheckName("name", r.Name); err != nil {
		return err
	}
	if !slices.Contains(ruleDos, r.Do) {
		return Invalid("do", strings.Join(ruleDos, ", "), r.Do)
	}
	if err := r.On.check(); err != nil {
		return err
	}
	posts := r.Do == RuleWebhook || r.Do == RuleNotify
	switch {
	case posts && !strings.HasPrefix(r.URL, "http://") && !strings.HasPrefix(r.URL, "https://"):
		return Invalid("url", "http:// or https://", r.URL)
	case r.Do == RuleWebhook:
		if err := CheckName("secret", r.Secret); err != nil {
			return err
		}
	case r.Secret != "":
		return Invalid("secret", "nothing: a webhook alone is signed", r.Secret)
	}
	if r.Do == RuleResize {
		return r.Resize.check()
	}
	if r.Resize != nil {
		return Invalid("resize", "nothing where do is not resize", r.Do)
	}
	return nil
}

func (o RuleOn) check() error {
	if o == (RuleOn{}) {
		return Invalid("on", "at least one of status, reason, exitCode, oom, nodeLost, log, noStep, cpuIdle, gpuIdle, role", "empty")
	}
	for field, text := range map[string]string{"on.log": o.Log, "on.reason": o.Reason} {
		if _, err := regexp.Compile(text); err != nil {
			return Invalid(field, "a regular expression (RE2)", text)
		}
	}
	if s := o.Status; s != "" && !slices.Contains(ReplicaStatuses, s) {
		var all []string
		for _, s := range ReplicaStatuses {
			all = append(all, string(s))
		}
		return Invalid("on.status", "one of "+strings.Join(all, ", "), string(s))
	}
	if o.Role != "" && !slices.Contains(JobRoles, o.Role) {
		return Invalid("on.role", "one of "+strings.Join(JobRoles, ", "), o.Role)
	}
	if !o.Timed() {
		return nil
	}
	switch {
	case o.NoStep > 0 && o.NoStep < leastNoStep:
		return Invalid("on.noStep", `at least 1 s, such as "10m"`, float64(o.NoStep))
	case o.CPUIdle > 0 && o.CPUIdle < leastIdle:
		return Invalid("on.cpuIdle", `at least 30 s, such as "10m": use is measured every 10 s`, float64(o.CPUIdle))
	case o.GPUIdle > 0 && o.GPUIdle < leastIdle:
		return Invalid("on.gpuIdle", `at least 30 s, such as "10m": use is measured every 10 s`, float64(o.GPUIdle))
	}
	o.NoStep, o.CPUIdle, o.GPUIdle, o.Role = 0, 0, 0, ""
	if o != (RuleOn{}) {
		return Invalid("on", "noStep, cpuIdle and gpuIdle with role and each other alone", "a mixture")
	}
	return nil
}

func (r *Resize) check() error {
	switch {
	case r == nil:
		return Invalid("resize", `{"to": N} or {"by": FACTOR}`, "empty")
	case r.Role != "" && (!slices.Contains(JobRoles, r.Role) || r.Role == Chief):
		return Invalid("resize.role", "worker, ps or evaluator: there is one chief", r.Role)
	case (r.To != 0) == (r.By != 0):
		return Invalid("resize.to", "either to or by", r.To)
	case r.To < 0 || r.To > MaxReplicas:
		return Invalid("resize.to", "1 to 10000", r.To)
	case r.By < 0 || r.By > 100 || r.By == 1:
		return Invalid("resize.by", "a factor such as 0.5 or 2, at most 100", r.By)
	}
	return nil
}

// A Delivery is one event for one webhook or mailbox, and how far its sending
// has come. Booster alone writes it; that of a rule is made in the commit that
// says that the rule fired.
type Delivery struct {
	ID      string `json:"id"` // of the event: the same at each try, so that who listens can tell
	Tenant  Tenant `json:"-"`
	Run     RunID  `json:"run"` // empty: somebody tries whether it arrives
	Epoch   int    `json:"epoch"`
	Replica string `json:"replica"`
	Rule    string `json:"rule"`
	Saw     string `json:"saw"`
	URL     string `json:"url"`
	Secret  string `json:"secret"` // the name of the one that signs it; empty: it is not signed

	Subscription string `json:"subscription,omitempty"` // whose it is, where it tells of no rule
	Email        string `json:"email,omitempty"`        // instead of URL

	State   DeliveryState `json:"state"`
	Tries   []DeliveryTry `json:"tries"` // newest last, at most 20
	Created time.Time     `json:"created"`
	Next    time.Time     `json:"next,omitzero"` // when it is tried again
}

// DeliveryState is where a Delivery stands.
type DeliveryState string

// The states of a delivery.
const (
	DeliveryWaiting DeliveryState = "waiting" // to be tried, or tried again
	Delivered       DeliveryState = "delivered"
	DeliveryFailed  DeliveryState = "failed" // given up, until somebody asks for it again
)

// A DeliveryTry is one request to a webhook.
type DeliveryTry struct {
	Time   time.Time `json:"time"`
	Status int       `json:"status,omitempty"` // of HTTP; 0: there was no answer
	Error  string    `json:"error,omitempty"`  // empty: it was taken
	Took   Seconds   `json:"took"`
}
