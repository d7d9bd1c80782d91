package management

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/store"
)

func TestStartRun(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", "execution": {"parameters": {"lr": 0.1, "steps": 10}}, "roles": {"worker": {"replicas": 2, "cpu": "300m"}}}`).want(201)
	a.do("POST", "/api/job/j/run", nil).refuses(409, "conflict", "", "has no code yet: push some")
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "print(1)"}}`).want(201)
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "print(2)"}}`).want(201)

	r := a.do("POST", "/api/job/j/run", nil).want(202).is("status.state", "created").is("number", 1).is("version.id", "v2").is("spec.code.version", "v2").is("job", a.do("GET", "/api/job/j", nil).get("id"))
	id := r.get("id").(string)
	if r.Header.Get("Location") != "/api/run/"+id {
		t.Errorf("Location %q", r.Header.Get("Location"))
	}
	a.do("GET", "/api/job/j", nil).is("status.state", "created").is("status.run", id).is("status.number", 1).is("runs", 1)
	a.do("POST", "/api/job/j/run", `{"version": "v1", "parameters": {"lr": 0.2, "steps": null}, "roles": {"worker": {"replicas": 4}, "ps": {"replicas": 1}}}`).want(202).
		is("version.id", "v1").is("spec.execution.parameters", map[string]any{"lr": 0.2}).is("spec.roles.worker.replicas.max", 4).is("spec.roles.worker.cpu", "300m").is("spec.roles.ps.replicas.max", 1)
	a.do("GET", "/api/job/j", nil).is("roles.worker.replicas.max", 2).is("execution.parameters.lr", 0.1) // the job is as it was

	for body, want := range map[string][2]string{
		`{"version": "v9"}`:                       {"version", "v1 to v2"},
		`{"versoin": "v1"}`:                       {"versoin", "not a field, want version"},
		`{"parameters": 7}`:                       {"parameters", "want an object"},
		`{"parameters": {"a": [1]}}`:              {"execution.parameters.a", "want a text, a number"},
		`{"roles": {"worker": {"cpu": "lots"}}}`:  {"roles.worker.cpu", "want cores"},
		`{"roles": {"worker": {"replicas": -1}}}`: {"roles.worker.replicas", "want a number such as 4"},
	} {
		a.do("POST", "/api/job/j/run", body).refuses(422, "invalid", want[0], want[1])
	}
	a.do("POST", "/api/job/j/run", `{"version"`).refuses(400, "syntax", "", "no JSON")
	if n := a.told("RunAsked"); n != 2 {
		t.Errorf("%d messages", n)
	}

	// What people write for a run.
	for _, name := range []string{id, "j.1"} {
		a.do("GET", "/api/run/"+name, nil).want(200).is("id", id)
	}
	a.do("GET", "/api/run/j%2F1", nil).want(200).is("id", id)
	for _, name := range []string{"j.3", "k.1", "j", "j.x", "nothing"} {
		a.do("GET", "/api/run/"+name, nil).refuses(404, "not_found", "", "no run")
	}
	a.becomes(id, mlaas.Running, "2 of 2 workers run.")
	a.do("GET", "/api/run/"+id, nil).want(200).is("status.state", "running").is("status.reason", "2 of 2 workers run.")
	a.do("GET", "/api/run", nil).want(200).is("items.1.id", id).is("items.0.status.state", "created")
	a.do("GET", "/api/run?status=running", nil).want(200).is("items.0.id", id).is("items.1", nil)
	a.do("GET", "/api/job/j/run?limit=1", nil).want(200).is("items.0.number", 2)
}

