package main

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// A bundle is the code that one run takes along: files of one folder.
type bundle struct {
	Root    string   // the folder
	Files   []member // sorted by path
	Size    int64
	Skipped []string // what was left out and why, a phrase each
}

// A member is one file of a bundle.
type member struct {
	Path string // with slashes, below Root
	Size int64
	Exec bool
}

// What a bundle may hold. Code is small; what is larger is data, which is kept
// apart and sent once.
const (
	maxBundleFiles = 10_000
	maxBundleSize  = 256 << 20
)

// ignored is what is never code, wherever it lies. Environments and caches are
// made anew; secrets do not travel.
const ignored = `
.git/
.hg/
.svn/
__pycache__/
*.pyc
*.pyo
*.egg-info/
.venv/
venv/
node_modules/
.mypy_cache/
.pytest_cache/
.ruff_cache/
.ipynb_checkpoints/
.tox/
.nox/
.idea/
.vscode/
.DS_Store
.env
mlaas-runs/
`

// collect lists the code below a folder: all but what is ignored by habit or
// by the folder's .mlaasignore, which is written like a .gitignore. Links are
// left out, so that nothing outside the folder is sent by mistake.
func collect(root string) (*bundle, error) {
	b := &bundle{Root: root}
	rules := readRules(strings.NewReader(ignored))
	if f, err := os.Open(filepath.Join(root, ".mlaasignore")); err == nil {
		rules = append(rules, readRules(f)...)
		f.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, at)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case rules.ignore(rel, e.IsDir()):
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case e.IsDir():
			if _, err := os.Stat(filepath.Join(at, "pyvenv.cfg")); err == nil {
				b.Skipped = append(b.Skipped, rel+"/ (a virtual environment)")
				return filepath.SkipDir
			}
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			b.Skipped = append(b.Skipped, rel+" (a link)")
			return nil
		case !e.Type().IsRegular():
			b.Skipped = append(b.Skipped, rel+" (no regular file)")
			return nil
		}
		return b.add(rel)
	})
	if err != nil {
		return nil, err
	}
	return b, b.check()
}

// only makes a bundle of a few files that are known by name.
func only(root string, files []string) (*bundle, error) {
	b := &bundle{Root: root}
	for _, f := range files {
		if err := b.add(f); err != nil {
			return nil, err
		}
	}
	return b, b.check()
}

