package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
)

// maxEvaluations is how many evaluations of one replica are kept: what shows
// an epoch each, and no loop that has gone astray.
const maxEvaluations = 2_000

// evaluations brings what a program evaluated to the door. Each lies as a
// file in a folder of the replica, NUMBER.json, until the door has its record.
type evaluations struct {
	s   *Supervisor
	dir string

	mu    sync.Mutex
	last  int64
	ready []*mlaas.EvaluationMade // uploaded and not acknowledged
	files []int64                 // not uploaded
	taken bool                    // the door takes them, as far as it said
	many  bool
	wake  chan struct{}
}

func openEvaluations(s *Supervisor) (*evaluations, error) {
	e := &evaluations{s: s, dir: filepath.Join(s.Folder, "evaluations"), taken: true, wake: make(chan struct{}, 1)}
	entries, err := os.ReadDir(e.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range entries {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		var n int64
		if _, err := fmt.Sscanf(name, "%d", &n); !ok || err != nil {
			continue // half written: the program may say it again
		}
		e.files = append(e.files, n)
		e.last = max(e.last, n)
	}
	slices.Sort(e.files)
	e.poke()
	return e, nil
}

func (e *evaluations) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *evaluations) file(n int64) string { return filepath.Join(e.dir, fmt.Sprintf("%06d.json", n)) }

// take keeps what a program says that it found.
func (e *evaluations) take(text []byte) error {
	content, err := mlaas.ReadEvaluation(text)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last >= maxEvaluations {
		if e.many {
			return nil
		}
		e.many = true
		return fmt.Errorf("there are %d already, and no more are kept: %w", maxEvaluations, mlaas.ErrTooLarge)
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	if err := WriteFile(e.file(e.last+1), content); err != nil {
		return err
	}
	e.last++
	e.files = append(e.files, e.last)
	e.poke()
	return nil
}

// run uploads what was taken, one after another.
func (e *evaluations) run(ctx context.Context) error {
	for {
		n, ok := e.next()
		if !ok {
			select {
			case <-e.wake:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		made, err := e.upload(ctx, n)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.mu.Lock()
		e.files = slices.DeleteFunc(e.files, func(f int64) bool { return f == n })
		if err == nil {
			e.ready = append(e.ready, made)
		}
		e.mu.Unlock()
		if err != nil {
			os.Remove(e.file(n))
			e.s.tell(fmt.Sprintf("an evaluation was not kept: %v", err))
			e.s.keeping.bump()
		}
		e.s.poke()
	}
}

func (e *evaluations) next() (int64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.files) == 0 {
		return 0, false
	}
	return e.files[0], true
}

func (e *evaluations) upload(ctx context.Context, n int64) (*mlaas.EvaluationMade, error) {
	text, err := os.ReadFile(e.file(n))
	if err != nil {
		return nil, err
	}
	var c mlaas.EvaluationContent
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, err
	}
	made := &mlaas.EvaluationMade{Seq: n, Name: c.Name, Step: c.Step, Task: c.Task, Rows: c.Rows, Scores: map[string]mlaas.Number{},
		Content: digestBytes(text), Size: mlaas.Bytes(len(text))}
	for key, v := range c.Scores {
		if v != nil && len(key) <= maxKey && clean(key) {
			made.Scores[key] = *v
		}
	}
	return made, e.s.upload(ctx, made.Content, int64(len(text)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text)), nil
	})
}

// welcomed notes whether the door takes evaluations. One of before does not:
// they stay, for one that does, and keep no replica from its end.
func (e *evaluations) welcomed(taken bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.taken = taken
}

// made lists what is to be told, in its order.
func (e *evaluations) made() []*mlaas.EvaluationMade {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.taken {
		return nil
	}
	return slices.SortedFunc(slices.Values(e.ready), func(a, b *mlaas.EvaluationMade) int { return cmp.Compare(a.Seq, b.Seq) })
}

// acked says that the door has the record of one.
func (e *evaluations) acked(n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ready = slices.DeleteFunc(e.ready, func(m *mlaas.EvaluationMade) bool { return m.Seq == n })
	if err := os.Remove(e.file(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.s.Log.Warn("an evaluation that is delivered could not be removed", "error", err)
	}
}

func (e *evaluations) delivered() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.taken || len(e.files)+len(e.ready) == 0
}