func TestWhatARunNeeds(t *testing.T) {
	a := start(t)
	a.ready("j")
	command := func(words string) *reply {
		a.do("PATCH", "/api/job/j", `{"execution": {"command": `+words+`}}`).want(200)
		return a.do("POST", "/api/job/j/run", nil)
	}
	command(`["python", "train.py", "--x"]`).refuses(422, "invalid", "execution.command[1]", "a file of v1, which has main.py")
	command(`["python3", "-u", "train.py"]`).refuses(422, "invalid", "execution.command[2]", "a file of v1")
	command(`["./run.sh"]`).refuses(422, "invalid", "execution.command[0]", "a file of v1")
	for _, ok := range []string{`["python", "main.py"]`, `["python", "./main.py"]`, `["python", "-m", "mypkg"]`, `["python", "-c", "print(1)"]`, `["sh", "-c", "ls"]`, `["anything"]`, `[]`} {
		command(ok).want(202)
	}
	a.do("POST", "/api/job/j/code", `{"files": {"a.py": "", "b.py": ""}}`).want(201)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "execution.command", "which file of v2 to start")
	a.do("PATCH", "/api/job/j", `{"code": {"version": "v1"}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).want(202).is("version.id", "v1")

	a.do("PATCH", "/api/job/j", `{"environment": {"framework": null, "image": "registry/x:1"}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "environment.image", "a cluster that runs containers")
	a.commit(store.Batch{Put: []store.Row{store.Clusters(a.DB).Put(mlaas.Cluster{Name: "lab", Kind: "kubernetes"}, 0)}})
	a.do("POST", "/api/job/j/run", nil).want(202)

	a.do("PATCH", "/api/job/j", `{"environment": {"image": null, "framework": "python", "packages": ["b", "a"], "secrets": [{"secret": "hub", "variable": "HUB"}]}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "environment.secrets[0].secret", "mlaas secret set")
	a.do("POST", "/api/secret", `{"name": "hub", "value": "one"}`).want(201).is("version", 1)
	a.do("POST", "/api/secret", `{"name": "hub", "value": "two"}`).want(201).is("version", 2)
	lock, err := blob.PutBytes(t.Context(), a.Blob, []byte("a==1 --hash=..."))
	if err != nil {
		t.Fatal(err)
	}
	e := mlaas.Environment{Framework: "python", Packages: []string{"a", "b"}}
	a.commit(store.Batch{Put: []store.Row{store.Locks(a.DB).Put(mlaas.Locked{Tenant: mlaas.DefaultTenant, Spec: e.Spec(), Framework: "python", Lock: lock}, 0)}})
	a.do("POST", "/api/job/j/run", nil).want(202).is("spec.environment.secrets.0.version", 2).is("spec.environment.lock", lock)
	a.do("PATCH", "/api/job/j", `{"environment": {"lock": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}}`).want(200)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "environment.lock", "the digest of a lock")
	a.do("GET", "/api/environment", nil).want(200).is("items.0.lock", lock).is("catalogue.1.name", "tensorflow")
}

func TestStop(t *testing.T) {
	a := start(t)
	a.ready("j")
	a.do("POST", "/api/job/j/stop", nil).want(202).is("items.0", nil) // nothing lives
	var ids []string
	for range 3 {
		ids = append(ids, a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string))
	}
	a.becomes(ids[0], mlaas.Succeeded, "")
	a.becomes(ids[1], mlaas.Running, "")
	told := a.told("")
	a.do("POST", "/api/job/j/stop?run=2", nil).want(202).is("items.0.id", ids[1]).is("items.0.wanted", "stop").is("items.1", nil)
	a.do("POST", "/api/job/j/stop?run="+ids[0], nil).want(202).is("items.0", nil) // it is over
	a.do("POST", "/api/job/j/stop?run=9", nil).refuses(404, "not_found", "", "no run j/9")
	a.do("POST", "/api/job/j/stop", nil).want(202).is("items.0.id", ids[1]).is("items.1.id", ids[2])
	a.do("POST", "/api/run/"+ids[2]+"/stop", nil).want(202).is("wanted", "stop")
	a.do("POST", "/api/run/"+ids[0]+"/stop", nil).want(202).is("wanted", "run")
	if n := a.told("") - told; n != 2 {
		t.Errorf("%d messages, want one for each run", n)
	}
	a.do("POST", "/api/job/k/stop", nil).want(404)
	a.ready("k")
	a.do("POST", "/api/job/k/stop?run="+ids[2], nil).refuses(404, "not_found", "", "is of job j, not of k")
}

func TestReplicas(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j", "roles": {"worker": {"replicas": 2, "cpu": 0.3}, "ps": {"replicas": 1}}}`).want(201)
	a.do("GET", "/api/job/j/node", nil).want(200).is("items", []any{})
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": ""}}`).want(201)
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	r := a.do("GET", "/api/job/j/node", nil).want(200)
	for i, name := range []string{"worker-0", "worker-1", "ps-0"} {
		r.is(fmt.Sprintf("items.%d.id", i), name).is(fmt.Sprintf("items.%d.status", i), "wanted").is(fmt.Sprintf("items.%d.exitCode", i), nil)
	}
	a.becomes(run, mlaas.Running, "")
	one := 1
	now := time.Now().UTC()
	a.replica(run, "worker-1", mlaas.ReplicaFailed, func(r *mlaas.Replica) {
		r.ExitCode, r.Reason, r.Started = &one, "its program ended with 1", &now
		r.History = []mlaas.Event{{Status: mlaas.ReplicaReady}, {Status: mlaas.ReplicaFailed, ExitCode: &one}}
	})
	a.replica(run, "ps-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Usage.CPUSeconds = 1.5 })
	r = a.do("GET", "/api/job/j/node", nil).want(200)
	r.is("items.1.id", "worker-1").is("items.1.role", "worker").is("items.1.index", 1).is("items.1.attempt", 1).is("items.1.cluster", "local").is("items.1.status", "failed").
		is("items.1.reason", "its program ended with 1").is("items.1.exitCode", 1).is("items.2.status", "running").is("items.3", nil)
	a.do("GET", "/api/job/j/node?status=running", nil).want(200).is("items.0.id", "ps-0").is("items.1", nil)
	a.do("GET", "/api/run/"+run+"/node", nil).want(200).is("items.1.exitCode", 1)
	page := a.do("GET", "/api/job/j/node?limit=2", nil).want(200).is("items.1.id", "worker-1").is("items.2", nil)
	a.do("GET", "/api/job/j/node?limit=2&page_token="+page.get("next_page_token").(string), nil).want(200).is("items.0.id", "ps-0").is("next_page_token", "")
	a.do("GET", "/api/job/j/node?run=1", nil).want(200).is("items.1.exitCode", 1)
	a.do("GET", "/api/job/j/node?run=j.1", nil).want(200).is("items.1.exitCode", 1)
	a.do("GET", "/api/job/j/node?run=2", nil).refuses(404, "not_found", "", "no run j/2")

	a.do("GET", "/api/job/j/node/worker-1", nil).want(200).is("id", "worker-1").is("exitCode", 1)
	a.do("GET", "/api/job/j/node/worker-1/status", nil).want(200).is("status", "failed").is("exitCode", 1).is("run", run)
	a.do("GET", "/api/job/j/node/worker-1/event", nil).want(200).is("items.0.status", "ready").is("items.1.exitCode", 1)
	a.do("GET", "/api/job/j/node/worker-1/resource", nil).want(200).is("need.cpu", "300m").is("need.memory", "1Gi").is("ceiling.cpu", "300m").is("ceiling.memory", nil)
	a.do("GET", "/api/job/j/node/ps-0/resource", nil).want(200).is("need.cpu", "500m").is("ceiling.cpu", nil).is("usage.cpuSeconds", 1.5)
	a.do("GET", "/api/job/j/node/worker-0/status", nil).want(200).is("status", "wanted")
	for _, n := range []string{"worker-2", "boss-0", "worker", "worker-00", "..%2fworker-0", "worker-1%2f..%2f..%2f" + run + "%2fps-0"} {
		for _, part := range []string{"", "/status", "/log", "/metric", "/event", "/resource"} {
			a.do("GET", "/api/job/j/node/"+n+part, nil).refuses(404, "not_found", "", "")
		}
	}
	a.becomes(run, mlaas.Failed, "worker-1 ended with 1")
	a.do("GET", "/api/job/j/node", nil).want(200).is("items.0.id", "worker-1").is("items.2", nil) // what was never made is not wanted any more
}

func TestStatus(t *testing.T) {
	a := start(t)
	a.commit(store.Batch{Put: []store.Row{
		store.Clusters(a.DB).Put(mlaas.Cluster{Name: "local", Kind: "local", Up: true, Capacity: mlaas.Resources{CPU: 4000, Memory: 8 << 30}, Limits: []string{"There are no cgroups here."}}, 0),
		store.Ledgers(a.DB).Put(mlaas.Ledger{Cluster: "local", Grants: map[mlaas.RunID]mlaas.Grant{"r": {Total: mlaas.Resources{CPU: 1500, Memory: 1 << 30}}}}, 0)}})
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.replica(run, "worker-0", mlaas.ReplicaRunning, nil)
	r := a.do("GET", "/api/status", nil).want(200)
	r.is("clusters.0.name", "local").is("clusters.0.used.cpu", "1500m").is("clusters.0.free.cpu", "2500m").is("clusters.0.runs", 1).is("limits.0", "There are no cgroups here.").
		is("runs.running", 1).is("replicas.running", 1)
	if r.get("store.syncs").(float64) < 1 || r.get("store.commits").(float64) < 1 {
		t.Errorf("%s", r.Body)
	}
	a.do("GET", "/api/cluster", nil).want(200).is("items.0.name", "local")
	a.do("GET", "/api/cluster/local", nil).want(200).is("kind", "local")
	a.do("GET", "/api/cluster/moon", nil).refuses(404, "not_found", "", `no cluster "moon"`)
	for _, probe := range []string{"/livez", "/readyz"} {
		a.do("GET", probe, nil, "Authorization", "").want(200).is("status", "ok")
	}
	a.do("GET", "/api/problem/stale", nil, "Authorization", "").want(200).is("status", 412)
}

// Another team finds nothing, whatever it names.
func TestTenants(t *testing.T) {
	a := start(t)
	id := a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	cookie := auth.NewToken()
	a.commit(store.Batch{Put: []store.Row{store.Sessions(a.DB).Put(store.Session{Tenant: "other", ID: "s", Hash: auth.Hash(cookie), Expires: time.Now().Add(time.Hour)}, 0)}})
	as := []string{"Authorization", "", "Cookie", auth.Cookie + "=" + cookie}
	a.do("GET", "/api/job", nil, as...).want(200).is("items", []any{})
	a.do("GET", "/api/run", nil, as...).want(200).is("items", []any{})
	for _, path := range []string{"/api/job/" + id, "/api/job/j", "/api/run/" + run, "/api/run/j.1", "/api/job/" + id + "/node", "/api/job/j/code/v1", "/api/run/" + run + "/log"} {
		a.do("GET", path, nil, as...).want(404)
	}
	a.do("DELETE", "/api/job/"+id, nil, as...).want(404)
	a.do("POST", "/api/job", `{"name": "j"}`, as...).want(201) // names are of a team
}

// Who is known is told how each check went; anybody is told whether all did.
func TestReady(t *testing.T) {
	var wrong atomic.Bool
	p := &health.Prober{Keep: time.Nanosecond, Checks: []health.Check{{Name: "store", Do: func(context.Context) (string, error) {
		if wrong.Load() {
			return "", fmt.Errorf("the disk of /data is full: %w", mlaas.ErrDisk)
		}
		return "it writes", nil
	}}}}
	a := start(t, func(m *Management) { m.Health = p })
	a.do("GET", "/readyz", nil, "Authorization", "").want(200).is("status", "ok").is("checks", nil)
	a.do("GET", "/readyz", nil).want(200).is("checks.0.name", "store").is("checks.0.level", "ok").is("checks.0.says", "it writes")
	wrong.Store(true)
	r := a.do("GET", "/readyz", nil, "Authorization", "").want(503).is("status", "not ready: store").is("checks", nil)
	if r.Header.Get("Retry-After") == "" {
		t.Error("nothing says when to ask again")
	}
	a.do("GET", "/readyz", nil, "Authorization", "Bearer wrong").want(503).is("checks", nil)
	a.do("GET", "/readyz", nil).want(503).is("checks.0.level", "failing").is("checks.0.says", "the disk of /data is full")
	a.do("GET", "/livez", nil, "Authorization", "").want(200).is("status", "ok")
	wrong.Store(false)
	p.Drain()
	a.do("GET", "/readyz", nil, "Authorization", "").want(503).is("status", "draining")
}

// Who follows is told to come again, gets a whole answer, and is not let in
// again.
func TestLeave(t *testing.T) {
	a := start(t)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	ended := make(chan *reply)
	for _, path := range []string{"/api/run/" + run + "/log?follow=true", "/api/stream?topic=job"} {
		go func() { ended <- a.do("GET", path, nil) }()
	}
	for {
		a.streams.mu.Lock()
		n := len(a.streams.open)
		a.streams.mu.Unlock()
		if n == 2 {
			break
		}
		<-time.After(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a.Leave(ctx)
	if ctx.Err() != nil {
		t.Fatal("they do not go")
	}
	for range 2 {
		(<-ended).want(200)
	}
	a.do("GET", "/api/run/"+run+"/log?follow=true", nil).want(200)
	a.Leave(t.Context()) // again: nobody is there
}

// What rules have excluded is forgotten where the user says so, and only where
// there is something to forget.
func TestAnywhere(t *testing.T) {
	a, run := running(t)
	told := a.told("RunAsked")
	a.do("POST", "/api/run/"+run+"/anywhere", nil).want(202).is("anywhere", nil)
	s, rev, err := a.state(run)
	if err != nil {
		t.Fatal(err)
	}
	s.Excluded, s.Anywhere = map[string][]string{"worker": {"n7"}}, 2
	a.setState(s, rev)
	for range 2 { // pressed twice, it is the same wish
		a.do("POST", "/api/run/"+run+"/anywhere", nil).want(202).is("anywhere", 3.0)
	}
	if n := a.told("RunAsked") - told; n != 2 {
		t.Errorf("contractor was told %d times, want 2", n)
	}
	a.becomes(run, mlaas.Failed, "it is over")
	a.do("POST", "/api/run/"+run+"/anywhere", nil).want(202)
	if n := a.told("RunAsked") - told; n != 2 {
		t.Errorf("of a run that is over contractor was told")
	}
	a.do("POST", "/api/run/nothing/anywhere", nil).want(404)
}
