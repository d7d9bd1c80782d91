package prepare_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor/prepare"
)

// preparer is a real Python with the real package.
func preparer(t *testing.T, dir string) prepare.Preparer {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	library, err := filepath.Abs("../../python")
	if err != nil {
		t.Fatal(err)
	}
	return prepare.Preparer{Python: python, Library: library, Run: prepare.Sandbox{Dir: dir}.Run}
}

func code(t *testing.T, files map[string]string) (dir string, tree mlaas.Tree) {
	t.Helper()
	dir = t.TempDir()
	var changes []mlaas.Change
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		changes = append(changes, mlaas.Change{Path: name, Content: []byte(text)})
	}
	return dir, mlaas.Tree{}.With(changes)
}

var annotated = &mlaas.Recipe{Version: mlaas.RecipeVersion, Mode: "annotation", Entry: "main.py", Marks: mlaas.MarksVersion}

func TestApply(t *testing.T) {
	// What is called like a module of Python must not be taken for it.
	dir, tree := code(t, map[string]string{"main.py": "#@define: m\nm()\n", "ast.py": "raise SystemExit('run')\n", "json.py": "raise SystemExit('run')\n", "data.txt": "#@define: x\n"})
	out, err := preparer(t, dir).Apply(t.Context(), dir, tree, annotated)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Changes) != 1 || out.Changes[0].Path != "main.py" || string(out.Changes[0].Content) != "__import__(\"mlaas\").track(m)  #@define: m\nm()\n" {
		t.Fatalf("%+v", out)
	}
	if out.Files != 1 || out.Marks != 1 || !strings.HasPrefix(out.Python, "3.") {
		t.Errorf("%+v", out.Prepared)
	}
	_, after := code(t, map[string]string{"main.py": string(out.Changes[0].Content), "ast.py": "raise SystemExit('run')\n", "json.py": "raise SystemExit('run')\n", "data.txt": "#@define: x\n"})
	if out.Digest != after.Digest() || out.Digest == tree.Digest() {
		t.Errorf("the digest is %s, that of the folder would be %s", out.Digest, after.Digest())
	}
}

func TestApplyRefuses(t *testing.T) {
	dir, tree := code(t, map[string]string{"main.py": "x = 1\n  #@defin: m\nm()\n"})
	_, err := preparer(t, dir).Apply(t.Context(), dir, tree, annotated)
	want := "main.py:2:3: there is no mark #@defin: write #@define, as in #@define: model, session"
	if !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	for name, recipe := range map[string]*mlaas.Recipe{
		"the recipe has version 2": {Version: 2, Marks: 1},
		`recipe.files is "../x"`:   {Version: 1, Files: map[string]string{"../x": ""}},
		"the marks have version 9": {Version: 1, Marks: 9},
	} {
		if _, err := preparer(t, dir).Apply(t.Context(), dir, tree, recipe); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
}

func TestApplyFails(t *testing.T) {
	dir, tree := code(t, map[string]string{"main.py": "#@define: m\nm()\n"})
	p := preparer(t, dir)
	p.Library = dir
	if _, err := p.Apply(t.Context(), dir, tree, annotated); err == nil || !strings.Contains(err.Error(), "_prepare.py") {
		t.Errorf("without the package: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := preparer(t, dir).Apply(ctx, dir, tree, annotated); err == nil || err.Error() != "enough" {
		t.Errorf("after the end: %v", err)
	}
}
