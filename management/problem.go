package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"mlaas.dev/mlaas"
)

// A Problem is every answer of 400 and more: problem details (RFC 9457), with
// error_code and message besides for clients that look for those.
type Problem struct {
	Type      string `json:"type" doc:"Where it is said what this kind of problem is" example:"/api/problem/invalid"`
	Title     string `json:"title" doc:"The kind of problem, in words" example:"A field is wrong"`
	Status    int    `json:"status" doc:"The HTTP status" example:"422"`
	Detail    string `json:"detail" doc:"What is wrong here, and what would be right" example:"roles.worker.cpu is \"lots\", want cores such as 0.3 or thousandths such as \"300m\", more than 0"`
	Code      string `json:"error_code" doc:"The kind of problem, for programs" example:"invalid"`
	Message   string `json:"message" doc:"The same as detail"`
	Field     string `json:"field,omitempty" doc:"The path of the field that is wrong" example:"roles.worker.cpu"`
	RequestID string `json:"request_id" doc:"Names this request in the platform's log"`
}

// kinds says what each kind of failure is, in the words of who meets it.
var kinds = map[*mlaas.Kind]struct{ title, mend string }{
	mlaas.ErrSyntax:       {"The request cannot be read", "Mend the syntax at the place that detail names."},
	mlaas.ErrUnauthorized: {"Who is asking?", "Send Authorization: Bearer TOKEN. `mlaas up` writes the token to DIR/token."},
	mlaas.ErrForbidden:    {"This is not allowed to you", "Ask one who runs the platform, or come from its own pages."},
	mlaas.ErrNotFound:     {"There is no such thing", "Look at the name: the list beside it says what there is."},
	mlaas.ErrConflict:     {"This goes against what is there", "Detail names what is in the way."},
	mlaas.ErrGone:         {"This is no longer kept", "Nothing brings it back."},
	mlaas.ErrStale:        {"It was changed since you read it", "Read it again, and send its newest ETag as If-Match."},
	mlaas.ErrTooLarge:     {"This is over a limit", "Detail names the limit."},
	mlaas.ErrInvalid:      {"A field is wrong", "Field names it; detail says what would be right."},
	mlaas.ErrTooMany:      {"Too many requests", "Wait as long as Retry-After says."},
	mlaas.ErrInternal:     {"Something is wrong in the platform", "Look for the request_id in the log of `mlaas up`."},
	mlaas.ErrUnavailable:  {"The platform cannot do this now", "Try again after Retry-After seconds."},
	mlaas.ErrDisk:         {"There is no room left to keep this", "Make room: `mlaas gc`, or a larger disk. What is there already stays."},
}

// problemOf says what err is to the caller. What only concerns the platform
// stays in its log.
func problemOf(err error) Problem {
	kind := mlaas.KindOf(err)
	if errors.Is(err, context.DeadlineExceeded) {
		kind = mlaas.ErrUnavailable
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		kind = mlaas.ErrTooLarge
	}
	p := Problem{Type: "/api/problem/" + kind.Code, Title: kinds[kind].title, Status: kind.Status, Code: kind.Code}
	p.Detail = strings.TrimSuffix(err.Error(), ": "+kind.Code)
	if kind == mlaas.ErrInternal {
		p.Detail = "the platform failed at this; its log says more under the request_id"
	}
	if f, ok := errors.AsType[*mlaas.FieldError](err); ok {
		p.Field = f.Field
	}
	p.Message = p.Detail
	return p
}

// writeProblem answers r with err.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	p.RequestID = requestID(r.Context())
	p.write(w)
}

func (p Problem) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="mlaas"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInsufficientStorage:
		h.Set("Retry-After", "5")
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // our own type always encodes
	}
	h.Del("Content-Length")
	h.Del("ETag")
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n')) //nolint:errcheck // who asked has gone; there is nobody to tell
}

type requestKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

type problemIn struct {
	Code string `path:"code" doc:"The error_code of a problem" example:"not_found"`
}

// A ProblemKind says what a kind of problem is.
type ProblemKind struct {
	Code   string `json:"code"`
	Status int    `json:"status"`
	Title  string `json:"title"`
	Mend   string `json:"mend" doc:"What to do about it"`
}

func problemKind(code string) (ProblemKind, error) {
	for _, k := range mlaas.Kinds {
		if k.Code == code {
			return ProblemKind{k.Code, k.Status, kinds[k].title, kinds[k].mend}, nil
		}
	}
	return ProblemKind{}, fmt.Errorf("problem %q: %w", code, mlaas.ErrNotFound)
}
