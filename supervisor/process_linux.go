package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Boot names the time since this machine was started.
func Boot() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// Self names this process.
func Self() (Process, error) { return Find(os.Getpid()) }

// Find names the process that has this number now; one that has ended and is
// only remembered is not there.
func Find(pid int) (Process, error) {
	stat, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	if stat.state == 'Z' || stat.state == 'X' {
		return Process{}, fmt.Errorf("process %d has ended: %w", pid, os.ErrProcessDone)
	}
	return Process{Boot: Boot(), PID: pid, Start: stat.start}, nil
}

type procStat struct {
	state        byte
	session      int
	ticks, start uint64
	pages        int64
}

// readStat reads /proc/PID/stat. The name of the program is in parentheses and
// may hold anything, also parentheses.
func readStat(pid int) (s procStat, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, err
	}
	at := bytes.LastIndexByte(data, ')')
	if at < 0 {
		return s, fmt.Errorf("/proc/%d/stat is not as the kernel writes it", pid)
	}
	f := strings.Fields(string(data[at+1:])) // f[0] is field 3
	if len(f) < 22 {
		return s, fmt.Errorf("/proc/%d/stat is not as the kernel writes it", pid)
	}
	s.state = f[0][0]
	s.session, _ = strconv.Atoi(f[3])
	for _, i := range []int{11, 12, 13, 14} { // utime, stime and those of children that ended
		v, _ := strconv.ParseUint(f[i], 10, 64)
		s.ticks += v
	}
	s.start, _ = strconv.ParseUint(f[19], 10, 64)
	s.pages, _ = strconv.ParseInt(f[21], 10, 64)
	return s, nil
}

// sessionUsage adds up what the processes of one session use: where there are
// no control groups.
func sessionUsage(session int) (cpu float64, memory int64) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && s.session == session {
			cpu += float64(s.ticks) / 100 // USER_HZ, which Linux promises to programs
			memory += s.pages * int64(os.Getpagesize())
		}
	}
	return cpu, memory
}

// apart puts a program into its own session, and ties its life to ours.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// hide keeps other processes of our user from reading our memory and variables.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("this process cannot be hidden: %w", err)
	}
	return nil
}

// maxRSS is in KiB here.
func maxRSS(r *syscall.Rusage) int64 { return r.Maxrss << 10 }
