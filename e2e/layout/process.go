package layout

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startPatience is how long a process may take until it serves.
const startPatience = 60 * time.Second

// A Process is one process of a platform: it can be killed, stopped, let go on
// and started again, always with the same address.
type Process struct {
	Name    string   // "platform", "store", "management-2", ...
	Kind    string   // Name without its number
	Command []string // the binary and its arguments
	Env     []string // all of it
	Log     io.Writer

	// Dial is where it listens once it serves; empty: it prints "ready URL".
	Dial string
	// Within runs what starts it: in the network namespace of its machine, say.
	// nil: here.
	Within func(func() error) error

	mu    sync.Mutex
	cmd   *exec.Cmd
	url   string
	ended chan struct{} // closed when it is gone
}

// An EarlyEnd says that a process ended before it served, how, and what it said
// last.
type EarlyEnd struct {
	Name  string
	State *os.ProcessState
	Said  string
}

func (e *EarlyEnd) Error() string {
	return fmt.Sprintf("%s ended before it served: %s: %s", e.Name, e.State, e.Said)
}

// Killed reports whether it was SIGKILL that ended it.
func (e *EarlyEnd) Killed() bool {
	status, ok := e.State.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// last keeps the end of what is written through it.
type last struct {
	to  io.Writer // nil: nowhere
	mu  sync.Mutex
	end []byte
}

func (l *last) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.end = append(l.end, b...)
	l.end = l.end[max(0, len(l.end)-1000):]
	l.mu.Unlock()
	if l.to == nil {
		return len(b), nil
	}
	return l.to.Write(b)
}

func (l *last) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.end))
}

// Start starts it, with more variables, and returns once it serves. A process
// that ends before that is an error; it is not there then.
func (p *Process) Start(ctx context.Context, env ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Env = append(p.Env[:len(p.Env):len(p.Env)], env...)
	// A group of its own: a Ctrl+C at who tests is theirs to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said := &last{to: p.Log}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	within := p.Within
	if within == nil {
		within = func(f func() error) error { return f() }
	}
	if err := within(cmd.Start); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	ended, ready := make(chan struct{}), make(chan string, 1)
	p.cmd, p.ended = cmd, ended
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok && p.Dial == "" {
				ready <- url
				break
			}
			if p.Dial != "" && p.Log != nil {
				fmt.Fprintln(p.Log, lines.Text())
			}
		}
		io.Copy(io.Discard, out)
		cmd.Wait() // how it ended is in cmd.ProcessState
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if p.Dial != "" {
		go p.knock(ctx, ready)
	}
	select {
	case p.url = <-ready:
		return nil
	case <-ended:
		return &EarlyEnd{Name: p.Name, State: cmd.ProcessState, Said: said.String()}
	case <-ctx.Done():
		syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		return fmt.Errorf("%s does not serve: %w", p.Name, ctx.Err())
	}
}

// knock tries to connect until somebody opens: a server that is not ours does
// not tell when it listens.
func (p *Process) knock(ctx context.Context, ready chan<- string) {
	dial := func() error {
		conn, err := net.DialTimeout("tcp", p.Dial, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for ctx.Err() == nil {
		within := p.Within
		if within == nil {
			within = func(f func() error) error { return f() }
		}
		if within(dial) == nil {
			ready <- ""
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// URL is what it printed when it was ready.
func (p *Process) URL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url
}

// PID is that of the process, or of the last one; 0 if there was none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Ended is closed when the process that runs now is gone.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		gone := make(chan struct{})
		close(gone)
		return gone
	}
	return p.ended
}

// Killed reports whether it is gone, and by SIGKILL.
func (p *Process) Killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil || p.running() || p.cmd.ProcessState == nil {
		return false
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Running reports whether it is there, stopped or not.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

func (p *Process) running() bool {
	if p.ended == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal sends it a signal; one that is gone is os.ErrProcessDone.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.cmd.Process.Pid, s)
}

// Kill ends it at once, and returns when it is gone.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Term asks it to end, kills it after patience, and returns when it is gone.
func (p *Process) Term(patience time.Duration) {
	if p.Signal(syscall.SIGTERM) != nil {
		return
	}
	select {
	case <-p.Ended():
	case <-time.After(patience):
		p.Kill()
	}
}

func (p *Process) end(s syscall.Signal) {
	if err := p.Signal(s); errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-p.Ended()
}
