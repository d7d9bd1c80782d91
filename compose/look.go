package compose

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
)

// A Look is at the data of a network, as far as its beginning says what it is.
type Look struct {
	Files []mlaas.File
	Open  func(mlaas.File) (io.ReadCloser, error)
}

// Fill is a job whose network says what its data does: the format by the names
// of the files, the shape of an example by their heads. What the user said
// stays; where the data is otherwise, Fill is an ErrInvalid that names the field
// below code.composed. What cannot be read says nothing: the program will.
// Parquet files have their schema at the end, and are not looked into.
func (l Look) Fill(spec mlaas.JobSpec) (mlaas.JobSpec, error) {
	if spec.Code.Composed == nil {
		return spec, nil
	}
	c := *spec.Code.Composed
	if c.Input.Format == "" {
		c.Input.Format = l.format()
	}
	var err error
	switch c.Input.Format {
	case "idx":
		err = l.array(&c, l.idx())
	case "npz":
		err = l.array(&c, l.npz(c.Input.File))
	case "csv":
		err = l.table(&c)
	case "images":
		err = l.classes(&c)
	}
	spec.Code.Composed = &c
	return spec, err
}

func (l Look) format() string {
	for _, f := range l.Files {
		switch name := strings.TrimSuffix(path.Base(f.Path), ".gz"); {
		case strings.HasPrefix(name, "train-images"):
			return "idx"
		case slices.Contains([]string{".npz", ".csv", ".parquet"}, path.Ext(name)):
			return path.Ext(name)[1:]
		case picture(f.Path) && path.Dir(f.Path) != ".":
			return "images"
		}
	}
	return ""
}

func picture(name string) bool {
	return slices.Contains([]string{".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}, strings.ToLower(path.Ext(name)))
}

// head is the beginning of the file that is meant: the one named, or the only
// one on top that ends so. It is empty where none is.
func (l Look) head(named, ending string) []byte {
	var found []mlaas.File
	for _, f := range l.Files {
		if f.Path == named || named == "" && path.Dir(f.Path) == "." && strings.HasSuffix(f.Path, ending) {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		return nil
	}
	r, err := l.Open(found[0])
	if err != nil {
		return nil
	}
	defer r.Close()
	var from io.Reader = bufio.NewReader(r)
	if strings.HasSuffix(found[0].Path, ".gz") {
		if from, err = gzip.NewReader(from); err != nil {
			return nil
		}
	}
	head, err := io.ReadAll(io.LimitReader(from, maxHead))
	if err != nil && len(head) == 0 {
		return nil
	}
	return head
}

// maxHead is how much of a file is read.
const maxHead = 1 << 20

// idx is the shape of one example in files as MNIST has them.
func (l Look) idx() []int {
	for _, f := range l.Files {
		if path.Dir(f.Path) != "." || !strings.HasPrefix(f.Path, "train-images") {
			continue
		}
		head := l.head(f.Path, "")
		if len(head) < 4 || head[0] != 0 || head[1] != 0 || len(head) < 4+4*int(head[3]) {
			return nil
		}
		var shape []int
		for i := 1; i < int(head[3]); i++ {
			shape = append(shape, int(binary.BigEndian.Uint32(head[4+4*i:])))
		}
		return shape
	}
	return nil
}

var npyShape = regexp.MustCompile(`'shape': \(([0-9, ]*)\)`)

// npz is the shape of one example in a file of NumPy, whose first array is
// mostly the examples: a zip of arrays, each with its shape in front.
func (l Look) npz(file string) []int {
	head := l.head(file, ".npz")
	if len(head) < 30 || string(head[:4]) != "PK\x03\x04" {
		return nil
	}
	method, name, extra := binary.LittleEndian.Uint16(head[8:]), int(binary.LittleEndian.Uint16(head[26:])), int(binary.LittleEndian.Uint16(head[28:]))
	if len(head) < 30+name+extra || !slices.Contains([]string{"x.npy", "x_train.npy"}, string(head[30:30+name])) {
		return nil
	}
	array := head[30+name+extra:]
	if method == 8 {
		array, _ = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(array)), 4096)) // its head is there, or does not match
	}
	m := npyShape.FindSubmatch(array[:min(len(array), 4096)])
	if m == nil || !bytes.HasPrefix(array, []byte("\x93NUMPY")) {
		return nil
	}
	var shape []int
	for part := range strings.SplitSeq(string(m[1]), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		shape = append(shape, n)
	}
	if len(shape) < 2 {
		return nil
	}
	return shape[1:]
}

