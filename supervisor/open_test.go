package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
)

// A hall is where the test waits for the streams of a supervisor, over a real
// connection.
type hall struct {
	*testing.T
	s     *Supervisor
	comes chan *stream.Stream
}

func newHall(t *testing.T) *hall {
	h := &hall{T: t, comes: make(chan *stream.Stream, 32)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/door/stream/id" || r.Header.Get("Authorization") != "Bearer token" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		s, _ := stream.Over(context.Background(), c)
		h.comes <- s
		<-s.Done()
	}))
	t.Cleanup(server.Close)
	folder := t.TempDir()
	for _, dir := range []string{CodeDir, HomeDir} {
		if err := os.Mkdir(filepath.Join(folder, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.s = &Supervisor{Log: slog.New(slog.DiscardHandler), Door: &HTTPDoor{Address: server.URL, Token: "token"},
		Config: Config{Folder: folder, Address: "127.0.0.1", Fence: mlaas.Fence{Replica: "worker-0"}}}
	h.s.opens.s = h.s
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		h.s.opens.wait.Wait()
	})
	h.s.opens.begin(ctx, mlaas.Open{ID: "id", Command: []string{"true"}})
	s := <-h.comes
	h.end(s)
	return h
}

func (h *hall) open(ask mlaas.Open) *stream.Stream {
	h.Helper()
	ask.ID = "id"
	h.s.opens.begin(context.Background(), ask)
	select {
	case s := <-h.comes:
		h.Cleanup(func() { s.Close() })
		return s
	case <-time.After(20 * time.Second):
		h.Fatal("no stream comes")
		return nil
	}
}

func (h *hall) send(s *stream.Stream, kind stream.Kind, text string) {
	h.Helper()
	if err := s.Send(h.Context(), stream.Packet{Kind: kind, Data: []byte(text)}); err != nil {
		h.Fatal(err)
	}
}

// end is all that comes until the end, and how it ended.
func (h *hall) end(s *stream.Stream) (out, wrong string, end stream.Ending) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		p, err := s.Receive(ctx)
		if err != nil {
			h.Fatalf("%v after %q %q", err, out, wrong)
		}
		switch p.Kind {
		case stream.Data:
			out += string(p.Data)
		case stream.Errors:
			wrong += string(p.Data)
		case stream.Exit:
			if err := json.Unmarshal(p.Data, &end); err != nil {
				h.Fatal(err)
			}
			s.Close()
			return out, wrong, end
		}
	}
}

func TestOpenCommand(t *testing.T) {
	h := newHall(t)
	tests := []struct {
		name, in   string
		ask        mlaas.Open
		out, wrong string
		code       int
	}{
		{"input, output and errors", "to and fro", mlaas.Open{Command: []string{"sh", "-c", "cat; echo no >&2; exit 3"}}, "to and fro", "no\n", 3},
		{"its folder", "", mlaas.Open{Command: []string{"pwd"}}, filepath.Join(h.s.Folder, CodeDir) + "\n", "", 0},
		{"ended by a signal", "", mlaas.Open{Command: []string{"sh", "-c", "kill -9 $$"}}, "", "", 137},
		{"it reads nothing", strings.Repeat("x", 10000), mlaas.Open{Command: []string{"true"}}, "", "", 0},
		{"no terminal", "", mlaas.Open{Command: []string{"test", "-t", "0"}}, "", "", 1},
		{"a terminal of a size", "", mlaas.Open{Command: []string{"sh", "-c", "test -t 0 && stty size; echo $TERM"}, Terminal: &mlaas.Size{Columns: 101, Rows: 33}, Term: "vt100"}, "33 101\r\nvt100\r\n", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := h.open(tt.ask)
			if tt.in != "" {
				h.send(s, stream.Data, tt.in)
			}
			h.send(s, stream.End, "")
			out, wrong, end := h.end(s)
			if out != tt.out || wrong != tt.wrong || end != (stream.Ending{Code: tt.code}) {
				t.Errorf("%q, %q, %+v; want %q, %q, %d", out, wrong, end, tt.out, tt.wrong, tt.code)
			}
		})
	}
	_, _, end := h.end(h.open(mlaas.Open{Command: []string{"no-such-command"}}))
	if err := end.Err(); !errors.Is(err, mlaas.ErrNotFound) || !strings.Contains(err.Error(), `there is no command "no-such-command"`) {
		t.Errorf("a command that is not there: %v", err)
	}
}

// A terminal follows the size of whoever looks at it, and takes keys.
func TestOpenTerminal(t *testing.T) {
	h := newHall(t)
	s := h.open(mlaas.Open{Command: []string{"sh"}, Terminal: &mlaas.Size{Columns: 80, Rows: 24}})
	if err := s.Send(t.Context(), stream.JSON(stream.Size, mlaas.Size{Columns: 55, Rows: 44})); err != nil {
		t.Fatal(err)
	}
	h.send(s, stream.Data, "stty size; cat\n")
	seen := ""
	until := func(ok func() bool) {
		t.Helper()
		for !ok() {
			p, err := s.Receive(t.Context())
			if err != nil {
				t.Fatalf("%v after %q", err, seen)
			}
			seen += string(p.Data)
		}
	}
	until(func() bool { return strings.Contains(seen, "44 55") })
	h.send(s, stream.Data, "ping\n")
	until(func() bool { return strings.Count(seen, "ping") == 2 }) // as it was typed, and as cat says it
	h.send(s, stream.Data, "\x03")                                 // ends cat, not the shell
	until(func() bool { return strings.Count(seen, "$ ")+strings.Count(seen, "# ") >= 2 })
	h.send(s, stream.Data, "exit 5\n")
	if _, _, end := h.end(s); end.Code != 5 {
		t.Errorf("%+v, want exit code 5", end)
	}
}

