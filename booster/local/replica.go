package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/supervisor"
)

// A replica is one supervisor and what it started.
type replica struct {
	e      *Executor
	about  about
	folder string

	life     sync.Mutex // held while it is started or stopped
	draining bool
	stopped  bool          // Stop has begun
	gone     chan struct{} // closed when nothing is expected of it any more
	watch    *processWatch // of the supervisor

	news booster.News // under e.mu
}

// ended reports whether the replica is over.
func (r *replica) ended() bool {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	return r.final()
}

// final reports the same where e.mu is held.
func (r *replica) final() bool {
	s := r.news.Status
	return s == mlaas.ReplicaStopped || s == mlaas.ReplicaFailed || s == mlaas.ReplicaLost
}

// adopt takes up a replica that an earlier process started.
func (r *replica) adopt() {
	r.life.Lock()
	defer r.life.Unlock()
	if x, ok := readEnd(r.folder); ok {
		r.e.publish(r, x.Status, x.Reason, x.ExitCode)
		close(r.gone)
		if x.Status == mlaas.ReplicaStopped { // perhaps we died while stopping it
			r.stopped = true
			go r.finish(context.Background(), x)
		}
		return
	}
	p, err := readProcess(r.folder, supervisor.ProcessFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.about.Boot == supervisor.Boot():
		// We died before its supervisor was there, or just then: a second one
		// sees that it is too late.
		r.e.publish(r, mlaas.ReplicaCreating, "its supervisor is being started", nil)
		r.spawn()
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		r.over(nil, "its folder cannot be read: "+err.Error())
	default:
		r.follow(p)
	}
}

// restarted is why everything that ran is lost when its machine was: the one
// way in which this node can be lost and seen to be.
const restarted = "machine restarted"

// follow watches a supervisor that is there, or is not.
func (r *replica) follow(p supervisor.Process) {
	if r.about.Boot != supervisor.Boot() || p.Boot != "" && p.Boot != supervisor.Boot() {
		r.died(nil, restarted)
		return
	}
	w, err := watchProcess(p, false)
	if err != nil {
		reason := "its supervisor is gone"
		if _, err := os.Stat(filepath.Join(r.folder, downFile)); err == nil {
			reason = "the platform was taken down"
		}
		r.died(nil, reason)
		return
	}
	r.watch = w
	r.e.publish(r, mlaas.ReplicaReady, "its supervisor runs", nil)
	go r.await(w)
}

// spawn starts the supervisor. The lock life is held.
func (r *replica) spawn(args ...string) {
	w, err := r.launch(args...)
	if err != nil {
		r.over(nil, "its supervisor could not be started: "+err.Error())
		return
	}
	r.watch = w
	go r.await(w)
}

// ready is called when the supervisor has the replica, or has ended.
func (r *replica) ready() {
	if _, err := os.Stat(filepath.Join(r.folder, supervisor.ProcessFile)); err != nil {
		return // whoever waits for it tells why
	}
	r.e.mu.Lock()
	creating := r.news.Status == mlaas.ReplicaCreating
	r.e.mu.Unlock()
	if creating {
		r.e.publish(r, mlaas.ReplicaReady, "its supervisor runs", nil)
	}
}

// launch starts our binary as a supervisor that nothing ties to us.
func (r *replica) launch(args ...string) (*processWatch, error) {
	g := r.e.groups.of(r.about.Fence)
	if err := g.make(r.about.Ceiling); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(r.folder, supervisor.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	begun, mine, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer mine.Close()
	argv := append([]string{r.e.Binary, "supervise"}, args...)
	attr := &syscall.ProcAttr{
		Dir: r.folder, Env: append(environ(), supervisor.ReadyVariable+"=3"), Sys: &syscall.SysProcAttr{Setsid: true},
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd(), mine.Fd()},
	}
	pid, err := g.spawn(r.e.Binary, append(argv, r.folder), attr)
	if err != nil {
		begun.Close()
		return nil, err
	}
	go func() {
		io.ReadFull(begun, make([]byte, 1)) //nolint:errcheck // it is closed, and that is all that is waited for
		begun.Close()
		r.ready()
	}()
	p, err := supervisor.Find(pid)
	if err != nil { // it ended already: whoever waits for it finds that out
		p = supervisor.Process{Boot: supervisor.Boot(), PID: pid}
	}
	return watchProcess(p, true)
}

