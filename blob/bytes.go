package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// ErrDamaged is what reading says of bytes that no longer have the digest that
// names them. Storing the right bytes again mends it.
var ErrDamaged = fmt.Errorf("damaged on disk: %w", mlaas.ErrInternal)

// CheckDigest returns the 64 hex digits of d, or mlaas.ErrInvalid. It is what
// makes a digest safe in a path.
func CheckDigest(d mlaas.Digest) (string, error) {
	digits, ok := strings.CutPrefix(string(d), "sha256:")
	ok = ok && len(digits) == 2*sha256.Size
	for _, c := range digits {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	if !ok {
		return "", mlaas.Invalid("digest", `"sha256:" and 64 hex digits in lower case`, string(d))
	}
	return digits, nil
}

// Sum names the bytes whose SHA-256 is sum.
func Sum(sum []byte) mlaas.Digest { return mlaas.Digest("sha256:" + hex.EncodeToString(sum)) }

// Name is the digest of data.
func Name(data []byte) mlaas.Digest {
	sum := sha256.Sum256(data)
	return Sum(sum[:])
}

// PutBytes stores data and returns its digest.
func PutBytes(ctx context.Context, d Driver, data []byte) (mlaas.Digest, error) {
	digest, _, err := d.Put(ctx, bytes.NewReader(data), "")
	return digest, err
}

// GetBytes returns all bytes of digest, checked. It is mlaas.ErrTooLarge if
// there are more than most.
func GetBytes(ctx context.Context, d Driver, digest mlaas.Digest, most int64) ([]byte, error) {
	r, err := d.Get(ctx, digest, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("blob %s: %w", digest, err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("blob %s has more than %d bytes: %w", digest, most, mlaas.ErrTooLarge)
	case Name(data) != digest:
		return nil, fmt.Errorf("blob %s is %w", digest, ErrDamaged)
	}
	return data, nil
}

// Collect deletes what keep does not want and what has not been stored again
// since olderThan before now, and says how much that was. What is being stored
// right now is younger than that and stays, so olderThan must be longer than
// any upload takes until a record names it.
func Collect(ctx context.Context, d Driver, keep func(mlaas.Digest) bool, olderThan time.Duration, now time.Time) (removed int, freed mlaas.Bytes, err error) {
	before := now.Add(-olderThan)
	var old []Info
	err = d.Each(ctx, func(i Info) error {
		if i.Time.Before(before) && !keep(i.Digest) {
			old = append(old, i)
		}
		return ctx.Err()
	})
	if err != nil {
		return 0, 0, fmt.Errorf("look for blobs that nothing names: %w", err)
	}
	for _, i := range old {
		gone, err := deleteBefore(ctx, d, i.Digest, before)
		if err != nil {
			return removed, freed, fmt.Errorf("delete blob %s that nothing names: %w", i.Digest, err)
		}
		if gone {
			removed++
			freed += mlaas.Bytes(i.Size)
		}
	}
	return removed, freed, nil
}

// deleteBefore deletes digest unless it was stored again since before. A driver
// that can look and delete in one step does so.
func deleteBefore(ctx context.Context, d Driver, digest mlaas.Digest, before time.Time) (bool, error) {
	if d, ok := d.(interface {
		DeleteBefore(context.Context, mlaas.Digest, time.Time) (bool, error)
	}); ok {
		return d.DeleteBefore(ctx, digest, before)
	}
	switch i, err := d.Stat(ctx, digest); {
	case errors.Is(err, mlaas.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !i.Time.Before(before):
		return false, nil
	}
	return true, d.Delete(ctx, digest)
}
