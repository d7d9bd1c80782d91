package series

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// A record is what a segment is made of:
//
//	mark, length of the payload, checksum of length and payload, payload
//
// The mark lets a reader find the next record where one is damaged.
const (
	mark    = "mls1"
	headLen = 4 + 4 + 4
	maxBody = 256 << 10 // a frame is cut into records of about this; one line may be larger
	maxLen  = 4 << 20   // no record is longer
)

// The kinds of record.
const (
	kindBegin  = 1 // the first of a segment
	kindLines  = 2
	kindPoints = 3
	kindForget = 4 // a run was deleted: what came before does not count
)

// appendRecord frames the payload that fill appends.
func appendRecord(b []byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, mark...)
	b = append(b, make([]byte, 8)...)
	b = fill(b)
	binary.LittleEndian.PutUint32(b[at+4:], uint32(len(b)-at-headLen))
	binary.LittleEndian.PutUint32(b[at+8:], checksum(b[at+4:at+8], b[at+headLen:]))
	return b
}

func checksum(parts ...[]byte) (sum uint32) {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// readRecord returns the payload of the record that b begins with and how long
// the record is. It is not ok if there is none, or a damaged one; then size is
// what the record says of itself if that can be, else 0.
func readRecord(b []byte) (payload []byte, size int, ok bool) {
	if len(b) < headLen || string(b[:4]) != mark {
		return nil, 0, false
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n > maxLen || n > len(b)-headLen {
		return nil, 0, false
	}
	size = headLen + n
	payload = b[headLen:size]
	return payload, size, binary.LittleEndian.Uint32(b[8:]) == checksum(b[4:8], payload)
}

// A span is the payload of a record of lines or points: a stretch of one
// stream of one replica.
type span struct {
	kind   byte
	fence  mlaas.Fence
	first  int64 // in the spool
	items  int64 // of the spool that it covers; 0 for a line of our own
	cursor int64 // of the first
	seq    int64 // of the first; lines only
	n      int64 // lines or points in it
	body   []byte
}

func (s *span) append(b []byte) []byte {
	b = append(b, s.kind)
	b = appendString(b, string(s.fence.Tenant))
	b = appendString(b, string(s.fence.Run))
	b = appendString(b, s.fence.Replica)
	for _, v := range []int64{int64(s.fence.Epoch), int64(s.fence.Incarnation), s.first, s.items, s.cursor, s.seq, s.n} {
		b = binary.AppendVarint(b, v)
	}
	return append(b, s.body...)
}

func readSpan(payload []byte) (s span, err error) {
	d := decoder{b: payload}
	s.kind = d.byte()
	s.fence.Tenant = mlaas.Tenant(d.string())
	s.fence.Run = mlaas.RunID(d.string())
	s.fence.Replica = d.string()
	s.fence.Epoch, s.fence.Incarnation = int(d.int()), int(d.int())
	s.first, s.items, s.cursor, s.seq, s.n = d.int(), d.int(), d.int(), d.int(), d.int()
	s.body = d.b
	if d.bad || s.kind != kindLines && s.kind != kindPoints || s.n < 0 || s.n > int64(len(s.body)) || s.items < 0 || s.cursor < 1 {
		return s, errBroken
	}
	return s, nil
}

var errBroken = fmt.Errorf("a record that cannot be read: %w", mlaas.ErrInternal)

func streamByte(s string) (byte, bool) {
	switch s {
	case "stdout":
		return 0, true
	case "stderr":
		return 1, true
	case "platform":
		return 2, true
	case mlaas.ContainerStream:
		return 3, true
	case mlaas.KernelStream:
		return 4, true
	}
	return 0, false
}

func streamName(b byte) string {
	switch b {
	case 0:
		return "stdout"
	case 1:
		return "stderr"
	case 3:
		return mlaas.ContainerStream // v0.1 reads it as the platform's
	case 4:
		return mlaas.KernelStream // the same
	default:
		return "platform"
	}
}

// appendLines is the body of a span of lines.
func appendLines(b []byte, lines []mlaas.LogLine) []byte {
	var last int64
	for i := range lines {
		l := &lines[i]
		stream, _ := streamByte(l.Stream)
		b = append(b, stream)
		b = binary.AppendVarint(b, l.Time.Unix()-last)
		last = l.Time.Unix()
		b = binary.AppendUvarint(b, uint64(l.Time.Nanosecond()))
		b = binary.AppendUvarint(b, uint64(l.Part))
		b = appendString(b, l.Text)
	}
	return b
}

// eachLine calls f with the lines of a span, until it returns false. Only what
// f takes is copied.
func (s *span) eachLine(f func(i int64, text []byte, rest func() mlaas.LogLine) bool) error {
	d := decoder{b: s.body}
	var sec int64
	var stream byte
	var nanos, part uint64
	var text []byte
	rest := func() mlaas.LogLine {
		return mlaas.LogLine{Time: time.Unix(sec, int64(nanos)).UTC(), Stream: streamName(stream), Text: string(text), Part: int(part)}
	}
	for i := range s.n {
		stream = d.byte()
		sec += d.int()
		nanos, part = d.uint(), d.uint()
		text = d.bytes()
		if d.bad || nanos > 1e9 || part > math.MaxInt32 {
			return errBroken
		}
		if !f(i, text, rest) {
			return nil
		}
	}
	return nil
}

// times is when the lines of a span were written.
func (s *span) times() stretchOfTime {
	t := someTime()
	d := decoder{b: s.body}
	var sec int64
	for range s.n {
		d.byte()
		sec += d.int()
		d.uint()
		d.uint()
		d.bytes()
		if d.bad {
			return anyTime()
		}
		t.add(stretchOfTime{sec, sec})
	}
	return t
}

// appendPoints is the body of a span of points, in the order in which they
// came, and the keys in it.
func appendPoints(b []byte, points []mlaas.Point) ([]byte, []string) {
	var keys []string
	number := map[string]uint64{}
	for i := range points {
		if _, ok := number[points[i].Key]; !ok {
			number[points[i].Key] = uint64(len(keys))
			keys = append(keys, points[i].Key)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = appendString(b, k)
	}
	var step, at int64
	for i := range points {
		p := &points[i]
		b = binary.AppendUvarint(b, number[p.Key])
		b = binary.AppendVarint(b, p.Step-step)
		b = binary.AppendVarint(b, p.Time-at)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(p.Value)))
		step, at = p.Step, p.Time
	}
	return b, keys
}

// points reads the points of a span.
func (s *span) points() ([]mlaas.Point, error) {
	d := decoder{b: s.body}
	n := d.uint()
	if n > uint64(len(d.b)) {
		return nil, errBroken
	}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = d.string()
	}
	if s.n > int64(len(d.b)) {
		return nil, errBroken
	}
	points := make([]mlaas.Point, s.n)
	var step, at int64
	for i := range points {
		k := d.uint()
		step += d.int()
		at += d.int()
		bits := d.fixed()
		if d.bad || k >= uint64(len(keys)) {
			return nil, errBroken
		}
		points[i] = mlaas.Point{Key: keys[k], Step: step, Time: at, Value: mlaas.Number(math.Float64frombits(bits))}
	}
	return points, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// A decoder reads what the functions above append. After the first thing that
// cannot be, bad is set and all else is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.b, d.bad = nil, true
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte  { return d.take(d.uint()) }
func (d *decoder) string() string { return string(d.bytes()) }

// cutText makes text valid and cuts it where a line may be no longer, between
// two characters.
func cutText(text string) (head, rest string) {
	if len(text) <= mlaas.MaxLine {
		return text, ""
	}
	at := mlaas.MaxLine
	for at > mlaas.MaxLine-utf8.UTFMax && !utf8.RuneStart(text[at]) {
		at--
	}
	return text[:at], text[at:]
}
