package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/supervisor"
)

// The files that the executor keeps in a replica's folder, besides those of
// the supervisor.
const (
	aboutFile = "replica.json"
	endFile   = "ended.json"
	enterFile = "enter.json"
	initFile  = "init.json" // the first process of the sandbox
	downFile  = "down"      // it was ended with the platform
	rootDir   = "root"      // where the sandbox hangs its own root
)

// about is what the executor must know of a replica after a restart.
type about struct {
	Fence   mlaas.Fence     `json:"fence"`
	Job     mlaas.JobID     `json:"job"`
	Boot    string          `json:"boot"`
	Created time.Time       `json:"created"`
	Ceiling mlaas.Resources `json:"ceiling"`
	GPUs    []int           `json:"gpus,omitempty"`
	User    int             `json:"user,omitempty"`
}

// end says how a replica ended, seen from the outside.
type end struct {
	Status   mlaas.ReplicaStatus `json:"status"`
	Reason   string              `json:"reason"`
	ExitCode *int                `json:"exitCode,omitempty"`
	At       time.Time           `json:"at"`
}

func readAbout(folder string) (a about, err error) {
	data, err := os.ReadFile(filepath.Join(folder, aboutFile))
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err == nil && a.Fence.String() != filepath.Base(folder) {
		err = fmt.Errorf("it is of replica %s", a.Fence)
	}
	return a, err
}

func readEnd(folder string) (x end, ok bool) {
	data, err := os.ReadFile(filepath.Join(folder, endFile))
	return x, err == nil && json.Unmarshal(data, &x) == nil
}

func readProcess(folder, file string) (p supervisor.Process, err error) {
	data, err := os.ReadFile(filepath.Join(folder, file))
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err
}

// make makes the folder: complete, or not at all.
func (r *replica) make(s booster.Spec) error {
	e := r.e
	temp, err := os.MkdirTemp(e.Dir, ".new-*") // 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for _, dir := range slices.Concat(supervisor.Writable, supervisor.ReadOnly, []string{rootDir}) {
		if err := os.Mkdir(filepath.Join(temp, dir), 0o755); err != nil {
			return err
		}
	}
	if u := r.about.User; u != 0 {
		for _, dir := range supervisor.Writable {
			if err := os.Chown(filepath.Join(temp, dir), u, u); err != nil {
				return err
			}
		}
	}
	c := supervisor.Config{
		Fence: s.Fence, Job: s.Job, Door: s.Door, Token: s.Token, Folder: r.folder,
		EnvDir: e.EnvDir, DataDir: e.DataDir, Node: e.Node, Address: e.Address,
		Owner: r.about.User, Ceiling: s.Ceiling, Limits: e.limits,
		Quiet: mlaas.Seconds(e.Quiet.Seconds()), Spool: e.Spool, Vars: supervisor.Vars{},
	}
	if len(e.gpus) > 0 {
		c.Vars["CUDA_VISIBLE_DEVICES"] = e.visible(r.about.GPUs)
	}
	g := e.groups.of(s.Fence)
	c.Groups = supervisor.Groups{CPU: g.usage(), Memory: g.memory()}
	if e.sandbox || len(g.program()) > 0 {
		c.Enter = []string{e.Binary, "enter", filepath.Join(r.folder, enterFile)}
		c.Join = []string{e.Binary, "enter", "--join", filepath.Join(r.folder, enterFile)}
		in := entrance{Groups: g.program(), Folder: r.folder, Sandbox: e.sandbox, User: r.about.User, Hide: filepath.Dir(e.Dir)}
		if e.sandbox {
			c.Vars["TMPDIR"] = "" // its /tmp is its own
			in.Devices = e.devices(r.about.GPUs)
		}
		if err := supervisor.WriteFile(filepath.Join(temp, enterFile), in); err != nil {
			return err
		}
	}
	if err := supervisor.WriteFile(filepath.Join(temp, supervisor.ConfigFile), c); err != nil {
		return err
	}
	if err := supervisor.WriteFile(filepath.Join(temp, aboutFile), r.about); err != nil {
		return err
	}
	return os.Rename(temp, r.folder)
}

// clean removes from a folder all but what tells of the replica later.
func clean(folder string) error {
	stay := []string{aboutFile, endFile, supervisor.ProcessFile, supervisor.CompletionFile, supervisor.LogFile}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if !slices.Contains(stay, entry.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(folder, entry.Name())))
		}
	}
	return err
}

// Replicas run under users of their own, which nobody else on the machine has.
const (
	firstUser = 200_000
	manyUsers = 60_000
)

// takeUser chooses a user that no other replica has now. The lock is held.
func (e *Executor) takeUser(f mlaas.Fence) int {
	taken := map[int]bool{}
	for _, r := range e.replicas {
		if !r.final() {
			taken[r.about.User] = true
		}
	}
	u := int(crc32.ChecksumIEEE([]byte(f.String()))) % manyUsers
	for taken[firstUser+u] {
		u = (u + 1) % manyUsers
	}
	return firstUser + u
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// environ is what a supervisor inherits of our own environment: not the
// platform's token.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MLAAS_TOKEN=") || strings.HasPrefix(v, "MLAAS_URL=")
	})
}
