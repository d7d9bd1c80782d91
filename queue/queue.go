// Package queue carries typed messages between the services over a store: what
// one service commits, another hears at least once.
//
// [Tell] puts a message into a batch; [Inbox] hears them. A handler turns a
// message into the batch that its handling is: the records that change and the
// messages that this causes. The inbox commits that batch together with the
// acknowledgement, so a message is handled exactly when its effect is on disk.
package queue

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"time"

	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/store"
)

// A Message is any struct that knows who hears it and what it must be in order
// with; package mlaas has them.
type Message interface {
	To() string
	Key() string
}

// Tell is the message m, to be committed.
func Tell[M Message](m M) store.Message {
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // our own types always encode
	}
	return store.Message{To: m.To(), Subject: subject[M](), Key: m.Key(), Body: body}
}

// TellAfter is the message m, to be heard a while after it is committed.
func TellAfter[M Message](wait time.Duration, m M) store.Message {
	msg := Tell(m)
	msg.After = wait
	return msg
}

func subject[M any]() string { return reflect.TypeFor[M]().Name() }

// An Inbox hears the messages to one service. Fill in the fields, say what
// handles each type with [On], then call Run.
type Inbox struct {
	DB       store.Driver
	Name     string // mlaas.ToContractor, ...
	Log      *slog.Logger
	Lease    time.Duration // how long a handler may take; 0: 60 s
	Parallel int           // messages of different keys at once; 0: 16

	Counts *Counts      // what it did; nil: nobody asks
	Trace  trace.Tracer // nil: nobody watches

	handlers map[string]func(context.Context, json.RawMessage) (store.Batch, error)
}

// Counts are what inboxes did.
type Counts struct {
	Handled     meter.Counter
	Redelivered meter.Counter // came again: they failed before, or whoever had them went
	Failed      meter.Counter // were given back
	Parked      meter.Counter // were given up
	Conflicts   meter.Counter // another commit was faster, and the handler was called again
	Took        meter.Histogram
}

// On says what handles messages of type M. A handler may be called for the
// same message more than once, also at the same time by another process; it
// reads the records anew each time and keeps nothing. If its batch conflicts
// with another commit it is called again at once. An error gives the message
// back for a while that doubles each time; after store.MaxDeliveries it is
// parked. A panic is an error.
func On[M Message](in *Inbox, handle func(context.Context, M) (store.Batch, error)) {
	if in.handlers == nil {
		in.handlers = map[string]func(context.Context, json.RawMessage) (store.Batch, error){}
	}
	in.handlers[subject[M]()] = func(ctx context.Context, body json.RawMessage) (store.Batch, error) {
		var m M
		if err := json.Unmarshal(body, &m); err != nil {
			return store.Batch{}, err
		}
		return handle(ctx, m)
	}
}
