//go:build linux

package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/executortest"
	"mlaas.dev/mlaas/booster/local"
	"mlaas.dev/mlaas/supervisor"
)

// The test binary plays the mlaas program: executors start it with these words.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			os.Exit(supervise(os.Args[2:]))
		case "enter":
			local.Enter(os.Args[2:])
		case "launch":
			launch(os.Args[2:])
		}
	}
	// Which Python programs run with, for our supervisors to inherit.
	if out, err := exec.Command("python3", "-c", "import sys; print(sys.executable, sys.base_prefix, sep=':')").Output(); err == nil {
		os.Setenv("TEST_PYTHON", strings.TrimSpace(string(out)))
	}
	if library, err := filepath.Abs("../../python"); err == nil {
		os.Setenv("TEST_LIBRARY", library)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // under the race detector every process lingers for a second
	os.Exit(m.Run())
}

// supervise is `mlaas supervise`, or the puppet of the conformance suite.
func supervise(args []string) int {
	drain := args[0] == "--drain"
	c, err := supervisor.ReadConfig(args[len(args)-1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if c.Door == "puppet" {
		return puppet(c, drain)
	}
	s := &supervisor.Supervisor{
		Config: c, Drain: drain, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Door: &supervisor.HTTPDoor{Address: c.Door, Token: c.Token},
		Prepare: func(context.Context, mlaas.Environment, []byte, func(string)) (*supervisor.Runtime, error) {
			python, prefix, _ := strings.Cut(os.Getenv("TEST_PYTHON"), ":")
			library := os.Getenv("TEST_LIBRARY")
			return &supervisor.Runtime{Python: python, Library: library, ReadOnly: []string{prefix, library}, Variables: map[string]string{"PYTHONPATH": library}}, nil
		},
	}
	suspend := make(chan os.Signal, 1)
	signal.Notify(suspend, syscall.SIGUSR1)
	go func() {
		<-suspend
		s.Suspend(time.Hour, "the platform was taken down")
	}()
	err = s.Run(context.Background())
	if errors.Is(err, supervisor.ErrSuspended) {
		return 0
	}
	if errors.Is(err, supervisor.ErrClaimed) {
		return supervisor.ExitClaimed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// puppet plays the supervisor of the conformance suite: it starts a program
// that does not listen, and ends when a file says so.
func puppet(c supervisor.Config, drain bool) int {
	if drain {
		return 0
	}
	syscall.CloseOnExec(3) // what it starts does not say that it is ready
	lock, err := supervisor.Claim(context.Background(), c.Folder)
	if err != nil {
		return supervisor.ExitClaimed
	}
	defer lock.Close()
	starts, _ := os.OpenFile(c.Token, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fmt.Fprintln(starts, "begins")
	starts.Close()
	fmt.Fprintln(os.Stderr, c.Fence)
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	read, write, _ := os.Pipe()
	argv := append(append([]string{}, c.Enter...), "--", "/bin/sh", "-c", `trap "" TERM HUP INT; setsid sleep 600 & sleep 600`)
	if len(c.Enter) == 0 {
		argv = argv[1:]
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"_PATH=/usr/bin:/bin", "_HOME=" + c.Folder + "/home", "PATH=/usr/bin:/bin", "MLAAS_OUTPUT=" + c.Folder + "/output"}
	if len(c.Enter) > 0 {
		cmd.ExtraFiles = []*os.File{write}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	write.Close()
	if n, _ := read.Read(make([]byte, 1)); n > 0 {
		return 1
	}
	if err := supervisor.Ready(); err != nil {
		return 1
	}
	// A named pipe is opened when someone writes the exit code into it.
	data, err := os.ReadFile(c.Token + ".end")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return code
}

// launch is the platform as far as these tests need it: it starts one replica
// and waits to be killed.
func launch(args []string) {
	e := &local.Executor{Dir: filepath.Join(args[0], "replicas"), EnvDir: filepath.Join(args[0], "env"), Binary: self()}
	f := testFence("worker-0", args[2])
	if err := e.Start(context.Background(), booster.Spec{Fence: f, Door: args[1], Token: "secret-token"}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exe
}

func testFence(replica, run string) mlaas.Fence {
	return mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: replica, Incarnation: 1}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	executortest.Run(t, func(t *testing.T) executortest.Harness { return harness(t, false) })
}

func TestConformancePlain(t *testing.T) {
	t.Parallel()
	executortest.Run(t, func(t *testing.T) executortest.Harness { return harness(t, true) })
}

func harness(t *testing.T, plain bool) executortest.Harness {
	dir := t.TempDir()
	control := func(f mlaas.Fence) string { return filepath.Join(dir, f.String()) }
	var open *local.Executor
	return executortest.Harness{
		Open: func(t *testing.T) booster.Executor {
			if open != nil {
				open.Close()
			}
			open = &local.Executor{Dir: filepath.Join(dir, "replicas"), EnvDir: filepath.Join(dir, "env"), Binary: self(), Plain: plain, Log: slog.New(slog.DiscardHandler)}
			t.Cleanup(func() { open.Close() })
			return open
		},
		Spec: func(t *testing.T, f mlaas.Fence) booster.Spec {
			if err := syscall.Mkfifo(control(f)+".end", 0o600); err != nil && !errors.Is(err, syscall.EEXIST) {
				t.Fatal(err)
			}
			return booster.Spec{Fence: f, Door: "puppet", Token: control(f)}
		},
		Broken: func(t *testing.T, f mlaas.Fence) booster.Spec {
			return booster.Spec{Fence: f, Door: "puppet", Token: control(f), Environment: mlaas.Environment{Image: "python:3"}}
		},
		End: func(t *testing.T, f mlaas.Fence, code int) {
			if err := os.WriteFile(control(f)+".end", []byte(strconv.Itoa(code)), 0); err != nil {
				t.Fatal(err)
			}
		},
		Starts: func(t *testing.T, f mlaas.Fence) int {
			data, _ := os.ReadFile(control(f))
			return strings.Count(string(data), "\n")
		},
		Left: func(t *testing.T, f mlaas.Fence) []string { return left(f.String()) },
	}
}

// left lists processes, groups and mounts that carry a name.
func left(name string) (out []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue
		}
		for _, file := range []string{"cmdline", "environ", "cgroup"} {
			data, _ := os.ReadFile(filepath.Join(p, file))
			if strings.Contains(string(data), name) {
				stat, _ := os.ReadFile(filepath.Join(p, "stat"))
				if !strings.Contains(string(stat), ") Z ") {
					out = append(out, "process "+filepath.Base(p)+" by its "+file)
				}
				break
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/mlaas/", "/sys/fs/cgroup/mlaas/"} {
		groups, _ := filepath.Glob(pattern + name)
		out = append(out, groups...)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), name) {
		out = append(out, "a mount")
	}
	return out
}

// A bench is an executor, a door, and programs that run.
type bench struct {
	*testing.T
	*door
	e   *local.Executor
	dir string
	n   int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getenv("TEST_PYTHON") == "" {
		t.Skip("there is no python3 here")
	}
	t.Parallel()
	b := &bench{T: t, door: newDoor(t), dir: t.TempDir()}
	b.e = b.executor()
	c, err := b.e.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range c.Limits {
		t.Log("not tested here:", l)
	}
	return b
}

func (b *bench) executor() *local.Executor {
	e := &local.Executor{Dir: filepath.Join(b.dir, "replicas"), EnvDir: filepath.Join(b.dir, "env"), Binary: self(), Log: slog.New(slog.DiscardHandler)}
	b.Cleanup(func() { e.Close() })
	return e
}

func (b *bench) enforced(what string) bool {
	c, err := b.e.Capacity(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, l := range c.Limits {
		if strings.Contains(l, what) || strings.Contains(l, "unconfined") {
			b.Logf("skipped: %s", l)
			return false
		}
	}
	return true
}

// run starts a replica with a program of one file.
func (b *bench) run(program string, change ...func(*booster.Spec, *mlaas.Start)) mlaas.Fence {
	b.Helper()
	b.n++
	f := testFence(mlaas.ReplicaName(mlaas.Worker, b.n), mlaas.NewID(time.Now()))
	spec := booster.Spec{Fence: f, Job: "job", Door: b.address, Token: "secret-token"}
	start := &mlaas.Start{
		Bundle: b.tree(map[string]string{"main.py": program}), Environment: mlaas.Environment{Framework: "python"},
		Program: mlaas.Program{Command: []string{"python", "main.py"}},
	}
	for _, c := range change {
		c(&spec, start)
	}
	b.mu.Lock()
	b.starts[f.String()] = start
	b.mu.Unlock()
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.e.Stop(ctx, f); err != nil {
			b.Error(err)
		}
		if l := left(f.String()); len(l) > 0 {
			b.Errorf("left of %s: %v", f, l)
		}
		if b.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.dir, "replicas", f.String(), supervisor.LogFile))
			b.Logf("supervisor of %s: %s", f, log)
		}
	})
	if err := b.e.Start(b.Context(), spec); err != nil {
		b.Fatal(err)
	}
	return f
}

func cpu(m mlaas.MilliCPU) func(*booster.Spec, *mlaas.Start) {
	return func(s *booster.Spec, _ *mlaas.Start) { s.Ceiling.CPU = m }
}

func mem(m mlaas.Bytes) func(*booster.Spec, *mlaas.Start) {
	return func(s *booster.Spec, _ *mlaas.Start) { s.Ceiling.Memory = m }
}

func (b *bench) succeeded(f mlaas.Fence) *told {
	b.Helper()
	r := b.final(f)
	if p := r.phase(); p.Status != mlaas.ReplicaSucceeded {
		b.Fatalf("%s: %s\nstdout: %s\nstderr: %s", p.Status, p.Reason, r.text("stdout"), r.text("stderr"))
	}
	return r
}

// The whole life of a program: what it is given, what it says and leaves.
func TestLife(t *testing.T) {
	b := newBench(t)
	f := b.run(`
import os, sys, json, socket
print("hello", sys.argv[1:])
print("oops", file=sys.stderr)
open(os.environ["MLAAS_OUTPUT"] + "/result.txt", "w").write("42")
os.symlink("/etc/passwd", os.environ["MLAAS_OUTPUT"] + "/link")
ck = os.environ["MLAAS_CHECKPOINTS"] + "/7"
os.mkdir(ck); open(ck + "/state", "w").write("weights")
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["MLAAS_SOCKET"])
s.sendall(json.dumps({"points": [["loss", 1, 1700000000000, 0.5], ["loss", 2, 1700000000001, "NaN"], ["", 1, 1, 1], ["x"]]}).encode() + b"\n")
s.sendall(json.dumps({"checkpoint": {"path": ck, "step": 7, "best": "acc"}}).encode() + b"\n")
s.close()
print(open(os.environ["MLAAS_DATA"] + "/mnist/a/b.txt").read())
print(os.environ["MLAAS_RESUME_STEP"], open(os.environ["MLAAS_RESUME"] + "/old").read(), os.environ["KEY"], os.environ["RANK"])
open("scratch", "w").write("the code folder is its own")
`, func(_ *booster.Spec, s *mlaas.Start) {
		s.Data = []mlaas.DataTree{{Name: "mnist", Source: "dataset:mnist@1", Tree: b.tree(map[string]string{"a/b.txt": "digits"})}}
		s.Program.Command = append(s.Program.Command, "--lr", "0.1")
		s.Program.Variables = map[string]string{"RANK": "0"}
		s.Secrets = map[string]string{"KEY": "s3cret"}
		s.Resume, s.ResumeStep = b.tree(map[string]string{"old": "before"}), 5
	})
	r := b.succeeded(f)
	if got, want := r.text("stdout"), "hello ['--lr', '0.1']\ndigits\n5 before s3cret 0\n"; got != want {
		t.Errorf("stdout is %q, want %q", got, want)
	}
	if got := r.text("stderr"); got != "oops\n" {
		t.Errorf("stderr is %q", got)
	}
	if len(r.points) != 2 || r.points[0].Value != 0.5 || r.points[1].Value == r.points[1].Value {
		t.Errorf("points are %+v, want 0.5 and NaN", r.points)
	}
	if got := b.files(r.phase().Outputs); len(got) != 1 || got["result.txt"] != "42" {
		t.Errorf("outputs are %v, want result.txt alone: a link leads anywhere", got)
	}
	if len(r.made) != 1 || r.made[0].Step != 7 || r.made[0].Best != "acc" || b.files(r.made[0].Tree)["state"] != "weights" {
		t.Errorf("checkpoints are %+v", r.made)
	}
	u := r.phase().Usage
	if u.CPUSeconds <= 0 || u.Peak <= 0 || u.Dropped != 2 {
		t.Errorf("usage is %+v, want CPU, memory, and 2 points dropped that were wrong", u)
	}
	if len(r.hello.Ports) != 2 || r.hello.Address != "127.0.0.1" {
		t.Errorf("hello is %+v", r.hello)
	}
	// Nothing secret is on disk, but for the job token that its owner reads.
	filepath.WalkDir(filepath.Join(b.dir, "replicas"), func(p string, d os.DirEntry, err error) error {
		if d != nil && d.Type().IsRegular() {
			if data, _ := os.ReadFile(p); strings.Contains(string(data), "s3cret") && !strings.Contains(filepath.Base(p), "log-") {
				t.Errorf("%s holds a secret", p)
			}
		}
		return nil
	})
	b.say(f, mlaas.Down{Stop: &mlaas.Stop{Reason: "done"}})
	if n := b.lost(f); n.ExitCode == nil || *n.ExitCode != 0 {
		t.Errorf("its supervisor ended so: %+v", n)
	}
}

// lost waits until the executor sees the end of a replica.
func (b *bench) lost(f mlaas.Fence) booster.News {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 25*time.Second)
	defer cancel()
	news := make(chan booster.News)
	go b.e.Watch(ctx, news)
	for {
		select {
		case n := <-news:
			if n.Fence == f && n.Status.Final() {
				return n
			}
		case <-ctx.Done():
			b.Fatalf("%s does not end", f)
		}
	}
}

