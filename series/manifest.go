package series

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"mlaas.dev/mlaas"
)

// A manifest is what is durably known of a run besides its unsealed data: a
// file or a record, replaced whole. A chunk exists when a manifest lists it.
type manifest struct {
	Shard         string  `json:"shard,omitempty"`    // which holds the run; none in a folder
	Released      bool    `json:"released,omitempty"` // it has let the run go
	Epoch         int     `json:"epoch,omitempty"`    // the newest attempt that a shard knew
	Sealed        int64   `json:"sealed"`             // the number of the last segment whose data is in chunks
	Lines         int64   `json:"lines"`              // the last cursor of each stream
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
	N     int64               `json:"n"`               // lines or points
	Text  int64               `json:"text,omitempty"`  // bytes of lines
	Seqs  map[string][2]int64 `json:"seqs,omitempty"`  // the first and last Seq of each replica
	Times *[2]int64           `json:"times,omitempty"` // of lines, the earliest and latest in Unix seconds; chunks of v0.1 have none
}

func (c *chunk) time() stretchOfTime {
	if c.Times == nil {
		return anyTime()
	}
	return stretchOfTime{c.Times[0], c.Times[1]}
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

func newState() state {
	return state{seqs: map[string]int64{}, fences: map[teller]marks{}, keys: map[string]struct{}{}}
}

// newRun is a run that has said nothing.
func (s *Store) newRun(k key) *run {
	return &run{key: k, used: s.now(), names: map[string]string{}, lived: map[teller]bool{}, state: newState()}
}

// decode reads the manifest of r.
func (r *run) decode(data []byte) error {
	var m saved
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("the manifest of run %s: %w: %w", r.key.run, err, mlaas.ErrInternal)
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
	return nil
}

// encode is the run's state, with m as the manifest. The caller holds mu.
func (r *run) encode(m manifest) ([]byte, error) {
	m.Epoch = max(m.Epoch, r.newestEpoch())
	out := saved{Tenant: r.key.tenant, Run: r.key.run, manifest: m, Seqs: r.seqs, Keys: slices.Sorted(maps.Keys(r.keys)), Told: r.told}
	for t, at := range r.fences {
		out.Fences = append(out.Fences, savedMarks{t.replica, t.epoch, t.incarnation, at.log, at.metric})
	}
	return json.Marshal(out)
}

// newestEpoch is that of the newest attempt that has appended.
func (r *run) newestEpoch() (epoch int) {
	for t := range r.fences {
		epoch = max(epoch, t.epoch)
	}
	return epoch
}
