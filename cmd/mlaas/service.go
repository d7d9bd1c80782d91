package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/lease"
	"mlaas.dev/mlaas/observe"
	"mlaas.dev/mlaas/store"
)

// A service is one process of the production layout: management, contractor or
// booster, of which there may be several each. They meet in a store and a
// place for blobs, which are reached by URL; what else they share is a key.
type service struct {
	Name      string // of the command
	Store     string // redis://...
	Blob      string // s3://...
	KeyFile   string
	Dir       string // for what belongs to this machine
	Listen    string
	Advertise string // where the other services reach it; empty: where it listens
	Cert, Key string // TLS, as PEM files
	CA        string // of the other services' certificates; empty: the system's
	Plain     bool   // no TLS although others reach it
	Inside    bool   // it has no store, nor anything that is shared by a key: it is inside a cluster
	Level     string
	Format    string // of the log

	Say func(format string, args ...any)
	Log *slog.Logger
	ID  string // of this process among all

	Linger time.Duration

	secret  []byte // of KeyFile
	mail    *booster.Mailer
	owner   string // the owner's token, where this process may know it; empty: it may not
	member  *lease.Member
	health  *health.Prober
	metrics *observe.Metrics
	tracer  trace.Tracer // nil: nobody watches
}

// command makes the command that runs s; run does what is its own.
func (c *cli) serviceCommand(name, short, long, example string, extra func(*cobra.Command, *service), run func(ctx context.Context, s *service) error) *cobra.Command {
	s := &service{Name: name}
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Long: long + `

Services of one platform share a store, a place for blobs and a key file; any
number of each may run, on one machine or many, and any may die at any time.
"mlaas up" is all of them in one process, with nothing else installed.`,
		Example: example,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.complete(c); err != nil {
				return err
			}
			tracer, stop, err := observe.NewTracer(cmd.Context(), "mlaas-"+name, release(), c.Env)
			if err != nil {
				return err
			}
			defer stopTracer(stop, s.Log)
			s.tracer, s.metrics = tracer, observe.NewMetrics(release())
			return run(cmd.Context(), s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Store, "store", "", "the store of records and messages, such as redis://:PASSWORD@HOST:6379/NAME (else MLAAS_STORE)")
	f.StringVar(&s.Blob, "blob", "", "the place for content, such as s3://BUCKET?endpoint=https://HOST (else MLAAS_BLOB)")
	f.StringVar(&s.KeyFile, "key-file", "", "file with the key that all services share (else MLAAS_KEY_FILE, else DIR/key); made if it is not there")
	f.StringVar(&s.Listen, "listen", "127.0.0.1:0", "address and port to serve on; port 0 picks a free one")
	f.StringVar(&s.Advertise, "advertise", "", "URL by which the other services reach this one (else where it listens)")
	f.StringVar(&s.Cert, "tls-cert", "", "certificate to serve with, in PEM")
	f.StringVar(&s.Key, "tls-key", "", "its key")
	f.StringVar(&s.CA, "tls-ca", "", "certificates that the other services' are checked with, in PEM (else the system's)")
	f.BoolVar(&s.Plain, "plain", false, "serve without TLS although others reach the address: where a proxy or the network does it")
	f.DurationVar(&s.Linger, "linger", 0, "after SIGTERM, take new connections for so long, unready: as long as a load balancer needs to see it")
	f.StringVar(&s.Level, "log-level", "info", "what is logged: debug, info, warn or error")
	f.StringVar(&s.Format, "log-format", "text", "how it is logged: text or json")
	if extra != nil {
		extra(cmd, s)
	}
	return cmd
}

// complete checks what was stated, and fills in the rest.
func (s *service) complete(c *cli) (err error) {
	s.Store, s.Blob, s.KeyFile = first(s.Store, c.Env("MLAAS_STORE")), first(s.Blob, c.Env("MLAAS_BLOB")), first(s.KeyFile, c.Env("MLAAS_KEY_FILE"))
	if s.Dir, err = c.folder(); err != nil {
		return err
	}
	if s.mail, err = mailer(c.Env); err != nil {
		return err
	}
	switch {
	case s.Store == "" && !s.Inside:
		return tell{What: "mlaas " + s.Name + " needs a store", Why: "neither --store nor MLAAS_STORE is set",
			Fix: "name a Redis server: --store redis://:PASSWORD@HOST:6379/NAME   or run everything in one process:   mlaas up", Kind: mlaas.ErrInvalid}
	case s.Blob == "" && s.Name != "contractor" && !s.Inside:
		return tell{What: "mlaas " + s.Name + " needs a place for content", Why: "neither --blob nor MLAAS_BLOB is set",
			Fix: "name a bucket: --blob s3://BUCKET?endpoint=https://HOST", Kind: mlaas.ErrInvalid}
	case (s.Cert == "") != (s.Key == ""):
		return mlaas.Invalid("--tls-cert and --tls-key", "both or neither", first(s.Cert, s.Key))
	}
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return mlaas.Invalid("--listen", "an address and a port such as 127.0.0.1:7480", s.Listen)
	}
	ip := net.ParseIP(host)
	if near := host == "localhost" || ip != nil && ip.IsLoopback(); !near && s.Cert == "" && !s.Plain {
		return tell{What: "mlaas " + s.Name + " does not serve " + s.Listen + " without TLS", Why: "whoever is on the way would read every token",
			Fix: "give it a certificate by --tls-cert and --tls-key; or say --plain, where a proxy or the network encrypts", Kind: mlaas.ErrInvalid}
	}
	if s.Advertise == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		return mlaas.Invalid("--advertise", "the URL by which the other services reach this one, as it listens on every address", s.Listen)
	}
	if s.Advertise != "" {
		if u, err := url.Parse(s.Advertise); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return mlaas.Invalid("--advertise", "a URL such as https://10.0.0.7:7481", s.Advertise)
		}
	}
	log, err := c.logger(s.Level, s.Format)
	if err != nil {
		return err
	}
	s.ID = s.Name + "-" + mlaas.NewID(time.Now())
	s.Log = log.With("service", s.Name)
	s.Say = func(format string, args ...any) { fmt.Fprintf(c.Out, format+"\n", args...) }
	if err := os.MkdirAll(s.Dir, 0o711); err != nil {
		return err
	}
	if s.Inside {
		return nil
	}
	if s.owner, err = readLine(first(c.Env("MLAAS_TOKEN_FILE"), filepath.Join(s.Dir, "token"))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.secret, err = secret(first(s.KeyFile, filepath.Join(s.Dir, "key")), 32)
	return err
}

