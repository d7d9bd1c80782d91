// Package archtest holds the rules of the house as tests: which room may
// import which, what every package says of itself, and what no package does.
// It parses the files itself, because a test that asks `go list` would be
// answered from the test cache.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "mlaas.dev/mlaas"

// walls says what of ours each room may import. A room that is not listed may
// not exist: adding one means deciding what it may know.
var walls = []struct{ room, may, why string }{
	{".", "", "the vocabulary stands on the standard library alone"},
	{"internal/failpoint", "", "a point to die at knows nobody"},
	{"internal/meter", "", "a counter knows nobody"},
	{"internal/trace", "", "a seam: services name their work, cmd says who is told"},
	{"internal/redistest", "", "a server to test against knows nobody"},
	{"internal/s3test", "", "it runs a server of others"},
	{"internal/kubetest", "internal/link", "it runs clusters of others"},
	{"internal/link", "", "bytes between two ends, and nothing of what they mean"},
	{"internal/stream", ".", "packets between somebody and a replica; who may is not its business"},
	{"internal/bucket", ".", "an address, a connection and what its errors mean; what is in the bucket is for others"},
	{"internal/kubeconfig", ".", "a text, before anybody is called by it"},
	{"python", "", "the files of the Python package, and nothing else"},
	{"docs", ".", "the texts, as pages; who reads them is not its business"},
	{"web", "", "the files of the page, and nothing else"},
	{"admission", ".", "pure: whether a run may start, and what it waits for; who starts it is not its business"},
	{"imports", "", "pure: what a program imports"},
	{"rule", ".", "pure: when a rule holds; who acts is not its business"},
	{"compose", ".", "pure: what a described network comes to, and its program"},
	{"draft", ".", "pure: what edits make of texts; who keeps them is not its business"},
	{"template", ".", "pure: the texts of guiding mode"},
	{"store", ".", "rows and messages, not jobs"},
	{"store/sqlitestore", ". store internal/failpoint internal/meter", "a driver knows its interface"},
	{"store/redisstore", ". store internal/failpoint", "a driver knows its interface"},
	{"store/storetest", ". store", "a suite knows its interface"},
	{"blob", ".", "bytes, not jobs"},
	{"blob/files", ". blob internal/failpoint", "a driver knows its interface"},
	{"blob/s3", ". blob internal/bucket internal/failpoint", "a driver knows its interface"},
	{"blob/blobtest", ". blob", "a suite knows its interface"},
	{"queue", ". store internal/failpoint internal/meter internal/trace", "messages are in the store"},
	{"lease", ". store", "who does what one alone must do: records with a revision"},
	{"series", ". blob internal/failpoint store", "lines and points, sealed into blob; manifests in the store where many write"},
	{"observe", ". store internal/meter internal/trace", "it shows what services count, and knows none of them"},
	{"health", ". store queue blob", "the checks that every process needs"},
	{"backup", ". store blob series", "what is copied, and nothing of who asks for it"},
	{"auth", ". store", "who you are; what you may do is in management's route table"},
	{"management", ". admission imports docs draft rule compose template store queue blob series auth health backup internal/failpoint internal/meter internal/trace internal/kubeconfig internal/stream", "services meet in records and messages, never in imports"},
	{"contractor", ". admission rule store lease queue contractor/jobengine contractor/codeengine internal/failpoint internal/meter internal/trace", "the same"},
	{"contractor/jobengine", ".", "pure: no I/O"},
	{"contractor/codeengine", ". template", "pure: no I/O"},
	{"booster", ". rule store lease queue blob series auth internal/failpoint internal/meter internal/trace internal/stream", "the same; only cmd chooses the drivers"},
	{"booster/local", ". booster supervisor", "a driver knows its interface, and writes what its supervisors read"},
	{"booster/kube", ". booster supervisor", "a driver knows its interface, and writes what its supervisors read"},
	{"booster/scripted", ". booster", "a driver knows its interface"},
	{"booster/remote", ". booster", "a driver knows its interface; what replicas say it carries, and does not read"},
	{"booster/executortest", ". booster", "a suite knows its interface"},
	{"supervisor", ". blob supervisor/environment supervisor/prepare supervisor/source internal/stream", "it speaks to its door, not to the platform"},
	{"supervisor/source", ". blob internal/bucket", "it fills folders; who asks is not its business"},
	{"supervisor/prepare", ".", "it says what code becomes; who runs the Python, and who writes, is not its business"},
	{"supervisor/environment", ". python", "it makes folders; who asks is not its business"},
	{"client", ". internal/stream", "the same calls over HTTP"},
	{"deploy/helm", "", "it renders a chart, and knows nothing of what that runs"},
}

