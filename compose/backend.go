package compose

import (
	"fmt"
	"strings"
)

// The layers of a network, as each backend has them. Every text that goes into
// a line is one of the lists of package mlaas, which check has seen it in, or a
// number: nothing that a user may choose freely is in a layer.

func (n *network) keras(p *page) {
	p.OptimizerClass = map[string]string{"adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad"}[n.Optimizer.Type]
	class := "keras.optimizers." + p.OptimizerClass
	if len(p.Rates) > 0 {
		class = "ByLayer"
	}
	p.OptimizerCall = fmt.Sprintf("%s(LEARNING_RATE%s)", class, n.arguments())
	kind := ""
	if p.Embeds {
		kind = `, dtype="int64"`
	}
	p.Lines = append(p.Lines, fmt.Sprintf("keras.Input(data.SHAPE%s),", kind))
	for i, l := range n.HiddenLayers {
		in, out := n.layers[i].Shape, n.layers[i+1]
		d := len(in) - 1 // dimensions besides the channels
		var args []string
		class := ""
		switch l.Type {
		case "dense":
			class, args = "Dense", []string{literal(l.Neurons), "activation=" + literal(l.Activation)}
		case "convolution":
			class = fmt.Sprintf("Conv%dD", d)
			args = []string{literal(l.Filters), literal(l.KernelSize), "padding=" + literal(l.Padding), "activation=" + literal(l.Activation)}
			if l.Strides != 1 {
				args = append(args, "strides="+literal(l.Strides))
			}
		case "pooling":
			class, args = fmt.Sprintf("%sPooling%dD", title(l.Kind), d), []string{literal(l.PoolSize)}
			if l.Strides != l.PoolSize {
				args = append(args, "strides="+literal(l.Strides))
			}
		case "global_pooling":
			class = fmt.Sprintf("Global%sPooling%dD", title(l.Kind), d)
		case "dropout":
			class, args = "Dropout", []string{literal(*l.Rate)}
		case "batch_normalization":
			class, args = "BatchNormalization", []string{"momentum=0.9"}
		case "activation":
			class, args = "Activation", []string{literal(l.Activation)}
		case "flatten":
			class = "Flatten"
		case "embedding":
			class, args = "Embedding", []string{literal(l.Vocabulary), literal(l.Dimensions)}
		}
		args = append(args, "name="+literal(layerName(i)))
		p.Lines = append(p.Lines, fmt.Sprintf("keras.layers.%s(%s),%s", class, strings.Join(args, ", "), about(out)))
	}
	p.Lines = append(p.Lines, fmt.Sprintf(`keras.layers.Dense(%d, activation=%s, name="output"),%s`,
		n.Output.Neurons, literal(n.Output.Activation), about(n.layers[len(n.layers)-1])))
}

// title is the word as Keras and PyTorch have it in the names of their classes.
func title(kind string) string {
	return map[string]string{"max": "Max", "average": "Average"}[kind]
}

func (n *network) pytorch(p *page) {
	class := map[string]string{"adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad"}[n.Optimizer.Type]
	p.OptimizerCall = fmt.Sprintf("torch.optim.%s(groups, lr=LEARNING_RATE%s)", class, n.arguments())
	p.LossCall = map[string]string{
		"sparse_categorical_crossentropy": "torch.nn.CrossEntropyLoss()  # the softmax is in it",
		"binary_crossentropy":             "torch.nn.BCEWithLogitsLoss()  # the sigmoid is in it",
		"mean_squared_error":              "torch.nn.MSELoss()",
		"mean_absolute_error":             "torch.nn.L1Loss()",
	}[n.Loss]
	switch {
	case p.Softmax:
		p.ScoreCall = "(found.argmax(1) == y).sum()"
	case p.Classes:
		p.ScoreCall = "((found > 0) == (y > 0.5)).sum()"
	default:
		p.ScoreCall = "(found - y).abs().mean(1).sum()"
	}
	add := func(name, module, note string) {
		p.Lines = append(p.Lines, fmt.Sprintf("(%s, torch.nn.%s),%s", literal(name), module, note))
	}
	first := func(name string) {
		p.ChannelsFirst = true
		p.Lines = append(p.Lines, fmt.Sprintf("(%s, ChannelsFirst()),", literal(name)))
	}
	if len(n.layers[0].Shape) > 1 {
		first("channels_first")
	}
	for i, l := range n.HiddenLayers {
		name, in, out := layerName(i), n.layers[i].Shape, n.layers[i+1]
		note := about(out)
		d, channels := len(in)-1, in[len(in)-1]
		activated := func(module string) {
			if l.Activation == "linear" {
				add(name, module, note)
				return
			}
			add(name, module, "")
			add(name+"_"+l.Activation, torchActivation[l.Activation], note)
		}
		switch l.Type {
		case "dense":
			activated(fmt.Sprintf("Linear(%d, %d)", channels, l.Neurons))
		case "convolution":
			padding := ""
			switch {
			case l.Padding == "valid":
			case l.Strides == 1:
				padding = `, padding="same"`
			default: // PyTorch pads so for strides of 1 alone
				var around []string
				for _, size := range in[:d] {
					all := max(0, ((size+l.Strides-1)/l.Strides-1)*l.Strides+l.KernelSize-size)
					around = append([]string{literal(all / 2), literal(all - all/2)}, around...)
				}
				add(name+"_padding", fmt.Sprintf("ConstantPad%dd((%s), 0.0)", d, strings.Join(around, ", ")), "")
			}
			if l.Strides != 1 {
				padding += ", stride=" + literal(l.Strides)
			}
			activated(fmt.Sprintf("Conv%dd(%d, %d, %d%s)", d, channels, l.Filters, l.KernelSize, padding))
		case "pooling":
			kind := map[string]string{"max": "Max", "average": "Avg"}[l.Kind]
			add(name, fmt.Sprintf("%sPool%dd(%d, stride=%d)", kind, d, l.PoolSize, l.Strides), note)
		case "global_pooling":
			kind := map[string]string{"max": "Max", "average": "Avg"}[l.Kind]
			add(name, fmt.Sprintf("Adaptive%sPool%dd(1)", kind, d), "")
			add(name+"_flat", "Flatten()", note)
		case "dropout":
			add(name, fmt.Sprintf("Dropout(%s)", literal(*l.Rate)), note)
		case "batch_normalization":
			add(name, fmt.Sprintf("BatchNorm%dd(%d, eps=1e-3)", max(d, 1), channels), note)
		case "activation":
			add(name, torchActivation[l.Activation], note)
		case "flatten":
			add(name, "Flatten()", note)
		case "embedding":
			add(name, fmt.Sprintf("Embedding(%d, %d)", l.Vocabulary, l.Dimensions), note)
			first(name + "_channels_first")
		}
	}
	last := n.layers[len(n.layers)-2].Shape
	add("output", fmt.Sprintf("Linear(%d, %d)", last[0], n.Output.Neurons), about(n.layers[len(n.layers)-1]))
}

