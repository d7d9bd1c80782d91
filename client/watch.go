package client

import (
	"bufio"
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"mlaas.dev/mlaas"
)

// A Sight is how a run and its replicas stand at one moment.
type Sight struct {
	Run      Run
	Replicas []Replica
}

// Watch gives how a run stands, and again whenever that has changed, up to its
// final state. It waits for a server that is away, for as long as ctx lets it.
func (c *Client) Watch(ctx context.Context, run mlaas.RunID) iter.Seq2[Sight, error] {
	return func(yield func(Sight, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var last Sight
		var woken chan struct{}
		for failures := 0; ; {
			seen, err := c.look(ctx, run)
			pause := time.Second // should a word of the stream be lost
			switch {
			case ctx.Err() != nil:
				yield(last, ctx.Err())
				return
			case errors.Is(err, mlaas.ErrUnavailable):
				failures++
				pause = min(5*time.Second, 100*time.Millisecond<<min(failures, 10))
			case err != nil:
				yield(last, err)
				return
			default:
				failures = 0
				if !reflect.DeepEqual(seen, last) {
					if last = seen; !yield(seen, nil) {
						return
					}
				}
				if seen.Run.Status.State.Final() {
					return
				}
				if woken == nil {
					woken = make(chan struct{}, 1)
					go c.listen(ctx, url.Values{"topic": {"job"}, "job": {string(seen.Run.Job)}}, woken)
					go c.listen(ctx, url.Values{"topic": {"replica"}, "run": {string(run)}}, woken)
				}
			}
			t := time.NewTimer(pause)
			select {
			case <-ctx.Done():
			case <-woken:
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// listen wakes whenever the stream says that something has changed, until ctx
// ends.
func (c *Client) listen(ctx context.Context, topic url.Values, wake chan<- struct{}) {
	for ctx.Err() == nil {
		resp, err := c.Send(ctx, Request{Method: http.MethodGet, Path: "/api/stream", Query: topic, Accept: "application/x-ndjson"})
		if err == nil {
			for lines := bufio.NewReader(resp.Body); err == nil; {
				if _, err = lines.ReadSlice('\n'); err == nil || errors.Is(err, bufio.ErrBufferFull) {
					err = nil
					select {
					case wake <- struct{}{}:
					default: // it is awake
					}
				}
			}
			resp.Body.Close()
		}
		if wait(ctx, 2*time.Second) != nil {
			return
		}
	}
}

func (c *Client) look(ctx context.Context, run mlaas.RunID) (s Sight, err error) {
	if s.Run, err = c.Run(ctx, string(run)); err != nil {
		return s, err
	}
	s.Replicas, err = Collect(c.Replicas(ctx, string(s.Run.Job), run))
	return s, err
}
