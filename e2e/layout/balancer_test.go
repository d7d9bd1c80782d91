package layout

import (
	"io"
	"net"
	"strconv"
	"testing"
)

// backend accepts connections and says its name on each.
func backend(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, name)
			c.Close()
		}
	}()
	return l.Addr().String()
}

// A balancer skips whoever does not accept, and says nothing of it.
func TestBalancer(t *testing.T) {
	gone, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	b := &Balancer{}
	for _, address := range []string{backend(t, "one"), net.JoinHostPort("127.0.0.1", strconv.Itoa(gone)), backend(t, "two")} {
		b.Add(address)
	}
	at, err := b.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	count := map[string]int{}
	for range 12 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		count[string(said)]++
		c.Close()
	}
	if count["one"] < 4 || count["two"] < 4 || count["one"]+count["two"] != 12 {
		t.Errorf("of 12 connections there were %v, want each a share", count)
	}
}
