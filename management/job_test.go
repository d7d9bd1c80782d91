package management

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

func TestCreateJob(t *testing.T) {
	a := start(t)
	r := a.do("POST", "/api/job", `{"name": "mnist", "environment": {"framework": "python", "packages": [], "variables": {}},
		"roles": {"worker": {"replicas": {"min": 1, "max": 1}, "cpu": "300m", "memory": "256Mi", "gpu": 0}, "ps": {"replicas": 1, "cpu": 0.3, "memory": 1610612736}},
		"execution": {"command": ["python", "main.py"], "parameters": {}}, "data": [], "code": {"mode": "plain"}, "evaluation": {}}`).want(201)
	r.is("name", "mnist").is("revision", 1).is("status.state", "created").is("roles.ps.cpu", "300m").is("roles.ps.memory", "1536Mi").is("results", nil)
	id := r.get("id").(string)
	if got := r.Header.Get("Location"); got != "/api/job/"+id {
		t.Errorf("Location %q", got)
	}
	if got := r.Header.Get("ETag"); got != `"1"` {
		t.Errorf("ETag %q", got)
	}
	a.do("GET", "/api/job/"+id, nil).want(200).is("id", id).is("environment.framework", "python")
	a.do("GET", "/api/job/mnist", nil).want(200).is("id", id).is("status.state", "created").is("revision", 1)
	a.do("POST", "/api/job", `{"name": "mnist"}`).refuses(409, "conflict", "", "a job named mnist is there already")

	a.do("POST", "/api/job", `{"name": "defaults"}`).want(201).is("environment.framework", "python").is("roles.worker.replicas.max", 1).is("code.mode", "nonintrusive").
		is("execution.parameters", map[string]any{}).is("environment.packages", []any{})
	a.do("POST", "/api/job", `{"name": "many", "roles": {"worker": {"replicas": 4, "gpu": {"count": 1, "kind": "h200"}}}}`).want(201).
		is("roles.worker.replicas.min", 1).is("roles.worker.replicas.max", 4).is("roles.worker.gpu.kind", "h200")
}

func TestBadJobs(t *testing.T) {
	a := start(t)
	tests := []struct {
		body, code, field, says string
		status                  int
	}{
		{`{"name": "x"`, "syntax", "", "no JSON: line 1", 400},
		{``, "syntax", "", "it is empty", 400},
		{"{\"name\": \"\xff\"}", "syntax", "", "not UTF-8", 400},
		{strings.Repeat(`{"a":`, 10000), "syntax", "", "nested more than 64", 400},
		{`[]`, "invalid", "body", "want an object", 422},
		{`{}`, "invalid", "name", "want 1 to 63", 422},
		{`{"name": "../../etc/passwd"}`, "invalid", "name", "want 1 to 63", 422},
		{`{"name": 7}`, "invalid", "name", "name is 7, want a text", 422},
		{`{"name": "x", "colour": 1}`, "invalid", "colour", "not a field", 422},
		{`{"name": "x", "roles": {"worker": {"cpus": 1}}}`, "invalid", "roles.worker.cpus", "not a field, want cpu", 422},
		{`{"name": "x", "roles": {"worker": {"cpu": "lots"}}}`, "invalid", "roles.worker.cpu", "want cores", 422},
		{`{"name": "x", "roles": {"worker": {"cpu": -1}}}`, "invalid", "roles.worker.cpu", "want cores", 422},
		{`{"name": "x", "roles": {"worker": {"memory": []}}}`, "invalid", "roles.worker.memory", "want bytes", 422},
		{`{"name": "x", "labels": {"": "x"}}`, "invalid", "labels", "1 to 63 letters", 422},
		{`{"name": "x", "roles": {"boss": {}}}`, "invalid", "roles", "chief, worker, ps, evaluator", 422},
		{`{"name": "x", "roles": {"worker": {"replicas": {"min": 3, "max": 1}}}}`, "invalid", "roles.worker.replicas", "3-1", 422},
		{`{"name": "x", "environment": {"framework": "fortran"}}`, "invalid", "environment.framework", "one of python, tensorflow", 422},
		{`{"name": "x", "environment": {"packages": ["--index-url=x"]}}`, "invalid", "environment.packages[0]", "one requirement", 422},
		{`{"name": "x", "environment": {"image": "a", "framework": "python"}}`, "invalid", "environment.image", "an image alone", 422},
		{`{"name": "x", "code": {"mode": "zen"}}`, "invalid", "code.mode", "plain, guiding, annotation, nonintrusive, composed", 422},
		{`{"name": "x", "data": [{"name": "d", "source": "file:///etc/passwd"}]}`, "invalid", "data[0].source", "want dataset:", 422},
		{`{"name": "x", "execution": {"parameters": {"a": [1]}}}`, "invalid", "execution.parameters.a", "want a text, a number", 422},
		{`{"name": "` + strings.Repeat("x", 5<<20) + `"}`, "too_large", "", "over the limit of 4Mi", 413},
	}
	for _, tt := range tests {
		t.Run(tt.body[:min(len(tt.body), 40)], func(t *testing.T) {
			a.do("POST", "/api/job", tt.body).refuses(tt.status, tt.code, tt.field, tt.says)
		})
	}
	a.do("POST", "/api/job", `{"name": "x"}`, "Content-Type", "text/yaml").refuses(400, "syntax", "", "want application/json")
	a.do("GET", "/api/job?limit=-1", nil).refuses(422, "invalid", "limit", "at least 0")
	a.do("GET", "/api/job?limit=many", nil).refuses(422, "invalid", "limit", "a whole number")
	a.do("GET", "/api/job?page_token=!", nil).refuses(422, "invalid", "page_token", "of the page before")
	a.do("GET", "/api/job?status=sleeping", nil).refuses(422, "invalid", "status", "one of created")
	a.do("GET", "/api/job/nothing", nil).refuses(404, "not_found", "", `no job "nothing"`)
	if n := len(a.do("GET", "/api/job", nil).want(200).get("items").([]any)); n != 0 {
		t.Errorf("%d jobs were made by bad input", n)
	}
}

