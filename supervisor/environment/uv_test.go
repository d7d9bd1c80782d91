package environment

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wheelOf is a wheel of uv that holds this program.
func wheelOf(t *testing.T, program string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{"uv/__init__.py": "", "uv-9.9.9.data/scripts/uv": program, "uv-9.9.9.data/scripts/uvx": "no"} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(text))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A machine whose Python has no pip fetches uv from the index by itself.
func TestFetchFromTheIndex(t *testing.T) {
	python3(t)
	tags := strings.Join([]string{wheelTags()[0], wheelTags()[1]}, "_2_17_")
	newest := "uv-0.13.9-py3-none-" + tags + ".whl"
	wheel := wheelOf(t, "#!/bin/sh\necho it is uv\n")
	sum := hash(wheel)
	names := []string{"uv-0.9.30-py3-none-" + tags + ".whl", newest, "uv-0.14.0rc1-py3-none-" + tags + ".whl", "uv-0.13.9.tar.gz", "uv-0.15.0-py3-none-win_amd64.whl"}
	page := func(kind string) (string, string) {
		if kind == "json" {
			var files []string
			for _, n := range names {
				files = append(files, fmt.Sprintf(`{"filename":%q,"url":"../../files/%s","hashes":{"sha256":%q},"yanked":false}`, n, n, sum))
			}
			files = append(files, fmt.Sprintf(`{"url":"../../files/uv-0.20.0-py3-none-%s.whl","hashes":{"sha256":%q},"yanked":"broken"}`, tags, sum))
			return "application/vnd.pypi.simple.v1+json", `{"files":[` + strings.Join(files, ",") + `]}`
		}
		var b strings.Builder
		for _, n := range names {
			fmt.Fprintf(&b, `<a href="../../files/%s#sha256=%s" data-requires-python="&gt;=3.8">%s</a><br>`, n, sum, n)
		}
		fmt.Fprintf(&b, `<a data-yanked="broken" href="../../files/uv-0.20.0-py3-none-%s.whl#sha256=%s">x</a>`, tags, sum)
		return "text/html", b.String()
	}
	for _, kind := range []string{"json", "html"} {
		t.Run(kind, func(t *testing.T) {
			var asked []string
			index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				user, password, _ := r.BasicAuth()
				asked = append(asked, r.URL.Path+" "+user+":"+password)
				if strings.HasSuffix(r.URL.Path, "/uv/") {
					head, body := page(kind)
					w.Header().Set("Content-Type", head)
					fmt.Fprint(w, body)
					return
				}
				_, _ = w.Write(wheel)
			}))
			defer index.Close()
			alone(t)
			t.Setenv("PIP_INDEX_URL", strings.Replace(index.URL, "://", "://me:secret@", 1)+"/root/simple/")
			m := &Manager{Dir: t.TempDir()}
			var said []string
			uv, err := m.uv(t.Context(), &interpreter{Executable: "/bin/false"}, func(s string) { said = append(said, s) })
			if err != nil {
				t.Fatal(err)
			}
			got, _ := os.ReadFile(uv)
			if !strings.Contains(string(got), "it is uv") || !runs(uv) || len(said) != 1 {
				t.Errorf("%s holds %q; said %q", uv, got, said)
			}
			if want := "/root/files/" + newest + " me:secret"; len(asked) != 2 || asked[1] != want {
				t.Errorf("asked for %q, want %q", asked, want)
			}
			if again, err := m.uv(t.Context(), nil, nil); again != uv || err != nil || len(asked) != 2 {
				t.Errorf("it was fetched again: %s %v %q", again, err, asked)
			}
		})
	}
	t.Run("changed on the way", func(t *testing.T) {
		index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/uv/") {
				head, body := page("json")
				w.Header().Set("Content-Type", head)
				fmt.Fprint(w, body)
				return
			}
			fmt.Fprint(w, "something else")
		}))
		defer index.Close()
		alone(t)
		t.Setenv("PIP_INDEX_URL", index.URL+"/root/simple")
		m := &Manager{Dir: t.TempDir()}
		_, err := m.uv(t.Context(), &interpreter{Executable: "/bin/false"}, func(string) {})
		if err == nil || !strings.Contains(err.Error(), "does not have the sha256 that the index states") || !strings.Contains(err.Error(), "put uv on PATH or in MLAAS_UV") {
			t.Errorf("got %v", err)
		}
		if left := glob(filepath.Join(m.Dir, "uv", "*")); len(left) != 1 {
			t.Errorf("left behind: %q", left)
		}
	})
}

