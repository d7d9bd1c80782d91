package series

import "context"

// A medium is where a store keeps what is not in blobs: its segments, and the
// manifests. There are two: a folder, and objects with records beside them.
// Nothing above a medium knows which it is.
type medium interface {
	// open has the medium for this store alone and reads what is there.
	open(ctx context.Context) error

	// begin makes the next segment. Only the leader of the queue calls it.
	begin() (*segment, error)

	// write makes b durable at the end of g. After an error nothing of b counts
	// for this store, and g may have been retired. Only the leader calls it.
	write(g *segment, b []byte) error

	// crowded says that g is to be sealed though it is not large yet. The
	// caller holds mu.
	crowded(g *segment) bool

	// leave makes sure that numbers will go on behind g when g is removed.
	leave(g *segment) error

	// remove removes a segment that is sealed.
	remove(ctx context.Context, g *segment) error

	// load reads the run called k. One that is not known has said nothing.
	load(ctx context.Context, k key) (*run, error)

	// claim is load by who wants to append with that epoch; the run is ours, or
	// it is an error.
	claim(ctx context.Context, k key, epoch int) (*run, error)

	// save replaces the manifest of r, durably, and returns its revision. It is
	// errMoved if somebody else has changed it.
	save(ctx context.Context, r *run, m manifest, data []byte) (int64, error)

	// discard removes the manifest of k, durably.
	discard(ctx context.Context, k key) error

	// each calls f with every run that has a manifest, by tenant and age, or
	// with why it cannot be read.
	each(ctx context.Context, f func(key, *run, error) error) error

	// copying reports whether somebody copies blobs, so that none is to be
	// deleted. Who asks has removed their names before.
	copying(ctx context.Context) bool

	// close frees what open holds.
	close()
}
