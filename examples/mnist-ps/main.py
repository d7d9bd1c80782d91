"""MNIST on one parameter server and any number of workers.

Graph and session code in the style of TensorFlow 1, asynchronous between-graph
replication as in the paper: each worker builds the same graph, the variables
live on the parameter servers, and every worker applies its gradients when it
has them. TF_CONFIG says who is who; without it, the program trains alone:

    python main.py --data FOLDER_OF_THE_IDX_FILES
"""
import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import numpy as np
import tensorflow as tf

import mlaas
import mnist

tf1 = tf.compat.v1
tf1.logging.set_verbosity(tf1.logging.ERROR)


def arguments():
    p = argparse.ArgumentParser(description="MNIST, asynchronous, with parameter servers")
    p.add_argument("--data", help="folder of the four IDX files; default: the job's data named mnist")
    p.add_argument("--layers", type=int, default=2, help="dense layers with the last one: 2 is 784-500-10")
    p.add_argument("--hidden", type=int, default=500, help="width of the hidden layers")
    p.add_argument("--batch", type=int, default=50)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--steps", type=int, default=2000, help="steps of all workers together")
    p.add_argument("--save", type=int, default=500, help="steps between checkpoints")
    p.add_argument("--wait", type=float, default=30, help="seconds to wait for workers that start late")
    return p.parse_args()


def network(a):
    """The graph: what is fed, what is trained, what is measured."""
    x = tf1.placeholder(tf.float32, [None, 784], name="images")
    y = tf1.placeholder(tf.int64, [None], name="labels")
    step = tf1.train.get_or_create_global_step()
    h, width = x, 784
    for i in range(a.layers):
        last = i == a.layers - 1
        out = 10 if last else a.hidden
        w = tf1.get_variable("w%d" % i, [width, out], initializer=tf1.truncated_normal_initializer(stddev=(2.0 / width) ** 0.5))
        b = tf1.get_variable("b%d" % i, [out], initializer=tf1.zeros_initializer())
        h = tf.matmul(h, w) + b
        if not last:
            h = tf.nn.relu(h)
        width = out
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h))
    right = tf.cast(tf.equal(tf.argmax(h, 1), y), tf.float32)
    return {
        "images": x, "labels": y, "global_step": step, "loss": loss, "accuracy": tf.reduce_mean(right),
        "train": tf1.train.GradientDescentOptimizer(a.lr).minimize(loss, global_step=step),
    }


def settings(filters=()):
    """Threads as the platform grants them. The filters let a worker go on
    when another one ends: it talks to the parameter servers and itself alone."""
    return tf1.ConfigProto(
        intra_op_parallelism_threads=int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)),
        inter_op_parallelism_threads=int(os.environ.get("TF_NUM_INTEROP_THREADS", 0)),
        device_filters=filters,
    )


