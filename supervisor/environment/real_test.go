package environment

import (
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

// TestReal uses the real installer, the real index and a tiny real package.
// Without a network it is skipped: everything else in this room is tested
// without one.
func TestReal(t *testing.T) {
	python3(t)
	to, err := url.Parse(settings().index)
	if err != nil {
		t.Skip(err)
	}
	c := http.Client{Timeout: 2 * time.Second}
	resp, err := c.Head(to.String() + "/six/")
	if err != nil {
		t.Skipf("the package index cannot be reached: %v", err)
	}
	resp.Body.Close()
	m := &Manager{Dir: t.TempDir()}
	t.Cleanup(func() {
		for _, v := range glob(filepath.Join(m.Dir, "venv", "*")) {
			m.remove(v)
		}
	})

	t.Run("three at once", func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		var got [3]*Prepared
		var all sync.WaitGroup
		for i := range got {
			all.Go(func() {
				p, err := (&Manager{Dir: m.Dir}).Prepare(t.Context(), asks("six<2"), nil, func(s string) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, s)
				})
				if err != nil {
					t.Error(err)
				}
				got[i] = p
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		if got[0].Lock.Lock != got[1].Lock.Lock || got[1].Python != got[2].Python {
			t.Errorf("they differ: %+v", got)
		}
		if n := len(slices.DeleteFunc(slices.Clone(said), func(s string) bool { return !strings.HasPrefix(s, "resolving") })); n != 1 {
			t.Errorf("resolved %d times: %q", n, said)
		}
		cmd := exec.Command("python", "-c", "import six, mlaas; print(six.__version__, mlaas.is_chief)")
		cmd.Path = got[0].Python
		for k, v := range got[0].Variables {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if want := Packages(got[0].LockText)["six"] + " True\n"; err != nil || string(out) != want {
			t.Errorf("%v: %s, want %s", err, out, want)
		}
		if !strings.Contains(string(got[0].LockText), "--hash=sha256:") {
			t.Error("the lock has no hashes")
		}
	})
	for _, tt := range []struct{ name, requirement, want string }{
		{"no such package", "no-such-package-of-anyone-7f3a", "there is no package named no-such-package-of-anyone-7f3a"},
		{"no such version", "six==99", "there is no version six==99 for Python 3."},
		{"contradiction", "six<1,>1.5", "do not go together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := m.Prepare(t.Context(), asks(tt.requirement), nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || mlaas.KindOf(err) != mlaas.ErrInvalid {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
