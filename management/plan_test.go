package management

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// lends puts a cluster there that is up.
func (a *api) lends(name string, cpu mlaas.MilliCPU, memory mlaas.Bytes) {
	a.t.Helper()
	a.commit(store.Batch{Put: []store.Row{store.Clusters(a.DB).Put(mlaas.Cluster{Name: name, Kind: "local", Up: true, Heard: a.Management.now(), Capacity: mlaas.Resources{CPU: cpu, Memory: memory}}, 0)}})
}

func TestPlan(t *testing.T) {
	a := start(t)
	plan := func(spec, code string) *reply { return a.do("POST", "/api/plan", `{"spec": `+spec+code+`}`).want(200) }
	code := `, "files": {"main.py": "import os\nimport tensorflow, pandas, acme\n"}`

	plan(`{"name": "j"}`, code).is("starts", "waits").is("reason", "queued, position 1: no cluster is connected").is("position", 1)
	a.lends("local", 4000, 16<<30)
	r := plan(`{"name": "j"}`, code).is("starts", "now").is("reason", "starts at once on local").is("allocation.cluster", "local").is("allocation.granted.worker", 1).
		is("environment.state", "new").is("spec.environment.framework", "tensorflow").is("spec.environment.packages", []any{"pandas"}).is("problems", []any{})
	for _, want := range []string{
		`{"what":"framework","value":"tensorflow","why":"main.py:2 imports tensorflow"}`,
		`{"what":"worker","value":"1","why":"one is enough to begin with"}`,
		`{"what":"worker CPU","value":"500m","why":"reserved where nothing is said; nothing is enforced"}`,
		`{"what":"program","value":"python main.py","why":"the code has a main.py"}`,
		`main.py:2 imports acme, which is no package that mlaas is sure of`,
	} {
		if !strings.Contains(string(r.Body), want) {
			t.Errorf("the plan lacks %s:\n%s", want, r.Body)
		}
	}
	// As a run would say it, and before there is one.
	plan(`{"name": "j", "roles": {"worker": {"gpu": 1000}}}`, code).is("starts", "never").is("reason", "needs 1000 GPU for one worker; the largest cluster, local, has 0")
	plan(`{"name": "j", "roles": {"worker": {"replicas": 9, "cpu": 1}}}`, code).is("starts", "now").is("reason", "starts at once on local, with 4 of 9 workers: the cluster can hold no more").is("allocation.remainder.worker", 5)
	// What is wrong is said beside the rest.
	plan(`{"environment": {"framework": "cobol"}}`, code).is("starts", "now").is("problems.0.field", "name").is("problems.1.field", "environment.framework")
	plan(`{"name": "j", "roles": {"worker": {"replicas": {"min": 5, "max": 2}}}}`, code).is("starts", "unknown").is("problems.0.field", "roles.worker.replicas")
	plan(`{"name": "j"}`, `, "files": {"a.py": "", "b.py": ""}`).is("problems.0.field", "execution.command")
	plan(`{"name": "j"}`, "").is("starts", "now").is("notes.0", "There is no code yet: it is looked at when there is.")
	a.do("POST", "/api/plan", `{"spec": {"roles": {"worker": {"cpu": -1}}}}`).refuses(422, "invalid", "spec.roles.worker.cpu", "want cores such as 0.3")
	a.do("POST", "/api/plan", `{"spec": {"nam": "j"}}`).refuses(422, "invalid", "spec.nam", "want name")
	// A job file says the same.
	r = a.do("POST", "/api/plan", map[string]any{"text": "name: j\nroles:\n  worker: {replicas: 2-3, cpu: 1.5}\n"}).want(200).is("spec.roles.worker.cpu", "1500m").is("stated.roles.worker", map[string]any{"replicas": "2-3", "cpu": 1.5})
	if got := r.get("file"); got != "name: j\nroles:\n  worker:\n    cpu: 1.5\n    replicas: 2-3\n" {
		t.Errorf("the job file is %q", got)
	}
	a.do("POST", "/api/plan", map[string]any{"text": "name: [j"}).refuses(400, "syntax", "", "the text is no YAML")
	a.do("POST", "/api/plan", map[string]any{"text": "nam: j"}).refuses(422, "invalid", "nam", "want name")
	a.do("POST", "/api/plan", `{"spec": {"name": "j"}, "job": "nothing"}`).refuses(404, "not_found", "", "no job")
	if n := a.told("RunAsked"); n != 0 {
		t.Errorf("a plan told %d times of a run", n)
	}
	if l := a.do("GET", "/api/job", nil).want(200).get("items"); fmt.Sprint(l) != "[]" {
		t.Errorf("a plan left jobs: %v", l)
	}
}

// What is ahead in line, and who holds what, is in the plan.
func TestPlanInLine(t *testing.T) {
	a := start(t)
	a.lends("local", 4000, 16<<30)
	a.ready("held")
	id := a.do("POST", "/api/job/held/run", nil).want(202).get("id").(string)
	a.becomes(id, mlaas.Running, "running")
	a.commit(store.Batch{Put: []store.Row{store.Ledgers(a.DB).Put(mlaas.Ledger{Cluster: "local", Grants: map[mlaas.RunID]mlaas.Grant{mlaas.RunID(id): {Tenant: mlaas.DefaultTenant, Epoch: 1, Total: mlaas.Resources{CPU: 3000, Memory: 1 << 30}}}}, 0)}})
	four := `{"spec": {"name": "j", "roles": {"worker": {"cpu": 4}}}}`
	a.do("POST", "/api/plan", four).want(200).is("starts", "waits").is("reason", "queued, position 1: needs 4 CPU (1 free of 4); held/1 holds 3, ends unknown")
	a.ready("first")
	a.do("PATCH", "/api/job/first", `{"roles": {"worker": {"cpu": 4}}}`).want(200)
	first := a.do("POST", "/api/job/first/run", nil).want(202).get("id").(string)
	a.becomes(first, mlaas.Queued, "queued")
	a.do("POST", "/api/plan", four).want(200).is("position", 2)
	a.do("POST", "/api/plan", `{"spec": {"name": "j", "roles": {"worker": {"cpu": 1}}}}`).want(200).is("reason", "queued, position 2: needs 1 CPU, which first/1 before it waits for")
	a.do("POST", "/api/plan", `{"spec": {"name": "j", "roles": {"worker": {"cpu": 1}}, "execution": {"priority": 5}}}`).want(200).is("starts", "now")
}

func TestPlanReadsCode(t *testing.T) {
	a := start(t)
	a.lends("local", 4000, 16<<30)
	a.Management.Prepare = func(_ context.Context, run mlaas.Run) (mlaas.Preparation, error) {
		if run.Spec.Code.Mode == "annotation" {
			return mlaas.Preparation{}, mlaas.Invalid("code", "a mark that is whole", "main.py:3: #@define without a name")
		}
		return mlaas.Preparation{Changes: []mlaas.Change{{Path: "main.py", Diff: "-a\n+b\n"}}}, nil
	}
	a.ready("j")
	a.do("POST", "/api/plan", `{"spec": {"name": "k"}, "job": "j"}`).want(200).is("changes.0.path", "main.py").is("problems", []any{})
	a.do("POST", "/api/plan", `{"spec": {"name": "k", "code": {"mode": "annotation"}}, "job": "j"}`).want(200).is("problems.0.file", "main.py").is("problems.0.line", 3)
	a.do("POST", "/api/plan", `{"spec": {"name": "k", `+digits+`}}`).want(200).is("spec.code.mode", "composed").is("problems", []any{}).is("changes.0.path", "main.py")
}
