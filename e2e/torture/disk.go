package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas/e2e/layout"
)

// A Disk is a file with a file system in it, mounted for the platform: it can
// lose power, and be full.
type Disk struct {
	Mount string
	dir   string
	n     int // of the image that is mounted
}

// diskMiB is the size of the disk: sparse, so that it costs what is in it. An
// hour fills a few hundred MiB of it every ten minutes.
const diskMiB = 4096

// makeDisk makes the disk and mounts it. It needs root, mkfs.ext4 and mount.
func makeDisk(dir, mount string) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root may mount a disk image")
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount", "cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("there is no %s", tool)
		}
	}
	for _, d := range []string{dir, mount} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return nil, err
		}
	}
	d := &Disk{Mount: mount, dir: dir}
	f, err := os.Create(d.image())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskMiB<<20), f.Close()); err != nil {
		return nil, err
	}
	// Nothing is kept back for root, who the platform is.
	if err := do("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image()); err != nil {
		return nil, err
	}
	return d, d.mount()
}

func do(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (d *Disk) image() string { return filepath.Join(d.dir, strconv.Itoa(d.n)+".img") }

func (d *Disk) mount() error {
	if err := do("mount", "-o", "loop", d.image(), d.Mount); err != nil {
		return err
	}
	return os.Chmod(d.Mount, 0o711)
}

// users are the processes that have something of the disk open.
func (d *Disk) users() (pids []int, err error) {
	var disk syscall.Stat_t
	if err := syscall.Stat(d.Mount, &disk); err != nil {
		return nil, err
	}
	on := func(path string) bool {
		var s syscall.Stat_t
		return syscall.Stat(path, &s) == nil && s.Dev == disk.Dev
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		pid, _ := strconv.Atoi(filepath.Base(p))
		fds, _ := filepath.Glob(p + "/fd/*")
		if pid != os.Getpid() && slices.ContainsFunc(append(fds, p+"/cwd", p+"/root"), on) {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// written counts what was written to the disk so far, and what is under way.
func (d *Disk) written() (string, error) {
	var disk syscall.Stat_t
	if err := syscall.Stat(d.Mount, &disk); err != nil {
		return "", err
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(disk.Dev), unix.Minor(disk.Dev)))
	f := strings.Fields(string(text))
	if err != nil || len(f) < 9 {
		return "", fmt.Errorf("the counters of the disk: %q, %w", text, err)
	}
	return f[4] + " " + f[8], nil
}

// losePower takes the disk as it is at one instant, ends all that uses it, and
// mounts what was taken. What was in no file system's hands is gone with it.
func (d *Disk) losePower(ctx context.Context) error {
	stopped := map[int]bool{}
	for more := true; more; { // who is stopped starts nobody, so this ends
		users, err := d.users()
		if err != nil {
			return err
		}
		more = false
		for _, pid := range users {
			if !stopped[pid] {
				stopped[pid], more = true, true
				syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
	}
	next := Disk{Mount: d.Mount, dir: d.dir, n: d.n + 1}
	err := errors.New("the disk never came to rest")
	for try := 0; try < 20 && err != nil && ctx.Err() == nil; try++ { // the kernel writes by itself too
		before, e := d.written()
		if e != nil {
			err = e
			break
		}
		if e := do("cp", "--sparse=always", d.image(), next.image()); e != nil {
			err = e
			break
		}
		if after, e := d.written(); e == nil && after == before {
			err = nil
		}
	}
	for pid := range stopped {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		return err
	}
	if err := d.unmount(patience); err != nil {
		return err
	}
	if err := os.Remove(d.image()); err != nil {
		return err
	}
	d.n++
	return d.mount()
}

// unmount ends whatever uses the disk, and takes it away: what keeps it busy for
// longer than patience is told of, and loses sight of it. The disk is given up
// either way, so nothing of it comes back.
func (d *Disk) unmount(patience time.Duration) (err error) {
	for until := time.Now().Add(patience); ; { // what is killed may be in the middle of a write
		if err = do("umount", d.Mount); err == nil {
			return nil
		}
		if users, e := d.users(); e == nil {
			for _, pid := range users {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if time.Now().After(until) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "the disk was busy for %v and is taken away from under %s: %v\n", patience, d.holders(), err)
	return unix.Unmount(d.Mount, unix.MNT_DETACH)
}

// holders says what may keep the disk busy: who has something of it open, this
// program included, and what is mounted on it.
func (d *Disk) holders() string {
	users, err := d.users()
	what := []string{fmt.Sprintf("users %v (%v)", users, err)}
	for _, pid := range users {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		what = append(what, fmt.Sprintf("%d %s", pid, strings.ReplaceAll(string(text), "\x00", " ")))
	}
	for _, list := range []string{"/proc/self/fd/*", "/proc/[0-9]*/map_files/*"} {
		files, _ := filepath.Glob(list)
		for _, f := range files {
			if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, d.Mount+"/") {
				what = append(what, f+" is "+to)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, " "+d.Mount+"/") {
			what = append(what, "mounted: "+strings.TrimSpace(l))
		}
	}
	return strings.Join(what, "; ")
}

// patience is for what a busy machine has still to write.
const patience = time.Minute

// Close removes the disk.
func (d *Disk) Close() error {
	return errors.Join(d.unmount(patience), os.RemoveAll(d.dir))
}

// filler is the file that takes all the room.
func (d *Disk) filler() string { return filepath.Join(d.Mount, "filler") }

// fill leaves no room on the disk.
func (d *Disk) fill() error {
	f, err := os.Create(d.filler())
	if err != nil {
		return err
	}
	defer f.Close()
	for piece := int64(64 << 20); piece >= 4096; {
		at, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if err := unix.Fallocate(int(f.Fd()), 0, at, piece); err != nil {
			piece /= 2
		}
	}
	return nil
}

// needsDisk is Fits of a fault of the disk.
func needsDisk(s *Stage) error {
	if s.disk == nil {
		return errors.New(s.cannot["disk"])
	}
	return nil
}

// PowerLoss is what a machine does when its power goes: all that was not
// written through is gone, and so is every process.
type PowerLoss struct{}

func (PowerLoss) Name() string { return "power lost" }

func (PowerLoss) Fits(s *Stage) error { return needsDisk(s) }

func (PowerLoss) Inject(ctx context.Context, s *Stage) error {
	// The services have no file open here in some layouts, and end as well.
	for _, p := range s.platform.Processes() {
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	err := s.disk.losePower(ctx)
	for _, p := range s.platform.Processes() {
		p.Kill()
	}
	return err
}

func (PowerLoss) Heal(ctx context.Context, s *Stage) error { return s.platform.Restart(ctx) }

func (PowerLoss) Lasts(*rand.Rand) time.Duration { return 0 }

// DiskFull is a disk without room, and then with room again. Meanwhile what is
// there can be read, and what cannot be kept is refused in so many words.
type DiskFull struct{}

func (DiskFull) Name() string { return "disk full" }

func (DiskFull) Fits(s *Stage) error { return needsDisk(s) }

func (DiskFull) Inject(_ context.Context, s *Stage) error { return s.disk.fill() }

func (DiskFull) Heal(_ context.Context, s *Stage) error { return os.Remove(s.disk.filler()) }

func (DiskFull) Lasts(random *rand.Rand) time.Duration {
	return 2*time.Second + time.Duration(random.IntN(2000))*time.Millisecond
}

// Ends reports that Redis ends by itself when it cannot write its log: what
// ran it starts it again.
func (DiskFull) Ends() bool { return true }

// Meanwhile reads, and writes what has no room.
func (DiskFull) Meanwhile(ctx context.Context, s *Stage, tally *Tally) {
	if s.Kind != layout.One {
		return // the store may be gone, see Ends
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.api.do(ctx, Ask{Method: "GET", Path: "/api/job?limit=10"}); err != nil {
		tally.illegal("reading while the disk is full: %v", err)
	}
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(s.Random.Uint32())
	}
	_, err := s.api.do(ctx, Ask{Method: "PUT", Path: "/api/blob/sha256:" + sum(data), Bytes: data})
	if r, refused := errors.AsType[*Refused](err); !refused || r.Status != http.StatusInsufficientStorage && r.Status != http.StatusServiceUnavailable {
		tally.illegal("writing a megabyte to a full disk was answered %v, want 507 or 503", err)
	}
}

// SyncFails is a disk that cannot write through for a while: fsync returns EIO
// to the process that keeps the records. Then power goes, so that nothing that
// was acknowledged meanwhile may have been in memory alone.
type SyncFails struct {
	strace *exec.Cmd
}

func (*SyncFails) Name() string { return "fsync fails, then power loss" }

func (*SyncFails) Fits(s *Stage) error {
	if os.Geteuid() != 0 {
		return errors.New("only root may trace a process")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		return errors.New("there is no strace")
	}
	return needsDisk(s)
}

func (f *SyncFails) Inject(ctx context.Context, s *Stage) error {
	keeper := s.platform.Processes("platform", "store")[0]
	said, err := os.CreateTemp(s.dir, "strace-")
	if err != nil {
		return err
	}
	defer said.Close()
	f.strace = exec.Command("strace", "-f", "-p", strconv.Itoa(keeper.PID()), "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:error=EIO", "-o", said.Name())
	f.strace.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.strace.Start(); err != nil {
		return err
	}
	for range 500 { // it writes when the first call was refused
		if text, err := os.ReadFile(said.Name()); err == nil && strings.Contains(string(text), "INJECTED") {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.detach()
	return errors.New("strace refused no fsync in 5 s")
}

func (f *SyncFails) detach() {
	f.strace.Process.Signal(syscall.SIGINT)
	f.strace.Wait()
}

func (f *SyncFails) Heal(ctx context.Context, s *Stage) error {
	f.detach()
	for _, p := range s.platform.Processes() {
		_ = p.Signal(syscall.SIGSTOP) // one may have ended of it
	}
	err := s.disk.losePower(ctx)
	for _, p := range s.platform.Processes() {
		p.Kill()
	}
	return errors.Join(err, s.platform.Restart(ctx))
}

func (*SyncFails) Lasts(*rand.Rand) time.Duration { return 2 * time.Second }

// Ends reports that a process may end when it cannot write through.
func (*SyncFails) Ends() bool { return true }
