//go:build linux

package kubetest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// A process is a program of a cluster.
type process struct {
	name  string
	log   string // the file that has what it wrote
	cmd   *exec.Cmd
	stdin io.Closer     // of one that stays until it ends
	ended chan struct{} // closed when it is gone
	asked atomic.Bool   // it was killed here
}

// starter runs functions on one thread that lives as long as the program: a
// child's Pdeathsig comes when the thread dies that started it, and other
// threads may.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func startOnLastingThread(cmd *exec.Cmd) error {
	failed := make(chan error)
	starter() <- func() { failed <- cmd.Start() }
	return <-failed
}

// run starts a program of the cluster, in its network. One that ends unasked
// breaks the cluster.
func (c *Cluster) run(name string, argv ...string) (*process, error) {
	return c.spawn(name, append(c.network.enter(), argv...)...)
}

func (c *Cluster) spawn(name string, argv ...string) (*process, error) {
	p, err := c.command(name, argv...)
	if err != nil {
		return nil, err
	}
	return p, c.start(p)
}

// command is a process before its start.
func (c *Cluster) command(name string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(c.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "PATH="+c.path())
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return p, nil
}

func (c *Cluster) start(p *process) error {
	log := p.cmd.Stderr.(*os.File)
	defer log.Close()
	if err := startOnLastingThread(p.cmd); err != nil {
		return err
	}
	go func() {
		err := p.cmd.Wait()
		if !p.asked.Load() {
			c.fail(fmt.Errorf("%s of cluster %s ended by itself (%v). Its log ends so:\n%s", p.name, c.opts.Name, err, p.tail()))
		}
		close(p.ended)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes[p.name] = p
	return nil
}

// path is where programs of the cluster find others: ours first.
func (c *Cluster) path() string {
	return c.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// kill ends the process as kill -9 does, and returns when it is gone. It may be
// gone already.
func (p *process) kill() {
	p.asked.Store(true)
	p.cmd.Process.Kill()
	<-p.ended
}

// killInner is kill for the program that an nsenter waits for, which is its
// only child.
func (p *process) killInner() error {
	p.asked.Store(true)
	pid := strconv.Itoa(p.cmd.Process.Pid)
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		return fmt.Errorf("%s has the children %q, want one: %w", p.name, children, err)
	}
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// tail is the end of its log.
func (p *process) tail() string {
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const enough = 4 << 10
	if at, err := f.Seek(-enough, io.SeekEnd); err != nil || at == 0 {
		_, _ = f.Seek(0, io.SeekStart) // it is shorter
	}
	text, _ := io.ReadAll(f)
	if i := bytes.IndexByte(text, '\n'); len(text) == enough && i >= 0 {
		text = text[i+1:]
	}
	return string(text)
}
