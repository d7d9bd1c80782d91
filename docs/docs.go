// Package docs is the documentation, embedded in the binary: the texts of this
// folder as pages of HTML, and a search over all their sections. Whoever has
// the binary has the words that belong to it, without a network.
package docs

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"

	"mlaas.dev/mlaas"
)

//go:embed *.md tutorials how-to reference explanation design
var files embed.FS

// A Page is one text.
type Page struct {
	Path     string    `json:"path" doc:"Below /docs/" example:"how-to/backup"`
	Title    string    `json:"title"`
	Group    string    `json:"group" doc:"Of what kind it is: tutorials, how-to, reference, explanation or design"`
	Headings []Heading `json:"headings"`

	html     string
	sections []section
	links    []string // as they were written
}

// A Heading begins a section.
type Heading struct {
	Level int    `json:"level" doc:"2 for the sections of a page, 3 for parts of those" example:"2"`
	ID    string `json:"id" doc:"The fragment of its address"`
	Text  string `json:"text"`
}

// A section is what stands below one heading, as words.
type section struct {
	heading Heading // empty: what stands before the first
	words   string
}

// A Hit is a section in which all the words stand that were looked for.
type Hit struct {
	Path    string `json:"path"`
	Title   string `json:"title" doc:"Of the page"`
	ID      string `json:"id,omitempty" doc:"The fragment of the section; empty: the page itself"`
	Heading string `json:"heading,omitempty" doc:"Of the section"`
	Excerpt string `json:"excerpt" doc:"The words around the first that was found"`
}

// groups are the kinds of texts, in the order in which they are read.
var groups = []string{"tutorials", "how-to", "reference", "explanation", "design"}

// HTML is the text of the page. It holds nothing but what the Markdown said:
// HTML inside of it is not passed on.
func (p Page) HTML() string { return p.html }

// Pages are all texts, by group and name.
func Pages() []Page { return read().pages }

// Find returns the page at a path below /docs/; ErrNotFound where there is none.
func Find(at string) (Page, error) {
	for _, p := range read().pages {
		if p.Path == at {
			return p, nil
		}
	}
	return Page{}, fmt.Errorf("the documentation has no page %q: %w", at, mlaas.ErrNotFound)
}

// Search returns the sections in which every word of a question stands, the
// best first: those whose title or heading has them.
func Search(question string, most int) []Hit {
	words := strings.Fields(strings.ToLower(question))
	if len(words) == 0 {
		return nil
	}
	type scored struct {
		Hit
		score int
	}
	var found []scored
	for _, p := range read().pages {
		for _, s := range p.sections {
			score := 0
			for _, w := range words {
				n := 0
				if strings.Contains(strings.ToLower(p.Title), w) {
					n += 20
				}
				if strings.Contains(strings.ToLower(s.heading.Text), w) {
					n += 10
				}
				n += min(5, strings.Count(strings.ToLower(s.words), w))
				if n == 0 {
					score = 0
					break
				}
				score += n
			}
			if score > 0 {
				found = append(found, scored{Hit{p.Path, p.Title, s.heading.ID, s.heading.Text, excerpt(s.words, words[0])}, score})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	var hits []Hit
	for _, f := range found[:min(len(found), most)] {
		hits = append(hits, f.Hit)
	}
	return hits
}

// excerpt is some 160 letters around a word.
func excerpt(words, word string) string {
	letters := []rune(words)
	at := 0
	if before, _, ok := strings.Cut(strings.ToLower(words), word); ok {
		at = len([]rune(before))
	}
	from := max(0, at-60)
	for from > 0 && from < at && !unicode.IsSpace(letters[from-1]) {
		from++
	}
	to := min(len(letters), from+160)
	short := strings.TrimSpace(string(letters[min(from, to):to]))
	if from > 0 {
		short = "… " + short
	}
	if to < len(letters) {
		short += " …"
	}
	return short
}

type library struct{ pages []Page }

// read makes the pages when they are first asked for.
var read = sync.OnceValue(func() library {
	var l library
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".md" {
			return err
		}
		source, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		p, err := pageOf(name, source)
		l.pages = append(l.pages, p)
		return err
	})
	if err != nil {
		panic(err) // they are in the binary, and a test reads each
	}
	slices.SortStableFunc(l.pages, func(a, b Page) int {
		return cmp.Or(cmp.Compare(slices.Index(groups, a.Group), slices.Index(groups, b.Group)), cmp.Compare(a.Path, b.Path))
	})
	return l
})

var markdown = goldmark.New(
	goldmark.WithExtensions(extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute)), extension.Strikethrough, extension.Linkify),
	goldmark.WithParserOptions(parser.WithAutoHeadingID()),
	goldmark.WithRendererOptions(html.WithXHTML()),
)

