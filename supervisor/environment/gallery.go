package environment

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
)

// A Trial is how a framework's gallery program went in an environment.
type Trial struct {
	OK      bool    `json:"ok"`
	Seconds float64 `json:"seconds"`
	Output  string  `json:"output"` // the end of what it said
	Why     string  `json:"why"`    // one sentence where it did not go well
}

// nobody is the user without rights that a gallery program runs as where this
// process is root: what packages do at import is their authors' code.
const nobody = 65534

// reachable reports whether a user without rights can reach path.
func reachable(path string) bool {
	for ; ; path = filepath.Dir(path) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if path == filepath.Dir(path) {
			return true
		}
	}
}

// galleryLimit is how long a gallery program may take.
const galleryLimit = 5 * time.Minute

// Try makes the environment of a lock and runs the framework's gallery program
// in it, in a folder of its own: under Enter if that is set, else as nobody
// where this process is root and the folders let nobody in. An error means that
// it could not be tried; a program that fails is a Trial that is not OK.
func (m *Manager) Try(ctx context.Context, env mlaas.Environment, lockText []byte, say func(sentence string)) (*Trial, error) {
	if say == nil {
		say = func(string) {}
	}
	p, err := m.Prepare(ctx, env, lockText, say)
	if err != nil {
		return nil, err
	}
	entry, _ := Lookup(env.Framework)
	if entry.Gallery == "" {
		entry, _ = Lookup("python")
	}
	dir, err := os.MkdirTemp("", "mlaas-gallery-")
	if err != nil {
		return nil, m.failure("run the gallery program", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "main.py")
	if err := os.WriteFile(file, []byte(entry.Gallery), 0o644); err != nil {
		return nil, m.failure("run the gallery program", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // Enter may make it another user's
		return nil, m.failure("run the gallery program", err)
	}
	say("running the gallery program of " + entry.Name)
	limited, cancel := context.WithTimeout(ctx, galleryLimit)
	defer cancel()
	args := append(slices.Clone(m.Enter), p.Python, file)
	cmd := exec.CommandContext(limited, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "TF_CPP_MIN_LOG_LEVEL=3", "MLAAS_OFF=1"}
	for _, k := range sorted(p.Variables) {
		cmd.Env = append(cmd.Env, k+"="+p.Variables[k])
	}
	for _, k := range sorted(env.Variables) {
		cmd.Env = append(cmd.Env, k+"="+env.Variables[k])
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 && len(m.Enter) == 0 && !slices.ContainsFunc(append(slices.Clone(p.ReadOnly), dir), func(d string) bool { return !reachable(d) }) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	said := &listener{}
	cmd.Stdout, cmd.Stderr = said, said
	start := time.Now()
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	t := &Trial{OK: err == nil, Seconds: time.Since(start).Seconds(), Output: strings.TrimSpace(said.text())}
	switch {
	case limited.Err() != nil:
		t.Why = fmt.Sprintf("the gallery program of %s did not end within %s", entry.Name, galleryLimit)
	case err != nil:
		t.Why = fmt.Sprintf("the gallery program of %s failed: %s", entry.Name, lastLine(t.Output))
	}
	return t, nil
}
