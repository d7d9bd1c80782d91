// Package compose turns a network that is described into one that can be run:
// it checks the description layer by layer, counts its parameters, and writes
// the program that trains it, for Keras, PyTorch or TensorFlow 1 sessions.
//
// It is pure: a description goes in, and a report or the texts of files come
// out. What a user typed goes into a program as a literal and nothing else, so
// that no name, path or number can become code (literal.go).
package compose

import (
	"fmt"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

// A Report is what there is to say of a description before it is run.
type Report struct {
	Layers     []Layer   `json:"layers" doc:"The input, each hidden layer and the output, in this order"`
	Parameters int64     `json:"parameters" doc:"Of all layers together"`
	Trainable  int64     `json:"trainable" doc:"Those of them that are learned"`
	Messages   []Message `json:"messages" doc:"What is wrong; none: it can be run"`
}

// A Layer is one layer of a network as its description makes it.
type Layer struct {
	Name       string `json:"name" example:"hidden_layers[0]"`
	Type       string `json:"type" example:"dense"`
	Shape      []int  `json:"shape" doc:"Of what it gives for one example; empty where that cannot be said"`
	Parameters int64  `json:"parameters" example:"392500"`
	Trainable  int64  `json:"trainable" doc:"Those of them that are learned"`
}

// A Message says what is wrong with one field, and what would be right.
type Message struct {
	Field   string `json:"field" doc:"The path of the field below code.composed" example:"hidden_layers[1].kernel_size"`
	Message string `json:"message" doc:"The field, what it is, and what would be right"`

	err error
}

// Err is an ErrInvalid that says every message and names the first field; nil
// where there is none.
func (r Report) Err() error {
	if len(r.Messages) == 0 {
		return nil
	}
	first := mlaas.In("code.composed", r.Messages[0].err)
	if len(r.Messages) == 1 {
		return first
	}
	var rest []string
	for _, m := range r.Messages[1:] {
		rest = append(rest, m.Message)
	}
	return fmt.Errorf("%w; besides, %s", first, strings.Join(rest, "; "))
}

// Check reports what is wrong with the network of a job, and of what layers it
// is: their shapes are known as far as the description is right.
func Check(spec mlaas.JobSpec) Report {
	if spec.Code.Composed == nil {
		return report(nil, []error{mlaas.Invalid("composed", "the network, as input, hidden_layers and output", nil)})
	}
	_, r := read(spec)
	return r
}

// read completes the network of a job and reports on it.
func read(spec mlaas.JobSpec) (*network, Report) {
	n := &network{Composed: complete(*spec.Code.Composed, spec.Environment.Framework)}
	n.check(spec.Code.Composed.HiddenLayers, spec.Data)
	return n, report(n.layers, n.wrong)
}

func report(layers []Layer, wrong []error) Report {
	r := Report{Layers: layers, Messages: []Message{}}
	for _, l := range layers {
		r.Parameters += l.Parameters
		r.Trainable += l.Trainable
	}
	for _, err := range wrong {
		m := Message{Message: err.Error(), err: err}
		if f, ok := err.(*mlaas.FieldError); ok { //nolint:errorlint // made here, never wrapped
			m.Field = f.Field
		}
		r.Messages = append(r.Messages, m)
	}
	if r.Layers == nil {
		r.Layers = []Layer{}
	}
	return r
}

// complete fills in every default, in a copy: the description stays as its user
// wrote it, so that what follows from a field changes with it.
func complete(c mlaas.Composed, framework string) mlaas.Composed {
	or := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	positive := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	part := func(field **float64, value float64) {
		if *field == nil {
			*field = &value
		}
	}
	c.Backend = c.On(framework)
	c.HiddenLayers = slices.Clone(c.HiddenLayers)
	positive(&c.Epochs, 5)
	positive(&c.BatchSize, 32)
	part(&c.ValidationSplit, 0.1)
	first, embeds := 0.0, false
	for i := range c.HiddenLayers {
		l := &c.HiddenLayers[i]
		or(&l.Type, mlaas.LayerTypes[0])
		embeds = embeds || l.Type == "embedding"
		if first == 0 {
			first = l.LearningRate
		}
		switch l.Type {
		case "dense", "activation":
			or(&l.Activation, mlaas.Activations[0])
		case "convolution":
			or(&l.Activation, mlaas.Activations[0])
			or(&l.Padding, "same")
			positive(&l.KernelSize, 3)
			positive(&l.Strides, 1)
		case "pooling":
			or(&l.Kind, "max")
			positive(&l.PoolSize, 2)
			positive(&l.Strides, l.PoolSize)
		case "global_pooling":
			or(&l.Kind, "max")
		case "dropout":
			part(&l.Rate, 0.5)
		}
	}
	in := &c.Input
	switch f := in.Format; {
	case embeds || f == "npz":
		or(&in.Scale, "none")
	case f == "idx" || f == "images":
		or(&in.Scale, "pixels")
	default:
		or(&in.Scale, "standard")
	}
	if len(in.Shape) == 0 && len(in.Columns) > 0 {
		in.Shape = []int{len(in.Columns)}
	}
	out := &c.Output
	or(&c.Loss, lossOf[out.Activation])
	if out.Neurons == 1 {
		or(&c.Loss, "mean_squared_error")
	}
	or(&c.Loss, mlaas.Losses[0])
	or(&out.Activation, activationOf[c.Loss])
	o := &c.Optimizer
	or(&o.Type, out.Type)
	or(&o.Type, mlaas.Optimizers[0])
	if o.LearningRate == 0 {
		o.LearningRate = first // as in the paper, where the first layer's counts
	}
	switch {
	case o.LearningRate != 0:
	case o.Type == "sgd" || o.Type == "adagrad":
		o.LearningRate = 0.01
	default:
		o.LearningRate = 0.001
	}
	return c
}

// The output's activation and the loss go together.
var (
	activationOf = map[string]string{
		"sparse_categorical_crossentropy": "softmax", "binary_crossentropy": "sigmoid",
		"mean_squared_error": "linear", "mean_absolute_error": "linear",
	}
	lossOf = map[string]string{
		"softmax": "sparse_categorical_crossentropy", "sigmoid": "binary_crossentropy", "linear": "mean_squared_error",
	}
)
