// Package mlaas is the vocabulary that Management, Contractor, Booster and the
// supervisors share: jobs, runs, replicas, what a machine can give, the
// messages between the services, what a supervisor says to its door, and the
// kinds of failure.
//
// It says what the platform is about and never how: it imports nothing but the
// standard library, starts nothing and stores nothing. Read it first, in this
// order: mlaas.go (names and amounts), job.go (what a user writes), run.go
// (what becomes of it), message.go (who tells whom), door.go (what a
// supervisor says), error.go.
package mlaas

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Names of things. The server makes them, they sort by age, and they are
// never secrets.
type (
	// Tenant is the team that owns a thing; it is part of every key. Until
	// there are teams, everything belongs to [DefaultTenant].
	Tenant string

	// JobID names a job for its whole life.
	JobID string

	// RunID names one requested execution. People write JOB/7 instead.
	RunID string

	// VersionID names a version inside its job: "v1", "v2", ...
	VersionID string

	// Digest names bytes by their content: "sha256:" and 64 hex digits.
	Digest string
)

// DefaultTenant owns everything until there are teams.
const DefaultTenant Tenant = "default"

// NewID returns a fresh name: 26 characters of Crockford's base 32 in lower
// case, 48 bits of milliseconds and 80 random bits (the layout of a ULID), so
// that names sort by the time they were made.
func NewID(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	rand.Read(b[6:]) // never fails (crypto/rand)
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	var out [26]byte
	// 128 bits are 25 groups of 5 and one of 3, which goes first.
	out[0] = alphabet[b[0]>>5]
	bit := 3
	for i := 1; i < 26; i++ {
		at, off := bit/8, bit%8
		v := uint16(b[at]) << 8
		if at+1 < 16 {
			v |= uint16(b[at+1])
		}
		out[i] = alphabet[v>>(11-off)&31]
		bit += 5
	}
	return string(out[:])
}

// MilliCPU is an amount of processor: 1000 is one core. In JSON it is "300m",
// "1.5" or a number of cores.
type MilliCPU int64

// Bytes is an amount of memory or disk. In JSON it is "256Mi", "1.5G" or a
// number of bytes.
type Bytes int64

