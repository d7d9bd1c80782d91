package management

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/kubeconfig"
	"mlaas.dev/mlaas/store"
)

// config is a kubeconfig whose token is a secret.
func config(server, secret string) string {
	return fmt.Sprintf(`{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": %q}}], "users": [{"name": "u", "user": {"token": %q}}]}`, server, secret)
}

func clusterAsk(name string, more map[string]any) map[string]any {
	ask := map[string]any{"name": name, "door": "https://booster.example.org/cluster/" + name, "kubeconfig": config("https://10.0.0.5:6443", "s3cr3t"),
		"kube": map[string]any{"supervisor": "registry.example.org/mlaas:1"}}
	for k, v := range more {
		if ask[k] = v; v == nil {
			delete(ask, k)
		}
	}
	return ask
}

func TestClusters(t *testing.T) {
	const canary = "c4nary-kubeconfig"
	var log logged
	var said strings.Builder
	a := start(t, func(m *Management) {
		m.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	do := func(method, path string, body any, headers ...string) *reply {
		t.Helper()
		r := a.do(method, path, body, headers...)
		said.Write(r.Body)
		return r
	}
	ask := clusterAsk("lab", map[string]any{"kubeconfig": config("https://10.0.0.5:6443", canary)})
	made := do("POST", "/api/cluster", ask, "Idempotency-Key", "k").want(201).is("name", "lab").is("kind", "kubernetes").is("wanted", "serve").
		is("server", "https://10.0.0.5:6443").is("up", false).is("reason", "no booster has connected to it yet").is("kube.supervisor", "registry.example.org/mlaas:1")
	do("POST", "/api/cluster", ask, "Idempotency-Key", "k").want(201)
	do("POST", "/api/cluster", ask).refuses(409, "conflict", "", "a cluster lab already")
	do("GET", "/api/cluster", nil).want(200).is("items.0.name", "lab").is("items.1", nil)
	do("GET", "/api/status", nil).want(200).is("clusters.0.name", "lab")

	// What booster writes of it is beside what is wanted of it.
	spec := a.clusterSpec("lab")
	a.commit(store.Batch{Put: []store.Row{store.Clusters(a.DB).Put(mlaas.Cluster{Name: "lab", Kind: "kubernetes", Up: true, Capacity: mlaas.Resources{CPU: 4000}, Reason: "it is up", Heard: time.Now(), Of: spec.Changed}, 0)}})
	do("GET", "/api/cluster/lab", nil).want(200).is("up", true).is("capacity.cpu", "4").is("free.cpu", "4").is("wanted", "serve").is("of", made.get("changed"))

	// Drained and resumed it is reached as before; with other settings or other
	// credentials it is connected anew.
	etag := do("GET", "/api/cluster/lab", nil).Header.Get("ETag")
	do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "drain"}, "If-Match", etag).want(200).is("wanted", "drain").is("changed", made.get("changed"))
	do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "serve"}, "If-Match", etag).refuses(412, "stale", "", "revision 2")
	do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "serve"}).want(200).is("wanted", "serve").is("changed", made.get("changed"))
	again := do("PATCH", "/api/cluster/lab", map[string]any{"kube": map[string]any{"namespace": "ml", "images": map[string]any{"tensorflow": "tf:2"}}}).want(200).
		is("kube.namespace", "ml").is("kube.supervisor", "registry.example.org/mlaas:1")
	if again.get("changed") == made.get("changed") {
		t.Error("other settings are not connected anew")
	}
	do("PATCH", "/api/cluster/lab", map[string]any{"kube": map[string]any{"images": nil}}).want(200).is("kube.images", nil).is("kube.namespace", "ml")
	do("PATCH", "/api/cluster/lab", map[string]any{"kubeconfig": config("https://10.0.0.6:6443", canary+"2")}).want(200).is("server", "https://10.0.0.6:6443")
	key, _, err := store.ClusterKeys(a.DB).Get(t.Context(), "", "lab")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := auth.Unseal(a.Key, key.About(), key.Sealed)
	if err != nil || !strings.Contains(string(plain), canary+"2") {
		t.Errorf("unsealed: %q, %v", plain, err)
	}
	if c, err := kubeconfig.Read(plain, ""); err != nil || c.Check(false) != nil {
		t.Errorf("what is sealed is no kubeconfig: %v", err)
	}
	key.Cluster = "other"
	if _, err := auth.Unseal(a.Key, key.About(), key.Sealed); err == nil {
		t.Error("a key opens under the name of another cluster")
	}

	do("DELETE", "/api/cluster/lab", nil).want(202).is("wanted", "gone")
	do("DELETE", "/api/cluster/lab", nil).want(202).is("wanted", "gone")
	do("POST", "/api/cluster", ask).refuses(409, "conflict", "", "is being removed")
	do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "serve"}).want(200).is("wanted", "serve")
	do("DELETE", "/api/cluster/moon", nil).refuses(404, "not_found", "", `no cluster "moon"`)

	if strings.Contains(said.String(), canary) {
		t.Errorf("an answer holds it: %s", said.String())
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("the log holds it: %s", log.String())
	}
	if err := filepath.WalkDir(filepath.Dir(a.store().Dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(canary)) || bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString([]byte(canary)))) {
			t.Errorf("%s holds it", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func (a *api) clusterSpec(name string) mlaas.ClusterSpec {
	a.t.Helper()
	spec, _, err := store.ClusterSpecs(a.DB).Get(a.t.Context(), "", name)
	if err != nil {
		a.t.Fatal(err)
	}
	return spec
}

func TestClusterRefused(t *testing.T) {
	a := start(t)
	kube := func(more map[string]any) map[string]any {
		k := map[string]any{"supervisor": "mlaas:1"}
		for name, v := range more {
			k[name] = v
		}
		return map[string]any{"kube": k}
	}
	for _, tt := range []struct {
		more        map[string]any
		field, says string
	}{
		{map[string]any{"name": "Lab/1"}, "name", "a-z"},
		{map[string]any{"kind": "nomad"}, "kind", `"kubernetes" or "remote"`},
		{map[string]any{"kind": "local"}, "kind", "this machine"},
		{map[string]any{"door": nil}, "door", "https://booster.example.org"},
		{map[string]any{"door": "unix:///x"}, "door", "URL"},
		{map[string]any{"door": "https://u:p@b/"}, "door", "URL"},
		{map[string]any{"kubeconfig": nil}, "kubeconfig", "1 to 262144"},
		{map[string]any{"kubeconfig": strings.Repeat("#", maxKubeconfig+1)}, "kubeconfig", "1 to 262144"},
		{map[string]any{"kubeconfig": "hello"}, "kubeconfig", "kubeconfig in YAML"},
		{map[string]any{"context": "d"}, "context", "one of c"},
		{map[string]any{"kubeconfig": strings.Replace(config("https://a", "t"), `"token"`, `"tokenFile"`, 1)}, "kubeconfig", "name of a file"},
		{map[string]any{"kubeconfig": strings.Replace(config("https://a", "t"), `"token": "t"`, `"exec": {"command": "aws"}`, 1)}, "kubeconfig", "--allow-exec"},
		{map[string]any{"kube": nil}, "kube.supervisor", "image"},
		{kube(map[string]any{"supervisor": "a b"}), "kube.supervisor", "image"},
		{kube(map[string]any{"namespace": "Up"}), "kube.namespace", "a name of Kubernetes"},
		{kube(map[string]any{"images": map[string]any{"tensorflow": ""}}), "kube.images.tensorflow", "image"},
		{kube(map[string]any{"gpu": map[string]any{"h100": map[string]any{"resource": "gpu"}}}), "kube.gpu.h100.resource", "nvidia.com/gpu"},
		{kube(map[string]any{"volumes": []any{map[string]any{"claim": "data", "path": "data"}}}), "kube.volumes[0].path", "absolute"},
		{kube(map[string]any{"volumes": []any{map[string]any{"claim": "data", "path": "/data", "subPath": "../x"}}}), "kube.volumes[0].subPath", "within"},
		{kube(map[string]any{"environments": map[string]any{"claim": "", "path": "/env"}}), "kube.environments.claim", "PersistentVolumeClaim"},
		{kube(map[string]any{"tolerations": []any{map[string]any{"operator": "Is"}}}), "kube.tolerations[0].operator", "Exists"},
		{kube(map[string]any{"tolerations": []any{map[string]any{"effect": "No"}}}), "kube.tolerations[0].effect", "NoSchedule"},
		{kube(map[string]any{"copy": "scp"}), "kube.copy", "image"},
		{kube(map[string]any{"imagePullSecrets": []any{"A"}}), "kube.imagePullSecrets[0]", "secret"},
		{kube(map[string]any{"naemspace": "ml"}), "kube.naemspace", ""},
	} {
		a.do("POST", "/api/cluster", clusterAsk("lab", tt.more)).refuses(422, "invalid", tt.field, tt.says)
	}
	a.do("GET", "/api/cluster", nil).want(200).is("items.0", nil)
	a.do("POST", "/api/cluster", clusterAsk("lab", nil)).want(201)
	a.do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "gone"}).refuses(422, "invalid", "wanted", "DELETE")
	a.do("PATCH", "/api/cluster/lab", map[string]any{"door": "x"}).refuses(422, "invalid", "door", "URL")
	a.do("PATCH", "/api/cluster/lab", map[string]any{"name": "x"}).refuses(422, "invalid", "name", "")
	a.do("PATCH", "/api/cluster/lab", `[]`).refuses(422, "invalid", "body", "an object")
	a.do("POST", "/api/cluster/lab/token", nil).refuses(409, "conflict", "", "not remote")
}