func TestPatchJob(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", "roles": {"worker": {"replicas": 2}, "ps": {"replicas": 1}}, "execution": {"parameters": {"lr": 0.1, "steps": 10}}}`).want(201)
	r := a.do("PATCH", "/api/job/j", `{"roles": {"ps": null, "worker": {"replicas": 4, "cpu": 0.3}}, "execution": {"parameters": {"lr": null}}}`, "If-Match", `"1"`).want(200)
	r.is("roles.ps", nil).is("roles.worker.replicas.max", 4).is("roles.worker.cpu", "300m").is("execution.parameters", map[string]any{"steps": 10}).is("revision", 2)
	a.do("PATCH", "/api/job/j", `{"labels": {"a": "b"}}`, "If-Match", `"1"`).refuses(412, "stale", "", "job j is at revision 2")
	a.do("PATCH", "/api/job/j", `{"labels": {"a": "b"}}`, "If-Match", `W/"2"`).want(200).is("revision", 3)
	a.do("PATCH", "/api/job/j", `{}`).want(200).is("revision", 3) // nothing changed
	a.do("PATCH", "/api/job/j", `{"roles": {"worker": {"cpu": "x"}}}`).refuses(422, "invalid", "roles.worker.cpu", "want cores")
	a.do("PATCH", "/api/job/j", `{"id": "other"}`).refuses(422, "invalid", "id", "not a field")
	a.do("PATCH", "/api/job/j", `{"lables": null}`).refuses(422, "invalid", "lables", "want labels")
	a.do("PATCH", "/api/job/j", `{"roles": {"worker": {"cpus": null}}}`).refuses(422, "invalid", "roles.worker.cpus", "want cpu")
	a.do("PATCH", "/api/job/j", `{"roles": {"worker": {"memory": null, "gpu": null}}, "labels": {"none": null}, "execution": {"timeout": null}, "evaluation": null}`).want(200)
	a.do("PATCH", "/api/job/j", `[1]`).refuses(422, "invalid", "body", "want an object")
	a.do("PATCH", "/api/job/j", `{"name": "j"`).refuses(400, "syntax", "", "no JSON")

	a.do("POST", "/api/job", `{"name": "k"}`).want(201)
	a.do("PATCH", "/api/job/j", `{"name": "k"}`).refuses(409, "conflict", "", "a job named k")
	a.do("PATCH", "/api/job/j", `{"name": "l"}`).want(200).is("name", "l")
	a.do("GET", "/api/job/j", nil).want(404)
	a.do("POST", "/api/job", `{"name": "j"}`).want(201) // its name is free
}

