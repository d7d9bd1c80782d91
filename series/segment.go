package series

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"mlaas.dev/mlaas"
)

// A segment is records of all runs, in the order of arrival: a file, or objects
// that follow each other.
type segment struct {
	number int64 // of the file, or of the last object
	data   segmentData
	head   int64 // bytes before the first record of a run
	size   int64 // durable
	parts  map[*run]*part
}

// segmentData is what a segment is read from.
type segmentData interface {
	io.ReaderAt
	io.Closer
}

// holds reports whether anything was appended.
func (g *segment) holds() bool { return g.size > g.head }

// read returns the payload of the record that m mentions.
func (g *segment) read(m mention) (span, error) {
	b := make([]byte, m.size)
	if _, err := g.data.ReadAt(b, m.offset); err != nil {
		return span{}, err
	}
	payload, _, ok := readRecord(b)
	if !ok {
		return span{}, fmt.Errorf("a segment at %d is damaged: %w", m.offset, mlaas.ErrInternal)
	}
	return readSpan(payload)
}

// retire has g sealed, which nobody appends to any more. The caller holds mu
// and is, or keeps off, the leader of the queue.
func (s *Store) retire(g *segment) {
	s.full = append(s.full, g)
	if s.active == g {
		s.active = nil
	}
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

// recoverAll takes the records of data into memory, which g has from at on. It
// returns where the last whole record ends, and how often something was lost.
func (s *Store) recoverAll(g *segment, number, at int64, data []byte) (size, lost int, err error) {
	size = scan(data, func(offset int, payload []byte, size int) {
		if err != nil {
			return
		}
		switch e := s.recover(g, number, at+int64(offset), payload, size); {
		case errors.Is(e, mlaas.ErrUnavailable):
			err = e
		case e != nil:
			lost++
			s.log().Error("series: a record cannot be read and is skipped", "segment", number, "offset", offset, "error", e)
		}
	}, func(from, to int) {
		lost++
		s.log().Error("series: a segment is damaged; what is behind the damage is kept", "segment", number, "offset", from, "bytes", to-from)
	})
	return size, lost, err
}

// recover takes a record of a segment into memory.
func (s *Store) recover(g *segment, number, offset int64, payload []byte, size int) error {
	d := decoder{b: payload}
	switch d.byte() {
	case kindBegin:
		return nil
	case kindForget:
		k := key{mlaas.Tenant(d.string()), mlaas.RunID(d.string())}
		if d.bad {
			return errBroken
		}
		return s.recoverForget(number, k)
	}
	sp, err := readSpan(payload)
	if err != nil {
		return err
	}
	r, err := s.recovering(key{sp.fence.Tenant, sp.fence.Run})
	if err != nil || !r.ours || r.Sealed >= number {
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
	r.take(g, &sp, offset, size, points)
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
	r, err := s.medium.load(context.Background(), k)
	if errors.Is(err, mlaas.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		s.log().Error("series: a run cannot be read", "run", k.run, "error", err)
		r = s.newRun(k)
		r.ours, r.err = true, err
	}
	s.runs[k] = r
	return r, r.err
}

// recoverForget does again what Delete does.
func (s *Store) recoverForget(number int64, k key) error {
	r, err := s.recovering(k)
	if err == nil && (!r.ours || r.Sealed >= number) {
		return nil // sealed with it, so the manifest is of what came after
	}
	if r == nil {
		return err
	}
	r.err = nil
	s.drop(r)
	delete(s.runs, k)
	return s.medium.discard(context.Background(), k) // its blobs are named by nobody now, and collected
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
			m.time = sp.times()
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
