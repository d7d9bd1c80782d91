package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/blobtest"
	"mlaas.dev/mlaas/blob/s3"
	"mlaas.dev/mlaas/internal/bucket"
	"mlaas.dev/mlaas/internal/s3test"
)

// always renews, however young a blob is.
var always = s3.Options{Young: time.Nanosecond}

func open(t *testing.T, url string, o s3.Options) *s3.S3 {
	t.Helper()
	s, err := s3.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := s3test.Start(t)
	n := 0
	for name, o := range map[string]s3.Options{"as it is": {}, "renewing always": always, "small parts": {Part: 5 << 20}} {
		t.Run(name, func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) blob.Driver {
				n++
				return open(t, server.Bucket("blobs", fmt.Sprintf("a/place %d", n)), o)
			})
		})
	}
}

// raw is a client of the server beside the driver.
func raw(t *testing.T, s *s3test.Server) minio.Core {
	t.Helper()
	c, err := minio.New(s.Listen, &minio.Options{
		Creds:  credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""),
		Region: s3test.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return minio.Core{Client: c}
}

// keys are all objects of a bucket, and uploads those that are not ended.
func keys(t *testing.T, s *s3test.Server, bucket string) (keys, uploads []string) {
	t.Helper()
	c := raw(t, s)
	for o := range c.Client.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys = append(keys, o.Key)
	}
	page, err := c.ListMultipartUploads(t.Context(), bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range page.Uploads {
		uploads = append(uploads, u.Key)
	}
	return keys, uploads
}

// some are bytes that do not repeat.
func some(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	return data
}

// count tells how many requests of each method there were.
type count struct {
	http.RoundTripper
	put, get atomic.Int64
	bytes    atomic.Int64
}

func (c *count) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.Method {
	case http.MethodPut:
		c.put.Add(1)
		c.bytes.Add(max(r.ContentLength, 0))
	case http.MethodGet:
		c.get.Add(1)
	}
	return c.RoundTripper.RoundTrip(r)
}

// 100 MiB go in parts, with and without a name, and come back; stored again,
// the bytes are not sent again and the time is new.
func TestLarge(t *testing.T) {
	server := s3test.Start(t)
	counted := &count{RoundTripper: bucket.Transport(time.Minute)}
	o := always
	o.Transport = counted
	for _, name := range []string{"named", "not named"} {
		t.Run(name, func(t *testing.T) {
			s := open(t, server.Bucket("large", name), o)
			data := some(100<<20 + 12345)
			want := mlaas.Digest("")
			if name == "named" {
				want = blob.Name(data)
			}
			for i := range 2 {
				counted.bytes.Store(0)
				d, size, err := s.Put(t.Context(), bytes.NewReader(data), want)
				if err != nil || d != blob.Name(data) || size != int64(len(data)) {
					t.Fatalf("Put says %s, %d, %v", d, size, err)
				}
				if sent := counted.bytes.Load(); i == 1 && sent > 1000 {
					t.Errorf("storing it again sent %d bytes", sent)
				}
			}
			r, err := s.Get(t.Context(), blob.Name(data), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("it comes back as %d bytes, %v", len(got), err)
			}
			if _, uploads := keys(t, server, "large"); len(uploads) > 0 {
				t.Errorf("uploads are left: %v", uploads)
			}
		})
	}
}

// Another digest than wanted, found out after the parts were sent, leaves
// nothing.
func TestLargeWrong(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server.Bucket("wrong", ""), s3.Options{Part: 5 << 20})
	_, _, err := s.Put(t.Context(), bytes.NewReader(some(23<<20)), blob.Name([]byte("other")))
	if !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("it says %v, want invalid", err)
	}
	if left, uploads := keys(t, server, "wrong"); len(left)+len(uploads) > 0 {
		t.Errorf("it leaves %v and %v", left, uploads)
	}
}

