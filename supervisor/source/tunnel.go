package source

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/bucket"
)

// A tunnel is an HTTP proxy for one program: it makes the connections of a
// program that would not ask us where it may go.
type tunnel struct {
	server *http.Server
	at     net.Listener
	dial   bucket.Dial
	word   string       // who knows it may use us
	left   atomic.Int64 // bytes that may still come

	mu  sync.Mutex
	why error // the last reason why a connection was not made or was ended
	all sync.WaitGroup
}

// openTunnel lets so many bytes come.
func openTunnel(dial bucket.Dial, most int64) (*tunnel, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tunnel{at: l, dial: bucket.Lively(dial, bucket.Silence), word: rand.Text()}
	t.left.Store(most + most/8 + 1<<20) // packed it may be a little more
	t.server = &http.Server{Handler: t, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	t.all.Go(func() { _ = t.server.Serve(l) }) // until Close
	return t, nil
}

// URL is what the program is told.
func (t *tunnel) URL() string {
	u := url.URL{Scheme: "http", User: url.UserPassword("git", t.word), Host: t.at.Addr().String()}
	return u.String()
}

// refusal is why the last connection was not made or was ended, if it was us.
func (t *tunnel) refusal() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

func (t *tunnel) refuse(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why = err
}

// Close ends every connection. It may be called on nil.
func (t *tunnel) Close() {
	if t == nil {
		return
	}
	t.server.Close()
	t.all.Wait()
}

func (t *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.all.Add(1)
	defer t.all.Done()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("git:"+t.word))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 {
		w.Header().Set("Proxy-Authenticate", `Basic realm="mlaas"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	there, err := t.dial(ctx, "tcp", r.Host)
	if err != nil {
		if errors.Is(err, mlaas.ErrForbidden) {
			t.refuse(err)
		}
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	t.refuse(nil)
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	t.all.Go(func() {
		io.Copy(there, buffered)
		there.Close()
	})
	if _, err := io.Copy(here, &metered{there, &t.left}); errors.Is(err, mlaas.ErrTooLarge) {
		t.refuse(err)
	}
}

// metered ends when more came than may.
type metered struct {
	r    io.Reader
	left *atomic.Int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.left.Add(-int64(n)) < 0 {
		return 0, fmt.Errorf("the repository is too large to be fetched: %w", mlaas.ErrTooLarge)
	}
	return n, err
}
