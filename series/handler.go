package series

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"mlaas.dev/mlaas"
)

const (
	beatEvery  = 15 * time.Second      // of a stream where nothing changes
	toldEvery  = 10 * time.Millisecond // more often a stream does not say that something changed
	tellWithin = 10 * time.Second      // a client that takes nothing for so long is dropped
)

// Handler serves s to a [Remote] in another process, below /series/. Who
// mounts it lets nobody in but other services: it knows no tenants' rights.
func Handler(s *Store) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request, k key) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			k := key{mlaas.Tenant(r.PathValue("tenant")), mlaas.RunID(r.PathValue("run"))}
			if err := f(w, r, k); err != nil {
				refuse(w, err)
			}
		})
	}
	handle("GET /series/{tenant}/{run}/lines", s.serveLines)
	handle("GET /series/{tenant}/{run}/points", s.servePoints)
	handle("GET /series/{tenant}/{run}/arrived", func(w http.ResponseWriter, r *http.Request, k key) error {
		in := asked{Values: r.URL.Query()}
		from, limit := in.int("from"), int(in.int("limit"))
		if in.err != nil {
			return in.err
		}
		points, err := s.RunPoints(r.Context(), k.tenant, k.run, from, limit)
		if err != nil {
			return err
		}
		return sent(writeArrived(binaryAnswer(w), points))
	})
	handle("GET /series/{tenant}/{run}/keys", func(w http.ResponseWriter, r *http.Request, k key) error {
		keys, err := s.Keys(r.Context(), k.tenant, k.run)
		return reply(w, keys, err)
	})
	handle("GET /series/{tenant}/{run}/last", func(w http.ResponseWriter, r *http.Request, k key) error {
		out, err := s.newest(r.Context(), k, r.URL.Query().Get("replica"))
		return reply(w, out, err)
	})
	handle("GET /series/{tenant}/{run}/kept", func(w http.ResponseWriter, r *http.Request, k key) error {
		kept, err := s.Kept(r.Context(), k.tenant, k.run)
		return reply(w, kept, err)
	})
	handle("GET /series/{tenant}/{run}/changed", s.serveChanged)
	handle("DELETE /series/{tenant}/{run}", func(w http.ResponseWriter, r *http.Request, k key) error {
		return reply(w, struct{}{}, s.Delete(r.Context(), k.tenant, k.run))
	})
	handle("POST /series/{tenant}/{run}/release", func(w http.ResponseWriter, r *http.Request, k key) error {
		return reply(w, struct{}{}, s.Release(r.Context(), k.tenant, k.run))
	})
	handle("POST /series/{tenant}/{run}/trim", func(w http.ResponseWriter, r *http.Request, k key) error {
		freed, err := s.trimOne(r.Context(), k, r.URL.Query().Get("lines") == "true")
		return reply(w, freed, err)
	})
	return mux
}

func (s *Store) newest(ctx context.Context, k key, replica string) (out last, err error) {
	err = s.look(ctx, k, toRead, func(r *run) { out = last{r.Lines, r.Points, r.seqs[replica]} })
	return out, err
}

// last is the newest numbers of a run, and of one replica's lines.
type last struct {
	Log    int64 `json:"log"`
	Metric int64 `json:"metric"`
	Seq    int64 `json:"seq"`
}

