//go:build linux

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/e2e/layout"
	"mlaas.dev/mlaas/internal/kubetest"
)

// house is the namespace in which the chart is installed.
const house = "platform"

// One cluster, which is reached in three ways: by a booster outside that calls
// its API server; by a booster inside that calls the gateway of one outside; and
// by a platform that is in the cluster with all of its parts.
func TestHome(t *testing.T) {
	s := begin(t)
	c := kubetest.Start(t, kubetest.Opts{Name: "home", Nodes: kubetest.Real(1)})
	s.clusters["home"] = c
	if err := c.Import(t.Context(), s.images...); err != nil {
		t.Fatal(err)
	}
	create(t, c, "/api/v1/namespaces", object{"metadata": object{"name": house}})
	gate, err := c.Expose(s.gateOutside)
	if err != nil {
		t.Fatal(err)
	}
	s.gateAt["home"] = "http://" + gate
	s.settings = filepath.Join(s.work, "settings.yaml")
	s.write(t, s.settings, "namespace: "+namespace+"\nsupervisor: "+binaryRef+"\nimages: {\"\": "+kubetest.PythonRef+"}\n")
	outside := s.apart(t)
	booster := outside.Processes("booster")[0]
	door, err := c.Expose(strings.TrimPrefix(booster.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	s.door["home"] = "http://" + door + "/cluster/home"
	act := acts(t)

	act("a booster dies between making pods and recording them", func(t *testing.T) {
		s.cluster(t, "local", "up", func(k client.Cluster) bool { return k.Up })
		s.mlaas(t, "cluster", "drain", "local")
		s.add(t, "home")
		booster.Kill()
		if err := booster.Start(t.Context(), "MLAAS_FAILPOINT=booster.start.after#3"); err != nil {
			t.Fatal(err)
		}
		crowd := s.run(t, "crowd", "testdata/tick.py", "--workers", "6", "--cpu", "0.05", "--mem", "128Mi", "--env", "GATE="+s.gateAt["home"]+"/crowd")
		select {
		case <-booster.Ended():
		case <-time.After(patience):
		}
		if !booster.Killed() {
			t.Fatal("the booster does not die where it was told to")
		}
		began := pods(t, c, namespace)
		if len(began) < 3 {
			t.Fatalf("it died when %d pods were there, want 3 at least", len(began))
		}
		recorded, err := client.Collect(s.api.Replicas(t.Context(), crowd.job, crowd.id))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recorded {
			if r.Node != "" {
				t.Errorf("%s is recorded on node %s, although nobody wrote of its pod", r.ID, r.Node)
			}
		}
		if err := booster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.until(t, crowd, "at work", func(k client.Sight) bool { return works(k) && len(k.Replicas) == 6 })
		there := pods(t, c, namespace)
		if len(there) != 6 {
			t.Errorf("there are %d pods, want 6", len(there))
		}
		for _, p := range began {
			if !slices.ContainsFunc(there, func(o pod) bool { return o.Metadata.UID == p.Metadata.UID }) {
				t.Errorf("pod %s of before is not there any more", p.Metadata.Name)
			}
		}
		close(s.gate.of("crowd"))
		once(t, s.succeeded(t, crowd), "home")
		if n := strings.Count(s.mlaas(t, "logs", "crowd"), "counted to "); n != 6 {
			t.Errorf("%d replicas say that they are at their end, want 6", n)
		}
		empty(t, c, namespace)
	})

	act("a booster inside calls a gateway", func(t *testing.T) {
		token := filepath.Join(s.work, "far.token")
		s.mlaas(t, "cluster", "add", "far", "--remote", "--token-file", token, "--settings", s.settings)
		s.only(t, "far")
		text, err := os.ReadFile(token)
		if err != nil {
			t.Fatal(err)
		}
		secret(t, c, "far", map[string]string{"token": string(text)})
		agent := s.install(t, c, "far", `
management: {enabled: false}
contractor: {enabled: false}
booster: {enabled: false}
agent: {enabled: true, cluster: far, gateways: ["http://`+door+`"], tokenSecret: far, namespaces: [`+namespace+`], resources: {requests: {cpu: 10m, memory: 64Mi}}}
`)
		agent.ready(t)
		s.cluster(t, "far", "up", func(k client.Cluster) bool { return k.Up && k.Current() })
		steady := s.run(t, "steady", "testdata/tick.py", "--cpu", "0.05", "--mem", "128Mi", "--env", "GATE="+s.gateAt["home"]+"/steady")
		s.counts(t, steady, 1)
		// What it said is on its way, and who passes it on dies.
		for _, p := range pods(t, c, house) {
			if err := c.Call(t.Context(), http.MethodDelete, "/api/v1/namespaces/"+house+"/pods/"+p.Metadata.Name, object{"gracePeriodSeconds": 0}, nil); err != nil {
				t.Fatal(err)
			}
		}
		agent.ready(t)
		s.cluster(t, "far", "up", func(k client.Cluster) bool { return k.Up })
		close(s.gate.of("steady"))
		once(t, s.succeeded(t, steady), "far")
		s.counted(t, steady, 1)
		s.mlaas(t, "cluster", "remove", "far", "--wait", "1m")
		if left := pods(t, c, namespace); len(left) > 0 {
			t.Errorf("far is gone, and there are %+v", left)
		}
		agent.remove(t)
	})

	act("all of the platform is in the cluster", func(t *testing.T) {
		outside.Crash() // its store and its blobs serve another one from here on
		at := map[string]string{}
		for _, name := range []string{"store", "blob"} {
			if at[name], err = c.Expose(outside.Processes(name)[0].Dial); err != nil {
				t.Fatal(err)
			}
		}
		password, err := outside.Password()
		if err != nil {
			t.Fatal(err)
		}
		owner := strings.Repeat("0123456789abcdef", 4)
		secret(t, c, "ml", map[string]string{
			"key": strings.Repeat("fedcba9876543210", 4), "token": owner,
			"store": "redis://:" + password + "@" + at["store"] + "/inside",
			"blob":  "s3://torture:torture-secret@inside?endpoint=http://" + at["blob"] + "&create=true",
		})
		secret(t, c, "here", map[string]string{"token": "a-token-of-at-least-32-characters"})
		secret(t, c, "clusters", map[string]string{"here.token": "a-token-of-at-least-32-characters", "clusters.yaml": `
clusters:
- name: here
  kind: remote
  token_file: here.token
  kube: {namespace: ` + namespace + `, supervisor: "` + binaryRef + `", images: {"": "` + kubetest.PythonRef + `"}}
`})
		const small = "resources: {requests: {cpu: 10m, memory: 64Mi}}"
		whole := s.install(t, c, "ml", `
secret: ml
management: {clustersSecret: clusters, `+small+`}
contractor: {`+small+`}
booster: {`+small+`}
agent: {enabled: true, cluster: here, gateways: ["http://ml-booster.`+house+`.svc:7482"], tokenSecret: here, `+small+`}
`)
		whole.ready(t)
		var service struct{ Spec struct{ ClusterIP string } }
		if err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/"+house+"/services/ml-management", nil, &service); err != nil {
			t.Fatal(err)
		}
		public, err := c.Reach(service.Spec.ClusterIP + ":7480")
		if err != nil {
			t.Fatal(err)
		}
		s.platform = &layout.Platform{Options: layout.Options{Dir: filepath.Join(s.work, "inside")}, URL: "http://" + public, Token: owner}
		s.api = &client.Client{URL: s.platform.URL, Token: s.platform.Token}
		s.cluster(t, "here", "up", func(k client.Cluster) bool { return k.Up && k.Current() })
		resident := s.run(t, "resident", "testdata/tick.py", "--cpu", "0.05", "--mem", "128Mi", "--env", "GATE="+s.gateAt["home"]+"/resident")
		s.counts(t, resident, 1)
		close(s.gate.of("resident"))
		once(t, s.succeeded(t, resident), "here")
		s.counted(t, resident, 1)
		empty(t, c, namespace)
		whole.remove(t)
		tokens(t, c)
	})
}

// apart starts a platform in three processes, of which the booster serves the
// clusters home and far.
func (s *stage) apart(t *testing.T) *layout.Platform {
	t.Helper()
	s3 := filepath.Join("..", "..", "bin", "versitygw")
	if _, err := os.Stat(s3); err != nil && os.Getenv("CI") != "true" {
		t.Skipf("there is no S3 server: %v: `make bin/versitygw` builds it", err)
	}
	binary := filepath.Join(s.work, "mlaas-failpoints")
	build := exec.Command("go", "build", "-tags", "failpoints", "-trimpath", "-o", binary, "../../cmd/mlaas")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := filepath.Join(s.work, "outside")
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	p, err := layout.Start(t.Context(), layout.Options{Kind: layout.Three, Binary: binary, S3: s3, Dir: dir,
		Args: []string{"--cluster", "home,far"}, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s.platform, s.api = p, &client.Client{URL: p.URL, Token: p.Token}
	return p
}

type object = map[string]any

// create makes an object.
func create(t *testing.T, c *kubetest.Cluster, path string, o object) {
	t.Helper()
	if err := c.Call(t.Context(), http.MethodPost, path, o, nil); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func secret(t *testing.T, c *kubetest.Cluster, name string, data map[string]string) {
	t.Helper()
	create(t, c, "/api/v1/namespaces/"+house+"/secrets", object{"metadata": object{"name": name}, "stringData": data})
}

func pods(t *testing.T, c *kubetest.Cluster, namespace string) []pod {
	t.Helper()
	var all struct{ Items []pod }
	if err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods", nil, &all); err != nil {
		t.Fatal(err)
	}
	return all.Items
}

// tokens wants no token of a replica to be left where replicas were.
func tokens(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	var all struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := c.Call(t.Context(), http.MethodGet, "/api/v1/namespaces/"+namespace+"/secrets", nil, &all); err != nil {
		t.Fatal(err)
	}
	for _, one := range all.Items {
		for key, token := range one.Data {
			if token != "" {
				t.Errorf("Secret %s still has the token of %s", one.Metadata.Name, key)
			}
		}
	}
}

// A release is what an installation of the chart made.
type release struct {
	c           *kubetest.Cluster
	paths       []string // of its objects
	deployments []string // of these, those that run something
}

// install installs the chart with values, as Helm does.
func (s *stage) install(t *testing.T, c *kubetest.Cluster, name, values string) *release {
	t.Helper()
	render := exec.Command("go", "run", ".", "-name", name, "-namespace", house)
	render.Dir = filepath.Join("..", "..", "deploy", "helm")
	render.Stdin = strings.NewReader("image: " + binaryRef + "\npullPolicy: Never\n" + values)
	var said bytes.Buffer
	render.Stderr = &said
	out, err := render.Output()
	if err != nil {
		t.Fatalf("render the chart: %v: %s", err, said.String())
	}
	r := &release{c: c}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var text json.RawMessage
		var head struct {
			APIVersion, Kind string
			Metadata         struct{ Name, Namespace string }
		}
		if err := errors.Join(d.Decode(&text), json.Unmarshal(text, &head)); err != nil {
			t.Fatal(err)
		}
		path := "/apis/" + head.APIVersion
		if !strings.Contains(head.APIVersion, "/") {
			path = "/api/" + head.APIVersion
		}
		if in := head.Metadata.Namespace; !strings.HasPrefix(head.Kind, "Cluster") {
			if in == "" {
				in = house
			}
			path += "/namespaces/" + in
		}
		path += "/" + strings.ToLower(head.Kind) + "s"
		if err := c.Call(t.Context(), http.MethodPost, path, text, nil); err != nil {
			t.Fatalf("install %s %s: %v", head.Kind, head.Metadata.Name, err)
		}
		r.paths = append(r.paths, path+"/"+head.Metadata.Name)
		if head.Kind == "Deployment" {
			r.deployments = append(r.deployments, head.Metadata.Name)
		}
	}
	return r
}

// ready returns when everything of it says that it can work.
func (r *release) ready(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, name := range r.deployments {
		type deployment struct {
			Metadata struct{ Generation int }
			Spec     struct{ Replicas int }
			Status   struct{ ObservedGeneration, Replicas, ReadyReplicas, UnavailableReplicas int }
		}
		var last deployment
		err := kubetest.Until(ctx, r.c, "/apis/apps/v1/namespaces/"+house+"/deployments?fieldSelector=metadata.name="+name, func(d deployment) (bool, error) {
			last = d
			return d.Status.ObservedGeneration == d.Metadata.Generation && d.Status.ReadyReplicas == d.Spec.Replicas && d.Status.UnavailableReplicas == 0, nil
		})
		if err != nil {
			t.Fatalf("%s is not ready: %+v: %v\n%s", name, last.Status, err, r.words(name))
		}
	}
}

// words are the last of what the pods of a deployment said.
func (r *release) words(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all struct{ Items []json.RawMessage }
	if err := r.c.Call(ctx, http.MethodGet, "/api/v1/namespaces/"+house+"/pods", nil, &all); err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, text := range all.Items {
		var p struct {
			Metadata struct{ Name string }
			Status   json.RawMessage
		}
		if json.Unmarshal(text, &p) != nil || !strings.HasPrefix(p.Metadata.Name, name+"-") {
			continue
		}
		var log []byte
		err := r.c.Call(ctx, http.MethodGet, "/api/v1/namespaces/"+house+"/pods/"+p.Metadata.Name+"/log?tailLines=20", nil, &log)
		fmt.Fprintf(&b, "%s: %s\n%s (%v)\n", p.Metadata.Name, p.Status, log, err)
	}
	return b.String()
}

// remove uninstalls it, and wants nothing of it to be left.
func (r *release) remove(t *testing.T) {
	t.Helper()
	for _, path := range r.paths {
		if err := r.c.Call(t.Context(), http.MethodDelete, path, object{"propagationPolicy": "Background"}, nil); err != nil {
			t.Errorf("remove %s: %v", path, err)
		}
	}
	empty(t, r.c, house)
	for _, path := range r.paths {
		var status *kubetest.StatusError
		if err := r.c.Call(t.Context(), http.MethodGet, path, nil, nil); !errors.As(err, &status) || status.Code != http.StatusNotFound {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
}
