package environment

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"mlaas.dev/mlaas"
)

// kernelTools are what a kernel needs besides the environment that it is of:
// IPython's kernel, the client of its protocol, and a language server.
var kernelTools = []string{"ipykernel>=6.29,<8", "jupyter-client>=8,<9", "jedi-language-server>=0.41"}

// Tools is the folder of what a kernel needs besides its environment, for the
// Python at this path: made at its first use on this machine, and shared by
// every environment of the same Python. It is empty where environments are
// another Manager's: they must have what a kernel needs.
func (m *Manager) Tools(ctx context.Context, python string, say func(sentence string)) (string, error) {
	if m.Shared != "" {
		return "", nil
	}
	if say == nil {
		say = func(string) {}
	}
	py, _ := ask(ctx, python)
	if py == nil {
		return "", problem(mlaas.ErrInvalid, "%s does not say which Python it is", python)
	}
	dir := filepath.Join(m.Dir, "tools", py.Tag+"-"+hash([]byte(strings.Join(kernelTools, "\n")))[:16])
	mark := dir + ".complete"
	if _, err := os.Stat(mark); err == nil {
		return dir, nil
	}
	if err := m.folder("tools"); err != nil {
		return "", err
	}
	held, err := m.hold(ctx, dir+".hold", func() { say("another replica is installing what a kernel needs; waiting for it") })
	if err != nil {
		return "", err
	}
	defer held.Close()
	if _, err := os.Stat(mark); err == nil {
		return dir, nil
	}
	uv, err := m.uv(ctx, py, say)
	if err != nil {
		return "", err
	}
	say("installing what a kernel needs, once for Python " + py.minor() + " on this machine")
	m.remove(dir)
	said := &listener{say: say}
	args := append([]string{"pip", "install", "--quiet", "--no-build", "--target", dir, "--python", py.Executable}, kernelTools...)
	if err := m.run(ctx, uv, args, nil, nil, said); err != nil {
		m.remove(dir)
		return "", m.explain(ctx, "install what a kernel needs", said.text(), err, situation{python: py})
	}
	out := &listener{}
	// A file that does not compile is one for another Python: no reason to stop.
	if err := m.run(ctx, py.Executable, []string{"-I", "-S", "-m", "compileall", "-q", "-q", "-j", "0", dir}, nil, nil, out); ctx.Err() != nil {
		return "", err
	}
	if _, err := seal(dir); err != nil {
		return "", m.failure("install what a kernel needs", err)
	}
	if err := writeFile(mark, nil, 0o444); err != nil {
		return "", m.failure("install what a kernel needs", err)
	}
	return dir, nil
}
