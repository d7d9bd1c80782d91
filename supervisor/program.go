package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
)

// A program is the user's command, ready to be started.
type program struct {
	s       *Supervisor
	command []string
	env     []string
	see     []string
	runtime *Runtime
	tracker *tracker
	timeout time.Duration
	grace   time.Duration
	killed  int64 // by the memory ceiling, before the program began

	kernel *kernel // it is one; nil: it is the user's own

	mu     sync.Mutex
	stderr []string // the last lines, to say why it failed
	pid    int
}

// defaultGrace lies between a polite stop and the end.
const defaultGrace = 10 * time.Second

// ready fetches all that the program needs. What it returns as an error is a
// sentence for the user.
func (s *Supervisor) ready(ctx context.Context, start mlaas.Start) (*program, *mlaas.Locked, error) {
	p := &program{s: s, timeout: start.Timeout.Duration(), grace: start.Grace.Duration(), see: slices.Clone(s.See)}
	if p.grace == 0 {
		p.grace = defaultGrace
	}
	s.say("fetching its code")
	var run *Runtime
	var lock *mlaas.Locked
	var code mlaas.Tree
	see := make([]string, len(start.Data))
	g, some := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		defer s.stage(mlaas.StageCode)()
		code, err = s.fetchFolder(some, start.Bundle, filepath.Join(s.Folder, CodeDir), true)
		return sayWhy(err, "its code could not be fetched")
	})
	g.Go(func() (err error) {
		defer s.stage(mlaas.StageEnvironment)()
		err = s.roomily(some, func() error {
			run, lock, err = s.environment(some, start.Environment)
			return err
		})
		return sayWhy(err, "its environment could not be made")
	})
	// A source may ask who we are: what the program may know, we may tell it.
	getenv := func(name string) string { return cmp.Or(start.Secrets[name], start.Environment.Variables[name]) }
	for i, d := range start.Data {
		g.Go(func() (err error) {
			defer s.stage(mlaas.StageData)()
			return s.roomily(some, func() error {
				see[i], err = s.data(some, d, getenv)
				return err
			})
		})
	}
	if start.Resume != "" {
		g.Go(func() error {
			defer s.stage(mlaas.StageCheckpoint)()
			_, err := s.fetchFolder(some, start.Resume, filepath.Join(s.Folder, ResumeDir), false)
			return sayWhy(err, fmt.Sprintf("the checkpoint of step %d could not be fetched", start.ResumeStep))
		})
	}
	if err := g.Wait(); err != nil {
		return nil, lock, err
	}
	if err := s.prepare(ctx, start.Recipe, code, run); err != nil {
		return nil, lock, err
	}
	p.see = append(append(p.see, run.ReadOnly...), see...)
	var err error
	if start.Program.Kernel != nil {
		p.kernel, p.command, err = s.aKernel(ctx, start, run, code)
	} else {
		p.command, err = s.command(start.Program, run.Python)
	}
	if err != nil {
		return nil, lock, err
	}
	p.runtime = run
	if p.tracker, err = s.track(); err != nil {
		return nil, lock, fmt.Errorf("the tracker's socket could not be made: %w", err)
	}
	if dir := p.tracker.elsewhere; dir != "" {
		p.see = append(p.see, dir)
	}
	p.env = s.variables(start, run, p.tracker.path)
	if p.kernel != nil {
		p.env = append(p.env, p.kernel.env...)
		p.see = append(p.see, p.kernel.see...)
	}
	return p, lock, nil
}

func sayWhy(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// environment prepares the environment; a fresh lock is stored, so that other
// replicas and later runs take the same.
func (s *Supervisor) environment(ctx context.Context, e mlaas.Environment) (*Runtime, *mlaas.Locked, error) {
	if s.Prepare == nil {
		python, _ := exec.LookPath("python3")
		return &Runtime{Python: python}, nil, nil
	}
	var lock []byte
	if e.Lock != "" {
		var err error
		if lock, err = s.blobBytes(ctx, e.Lock, 16<<20); err != nil {
			return nil, nil, err
		}
	}
	run, err := s.Prepare(ctx, e, lock, s.say)
	if err != nil {
		return nil, nil, err
	}
	if run.Lock == nil {
		return run, nil, nil
	}
	l := *run.Lock
	l.Lock, l.Spec, l.Tenant = digestBytes(run.LockText), e.Spec(), s.Fence.Tenant
	err = s.upload(ctx, l.Lock, int64(len(run.LockText)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(run.LockText)), nil
	})
	return run, &l, err
}

