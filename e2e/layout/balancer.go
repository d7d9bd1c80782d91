package layout

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Balancer is what production has in front of several managements: it gives
// each connection to the next one that accepts, and skips those that do not.
// It knows nothing of HTTP.
type Balancer struct {
	Backends []string // addresses

	listener net.Listener
	next     atomic.Uint64
	mu       sync.Mutex
	open     map[net.Conn]bool
	all      sync.WaitGroup
}

// Start listens on the loopback and returns its address.
func (b *Balancer) Start() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	b.listener, b.open = l, map[net.Conn]bool{}
	b.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() { b.serve(conn) })
		}
	})
	return l.Addr().String(), nil
}

// Close ends every connection, and returns when all are.
func (b *Balancer) Close() {
	if b.listener == nil {
		return
	}
	b.listener.Close()
	b.mu.Lock()
	for c := range b.open {
		c.Close()
	}
	b.open = nil
	b.mu.Unlock()
	b.all.Wait()
}

// keep notes a connection so that Close ends it; false: it is too late.
func (b *Balancer) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		c.Close()
		return false
	}
	b.open[c] = true
	return true
}

func (b *Balancer) drop(c net.Conn) {
	c.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}

func (b *Balancer) serve(in net.Conn) {
	if !b.keep(in) {
		return
	}
	defer b.drop(in)
	out := b.dial()
	if out == nil || !b.keep(out) {
		return
	}
	defer b.drop(out)
	done := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		io.Copy(to, from)
		done <- struct{}{}
	}
	b.all.Go(func() { pipe(out, in) })
	b.all.Go(func() { pipe(in, out) })
	<-done // HTTP has no use for half a connection
}

// dial connects to the next backend that accepts.
func (b *Balancer) dial() net.Conn {
	first := b.next.Add(1)
	for n := range uint64(len(b.Backends)) {
		conn, err := net.DialTimeout("tcp", b.Backends[(first+n)%uint64(len(b.Backends))], time.Second)
		if err == nil {
			return conn
		}
	}
	return nil
}
