package management

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// A browser is let in by a link that works once, and is then known by a cookie
// whose session is a record: listed, revoked, expiring.

const (
	linkFor    = 15 * time.Minute
	sessionFor = 14 * 24 * time.Hour
	showEnded  = 30 * 24 * time.Hour // how long an ended session is listed
)

// forgetLogins removes links that are too old and sessions that ended long ago.
func (m *Management) forgetLogins(ctx context.Context) (n int, err error) {
	now := m.now()
	var old []store.Row
	links, err := store.Links(m.DB).All(ctx, store.Query{})
	if err != nil {
		return 0, err
	}
	for _, f := range links {
		if !now.Before(f.Value.Expires) {
			old = append(old, store.Links(m.DB).At(f.Value.Tenant, f.Value.Hash, f.Rev))
		}
	}
	sessions, err := store.Sessions(m.DB).All(ctx, store.Query{})
	if err != nil {
		return 0, err
	}
	for _, f := range sessions {
		ended := f.Value.Expires
		if f.Value.Revoked != nil && f.Value.Revoked.Before(ended) {
			ended = *f.Value.Revoked
		}
		if now.Sub(ended) >= showEnded {
			old = append(old, store.Sessions(m.DB).At(f.Value.Tenant, f.Value.ID, f.Rev))
		}
	}
	for part := range slices.Chunk(old, 500) {
		if err := m.DB.Commit(ctx, store.Batch{Delete: part}); err != nil && !errors.Is(err, mlaas.ErrConflict) {
			return n, err // a conflict is a link that was used meanwhile: another day
		}
		n += len(part)
	}
	return n, nil
}

// Invite returns the path of a link that lets one browser in, once, within 15
// minutes.
func (m *Management) Invite(ctx context.Context, tenant mlaas.Tenant) (path string, err error) {
	code := auth.NewToken()
	link := store.Link{Tenant: tenant, Hash: auth.Hash(code), Expires: m.stamp().Add(linkFor)}
	if err := m.DB.Commit(ctx, store.Batch{Put: []store.Row{store.Links(m.DB).Put(link, 0)}}); err != nil {
		return "", err
	}
	return "/login?code=" + code, nil
}

// A LoginLink lets one browser in, once.
type LoginLink struct {
	Path    string    `json:"path" doc:"Below the address of this server"`
	Expires time.Time `json:"expires"`
}

type inviteIn struct{}

// invite answers POST /api/session/link.
func (m *Management) invite(ctx context.Context, _ *inviteIn) (*Answer[LoginLink], error) {
	path, err := m.Invite(ctx, tenantOf(ctx))
	if err != nil {
		return nil, err
	}
	return &Answer[LoginLink]{Body: LoginLink{path, m.stamp().Add(linkFor)}}, nil
}

type loginIn struct {
	Code string `query:"code" doc:"Of the link that mlaas up printed"`
}

// login turns the code of a link into a session and goes to the page. The code
// is used up in the same commit, so two browsers cannot share it.
func (m *Management) login(w http.ResponseWriter, r *http.Request, in *loginIn) error {
	ctx, now := r.Context(), m.stamp()
	if r.Method != http.MethodGet || strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") {
		return fmt.Errorf("a link is not used up by a look at it: %w", mlaas.ErrForbidden) // of a preview
	}
	found, _, err := store.Links(m.DB).List(ctx, store.Query{Index: "hash=" + auth.Hash(in.Code), Limit: 1})
	if err != nil {
		return err
	}
	used := fmt.Errorf("this link was used or is too old; `mlaas session login` prints a new one: %w", mlaas.ErrUnauthorized)
	if len(found) == 0 || !now.Before(found[0].Value.Expires) {
		return used
	}
	link, cookie := found[0].Value, auth.NewToken()
	s := store.Session{
		Tenant: link.Tenant, ID: mlaas.NewID(now), Hash: auth.Hash(cookie), Created: now, Expires: now.Add(sessionFor),
		Agent: strings.ToValidUTF8(clip(r.UserAgent(), 200), ""), Address: hostOf(r.RemoteAddr),
	}
	err = m.DB.Commit(ctx, store.Batch{
		Put:    []store.Row{store.Sessions(m.DB).Put(s, 0)},
		Delete: []store.Row{store.Links(m.DB).At(link.Tenant, link.Hash, found[0].Rev)},
	})
	if errors.Is(err, mlaas.ErrConflict) {
		return used
	}
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: auth.Cookie, Value: cookie, Path: "/", Expires: s.Expires,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	// Not a redirect: the cookie is strict, and a browser that came from
	// another page would not send it along with one.
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, err = w.Write([]byte(`<!doctype html><meta http-equiv="refresh" content="0; url=/"><title>mlaas</title><a href="/">Go on</a>` + "\n"))
	return err
}

// hostOf is an address without its port.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// A SessionInfo is a session as its owner sees it.
type SessionInfo struct {
	ID      string     `json:"id"`
	Agent   string     `json:"agent" doc:"The browser, as it calls itself"`
	Address string     `json:"address"`
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	Revoked *time.Time `json:"revoked,omitempty"`
	Current bool       `json:"current" doc:"Whether this request came with it"`
}

type sessionsIn struct {
	Paging
}

// listSessions lists sessions, newest first.
func (m *Management) listSessions(ctx context.Context, in *sessionsIn) (*Answer[List[SessionInfo]], error) {
	who := auth.From(ctx)
	return pageOf(ctx, store.Sessions(m.DB), store.Query{Tenant: who.Tenant, Reverse: true}, in.Paging,
		func(f store.Found[store.Session]) (SessionInfo, bool, error) {
			s := f.Value
			return SessionInfo{s.ID, s.Agent, s.Address, s.Created, s.Expires, s.Revoked, s.ID == who.Session}, true, nil
		})
}

type sessionIn struct {
	ID string `path:"id" doc:"The id of a session; current for the one of this request"`
}

// revokeSession ends a session; the live streams that it has open end with it.
func (m *Management) revokeSession(ctx context.Context, in *sessionIn) (*Answer[None], store.Batch, error) {
	who := auth.From(ctx)
	id := in.ID
	if id == "current" {
		if id = who.Session; id == "" {
			return nil, store.Batch{}, fmt.Errorf("this request came with a token, not with a session: %w", mlaas.ErrNotFound)
		}
	}
	s, rev, err := store.Sessions(m.DB).Get(ctx, who.Tenant, id)
	if err != nil {
		return nil, store.Batch{}, err
	}
	if s.Revoked != nil {
		return &Answer[None]{}, store.Batch{}, nil
	}
	now := m.stamp()
	s.Revoked = &now
	return &Answer[None]{}, store.Batch{Put: []store.Row{store.Sessions(m.DB).Put(s, rev)}}, nil
}
