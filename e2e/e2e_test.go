// Package e2e runs the scripts of this folder (*.txtar) against the real
// binary: what a user types, and what they see.
//
// The scripts know nothing of how the platform is laid out. MLAAS_LAYOUT names
// a layout; the harness starts it and hands each script an address and a
// token. MLAAS_BIN names the binary; without it, it is built once.
package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	layouts "mlaas.dev/mlaas/e2e/layout"
)

// patience is how long one step of a script may take, environments included.
const patience = 3 * time.Minute

func TestScripts(t *testing.T) {
	name, bin := kind(t), binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "layout-one":
				return name == "one", nil
			case "packages":
				return indexed(), nil
			case "tensorflow":
				_, err := os.Stat(tensorflow)
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			s := &stage{bin: bin, layout: choose(name, bin), jobs: map[string]*job{}}
			env.Values[stageKey{}] = s
			env.Defer(s.close)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("NO_COLOR", "1")
			if python, err := filepath.Abs(tensorflow); err == nil {
				env.Setenv("TENSORFLOW", python)
			}
			if examples, err := filepath.Abs("../examples"); err == nil {
				env.Setenv("EXAMPLES", examples)
			}
			env.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Vars = append(env.Vars, network()...)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"up":     up,
			"crash":  crash,
			"down":   down,
			"start":  start,
			"signal": signal,
			"finish": finish,
			"mlaas":  mlaas,
			"save":   save,
			"count":  count,
		},
	})
}

// tensorflow is a Python of this machine that has TensorFlow, where the tests of
// the Python package were prepared: what a user has to run a program by hand.
const tensorflow = "../bin/pytest/bin/python"

// kind is the layout that is asked for.
func kind(t *testing.T) string {
	t.Helper()
	name := cmp.Or(os.Getenv("MLAAS_LAYOUT"), layouts.One)
	if !slices.Contains(layouts.Kinds, name) {
		t.Fatalf("MLAAS_LAYOUT is %q, want one of %v", name, layouts.Kinds)
	}
	return name
}

func choose(kind, bin string) layout {
	if kind == layouts.One {
		return &one{bin: bin}
	}
	return &several{kind: kind, bin: bin}
}

// TestRoutes walks every route of the paper's figure 4.2 with curl alone.
func TestRoutes(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl")
	}
	dir := t.TempDir()
	l := choose(kind(t), binary(t))
	t.Cleanup(l.down)
	env, err := l.up(dir, os.Environ(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "routes.sh")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("routes.sh: %v", err)
	}
}

// indexed reports whether there is an index to install packages from.
func indexed() bool {
	at := "https://pypi.org/simple/"
	for _, k := range []string{"PIP_INDEX_URL", "UV_INDEX_URL"} {
		if v := os.Getenv(k); v != "" {
			at = strings.TrimSuffix(v, "/") + "/"
		}
	}
	c := http.Client{Timeout: 10 * time.Second}
	resp, err := c.Head(at + "six/")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// binary is the program under test: MLAAS_BIN, or one that TestMain built.
func binary(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(os.Getenv("MLAAS_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("MLAAS_BIN") != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "mlaas-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "mlaas")
	build := exec.Command("go", "build", "-o", bin, "../cmd/mlaas")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s\n", err, out)
		return 1
	}
	os.Setenv("MLAAS_BIN", bin)
	return m.Run()
}

// A layout is a way to run the platform.
type layout interface {
	// up starts it on a data folder, or again after a crash, and returns once it
	// serves, with the variables that a client needs.
	up(dir string, env, args []string) ([]string, error)
	// crash kills the control plane without a word; replicas stay.
	crash() error
	// down ends everything. It may be called twice.
	down()
}

// one is everything in one process: `mlaas up`.
type one struct {
	bin, dir string
	env      []string
	cmd      *exec.Cmd
	said     bytes.Buffer
}

func (o *one) up(dir string, env, args []string) ([]string, error) {
	o.dir, o.env = dir, env
	o.cmd = exec.Command(o.bin, append([]string{"up", "--dir", dir, "--listen", "127.0.0.1:0"}, args...)...)
	o.cmd.Env = env
	// Its own group: a Ctrl+C at the tests ends it by down, not by half.
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	o.said.Reset()
	o.cmd.Stderr = &o.said
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
				ready <- url
			}
		}
		close(ready)
	}()
	select {
	case url, ok := <-ready:
		if !ok {
			o.cmd.Wait()
			return nil, fmt.Errorf("mlaas up ended without serving: %s", o.said.String())
		}
		token, err := os.ReadFile(filepath.Join(dir, "token"))
		return []string{"MLAAS_URL=" + url, "MLAAS_TOKEN=" + strings.TrimSpace(string(token)), "MLAAS_DIR=" + dir}, err
	case <-time.After(patience):
		o.cmd.Process.Kill()
		return nil, errors.New("mlaas up does not say ready")
	}
}

