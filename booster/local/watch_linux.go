package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas/supervisor"
)

// A processWatch tells when a process ends, be it our child or not, without
// asking again and again and without a thread of its own.
type processWatch struct {
	pid    int
	file   *os.File // a pidfd: it means this process and no later one
	done   chan struct{}
	closed chan struct{}
	once   sync.Once
	code   *int // known for children alone; 128 and the signal where there was one
}

// watchProcess finds the process that p names.
func watchProcess(p supervisor.Process, child bool) (*processWatch, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", p.PID, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	if now, err := supervisor.Find(p.PID); !child && (err != nil || now.Start != p.Start) {
		file.Close()
		return nil, errors.Join(fmt.Errorf("process %d is another one: %w", p.PID, os.ErrProcessDone), err)
	}
	w := &processWatch{pid: p.PID, file: file, done: make(chan struct{}), closed: make(chan struct{})}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	go w.run(raw)
	return w, nil
}

func (w *processWatch) run(raw syscall.RawConn) {
	err := raw.Read(func(fd uintptr) bool { // again when the kernel says that it is readable: it ended
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && err != unix.EINTR && err != unix.EAGAIN
	})
	if err != nil {
		return // closed
	}
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(w.pid, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err == nil && pid == w.pid {
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			w.code = &code
		}
		break
	}
	close(w.done)
}

// Wait waits for the end and returns the exit code, where it can be known. It
// is an error if the watch was closed first.
func (w *processWatch) Wait() (*int, error) {
	select {
	case <-w.done:
		return w.code, nil
	case <-w.closed:
		select {
		case <-w.done:
			return w.code, nil
		default:
			return nil, os.ErrClosed
		}
	}
}

// WaitFor waits for the end or for ctx; a watch that was closed says nothing.
func (w *processWatch) WaitFor(ctx context.Context) error {
	select {
	case <-w.done:
		return nil
	case <-w.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", w.pid, ctx.Err())
	}
}

// Kill ends the process at once.
func (w *processWatch) Kill() { w.signal(unix.SIGKILL) }

// Suspend asks a supervisor to end its program and itself.
func (w *processWatch) Suspend() { w.signal(unix.SIGUSR1) }

func (w *processWatch) signal(s unix.Signal) {
	raw, err := w.file.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), s, nil, 0) })
	}
}

// Close forgets the process without touching it.
func (w *processWatch) Close() (err error) {
	w.once.Do(func() {
		close(w.closed)
		err = w.file.Close()
	})
	return err
}

// killByFolder ends the processes whose variables name the folder: where there
// are no groups, that is what a program and its children have in common.
func killByFolder(ctx context.Context, folder string) error {
	mark := []byte("=" + folder + "/")
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		var watches []*processWatch
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			data, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
			if err != nil || !bytes.Contains(data, mark) {
				continue
			}
			if p, err := supervisor.Find(pid); err == nil {
				if w, err := watchProcess(p, false); err == nil {
					w.Kill()
					watches = append(watches, w)
				}
			}
		}
		if len(watches) == 0 {
			return nil
		}
		for _, w := range watches {
			if err == nil {
				err = w.WaitFor(ctx)
			}
			w.Close()
		}
		if err != nil {
			return err
		}
	}
}
