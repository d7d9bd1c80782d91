package series

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
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
//
// What is not sealed is in a folder, of which one process has the store, or in
// objects, of which one service at a time has a shard: see [Objects].
type Store struct {
	Dir  string      // the folder of the segments and the manifests; empty: they are objects and records
	Blob blob.Driver // where sealed chunks go
	Now  func() time.Time
	Log  *slog.Logger

	// Where Dir is empty:
	Objects Objects      // where segments are
	DB      store.Driver // where manifests are
	Shard   string       // the name of what this store has alone: the cluster whose booster appends
	Epoch   int64        // of the lease by which that booster has the cluster; an older one opens nothing

	// Held is asked before and after each object that is put: an error says
	// that the lease is lost, and nothing of the object is acknowledged. Nil:
	// the record of the shard alone says who has it.
	Held func(ctx context.Context) error

	// Take has the shard called from release a run that it holds, because a
	// later attempt of the run appends here. Run calls it; until it has done so
	// what is appended of the run is refused as mlaas.ErrUnavailable. Nil: it
	// stays refused.
	Take func(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID, from string) error

	Every       time.Duration // while much is appended, objects begin so far apart; 0: 1 s
	GatherBytes int64         // what is put at once though it is sooner; 0: 4 MiB

	readOnly   bool // nothing is written, but for manifests by who has no shard
	sealedOnly bool // and only what is sealed is read

	SegmentBytes int64 // a segment is sealed when it is larger; 0: 16 MiB
	LogBytes     int64 // of text kept of one run; 0: 1 GiB
	MaxKeys      int   // metric names kept of one run; 0: 10,000

	medium   medium
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
	holds    int            // snapshots that are being copied
	active   *segment       // what is appended to; nil: a new one must be made
	full     []*segment     // waiting to be sealed, oldest first
	appended time.Time      // the last time
	wrote    time.Time      // when the last object was begun; of the leader of the queue
	taking   map[key]string // runs to be taken by Run, and from which shard
	wanted   chan struct{}  // Run: look at taking

	kick     chan struct{} // Run: look again
	ended    chan struct{} // closed when Run ends
	sealed   atomic.Int64  // bytes of all sealed chunks; below 0: not counted yet
	unsealed atomic.Int64  // bytes of all segments
}

const (
	durableWithin = 10 * time.Second // Durable asks no longer than that
	idle          = 10 * time.Minute // after which a segment is sealed though it is not full
	maxLoaded     = 1024             // runs held in memory without need
)

type key struct {
	tenant mlaas.Tenant
	run    mlaas.RunID
}

// A run is what is known of a run without reading its data. All but key is
// under Store.mu.
type run struct {
	key     key
	ours    bool              // this store alone appends to it
	leaving bool              // it is being released: nobody appends to it
	rev     int64             // of its manifest, where that is a record
	pins    int               // who counts on it being in Store.runs
	used    time.Time         // the last time, for what is held without need
	err     error             // its manifest cannot be read
	state                     // durable: in the manifest and in the segments after it
	parts   []*part           // unsealed, in the order of their segments
	names   map[string]string // each name of a replica, to be held once
	lived   map[teller]bool   // who has appended since Open, where damage was found
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
	time    stretchOfTime // lines only
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

func (s *Store) every() time.Duration { return cmp.Or(max(s.Every, 0), time.Second) }
func (s *Store) gatherBytes() int64   { return orDefault(s.GatherBytes, 4<<20) }
func (s *Store) segmentBytes() int64  { return orDefault(s.SegmentBytes, 16<<20) }
func (s *Store) logBytes() int64      { return orDefault(s.LogBytes, 1<<30) }
func (s *Store) maxKeys() int         { return orDefault(s.MaxKeys, 10_000) }

// maxFull is how many segments wait to be sealed; then whoever appends helps.
// Those that are objects are held in memory meanwhile.
func (s *Store) maxFull() int {
	if s.Dir == "" {
		return 2
	}
	return 8
}

func orDefault[N int | int64](v, or N) N {
	if v > 0 {
		return v
	}
	return or
}

// Open reads what is not sealed, which is made if it is not there, and cuts
// what a crash left half-written. Nothing else may be called before it.
func (s *Store) Open() error { return s.open(context.Background()) }

func (s *Store) open(ctx context.Context) (err error) {
	if s.Blob == nil {
		return errors.New("series: a store needs a place for blobs")
	}
	s.pack, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	s.unpack, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	s.runs, s.watched, s.taking = map[key]*run{}, map[key]*watch{}, map[key]string{}
	s.index = cache{most: 16 << 20}
	s.kick, s.wanted, s.ended = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	s.sealed.Store(-1)
	if s.medium, err = s.choose(); err == nil {
		if err = s.medium.open(ctx); err != nil {
			_ = s.Close()
		}
	}
	return err
}

// choose makes the medium that the fields ask for.
func (s *Store) choose() (medium, error) {
	switch {
	case s.Dir != "" && s.Objects != nil:
		return nil, errors.New("series: a store is in a folder or in objects, not in both")
	case s.Dir != "":
		return &folder{Store: s}, nil
	case s.Objects == nil || s.DB == nil:
		return nil, errors.New("series: a store needs a folder, or a place for objects and one for records")
	case !safeName(s.Shard):
		return nil, mlaas.Invalid("shard", "a name that is safe in a path", s.Shard)
	}
	return &shard{Store: s}, nil
}

// Close frees what Open holds. Nothing may be called after it.
func (s *Store) Close() error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range append(s.full, s.active) {
		if seg != nil {
			seg.data.Close()
		}
	}
	s.full, s.active, s.runs = nil, nil, map[key]*run{}
	s.unpack.Close()
	s.medium.close()
	return s.pack.Close()
}

