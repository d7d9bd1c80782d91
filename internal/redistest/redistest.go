// Package redistest runs real Redis servers for tests, benches and the torture:
// each in a folder of its own, on loopback, with settings that lose nothing,
// and with the hands to kill, pause and restart it.
//
// It waits for what a server writes in its log, and never for time to pass.
package redistest

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Password is what a server asks for unless it was given another.
const Password = "redistest"

// Binary is the program that is run; Debian's package redis-server has it.
const Binary = "redis-server"

const patience = 20 * time.Second // for a line in a log

// A Server is one redis-server process, or one Sentinel. Fill in what differs
// from the zero value, then call Start.
type Server struct {
	// Settings are directives of redis.conf besides the safe ones, or in their
	// place, such as "maxmemory": "100mb". An empty value leaves one out.
	Settings map[string]string
	Password string  // empty: the one of this package; "-": none
	Primary  *Server // not nil: this one is a replica of it
	Watches  *Server // not nil: this one is a Sentinel over it
	Quorum   int     // of a Sentinel; 0: 1
	Port     int     // 0: a free one, kept from the first Start on

	Dir string // set by Start

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{} // closed when the process is gone
	log     *log
}

// Master is what Sentinels call the servers that they watch.
const Master = "mlaas"

// Have reports whether there is a redis-server to run; the error says how to
// get one.
func Have() error {
	if _, err := exec.LookPath(Binary); err != nil {
		return fmt.Errorf("there is no %s here (%w): apt-get install redis-server", Binary, err)
	}
	return nil
}

// Need skips a test where there is no redis-server, or fails it where there
// has to be one: with CI=true.
func Need(t testing.TB) {
	t.Helper()
	if err := Have(); err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
}

