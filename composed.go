package mlaas

import (
	"slices"
	"strings"
)

// Composed is a network that is described rather than programmed (paper figure
// 4.4): what it reads, its layers, and how it learns. Package compose checks it
// and writes its program.
type Composed struct {
	Backend         string          `json:"backend,omitempty"` // keras | pytorch | tf1; empty: by environment.framework, else keras
	Input           ComposedInput   `json:"input"`
	HiddenLayers    []ComposedLayer `json:"hidden_layers"`
	Output          ComposedOutput  `json:"output"`
	Optimizer       Optimizer       `json:"optimizer"`
	Loss            string          `json:"loss,omitempty"`             // one of Losses; empty: by the output
	Epochs          int             `json:"epochs,omitempty"`           // empty: 5
	BatchSize       int             `json:"batch_size,omitempty"`       // empty: 32
	Seed            int64           `json:"seed,omitempty"`             // of the weights, the order and the split
	ValidationSplit *float64        `json:"validation_split,omitempty"` // part of the examples that is not learned from; empty: 0.1
}

// ComposedInput is where a composed network's examples come from.
type ComposedInput struct {
	Data     string   `json:"data"`                // the name of one of the job's data
	Format   string   `json:"format"`              // one of InputFormats
	Shape    []int    `json:"shape,omitempty"`     // of one example, such as [784] or [28, 28, 1]; tables: as many as columns
	Columns  []string `json:"columns,omitempty"`   // of a table, that are learned from; empty: all but the target
	Target   string   `json:"target,omitempty"`    // the column of a table that is to be predicted
	File     string   `json:"file,omitempty"`      // in the data; empty: the only one of its format
	TestFile string   `json:"test_file,omitempty"` // of examples that are tested by at the end
	Scale    string   `json:"scale,omitempty"`     // pixels: 0 to 255 becomes 0 to 1; standard: mean 0, deviation 1; none. Empty: by the format
}

// A ComposedLayer is one hidden layer. Which fields it may have is said by its
// type; one that says none is dense.
type ComposedLayer struct {
	Type         string   `json:"type,omitempty"`          // one of LayerTypes
	Neurons      int      `json:"neurons,omitempty"`       // dense
	Activation   string   `json:"activation,omitempty"`    // dense, convolution, activation: one of Activations; empty: relu
	LearningRate float64  `json:"learning_rate,omitempty"` // of this layer's weights; empty: the optimizer's
	Filters      int      `json:"filters,omitempty"`       // convolution
	KernelSize   int      `json:"kernel_size,omitempty"`   // convolution; empty: 3
	Strides      int      `json:"strides,omitempty"`       // convolution; empty: 1. Pooling; empty: pool_size
	Padding      string   `json:"padding,omitempty"`       // convolution: same | valid; empty: same
	PoolSize     int      `json:"pool_size,omitempty"`     // pooling; empty: 2
	Kind         string   `json:"kind,omitempty"`          // pooling, global_pooling: max | average; empty: max
	Rate         *float64 `json:"rate,omitempty"`          // dropout: the part that is dropped; empty: 0.5
	Vocabulary   int      `json:"vocabulary,omitempty"`    // embedding: how many different numbers there are, from 0
	Dimensions   int      `json:"dimensions,omitempty"`    // embedding: of the vector for each
}

// ComposedOutput is the last layer. As in the paper's figure, its type may name
// the optimizer.
type ComposedOutput struct {
	Neurons      int     `json:"neurons"`
	Activation   string  `json:"activation,omitempty"`    // softmax, sigmoid or linear; empty: by loss and neurons
	LearningRate float64 `json:"learning_rate,omitempty"` // of this layer's weights; empty: the optimizer's
	Type         string  `json:"type,omitempty"`          // the same as optimizer.type
}

// An Optimizer says how a composed network learns.
type Optimizer struct {
	Type         string  `json:"type,omitempty"`          // one of Optimizers; empty: adam
	LearningRate float64 `json:"learning_rate,omitempty"` // empty: the first layer's that says one, else by the type
	Momentum     float64 `json:"momentum,omitempty"`      // sgd and rmsprop
}

// What a composed network may be made of. The first of each is the default,
// except for formats, which have none.
var (
	Backends     = []string{"keras", "pytorch", "tf1"}
	InputFormats = []string{"idx", "npz", "images", "csv", "parquet"}
	LayerTypes   = []string{"dense", "convolution", "pooling", "global_pooling", "dropout", "batch_normalization", "activation", "flatten", "embedding"}
	Activations  = []string{"relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "linear"}
	Optimizers   = []string{"adam", "sgd", "rmsprop", "adagrad"}
	Losses       = []string{"sparse_categorical_crossentropy", "binary_crossentropy", "mean_squared_error", "mean_absolute_error"}
)

// frameworkOf is the framework whose environment a backend runs in.
var frameworkOf = map[string]string{"keras": "keras", "pytorch": "pytorch", "tf1": "tensorflow"}

// On is the backend that the program of c is written for, in an environment of
// framework: the one that c names, else the framework's own.
func (c *Composed) On(framework string) string {
	switch {
	case c.Backend != "":
		return c.Backend
	case framework == "tensorflow":
		return "tf1"
	case framework == "pytorch":
		return "pytorch"
	}
	return Backends[0]
}

// Packages are what the program of c needs besides its framework.
func (c *Composed) Packages() []string {
	switch c.Input.Format {
	case "images":
		return []string{"pillow"}
	case "parquet":
		return []string{"pyarrow"}
	}
	return nil
}

// completeComposed makes the environment one that the composed program runs
// in. The description stays as its user wrote it: what it does not say is
// decided where its program is written.
func (j *JobSpec) completeComposed() {
	c, e := j.Code.Composed, &j.Environment
	if c == nil {
		return
	}
	if j.Code.Mode == "" {
		j.Code.Mode = "composed"
	}
	if e.Image != "" || j.Code.Mode != "composed" {
		return
	}
	if e.Framework == "" {
		e.Framework = frameworkOf[c.On("")]
	}
	for _, p := range c.Packages() {
		if !slices.ContainsFunc(e.Packages, func(has string) bool { return strings.HasPrefix(strings.ToLower(has), p) }) {
			e.Packages = append(e.Packages, p)
		}
	}
}

// checkComposed reports whether mode and description go together; what is in
// the description is for package compose to judge.
func (j *JobSpec) checkComposed() error {
	c, e := j.Code.Composed, j.Environment
	switch {
	case j.Code.Mode != "composed":
		return nil
	case c == nil:
		return Invalid("code.composed", "the network, as input, hidden_layers and output: mode composed has no other code", said("missing"))
	case len(j.Execution.Command) > 0:
		return Invalid("execution.command", "nothing in mode composed: its program is the one that is written", j.Execution.Command)
	case !slices.Contains(Backends, c.On(e.Framework)):
		return Invalid("code.composed.backend", strings.Join(Backends, ", "), c.Backend)
	case e.Image == "" && e.Framework != frameworkOf[c.On(e.Framework)]:
		return Invalid("environment.framework", frameworkOf[c.On(e.Framework)]+", which backend "+c.On(e.Framework)+" needs", e.Framework)
	}
	return nil
}
