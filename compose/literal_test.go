package compose_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os/exec"
	"path"
	"strings"
	"sync"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/compose"
)

// compare.py compares programs by their syntax trees, one JSON line each: the
// second must be the first with each of the values replaced by another, and
// nothing else.
const comparePy = `
import ast, json, sys

def same(a, b, values, where):
    if type(a) is not type(b):
        return "%s: %s became %s" % (where, ast.dump(a) if isinstance(a, ast.AST) else a, ast.dump(b) if isinstance(b, ast.AST) else b)
    if isinstance(a, ast.AST):
        if isinstance(a, ast.Constant) and isinstance(a.value, str) and a.value in values:
            want = values[a.value]
            seen.add(a.value)
            return None if b.value == want else "%s: %r became %r, want %r" % (where, a.value, b.value, want)
        for name in a._fields:
            wrong = same(getattr(a, name, None), getattr(b, name, None), values, where + "." + name)
            if wrong:
                return wrong
        return None
    if isinstance(a, list):
        if len(a) != len(b):
            return "%s: %d nodes became %d" % (where, len(a), len(b))
        for i, (x, y) in enumerate(zip(a, b)):
            wrong = same(x, y, values, "%s[%d]" % (where, i))
            if wrong:
                return wrong
        return None
    return None if a == b else "%s: %r became %r" % (where, a, b)

for line in sys.stdin:
    asked = json.loads(line)
    seen, wrong = set(), None
    try:
        for path in asked["plain"]:
            wrong = wrong or same(ast.parse(asked["plain"][path]), ast.parse(asked["hostile"][path]), asked["values"], path)
        if not wrong and seen != set(asked["values"]):
            wrong = "of %s only %s were found" % (sorted(asked["values"]), sorted(seen))
    except (SyntaxError, ValueError) as e:
        wrong = "it does not parse: %s" % e
    print(json.dumps(wrong), flush=True)
`

// A comparer is a Python that runs compare.py.
type comparer struct {
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Reader
}

func compare(t testing.TB) *comparer {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3")
	}
	cmd := exec.Command(python, "-c", comparePy)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("compare.py: %v", err)
		}
	})
	return &comparer{in: in, out: bufio.NewReader(out)}
}

// wrong says what in hostile is more than plain with other values; "" is nothing.
func (c *comparer) wrong(t testing.TB, plain, hostile, values map[string]string) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	line, err := json.Marshal(map[string]any{"plain": plain, "hostile": hostile, "values": values})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	answer, err := c.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var wrong *string
	if err := json.Unmarshal(answer, &wrong); err != nil {
		t.Fatal(err)
	}
	if wrong == nil {
		return ""
	}
	return *wrong
}

// typed is a network with the texts that a user may choose freely.
func typed(backend, data, file, testFile, target, column string) mlaas.JobSpec {
	return mlaas.JobSpec{Name: "net", Data: []mlaas.Data{{Name: data, Source: "dataset:x"}}, Code: mlaas.Code{Mode: "composed", Composed: &mlaas.Composed{
		Backend:      backend,
		Input:        mlaas.ComposedInput{Data: data, Format: "csv", File: file, TestFile: testFile, Target: target, Columns: []string{column, "other"}},
		HiddenLayers: []mlaas.ComposedLayer{{Neurons: 3, LearningRate: 0.5}, {Type: "batch_normalization"}},
		Output:       mlaas.ComposedOutput{Neurons: 2, LearningRate: 0.1},
	}}}
}

var hostile = []string{
	`"`, `'`, `"""`, `'''`, `\`, `\"`, `a\`, "\n", "\r", "\r\n", "a\nimport os\n", "\x00", "\x1b[0m", "\u2028", "\u2029", "\u0085", "\ufeff", "\u202e",
	`" + __import__("os").system("id") + "`, "#@define: model, session", "{{py .Epochs}}", "{0}", "%s%d%n", "${HOME}", "`id`", `\N{BULLET}`, `\x41`, `\u0041`, `\101`,
	"f\"{x}\"", "𝕏", "e\u0301", "\ufffd", "# coding: latin-1", "# -*- coding: utf-16 -*-", "\u3000", "\t", "\v\f", strings.Repeat(`"`, 250), "None", "True",
}

// What a user types is in the program as the value of a literal and nothing
// else, whatever it is (row 16 of what others got wrong).
func TestNothingBecomesCode(t *testing.T) {
	c := compare(t)
	for _, backend := range mlaas.Backends {
		plain, err := compose.Program(typed(backend, "PLAIN-DATA", "PLAIN-FILE", "PLAIN-TEST", "PLAIN-TARGET", "PLAIN-COLUMN"))
		if err != nil {
			t.Fatal(err)
		}
		tried := 0
		for _, text := range hostile {
			file := "f" + text
			if strings.ContainsAny(text, "\\\x00") || path.Clean(file) != file {
				file = "f" // a path may be less than a name
			}
			spec := typed(backend, "d"+text, file, "t"+file, "y"+text, text)
			files, err := compose.Program(spec)
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			tried++
			in := spec.Code.Composed.Input
			values := map[string]string{"PLAIN-DATA": in.Data, "PLAIN-FILE": in.File, "PLAIN-TEST": in.TestFile, "PLAIN-TARGET": in.Target, "PLAIN-COLUMN": in.Columns[0]}
			if wrong := c.wrong(t, plain, files, values); wrong != "" {
				t.Errorf("%s, %q: %s", backend, text, wrong)
			}
		}
		if tried != len(hostile) {
			t.Errorf("%d of %d texts were tried", tried, len(hostile))
		}
	}
	// The comparison itself finds what it is for.
	broken := map[string]string{"main.py": "x = \"PLAIN\"\n"}
	for _, text := range []string{"x = \"a\"\nimport os\n", "x = \"a\" + \"b\"\n", "x = \"a\"; y = 1\n", "x = \"c\"\n", "x = (\n"} {
		if c.wrong(t, broken, map[string]string{"main.py": text}, map[string]string{"PLAIN": "a"}) == "" {
			t.Errorf("%q passes for a program with another value", text)
		}
	}
}

func FuzzProgram(f *testing.F) {
	for i, text := range hostile {
		f.Add(text, text, "file", text, text, byte(i))
	}
	c := compare(f)
	plain := map[string]map[string]string{}
	for _, backend := range mlaas.Backends {
		var err error
		if plain[backend], err = compose.Program(typed(backend, "PLAIN-DATA", "PLAIN-FILE", "PLAIN-TEST", "PLAIN-TARGET", "PLAIN-COLUMN")); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data, file, testFile, target, column string, which byte) {
		backend := mlaas.Backends[int(which)%len(mlaas.Backends)]
		spec := typed(backend, strings.ToValidUTF8(data, "?"), strings.ToValidUTF8(file, "?"), strings.ToValidUTF8(testFile, "?"), strings.ToValidUTF8(target, "?"), strings.ToValidUTF8(column, "?"))
		in := spec.Code.Composed.Input
		files, err := compose.Program(spec)
		if err != nil {
			return
		}
		values := map[string]string{"PLAIN-DATA": in.Data, "PLAIN-FILE": in.File, "PLAIN-TEST": in.TestFile, "PLAIN-TARGET": in.Target, "PLAIN-COLUMN": in.Columns[0]}
		if wrong := c.wrong(t, plain[backend], files, values); wrong != "" {
			t.Errorf("%s, %q: %s", backend, values, wrong)
		}
	})
}
