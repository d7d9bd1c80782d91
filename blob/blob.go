// Package blob keeps bytes under the digest of their content: code, data,
// checkpoints, outputs, sealed logs. What is stored never changes, so it may
// be stored twice, fetched from anywhere and checked by its name.
//
// [Driver] is what a place implements. Drivers live in subfolders and all pass
// blobtest.
package blob

import (
	"context"
	"io"
	"time"

	"mlaas.dev/mlaas"
)

// A Driver is a place for bytes. Methods are safe for concurrent use.
type Driver interface {
	// Put stores what r gives, durably, and returns its digest and size. If
	// want is not empty and the bytes have another digest, nothing is stored
	// and the error is mlaas.ErrInvalid. It is mlaas.ErrDisk if there is no
	// room. Nothing half-done is ever visible.
	Put(ctx context.Context, r io.Reader, want mlaas.Digest) (mlaas.Digest, int64, error)

	// Get opens the bytes named d from offset on, or mlaas.ErrNotFound. The
	// caller closes it.
	Get(ctx context.Context, d mlaas.Digest, offset int64) (io.ReadCloser, error)

	// Stat returns the size of d and when it was stored or touched last, or
	// mlaas.ErrNotFound.
	Stat(ctx context.Context, d mlaas.Digest) (Info, error)

	// Each calls f for every blob, in no order, until f returns an error.
	Each(ctx context.Context, f func(Info) error) error

	// Delete removes d. What is not there is deleted already.
	Delete(ctx context.Context, d mlaas.Digest) error
}

// Info is what is known of a blob without reading it.
type Info struct {
	Digest mlaas.Digest
	Size   int64
	Time   time.Time // of the last Put, which protects it from being collected
}

// An Object is bytes under a key that somebody chose, where blobs are beside
// others: in a bucket.
type Object struct {
	Key  string
	Size int64
}
