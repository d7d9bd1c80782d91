package booster_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// full is a place for bytes without room.
type full struct{ blob.Driver }

func (full) Put(context.Context, io.Reader, mlaas.Digest) (mlaas.Digest, int64, error) {
	return "", 0, fmt.Errorf("write blob: %w", syscall.ENOSPC)
}

// serve is a door over HTTP, with the record of one replica at epoch 2.
func serve(t *testing.T, edit func(*booster.Booster)) (url string, key []byte, f mlaas.Fence) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := sqlitestore.Open(ctx, ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := files.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := &series.Store{Dir: t.TempDir(), Blob: blobs}
	if err := lines.Open(); err != nil {
		t.Fatal(err)
	}
	b := &booster.Booster{DB: db, Cluster: "stage", Executor: &scripted.Executor{}, Blob: blobs, Series: lines, Key: []byte(strings.Repeat("k", 32))}
	if edit != nil {
		edit(b)
	}
	r := run("run1", map[string]int{"worker": 1})
	f = fence(r, 2, "worker-0")
	err = db.Commit(ctx, store.Batch{Put: []store.Row{
		store.Runs(db).Put(r, 0),
		store.RunStates(db).Put(mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Epoch: 2, State: mlaas.Starting}, 0),
		store.Replicas(db).Put(mlaas.Replica{Fence: f, Role: "worker", Status: mlaas.ReplicaPending}, 0),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	server := httptest.NewServer(b.Monitor().Handler())
	t.Cleanup(func() {
		cancel()
		<-ended
		server.Close()
		if err := errors.Join(lines.Close(), db.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	})
	return server.URL, b.Key, f
}

func TestBlobs(t *testing.T) {
	url, key, f := serve(t, func(b *booster.Booster) { b.MaxBlob = 1 << 20 })
	good := auth.SignJob(key, f, time.Now().Add(time.Hour))
	older := f
	older.Epoch = 1
	text := "some bytes"
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	none := "sha256:" + strings.Repeat("0", 64)
	tests := []struct {
		name, method, path, token, span, body string
		status                                int
		want                                  string
	}{
		{"no token", "GET", digest, "", "", "", 401, "the door takes a job token"},
		{"a forged token", "GET", digest, good[:len(good)-3], "", "", 401, "job token refused: it was not signed here, or it was changed"},
		{"an expired token", "GET", digest, auth.SignJob(key, f, time.Unix(1e9, 0)), "", "", 401, "job token refused: it expired at 2001-09-09T01:46:40Z"},
		{"an older attempt", "PUT", digest, auth.SignJob(key, older, time.Now().Add(time.Hour)), "", text, 412, "attempt 1 of run run1 is over: attempt 2 has begun"},
		{"not there yet", "GET", digest, good, "", "", 404, ""},
		{"other bytes", "PUT", digest, good, "", "other bytes", 422, ""},
		{"still not there", "HEAD", digest, good, "", "", 404, ""},
		{"stored", "PUT", digest, good, "", text, 201, ""},
		{"stored again", "PUT", digest, good, "", text, 201, ""},
		{"fetched", "GET", digest, good, "", "", 200, text},
		{"from an offset", "GET", digest, good, "bytes=5-", "", 206, "bytes"},
		{"past the end", "GET", digest, good, "bytes=99-", "", 416, digest + " has 10 bytes"},
		{"a range that we do not know", "GET", digest, good, "bytes=-3", "", 200, text},
		{"its size", "HEAD", digest, good, "", "", 200, ""},
		{"no digest", "GET", "..%2f..%2fetc%2fpasswd", good, "", "", 422, ""},
		{"nothing there", "GET", none, good, "", "", 404, ""},
		{"too large", "PUT", none, good, "", strings.Repeat("x", 1<<20+1), 413, "one file may have at most 1Mi"},
		{"another method", "DELETE", digest, good, "", "", 405, "Method Not Allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequest(tt.method, url+"/door/blob/"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.token != "" {
				r.Header.Set("Authorization", "Bearer "+tt.token)
			}
			if tt.span != "" {
				r.Header.Set("Range", tt.span)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(body)); answer.StatusCode != tt.status || tt.want != "" && got != tt.want {
				t.Errorf("answers %d %q, want %d %q", answer.StatusCode, got, tt.status, tt.want)
			}
			if tt.name == "its size" && answer.ContentLength != int64(len(text)) {
				t.Errorf("HEAD says %d bytes", answer.ContentLength)
			}
		})
	}
	t.Run("a stream without a length", func(t *testing.T) {
		r, err := http.NewRequest("PUT", url+"/door/blob/"+none, io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), strings.NewReader("y")))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+good)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != 413 {
			t.Errorf("answers %s", answer.Status)
		}
	})
}