// pageOf reads one text. name is its file below this folder.
func pageOf(name string, source []byte) (Page, error) {
	p := Page{Path: strings.TrimSuffix(name, ".md"), Group: path.Dir(name)}
	if p.Group == "." { // such as the glossary: it is looked up in
		p.Group = "reference"
	}
	doc := markdown.Parser().Parse(text.NewReader(source), parser.WithContext(parser.NewContext(parser.WithIDs(&names{}))))
	s := section{}
	p.Headings = []Heading{}
	for n := doc.FirstChild(); n != nil; n = n.NextSibling() {
		h, ok := n.(*ast.Heading)
		if !ok {
			s.words = strings.TrimSpace(s.words + " " + wordsOf(n, source))
			continue
		}
		if h.Level == 1 {
			p.Title = wordsOf(h, source)
			continue
		}
		id, _ := h.AttributeString("id")
		p.sections = append(p.sections, s)
		s = section{heading: Heading{h.Level, string(id.([]byte)), wordsOf(h, source)}}
		p.Headings = append(p.Headings, s.heading)
	}
	p.sections = append(p.sections, s)
	var foreign []*ast.Link
	err := ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if l, ok := n.(*ast.Link); ok && entering {
			written := string(l.Destination)
			p.links = append(p.links, written)
			if to, ok := addressOf(name, written); ok {
				l.Destination = []byte(to)
			} else {
				foreign = append(foreign, l)
			}
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return p, err
	}
	for _, l := range foreign { // it leads to the sources, which are not here
		for c := l.FirstChild(); c != nil; {
			next := c.NextSibling()
			l.Parent().InsertBefore(l.Parent(), l, c)
			c = next
		}
		l.Parent().RemoveChild(l.Parent(), l)
	}
	var b bytes.Buffer
	if err := markdown.Renderer().Render(&b, source, doc); err != nil {
		return p, err
	}
	p.html = b.String()
	return p, nil
}

// addressOf is where a link leads in the page; false where that is a file of
// the sources which is no text of the documentation.
func addressOf(name, link string) (string, bool) {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "#") || strings.HasPrefix(link, "/") || strings.HasPrefix(link, "mailto:") {
		return link, true
	}
	file, fragment, _ := strings.Cut(link, "#")
	file = path.Join(path.Dir(name), file)
	if _, err := fs.Stat(files, file); err != nil || path.Ext(file) != ".md" {
		return "", false
	}
	to := "/docs/" + strings.TrimSuffix(file, ".md")
	if fragment != "" {
		to += "#" + fragment
	}
	return to, true
}

// wordsOf is what a person reads of a part of a text.
func wordsOf(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // nothing in here fails
		if !entering {
			if n.Type() == ast.TypeBlock {
				b.WriteByte(' ')
			}
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Text:
			b.Write(n.Segment.Value(source))
			if n.SoftLineBreak() || n.HardLineBreak() {
				b.WriteByte(' ')
			}
		case *ast.String:
			b.Write(n.Value)
		case *ast.AutoLink:
			b.Write(n.Label(source))
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			for i := range n.Lines().Len() {
				line := n.Lines().At(i)
				b.Write(line.Value(source))
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.Join(strings.Fields(b.String()), " ")
}

// names gives headings the fragments by which links of the texts know them:
// small letters, digits and _, and a - for each space.
type names struct{ taken []string }

// Generate is the fragment of one more heading.
func (n *names) Generate(value []byte, _ ast.NodeKind) []byte {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(string(value))) {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '_', r == '-':
			b.WriteRune(r)
		case unicode.IsSpace(r):
			b.WriteByte('-')
		}
	}
	id := cmp.Or(b.String(), "section")
	for i := 1; slices.Contains(n.taken, id); i++ {
		id = fmt.Sprintf("%s-%d", cmp.Or(b.String(), "section"), i)
	}
	n.taken = append(n.taken, id)
	return []byte(id)
}

// Put takes a fragment that the text itself names.
func (n *names) Put(value []byte) { n.taken = append(n.taken, string(value)) }