// What a command leaves behind holds nothing up.
func TestOpenLeavesBehind(t *testing.T) {
	h := newHall(t)
	for _, terminal := range []*mlaas.Size{nil, {Columns: 80, Rows: 24}} {
		began := time.Now()
		out, _, end := h.end(h.open(mlaas.Open{Command: []string{"sh", "-c", "trap '' HUP; sleep 60 & echo $!"}, Terminal: terminal}))
		if took := time.Since(began); end.Code != 0 || end.Error != "" || took > 30*time.Second {
			t.Errorf("%q, %+v after %s", out, end, took)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(out)); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Who goes away takes along what they started.
func TestOpenDropped(t *testing.T) {
	h := newHall(t)
	for _, terminal := range []*mlaas.Size{nil, {Columns: 80, Rows: 24}} {
		s := h.open(mlaas.Open{Command: []string{"sh", "-c", "echo $$; sleep 1000; echo never"}, Terminal: terminal})
		p, err := s.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(p.Data)))
		if err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		h.s.opens.wait.Wait() // it is waited for when it is over
		if err := process.Signal(syscall.Signal(0)); err == nil {
			t.Errorf("process %d goes on", pid)
		}
	}
}

func TestOpenPort(t *testing.T) {
	h := newHall(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				text, _ := io.ReadAll(c)
				fmt.Fprintf(c, "got %d", len(text))
				c.Close()
			}()
		}
	}()
	s := h.open(mlaas.Open{Port: l.Addr().(*net.TCPAddr).Port})
	for range 20 {
		h.send(s, stream.Data, strings.Repeat("x", stream.Chunk))
	}
	h.send(s, stream.End, "")
	if out, _, end := h.end(s); out != fmt.Sprint("got ", 20*stream.Chunk) || end != (stream.Ending{}) {
		t.Errorf("%q, %+v", out, end)
	}
	l.Close()
	_, _, end := h.end(h.open(mlaas.Open{Port: l.Addr().(*net.TCPAddr).Port}))
	if err := end.Err(); !errors.Is(err, mlaas.ErrNotFound) || !strings.Contains(err.Error(), "nothing listens at port") {
		t.Errorf("a port where nothing listens: %v", err)
	}
}

func TestOpenTooMany(t *testing.T) {
	h := newHall(t)
	for range maxOpen {
		h.open(mlaas.Open{Command: []string{"sleep", "1000"}})
	}
	_, _, end := h.end(h.open(mlaas.Open{Command: []string{"true"}}))
	if err := end.Err(); !errors.Is(err, mlaas.ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
}

// What a program's threads do is asked of the program itself, beside it.
func TestLook(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	library, err := filepath.Abs("../python")
	if err != nil {
		t.Fatal(err)
	}
	h := newHall(t)
	refused := func(says string) {
		t.Helper()
		if _, _, end := h.end(h.open(mlaas.Open{Look: mlaas.LookStacks})); !errors.Is(end.Err(), mlaas.ErrConflict) || !strings.Contains(end.Err().Error(), says) {
			t.Errorf("%v, want %s", end.Err(), says)
		}
	}
	refused("does not run yet")
	p := &program{s: h.s, runtime: &Runtime{}, env: []string{"PATH=/usr/bin:/bin", "MLAAS_DEBUG=1", "MLAAS_SOCKET=" + h.s.Folder,
		"PYTHONPATH=" + filepath.Join(library, "mlaas", "_site") + ":" + library}}
	h.s.program = p
	refused("has no Python")
	p.runtime = &Runtime{Python: python, Library: library}

	text := "import sys\n\ndef waits():\n    print('ready', flush=True)\n    sys.stdin.read()\n\nwaits()\n"
	if err := os.WriteFile(filepath.Join(h.s.Folder, CodeDir, "main.py"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), python, "main.py")
	c.Dir, c.Env = filepath.Join(h.s.Folder, CodeDir), p.env
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	said, wrong, end := h.end(h.open(mlaas.Open{Look: mlaas.LookStacks}))
	var got mlaas.Stacks
	if err := json.Unmarshal([]byte(said), &got); err != nil || end.Err() != nil || wrong != "" {
		t.Fatalf("%v, %+v, %q %q", err, end, said, wrong)
	}
	if len(got.Processes) != 1 || got.Processes[0].PID != c.Process.Pid || len(got.Processes[0].Threads) != 1 {
		t.Fatalf("%+v", got)
	}
	frames := got.Processes[0].Threads[0].Frames
	if want := (mlaas.StackFrame{File: filepath.Join(c.Dir, "main.py"), Line: 5, Function: "waits", Text: "sys.stdin.read()"}); frames[0] != want {
		t.Errorf("%+v, want %+v", frames[0], want)
	}
	in.Close()
	if err := c.Wait(); err != nil {
		t.Errorf("the program did not go on: %v", err)
	}
}
