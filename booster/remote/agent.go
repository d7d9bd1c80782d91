package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// An Agent is the booster inside a place that nobody can reach. It calls a
// gateway, does what it is asked with the executor of the place, and is the door
// of its replicas, which it passes on. It keeps nothing. Fill in the fields,
// serve Handler where replicas can reach it, and call Run.
type Agent struct {
	Gateways []string // URLs of boosters, each tried in turn
	Cluster  string   // its name there
	Token    string   // shown to a gateway
	ID       string   // tells this process from others that call for the same cluster
	Door     string   // where Handler is, as replicas see it

	// Open makes the executor of the place. It is called again when what the
	// cluster lends has changed.
	Open func(settings mlaas.KubeSettings) (booster.Executor, error)

	HTTP *http.Client // reaches gateways; nil: http.DefaultClient
	Log  *slog.Logger // nil: silent

	mu       sync.Mutex
	at       string // the gateway that it is connected to; empty: to none
	tenure   int64  // the newest that asked
	settings *mlaas.KubeSettings
	executor booster.Executor
	said     string // why it is not connected
}

func (a *Agent) log() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

func (a *Agent) client() *http.Client {
	if a.HTTP == nil {
		return http.DefaultClient
	}
	return a.HTTP
}

const (
	firstAgain   = 100 * time.Millisecond
	longestAgain = 5 * time.Second
	callWithin   = 10 * time.Second
)

// Run calls until ctx ends. Replicas go on without it.
func (a *Agent) Run(ctx context.Context) error {
	if len(a.Gateways) == 0 {
		return mlaas.Invalid("gateway", "the URL of a booster", "")
	}
	wait := firstAgain
	for n := 0; ; n++ {
		gateway := strings.TrimSuffix(a.Gateways[n%len(a.Gateways)], "/")
		began := time.Now()
		err := a.call(ctx, gateway)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if text := gateway + ": " + err.Error(); text != a.said {
			a.said = text
			a.log().Warn("not connected to a gateway; it is called again", "gateway", gateway, "error", err)
		}
		if time.Since(began) > longestAgain {
			wait = firstAgain
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		if (n+1)%len(a.Gateways) == 0 { // each was tried
			wait = min(2*wait, longestAgain)
		}
	}
}

// call is one connection, until it ends.
func (a *Agent) call(ctx context.Context, gateway string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	within, stop := context.WithTimeout(ctx, callWithin)
	defer stop()
	socket, answer, err := websocket.Dial(within, gateway+"/cluster/"+url.PathEscape(a.Cluster)+"/gateway", &websocket.DialOptions{ //nolint:bodyclose // the library does
		HTTPClient: a.client(), CompressionMode: websocket.CompressionDisabled,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + a.Token}, agentHeader: {a.ID}, versionHeader: {strconv.Itoa(Version)}},
	})
	if err != nil {
		if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
			var p problem
			if json.Unmarshal(text, &p) == nil && p.Code != "" {
				return p.err()
			}
			return fmt.Errorf("it answers %s: %s: %w", answer.Status, strings.TrimSpace(string(text)), mlaas.ErrUnavailable)
		}
		return fmt.Errorf("%v: %w", err, mlaas.ErrUnavailable)
	}
	socket.SetReadLimit(-1)
	gone := make(chan struct{})
	var once sync.Once
	conn := watched{websocket.NetConn(ctx, socket, websocket.MessageBinary), gone, func() { once.Do(func() { close(gone) }) }}
	defer conn.Close()
	if err := speaks(answer.Header.Get(versionHeader)); err != nil {
		return err
	}
	server := &http.Server{Handler: a.inside(gateway), Protocols: protocols(), HTTP2: pings(), ErrorLog: slog.NewLogLogger(a.log().Handler(), slog.LevelDebug)}
	defer server.Close()
	defer a.connected("")
	go func() {
		<-ctx.Done()
		conn.Close()
	}()
	if err := server.Serve(newSingle(conn, gone)); ctx.Err() == nil {
		return fmt.Errorf("%v: %w", err, mlaas.ErrUnavailable)
	}
	return context.Cause(ctx)
}

// connected notes the gateway that took us; empty: none has.
func (a *Agent) connected(gateway string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at = gateway; gateway != "" {
		a.said = ""
		a.log().Info("connected to a gateway", "gateway", gateway, "cluster", a.Cluster)
	}
}

// Connected reports the gateway that it is connected to, or why to none.
func (a *Agent) Connected() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == "" {
		return fmt.Errorf("this booster is connected to no gateway: %w", mlaas.ErrUnavailable)
	}
	return nil
}

// Handler is the door of the replicas here: what they say passes on to the
// gateway that this booster is connected to. Their tokens are checked there.
func (a *Agent) Handler() http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			a.mu.Lock()
			at := a.at
			a.mu.Unlock()
			to, err := url.Parse(at + "/cluster/" + url.PathEscape(a.Cluster))
			if err != nil || at == "" {
				to = &url.URL{Scheme: "http", Host: "gateway.invalid"} // it went since we looked
			}
			r.SetURL(to)
		},
		Transport:     a.client().Transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(a.log().Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the gateway cannot be reached: "+err.Error(), http.StatusServiceUnavailable)
		},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/door/", func(w http.ResponseWriter, r *http.Request) {
		if err := a.Connected(); err != nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	return mux
}

