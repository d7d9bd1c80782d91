package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/failpoint"
)

// Objects are bytes under keys that their owner chooses, below the same prefix
// of the same bucket as the blobs. Every method sees what was done before it
// was called, by whomever.
type Objects struct{ s *S3 }

// Objects are those beside the blobs of s.
func (s *S3) Objects() *Objects { return &Objects{s} }

// check keeps keys apart from those of blobs, and valid on any server.
func (o *Objects) check(key string) (string, error) {
	if err := blob.CheckPath(key); err != nil {
		return "", mlaas.In("key", err)
	}
	for _, ours := range []string{blobs, renewed, doomed} {
		if strings.HasPrefix(key+"/", ours) {
			return "", mlaas.Invalid("key", "one outside "+ours+", where blobs are", key)
		}
	}
	return o.s.prefix + key, nil
}

// Put stores data, durably when it returns, in place of what was there. After
// an error it may be there or not.
func (o *Objects) Put(ctx context.Context, key string, data []byte) error {
	at, err := o.check(key)
	if err != nil {
		return err
	}
	if err := o.s.putBytes(ctx, at, data); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Get returns what is stored, or mlaas.ErrNotFound.
func (o *Objects) Get(ctx context.Context, key string) ([]byte, error) {
	at, err := o.check(key)
	if err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ {
		data, err := o.get(ctx, at)
		if err == nil || tries == resumes || ctx.Err() != nil || !errors.Is(err, errBroken) {
			return data, err
		}
	}
}

var errBroken = errors.New("the connection broke")

func (o *Objects) get(ctx context.Context, key string) ([]byte, error) {
	body, info, _, err := o.s.b.GetObject(ctx, o.s.b.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, o.s.b.Error(err)
	}
	defer body.Close()
	data := make([]byte, max(info.Size, 0))
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w: %w", key, errBroken, err, mlaas.ErrUnavailable)
	}
	return data, nil
}

// List gives every object whose key begins with prefix, in the order of keys.
func (o *Objects) List(ctx context.Context, prefix string) ([]blob.Object, error) {
	all := []blob.Object{}
	for i, err := range o.s.list(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		if key := strings.TrimPrefix(i.Key, o.s.prefix); !strings.HasSuffix(key, "/") {
			all = append(all, blob.Object{Key: key, Size: i.Size})
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Servers promise this order, but not all keep to it.
	slices.SortFunc(all, func(a, b blob.Object) int { return cmp.Compare(a.Key, b.Key) })
	return all, nil
}

// Delete removes objects. What is not there is deleted already.
func (o *Objects) Delete(ctx context.Context, keys ...string) error {
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(8) // one by one: not every server takes many in one request
	for _, key := range keys {
		at, err := o.check(key)
		if err != nil {
			return err
		}
		g.Go(func() error {
			failpoint.Hit("blob.s3.remove.before")
			if err := o.s.remove(some, at); err != nil {
				return fmt.Errorf("delete %s: %w", key, err)
			}
			return nil
		})
	}
	return g.Wait()
}
