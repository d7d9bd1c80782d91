package management

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/draft"
	"mlaas.dev/mlaas/store"
)

// opened opens the text of a file of a draft.
func (a *api) opened(job, path string) DocView {
	a.t.Helper()
	var v DocView
	if err := json.Unmarshal(a.do("POST", "/api/job/"+job+"/draft/open", map[string]any{"path": path}).want(200).Body, &v); err != nil {
		a.t.Fatal(err)
	}
	return v
}

func (a *api) pushed(job string, body map[string]any) Pushed {
	a.t.Helper()
	var p Pushed
	if err := json.Unmarshal(a.do("POST", "/api/job/"+job+"/draft/push", body).want(200).Body, &p); err != nil {
		a.t.Fatal(err)
	}
	return p
}

// edits is a push of one edit.
func edits(doc DocView, client, changes string) map[string]any {
	return map[string]any{"doc": doc.Doc, "version": doc.Version, "client": client, "name": client, "edits": []any{map[string]any{"client": client, "changes": json.RawMessage(changes)}}}
}

func TestDraft(t *testing.T) {
	a := start(t)
	a.ready("j")
	a.do("GET", "/api/job/j/draft", nil).want(200).is("base", 1).is("newest", 1).is("changed", false).is("files.0.path", "main.py")
	doc := a.opened("j", "main.py")
	if doc.Text != "print(1)\n" || doc.Version != 0 {
		t.Fatalf("%+v", doc)
	}
	first := edits(doc, "ann", `[6,[1,"2"],2]`)
	if p := a.pushed("j", first); !p.Taken || p.Version != 1 {
		t.Errorf("%+v", p)
	}
	if p := a.pushed("j", first); !p.Taken || p.Version != 1 { // her network gave up, and it came again
		t.Errorf("again: %+v", p)
	}
	if p := a.pushed("j", edits(doc, "bob", `[9,[0,"x"]]`)); p.Taken || !p.Known || len(p.Edits) != 1 || p.Edits[0].Client != "ann" {
		t.Errorf("who was slower: %+v", p)
	}
	a.do("POST", "/api/job/j/draft/push", edits(doc, "bob", `[9,[0,"x\ny"]]`)).want(200) // nothing is read of what is too old
	doc.Version = 1
	a.do("POST", "/api/job/j/draft/push", edits(doc, "bob", `[9,[0,"x\ny"]]`)).refuses(422, "invalid", "edits[0].changes[1][1]", "one line")
	a.do("POST", "/api/job/j/draft/push", edits(doc, "bob", `[90]`)).refuses(422, "invalid", "edits[0].changes[0]", "a place in the text")
	a.do("GET", "/api/job/j/draft", nil).is("changed", true).is("files.0.change", "edited").is("people.0.name", "ann").is("content", nil)
	var texts DraftView
	if err := json.Unmarshal(a.do("GET", "/api/job/j/draft?content=true", nil).Body, &texts); err != nil || texts.Content["main.py"] != "print(2)\n" {
		t.Errorf("%v, %q", err, texts.Content)
	}

	a.do("POST", "/api/job/j/draft/save", nil).want(201).is("version.id", "v2").is("draft.changed", false).is("draft.base", 2)
	a.do("POST", "/api/job/j/draft/save", nil).want(200).is("version.id", "v2") // nothing was edited
	if got := a.do("GET", "/api/job/j/code/v2/file/main.py", nil).want(200).Body; string(got) != "print(2)\n" {
		t.Errorf("v2 has %q", got)
	}
	// Who edits goes on where she was.
	if p := a.pushed("j", edits(doc, "ann", `[9,[0,"# more",""]]`)); !p.Taken {
		t.Errorf("%+v", p)
	}
	a.do("POST", "/api/job/j/draft/reset", `{"version": "v1"}`).want(200).is("changed", false).is("base", 1)
	if got := a.opened("j", "main.py"); got.Text != "print(1)\n" || got.Version != 3 || got.Doc != doc.Doc {
		t.Errorf("gone back: %+v", got)
	}
	a.do("POST", "/api/job/j/draft/save", nil).want(200).is("version.id", "v1").is("between", nil)
}

