package s3test

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// withUs is a process that ends with us, however we end.
func withUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// stopped returns when the process stands still.
func stopped(pid int) error {
	return unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
}
