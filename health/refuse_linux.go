package health

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// handshake is how long one that is under way may take to end.
const handshake = 200 * time.Millisecond

// refuse lets no new connection come to a listener, and returns when those
// that the kernel has taken already have been accepted, so that closing the
// listener cuts nobody off. Closing alone would: the kernel resets what waits
// to be accepted, though its client may have sent a request.
//
// A filter on the socket drops each SYN. Whoever dials tries again within a
// second, and is refused then, because the listener is closed.
func refuse(ctx context.Context, l net.Listener) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	const flags, syn, ack = 13, 0x02, 0x10 // the packet begins with its TCP header
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter)
	})
	if err := errors.Join(control, err); err != nil {
		return err
	}
	// Nothing tells when the last handshake is over, nor when the queue is
	// empty: the kernel is asked.
	wait := time.NewTimer(handshake)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
		var info *unix.TCPInfo
		control := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err := errors.Join(control, err); err != nil {
			return err
		}
		if info.Unacked == 0 { // of a socket that listens: what waits to be accepted
			return nil
		}
		wait.Reset(time.Millisecond)
	}
}
