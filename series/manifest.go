package series

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
)

// A manifest is what is durably known of a run besides its unsealed data: one
// file a run, replaced whole. A chunk exists when a manifest lists it.
type manifest struct {
	Sealed        int64   `json:"sealed"` // the number of the last segment whose data is in chunks
	Lines         int64   `json:"lines"`  // the last cursor of each stream
	Points        int64   `json:"points"`
	Logs          []chunk `json:"logs,omitempty"`    // in the order of cursors
	Metrics       []chunk `json:"metrics,omitempty"` // the same
	DroppedPoints int64   `json:"droppedPoints,omitempty"`
}

// A chunk is a blob of compressed blocks with an index at its end.
type chunk struct {
	Blob  mlaas.Digest        `json:"blob"`
	Size  int64               `json:"size"`
	Index int64               `json:"index"` // where it begins
	First int64               `json:"first"` // cursors
	Last  int64               `json:"last"`
	N     int64               `json:"n"`              // lines or points
	Text  int64               `json:"text,omitempty"` // bytes of lines
	Seqs  map[string][2]int64 `json:"seqs,omitempty"` // the first and last Seq of each replica
}

// saved is the form of a state in its file.
type saved struct {
	Tenant mlaas.Tenant `json:"tenant"`
	Run    mlaas.RunID  `json:"run"`
	manifest
	Seqs   map[string]int64 `json:"seqs,omitempty"`
	Fences []savedMarks     `json:"fences,omitempty"`
	Keys   []string         `json:"keys,omitempty"`
	Told   bool             `json:"told,omitempty"`
}

type savedMarks struct {
	Replica     string `json:"replica"`
	Epoch       int    `json:"epoch"`
	Incarnation int    `json:"incarnation"`
	Log         int64  `json:"log"`
	Metric      int64  `json:"metric"`
}

const manifests = "runs"

func (k key) dir() string  { return manifests + "/" + string(k.tenant) }
func (k key) path() string { return k.dir() + "/" + string(k.run) + ".json" }

func newState() state {
	return state{seqs: map[string]int64{}, fences: map[teller]marks{}, keys: map[string]struct{}{}}
}

// load reads the run called k. A run without a manifest has said nothing.
func (s *Store) load(k key) (*run, error) {
	r := &run{key: k, used: s.now(), names: map[string]string{}, lived: map[teller]bool{}, state: newState()}
	data, err := s.root.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	var m saved
	if err := unseal(data, &m); err != nil {
		return nil, fmt.Errorf("the manifest of run %s: %w", k.run, err)
	}
	r.manifest, r.told = m.manifest, m.Told
	if m.Seqs != nil {
		r.seqs = m.Seqs
	}
	for _, f := range m.Fences {
		r.fences[teller{f.Replica, f.Epoch, f.Incarnation}] = marks{f.Log, f.Metric}
	}
	for _, name := range m.Keys {
		r.keys[name] = struct{}{}
	}
	return r, nil
}

// unseal reads a manifest: a checksum in the first line, JSON after it.
func unseal(data []byte, m *saved) error {
	sum, body, ok := bytes.Cut(data, []byte("\n"))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !ok || err != nil || uint32(want) != checksum(body) {
		return fmt.Errorf("it is damaged on disk: %w", mlaas.ErrInternal)
	}
	return json.Unmarshal(body, m)
}

// encode is the file of the run's state, with m as the manifest. The caller
// holds mu.
func (r *run) encode(m manifest) ([]byte, error) {
	out := saved{Tenant: r.key.tenant, Run: r.key.run, manifest: m, Seqs: r.seqs, Keys: slices.Sorted(maps.Keys(r.keys)), Told: r.told}
	for t, at := range r.fences {
		out.Fences = append(out.Fences, savedMarks{t.replica, t.epoch, t.incarnation, at.log, at.metric})
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%08x\n", checksum(body)), body...), nil
}

// save replaces the manifest of k, durably.
func (s *Store) save(k key, data []byte) error {
	err := s.makeFolder(k.dir())
	if err != nil {
		return err
	}
	temp := k.path() + ".tmp"
	if err = s.writeFile(temp, data); err == nil {
		err = s.root.Rename(temp, k.path())
	}
	if err != nil {
		_ = s.root.Remove(temp) // if it stays, it is replaced the next time
		return fmt.Errorf("write the manifest of run %s: %w", k.run, full(err))
	}
	return s.flush(k.dir())
}

// makeFolder makes a folder durably, unless it is there.
func (s *Store) makeFolder(name string) error {
	switch err := s.root.Mkdir(name, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return full(err)
	}
	return s.flush(path.Dir(name))
}

// writeFile makes a file of data, durably but for its name.
func (s *Store) writeFile(name string, data []byte) error {
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// flush makes the names in a folder durable.
func (s *Store) flush(name string) error {
	dir, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return full(dir.Sync())
}

// eachManifest calls f with every run that has one, or with why it cannot be
// read. The caller holds sealing.
func (s *Store) eachManifest(f func(key, *run, error) error) error {
	tenants, err := fs.ReadDir(s.root.FS(), manifests)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range tenants {
		runs, err := fs.ReadDir(s.root.FS(), path.Join(manifests, t.Name()))
		if err != nil {
			return err
		}
		for _, e := range runs { // sorted by name, which is by age
			name, ok := strings.CutSuffix(e.Name(), ".json")
			k := key{mlaas.Tenant(t.Name()), mlaas.RunID(name)}
			if !ok || checkKey(k) != nil {
				continue
			}
			r, err := s.load(k)
			if err := f(k, r, err); err != nil {
				return err
			}
		}
	}
	return nil
}
