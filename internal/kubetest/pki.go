//go:build linux

package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// An authority signs the certificates of one cluster.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// A pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

func newAuthority(dir string) (*authority, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "kubetest"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return a, a.write("ca", pair{a.pem, keyPEM})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// file is where the certificate or the key of that name is.
func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name string, p pair) error {
	if err := os.WriteFile(a.file(name+".crt"), p.cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.file(name+".key"), p.key, 0o600)
}

// issue signs a certificate for a user and its groups, which is also a server
// at the addresses and names of hosts.
func (a *authority) issue(user string, groups []string, until time.Time, hosts ...string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		NotBefore:    a.cert.NotBefore, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	keyPEM, err := encodeKey(key)
	return pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM}, err
}

// kubeconfig is the file by which a user reaches the API server at address.
func (a *authority) kubeconfig(address, user string, groups []string, until time.Time) ([]byte, error) {
	p, err := a.issue(user, groups, until)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	return json.MarshalIndent(object{ // which is YAML too
		"apiVersion": "v1", "kind": "Config", "current-context": "kubetest",
		"clusters": []object{{"name": "kubetest", "cluster": object{"server": "https://" + address, "certificate-authority-data": a.pem}}},
		"users":    []object{{"name": "kubetest", "user": object{"client-certificate-data": p.cert, "client-key-data": p.key}}},
		"contexts": []object{{"name": "kubetest", "context": object{"cluster": "kubetest", "user": "kubetest"}}},
	}, "", "  ")
}

// component writes the kubeconfig of a part of the cluster, and returns where it is.
func (a *authority) component(name, user string, groups ...string) (string, error) {
	text, err := a.kubeconfig(apiAddress, user, groups, a.cert.NotAfter)
	if err != nil {
		return "", err
	}
	file := a.file(name + ".kubeconfig")
	return file, os.WriteFile(file, text, 0o600)
}

// client speaks for the administrator over what dial gives.
func (a *authority) client(dial func(ctx context.Context, network, address string) (net.Conn, error)) (*http.Client, error) {
	p, err := a.issue(administrator, administrators, a.cert.NotAfter)
	if err != nil {
		return nil, err
	}
	return a.clientOf(p, dial)
}

func (a *authority) clientOf(p pair, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*http.Client, error) {
	cert, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &http.Client{Transport: &http.Transport{
		DialContext:     dial,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots},
		// A connection each for calls and watches: the API server that is killed
		// is noticed by each, and HTTP/2 would wait for its pings.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}}, nil
}

const administrator = "kubetest-admin"

var administrators = []string{"system:masters"} // whom every API server obeys

// Kubeconfig reaches the API server from this machine, as an administrator.
func (c *Cluster) Kubeconfig() []byte {
	text, err := c.KubeconfigFor(administrator, administrators, c.pki.cert.NotAfter)
	if err != nil {
		panic(err) // no randomness, no memory
	}
	return text
}

// KubeconfigFor is Kubeconfig for whom the certificate says, as long as it says:
// what he may do is up to the roles in the cluster.
func (c *Cluster) KubeconfigFor(user string, groups []string, until time.Time) ([]byte, error) {
	return c.pki.kubeconfig(c.address, user, groups, until)
}
