package sqlitestore

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"mlaas.dev/mlaas"
)

// lock makes this process the only one that has the store: claims and wake-ups
// are kept in memory. The kernel gives the lock back when the process ends,
// however it ends. The file stays, and says who had it last.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the store %s: %w", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who := make([]byte, 32)
		n, _ := f.ReadAt(who, 0)
		f.Close()
		return nil, fmt.Errorf("the store %s is in use by process %s; end that first, or choose another folder: %w",
			path, strings.TrimSpace(string(who[:n])), mlaas.ErrUnavailable)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0) // only for the sentence above
	return f, nil
}