// Of many changes at once that name a revision, one is made.
func TestPatchAtOnce(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j"}`).want(201)
	var all sync.WaitGroup
	codes := make([]int, 12)
	for i := range codes {
		all.Go(func() {
			codes[i] = a.do("PATCH", "/api/job/j", fmt.Sprintf(`{"labels": {"n": "%d"}}`, i), "If-Match", `"1"`).Status
		})
	}
	all.Wait()
	made := 0
	for _, c := range codes {
		if c == 200 {
			made++
		} else if c != 412 {
			t.Errorf("status %d", c)
		}
	}
	if made != 1 {
		t.Errorf("%d of them were made", made)
	}
	// Without a revision all are made, one after another.
	for i := range codes {
		all.Go(func() { a.do("PATCH", "/api/job/j", fmt.Sprintf(`{"labels": {"k%d": "x"}}`, i)).want(200) })
	}
	all.Wait()
	a.do("GET", "/api/job/j", nil).is("revision", 2+len(codes))
}

// What a script may look for in a job, in a list and in a page of one is
// there from the start.
func TestNothingIsMissing(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j"}`).want(201)
	for _, path := range []string{"/api/job/j", "/api/job"} {
		r := a.do("GET", path, nil).want(200)
		for _, says := range []string{`"run":""`, `"results":null`, `"state":"created"`, `"reason":"It was never run."`} {
			if !strings.Contains(string(r.Body), says) {
				t.Errorf("%s: %s\nhas no %s", path, r.Body, says)
			}
		}
	}
	for _, path := range []string{"/api/job", "/api/run", "/api/job/j/code", "/api/job/j/run", "/api/job/j/node", "/api/dataset", "/api/secret", "/api/session", "/api/cluster", "/api/environment"} {
		a.do("GET", path, nil).want(200).is("next_page_token", "")
		for _, q := range []string{"?limit=-1", "?limit=x", "?page_token=abc", "?page_token=%00"} {
			a.do("GET", path+q, nil).want(422)
		}
	}
}

func TestListJobs(t *testing.T) {
	a := start(t)
	for i := range 7 {
		a.later(time.Millisecond)
		a.do("POST", "/api/job", map[string]any{"name": fmt.Sprintf("j%d", i), "labels": map[string]string{"odd": fmt.Sprint(i % 2)}}).want(201)
	}
	var names []string
	token, pages := "", 0
	for {
		r := a.do("GET", "/api/job?limit=3&page_token="+token, nil).want(200)
		pages++
		for _, item := range r.get("items").([]any) {
			names = append(names, item.(map[string]any)["name"].(string))
		}
		next := r.get("next_page_token")
		if next == "" {
			break
		}
		token = next.(string)
		if want := "page_token=" + token; !strings.Contains(r.Header.Get("Link"), want) || !strings.Contains(r.Header.Get("Link"), `rel="next"`) {
			t.Errorf("Link %q", r.Header.Get("Link"))
		}
	}
	if got := strings.Join(names, " "); got != "j6 j5 j4 j3 j2 j1 j0" || pages != 3 {
		t.Errorf("%d pages: %s", pages, got)
	}
	a.do("GET", "/api/job?label=odd=1&limit=2", nil).want(200).is("items.0.name", "j5").is("items.1.name", "j3")
	a.do("GET", "/api/job?name=j3", nil).want(200).is("items.0.name", "j3").is("items.1", nil)
	a.do("GET", "/api/job?status=running", nil).want(200).is("items.0", nil)
	a.do("GET", "/api/job?status=created,queued&limit=500", nil).want(200).is("items.6.name", "j0")
}