// command is what is executed: "python" is the environment's own, and an empty
// command starts the only file that can be meant.
func (s *Supervisor) command(p mlaas.Program, python string) ([]string, error) {
	code := filepath.Join(s.Folder, CodeDir)
	c := slices.Clone(p.Command)
	if len(c) == 0 {
		entry, err := entryOf(code)
		if err != nil {
			return nil, err
		}
		c = []string{"python", entry}
	}
	if c[0] != "python" && c[0] != "python3" {
		return c, nil
	}
	if python == "" {
		return nil, errors.New("its environment has no Python")
	}
	c[0] = python
	for _, arg := range c[1:] { // python [-u ...] FILE
		if arg == "-u" || arg == "-O" || arg == "-B" {
			continue
		}
		if strings.HasSuffix(arg, ".py") && !filepath.IsAbs(arg) {
			if _, err := os.Stat(filepath.Join(code, arg)); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("the file to start, %s, is not in the code, which has %s", arg, listing(code))
			}
		}
		break
	}
	return c, nil
}

func entryOf(code string) (string, error) {
	found, err := filepath.Glob(filepath.Join(code, "*.py"))
	if err != nil {
		return "", err
	}
	if slices.Contains(found, filepath.Join(code, "main.py")) {
		return "main.py", nil
	}
	if len(found) == 1 {
		return filepath.Base(found[0]), nil
	}
	return "", fmt.Errorf("no file to start: name a command, or have a main.py; the code has %s", listing(code))
}

// listing names a few files of a folder.
func listing(dir string) string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for i, e := range entries {
		if i == 8 {
			names = append(names, fmt.Sprintf("and %d more", len(entries)-i))
			break
		}
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return "no files"
	}
	return strings.Join(names, ", ")
}

// variables is the environment of the program. It begins with nothing of ours,
// so that no secret of the platform can be in it.
func (s *Supervisor) variables(start mlaas.Start, run *Runtime, socket string) []string {
	in := func(name string) string { return filepath.Join(s.Folder, name) }
	role, index, _ := mlaas.SplitReplica(s.Fence.Replica)
	v := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
		"HOME": in(HomeDir), "USER": "mlaas", "LOGNAME": "mlaas", "TMPDIR": in(TempDir),
	}
	if tz, ok := os.LookupEnv("TZ"); ok {
		v["TZ"] = tz
	}
	maps.Copy(v, run.Variables)
	maps.Copy(v, s.Vars)
	if v["TMPDIR"] == "" {
		delete(v, "TMPDIR")
	}
	own := maps.Clone(v)
	maps.Copy(v, start.Environment.Variables)
	maps.Copy(v, start.Secrets)
	maps.Copy(v, start.Program.Variables)
	// Where programs and modules are found: the user's first, and ours still. But
	// Python runs one sitecustomize alone, which is ours and calls the user's.
	v["PATH"] = joinPaths(v["PATH"], own["PATH"])
	v["PYTHONPATH"] = joinPaths(run.Site, v["PYTHONPATH"], own["PYTHONPATH"])
	for _, name := range []string{"PATH", "PYTHONPATH"} {
		if v[name] == "" {
			delete(v, name)
		}
	}
	maps.Copy(v, map[string]string{
		"MLAAS_RUN": string(s.Fence.Run), "MLAAS_JOB": string(s.Job), "MLAAS_REPLICA": s.Fence.Replica,
		"MLAAS_ROLE": role, "MLAAS_INDEX": strconv.Itoa(index), "MLAAS_EPOCH": strconv.Itoa(s.Fence.Epoch),
		"MLAAS_DATA": in(DataDir), "MLAAS_OUTPUT": in(OutputDir), "MLAAS_CHECKPOINTS": in(CheckpointDir),
		"MLAAS_SOCKET": socket,
	})
	if start.Recipe != nil && start.Recipe.Locals {
		v["MLAAS_SECRETS"] = strings.Join(slices.Sorted(maps.Keys(start.Secrets)), ",") // whose values no variable may show
	}
	delete(v, "MLAAS_RESUME")
	delete(v, "MLAAS_RESUME_STEP")
	if start.Resume != "" {
		v["MLAAS_RESUME"], v["MLAAS_RESUME_STEP"] = in(ResumeDir), strconv.FormatInt(start.ResumeStep, 10)
	}
	var env []string
	for _, k := range slices.Sorted(maps.Keys(v)) {
		env = append(env, k+"="+v[k])
	}
	return env
}

// joinPaths is the folders of all lists, each once.
func joinPaths(lists ...string) string {
	var all []string
	for _, list := range lists {
		for _, dir := range filepath.SplitList(list) {
			if dir != "" && !slices.Contains(all, dir) {
				all = append(all, dir)
			}
		}
	}
	return strings.Join(all, string(filepath.ListSeparator))
}

