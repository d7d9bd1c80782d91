"""MNIST in JAX: JAX alone: what is seen is what it prints.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import jax
import jax.numpy as jnp
import numpy as np

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

keys = jax.random.split(jax.random.PRNGKey(0), 2)
weights = {"w0": jax.random.normal(keys[0], (784, 100)) * 0.05, "b0": jnp.zeros(100), "w1": jax.random.normal(keys[1], (100, 10)) * 0.1, "b1": jnp.zeros(10)}


def forward(w, x):
    return jax.nn.relu(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]


def measure(w, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(forward(w, x)), y[:, None], 1))


@jax.jit
def step(w, x, y):
    loss, gradient = jax.value_and_grad(measure)(w, x, y)
    return jax.tree_util.tree_map(lambda a, g: a - 0.2 * g, w, gradient), loss


order = np.random.RandomState(0)
for epoch in range(1, 4):
    for some in np.array_split(order.permutation(len(images)), len(images) // 100):
        weights, loss = step(weights, images[some], labels[some])
    right = float(jnp.mean(jnp.argmax(forward(weights, test_images), 1) == test_labels))
    print("epoch %d: train loss %.4f, test accuracy %.4f" % (epoch, loss, right), flush=True)
print("parameters %d" % sum(w.size for w in weights.values()))
