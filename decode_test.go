package mlaas

import (
	"errors"
	"strings"
	"testing"
)

func TestReadJob(t *testing.T) {
	tests := []struct{ body, field, says string }{
		{`{"name": "a"}`, "", ""},
		{`{"name": "a", "roles": {"worker": {"cpu": 0.3, "memory": 1610612736, "gpu": 1, "replicas": 4}}}`, "", ""},
		{`{"name": "a", "roles": {"worker": {"cpu": "300m", "memory": "1.5Gi", "gpu": {"count": 1, "kind": "h200"}, "replicas": {"min": 1, "max": 2}}}}`, "", ""},
		{`{"name": "a", "nmae": "b"}`, "nmae", "nmae is not a field, want name"},
		{`{"name": "a", "execution": {"comand": []}}`, "execution.comand", "execution.comand is not a field, want command"},
		{`{"name": "a", "zzzzzzzz": 1}`, "zzzzzzzz", "one of code, data, environment"},
		{`{"name": 3}`, "name", "name is 3, want a text"},
		{`{"name": "a", "roles": []}`, "roles", "roles is a list, want an object"},
		{`{"name": "a", "roles": {"worker": {"cpu": "lots"}}}`, "roles.worker.cpu", `roles.worker.cpu is "lots", want cores such as 0.3`},
		{`{"name": "a", "roles": {"worker": {"cpu": true}}}`, "roles.worker.cpu", "want cores"},
		{`{"name": "a", "roles": {"worker": {"replicas": {"min": 1, "maximum": 2}}}}`, "roles.worker.replicas", "want N"},
		{`{"name": "a", "data": [{"name": "x", "source": 7}]}`, "data[0].source", "data[0].source is 7, want a text"},
		{`{"name": "a", "environment": {"packages": "numpy"}}`, "environment.packages", `environment.packages is "numpy", want a list`},
		{`{"name": "a", "execution": {"priority": 1.5}}`, "execution.priority", "want a whole number"},
		{`{"name": "a", "roles": {"worker": {"replicas": null, "cpu": null, "memory": null, "gpu": null}}}`, "", ""},
		{`{"name": "a", "execution": {"timeout": null, "grace": null, "priority": null}}`, "", ""},
		{`{"name": "a", "roles": {"worker": {"replicas": ""}}}`, "roles.worker.replicas", "want a number such as 4"},
		{`{"name": "a", "environment": {"python": "3.11"}}`, "", ""},
		{`{"name": "a", "environment": {"python": "../3.11"}}`, "environment.python", `want a version such as 3.11`},
		{`{"name": "a", "environment": {"python": "2.7"}}`, "environment.python", `want a version such as 3.11`},
		{`{"name": "a", "rules": [{"name": "r", "on": {"log": "("}, "do": "stop"}]}`, "rules[0].on.log", "want a regular expression (RE2)"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"status": "asleep"}, "do": "stop"}]}`, "rules[0].on.status", "want one of wanted, creating"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"role": "boss"}, "do": "stop"}]}`, "rules[0].on.role", "want one of chief, worker, ps, evaluator"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"reason": "("}, "do": "stop"}]}`, "rules[0].on.reason", "want a regular expression (RE2)"},
		{`{"name": "a", "rules": [{"name": "r", "on": {}, "do": "stop"}]}`, "rules[0].on", "want at least one of status"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "explode"}]}`, "rules[0].do", "want restart, restart-elsewhere, resize, stop, webhook, notify"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "stop"}, {"name": "r", "on": {"nodeLost": true}, "do": "stop"}]}`, "rules[1].name", "that no other rule has"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"noStep": "10m", "role": "worker"}, "do": "restart-elsewhere"}]}`, "", ""},
		{`{"name": "a", "rules": [{"name": "r", "on": {"noStep": "10m", "log": "x"}, "do": "restart"}]}`, "rules[0].on", "with role and each other alone"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"gpuIdle": 5}, "do": "restart"}]}`, "rules[0].on.gpuIdle", "at least 30 s"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "resize"}]}`, "rules[0].resize", `want {"to": N}`},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "resize", "resize": {"to": 2, "by": 2}}]}`, "rules[0].resize.to", "either to or by"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "resize", "resize": {"to": 2, "role": "chief"}}]}`, "rules[0].resize.role", "there is one chief"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "stop", "resize": {"to": 2}}]}`, "rules[0].resize", "want nothing"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "resize", "resize": {"by": 0.5}}]}`, "", ""},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "webhook", "url": "https://x/y"}]}`, "rules[0].secret", "want 1 to 63 of"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "webhook", "secret": "hook"}]}`, "rules[0].url", "want http:// or https://"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "notify", "secret": "hook", "url": "https://x/y"}]}`, "rules[0].secret", "a webhook alone is signed"},
		{`{"name": "a", "rules": [{"name": "r", "on": {"oom": true}, "do": "webhook", "secret": "hook", "url": "https://x/y"}]}`, "", ""},
		{`{"name": "a", "environment": {"lock": "../x"}}`, "environment.lock", "64 hex digits"},
		{`{"name": "a", "environment": {"secrets": [{"secret": "s", "variable": "S", "version": -1}]}}`, "environment.secrets[0].version", "want 1, 2"},
		{`{"name": "a", "execution": {"parameters": {"p": "\u0000"}}}`, "execution.parameters.p", "without a NUL"},
		{`{"name": "a", "execution": {"parameters": {"p": "` + strings.Repeat("x", 70000) + `"}}}`, "execution.parameters.p", `x"... of 70000 bytes, want`},
		{`{"name": "a", "roles": {"worker": {"disk": "20Gi"}}}`, "", ""},
		{`{"name": "a", "roles": {"worker": {"disk": 20}}}`, "roles.worker.disk", "at least 1Mi"},
		{`{"name": "a", "roles": {"worker": {"memory": 1.5}}}`, "roles.worker.memory", "at least 1Mi"},
		{`{"name": "a", "execution": {"parameters": {"p": {"b": 1}}}}`, "execution.parameters.p", "execution.parameters.p is an object, want a text"},
		{`{"name": "a", "execution": {"parameters": {"p": [1]}}}`, "execution.parameters.p", "execution.parameters.p is a list, want a text"},
		{`{"name": "a", "execution": {"parameters": {"p": null}}}`, "execution.parameters.p", "execution.parameters.p is null, want a text"},
		{`[]`, "body", "body is a list, want an object"},
		{`{"roles": {}}`, "name", "want 1 to 63 of"},
		{`{"name": "../x"}`, "name", "want 1 to 63 of"},
	}
	for _, tt := range tests {
		_, err := ReadJob([]byte(tt.body))
		f, _ := errors.AsType[*FieldError](err)
		switch {
		case tt.field == "":
			if err != nil {
				t.Errorf("%s: %v", tt.body, err)
			}
		case f == nil || f.Field != tt.field || !strings.Contains(err.Error(), tt.says):
			t.Errorf("%s: %v, want one of %s that says %q", tt.body, err, tt.field, tt.says)
		}
	}
}

