// Package trace says where a piece of work begins and ends, and which piece it
// is part of, across processes. It is a seam: services name their work, and
// package observe hands them a [Tracer] that exports it, or none, and then
// nothing is paid.
//
// Where a span comes from is told as a W3C traceparent: in the header of a
// request, beside the fields of a message, and in the record of a run.
package trace

import (
	"context"
	"time"
)

// A Tracer keeps spans. Methods are safe for concurrent use.
type Tracer interface {
	// Start begins a span: a part of the span of ctx, or else of from, which is
	// a traceparent; where both are empty, a trace of its own. What is returned
	// knows the span; end ends it, and says what failed.
	Start(ctx context.Context, name, from, key, value string) (within context.Context, end func(error))

	// Past keeps a span that is over.
	Past(from, name string, began, ended time.Time, key, value string)
}

// Start is t.Start, or nothing where there is no t. key and value are one thing
// to be known of it, such as the id of a run.
func Start(ctx context.Context, t Tracer, name, from, key, value string) (context.Context, func(error)) {
	if t == nil {
		return ctx, nothing
	}
	return t.Start(ctx, name, from, key, value)
}

func nothing(error) {}

type parent struct{}

// With returns a context whose work is part of a span, by its traceparent.
func With(ctx context.Context, traceparent string) context.Context {
	return context.WithValue(ctx, parent{}, traceparent)
}

// Of is the traceparent of the span that ctx is part of; empty: of none.
func Of(ctx context.Context) string {
	p, _ := ctx.Value(parent{}).(string)
	return p
}
