//go:build linux

package kubetest

import (
	"context"
	"net"
	"sync"
)

// A relay listens on one side of a cluster's border and dials on the other.
type relay struct {
	listener net.Listener
	dial     func(ctx context.Context) (net.Conn, error)
	ctx      context.Context
	end      context.CancelFunc
	all      sync.WaitGroup

	mu    sync.Mutex
	cut   bool          // nothing gets through, and nobody is told
	whole chan struct{} // closed when that is over
	open  map[net.Conn]bool
}

func startRelay(l net.Listener, dial func(ctx context.Context) (net.Conn, error)) *relay {
	r := &relay{listener: l, dial: dial, whole: make(chan struct{}), open: map[net.Conn]bool{}}
	r.ctx, r.end = context.WithCancel(context.Background())
	close(r.whole)
	r.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			r.all.Go(func() { r.serve(conn) })
		}
	})
	return r
}

// setCut has the relay hold back what is sent from now on, both ways, without
// closing a connection: as a network does that lost its way.
func (r *relay) setCut(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case cut && !r.cut:
		r.whole = make(chan struct{})
	case !cut && r.cut:
		close(r.whole)
	}
	r.cut = cut
}

// passable returns when nothing is held back, false if the relay was closed.
func (r *relay) passable() bool {
	r.mu.Lock()
	whole := r.whole
	r.mu.Unlock()
	select {
	case <-whole:
		return r.ctx.Err() == nil
	case <-r.ctx.Done():
		return false
	}
}

func (r *relay) close() {
	r.end()
	r.listener.Close()
	r.mu.Lock()
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.all.Wait()
}

// keep has close end the connection too.
func (r *relay) keep(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[conn] = true
	if r.ctx.Err() != nil {
		conn.Close()
	}
}

func (r *relay) drop(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

func (r *relay) serve(in net.Conn) {
	r.keep(in)
	defer r.drop(in)
	if !r.passable() {
		return
	}
	out, err := r.dial(r.ctx)
	if err != nil {
		return // nobody is there: who dialled sees the connection closed
	}
	r.keep(out)
	defer r.drop(out)
	var both sync.WaitGroup
	both.Go(func() { r.carry(out, in) })
	both.Go(func() { r.carry(in, out) })
	both.Wait()
}

// carry moves bytes one way, and tells the reader when there will be no more.
func (r *relay) carry(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !r.passable() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close() // nobody reads: the other end is to know
				return
			}
		}
		if err != nil {
			_ = to.(*net.TCPConn).CloseWrite() // it may be closed
			return
		}
	}
}

// Partition cuts the cluster off from the rest of the machine, as a network
// does that lost its way: connections stay open, new ones are accepted, and
// nothing goes through, neither to the API server nor to what is exposed.
// Inside the cluster all goes on.
func (c *Cluster) Partition() { c.setCut(true) }

// Heal ends a partition. What was held back arrives.
func (c *Cluster) Heal() { c.setCut(false) }

func (c *Cluster) setCut(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.relay.setCut(cut)
	for _, r := range c.exposed {
		r.setCut(cut)
	}
}

// Expose lets pods reach a port of this machine's loopback, such as the door of
// a platform under test. It returns the host:port that they dial.
func (c *Cluster) Expose(address string) (string, error) {
	l, err := c.network.listen(net.JoinHostPort(clusterAddress, "0"))
	if err != nil {
		return "", err
	}
	r := startRelay(l, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exposed = append(c.exposed, r)
	return l.Addr().String(), nil
}