// await waits for the end of a supervisor.
func (r *replica) await(w *processWatch) {
	code, err := w.Wait()
	if err != nil { // we were closed
		return
	}
	r.life.Lock()
	defer r.life.Unlock()
	w.Close()
	if r.stopped || r.watch != w {
		return
	}
	if code != nil && *code == supervisor.ExitClaimed {
		if p, err := readProcess(r.folder, supervisor.ProcessFile); err == nil {
			r.follow(p)
			return
		}
	}
	if _, err := os.Stat(filepath.Join(r.folder, supervisor.DeliveredFile)); err == nil {
		r.over(&end{Status: mlaas.ReplicaLost, Reason: "its supervisor has delivered everything and ended", ExitCode: code}, "")
		return
	}
	if _, err := os.Stat(filepath.Join(r.folder, supervisor.ProcessFile)); errors.Is(err, fs.ErrNotExist) && !r.draining {
		r.over(&end{Status: mlaas.ReplicaLost, Reason: "its supervisor could not begin: " + lastLine(filepath.Join(r.folder, supervisor.LogFile)), ExitCode: code}, "")
		return
	}
	reason := "its supervisor is gone"
	if code != nil {
		reason = fmt.Sprintf("its supervisor ended with exit code %d", *code)
		if *code > 128 {
			reason = fmt.Sprintf("its supervisor was ended by signal %d", *code-128)
		}
	}
	r.died(code, reason)
}

// died deals with a supervisor that ended before its work was done: its
// program died with it, and what both left is delivered before the loss is
// told.
func (r *replica) died(code *int, reason string) {
	if err := r.killAll(context.Background()); err != nil {
		r.e.Log.Warn("something of a replica is left", "replica", r.about.Fence, "error", err)
	}
	r.draining = true
	lost := end{Status: mlaas.ReplicaLost, Reason: reason, ExitCode: code}
	w, err := r.launch("--drain")
	if err != nil {
		r.over(&lost, "")
		return
	}
	r.watch = w
	r.e.mu.Lock()
	if r.news.Status == "" { // adopted: it was there
		r.news = booster.News{Fence: r.about.Fence, Status: mlaas.ReplicaReady, Reason: "what it left is being delivered", Node: r.e.Node}
	}
	r.e.mu.Unlock()
	limit := drainTime
	if _, err := os.Stat(filepath.Join(r.folder, supervisor.CompletionFile)); err == nil {
		limit = deliveryTime
	}
	go func() {
		t := time.AfterFunc(limit, w.Kill)
		_, err := w.Wait()
		t.Stop()
		if err != nil {
			return
		}
		r.life.Lock()
		defer r.life.Unlock()
		w.Close()
		if r.stopped {
			return
		}
		r.over(&lost, "")
	}()
}

// over notes the end of a replica that was not stopped, and frees what it held.
func (r *replica) over(x *end, reason string) {
	if x == nil {
		x = &end{Status: mlaas.ReplicaLost, Reason: reason}
	}
	x.At = r.e.Now().UTC()
	if err := r.killAll(context.Background()); err != nil {
		r.e.Log.Warn("something of a replica is left", "replica", r.about.Fence, "error", err)
	}
	if err := supervisor.WriteFile(filepath.Join(r.folder, endFile), x); err != nil {
		r.e.Log.Warn("the end of a replica could not be written down", "replica", r.about.Fence, "error", err)
	}
	if _, err := os.Stat(filepath.Join(r.folder, supervisor.DeliveredFile)); err == nil {
		if err := clean(r.folder); err != nil {
			r.e.Log.Warn("a replica's folder could not be cleaned", "replica", r.about.Fence, "error", err)
		}
	}
	r.e.publish(r, x.Status, x.Reason, x.ExitCode)
	select {
	case <-r.gone:
	default:
		close(r.gone)
	}
}