// Start starts a server with these settings for a test, in a temporary folder,
// and ends it with the test.
func Start(t testing.TB, s *Server) *Server {
	t.Helper()
	Need(t)
	if err := s.Start(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts the server with its data in dir, which is made, and returns
// when it answers. What a former process left there is read.
func (s *Server) Start(dir string) error {
	if err := Have(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s.Dir = dir
	for try := 0; ; try++ {
		chosen := s.Port != 0
		if !chosen {
			port, err := freePort()
			if err != nil {
				return err
			}
			s.Port = port
		}
		err := s.run()
		if err == nil || chosen || try == 5 || !errors.Is(err, errInUse) {
			return err
		}
		s.Port = 0 // somebody took it between the choice and the start
	}
}

var errInUse = errors.New("the port is in use")

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *Server) run() error {
	args := []string{filepath.Join(s.Dir, "redis.conf")}
	if s.Watches != nil {
		args = append(args, "--sentinel")
	}
	if err := s.configure(args[0]); err != nil {
		return err
	}
	cmd := exec.Command(Binary, args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = dieWithUs()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.ended, s.log = cmd, make(chan struct{}), newLog()
	go func(ended chan struct{}, log *log) {
		log.read(out)
		cmd.Wait()
		log.end()
		close(ended)
	}(s.ended, s.log)
	ready := "Ready to accept connections"
	if s.Watches != nil {
		ready = "+monitor master"
	}
	if err := s.log.await(ready); err != nil {
		cmd.Process.Kill()
		<-s.ended
		if strings.Contains(err.Error(), "Address already in use") {
			return fmt.Errorf("%w: %w", errInUse, err)
		}
		return err
	}
	return nil
}

// configure writes the file of settings, unless it is a Sentinel's that the
// Sentinel has rewritten since.
func (s *Server) configure(path string) error {
	settings := map[string]string{"port": fmt.Sprint(s.Port), "bind": "127.0.0.1", "dir": s.Dir, "daemonize": "no"}
	if s.Watches != nil {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		settings["sentinel monitor"] = fmt.Sprintf("%s 127.0.0.1 %d %d", Master, s.Watches.Port, cmp.Or(s.Quorum, 1))
		settings["sentinel down-after-milliseconds"] = Master + " 1000"
		settings["sentinel failover-timeout"] = Master + " 5000"
		if p := s.Watches.password(); p != "" {
			settings["sentinel auth-pass"] = Master + " " + p
		}
	} else {
		maps.Copy(settings, map[string]string{"appendonly": "yes", "appendfsync": "always", "save": `""`, "maxmemory-policy": "noeviction", "repl-diskless-sync-delay": "0"})
		if s.Primary != nil {
			settings["replicaof"] = fmt.Sprintf("127.0.0.1 %d", s.Primary.Port)
		}
		if p := s.password(); p != "" {
			settings["requirepass"] = p
			settings["masterauth"] = p
		}
	}
	maps.Copy(settings, s.Settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) { // "sentinel monitor" sorts behind what it must precede
		if name == "sentinel monitor" {
			continue
		}
		if strings.HasPrefix(name, "sentinel ") && settings["sentinel monitor"] != "" {
			fmt.Fprintf(&text, "sentinel monitor %s\n", settings["sentinel monitor"])
			settings["sentinel monitor"] = ""
		}
		if settings[name] != "" {
			fmt.Fprintf(&text, "%s %s\n", name, settings[name])
		}
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}

func (s *Server) password() string {
	if s.Password == "-" {
		return ""
	}
	return cmp.Or(s.Password, Password)
}

// Addr is where the server listens.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// URL is the address of a store called name on this server.
func (s *Server) URL(name string) string { return s.URLAt(s.Addr(), name) }

// URLAt is URL through addr, such as a proxy that a test put in between.
func (s *Server) URLAt(addr, name string) string {
	u := url.URL{Scheme: "redis", Host: addr, Path: "/" + name}
	if p := s.password(); p != "" {
		u.User = url.UserPassword("", p)
	}
	return u.String()
}

// SentinelURL is the address of a store called name on whatever server these
// Sentinels hold for the primary.
func SentinelURL(name string, sentinels ...*Server) string {
	var hosts []string
	for _, s := range sentinels {
		hosts = append(hosts, s.Addr())
	}
	u := url.URL{Scheme: "redis+sentinel", Host: strings.Join(hosts, ","), Path: "/" + Master, RawQuery: url.Values{"name": {name}}.Encode()}
	if p := sentinels[0].Watches.password(); p != "" {
		u.User = url.UserPassword("", p)
	}
	return u.String()
}

// PID is the process that runs now, 0 if none does.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.Process.Pid
}

// Kill ends the process as kill -9 does, and returns when it is gone. There may
// be none.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	s.process.Process.Kill()
	<-s.ended
	s.process = nil
}

// Close is Kill, for who is done with it: a server asked politely waits for its
// replicas, and its disk has everything anyhow.
func (s *Server) Close() { s.Kill() }

// Stop pauses the process: what is sent to it waits.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Cont lets it go on.
func (s *Server) Cont() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Process.Signal(sig)
	}
}

// Restart starts it again on the same port with what is on its disk; if it
// runs, it is killed first.
func (s *Server) Restart() error {
	s.Kill()
	return s.run()
}

// Await returns when the process that runs now has written text in its log,
// which may have been before.
func (s *Server) Await(text string) error {
	s.mu.Lock()
	log := s.log
	s.mu.Unlock()
	return log.await(text)
}

// log is what a process has written so far.
type log struct {
	mu    sync.Mutex
	text  strings.Builder
	more  chan struct{} // closed when there is more
	ended bool
}

func newLog() *log { return &log{more: make(chan struct{})} }

func (l *log) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		l.mu.Lock()
		l.text.WriteString(lines.Text() + "\n")
		close(l.more)
		l.more = make(chan struct{})
		l.mu.Unlock()
	}
}

func (l *log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.more)
	l.more = make(chan struct{})
}

func (l *log) await(text string) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		l.mu.Lock()
		said, more, ended := l.text.String(), l.more, l.ended
		l.mu.Unlock()
		switch {
		case strings.Contains(said, text):
			return nil
		case ended:
			return fmt.Errorf("%s ended before it said %q:\n%s", Binary, text, said)
		}
		select {
		case <-more:
		case <-late.C:
			return fmt.Errorf("%s did not say %q within %v:\n%s", Binary, text, patience, said)
		}
	}
}
