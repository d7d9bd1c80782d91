package management

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/template"
)

const digits = `"data": [{"name": "d", "source": "https://example.com/d.npz"}], "code": {"composed": {"backend": "tf1",
	"input": {"data": "d", "format": "npz", "shape": [784]}, "hidden_layers": [{"neurons": 500, "activation": "relu", "learning_rate": 0.1}], "output": {"neurons": 10, "type": "sgd"}}}`

// Every way of making code trackable can be run, where the code is for it.
func TestModes(t *testing.T) {
	a := start(t)
	for _, mode := range mlaas.Modes {
		spec := fmt.Sprintf(`{"name": "m-%s", "environment": {"framework": "tensorflow"}, "code": {"mode": "%[1]s"}}`, mode)
		if mode == "composed" {
			a.do("POST", "/api/job", spec).refuses(422, "invalid", "code.composed", "mode composed has no other code")
			a.do("POST", "/api/job", `{"name": "m-composed", `+digits+`}`).want(201).is("code.mode", "composed").is("environment.framework", "tensorflow")
		} else {
			a.do("POST", "/api/job", spec).want(201)
			a.do("POST", "/api/job/m-"+mode+"/code", `{"files": {"main.py": "print(1)", "model.py": "def define_model(): pass"}}`).want(201)
		}
		a.do("POST", "/api/job/m-"+mode+"/run", nil).want(202).is("spec.code.mode", mode).is("version.entry", "main.py")
	}
	a.do("POST", "/api/job", `{"name": "g", "code": {"mode": "guiding"}}`).want(201)
	a.do("POST", "/api/job/g/code", `{"files": {"train.py": "print(1)"}}`).want(201)
	a.do("POST", "/api/job/g/run", nil).refuses(422, "invalid", "environment.framework", "one that guiding mode is for: jax, keras, pytorch, tensorflow")
	a.do("PATCH", "/api/job/g", `{"environment": {"framework": "tensorflow"}}`).want(200)
	a.do("POST", "/api/job/g/run", nil).refuses(422, "invalid", "code.mode", "a file model.py, which has the functions of guiding mode: v1 has train.py")
}

// A composed job is run without any code being sent: its program is a version.
func TestComposed(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", `+digits+`}`).want(201)
	run := a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v1").is("version.entry", "main.py").is("spec.code.version", "v1")
	if !strings.HasPrefix(run.get("version.bundle").(string), "sha256:") {
		t.Errorf("the run has no code: %s", run.Body)
	}
	text := string(a.do("GET", "/api/job/j/code/v1/file/main.py", nil).want(200).Body)
	if !strings.Contains(text, `dense(h, "layer1", 500)`) {
		t.Errorf("its program is\n%s", text)
	}
	// The same network is the same version; another is the next.
	a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v1").is("number", 2)
	a.do("PATCH", "/api/job/j", `{"code": {"composed": {"hidden_layers": [{"neurons": 30}]}}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v2").is("number", 3)
	a.do("POST", "/api/job/j/run", `{"version": "v1", "parameters": {"epochs": 1}}`).want(202).is("version.id", "v1").is("spec.code.composed.hidden_layers.0.neurons", 30)
	a.do("GET", "/api/job/j", nil).want(200).is("versions", 2).is("runs", 4)

	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "print(1)"}}`).refuses(409, "conflict", "", "mlaas code eject j")
	a.do("PATCH", "/api/job/j", `{"code": {"composed": {"hidden_layers": [{"neurons": 30, "nurons": 3}]}}}`).refuses(422, "invalid", "code.composed.hidden_layers[0].nurons", "want neurons")
	a.do("PATCH", "/api/job/j", `{"code": {"composed": {"input": {"shape": [28, 28]}}}}`).refuses(422, "invalid", "code.composed.hidden_layers[0]", "put {type: flatten} before it")
	a.do("PATCH", "/api/job/j", `{"environment": {"framework": "python"}}`).refuses(422, "invalid", "environment.framework", "tensorflow, which backend tf1 needs")
	a.do("PATCH", "/api/job/j", `{"execution": {"command": ["python", "main.py"]}}`).refuses(422, "invalid", "execution.command", "its program is the one that is written")
}

