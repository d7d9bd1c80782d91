package redistest

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// say sends one line and returns the first line of the answer.
func say(t *testing.T, s *Server, lines ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	answer := make([]byte, 4096)
	n := 0
	for _, l := range append([]string{"AUTH " + Password}, lines...) {
		if _, err := c.Write([]byte(l + "\r\n")); err != nil {
			t.Fatal(err)
		}
		if n, err = c.Read(answer); err != nil {
			t.Fatal(err)
		}
	}
	return strings.TrimSpace(string(answer[:n]))
}

// What was written is there after kill -9, and the address stays.
func TestKillRestart(t *testing.T) {
	s := Start(t, &Server{})
	if got := say(t, s, "SET a 1"); got != "+OK" {
		t.Fatal(got)
	}
	addr, pid := s.Addr(), s.PID()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != addr || s.PID() == pid {
		t.Errorf("it is process %d at %s, want another than %d at %s", s.PID(), s.Addr(), pid, addr)
	}
	if got := say(t, s, "GET a"); !strings.HasSuffix(got, "1") {
		t.Errorf("a is %q", got)
	}
	s.Close()
	if s.PID() != 0 {
		t.Error("a process is left")
	}
}

// A Sentinel makes the replica the primary when that is killed.
func TestSentinel(t *testing.T) {
	primary := Start(t, &Server{})
	replica := Start(t, &Server{Primary: primary})
	if got := say(t, primary, "SET a 1", "WAIT 1 10000"); got != ":1" {
		t.Fatalf("WAIT says %q", got)
	}
	sentinel := Start(t, &Server{Watches: primary})
	if err := sentinel.Await("+slave slave"); err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	if err := sentinel.Await("+switch-master"); err != nil {
		t.Fatal(err)
	}
	if got := say(t, replica, "SET b 1"); got != "+OK" {
		t.Errorf("the new primary says %q", got)
	}
}

func TestStartFails(t *testing.T) {
	Need(t)
	s := &Server{Settings: map[string]string{"no-such-setting": "1"}}
	if err := s.Start(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("start: %v, want what is wrong", err)
	}
	t.Setenv("PATH", "")
	os.Unsetenv("PATH")
	if err := s.Start(t.TempDir()); err == nil || !strings.Contains(err.Error(), "apt-get install redis-server") {
		t.Errorf("start: %v, want how to get one", err)
	}
}
