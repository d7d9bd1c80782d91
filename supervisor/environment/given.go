package environment

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/python"
)

// Image is the environment that a container's image brings: its own Python,
// its own variables, and the package mlaas beside them. Nothing is installed,
// so what env asks for besides must be in the image. environ is what the
// container was started with, as [os.Environ] tells it.
func (m *Manager) Image(ctx context.Context, env mlaas.Environment, environ []string) (*Prepared, error) {
	p := &Prepared{Variables: imageVariables(environ)}
	for _, name := range []string{"python3", "python"} {
		if path, err := exec.LookPath(name); err == nil && p.Python == "" {
			p.Python = path // as it is found: an image may have its packages in a virtual environment
		}
	}
	if p.Python == "" {
		return p, nil // it runs something else
	}
	if env.Python != "" {
		py, _ := ask(ctx, p.Python)
		if py == nil {
			return nil, problem(mlaas.ErrInvalid, "the image's %s does not say which Python it is", p.Python)
		}
		if !py.is(env.Python) {
			return nil, problem(mlaas.ErrInvalid, "environment.python is %s and the image has Python %s: leave it empty, or name another image", env.Python, py.Version)
		}
	}
	return p, m.accompany(p)
}

// given finds the environment that env asks for where another Manager made it.
func (m *Manager) given(ctx context.Context, env mlaas.Environment, needs []string, lockText []byte) (*Prepared, error) {
	if len(needs) == 0 && len(lockText) == 0 {
		return m.Image(ctx, env, os.Environ())
	}
	p := &Prepared{LockText: lockText}
	if len(lockText) == 0 {
		spec := strings.TrimPrefix(string(env.Spec()), "sha256:")
		text, err := os.ReadFile(filepath.Join(m.Shared, "lock", spec+".txt"))
		if err != nil || !valid(text) {
			return nil, problem(mlaas.ErrInvalid, "the volume of environments has none for %s with %s: `mlaas env fill` puts it there, or name an image in environment.image", framework(env), packages(len(needs)))
		}
		p.LockText, p.Lock = text, m.locked(env, text)
	}
	at := &Manager{Dir: m.Shared}
	dir := at.venv(Digest(p.LockText))
	done, ok := at.complete(dir + ".complete")
	if !ok {
		if done.Python.Executable != "" {
			return nil, problem(mlaas.ErrInvalid, "the environment on the volume is of %s, which the image does not have at that place", &done.Python)
		}
		return nil, problem(mlaas.ErrInvalid, "the volume of environments does not have %s: `mlaas env fill` puts it there, or name an image in environment.image", Digest(p.LockText))
	}
	p.Python = filepath.Join(dir, "bin", "python")
	p.Variables = imageVariables(os.Environ())
	p.Variables["PATH"] = filepath.Dir(p.Python) + ":" + searchPath()
	p.Variables["VIRTUAL_ENV"] = dir
	return p, m.accompany(p)
}

func framework(env mlaas.Environment) string {
	if env.Framework == "" {
		return "python"
	}
	return env.Framework
}

// accompany puts the package mlaas beside an environment that we cannot write
// to. It is not compiled: Python does that at the first import.
func (m *Manager) accompany(p *Prepared) error {
	files, err := libraryFiles()
	if err != nil {
		return err
	}
	lib := libraryName(files)
	if err := m.folder("lib", lib, "mlaas"); err != nil {
		return err
	}
	for name, data := range files {
		at := filepath.Join(m.Dir, "lib", lib, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return m.failure("write the Python package mlaas", err)
		}
		if err := os.WriteFile(at, data, 0o644); err != nil {
			return m.failure("write the Python package mlaas", err)
		}
	}
	lib = filepath.Join(m.Dir, "lib", lib)
	p.Library = lib
	p.Site = filepath.Join(lib, python.Site)
	if own := p.Variables["PYTHONPATH"]; own != "" {
		lib += ":" + own
	}
	p.Variables["PYTHONPATH"], p.Variables["PYTHONNOUSERSITE"] = lib, "1"
	return nil
}

// imageVariables are those of the image without what the platform and the
// cluster add, and what the supervisor sets for each program.
func imageVariables(environ []string) map[string]string {
	v := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case strings.HasPrefix(name, "MLAAS_"), strings.HasPrefix(name, "KUBERNETES_"):
		case name == "HOME", name == "USER", name == "LOGNAME", name == "TMPDIR", name == "PWD", name == "OLDPWD", name == "SHLVL", name == "_":
		default:
			v[name] = value
		}
	}
	return v
}