func TestDeleteAndRestore(t *testing.T) {
	a := start(t)
	id := a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.do("DELETE", "/api/job/j", nil).refuses(409, "conflict", "", "j/1 ("+run+")")
	a.do("DELETE", "/api/job/j?force", nil).want(204)
	r, _, err := store.Runs(a.DB).Get(t.Context(), mlaas.DefaultTenant, run)
	if err != nil || r.Wanted != mlaas.WantStop {
		t.Errorf("the run is not to stop: %+v %v", r.Wanted, err)
	}
	if n := a.told("StopAsked"); n != 2 { // RunAsked and StopAsked
		t.Errorf("%d messages", n)
	}
	a.do("GET", "/api/job/"+id, nil).refuses(404, "not_found", "", "/restore brings it back")
	a.do("GET", "/api/job/j", nil).refuses(404, "not_found", "", "no job")
	a.do("GET", "/api/job", nil).want(200).is("items.0", nil)
	a.do("GET", "/api/job?deleted=true", nil).want(200).is("items.0.id", id)
	a.do("DELETE", "/api/job/"+id, nil).want(404)

	// Its name is free, and in the way when it comes back.
	other := a.do("POST", "/api/job", `{"name": "j"}`).want(201).get("id").(string)
	a.do("POST", "/api/job/"+id+"/restore", nil).refuses(409, "conflict", "", "a job named j")
	a.do("DELETE", "/api/job/"+other, nil).want(204)
	a.do("POST", "/api/job/"+id+"/restore", nil).want(200).is("id", id).is("deleted", nil)
	a.do("GET", "/api/job/j", nil).want(200).is("id", id)
	a.do("POST", "/api/job/"+id+"/restore", nil).want(200) // it is there

	a.becomes(run, mlaas.Stopped, "")
	a.do("DELETE", "/api/job/j", nil).want(204)
	a.do("POST", "/api/job/j/restore", nil).want(200).is("id", id) // by the name it had
	a.do("DELETE", "/api/job/j", nil).want(204)
	a.later(8 * 24 * time.Hour)
	a.do("POST", "/api/job/"+id+"/restore", nil).refuses(410, "gone", "", "more than 7 days")
}

func TestIdempotency(t *testing.T) {
	a := start(t)
	key := []string{"Idempotency-Key", "k1"}
	one := a.do("POST", "/api/job", `{"name": "j"}`, key...).want(201)
	two := a.do("POST", "/api/job", `{"name": "j"}`, key...).want(201)
	if string(one.Body) != string(two.Body) || two.Header.Get("Location") != one.Header.Get("Location") || two.Header.Get("ETag") != `"1"` {
		t.Errorf("answered otherwise:\n%s\n%s", one.Body, two.Body)
	}
	if one.Header.Get("Idempotent-Replayed") != "" || two.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("a replay does not say so")
	}
	a.do("POST", "/api/job", `{"name": "other"}`, key...).refuses(422, "invalid", "Idempotency-Key", "a fresh key")
	a.do("POST", "/api/job", `{"name": "j"}`).want(409)
	a.do("POST", "/api/job", `{"name": "j"}`, "Idempotency-Key", "k2").want(409)
	a.do("POST", "/api/job", `{"name": "j3"}`, "Idempotency-Key", strings.Repeat("x", 300)).refuses(422, "invalid", "Idempotency-Key", "255")

	// On another route the key is another one; and it is kept with each effect.
	v := a.do("POST", "/api/job/j/code", `{"files": {"main.py": "1"}}`, key...).want(201)
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "1"}}`, key...).want(201).is("id", v.get("id"))
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "2"}}`, key...).refuses(422, "invalid", "Idempotency-Key", "a fresh key")
	r := a.do("POST", "/api/job/j/run", `{}`, key...).want(202)
	a.do("POST", "/api/job/j/run", `{}`, key...).want(202).is("id", r.get("id"))
	a.do("GET", "/api/job/j/run", nil).want(200).is("items.1", nil)
	a.do("POST", "/api/job/j/stop", nil, key...).want(202).is("items.0.id", r.get("id"))
	a.do("POST", "/api/job/j/stop", nil, key...).want(202).is("items.0.id", r.get("id"))

	// A key that is older than a day is forgotten, at once and in the records.
	a.later(25 * time.Hour)
	a.do("POST", "/api/job/j/run", `{}`, key...).want(202).is("number", 2)
	before := a.keys()
	if err := a.forgetKeys(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if after := a.keys(); before != 4 || after != 1 {
		t.Errorf("%d keys, then %d", before, after)
	}
}

func (a *api) keys() int {
	all, err := keyeds(a.DB).All(context.Background(), store.Query{})
	if err != nil {
		a.t.Fatal(err)
	}
	return len(all)
}

