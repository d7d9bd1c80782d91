// Package web is the page, embedded in the binary: React over the REST API and
// /api/stream. Its sources are in app; `make web` builds them into dist/page,
// which is not in the repository. A binary that was built without them serves a
// page that says how to build them.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
)

//go:embed all:dist
var dist embed.FS

// pages are the first parts of the paths at which the page shows something of
// its own: router.tsx has the same.
var pages = []string{"", "jobs", "compare", "deployments", "clusters", "queue", "settings", "docs"}

// nonce stands in index.html where each answer gets a word of its own, by which
// the styles that the page makes are told from those of others.
const nonce = "NONCE"

// Handler serves the page and what it loads, and leaves the rest to others.
func Handler(others http.Handler) http.Handler {
	return handler(dist, others)
}

func handler(dist fs.FS, others http.Handler) http.Handler {
	page, err := fs.Sub(dist, "dist/page")
	if err != nil {
		panic(err) // the name is not one
	}
	index, err := fs.ReadFile(page, "index.html")
	if err != nil {
		if index, err = fs.ReadFile(dist, "dist/unbuilt.html"); err != nil {
			panic(err) // it is in the repository
		}
	}
	files, packed := http.FileServerFS(page), &packer{page: page, packed: map[string][]byte{}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			others.ServeHTTP(w, r)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		first, _, _ := strings.Cut(name, "/")
		h := w.Header()
		if name != "" && fs.ValidPath(name) && !hidden(name) && isFile(page, name) {
			guard(h, "")
			h.Set("Cache-Control", "no-cache")
			if first == "assets" { // their names change with what is in them
				h.Set("Cache-Control", "public, max-age=31536000, immutable")
			}
			if data := packed.file(name); data != nil && r.Method == http.MethodGet {
				h.Add("Vary", "Accept-Encoding")
				if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
					h.Set("Content-Encoding", "gzip")
					h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
					_, _ = w.Write(data) // who asked may have gone
					return
				}
			}
			files.ServeHTTP(w, r)
			return
		}
		if !slices.Contains(pages, first) {
			others.ServeHTTP(w, r)
			return
		}
		word := rand.Text()
		guard(h, " 'nonce-"+word+"'")
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(bytes.ReplaceAll(index, []byte(nonce), []byte(word))) // who asked may have gone
	})
}

// A packer has scripts and styles as gzip, each from when it is first asked for.
type packer struct {
	page fs.FS

	mu     sync.Mutex
	packed map[string][]byte
}

// file is a file of the page as gzip, nil where that is not worth it.
func (p *packer) file(name string) []byte {
	if e := path.Ext(name); e != ".js" && e != ".css" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if data, known := p.packed[name]; known {
		return data
	}
	plain, err := fs.ReadFile(p.page, name)
	if err != nil {
		return nil // whoever serves it as it is says so
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(plain) // a buffer takes everything
	_ = w.Close()
	p.packed[name] = b.Bytes()
	return b.Bytes()
}

// guard keeps others' scripts, styles and frames out.
func guard(h http.Header, styles string) {
	h.Set("Content-Security-Policy", "default-src 'self'; style-src 'self'"+styles+"; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
}

// hidden reports whether a file is of the build and not of the page.
func hidden(name string) bool {
	return name == "index.html" || slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return strings.HasPrefix(part, ".") })
}

func isFile(page fs.FS, name string) bool {
	info, err := fs.Stat(page, path.Clean(name))
	return err == nil && !info.IsDir()
}
