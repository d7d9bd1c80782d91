package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"mlaas.dev/mlaas"
)

// checkpointStream is how the door acknowledges a checkpoint; Seq is its step.
const checkpointStream = "checkpoint"

// Limits of what a program leaves behind.
const (
	maxKept      = 1 << 40
	maxKeptFiles = 100_000
	maxWaiting   = 2 // checkpoints that are not uploaded yet
)

// A keeper brings checkpoints to the door. The program hands over a complete
// folder; it lies there, and in a list beside it, until the door has its
// record. If they pile up, the newest ones win.
type keeper struct {
	s    *Supervisor
	file string

	mu    sync.Mutex
	list  []*handed
	wake  chan struct{}
	moved chan struct{} // closed and made anew at each change
}

// handed is one checkpoint that the program handed over.
type handed struct {
	Path string                `json:"path"` // inside the folder of checkpoints
	Step int64                 `json:"step"`
	Best string                `json:"best,omitempty"`
	Made *mlaas.CheckpointMade `json:"made,omitempty"` // once it is uploaded
}

func openKeeper(s *Supervisor) (*keeper, error) {
	k := &keeper{s: s, file: filepath.Join(s.Folder, "checkpoints.json"), wake: make(chan struct{}, 1), moved: make(chan struct{})}
	data, err := os.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &k.list)
	}
	k.poke()
	return k, err
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// hand takes a folder over.
func (k *keeper) hand(path string, step int64, best string) error {
	rel, err := filepath.Rel(filepath.Join(k.s.Folder, CheckpointDir), path)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return fmt.Errorf("%s is not inside $MLAAS_CHECKPOINTS", path)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// The same step again, or too many: the older one makes room.
	waiting := 0
	k.list = slices.DeleteFunc(k.list, func(h *handed) bool {
		if h.Made == nil && h.Step == step && h.Path != rel {
			k.remove(h)
			return true
		}
		return h.Path == rel && h.Made == nil
	})
	for i := len(k.list) - 1; i >= 0; i-- {
		if k.list[i].Made != nil {
			continue
		}
		if waiting++; waiting >= maxWaiting {
			k.s.Log.Info("a newer checkpoint takes the place of one that is not uploaded", "step", k.list[i].Step)
			k.remove(k.list[i])
			k.list = slices.Delete(k.list, i, i+1)
		}
	}
	k.list = append(k.list, &handed{Path: rel, Step: step, Best: best})
	k.save()
	k.poke()
	return nil
}

// save writes the list down. The lock is held.
func (k *keeper) save() {
	if err := WriteFile(k.file, k.list); err != nil {
		k.s.Log.Warn("the list of checkpoints could not be written down", "error", err)
	}
	close(k.moved)
	k.moved = make(chan struct{})
}

// bump says that something was delivered.
func (k *keeper) bump() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.moved)
	k.moved = make(chan struct{})
}

func (k *keeper) remove(h *handed) {
	root, err := os.OpenRoot(filepath.Join(k.s.Folder, CheckpointDir))
	if err == nil {
		err = errors.Join(root.RemoveAll(h.Path), root.Close())
	}
	if err != nil {
		k.s.Log.Warn("a checkpoint could not be removed", "step", h.Step, "error", err)
	}
}

// changed is closed at the next change of anything that is to be delivered.
func (k *keeper) changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.moved
}

// run uploads what was handed over, one after another.
func (k *keeper) run(ctx context.Context) error {
	for {
		h := k.next()
		if h == nil {
			select {
			case <-k.wake:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		k.s.persist() // a later attempt goes on from here: the points before it are not written again
		d, size, err := k.upload(ctx, h)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k.mu.Lock()
		i := slices.Index(k.list, h)
		switch {
		case i < 0: // a newer one took its place
		case err != nil:
			k.list = slices.Delete(k.list, i, i+1)
			k.remove(h)
		default:
			h.Made = &mlaas.CheckpointMade{Step: h.Step, Tree: d, Size: size, Best: h.Best}
		}
		k.save()
		k.mu.Unlock()
		if err != nil && i >= 0 {
			k.s.tell(fmt.Sprintf("the checkpoint of step %d was not kept: %v", h.Step, err))
		}
		k.s.poke()
	}
}

func (k *keeper) next() *handed {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.list {
		if h.Made == nil {
			return h
		}
	}
	return nil
}

func (k *keeper) upload(ctx context.Context, h *handed) (mlaas.Digest, mlaas.Bytes, error) {
	root, err := os.OpenRoot(filepath.Join(k.s.Folder, CheckpointDir))
	if err != nil {
		return "", 0, err
	}
	defer root.Close()
	d, size, _, err := k.s.keep(ctx, root, h.Path, maxKept, maxKeptFiles)
	return d, size, err
}

// kept lists what is uploaded and not acknowledged.
func (k *keeper) kept() (out []*mlaas.CheckpointMade) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.list {
		if h.Made != nil {
			out = append(out, h.Made)
		}
	}
	return out
}

// acked says that the door has the record of a step.
func (k *keeper) acked(step int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// They are told and acknowledged in order: the first one of a step is meant.
	i := slices.IndexFunc(k.list, func(h *handed) bool { return h.Made != nil && h.Step == step })
	if i < 0 {
		return
	}
	k.remove(k.list[i])
	k.list = slices.Delete(k.list, i, i+1)
	k.save()
}

func (k *keeper) delivered() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.list) == 0
}

// outputs keeps what the program left in $MLAAS_OUTPUT.
func (s *Supervisor) outputs(ctx context.Context) (mlaas.Digest, error) {
	root, err := os.OpenRoot(s.Folder)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if entries, err := fs.ReadDir(root.FS(), OutputDir); err != nil || len(entries) == 0 {
		return "", err
	}
	d, _, skipped, err := s.keep(ctx, root, OutputDir, maxKept, maxKeptFiles)
	if skipped > 0 {
		s.tell(fmt.Sprintf("%d entries of $MLAAS_OUTPUT were not kept: only plain files and folders are", skipped))
	}
	if err != nil && strings.Contains(err.Error(), "no such file") {
		err = fmt.Errorf("it changed while it was kept: %w", err)
	}
	return d, err
}
