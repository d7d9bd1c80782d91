package mlaas_test

import (
	"errors"
	"testing"

	"mlaas.dev/mlaas"
)

func TestRefused(t *testing.T) {
	if err := mlaas.Refused(nil); err != nil {
		t.Errorf("nothing is refused: %v", err)
	}
	all := []mlaas.Refusal{
		{Path: "a.py", Line: 3, Column: 5, What: "a mark stands inside brackets", Remedy: "put it before the statement"},
		{Path: "b.py", What: "its encoding cannot be read", Remedy: "save it as UTF-8"},
		{Path: "c.py", Line: 1, Column: 1, What: "x", Remedy: "y"}, {Path: "d.py"}, {Path: "e.py"},
	}
	err := mlaas.Refused(all)
	want := "a.py:3:5: a mark stands inside brackets: put it before the statement; b.py: its encoding cannot be read: save it as UTF-8; c.py:1:1: x: y; and 2 more"
	if !errors.Is(err, mlaas.ErrInvalid) || err.Error() != want+": invalid" {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestTreeWith(t *testing.T) {
	tree := mlaas.Tree{}.With([]mlaas.Change{{Path: "b.py", Content: []byte("b")}, {Path: "a.sh", Content: []byte("a")}})
	tree.Files[0].Exec = true
	got := tree.With([]mlaas.Change{{Path: "a.sh", Content: []byte("other")}, {Path: "c.py", New: true}})
	if len(got.Files) != 3 || got.Files[0].Path != "a.sh" || !got.Files[0].Exec || got.Files[0].Size != 5 || got.Files[1] != tree.Files[1] || got.Files[2].Path != "c.py" {
		t.Errorf("%+v", got)
	}
	if got.Digest() == tree.Digest() || tree.Digest() != tree.With(nil).Digest() {
		t.Error("a tree is named by what is in it")
	}
}

func TestHooked(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		code mlaas.Code
		want bool
	}{
		{mlaas.Code{Mode: "plain"}, false}, {mlaas.Code{Mode: "nonintrusive"}, true}, {mlaas.Code{Mode: "annotation", Hooks: &yes}, true},
		{mlaas.Code{Mode: "annotation", Hooks: &no}, false}, {mlaas.Code{}, false},
	} {
		if got := tt.code.Hooked(); got != tt.want {
			t.Errorf("%+v is hooked: %t", tt.code, got)
		}
	}
}
