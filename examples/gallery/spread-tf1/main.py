"""MNIST in a session of TensorFlow 1, as for one machine: 784-500-10.

There is nothing of distribution in it. On a parameter server and four workers:

    mlaas run . --ps 1 --workers 4-4

By hand: python main.py --data FOLDER_OF_THE_IDX_FILES
"""
import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
tf1.disable_v2_behavior()


def read(folder, name, width):
    """Images as float32 from 0 to 1, or labels as int64, of a file in IDX format."""
    data = np.fromfile(os.path.join(folder, name), np.uint8)
    return data[16:].reshape(-1, width).astype(np.float32) / 255 if width else data[8:].astype(np.int64)


p = argparse.ArgumentParser()
p.add_argument("--data", default=os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist"), help="folder of the four IDX files")
p.add_argument("--steps", type=int, default=2000)
p.add_argument("--batch", type=int, default=50)
p.add_argument("--lr", type=float, default=0.1)
a = p.parse_args()
images, labels = read(a.data, "train-images-idx3-ubyte", 784), read(a.data, "train-labels-idx1-ubyte", 0)
tests, answers = read(a.data, "t10k-images-idx3-ubyte", 784), read(a.data, "t10k-labels-idx1-ubyte", 0)

x = tf1.placeholder(tf.float32, [None, 784])
y = tf1.placeholder(tf.int64, [None])
hidden = tf.nn.relu(tf.matmul(x, tf1.get_variable("w0", [784, 500])) + tf1.get_variable("b0", [500], initializer=tf1.zeros_initializer()))
logits = tf.matmul(hidden, tf1.get_variable("w1", [500, 10])) + tf1.get_variable("b1", [10], initializer=tf1.zeros_initializer())
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits), name="loss")
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32), name="accuracy")
train = tf1.train.GradientDescentOptimizer(a.lr).minimize(loss)

with tf1.Session() as session:
    session.run(tf1.global_variables_initializer())
    for i in range(a.steps):
        some = np.random.randint(len(images), size=a.batch)
        _, now = session.run([train, loss], {x: images[some], y: labels[some]})
        if i % 500 == 0:
            print("step %d of %d, loss %.3f" % (i, a.steps, now), flush=True)
    print("test accuracy %.4f" % session.run(accuracy, {x: tests, y: answers}))