// run starts the program and waits until it ended and everything it wrote is
// in the spool. why says why it is to stop, once heard is closed.
func (p *program) run(ctx context.Context, heard <-chan struct{}, why func() *mlaas.Stop) mlaas.Phase {
	s := p.s
	failed := func(format string, args ...any) mlaas.Phase {
		return mlaas.Phase{Status: mlaas.ReplicaFailed, Reason: fmt.Sprintf(format, args...)}
	}
	defer p.tracker.close()
	p.killed = s.oomKills()
	var cmd func() (syscall.WaitStatus, error)
	var out func()
	err := s.roomily(ctx, func() (err error) {
		cmd, out, err = p.start()
		return err
	})
	if err != nil {
		return failed("the program could not be started: %v", err)
	}
	s.mu.Lock()
	s.program = p
	s.mu.Unlock()
	s.setPhase(func(ph *mlaas.Phase) {
		ph.Status, ph.Reason, ph.Program = mlaas.ReplicaRunning, "the program runs", true
	})

	// Polite first, then not: whichever of stop and timeout comes first.
	var reason string
	ended := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		var limit <-chan time.Time
		if p.timeout > 0 {
			t := time.NewTimer(p.timeout)
			defer t.Stop()
			limit = t.C
		}
		grace := p.grace
		select {
		case <-ended:
			return
		case <-limit:
			reason = fmt.Sprintf("its timeout of %s passed", p.timeout)
		case <-heard:
			w := why()
			if w == nil {
				w = &mlaas.Stop{}
			}
			if w.Grace > 0 {
				grace = w.Grace.Duration()
			}
			if reason = w.Reason; reason == "" {
				reason = "it was asked to stop"
			}
			if s.isSuspended() { // nobody asked the replica to end: it is lost, and says why in its log
				s.tell("the program is asked to end: " + reason)
			} else {
				s.setPhase(func(ph *mlaas.Phase) { ph.Status, ph.Reason = mlaas.ReplicaStopping, reason })
			}
		case <-ctx.Done(): // the supervisor itself must go
			grace = 0
		}
		p.signal(syscall.SIGTERM)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-ended:
		case <-t.C:
			p.signal(syscall.SIGKILL)
		}
	}()
	state, err := cmd()
	close(ended)
	<-told
	p.signal(syscall.SIGKILL) // what it left behind
	out()
	if err != nil {
		return failed("the program could not be waited for: %v", err)
	}
	p.tracker.close()

	done := mlaas.Phase{Program: true}
	code := state.ExitStatus()
	if state.Signaled() {
		code = 128 + int(state.Signal())
	}
	done.ExitCode = &code
	oom := s.oomKills() > p.killed
	stopped := false
	select {
	case <-heard:
		stopped = true
	default:
	}
	switch {
	case oom && code != 0:
		done.Status, done.OOM, done.Reason = mlaas.ReplicaFailed, true, s.outOfMemory()
	case stopped:
		done.Status, done.Reason = mlaas.ReplicaStopped, "stopped: "+reason
	case reason != "": // the timeout
		done.Status, done.Reason = mlaas.ReplicaFailed, reason
	case code == 0 && p.kernel != nil:
		done.Status, done.Reason = mlaas.ReplicaSucceeded, p.kernel.over()
	case code == 0:
		done.Status, done.Reason = mlaas.ReplicaSucceeded, "the program ended"
	case state.Signaled():
		done.Status = mlaas.ReplicaFailed
		done.Reason, done.Failure = p.crash(state.Signal())
	default:
		done.Status = mlaas.ReplicaFailed
		done.Reason, done.Failure = p.failure(code)
	}
	if s.isSuspended() {
		return done // the next attempt has outputs; there is nobody to give these to
	}
	// What it left is worth keeping however it ended; a stop does not cut it off.
	keep, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 10*time.Minute, errors.New("it took more than 10 minutes"))
	defer cancel()
	if done.Outputs, err = s.outputs(keep); err != nil {
		s.tell(fmt.Sprintf("$MLAAS_OUTPUT was not kept: %v", err))
	}
	return done
}

