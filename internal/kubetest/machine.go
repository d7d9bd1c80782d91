//go:build linux

package kubetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A machine is what a real node runs on: processes and mounts of its own, in
// the network of its cluster. They all end with its first process.
type machine struct {
	node    *node
	dir     string // its disk, and settings
	cgroup  string // in every hierarchy, from its top
	first   *process
	runtime *process // containerd
	kubelet *process
}

// The first process makes a machine of this one: it sees the same files, but
// what changes while a node runs (/run, /var/lib, /var/log) is its own.
//
// A kubelet sets some parameters of the kernel for the whole machine, such as
// to restart at a panic. It finds files that say that they are set.
const machineScript = `set -e
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
ip addr replace "$2/24" dev kubetest
pretend() { echo "$2" > "/run/${1//\//-}"; mount --bind "/run/${1//\//-}" "/proc/sys/$1"; }
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
echo ready
read || true
`

func (c *Cluster) startReal(ctx context.Context) error {
	for i := range c.opts.Nodes.number {
		n := &node{cluster: c, index: i, name: fmt.Sprintf("%s-%d", c.opts.Name, i)}
		n.machine = &machine{node: n, dir: filepath.Join(c.dir, n.name), cgroup: filepath.Join("/", filepath.Base(c.dir), n.name)}
		c.mu.Lock()
		c.nodes = append(c.nodes, n) // Close ends it from here on
		c.mu.Unlock()
		if err := n.machine.make(); err != nil {
			return err
		}
		if err := n.machine.start(ctx); err != nil {
			return err
		}
	}
	pause := Image{Ref: pauseRef, Files: map[string]string{"/pause": filepath.Join(c.bin, "pause")}, Entrypoint: []string{"/pause"}}
	if err := c.Load(ctx, pause); err != nil {
		return err
	}
	if err := c.startProxy(); err != nil {
		return err
	}
	return c.awaitNodes(ctx)
}

const pauseRef = "kubetest.local/pause:1"

// startProxy starts what makes the addresses of services work. One is enough:
// the nodes of a cluster are in one network.
func (c *Cluster) startProxy() error {
	kubeconfig, err := c.pki.component("proxy", "system:kube-proxy")
	if err != nil {
		return err
	}
	// What it would set of the tracking of connections is the whole machine's.
	_, err = c.run("kube-proxy", filepath.Join(c.bin, "kube-proxy"), "--kubeconfig="+kubeconfig, "--proxy-mode=nftables", "--hostname-override="+c.nodes[0].name,
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")
	return err
}

// make writes the settings and certificates of the node.
func (m *machine) make() error {
	for _, dir := range []string{"lib", "log", "cni"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			return err
		}
	}
	address, c := nodeAddress(m.node.index), m.node.cluster
	user, groups := "system:node:"+m.node.name, []string{"system:nodes"}
	serving, err := c.pki.issue(user, groups, c.pki.cert.NotAfter, m.node.name, address)
	if err != nil {
		return err
	}
	if err := c.pki.write(m.node.name, serving); err != nil {
		return err
	}
	if _, err := c.pki.component(m.node.name, user, groups...); err != nil {
		return err
	}
	type object = map[string]any
	settings := map[string]any{
		"cni/10-bridge.conflist": object{"cniVersion": "1.0.0", "name": "kubetest", "plugins": []object{{
			"type": "bridge", "bridge": fmt.Sprintf("pods%d", m.node.index), "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
			"ipam": object{"type": "host-local", "ranges": [][]object{{{"subnet": podRange(m.node.index)}}}},
		}}},
		"kubelet.json": object{
			"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
			"failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": m.cgroup, "cgroupsPerQOS": true, "enforceNodeAllocatable": []string{"pods"},
			"containerRuntimeEndpoint": "unix://" + runtimeSocket,
			"address":                  address, "healthzPort": 0, "readOnlyPort": 0,
			"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": c.pki.file("ca.crt")}},
			"authorization":  object{"mode": "Webhook"},
			"tlsCertFile":    c.pki.file(m.node.name + ".crt"), "tlsPrivateKeyFile": c.pki.file(m.node.name + ".key"),
			"clusterDomain": "cluster.local", "clusterDNS": []string{clusterAddress}, "resolvConf": "", "failSwapOn": false, "makeIPTablesUtilChains": false,
			"evictionHard":                object{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
			"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
			"volumePluginDir":           "/var/lib/kubelet/volumeplugins",
			"nodeStatusUpdateFrequency": "4s", "nodeLeaseDurationSeconds": c.lease(), "syncFrequency": "10s", "serializeImagePulls": false,
		},
	}
	for name, content := range settings {
		text, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(m.dir, "containerd.toml"), fmt.Appendf(nil, containerdConfig, pauseRef, c.bin, filepath.Join(m.dir, "cni")), 0o600)
}

