package series

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
)

// A folder is the medium of one machine: a file a segment, a file a manifest.
type folder struct {
	*Store
	root *os.Root
	held *os.File // the lock on Dir

	// Under mu.
	number int64 // of the newest segment
	cut    int64 // where the newest ends: what is behind it was not acknowledged
}

func (f *folder) open(context.Context) (err error) {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return full(err)
	}
	if f.root, err = os.OpenRoot(f.Dir); err != nil {
		return err
	}
	if err = f.lock(); err == nil {
		err = f.makeFolder(manifests)
	}
	if err == nil {
		err = f.replay()
	}
	if err != nil {
		return fmt.Errorf("open the series in %s: %w", f.Dir, full(err))
	}
	return nil
}

// lock keeps other processes out of Dir, which would write to the same files,
// until this one ends or closes the store.
func (f *folder) lock() (err error) {
	if f.held, err = f.root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(f.held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another process uses it (%w): %w", err, mlaas.ErrConflict)
	}
	return nil
}

func (f *folder) close() {
	if f.held != nil {
		f.held.Close()
	}
	if f.root != nil {
		f.root.Close()
	}
}

func segmentName(number int64) string { return fmt.Sprintf("%016d.seg", number) }

// begin makes the next file, durably. It says where the one before ends, so
// that what was written behind that, and never acknowledged, does not count.
func (f *folder) begin() (*segment, error) {
	f.mu.Lock()
	number, cut := f.number+1, f.cut
	f.mu.Unlock()
	name := segmentName(number)
	file, err := f.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, full(err)
	}
	head := appendRecord(nil, func(b []byte) []byte {
		b = append(b, kindBegin)
		return binary.AppendVarint(binary.AppendVarint(b, number), cut)
	})
	if _, err = file.WriteAt(head, 0); err == nil {
		if err = file.Sync(); err == nil {
			err = f.flush(".")
		}
	}
	if err != nil {
		file.Close()
		_ = f.root.Remove(name) // if it stays, it is made anew under this name
		return nil, fmt.Errorf("begin a segment: %w", full(err))
	}
	g := &segment{number: number, data: file, head: int64(len(head)), size: int64(len(head)), parts: map[*run]*part{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number, f.cut = number, g.size
	f.unsealed.Add(g.size)
	return g, nil
}

func (f *folder) write(g *segment, b []byte) error {
	file := g.data.(*os.File)
	_, err := file.WriteAt(b, g.size)
	if err == nil {
		failpoint.Hit("series.append.between")
		err = f.sync(g, file)
	} else if file.Truncate(g.size) != nil {
		f.abandon(g)
	}
	if err != nil {
		return full(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = g.size + int64(len(b))
	return nil
}

// sync makes what was written to g durable. Where that fails nobody knows what
// is on disk behind the durable end, and to try again would not tell: the file
// is not written to any more, and the next one says where this one ends.
func (f *folder) sync(g *segment, file *os.File) error {
	err := file.Sync()
	if err != nil {
		_ = file.Truncate(g.size)
		f.abandon(g)
	}
	return err
}

func (f *folder) abandon(g *segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retire(g)
}

func (f *folder) crowded(*segment) bool { return false }

// leave makes the next file where g is the newest: numbers only grow, because
// manifests name the last one that they know.
func (f *folder) leave(g *segment) (err error) {
	f.queue.exclusively(func() {
		f.mu.Lock()
		newest := g.number == f.number
		f.mu.Unlock()
		if newest {
			var next *segment
			if next, err = f.begin(); err == nil {
				f.mu.Lock()
				f.active = next
				f.mu.Unlock()
			}
		}
	})
	return err
}

func (f *folder) remove(_ context.Context, g *segment) error {
	return full(f.root.Remove(segmentName(g.number)))
}

// replay reads all segments, oldest first, into memory. The newest is not
// appended to again, so that only one process ever writes to a file.
func (f *folder) replay() error {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return err
	}
	var numbers []int64
	for _, e := range entries {
		var n int64
		if _, err := fmt.Sscanf(e.Name(), "%d.seg", &n); err == nil && e.Name() == segmentName(n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		end := int64(-1)
		if i+1 < len(numbers) && numbers[i+1] == n+1 {
			end = f.endBefore(n + 1)
		}
		if err := f.replaySegment(n, end); err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	return nil
}

// endBefore is where segment number says that the one before it ends, or -1.
func (f *folder) endBefore(number int64) int64 {
	file, err := f.root.Open(segmentName(number))
	if err != nil {
		return -1
	}
	defer file.Close()
	b := make([]byte, 64)
	n, err := io.ReadFull(file, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return -1
	}
	payload, _, ok := readRecord(b[:n])
	d := decoder{b: payload}
	if !ok || d.byte() != kindBegin || d.int() != number || d.bad {
		return -1
	}
	end := d.int()
	if d.bad {
		return -1
	}
	return end
}

func (f *folder) replaySegment(number, end int64) error {
	file, err := f.root.OpenFile(segmentName(number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(file)
	if err != nil {
		file.Close()
		return err
	}
	if end >= 0 && end <= int64(len(data)) {
		data = data[:end]
	}
	g := &segment{number: number, data: file, parts: map[*run]*part{}}
	f.full = append(f.full, g)
	size, lost, err := f.recoverAll(g, number, 0, data)
	if err != nil {
		return err
	}
	g.size = int64(size)
	if size < len(data) || end > int64(len(data)) {
		// The rest was being written when the process or the machine ended. If
		// the segment was complete, it is damage; if not, it may also be damage
		// to the last record: nobody can tell.
		f.log().Warn("series: the end of a segment is cut off", "segment", number, "offset", size, "bytes", len(data)-size, "complete", end >= 0)
		lost++
	}
	f.tolerant = f.tolerant || lost > 0
	f.number, f.cut = number, g.size
	f.unsealed.Add(g.size)
	return nil
}

func (f *folder) load(_ context.Context, k key) (*run, error) {
	r := f.newRun(k)
	r.ours = true
	data, err := f.root.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		if data, err = unseal(data); err != nil {
			err = fmt.Errorf("the manifest of run %s: %w", k.run, err)
		}
	}
	if err == nil {
		err = r.decode(data)
	}
	return r, err
}

// seal is a manifest as it stands in its file: a checksum in the first line,
// JSON after it.
func seal(body []byte) []byte {
	return append(fmt.Appendf(nil, "%08x\n", checksum(body)), body...)
}

func unseal(data []byte) ([]byte, error) {
	sum, body, ok := bytes.Cut(data, []byte("\n"))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !ok || err != nil || uint32(want) != checksum(body) {
		return nil, fmt.Errorf("it is damaged on disk: %w", mlaas.ErrInternal)
	}
	return body, nil
}

func (f *folder) claim(ctx context.Context, k key, _ int) (*run, error) { return f.load(ctx, k) }

func (f *folder) save(_ context.Context, r *run, _ manifest, data []byte) (int64, error) {
	k := r.key
	err := f.makeFolder(k.dir())
	if err != nil {
		return 0, err
	}
	temp := k.path() + ".tmp"
	if err = f.writeFile(temp, seal(data)); err == nil {
		err = f.root.Rename(temp, k.path())
	}
	if err != nil {
		_ = f.root.Remove(temp) // if it stays, it is replaced the next time
		return 0, fmt.Errorf("write the manifest of run %s: %w", k.run, full(err))
	}
	return 0, f.flush(k.dir())
}

func (f *folder) discard(_ context.Context, k key) error {
	switch err := f.root.Remove(k.path()); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return f.flush(k.dir())
}

func (f *folder) each(ctx context.Context, g func(key, *run, error) error) error {
	tenants, err := fs.ReadDir(f.root.FS(), manifests)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range tenants {
		runs, err := fs.ReadDir(f.root.FS(), path.Join(manifests, t.Name()))
		if err != nil {
			return err
		}
		for _, e := range runs { // sorted by name, which is by age
			name, ok := strings.CutSuffix(e.Name(), ".json")
			k := key{mlaas.Tenant(t.Name()), mlaas.RunID(name)}
			if !ok || checkKey(k) != nil {
				continue
			}
			r, err := f.load(ctx, k)
			if err := g(k, r, err); err != nil {
				return err
			}
		}
	}
	return nil
}

const manifests = "runs"

func (k key) dir() string  { return manifests + "/" + string(k.tenant) }
func (k key) path() string { return k.dir() + "/" + string(k.run) + ".json" }

// makeFolder makes a folder durably, unless it is there.
func (f *folder) makeFolder(name string) error {
	switch err := f.root.Mkdir(name, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return full(err)
	}
	return f.flush(path.Dir(name))
}

// writeFile makes a file of data, durably but for its name.
func (f *folder) writeFile(name string, data []byte) error {
	file, err := f.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// flush makes the names in a folder durable.
func (f *folder) flush(name string) error {
	dir, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return full(dir.Sync())
}