// start begins the program. The first function waits for its end, the second
// then for the rest of what it wrote.
func (p *program) start() (wait func() (syscall.WaitStatus, error), rest func(), err error) {
	s := p.s
	argv, env := p.command, p.env
	if len(s.Enter) > 0 {
		argv = slices.Clone(s.Enter)
		for _, see := range p.see {
			argv = append(argv, "--see="+see)
		}
		argv = append(append(argv, "--"), p.command...)
		env = make([]string, len(p.env))
		for i, v := range p.env {
			env[i] = "_" + v
		}
	} else if !strings.Contains(argv[0], "/") {
		if argv[0], err = lookIn(p.env, argv[0]); err != nil {
			return nil, nil, err
		}
	}
	var pipes [3]struct{ r, w *os.File }
	defer func() {
		for _, pipe := range pipes {
			if pipe.w != nil {
				pipe.w.Close()
			}
			if err != nil && pipe.r != nil {
				pipe.r.Close()
			}
		}
	}()
	for i := range pipes {
		if pipes[i].r, pipes[i].w, err = os.Pipe(); err != nil {
			return nil, nil, err
		}
	}
	in, err := os.Open(os.DevNull)
	if p.kernel != nil {
		in, err = p.kernel.pair()
	}
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	attr := &os.ProcAttr{Dir: filepath.Join(s.Folder, CodeDir), Env: env, Sys: apart(),
		Files: []*os.File{in, pipes[0].w, pipes[1].w}}
	if len(s.Enter) > 0 {
		attr.Files = append(attr.Files, pipes[2].w)
	}
	for _, l := range s.ports { // the program binds them itself
		l.Close()
	}
	s.ports = nil

	// The kernel ends the program when the thread that started it ends, so
	// that thread is kept until then.
	type end struct {
		state syscall.WaitStatus
		err   error
	}
	began, ended := make(chan error, 1), make(chan end, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		process, err := os.StartProcess(argv[0], argv, attr)
		if err == nil {
			p.mu.Lock()
			p.pid = process.Pid
			p.mu.Unlock()
		}
		began <- err
		if err != nil {
			return
		}
		state, err := process.Wait()
		p.mu.Lock()
		p.pid = -p.pid // its group may live on
		p.mu.Unlock()
		var e end
		if e.err = err; err == nil {
			e.state = state.Sys().(syscall.WaitStatus)
			p.s.used(state.SystemTime()+state.UserTime(), state.SysUsage())
		}
		ended <- e
	}()
	if err := <-began; err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = fmt.Errorf("%s: %w", e.Path, e.Err)
		}
		return nil, nil, err
	}
	for i := range pipes {
		pipes[i].w.Close()
		pipes[i].w = nil
	}
	var readers sync.WaitGroup
	streams := []string{"stdout", "stderr"}
	if p.kernel != nil {
		streams[0] = mlaas.KernelStream
	}
	for i, stream := range streams {
		readers.Go(func() { p.read(stream, pipes[i].r) })
	}
	why := make(chan string, 1)
	go func() { // whatever stands in front of the program says what went wrong
		text, _ := io.ReadAll(io.LimitReader(pipes[2].r, 64<<10))
		pipes[2].r.Close()
		why <- strings.TrimSpace(string(text))
	}()
	if len(s.Enter) > 0 {
		if text := <-why; text != "" {
			<-ended
			readers.Wait()
			err := errors.New(text)
			if strings.HasSuffix(text, syscall.ENOSPC.Error()) { // of another process: its words are all there is
				err = fmt.Errorf("%s%w", strings.TrimSuffix(text, syscall.ENOSPC.Error()), syscall.ENOSPC)
			}
			return nil, nil, err
		}
	}
	wait = func() (syscall.WaitStatus, error) {
		e := <-ended
		return e.state, e.err
	}
	rest = func() {
		// A process that went its own way may hold the pipe for ever.
		for _, pipe := range pipes[:2] {
			pipe.r.SetReadDeadline(time.Now().Add(2 * time.Second))
		}
		readers.Wait()
	}
	return wait, rest, nil
}

// lookIn finds a command in the PATH of env.
func lookIn(env []string, name string) (string, error) {
	for _, v := range env {
		if list, ok := strings.CutPrefix(v, "PATH="); ok {
			for _, dir := range filepath.SplitList(list) {
				file := filepath.Join(dir, name)
				if i, err := os.Stat(file); err == nil && i.Mode().IsRegular() && i.Mode()&0o111 != 0 {
					return file, nil
				}
			}
		}
	}
	return "", fmt.Errorf("there is no command %q", name)
}

// signal sends sig to the program's group.
func (p *program) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid := p.pid
	if pid < 0 {
		pid = -pid
	}
	if pid > 0 {
		syscall.Kill(-pid, sig)
	}
}

// read spools one stream as it comes.
func (p *program) read(stream string, r *os.File) {
	defer r.Close()
	c := &cutter{stream: stream, now: p.s.Now}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		lines := c.cut(buf[:n])
		if err != nil {
			lines = append(lines, c.rest()...)
		}
		if len(lines) > 0 {
			if stream == "stderr" {
				p.remember(lines)
			}
			p.s.log(lines...)
		}
		if err != nil {
			return
		}
	}
}