def main():
    a = arguments()
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    cluster, task = config.get("cluster") or {}, config.get("task") or {}
    job, index = task.get("type", "worker"), task.get("index", 0)
    if job == "ps":
        print("ps %d holds variables until the platform ends it" % index, flush=True)
        tf1.train.Server(tf.train.ClusterSpec(cluster), job_name=job, task_index=index, config=settings()).join()
    workers = sum(len(cluster.get(j, [])) for j in ("chief", "worker")) or 1
    chief = job == "chief" or index == 0 and not cluster.get("chief")
    name = "%s %d" % (job, index)

    (images, labels), test = mnist.read(a.data or mlaas.data("mnist"))
    tf1.disable_v2_behavior()
    target, here, options = "", "/cpu:0", settings()
    if cluster.get("ps"):
        here = "/job:%s/task:%d" % (job, index)
        options = settings(["/job:ps", here])
        target = tf1.train.Server(tf.train.ClusterSpec(cluster), job_name=job, task_index=index, config=options).target
        place = tf1.train.replica_device_setter(worker_device=here, cluster=tf.train.ClusterSpec(cluster))
    else:
        place = here
    with tf1.device(place):
        model = network(a)
        # How many have come, and whether they may begin; of this attempt, so not saved.
        present = tf1.get_variable("present", [], tf.int32, initializer=tf1.zeros_initializer(), trainable=False)
        begun = tf1.get_variable("begun", [], tf.bool, initializer=tf1.zeros_initializer(), trainable=False)
        arrive, begin = present.assign_add(1, use_locking=True), begun.assign(True)
    with tf1.device(here):  # the chief writes its checkpoints, and not the parameter server
        saver = tf1.train.Saver([v for v in tf1.global_variables() if v not in (present, begun)], max_to_keep=2)
        missing = tf1.report_uninitialized_variables()
    session = start(chief, target, options, saver, missing)
    with session:
        session.run(arrive)
        deadline = time.time() + a.wait
        while not session.run(begun):
            if chief and (session.run(present) >= workers or time.time() > deadline):
                session.run(begin)
            time.sleep(0.05)
        mlaas.track(model, session)
        mine = train(a, name, chief, session, model, saver, mnist.batches(images, labels, a.batch, seed=mlaas.rank))
        if chief:
            evaluate(session, model, test)
    print("%s contributed %d of %d steps" % (name, mine, a.steps), flush=True)


def start(chief, target, options, saver, missing):
    """A session whose variables have values: the chief gives them, from the
    last checkpoint if there is one, and the others wait for that."""
    if not chief:
        # Without recovery_wait_secs a worker looks again after 30 s only.
        return tf1.train.SessionManager(ready_op=missing, recovery_wait_secs=1).wait_for_session(target, config=options, max_wait_secs=600)
    init = tf1.global_variables_initializer()
    session = tf1.Session(target, config=options)
    if len(session.run(missing)):
        found = mlaas.resume()
        session.run(init)
        if found:
            saver.restore(session, tf1.train.latest_checkpoint(found.path))
            print("going on from step %d" % found.step, flush=True)
    return session


def train(a, name, chief, session, model, saver, batches):
    """Step until all workers together have made a.steps. Returns how many
    of these were this one's."""
    step, mine = int(session.run(model["global_step"])), 0
    folder = tempfile.mkdtemp(prefix="checkpoints-")
    began, shown = time.time(), step
    quick = (model["train"], model["global_step"], model["loss"])
    full = quick + (model["accuracy"],)
    saved = step
    while step < a.steps:
        x, y = next(batches)
        feed = {model["images"]: x, model["labels"]: y}
        if mine % 50:
            _, step, loss = session.run(quick, feed)
        else:
            _, step, loss, _ = session.run(full, feed)
        mine += 1
        if step - shown >= 200:
            shown = step
            mlaas.log({"worker_steps": mine, "steps_per_second": mine / (time.time() - began)}, step=step)
            print("%s: step %d of %d, loss %.3f, %.0f steps/s of its own" % (name, step, a.steps, loss, mine / (time.time() - began)), flush=True)
        if chief and step - saved >= a.save:
            saved = step
            mlaas.checkpoint(saver.save(session, os.path.join(folder, "model"), global_step=step, write_meta_graph=False), step=step)
    mlaas.log({"worker_steps": mine}, step=step)
    if chief:
        mlaas.checkpoint(saver.save(session, os.path.join(folder, "model"), global_step=step, write_meta_graph=False), step=step)
    return mine


def evaluate(session, model, test):
    """The accuracy over the whole test set."""
    images, labels = test
    found = []
    for i in range(0, len(images), 1000):
        feed = {model["images"]: images[i:i + 1000].astype(np.float32) / 255.0, model["labels"]: labels[i:i + 1000].astype(np.int64)}
        found.append(session.run(model["accuracy"], feed))
    step = int(session.run(model["global_step"]))
    accuracy = float(np.mean(found))
    mlaas.log({"test_accuracy": accuracy}, step=step)
    print("test accuracy %.4f after %d steps" % (accuracy, step), flush=True)


if __name__ == "__main__":
    main()
