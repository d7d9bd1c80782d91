//go:build linux

// Package kube runs the platform over Kubernetes clusters that are as real as
// they get on one machine, and takes away, in turn, each part that may fail.
// All that the tests know of the platform is its binary and its API.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/e2e/layout"
	"mlaas.dev/mlaas/internal/kubetest"
)

// patience is how long one step may take: a node that is silent is given up
// after a minute and some seconds.
const patience = 3 * time.Minute

// namespace is where the clusters of these tests have their replicas.
const namespace = "mlaas"

// A stage is a platform, and the clusters that it may be given.
type stage struct {
	platform     *layout.Platform
	binary, work string // work is a folder to write in
	api          *client.Client
	gate         *gate

	clusters map[string]*kubetest.Cluster
	door     map[string]string // by cluster: the URL by which its pods reach the platform
	gateAt   map[string]string // by cluster: that of the gate
	settings string            // a file: what each cluster lends

	gateOutside string   // the address of the gate here
	images      []string // archives of what clusters are given
}

// A gate is where programs wait until they may end.
type gate struct {
	mu   sync.Mutex
	open map[string]chan struct{}
}

func (g *gate) of(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[name] == nil {
		g.open[name] = make(chan struct{})
	}
	return g.open[name]
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-g.of(strings.TrimPrefix(r.URL.Path, "/")):
		w.WriteHeader(http.StatusOK)
	case <-r.Context().Done():
	}
}

// begin is a stage without a platform and without clusters.
func begin(t *testing.T) *stage {
	t.Helper()
	kubetest.Need(t)
	s := &stage{work: t.TempDir(), gate: &gate{open: map[string]chan struct{}{}}, clusters: map[string]*kubetest.Cluster{}, door: map[string]string{}, gateAt: map[string]string{}}
	s.binary = binary(t, s.work)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.gate}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	s.gateOutside = listener.Addr().String()

	python, err := kubetest.Python()
	if err != nil {
		t.Fatal(err)
	}
	for i, image := range []kubetest.Image{{Ref: binaryRef, Files: map[string]string{"/mlaas": s.binary}}, python} {
		s.images = append(s.images, filepath.Join(s.work, fmt.Sprintf("image-%d.tar", i)))
		if err := image.Write(s.images[i]); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range s.clusters {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// binaryRef is the image that has the program under test.
const binaryRef = "kubetest.local/mlaas:1"

// set starts the clusters and the platform, beside each other.
func set(t *testing.T) *stage {
	t.Helper()
	s := begin(t)
	port, err := layout.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	door := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	environments := s.environments(t)
	all, ctx := errgroup.WithContext(t.Context())
	var mu sync.Mutex
	for name, opts := range map[string]kubetest.Opts{
		"east": {Nodes: kubetest.Real(2), FastEviction: true}, // what runs on a node that dies goes to the other
		"west": {Nodes: kubetest.Real(1), FastEviction: true},
		"far":  {Nodes: kubetest.Fake(2)},
	} {
		all.Go(func() error {
			opts.Name = name
			c, err := kubetest.Open(ctx, opts)
			if err != nil {
				return err
			}
			mu.Lock()
			s.clusters[name] = c
			mu.Unlock()
			if name != "far" {
				if err := c.Import(ctx, s.images...); err != nil {
					return err
				}
			}
			if err := c.Call(ctx, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}}, nil); err != nil {
				return err
			}
			if err := c.Share(ctx, namespace, "environments", environments); err != nil {
				return err
			}
			at, err := c.Expose(door)
			if err != nil {
				return err
			}
			gate, err := c.Expose(s.gateOutside)
			mu.Lock()
			defer mu.Unlock()
			s.door[name], s.gateAt[name] = "http://"+at+"/cluster/"+name, "http://"+gate
			return err
		})
	}
	all.Go(func() (err error) {
		s.platform, err = layout.Start(ctx, layout.Options{Kind: layout.One, Binary: s.binary, Dir: filepath.Join(s.work, "platform"),
			Args: []string{"--door", door, "--plain"}, Log: t.Output()})
		return err
	})
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.platform.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s.api = &client.Client{URL: s.platform.URL, Token: s.platform.Token}
	s.settings = filepath.Join(s.work, "settings.yaml")
	s.write(t, s.settings, `
namespace: `+namespace+`
supervisor: `+binaryRef+`
images: {"": `+kubetest.PythonRef+`}
environments: {claim: environments, path: `+environments+`, readOnly: true}
`)
	return s
}

