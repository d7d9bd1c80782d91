package client

import (
	"context"
	"errors"
	"iter"
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
// final state. It waits for a server that is away, and for as long.
func (c *Client) Watch(ctx context.Context, run mlaas.RunID) iter.Seq2[Sight, error] {
	return func(yield func(Sight, error) bool) {
		var last Sight
		for pause := 100 * time.Millisecond; ; {
			seen, err := c.look(ctx, run)
			switch {
			case ctx.Err() != nil:
				yield(last, ctx.Err())
				return
			case errors.Is(err, mlaas.ErrUnavailable):
				pause = min(2*pause, 5*time.Second)
			case err != nil:
				yield(last, err)
				return
			default:
				pause = min(pause*3/2, time.Second)
				if changed := !reflect.DeepEqual(seen, last); changed {
					pause = 200 * time.Millisecond
					if last = seen; !yield(seen, nil) {
						return
					}
				}
				if seen.Run.Status.State.Final() {
					return
				}
			}
			if err := wait(ctx, pause); err != nil {
				yield(last, err)
				return
			}
		}
	}
}

func (c *Client) look(ctx context.Context, run mlaas.RunID) (s Sight, err error) {
	if s.Run, err = c.Run(ctx, run); err != nil {
		return s, err
	}
	s.Replicas, err = Collect(c.Replicas(ctx, string(s.Run.Job), run))
	return s, err
}
