package management

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

func zipOf(t *testing.T, change func(*zip.FileHeader), names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range names {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if change != nil {
			change(h)
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "this is %s", name)
	}
	z.Close()
	return out.Bytes()
}

func tarOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	w := tar.NewWriter(gz)
	for _, h := range headers {
		body := make([]byte, 0)
		if h.Typeflag == tar.TypeReg {
			body = []byte("this is " + h.Name)
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(body)
	}
	w.Close()
	gz.Close()
	return out.Bytes()
}

func TestPushCode(t *testing.T) {
	a := start(t)
	id := a.do("POST", "/api/job", `{"name": "j"}`).want(201).get("id").(string)
	r := a.do("POST", "/api/job/j/code", `{"files": {"main.py": "print(1)\n", "lib/util.py": "x = 1\n"}}`).want(201)
	r.is("id", "v1").is("number", 1).is("entry", "main.py").is("files.0.path", "lib/util.py").is("files.1.path", "main.py").is("size", "15")
	if r.Header.Get("Location") != "/api/job/"+id+"/code/v1" {
		t.Errorf("Location %q", r.Header.Get("Location"))
	}
	// Equal code is the version that is there.
	a.do("POST", "/api/job/"+id+"/code", `{"files": {"lib/util.py": "x = 1\n", "main.py": "print(1)\n"}}`).want(200).is("id", "v1")
	z := zipOf(t, nil, "train.py", "readme.md")
	a.do("POST", "/api/job/j/code", z, "Content-Type", "application/zip").want(201).is("id", "v2").is("entry", "train.py")
	g := tarOf(t, &tar.Header{Name: "./train.py", Typeflag: tar.TypeReg}, &tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, &tar.Header{Name: "./run.sh", Typeflag: tar.TypeReg, Mode: 0o755})
	// curl --data-binary says that it is a form: the bytes are looked at.
	a.do("POST", "/api/job/j/code", g, "Content-Type", "application/x-www-form-urlencoded").want(201).is("id", "v3").is("files.0.exec", true)
	a.do("POST", "/api/job/j/code", g, "Content-Type", "application/gzip").want(200).is("id", "v3")

	a.do("GET", "/api/job/j/code", nil).want(200).is("items.0.id", "v3").is("items.2.id", "v1").is("items.3", nil)
	a.do("GET", "/api/job/j/code?limit=2", nil).want(200).is("items.1.id", "v2").is("items.2", nil)
	for _, v := range []string{"v1", "1"} {
		a.do("GET", "/api/job/j/code/"+v, nil).want(200).is("id", "v1").is("content", nil)
	}
	a.do("GET", "/api/job/j/code/latest?content=true", nil).want(200).is("id", "v3")
	content := a.do("GET", "/api/job/j/code/v1?content=true", nil).want(200).get("content").(map[string]any)
	if content["main.py"] != "print(1)\n" || content["lib/util.py"] != "x = 1\n" {
		t.Errorf("content %v", content)
	}
	for _, v := range []string{"v4", "v0", "-1", "x", "v01x"} {
		a.do("GET", "/api/job/j/code/"+v, nil).refuses(404, "not_found", "", "it has 3")
	}
	f := a.do("GET", "/api/job/j/code/v1/file/lib/util.py", nil).want(200)
	if string(f.Body) != "x = 1\n" || f.Header.Get("Content-Security-Policy") != "sandbox" || !strings.HasPrefix(f.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%q %v", f.Body, f.Header)
	}
	if part := a.do("GET", "/api/job/j/code/v1/file/main.py", nil, "Range", "bytes=6-6"); part.Status != 206 || string(part.Body) != "1" {
		t.Errorf("%d %q", part.Status, part.Body)
	}
	a.do("GET", "/api/job/j/code/v1/file/nothing", nil).refuses(404, "not_found", "", `has no file "nothing"`)

	packed := a.do("GET", "/api/job/j/code/v1?format=zip", nil).want(200)
	zr, err := zip.NewReader(bytes.NewReader(packed.Body), int64(len(packed.Body)))
	if err != nil || len(zr.File) != 2 || zr.File[1].Name != "main.py" {
		t.Fatalf("%v", err)
	}
	a.do("POST", "/api/job/j/code", packed.Body).want(200).is("id", "v1") // there and back
	tgz := a.do("GET", "/api/job/j/code/v3?format=tar.gz", nil).want(200)
	a.do("POST", "/api/job/j/code", tgz.Body).want(200).is("id", "v3")
	a.do("GET", "/api/job/j/code/v3?format=rar", nil).refuses(422, "invalid", "format", "zip or tar.gz")

	// A version never changes, but for its labels.
	a.do("PUT", "/api/job/j/code/v1", `{"labels": {"good": "yes"}}`).want(200).is("id", "v1").is("labels.good", "yes")
	tag := a.do("GET", "/api/job/j/code/v1", nil).want(200).Header.Get("ETag")
	a.do("PUT", "/api/job/j/code/v1", `{"labels": {"good": "no"}}`, "If-Match", `"1"`).refuses(412, "stale", "", "version v1 of job j is at revision 2")
	a.do("PUT", "/api/job/j/code/v1", `{"labels": {"good": "yes"}}`, "If-Match", tag).want(200)
	a.do("POST", "/api/job/j/code", `{"files": {"big": "`+strings.Repeat("x", 33<<20)+`"}}`).refuses(413, "too_large", "", "send so much as a zip")
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": null}}`).refuses(422, "invalid", "files.main.py", "want a text")
	a.do("GET", "/api/job/j/code/v1", nil).want(200).is("labels.good", "yes").is("files.1.path", "main.py")
	a.do("PUT", "/api/job/j/code/v1", `{"files": {"main.py": "print(2)\n"}}`).want(201).is("id", "v4").is("labels.good", nil)
	a.do("GET", "/api/job/j/code/v1", nil).want(200).is("entry", "main.py").is("size", "15")
	a.do("PUT", "/api/job/j/code/v1", `{"files": {"main.py": "print(2)\n"}}`).want(200).is("id", "v4")
	a.do("PUT", "/api/job/j/code/v9", `{"files": {"main.py": "print(2)\n"}}`).want(404)
	a.do("PUT", "/api/job/j/code/v1", `{}`).refuses(422, "invalid", "files", "texts by their paths")
}

