package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"mlaas.dev/mlaas"
)

// A PreparedView is the code of a version as a run of its job would start it.
type PreparedView struct {
	Version mlaas.VersionID `json:"version"`
	Bundle  mlaas.Digest    `json:"bundle" doc:"Of the code as it was written"`
	Digest  mlaas.Digest    `json:"digest" doc:"Of the code as it runs; that of a run's replicas is the same"`
	Mode    string          `json:"mode" doc:"The job's code.mode" example:"annotation"`
	Python  string          `json:"python,omitempty" doc:"The version by which it was read, on the machine of the platform; empty where nothing had to be" example:"3.11.2"`
	Hooks   bool            `json:"hooks" doc:"Whether post-import hooks record what the program does besides"`
	Says    []string        `json:"says" doc:"What is otherwise than by hand, a sentence each"`
	Spread  *mlaas.Spread   `json:"spread,omitempty" doc:"How it trains as one on several replicas, where there are several"`
	Files   []mlaas.Change  `json:"files" doc:"What is not as it was written"`
}

type preparedIn struct {
	versionIn
	Format string `query:"format" doc:"diff: as one unified diff instead" example:"diff"`
}

// getPrepared is the preview: what a run would start, before there is one.
func (m *Management) getPrepared(w http.ResponseWriter, r *http.Request, in *preparedIn) error {
	ctx := r.Context()
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return err
	}
	v, _, err := m.versionAt(ctx, j, in.Version)
	if err != nil {
		return err
	}
	if in.Format != "" && in.Format != "json" && in.Format != "diff" {
		return mlaas.Invalid("format", "json or diff", in.Format)
	}
	spec := j.JobSpec
	p, err := m.prepare(ctx, mlaas.Run{Tenant: j.Tenant, Job: j.ID, JobName: j.Name, Version: v, Spec: spec})
	if err != nil {
		return err
	}
	if in.Format == "diff" {
		w.Header().Set("Content-Type", "text/x-diff; charset=utf-8")
		for _, c := range p.Changes {
			if _, err := io.WriteString(w, c.Diff); err != nil {
				return err
			}
		}
		return nil
	}
	view := PreparedView{Version: v.ID, Bundle: v.Bundle, Digest: p.Digest, Mode: spec.Code.Mode, Python: p.Python, Hooks: spec.Code.Hooked(), Files: p.Changes, Spread: p.Spread, Says: says(spec, p)}
	return send(w, r, http.StatusOK, &Answer[PreparedView]{Body: view})
}

// prepare says what becomes of the code of a run.
func (m *Management) prepare(ctx context.Context, run mlaas.Run) (mlaas.Preparation, error) {
	if m.Prepare == nil {
		return mlaas.Preparation{}, fmt.Errorf("this management has no Python to read code with: %w", errNoPython)
	}
	p, err := m.prepared.of(ctx, run, m.Prepare)
	if errors.Is(err, mlaas.ErrInvalid) {
		return p, fmt.Errorf("the code of %s cannot be prepared: %w", run.Version.ID, err)
	}
	return p, err
}

// preparations are what became of code: of the same code by the same job it is
// the same, and to find it out takes a process of Python.
type preparations struct {
	mu    sync.Mutex
	known map[preparedKey]*preparation
}

// A preparedKey is all that a preparation follows from.
type preparedKey struct {
	bundle mlaas.Digest
	spec   string
}

// A preparation is known, or found out by the first who asks.
type preparation struct {
	done chan struct{} // closed when it is known, or cannot be
	mlaas.Preparation
	err error
}

// maxPrepared is how many preparations are kept.
const maxPrepared = 256

func (x *preparations) of(ctx context.Context, run mlaas.Run, find func(context.Context, mlaas.Run) (mlaas.Preparation, error)) (mlaas.Preparation, error) {
	spec, err := json.Marshal(run.Spec)
	if err != nil {
		return mlaas.Preparation{}, err
	}
	key := preparedKey{run.Version.Bundle, string(spec)}
	for {
		x.mu.Lock()
		p := x.known[key]
		if p == nil {
			if x.known == nil || len(x.known) >= maxPrepared {
				x.known = map[preparedKey]*preparation{}
			}
			p = &preparation{done: make(chan struct{})}
			x.known[key] = p
			x.mu.Unlock()
			x.find(key, p, func() (mlaas.Preparation, error) { return find(ctx, run) })
			return p.Preparation, p.err
		}
		x.mu.Unlock()
		select {
		case <-p.done:
		case <-ctx.Done():
			return mlaas.Preparation{}, ctx.Err()
		}
		if p.err == nil || errors.Is(p.err, mlaas.ErrInvalid) {
			return p.Preparation, p.err
		}
		// Whoever asked first may have gone: it is found out anew.
	}
}

// find finds out what is asked for. What may be otherwise another time is not
// kept.
func (x *preparations) find(key preparedKey, p *preparation, find func() (mlaas.Preparation, error)) {
	p.err = mlaas.ErrInternal // unless it returns
	defer func() {
		if p.err != nil && !errors.Is(p.err, mlaas.ErrInvalid) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if x.known[key] == p {
				delete(x.known, key)
			}
		}
		close(p.done)
	}()
	p.Preparation, p.err = find()
}

// errNoPython is against what the machine has: trying again does not help.
var errNoPython = mlaas.ErrConflict

// says is what is otherwise than where the program is run by hand.
func says(spec mlaas.JobSpec, p mlaas.Preparation) []string {
	out := []string{}
	switch {
	case len(p.Changes) == 0:
		out = append(out, "The code runs as it was written.")
	case p.Marks > 0:
		out = append(out, fmt.Sprintf("%d marks in comments are calls, on their own lines: line numbers are those of your files.", p.Marks))
	}
	if spec.Code.Hooked() {
		out = append(out, "What frameworks do is recorded by hooks that are set when the program imports them; code.hooks: false leaves them out.")
	}
	if spec.Code.Locals {
		out = append(out, "A failure tells the local variables of its frames, with secrets masked.")
	}
	if p.Spread != nil {
		out = append(out, p.Spread.Says...)
	}
	return out
}
