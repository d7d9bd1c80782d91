package supervisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
)

// Why a program failed, as a real Python says it.
func TestFailure(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	for _, tt := range []struct {
		name, main string
		reason     string
		want       *mlaas.Failure
	}{
		{"in the program itself", "def train(x):\n    return 1 / x\ntrain(0)\n",
			"the program ended with exit code 1: ZeroDivisionError: division by zero (main.py:2 in train: return 1 / x)",
			&mlaas.Failure{Error: "ZeroDivisionError: division by zero", File: "main.py", Line: 2, Function: "train", Text: "return 1 / x"}},
		{"in a package that it calls", "import json\n\njson.loads(\"{\")\n",
			"the program ended with exit code 1: json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) (main.py:3 in <module>: json.loads(\"{\"))",
			&mlaas.Failure{Error: "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", File: "main.py", Line: 3, Function: "<module>", Text: "json.loads(\"{\")"}},
		{"in another file of it", "import part.model\npart.model.f()\n",
			"the program ended with exit code 1: RuntimeError: no (part/model.py:2 in f: raise RuntimeError(\"no\"))",
			&mlaas.Failure{Error: "RuntimeError: no", File: "part/model.py", Line: 2, Function: "f", Text: "raise RuntimeError(\"no\")"}},
		{"an error of its own", "class Stuck(Exception): pass\n\ndef f():\n    raise Stuck('here')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    f()\n",
			"the program ended with exit code 1: Stuck: here (main.py:4 in f: raise Stuck('here'))",
			&mlaas.Failure{Error: "Stuck: here", File: "main.py", Line: 4, Function: "f", Text: "raise Stuck('here')"}},
		{"a message of several lines", "raise ValueError('one\\nKeyError: two')\n",
			"the program ended with exit code 1: KeyError: two (main.py:1 in <module>: raise ValueError('one\\nKeyError: two'))",
			&mlaas.Failure{Error: "KeyError: two", File: "main.py", Line: 1, Function: "<module>", Text: "raise ValueError('one\\nKeyError: two')"}},
		{"it does not parse", "x = 1\nx = = 2\n",
			"the program does not parse: main.py:2: SyntaxError: invalid syntax",
			&mlaas.Failure{Error: "SyntaxError: invalid syntax", File: "main.py", Line: 2, Text: "x = = 2"}},
		{"it only says so", "import sys\nsys.exit('ValueError: mine')\n",
			"the program ended with exit code 1: ValueError: mine", &mlaas.Failure{Error: "ValueError: mine"}},
		{"it says nothing", "import sys\nsys.exit(1)\n", "the program ended with exit code 1", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &program{s: &Supervisor{Config: Config{Folder: t.TempDir()}}}
			code := filepath.Join(p.s.Folder, CodeDir)
			for name, text := range map[string]string{"main.py": tt.main, "part/model.py": "def f():\n    raise RuntimeError(\"no\")\n"} {
				at := filepath.Join(code, name)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c := exec.CommandContext(t.Context(), python, "main.py")
			c.Dir = code
			var wrong strings.Builder
			c.Stderr = &wrong
			if err := c.Run(); err == nil {
				t.Fatal("it did not fail")
			}
			for line := range strings.Lines(wrong.String()) {
				p.remember([]mlaas.LogLine{{Text: strings.TrimSuffix(line, "\n")}})
			}
			reason, got := p.failure(1)
			if reason != tt.reason {
				t.Errorf("reason is\n%s, want\n%s\nof\n%s", reason, tt.reason, wrong.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("failure (-want +got):\n%s", diff)
			}
		})
	}
}

// Where Python itself broke down, as faulthandler says it.
func TestCrash(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	p := &program{s: &Supervisor{Config: Config{Folder: t.TempDir()}}}
	code := filepath.Join(p.s.Folder, CodeDir)
	if err := os.MkdirAll(code, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "import ctypes\n\ndef f():\n    ctypes.string_at(0)\nf()\n"
	if err := os.WriteFile(filepath.Join(code, "main.py"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), python, "-X", "faulthandler", "main.py")
	c.Dir = code
	out, _ := c.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		p.remember([]mlaas.LogLine{{Text: strings.TrimSuffix(line, "\n")}})
	}
	reason, got := p.crash(syscall.SIGSEGV)
	if want := "the program was ended by signal SIGSEGV (main.py:4 in f)"; reason != want {
		t.Errorf("reason is %q, want %q, of\n%s", reason, want, out)
	}
	if got == nil || got.Error != "Segmentation fault" || got.Line != 4 {
		t.Errorf("%+v", got)
	}
	p.stderr = nil
	if reason, got := p.crash(syscall.SIGKILL); reason != "the program was ended by signal SIGKILL" || got != nil {
		t.Errorf("%q, %+v", reason, got)
	}
}
