package management

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// Retention says what is kept, and for how long. A zero field is the default.
type Retention struct {
	Deleted     time.Duration // deleted jobs can be restored; 7 days
	Logs        mlaas.Bytes   // lines and points of all runs together; 20 GiB
	Checkpoints int           // the newest of each run that is over; 3, and the best of each metric
	Unused      time.Duration // bytes that nothing names, so that an upload in progress is safe; 24 hours
}

func (r Retention) complete() Retention {
	if r.Deleted == 0 {
		r.Deleted = keepDeleted
	}
	if r.Logs == 0 {
		r.Logs = 20 << 30
	}
	if r.Checkpoints == 0 {
		r.Checkpoints = 3
	}
	if r.Unused == 0 {
		r.Unused = 24 * time.Hour
	}
	return r
}

// A GC is what was collected.
type GC struct {
	Jobs        int         `json:"jobs" doc:"Jobs that were deleted longer ago than they can be restored, with their runs"`
	Checkpoints int         `json:"checkpoints" doc:"Checkpoints beyond those that are kept of each run"`
	Blobs       int         `json:"blobs" doc:"Pieces of content that nothing names"`
	Freed       mlaas.Bytes `json:"freed" doc:"Bytes of those"`
	Logs        mlaas.Bytes `json:"logs" doc:"Bytes of lines and points over the cap, the oldest runs first"`
	Logins      int         `json:"logins" doc:"Links that are too old, and logins that ended more than 30 days ago"`
	Places      []string    `json:"places" doc:"What else was swept, a sentence each"`
}

type gcIn struct{}

// gc answers POST /api/gc.
func (m *Management) gc(ctx context.Context, _ *gcIn) (*Answer[GC], error) {
	out, err := m.Collect(ctx)
	return &Answer[GC]{Body: out}, err
}

// Collect removes what nothing needs any more. It may be called at any time:
// what is in use is named by a record, or younger than Retention.Unused.
func (m *Management) Collect(ctx context.Context) (out GC, err error) {
	keep, now := m.Retention.complete(), m.now()
	out.Places = []string{}
	if out.Jobs, err = m.purge(ctx, now.Add(-keep.Deleted)); err != nil {
		return out, err
	}
	if out.Checkpoints, err = m.thin(ctx, keep.Checkpoints); err != nil {
		return out, err
	}
	if out.Logs, err = m.Series.Trim(ctx, keep.Logs, func(t mlaas.Tenant, run mlaas.RunID) bool { return m.over(ctx, t, run) }); err != nil {
		return out, err
	}
	if out.Logins, err = m.forgetLogins(ctx); err != nil {
		return out, err
	}
	used, err := m.used(ctx)
	if err != nil {
		return out, err
	}
	if out.Blobs, out.Freed, err = blob.Collect(ctx, m.Blob, used.has, keep.Unused, now); err != nil {
		return out, err
	}
	if m.Sweep != nil {
		places, err := m.Sweep(ctx)
		out.Places = append(out.Places, places...)
		return out, err
	}
	return out, nil
}

// collectDaily is Collect once a day, from an hour after the start.
func (m *Management) collectDaily(ctx context.Context) error {
	for wait := time.Hour; ; wait = 24 * time.Hour {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if out, err := m.Collect(ctx); err != nil {
			m.log().Warn("collecting what nothing needs failed; tomorrow again", "err", err)
		} else {
			m.log().Info("collected what nothing needs", "jobs", out.Jobs, "blobs", out.Blobs, "freed", out.Freed, "logs", out.Logs)
		}
	}
}

// purge removes jobs deleted before a moment, with everything of theirs. The
// records of others go with them: their runs are final, so nobody writes them.
func (m *Management) purge(ctx context.Context, before time.Time) (n int, err error) {
	jobs, err := store.Jobs(m.DB).All(ctx, store.Query{Index: "deleted"})
	if err != nil {
		return 0, err
	}
	for _, f := range jobs {
		j := f.Value
		if j.Deleted == nil || j.Deleted.After(before) {
			continue
		}
		if err := m.purgeJob(ctx, j, f.Rev); err != nil {
			if errors.Is(err, mlaas.ErrConflict) {
				continue // restored, or still ending: another day
			}
			return n, err
		}
		n++
	}
	return n, nil
}

