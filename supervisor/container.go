package supervisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"mlaas.dev/mlaas"
)

// What the supervisor of a container is told, instead of by a file: variables
// of its own, which the program does not get.
const (
	ConfigVariable  = "MLAAS_SUPERVISOR" // a Config as JSON, without what the others say
	DoorVariable    = "MLAAS_DOOR"
	TokenVariable   = "MLAAS_TOKEN"
	AddressVariable = "MLAAS_ADDRESS"
	NodeVariable    = "MLAAS_NODE"
)

// ReadContainer reads the configuration of the replica whose container this is,
// and makes the folders of its program. Afterwards the variables are gone, and
// no process of the same user may look into this one: it knows the token.
func ReadContainer() (c Config, err error) {
	take := func(name string) string {
		v := os.Getenv(name)
		os.Unsetenv(name)
		return v
	}
	if err := hide(); err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(take(ConfigVariable)), &c); err != nil {
		return c, fmt.Errorf("%s is not the configuration of a replica: %w", ConfigVariable, err)
	}
	for name, to := range map[string]*string{DoorVariable: &c.Door, TokenVariable: &c.Token, AddressVariable: &c.Address, NodeVariable: &c.Node} {
		if *to = take(name); *to == "" {
			return c, fmt.Errorf("%s is empty: %w", name, mlaas.ErrInvalid)
		}
	}
	if !filepath.IsAbs(c.Folder) {
		return c, fmt.Errorf("the folder of the replica is %q, want an absolute path: %w", c.Folder, mlaas.ErrInvalid)
	}
	for _, dirs := range [][]string{Writable, ReadOnly} {
		for _, dir := range dirs {
			if err := os.MkdirAll(filepath.Join(c.Folder, dir), 0o755); err != nil {
				return c, err
			}
		}
	}
	c.Groups = Groups{
		CPU:    firstWith("cpuacct.usage", "cpu.stat"),
		Memory: firstWith("memory.usage_in_bytes", "memory.current"),
	}
	c.complete()
	return c, nil
}

// firstWith is where a container sees the control group that has one of these
// files: version 1 has a folder for each controller, version 2 one for all.
func firstWith(files ...string) string {
	for _, dir := range []string{"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		for _, file := range files {
			if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
				return dir
			}
		}
	}
	return ""
}