func TestBadCode(t *testing.T) {
	a := start(t)
	a.Limits = Limits{Files: 50, Upload: 4 << 20}
	a.do("POST", "/api/job", `{"name": "j"}`).want(201)
	reg := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg} }
	var many []string
	for i := range 51 {
		many = append(many, fmt.Sprintf("f%d.py", i))
	}
	var bomb bytes.Buffer
	bz := gzip.NewWriter(&bomb)
	bt := tar.NewWriter(bz)
	bt.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 8 << 20, Mode: 0o644})
	io.CopyN(bt, zeros{}, 8<<20)
	bt.Close()
	bz.Close()
	whole := zipOf(t, nil, "main.py")
	files := func(name string) string { return fmt.Sprintf(`{"files": {%q: "x"}}`, name) }
	tests := []struct {
		name   string
		body   any
		status int
		says   string
	}{
		{"nothing", "", 400, "it is empty"},
		{"a text", "print(1)", 400, "neither a JSON object, nor a zip, nor a tar.gz"},
		{"half of JSON", `{"files": {`, 400, "no JSON"},
		{"no files", `{}`, 422, "texts by their paths"},
		{"zero files", `{"files": {}}`, 422, "at least one file"},
		{"a number for a text", `{"files": {"main.py": 1}}`, 422, "files.main.py is 1, want a text"},
		{"another field", `{"flies": {"main.py": ""}}`, 422, "flies is not a field, want files"},
		{"up", files("../main.py"), 422, ".."},
		{"up in between", files("a/../../main.py"), 422, ".."},
		{"absolute", files("/etc/passwd"), 422, "relative"},
		{"backslash", files(`..\main.py`), 422, "slashes"},
		{"drive", files("C:/main.py"), 422, "relative"},
		{"a NUL", `{"files": {"main.py\u0000.txt": "x"}}`, 422, "control"},
		{"case twins", `{"files": {"Main.py": "", "main.py": ""}}`, 422, "upper and lower case"},
		{"file and folder", `{"files": {"a": "", "a/b": ""}}`, 422, "a"},
		{"unknown bytes", `{"tree": [{"path": "a", "digest": "sha256:` + strings.Repeat("0", 64) + `", "size": 1}]}`, 422, "PUT /api/blob/"},
		{"a digest that is a path", `{"tree": [{"path": "a", "digest": "../../etc/passwd", "size": 1}]}`, 422, "64 hex digits"},
		{"zip up", zipOf(t, nil, "../main.py"), 422, ".."},
		{"zip absolute", zipOf(t, nil, "/etc/passwd"), 422, "relative"},
		{"zip link", zipOf(t, func(h *zip.FileHeader) { h.SetMode(0o777 | 1<<27) }, "link"), 422, "links and devices are refused"},
		{"zip twins", zipOf(t, nil, "a.py", "A.py"), 422, "upper and lower case"},
		{"zip of many", zipOf(t, nil, many...), 413, "more than 50 files"},
		{"zip cut off", whole[:len(whole)-10], 422, "a whole zip"},
		{"zip damaged", append([]byte("PK\x03\x04nonsense"), whole[20:]...), 422, "a whole zip"},
		{"empty zip", zipOf(t, nil), 422, "at least one file"},
		{"tar link", tarOf(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), 422, "links and devices are refused"},
		{"tar hard link", tarOf(t, reg("a"), &tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}), 422, "links and devices are refused"},
		{"tar device", tarOf(t, &tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), 422, "links and devices are refused"},
		{"tar pipe", tarOf(t, &tar.Header{Name: "p", Typeflag: tar.TypeFifo}), 422, "links and devices are refused"},
		{"tar up", tarOf(t, reg("a/../../x")), 422, ".."},
		{"bomb", bomb.Bytes(), 413, "unpacks to more than"},
		{"too large", bytes.Repeat([]byte(" "), 5<<20), 413, "over the limit of 4Mi"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code := map[int]string{400: "syntax", 413: "too_large", 422: "invalid"}[tt.status]
			r := a.do("POST", "/api/job/j/code", tt.body)
			r.t = t
			r.refuses(tt.status, code, "", tt.says)
		})
	}
	a.do("GET", "/api/job/j/code", nil).want(200).is("items.0", nil)
	stored := 0
	a.Blob.Each(t.Context(), func(blob.Info) error { stored++; return nil })
	if stored > 0 {
		t.Errorf("%d pieces of what was refused are stored", stored)
	}
	a.do("POST", "/api/job/nothing/code", files("main.py")).refuses(404, "not_found", "", "no job")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestBlobsAndDatasets(t *testing.T) {
	a := start(t)
	text := "a,b\n1,2\n"
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	at := "/api/blob/" + digest
	a.do("HEAD", at, nil).want(404)
	a.do("GET", at, nil).refuses(404, "not_found", "", "not here")
	a.do("PUT", at, "something else").refuses(422, "invalid", "", "")
	a.do("PUT", "/api/blob/sha256:abc", text).refuses(422, "invalid", "digest", "64 hex digits")
	a.do("PUT", "/api/blob/..%2f..%2fetc", text).want(404)
	a.do("PUT", at, text).want(201).is("size", len(text)).is("digest", digest)
	if r := a.do("HEAD", at, nil).want(200); r.Header.Get("Content-Length") != fmt.Sprint(len(text)) {
		t.Errorf("%v", r.Header)
	}
	if r := a.do("GET", at, nil, "Range", "bytes=4-").want(206); string(r.Body) != "1,2\n" {
		t.Errorf("%q", r.Body)
	}

	tree := map[string]any{"files": []any{map[string]any{"path": "x/train.csv", "digest": digest, "size": len(text)}}}
	a.do("POST", "/api/dataset/tiny", tree).want(201).is("name", "tiny").is("version", 1).is("files", 1).is("size", "8")
	a.do("POST", "/api/dataset/tiny", tree).want(200).is("version", 1)
	a.do("POST", "/api/dataset", map[string]any{"name": "tiny", "files": tree["files"]}).want(200).is("version", 1)
	a.do("POST", "/api/dataset/tiny", zipOf(t, nil, "a", "b")).want(201).is("version", 2).is("files", 2)
	a.do("POST", "/api/dataset/tiny", tree).want(201).is("version", 3) // what was put last is the newest
	a.do("POST", "/api/dataset/Bad!", tree).refuses(422, "invalid", "name", "1 to 63")
	a.do("POST", "/api/dataset", map[string]any{"name": "t", "files": []any{map[string]any{"path": "x", "digest": digest, "size": 7}}}).refuses(422, "invalid", "files[0].size", "8, which those bytes have")

	a.do("GET", "/api/dataset", nil).want(200).is("items.2.version", 3).is("items.3", nil)
	a.do("GET", "/api/dataset/tiny", nil).want(200).is("items.0.version", 3)
	a.do("GET", "/api/dataset/tiny/1", nil).want(200).is("members.0.path", "x/train.csv")
	a.do("GET", "/api/dataset/tiny/latest", nil).want(200).is("version", 3)
	for _, v := range []string{"4", "0", "x"} {
		a.do("GET", "/api/dataset/tiny/"+v, nil).want(404)
	}

	// A run names the version that it reads; while it lives that stays.
	a.do("POST", "/api/job", `{"name": "j", "data": [{"name": "d", "source": "dataset:tiny"}, {"name": "e", "source": "dataset:tiny@1"}]}`).want(201)
	a.do("POST", "/api/job/j/code", `{"files": {"main.py": "1"}}`).want(201)
	r := a.do("POST", "/api/job/j/run", nil).want(202).is("spec.data.0.source", "dataset:tiny@3").is("spec.data.1.source", "dataset:tiny@1")
	run := r.get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.do("DELETE", "/api/dataset/tiny", nil).refuses(409, "conflict", "", "run j/1 reads dataset tiny")
	a.becomes(run, mlaas.Succeeded, "")
	a.do("DELETE", "/api/dataset/tiny", nil).want(204)
	a.do("GET", "/api/dataset/tiny", nil).want(404)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "data[0].source", "a dataset that is there")
}

