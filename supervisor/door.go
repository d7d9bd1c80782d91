package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
)

// A Door is what a supervisor reaches of the platform: a line to talk over,
// and bytes by digest. *HTTPDoor is the one that is used.
type Door interface {
	// Dial begins a conversation.
	Dial(ctx context.Context) (mlaas.Line[mlaas.Up, mlaas.Down], error)

	// Stream goes to where somebody waits for the stream of this ID. The context
	// that it returns ends with the stream.
	Stream(ctx context.Context, id string) (*stream.Stream, context.Context, error)

	// Get opens the bytes named d, or mlaas.ErrNotFound.
	Get(ctx context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error)

	// Has reports whether the bytes named d are there.
	Has(ctx context.Context, d mlaas.Digest) (bool, error)

	// Put stores bytes whose digest is d.
	Put(ctx context.Context, d mlaas.Digest, r io.Reader, size int64) error
}

// An HTTPDoor reaches a door by HTTP, over TCP or a unix socket.
type HTTPDoor struct {
	Address string // unix:///path, http://host:port or https://host:port, with or without a path
	Token   string
	CA      []byte // certificates in PEM by which an https door is known; empty: the system's

	once   sync.Once
	client *http.Client
	base   string
}

func (d *HTTPDoor) start() {
	t := &http.Transport{
		MaxIdleConns:          16,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       20 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
	}
	d.base = strings.TrimSuffix(d.Address, "/")
	if path, ok := strings.CutPrefix(d.Address, "unix://"); ok {
		d.base = "http://door"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var n net.Dialer
			return n.DialContext(ctx, "unix", path)
		}
	}
	if len(d.CA) > 0 {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(d.CA)
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	d.client = &http.Client{Transport: t}
}

// Dial begins a conversation over a WebSocket.
func (d *HTTPDoor) Dial(ctx context.Context) (mlaas.Line[mlaas.Up, mlaas.Down], error) {
	d.once.Do(d.start)
	c, answer, err := websocket.Dial(ctx, d.base+"/door/line", &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPClient: d.client,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + d.Token}},
	})
	if err != nil {
		if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("the door says %s: %w", answer.Status, kind(answer.StatusCode))
		}
		return nil, err
	}
	c.SetReadLimit(64 << 20)
	life, end := context.WithCancel(context.Background())
	w := &webLine{c: c, end: end}
	go w.keep(life)
	return w, nil
}

// Stream goes to where somebody waits for a stream.
func (d *HTTPDoor) Stream(ctx context.Context, id string) (*stream.Stream, context.Context, error) {
	d.once.Do(d.start)
	within, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	c, answer, err := websocket.Dial(within, d.base+"/door/stream/"+url.PathEscape(id), &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPClient: d.client,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + d.Token}},
	})
	if err != nil {
		if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
			return nil, nil, fmt.Errorf("the door says %s: %w", answer.Status, kind(answer.StatusCode))
		}
		return nil, nil, err
	}
	s, life := stream.Over(ctx, c)
	return s, life, nil
}

// A webLine is a conversation over a WebSocket.
type webLine struct {
	c   *websocket.Conn
	end context.CancelFunc
}

// keep finds out when the other side is gone without a word: a machine that
// lost its power closes nothing.
func (w *webLine) keep(ctx context.Context) {
	t := time.NewTicker(20 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		ping, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := w.c.Ping(ping)
		cancel()
		if err != nil {
			w.c.CloseNow()
			return
		}
	}
}

func (w *webLine) Send(ctx context.Context, m mlaas.Up) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return w.c.Write(ctx, websocket.MessageText, data)
}

func (w *webLine) Receive(ctx context.Context) (m mlaas.Down, err error) {
	_, data, err := w.c.Read(ctx)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

func (w *webLine) Close() error {
	w.end()
	return w.c.Close(websocket.StatusNormalClosure, "")
}

// Get opens the bytes named dig, or mlaas.ErrNotFound.
func (d *HTTPDoor) Get(ctx context.Context, dig mlaas.Digest, offset int64) (io.ReadCloser, error) {
	var h http.Header
	if offset > 0 {
		h = http.Header{"Range": {fmt.Sprintf("bytes=%d-", offset)}}
	}
	answer, err := d.ask(ctx, http.MethodGet, dig, h, nil, 0)
	if err != nil {
		return nil, err
	}
	if offset > 0 && answer.StatusCode == http.StatusOK { // it does not know ranges
		if _, err := io.CopyN(io.Discard, answer.Body, offset); err != nil {
			answer.Body.Close()
			return nil, err
		}
	}
	return answer.Body, nil
}

// Has reports whether the bytes named dig are there.
func (d *HTTPDoor) Has(ctx context.Context, dig mlaas.Digest) (bool, error) {
	answer, err := d.ask(ctx, http.MethodHead, dig, nil, nil, 0)
	if errors.Is(err, mlaas.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	answer.Body.Close()
	return true, nil
}

// Put stores bytes whose digest is dig.
func (d *HTTPDoor) Put(ctx context.Context, dig mlaas.Digest, r io.Reader, size int64) error {
	answer, err := d.ask(ctx, http.MethodPut, dig, http.Header{"Content-Type": {"application/octet-stream"}}, r, size)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection is used again
	return answer.Body.Close()
}

func (d *HTTPDoor) ask(ctx context.Context, method string, dig mlaas.Digest, h http.Header, body io.Reader, size int64) (*http.Response, error) {
	d.once.Do(d.start)
	if body != nil && size == 0 {
		body = http.NoBody
	}
	r, err := http.NewRequestWithContext(ctx, method, d.base+"/door/blob/"+url.PathEscape(string(dig)), body)
	if err != nil {
		return nil, err
	}
	if h != nil {
		r.Header = h
	}
	r.ContentLength = size
	r.Header.Set("Authorization", "Bearer "+d.Token)
	answer, err := d.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", mlaas.ErrUnavailable, err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	answer.Body.Close()
	return nil, fmt.Errorf("%s %s: %s %s: %w", method, dig, answer.Status, strings.TrimSpace(string(text)), kind(answer.StatusCode))
}

// kind is the failure that an HTTP status stands for.
func kind(status int) error {
	for _, k := range mlaas.Kinds {
		if k.Status == status {
			return k
		}
	}
	if status/100 == 5 {
		return mlaas.ErrUnavailable
	}
	return mlaas.ErrInternal
}
