package management

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/docs"
)

// The documentation is public, as who is not let in yet must read how to be.

type docsIn struct {
	Paging
	Words string `query:"q" doc:"Only the pages with a section in which all these words stand; hits says which"`
}

// A DocPage is a page of the documentation, without its text.
type DocPage struct {
	docs.Page
	Hits []docs.Hit `json:"hits,omitempty" doc:"The sections that match, the best first"`
}

// listDocs lists the pages in the order in which they are read, and those that
// were searched for by how well they match.
func (m *Management) listDocs(_ context.Context, in *docsIn) (*Answer[List[DocPage]], error) {
	pages := []DocPage{}
	if strings.TrimSpace(in.Words) == "" {
		for _, p := range docs.Pages() {
			pages = append(pages, DocPage{Page: p})
		}
		return part(pages, in.Paging)
	}
	at := map[string]int{}
	for _, h := range docs.Search(in.Words, 100) {
		if _, there := at[h.Path]; !there {
			p, err := docs.Find(h.Path)
			if err != nil {
				return nil, err
			}
			at[h.Path] = len(pages)
			pages = append(pages, DocPage{Page: p})
		}
		pages[at[h.Path]].Hits = append(pages[at[h.Path]].Hits, h)
	}
	return part(pages, in.Paging)
}

type docIn struct {
	Path string `path:"path" doc:"The path of a page" example:"how-to/backup"`
}

// A DocText is a page of the documentation.
type DocText struct {
	docs.Page
	HTML string `json:"html" doc:"The text, without scripts and styles of its own"`
}

func (m *Management) getDoc(_ context.Context, in *docIn) (*Answer[DocText], error) {
	p, err := docs.Find(in.Path)
	return &Answer[DocText]{Body: DocText{p, p.HTML()}}, err
}

// seeProblem answers the type of a problem: a browser is led to its place in
// the documentation, a program gets the same as JSON.
func (m *Management) seeProblem(w http.ResponseWriter, r *http.Request, in *problemIn) error {
	kind, err := problemKind(in.Code)
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Redirect(w, r, "/docs/"+errorsPage+"#"+in.Code, http.StatusSeeOther)
		return nil
	}
	return send(w, r, http.StatusOK, &Answer[ProblemKind]{Body: kind})
}

// errorsPage is the page of the documentation that is made from the kinds of
// problems.
const errorsPage = "reference/errors"

// errorsText is its text.
func errorsText() string {
	var b strings.Builder
	b.WriteString("# Errors\n\nWhat goes wrong is answered as a problem ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)): `detail` says in a sentence\nwhat is wrong and what would be right, `field` names the field, `request_id` names the request in the log of the platform.\n`error_code` is one of these; `type` leads here. The command line says the same sentence and ends with the exit code.\n")
	for _, k := range mlaas.Kinds {
		b.WriteString("\n## " + k.Code + "\n\n" + kinds[k].title + ". " + kinds[k].mend + "\n\n")
		b.WriteString("HTTP status " + strconv.Itoa(k.Status) + ", exit code " + strconv.Itoa(k.Exit) + ".\n")
	}
	return b.String()
}
