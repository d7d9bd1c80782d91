package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
)

// maxOpen is how many streams into a replica there may be at once.
const maxOpen = 16

// lingers is how long what a command has left behind may hold its output open.
const lingers = 2 * time.Second

// An opener opens streams into the replica, each beside everything else: what
// goes on in one holds up neither the program nor the conversation.
type opener struct {
	s    *Supervisor
	mu   sync.Mutex
	n    int
	wait sync.WaitGroup
}

// begin opens a stream until ctx ends.
func (o *opener) begin(ctx context.Context, ask mlaas.Open) {
	o.mu.Lock()
	defer o.mu.Unlock()
	full := o.n >= maxOpen
	o.n++
	o.wait.Go(func() {
		defer func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.n--
		}()
		at, life, err := o.s.Door.Stream(ctx, ask.ID)
		if err != nil {
			o.s.Log.Info("nobody waits for a stream any more", "error", err)
			return
		}
		defer at.Close()
		var end stream.Ending
		switch {
		case full:
			end = stream.Fail(fmt.Errorf("%d streams into this replica are open, which is all there may be: close one: %w", maxOpen, mlaas.ErrTooMany))
		case ask.Kernel != nil:
			end = o.s.toKernel(life, ask.Kernel, at)
		case ask.Look != "":
			end = o.s.look(life, ask.Look, at)
		case ask.Port > 0:
			end = o.s.connect(life, ask.Port, at)
		default:
			end = o.s.beside(life, ask, at)
		}
		if life.Err() == nil {
			if err := at.Send(life, stream.JSON(stream.Exit, end)); err != nil {
				o.s.Log.Info("nobody hears how a stream ended", "error", err)
			}
		}
	})
}

// look finds out of the program's Python processes what is asked for.
func (s *Supervisor) look(ctx context.Context, what string, at *stream.Stream) stream.Ending {
	s.mu.Lock()
	p := s.program
	s.mu.Unlock()
	switch {
	case p == nil:
		return stream.Fail(fmt.Errorf("its program does not run yet: %w", mlaas.ErrConflict))
	case p.runtime.Python == "" || p.runtime.Library == "":
		return stream.Fail(fmt.Errorf("its environment has no Python: %w", mlaas.ErrConflict))
	}
	script := filepath.Join(p.runtime.Library, "mlaas", "_look.py")
	return s.beside(ctx, mlaas.Open{Command: []string{p.runtime.Python, "-I", "-S", "-B", script, what}}, at)
}

// connect is a connection to a port of the replica: at the address by which
// other replicas reach it, or on the loopback.
func (s *Supervisor) connect(ctx context.Context, port int, at *stream.Stream) stream.Ending {
	var c net.Conn
	var err error
	dialer := net.Dialer{Timeout: 5 * time.Second}
	hosts := []string{s.Address, "127.0.0.1"}
	for _, host := range slices.Compact(hosts) {
		if c, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			break
		}
	}
	if err != nil {
		return stream.Fail(fmt.Errorf("nothing listens at port %d of %s: %v: %w", port, s.Fence.Replica, err, mlaas.ErrNotFound))
	}
	defer c.Close()
	s.join(ctx, c, at)
	return stream.Ending{} // who still writes hears it from the Exit
}

// join passes on what comes by the stream and by c until c says no more.
func (s *Supervisor) join(ctx context.Context, c net.Conn, at *stream.Stream) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		copyIn(ctx, at, c, nil)
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // it may be closed already
		}
	})
	copyOut(ctx, at, stream.Data, c)
	c.Close()
}

// copyIn writes what comes by the stream to w, until there is no more. size is
// called with what is said of the terminal.
func copyIn(ctx context.Context, at *stream.Stream, w io.Writer, size func(mlaas.Size)) {
	for {
		p, err := at.Receive(ctx)
		if err != nil || p.Kind == stream.End && size == nil {
			return
		}
		switch {
		case p.Kind == stream.Data && w != nil:
			if _, err := w.Write(p.Data); err != nil {
				w = nil // it reads no more; whether somebody is there we want to know still
			}
		case p.Kind == stream.Size && size != nil:
			var to mlaas.Size
			if json.Unmarshal(p.Data, &to) == nil {
				size(to)
			}
		}
	}
}

