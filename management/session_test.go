package management

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// enter follows a link as a browser does, and returns the cookie.
func (a *api) enter(path string) *http.Cookie {
	a.t.Helper()
	r := a.do("GET", path, nil, "Authorization", "", "User-Agent", "Browser/1").want(200)
	cookies := (&http.Response{Header: r.Header}).Cookies()
	if len(cookies) != 1 {
		a.t.Fatalf("cookies %v", cookies)
	}
	return cookies[0]
}

func (a *api) link() string {
	a.t.Helper()
	return a.do("POST", "/api/session/link", nil).want(201).get("path").(string)
}

// clocked has one clock for all of it.
func clocked(t *testing.T) *api {
	var a *api
	a = start(t, func(m *Management) { m.Auth.Now = func() time.Time { return a.now() } })
	return a
}

func TestLogin(t *testing.T) {
	a := clocked(t)
	path := a.link()
	if !strings.HasPrefix(path, "/login?code=") || strings.Contains(fmt.Sprint(store.Links(a.DB).All(t.Context(), store.Query{})), path[len("/login?code="):]) {
		t.Errorf("the link is %s, and its code is kept", path)
	}
	// A preview does not use it up.
	a.do("HEAD", path, nil, "Authorization", "").want(403)
	a.do("GET", path, nil, "Authorization", "", "Sec-Purpose", "prefetch;prerender").refuses(403, "forbidden", "", "not used up")
	c := a.enter(path)
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Secure || len(c.Value) != 64 {
		t.Errorf("cookie %+v", c)
	}
	a.do("GET", path, nil, "Authorization", "").refuses(401, "unauthorized", "", "used or is too old; `mlaas session login`")
	a.do("GET", "/login?code=wrong", nil, "Authorization", "").refuses(401, "unauthorized", "", "used or is too old")
	a.do("GET", "/login", nil, "Authorization", "").refuses(401, "unauthorized", "", "used or is too old")

	cookie := []string{"Authorization", "", "Cookie", auth.Cookie + "=" + c.Value}
	a.do("GET", "/api/session", nil, cookie...).want(200).is("items.0.agent", "Browser/1").is("items.0.address", "127.0.0.1").is("items.0.current", true)
	if body := a.do("GET", "/api/session", nil).want(200).is("items.0.current", false).Body; strings.Contains(string(body), c.Value) || strings.Contains(string(body), auth.Hash(c.Value)) {
		t.Errorf("the list of sessions lets in: %s", body)
	}
	// A browser may do what the page does, from our pages.
	a.do("POST", "/api/job", `{"name": "a"}`, append(cookie, "Sec-Fetch-Site", "same-origin")...).want(201)
	a.do("POST", "/api/job", `{"name": "b"}`, append(cookie, "Sec-Fetch-Site", "cross-site")...).refuses(403, "forbidden", "", "another site's page")
	a.do("GET", "/api/session", nil, "Authorization", "", "Cookie", auth.Cookie+"="+auth.Hash(c.Value)).want(401)

	a.do("DELETE", "/api/session/current", nil).refuses(404, "not_found", "", "with a token")
	a.do("DELETE", "/api/session/nothing", nil).want(404)
	a.do("DELETE", "/api/session/current", nil, cookie...).want(204)
	a.do("GET", "/api/session", nil, cookie...).refuses(401, "unauthorized", "", "has ended")
	if a.do("GET", "/api/session", nil).want(200).get("items.0.revoked") == nil {
		t.Error("a revoked session is not shown as one")
	}
	late := a.link()
	a.later(linkFor)
	a.do("GET", late, nil, "Authorization", "").refuses(401, "unauthorized", "", "too old")

	cookie[3] = auth.Cookie + "=" + a.enter(a.link()).Value
	a.later(sessionFor - time.Minute)
	a.do("GET", "/api/session", nil, cookie...).want(200)
	a.later(time.Minute)
	a.do("GET", "/api/session", nil, cookie...).want(401)
}

// Many browsers with one link: one is let in.
func TestLoginOnce(t *testing.T) {
	a := start(t)
	path := a.link()
	var mu sync.Mutex
	got := map[int]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			res, err := http.Get(a.url + path)
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			got[res.StatusCode]++
		})
	}
	all.Wait()
	if got[200] != 1 || got[401] != 7 {
		t.Errorf("statuses %v, want one 200", got)
	}
}

func TestForgetLogins(t *testing.T) {
	a := clocked(t)
	a.enter(a.link())
	gone := a.enter(a.link()).Value
	a.do("DELETE", "/api/session/current", nil, "Authorization", "", "Cookie", auth.Cookie+"="+gone).want(204)
	a.link()
	count := func() string {
		t.Helper()
		links, err := store.Links(a.DB).All(t.Context(), store.Query{Tenant: mlaas.DefaultTenant})
		if err != nil {
			t.Fatal(err)
		}
		sessions, err := store.Sessions(a.DB).All(t.Context(), store.Query{Tenant: mlaas.DefaultTenant})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(len(links), " links, ", len(sessions), " sessions")
	}
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{
		{0, "1 links, 2 sessions"},
		{linkFor, "0 links, 2 sessions"},
		{showEnded, "0 links, 1 sessions"}, // the revoked one
		{sessionFor, "0 links, 0 sessions"},
	} {
		a.later(tt.after)
		a.do("POST", "/api/gc", nil).want(200)
		if got := count(); got != tt.want {
			t.Errorf("%s later there are %s, want %s", tt.after, got, tt.want)
		}
	}
}
