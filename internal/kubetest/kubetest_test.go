//go:build linux

package kubetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

type object = map[string]any

// pod is what the tests read of one.
type pod struct {
	Metadata struct{ Name, UID string }
	Spec     struct{ NodeName string }
	Status   struct {
		Phase, PodIP      string
		ContainerStatuses []struct {
			RestartCount int
			ImageID      string
			State        struct {
				Terminated *struct {
					Reason   string
					ExitCode int
				}
			}
		}
	}
}

const pods = "/api/v1/namespaces/default/pods"

// run makes a pod of one container.
func run(t *testing.T, c *Cluster, name string, container, spec object) {
	t.Helper()
	container["name"], container["imagePullPolicy"] = "main", "Never"
	whole := object{"containers": []object{container}, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
	for k, v := range spec {
		whole[k] = v
	}
	if err := c.Call(t.Context(), http.MethodPost, pods, object{"metadata": meta{Name: name}, "spec": whole}, nil); err != nil {
		t.Fatal(err)
	}
}

// python is a container that runs a program.
func python(program string) object {
	return object{"image": PythonRef, "command": []string{"/usr/bin/python3", "-u", "-c", program}}
}

// await returns the pod when it is as wanted.
func await(t *testing.T, c *Cluster, name string, want func(pod) bool) pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last pod
	err := Until(ctx, c, pods+"?fieldSelector=metadata.name="+name, func(p pod) (bool, error) { last = p; return want(p), nil })
	if err != nil {
		t.Fatalf("pod %s is %+v: %v", name, last, err)
	}
	return last
}

func phase(want string) func(pod) bool { return func(p pod) bool { return p.Status.Phase == want } }

func over(p pod) bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