func TestEject(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", `+digits+`}`).want(201)
	a.do("POST", "/api/job/j/eject", nil, "If-Match", `"7"`).refuses(412, "stale", "", "revision 1")
	r := a.do("POST", "/api/job/j/eject", nil).want(200).is("version.id", "v1").is("job.code.mode", "plain").is("job.code.composed", nil).is("job.versions", 1)
	if !strings.Contains(string(r.Body), `"main.py"`) {
		t.Errorf("%s", r.Body)
	}
	a.do("POST", "/api/job/j/eject", nil).refuses(409, "conflict", "", "is of mode plain")
	// From then on it is code as any other.
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "print(1)"}}`).want(201).is("id", "v2")
	a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v2")

	// A network that was composed before, and another since: it is the newest again.
	a.do("POST", "/api/job", `{"name": "k", `+digits+`}`).want(201)
	a.do("POST", "/api/job/k/run", nil).want(202).is("version.id", "v1")
	a.do("PATCH", "/api/job/k", `{"code": {"composed": {"epochs": 9}}}`).want(200)
	a.do("POST", "/api/job/k/run", nil).want(202).is("version.id", "v2")
	a.do("PATCH", "/api/job/k", `{"code": {"composed": {"epochs": null}}}`).want(200)
	a.do("POST", "/api/job/k/eject", nil).want(200).is("version.id", "v3")
	a.do("POST", "/api/job/k/run", nil).want(202).is("version.id", "v3")
}

// What a page that builds a network asks while its user types.
func TestComposeLive(t *testing.T) {
	a := start(t)
	r := a.do("POST", "/api/compose", `{`+digits+`}`).want(200)
	r.is("parameters", 397510).is("layers.1.shape", []any{500}).is("layers.1.parameters", 392500).is("messages", []any{}).is("entry", "main.py")
	for _, file := range []string{"main.py", "data.py"} {
		if text, _ := r.get("code").(map[string]any)[file].(string); !strings.Contains(text, "Written by mlaas") {
			t.Errorf("%s is %q", file, text)
		}
	}
	// What is wrong is the answer, beside what is known.
	r = a.do("POST", "/api/compose", strings.ReplaceAll(`{`+digits+`}`, "[784]", "[28, 28]")).want(200)
	r.is("messages.0.field", "hidden_layers[0]").is("layers.2.parameters", 5010).is("code", map[string]any{})
	if backend := a.do("POST", "/api/compose", strings.ReplaceAll(`{`+digits+`}`, "tf1", "pytorch")).want(200).get("code").(map[string]any)["main.py"].(string); !strings.Contains(backend, "import torch") {
		t.Errorf("for PyTorch it is\n%s", backend)
	}
	a.do("POST", "/api/compose", `{"name": "x"}`).refuses(422, "invalid", "code.composed", "the network")
	a.do("POST", "/api/compose", strings.ReplaceAll(`{`+digits+`}`, `"shape"`, `"shap"`)).refuses(422, "invalid", "code.composed.input.shap", "want shape")
	a.do("GET", "/api/job", nil).want(200).is("items", []any{})
}

// What a network does not say of its input, its dataset does, once it is here.
func TestComposedLooks(t *testing.T) {
	a := start(t)
	table := strings.ReplaceAll(strings.ReplaceAll(`{"name": "j", `+digits+`}`, "https://example.com/d.npz", "dataset:houses"), `"format": "npz", "shape": [784]`, `"target": "kind"`)
	a.do("POST", "/api/job", table).refuses(422, "invalid", "code.composed.input.format", "one of idx, npz")
	a.do("POST", "/api/dataset/houses", `{"files": {"houses.csv": "area,age,rooms,kind\n1,2,3,a\n"}}`).want(201)
	a.do("POST", "/api/job", table).want(201).is("code.composed.input.shape", nil)
	a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v1")
	if text := string(a.do("GET", "/api/job/j/code/v1/file/data.py", nil).want(200).Body); !strings.Contains(text, "SHAPE = (3,)") {
		t.Errorf("it reads\n%s", text)
	}
	a.do("POST", "/api/compose", table).want(200).is("layers.0.type", "csv").is("layers.0.shape", []any{3}).is("parameters", 2000+5010)
	r := a.do("POST", "/api/compose", strings.ReplaceAll(table, `"kind"`, `"kid"`)).want(200)
	r.is("messages.0.field", "input.target").is("code", map[string]any{})
	a.do("PATCH", "/api/job/j", `{"code": {"composed": {"input": {"target": "kid"}}}}`).refuses(422, "invalid", "code.composed.input.target", "one of the columns of the data: area, age, rooms, kind")
}

func TestTemplates(t *testing.T) {
	a := start(t)
	r := a.do("GET", "/api/template", nil).want(200).is("items.0.name", "tf1").is("next_page_token", "")
	var names []string
	for _, item := range r.get("items").([]any) {
		files := item.(map[string]any)["files"].(map[string]any)
		for _, file := range []string{template.User, template.Entry, "workflow.py", "mlaas.yaml"} {
			if text, _ := files[file].(string); text == "" {
				t.Errorf("%v has no %s", item, file)
			}
		}
		names = append(names, item.(map[string]any)["name"].(string))
	}
	if want := []string{"tf1", "keras", "torch", "jax"}; !slices.Equal(names, want) {
		t.Errorf("templates %v, want %v", names, want)
	}
}
