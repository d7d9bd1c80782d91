package management

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// An upload is a folder that comes with a request: as JSON, a zip or a tar.gz,
// whatever its Content-Type says. Whoever sent it may mean harm: package blob
// looks through all of it before it stores any.
type upload struct {
	Request *http.Request
	Writer  http.ResponseWriter

	sum  hash.Hash // of the body
	done *uploaded
}

// uploaded is what an upload was.
type uploaded struct {
	Code   bool // whether there were files, and not only labels
	Tree   mlaas.Digest
	Files  []mlaas.File // sorted by path
	Size   mlaas.Bytes
	Labels map[string]string
}

// FilesAsk is a folder as JSON: texts by their paths, or files whose bytes
// were kept with PUT /api/blob.
type FilesAsk struct {
	Files  map[string]string `json:"files,omitempty" doc:"Texts by their paths"`
	Tree   []mlaas.File      `json:"tree,omitempty" doc:"Instead of texts: files whose bytes are here already"`
	Labels map[string]string `json:"labels,omitempty"`
}

// maxTexts is how long a folder as JSON may be: it is in memory, several times.
const maxTexts = 32 << 20

// wantFiles is what a body without files lacks.
const wantFiles = `texts by their paths, such as {"main.py": "print(1)"}`

// read takes in the whole body once; a second call gives the same.
func (u *upload) read(ctx context.Context, m *Management) (*uploaded, error) {
	if u.done != nil {
		return u.done, nil
	}
	limits := m.limits()
	from := &remember{r: bodyOfRequest(u.Writer, u.Request, limits.Upload)}
	body := bufio.NewReaderSize(io.TeeReader(from, u.sum), 64<<10)
	head, _ := body.Peek(2) // where there is less, it is no archive
	var out *uploaded
	var err error
	if string(head) == "PK" || bytes.Equal(head, []byte{0x1f, 0x8b}) {
		var files []mlaas.File
		if files, err = blob.PutArchive(ctx, m.Blob, body, "", blob.Limits{Files: limits.Files, Bytes: limits.Upload}); err == nil {
			out, err = m.folder(ctx, files, "archive")
		}
	} else {
		var data []byte
		data, err = io.ReadAll(io.LimitReader(body, maxTexts+1))
		if len(data) > maxTexts {
			return nil, fmt.Errorf("the JSON is over the limit of %s: send so much as a zip or a tar.gz: %w", mlaas.Bytes(maxTexts), mlaas.ErrTooLarge)
		}
		if err == nil {
			out, err = m.listed(ctx, data)
		}
	}
	if from.err != nil {
		return nil, brokenBody(from.err)
	}
	u.done = out
	return out, err
}

// listed reads a folder from JSON.
func (m *Management) listed(ctx context.Context, data []byte) (out *uploaded, err error) {
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] != '{' {
		return nil, fmt.Errorf("the body is neither a JSON object, nor a zip, nor a tar.gz: %w", mlaas.ErrSyntax)
	}
	var ask struct {
		Files  json.RawMessage   `json:"files"`
		Tree   []mlaas.File      `json:"tree"`
		Labels map[string]string `json:"labels"`
	}
	if err := mlaas.Decode(data, &ask); err != nil {
		return nil, err
	}
	switch files := bytes.TrimSpace(ask.Files); {
	case len(files) > 0 && files[0] == '[': // a tree as it is stored
		var t mlaas.Tree
		if err := mlaas.Decode(append(append([]byte(`{"files":`), files...), '}'), &t); err != nil {
			return nil, err
		}
		out, err = m.named(ctx, t.Files, "files")
	case len(files) > 0:
		var t struct {
			Files map[string]*string `json:"files"`
		}
		if err := mlaas.Decode(append(append([]byte(`{"files":`), files...), '}'), &t); err != nil {
			return nil, err
		}
		texts := make(map[string]string, len(t.Files))
		for _, name := range slices.Sorted(maps.Keys(t.Files)) {
			if t.Files[name] == nil {
				return nil, mlaas.Invalid("files."+name, "a text", nil)
			}
			texts[name] = *t.Files[name]
		}
		out, err = m.texts(ctx, texts)
	case ask.Tree != nil:
		out, err = m.named(ctx, ask.Tree, "tree")
	case ask.Labels != nil:
		out = &uploaded{}
	default:
		return nil, mlaas.Invalid("files", wantFiles, "nothing")
	}
	if err != nil {
		return nil, err
	}
	out.Labels = ask.Labels
	return out, nil
}

// texts stores files that came as text, several at once: each waits for the
// disk.
func (m *Management) texts(ctx context.Context, texts map[string]string) (*uploaded, error) {
	names := slices.Sorted(maps.Keys(texts))
	files := make([]mlaas.File, len(names))
	for i, name := range names {
		files[i] = mlaas.File{Path: name, Digest: blob.Name([]byte(texts[name])), Size: int64(len(texts[name]))}
	}
	if err := m.check(files, "files"); err != nil {
		return nil, err
	}
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() error {
			_, err := blob.PutBytes(some, m.Blob, []byte(texts[name]))
			if err != nil {
				return fmt.Errorf("file %s: %w", files[i].Path, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return m.folder(ctx, files, "files")
}

// named is a folder of files whose bytes are here.
func (m *Management) named(ctx context.Context, list []mlaas.File, field string) (*uploaded, error) {
	if err := m.check(list, field); err != nil {
		return nil, err
	}
	for i, f := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		info, err := blob.Touch(ctx, m.Blob, f.Digest)
		if errors.Is(err, mlaas.ErrNotFound) {
			return nil, mlaas.Invalid(at+".digest", "bytes that are here: send them with PUT /api/blob/"+string(f.Digest), string(f.Digest))
		}
		if err != nil {
			return nil, err
		}
		if info.Size != f.Size {
			return nil, mlaas.Invalid(at+".size", fmt.Sprintf("%d, which those bytes have", info.Size), f.Size)
		}
	}
	return m.folder(ctx, list, field)
}

func (m *Management) check(files []mlaas.File, field string) error {
	if len(files) == 0 {
		return mlaas.Invalid(field, "at least one file", "empty")
	}
	if most := m.limits().Files; len(files) > most {
		return fmt.Errorf("there are %d files, more than %d: %w", len(files), most, mlaas.ErrTooLarge)
	}
	return mlaas.In(field, blob.CheckTree(files))
}

// folder stores the description of files that are stored.
func (m *Management) folder(ctx context.Context, files []mlaas.File, field string) (*uploaded, error) {
	if err := m.check(files, field); err != nil {
		return nil, err
	}
	digest, t, err := blob.PutTree(ctx, m.Blob, files)
	return &uploaded{Code: true, Tree: digest, Files: t.Files, Size: blob.TreeSize(t)}, err
}

// remember keeps the error of a reader, to tell a broken body from a broken
// disk.
type remember struct {
	r   io.Reader
	err error
}

func (r *remember) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
