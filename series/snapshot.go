package series

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A Copied is what a snapshot has besides its files.
type Copied struct {
	Blobs   []mlaas.Digest // that its manifests name
	Records []store.Row    // where manifests are records: all of [RecordKinds], as of the same moment
	Release func()         // is called when the blobs are copied: until then none is deleted
}

// RecordKinds are the kinds of records that belong to a snapshot: a copy of
// other records, which is of another moment, has none of them.
func RecordKinds() []string { return []string{"series", "shard"} }

// Snapshot calls file with each file of the store as it stands at one moment:
// the manifests and the segments, in which everything is that was acknowledged
// before.
//
// Appending goes on; sealing waits for file, so that it should put the bytes
// somewhere and come back.
func (s *Store) Snapshot(ctx context.Context, file func(name string, size int64, data io.Reader) error) (c Copied, err error) {
	in, ok := s.medium.(*folder)
	if !ok {
		return c, fmt.Errorf("what is in a bucket is copied by a Remote, which knows all shards: %w", mlaas.ErrInvalid)
	}
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	type piece struct {
		*segment
		size int64
	}
	var open []piece
	for _, g := range append(slices.Clone(s.full), s.active) {
		if g != nil {
			open = append(open, piece{g, g.size})
		}
	}
	s.holds++
	s.mu.Unlock()
	c.Release = sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds--
	})
	defer func() {
		if err != nil {
			c.Release()
		}
	}()
	for _, g := range open {
		if err := file(segmentName(g.number), g.size, io.NewSectionReader(g.data, 0, g.size)); err != nil {
			return c, err
		}
	}
	err = in.each(ctx, func(k key, r *run, err error) error {
		if err != nil {
			return fmt.Errorf("the series of run %s: %w", k.run, err)
		}
		c.Blobs = append(c.Blobs, r.blobs()...)
		f, err := in.root.Open(k.path())
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil {
			err = file(k.path(), info.Size(), f)
		}
		return cmp.Or(err, ctx.Err())
	})
	return c, err
}

// blobs are those of the chunks that m lists.
func (m manifest) blobs() (all []mlaas.Digest) {
	for _, c := range slices.Concat(m.Logs, m.Metrics) {
		all = append(all, c.Blob)
	}
	return all
}

func (f *folder) copying(context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holds > 0
}

const (
	copyFor  = 15 * time.Minute // a copy that was not heard of for so long is over
	copyBeat = 3 * time.Minute
	lists    = 3 // to have one that is whole
)

func (h *shard) copying(ctx context.Context) bool {
	return h.copied(ctx, func(store.Copying) bool { return true })
}

// copied reports whether somebody makes such a copy.
func (h *shard) copied(ctx context.Context, such func(store.Copying) bool) bool {
	all, err := store.Copyings(h.DB).All(ctx, store.Query{})
	if err != nil {
		h.log().Warn("series: nobody knows whether a copy is made; what is not needed any more is left for another time", "error", err)
		return true
	}
	return slices.ContainsFunc(all, func(c store.Found[store.Copying]) bool {
		return time.Now().Before(c.Value.Until) && such(c.Value)
	})
}

// A hold has nobody delete what a copy needs.
type hold struct {
	r     *Remote
	id    string
	end   context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex
	objects bool // also the objects
}

// hold returns when nobody deletes any more what is named afterwards.
func (r *Remote) hold(ctx context.Context) (*hold, error) {
	all, err := store.Copyings(r.DB).All(ctx, store.Query{})
	if err != nil {
		return nil, unreachable(err)
	}
	for _, c := range all { // who made it has died
		if time.Since(c.Value.Until) > copyFor {
			_ = r.DB.Commit(ctx, store.Batch{Delete: []store.Row{store.Copyings(r.DB).At("", c.Value.ID, c.Rev)}}) // or the next one does
		}
	}
	h := &hold{r: r, id: mlaas.NewID(time.Now()), ended: make(chan struct{}), objects: true}
	if err := h.beat(ctx); err != nil {
		return nil, unreachable(err)
	}
	ctx, h.end = context.WithCancel(ctx)
	go h.keep(ctx)
	return h, nil
}

// beat says that the copy goes on.
func (h *hold) beat(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := store.Copyings(h.r.DB)
	_, rev, err := all.Get(ctx, "", h.id)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	c := store.Copying{ID: h.id, Objects: h.objects, Until: time.Now().Add(copyFor)}
	return h.r.DB.Commit(ctx, store.Batch{Put: []store.Row{all.Put(c, rev)}})
}

func (h *hold) keep(ctx context.Context) {
	defer close(h.ended)
	tick := time.NewTicker(copyBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := h.beat(ctx); err != nil && ctx.Err() == nil {
				h.r.log().Warn("series: that a copy goes on cannot be said; it is tried again", "error", err)
			}
		}
	}
}

// blobsAlone lets objects go.
func (h *hold) blobsAlone(ctx context.Context) error {
	h.mu.Lock()
	h.objects = false
	h.mu.Unlock()
	return h.beat(ctx)
}

func (h *hold) release() {
	h.end()
	<-h.ended
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	all := store.Copyings(h.r.DB)
	_, rev, err := all.Get(ctx, "", h.id)
	if err == nil {
		err = h.r.DB.Commit(ctx, store.Batch{Delete: []store.Row{all.At("", h.id, rev)}})
	}
	if err != nil {
		h.r.log().Warn("series: that a copy is over cannot be said; it counts as one for a while", "for", copyFor, "error", err)
	}
}

