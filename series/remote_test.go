package series_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// distance serves s and returns who reads it from afar.
func distance(t *testing.T, s *series.Store) (*series.Remote, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(series.Handler(s))
	t.Cleanup(server.Close)
	return &series.Remote{Client: server.Client(), Find: at(server.URL)}, server
}

func at(url string) func(context.Context, mlaas.Tenant, mlaas.RunID) (string, error) {
	return func(context.Context, mlaas.Tenant, mlaas.RunID) (string, error) { return url, nil }
}

// From afar everything is as it is near by.
func testRemote(t *testing.T, on medium) {
	s := on.open(t, &series.Store{SegmentBytes: 100_000})
	w0, w1 := fence("worker-0", 1), fence("worker-1", 2)
	var many []mlaas.Point
	for i := range int64(20_000) {
		many = append(many, pt([]string{"loss", "acc"}[i%2], i/2, math.Sin(float64(i))))
	}
	many[3].Value, many[5].Value = mlaas.Number(math.NaN()), mlaas.Number(math.Inf(-1))
	add(t, s, logFrame(w0, 1, "a", strings.Repeat("b", mlaas.MaxLine), ""), logFrame(w1, 1, "\x1b[31mred", "é"), pointFrame(w0, 1, many...))
	seal(t, s)
	late := logFrame(w1, 3, "unsealed")
	late.Frame.Lines[0].Stream, late.Frame.Lines[0].Time, late.Frame.Lines[0].Part = "stderr", time.Unix(-5, 7), 3
	add(t, s, late)
	r, _ := distance(t, s)
	ctx := t.Context()
	from, to := int64(17), int64(4000)
	for name, f := range map[string]func(series.Reader) (any, error){
		"lines": func(r series.Reader) (any, error) { return r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run"}) },
		"some": func(r series.Reader) (any, error) {
			return r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run", Replica: "worker-1", From: 2, Limit: 1})
		},
		"grep": func(r series.Reader) (any, error) {
			return r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run", Last: 2, Grep: regexp.MustCompile("[+&r]e")})
		},
		"no lines": func(r series.Reader) (any, error) {
			return r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "other"})
		},
		"curves": func(r series.Reader) (any, error) {
			return r.Points(ctx, series.PointQuery{Tenant: tenant, Run: "run"})
		},
		"buckets": func(r series.Reader) (any, error) {
			return r.Points(ctx, series.PointQuery{Tenant: tenant, Run: "run", Key: "loss", Replica: "worker-0", Buckets: 9000, FromStep: &from, ToStep: &to})
		},
		"arrived": func(r series.Reader) (any, error) { return r.RunPoints(ctx, tenant, "run", 3, 9_999) },
		"keys":    func(r series.Reader) (any, error) { return r.Keys(ctx, tenant, "run") },
		"kept":    func(r series.Reader) (any, error) { return r.Kept(ctx, tenant, "run") },
		"seq":     func(r series.Reader) (any, error) { return r.LastSeq(ctx, tenant, "run", "worker-1") },
		"cursors": func(r series.Reader) (any, error) {
			log, metric, err := r.LastCursor(ctx, tenant, "run")
			return [2]int64{log, metric}, err
		},
		"traversal": func(r series.Reader) (any, error) { return r.Keys(ctx, tenant, "../run") },
	} {
		want, wantErr := f(s)
		got, err := f(r)
		if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(err) != fmt.Sprint(wantErr) || reflect.TypeOf(got) != reflect.TypeOf(want) {
			t.Errorf("%s: it is %.300v, %v, want %.300v, %v", name, got, err, want, wantErr)
		}
		if wantErr != nil && mlaas.KindOf(err) != mlaas.KindOf(wantErr) {
			t.Errorf("%s: the kind is %v", name, mlaas.KindOf(err))
		}
	}
	if err := r.Delete(ctx, tenant, "run"); err != nil {
		t.Fatal(err)
	}
	if log, _, err := s.LastCursor(ctx, tenant, "run"); err != nil || log != 0 {
		t.Errorf("deleted it has %d lines, %v", log, err)
	}
}

