// Package prepare applies a recipe to a folder of code, by a Python that parses
// the code and runs nothing of it. It says what the code becomes; who asked
// writes it down.
package prepare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"mlaas.dev/mlaas"
)

// A Preparer has the Python that reads the code.
type Preparer struct {
	Python  string // of the environment that the program will run in, or of this machine
	Library string // the folder that holds the Python package mlaas

	// Run runs a command, in whatever confines it, and returns what it wrote. An
	// error is an [Exit] where the command ran and ended otherwise than by 0.
	Run func(ctx context.Context, argv []string, stdin []byte) (stdout []byte, err error)
}

// An Exit is how a command ended that did not end well.
type Exit struct {
	Code   int
	Stderr string
}

func (e *Exit) Error() string {
	lines := strings.Split(strings.TrimSpace(e.Stderr), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return fmt.Sprintf("it ended with exit code %d", e.Code)
}

// Apply says what becomes of the code in folder root, whose files tree lists.
// Where the code cannot be prepared, it is an ErrInvalid that says where and
// how to mend it.
func (p Preparer) Apply(ctx context.Context, root string, tree mlaas.Tree, recipe *mlaas.Recipe) (out mlaas.Preparation, err error) {
	if recipe.Version > mlaas.RecipeVersion {
		return out, fmt.Errorf("the recipe has version %d, and this program knows %d: %w", recipe.Version, mlaas.RecipeVersion, mlaas.ErrInvalid)
	}
	for path := range recipe.Files {
		if !filepath.IsLocal(filepath.FromSlash(path)) {
			return out, mlaas.Invalid("recipe.files", "paths inside the code", path)
		}
	}
	ask, err := json.Marshal(struct {
		Root   string        `json:"root"`
		Recipe *mlaas.Recipe `json:"recipe"`
	}{root, recipe})
	if err != nil {
		return out, err
	}
	text, err := p.Run(ctx, []string{p.Python, "-I", "-S", "-B", filepath.Join(p.Library, "mlaas", "_prepare.py")}, ask)
	if exit, ok := errors.AsType[*Exit](err); ok {
		return out, fmt.Errorf("%s cannot read the code: %w", p.Python, exit)
	}
	if err != nil {
		return out, err
	}
	return decode(text, tree)
}

// answer is what mlaas/_prepare.py writes.
type answer struct {
	Python string `json:"python"`
	Files  []struct {
		mlaas.Change
		Content []byte `json:"content"` // base64
	} `json:"files"`
	Refusals []mlaas.Refusal `json:"refusals"`
	Spread   *mlaas.Spread   `json:"spread"`
}

func decode(text []byte, tree mlaas.Tree) (out mlaas.Preparation, err error) {
	var a answer
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&a); err != nil {
		return out, fmt.Errorf("what became of the code cannot be read: %w", err)
	}
	if err := mlaas.Refused(a.Refusals); err != nil {
		return out, err
	}
	out = mlaas.Preparation{Prepared: mlaas.Prepared{Python: a.Python, Files: len(a.Files)}, Changes: []mlaas.Change{}, Spread: a.Spread}
	for _, f := range a.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return out, mlaas.Invalid("path", "a path inside the code", f.Path)
		}
		c := f.Change
		c.Content = f.Content
		if c.Marks == nil {
			c.Marks = []mlaas.Mark{}
		}
		out.Marks += len(c.Marks)
		out.Changes = append(out.Changes, c)
	}
	out.Digest = tree.With(out.Changes).Digest()
	return out, nil
}
