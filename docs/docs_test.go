package docs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

// routes are what the page shows below /docs besides texts, and what the
// platform serves.
var routes = []string{"/docs", "/docs/api", "/openapi.json", "/openapi.yaml", "/healthz", "/metrics"}

func TestEveryPage(t *testing.T) {
	if len(Pages()) < 30 {
		t.Fatalf("%d pages: the folder is not embedded", len(Pages()))
	}
	for _, p := range Pages() {
		if p.Title == "" {
			t.Errorf("%s has no title", p.Path)
		}
		if !slices.Contains(groups, p.Group) {
			t.Errorf("%s is of the group %q, which the page does not show", p.Path, p.Group)
		}
		// Styles of their own are refused by the policy of the page.
		if strings.Contains(p.HTML(), "style=") {
			t.Errorf("%s has styles of its own", p.Path)
		}
		if again, err := Find(p.Path); err != nil || again.HTML() != p.HTML() {
			t.Errorf("%s is not found: %v", p.Path, err)
		}
	}
	if _, err := Find("../docs"); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("what is not there gives %v", err)
	}
}

var mark = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// No text leads to what is not there, neither in the page nor in the sources.
func TestNoDeadLink(t *testing.T) {
	root := os.DirFS("..")
	for _, p := range Pages() {
		for _, link := range p.links {
			dead(t, root, path.Join("docs", p.Path+".md"), link)
		}
	}
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		source, err := fs.ReadFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mark.FindAllSubmatch(source, -1) {
			dead(t, root, name, string(m[1]))
		}
	}
}

// dead complains of a link of a file that leads nowhere.
func dead(t *testing.T, root fs.FS, name, link string) {
	t.Helper()
	if strings.Contains(link, "://") {
		return // of the world outside
	}
	at, fragment, _ := strings.Cut(link, "#")
	if strings.HasPrefix(at, "/") {
		p, err := Find(strings.TrimPrefix(at, "/docs/"))
		if err != nil && !slices.Contains(routes, at) {
			t.Errorf("%s leads to %s, which is no page", name, link)
		}
		if err == nil {
			has(t, name, link, p, fragment)
		}
		return
	}
	file := name
	if at != "" {
		file = path.Join(path.Dir(name), at)
	}
	if _, err := fs.Stat(root, file); err != nil {
		t.Errorf("%s leads to %s, which is not there", name, link)
		return
	}
	if fragment == "" {
		return
	}
	p, err := Find(strings.TrimSuffix(strings.TrimPrefix(file, "docs/"), ".md"))
	if err != nil {
		t.Errorf("%s leads to a place in %s, which is no text of the documentation", name, file)
		return
	}
	has(t, name, link, p, fragment)
}

func has(t *testing.T, name, link string, p Page, fragment string) {
	t.Helper()
	if fragment != "" && !slices.ContainsFunc(p.Headings, func(h Heading) bool { return h.ID == fragment }) {
		t.Errorf("%s leads to %s, and %s has no such heading", name, link, p.Path)
	}
}

func TestPageOf(t *testing.T) {
	p, err := pageOf("how-to/redis.md", []byte("# A *title*\n\nBefore.\n\n## One more_thing\n\nSee [backup](backup.md#where), [chart](../../deploy/helm) and <b>this</b>.\n\n## One more_thing\n\n|a|b|\n|-|-:|\n|1|2|\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Title != "A title" || len(p.Headings) != 2 || p.Headings[0].ID != "one-more_thing" || p.Headings[1].ID != "one-more_thing-1" {
		t.Errorf("title %q, headings %+v", p.Title, p.Headings)
	}
	for _, want := range []string{`<a href="/docs/how-to/backup#where">backup</a>`, "chart and", `<h2 id="one-more_thing">`, `<td align="right">2</td>`} {
		if !strings.Contains(p.HTML(), want) {
			t.Errorf("the page has no %s:\n%s", want, p.HTML())
		}
	}
	if strings.Contains(p.HTML(), "<b>") {
		t.Error("HTML of the text is passed on")
	}
}

func TestSearch(t *testing.T) {
	hits := Search("restore backup", 10)
	if len(hits) == 0 || hits[0].Path != "how-to/backup" {
		t.Errorf("restore backup finds %+v first", hits)
	}
	if len(Search("restore", 3)) > 3 {
		t.Error("more than were asked for")
	}
	for _, h := range Search("fsync", 50) {
		if h.Excerpt == "" {
			t.Errorf("%s#%s says nothing", h.Path, h.ID)
		}
	}
	if hits := Search("zebrafish quartz", 10); hits != nil {
		t.Errorf("words that stand nowhere find %+v", hits)
	}
	if Search("  ", 10) != nil {
		t.Error("no words find something")
	}
}