// Many at once are stored in little memory: those beyond a few wait on disk.
func TestManyLarge(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server.Bucket("many", ""), s3.Options{Part: 5 << 20})
	data := some(12 << 20)
	var all sync.WaitGroup
	for i := range 8 {
		own := append([]byte{byte(i)}, data...)
		all.Go(func() {
			if _, _, err := s.Put(t.Context(), bytes.NewReader(own), blob.Name(own)); err != nil {
				t.Error(err)
				return
			}
			if got, err := blob.GetBytes(t.Context(), s, blob.Name(own), 1<<30); err != nil || !bytes.Equal(got, own) {
				t.Errorf("%d bytes come back, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

// What is wrong with an address, the keys or the bucket is said with what to
// set, and without the secret.
func TestOpenSays(t *testing.T) {
	server := s3test.Start(t)
	good := server.Bucket("there", "")
	open(t, good, s3.Options{})
	end := "?endpoint=" + server.URL()
	for _, tt := range []struct {
		name, url string
		env       map[string]string
		kind      *mlaas.Kind
		says      string
	}{
		{"not s3", "https://there/x", nil, mlaas.ErrInvalid, "s3://BUCKET/KEY"},
		{"no bucket", "s3:///x", nil, mlaas.ErrInvalid, "s3://BUCKET/KEY"},
		{"a key alone", "s3://key@there/x", nil, mlaas.ErrInvalid, "s3://KEY:SECRET@BUCKET"},
		{"a slip", "s3://there/x?endpont=http://x", nil, mlaas.ErrInvalid, "endpont"},
		{"not a server", "s3://there/x?endpoint=127.0.0.1:80", nil, mlaas.ErrInvalid, "endpoint is"},
		{"not a truth", "s3://there/x" + end + "&path=maybe", nil, mlaas.ErrInvalid, "path is"},
		{"a secret that cannot be read", "s3://key:hush/hush@there/x", nil, mlaas.ErrInvalid, "address is"},
		{"the wrong secret", strings.Replace(good, s3test.SecretKey, "hush", 1), nil, mlaas.ErrForbidden, "AWS_SECRET_ACCESS_KEY"},
		{"the wrong key", strings.Replace(good, s3test.AccessKey+":", "stranger:", 1), nil, mlaas.ErrForbidden, "AWS_ACCESS_KEY_ID"},
		{"the wrong key of the environment", "s3://there" + end, map[string]string{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "hush"}, mlaas.ErrForbidden, "AWS_ACCESS_KEY_ID"},
		{"no key", "s3://there" + end, nil, mlaas.ErrForbidden, "AWS_ACCESS_KEY_ID"},
		{"no such bucket", strings.Replace(strings.Replace(good, "there", "nowhere", 1), "&create=true", "", 1), nil, mlaas.ErrUnavailable, "?create=true"},
		{"nobody there", "s3://a:hush@there?endpoint=http://127.0.0.1:1", nil, mlaas.ErrUnavailable, "cannot be reached"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s3.Open(t.Context(), tt.url, s3.Options{Options: bucket.Options{Tries: 1, Getenv: func(k string) string { return tt.env[k] }}})
			if !errors.Is(err, tt.kind) || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("it says %v, want %v and %q", err, tt.kind, tt.says)
			}
			if strings.Contains(fmt.Sprint(err), "hush") {
				t.Errorf("it tells the secret: %v", err)
			}
		})
	}
	env := map[string]string{"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey}
	open(t, "s3://there/p"+end, s3.Options{Options: bucket.Options{Getenv: func(k string) string { return env[k] }}})
	left, _ := keys(t, server, "there")
	if len(left) > 0 {
		t.Errorf("opening leaves %v", left)
	}
}

// A server that is killed in the middle of a Put shows nothing of it, and the
// same Put works when it is back.
func TestServerKilled(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server.Bucket("killed", ""), s3.Options{Part: 5 << 20, Options: bucket.Options{Tries: 2}})
	data := some(40 << 20)
	for _, want := range []mlaas.Digest{blob.Name(data), ""} {
		_, _, err := s.Put(t.Context(), &interrupted{data: data, at: 20 << 20, do: server.Kill}, want)
		if !errors.Is(err, mlaas.ErrUnavailable) {
			t.Fatalf("it says %v, want unavailable", err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if left, _ := keys(t, server, "killed"); len(left) > 0 {
			t.Errorf("it shows %v", left)
		}
		if _, err := s.Stat(t.Context(), blob.Name(data)); !errors.Is(err, mlaas.ErrNotFound) {
			t.Errorf("Stat says %v, want not found", err)
		}
	}
	if _, _, err := s.Put(t.Context(), bytes.NewReader(data), blob.Name(data)); err != nil {
		t.Fatal(err)
	}
	if got, err := blob.GetBytes(t.Context(), s, blob.Name(data), 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes come back, %v", len(got), err)
	}
}

// interrupted does something once, in the middle.
type interrupted struct {
	data []byte
	at   int
	read int
	do   func()
}

func (i *interrupted) Read(p []byte) (int, error) {
	if i.read == len(i.data) {
		return 0, io.EOF
	}
	if i.do != nil && i.read >= i.at {
		i.do()
		i.do = nil
	}
	n := copy(p, i.data[i.read:])
	i.read += n
	return n, nil
}

// A proxy between the driver and the server does what a test says.
type proxy struct {
	*httputil.ReverseProxy
	mu sync.Mutex
	do func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	do := p.do
	p.mu.Unlock()
	if do == nil || !do(w, r) {
		p.ReverseProxy.ServeHTTP(w, r)
	}
}

func (p *proxy) set(do func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.do = do
}

// through is the address of a bucket of the server by way of a proxy.
func through(t *testing.T, server *s3test.Server, name string) (*proxy, string) {
	t.Helper()
	at, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ReverseProxy: &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = at.Scheme, at.Host }, // Host is signed, and stays
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go h.Serve(l)
	t.Cleanup(func() { h.Close() })
	return p, strings.Replace(server.Bucket(name, "p"), server.Listen, l.Addr().String(), 1)
}

// A server that fails now and then is asked again; one that goes on failing is
// an error of its kind, soon.
func TestServerFails(t *testing.T) {
	server := s3test.Start(t)
	p, url := through(t, server, "fails")
	s := open(t, url, s3.Options{Part: 5 << 20, Options: bucket.Options{Tries: 4}})
	data := some(23 << 20)
	var n atomic.Int64
	p.set(func(w http.ResponseWriter, _ *http.Request) bool {
		if n.Add(1)%3 == 0 {
			w.WriteHeader([]int{500, 502, 503, 504}[n.Load()%4])
			return true
		}
		return false
	})
	if _, _, err := s.Put(t.Context(), bytes.NewReader(data), blob.Name(data)); err != nil {
		t.Fatalf("every third request fails: %v", err)
	}
	if got, err := blob.GetBytes(t.Context(), s, blob.Name(data), 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("every third request fails: %d bytes come back, %v", len(got), err)
	}
	for status, tt := range map[int]struct {
		body string
		kind *mlaas.Kind
	}{
		500: {"", mlaas.ErrUnavailable},
		507: {"", mlaas.ErrDisk},
		403: {"<Error><Code>QuotaExceeded</Code><Message>enough</Message></Error>", mlaas.ErrDisk},
		400: {"<Error><Code>XMinioStorageFull</Code><Message>full</Message></Error>", mlaas.ErrDisk},
		401: {"", mlaas.ErrForbidden},
	} {
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			w.WriteHeader(status)
			io.WriteString(w, tt.body)
			return true
		})
		if _, _, err := s.Put(t.Context(), strings.NewReader(fmt.Sprint("new", status)), ""); !errors.Is(err, tt.kind) {
			t.Errorf("%d %s is %v, want %v", status, tt.body, err, tt.kind)
		}
	}
	p.set(nil)
	if _, err := s.Stat(t.Context(), blob.Name([]byte("new500"))); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("what was refused is there: %v", err)
	}
}

// A bit that flips on the way to the server is noticed there.
func TestFlippedOnTheWay(t *testing.T) {
	server := s3test.Start(t)
	p, url := through(t, server, "flipped")
	s := open(t, url, s3.Options{Part: 5 << 20, Options: bucket.Options{Tries: 2}})
	for _, size := range []int{1000, 2 << 20, 11 << 20} {
		data := some(size)
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && r.ContentLength > 0 {
				body, _ := io.ReadAll(r.Body)
				body[len(body)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			return false
		})
		if _, _, err := s.Put(t.Context(), bytes.NewReader(data), blob.Name(data)); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("%d bytes: it says %v, want unavailable", size, err)
		}
		p.set(nil)
		if _, err := s.Stat(t.Context(), blob.Name(data)); !errors.Is(err, mlaas.ErrNotFound) {
			t.Errorf("%d bytes: it is there: %v", size, err)
		}
		if _, _, err := s.Put(t.Context(), bytes.NewReader(data), blob.Name(data)); err != nil {
			t.Errorf("%d bytes: sent again: %v", size, err)
		}
	}
}

