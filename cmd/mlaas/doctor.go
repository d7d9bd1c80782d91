package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A finding is one line of mlaas doctor.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Warn bool   `json:"warn,omitempty"` // it works all the same
	Says string `json:"says"`
	Fix  string `json:"fix,omitempty"`
}

// A doctor looks at what a platform stands on. What it finds wrong comes with
// what to do about it.
type doctor struct {
	c         *cli
	found     []finding
	store     string // the URL of the store that is to be looked at; empty: none
	blob      string // the same of the place for content
	openStore func(ctx context.Context, url string) (store.Driver, error)
	openBlob  func(ctx context.Context, url string) (blob.Driver, func() error, error)
}

func (c *cli) doctorCommand() *cobra.Command {
	d := doctor{c: c, openStore: doctorStore, openBlob: doctorBlob}
	cmd := &cobra.Command{Use: "doctor", Short: "Look for what could be wrong, and say how to mend it", Args: cobra.NoArgs,
		Example: `  mlaas doctor
  mlaas doctor --store redis://:PASSWORD@redis:6379 --blob s3://bucket?endpoint=https://s3    before an installation`,
		Long: `Looks at this machine (Python, disk, isolation), at the platform that answers
(each check of its readiness, its clock against this one, clusters, messages that
were given up), and, where they are named, at a store and a place for content: it
opens them as a service would, which refuses unsafe settings, and writes to them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.machine(cmd.Context())
			d.folder()
			d.stores(cmd.Context())
			d.platform(cmd.Context())
			bad := 0
			t := table{Head: []string{"", "WHAT", "SAYS"}}
			for _, f := range d.found {
				mark := "✓"
				switch {
				case !f.OK:
					bad, mark = bad+1, "✗"
				case f.Warn:
					mark = "!"
				}
				t.row(mark, f.What, join("   fix: ", f.Says, f.Fix))
			}
			if err := c.show(d.found, nil, t.String); err != nil {
				return err
			}
			if bad > 0 {
				return exit(exitFailed)
			}
			return nil
		}}
	cmd.Flags().StringVar(&d.store, "store", "", "a store to look at, such as redis://:PASSWORD@HOST:6379 or file:///data/mlaas.db")
	cmd.Flags().StringVar(&d.blob, "blob", "", "a place for content to look at, such as s3://BUCKET?endpoint=https://HOST or file:///data/blob")
	return cmd
}

// doctorStore opens a store as a service does, which refuses unsafe settings; or
// the file of one on this machine.
func doctorStore(ctx context.Context, at string) (store.Driver, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "file" {
		return openStore(ctx, at, slog.New(slog.DiscardHandler))
	}
	if _, err := os.Stat(u.Path); err != nil { // a doctor makes nothing
		return nil, err
	}
	return sqlitestore.Open(ctx, u.Path, sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
}

// doctorBlob opens a place for content as a service does; or the folder of one
// on this machine.
func doctorBlob(ctx context.Context, at string) (blob.Driver, func() error, error) {
	if u, err := url.Parse(at); err == nil && u.Scheme == "file" {
		if _, err := os.Stat(u.Path); err != nil {
			return nil, nil, err
		}
		b, err := files.Open(u.Path, nil)
		if err != nil {
			return nil, nil, err
		}
		return b, b.Close, nil
	}
	b, err := openBucket(ctx, at, slog.New(slog.DiscardHandler))
	return b, func() error { return nil }, err
}

func (d *doctor) good(what, format string, args ...any) {
	d.found = append(d.found, finding{What: what, OK: true, Says: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(what, fix, format string, args ...any) {
	d.found = append(d.found, finding{What: what, OK: true, Warn: true, Says: fmt.Sprintf(format, args...), Fix: fix})
}

func (d *doctor) bad(what, fix, format string, args ...any) {
	d.found = append(d.found, finding{What: what, Says: fmt.Sprintf(format, args...), Fix: fix})
}

// oldest is the oldest Python that programs of the platform may use.
const oldestPython = 8

func (d *doctor) machine(ctx context.Context) {
	text, err := exec.CommandContext(ctx, "python3", "--version").CombinedOutput()
	version := strings.TrimSpace(strings.TrimPrefix(string(text), "Python "))
	minor := 0
	if parts := strings.Split(version, "."); len(parts) > 1 && parts[0] == "3" {
		minor, _ = strconv.Atoi(parts[1])
	}
	switch {
	case err != nil:
		d.bad("python", "install Python 3.8 or newer", "there is no python3: %v", err)
	case minor < oldestPython:
		d.bad("python", "install Python 3.8 or newer", "python3 is %s", version)
	default:
		d.good("python", "Python %s", version)
	}
	if at, err := exec.LookPath("uv"); err == nil {
		d.good("uv", "%s", at)
	} else {
		d.good("uv", "not here; mlaas makes environments with what it brings")
	}
	switch {
	case runtime.GOOS != "linux":
		d.warn("isolation", "run it on Linux", "%s: replicas run as you, without limits", runtime.GOOS)
	case os.Geteuid() != 0:
		d.warn("isolation", "run mlaas up as root where others' programs run", "not root: replicas run as you, and limits are not enforced")
	default:
		d.good("isolation", "root: replicas run under their own user, in their own namespaces, with limits where cgroups allow")
	}
}

func (d *doctor) folder() {
	dir, err := d.c.folder()
	if err == nil {
		_, err = os.Stat(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.good("folder", "%s is not there yet; mlaas up makes it", dir)
		return
	case err != nil:
		d.bad("folder", "name another by --dir or MLAAS_DIR", "%v", err)
		return
	}
	says, err := health.Disk(dir).Do(context.Background())
	free, ok := freeDisk(dir)
	switch {
	case err != nil:
		d.bad("disk", "free space with   mlaas gc   or name another folder by --dir", "%s", plain(err))
	case ok && free < 2<<30:
		d.bad("disk", "free space with   mlaas gc   or name another folder by --dir", "%s has %s free, and an environment alone takes up to 2 GB", dir, size(free))
	default:
		d.good("disk", "%s in %s", says, dir)
	}
	for _, name := range []string{"key", "token"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			d.bad(name, "chmod 600 "+filepath.Join(dir, name), "others on this machine can read %s (mode %o)", filepath.Join(dir, name), info.Mode().Perm())
		}
	}
}

// plain is an error without the word of its kind.
func plain(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+mlaas.KindOf(err).Code)
}

// stores opens what was named, and does with it what a service does.
func (d *doctor) stores(ctx context.Context) {
	if d.store != "" {
		db, err := d.openStore(ctx, d.store)
		if err != nil {
			d.lines("store", "give the URL as for the services, and see that the server runs", err)
		} else {
			d.checks(ctx, "store", health.Store(db, "doctor"), health.Messages(db, false), health.Check{Name: "forms", Do: func(ctx context.Context) (string, error) {
				return "this version can read what is in it", store.Admit(ctx, db)
			}})
			db.Close()
		}
	}
	if d.blob != "" {
		b, done, err := d.openBlob(ctx, d.blob)
		if err != nil {
			d.lines("blob", "give the URL as for the services, and see that the server runs", err)
		} else {
			d.checks(ctx, "blob", health.Blob(b))
			if err := done(); err != nil {
				d.bad("blob", "see its log", "%v", err)
			}
		}
	}
}

// lines is an error of several sentences, such as settings that are unsafe,
// each of which says what to do: one finding each.
func (d *doctor) lines(what, fix string, err error) {
	all := strings.Split(plain(err), "\n")
	if len(all) == 1 {
		d.bad(what, fix, "%s", all[0])
		return
	}
	for _, l := range all[1:] {
		says, remedy, ok := strings.Cut(l, ": ")
		if !ok {
			remedy = fix
		}
		d.bad(what, remedy, "%s", says)
	}
}

func (d *doctor) checks(ctx context.Context, what string, checks ...health.Check) {
	p := health.Prober{Checks: checks, Within: 5 * time.Second}
	for _, r := range p.Ready(ctx).Checks {
		d.level(what+": "+r.Name, string(r.Level), r.Says)
	}
}

func (d *doctor) level(what, level, says string) {
	switch level {
	case string(health.OK):
		d.good(what, "%s", says)
	case string(health.Warning):
		d.warn(what, "see   mlaas doctor   of that machine, and its log", "%s", says)
	default:
		d.bad(what, "see the log of the process", "%s", says)
	}
}

// skew is how far two clocks may be apart.
const skew = 2 * time.Second

func (d *doctor) platform(ctx context.Context) {
	cl, err := d.c.connect()
	if err != nil && (d.store != "" || d.blob != "") {
		d.good("platform", "none is known here; what it is to stand on was asked for")
		return
	}
	if err != nil {
		t, _ := explain(err)
		d.bad("platform", t.Fix, "%s", t.What)
		return
	}
	asked := time.Now()
	status, err := cl.Status(ctx)
	if err != nil {
		t, _ := explain(err)
		d.bad("platform", t.Fix, "%s", t.What)
		return
	}
	took := time.Since(asked)
	d.good("platform", "%s answers at %s in %s", status.Version, cl.URL, took.Round(time.Millisecond/10))
	d.bind(cl.URL)
	// Its answer was made at some moment in between.
	if apart := status.Time.Sub(asked.Add(took / 2)).Abs(); apart > skew+took/2 {
		d.bad("clock", "set both clocks by NTP", "the platform's clock is %s from this one", apart.Round(time.Millisecond))
	} else {
		d.good("clock", "the platform's is within %s of this one", (apart + took/2).Round(time.Millisecond))
	}
	checks, err := cl.Ready(ctx)
	if err != nil {
		d.bad("readiness", "see the log of   mlaas up", "%v", err)
	}
	for _, r := range checks {
		d.level("ready: "+r.Name, r.Level, r.Says)
	}
	clusters, err := client.Collect(cl.Clusters(ctx))
	if err != nil {
		d.bad("clusters", "see the log of   mlaas up", "%v", err)
	}
	for _, k := range clusters {
		if k.Up {
			d.good("cluster "+k.Name, "cpu %s, memory %s", k.Capacity.CPU, size(k.Capacity.Memory))
		} else {
			d.bad("cluster "+k.Name, "see   mlaas cluster ls", "down: %s", k.Reason)
		}
		for _, l := range slices.Sorted(slices.Values(k.Limits)) {
			d.warn("cluster "+k.Name, "", "%s", l)
		}
	}
	parked, err := client.Collect(cl.Parked(ctx))
	switch {
	case err != nil:
		d.bad("messages", "see the log of   mlaas up", "%v", err)
	case len(parked) == 0:
		d.good("messages", "none was given up")
	}
	for _, p := range parked {
		d.bad("message "+strconv.FormatInt(p.ID, 10), fmt.Sprintf("when what it says is mended:   mlaas api POST /api/message/%d/requeue", p.ID),
			"%s gave up %s of %s: %s", p.To, p.Subject, dash(p.Key), dash(p.Why))
	}
}

// bind looks whether others can listen to what is said with the platform.
func (d *doctor) bind(at string) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme == "https" {
		return
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback() {
		d.good("bind", "it is reached over this machine alone")
		return
	}
	d.bad("bind", "put a proxy with TLS before it, and give its https address", "the token goes to %s in plain text", host)
}

// freeDisk is what is left where a folder is.
func freeDisk(dir string) (mlaas.Bytes, bool) {
	free, _, err := health.Room(dir)
	return free, err == nil
}
