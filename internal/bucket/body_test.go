package bucket

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// watched knows whether it is read when it must not be.
type watched struct {
	io.Reader
	over *atomic.Bool
	late *atomic.Int64
}

func (w watched) Read(p []byte) (int, error) {
	if w.over.Load() {
		w.late.Add(1)
	}
	return w.Reader.Read(p)
}

// No body is read once the answer is there, however early that was.
func TestFirm(t *testing.T) {
	early := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			io.CopyN(io.Discard, r.Body, 10)
			w.WriteHeader(http.StatusServiceUnavailable)
			w.(http.Flusher).Flush()
			<-early // and now it takes the rest
		}
		io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	var dialled http.Transport
	defer dialled.CloseIdleConnections()
	client := &http.Client{Transport: firm{&dialled}}
	var over atomic.Bool
	var late atomic.Int64
	for _, path := range []string{"/early", "/whole"} {
		over.Store(false)
		r, err := http.NewRequest(http.MethodPut, server.URL+path, watched{bytes.NewReader(make([]byte, 64<<20)), &over, &late})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		over.Store(true)
		if path == "/early" {
			close(early)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil && path == "/whole" {
			t.Error(err)
		}
		answer.Body.Close()
	}
	server.CloseClientConnections()
	if n := late.Load(); n > 0 {
		t.Errorf("the body was read %d times after the answer", n)
	}
}
