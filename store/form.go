package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"mlaas.dev/mlaas"
)

// The form of a record is the version of its schema. It stands first in the
// JSON of the record, as "schema"; a record that does not say is of form 1, as
// those of v0.1 are.
//
// A change that the version before can live with needs no new form: a field
// that may be missing, which every version so far fills in or does without.
// Whoever writes a record writes the fields that it knows, so what a newer
// version added is gone when an older one has rewritten the record; the form
// tells, because the older one writes its own. Nothing may depend on more.
//
// A change that the version before cannot read takes two releases. The first
// reads the new form and writes the old one (an Upgrade is there, Writes is
// not raised), so that it can be gone back from; the second writes it. An
// Upgrade stays for at least two versions.

// An Upgrade turns the fields of a record of one form into those of the next.
type Upgrade func(fields map[string]json.RawMessage) error

// newest is the newest form that r can read.
func (r Records[T]) newest() int { return 1 + len(r.Upgrades) }

// form is what r writes.
func (r Records[T]) form() (kind string, writes, reads int) {
	return r.Kind, max(r.Writes, 1), r.newest()
}

const formField = `{"schema":`

// stamp writes the form into the JSON of a record.
func stamp(data []byte, form int) []byte {
	if form <= 1 {
		return data
	}
	out := strconv.AppendInt([]byte(formField), int64(form), 10)
	if !bytes.Equal(data, []byte("{}")) {
		out = append(out, ',')
	}
	return append(out, data[1:]...)
}

// formOf is the form that the JSON of a record says.
func formOf(data []byte) (int, error) {
	rest, ok := bytes.CutPrefix(data, []byte(formField))
	if !ok {
		return 1, nil
	}
	end := bytes.IndexAny(rest, ",}")
	if end < 0 {
		return 0, fmt.Errorf("its JSON is cut off: %w", mlaas.ErrInternal)
	}
	n, err := strconv.Atoi(string(rest[:end]))
	if err != nil || n < 1 {
		return 0, fmt.Errorf("its schema is %.20q, want a number: %w", rest[:end], mlaas.ErrInternal)
	}
	return n, nil
}

