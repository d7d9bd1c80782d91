//go:build linux

package kubetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What of this package needs no cluster.

func TestImageWrite(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"a/b/program": "x", "a/skipped/file": "y", "a/skipped.py": "z"} {
		file := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b/program", filepath.Join(from, "a/link")); err != nil {
		t.Fatal(err)
	}
	image := Image{
		Ref: "kubetest.local/some:1", Files: map[string]string{"/opt/a": filepath.Join(from, "a"), "/main": filepath.Join(from, "a/link")},
		Links: map[string]string{"/usr/bin/x": "/main"}, Without: []string{"skipped", "skipped.py"}, Entrypoint: []string{"/main"},
	}
	var archives [2][]byte
	for i := range archives {
		file := filepath.Join(to, "image.tar")
		if err := image.Write(file); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	blobs := func(archive []byte) map[string][]byte {
		found := map[string][]byte{}
		for r := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return found
			}
			if err != nil {
				t.Fatal(err)
			}
			if found[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := blobs(archives[0]), blobs(archives[1])
	if !bytes.Equal(first["index.json"], second["index.json"]) {
		t.Errorf("the same image has two digests: %s and %s", first["index.json"], second["index.json"])
	}
	var layer strings.Builder
	for name, blob := range first {
		if !strings.HasPrefix(name, "blobs/") || blob[0] == '{' {
			continue
		}
		for r := tar.NewReader(bytes.NewReader(blob)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			content, _ := io.ReadAll(r)
			layer.WriteString(fs.FileMode(h.Mode).String() + " " + h.Name + h.Linkname + " " + string(content) + "\n")
		}
	}
	const want = `-rwxrwxrwx tmp/ 
-rwxr-xr-x main x
-rwxr-xr-x opt/ 
-rwxr-xr-x opt/a/ 
-rwxr-xr-x opt/a/b/ 
-rwxr-xr-x opt/a/b/program x
-rwxrwxrwx opt/a/linkb/program 
-rwxr-xr-x usr/ 
-rwxr-xr-x usr/bin/ 
-rwxrwxrwx usr/bin/x/main 
`
	if got := layer.String(); got != want {
		t.Errorf("the layer is\n%swant\n%s", got, want)
	}
	for _, ref := range []string{"some", "local/some:1", "kubetest.local/some"} {
		if err := (Image{Ref: ref}).Write(filepath.Join(to, "bad.tar")); err == nil || !strings.Contains(err.Error(), `"`+ref+`"`) {
			t.Errorf("with the name %q: %v", ref, err)
		}
	}
}

func TestBinVariable(t *testing.T) {
	t.Setenv(BinVariable, t.TempDir())
	if err := Have(); err == nil || !strings.Contains(err.Error(), "make kube-bin") {
		t.Errorf("with an empty folder: %v", err)
	}
	t.Setenv(BinVariable, "-")
	if err := Have(); !errors.Is(err, errUnwanted) {
		t.Errorf("with -: %v", err)
	}
}
