package compose

import (
	"bytes"
	"embed"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"mlaas.dev/mlaas"
)

//go:embed templates/*.tmpl
var templates embed.FS

// Entry is the file of a program that is started.
const Entry = "main.py"

// Program writes the program of a job's network: texts by their paths, of which
// [Entry] is started. Equal descriptions give equal texts. It is an ErrInvalid
// where [Check] has anything to say.
func Program(spec mlaas.JobSpec) (map[string]string, error) {
	if spec.Code.Composed == nil {
		return nil, Check(spec).Err()
	}
	n, r := read(spec)
	if err := r.Err(); err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, from := range map[string]string{Entry: n.Backend, "data.py": "data"} {
		text, err := n.write(from + ".py.tmpl")
		if err != nil {
			return nil, err
		}
		files[name] = text
	}
	return files, nil
}

func (n *network) write(name string) (string, error) {
	t, err := template.New(name).Funcs(template.FuncMap{"py": literal, "dec": func(n int) int { return n - 1 }}).ParseFS(templates, "templates/"+name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, n.page()); err != nil {
		return "", err
	}
	text := blanks.ReplaceAllString(b.String(), "\n\n\n")
	return strings.TrimRight(text, "\n") + "\n", nil
}

// blanks are more empty lines than Python wants between functions: a part of a
// template that is left out leaves its own.
var blanks = regexp.MustCompile(`\n{4,}`)

// A page is what a template fills in.
type page struct {
	mlaas.Composed
	Title, Sizes  string
	Reads         string // what data.py reads, in words
	Split         float64
	Lines         []string // the layers, as the backend has them
	Rates         []layerRate
	Has           map[string]bool // types of layers that there are
	Metric        string
	Classes       bool // classes are told apart
	Softmax       bool // by one neuron each
	Absolute      bool // the loss is the mean absolute error
	Embeds        bool // the inputs are whole numbers
	Vocabulary    int
	Channels      int // of images
	Table         bool
	ChannelsFirst bool

	OptimizerClass, OptimizerCall, LossCall, ScoreCall string
}

type layerRate struct {
	Name string
	Rate float64
}

func (n *network) page() page {
	p := page{Composed: n.Composed, Split: *n.ValidationSplit, Has: map[string]bool{}, Metric: "mae", Classes: n.classes(),
		Softmax: n.Output.Activation == "softmax", Absolute: n.Loss == "mean_absolute_error", Table: n.table()}
	if p.Classes {
		p.Metric = "accuracy"
	}
	p.Reads = map[string]string{"idx": "files in the format of MNIST", "npz": "arrays of NumPy in one file", "images": "a folder of images for each class",
		"csv": "a table as comma-separated values", "parquet": "a table in a Parquet file"}[n.Input.Format]
	p.Channels = n.Input.Shape[len(n.Input.Shape)-1]
	total, sizes := int64(0), []string{shapeSize(n.Input.Shape)}
	for i, l := range n.layers[1:] {
		total += l.Parameters
		if l.Trainable > 0 || i == len(n.HiddenLayers) {
			sizes = append(sizes, shapeSize(l.Shape))
		}
	}
	for i, l := range n.HiddenLayers {
		p.Has[l.Type] = true
		if l.Type == "embedding" {
			p.Embeds, p.Vocabulary = true, l.Vocabulary
		}
		if l.LearningRate != 0 && l.LearningRate != n.Optimizer.LearningRate {
			p.Rates = append(p.Rates, layerRate{layerName(i), l.LearningRate})
		}
	}
	if r := n.Output.LearningRate; r != 0 && r != n.Optimizer.LearningRate {
		p.Rates = append(p.Rates, layerRate{"output", r})
	}
	if len(sizes) > 8 {
		sizes = append(append(sizes[:4:4], fmt.Sprintf("%d more", len(sizes)-5)), sizes[len(sizes)-1])
	}
	p.Sizes = fmt.Sprintf("%s, %s parameters", strings.Join(sizes, "-"), thousands(total))
	p.Title = "A network that was composed, " + p.Sizes
	switch n.Backend {
	case "keras":
		n.keras(&p)
	case "pytorch":
		n.pytorch(&p)
	case "tf1":
		n.tf1(&p)
	}
	return p
}

func layerName(i int) string { return fmt.Sprintf("layer%d", i+1) }

// shapeSize is 784, or 28x28x1.
func shapeSize(shape []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", "x"), "[]")
}

// about is the comment on a layer: what it gives, and its parameters.
func about(l Layer) string {
	text := "  # " + shapeText(l.Shape)
	if l.Parameters > 0 {
		text += ", " + thousands(l.Parameters) + " parameters"
	}
	return text
}

// arguments are those of an optimizer besides its learning rate.
func (n *network) arguments() string {
	if n.Optimizer.Momentum == 0 {
		return ""
	}
	return ", momentum=" + literal(n.Optimizer.Momentum)
}
