package mlaas_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

func TestDistribute(t *testing.T) {
	tests := []struct {
		code  string
		want  mlaas.Distribution
		wrong string // the field that is refused
	}{
		{`{}`, "", ""},
		{`{"distribute": "off"}`, "off", ""},
		{`{"distribute": false}`, "off", ""}, // "off" as YAML reads it
		{`{"distribute": "data-parallel"}`, "data-parallel", ""},
		{`{"distribute": "ddp"}`, "", "code.distribute"},
		{`{"distribute": true}`, "", "distribute"},
		{`{"mode": "plain", "distribute": "off"}`, "off", ""},
		{`{"mode": "plain", "distribute": "auto"}`, "", "code.distribute"},
	}
	for _, tt := range tests {
		t.Run(tt.code, func(t *testing.T) {
			var spec mlaas.JobSpec
			err := json.Unmarshal([]byte(`{"name": "a", "code": `+tt.code+`}`), &spec)
			if err == nil {
				spec.Complete()
				err = spec.Check()
			}
			if tt.wrong == "" {
				if err != nil || spec.Code.Distribute != tt.want {
					t.Errorf("%q, %v; want %q", spec.Code.Distribute, err, tt.want)
				}
				return
			}
			if !errors.Is(err, mlaas.ErrInvalid) || !strings.HasPrefix(err.Error(), tt.wrong+" is ") || !strings.Contains(err.Error(), "off") {
				t.Errorf("%v, want an error of %s that says what is right", err, tt.wrong)
			}
		})
	}
}

func TestSpreads(t *testing.T) {
	for spec, want := range map[string]bool{
		`{}`:                                     false,
		`{"roles": {"worker": {"replicas": 2}}}`: true,
		`{"roles": {"worker": {"replicas": 1}, "ps": {"replicas": 1}}}`:         true,
		`{"roles": {"chief": {}, "worker": {}}}`:                                true,
		`{"roles": {"worker": {}, "evaluator": {}}}`:                            false,
		`{"roles": {"worker": {"replicas": 2}}, "code": {"distribute": "off"}}`: false,
		`{"roles": {"worker": {"replicas": 2}}, "code": {"mode": "plain"}}`:     false,
	} {
		var s mlaas.JobSpec
		if err := json.Unmarshal([]byte(spec), &s); err != nil {
			t.Fatal(err)
		}
		s.Complete()
		if got := s.Spreads(); got != want {
			t.Errorf("%s spreads: %t, want %t", spec, got, want)
		}
	}
}
