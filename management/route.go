package management

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/trace"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// A route is one line of the table: what is called, who may, and what answers.
type route struct {
	Call   string // "GET /api/job/{id}"
	ID     string // its name in the OpenAPI document
	Doc    string // what it does, in one sentence
	Policy auth.Policy
	handler
}

// A handler is what answers, and what is to be said of it in the OpenAPI
// document.
type handler struct {
	serve   func(http.ResponseWriter, *http.Request) error
	in      *input
	out     reflect.Type // of the JSON answer; nil: there is none
	status  int          // of a success
	other   int          // another one, where there is one
	media   string       // of an answer that is no JSON
	files   []string     // the other types that an answer may be asked in
	creates bool         // commits; a POST takes an Idempotency-Key

	asks       reflect.Type // of the JSON body, where the handler reads it itself
	takesBytes bool
}

// An Answer is what a handler has to say. Zero fields are left away.
type Answer[T any] struct {
	Status   int   // else the one of the route
	Revision int64 // becomes the ETag
	Location string
	Next     string // the token of the next page, becomes a Link
	Body     T
}

// A None answers nothing.
type None struct{}

// reads makes a handler of h, which changes nothing.
func reads[In, Out any](status int, h func(context.Context, *In) (*Answer[Out], error)) handler {
	in := inputOf[In]()
	return handler{in: in, out: bodyOf[Out](), status: status, serve: func(w http.ResponseWriter, r *http.Request) error {
		v := new(In)
		if _, err := in.bind(w, r, reflect.ValueOf(v).Elem()); err != nil {
			return err
		}
		a, err := h(r.Context(), v)
		if err == nil {
			err = confirm(r.Context())
		}
		if err != nil {
			return err
		}
		return send(w, r, status, a)
	}}
}

// writes makes a handler of h, whose batch is committed before it answers. If
// another commit came between, h is called again: it reads the records anew
// each time and keeps nothing; those that ask for the same take turns then. A
// POST takes an Idempotency-Key: what it answered is committed with its effect,
// and answered again to the same key.
func writes[In, Out any](m *Management, status int, h func(context.Context, *In) (*Answer[Out], store.Batch, error)) handler {
	in := inputOf[In]()
	return handler{in: in, out: bodyOf[Out](), status: status, creates: true, serve: func(w http.ResponseWriter, r *http.Request) error {
		ctx, v := r.Context(), new(In)
		sum, err := in.bind(w, r, reflect.ValueOf(v).Elem())
		if err != nil {
			return err
		}
		once, err := m.onceOf(r, sum)
		if err != nil {
			return err
		}
		if in.upload == nil { // the whole request is known
			if done, err := once.again(ctx, w); done || err != nil {
				return err
			}
		}
		turn := &turn{of: &m.turns, key: turnKey{tenantOf(ctx), r.URL.Path}}
		defer turn.giveBack()
		for try := 0; ; try++ {
			if in.upload == nil { // else it takes as long as its client does
				turn.take(ctx, try > 0)
			}
			a, batch, err := h(ctx, v)
			switch {
			case err == nil || errors.Is(err, mlaas.ErrConflict) || errors.Is(err, mlaas.ErrNotFound):
				// What is in the way may be what this very request did before.
				if done, err := once.again(ctx, w); done || err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			batch, err = once.with(batch, answered(r, status, a))
			if err != nil {
				return err
			}
			if batch.Empty() {
				err = confirm(ctx)
			} else {
				err = m.DB.Commit(ctx, queue.Traced(batch, trace.Of(ctx)))
			}
			switch {
			case err == nil:
				turn.giveBack()
				return send(w, r, status, a)
			case !errors.Is(err, mlaas.ErrConflict) || try == 1000 || ctx.Err() != nil:
				return err
			}
			m.Counts.Conflicts.Inc()
		}
	}}
}

// raw makes a handler of h, which writes its answer itself. An error that it
// returns before it has written anything is answered as a problem.
func raw[In any](status int, media string, h func(http.ResponseWriter, *http.Request, *In) error) handler {
	in := inputOf[In]()
	return handler{in: in, status: status, media: media, serve: func(w http.ResponseWriter, r *http.Request) error {
		v := new(In)
		if _, err := in.bind(w, r, reflect.ValueOf(v).Elem()); err != nil {
			return err
		}
		return h(w, r, v)
	}}
}

type storeKey struct{}

// confirm has the store confirm what a request has read of it: nobody is told
// what may still be lost.
func confirm(ctx context.Context) error {
	if db, ok := ctx.Value(storeKey{}).(store.Driver); ok {
		return store.Confirm(ctx, db)
	}
	return nil // of a route that anybody may call: it reads nothing
}

// or adds a second status of success to what is said of h.
func (h handler) or(status int) handler {
	h.other = status
	return h
}

// as adds types that an answer may be asked in to what is said of h.
func (h handler) as(media ...string) handler {
	h.files = media
	return h
}

func bodyOf[T any]() reflect.Type {
	if t := reflect.TypeFor[T](); t != reflect.TypeFor[None]() {
		return t
	}
	return nil
}

func send[T any](w http.ResponseWriter, r *http.Request, status int, a *Answer[T]) error {
	return answered(r, status, a).write(w)
}

// An answer is an Answer as it goes over the wire.
type answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header,omitempty"`
	Body   json.RawMessage   `json:"body,omitempty"`
}