// stop ends the replica. That it is to end is on disk before anything is done,
// so that whoever finds the folder after a crash goes on.
func (r *replica) stop(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	before := r.ended()
	x, ok := readEnd(r.folder)
	if !ok || x.Status != mlaas.ReplicaStopped {
		x = end{Status: mlaas.ReplicaStopped, Reason: "stopped", At: r.e.Now().UTC()}
		if ok { // it was lost before; that remains true of when it ended
			x.At = mustEnd(r.folder).At
		}
		if err := supervisor.WriteFile(filepath.Join(r.folder, endFile), x); err != nil && !isFull(err) {
			return fmt.Errorf("replica %s: %w", r.about.Fence, err)
		}
	}
	r.stopped = true
	if err := r.wipe(ctx); err != nil {
		return fmt.Errorf("replica %s: %w", r.about.Fence, err)
	}
	if !before {
		r.e.publish(r, x.Status, x.Reason, nil)
		close(r.gone)
	} else {
		r.e.mu.Lock()
		r.news.Status = mlaas.ReplicaStopped
		r.e.mu.Unlock()
	}
	return nil
}

func mustEnd(folder string) end {
	x, _ := readEnd(folder)
	return x
}

// finish ends what a process before us began to stop.
func (r *replica) finish(ctx context.Context, _ end) {
	r.life.Lock()
	defer r.life.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.wipe(ctx); err != nil {
		r.e.Log.Warn("a replica could not be ended", "replica", r.about.Fence, "error", err)
	}
}

func (r *replica) wipe(ctx context.Context) error {
	if err := r.killAll(ctx); err != nil {
		return err
	}
	if r.watch != nil {
		r.watch.Close()
	}
	return clean(r.folder)
}

// killAll ends everything that belongs to the replica and returns when nothing
// of it is left: its supervisor, which takes the program along; the first
// process of its sandbox; and whatever is in its groups.
func (r *replica) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var watches []*processWatch
	if r.watch != nil {
		watches = append(watches, r.watch)
	}
	for _, file := range []string{supervisor.ProcessFile, initFile} {
		p, err := readProcess(r.folder, file)
		if err != nil || p.Boot != supervisor.Boot() {
			continue
		}
		if w, err := watchProcess(p, false); err == nil {
			defer w.Close()
			watches = append(watches, w)
		}
	}
	for _, w := range watches {
		w.Kill()
	}
	g := r.e.groups.of(r.about.Fence)
	err := g.kill(ctx)
	if len(g.program()) == 0 {
		err = errors.Join(err, killByFolder(ctx, r.folder))
	}
	for _, w := range watches {
		err = errors.Join(err, w.WaitFor(ctx))
	}
	if err != nil {
		return err
	}
	return g.remove(ctx)
}

// exec runs a command inside the replica.
func (r *replica) exec(ctx context.Context, command []string, in io.Reader, out io.Writer) (int, error) {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TERM=xterm", "HOME=" + filepath.Join(r.folder, supervisor.HomeDir)}
	argv := command
	var wrong bytes.Buffer
	if r.e.sandbox {
		argv = append([]string{r.e.Binary, "enter", "--join", filepath.Join(r.folder, enterFile), "--"}, command...)
		for i := range env {
			env[i] = "_" + env[i]
		}
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = env
	c.Dir = filepath.Join(r.folder, supervisor.CodeDir)
	c.Stdin, c.Stdout, c.Stderr = in, out, out
	c.WaitDelay = 5 * time.Second
	if r.e.sandbox {
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) } // it ends what it started
	}
	read, write, err := os.Pipe() // descriptor 3, see Enter
	if err != nil {
		return 0, err
	}
	defer read.Close()
	c.ExtraFiles = []*os.File{write}
	err = c.Start()
	write.Close()
	if err != nil {
		return 0, err
	}
	if r.e.sandbox {
		io.Copy(&wrong, io.LimitReader(read, 64<<10))
	}
	err = c.Wait()
	if text := strings.TrimSpace(wrong.String()); text != "" {
		return 0, errors.New(text)
	}
	if x, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return x.ExitCode(), nil
	}
	return 0, err
}

// lastLine is the last that a supervisor wrote.
func lastLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return tail(string(data))
}