func TestDraftFiles(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "new"}`).want(201)
	a.do("POST", "/api/job/new/draft/save", nil).refuses(422, "invalid", "files", "at least one")
	a.do("POST", "/api/job/new/draft/file", `{"path": "main.py", "text": "a = 1\n"}`).want(200).is("files.0.change", "new").is("base", 0)
	a.do("POST", "/api/job/new/draft/file", `{"path": "main.py"}`).refuses(409, "conflict", "", "replace: true")
	a.do("POST", "/api/job/new/draft/file", `{"path": "../x"}`).want(422)
	a.do("POST", "/api/job/new/draft/file", `{"path": "MAIN.py"}`).want(422) // on some machines they are one
	a.do("POST", "/api/job/new/draft/file", map[string]any{"path": "x", "digest": "sha256:" + strings.Repeat("0", 64)}).refuses(422, "invalid", "digest", "PUT /api/blob")
	doc := a.opened("new", "main.py")
	a.do("POST", "/api/job/new/draft/rename", `{"from": "main.py", "to": "lib/m.py"}`).want(200).is("files.0.path", "lib/m.py").is("files.0.doc", doc.Doc)
	if p := a.pushed("new", edits(doc, "ann", `[6,[0,"b = 2",""]]`)); !p.Taken { // she had it open
		t.Errorf("%+v", p)
	}
	l := a.listen().subscribe(Subscription{ID: "d", Topic: "draft", Job: "new", Doc: doc.Doc})
	l.hears("snapshot: 1", "version")
	a.do("POST", "/api/job/new/draft/file", `{"path": "lib/m.py", "text": "a = 3\n", "replace": true}`).want(200)
	l.hears("delta: 2", "version")
	a.do("POST", "/api/job/new/draft/save", nil).want(201).is("version.files.0.path", "lib/m.py").is("version.size", "6")
	a.do("DELETE", "/api/job/new/draft/file/lib/m.py", nil).want(200).is("removed.0", "lib/m.py").is("changed", true)
	l.hears("delta: true", "gone")
	a.do("POST", "/api/job/new/draft/push", edits(doc, "ann", `[6,[0,"x"]]`)).refuses(410, "gone", "", "was removed")
	a.do("DELETE", "/api/job/new/draft/file/lib/m.py", nil).want(404)
	a.do("POST", "/api/job/new/draft/open", `{"path": "lib/m.py"}`).want(404)
	a.do("POST", "/api/job/new/draft/file", map[string]any{"path": "w.bin", "text": "\x00"}).want(200)
	a.do("POST", "/api/job/new/draft/open", `{"path": "w.bin"}`).refuses(422, "invalid", "path", "is text")
}

// A version that comes by a push is told to who edits, and taken in line by
// line or left; nothing is overwritten.
func TestDraftMerge(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j"}`).want(201)
	push := func(files map[string]string) {
		t.Helper()
		a.do("POST", "/api/job/j/code", map[string]any{"files": files}).want(201)
	}
	push(map[string]string{"main.py": "a\nb\nc\n", "lib.py": "x\n", "old.py": "o\n"})
	doc := a.opened("j", "main.py")
	l := a.listen().subscribe(Subscription{ID: "d", Topic: "draft", Job: "j"})
	l.hears("snapshot: 1 <nil> false", "base", "came", "changed")

	// Nothing is edited: the newest is what is opened.
	push(map[string]string{"main.py": "a\nb\nC\n", "lib.py": "x\n", "old.py": "o\n"})
	l.hears("delta: 1 2 false", "base", "came", "changed")
	if got := a.opened("j", "main.py"); got.Text != "a\nb\nC\n" || got.Version != 1 || got.Doc != doc.Doc {
		t.Errorf("%+v", got)
	}
	l.hears("delta: 2 <nil> false", "base", "came", "changed")

	doc.Version = 1
	a.pushed("j", edits(doc, "ann", `[0,[1,"A"],5]`))
	l.hears("delta: 2 <nil> true", "base", "came", "changed")
	push(map[string]string{"main.py": "a\nb\nc\n", "lib.py": "y\n", "new.py": "n\n"})
	l.hears("delta: 2 3 true", "base", "came", "changed")
	a.do("POST", "/api/job/j/draft/merge", `{"version": "v3"}`).want(200).is("draft.base", 3).is("says.0", nil).is("draft.files.1.path", "main.py").is("draft.files.2.path", "new.py").is("draft.came", nil)
	if got := a.opened("j", "main.py"); got.Text != "A\nb\nc\n" {
		t.Errorf("merged: %q", got.Text)
	}
	if got := a.opened("j", "lib.py"); got.Text != "y\n" {
		t.Errorf("lib.py: %q", got.Text)
	}

	push(map[string]string{"main.py": "Z\nb\nc\n"})
	a.do("POST", "/api/job/j/draft/merge", `{"version": "v4"}`).want(200).is("says.0", "main.py: 1 places were changed here and in v4; both stay, between <<<<<<< and >>>>>>>.")
	if got := a.opened("j", "main.py"); got.Text != "<<<<<<< the draft\nA\n=======\nZ\n>>>>>>> v4\nb\nc\n" {
		t.Errorf("in conflict: %q", got.Text)
	}
	push(map[string]string{"main.py": "alone\n"})
	a.do("POST", "/api/job/j/draft/merge", `{"version": "v5", "keep": true}`).want(200).is("draft.base", 4).is("draft.came", nil)

	// Saved over one that came: both are there, and it is said.
	push(map[string]string{"main.py": "alone again\n"})
	a.do("POST", "/api/job/j/draft/save", nil).want(201).is("version.id", "v7").is("between", 6)
}

