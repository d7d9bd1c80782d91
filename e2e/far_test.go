package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFar adds a cluster that nobody can reach: a booster with a token alone
// calls the platform and lends its machine. It is killed while a program runs
// there; the program does not notice, and no line of it is lost or comes twice,
// also after the cluster is removed.
func TestFar(t *testing.T) {
	dir, inside, l := t.TempDir(), t.TempDir(), &one{bin: binary(t)}
	t.Cleanup(l.down)
	env, err := l.up(dir, os.Environ(), nil)
	if err != nil {
		t.Fatal(err)
	}
	v := variables(env)
	mlaas := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), l.bin, args...)
		cmd.Env = env
		var out, talk bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &talk
		if err := cmd.Run(); err != nil {
			t.Fatalf("mlaas %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), talk.String())
		}
		return out.String()
	}
	token := filepath.Join(inside, "token")
	mlaas("cluster", "add", "far", "--remote", "--token-file", token)
	mlaas("cluster", "drain", "local")
	var said bytes.Buffer
	call := func() *exec.Cmd {
		t.Helper()
		cmd := exec.Command(l.bin, "booster", "--dir", inside, "--cluster", "far", "--gateway", v["MLAAS_URL"], "--cluster-token-file", token, "--cpu", "4", "--memory", "4Gi")
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	b := call()
	t.Cleanup(func() {
		_ = b.Process.Kill()
		_ = b.Wait()
		if out, err := exec.Command(l.bin, "down", "--dir", inside, "--grace", "0s").CombinedOutput(); err != nil {
			t.Errorf("mlaas down: %v: %s", err, out)
		}
		if t.Failed() {
			t.Log(said.String())
		}
	})
	mlaas("cluster", "test", "far")

	program := filepath.Join(t.TempDir(), "counts.py")
	const lines = 100
	if err := os.WriteFile(program, fmt.Appendf(nil, "import time\nfor i in range(%d):\n    print('line', i, flush=True)\n    time.sleep(0.05)\n", lines), 0o644); err != nil {
		t.Fatal(err)
	}
	mlaas("run", program, "--name", "counts")
	for until := time.Now().Add(time.Minute); !strings.Contains(mlaas("logs", "counts"), "line 10"); {
		if time.Now().After(until) {
			t.Fatal("it says nothing")
		}
	}
	if err := b.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.Wait()
	b = call()
	mlaas("job", "wait", "counts")
	check := func(when string) {
		t.Helper()
		text := mlaas("logs", "counts")
		for i := range lines {
			if n := strings.Count(text, fmt.Sprintf("line %d\n", i)); n != 1 {
				t.Errorf("%s, line %d is there %d times", when, i, n)
			}
		}
	}
	check("after it")
	if got := mlaas("replicas", "counts", "-o", "json"); !strings.Contains(got, `"cluster": "far"`) || !strings.Contains(got, `"attempt": 1`) {
		t.Errorf("it ran as %s", got)
	}
	mlaas("cluster", "remove", "far", "--wait", "1m")
	if got := mlaas("cluster", "ls", "-o", "name"); got != "local\n" {
		t.Errorf("the clusters are %q", got)
	}
	check("after its cluster is gone")
}