// An upload whose last answer is lost is found to be done.
func TestAnswerLost(t *testing.T) {
	server := s3test.Start(t)
	p, url := through(t, server, "lost")
	s := open(t, url, s3.Options{Part: 5 << 20, Options: bucket.Options{Tries: 3}})
	data := some(11 << 20)
	var once atomic.Bool
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && once.CompareAndSwap(false, true) {
			p.ReverseProxy.ServeHTTP(&deaf{http.Header{}}, r) // it is done, and nobody hears it
			panic(http.ErrAbortHandler)
		}
		return false
	})
	if _, _, err := s.Put(t.Context(), bytes.NewReader(data), blob.Name(data)); err != nil || !once.Load() {
		t.Fatalf("it says %v, lost: %v", err, once.Load())
	}
	if got, err := blob.GetBytes(t.Context(), s, blob.Name(data), 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes come back, %v", len(got), err)
	}
}

type deaf struct{ h http.Header }

func (d *deaf) Header() http.Header         { return d.h }
func (d *deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d *deaf) WriteHeader(int)             {}

// A connection that breaks in the middle of reading is taken up where it broke.
func TestReadResumes(t *testing.T) {
	server := s3test.Start(t)
	p, url := through(t, server, "resumes")
	s := open(t, url, s3.Options{})
	data := some(10 << 20)
	if _, _, err := s.Put(t.Context(), bytes.NewReader(data), ""); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || n.Add(1) > 4 {
			return false
		}
		p.ReverseProxy.ServeHTTP(&cutting{ResponseWriter: w, left: 2 << 20}, r)
		return true
	})
	for _, offset := range []int64{0, 1 << 20} {
		n.Store(0)
		r, err := s.Get(t.Context(), blob.Name(data), offset)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		half, err := io.CopyN(&got, r, 3<<20) // by Read
		if err != nil {
			t.Fatal(err)
		}
		rest, err := io.Copy(&got, r) // by WriteTo
		r.Close()
		if err != nil || !bytes.Equal(got.Bytes(), data[offset:]) || n.Load() < 3 {
			t.Errorf("from %d: %d and %d bytes of %d, %v, in %d requests", offset, half, rest, len(data), err, n.Load())
		}
	}
}