// upgraded is the JSON of a record in the newest form.
func (r Records[T]) upgraded(data []byte) ([]byte, error) {
	form, err := formOf(data)
	if err != nil || form == r.newest() {
		return data, err
	}
	if form > r.newest() {
		return nil, newer(r.Kind, form, r.newest())
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for ; form < r.newest(); form++ {
		if err := r.Upgrades[form-1](fields); err != nil {
			return nil, fmt.Errorf("from form %d to %d: %w", form, form+1, err)
		}
	}
	return json.Marshal(fields)
}

// mended is a record that cannot be read as it is, because of err.
func (r Records[T]) mended(data []byte, err error) (v T, _ error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil || r.Mend(fields) != nil {
		return v, err
	}
	text, wrong := json.Marshal(fields)
	if wrong != nil {
		return v, err
	}
	return v, json.Unmarshal(text, &v)
}

// legible takes code.composed away from the job spec in fields where it cannot
// be read: v0.1 took any JSON for it, and could not run it.
func legible(fields map[string]json.RawMessage) error {
	var code map[string]json.RawMessage
	if err := json.Unmarshal(fields["code"], &code); err != nil {
		return err
	}
	if json.Unmarshal(code["composed"], new(mlaas.Composed)) == nil {
		return nil
	}
	delete(code, "composed")
	text, err := json.Marshal(code)
	fields["code"] = text
	return err
}

// legibleRun is legible for the spec of a run.
func legibleRun(fields map[string]json.RawMessage) error {
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(fields["spec"], &spec); err != nil {
		return err
	}
	if err := legible(spec); err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	fields["spec"] = text
	return err
}

func newer(kind string, form, reads int) error {
	return fmt.Errorf("it was written by a newer mlaas (form %d of a %s; this one reads up to %d): use that version, or a newer one: %w", form, kind, reads, mlaas.ErrConflict)
}

// A Form is what one version of mlaas can do with the records of a kind.
type Form struct {
	Writes int `json:"writes"`
	Reads  int `json:"reads"` // up to this one
}

// Forms is what this version can do, by kind.
func Forms() map[string]Form {
	all := map[string]Form{}
	for _, r := range []interface {
		form() (kind string, writes, reads int)
	}{
		Jobs(nil), JobNames(nil), Versions(nil), Drafts(nil), Docs(nil), Runs(nil), RunStates(nil), Launches(nil), Ledgers(nil), Replicas(nil), Deliveries(nil), Executions(nil),
		Clusters(nil), ClusterSpecs(nil), ClusterKeys(nil), Checkpoints(nil), Datasets(nil), Locks(nil), Secrets(nil), Sessions(nil), Links(nil), Members(nil), Leases(nil), Series(nil), Shards(nil), Copyings(nil),
	} {
		kind, writes, reads := r.form()
		all[kind] = Form{writes, reads}
	}
	return all
}

// CheckForms reports whether this version can read records of these forms, by
// kind. It is mlaas.ErrConflict where it is too old, with a sentence.
func CheckForms(forms map[string]int) error { return checkForms(forms, Forms()) }

func checkForms(forms map[string]int, known map[string]Form) error {
	for kind, form := range forms {
		if reads := max(known[kind].Reads, 1); form > reads {
			return fmt.Errorf("the records of kind %s: %w", kind, newer(kind, form, reads))
		}
	}
	return nil
}

// A written is the record that says which forms a store may hold.
type written struct {
	Forms     map[string]int `json:"forms"`
	Restoring bool           `json:"restoring,omitempty"`
}

func writtens(db Driver) Records[written] {
	return Records[written]{DB: db, Kind: "schema", Key: func(written) (mlaas.Tenant, string) { return "", "forms" }}
}

// Admit is called before a process uses a store: it refuses one that a newer
// version wrote to in a form that this one cannot read, and says for others
// which forms this one writes.
func Admit(ctx context.Context, db Driver) error {
	return admit(ctx, db, Forms())
}

func admit(ctx context.Context, db Driver, known map[string]Form) error {
	for {
		w, rev, err := writtens(db).Get(ctx, "", "forms")
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return err
		}
		if w.Restoring {
			return fmt.Errorf("a backup is being restored into this store, or was not restored to its end: wait, or restore it again into another one: %w", mlaas.ErrConflict)
		}
		if err := checkForms(w.Forms, known); err != nil {
			return err
		}
		changed := false
		for kind, k := range known {
			if k.Writes > max(w.Forms[kind], 1) {
				if w.Forms == nil {
					w.Forms = map[string]int{}
				}
				w.Forms[kind], changed = k.Writes, true
			}
		}
		if !changed {
			return nil
		}
		if err := db.Commit(ctx, Batch{Put: []Row{writtens(db).Put(w, rev)}}); !errors.Is(err, mlaas.ErrConflict) {
			return err
		}
	}
}

// Restoring says of an empty store that it is half filled from now on: Admit
// refuses it until Restored is called.
func Restoring(ctx context.Context, db Driver) error {
	return db.Commit(ctx, Batch{Put: []Row{writtens(db).Put(written{Restoring: true}, 0)}})
}

// Restored says that a store has all that was to be put into it, in these forms.
func Restored(ctx context.Context, db Driver, forms map[string]int) error {
	_, rev, err := writtens(db).Get(ctx, "", "forms")
	if err != nil {
		return err
	}
	return db.Commit(ctx, Batch{Put: []Row{writtens(db).Put(written{Forms: forms}, rev)}})
}

// IsForms reports whether a row is the record that says which forms a store may
// hold: each store has its own.
func IsForms(r Row) bool { return r.Key == writtens(nil).Put(written{}, 0).Key }

// FormsOf says which form each kind has among rows, those of form 1 left away.
func FormsOf(rows ...Row) (map[string]int, error) {
	forms := map[string]int{}
	for _, r := range rows {
		form, err := formOf(r.Data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Key, err)
		}
		if form > 1 {
			forms[r.Key.Kind] = max(forms[r.Key.Kind], form)
		}
	}
	return forms, nil
}

// Kinds lists the kinds that Forms knows, in order.
func Kinds() (all []string) {
	for kind := range Forms() {
		all = append(all, kind)
	}
	slices.Sort(all)
	return all
}
