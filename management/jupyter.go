package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/stream"
	"mlaas.dev/mlaas/store"
)

// A job answers as a Jupyter server below /api/job/{id}/jupyter/, with its one
// kernel: what JupyterLab, VS Code and jupyter_client's gateway ask of one. See
// docs/reference/kernel.md for what is not there.

// JupyterKernel is the kernel of a job as Jupyter shows it.
type JupyterKernel struct {
	ID          string    `json:"id" doc:"Of its run"`
	Name        string    `json:"name"`
	Active      time.Time `json:"last_activity"`
	State       string    `json:"execution_state" doc:"starting, idle, busy or dead"`
	Connections int       `json:"connections"`
}

// JupyterSession is a kernel and what it is used for.
type JupyterSession struct {
	ID     string        `json:"id"`
	Path   string        `json:"path"`
	Name   string        `json:"name"`
	Type   string        `json:"type"`
	Kernel JupyterKernel `json:"kernel"`
}

// JupyterSpec is what kernels there are.
type JupyterSpec struct {
	Default string                     `json:"default"`
	Specs   map[string]JupyterSpecItem `json:"kernelspecs"`
}

// JupyterSpecItem is one kind of kernel.
type JupyterSpecItem struct {
	Name      string            `json:"name"`
	Spec      JupyterSpecDetail `json:"spec"`
	Resources map[string]string `json:"resources"`
}

// JupyterSpecDetail is what is shown of one.
type JupyterSpecDetail struct {
	Argv     []string          `json:"argv"`
	Env      map[string]string `json:"env"`
	Display  string            `json:"display_name"`
	Language string            `json:"language"`
	Mode     string            `json:"interrupt_mode"`
	Metadata map[string]string `json:"metadata"`
}

// JupyterVersion is of which version the API is.
type JupyterVersion struct {
	Version string `json:"version"`
}

// JupyterStatus is how busy it is.
type JupyterStatus struct {
	Started     time.Time `json:"started"`
	Active      time.Time `json:"last_activity"`
	Kernels     int       `json:"kernels"`
	Connections int       `json:"connections"`
}

const jupyterName = "mlaas"

func (m *Management) jupyterVersion(ctx context.Context, in *jobIn) (*Answer[JupyterVersion], error) {
	_, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	return &Answer[JupyterVersion]{Body: JupyterVersion{"2.14.0"}}, err
}

func (m *Management) jupyterSpecs(ctx context.Context, in *jobIn) (*Answer[JupyterSpec], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	one := JupyterSpecItem{jupyterName, JupyterSpecDetail{Argv: []string{}, Env: map[string]string{}, Display: "mlaas: " + j.Name,
		Language: "python", Mode: "message", Metadata: map[string]string{}}, map[string]string{}}
	return &Answer[JupyterSpec]{Body: JupyterSpec{jupyterName, map[string]JupyterSpecItem{jupyterName: one}}}, err
}

type jupyterSpecIn struct {
	jobIn
	Name string `path:"name" doc:"mlaas: there is no other" example:"mlaas"`
}

func (m *Management) jupyterSpec(ctx context.Context, in *jupyterSpecIn) (*Answer[JupyterSpecItem], error) {
	all, err := m.jupyterSpecs(ctx, &in.jobIn)
	if err != nil {
		return nil, err
	}
	one, ok := all.Body.Specs[in.Name]
	if !ok {
		return nil, fmt.Errorf("there is no kind of kernel %q, but %s: %w", clip(in.Name, 40), jupyterName, mlaas.ErrNotFound)
	}
	return &Answer[JupyterSpecItem]{Body: one}, nil
}

func (m *Management) jupyterView(ctx context.Context, r mlaas.Run, s mlaas.RunState) (JupyterKernel, error) {
	v, err := m.kernelView(ctx, r, s)
	state := v.State
	switch state {
	case "queued":
		state = "starting"
	case "stopped", "none":
		state = "dead"
	}
	return JupyterKernel{ID: string(r.ID), Name: jupyterName, Active: m.stamp(), State: state}, err
}

// jupyterLive is the live kernel as a list of none or one.
func (m *Management) jupyterLive(ctx context.Context, job string) ([]JupyterKernel, error) {
	j, err := m.findJob(ctx, tenantOf(ctx), job)
	if err != nil {
		return nil, err
	}
	f, s, live, err := m.kernelOf(ctx, j)
	if err != nil || !live {
		return []JupyterKernel{}, err
	}
	v, err := m.jupyterView(ctx, f.Value, s)
	return []JupyterKernel{v}, err
}

