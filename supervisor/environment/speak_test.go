package environment

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

func TestProgress(t *testing.T) {
	var said []string
	l := &listener{say: func(s string) { said = append(said, s) }}
	text := `Resolved 32 packages in 142ms
Downloading numpy (16.1MiB)
Downloading tensorflow-cpu (261.1MiB)
Downloading pygments (1.2MiB)
 Downloaded pygments
 Downloaded numpy
 Downloaded tensorflow-cpu
Prepared 32 packages in 5.41s
Installed 32 packages in 271ms
 + absl-py==2.5.1
`
	for text != "" { // in pieces, as a pipe gives them
		n := min(7, len(text))
		if _, err := l.Write([]byte(text[:n])); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
		if strings.HasPrefix(text, "red 32 packages in 5") {
			if s := l.waiting(0); s != "" {
				t.Errorf("nothing is missing, and it says %q", s)
			}
		}
	}
	want := []string{
		"downloading tensorflow-cpu, 274 MB",
		"downloaded pygments: 1 MB of 292 MB",
		"downloaded numpy: 18 MB of 292 MB",
		"downloaded tensorflow-cpu: 292 MB of 292 MB",
		"installing 32 packages",
		"installed 32 packages",
	}
	if !slices.Equal(said, want) {
		t.Errorf("said %q\nwant %q", said, want)
	}
}

func TestStillDownloading(t *testing.T) {
	l := &listener{say: func(string) {}}
	_, _ = l.Write([]byte("Downloading a (10MiB)\nDownloading b (100MiB)\nDownloaded a\n"))
	if got := l.waiting(20e9); got != "still downloading b, 105 MB, after 20 s: 10 MB of 115 MB are here" {
		t.Error(got)
	}
}

// What uv really said (0.13), and what a user reads instead.
func TestExplain(t *testing.T) {
	tf, _ := Lookup("tensorflow")
	tests := []struct{ name, said, want string }{
		{"no such package", "error: No solution found when resolving dependencies\n  cause: Because nosuch-xyz was not found in the package registry and you require nosuch-xyz, we can conclude that your requirements are unsatisfiable.\n",
			"there is no package named nosuch-xyz: look at its spelling in environment.packages"},
		{"no such version", "error: No solution found when resolving dependencies\n  cause: Because there is no version of six==99 and you require six==99, we can conclude that your requirements are unsatisfiable.\n",
			"there is no version six==99 for Python 3.14: look at what the index has, and at environment.packages"},
		{"Python too new for it", "error: No solution found when resolving dependencies\n  cause: Because tensorflow-cpu>=2.16 has no wheels with a matching Python version tag (e.g., `cp314`) and you require tensorflow-cpu>=2.16, we can conclude that your requirements are unsatisfiable.\n",
			"tensorflow-cpu has no built wheel for Python 3.14 on " + system() + ", and packages are not built from source here: ask for 3.11, 3.12, 3.10 or 3.13 in environment.python, and install it if it is not here"},
		{"source only", "error: No solution found when resolving dependencies\n  cause: Because pyspark==3.5.0 has no usable wheels and you require pyspark==3.5.0, we can conclude that your requirements are unsatisfiable.\n\nhint: Wheels are required for `pyspark` because building from source is disabled\n",
			"pyspark has no built wheel for Python 3.14 on " + system() + ", and packages are not built from source here: ask for another version of it, or for another Python"},
		{"contradiction", "error: No solution found when resolving dependencies\n  cause: you require numpy<2 and numpy>=3, which are incompatible\n",
			"these packages do not go together: you require numpy<2 and numpy>=3, which are incompatible"},
		{"no network", "error: Request failed after 3 retries in 7.7s\n  cause: Failed to fetch: https://index.example/simple/six/\n  cause: error sending request for url (https://index.example/simple/six/)\n  cause: client error (Connect)\n  cause: tcp connect error\n  cause: Connection refused (os error 111)\n",
			"https://index.example/simple/six/ cannot be reached (Request failed after 3 retries in 7.7s; Failed to fetch: https://index.example/simple/six/; tcp connect error; Connection refused (os error 111)): look at this machine's network, and at PIP_INDEX_URL where it goes through a mirror"},
		{"disk full", "error: Failed to install: six\n  cause: failed to copy file: No space left on device (os error 28)\n",
			"there is no room left to make the environment: free some space on the disk of /e, or run mlaas gc"},
		{"changed on the index", "error: Failed to download `six==1.17.0`\n  cause: Hash mismatch for `six==1.17.0`\n",
			"the index gives another six==1.17.0 than the lock names: it was changed there; make a new lock with mlaas env upgrade"},
		{"unreadable", "error: Couldn't parse requirement in `-` at position 0\n  cause: Unexpected end of version specifier, expected version\nsix==\n   ^^\n",
			"environment.packages cannot be read: Couldn't parse requirement in `-` at position 0; Unexpected end of version specifier, expected version; six=="},
		{"something else", "error: the moon is wrong\n", "cannot make the environment: the moon is wrong"},
	}
	m := &Manager{Dir: "/e"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := situation{needs: []string{"tensorflow-cpu>=2.16"}, entry: tf, python: &interpreter{Version: "3.14.0"}}
			err := m.explain(t.Context(), "make the environment", tt.said, errors.New("exit status 1"), s)
			if err.Error() != tt.want {
				t.Errorf("got  %q\nwant %q", err, tt.want)
			}
		})
	}
	err := m.explain(t.Context(), "resolve", tests[5].said, errors.New("x"), situation{})
	if mlaas.KindOf(err) != mlaas.ErrUnavailable {
		t.Errorf("no network is %v, want unavailable: trying again may help", mlaas.KindOf(err))
	}
}

