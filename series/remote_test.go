package series_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// afar reads what is in the place of s, whose owner is asked through client.
func afar(s *series.Store, client *http.Client, url string) *series.Remote {
	return &series.Remote{Client: client, DB: s.DB, Blob: s.Blob, Objects: s.Objects,
		Serves: func(context.Context, string) (string, error) { return url, nil }}
}

// From afar everything is as it is near by.
func TestRemote(t *testing.T) {
	s := onObjects.open(t, &series.Store{SegmentBytes: 100_000})
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
	server := httptest.NewServer(series.Handler(s))
	defer server.Close()
	r := afar(s, server.Client(), server.URL)
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
		"since": func(r series.Reader) (any, error) {
			return r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run", Since: began.Add(2 * time.Second), Until: began.Add(3 * time.Second)})
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
	s := onObjects.open(t, &series.Store{})
	add(t, s, logFrame(fence("worker-0", 1), 1, "a", "b"))
	good := series.Handler(s)
	var whole []byte
	for name, h := range map[string]http.HandlerFunc{
		"another server": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", http.StatusBadGateway) },
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
		r := afar(s, server.Client(), server.URL)
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
		r := afar(s, server.Client(), server.URL)
		if got, err := r.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "run"}); err == nil {
			t.Errorf("bit of byte %d: %s", i, short(got))
		}
		server.Close()
	}
}

// A watch wakes for each change, goes on where the run is served next, and is
// closed when nobody waits any more.
func TestRemoteChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := onObjects.open(t, &series.Store{})
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
		r := afar(s, client, "")
		r.Serves = func(context.Context, string) (string, error) {
			asked.Add(1)
			return found.Load().(string), nil
		}
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
		time.Sleep(time.Minute)
		if n := asked.Load(); n > 0 {
			t.Errorf("who serves a run that has said nothing is asked %d times", n)
		}
		add(t, s, logFrame(fence("worker-0", 1), 1, "a"))
		wakes("its first line", leave, c, 100*time.Millisecond)
		time.Sleep(time.Second)
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
			add(t, s, logFrame(fence("worker-0", 1), i+2, "a"))
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

