package management

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas"
)

func TestPrepared(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", "code": {"mode": "annotation"}}`).want(201)
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "#@define: m\nm()\n"}}`).want(201)
	path := "/api/job/j/code/v1/prepared"
	a.do("GET", path, nil).refuses(409, "conflict", "", "no Python to read code with")
	a.do("POST", "/api/job/j/run", nil).want(202) // its supervisors find out

	var asked mlaas.Run
	a.Management.Prepare = func(_ context.Context, run mlaas.Run) (mlaas.Preparation, error) {
		asked = run
		return mlaas.Preparation{Prepared: mlaas.Prepared{Digest: "sha256:d", Python: "3.11.2", Files: 1, Marks: 1},
			Changes: []mlaas.Change{{Path: "main.py", Diff: "--- a/main.py\n", Marks: []mlaas.Mark{{Line: 1, Word: "define", Call: "track(m)"}}}}}, nil
	}
	r := a.do("GET", path, nil).want(200).is("digest", "sha256:d").is("python", "3.11.2").is("mode", "annotation").is("hooks", true).
		is("files.0.path", "main.py").is("files.0.marks.0.line", 1)
	if !strings.Contains(string(r.Body), "1 marks in comments are calls") || asked.Version.ID != "v1" || asked.Spec.Code.Mode != "annotation" {
		t.Errorf("%s of %+v", r.Body, asked)
	}
	r = a.do("GET", path+"?format=diff", nil).want(200)
	if string(r.Body) != "--- a/main.py\n" || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/x-diff") {
		t.Errorf("%s: %q", r.Header.Get("Content-Type"), r.Body)
	}
	a.do("GET", path+"?format=html", nil).refuses(422, "invalid", "format", "json or diff")
	a.do("GET", "/api/job/j/code/v9/prepared", nil).refuses(404, "not_found", "", "")

	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "#@define: n\nn()\n"}}`).want(201)
	path = "/api/job/j/code/v2/prepared"
	a.Management.Prepare = func(context.Context, mlaas.Run) (mlaas.Preparation, error) {
		return mlaas.Preparation{}, mlaas.Refused([]mlaas.Refusal{{Path: "main.py", Line: 1, Column: 2, What: "no", Remedy: "yes"}})
	}
	a.do("GET", path, nil).refuses(422, "invalid", "", "the code of v2 cannot be prepared: main.py:1:2: no: yes")
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "", "main.py:1:2: no: yes")
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "#@define: o\no()\n"}}`).want(201)
	path = "/api/job/j/code/v3/prepared"
	a.Management.Prepare = func(context.Context, mlaas.Run) (mlaas.Preparation, error) {
		return mlaas.Preparation{}, fmt.Errorf("no Python 3.9: %w", mlaas.ErrConflict)
	}
	a.do("GET", path, nil).refuses(409, "conflict", "", "no Python 3.9")
	a.do("POST", "/api/job/j/run", nil).want(202)
}

// However many runs of the same code are asked for, it is read once; where that
// could not be done it is tried again.
func TestPreparedOnce(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", "code": {"mode": "annotation"}}`).want(201)
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "#@define: m\nm()\n"}}`).want(201)
	var reads atomic.Int64
	a.Management.Prepare = func(context.Context, mlaas.Run) (mlaas.Preparation, error) {
		if reads.Add(1) == 1 {
			return mlaas.Preparation{}, fmt.Errorf("its Python is not there yet: %w", mlaas.ErrUnavailable)
		}
		return mlaas.Preparation{}, nil
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() { a.do("POST", "/api/job/j/run", nil).want(202) })
	}
	all.Wait()
	if n := reads.Load(); n != 2 {
		t.Errorf("it was read %d times, want once more than it failed", n)
	}
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "other()\n"}}`).want(201)
	a.do("POST", "/api/job/j/run", nil).want(202)
	if n := reads.Load(); n != 3 {
		t.Errorf("other code was read %d times", n-2)
	}
}