// inside answers what a gateway asks.
func (a *Agent) inside(gateway string) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, h func(w http.ResponseWriter, r *http.Request, e booster.Executor) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			e, err := a.current(r)
			if err == nil && e == nil {
				err = fmt.Errorf("open comes first: %w", mlaas.ErrConflict)
			}
			if err == nil {
				err = h(w, r, e)
			}
			if err != nil {
				fail(w, err)
			}
		})
	}
	mux.HandleFunc("POST /open", func(w http.ResponseWriter, r *http.Request) {
		kind, err := a.open(r)
		if err != nil {
			fail(w, err)
			return
		}
		a.connected(gateway)
		answer(w, map[string]string{"kind": kind})
	})
	handle("/start", func(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
		var s booster.Spec
		if err := read(r, &s); err != nil {
			return err
		}
		if a.Door != "" {
			s.Door = a.Door
		}
		return e.Start(r.Context(), s)
	})
	handle("/stop", func(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
		var f mlaas.Fence
		if err := read(r, &f); err != nil {
			return err
		}
		return e.Stop(r.Context(), f)
	})
	handle("/leave", func(_ http.ResponseWriter, r *http.Request, e booster.Executor) error {
		if l, ok := e.(booster.Leaver); ok {
			return l.Leave(r.Context())
		}
		return nil
	})
	handle("/capacity", func(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
		have, err := e.Capacity(r.Context())
		if err == nil {
			answer(w, have)
		}
		return err
	})
	handle("/watch", watch)
	handle("/logs", func(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
		var a reading
		if err := read(r, &a); err != nil {
			return err
		}
		text, err := e.Logs(r.Context(), a.Fence, a.Follow)
		if err != nil {
			return err
		}
		defer text.Close()
		if err := http.NewResponseController(w).Flush(); err != nil { // it may be long until there is a word
			return err
		}
		if _, err := io.Copy(&flushing{ResponseWriter: w}, text); err != nil {
			panic(http.ErrAbortHandler) // who reads is told that it is not whole
		}
		return nil
	})
	handle("/exec", execute)
	return mux
}

// current is the executor, for a gateway that may still ask.
func (a *Agent) current(r *http.Request) (booster.Executor, error) {
	n, err := strconv.ParseInt(r.Header.Get(tenureHeader), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s is %q, want a number: %w", tenureHeader, r.Header.Get(tenureHeader), mlaas.ErrSyntax)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n < a.tenure {
		return nil, fmt.Errorf("another process serves cluster %s by now: tenure %d asks, and %d did: %w", a.Cluster, n, a.tenure, mlaas.ErrStale)
	}
	a.tenure = n
	return a.executor, nil
}

// open makes the executor, if what the cluster lends is new.
func (a *Agent) open(r *http.Request) (kind string, err error) {
	if _, err := a.current(r); err != nil {
		return "", err
	}
	var s mlaas.KubeSettings
	if err := read(r, &s); err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.executor == nil || !reflect.DeepEqual(*a.settings, s) {
		e, err := a.Open(s)
		if err != nil {
			return "", err
		}
		a.executor, a.settings = e, &s
	}
	if k, ok := a.executor.(interface{ Kind() string }); ok {
		kind = k.Kind()
	}
	return kind, nil
}

// maxAsk is how long what is asked may be.
const maxAsk = 4 << 20

func read(r *http.Request, v any) error {
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAsk)).Decode(v); err != nil {
		return fmt.Errorf("what is asked cannot be read: %v: %w", err, mlaas.ErrSyntax)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // who asked has gone
}

// watch tells news until it is cancelled.
func watch(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	news, ended := make(chan booster.News), make(chan error, 1)
	go func() { ended <- e.Watch(ctx, news) }()
	out, control := json.NewEncoder(w), http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	for {
		if err := control.Flush(); err != nil {
			cancel()
			<-ended //nolint:errcheck // it was told to end
			return nil
		}
		select {
		case n := <-news:
			for more := true; more; { // a burst is one write
				if err := out.Encode(told{News: &n}); err != nil {
					cancel()
					<-ended //nolint:errcheck // it was told to end
					return nil
				}
				select {
				case n = <-news:
				default:
					more = false
				}
			}
		case err := <-ended:
			if err == nil {
				err = errors.New("its news ended")
			}
			p := problemOf(err)
			out.Encode(told{End: &p}) //nolint:errcheck // who asked has gone
			return nil
		}
	}
}

// execute runs a command. What goes wrong before it wrote anything is the
// answer, and else a trailer.
func execute(w http.ResponseWriter, r *http.Request, e booster.Executor) error {
	var a asking
	if err := decode(r.Header.Get(askHeader), &a); err != nil {
		return err
	}
	out := &flushing{ResponseWriter: w}
	w.Header().Set("Trailer", exitHeader+", "+codeHeader+", "+messageHeader)
	exit, err := e.Exec(r.Context(), a.Fence, a.Command, r.Body, out)
	if err != nil && !out.began {
		w.Header().Del("Trailer")
		return err
	}
	if err != nil {
		p := problemOf(err)
		w.Header().Set(codeHeader, p.Code)
		w.Header().Set(messageHeader, encode(p.Message))
		return nil
	}
	w.Header().Set(exitHeader, strconv.Itoa(exit))
	return nil
}

// A flushing writer keeps nothing back.
type flushing struct {
	http.ResponseWriter
	began bool
}

func (f *flushing) Write(p []byte) (int, error) {
	f.began = true
	n, err := f.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
