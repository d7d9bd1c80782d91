package management

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

var wildcard = regexp.MustCompile(`\{[^}]*\}`)

// Every route has a policy, a name, a sentence; it is in the document and on
// the mux; and there is nothing else in either.
func TestRoutes(t *testing.T) {
	a := start(t)
	doc := a.OpenAPI()
	described := map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range map[string]any{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch, "DELETE": item.Delete, "HEAD": item.Head} {
			if fmt.Sprint(op) != "<nil>" {
				described[method+" "+path] = true
			}
		}
	}
	ids := map[string]bool{}
	for _, rt := range a.routes() {
		method, pattern, ok := strings.Cut(rt.Call, " ")
		if !ok || rt.ID == "" || ids[rt.ID] || rt.Doc == "" || strings.HasSuffix(rt.Doc, ".") {
			t.Errorf("%s: it needs a name of its own and a sentence without its stop", rt.Call)
		}
		ids[rt.ID] = true
		if !slices.Contains(auth.Policies, rt.Policy) {
			t.Errorf("%s has no policy", rt.Call)
		}
		if !described[method+" "+strings.ReplaceAll(pattern, "...}", "}")] {
			t.Errorf("%s is not in the document", rt.Call)
		}
		if rt.Policy == auth.Public && strings.HasPrefix(pattern, "/api/") && rt.ID != "getProblem" {
			t.Errorf("%s is public", rt.Call)
		}
		var wild []string
		for _, w := range wildcard.FindAllString(pattern, -1) {
			wild = append(wild, strings.Trim(w, "{.}"))
		}
		for _, f := range rt.in.fields {
			if f.from == "path" {
				wild = slices.DeleteFunc(wild, func(w string) bool { return w == f.name })
			}
			if f.Tag.Get("doc") == "" {
				t.Errorf("%s: nothing is said of %s", rt.Call, f.name)
			}
		}
		if len(wild) > 0 {
			t.Errorf("%s: nobody reads %v", rt.Call, wild)
		}
	}
	if len(described) != len(a.routes()) {
		t.Errorf("%d operations are described, there are %d routes", len(described), len(a.routes()))
	}
	// The paper's figure 4.2.
	for _, call := range []string{"GET /api/job", "POST /api/job", "GET /api/job/{id}", "PATCH /api/job/{id}", "DELETE /api/job/{id}", "POST /api/job/{id}/code", "GET /api/job/{id}/code",
		"GET /api/job/{id}/code/{versionId}", "PUT /api/job/{id}/code/{versionId}", "POST /api/job/{id}/run", "POST /api/job/{id}/stop", "GET /api/job/{id}/node", "GET /api/job/{id}/node/{nodeId}",
		"GET /api/job/{id}/node/{nodeId}/status", "GET /api/job/{id}/node/{nodeId}/log", "GET /api/job/{id}/node/{nodeId}/metric", "GET /api/job/{id}/node/{nodeId}/event", "GET /api/job/{id}/node/{nodeId}/resource"} {
		if !described[call] {
			t.Errorf("%s of figure 4.2 is missing", call)
		}
	}
}

