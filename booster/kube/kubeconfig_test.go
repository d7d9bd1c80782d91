package kube

import (
	"errors"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

// config is a kubeconfig of two contexts, with the given entries of its
// cluster and its user.
func config(cluster, user string) []byte {
	return []byte(`apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u}}
- {name: there, context: {cluster: nowhere, user: u}}
- {name: nobody, context: {cluster: c, user: nobody}}
clusters:
- name: c
  cluster: {` + cluster + `}
users:
- name: u
  user: {` + user + `}
`)
}

const server, token = "server: 'https://10.0.0.1:6443'", "token: very-secret"

func TestParse(t *testing.T) {
	exec := "exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, args: [eks, get-token], interactiveMode: Never}"
	tests := []struct {
		name    string
		text    []byte
		context string
		allow   Allow
		wrong   string // in the error; empty: there is none
	}{
		{name: "a token", text: config(server, token)},
		{name: "over http to oneself", text: config("server: 'http://127.0.0.1:8080'", token)},
		{name: "exec that is allowed", text: config(server, exec), allow: Allow{Exec: true}},
		{name: "exec", text: config(server, exec), wrong: `kubeconfig.users.u.exec is "aws"`},
		{name: "no YAML", text: []byte("{"), wrong: "kubeconfig cannot be read"},
		{name: "nothing", text: nil, wrong: "kubeconfig.contexts is empty"},
		{name: "no such context", text: config(server, token), context: "away", wrong: `kubeconfig.context is "away", want one of here, nobody, there`},
		{name: "no such cluster", text: config(server, token), context: "there", wrong: `kubeconfig.contexts.there.cluster is "nowhere"`},
		{name: "no such user", text: config(server, token), context: "nobody", wrong: `kubeconfig.contexts.nobody.user is "nobody"`},
		{name: "no server", text: config("server: ''", token), wrong: "kubeconfig.clusters.c.server"},
		{name: "over http", text: config("server: 'http://10.0.0.1'", token), wrong: "want https"},
		{name: "over http that is allowed", text: config("server: 'http://10.0.0.1'", token), allow: Allow{Insecure: true}},
		{name: "a file of certificates", text: config(server+", certificate-authority: /etc/ca.crt", token), wrong: "kubeconfig.clusters.c.certificate-authority"},
		{name: "no certificates", text: config(server+", certificate-authority-data: eHh4", token), wrong: "3 bytes of something else"},
		{name: "whoever answers", text: config(server+", insecure-skip-tls-verify: true", token), wrong: "insecure-skip-tls-verify is true, want false"},
		{name: "a file of a token", text: config(server, "tokenFile: /run/token"), wrong: "kubeconfig.users.u.tokenFile"},
		{name: "a file of a key", text: config(server, "client-key: /etc/key"), wrong: "kubeconfig.users.u.client-key"},
		{name: "a certificate without a key", text: config(server, "client-certificate-data: eHh4"), wrong: "client-certificate-data"},
		{name: "a password", text: config(server, "username: joe, password: very-secret"), wrong: "kubeconfig.users.u.username"},
		{name: "a provider of old", text: config(server, "auth-provider: {name: gcp}"), wrong: "kubeconfig.users.u.auth-provider"},
		{name: "nobody", text: config(server, ""), wrong: "kubeconfig.users.u.token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Parse(tt.text, tt.context, tt.allow)
			if tt.wrong == "" {
				if err != nil {
					t.Fatal(err)
				}
				if a.Context != "here" || a.Server == "" || a.User != "u" || len(a.Contexts) != 3 || a.config.Host != a.Server {
					t.Errorf("it is %+v", a)
				}
				return
			}
			if err == nil || !errors.Is(err, mlaas.ErrInvalid) {
				t.Fatalf("the error is %v, want one of kind %v", err, mlaas.ErrInvalid)
			}
			if !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "very-secret") {
				t.Errorf("it says %q, want %q in it", err, tt.wrong)
			}
		})
	}
}
