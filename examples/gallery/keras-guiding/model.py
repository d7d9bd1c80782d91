"""MNIST in guiding mode, in Keras 3: 784-500-10."""
import os
import struct

import keras
import numpy as np

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


def define_model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((784,)),
        keras.layers.Dense(500, activation="relu"),
        keras.layers.Dense(10),
    ])


def setup_train(model):
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return {"step": 0, "data": mnist("train"), "order": np.random.RandomState(1)}


def step_train(model, env):
    if env["step"] == STEPS:
        return False
    env["step"] += 1
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    loss, _ = model.train_on_batch(x[some], y[some])
    return {"loss": loss}


def evaluate(model, env):
    loss, accuracy = model.evaluate(*mnist("t10k"), batch_size=1000, verbose=0)
    return {"test_loss": loss, "test_accuracy": accuracy}
