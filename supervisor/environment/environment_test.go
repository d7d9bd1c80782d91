package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

// fakeUV is an installer that needs no network: it resolves any package to
// 1.0, installs an empty module for it, and writes down how it was called.
// Packages named slow, missing and full behave so.
const fakeUV = `#!/bin/sh
echo "$1 $2" >> "$CALLS"
if [ "$1" = venv ]; then
  for d; do :; done
  mkdir -p "$d/bin" "$d/lib/python3/site-packages"
  while [ "$1" != --python ]; do shift; done
  ln -s "$2" "$d/bin/python"
elif [ "$2" = compile ]; then
  cat | while read -r p; do
    case "$p" in
      missing*) echo "error: No solution found when resolving dependencies" >&2
        echo "  cause: Because $p was not found in the package registry and you require $p, we can conclude that your requirements are unsatisfiable." >&2; exit 1;;
    esac
    echo "$p==1.0 \\"; echo "    --hash=sha256:00"
  done
else
  while [ "$1" != --python ]; do shift; done
  site=$(dirname "$2")/../lib/python3/site-packages
  if grep -q '^full' "$3"; then echo "x = 1" > "$site/half.py"; echo "error: failed to write: No space left on device (os error 28)" >&2; exit 2; fi
  if grep -q '^slow' "$3"; then read -r _ < "$GATE"; fi
  echo "Prepared 1 package in 5ms" >&2
  grep == "$3" | sed 's/==.*//' | while read -r p; do echo "x = 1" > "$site/$p.py"; done
  echo "Installed 1 package in 1ms" >&2
fi
`

