package blob_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
)

func open(t testing.TB) *files.Files {
	t.Helper()
	f, err := files.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestCheckTree(t *testing.T) {
	tests := []struct {
		paths []string
		want  string // empty: it is fine
	}{
		{[]string{"main.py"}, ""},
		{[]string{"a/b/c", "a/b/d", "a/e", "ab"}, ""},
		{[]string{"日本語/ä.txt", ".hidden", "a b", "..."}, ""},
		{[]string{""}, `path is "", want a path in UTF-8`},
		{[]string{"/etc/passwd"}, `path is "/etc/passwd", want a relative path`},
		{[]string{"C:/x"}, `path is "C:/x", want a relative path`},
		{[]string{"../x"}, `path is "../x", want no ".."`},
		{[]string{"a/../x"}, `path is "a/../x", want no ".."`},
		{[]string{"a//x"}, `path is "a//x", want no empty part and no "."`},
		{[]string{"./x"}, `path is "./x", want no empty part and no "."`},
		{[]string{"x/"}, `path is "x/", want no empty part and no "."`},
		{[]string{`a\x`}, `path is "a\\x", want slashes between folders`},
		{[]string{"a\nb"}, `path is "a\nb", want no control characters`},
		{[]string{"a\xff"}, `path is "a\xff", want a path in UTF-8`},
		{[]string{strings.Repeat("a", 256)}, `path is "` + strings.Repeat("a", 60) + `...", want parts of at most 255 bytes`},
		{[]string{"a", "a"}, `path is "a", want each file once`},
		{[]string{"README", "readme"}, `path is "readme", want names that differ in more than upper and lower case, as there is README`},
		{[]string{"a", "a/b"}, `path is "a/b", want no file inside a, which is a file`},
		{[]string{"a/b/c", "A"}, `path is "A", want a file, where there is a folder of that name`},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.paths, " "), func(t *testing.T) {
			var files []mlaas.File
			for _, p := range tt.paths {
				files = append(files, mlaas.File{Path: p, Digest: blob.Name(nil)})
			}
			err := blob.CheckTree(files)
			if tt.want == "" && err != nil {
				t.Errorf("it says %v", err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(tt.want, "path is ")) || !errors.Is(err, mlaas.ErrInvalid)) {
				t.Errorf("it says %v, want %s", err, tt.want)
			}
		})
	}
}

