package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Registers are jobs whose label "value" clients read and write by If-Match,
// each remembering when it asked and what it was answered; afterwards it is
// asked whether one job, changed by one client at a time, could have answered
// so (porcupine).
type Registers struct {
	api    *API
	jobs   []string
	began  time.Time
	mu     sync.Mutex
	events []porcupine.Operation
	value  int64
}

// A registerIn is what was asked: to read, or to write value over revision.
type registerIn struct {
	job      string
	write    bool
	revision int64
	value    int64
}

// A registerOut is what was answered.
type registerOut struct {
	unknown  bool // there was no answer
	stale    bool // 412
	revision int64
	value    int64
}

type registerState struct{ revision, value int64 }

// registerModel is one job as it must look to all clients together.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range history {
			by[o.Input.(registerIn).job] = append(by[o.Input.(registerIn).job], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return registerState{1, 0} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(registerState), input.(registerIn), output.(registerOut)
		switch {
		case !in.write:
			return out.revision == s.revision && out.value == s.value, s
		case out.unknown: // it happened, or never: then it stands behind everything that did
			if in.revision == s.revision {
				return true, registerState{s.revision + 1, in.value}
			}
			return true, s
		case out.stale:
			return in.revision != s.revision, s
		default:
			return in.revision == s.revision && out.revision == s.revision+1, registerState{out.revision, in.value}
		}
	},
	Equal: func(a, b any) bool { return a == b },
}

// registerCheck is how long the search may take.
const registerCheck = 30 * time.Second

// makeRegisters makes n fresh jobs to read and write.
func makeRegisters(ctx context.Context, api *API, name string, n int) (*Registers, error) {
	r := &Registers{api: api, began: time.Now()}
	for i := range n {
		job := fmt.Sprintf("%s-%d", name, i)
		got, err := api.insist(ctx, Ask{Method: "POST", Path: "/api/job", Key: job, JSON: map[string]any{"name": job, "labels": map[string]string{"value": "0"}}})
		if err != nil {
			return nil, err
		}
		var made struct {
			ID       string
			Revision int64
		}
		if err := json.Unmarshal(got.Body, &made); err != nil {
			return nil, err
		}
		r.jobs = append(r.jobs, made.ID)
	}
	return r, nil
}

// client reads and writes until stop is closed. What it last wrote and had
// acknowledged goes into the ledger.
func (r *Registers) client(ctx context.Context, id int, random *rand.Rand, stop <-chan struct{}, ledger *Ledger, fault string, bad func(error)) {
	known := map[string]registerState{}
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond): // a client that thinks
		}
		in := registerIn{job: r.jobs[random.IntN(len(r.jobs))]}
		if k, seen := known[in.job]; seen && random.IntN(2) == 0 {
			r.mu.Lock()
			r.value++
			in.write, in.revision, in.value = true, k.revision, r.value
			r.mu.Unlock()
			if random.IntN(5) == 0 && in.revision > 1 {
				in.revision-- // stale on purpose
			}
		}
		call := time.Since(r.began).Nanoseconds()
		out, err := r.ask(ctx, in)
		back := time.Since(r.began).Nanoseconds()
		if err != nil && !later(err) {
			bad(err)
			continue
		}
		if err != nil {
			if !in.write {
				continue // a read without an answer says nothing
			}
			clear(known) // it reads before it writes again: too many such leave too much to try out
			if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
				continue // it was never sent
			}
			out, back = registerOut{unknown: true}, math.MaxInt64
		}
		if !out.unknown && !out.stale {
			known[in.job] = registerState{out.revision, out.value}
		}
		r.mu.Lock()
		r.events = append(r.events, porcupine.Operation{ClientId: id, Input: in, Call: call, Output: out, Return: back})
		r.mu.Unlock()
		if in.write && !out.unknown && !out.stale {
			if err := ledger.write(Entry{Kind: "register", Key: fmt.Sprintf("%s at %d", in.job, out.revision), ID: in.job, Revision: out.revision, Value: in.value, Fault: fault}); err != nil {
				bad(err)
			}
		}
	}
}

