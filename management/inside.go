package management

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
	if r.Header.Get("Upgrade") == "" {
		if _, _, err := m.node(ctx, in); err != nil {
			return err
		}
		return fmt.Errorf("this is a WebSocket; mlaas shell, mlaas cp and mlaas port-forward speak it: %w", mlaas.ErrInvalid)
	}
	inner, err := m.enter(ctx, in, ask)
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

// enter opens a stream into a replica that runs. Who calls it closes the stream.
func (m *Management) enter(ctx context.Context, in nodeIn, ask mlaas.Open) (*stream.Stream, error) {
	run, a, err := m.node(ctx, in)
	if err != nil {
		return nil, err
	}
	if a.Status.Final() || a.Epoch == 0 || a.Incarnation == 0 {
		return nil, fmt.Errorf("%s of %s/%d is %s: nothing of it runs: %w", in.Node, run.JobName, run.Number, a.Status, mlaas.ErrConflict)
	}
	if m.Inside == nil {
		return nil, fmt.Errorf("this platform lets nobody into its replicas: %w", mlaas.ErrUnavailable)
	}
	if err := confirm(ctx); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return m.Inside.Open(within, a.Cluster, a.Fence, ask, auth.From(ctx).Name)
}

// How long a look into a replica may take, and how much it may say.
const (
	lookWithin = time.Minute
	maxLook    = 16 << 20
)

func (m *Management) nodeStack(ctx context.Context, in *nodeIn) (*Answer[mlaas.Stacks], error) {
	var out mlaas.Stacks
	if err := m.look(ctx, *in, mlaas.Open{Look: mlaas.LookStacks}, nil, &out); err != nil {
		return nil, err
	}
	if len(out.Processes) == 0 {
		return nil, fmt.Errorf("no Python process of %s can be asked: with code.mode plain, in a program that is no Python, or before its first line, nobody answers: %w", in.Node, mlaas.ErrConflict)
	}
	return &Answer[mlaas.Stacks]{Body: out}, nil
}

func (m *Management) nodeDebugger(ctx context.Context, in *nodeIn) (*Answer[mlaas.Debugger], error) {
	var out mlaas.Debugger
	if err := m.look(ctx, *in, mlaas.Open{Look: mlaas.LookDebugger}, nil, &out); err != nil {
		return nil, err
	}
	if out.Error != "" {
		return nil, fmt.Errorf("no debugger can be let into %s: %s: %w", in.Node, out.Error, mlaas.ErrConflict)
	}
	return &Answer[mlaas.Debugger]{Body: out}, nil
}

// look asks a replica, and reads its answer. input is what it is told besides.
func (m *Management) look(ctx context.Context, in nodeIn, ask mlaas.Open, input []byte, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, fmt.Errorf("%s did not answer within %s: %w", in.Node, lookWithin, mlaas.ErrUnavailable))
	defer cancel()
	at, err := m.enter(ctx, in, ask)
	if err != nil {
		return err
	}
	defer at.Close()
	for part := range slices.Chunk(input, stream.Chunk) {
		if err := at.Send(ctx, stream.Packet{Kind: stream.Data, Data: part}); err != nil {
			return err
		}
	}
	if err := at.Send(ctx, stream.Packet{Kind: stream.End}); err != nil {
		return err
	}
	var text, wrong []byte
	for {
		p, err := at.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the connection to %s is lost: %w", in.Node, mlaas.ErrUnavailable)
		}
		switch p.Kind {
		case stream.Data:
			text = append(text, p.Data...)
		case stream.Errors:
			wrong = append(wrong, p.Data...)
		case stream.Exit:
			var end stream.Ending
			if err := json.Unmarshal(p.Data, &end); err != nil {
				return fmt.Errorf("how it ended cannot be read: %w: %w", err, mlaas.ErrInternal)
			}
			if err := end.Err(); err != nil {
				return err
			}
			if end.Code != 0 {
				return fmt.Errorf("the look into %s failed: %s: %w", in.Node, clip(string(wrong), 500), mlaas.ErrInternal)
			}
			if err := json.Unmarshal(text, out); err != nil {
				return fmt.Errorf("what %s says cannot be read: %w: %w", in.Node, err, mlaas.ErrInternal)
			}
			return nil
		}
		if len(text)+len(wrong) > maxLook {
			return fmt.Errorf("%s says more than %s: %w", in.Node, mlaas.Bytes(maxLook), mlaas.ErrTooLarge)
		}
	}
}
