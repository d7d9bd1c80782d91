"""Programs of one replica with TensorFlow, run on several: sessions of
version 1, and Keras."""
import json
import re

import pytest

pytest.importorskip("tensorflow")

SESSION = """
import json, os, sys
import numpy as np, tensorflow as tf
tf1 = tf.compat.v1
tf1.disable_v2_behavior()
rng = np.random.RandomState(0)
X = rng.randn(600, 6).astype("f"); Y = (X @ rng.randn(6, 3)).argmax(1)
x = tf1.placeholder(tf.float32, [None, 6]); y = tf1.placeholder(tf.int64, [None])
w = tf1.get_variable("w", [6, 64]); b = tf1.get_variable("b", [64], initializer=tf1.ones_initializer()); w2 = tf1.get_variable("w2", [64, 3])
logits = tf.matmul(tf.nn.relu(tf.matmul(x, w) + b), w2)
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
step = tf1.train.get_or_create_global_step()
train = tf1.train.AdamOptimizer(0.01).minimize(loss, global_step=step)
accuracy, count = tf1.metrics.accuracy(y, tf.argmax(logits, 1))
saver = tf1.train.Saver()
fed = []
with tf1.Session() as s:
    s.run(tf1.global_variables_initializer())
    if os.path.exists("first.index"):
        saver.restore(s, "./first")
    for i in range(200):
        k = np.random.randint(0, 600, 30)
        fed.append(int(k[0]))
        _, l = s.run([train, loss], {x: X[k], y: Y[k]})
    s.run(tf1.local_variables_initializer())
    s.run(count, {x: X, y: Y})
    saver.save(s, "./own-%s" % sys.argv[1])
    devices = {v.op.name: v.op.device for v in tf1.global_variables()}
    local = {v.op.device for v in tf1.local_variables()}
    files = {o.device for o in s.graph.get_operations() if o.type in ("SaveV2", "RestoreV2")}
    print(json.dumps({"accuracy": float(s.run(accuracy)), "loss": float(l), "step": int(s.run(step)), "fed": fed, "devices": devices, "local": sorted(local), "files": sorted(files), "b": float(s.run(tf.reduce_sum(b)))}))
"""


def results(done):
    return [json.loads(d.stdout.splitlines()[-1]) for d in done]


def test_a_session_on_two_servers_and_three_workers(spread):
    got = results(spread(SESSION, n=3, ps=2, args=["x"]))
    assert max(g["step"] for g in got) == 202  # 200, and the first call of two others
    for i, g in enumerate(got):
        assert g["accuracy"] > 0.9, got
        assert g["fed"] == got[0]["fed"]  # so each batch is trained once
        assert set(g["devices"].values()) == {"/job:ps/task:0", "/job:ps/task:1"}
        assert all(g["devices"][v + "/Adam"] == g["devices"][v] for v in ("w", "b", "w2"))  # what belongs together
        assert g["devices"]["w"] != g["devices"]["w2"] or g["devices"]["b"] == g["devices"]["w2"]  # not all on one
        assert g["local"] == ["/job:worker/task:%d" % i]
        assert {re.sub("/device:CPU:0", "", d) for d in g["files"]} == {"/job:worker/task:%d" % i}  # a server has other folders


MONITORED = """
import json, os
import numpy as np, tensorflow as tf
tf1 = tf.compat.v1
tf1.disable_eager_execution()
X = np.random.RandomState(0).randn(400, 6).astype("f"); Y = X.sum(1, keepdims=True)
numbers = tf.data.Dataset.from_tensor_slices((np.arange(400), X, Y)).repeat().batch(20)
n, x, y = tf1.data.make_one_shot_iterator(numbers).get_next()
n = n[0]
loss = tf.reduce_mean((tf.matmul(x, tf1.get_variable("w", [6, 1])) - y) ** 2)
step = tf1.train.get_or_create_global_step()
train = tf1.train.GradientDescentOptimizer(0.05).minimize(loss, global_step=step)
seen = set()
with tf1.train.MonitoredTrainingSession(hooks=[tf1.train.StopAtStepHook(last_step=100)]) as s:
    while not s.should_stop():
        _, l, g, first = s.run([train, loss, step, n])
        seen.add(int(first))
print(json.dumps({"loss": float(l), "step": int(g), "seen": sorted(seen)}))
"""


