package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func TestLevels(t *testing.T) {
	tests := []struct {
		name  string
		do    func(context.Context) (string, error)
		level Level
		says  string
		ready bool
	}{
		{"good", func(context.Context) (string, error) { return "all is well", nil }, OK, "all is well", true},
		{"warning", func(context.Context) (string, error) { return "", fmt.Errorf("soon: %w", ErrWarning) }, Warning, "soon", true},
		{"failing", func(context.Context) (string, error) { return "", fmt.Errorf("no room: %w", mlaas.ErrDisk) }, Failing, "no room", false},
		{"panics", func(context.Context) (string, error) { panic("at the check") }, Failing, "the check panicked: at the check", false},
		{"slow", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, Failing, "no answer for 2s", false},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			p := &Prober{Checks: []Check{{"first", func(context.Context) (string, error) { return "", nil }}, {tt.name, tt.do}}}
			r := p.Ready(t.Context())
			got := r.Checks[1]
			if r.Ready != tt.ready || got.Level != tt.level || !strings.HasPrefix(got.Says, tt.says) {
				t.Errorf("%s: ready %v, %+v", tt.name, r.Ready, got)
			}
			if want := "not ready: " + tt.name; !tt.ready && r.Status != want {
				t.Errorf("%s: status %q, want %q", tt.name, r.Status, want)
			}
		})
	}
}

// A check that never returns, as one does whose disk hangs, delays an answer by
// its deadline and no more; it is not begun again beside itself; and it is
// well again when it returns.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang, calls := make(chan struct{}), new(atomic.Int64)
		p := &Prober{Checks: []Check{{"disk", func(context.Context) (string, error) { calls.Add(1); <-hang; return "it answers", nil }}}}
		for i, want := range []time.Duration{2 * time.Second, 0, 0} {
			began := time.Now()
			r := p.Ready(t.Context())
			if took := time.Since(began); r.Ready || took != want {
				t.Errorf("asked the %dth time: ready %v after %v, want an answer after %v", i+1, r.Ready, took, want)
			}
			time.Sleep(10 * time.Second)
		}
		if r := p.Ready(t.Context()); !strings.Contains(r.Checks[0].Says, "no answer for 32s") || calls.Load() != 1 {
			t.Errorf("%+v after %d calls", r.Checks, calls.Load())
		}
		close(hang)
		time.Sleep(10 * time.Second)
		if r := p.Ready(t.Context()); !r.Ready {
			t.Errorf("it answers again, but: %+v", r)
		}
	})
}

// However often it is asked, the checks are called once a second.
func TestKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		p := &Prober{Checks: []Check{{"a", func(context.Context) (string, error) { calls.Add(1); return "", nil }}}}
		for range 100 {
			for range 10 {
				go p.Ready(t.Context())
			}
			time.Sleep(20 * time.Millisecond)
		}
		if n := calls.Load(); n != 2 {
			t.Errorf("1000 questions in 2 s are %d calls, want 2", n)
		}
		p.Drain() // no kept answer hides it
		if r := p.Ready(t.Context()); r.Ready || r.Status != "draining" {
			t.Errorf("while it drains: %+v", r)
		}
	})
}

