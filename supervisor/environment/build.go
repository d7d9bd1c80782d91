package environment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/python"
)

// A complete is the last file that the building of an environment writes,
// beside its folder: without it there is no environment.
type complete struct {
	Python interpreter `json:"python"`
	Bytes  int64       `json:"bytes"`
}

func (m *Manager) venv(lock mlaas.Digest) string {
	return filepath.Join(m.Dir, "venv", strings.TrimPrefix(string(lock), "sha256:")[:32])
}

// build finds the environment of p.LockText, or makes it, and fills in p.
func (m *Manager) build(ctx context.Context, p *Prepared, say func(string)) error {
	dir := m.venv(Digest(p.LockText))
	mark := dir + ".complete"
	done, ok := m.complete(mark)
	if !ok {
		h, err := readHeader(p.LockText)
		if err != nil {
			return err
		}
		if h.System != system() {
			return problem(mlaas.ErrInvalid, "this environment was locked for %s and this machine is %s: make a lock here with mlaas env upgrade", h.System, system())
		}
		told := func() {}
		held, err := m.hold(ctx, dir+".hold", func() {
			say("another replica is making the same environment; waiting for it")
			told = every(patience, func(waited time.Duration) {
				if last, err := os.ReadFile(dir + ".said"); err == nil {
					say(fmt.Sprintf("waiting for %.0f s; the other replica says: %s", waited.Seconds(), last))
				}
			})
		})
		told()
		if err != nil {
			return err
		}
		defer held.Close()
		defer os.Remove(dir + ".said")
		aloud := say
		say = func(sentence string) {
			_ = os.WriteFile(dir+".said", []byte(sentence), 0o644) // for those who wait
			aloud(sentence)
		}
		if done, ok = m.complete(mark); !ok {
			if done, err = m.make(ctx, dir, h, p.LockText, say); err != nil {
				// Nothing half made stays, and the next one starts afresh.
				m.remove(dir)
				return err
			}
		}
	}
	// The newest use, for Sweep.
	now := m.now()
	_ = os.Chtimes(mark, now, now)
	lib, err := m.library(ctx, &done.Python)
	if err != nil {
		return err
	}
	p.Python, p.Library = filepath.Join(dir, "bin", "python"), lib
	p.Variables = map[string]string{
		"PATH":             filepath.Join(dir, "bin") + ":" + searchPath(),
		"VIRTUAL_ENV":      dir,
		"PYTHONPATH":       lib,
		"PYTHONNOUSERSITE": "1",
	}
	p.Site = filepath.Join(lib, python.Site)
	p.ReadOnly = []string{dir, done.Python.Prefix, lib}
	return nil
}

// complete reads the mark of an environment that is there and whose Python is
// still there too.
func (m *Manager) complete(mark string) (done complete, ok bool) {
	if !readJSON(mark, &done) {
		return done, false
	}
	if _, err := os.Stat(done.Python.Executable); err != nil {
		return done, false
	}
	_, err := os.Stat(filepath.Join(strings.TrimSuffix(mark, ".complete"), "bin", "python"))
	return done, err == nil
}

// make builds an environment where it will stay: its scripts name its path.
func (m *Manager) make(ctx context.Context, dir string, h header, text []byte, say func(string)) (done complete, err error) {
	start := m.now()
	m.remove(dir)
	py, err := m.python(ctx, h.Python, nil)
	if err != nil {
		return done, err
	}
	uv, err := m.uv(ctx, py, say)
	if err != nil {
		return done, err
	}
	said := &listener{say: say}
	s := situation{python: py, torch: h.Torch}
	if err := m.run(ctx, uv, []string{"venv", "--quiet", "--no-project", "--python", py.Executable, dir}, nil, nil, said); err != nil {
		return done, m.explain(ctx, "make the environment", said.text(), err, s)
	}
	file := filepath.Join(dir, "lock.txt")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return done, m.failure("make the environment", err)
	}
	say(fmt.Sprintf("making the environment: %s for Python %s", packages(len(Packages(text))), py.Version))
	told := every(patience, func(waited time.Duration) { // a long download says nothing of itself
		if s := said.waiting(waited); s != "" {
			say(s)
		}
	})
	args := append([]string{"pip", "sync", "--require-hashes", "--no-build", "--python", filepath.Join(dir, "bin", "python"), file}, h.index()...)
	err = m.run(ctx, uv, args, nil, nil, said)
	told()
	if err != nil {
		return done, m.explain(ctx, "make the environment", said.text(), err, s)
	}
	if err := m.compile(ctx, py, dir, say); err != nil {
		return done, err
	}
	done.Python = *py
	if done.Bytes, err = seal(dir); err != nil {
		return done, m.failure("make the environment", err)
	}
	if err := writeJSON(dir+".complete", done); err != nil {
		return done, m.failure("make the environment", err)
	}
	say(fmt.Sprintf("the environment is ready after %.0f s", m.now().Sub(start).Seconds()))
	return done, nil
}

// patience is how long nothing is said while something is waited for.
const patience = 10 * time.Second