// array fills in the shape of an example, or compares it with what is there.
func (l Look) array(c *mlaas.Composed, shape []int) error {
	size := 1
	for _, d := range shape {
		if d < 1 || d > maxSize || size > maxParameters/d {
			return nil
		}
		size *= d
	}
	switch {
	case shape == nil:
	case len(c.Input.Shape) == 0:
		c.Input.Shape = as(shape, size, c.HiddenLayers)
	default:
		said := 1
		for _, d := range c.Input.Shape {
			if d < 1 || d > maxSize || said > maxParameters/d {
				return nil // said elsewhere
			}
			said *= d
		}
		if said != size {
			return mlaas.Invalid("input.shape", fmt.Sprintf("%s, or as many numbers: an example in the data is %s", shownShape(as(shape, size, c.HiddenLayers)), shapeText(shape)), c.Input.Shape)
		}
	}
	return nil
}

// as is the shape of examples as the first layer takes them: in a row, or as
// images with channels.
func as(shape []int, size int, layers []mlaas.ComposedLayer) []int {
	first := ""
	if len(layers) > 0 {
		first = layers[0].Type
	}
	switch {
	case first == "" || first == "dense":
		return []int{size}
	case len(shape) == 2 && (first == "convolution" || first == "flatten" || strings.HasSuffix(first, "pooling")):
		return append(slices.Clone(shape), 1)
	}
	return shape
}

func shownShape(shape []int) string {
	return "[" + strings.Trim(shapeText(shape), "(,)") + "]"
}

// table compares the columns of a table with what is said of them.
func (l Look) table(c *mlaas.Composed) error {
	head := l.head(c.Input.File, ".csv")
	if head == nil {
		return nil
	}
	names, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(head, []byte("\ufeff")))).Read()
	if err != nil || len(names) > maxColumns {
		return nil
	}
	shown := strings.Join(names[:min(len(names), 20)], ", ")
	if len(c.Input.Shape) == 0 && len(c.Input.Columns) == 0 && len(names) > 1 {
		c.Input.Shape = []int{len(names) - 1}
	}
	if !slices.Contains(names, c.Input.Target) {
		return mlaas.Invalid("input.target", "one of the columns of the data: "+shown, c.Input.Target)
	}
	for i, n := range c.Input.Columns {
		if !slices.Contains(names, n) {
			return mlaas.Invalid(fmt.Sprintf("input.columns[%d]", i), "one of the columns of the data: "+shown, n)
		}
	}
	if len(c.Input.Columns) == 0 && !slices.Equal(c.Input.Shape, []int{len(names) - 1}) {
		return mlaas.Invalid("input.shape", fmt.Sprintf("[%d], the columns of the data besides the target, or input.columns", len(names)-1), c.Input.Shape)
	}
	return nil
}

// classes compares the folders of images with the output.
func (l Look) classes(c *mlaas.Composed) error {
	inside := ""
	if slices.ContainsFunc(l.Files, func(f mlaas.File) bool { return strings.HasPrefix(f.Path, "train/") }) {
		inside = "train/"
	}
	folders := map[string]bool{}
	for _, f := range l.Files {
		rest, ok := strings.CutPrefix(f.Path, inside)
		if name, _, deep := strings.Cut(rest, "/"); ok && deep && name != "test" {
			folders[name] = true
		}
	}
	want := len(folders)
	if want == 2 && c.Output.Neurons == 1 || want == c.Output.Neurons || want == 0 {
		return nil
	}
	return mlaas.Invalid("output.neurons", fmt.Sprintf("%d, one for each folder of images in the data", want), c.Output.Neurons)
}
