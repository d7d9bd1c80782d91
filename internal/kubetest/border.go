//go:build linux

package kubetest

import (
	"context"
	"net"

	"mlaas.dev/mlaas/internal/link"
)

// newDoor is the way to the API server from the loopback of this machine.
func newDoor(n *network) (door *link.Link, address string, err error) {
	door = &link.Link{Dial: func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, "tcp", apiAddress) }}
	address, err = door.Start()
	return door, address, err
}

// Expose lets pods reach a port of this machine's loopback, such as the door of
// a platform under test. It returns the host:port that they dial.
func (c *Cluster) Expose(address string) (string, error) {
	inside, err := c.network.listen(net.JoinHostPort(clusterAddress, "0"))
	if err != nil {
		return "", err
	}
	exposed := &link.Link{At: inside, To: address}
	at, err := exposed.Start()
	c.mu.Lock()
	defer c.mu.Unlock()
	exposed.Set(c.weather)
	c.links = append(c.links, exposed)
	return at, err
}

// Reach lets this machine reach an address of the cluster, such as that of a
// service. It returns the host:port of the loopback that is dialled.
func (c *Cluster) Reach(address string) (string, error) {
	reached := &link.Link{Dial: func(ctx context.Context) (net.Conn, error) { return c.network.dial(ctx, "tcp", address) }}
	at, err := reached.Start()
	c.mu.Lock()
	defer c.mu.Unlock()
	reached.Set(c.weather)
	c.links = append(c.links, reached)
	return at, err
}

// Partition cuts the cluster off from the rest of the machine, as a network
// does that lost its way: connections stay open, new ones are accepted, and
// nothing goes through, neither to the API server nor to what is exposed.
// Inside the cluster all goes on.
func (c *Cluster) Partition() { c.set(link.Weather{Silent: true}) }

// Heal ends a partition. What was held back arrives.
func (c *Cluster) Heal() { c.set(link.Weather{}) }

func (c *Cluster) set(w link.Weather) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.weather = w
	for _, l := range c.links {
		l.Set(w)
	}
}
