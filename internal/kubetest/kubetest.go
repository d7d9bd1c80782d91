//go:build linux

// Package kubetest runs whole Kubernetes clusters for tests, benches and
// end-to-end scripts: a real control plane, with nodes that only say they are
// there (kwok) or with nodes that run real pods (kubelet, containerd, runc).
//
// Each cluster is in network namespaces of its own, so that any number of them
// runs at once with the same ports and addresses, and nothing of it touches the
// machine's network. Its API server is reached through a relay on the loopback.
// Each real node has its processes and mounts to itself too, and they end with
// it: a node that is killed is a machine whose power is cut, and nothing is
// left of a program that is killed while it has clusters.
//
// The programs are built by `make kube-bin`. This package only runs them, and
// imports nothing of Kubernetes.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas/internal/link"
)

// patience is how long one thing of a cluster may take to come up.
const patience = 3 * time.Minute

// Opts say what cluster is wanted.
type Opts struct {
	Name  string // in messages and in the names of its nodes; empty: "kubetest"
	Nodes Nodes

	// FastEviction has a dead node noticed in some 8 s and its pods evicted a
	// second later, where Kubernetes by itself takes 50 s and 5 minutes. Evicted
	// pods are there, terminating, until their node is back or is deleted; and
	// nothing is evicted in a cluster that has no node alive.
	FastEviction bool
}

// Nodes are the nodes that a cluster begins with. The zero value is none.
type Nodes struct {
	number int
	real   bool
}

// Fake are n nodes that nobody runs: kwok says that they are well, and that the
// pods on them do. Each has 32 cores, 256 GiB and 8 nvidia.com/gpu.
func Fake(n int) Nodes { return Nodes{number: n} }

// Real are n nodes that run pods as any node does, on this machine's cores and
// memory. Images come by [Cluster.Load] and [Cluster.Import].
func Real(n int) Nodes { return Nodes{number: n, real: true} }

// A Cluster is a Kubernetes cluster that runs now.
type Cluster struct {
	opts    Opts
	bin     string // where the programs of Kubernetes are
	dir     string // what the cluster writes
	lock    *os.File
	pki     *authority
	network *network
	names   *nameServer
	address string       // of the API server, from this machine
	client  *http.Client // as the administrator, past any partition

	ctx  context.Context // ends when a process dies that should not
	fail context.CancelCauseFunc

	mu        sync.Mutex
	processes map[string]*process
	nodes     []*node
	links     []*link.Link // across the border
	weather   link.Weather
	closed    bool
}

// Need skips a test where clusters cannot be run, or fails it where they have
// to be: with CI=true, unless they are not wanted.
func Need(t testing.TB) {
	t.Helper()
	if err := Have(); err != nil && os.Getenv("CI") == "true" && !errors.Is(err, errUnwanted) {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
}

// Have reports whether clusters can be run here; the error says what is
// missing, and how to get it.
func Have() error {
	if _, err := folder(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("clusters need network namespaces, which only root may make: run this as root")
	}
	for _, program := range []string{"ip", "nsenter", "runc", "nft", "bash"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("clusters need the program %s (%w): `make need` installs it", program, err)
		}
	}
	return nil
}

// Start starts a cluster for a test and ends it with the test. It returns when
// pods can be made. A process of the cluster that dies by itself fails the test.
func Start(t testing.TB, opts Opts) *Cluster {
	t.Helper()
	Need(t)
	c, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-c.ctx.Done():
			if died := context.Cause(c.ctx); !errors.Is(died, errClosed) {
				t.Error(died)
			}
		case <-ended:
		}
	}()
	t.Cleanup(func() {
		close(ended)
		<-watched
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Open starts a cluster, and returns when pods can be made. ctx is for the
// start alone: the cluster lives until Close, or until this program ends.
func Open(ctx context.Context, opts Opts) (*Cluster, error) {
	if err := Have(); err != nil {
		return nil, err
	}
	if opts.Name == "" {
		opts.Name = "kubetest"
	}
	c := &Cluster{opts: opts, processes: map[string]*process{}}
	c.ctx, c.fail = context.WithCancelCause(context.Background())
	if err := c.open(ctx); err != nil {
		if died := context.Cause(c.ctx); died != nil {
			err = died
		}
		return nil, errors.Join(fmt.Errorf("cluster %s: %w", opts.Name, err), c.Close())
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // what waits, waits no longer than the processes live
	sweep()
	if c.bin, err = folder(); err != nil {
		return err
	}
	if c.dir, c.lock, err = home(); err != nil {
		return err
	}
	if c.network, err = newNetwork(c); err != nil {
		return err
	}
	door, address, err := newDoor(c.network)
	if err != nil {
		return err
	}
	c.address, c.links = address, []*link.Link{door}
	if c.pki, err = newAuthority(filepath.Join(c.dir, "pki")); err != nil {
		return err
	}
	if c.client, err = c.pki.client(c.network.dial); err != nil {
		return err
	}
	if err := c.startControl(ctx); err != nil {
		return err
	}
	if c.opts.Nodes.real {
		if err := c.startNames(); err != nil {
			return err
		}
		return c.startReal(ctx)
	}
	return c.startFake(ctx)
}

var errClosed = errors.New("the cluster was closed")

// Name is what the cluster was called.
func (c *Cluster) Name() string { return c.opts.Name }

// Context ends when a process of the cluster dies that nobody here killed; its
// cause has the end of that process's log. Wait with it and not for longer.
func (c *Cluster) Context() context.Context { return c.ctx }

// Close ends the cluster and removes what it left: no process, mount, cgroup or
// file remains. It may be called twice.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	nodes, links := c.nodes, c.links
	var processes []*process
	for _, p := range c.processes {
		processes = append(processes, p)
	}
	c.mu.Unlock()

	for _, l := range links {
		l.Close()
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	// Nodes first: what runs in them is gone when their first process is.
	for _, n := range nodes {
		if n.machine != nil {
			n.machine.kill()
		}
	}
	for _, p := range processes {
		p.kill()
	}
	if c.names != nil {
		c.names.conn.Close()
	}
	if c.network != nil {
		c.network.close()
	}
	c.fail(errClosed)
	if c.dir == "" {
		return nil
	}
	err := remove(c.dir)
	c.lock.Close()
	return err
}

// home is a new folder that belongs to this process: it is locked as long as
// the process lives.
func home() (string, *os.File, error) {
	hidden, err := os.MkdirTemp("", ".kubetest-")
	if err != nil {
		return "", nil, err
	}
	lock, err := os.Open(hidden)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	dir := filepath.Join(filepath.Dir(hidden), filepath.Base(hidden)[1:])
	if err == nil {
		err = os.Rename(hidden, dir) // from now on a sweep sees it, and that it is locked
	}
	return dir, lock, err
}

// sweep removes what is left of clusters whose program was killed. Their
// processes, namespaces and mounts went with it; cgroups and files stayed.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "kubetest-*"))
	for _, dir := range left {
		lock, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = remove(dir) // what cannot be removed is tried again at the next start
		}
		lock.Close()
	}
}

func remove(dir string) error {
	return errors.Join(removeCgroups(filepath.Base(dir)), os.RemoveAll(dir))
}