// Everything else is where containerd has it by itself, as it has /run and
// /var/lib to itself.
const containerdConfig = `version = 3
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true # not every root may lower it
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%q]
  conf_dir = %q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`

const runtimeSocket = "/run/containerd/containerd.sock"

// start turns the machine on, and returns when its kubelet answers.
func (m *machine) start(ctx context.Context) (err error) {
	c := m.node.cluster
	// Those of a killed machine are still there: a kubelet would wait for what is not in them.
	if err := errors.Join(removeCgroups(m.cgroup), makeCgroup(m.cgroup)); err != nil {
		return err
	}
	m.first, err = c.hold(m.node.name, syscall.CLONE_NEWPID|syscall.CLONE_NEWNS,
		append(c.network.enter(), "bash", "-c", machineScript, "machine", m.dir, nodeAddress(m.node.index))...)
	if err != nil {
		return err
	}
	m.runtime, err = c.spawn(m.node.name+"-containerd", append(m.enter(), filepath.Join(c.bin, "containerd"), "--config="+filepath.Join(m.dir, "containerd.toml"))...)
	if err != nil {
		return err
	}
	socket := fmt.Sprintf("/proc/%d/root%s", m.first.cmd.Process.Pid, runtimeSocket)
	err = retry(ctx, func() error {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("containerd of %s does not listen: %w", m.node.name, err)
	}
	return m.startKubelet(ctx)
}

// enter begins the command line of a program that is to run on the machine.
// nsenter stays, and waits for the program.
func (m *machine) enter() []string {
	return []string{"nsenter", fmt.Sprintf("--target=%d", m.first.cmd.Process.Pid), "--net", "--mount", "--pid", "--"}
}

func (m *machine) startKubelet(ctx context.Context) (err error) {
	c := m.node.cluster
	address := nodeAddress(m.node.index)
	m.kubelet, err = c.spawn(m.node.name+"-kubelet", append(m.enter(), filepath.Join(c.bin, "kubelet"),
		"--config="+filepath.Join(m.dir, "kubelet.json"), "--kubeconfig="+c.pki.file(m.node.name+".kubeconfig"),
		"--hostname-override="+m.node.name, "--node-ip="+address)...)
	if err != nil {
		return err
	}
	err = retry(ctx, func() error {
		conn, err := c.network.dial(ctx, "tcp", net.JoinHostPort(address, "10250"))
		if err == nil {
			conn.Close()
		}
		return err
	})
	if died := context.Cause(c.ctx); died != nil {
		return died
	}
	return err
}

// kill ends all that runs on the machine, and returns when it is gone.
func (m *machine) kill() {
	for _, p := range []*process{m.kubelet, m.runtime} {
		if p != nil {
			p.asked.Store(true) // they end with the first
		}
	}
	for _, p := range []*process{m.first, m.runtime, m.kubelet} {
		if p != nil {
			p.kill()
		}
	}
}

// Load makes images and gives them to every real node, as Import does.
func (c *Cluster) Load(ctx context.Context, images ...Image) error {
	dir, err := os.MkdirTemp(c.dir, "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var archives []string
	for i, image := range images {
		archives = append(archives, filepath.Join(dir, strconv.Itoa(i)+".tar"))
		if err := image.Write(archives[i]); err != nil {
			return err
		}
	}
	return c.Import(ctx, archives...)
}

// Import gives every real node images, from archives that [Image.Write] wrote
// or any other of Docker's or OCI's format. A node that is off gets none.
func (c *Cluster) Import(ctx context.Context, archives ...string) error {
	for _, n := range c.nodes {
		if n.machine == nil {
			return fmt.Errorf("%s is a fake node, and keeps no images: %w", n.name, errors.ErrUnsupported)
		}
		argv := append(n.machine.enter(), filepath.Join(c.bin, "image-import"), runtimeSocket)
		argv = append(argv, archives...)
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("import images on %s: %w: %s", n.name, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
