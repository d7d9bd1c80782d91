// Package auth says who is asking: the owner by the token of the data folder,
// a browser by its session, a supervisor by its job token. What each may do is
// the table of routes in package management.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// Cookie is the name of the cookie that carries a session.
const Cookie = "mlaas_session"

// A Policy says who may call a route.
type Policy string

// The policies. A route without one is a mistake that a test finds.
const (
	Public Policy = "public" // anyone
	Member Policy = "member" // anyone of the team
	Admin  Policy = "admin"  // who runs the platform
)

// Policies lists all policies.
var Policies = []Policy{Public, Member, Admin}

// A Principal is who is asking.
type Principal struct {
	Tenant  mlaas.Tenant
	Name    string // as people read it
	Session string // the id of the session; empty where there is none
	Admin   bool
}

// Allow reports whether who asks may call a route of this policy. The error
// is mlaas.ErrForbidden, or mlaas.ErrInternal for a route without a policy.
func (p Policy) Allow(who Principal) error {
	switch {
	case p == Public, p == Member && who.Tenant != "", p == Admin && who.Admin:
		return nil
	case p == Member, p == Admin:
		return fmt.Errorf("%s may not do this: it takes one who runs the platform: %w", who.Name, mlaas.ErrForbidden)
	}
	return fmt.Errorf("this route has no policy: %w", mlaas.ErrInternal)
}

// Requests finds out who sent a request.
type Requests struct {
	DB    store.Driver
	Token string           // of the owner; empty: there is none
	Now   func() time.Time // nil: time.Now
}

// Who returns who sent r, by its bearer token or else by its session. It is
// mlaas.ErrUnauthorized where neither is there or good.
func (a *Requests) Who(r *http.Request) (Principal, error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, fmt.Errorf("the Authorization is of scheme %.20q, want Bearer: %w", scheme, mlaas.ErrUnauthorized)
		}
		if a.Token == "" || !same(strings.TrimSpace(token), a.Token) {
			return Principal{}, fmt.Errorf("this token is not good here; MLAAS_TOKEN or DIR/token of `mlaas up` has the one that is: %w", mlaas.ErrUnauthorized)
		}
		return Principal{Tenant: mlaas.DefaultTenant, Name: "owner", Admin: true}, nil
	}
	cookie, err := r.Cookie(Cookie)
	if err != nil || cookie.Value == "" {
		return Principal{}, fmt.Errorf("who is asking? Send Authorization: Bearer TOKEN; `mlaas up` writes the token to DIR/token: %w", mlaas.ErrUnauthorized)
	}
	s, err := a.Session(r.Context(), cookie.Value)
	if err != nil {
		return Principal{}, err
	}
	return Principal{Tenant: s.Tenant, Name: "owner", Session: s.ID, Admin: true}, nil
}

// Session returns the session whose cookie has this value; it is
// mlaas.ErrUnauthorized where there is none, or it has ended.
func (a *Requests) Session(ctx context.Context, value string) (store.Session, error) {
	found, _, err := store.Sessions(a.DB).List(ctx, store.Query{Index: "hash=" + Hash(value), Limit: 1})
	if err != nil {
		return store.Session{}, err
	}
	if len(found) == 0 || found[0].Value.Revoked != nil || !a.now().Before(found[0].Value.Expires) {
		return store.Session{}, fmt.Errorf("this session has ended; `mlaas up` and `mlaas session login` print a new link: %w", mlaas.ErrUnauthorized)
	}
	return found[0].Value, nil
}

func (a *Requests) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// NewToken returns a fresh secret: 256 random bits in hex.
func NewToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Hash is how a token is kept: it cannot be turned back, and as tokens are
// random it needs no salt.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// same compares two tokens in a time that says nothing of them.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

type key struct{}

// With returns a context that knows who is asking.
func With(ctx context.Context, who Principal) context.Context {
	return context.WithValue(ctx, key{}, who)
}

// From returns who is asking, or nobody.
func From(ctx context.Context) Principal {
	who, _ := ctx.Value(key{}).(Principal)
	return who
}

// ByCookie reports whether r can only be known by its cookie, which a browser
// sends whoever wrote the page: it must come from our own pages then.
func ByCookie(r *http.Request) bool {
	_, err := r.Cookie(Cookie)
	return r.Header.Get("Authorization") == "" && !errors.Is(err, http.ErrNoCookie)
}
