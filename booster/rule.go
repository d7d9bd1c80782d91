package booster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// rules are the action rules of a job that look at log lines.
type rules struct {
	list []logRule
	when map[string]time.Time // it fired last
}

type logRule struct {
	mlaas.ActionRule
	pattern *regexp.Regexp
}

// again is how often a rule about log lines fires for one replica at most.
const again = time.Minute

// watching reads the rules of a run for one of its replicas.
func (b *Booster) watching(run mlaas.Run, role string) *rules {
	w := &rules{when: map[string]time.Time{}}
	for _, r := range run.Spec.Rules {
		if r.On.Log == "" || r.On.Role != "" && r.On.Role != role {
			continue
		}
		pattern, err := regexp.Compile(r.On.Log)
		if err != nil {
			b.Log.Warn("a rule has a pattern that cannot be read", "run", run.ID, "rule", r.Name, "error", err)
			continue
		}
		w.list = append(w.list, logRule{r, pattern})
	}
	return w
}

// read looks at lines that just came from the replica of c. Words of the
// platform itself set nothing off.
func (b *Booster) read(ctx context.Context, c *conn, lines []mlaas.LogLine) {
	for _, r := range c.cell.rules.list {
		i := slices.IndexFunc(lines, func(l mlaas.LogLine) bool {
			return l.Stream != "platform" && r.pattern.MatchString(l.Text)
		})
		if i < 0 {
			continue
		}
		saw := fmt.Sprintf("%s wrote: %s", c.fence.Replica, short(lines[i].Text))
		c.cell.mu.Lock()
		soon := b.Now().Sub(c.cell.rules.when[r.Name]) < again
		c.cell.mu.Unlock()
		if r.On.ExitCode != nil || soon {
			continue // its exit code comes with its end; see match
		}
		fired := false
		_, err := b.change(ctx, c.fence, func(record *mlaas.Replica) (also store.Batch) {
			fired = false
			if r.On.Status != "" && r.On.Status != record.Status || b.Now().Sub(lastFired(*record, r.Name)) < again {
				return store.Batch{}
			}
			if also, fired = b.fire(ctx, record, r.ActionRule, saw); !fired {
				return store.Batch{}
			}
			return also
		})
		switch {
		case known(err) != nil && ctx.Err() == nil:
			b.Log.Error("fire a rule", "run", c.fence.Run, "rule", r.Name, "error", err)
		case err == nil && fired:
			c.cell.mu.Lock()
			c.cell.rules.when[r.Name] = b.Now()
			c.cell.mu.Unlock()
		}
	}
}

// match is what the rules say about the status that r just came to. A status
// comes once in an attempt, so a rule fires once for it.
func (b *Booster) match(ctx context.Context, r *mlaas.Replica) (also store.Batch, err error) {
	run, _, err := store.Runs(b.DB).Get(ctx, r.Tenant, string(r.Run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return also, nil
	} else if err != nil {
		return also, err
	}
	for _, rule := range run.Spec.Rules {
		on := rule.On
		switch {
		case on.Role != "" && on.Role != r.Role,
			on.Status != "" && on.Status != r.Status,
			on.ExitCode != nil && (!r.Status.Final() || r.ExitCode == nil || *r.ExitCode != *on.ExitCode),
			on.Log != "" && on.Status == "" && on.ExitCode == nil:
			continue
		}
		saw := r.Fence.Replica + " is " + string(r.Status)
		if r.Status.Final() && r.ExitCode != nil {
			saw += fmt.Sprintf(" with exit code %d", *r.ExitCode)
		}
		if on.Log != "" {
			line := b.wrote(ctx, *r, on.Log)
			if line == "" {
				continue
			}
			saw += "; it wrote: " + line
		}
		if more, ok := b.fire(ctx, r, rule, saw); ok {
			also = also.Plus(more)
		}
	}
	return also, nil
}

// wrote is the last line of this attempt of r that matches; empty: none does.
// A supervisor tells of its end when all its lines are kept.
func (b *Booster) wrote(ctx context.Context, r mlaas.Replica, pattern string) string {
	grep, err := regexp.Compile(pattern)
	if err != nil {
		return ""
	}
	lines, err := b.Series.Lines(ctx, series.LineQuery{Tenant: r.Tenant, Run: r.Run, Replica: r.Fence.Replica, Grep: grep, Last: 20})
	if err != nil {
		b.Log.Error("look for a line that a rule names", "run", r.Run, "replica", r.Fence.Replica, "error", err)
		return ""
	}
	for _, l := range slices.Backward(lines) {
		if l.Attempt == r.Epoch && l.Stream != "platform" {
			return short(l.Text)
		}
	}
	return ""
}

// fire is a rule's effect: an entry in the history of the replica that set it
// off, and a message to whoever acts.
func (b *Booster) fire(ctx context.Context, r *mlaas.Replica, rule mlaas.ActionRule, saw string) (also store.Batch, ok bool) {
	if rule.Once {
		// Once in the life of the run, whichever replica: nobody else may
		// write that it fired until we have.
		if !lastFired(*r, rule.Name).IsZero() {
			return also, false
		}
		others, err := store.Replicas(b.DB).All(ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.Run) + "/"})
		if err != nil {
			b.Log.Error("look whether a rule fired before", "run", r.Run, "rule", rule.Name, "error", err)
			return also, false
		}
		for _, o := range others {
			if o.Value.Fence.Replica == r.Fence.Replica {
				continue
			}
			if !lastFired(o.Value, rule.Name).IsZero() {
				return store.Batch{}, false
			}
			also.Check = append(also.Check, store.Replicas(b.DB).At(r.Tenant, store.ReplicaKey(r.Run, o.Value.Fence.Replica), o.Rev))
		}
	}
	now := b.Now().UTC()
	happened(r, now, fired(rule.Name)+saw)
	if rule.Do == "notify" {
		also.Tell = append(also.Tell, queue.Tell(notice{Tenant: r.Tenant, Run: r.Run, Epoch: r.Epoch, Replica: r.Fence.Replica, Rule: rule.Name, Saw: saw, Time: now}))
	} else {
		also.Tell = append(also.Tell, queue.Tell(mlaas.RuleFired{Tenant: r.Tenant, Run: r.Run, Epoch: r.Epoch, Replica: r.Fence.Replica, Rule: rule.Name, Saw: saw}))
	}
	return also, true
}

