package environment

import (
	"regexp"
	"slices"
	"strings"

	"mlaas.dev/mlaas"
)

// An Entry is a framework that a job may name.
type Entry struct {
	Name     string   // the word in environment.framework
	Packages []string // what it installs, unless the job's own packages pin the same
	Imports  []string // what a program imports of it
	Pythons  []string // versions that its wheels are known to be for, preferred first; empty: any
	Notes    string   // what a user should know, in a sentence or two
	Gallery  string   // a small program that exercises it; it ends with status 0 if all is well
}

// Catalogue lists the frameworks, in the order in which they are shown.
func Catalogue() []Entry { return slices.Clone(catalogue) }

// Lookup finds a framework by name, and reports whether there is one.
func Lookup(name string) (Entry, bool) {
	i := slices.IndexFunc(catalogue, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return catalogue[i], true
}

var catalogue = []Entry{
	{
		Name:     "tensorflow",
		Packages: []string{"tensorflow-cpu>=2.16"},
		Imports:  []string{"tensorflow", "keras"},
		Pythons:  []string{"3.11", "3.12", "3.10", "3.13"},
		Notes:    "The CPU build. Programs in the style of TensorFlow 1 run on tf.compat.v1. Name tensorflow[and-cuda] in packages for GPUs.",
		Gallery: `import tensorflow as tf
tf1 = tf.compat.v1
with tf.Graph().as_default():
    x = tf1.placeholder(tf.float32, [None, 2])
    w = tf1.get_variable("w", [2, 1])
    loss = tf.reduce_mean((tf.matmul(x, w) - 1.0) ** 2)
    train = tf1.train.GradientDescentOptimizer(0.1).minimize(loss)
    with tf1.Session() as s:
        s.run(tf1.global_variables_initializer())
        first = s.run(loss, {x: [[1, 2], [3, 1]]})
        for _ in range(20):
            s.run(train, {x: [[1, 2], [3, 1]]})
        last = s.run(loss, {x: [[1, 2], [3, 1]]})
model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(tf.ones((8, 2)), tf.ones((8, 1)), epochs=1, verbose=0)
assert last < first, (first, last)
print("tensorflow", tf.__version__, "trains: loss", first, "to", last)
`,
	},
	{
		Name:     "keras",
		Packages: []string{"keras>=3", "tensorflow-cpu>=2.16"},
		Imports:  []string{"keras"},
		Pythons:  []string{"3.11", "3.12", "3.10", "3.13"},
		Notes:    "Keras 3 on the CPU build of TensorFlow. Set KERAS_BACKEND and add jax or torch to packages for another backend.",
		Gallery: `import keras, numpy as np
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
x = np.random.rand(64, 4).astype("float32")
h = model.fit(x, x.sum(1), epochs=3, verbose=0).history["loss"]
assert h[-1] < h[0], h
print("keras", keras.__version__, "on", keras.backend.backend(), "trains: loss", h[0], "to", h[-1])
`,
	},
	{
		Name:     "pytorch",
		Packages: []string{"torch>=2", "numpy"},
		Imports:  []string{"torch"},
		Pythons:  []string{"3.11", "3.12", "3.10", "3.13"},
		Notes:    "The CPU build from PyTorch's own index, or the one for this machine's GPU. The public Python index has CUDA builds alone: several gigabytes.",
		Gallery: `import torch
model = torch.nn.Linear(4, 1)
sgd = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.rand(64, 4)
losses = []
for _ in range(20):
    loss = ((model(x)[:, 0] - x.sum(1)) ** 2).mean()
    sgd.zero_grad(); loss.backward(); sgd.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
print("torch", torch.__version__, "trains: loss", losses[0], "to", losses[-1], "distributed:", torch.distributed.is_available())
`,
	},
	{
		Name:     "jax",
		Packages: []string{"jax", "jaxlib"},
		Imports:  []string{"jax"},
		Pythons:  []string{"3.12", "3.13", "3.11", "3.14"},
		Notes:    "The CPU build. Name jax[cuda12] in packages for GPUs.",
		Gallery: `import jax, jax.numpy as jnp
f = jax.jit(jax.value_and_grad(lambda w: jnp.mean((jnp.ones((8, 3)) @ w - 1) ** 2)))
w = jnp.zeros(3)
first = float(f(w)[0])
for _ in range(20):
    w = w - 0.1 * f(w)[1]
last = float(f(w)[0])
assert last < first, (first, last)
print("jax", jax.__version__, "trains: loss", first, "to", last)
`,
	},
	{
		Name:     "scikit-learn",
		Packages: []string{"scikit-learn"},
		Imports:  []string{"sklearn"},
		Notes:    "With NumPy and SciPy.",
		Gallery: `import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
score = LogisticRegression(max_iter=200).fit(x[:1000] / 16, y[:1000]).score(x[1000:] / 16, y[1000:])
assert score > 0.8, score
print("scikit-learn", sklearn.__version__, "trains: accuracy", score)
`,
	},
	{
		Name:     "xgboost",
		Packages: []string{"xgboost-cpu", "numpy"},
		Imports:  []string{"xgboost"},
		Notes:    "The CPU build: the package named xgboost brings 350 MB for GPUs. Name it in packages to have them.",
		Gallery: `import numpy as np, xgboost as xgb
x = np.random.default_rng(0).random((300, 4)); y = x.sum(1) > 2
model = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(x, y), 10)
right = ((model.predict(xgb.DMatrix(x)) > 0.5) == y).mean()
assert right > 0.9, right
print("xgboost", xgb.__version__, "trains: accuracy", right)
`,
	},
	{
		Name:     "lightgbm",
		Packages: []string{"lightgbm"},
		Imports:  []string{"lightgbm"},
		Notes:    "It needs the system's OpenMP library (libgomp).",
		Gallery: `import numpy as np, lightgbm as lgb
x = np.random.default_rng(0).random((300, 4)); y = x.sum(1)
model = lgb.train({"verbose": -1}, lgb.Dataset(x, y), 20)
error = np.abs(model.predict(x) - y).mean()
assert error < 0.5, error
print("lightgbm", lgb.__version__, "trains: error", error)
`,
	},
	{
		Name:    "python",
		Notes:   "This machine's Python as it is, with what packages names.",
		Gallery: "import sys\nprint('python', sys.version.split()[0], 'runs')\n",
	},
}

// alike are packages that fill the same place: a job that names one of them
// does not get the catalogue's.
var alike = map[string][]string{
	"tensorflow-cpu": {"tensorflow", "tensorflow-gpu", "tf-nightly", "tf-nightly-cpu", "tensorflow-macos"},
	"xgboost-cpu":    {"xgboost"},
}

var requirementRule = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[A-Za-z0-9._,\s-]*\])?\s*(.*)$`)

// requirements is what env asks to install, in a fixed order.
func requirements(env mlaas.Environment) ([]string, error) {
	name := env.Framework
	if name == "" {
		name = "python"
	}
	entry, ok := Lookup(name)
	if !ok {
		var names []string
		for _, e := range catalogue {
			names = append(names, e.Name)
		}
		return nil, problem(mlaas.ErrInvalid, "environment.framework is %q, want one of %s", name, strings.Join(names, ", "))
	}
	own := map[string]bool{}
	var needs []string
	for _, p := range env.Packages {
		p = strings.TrimSpace(p)
		if p == "" || strings.HasPrefix(p, "#") {
			continue
		}
		n, err := requirement(p)
		if err != nil {
			return nil, err
		}
		own[n] = true
		needs = append(needs, p)
	}
	for _, p := range entry.Packages {
		n, _ := requirement(p)
		if own[n] || slices.ContainsFunc(alike[n], func(s string) bool { return own[s] }) {
			continue
		}
		needs = append(needs, p)
	}
	slices.Sort(needs)
	return slices.Compact(needs), nil
}

// requirement returns the normalised name of the package that p asks for.
// Files of this machine are refused: they would be read outside the sandbox.
func requirement(p string) (string, error) {
	wrong := problem(mlaas.ErrInvalid, "environment.packages has %q, want a requirement such as numpy, numpy==2.1 or name @ https://host/name.whl", p)
	found := requirementRule.FindStringSubmatch(p)
	if found == nil || strings.ContainsAny(p, "\n\r\x00\\") {
		return "", wrong
	}
	rest, _, _ := strings.Cut(found[3], ";")
	rest = strings.TrimSpace(rest)
	if from, ok := strings.CutPrefix(rest, "@"); ok {
		if !strings.HasPrefix(strings.TrimSpace(from), "https://") {
			return "", wrong
		}
	} else if rest != "" && !strings.ContainsAny(rest[:1], "=<>!~(") {
		return "", wrong
	}
	return normal(found[1]), nil
}

var separators = regexp.MustCompile(`[-_.]+`)

// normal is a package's name as indexes compare it.
func normal(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}