func (r *Registers) ask(ctx context.Context, in registerIn) (out registerOut, err error) {
	ask := Ask{Method: "GET", Path: "/api/job/" + in.job}
	if in.write {
		ask.Method, ask.Match = "PATCH", strconv.Quote(strconv.FormatInt(in.revision, 10))
		ask.JSON = map[string]any{"labels": map[string]string{"value": strconv.FormatInt(in.value, 10)}}
	}
	got, err := r.api.do(ctx, ask)
	if e, refused := errors.AsType[*Refused](err); refused && e.Status == http.StatusPreconditionFailed && in.write {
		return registerOut{stale: true}, nil
	}
	if err != nil {
		return out, err
	}
	return readRegister(got)
}

func readRegister(got Got) (out registerOut, err error) {
	var job struct {
		Revision int64
		Labels   map[string]string
	}
	if err := json.Unmarshal(got.Body, &job); err != nil {
		return out, err
	}
	out.revision = job.Revision
	if tag := strings.Trim(got.ETag, `"`); tag != strconv.FormatInt(job.Revision, 10) {
		return out, &Refused{got.Status, fmt.Sprintf("a job at revision %d has the ETag %s", job.Revision, got.ETag)}
	}
	out.value, err = strconv.ParseInt(job.Labels["value"], 10, 64)
	return out, err
}

// seal writes each job once more when nothing is wrong any more: what became of
// the writes before that had no answer is known then.
func (r *Registers) seal(ctx context.Context) error {
	for _, job := range r.jobs {
		read := registerIn{job: job}
		for written := false; !written; {
			for _, write := range []bool{false, true} {
				in := read
				r.value++
				in.write, in.value = write, r.value
				call := time.Since(r.began).Nanoseconds()
				out, err := r.ask(ctx, in)
				if err != nil {
					return fmt.Errorf("a job cannot be edited when nothing is wrong: %w", err)
				}
				r.events = append(r.events, porcupine.Operation{ClientId: editors, Input: in, Call: call, Output: out, Return: time.Since(r.began).Nanoseconds()})
				read.revision, written = out.revision, write && !out.stale
			}
		}
	}
	return nil
}

// check asks whether the answers could be those of one job that one client at
// a time reads and writes.
func (r *Registers) check(tally *Tally) (operations int) {
	r.mu.Lock()
	history := resolve(r.events)
	r.mu.Unlock()
	switch porcupine.CheckOperationsTimeout(registerModel, history, registerCheck) {
	case porcupine.Illegal:
		tally.illegal("the answers about %d jobs to %d requests are not linearizable", len(r.jobs), len(history))
	case porcupine.Unknown:
		tally.illegal("whether %d answers are linearizable was not known in %v", len(history), registerCheck)
	}
	return len(history)
}

// resolve finds out, from what others saw, what became of writes that had no
// answer: each wrote a value of its own, so whoever saw its revision saw
// whether it was that one. Those of which nothing is known stay as they are.
func resolve(events []porcupine.Operation) (history []porcupine.Operation) {
	type place struct {
		job      string
		revision int64
	}
	type sight struct{ value, back int64 }
	seen := map[place]sight{}
	for _, o := range events {
		in, out := o.Input.(registerIn), o.Output.(registerOut)
		if out.unknown || out.stale {
			continue
		}
		at := place{in.job, out.revision}
		if s, again := seen[at]; !again || o.Return < s.back {
			seen[at] = sight{out.value, o.Return}
		}
	}
	for _, o := range events {
		in, out := o.Input.(registerIn), o.Output.(registerOut)
		if s, ok := seen[place{in.job, in.revision + 1}]; ok && out.unknown {
			if s.value != in.value || s.back < o.Call {
				continue // another was there: it never happened, and never will
			}
			o.Output, o.Return = registerOut{revision: in.revision + 1, value: in.value}, s.back
		}
		history = append(history, o)
	}
	return history
}