// copyOut sends what r gives, until there is no more.
func copyOut(ctx context.Context, at sender, kind stream.Kind, r io.Reader) {
	buf := make([]byte, stream.Chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 && at.Send(ctx, stream.Packet{Kind: kind, Data: buf[:n]}) != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

type sender interface {
	Send(context.Context, stream.Packet) error
}

// locked lets two send.
type locked struct {
	mu sync.Mutex
	to sender
}

func (l *locked) Send(ctx context.Context, p stream.Packet) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Send(ctx, p)
}

// beside runs a command beside the program: as its user, in its sandbox, with
// its variables. It ends when the command does, or kills it when ctx ends, which
// is that of the stream: a context that ended before would cut the stream off.
func (s *Supervisor) beside(ctx context.Context, ask mlaas.Open, at *stream.Stream) stream.Ending {
	if len(ask.Command) == 0 || ask.Command[0] == "" {
		return stream.Fail(mlaas.Invalid("command", "a command", ask.Command))
	}
	env := s.aside(ask)
	argv := ask.Command
	if len(s.Join) > 0 {
		argv = append(append(slices.Clone(s.Join), "--"), ask.Command...)
		for i, v := range env {
			env[i] = "_" + v
		}
	} else if !strings.Contains(argv[0], "/") {
		path, err := lookIn(env, argv[0])
		if err != nil {
			return stream.Fail(fmt.Errorf("%w: %w", err, mlaas.ErrNotFound))
		}
		argv = append([]string{path}, argv[1:]...)
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env, c.Dir = env, filepath.Join(s.Folder, CodeDir)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.WaitDelay = lingers
	c.Cancel = func() error {
		if len(s.Join) > 0 {
			return c.Process.Signal(syscall.SIGTERM) // it ends what it started
		}
		return syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	out := &locked{to: at}
	var in io.Writer
	var resize func(mlaas.Size)
	var outputs sync.WaitGroup
	var ours, theirs []*os.File // ends of pipes, or of a terminal
	shut := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	defer func() { shut(ours) }()
	begin := func() error {
		if ask.Terminal != nil {
			master, tty, err := openTerminal()
			if err != nil {
				return err
			}
			ours, theirs = append(ours, master), append(theirs, tty)
			resize = func(to mlaas.Size) {
				if err := setSize(master, to); err != nil {
					s.Log.Info("a terminal keeps its size", "error", err)
				}
			}
			resize(*ask.Terminal)
			c.Stdin, c.Stdout, c.Stderr, in = tty, tty, tty, master
			c.SysProcAttr.Setctty = len(s.Join) == 0
			outputs.Go(func() { copyOut(ctx, out, stream.Data, master) })
			return nil
		}
		for i := range 3 {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			switch i {
			case 0:
				ours, theirs, c.Stdin, in = append(ours, w), append(theirs, r), r, w
				continue
			case 1:
				c.Stdout = w
			case 2:
				c.Stderr = w
			}
			ours, theirs = append(ours, r), append(theirs, w)
			kind := []stream.Kind{0, stream.Data, stream.Errors}[i]
			outputs.Go(func() { copyOut(ctx, out, kind, r) })
		}
		return nil
	}
	err := begin()
	var wrong, told *os.File
	if err == nil && len(s.Join) > 0 {
		if wrong, told, err = os.Pipe(); err == nil {
			c.ExtraFiles = []*os.File{told} // descriptor 3
		}
	}
	if err == nil {
		err = c.Start()
	}
	shut(theirs)
	if told != nil {
		told.Close()
		defer wrong.Close()
	}
	if err != nil {
		return stream.Fail(fmt.Errorf("it could not be started: %w", err))
	}
	var inputs sync.WaitGroup
	inputs.Go(func() {
		copyIn(ctx, at, in, resize)
		if ask.Terminal == nil {
			in.(*os.File).Close()
			copyIn(ctx, at, nil, nil) // until they leave: then the command ends
		}
	})
	if wrong != nil {
		text, _ := io.ReadAll(io.LimitReader(wrong, 64<<10))
		if why := strings.TrimSpace(string(text)); why != "" {
			err = fmt.Errorf("%s: %w", why, mlaas.ErrInvalid)
		}
	}
	state := c.Wait()
	// What it wrote last is on its way; what it left behind may hold that open.
	late := time.AfterFunc(lingers, func() {
		for _, f := range ours {
			f.SetReadDeadline(time.Now())
		}
	})
	outputs.Wait()
	late.Stop()
	exited, ended := errors.AsType[*exec.ExitError](state)
	switch {
	case err != nil:
		return stream.Fail(err)
	case state == nil:
		return stream.Ending{}
	case ended && exited.Sys().(syscall.WaitStatus).Signaled():
		return stream.Ending{Code: 128 + int(exited.Sys().(syscall.WaitStatus).Signal())}
	case ended:
		return stream.Ending{Code: exited.ExitCode()}
	default:
		return stream.Fail(state)
	}
}

// openTerminal makes a terminal. Reading the master can be called off: the
// library leaves it in blocking mode, where nothing wakes who reads.
func openTerminal() (master, tty *os.File, err error) {
	first, tty, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer first.Close()
	fd, err := unix.FcntlInt(first.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		tty.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), tty, nil
}

func setSize(master *os.File, to mlaas.Size) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	size := &unix.Winsize{Col: uint16(to.Columns), Row: uint16(to.Rows)}
	if e := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }); e != nil {
		return e
	}
	return err
}

// aside are the variables of a command beside the program: those of the
// program, once it has some.
func (s *Supervisor) aside(ask mlaas.Open) []string {
	s.mu.Lock()
	p := s.program
	s.mu.Unlock()
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + filepath.Join(s.Folder, HomeDir)}
	if p != nil {
		env = slices.Clone(p.env)
	}
	if ask.Terminal != nil {
		term := ask.Term
		if term == "" {
			term = "xterm"
		}
		env = append(slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }), "TERM="+term)
	}
	return env
}
