package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/internal/failpoint"
)

const (
	small      = 1 << 20 // up to here bytes wait in memory whatever is going on
	maxParts   = 10_000  // of one upload, as S3 has it
	atOnce     = 4       // parts of one upload under way
	maxStreams = 3       // each holds atOnce+1 parts in memory
)

// Put is described at blob.Driver.
//
// What fits into one part is sent once its name is known. What does not, and
// is named by want, goes to its place in parts while it comes; the server
// shows them together at the end, or never. Anything else waits in a temporary
// file for its name. What is there already is not sent again.
func (s *S3) Put(ctx context.Context, r io.Reader, want mlaas.Digest) (mlaas.Digest, int64, error) {
	if want != "" {
		if _, err := blob.CheckDigest(want); err != nil {
			return "", 0, err
		}
	}
	in := &source{ctx: ctx, r: r, sum: sha256.New(), want: want}
	err := s.put(ctx, in)
	if err != nil {
		return "", 0, fmt.Errorf("store a blob: %w", full(err))
	}
	return in.digest(), in.size, nil
}

func (s *S3) put(ctx context.Context, in *source) error {
	head := s.heads.Get().(*[]byte)
	defer s.heads.Put(head)
	n, err := in.fill(*head)
	if err != nil {
		return err
	}
	if in.ended {
		return s.place(ctx, in, func(ctx context.Context, key string) error {
			return s.putBytes(ctx, key, (*head)[:n])
		})
	}
	if in.want != "" {
		select {
		case s.streams <- struct{}{}:
			defer func() { <-s.streams }()
			return s.stream(ctx, in, (*head)[:n])
		default: // too much in memory already
		}
	}
	return s.spool(ctx, in, (*head)[:n])
}

// place renews what is there already under the name of what was read, and
// sends the bytes where it is not, or is not what it should be.
func (s *S3) place(ctx context.Context, in *source, send func(ctx context.Context, key string) error) error {
	if err := in.check(); err != nil {
		return err
	}
	d := in.digest()
	key, err := s.key(blobs, d)
	if err != nil {
		return err
	}
	info, err := s.Stat(ctx, d)
	if err == nil && info.Size == in.size {
		err = s.renew(ctx, info)
		if err == nil {
			return nil
		}
	}
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	return send(ctx, key)
}

// putBytes sends one object whose bytes are in memory. The server checks them.
func (s *S3) putBytes(ctx context.Context, key string, data []byte) error {
	sum := sha256.Sum256(data)
	failpoint.Hit("blob.s3.put.before")
	_, err := s.b.PutObject(ctx, s.b.Bucket, key, bytes.NewReader(data), int64(len(data)), "", hex.EncodeToString(sum[:]),
		minio.PutObjectOptions{DisableContentSha256: true, ContentType: octets})
	failpoint.Hit("blob.s3.put.after")
	return s.b.Error(err)
}

const octets = "application/octet-stream"

