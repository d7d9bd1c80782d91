//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/internal/kubetest"
)

// fakes are clusters whose nodes are played.
func fakes(ctx context.Context, names []string, nodes int) (all map[string]*kubetest.Cluster, err error) {
	all = map[string]*kubetest.Cluster{}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		g.Go(func() error {
			c, err := kubetest.Open(ctx, kubetest.Opts{Name: name, Nodes: kubetest.Fake(nodes)})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all[name] = c
			return c.Call(ctx, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}}, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, end(all))
	}
	return all, nil
}

func end(all map[string]*kubetest.Cluster) (err error) {
	for _, c := range all {
		err = errors.Join(err, c.Close())
	}
	return err
}

const (
	runLabel = "mlaas.dev/run"
	pods     = "/api/v1/namespaces/" + namespace + "/pods"
)

// A sight is what a cluster tells of a pod that runs.
type sight struct {
	Metadata struct {
		UID    string
		Labels map[string]string
	}
}

// A watch sees pods of clusters come to run. It is the same for who is measured
// and for the base, and its time is of neither.
type watch struct {
	mu    sync.Mutex
	seen  map[string]bool      // by uid
	first map[string]time.Time // by run: when a pod of it ran first
	news  chan struct{}
}

func watchAll(ctx context.Context, all map[string]*kubetest.Cluster) *watch {
	w := &watch{seen: map[string]bool{}, first: map[string]time.Time{}, news: make(chan struct{}, 1)}
	for _, c := range all {
		// What else happens to a pod is not told: the clusters have enough to do.
		go kubetest.Until(ctx, c, pods+"?fieldSelector=status.phase%3DRunning", func(p sight) (bool, error) { //nolint:errcheck // it ends with ctx
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen[p.Metadata.UID] = true
			if run := p.Metadata.Labels[runLabel]; w.first[run].IsZero() {
				w.first[run] = time.Now()
			}
			select {
			case w.news <- struct{}{}:
			default:
			}
			return false, nil
		})
	}
	return w
}

// until waits for what was seen.
func (w *watch) until(ctx context.Context, is func() bool) error {
	late := time.NewTimer(20 * time.Minute)
	defer late.Stop()
	for {
		w.mu.Lock()
		done := is()
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("only %d pods run after 20 minutes", len(w.seen))
		case <-w.news:
		}
	}
}

// A toll is what it took until all pods ran, and the processor time until that
// was in the records too; and what the clusters took for it.
type toll struct {
	wall, cpu, calls float64
	clusters         map[string]float64 // processor time of each of their programs
}

// programs is the processor time so far of each program of the clusters, which
// are children of this process, and of this process itself, through which the
// clusters are reached. The platform has a row of its own.
func programs(platform int) map[string]float64 {
	all := map[string]float64{}
	for _, pid := range rig.Tree(os.Getpid()) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		switch pid {
		case platform:
			continue
		case os.Getpid():
			name = []byte("relays and watches")
		}
		all[strings.TrimSpace(string(name))] += rig.CPU([]int{pid})
	}
	return all
}

// each is what the clusters took for a pod, in words.
func (t toll) each(pods float64) string {
	sum := 0.0
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(t.clusters), func(a, b string) int { return cmp.Compare(t.clusters[b], t.clusters[a]) }) {
		ms := 1000 * t.clusters[name] / pods
		if sum += ms; ms >= 0.1 {
			parts = append(parts, fmt.Sprintf("%s %.1f", name, ms))
		}
	}
	return fmt.Sprintf("%.1f ms of CPU (%s)", sum, strings.Join(parts, ", "))
}

