package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// oldest is the first Python that the package mlaas is written for.
var oldest = [2]int{3, 8}

// An interpreter is a Python that is on this machine.
type interpreter struct {
	Executable string `json:"executable"` // the real one: no shim, no virtual environment
	Version    string `json:"version"`    // "3.11.7"
	Prefix     string `json:"prefix"`     // the folder that it needs
	Tag        string `json:"tag"`        // "cpython-311", as compiled files are called
}

func (py *interpreter) minor() string {
	major, rest, _ := strings.Cut(py.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return major + "." + minor
}

func (py *interpreter) tooOld() bool {
	parts := numbers(py.minor())
	return len(parts) < 2 || parts[0] < oldest[0] || parts[0] == oldest[0] && parts[1] < oldest[1]
}

// is reports whether py is what "3.11" or "3.11.7" means.
func (py *interpreter) is(version string) bool {
	return version == "" || py.Version == version || strings.HasPrefix(py.Version, version+".")
}

func numbers(version string) (out []int) {
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return out
		}
		out = append(out, n)
	}
	return out
}

// python finds the Python of a version, or, where none is asked for, this
// machine's own, unless another one that is here suits prefer better.
func (m *Manager) python(ctx context.Context, version string, prefer []string) (*interpreter, error) {
	version = strings.TrimPrefix(strings.TrimSpace(version), "python")
	version = strings.TrimSuffix(version, ".x")
	known := m.known()
	defer known.save()
	var here []*interpreter
	for path := range candidates(version) {
		py := known.ask(ctx, path)
		if py == nil || py.tooOld() {
			continue
		}
		if py.is(version) && (len(prefer) == 0 || version != "" || slices.Contains(prefer, py.minor())) {
			return py, nil
		}
		here = append(here, py)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if version == "" && len(here) > 0 {
		for _, want := range prefer {
			for _, py := range here {
				if py.minor() == want {
					return py, nil
				}
			}
		}
		return here[0], nil // the resolver decides, and says why not
	}
	if len(here) == 0 {
		return nil, problem(mlaas.ErrInvalid, "there is no Python of at least %d.%d on this machine: install one, and put it on PATH", oldest[0], oldest[1])
	}
	return nil, problem(mlaas.ErrInvalid, "there is no Python %s on this machine, which has %s: install it, or ask for another in environment.python", version, list(versions(here)))
}

func versions(here []*interpreter) []string {
	seen := map[string]bool{}
	for _, py := range here {
		seen[py.minor()] = true
	}
	out := slices.Collect(maps.Keys(seen))
	slices.SortFunc(out, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	return out
}

// candidates lists where a Python may be, best first. Looking is done as the
// answer is taken: most often the first will do.
func candidates(version string) iter.Seq[string] {
	names := []string{"python3", "python"}
	if parts := numbers(version); len(parts) >= 2 {
		names = append([]string{fmt.Sprintf("python%d.%d", parts[0], parts[1])}, names...)
	}
	home, _ := os.UserHomeDir()
	patterns := []string{
		filepath.Join(pyenv(), "versions", "*", "bin", "python3"),
		filepath.Join(home, ".local", "share", "uv", "python", "*", "bin", "python3"),
		"/opt/python/*/bin/python3",
		"/usr/local/bin/python3*", "/usr/bin/python3*",
		"/opt/homebrew/bin/python3*", "/Library/Frameworks/Python.framework/Versions/3*/bin/python3",
	}
	return func(yield func(string) bool) {
		seen := map[string]bool{}
		give := func(path string) bool {
			if path = unshim(path); path == "" || seen[path] {
				return true
			}
			seen[path] = true
			if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				return true
			}
			return yield(path)
		}
		if own := os.Getenv("MLAAS_PYTHON"); own != "" && !give(own) {
			return
		}
		for _, name := range names {
			for _, dir := range filepath.SplitList(searchPath()) {
				if filepath.IsAbs(dir) && !give(filepath.Join(dir, name)) {
					return
				}
			}
		}
		for _, p := range patterns {
			found, _ := filepath.Glob(p)
			slices.Reverse(found) // newer ones first
			for _, f := range found {
				if strings.Trim(filepath.Base(f), "python0123456789.") == "" && !give(f) {
					return
				}
			}
		}
	}
}

func pyenv() string {
	if root := os.Getenv("PYENV_ROOT"); root != "" {
		return root
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".pyenv")
}

// unshim turns a shim of pyenv, a slow script, into the Python that it means.
func unshim(path string) string {
	if filepath.Dir(path) != filepath.Join(pyenv(), "shims") {
		return path
	}
	want := os.Getenv("PYENV_VERSION")
	if want == "" {
		data, _ := os.ReadFile(filepath.Join(pyenv(), "version"))
		want = string(data)
	}
	for _, v := range strings.FieldsFunc(want, func(r rune) bool { return r == ':' || r == '\n' || r == ' ' }) {
		real := filepath.Join(pyenv(), "versions", v, "bin", filepath.Base(path))
		if _, err := os.Stat(real); err == nil {
			return real
		}
	}
	return ""
}

// knowledge is what interpreters said of themselves, kept in a file, because
// asking one takes longer than all the rest of a warm start.
type knowledge struct {
	path    string
	Pythons map[string]known `json:"pythons"`
	changed bool
}

type known struct {
	Size    int64        `json:"size"`
	Time    int64        `json:"time"`
	Python  *interpreter `json:"python"` // nil: it is none
	Version int          `json:"version"`
}

// asked changes when the question does.
const asked = 1

func (m *Manager) known() *knowledge {
	k := &knowledge{path: filepath.Join(m.Dir, "pythons.json")}
	readJSON(k.path, k)
	if k.Pythons == nil {
		k.Pythons = map[string]known{}
	}
	return k
}

// save keeps what was learnt. Two at once lose only what can be asked again.
func (k *knowledge) save() {
	if k.changed {
		_ = writeJSON(k.path, k)
	}
}

const question = `import sys, os, json
b = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
print(json.dumps({"executable": b if os.path.exists(b) else os.path.realpath(sys.executable),
 "version": "%d.%d.%d" % sys.version_info[:3], "prefix": sys.base_prefix, "tag": sys.implementation.cache_tag}))`

func (k *knowledge) ask(ctx context.Context, path string) *interpreter {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	if was, ok := k.Pythons[path]; ok && was.Size == info.Size() && was.Time == info.ModTime().UnixNano() && was.Version == asked {
		if was.Python == nil {
			return nil
		}
		if _, err := os.Stat(was.Python.Executable); err == nil {
			return was.Python
		}
	}
	py, final := ask(ctx, path)
	if final {
		k.Pythons[path] = known{info.Size(), info.ModTime().UnixNano(), py, asked}
		k.changed = true
	}
	return py
}

// ask starts the program at path and has it tell what Python it is. It is not
// final where the program did not get to answer.
func ask(ctx context.Context, path string) (py *interpreter, final bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-c", question)
	cmd.Dir = "/" // a .python-version of the current folder means its user, not us
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, false
	}
	py = new(interpreter)
	if err != nil || json.Unmarshal(out.Bytes(), py) != nil || !filepath.IsAbs(py.Executable) || len(numbers(py.Version)) < 2 {
		return nil, true
	}
	return py, true
}

// String says which Python this is and where.
func (py *interpreter) String() string {
	return fmt.Sprintf("Python %s (%s)", py.Version, py.Executable)
}
