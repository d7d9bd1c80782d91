package series

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"mlaas.dev/mlaas"
)

// An answer of [Handler] is records, as in a segment, so that it can be long
// without being held as text, and an answer that was cut off or damaged on the
// way is never taken for a whole one. The last record says that it is the last.
const (
	answerLines   = 16
	answerArrived = 17
	answerPoints  = 18
	answerBuckets = 19
	answerEnd     = 20
)

const curveBatch = 8192 // points or buckets of one record

// An answerWriter writes records of about maxBody.
type answerWriter struct {
	w    io.Writer
	kind byte
	b    []byte
	n    uint64
	err  error
}

// add appends one thing, n in the record so far.
func (a *answerWriter) add(fill func([]byte) []byte) {
	a.b = fill(a.b)
	if a.n++; len(a.b) >= maxBody {
		a.flush()
	}
}

func (a *answerWriter) flush() {
	if a.n > 0 {
		a.put(func(b []byte) []byte { return append(binary.AppendUvarint(append(b, a.kind), a.n), a.b...) })
	}
	a.b, a.n = a.b[:0], 0
}

func (a *answerWriter) put(fill func([]byte) []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(appendRecord(nil, fill))
	}
}

// end writes what is left, and that it was all.
func (a *answerWriter) end() error {
	a.flush()
	a.put(func(b []byte) []byte { return append(b, answerEnd) })
	return a.err
}

func writeLines(w io.Writer, lines []Line) error {
	a := answerWriter{w: w, kind: answerLines}
	for i := range lines {
		l := &lines[i]
		a.add(func(b []byte) []byte {
			stream, _ := streamByte(l.Stream)
			b = appendInts(b, l.Cursor, l.Seq, int64(l.Attempt), l.Time.Unix(), int64(l.Time.Nanosecond()), int64(l.Part))
			b = appendString(append(b, stream), l.Replica)
			return appendString(b, l.Text)
		})
	}
	return a.end()
}

func readLines(r io.Reader) (lines []Line, err error) {
	err = readAnswer(r, func(kind byte, d *decoder) error {
		if kind != answerLines {
			return errBroken
		}
		for range d.uint() {
			l := Line{Cursor: d.int(), Seq: d.int(), Attempt: int(d.int())}
			sec, nanos := d.int(), d.int()
			l.Part = int(d.int())
			l.LogLine.Stream, l.Replica, l.Text = streamName(d.byte()), d.string(), d.string()
			l.Time = time.Unix(sec, nanos).UTC()
			if lines = append(lines, l); d.bad || len(lines) > maxLimit+2 { // two may say what is missing
				return errBroken
			}
		}
		return nil
	})
	return lines, err
}

func writeArrived(w io.Writer, points []RunPoint) error {
	a := answerWriter{w: w, kind: answerArrived}
	for i := range points {
		p := &points[i]
		a.add(func(b []byte) []byte {
			b = appendString(appendString(appendInts(b, p.Cursor), p.Replica), p.Key)
			return appendFloats(appendInts(b, p.Step, p.Time), p.Value)
		})
	}
	return a.end()
}

func readArrived(r io.Reader) (points []RunPoint, err error) {
	err = readAnswer(r, func(kind byte, d *decoder) error {
		if kind != answerArrived {
			return errBroken
		}
		for range d.uint() {
			p := RunPoint{Cursor: d.int(), Replica: d.string(), Point: mlaas.Point{Key: d.string(), Step: d.int(), Time: d.int(), Value: d.float()}}
			if points = append(points, p); d.bad || len(points) > maxLimit {
				return errBroken
			}
		}
		return nil
	})
	return points, err
}

func writeCurves(w io.Writer, curves []Curve) error {
	a := answerWriter{w: w}
	for i := range curves {
		c := &curves[i]
		head := func(kind byte, n int) func([]byte) []byte {
			return func(b []byte) []byte {
				b = appendString(appendString(append(b, kind), c.Replica), c.Key)
				return binary.AppendUvarint(b, uint64(n))
			}
		}
		for at := 0; at < len(c.Points); at += curveBatch {
			some := c.Points[at:min(at+curveBatch, len(c.Points))]
			a.put(func(b []byte) []byte {
				b = head(answerPoints, len(some))(b)
				var step, time int64
				for j := range some {
					p := &some[j]
					b = appendFloats(appendInts(b, p.Step-step, p.Time-time), p.Value)
					step, time = p.Step, p.Time
				}
				return b
			})
		}
		for at := 0; at < len(c.Buckets); at += curveBatch {
			some := c.Buckets[at:min(at+curveBatch, len(c.Buckets))]
			a.put(func(b []byte) []byte {
				b = head(answerBuckets, len(some))(b)
				var step, time int64
				for j := range some {
					v := &some[j]
					b = appendFloats(appendInts(b, v.Step-step, v.Time-time), v.Min, v.Max, v.Last)
					step, time = v.Step, v.Time
				}
				return b
			})
		}
	}
	return a.end()
}

func readCurves(r io.Reader) (curves []Curve, err error) {
	all := 0
	err = readAnswer(r, func(kind byte, d *decoder) error {
		if kind != answerPoints && kind != answerBuckets {
			return errBroken
		}
		replica, key := d.string(), d.string()
		if n := len(curves); n == 0 || curves[n-1].Replica != replica || curves[n-1].Key != key {
			curves = append(curves, Curve{Replica: replica, Key: key})
		}
		c := &curves[len(curves)-1]
		var step, time int64
		for range d.uint() {
			step, time = step+d.int(), time+d.int()
			if kind == answerPoints {
				c.Points = append(c.Points, mlaas.Point{Key: key, Step: step, Time: time, Value: d.float()})
			} else {
				c.Buckets = append(c.Buckets, Bucket{step, time, d.float(), d.float(), d.float()})
			}
			if all++; d.bad || all > maxAnswer {
				return errBroken
			}
		}
		return nil
	})
	return curves, err
}

func appendFloats(b []byte, values ...mlaas.Number) []byte {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(v)))
	}
	return b
}

func (d *decoder) float() mlaas.Number { return mlaas.Number(math.Float64frombits(d.fixed())) }

// errCut says that an answer is not whole, so that it is asked for again.
var errCut = fmt.Errorf("the answer was cut off: %w", mlaas.ErrUnavailable)

// readAnswer calls f with the records of an answer up to the last.
func readAnswer(r io.Reader, f func(kind byte, d *decoder) error) error {
	head := make([]byte, headLen)
	var b []byte
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return cut(err)
		}
		n := binary.LittleEndian.Uint32(head[4:])
		if string(head[:4]) != mark || n > maxLen {
			return errBroken
		}
		b = append(append(b[:0], head...), make([]byte, n)...)
		if _, err := io.ReadFull(r, b[headLen:]); err != nil {
			return cut(err)
		}
		payload, _, ok := readRecord(b)
		if !ok || len(payload) == 0 {
			return errBroken
		}
		d := decoder{b: payload}
		kind := d.byte()
		if kind == answerEnd {
			return nil
		}
		if err := f(kind, &d); err != nil {
			return err
		}
		if d.bad || len(d.b) > 0 {
			return errBroken
		}
	}
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return fmt.Errorf("%w: %w", err, errCut)
}
