package layout

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Network is machines on one wire, each a network namespace of this one, so
// that what they send each other can be dropped. A nil Network is no machines:
// everything is here, on the loopback.
type Network struct {
	name     string // of its bridge
	prefix   string // of its addresses: "10.213.7."
	mu       sync.Mutex
	machines map[string]*Machine
}

// A Machine is one namespace of a Network.
type Machine struct {
	Name string
	net  *Network
	ns   string // as `ip netns` names it
	host string
}

// ErrNoNetwork says that machines cannot be made here.
var ErrNoNetwork = errors.New("network namespaces cannot be made here")

// NewNetwork makes the wire. It needs root, ip and nft.
func NewNetwork() (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: only root may", ErrNoNetwork)
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: there is no %s", ErrNoNetwork, tool)
		}
	}
	// A number of our own, so that two networks do not meet.
	n := os.Getpid() % 250
	w := &Network{name: "mlaas" + strconv.Itoa(n), prefix: fmt.Sprintf("10.213.%d.", n), machines: map[string]*Machine{}}
	err := errors.Join(
		ip("link", "add", w.name, "type", "bridge"),
		ip("addr", "add", w.prefix+"1/24", "dev", w.name),
		ip("link", "set", w.name, "up"))
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoNetwork, err)
	}
	return w, nil
}

func ip(args ...string) error { return command("ip", args...) }

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Close removes every machine and the wire.
func (w *Network) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	for _, m := range w.machines {
		err = errors.Join(err, ip("netns", "delete", m.ns))
	}
	w.machines = map[string]*Machine{}
	return errors.Join(err, ip("link", "delete", w.name))
}

// Gateway is where this process is on the wire.
func (w *Network) Gateway() string {
	if w == nil {
		return "127.0.0.1"
	}
	return w.prefix + "1"
}

// machine is the machine of this name, made at its first use; nil without a
// network.
func (w *Network) machine(name string) (*Machine, error) {
	if w == nil {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.machines[name]; m != nil {
		return m, nil
	}
	n := len(w.machines) + 2
	m := &Machine{Name: name, net: w, ns: w.name + "-" + name, host: w.prefix + strconv.Itoa(n)}
	outside, inside := fmt.Sprintf("%sv%d", w.name, n), fmt.Sprintf("%sp%d", w.name, n)
	if err := ip("netns", "add", m.ns); err != nil {
		return nil, err
	}
	w.machines[name] = m
	return m, errors.Join(
		ip("link", "add", outside, "type", "veth", "peer", "name", inside),
		ip("link", "set", inside, "netns", m.ns),
		ip("link", "set", outside, "master", w.name),
		ip("link", "set", outside, "up"),
		ip("-n", m.ns, "addr", "add", m.host+"/24", "dev", inside),
		ip("-n", m.ns, "link", "set", inside, "up"),
		ip("-n", m.ns, "link", "set", "lo", "up"))
}

// Machine is the machine of this name, if there is one.
func (w *Network) Machine(name string) (*Machine, bool) {
	if w == nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[name]
	return m, ok
}

// Named are the machines whose name begins so, in the order of their names.
func (w *Network) Named(prefix string) (some []*Machine) {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(w.machines)) {
		if strings.HasPrefix(name, prefix) {
			some = append(some, w.machines[name])
		}
	}
	return some
}

// Host is its address on the wire.
func (m *Machine) Host() string { return m.host }

// Within calls f in the machine: what it dials, listens on or starts is there.
func (m *Machine) Within(f func() error) error {
	if m == nil {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + m.ns)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked, and ends with this goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// address is a free port of the machine.
func (m *Machine) address() (host, port string, err error) {
	host = "127.0.0.1"
	if m != nil {
		host = m.host
	}
	err = m.Within(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return err
		}
		_, port, err = net.SplitHostPort(l.Addr().String())
		return errors.Join(err, l.Close())
	})
	return host, port, err
}

// Deafen drops what comes to the machine from another; Heal ends it. Between
// two machines it is a partition one way, and with the other's as well a full
// one.
func (m *Machine) Deafen(from string) error {
	return m.Within(func() error {
		return errors.Join(
			command("nft", "add", "table", "ip", "torture"),
			command("nft", "add", "chain", "ip", "torture", "in", "{ type filter hook input priority 0 ; }"),
			command("nft", "add", "rule", "ip", "torture", "in", "ip", "saddr", from, "drop"))
	})
}

// Heal lets everything through again.
func (m *Machine) Heal() error {
	return m.Within(func() error {
		return errors.Join(command("nft", "add", "table", "ip", "torture"), command("nft", "delete", "table", "ip", "torture"))
	})
}
