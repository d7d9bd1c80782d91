package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// variables are what a layout says that a client needs.
func variables(env []string) map[string]string {
	v := map[string]string{}
	for _, kv := range env {
		k, val, _ := strings.Cut(kv, "=")
		v[k] = val
	}
	return v
}

// TestDrain ends the platform by SIGTERM while clients use it that keep their
// connections and send a request again only where it could not be sent at all:
// every request that was sent is answered as it should be, and the process
// ends by itself, well, in time. Then it is started again, and has all that it
// acknowledged.
func TestDrain(t *testing.T) {
	dir, l := t.TempDir(), &one{bin: binary(t)}
	t.Cleanup(l.down)
	env, err := l.up(dir, os.Environ(), nil)
	if err != nil {
		t.Fatal(err)
	}
	v := variables(env)
	request := func(ctx context.Context, method, path, body string) *http.Request {
		// A body that cannot be sent again, and no Idempotency-Key: the transport
		// never retries by itself.
		var in io.Reader
		if body != "" {
			in = io.NopCloser(strings.NewReader(body))
		}
		req, err := http.NewRequestWithContext(ctx, method, v["MLAAS_URL"]+path, in)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+v["MLAAS_TOKEN"])
		req.Header.Set("Content-Type", "application/json")
		return req
	}

	var mu sync.Mutex
	made := map[string]string{} // acknowledged: name by id
	var answered, late, failed, refused atomic.Int64
	var ending atomic.Bool
	enough := make(chan struct{})
	var all sync.WaitGroup
	for client := range 24 {
		all.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for n := 0; ; n++ {
				sent := false
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
				name := fmt.Sprintf("d-%d-%d", client, n)
				req := request(ctx, "POST", "/api/job", `{"name": "`+name+`"}`)
				if n%3 == 2 {
					req = request(ctx, "GET", "/api/job?limit=5", "")
				}
				res, err := transport.RoundTrip(req)
				if err != nil {
					if !sent && errors.Is(err, syscall.ECONNREFUSED) && ending.Load() {
						refused.Add(1)
						return // it has gone: another instance would be asked
					}
					failed.Add(1)
					t.Errorf("%s: %v (sent: %v)", name, err, sent)
					return
				}
				data, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode >= 300 {
					failed.Add(1)
					t.Errorf("%s: %s %s, %v", name, res.Status, data, err)
					return
				}
				if req.Method == "POST" {
					var job struct{ ID string }
					if err := json.Unmarshal(data, &job); err != nil {
						t.Error(err)
					}
					mu.Lock()
					made[job.ID] = name
					mu.Unlock()
				}
				if ending.Load() {
					late.Add(1)
				}
				if answered.Add(1) == 500 {
					close(enough)
				}
			}
		})
	}
	// One who follows everything is told to go, and not cut off.
	follows := request(t.Context(), "GET", "/api/stream?topic=job", "")
	stream, err := http.DefaultClient.Do(follows)
	if err != nil {
		t.Fatal(err)
	}
	followed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stream.Body)
		stream.Body.Close()
		followed <- err
	}()

	select {
	case <-enough:
	case <-time.After(patience):
		t.Fatal("500 requests take for ever")
	}
	ending.Store(true)
	began := time.Now()
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil {
		t.Errorf("it ends with %v: %s", err, l.said.String())
	}
	took := time.Since(began)
	all.Wait()
	if err := <-followed; err != nil {
		t.Errorf("who followed was cut off: %v", err)
	}
	t.Logf("%d requests answered, %d of them while it drained, %d failed, %d clients refused; it took %v",
		answered.Load(), late.Load(), failed.Load(), refused.Load(), took.Round(time.Millisecond))
	if took > 20*time.Second || late.Load() == 0 || refused.Load() != 24 {
		t.Errorf("it took %v; %d were served meanwhile, %d of 24 clients refused in the end", took, late.Load(), refused.Load())
	}

	if env, err = l.up(dir, os.Environ(), nil); err != nil {
		t.Fatal(err)
	}
	v = variables(env)
	for id, name := range made {
		res, err := http.DefaultClient.Do(request(t.Context(), "GET", "/api/job/"+id, ""))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !bytes.Contains(data, []byte(`"`+name+`"`)) {
			t.Errorf("job %s (%s) was acknowledged, and now: %s, %v", name, id, res.Status, err)
		}
	}
}
