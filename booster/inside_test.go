package booster_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/internal/stream"
)

// opens is a supervisor in the test's hands that opens streams.
func (h *house) opens(f mlaas.Fence) mlaas.Line[mlaas.Up, mlaas.Down] {
	h.Helper()
	line, _ := h.talk(f)
	hello := &mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "here", Ports: []int{1, 2}, Opens: true, Phase: mlaas.Phase{Status: mlaas.ReplicaReady}}
	if err := line.Send(h.ctx, mlaas.Up{Hello: hello}); err != nil {
		h.Fatal(err)
	}
	if d, err := line.Receive(h.ctx); err != nil || d.Welcome == nil {
		h.Fatalf("no welcome: %+v, %v", d, err)
	}
	return line
}

// Who may not be let in is told why, and who is let in stands in the history.
func TestOpenRefused(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 2})
		h.ask(r, 1)
		m, shell := h.boost.Monitor(), mlaas.Open{Command: []string{"sh"}, Terminal: &mlaas.Size{Columns: 80, Rows: 24}}
		f := fence(r, 1, "worker-0")
		h.status(r, "worker-0", 2*gathered, mlaas.ReplicaPending)
		refused := func(f mlaas.Fence, ask mlaas.Open, kind error, says string) {
			t.Helper()
			s, err := m.Open(h.ctx, f, ask, "ada")
			if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) || s != nil {
				t.Errorf("Open: %v, want %v with %q", err, kind, says)
			}
		}
		refused(f, mlaas.Open{}, mlaas.ErrInvalid, "a command, or a port")
		refused(f, mlaas.Open{Port: 70000}, mlaas.ErrInvalid, "1 to 65535")
		refused(f, mlaas.Open{Command: []string{"a\x00"}}, mlaas.ErrInvalid, "without a NUL")
		refused(f, mlaas.Open{Command: []string{"sh"}, Terminal: &mlaas.Size{}}, mlaas.ErrInvalid, "columns and rows")
		refused(f, shell, mlaas.ErrUnavailable, "its supervisor does not talk to us")
		refused(fence(r, 0, "worker-0"), shell, mlaas.ErrStale, "attempt 0")
		h.hello(fence(r, 1, "worker-1"), mlaas.ReplicaReady)
		refused(fence(r, 1, "worker-1"), shell, mlaas.ErrConflict, "an older version")

		line := h.opens(f)
		refused(f, mlaas.Open{Look: mlaas.LookStacks}, mlaas.ErrConflict, "of an older version, which cannot say what its program does")
		refused(f, mlaas.Open{Look: "everywhere"}, mlaas.ErrInvalid, "stacks or debugger")
		began := time.Now()
		refused(f, shell, mlaas.ErrUnavailable, "did not answer within 20s")
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("it took %s", took)
		}
		var told *mlaas.Open
		for told == nil {
			d, err := line.Receive(h.ctx)
			if err != nil {
				t.Fatal(err)
			}
			told = d.Open
		}
		if told.ID == "" || !slices.Equal(told.Command, shell.Command) || *told.Terminal != *shell.Terminal {
			t.Errorf("told %+v", told)
		}
		refused(f, shell, mlaas.ErrUnavailable, "did not answer")
		if err := line.Send(h.ctx, mlaas.Up{Beat: &mlaas.Beat{}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		refused(f, shell, mlaas.ErrUnavailable, "did not answer")
		rep, _ := h.replica(r, "worker-0")
		var said int
		for _, e := range rep.History {
			if e.Reason == "ada opened a shell: sh" {
				said++
			}
		}
		if said != 2 {
			t.Errorf("its history says %d times who opened a shell, want 2: not again within a minute: %+v", said, rep.History)
		}
	})
}

// A stream goes through the internal API of the booster and through its door,
// over real connections, to the supervisor that was told of it and no other.
func TestInside(t *testing.T) {
	h := plain(t, mute)
	r := run("run1", map[string]int{"worker": 2})
	h.ask(r, 1)
	f, other := fence(r, 1, "worker-0"), fence(r, 1, "worker-1")
	h.status(r, "worker-0", time.Minute, mlaas.ReplicaPending)
	h.status(r, "worker-1", time.Minute, mlaas.ReplicaPending)
	line := h.opens(f)
	door, internal := httptest.NewServer(h.boost.Monitor().Handler()), httptest.NewServer(h.boost.Monitor().Internal())
	defer door.Close()
	defer internal.Close()
	dial := func(f mlaas.Fence, id string) (*stream.Stream, error) {
		token := auth.SignJob(make([]byte, 32), f, time.Now().Add(time.Hour))
		c, answer, err := websocket.Dial(h.ctx, door.URL+"/door/stream/"+id, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
		if answer != nil && answer.Body != nil {
			defer answer.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		s, _ := stream.Over(h.ctx, c)
		return s, nil
	}
	go func() { // the supervisor
		for {
			d, err := line.Receive(h.ctx)
			if err != nil {
				return
			}
			if d.Open == nil {
				continue
			}
			if s, err := dial(other, d.Open.ID); err == nil {
				h.Error("another replica took the stream")
				s.Close()
				return
			}
			if s, err := dial(f, "guessed"); err == nil {
				h.Error("a stream that nobody waits for was taken")
				s.Close()
			}
			s, err := dial(f, d.Open.ID)
			if err != nil {
				h.Error(err)
				return
			}
			p, err := s.Receive(h.ctx)
			if err == nil {
				err = errors.Join(s.Send(h.ctx, p), s.Send(h.ctx, stream.JSON(stream.Exit, stream.Ending{Code: 4})))
			}
			if err != nil {
				h.Error(err)
			}
			s.Close()
		}
	}()
	inside := &booster.Inside{Serves: func(_ context.Context, cluster string) (string, error) {
		if cluster == "stage" {
			return internal.URL, nil
		}
		return "", nil
	}}
	for range 20 {
		s, err := inside.Open(h.ctx, "stage", f, mlaas.Open{Command: []string{"cat"}}, "ada")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(h.ctx, stream.Packet{Kind: stream.Data, Data: []byte("to and fro")}); err != nil {
			t.Fatal(err)
		}
		p, err := s.Receive(h.ctx)
		if err != nil || string(p.Data) != "to and fro" {
			t.Fatalf("%q, %v", p.Data, err)
		}
		if p, err = s.Receive(h.ctx); err != nil || p.Kind != stream.Exit || string(p.Data) != `{"code":4}` {
			t.Fatalf("%q, %v", p.Data, err)
		}
		if _, err = s.Receive(h.ctx); !errors.Is(err, io.EOF) {
			t.Fatalf("after the end: %v", err)
		}
		s.Close()
	}
	if _, err := inside.Open(h.ctx, "stage", other, mlaas.Open{Command: []string{"cat"}}, "ada"); !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), "worker-1 cannot be reached now") {
		t.Errorf("a replica that nobody can reach: %v", err)
	}
	if _, err := inside.Open(h.ctx, "moon", f, mlaas.Open{Port: 80}, "ada"); !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), "nobody serves cluster moon") {
		t.Errorf("a cluster that nobody serves: %v", err)
	}
	text, size, err := inside.Log(h.ctx, "stage", other)
	if err != nil || text != "supervisor of run1-1-worker-1-1\n" || size != int64(len(text)) {
		t.Errorf("the log of a container: %q, %v", text, err)
	}
	if _, _, err := inside.Log(h.ctx, "stage", fence(r, 1, "worker-9")); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("of one that is not there: %v", err)
	}
}