// ParseCPU reads "300m", "0.3" or "2": an amount of at least one thousandth
// of a core.
func ParseCPU(s string) (MilliCPU, error) {
	text, scale := strings.TrimSpace(s), 1000.0
	if t, ok := strings.CutSuffix(text, "m"); ok {
		text, scale = t, 1
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || v <= 0 || v*scale > 1e9 {
		return 0, Invalid("cpu", `cores such as 0.3 or thousandths such as "300m", more than 0`, s)
	}
	return MilliCPU(math.Max(1, math.Round(v*scale))), nil
}

var units = []struct {
	suffix string
	size   float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
}

// ParseBytes reads "256Mi", "1.5GiB", "2G" or "1048576".
func ParseBytes(s string) (Bytes, error) {
	text, scale := strings.TrimSpace(s), 1.0
	for _, u := range units {
		if t, ok := strings.CutSuffix(text, u.suffix); ok && (len(t) == 0 || t[len(t)-1] < 'A') {
			text, scale = strings.TrimSpace(t), u.size
			break
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || v <= 0 || v*scale > 1<<60 {
		return 0, Invalid("memory", `bytes such as "256Mi", "1.5Gi" or 2000000000, more than 0`, s)
	}
	return Bytes(math.Round(v * scale)), nil
}

func (c MilliCPU) String() string {
	if c%1000 == 0 {
		return strconv.FormatInt(int64(c/1000), 10)
	}
	return strconv.FormatInt(int64(c), 10) + "m"
}

func (b Bytes) String() string {
	for _, u := range []string{"Ti", "Gi", "Mi", "Ki"} {
		for _, unit := range units {
			if unit.suffix == u && b != 0 && int64(b)%int64(unit.size) == 0 {
				return strconv.FormatInt(int64(b)/int64(unit.size), 10) + u
			}
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalJSON writes the text form, which [ParseCPU] reads back.
func (c MilliCPU) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// MarshalJSON writes the text form, which [ParseBytes] reads back.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal(b.String()) }

// UnmarshalJSON reads "300m", "0.3" or 0.3, and the 0 of a record that uses
// nothing; a role that asks for nothing is refused by [JobSpec.Check].
func (c *MilliCPU) UnmarshalJSON(data []byte) (err error) {
	text := unquote(data)
	if text == "0" {
		*c = 0
		return nil
	}
	*c, err = ParseCPU(text)
	return err
}

// UnmarshalJSON reads "256Mi", "1.5Gi" or a number of bytes, also 0.
func (b *Bytes) UnmarshalJSON(data []byte) (err error) {
	text := unquote(data)
	if text == "0" {
		*b = 0
		return nil
	}
	*b, err = ParseBytes(text)
	return err
}

func unquote(data []byte) string {
	var s string
	if json.Unmarshal(data, &s) == nil {
		return s
	}
	return string(data)
}

// GPU is a request for accelerators. In JSON it is a count, or {count, kind}.
type GPU struct {
	Count int    `json:"count"`
	Kind  string `json:"kind,omitempty"` // empty: any kind
}

// UnmarshalJSON reads 1 or {"count": 1, "kind": "h200"}.
func (g *GPU) UnmarshalJSON(data []byte) error {
	if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
		*g = GPU{Count: n}
		return nil
	}
	type plain GPU
	if err := strictly(data, (*plain)(g)); err != nil {
		return Invalid("gpu", "a count, or {count, kind}", string(data))
	}
	return nil
}

// MarshalJSON writes a count where the kind does not matter.
func (g GPU) MarshalJSON() ([]byte, error) {
	if g.Kind == "" {
		return json.Marshal(g.Count)
	}
	type plain GPU
	return json.Marshal(plain(g))
}

func strictly(data []byte, v any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// Resources is what one replica needs, or what a machine has: any amount.
type Resources struct {
	CPU    MilliCPU `json:"cpu"`
	Memory Bytes    `json:"memory"`
	GPU    GPU      `json:"gpu"`
}

// Plus is r and o together. The kind of GPU is r's, or o's where r names none.
func (r Resources) Plus(o Resources) Resources {
	kind := r.GPU.Kind
	if kind == "" {
		kind = o.GPU.Kind
	}
	return Resources{r.CPU + o.CPU, r.Memory + o.Memory, GPU{r.GPU.Count + o.GPU.Count, kind}}
}

// Minus is what is left of r when o is taken away; it may be negative.
func (r Resources) Minus(o Resources) Resources {
	return Resources{r.CPU - o.CPU, r.Memory - o.Memory, GPU{r.GPU.Count - o.GPU.Count, r.GPU.Kind}}
}

// Times is n of r.
func (r Resources) Times(n int) Resources {
	return Resources{r.CPU * MilliCPU(n), r.Memory * Bytes(n), GPU{r.GPU.Count * n, r.GPU.Kind}}
}

// Fits reports whether r can be taken from free.
func (r Resources) Fits(free Resources) bool {
	kind := r.GPU.Kind == "" || r.GPU.Count == 0 || strings.EqualFold(r.GPU.Kind, free.GPU.Kind)
	return r.CPU <= free.CPU && r.Memory <= free.Memory && r.GPU.Count <= free.GPU.Count && kind
}

// Short says, in one phrase with numbers, what r needs that free does not
// have; it is empty where r fits.
func (r Resources) Short(free Resources) string {
	var lack []string
	if r.CPU > free.CPU {
		lack = append(lack, fmt.Sprintf("%s CPU (%s free)", r.CPU, max(free.CPU, 0)))
	}
	if r.Memory > free.Memory {
		lack = append(lack, fmt.Sprintf("%s memory (%s free)", human(r.Memory), human(max(free.Memory, 0))))
	}
	switch {
	case r.GPU.Count > free.GPU.Count:
		lack = append(lack, fmt.Sprintf("%d GPU (%d free)", r.GPU.Count, max(free.GPU.Count, 0)))
	case !r.Fits(free) && len(lack) == 0:
		lack = append(lack, fmt.Sprintf("a GPU of kind %s (there are %s)", r.GPU.Kind, free.GPU.Kind))
	}
	return strings.Join(lack, " and ")
}

func human(b Bytes) string {
	switch v := float64(b); {
	case v >= 1<<30:
		return strconv.FormatFloat(math.Round(v/(1<<30)*10)/10, 'f', -1, 64) + "Gi"
	case v >= 1<<20:
		return strconv.FormatFloat(math.Round(v/(1<<20)*10)/10, 'f', -1, 64) + "Mi"
	default:
		return b.String()
	}
}

// Number is a measured value. JSON has no NaN: it travels as "NaN",
// "Infinity" or "-Infinity".
type Number float64

// MarshalJSON writes a JSON number, or one of the three words.
func (n Number) MarshalJSON() ([]byte, error) {
	switch f := float64(n); {
	case math.IsNaN(f):
		return []byte(`"NaN"`), nil
	case math.IsInf(f, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return json.Marshal(f)
	}
}

// UnmarshalJSON reads what MarshalJSON writes. A number too large for a
// float64 is an infinity, as IEEE 754 rounds it.
func (n *Number) UnmarshalJSON(data []byte) error {
	text := unquote(data)
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(f, 0) {
		return Invalid("value", `a number, "NaN", "Infinity" or "-Infinity"`, text)
	}
	*n = Number(f)
	return nil
}

// Name rules: what people type must be safe in a URL, a file name and a label.
var (
	nameRule     = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	digestRule   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	pythonRule   = regexp.MustCompile(`^(python)?3(\.\d{1,2}){0,2}$`)
	variableRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// CheckName reports whether s may name a job, a dataset or a secret.
func CheckName(field, s string) error {
	if !nameRule.MatchString(s) {
		return Invalid(field, "1 to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or digit", s)
	}
	return nil
}