// fired is how the history of a replica says that a rule did.
func fired(rule string) string { return "rule " + rule + " fired: " }

func lastFired(r mlaas.Replica, rule string) (at time.Time) {
	for _, e := range r.History {
		if strings.HasPrefix(e.Reason, fired(rule)) {
			at = e.Time
		}
	}
	return at
}

// toNotices is an inbox of its own, so that a webhook that does not answer
// keeps nothing waiting but other webhooks.
const toNotices = "booster.notices"

// A notice goes from booster to itself: send the webhook of a rule that fired.
// Twice: whoever listens is told twice.
type notice struct {
	Tenant  mlaas.Tenant `json:"tenant"`
	Run     mlaas.RunID  `json:"run"`
	Epoch   int          `json:"epoch"`
	Replica string       `json:"replica"`
	Rule    string       `json:"rule"`
	Saw     string       `json:"saw"`
	Time    time.Time    `json:"time"`
	Try     int          `json:"try,omitempty"` // how often it failed
}

// To is who hears the message.
func (n notice) To() string { return toNotices }

// Key is what must be handled in order: notices need no order.
func (n notice) Key() string {
	return fmt.Sprintf("%s/%d/%s/%s/%d", n.Run, n.Epoch, n.Replica, n.Rule, n.Time.UnixNano())
}

// A Notice is the JSON that a webhook gets.
type Notice struct {
	Rule    string      `json:"rule"`
	Job     mlaas.JobID `json:"job"`
	Name    string      `json:"name"` // as people say it: mnist/7
	Run     mlaas.RunID `json:"run"`
	Replica string      `json:"replica"`
	Epoch   int         `json:"epoch"`
	Saw     string      `json:"saw"`
	Time    time.Time   `json:"time"`
}

// pauses are between the tries of a webhook.
func pauses() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
}

func (b *Booster) notify(ctx context.Context, n notice) (store.Batch, error) {
	run, _, err := store.Runs(b.DB).Get(ctx, n.Tenant, string(n.Run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return store.Batch{}, nil
	} else if err != nil {
		return store.Batch{}, err
	}
	i := slices.IndexFunc(run.Spec.Rules, func(r mlaas.ActionRule) bool { return r.Name == n.Rule })
	if i < 0 {
		return store.Batch{}, nil
	}
	body, err := json.Marshal(Notice{n.Rule, run.Job, fmt.Sprintf("%s/%d", run.JobName, run.Number), n.Run, n.Replica, n.Epoch, n.Saw, n.Time})
	if err != nil {
		return store.Batch{}, err
	}
	err = b.post(ctx, run.Spec.Rules[i].URL, body)
	if err == nil || ctx.Err() != nil {
		return store.Batch{}, ctx.Err()
	}
	if p := pauses(); n.Try < len(p) {
		pause := p[n.Try]
		n.Try++
		return store.Batch{Tell: []store.Message{queue.TellAfter(pause, n)}}, nil
	}
	b.Log.Warn("a webhook was given up", "run", n.Run, "rule", n.Rule, "error", err)
	f := mlaas.Fence{Tenant: n.Tenant, Run: n.Run, Epoch: n.Epoch, Replica: n.Replica, Incarnation: 1}
	_, err = b.change(ctx, f, func(r *mlaas.Replica) store.Batch {
		happened(r, b.Now().UTC(), fmt.Sprintf("the webhook of rule %s was not taken after %d tries: %v", n.Rule, len(pauses())+1, err))
		return store.Batch{}
	})
	return store.Batch{}, known(err)
}

func (b *Booster) post(ctx context.Context, url string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "mlaas")
	answer, err := b.hooks.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.CopyN(io.Discard, answer.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", answer.Status)
	}
	return nil
}

// webhooks is what sends them. A rule is written by a user, and its URL must
// not reach what only this machine may: the address is judged after its name
// was looked up, and nothing is followed elsewhere.
func (b *Booster) webhooks() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if why := forbidden(at.Addr(), b.AllowLoopback); why != "" {
			return fmt.Errorf("webhooks may not go to %s: %s: %w", at.Addr(), why, mlaas.ErrForbidden)
		}
		return nil
	}}
	return &http.Client{
		Transport: cmp.Or[http.RoundTripper](b.Webhooks, &http.Transport{
			DialContext: dialer.DialContext, DisableKeepAlives: true,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// forbidden says why a webhook may not go to an address; it is empty where it
// may.
func forbidden(a netip.Addr, loopback bool) string {
	a = a.WithZone("").Unmap()
	if b := a.As16(); a.Is6() {
		switch { // an address inside an address: NAT64 and 6to4
		case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
			a = netip.AddrFrom4([4]byte(b[12:]))
		case netip.MustParsePrefix("2002::/16").Contains(a):
			a = netip.AddrFrom4([4]byte(b[2:6]))
		}
	}
	switch {
	case a.IsLoopback() || a.IsUnspecified():
		if !loopback {
			return "it is the platform's own machine"
		}
	case a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsInterfaceLocalMulticast():
		return "it is a link-local address"
	case slices.Contains([]string{"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"}, a.String()):
		return "it tells machines their secrets"
	}
	return ""
}