func TestRequirements(t *testing.T) {
	tests := []struct {
		framework string
		packages  []string
		want      []string
	}{
		{"", nil, nil},
		{"python", []string{" numpy ", "numpy", "# note"}, []string{"numpy"}},
		{"tensorflow", nil, []string{"tensorflow-cpu>=2.16"}},
		{"tensorflow", []string{"tensorflow==2.15"}, []string{"tensorflow==2.15"}},
		{"tensorflow", []string{"Tensorflow_CPU == 2.20", "pandas"}, []string{"Tensorflow_CPU == 2.20", "pandas"}},
		{"tensorflow", []string{"tensorflow[and-cuda]>=2.20"}, []string{"tensorflow[and-cuda]>=2.20"}},
		{"xgboost", []string{"xgboost"}, []string{"numpy", "xgboost"}},
		{"python", []string{`six ; python_version < "4"`, "a (>=1)", "b @ https://h/b.whl"}, []string{"a (>=1)", "b @ https://h/b.whl", `six ; python_version < "4"`}},
	}
	for _, tt := range tests {
		got, err := requirements(mlaas.Environment{Framework: tt.framework, Packages: tt.packages})
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s with %q is %q (%v), want %q", tt.framework, tt.packages, got, err, tt.want)
		}
	}
}

func TestLockText(t *testing.T) {
	h := header{"3.11", "linux/amd64", "cpu"}
	text := []byte(h.line() + "Six==1.17.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\ntorch==2.9+cpu ; python_version < '4' \\\nb @ https://h/b.whl#sha256=cc\n# via x\n")
	if got, err := readHeader(text); err != nil || got != h {
		t.Errorf("the header is %+v, %v", got, err)
	}
	got := Packages(text)
	if len(got) != 3 || got["six"] != "1.17.0" || got["torch"] != "2.9+cpu" || got["b"] != "https://h/b.whl#sha256=cc" {
		t.Errorf("packages are %v", got)
	}
	if d := Diff(text, []byte(h.line()+"six==1.18\nnew==1\n")); !slices.Equal(d, []Change{
		{"b", "https://h/b.whl#sha256=cc", ""}, {"new", "", "1"}, {"six", "1.17.0", "1.18"}, {"torch", "2.9+cpu", ""},
	}) {
		t.Errorf("the difference is %v", d)
	}
}

func TestCatalogueIsWhole(t *testing.T) {
	for _, e := range Catalogue() {
		if e.Name == "" || e.Notes == "" || e.Gallery == "" || e.Name != "python" && (len(e.Packages) == 0 || len(e.Imports) == 0) {
			t.Errorf("%+v lacks something", e)
		}
		for _, im := range e.Imports[:min(1, len(e.Imports))] {
			if !regexp.MustCompile(`(?m)^(import|from) (.*, )?` + im + `\b`).MatchString(e.Gallery) {
				t.Errorf("the gallery program of %s does not import %s", e.Name, im)
			}
		}
	}
}