// The token of a run that is over opens nothing but for the last words.
func TestTokenOfThePast(t *testing.T) {
	for ago, want := range map[time.Duration]int{0: http.StatusNotFound, time.Minute: http.StatusPreconditionFailed} {
		var db store.Driver
		url, key, f := serve(t, func(b *booster.Booster) { db = b.DB })
		state, stateRev, err := store.RunStates(db).Get(t.Context(), f.Tenant, string(f.Run))
		if err != nil {
			t.Fatal(err)
		}
		replica, rev, err := store.Replicas(db).Get(t.Context(), f.Tenant, store.ReplicaKey(f.Run, f.Replica))
		if err != nil {
			t.Fatal(err)
		}
		ended := time.Now().Add(-ago)
		state.State, replica.Status, replica.Ended = mlaas.Succeeded, mlaas.ReplicaSucceeded, &ended
		if err := db.Commit(t.Context(), store.Batch{Put: []store.Row{
			store.RunStates(db).Put(state, stateRev), store.Replicas(db).Put(replica, rev),
		}}); err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequest(http.MethodGet, url+"/door/blob/sha256:"+strings.Repeat("0", 64), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+auth.SignJob(key, f, time.Now().Add(time.Hour)))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || err != nil {
			t.Errorf("%s after the end: %d %s, %v; want %d", ago, resp.StatusCode, text, err, want)
		}
	}
}

func TestBlobNoRoom(t *testing.T) {
	url, key, f := serve(t, func(b *booster.Booster) { b.Blob = full{b.Blob} })
	r, err := http.NewRequest("PUT", url+"/door/blob/sha256:"+strings.Repeat("0", 64), strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+auth.SignJob(key, f, time.Now().Add(time.Hour)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 507 {
		t.Errorf("answers %s, want 507", answer.Status)
	}
}

func TestWebSocket(t *testing.T) {
	url, key, f := serve(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dial := func(f mlaas.Fence) (*websocket.Conn, error) {
		c, answer, err := websocket.Dial(ctx, url+"/door/line", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + auth.SignJob(key, f, time.Now().Add(time.Hour))}},
		})
		if err != nil && answer != nil {
			err = fmt.Errorf("%s: %w", answer.Status, err)
		}
		return c, err
	}
	say := func(c *websocket.Conn, m mlaas.Up) {
		t.Helper()
		data, err := json.Marshal(m)
		if err == nil {
			err = c.Write(ctx, websocket.MessageText, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hear := func(c *websocket.Conn) (d mlaas.Down) {
		t.Helper()
		_, data, err := c.Read(ctx)
		if err == nil {
			err = json.Unmarshal(data, &d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	hello := func(f mlaas.Fence) mlaas.Up {
		return mlaas.Up{Hello: &mlaas.Hello{Version: mlaas.DoorVersion, Fence: f, Address: "127.0.0.1", Ports: []int{1, 2}, Phase: mlaas.Phase{Status: mlaas.ReplicaReady}}}
	}

	c, err := dial(f)
	if err != nil {
		t.Fatal(err)
	}
	say(c, hello(f))
	if d := hear(c); d.Welcome == nil || d.Welcome.Log != 0 {
		t.Fatalf("no welcome: %+v", d)
	}
	say(c, mlaas.Up{Frame: &mlaas.Frame{Stream: mlaas.LogStream, First: 1, Lines: []mlaas.LogLine{{Text: "a"}, {Text: strings.Repeat("\x01", mlaas.MaxLine)}}}})
	if d := hear(c); d.Ack == nil || *d.Ack != (mlaas.Ack{Stream: mlaas.LogStream, Seq: 2}) {
		t.Errorf("not acknowledged: %+v", d)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}

	c, err = dial(f)
	if err != nil {
		t.Fatal(err)
	}
	say(c, hello(f))
	if d := hear(c); d.Welcome == nil || d.Welcome.Log != 2 {
		t.Fatalf("no welcome with log 2: %+v", d)
	}
	if err := c.Write(ctx, websocket.MessageText, make([]byte, 5<<20)); err == nil {
		if _, _, err = c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("a message of 5 MiB: %v", err)
		}
	}
	c.CloseNow()

	c, err = dial(f)
	if err != nil {
		t.Fatal(err)
	}
	other := f
	other.Replica = "worker-1"
	say(c, hello(other))
	_, _, err = c.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation || closed.Reason != "the token is for run1-2-worker-0-1, not for run1-2-worker-1-1" {
		t.Errorf("another's name: %v", err)
	}

	older := f
	older.Epoch = 1
	if _, err := dial(older); err == nil || !strings.HasPrefix(err.Error(), "412") {
		t.Errorf("an older attempt dials: %v", err)
	}
}
