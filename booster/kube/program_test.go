//go:build linux

package kube_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/internal/kubetest"
)

// A door is the platform as the supervisors of pods see it: it gives one
// program to each that calls, and keeps what they say.
type door struct {
	t     testing.TB
	blobs map[mlaas.Digest][]byte
	said  chan struct{} // closed and made anew at each word

	mu     sync.Mutex
	start  map[string]mlaas.Start
	hellos map[string]mlaas.Hello
	phases map[string]mlaas.Phase
	lines  map[string]string
	points map[string][]mlaas.Point
	seq    map[string]int64
}

func newDoor(t testing.TB) (*door, *httptest.Server) {
	d := &door{
		t: t, blobs: map[mlaas.Digest][]byte{}, said: make(chan struct{}), start: map[string]mlaas.Start{}, hellos: map[string]mlaas.Hello{},
		phases: map[string]mlaas.Phase{}, lines: map[string]string{}, points: map[string][]mlaas.Point{}, seq: map[string]int64{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/cluster/east/door/line", d.line)
	mux.HandleFunc("GET /cluster/east/door/blob/{digest}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		data, ok := d.blobs[mlaas.Digest(r.PathValue("digest"))]
		d.mu.Unlock()
		if !ok || r.Header.Get("Authorization") != "Bearer secret-token" {
			http.NotFound(w, r)
			return
		}
		w.Write(data)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return d, s
}

// program is what the replica of f is told to run, once it calls.
func (d *door) program(f mlaas.Fence, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := func(data []byte) mlaas.Digest {
		name := mlaas.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
		d.blobs[name] = data
		return name
	}
	tree, err := json.Marshal(mlaas.Tree{Files: []mlaas.File{{Path: "main.py", Digest: keep([]byte(text)), Size: int64(len(text))}}})
	if err != nil {
		d.t.Fatal(err)
	}
	d.start[f.String()] = mlaas.Start{Bundle: keep(tree), Environment: mlaas.Environment{Framework: "python"}, Grace: 5}
}

func (d *door) line(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer secret-token" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(16 << 20)
	name := ""
	for {
		var up mlaas.Up
		if err := wsjson.Read(r.Context(), c, &up); err != nil {
			return
		}
		for _, m := range d.hear(&name, up) {
			if err := wsjson.Write(r.Context(), c, m); err != nil {
				return
			}
		}
	}
}

func (d *door) hear(name *string, up mlaas.Up) (down []mlaas.Down) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case up.Hello != nil:
		*name = up.Hello.Fence.String()
		d.hellos[*name], d.phases[*name] = *up.Hello, up.Hello.Phase
		start := d.start[*name]
		down = []mlaas.Down{{Welcome: &mlaas.Welcome{Log: d.seq[*name+mlaas.LogStream], Metric: d.seq[*name+mlaas.MetricStream]}}, {Start: &start}}
	case up.Frame != nil:
		for _, l := range up.Frame.Lines {
			d.lines[*name] += l.Stream + ": " + l.Text + "\n"
		}
		d.points[*name] = append(d.points[*name], up.Frame.Points...)
		seq := up.Frame.First + int64(len(up.Frame.Lines)+len(up.Frame.Points)) - 1
		d.seq[*name+up.Frame.Stream] = seq
		down = []mlaas.Down{{Ack: &mlaas.Ack{Stream: up.Frame.Stream, Seq: seq}}}
	case up.Phase != nil:
		d.phases[*name] = *up.Phase
	}
	close(d.said)
	d.said = make(chan struct{})
	return down
}

// until waits for what a replica says.
func (d *door) until(f mlaas.Fence, what string, is func(p mlaas.Phase, lines string) bool) (mlaas.Phase, string) {
	d.t.Helper()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		d.mu.Lock()
		p, lines, said := d.phases[f.String()], d.lines[f.String()], d.said
		d.mu.Unlock()
		if is(p, lines) {
			return p, lines
		}
		select {
		case <-said:
		case <-late.C:
			d.t.Fatalf("%s: no word of %s; it is %+v and wrote\n%s", f, what, p, lines)
		}
	}
}

// watch keeps the news of what ended for want of memory.
func (d *door) watch(killed *booster.News) chan<- booster.News {
	all, over := make(chan booster.News), d.t.Context().Done()
	go func() {
		for {
			select {
			case n := <-all:
				d.mu.Lock()
				if n.OOM {
					*killed = n
				}
				close(d.said)
				d.said = make(chan struct{})
				d.mu.Unlock()
			case <-over:
				return
			}
		}
	}()
	return all
}

func (d *door) over(f mlaas.Fence) (mlaas.Phase, string) {
	d.t.Helper()
	return d.until(f, "its end", func(p mlaas.Phase, _ string) bool { return p.Status.Final() })
}

// news waits for news of a replica.
func news(t *testing.T, e booster.Executor, f mlaas.Fence, what string, is func(booster.News) bool) booster.News {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	all, ended := make(chan booster.News), make(chan error, 1)
	go func() { ended <- e.Watch(ctx, all) }()
	var last booster.News
	for {
		select {
		case n := <-all:
			if n.Fence != f {
				continue
			}
			if last = n; is(n) {
				cancel()
				<-ended
				return n
			}
		case err := <-ended:
			t.Fatalf("%s: no news of %s: %v; the last is %+v", f, what, err, last)
		}
	}
}

