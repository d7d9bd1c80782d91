package source_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/minio/minio-go/v7"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/bucket"
	"mlaas.dev/mlaas/internal/s3test"
	"mlaas.dev/mlaas/supervisor/source"
)

// A rig fetches, with what it was told to say.
type rig struct {
	*source.Fetcher
	mu   sync.Mutex
	said []string
	env  map[string]string
}

func fetcher(env map[string]string) *rig {
	r := &rig{env: env}
	r.Fetcher = &source.Fetcher{
		Guard:  func(*url.URL) (*http.Transport, error) { return bucket.Transport(bucket.Silence), nil },
		Getenv: func(name string) string { return r.env[name] },
		Say: func(text string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.said = append(r.said, text)
		},
		Most: 1 << 30, Files: 1000,
	}
	return r
}

// has are the files of a folder, as "path content", links as "path -> place".
func has(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			all = append(all, name+" -> "+to)
			return err
		}
		data, err := os.ReadFile(p)
		if len(data) > 40 {
			data = []byte(fmt.Sprintf("%d bytes", len(data)))
		}
		if i, _ := d.Info(); i.Mode()&0o222 != 0 {
			t.Errorf("%s can be written: %s", name, i.Mode())
		} else if i.Mode()&0o111 != 0 {
			name += "*"
		}
		all = append(all, name+" "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fill puts objects into a bucket.
func fill(t *testing.T, server *s3test.Server, name string, objects map[string]string) *bucket.Bucket {
	t.Helper()
	a, err := bucket.Parse(server.Bucket(name, ""))
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Connect(bucket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := b.BucketExists(t.Context(), name); !ok {
		if err := b.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for key, text := range objects {
		if _, err := b.Client.PutObject(t.Context(), name, key, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

var owner = map[string]string{"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey}

func TestObjects(t *testing.T) {
	server := s3test.Start(t)
	large := strings.Repeat("0123456789", 1<<20)
	fill(t, server, "data", map[string]string{
		"one.csv": "1,2", "set/a.txt": "a", "set/in/b.txt": "b", "set/empty": "", "set/large": large, "settle": "no",
	})
	end := "?endpoint=" + server.URL()
	for _, tt := range []struct {
		source string
		env    map[string]string
		want   []string // the files
		kind   *mlaas.Kind
		says   string
	}{
		{"s3://data/one.csv" + end, owner, []string{"one.csv 1,2"}, nil, ""},
		{"s3://data/set" + end, owner, []string{"a.txt a", "empty ", "in/b.txt b", "large 10485760 bytes"}, nil, ""},
		{"s3://data/set/" + end, owner, []string{"a.txt a", "empty ", "in/b.txt b", "large 10485760 bytes"}, nil, ""},
		{"s3://data/set/in" + end + "&region=us-east-1&path=true", owner, []string{"b.txt b"}, nil, ""},
		{"s3://data/none" + end, owner, nil, mlaas.ErrNotFound, "no object none"},
		{"s3://data/none/" + end, owner, nil, mlaas.ErrNotFound, "none below none/"},
		{"s3://nowhere/x" + end, owner, nil, mlaas.ErrNotFound, "nowhere"},
		{"s3://data/one.csv" + end, nil, nil, mlaas.ErrForbidden, "AWS_ACCESS_KEY_ID"},
		{"s3://data/set/" + end, map[string]string{"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": "hush"}, nil, mlaas.ErrForbidden, "AWS_SECRET_ACCESS_KEY"},
		{"s3://key:hush@data/one.csv" + end, nil, nil, mlaas.ErrInvalid, "secrets"},
		{"s3://data/one.csv" + end + "&create=true", owner, nil, mlaas.ErrInvalid, "that is there"},
	} {
		t.Run(tt.source, func(t *testing.T) {
			dir := t.TempDir()
			got, err := fetcher(tt.env).Objects(t.Context(), tt.source, dir)
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hush") {
					t.Fatalf("it says %v, want %v and %q", err, tt.kind, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if is := has(t, dir); !slices.Equal(is, tt.want) {
				t.Errorf("there are %q, want %q", is, tt.want)
			}
			if got.Files != len(tt.want) || got.Source != tt.source || got.Tree == "" || (len(tt.want) == 1 && got.Size < 10 && strings.HasPrefix(tt.source, "s3://data/one") && got.ETag == "") {
				t.Errorf("what was fetched is %+v", got)
			}
		})
	}
}

// The same objects are the same tree, others are others, and a source that
// changed since is not taken for what it was.
func TestSame(t *testing.T) {
	server := s3test.Start(t)
	fill(t, server, "data", map[string]string{"set/a": "a", "set/b": "b"})
	get := func() mlaas.Fetched {
		got, err := fetcher(owner).Objects(t.Context(), "s3://data/set/?endpoint="+server.URL(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first, again := get(), get()
	if err := source.Same(first, again); err != nil || first != again {
		t.Errorf("%+v, then %+v: %v", first, again, err)
	}
	fill(t, server, "data", map[string]string{"set/b": "B"})
	if err := source.Same(first, get()); !errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), "new run") {
		t.Errorf("changed it says %v, want a conflict", err)
	}
}

// A source that is too large, or whose names cannot be files, is refused.
func TestObjectsRefused(t *testing.T) {
	server := s3test.Start(t)
	fill(t, server, "data", map[string]string{"big/a": "aaaa", "big/b": "bbbb", "many/1": "", "many/2": "", "many/3": ""})
	f := fetcher(owner)
	f.Most, f.Files = 6, 2
	for key, kind := range map[string]*mlaas.Kind{"big": mlaas.ErrTooLarge, "many": mlaas.ErrTooLarge} {
		dir := t.TempDir()
		if _, err := f.Objects(t.Context(), "s3://data/"+key+"?endpoint="+server.URL(), dir); !errors.Is(err, kind) {
			t.Errorf("%s: it says %v, want %v", key, err, kind)
		}
		if left := has(t, dir); len(left) > 0 {
			t.Errorf("%s: it leaves %v", key, left)
		}
	}
	// A hostile server may list what it likes.
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `<ListBucketResult><Name>data</Name><IsTruncated>false</IsTruncated><Contents><Key>x/../../../up</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2020-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>`)
	}))
	defer hostile.Close()
	if _, err := fetcher(owner).Objects(t.Context(), "s3://data/x/?endpoint="+hostile.URL, t.TempDir()); !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), "..") {
		t.Errorf("a path that leads out: %v, want invalid", err)
	}
}

// A forge serves repositories over https, some to those who know a password.
type forge struct {
	*httptest.Server
	root     string
	password string // of all repositories; empty: none
	mu       sync.Mutex
	asked    []string // who, of each request
}

func newForge(t *testing.T) *forge {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{root: t.TempDir()}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + f.root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		f.mu.Lock()
		f.asked = append(f.asked, name)
		f.mu.Unlock()
		if f.password != "" && password != f.password {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSL_CAINFO", ca)
	return f
}

// git runs git in a folder, as nobody in particular.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit makes the next commit of a repository, with these files besides.
func (f *forge) commit(t *testing.T, repo string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(f.root, repo)
	if _, err := os.Stat(dir); err != nil {
		git(t, f.root, "init", "--quiet", "--initial-branch=main", repo)
	}
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		os.Remove(at)
		if to, link := strings.CutPrefix(text, "-> "); link {
			if err := os.Symlink(to, at); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(at, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "add", "--all")
	git(t, dir, "commit", "--quiet", "--message", "next")
	return git(t, dir, "rev-parse", "HEAD")
}

func (f *forge) fetch(t *testing.T, r *rig, at string, was *mlaas.Fetched) (mlaas.Fetched, []string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "files")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(filepath.Dir(dir), "git")
	got, err := r.Commit(t.Context(), "git+"+f.URL+"/"+at, dir, work, was)
	if _, e := os.Stat(work); !errors.Is(e, fs.ErrNotExist) {
		t.Errorf("git's folder is left: %v", e)
	}
	return got, has(t, dir), err
}

func TestCommit(t *testing.T) {
	f := newForge(t)
	const attributes = "*.txt eol=crlf filter=evil\n* export-ignore\n"
	first := f.commit(t, "repo.git", map[string]string{
		"a.txt": "1\n", "data/b.txt": "b", "data/run.sh": "#!/bin/sh", "data/in/deep": "d", "link": "-> data/b.txt",
		".gitattributes": attributes,
		"big.bin":        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
	})
	git(t, filepath.Join(f.root, "repo.git"), "tag", "v1")
	git(t, filepath.Join(f.root, "repo.git"), "branch", "feature/x")
	second := f.commit(t, "repo.git", map[string]string{"a.txt": "2"})

	all := func(a string) []string {
		return []string{fmt.Sprintf(".gitattributes %d bytes", len(attributes)), "a.txt " + a, "big.bin 64 bytes", "data/b.txt b", "data/in/deep d", "data/run.sh* #!/bin/sh", "link -> data/b.txt"}
	}
	for at, want := range map[string]struct {
		commit string
		files  []string
	}{
		"repo.git":                      {second, all("2")},
		"repo.git@main":                 {second, all("2")},
		"repo.git@v1":                   {first, all("1\n")},
		"repo.git@feature/x":            {first, all("1\n")},
		"repo.git@" + first:             {first, all("1\n")},
		"repo.git@v1#data":              {first, []string{"b.txt b", "in/deep d", "run.sh* #!/bin/sh"}},
		"repo.git#data/in":              {second, []string{"deep d"}},
		"repo.git#subdirectory=data/in": {second, []string{"deep d"}},
	} {
		r := fetcher(nil)
		got, files, err := f.fetch(t, r, at, nil)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		if got.Commit != want.commit || !slices.Equal(files, want.files) {
			t.Errorf("%s is %s with %q, want %s with %q", at, got.Commit, files, want.commit, want.files)
		}
		if lfs := slices.ContainsFunc(r.said, func(s string) bool { return strings.Contains(s, "LFS") }); lfs == strings.Contains(at, "#") {
			t.Errorf("%s says %q", at, r.said)
		}
	}

	// Fetched again for the same run, a branch is what it was.
	was := mlaas.Fetched{Commit: first}
	if got, _, err := f.fetch(t, fetcher(nil), "repo.git@main", &was); err != nil || got.Commit != first {
		t.Errorf("main of before is %s, %v, want %s", got.Commit, err, first)
	}
}

func TestCommitRefused(t *testing.T) {
	f := newForge(t)
	f.commit(t, "repo.git", map[string]string{"a": "a", "dir/b": "b"})
	f.commit(t, "out.git", map[string]string{"link": "-> ../../etc/passwd"})
	f.commit(t, "root.git", map[string]string{"link": "-> /etc/passwd"})
	f.commit(t, "large.git", map[string]string{"zeros": strings.Repeat("0", 5000)})
	for at, want := range map[string]struct {
		kind *mlaas.Kind
		says string
	}{
		"none.git":      {mlaas.ErrNotFound, "no repository"},
		"repo.git@none": {mlaas.ErrInvalid, "a branch, a tag"},
		"repo.git@" + strings.Repeat("12345678", 5): {mlaas.ErrInvalid, "a branch, a tag"},
		"repo.git#none": {mlaas.ErrInvalid, "a folder that"},
		"repo.git#a":    {mlaas.ErrInvalid, "a folder that"},
		"out.git":       {mlaas.ErrInvalid, "inside the folder"},
		"root.git":      {mlaas.ErrInvalid, "inside the folder"},
		"large.git":     {mlaas.ErrTooLarge, "larger"},
	} {
		r := fetcher(nil)
		r.Most = 4000
		_, files, err := f.fetch(t, r, at, nil)
		if !errors.Is(err, want.kind) || !strings.Contains(fmt.Sprint(err), want.says) || len(files) > 0 {
			t.Errorf("%s says %v and leaves %q, want %v and %q", at, err, files, want.kind, want.says)
		}
	}
}

// A password is told to the server that asks for it, and to nobody else.
func TestCommitPassword(t *testing.T) {
	f := newForge(t)
	f.commit(t, "repo.git", map[string]string{"a": "a"})
	f.password = "let 'me' in\"$x"
	for _, tt := range []struct {
		env  map[string]string
		in   bool
		name string
	}{
		{nil, false, ""},
		{map[string]string{"GIT_USERNAME": "me", "GIT_PASSWORD": "wrong"}, false, "me"},
		{map[string]string{"GIT_USERNAME": "me", "GIT_PASSWORD": f.password}, true, "me"},
		{map[string]string{"GIT_TOKEN": f.password}, true, "git"},
	} {
		f.asked = nil
		_, files, err := f.fetch(t, fetcher(tt.env), "repo.git", nil)
		if tt.in && (err != nil || len(files) != 1) || !tt.in && (!errors.Is(err, mlaas.ErrForbidden) || !strings.Contains(err.Error(), "GIT_PASSWORD")) {
			t.Errorf("%v: it says %v", tt.env, err)
		}
		if !slices.Contains(f.asked, tt.name) {
			t.Errorf("%v: asked as %q", tt.env, f.asked)
		}
		if len(f.asked) == 0 || f.asked[0] != "" {
			t.Errorf("%v: the name was told before it was asked for: %q", tt.env, f.asked)
		}
	}

	// Redirected to another host, the password stays.
	other := newForge(t)
	other.password = "another"
	away := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	away.TLS = other.TLS
	away.StartTLS()
	defer away.Close()
	if _, err := fetcher(map[string]string{"GIT_USERNAME": "me", "GIT_PASSWORD": "another"}).Commit(t.Context(), "git+"+away.URL+"/repo.git", t.TempDir(), filepath.Join(t.TempDir(), "git"), nil); err == nil {
		t.Error("it follows with the password")
	}
	if slices.Contains(other.asked, "me") {
		t.Errorf("the other host was told: %q", other.asked)
	}
}

// Git goes where we let it and nowhere else, whatever a name or a redirect says.
func TestGuard(t *testing.T) {
	f := newForge(t)
	f.commit(t, "repo.git", map[string]string{"a": "a"})
	guarded := func(allow ...string) *rig {
		r := fetcher(nil)
		r.Guard = func(*url.URL) (*http.Transport, error) {
			d := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
				if a, err := netip.ParseAddrPort(address); err != nil || !slices.Contains(allow, a.String()) {
					return fmt.Errorf("%s is not a public address: %w", address, mlaas.ErrForbidden)
				}
				return nil
			}}
			return &http.Transport{DialContext: d.DialContext}, nil
		}
		return r
	}
	at := f.Listener.Addr().String()
	if _, _, err := f.fetch(t, guarded(), "repo.git", nil); !errors.Is(err, mlaas.ErrForbidden) {
		t.Errorf("it says %v, want forbidden", err)
	}
	if _, _, err := f.fetch(t, guarded(at), "repo.git", nil); err != nil {
		t.Error(err)
	}
	inner := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer inner.Close()
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, inner.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	})
	if _, _, err := f.fetch(t, guarded(at), "repo.git", nil); !errors.Is(err, mlaas.ErrForbidden) {
		t.Errorf("redirected it says %v, want forbidden", err)
	}
}

// A context that ends ends git and its helpers.
func TestCommitCancelled(t *testing.T) {
	f := newForge(t)
	asked := make(chan struct{}, 10)
	gone := make(chan struct{})
	f.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done() // its connection is closed
		close(gone)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("stopped")
	go func() {
		<-asked
		cancel(why)
	}()
	if _, err := fetcher(nil).Commit(ctx, "git+"+f.URL+"/repo.git", t.TempDir(), filepath.Join(t.TempDir(), "git"), nil); !errors.Is(err, why) {
		t.Errorf("it says %v, want %v", err, why)
	}
	<-gone
}