// What goes wrong on the way is unavailable, and nothing is taken for an
// answer that is not a whole one.
func TestRemoteFails(t *testing.T) {
	s := open(t, &series.Store{})
	add(t, s, logFrame(fence("worker-0", 1), 1, "a", "b"))
	good := series.Handler(s)
	var whole []byte
	for name, h := range map[string]http.HandlerFunc{
		"another server": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", 502) },
		"cut off": func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			good.ServeHTTP(rec, r)
			whole = rec.Body.Bytes()
			w.Write(whole[:len(whole)-5])
		},
		"hung up": func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		server := httptest.NewServer(h)
		r := &series.Remote{Client: server.Client(), Find: at(server.URL)}
		if got, err := r.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		server.Close()
		if _, err := r.Keys(t.Context(), tenant, "run"); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("%s, and gone: %v", name, err)
		}
	}
	for i := range whole { // a bit that flips on the way is noticed
		flipped := append([]byte(nil), whole...)
		flipped[i] ^= 1
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(flipped) }))
		r := &series.Remote{Client: server.Client(), Find: at(server.URL)}
		if got, err := r.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); err == nil {
			t.Errorf("bit of byte %d: %s", i, short(got))
		}
		server.Close()
	}
}

// Of a run that nobody ever served there is nothing to read, and that is no
// failure: it may have been stopped before it began.
func TestRemoteSilent(t *testing.T) {
	find := func(url string, err error) *series.Remote {
		return &series.Remote{Find: func(context.Context, mlaas.Tenant, mlaas.RunID) (string, error) { return url, err }}
	}
	silent := find("", fmt.Errorf("it has said nothing: %w", mlaas.ErrNotFound))
	if lines, err := silent.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); len(lines) > 0 || err != nil {
		t.Errorf("lines: %v, %v", lines, err)
	}
	if keys, err := silent.Keys(t.Context(), tenant, "run"); len(keys) > 0 || err != nil {
		t.Errorf("keys: %v, %v", keys, err)
	}
	if _, err := find("", nil).Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("one that somebody served, and nobody does now: %v", err)
	}
}

// A watch wakes for each change, goes on where the run is served next, and is
// closed when nobody waits any more.
func TestRemoteChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &series.Store{})
		ctx, cancel := context.WithCancel(t.Context())
		serve := func() (stop func(), dial func(context.Context, string, string) (net.Conn, error), streams *atomic.Int32) {
			streams = new(atomic.Int32)
			network := make(pipes)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				streams.Add(1)
				defer streams.Add(-1)
				series.Handler(s).ServeHTTP(w, r)
			})}
			ended := make(chan struct{})
			go func() { server.Serve(network); close(ended) }()
			return func() { close(network); server.Close(); <-ended }, network.dial, streams
		}
		stop, dial, streams := serve()
		var found atomic.Value
		found.Store("http://here")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, n, a string) (net.Conn, error) { return dial(ctx, n, a) }}}
		var asked atomic.Int32
		r := &series.Remote{Client: client, Find: func(context.Context, mlaas.Tenant, mlaas.RunID) (string, error) {
			asked.Add(1)
			return found.Load().(string), nil
		}}
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		wakes := func(what string, leave func(), c <-chan struct{}, within time.Duration) {
			t.Helper()
			select {
			case <-c:
			case <-time.After(within):
				t.Errorf("%s: nobody is woken within %s", what, within)
			}
			leave()
		}
		c, leave := r.Changed(tenant, "run")
		wakes("it listens now", leave, c, time.Second)
		for i := range int64(3) {
			one, leaveOne := r.Changed(tenant, "run")
			two, leaveTwo := r.Changed(tenant, "run")
			synctest.Wait()
			time.Sleep(time.Minute) // beats are no news
			select {
			case <-one:
				t.Error("it is woken though nothing changed")
			default:
			}
			add(t, s, logFrame(fence("worker-0", 1), i+1, "a"))
			wakes("a line", leaveOne, one, time.Second)
			wakes("the same line", leaveTwo, two, time.Second)
		}
		if n := streams.Load(); n != 1 {
			t.Errorf("there are %d streams", n)
		}
		c, leave = r.Changed(tenant, "run")
		found.Store("")
		stop()
		wakes("who served it goes", leave, c, time.Second)
		c, leave = r.Changed(tenant, "run")
		asked.Store(0)
		time.Sleep(time.Minute)
		if n := asked.Load(); n > 20 {
			t.Errorf("it is asked %d times in a minute who serves it", n)
		}
		stop, dial, streams = serve()
		found.Store("http://there")
		wakes("somebody serves it again", leave, c, 10*time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := streams.Load(); n != 0 {
			t.Errorf("nobody waits, and %d streams are open", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stop()
		client.CloseIdleConnections()
	})
}

// pipes is a network in memory.
type pipes chan net.Conn

func (p pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	defer func() { _ = recover() }() // the server is gone
	select {
	case p <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }
