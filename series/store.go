package series

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// A Store keeps the lines and points of all runs. Fill in the fields, call
// Open, then let Run seal in the background; Append and the queries work from
// Open to Close, also where Run does not. Methods are safe for concurrent use.
//
// Where lines are missing, because a run has said more than is kept, because
// old runs made room, or because the disk damaged them, a query answers one
// line of stream "platform" in their place that says how many. It carries the
// last number of the missing ones, so that whoever goes on from there goes on
// behind them.
type Store struct {
	Dir  string      // the folder of the segments and the manifests
	Blob blob.Driver // where sealed chunks go
	Now  func() time.Time
	Log  *slog.Logger

	SegmentBytes int64 // a segment is sealed when it is larger; 0: 16 MiB
	LogBytes     int64 // of text kept of one run; 0: 1 GiB
	MaxKeys      int   // metric names kept of one run; 0: 10,000

	root     *os.Root
	held     *os.File // the lock on Dir
	pack     *zstd.Encoder
	unpack   *zstd.Decoder
	index    cache
	tolerant bool // damage was found at Open: what a replica has may begin behind what we have

	// Order of locks: sealing, loading, mu. The leader of the queue holds none
	// of them while it writes.
	sealing sync.Mutex // held while manifests change
	loading sync.Mutex // held while a manifest is read into runs
	queue   queue

	mu       sync.Mutex
	runs     map[key]*run // those with unsealed data, and others for a while
	watched  map[key]*watch
	holds    int        // snapshots that are being copied
	active   *segment   // what is appended to; nil: a new one must be made
	full     []*segment // waiting to be sealed, oldest first
	number   int64      // of the newest segment
	cut      int64      // where the newest ends: what is behind it was not acknowledged
	appended time.Time  // the last time

	kick   chan struct{} // Run: look again
	ended  chan struct{} // closed when Run ends
	sealed atomic.Int64  // bytes of all sealed chunks; below 0: not counted yet
	open   atomic.Int64  // bytes of all segments
}

const (
	maxFull   = 8                // segments that wait to be sealed; then whoever appends helps
	idle      = 10 * time.Minute // after which a segment is sealed though it is not full
	maxLoaded = 1024             // runs held in memory without need
)

type key struct {
	tenant mlaas.Tenant
	run    mlaas.RunID
}

// A run is what is known of a run without reading its data. All but key is
// under Store.mu.
type run struct {
	key   key
	pins  int               // who counts on it being in Store.runs
	used  time.Time         // the last time, for what is held without need
	err   error             // its manifest cannot be read
	state                   // durable: in the manifest and in the segments after it
	parts []*part           // unsealed, in the order of their segments
	names map[string]string // each name of a replica, to be held once
	lived map[teller]bool   // who has appended since Open, where damage was found
}

// state is what of a run must not be forgotten when its data is.
type state struct {
	manifest
	seqs   map[string]int64    // the last Seq of the lines of each replica
	fences map[teller]marks    // what each incarnation has delivered
	keys   map[string]struct{} // the metric names
	told   bool                // that there were too many of them
}

// A teller is one incarnation of one replica.
type teller struct {
	replica            string
	epoch, incarnation int
}

// marks are the last spool numbers of the two streams.
type marks struct{ log, metric int64 }

// A part is what one segment has of one run.
type part struct {
	seg     *segment
	lines   []mention
	points  []mention
	curves  map[curve]*column // the same points, for queries
	text    int64             // bytes of lines
	dropped int64             // points over the limit on keys
}

// A mention is a record in a segment.
type mention struct {
	offset  int64
	size    int32
	n       int32
	epoch   int
	cursor  int64 // of the first
	seq     int64 // of the first; lines only
	replica string
}

type curve struct{ replica, key string }

type point struct {
	step, time int64
	value      float64
}

func (s *Store) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Store) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (s *Store) segmentBytes() int64 { return orDefault(s.SegmentBytes, 16<<20) }
func (s *Store) logBytes() int64     { return orDefault(s.LogBytes, 1<<30) }
func (s *Store) maxKeys() int        { return orDefault(s.MaxKeys, 10_000) }

func orDefault[N int | int64](v, or N) N {
	if v > 0 {
		return v
	}
	return or
}

// Open reads what Dir holds, which is made if it is not there, and cuts what a
// crash left half-written. Nothing else may be called before it.
func (s *Store) Open() error {
	if s.Blob == nil {
		return errors.New("series: a store needs a place for blobs")
	}
	var err error
	s.pack, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	s.unpack, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	s.runs, s.watched = map[key]*run{}, map[key]*watch{}
	s.index = cache{most: 16 << 20}
	s.kick, s.ended = make(chan struct{}, 1), make(chan struct{})
	s.sealed.Store(-1)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return full(err)
	}
	if s.root, err = os.OpenRoot(s.Dir); err != nil {
		return err
	}
	if err = s.lock(); err == nil {
		err = s.makeFolder(manifests)
	}
	if err == nil {
		err = s.replay()
	}
	if err != nil {
		_ = s.Close()
		return fmt.Errorf("open the series in %s: %w", s.Dir, full(err))
	}
	return nil
}

// lock keeps other processes out of Dir, which would write to the same files,
// until this one ends or closes the store.
func (s *Store) lock() (err error) {
	if s.held, err = s.root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(s.held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another process uses it (%w): %w", err, mlaas.ErrConflict)
	}
	return nil
}

