package kube

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"mlaas.dev/mlaas"
)

// An Access is how one context of a kubeconfig reaches its API server.
type Access struct {
	Context  string   // the one that was chosen
	Contexts []string // all that are there, sorted
	Server   string   // the API server's URL
	User     string   // the name of the entry whose credentials are used
	Exec     string   // the command that makes credentials; empty: they are in the file

	config *rest.Config
}

// Allow is what a kubeconfig may have that is not safe everywhere.
type Allow struct {
	// Exec lets a command of the kubeconfig be run in the booster to make
	// credentials, as managed clusters want it.
	Exec bool

	// Insecure lets an API server be talked to without knowing that it is the
	// one that is meant.
	Insecure bool
}

// Parse reads a kubeconfig with everything in it, and takes one context: "" is
// the current one, or the only one. It does not connect. What is wrong is a
// [mlaas.FieldError] whose text has no secret in it.
func Parse(kubeconfig []byte, context string, allow Allow) (*Access, error) {
	c, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig cannot be read: %v: %w", err, mlaas.ErrInvalid)
	}
	a := &Access{Contexts: slices.Sorted(maps.Keys(c.Contexts))}
	if len(a.Contexts) == 0 {
		return nil, mlaas.Invalid("kubeconfig.contexts", "at least one context", a.Contexts)
	}
	if a.Context = cmp.Or(context, c.CurrentContext); a.Context == "" && len(a.Contexts) == 1 {
		a.Context = a.Contexts[0]
	}
	in := c.Contexts[a.Context]
	if in == nil {
		return nil, mlaas.Invalid("kubeconfig.context", "one of "+strings.Join(a.Contexts, ", "), a.Context)
	}
	at, cluster := "kubeconfig.clusters."+in.Cluster, c.Clusters[in.Cluster]
	if cluster == nil {
		return nil, mlaas.Invalid("kubeconfig.contexts."+a.Context+".cluster", "the name of an entry of clusters", in.Cluster)
	}
	if err := checkCluster(cluster, allow); err != nil {
		return nil, mlaas.In(at, err)
	}
	at, user := "kubeconfig.users."+in.AuthInfo, c.AuthInfos[in.AuthInfo]
	if user == nil {
		return nil, mlaas.Invalid("kubeconfig.contexts."+a.Context+".user", "the name of an entry of users", in.AuthInfo)
	}
	if err := checkUser(user, allow); err != nil {
		return nil, mlaas.In(at, err)
	}
	a.Server, a.User = cluster.Server, in.AuthInfo
	if user.Exec != nil {
		a.Exec = user.Exec.Command
		user.Exec.InteractiveMode = api.NeverExecInteractiveMode // nobody is there to answer
	}
	a.config, err = clientcmd.NewNonInteractiveClientConfig(*c, a.Context, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig context %s cannot be used: %v: %w", a.Context, err, mlaas.ErrInvalid)
	}
	return a, nil
}

// InCluster is how a pod reaches the cluster that it is in: by its service
// account, whose token is read again as it changes.
func InCluster() (*Access, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("this process is in no pod of a cluster: %v: %w", err, mlaas.ErrInvalid)
	}
	const name = "in-cluster"
	return &Access{Context: name, Contexts: []string{name}, Server: config.Host, User: "the service account of the pod", config: config}, nil
}

// inlined says how a file becomes content.
const inlined = "its content: files of another machine cannot be read here; kubectl config view --raw --flatten puts it in"

func checkCluster(c *api.Cluster, allow Allow) error {
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return mlaas.Invalid("server", "a URL such as https://host:6443", c.Server)
	}
	if u.Scheme == "http" && !allow.Insecure && !loopback(u.Hostname()) {
		return mlaas.Invalid("server", "https: anybody on the way could read the credentials", c.Server)
	}
	if c.CertificateAuthority != "" {
		return mlaas.Invalid("certificate-authority", "certificate-authority-data with "+inlined, c.CertificateAuthority)
	}
	if c.InsecureSkipTLSVerify && !allow.Insecure {
		return mlaas.Invalid("insecure-skip-tls-verify", "false, with certificate-authority-data: anybody could answer as this cluster", true)
	}
	if pem := c.CertificateAuthorityData; len(pem) > 0 && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return mlaas.Invalid("certificate-authority-data", "certificates in PEM, in base64", fmt.Sprintf("%d bytes of something else", len(pem)))
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func checkUser(u *api.AuthInfo, allow Allow) error {
	for _, file := range []struct{ field, path string }{
		{"client-certificate", u.ClientCertificate}, {"client-key", u.ClientKey}, {"tokenFile", u.TokenFile},
	} {
		if file.path != "" {
			as := file.field + "-data"
			if file.field == "tokenFile" {
				as = "token"
			}
			return mlaas.Invalid(file.field, as+" with "+inlined, file.path)
		}
	}
	switch {
	case u.AuthProvider != nil:
		return mlaas.Invalid("auth-provider", "exec, token or client-certificate-data: Kubernetes has given up such providers", u.AuthProvider.Name)
	case u.Username != "":
		return mlaas.Invalid("username", "exec, token or client-certificate-data: Kubernetes knows no passwords", u.Username)
	case u.Exec != nil && !allow.Exec:
		return mlaas.Invalid("exec", "a token or a certificate, or leave to run this command where the booster is", u.Exec.Command)
	case u.Exec == nil && u.Token == "" && len(u.ClientCertificateData) == 0:
		return mlaas.Invalid("token", "a token, client-certificate-data or exec", "")
	}
	if len(u.ClientCertificateData) > 0 {
		if _, err := tls.X509KeyPair(u.ClientCertificateData, u.ClientKeyData); err != nil {
			return mlaas.Invalid("client-certificate-data", "a certificate whose key is client-key-data", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	return nil
}