// Nobody gets past any route without being known, however they try.
func TestNobody(t *testing.T) {
	a := start(t)
	gone, revoked := auth.NewToken(), auth.NewToken()
	now := time.Now()
	a.commit(store.Batch{Put: []store.Row{
		store.Sessions(a.DB).Put(store.Session{Tenant: mlaas.DefaultTenant, ID: "1", Hash: auth.Hash(gone), Expires: now.Add(-time.Second)}, 0),
		store.Sessions(a.DB).Put(store.Session{Tenant: mlaas.DefaultTenant, ID: "2", Hash: auth.Hash(revoked), Expires: now.Add(time.Hour), Revoked: &now}, 0)}})
	job := auth.SignJob(a.Key, mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: "r", Epoch: 1, Replica: "worker-0"}, now.Add(time.Hour))
	as := map[string][]string{
		"nobody":           {"Authorization", ""},
		"a wrong token":    {"Authorization", "Bearer wrong"},
		"an empty token":   {"Authorization", "Bearer "},
		"another scheme":   {"Authorization", "Basic " + token},
		"a job token":      {"Authorization", "Bearer " + job},
		"an old session":   {"Authorization", "", "Cookie", auth.Cookie + "=" + gone},
		"a dead session":   {"Authorization", "", "Cookie", auth.Cookie + "=" + revoked},
		"a made-up cookie": {"Authorization", "", "Cookie", auth.Cookie + "=x"},
	}
	for _, rt := range a.routes() {
		method, pattern, _ := strings.Cut(rt.Call, " ")
		if rt.Policy == auth.Public {
			continue
		}
		path := wildcard.ReplaceAllString(pattern, "x")
		for who, headers := range as {
			r := a.do(method, path, "{}", headers...)
			if r.Status != 401 || r.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s as %s: %d", rt.Call, who, r.Status)
			} else if method != "HEAD" {
				r.is("error_code", "unauthorized")
			}
		}
	}
	a.do("GET", "/api/anything", nil, "Authorization", "").want(401) // nor is told what is not there
}

// A page of another site cannot use the session of who reads it.
func TestCrossSite(t *testing.T) {
	a := start(t)
	cookie := auth.NewToken()
	a.commit(store.Batch{Put: []store.Row{store.Sessions(a.DB).Put(store.Session{Tenant: mlaas.DefaultTenant, ID: "s", Hash: auth.Hash(cookie), Expires: time.Now().Add(time.Hour)}, 0)}})
	mine := []string{"Authorization", "", "Cookie", auth.Cookie + "=" + cookie}
	with := func(more ...string) []string { return append(slices.Clone(mine), more...) }
	a.do("GET", "/api/job", nil, mine...).want(200)
	for i, headers := range [][]string{with("Origin", "https://evil.example"), with("Origin", "null"), with("Sec-Fetch-Site", "cross-site"), with("Sec-Fetch-Site", "same-site"),
		with("Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"), with("Origin", "http://localhost:1")} {
		for _, rt := range a.routes() {
			method, pattern, _ := strings.Cut(rt.Call, " ")
			path := wildcard.ReplaceAllString(pattern, "x")
			if method == "GET" || method == "HEAD" {
				if rt.ID != "stream" {
					continue
				}
				r := a.do(method, path, nil, append(slices.Clone(headers), "Connection", "Upgrade", "Upgrade", "websocket")...)
				if r.Status != 403 {
					t.Errorf("a socket, %d: %d", i, r.Status)
				}
				continue
			}
			a.do(method, path, "{}", headers...).refuses(403, "forbidden", "", "another site's page")
		}
	}
	// Our own page may, and a token is no cookie.
	a.do("POST", "/api/job", `{"name": "a"}`, with("Sec-Fetch-Site", "same-origin")...).want(201)
	a.do("POST", "/api/job", `{"name": "b"}`, "Origin", "https://evil.example").want(201)
}

func TestNames(t *testing.T) {
	a := start(t)
	a.Hosts = []string{"mlaas.example"}
	for _, host := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example", "[2001:db8::1]:80"} {
		r := a.do("GET", "/api/job", nil, "Host", host)
		if r.Status != http.StatusMisdirectedRequest || r.get("request_id") == nil {
			t.Errorf("%s: %d %s", host, r.Status, r.Body)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]:80", "mlaas.example", "me.localhost"} {
		a.do("GET", "/api/job", nil, "Host", host).want(200)
	}
}

