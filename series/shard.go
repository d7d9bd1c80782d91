package series

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
	"mlaas.dev/mlaas/store"
)

// A shard is the medium of several machines: objects hold what is not sealed,
// and records the manifests. One store at a time has a shard; the one that
// opened it last. What keeps a former one from doing harm:
//
//   - Its opening is part of the key of each object, so it never overwrites
//     one of another's.
//   - It acknowledges an object only if the record of the shard still names its
//     opening after the object was put. The next owner writes the record first,
//     and lists the objects then: so it finds whatever was acknowledged.
//   - It writes manifests only with a check of the shard's record in the commit.
//   - What it puts after the next owner has listed is told from what counts by
//     its key: see [chain].
type shard struct {
	*Store

	// What the record says. Commits that check its revision hold owning for
	// reading, those that change it for writing.
	owning sync.RWMutex
	record store.Shard
	rev    int64

	found []objectName // at open, of a store that only reads

	// Under mu.
	number int64 // of the last object that was tried
	last   int64 // of the last that counts
	gone   error // another has opened the shard
}

const (
	putWithin  = 30 * time.Second // an object that takes longer is given up
	fetches    = 16               // objects that are got at the same time
	maxObjects = 600              // of a segment: what Open has to get is bounded
	numbers    = 1000             // that are taken from the record at a time, so that none is used again
)

func (h *shard) open(ctx context.Context) error {
	err := h.take(ctx)
	if h.sealedOnly {
		return err
	}
	for tries := 0; err == nil; tries++ {
		err = h.replay(ctx)
		if !errors.Is(err, errMoved) || tries == 5 {
			break
		}
		err = nil // while it was read the owner has sealed something
		h.runs, h.full = map[key]*run{}, nil
		h.unsealed.Store(0)
	}
	if err == nil && !h.readOnly {
		err = h.begins(ctx)
	}
	if err != nil {
		return fmt.Errorf("open shard %s: %w", h.Shard, err)
	}
	return nil
}

// take writes into the record that the shard is ours from now on, so that
// nobody before us acknowledges anything any more.
func (h *shard) take(ctx context.Context) error {
	for {
		sh, rev, err := store.Shards(h.DB).Get(ctx, "", h.Shard)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return unreachable(err)
		}
		if h.readOnly {
			h.record, h.rev = sh, rev
			return nil
		}
		if sh.Epoch > h.Epoch {
			return fmt.Errorf("it was opened by a lease of epoch %d, ours is %d: %w", sh.Epoch, h.Epoch, mlaas.ErrStale)
		}
		sh.Name, sh.Epoch = h.Shard, h.Epoch
		sh.Opened++
		err = h.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Shards(h.DB).Put(sh, rev)}})
		if err == nil {
			h.record, h.rev = sh, rev+1
			return nil
		}
		if !errors.Is(err, mlaas.ErrConflict) {
			return unreachable(err)
		}
	}
}

// begins writes into the record what was found, so that what former owners
// still put does not count, and removes what does not.
func (h *shard) begins(ctx context.Context) error {
	h.mu.Lock()
	last := h.last
	h.mu.Unlock()
	err := h.change(ctx, func(sh *store.Shard) {
		sh.Since, sh.From = sh.Opened, last+1
		sh.Given += numbers
	})
	if err == nil && !h.copied(ctx, func(c store.Copying) bool { return c.Objects }) {
		h.sweep(ctx)
	}
	return err
}

// change writes the record.
func (h *shard) change(ctx context.Context, f func(*store.Shard)) error {
	h.owning.Lock()
	defer h.owning.Unlock()
	sh := h.record
	f(&sh)
	err := h.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Shards(h.DB).Put(sh, h.rev)}})
	if errors.Is(err, mlaas.ErrConflict) {
		return h.another()
	}
	if err != nil {
		return unreachable(err)
	}
	h.record, h.rev = sh, h.rev+1
	return nil
}

// another says that the shard is not ours any more, which is for good.
func (h *shard) another() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = fmt.Errorf("shard %s was opened by another: %w", h.Shard, mlaas.ErrUnavailable)
	return h.gone
}

// unreachable makes what the store cannot do now an error that passes.
func unreachable(err error) error {
	if errors.Is(err, mlaas.ErrUnavailable) || errors.Is(err, mlaas.ErrDisk) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", err, mlaas.ErrUnavailable)
}

func (h *shard) close() {}