var torchActivation = map[string]string{
	"relu": "ReLU()", "leaky_relu": "LeakyReLU(0.2)", "elu": "ELU()", "selu": "SELU()", "gelu": "GELU()", "silu": "SiLU()",
	"tanh": "Tanh()", "sigmoid": "Sigmoid()", "softplus": "Softplus()", "linear": "Identity()",
}

func (n *network) tf1(p *page) {
	rate := "LEARNING_RATE"
	if len(p.Rates) > 0 {
		rate = "rate"
	}
	class := map[string]string{"adam": "Adam", "sgd": "GradientDescent", "rmsprop": "RMSProp", "adagrad": "Adagrad"}[n.Optimizer.Type]
	if class == "GradientDescent" && n.Optimizer.Momentum != 0 {
		class = "Momentum"
	}
	p.OptimizerCall = fmt.Sprintf("tf1.train.%sOptimizer(%s%s)", class, rate, n.arguments())
	for i, l := range n.HiddenLayers {
		name, in, out := literal(layerName(i)), n.layers[i].Shape, n.layers[i+1]
		var call string
		activation := l.Activation
		switch l.Type {
		case "dense":
			call = fmt.Sprintf("dense(h, %s, %d)", name, l.Neurons)
		case "convolution":
			call = fmt.Sprintf("convolution(h, %s, %d, %d, %d, %s)", name, l.Filters, l.KernelSize, l.Strides, literal(strings.ToUpper(l.Padding)))
		case "pooling":
			pool := map[string]string{"max": "max_pool", "average": "avg_pool"}[l.Kind]
			call = fmt.Sprintf(`tf.nn.%s(h, %d, %d, "VALID")`, pool, l.PoolSize, l.Strides)
			if len(in) == 2 {
				call = fmt.Sprintf(`tf.nn.%s1d(h, %d, %d, "VALID")`, pool, l.PoolSize, l.Strides)
			}
		case "global_pooling":
			axes := "[1]"
			if len(in) == 3 {
				axes = "[1, 2]"
			}
			call = fmt.Sprintf("tf.reduce_%s(h, %s)", map[string]string{"max": "max", "average": "mean"}[l.Kind], axes)
		case "dropout":
			call = fmt.Sprintf("tf.nn.dropout(h, rate=tf.where(training, %s, 0.0))", literal(*l.Rate))
		case "batch_normalization":
			call = fmt.Sprintf("batch_normalization(h, %s, training)", name)
		case "activation":
			call = "h"
		case "flatten":
			call = fmt.Sprintf("tf.reshape(h, [-1, %d])", out.Shape[0])
		case "embedding":
			call = fmt.Sprintf("tf.nn.embedding_lookup(weights(%s, [%d, %d]), h)", name, l.Vocabulary, l.Dimensions)
		}
		if activation != "" && activation != "linear" {
			call = fmt.Sprintf("tf.nn.%s(%s)", activation, call)
		}
		p.Lines = append(p.Lines, fmt.Sprintf("h = %s%s", call, about(out)))
	}
	p.Lines = append(p.Lines, fmt.Sprintf(`h = dense(h, "output", %d)%s`, n.Output.Neurons, about(n.layers[len(n.layers)-1])))
}
