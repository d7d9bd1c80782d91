package management

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// A version of a repository says of which commit it is; what is asked for is
// checked before anybody is called.
func TestGitCode(t *testing.T) {
	a := start(t)
	a.do("POST", "/api/job", `{"name": "j"}`).want(201)
	a.do("POST", "/api/job/j/code/git", `{"url": "https://example.com/r.git"}`).refuses(409, "conflict", "", "fetches no repositories")
	var asked string
	a.Management.Fetch = func(_ context.Context, source, dir, _ string, _ blob.Limits) (mlaas.Fetched, error) {
		asked = source
		if source == "git+https://10.0.0.1/r.git" {
			return mlaas.Fetched{}, fmt.Errorf("10.0.0.1 is not a public address: %w", mlaas.ErrForbidden)
		}
		return mlaas.Fetched{Commit: "c0ffee"}, os.WriteFile(filepath.Join(dir, "main.py"), []byte("print(1)\n"), 0o600)
	}
	a.do("POST", "/api/job/j/code/git", `{"url": "https://example.com/r.git", "ref": "main", "folder": "a/b"}`).want(201).is("id", "v1").is("entry", "main.py").
		is("labels", map[string]any{"git.url": "https://example.com/r.git", "git.ref": "main", "git.folder": "a/b", "git.commit": "c0ffee"})
	if want := "git+https://example.com/r.git@main#a/b"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
	a.do("POST", "/api/job/j/code/git", `{"url": "https://example.com/r.git"}`).want(200).is("id", "v1") // the same files are the same version
	asked = ""
	a.do("POST", "/api/job/j/code/git", `{"url": "http://example.com/r.git"}`).refuses(422, "invalid", "source", "git+https://HOST/PATH")
	a.do("POST", "/api/job/j/code/git", `{"url": "file:///etc"}`).refuses(422, "invalid", "source", "git+https://HOST/PATH")
	a.do("POST", "/api/job/j/code/git", `{"url": "https://example.com/r.git", "ref": "--upload-pack=x"}`).refuses(422, "invalid", "source", "a branch, a tag")
	if asked != "" {
		t.Errorf("%s was asked for", asked)
	}
	a.do("POST", "/api/job/j/code/git", `{"url": "https://10.0.0.1/r.git"}`).refuses(403, "forbidden", "", "not a public address")
}
