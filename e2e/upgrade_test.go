package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// before is the version before this one, and its commit, for clones without
// tags.
const (
	before       = "v0.1"
	beforeCommit = "ee6282dbb8d76f753f3f84076a4ff46632c5f6b6"
)

// older builds the version before from its commit.
func older(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	archive := exec.Command("git", "archive", "--format=tar", beforeCommit)
	archive.Dir = ".."
	unpack := exec.Command("tar", "-x", "-C", dir)
	pipe, err := archive.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	unpack.Stdin = pipe
	var said bytes.Buffer
	archive.Stderr = &said
	if err := archive.Start(); err != nil {
		t.Skipf("NOT TESTED against %s: %v", before, err)
	}
	unpacked := unpack.Run()
	if err := archive.Wait(); err != nil {
		t.Skipf("NOT TESTED against %s, fetch the whole history: git archive: %v: %s", before, err, said.String())
	}
	if unpacked != nil {
		t.Fatal(unpacked)
	}
	bin := filepath.Join(dir, "mlaas-before")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-X main.version="+before, "-o", bin, "./cmd/mlaas")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", before, err, out)
	}
	return bin
}

const ticks = `import os, time
print("pid", os.getpid(), flush=True)
for i in range(400):
    print("tick", i, flush=True)
    time.sleep(0.05)
`

// TestUpgrade goes from the version before to this one and back again while
// runs go on: none of them notices, nothing that was acknowledged is lost, and
// each version reads what the other wrote.
func TestUpgrade(t *testing.T) {
	old, now := older(t), binary(t)
	dir := t.TempDir()
	env := append(os.Environ(), network()...)
	var l *one
	up := func(bin string) caller {
		t.Helper()
		l = &one{bin: bin}
		vars, err := l.up(dir, env, nil)
		if err != nil {
			t.Fatalf("%s: %v", bin, err)
		}
		return caller{t, variables(vars)}
	}
	t.Cleanup(func() { l.down() })
	end := func() {
		t.Helper()
		if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := l.cmd.Wait(); err != nil {
			t.Fatalf("it ends with %v: %s", err, l.said.String())
		}
	}
	type state struct {
		ID     string
		Status struct {
			State, Reason string
			Attempts      []any
		}
	}
	const runs = 8
	var ids []string
	c := up(old)
	for i := range runs {
		name := fmt.Sprint("u-", i)
		var run state
		c.must("POST", "/api/job", map[string]any{"name": name, "roles": map[string]any{"worker": map[string]any{"replicas": 1, "cpu": "100m", "memory": "64Mi"}}}, nil)
		c.must("POST", "/api/job/"+name+"/code", map[string]any{"files": map[string]string{"main.py": ticks}}, nil)
		c.must("POST", "/api/job/"+name+"/run", nil, &run)
		ids = append(ids, run.ID)
	}
	running := func(c caller, version string) {
		t.Helper()
		for _, id := range ids {
			c.until(version+": run "+id, func() bool {
				var r state
				c.must("GET", "/api/run/"+id, nil, &r)
				if len(r.Status.Attempts) > 1 || r.Status.State == "failed" {
					t.Fatalf("%s: run %s %s: %s", version, id, r.Status.State, r.Status.Reason)
				}
				return r.Status.State == "running" || r.Status.State == "succeeded"
			})
		}
	}
	running(c, before)
	end()
	c = up(now)
	running(c, "this version")
	// It writes all that it can: a job with code, a secret, an edit of an old job.
	c.must("POST", "/api/job", map[string]any{"name": "between"}, nil)
	c.must("POST", "/api/job/between/code", map[string]any{"files": map[string]string{"main.py": "print('between')"}}, nil)
	c.must("POST", "/api/secret", map[string]any{"name": "hf", "value": "x"}, nil)
	c.must("PATCH", "/api/job/u-0", map[string]any{"execution": map[string]any{"priority": 3}}, nil)
	c.must("GET", "/readyz", nil, nil)
	var between state
	c.must("POST", "/api/job/between/run", nil, &between)
	end()
	c = up(old)
	running(c, before+" again")
	var job struct{ Execution struct{ Priority int } }
	c.must("GET", "/api/job/u-0", nil, &job)
	if job.Execution.Priority != 3 {
		t.Errorf("%s reads priority %d, want 3", before, job.Execution.Priority)
	}
	end()
	c = up(now)
	for _, id := range append(ids, between.ID) {
		c.until("the end of run "+id, func() bool {
			var r state
			c.must("GET", "/api/run/"+id, nil, &r)
			if r.Status.State == "failed" || len(r.Status.Attempts) > 1 {
				t.Fatalf("run %s %s: %s", id, r.Status.State, r.Status.Reason)
			}
			return r.Status.State == "succeeded"
		})
	}
	for _, id := range ids {
		var log []byte
		c.must("GET", "/api/run/"+id+"/log?limit=10000", nil, &log)
		var said []string
		for line := range bytes.Lines(log) {
			var one struct{ Stream, Line string }
			if err := json.Unmarshal(line, &one); err != nil {
				t.Fatal(err)
			}
			if one.Stream == "stdout" {
				said = append(said, one.Line)
			}
		}
		if len(said) != 401 || !strings.HasPrefix(said[0], "pid ") {
			t.Errorf("run %s wrote %d lines, want its pid once and 400 ticks", id, len(said))
			continue
		}
		for i, line := range said[1:] {
			if line != fmt.Sprint("tick ", i) {
				t.Errorf("run %s: line %d is %q", id, i+1, line)
				break
			}
		}
	}
	names := []string{}
	for _, j := range every[struct{ Name string }](c, "/api/job") {
		names = append(names, j.Name)
	}
	if !slices.Contains(names, "between") || len(names) != runs+1 {
		t.Errorf("the jobs are %v", names)
	}
}
