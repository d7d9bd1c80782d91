package kubeconfig_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/kubeconfig"
)

const pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

// two is what a person has: two clusters, with what they need in files.
const two = `
apiVersion: v1
kind: Config
current-context: lab
clusters:
- name: lab
  cluster: {server: "https://10.0.0.5:6443", certificate-authority: pki/ca.crt, tls-server-name: kubernetes}
- name: cloud
  cluster: {server: "https://cloud.example.org", certificate-authority-data: ` + "%CA%" + `}
contexts:
- name: lab
  context: {cluster: lab, user: me, namespace: ml}
- name: cloud
  context: {cluster: cloud, user: program}
users:
- name: me
  user: {tokenFile: /var/token}
- name: program
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, args: [eks, get-token]}}
`

func text() []byte {
	return []byte(strings.ReplaceAll(two, "%CA%", base64.StdEncoding.EncodeToString([]byte(pem))))
}

func read(path string) ([]byte, error) {
	switch path {
	case "/home/me/.kube/pki/ca.crt":
		return []byte(pem), nil
	case "/var/token":
		return []byte("t0ken\n"), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// What comes out has one cluster, with all that it needs, and says the same.
func TestInline(t *testing.T) {
	c, err := kubeconfig.Read(text(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(false); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "certificate-authority-data") {
		t.Errorf("with names of files it is %v", err)
	}
	if err := c.Inline("/home/me/.kube", read); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(false); err != nil {
		t.Error(err)
	}
	again, err := kubeconfig.Read(c.Text(), "")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Text(), c.Text()) || again.Check(false) != nil || again.Server() != "https://10.0.0.5:6443" || again.Context() != "lab" {
		t.Errorf("read again it is\n%s", again.Text())
	}
	for _, want := range []string{`"token":"t0ken"`, `"tls-server-name":"kubernetes"`, `"namespace":"ml"`} {
		if !strings.Contains(string(c.Text()), want) {
			t.Errorf("%s is not in\n%s", want, c.Text())
		}
	}
	for _, no := range []string{"tokenFile", "cloud", "pki/ca.crt"} {
		if strings.Contains(string(c.Text()), no) {
			t.Errorf("%s is still in\n%s", no, c.Text())
		}
	}
	gone, _ := kubeconfig.Read(text(), "lab")
	if err := gone.Inline("/elsewhere", read); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "certificate-authority") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestCheck(t *testing.T) {
	make := func(cluster, user string) string {
		return `{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
			"clusters": [{"name": "a", "cluster": ` + cluster + `}], "users": [{"name": "a", "user": ` + user + `}]}`
	}
	const good, token = `{"server": "https://a:6443"}`, `{"token": "t0ken"}`
	tests := []struct {
		name, text, context string
		exec                bool
		says                string // empty: nothing is wrong
	}{
		{"token", make(good, token), "", false, ""},
		{"a context that is not there", make(good, token), "b", false, `context is "b", want one of a`},
		{"no YAML", "a: [t0ken", "", false, "kubeconfig"},
		{"empty", "", "", false, "0 contexts"},
		{"no URL", make(`{"server": "a:6443"}`, token), "", false, "cluster.server"},
		{"no cluster", make(`null`, token), "", false, "cluster.server"},
		{"a bad certificate", make(`{"server": "https://a", "certificate-authority-data": "AAAA"}`, token), "", false, "PEM"},
		{"a file", make(good, `{"client-certificate": "/a", "client-key": "/b"}`), "", false, "client-certificate-data"},
		{"half a certificate", make(good, `{"client-key-data": "`+base64.StdEncoding.EncodeToString([]byte(pem))+`"}`), "", false, "both or neither"},
		{"nobody", make(good, `{}`), "", false, "a user with a token"},
		{"a broken token", make(good, `{"token": "t0k\nen"}`), "", false, "one line"},
		{"a program", make(good, `{"exec": {"command": "aws"}}`), "", false, "--allow-exec"},
		{"a program that is allowed", make(good, `{"exec": {"command": "aws"}}`), "", true, ""},
		{"in plain text", make(`{"server": "http://10.0.0.5"}`, token), "", false, "https"},
		{"in plain text to this machine", make(`{"server": "http://127.0.0.1:1"}`, token), "", false, ""},
		{"whoever answers", make(`{"server": "https://a", "insecure-skip-tls-verify": true}`, token), "", false, "certificate-authority-data"},
		{"a password", make(good, `{"username": "u", "password": "t0k"}`), "", false, "no passwords"},
		{"of the past", make(good, `{"auth-provider": {"name": "gcp"}}`), "", true, "auth-provider"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := kubeconfig.Read([]byte(tt.text), tt.context)
			if err == nil {
				err = c.Check(tt.exec)
			}
			switch {
			case tt.says == "" && err != nil:
				t.Error(err)
			case tt.says != "" && (!errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("it says %v, want %s", err, tt.says)
			case err != nil && strings.Contains(err.Error(), "t0k"):
				t.Errorf("what is secret is in the sentence: %v", err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(text())
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := kubeconfig.Read(text, "")
		if err != nil {
			return
		}
		_ = c.Inline("/", read)
		if c.Check(true) == nil {
			if again, err := kubeconfig.Read(c.Text(), ""); err != nil || again.Check(true) != nil {
				t.Errorf("read again it is wrong: %v", err)
			}
		}
	})
}
