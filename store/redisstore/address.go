package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas"
)

// An address is what a URL says.
type address struct {
	scheme, network                string
	hosts                          []string // of Sentinels there may be several
	master                         string   // what Sentinels call the primary; empty: there are none
	user, password                 string
	sentinelUser, sentinelPassword string
	tls                            bool
	roots                          *x509.CertPool // nil: those of the system
	prefix                         string         // of every key: a hash tag, so that all are in one slot
	wait                           int            // replicas that must confirm a commit
	trust                          bool           // the settings of the server are not looked at
	scripts                        *scripts
}

type scripts struct{ next, list, changes, stats, release, adopt *redis.Script }

func newScripts() *scripts {
	return &scripts{
		next: redis.NewScript(nextText), list: redis.NewScript(listText), changes: redis.NewScript(changesText),
		stats: redis.NewScript(statsText), release: redis.NewScript(releaseText), adopt: redis.NewScript(adoptText),
	}
}

func parse(text string) (a address, err error) {
	const want = "redis://, rediss://, unix:// or redis+sentinel://, such as redis://:PASSWORD@HOST:6379/NAME"
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return a, mlaas.Invalid("store", want, "something else") // it may have a password in it
	}
	// Several hosts are no URL: what is between @ and / is taken out.
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	login, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		login, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + login + "host/?" + query)
	if err != nil {
		return a, mlaas.Invalid("store", want+", with what is special in a password written as %XX", "something else")
	}
	values := u.Query()
	a = address{scheme: scheme, network: "tcp", user: u.User.Username(), scripts: newScripts()}
	a.password, _ = u.User.Password()
	name := path
	switch scheme {
	case "redis", "rediss":
		if strings.Contains(hosts, ",") {
			return a, mlaas.Invalid("store", "one host; several are for redis+sentinel://", hosts)
		}
		a.hosts = []string{withPort(hosts, "6379")}
	case "unix":
		a.network, a.hosts, name = "unix", []string{"/" + path}, ""
	case "redis+sentinel", "rediss+sentinel":
		a.master, name, a.wait = path, "", 1
		if a.master == "" {
			return a, mlaas.Invalid("store", "the name by which the Sentinels know the primary as its path", "/")
		}
		for _, h := range strings.Split(hosts, ",") {
			a.hosts = append(a.hosts, withPort(h, "26379"))
		}
		a.sentinelUser, a.sentinelPassword = values.Get("sentinel_user"), values.Get("sentinel_password")
	default:
		return a, mlaas.Invalid("store", want, scheme+"://")
	}
	if strings.HasPrefix(scheme, "rediss") {
		a.tls = true
	}
	for key := range values {
		switch v := values.Get(key); key {
		case "name":
			name = v
		case "wait":
			if a.wait, err = strconv.Atoi(v); err != nil || a.wait < 0 {
				return a, mlaas.Invalid("wait", "how many replicas must confirm a commit", v)
			}
		case "trust":
			if v != "settings" {
				return a, mlaas.Invalid("trust", "settings", v)
			}
			a.trust = true
		case "ca":
			pem, err := os.ReadFile(v)
			if err != nil {
				return a, mlaas.Invalid("ca", "a file of certificates", err.Error())
			}
			if a.roots = x509.NewCertPool(); !a.roots.AppendCertsFromPEM(pem) {
				return a, mlaas.Invalid("ca", "a file with certificates in PEM", v)
			}
		case "sentinel_user", "sentinel_password":
		default:
			return a, mlaas.Invalid("store", "name, wait, trust, ca, sentinel_user or sentinel_password after the ?", key)
		}
	}
	if name == "" {
		name = "mlaas"
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_.-]+$`).MatchString(name) {
		return a, mlaas.Invalid("name", "letters, digits and _ . -", name)
	}
	a.prefix = "{" + name + "}:"
	return a, nil
}

func withPort(host, port string) string {
	if host == "" {
		host = "127.0.0.1"
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// secured puts TLS over what dial makes, if the URL says so.
func (a address) secured(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	if !a.tls {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		over := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: a.roots})
		if err := over.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		return over, nil
	}
}

// near reports whether nobody else can reach the server.
func (a address) near() bool {
	if a.network == "unix" {
		return true
	}
	if a.master != "" {
		return false // the primary may be anywhere tomorrow
	}
	host, _, _ := net.SplitHostPort(a.hosts[0])
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (a address) String() string {
	return fmt.Sprintf("%s://%s", a.scheme, strings.Join(a.hosts, ","))
}
