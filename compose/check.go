package compose

import (
	"fmt"
	"math"
	"path"
	"reflect"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

// A network is a completed description, and what was found of it.
type network struct {
	mlaas.Composed
	layers []Layer
	wrong  []error
}

// What a network may be at most: more is a slip, or too large for a program
// that holds its examples in memory.
const (
	maxLayers     = 200
	maxSize       = 1_000_000     // of one dimension, of neurons, filters and the like
	maxParameters = 2_000_000_000 // 8 GB as float32
	maxText       = 256           // of a name of a column or file
	maxColumns    = 10_000
)

func (n *network) say(err error) {
	if err != nil {
		n.wrong = append(n.wrong, err)
	}
}

func (n *network) invalid(field, want string, got any) { n.say(mlaas.Invalid(field, want, got)) }

// among says that a field must be one of all.
func (n *network) among(field, got string, all []string) bool {
	if slices.Contains(all, got) {
		return true
	}
	if got == "" {
		n.invalid(field, "one of "+strings.Join(all, ", "), nothing{})
	} else {
		n.invalid(field, "one of "+strings.Join(all, ", "), got)
	}
	return false
}

// nothing is a field that is not there.
type nothing struct{}

// GoString is how a FieldError says it.
func (nothing) GoString() string { return "missing" }

// count says that a field must be a whole number of 1 to most.
func (n *network) count(field string, got, most int) bool {
	if got >= 1 && got <= most {
		return true
	}
	if got == 0 {
		n.invalid(field, fmt.Sprintf("1 to %d", most), nothing{})
	} else {
		n.invalid(field, fmt.Sprintf("1 to %d", most), got)
	}
	return false
}

// rate says that a learning rate must be positive; 0 is one that is not said.
func (n *network) rate(field string, got float64) {
	if got < 0 || got > 1000 || math.IsNaN(got) {
		n.invalid(field, "more than 0, at most 1000", got)
	}
}

// check looks at the whole description. written is the hidden layers as the
// user wrote them: a default is no slip.
func (n *network) check(written []mlaas.ComposedLayer, data []mlaas.Data) {
	n.input(data)
	shape := slices.Clone(n.Input.Shape)
	for i, d := range shape {
		if d < 1 || d > maxSize {
			n.invalid(fmt.Sprintf("input.shape[%d]", i), fmt.Sprintf("1 to %d", maxSize), d)
			shape = nil
			break
		}
	}
	n.layers = []Layer{{Name: "input", Type: n.Input.Format, Shape: some(shape)}}
	if len(n.HiddenLayers) > maxLayers {
		n.invalid("hidden_layers", fmt.Sprintf("at most %d layers", maxLayers), len(n.HiddenLayers))
		return
	}
	for i, l := range n.HiddenLayers {
		at := fmt.Sprintf("hidden_layers[%d]", i)
		n.fields(at, written[i], l.Type)
		out := n.layer(at, i, l, shape)
		out.Name, out.Type = at, l.Type
		shape = out.Shape
		out.Shape = some(out.Shape)
		n.layers = append(n.layers, out)
	}
	n.output(shape)
	n.learning()
	total := int64(0)
	for _, l := range n.layers {
		total += l.Parameters
	}
	if total > maxParameters {
		n.invalid("hidden_layers", fmt.Sprintf("layers with at most %s parameters together", thousands(maxParameters)), said(thousands(total)+" parameters"))
	}
}

// some is a list that JSON shows as one.
func some(shape []int) []int {
	if shape == nil {
		return []int{}
	}
	return shape
}

func (n *network) table() bool { return n.Input.Format == "csv" || n.Input.Format == "parquet" }

func (n *network) input(data []mlaas.Data) {
	in := n.Input
	var names []string
	for _, d := range data {
		names = append(names, d.Name)
	}
	switch {
	case len(names) == 0:
		n.invalid("input.data", "the name of one of the job's data, which names none: add it under data", in.Data)
	case !slices.Contains(names, in.Data):
		n.invalid("input.data", "one of the job's data: "+strings.Join(names, ", "), in.Data)
	}
	if !n.among("input.format", in.Format, mlaas.InputFormats) {
		return
	}
	n.among("input.scale", in.Scale, []string{"none", "pixels", "standard"})
	for _, f := range []struct{ field, text string }{{"input.file", in.File}, {"input.test_file", in.TestFile}} {
		field, text := f.field, f.text
		if text != "" && (len(text) > maxText || path.IsAbs(text) || path.Clean(text) != text || text == ".." || strings.HasPrefix(text, "../") || strings.ContainsAny(text, "\x00\\")) {
			n.invalid(field, "a path inside the data, such as train.csv, of at most 256 bytes", text)
		}
		if text != "" && (in.Format == "idx" || in.Format == "images") {
			n.invalid(field, "nothing: the files of format "+in.Format+" are found by their names", text)
		}
	}
	if n.table() {
		n.columns()
		return
	}
	if in.Target != "" || len(in.Columns) > 0 {
		n.invalid("input.target", "nothing, like input.columns: only tables (csv, parquet) have columns", in.Target)
	}
	switch {
	case len(in.Shape) == 0:
		n.invalid("input.shape", "the shape of one example, such as [784] or [28, 28, 1]", nothing{})
	case len(in.Shape) > 3:
		n.invalid("input.shape", "1 to 3 dimensions: (height, width, channels) for images", in.Shape)
	case in.Format == "images" && (len(in.Shape) != 3 || in.Shape[2] != 1 && in.Shape[2] != 3):
		n.invalid("input.shape", "[height, width, channels] for images, with 1 channel for grey or 3 for colours: images are brought to this size", in.Shape)
	}
}

func (n *network) columns() {
	in := n.Input
	word := func(field, text string) {
		if text == "" || len(text) > maxText {
			n.invalid(field, "the name of a column, of 1 to 256 bytes", text)
		}
	}
	word("input.target", in.Target)
	if len(in.Columns) > maxColumns {
		n.invalid("input.columns", fmt.Sprintf("at most %d", maxColumns), len(in.Columns))
		return
	}
	seen := map[string]bool{}
	for i, c := range in.Columns {
		at := fmt.Sprintf("input.columns[%d]", i)
		word(at, c)
		switch {
		case c != "" && c == in.Target:
			n.invalid(at, "another column than input.target: it is to be predicted, not learned from", c)
		case seen[c]:
			n.invalid(at, "a column that is not there twice", c)
		}
		seen[c] = true
	}
	switch {
	case len(in.Shape) == 0:
		n.invalid("input.columns", "the columns to learn from, or their number as input.shape, such as [4]", nothing{})
	case len(in.Shape) != 1:
		n.invalid("input.shape", "one number for a table: how many columns are learned from", in.Shape)
	case len(in.Columns) > 0 && in.Shape[0] != len(in.Columns):
		n.invalid("input.shape", fmt.Sprintf("[%d], as many as input.columns, or nothing", len(in.Columns)), in.Shape)
	}
}

// fieldsOf says which fields a layer of each type may have.
var fieldsOf = map[string][]string{
	"dense":               {"neurons", "activation", "learning_rate"},
	"convolution":         {"filters", "kernel_size", "strides", "padding", "activation", "learning_rate"},
	"pooling":             {"kind", "pool_size", "strides"},
	"global_pooling":      {"kind"},
	"dropout":             {"rate"},
	"batch_normalization": {"learning_rate"},
	"activation":          {"activation"},
	"flatten":             {},
	"embedding":           {"vocabulary", "dimensions", "learning_rate"},
}

// fields reports those that a layer has and its type does not.
func (n *network) fields(at string, l mlaas.ComposedLayer, kind string) {
	may, known := fieldsOf[kind]
	if !known {
		return
	}
	v := reflect.ValueOf(l)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "type" || v.Field(i).IsZero() || slices.Contains(may, name) {
			continue
		}
		want := "no such field: a layer of type " + kind + " has "
		if len(may) == 0 {
			want += "none but its type"
		} else {
			want += strings.Join(may, ", ")
		}
		got := v.Field(i)
		if got.Kind() == reflect.Pointer {
			got = got.Elem()
		}
		n.invalid(at+"."+name, want, got.Interface())
	}
}

