package environment

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

// An image brings its Python and its variables; we bring the package mlaas.
func TestImage(t *testing.T) {
	m := &Manager{Dir: t.TempDir()}
	environ := []string{"PATH=" + os.Getenv("PATH"), "CUDA_HOME=/cuda", "PYTHONPATH=/image/lib", "HOME=/root", "KUBERNETES_SERVICE_HOST=10.0.0.1", "MLAAS_TOKEN=secret"}
	p, err := m.Image(t.Context(), mlaas.Environment{Framework: "pytorch"}, environ)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "KUBERNETES_SERVICE_HOST", "MLAAS_TOKEN"} {
		if v, ok := p.Variables[name]; ok {
			t.Errorf("the program gets %s=%s", name, v)
		}
	}
	if p.Variables["CUDA_HOME"] != "/cuda" || !strings.HasSuffix(p.Variables["PYTHONPATH"], ":/image/lib") {
		t.Errorf("the program gets %v", p.Variables)
	}
	c := exec.Command(p.Python, "-c", "import mlaas; print(mlaas.__file__)")
	for k, v := range p.Variables {
		c.Env = append(c.Env, k+"="+v)
	}
	if out, err := c.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), m.Dir) {
		t.Errorf("import mlaas: %v: %s", err, out)
	}
	if _, err := m.Image(t.Context(), mlaas.Environment{Python: "3.1"}, environ); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "environment.python is 3.1 and the image has Python 3.") {
		t.Errorf("another Python: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if p, err := m.Image(t.Context(), mlaas.Environment{}, environ); err != nil || p.Python != "" {
		t.Errorf("an image without Python: %+v, %v", p, err)
	}
}

// What another Manager made is used where it is, and nothing is made.
func TestShared(t *testing.T) {
	shared := t.TempDir()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("# mlaas environment, python 3.11, " + system() + "\nnumpy==2.1\n")
	env := mlaas.Environment{Framework: "python", Packages: []string{"numpy"}}
	made := &Manager{Dir: shared}
	dir := made.venv(Digest(text))
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(python, filepath.Join(dir, "bin", "python")); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(dir+".complete", complete{Python: interpreter{Executable: python, Version: "3.11.2"}}); err != nil {
		t.Fatal(err)
	}
	m := &Manager{Dir: filepath.Join(t.TempDir(), "own"), Shared: shared}

	p, err := m.Prepare(t.Context(), env, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Python != filepath.Join(dir, "bin", "python") || p.Variables["VIRTUAL_ENV"] != dir || !strings.HasPrefix(p.Variables["PATH"], dir) || !strings.HasPrefix(p.Variables["PYTHONPATH"], m.Dir) || p.Lock != nil {
		t.Errorf("it is %+v", p)
	}

	// Without a lock it is what was resolved for the same request there.
	if _, err := m.Prepare(t.Context(), env, nil, nil); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "the volume of environments has none for python with 1 package") {
		t.Errorf("never resolved: %v", err)
	}
	if err := os.Mkdir(filepath.Join(shared, "lock"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(shared, "lock", strings.TrimPrefix(string(env.Spec()), "sha256:")+".txt")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err = m.Prepare(t.Context(), env, nil, nil); err != nil || p.Lock == nil || string(p.LockText) != string(text) {
		t.Errorf("resolved there: %+v, %v", p, err)
	}

	other := []byte("# mlaas environment, python 3.11, " + system() + "\nnumpy==2.2\n")
	if _, err := m.Prepare(t.Context(), env, other, nil); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "does not have "+string(Digest(other))) {
		t.Errorf("not there: %v", err)
	}
	if err := writeJSON(dir+".complete", complete{Python: interpreter{Executable: "/no/python3.9", Version: "3.9.1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Prepare(t.Context(), env, text, nil); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "is of Python 3.9.1 (/no/python3.9), which the image does not have") {
		t.Errorf("of another image: %v", err)
	}
	if p, err := m.Prepare(t.Context(), mlaas.Environment{}, nil, nil); err != nil || p.Variables["VIRTUAL_ENV"] != "" || p.Python == "" {
		t.Errorf("nothing to install: %+v, %v", p, err)
	}
	entries, err := os.ReadDir(shared)
	if err != nil || len(entries) != 2 {
		t.Errorf("what is shared was written to: %v, %v", entries, err)
	}
}