// listener opens the address, and finds out how others reach it.
func (s *service) listener() (net.Listener, error) {
	l, err := health.Listen(context.Background(), s.Listen)
	if err != nil {
		return nil, tell{What: "cannot listen on " + s.Listen, Why: err.Error(), Fix: "choose another by --listen, or port 0 for any free one", Kind: mlaas.ErrUnavailable}
	}
	scheme := "http://"
	if s.Cert != "" {
		scheme = "https://"
	}
	if l, err = secured(l, s.Cert, s.Key); err != nil {
		return nil, err
	}
	if s.Advertise == "" {
		s.Advertise = scheme + l.Addr().String()
	}
	s.Advertise = strings.TrimSuffix(s.Advertise, "/")
	return l, nil
}

// secured serves l by TLS, if there is a certificate.
func secured(l net.Listener, cert, key string) (net.Listener, error) {
	if cert == "" {
		return l, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		l.Close()
		return nil, mlaas.Invalid("--tls-cert", "a certificate and its key in PEM: "+err.Error(), cert)
	}
	return health.Over(l, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})), nil
}

// join opens what every service shares: the store, an address, and a place
// among the others. Who calls it closes the store.
func (s *service) join(ctx context.Context) (store.Driver, net.Listener, error) {
	db, err := joinStore(ctx, s.Store, s.Log)
	if err != nil {
		return nil, nil, err
	}
	l, err := s.listener()
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	s.member = &lease.Member{DB: db, Service: s.Name, ID: s.ID, URL: s.Advertise, Version: release(), Log: s.Log}
	s.metrics.Store(db)
	return db, l, nil
}

// internal is the client by which services ask each other. It waits for the
// beginning of an answer, and then as long as the answer goes on.
func (s *service) internal() (*http.Client, error) {
	t, err := s.transport()
	return &http.Client{Transport: bearer{t, auth.ServiceToken(s.secret)}}, err
}

// transport reaches the other services, and knows their certificates.
func (s *service) transport() (*http.Transport, error) {
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
	}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return nil, mlaas.Invalid("--tls-ca", "a file with certificates in PEM", s.CA)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

// bearer shows a token with each request.
type bearer struct {
	http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// trusts reports whether another service asks.
func (s *service) trusts(r *http.Request) bool {
	return len(s.secret) > 0 && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+auth.ServiceToken(s.secret))) == 1
}

// known reports whether another service asks, or the owner: Prometheus has the
// owner's token.
func (s *service) known(r *http.Request) bool {
	owner := s.owner != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.owner)) == 1
	return owner || s.trusts(r)
}

// trusted lets only the other services through.
func (s *service) trusted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.trusts(r) {
			http.Error(w, "this is the internal API: it takes the token of the platform's services", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// prober makes what /readyz asks.
func (s *service) prober(checks ...health.Check) *health.Prober {
	s.health = &health.Prober{Checks: checks}
	return s.health
}

// internalAPI is what a service without a public one serves: whether it lives
// and is ready, to anybody; what it counts, to the owner; and h below /internal/ to the other services.
func (s *service) internalAPI(h http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	probes := s.health.Handler(s.known)
	mux.Handle("GET /livez", probes)
	mux.Handle("GET /readyz", probes)
	metrics := s.metrics.Handler()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !s.known(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "what is counted takes the owner's token", http.StatusUnauthorized)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	if h != nil {
		mux.Handle("/internal/", s.trusted(h))
	}
	return mux
}

// serve runs until ctx ends, and then drains: what takes messages ends at once,
// what requests need when the last of them is answered, and that this process
// lives is said to the end.
func (s *service) serve(ctx context.Context, l net.Listener, server *http.Server, leave func(context.Context), requests, messages map[string]func(context.Context) error) error {
	defer keepHeap()()
	all, ctx := errgroup.WithContext(ctx)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	start := func(ctx context.Context, parts map[string]func(context.Context) error, wait *sync.WaitGroup) {
		for name, run := range parts {
			wait.Add(1)
			all.Go(func() error {
				defer wait.Done()
				if err := run(ctx); err != nil && ctx.Err() == nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}
	}
	var working sync.WaitGroup
	front := &health.Server{HTTP: server, Listener: l, Health: s.health, Leave: leave, Linger: s.Linger, Log: s.Log}
	start(ctx, map[string]func(context.Context) error{"server": front.Run}, &working)
	start(ctx, messages, &working)
	var rest sync.WaitGroup
	start(life, requests, &rest)
	if s.member != nil {
		start(life, map[string]func(context.Context) error{"member": s.member.Run}, &rest)
	}
	all.Go(func() error {
		<-ctx.Done()
		working.Wait()
		end()
		return nil
	})
	s.Say("ready %s", s.Advertise)
	return all.Wait()
}
