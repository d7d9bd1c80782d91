package auth

import (
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func TestWho(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	for name, s := range map[string]store.Session{
		"good":    {Tenant: "vision", ID: "1", Expires: now.Add(time.Hour)},
		"old":     {Tenant: "vision", ID: "2", Expires: now},
		"revoked": {Tenant: "vision", ID: "3", Expires: now.Add(time.Hour), Revoked: &now},
	} {
		s.Hash = Hash(name)
		if err := db.Commit(t.Context(), store.Batch{Put: []store.Row{store.Sessions(db).Put(s, 0)}}); err != nil {
			t.Fatal(err)
		}
	}
	a := &Requests{DB: db, Token: "secret", Now: func() time.Time { return now }}
	tests := []struct {
		authorization, cookie string
		tenant                mlaas.Tenant
		says                  string
	}{
		{"Bearer secret", "", mlaas.DefaultTenant, ""},
		{"bearer  secret", "", mlaas.DefaultTenant, ""},
		{"", "good", "vision", ""},
		{"", "", "", "who is asking?"},
		{"Bearer wrong", "good", "", "not good here"}, // a token is never made up for by a cookie
		{"Bearer ", "", "", "not good here"},
		{"Basic c2VjcmV0", "", "", "want Bearer"},
		{"secret", "", "", "want Bearer"},
		{"", "old", "", "has ended"},
		{"", "revoked", "", "has ended"},
		{"", "unknown", "", "has ended"},
		{"", Hash("good"), "", "has ended"}, // what is stored does not open
	}
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/", nil)
		if tt.authorization != "" {
			r.Header.Set("Authorization", tt.authorization)
		}
		if tt.cookie != "" {
			r.Header.Set("Cookie", Cookie+"="+tt.cookie)
		}
		who, err := a.Who(r)
		switch {
		case tt.says == "" && (err != nil || who.Tenant != tt.tenant):
			t.Errorf("%q %q: %+v %v", tt.authorization, tt.cookie, who, err)
		case tt.says != "" && (!errors.Is(err, mlaas.ErrUnauthorized) || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%q %q: %v, want something with %q", tt.authorization, tt.cookie, err, tt.says)
		}
	}
	none := &Requests{DB: db}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer ")
	if _, err := none.Who(r); !errors.Is(err, mlaas.ErrUnauthorized) {
		t.Errorf("without an owner's token the empty one is good: %v", err)
	}
}

func TestAllow(t *testing.T) {
	nobody, member, admin := Principal{}, Principal{Tenant: "a"}, Principal{Tenant: "a", Admin: true}
	for p, want := range map[Policy][3]*mlaas.Kind{
		Public:    {nil, nil, nil},
		Member:    {mlaas.ErrForbidden, nil, nil},
		Admin:     {mlaas.ErrForbidden, mlaas.ErrForbidden, nil},
		"":        {mlaas.ErrInternal, mlaas.ErrInternal, mlaas.ErrInternal},
		"members": {mlaas.ErrInternal, mlaas.ErrInternal, mlaas.ErrInternal},
	} {
		for i, who := range []Principal{nobody, member, admin} {
			err := p.Allow(who)
			if want[i] == nil && err != nil || want[i] != nil && !errors.Is(err, want[i]) {
				t.Errorf("policy %q, %+v: %v, want %v", p, who, err, want[i])
			}
		}
	}
}