func (m *Management) purgeJob(ctx context.Context, j mlaas.Job, rev int64) error {
	runs, err := store.Runs(m.DB).All(ctx, store.Query{Tenant: j.Tenant, Index: "job=" + string(j.ID)})
	if err != nil {
		return err
	}
	for _, r := range runs {
		if !m.over(ctx, j.Tenant, r.Value.ID) {
			return fmt.Errorf("run %s is not over: %w", r.Value.ID, mlaas.ErrConflict)
		}
	}
	for _, r := range runs {
		if err := m.Series.Delete(ctx, j.Tenant, r.Value.ID); err != nil {
			return err
		}
	}
	// The job goes last: it is deleted, so nobody sees it half, and if we die in
	// between the rest is found by it another day.
	parts := []store.Query{{Kind: "version", Tenant: j.Tenant, Prefix: string(j.ID) + "/"},
		{Kind: "doc", Tenant: j.Tenant, Prefix: string(j.ID) + "/"}, {Kind: "draft", Tenant: j.Tenant, Prefix: string(j.ID)}}
	for _, r := range runs {
		for _, kind := range []string{"replica", "launch", "checkpoint", "delivery", "execution", "evaluation"} {
			parts = append(parts, store.Query{Kind: kind, Tenant: j.Tenant, Prefix: string(r.Value.ID) + "/"})
		}
		parts = append(parts,
			store.Query{Kind: "runstate", Tenant: j.Tenant, Prefix: string(r.Value.ID)},
			store.Query{Kind: "run", Tenant: j.Tenant, Prefix: string(r.Value.ID)})
	}
	for _, q := range parts {
		if err := m.erase(ctx, q); err != nil {
			return err
		}
	}
	names, err := m.freeName(ctx, j, j.Name)
	if err != nil {
		return err
	}
	return m.DB.Commit(ctx, store.Batch{Delete: append(names, store.Jobs(m.DB).At(j.Tenant, string(j.ID), rev))})
}

// erase deletes every record that q asks for, a page in a commit.
func (m *Management) erase(ctx context.Context, q store.Query) error {
	for {
		rows, next, err := m.DB.List(ctx, q)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := m.DB.Commit(ctx, store.Batch{Delete: rows}); err != nil {
			return err
		}
		if next == (store.Key{}) {
			return nil
		}
	}
}

// thin keeps the newest n checkpoints of each run that is over, and the newest
// that was the best by a metric. What several replicas saved at one step is one
// checkpoint.
func (m *Management) thin(ctx context.Context, n int) (removed int, err error) {
	all, err := store.Checkpoints(m.DB).All(ctx, store.Query{Reverse: true}) // newest of each run first
	if err != nil {
		return 0, err
	}
	type runOf struct {
		tenant mlaas.Tenant
		run    mlaas.RunID
	}
	type stepOf struct {
		epoch int
		step  int64
	}
	type kept struct {
		over  bool
		steps map[stepOf]bool
		best  map[string]stepOf
	}
	runs := map[runOf]*kept{}
	for _, f := range all {
		c := f.Value
		of, at := runOf{c.Tenant, c.Run}, stepOf{c.Epoch, c.Step}
		r := runs[of]
		if r == nil {
			r = &kept{m.over(ctx, c.Tenant, c.Run), map[stepOf]bool{}, map[string]stepOf{}}
			runs[of] = r
		}
		if r.steps[at] || len(r.steps) < n {
			r.steps[at] = true
		}
		if _, known := r.best[c.Best]; c.Best != "" && !known {
			r.best[c.Best] = at
		}
		if !r.over || r.steps[at] || c.Best != "" && r.best[c.Best] == at {
			continue
		}
		tenant, id := store.Checkpoints(m.DB).Key(c)
		err := m.DB.Commit(ctx, store.Batch{Delete: []store.Row{store.Checkpoints(m.DB).At(tenant, id, f.Rev)}})
		if err != nil && !errors.Is(err, mlaas.ErrConflict) {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// names is a set of blobs that records name.
type names map[mlaas.Digest]bool

func (n names) has(d mlaas.Digest) bool { return n[d] }

// used finds every blob that a record names, and every file in a tree of
// those.
func (m *Management) used(ctx context.Context) (names, error) {
	used := names{}
	trees := names{}
	add := func(set names, ds ...mlaas.Digest) {
		for _, d := range ds {
			set[d] = true
		}
	}
	for _, kind := range store.NamesBlobs() {
		q := store.Query{Kind: kind}
		for {
			page, next, err := m.DB.List(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, row := range page {
				named, others, err := store.Blobs(row)
				if err != nil {
					return nil, err
				}
				add(trees, named...)
				add(used, others...)
			}
			if next == (store.Key{}) {
				break
			}
			q.After = next
		}
	}
	for d := range trees {
		used[d] = true
		files, err := m.filesOf(ctx, d)
		if errors.Is(err, mlaas.ErrNotFound) {
			continue // a record of something whose bytes went before; nothing to keep
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			used[f.Digest] = true
		}
	}
	return used, m.Series.Blobs(ctx, func(d mlaas.Digest) error {
		used[d] = true
		return nil
	})
}

// over reports whether nothing more is written of a run: it is final, or its
// records are gone.
func (m *Management) over(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) bool {
	s, _, err := store.RunStates(m.DB).Get(ctx, tenant, string(run))
	return errors.Is(err, mlaas.ErrNotFound) || err == nil && s.State.Final()
}
