package supervisor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// Limits of what a program may measure.
const (
	maxKey     = 256
	maxKeys    = 10_000
	maxMessage = 4 << 20
	maxSocket  = 100 // bytes of a unix socket's path that every system takes
	maxParams  = 1_000
	maxModels  = 16
	maxNote    = 256 << 10
)

// TrackedFile is where in $MLAAS_OUTPUT is what tracking found of a program
// that is no point.
const TrackedFile = "mlaas/tracked.json"

// A tracker takes what the Python library says: points, checkpoints, and what
// it found of the program. It only listens, so that no program ever waits for
// an answer.
type tracker struct {
	s         *Supervisor
	path      string
	elsewhere string // the folder of the socket, where it is not the replica's own
	listener  *net.UnixListener

	closed chan struct{} // nobody new is heard

	mu    sync.Mutex
	conns map[*net.UnixConn]bool
	keys  map[string]bool
	done  sync.WaitGroup
	shut  bool
	many  bool
	found found
}

// found is what tracking found of a program.
type found struct {
	Parameters  map[string]any    `json:"parameters,omitempty"`
	Environment json.RawMessage   `json:"environment,omitempty"` // of the first process that said it
	Models      []json.RawMessage `json:"models,omitempty"`
}

func (s *Supervisor) track() (*tracker, error) {
	t := &tracker{s: s, closed: make(chan struct{}), conns: map[*net.UnixConn]bool{}, keys: map[string]bool{}}
	dir := filepath.Join(s.Folder, SocketDir)
	if len(dir)+len("/mlaas.sock") > maxSocket {
		var err error
		if dir, err = os.MkdirTemp("", "mlaas-"); err != nil {
			return nil, err
		}
		t.elsewhere = dir
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
	}
	t.path = filepath.Join(dir, "mlaas.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	t.listener = l
	if s.Owner != 0 { // it alone sees the folder
		if err := os.Chown(t.path, s.Owner, s.Owner); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	go func() {
		defer close(t.closed)
		t.accept()
	}()
	return t, nil
}

func (t *tracker) accept() {
	for {
		c, err := t.listener.AcceptUnix()
		if err != nil {
			return
		}
		t.mu.Lock()
		if len(t.conns) >= 256 {
			t.mu.Unlock()
			c.Close()
			continue
		}
		t.conns[c] = true
		t.done.Go(func() { t.serve(c) })
		t.mu.Unlock()
	}
}

// close stops listening once what was said is heard. The program is gone, so
// every connection ends by itself; one that a stray process holds is cut.
func (t *tracker) close() {
	t.mu.Lock()
	if t.shut {
		t.mu.Unlock()
		return
	}
	t.shut = true
	t.mu.Unlock()
	// Who connected just before the end is heard too.
	t.listener.SetDeadline(time.Now().Add(10 * time.Millisecond))
	<-t.closed
	t.mu.Lock()
	for c := range t.conns {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
	}
	t.mu.Unlock()
	t.done.Wait()
	t.listener.Close()
	if err := t.keep(); err != nil {
		t.s.tell(fmt.Sprintf("what was found of the program was not kept: %v", err))
	}
	if t.elsewhere != "" {
		os.RemoveAll(t.elsewhere)
	}
}

func (t *tracker) serve(c *net.UnixConn) {
	defer func() {
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
		c.Close()
	}()
	r := bufio.NewReaderSize(c, 64<<10)
	var long []byte
	skip := false
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(long) > maxMessage:
			skip, long = true, long[:0]
		case errors.Is(err, bufio.ErrBufferFull):
			if !skip {
				long = append(long, line...)
			}
		case err != nil:
			return
		case skip:
			skip = false
			t.s.measured(nil, 1)
		default:
			if len(long) > 0 {
				line = append(long, line...)
			}
			t.hear(line)
			long = long[:0]
		}
	}
}