func TestTree(t *testing.T) {
	d := open(t)
	one, err := blob.PutBytes(t.Context(), d, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	files := []mlaas.File{{Path: "b", Digest: one, Size: 3}, {Path: "a/x", Digest: one, Size: 3, Exec: true}}
	digest, tree, err := blob.PutTree(t.Context(), d, files)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	again, _, err := blob.PutTree(t.Context(), d, files)
	if err != nil || again != digest {
		t.Errorf("the same files are %s, %v; want %s", again, err, digest)
	}
	if got := blob.TreeSize(tree); got != 6 {
		t.Errorf("its size is %d", got)
	}
	back, err := blob.GetTree(t.Context(), d, digest)
	if err != nil || !cmp.Equal(back, tree) {
		t.Errorf("it is %v, %v; want %v", back, err, tree)
	}
	if _, err := blob.GetTree(t.Context(), d, one); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("a file that is no tree: %v", err)
	}
	nothing, _, err := blob.PutTree(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := blob.GetTree(t.Context(), d, nothing); err != nil || len(back.Files) != 0 {
		t.Errorf("the empty tree is %v, %v", back, err)
	}
}

func TestFolder(t *testing.T) {
	d, from, to := open(t), t.TempDir(), t.TempDir()
	want := map[string]string{"main.py": "print(1)", "pkg/mod.py": "", "pkg/deep/er/run.sh": "#!/bin/sh"}
	for p, text := range want {
		p = filepath.Join(from, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(from, "pkg/deep/er/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	digest, tree, err := blob.PutFolder(t.Context(), d, from, blob.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) != len(want) {
		t.Errorf("the tree is %v", tree)
	}
	for range 2 { // the second time it replaces
		if _, err := blob.WriteTree(t.Context(), d, digest, to); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range want {
		got, err := os.ReadFile(filepath.Join(to, p))
		if err != nil || string(got) != text {
			t.Errorf("%s is %q, %v; want %q", p, got, err, text)
		}
		info, err := os.Stat(filepath.Join(to, p))
		if exec := strings.HasSuffix(p, ".sh"); err != nil || info.Mode()&0o111 != 0 != exec {
			t.Errorf("%s is %v, %v; executable should be %v", p, info.Mode(), err, exec)
		}
	}
	for name, l := range map[string]blob.Limits{"files": {Files: 3}, "bytes": {Bytes: 10}} {
		if _, _, err := blob.PutFolder(t.Context(), d, from, l); !errors.Is(err, mlaas.ErrTooLarge) {
			t.Errorf("over the limit on %s it says %v", name, err)
		}
	}
}

func TestFolderWithStrangeThings(t *testing.T) {
	d := open(t)
	for name, make := range map[string]func(string) error{
		"link": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"pipe": func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := blob.PutFolder(t.Context(), d, dir, blob.Limits{}); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("a %s: %v, want invalid", name, err)
		}
	}
}

// A folder that a program has written to may hold links that lead out of it.
func TestWriteTreeStaysInside(t *testing.T) {
	d, outside, to := open(t), t.TempDir(), t.TempDir()
	one, err := blob.PutBytes(t.Context(), d, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := blob.PutTree(t.Context(), d, []mlaas.File{{Path: "sub/file", Digest: one, Size: 3}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(to, "sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.WriteTree(t.Context(), d, digest, to); err == nil {
		t.Error("it followed a link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
	// A file that is a link is replaced, not written through.
	if err := os.Remove(filepath.Join(to, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(to, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "file"), filepath.Join(to, "sub/file")); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.WriteTree(t.Context(), d, digest, to); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}

func TestWriteTreeChecksSize(t *testing.T) {
	d := open(t)
	one, err := blob.PutBytes(t.Context(), d, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := blob.PutTree(t.Context(), d, []mlaas.File{{Path: "x", Digest: one, Size: 4}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blob.WriteTree(t.Context(), d, digest, t.TempDir()); !errors.Is(err, blob.ErrDamaged) {
		t.Errorf("it says %v", err)
	}
}

// An item is one entry of an archive that a test makes.
type item struct {
	name string
	kind byte // of tar; 0: a file
	text string
	mode fs.FileMode
}

func makeZip(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, i := range items {
		h := &zip.FileHeader{Name: i.name, Method: zip.Deflate}
		mode := i.mode | 0o644
		switch i.kind {
		case tar.TypeSymlink:
			mode |= fs.ModeSymlink
		case tar.TypeChar:
			mode |= fs.ModeDevice | fs.ModeCharDevice
		case tar.TypeFifo:
			mode |= fs.ModeNamedPipe
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(i.name, "/") {
			if _, err := io.WriteString(f, i.text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func makeTar(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: i.kind, Mode: int64(i.mode | 0o644), Size: int64(len(i.text))}
		switch i.kind {
		case 0:
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(i.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	many := make([]item, 60)
	for i := range many {
		many[i].name = fmt.Sprint(i)
	}
	limits := blob.Limits{Files: 50, Bytes: 24 << 20, Ratio: 100}
	tests := []struct {
		name  string
		items []item
		kind  *mlaas.Kind // nil: it is taken
		want  string      // in the error, or the paths
	}{
		{"files", []item{{name: "main.py", text: "print(1)"}, {name: "run.sh", text: "x", mode: 0o755}}, nil, "main.py run.sh*"},
		{"one top folder stays", []item{{name: "top/"}, {name: "top/a"}, {name: "top/b/c"}}, nil, "top/a top/b/c"},
		{"as tar writes it", []item{{name: "./"}, {name: "./a/"}, {name: "./a/b"}}, nil, "a/b"},
		{"nothing", nil, nil, ""},
		{"up", []item{{name: "ok"}, {name: "../evil"}}, mlaas.ErrInvalid, `want no ".."`},
		{"up inside", []item{{name: "a/../../evil"}}, mlaas.ErrInvalid, `want no ".."`},
		{"a folder up", []item{{name: "../evil/"}}, mlaas.ErrInvalid, `want no ".."`},
		{"absolute", []item{{name: "/etc/passwd"}}, mlaas.ErrInvalid, "want a relative path"},
		{"backslash", []item{{name: `..\evil`}}, mlaas.ErrInvalid, "want slashes between folders"},
		{"link", []item{{name: "ok"}, {name: "link", kind: tar.TypeSymlink}}, mlaas.ErrInvalid, "links and devices are refused"},
		{"device", []item{{name: "dev", kind: tar.TypeChar}}, mlaas.ErrInvalid, "links and devices are refused"},
		{"pipe", []item{{name: "pipe", kind: tar.TypeFifo}}, mlaas.ErrInvalid, "links and devices are refused"},
		{"twice", []item{{name: "a", text: "1"}, {name: "a", text: "2"}}, mlaas.ErrInvalid, "want each file once"},
		{"twins", []item{{name: "a"}, {name: "A"}}, mlaas.ErrInvalid, "upper and lower case"},
		{"too many", many, mlaas.ErrTooLarge, "the archive has more than 50 files"},
		{"bomb by ratio", []item{{name: "zeros", text: strings.Repeat("\x00", 20<<20)}}, mlaas.ErrTooLarge, "the archive unpacks to more than 100 times its size"},
		{"bomb by size", []item{{name: "ok", text: strings.Repeat("ok", 7<<20)}, {name: "b", text: strings.Repeat("no", 7<<20)}}, mlaas.ErrTooLarge, "the archive unpacks to more than"},
	}
	check := func(t *testing.T, format string, data []byte, kind *mlaas.Kind, want string) {
		t.Helper()
		d, began := open(t), time.Now()
		files, err := blob.PutArchive(t.Context(), d, bytes.NewReader(data), format, limits)
		if took := time.Since(began); kind != nil && took > 2*time.Second {
			t.Errorf("%s: refusing it took %s", format, took)
		}
		if kind == nil {
			var paths []string
			for _, f := range files {
				p := f.Path
				if f.Exec {
					p += "*"
				}
				paths = append(paths, p)
				if _, err := d.Stat(t.Context(), f.Digest); err != nil {
					t.Errorf("%s: %s: %v", format, f.Path, err)
				}
			}
			if got := strings.Join(paths, " "); err != nil || got != want {
				t.Errorf("%s: it is %q, %v; want %q", format, got, err, want)
			}
			return
		}
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: it says %v, want %s of kind %s", format, err, want, kind)
		}
		if used := d.Usage(); used > 0 {
			t.Errorf("%s: it leaves %d bytes", format, used)
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			z, g := makeZip(t, tt.items...), makeTar(t, tt.items...)
			check(t, "application/zip; charset=binary", z, tt.kind, tt.want)
			check(t, "application/gzip", g, tt.kind, tt.want)
			if tt.kind == nil { // the same by looking at the bytes
				check(t, "", z, tt.kind, tt.want)
				check(t, "", g, tt.kind, tt.want)
			}
		})
	}
	t.Run("hard link", func(t *testing.T) {
		check(t, "tar.gz", makeTar(t, item{name: "a", kind: tar.TypeLink}), mlaas.ErrInvalid, "links and devices are refused")
	})
	whole := makeZip(t, item{name: "a", text: "hello hello hello"})
	packed := makeTar(t, item{name: "a", text: "hello hello hello"})
	broken := map[string][]byte{
		"cut zip":   whole[:len(whole)-10],
		"cut tar":   packed[:len(packed)/2],
		"text":      []byte("hello"),
		"empty":     nil,
		"flipped":   slices.Concat(whole[:33], []byte{whole[33] ^ 1}, whole[34:]),
		"gzip text": gzipped(t, []byte(strings.Repeat("no tar at all ", 100))),
	}
	for name, data := range broken {
		t.Run(name, func(t *testing.T) { check(t, "", data, mlaas.ErrInvalid, "archive is ") })
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A million empty files are a small archive, and refused at once.
func TestArchiveOfAMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 100 MB")
	}
	const n = 1_000_000
	var b bytes.Buffer
	var names bytes.Buffer
	head := make([]byte, 46)
	copy(head, "PK\x01\x02")
	head[28] = 6
	for i := range n {
		names.Write(head)
		fmt.Fprintf(&names, "%06d", i)
	}
	b.Write(names.Bytes())
	end := make([]byte, 22)
	copy(end, "PK\x05\x06")
	end[8], end[9], end[10], end[11] = n&0xff, n>>8&0xff, n&0xff, n>>8&0xff
	size := names.Len()
	end[12], end[13], end[14], end[15] = byte(size), byte(size>>8), byte(size>>16), byte(size>>24)
	b.Write(end)

	d, began := open(t), time.Now()
	_, err := blob.PutArchive(t.Context(), d, &b, "zip", blob.Limits{})
	if !errors.Is(err, mlaas.ErrTooLarge) || !strings.Contains(err.Error(), "the archive has more than 100000 files") {
		t.Errorf("it says %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("refusing it took %s", took)
	}
}

func TestArchiveCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := blob.PutArchive(ctx, open(t), bytes.NewReader(makeZip(t, item{name: "a"})), "", blob.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("it says %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	items := []item{{name: "top/"}, {name: "top/main.py", text: "print(1)", mode: 0o755}, {name: "data", text: strings.Repeat("0", 5000)}}
	f.Add(makeZip(f, items...))
	f.Add(makeTar(f, items...))
	f.Add(makeZip(f, item{name: "../evil"}))
	f.Add(makeTar(f, item{name: "link", kind: tar.TypeSymlink}))
	noise := make([]byte, 300)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(noise)
	f.Add(noise)
	d := &memory{}
	limits := blob.Limits{Files: 20, Bytes: 1 << 20, Ratio: 100}
	f.Fuzz(func(t *testing.T, data []byte) {
		d.puts, d.size = 0, 0
		files, err := blob.PutArchive(t.Context(), d, bytes.NewReader(data), "", limits)
		if err != nil {
			if k := mlaas.KindOf(err); k != mlaas.ErrInvalid && k != mlaas.ErrTooLarge {
				t.Errorf("the error is ours: %v", err)
			}
			if d.puts > 0 {
				t.Errorf("it is refused (%v) and leaves %d blobs", err, d.puts)
			}
			return
		}
		if err := blob.CheckTree(files); err != nil {
			t.Error(err)
		}
		if len(files) > limits.Files || d.size > int64(limits.Bytes) {
			t.Errorf("%d files of %d bytes are over the limits", len(files), d.size)
		}
	})
}

// memory is a place that only counts.
type memory struct {
	blob.Driver
	puts int
	size int64
}

func (m *memory) Put(_ context.Context, r io.Reader, _ mlaas.Digest) (mlaas.Digest, int64, error) {
	data, err := io.ReadAll(r)
	if err == nil {
		m.puts++
		m.size += int64(len(data))
	}
	return blob.Name(data), int64(len(data)), err
}
