"""MNIST in TensorFlow 1 style, with marks in comments.

The program of the paper's figure 4.6: by plain python its marks are comments, and
by `mlaas run` they are calls. `mlaas code preview tf1-annotation` shows them.
"""
import os

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()

STEPS, BATCH = 1500, 50


class Model:
    """784-100-10, as a graph."""

    def __init__(self):
        self.x, self.y = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.int64, [None])
        w0, b0 = tf.get_variable("w0", [784, 100]), tf.get_variable("b0", [100], initializer=tf.zeros_initializer())
        w1, b1 = tf.get_variable("w1", [100, 10]), tf.get_variable("b1", [10], initializer=tf.zeros_initializer())
        logits = tf.matmul(tf.nn.relu(tf.matmul(self.x, w0) + b0), w1) + b1
        self.loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.y, logits=logits))
        self.accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), self.y), tf.float32))
        self.train = tf.train.AdamOptimizer(0.001).minimize(self.loss)


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    folder = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")
    images = np.fromfile(os.path.join(folder, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(folder, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


def main():
    model = Model()
    (images, labels), (test_images, test_labels) = read("train"), read("t10k")
    #@data: train=images, test=test_images
    order = np.random.RandomState(0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
  #@define: model, session
        for step in range(1, STEPS + 1):
            some = order.randint(0, len(images), BATCH)
            loss, _ = session.run([model.loss, model.train], {model.x: images[some], model.y: labels[some]})
            #@step: loss, step=step
        accuracy = session.run(model.accuracy, {model.x: test_images, model.y: test_labels})
        #@evaluate: accuracy, step=step
    print("last loss %.4f" % loss)
    print("test accuracy %.4f" % accuracy)
    print("parameters %d" % (784 * 100 + 100 + 100 * 10 + 10))


main()
