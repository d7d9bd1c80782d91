package sqlitestore

import (
	"database/sql/driver"
	"os"
	"time"

	"mlaas.dev/mlaas/internal/failpoint"
)

// The log takes the commits, in pages of 4 KiB; copying it into the file is a
// second fsync, and is not what a commit should wait for. A goroutine does it
// when the log is long, or was used and then left alone for a while. Writing
// begins at the start of the log again when all of it was copied; where
// writing never pauses, that moment is made by the writer itself.
const (
	pageSize = 4 << 10
	longLog  = 8 << 10 // pages: copy them now, and again after as many
	hugeLog  = 4       // times that: copy the rest between two commits
	restTime = 15 * time.Second
)

// inherit takes over the log of the process before, before anybody reads: a
// long one is copied and begun anew, for nobody who comes after may live long
// enough to do it.
func (w *writer) inherit() {
	if w.store.path == "" {
		return
	}
	info, err := os.Stat(w.store.path + "-wal")
	if err != nil || info.Size() == 0 {
		return // there is none
	}
	w.pages = int(info.Size() / pageSize)
	notify(w.used)
	if w.pages < w.long {
		return
	}
	all, err := w.store.copyLog(w.conn, "TRUNCATE")
	if err != nil {
		w.store.log.Warn(uncopied, "error", explain(w.store.path, err))
	}
	if all {
		w.pages = 0
	}
}

const uncopied = "the log of the store was not copied into its file, and stays as it is"

// account counts what the last transaction wrote.
func (w *writer) account() {
	if w.store.path == "" {
		return
	}
	before, written := w.pages, w.conn.written()
	w.pages += written - w.counted
	w.counted = written
	notify(w.used)
	if w.pages/w.long > before/w.long {
		notify(w.heavy)
	}
	if w.pages < hugeLog*w.long {
		return
	}
	if all, err := w.store.copyLog(w.conn, "PASSIVE"); err == nil && all {
		w.pages = 0
	}
}

// copyLog copies what it can without waiting for readers, or with the mode
// TRUNCATE waits for them and empties the log then. It reports whether that was
// all. There is one at a time: a writer that finds the log too long waits for
// the one under way, and has little left to do then.
func (s *Store) copyLog(c *conn, mode string) (all bool, err error) {
	s.copying.Lock()
	defer s.copying.Unlock()
	failpoint.Hit("store.checkpoint.before")
	err = c.query(func(v []driver.Value) bool {
		all = v[0] == int64(0) && v[1] == v[2] // nobody was in the way; pages in the log and copied
		return false
	}, "PRAGMA wal_checkpoint("+mode+")")
	if err == nil {
		failpoint.Hit("store.checkpoint.after")
	}
	return all, err
}

func (s *Store) checkpoints() {
	var c *conn
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for {
		select {
		case <-s.closing:
			return
		case <-s.writer.heavy:
		case <-s.writer.used:
			rest := time.NewTimer(restTime)
			select {
			case <-s.closing:
				rest.Stop()
				return
			case <-s.writer.heavy:
				rest.Stop()
			case <-rest.C:
			}
		}
		var err error
		if c == nil {
			c, err = s.dial("wal_autocheckpoint(0)")
		}
		if err == nil {
			_, err = s.copyLog(c, "PASSIVE")
		}
		if err == nil {
			s.reserve()
		} else {
			s.log.Warn(uncopied, "error", explain(s.path, err))
		}
	}
}
