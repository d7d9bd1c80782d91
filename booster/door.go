package booster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/blob"
)

// maxMessage is the largest message on a line: a frame of 256 KiB of text,
// each byte of which may take six in JSON, and room.
const maxMessage = 4 << 20

// Handler serves the door over HTTP: GET /door/line is the conversation, a
// WebSocket; GET /door/stream/{id} is a stream that the supervisor was told to
// open, another one; GET, HEAD and PUT /door/blob/{digest} are bytes by digest.
// All of it takes a job token, and that only while its attempt is the newest.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /door/line", m.serveLine)
	mux.HandleFunc("GET /door/stream/{id}", m.serveStream)
	mux.HandleFunc("GET /door/blob/{digest}", m.getBlob) // and HEAD
	mux.HandleFunc("PUT /door/blob/{digest}", m.putBlob)
	return mux
}

// who is the supervisor that asks, if it may.
func (m *Monitor) who(r *http.Request) (mlaas.Fence, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return mlaas.Fence{}, fmt.Errorf("the door takes a job token: %w", mlaas.ErrUnauthorized)
	}
	select {
	case <-m.b.begun:
	case <-r.Context().Done():
		return mlaas.Fence{}, r.Context().Err()
	}
	f, err := auth.VerifyJob(m.b.Key, token, m.b.Now())
	if err != nil {
		return f, err
	}
	_, err = m.admit(r.Context(), f)
	return f, err
}

// refuse answers with a sentence and the status of its kind.
func (m *Monitor) refuse(w http.ResponseWriter, r *http.Request, err error) {
	k := mlaas.KindOf(err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		k = mlaas.ErrDisk
	}
	if k == mlaas.ErrInternal && r.Context().Err() == nil {
		m.b.Log.Error("the door failed", "path", r.URL.Path, "error", err)
	}
	http.Error(w, sentence(err), k.Status)
}

func (m *Monitor) serveLine(w http.ResponseWriter, r *http.Request) {
	f, err := m.who(r)
	if err != nil {
		m.refuse(w, r, err)
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has answered
	}
	c.SetReadLimit(maxMessage)
	if err := m.Serve(r.Context(), f, &webLine{c}); err != nil {
		m.b.Log.Info("a line ended", "run", f.Run, "replica", f.Replica, "epoch", f.Epoch, "error", err)
	}
}

// A webLine is a line over a WebSocket.
type webLine struct{ c *websocket.Conn }

// Send sends one JSON text.
func (l *webLine) Send(ctx context.Context, d mlaas.Down) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return l.c.Write(ctx, websocket.MessageText, data)
}

// Receive waits for one JSON text.
func (l *webLine) Receive(ctx context.Context) (up mlaas.Up, err error) {
	_, data, err := l.c.Read(ctx)
	switch {
	case websocket.CloseStatus(err) == websocket.StatusNormalClosure || websocket.CloseStatus(err) == websocket.StatusGoingAway:
		return up, io.EOF
	case err != nil:
		return up, err
	}
	if err := json.Unmarshal(data, &up); err != nil {
		return up, fmt.Errorf("a message cannot be read: %w: %w", err, mlaas.ErrSyntax)
	}
	return up, nil
}

// Refuse ends the line with a reason that fits a close frame.
func (l *webLine) Refuse(why error) {
	status := websocket.StatusPolicyViolation
	if mlaas.KindOf(why) == mlaas.ErrUnavailable {
		status = websocket.StatusTryAgainLater
	}
	text := sentence(why)
	if len(text) > 120 {
		text = strings.ToValidUTF8(text[:117], "") + "..."
	}
	l.c.Close(status, text)
}

// Close ends the line.
func (l *webLine) Close() error { return l.c.Close(websocket.StatusNormalClosure, "") }

// digest is the blob that a request names.
func (m *Monitor) digest(r *http.Request) (mlaas.Fence, mlaas.Digest, error) {
	f, err := m.who(r)
	if err != nil {
		return f, "", err
	}
	d := mlaas.Digest(r.PathValue("digest"))
	_, err = blob.CheckDigest(d)
	return f, d, err
}

// getBlob answers with the bytes, or from an offset on: "Range: bytes=N-".
func (m *Monitor) getBlob(w http.ResponseWriter, r *http.Request) {
	_, d, err := m.digest(r)
	if err != nil {
		m.refuse(w, r, err)
		return
	}
	info, err := blob.Touch(r.Context(), m.b.Blob, d) // who asks may name them instead of sending them
	if err != nil {
		m.refuse(w, r, err)
		return
	}
	offset := int64(0)
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		if from, open := strings.CutSuffix(text, "-"); open {
			if n, err := strconv.ParseInt(from, 10, 64); err == nil && n >= 0 {
				offset = n
			}
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", `"`+string(d)+`"`)
	if offset > info.Size || offset == info.Size && offset > 0 {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		http.Error(w, fmt.Sprintf("%s has %d bytes", d, info.Size), http.StatusRequestedRangeNotSatisfiable)
		return
	}
	h.Set("Content-Length", strconv.FormatInt(info.Size-offset, 10))
	status := http.StatusOK
	if offset > 0 {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, info.Size-1, info.Size))
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	body, err := m.b.Blob.Get(r.Context(), d, offset)
	if err != nil {
		h.Del("Content-Length")
		m.refuse(w, r, err)
		return
	}
	defer body.Close()
	w.WriteHeader(status)
	if _, err := io.Copy(w, body); err != nil && r.Context().Err() == nil {
		m.b.Log.Info("a blob was not fetched whole", "digest", d, "error", err)
	}
}

// putBlob stores the bytes that the digest names. An attempt that ended while
// it sent them has stored nothing that anybody will find.
func (m *Monitor) putBlob(w http.ResponseWriter, r *http.Request) {
	_, d, err := m.digest(r)
	if err == nil && r.ContentLength > int64(m.b.MaxBlob) {
		err = m.tooLarge()
	}
	if err != nil {
		m.refuse(w, r, err)
		return
	}
	if _, _, err := m.b.Blob.Put(r.Context(), http.MaxBytesReader(w, r.Body, int64(m.b.MaxBlob)), d); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			err = m.tooLarge()
		}
		m.refuse(w, r, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (m *Monitor) tooLarge() error {
	return fmt.Errorf("one file may have at most %s: %w", m.b.MaxBlob, mlaas.ErrTooLarge)
}
