// Package bucket is a bucket of an S3-compatible server: its address as a URL,
// the connection to it, and what its errors mean to a user.
package bucket

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"mlaas.dev/mlaas"
)

// An Address is s3://[KEY:SECRET@]BUCKET/KEY with what the query says:
//
//	endpoint=http://127.0.0.1:7070   the server; without it Amazon's
//	region=eu-central-1              where its buckets are; without it the server is asked
//	path=true                        the bucket is in the path of requests, not in the host; true where an endpoint is named
//	create=true                      make the bucket if it is not there
//	version=ID                       of one object, where the bucket keeps versions
type Address struct {
	Bucket  string
	Key     string // of an object, or what keys begin with; as it is written
	Server  *url.URL
	Region  string
	Path    bool
	Create  bool
	Version string

	access, secret string
}

// Amazon's own server.
const amazon = "https://s3.amazonaws.com"

// Parse reads an address. An error names what is wrong and never the secret.
func Parse(text string) (a Address, err error) {
	const want = "s3://BUCKET/KEY, with ?endpoint=https://HOST&region=NAME where it is not Amazon's"
	u, err := url.Parse(text)
	if err != nil {
		return a, mlaas.Invalid("address", want+"; in a secret, write / as %2F", "one that cannot be read")
	}
	if u.Scheme != "s3" || u.Host == "" || u.Fragment != "" || u.Port() != "" {
		return a, mlaas.Invalid("address", want, u.Redacted())
	}
	a = Address{Bucket: u.Host, Key: strings.TrimPrefix(u.Path, "/"), access: u.User.Username()}
	a.secret, _ = u.User.Password()
	if a.access != "" && a.secret == "" {
		return a, mlaas.Invalid("address", "s3://KEY:SECRET@BUCKET, or no key at all", u.Redacted())
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return a, mlaas.Invalid("address", want, u.Redacted())
	}
	known := []string{"endpoint", "region", "path", "create", "version"}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return a, mlaas.Invalid("address", "nothing but "+strings.Join(known, ", ")+" after the ?", name)
		}
		if len(values) > 1 {
			return a, mlaas.Invalid(name, "one value", values)
		}
	}
	server := amazon
	if q.Has("endpoint") {
		server = q.Get("endpoint")
	}
	a.Server, err = url.Parse(server)
	if err != nil || a.Server.Scheme != "http" && a.Server.Scheme != "https" || a.Server.Host == "" || strings.Trim(a.Server.Path, "/") != "" || a.Server.RawQuery != "" || a.Server.User != nil {
		return a, mlaas.Invalid("endpoint", "the address of a server, such as https://s3.example.com or http://127.0.0.1:7070", server)
	}
	a.Server.Path = ""
	a.Region, a.Version = q.Get("region"), q.Get("version")
	a.Path = q.Has("endpoint") && !strings.HasSuffix(a.Server.Hostname(), ".amazonaws.com")
	for name, to := range map[string]*bool{"path": &a.Path, "create": &a.Create} {
		if text := q.Get(name); text != "" {
			if *to, err = strconv.ParseBool(text); err != nil {
				return a, mlaas.Invalid(name, "true or false", text)
			}
		}
	}
	return a, nil
}

// Named reports whether the address itself has keys in it.
func (a Address) Named() bool { return a.access != "" }

// Options say how to connect. The zero value is right for the platform itself.
type Options struct {
	// Getenv says AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
	// AWS_SESSION_TOKEN where the address has no keys. Where it knows none,
	// requests are anonymous. Nil: this process's environment, then its
	// credentials file, then the role of the machine.
	Getenv func(string) string

	Transport http.RoundTripper // nil: Transport of Silence
	Silence   time.Duration     // after which a connection that says nothing is given up; 0: 2 minutes
	Tries     int               // of one request, with growing pauses; 0: 6
}

// Silence is how long a connection may say nothing.
const Silence = 2 * time.Minute

// A Bucket is a connection to one. It dials when it is used.
type Bucket struct {
	minio.Core
	Address

	anonymous bool
}

// Connect makes a connection to the bucket of a.
func (a Address) Connect(o Options) (*Bucket, error) {
	b := &Bucket{Address: a}
	if o.Transport == nil {
		if o.Silence == 0 {
			o.Silence = Silence
		}
		o.Transport = Transport(o.Silence)
	}
	if o.Tries == 0 {
		o.Tries = 6
	}
	look := minio.BucketLookupAuto
	if a.Path {
		look = minio.BucketLookupPath
	}
	if a.Region == "" && a.Server.String() != amazon {
		a.Region = "us-east-1" // what servers of others call the only one that they have
	}
	creds, anonymous := a.credentials(o.Getenv)
	b.anonymous = anonymous
	c, err := minio.New(a.Server.Host, &minio.Options{
		Creds: creds, Secure: a.Server.Scheme == "https", Transport: firm{o.Transport},
		Region: a.Region, BucketLookup: look, MaxRetries: o.Tries,
	})
	if err != nil {
		return nil, mlaas.Invalid("endpoint", "the address of a server: "+err.Error(), a.Server.String())
	}
	b.Core = minio.Core{Client: c}
	return b, nil
}

func (a Address) credentials(getenv func(string) string) (creds *credentials.Credentials, anonymous bool) {
	if a.access != "" {
		return credentials.NewStaticV4(a.access, a.secret, ""), false
	}
	own := getenv == nil
	if own {
		getenv = os.Getenv
	}
	if key := getenv("AWS_ACCESS_KEY_ID"); key != "" {
		return credentials.NewStaticV4(key, getenv("AWS_SECRET_ACCESS_KEY"), getenv("AWS_SESSION_TOKEN")), false
	}
	if !own {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), true
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}},
	}), false
}

// Transport is how servers are reached: a connection on which nothing moves for
// so long is given up, so one whose other end is gone holds nobody for ever.
func Transport(silence time.Duration) *http.Transport {
	dial := &net.Dialer{Timeout: min(silence, 10*time.Second), KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           Lively(dial.DialContext, silence),
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       silence / 2,
		TLSHandshakeTimeout:   min(silence, 10*time.Second),
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // bytes are what they are
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       128 << 10,
	}
}

// Dial is how a connection is made.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Lively makes connections that are given up when nothing moved for so long.
func Lively(dial Dial, silence time.Duration) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &lively{c, silence}, nil
	}
}

// A lively connection moves its deadline whenever something moves. Writing
// moves that of reading too: who sends a long request waits for no answer yet.
type lively struct {
	net.Conn
	silence time.Duration
}

func (l *lively) Read(p []byte) (int, error) {
	if err := l.SetReadDeadline(time.Now().Add(l.silence)); err != nil {
		return 0, err
	}
	return l.Conn.Read(p)
}

func (l *lively) Write(p []byte) (int, error) {
	if err := l.SetDeadline(time.Now().Add(l.silence)); err != nil {
		return 0, err
	}
	return l.Conn.Write(p)
}
