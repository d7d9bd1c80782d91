package environment

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
)

// recent is how long an environment is kept after its last use whatever its
// size: a program may be about to start in it.
const recent = 10 * time.Minute

// Use is what an environment takes on the disk.
type Use struct {
	Lock     mlaas.Digest `json:"lock"`
	Packages int          `json:"packages"`
	Bytes    mlaas.Bytes  `json:"bytes"` // by itself; files that it shares count for each
	Used     time.Time    `json:"used"`  // last
}

// Usage lists the environments of this machine, the longest unused first, and
// what Dir takes in all, each shared file counted once.
func (m *Manager) Usage() (all []Use, total mlaas.Bytes, err error) {
	marks, _ := filepath.Glob(filepath.Join(m.Dir, "venv", "*.complete"))
	for _, mark := range marks {
		info, err := os.Stat(mark)
		var done complete
		text, err2 := os.ReadFile(filepath.Join(strings.TrimSuffix(mark, ".complete"), "lock.txt"))
		if err != nil || err2 != nil || !readJSON(mark, &done) {
			continue
		}
		all = append(all, Use{Digest(text), len(Packages(text)), mlaas.Bytes(done.Bytes), info.ModTime()})
	}
	slices.SortFunc(all, func(a, b Use) int { return a.Used.Compare(b.Used) })
	size := newSizes()
	err = size.add(m.Dir, 1)
	return all, size.total, err
}

// sizes counts what files take, each inode once however many names it has.
type sizes struct {
	refs  map[[2]uint64]int
	total mlaas.Bytes
}

func newSizes() *sizes { return &sizes{refs: map[[2]uint64]int{}} }

// add counts the files under dir n times more; with -1, as often less.
func (s *sizes) add(dir string, n int) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) { // it went meanwhile
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			s.total += mlaas.Bytes(n) * mlaas.Bytes(info.Size())
			return nil
		}
		id := [2]uint64{uint64(st.Dev), uint64(st.Ino)}
		was := s.refs[id]
		s.refs[id] += n
		if was == 0 || s.refs[id] == 0 {
			s.total += mlaas.Bytes(n) * mlaas.Bytes(st.Blocks) * 512
		}
		return nil
	})
}

// A Swept says what Sweep removed.
type Swept struct {
	Removed []mlaas.Digest `json:"removed"` // locks whose environments are gone; they are made again when needed
	Freed   mlaas.Bytes    `json:"freed"`
	Left    mlaas.Bytes    `json:"left"`
}

// Sweep brings Dir down to max bytes: first what was kept only to build faster,
// then environments, the longest unused first. Those of inUse, and those used
// in the last ten minutes, stay. It does not wait for one that is being built.
func (m *Manager) Sweep(ctx context.Context, max mlaas.Bytes, inUse []mlaas.Digest) (Swept, error) {
	swept := Swept{Removed: []mlaas.Digest{}}
	all, before, err := m.Usage()
	if err != nil || before <= max {
		swept.Left = before
		return swept, err
	}
	size := newSizes()
	if err := size.add(m.Dir, 1); err != nil {
		return swept, err
	}
	if held, ok := tryHold(filepath.Join(m.Dir, "cache.hold")); !ok {
		m.log().Info("an environment is being made; the cache of packages is kept")
	} else {
		cache := filepath.Join(m.Dir, "cache")
		err := size.add(cache, -1)
		if err == nil {
			err = os.RemoveAll(cache)
		}
		held.Close()
		if err != nil {
			return swept, m.failure("empty the cache of packages", err)
		}
	}
	for _, use := range all {
		if size.total <= max || ctx.Err() != nil {
			break
		}
		if slices.Contains(inUse, use.Lock) || m.now().Sub(use.Used) < recent {
			continue
		}
		dir := m.venv(use.Lock)
		held, ok := tryHold(dir + ".hold")
		if !ok {
			continue
		}
		// It may have been used since it was listed.
		if info, err := os.Stat(dir + ".complete"); err == nil && m.now().Sub(info.ModTime()) >= recent {
			if err := size.add(dir, -1); err == nil {
				m.remove(dir)
				swept.Removed = append(swept.Removed, use.Lock)
			}
		}
		held.Close()
	}
	swept.Left, swept.Freed = size.total, before-size.total
	return swept, ctx.Err()
}

// tryHold locks a file if nobody has it.
func tryHold(file string) (*os.File, bool) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, false
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		f.Close()
		return nil, false
	}
	return f, true
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
