package sqlitestore

import (
	"cmp"
	"slices"
	"sync"

	"mlaas.dev/mlaas/store"
)

// A tail is the newest changes, as the writer has just committed them, so that
// nobody needs to read them back from the file: neither those who watch, of whom
// there are many, each for few kinds, nor who asks for a row that was written
// just now, as most do. Who minds nothing of a commit is not woken, and who is
// further behind than the tail reaches reads the file.
type tail struct {
	mu    sync.Mutex
	last  []*recent             // oldest first
	rows  map[store.Key]*recent // the last of each row
	bytes int
	most  int   // changes that are kept
	from  int64 // every change after this one is among last
	seq   int64 // of the last commit
	ears  map[*ear]bool
}

// A recent is a change of a tail.
type recent struct {
	store.Change
	index    string // as a column has it
	withheld bool   // another of the same row is being committed
	followed bool   // by another of the same row, which is enough to know
}

// weight is roughly what it takes.
func (r *recent) weight() int { return 256 + len(r.Row.Data) }

// An ear is somebody who watches.
type ear struct {
	kinds []string      // nil: every kind
	ring  chan struct{} // has one in it when something of its kinds may be new
	upTo  int64         // up to here it has heard all that it minds; under the tail's lock
}

func (e *ear) minds(r *recent) bool {
	return e.kinds == nil || slices.Contains(e.kinds, r.Row.Key.Kind)
}

const (
	tailChanges = 16384
	tailBytes   = 8 << 20
)

// begin forgets all: the tail begins after seq.
func (t *tail) begin(seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.rows, t.bytes, t.from, t.seq = nil, map[store.Key]*recent{}, 0, seq, seq
	for e := range t.ears {
		notify(e.ring)
	}
}

// listen returns an ear for some kinds, and what to call when it is not needed
// any more.
func (t *tail) listen(kinds []string) (e *ear, stop func()) {
	e = &ear{kinds: kinds, ring: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ears == nil {
		t.ears = map[*ear]bool{}
	}
	t.ears[e] = true
	return e, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.ears, e)
	}
}

// withhold stops answering for rows that are about to be committed: who reads
// them from the file may see them before add is called, and never an older one
// afterwards.
func (t *tail) withhold(changes []*recent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		if old := t.rows[c.Row.Key]; old != nil {
			old.withheld = true
		}
	}
}

// add takes what was committed up to seq, and tells those who mind.
func (t *tail) add(changes []*recent, seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := range t.ears {
		if slices.ContainsFunc(changes, e.minds) {
			notify(e.ring)
		} else if e.upTo == t.seq {
			e.upTo = seq
		}
	}
	t.seq = seq
	for _, r := range changes {
		if old := t.rows[r.Row.Key]; old != nil {
			t.bytes -= len(old.Row.Data)
			old.Row.Data, old.followed = nil, true
		}
		t.rows[r.Row.Key] = r
		t.last = append(t.last, r)
		t.bytes += r.weight()
	}
	n := 0
	for ; len(t.last)-n > t.most || t.bytes > tailBytes; n++ {
		r := t.last[n]
		t.from = r.Seq
		t.bytes -= r.weight()
		if !r.followed {
			delete(t.rows, r.Row.Key)
		}
	}
	clear(t.last[:n])
	t.last = t.last[n:]
}

// row is a row as it was committed last; ok is false where that was too long ago
// to know.
func (t *tail) row(k store.Key) (r recent, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if found := t.rows[k]; found != nil && !found.withheld {
		return *found, true
	}
	return r, false
}

// heard is up to where e has heard all that it minds.
func (t *tail) heard(e *ear) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.upTo
}

// after is what e minds of all that came after seq, at most a page; ok is false
// where the tail does not reach back so far.
func (t *tail) after(seq int64, e *ear) (page []store.Change, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq < t.from {
		return nil, false
	}
	i, found := slices.BinarySearchFunc(t.last, seq, func(r *recent, seq int64) int { return cmp.Compare(r.Seq, seq) })
	if found {
		i++
	}
	for _, r := range t.last[i:] {
		if r.followed || !e.minds(r) {
			continue
		}
		if page = append(page, r.Change); len(page) == watchPage {
			e.upTo = r.Seq
			return page, true
		}
	}
	e.upTo = t.seq
	return page, true
}
