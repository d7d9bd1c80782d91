package mlaas

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// RecipeVersion is the version of recipes that this code makes. A supervisor
// refuses one that is newer than what it knows.
const RecipeVersion = 1

// MarksVersion is the version of the marks in comments (#@define: and the
// others) that this code makes calls of.
const MarksVersion = 1

// A Recipe says how the code of a run is prepared before its program starts, as
// pure data. The contractor's code engine makes it; each supervisor applies it
// with the environment's own Python, and reports the digest of what came out,
// which is the same in all replicas of an attempt.
type Recipe struct {
	Version int    `json:"version"`
	Mode    string `json:"mode"`            // of the job, one of Modes
	Entry   string `json:"entry,omitempty"` // the file that is started, where that is known

	// Marks is the version of the marks in comments that become calls; 0: a
	// comment is a comment.
	Marks int `json:"marks,omitempty"`

	// Files are put into the code, by their paths: generated programs. One that
	// is there already is replaced.
	Files map[string]string `json:"files,omitempty"`

	Hooks  bool `json:"hooks,omitempty"`  // what the program does is recorded by post-import hooks
	Locals bool `json:"locals,omitempty"` // a failure tells the local variables too

	// Distribute asks for code that was written for one replica to train as one
	// on several; nil: there is one, or the user wants them apart.
	Distribute *Distribute `json:"distribute,omitempty"`
}

// A Distribute is what the code is looked at for.
type Distribute struct {
	Want     string `json:"want"`     // one of Distributions
	Entry    string `json:"entry"`    // what is started: "main.py" or "-m NAME"
	Replicas int    `json:"replicas"` // chief and workers
	Servers  int    `json:"servers"`  // parameter servers
}

// A Spread says how code that knows one replica runs on several.
type Spread struct {
	Strategy string   `json:"strategy"` // tf1, keras, torch or sync; empty: each replica runs the program by itself
	Says     []string `json:"says"`     // what changes by it, a sentence each
}

// Changes reports whether the recipe may change a file, or must look into one:
// then it is applied before the program starts. Else the code stays as it was
// written.
func (r *Recipe) Changes() bool {
	return r != nil && (r.Marks > 0 || len(r.Files) > 0 || r.Distribute != nil)
}

// A Preparation is code after a recipe was applied to it.
type Preparation struct {
	Prepared
	Changes []Change `json:"changes"` // by path
	Spread  *Spread  `json:"spread,omitempty"`
}

// Prepared is what a supervisor reports of its code.
type Prepared struct {
	Digest Digest `json:"digest"` // of the tree of the whole code, as it runs
	Python string `json:"python"` // the version by which it was prepared
	Files  int    `json:"files"`  // that are not as they were written
	Marks  int    `json:"marks"`  // that became calls
}

// A Change is one file that a recipe has changed or made.
type Change struct {
	Path    string `json:"path"`
	New     bool   `json:"new,omitempty"` // it was not there
	Content []byte `json:"-"`             // what it says now
	Diff    string `json:"diff"`          // unified, from what was written to what runs
	Marks   []Mark `json:"marks"`
}

// A Mark is a comment that became a call, on its line.
type Mark struct {
	Line int    `json:"line"` // from 1; it is the same before and after
	Word string `json:"word"` // define, step, evaluate, data, sync
	Call string `json:"call"`
}

// A Refusal is why code cannot be prepared: where, what is wrong there, and
// what would be right.
type Refusal struct {
	Path   string `json:"path"`
	Line   int    `json:"line,omitempty"`   // from 1; 0: the whole file
	Column int    `json:"column,omitempty"` // from 1, in characters; 0: the whole line
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

// String is "main.py:12:5: ...: ...".
func (r Refusal) String() string {
	at := r.Path
	if r.Line > 0 {
		at += fmt.Sprintf(":%d", r.Line)
	}
	if r.Column > 0 {
		at += fmt.Sprintf(":%d", r.Column)
	}
	return strings.TrimPrefix(at+": "+r.What+": "+r.Remedy, ": ")
}

// Refused is the error of all refusals, an ErrInvalid; nil where there is none.
// It names the first few.
func Refused(all []Refusal) error {
	if len(all) == 0 {
		return nil
	}
	const some = 3
	var lines []string
	for _, r := range all[:min(len(all), some)] {
		lines = append(lines, r.String())
	}
	if n := len(all) - some; n > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", n))
	}
	return fmt.Errorf("%s: %w", strings.Join(lines, "; "), ErrInvalid)
}

// With is the tree of t after changes: files that were changed or made take the
// place of those that were there.
func (t Tree) With(changes []Change) Tree {
	changed := map[string]bool{}
	for _, c := range changes {
		changed[c.Path] = true
	}
	exec := map[string]bool{}
	out := Tree{Files: []File{}}
	for _, f := range t.Files {
		if !changed[f.Path] {
			out.Files = append(out.Files, f)
		}
		exec[f.Path] = f.Exec
	}
	for _, c := range changes {
		out.Files = append(out.Files, File{Path: c.Path, Digest: Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(c.Content))), Size: int64(len(c.Content)), Exec: exec[c.Path]})
	}
	slices.SortFunc(out.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// Digest names the tree.
func (t Tree) Digest() Digest {
	text, _ := json.Marshal(t) // strings and numbers: cannot fail
	return Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(text)))
}