func TestArtifacts(t *testing.T) {
	a := start(t)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	d, err := blob.PutBytes(t.Context(), a.Blob, []byte("<script>"))
	if err != nil {
		t.Fatal(err)
	}
	tree, _, err := blob.PutTree(t.Context(), a.Blob, []mlaas.File{{Path: "plot.html", Digest: d, Size: 8}, {Path: "m/x.bin", Digest: d, Size: 8}})
	if err != nil {
		t.Fatal(err)
	}
	a.replica(run, "worker-0", mlaas.ReplicaSucceeded, func(r *mlaas.Replica) {
		r.Outputs, r.Step, r.Metrics = tree, 7, map[string]mlaas.Number{"acc": 0.5}
	})
	a.replica(run, "ps-0", mlaas.ReplicaStopped, nil)
	a.becomes(run, mlaas.Succeeded, "All workers are done.")
	a.do("GET", "/api/run/j.1/artifact", nil).want(200).is("items.0.path", "m/x.bin").is("items.0.replica", "worker-0").is("items.1.size", 8)
	first := a.do("GET", "/api/run/j.1/artifact?limit=1", nil).want(200).is("items.1", nil)
	a.do("GET", "/api/run/j.1/artifact?limit=1&page_token="+first.get("next_page_token").(string), nil).want(200).is("items.0.path", "plot.html").is("next_page_token", "")
	f := a.do("GET", "/api/run/"+run+"/artifact/worker-0/plot.html", nil).want(200)
	if f.Header.Get("Content-Type") != "application/octet-stream" || f.Header.Get("X-Content-Type-Options") != "nosniff" || string(f.Body) != "<script>" {
		t.Errorf("a user's page is served as one: %v", f.Header)
	}
	a.do("GET", "/api/run/"+run+"/artifact/worker-0/none", nil).want(404)
	a.do("GET", "/api/run/"+run+"/artifact/ps-0/plot.html", nil).want(404)
	a.do("GET", "/api/job/j", nil).want(200).is("results.run", run).is("results.state", "succeeded").is("results.metrics.acc", 0.5).is("results.step", 7).is("results.artifacts", 2).is("status.reason", "All workers are done.")
}