// A remote cluster has a token, of which a digest is kept; each new one ends the
// one before.
func TestClusterToken(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/cluster", map[string]any{"name": "far", "kind": "remote", "kubeconfig": "x"}).refuses(422, "invalid", "kubeconfig", "calls the platform")
	a.do("POST", "/api/cluster", map[string]any{"name": "far", "kind": "remote", "door": "https://x"}).refuses(422, "invalid", "door", "nothing")
	a.do("POST", "/api/cluster", map[string]any{"name": "far", "kind": "remote"}).want(201).is("kind", "remote").is("server", nil)
	if _, _, err := store.ClusterKeys(a.DB).Get(t.Context(), "", "far"); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("it has a key before anybody asked for one: %v", err)
	}
	before := a.clusterSpec("far").Changed
	var last string
	for range 2 {
		token, _ := a.do("POST", "/api/cluster/far/token", nil, "Idempotency-Key", "k").want(201).get("token").(string)
		key, _, err := store.ClusterKeys(a.DB).Get(t.Context(), "", "far")
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := auth.Unseal(a.Key, key.About(), key.Sealed); err != nil || string(plain) != auth.Hash(token) || token == last || len(token) < 32 {
			t.Errorf("the key is %q of %q after %q, %v", plain, token, last, err)
		}
		if now := a.clusterSpec("far").Changed; !now.After(before) {
			t.Error("a new token is not told to who serves the cluster")
		}
		last = token
	}
}

