package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

// Who removes the socket of the door does not lock supervisors out.
func TestKeepDoor(t *testing.T) {
	dir, err := os.MkdirTemp("", "door") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	read, write := io.Pipe()
	p := platform{Dir: dir, Log: slog.New(slog.NewTextHandler(write, nil))}
	door, err := openDoor(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	server := &http.Server{ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- p.keepDoor(ctx, server, door, time.Millisecond) }()
	said := bufio.NewReader(read)
	for range 3 {
		if err := os.RemoveAll(filepath.Join(dir, "door")); err != nil { // the folder too
			t.Fatal(err)
		}
		line, err := said.ReadString('\n')
		if err != nil || !strings.Contains(line, "it is open again") {
			t.Fatalf("it says %q, %v", line, err)
		}
		c, err := net.Dial("unix", filepath.Join(dir, "door", "door.sock"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	read.Close() // whatever it says now is not waited for
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A lock that outlives its process for a moment is waited for; that of a
// process that lives is not.
func TestLock(t *testing.T) {
	p := platform{Dir: t.TempDir()}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(filepath.Join(p.Dir, "pid"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(hold.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(hold, os.Getpid())
	if _, err := p.lock(); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("while the platform lives, a second one gets %v", err)
	}
	hold.Truncate(0)
	hold.WriteAt(fmt.Appendln(nil, gone.Process.Pid), 0)
	time.AfterFunc(50*time.Millisecond, func() { hold.Close() })
	unlock, err := p.lock()
	if err != nil {
		t.Fatalf("after the platform was killed, the next one gets %v", err)
	}
	unlock()
}