def test_a_monitored_session_without_servers(spread):
    """The chief holds the variables, and stays until the other has ended."""
    a, b = results(spread(MONITORED, n=2))
    assert 95 <= max(a["step"], b["step"]) <= 103
    assert min(a["loss"], b["loss"]) < 0.1
    assert not set(a["seen"]) & set(b["seen"])  # each has its own batches


def test_what_cannot_be_shared_out_ends_before_it_begins(spread):
    code = SESSION.replace("fed = []", "fed = []\nprint('begun')\n") + "\ns.make_callable(loss)\n"
    for d in spread(code, n=2, ps=1, args=["x"], check=False, timeout=60):
        assert d.returncode == 2 and "begun" not in d.stdout
        assert "main.py:" in d.stderr and "make_callable" in d.stderr


FIT = """
import json, sys
import numpy as np, keras
keras.utils.set_random_seed(3)
X = np.random.RandomState(0).randn(240, 6).astype("f"); Y = X @ np.arange(6.0).astype("f")[:, None]
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.02, clipnorm=1.0), "mse")
h = model.fit(X, Y, batch_size=24, epochs=3, shuffle=False, verbose=0, validation_data=(X[:50], Y[:50]), callbacks=[keras.callbacks.EarlyStopping("loss", patience=5)])
out = {"fit": [w.tolist() for w in model.get_weights()], "iterations": int(model.optimizer.iterations.numpy()), "val": h.history["val_loss"], "loss": h.history["loss"]}

# A loop of the user's own, over a tf.data.Dataset given to fit, and with batch norm.
import tensorflow as tf
own = keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
opt = keras.optimizers.Adam(0.01)
@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((own(x, training=True) - y) ** 2)
    opt.apply_gradients(zip(tape.gradient(loss, own.trainable_variables), own.trainable_variables))
    return loss
first = []
for i in range(20):
    k = np.random.randint(0, 240, 30)
    first.append(int(k[0]))
    step(X[k], Y[k])
own.compile(opt, "mse")
own.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(50), epochs=1, verbose=0)
def batches():
    for i in range(4):
        yield X[i * 25:(i + 1) * 25], Y[i * 25:(i + 1) * 25]
own.fit(batches(), steps_per_epoch=4, verbose=0)
out.update(own=[w.tolist() for w in own.get_weights()], first=first, evaluated=float(own.evaluate(X, Y, verbose=0)))
print(json.dumps(out))
"""


def flat(x):
    return [v for part in x for v in flat(part)] if isinstance(x, list) else [x]


def test_keras(spread):
    alone = results(spread(FIT, n=1))[0]
    a, b = results(spread(FIT, n=2))
    # The same samples in each step, as the data is not shuffled and 24 is even:
    # what comes out is what comes out alone.
    assert a["fit"] == b["fit"] and a["iterations"] == b["iterations"] == alone["iterations"] == 30
    assert all(abs(p - q) < 1e-3 for p, q in zip(flat(a["fit"]), flat(alone["fit"]))), (a["fit"], alone["fit"])
    assert a["val"] == b["val"] and a["loss"] == b["loss"]
    assert all(abs(p - q) < 1e-2 * q for p, q in zip(a["loss"] + a["val"], alone["loss"] + alone["val"]))
    # The loop: one model, and batches of each one's own, as a step was made before.
    assert a["own"] == b["own"] and a["evaluated"] == b["evaluated"]
    assert a["first"] != b["first"]