// cutting breaks the connection after so many bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// A server that holds the connection and says nothing is given up, and when it
// wakes the same reader goes on.
func TestFrozen(t *testing.T) {
	server := s3test.Start(t)
	o := s3.Options{Options: bucket.Options{Silence: 300 * time.Millisecond, Tries: 2}}
	s := open(t, server.Bucket("frozen", ""), o)
	data := some(20 << 20)
	if _, _, err := s.Put(t.Context(), bytes.NewReader(data), ""); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), blob.Name(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, _, err := s.Put(t.Context(), strings.NewReader("x"), ""); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("frozen it says %v, want unavailable", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to give up", took)
	}
	wake := time.AfterFunc(500*time.Millisecond, func() { server.Cont() })
	defer wake.Stop()
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("after it woke: %d bytes of %d, %v", len(head)+len(rest), len(data), err)
	}
}

// A bit that flips on the server is seen by who reads, and storing the right
// bytes in another length mends it.
func TestDamage(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server.Bucket("damage", ""), s3.Options{})
	d, _, err := s.Put(t.Context(), strings.NewReader("as it was"), "")
	if err != nil {
		t.Fatal(err)
	}
	digits := string(d)[7:]
	at := filepath.Join(server.Dir, "buckets", "damage", "sha256", digits[:2], digits)
	for _, damage := range []string{"as it Was", "cut"} {
		if err := os.WriteFile(at, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := blob.GetBytes(t.Context(), s, d, 100); !errors.Is(err, blob.ErrDamaged) {
			t.Errorf("%q: reading says %v, want damaged", damage, err)
		}
		r, err := s.Get(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, blob.ErrDamaged) || n != int64(len(damage)) {
			t.Errorf("%q: copying says %v after %d bytes, want damaged", damage, err, n)
		}
		r.Close()
	}
	if _, _, err := s.Put(t.Context(), strings.NewReader("as it was"), ""); err != nil {
		t.Fatal(err)
	}
	if got, err := blob.GetBytes(t.Context(), s, d, 100); err != nil || string(got) != "as it was" {
		t.Errorf("mended it is %q, %v", got, err)
	}
}

