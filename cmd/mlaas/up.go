package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/observe"
)

// A platform is `mlaas up`: the three services in one process, with this
// machine as a cluster, and those that are added. The fields are what it was told.
type platform struct {
	Dir       string // the data folder; see ARCHITECTURE.md for what is in it
	Listen    string // 127.0.0.1:PORT; port 0 picks one
	Group     bool   // whether commits that wait share a transaction; false is for measuring
	Profile   string // a folder for what this process spends its time on; empty: that is not measured
	Give      share  // what this machine gives
	Clusters  string // a file that says which clusters there are; empty: none does
	Private   bool   // repositories may be at addresses that are not public
	Exec      bool   // a kubeconfig may name a program that finds credentials
	DoorCA    string // a file with certificates by which replicas on clusters know the door
	Door      string // address beyond this machine that the doors of clusters are served on too; empty: none
	Cert, Key string // TLS of it, as PEM files
	Plain     bool   // no TLS there

	Linger time.Duration // how long new connections are taken after the end was asked for
	Env    func(string) string
	Say    func(format string, args ...any)
	Log    *slog.Logger
}

func (c *cli) upCommand() *cobra.Command {
	p := platform{Group: true}
	var level, format string
	up := &cobra.Command{
		Use:   "up",
		Short: "Start the platform on this machine",
		Long: `Starts the platform on this machine and runs until Ctrl+C or SIGTERM, which let
requests under way be answered (at most 20 s). Replicas go on without it, and
what they say is kept until it is back: only "mlaas down" ends them.

It serves the clusters that were added (mlaas cluster add, or --clusters) besides
this machine; their replicas reach it by --door, below /cluster/NAME.

It listens on this machine alone, writes DIR/url and DIR/token (for the other
commands), and prints a link that lets a browser in once.`,
		Example: `  mlaas up
  mlaas up --dir /data/mlaas --listen 127.0.0.1:7480
  mlaas up --clusters clusters.yaml --door 10.0.0.4:7443 --tls-cert cert.pem --tls-key key.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if p.Dir, err = c.folder(); err != nil {
				return err
			}
			if p.Log, err = c.logger(level, format); err != nil {
				return err
			}
			p.Env = c.Env
			p.Say = func(format string, args ...any) { fmt.Fprintf(c.Out, format+"\n", args...) }
			return p.Run(cmd.Context())
		},
	}
	f := up.Flags()
	f.StringVar(&p.Listen, "listen", "127.0.0.1:7480", "address and port to serve on; port 0 picks a free one")
	p.Give.flags(f)
	f.StringVar(&p.Clusters, "clusters", "", "YAML file that says which clusters there are; it is read again when it changes")
	fleetFlags(f, &p.Exec, &p.DoorCA)
	f.BoolVar(&p.Private, "private-git", false, privateGit)
	f.StringVar(&p.Door, "door", "", "address and port beyond this machine on which the doors of clusters are served too")
	f.StringVar(&p.Cert, "tls-cert", "", "certificate to serve --door with, in PEM")
	f.StringVar(&p.Key, "tls-key", "", "its key")
	f.BoolVar(&p.Plain, "plain", false, "serve --door without TLS: where a proxy or the network does it")
	f.DurationVar(&p.Linger, "linger", 0, "after SIGTERM, take new connections for so long, unready: as long as a load balancer needs to see it")
	f.StringVar(&level, "log-level", "warn", "what is logged: debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "how it is logged: text or json")
	f.BoolVar(&p.Group, "group-commits", true, "write commits that wait together in one transaction")
	f.StringVar(&p.Profile, "profile", "", "folder for profiles of this process, written when it ends")
	for _, name := range []string{"group-commits", "profile"} {
		f.Lookup(name).Hidden = true
	}
	return up
}

// flushWithin is how long the last traces may take.
const flushWithin = 2 * time.Second

// Run serves until ctx ends. Replicas stay.
func (p platform) Run(ctx context.Context) (err error) {
	if host, _, err := net.SplitHostPort(p.Listen); err != nil {
		return mlaas.Invalid("--listen", "an address and a port such as 127.0.0.1:7480", p.Listen)
	} else if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return mlaas.Invalid("--listen", "an address of this machine alone, such as 127.0.0.1: there is no TLS here", p.Listen)
	}
	for _, sub := range []string{"", "door", "replicas", "env", "blob", "series"} {
		// Others may pass through: replicas run as users of their own.
		if err := os.MkdirAll(filepath.Join(p.Dir, sub), 0o711); err != nil {
			return err
		}
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	defer keepHeap()()
	measured, err := profile(p.Profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, measured()) }()
	key, err := secret(filepath.Join(p.Dir, "key"), 32)
	if err != nil {
		return err
	}
	token, err := secret(filepath.Join(p.Dir, "token"), 32)
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	tracer, stop, err := observe.NewTracer(ctx, "mlaas", release(), p.Env)
	if err != nil {
		return err
	}
	defer stopTracer(stop, p.Log)
	parts, err := p.open(ctx, key, hex.EncodeToString(token), binary, tracer)
	if err != nil {
		return err
	}
	defer parts.Close()

	listener, err := health.Listen(ctx, p.Listen)
	if err != nil {
		return tell{What: "cannot listen on " + p.Listen, Why: err.Error(), Fix: "choose another by --listen, or port 0 for any free one", Kind: mlaas.ErrUnavailable}
	}
	url := "http://" + listener.Addr().String()
	door, err := openDoor(p.Dir)
	if err != nil {
		listener.Close()
		return err
	}
	far, err := p.farDoor(ctx)
	if err != nil {
		listener.Close()
		door.Close()
		return err
	}
	public := parts.management.Server()
	public.Handler = beside(site(parts.management), parts.fleet)
	private := &http.Server{Handler: parts.monitor.Handler(), ReadHeaderTimeout: 10 * time.Second}

	all, ctx := errgroup.WithContext(ctx)
	// What takes messages ends with ctx; what requests need, when the last of
	// them is answered.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	front := &health.Server{HTTP: public, Listener: listener, Health: parts.management.Health, Leave: parts.management.Leave, Linger: p.Linger, Log: p.Log}
	all.Go(func() error {
		defer end()
		return front.Run(ctx)
	})
	all.Go(func() error { return p.keepDoor(ctx, private, door, doorEvery) })
	if far != nil {
		server := &http.Server{Handler: parts.fleet.Handler(), ReadHeaderTimeout: 10 * time.Second}
		all.Go(func() error { return (&health.Server{HTTP: server, Listener: far, Log: p.Log}).Run(ctx) })
	}
	for name, run := range parts.services() {
		ctx := ctx
		if name == "series" || name == "management" {
			ctx = life
		}
		all.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if err := os.WriteFile(filepath.Join(p.Dir, "url"), []byte(url+"\n"), 0o644); err != nil {
		return err
	}
	link, err := parts.login(ctx, url)
	if err != nil {
		return err
	}
	p.Say("ready %s", url)
	p.Say("open  %s", link)
	err = all.Wait()
	if n := parts.running(context.WithoutCancel(ctx)); err == nil && n > 0 {
		p.Say("the platform is down; %d replicas go on. Start it again with   mlaas up   or end them with   mlaas down", n)
	}
	return err
}

// doorAt is where supervisors of this machine knock.
func doorAt(dir string) string { return "unix://" + filepath.Join(dir, "door", "door.sock") }

// farDoor listens for the replicas of clusters, if they are to come.
func (p platform) farDoor(ctx context.Context) (net.Listener, error) {
	switch {
	case p.Door == "":
		return nil, nil
	case (p.Cert == "") != (p.Key == ""):
		return nil, mlaas.Invalid("--tls-cert and --tls-key", "both or neither", first(p.Cert, p.Key))
	case p.Cert == "" && !p.Plain:
		return nil, tell{What: "mlaas up does not serve " + p.Door + " without TLS", Why: "whoever is on the way would read every token",
			Fix: "give it a certificate by --tls-cert and --tls-key; or say --plain, where a proxy or the network encrypts", Kind: mlaas.ErrInvalid}
	}
	l, err := health.Listen(ctx, p.Door)
	if err != nil {
		return nil, tell{What: "cannot listen on " + p.Door, Why: err.Error(), Fix: "choose another by --door", Kind: mlaas.ErrUnavailable}
	}
	return secured(l, p.Cert, p.Key)
}

// openDoor listens where supervisors knock.
func openDoor(dir string) (net.Listener, error) {
	sock := filepath.Join(dir, "door", "door.sock")
	if err := os.Remove(sock); err != nil && !errors.Is(err, os.ErrNotExist) { // of the process before: the lock says that it is gone
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(sock), 0o711); err != nil {
		return nil, err
	}
	door, err := net.Listen("unix", sock)
	if err != nil {
		return nil, err
	}
	door.(*net.UnixListener).SetUnlinkOnClose(false) // it may be another process's socket by then
	// Any user of the machine may knock; the job token opens.
	if err := os.Chmod(sock, 0o666); err != nil {
		return nil, errors.Join(err, door.Close())
	}
	return door, nil
}

// doorEvery is how often the door is looked at: whoever tidies a machine up
// takes sockets away too, and then no supervisor finds us.
const doorEvery = 5 * time.Second

// keepDoor serves the door, and opens it anew where its socket was removed.
// Lines that are open stay open.
func (p platform) keepDoor(ctx context.Context, server *http.Server, door net.Listener, every time.Duration) error {
	path := door.Addr().String()
	ours, _ := os.Lstat(path) // gone already: it is opened anew
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return served(server.Serve(door)) })
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// What a supervisor fetches or brings may end; it is asked for again
			// otherwise.
			short, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer stop()
			if err := server.Shutdown(short); err != nil {
				p.Log.Info("supervisors are cut off", "error", err)
			}
			server.Close()
			return all.Wait()
		case <-tick.C:
		}
		if now, err := os.Lstat(path); err == nil && os.SameFile(ours, now) {
			continue
		}
		// The one before stays open, for nothing: to close it would remove the
		// socket of the next.
		next, err := openDoor(p.Dir)
		if err != nil {
			p.Log.Error("the door was taken away and cannot be opened again", "error", err)
			continue
		}
		ours, _ = os.Lstat(path)
		all.Go(func() error { return served(server.Serve(next)) })
		p.Log.Warn("the door was taken away; it is open again", "door", path)
	}
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// lockPatience is how long a lock may outlive the process that took it.
const lockPatience = 3 * time.Second

// lock makes sure that one process alone serves the folder.
func (p platform) lock() (unlock func(), err error) {
	path := filepath.Join(p.Dir, "pid")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; {
		text, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		// One that was killed while it started a supervisor leaves a child that
		// holds the lock for the moment until it becomes that supervisor.
		if dead := syscall.Kill(pid, 0) == syscall.ESRCH; !dead || time.Since(began) > lockPatience {
			f.Close()
			return nil, tell{What: "a platform is up already on " + p.Dir, Why: fmt.Sprintf("process %d serves it", pid),
				Fix: "use it, end it with   mlaas down   or choose another folder by --dir", Kind: mlaas.ErrConflict}
		}
		<-time.After(10 * time.Millisecond) // a file lock tells nobody when it is free
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil // the kernel unlocks, also after kill -9
}

// secret reads the hex of n random bytes from a file that its owner alone may
// read. The first who asks makes it, also where several do at once.
func secret(path string, n int) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		b := make([]byte, n)
		rand.Read(b) // never fails (crypto/rand)
		tmp := path + "." + hex.EncodeToString(b[:4])
		if err := writeThrough(tmp, hex.EncodeToString(b)+"\n"); err != nil {
			return nil, err
		}
		err = os.Link(tmp, path)
		os.Remove(tmp)
		if err == nil {
			err = syncFolder(filepath.Dir(path))
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) < n {
		return nil, fmt.Errorf("%s does not hold %d bytes in hex; restore it from a backup: what was sealed with it cannot be read without it: %w", path, n, mlaas.ErrInvalid)
	}
	return b, nil
}

// writeThrough writes a file that is there, whole, also after a power loss: what
// is sealed by a key that is lost is lost.
func writeThrough(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Sync()
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (c *cli) downCommand() *cobra.Command {
	var grace time.Duration
	down := &cobra.Command{
		Use:   "down",
		Short: "End the platform on this machine and every replica",
		Long: `Ends the platform of the data folder, and every replica that it started:
politely first, so that a program may save its state. Runs that were not over
are queued again, from their last checkpoint, when the platform is up the next
time; stop a run with "mlaas job stop" to end it for good. Where boosters serve
the folder, end them first: this ends what they started.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			_, served := os.Stat(filepath.Join(dir, "pid"))
			if _, err := os.Stat(filepath.Join(dir, "replicas")); err != nil || served == nil { // else a booster's, who has no such file
				if err := c.endPlatform(cmd.Context(), dir); err != nil {
					return err
				}
			}
			x, err := share{}.executor(dir, "", slog.New(slog.NewTextHandler(c.Err, nil)))
			if err != nil {
				return err
			}
			n, err := x.Down(cmd.Context(), grace)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.Err, "down: %d replicas ended\n", n)
			return nil
		},
	}
	down.Flags().DurationVar(&grace, "grace", 10*time.Second, "between the polite word to a program and its end")
	return down
}

// endPlatform ends the process that serves dir, if there is one.
func (c *cli) endPlatform(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "pid"))
	if errors.Is(err, os.ErrNotExist) {
		return tell{What: "there is no platform in " + dir, Fix: "name its data folder by --dir or MLAAS_DIR", Kind: mlaas.ErrNotFound}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	free := func() bool { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil }
	if free() {
		return nil // nobody serves it
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, "pid"), err)
	}
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Signal(syscall.SIGTERM)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	// A file lock tells nobody when it is free, so it is asked for.
	for range 250 {
		if free() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return process.Kill()
}

// nodeName is the name of this machine.
func nodeName() string {
	name, err := os.Hostname()
	if err != nil {
		return "this-" + runtime.GOOS
	}
	return name
}
