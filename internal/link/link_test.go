package link

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers what it is sent, and counts what it heard.
func echo(t *testing.T) (address string, heard chan byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard = make(chan byte, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					heard <- b[0]
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), heard
}

// A link in bad weather is bad in the way that was asked for, and in no other.
func TestLink(t *testing.T) {
	tests := []struct {
		name     string
		weather  Weather
		heard    bool // by the server
		answered bool
		cut      bool
	}{
		{"fine", Weather{}, true, true, false},
		{"slow", Weather{Delay: 10 * time.Millisecond}, true, true, false},
		{"silent", Weather{Silent: true}, false, false, false},
		{"deaf", Weather{Silent: true, Up: true}, false, false, false},
		{"mute", Weather{Silent: true, Down: true}, true, false, false},
		{"cut", Weather{Refuse: true}, false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to, heard := echo(t)
			l := &Link{To: to}
			at, err := l.Start()
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			say := func(b byte) (err error) {
				if _, err = c.Write([]byte{b}); err != nil {
					return err
				}
				c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				_, err = io.ReadFull(c, make([]byte, 1))
				return err
			}
			if err := say('a'); err != nil {
				t.Fatalf("in fine weather: %v", err)
			}
			<-heard
			l.Set(tt.weather)
			err = say('b')
			if late := errors.Is(err, os.ErrDeadlineExceeded); (err == nil) != tt.answered || err != nil && late == tt.cut {
				t.Errorf("answered: %v", err)
			}
			if got := len(heard) == 1; got != tt.heard {
				t.Errorf("the server heard it: %v", got)
			}
			if tt.cut || tt.answered {
				return
			}
			l.Set(Weather{}) // what was held back comes now
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil || b[0] != 'b' {
				t.Errorf("in fine weather again: %q, %v", b, err)
			}
		})
	}
}

// What one side ends, the other reads to its end, and may answer still; in
// silence it is not told. A link that is closed ends everything.
func TestLinkEnds(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := &Link{To: server.Addr().String()}
	at, err := l.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair := func() (near, far *net.TCPConn) {
		t.Helper()
		n, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		f, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(); f.Close() })
		return n.(*net.TCPConn), f.(*net.TCPConn)
	}
	near, far := pair()
	if _, err := io.WriteString(near, "question"); err != nil {
		t.Fatal(err)
	}
	near.CloseWrite()
	if said, err := io.ReadAll(far); err != nil || string(said) != "question" {
		t.Errorf("the server read %q, %v", said, err)
	}
	if _, err := io.WriteString(far, "answer"); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if said, err := io.ReadAll(near); err != nil || string(said) != "answer" {
		t.Errorf("the client read %q, %v", said, err)
	}

	near, far = pair()
	l.Set(Weather{Silent: true})
	near.Close()
	far.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("in silence the server is told of the end: %v", err)
	}
	l.Close()
	far.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a closed link left a connection open: %v", err)
	}
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("a closed link listens")
	}
}
