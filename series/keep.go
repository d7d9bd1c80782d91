package series

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"mlaas.dev/mlaas"
)

// Kept says what is kept of one run, and what is not any more.
type Kept struct {
	Lines, Points               int64 // kept
	DroppedLines, DroppedPoints int64 // stored once, or refused, and not kept
	Bytes                       mlaas.Bytes
}

// Kept says what is kept of one run.
func (s *Store) Kept(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (k Kept, err error) {
	r, release, err := s.find(ctx, key{tenant, id}, toRead, 0)
	if err != nil {
		return k, err
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.Logs {
		k.Lines += c.N
	}
	for _, c := range r.Metrics {
		k.Points += c.N
	}
	k.Bytes, k.DroppedPoints = mlaas.Bytes(r.manifest.size()), r.DroppedPoints
	for _, p := range r.parts {
		k.DroppedPoints += p.dropped
		for _, m := range p.lines {
			k.Lines += int64(m.n)
			k.Bytes += mlaas.Bytes(m.size)
		}
		for _, m := range p.points {
			k.Points += int64(m.n)
			k.Bytes += mlaas.Bytes(m.size)
		}
	}
	k.DroppedLines = r.manifest.Lines - k.Lines
	k.DroppedPoints += r.manifest.Points - k.Points
	return k, nil
}

// Usage is what all runs take on disk, sealed chunks included. The first call
// reads all manifests; if one cannot be read it does not count.
func (s *Store) Usage(ctx context.Context) (mlaas.Bytes, error) {
	if s.sealed.Load() < 0 {
		s.sealing.Lock()
		defer s.sealing.Unlock()
		if err := s.countSealed(ctx); err != nil {
			return 0, err
		}
	}
	return mlaas.Bytes(s.sealed.Load() + s.unsealed.Load()), nil
}

// countSealed counts once. The caller holds sealing.
func (s *Store) countSealed(ctx context.Context) error {
	if s.sealed.Load() >= 0 {
		return nil
	}
	var n int64
	err := s.medium.each(ctx, func(_ key, r *run, err error) error {
		if err == nil && s.counts(r) {
			n += r.manifest.size()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("count the space that is used: %w", err)
	}
	s.sealed.Store(n)
	return nil
}

// counts reports whether what is kept of r is kept by this store.
func (s *Store) counts(r *run) bool { return r.manifest.Shard == s.Shard }

// Blobs calls f for each blob that holds sealed chunks: garbage collection
// must keep them. It is an error if a manifest cannot be read; then nothing
// may be collected.
func (s *Store) Blobs(ctx context.Context, f func(mlaas.Digest) error) error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	return s.medium.each(ctx, func(_ key, r *run, err error) error {
		if err != nil {
			return err
		}
		for _, c := range slices.Concat(r.Logs, r.Metrics) {
			if err := f(c.Blob); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// Delete forgets a run. What is not there is deleted already. Who watches the
// run is woken.
func (s *Store) Delete(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) error {
	k := key{tenant, id}
	if err := checkKey(k); err != nil {
		return err
	}
	s.sealing.Lock()
	defer s.sealing.Unlock()
	r, release, err := s.find(ctx, k, toManage, 0)
	if errors.Is(err, mlaas.ErrInternal) { // its manifest cannot be read, which is one more reason
		if err := s.medium.discard(ctx, k); err != nil {
			return err
		}
		s.mu.Lock()
		if r := s.runs[k]; r != nil {
			r.err = nil
		}
		s.mu.Unlock()
		r, release, err = s.find(ctx, k, toManage, 0)
	}
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	chunks := slices.Concat(r.Logs, r.Metrics)
	size, counted := r.manifest.size(), s.counts(r)
	s.mu.Unlock()
	// First say in a segment that it is gone, so that what older segments have
	// of it does not come back.
	if r.ours {
		if err := s.submit(ctx, &request{turn: make(chan bool, 1), forget: r}); err != nil {
			return fmt.Errorf("delete the series of run %s: %w", id, err)
		}
	}
	if err := s.medium.discard(ctx, k); err != nil {
		return fmt.Errorf("delete the series of run %s: %w", id, err)
	}
	if s.sealed.Load() >= 0 && counted {
		s.sealed.Add(-size)
	}
	if len(chunks) > 0 && s.medium.copying(ctx) {
		return nil // they are collected another day
	}
	for _, c := range chunks {
		if err := s.Blob.Delete(ctx, c.Blob); err != nil { // nobody names it, so it will be collected
			s.log().Warn("series: a chunk of a deleted run cannot be deleted", "blob", c.Blob, "error", err)
		}
	}
	return nil
}

// Trim drops sealed data of the oldest runs that are finished (nil: any) until
// Usage is at most most: first lines, then points. It returns what was freed.
// In the place of the lines one says how many they were.
func (s *Store) Trim(ctx context.Context, most mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool) (freed mlaas.Bytes, err error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if err := s.countSealed(ctx); err != nil {
		return 0, err
	}
	if mlaas.Bytes(s.sealed.Load()+s.unsealed.Load()) <= most {
		return 0, nil
	}
	all, err := s.contents(ctx, s.counts)
	if err != nil {
		return 0, err
	}
	return trim(all.keys(), mlaas.Bytes(s.sealed.Load()+s.unsealed.Load())-most, finished, func(k key, lines bool) (mlaas.Bytes, error) {
		return s.trimRun(ctx, k, lines)
	})
}

// contents are the runs that have something sealed, and what that takes.
type contents struct {
	Used mlaas.Bytes `json:"used"`
	Runs []runName   `json:"runs"`
}

type runName struct {
	Tenant mlaas.Tenant `json:"tenant"`
	Run    mlaas.RunID  `json:"run"`
}

func (s *Store) contents(ctx context.Context, which func(*run) bool) (all contents, err error) {
	err = s.medium.each(ctx, func(k key, r *run, err error) error {
		if n := r.manifest.size(); err == nil && which(r) && n > 0 {
			all.Used += mlaas.Bytes(n)
			all.Runs = append(all.Runs, runName{k.tenant, k.run})
		}
		return ctx.Err()
	})
	return all, err
}

// keys are the runs, oldest first.
func (c *contents) keys() []key {
	keys := make([]key, len(c.Runs))
	for i, r := range c.Runs {
		keys[i] = key{r.Tenant, r.Run}
	}
	slices.SortStableFunc(keys, func(a, b key) int { return cmp.Compare(a.run, b.run) }) // names sort by age
	return keys
}

// trim calls drop for runs that are finished until so much is freed: for all
// lines first, then for points.
func trim(keys []key, excess mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool, drop func(k key, lines bool) (mlaas.Bytes, error)) (freed mlaas.Bytes, err error) {
	for _, lines := range []bool{true, false} {
		for _, k := range keys {
			if freed >= excess {
				return freed, nil
			}
			if finished != nil && !finished(k.tenant, k.run) {
				continue
			}
			n, err := drop(k, lines)
			freed += n
			if err != nil {
				return freed, fmt.Errorf("trim run %s: %w", k.run, err)
			}
		}
	}
	return freed, nil
}

// trimOne is trimRun for who does not hold sealing.
func (s *Store) trimOne(ctx context.Context, k key, lines bool) (mlaas.Bytes, error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	return s.trimRun(ctx, k, lines)
}

// trimRun drops the lines, or the points, of a run that are sealed.
func (s *Store) trimRun(ctx context.Context, k key, lines bool) (freed mlaas.Bytes, err error) {
	r, release, err := s.find(ctx, k, toManage, 0)
	if err != nil {
		return 0, err
	}
	defer release()
	err = s.retried(ctx, r, func(bool) error {
		s.mu.Lock()
		m := r.manifest
		s.mu.Unlock()
		before, old := m.size(), m.Metrics
		if lines {
			old, m.Logs = m.Logs, nil
		} else {
			m.Metrics = nil
		}
		if len(old) == 0 {
			return nil
		}
		err := s.replace(ctx, r, m, old, nil)
		if err == nil {
			freed = mlaas.Bytes(before - m.size())
		}
		return err
	})
	return freed, err
}
