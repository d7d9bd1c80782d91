package management

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/trace"
)

// Handler answers the whole API. What is not in the table of routes is not
// there.
func (m *Management) Handler() http.Handler {
	mux := http.NewServeMux()
	adapter := humago.NewAdapter(mux, "")
	for _, rt := range m.routes() {
		method, pattern, _ := strings.Cut(rt.Call, " ")
		adapter.Handle(&huma.Operation{Method: method, Path: pattern}, func(c huma.Context) {
			r, w := humago.Unwrap(c)
			m.answer(w, r, rt)
		})
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: rw}
		id := mlaas.NewID(m.now())
		ctx := context.WithValue(r.Context(), requestKey{}, id)
		ctx = context.WithValue(ctx, limitsKey{}, m.limits())
		r = r.WithContext(ctx)
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		defer m.rescue(w, r)
		if err := m.known(r); err != nil {
			p := problemOf(err)
			p.RequestID, p.Status, p.Title = id, http.StatusMisdirectedRequest, "This server does not go by that name"
			p.write(w)
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" || !clean(r.URL.Path) {
			m.missing(mux, w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// answer serves one request of a route: first who is asking, then whether they
// may, then what it does.
func (m *Management) answer(w http.ResponseWriter, r *http.Request, rt route) {
	began := time.Now()
	defer func() {
		after, status := took(w, began)
		m.Counts.Requests.Of(Request{rt.Call, status}).Observe(after)
	}()
	if rt.Policy != auth.Public {
		who, err := m.who(r)
		if err == nil {
			err = rt.Policy.Allow(who)
		}
		if err != nil {
			m.fail(w, r, err)
			return
		}
		r = r.WithContext(context.WithValue(auth.With(r.Context(), who), storeKey{}, m.DB))
	}
	ctx, end := r.Context(), func(error) {}
	if rt.Policy != auth.Public { // probes are many, and nobody asks how they went
		ctx, end = trace.Start(ctx, m.Trace, rt.Call, r.Header.Get("Traceparent"), "request", requestID(ctx))
		r = r.WithContext(ctx)
	}
	err := rt.serve(w, r)
	if err != nil && !begun(w) && !errors.Is(err, mlaas.ErrInvalid) && !errors.Is(err, mlaas.ErrSyntax) && mlaas.KindOf(err).Status < 500 {
		if unsafe := confirm(ctx); unsafe != nil { // "it is not there" is an answer too
			err = unsafe
		}
	}
	end(err)
	if rt.media != "" { // it may have had a time to write in, and the connection is used again
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	}
	if err != nil {
		m.fail(w, r, err)
	}
}

// who finds out who is asking. One who is known by a cookie alone must come
// from our own pages: a browser sends cookies whoever wrote the page.
func (m *Management) who(r *http.Request) (auth.Principal, error) {
	r = jupyterToken(r)
	who, err := m.Auth.Who(r)
	if err != nil || !auth.ByCookie(r) {
		return who, err
	}
	same := r
	if r.Header.Get("Upgrade") != "" { // a socket is opened by GET and does more than read
		same = r.Clone(r.Context())
		same.Method = http.MethodPost
	}
	if err := http.NewCrossOriginProtection().Check(same); err != nil {
		return who, fmt.Errorf("this request came from another site's page: %w", mlaas.ErrForbidden)
	}
	return who, nil
}

// known reports whether the request calls this server by one of its names. A
// page that has its own name lead here (DNS rebinding) is found out by it.
func (m *Management) known(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if a, err := netip.ParseAddr(host); err == nil {
		// An address cannot be made to lead elsewhere: the one that was dialled is
		// as good as a name.
		here, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if a.Unmap().IsLoopback() || here != nil && here.AddrPort().Addr().Unmap() == a.Unmap() {
			return nil
		}
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(m.Hosts, host) {
		return nil
	}
	return fmt.Errorf("this server was called %q: call it localhost, 127.0.0.1, or by a name that it was started with: %w", r.Host, mlaas.ErrForbidden)
}

// clean reports whether a path has no part that means another place.
func clean(p string) bool {
	return p == path.Clean(p) && !strings.ContainsAny(p, "\\\x00")
}

// missing answers what no route does.
func (m *Management) missing(mux *http.ServeMux, w *response, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		if _, err := m.who(r); err != nil {
			m.fail(w, r, err) // what is there is not told to everyone
			return
		}
	}
	var allowed []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "" && clean(r.URL.Path) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		p := problemOf(fmt.Errorf("%s cannot be done to %s, but %s can: %w", r.Method, r.URL.Path, strings.Join(allowed, ", "), mlaas.ErrNotFound))
		p.Status, p.Title, p.RequestID = http.StatusMethodNotAllowed, "This cannot be done here", requestID(r.Context())
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		p.write(w)
		return
	}
	writeProblem(w, r, fmt.Errorf("there is nothing at %s; GET /openapi.json lists what there is: %w", r.URL.Path, mlaas.ErrNotFound))
}

// fail answers with err, and writes into the log what the platform is to
// blame for. An answer that has begun is cut off instead: whoever reads it
// must not take it for whole.
func (m *Management) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, r.Context().Err()) {
		return // who asked has gone
	}
	if kind := mlaas.KindOf(err); kind.Status >= 500 {
		m.log().Error("a request failed", "request", requestID(r.Context()), "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if begun(w) {
		panic(http.ErrAbortHandler)
	}
	writeProblem(w, r, err)
}

// rescue turns a panic into a problem and goes on.
func (m *Management) rescue(w *response, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if aborted := v == any(http.ErrAbortHandler); aborted || w.begun {
		if !aborted {
			m.log().Error("a handler panicked", "request", requestID(r.Context()), "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
		}
		panic(http.ErrAbortHandler)
	}
	m.log().Error("a handler panicked", "request", requestID(r.Context()), "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	writeProblem(w, r, fmt.Errorf("panic: %v: %w", v, mlaas.ErrInternal))
}

// A response knows whether an answer has begun, with what, and when.
type response struct {
	http.ResponseWriter
	begun  bool
	status int
	first  time.Time
}

func (w *response) begin(status int) {
	if !w.begun {
		w.begun, w.status, w.first = true, status, time.Now()
	}
}

func (w *response) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// took is how long it was from began until the answer began, and its status; 0
// where whoever asked had gone.
func took(w http.ResponseWriter, began time.Time) (time.Duration, int) {
	if r, ok := w.(*response); ok && r.begun {
		return r.first.Sub(began), r.status
	}
	return time.Since(began), 0
}

// Unwrap is how http.ResponseController finds what is below.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func begun(w http.ResponseWriter) bool {
	r, ok := w.(*response)
	return ok && r.begun
}

type limitsKey struct{}

func limitOf(ctx context.Context) Limits {
	l, _ := ctx.Value(limitsKey{}).(Limits)
	return l
}
