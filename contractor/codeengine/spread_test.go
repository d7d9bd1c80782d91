package codeengine_test

import (
	"encoding/json"
	"testing"

	"mlaas.dev/mlaas/contractor/codeengine"
)

// What is asked of the code, and what each replica hears of the others.
func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		asked      bool
		told       map[string]int // by replica: its rank
	}{
		{"alone", `{}`, false, nil},
		{"two workers", `{"roles": {"worker": {"replicas": 2}}}`, true, map[string]int{"worker-0": 0, "worker-1": 1}},
		{"a worker and its server", `{"roles": {"worker": {"replicas": 1}, "ps": {"replicas": 1}}}`, true, map[string]int{"worker-0": 0, "ps-0": -1}},
		{"chief first, and no evaluator", `{"roles": {"chief": {}, "worker": {"replicas": 1}, "evaluator": {}}}`, true, map[string]int{"chief-0": 0, "worker-0": 1}},
		{"off", `{"roles": {"worker": {"replicas": 2}}, "code": {"distribute": "off"}}`, false, map[string]int{"worker-0": 0, "worker-1": 1}},
		{"plain", `{"roles": {"worker": {"replicas": 2}}, "code": {"mode": "plain"}}`, false, nil},
		{"not Python", `{"roles": {"worker": {"replicas": 2}}, "execution": {"command": ["sh", "-c", "true"]}}`, false, map[string]int{"worker-0": 0, "worker-1": 1}},
		{"a module", `{"roles": {"worker": {"replicas": 2}}, "execution": {"command": ["python", "-m", "train"]}}`, true, map[string]int{"worker-0": 0, "worker-1": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.spec, true)
			in.Key = "secret"
			l, err := codeengine.Launch(in)
			if err != nil {
				t.Fatal(err)
			}
			if asked := l.Recipe != nil && l.Recipe.Distribute != nil; asked != tt.asked {
				t.Errorf("asked of the code: %t, want %t", asked, tt.asked)
			}
			told := 0
			for name, p := range l.Replicas {
				text, ok := p.Variables["MLAAS_SPREAD"]
				want, wanted := tt.told[name]
				if ok != wanted {
					t.Errorf("%s is told: %t, want %t", name, ok, wanted)
				}
				if !ok {
					continue
				}
				told++
				var got struct {
					Distribute, Key string
					Rank            int
					Peers           []string
				}
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatal(err)
				}
				if got.Rank != want || got.Key != "secret" || (got.Distribute == "off") == tt.asked {
					t.Errorf("%s is told %+v, want rank %d", name, got, want)
				}
			}
			if told != len(tt.told) {
				t.Errorf("%d replicas are told, want %d", told, len(tt.told))
			}
		})
	}
}