func (m *Management) jupyterStatus(ctx context.Context, in *jobIn) (*Answer[JupyterStatus], error) {
	all, err := m.jupyterLive(ctx, in.Job)
	return &Answer[JupyterStatus]{Body: JupyterStatus{Started: m.stamp(), Active: m.stamp(), Kernels: len(all)}}, err
}

func (m *Management) jupyterKernels(ctx context.Context, in *jobIn) (*Answer[[]JupyterKernel], error) {
	all, err := m.jupyterLive(ctx, in.Job)
	return &Answer[[]JupyterKernel]{Body: all}, err
}

type jupyterStartIn struct {
	jobIn
	Body map[string]any `body:"optional"`
}

func (m *Management) jupyterStart(ctx context.Context, in *jupyterStartIn) (*Answer[JupyterKernel], store.Batch, error) {
	none := store.Batch{}
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, none, err
	}
	r, s, b, err := m.aKernel(ctx, &j, KernelAsk{})
	if err != nil {
		return nil, none, err
	}
	v, err := m.jupyterView(ctx, r, s)
	return &Answer[JupyterKernel]{Body: v}, b, err
}

type jupyterKernelIn struct {
	jobIn
	Kernel string `path:"kernel" doc:"The id of its run"`
}

// jupyterKernel is the live kernel, which must be this one.
func (m *Management) jupyterKernel(ctx context.Context, in *jupyterKernelIn) (*Answer[JupyterKernel], error) {
	all, err := m.jupyterLive(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 || all[0].ID != in.Kernel {
		return nil, fmt.Errorf("there is no kernel %q: %w", clip(in.Kernel, 40), mlaas.ErrNotFound)
	}
	return &Answer[JupyterKernel]{Body: all[0]}, nil
}

func (m *Management) jupyterStop(ctx context.Context, in *jupyterKernelIn) (*Answer[None], store.Batch, error) {
	if _, err := m.jupyterKernel(ctx, in); err != nil {
		return nil, store.Batch{}, err
	}
	_, b, err := m.stopKernel(ctx, &in.jobIn)
	return &Answer[None]{}, b, err
}

func (m *Management) jupyterInterrupt(ctx context.Context, in *jupyterKernelIn) (*Answer[None], error) {
	_, err := m.jupyterKernel(ctx, in)
	if err == nil {
		_, err = m.interruptKernel(ctx, &in.jobIn)
	}
	return &Answer[None]{}, err
}

func (m *Management) jupyterRestart(ctx context.Context, in *jupyterKernelIn) (*Answer[JupyterKernel], error) {
	a, err := m.jupyterKernel(ctx, in)
	if err == nil {
		_, err = m.restartKernel(ctx, &in.jobIn)
	}
	return a, err
}

// What a session is used for is its client's business: it is told what it said.
func (m *Management) jupyterSession(k JupyterKernel, said map[string]any) JupyterSession {
	text := func(name string) string { s, _ := said[name].(string); return s }
	v := JupyterSession{ID: k.ID, Path: text("path"), Name: text("name"), Type: text("type"), Kernel: k}
	if v.Type == "" {
		v.Type = "notebook"
	}
	return v
}

func (m *Management) jupyterSessions(ctx context.Context, in *jobIn) (*Answer[[]JupyterSession], error) {
	all, err := m.jupyterLive(ctx, in.Job)
	out := []JupyterSession{}
	for _, k := range all {
		out = append(out, m.jupyterSession(k, nil))
	}
	return &Answer[[]JupyterSession]{Body: out}, err
}

func (m *Management) jupyterBegin(ctx context.Context, in *jupyterStartIn) (*Answer[JupyterSession], store.Batch, error) {
	a, b, err := m.jupyterStart(ctx, in)
	if err != nil {
		return nil, b, err
	}
	return &Answer[JupyterSession]{Body: m.jupyterSession(a.Body, in.Body)}, b, nil
}

// jupyterChannels passes messages of Jupyter's protocol on, as JSON texts.
func (m *Management) jupyterChannels(w http.ResponseWriter, r *http.Request, in *jupyterKernelIn) error {
	if _, err := m.jupyterKernel(r.Context(), in); err != nil {
		return err
	}
	return m.lines(w, r, in.jobIn, "jupyter")
}

// lsp passes messages of the language server protocol on, each a text. The
// folder of the code is file:///code there.
func (m *Management) lsp(w http.ResponseWriter, r *http.Request, in *jobIn) error {
	return m.lines(w, r, *in, "lsp")
}

// maxMessage is how long a message from a client may be.
const maxMessage = 16 << 20

// lines joins a WebSocket of JSON texts to what op is in the kernel, where each
// is a line. It ends with either, with the session, and with the platform.
func (m *Management) lines(w http.ResponseWriter, r *http.Request, in jobIn, op string) error {
	ctx := r.Context()
	_, run, err := m.liveKernel(ctx, in.Job)
	if err != nil {
		return err
	}
	if r.Header.Get("Upgrade") == "" {
		return fmt.Errorf("this is a WebSocket: %w", mlaas.ErrInvalid)
	}
	if err := m.awaitKernel(ctx, run); err != nil {
		return err
	}
	inner, err := m.enter(ctx, nodeIn{jobIn: in, Node: mlaas.KernelReplica, Run: string(run.ID)}, mlaas.Open{Kernel: &mlaas.OpenKernel{}})
	if err != nil {
		return err
	}
	defer inner.Close()
	if err := inner.Send(ctx, stream.Packet{Kind: stream.Data, Data: fmt.Appendf(nil, "{\"op\":%q}\n", op)}); err != nil {
		return err
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // Accept has answered
	}
	defer c.CloseNow()
	c.SetReadLimit(maxMessage)
	watch, life := m.newStreamer(ctx)
	watch.write = func(...[]byte) error { return nil }
	watch.close = func(websocket.StatusCode, string) {}
	defer watch.stop()
	defer watch.attend(life)()
	defer context.AfterFunc(life, func() { inner.Close(); c.CloseNow() })()
	var all sync.WaitGroup
	all.Go(func() {
		defer watch.stop()
		for {
			_, data, err := c.Read(life)
			if err != nil {
				return
			}
			var line bytes.Buffer
			if json.Compact(&line, data) != nil {
				_ = c.Close(websocket.StatusUnsupportedData, "each message is a JSON text")
				return
			}
			line.WriteByte('\n')
			for part := range slices.Chunk(line.Bytes(), stream.Chunk) {
				if inner.Send(life, stream.Packet{Kind: stream.Data, Data: part}) != nil {
					return
				}
			}
		}
	})
	all.Go(func() {
		defer watch.stop()
		var rest []byte
		for {
			p, err := inner.Receive(life)
			switch {
			case errors.Is(err, io.EOF) || err == nil && p.Kind == stream.Exit:
				_ = c.Close(websocket.StatusGoingAway, "the kernel has ended") // it is closed either way
				return
			case err != nil:
				return
			case p.Kind != stream.Data:
				continue
			}
			rest = append(rest, p.Data...)
			for {
				line, more, whole := bytes.Cut(rest, []byte("\n"))
				if !whole {
					break
				}
				within, cancel := context.WithTimeout(life, writeWithin)
				err := c.Write(within, websocket.MessageText, line)
				cancel()
				if err != nil {
					return
				}
				rest = more
			}
		}
	})
	all.Wait()
	return nil
}

// awaitKernel waits until a kernel that is starting can be asked.
func (m *Management) awaitKernel(ctx context.Context, r mlaas.Run) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, fmt.Errorf("the kernel is not there yet: try again: %w", mlaas.ErrUnavailable))
	defer cancel()
	for {
		changed, leave := m.hub.changed(runKey{r.Tenant, r.ID}) // before reading
		s, err := m.stateOf(ctx, r)
		if err != nil || s.State.Final() {
			leave()
			if err == nil {
				err = fmt.Errorf("the kernel has ended: %s: %w", s.Reason, mlaas.ErrConflict)
			}
			return err
		}
		a, _, err := store.Replicas(m.DB).Get(ctx, r.Tenant, store.ReplicaKey(r.ID, mlaas.KernelReplica))
		if err == nil && a.Program && !a.Status.Final() && a.Epoch == s.Epoch {
			leave()
			return nil
		}
		select {
		case <-ctx.Done():
			leave()
			return context.Cause(ctx)
		case <-changed:
			leave()
		}
	}
}

// jupyterToken lets clients of Jupyter say who they are as they do: by
// "Authorization: token T" or ?token=T.
func jupyterToken(r *http.Request) *http.Request {
	if !strings.Contains(r.URL.Path, "/jupyter/") {
		return r
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "token") {
		if token = r.URL.Query().Get("token"); token == "" || r.Header.Get("Authorization") != "" {
			return r
		}
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}