// 0.3 CPU is 0.3 CPU of everything that a program starts.
func TestCPUCeiling(t *testing.T) {
	b := newBench(t)
	if !b.enforced("CPU") {
		return
	}
	f := b.run(`
import os, time, multiprocessing
def burn(): 
    while True: pass
for _ in range(3): multiprocessing.Process(target=burn, daemon=True).start()
time.sleep(2)
`, cpu(300))
	r := b.succeeded(f)
	wall := r.phase().At.Sub(b.began(r)).Seconds()
	if got := r.phase().Usage.CPUSeconds; got > 0.3*wall+0.2 || got < 0.1 {
		t.Errorf("it used %.2f CPU seconds in %.2f s, want at most 0.3 of them", got, wall)
	}
}

func (b *bench) began(r *told) time.Time {
	for _, p := range r.phases {
		if p.Status == mlaas.ReplicaRunning {
			return p.At
		}
	}
	b.Fatal("it never ran")
	return time.Time{}
}

func TestMemoryCeiling(t *testing.T) {
	b := newBench(t)
	if !b.enforced("memory") {
		return
	}
	f := b.run("x = []\nwhile True: x.append(bytearray(1 << 20))\n", mem(96<<20))
	p := b.final(f).phase()
	if p.Status != mlaas.ReplicaFailed || !p.OOM || !strings.HasPrefix(p.Reason, "out of memory: its ceiling is 96Mi, it used 9") {
		t.Errorf("it is %s, OOM %v: %s", p.Status, p.OOM, p.Reason)
	}
	if p.ExitCode == nil || *p.ExitCode != 137 {
		t.Errorf("its exit code is %v, want 137", p.ExitCode)
	}
}

