"""MNIST in guiding mode, in JAX: 784-500-10."""
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np

import mlaas

STEPS = 2000
BATCH = 50
RATE = 0.1


def read(name, magic):
    """The images (N, 784) from 0 to 1, or the labels (N,), of one file of MNIST."""
    with open(os.path.join(mlaas.data("mnist"), name), "rb") as f:
        found, count = struct.unpack(">II", f.read(8))
        if found != magic:
            raise ValueError("%s begins with %d, want %d: it is not the MNIST file" % (name, found, magic))
        if magic == 2049:
            return np.frombuffer(f.read(), np.uint8).astype(np.int32)
        f.read(8)
        return np.frombuffer(f.read(), np.uint8).reshape(count, 784) / np.float32(255)


def mnist(which):
    return read(which + "-images-idx3-ubyte", 2051), read(which + "-labels-idx1-ubyte", 2049)


def define_model():
    a, b = jax.random.split(jax.random.PRNGKey(1))
    return {"params": {
        "w1": jax.random.normal(a, (784, 500)) * 0.05, "b1": jnp.zeros(500),
        "w2": jax.random.normal(b, (500, 10)) * 0.05, "b2": jnp.zeros(10),
    }}


def apply(params, x):
    h = jax.nn.relu(x @ params["w1"] + params["b1"])
    return h @ params["w2"] + params["b2"]


def measure(params, x, y):
    return -jnp.mean(jax.nn.log_softmax(apply(params, x))[jnp.arange(len(y)), y])


@jax.jit
def learn(params, x, y):
    loss, gradients = jax.value_and_grad(measure)(params, x, y)
    return jax.tree_util.tree_map(lambda p, g: p - RATE * g, params, gradients), loss


def setup_train(model):
    return {"step": 0, "data": mnist("train"), "order": np.random.RandomState(1)}


def step_train(model, env):
    if env["step"] == STEPS:
        return False
    env["step"] += 1
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    model["params"], loss = learn(model["params"], x[some], y[some])
    return {"loss": loss}


def evaluate(model, env):
    x, y = mnist("t10k")
    return {"test_accuracy": float(jnp.mean(apply(model["params"], x).argmax(1) == y))}
