package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A pet through three versions: the first has a name; the second, which is in
// two releases, splits it in two; the third counts its legs.
type (
	pet1 struct {
		Name string `json:"name"`
	}
	pet2 struct {
		First string `json:"first"`
		Last  string `json:"last"`
		Mood  string `json:"mood,omitempty"` // added without a new form
	}
	pet3 struct {
		First, Last string
		Legs        int
	}
)

func split(fields map[string]json.RawMessage) error {
	var name string
	if err := json.Unmarshal(fields["name"], &name); err != nil {
		return err
	}
	first, last, _ := strings.Cut(name, " ")
	delete(fields, "name")
	fields["first"], _ = json.Marshal(first)
	fields["last"], _ = json.Marshal(last)
	return nil
}

func walk(fields map[string]json.RawMessage) error {
	fields["legs"] = json.RawMessage("4")
	return nil
}

func pets[T any](db store.Driver, writes int, upgrades ...store.Upgrade) store.Records[T] {
	return store.Records[T]{DB: db, Kind: "pet", Key: func(T) (mlaas.Tenant, string) { return "", "rex" }, Writes: writes, Upgrades: upgrades}
}

func TestForms(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	commit := func(row store.Row) {
		t.Helper()
		if err := db.Commit(ctx, store.Batch{Put: []store.Row{row}}); err != nil {
			t.Fatal(err)
		}
	}
	first, reads2, writes2, third := pets[pet1](db, 0), pets[pet2](db, 0, split), pets[pet2](db, 2, split), pets[pet3](db, 3, split, walk)
	commit(first.Put(pet1{"Rex Hound"}, 0))
	if p, _, err := reads2.Get(ctx, "", "rex"); err != nil || p != (pet2{"Rex", "Hound", ""}) {
		t.Errorf("the next version reads %+v, %v", p, err)
	}
	if p, _, err := third.Get(ctx, "", "rex"); err != nil || p != (pet3{"Rex", "Hound", 4}) {
		t.Errorf("the one after it reads %+v, %v", p, err)
	}
	commit(writes2.Put(pet2{"Rex", "Hound", "happy"}, 1))
	row, err := db.Get(ctx, store.Key{Kind: "pet", ID: "rex"})
	if err != nil || string(row.Data) != `{"schema":2,"first":"Rex","last":"Hound","mood":"happy"}` {
		t.Errorf("it is written as %s, %v", row.Data, err)
	}
	if p, _, err := reads2.Get(ctx, "", "rex"); err != nil || p != (pet2{"Rex", "Hound", "happy"}) {
		t.Errorf("the release before reads %+v, %v", p, err)
	}
	if p, _, err := third.Get(ctx, "", "rex"); err != nil || p.Legs != 4 {
		t.Errorf("the version after it reads %+v, %v", p, err)
	}
	if _, _, err := first.Get(ctx, "", "rex"); !errors.Is(err, mlaas.ErrConflict) || err.Error() != "pet rex: it was written by a newer mlaas (form 2 of a pet; this one reads up to 1): use that version, or a newer one: conflict" {
		t.Errorf("two versions before says %v", err)
	}
	if forms, err := store.FormsOf(row); err != nil || forms["pet"] != 2 {
		t.Errorf("its form is %v, %v", forms, err)
	}
	for _, broken := range []string{`{"schema":`, `{"schema":"x"}`, `{"schema":0}`} {
		commit(store.Row{Key: row.Key, Rev: row.Rev, Data: []byte(broken)})
		row.Rev++
		if _, _, err := third.Get(ctx, "", "rex"); err == nil {
			t.Errorf("%s is read", broken)
		}
	}
}

// Every kind of records.go is in Forms.
func TestKinds(t *testing.T) {
	src, err := os.ReadFile("records.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := store.Kinds()
	found := regexp.MustCompile(`Kind: "([a-z]+)"`).FindAllStringSubmatch(string(src), -1)
	for _, f := range found {
		if !slices.Contains(kinds, f[1]) {
			t.Errorf("Forms does not know %s", f[1])
		}
	}
	if len(found) != len(kinds) {
		t.Errorf("there are %d kinds in records.go, %d in Forms", len(found), len(kinds))
	}
}

func TestAdmit(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 2 {
		if err := store.Admit(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		forms string
		says  string
	}{
		{`{"forms":{"job":1}}`, ""},
		{`{"forms":{"job":9}}`, "the records of kind job: it was written by a newer mlaas (form 9 of a job; this one reads up to 1)"},
		{`{"forms":{"spaceship":2}}`, "form 2 of a spaceship"},
	}
	key := store.Key{Kind: "schema", ID: "forms"}
	for _, tt := range tests {
		old, err := db.Get(context.Background(), key)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			t.Fatal(err)
		}
		if err := db.Commit(t.Context(), store.Batch{Put: []store.Row{{Key: key, Rev: old.Rev, Data: []byte(tt.forms)}}}); err != nil {
			t.Fatal(err)
		}
		err = store.Admit(t.Context(), db)
		if tt.says == "" && err != nil || tt.says != "" && (!errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v, want %q", tt.forms, err, tt.says)
		}
	}
	if err := store.CheckForms(map[string]int{"run": 2}); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("a newer form is let in: %v", err)
	}
}

// While a store is being filled nobody may use it, and afterwards it says which
// forms are in it.
func TestRestoring(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := store.Restoring(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := store.Admit(t.Context(), db); !errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), "not restored to its end") {
		t.Errorf("half filled it is admitted: %v", err)
	}
	if err := store.Restored(t.Context(), db, map[string]int{"run": 1}); err != nil {
		t.Fatal(err)
	}
	if err := store.Admit(t.Context(), db); err != nil {
		t.Errorf("filled: %v", err)
	}
	if err := store.Restoring(t.Context(), db); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("filled again: %v", err)
	}
}

// v0.1 took any JSON as a composed network. What is none now is left out, and
// the rest of the job or run is read.
func TestOldComposed(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const code = `{"mode": "composed", "composed": {"hidden_layers": [500], "loss": "x"}}`
	err = db.Commit(t.Context(), store.Batch{Put: []store.Row{
		{Key: store.Key{Kind: "job", Tenant: "t", ID: "j"}, Data: []byte(`{"id": "j", "name": "net", "code": ` + code + `}`)},
		{Key: store.Key{Kind: "run", Tenant: "t", ID: "r"}, Data: []byte(`{"id": "r", "spec": {"name": "net", "code": ` + code + `}}`)},
		{Key: store.Key{Kind: "job", Tenant: "t", ID: "broken"}, Data: []byte(`{"id": "broken", "name": 5, "code": ` + code + `}`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	j, _, err := store.Jobs(db).Get(t.Context(), "t", "j")
	if err != nil || j.Name != "net" || j.Code.Mode != "composed" || j.Code.Composed != nil {
		t.Errorf("the job is %+v, %v", j.Code, err)
	}
	r, _, err := store.Runs(db).Get(t.Context(), "t", "r")
	if err != nil || r.Spec.Name != "net" || r.Spec.Code.Composed != nil {
		t.Errorf("the run is %+v, %v", r.Spec.Code, err)
	}
	if _, _, err := store.Jobs(db).Get(t.Context(), "t", "broken"); err == nil {
		t.Error("a job whose name is a number was read")
	}
}
