//go:build unix && !linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Boot names the time since this machine was started.
func Boot() string {
	t, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d.%d", t.Sec, t.Usec)
}

// Self names this process.
func Self() (Process, error) { return Find(os.Getpid()) }

// Find names the process that has this number now; one that has ended and is
// only remembered is not there.
func Find(pid int) (Process, error) {
	p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return Process{}, err
	}
	const zombie = 5 // SZOMB of sys/proc.h
	if int(p.Proc.P_pid) != pid || p.Proc.P_stat == zombie {
		return Process{}, os.ErrProcessDone
	}
	start := p.Proc.P_starttime
	return Process{Boot: Boot(), PID: pid, Start: uint64(start.Sec)*1e6 + uint64(start.Usec)}, nil
}

// sessionUsage is not known here.
func sessionUsage(int) (cpu float64, memory int64) { return 0, 0 }

// apart puts a program into its own session.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// maxRSS is in bytes here.
func maxRSS(r *syscall.Rusage) int64 { return r.Maxrss }

func hide() error { return errors.New("containers are of Linux alone") }
