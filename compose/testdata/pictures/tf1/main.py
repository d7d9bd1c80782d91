"""A network that was composed, 16x16x3-16-2, 12,338 parameters, as a graph and a session of TensorFlow 1.

Written by mlaas from code.composed, and from then on a program like any other:
it may be changed and run by hand, python main.py, where the package mlaas is
installed and ./data/ has the data.
"""
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import numpy as np
import tensorflow as tf

import data
import mlaas

tf1 = tf.compat.v1
tf1.logging.set_verbosity(tf1.logging.ERROR)

# A parameter of the run goes before what is said here: --param epochs=3.
EPOCHS = int(mlaas.params.get("epochs", 10))
BATCH_SIZE = int(mlaas.params.get("batch_size", 32))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.001))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.0  # part of the examples that is not learned from


def weights(name, shape):
    return tf1.get_variable(name + "/weights", shape, initializer=tf1.glorot_uniform_initializer())


def bias(name, size):
    return tf1.get_variable(name + "/bias", [size], initializer=tf1.zeros_initializer())


def dense(h, name, neurons):
    return tf.matmul(h, weights(name, [h.shape[1], neurons])) + bias(name, neurons)


def network():
    """The graph, 16x16x3-16-2, 12,338 parameters: what is fed, what is learned, what is measured."""
    x = tf1.placeholder(tf.float32, (None,) + data.SHAPE, name="inputs")
    y = tf1.placeholder(tf.int64, [None], name="targets")
    training = tf1.placeholder_with_default(False, [], name="training")
    step = tf1.train.get_or_create_global_step()
    h = x
    h = tf.reshape(h, [-1, 768])  # (768,)
    h = tf.nn.elu(dense(h, "layer2", 16))  # (16,), 12,304 parameters
    h = tf.nn.dropout(h, rate=tf.where(training, 0.5, 0.0))  # (16,)
    h = dense(h, "output", 2)  # (2,), 34 parameters
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h))
    right = tf.equal(tf.argmax(h, 1), y)
    result = tf.nn.softmax(h, name="result")
    accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        train = tf1.train.AdamOptimizer(LEARNING_RATE).minimize(loss, global_step=step)
    return {"inputs": x, "targets": y, "training": training, "global_step": step,
            "loss": loss, "accuracy": accuracy, "result": result, "train": train}


def evaluate(session, model, pair):
    """The mean loss and accuracy over all examples of pair."""
    found, counts = [], []
    for i in range(0, len(pair[0]), 1000):
        x, y = pair[0][i:i + 1000], pair[1][i:i + 1000]
        found.append(session.run((model["loss"], model["accuracy"]), {model["inputs"]: x, model["targets"]: y}))
        counts.append(len(x))
    return [float(v) for v in np.average(found, axis=0, weights=counts)]


def main():
    learn, validate, test = data.read(SEED, VALIDATION_SPLIT)
    tf1.disable_v2_behavior()
    tf1.set_random_seed(SEED)
    model = network()
    saver = tf1.train.Saver(max_to_keep=1)
    folder = tempfile.mkdtemp(prefix="checkpoints-")
    order = np.random.RandomState(SEED)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        done, per_epoch, found = 0, -(-len(learn[0]) // BATCH_SIZE), mlaas.resume()
        if found:
            saver.restore(session, tf1.train.latest_checkpoint(found.path))
            done = int(session.run(model["global_step"])) // per_epoch
            print("going on after epoch %d" % done)
        for epoch in range(done, EPOCHS):
            shuffled = order.permutation(len(learn[0]))
            for i in range(0, len(shuffled), BATCH_SIZE):
                some = shuffled[i:i + BATCH_SIZE]
                feed = {model["inputs"]: learn[0][some], model["targets"]: learn[1][some], model["training"]: True}
                _, step, loss = session.run((model["train"], model["global_step"], model["loss"]), feed)
                mlaas.log({"loss": loss}, step=step)
            said = {"epoch": epoch + 1}
            if validate is not None:
                said["val_loss"], said["val_accuracy"] = evaluate(session, model, validate)
            mlaas.log(said, step=step)
            print("epoch %d of %d: loss %.4f %s" % (epoch + 1, EPOCHS, loss, said), flush=True)
            if mlaas.is_chief:
                mlaas.checkpoint(saver.save(session, os.path.join(folder, "model"), global_step=step, write_meta_graph=False), step=step)
        for name, pair in (("validation", validate), ("test", test)):
            if pair is not None:
                loss, accuracy = evaluate(session, model, pair)
                mlaas.log({name + "_loss": loss, name + "_accuracy": accuracy}, step=session.run(model["global_step"]))
                print("%s accuracy %.4f" % (name, accuracy), flush=True)
        saver.save(session, os.path.join(mlaas.output, "model"))


if __name__ == "__main__":
    main()
