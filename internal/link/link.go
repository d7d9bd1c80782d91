// Package link stands between clients and a server, for tests: it accepts,
// dials, and carries bytes both ways, as well or as badly as it is told to.
package link

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Weather is how a Link treats what goes over it.
type Weather struct {
	Delay  time.Duration // of every piece, each way
	Silent bool          // nothing gets through, and nobody is told: connections stay half open
	Refuse bool          // new connections are closed at once, and old ones are cut
	Up     bool          // with Silent: only what clients send is lost
	Down   bool          // with Silent: only what they are answered is lost
}

// A Link is a wire between clients and a server, which can be made slow, silent
// or broken while it is used.
type Link struct {
	To   string                                      // where the server is
	Dial func(ctx context.Context) (net.Conn, error) // not nil: how it is reached, in place of To
	Host string                                      // where to listen; empty: the loopback
	At   net.Listener                                // not nil: what listens, in place of Host

	ctx     context.Context
	end     context.CancelFunc
	mu      sync.Mutex
	weather Weather
	changed chan struct{} // closed when the weather changes
	open    map[net.Conn]bool
	all     sync.WaitGroup
}

// Start listens and returns its address.
func (l *Link) Start() (string, error) {
	if l.At == nil {
		listener, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(l.Host, "127.0.0.1"), "0"))
		if err != nil {
			return "", err
		}
		l.At = listener
	}
	if l.Dial == nil {
		l.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", l.To)
		}
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.open, l.changed = map[net.Conn]bool{}, make(chan struct{})
	l.all.Go(func() {
		for {
			conn, err := l.At.Accept()
			if err != nil {
				return // it was closed
			}
			l.all.Go(func() { l.serve(conn) })
		}
	})
	return l.At.Addr().String(), nil
}

// Set changes the weather, at once.
func (l *Link) Set(w Weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weather = w
	close(l.changed)
	l.changed = make(chan struct{})
	if w.Refuse {
		for c := range l.open {
			c.Close()
		}
	}
}

// Close ends every connection, and returns when all are.
func (l *Link) Close() {
	if l.end == nil {
		return
	}
	l.end()
	l.At.Close()
	l.mu.Lock()
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.all.Wait()
}

// keep notes a connection so that Close ends it; false: it is too late.
func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil || l.weather.Refuse {
		c.Close()
		return false
	}
	l.open[c] = true
	return true
}

func (l *Link) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

func (l *Link) serve(in net.Conn) {
	if !l.keep(in) {
		return
	}
	defer l.drop(in)
	out, err := l.Dial(l.ctx)
	if err != nil || !l.keep(out) {
		return // who dialled sees the connection closed
	}
	defer l.drop(out)
	var both sync.WaitGroup
	both.Go(func() { l.carry(out, in, true) })
	both.Go(func() { l.carry(in, out, false) })
	both.Wait()
}

// carry moves bytes one way, as the weather lets it, and then the end of them.
// What is held back while the link is silent is sent when it is silent no more,
// as a network does that sends again.
func (l *Link) carry(to, from net.Conn, up bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !l.pass(up) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close() // nobody reads: who writes is to know
				return
			}
		}
		if half, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
			_ = half.CloseWrite() // there may be an answer still
			return
		}
		if err != nil {
			to.Close()
			return
		}
	}
}

// pass returns when the weather lets something through, false if the link was
// closed before.
func (l *Link) pass(up bool) bool {
	for {
		l.mu.Lock()
		w, changed := l.weather, l.changed
		l.mu.Unlock()
		var wait <-chan time.Time // of silence: for ever
		if !w.Silent || up && w.Down || !up && w.Up {
			if w.Delay <= 0 {
				return l.ctx.Err() == nil
			}
			wait = time.After(w.Delay)
		}
		select {
		case <-wait:
			return true
		case <-changed: // what is on its way goes on as the new weather lets it
		case <-l.ctx.Done():
			return false
		}
	}
}