// layer looks at one hidden layer, which gets in; nil where an earlier one was
// wrong, so that nothing is said twice. The shape that it gives is nil where it
// cannot be said.
func (n *network) layer(at string, i int, l mlaas.ComposedLayer, in []int) (out Layer) {
	n.rate(at+".learning_rate", l.LearningRate)
	// shaped says what a layer gets that it cannot take.
	shaped := func(want string) {
		n.invalid(at, want, said(fmt.Sprintf("a layer of type %s that gets %s", l.Type, shapeText(in))))
	}
	switch l.Type {
	case "dense":
		right := n.count(at+".neurons", l.Neurons, maxSize)
		n.among(at+".activation", l.Activation, mlaas.Activations)
		if len(in) > 1 {
			shaped("a flat input: put {type: flatten} before it")
			in = nil
		}
		if right {
			out.Shape = []int{l.Neurons}
			if in != nil {
				out.Parameters = int64(in[0]+1) * int64(l.Neurons)
			}
		}
		out.Trainable = out.Parameters
	case "convolution":
		right := n.count(at+".filters", l.Filters, maxSize)
		right = n.count(at+".kernel_size", l.KernelSize, 1000) && right
		right = n.count(at+".strides", l.Strides, 1000) && right
		right = n.among(at+".padding", l.Padding, []string{"same", "valid"}) && right
		n.among(at+".activation", l.Activation, mlaas.Activations)
		if len(in) == 1 {
			shaped("(height, width, channels) or (length, channels): make input.shape such as [28, 28, 1]")
			in = nil
		}
		if !right || in == nil {
			return out
		}
		for _, d := range in[:len(in)-1] {
			switch {
			case l.Padding == "same":
				d = (d + l.Strides - 1) / l.Strides
			case d < l.KernelSize:
				n.invalid(at+".kernel_size", fmt.Sprintf("at most what it gets, %s, or padding: same", shapeText(in)), l.KernelSize)
				out.Shape = nil
				return out
			default:
				d = (d-l.KernelSize)/l.Strides + 1
			}
			out.Shape = append(out.Shape, d)
		}
		out.Shape = append(out.Shape, l.Filters)
		out.Parameters = int64(math.Pow(float64(l.KernelSize), float64(len(in)-1)))*int64(in[len(in)-1])*int64(l.Filters) + int64(l.Filters)
		out.Trainable = out.Parameters
	case "pooling", "global_pooling":
		n.among(at+".kind", l.Kind, []string{"max", "average"})
		right := l.Type == "global_pooling" || n.count(at+".pool_size", l.PoolSize, 1000) && n.count(at+".strides", l.Strides, 1000)
		if len(in) == 1 {
			shaped("(height, width, channels) or (length, channels), as a convolution or an embedding gives")
			in = nil
		}
		if !right || in == nil {
			return out
		}
		if l.Type == "global_pooling" {
			out.Shape = in[len(in)-1:]
			return out
		}
		for _, d := range in[:len(in)-1] {
			if d < l.PoolSize {
				n.invalid(at+".pool_size", fmt.Sprintf("at most what is left of what it gets, %s: take this layer or one before it away", shapeText(in)), l.PoolSize)
				out.Shape = nil
				return out
			}
			out.Shape = append(out.Shape, (d-l.PoolSize)/l.Strides+1)
		}
		out.Shape = append(out.Shape, in[len(in)-1])
	case "dropout":
		if r := *l.Rate; r < 0 || r >= 1 || math.IsNaN(r) {
			n.invalid(at+".rate", "0 or more, and less than 1: the part that is dropped", r)
		}
		out.Shape = in
	case "batch_normalization":
		out.Shape = in
		if in != nil {
			out.Parameters, out.Trainable = 4*int64(in[len(in)-1]), 2*int64(in[len(in)-1])
		}
	case "activation":
		n.among(at+".activation", l.Activation, mlaas.Activations)
		out.Shape = in
	case "flatten":
		if in == nil {
			return out
		}
		size := int64(1)
		for _, d := range in {
			if size *= int64(d); size > maxParameters {
				shaped("fewer numbers than that: put {type: pooling} before it")
				return out
			}
		}
		out.Shape = []int{int(size)}
	case "embedding":
		right := n.count(at+".vocabulary", l.Vocabulary, 100*maxSize)
		right = n.count(at+".dimensions", l.Dimensions, maxSize) && right
		switch {
		case i > 0:
			n.invalid(at, "an embedding as the first layer: it takes whole numbers, which only the input has", said("layer "+fmt.Sprint(i+1)))
			return out
		case len(in) > 1:
			shaped("(length,): a row of whole numbers for each example")
			return out
		case n.Input.Scale != "none":
			n.invalid("input.scale", "none before an embedding, which takes whole numbers as they are", n.Input.Scale)
		}
		if right && in != nil {
			out.Shape = []int{in[0], l.Dimensions}
		}
		if right {
			out.Parameters = int64(l.Vocabulary) * int64(l.Dimensions)
			out.Trainable = out.Parameters
		}
	default:
		n.among(at+".type", l.Type, mlaas.LayerTypes)
	}
	return out
}

