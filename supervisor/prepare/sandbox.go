package prepare

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxPrepared is how many bytes of what the code becomes are taken.
const maxPrepared = 512 << 20

// A Sandbox runs the Python that reads the code.
type Sandbox struct {
	// Enter is the command by which a sandbox is entered; empty: there is none.
	// It is called as ENTER --see=PATH ... -- COMMAND, finds each variable with a
	// "_" before its name, and writes to descriptor 3 why it could not start the
	// command.
	Enter []string
	See   []string // what else must be found in it
	Dir   string   // of the code
}

// Run runs a command, which is killed when ctx ends.
func (s Sandbox) Run(ctx context.Context, argv []string, stdin []byte) ([]byte, error) {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/"}
	if len(s.Enter) > 0 {
		in := slices.Clone(s.Enter)
		for _, path := range s.See {
			in = append(in, "--see="+path)
		}
		argv = append(append(in, "--"), argv...)
		for i, v := range env {
			env[i] = "_" + v
		}
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env, c.Dir = env, s.Dir
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.WaitDelay = 2 * time.Second
	c.Cancel = func() error {
		if len(s.Enter) > 0 {
			return c.Process.Signal(syscall.SIGTERM) // it ends what it started
		}
		return syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	var out, wrong bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &atMost{w: &out, left: maxPrepared}, &atMost{w: &wrong, left: 64 << 10}
	why, err := s.start(c)
	if err == nil {
		err = c.Wait()
	}
	switch exited, ok := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case why != "":
		return nil, errors.New(why)
	case ok:
		return nil, &Exit{Code: exited.ExitCode(), Stderr: wrong.String()}
	}
	return out.Bytes(), err
}

// start starts the command, and returns why the sandbox could not.
func (s Sandbox) start(c *exec.Cmd) (why string, err error) {
	if len(s.Enter) == 0 {
		return "", c.Start()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	c.ExtraFiles = []*os.File{w} // descriptor 3
	err = c.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	text, _ := io.ReadAll(io.LimitReader(r, 64<<10))
	return strings.TrimSpace(string(text)), nil
}

// atMost takes the first bytes, and lets the rest go.
type atMost struct {
	w    io.Writer
	left int
}

func (a *atMost) Write(p []byte) (int, error) {
	some := p[:min(len(p), a.left)]
	a.left -= len(some)
	if _, err := a.w.Write(some); err != nil {
		return 0, err
	}
	return len(p), nil
}
