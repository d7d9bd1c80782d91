//go:build unix

package health

import (
	"fmt"
	"syscall"

	"mlaas.dev/mlaas"
)

// Room is what is free for us on the disk of a folder, and how large it is.
func Room(folder string) (free, total mlaas.Bytes, err error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(folder, &disk); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", folder, err)
	}
	unit := mlaas.Bytes(disk.Bsize)
	return mlaas.Bytes(disk.Bavail) * unit, mlaas.Bytes(disk.Blocks) * unit, nil
}