func TestEnds(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name, program string
		status        mlaas.ReplicaStatus
		code          int
		reason        string
	}{
		{"exit code", "import sys; sys.exit(3)", mlaas.ReplicaFailed, 3, "the program ended with exit code 3"},
		{"an error", "raise ValueError('bad news')", mlaas.ReplicaFailed, 1, "the program ended with exit code 1: ValueError: bad news (main.py:1 in <module>: raise ValueError('bad news'))"},
		{"does not parse", "x = 1\ny = (2,\nprint(x\n", mlaas.ReplicaFailed, 1, "the program does not parse: main.py:3: SyntaxError: '(' was never closed"},
		{"killed", "import os; os.kill(os.getpid(), 9)", mlaas.ReplicaFailed, 137, "the program was ended by signal SIGKILL"},
		{"segmentation fault", "import ctypes; ctypes.string_at(0)", mlaas.ReplicaFailed, 139, "the program was ended by signal SIGSEGV"},
		{"aborts", "import os; os.abort()", mlaas.ReplicaFailed, 134, "the program was ended by signal SIGABRT"},
		{"nothing", "", mlaas.ReplicaSucceeded, 0, "the program ended"},
	}
	fences := map[string]mlaas.Fence{}
	for _, tt := range tests {
		fences[tt.name] = b.run(tt.program)
	}
	for _, tt := range tests {
		p := b.final(fences[tt.name]).phase()
		if p.Status != tt.status || p.ExitCode == nil || *p.ExitCode != tt.code || p.Reason != tt.reason || !p.Program {
			t.Errorf("%s: %s, %v: %q; want %s, %d: %q", tt.name, p.Status, *p.ExitCode, p.Reason, tt.status, tt.code, tt.reason)
		}
	}
}