// binary is the program under test: MLAAS_BIN, or one that is built now.
func binary(t *testing.T, work string) string {
	t.Helper()
	if bin := os.Getenv("MLAAS_BIN"); bin != "" {
		bin, err := filepath.Abs(bin)
		if err != nil {
			t.Fatal(err)
		}
		return bin
	}
	bin := filepath.Join(work, "mlaas")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "../../cmd/mlaas")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// environments is a folder with TensorFlow as an administrator would put it on
// a volume. It is kept for the next time: it is large.
func (s *stage) environments(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "mlaas", "environments")
	if out, err := exec.CommandContext(t.Context(), s.binary, "env", "fill", folder, "--framework", "tensorflow").CombinedOutput(); err != nil {
		t.Fatalf("mlaas env fill: %v: %s", err, out)
	}
	return folder
}

func (s *stage) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// try runs the program as a user does, and returns what it wrote.
func (s *stage) try(t *testing.T, args ...string) (out, said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, s.binary, args...)
	c.Env = append(os.Environ(), append(s.platform.Variables(), "NO_COLOR=1", "HOME="+s.work)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err = c.Run()
	return stdout.String(), stderr.String(), err
}

func (s *stage) mlaas(t *testing.T, args ...string) string {
	t.Helper()
	out, said, err := s.try(t, args...)
	if err != nil {
		t.Fatalf("mlaas %s: %v: %s%s", strings.Join(args, " "), err, out, said)
	}
	return out
}

// add adds a cluster by a kubeconfig, and wants it to be up.
func (s *stage) add(t *testing.T, name string) {
	t.Helper()
	config := filepath.Join(s.work, name+".kubeconfig")
	s.write(t, config, string(s.clusters[name].Kubeconfig()))
	s.mlaas(t, "cluster", "add", name, "--kubeconfig", config, "--door", s.door[name], "--settings", s.settings, "--wait", "1m")
	s.cluster(t, name, "up", func(k client.Cluster) bool { return k.Up && k.Current() })
}

// only has runs that begin from now on placed on one cluster.
func (s *stage) only(t *testing.T, name string) {
	t.Helper()
	all, err := client.Collect(s.api.Clusters(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		if want := map[bool]string{true: "resume", false: "drain"}[k.Name == name]; k.Wanted != map[string]string{"resume": mlaas.ClusterServe, "drain": mlaas.ClusterDrain}[want] {
			s.mlaas(t, "cluster", want, k.Name)
		}
	}
}

// cluster waits for how a cluster is.
func (s *stage) cluster(t *testing.T, name, what string, is func(client.Cluster) bool) (k client.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var err error
		if k, err = s.api.Cluster(ctx, name); err == nil && is(k) {
			return k
		}
		select {
		case <-ctx.Done():
			t.Fatalf("cluster %s is not %s: %v: %+v", name, what, err, k)
		case <-tick.C:
		}
	}
}

// A run is the first of its job.
type run struct {
	id  mlaas.RunID
	job string
}

// run starts a program, or a folder.
func (s *stage) run(t *testing.T, name, what string, args ...string) run {
	t.Helper()
	s.mlaas(t, append([]string{"run", what, "--name", name, "--detach"}, args...)...)
	r, err := s.api.Run(t.Context(), name+".1")
	if err != nil {
		t.Fatal(err)
	}
	return run{r.ID, name}
}

// until waits for how a run is.
func (s *stage) until(t *testing.T, r run, what string, is func(client.Sight) bool) client.Sight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last client.Sight
	for seen, err := range s.api.Watch(ctx, r.id) {
		if last = seen; err != nil {
			break
		}
		if is(seen) {
			return seen
		}
	}
	text, _, _ := s.try(t, "logs", r.job, "--tail", "20")
	t.Fatalf("%s is not %s: it is %s: %s\n%s\n%s", r.job, what, last.Run.Status.State, last.Run.Status.Reason, tell(last.Replicas), text)
	return last
}

