package compose_test

import (
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/compose"
)

var update = flag.Bool("update", false, "write the goldens anew")

// job is a composed job, its network given as YAML.
func job(t testing.TB, network string) mlaas.JobSpec {
	t.Helper()
	raw, err := yaml.YAMLToJSONStrict([]byte(network))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := mlaas.ReadJob([]byte(`{"name": "net", "data": [{"name": "digits", "source": "dataset:digits"}], "code": {"composed": ` + string(raw) + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// nets are networks that have, between them, every layer, format, loss and
// optimizer. Each is written for every backend.
var nets = map[string]string{
	"paper": `
input: {data: digits, format: idx, shape: [784]}
hidden_layers: [{neurons: 500, activation: relu, learning_rate: 0.1}]
output: {neurons: 10, type: sgd}
epochs: 2
batch_size: 50
seed: 1`,
	"convolution": `
input: {data: digits, format: idx, shape: [28, 28, 1]}
hidden_layers:
- {type: convolution, filters: 8, strides: 2}
- {type: batch_normalization}
- {type: convolution, filters: 16, kernel_size: 5, padding: valid, activation: linear}
- {type: activation, activation: leaky_relu}
- {type: pooling}
- {type: convolution, filters: 16}
- {type: pooling, kind: average, pool_size: 3, strides: 1}
- {type: flatten}
- {type: dropout, rate: 0.25}
- {neurons: 32, activation: gelu}
output: {neurons: 10}
epochs: 4
batch_size: 50`,
	"rates": `
input: {data: digits, format: npz, shape: [8, 8, 1]}
hidden_layers:
- {type: convolution, filters: 8, learning_rate: 0.002}
- {type: global_pooling}
- {type: batch_normalization, learning_rate: 0.003}
- {neurons: 32, activation: tanh}
output: {neurons: 10, learning_rate: 0.01}
optimizer: {type: adam, learning_rate: 0.005}
epochs: 8`,
	"words": `
input: {data: digits, format: npz, shape: [20]}
hidden_layers:
- {type: embedding, vocabulary: 100, dimensions: 16}
- {type: convolution, filters: 16}
- {type: pooling}
- {type: global_pooling, kind: average}
output: {neurons: 1, activation: sigmoid}
optimizer: {type: rmsprop, momentum: 0.5, learning_rate: 0.005}`,
	"iris": `
input: {data: digits, format: csv, target: species, columns: [width, length]}
hidden_layers: [{neurons: 16, activation: selu}, {type: batch_normalization}]
output: {neurons: 3}
optimizer: {type: adagrad, learning_rate: 0.1}
epochs: 60
validation_split: 0.2`,
	"price": `
input: {data: digits, format: parquet, target: price, shape: [3], file: houses.parquet, test_file: new.parquet}
hidden_layers: [{neurons: 32}, {neurons: 16, activation: softplus}]
output: {neurons: 1}
loss: mean_absolute_error
optimizer: {type: sgd, momentum: 0.9, learning_rate: 0.01}
epochs: 40`,
	"pictures": `
input: {data: digits, format: images, shape: [16, 16, 3]}
hidden_layers: [{type: flatten}, {neurons: 16, activation: elu}, {type: dropout}]
output: {neurons: 2}
epochs: 10
validation_split: 0`,
}

func TestGolden(t *testing.T) {
	for name, net := range nets {
		for _, backend := range mlaas.Backends {
			at := filepath.Join("testdata", name, backend)
			files, err := compose.Program(job(t, "backend: "+backend+net))
			if err != nil {
				t.Errorf("%s: %v", at, err)
				continue
			}
			for _, file := range slices.Sorted(maps.Keys(files)) {
				golden(t, filepath.Join(at, file), files[file])
			}
		}
		spec := job(t, strings.TrimSpace(net))
		text, err := json.MarshalIndent(compose.Check(spec), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", name, "report.json"), string(text)+"\n")
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; run go test -update if this is meant):\n%s", file, diff)
	}
}

// One message for each layer that is wrong: what it gets, and what would be
// right.
func TestMessages(t *testing.T) {
	const in = "input: {data: digits, format: idx, shape: [28, 28, 1]}\n"
	const out = "\noutput: {neurons: 10}"
	for _, tt := range []struct {
		name, net string
		want      []string
	}{
		{"right", in + "hidden_layers: [{type: flatten}]" + out, nil},
		{"not flat", in + "hidden_layers: [{neurons: 5}]" + out,
			[]string{`hidden_layers[0] is a layer of type dense that gets (28, 28, 1), want a flat input: put {type: flatten} before it`}},
		{"not flat at the end", in + "hidden_layers: []" + out,
			[]string{`output is a layer that gets (28, 28, 1), want a flat input: end hidden_layers with {type: flatten} or {type: global_pooling}`}},
		{"nothing is said twice", in + "hidden_layers: [{neurons: 5}, {neurons: 5, activation: rellu}, {type: flatten}, {neurons: 0}]" + out,
			[]string{"hidden_layers[0] is a layer", `hidden_layers[1].activation is "rellu", want one of relu, leaky_relu,`, "hidden_layers[3].neurons is missing, want 1 to 1000000"}},
		{"flat convolution", "input: {data: digits, format: idx, shape: [784]}\nhidden_layers: [{type: convolution, filters: 3}]" + out,
			[]string{"hidden_layers[0] is a layer of type convolution that gets (784,), want (height, width, channels) or (length, channels)"}},
		{"nothing left", in + "hidden_layers: [{type: pooling, pool_size: 20}, {type: pooling, pool_size: 2}, {type: flatten}]" + out,
			[]string{"hidden_layers[1].pool_size is 2, want at most what is left of what it gets, (1, 1, 1): take this layer or one before it away"}},
		{"large kernel", in + "hidden_layers: [{type: convolution, filters: 3, kernel_size: 29, padding: valid}, {type: flatten}]" + out,
			[]string{"hidden_layers[0].kernel_size is 29, want at most what it gets, (28, 28, 1), or padding: same"}},
		{"another type's field", in + "hidden_layers: [{type: flatten, neurons: 5}, {type: dropout, rate: 0.1, filters: 2}]" + out,
			[]string{"hidden_layers[0].neurons is 5, want no such field: a layer of type flatten has none but its type", "hidden_layers[1].filters is 2, want no such field: a layer of type dropout has rate"}},
		{"type", in + "hidden_layers: [{type: lstm}]" + out, []string{`hidden_layers[0].type is "lstm", want one of dense, convolution`}},
		{"rate", in + "hidden_layers: [{type: flatten}, {type: dropout, rate: 1}]" + out, []string{"hidden_layers[1].rate is 1, want 0 or more, and less than 1"}},
		{"embedding", "input: {data: digits, format: npz, shape: [9]}\nhidden_layers: [{neurons: 3}, {type: embedding, vocabulary: 9, dimensions: 2}]" + out,
			[]string{"hidden_layers[1] is layer 2, want an embedding as the first layer"}},
		{"data", "input: {data: other, format: idx, shape: [4]}\nhidden_layers: []" + out, []string{`input.data is "other", want one of the job's data: digits`}},
		{"format", "input: {data: digits, format: tiff}\nhidden_layers: []" + out, []string{`input.format is "tiff", want one of idx, npz, images, csv, parquet`}},
		{"shape", "input: {data: digits, format: idx}\nhidden_layers: []" + out, []string{"input.shape is missing, want the shape of one example, such as [784] or [28, 28, 1]"}},
		{"images", "input: {data: digits, format: images, shape: [8, 8]}\nhidden_layers: [{type: flatten}]" + out, []string{"input.shape is [8,8], want [height, width, channels] for images"}},
		{"file", "input: {data: digits, format: csv, target: label, shape: [2], file: ../../etc/passwd}\nhidden_layers: []" + out, []string{`input.file is "../../etc/passwd", want a path inside the data`}},
		{"target", "input: {data: digits, format: csv, target: label, columns: [x, label]}\nhidden_layers: []" + out, []string{`input.columns[1] is "label", want another column than input.target`}},
		{"loss", in + "hidden_layers: [{type: flatten}]\nloss: mean_squared_error\noutput: {neurons: 10, activation: softmax}",
			[]string{`output.activation is "softmax", want linear, which goes with loss mean_squared_error`}},
		{"classes", in + "hidden_layers: [{type: flatten}]\noutput: {neurons: 1, activation: softmax}", []string{"output.neurons is 1, want one for each class, at least 2, with softmax"}},
		{"optimizers", in + "hidden_layers: [{type: flatten}]\noptimizer: {type: sgd}\noutput: {neurons: 10, type: adam}", []string{`output.type is "adam", want the same as optimizer.type, sgd, or nothing`}},
		{"momentum", in + "hidden_layers: [{type: flatten}]\noptimizer: {momentum: 0.5}" + out, []string{"optimizer.momentum is 0.5, want nothing: only sgd and rmsprop have it"}},
		{"too large", "input: {data: digits, format: idx, shape: [1000000]}\nhidden_layers: [{neurons: 1000000}]" + out, []string{"hidden_layers is 1,000,011,000,010 parameters, want layers with at most 2,000,000,000 parameters together"}},
		{"epochs", in + "hidden_layers: [{type: flatten}]\nepochs: -1" + out, []string{"epochs is -1, want 1 to 1000000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := job(t, tt.net)
			r := compose.Check(spec)
			if len(r.Messages) != len(tt.want) {
				t.Errorf("%d messages, want %d: %v", len(r.Messages), len(tt.want), r.Messages)
			}
			for i, m := range r.Messages[:min(len(r.Messages), len(tt.want))] {
				if !strings.HasPrefix(m.Message, tt.want[i]) {
					t.Errorf("message %d is\n%s, want\n%s", i, m.Message, tt.want[i])
				}
				if m.Field == "" || !strings.HasPrefix(m.Message, m.Field) {
					t.Errorf("message %q has the field %q", m.Message, m.Field)
				}
			}
			files, err := compose.Program(spec)
			if (err == nil) != (len(tt.want) == 0) || err != nil && (!errors.Is(err, mlaas.ErrInvalid) || files != nil) {
				t.Errorf("its program: %d files, %v", len(files), err)
			}
			if f, ok := errors.AsType[*mlaas.FieldError](err); err != nil && (!ok || f.Field != "code.composed."+r.Messages[0].Field) {
				t.Errorf("the error %v names another field than the first message", err)
			}
		})
	}
}

// What was left away follows from what was said, and stays unsaid in the job.
func TestDefaults(t *testing.T) {
	spec := job(t, nets["paper"])
	if spec.Environment.Framework != "keras" || spec.Code.Mode != "composed" {
		t.Errorf("framework %q, mode %q", spec.Environment.Framework, spec.Code.Mode)
	}
	if c := spec.Code.Composed; c.Loss != "" || c.Optimizer.Type != "" {
		t.Errorf("the description was changed: loss %q, optimizer %q", c.Loss, c.Optimizer.Type)
	}
	files, err := compose.Program(spec)
	if err != nil {
		t.Fatal(err)
	}
	// The first layer's learning rate is the optimizer's, as in the paper.
	for _, want := range []string{"keras.optimizers.SGD(LEARNING_RATE)", `get("learning_rate", 0.1)`, `loss="sparse_categorical_crossentropy"`, `activation="softmax"`} {
		if !strings.Contains(files["main.py"], want) {
			t.Errorf("there is no %s in\n%s", want, files["main.py"])
		}
	}
	for format, pkg := range map[string]string{"pictures": "pillow", "price": "pyarrow"} {
		if p := job(t, nets[format]).Environment.Packages; !slices.Contains(p, pkg) {
			t.Errorf("%s: the packages are %v, without %s", format, p, pkg)
		}
	}
}