// alone hides this machine's own settings and installers.
func alone(t *testing.T) {
	t.Helper()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "UV_") || strings.HasPrefix(name, "PIP_") || name == "MLAAS_UV" {
			t.Setenv(name, "")
		}
	}
	t.Setenv("PATH", "/usr/bin:/bin")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
}

func TestSettingsOfPip(t *testing.T) {
	alone(t)
	file := filepath.Join(t.TempDir(), "pip.conf")
	if err := os.WriteFile(file, []byte("# mine\n[global]\nindex_url = https://a/simple\nextra-index-url =\n    https://b/simple\n    https://c/simple\n[list]\nindex-url = https://no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PIP_CONFIG_FILE", file)
	t.Setenv("PIP_FIND_LINKS", "/not/there https://links")
	t.Setenv("SSL_CERT_FILE", "")
	t.Setenv("PIP_CERT", "/c.pem")
	s := settings()
	got := strings.Join(s.extra, " | ")
	if s.index != "https://a/simple" || got != "UV_DEFAULT_INDEX=https://a/simple | UV_INDEX=https://b/simple https://c/simple | UV_FIND_LINKS=https://links | SSL_CERT_FILE=/c.pem" {
		t.Errorf("index %s, %s", s.index, got)
	}
	t.Setenv("UV_DEFAULT_INDEX", "https://own")
	if s := settings(); s.index != "https://own" || strings.Contains(strings.Join(s.extra, " "), "UV_DEFAULT_INDEX") {
		t.Errorf("what is said to uv itself goes first: %+v", s)
	}
}

func TestPythonsAreAskedOnce(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	bin, log := filepath.Join(dir, "bin"), filepath.Join(dir, "asked")
	t.Setenv("PATH", bin)
	t.Setenv("PYENV_ROOT", filepath.Join(dir, "pyenv"))
	t.Setenv("ASKED", log)
	put := func(path, version string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("#!/bin/sh\necho %s >> \"$ASKED\"\necho '{\"executable\":\"%s\",\"version\":\"%s\",\"prefix\":\"/p\",\"tag\":\"t\"}'\n", version, path, version)
		if version == "" {
			text = "#!/bin/sh\nexit 127\n"
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(bin, "python3"), "3.14.1")
	put(filepath.Join(bin, "python3.13"), "")
	put(filepath.Join(dir, "pyenv", "versions", "3.12.4", "bin", "python3"), "3.12.4")
	put(filepath.Join(dir, "pyenv", "versions", "3.6.4", "bin", "python3"), "3.6.4")
	m := &Manager{Dir: dir}
	tests := []struct {
		version string
		prefer  []string
		want    string
	}{
		{"", nil, "3.14.1"},
		{"3.12", nil, "3.12.4"},
		{"3.12.4", nil, "3.12.4"},
		{"", []string{"3.11", "3.12"}, "3.12.4"}, // the framework has no wheels for 3.14
	}
	for range 2 {
		for _, tt := range tests {
			py, err := m.python(t.Context(), tt.version, tt.prefer)
			if err != nil || py.Version != tt.want {
				t.Errorf("%q, %v: %v %v, want %s", tt.version, tt.prefer, py, err, tt.want)
			}
		}
	}
	data, _ := os.ReadFile(log)
	for _, v := range []string{"3.14.1", "3.12.4"} {
		if n := strings.Count(string(data), v+"\n"); n != 1 {
			t.Errorf("%s was asked %d times, want once", v, n)
		}
	}
	if _, err := m.python(t.Context(), "3.6", nil); err == nil || !strings.Contains(err.Error(), "there is no Python 3.6 on this machine, which has") || strings.Contains(err.Error(), "3.6,") {
		t.Errorf("one that is too old: %v", err)
	}
	// It is another one now.
	put(filepath.Join(bin, "python3"), "3.15.0")
	later := time.Now().Add(time.Hour)
	_ = os.Chtimes(filepath.Join(bin, "python3"), later, later)
	if py, err := m.python(t.Context(), "", nil); err != nil || py.Version != "3.15.0" {
		t.Errorf("after an upgrade: %v %v", py, err)
	}
}
