// Package health says whether a process can do its work, and lets it end
// without failing anybody.
//
// [Prober] is a list of named checks, asked together, each with a deadline, so
// that a disk or a server that hangs is seen and not waited for. checks.go has
// the checks that every process needs. [Server] serves HTTP and drains.
package health

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas"
)

// ErrWarning is wrapped by a check that found something for people to see to
// that does not keep the process from working.
var ErrWarning = errors.New("warning")

// A Check is one thing that must be right. Do returns a sentence on how it is,
// or what is wrong; it is [ErrWarning] where the process can work all the same.
// Do is never called while an earlier call has not returned.
type Check struct {
	Name string
	Do   func(context.Context) (says string, err error)
}

// A Level is how a check went.
type Level string

// The levels. A process with a check that fails is not ready.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Failing Level = "failing"
)

// A Result is how one check went.
type Result struct {
	Name    string  `json:"name" example:"store"`
	Level   Level   `json:"level" example:"ok" doc:"ok, warning or failing: a process with a check that fails is not ready"`
	Says    string  `json:"says" example:"a record was written, durably, and read back"`
	Seconds float64 `json:"seconds" doc:"How long it took"`
}

// A Report is how a process is.
type Report struct {
	Ready  bool
	Status string // "ok", "draining", or the names of what fails
	Time   time.Time
	Checks []Result
}

// A Prober asks the checks. Its zero value is ready as long as it does not
// drain. Methods are safe for concurrent use.
type Prober struct {
	Checks []Check
	Within time.Duration // a check may take so long; 0: 2 s
	Keep   time.Duration // an answer is given again for so long, so that asking costs nothing; 0: 1 s

	draining atomic.Bool
	asking   sync.Mutex // held by who asks; others wait for the answer
	last     Report
	under    map[string]*call
}

// A call is one that has not returned.
type call struct {
	began time.Time
	done  chan struct{}
	says  string
	err   error
	took  time.Duration
}

func (c *call) hangs() bool {
	if c == nil {
		return false
	}
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Drain makes the process unready for good.
func (p *Prober) Drain() { p.draining.Store(true) }

// Draining reports whether Drain was called.
func (p *Prober) Draining() bool { return p.draining.Load() }

// Ready asks all checks at once, or gives the answer of a moment ago.
func (p *Prober) Ready(ctx context.Context) Report {
	p.asking.Lock()
	defer p.asking.Unlock()
	now := time.Now()
	if p.last.Time.IsZero() || now.Sub(p.last.Time) >= cmp.Or(p.Keep, time.Second) {
		p.last = p.ask(ctx, now)
	}
	r := p.last
	if p.draining.Load() {
		r.Ready, r.Status = false, "draining"
	}
	return r
}

func (p *Prober) ask(ctx context.Context, now time.Time) Report {
	within := cmp.Or(p.Within, 2*time.Second)
	// Whoever asked may hang up; the answer is for everyone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	if p.under == nil {
		p.under = map[string]*call{}
	}
	var all sync.WaitGroup
	for _, c := range p.Checks {
		if p.under[c.Name].hangs() {
			continue // another would hang beside it
		}
		one := &call{began: now, done: make(chan struct{})}
		p.under[c.Name] = one
		all.Go(func() {
			defer close(one.done)
			one.says, one.err = attempt(ctx, c)
			one.took = time.Since(one.began)
		})
	}
	go func() { all.Wait(); cancel() }()
	<-ctx.Done() // all have returned, or the time is over
	r := Report{Ready: true, Status: "ok", Checks: []Result{}}
	var bad []string
	for _, c := range p.Checks {
		one := p.under[c.Name]
		res := Result{Name: c.Name, Level: OK}
		select {
		case <-one.done:
			delete(p.under, c.Name)
			res.Seconds, res.Says = one.took.Seconds(), one.says
			switch {
			case errors.Is(one.err, ErrWarning):
				res.Level, res.Says = Warning, strings.TrimSuffix(one.err.Error(), ": "+ErrWarning.Error())
			case errors.Is(one.err, context.DeadlineExceeded):
				res.Level, res.Says = Failing, fmt.Sprintf("no answer for %s", within)
			case one.err != nil:
				res.Level, res.Says = Failing, strings.TrimSuffix(one.err.Error(), ": "+mlaas.KindOf(one.err).Code)
			}
		default:
			took := time.Since(one.began)
			res.Level, res.Seconds = Failing, took.Seconds()
			res.Says = fmt.Sprintf("no answer for %s", took.Round(100*time.Millisecond))
		}
		if res.Level == Failing {
			bad = append(bad, c.Name)
		}
		r.Checks = append(r.Checks, res)
	}
	if len(bad) > 0 {
		r.Ready, r.Status = false, "not ready: "+strings.Join(bad, ", ")
	}
	r.Time = time.Now()
	return r
}

// attempt calls a check; one that panics has found that something is wrong.
func attempt(ctx context.Context, c Check) (says string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the check panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return c.Do(ctx)
}

// An Answer is what /readyz says. Checks are left away for who is not known.
type Answer struct {
	Status string   `json:"status" example:"ok" doc:"ok, draining, or the names of the checks that fail"`
	Checks []Result `json:"checks,omitempty" doc:"Each check; with a token alone"`
}

// Answer is the report as it is told: with details or without. Status is 200
// or 503.
func (r Report) Answer(details bool) (status int, a Answer) {
	status, a.Status = http.StatusOK, r.Status
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	if details {
		a.Checks = r.Checks
	}
	return status, a
}

// Handler serves /livez and /readyz, for a process that has no API of its own.
// known reports whether who asks may see the details; nil: nobody may.
func (p *Prober) Handler(known func(*http.Request) bool) http.Handler {
	mux := http.NewServeMux()
	write := func(w http.ResponseWriter, status int, a Answer) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(a) // who asked has gone; there is nobody to tell
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, Answer{Status: "ok"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, a := p.Ready(r.Context()).Answer(known != nil && known(r))
		write(w, status, a)
	})
	return mux
}
