package booster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
	"mlaas.dev/mlaas/store"
)

const (
	openWithin = 20 * time.Second // a supervisor that was told to open a stream comes, or does not
	openAtOnce = 256              // streams of one cluster
	saidAgain  = time.Minute      // the same thing of the same person is one event
	mostLog    = 1 << 20          // of a container's own log: the end of it
)

// sizeHeader says how long a log is of which the end is told.
const sizeHeader = "Mlaas-Size"

// waiting is who waits for which stream.
type waiting struct {
	mu   sync.Mutex
	all  map[string]waiter
	open int
}

type waiter struct {
	fence mlaas.Fence
	comes chan *stream.Stream // holds one
	gone  chan struct{}       // closed when nobody waits any more
}

// Open opens a stream into a running replica, for by: a name for people. What
// was opened, and by whom, stands in the history of the replica from then on.
// The stream and its context end when the replica does, and with this booster.
// Who calls it closes the stream.
func (m *Monitor) Open(ctx context.Context, f mlaas.Fence, ask mlaas.Open, by string) (*stream.Stream, error) {
	if err := checkOpen(ask); err != nil {
		return nil, err
	}
	c := m.line(f)
	if c == nil {
		r, err := m.admit(ctx, f)
		switch {
		case err != nil:
			return nil, err
		case r.Status.Final():
			return nil, fmt.Errorf("%s is %s: nothing of it runs: %w", f.Replica, r.Status, mlaas.ErrConflict)
		}
		return nil, fmt.Errorf("%s cannot be reached now: its supervisor does not talk to us (%s): %w", f.Replica, r.Reason, mlaas.ErrUnavailable)
	}
	if !c.opens {
		return nil, fmt.Errorf("the supervisor of %s is of an older version, which lets nobody in: run it again: %w", f.Replica, mlaas.ErrConflict)
	}
	if ask.Look != "" && c.recipes == 0 {
		return nil, fmt.Errorf("the supervisor of %s is of an older version, which cannot say what its program does: run it again: %w", f.Replica, mlaas.ErrConflict)
	}
	ask.ID = mlaas.NewID(m.b.Now())
	w := waiter{f, make(chan *stream.Stream, 1), make(chan struct{})}
	if !m.waits.enter(ask.ID, w) {
		return nil, fmt.Errorf("%d streams into replicas of %s are open, which is all there may be: try again later: %w", openAtOnce, m.b.Cluster, mlaas.ErrTooMany)
	}
	if err := m.audit(ctx, f, ask, by); err != nil {
		m.waits.leave(ask.ID)
		return nil, err
	}
	c.tell(mlaas.Down{Open: &ask})
	timer := time.NewTimer(openWithin)
	defer timer.Stop()
	var err error
	select {
	case s := <-w.comes:
		go func() {
			select {
			case <-s.Done():
			case <-m.b.life.Done():
				s.Close()
			}
			m.waits.leave(ask.ID)
		}()
		return s, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-c.done:
		err = fmt.Errorf("%s stopped talking to us: %w", f.Replica, mlaas.ErrUnavailable)
	case <-timer.C:
		err = fmt.Errorf("%s did not answer within %s: %w", f.Replica, openWithin, mlaas.ErrUnavailable)
	}
	close(w.gone) // it may come at this very moment
	m.waits.leave(ask.ID)
	return nil, err
}

func checkOpen(ask mlaas.Open) error {
	size := 0
	for _, w := range ask.Command {
		size += len(w)
	}
	switch t := ask.Terminal; {
	case ask.Look == mlaas.LookStacks || ask.Look == mlaas.LookDebugger:
		return nil
	case ask.Kernel != nil && ask.Look == "" && ask.Port == 0 && len(ask.Command) == 0:
		return nil
	case ask.Look != "":
		return mlaas.Invalid("look", "stacks or debugger", ask.Look)
	case (ask.Port != 0) == (len(ask.Command) > 0):
		return mlaas.Invalid("command", "a command, or a port", ask.Command)
	case ask.Port < 0 || ask.Port > 65535:
		return mlaas.Invalid("port", "1 to 65535", ask.Port)
	case size > 64<<10 || slices.ContainsFunc(ask.Command, func(w string) bool { return strings.ContainsRune(w, 0) }):
		return mlaas.Invalid("command", "words without a NUL, of at most 64 KiB together", fmt.Sprintf("%d bytes", size))
	case t != nil && (t.Columns < 1 || t.Columns > 4096 || t.Rows < 1 || t.Rows > 4096):
		return mlaas.Invalid("terminal", "1 to 4096 columns and rows", fmt.Sprintf("%d x %d", t.Columns, t.Rows))
	case len(ask.Term) > 64 || strings.ContainsAny(ask.Term, "\x00\n="):
		return mlaas.Invalid("term", "the name of a terminal such as xterm-256color", ask.Term)
	}
	return nil
}