func final(n booster.News) bool { return n.Status.Final() }

func fence(replica string) mlaas.Fence {
	return mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(mlaas.NewID(time.Now())), Epoch: 1, Replica: replica, Incarnation: 1}
}

// What a user's program does in a pod, with our real binary as its supervisor
// and this machine's Python as the image.
func TestPrograms(t *testing.T) {
	c := kubetest.Start(t, kubetest.Opts{Name: "programs", Nodes: kubetest.Real(1)})
	binary := filepath.Join(t.TempDir(), "mlaas")
	build(t, binary, "../../cmd/mlaas")
	python, err := kubetest.Python()
	if err != nil {
		t.Fatal(err)
	}
	give(t, c, kubetest.Image{Ref: "kubetest.local/supervisor:1", Files: map[string]string{"/mlaas": binary}}, python)
	d, server := newDoor(t)
	address, err := c.Expose(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(c)
	p.settings.Images[""] = kubetest.PythonRef
	begin := func(t *testing.T, by, replica, program string) (booster.Executor, mlaas.Fence) {
		t.Helper()
		d.t = t
		f := fence(replica)
		d.program(f, program)
		p.settings.Copy = by
		e := p.open(t)
		s := p.spec(f)
		s.Door = "http://" + address + "/cluster/east"
		if err := e.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Stop(context.WithoutCancel(t.Context()), f); err != nil {
				t.Error(err)
			}
			if left := p.left(t, f); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
		return e, f
	}

	for _, by := range []string{"image", "init"} {
		t.Run("brought by "+by, func(t *testing.T) {
			_, f := begin(t, by, "worker-0", `
import mlaas, os, glob
mlaas.log({"loss": 0.25}, step=3)
print("home", os.environ["HOME"], "token" in os.environ.get("MLAAS_TOKEN", ""), sorted(k for k in os.environ if k.startswith(("KUBERNETES", "MLAAS_"))))
for file in glob.glob("/proc/[0-9]*/environ"):
    try:
        if b"secret-token" in open(file, "rb").read(): print("the token is in", file)
    except PermissionError: pass
print("user", os.getuid())
`)
			phase, lines := d.over(f)
			if phase.Status != mlaas.ReplicaSucceeded {
				t.Errorf("the program is %s: %s; it wrote\n%s", phase.Status, phase.Reason, lines)
			}
			for _, want := range []string{"stdout: home /var/lib/mlaas/replica/home False ['MLAAS_CHECKPOINTS'", "stdout: user 1000\n"} {
				if !strings.Contains(lines, want) {
					t.Errorf("it wrote\n%s\nwant %q in it", lines, want)
				}
			}
			for _, no := range []string{"the token is in", "KUBERNETES", "'MLAAS_SUPERVISOR'", "'MLAAS_TOKEN'"} {
				if strings.Contains(lines, no) {
					t.Errorf("it wrote\n%s\nwant no %q in it", lines, no)
				}
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if pts := d.points[f.String()]; len(pts) != 1 || pts[0].Key != "loss" || pts[0].Step != 3 {
				t.Errorf("it measured %+v", pts)
			}
			h := d.hellos[f.String()]
			if !strings.HasPrefix(h.Address, "10.") || h.Node == "" || len(h.Ports) < 2 {
				t.Errorf("it can be reached at %s, ports %v, on node %q", h.Address, h.Ports, h.Node)
			}
		})
	}

	t.Run("out of memory", func(t *testing.T) {
		e, f := begin(t, "image", "worker-0", "print('begins', flush=True)\nall = []\nwhile True: all.append(bytearray(1 << 22))\n")
		d.until(f, "its first line", func(_ mlaas.Phase, lines string) bool { return strings.Contains(lines, "begins") })
		// Whoever is left to say so: the supervisor, or the kubelet where the
		// kernel ends all of a container.
		var killed booster.News
		go e.Watch(t.Context(), d.watch(&killed))
		why := ""
		d.until(f, "its end", func(p mlaas.Phase, _ string) bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			if why = killed.Reason; p.OOM {
				why = p.Reason
			}
			return p.OOM || killed.OOM
		})
		if !strings.Contains(why, "out of memory: its ceiling is 256Mi") {
			t.Errorf("it ended because %q", why)
		}
	})

	// Whoever deletes a pod, or drains its node, has the program save its state.
	t.Run("deleted by somebody else", func(t *testing.T) {
		e, f := begin(t, "image", "worker-0", `
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("begins", flush=True)
while True: time.sleep(1)
`)
		d.until(f, "its first line", func(_ mlaas.Phase, lines string) bool { return strings.Contains(lines, "begins") })
		if err := c.Call(t.Context(), http.MethodDelete, p.pods()+"/"+f.String(), nil, nil); err != nil {
			t.Fatal(err)
		}
		n := news(t, e, f, "its end", final)
		if n.Status != mlaas.ReplicaLost || n.Reason != "its pod was deleted by somebody else" {
			t.Errorf("it is %s: %s", n.Status, n.Reason)
		}
		phase, lines := d.until(f, "its last line", func(_ mlaas.Phase, lines string) bool { return strings.Contains(lines, "saved") })
		if phase.Status != mlaas.ReplicaRunning {
			t.Errorf("it said that it is %s, but its run is not over; it wrote\n%s", phase.Status, lines)
		}
	})
}
