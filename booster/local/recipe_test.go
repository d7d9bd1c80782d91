//go:build linux

package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/local"
	"mlaas.dev/mlaas/supervisor"
	"mlaas.dev/mlaas/supervisor/prepare"
)

func annotated(_ *booster.Spec, s *mlaas.Start) {
	s.Recipe = &mlaas.Recipe{Version: mlaas.RecipeVersion, Mode: "annotation", Entry: "main.py", Marks: mlaas.MarksVersion}
}

// Marks become calls before the program starts, on the lines where they stood;
// what was written is kept, and every replica says the same digest.
func TestRecipe(t *testing.T) {
	b := newBench(t)
	program := `import os
acc = 0.5
#@evaluate: acc
import part
print(open(__file__).read().splitlines()[2])
print(open("part.py").read().splitlines()[1])
print(os.path.exists("../original"))
part.f()
`
	with := func(_ *booster.Spec, s *mlaas.Start) {
		s.Bundle = b.tree(map[string]string{"main.py": program, "part.py": "def f():\n    #@step: x\n    raise ValueError('bad')\nx = 1\n", "data.txt": "#@step: x\n"})
	}
	f, other := b.run("", annotated, with), b.run("", annotated, with)
	r := b.final(f)
	want := "__import__(\"mlaas\").mark.evaluate({\"acc\": acc})  #@evaluate: acc\n    __import__(\"mlaas\").mark.step({\"x\": x})  #@step: x\n"
	if b.enforced("see what it sees") {
		want += "False\n" // what was written is not the program's
	} else {
		want += "True\n"
	}
	if got := r.text("stdout"); got != want {
		t.Errorf("stdout is %q, want %q", got, want)
	}
	if !strings.Contains(r.text("stderr"), `part.py", line 3, in f`) {
		t.Errorf("the traceback is\n%s", r.text("stderr"))
	}
	keys := []string{}
	for _, p := range r.points {
		keys = append(keys, p.Key)
	}
	if strings.Join(keys, " ") != "eval/acc x" {
		t.Errorf("points are %+v", r.points)
	}
	p := r.phase().Prepared
	if p == nil || p.Files != 2 || p.Marks != 2 || !strings.HasPrefix(p.Python, "3.") {
		t.Fatalf("prepared is %+v", p)
	}
	if q := b.final(other).phase().Prepared; q == nil || *q != *p {
		t.Errorf("another replica says %+v, want %+v", q, p)
	}
	folder := filepath.Join(b.dir, "replicas", f.String(), supervisor.OriginalDir)
	if data, err := os.ReadFile(filepath.Join(folder, "main.py")); err != nil || string(data) != program {
		t.Errorf("what was written: %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "data.txt")); err == nil {
		t.Error("what no recipe changes is kept twice")
	}
}

func TestRecipeFiles(t *testing.T) {
	b := newBench(t)
	r := b.succeeded(b.run("print('mine')", func(_ *booster.Spec, s *mlaas.Start) {
		s.Recipe = &mlaas.Recipe{Version: mlaas.RecipeVersion, Mode: "guiding", Files: map[string]string{"main.py": "import sub.x\n", "sub/x.py": "print('generated')\n"}}
	}))
	if got := r.text("stdout"); got != "generated\n" {
		t.Errorf("stdout is %q", got)
	}
}

func TestRecipeRefused(t *testing.T) {
	b := newBench(t)
	for want, program := range map[string]string{
		"its code cannot be prepared: main.py:2:1: #@define has no colon behind its name: write it as in #@define: model, session: invalid":                           "x = 1\n#@define m\ny = 2\n",
		"its code cannot be prepared: main.py:1:2: it does not parse ('(' was never closed): mend it: marks are read only in a program that Python can read: invalid": "x(\n#@define: m\n",
	} {
		p := b.final(b.run(program, annotated)).phase()
		if p.Status != mlaas.ReplicaFailed || p.Program || p.Reason != want {
			t.Errorf("%s: %q, want %q", p.Status, p.Reason, want)
		}
	}
}

// What reads code for a preview sees that code and nothing else of the machine.
func TestBox(t *testing.T) {
	b := newBench(t)
	box, err := local.NewBox(filepath.Join(b.dir, "preview"), self())
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if len(box.Enter) == 0 {
		t.Skip("there are no sandboxes here")
	}
	if err := os.WriteFile(filepath.Join(box.Code, "main.py"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	python, prefix, _ := strings.Cut(os.Getenv("TEST_PYTHON"), ":")
	sandbox := prepare.Sandbox{Enter: box.Enter, See: []string{prefix}, Dir: box.Code}
	out, err := sandbox.Run(t.Context(), []string{python, "-I", "-c", `
import os, socket, sys
print(sys.stdin.read(), os.listdir("."), os.getuid() != 0, os.path.exists("` + b.dir + `/replicas"), [n for _, n in socket.if_nameindex()], os.access(".", os.W_OK))
`}, []byte("in"))
	if want := "in ['main.py'] True False ['lo'] False\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	_, err = sandbox.Run(t.Context(), []string{python, "-c", "raise SystemExit('no')"}, nil)
	if exit, ok := errors.AsType[*prepare.Exit](err); !ok || exit.Code != 1 || exit.Error() != "no" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	went := make(chan error)
	go func() {
		_, err := sandbox.Run(ctx, []string{python, "-c", "import time; time.sleep(600)"}, nil)
		went <- err
	}()
	cancel(errors.New("enough"))
	if err := <-went; err == nil || err.Error() != "enough" {
		t.Errorf("%v", err)
	}
	box.Close()
	if entries, err := os.ReadDir(filepath.Join(b.dir, "preview")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