// spool keeps the bytes in a temporary file until all of them have come.
func (s *S3) spool(ctx context.Context, in *source, head []byte) error {
	f, err := os.CreateTemp(s.o.Temp, "mlaas-blob-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // it goes with us, however we end
		return err
	}
	if _, err := f.Write(head); err != nil {
		return err
	}
	buf := make([]byte, 128<<10)
	for !in.ended {
		n, err := in.fill(buf)
		if err != nil {
			return err
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
	}
	return s.place(ctx, in, func(ctx context.Context, key string) error {
		part := max(s.o.Part, (in.size/maxParts+1<<20)&^(1<<20-1))
		return s.upload(ctx, key, in.size, func(u *upload) error {
			for at := int64(0); at < in.size; at += part {
				n := min(part, in.size-at)
				u.part(io.NewSectionReader(f, at, n), n, func() {})
			}
			return nil
		})
	})
}

// stream sends the bytes while they come.
func (s *S3) stream(ctx context.Context, in *source, head []byte) error {
	part := s.parts.Get().(*[]byte)
	held := true
	defer func() {
		if held {
			s.parts.Put(part)
		}
	}()
	n := copy(*part, head)
	m, err := in.fill((*part)[n:])
	if err != nil {
		return err
	}
	n += m
	if in.ended {
		return s.place(ctx, in, func(ctx context.Context, key string) error {
			return s.putBytes(ctx, key, (*part)[:n])
		})
	}
	key, err := s.key(blobs, in.want)
	if err != nil {
		return err
	}
	switch info, err := s.Stat(ctx, in.want); {
	case err == nil:
		return s.again(ctx, in, info)
	case !errors.Is(err, mlaas.ErrNotFound):
		return err
	}
	return s.upload(ctx, key, -1, func(u *upload) error {
		for {
			buf := part
			held = false
			u.part(bytes.NewReader((*buf)[:n]), int64(n), func() { s.parts.Put(buf) })
			if in.ended {
				break
			}
			if u.parts == maxParts {
				return fmt.Errorf("a blob sent as a stream may have at most %s: %w", mlaas.Bytes(maxParts*s.o.Part), mlaas.ErrTooLarge)
			}
			if err := u.ctx.Err(); err != nil {
				return context.Cause(u.ctx)
			}
			part, held = s.parts.Get().(*[]byte), true
			if n, err = in.fill(*part); err != nil {
				return err
			}
			if n == 0 {
				break // the last part was full
			}
		}
		return in.check()
	})
}

// again reads what is stored already: it must still be what its name says.
func (s *S3) again(ctx context.Context, in *source, info blob.Info) error {
	buf := make([]byte, 128<<10)
	for !in.ended {
		if _, err := in.fill(buf); err != nil {
			return err
		}
	}
	if err := in.check(); err != nil {
		return err
	}
	if info.Size != in.size {
		if err := s.Delete(ctx, in.want); err != nil {
			return err
		}
		return fmt.Errorf("blob %s of %d bytes had %d and is removed: send it again: %w", in.want, in.size, info.Size, mlaas.ErrUnavailable)
	}
	err := s.renew(ctx, info)
	if errors.Is(err, mlaas.ErrNotFound) {
		return fmt.Errorf("blob %s was just collected: send it again: %w", in.want, mlaas.ErrUnavailable)
	}
	return err
}

// An upload is the parts of one object, which nobody sees before its end.
type upload struct {
	s       *S3
	key, id string
	ctx     context.Context // ends with the first part that fails
	group   *errgroup.Group
	parts   int

	mu   sync.Mutex
	done []minio.CompletePart
}

// upload makes an object of the parts that send gives, or nothing if it fails.
// A size of -1 is not known.
func (s *S3) upload(ctx context.Context, key string, size int64, send func(*upload) error) error {
	o := minio.PutObjectOptions{ContentType: octets}
	if s.sums {
		o.UserMetadata = map[string]string{"X-Amz-Checksum-Algorithm": minio.ChecksumCRC32C.String()}
	}
	id, err := s.b.NewMultipartUpload(ctx, s.b.Bucket, key, o)
	if err != nil {
		return s.b.Error(err)
	}
	failpoint.Hit("blob.s3.upload.begun")
	u := &upload{s: s, key: key, id: id}
	u.group, u.ctx = errgroup.WithContext(ctx)
	u.group.SetLimit(atOnce)
	err = send(u)
	if e := u.group.Wait(); e != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = e
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = u.complete(ctx, size)
	}
	if err != nil {
		u.abort(ctx)
	}
	return err
}