// signalName is "SIGKILL" rather than "killed".
func signalName(s syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGABRT: "SIGABRT", syscall.SIGALRM: "SIGALRM", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE",
		syscall.SIGHUP: "SIGHUP", syscall.SIGILL: "SIGILL", syscall.SIGINT: "SIGINT", syscall.SIGKILL: "SIGKILL",
		syscall.SIGPIPE: "SIGPIPE", syscall.SIGQUIT: "SIGQUIT", syscall.SIGSEGV: "SIGSEGV", syscall.SIGTERM: "SIGTERM",
		syscall.SIGTRAP: "SIGTRAP", syscall.SIGXCPU: "SIGXCPU", syscall.SIGXFSZ: "SIGXFSZ",
	}
	if n, ok := names[s]; ok {
		return n
	}
	return strconv.Itoa(int(s))
}

// A place's own account of what the program uses.

// measure is what the program has used by now.
func (s *Supervisor) measure() mlaas.Usage {
	s.mu.Lock()
	p, u := s.program, s.usage
	s.mu.Unlock()
	if v, ok := readNumber(s.Groups.CPU, "cpuacct.usage"); ok {
		u.CPUSeconds = float64(v) / 1e9
	} else if v, ok := readField(s.Groups.CPU, "cpu.stat", "usage_usec"); ok {
		u.CPUSeconds = float64(v) / 1e6
	}
	if v, ok := readNumber(s.Groups.Memory, "memory.usage_in_bytes", "memory.current"); ok {
		u.Memory = mlaas.Bytes(v)
	}
	if v, ok := readNumber(s.Groups.Memory, "memory.max_usage_in_bytes", "memory.peak"); ok {
		u.Peak = max(u.Peak, mlaas.Bytes(v))
	}
	if p != nil && (s.Groups.CPU == "" || s.Groups.Memory == "") {
		p.mu.Lock()
		pid := p.pid
		p.mu.Unlock()
		if pid < 0 {
			pid = -pid
		}
		cpu, memory := sessionUsage(pid)
		if s.Groups.CPU == "" {
			u.CPUSeconds = max(u.CPUSeconds, cpu)
		}
		if s.Groups.Memory == "" {
			u.Memory = mlaas.Bytes(memory)
		}
	}
	u.Peak = max(u.Peak, u.Memory)
	s.mu.Lock()
	defer s.mu.Unlock()
	u.Dropped, u.GPUBusy = s.dropped, s.usage.GPUBusy
	s.usage = u
	return u
}

// used takes what the kernel says of a process that ended, which counts where
// there are no groups.
func (s *Supervisor) used(cpu time.Duration, usage any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Groups.CPU == "" {
		s.usage.CPUSeconds = max(s.usage.CPUSeconds, cpu.Seconds())
	}
	if r, ok := usage.(*syscall.Rusage); ok && s.Groups.Memory == "" {
		s.usage.Peak = max(s.usage.Peak, mlaas.Bytes(maxRSS(r)))
	}
}

// oomKills counts what the kernel ended for want of memory.
func (s *Supervisor) oomKills() int64 {
	n, ok := readField(s.Groups.Memory, "memory.oom_control", "oom_kill")
	if !ok {
		n, _ = readField(s.Groups.Memory, "memory.events", "oom_kill")
	}
	return n
}

func (s *Supervisor) outOfMemory() string {
	u := s.measure()
	if s.Ceiling.Memory == 0 {
		return fmt.Sprintf("out of memory: the machine has no more, and it used %s", human(u.Peak))
	}
	return fmt.Sprintf("out of memory: its ceiling is %s, it used %s", human(s.Ceiling.Memory), human(u.Peak))
}

// human rounds: nobody wants to read 268431360.
func human(b mlaas.Bytes) string {
	switch v := float64(b); {
	case v >= 1<<30:
		return strconv.FormatFloat(math.Round(v/(1<<30)*10)/10, 'f', -1, 64) + "Gi"
	case v >= 1<<20:
		return strconv.FormatFloat(v/(1<<20), 'f', 0, 64) + "Mi"
	}
	return b.String()
}

func readNumber(dir string, names ...string) (int64, bool) {
	if dir == "" {
		return 0, false
	}
	for _, name := range names {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			return v, err == nil
		}
	}
	return 0, false
}

func readField(dir, name, field string) (int64, bool) {
	if dir == "" {
		return 0, false
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == field {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
