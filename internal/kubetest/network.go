//go:build linux

package kubetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addresses inside a cluster, the same in each: none of them leaves it.
const (
	clusterAddress = "10.201.0.2" // the control plane, the names of services, and what is exposed
	apiAddress     = clusterAddress + ":6443"
	etcdAddress    = "127.0.0.1:2379"
	serviceRange   = "10.96.0.0/16"
	serviceAddress = "10.96.0.1" // of the API server, for pods
)

func nodeAddress(i int) string { return fmt.Sprintf("10.201.0.%d", 10+i) }

func podRange(i int) string { return fmt.Sprintf("10.244.%d.0/24", i) }

// A network is the network namespace of a cluster. A process keeps it: it is
// gone when that and the cluster's other processes are.
type network struct {
	holder *process
	home   *os.File // the namespace of this program
	inside *os.File
}

// There is one link, so that there is an address that is not the loopback's,
// and a default route: both are asked for by what runs in the cluster. The
// kernel may have no dummy links, so it is one end of a pair.
const networkScript = `set -e
ip link set lo up
ip link add kubetest type veth peer name nowhere
ip addr add ` + clusterAddress + `/24 dev kubetest
ip link set kubetest up
ip link set nowhere up
ip route add default via 10.201.0.1 dev kubetest
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
read || true
`

func newNetwork(c *Cluster) (n *network, err error) {
	n = &network{}
	if n.holder, err = c.hold("network", syscall.CLONE_NEWNET, "bash", "-c", networkScript); err != nil {
		return nil, err
	}
	if n.home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	n.inside, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", n.holder.cmd.Process.Pid))
	return n, err
}

// enter begins the command line of a program that is to run in the network.
// nsenter becomes that program; `ip netns exec` would hide the cgroups from it.
func (n *network) enter() []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", n.holder.cmd.Process.Pid), "--"}
}

// within calls f in the network: a socket that it makes stays there. f must not
// start a goroutine or a process for that.
func (n *network) within(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(n.inside.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network of the cluster: %w", err)
	}
	err := f()
	if back := unix.Setns(int(n.home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread must neither be used again nor end: children would end with it.
		panic(fmt.Sprintf("this thread cannot leave the network of a cluster: %v", back))
	}
	return err
}

func (n *network) dial(ctx context.Context, _, address string) (conn net.Conn, err error) {
	err = n.within(func() error {
		// The address is of one IP, so that the socket is made by this goroutine.
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

func (n *network) listen(address string) (l net.Listener, err error) {
	err = n.within(func() error {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

func (n *network) listenPacket(address string) (conn net.PacketConn, err error) {
	err = n.within(func() error {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}

func (n *network) close() {
	n.home.Close()
	n.inside.Close()
}

// hold starts a program that prepares namespaces, says "ready" and stays until
// it is killed, or its input ends: this program is no more.
func (c *Cluster) hold(name string, namespaces uintptr, argv ...string) (*process, error) {
	p, err := c.command(name, argv...)
	if err != nil {
		return nil, err
	}
	p.cmd.SysProcAttr.Cloneflags = namespaces
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stdout = nil
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.start(p); err != nil {
		return nil, err
	}
	const ready = "ready\n"
	said := make([]byte, len(ready))
	if _, err := io.ReadFull(stdout, said); err != nil || string(said) != ready {
		return nil, fmt.Errorf("what prepares the %s ended: %s", name, p.tail())
	}
	return p, nil
}