// Snapshot calls file with the objects of every shard that count, and returns
// the records that go with them: together they have everything that was
// acknowledged before it was called, whether the owners of the shards live or
// not. Whoever opens a shard over them finds what it would have found if the
// owner had died at that moment.
//
// First it says in the store that a copy is made; then it reads the records, as
// of one commit; then it lists the objects and gets them. Why nothing is
// missing:
//
//   - What was acknowledged before is in a chunk or in an object that counts.
//     Who removes either has written first that it is not needed (the manifest
//     without the chunk, the shard's record with a higher number as sealed), and
//     asks for copies then. If the records that were read do not have that yet,
//     it was written after them, and so after it was said that a copy is made:
//     who asks is told, and removes nothing. So all that those records need is
//     there when it is listed, and when it is got.
//   - A manifest knows cursors and spool numbers of what is not sealed yet; it
//     was put before the manifest was written. That is why objects are listed
//     after the records: were they listed before, a run would seem to have said
//     what the copy has not.
//   - Objects that came after the records go on where the others end: they are
//     what an owner puts between two commits. Of runs that were claimed since,
//     the records know nothing, and so nothing of them counts; a run that was
//     released since is there up to its release.
//   - The records must be of one commit: were the shard's newer than a manifest,
//     objects that only this manifest needs would not count.
//
// A list that is made of pages may lack an object that is older than one which
// it has: the chain of those that count tells, and it is listed again.
func (r *Remote) Snapshot(ctx context.Context, file func(name string, size int64, data io.Reader) error) (c Copied, err error) {
	h, err := r.hold(ctx)
	if err != nil {
		return c, err
	}
	c.Release = sync.OnceFunc(h.release)
	defer func() {
		if err != nil {
			c.Release()
		}
	}()
	records, _, err := store.Gather(ctx, r.DB, RecordKinds()...)
	if err != nil {
		return c, unreachable(err)
	}
	var shards []store.Shard
	for _, at := range slices.SortedFunc(maps.Keys(records), compareKeys) {
		row := records[at]
		c.Records = append(c.Records, row)
		if at.Kind == "shard" {
			sh, err := store.Shards(r.DB).Decode(row)
			if err != nil {
				return c, err
			}
			shards = append(shards, sh)
			continue
		}
		m, err := store.Series(r.DB).Decode(row)
		if err != nil {
			return c, err
		}
		one := (&Store{}).newRun(key{m.Tenant, m.Run})
		if err := one.decode(m.Body); err != nil {
			return c, err
		}
		c.Blobs = append(c.Blobs, one.blobs()...)
	}
	count, err := r.count(ctx, shards)
	if err == nil {
		err = r.copyObjects(ctx, count, file)
	}
	if err == nil {
		err = h.blobsAlone(ctx)
	}
	return c, err
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.ID, b.ID))
}

// A placed object is one of a shard.
type placed struct {
	shard string
	name  objectName
}

// count lists the objects of shards that count, oldest first.
func (r *Remote) count(ctx context.Context, shards []store.Shard) (all []placed, err error) {
	for _, sh := range shards {
		of := &shard{Store: &Store{Objects: r.Objects, Shard: sh.Name, Log: r.Log}}
		var count []objectName
		for tries := 1; ; tries++ {
			found, err := of.list(ctx)
			if err != nil {
				return nil, err
			}
			var lost bool
			if count, _, lost = chain(found, sh); !lost {
				break
			}
			if tries == lists { // it is lost there, too
				r.log().Error("series: an object is lost; the copy has what is before and behind it", "shard", sh.Name)
				break
			}
		}
		for _, n := range count {
			all = append(all, placed{sh.Name, n})
		}
	}
	return all, nil
}

func (r *Remote) copyObjects(ctx context.Context, all []placed, file func(name string, size int64, data io.Reader) error) error {
	for some := range slices.Chunk(all, fetches) {
		data := make([][]byte, len(some))
		work, within := errgroup.WithContext(ctx)
		for i, p := range some {
			work.Go(func() (err error) {
				within, cancel := context.WithTimeout(within, putWithin)
				defer cancel()
				data[i], err = r.Objects.Get(within, p.name.key(p.shard))
				return err
			})
		}
		if err := work.Wait(); err != nil {
			return unreachable(err)
		}
		for i, p := range some {
			name := strings.TrimPrefix(p.name.key(p.shard), objectsPrefix)
			if err := file(name, int64(len(data[i])), bytes.NewReader(data[i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// Restored reports what a file of a snapshot is: one of the folder of a store,
// or an object, whose key is its name below "series/". It is an error where it
// is none of them.
func Restored(name string) (object bool, err error) {
	dir, base := path.Split(name)
	var n int64
	if _, err := fmt.Sscanf(base, "%d.seg", &n); err == nil && dir == "" && base == segmentName(n) {
		return false, nil
	}
	shard, _, _ := strings.Cut(name, "/")
	if _, ok := parseObject(objectsPrefix+name, shard); ok && safeName(shard) {
		return true, nil
	}
	run, manifest := strings.CutSuffix(base, ".json")
	tenant, ok := strings.CutPrefix(path.Clean(dir), manifests+"/")
	if manifest && ok && fs.ValidPath(name) && checkKey(key{mlaas.Tenant(tenant), mlaas.RunID(run)}) == nil {
		return false, nil
	}
	return false, mlaas.Invalid("name", "a file of the series", name)
}
