package queue

import (
	"bytes"
	"encoding/json"

	"mlaas.dev/mlaas/store"
)

// The trace that a message belongs to stands first in its body, beside the
// fields of its type, which ignore it: so every store carries it, and every
// version can read it.
const traceField = `{"traceparent":"`

// Traced is b with messages that say which span they come from; those that say
// it already keep it.
func Traced(b store.Batch, traceparent string) store.Batch {
	if traceparent == "" || len(b.Tell) == 0 {
		return b
	}
	tell := make([]store.Message, len(b.Tell))
	for i, m := range b.Tell {
		if rest, ok := bytes.CutPrefix(m.Body, []byte("{")); ok && !bytes.HasPrefix(m.Body, []byte(traceField)) {
			comma := ","
			if bytes.HasPrefix(rest, []byte("}")) {
				comma = ""
			}
			m.Body = append([]byte(traceField+traceparent+`"`+comma), rest...)
		}
		tell[i] = m
	}
	b.Tell = tell
	return b
}

// traceOf is the span that a message comes from.
func traceOf(body json.RawMessage) string {
	rest, ok := bytes.CutPrefix(body, []byte(traceField))
	if !ok {
		return ""
	}
	traceparent, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(traceparent)
}
