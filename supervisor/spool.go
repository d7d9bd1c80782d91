package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A spool keeps one stream on disk until the door has it. Items are numbered
// from 1 without gaps, in files of JSON lines that are named after the first
// number in them, so what a file holds needs no index and a torn last line is
// the only damage a crash can do. The newest items are kept in memory besides,
// so that in ordinary times nothing is read back.
type spool[T any] struct {
	dir, name string
	limit     int64 // of bytes on disk that the door does not have
	blank     T     // what stands for an item that is missing on disk

	mu     sync.Mutex
	parts  []part // oldest first; the last one is open for appending
	file   *os.File
	acked  int64
	buf    []byte
	recent []item[T] // the last ones, without a gap to next
	held   int64     // bytes of recent
	reader *partReader
}

// A part is one file of a spool.
type part struct {
	first, count int64
	size         int64
}

func (p part) next() int64 { return p.first + p.count }

type item[T any] struct {
	value T
	size  int64
}

type partReader struct {
	file *os.File
	buf  *bufio.Reader
	seq  int64 // of the next line
}

const (
	partSize   = 4 << 20
	recentSize = 1 << 20
)

// errFull says that a spool has no room.
var errFull = errors.New("the spool is full")

// errMissing says that something is not in the spool any more.
var errMissing = errors.New("it is missing in the spool")

func openSpool[T any](dir, name string, limit int64) (*spool[T], error) {
	s := &spool[T]{dir: dir, name: name, limit: limit}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // in the order of their names, which is that of their numbers
		rest, ok := strings.CutPrefix(e.Name(), name+"-")
		first, err := strconv.ParseInt(rest, 10, 64)
		if !ok || err != nil {
			continue
		}
		p, err := s.scan(first)
		if err != nil {
			return nil, err
		}
		s.parts = append(s.parts, p)
	}
	if len(s.parts) == 0 {
		return s, s.begin(1)
	}
	s.acked = s.parts[0].first - 1
	last := s.parts[len(s.parts)-1]
	s.file, err = os.OpenFile(s.path(last.first), os.O_WRONLY, 0)
	if err == nil {
		err = s.file.Truncate(last.size)
	}
	if err == nil {
		_, err = s.file.Seek(last.size, io.SeekStart)
	}
	return s, err
}

func (s *spool[T]) path(first int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%020d", s.name, first))
}

func (s *spool[T]) scan(first int64) (part, error) {
	p := part{first: first}
	f, err := os.Open(s.path(first))
	if err != nil {
		return p, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	var line int64
	for {
		chunk, err := r.ReadSlice('\n')
		line += int64(len(chunk))
		switch {
		case err == nil:
			p.count++
			p.size += line
			line = 0
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return p, nil
		default:
			return p, err
		}
	}
}

// begin opens a new part; the one before stays as it is.
func (s *spool[T]) begin(first int64) error {
	f, err := os.OpenFile(s.path(first), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file = f
	s.parts = append(s.parts, part{first: first})
	return nil
}

// append keeps all items or none.
func (s *spool[T]) append(items []T) error { return s.put(items, s.limit) }

// insist keeps items although the spool is full: the few words that say so.
func (s *spool[T]) insist(items ...T) error { return s.put(items, s.limit+64<<10) }

func (s *spool[T]) put(items []T, limit int64) error {
	if len(items) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := make([]item[T], 0, len(items))
	s.buf = s.buf[:0]
	for _, v := range items {
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		s.buf = append(append(s.buf, line...), '\n')
		kept = append(kept, item[T]{v, int64(len(line)) + 1})
	}
	var onDisk int64
	for _, p := range s.parts {
		onDisk += p.size
	}
	if onDisk+int64(len(s.buf)) > limit {
		return errFull
	}
	last := &s.parts[len(s.parts)-1]
	if last.size >= partSize {
		if err := s.begin(last.next()); err != nil {
			return err
		}
		last = &s.parts[len(s.parts)-1]
	}
	if _, err := s.file.Write(s.buf); err != nil {
		// Part of it may be on disk: what follows must not be glued to it.
		cut := s.file.Truncate(last.size)
		if cut == nil {
			_, cut = s.file.Seek(last.size, io.SeekStart)
		}
		return errors.Join(err, cut)
	}
	last.size += int64(len(s.buf))
	last.count += int64(len(items))
	s.recent = append(s.recent, kept...)
	s.held += int64(len(s.buf))
	if cap(s.buf) > 256<<10 {
		s.buf = nil
	}
	if s.held > recentSize {
		s.forget(func() bool { return s.held > recentSize/2 }) // by halves, so that it costs little
	}
	return nil
}

// forget drops the oldest of what is in memory while more says so.
func (s *spool[T]) forget(more func() bool) {
	n := 0
	for n < len(s.recent) && more() {
		s.held -= s.recent[n].size
		n++
	}
	s.recent = slices.Delete(s.recent, 0, n)
}

// waiting reports whether there is anything from number from on, and whether
// it is so many items or so many bytes.
func (s *spool[T]) waiting(from int64, count int, bytes int64) (some, enough bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.parts[len(s.parts)-1].next()
	held := next - int64(len(s.recent))
	switch n := next - from; {
	case n <= 0:
		return false, false
	case n >= int64(count) || from < held:
		return true, true
	}
	for _, it := range s.recent[from-held:] {
		bytes -= it.size
	}
	return true, bytes <= 0
}

// delivered reports whether the door has everything.
func (s *spool[T]) delivered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked >= s.parts[len(s.parts)-1].next()-1
}

// take returns items from number from on, with the number of the first: at
// most so many and about so many bytes.
func (s *spool[T]) take(from int64, count int, bytes int64) (first int64, out []T, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from = max(from, s.parts[0].first)
	next := s.parts[len(s.parts)-1].next()
	if from >= next {
		return from, nil, nil
	}
	if held := next - int64(len(s.recent)); from >= held {
		for _, it := range s.recent[from-held:] {
			if len(out) == count || len(out) > 0 && bytes < it.size {
				break
			}
			out = append(out, it.value)
			bytes -= it.size
		}
		return from, out, nil
	}
	for len(out) < count && bytes > 0 && from+int64(len(out)) < next {
		line, err := s.read(from + int64(len(out)))
		var v T
		if err == nil && json.Unmarshal(line, &v) != nil {
			err = errMissing
		}
		if errors.Is(err, errMissing) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) {
			// Somebody else was at the file. What is left is still worth having,
			// and the door takes nothing behind a gap.
			s.closeReader()
			v, line = s.blank, nil
		} else if err != nil {
			return from, nil, err
		}
		out = append(out, v)
		bytes -= int64(len(line))
	}
	return from, out, nil
}

