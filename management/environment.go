package management

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A Framework is what an environment can be of.
type Framework struct {
	Name     string   `json:"name" example:"pytorch"`
	Packages []string `json:"packages" doc:"What it installs, unless the job pins the same"`
	Pythons  []string `json:"pythons" doc:"Versions that it is known to work with, preferred first; empty: any"`
	Notes    string   `json:"notes,omitempty" doc:"What to know of it"`
}

// Environments are those that were resolved, and what there is to choose from.
type Environments struct {
	List[mlaas.Locked]
	Catalogue []Framework `json:"catalogue"`
}

type environmentsIn struct {
	Paging
	Framework string `query:"framework" doc:"Only those of this framework" example:"pytorch"`
}

func (m *Management) listEnvironments(ctx context.Context, in *environmentsIn) (*Answer[Environments], error) {
	page, err := pageOf(ctx, store.Locks(m.DB), store.Query{Tenant: tenantOf(ctx)}, in.Paging, func(f store.Found[mlaas.Locked]) (mlaas.Locked, bool, error) {
		f.Value.Packages = some(f.Value.Packages)
		return f.Value, in.Framework == "" || f.Value.Framework == in.Framework, nil
	})
	if err != nil {
		return nil, err
	}
	e := Environments{page.Body, some(slices.Clone(m.Catalogue))}
	for i, f := range e.Catalogue {
		e.Catalogue[i].Packages, e.Catalogue[i].Pythons = some(f.Packages), some(f.Pythons)
	}
	return &Answer[Environments]{Body: e, Next: page.Next}, nil
}

// some is all, and never nil: JSON has lists for that.
func some[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

type environmentIn struct {
	Spec mlaas.Digest `path:"spec" doc:"What was asked for: spec in the list" example:"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
}

func (m *Management) locked(ctx context.Context, spec mlaas.Digest) (mlaas.Locked, int64, error) {
	l, rev, err := store.Locks(m.DB).Get(ctx, tenantOf(ctx), string(spec))
	if errors.Is(err, mlaas.ErrNotFound) {
		return l, 0, fmt.Errorf("no environment %s was resolved: %w", spec, mlaas.ErrNotFound)
	}
	l.Packages = some(l.Packages)
	return l, rev, err
}

func (m *Management) getEnvironment(ctx context.Context, in *environmentIn) (*Answer[mlaas.Locked], error) {
	l, rev, err := m.locked(ctx, in.Spec)
	return &Answer[mlaas.Locked]{Body: l, Revision: rev}, err
}

// A LockChoice is the lock that runs from now on get.
type LockChoice struct {
	Lock mlaas.Digest `json:"lock" doc:"One of previous, or a new one whose text was kept with PUT /api/blob"`
}

type setLockIn struct {
	environmentIn
	Match string `header:"If-Match" doc:"Change it only if its ETag is this one; else 412"`
	Body  LockChoice
}

// keepLocks is how many locks one can go back to.
const keepLocks = 20

func (m *Management) setLock(ctx context.Context, in *setLockIn) (*Answer[mlaas.Locked], store.Batch, error) {
	none := store.Batch{}
	l, rev, err := m.locked(ctx, in.Spec)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "the environment", rev); err != nil {
		return nil, none, err
	}
	lock := in.Body.Lock
	if lock == l.Lock {
		return &Answer[mlaas.Locked]{Body: l, Revision: rev}, none, nil
	}
	if _, err := m.Blob.Stat(ctx, lock); err != nil {
		return nil, none, mlaas.Invalid("lock", "the digest of a lock that is here", string(lock))
	}
	l.Previous = append(slices.DeleteFunc(slices.Clone(l.Previous), func(d mlaas.Digest) bool { return d == lock }), l.Lock)
	l.Previous = l.Previous[max(0, len(l.Previous)-keepLocks):]
	l.Lock, l.Created = lock, m.stamp()
	return &Answer[mlaas.Locked]{Body: l, Revision: rev + 1}, store.Batch{Put: []store.Row{store.Locks(m.DB).Put(l, rev)}}, nil
}