func TestFieldErrorSaysNoGo(t *testing.T) {
	for says, got := range map[string]any{
		"f is empty, want x":     []string{},
		`f is ["a b"], want x`:   []string{"a b"},
		`f is {"a":1}, want x`:   map[string]any{"a": 1},
		`f is "a", want x`:       "a",
		"f is 3, want x":         3,
		"f is an object, want x": said("an object"),
	} {
		if text := Invalid("f", "x", got).Error(); text != says {
			t.Errorf("%q, want %q", text, says)
		}
	}
}

func TestDecodeSyntax(t *testing.T) {
	for body, says := range map[string]string{
		"":                          "it is empty",
		"  \n":                      "it is empty",
		`{"name": "a"`:              "line 1, column",
		"{\n\"name\": nope}":        "line 2, column",
		`{"name": "a"} x`:           "line 1, column",
		"{\"name\": \"\xff\"}":      "not UTF-8",
		strings.Repeat("[", 100000): "nested more than 64 deep",
	} {
		var spec JobSpec
		err := Decode([]byte(body), &spec)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %v, want a syntax error that says %q", body, err, says)
		}
	}
}

func FuzzReadJob(f *testing.F) {
	f.Add([]byte(`{"name": "a", "roles": {"worker": {"replicas": "1-2"}}}`))
	f.Add([]byte(`{"data": [{"name": null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := ReadJob(data)
		if err != nil && KindOf(err) == ErrInternal {
			t.Errorf("%q: %v is nobody's fault", data, err)
		}
		if err == nil && spec.Name == "" {
			t.Errorf("%q: no name", data)
		}
	})
}
