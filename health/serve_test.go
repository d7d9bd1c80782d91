package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Clients that keep their connections, and do not send again what they have
// sent, see no failure while a server drains: a request is answered, or it
// cannot be sent at all.
func TestDrain(t *testing.T) {
	defer goleak.VerifyNone(t)
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	follower := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /work", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
		<-time.After(700 * time.Millisecond) // longer than it takes to refuse, as work is
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /follow", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		<-follower
		fmt.Fprint(w, "go elsewhere")
	})
	probe := &Prober{}
	s := &Server{HTTP: &http.Server{Handler: mux}, Listener: listener, Health: probe, Idle: 300 * time.Millisecond, Leave: func(context.Context) { close(follower) }}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()

	url := "http://" + listener.Addr().String()
	var all sync.WaitGroup
	var answered, late atomic.Int64
	for i := range 32 {
		all.Go(func() {
			transport := &http.Transport{DisableKeepAlives: i%4 == 3} // some dial for each request
			defer transport.CloseIdleConnections()
			path := "/work"
			if i%8 == 0 {
				path = "/slow"
			}
			for n := 0; ; n++ {
				sent := false
				body := fmt.Appendf(nil, "%d/%d", i, n)
				trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
				req, err := http.NewRequestWithContext(trace, "POST", url+path, io.NopCloser(bytes.NewReader(body))) // a body that cannot be sent again
				if err != nil {
					t.Error(err)
					return
				}
				res, err := transport.RoundTrip(req)
				if err != nil {
					if sent || !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("client %d, request %d: %v (sent: %v)", i, n, err, sent)
					}
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || !bytes.Equal(got, body) {
					t.Errorf("client %d, request %d: %s, %q, %v", i, n, res.Status, got, err)
				}
				answered.Add(1)
				if probe.Draining() {
					late.Add(1)
				}
			}
		})
	}
	res, err := http.Get(url + "/follow")
	if err != nil {
		t.Fatal(err)
	}
	for answered.Load() < 500 {
		<-time.After(time.Millisecond)
	}
	began := time.Now()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	all.Wait()
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(text) != "go elsewhere" {
		t.Errorf("who followed read %q, %v", text, err)
	}
	if !probe.Draining() || late.Load() == 0 {
		t.Errorf("ready while it drained, or nobody was served then (%d)", late.Load())
	}
	if took > 5*time.Second {
		t.Errorf("it took %v to drain", took)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	t.Logf("%d answers, %d of them while it drained, in %v", answered.Load(), late.Load(), took)
}

// What does not end is cut off, in time.
func TestDrainCutsOff(t *testing.T) {
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{})
	s := &Server{HTTP: &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})}, Listener: listener, Within: 400 * time.Millisecond}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	failed := make(chan error, 1)
	go func() {
		res, err := http.Get("http://" + listener.Addr().String())
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-began
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for ever")
	}
	if err := <-failed; err == nil {
		t.Error("the request that never ends was answered")
	}
}
