"""MNIST in TensorFlow 2: a loop of one's own with GradientTape and tf.function.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import keras
import numpy as np
import tensorflow as tf

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(100, activation="relu"), keras.layers.Dense(10)])
optimizer = keras.optimizers.Adam(0.001)
measure = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def train(x, y):
    with tf.GradientTape() as tape:
        loss = measure(y, model(x, training=True))
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return loss


for epoch in range(1, 4):
    for x, y in tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(10000, seed=epoch).batch(100):
        loss = train(x, y)
    right = float(np.mean(np.argmax(model(test_images), 1) == test_labels))
    print("epoch %d: test accuracy %.4f" % (epoch, right), flush=True)
print("last loss %.4f" % float(loss))
print("parameters %d" % model.count_params())
