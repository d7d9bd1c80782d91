package blob

import (
	"context"

	"mlaas.dev/mlaas"
)

// Touch is Stat for who is going to name d in a record instead of storing it
// again: like Put, it protects the bytes from being collected until the record
// is there. A driver that cannot is asked for its Stat alone.
func Touch(ctx context.Context, d Driver, digest mlaas.Digest) (Info, error) {
	if d, ok := d.(interface {
		Touch(context.Context, mlaas.Digest) (Info, error)
	}); ok {
		return d.Touch(ctx, digest)
	}
	return d.Stat(ctx, digest)
}
