"""MNIST in guiding mode, as a graph and a session of TensorFlow 1: 784-500-10."""
import os
import struct

import numpy as np
import tensorflow.compat.v1 as tf

import mlaas

STEPS = 2000
BATCH = 50


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


def dense(name, h, size):
    w = tf.get_variable(name + "/w", [h.shape[1], size], initializer=tf.glorot_uniform_initializer(seed=1))
    return tf.matmul(h, w) + tf.get_variable(name + "/b", [size], initializer=tf.zeros_initializer())


def define_model():
    x = tf.placeholder(tf.float32, [None, 784])
    y = tf.placeholder(tf.int32, [None])
    logits = dense("output", tf.nn.relu(dense("hidden", x, 500)), 10)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1, output_type=tf.int32), y), tf.float32))
    return {"x": x, "y": y, "loss": loss, "accuracy": accuracy}


def setup_train(model):
    step = tf.train.get_or_create_global_step()
    train = tf.train.AdamOptimizer(0.001).minimize(model["loss"], global_step=step)
    return {"train": train, "global_step": step, "data": mnist("train"), "order": np.random.RandomState(1)}


def step_train(model, env):
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    fetch = (env["train"], env["global_step"], model["loss"])
    _, step, _ = tf.get_default_session().run(fetch, {model["x"]: x[some], model["y"]: y[some]})
    return bool(step < STEPS)


def evaluate(model, env):
    x, y = mnist("t10k")
    return {"test_accuracy": tf.get_default_session().run(model["accuracy"], {model["x"]: x, model["y"]: y})}
