package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// queued is how many bytes wait in the kernel for who reads c, and whether the
// other side has closed or broken the connection.
func queued(c *net.TCPConn) (n int, gone bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, true
	}
	err = raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		if info, e := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); e != nil || info.State != 1 { // ESTABLISHED
			gone = true
		}
	})
	return n, gone || err != nil
}
