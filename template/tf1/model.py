"""Tells points inside a circle from points outside it. Put your own model,
data and training here: main.py calls these functions.

    define_model()            -> model      the graph; what it names is recorded when it is fetched
    setup_train(model)        -> env        the training operation, the data
    step_train(model, env)    -> go on?     one step, in tf.get_default_session()
    evaluate(model, env)      -> numbers    at the end; may be left away
    save(model, env, folder)                instead of a checkpoint of all variables; may be left away
"""
import numpy as np
import tensorflow.compat.v1 as tf

STEPS = 1000
BATCH = 64


def points(count, seed):
    x = np.random.RandomState(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, (x[:, 0] ** 2 + x[:, 1] ** 2 < 0.6).astype(np.int64)


def dense(name, h, size):
    w = tf.get_variable(name + "/w", [h.shape[1], size], initializer=tf.glorot_uniform_initializer(seed=1))
    return tf.matmul(h, w) + tf.get_variable(name + "/b", [size], initializer=tf.zeros_initializer())


def define_model():
    x = tf.placeholder(tf.float32, [None, 2])
    y = tf.placeholder(tf.int64, [None])
    logits = dense("output", tf.nn.relu(dense("hidden", x, 32)), 2)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32))
    return {"x": x, "y": y, "loss": loss, "accuracy": accuracy}


def setup_train(model):
    step = tf.train.get_or_create_global_step()
    train = tf.train.AdamOptimizer(0.01).minimize(model["loss"], global_step=step)
    return {"train": train, "global_step": step, "data": points(10000, seed=1), "order": np.random.RandomState(1)}


def step_train(model, env):
    x, y = env["data"]
    some = env["order"].randint(0, len(x), BATCH)
    feed = {model["x"]: x[some], model["y"]: y[some]}
    _, step, _ = tf.get_default_session().run((env["train"], env["global_step"], model["loss"]), feed)
    return bool(step < STEPS)


def evaluate(model, env):
    x, y = points(2000, seed=2)
    return {"test_accuracy": tf.get_default_session().run(model["accuracy"], {model["x"]: x, model["y"]: y})}