func (n *network) output(in []int) {
	o := n.Output
	right := n.count("output.neurons", o.Neurons, maxSize)
	n.rate("output.learning_rate", o.LearningRate)
	if len(in) > 1 {
		n.invalid("output", "a flat input: end hidden_layers with {type: flatten} or {type: global_pooling}", said("a layer that gets "+shapeText(in)))
		in = nil
	}
	out := Layer{Name: "output", Type: "dense", Shape: []int{}}
	if right {
		out.Shape = []int{o.Neurons}
		if in != nil {
			out.Parameters = int64(in[0]+1) * int64(o.Neurons)
			out.Trainable = out.Parameters
		}
	}
	n.layers = append(n.layers, out)
	if !n.among("loss", n.Loss, mlaas.Losses) {
		return
	}
	activation := n.among("output.activation", o.Activation, []string{"softmax", "sigmoid", "linear"})
	switch want := activationOf[n.Loss]; {
	case activation && o.Activation != want:
		n.invalid("output.activation", want+", which goes with loss "+n.Loss, o.Activation)
	case !right:
	case n.classes() && want == "softmax" && o.Neurons < 2:
		n.invalid("output.neurons", "one for each class, at least 2, with softmax; for two classes also 1 with sigmoid", o.Neurons)
	case want == "sigmoid" && o.Neurons != 1:
		n.invalid("output.neurons", "1 with sigmoid, for two classes; for more take softmax", o.Neurons)
	case want == "linear" && o.Neurons != 1 && n.Input.Format != "npz":
		n.invalid("output.neurons", "1, the number to predict", o.Neurons)
	case want == "linear" && n.Input.Format == "images":
		n.invalid("loss", "sparse_categorical_crossentropy or binary_crossentropy: the folders of images are classes", n.Loss)
	}
}