// Eight who type into one text at once end with the same text, with each
// letter in it once.
func TestDraftTogether(t *testing.T) {
	a := start(t)
	a.ready("j")
	doc := a.opened("j", "main.py")
	const people, each = 8, 20
	var all sync.WaitGroup
	for p := range people {
		all.Go(func() {
			text, version, dice := doc.Text, doc.Version, rand.New(rand.NewPCG(1, uint64(p)))
			for n := range each {
				letter := fmt.Sprintf("<%d.%d>", p, n)
				for {
					at := dice.IntN(draft.Units(text) + 1)
					body := edits(DocView{Doc: doc.Doc, Version: version}, fmt.Sprint("p", p), fmt.Sprintf(`[%d,[0,%q],%d]`, at, letter, draft.Units(text)-at))
					r := a.do("POST", "/api/job/j/draft/push", body)
					var got Pushed
					if err := json.Unmarshal(r.Body, &got); err != nil || r.Status != 200 {
						t.Errorf("%d %s", r.Status, r.Body)
						return
					}
					for _, e := range got.Edits {
						var err error
						if text, err = draft.Apply(text, e.Changes); err != nil {
							t.Error(err)
							return
						}
					}
					if version = got.Version; got.Taken {
						break
					}
				}
			}
		})
	}
	all.Wait()
	got := a.opened("j", "main.py")
	if got.Version != people*each {
		t.Errorf("version %d after %d edits", got.Version, people*each)
	}
	// Others may have typed into the middle of what one typed: the letters are all there.
	letters := map[rune]int{}
	for _, r := range got.Text {
		letters[r]++
	}
	if letters['<'] != people*each || letters['>'] != people*each || letters['.'] != people*each {
		t.Errorf("%q lacks what was typed, or has it twice", got.Text)
	}
}

// A text that people edit is part of what is purged with a job, and what it
// names is kept until then.
func TestDraftIsCollected(t *testing.T) {
	a := start(t)
	id := a.ready("j")
	a.do("POST", "/api/job/j/draft/file", `{"path": "only.py", "text": "here"}`).want(200)
	a.opened("j", "main.py")
	a.later(48 * 60 * 60e9)
	if _, err := a.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.do("POST", "/api/job/j/draft/save", nil).want(201)
	a.do("DELETE", "/api/job/j", nil).want(204)
	a.later(8 * 24 * 60 * 60e9)
	if _, err := a.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"draft", "doc"} {
		rows, _, err := a.DB.List(t.Context(), store.Query{Kind: kind, Tenant: mlaas.DefaultTenant, Prefix: id})
		if err != nil || len(rows) > 0 {
			t.Errorf("%d of kind %s are left, %v", len(rows), kind, err)
		}
	}
}
