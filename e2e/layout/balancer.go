package layout

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas/internal/link"
)

// A Balancer is what production has in front of several managements: it gives
// each connection to the next one that accepts, and skips those that do not.
// It knows nothing of HTTP.
type Balancer struct {
	link link.Link
	next atomic.Uint64

	mu       sync.Mutex
	backends []string // addresses
}

// Add has connections go to an address from now on, too.
func (b *Balancer) Add(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, address)
}

// Start listens on the loopback and returns its address.
func (b *Balancer) Start() (string, error) {
	b.link.Dial = b.dial
	return b.link.Start()
}

// Close ends every connection, and returns when all are.
func (b *Balancer) Close() { b.link.Close() }

// dial connects to the next backend that accepts.
func (b *Balancer) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: time.Second}
	b.mu.Lock()
	backends := b.backends
	b.mu.Unlock()
	first := b.next.Add(1)
	for n := range uint64(len(backends)) {
		conn, err := dialer.DialContext(ctx, "tcp", backends[(first+n)%uint64(len(backends))])
		if err == nil {
			return conn, nil
		}
	}
	return nil, errors.New("no backend accepts")
}