// Of one request sent many times at once, with one key, there is one effect
// and one answer.
func TestIdempotencyAtOnce(t *testing.T) {
	a := start(t)
	a.ready("j")
	calls := []struct{ path, body string }{{"/api/job", `{"name": "twin"}`}, {"/api/job/j/run", ``}, {"/api/job/j/code", `{"files": {"main.py": "twin"}}`}}
	for _, c := range calls {
		var all sync.WaitGroup
		replies := make([]*reply, 16)
		for i := range replies {
			all.Go(func() { replies[i] = a.do("POST", c.path, c.body, "Idempotency-Key", "same") })
		}
		all.Wait()
		for _, r := range replies {
			if r.Status != replies[0].Status || string(r.Body) != string(replies[0].Body) || r.Status >= 300 {
				t.Errorf("%s: %d %s\nbeside %d %s", c.path, r.Status, r.Body, replies[0].Status, replies[0].Body)
			}
		}
	}
	a.do("GET", "/api/job/j/run", nil).want(200).is("items.0.number", 1).is("items.1", nil)
	a.do("GET", "/api/job/j/code", nil).want(200).is("items.0.id", "v2").is("items.2", nil)
	a.do("GET", "/api/job", nil).want(200).is("items.0.name", "twin").is("items.2", nil)
}

// Without a key as many runs are made as were asked for, each with its number.
func TestRunsAtOnce(t *testing.T) {
	a := start(t)
	a.ready("j")
	var all sync.WaitGroup
	var mu sync.Mutex
	numbers := map[string]bool{}
	for range 16 {
		all.Go(func() {
			n := fmt.Sprint(a.do("POST", "/api/job/j/run", nil).want(202).get("number"))
			mu.Lock()
			defer mu.Unlock()
			numbers[n] = true
		})
	}
	all.Wait()
	if len(numbers) != 16 || a.told("RunAsked") != 16 {
		t.Errorf("%d numbers, %d messages", len(numbers), a.told("RunAsked"))
	}
	if n := a.Counts.Conflicts.Value(); n > 40 { // they take turns: else each that is faster costs all others another try, some 120 in all
		t.Errorf("%d commits met another", n)
	}
}

// full is a store whose disk is full while it is on.
type full struct {
	store.Driver
	on atomic.Bool
}

func (f *full) Commit(ctx context.Context, b store.Batch) error {
	if f.on.Load() {
		return fmt.Errorf("no space left: %w", mlaas.ErrDisk)
	}
	return f.Driver.Commit(ctx, b)
}

func TestDiskFull(t *testing.T) {
	var f *full
	a := start(t, func(m *Management) {
		f = &full{Driver: m.DB}
		m.DB = f
	})
	f.on.Store(true)
	r := a.do("POST", "/api/job", `{"name": "j"}`, "Idempotency-Key", "k")
	r.refuses(507, "disk_full", "", "no space left")
	if r.Header.Get("Retry-After") == "" {
		t.Error("it is not said when to come again")
	}
	a.do("GET", "/api/job", nil).want(200)
	f.on.Store(false)
	a.do("POST", "/api/job", `{"name": "j"}`, "Idempotency-Key", "k").want(201)
}

// What a store fails with is for the log; who asks hears where to look.
func TestInternal(t *testing.T) {
	a := start(t, func(m *Management) { m.DB = broken{m.DB} })
	r := a.do("GET", "/api/job", nil)
	r.refuses(500, "internal", "", "under the request_id")
	if strings.Contains(string(r.Body), "page 7") {
		t.Errorf("%s", r.Body)
	}
}

type broken struct{ store.Driver }

func (broken) List(context.Context, store.Query) ([]store.Row, store.Key, error) {
	return nil, store.Key{}, fmt.Errorf("checksum of page 7")
}

// A patch of a patch: whatever comes, the job stays one that can be run, and
// nothing but bad input is blamed.
func FuzzPatch(f *testing.F) {
	f.Add(`{"roles": {"ps": {"replicas": 1}}}`)
	f.Add(`{"name": null}`)
	f.Add(`{"execution": {"parameters": {"a": 1e400}}}`)
	f.Add(`{"roles": {"worker": null}, "data": [null]}`)
	f.Fuzz(func(t *testing.T, patch string) {
		spec := mlaas.JobSpec{Name: "j"}
		spec.Complete()
		out, err := patchSpec(spec, []byte(patch))
		if err != nil {
			if mlaas.KindOf(err) == mlaas.ErrInternal {
				t.Errorf("%q: %v", patch, err)
			}
			return
		}
		if err := out.Check(); err != nil {
			t.Errorf("%q: %v", patch, err)
		}
	})
}