// texts are the files that are texts, as far as a plan reads them.
func (b *bundle) texts() (map[string]string, error) {
	if b == nil {
		return nil, nil
	}
	out, left := map[string]string{}, int64(8<<20)
	for _, f := range b.Files {
		if f.Size > left {
			continue
		}
		text, err := os.ReadFile(filepath.Join(b.Root, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		if utf8.Valid(text) {
			left -= f.Size
			out[f.Path] = string(text)
		}
	}
	return out, nil
}

func (b *bundle) add(rel string) error {
	info, err := os.Stat(filepath.Join(b.Root, filepath.FromSlash(rel)))
	if err != nil {
		return err
	}
	b.Files = append(b.Files, member{rel, info.Size(), info.Mode()&0o111 != 0})
	b.Size += info.Size()
	if len(b.Files) > maxBundleFiles {
		return tell{What: fmt.Sprintf("%s holds more than %d files", b.Root, maxBundleFiles), Kind: mlaas.ErrTooLarge,
			Fix: "run a smaller folder, or name what is no code in .mlaasignore"}
	}
	return nil
}

func (b *bundle) check() error {
	slices.SortFunc(b.Files, func(x, y member) int { return cmp.Compare(x.Path, y.Path) })
	if len(b.Files) == 0 {
		return tell{What: b.Root + " holds no file that could be code", Kind: mlaas.ErrInvalid,
			Fix: "name a Python file or a folder with one:   mlaas run train.py"}
	}
	if b.Size <= maxBundleSize {
		return nil
	}
	large := slices.Clone(b.Files)
	slices.SortFunc(large, func(x, y member) int { return cmp.Compare(y.Size, x.Size) })
	var names []string
	for _, m := range large[:min(3, len(large))] {
		names = append(names, fmt.Sprintf("%s (%s)", m.Path, size(m.Size)))
	}
	return tell{What: fmt.Sprintf("the code in %s is %s, and at most %s is sent", b.Root, size(b.Size), size(int64(maxBundleSize))),
		Why:  "the largest files are " + strings.Join(names, ", "),
		Fix:  "send data once with   mlaas data put NAME PATH   and name it in --data, or list it in .mlaasignore",
		Kind: mlaas.ErrTooLarge}
}

// has reports whether the bundle holds a file.
func (b *bundle) has(p string) bool {
	return slices.ContainsFunc(b.Files, func(m member) bool { return m.Path == p })
}

// entry is the file to start: main.py, or the only Python file on top.
func (b *bundle) entry() (choice, error) {
	var tops []string
	for _, m := range b.Files {
		if path.Dir(m.Path) == "." && strings.HasSuffix(m.Path, ".py") {
			tops = append(tops, m.Path)
		}
	}
	switch {
	case b.has("main.py"):
		return choice{"main.py", "the folder has a main.py"}, nil
	case len(tops) == 1:
		return choice{tops[0], "the only Python file on top of the folder"}, nil
	case len(tops) == 0:
		return choice{}, tell{What: "nothing in " + b.Root + " says how to start the program", Kind: mlaas.ErrInvalid,
			Why: "it has no main.py and no other Python file on top",
			Fix: "name it:   mlaas run " + b.Root + " --entry FILE   or put execution.command into mlaas.yaml"}
	}
	return choice{}, tell{What: "which program is to be started?", Kind: mlaas.ErrInvalid,
		Why: fmt.Sprintf("%s has no main.py but %d Python files: %s", b.Root, len(tops), strings.Join(tops[:min(6, len(tops))], ", ")),
		Fix: "name it:   mlaas run " + b.Root + " --entry " + tops[0]}
}

// pack writes the bundle as a tar.gz that depends on nothing but names,
// contents and execute bits, so that equal code is equal bytes.
func (b *bundle) pack(w io.Writer) error {
	root, err := os.OpenRoot(b.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, m := range b.Files {
		if err := packOne(t, root, m); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

func packOne(t *tar.Writer, root *os.Root, m member) error {
	f, err := root.Open(filepath.FromSlash(m.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	mode := int64(0o644)
	if m.Exec {
		mode = 0o755
	}
	if err := t.WriteHeader(&tar.Header{Name: m.Path, Size: m.Size, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(t, io.LimitReader(f, m.Size))
	if err == nil && n < m.Size {
		err = fmt.Errorf("%s became shorter while it was read: %w", m.Path, mlaas.ErrConflict)
	}
	return err
}

// rules are the lines of an ignore file; the last that matches decides.
type rules []rule

type rule struct {
	match   *regexp.Regexp
	keep    bool // "!": not ignored after all
	folders bool // "/" at the end: folders alone
}

func readRules(r io.Reader) (out rules) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		var one rule
		line, one.keep = strings.CutPrefix(line, "!")
		line, one.folders = strings.CutSuffix(line, "/")
		anchored := strings.Contains(line, "/")
		one.match = regexp.MustCompile(glob(strings.TrimPrefix(line, "/"), anchored))
		out = append(out, one)
	}
	return out
}

func (rs rules) ignore(rel string, folder bool) bool {
	for _, r := range slices.Backward(rs) {
		if (folder || !r.folders) && r.match.MatchString(rel) {
			return !r.keep
		}
	}
	return false
}

// glob turns a pattern of an ignore file into a regular expression over a
// whole path.
func glob(pattern string, anchored bool) string {
	var b strings.Builder
	b.WriteString("^")
	if !anchored {
		b.WriteString("(?:.*/)?")
	}
	for i := 0; i < len(pattern); i++ {
		switch rest := pattern[i:]; {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			i++
		case rest[0] == '*':
			b.WriteString("[^/]*")
		case rest[0] == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
		}
	}
	b.WriteString("$")
	return b.String()
}