func answered[T any](r *http.Request, status int, a *Answer[T]) answer {
	out := answer{Status: status, Header: map[string]string{}}
	if a.Status != 0 {
		out.Status = a.Status
	}
	if a.Revision != 0 {
		out.Header["ETag"] = etag(a.Revision)
	}
	if a.Location != "" {
		out.Header["Location"] = a.Location
	}
	if a.Next != "" {
		q := r.URL.Query()
		q.Set("page_token", a.Next)
		out.Header["Link"] = "<" + r.URL.EscapedPath() + "?" + q.Encode() + `>; rel="next"`
	}
	if bodyOf[T]() == nil {
		return out
	}
	body, err := json.Marshal(a.Body)
	if err != nil {
		panic(err) // our own types always encode
	}
	out.Body = body
	return out
}

func (a answer) write(w http.ResponseWriter) error {
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	if a.Body == nil {
		w.WriteHeader(a.Status)
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)+1))
	w.WriteHeader(a.Status)
	w.Write(append(a.Body, '\n')) //nolint:errcheck // who asked has gone; there is nobody to tell
	return nil
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// match reports whether a thing at this revision is the one that If-Match
// speaks of; mlaas.ErrStale if it is not.
func match(header, what string, revision int64) error {
	if strings.TrimSpace(header) == "" {
		return nil
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || strings.Trim(tag, `"`) == strconv.FormatInt(revision, 10) {
			return nil
		}
	}
	return fmt.Errorf("%s is at revision %d, not at %s: %w", what, revision, header, mlaas.ErrStale)
}

// An input says where the fields of a struct come from in a request: by their
// tags path, query and header; a field Body is the JSON body, a field Upload
// is one that is read later.
type input struct {
	t      reflect.Type
	fields []inputField
	body   *reflect.StructField
	upload *reflect.StructField
}

type inputField struct {
	reflect.StructField
	from, name string
}

func inputOf[T any]() *input {
	in := &input{t: reflect.TypeFor[T]()}
	for _, f := range reflect.VisibleFields(in.t) {
		switch {
		case f.Anonymous:
		case f.Name == "Body":
			in.body = &f
		case f.Type == reflect.TypeFor[*upload]():
			in.upload = &f
		default:
			for _, from := range []string{"path", "query", "header"} {
				if name, ok := f.Tag.Lookup(from); ok {
					in.fields = append(in.fields, inputField{f, from, name})
				}
			}
		}
	}
	return in
}

