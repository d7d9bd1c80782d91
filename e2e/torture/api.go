package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// An API is the public door, asked as a client without patience: each request
// once, and bounded.
type API struct {
	URL, Token string
	http       *http.Client
}

// requestPatience is how long one request may take. What is stopped or cut off
// for a while answers later than this, or never.
const requestPatience = 15 * time.Second

func newAPI(url, token string) *API {
	return &API{url, token, &http.Client{Timeout: requestPatience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// Refused is an answer with a status of 400 or more.
type Refused struct {
	Status int
	Text   string
}

func (r *Refused) Error() string { return r.Text }

// later reports whether an error says that the same may work later: no answer,
// or one that says so itself. All that a fault may bring about is of this kind.
func later(err error) bool {
	r, refused := errors.AsType[*Refused](err)
	if !refused {
		return true
	}
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		return true
	}
	return false
}

// An Ask is a request, and Got what it was answered.
type Ask struct {
	Method, Path string
	Key          string // Idempotency-Key
	Match        string // If-Match
	JSON         any    // the body, or
	Bytes        []byte
}

type Got struct {
	Status int
	ETag   string
	Body   []byte
}

func (a *API) do(ctx context.Context, ask Ask) (got Got, err error) {
	body, kind := ask.Bytes, "application/octet-stream"
	if ask.JSON != nil {
		kind = "application/json"
		if body, err = json.Marshal(ask.JSON); err != nil {
			return got, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, ask.Method, a.URL+ask.Path, bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	req.Header.Set("Authorization", "Bearer "+a.Token)
	if len(body) > 0 {
		req.Header.Set("Content-Type", kind)
	}
	if ask.Key != "" {
		req.Header.Set("Idempotency-Key", ask.Key)
	}
	if ask.Match != "" {
		req.Header.Set("If-Match", ask.Match)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	got.Status, got.ETag = res.StatusCode, res.Header.Get("ETag")
	if got.Body, err = io.ReadAll(res.Body); err != nil {
		return got, err
	}
	if got.Status >= 400 {
		return got, &Refused{got.Status, fmt.Sprintf("%s %s: %s: %s", ask.Method, ask.Path, res.Status, bytes.TrimSpace(got.Body))}
	}
	return got, nil
}

// get reads JSON into out.
func (a *API) get(ctx context.Context, path string, out any) error {
	got, err := a.do(ctx, Ask{Method: "GET", Path: path})
	if err != nil {
		return err
	}
	return json.Unmarshal(got.Body, out)
}

// insist asks until it is answered: the same request with the same key, as a
// client does that wants to know. It gives up when ctx ends.
func (a *API) insist(ctx context.Context, ask Ask) (Got, error) {
	for {
		got, err := a.do(ctx, ask)
		if err == nil || !later(err) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, fmt.Errorf("%s %s was not answered in time, the last time: %w", ask.Method, ask.Path, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// An asker asks as API does, with or without patience.
type asker interface {
	do(ctx context.Context, ask Ask) (Got, error)
}

// A page is one of a list.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next_page_token"`
}

// list reads a whole list.
func list[T any](ctx context.Context, a asker, path string) (all []T, err error) {
	token := ""
	for {
		var got page[T]
		answer, err := a.do(ctx, Ask{Method: "GET", Path: path + "?limit=500&page_token=" + token})
		if err == nil {
			err = json.Unmarshal(answer.Body, &got)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, got.Items...)
		if got.Next == "" {
			return all, nil
		}
		token = got.Next
	}
}

// lines calls f for each line of an NDJSON answer.
func lines(ctx context.Context, a asker, path string, f func(line []byte) error) error {
	got, err := a.do(ctx, Ask{Method: "GET", Path: path})
	if err != nil {
		return err
	}
	s := bufio.NewScanner(bytes.NewReader(got.Body))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if len(s.Bytes()) == 0 {
			continue
		}
		if err := f(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}