// Close frees what Open holds. Nothing may be called after it.
func (s *Store) Close() error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range append(s.full, s.active) {
		if seg != nil {
			seg.file.Close()
		}
	}
	s.full, s.active, s.runs = nil, nil, map[key]*run{}
	s.unpack.Close()
	if s.held != nil {
		s.held.Close()
	}
	return errors.Join(s.pack.Close(), s.root.Close())
}

// Run seals full segments into blob, and those that nobody has appended to for
// a while, until ctx ends. What it could not seal stays readable and durable
// where it is, and is tried again. It is called once.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.ended)
	wait := time.NewTimer(0)
	defer wait.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
		case <-wait.C:
		}
		s.rotateIdle()
		for {
			more, err := s.sealOldest(ctx)
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				failures = min(failures+1, 6)
				s.log().Error("series: sealing failed; the data stays where it is and it is tried again", "error", err)
				break
			}
			failures = 0
			if !more {
				break
			}
		}
		switch {
		case failures > 0:
			wait.Reset(time.Second << failures)
		case s.waiting():
			wait.Reset(idle)
		default:
			wait.Stop()
		}
	}
}

// waiting reports whether there is something that time alone will seal.
func (s *Store) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active != nil && s.active.holds()
}

func (s *Store) rotateIdle() {
	s.queue.exclusively(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.active != nil && s.active.holds() && s.now().Sub(s.appended) >= idle {
			s.retire()
		}
	})
}

// nudge has Run look again.
func (s *Store) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// find returns the run called k, read from its manifest if need be, and counts
// on it until release is called.
func (s *Store) find(k key) (r *run, release func(), err error) {
	if err := checkKey(k); err != nil {
		return nil, nil, err
	}
	take := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r = s.runs[k]; r != nil {
			r.pins++
		}
		return r != nil
	}
	if !take() {
		s.loading.Lock()
		defer s.loading.Unlock()
		if !take() {
			loaded, err := s.load(k)
			if err != nil {
				return nil, nil, err
			}
			s.mu.Lock()
			s.forgetSome()
			s.runs[k], r = loaded, loaded
			r.pins++
			s.mu.Unlock()
		}
	}
	release = func() {
		s.mu.Lock()
		r.pins--
		r.used = s.now()
		s.mu.Unlock()
	}
	if r.err != nil {
		release()
		return nil, nil, r.err
	}
	return r, release, nil
}

// forgetSome drops from memory half of the runs that nobody needs there, when
// there are many.
func (s *Store) forgetSome() {
	var free []*run
	for _, r := range s.runs {
		if r.pins == 0 && len(r.parts) == 0 && r.err == nil {
			free = append(free, r)
		}
	}
	if len(free) < maxLoaded {
		return
	}
	slices.SortFunc(free, func(a, b *run) int { return a.used.Compare(b.used) })
	for _, r := range free[:len(free)/2] {
		delete(s.runs, r.key)
	}
}

// Durable is the last spool sequence number of each stream that is stored of
// that incarnation, 0 for none.
func (s *Store) Durable(fence mlaas.Fence) (log, metric int64) {
	err := s.look(key{fence.Tenant, fence.Run}, func(r *run) {
		m := r.fences[tellerOf(fence)]
		log, metric = m.log, m.metric
	})
	if err != nil { // to append to it will say the same
		s.log().Warn("series: a run cannot be looked at", "run", fence.Run, "error", err)
	}
	return log, metric
}

// LastCursor is the newest cursor of each stream of a run, 0 for none.
func (s *Store) LastCursor(_ context.Context, tenant mlaas.Tenant, id mlaas.RunID) (log, metric int64, err error) {
	err = s.look(key{tenant, id}, func(r *run) { log, metric = r.Lines, r.Points })
	return log, metric, err
}

// LastSeq is the newest Seq of the lines of a replica, 0 for none.
func (s *Store) LastSeq(_ context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (seq int64, err error) {
	err = s.look(key{tenant, id}, func(r *run) { seq = r.seqs[replica] })
	return seq, err
}

// look shows f the run called k.
func (s *Store) look(k key, f func(*run)) error {
	r, release, err := s.find(k)
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	f(r)
	return nil
}

// A watch is who waits for news of one run.
type watch struct {
	c chan struct{}
	n int // how many
}

// Changed is closed at the next append to that run, or when it is deleted. Get
// it before reading, so that nothing is missed, and call leave when it is no
// longer waited for.
func (s *Store) Changed(tenant mlaas.Tenant, id mlaas.RunID) (changed <-chan struct{}, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{tenant, id}
	w := s.watched[k]
	if w == nil {
		w = &watch{c: make(chan struct{})}
		s.watched[k] = w
	}
	w.n++
	return w.c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.n--; w.n == 0 && s.watched[k] == w {
			delete(s.watched, k)
		}
	}
}

// changed wakes who watches k. The caller holds mu.
func (s *Store) changed(k key) {
	if w := s.watched[k]; w != nil {
		close(w.c)
		delete(s.watched, k)
	}
}

func tellerOf(f mlaas.Fence) teller { return teller{f.Replica, f.Epoch, f.Incarnation} }

// checkKey keeps names out of paths that could mean another place.
func checkKey(k key) error {
	if !safeName(string(k.tenant)) {
		return mlaas.Invalid("tenant", "a name that is safe in a path", string(k.tenant))
	}
	if !safeName(string(k.run)) {
		return mlaas.Invalid("run", "a name that is safe in a path", string(k.run))
	}
	return nil
}

func safeName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// full makes the kind of an error that says there is no room, or that the disk
// does not take what is written.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", err, mlaas.ErrDisk)
	}
	return err
}