// bind fills v in from r, and returns the digest of the body.
func (in *input) bind(w http.ResponseWriter, r *http.Request, v reflect.Value) (hash.Hash, error) {
	query := r.URL.Query()
	for _, f := range in.fields {
		var text string
		var there bool
		switch f.from {
		case "path":
			text, there = r.PathValue(f.name), true
		case "query":
			text, there = query.Get(f.name), query.Has(f.name)
		case "header":
			text = r.Header.Get(f.name)
			there = text != ""
		}
		if !there {
			continue
		}
		if err := f.set(v.FieldByIndex(f.Index), text, query[f.name]); err != nil {
			return nil, err
		}
	}
	sum := sha256.New()
	switch {
	case in.upload != nil:
		v.FieldByIndex(in.upload.Index).Set(reflect.ValueOf(&upload{Request: r, Writer: w, sum: sum}))
	case in.body != nil:
		data, err := readBody(w, r, limitOf(r.Context()).Body)
		if err != nil {
			return nil, err
		}
		sum.Write(data)
		if len(bytes.TrimSpace(data)) == 0 && in.body.Tag.Get("body") == "optional" {
			break
		}
		if err := asJSON(r); err != nil {
			return nil, err
		}
		if err := mlaas.Decode(data, v.FieldByIndex(in.body.Index).Addr().Interface()); err != nil {
			return nil, err
		}
	}
	return sum, nil
}

func (f inputField) set(v reflect.Value, text string, all []string) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Slice:
		v.Set(reflect.ValueOf(all))
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "", "1", "true", "yes", "on": // ?force is ?force=true
			v.SetBool(true)
		case "0", "false", "no", "off":
		default:
			return mlaas.Invalid(f.name, "true or false", text)
		}
	case reflect.Int, reflect.Int64:
		if text == "" {
			return nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		least, bounded := f.Tag.Lookup("minimum")
		if err != nil || bounded && n < atoi(least) {
			want := "a whole number"
			if bounded {
				want += " of at least " + least
			}
			return mlaas.Invalid(f.name, want, text)
		}
		v.SetInt(n)
	default:
		panic("management: no input of kind " + v.Kind().String())
	}
	return nil
}

func atoi(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err) // a tag of ours
	}
	return n
}

// asJSON refuses a body that says it is something else. A body that says
// nothing, or what curl says by itself, is taken for JSON.
func asJSON(r *http.Request) error {
	text := r.Header.Get("Content-Type")
	if text == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(text)
	switch {
	case err != nil:
	case kind == "application/json", strings.HasSuffix(kind, "+json"), kind == "application/x-www-form-urlencoded", kind == "text/json":
		return nil
	}
	return fmt.Errorf("the body is of type %s, want application/json: %w", text, mlaas.ErrSyntax)
}

// readWithin is how long a body may keep silent.
const readWithin = 30 * time.Second

// A body is the body of a request: within a limit, and dropped where it keeps
// silent.
type body struct {
	io.Reader
	control *http.ResponseController
}

func bodyOfRequest(w http.ResponseWriter, r *http.Request, limit mlaas.Bytes) io.Reader {
	return &body{http.MaxBytesReader(w, r.Body, int64(limit)), http.NewResponseController(w)}
}

func (b *body) Read(p []byte) (int, error) {
	// Where it cannot be set, in a test, there is no network to be slow.
	_ = b.control.SetReadDeadline(time.Now().Add(readWithin))
	n, err := b.Reader.Read(p)
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{}) // or the connection would die while it is followed
	}
	return n, err
}

func readBody(w http.ResponseWriter, r *http.Request, limit mlaas.Bytes) ([]byte, error) {
	data, err := io.ReadAll(bodyOfRequest(w, r, limit))
	return data, brokenBody(err)
}

// brokenBody says what a failed read of a body is.
func brokenBody(err error) error {
	if err == nil {
		return nil
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("the body is over the limit of %s: %w", mlaas.Bytes(big.Limit), mlaas.ErrTooLarge)
	}
	return fmt.Errorf("the body broke off: %v: %w", err, mlaas.ErrSyntax)
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
