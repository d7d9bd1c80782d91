package series

import (
	"context"

	"mlaas.dev/mlaas"
)

// A Reader finds what runs have said, and removes it. A [Store] is one, and a
// [Remote] is one for a process that has no store. What cannot be reached at
// the moment is mlaas.ErrUnavailable: who follows a run asks again with the
// last number that they have seen, and misses nothing.
type Reader interface {
	// Lines returns the lines that q asks for, oldest first. A run that is not
	// known has none.
	Lines(ctx context.Context, q LineQuery) ([]Line, error)

	// Points returns the curves that q asks for, by replica and key.
	Points(ctx context.Context, q PointQuery) ([]Curve, error)

	// RunPoints returns the points of a run from cursor from on, at most limit
	// (0: 1000; at most 10,000), in the order of arrival.
	RunPoints(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from int64, limit int) ([]RunPoint, error)

	// Keys returns the metric names of a run, sorted.
	Keys(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]string, error)

	// LastCursor is the newest cursor of each stream of a run, 0 for none.
	LastCursor(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (log, metric int64, err error)

	// LastSeq is the newest Seq of the lines of a replica, 0 for none.
	LastSeq(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (int64, error)

	// Kept says what is kept of one run, and what not any more.
	Kept(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (Kept, error)

	// Changed is closed when that run is appended to or deleted; now and then
	// without a reason. Get it before reading, so that nothing is missed, and
	// call leave when it is no longer waited for.
	Changed(tenant mlaas.Tenant, id mlaas.RunID) (changed <-chan struct{}, leave func())

	// Delete forgets a run. What is not there is deleted already.
	Delete(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) error

	// Trim drops sealed data of the oldest runs that are finished (nil: any)
	// until Usage is at most most, and returns what was freed.
	Trim(ctx context.Context, most mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool) (mlaas.Bytes, error)

	// Blobs calls f for each blob that holds sealed chunks: garbage collection
	// must keep them. After an error nothing may be collected.
	Blobs(ctx context.Context, f func(mlaas.Digest) error) error

	// Usage is what all runs take, sealed chunks included.
	Usage(ctx context.Context) (mlaas.Bytes, error)
}

var _ = []Reader{(*Store)(nil), (*Remote)(nil)}
