//go:build unix && !linux

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor"
)

// On systems other than Linux replicas are ordinary processes: nothing is
// enforced, and the executor says so.

type hierarchies struct{}

func findGroups() *hierarchies { return &hierarchies{} }

func (h *hierarchies) limits() []string {
	return []string{"Ceilings on CPU, memory and the number of processes are not enforced on " + runtime.GOOS + "."}
}

func canSandbox() (bool, string) {
	return false, "Replicas run as the user of the platform and see what it sees: " + runtime.GOOS + " has no namespaces."
}

type group struct{}

func (h *hierarchies) of(mlaas.Fence) *group { return &group{} }

func (g *group) program() []string          { return nil }
func (g *group) usage() string              { return "" }
func (g *group) memory() string             { return "" }
func (g *group) make(mlaas.Resources) error { return nil }

func (g *group) spawn(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, &fs.PathError{Op: "start", Path: path, Err: err}
	}
	return pid, nil
}

func (g *group) kill(context.Context) error   { return nil }
func (g *group) remove(context.Context) error { return nil }

// Enter is for Linux: elsewhere nothing stands in front of a program.
func Enter([]string) {
	fmt.Fprintln(os.Stderr, "mlaas enter: there is no sandbox on "+runtime.GOOS)
	os.Exit(exitEnter)
}

func cores() int { return runtime.NumCPU() }

func memory() int64 {
	v, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 4 << 30
	}
	return int64(v)
}

// A processWatch tells when a process ends.
type processWatch struct {
	p      supervisor.Process
	done   chan struct{}
	closed chan struct{}
	once   sync.Once
	code   *int
}

func watchProcess(p supervisor.Process, child bool) (*processWatch, error) {
	if now, err := supervisor.Find(p.PID); !child && (err != nil || now.Start != p.Start) {
		return nil, errors.Join(fmt.Errorf("process %d is another one: %w", p.PID, os.ErrProcessDone), err)
	}
	w := &processWatch{p: p, done: make(chan struct{}), closed: make(chan struct{})}
	if child {
		go w.wait()
	} else {
		go w.look()
	}
	return w, nil
}

func (w *processWatch) wait() {
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(w.p.PID, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err == nil && pid == w.p.PID {
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			w.code = &code
		}
		close(w.done)
		return
	}
}

// look asks again and again: there is no better way without pidfds that works
// for processes that are not our children.
func (w *processWatch) look() {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-w.closed:
			return
		case <-t.C:
			if now, err := supervisor.Find(w.p.PID); err != nil || now.Start != w.p.Start {
				close(w.done)
				return
			}
		}
	}
}

func (w *processWatch) Wait() (*int, error) {
	select {
	case <-w.done:
		return w.code, nil
	case <-w.closed:
		return nil, os.ErrClosed
	}
}

func (w *processWatch) WaitFor(ctx context.Context) error {
	select {
	case <-w.done:
	case <-w.closed:
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", w.p.PID, ctx.Err())
	}
	return nil
}

// Kill ends the supervisor and, without groups, the sessions of it and of its
// program.
func (w *processWatch) Kill() {
	if now, err := supervisor.Find(w.p.PID); err == nil && (w.p.Start == 0 || now.Start == w.p.Start) {
		syscall.Kill(-w.p.PID, syscall.SIGKILL)
		syscall.Kill(w.p.PID, syscall.SIGKILL)
	}
}

func (w *processWatch) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// killByFolder has nothing to go by here: Kill ends the sessions.
func killByFolder(context.Context, string) error { return nil }

// Suspend asks a supervisor to end its program and itself.
func (w *processWatch) Suspend() {
	if now, err := supervisor.Find(w.p.PID); err == nil && now.Start == w.p.Start {
		syscall.Kill(w.p.PID, syscall.SIGUSR1)
	}
}