// list returns the objects of the shard.
func (h *shard) list(ctx context.Context) ([]objectName, error) {
	all, err := h.Objects.List(ctx, objectPrefix(h.Shard))
	if err != nil {
		return nil, unreachable(err)
	}
	var names []objectName
	for _, o := range all {
		if n, ok := parseObject(o.Key, h.Shard); ok {
			names = append(names, n)
		}
	}
	return names, nil
}

// replay reads the objects that count, oldest first, into memory.
func (h *shard) replay(ctx context.Context) error {
	found, err := h.list(ctx)
	if err != nil {
		return err
	}
	h.found = found
	count, _, lost := chain(found, h.record)
	if lost {
		h.tolerant = true
		h.log().Error("series: an object is lost; what is before and behind it is kept", "shard", h.Shard)
	}
	h.number, h.last = h.record.Given, h.record.Sealed
	var g *segment
	for some := range slices.Chunk(count, fetches) {
		data := make([][]byte, len(some))
		work, ctx := errgroup.WithContext(ctx)
		for i, n := range some {
			work.Go(func() (err error) {
				ctx, cancel := context.WithTimeout(ctx, putWithin)
				defer cancel()
				if data[i], err = h.Objects.Get(ctx, n.key(h.Shard)); errors.Is(err, mlaas.ErrNotFound) {
					return errMoved
				}
				return err
			})
		}
		if err := work.Wait(); err != nil {
			return unreachable(err)
		}
		for i, n := range some {
			if g == nil || g.size >= h.segmentBytes() || h.crowded(g) {
				g, _ = h.begin()
				h.full = append(h.full, g)
			}
			size, lost, err := h.recoverAll(g, n.number, g.size, data[i])
			if err != nil {
				return err
			}
			if size < len(data[i]) {
				lost++
				h.log().Error("series: an object is damaged; what is before the damage is kept", "shard", h.Shard, "object", n.number, "offset", size, "bytes", len(data[i])-size)
			}
			h.tolerant = h.tolerant || lost > 0
			h.grow(g, n, data[i])
			g.size += int64(len(data[i]))
			h.unsealed.Add(int64(len(data[i])))
		}
	}
	return nil
}

func (h *shard) begin() (*segment, error) {
	return &segment{data: &pieces{}, parts: map[*run]*part{}}, nil
}

// grow makes an object the last of g, and of the shard. The caller holds mu, or
// is alone.
func (h *shard) grow(g *segment, n objectName, data []byte) {
	g.data.(*pieces).add(n, data)
	g.number, h.last = n.number, n.number
}

func (h *shard) crowded(g *segment) bool {
	p := g.data.(*pieces)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.list) >= maxObjects
}

// write puts an object. If nobody knows whether it is there, the next one says
// in its key that it does not count; if there is no next one it counts, which
// is as well: what is sent again is known by its numbers.
func (h *shard) write(g *segment, b []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), putWithin) // not one caller's: it is for all
	defer cancel()
	n, err := h.next(ctx)
	if err != nil {
		return err
	}
	if err := h.held(ctx); err != nil {
		return err
	}
	h.wrote = time.Now()
	if err := h.Objects.Put(ctx, n.key(h.Shard), b); err != nil {
		return unreachable(err)
	}
	failpoint.Hit("series.append.between")
	if err := h.held(ctx); err != nil {
		return err
	}
	sh, _, err := store.Shards(h.DB).Get(ctx, "", h.Shard)
	if err != nil {
		return unreachable(err)
	}
	if sh.Opened != n.opened {
		return h.another()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grow(g, n, b)
	return nil
}