func (o *one) crash() error {
	if err := o.cmd.Process.Kill(); err != nil {
		return err
	}
	o.cmd.Wait() // it was killed, and says so
	return nil
}

func (o *one) down() {
	if o.dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	end := exec.CommandContext(ctx, o.bin, "down", "--dir", o.dir, "--grace", "1s")
	end.Env = o.env
	if out, err := end.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "mlaas down: %v: %s\n", err, out)
	}
	if o.cmd.ProcessState == nil {
		o.cmd.Process.Kill()
		o.cmd.Wait()
	}
	o.dir = ""
}

// several is the services as processes of their own, over Redis and S3.
type several struct {
	kind, bin string
	share     string                         // what it is called in the store and where blobs are
	before    func(store, blob string) error // the services start
	platform  *layouts.Platform
	said      bytes.Buffer // complete only when it is down
}

func (s *several) up(dir string, env, args []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := os.MkdirAll(dir, 0o711)
	if err != nil {
		return nil, err
	}
	if s.platform != nil {
		err = s.platform.Restart(ctx)
	} else {
		s.platform, err = layouts.Start(ctx, layouts.Options{Kind: s.kind, Binary: s.bin, Dir: dir, Env: env, Args: args, Log: &s.said, Share: s.share, Before: s.before,
			S3: filepath.Join(filepath.Dir(s.bin), "versitygw")})
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it wrote:\n%s", err, s.said.String())
	}
	return s.platform.Variables(), nil
}

func (s *several) crash() error {
	s.platform.Crash()
	return nil
}

func (s *several) down() {
	if s.platform == nil {
		return
	}
	if err := s.platform.Down(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	s.platform = nil
	if os.Getenv("MLAAS_LOG") != "" {
		fmt.Fprint(os.Stderr, s.said.String())
	}
}

// A stage is what one script has started.
type stage struct {
	bin    string
	layout layout
	jobs   map[string]*job
}

type stageKey struct{}

func (s *stage) close() {
	for _, j := range s.jobs {
		j.cmd.Process.Kill()
		<-j.ended
	}
	s.layout.down()
}

func of(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

// environ is the script's environment, as a child gets it.
func environ(ts *testscript.TestScript) []string {
	env := network()
	for _, k := range []string{"HOME", "PATH", "NO_COLOR", "TMPDIR", "WORK", "EDITOR", "MLAAS_URL", "MLAAS_TOKEN", "MLAAS_DIR"} {
		if v := ts.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// network is what says how packages are reached from here.
func network() (env []string) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToUpper(kv), "=")
		if strings.HasPrefix(name, "PIP_") || strings.HasPrefix(name, "UV_") || strings.HasSuffix(name, "_PROXY") || strings.HasPrefix(name, "SSL_CERT_") {
			env = append(env, kv)
		}
	}
	return env
}

// up [ARGS] starts the platform, or starts it again, and waits until it serves.
func up(ts *testscript.TestScript, neg bool, args []string) {
	env, err := of(ts).layout.up(ts.MkAbs("platform"), environ(ts), args)
	if neg {
		if err == nil {
			ts.Fatalf("it came up")
		}
		return
	}
	ts.Check(err)
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		ts.Setenv(k, v)
	}
}

// crash kills the control plane with SIGKILL; replicas stay.
func crash(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(of(ts).layout.crash()) }

