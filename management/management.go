// Package management is the public door: the REST API of the paper's figure
// 4.2 and what has grown around it, and the records that users wish for (jobs,
// versions, runs, datasets). It writes wishes and tells the contractor; what
// becomes of them it only reads.
//
// Read routes.go first: it is the whole API as one table. Each noun has a file
// with its handlers. A handler that changes something returns the batch that
// its effect is; route.go commits it, together with the record of its
// Idempotency-Key.
package management

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/internal/stream"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// Management answers requests. Fill in the fields, serve Handler and call Run;
// several may share one store.
type Management struct {
	DB     store.Driver
	Blob   blob.Driver
	Series series.Reader // of what the monitors append
	Inside Inside        // reaches into replicas; nil: nobody can
	Auth   *auth.Requests
	Key    []byte   // seals secrets; 32 bytes
	Hosts  []string // names by which this server may be called, besides those of the loopback
	Limits Limits

	Retention Retention                               // what is kept
	Sweep     func(context.Context) ([]string, error) // removes what the machine keeps unused; nil: nothing

	Catalogue []Framework // what environment.framework may be; empty: anything
	AllowExec bool        // a kubeconfig may name a program that finds credentials: booster runs it

	// Info says what only the machine knows, for GET /api/status; nil: nothing.
	Info func(context.Context) (Info, error)

	// Prepare says what would become of the code of a run, by a Python of this
	// machine; nil: there is none.
	Prepare func(context.Context, mlaas.Run) (mlaas.Preparation, error)

	// Fetch puts the files of a commit into a folder that is there and empty, with
	// another that does not exist yet to work in; nil: repositories are not fetched.
	Fetch func(ctx context.Context, source, dir, work string, most blob.Limits) (mlaas.Fetched, error)

	Health *health.Prober // answers /readyz; nil: ready as long as it does not drain

	Now func() time.Time // nil: time.Now
	Log *slog.Logger

	Counts  Counts       // what it did
	Metrics http.Handler // answers /metrics; nil: there are none
	Trace   trace.Tracer // nil: nobody watches

	once      sync.Once
	ready     *health.Prober
	hub       hub
	streams   streams
	crowds    crowds
	couriers  couriers
	turns     turns
	prepared  preparations
	documents documents
}

// An Inside reaches into the replicas of a cluster, whoever serves it: booster's
// Monitor does, and its Inside where that is in another process.
type Inside interface {
	// Open opens a stream for by, which stands in the replica's history then. Who
	// calls it closes the stream.
	Open(ctx context.Context, cluster string, f mlaas.Fence, ask mlaas.Open, by string) (*stream.Stream, error)

	// Log is what the executor itself keeps of a replica's container, or the end
	// of it; size is how many bytes all of it has.
	Log(ctx context.Context, cluster string, f mlaas.Fence) (text string, size int64, err error)

	// FollowLog is what is added to that from the byte number after on, until the
	// container or ctx ends. Who calls it closes it.
	FollowLog(ctx context.Context, cluster string, f mlaas.Fence, after int64) (io.ReadCloser, error)
}

// Info is what management cannot find out by itself.
type Info struct {
	Version string
	Data    string                 // the data folder
	Disk    map[string]mlaas.Bytes // what each part of it takes
	Free    mlaas.Bytes            // what is left on that disk
	Caps    map[string]mlaas.Bytes // how much each part may take
}

// Limits are how much one request may bring. A zero field is the default.
type Limits struct {
	Body   mlaas.Bytes // of a JSON body; 4 MiB
	Upload mlaas.Bytes // of code or data in one request, packed or not; 512 MiB
	Files  int         // of one version or dataset; 10000
	Blob   mlaas.Bytes // of one file of a dataset; 64 GiB
}

func (m *Management) limits() Limits {
	l := m.Limits
	if l.Body == 0 {
		l.Body = 4 << 20
	}
	if l.Upload == 0 {
		l.Upload = 512 << 20
	}
	if l.Files == 0 {
		l.Files = 10_000
	}
	if l.Blob == 0 {
		l.Blob = 64 << 30
	}
	return l
}

// Run keeps what is not a request: it wakes those who follow a log when a
// replica changes, forgets keys that are older than a day, collects daily what
// nothing needs, and ends the live streams when it ends. It returns when ctx
// ends, or with the error that ended it.
func (m *Management) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.hub.run(ctx, m.DB) })
	g.Go(func() error { return m.forget(ctx) })
	g.Go(func() error { return m.collectDaily(ctx) })
	g.Go(func() error { return m.carryAll(ctx) })
	g.Go(func() error { return m.streams.run(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Server is an http.Server with the timeouts that a public door needs. It has
// no write timeout, as logs are followed for days: each write has its own.
func (m *Management) Server() *http.Server {
	return &http.Server{
		Handler:           m.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(m.log().Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

type connKey struct{}

// narrow makes the kernel hold little of what a client of the live stream does
// not take: else each one that reads nothing costs megabytes, and it takes long
// until that is seen.
func narrow(ctx context.Context) {
	if t := connOf(ctx); t != nil {
		_ = t.SetWriteBuffer(64 << 10) // without it, it works as well
	}
}

// abandon has the kernel forget what it holds for a client, instead of sending
// on for minutes to one that takes nothing.
func abandon(ctx context.Context) {
	if t := connOf(ctx); t != nil {
		_ = t.SetLinger(0) // the same
	}
}

// connOf is the connection of a request; nil where it is none of TCP.
func connOf(ctx context.Context) *net.TCPConn {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	t, _ := c.(*net.TCPConn)
	return t
}

// Counts are what management did.
type Counts struct {
	Requests  meter.Histograms[Request] // until the answer began
	Conflicts meter.Counter             // another commit was faster, and a handler was called again
	Dropped   meter.Counter             // live streams whose client took nothing for too long
}

// A Request is what requests are told apart by: the pattern of the route, not
// the path.
type Request struct {
	Route  string // "GET /api/job/{id}"
	Status int
}

// Streams is how many live streams are open, and logs followed.
func (m *Management) Streams() int {
	m.streams.mu.Lock()
	defer m.streams.mu.Unlock()
	return len(m.streams.open)
}

// Leave tells those who follow a log or a stream to come again: somebody else
// may serve them, or the next process will. It returns when they have gone, or
// when ctx ends. Nobody is let in to follow any more.
func (m *Management) Leave(ctx context.Context) { m.streams.leave(ctx) }

func (m *Management) health() *health.Prober {
	m.once.Do(func() {
		if m.ready = m.Health; m.ready == nil {
			m.ready = new(health.Prober)
		}
	})
	return m.ready
}

func (m *Management) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func (m *Management) log() *slog.Logger {
	if m.Log != nil {
		return m.Log
	}
	return slog.Default()
}

// stamp is now as records keep it: UTC, to the millisecond.
func (m *Management) stamp() time.Time { return m.now().UTC().Truncate(time.Millisecond) }

// tenantOf is the team of who is asking.
func tenantOf(ctx context.Context) mlaas.Tenant { return auth.From(ctx).Tenant }
