package management

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/compose"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/template"
)

type composeIn struct {
	Body mlaas.JobSpec
}

// A Composition is what a composed network comes to: its layers, what is wrong
// with it, and, where nothing is, its program.
type Composition struct {
	compose.Report
	Code  map[string]string `json:"code" doc:"The texts of its program by their paths; none while there are messages"`
	Entry string            `json:"entry" doc:"The file that is started" example:"main.py"`
}

// composeJob says what a job's network comes to, and keeps nothing. What is
// wrong with it is its answer, and no problem: who builds one wants to see the
// rest as well.
func (m *Management) composeJob(ctx context.Context, in *composeIn) (*Answer[Composition], error) {
	spec := in.Body
	spec.Complete()
	if spec.Code.Composed == nil {
		return nil, mlaas.Invalid("code.composed", "the network, as input, hidden_layers and output", "nothing")
	}
	spec, err := m.lookAt(ctx, spec)
	f, ok := errors.AsType[*mlaas.FieldError](err)
	if err != nil && !ok {
		return nil, err
	}
	c := Composition{Report: compose.Check(spec), Code: map[string]string{}, Entry: compose.Entry}
	if ok {
		c.Messages = slices.Insert(c.Messages, 0, compose.Message{Field: f.Field, Message: f.Error()})
	}
	if len(c.Messages) == 0 {
		if c.Code, err = compose.Program(spec); err != nil {
			return nil, err
		}
	}
	return &Answer[Composition]{Body: c}, nil
}

// lookAt is a job whose network says of its input what the dataset does that it
// reads, where that is here. It may be sent later; other data nobody has seen.
func (m *Management) lookAt(ctx context.Context, spec mlaas.JobSpec) (mlaas.JobSpec, error) {
	for _, d := range spec.Data {
		name, ok := strings.CutPrefix(d.Source, "dataset:")
		if !ok || d.Name != spec.Code.Composed.Input.Data {
			continue
		}
		set, err := m.findDataset(ctx, tenantOf(ctx), name)
		if errors.Is(err, mlaas.ErrNotFound) {
			return spec, nil
		}
		if err != nil {
			return spec, err
		}
		files, err := m.filesOf(ctx, set.Tree)
		if err != nil {
			return spec, err
		}
		return compose.Look{Files: files, Open: func(f mlaas.File) (io.ReadCloser, error) { return m.Blob.Get(ctx, f.Digest, 0) }}.Fill(spec)
	}
	return spec, nil
}

// composed makes the program of a job's network a version of its code, as any
// other: a run names it, so that it can be done again whatever programs later
// versions of mlaas write. Equal programs are one version.
func (m *Management) composed(ctx context.Context, j *mlaas.Job, spec mlaas.JobSpec) (v mlaas.Version, rows []store.Row, err error) {
	up, err := m.program(ctx, spec)
	if err != nil {
		return v, nil, err
	}
	return m.nextVersion(ctx, j, up)
}

// program keeps the program of a job's network.
func (m *Management) program(ctx context.Context, spec mlaas.JobSpec) (*uploaded, error) {
	spec, err := m.lookAt(ctx, spec)
	if err != nil {
		return nil, mlaas.In("code.composed", err)
	}
	files, err := compose.Program(spec)
	if err != nil {
		return nil, err
	}
	return m.texts(ctx, files)
}

type ejectIn struct {
	jobIn
	Match string `header:"If-Match" doc:"Change it only if its ETag is this one; else 412"`
}

// An Ejected is a job whose network became code.
type Ejected struct {
	Job     mlaas.Job     `json:"job"`
	Version mlaas.Version `json:"version" doc:"Its program, to be changed"`
}

// ejectJob makes a composed job an ordinary one: the program that was written
// for it is its newest version, and its user's from then on.
func (m *Management) ejectJob(ctx context.Context, in *ejectIn) (*Answer[Ejected], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "job "+j.Name, j.Revision); err != nil {
		return nil, none, err
	}
	if j.Code.Mode != "composed" {
		return nil, none, fmt.Errorf("job %s is of mode %s: only a composed job becomes an ordinary one: %w", j.Name, j.Code.Mode, mlaas.ErrConflict)
	}
	up, err := m.program(ctx, j.JobSpec)
	if err != nil {
		return nil, none, err
	}
	v, rows, err := m.nextVersion(ctx, &j, up)
	if err != nil {
		return nil, none, err
	}
	if v.Number != j.Versions { // it was composed so before, and otherwise since
		var row store.Row
		v, row = m.newVersion(&j, up)
		rows = []store.Row{row}
	}
	// The program records by itself what it measures, and hooks would twice.
	j.Code = mlaas.Code{Mode: "plain"}
	j.Updated = m.stamp()
	rows = append(rows, putJob(m.DB, &j))
	if err := m.fill(ctx, &j); err != nil {
		return nil, none, err
	}
	return &Answer[Ejected]{Status: http.StatusOK, Body: Ejected{j, v}, Revision: j.Revision}, store.Batch{Put: rows}, nil
}

type templatesIn struct{}

// listTemplates lists where a job in guiding mode may begin.
func (m *Management) listTemplates(context.Context, *templatesIn) (*Answer[List[template.Template]], error) {
	return &Answer[List[template.Template]]{Body: List[template.Template]{Items: template.All()}}, nil
}