// This machine can be drained, and not removed.
func TestClusterLocal(t *testing.T) {
	a := start(t)
	a.commit(store.Batch{Put: []store.Row{store.Clusters(a.DB).Put(mlaas.Cluster{Name: "local", Kind: "local", Up: true, Reason: "it is up"}, 0)}})
	a.do("GET", "/api/cluster/local", nil).want(200).is("wanted", "serve").is("created", nil)
	a.do("POST", "/api/cluster", clusterAsk("local", nil)).refuses(409, "conflict", "", "already")
	a.do("DELETE", "/api/cluster/local", nil).refuses(409, "conflict", "", "goes when its booster does")
	a.do("PATCH", "/api/cluster/local", map[string]any{"wanted": "drain"}).want(200).is("wanted", "drain").is("up", true).is("kind", "local")
	a.do("PATCH", "/api/cluster/local", map[string]any{"kubeconfig": config("https://a", "t")}).refuses(422, "invalid", "kubeconfig", "a local cluster has none")
	a.do("DELETE", "/api/cluster/local", nil).refuses(409, "conflict", "", "goes when its booster does")
	a.do("PATCH", "/api/cluster/local", map[string]any{"wanted": "serve"}).want(200).is("wanted", "serve")
}

// A file of clusters is what is wanted, read as often as one likes.
func TestDeclare(t *testing.T) {
	a := start(t)
	declared := func(name, secret, wanted string) ClusterDeclared {
		return ClusterDeclared{ClusterAsk: ClusterAsk{Name: name, Door: "https://b/cluster/" + name, Kube: &mlaas.KubeSettings{Supervisor: "mlaas:1"}, Kubeconfig: config("https://"+name, secret)}, Wanted: wanted}
	}
	far := ClusterDeclared{ClusterAsk: ClusterAsk{Name: "far", Kind: "remote"}, Token: strings.Repeat("t", 32)}
	declare := func(all ...ClusterDeclared) {
		t.Helper()
		if err := a.Declare(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	seq := func() int64 {
		s, err := a.DB.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Seq
	}
	a.do("POST", "/api/cluster", clusterAsk("by-hand", nil)).want(201)
	declare(declared("lab", "t1", ""), far)
	a.do("GET", "/api/cluster", nil).want(200).is("items.0.name", "by-hand").is("items.1.name", "far").is("items.2.name", "lab").is("items.2.declared", true).is("items.2.server", "https://lab").is("items.3", nil)
	before, was := seq(), a.clusterSpec("lab")
	declare(declared("lab", "t1", ""), far)
	if seq() != before {
		t.Error("a file that says the same changes something")
	}
	a.do("PATCH", "/api/cluster/lab", map[string]any{"wanted": "drain"}).want(200)
	declare(declared("lab", "t1", ""), far)
	if now := a.clusterSpec("lab"); now.Wanted != mlaas.ClusterDrain || now.Changed != was.Changed {
		t.Errorf("what was drained by hand is %s", now.Wanted)
	}
	declare(declared("lab", "t1", "serve"), far)
	a.do("GET", "/api/cluster/lab", nil).want(200).is("wanted", "serve")
	declare(declared("lab", "t2", ""), far)
	if now := a.clusterSpec("lab"); !now.Changed.After(was.Changed) {
		t.Error("other credentials are not connected anew")
	}
	a.do("PATCH", "/api/cluster/lab", map[string]any{"door": "https://c/"}).refuses(409, "conflict", "", "change it there")
	a.do("DELETE", "/api/cluster/lab", nil).refuses(409, "conflict", "", "change it there")

	// One that is wrong changes none.
	before = seq()
	bad := declared("new", "t", "")
	bad.Door = ""
	for says, all := range map[string][]ClusterDeclared{
		`cluster 2, "new": door`: {declared("lab", "t3", ""), bad},
		"there are two":          {declared("lab", "t3", ""), declared("lab", "t3", "")},
		"wanted":                 {declared("lab", "t3", "gone")},
		"token_file":             {{ClusterAsk: ClusterAsk{Name: "far", Kind: "remote"}, Token: "short"}},
	} {
		if err := a.Declare(t.Context(), all); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}
	if seq() != before {
		t.Error("a file with a mistake changes something")
	}

	declare(far)
	a.do("GET", "/api/cluster", nil).want(200).is("items.0.wanted", "serve").is("items.1.wanted", "serve").is("items.2.wanted", "gone")
	declare(declared("lab", "t2", ""), far)
	a.do("GET", "/api/cluster/lab", nil).want(200).is("wanted", "serve")
	other := far
	other.Kind, other.Door, other.Kube, other.Kubeconfig = "", "https://b", &mlaas.KubeSettings{Supervisor: "m"}, config("https://far", "t")
	if err := a.Declare(t.Context(), []ClusterDeclared{other}); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("a cluster of another kind: %v", err)
	}
}
