package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
)

// A kernel takes the place of the program: python/mlaas/_kernel.py, which keeps
// an IPython. What it writes to standard output are its events, each a line of
// [mlaas.KernelStream]; its standard input is a socket over which connections
// are handed to it.
type kernel struct {
	idle time.Duration
	env  []string
	see  []string

	mu   sync.Mutex
	to   *net.UnixConn // hands over connections; nil: it does not run
	code mlaas.Tree    // the files that it has of the platform
}

// aKernel is what runs in place of a program.
func (s *Supervisor) aKernel(ctx context.Context, start mlaas.Start, run *Runtime, code mlaas.Tree) (*kernel, []string, error) {
	if run.Python == "" || run.Library == "" {
		return nil, nil, errors.New("its environment has no Python, which a kernel is")
	}
	k := &kernel{idle: start.Program.Kernel.Idle.Duration(), code: code}
	k.env = []string{"MLAAS_KERNEL_IDLE=" + strconv.FormatFloat(k.idle.Seconds(), 'g', -1, 64)}
	if s.Tools != nil {
		dir, err := s.Tools(ctx, run.Python, s.say)
		if err != nil {
			return nil, nil, sayWhy(err, "what a kernel needs could not be installed")
		}
		if dir != "" {
			k.env = append(k.env, "MLAAS_KERNEL_TOOLS="+dir)
			k.see = []string{dir}
		}
	}
	return k, []string{run.Python, "-I", "-B", filepath.Join(run.Library, "mlaas", "_kernel.py")}, nil
}

// over says why a kernel ended by itself.
func (k *kernel) over() string { return fmt.Sprintf("no execution for %s", short(k.idle)) }

// short is "60 min" rather than "1h0m0s".
func short(d time.Duration) string {
	if d >= time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return d.String()
}

// pair makes the socket; what it returns is the kernel's end.
func (k *kernel) pair() (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.to = c.(*net.UnixConn)
	return theirs, nil
}

func socketPair() (a, b *os.File, err error) {
	syscall.ForkLock.RLock() // no program begins between making them and closing them for it: not every system does both at once
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "kernel"), os.NewFile(uintptr(fds[1]), "kernel"), nil
}

// connect hands a connection to the kernel; what it returns is the other end.
func (k *kernel) connect() (net.Conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.to == nil {
		return nil, fmt.Errorf("the kernel does not run yet: %w", mlaas.ErrConflict)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	if _, _, err := k.to.WriteMsgUnix([]byte{'x'}, syscall.UnixRights(int(theirs.Fd())), nil); err != nil {
		return nil, fmt.Errorf("the kernel has ended: %w", mlaas.ErrConflict)
	}
	return net.FileConn(ours)
}

// toKernel joins a stream to the kernel, which has these files then.
func (s *Supervisor) toKernel(ctx context.Context, ask *mlaas.OpenKernel, at *stream.Stream) stream.Ending {
	s.mu.Lock()
	p := s.program
	s.mu.Unlock()
	if p == nil || p.kernel == nil {
		return stream.Fail(fmt.Errorf("no kernel runs here: %w", mlaas.ErrConflict))
	}
	if ask.Bundle != "" {
		if err := s.renew(ctx, p.kernel, ask.Bundle); err != nil {
			return stream.Fail(sayWhy(err, "the kernel could not be given the new files"))
		}
	}
	c, err := p.kernel.connect()
	if err != nil {
		return stream.Fail(err)
	}
	defer c.Close()
	s.join(ctx, c, at)
	return stream.Ending{}
}

// renew gives the kernel the files of a tree: those that differ from the ones
// that it was given last, and none that are gone. What the user's code has
// written besides stays.
func (s *Supervisor) renew(ctx context.Context, k *kernel, d mlaas.Digest) error {
	tree, err := s.tree(ctx, d)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	had := map[string]mlaas.File{}
	for _, f := range k.code.Files {
		had[f.Path] = f
	}
	var fresh mlaas.Tree
	for _, f := range tree.Files {
		if had[f.Path] != f {
			fresh.Files = append(fresh.Files, f)
		}
		delete(had, f.Path)
	}
	if len(fresh.Files) == 0 && len(had) == 0 {
		return nil
	}
	// Beside the code first, then in place: nobody imports half a file.
	dir, err := os.MkdirTemp(s.Folder, "renew-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := s.roomily(ctx, func() error { return s.fetchTree(ctx, fresh, dir, true) }); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Folder)
	if err != nil {
		return err
	}
	defer root.Close()
	made := map[string]bool{".": true, CodeDir: true}
	for _, f := range fresh.Files {
		to := path.Join(CodeDir, f.Path)
		if err := s.folders(root, path.Dir(to), made, true); err != nil {
			return err
		}
		if err := root.Rename(path.Join(filepath.Base(dir), f.Path), to); err != nil {
			return err
		}
	}
	for name := range had {
		if err := root.Remove(path.Join(CodeDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	k.code = tree
	return nil
}
