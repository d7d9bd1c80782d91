package series

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"mlaas.dev/mlaas/store"
)

// A past is what a [Remote] reads by itself, where nobody else does.
type past struct {
	mu     sync.Mutex // held while objects are listed and got
	sealed *Store     // of runs that no shard holds
	stills map[string]*still
}

// A still is all of a shard that nobody has, as it stands: nobody appends to
// it, so it holds until its objects or its record are others.
type still struct {
	*Store
	users int
	old   bool        // another is in its place
	idle  *time.Timer // where nobody uses it
}

const stillFor = time.Minute // so long a still is kept without use

// sealed is a store that reads manifests and blobs alone.
func (r *Remote) sealed(ctx context.Context) (*Store, error) {
	r.past.mu.Lock()
	defer r.past.mu.Unlock()
	if r.past.sealed == nil {
		s := &Store{Blob: r.Blob, Objects: r.Objects, DB: r.DB, Shard: "sealed", Log: r.Log, readOnly: true, sealedOnly: true}
		if err := s.open(ctx); err != nil {
			return nil, err
		}
		r.past.sealed = s
	}
	return r.past.sealed, nil
}

// still is a store that reads all of a shard, in which the manifest of k has
// that revision. Call release when it is read.
func (r *Remote) still(ctx context.Context, shard string, k key, rev int64) (s *Store, release func(), err error) {
	p := &r.past
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.stills[shard]
	if v != nil {
		same, err := v.isStill(ctx, k, rev)
		if err != nil {
			return nil, nil, err
		}
		if !same {
			p.replace(shard, nil)
			v = nil
		}
	}
	if v == nil {
		v = &still{Store: &Store{Blob: r.Blob, Objects: r.Objects, DB: r.DB, Shard: shard, Log: r.Log, readOnly: true}}
		if err := v.open(ctx); err != nil {
			return nil, nil, fmt.Errorf("nobody has shard %s, and it cannot be read: %w", shard, err)
		}
		p.replace(shard, v)
	}
	if v.users++; v.idle != nil {
		v.idle.Stop()
		v.idle = nil
	}
	return v.Store, sync.OnceFunc(func() { p.release(shard, v) }), nil
}

// isStill reports whether a still would be the same if it were opened now.
func (v *still) isStill(ctx context.Context, k key, rev int64) (bool, error) {
	h := v.medium.(*shard)
	sh, _, err := store.Shards(v.DB).Get(ctx, "", v.Shard)
	if err != nil {
		return false, unreachable(err)
	}
	found, err := h.list(ctx)
	if err != nil {
		return false, err
	}
	v.Store.mu.Lock()
	defer v.Store.mu.Unlock()
	known := v.runs[k]
	return sh == h.record && slices.Equal(found, h.found) && (known == nil || known.rev == rev), nil
}

// replace puts v in the place of the still of a shard. The caller holds mu.
func (p *past) replace(shard string, v *still) {
	if old := p.stills[shard]; old != nil {
		if old.old = true; old.users == 0 {
			p.end(old)
		}
	}
	if p.stills == nil {
		p.stills = map[string]*still{}
	}
	if p.stills[shard] = v; v == nil {
		delete(p.stills, shard)
	}
}

func (p *past) end(v *still) {
	if v.idle != nil {
		v.idle.Stop()
	}
	_ = v.Close() // it has written nothing
}

func (p *past) release(shard string, v *still) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v.users--; v.users > 0 {
		return
	}
	if v.old {
		p.end(v)
		return
	}
	var idle *time.Timer
	idle = time.AfterFunc(stillFor, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if v.idle == idle {
			p.replace(shard, nil)
		}
	})
	v.idle = idle
}

// close frees what nobody uses.
func (p *past) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard := range p.stills {
		p.replace(shard, nil)
	}
}
