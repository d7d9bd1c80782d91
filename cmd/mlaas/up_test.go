package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
