package main

import (
	"os"
	"path/filepath"
	"testing"

	"mlaas.dev/mlaas"
)

// YAML takes on for true; in a rule it is a field.
func TestRulesOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yaml")
	for _, text := range []string{
		"- {name: r, on: {oom: true}, do: stop}",
		`- {name: r, "on": {oom: true}, do: stop}`,
		"name: j\nrules:\n- name: r\n  on:\n    oom: true\n  do: stop\n",
		`[{"name": "r", "on": {"oom": true}, "do": "stop"}]`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := rulesOf(file)
		if err != nil || len(rules) != 1 || rules[0].On != (mlaas.RuleOn{OOM: true}) {
			t.Errorf("%s: %+v, %v", text, rules, err)
		}
	}
	for text, want := range map[string]string{
		"name: j": file + " has no rules",
		"- {name: r, true: {}, on: {}, do: stop}": "",
		"- {name: r, of: {}, do: stop}":           "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := rulesOf(file); err == nil || want != "" && err.Error() != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPlaceOf(t *testing.T) {
	for text, want := range map[string]place{
		"a.txt":                   {path: "a.txt"},
		"./a:b":                   {path: "./a:b"},
		"/a:b":                    {path: "/a:b"},
		"mnist:out/m.pt":          {"mnist", "", "out/m.pt"},
		"mnist/7:worker-1:/tmp/x": {"mnist/7", "worker-1", "/tmp/x"},
		"mnist:a:b":               {"mnist", "", "a:b"},
		"mnist:":                  {"mnist", "", ""},
	} {
		if got := placeOf(text); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}
