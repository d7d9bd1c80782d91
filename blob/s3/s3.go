// Package s3 keeps blobs in a bucket of any S3-compatible server.
//
// The bytes named sha256:abcd... are the object sha256/ab/abcd... below the
// prefix. An object appears whole or not at all, and its name is its content,
// so a writer needs no lock: who writes the same name writes the same bytes.
// Many processes use one bucket at the same time.
//
// Two more keys make collecting safe. renewed/ab/abcd... is an empty object
// whose time is that of the last Put or Touch, so that neither costs the bytes
// again. doomed/abcd.../ID stands while a collector makes up its mind: it looks
// at the times once more after its mark is there, and only then deletes. Who
// renews looks for marks after its own is there. So either the collector sees
// the new time, or the other sees the mark, waits for it to go, and looks
// whether the bytes are still there.
//
// s3.go is the driver, upload.go how bytes go in, read.go how they come out,
// objects.go keys of others in the same bucket.
package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/bucket"
	"mlaas.dev/mlaas/internal/failpoint"
)

// Options of a place for blobs. The zero value is right.
type Options struct {
	bucket.Options

	// Young is how old a blob must be before it is marked as renewed. It must
	// be far below the age from which blobs are collected. 0: 10 minutes.
	Young time.Duration

	Part int64  // bytes of one part of an upload, at least 5 MiB; 0: 16 MiB
	Temp string // where what is too large for memory waits for its name; empty: the system's folder

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: slog.Default
}

// S3 is a blob.Driver over one prefix of one bucket.
type S3 struct {
	b      *bucket.Bucket
	o      Options
	prefix string // empty, or with a slash at its end
	sums   bool   // the server knows sums of parts, or takes no notice of them

	streams chan struct{} // those that may hold parts in memory
	parts   sync.Pool     // *[]byte of o.Part
	heads   sync.Pool     // *[]byte of small
}

const (
	blobs   = "sha256/"
	renewed = "renewed/"
	doomed  = "doomed/"

	doom  = 30 * time.Second // that a collector takes at most from its mark to its last word
	truce = 2 * doom         // after which a mark is one of a collector that died

	abandoned = 24 * time.Hour // after which an upload has no owner any more
)