// Run seals full segments into blob, and those that nobody has appended to for
// a while, until ctx ends. What it could not seal stays readable and durable
// where it is, and is tried again. It is called once.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.ended)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.takeRuns(ctx) })
	g.Go(func() error { return s.sealAll(ctx) })
	return g.Wait()
}

func (s *Store) sealAll(ctx context.Context) error {
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
			s.retire(s.active)
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

// What a run is looked for.
type purpose int

const (
	toRead   purpose = iota // it is mlaas.ErrUnavailable where another shard holds it
	toManage                // whoever holds it
	toAppend
)

// find returns the run called k, read from its manifest if need be, and counts
// on it until release is called.
func (s *Store) find(ctx context.Context, k key, why purpose, epoch int) (r *run, release func(), err error) {
	if err := checkKey(k); err != nil {
		return nil, nil, err
	}
	take := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r = s.runs[k]; r != nil && !r.ours && r.err == nil {
			r = nil // others change it
		}
		if r != nil {
			r.pins++
		}
		return r != nil
	}
	if !take() {
		s.loading.Lock()
		defer s.loading.Unlock()
		if !take() {
			load := s.medium.load
			if why == toAppend {
				load = func(ctx context.Context, k key) (*run, error) { return s.medium.claim(ctx, k, epoch) }
			}
			loaded, err := load(ctx, k)
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
	if err = r.err; err == nil && why == toRead {
		err = s.readable(r)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return r, release, nil
}

// readable is an error where another shard has of r what is not sealed.
func (s *Store) readable(r *run) error {
	if r.ours || r.Released || r.rev == 0 {
		return nil
	}
	return fmt.Errorf("shard %s holds run %s: %w", r.manifest.Shard, r.key.run, mlaas.ErrUnavailable)
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
	ctx, cancel := context.WithTimeout(context.Background(), durableWithin)
	defer cancel()
	err := s.look(ctx, key{fence.Tenant, fence.Run}, toManage, func(r *run) {
		m := r.fences[tellerOf(fence)]
		log, metric = m.log, m.metric
	})
	if err != nil { // to append to it will say the same
		s.log().Warn("series: a run cannot be looked at", "run", fence.Run, "error", err)
	}
	return log, metric
}

// LastCursor is the newest cursor of each stream of a run, 0 for none.
func (s *Store) LastCursor(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (log, metric int64, err error) {
	err = s.look(ctx, key{tenant, id}, toRead, func(r *run) { log, metric = r.Lines, r.Points })
	return log, metric, err
}

// LastSeq is the newest Seq of the lines of a replica, 0 for none.
func (s *Store) LastSeq(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (seq int64, err error) {
	err = s.look(ctx, key{tenant, id}, toRead, func(r *run) { seq = r.seqs[replica] })
	return seq, err
}

// look shows f the run called k.
func (s *Store) look(ctx context.Context, k key, why purpose, f func(*run)) error {
	r, release, err := s.find(ctx, k, why, 0)
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
