package series

import (
	"bytes"
	"container/list"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
)

const (
	lineBlock  = 256 << 10 // bytes of lines that are compressed together
	pointBlock = 64 << 10
)

// A lineIndex is what is at the end of a chunk of lines.
type lineIndex struct {
	blocks []lineEntry
}

type lineEntry struct {
	offset, size int64
	first, last  int64 // cursors
	time         stretchOfTime
	seqs         map[string][2]int64 // the first and last Seq of each replica
}

// A lineWriter makes a chunk of lines from the spans of one run, as they stand
// in segments.
type lineWriter struct {
	s       *Store
	out     bytes.Buffer
	raw     []byte
	entry   lineEntry
	entries []lineEntry
	chunk   chunk
}

func (w *lineWriter) add(sp *span) {
	end := sp.cursor + sp.n - 1
	if len(w.raw) == 0 {
		w.entry = lineEntry{offset: int64(w.out.Len()), first: sp.cursor, time: someTime(), seqs: map[string][2]int64{}}
	}
	if w.chunk.N == 0 {
		w.chunk.First, w.chunk.Seqs = sp.cursor, map[string][2]int64{}
	}
	for _, seqs := range []map[string][2]int64{w.entry.seqs, w.chunk.Seqs} {
		at, ok := seqs[sp.fence.Replica]
		if !ok {
			at[0] = sp.seq
		}
		at[1] = sp.seq + sp.n - 1
		seqs[sp.fence.Replica] = at
	}
	at := sp.times()
	w.entry.time.add(at)
	if w.chunk.Times == nil {
		w.chunk.Times = &[2]int64{at.from, at.to}
	}
	w.chunk.Times[0], w.chunk.Times[1] = min(w.chunk.Times[0], at.from), max(w.chunk.Times[1], at.to)
	w.entry.last, w.chunk.Last = end, end
	w.chunk.N += sp.n
	w.chunk.Text += int64(len(sp.body))
	payload := sp.append(nil)
	w.raw = append(binary.AppendUvarint(w.raw, uint64(len(payload))), payload...)
	if len(w.raw) >= lineBlock {
		w.flush()
	}
}

func (w *lineWriter) flush() {
	if len(w.raw) == 0 {
		return
	}
	w.s.packBlock(&w.out, w.raw)
	w.entry.size = int64(w.out.Len()) - w.entry.offset
	w.entries = append(w.entries, w.entry)
	w.raw = w.raw[:0]
}

func (w *lineWriter) finish() []byte {
	w.flush()
	w.chunk.Index = int64(w.out.Len())
	b := binary.AppendUvarint(nil, uint64(len(w.entries)))
	for _, e := range w.entries {
		b = appendInts(b, e.offset, e.size, e.first, e.last, int64(len(e.seqs)))
		for replica, at := range e.seqs {
			b = appendInts(appendString(b, replica), at[0], at[1])
		}
	}
	for _, e := range w.entries { // last, where v0.1 does not look
		b = appendInts(b, e.time.from, e.time.to)
	}
	w.s.packBlock(&w.out, b)
	w.chunk.Size = int64(w.out.Len())
	return w.out.Bytes()
}

func readLineIndex(b []byte) (*lineIndex, error) {
	d := decoder{b: b}
	n := d.uint()
	x := &lineIndex{}
	for range n {
		e := lineEntry{offset: d.int(), size: d.int(), first: d.int(), last: d.int(), time: anyTime(), seqs: map[string][2]int64{}}
		for range d.int() {
			replica := d.string()
			e.seqs[replica] = [2]int64{d.int(), d.int()}
			if d.bad {
				break
			}
		}
		if d.bad {
			return nil, errBroken
		}
		x.blocks = append(x.blocks, e)
	}
	if len(d.b) > 0 { // v0.1 wrote no times
		for i := range x.blocks {
			x.blocks[i].time = stretchOfTime{d.int(), d.int()}
		}
	}
	if d.bad {
		return nil, errBroken
	}
	return x, nil
}