func tell(all []client.Replica) string {
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintf(&b, "%s attempt %d on %s/%s is %s: %s\n", r.ID, r.Attempt, r.Cluster, r.Node, r.Status, r.Reason)
		for _, e := range r.History {
			fmt.Fprintf(&b, "    %+v\n", e)
		}
	}
	return b.String()
}

// works reports whether the programs of all replicas were started.
func works(k client.Sight) bool {
	return k.Run.Status.State == mlaas.Running && len(k.Replicas) > 0 &&
		!slices.ContainsFunc(k.Replicas, func(r client.Replica) bool { return r.Status != mlaas.ReplicaRunning })
}

func (s *stage) succeeded(t *testing.T, r run) client.Sight {
	t.Helper()
	end := s.until(t, r, "over", func(k client.Sight) bool { return k.Run.Status.State.Final() })
	if end.Run.Status.State != mlaas.Succeeded {
		text, _, _ := s.try(t, "logs", r.job, "--tail", "20")
		t.Fatalf("%s is %s: %s\n%s\n%s", r.job, end.Run.Status.State, end.Run.Status.Reason, tell(end.Replicas), text)
	}
	return end
}

// once wants a run to have had one attempt, which nothing disturbed.
func once(t *testing.T, end client.Sight, cluster string) {
	t.Helper()
	if a := end.Run.Status.Attempts; len(a) != 1 || a[0].Cluster != cluster {
		t.Errorf("%s had the attempts %+v, want one on %s", end.Run.ID, a, cluster)
	}
	for _, r := range end.Replicas {
		if r.Incarnation != 1 || r.Status == mlaas.ReplicaLost {
			t.Errorf("%s of %s is %s, incarnation %d: %s", r.ID, end.Run.ID, r.Status, r.Incarnation, r.Reason)
		}
	}
}

// counts waits until a tick.py is on its way in an attempt, as its log has it.
func (s *stage) counts(t *testing.T, r run, attempt int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for l, err := range s.api.Log(ctx, r.id, client.LogQuery{Follow: true}) {
		if err != nil {
			said, _, _ := s.try(t, "replicas", r.job)
			t.Fatalf("%s does not count in attempt %d: %v\n%s", r.job, attempt, err, said)
		}
		if l.Attempt == attempt && l.Text == "tick 20" {
			return
		}
	}
	t.Fatalf("%s ended before it counted in attempt %d", r.job, attempt)
}

// counted wants the log of a tick.py: in each attempt from 1 on, no number left
// out or twice, and in the last one to the end.
func (s *stage) counted(t *testing.T, r run, attempts int) {
	t.Helper()
	next, end := map[int]int{}, 0
	lines, err := client.Collect(s.api.Log(t.Context(), r.id, client.LogQuery{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		word, number, _ := strings.Cut(l.Text, " ")
		switch n, err := strconv.Atoi(number); {
		case word == "tick" && err == nil && n == next[l.Attempt]+1:
			next[l.Attempt]++
		case l.Text == fmt.Sprintf("counted to %d", next[attempts]) && l.Attempt == attempts:
			end++
		default:
			t.Fatalf("%s, attempt %d: after tick %d it wrote %q", r.job, l.Attempt, next[l.Attempt], l.Text)
		}
	}
	if len(next) != attempts || end != 1 {
		t.Errorf("%s counted to %v by attempt, and said %d times that it was at its end; want %d attempts and one end", r.job, next, end, attempts)
	}
}

// A pod is what the tests read of one.
type pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp string
	}
	Status struct{ Phase string }
}