// Uploads of a day ago are ended, younger ones are not.
func TestSweep(t *testing.T) {
	server := s3test.Start(t)
	now := time.Now
	s := open(t, server.Bucket("sweep", "p"), s3.Options{Now: func() time.Time { return now() }})
	c := raw(t, server)
	digits := strings.Repeat("ab", 32)
	for _, key := range []string{"p/sha256/ab/" + digits, "other/x"} {
		if _, err := c.NewMultipartUpload(t.Context(), "sweep", key, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("young: it ends %d, %v", n, err)
	}
	now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	if n, err := s.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("old: it ends %d, %v; want 1", n, err)
	}
	if _, left := keys(t, server, "sweep"); len(left) != 1 || left[0] != "other/x" {
		t.Errorf("left are %v", left)
	}
}

// Storing again makes an old blob young without sending it, for every other
// process that uses the bucket.
func TestRenew(t *testing.T) {
	server := s3test.Start(t)
	a, b := open(t, server.Bucket("renew", ""), always), open(t, server.Bucket("renew", ""), always)
	d, _, err := a.Put(t.Context(), strings.NewReader("x"), "")
	if err != nil {
		t.Fatal(err)
	}
	digits := string(d)[7:]
	old := time.Now().Add(-48 * time.Hour)
	age := func() {
		for _, folder := range []string{"sha256", "renewed"} {
			at := filepath.Join(server.Dir, "buckets", "renew", folder, digits[:2], digits)
			if err := os.Chtimes(at, old, old); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	for name, renew := range map[string]func() error{
		"Put":   func() error { _, _, err := a.Put(t.Context(), strings.NewReader("x"), ""); return err },
		"Touch": func() error { _, err := blob.Touch(t.Context(), a, d); return err },
	} {
		age()
		if info, err := b.Stat(t.Context(), d); err != nil || time.Since(info.Time) < 47*time.Hour {
			t.Fatalf("it is of %s, %v", info.Time, err)
		}
		if err := renew(); err != nil {
			t.Fatal(err)
		}
		if info, err := b.Stat(t.Context(), d); err != nil || time.Since(info.Time) > time.Minute {
			t.Errorf("after %s it is of %s, %v", name, info.Time, err)
		}
		if n, _, err := blob.Collect(t.Context(), b, func(mlaas.Digest) bool { return false }, 24*time.Hour, time.Now()); n != 0 || err != nil {
			t.Errorf("after %s %d are collected, %v", name, n, err)
		}
	}
	age()
	if n, freed, err := blob.Collect(t.Context(), b, func(mlaas.Digest) bool { return false }, 24*time.Hour, time.Now()); n != 1 || freed != 1 || err != nil {
		t.Errorf("old, %d are collected, %d bytes, %v", n, freed, err)
	}
	if left, _ := keys(t, server, "renew"); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if _, err := blob.Touch(t.Context(), a, d); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("Touch of what is gone says %v", err)
	}
}

// Whoever stores while another collects ends with the bytes there: whatever
// request of the collector comes between.
func TestCollectWhileStoring(t *testing.T) {
	server := s3test.Start(t)
	p, url := through(t, server, "race")
	collector := open(t, url, always)
	writer := open(t, server.Bucket("race", "p"), always)
	step := 1
	for ; ; step++ {
		text := fmt.Sprint("race", step)
		d, _, err := writer.Put(t.Context(), strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		digits, old := string(d)[7:], time.Now().Add(-48*time.Hour)
		if err := os.Chtimes(filepath.Join(server.Dir, "buckets", "race", "p", "sha256", digits[:2], digits), old, old); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		stored := make(chan error, 1)
		p.set(func(http.ResponseWriter, *http.Request) bool {
			if int(n.Add(1)) == step {
				began := make(chan struct{})
				go func() {
					close(began)
					_, _, err := writer.Put(t.Context(), strings.NewReader(text), "")
					stored <- err
				}()
				<-began
				select { // it may have to wait for the collector, which waits here for it
				case err := <-stored:
					stored <- err
				case <-time.After(300 * time.Millisecond):
				}
			}
			return false
		})
		_, err = collector.DeleteBefore(t.Context(), d, time.Now().Add(-24*time.Hour))
		p.set(nil)
		if err != nil {
			t.Fatal(err)
		}
		if int(n.Load()) < step {
			break // there was no such request
		}
		if err := <-stored; err != nil {
			t.Fatalf("stored at request %d: %v", step, err)
		}
		if _, err := writer.Stat(t.Context(), d); err != nil {
			t.Errorf("stored at request %d, acknowledged, and gone: %v", step, err)
		}
	}
	if step < 6 { // mark, two looks, two deletions, unmark
		t.Errorf("the collector made %d requests", step-1)
	}
}

func TestObjects(t *testing.T) {
	server := s3test.Start(t)
	o := open(t, server.Bucket("objects", "p"), s3.Options{}).Objects()
	other := open(t, server.Bucket("objects", "p2"), s3.Options{}).Objects()
	ctx := t.Context()
	if err := other.Put(ctx, "series/b/1", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"series/b/2", "series/b/10", "series/b/1", "series/a"} {
		if err := o.Put(ctx, key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Put(ctx, "series/a", nil); err != nil {
		t.Fatal(err)
	}
	list := func(prefix string) string {
		all, err := o.List(ctx, prefix)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(all)
	}
	if got, want := list("series/"), "[{series/a 0} {series/b/1 10} {series/b/10 11} {series/b/2 10}]"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if got, want := list("series/b/1"), "[{series/b/1 10} {series/b/10 11}]"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if got, err := o.Get(ctx, "series/b/10"); err != nil || string(got) != "series/b/10" {
		t.Errorf("Get says %q, %v", got, err)
	}
	if got, err := o.Get(ctx, "series/a"); err != nil || len(got) != 0 {
		t.Errorf("Get says %q, %v", got, err)
	}
	if _, err := o.Get(ctx, "series/none"); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("Get says %v, want not found", err)
	}
	if err := o.Delete(ctx, "series/a", "series/none", "series/b/1", "series/b/2"); err != nil {
		t.Fatal(err)
	}
	if got, want := list(""), "[{series/b/10 11}]"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if got := list("none/"); got != "[]" {
		t.Errorf("there are %s", got)
	}
	for _, key := range []string{"", "/a", "../a", "a//b", "sha256/ab/x", "renewed", "doomed/x"} {
		if err := o.Put(ctx, key, nil); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("Put(%q) says %v, want invalid", key, err)
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := o.Put(short, "late", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended says %v", err)
	}
}
