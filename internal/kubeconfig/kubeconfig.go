// Package kubeconfig makes of a kubeconfig file, which speaks of many clusters
// and of files beside it, one text with all that is needed to reach one of them,
// and says what of such a text cannot be used. It calls nobody.
package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
)

// A Config is a kubeconfig. What it says of a cluster or a user beyond what is
// named here is kept as it is.
type Config struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Current    string    `json:"current-context"`
	Clusters   []cluster `json:"clusters"`
	Users      []user    `json:"users"`
	Contexts   []context `json:"contexts"`
}

type cluster struct {
	Name string         `json:"name"`
	Has  map[string]any `json:"cluster"`
}

type user struct {
	Name string         `json:"name"`
	Has  map[string]any `json:"user"`
}

type context struct {
	Name string `json:"name"`
	Has  struct {
		Cluster   string `json:"cluster"`
		User      string `json:"user"`
		Namespace string `json:"namespace,omitempty"`
	} `json:"context"`
}

// Read reads a kubeconfig and leaves of it the one context, or the current one
// where context is empty. Errors name the field "kubeconfig" or "context".
func Read(text []byte, context string) (*Config, error) {
	var c Config
	if err := yaml.Unmarshal(text, &c); err != nil {
		return nil, mlaas.Invalid("kubeconfig", "a kubeconfig in YAML", broken(err))
	}
	if len(c.Contexts) == 0 || len(c.Clusters) == 0 {
		return nil, mlaas.Invalid("kubeconfig", "a kubeconfig with a context and a cluster", fmt.Sprintf("one with %d contexts and %d clusters", len(c.Contexts), len(c.Clusters)))
	}
	if context == "" {
		context = c.Current
	}
	if context == "" && len(c.Contexts) == 1 {
		context = c.Contexts[0].Name
	}
	out := &Config{APIVersion: "v1", Kind: "Config", Current: context}
	var names []string
	for _, x := range c.Contexts {
		names = append(names, x.Name)
		if x.Name == context && out.Contexts == nil {
			out.Contexts = append(out.Contexts, x)
		}
	}
	if out.Contexts == nil {
		return nil, mlaas.Invalid("context", "one of "+strings.Join(names, ", "), context)
	}
	for _, k := range c.Clusters {
		if k.Name == out.Contexts[0].Has.Cluster && out.Clusters == nil {
			out.Clusters = append(out.Clusters, k)
		}
	}
	if out.Clusters == nil {
		return nil, mlaas.Invalid("kubeconfig", fmt.Sprintf("the cluster %q, which context %s is of", out.Contexts[0].Has.Cluster, context), "one without it")
	}
	for _, u := range c.Users {
		if u.Name == out.Contexts[0].Has.User && out.Users == nil {
			out.Users = append(out.Users, u)
		}
	}
	if out.Users == nil {
		return nil, mlaas.Invalid("kubeconfig", fmt.Sprintf("the user %q, which context %s is of", out.Contexts[0].Has.User, context), "one without it")
	}
	return out, nil
}

// broken says what is wrong with YAML, and nothing of what is in it: it may be
// a secret.
func broken(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if at := strings.Index(text, "line "); at >= 0 {
		line, _, _ := strings.Cut(text[at:], ":")
		return "no YAML: see " + line
	}
	return "something else"
}

// A reference is a field that names a file, and the field that has its content.
type reference struct {
	file, data string
	encoded    bool // the content is in base64
}

var (
	ofCluster = []reference{{"certificate-authority", "certificate-authority-data", true}}
	ofUser    = []reference{{"client-certificate", "client-certificate-data", true}, {"client-key", "client-key-data", true}, {"tokenFile", "token", false}}
)

