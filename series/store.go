package series

import (
	"context"
	"log/slog"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// A Store keeps the lines and points of all runs. Fill in the fields, call
// Open, then let Run seal in the background; Append and the queries work from
// Open to Close. Methods are safe for concurrent use.
type Store struct {
	Dir  string      // the folder of the segments and the manifests
	Blob blob.Driver // where sealed chunks go
	Now  func() time.Time
	Log  *slog.Logger

	SegmentBytes int64 // a segment is sealed when it is larger; 0: 16 MiB
	LogBytes     int64 // of lines kept of one run; 0: 1 GiB
	MaxKeys      int   // metric names kept of one run; 0: 10,000
}

// Open reads what Dir holds. Nothing else may be called before it.
func (s *Store) Open() error { panic("being written") }

// Close frees what Open holds. Nothing may be called after it.
func (s *Store) Close() error { panic("being written") }

// Run seals full segments into blob until ctx ends.
func (s *Store) Run(ctx context.Context) error { panic("being written") }

// Append stores the batches durably.
func (s *Store) Append(ctx context.Context, batches ...Batch) error { panic("being written") }

// Durable is the last spool sequence number stored of that incarnation.
func (s *Store) Durable(fence mlaas.Fence) (log, metric int64) { panic("being written") }

// Lines returns the lines that q asks for, oldest first.
func (s *Store) Lines(ctx context.Context, q LineQuery) ([]Line, error) { panic("being written") }

// LastCursor is the newest cursor of each stream of a run, 0 for none.
func (s *Store) LastCursor(tenant mlaas.Tenant, run mlaas.RunID) (log, metric int64) {
	panic("being written")
}

// LastSeq is the newest Seq of the lines of a replica, 0 for none.
func (s *Store) LastSeq(tenant mlaas.Tenant, run mlaas.RunID, replica string) int64 {
	panic("being written")
}

// Changed is closed at the next append to that run. Get it before reading.
func (s *Store) Changed(tenant mlaas.Tenant, run mlaas.RunID) <-chan struct{} {
	panic("being written")
}

// Points returns the curves that q asks for, by replica and key.
func (s *Store) Points(ctx context.Context, q PointQuery) ([]Curve, error) { panic("being written") }

// RunPoints returns the points of a run from cursor from on, at most limit.
func (s *Store) RunPoints(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID, from int64, limit int) ([]RunPoint, error) {
	panic("being written")
}

// Keys returns the metric names of a run, sorted.
func (s *Store) Keys(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) ([]string, error) {
	panic("being written")
}

// Delete forgets a run. What is not there is deleted already.
func (s *Store) Delete(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) error {
	panic("being written")
}

// Kept says what is kept of one run, and what is not any more.
type Kept struct {
	Lines, Points               int64 // kept
	DroppedLines, DroppedPoints int64 // stored once, or refused, and not kept
	Bytes                       mlaas.Bytes
}

// Kept says what is kept of one run.
func (s *Store) Kept(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) (Kept, error) {
	panic("being written")
}

// Usage is what all runs take on disk, sealed chunks included.
func (s *Store) Usage() mlaas.Bytes { panic("being written") }

// Trim drops sealed data of the oldest runs that are finished until Usage is at
// most max: first lines, then points. It returns what was freed.
func (s *Store) Trim(ctx context.Context, max mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool) (mlaas.Bytes, error) {
	panic("being written")
}

// Blobs calls f for each blob that holds sealed chunks: garbage collection
// must keep them.
func (s *Store) Blobs(ctx context.Context, f func(mlaas.Digest) error) error { panic("being written") }
