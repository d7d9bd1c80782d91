package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/management"
)

const ofLab = `apiVersion: v1
current-context: a
contexts: [{name: a, context: {cluster: a, user: u}}, {name: b, context: {cluster: b, user: u}}]
clusters: [{name: a, cluster: {server: "https://a"}}, {name: b, cluster: {server: "https://b"}}]
users: [{name: u, user: {tokenFile: lab.token}}]
`

// A file of clusters is read with the files that it names, again when any of
// them has changed, and a mistake changes nothing.
func TestClusterFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		write := func(file, text string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("clusters.yaml", `
clusters:
- name: lab
  kubeconfig: kube/lab.yaml
  context: b
  door: https://b/cluster/lab
  kube: {supervisor: "mlaas:1", images: {tensorflow: "tf:2"}, quota: {cpu: 4, memory: 1Gi}}
- name: far
  kind: remote
  token_file: far.token
`)
		if err := os.Mkdir(filepath.Join(dir, "kube"), 0o700); err != nil {
			t.Fatal(err)
		}
		write("kube/lab.yaml", ofLab)
		write("kube/lab.token", "t0ken\n")
		write("far.token", strings.Repeat("f", 40)+"\n")
		var applied [][]management.ClusterDeclared
		var log strings.Builder
		x := &clusterFile{Path: filepath.Join(dir, "clusters.yaml"), Log: slog.New(slog.NewTextHandler(&log, nil)),
			Apply: func(_ context.Context, all []management.ClusterDeclared) error {
				applied = append(applied, all)
				return nil
			}}
		if err := x.once(t.Context()); err != nil {
			t.Fatal(err)
		}
		lab, far := applied[0][0], applied[0][1]
		if !strings.Contains(lab.Kubeconfig, `"https://b"`) || strings.Contains(lab.Kubeconfig, `"https://a"`) || !strings.Contains(lab.Kubeconfig, `"token":"t0ken"`) || lab.Kube.Quota.CPU != 4000 || lab.Kube.Images["tensorflow"] != "tf:2" {
			t.Errorf("it is %+v", lab)
		}
		if far.Kind != mlaas.ClusterRemote || far.Token != strings.Repeat("f", 40) {
			t.Errorf("it is %+v", far)
		}

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- x.Run(ctx) }()
		times := func(want int, why string) {
			t.Helper()
			time.Sleep(2 * fileEvery)
			synctest.Wait()
			if len(applied) != want {
				t.Fatalf("%s: it was applied %d times, want %d", why, len(applied), want)
			}
		}
		times(1, "nothing changed")
		write("kube/lab.token", "another\n")
		times(2, "a file that it names changed")
		write("clusters.yaml", "clusters: [")
		times(2, "it is no YAML")
		write("clusters.yaml", "clusters: [{name: far, kind: remote, token_fil: far.token}]")
		times(2, "it has a field that is not there")
		if got := strings.Count(log.String(), "level=ERROR"); got != 2 || !strings.Contains(log.String(), "token_fil") {
			t.Errorf("two mistakes are said %d times: %s", got, log.String())
		}
		write("clusters.yaml", "clusters: [{name: far, kind: remote, token_file: far.token}]")
		times(3, "it is right again")
		if len(applied[2]) != 1 {
			t.Errorf("it is %+v", applied[2])
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), "t0ken") || strings.Contains(log.String(), "ffff") {
			t.Error("the log has a secret")
		}
	})
}

func TestInsideCheck(t *testing.T) {
	for says, x := range map[string]inside{
		"--gateway":            {gateways: []string{"booster:7482"}, tokenFile: "t", on: "local"},
		"--cluster-token-file": {gateways: []string{"https://b"}, on: "local"},
		"--on":                 {gateways: []string{"https://b"}, tokenFile: "t", on: "nomad"},
		"--door":               {gateways: []string{"https://b"}, tokenFile: "t", on: "kubernetes"},
	} {
		err := x.check()
		var told tell
		text := ""
		if err != nil {
			text = err.Error()
		}
		if errors.As(err, &told) {
			text += told.Why
		}
		if !errors.Is(err, mlaas.ErrInvalid) && told.Kind != mlaas.ErrInvalid || !strings.Contains(text, says) {
			t.Errorf("%+v: %v, want %s", x, err, says)
		}
	}
	if err := (inside{gateways: []string{"https://b"}, tokenFile: "t", on: "local"}).check(); err != nil {
		t.Error(err)
	}
}