// next is the name of an object that nobody has tried to put.
func (h *shard) next(ctx context.Context) (objectName, error) {
	sh := h.says()
	h.mu.Lock()
	gone, used := h.gone, h.number == sh.Given
	h.mu.Unlock()
	if gone != nil {
		return objectName{}, gone
	}
	if used {
		if err := h.change(ctx, func(sh *store.Shard) { sh.Given += numbers }); err != nil {
			return objectName{}, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	return objectName{number: h.number, opened: sh.Opened, before: h.last}, nil
}

// says is the record.
func (h *shard) says() store.Shard {
	h.owning.RLock()
	defer h.owning.RUnlock()
	return h.record
}

// held is an error where the lease of the cluster is lost.
func (h *shard) held(ctx context.Context) error {
	if h.Held == nil {
		return nil
	}
	if err := h.Held(ctx); err != nil {
		return fmt.Errorf("shard %s is not held: %w: %w", h.Shard, err, mlaas.ErrUnavailable)
	}
	return nil
}

func (h *shard) leave(*segment) error { return nil } // the record says where numbers go on

func (h *shard) remove(ctx context.Context, g *segment) error {
	err := h.change(ctx, func(sh *store.Shard) { sh.Sealed = max(sh.Sealed, g.number) })
	if err != nil {
		return err // its runs are sealed: what is left of it is swept when the shard is opened again
	}
	failpoint.Hit("series.seal.objects")
	if !h.copied(ctx, func(c store.Copying) bool { return c.Objects }) {
		h.delete(ctx, g.data.(*pieces).names())
		h.sweep(ctx)
	}
	return nil
}

// delete removes objects that do not count. What stays is swept another time.
func (h *shard) delete(ctx context.Context, names []objectName) {
	keys := make([]string, len(names))
	for i, n := range names {
		keys[i] = n.key(h.Shard)
	}
	for some := range slices.Chunk(keys, 1000) {
		if err := h.Objects.Delete(ctx, some...); err != nil {
			h.log().Warn("series: objects that are sealed cannot be deleted; it is tried again", "shard", h.Shard, "error", err)
			return
		}
	}
}

// sweep removes objects that do not count.
func (h *shard) sweep(ctx context.Context) {
	h.mu.Lock()
	last := h.last // what is behind it may be on its way
	h.mu.Unlock()
	found, err := h.list(ctx)
	if err != nil {
		h.log().Warn("series: what does not count cannot be swept; it is tried again", "shard", h.Shard, "error", err)
		return
	}
	sh := h.says()
	_, rest, _ := chain(found, sh)
	rest = slices.DeleteFunc(rest, func(n objectName) bool { return n.number > last && n.opened >= sh.Opened })
	h.delete(ctx, rest)
}

func (h *shard) load(ctx context.Context, k key) (*run, error) {
	r := h.newRun(k)
	m, rev, err := store.Series(h.DB).Get(ctx, k.tenant, string(k.run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return r, unreachable(err)
	}
	return r, h.decode(r, m, rev)
}

func (h *shard) decode(r *run, m store.Manifest, rev int64) error {
	err := r.decode(m.Body)
	r.rev, r.manifest.Shard, r.Released = rev, m.Shard, m.Released
	r.ours = m.Shard == h.Shard && !m.Released && !h.sealedOnly
	return err
}

// claim makes a run ours whose manifest says that nobody holds it. Its record
// is there before anything of it is acknowledged, so a run that was deleted is
// told from one that is new.
func (h *shard) claim(ctx context.Context, k key, epoch int) (*run, error) {
	for {
		r, err := h.load(ctx, k)
		if err != nil || r.ours {
			return r, err
		}
		if r.rev > 0 && epoch <= r.Epoch {
			return nil, fmt.Errorf("attempt %d of run %s has ended where another shard took it: %w", epoch, k.run, mlaas.ErrStale)
		}
		if r.rev > 0 && !r.Released {
			h.ask(k, r.manifest.Shard)
			return nil, fmt.Errorf("shard %s has not released run %s yet: %w", r.manifest.Shard, k.run, mlaas.ErrUnavailable)
		}
		h.mu.Lock()
		m := r.manifest
		m.Shard, m.Released, m.Epoch = h.Shard, false, epoch
		m.Sealed = h.number // what older objects here have of it is of an earlier time
		h.mu.Unlock()
		data, err := r.encode(m)
		if err != nil {
			return nil, err
		}
		rev, err := h.save(ctx, r, m, data)
		if errors.Is(err, errMoved) {
			continue
		}
		r.manifest, r.rev, r.ours = m, rev, true
		return r, err
	}
}

func (h *shard) save(ctx context.Context, r *run, m manifest, data []byte) (int64, error) {
	row := store.Series(h.DB).Put(store.Manifest{Tenant: r.key.tenant, Run: r.key.run, Shard: m.Shard, Released: m.Released, Body: data}, r.rev)
	if err := h.commit(ctx, store.Batch{Put: []store.Row{row}}, m.Shard); err != nil {
		return 0, fmt.Errorf("write the manifest of run %s: %w", r.key.run, err)
	}
	return r.rev + 1, nil
}

// commit commits a change of a manifest of a shard, if this one is still ours.
func (h *shard) commit(ctx context.Context, b store.Batch, of string) error {
	h.owning.RLock()
	defer h.owning.RUnlock()
	owned := !h.readOnly && of == h.Shard
	if owned {
		b.Check = append(b.Check, store.Shards(h.DB).At("", h.Shard, h.rev))
	}
	err := h.DB.Commit(ctx, b)
	if !errors.Is(err, mlaas.ErrConflict) {
		return unreachableUnlessNil(err)
	}
	if owned {
		sh, _, err := store.Shards(h.DB).Get(ctx, "", h.Shard)
		if err != nil {
			return unreachable(err)
		}
		if sh.Opened != h.record.Opened {
			return h.another()
		}
	}
	return errMoved
}

func unreachableUnlessNil(err error) error {
	if err == nil {
		return nil
	}
	return unreachable(err)
}

func (h *shard) discard(ctx context.Context, k key) error {
	for {
		m, rev, err := store.Series(h.DB).Get(ctx, k.tenant, string(k.run))
		if err == nil {
			err = h.commit(ctx, store.Batch{Delete: []store.Row{store.Series(h.DB).At(k.tenant, string(k.run), rev)}}, m.Shard)
			if errors.Is(err, errMoved) {
				continue
			}
		}
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return unreachable(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if r := h.runs[k]; r != nil { // if it is appended to again, it is another
			r.ours, r.rev = false, 0
		}
		return nil
	}
}

func (h *shard) each(ctx context.Context, f func(key, *run, error) error) error {
	q := store.Query{}
	for {
		page, next, err := store.Series(h.DB).List(ctx, q)
		if err != nil {
			return unreachable(err)
		}
		for _, found := range page {
			r := h.newRun(key{found.Value.Tenant, found.Value.Run})
			err := h.decode(r, found.Value, found.Rev)
			if err := f(r.key, r, err); err != nil {
				return err
			}
		}
		if next == (store.Key{}) {
			return nil
		}
		q.After = next
	}
}

// ask has Run take a run from the shard that holds it.
func (h *shard) ask(k key, from string) {
	if h.Take == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taking[k] = from
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

// takeRuns has other shards release the runs that are appended to here.
func (s *Store) takeRuns(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wanted:
		}
		s.mu.Lock()
		todo := s.taking
		s.taking = map[key]string{}
		s.mu.Unlock()
		work, some := errgroup.WithContext(ctx)
		work.SetLimit(fetches)
		for k, from := range todo {
			work.Go(func() error {
				if err := s.Take(some, k.tenant, k.run, from); err != nil && ctx.Err() == nil {
					s.log().Warn("series: a run cannot be taken; it is tried again when more of it comes", "run", k.run, "from", from, "error", err)
				}
				return nil
			})
		}
		_ = work.Wait() // none of them fails
	}
}

// Release lets a run go to another shard: all that this one has of it is sealed,
// its manifest says so, and what still comes of its attempts is mlaas.ErrStale.
// A run that this shard does not hold is released already.
func (s *Store) Release(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) error {
	if s.Dir != "" {
		return fmt.Errorf("a store in a folder has nobody to hand run %s to: %w", id, mlaas.ErrConflict)
	}
	s.sealing.Lock()
	defer s.sealing.Unlock()
	k := key{tenant, id}
	r, release, err := s.find(ctx, k, toManage, 0)
	if err != nil {
		return err
	}
	defer release()
	if !r.ours {
		return nil
	}
	s.queue.exclusively(func() { // what is being written now is sealed with the rest
		s.mu.Lock()
		defer s.mu.Unlock()
		r.leaving = true
	})
	err = s.sealAndRelease(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.leaving = false; err != nil {
		return fmt.Errorf("release run %s: %w", id, err)
	}
	r.ours = false
	s.changed(k)
	return nil
}

// sealAndRelease is called while nobody appends to r.
func (s *Store) sealAndRelease(ctx context.Context, r *run) error {
	s.mu.Lock()
	parts := slices.Clone(r.parts)
	s.mu.Unlock()
	for _, p := range parts {
		if err := s.sealPart(ctx, r, p); err != nil {
			return err
		}
	}
	return s.retried(ctx, r, func(bool) error {
		s.mu.Lock()
		m := r.manifest
		s.mu.Unlock()
		m.Released = true
		return s.replace(ctx, r, m, nil, nil)
	})
}
