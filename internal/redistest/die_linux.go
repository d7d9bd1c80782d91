package redistest

import "syscall"

// dieWithUs ends a server also when the program that started it is killed.
func dieWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
