package source

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
)

// Reach is where sources may be: at public addresses, unless who runs the
// platform lets others be asked too.
type Reach struct{ Private bool }

// May reports whether data may come from the host of a URL, as far as its
// name says.
func (r Reach) May(u *url.URL) error {
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); !r.Private && (err == nil && !public(a) || host == "localhost") {
		return fmt.Errorf("%s is not a public address, and data may not come from there: %w", host, mlaas.ErrForbidden)
	}
	return nil
}

// Transport makes connections to public addresses only. The check is made on the
// address that is dialled, so no name and no redirect leads around it. Where
// there is a proxy, it is the one that dials.
func (r Reach) Transport(u *url.URL) (*http.Transport, error) {
	if err := r.May(u); err != nil {
		return nil, err
	}
	var by string
	if p, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && p != nil {
		by = p.Host
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: time.Minute}
	dialer := net.Dialer{Timeout: 30 * time.Second}
	if !r.Private {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err == nil && !public(a.Addr()) {
				return fmt.Errorf("%s is not a public address, and data may not come from there: %w", a.Addr(), mlaas.ErrForbidden)
			}
			return err
		}
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if by != "" && address == by {
			return (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, network, address)
		}
		return dialer.DialContext(ctx, network, address)
	}
	return t, nil
}

// shared address space and documentation ranges that package netip does not
// call private.
var unroutable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range unroutable {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
