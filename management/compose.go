package management

import (
	"context"
	"fmt"
	"net/http"

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
func (m *Management) composeJob(_ context.Context, in *composeIn) (*Answer[Composition], error) {
	spec := in.Body
	spec.Complete()
	if spec.Code.Composed == nil {
		return nil, mlaas.Invalid("code.composed", "the network, as input, hidden_layers and output", "nothing")
	}
	c := Composition{Report: compose.Check(spec), Code: map[string]string{}, Entry: compose.Entry}
	if len(c.Messages) == 0 {
		var err error
		if c.Code, err = compose.Program(spec); err != nil {
			return nil, err
		}
	}
	return &Answer[Composition]{Body: c}, nil
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