// Inline takes into the text what it names as files. read reads one; a relative
// name is one of dir.
func (c *Config) Inline(dir string, read func(path string) ([]byte, error)) error {
	for has, refs := range c.references() {
		for _, r := range refs {
			file, _ := has[r.file].(string)
			if file == "" {
				continue
			}
			if !filepath.IsAbs(file) {
				file = filepath.Join(dir, file)
			}
			data, err := read(file)
			if err != nil {
				return fmt.Errorf("the kubeconfig names a file as %s: %w", r.file, err)
			}
			delete(has, r.file)
			if r.encoded {
				has[r.data] = base64.StdEncoding.EncodeToString(data)
			} else {
				has[r.data] = strings.TrimSpace(string(data))
			}
		}
	}
	return nil
}

func (c *Config) references() func(yield func(map[string]any, []reference) bool) {
	return func(yield func(map[string]any, []reference) bool) {
		if c.Clusters[0].Has == nil {
			c.Clusters[0].Has = map[string]any{}
		}
		if c.Users[0].Has == nil {
			c.Users[0].Has = map[string]any{}
		}
		if yield(c.Clusters[0].Has, ofCluster) {
			yield(c.Users[0].Has, ofUser)
		}
	}
}

// Server is the URL of the API server.
func (c *Config) Server() string {
	s, _ := c.Clusters[0].Has["server"].(string)
	return s
}

// Context is the name of the context that is left.
func (c *Config) Context() string { return c.Current }

// Check reports why another machine cannot reach the cluster by this text alone.
// A user that is found by a program is refused unless exec is true: the program
// runs where booster does.
func (c *Config) Check(exec bool) error {
	u, err := url.Parse(c.Server())
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return mlaas.Invalid("kubeconfig", "the URL of an API server as cluster.server, such as https://10.0.0.5:6443", c.Server())
	}
	if host := u.Hostname(); u.Scheme == "http" && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return mlaas.Invalid("kubeconfig", "https as cluster.server: whoever is on the way could read the credentials", c.Server())
	}
	if skip, _ := c.Clusters[0].Has["insecure-skip-tls-verify"].(bool); skip {
		return mlaas.Invalid("kubeconfig", "certificate-authority-data: whoever is on the way could answer as the cluster", "insecure-skip-tls-verify")
	}
	for has, refs := range c.references() {
		for _, r := range refs {
			if file, _ := has[r.file].(string); file != "" {
				return mlaas.Invalid("kubeconfig", fmt.Sprintf("%s instead of the name of a file, which is not there on another machine; `mlaas cluster add` takes files in", r.data), r.file)
			}
			text, _ := has[r.data].(string)
			if text == "" || !r.encoded {
				continue
			}
			data, err := base64.StdEncoding.DecodeString(text)
			if block, _ := pem.Decode(data); err != nil || block == nil {
				return mlaas.Invalid("kubeconfig", "PEM in base64 as "+r.data, "something else")
			}
		}
	}
	user := c.Users[0].Has
	if _, ok := user["auth-provider"]; ok {
		return mlaas.Invalid("kubeconfig", "a token, a client certificate or exec: no Kubernetes has auth-provider any more", "auth-provider")
	}
	if _, ok := user["exec"]; ok {
		if !exec {
			return mlaas.Invalid("kubeconfig", "a token or a client certificate; a program that finds one runs only where the platform was started with --allow-exec", "exec")
		}
		return nil
	}
	cert, _ := user["client-certificate-data"].(string)
	key, _ := user["client-key-data"].(string)
	token, _ := user["token"].(string)
	name, _ := user["username"].(string)
	switch {
	case name != "":
		return mlaas.Invalid("kubeconfig", "a token, a client certificate or exec: Kubernetes knows no passwords", "username")
	case (cert == "") != (key == ""):
		return mlaas.Invalid("kubeconfig", "client-certificate-data and client-key-data, both or neither", "one of them")
	case cert == "" && token == "":
		return mlaas.Invalid("kubeconfig", "a user with a token, a client certificate or exec", fmt.Sprintf("%q without any", c.Users[0].Name))
	case strings.ContainsAny(token, "\r\n"):
		return mlaas.Invalid("kubeconfig", "a token of one line", "one with a line break")
	}
	return nil
}

// Text is the kubeconfig as JSON, which is YAML too. Equal ones have equal texts.
func (c *Config) Text() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		panic(err) // it was read from the same
	}
	return b.Bytes()
}