// Open uses the bucket and prefix of a URL as bucket.Address has it, and
// returns when it is sure that the bucket is there and lets us in.
func Open(ctx context.Context, url string, o Options) (*S3, error) {
	a, err := bucket.Parse(url)
	if err != nil {
		return nil, err
	}
	if a.Version != "" {
		return nil, mlaas.Invalid("address", "a place for blobs, which has no version", a.Version)
	}
	if o.Young == 0 {
		o.Young = 10 * time.Minute
	}
	if o.Part == 0 {
		o.Part = 16 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	b, err := a.Connect(o.Options)
	if err != nil {
		return nil, err
	}
	s := &S3{b: b, o: o, sums: !strings.HasSuffix(a.Server.Hostname(), "googleapis.com"), streams: make(chan struct{}, maxStreams)}
	if p := strings.Trim(path.Clean("/"+a.Key), "/"); p != "" {
		s.prefix = p + "/"
	}
	s.parts.New = func() any { p := make([]byte, o.Part); return &p }
	s.heads.New = func() any { p := make([]byte, small); return &p }
	if err := s.ready(ctx); err != nil {
		return nil, fmt.Errorf("open blobs in s3://%s/%s: %w", b.Bucket, s.prefix, err)
	}
	return s, nil
}

// ready lists one key: unlike a HEAD, its answer says what is wrong.
func (s *S3) ready(ctx context.Context) error {
	err := s.one(ctx)
	if said, ok := errors.AsType[minio.ErrorResponse](err); ok && said.Code == "NoSuchBucket" && s.b.Create {
		err = s.b.MakeBucket(ctx, s.b.Bucket, minio.MakeBucketOptions{Region: s.b.Region})
		if said, ok := errors.AsType[minio.ErrorResponse](err); ok && (said.Code == "BucketAlreadyOwnedByYou" || said.Code == "BucketAlreadyExists") {
			err = s.one(ctx) // another was first
		}
	}
	if err = s.b.Error(err); errors.Is(err, bucket.ErrNone) {
		return fmt.Errorf("make the bucket there, or open it with ?create=true: %w", err)
	}
	return err
}

func (s *S3) one(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range s.b.Client.ListObjectsIter(ctx, s.b.Bucket, minio.ListObjectsOptions{Prefix: s.prefix, Recursive: true, MaxKeys: 1}) {
		return o.Err
	}
	return ctx.Err()
}

// Run is the life of what nobody waits for: uploads that their owner left
// behind are ended, now and every six hours.
func (s *S3) Run(ctx context.Context) error {
	for {
		if n, err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("uploads that were left behind could not be ended; in six hours again", "error", err)
		} else if n > 0 {
			s.o.Log.Info("ended uploads that were left behind", "uploads", n)
		}
		if err := pause(ctx, 6*time.Hour); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// key is where the bytes of d are, below a folder of ours.
func (s *S3) key(folder string, d mlaas.Digest) (string, error) {
	digits, err := blob.CheckDigest(d)
	return s.prefix + folder + digits[:min(2, len(digits))] + "/" + digits, err
}

// Stat is described at blob.Driver. The time is the server's.
func (s *S3) Stat(ctx context.Context, d mlaas.Digest) (blob.Info, error) {
	info, err := s.stored(ctx, d)
	if err != nil || s.young(info.Time) { // nobody renews what is young
		return info, err
	}
	mark, err := s.key(renewed, d)
	if err != nil {
		return info, err
	}
	switch m, err := s.b.Client.StatObject(ctx, s.b.Bucket, mark, minio.StatObjectOptions{}); {
	case err == nil:
		info.Time = later(info.Time, m.LastModified)
	case !errors.Is(s.b.Error(err), mlaas.ErrNotFound):
		return info, s.b.Error(err)
	}
	return info, nil
}

// stored is Stat by the object alone.
func (s *S3) stored(ctx context.Context, d mlaas.Digest) (blob.Info, error) {
	key, err := s.key(blobs, d)
	if err != nil {
		return blob.Info{}, err
	}
	o, err := s.b.Client.StatObject(ctx, s.b.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return blob.Info{}, s.missing(d, err)
	}
	return blob.Info{Digest: d, Size: o.Size, Time: o.LastModified}, nil
}

// missing names the blob rather than its key.
func (s *S3) missing(d mlaas.Digest, err error) error {
	if err = s.b.Error(err); errors.Is(err, mlaas.ErrNotFound) {
		return fmt.Errorf("blob %s: %w", d, mlaas.ErrNotFound)
	}
	return err
}

func (s *S3) young(t time.Time) bool { return s.o.Now().Sub(t) < s.o.Young }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Touch is described at blob.Touch.
func (s *S3) Touch(ctx context.Context, d mlaas.Digest) (blob.Info, error) {
	info, err := s.Stat(ctx, d)
	if err != nil {
		return info, err
	}
	if err := s.renew(ctx, info); err != nil {
		return info, err
	}
	info.Time = later(info.Time, s.o.Now())
	return info, nil
}

// renew protects a blob that was seen from being collected, or returns
// mlaas.ErrNotFound where that came too late.
func (s *S3) renew(ctx context.Context, info blob.Info) error {
	if s.young(info.Time) {
		return nil
	}
	mark, err := s.key(renewed, info.Digest)
	if err != nil {
		return err
	}
	failpoint.Hit("blob.s3.renew.before")
	if err := s.putBytes(ctx, mark, nil); err != nil {
		return err
	}
	failpoint.Hit("blob.s3.renew.between")
	if err := s.peace(ctx, info.Digest); err != nil {
		return err
	}
	_, err = s.stored(ctx, info.Digest)
	return err
}

// peace waits until no collector has its eye on d. A server tells nobody that
// an object went, so this asks again; it almost never has to.
func (s *S3) peace(ctx context.Context, d mlaas.Digest) error {
	digits, err := blob.CheckDigest(d)
	if err != nil {
		return err
	}
	for began := time.Now(); ; {
		var marks []string
		for o, err := range s.list(ctx, doomed+digits+"/") {
			if err != nil {
				return err
			}
			marks = append(marks, o.Key)
		}
		if len(marks) == 0 {
			return nil
		}
		if time.Since(began) > truce { // whoever set them is dead
			for _, m := range marks {
				if err := s.remove(ctx, m); err != nil {
					return err
				}
			}
			return nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// Each is described at blob.Driver.
func (s *S3) Each(ctx context.Context, each func(blob.Info) error) error {
	// Both lists are in the order of keys, so they are read side by side.
	mark, stop := iter.Pull2(s.list(ctx, renewed))
	defer stop()
	m, err, more := mark()
	for o, bad := range s.list(ctx, blobs) {
		if bad != nil {
			return bad
		}
		d := mlaas.Digest("sha256:" + path.Base(o.Key))
		if key, err := s.key(blobs, d); err != nil || key != o.Key {
			continue // not ours
		}
		info := blob.Info{Digest: d, Size: o.Size, Time: o.LastModified}
		at := strings.TrimPrefix(o.Key, s.prefix+blobs)
		for more && err == nil && strings.TrimPrefix(m.Key, s.prefix+renewed) < at {
			m, err, more = mark()
		}
		if err != nil {
			return err // without it, what was renewed would look old
		}
		if more && strings.TrimPrefix(m.Key, s.prefix+renewed) == at {
			info.Time = later(info.Time, m.LastModified)
		}
		if err := each(info); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// list gives the objects below a folder of ours, in the order of their keys.
func (s *S3) list(ctx context.Context, folder string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		for o := range s.b.Client.ListObjectsIter(ctx, s.b.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + folder, Recursive: true}) {
			if !yield(o, s.b.Error(o.Err)) || o.Err != nil {
				return
			}
		}
	}
}

// Delete is described at blob.Driver.
func (s *S3) Delete(ctx context.Context, d mlaas.Digest) error {
	key, err := s.key(blobs, d)
	if err != nil {
		return err
	}
	mark, err := s.key(renewed, d)
	if err != nil {
		return err
	}
	failpoint.Hit("blob.s3.delete.before")
	if err := s.remove(ctx, key); err != nil {
		return err
	}
	failpoint.Hit("blob.s3.delete.between")
	return s.remove(ctx, mark)
}

// DeleteBefore deletes d unless it was stored or renewed since, and says
// whether it did. A Put or Touch at the same time is either seen here or finds
// out that the bytes went.
func (s *S3) DeleteBefore(ctx context.Context, d mlaas.Digest, since time.Time) (bool, error) {
	digits, err := blob.CheckDigest(d)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, doom)
	defer cancel()
	mark := s.prefix + doomed + digits + "/" + rand.Text()
	if err := s.putBytes(ctx, mark, nil); err != nil {
		return false, err
	}
	gone, err := s.deleteBefore(ctx, d, since)
	if err != nil {
		return false, err // the server may still do it, so the mark stays
	}
	return gone, s.remove(ctx, mark)
}

func (s *S3) deleteBefore(ctx context.Context, d mlaas.Digest, since time.Time) (bool, error) {
	failpoint.Hit("blob.s3.doom.between")
	switch info, err := s.Stat(ctx, d); {
	case errors.Is(err, mlaas.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !info.Time.Before(since):
		return false, nil
	}
	return true, s.Delete(ctx, d)
}

func (s *S3) remove(ctx context.Context, key string) error {
	err := s.b.Error(s.b.Client.RemoveObject(ctx, s.b.Bucket, key, minio.RemoveObjectOptions{}))
	if errors.Is(err, mlaas.ErrNotFound) {
		return nil
	}
	return err
}