func TestNotStarted(t *testing.T) {
	b := newBench(t)
	command := func(words ...string) func(*booster.Spec, *mlaas.Start) {
		return func(_ *booster.Spec, s *mlaas.Start) { s.Program.Command = words }
	}
	for reason, words := range map[string][]string{
		"the file to start, train.py, is not in the code, which has main.py": {"python", "train.py"},
		`the program could not be started: there is no command "nonsense"`:   {"nonsense"},
		"the program could not be started: ./main.py: permission denied":     {"./main.py"},
	} {
		p := b.final(b.run("pass", command(words...))).phase()
		if p.Status != mlaas.ReplicaFailed || p.Program || p.Reason != reason {
			t.Errorf("%v: %s: %q, want %q", words, p.Status, p.Reason, reason)
		}
	}
}

// A stop is polite first. Whoever does not listen is ended, with all that it
// started, wherever that went.
func TestStop(t *testing.T) {
	b := newBench(t)
	polite := b.run("import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: (print('saving'), sys.exit(0)))\nprint('up')\ntime.sleep(100)")
	deaf := b.run("import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsubprocess.Popen(['setsid', 'sleep', '500'])\nprint('up')\ntime.sleep(100)")
	for f, grace := range map[mlaas.Fence]mlaas.Seconds{polite: 20, deaf: 0.3} {
		b.until(f, "up", func(r *told) bool { return strings.Contains(r.text("stdout"), "up") })
		b.say(f, mlaas.Down{Stop: &mlaas.Stop{Grace: grace, Reason: "the user said so"}})
	}
	r := b.final(polite)
	if p := r.phase(); p.Status != mlaas.ReplicaStopped || *p.ExitCode != 0 || p.Reason != "stopped: the user said so" || !strings.Contains(r.text("stdout"), "saving") {
		t.Errorf("polite: %+v, %s", p, r.text("stdout"))
	}
	if p := b.final(deaf).phase(); p.Status != mlaas.ReplicaStopped || *p.ExitCode != 137 {
		t.Errorf("deaf: %+v", p)
	}
	for _, f := range []mlaas.Fence{polite, deaf} {
		if n := b.lost(f); n.ExitCode == nil || *n.ExitCode != 0 {
			t.Errorf("its supervisor ended so: %+v", n)
		}
	}
}

