package series

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

// Snapshot calls file with each file of the store as it stands at one moment:
// the manifests and the segments, in which everything is that was acknowledged
// before. It returns the blobs that those manifests name, and what to call when
// they have been copied: until then the store deletes none of its blobs.
//
// Appending goes on; sealing waits for file, so that it should put the bytes
// somewhere and come back.
func (s *Store) Snapshot(ctx context.Context, file func(name string, size int64, data io.Reader) error) (blobs []mlaas.Digest, release func(), err error) {
	in, ok := s.medium.(*folder)
	if !ok {
		return nil, nil, fmt.Errorf("what is in a bucket is copied with the bucket: %w", mlaas.ErrInvalid)
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
	done := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds--
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	for _, g := range open {
		if err := file(segmentName(g.number), g.size, io.NewSectionReader(g.data, 0, g.size)); err != nil {
			return nil, nil, err
		}
	}
	err = in.each(ctx, func(k key, r *run, err error) error {
		if err != nil {
			return fmt.Errorf("the series of run %s: %w", k.run, err)
		}
		for _, c := range slices.Concat(r.Logs, r.Metrics) {
			blobs = append(blobs, c.Blob)
		}
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
	return blobs, done, err
}

// Restored says where in the folder of a store a file of a snapshot belongs, or
// that it is none.
func Restored(name string) (string, error) {
	dir, base := path.Split(name)
	var n int64
	if _, err := fmt.Sscanf(base, "%d.seg", &n); err == nil && dir == "" && base == segmentName(n) {
		return name, nil
	}
	run, manifest := strings.CutSuffix(base, ".json")
	tenant, ok := strings.CutPrefix(path.Clean(dir), manifests+"/")
	if manifest && ok && fs.ValidPath(name) && checkKey(key{mlaas.Tenant(tenant), mlaas.RunID(run)}) == nil {
		return name, nil
	}
	return "", mlaas.Invalid("name", "a file of the series", name)
}

// copying reports whether a snapshot is being copied.
func (s *Store) copying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds > 0
}