// every calls f again and again until the function that it returns is called;
// when that returns, f is not running.
func every(d time.Duration, f func(waited time.Duration)) (end func()) {
	ended, done, start := make(chan struct{}), make(chan struct{}), time.Now()
	go func() {
		defer close(done)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				f(time.Since(start))
			}
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

// compile translates the packages ahead, since programs may not write here and
// would do it again at each start. The machine's own Python does it, and runs
// nothing of what was installed. Tests inside packages are left out.
func (m *Manager) compile(ctx context.Context, py *interpreter, dir string, say func(string)) error {
	found, _ := filepath.Glob(filepath.Join(dir, "lib*", "python*", "site-packages"))
	if len(found) == 0 {
		return nil
	}
	say("compiling the packages, so that they import fast")
	// A file that does not compile is one that cannot be imported; templates
	// and code for other Pythons are such, and no reason to stop.
	args := append([]string{"-I", "-S", "-m", "compileall", "-q", "-q", "-j", "0", "-x", `/(tests?|testing/data|include)/`}, found...)
	out := &listener{}
	err := m.run(ctx, py.Executable, args, nil, nil, out)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && saysNoRoom([]byte(out.text())) {
		return m.failure("compile the packages", syscall.ENOSPC)
	}
	return nil
}

// seal takes everyone's right to write from an environment, and measures it.
func seal(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		size += info.Size()
		mode := info.Mode().Perm()&0o555 | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o555
		}
		if mode == info.Mode().Perm() {
			return nil
		}
		return os.Chmod(p, mode)
	})
	return size, err
}

// remove deletes an environment that seal may have closed. Its mark goes
// first: what is half removed is not there.
func (m *Manager) remove(dir string) {
	_ = os.Remove(dir + ".complete")
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o755)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		m.log().Warn("an environment could not be removed", "folder", dir, "error", err)
	}
}

// library puts the Python package mlaas where every environment finds it, and
// compiles it once for each Python.
func (m *Manager) library(ctx context.Context, py *interpreter) (string, error) {
	files, err := libraryFiles()
	if err != nil {
		return "", err
	}
	lib := filepath.Join(m.Dir, "lib", libraryName(files))
	mark := filepath.Join(lib, "."+py.Tag)
	if _, err := os.Stat(mark); err == nil {
		return lib, nil
	}
	if err := m.folder("lib"); err != nil {
		return "", err
	}
	held, err := m.hold(ctx, lib+".hold", func() {})
	if err != nil {
		return "", err
	}
	defer held.Close()
	for name, data := range files {
		if err := m.folder(append([]string{"lib", filepath.Base(lib)}, strings.Split(path.Dir(name), "/")...)...); err != nil {
			return "", err
		}
		at := filepath.Join(lib, name)
		// One that is there is left alone: its time is in the compiled file.
		if was, err := os.ReadFile(at); err == nil && bytes.Equal(was, data) {
			continue
		}
		if err := writeFile(at, data, 0o444); err != nil {
			return "", m.failure("write the Python package mlaas", err)
		}
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `umask 022; exec "$0" "$@"`, py.Executable, "-I", "-S", "-m", "compileall", "-q", filepath.Join(lib, "mlaas"))
	cmd.Dir = m.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if saysNoRoom(out) {
			return "", m.failure("compile the Python package mlaas", syscall.ENOSPC)
		}
		return "", fmt.Errorf("%s cannot compile the package mlaas: %w: %s", py, err, lastLine(string(out)))
	}
	if err := writeFile(mark, nil, 0o444); err != nil {
		return "", m.failure("write the Python package mlaas", err)
	}
	return lib, nil
}

func libraryFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(python.Files, "mlaas", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[p], err = python.Files.ReadFile(p)
		return err
	})
	return files, err
}

func libraryName(files map[string][]byte) string {
	var all []byte
	for _, name := range sorted(files) {
		all = fmt.Appendf(all, "%s %s\n", name, hash(files[name]))
	}
	return hash(all)[:16]
}

// hold locks a file among the processes of this machine; Close lets it go, and
// so does the end of the process. busy is called once if it has to wait.
func (m *Manager) hold(ctx context.Context, file string, busy func()) (*os.File, error) {
	return m.holdAs(ctx, file, syscall.LOCK_EX, busy)
}

func (m *Manager) holdAs(ctx context.Context, file string, how int, busy func()) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, m.failure("wait for other replicas", err)
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, m.failure("wait for other replicas", err)
	}
	busy()
	got := make(chan error, 1)
	go func() {
		for {
			err := syscall.Flock(int(f.Fd()), how)
			if !errors.Is(err, syscall.EINTR) {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, m.failure("wait for other replicas", err)
		}
		return f, nil
	case <-ctx.Done():
		// The call cannot be called back: let go as soon as it has the lock.
		go func() {
			if err := <-got; err != nil {
				m.log().Debug("a lock that nobody waits for any more failed", "file", file, "error", err)
			}
			f.Close()
		}()
		return nil, ctx.Err()
	}
}
