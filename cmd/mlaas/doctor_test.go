package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// ill is a platform with something wrong of each kind.
func ill(t *testing.T, ahead time.Duration) *httptest.Server {
	t.Helper()
	answers := map[string]any{
		"/api/status":  map[string]any{"version": "v9", "time": time.Now().Add(ahead)},
		"/readyz":      map[string]any{"status": "not ready: store", "checks": []any{map[string]any{"name": "store", "level": "failing", "says": "a record cannot be written"}, map[string]any{"name": "messages", "level": "warning", "says": "3 wait"}}},
		"/api/cluster": map[string]any{"items": []any{map[string]any{"name": "far", "up": false, "reason": "no route"}}},
		"/api/message": map[string]any{"items": []any{map[string]any{"id": 7, "to": "booster", "subject": "ReplicasWanted", "key": "r1", "why": "it tastes bad"}}},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(503)
		}
		if err := json.NewEncoder(w).Encode(answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := ill(t, time.Hour)
	d := &doctor{c: &cli{dir: dir, url: s.URL, token: "t", Env: func(string) string { return "" }}, store: "redis://x", blob: "s3://x",
		openStore: func(context.Context, string) (store.Driver, error) {
			return nil, fmt.Errorf("the Redis server x is not safe to keep a platform in:\nappendfsync is everysec: set appendfsync always; otherwise the last second is lost\nit is old")
		},
		openBlob: func(context.Context, string) (blob.Driver, func() error, error) {
			return nil, nil, fmt.Errorf("the bucket is not there: %w", mlaas.ErrUnavailable)
		}}
	d.machine(t.Context())
	d.folder()
	d.stores(t.Context())
	d.platform(t.Context())
	for _, want := range []struct{ what, says, fix string }{
		{"key", "others on this machine can read", "chmod 600"},
		{"store", "appendfsync is everysec", "set appendfsync always"},
		{"store", "it is old", "see that the server runs"},
		{"blob", "the bucket is not there", "see that the server runs"},
		{"clock", "from this one", "NTP"},
		{"ready: store", "a record cannot be written", "log"},
		{"cluster far", "down: no route", "mlaas cluster ls"},
		{"message 7", "booster gave up ReplicasWanted of r1: it tastes bad", "/api/message/7/requeue"},
	} {
		found := false
		for _, f := range d.found {
			found = found || !f.OK && f.What == want.what && strings.Contains(f.Says, want.says) && strings.Contains(f.Fix, want.fix)
		}
		if !found {
			t.Errorf("nothing bad is found of %s: %+v", want.what, d.found)
		}
	}
	for _, f := range d.found {
		switch {
		case !f.OK && f.Fix == "":
			t.Errorf("%s: %q has no remedy", f.What, f.Says)
		case f.What == "ready: messages" && (!f.OK || !f.Warn):
			t.Errorf("a warning is %+v", f)
		}
	}
}

// What is named is opened and used; nothing is made where nothing is.
func TestDoctorStores(t *testing.T) {
	dir := t.TempDir()
	db, err := sqlitestore.Open(t.Context(), filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	b, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	d := &doctor{c: &cli{}, store: "file://" + filepath.Join(dir, "mlaas.db"), blob: "file://" + filepath.Join(dir, "blob"), openStore: doctorStore, openBlob: doctorBlob}
	d.stores(t.Context())
	if len(d.found) != 4 {
		t.Errorf("found %+v", d.found)
	}
	for _, f := range d.found {
		if !f.OK {
			t.Errorf("%+v", f)
		}
	}
	d = &doctor{c: &cli{}, store: "file://" + filepath.Join(dir, "no.db"), blob: "file://" + filepath.Join(dir, "no"), openStore: doctorStore, openBlob: doctorBlob}
	d.stores(t.Context())
	if len(d.found) != 2 || d.found[0].OK || d.found[1].OK {
		t.Errorf("found %+v", d.found)
	}
	for _, name := range []string{"no.db", "no"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made", name)
		}
	}
}

func TestBind(t *testing.T) {
	for url, bad := range map[string]bool{"http://127.0.0.1:1": false, "http://localhost:1": false, "http://[::1]:1": false, "https://mlaas.example": false, "http://mlaas.example": true, "http://10.0.0.1:80": true} {
		d := &doctor{c: &cli{}}
		d.bind(url)
		if got := len(d.found) > 0 && !d.found[0].OK; got != bad {
			t.Errorf("%s: %+v", url, d.found)
		}
	}
}
