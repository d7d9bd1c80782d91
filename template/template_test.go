package template_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/template"
)

var update = flag.Bool("update", false, "write the copies in the examples anew")

func TestTemplates(t *testing.T) {
	for _, one := range template.All() {
		found, err := template.Find(one.Name)
		if err != nil || len(found.Files) != 4 {
			t.Errorf("%s: %d files, %v", one.Name, len(found.Files), err)
		}
		main, err := template.Main(one.Framework)
		if err != nil {
			t.Fatal(err)
		}
		if len(main) != 2 || main[template.Entry] != one.Files[template.Entry] || main[template.User] != "" {
			t.Errorf("the engine's part for %s is not the template's without the user's: %d files", one.Framework, len(main))
		}
		if !strings.Contains(one.Files["mlaas.yaml"], "framework: "+one.Framework+"\n") || !strings.Contains(one.Files["mlaas.yaml"], "mode: guiding\n") {
			t.Errorf("mlaas.yaml of %s is\n%s", one.Name, one.Files["mlaas.yaml"])
		}
		for _, f := range []string{"define_model()", "setup_train(model)", "step_train(model, env)", "evaluate(model, env)"} {
			if !strings.Contains(one.Files[template.User], "\ndef "+f+":\n") {
				t.Errorf("model.py of %s has no %s", one.Name, f)
			}
		}
	}
	if _, err := template.Find("theano"); !errors.Is(err, mlaas.ErrNotFound) || !strings.Contains(err.Error(), "there are tf1, keras, torch, jax") {
		t.Errorf("a template that is not there: %v", err)
	}
	if _, err := template.Main("xgboost"); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("a framework without a main program: %v", err)
	}
}

// The examples are complete, so that they run by hand: what of them is the
// engine's is a copy.
func TestExamples(t *testing.T) {
	for _, one := range template.All() {
		main, err := template.Main(one.Framework)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range main {
			file := filepath.Join("..", "examples", "gallery", one.Name+"-guiding", name)
			if *update {
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("%s is no copy any more; -update makes it one (-want +got):\n%s", file, diff)
			}
		}
	}
}
