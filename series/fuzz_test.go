package series

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

// FuzzSegment reads anything as a segment and as what is in chunks: it may be
// refused, never crash, and what is read must be within what is there.
func FuzzSegment(f *testing.F) {
	fence := mlaas.Fence{Tenant: "t", Run: "r", Epoch: 1, Replica: "worker-0", Incarnation: 1}
	lines := span{kind: kindLines, fence: fence, first: 1, items: 2, cursor: 1, seq: 1, n: 2,
		body: appendLines(nil, []mlaas.LogLine{{Time: time.Unix(1, 2), Stream: "stdout", Text: "one"}, {Stream: "platform", Text: "two", Part: 1}})}
	body, _ := appendPoints(nil, []mlaas.Point{{Key: "a", Step: 1, Time: 2, Value: 3}, {Key: "b", Step: -1}})
	points := span{kind: kindPoints, fence: fence, first: 1, items: 2, cursor: 1, n: 2, body: body}
	segment := appendRecord(appendRecord(nil, lines.append), points.append)
	f.Add(segment)
	f.Add(append([]byte("mls1mls1"), segment...))
	f.Add(lines.append(nil))
	f.Add(points.append(nil))
	f.Add(appendStretch(nil, []point{{1, 2, 3}, {2, 3, 4}}, []int64{1, 3}))
	x := pointIndex{blocks: [][2]int64{{0, 10}}, entries: []pointEntry{{curve: curve{"worker-0", "a"}, size: 10, n: 2, rising: true, rollups: []item{{1, 2, 3, 4, 5}}}}}
	f.Add(x.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		use := func(payload []byte) {
			sp, err := readSpan(payload)
			if err != nil {
				return
			}
			var n int64
			_ = sp.eachLine(func(i int64, text []byte, rest func() mlaas.LogLine) bool {
				n++
				return len(rest().Text) == len(text)
			})
			if n > sp.n {
				t.Errorf("%d lines are read of %d", n, sp.n)
			}
			if list, err := sp.points(); err == nil && int64(len(list)) != sp.n {
				t.Errorf("%d points are read of %d", len(list), sp.n)
			}
		}
		last := 0
		end := scan(data, func(offset int, payload []byte, size int) {
			if offset < last || offset+size > len(data) {
				t.Errorf("a record from %d of %d bytes", offset, size)
			}
			last = offset + size
			use(payload)
		}, func(from, to int) {
			if from != last || to <= from {
				t.Errorf("damage from %d to %d after %d", from, to, last)
			}
		})
		if end != last {
			t.Errorf("the last record ends at %d, not at %d", last, end)
		}
		use(data)
		_ = eachSpan(data, func(sp span) error { use(sp.append(nil)); return nil })
		_, _ = readLineIndex(data)
		if x, err := readPointIndex(data); err == nil {
			again, err := readPointIndex(x.append(nil))
			if err != nil || len(again.entries) != len(x.entries) {
				t.Errorf("an index is not what it was: %v", err)
			}
		}
		for _, n := range []int{0, 1, 2, 1000} {
			if p, c, err := readStretch(data, n); err == nil {
				if len(p) != n || len(c) != n {
					t.Errorf("%d points, want %d", len(p), n)
				}
			}
		}
	})
}

func TestStretch(t *testing.T) {
	points := []point{{-5, 1 << 60, 1.5}, {7, -3, 0}, {7, 0, 2}, {1 << 62, 9, -1}}
	cursors := []int64{4, 5, 9, 1 << 40}
	b := appendStretch(nil, points, cursors)
	p, c, err := readStretch(b, len(points))
	if err != nil {
		t.Fatal(err)
	}
	for i := range points {
		if p[i] != points[i] || c[i] != cursors[i] {
			t.Errorf("%d is %v at %d, want %v at %d", i, p[i], c[i], points[i], cursors[i])
		}
	}
}

// A log line may hold what looks like a record; it is not taken for one, even
// where the record that holds it is damaged.
func TestRecordInRecord(t *testing.T) {
	fence := mlaas.Fence{Tenant: "t", Run: "r", Replica: "worker-0"}
	inner := appendRecord(nil, (&span{kind: kindLines, fence: fence, cursor: 1, body: []byte{}}).append)
	outer := func(b []byte) []byte { return append(append(b, "text "...), inner...) }
	data := appendRecord(appendRecord(nil, outer), outer)
	data[headLen] ^= 1
	var found [][]byte
	scan(data, func(_ int, payload []byte, _ int) { found = append(found, payload) }, func(int, int) {})
	if len(found) != 1 || !bytes.HasPrefix(found[0], []byte("text ")) {
		t.Errorf("found are %q", found)
	}
}

// The index of a chunk that v0.1 wrote has no times, and all of it may be asked
// for.
func TestOldLineIndex(t *testing.T) {
	old := binary.AppendUvarint(nil, 1)
	old = appendInts(appendString(appendInts(old, 0, 100, 1, 9, 1), "worker-0"), 1, 9)
	x, err := readLineIndex(old)
	if err != nil || len(x.blocks) != 1 || x.blocks[0].last != 9 || x.blocks[0].seqs["worker-0"] != [2]int64{1, 9} {
		t.Fatalf("it is %+v, %v", x, err)
	}
	q := LineQuery{Since: time.Unix(1, 0), Until: time.Unix(2, 0)}
	if !q.meets(x.blocks[0].time) {
		t.Error("a block without times is passed over")
	}
}
