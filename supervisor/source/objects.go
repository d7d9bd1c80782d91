package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/bucket"
)

const (
	atOnce  = 8 // objects
	resumes = 6 // times in a row that a download begins again where it broke
)

// Objects fetches s3://BUCKET/KEY into dir, which is there and empty: the
// object of that name, or all objects below KEY/ with their paths from there.
func (f *Fetcher) Objects(ctx context.Context, source, dir string) (got mlaas.Fetched, err error) {
	a, err := bucket.Parse(source)
	if err != nil {
		return got, err
	}
	if a.Named() || a.Create {
		return got, mlaas.Invalid("source", "a bucket that is there, without keys: they are secrets of the environment", "s3://"+a.Bucket)
	}
	t, err := f.Guard(a.Server)
	if err != nil {
		return got, err
	}
	defer t.CloseIdleConnections()
	t.DialContext = bucket.Lively(t.DialContext, bucket.Silence)
	t.DisableCompression = true
	b, err := a.Connect(bucket.Options{Getenv: f.Getenv, Transport: t})
	if err != nil {
		return got, err
	}
	got.Source = source
	all, err := f.find(ctx, b, &got)
	if errors.Is(err, bucket.ErrNone) { // it will not come by waiting
		return got, fmt.Errorf("there is no bucket %s at %s: %w", b.Bucket, b.Server, mlaas.ErrNotFound)
	}
	if err != nil {
		return got, err
	}
	var size mlaas.Bytes
	for _, o := range all {
		size += mlaas.Bytes(o.size)
	}
	if err := f.tooMuch(len(all), size); err != nil {
		return got, err
	}
	f.Say(fmt.Sprintf("fetching %d objects of %s from bucket %s", len(all), size, a.Bucket))
	in, err := openFolder(dir)
	if err != nil {
		return got, err
	}
	defer in.Close()
	files := make([]mlaas.File, len(all))
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	var mu sync.Mutex // of files
	for i, o := range all {
		g.Go(func() error {
			file, err := o.fetch(some, b, in)
			if err != nil {
				return fmt.Errorf("%s: %w", o.key, err)
			}
			mu.Lock()
			files[i] = file
			mu.Unlock()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return got, err
	}
	return got, Tree(&got, files)
}

// An object is what shall be fetched, and what it shall be called.
type object struct {
	key, name     string
	etag, version string
	size          int64
}

// find lists what a source names.
func (f *Fetcher) find(ctx context.Context, b *bucket.Bucket, got *mlaas.Fetched) ([]object, error) {
	prefix := b.Key
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		o, err := b.Client.StatObject(ctx, b.Bucket, b.Key, minio.StatObjectOptions{VersionID: b.Version})
		if err == nil {
			got.ETag, got.Version = o.ETag, o.VersionID
			if got.Version == "null" { // a bucket that keeps none
				got.Version = ""
			}
			return []object{{b.Key, path.Base(b.Key), o.ETag, b.Version, o.Size}}, blob.CheckPath(path.Base(b.Key))
		}
		if err = b.Error(err); !errors.Is(err, mlaas.ErrNotFound) || b.Version != "" {
			return nil, err
		}
		prefix += "/"
	}
	var all []object
	for o := range b.Client.ListObjectsIter(ctx, b.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, b.Error(o.Err)
		}
		if strings.HasSuffix(o.Key, "/") {
			continue // stands for a folder
		}
		name := strings.TrimPrefix(o.Key, prefix)
		if err := blob.CheckPath(name); err != nil {
			return nil, fmt.Errorf("object %q cannot be a file: %w", o.Key, err)
		}
		all = append(all, object{o.Key, name, o.ETag, "", o.Size})
		if err := f.tooMuch(len(all), 0); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("bucket %s at %s has no object %s and none below %s: %w", b.Bucket, b.Server, b.Key, prefix, mlaas.ErrNotFound)
	}
	return all, ctx.Err()
}

// fetch writes one object, going on where a connection broke. One that changes
// meanwhile is an error.
func (o object) fetch(ctx context.Context, b *bucket.Bucket, in *folder) (mlaas.File, error) {
	out, err := in.file(o.name)
	if err != nil {
		return mlaas.File{}, err
	}
	defer out.Close()
	w := newWritten(out)
	for failed := 0; w.n < o.size; {
		before := w.n
		err := o.more(ctx, b, w)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return mlaas.File{}, context.Cause(ctx)
		case !errors.Is(err, mlaas.ErrUnavailable):
			return mlaas.File{}, err
		}
		if failed++; w.n > before {
			failed = 1
		}
		if failed > resumes {
			return mlaas.File{}, err
		}
		t := time.NewTimer(100 * time.Millisecond << failed)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return mlaas.File{}, context.Cause(ctx)
		}
	}
	return w.done(o.name, false)
}

// more writes what one connection gives.
func (o object) more(ctx context.Context, b *bucket.Bucket, w *written) error {
	get := minio.GetObjectOptions{VersionID: o.version}
	if o.etag != "" {
		get.Set("If-Match", `"`+o.etag+`"`)
	}
	if w.n > 0 {
		get.Set("Range", fmt.Sprintf("bytes=%d-", w.n))
	}
	body, info, _, err := b.GetObject(ctx, b.Bucket, o.key, get)
	if said, ok := errors.AsType[minio.ErrorResponse](err); ok && said.StatusCode == http.StatusPreconditionFailed {
		return fmt.Errorf("it changed while it was fetched; start a new run to take it as it is now: %w", mlaas.ErrConflict)
	}
	if err != nil {
		return b.Error(err)
	}
	defer body.Close()
	if info.Size != o.size-w.n {
		return fmt.Errorf("the server gives %d bytes instead of %d: %w", info.Size, o.size-w.n, mlaas.ErrUnavailable)
	}
	n, err := io.Copy(w, reading{body})
	if err == nil && n < info.Size {
		err = fmt.Errorf("the connection ended early: %w", mlaas.ErrUnavailable)
	}
	return err
}

// A reading tells a connection that broke from a disk that is full.
type reading struct{ r io.Reader }

func (r reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("the connection broke: %w: %w", err, mlaas.ErrUnavailable)
	}
	return n, err
}
