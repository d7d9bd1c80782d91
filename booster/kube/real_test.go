//go:build linux

package kube_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/executortest"
	"mlaas.dev/mlaas/internal/kubetest"
)

// puppets gives a cluster the images of the conformance suite: a supervisor
// that plays its part, and one with a shell to run it in.
func puppets(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	puppet := filepath.Join(t.TempDir(), "puppet")
	build(t, puppet, "./testdata/puppet")
	files := map[string]string{}
	for _, name := range []string{"sh", "cat"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		files["/bin/"+name] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
			files[m[1]] = m[1]
		}
	}
	give(t, c,
		kubetest.Image{Ref: "kubetest.local/supervisor:1", Files: map[string]string{"/mlaas": puppet}},
		kubetest.Image{Ref: "kubetest.local/program:1", Files: files})
}

// build makes a static binary.
func build(t testing.TB, file, what string) {
	t.Helper()
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, what)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func give(t testing.TB, c *kubetest.Cluster, images ...kubetest.Image) {
	t.Helper()
	var archives []string
	for i, image := range images {
		archive := filepath.Join(t.TempDir(), strconv.Itoa(i)+".tar")
		if err := image.Write(archive); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	if err := c.Import(t.Context(), archives...); err != nil {
		t.Fatal(err)
	}
}

// end makes the puppet of a replica end with a code.
func (p *place) end(t *testing.T, f mlaas.Fence, code int) {
	t.Helper()
	// Whether this command itself gets to end is a race with its container.
	if _, err := p.open(t).Exec(context.Background(), f, []string{"/var/lib/mlaas/bin/mlaas", "end", strconv.Itoa(code)}, nil, io.Discard); err != nil {
		t.Log(err)
	}
}

// The suite where pods truly run.
func TestConformanceReal(t *testing.T) {
	c := kubetest.Start(t, kubetest.Opts{Name: "real", Nodes: kubetest.Real(1)})
	puppets(t, c)
	executortest.Run(t, func(*testing.T) executortest.Harness {
		p := newPlace(c)
		return executortest.Harness{
			Open:   func(t *testing.T) booster.Executor { return p.open(t) },
			Spec:   func(_ *testing.T, f mlaas.Fence) booster.Spec { return p.spec(f) },
			Broken: p.broken,
			End:    p.end,
			Starts: p.starts,
			Left:   p.left,
		}
	})
}
