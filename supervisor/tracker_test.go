package supervisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

// What tracking finds is kept once, bounded, beside the program's results, and
// nowhere else.
func TestFound(t *testing.T) {
	s := &Supervisor{Config: Config{Folder: t.TempDir(), Fence: mlaas.Fence{Replica: "worker-0"}}}
	output := filepath.Join(s.Folder, OutputDir)
	if err := os.Mkdir(output, 0o755); err != nil {
		t.Fatal(err)
	}
	hears := func(lines ...string) error {
		heard := &tracker{s: s}
		for _, l := range lines {
			heard.hear([]byte(l + "\n"))
		}
		return heard.keep()
	}
	if err := hears(`{"checkpoint": null}`); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(output); len(entries) != 0 {
		t.Errorf("nothing was found and there is %v", entries)
	}

	var many []string
	for i := range 3 * maxParams {
		many = append(many, fmt.Sprintf(`{"params": {"p%d": %d}}`, i, i))
	}
	many = append(many, `{"params": {"p1": 7, "bad\u0000name": 1}}`)
	for range 2 * maxModels {
		many = append(many, `{"note": {"kind": "model", "value": {"parameters": 12}}}`)
	}
	many = append(many,
		`{"note": {"kind": "environment", "value": {"python": "3.11"}}}`,
		`{"note": {"kind": "environment", "value": {"python": "of a child"}}}`,
		`{"note": {"kind": "nonsense", "value": 1}}`,
		`{"note": {"kind": "model", "value": "`+strings.Repeat("x", maxNote)+`"}}`)
	if err := hears(many...); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Parameters  map[string]float64
		Environment struct{ Python string }
		Models      []struct{ Parameters int }
	}
	text, err := os.ReadFile(filepath.Join(output, TrackedFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Parameters) != maxParams || got.Parameters["p1"] != 7 || got.Environment.Python != "3.11" || len(got.Models) != maxModels || got.Models[0].Parameters != 12 {
		t.Errorf("%d parameters, p1 %v, Python %s, %d models", len(got.Parameters), got.Parameters["p1"], got.Environment.Python, len(got.Models))
	}

	// A program may not have us write where it cannot.
	outside := t.TempDir()
	if err := os.RemoveAll(filepath.Join(output, "mlaas")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(output, "mlaas")); err != nil {
		t.Fatal(err)
	}
	if err := hears(`{"params": {"a": 1}}`); err == nil {
		t.Error("it was written through a link that leads outside")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("outside there is %v", entries)
	}
}