// audit writes into the history of a replica who opens what.
func (m *Monitor) audit(ctx context.Context, f mlaas.Fence, ask mlaas.Open, by string) error {
	what := fmt.Sprintf("%s ran %s", by, strings.Join(ask.Command, " "))
	switch {
	case ask.Kernel != nil: // each execution says who asked for it
		return nil
	case ask.Look == mlaas.LookStacks:
		what = by + " read the stacks of its threads"
	case ask.Look == mlaas.LookDebugger:
		what = by + " let a debugger in"
	case ask.Port > 0:
		what = fmt.Sprintf("%s connected to port %d", by, ask.Port)
	case ask.Terminal != nil:
		what = fmt.Sprintf("%s opened a shell: %s", by, strings.Join(ask.Command, " "))
	}
	what = short(what)
	_, err := m.b.change(ctx, f, func(r *mlaas.Replica) store.Batch {
		now := m.b.Now().UTC()
		if !slices.ContainsFunc(r.History, func(e mlaas.Event) bool {
			return e.Reason == what && e.Epoch == f.Epoch && now.Sub(e.Time) < saidAgain
		}) {
			happened(r, now, what)
		}
		return store.Batch{}
	})
	return err
}

// enter is not ok where there are too many.
func (w *waiting) enter(id string, who waiter) (ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open >= openAtOnce {
		return false
	}
	if w.all == nil {
		w.all = map[string]waiter{}
	}
	w.all[id] = who
	w.open++
	return true
}

// leave forgets a stream that is over, and who waits for it.
func (w *waiting) leave(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, id)
	w.open--
}

// take finds who waits for a stream from f; nobody does any more then.
func (w *waiting) take(id string, f mlaas.Fence) (waiter, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	who, ok := w.all[id]
	if !ok || who.fence != f { // the other one still comes
		return waiter{}, false
	}
	delete(w.all, id)
	return who, true
}

// serveStream takes a stream that a supervisor was told to open, and hands it
// to who waits for it.
func (m *Monitor) serveStream(w http.ResponseWriter, r *http.Request) {
	f, err := m.who(r)
	if err != nil {
		m.refuse(w, r, err)
		return
	}
	who, ok := m.waits.take(r.PathValue("id"), f)
	if !ok {
		m.refuse(w, r, fmt.Errorf("nobody waits for this stream: %w", mlaas.ErrNotFound))
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has answered
	}
	s, ctx := stream.Over(r.Context(), c)
	who.comes <- s
	select {
	case <-s.Done():
	case <-ctx.Done():
		s.Close()
	case <-who.gone:
		s.Close()
	}
}

// Log is the log that the executor itself keeps of a replica, or the end of
// it: what there is of one whose supervisor never delivered a word. size is how
// many bytes all of it has.
func (m *Monitor) Log(ctx context.Context, f mlaas.Fence) (text string, size int64, err error) {
	from, err := m.b.place.Logs(ctx, f, false)
	if err != nil {
		return "", 0, err
	}
	defer from.Close()
	return tailOf(from, mostLog)
}

// FollowLog is what is added to that log, from the byte number after on, until
// the supervisor has ended or ctx ends. The caller closes it.
func (m *Monitor) FollowLog(ctx context.Context, f mlaas.Fence, after int64) (io.ReadCloser, error) {
	from, err := m.b.place.Logs(ctx, f, true)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, from, after); err != nil && !errors.Is(err, io.EOF) {
		from.Close()
		return nil, err
	}
	return from, nil
}

// tailOf is the end of what r gives, at most n bytes, from the beginning of a
// line on, and how much it gave in all.
func tailOf(r io.Reader, n int) (text string, size int64, err error) {
	var tail []byte
	chunk := make([]byte, 32<<10)
	cut := false
	for {
		got, err := r.Read(chunk)
		size += int64(got)
		if tail = append(tail, chunk[:got]...); len(tail) > 2*n {
			tail, cut = slices.Clone(tail[len(tail)-n:]), true
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", size, err
		}
	}
	if len(tail) > n {
		tail, cut = tail[len(tail)-n:], true
	}
	text = string(tail)
	if cut {
		_, text, _ = strings.Cut(text, "\n")
	}
	return strings.ToValidUTF8(text, "\uFFFD"), size, nil
}

