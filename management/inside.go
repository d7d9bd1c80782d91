package management

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/stream"
)

// People look into replicas by streams: see package stream for what goes over
// the WebSocket. Whoever of the team may change what a program does may also
// look in: a shell runs as the program's user, in its sandbox. Who did stands
// in the history of the replica.

type shellIn struct {
	nodeIn
	Command  []string `query:"command" doc:"The words of a command, each a parameter; a shell where not said"`
	Terminal bool     `query:"terminal" doc:"The command gets a terminal, and what it writes comes as one"`
	Columns  int      `query:"columns" minimum:"1" doc:"Of the terminal; 80 where not said"`
	Rows     int      `query:"rows" minimum:"1" doc:"Of the terminal; 24 where not said"`
	Term     string   `query:"term" doc:"What kind of terminal, as $TERM says it" example:"xterm-256color"`
}

// aShell is what runs where no command is named: the best there is.
func aShell() []string {
	return []string{"sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"}
}

func (m *Management) shell(w http.ResponseWriter, r *http.Request, in *shellIn) error {
	ask := mlaas.Open{Command: in.Command}
	if len(ask.Command) == 0 {
		ask.Command = aShell()
	}
	if in.Terminal {
		ask.Terminal, ask.Term = &mlaas.Size{Columns: 80, Rows: 24}, in.Term
		if in.Columns > 0 {
			ask.Terminal.Columns = in.Columns
		}
		if in.Rows > 0 {
			ask.Terminal.Rows = in.Rows
		}
	}
	return m.open(w, r, in.nodeIn, ask)
}

type portIn struct {
	nodeIn
	Port string `path:"port" doc:"Where the program listens, 1 to 65535" example:"6006"`
}

func (m *Management) port(w http.ResponseWriter, r *http.Request, in *portIn) error {
	port, err := strconv.Atoi(in.Port)
	if err != nil || port < 1 || port > 65535 {
		return mlaas.Invalid("port", "1 to 65535", clip(in.Port, 20))
	}
	return m.open(w, r, in.nodeIn, mlaas.Open{Port: port})
}

// open passes a stream on between who asks and the replica. It ends with
// either, with the session that it was opened by, and with the platform.
func (m *Management) open(w http.ResponseWriter, r *http.Request, in nodeIn, ask mlaas.Open) error {
	ctx := r.Context()
	run, a, err := m.node(ctx, in)
	if err != nil {
		return err
	}
	if r.Header.Get("Upgrade") == "" {
		return fmt.Errorf("this is a WebSocket; mlaas shell, mlaas cp and mlaas port-forward speak it: %w", mlaas.ErrInvalid)
	}
	if a.Status.Final() || a.Epoch == 0 || a.Incarnation == 0 {
		return fmt.Errorf("%s of %s/%d is %s: nothing of it runs: %w", in.Node, run.JobName, run.Number, a.Status, mlaas.ErrConflict)
	}
	if m.Inside == nil {
		return fmt.Errorf("this platform lets nobody into its replicas: %w", mlaas.ErrUnavailable)
	}
	if err := confirm(ctx); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	inner, err := m.Inside.Open(within, a.Cluster, a.Fence, ask, auth.From(ctx).Name)
	cancel()
	if err != nil {
		return err
	}
	defer inner.Close()
	// Pages of others were refused before: see who in serve.go.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // Accept has answered
	}
	outer, life := stream.Over(ctx, c)
	watch, life := m.newStreamer(life)
	watch.write = func(...[]byte) error { return nil }  // there is nothing to say but
	watch.close = func(websocket.StatusCode, string) {} // the end, which it makes by life
	defer watch.stop()
	defer watch.attend(life)()
	stream.Relay(life, outer, inner)
	return nil
}
