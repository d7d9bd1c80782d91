package management

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/docs"
)

func TestErrorsPage(t *testing.T) {
	const file = "../docs/" + errorsPage + ".md"
	if *update {
		if err := os.WriteFile(file, []byte(errorsText()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is, err := os.ReadFile(file)
	if err != nil || string(is) != errorsText() {
		t.Errorf("%s does not say what the kinds of problems say: go test ./management -run ErrorsPage -update (%v)", file, err)
	}
}

// The type of each problem leads a browser to a place that is there, and says
// the same to a program.
func TestProblemsLeadToDocs(t *testing.T) {
	a := start(t)
	a.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	page, err := docs.Find(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range mlaas.Kinds {
		a.do("GET", "/api/problem/"+k.Code, nil, "Authorization", "").want(200).is("status", k.Status)
		to := a.do("GET", "/api/problem/"+k.Code, nil, "Authorization", "", "Accept", "text/html,*/*;q=0.8").want(303).Header.Get("Location")
		at, id, _ := strings.Cut(strings.TrimPrefix(to, "/docs/"), "#")
		there := false
		for _, h := range page.Headings {
			there = there || h.ID == id
		}
		if at != errorsPage || !there {
			t.Errorf("%s leads to %s, which is not there", k.Code, to)
		}
	}
	a.do("GET", "/api/problem/nothing", nil, "Authorization", "").want(404)
}

func TestDocs(t *testing.T) {
	a := start(t)
	a.do("GET", "/api/docs", nil, "Authorization", "").want(401)
	a.do("GET", "/api/docs?limit=500", nil).want(200).is("items.0.group", "tutorials").is("items.0.hits", nil)
	a.do("GET", "/api/docs?q=restore+backup", nil).want(200).is("items.0.path", "how-to/backup").is("items.0.hits.0.path", "how-to/backup")
	if html := a.do("GET", "/api/docs/how-to/redis", nil).want(200).get("html").(string); !strings.Contains(html, `href="/docs/guarantees#redis"`) {
		t.Error("the page of Redis does not lead to what is promised with it")
	}
	a.do("GET", "/api/docs/how-to/nothing", nil).want(404)
}
