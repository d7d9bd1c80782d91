package series

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/failpoint"
)

// Flush seals all that is there now. Nothing depends on it: it makes memory
// free, and a backup small.
func (s *Store) Flush(ctx context.Context) error {
	s.queue.exclusively(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.active != nil && s.active.holds() {
			s.retire(s.active)
		}
	})
	for {
		if more, err := s.sealOldest(ctx); err != nil || !more {
			return err
		}
	}
}

// sealOldest turns the oldest full segment into chunks and removes it. It
// reports whether there was one. A crash at any instruction is harmless: a run
// whose manifest names the segment is done, the others are done again.
func (s *Store) sealOldest(ctx context.Context) (bool, error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	if len(s.full) == 0 {
		s.mu.Unlock()
		return false, nil
	}
	g := s.full[0]
	parts := make(map[*run]*part, len(g.parts))
	for r, p := range g.parts {
		parts[r] = p
	}
	s.mu.Unlock()
	if err := s.medium.leave(g); err != nil {
		return false, err
	}
	work, some := errgroup.WithContext(ctx)
	work.SetLimit(4) // their fsyncs overlap
	for r, p := range parts {
		work.Go(func() error {
			if err := s.sealPart(some, r, p); err != nil {
				return fmt.Errorf("seal run %s: %w", r.key.run, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return false, err
	}
	failpoint.Hit("series.seal.remove")
	s.mu.Lock()
	s.full = s.full[1:]
	s.unsealed.Add(-g.size)
	s.mu.Unlock()
	g.data.Close()
	return true, s.medium.remove(ctx, g)
}

// sealPart seals what a segment has of a run.
func (s *Store) sealPart(ctx context.Context, r *run, p *part) error {
	return s.retried(ctx, r, func(alone bool) error {
		s.mu.Lock()
		there := p.seg.parts[r] == p // else the run is somebody else's by now
		s.mu.Unlock()
		if !there {
			return nil
		}
		return s.sealRun(ctx, r, p, alone)
	})
}

// retried calls f again where somebody else has changed the manifest of r; and
// where nobody has, but a chunk is missing, with the word to leave chunks alone.
func (s *Store) retried(ctx context.Context, r *run, f func(alone bool) error) error {
	for alone := false; ; {
		err := f(alone)
		if !errors.Is(err, errMoved) || alone {
			return err
		}
		now, err := s.medium.load(ctx, r.key)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if now.rev == r.rev {
			s.mu.Unlock()
			alone = true
			continue
		}
		if ours := r.ours; ours && !now.ours { // it was deleted, or taken while this process was thought dead
			s.drop(r)
			r.ours, r.rev = false, 0
			s.changed(r.key)
		} else {
			lines, points := r.Lines, r.Points
			r.manifest, r.rev = now.manifest, now.rev
			if ours {
				r.Lines, r.Points = lines, points // more than the manifest knows
			}
		}
		s.mu.Unlock()
		if now.rev == 0 {
			return nil // and there is nothing left to change
		}
	}
}

// sealRun writes what a retired segment has of a run into blobs, and then the
// manifest that says so. Nobody else changes the chunks of a run meanwhile.
func (s *Store) sealRun(ctx context.Context, r *run, p *part, alone bool) error {
	s.mu.Lock()
	m := r.manifest
	m.Sealed = p.seg.number
	s.mu.Unlock()
	var old []chunk
	var gone int64
	if len(p.lines) > 0 {
		logs, replaced, err := s.sealLines(ctx, m.Logs, p, alone)
		if err != nil {
			return err
		}
		kept, dropped := s.overLimit(logs)
		m.Logs, old = kept, append(replaced, dropped...)
		for _, c := range dropped {
			gone += c.N
		}
	}
	if len(p.points) > 0 {
		metrics, replaced, err := s.sealPoints(ctx, r.key, m.Metrics, p, alone)
		if err != nil {
			return err
		}
		m.Metrics, old = metrics, append(old, replaced...)
	}
	m.DroppedPoints += p.dropped
	if gone > 0 {
		s.log().Info("series: a run has said more than is kept; lines from its middle are dropped", "run", r.key.run, "lines", gone)
	}
	return s.replace(ctx, r, m, old, p)
}

// replace makes m the manifest of r, without the part that is in chunks now,
// and deletes the chunks that m no longer lists.
func (s *Store) replace(ctx context.Context, r *run, m manifest, old []chunk, sealed *part) error {
	s.mu.Lock()
	m.Lines, m.Points = r.Lines, r.Points
	data, err := r.encode(m)
	before := r.manifest
	s.mu.Unlock()
	if err != nil {
		return err
	}
	failpoint.Hit("series.seal.manifest.before")
	rev, err := s.medium.save(ctx, r, m, data)
	if err != nil {
		return err
	}
	failpoint.Hit("series.seal.manifest.after")
	s.mu.Lock()
	r.rev = rev
	m.Lines, m.Points = r.Lines, r.Points // more may have come
	r.manifest = m
	if sealed != nil {
		r.parts = slices.DeleteFunc(slices.Clone(r.parts), func(p *part) bool { return p == sealed })
		delete(sealed.seg.parts, r)
	}
	s.mu.Unlock()
	if s.sealed.Load() >= 0 {
		s.sealed.Add(m.size() - before.size())
	}
	listed := func(d mlaas.Digest) bool {
		is := func(c chunk) bool { return c.Blob == d }
		return slices.ContainsFunc(m.Logs, is) || slices.ContainsFunc(m.Metrics, is)
	}
	if len(old) > 0 && s.medium.copying(ctx) {
		return nil // they are collected another day
	}
	for _, c := range old {
		if listed(c.Blob) {
			continue
		}
		if err := s.Blob.Delete(ctx, c.Blob); err != nil { // nobody names it, so it will be collected
			s.log().Warn("series: a chunk that was replaced cannot be deleted", "blob", c.Blob, "error", err)
		}
	}
	return nil
}

func (m manifest) size() (n int64) {
	for _, c := range m.Logs {
		n += c.Size
	}
	for _, c := range m.Metrics {
		n += c.Size
	}
	return n
}

// absorb says how many of the last chunks are to be made one with what comes:
// those that are not larger than twice that, so that a run which says little
// in each segment has few chunks, and each byte is written again a few times
// at most.
func absorb(chunks []chunk, coming, most int64, weight func(chunk) int64) int {
	n := 0
	for n < len(chunks) {
		w := weight(chunks[len(chunks)-1-n])
		if w > 2*coming || w+coming > most {
			break
		}
		coming += w
		n++
	}
	return n
}

func (s *Store) sealLines(ctx context.Context, chunks []chunk, p *part, alone bool) (after, replaced []chunk, err error) {
	if alone {
		return s.sealLinesAlone(ctx, chunks, p)
	}
	n := absorb(chunks, p.text, s.segmentBytes(), func(c chunk) int64 { return c.Text })
	replaced = chunks[len(chunks)-n:]
	w := &lineWriter{s: s}
	for _, c := range replaced {
		err := s.eachLineBlock(ctx, c, func(lineEntry) bool { return true }, func(sp span) error {
			w.add(&sp)
			return nil
		})
		if _, broken := errors.AsType[*damage](err); broken {
			return s.sealLinesAlone(ctx, chunks, p)
		}
		if err != nil {
			return nil, nil, moved(err)
		}
	}
	return s.putLines(ctx, w, chunks[:len(chunks)-n], replaced, p)
}

// sealLinesAlone leaves the chunks before as they are, because one is damaged
// or missing.
func (s *Store) sealLinesAlone(ctx context.Context, chunks []chunk, p *part) (after, replaced []chunk, err error) {
	return s.putLines(ctx, &lineWriter{s: s}, chunks, nil, p)
}

func (s *Store) putLines(ctx context.Context, w *lineWriter, before, replaced []chunk, p *part) ([]chunk, []chunk, error) {
	err := s.eachMention(p.seg, p.lines, func(sp span) error {
		w.add(&sp)
		return nil
	})
	if err != nil || w.chunk.N == 0 {
		return slices.Concat(before, replaced), nil, err
	}
	err = s.putChunk(ctx, &w.chunk, w.finish())
	return append(slices.Clip(before), w.chunk), slices.Clone(replaced), err
}

// eachMention calls f with the records that a segment has. What is damaged is
// reported and left out.
func (s *Store) eachMention(g *segment, list []mention, f func(span) error) error {
	for _, m := range list {
		sp, err := g.read(m)
		if errors.Is(err, mlaas.ErrInternal) {
			s.log().Error("series: a record cannot be read and is left out", "error", err)
			continue
		}
		if err == nil {
			err = f(sp)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sealPoints(ctx context.Context, k key, chunks []chunk, p *part, alone bool) (after, replaced []chunk, err error) {
	var coming int64
	for _, m := range p.points {
		coming += int64(m.n)
	}
	n := absorb(chunks, coming, s.segmentBytes()/16, func(c chunk) int64 { return c.N })
	if alone {
		n = 0
	}
	replaced = chunks[len(chunks)-n:]
	w := s.newPointWriter(k)
	for _, c := range replaced {
		err := s.eachStretch(ctx, c, func(e *pointEntry, points []point, cursors []int64) {
			for i := range points {
				w.add(e.curve, cursors[i], points[i])
			}
		})
		if _, broken := errors.AsType[*damage](err); broken {
			w, n, replaced = s.newPointWriter(k), 0, nil
			break
		}
		if err != nil {
			return nil, nil, moved(err)
		}
	}
	err = s.eachMention(p.seg, p.points, func(sp span) error {
		points, err := sp.points()
		for i, v := range points {
			w.add(curve{sp.fence.Replica, v.Key}, sp.cursor+int64(i), point{v.Step, v.Time, float64(v.Value)})
		}
		return err
	})
	before := chunks[:len(chunks)-n]
	if err != nil || w.chunk.N == 0 {
		return chunks, nil, err
	}
	err = s.putChunk(ctx, &w.chunk, w.finish())
	return append(slices.Clip(before), w.chunk), slices.Clone(replaced), err
}

// eachStretch calls f with all points of a chunk.
func (s *Store) eachStretch(ctx context.Context, c chunk, f func(*pointEntry, []point, []int64)) error {
	x, err := indexOf(ctx, s, c, readPointIndex)
	if err != nil {
		return err
	}
	blocks := blockReader{s: s, ctx: ctx, chunk: c, index: x}
	for i := range x.entries {
		points, cursors, err := blocks.stretch(&x.entries[i])
		if err != nil {
			return err
		}
		f(&x.entries[i], points, cursors)
	}
	return nil
}

func (s *Store) putChunk(ctx context.Context, c *chunk, data []byte) (err error) {
	c.Blob, _, err = s.Blob.Put(ctx, bytes.NewReader(data), "")
	failpoint.Hit("series.seal.blob")
	return err
}

// overLimit drops the oldest chunks of lines, but for the very first, until
// what is left may be kept: how a run began and how it ends is worth most.
func (s *Store) overLimit(chunks []chunk) (kept, dropped []chunk) {
	var total, head int64
	for _, c := range chunks {
		total += c.Text
	}
	from := 0
	for from < len(chunks) && head+chunks[from].Text <= s.logBytes()/8 {
		head += chunks[from].Text
		from++
	}
	to := from
	for to < len(chunks)-1 && total > s.logBytes() {
		total -= chunks[to].Text
		to++
	}
	return slices.Concat(chunks[:from], chunks[to:]), slices.Clone(chunks[from:to])
}