// problem is an answer of 400 and more.
type problem struct {
	Code    string `json:"error_code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
}

func refuse(w http.ResponseWriter, err error) {
	kind := mlaas.KindOf(err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(kind.Status)
	_ = json.NewEncoder(w).Encode(problem{Code: kind.Code, Message: err.Error()}) // who asked may have gone
}

func reply(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return sent(json.NewEncoder(w).Encode(v))
}

func binaryAnswer(w http.ResponseWriter) http.ResponseWriter {
	w.Header().Set("Content-Type", "application/octet-stream")
	return w
}

// sent drops the error of an answer that is under way: who asked has gone, or
// sees that it is not whole.
func sent(error) error { return nil }

// asked reads what a query says, and holds the first error.
type asked struct {
	url.Values
	err error
}

func (a *asked) int(name string) int64 {
	text := a.Get(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && a.err == nil {
		a.err = mlaas.Invalid(name, "a number", text)
	}
	return n
}

func (a *asked) time(name string) (t time.Time) {
	text := a.Get(name)
	if text == "" {
		return t
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil && a.err == nil {
		a.err = mlaas.Invalid(name, "a time such as 2026-01-02T03:04:05Z", text)
	}
	return t
}

func (a *asked) step(name string) *int64 {
	if !a.Has(name) {
		return nil
	}
	n := a.int(name)
	return &n
}

func (s *Store) serveLines(w http.ResponseWriter, r *http.Request, k key) error {
	in := asked{Values: r.URL.Query()}
	q := LineQuery{Tenant: k.tenant, Run: k.run, Replica: in.Get("replica"), From: in.int("from"), Limit: int(in.int("limit")), Last: int(in.int("last"))}
	q.Since, q.Until, q.Kernel = in.time("since"), in.time("until"), in.Has("kernel")
	if in.err != nil {
		return in.err
	}
	if text := in.Get("grep"); text != "" {
		grep, err := regexp.Compile(text)
		if err != nil {
			return mlaas.Invalid("grep", "a regular expression (RE2)", text)
		}
		q.Grep = grep
	}
	lines, err := s.Lines(r.Context(), q)
	if err != nil {
		return err
	}
	return sent(writeLines(binaryAnswer(w), lines))
}

func (q *LineQuery) values() url.Values {
	v := url.Values{"from": {strconv.FormatInt(q.From, 10)}, "limit": {strconv.Itoa(q.Limit)}, "last": {strconv.Itoa(q.Last)}}
	if q.Replica != "" {
		v.Set("replica", q.Replica)
	}
	if q.Grep != nil {
		v.Set("grep", q.Grep.String())
	}
	if q.Kernel {
		v.Set("kernel", "")
	}
	for name, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			v.Set(name, t.Format(time.RFC3339Nano))
		}
	}
	return v
}

func (s *Store) servePoints(w http.ResponseWriter, r *http.Request, k key) error {
	in := asked{Values: r.URL.Query()}
	q := PointQuery{Tenant: k.tenant, Run: k.run, Replica: in.Get("replica"), Key: in.Get("key"), Buckets: int(in.int("buckets")), FromStep: in.step("from"), ToStep: in.step("to")}
	if in.err != nil {
		return in.err
	}
	curves, err := s.Points(r.Context(), q)
	if err != nil {
		return err
	}
	return sent(writeCurves(binaryAnswer(w), curves))
}

func (q *PointQuery) values() url.Values {
	v := url.Values{"buckets": {strconv.Itoa(q.Buckets)}, "replica": {q.Replica}, "key": {q.Key}}
	for name, step := range map[string]*int64{"from": q.FromStep, "to": q.ToStep} {
		if step != nil {
			v.Set(name, strconv.FormatInt(*step, 10))
		}
	}
	return v
}

// What a stream says, a byte at a time.
const (
	saysChanged = 'c'
	saysBeat    = 'b'
)

// serveChanged says at once that it listens, then each time that something
// changed; several changes may be one. It ends when Run does, or when the run
// is no longer served here.
func (s *Store) serveChanged(w http.ResponseWriter, r *http.Request, k key) error {
	beat := time.NewTimer(0)
	defer beat.Stop()
	out := http.NewResponseController(w)
	for first := true; ; first = false {
		changed, leave := s.Changed(k.tenant, k.run) // before it is said: what comes meanwhile is said next
		if err := s.look(r.Context(), k, toRead, func(*run) {}); err != nil {
			leave()
			if first {
				return err
			}
			return nil
		}
		for says := byte(saysChanged); says != 0; {
			_ = out.SetWriteDeadline(time.Now().Add(tellWithin)) // a test has no network to be slow
			_, err := w.Write([]byte{says})
			if err == nil {
				err = out.Flush()
			}
			if err != nil {
				leave()
				return nil // who listened has gone
			}
			says = 0
			beat.Reset(beatEvery)
			select {
			case <-r.Context().Done():
				leave()
				return nil
			case <-s.ended:
				leave()
				return nil
			case <-changed:
			case <-beat.C:
				says = saysBeat
			}
		}
		leave()
		beat.Reset(toldEvery)
		select {
		case <-r.Context().Done():
			return nil
		case <-beat.C:
		}
	}
}