func logs(t *testing.T, c *Cluster, name string) string {
	t.Helper()
	var text []byte
	if err := c.Call(t.Context(), http.MethodGet, pods+"/"+name+"/log", nil, &text); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// output runs a pod to its end and returns what it wrote.
func output(t *testing.T, c *Cluster, name string, container, spec object) string {
	t.Helper()
	run(t, c, name, container, spec)
	p := await(t, c, name, over)
	text := logs(t, c, name)
	if p.Status.Phase != "Succeeded" {
		t.Errorf("pod %s is %+v, it wrote %q", name, p, text)
	}
	return text
}

// withPython gives the nodes the image of Python.
func withPython(t *testing.T, c *Cluster) {
	t.Helper()
	image, err := Python()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Load(t.Context(), image); err != nil {
		t.Fatal(err)
	}
}

// client is a client of the cluster as users have it: by its kubeconfig,
// through the relay.
func client(t *testing.T, c *Cluster) (*http.Client, string) {
	t.Helper()
	var config struct {
		Clusters []struct{ Cluster struct{ Server string } }
	}
	if err := json.Unmarshal(c.Kubeconfig(), &config); err != nil {
		t.Fatal(err)
	}
	users, err := c.pki.client(new(net.Dialer).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(users.CloseIdleConnections)
	return users, config.Clusters[0].Cluster.Server
}

// Everything that a real node is asked for.
func TestRealNode(t *testing.T) {
	before := kernelSettings(t)
	c := Start(t, Opts{Name: "real", Nodes: Real(1)})
	withPython(t, c)
	t.Run("together", func(t *testing.T) { // two cores: waiting is what they share
		t.Run("logs", func(t *testing.T) {
			t.Parallel()
			if got := output(t, c, "hello", python(`import json, ssl, sqlite3; print("hello from", json.dumps("python"))`), nil); got != "hello from \"python\"\n" {
				t.Errorf("it wrote %q", got)
			}
		})
		t.Run("by digest", func(t *testing.T) {
			t.Parallel()
			run(t, c, "named", python(`pass`), nil)
			id := await(t, c, "named", over).Status.ContainerStatuses[0].ImageID
			image := python(`print("same")`)
			image["image"] = id
			if !strings.HasPrefix(id, "kubetest.local/python@sha256:") {
				t.Fatalf("the image has the identity %q", id)
			}
			if got := output(t, c, "digest", image, nil); got != "same\n" {
				t.Errorf("it wrote %q", got)
			}
		})
		t.Run("exec", func(t *testing.T) {
			t.Parallel()
			run(t, c, "shell", python(`import signal; signal.pause()`), nil)
			await(t, c, "shell", phase("Running"))
			users, server := client(t, c)
			address := "wss" + strings.TrimPrefix(server, "https") + pods + "/shell/exec?stdout=1&command=/usr/bin/python3&command=-c&command=" + "print(6*7)"
			ws, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{HTTPClient: users, Subprotocols: []string{"v5.channel.k8s.io"}})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			var wrote strings.Builder
			for {
				_, frame, err := ws.Read(t.Context())
				if err != nil {
					break // closed: it ended
				}
				if len(frame) > 1 && frame[0] == 1 { // of its output
					wrote.Write(frame[1:])
				}
			}
			if wrote.String() != "42\n" {
				t.Errorf("it wrote %q", wrote.String())
			}
		})
		t.Run("out of memory", func(t *testing.T) {
			t.Parallel()
			hog := python(`x = bytearray(256 << 20); print("never")`)
			hog["resources"] = object{"limits": object{"memory": "64Mi", "cpu": "500m"}}
			run(t, c, "hog", hog, nil)
			p := await(t, c, "hog", over)
			if end := p.Status.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
				t.Errorf("it ended as %+v", end)
			}
		})
		t.Run("service", func(t *testing.T) { // kube-proxy, and the token of an account
			t.Parallel()
			program := `
import json, ssl, urllib.request
at = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request("https://` + serviceAddress + `/version", headers={"Authorization": "Bearer " + open(at + "token").read()})
print(json.load(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=at + "ca.crt"), timeout=20))["gitVersion"])`
			if got := output(t, c, "service", python(program), nil); got != "v1.37.2\n" {
				t.Errorf("the API server says %q", got)
			}
		})
		t.Run("names of services", func(t *testing.T) {
			t.Parallel()
			one := object{"metadata": meta{Name: "headless"}, "spec": object{"clusterIP": "None", "selector": object{"who": "nobody"}, "ports": []object{{"port": 80}}}}
			if err := c.Call(t.Context(), http.MethodPost, "/api/v1/namespaces/default/services", one, nil); err != nil {
				t.Fatal(err)
			}
			program := `
import socket
for name in "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "headless", "nothing", "example.org":
    try: print(name, socket.gethostbyname(name))
    except OSError as e: print(name, "none")`
			want := "kubernetes " + serviceAddress + "\nkubernetes.default " + serviceAddress + "\nkubernetes.default.svc " + serviceAddress +
				"\nkubernetes.default.svc.cluster.local " + serviceAddress + "\nheadless none\nnothing none\nexample.org none\n"
			if got := output(t, c, "names", python(program), nil); got != want {
				t.Errorf("it wrote\n%s\nwant\n%s", got, want)
			}
		})
		t.Run("image as a volume, restricted", func(t *testing.T) {
			t.Parallel()
			program := python(`import os; print(os.getuid(), os.access("/volume/pause", os.X_OK))`)
			program["volumeMounts"] = []object{{"name": "image", "mountPath": "/volume"}}
			program["securityContext"] = object{
				"runAsNonRoot": true, "runAsUser": 65534, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
				"capabilities": object{"drop": []string{"ALL"}}, "seccompProfile": object{"type": "RuntimeDefault"},
			}
			spec := object{"volumes": []object{{"name": "image", "image": object{"reference": pauseRef, "pullPolicy": "Never"}}}}
			if got := output(t, c, "restricted", program, spec); got != "65534 True\n" {
				t.Errorf("it wrote %q", got)
			}
		})
		t.Run("exposed", func(t *testing.T) {
			t.Parallel()
			door := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the door") })}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go door.Serve(l)
			defer door.Close()
			address, err := c.Expose(l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			program := `import urllib.request; print(urllib.request.urlopen("http://` + address + `/", timeout=20).read().decode())`
			if got := output(t, c, "visitor", python(program), nil); got != "the door\n" {
				t.Errorf("the pod read %q", got)
			}
		})
		t.Run("shared folder", func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, "framework.py"), []byte("heavy = 'very'\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := c.Share(t.Context(), "default", "frameworks", folder); err != nil {
				t.Fatal(err)
			}
			program := python(`
import framework
try: open("/frameworks/new", "w")
except OSError as e: print(framework.heavy, e.strerror)`)
			program["env"] = []object{{"name": "PYTHONPATH", "value": "/frameworks"}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}}
			program["volumeMounts"] = []object{{"name": "shared", "mountPath": "/frameworks", "readOnly": true}}
			spec := object{"volumes": []object{{"name": "shared", "persistentVolumeClaim": object{"claimName": "frameworks", "readOnly": true}}}}
			if got := output(t, c, "heavy", program, spec); got != "very Read-only file system\n" {
				t.Errorf("it wrote %q", got)
			}
		})
	})
	t.Run("environment", func(t *testing.T) { // that was made on this machine, with what is too heavy for an image
		environment, err := filepath.Abs("../../bin/pytest")
		if err != nil {
			t.Fatal(err)
		}
		if !exists(environment + "/.done") {
			t.Skip("there is no environment to share: `make bin/pytest/.done` makes it")
		}
		if err := c.Share(t.Context(), "default", "environment", environment); err != nil {
			t.Fatal(err)
		}
		program := python(`import numpy; print(numpy.ones([6, 7]).sum())`)
		program["command"].([]string)[0] = environment + "/bin/python"
		program["volumeMounts"] = []object{{"name": "shared", "mountPath": environment, "readOnly": true}}
		spec := object{"volumes": []object{{"name": "shared", "persistentVolumeClaim": object{"claimName": "environment", "readOnly": true}}}}
		if got := output(t, c, "environment", program, spec); got != "42.0\n" {
			t.Errorf("it wrote %q", got)
		}
	})
	t.Run("quota of cores", func(t *testing.T) { // alone, so that what it gets is its quota
		spin := python(`
import os, time
end = time.monotonic() + 4
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < end: pass
        os._exit(0)
for _ in range(2): os.wait()
print(os.times().children_user + os.times().children_system)`)
		spin["resources"] = object{"limits": object{"cpu": "250m", "memory": "64Mi"}}
		got, err := strconv.ParseFloat(strings.TrimSpace(output(t, c, "spin", spin, nil)), 64)
		if err != nil || got < 0.3 || got > 1.3 {
			t.Errorf("2 processes that spin for 4 s got %v core-seconds of 0.25 cores (%v), want some 1.0", got, err)
		}
	})
	t.Run("kubelet killed", func(t *testing.T) {
		run(t, c, "survivor", python(`import signal; signal.pause()`), nil)
		before := await(t, c, "survivor", phase("Running"))
		if err := c.KillKubelet(0); err != nil {
			t.Fatal(err)
		}
		err := c.Call(t.Context(), http.MethodGet, pods+"/survivor/log", nil, nil)
		if status := new(StatusError); !errors.As(err, &status) || !strings.Contains(status.Message, "10250") {
			t.Errorf("without a kubelet the log is %v, want that it cannot be reached", err)
		}
		if err := c.RestartKubelet(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		// It answers before it has learned of its pods.
		if err := retry(t.Context(), func() error { return c.Call(t.Context(), http.MethodGet, pods+"/survivor/log", nil, nil) }); err != nil {
			t.Error(err)
		}
		after := await(t, c, "survivor", phase("Running"))
		if after.Metadata.UID != before.Metadata.UID || after.Status.PodIP != before.Status.PodIP || after.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("it was %+v and is %+v", before, after)
		}
	})
	dir := c.dir
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
	if after := kernelSettings(t); after != before {
		t.Errorf("the settings of the kernel were %s and are %s", before, after)
	}
}

