package booster

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestForbidden(t *testing.T) {
	tests := []struct {
		address  string
		loopback bool
		want     string // empty: allowed
	}{
		{"93.184.216.34", false, ""},
		{"10.0.0.7", false, ""},
		{"2606:2800:220:1::1", false, ""},
		{"127.0.0.1", false, "it is the platform's own machine"},
		{"127.0.0.1", true, ""},
		{"::1", false, "it is the platform's own machine"},
		{"::1", true, ""},
		{"::ffff:127.0.0.1", false, "it is the platform's own machine"},
		{"0.0.0.0", false, "it is the platform's own machine"},
		{"::", false, "it is the platform's own machine"},
		{"64:ff9b::7f00:1", false, "it is the platform's own machine"},
		{"169.254.169.254", true, "it is a link-local address"},
		{"::ffff:169.254.169.254", true, "it is a link-local address"},
		{"64:ff9b::a9fe:a9fe", true, "it is a link-local address"},
		{"2002:a9fe:a9fe::", true, "it is a link-local address"},
		{"fe80::1%eth0", true, "it is a link-local address"},
		{"224.0.0.1", true, "it is a link-local address"},
		{"100.100.100.200", true, "it tells machines their secrets"},
		{"fd00:ec2::254", true, "it tells machines their secrets"},
	}
	for _, tt := range tests {
		t.Run(tt.address, func(t *testing.T) {
			if got := forbidden(netip.MustParseAddr(tt.address), tt.loopback); got != tt.want {
				t.Errorf("forbidden(%s, %t) = %q, want %q", tt.address, tt.loopback, got, tt.want)
			}
		})
	}
}

// The address counts after the name was looked up, and redirects lead nowhere.
func TestWebhookGuard(t *testing.T) {
	hits := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits <- r.URL.Path
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/secret", http.StatusTemporaryRedirect)
		}
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	post := func(loopback bool, url string) error {
		b := &Booster{AllowLoopback: loopback}
		b.init()
		_, err := b.post(context.Background(), url, []byte("{}"), http.Header{})
		return err
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		err := post(false, "http://"+host+":"+port+"/hook")
		if err == nil || !strings.Contains(err.Error(), "webhooks may not go to") {
			t.Errorf("to %s: %v", host, err)
		}
	}
	if len(hits) != 0 {
		t.Fatal("a webhook reached this machine")
	}
	if err := post(true, server.URL+"/hook"); err != nil {
		t.Errorf("where it is allowed: %v", err)
	}
	if err := post(true, server.URL+"/moved"); err == nil || err.Error() != "it answered 307 Temporary Redirect" {
		t.Errorf("a redirect: %v", err)
	}
	if len(hits) != 2 {
		t.Errorf("%d requests, want 2: a redirect is not followed", len(hits))
	}
}
