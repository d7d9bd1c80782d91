"""A training loop of small steps in one framework, which knows nothing of mlaas.

Prints its own CPU seconds for a stretch of steps; imports, start-up and the
first steps are not counted.

    step.py FRAMEWORK STEPS [BESIDE]

FRAMEWORK: tf1, torch or keras. BESIDE: mlflow or wandb, which then track it by
their own means: what they do not see by themselves is logged step by step.
"""
import os
import sys
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", WANDB_MODE="offline", WANDB_SILENT="true")
import numpy as np

framework, steps = sys.argv[1], int(sys.argv[2])
beside = sys.argv[3] if len(sys.argv) > 3 else ""
WARM = 300
log = None
if beside == "mlflow":
    import mlflow

    mlflow.set_tracking_uri("file:" + os.path.abspath("mlruns"))
    mlflow.start_run()

    def log(loss, step):
        mlflow.log_metric("loss", loss, step=step)
elif beside == "wandb":
    import wandb

    wandb.init(project="bench", mode="offline")

    def log(loss, step):
        wandb.log({"loss": loss}, step=step)


def measure(run):
    """run(first, count) does that many steps."""
    run(0, WARM)
    began = time.process_time()
    run(WARM, steps)
    print("cpu", time.process_time() - began, flush=True)


rng = np.random.RandomState(0)
if framework == "tf1":
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    x, y = tf.placeholder(tf.float32, [32, 64]), tf.placeholder(tf.float32, [32, 1])
    w0, w1 = tf.get_variable("w0", [64, 64]), tf.get_variable("w1", [64, 1])
    loss = tf.reduce_mean(tf.square(tf.matmul(tf.nn.relu(tf.matmul(x, w0)), w1) - y))
    train = tf.train.GradientDescentOptimizer(0.01).minimize(loss)
    feed = {x: rng.rand(32, 64), y: rng.rand(32, 1)}
    session = tf.Session(config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1))
    session.run(tf.global_variables_initializer())

    def run(first, count):
        for i in range(first, first + count):
            if log is None:
                session.run(train, feed)
            else:
                log(float(session.run([train, loss], feed)[1]), i)

    measure(run)
elif framework == "torch":
    import torch

    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.rand(64, 256), torch.rand(64, 1)

    def run(first, count):
        for i in range(first, first + count):
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if log is not None:
                log(loss.item(), i)

    measure(run)
elif framework == "keras":
    import keras

    model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.rand(64 * 100, 256).astype("float32"), rng.rand(64 * 100, 1).astype("float32")
    callbacks = []
    if beside == "mlflow":
        mlflow.keras.autolog(log_models=False, log_datasets=False, log_every_epoch=False, log_every_n_steps=1)
    elif beside == "wandb":
        from wandb.integration.keras import WandbMetricsLogger

        callbacks = [WandbMetricsLogger(log_freq=1)]

    def run(first, count):
        model.fit(x, y, batch_size=64, epochs=max(1, count // 100), verbose=0, callbacks=list(callbacks))

    measure(run)
else:
    sys.exit("the framework is %r, want tf1, torch or keras" % framework)
