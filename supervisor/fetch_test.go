package supervisor

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob/s3"
	"mlaas.dev/mlaas/internal/s3test"
)

// fetching is a supervisor of its own folder, beside others of one machine.
func fetching(t *testing.T, machine string) *Supervisor {
	t.Helper()
	s := &Supervisor{Config: Config{
		Folder: t.TempDir(), DataDir: filepath.Join(machine, "data"), Address: "127.0.0.1",
		Fence: mlaas.Fence{Run: "run", Epoch: 1, Replica: "worker-0", Incarnation: 1}, Spool: 1 << 20,
	}, PrivateData: true, Now: time.Now}
	if err := os.Mkdir(filepath.Join(s.Folder, DataDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.lines.close()
		s.points.close()
		for _, l := range s.ports {
			l.Close()
		}
	})
	return s
}

// serveGit serves one repository of one file over https, and changes it.
func serveGit(t *testing.T) (at string, set func(text string)) {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "repo")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	})
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSL_CAINFO", ca)
	git := func(args ...string) {
		c := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "--quiet", "--initial-branch=main")
	return "git+" + server.URL + "/repo", func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		git("add", "file")
		git("commit", "--quiet", "--message", "next")
	}
}

// Every source is fetched once for a run on a machine, told to the platform,
// and the same for an attempt elsewhere: got again where that is possible,
// refused where it has changed.
func TestSources(t *testing.T) {
	server := s3test.Start(t)
	place, err := s3.Open(t.Context(), server.Bucket("data", ""), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	page := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(page)) }))
	defer web.Close()
	repo, commit := serveGit(t)
	env := map[string]string{"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey}
	getenv := func(name string) string { return env[name] }
	for _, tt := range []struct {
		source string
		set    func(text string)
		keeps  bool // what it was can be had again
	}{
		{web.URL + "/file", func(text string) { page = text }, false},
		{"s3://data/set/?endpoint=" + server.URL(), func(text string) {
			if err := place.Objects().Put(t.Context(), "set/file", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}, false},
		{repo, commit, true},
	} {
		t.Run(tt.source, func(t *testing.T) {
			machine, other := t.TempDir(), t.TempDir()
			d := mlaas.DataTree{Name: "input", Source: tt.source}
			fetch := func(machine string) (string, []mlaas.Fetched, error) {
				s := fetching(t, machine)
				see, err := s.data(t.Context(), d, getenv)
				if err != nil {
					return "", nil, err
				}
				at := filepath.Join(s.Folder, DataDir, "input")
				if to, err := filepath.EvalSymlinks(at); err != nil || !strings.HasPrefix(to, see) {
					t.Errorf("it leads to %s, %v, and the program sees %s", to, err, see)
				}
				text, err := os.ReadFile(filepath.Join(at, "file"))
				return string(text), s.phase.Data, err
			}
			tt.set("one")
			text, got, err := fetch(machine)
			if err != nil || text != "one" {
				t.Fatalf("it is %q, %v", text, err)
			}
			if len(got) != 1 || got[0].Name != "input" || got[0].Source != tt.source || got[0].Files != 1 || got[0].Size != 3 || got[0].Tree == "" || (got[0].Commit != "") != tt.keeps {
				t.Errorf("what is told is %+v", got)
			}
			tt.set("two")
			text, again, err := fetch(machine)
			if err != nil || text != "one" || len(again) != 1 || again[0] != got[0] {
				t.Errorf("another replica has %q, %+v, %v", text, again, err)
			}
			d.Was = &got[0]
			text, _, err = fetch(other)
			if tt.keeps && (err != nil || text != "one") {
				t.Errorf("elsewhere it is %q, %v", text, err)
			}
			if !tt.keeps && (!errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), "changed")) {
				t.Errorf("elsewhere it is %q, %v, want a conflict", text, err)
			}
			d.Was = nil
			if text, _, err = fetch(t.TempDir()); err != nil || text != "two" {
				t.Errorf("now it is %q, %v", text, err)
			}
		})
	}
}

// No source leads into the platform's own network.
func TestSourcesArePublic(t *testing.T) {
	s := fetching(t, t.TempDir())
	s.PrivateData = false
	for _, source := range []string{
		"https://127.0.0.1/x", "https://localhost/x", "s3://bucket/x?endpoint=http://127.0.0.1:1", "s3://bucket/x?endpoint=http://localhost:1",
		"s3://bucket/x?endpoint=https://[::1]:1", "git+https://10.0.0.1/repo.git", "git+https://169.254.169.254/x", "git+https://localhost/x",
	} {
		_, err := s.data(t.Context(), mlaas.DataTree{Name: "x", Source: source}, func(string) string { return "" })
		if !errors.Is(err, mlaas.ErrForbidden) {
			t.Errorf("%s says %v, want forbidden", source, err)
		}
	}
	for _, source := range []string{"git+file:///etc", "file:///etc/passwd", "git+ssh://host/x"} {
		_, err := s.data(t.Context(), mlaas.DataTree{Name: "x", Source: source}, func(string) string { return "" })
		if !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%s says %v, want invalid", source, err)
		}
	}
}