// homes are libraries that few rooms may import: what they speak to is the
// business of those, and the rest is spared their weight.
var homes = []struct{ library, rooms string }{
	{"k8s.io/", "booster/kube bench/kube"}, // the bench has a bare loop of client-go to compare with
}

// anything may import everything: commands, and programs that measure or test.
var anything = []string{"cmd/", "bench/", "e2e", "internal/archtest"}

type room struct {
	imports map[string]string // what: a file that does
	doc     bool
}

func house(t *testing.T) (map[string]*room, map[string]*ast.File, *token.FileSet) {
	t.Helper()
	rooms, files, set := map[string]*room{}, map[string]*ast.File{}, token.NewFileSet()
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata" || name == "tools" || name == "kubetest" && p == "kubetest") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(set, p, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files[p] = f
		at := path.Dir(p)
		if rooms[at] == nil {
			rooms[at] = &room{imports: map[string]string{}}
		}
		rooms[at].doc = rooms[at].doc || f.Doc != nil
		for _, im := range f.Imports {
			rooms[at].imports[strings.Trim(im.Path.Value, `"`)] = p
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rooms, files, set
}

func free(room string) bool {
	return slices.ContainsFunc(anything, func(p string) bool { return strings.HasPrefix(room, p) })
}

func TestWalls(t *testing.T) {
	rooms, _, _ := house(t)
	for name, r := range rooms {
		if !r.doc {
			t.Errorf("%s has no package comment", name)
		}
		if free(name) {
			continue
		}
		i := slices.IndexFunc(walls, func(w struct{ room, may, why string }) bool { return w.room == name })
		if i < 0 {
			t.Errorf("%s is a room without walls: say in walls what it may import", name)
			continue
		}
		for im, file := range r.imports {
			rest, ours := strings.CutPrefix(im, module)
			if !ours {
				if first, _, _ := strings.Cut(im, "/"); name == "." && strings.Contains(first, ".") {
					t.Errorf("%s imports %s: %s", file, im, walls[i].why)
				}
				continue
			}
			to := path.Clean("./" + rest)
			if !slices.Contains(strings.Fields(walls[i].may), to) {
				t.Errorf("%s: %s imports %s: %s", file, name, to, walls[i].why)
			}
		}
	}
}

func TestHomes(t *testing.T) {
	rooms, _, _ := house(t)
	for _, h := range homes {
		found := false
		for name, r := range rooms {
			for im, file := range r.imports {
				if !strings.HasPrefix(im, h.library) {
					continue
				}
				if found = true; !slices.Contains(strings.Fields(h.rooms), name) {
					t.Errorf("%s imports %s, which lives in %s alone", file, im, h.rooms)
				}
			}
		}
		if !found {
			t.Errorf("nothing imports %s: it needs no home", h.library)
		}
	}
}

// Some words in a folder's name say that nobody decided what is in it.
func TestNames(t *testing.T) {
	rooms, _, _ := house(t)
	for name := range rooms {
		for _, part := range strings.Split(name, "/") {
			if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "helper", "misc", "pkg"}, part) {
				t.Errorf("%s: name a room after what is in it", name)
			}
		}
		if strings.Count(name, "/") > 1 {
			t.Errorf("%s is deeper than two", name)
		}
	}
}

// Every exported name of the vocabulary and of the interfaces says what is
// promised. A group of constants, variables or types may share one sentence.
func TestDocs(t *testing.T) {
	_, files, set := house(t)
	for p, f := range files {
		at := path.Dir(p)
		if free(at) {
			continue
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && d.Recv == nil {
					t.Errorf("%s: %s has no comment", set.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
						t.Errorf("%s: %s has no comment", set.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

// State of the process is made in main and handed down: no init functions.
func TestNoInit(t *testing.T) {
	_, files, set := house(t)
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: no init functions", set.Position(fn.Pos()))
			}
		}
	}
}

// What docs/guarantees.md says that shows a promise is there: `room: TestName`.
func TestGuarantees(t *testing.T) {
	text, err := os.ReadFile("../../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+): (Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 20 {
		t.Errorf("it names %d tests", len(named))
	}
	for _, n := range named {
		files, err := filepath.Glob("../../" + n[1] + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(files, func(f string) bool {
			src, err := os.ReadFile(f)
			return err == nil && strings.Contains(string(src), "func "+n[2]+"(t *testing.T)")
		})
		if !found {
			t.Errorf("there is no %s in %s", n[2], n[1])
		}
	}
}