func TestTimeout(t *testing.T) {
	b := newBench(t)
	f := b.run("import time; time.sleep(100)", func(_ *booster.Spec, s *mlaas.Start) { s.Timeout = 0.3 })
	if p := b.final(f).phase(); p.Status != mlaas.ReplicaFailed || p.Reason != "its timeout of 300ms passed" {
		t.Errorf("%+v", p)
	}
}

// What a program writes arrives whole, once and in order, also while the
// platform is away.
func TestDoorAway(t *testing.T) {
	b := newBench(t)
	f := b.run("import time\nfor i in range(4000):\n    print(i)\n    if i % 40 == 0: time.sleep(0.01)\n")
	for range 3 {
		n := 0
		b.until(f, "more lines", func(r *told) bool {
			if n == 0 {
				n = len(r.lines) + 300
			}
			return len(r.lines) >= n || r.phase().Status.Final()
		})
		b.shut()
		b.door.open()
	}
	r := b.succeeded(f)
	if len(r.lines) != 4000 {
		t.Fatalf("%d lines arrived, want 4000", len(r.lines))
	}
	for i, l := range r.lines {
		if l.Text != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, l.Text)
		}
	}
	if r.hellos < 3 {
		t.Errorf("%d conversations, want some", r.hellos)
	}
}