// rate measures many runs, against a loop that makes the same pods.
func (b *bench) rate(ctx context.Context) error {
	all, err := fakes(ctx, []string{"a", "b", "c"}, b.nodes)
	if err != nil {
		return err
	}
	defer end(all) //nolint:errcheck // what was measured stands
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for name, c := range all {
		if err := s.add(name, c.Kubeconfig(), "127.0.0.1:1"); err != nil {
			return err
		}
		if err := s.up(ctx, name); err != nil {
			return err
		}
	}
	if err := s.Do(http.MethodPost, "/api/job", map[string]any{"name": "many", "roles": map[string]any{
		"worker": map[string]any{"replicas": map[string]int{"min": b.replicas, "max": b.replicas}, "cpu": 0.1, "memory": "64Mi"}}}, nil); err != nil {
		return err
	}
	if err := s.Do(http.MethodPost, "/api/job/many/code", map[string]any{"files": map[string]string{"main.py": "print(1)\n"}}, nil); err != nil {
		return err
	}
	same, err := s.pod(ctx, all)
	if err != nil {
		return fmt.Errorf("a pod of the platform: %w", err)
	}
	pods := b.runs * b.replicas
	measure := func(f func() (cpu func() (float64, error), err error)) (t toll, err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w := watchAll(ctx, all)
		before, err := calls(ctx, all)
		if err != nil {
			return t, err
		}
		took := programs(s.PID)
		began := time.Now()
		cpu, err := f()
		if err != nil {
			return t, err
		}
		err = w.until(ctx, func() bool { return len(w.seen) >= pods })
		t.wall, t.clusters = time.Since(began).Seconds(), programs(s.PID)
		for name := range t.clusters {
			t.clusters[name] -= took[name]
		}
		if err != nil {
			return t, err
		}
		if t.cpu, err = cpu(); err != nil {
			return t, err
		}
		after, err := calls(ctx, all)
		t.calls = after - before
		return t, err
	}
	bare, err := measure(func() (func() (float64, error), error) {
		spent, err := b.bareLoop(ctx, all, same)
		return func() (float64, error) { return spent, nil }, err
	})
	if err == nil {
		err = clear(ctx, all)
	}
	if err != nil {
		return fmt.Errorf("the bare loop: %w", err)
	}
	did, err := s.counted()
	if err != nil {
		return err
	}
	ours, err := measure(func() (func() (float64, error), error) {
		before := rig.CPU([]int{s.PID})
		g, _ := errgroup.WithContext(ctx)
		g.SetLimit(8)
		for range b.runs {
			g.Go(func() error { return s.Do(http.MethodPost, "/api/job/many/run", map[string]any{}, nil) })
		}
		return func() (float64, error) {
			spent, err := s.settled(ctx)
			return spent - before, err
		}, g.Wait()
	})
	if err != nil {
		return err
	}
	now, err := s.counted()
	if err != nil {
		return err
	}
	n := float64(pods)
	rig.Row("replicas a second, against a bare loop of client-go", bare.wall/ours.wall, 0.9, "x", false,
		fmt.Sprintf("%.0f/s against %.0f/s: %d runs of %d on 3 clusters of %d nodes", n/ours.wall, n/bare.wall, b.runs, b.replicas, b.nodes))
	rig.Row("CPU of the platform, against the loop", ours.cpu/bare.cpu, 1.3, "x", true, fmt.Sprintf("%.1f s against %.1f s", ours.cpu, bare.cpu))
	rig.Row("calls of the API servers for a replica", ours.calls/n, 1.5, "", true, fmt.Sprintf("%.2f of the loop", bare.calls/n))
	fmt.Printf("the clusters took for a pod of the loop %s\nand for one of the platform %s\n", bare.each(n), ours.each(n))
	promise, err := b.promised(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("the loop and what the platform does besides pods and requests are %.2f of the loop's CPU, %.1f s more\n", (bare.cpu+promise)/bare.cpu, promise)
	fmt.Print("a run of the platform was")
	for i, what := range countedOf {
		fmt.Printf(", %.1f %s", (now[i]-did[i])/float64(b.runs), what.text)
	}
	fmt.Println()
	return nil
}

// countedOf is what the platform counts of its own work.
var countedOf = []struct{ metric, text string }{
	{"mlaas_store_commits_total", "commits"},
	{"mlaas_store_syncs_total", "writes to disk"},
	{"mlaas_messages_handled_total", "messages"},
	{"mlaas_conflicts_total", "commits decided anew"},
	{"go_gc_duration_seconds_count", "collections of garbage"},
}

// counted is how much of that it did so far.
func (s *stage) counted() ([]float64, error) {
	sums := make([]float64, len(countedOf))
	err := s.Lines("/metrics", func(line []byte) bool {
		name, _, _ := strings.Cut(string(line), "{")
		name, _, _ = strings.Cut(name, " ")
		for i, what := range countedOf {
			if name == what.metric {
				v, _ := strconv.ParseFloat(string(line[strings.LastIndexByte(string(line), ' ')+1:]), 64)
				sums[i] += v
			}
		}
		return true
	})
	return sums, err
}

// settled waits until the platform has nothing more to write of what its pods
// did, and returns the processor time that it took so far in all.
func (s *stage) settled(ctx context.Context) (cpu float64, err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	commits := -1.0
	for range 120 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		cpu = rig.CPU([]int{s.PID}) // without the question that follows
		now, err := s.counted()
		if err != nil || now[0] == commits {
			return cpu, err
		}
		commits = now[0]
	}
	return 0, errors.New("the platform still writes two minutes after all pods ran")
}