func kernelSettings(t *testing.T) (all string) {
	t.Helper()
	for _, name := range []string{"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "vm/overcommit_memory", "vm/panic_on_oom", "net/ipv4/ip_forward"} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		all += name + "=" + strings.TrimSpace(string(value)) + " "
	}
	return all
}

// nothingLeft fails the test if a cluster left processes, mounts, cgroups or files.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left := leftOf(dir); len(left) > 0 {
		t.Errorf("left are %s", strings.Join(left, "; "))
	}
}

func leftOf(dir string) (left []string) {
	name := filepath.Base(dir)
	if exists(dir) {
		left = append(left, dir)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		line, _ := os.ReadFile(p + "/cmdline")
		groups, _ := os.ReadFile(p + "/cgroup") // of containers: their command lines are their own
		if strings.Contains(string(line), name) || strings.Contains(string(groups), name) {
			left = append(left, p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
		mounts, _ := os.ReadFile(p + "/mountinfo")
		if strings.Contains(string(mounts), name) {
			left = append(left, "a mount of "+p)
		}
	}
	return left
}

// Two clusters are at once, with the same names and addresses, and do not meet.
func TestTwo(t *testing.T) {
	t.Parallel()
	a, b := Start(t, Opts{Name: "a", Nodes: Fake(1)}), Start(t, Opts{Name: "b", Nodes: Fake(2)})
	run(t, a, "same", object{"image": "none"}, nil)
	run(t, b, "same", object{"image": "none"}, nil)
	if got := await(t, a, "same", phase("Running")); got.Spec.NodeName != a.Node(0) {
		t.Errorf("the pod of a is on %s", got.Spec.NodeName)
	}
	if got := await(t, b, "same", phase("Running")); !strings.HasPrefix(got.Spec.NodeName, "b-") {
		t.Errorf("the pod of b is on %s", got.Spec.NodeName)
	}
	dir := a.dir
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
	if err := b.Call(t.Context(), http.MethodGet, pods+"/same", nil, nil); err != nil {
		t.Errorf("when a is gone, b says %v", err)
	}
}

// What is reached through the relay is held back by a partition, and arrives
// when it ends. What is stored outlives the API server.
func TestOutages(t *testing.T) {
	t.Parallel()
	c := Start(t, Opts{Name: "outages", Nodes: Fake(1)})
	run(t, c, "kept", object{"image": "none"}, nil)
	users, server := client(t, c)
	get := func() error {
		response, err := users.Get(server + pods + "/kept")
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	c.Partition()
	answered := make(chan error, 1)
	go func() { answered <- get() }()
	// Inside all goes on, and long enough that the answer would have come.
	for range 20 {
		if err := c.Call(t.Context(), http.MethodGet, pods+"/kept", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-answered:
		t.Fatalf("in a partition the answer is %v, want none", err)
	default:
	}
	c.Heal()
	if err := <-answered; err != nil {
		t.Errorf("after the partition: %v", err)
	}

	c.StopAPIServer()
	if err := get(); err == nil {
		t.Error("without an API server there is an answer")
	}
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("with the API server again: %v", err)
	}
	if err := context.Cause(c.Context()); err != nil {
		t.Errorf("what was done on purpose broke the cluster: %v", err)
	}
}

// Who a kubeconfig is for decides what the API server lets him do.
func TestKubeconfigFor(t *testing.T) {
	t.Parallel()
	c := Start(t, Opts{Name: "users"})
	for _, tt := range []struct {
		name  string
		until time.Time
		want  string
	}{
		{"nobody", time.Now().Add(time.Hour), `User \"nobody\" cannot list`},
		{"expired", time.Now().Add(-time.Minute), "Unauthorized"},
	} {
		text, err := c.KubeconfigFor(tt.name, nil, tt.until)
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Clusters []struct{ Cluster struct{ Server string } }
			Users    []struct {
				User struct {
					Cert []byte `json:"client-certificate-data"`
					Key  []byte `json:"client-key-data"`
				}
			}
		}
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		client, err := c.pki.clientOf(pair{config.Users[0].User.Cert, config.Users[0].User.Key}, new(net.Dialer).DialContext)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Get(config.Clusters[0].Cluster.Server + pods)
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(response.Body)
		response.Body.Close()
		client.CloseIdleConnections()
		if !strings.Contains(string(said), tt.want) {
			t.Errorf("%s is told %s, want %q", tt.name, said, tt.want)
		}
	}
}

// A fake node that is killed loses its pods, and comes back.
func TestFakeNodeKilled(t *testing.T) {
	t.Parallel()
	c := Start(t, Opts{Name: "loss", Nodes: Fake(3), FastEviction: true})
	run(t, c, "victim", object{"image": "none"}, object{"nodeName": c.Node(1)})
	run(t, c, "other", object{"image": "none"}, object{"nodeName": c.Node(2)})
	await(t, c, "victim", phase("Running"))
	uid := await(t, c, "other", phase("Running")).Metadata.UID
	if err := c.KillNode(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	err := Until(t.Context(), c, pods+"?fieldSelector=metadata.name=victim", func(p struct {
		Metadata struct{ DeletionTimestamp *string }
	}) (bool, error) {
		return p.Metadata.DeletionTimestamp != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RestartNode(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := await(t, c, "other", phase("Running")).Metadata.UID; got != uid {
		t.Errorf("the pod of another node was replaced")
	}
}

// A real node that is killed is as without power: its pods are gone, and when
// it is turned on again those that are to run start again.
func TestRealNodeKilled(t *testing.T) {
	c := Start(t, Opts{Name: "power", Nodes: Real(2), FastEviction: true})
	pause := func(name string, node int, tolerant bool) {
		spec := object{"nodeName": c.Node(node), "restartPolicy": "Always"}
		if tolerant {
			spec["tolerations"] = []object{{"operator": "Exists"}}
		}
		run(t, c, name, object{"image": pauseRef}, spec)
	}
	pause("stays", 0, true)
	pause("evicted", 0, false)
	pause("far", 1, false)
	await(t, c, "stays", phase("Running"))
	await(t, c, "evicted", phase("Running"))
	await(t, c, "far", phase("Running"))
	if err := c.KillNode(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	err := Until(t.Context(), c, pods+"?fieldSelector=metadata.name=evicted", func(p struct {
		Metadata struct{ DeletionTimestamp *string }
	}) (bool, error) {
		return p.Metadata.DeletionTimestamp != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RestartNode(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	await(t, c, "stays", func(p pod) bool {
		return p.Status.Phase == "Running" && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if p := await(t, c, "far", phase("Running")); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod of another node was restarted: %+v", p)
	}
}

// A process that dies unasked is told of at once, with the end of its log.
func TestProcessDies(t *testing.T) {
	t.Parallel()
	Need(t)
	c, err := Open(t.Context(), Opts{Name: "doomed"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waiting := make(chan error)
	go func() {
		waiting <- Until(t.Context(), c, pods, func(pod) (bool, error) { return false, nil })
	}()
	syscall.Kill(c.processes["kube-scheduler"].cmd.Process.Pid, syscall.SIGTERM)
	err = <-waiting
	if err == nil || !strings.Contains(err.Error(), "kube-scheduler of cluster doomed ended by itself") || !strings.Contains(err.Error(), "Its log ends so:\n") {
		t.Errorf("who waits is told %v", err)
	}
}

// asParent has the test binary be a program that has a cluster and is killed.
const asParent = "KUBETEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(asParent) != "" {
		c, err := Open(context.Background(), Opts{Name: "orphan", Nodes: Real(1)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.dir)
		select {}
	}
	os.Exit(m.Run())
}

// Of a program that is killed no process and no mount is left; its cgroups and
// files are removed when the next cluster starts.
func TestParentKilled(t *testing.T) {
	Need(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"=1")
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	parent.Process.Kill()
	if err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	dir = strings.TrimSpace(dir)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = retry(ctx, func() error { // the kernel kills them one after another
		for _, left := range leftOf(dir) {
			if strings.Contains(left, "/proc/") {
				return errors.New(left)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !exists(dir) {
		t.Fatalf("%s is gone already: this test sees nothing of the sweep", dir)
	}
	sweep()
	nothingLeft(t, dir)
}
