package bucket

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// A firm transport reads no body after it has answered. An ordinary one may: a
// server can answer before it has read everything, and then the same bytes
// would be read for the dead request and for the next try at once, or after
// their memory is another's.
type firm struct{ http.RoundTripper }

// RoundTrip is described at http.RoundTripper.
func (f firm) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return f.RoundTripper.RoundTrip(r)
	}
	b := &body{ReadCloser: r.Body, closed: make(chan struct{})}
	r = r.WithContext(r.Context()) // a copy, whose body is ours to change
	r.Body = b
	answer, err := f.RoundTripper.RoundTrip(r)
	if err == nil && answer.StatusCode/100 == 2 {
		// It has all of it, so the end is near; cut off there, the connection
		// would be lost.
		wait := time.NewTimer(time.Second)
		select {
		case <-b.closed:
		case <-wait.C:
		}
		wait.Stop()
	}
	b.cut()
	return answer, err
}

type body struct {
	io.ReadCloser
	mu     sync.Mutex // held while something is read
	over   bool
	once   sync.Once
	closed chan struct{}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, io.ErrClosedPipe
	}
	return b.ReadCloser.Read(p)
}

func (b *body) Close() error {
	b.once.Do(func() { close(b.closed) })
	b.cut()
	return nil // who made the bytes closes them
}

// cut returns when nobody reads, and nobody will.
func (b *body) cut() {
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
}