// pod has the platform do one run, and returns a pod as it asked for it: without
// what the cluster has added. Nothing of the run is left then, but the namespace
// is as the platform wants it.
func (s *stage) pod(ctx context.Context, all map[string]*kubetest.Cluster) (*corev1.Pod, error) {
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	w := watchAll(within, all)
	var run struct{ ID string }
	if err := s.Do(http.MethodPost, "/api/job/many/run", map[string]any{}, &run); err != nil {
		return nil, err
	}
	if err := w.until(ctx, func() bool { return len(w.seen) > 0 }); err != nil {
		return nil, err
	}
	var list corev1.PodList
	for _, c := range all {
		if len(list.Items) == 0 {
			if err := c.Call(ctx, http.MethodGet, pods, nil, &list); err != nil {
				return nil, err
			}
		}
	}
	if err := s.Do(http.MethodPost, "/api/job/many/stop?run="+run.ID, nil, nil); err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errors.New("it is gone already")
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: list.Items[0].Labels}, Spec: list.Items[0].Spec}
	p.Labels["mlaas.dev/cluster"] = "bare" // or the platform would end what is not its own
	p.Spec.NodeName, p.Spec.Priority, p.Spec.PreemptionPolicy = "", nil, nil
	p.Spec.DNSPolicy, p.Spec.SchedulerName, p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount = "", "", "", ""
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].TerminationMessagePath = ""
	}
	return p, gone(ctx, all)
}

// bareLoop runs loop as a process of its own, so that its processor time is
// nobody else's, and returns that in seconds.
func (b *bench) bareLoop(ctx context.Context, all map[string]*kubetest.Cluster, same *corev1.Pod) (cpu float64, err error) {
	dir, err := os.MkdirTemp("", "mlaas-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	text, err := json.Marshal(same)
	if err != nil {
		return 0, err
	}
	files := []string{filepath.Join(dir, "pod.json")}
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		return 0, err
	}
	for name, c := range all {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, c.Kubeconfig(), 0o600); err != nil {
			return 0, err
		}
		files = append(files, file)
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"-loop", strconv.Itoa(b.runs * b.replicas)}, files...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

// loop makes pods like the one of the first file with client-go, a few at a time
// on each cluster of the kubeconfigs that follow, and watches them until they
// run: what anybody would write who needs no platform.
func loop(ctx context.Context, pods int, files []string) error {
	text, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	var like corev1.Pod
	if err := json.Unmarshal(text, &like); err != nil {
		return err
	}
	kubeconfigs := files[1:]
	g, ctx := errgroup.WithContext(ctx)
	for i, file := range kubeconfigs {
		share := pods / len(kubeconfigs)
		if i < pods%len(kubeconfigs) {
			share++
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		client, err := connect(text)
		if err != nil {
			return err
		}
		for worker := range 8 {
			g.Go(func() error {
				for n := worker; n < share; n += 8 {
					p := like // its parts are only read
					p.Name = fmt.Sprintf("bare-%d", n)
					if _, err := client.Pods(namespace).Create(ctx, &p, metav1.CreateOptions{}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		g.Go(func() error { return running(ctx, client, share) })
	}
	return g.Wait()
}

// running watches until so many pods have run. The API server cuts a watch that
// does not keep up; it begins again with all there is.
func running(ctx context.Context, client *corev1client.CoreV1Client, pods int) error {
	run := map[string]bool{}
	for range 100 {
		w, err := client.Pods(namespace).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
				run[p.Name] = true
			}
			if len(run) == pods {
				w.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("the watch was cut 100 times, after %d of %d pods", len(run), pods)
}

func connect(kubeconfig []byte) (*corev1client.CoreV1Client, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return corev1client.NewForConfig(config)
}

func bare(name string, labels map[string]string) *corev1.Pod {
	held := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	no := false
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no,
		Containers: []corev1.Container{{Name: "replica", Image: kubetest.PythonRef, Resources: corev1.ResourceRequirements{Requests: held, Limits: held}}},
	}}
}

// clear removes every pod of the namespace, and waits until they are gone.
func clear(ctx context.Context, all map[string]*kubetest.Cluster) error {
	for _, c := range all {
		if err := c.Call(ctx, http.MethodDelete, pods+"?gracePeriodSeconds=0", nil, nil); err != nil {
			return err
		}
	}
	return gone(ctx, all)
}

// gone waits until the namespace has no pods.
func gone(ctx context.Context, all map[string]*kubetest.Cluster) error {
	for _, c := range all {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for left := 1; left > 0; {
			var list struct{ Items []struct{} }
			if err := c.Call(ctx, http.MethodGet, pods, nil, &list); err != nil {
				return err
			}
			left = len(list.Items)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
	return nil
}

// counted is a count of the API server's own: what scheduler, controllers and
// nodes do with pods is on subresources, so what is on none is of who makes them.
var counted = regexp.MustCompile(`^apiserver_request_total\{.*resource="(pods|secrets|services)",.*subresource="",.*verb="(POST|PUT|PATCH|APPLY|DELETE|GET|LIST)".*\} ([0-9.e+]+)$`)

// calls is how often the API servers were asked so far to make, change, read or
// remove what a replica needs.
func calls(ctx context.Context, all map[string]*kubetest.Cluster) (sum float64, err error) {
	for _, c := range all {
		var text []byte
		if err := c.Call(ctx, http.MethodGet, "/metrics", nil, &text); err != nil {
			return 0, err
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if m := counted.FindStringSubmatch(strings.TrimSpace(lines.Text())); m != nil {
				n, err := strconv.ParseFloat(m[3], 64)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return sum, nil
}