// part sends the next part in the background, and calls free when its bytes
// are needed no more.
func (u *upload) part(r io.ReadSeeker, size int64, free func()) {
	u.parts++
	number := u.parts
	u.group.Go(func() error {
		defer free()
		var o minio.PutObjectPartOptions
		if u.s.sums {
			// A server that knows of sums checks it, and it is part of the
			// signature: that takes the place of the sum that signs the bytes.
			// Who reads the blob checks all of it by its name.
			sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
			if _, err := io.Copy(sum, r); err != nil {
				return err
			}
			o.DisableContentSha256 = true
			o.CustomHeader = http.Header{minio.ChecksumCRC32C.Key(): {base64.StdEncoding.EncodeToString(sum.Sum(nil))}}
			if _, err := r.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		failpoint.Hit("blob.s3.part.before")
		p, err := u.s.b.PutObjectPart(u.ctx, u.s.b.Bucket, u.key, u.id, number, r, size, o)
		if err != nil {
			return u.s.b.Error(err)
		}
		failpoint.Hit("blob.s3.part.after")
		u.mu.Lock()
		u.done = append(u.done, minio.CompletePart{PartNumber: number, ETag: p.ETag, ChecksumCRC32C: p.ChecksumCRC32C})
		u.mu.Unlock()
		return nil
	})
}

func (u *upload) complete(ctx context.Context, size int64) error {
	slices.SortFunc(u.done, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	failpoint.Hit("blob.s3.complete.before")
	_, err := u.s.b.CompleteMultipartUpload(ctx, u.s.b.Bucket, u.key, u.id, u.done, minio.PutObjectOptions{})
	failpoint.Hit("blob.s3.complete.after")
	if said, ok := errors.AsType[minio.ErrorResponse](err); ok && said.Code == "NoSuchUpload" {
		// The first answer was lost, and we asked again: it is there, or another
		// who stored the same bytes had the same trouble.
		o, e := u.s.b.Client.StatObject(ctx, u.s.b.Bucket, u.key, minio.StatObjectOptions{})
		if e == nil && (size < 0 || o.Size == size) {
			return nil
		}
	}
	return u.s.b.Error(err)
}

// abort frees the parts. If that fails too, Sweep does it in a day.
func (u *upload) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := u.s.b.AbortMultipartUpload(ctx, u.s.b.Bucket, u.key, u.id); err != nil {
		u.s.o.Log.Info("an upload that failed is still there, and will be swept", "key", u.key, "error", u.s.b.Error(err))
	}
}

// Sweep ends uploads that began more than a day ago, and says how many.
func (s *S3) Sweep(ctx context.Context) (n int, err error) {
	var key, id string
	for {
		page, err := s.b.ListMultipartUploads(ctx, s.b.Bucket, s.prefix+blobs, key, id, "", 1000)
		if err != nil {
			return n, s.b.Error(err)
		}
		for _, u := range page.Uploads {
			if s.o.Now().Sub(u.Initiated) < abandoned {
				continue
			}
			err := s.b.Error(s.b.AbortMultipartUpload(ctx, s.b.Bucket, u.Key, u.UploadID))
			if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
				return n, err
			}
			n++
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return n, nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// A source is what is being stored: how much came, and what its name is.
type source struct {
	ctx   context.Context
	r     io.Reader
	sum   hash.Hash
	want  mlaas.Digest
	size  int64
	ended bool
}

// fill reads until p is full or the end has come.
func (in *source) fill(p []byte) (n int, err error) {
	for n < len(p) && !in.ended {
		if err := in.ctx.Err(); err != nil {
			return n, err
		}
		m, err := in.r.Read(p[n:])
		n += m
		if errors.Is(err, io.EOF) {
			in.ended = true
		} else if err != nil {
			return n, err
		}
	}
	in.size += int64(n)
	if _, err := in.sum.Write(p[:n]); err != nil {
		return n, err
	}
	return n, nil
}

func (in *source) digest() mlaas.Digest { return blob.Sum(in.sum.Sum(nil)) }

// check compares what came with what was wanted.
func (in *source) check() error {
	if d := in.digest(); in.want != "" && d != in.want {
		return mlaas.Invalid("digest", "that of the bytes, which is "+string(d), string(in.want))
	}
	return nil
}

// full makes the kind of an error that says there is no room for a temporary
// file.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", err, mlaas.ErrDisk)
	}
	return err
}
