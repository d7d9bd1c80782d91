//go:build linux

package kubetest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

// startControl starts the control plane and returns when pods can be made.
func (c *Cluster) startControl(ctx context.Context) error {
	if err := c.control(); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	// Only now: before the API server has made its own roles, they would be refused and end.
	if err := c.startManager(); err != nil {
		return err
	}
	if err := c.startScheduler(); err != nil {
		return err
	}
	// A pod without a service account is refused, and the first one is made by the manager.
	err := Until(ctx, c, "/api/v1/namespaces/default/serviceaccounts", func(account struct{ Metadata meta }) (bool, error) {
		return account.Metadata.Name == "default", nil
	})
	if err != nil {
		return fmt.Errorf("wait for the service account of pods: %w", err)
	}
	return nil
}

type meta struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// control writes the certificates and keys of the control plane.
func (c *Cluster) control() error {
	for _, server := range []struct {
		name, user string
		groups     []string
		hosts      []string
	}{
		{"apiserver", "kube-apiserver", nil, []string{"127.0.0.1", clusterAddress, serviceAddress, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
		{"kubelet-client", "kube-apiserver-kubelet-client", administrators, nil},
		{"front-proxy", "front-proxy-client", nil, nil},
	} {
		p, err := c.pki.issue(server.user, server.groups, c.pki.cert.NotAfter, server.hosts...)
		if err != nil {
			return err
		}
		if err := c.pki.write(server.name, p); err != nil {
			return err
		}
	}
	// Tokens of service accounts are signed by RSA keys where readers are old.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return c.pki.write("accounts", pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
	})
}

func (c *Cluster) startEtcd() error {
	const peer = "http://127.0.0.1:2380"
	_, err := c.run("etcd", filepath.Join(c.bin, "etcd"), "--name=kubetest", "--data-dir="+filepath.Join(c.dir, "etcd"),
		"--listen-client-urls=http://"+etcdAddress, "--advertise-client-urls=http://"+etcdAddress,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=kubetest="+peer,
		"--unsafe-no-fsync", "--quota-backend-bytes=2147483648", "--auto-compaction-retention=5m", "--log-level=warn")
	return err
}

// StartAPIServer starts the API server, again after [Cluster.StopAPIServer],
// and returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	_, port, err := net.SplitHostPort(apiAddress)
	if err != nil {
		return err
	}
	args := []string{filepath.Join(c.bin, "kube-apiserver"), "--etcd-servers=http://" + etcdAddress,
		"--bind-address=" + clusterAddress, "--advertise-address=" + clusterAddress, "--secure-port=" + port,
		"--tls-cert-file=" + c.pki.file("apiserver.crt"), "--tls-private-key-file=" + c.pki.file("apiserver.key"), "--client-ca-file=" + c.pki.file("ca.crt"),
		"--service-account-key-file=" + c.pki.file("accounts.crt"), "--service-account-signing-key-file=" + c.pki.file("accounts.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=" + serviceRange,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate=" + c.pki.file("kubelet-client.crt"), "--kubelet-client-key=" + c.pki.file("kubelet-client.key"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + c.pki.file("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.pki.file("front-proxy.crt"), "--proxy-client-key-file=" + c.pki.file("front-proxy.key"),
		"--endpoint-reconciler-type=lease", "--max-requests-inflight=800", "--max-mutating-requests-inflight=400", "--shutdown-delay-duration=0s"}
	if c.opts.FastEviction {
		args = append(args, "--default-not-ready-toleration-seconds=1", "--default-unreachable-toleration-seconds=1")
	}
	if _, err := c.run("kube-apiserver", args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	err = retry(ctx, func() error { return c.Call(ctx, http.MethodGet, "/readyz", nil, nil) })
	if died := context.Cause(c.ctx); died != nil {
		return died
	}
	if err != nil {
		return fmt.Errorf("the API server does not become ready: %w", err)
	}
	return nil
}

// StopAPIServer ends the API server as kill -9 does. All else goes on; etcd
// keeps what it acknowledged.
func (c *Cluster) StopAPIServer() { c.kill("kube-apiserver") }

// kill ends a process of the cluster, if it runs.
func (c *Cluster) kill(name string) {
	c.mu.Lock()
	p := c.processes[name]
	c.mu.Unlock()
	if p != nil {
		p.kill()
	}
}

func (c *Cluster) startManager() error {
	kubeconfig, err := c.pki.component("manager", "system:kube-controller-manager")
	if err != nil {
		return err
	}
	args := []string{filepath.Join(c.bin, "kube-controller-manager"),
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.pki.file("accounts.key"), "--root-ca-file=" + c.pki.file("ca.crt"),
		"--cluster-signing-cert-file=" + c.pki.file("ca.crt"), "--cluster-signing-key-file=" + c.pki.file("ca.key"),
		"--kube-api-qps=300", "--kube-api-burst=600"}
	if c.opts.FastEviction {
		// By itself it taints one node in 10 s, and none in a small cluster that
		// has lost more than half of its nodes.
		args = append(args, "--node-monitor-period=1s", fmt.Sprintf("--node-monitor-grace-period=%ds", fastGrace),
			"--node-eviction-rate=10", "--secondary-node-eviction-rate=10", "--large-cluster-size-threshold=0")
	}
	_, err = c.run("kube-controller-manager", args...)
	return err
}

// With FastEviction a node is dead that was silent for so many seconds; it says
// that it lives four times in the life of its lease.
const (
	fastGrace = 8
	fastLease = 6
	slowLease = 40
)

func (c *Cluster) lease() int {
	if c.opts.FastEviction {
		return fastLease
	}
	return slowLease
}

func (c *Cluster) startScheduler() error {
	kubeconfig, err := c.pki.component("scheduler", "system:kube-scheduler")
	if err != nil {
		return err
	}
	_, err = c.run("kube-scheduler", filepath.Join(c.bin, "kube-scheduler"),
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000")
	return err
}

// writeFile writes a file of settings in the folder of the cluster.
func (c *Cluster) writeFile(name, text string) (string, error) {
	file := filepath.Join(c.dir, name)
	return file, os.WriteFile(file, []byte(text), 0o600)
}
