package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor"
)

// hierarchies are the control groups of this machine that we may use. Under
// version 1 each controller may have its own; under version 2 one has all.
// Under both at once, the second holds no controllers and still knows best who
// belongs together.
type hierarchies struct {
	one     map[string]string // version 1: controller to mount point
	two     string            // version 2: its mount point
	two1    bool              // version 2 has no controllers: they are version 1's
	lacking []string          // why something is not enforced, a sentence each
}

// The controllers that limits need, and what each is for.
var controllers = []struct{ name, what string }{
	{"cpu", "CPU"}, {"memory", "memory"}, {"pids", "the number of processes"},
}

const ours = "mlaas" // the group above those of the replicas

// findGroups reads where the hierarchies are and tries whether groups can be
// made there.
func findGroups() *hierarchies {
	h := &hierarchies{one: map[string]string{}}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		at := unescape(f[4])
		switch g[0] {
		case "cgroup2":
			if h.two == "" {
				h.two = at
			}
		case "cgroup":
			for _, c := range strings.Split(g[2], ",") {
				if slices.Contains([]string{"cpu", "cpuacct", "memory", "pids", "freezer"}, c) && h.one[c] == "" {
					h.one[c] = at
				}
			}
		}
	}
	var denied error
	for c, at := range h.one {
		if err := usable(at); err != nil {
			denied = err
			delete(h.one, c)
		}
	}
	if h.two != "" {
		if err := usable(h.two); err != nil {
			denied, h.two = err, ""
		}
	}
	h.two1 = true
	if h.two != "" && h.one["cpu"] == "" && h.one["memory"] == "" && h.one["pids"] == "" {
		h.two1 = false
		for _, dir := range []string{h.two, filepath.Join(h.two, ours)} {
			for _, c := range controllers {
				if err := delegate(dir, c.name); err != nil {
					denied = err
				}
			}
		}
	}
	var lacking []string
	for _, c := range controllers {
		if !h.has(c.name) {
			lacking = append(lacking, c.what)
		}
	}
	if len(lacking) == 0 {
		return h
	}
	why := "this kernel has no control groups for that"
	if denied != nil {
		why = denied.Error()
	}
	list := lacking[0]
	if n := len(lacking); n > 1 {
		list = strings.Join(lacking[:n-1], ", ") + " and " + lacking[n-1]
	}
	h.lacking = append(h.lacking, fmt.Sprintf("Ceilings on %s are not enforced: %s.", list, why))
	return h
}

// usable makes our group in a hierarchy and tries whether we may have others
// below it.
func usable(at string) error {
	dir := filepath.Join(at, ours)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return &fs.PathError{Op: "write", Path: dir, Err: err}
	}
	return nil
}

// unescape reads a path as the kernel writes it.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// delegate lets the groups below dir use a controller.
func delegate(dir, controller string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
}

// has reports whether a controller can be used.
func (h *hierarchies) has(controller string) bool {
	if h.one[controller] != "" {
		return true
	}
	if h.two == "" || h.two1 {
		return false
	}
	data, err := os.ReadFile(filepath.Join(h.two, ours, "cgroup.subtree_control"))
	return err == nil && slices.Contains(strings.Fields(string(data)), controller)
}

func (h *hierarchies) limits() []string { return slices.Clone(h.lacking) }

// A group is the control groups of one replica: some hold its supervisor and
// all that it starts, so that all of it can be ended; others hold the program
// alone, so that the supervisor is not slowed down or ended with it.
type group struct {
	h    *hierarchies
	name string
}

func (h *hierarchies) of(f mlaas.Fence) *group { return &group{h, f.String()} }

// all are the folders, inner ones first.
func (g *group) all() (dirs []string) {
	for _, at := range g.h.one {
		if dir := filepath.Join(at, ours, g.name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if g.h.two == "" {
		return dirs
	}
	top := filepath.Join(g.h.two, ours, g.name)
	if !g.h.two1 {
		dirs = append(dirs, filepath.Join(top, "program"), filepath.Join(top, "supervisor"))
	}
	return append(dirs, top)
}

// program are the groups that the program joins.
func (g *group) program() (dirs []string) {
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids"} {
		if at := g.h.one[c]; at != "" {
			if dir := filepath.Join(at, ours, g.name); !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	if g.h.two != "" && !g.h.two1 {
		dirs = append(dirs, filepath.Join(g.h.two, ours, g.name, "program"))
	}
	return dirs
}

// usage is where the processor time of the program is counted.
func (g *group) usage() string {
	if at := g.h.one["cpuacct"]; at != "" {
		return filepath.Join(at, ours, g.name)
	}
	if g.h.two != "" && !g.h.two1 {
		return filepath.Join(g.h.two, ours, g.name, "program")
	}
	return ""
}

// memory is where the memory of the program is counted.
func (g *group) memory() string {
	if at := g.h.one["memory"]; at != "" {
		return filepath.Join(at, ours, g.name)
	}
	if g.h.two != "" && !g.h.two1 && g.h.has("memory") {
		return filepath.Join(g.h.two, ours, g.name, "program")
	}
	return ""
}

// maxProcesses is how many processes and threads a replica may have.
const maxProcesses = 8192

// make makes the groups and sets the ceilings that are stated.
func (g *group) make(ceiling mlaas.Resources) error {
	dirs := g.all()
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("a control group could not be made: %w", err)
		}
	}
	quota, period := share(ceiling.CPU)
	bytes := strconv.FormatInt(int64(ceiling.Memory), 10)
	if at := g.h.one["cpu"]; at != "" && ceiling.CPU > 0 {
		dir := filepath.Join(at, ours, g.name)
		if err := errors.Join(write(dir, "cpu.cfs_period_us", strconv.Itoa(period)), write(dir, "cpu.cfs_quota_us", strconv.Itoa(quota))); err != nil {
			return err
		}
	}
	if at := g.h.one["memory"]; at != "" && ceiling.Memory > 0 {
		dir := filepath.Join(at, ours, g.name)
		if err := write(dir, "memory.limit_in_bytes", bytes); err != nil {
			return err
		}
		// Swap too, where it is counted.
		if err := write(dir, "memory.memsw.limit_in_bytes", bytes); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	if at := g.h.one["pids"]; at != "" {
		if err := write(filepath.Join(at, ours, g.name), "pids.max", strconv.Itoa(maxProcesses)); err != nil {
			return err
		}
	}
	if g.h.two == "" || g.h.two1 {
		return nil
	}
	top := filepath.Join(g.h.two, ours, g.name)
	for _, c := range controllers {
		if g.h.has(c.name) {
			if err := delegate(top, c.name); err != nil {
				return err
			}
		}
	}
	dir := filepath.Join(top, "program")
	var err error
	if g.h.has("cpu") && ceiling.CPU > 0 {
		err = write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period))
	}
	if g.h.has("memory") && ceiling.Memory > 0 {
		err = errors.Join(err, write(dir, "memory.max", bytes))
		if e := write(dir, "memory.swap.max", "0"); e != nil && !errors.Is(e, fs.ErrNotExist) && !errors.Is(e, fs.ErrPermission) {
			err = errors.Join(err, e)
		}
	}
	if g.h.has("pids") {
		err = errors.Join(err, write(dir, "pids.max", strconv.Itoa(maxProcesses)))
	}
	return err
}