// Internal serves Open, Log and FollowLog to an [Inside] in another process, below
// /replica/. Who mounts it lets nobody in but other services.
func (m *Monitor) Internal() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /replica/stream", func(w http.ResponseWriter, r *http.Request) {
		var f mlaas.Fence
		var ask mlaas.Open
		if err := errors.Join(asked(r, "fence", &f), asked(r, "open", &ask)); err != nil {
			m.refuse(w, r, err)
			return
		}
		inner, err := m.Open(r.Context(), f, ask, r.URL.Query().Get("by"))
		if err != nil {
			m.refuse(w, r, err)
			return
		}
		defer inner.Close()
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			return // it has answered
		}
		outer, ctx := stream.Over(r.Context(), c)
		stream.Relay(ctx, outer, inner)
	})
	mux.HandleFunc("GET /replica/log", func(w http.ResponseWriter, r *http.Request) {
		var f mlaas.Fence
		err := asked(r, "fence", &f)
		var text string
		var size int64
		if err == nil {
			text, size, err = m.Log(r.Context(), f)
		}
		if err != nil {
			m.refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set(sizeHeader, strconv.FormatInt(size, 10))
		io.WriteString(w, text)
	})
	mux.HandleFunc("GET /replica/log/follow", func(w http.ResponseWriter, r *http.Request) {
		var f mlaas.Fence
		var after int64
		var text io.ReadCloser
		err := errors.Join(asked(r, "fence", &f), asked(r, "after", &after))
		if err == nil {
			text, err = m.FollowLog(r.Context(), f, after)
		}
		if err != nil {
			m.refuse(w, r, err)
			return
		}
		defer text.Close()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		out := http.NewResponseController(w)
		chunk := make([]byte, 32<<10)
		for out.Flush() == nil {
			n, err := text.Read(chunk)
			if n > 0 {
				if _, err := w.Write(chunk[:n]); err != nil {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				panic(http.ErrAbortHandler) // who reads is told that it is not whole
			}
		}
	})
	return mux
}

// asked reads a part of a request that is JSON.
func asked(r *http.Request, name string, v any) error {
	if err := json.Unmarshal([]byte(r.URL.Query().Get(name)), v); err != nil {
		return fmt.Errorf("%s cannot be read: %v: %w", name, err, mlaas.ErrSyntax)
	}
	return nil
}

// An Inside reaches into the replicas of clusters that other processes serve.
type Inside struct {
	// Serves says where [Monitor.Internal] of a cluster is; empty: nobody serves
	// it now.
	Serves func(ctx context.Context, cluster string) (url string, err error)
	Client *http.Client // nil: http.DefaultClient
}

func (i *Inside) at(ctx context.Context, cluster, path string, q url.Values) (string, error) {
	at, err := i.Serves(ctx, cluster)
	if err != nil {
		return "", fmt.Errorf("find who serves cluster %s: %w", cluster, err)
	}
	if at == "" {
		return "", fmt.Errorf("nobody serves cluster %s now: %w", cluster, mlaas.ErrUnavailable)
	}
	return at + path + "?" + q.Encode(), nil
}

func said(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	return string(text)
}

// Open is Monitor.Open of the booster that serves the cluster.
func (i *Inside) Open(ctx context.Context, cluster string, f mlaas.Fence, ask mlaas.Open, by string) (*stream.Stream, error) {
	at, err := i.at(ctx, cluster, "/replica/stream", url.Values{"fence": {said(f)}, "open": {said(ask)}, "by": {by}})
	if err != nil {
		return nil, err
	}
	c, answer, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: i.Client}) //nolint:bodyclose // Dial has read it
	if err != nil {
		if answer != nil && answer.StatusCode >= 400 {
			return nil, refusal(answer)
		}
		return nil, fmt.Errorf("the booster of cluster %s cannot be reached: %v: %w", cluster, err, mlaas.ErrUnavailable)
	}
	s, _ := stream.Over(context.WithoutCancel(ctx), c)
	return s, nil
}

// Log is Monitor.Log of the booster that serves the cluster.
func (i *Inside) Log(ctx context.Context, cluster string, f mlaas.Fence) (string, int64, error) {
	answer, err := i.get(ctx, cluster, "/replica/log", url.Values{"fence": {said(f)}})
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 2*mostLog))
	if err != nil {
		return "", 0, err
	}
	size, err := strconv.ParseInt(answer.Header.Get(sizeHeader), 10, 64)
	if err != nil {
		size = int64(len(text)) // of the version before
	}
	return string(text), size, nil
}

// FollowLog is Monitor.FollowLog of the booster that serves the cluster.
func (i *Inside) FollowLog(ctx context.Context, cluster string, f mlaas.Fence, after int64) (io.ReadCloser, error) {
	answer, err := i.get(ctx, cluster, "/replica/log/follow", url.Values{"fence": {said(f)}, "after": {said(after)}})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// get asks the booster that serves the cluster. The caller closes the answer.
func (i *Inside) get(ctx context.Context, cluster, path string, q url.Values) (*http.Response, error) {
	at, err := i.at(ctx, cluster, path, q)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	client := i.Client
	if client == nil {
		client = http.DefaultClient
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the booster of cluster %s cannot be reached: %v: %w", cluster, err, mlaas.ErrUnavailable)
	}
	if answer.StatusCode >= 400 {
		defer answer.Body.Close()
		return nil, refusal(answer)
	}
	return answer, nil
}

// refusal is the error that another booster answered with.
func refusal(answer *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		text = nil
	}
	for _, k := range mlaas.Kinds {
		if k.Status == answer.StatusCode {
			return fmt.Errorf("%s: %w", strings.TrimSpace(string(text)), k)
		}
	}
	return fmt.Errorf("%s %s: %w", answer.Status, strings.TrimSpace(string(text)), mlaas.ErrUnavailable)
}