// eachSpan calls f with the spans of a block of lines.
func eachSpan(raw []byte, f func(span) error) error {
	d := decoder{b: raw}
	for len(d.b) > 0 {
		payload := d.bytes()
		if d.bad {
			return errBroken
		}
		sp, err := readSpan(payload)
		if err == nil {
			err = f(sp)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A pointIndex is what is at the end of a chunk of points. It names the run, so
// that no two runs have the same chunk and each deletes its own.
type pointIndex struct {
	owner   key
	blocks  [][2]int64 // offset and size
	entries []pointEntry
}

// A pointEntry is one stretch of one curve.
type pointEntry struct {
	curve       curve
	block       int
	offset      int // in the unpacked block
	size        int
	n           int
	low, high   int64 // steps
	first, last int64 // cursors
	rising      bool
	rollups     []item
}

func (s *Store) newPointWriter(k key) *pointWriter {
	return &pointWriter{s: s, curves: map[curve]*gathered{}, index: pointIndex{owner: k}}
}

// A pointWriter makes a chunk of the points of one run.
type pointWriter struct {
	s       *Store
	curves  map[curve]*gathered
	out     bytes.Buffer
	raw     []byte
	index   pointIndex
	chunk   chunk
	started bool
}

type gathered struct {
	points  []point
	cursors []int64
}

func (w *pointWriter) add(c curve, cursor int64, p point) {
	g := w.curves[c]
	if g == nil {
		g = &gathered{}
		w.curves[c] = g
	}
	g.points = append(g.points, p)
	g.cursors = append(g.cursors, cursor)
	if !w.started {
		w.chunk.First, w.chunk.Last, w.started = cursor, cursor, true
	}
	w.chunk.First, w.chunk.Last = min(w.chunk.First, cursor), max(w.chunk.Last, cursor)
	w.chunk.N++
}

func (w *pointWriter) finish() []byte {
	names := make([]curve, 0, len(w.curves))
	for c := range w.curves {
		names = append(names, c)
	}
	slices.SortFunc(names, compareCurves)
	for _, name := range names {
		g := w.curves[name]
		for from := 0; from < len(g.points); from += maxStretch {
			to := min(from+maxStretch, len(g.points))
			points, cursors := g.points[from:to], g.cursors[from:to]
			c := column{rising: true}
			for _, p := range points {
				c.add(p)
			}
			e := pointEntry{
				curve: name, block: len(w.index.blocks), offset: len(w.raw), n: len(points), low: c.low, high: c.high,
				first: cursors[0], last: cursors[len(cursors)-1], rising: c.rising, rollups: rollups(points),
			}
			w.raw = appendStretch(w.raw, points, cursors)
			e.size = len(w.raw) - e.offset
			w.index.entries = append(w.index.entries, e)
			if len(w.raw) >= pointBlock {
				w.flush()
			}
		}
	}
	w.flush()
	w.chunk.Index = int64(w.out.Len())
	w.s.packBlock(&w.out, w.index.append(nil))
	w.chunk.Size = int64(w.out.Len())
	return w.out.Bytes()
}

func (w *pointWriter) flush() {
	if len(w.raw) == 0 {
		return
	}
	at := int64(w.out.Len())
	w.s.packBlock(&w.out, w.raw)
	w.index.blocks = append(w.index.blocks, [2]int64{at, int64(w.out.Len()) - at})
	w.raw = w.raw[:0]
}

func compareCurves(a, b curve) int {
	if c := compareReplicas(a.replica, b.replica); c != 0 {
		return c
	}
	return strings.Compare(a.key, b.key)
}

// compareReplicas puts worker-2 before worker-10.
func compareReplicas(a, b string) int {
	roleA, indexA, errA := mlaas.SplitReplica(a)
	roleB, indexB, errB := mlaas.SplitReplica(b)
	if errA != nil || errB != nil || roleA != roleB || indexA == indexB {
		return strings.Compare(a, b)
	}
	return indexA - indexB
}

func (x *pointIndex) append(b []byte) []byte {
	b = appendString(appendString(b, string(x.owner.tenant)), string(x.owner.run))
	b = binary.AppendUvarint(b, uint64(len(x.blocks)))
	for _, at := range x.blocks {
		b = appendInts(b, at[0], at[1])
	}
	b = binary.AppendUvarint(b, uint64(len(x.entries)))
	var before curve
	for i := range x.entries {
		e := &x.entries[i]
		flags := int64(0) // 1: rising; 2: another curve than the one before
		if e.rising {
			flags |= 1
		}
		if i == 0 || e.curve != before {
			flags |= 2
		}
		b = appendInts(b, flags)
		if flags&2 != 0 {
			b = appendString(appendString(b, e.curve.replica), e.curve.key)
			before = e.curve
		}
		b = appendInts(b, int64(e.block), int64(e.offset), int64(e.size), int64(e.n), e.low, e.high, e.first, e.last, int64(len(e.rollups)))
		for _, r := range e.rollups {
			b = appendInts(b, r.step, r.time)
			for _, v := range []float64{r.min, r.max, r.last} {
				b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
			}
		}
	}
	return b
}

func readPointIndex(b []byte) (*pointIndex, error) {
	d := decoder{b: b}
	x := &pointIndex{owner: key{mlaas.Tenant(d.string()), mlaas.RunID(d.string())}}
	for range d.uint() {
		x.blocks = append(x.blocks, [2]int64{d.int(), d.int()})
		if d.bad {
			return nil, errBroken
		}
	}
	var before curve
	for range d.uint() {
		var e pointEntry
		flags := d.int()
		if flags&2 != 0 {
			before = curve{d.string(), d.string()}
		}
		e.curve, e.rising = before, flags&1 != 0
		e.block, e.offset, e.size, e.n = int(d.int()), int(d.int()), int(d.int()), int(d.int())
		e.low, e.high, e.first, e.last = d.int(), d.int(), d.int(), d.int()
		n := d.int()
		if d.bad || n < 0 || n > int64(len(d.b)) || e.block < 0 || e.block >= len(x.blocks) || e.offset < 0 || e.size < 0 || e.n < 1 {
			return nil, errBroken
		}
		e.rollups = make([]item, n)
		for i := range e.rollups {
			e.rollups[i] = item{d.int(), d.int(), math.Float64frombits(d.fixed()), math.Float64frombits(d.fixed()), math.Float64frombits(d.fixed())}
		}
		if d.bad {
			return nil, errBroken
		}
		x.entries = append(x.entries, e)
	}
	if d.bad {
		return nil, errBroken
	}
	return x, nil
}

func appendInts(b []byte, values ...int64) []byte {
	for _, v := range values {
		b = binary.AppendVarint(b, v)
	}
	return b
}

// packBlock appends raw, compressed and with a checksum.
func (s *Store) packBlock(out *bytes.Buffer, raw []byte) {
	packed := s.pack.EncodeAll(raw, make([]byte, 4, len(raw)/2+64))
	binary.LittleEndian.PutUint32(packed, checksum(packed[4:]))
	out.Write(packed)
}

// block reads and unpacks what packBlock made.
func (s *Store) block(ctx context.Context, c chunk, offset, size int64) ([]byte, error) {
	if offset < 0 || size < 4 || size > c.Size-offset {
		return nil, errBroken
	}
	r, err := s.Blob.Get(ctx, c.Blob, offset)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	packed := make([]byte, size)
	if _, err := io.ReadFull(r, packed); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(packed) != checksum(packed[4:]) {
		return nil, &damage{fmt.Errorf("blob %s at %d is damaged on disk: %w", c.Blob, offset, mlaas.ErrInternal)}
	}
	raw, err := s.unpack.DecodeAll(packed[4:], nil)
	if err != nil {
		return nil, &damage{fmt.Errorf("blob %s at %d: %w", c.Blob, offset, err)}
	}
	return raw, nil
}

// damage is an error that will not go away.
type damage struct{ error }

func (d *damage) Unwrap() error { return d.error }

// indexOf is the index of a chunk, from memory if it was read lately.
func indexOf[X any](ctx context.Context, s *Store, c chunk, read func([]byte) (X, error)) (x X, err error) {
	if held, ok := s.index.get(c.Blob); ok {
		return held.(X), nil
	}
	raw, err := s.block(ctx, c, c.Index, c.Size-c.Index)
	if err != nil {
		return x, err
	}
	if x, err = read(raw); err != nil {
		return x, &damage{fmt.Errorf("the index of blob %s: %w", c.Blob, err)}
	}
	s.index.put(c.Blob, x, 3*len(raw))
	return x, nil
}

// A cache holds what was used lately, up to so many bytes.
type cache struct {
	most int

	mu    sync.Mutex
	size  int
	order list.List // of cached, newest first
	items map[mlaas.Digest]*list.Element
}

type cached struct {
	name  mlaas.Digest
	value any
	size  int
}

func (c *cache) get(name mlaas.Digest) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[name]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).value, true
}

func (c *cache) put(name mlaas.Digest, value any, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[name]; ok {
		return
	}
	if c.items == nil {
		c.items = map[mlaas.Digest]*list.Element{}
	}
	c.items[name] = c.order.PushFront(&cached{name, value, size})
	c.size += size
	for c.size > c.most && c.order.Len() > 1 {
		old := c.order.Remove(c.order.Back()).(*cached)
		delete(c.items, old.name)
		c.size -= old.size
	}
}
