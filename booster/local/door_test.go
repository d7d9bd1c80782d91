//go:build linux

package local_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"mlaas.dev/mlaas"
)

// A door is the platform as supervisors see it.
type door struct {
	t       *testing.T
	address string
	path    string
	server  *http.Server

	mu     sync.Mutex
	news   *sync.Cond
	blobs  map[mlaas.Digest][]byte
	starts map[string]*mlaas.Start
	told   map[string]*told
}

// told is what one replica said.
type told struct {
	hello  mlaas.Hello
	hellos int
	phases []mlaas.Phase
	lines  []mlaas.LogLine
	points []mlaas.Point
	seq    map[string]int64
	made   []mlaas.CheckpointMade
	usage  mlaas.Usage
	line   *websocket.Conn
}

func (r *told) phase() mlaas.Phase {
	if len(r.phases) == 0 {
		return mlaas.Phase{}
	}
	return r.phases[len(r.phases)-1]
}

func (r *told) text(stream string) string {
	var b strings.Builder
	for _, l := range r.lines {
		if l.Stream == stream {
			b.WriteString(l.Text + "\n")
		}
	}
	return b.String()
}

func newDoor(t *testing.T) *door {
	dir, err := os.MkdirTemp("", "door") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &door{t: t, path: filepath.Join(dir, "door.sock"), blobs: map[mlaas.Digest][]byte{}, starts: map[string]*mlaas.Start{}, told: map[string]*told{}}
	d.address = "unix://" + d.path
	d.news = sync.NewCond(&d.mu)
	d.open()
	t.Cleanup(d.shut)
	return d
}

func (d *door) open() {
	os.Remove(d.path)
	l, err := net.Listen("unix", d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/door/line", d.line)
	mux.HandleFunc("/door/blob/{digest}", d.blob)
	d.server = &http.Server{Handler: mux}
	go d.server.Serve(l)
}

// shut is what the death of the platform looks like.
func (d *door) shut() {
	d.server.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.told {
		if r.line != nil {
			r.line.CloseNow()
		}
	}
}

func (d *door) keep(data []byte) mlaas.Digest {
	dig := mlaas.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blobs[dig] = data
	return dig
}

func (d *door) tree(files map[string]string) mlaas.Digest {
	t := mlaas.Tree{}
	for path, text := range files {
		t.Files = append(t.Files, mlaas.File{Path: path, Digest: d.keep([]byte(text)), Size: int64(len(text))})
	}
	slices.SortFunc(t.Files, func(a, b mlaas.File) int { return strings.Compare(a.Path, b.Path) })
	data, _ := json.Marshal(t)
	return d.keep(data)
}

// files reads a tree back.
func (d *door) files(dig mlaas.Digest) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var t mlaas.Tree
	if err := json.Unmarshal(d.blobs[dig], &t); err != nil {
		d.t.Fatalf("%s is no tree: %v", dig, err)
	}
	out := map[string]string{}
	for _, f := range t.Files {
		out[f.Path] = string(d.blobs[f.Digest])
	}
	return out
}

func (d *door) blob(w http.ResponseWriter, r *http.Request) {
	dig := mlaas.Digest(r.PathValue("digest"))
	if r.Method == http.MethodPut {
		data, err := io.ReadAll(r.Body)
		if err != nil || fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != string(dig) {
			http.Error(w, "damaged", http.StatusUnprocessableEntity)
			return
		}
		d.keep(data)
		return
	}
	d.mu.Lock()
	data, ok := d.blobs[dig]
	d.mu.Unlock()
	if !ok {
		http.Error(w, "no such blob", http.StatusNotFound)
		return
	}
	w.Write(data)
}

func (d *door) line(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Authorization") != "Bearer secret-token" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	c, err := websocket.Accept(w, req, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(16 << 20)
	ctx := context.Background()
	var r *told
	for {
		var up mlaas.Up
		if err := wsjson.Read(ctx, c, &up); err != nil {
			return
		}
		d.mu.Lock()
		var down []mlaas.Down
		switch {
		case up.Hello != nil:
			name := up.Hello.Fence.String()
			if r = d.told[name]; r == nil {
				r = &told{seq: map[string]int64{}}
				d.told[name] = r
			}
			r.hello, r.line = *up.Hello, c
			r.hellos++
			r.phases = append(r.phases, up.Hello.Phase)
			down = append(down, mlaas.Down{Welcome: &mlaas.Welcome{Log: r.seq[mlaas.LogStream], Metric: r.seq[mlaas.MetricStream]}})
			if s := d.starts[name]; s != nil {
				down = append(down, mlaas.Down{Start: s})
			}
		case up.Frame != nil:
			f := up.Frame
			n := int64(len(f.Lines) + len(f.Points))
			next := r.seq[f.Stream] + 1
			if f.First > next {
				d.t.Errorf("%s jumps from %d to %d", f.Stream, next-1, f.First)
			}
			if skip := next - f.First; skip < n {
				if f.Stream == mlaas.LogStream {
					r.lines = append(r.lines, f.Lines[skip:]...)
				} else {
					r.points = append(r.points, f.Points[skip:]...)
				}
				r.seq[f.Stream] = f.First + n - 1
			}
			down = append(down, mlaas.Down{Ack: &mlaas.Ack{Stream: f.Stream, Seq: r.seq[f.Stream]}})
		case up.Phase != nil:
			r.phases = append(r.phases, *up.Phase)
		case up.Beat != nil:
			r.usage = up.Beat.Usage
		case up.Checkpoint != nil:
			r.made = append(r.made, *up.Checkpoint)
			down = append(down, mlaas.Down{Ack: &mlaas.Ack{Stream: "checkpoint", Seq: up.Checkpoint.Step}})
		}
		d.news.Broadcast()
		d.mu.Unlock()
		for _, m := range down {
			if err := wsjson.Write(ctx, c, m); err != nil {
				return
			}
		}
	}
}

// say sends word to a replica that is connected.
func (d *door) say(f mlaas.Fence, m mlaas.Down) {
	d.t.Helper()
	d.until(f, "being there", func(r *told) bool { return r.line != nil })
	d.mu.Lock()
	c := d.told[f.String()].line
	d.mu.Unlock()
	if err := wsjson.Write(context.Background(), c, m); err != nil {
		d.t.Fatal(err)
	}
}

// until waits for something that a replica says.
func (d *door) until(f mlaas.Fence, what string, ok func(*told) bool) *told {
	d.t.Helper()
	late := false
	timer := time.AfterFunc(25*time.Second, func() {
		d.mu.Lock()
		late = true
		d.news.Broadcast()
		d.mu.Unlock()
	})
	defer timer.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		r := d.told[f.String()]
		if r != nil && ok(r) {
			return r
		}
		if late {
			if r == nil {
				d.t.Fatalf("%s never came while waiting for %s", f, what)
			}
			d.t.Fatalf("%s: no word of %s; phases %+v\nstdout: %.2000s\nstderr: %.4000s", f, what, r.phases, r.text("stdout"), r.text("stderr"))
		}
		d.news.Wait()
	}
}

// final waits for the end of a program.
func (d *door) final(f mlaas.Fence) *told {
	d.t.Helper()
	return d.until(f, "its end", func(r *told) bool { return r.phase().Status.Final() })
}