// down ends everything.
func down(ts *testscript.TestScript, _ bool, _ []string) { of(ts).layout.down() }

// A job is a command that goes on while the script does.
type job struct {
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	out   bytes.Buffer
	news  chan struct{} // something was written, or it ended
}

func (j *job) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case j.news <- struct{}{}:
	default:
	}
	return j.out.Write(p)
}

func (j *job) said() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out.String()
}

// start NAME REGEX COMMAND... runs a command in the background and goes on once
// what it wrote matches. finish leaves what it wrote in the file NAME.
func start(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: start NAME REGEX COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[1])
	path := args[2]
	if path == "mlaas" {
		path = of(ts).bin
	}
	j := &job{cmd: exec.Command(path, args[3:]...), ended: make(chan struct{}), news: make(chan struct{}, 1)}
	j.cmd.Env, j.cmd.Dir, j.cmd.Stdout, j.cmd.Stderr = environ(ts), ts.MkAbs("."), j, j
	ts.Check(j.cmd.Start())
	of(ts).jobs[args[0]] = j
	go func() {
		j.cmd.Wait() // finish looks at how it ended
		close(j.ended)
	}()
	late := time.After(patience)
	for !want.MatchString(j.said()) {
		select {
		case <-j.news:
		case <-j.ended:
			if !want.MatchString(j.said()) {
				ts.Fatalf("%s ended without %q; it wrote:\n%s", args[0], args[1], j.said())
			}
		case <-late:
			ts.Fatalf("%s did not write %q in %v; it wrote:\n%s", args[0], args[1], patience, j.said())
		}
	}
}

// signal NAME INT|TERM|KILL sends a signal to what start began.
func signal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}
	if len(args) != 2 || signals[args[1]] == nil || of(ts).jobs[args[0]] == nil {
		ts.Fatalf("usage: signal NAME INT|TERM|KILL")
	}
	ts.Check(of(ts).jobs[args[0]].cmd.Process.Signal(signals[args[1]]))
}

// finish NAME CODE waits for the end of what start began.
func finish(ts *testscript.TestScript, _ bool, args []string) {
	j := of(ts).jobs[args[0]]
	if len(args) != 2 || j == nil {
		ts.Fatalf("usage: finish NAME CODE")
	}
	select {
	case <-j.ended:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended in %v; it wrote:\n%s", args[0], patience, j.said())
	}
	delete(of(ts).jobs, args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(j.said()), 0o644))
	if got := strconv.Itoa(j.cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("%s ended with %s, want %s; it wrote:\n%s", args[0], got, args[1], j.said())
	}
}

// mlaas [-CODE] ARGS... runs the program; -CODE is the exit code that it must
// end with. ! means any but 0.
func mlaas(ts *testscript.TestScript, neg bool, args []string) {
	want := "0"
	if len(args) > 0 && regexp.MustCompile(`^-\d+$`).MatchString(args[0]) {
		want, args = args[0][1:], args[1:]
	}
	err := ts.Exec(of(ts).bin, args...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("mlaas: %v", err)
	}
	switch {
	case neg && got == 0:
		ts.Fatalf("mlaas %s ends with 0", strings.Join(args, " "))
	case !neg && strconv.Itoa(got) != want:
		ts.Fatalf("mlaas %s ends with %d, want %s", strings.Join(args, " "), got, want)
	}
}

// save VARIABLE keeps the last standard output, without the spaces around it.
func save(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// count N REGEX checks how many lines of the last standard output match, and
// that no two of them are equal.
func count(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[1])
	var found []string
	for l := range strings.SplitSeq(ts.ReadFile("stdout"), "\n") {
		if want.MatchString(l) {
			found = append(found, l)
		}
	}
	if strconv.Itoa(len(found)) != args[0] {
		ts.Fatalf("%d lines match %q, want %s", len(found), args[1], args[0])
	}
	if slices.Sort(found); len(slices.Compact(found)) != len(found) {
		ts.Fatalf("lines that match %q are doubled", args[1])
	}
}

var _ io.Writer = (*job)(nil)
