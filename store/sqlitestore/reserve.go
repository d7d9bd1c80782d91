package sqlitestore

import (
	"errors"
	"io/fs"
	"os"

	"mlaas.dev/mlaas"
)

// A file beside the database holds room that nothing else may take. On a disk
// that is full to its last page SQLite cannot even open its file, and a platform
// that does not start cannot be told to free anything: the room is given up
// then, and taken again once there is some.
const (
	reserveSize   = 4 << 20
	reserveSuffix = "-reserve"
)

// spend gives the room up; false where there is none to give.
func (s *Store) spend() bool {
	if s.path == "" || os.Remove(s.path+reserveSuffix) != nil {
		return false
	}
	s.log.Warn("the disk is full: what was kept free for this moment is used to start; make room, as mlaas gc does", "path", s.path, "error", mlaas.ErrDisk)
	return true
}

// reserve takes the room, if it is not taken. What a full disk has no room for
// is tried again after the next copy of the log.
func (s *Store) reserve() {
	name := s.path + reserveSuffix
	info, err := os.Stat(name)
	if err == nil && info.Size() == reserveSize || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	// Not zeros: some file systems keep none.
	room := make([]byte, reserveSize)
	for i := range room {
		room[i] = byte(i * 2654435761 >> 13)
	}
	if err := os.WriteFile(name, room, 0o600); err != nil {
		_ = os.Remove(name) // half of it is no use
	}
}
