package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for p, text := range files {
		at := filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func paths(b *bundle) (out []string) {
	for _, m := range b.Files {
		out = append(out, m.Path)
	}
	return out
}

func TestCollect(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"main.py": "x", "lib/net.py": "x", "lib/__pycache__/net.pyc": "x", ".git/config": "x", "my/pyvenv.cfg": "x", "my/lib/a.py": "x",
		".env": "KEY=1", "data/a.bin": "x", "data/keep.txt": "x", "logs/a.log": "x", "deep/er/tmp/x": "x", "tmp": "a file",
		".mlaasignore": "# mine\n*.bin\n/logs/\n**/tmp/\n!data/keep.txt\n",
	})
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "passwd")); err != nil {
		t.Fatal(err)
	}
	b, err := collect(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".mlaasignore", "data/keep.txt", "lib/net.py", "main.py", "tmp"}
	if got := paths(b); !slices.Equal(got, want) {
		t.Errorf("collected %q, want %q", got, want)
	}
	if want := []string{"my/ (a virtual environment)", "passwd (a link)"}; !slices.Equal(b.Skipped, want) {
		t.Errorf("skipped %q, want %q", b.Skipped, want)
	}
}

func TestIgnore(t *testing.T) {
	tests := []struct {
		rules, path string
		folder      bool
		want        bool
	}{
		{"*.log", "a/b/c.log", false, true},
		{"/a", "b/a", false, false},
		{"/a", "a", false, true},
		{"a/b", "a/b", false, true},
		{"a/b", "x/a/b", false, false},
		{"a/**/b", "a/x/y/b", false, true},
		{"a/**/b", "a/b", false, true},
		{"build/", "build", false, false},
		{"build/", "build", true, true},
		{"*.txt\n!keep.txt", "keep.txt", false, false},
		{"a?c", "abc", false, true},
		{"a?c", "a/c", false, false},
		{"a+b(1).txt", "a+b(1).txt", false, true},
	}
	for _, tt := range tests {
		if got := readRules(strings.NewReader(tt.rules)).ignore(tt.path, tt.folder); got != tt.want {
			t.Errorf("rules %q ignore %s: %v, want %v", tt.rules, tt.path, got, tt.want)
		}
	}
}

func TestEqualCodeIsEqualBytes(t *testing.T) {
	var packed [2]bytes.Buffer
	for i := range packed {
		root := t.TempDir()
		write(t, root, map[string]string{"main.py": "print(1)", "lib/a.py": "x = 1"})
		old := time.Unix(int64(1000*i), 0)
		if err := os.Chtimes(filepath.Join(root, "main.py"), old, old); err != nil {
			t.Fatal(err)
		}
		b, err := collect(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.pack(&packed[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
		t.Error("the same code at another time is another archive")
	}
}

func TestEntry(t *testing.T) {
	tests := []struct {
		files []string
		want  string
		says  string
	}{
		{[]string{"a.py", "main.py"}, "main.py", ""},
		{[]string{"a.py", "lib/b.py"}, "a.py", ""},
		{[]string{"a.py", "b.py"}, "", "which program is to be started?: %s has no main.py but 2 Python files: a.py, b.py"},
		{[]string{"README"}, "", "nothing in %s says how to start the program: it has no main.py and no other Python file on top"},
	}
	for _, tt := range tests {
		root := t.TempDir()
		for _, f := range tt.files {
			write(t, root, map[string]string{f: ""})
		}
		b, err := collect(root)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.entry()
		if got.Value != tt.want {
			t.Errorf("%q: starts %q, want %q", tt.files, got.Value, tt.want)
		}
		if tt.says != "" {
			if want := fmt.Sprintf(tt.says, root); err == nil || err.Error() != want {
				t.Errorf("%q: says %v, want %s", tt.files, err, want)
			}
			if !errors.Is(err, mlaas.ErrInvalid) {
				t.Errorf("%q: is %v, want invalid", tt.files, mlaas.KindOf(err))
			}
		}
	}
}

func TestTooMuchCode(t *testing.T) {
	b := &bundle{Root: "x", Files: []member{{"a.py", 10, false}, {"weights.bin", maxBundleSize, false}}, Size: maxBundleSize + 10}
	err := b.check()
	if want := "the code in x is 268 MB, and at most 268 MB is sent: the largest files are weights.bin (268 MB), a.py (10 B)"; err == nil || err.Error() != want {
		t.Errorf("says %v, want %s", err, want)
	}
}
