"""MNIST in TensorFlow 1 style: A MonitoredTrainingSession that stops by itself.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import os

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()

data = os.path.join(os.environ.get("MLAAS_DATA", "data"), "mnist")


def read(kind):
    """Images as float32 of shape (N, 784) from 0 to 1, labels as int64 of shape (N,)."""
    images = np.fromfile(os.path.join(data, kind + "-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 784)
    return images.astype(np.float32) / 255, np.fromfile(os.path.join(data, kind + "-labels-idx1-ubyte"), np.uint8)[8:].astype(np.int64)


(images, labels), (test_images, test_labels) = read("train"), read("t10k")

x, y = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.int64, [None])
w0, b0 = tf.get_variable("w0", [784, 100]), tf.get_variable("b0", [100], initializer=tf.zeros_initializer())
w1, b1 = tf.get_variable("w1", [100, 10]), tf.get_variable("b1", [10], initializer=tf.zeros_initializer())
logits = tf.matmul(tf.nn.relu(tf.matmul(x, w0) + b0), w1) + b1
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32))
step = tf.train.get_or_create_global_step()
train = tf.train.AdamOptimizer(0.001).minimize(loss, global_step=step)

order = np.random.RandomState(0)
with tf.train.MonitoredTrainingSession(hooks=[tf.train.StopAtStepHook(last_step=1500)], checkpoint_dir="checkpoints") as session:
    while not session.should_stop():
        some = order.randint(0, len(images), 50)
        session.run(train, {x: images[some], y: labels[some]})
        if not session.should_stop():
            final = session.run([loss, accuracy], {x: test_images, y: test_labels}) if order.randint(100) == 0 else None
            if final:
                print("test loss %.4f accuracy %.4f" % tuple(final), flush=True)
print("parameters %d" % (784 * 100 + 100 + 100 * 10 + 10))