// share is the time of the processor in each period. The kernel takes nothing
// below 1 ms, so the smallest shares have a longer period.
func share(c mlaas.MilliCPU) (quota, period int) {
	period = 100_000
	if quota = int(c) * period / 1000; quota < 1000 {
		period = 1_000_000
		quota = max(1000, int(c)*period/1000)
	}
	return quota, period
}

func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// spawn starts a program in the groups that hold everything.
func (g *group) spawn(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	if g.h.two != "" {
		dir := filepath.Join(g.h.two, ours, g.name)
		if !g.h.two1 {
			dir = filepath.Join(dir, "supervisor")
		}
		if f, err := os.Open(dir); err == nil {
			defer f.Close()
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(f.Fd())
		}
	}
	pid, err = fork(path, argv, attr)
	if err != nil && attr.Sys.UseCgroupFD && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		// A kernel that cannot be born into a group (before 5.7).
		attr.Sys.UseCgroupFD = false
		if pid, err = fork(path, argv, attr); err == nil {
			err = write(filepath.Join(g.h.two, ours, g.name), "cgroup.procs", strconv.Itoa(pid))
		}
	}
	if err == nil && g.h.one["freezer"] != "" {
		// It starts nothing before the platform spoke to it.
		if e := write(filepath.Join(g.h.one["freezer"], ours, g.name), "cgroup.procs", strconv.Itoa(pid)); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = e
		}
	}
	return pid, err
}

func fork(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, &fs.PathError{Op: "start", Path: path, Err: err}
	}
	return pid, nil
}

// hurry lifts the ceiling on processor time: a thousand processes end in a
// moment, or in a minute if they must share a tenth of a core for it.
func (g *group) hurry() {
	for _, dir := range g.program() {
		write(dir, "cpu.cfs_quota_us", "-1") //nolint:errcheck // it has none, or its end takes longer
		write(dir, "cpu.max", "max")         //nolint:errcheck // the same
	}
}

// kill ends every process of the groups and returns when they are empty.
func (g *group) kill(ctx context.Context) error {
	g.hurry()
	if g.h.two != "" { // at one stroke, where the kernel knows how (5.14)
		write(filepath.Join(g.h.two, ours, g.name), "cgroup.kill", "1") //nolint:errcheck // else one by one, below
	}
	for {
		var watches []*processWatch
		for _, dir := range g.all() {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for field := range strings.FieldsSeq(string(data)) {
				pid, err := strconv.Atoi(field)
				if err != nil || pid == 0 || pid == os.Getpid() {
					continue
				}
				p, err := supervisor.Find(pid)
				if err != nil {
					continue
				}
				if w, err := watchProcess(p, false); err == nil {
					w.Kill()
					watches = append(watches, w)
				} else if errors.Is(err, syscall.ENOSYS) {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if len(watches) == 0 {
			return nil
		}
		var err error
		for _, w := range watches {
			if err == nil {
				err = w.WaitFor(ctx)
			}
			w.Close()
		}
		if err != nil {
			return err
		}
	}
}

// remove takes the groups away. Who has just ended is in them for a moment.
func (g *group) remove(ctx context.Context) error {
	for _, dir := range g.all() {
		for wait := time.Millisecond; ; wait *= 2 {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || wait > time.Second {
				return err
			}
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return err
			}
		}
	}
	return nil
}

// cores is how many processors we may use.
func cores() int { return runtime.NumCPU() }

// memory is how much memory this machine, or the group that we are in, has.
func memory() int64 {
	total := int64(0)
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			total = kib << 10
		}
	}
	data, _ = os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, file := range []string{
			filepath.Join("/sys/fs/cgroup/memory", f[2], "memory.limit_in_bytes"),
			filepath.Join("/sys/fs/cgroup", f[2], "memory.max"),
			"/sys/fs/cgroup/memory/memory.limit_in_bytes",
		} {
			text, err := os.ReadFile(file)
			if v, e := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && e == nil && v > 0 && v < total {
				total = v
			}
		}
	}
	return total
}
