package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// Get is described at blob.Driver. When a connection breaks, reading goes on
// where it was. Bytes that are read from the first to the last are checked: the
// error at their end is blob.ErrDamaged if they are not what was stored.
func (s *S3) Get(ctx context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error) {
	key, err := s.key(blobs, d)
	if err != nil {
		return nil, err
	}
	outside := func(size int64) error {
		return mlaas.Invalid("offset", fmt.Sprintf("0 to %d, the size of the blob", size), offset)
	}
	if offset < 0 {
		info, err := s.stored(ctx, d)
		if err != nil {
			return nil, err
		}
		return nil, outside(info.Size)
	}
	r := &reader{ctx: ctx, s: s, key: key, d: d, at: offset, size: -1}
	if offset == 0 {
		r.sum = sha256.New()
	}
	err = r.open()
	if said, ok := errors.AsType[minio.ErrorResponse](err); ok && (said.Code == "InvalidRange" || said.StatusCode == 416) {
		info, err := s.stored(ctx, d)
		if err != nil {
			return nil, err
		}
		if offset != info.Size {
			return nil, outside(info.Size)
		}
		r.size = offset // nothing is left to read
		return r, nil
	}
	if err != nil {
		return nil, s.missing(d, err)
	}
	return r, nil
}

// A reader is one blob from some place on.
type reader struct {
	ctx      context.Context
	s        *S3
	key      string
	d        mlaas.Digest
	at, size int64
	body     io.ReadCloser // nil: to be opened
	sum      hash.Hash     // nil: not read from the first byte
	failed   int           // times since something came
}

// resumes is how often in a row a reader begins again.
const resumes = 6

// open asks for what is left. Its error is the server's own.
func (r *reader) open() error {
	var o minio.GetObjectOptions
	if r.at > 0 {
		o.Set("Range", fmt.Sprintf("bytes=%d-", r.at))
	}
	body, info, header, err := r.s.b.GetObject(r.ctx, r.s.b.Bucket, r.key, o)
	if err != nil {
		return err
	}
	size := info.Size
	if r.at > 0 {
		_, total, _ := strings.Cut(header.Get("Content-Range"), "/")
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			body.Close()
			return fmt.Errorf("the server gave another range than was asked for: %q: %w", header.Get("Content-Range"), mlaas.ErrUnavailable)
		}
	}
	if r.size >= 0 && r.size != size {
		body.Close()
		return fmt.Errorf("blob %s had %d bytes and now has %d: it is %w", r.d, r.size, size, blob.ErrDamaged)
	}
	r.body, r.size = body, size
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.next(p)
	if r.sum != nil {
		r.sum.Write(p[:n])
	}
	if errors.Is(err, io.EOF) {
		err = r.check()
	}
	return n, err
}

// check is the end, or that what came is not what was stored.
func (r *reader) check() error {
	if r.sum != nil && blob.Sum(r.sum.Sum(nil)) != r.d {
		return fmt.Errorf("blob %s is %w", r.d, blob.ErrDamaged)
	}
	return io.EOF
}

// WriteTo is how io.Copy reads: what came is summed up while the next comes.
func (r *reader) WriteTo(w io.Writer) (n int64, err error) {
	buffers, size := 3, int64(256<<10)
	if left := max(r.size-r.at, 1); left <= size {
		buffers, size = 1, left
	}
	free, full := make(chan []byte, buffers), make(chan []byte, buffers)
	for range buffers {
		free <- make([]byte, size)
	}
	summed := make(chan struct{})
	go func() {
		defer close(summed)
		for p := range full {
			if r.sum != nil {
				r.sum.Write(p)
			}
			free <- p[:size]
		}
	}()
	for err == nil {
		p := <-free
		m, e := r.next(p)
		if err = e; m > 0 {
			full <- p[:m] // both only read it
			k, e := w.Write(p[:m])
			n += int64(k)
			err = e
		}
	}
	close(full)
	<-summed
	if errors.Is(err, io.EOF) {
		err = r.check()
	}
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, err
}

// next reads what comes next, and goes on where a connection broke.
func (r *reader) next(p []byte) (int, error) {
	for {
		if r.at == r.size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := r.some(p[:min(int64(len(p)), r.size-r.at)])
		if n > 0 {
			r.failed = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.ctx.Err() != nil {
			return 0, r.ctx.Err()
		}
		if r.failed++; r.failed > resumes || !errors.Is(err, mlaas.ErrUnavailable) {
			return 0, fmt.Errorf("blob %s from %d on: %w", r.d, r.at, err)
		}
		if err := pause(r.ctx, 50*time.Millisecond<<r.failed); err != nil {
			return 0, err
		}
	}
}

// some reads once. What came before an error is told without it: the next
// call meets it again.
func (r *reader) some(p []byte) (int, error) {
	if r.body == nil {
		if err := r.open(); err != nil {
			return 0, r.s.missing(r.d, err)
		}
	}
	n, err := r.body.Read(p)
	r.at += int64(n)
	if err != nil { // the end too: either all has come, or the connection broke
		r.Close()
		r.body = nil
	}
	if n == 0 && err != nil {
		return 0, fmt.Errorf("the connection broke: %w: %w", err, mlaas.ErrUnavailable)
	}
	return n, nil
}

func (r *reader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
