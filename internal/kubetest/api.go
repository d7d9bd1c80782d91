//go:build linux

package kubetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ErrStatus is what the API server answers instead of what was asked for.
type ErrStatus struct {
	Code    int // of HTTP
	Message string
}

func (e *ErrStatus) Error() string {
	return fmt.Sprintf("the API server says %d: %s", e.Code, e.Message)
}

// Call asks the API server as an administrator, past any partition. in is sent
// as JSON unless it is nil; the answer is decoded into out unless that is nil.
// An answer other than 2xx is an [ErrStatus].
func (c *Cluster) Call(ctx context.Context, method, path string, in, out any) error {
	response, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || out == nil {
		return err
	}
	if raw, ok := out.(*[]byte); ok { // such as a log
		*raw = text
		return nil
	}
	return json.Unmarshal(text, out)
}

func (c *Cluster) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+apiAddress+path, &body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := c.client.Do(request)
	if err != nil {
		if died := context.Cause(c.ctx); died != nil {
			return nil, died
		}
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		if err != nil {
			return nil, err
		}
		var status struct{ Message string }
		if json.Unmarshal(text, &status) != nil || status.Message == "" {
			status.Message = strings.TrimSpace(string(text))
		}
		return nil, &ErrStatus{response.StatusCode, status.Message}
	}
	return response, nil
}

// Until watches a collection, such as "/api/v1/namespaces/default/pods?fieldSelector=metadata.name=a",
// from what is there now on, and hands each object to done until that says so,
// or until ctx or the cluster ends. An object that was deleted comes as well.
func Until[Object any](ctx context.Context, c *Cluster, path string, done func(Object) (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	for {
		over, err := watchOnce(ctx, c, path+mark+"watch=1", done)
		if died := context.Cause(c.ctx); died != nil {
			return died
		}
		if over || err != nil {
			return err
		}
	}
}

// watchOnce is one watch: the API server closes each after a while.
func watchOnce[Object any](ctx context.Context, c *Cluster, path string, done func(Object) (bool, error)) (bool, error) {
	response, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	events := json.NewDecoder(response.Body)
	for {
		var event struct {
			Type   string
			Object json.RawMessage
		}
		if err := events.Decode(&event); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if event.Type == "ERROR" {
			return false, fmt.Errorf("watch %s: %s", path, event.Object)
		}
		var object Object
		if err := json.Unmarshal(event.Object, &object); err != nil {
			return false, err
		}
		if over, err := done(object); over || err != nil {
			return over, err
		}
	}
}

// retry calls f until it succeeds or ctx ends: for what tells nobody that it is
// ready.
func retry(ctx context.Context, f func() error) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", ctx.Err(), err)
		case <-again.C:
		}
	}
}