// empty wants no pod in a namespace of a cluster, now or when those are gone
// that are being ended.
func empty(t *testing.T, c *kubetest.Cluster, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last []pod
	for {
		var pods struct{ Items []pod }
		err := c.Call(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods", nil, &pods)
		if err == nil && len(pods.Items) == 0 {
			return
		}
		if err == nil {
			last = pods.Items
		}
		select {
		case <-ctx.Done():
			t.Fatalf("left in %s of %s: %+v (%v)", namespace, c.Name(), last, err)
		case <-tick.C:
		}
	}
}

// acts runs one part of a test after another, and ends with the first that fails.
func acts(t *testing.T) func(name string, f func(t *testing.T)) {
	return func(name string, f func(t *testing.T)) {
		t.Helper()
		began := time.Now()
		if !t.Run(name, f) {
			t.FailNow()
		}
		t.Logf("%s: %.1f s", name, time.Since(began).Seconds())
	}
}

// A day of three clusters. Each act begins where the one before it ended.
func TestClusters(t *testing.T) {
	s := set(t)
	act := acts(t)
	var trained, steady, mover run

	act("two clusters are added", func(t *testing.T) {
		s.mlaas(t, "cluster", "drain", "local")
		s.add(t, "east")
		s.add(t, "west")
		if out := s.mlaas(t, "cluster", "ls", "-o", "name"); !strings.Contains(out, "east\n") || !strings.Contains(out, "west\n") {
			t.Errorf("the clusters are %s", out)
		}
	})

	act("a network trains in pods while another cluster comes and goes", func(t *testing.T) {
		data, err := exec.Command("bash", "../../examples/get_mnist.sh").Output()
		if err != nil {
			t.Fatalf("get MNIST: %v", err)
		}
		s.mlaas(t, "data", "put", "mnist", strings.TrimSpace(string(data)))
		s.only(t, "east")
		trained = s.run(t, "mnist-ps", "../../examples/mnist-ps", "--param", "steps=1000")
		s.until(t, trained, "in its steps", func(k client.Sight) bool {
			return slices.ContainsFunc(k.Replicas, func(r client.Replica) bool { return r.Step > 0 }) || k.Run.Status.State.Final()
		})
		s.add(t, "far")
		s.mlaas(t, "cluster", "remove", "far", "--wait", "1m")
		end := s.succeeded(t, trained)
		once(t, end, "east")
		if len(end.Replicas) != 3 {
			t.Errorf("it had %d replicas, want 1 ps and 2 workers", len(end.Replicas))
		}
		var curves []client.Curve
		if err := json.Unmarshal([]byte(s.mlaas(t, "metrics", "mnist-ps", "--key", "test_accuracy", "-o", "json")), &curves); err != nil {
			t.Fatal(err)
		}
		if len(curves) != 1 || len(curves[0].Points) == 0 || float64(curves[0].Points[len(curves[0].Points)-1].Last) < 0.9 {
			t.Errorf("its accuracy is %+v, want at least 0.9", curves)
		} else {
			t.Logf("accuracy %v", curves[0].Points[len(curves[0].Points)-1].Last)
		}
	})

	act("a pod gets 0.3 cores and 1.5 GiB and no more", func(t *testing.T) {
		s.only(t, "west")
		spin := s.run(t, "spin", "testdata/spin.py", "--cpu", "0.3", "--mem", "1.5Gi") // alone, so that what it gets is its share
		once(t, s.succeeded(t, spin), "west")
		said := strings.Fields(s.mlaas(t, "logs", "spin"))
		if len(said) != 4 || said[1] != strconv.Itoa(3<<29) {
			t.Fatalf("it said %q, want a ceiling of %d bytes", said, 3<<29)
		}
		if cores, err := strconv.ParseFloat(said[3], 64); err != nil || cores > 0.36 || cores < 0.05 {
			t.Errorf("two processes that spin got %s cores, want some 0.3", said[3])
		}
		t.Logf("%q", said)
		hog := s.run(t, "hog", "testdata/hog.py", "--cpu", "0.3", "--mem", "1.5Gi")
		end := s.until(t, hog, "over", func(k client.Sight) bool { return k.Run.Status.State.Final() })
		// Its supervisor says so, or, where the kernel ended that too, the kubelet.
		why := regexp.MustCompile(`out of memory: its ceiling is (1\.5Gi|1536Mi)`)
		if r := end.Replicas[0]; end.Run.Status.State != mlaas.Failed || !r.OOM || !why.MatchString(r.Reason) || !why.MatchString(end.Run.Status.Reason) {
			t.Errorf("the run is %s: %s; the replica (out of memory: %v) says %q, want %s", end.Run.Status.State, end.Run.Status.Reason, r.OOM, r.Reason, why)
		}
		if out := s.mlaas(t, "replicas", "hog"); !strings.Contains(out, "out of memory") {
			t.Errorf("mlaas replicas says\n%s", out)
		}
	})

	act("a kubelet and a node die", func(t *testing.T) {
		steady = s.run(t, "steady", "testdata/tick.py", "--cpu", "0.2", "--mem", "256Mi", "--env", "GATE="+s.gateAt["west"]+"/steady")
		s.counts(t, steady, 1)
		s.only(t, "east")
		mover = s.run(t, "mover", "testdata/tick.py", "--cpu", "0.2", "--mem", "256Mi", "--env", "GATE="+s.gateAt["east"]+"/mover")
		on := s.until(t, mover, "at work", func(k client.Sight) bool { return works(k) && k.Replicas[0].Node != "" }).Replicas[0].Node
		s.counts(t, mover, 1)
		if err := s.clusters["west"].KillKubelet(0); err != nil {
			t.Fatal(err)
		}
		number := 0
		if on == s.clusters["east"].Node(1) {
			number = 1
		}
		if err := s.clusters["east"].KillNode(t.Context(), number); err != nil {
			t.Fatal(err)
		}
		k := s.cluster(t, "west", "without its node", func(k client.Cluster) bool { return k.Capacity.CPU == 0 })
		if want := s.clusters["west"].Node(0) + " does not answer"; !strings.Contains(strings.Join(k.Limits, " "), want) {
			t.Errorf("cluster west says %q, want %q", k.Limits, want)
		}
		if err := s.clusters["west"].RestartKubelet(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		moved := s.until(t, mover, "at work elsewhere", func(k client.Sight) bool { return works(k) && len(k.Run.Status.Attempts) > 1 })
		lost := moved.Run.Status.Attempts[0].Reason
		if want := "node " + on + " is lost"; !strings.Contains(lost, want) {
			t.Errorf("its first attempt ended because %q, want %q", lost, want)
		}
		if r := moved.Replicas[len(moved.Replicas)-1]; r.Node == on || r.Node == "" {
			t.Errorf("it runs on %q, which is dead", r.Node)
		}
		s.counts(t, mover, 2)
		close(s.gate.of("mover"))
		s.succeeded(t, mover)
		s.counted(t, mover, 2)
	})

	act("an API server dies", func(t *testing.T) {
		s.clusters["west"].StopAPIServer()
		k := s.cluster(t, "west", "down", func(k client.Cluster) bool { return !k.Up })
		if !strings.Contains(k.Reason, "does not answer") {
			t.Errorf("cluster west is down: %q", k.Reason)
		}
		t.Log(k.Reason)
		if err := s.clusters["west"].StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.cluster(t, "west", "up", func(k client.Cluster) bool { return k.Up })
	})

	act("the platform dies", func(t *testing.T) {
		s.platform.Crash()
		if _, said, err := s.try(t, "replicas", "steady"); err == nil || !strings.Contains(said, "mlaas up") {
			t.Errorf("without a platform, mlaas replicas says (%v) %q", err, said)
		}
		if err := s.platform.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.cluster(t, "west", "up", func(k client.Cluster) bool { return k.Up })
		close(s.gate.of("steady"))
		once(t, s.succeeded(t, steady), "west")
		s.counted(t, steady, 1)
	})

	act("logs stay when pods and cluster are gone", func(t *testing.T) {
		for _, name := range []string{"east", "west"} {
			s.mlaas(t, "cluster", "remove", name, "--wait", "1m")
			empty(t, s.clusters[name], namespace)
			if err := s.clusters[name].Close(); err != nil {
				t.Error(err)
			}
		}
		s.counted(t, steady, 1)
		s.counted(t, mover, 2)
		said := s.mlaas(t, "logs", "mnist-ps")
		for _, want := range []string{"ps 0 holds variables", "worker 0 contributed", "worker 1 contributed", "test accuracy"} {
			if !strings.Contains(said, want) {
				t.Errorf("the log of mnist-ps is\n%s\nwant %q in it", said, want)
			}
		}
		if out := s.mlaas(t, "logs", "hog"); out != "it begins\n" {
			t.Errorf("the log of hog is %q", out)
		}
		for _, name := range []string{"east", "west", "far"} {
			if _, said, err := s.try(t, "cluster", "show", name); err == nil || !strings.Contains(said, name) {
				t.Errorf("mlaas cluster show %s, which was removed: %v, %q", name, err, said)
			}
		}
	})
}