// manager is one in a fresh folder, with the installer above. calls counts
// what it was asked for.
func manager(t *testing.T) (m *Manager, calls func(string) int) {
	t.Helper()
	python3(t)
	dir := t.TempDir()
	uv, log := filepath.Join(dir, "uv"), filepath.Join(dir, "calls")
	if err := os.WriteFile(uv, []byte(fakeUV), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MLAAS_UV", uv)
	t.Setenv("CALLS", log)
	m = &Manager{Dir: filepath.Join(dir, "env")}
	t.Cleanup(func() { // what is sealed cannot be removed by everyone
		for _, v := range glob(m.Dir + "/venv/*") {
			m.remove(v)
		}
	})
	return m, func(what string) int {
		data, _ := os.ReadFile(log)
		return strings.Count(string(data), what+"\n")
	}
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

func python3(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no Python on this machine")
	}
}

func asks(packages ...string) mlaas.Environment {
	return mlaas.Environment{Framework: "python", Packages: packages}
}

func TestPlainPythonBuildsNothing(t *testing.T) {
	m, calls := manager(t)
	p, err := m.Prepare(t.Context(), asks(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if calls("pip compile")+calls("venv --quiet") != 0 || p.Lock != nil || p.LockText != nil {
		t.Errorf("something was resolved or built: %+v", p)
	}
	// The program finds python, python3 and the package mlaas.
	for _, name := range []string{p.Python, "python", "python3"} {
		cmd := exec.Command("/usr/bin/env", name, "-c", "import mlaas; print(mlaas.rank, mlaas.__file__)")
		for k, v := range p.Variables {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "0 "+m.Dir) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if len(glob(filepath.Join(m.Dir, "lib", "*", "mlaas", "__pycache__", "*.pyc"))) == 0 {
		t.Error("the package mlaas is not compiled: each program would do it again")
	}
}

func TestBuiltOnceAndSharedReadOnly(t *testing.T) {
	m, calls := manager(t)
	p, err := m.Prepare(t.Context(), asks("one", "two"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Lock == nil || p.Lock.Lock != Digest(p.LockText) || p.Lock.Spec == "" || p.Lock.Python == "" {
		t.Errorf("the lock is %+v", p.Lock)
	}
	for range 3 {
		again, err := m.Prepare(t.Context(), asks("two", "one"), nil, nil)
		if err != nil || again.Python != p.Python || string(again.LockText) != string(p.LockText) {
			t.Errorf("again: %+v %v", again, err)
		}
		given, err := m.Prepare(t.Context(), asks("one", "two"), p.LockText, nil)
		if err != nil || given.Python != p.Python || given.Lock != nil {
			t.Errorf("with its lock: %+v %v", given, err)
		}
	}
	if calls("pip compile") != 1 || calls("pip sync") != 1 {
		t.Errorf("resolved %d times and built %d times, want once", calls("pip compile"), calls("pip sync"))
	}
	venv := p.Variables["VIRTUAL_ENV"]
	for _, path := range []string{venv, venv + "/lib/python3/site-packages", venv + "/lib/python3/site-packages/one.py", venv + "/lock.txt"} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o222 != 0 || info.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s is %v, want readable by all and writable by none (%v)", path, info.Mode(), err)
		}
	}
	if len(glob(venv+"/lib/python3/site-packages/__pycache__/one.*.pyc")) != 1 {
		t.Error("packages are not compiled: no program may do it later")
	}
	if !slices.Contains(p.ReadOnly, venv) || !slices.Contains(p.ReadOnly, p.Variables["PYTHONPATH"]) || len(p.ReadOnly) != 3 {
		t.Errorf("the program must see %q", p.ReadOnly)
	}
}

func TestWarmIsFast(t *testing.T) {
	m, _ := manager(t)
	p, err := m.Prepare(t.Context(), asks("one"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for range 20 {
		start := time.Now()
		if _, err := m.Prepare(t.Context(), asks("one"), p.LockText, nil); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	if best > 2*time.Millisecond {
		t.Errorf("the best of 20 warm starts took %v, want at most 2 ms", best)
	}
}

// Replicas that start at once build once; the others wait and say why.
func TestAtOnce(t *testing.T) {
	m, calls := manager(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATE", gate)
	said := make(chan string, 100)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			own := &Manager{Dir: m.Dir} // as in a process of its own
			if _, err := own.Prepare(t.Context(), asks("slow"), nil, func(s string) { said <- s }); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < 2; {
		if strings.Contains(<-said, "waiting for it") {
			waiting++
		}
	}
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // opens once the installer reads
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f)
	f.Close()
	all.Wait()
	if calls("pip compile") != 1 || calls("pip sync") != 1 {
		t.Errorf("resolved %d times and built %d times, want once", calls("pip compile"), calls("pip sync"))
	}
}

func TestNeverHalfMade(t *testing.T) {
	m, _ := manager(t)
	_, err := m.Prepare(t.Context(), asks("full"), nil, nil)
	if !errors.Is(err, mlaas.ErrDisk) || !strings.Contains(err.Error(), "there is no room left to make the environment") {
		t.Errorf("got %v", err)
	}
	if left := glob(filepath.Join(m.Dir, "venv", "*")); len(left) != 1 || !strings.HasSuffix(left[0], ".hold") {
		t.Errorf("left behind: %q", left)
	}
	_, err = m.Prepare(t.Context(), asks("missing-thing"), nil, nil)
	if !errors.Is(err, mlaas.ErrInvalid) || err.Error() != "there is no package named missing-thing: look at its spelling in environment.packages" {
		t.Errorf("got %v", err)
	}
}

func TestStoppedWhileBuilding(t *testing.T) {
	m, _ := manager(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATE", gate)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := m.Prepare(ctx, asks("slow"), nil, func(s string) {
		if strings.HasPrefix(s, "making") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(glob(filepath.Join(m.Dir, "venv", "*.complete"))) != 0 {
		t.Error("an environment that was not finished counts as one")
	}
}

// A crash leaves an environment without its mark: it is made again.
func TestMadeAgainAfterACrash(t *testing.T) {
	m, calls := manager(t)
	p, err := m.Prepare(t.Context(), asks("one"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	venv := p.Variables["VIRTUAL_ENV"]
	if err := os.Remove(venv + ".complete"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Prepare(t.Context(), asks("one"), p.LockText, nil); err != nil {
		t.Fatal(err)
	}
	if calls("pip sync") != 2 {
		t.Errorf("built %d times, want 2", calls("pip sync"))
	}
}

func TestRefused(t *testing.T) {
	m, calls := manager(t)
	other := "windows/arm64"
	tests := []struct {
		name string
		env  mlaas.Environment
		lock string
		want string
	}{
		{"unknown framework", mlaas.Environment{Framework: "tensorflw"}, "", `environment.framework is "tensorflw", want one of tensorflow, keras,`},
		{"image", mlaas.Environment{Image: "a/b:c"}, "", "container images run on clusters alone"},
		{"file of this machine", asks("x @ file:///etc/passwd"), "", "want a requirement such as numpy"},
		{"folder", asks("./x"), "", "want a requirement such as numpy"},
		{"option", asks("--index-url=x"), "", "want a requirement such as numpy"},
		{"two in one", asks("a b"), "", "want a requirement such as numpy"},
		{"Python that is not here", mlaas.Environment{Framework: "python", Python: "3.99"}, "", "there is no Python 3.99 on this machine, which has 3."},
		{"lock of another machine", asks("one"), "# mlaas environment, python 3.11, " + other + "\none==1\n", "locked for windows/arm64 and this machine is " + system()},
		{"no lock at all", asks("one"), "one==1\n", "this is no lock of an environment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lock []byte
			if tt.lock != "" {
				lock = []byte(tt.lock)
			}
			_, err := m.Prepare(t.Context(), tt.env, lock, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if !errors.Is(err, mlaas.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
		})
	}
	if calls("pip compile") != 0 {
		t.Error("the installer was asked")
	}
}

func TestSweep(t *testing.T) {
	m, _ := manager(t)
	now := time.Now()
	m.Now = func() time.Time { return now }
	var locks []mlaas.Digest
	for _, name := range []string{"one", "two", "three", "four"} {
		p, err := m.Prepare(t.Context(), asks(name), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		locks = append(locks, p.Lock.Lock)
		now = now.Add(time.Hour)
	}
	if err := os.MkdirAll(filepath.Join(m.Dir, "cache", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir, "cache", "x", "y"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	all, total, err := m.Usage()
	if err != nil || len(all) != 4 || total < 1<<20 || all[0].Lock != locks[0] || all[0].Packages != 1 {
		t.Fatalf("in use: %+v, %v, %v", all, total, err)
	}
	swept, err := m.Sweep(t.Context(), total, nil)
	if err != nil || len(swept.Removed) != 0 || swept.Freed != 0 {
		t.Errorf("within its size: %+v %v", swept, err)
	}
	// The cache goes first, and is enough.
	swept, err = m.Sweep(t.Context(), total-1, nil)
	if err != nil || len(swept.Removed) != 0 || swept.Freed < 1<<20 {
		t.Errorf("the cache: %+v %v", swept, err)
	}
	// Then the longest unused; not those in use, not one of a minute ago.
	now = now.Add(-59 * time.Minute)
	swept, err = m.Sweep(t.Context(), 0, []mlaas.Digest{locks[1]})
	if err != nil || !slices.Equal(swept.Removed, []mlaas.Digest{locks[0], locks[2]}) {
		t.Errorf("removed %v, want the first and the third (%v)", swept.Removed, err)
	}
	if all, _, _ := m.Usage(); len(all) != 2 {
		t.Errorf("left: %+v", all)
	}
	// What is gone is made again when it is asked for.
	if _, err := m.Prepare(t.Context(), asks("one"), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestUpgrade(t *testing.T) {
	m, calls := manager(t)
	env := asks("one")
	p, err := m.Prepare(t.Context(), env, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, lock, err := m.Resolve(t.Context(), env, nil)
	if err != nil || lock.Spec != p.Lock.Spec || calls("pip compile") != 2 {
		t.Fatalf("%+v %v: it was not resolved anew", lock, err)
	}
	newer := []byte(strings.Replace(string(text), "==1.0", "==2.0", 1))
	if got := Diff(p.LockText, newer); !slices.Equal(got, []Change{{"one", "1.0", "2.0"}}) {
		t.Errorf("the difference is %+v", got)
	}
	trial, err := m.Try(t.Context(), env, newer, nil)
	if err != nil || !trial.OK || !strings.HasPrefix(trial.Output, "python 3") {
		t.Errorf("the gallery program: %+v %v", trial, err)
	}
	if again, _ := m.Prepare(t.Context(), env, nil, nil); string(again.LockText) != string(p.LockText) {
		t.Error("a trial changed what the environment resolves to")
	}
	if err := m.Adopt(env, newer); err != nil {
		t.Fatal(err)
	}
	if again, _ := m.Prepare(t.Context(), env, nil, nil); string(again.LockText) != string(newer) {
		t.Error("the new lock was not adopted")
	}
}

// What packages do at import is their authors' code, and not for root to run.
func TestTrialIsNobodys(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give its rights away")
	}
	m, _ := manager(t)
	for dir := m.Dir; dir != "/"; dir = filepath.Dir(dir) { // a test's folder is closed to others
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&1 == 0 && strings.HasPrefix(dir, os.TempDir()+"/") {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, err := m.Prepare(t.Context(), asks(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reachable(p.Python) {
		t.Skipf("nobody cannot reach %s", p.Python)
	}
	trial, err := m.Try(t.Context(), asks(), nil, nil)
	if err != nil || !trial.OK {
		t.Errorf("got %+v %v", trial, err)
	}
}

func TestTrialThatFails(t *testing.T) {
	m, _ := manager(t)
	trial, err := m.Try(t.Context(), mlaas.Environment{Framework: "scikit-learn"}, nil, nil)
	if err != nil || trial.OK || !strings.Contains(trial.Why, "the gallery program of scikit-learn failed: ModuleNotFoundError") {
		t.Errorf("got %+v %v", trial, err)
	}
}
