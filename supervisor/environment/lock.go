package environment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

// Digest names a lock by its text.
func Digest(lockText []byte) mlaas.Digest {
	return mlaas.Digest("sha256:" + hash(lockText))
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// A header is the first line of a lock: what it was resolved for. It is part
// of the text, so locks for two Pythons never share an environment.
type header struct {
	Python string // "3.11"
	System string // "linux/amd64"
	Torch  string // where PyTorch comes from, if it has any: cpu, auto, pypi or an address
}

func (h header) line() string {
	s := fmt.Sprintf("# mlaas environment, python %s, %s", h.Python, h.System)
	if h.Torch != "" {
		s += ", torch " + h.Torch
	}
	return s + "\n"
}

var headerRule = regexp.MustCompile(`^# mlaas environment, python (3\.[0-9]+), ([a-z0-9]+/[a-z0-9]+)(?:, torch (\S+))?\n`)

func readHeader(text []byte) (header, error) {
	found := headerRule.FindSubmatch(text)
	if found == nil {
		return header{}, problem(mlaas.ErrInvalid, "this is no lock of an environment: it begins with %q", firstLine(string(text)))
	}
	return header{string(found[1]), string(found[2]), string(found[3])}, nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s[:min(len(s), 100)]
}

func system() string { return runtime.GOOS + "/" + runtime.GOARCH }

var pinRule = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(?:==\s*([^\s;\\]+)|@\s*(\S+))`)

// Packages returns what a lock pins: the version of each package, or the
// address that it comes from.
func Packages(lockText []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.SplitSeq(string(lockText), "\n") {
		if found := pinRule.FindStringSubmatch(line); found != nil {
			out[normal(found[1])] = found[2] + found[3]
		}
	}
	return out
}

// A Change is a package that differs between two locks.
type Change struct {
	Name string `json:"name"`
	Old  string `json:"old"` // empty: it was not there
	New  string `json:"new"` // empty: it is gone
}

// Diff lists what differs between two locks, by name.
func Diff(old, new []byte) []Change {
	before, after := Packages(old), Packages(new)
	names := slices.Collect(maps.Keys(before))
	names = append(names, slices.Collect(maps.Keys(after))...)
	slices.Sort(names)
	changes := []Change{}
	for _, n := range slices.Compact(names) {
		if before[n] != after[n] {
			changes = append(changes, Change{n, before[n], after[n]})
		}
	}
	return changes
}

// lock returns what env resolved to on this machine before, or resolves it.
// Replicas that ask at once get the same answer.
func (m *Manager) lock(ctx context.Context, env mlaas.Environment, needs []string, say func(string)) ([]byte, error) {
	spec := strings.TrimPrefix(string(env.Spec()), "sha256:")
	file := filepath.Join(m.Dir, "lock", spec+".txt")
	if text, err := os.ReadFile(file); err == nil && valid(text) {
		return text, nil
	}
	held, err := m.hold(ctx, filepath.Join(m.Dir, "lock", spec+".hold"), func() {
		say("another replica is resolving the same packages; waiting for it")
	})
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if text, err := os.ReadFile(file); err == nil && valid(text) {
		return text, nil
	}
	text, err := m.resolve(ctx, env, needs, say)
	if err != nil {
		return nil, err
	}
	if err := writeFile(file, text, 0o644); err != nil {
		return nil, m.failure("keep the lock of an environment", err)
	}
	return text, nil
}

func valid(text []byte) bool {
	_, err := readHeader(text)
	return err == nil
}

// Resolve finds the newest packages that satisfy env, whatever it resolved to
// before, and returns the text of a lock and its record. Nothing is installed,
// and nothing but the lock that is returned changes: Prepare with it, or
// [Manager.Adopt] it.
func (m *Manager) Resolve(ctx context.Context, env mlaas.Environment, say func(sentence string)) ([]byte, *mlaas.Locked, error) {
	if say == nil {
		say = func(string) {}
	}
	needs, err := requirements(env)
	if err != nil {
		return nil, nil, err
	}
	if len(needs) == 0 {
		return nil, nil, problem(mlaas.ErrInvalid, "environment has no packages: there is nothing to lock")
	}
	if err := m.folder("lock"); err != nil {
		return nil, nil, err
	}
	text, err := m.resolve(ctx, env, needs, say)
	if err != nil {
		return nil, nil, err
	}
	return text, m.locked(env, text), nil
}

// Adopt makes a lock the one that env resolves to on this machine from now on.
func (m *Manager) Adopt(env mlaas.Environment, lockText []byte) error {
	if _, err := readHeader(lockText); err != nil {
		return err
	}
	if err := m.folder("lock"); err != nil {
		return err
	}
	file := filepath.Join(m.Dir, "lock", strings.TrimPrefix(string(env.Spec()), "sha256:")+".txt")
	return m.failureOrNil("keep the lock of an environment", writeFile(file, lockText, 0o644))
}

func (m *Manager) failureOrNil(what string, err error) error {
	if err == nil {
		return nil
	}
	return m.failure(what, err)
}

func (m *Manager) resolve(ctx context.Context, env mlaas.Environment, needs []string, say func(string)) ([]byte, error) {
	entry, _ := Lookup(env.Framework)
	py, err := m.python(ctx, env.Python, entry.Pythons)
	if err != nil {
		return nil, err
	}
	uv, err := m.uv(ctx, py, say)
	if err != nil {
		return nil, err
	}
	h := header{Python: py.minor(), System: system()}
	if slices.ContainsFunc(needs, func(p string) bool { n, _ := requirement(p); return strings.HasPrefix(n, "torch") }) {
		h.Torch = m.torch()
	}
	say(fmt.Sprintf("resolving %s for Python %s", list(needs), py.Version))
	args := append([]string{"pip", "compile", "-", "--quiet", "--generate-hashes", "--no-header", "--no-annotate", "--no-build", "--python", py.Executable}, h.index()...)
	var out bytes.Buffer
	why := &listener{}
	if err := m.run(ctx, uv, args, strings.NewReader(strings.Join(needs, "\n")+"\n"), &out, why); err != nil {
		return nil, m.explain(ctx, "resolve the packages", why.text(), err, situation{env: env, needs: needs, python: py, entry: entry, torch: h.Torch})
	}
	text := append([]byte(h.line()), out.Bytes()...)
	say("resolved to " + packages(len(Packages(text))))
	return text, nil
}

// torch says where PyTorch comes from on this machine.
func (m *Manager) torch() string {
	if m.Torch != "" {
		return m.Torch
	}
	if own := os.Getenv("MLAAS_TORCH"); own != "" {
		return own
	}
	if gpus, _ := filepath.Glob("/dev/nvidia[0-9]*"); len(gpus) > 0 {
		return "auto"
	}
	return "cpu"
}

func (h header) index() []string {
	switch {
	case h.Torch == "" || h.Torch == "pypi":
		return nil
	case strings.Contains(h.Torch, "://"):
		return []string{"--index", h.Torch}
	default:
		return []string{"--torch-backend", h.Torch}
	}
}