// Paths that lead elsewhere lead nowhere.
func TestPaths(t *testing.T) {
	a := start(t)
	a.ready("j")
	a.do("DELETE", "/api/run", nil).want(405).is("status", 405)
	if r := a.do("PUT", "/api/job", "{}").want(405); r.Header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow %q", r.Header.Get("Allow"))
	}
	a.do("GET", "/api/nothing", nil).refuses(404, "not_found", "", "there is nothing at /api/nothing")
	a.do("GET", "/", nil).want(404)
	for _, dots := range []string{"..", "%2e%2e", "%2e%2e%2f%2e%2e", "..%2f..", "..%5c..", "%252e%252e", "..;", "%c0%ae%c0%ae", "....//", ".%00."} {
		for _, path := range []string{"/api/job/%s", "/api/job/j/code/%s", "/api/job/j/code/v1/file/%s/etc/passwd", "/api/job/j/node/%s", "/api/run/%s", "/api/dataset/%s", "/api/dataset/j/%s", "/api/cluster/%s", "/api/blob/%s", "/api/run/j.1/artifact/%s/x"} {
			req, err := http.NewRequest("GET", a.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Opaque = strings.TrimPrefix(a.url, "http:") + fmt.Sprintf(path, dots)
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := a.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 400 && res.StatusCode != 404 && res.StatusCode != 422 {
				t.Errorf("%s: %d", fmt.Sprintf(path, dots), res.StatusCode)
			}
		}
	}
}

func TestOpenAPI(t *testing.T) {
	a := start(t)
	got := a.do("GET", "/openapi.yaml", nil, "Authorization", "").want(200).Body
	golden := filepath.Join("testdata", "openapi.yaml")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != string(got) {
		t.Errorf("the API is not the one of %s; if that is meant: go test ./management -run TestOpenAPI -update (%v)", golden, err)
	}
	doc := a.do("GET", "/openapi.json", nil, "Authorization", "").want(200)
	doc.is("openapi", "3.1.0").is("components.schemas.JobSpecInput.required", []any{"name"}).is("components.schemas.JobSpecInput.additionalProperties", false)

	// Every reference leads to something, and every operation says what it
	// answers.
	schemas := doc.get("components.schemas").(map[string]any)
	for _, ref := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllSubmatch(doc.Body, -1) {
		if schemas[string(ref[1])] == nil {
			t.Errorf("there is no schema %s", ref[1])
		}
	}
	for path, item := range doc.get("paths").(map[string]any) {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			responses := op["responses"].(map[string]any)
			if op["summary"] == "" || op["operationId"] == "" || responses["default"] == nil || op["x-policy"] == nil {
				t.Errorf("%s %s is not described", method, path)
			}
			for status, r := range responses {
				if r := r.(map[string]any); r["description"] == "" || r["content"] == nil && status != "204" && method != "head" {
					t.Errorf("%s %s %s: %v", method, path, status, r)
				}
			}
		}
	}
}

