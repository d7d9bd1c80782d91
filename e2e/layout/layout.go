// Package layout starts the platform as it may be run: all in one process, in
// three, or two of each over Redis and S3, and gives the processes by name, so
// that a test may kill, stop and start them.
//
// It needs no testing.T: programs use it too.
package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mlaas.dev/mlaas/internal/link"
)

// The layouts.
const (
	One       = "one"         // `mlaas up`, SQLite and files
	Three     = "three"       // management, contractor, booster; Redis and S3
	TwoOfEach = "two-of-each" // the same, two of each, and a balancer in front
)

// Kinds lists them.
var Kinds = []string{One, Three, TwoOfEach}

// Options say what is started, and where.
type Options struct {
	Kind     string // one of Kinds
	Binary   string // mlaas
	Redis    string // redis-server; empty: from PATH. Not for One
	S3       string // versitygw. Not for One
	Dir      string // every file of the platform
	Blobs    string // the files of the S3 server; empty: below Dir
	Env      []string
	Args     []string // of `mlaas up`, or of the booster: what the machine gives
	Log      io.Writer
	Net      *Network // where its machines are; nil: all here
	Proxy    bool     // between services, store and blobs there is a Link that can be made bad
	Failover bool     // the store has a replica, and sentinels that promote it. Not for One
	Share    string   // the name of the platform in the store, and of its bucket; empty: "torture". Not for One

	// Before is called before the services start, where store and blobs serve.
	// nil: nothing. Not for One.
	Before func(store, blob string) error
}

// A Platform is what was started.
type Platform struct {
	Options
	URL, Token string                // of the public door
	Links      map[string]*link.Link // "store" and "blob", with Options.Proxy

	processes []*Process // in the order in which they start
	balancer  *Balancer
}

// service are those of the platform itself.
var service = []string{"platform", "management", "contractor", "booster"}

// Start starts a platform on Dir, or starts it again there, and returns once
// it serves. What it started until an error is ended.
func Start(ctx context.Context, o Options) (p *Platform, err error) {
	if !slices.Contains(Kinds, o.Kind) {
		return nil, fmt.Errorf("layout %q, want one of %s", o.Kind, strings.Join(Kinds, ", "))
	}
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return nil, err
	}
	p = &Platform{Options: o, Links: map[string]*link.Link{}}
	defer func() {
		if err != nil {
			p.Close()
			p = nil
		}
	}()
	p.Log = &serial{to: o.Log}
	if o.Kind == One {
		err = p.one(ctx)
	} else {
		err = p.several(ctx)
	}
	if err != nil {
		return p, err
	}
	token, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	p.Token = strings.TrimSpace(string(token))
	return p, err
}

// one is everything in one process.
func (p *Platform) one(ctx context.Context) error {
	port, err := FreePort()
	if err != nil {
		return err
	}
	up := p.add("platform", append([]string{p.Binary, "up", "--dir", p.Dir, "--listen", "127.0.0.1:" + strconv.Itoa(port)}, p.Args...), nil)
	if err := up.Start(ctx); err != nil {
		return err
	}
	p.URL = up.URL()
	return nil
}

// add adds a process that is not started yet.
func (p *Platform) add(name string, command []string, machine *Machine) *Process {
	kind, number, _ := strings.Cut(name, "-")
	if _, err := strconv.Atoi(number); err != nil && number != "" {
		kind = name
	}
	q := &Process{Name: name, Kind: kind, Command: command, Env: p.environment(), Log: p.Log}
	if machine != nil {
		q.Within = machine.Within
	}
	p.processes = append(p.processes, q)
	return q
}

// environment is ours without what would lead the platform elsewhere, and Env.
func (p *Platform) environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "MLAAS_") {
			env = append(env, kv)
		}
	}
	return append(env, p.Env...)
}

// Processes are those of these kinds, in the order in which they start; of no
// kind: all.
func (p *Platform) Processes(kinds ...string) (some []*Process) {
	for _, q := range p.processes {
		if len(kinds) == 0 || slices.Contains(kinds, q.Kind) {
			some = append(some, q)
		}
	}
	return some
}

// Services are the processes of the platform itself: not its store or blobs.
func (p *Platform) Services() []*Process { return p.Processes(service...) }

// Servers are the processes under the platform: its store and its blobs.
func (p *Platform) Servers() (some []*Process) {
	for _, q := range p.processes {
		if !slices.Contains(service, q.Kind) {
			some = append(some, q)
		}
	}
	return some
}

// Variables are what a client needs.
func (p *Platform) Variables() []string {
	return []string{"MLAAS_URL=" + p.URL, "MLAAS_TOKEN=" + p.Token, "MLAAS_DIR=" + p.Dir}
}

// Crash kills the services, and nothing else: replicas go on, and so do store
// and blobs.
func (p *Platform) Crash() {
	for _, q := range p.Services() {
		q.Kill()
	}
}

// Restart starts what does not run, in order.
func (p *Platform) Restart(ctx context.Context) error {
	for _, q := range p.processes {
		if !q.Running() {
			if err := q.Start(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// downPatience is how long the end of a platform may take.
const downPatience = 60 * time.Second

// Down ends the services and every replica, then the rest. It may be called
// more than once, and also when the start failed half-way.
func (p *Platform) Down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downPatience)
	defer cancel()
	for _, q := range p.processes {
		_ = q.Signal(syscall.SIGCONT) // one that is stopped hears nothing
	}
	var err error
	if _, e := os.Stat(filepath.Join(p.Dir, "replicas")); e == nil {
		if p.Kind != One {
			for _, q := range p.Services() {
				q.Term(20 * time.Second)
			}
		}
		var said bytes.Buffer
		down := exec.CommandContext(ctx, p.Binary, "down", "--dir", p.Dir, "--grace", "1s")
		down.Env, down.Stdout, down.Stderr = p.environment(), &said, &said
		if e := down.Run(); e != nil {
			err = fmt.Errorf("mlaas down: %w: %s", e, said.String())
		}
	}
	return errors.Join(err, p.Close())
}

// Close kills every process and nothing that they started.
func (p *Platform) Close() error {
	for _, q := range slices.Backward(p.processes) {
		q.Kill()
	}
	if p.balancer != nil {
		p.balancer.Close()
	}
	for _, l := range p.Links {
		l.Close()
	}
	return nil
}

// FreePort is a port of the loopback that nobody listens on now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// serial lets many processes write to one writer, a line at a time or so.
type serial struct {
	mu sync.Mutex
	to io.Writer
}

func (s *serial) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil {
		return len(b), nil
	}
	return s.to.Write(b)
}
