package layout

import (
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

// A Link is a wire between the services and a server under them, which can be
// made slow, silent or broken while it is used.
type Link struct {
	To   string // where the server is
	Host string // where to listen; empty: the loopback

	listener net.Listener
	mu       sync.Mutex
	weather  Weather
	changed  chan struct{} // closed when the weather changes
	open     map[net.Conn]bool
	all      sync.WaitGroup
}

// Start listens and returns its address.
func (l *Link) Start() (string, error) {
	if l.Host == "" {
		l.Host = "127.0.0.1"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(l.Host, "0"))
	if err != nil {
		return "", err
	}
	l.listener, l.open, l.changed = listener, map[net.Conn]bool{}, make(chan struct{})
	l.all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.serve(conn) })
		}
	})
	return listener.Addr().String(), nil
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
	if l.listener == nil {
		return
	}
	l.listener.Close()
	l.mu.Lock()
	for c := range l.open {
		c.Close()
	}
	l.open = nil
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.all.Wait()
}

// now is the weather, what tells of the next, and whether the link is closed.
func (l *Link) now() (Weather, <-chan struct{}, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.weather, l.changed, l.open == nil
}

func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil || l.weather.Refuse {
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
	out, err := net.DialTimeout("tcp", l.To, 5*time.Second)
	if err != nil || !l.keep(out) {
		return
	}
	defer l.drop(out)
	done := make(chan struct{}, 2)
	l.all.Go(func() { l.carry(out, in, true); done <- struct{}{} })
	l.all.Go(func() { l.carry(in, out, false); done <- struct{}{} })
	<-done
}

// carry moves bytes one way, as the weather lets it. What is held back while
// the link is silent is sent when it is silent no more, as a network does that
// sends again.
func (l *Link) carry(to, from net.Conn, up bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		for n > 0 {
			w, changed, closed := l.now()
			if closed {
				return
			}
			if w.Silent && !(up && w.Down || !up && w.Up) {
				<-changed
				continue
			}
			if w.Delay > 0 {
				<-time.After(w.Delay)
			}
			break
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