// The examples of the document work as they stand.
func TestExamples(t *testing.T) {
	a := start(t)
	a.do("PUT", "/api/blob/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "").want(201)
	spec := mlaas.Digest("sha256:" + strings.Repeat("1", 64))
	a.commit(store.Batch{Put: []store.Row{store.Locks(a.DB).Put(mlaas.Locked{Tenant: mlaas.DefaultTenant, Spec: spec, Framework: "python", Lock: "sha256:old"}, 0)}})
	routes := map[string]string{}
	for _, rt := range a.routes() {
		routes[rt.ID] = rt.Call
	}
	order := []string{"createJob", "editJob", "pushCode", "putVersion", "setSecret", "createDataset", "pushDataset", "startRun", "setLock"}
	if len(order) != len(examples) {
		t.Errorf("there are examples of %v", slices.Sorted(maps.Keys(examples)))
	}
	for _, id := range order {
		method, pattern, _ := strings.Cut(routes[id], " ")
		path := strings.NewReplacer("{id}", "mnist", "{versionId}", "v1", "{name}", "tiny", "{spec}", string(spec)).Replace(pattern)
		body, err := json.Marshal(examples[id])
		if err != nil {
			t.Fatal(err)
		}
		if r := a.do(method, path, body); r.Status >= 300 {
			t.Errorf("%s: %d %s", id, r.Status, r.Body)
		}
	}
	a.do("GET", "/api/environment/"+string(spec), nil).want(200).is("previous.0", "sha256:old")
	a.do("PATCH", "/api/environment/"+string(spec), `{"lock": "sha256:x"}`).refuses(422, "invalid", "lock", "a lock that is here")
	a.do("PATCH", "/api/environment/"+string(spec), `{"lock": "sha256:x"}`, "If-Match", `"1"`).refuses(412, "stale", "", "revision 2")
}

// What an answer is, is what its schema says: every field of it is described
// and every one that must be there is.
func TestAnswersFitTheirSchemas(t *testing.T) {
	a := start(t)
	doc := a.do("GET", "/openapi.json", nil).want(200)
	schemas := doc.get("components.schemas").(map[string]any)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.replica(run, "worker-0", mlaas.ReplicaRunning, nil)
	a.commit(store.Batch{Put: []store.Row{store.Clusters(a.DB).Put(mlaas.Cluster{Name: "local", Kind: "local"}, 0)}})
	a.do("POST", "/api/dataset/d", `{"files": {"a": "1"}}`).want(201)
	for _, path := range []string{"/api/job", "/api/job/{id}", "/api/job/{id}/code", "/api/job/{id}/code/{versionId}", "/api/job/{id}/run", "/api/job/{id}/node", "/api/job/{id}/node/{nodeId}",
		"/api/job/{id}/node/{nodeId}/status", "/api/job/{id}/node/{nodeId}/event", "/api/job/{id}/node/{nodeId}/resource", "/api/run", "/api/run/{id}", "/api/run/{id}/artifact", "/api/run/{id}/checkpoint",
		"/api/dataset", "/api/environment", "/api/cluster", "/api/status", "/api/secret", "/api/session", "/livez"} {
		id := "j"
		if strings.HasPrefix(path, "/api/run/") {
			id = run
		}
		r := a.do("GET", strings.NewReplacer("{id}", id, "{versionId}", "v1", "{nodeId}", "worker-0").Replace(path), nil).want(200)
		op := doc.get("paths").(map[string]any)[path].(map[string]any)["get"].(map[string]any)
		schema := op["responses"].(map[string]any)["200"].(map[string]any)["content"].(map[string]any)["application/json"].(map[string]any)["schema"]
		var v any
		if err := json.Unmarshal(r.Body, &v); err != nil {
			t.Fatal(err)
		}
		fits(t, path, schema.(map[string]any), v, schemas)
	}
}

func fits(t *testing.T, at string, schema map[string]any, v any, schemas map[string]any) {
	t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		fits(t, at, schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any), v, schemas)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		extra, _ := schema["additionalProperties"].(map[string]any)
		for k, member := range v {
			switch {
			case properties[k] != nil:
				fits(t, at+"."+k, properties[k].(map[string]any), member, schemas)
			case extra != nil:
				fits(t, at+"."+k, extra, member, schemas)
			case schema["oneOf"] == nil && len(schema) > 0:
				t.Errorf("%s.%s is not described", at, k)
			}
		}
		required, _ := schema["required"].([]any)
		for _, k := range required {
			if _, ok := v[k.(string)]; !ok {
				t.Errorf("%s.%s is not there", at, k)
			}
		}
	case []any:
		items, ok := schema["items"].(map[string]any)
		if !ok {
			t.Errorf("%s is a list, want %v", at, schema)
			return
		}
		for _, item := range v {
			fits(t, at+"[]", items, item, schemas)
		}
	case nil:
		types, _ := schema["type"].([]any)
		other, _ := schema["oneOf"].([]any)
		nulls := func(s any) bool { return s.(map[string]any)["type"] == "null" }
		if !slices.Contains(types, any("null")) && !slices.ContainsFunc(other, nulls) {
			t.Errorf("%s is null, want %v", at, schema["type"])
		}
	default:
		if schema["type"] == "object" || schema["type"] == "array" {
			t.Errorf("%s is %v, want %v", at, v, schema["type"])
		}
	}
}
