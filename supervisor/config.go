package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"mlaas.dev/mlaas"
)

// A Config is what a supervisor is told by whoever started it. It is kept as
// supervisor.json in the replica's folder, readable by its owner alone because
// it holds the job token.
type Config struct {
	Fence   mlaas.Fence `json:"fence"`
	Job     mlaas.JobID `json:"job"`
	Door    string      `json:"door"` // unix:///path, http://host:port or https://host:port, with or without a path
	Token   string      `json:"token"`
	Folder  string      `json:"folder"` // of this replica; absolute
	EnvDir  string      `json:"envDir"` // shared cache of environments
	DataDir string      `json:"dataDir"`
	Node    string      `json:"node"`
	Address string      `json:"address"` // where other replicas reach this one

	// Enter is the command that the user's program is started by; empty: as it
	// is. It is called as ENTER --see=PATH ... -- COMMAND, finds each variable
	// of the program with a "_" before its name, and writes to descriptor 3 why
	// it could not start the program. Closing 3 says that the program began.
	Enter  []string `json:"enter,omitempty"`
	Join   []string `json:"join,omitempty"`   // the same for a command beside the program: JOIN -- COMMAND ...
	Owner  int      `json:"owner,omitempty"`  // whom the program's files belong to; 0: us
	Groups Groups   `json:"groups,omitzero"`  // where the kernel counts what the program uses
	See    []string `json:"see,omitempty"`    // what else the program must see
	Hide   []string `json:"hide,omitempty"`   // variables of ours that only the supervisor may have
	Vars   Vars     `json:"vars,omitempty"`   // variables that the place adds, such as CUDA_VISIBLE_DEVICES
	Limits []string `json:"limits,omitempty"` // what is not enforced here, a sentence each

	// Image says that this is a container whose image brings the environment.
	// Else Shared, if it is set, is a folder of environments made elsewhere.
	Image  bool   `json:"image,omitempty"`
	Shared string `json:"shared,omitempty"`

	// Fleeting says that Folder goes with this process: what was said must be
	// delivered before it ends.
	Fleeting bool `json:"fleeting,omitempty"`

	DoorCA []byte `json:"doorCA,omitempty"` // certificates in PEM by which an https door is known; empty: the system's

	Ceiling mlaas.Resources `json:"ceiling"`
	Quiet   mlaas.Seconds   `json:"quiet,omitempty"` // without a door, after which the program is stopped; 0: 24 h
	Spool   mlaas.Bytes     `json:"spool,omitempty"` // how much of each stream is kept for a door that is away; 0: 1 GiB
}

// Vars are environment variables.
type Vars map[string]string

// Groups are the folders of the control groups that hold the program; an empty
// one is not there. Under cgroup v2 they are all the same.
type Groups struct {
	CPU    string `json:"cpu,omitempty"` // with cpuacct.usage or cpu.stat
	Memory string `json:"memory,omitempty"`
}

// What a supervisor does where its Config says nothing.
const (
	DefaultQuiet = 24 * time.Hour
	DefaultSpool = 1 << 30
)

// The files of a replica's folder that others may read.
const (
	ConfigFile     = "supervisor.json"
	ProcessFile    = "process.json"    // which process the supervisor is or was
	CompletionFile = "completion.json" // how the program ended, a mlaas.Phase
	LogFile        = "supervisor.log"  // what the supervisor itself writes
)

// The folders of the program in a replica's folder. Whoever starts the
// supervisor makes them and gives them to the program's user.
const (
	CodeDir       = "code"
	DataDir       = "data"
	ResumeDir     = "resume"
	OutputDir     = "output"
	CheckpointDir = "checkpoints"
	HomeDir       = "home"
	TempDir       = "tmp"
	SocketDir     = "run"
)

// Writable lists the folders that the program may write.
var Writable = []string{CodeDir, OutputDir, CheckpointDir, HomeDir, TempDir}

// ReadOnly lists the folders that the program may read.
var ReadOnly = []string{DataDir, ResumeDir, SocketDir}

// ReadConfig reads the configuration of the replica in folder.
func ReadConfig(folder string) (c Config, err error) {
	data, err := os.ReadFile(filepath.Join(folder, ConfigFile))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(folder, ConfigFile), err)
	}
	c.Folder = folder
	c.complete()
	return c, nil
}

// complete fills in what was not said.
func (c *Config) complete() {
	if c.Quiet == 0 {
		c.Quiet = mlaas.Seconds(DefaultQuiet.Seconds())
	}
	if c.Spool == 0 {
		c.Spool = DefaultSpool
	}
}

// WriteFile writes v as JSON so that a reader finds the old content or the new
// one whole, also after a crash.
func WriteFile(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// A Process names a process for good: a number is used again, the three
// together are not.
type Process struct {
	Boot  string `json:"boot"` // of the machine
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since boot
}

// ErrClaimed says that the replica of a folder has or had its supervisor.
var ErrClaimed = errors.New("this replica has been started before")

// Claim makes this process the only supervisor that ever runs the program of
// folder: two that begin at once, or one that comes late, cannot both have it;
// they get ErrClaimed, and by then ProcessFile says who has. The lock that is
// returned is held until it is closed or the process ends.
func Claim(ctx context.Context, folder string) (*os.File, error) {
	lock, err := lockFile(filepath.Join(folder, "lock"), false)
	if err != nil {
		// Whoever has it writes its name as the first thing.
		for range 200 {
			if _, err := os.Stat(filepath.Join(folder, ProcessFile)); err == nil {
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("%w: %w", ErrClaimed, err)
	}
	if _, err := os.Stat(filepath.Join(folder, ProcessFile)); !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, ErrClaimed
	}
	self, err := Self()
	if err == nil {
		err = WriteFile(filepath.Join(folder, ProcessFile), self)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// DeliveredFile is there once a supervisor has ended in order: its program is
// over, and the door has everything.
const DeliveredFile = "delivered"

// ExitClaimed is the exit code of a supervisor whose replica had one before.
const ExitClaimed = 3

// ReadyVariable names the descriptor that a supervisor closes once the replica
// is its own; whoever started it may be waiting for that.
const ReadyVariable = "MLAAS_READY"

// Ready says to whoever started this process that the replica is its own.
func Ready() error {
	fd, err := strconv.Atoi(os.Getenv(ReadyVariable))
	if err != nil {
		return nil // nobody asked
	}
	os.Unsetenv(ReadyVariable)
	return os.NewFile(uintptr(fd), "ready").Close()
}
