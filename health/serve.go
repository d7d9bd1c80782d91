package health

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Server serves HTTP until its context ends, and then drains, so that no
// request fails that was sent to it:
//
//  1. It is unready at once, and every answer from here on ends its connection.
//  2. After Linger it takes no new connection: whoever dials is refused. A
//     connection that the kernel had taken by then is served.
//  3. What is under way is answered. What would never end by itself is told to
//     go elsewhere, by Leave.
//  4. A connection that nobody uses for Idle is closed: a client that sent a
//     request at that very moment would see it fail, and one that is in use is
//     not closed but by an answer.
//
// What is left after Within is cut off.
type Server struct {
	HTTP     *http.Server
	Listener net.Listener              // of Listen, or Over one of it
	Health   *Prober                   // nil: nobody is told
	Leave    func(ctx context.Context) // nil: nothing runs for ever
	Linger   time.Duration             // as long as a load balancer needs to see that we are unready
	Idle     time.Duration             // 0: 3 s
	Within   time.Duration             // 0: 15 s, counted from the end of Linger
	Log      *slog.Logger              // nil: nobody listens

	mu       sync.Mutex
	open     map[net.Conn]standing
	changed  chan struct{} // holds one: a connection came, went or changed its state
	draining bool
}

// Listen listens on a TCP address in the way that [Server] can refuse on: a
// socket of Multipath TCP, which is Go's default, takes no filter.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", address)
}

// Over is a listener over another one of Listen, such as one of TLS, for
// [Server] to refuse on the one below.
func Over(below, above net.Listener) net.Listener { return over{above, below} }

type over struct {
	net.Listener
	below net.Listener
}

// standing is where a connection stands, and since when.
type standing struct {
	busy  bool
	since time.Time
}

// Run serves until ctx ends, drains, and returns nil; or the error that kept it
// from serving.
func (s *Server) Run(ctx context.Context) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s.open, s.changed = map[net.Conn]standing{}, make(chan struct{}, 1)
	handler := s.HTTP.Handler
	s.HTTP.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.ends() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	s.HTTP.ConnState = s.note
	served := make(chan error, 1)
	go func() { served <- s.HTTP.Serve(s.Listener) }()
	select {
	case err := <-served:
		s.HTTP.Close()
		return err
	case <-ctx.Done():
	}
	began := time.Now()
	if s.Health != nil {
		s.Health.Drain()
	}
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	linger := time.NewTimer(s.Linger)
	defer linger.Stop()
	select {
	case <-linger.C:
	case err := <-served:
		s.HTTP.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(s.Within, 15*time.Second))
	defer cancel()
	below := s.Listener
	if o, ok := below.(over); ok {
		below = o.below
	}
	if err := refuse(ctx, below); err != nil {
		log.Debug("who dials at this moment may be cut off", "error", err)
	}
	s.Listener.Close()
	if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		log.Warn("serving ended early", "error", err)
	}
	var leaving sync.WaitGroup
	if s.Leave != nil {
		leaving.Go(func() { s.Leave(ctx) })
	}
	quiet := s.quiet(ctx)
	leaving.Wait()
	// Nothing is under way, or it has had its time.
	moment, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if err := s.HTTP.Shutdown(moment); err != nil || !quiet {
		log.Warn("requests are cut off", "after", time.Since(began).Round(time.Millisecond), "error", err)
	}
	s.HTTP.Close()
	return nil
}

func (s *Server) ends() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// note keeps account of the connections.
func (s *Server) note(c net.Conn, to http.ConnState) {
	s.mu.Lock()
	switch to {
	case http.StateClosed, http.StateHijacked:
		delete(s.open, c)
	default:
		s.open[c] = standing{to == http.StateActive, time.Now()}
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// quiet waits until nobody has used any connection for a while, and reports
// whether that came before ctx ended.
func (s *Server) quiet(ctx context.Context) bool {
	idle := cmp.Or(s.Idle, 3*time.Second)
	for {
		wait, busy := time.Duration(0), false
		s.mu.Lock()
		for _, c := range s.open {
			busy = busy || c.busy
			wait = max(wait, idle-time.Since(c.since))
		}
		s.mu.Unlock()
		if !busy && wait <= 0 {
			return true
		}
		var over <-chan time.Time
		if !busy {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-ctx.Done():
			return false
		case <-s.changed:
		case <-over:
		}
	}
}
