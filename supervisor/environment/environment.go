// Package environment makes the Python environments that programs run in.
//
// An environment is named by its lock: the exact packages, with hashes, that a
// framework and a list of requirements resolved to for one Python. It is built
// once on a machine, in a folder that no program can write to, and shared by
// every replica that has the same lock. Without packages there is nothing to
// build: the machine's own Python is used as it is.
//
// Packages are installed from wheels alone. To build one from source is to run
// its author's code outside of the sandbox, so it is refused with a sentence.
package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/python"
)

// A Manager makes environments in one folder, which any number of processes
// may share: they wait for each other where they want the same thing. Its
// methods are safe for concurrent use.
type Manager struct {
	Dir string // absolute; made if it is not there, readable by everyone
	Log *slog.Logger

	// Shared is a folder that another Manager filled, such as a volume; empty:
	// there is none. Environments are taken from it then, and none is made: it
	// is not written to.
	Shared string

	// Torch says where PyTorch comes from; empty: $MLAAS_TORCH, else "auto"
	// where this machine has a GPU and "cpu" elsewhere. Those two are indexes of
	// PyTorch's own, known to the installer. "pypi" means the configured
	// index, whose wheels for Linux bring several gigabytes of CUDA; an
	// address means that index besides the configured one.
	Torch string

	// Enter is a command prefix that a gallery program runs under; empty: none.
	Enter []string

	Now func() time.Time // nil: time.Now
}

// Prepared is an environment that is there.
type Prepared struct {
	Python    string            // absolute path of the interpreter
	Library   string            // the folder that holds the Python package mlaas
	Variables map[string]string // for the program: PATH, PYTHONPATH, VIRTUAL_ENV, PYTHONNOUSERSITE
	Site      string            // a folder that goes first on PYTHONPATH, before the user's own
	Lock      *mlaas.Locked     // set when no lock was given: what it resolved to; nil where there are no packages
	LockText  []byte            // empty where there are no packages
	ReadOnly  []string          // folders that the program must be able to read, at these very paths
}

// A Problem is why an environment cannot be had: one sentence for the user,
// what, why and how to mend it. It wraps a kind: ErrInvalid where the request
// is wrong, ErrUnavailable where trying again may help, ErrDisk.
type Problem struct {
	Sentence string
	Kind     *mlaas.Kind
}

func (p *Problem) Error() string { return p.Sentence }

// Unwrap returns the kind.
func (p *Problem) Unwrap() error { return p.Kind }

func problem(kind *mlaas.Kind, format string, args ...any) error {
	return &Problem{fmt.Sprintf(format, args...), kind}
}

// Prepare makes the environment that env asks for, or finds it made before.
// With lockText it is exactly what that says; without, it is what was resolved
// for the same request on this machine before, or what it resolves to now.
// say hears a sentence about each long step; it may be nil. An environment is
// there whole or not at all, whatever happens to this process.
func (m *Manager) Prepare(ctx context.Context, env mlaas.Environment, lockText []byte, say func(sentence string)) (*Prepared, error) {
	if say == nil {
		say = func(string) {}
	}
	if env.Image != "" {
		return nil, problem(mlaas.ErrInvalid, "environment.image is %s: container images run on clusters alone; name a framework instead", env.Image)
	}
	needs, err := requirements(env)
	if err != nil {
		return nil, err
	}
	if m.Shared != "" {
		return m.given(ctx, env, needs, lockText)
	}
	for _, dir := range []string{"", "venv", "lock", "lib"} {
		if err := m.folder(dir); err != nil {
			return nil, err
		}
	}
	if len(needs) == 0 && len(lockText) == 0 {
		py, err := m.python(ctx, env.Python, nil)
		if err != nil {
			return nil, err
		}
		return m.bare(ctx, py)
	}
	p := &Prepared{LockText: lockText}
	if len(lockText) == 0 {
		if p.LockText, err = m.lock(ctx, env, needs, say); err != nil {
			return nil, err
		}
		p.Lock = m.locked(env, p.LockText)
	}
	if err := m.build(ctx, p, say); err != nil {
		return nil, err
	}
	return p, nil
}

// locked is the record of what env resolved to.
func (m *Manager) locked(env mlaas.Environment, text []byte) *mlaas.Locked {
	h, _ := readHeader(text)
	return &mlaas.Locked{
		Spec: env.Spec(), Framework: env.Framework, Python: h.Python, Packages: env.Packages,
		Lock: Digest(text), Created: m.now(),
	}
}

// bare is a Python without packages of its own: nothing is built.
func (m *Manager) bare(ctx context.Context, py *interpreter) (*Prepared, error) {
	// Programs say "python", which a system's Python often is not called.
	bin := filepath.Join(m.Dir, "bin", hash([]byte(py.Executable))[:16])
	for _, name := range []string{"python", "python3"} {
		link := filepath.Join(bin, name)
		if to, err := os.Readlink(link); err == nil && to == py.Executable {
			continue
		}
		if err := m.folder("bin", filepath.Base(bin)); err != nil {
			return nil, err
		}
		if err := replaceLink(py.Executable, link); err != nil {
			return nil, m.failure("prepare Python", err)
		}
	}
	lib, err := m.library(ctx, py)
	if err != nil {
		return nil, err
	}
	return &Prepared{
		Python:  py.Executable,
		Library: lib,
		Variables: map[string]string{
			"PATH":             bin + ":" + filepath.Dir(py.Executable) + ":" + searchPath(),
			"PYTHONPATH":       lib,
			"PYTHONNOUSERSITE": "1",
		},
		Site:     filepath.Join(lib, python.Site),
		ReadOnly: []string{bin, py.Prefix, lib},
	}, nil
}

func searchPath() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return "/usr/local/bin:/usr/bin:/bin"
}

func replaceLink(to, link string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(link), ".link-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Symlink(to, filepath.Join(tmp, "l")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "l"), link)
}

// folder makes a folder under Dir that every user can read, whatever the
// umask is: replicas run under other users.
func (m *Manager) folder(names ...string) error {
	if !filepath.IsAbs(m.Dir) {
		return fmt.Errorf("the folder of environments is %q, want an absolute path", m.Dir)
	}
	at := m.Dir
	for i := -1; i < len(names); i++ {
		if i >= 0 {
			at = filepath.Join(at, names[i])
		}
		info, err := os.Stat(at)
		if err == nil && info.IsDir() && info.Mode().Perm()&0o755 == 0o755 {
			continue
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			return m.failure("make the folder for environments", err)
		}
		if err := os.Chmod(at, 0o755); err != nil {
			return m.failure("make the folder for environments", err)
		}
	}
	return nil
}

// failure is a fault of this machine, told so that a user can act.
func (m *Manager) failure(what string, err error) error {
	if p := (*Problem)(nil); errors.As(err, &p) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if noRoom(err) {
		return problem(mlaas.ErrDisk, "there is no room left to %s: free some space on the disk of %s, or run mlaas gc", what, m.Dir)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

func (m *Manager) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func (m *Manager) log() *slog.Logger {
	if m.Log != nil {
		return m.Log
	}
	return slog.New(slog.DiscardHandler)
}

// writeFile puts data at path whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func readJSON(path string, v any) bool {
	data, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(data, v) == nil
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'), 0o644)
}

// list reads "3.8, 3.11 and 3.12".
func list(words []string) string {
	switch n := len(words); n {
	case 0:
		return "none"
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}
