// Package template holds the starting points of jobs in guiding mode (paper
// figure 4.5): the user fills a few functions of model.py, and a main program
// trains with them, records, keeps checkpoints and goes on from the last one.
//
// A template is ordinary files, which run by hand, python main.py, and on the
// platform, which uses its own copy of all but the user's. It is pure: texts
// and nothing else.
package template

import (
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

//go:embed workflow.py */*.py */mlaas.yaml
var files embed.FS

// A Template is a starting point of a job.
type Template struct {
	Name      string            `json:"name" example:"keras"`
	Doc       string            `json:"doc" doc:"What it is, in a sentence"`
	Framework string            `json:"framework" doc:"Of its environment" example:"keras"`
	Files     map[string]string `json:"files" doc:"Texts by their paths; model.py is the one to change"`
}

// User is the file that is the user's own; the rest of a template is the
// engine's.
const User = "model.py"

// Entry is the file that is started.
const Entry = "main.py"

var all = []struct{ name, framework, doc string }{
	{"tf1", "tensorflow", "A graph and a session in the style of TensorFlow 1, as in the paper's figure 4.5"},
	{"keras", "keras", "A Keras 3 model, trained batch by batch"},
	{"torch", "pytorch", "A PyTorch module and its optimizer"},
	{"jax", "jax", "Parameters and a jitted step in JAX"},
}

// All lists the templates.
func All() []Template {
	var out []Template
	for _, t := range all {
		out = append(out, Template{Name: t.name, Doc: t.doc, Framework: t.framework, Files: texts(t.name)})
	}
	return out
}

// Find is the template of a name, an ErrNotFound where there is none.
func Find(name string) (Template, error) {
	var names []string
	for _, t := range All() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	return Template{}, fmt.Errorf("there is no template %q, there are %s: %w", name, strings.Join(names, ", "), mlaas.ErrNotFound)
}

// Main is the engine's part of guiding mode for an environment of framework:
// texts by their paths, of which [Entry] is started. It is an ErrInvalid where
// guiding mode is not for that framework.
func Main(framework string) (map[string]string, error) {
	var names []string
	for _, t := range all {
		if t.framework == framework {
			out := texts(t.name)
			maps.DeleteFunc(out, func(path, _ string) bool { return path == User || path == "mlaas.yaml" })
			return out, nil
		}
		names = append(names, t.framework)
	}
	return nil, mlaas.Invalid("environment.framework", "one that guiding mode is for: "+strings.Join(slices.Sorted(slices.Values(names)), ", "), framework)
}

func texts(name string) map[string]string {
	out := map[string]string{}
	for path, from := range map[string]string{"workflow.py": "workflow.py", Entry: name + "/" + Entry, User: name + "/" + User, "mlaas.yaml": name + "/mlaas.yaml"} {
		text, err := files.ReadFile(from)
		if err != nil {
			panic(err) // it is embedded: go build says so
		}
		out[path] = string(text)
	}
	return out
}
