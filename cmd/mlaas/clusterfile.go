package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/management"
)

// A clusterFile is a YAML file that says which clusters there are:
//
//	clusters:
//	- name: lab
//	  kubeconfig: lab.kubeconfig        # a file beside this one
//	  door: https://booster.example.org/cluster/lab
//	  kube: {supervisor: registry.example.org/mlaas:1}
//	- name: far
//	  kind: remote
//	  token_file: far.token
//
// It is read again when it or a file that it names has changed.
type clusterFile struct {
	Path  string
	Exec  bool // a kubeconfig may name a program
	Apply func(context.Context, []management.ClusterDeclared) error
	Log   *slog.Logger

	last []byte // what was applied
}

// fileEvery is how often the file is looked at: a volume of Kubernetes changes
// it by a link that no file system tells of.
const fileEvery = 5 * time.Second

// read reads the file and those that it names.
func (x *clusterFile) read() ([]management.ClusterDeclared, error) {
	text, err := os.ReadFile(x.Path)
	if err != nil {
		return nil, err
	}
	as, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no YAML: %w: %w", x.Path, err, mlaas.ErrSyntax)
	}
	var in struct {
		Clusters []struct {
			management.ClusterDeclared
			TokenFile string `json:"token_file,omitempty"`
		} `json:"clusters"`
	}
	if err := mlaas.Decode(as, &in); err != nil {
		return nil, fmt.Errorf("%s: %w", x.Path, err)
	}
	var all []management.ClusterDeclared
	beside := func(file string) string {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(filepath.Dir(x.Path), file)
	}
	for i, c := range in.Clusters {
		d := c.ClusterDeclared
		if d.Kubeconfig != "" {
			config, err := readKubeconfig(beside(d.Kubeconfig), d.Context, x.Exec)
			if err != nil {
				return nil, fmt.Errorf("%s: clusters[%d]: %w", x.Path, i, err)
			}
			d.Kubeconfig, d.Context = string(config.Text()), config.Context()
		}
		if c.TokenFile != "" {
			if d.Token, err = readLine(beside(c.TokenFile)); err != nil {
				return nil, fmt.Errorf("%s: clusters[%d]: %w", x.Path, i, err)
			}
		}
		all = append(all, d)
	}
	return all, nil
}

// once applies the file, if it is not what was applied last.
func (x *clusterFile) once(ctx context.Context) error {
	all, err := x.read()
	if err != nil {
		return err
	}
	type whole struct {
		management.ClusterDeclared
		Secret string
	}
	var now bytes.Buffer
	for _, d := range all {
		if err := json.NewEncoder(&now).Encode(whole{d, d.Token}); err != nil {
			return err
		}
	}
	if x.last != nil && bytes.Equal(now.Bytes(), x.last) {
		return nil
	}
	if err := x.Apply(ctx, all); err != nil {
		return fmt.Errorf("%s: %w", x.Path, err)
	}
	x.last = append([]byte{}, now.Bytes()...)
	x.Log.Info("the file of clusters is applied", "file", x.Path, "clusters", len(all))
	return nil
}

// Run looks at the file again and again. One that is wrong changes nothing, and
// is said once.
func (x *clusterFile) Run(ctx context.Context) error {
	tick := time.NewTicker(fileEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := x.once(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			x.Log.Error("the file of clusters is not applied; what was applied before stands", "error", err)
		}
	}
}
