package web

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func TestHandler(t *testing.T) {
	others := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "others") })
	built := fstest.MapFS{
		"dist/unbuilt.html":              {Data: []byte("unbuilt")},
		"dist/page/index.html":           {Data: []byte(`page nonce="NONCE"`)},
		"dist/page/icon.svg":             {Data: []byte("icon")},
		"dist/page/assets/index-1.js":    {Data: []byte("script")},
		"dist/page/.vite/manifest.json":  {Data: []byte("manifest")},
		"dist/page/assets/jobs/index.js": {Data: []byte("deep")},
	}
	tests := []struct{ name, method, path, want, cache string }{
		{"home", "GET", "/", "page", "no-cache"},
		{"a page of a job", "GET", "/jobs/mnist/code", "page", "no-cache"},
		{"a file that may change", "GET", "/icon.svg", "icon", "no-cache"},
		{"a file that never changes", "GET", "/assets/index-1.js", "script", "public, max-age=31536000, immutable"},
		{"the API", "GET", "/api/job", "others", ""},
		{"a page is not written to", "POST", "/jobs", "others", ""},
		{"a folder is no file", "GET", "/assets/jobs", "others", ""},
		{"what the build keeps for itself", "GET", "/.vite/manifest.json", "others", ""},
		{"a way out", "GET", "/assets/../../dist/unbuilt.html", "others", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			handler(built, others).ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
			if got := w.Body.String(); !strings.HasPrefix(got, tt.want) || w.Header().Get("Cache-Control") != tt.cache {
				t.Errorf("%s %s: %q with Cache-Control %q, want %q with %q", tt.method, tt.path, got, w.Header().Get("Cache-Control"), tt.want, tt.cache)
			}
		})
	}
}

// The word by which the page's own styles are known is another in each answer,
// and the same in the page and in the policy.
func TestNonce(t *testing.T) {
	built := fstest.MapFS{"dist/unbuilt.html": {}, "dist/page/index.html": {Data: []byte(`nonce="NONCE"`)}}
	seen := map[string]bool{}
	for range 2 {
		w := httptest.NewRecorder()
		handler(built, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/jobs", nil))
		_, word, _ := strings.Cut(w.Body.String(), `"`)
		word = strings.TrimSuffix(word, `"`)
		if policy := w.Header().Get("Content-Security-Policy"); len(word) < 16 || !strings.Contains(policy, "style-src 'self' 'nonce-"+word+"'") {
			t.Errorf("the page says %q, its policy %q", word, policy)
		}
		if seen[word] {
			t.Errorf("%q came twice", word)
		}
		seen[word] = true
	}
}

// Scripts go packed to who takes that, and as they are to others.
func TestPacked(t *testing.T) {
	script := strings.Repeat("let a = 1;\n", 1000)
	h := handler(fstest.MapFS{"dist/unbuilt.html": {}, "dist/page/assets/a.js": {Data: []byte(script)}}, http.NotFoundHandler())
	for _, accepts := range []string{"", "br, gzip"} {
		r := httptest.NewRequest("GET", "/assets/a.js", nil)
		r.Header.Set("Accept-Encoding", accepts)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var body io.Reader = w.Body
		if got := w.Header().Get("Content-Encoding"); (got == "gzip") != (accepts != "") {
			t.Errorf("to one who accepts %q it goes as %q", accepts, got)
		} else if got == "gzip" {
			if w.Body.Len() > len(script)/10 {
				t.Errorf("%d bytes of %d", w.Body.Len(), len(script))
			}
			var err error
			if body, err = gzip.NewReader(w.Body); err != nil {
				t.Fatal(err)
			}
		}
		data, err := io.ReadAll(body)
		if err != nil || string(data) != script || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/javascript") || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("to one who accepts %q: %d bytes, %v, %v", accepts, len(data), err, w.Header())
		}
	}
}

// Without npm there is a page that says so.
func TestUnbuilt(t *testing.T) {
	w := httptest.NewRecorder()
	without := fstest.MapFS{"dist/unbuilt.html": {Data: []byte("make build")}}
	handler(without, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 || w.Body.String() != "make build" {
		t.Errorf("%d %q", w.Code, w.Body.String())
	}
}
