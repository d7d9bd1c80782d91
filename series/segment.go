package series

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"mlaas.dev/mlaas"
)

// A segment is one file of records of all runs, in the order of arrival.
type segment struct {
	number int64
	file   *os.File
	size   int64 // durable
	parts  map[*run]*part
}

func segmentName(number int64) string { return fmt.Sprintf("%016d.seg", number) }

// holds reports whether anything was appended.
func (g *segment) holds() bool { return g.size > 64 } // the first record is shorter

// read returns the payload of the record that m mentions.
func (g *segment) read(m mention) (span, error) {
	b := make([]byte, m.size)
	if _, err := g.file.ReadAt(b, m.offset); err != nil {
		return span{}, err
	}
	payload, _, ok := readRecord(b)
	if !ok {
		return span{}, fmt.Errorf("segment %d at %d is damaged on disk: %w", g.number, m.offset, mlaas.ErrInternal)
	}
	return readSpan(payload)
}

// begin makes the next segment, durably. It says where the one before ends, so
// that what was written behind that, and never acknowledged, does not count.
// The leader of the queue calls it.
func (s *Store) begin() (*segment, error) {
	s.mu.Lock()
	number, cut := s.number+1, s.cut
	s.mu.Unlock()
	name := segmentName(number)
	file, err := s.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, full(err)
	}
	head := appendRecord(nil, func(b []byte) []byte {
		b = append(b, kindBegin)
		return binary.AppendVarint(binary.AppendVarint(b, number), cut)
	})
	if _, err = file.WriteAt(head, 0); err == nil {
		if err = file.Sync(); err == nil {
			err = s.flush(".")
		}
	}
	if err != nil {
		file.Close()
		_ = s.root.Remove(name) // if it stays, it is made anew under this name
		return nil, fmt.Errorf("begin a segment: %w", full(err))
	}
	g := &segment{number: number, file: file, size: int64(len(head)), parts: map[*run]*part{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number, s.cut, s.active = number, g.size, g
	s.open.Add(g.size)
	return g, nil
}

// retire has the active segment sealed. The caller holds mu and is, or keeps
// off, the leader of the queue.
func (s *Store) retire() {
	s.full = append(s.full, s.active)
	s.active = nil
	s.nudge()
}

// part is what g has of r.
func (g *segment) part(r *run) *part {
	p := g.parts[r]
	if p == nil {
		p = &part{seg: g, curves: map[curve]*column{}}
		g.parts[r] = p
		r.parts = append(r.parts, p)
	}
	return p
}

// replay reads all segments, oldest first, into memory. The newest is not
// appended to again, so that only one process ever writes to a file.
func (s *Store) replay() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
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
			end = s.endBefore(n + 1)
		}
		if err := s.replaySegment(n, end); err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	return nil
}

