package mlaas

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// A Kind is why something failed, seen from the caller's side. Kinds survive
// the wire: management writes them as problem+json, client reads them back,
// and the CLI turns them into exit codes. Wrap one with %w, say what failed
// and how to mend it, and test with errors.Is.
type Kind struct {
	Code   string // the word on the wire, "not_found"
	Status int    // the HTTP status
	Exit   int    // the exit code of the CLI
}

// The kinds of failure.
var (
	ErrSyntax       = &Kind{"syntax", 400, 2}            // cannot be read at all
	ErrUnauthorized = &Kind{"unauthorized", 401, 4}      // who are you?
	ErrForbidden    = &Kind{"forbidden", 403, 4}         // known, but not allowed
	ErrNotFound     = &Kind{"not_found", 404, 5}         // no such thing, or not yours
	ErrConflict     = &Kind{"conflict", 409, 6}          // against what is there now
	ErrGone         = &Kind{"gone", 410, 5}              // was there, is no longer kept
	ErrStale        = &Kind{"stale", 412, 6}             // If-Match named an old revision
	ErrTooLarge     = &Kind{"too_large", 413, 2}         // over a stated limit
	ErrInvalid      = &Kind{"invalid", 422, 2}           // a field is wrong
	ErrTooMany      = &Kind{"too_many_requests", 429, 6} // slow down
	ErrInternal     = &Kind{"internal", 500, 1}          // our fault
	ErrUnavailable  = &Kind{"unavailable", 503, 7}       // not now; try again
	ErrDisk         = &Kind{"disk_full", 507, 6}         // no room to keep it
)

// Kinds lists every kind, for tables and tests.
var Kinds = []*Kind{
	ErrSyntax, ErrUnauthorized, ErrForbidden, ErrNotFound, ErrConflict, ErrGone, ErrStale,
	ErrTooLarge, ErrInvalid, ErrTooMany, ErrInternal, ErrUnavailable, ErrDisk,
}

func (k *Kind) Error() string { return k.Code }

// KindOf returns the kind that err wraps, or ErrInternal.
func KindOf(err error) *Kind {
	if k, ok := errors.AsType[*Kind](err); ok {
		return k
	}
	return ErrInternal
}

// A FieldError is bad input: which field, what it is, and what would be right.
type FieldError struct {
	Field string // a path such as "roles.worker.cpu"
	Want  string
	Got   any
}

func (e *FieldError) Error() string {
	got := fmt.Sprintf("%#v", e.Got)
	if s, ok := e.Got.(string); ok && len(s) > maxGot {
		got = fmt.Sprintf("%q... of %d bytes", s[:maxGot], len(s))
	}
	switch v := reflect.ValueOf(e.Got); v.Kind() {
	case reflect.Slice, reflect.Map: // nobody outside writes Go
		if text, err := json.Marshal(e.Got); err == nil {
			got = string(text)
		}
		if len(got) > maxGot {
			got = got[:maxGot] + "..."
		}
		if v.Len() == 0 {
			got = "empty"
		}
	}
	return fmt.Sprintf("%s is %s, want %s", e.Field, got, e.Want)
}

// maxGot is how much of what is wrong is shown.
const maxGot = 200

// Unwrap makes every FieldError an ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// Invalid reports bad input: which field, what it is, and what would be right.
func Invalid(field, want string, got any) error {
	return &FieldError{Field: field, Want: want, Got: got}
}

// In puts the path of an outer object before the field that err names.
func In(path string, err error) error {
	if f, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{Field: path + "." + f.Field, Want: f.Want, Got: f.Got}
	}
	return err
}
