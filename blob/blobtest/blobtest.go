// Package blobtest is what every place for bytes must pass. A driver's test
// hands it a way to open an empty one.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// Run tests the driver that open makes, empty, one for each test.
func Run(t *testing.T, open func(t *testing.T) blob.Driver) {
	tests := []struct {
		name string
		test func(*testing.T, blob.Driver)
	}{
		{"a blob is named by its digest", named},
		{"another digest than wanted stores nothing", wanted},
		{"bad names are refused", badNames},
		{"the same bytes from many at once", together},
		{"reads from an offset", offsets},
		{"what is not there", absent},
		{"each blob once", each},
		{"a reader that fails leaves nothing", broken},
		{"a context that ends leaves nothing", cancelled},
		{"many megabytes in little memory", large},
		{"stored again is young again", touched},
		{"what nothing names is collected", collected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t)) })
	}
}

func put(t *testing.T, d blob.Driver, text string) mlaas.Digest {
	t.Helper()
	digest, size, err := d.Put(t.Context(), bytes.NewReader([]byte(text)), "")
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(len(text)) {
		t.Errorf("the size is %d, want %d", size, len(text))
	}
	return digest
}

func get(t *testing.T, d blob.Driver, digest mlaas.Digest, offset int64) string {
	t.Helper()
	r, err := d.Get(t.Context(), digest, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func all(t *testing.T, d blob.Driver) map[mlaas.Digest]int64 {
	t.Helper()
	found := map[mlaas.Digest]int64{}
	err := d.Each(t.Context(), func(i blob.Info) error {
		if _, twice := found[i.Digest]; twice {
			t.Errorf("%s comes twice", i.Digest)
		}
		found[i.Digest] = i.Size
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func empty(t *testing.T, d blob.Driver) {
	t.Helper()
	if found := all(t, d); len(found) > 0 {
		t.Errorf("there is %v, want nothing", found)
	}
}

func named(t *testing.T, d blob.Driver) {
	for _, text := range []string{"", "hello\n", string(make([]byte, 300<<10))} {
		digest := put(t, d, text)
		if want := blob.Name([]byte(text)); digest != want {
			t.Errorf("it is named %s, want %s", digest, want)
		}
		if got := get(t, d, digest, 0); got != text {
			t.Errorf("it is %d bytes, want %d", len(got), len(text))
		}
		info, err := d.Stat(t.Context(), digest)
		if err != nil || info.Digest != digest || info.Size != int64(len(text)) {
			t.Errorf("Stat says %+v, %v", info, err)
		}
	}
	const known = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	if got := get(t, d, known, 0); got != "hello\n" {
		t.Errorf("%s is %q", known, got)
	}
}

func wanted(t *testing.T, d blob.Driver) {
	_, _, err := d.Put(t.Context(), bytes.NewReader([]byte("one")), blob.Name([]byte("other")))
	if !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("the error is %v, want invalid", err)
	}
	empty(t, d)
	digest, _, err := d.Put(t.Context(), bytes.NewReader([]byte("one")), blob.Name([]byte("one")))
	if err != nil || digest != blob.Name([]byte("one")) {
		t.Errorf("Put says %s, %v", digest, err)
	}
}

func badNames(t *testing.T, d blob.Driver) {
	digits := string(blob.Name(nil))[len("sha256:"):]
	for _, name := range []string{"", "x", "sha256:", digits, "sha256:../" + digits, "sha256:" + digits[:63], "sha256:" + digits + "0", "md5:" + digits, "sha256:" + "A" + digits[1:]} {
		digest := mlaas.Digest(name)
		if _, err := d.Get(t.Context(), digest, 0); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("Get(%q) says %v, want invalid", name, err)
		}
		if _, err := d.Stat(t.Context(), digest); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("Stat(%q) says %v, want invalid", name, err)
		}
		if err := d.Delete(t.Context(), digest); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("Delete(%q) says %v, want invalid", name, err)
		}
		if name == "" {
			continue
		}
		if _, _, err := d.Put(t.Context(), bytes.NewReader(nil), digest); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("Put(%q) says %v, want invalid", name, err)
		}
	}
	empty(t, d)
}