// endBefore is where segment number says that the one before it ends, or -1.
func (s *Store) endBefore(number int64) int64 {
	f, err := s.root.Open(segmentName(number))
	if err != nil {
		return -1
	}
	defer f.Close()
	b := make([]byte, 64)
	n, err := io.ReadFull(f, b)
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

func (s *Store) replaySegment(number, end int64) error {
	file, err := s.root.OpenFile(segmentName(number), os.O_RDWR, 0)
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
	g := &segment{number: number, file: file, parts: map[*run]*part{}}
	lost := 0
	size := scan(data, func(offset int, payload []byte, size int) {
		if err := s.recover(g, offset, payload, size); err != nil {
			lost++
			s.log().Error("series: a record cannot be read and is skipped", "segment", number, "offset", offset, "error", err)
		}
	}, func(from, to int) {
		lost++
		s.log().Error("series: a segment is damaged on disk; what is behind the damage is kept", "segment", number, "offset", from, "bytes", to-from)
	})
	g.size = int64(size)
	if size < len(data) || end > int64(len(data)) {
		// The rest was being written when the process or the machine ended. If
		// the segment was complete, it is damage.
		if end >= 0 {
			lost++
		}
		s.log().Warn("series: the end of a segment is cut off", "segment", number, "offset", size, "bytes", len(data)-size, "complete", end >= 0)
		// It may also be damage to the last record: nobody can tell.
		s.tolerant = true
	}
	if lost > 0 {
		s.tolerant = true
	}
	s.number, s.cut = number, g.size
	s.open.Add(g.size)
	s.full = append(s.full, g)
	return nil
}

// scan calls each with every whole record, and damaged with every stretch
// before one that is none. It returns where the last whole record ends.
func scan(data []byte, each func(offset int, payload []byte, size int), damaged func(from, to int)) int {
	at, good := 0, 0
	for at < len(data) {
		payload, size, ok := readRecord(data[at:])
		if !ok && size > 0 {
			if _, _, follows := readRecord(data[at+size:]); follows {
				at += size // the payload is damaged, and its length is right
				continue
			}
		}
		if !ok {
			next := bytes.Index(data[at+1:], []byte(mark))
			if next < 0 {
				break
			}
			at += 1 + next
			continue
		}
		if at > good {
			damaged(good, at)
		}
		each(at, payload, size)
		at += size
		good = at
	}
	return good
}

// recover takes a record of a segment into memory.
func (s *Store) recover(g *segment, offset int, payload []byte, size int) error {
	d := decoder{b: payload}
	switch d.byte() {
	case kindBegin:
		return nil
	case kindForget:
		k := key{mlaas.Tenant(d.string()), mlaas.RunID(d.string())}
		if d.bad {
			return errBroken
		}
		return s.recoverForget(g, k)
	}
	sp, err := readSpan(payload)
	if err != nil {
		return err
	}
	r, err := s.recovering(key{sp.fence.Tenant, sp.fence.Run})
	if err != nil || r.Sealed >= g.number {
		return err
	}
	if sp.n > 0 && sp.cursor <= r.newest(sp.kind) {
		return nil // it was written again, because the first time it was not acknowledged
	}
	var points []mlaas.Point
	if sp.kind == kindPoints {
		if points, err = sp.points(); err != nil {
			return err
		}
	}
	r.take(g, &sp, int64(offset), size, points)
	return nil
}

// recovering is the run called k while nobody else is there yet.
func (s *Store) recovering(k key) (*run, error) {
	if r := s.runs[k]; r != nil {
		return r, r.err
	}
	if err := checkKey(k); err != nil {
		return nil, err
	}
	r, err := s.load(k)
	if err != nil {
		s.log().Error("series: a run cannot be read", "run", k.run, "error", err)
		r = &run{key: k, names: map[string]string{}, lived: map[teller]bool{}, state: newState(), err: err}
	}
	s.runs[k] = r
	return r, r.err
}

// recoverForget does again what Delete does.
func (s *Store) recoverForget(g *segment, k key) error {
	r, err := s.recovering(k)
	if err == nil && r.Sealed >= g.number {
		return nil // sealed with it, so the manifest is of what came after
	}
	if r == nil {
		return err
	}
	r.err = nil
	s.drop(r)
	if err := s.root.Remove(k.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // its blobs are named by nobody now, and collected
}

// of is the mark of the stream of that kind.
func (m marks) of(kind byte) int64 {
	if kind == kindLines {
		return m.log
	}
	return m.metric
}

// newest is the last unsealed cursor of that kind.
func (r *run) newest(kind byte) int64 {
	for _, p := range slices.Backward(r.parts) {
		list := p.lines
		if kind == kindPoints {
			list = p.points
		}
		if n := len(list); n > 0 {
			return list[n-1].last()
		}
	}
	return 0
}

// last is the cursor of the last of what m mentions.
func (m mention) last() int64 { return m.cursor + int64(m.n) - 1 }

// take makes a durable record part of what is known. The caller holds mu, or
// is alone.
func (r *run) take(g *segment, sp *span, offset int64, size int, points []mlaas.Point) {
	p := g.part(r)
	m := mention{offset: offset, size: int32(size), n: int32(sp.n), epoch: sp.fence.Epoch, cursor: sp.cursor, seq: sp.seq, replica: r.intern(sp.fence.Replica)}
	who := tellerOf(sp.fence)
	at := r.fences[who]
	end := sp.cursor + sp.n - 1
	switch sp.kind {
	case kindLines:
		if sp.n > 0 {
			p.lines = append(p.lines, m)
			p.text += int64(len(sp.body))
		}
		r.Lines = max(r.Lines, end)
		r.seqs[sp.fence.Replica] = max(r.seqs[sp.fence.Replica], sp.seq+sp.n-1)
		at.log = max(at.log, sp.first+sp.items-1)
	case kindPoints:
		if sp.n > 0 {
			p.points = append(p.points, m)
		}
		if gone := sp.items - sp.n; gone > 0 {
			p.dropped += gone
			r.told = true
		}
		r.Points = max(r.Points, end)
		at.metric = max(at.metric, sp.first+sp.items-1)
		for i := range points {
			v := &points[i]
			c := p.curves[curve{m.replica, v.Key}]
			if c == nil {
				r.keys[v.Key] = struct{}{}
				c = &column{rising: true}
				p.curves[curve{m.replica, v.Key}] = c
			}
			c.add(point{v.Step, v.Time, float64(v.Value)})
		}
	}
	if sp.items > 0 {
		r.fences[who] = at
	}
}

// intern is s as the run holds it already, so that each name is held once.
func (r *run) intern(s string) string {
	if held, ok := r.names[s]; ok {
		return held
	}
	r.names[s] = s
	return s
}

// drop forgets all that is known of r. The caller holds mu, or is alone.
func (s *Store) drop(r *run) {
	for _, p := range r.parts {
		delete(p.seg.parts, r)
	}
	r.parts, r.state = nil, newState()
}
