//go:build linux

package kubetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const cgroups = "/sys/fs/cgroup"

// makeCgroup makes a cgroup in every hierarchy. A kubelet does not make the one
// that it is to use.
func makeCgroup(name string) error {
	if _, err := os.Stat(cgroups + "/cgroup.controllers"); err == nil { // version 2: one hierarchy
		return os.MkdirAll(cgroups+name, 0o755)
	}
	hierarchies, err := os.ReadDir(cgroups)
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if !h.IsDir() || h.Name() == "unified" {
			continue
		}
		if err := os.MkdirAll(filepath.Join(cgroups, h.Name(), name), 0o755); err != nil {
			return err
		}
	}
	// No process may enter a group of this hierarchy before it has these.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(cgroups, "cpuset", file))
		if err != nil {
			return err
		}
		for _, group := range []string{filepath.Dir(name), name} {
			if err := os.WriteFile(filepath.Join(cgroups, "cpuset", group, file), all, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes the cgroups of that name, in every hierarchy.
func removeCgroups(name string) error {
	tops, err := filepath.Glob(filepath.Join(cgroups, "*", name))
	if err != nil {
		return err
	}
	for _, top := range append(tops, filepath.Join(cgroups, name)) {
		var groups []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return nil // what is gone meanwhile is what is wanted
		})
		if err != nil {
			return err
		}
		for i := len(groups) - 1; i >= 0; i-- { // children are behind their parents
			if err := os.Remove(groups[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("a cgroup is left: %w", err)
			}
		}
	}
	return nil
}