// Who is not known is told whether, and not why.
func TestHandler(t *testing.T) {
	p := &Prober{Checks: []Check{{"store", func(context.Context) (string, error) { return "", errors.New("secret reasons") }}}}
	h := p.Handler(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer t" })
	ask := func(path, as string) (int, string) {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", as)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	if code, body := ask("/livez", ""); code != 200 || body != `{"status":"ok"}`+"\n" {
		t.Errorf("/livez: %d %s", code, body)
	}
	if code, body := ask("/readyz", ""); code != 503 || body != `{"status":"not ready: store"}`+"\n" {
		t.Errorf("/readyz as nobody: %d %s", code, body)
	}
	code, body := ask("/readyz", "Bearer t")
	var a Answer
	if err := json.Unmarshal([]byte(body), &a); err != nil || code != 503 || len(a.Checks) != 1 || a.Checks[0].Says != "secret reasons" {
		t.Errorf("/readyz as one who is known: %d %s", code, body)
	}
}

func open(t *testing.T) *sqlitestore.Store {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// The probe of the store goes round also where an earlier one was left lying,
// takes away what other processes left, and leaves no message behind.
func TestStore(t *testing.T) {
	db, ctx := open(t), t.Context()
	left := func(process string, age time.Duration) {
		p := probe{Process: process, Nonce: "old", Time: time.Now().Add(-age)}
		err := db.Commit(ctx, store.Batch{Put: []store.Row{probes(db).Put(p, 0)},
			Tell: []store.Message{{To: p.inbox(), Subject: "probe", Body: []byte(`{"nonce":"old"}`)}, {To: p.inbox(), Body: []byte("no JSON")}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	left("me", time.Second)
	left("dead", 2*time.Hour)
	left("alive", 10*time.Second)
	c := Store(db, "me")
	for range 3 {
		if says, err := c.Do(ctx); err != nil || !strings.Contains(says, "came round") {
			t.Fatalf("%q, %v", says, err)
		}
	}
	st, err := db.Stats(ctx)
	if err != nil || st.Records != 2 || st.Waiting != 2 {
		t.Errorf("%d records and %d messages are there, want those of the process that lives: %v", st.Records, st.Waiting, err)
	}
	for _, broken := range []store.Driver{fails{Driver: db, commit: mlaas.ErrDisk}, fails{Driver: db, next: mlaas.ErrUnavailable}} {
		if _, err := Store(broken, "me").Do(ctx); err == nil {
			t.Errorf("%+v: nothing is wrong", broken)
		}
	}
}

// fails is a store that cannot do one thing.
type fails struct {
	store.Driver
	commit, next error
}

func (f fails) Commit(ctx context.Context, b store.Batch) error {
	if f.commit != nil {
		return f.commit
	}
	return f.Driver.Commit(ctx, b)
}

func (f fails) Next(ctx context.Context, inbox string, lease time.Duration) (store.Claim, error) {
	if f.next != nil {
		return store.Claim{}, f.next
	}
	return f.Driver.Next(ctx, inbox, lease)
}

func TestMessages(t *testing.T) {
	tests := []struct {
		oldest time.Duration
		parked int64
		owns   bool
		level  Level
	}{
		{time.Second, 0, true, OK},
		{11 * time.Second, 0, true, Warning},
		{61 * time.Second, 0, true, Failing},
		{61 * time.Second, 0, false, Warning}, // the business of another process
		{0, 1, true, Warning},
	}
	for _, tt := range tests {
		p := &Prober{Checks: []Check{Messages(told{is: store.Stats{Oldest: tt.oldest, Parked: tt.parked}}, tt.owns)}}
		if got := p.Ready(t.Context()).Checks[0]; got.Level != tt.level {
			t.Errorf("%+v: %+v", tt, got)
		}
	}
}

// told is a store that tells how it is, and nothing else.
type told struct {
	store.Driver
	is store.Stats
}

func (d told) Stats(context.Context) (store.Stats, error) { return d.is, nil }

func TestBlobAndDisk(t *testing.T) {
	b, err := files.Open(filepath.Join(t.TempDir(), "blob"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if says, err := Blob(b).Do(t.Context()); err != nil || !strings.HasPrefix(says, "bytes were kept") {
		t.Errorf("%q, %v", says, err)
	}
	if _, err := Disk(filepath.Join(t.TempDir(), "no")).Do(t.Context()); err == nil {
		t.Error("the disk of no folder has room")
	}
	for _, tt := range []struct {
		free, total mlaas.Bytes
		full        bool
	}{{50 << 30, 100 << 30, false}, {4 << 30, 100 << 30, true}, {6 << 30, 100 << 30, false}, {90 << 30, 2000 << 30, false}, {0, 1 << 20, true}} {
		if says, err := enoughRoom("/data", tt.free, tt.total); (err != nil) != tt.full || tt.full && !errors.Is(err, mlaas.ErrDisk) {
			t.Errorf("%d of %d: %q, %v", tt.free, tt.total, says, err)
		}
	}
}