// classes reports whether classes are told apart, rather than numbers
// predicted.
func (n *network) classes() bool {
	return n.Loss == "sparse_categorical_crossentropy" || n.Loss == "binary_crossentropy"
}

func (n *network) learning() {
	o := n.Optimizer
	n.among("optimizer.type", o.Type, mlaas.Optimizers)
	if t := n.Output.Type; t != "" && t != o.Type {
		n.invalid("output.type", "the same as optimizer.type, "+o.Type+", or nothing", t)
	}
	n.rate("optimizer.learning_rate", o.LearningRate)
	switch {
	case o.Momentum < 0 || o.Momentum >= 1 || math.IsNaN(o.Momentum):
		n.invalid("optimizer.momentum", "0 or more, and less than 1", o.Momentum)
	case o.Momentum != 0 && o.Type != "sgd" && o.Type != "rmsprop":
		n.invalid("optimizer.momentum", "nothing: only sgd and rmsprop have it", o.Momentum)
	}
	n.count("epochs", n.Epochs, maxSize)
	n.count("batch_size", n.BatchSize, maxSize)
	if n.Seed < 0 || n.Seed > math.MaxUint32 {
		n.invalid("seed", "0 to 4294967295", n.Seed)
	}
	if s := *n.ValidationSplit; s < 0 || s >= 1 || math.IsNaN(s) {
		n.invalid("validation_split", "0 or more, and less than 1", s)
	}
}

// said is a phrase rather than a text that someone wrote.
type said string

// GoString is how a FieldError says it.
func (s said) GoString() string { return string(s) }

// shapeText is a shape as Python writes it: (28, 28, 1), (784,).
func shapeText(shape []int) string {
	var parts []string
	for _, d := range shape {
		parts = append(parts, fmt.Sprint(d))
	}
	if len(parts) == 1 {
		return "(" + parts[0] + ",)"
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// thousands is a number as people read it: 397,510.
func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
