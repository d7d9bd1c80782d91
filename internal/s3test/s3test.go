// Package s3test runs a real S3 server, versitygw on a folder, for tests and
// benches. `make bin/versitygw` builds it.
package s3test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The owner of every server here.
const (
	AccessKey = "mlaas-test"
	SecretKey = "mlaas-test-secret"
	Region    = "us-east-1"
)

// A Server is one versitygw. Its methods are called by one at a time.
type Server struct {
	Dir    string // its buckets are folders in here; empty: a temporary one, which Close removes
	Binary string // empty: bin/versitygw of this repository
	Listen string // empty: a free port of this machine, which it keeps

	process *exec.Cmd
	ended   chan struct{} // closed when process is gone
	wrote   *os.File
	own     bool
}

// ErrAbsent says that there is no server to run.
var ErrAbsent = errors.New("there is no versitygw: run `make bin/versitygw`, which takes two minutes")

// Start runs a server for a test. Without the binary the test is skipped, and
// fails where CI is true.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: filepath.Join(t.TempDir(), "s3")}
	switch err := s.Start(); {
	case errors.Is(err, ErrAbsent) && os.Getenv("CI") != "true":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start runs the server and returns when it answers.
func (s *Server) Start() (err error) {
	if s.Binary == "" {
		_, here, _, _ := runtime.Caller(0)
		s.Binary = filepath.Join(filepath.Dir(here), "../../bin/versitygw")
	}
	if _, err := os.Stat(s.Binary); err != nil {
		return fmt.Errorf("%s: %w", s.Binary, ErrAbsent)
	}
	if s.Dir == "" {
		if s.Dir, err = os.MkdirTemp("", "mlaas-s3-"); err != nil {
			return err
		}
		s.own = true
	}
	if s.Listen == "" {
		if s.Listen, err = free(); err != nil {
			return err
		}
	}
	buckets := filepath.Join(s.Dir, "buckets")
	if err := os.MkdirAll(buckets, 0o700); err != nil {
		return err
	}
	if s.wrote, err = os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	// Attributes beside the files: a temporary folder may not have extended ones.
	s.process = exec.Command(s.Binary, "--port", s.Listen, "--access", AccessKey, "--secret", SecretKey, "--region", Region,
		"--quiet", "posix", "--sidecar", filepath.Join(s.Dir, "attributes"), buckets)
	if err := os.MkdirAll(filepath.Join(s.Dir, "attributes"), 0o700); err != nil {
		return err
	}
	s.process.Stdout, s.process.Stderr = s.wrote, s.wrote
	s.process.Dir = s.Dir
	s.process.SysProcAttr = withUs()
	started := make(chan error)
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		runtime.LockOSThread() // the signal comes when the thread that started it ends
		defer runtime.UnlockOSThread()
		started <- s.process.Start()
		_ = s.process.Wait() // how it ended is in its log
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := s.answers(20 * time.Second); err != nil {
		text, _ := os.ReadFile(s.wrote.Name())
		s.Kill()
		return fmt.Errorf("versitygw at %s: %w; it wrote: %s", s.Listen, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// free is an address that nobody listens at now.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// answers waits until the server answers a request, whatever it says.
func (s *Server) answers(most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(), nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err == nil {
			return answer.Body.Close()
		}
		select {
		case <-again.C:
		case <-s.ended:
			return fmt.Errorf("it ended: %s", s.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		}
	}
}

// URL is where the server answers, "http://127.0.0.1:PORT".
func (s *Server) URL() string { return "http://" + s.Listen }

// Bucket is the address of a place in a bucket, as s3.Open reads it, with the
// owner's keys. The bucket is made when it is opened.
func (s *Server) Bucket(name, prefix string) string {
	return fmt.Sprintf("s3://%s:%s@%s/%s?endpoint=%s&region=%s&create=true", AccessKey, SecretKey, name, prefix, s.URL(), Region)
}

// PID is the server's process.
func (s *Server) PID() int { return s.process.Process.Pid }

// Kill ends the server at once, as kill -9 does. Its data stays.
func (s *Server) Kill() {
	s.process.Process.Kill()
	<-s.ended
	s.wrote.Close()
}

// Stop freezes the server: connections stay and nothing answers.
// It returns when the server stands still.
func (s *Server) Stop() error {
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return stopped(s.PID())
}

// Cont lets a frozen server go on.
func (s *Server) Cont() error { return s.process.Process.Signal(syscall.SIGCONT) }

// Restart runs the server again, at the same address over the same data, after
// ending it if it runs.
func (s *Server) Restart() error {
	s.Kill()
	return s.Start()
}

// Close ends the server.
func (s *Server) Close() {
	s.Kill()
	if s.own {
		os.RemoveAll(s.Dir)
	}
}