// read returns one line from disk; the next one follows without a search.
func (s *spool[T]) read(seq int64) ([]byte, error) {
	if r := s.reader; r == nil || r.seq != seq || s.edge(seq) {
		s.closeReader()
		i, found := slices.BinarySearchFunc(s.parts, seq, func(p part, n int64) int {
			switch {
			case n < p.first:
				return 1
			case n >= p.next():
				return -1
			}
			return 0
		})
		if !found {
			return nil, fmt.Errorf("%s %d: %w", s.name, seq, errMissing)
		}
		f, err := os.Open(s.path(s.parts[i].first))
		if err != nil {
			return nil, err
		}
		s.reader = &partReader{f, bufio.NewReaderSize(f, 64<<10), s.parts[i].first}
	}
	for {
		line, err := s.reader.buf.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			head := bytes.Clone(line)
			line, err = s.reader.buf.ReadBytes('\n')
			line = append(head, line...)
		}
		if err != nil {
			s.closeReader()
			return nil, err
		}
		s.reader.seq++
		if s.reader.seq == seq+1 {
			return line, nil
		}
	}
}

// edge reports whether seq is the first of a part.
func (s *spool[T]) edge(seq int64) bool {
	return slices.ContainsFunc(s.parts, func(p part) bool { return p.first == seq })
}

func (s *spool[T]) closeReader() {
	if s.reader != nil {
		s.reader.file.Close()
		s.reader = nil
	}
}

// ack says that the door has everything up to seq durably. A door that knows
// more than was ever spooled here is believed: numbers are never used twice.
func (s *spool[T]) ack(seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.acked {
		return nil
	}
	s.acked = seq
	last := s.parts[len(s.parts)-1]
	next := last.next()
	if seq >= next || seq == next-1 && last.size >= partSize {
		if err := s.begin(seq + 1); err != nil {
			return err
		}
		next = seq + 1
		if seq >= last.next() {
			s.recent, s.held = nil, 0
		}
	}
	n := 0
	for n < len(s.parts)-1 && s.parts[n].next()-1 <= seq {
		n++
	}
	if n > 0 {
		s.closeReader()
	}
	for _, p := range s.parts[:n] {
		if err := os.Remove(s.path(p.first)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	s.parts = slices.Delete(s.parts, 0, n)
	s.forget(func() bool { return next-int64(len(s.recent)) <= seq })
	return nil
}

// sync returns when all that is in the spool now outlives a power loss. Who
// appends does not wait for it.
func (s *spool[T]) sync() error {
	s.mu.Lock()
	var paths []string
	for _, p := range s.parts {
		paths = append(paths, s.path(p.first))
	}
	s.mu.Unlock()
	for _, path := range append(paths, s.dir) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the door has it by now
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (s *spool[T]) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeReader()
	return s.file.Close()
}
