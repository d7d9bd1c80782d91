package layout

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
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

// A balancer skips whoever does not accept, and says nothing of it.
func TestBalancer(t *testing.T) {
	gone, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	one, heardOne := echo(t)
	two, heardTwo := echo(t)
	b := &Balancer{Backends: []string{one, net.JoinHostPort("127.0.0.1", strconv.Itoa(gone)), two}}
	at, err := b.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 12 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("no answer: %v", err)
		}
		c.Close()
	}
	if len(heardOne) < 4 || len(heardTwo) < 4 {
		t.Errorf("%d and %d of 12 connections, want each a share", len(heardOne), len(heardTwo))
	}
}