// said is one message of the library.
type said struct {
	Points     []point `json:"points"`
	Checkpoint *struct {
		Path string  `json:"path"`
		Step int64   `json:"step"`
		Best *string `json:"best"`
	} `json:"checkpoint"`
	Params map[string]any `json:"params"`
	Note   *struct {
		Kind  string          `json:"kind"`
		Value json.RawMessage `json:"value"`
	} `json:"note"`
	Evaluation json.RawMessage `json:"evaluation"`
	Dropped    int64           `json:"dropped"`
}

// A point is [key, step, time, value]. One that is not right does not spoil
// the others.
type point struct {
	mlaas.Point
	wrong bool
}

func (p *point) UnmarshalJSON(data []byte) error {
	var step, ms mlaas.Number
	all := []any{&p.Key, &step, &ms, &p.Value}
	p.wrong = json.Unmarshal(data, &all) != nil || len(all) != 4 || p.Key == "" || len(p.Key) > maxKey || !clean(p.Key) ||
		!whole(step) || !whole(ms)
	p.Step, p.Time = int64(step), int64(ms)
	return nil
}

// whole reports whether v is a number that an int64 and a float64 both hold.
func whole(v mlaas.Number) bool {
	return v >= -1<<53 && v <= 1<<53 && v == mlaas.Number(int64(v))
}

func clean(key string) bool {
	if !utf8.ValidString(key) {
		return false
	}
	for _, r := range key {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

func (t *tracker) hear(line []byte) {
	var m said
	if err := json.Unmarshal(line, &m); err != nil {
		t.s.measured(nil, 1)
		return
	}
	points := make([]mlaas.Point, 0, len(m.Points))
	lost := max(0, m.Dropped)
	for _, p := range m.Points {
		if p.wrong || !t.known(p.Key) {
			lost++
			continue
		}
		points = append(points, p.Point)
	}
	if len(points) > 0 || lost > 0 {
		t.s.measured(points, lost)
	}
	t.learn(m)
	if m.Evaluation != nil {
		if err := t.s.evaluated.take(m.Evaluation); err != nil {
			t.s.tell(fmt.Sprintf("an evaluation was not kept: %v", err))
		}
	}
	if c := m.Checkpoint; c != nil {
		best := ""
		if c.Best != nil && clean(*c.Best) && len(*c.Best) <= maxKey {
			best = *c.Best
		}
		if err := t.s.keeping.hand(c.Path, c.Step, best); err != nil {
			t.s.tell(fmt.Sprintf("the checkpoint of step %d was not kept: %v", c.Step, err))
		}
	}
}

// learn takes what was found of the program, as much as there is room for.
func (t *tracker) learn(m said) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, v := range m.Params {
		if _, has := t.found.Parameters[k]; !has && len(t.found.Parameters) >= maxParams || len(k) > maxKey || !clean(k) {
			continue
		}
		if t.found.Parameters == nil {
			t.found.Parameters = map[string]any{}
		}
		t.found.Parameters[k] = v
	}
	switch {
	case m.Note == nil || len(m.Note.Value) > maxNote:
	case m.Note.Kind == "model" && len(t.found.Models) < maxModels:
		t.found.Models = append(t.found.Models, m.Note.Value)
	case m.Note.Kind == "environment" && t.found.Environment == nil:
		t.found.Environment = m.Note.Value
	}
}

// keep writes what was found beside the program's own results. The folder is
// the program's: what it put there leads nowhere outside.
func (t *tracker) keep() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.found.Parameters == nil && t.found.Environment == nil && t.found.Models == nil {
		return nil
	}
	text, err := json.MarshalIndent(t.found, "", " ")
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Join(t.s.Folder, OutputDir))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(TrackedFile), 0o755); err != nil {
		return err
	}
	return root.WriteFile(TrackedFile, append(text, '\n'), 0o644)
}

// known bounds how many different keys a program may have.
func (t *tracker) known(key string) bool {
	t.mu.Lock()
	ok, many := t.keys[key], false
	if !ok && len(t.keys) < maxKeys {
		t.keys[key], ok = true, true
	} else if !ok && !t.many {
		t.many, many = true, true
	}
	t.mu.Unlock()
	if many {
		t.s.tell(fmt.Sprintf("more than %d different metrics: values of further names are dropped", maxKeys))
	}
	return ok
}
