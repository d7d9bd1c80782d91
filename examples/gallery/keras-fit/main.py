"""MNIST in Keras: Keras and its fit.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import keras
import numpy as np

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(100, activation="relu"), keras.layers.Dense(10)])
model.compile(keras.optimizers.Adam(0.001), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
history = model.fit(images, labels, batch_size=100, epochs=3, validation_split=0.1, verbose=2).history
loss, accuracy = model.evaluate(test_images, test_labels, verbose=0)
model.save("model.keras")
print("train loss %.4f validation accuracy %.4f" % (history["loss"][-1], history["val_accuracy"][-1]))
print("test loss %.4f test accuracy %.4f" % (loss, accuracy))
print("parameters %d" % model.count_params())