// With all who append gone, what was said stays readable, sealed or not, and
// can be removed; where one comes back, it goes on.
func TestNobodyServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := onObjects.open(t, &series.Store{Shard: "here"})
		there := onObjects.open(t, &series.Store{Shard: "there", Objects: here.Objects, DB: here.DB, Blob: here.Blob})
		r := afar(here, nil, "")
		w, other := fence("worker-0", 1), fence("worker-0", 1)
		other.Run = "other"
		add(t, here, logFrame(w, 1, "sealed"), pointFrame(w, 1, pt("x", 1, 1)))
		seal(t, here)
		add(t, here, logFrame(w, 2, "unsealed"), pointFrame(w, 2, pt("x", 2, 2)))
		add(t, there, logFrame(other, 1, "elsewhere"))
		read := func(id mlaas.RunID) string {
			t.Helper()
			got, err := r.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: id})
			if err != nil {
				t.Fatal(err)
			}
			return short(got)
		}
		for range 2 { // from what was held, too
			if got := read("run"); got != "1:worker-0/1:sealed 2:worker-0/2:unsealed" {
				t.Errorf("it has %s", got)
			}
		}
		curves, err := r.Points(t.Context(), series.PointQuery{Tenant: tenant, Run: "run"})
		if err != nil || drawn(curves) != "worker-0.x 1=1 2=2" {
			t.Errorf("the curve is %s, %v", drawn(curves), err)
		}
		if log, metric, err := r.LastCursor(t.Context(), tenant, "run"); err != nil || log != 2 || metric != 2 {
			t.Errorf("the last are %d, %d, %v", log, metric, err)
		}
		if seq, err := r.LastSeq(t.Context(), tenant, "run", "worker-0"); err != nil || seq != 2 {
			t.Errorf("the last is %d, %v", seq, err)
		}
		if got := read("other"); got != "1:worker-0/1:elsewhere" {
			t.Errorf("that of another shard has %s", got)
		}
		if got := read("nothing"); got != "" {
			t.Errorf("what has said nothing has %s", got)
		}
		add(t, here, logFrame(w, 3, "more"))
		if got := read("run"); got != "1:worker-0/1:sealed 2:worker-0/2:unsealed 3:worker-0/3:more" {
			t.Errorf("with one more object it has %s", got)
		}
		seal(t, here)
		if got := read("run"); got != "1:worker-0/1:sealed 2:worker-0/2:unsealed 3:worker-0/3:more" {
			t.Errorf("sealed it has %s", got)
		}
		if err := here.Release(t.Context(), tenant, "run"); err != nil {
			t.Fatal(err)
		}
		if k, err := r.Kept(t.Context(), tenant, "run"); err != nil || k.Lines != 3 || k.Points != 2 {
			t.Errorf("released it keeps %+v, %v", k, err)
		}
		add(t, here, logFrame(fence("worker-0", 2), 1, "again"))
		if got := read("run"); !strings.HasSuffix(got, "4:worker-0/4:again") {
			t.Errorf("taken again it has %s", got)
		}
		named := 0
		if err := r.Blobs(t.Context(), func(mlaas.Digest) error { named++; return nil }); err != nil || named != 2 {
			t.Errorf("%d blobs are named, %v", named, err)
		}
		before, err := r.Usage(t.Context())
		if err != nil || before < 100 {
			t.Errorf("it uses %d, %v", before, err)
		}
		freed, err := r.Trim(t.Context(), before-1, func(_ mlaas.Tenant, id mlaas.RunID) bool { return id == "run" })
		if after, err2 := r.Usage(t.Context()); err != nil || err2 != nil || freed <= 0 || after != before-freed {
			t.Errorf("it frees %d of %d, %v, %v", freed, before, err, err2)
		}
		if got := read("run"); !strings.HasPrefix(got, "3:/0:3 lines are not here any more") || !strings.HasSuffix(got, "4:worker-0/4:again") {
			t.Errorf("trimmed it has %s", got)
		}
		// The owner was there all the time, and finds what was done behind it.
		add(t, here, logFrame(fence("worker-0", 2), 2, "and again"))
		seal(t, here)
		if got := short(lines(t, here, series.LineQuery{})); !strings.HasPrefix(got, "3:/0:3 lines are not here any more") || !strings.HasSuffix(got, "5:worker-0/5:and again") {
			t.Errorf("its owner says %s", got)
		}
		add(t, here, logFrame(fence("worker-0", 2), 3, "unsealed, deleted"))
		if err := r.Delete(t.Context(), tenant, "run"); err != nil {
			t.Fatal(err)
		}
		if got := read("run"); got != "" {
			t.Errorf("deleted it has %s", got)
		}
		seal(t, here)
		if got := short(lines(t, here, series.LineQuery{})); got != "" {
			t.Errorf("deleted it has %s", got)
		}
		// The record of a lease may name one who died without a word.
		dead := afar(there, &http.Client{Transport: direct{func() *series.Store { return nil }}}, "http://dead")
		for since := time.Now(); ; time.Sleep(time.Second) {
			got, err := dead.Lines(t.Context(), series.LineQuery{Tenant: tenant, Run: "other"})
			if took := time.Since(since); errors.Is(err, mlaas.ErrUnavailable) && took < 11*time.Second {
				continue
			} else if err != nil || took < 10*time.Second || short(got) != "1:worker-0/1:elsewhere" {
				t.Errorf("of one that is dead, after %s: %s, %v", took, short(got), err)
			}
			break
		}
		time.Sleep(time.Hour) // what is held without use is let go
	})
}

