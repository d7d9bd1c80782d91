"""MNIST with an Estimator: A DNNClassifier, which needs a TensorFlow of 2023.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import numpy as np
import tensorflow as tf

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")


def batches(images, labels, epochs):
    def make():
        data = tf.data.Dataset.from_tensor_slices(({"pixels": images}, labels))
        return data.shuffle(10000, seed=0).repeat(epochs).batch(50)

    return make


classifier = tf.estimator.DNNClassifier(
    hidden_units=[100], n_classes=10, feature_columns=[tf.feature_column.numeric_column("pixels", shape=[784])], optimizer="Adam", model_dir="model"
)
classifier.train(batches(images[:20000], labels[:20000], 2))
result = classifier.evaluate(batches(test_images, test_labels, 1))
print("steps %d test loss %.4f test accuracy %.4f" % (result["global_step"], result["average_loss"], result["accuracy"]))
print("parameters %d" % (784 * 100 + 100 + 100 * 10 + 10))
