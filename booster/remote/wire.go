// Package remote runs replicas in a place that nobody can reach, and that calls
// instead: a [Executor] outside, where it is called at its gateway, and an
// [Agent] inside, which has the real executor and passes on what replicas say at
// its door. docs/design/0008-gateway.md says what crosses.
//
// wire.go is what both sides say, remote.go is outside, agent.go inside.
package remote

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// Version is what the two sides say to each other. Each takes this one and the
// one before.
const Version = 1

const (
	versionHeader = "Mlaas-Gateway"
	agentHeader   = "Mlaas-Agent"   // tells those who call apart
	tenureHeader  = "Mlaas-Tenure"  // the epoch of the lease by which it is asked
	askHeader     = "Mlaas-Ask"     // of exec: what is asked, as the body is its input
	exitHeader    = "Mlaas-Exit"    // of exec, a trailer
	codeHeader    = "Mlaas-Code"    // of what failed after it began, trailers
	messageHeader = "Mlaas-Message" // in base64

	// pingAfter and pingWithin are how soon a connection that says nothing is
	// found to be dead.
	pingAfter  = 5 * time.Second
	pingWithin = 5 * time.Second
)

// speaks reports whether the other side speaks a version that we do.
func speaks(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n != Version && n != Version-1 {
		return fmt.Errorf("the other side speaks version %q of the gateway, and this one %d and the one before: use the same mlaas on both: %w", text, Version, mlaas.ErrInvalid)
	}
	return nil
}

// protocols are HTTP/2 alone: what is below it is encrypted already, or need not
// be.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func pings() *http.HTTP2Config {
	return &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWithin, MaxConcurrentStreams: 10_000}
}

// A problem is an error on the wire.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func problemOf(err error) problem {
	k := mlaas.KindOf(err)
	return problem{k.Code, strings.TrimSuffix(err.Error(), ": "+k.Code)}
}

// err is the error again, of the same kind.
func (p problem) err() error {
	for _, k := range mlaas.Kinds {
		if k.Code == p.Code {
			return fmt.Errorf("%s: %w", p.Message, k)
		}
	}
	return fmt.Errorf("%s: %w", p.Message, mlaas.ErrInternal)
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(mlaas.KindOf(err).Status)
	json.NewEncoder(w).Encode(problemOf(err)) //nolint:errcheck // who asked has gone
}

// failed is the error of an answer; nil: it is none.
func failed(r *http.Response) error {
	if r.StatusCode < 400 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	var p problem
	if err := json.Unmarshal(text, &p); err != nil || p.Code == "" {
		return fmt.Errorf("the booster inside answers %s: %w", r.Status, mlaas.ErrUnavailable)
	}
	return p.err()
}

// A told is one line of a watch: exactly one field is set.
type told struct {
	News *booster.News `json:"news,omitempty"`
	End  *problem      `json:"end,omitempty"` // why there is no more
}

// An asking is what exec is asked.
type asking struct {
	Fence   mlaas.Fence `json:"fence"`
	Command []string    `json:"command"`
}

// A reading is which log is wanted. A side that does not know of follow tells
// what there is.
type reading struct {
	mlaas.Fence
	Follow bool `json:"follow,omitempty"`
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	return base64.StdEncoding.EncodeToString(text)
}

func decode(text string, v any) error {
	data, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("what is asked cannot be read: %v: %w", err, mlaas.ErrSyntax)
	}
	return nil
}

// A single is a listener that has one connection, and ends with it.
type single struct {
	conn net.Conn
	took chan struct{} // holds one until the connection was taken
	gone chan struct{} // closed when it ended
}

func newSingle(c net.Conn, gone chan struct{}) *single {
	s := &single{c, make(chan struct{}, 1), gone}
	s.took <- struct{}{}
	return s
}

func (s *single) Accept() (net.Conn, error) {
	select {
	case <-s.took:
		return s.conn, nil
	case <-s.gone:
		return nil, errors.New("the connection has ended")
	}
}

func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return s.conn.LocalAddr() }

// A watched is a connection that says when it is closed.
type watched struct {
	net.Conn
	gone chan struct{}
	once func()
}

func (w watched) Close() error {
	w.once()
	return w.Conn.Close()
}
