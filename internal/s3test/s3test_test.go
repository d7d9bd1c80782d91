package s3test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// A server answers, keeps its address when it is killed and run again, and does
// not answer while it is frozen.
func TestServer(t *testing.T) {
	s := Start(t)
	short := &http.Client{Timeout: 300 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func() (string, error) {
		r, err := short.Get(s.URL())
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		return string(body), err
	}
	if said, err := ask(); err != nil || said == "" {
		t.Fatalf("it says %q, %v; want a word about who asks", said, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if said, err := ask(); err == nil {
		t.Errorf("frozen it says %q", said)
	}
	if err := s.Cont(); err != nil {
		t.Fatal(err)
	}
	at := s.URL()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); err != nil || s.URL() != at {
		t.Errorf("after a restart at %s, was %s: %v", s.URL(), at, err)
	}
}

func TestAbsent(t *testing.T) {
	s := &Server{Binary: "/nowhere", Dir: t.TempDir()}
	if err := s.Start(); !errors.Is(err, ErrAbsent) {
		t.Errorf("it says %v, want %v", err, ErrAbsent)
	}
}
