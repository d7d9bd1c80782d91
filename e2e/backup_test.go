package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	layouts "mlaas.dev/mlaas/e2e/layout"
)

// A caller sends requests to a platform.
type caller struct {
	t   *testing.T
	env map[string]string
}

// call sends a request and reads the JSON of its answer into out; nil: nothing.
func (c caller) call(method, path string, body, out any) error {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, c.env["MLAAS_URL"]+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.env["MLAAS_TOKEN"])
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, data)
	}
	if b, ok := out.(*[]byte); ok {
		*b = data
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

func (c caller) must(method, path string, body, out any) {
	c.t.Helper()
	if err := c.call(method, path, body, out); err != nil {
		c.t.Fatal(err)
	}
}

type paged[T any] struct {
	Items []T
	Next  string `json:"next_page_token"`
}

func every[T any](c caller, path string) (all []T) {
	c.t.Helper()
	for token := ""; ; {
		var page paged[T]
		c.must("GET", path+"?limit=500&page_token="+token, nil, &page)
		all = append(all, page.Items...)
		if token = page.Next; token == "" {
			return all
		}
	}
}

// until asks again until f is true.
func (c caller) until(what string, f func() bool) {
	c.t.Helper()
	late := time.After(patience)
	for !f() {
		select {
		case <-late:
			c.t.Fatalf("%s takes for ever", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

const steps = `import os, sys, time
import mlaas
begun = mlaas.resume()
first = begun.step + 1 if begun else 0
print("begin at", first, flush=True)
for i in range(first, 400):
    print("step", i, flush=True)
    mlaas.log({"loss": 1 / (i + 1)}, step=i)
    if i % 5 == 0:
        with open("state", "w") as f:
            f.write(str(i))
        mlaas.checkpoint("state", step=i)
    time.sleep(0.05 if i < 120 else 0)
`

// TestBackup copies a platform while clients write to it and a run trains, and
// restores the copy beside it, while the first goes on; where the services are
// apart, into another name of another store, and another bucket: what is there is what
// the copy says, to the byte; each client's work is there up to one moment, and
// all that was acknowledged before the copy was asked for; the run that was
// live goes on from its checkpoint.
func TestBackup(t *testing.T) {
	bin := binary(t)
	root := t.TempDir() // before down is: what is made first goes last
	name := kind(t)
	first := choose(name, bin)
	t.Cleanup(first.down)
	origin := filepath.Join(root, "first")
	env, err := first.up(origin, append(os.Environ(), network()...), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := caller{t, variables(env)}
	type named struct{ ID string }
	var trains, run named
	c.must("POST", "/api/job", map[string]any{"name": "trains"}, &trains)
	c.must("POST", "/api/job/trains/code", map[string]any{"files": map[string]string{"main.py": steps}}, nil)
	c.must("POST", "/api/job/trains/run", nil, &run)
	c.must("POST", "/api/secret", map[string]any{"name": "hf", "value": "s3cret"}, nil)
	c.until("the first checkpoint", func() bool {
		return len(every[named](c, "/api/run/"+run.ID+"/checkpoint")) > 1
	})

	// The clients: each makes a job and then its code, one after another.
	var mu sync.Mutex
	acked := map[string]bool{} // "job 1/7", "code 1/7"
	stop := make(chan struct{})
	more := make(chan struct{})
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("c-%d-%d", w, n)
				for _, what := range []string{"job", "code"} {
					var err error
					if what == "job" {
						err = c.call("POST", "/api/job", map[string]any{"name": name}, nil)
					} else {
						err = c.call("POST", "/api/job/"+name+"/code", map[string]any{"files": map[string]string{"main.py": "# " + name}}, nil)
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acked[what+" "+name] = true
					mu.Unlock()
				}
				select {
				case more <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 100 {
		<-more
	}
	var said []string // what is kept of the run
	c.until("some lines of the run", func() bool {
		said = printed(c, run.ID)
		return slices.Contains(said, "step 5")
	})
	mu.Lock()
	before := maps.Clone(acked)
	mu.Unlock()
	file := filepath.Join(t.TempDir(), "copy.tar")
	began := time.Now()
	made := exec.Command(bin, "backup", file, "--with-key")
	made.Env = append(os.Environ(), env...)
	out, err := made.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the key of the secrets is in it") {
		t.Fatalf("mlaas backup: %v: %s", err, out)
	}
	took := time.Since(began)
	close(stop)
	all.Wait()
	mu.Lock()
	t.Logf("%s%d writes were acknowledged before it was asked for, %d meanwhile, in %v", out, len(before), len(acked)-len(before), took)
	if len(acked) == len(before) {
		t.Error("nothing was written while it was copied: the test shows nothing")
	}
	mu.Unlock()
	whole := exec.Command(bin, "restore", "--check", file)
	if out, err := whole.CombinedOutput(); err != nil || !strings.Contains(string(out), "it is whole") {
		t.Errorf("mlaas restore --check: %v: %s", err, out)
	}

	second := choose(name, bin)
	t.Cleanup(second.down)
	dir := filepath.Join(root, "second")
	restore := func(dir string, into ...string) error {
		args := append([]string{"restore", file, "--dir", dir}, into...)
		out, err := exec.Command(bin, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "trains/1") {
			return fmt.Errorf("mlaas restore: %w: %s", err, out)
		}
		t.Logf("%s", out)
		if out, err := exec.Command(bin, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "is not empty") {
			t.Errorf("over a platform that is there: %v: %s", err, out)
		}
		return nil
	}
	if apart, ok := second.(*several); ok {
		apart.share = "another"
		apart.before = func(store, blob string) error { return restore(dir, "--store", store, "--blob", blob) }
	} else if err := restore(dir); err != nil {
		t.Fatal(err)
	}
	if env, err = second.up(dir, append(os.Environ(), network()...), nil); err != nil {
		t.Fatal(err)
	}
	r := caller{t, variables(env)}

	// What the copy says, from its own records.
	jobs, bundles, blobs := map[string]string{}, map[string]string{}, map[string]string{}
	inTar(t, file, func(name string, data []byte) {
		if d, ok := strings.CutPrefix(name, "blob/"); ok {
			sum := sha256.Sum256(data)
			blobs[d] = "sha256:" + hex.EncodeToString(sum[:])
		}
		if name != "records.jsonl" {
			return
		}
		for line := range bytes.Lines(data) {
			var row struct {
				Kind string
				Data json.RawMessage
			}
			var v struct {
				ID, Job, Name, Bundle string
			}
			if err := errors.Join(json.Unmarshal(line, &row), json.Unmarshal(row.Data, &v)); err != nil {
				t.Fatal(err)
			}
			switch row.Kind {
			case "job":
				jobs[v.ID] = v.Name
			case "version":
				bundles[v.Job] = v.Bundle
			}
		}
	})
	there := map[string]string{}
	for _, j := range every[struct{ ID, Name string }](r, "/api/job") {
		there[j.ID] = j.Name
		versions := every[struct{ Bundle string }](r, "/api/job/"+j.ID+"/code")
		switch want, has := bundles[j.ID]; {
		case has && (len(versions) != 1 || versions[0].Bundle != want):
			t.Errorf("job %s has the versions %v, want one of %s", j.Name, versions, want)
		case !has && len(versions) != 0:
			t.Errorf("job %s has versions that the copy has not", j.Name)
		}
	}
	if !maps.Equal(there, jobs) {
		t.Errorf("%d jobs are there, the copy has %d", len(there), len(jobs))
	}
	for d, sum := range blobs {
		var data []byte
		r.must("GET", "/api/blob/"+d, nil, &data)
		if got := sha256.Sum256(data); "sha256:"+hex.EncodeToString(got[:]) != d || sum != d {
			t.Errorf("content %s has the hash %x", d, got)
		}
	}
	// One moment: what was acknowledged before is there, and of each client
	// everything up to some point and nothing after it.
	ids := map[string]string{}
	for id, name := range jobs {
		ids[name] = id
	}
	for what := range before {
		kind, name, _ := strings.Cut(what, " ")
		if ids[name] == "" || kind == "code" && bundles[ids[name]] == "" {
			t.Errorf("%s was acknowledged before, and is not there", what)
		}
	}
	for w := range 4 {
		missing := ""
		for n := range len(acked) {
			name := fmt.Sprintf("c-%d-%d", w, n)
			for _, what := range []string{"job", "code"} {
				has := ids[name] != "" && (what == "job" || bundles[ids[name]] != "")
				if !has && missing == "" {
					missing = what + " " + name
				}
				if has && missing != "" {
					t.Errorf("%s %s is there, but not %s, which came before it", what, name, missing)
				}
			}
		}
	}

	// The run goes on from its checkpoint, and says why.
	var state struct {
		Status struct {
			State, Reason string
			Attempts      []struct {
				Reason string
				Step   int
				Resume string
			}
		}
	}
	r.until("the run that was restored", func() bool {
		r.must("GET", "/api/run/"+run.ID, nil, &state)
		return state.Status.State != "queued" && state.Status.State != "starting" && state.Status.State != "running" && state.Status.State != "stopping"
	})
	at := state.Status.Attempts
	if state.Status.State != "succeeded" || len(at) != 2 || at[0].Reason != "restored from a backup" || at[1].Resume == "" {
		t.Fatalf("the run: %+v", state.Status)
	}
	lines := printed(r, run.ID)
	// Of the first attempt it has what was kept before the copy was asked for,
	// and more without a gap; then the second one.
	again := slices.Index(lines, fmt.Sprintf("begin at %d", at[1].Step+1))
	if again < len(said) || !slices.Equal(lines[:len(said)], said) {
		t.Fatalf("it wrote %q, want %q and then from step %d on", lines, said, at[1].Step+1)
	}
	for i, line := range lines {
		want := fmt.Sprint("step ", i-1)
		if i > again {
			want = fmt.Sprint("step ", at[1].Step+i-again)
		}
		if i != 0 && i != again && line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
	if last := lines[len(lines)-1]; last != "step 399" {
		t.Errorf("it ends with %q", last)
	}
	a, err := os.ReadFile(filepath.Join(dir, "key"))
	b, err2 := os.ReadFile(filepath.Join(origin, "key"))
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the key is another one: %v", err)
	}
	var secrets paged[struct{ Name string }]
	r.must("GET", "/api/secret", nil, &secrets)
	if len(secrets.Items) != 1 || secrets.Items[0].Name != "hf" {
		t.Errorf("the secrets: %+v", secrets)
	}
	if name != layouts.One { // the same copy makes a platform of one process, too
		third := &one{bin: bin}
		t.Cleanup(third.down)
		dir := filepath.Join(root, "third")
		if err := restore(dir); err != nil {
			t.Fatal(err)
		}
		env, err := third.up(dir, append(os.Environ(), network()...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if lines := printed(caller{t, variables(env)}, run.ID); len(lines) < len(said) || !slices.Equal(lines[:len(said)], said) {
			t.Errorf("of one process it wrote %q, want %q and more", lines, said)
		}
	}
	// Whatever the first one did meanwhile, it is as it was.
	var same struct{ Status struct{ Attempts []any } }
	c.must("GET", "/api/run/"+run.ID, nil, &same)
	if len(same.Status.Attempts) != 1 {
		t.Errorf("the run of the platform that was copied has %d attempts", len(same.Status.Attempts))
	}
}

// printed is what a run wrote to its standard output.
func printed(c caller, run string) (all []string) {
	c.t.Helper()
	var lines []byte
	c.must("GET", "/api/run/"+run+"/log?limit=10000", nil, &lines)
	for line := range bytes.Lines(lines) {
		var l struct{ Stream, Line string }
		if err := json.Unmarshal(line, &l); err != nil {
			c.t.Fatal(err)
		}
		if l.Stream == "stdout" {
			all = append(all, l.Line)
		}
	}
	return all
}

func inTar(t *testing.T, file string, each func(name string, data []byte)) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		data, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		each(h.Name, data)
	}
}