// Junk has a bounded effect.
func TestJunk(t *testing.T) {
	b := newBench(t)
	f := b.run(`
import sys, os
sys.stdout.buffer.write(b"x" * (10 << 20) + b"\n")
sys.stdout.buffer.write(bytes(range(256)) * 40 + b"\n")
for i in range(5000): sys.stdout.write("\r%d%%" % (i // 50))
print()
print("end", end="")
`)
	r := b.succeeded(f)
	size, last := 0, 0
	for _, l := range r.lines {
		if len(l.Text) > mlaas.MaxLine {
			t.Fatalf("a line of %d bytes", len(l.Text))
		}
		if strings.HasPrefix(l.Text, "xx") {
			size += len(l.Text)
			if last++; l.Part != last {
				t.Errorf("part %d, want %d", l.Part, last)
			}
		}
	}
	if size != 10<<20 {
		t.Errorf("%d bytes of the long line arrived, want all", size)
	}
	if n := len(r.lines); n > 260 {
		t.Errorf("%d lines: a progress bar is not a flood", n)
	}
	if got := r.lines[len(r.lines)-1].Text; got != "end" {
		t.Errorf("the last line is %q", got)
	}
}

// A program sees its folder, its environment and the system; nothing of the
// platform and of other replicas.
func TestSandbox(t *testing.T) {
	b := newBench(t)
	if !b.enforced("see what it sees") || !b.enforced("see the whole machine") {
		return
	}
	if err := os.WriteFile(filepath.Join(b.dir, "key"), []byte("key"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := b.run("import time; print('up'); time.sleep(100)")
	b.until(other, "up", func(r *told) bool { return len(r.lines) > 0 })
	f := b.run(fmt.Sprintf(`
import os, sys, socket, tempfile
me = os.path.dirname(os.getcwd())
def denied(what, f):
    try: f()
    except OSError as e: print("denied", what)
    else: print("ALLOWED", what)
denied("key", lambda: open(%q).read())
denied("other", lambda: os.listdir(%q))
denied("config", lambda: open(me + "/supervisor.json").read())
denied("shadow", lambda: open("/etc/shadow").read())
denied("root", lambda: os.listdir("/home"))
denied("usr", lambda: open("/usr/x", "w"))
denied("python", lambda: open(sys.base_prefix + "/x", "w"))
denied("data", lambda: open(os.environ["MLAAS_DATA"] + "/x", "w"))
denied("root dir", lambda: open("/x", "w"))
denied("chroot", lambda: os.chroot("/tmp"))
denied("mount", lambda: sys.exit(1) if os.system("mount -t tmpfs x /tmp 2>/dev/null") == 0 else (_ for _ in ()).throw(OSError()))
print("uid", os.getuid() >= 200000, os.getgroups() == [] or os.getgroups())
print("pids", len([p for p in os.listdir("/proc") if p.isdigit()]))
print("others", [n for n in os.listdir(os.path.dirname(me))] == [os.path.basename(me)])
print("zombies", os.system("true"))
open("/tmp/x", "w").write("x"); open(tempfile.gettempdir() + "/y", "w"); open("/dev/null", "w"); open("/dev/shm/z", "w")
import pwd, multiprocessing; print(pwd.getpwuid(os.getuid()).pw_name, os.path.expanduser("~") == os.environ["HOME"])
multiprocessing.Lock()
s = socket.socket(); s.bind(("127.0.0.1", 0))
print(os.environ.get("MLAAS_TOKEN"), [k for k in os.environ if "TEST" in k])
`, filepath.Join(b.dir, "key"), filepath.Join(b.dir, "replicas", other.String())))
	r := b.succeeded(f)
	out := r.text("stdout")
	if strings.Contains(out, "ALLOWED") || strings.Count(out, "denied") != 11 {
		t.Errorf("some of this should be denied:\n%s", out)
	}
	for _, want := range []string{"uid True True", "pids 2", "others True", "zombies 0", "mlaas True", "None []"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// A supervisor that is killed takes its program along, and what that wrote is
// delivered all the same.
func TestSupervisorKilled(t *testing.T) {
	b := newBench(t)
	f := b.run("import os, time\nprint('up')\nfor i in range(50): print(i)\ntime.sleep(100)")
	b.until(f, "the last line", func(r *told) bool { return strings.Contains(r.text("stdout"), "\n49\n") })
	b.shut()
	var p supervisor.Process
	folder := filepath.Join(b.dir, "replicas", f.String())
	readJSON(t, filepath.Join(folder, supervisor.ProcessFile), &p)
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.door.open()
	n := b.lost(f)
	if n.Status != mlaas.ReplicaLost || n.ExitCode == nil || *n.ExitCode != 137 || n.Reason != "its supervisor was ended by signal 9" {
		t.Errorf("%+v", n)
	}
	r := b.until(f, "another hello", func(r *told) bool { return r.hellos >= 2 })
	if len(r.lines) != 51 {
		t.Errorf("%d lines, want 51", len(r.lines))
	}
	var processes []string
	for _, l := range left(f.String()) {
		if strings.HasPrefix(l, "process") {
			processes = append(processes, l)
		}
	}
	if len(processes) > 0 {
		t.Errorf("left: %v", processes)
	}
}

// The death of the platform ends nothing, and its next life finds everything.
func TestPlatformKilled(t *testing.T) {
	b := newBench(t)
	run := mlaas.NewID(time.Now())
	f := testFence("worker-0", run)
	start := &mlaas.Start{Bundle: b.tree(map[string]string{"main.py": "import time\nprint('up')\ntime.sleep(100)"}),
		Program: mlaas.Program{Command: []string{"python", "main.py"}}}
	b.mu.Lock()
	b.starts[f.String()] = start
	b.mu.Unlock()
	cmd := exec.Command(self(), "launch", b.dir, b.address, run)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := out.Read(line); err != nil || string(line[:7]) != "started" {
		t.Fatalf("it says %q, %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	b.until(f, "up", func(r *told) bool { return strings.Contains(r.text("stdout"), "up") })

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	news := make(chan booster.News)
	next := b.executor()
	go next.Watch(ctx, news)
	if n := <-news; n.Fence != f || n.Status != mlaas.ReplicaReady {
		t.Errorf("the first news is %+v, want %s ready", n, f)
	}
	if n := <-news; !n.Synced {
		t.Errorf("the second news is %+v, want synced", n)
	}
	if err := next.Stop(ctx, f); err != nil {
		t.Error(err)
	}
	if l := left(f.String()); len(l) > 0 {
		t.Errorf("left: %v", l)
	}
}

// After the machine was started again, everything that ran is lost, and says
// why.
func TestMachineRestarted(t *testing.T) {
	b := newBench(t)
	f := b.run("print('hello')\nimport time; time.sleep(100)")
	b.until(f, "hello", func(r *told) bool { return len(r.lines) > 0 })
	b.e.Close()
	folder := filepath.Join(b.dir, "replicas", f.String())
	var p supervisor.Process
	readJSON(t, filepath.Join(folder, supervisor.ProcessFile), &p)
	syscall.Kill(p.PID, syscall.SIGKILL)
	for _, file := range []string{"replica.json", supervisor.ProcessFile} {
		data, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		data = []byte(strings.ReplaceAll(string(data), supervisor.Boot(), "another"))
		if err := os.WriteFile(filepath.Join(folder, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.e = b.executor()
	if n := b.lost(f); n.Status != mlaas.ReplicaLost || n.Reason != "machine restarted" || !n.NodeLost {
		t.Errorf("%+v", n)
	}
}

// A supervisor that cannot begin is the fault of the platform, not of the
// program: it counts as lost, so that another attempt is made.
func TestCannotBegin(t *testing.T) {
	for binary, want := range map[string]string{
		"/bin/false":   "its supervisor could not begin: ",
		"/nonexistent": "its supervisor could not be started: ",
	} {
		t.Run(binary, func(t *testing.T) {
			b := newBench(t)
			b.e.Binary = binary
			n := b.lost(b.run("pass"))
			if n.Status != mlaas.ReplicaLost || !strings.HasPrefix(n.Reason, want) {
				t.Errorf("%+v, want %q", n, want)
			}
		})
	}
}

// Down asks every program first and ends those that do not listen; their runs
// are not over. What it returns for is that nothing is left, whoever is away.
func TestDown(t *testing.T) {
	b := newBench(t)
	polite := b.run("import os, signal, sys, time\nopen(os.environ['MLAAS_OUTPUT'] + '/out', 'w').write('x')\n" +
		"signal.signal(signal.SIGTERM, lambda *a: (print('saved'), sys.exit(0)))\nprint('up')\ntime.sleep(100)")
	deaf := b.run("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(100)")
	over := b.run("print('done')")
	b.succeeded(over)
	if err := b.e.Stop(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	for _, f := range []mlaas.Fence{polite, deaf} {
		b.until(f, "up", func(r *told) bool { return strings.Contains(r.text("stdout"), "up") })
	}
	b.shut()
	b.e.Close()
	n, err := b.executor().Down(t.Context(), 3*time.Second)
	if n != 2 || err != nil {
		t.Errorf("%d ended, %v", n, err)
	}
	for _, f := range []mlaas.Fence{polite, deaf} {
		if l := left(f.String()); len(l) > 0 {
			t.Errorf("left of %s: %v", f, l)
		}
		if _, err := os.Stat(filepath.Join(b.dir, "replicas", f.String(), supervisor.CompletionFile)); err == nil {
			t.Errorf("the program of %s counts as ended", f)
		}
	}
	if n, err := b.executor().Down(t.Context(), time.Second); n != 0 || err != nil {
		t.Errorf("the second time %d ended, %v", n, err)
	}

	b.door.open()
	b.e = b.executor()
	for _, f := range []mlaas.Fence{polite, deaf} {
		if n := b.lost(f); n.Status != mlaas.ReplicaLost || n.Reason != "the platform was taken down" {
			t.Errorf("%+v", n)
		}
	}
	if got := b.until(polite, "its last word", func(r *told) bool { return len(r.lines) >= 2 }).text("stdout"); got != "up\nsaved\n" {
		t.Errorf("it wrote %q", got)
	}
}

// A program that Down asked to end does so at once, although nobody takes what
// is in its output folder.
func TestDownWithOutputs(t *testing.T) {
	b := newBench(t)
	f := b.run("import os, time\nopen(os.environ['MLAAS_OUTPUT'] + '/out', 'w').write('x')\nprint('up')\ntime.sleep(100)")
	b.until(f, "up", func(r *told) bool { return strings.Contains(r.text("stdout"), "up") })
	b.shut()
	b.e.Close()
	began := time.Now()
	if n, err := b.executor().Down(t.Context(), time.Minute); n != 1 || err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("%d ended in %s, %v", n, time.Since(began), err)
	}
	b.e = b.executor()
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	b := newBench(t)
	f := b.run("pass")
	b.succeeded(f)
	if err := b.e.Stop(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(b.dir, "replicas", f.String())
	if n, err := b.e.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("young: %d, %v", n, err)
	}
	if _, err := os.Stat(folder); err != nil {
		t.Error(err)
	}
	if n, err := b.e.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("old: %d, %v", n, err)
	}
	if _, err := os.Stat(folder); err == nil {
		t.Error("its folder is still there")
	}
}

// Without a platform for too long a program is stopped, politely; how it ended
// and what it wrote is delivered when there is one again.
func TestQuiet(t *testing.T) {
	b := newBench(t)
	b.e.Quiet = 300 * time.Millisecond
	f := b.run("import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: (print('saving'), sys.exit(0)))\nprint('up')\ntime.sleep(100)")
	b.until(f, "up", func(r *told) bool { return strings.Contains(r.text("stdout"), "up") })
	var p supervisor.Process
	readJSON(t, filepath.Join(b.dir, "replicas", f.String(), supervisor.ProcessFile), &p)
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b.shut()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Fatalf("its supervisor does not end: %v", err)
		}
		break
	}
	b.door.open()
	r := b.final(f)
	if p := r.phase(); p.Status != mlaas.ReplicaStopped || p.Reason != "stopped: it heard nothing from the platform for 300ms" {
		t.Errorf("%+v", p)
	}
	if got := r.text("stdout"); got != "up\nsaving\n" {
		t.Errorf("it wrote %q", got)
	}
	if n := b.lost(f); n.ExitCode == nil || *n.ExitCode != 0 {
		t.Errorf("%+v", n)
	}
}
