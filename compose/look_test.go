package compose_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/compose"
)

func npz(t *testing.T, method uint16, name, shape string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': "+shape+", }"+strings.Repeat(" ", 20)+"\n"+strings.Repeat("0", 5000))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What a description leaves away is what its data says, and what it says
// otherwise is named.
func TestLook(t *testing.T) {
	const idx = "\x00\x00\x08\x03\x00\x00\xea\x60\x00\x00\x00\x1c\x00\x00\x00\x1cpixels"
	for _, tt := range []struct {
		name, net string
		files     map[string]string
		format    string
		shape     []int
		wrong     string
	}{
		{"idx", `input: {data: digits}`, map[string]string{"t10k-images-idx3-ubyte": "", "train-images-idx3-ubyte": idx}, "idx", []int{784}, ""},
		{"idx as images", "input: {data: digits}\nhidden_layers: [{type: convolution}]", map[string]string{"train-images-idx3-ubyte.gz": zipped(t, idx)}, "idx", []int{28, 28, 1}, ""},
		{"idx, said", `input: {data: digits, shape: [28, 28]}`, map[string]string{"train-images": idx}, "idx", []int{28, 28}, ""},
		{"idx, said wrong", `input: {data: digits, shape: [28, 27]}`, map[string]string{"train-images": idx}, "idx", []int{28, 27},
			"input.shape is [28,27], want [784], or as many numbers: an example in the data is (28, 28)"},
		{"idx, cut off", `input: {data: digits}`, map[string]string{"train-images": idx[:9]}, "idx", nil, ""},
		{"npz", "input: {data: digits}\nhidden_layers: [{type: embedding}]", map[string]string{"w.npz": npz(t, zip.Store, "x.npy", "(100, 20)")}, "npz", []int{20}, ""},
		{"npz, compressed", "input: {data: digits}\nhidden_layers: [{type: convolution}]", map[string]string{"w.npz": npz(t, zip.Deflate, "x_train.npy", "(100, 8, 8, 3)")}, "npz", []int{8, 8, 3}, ""},
		{"npz, another array", `input: {data: digits}`, map[string]string{"w.npz": npz(t, zip.Store, "weights.npy", "(100, 20)")}, "npz", nil, ""},
		{"two npz", `input: {data: digits}`, map[string]string{"v.npz": "", "w.npz": npz(t, zip.Store, "x.npy", "(100, 20)")}, "npz", nil, ""},
		{"two npz, one named", `input: {data: digits, file: w.npz}`, map[string]string{"v.npz": "", "w.npz": npz(t, zip.Store, "x.npy", "(100, 20)")}, "npz", []int{20}, ""},
		{"csv", `input: {data: digits, target: c}`, map[string]string{"a.csv": "\ufeffa,\"b, b\",c\n1,2,3\n"}, "csv", []int{2}, ""},
		{"csv, target", `input: {data: digits, target: d}`, map[string]string{"a.csv": "a,b,c\n"}, "csv", []int{2}, `input.target is "d", want one of the columns of the data: a, b, c`},
		{"csv, columns", `input: {data: digits, target: c, columns: [a, bb]}`, map[string]string{"a.csv": "a,b,c\n"}, "csv", nil, `input.columns[1] is "bb", want one of the columns of the data: a, b, c`},
		{"csv, shape", `input: {data: digits, target: c, shape: [3]}`, map[string]string{"a.csv": "a,b,c\n"}, "csv", []int{3}, "input.shape is [3], want [2], the columns of the data besides the target"},
		{"images", `input: {data: digits, shape: [8, 8, 3]}`, map[string]string{"cat/1.png": "", "dog/1.JPG": "", "test/cat/1.png": ""}, "images", []int{8, 8, 3}, "output.neurons is 10, want 2, one for each folder of images in the data"},
		{"nothing", `input: {data: digits}`, map[string]string{"readme": ""}, "", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := compose.Look{Open: func(f mlaas.File) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(tt.files[f.Path])), nil
			}}
			for name := range tt.files {
				l.Files = append(l.Files, mlaas.File{Path: name})
			}
			slices.SortFunc(l.Files, func(a, b mlaas.File) int { return strings.Compare(a.Path, b.Path) })
			written := job(t, tt.net+"\noutput: {neurons: 10}")
			before := *written.Code.Composed
			spec, err := l.Fill(written)
			in := spec.Code.Composed.Input
			if in.Format != tt.format || !slices.Equal(in.Shape, tt.shape) {
				t.Errorf("format %q, shape %v, want %q, %v", in.Format, in.Shape, tt.format, tt.shape)
			}
			if (err == nil) != (tt.wrong == "") || err != nil && (!errors.Is(err, mlaas.ErrInvalid) || !strings.HasPrefix(err.Error(), tt.wrong)) {
				t.Errorf("it says %v, want %q", err, tt.wrong)
			}
			if written.Code.Composed.Input.Format != before.Input.Format || len(written.Code.Composed.Input.Shape) != len(before.Input.Shape) {
				t.Error("what the user wrote was changed")
			}
		})
	}
}