func together(t *testing.T, d blob.Driver) {
	var wg sync.WaitGroup
	for i := range 24 {
		text := fmt.Sprintf("bytes %d", i%3)
		wg.Go(func() {
			digest, _, err := d.Put(t.Context(), bytes.NewReader([]byte(text)), "")
			if err != nil || digest != blob.Name([]byte(text)) {
				t.Errorf("Put says %s, %v", digest, err)
				return
			}
			if got, err := blob.GetBytes(t.Context(), d, digest, 100); err != nil || string(got) != text {
				t.Errorf("GetBytes says %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if found := all(t, d); len(found) != 3 {
		t.Errorf("there are %d blobs, want 3", len(found))
	}
}

func offsets(t *testing.T, d blob.Driver) {
	const text = "0123456789"
	digest := put(t, d, text)
	for i := range len(text) + 1 {
		if got := get(t, d, digest, int64(i)); got != text[i:] {
			t.Errorf("from %d it is %q, want %q", i, got, text[i:])
		}
	}
	for _, i := range []int64{-1, 11} {
		if _, err := d.Get(t.Context(), digest, i); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("from %d it says %v, want invalid", i, err)
		}
	}
}

func absent(t *testing.T, d blob.Driver) {
	digest := blob.Name([]byte("never stored"))
	if _, err := d.Get(t.Context(), digest, 0); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("Get says %v, want not found", err)
	}
	if _, err := d.Stat(t.Context(), digest); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("Stat says %v, want not found", err)
	}
	if err := d.Delete(t.Context(), digest); err != nil {
		t.Errorf("Delete says %v", err)
	}
	kept, gone := put(t, d, "kept"), put(t, d, "gone")
	if err := d.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stat(t.Context(), gone); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("Stat of what was deleted says %v, want not found", err)
	}
	if got := get(t, d, kept, 0); got != "kept" {
		t.Errorf("the other is %q", got)
	}
}

func each(t *testing.T, d blob.Driver) {
	empty(t, d)
	want := map[mlaas.Digest]int64{}
	for i := range 20 {
		text := fmt.Sprintf("%0*d", i+1, i)
		want[put(t, d, text)] = int64(len(text))
		put(t, d, text)
	}
	if got := all(t, d); !maps.Equal(got, want) {
		t.Errorf("there is %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	stop, calls := errors.New("enough"), 0
	err := d.Each(t.Context(), func(blob.Info) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Each says %v after %d calls, want %v after 1", err, calls, stop)
	}
}

type failing struct {
	data []byte
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	if len(f.data) == 0 {
		return 0, f.err
	}
	n := copy(p, f.data)
	f.data = f.data[n:]
	return n, nil
}

func broken(t *testing.T, d blob.Driver) {
	reason := errors.New("the line is broken")
	_, _, err := d.Put(t.Context(), &failing{make([]byte, 200<<10), reason}, "")
	if !errors.Is(err, reason) {
		t.Errorf("the error is %v, want %v", err, reason)
	}
	empty(t, d)
}

type canceller struct {
	left   int
	cancel func()
}

func (c *canceller) Read(p []byte) (int, error) {
	if c.left--; c.left == 0 {
		c.cancel()
	}
	return len(p), nil
}

func cancelled(t *testing.T, d blob.Driver) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, _, err := d.Put(ctx, &canceller{5, cancel}, "") // never ends by itself
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want %v", err, context.Canceled)
	}
	empty(t, d)
}

// zeros is a reader of so many zero bytes that holds none.
type zeros int

func (z *zeros) Read(p []byte) (int, error) {
	if *z == 0 {
		return 0, io.EOF
	}
	n := min(len(p), int(*z))
	clear(p[:n])
	*z -= zeros(n)
	return n, nil
}

func large(t *testing.T, d blob.Driver) {
	const size = 64 << 20 // far more than a driver may keep of one
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := zeros(size)
	digest, n, err := d.Put(t.Context(), &r, "")
	if err != nil || n != size {
		t.Fatalf("Put says %d, %v", n, err)
	}
	back, err := d.Get(t.Context(), digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if n, err := io.Copy(io.Discard, back); err != nil || n != size {
		t.Fatalf("it is %d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > size/2 {
		t.Errorf("%d bytes were allocated for a stream of %d", got, size)
	}
}

func touched(t *testing.T, d blob.Driver) {
	digest := put(t, d, "again")
	first, err := d.Stat(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "again")
	second, err := d.Stat(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if second.Time.Before(first.Time) {
		t.Errorf("it is of %s, was of %s", second.Time, first.Time)
	}
}

func collected(t *testing.T, d blob.Driver) {
	kept, loose := put(t, d, "kept"), put(t, d, "loose")
	info, err := d.Stat(t.Context(), loose)
	if err != nil {
		t.Fatal(err)
	}
	keep := func(d mlaas.Digest) bool { return d == kept }
	n, freed, err := blob.Collect(t.Context(), d, keep, time.Hour, info.Time.Add(time.Minute))
	if err != nil || n != 0 || freed != 0 {
		t.Errorf("too early it removes %d, %d bytes, %v", n, freed, err)
	}
	n, freed, err = blob.Collect(t.Context(), d, keep, time.Hour, info.Time.Add(2*time.Hour))
	if err != nil || n != 1 || freed != 5 {
		t.Errorf("it removes %d, %d bytes, %v; want 1, 5", n, freed, err)
	}
	if found := all(t, d); !maps.Equal(found, map[mlaas.Digest]int64{kept: 4}) {
		t.Errorf("what is left is %v", found)
	}
}