// A booster after another dies without a word, each one goes on as a zombie,
// and who follows a run hears every line once and in order.
func TestFollowFailOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, owners = 40, 6
		place := onObjects.open(t, &series.Store{SegmentBytes: 3000})
		var owner atomic.Pointer[series.Store]
		owner.Store(place)
		client := &http.Client{Transport: direct{func() *series.Store { return owner.Load() }}}
		r := afar(place, client, "")
		r.Serves = func(context.Context, string) (string, error) {
			if owner.Load() == nil {
				return "", nil
			}
			return "http://owner", nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		followed := make(chan string, 1)
		go func() {
			var got []string
			for next := int64(1); next <= each*owners; {
				changed, leave := r.Changed(tenant, "run")
				lines, err := r.Lines(ctx, series.LineQuery{Tenant: tenant, Run: "run", From: next, Limit: 7})
				for _, l := range lines {
					if l.Cursor != next || l.Text != fmt.Sprint(next) {
						t.Errorf("%d comes where %d is next: %s", l.Cursor, next, l.Text)
					}
					got = append(got, l.Text)
					next++
				}
				var retry <-chan time.Time
				if errors.Is(err, mlaas.ErrUnavailable) {
					retry = time.After(time.Second)
				} else if err != nil {
					t.Error(err)
				}
				if len(lines) == 0 {
					select {
					case <-changed:
					case <-retry:
					case <-ctx.Done():
						next = each*owners + 1
					}
				}
				leave()
			}
			followed <- strings.Join(got, " ")
		}()
		w := fence("worker-0", 1)
		acked := int64(0)
		for turn := range owners {
			s := place
			if turn > 0 {
				s = like(place)
				if err := s.Open(); err != nil {
					t.Fatal(err)
				}
				owner.Store(s)
			}
			for range each {
				time.Sleep(10 * time.Millisecond)
				add(t, s, logFrame(w, acked+1, fmt.Sprint(acked+1)))
				acked++
				if acked%15 == 0 {
					seal(t, s)
				}
			}
			owner.Store(nil)
			// The reply to its last object is lost; the next owner finds it.
			s.Objects.(*bucket).fail("put", true)
			if err := s.Append(ctx, logFrame(w, acked+1, fmt.Sprint(acked+1))); turn < owners-1 && !errors.Is(err, mlaas.ErrUnavailable) {
				t.Errorf("it says %v", err)
			}
			s.Objects.(*bucket).fail("", false)
			time.Sleep(time.Duration(turn) * 3 * time.Second)
			if s != place {
				defer s.Close()
			}
		}
		select {
		case got := <-followed:
			if n := len(strings.Fields(got)); n < each*owners || n > each*owners+1 {
				t.Errorf("%d lines are heard", n)
			}
		case <-time.After(time.Hour):
			t.Error("not every line is heard")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// direct is a network without wires: it asks who serves now, and cuts what is
// under way when somebody else does.
type direct struct{ owner func() *series.Store }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	s := d.owner()
	if s == nil {
		return nil, errors.New("connection refused")
	}
	ctx, cancel := context.WithCancel(req.Context())
	near, far := io.Pipe()
	out := &answerTo{head: http.Header{}, body: far, begun: make(chan struct{})}
	go func() {
		series.Handler(s).ServeHTTP(out, req.WithContext(ctx))
		out.WriteHeader(200)
		far.Close()
	}()
	go func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				near.CloseWithError(ctx.Err())
				return
			case <-tick.C:
				if d.owner() != s {
					cancel()
				}
			}
		}
	}()
	<-out.begun
	return &http.Response{StatusCode: out.status, Header: out.head, Body: closing{near, cancel}, Request: req}, nil
}

type closing struct {
	io.ReadCloser
	cancel func()
}

func (c closing) Close() error { c.cancel(); return c.ReadCloser.Close() }

type answerTo struct {
	head   http.Header
	status int
	body   io.Writer
	begun  chan struct{}
}

func (a *answerTo) Header() http.Header { return a.head }
func (a *answerTo) Flush()              {}
func (a *answerTo) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
		close(a.begun)
	}
}
func (a *answerTo) Write(b []byte) (int, error) { a.WriteHeader(200); return a.body.Write(b) }
