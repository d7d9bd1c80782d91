"""A training loop of small steps in one framework, tracked and not in turns.

One process, so that both have the same memory, the same warm caches and the
same neighbours: between windows of some steps, what tracking replaced in the
framework is taken away and put back.

    step.py FRAMEWORK BY QUADS SECONDS

FRAMEWORK: tf1, torch or keras. BY: mlaas, of which the loop knows nothing;
mlflow or wandb, which the loop calls at each step; mlflow-autolog, for keras.
QUADS: of windows, on off off on and then off on on off. SECONDS: of CPU that a
window has, about. Imports and the first steps, which are all recorded, are not
counted. Prints "window on|off STEPS SECONDS" for each window, and at the end
"behind STEPS SECONDS": what the thread that hands over used, and in how many
steps, which is not in the windows.
"""
import glob
import os
import sys
import threading
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", WANDB_MODE="offline", WANDB_SILENT="true", MLFLOW_ALLOW_FILE_STORE="true")
framework, by, quads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
WARM = 400  # steps: more than are recorded one by one
SKIP = 4  # steps of a window that are not counted: Python forgets what it knew of a class that was changed
SETTLE = 0.2  # seconds in which a process of others ends what it is at


class Ours:
    """What the hooks replaced, to have both the old and the new."""

    def __init__(self):
        from mlaas import _hook, _log, _watch

        self.flush, self.replaced, self.removed, self.samplers = _log.flush, [], {}, []
        self.off = (0.0, 0.0)
        wrap, init = _hook.wrap, _watch.Sampler.__init__

        def noted(owner, name, make):
            inner = getattr(owner, name, None)
            done = wrap(owner, name, make)
            if getattr(owner, name, None) is not inner:
                self.replaced.append((owner, name, inner, getattr(owner, name)))
            return done

        def sampler(made, *args, **kwargs):
            init(made, *args, **kwargs)
            self.samplers.append(made)

        _hook.wrap, _watch.Sampler.__init__ = noted, sampler

    def turn(self, on):
        for owner, name, inner, outer in self.replaced:
            setattr(owner, name, outer if on else inner)
        torch = sys.modules.get("torch.optim.optimizer")
        if torch is not None:
            hooks = torch._global_optimizer_post_hooks
            self.removed.update(hooks)
            hooks.clear()
            if on:
                hooks.update(self.removed)
        # Without tracking no time passes that would be one to record again.
        now = time.monotonic(), time.thread_time()
        if not on:
            self.off = now
            return
        for s in self.samplers:
            s.then, s.at_last, s.used = s.then + now[0] - self.off[0], s.at_last + now[0] - self.off[0], s.used + now[1] - self.off[1]

    def behind(self):
        """CPU seconds of the thread that hands over."""
        (thread,) = [t for t in threading.enumerate() if t.name == "mlaas"]
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    def used(self):
        return time.process_time() - self.behind()


class Others:
    """MLflow or W&B: all that the process and those under it do counts."""

    def turn(self, on):
        if by == "mlflow-autolog":
            mlflow.keras.autolog(log_models=False, log_datasets=False, disable=not on)

    def used(self):
        time.sleep(SETTLE)
        parents, used = {}, {}
        for path in glob.glob("/proc/[0-9]*/stat"):
            pid = int(path.split("/")[2])
            try:
                with open(path) as f:
                    parents[pid] = int(f.read().rpartition(")")[2].split()[1])
                used[pid] = 0
                for task in glob.glob("/proc/%d/task/*/schedstat" % pid):
                    with open(task) as f:
                        used[pid] += int(f.read().split()[0]) / 1e9
            except (OSError, IndexError):  # it has ended
                pass
        under = {os.getpid()}
        for _ in range(8):
            under.update(pid for pid, parent in parents.items() if parent in under)
        return time.process_time() + sum(used.get(pid, 0) for pid in under - {os.getpid()})


class Windows:
    def __init__(self, whole=1):
        self.whole, self.on, self.tracked = whole, True, 0
        self.plan = self.turns()
        self.left = next(self.plan)

    def turns(self):
        yield WARM
        began = time.process_time()
        yield WARM
        count = max(10, round(seconds / ((time.process_time() - began) / WARM)))
        behind = ours.behind() if ours else 0
        for i in range(quads):
            for on in (True, False, False, True) if i % 2 == 0 else (False, True, True, False):
                if on != self.on:
                    tracker.turn(on)
                self.on = on
                self.tracked += (SKIP + count) * on
                yield SKIP
                began = tracker.used()
                yield count
                print("window", "on" if on else "off", count, tracker.used() - began, flush=True)
        if ours:
            ours.flush()
            print("behind", self.tracked, ours.behind() - behind, flush=True)

    def step(self):
        """A step was made."""
        self.left -= 1
        if not self.left:
            self.left = next(self.plan, 0)
            if not self.left:
                sys.exit()


ours = Ours() if by == "mlaas" else None
tracker = ours or Others()
log = None
if by in ("mlflow", "mlflow-autolog"):
    import mlflow

    mlflow.set_tracking_uri("file:" + os.path.abspath("mlruns"))
    if by == "mlflow":
        mlflow.start_run()

        def log(loss, step):
            mlflow.log_metric("loss", loss, step=step)
elif by == "wandb":
    import wandb

    wandb.init(project="bench", mode="offline")

    def log(loss, step):
        wandb.log({"loss": loss}, step=step)
elif by != "mlaas":
    sys.exit("BY is %r, want mlaas, mlflow, mlflow-autolog or wandb" % by)
import numpy as np

windows = Windows()
rng = np.random.RandomState(0)
step = 0
if framework == "tf1":
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    x, y = tf.placeholder(tf.float32, [96, 256]), tf.placeholder(tf.float32, [96, 1])
    w0, w1 = tf.get_variable("w0", [256, 256]), tf.get_variable("w1", [256, 1])
    loss = tf.reduce_mean(tf.square(tf.matmul(tf.nn.relu(tf.matmul(x, w0)), w1) - y))
    train = tf.train.GradientDescentOptimizer(0.01).minimize(loss)
    feed = {x: rng.rand(96, 256), y: rng.rand(96, 1)}
    session = tf.Session(config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1))
    session.run(tf.global_variables_initializer())
    while True:
        step += 1
        if log is not None and windows.on:
            log(float(session.run([train, loss], feed)[1]), step)
        else:
            session.run(train, feed)
        windows.step()
elif framework == "torch":
    import torch

    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 384), torch.nn.ReLU(), torch.nn.Linear(384, 384), torch.nn.ReLU(), torch.nn.Linear(384, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.rand(64, 256), torch.rand(64, 1)
    while True:
        step += 1
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if log is not None and windows.on:
            log(loss.item(), step)
        windows.step()
elif framework == "keras":
    import keras

    class Each(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            global step
            step += 1
            if log is not None and windows.on:
                log(logs["loss"], step)
            windows.step()

    model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(512, activation="relu"), keras.layers.Dense(512, activation="relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.rand(64 * 100, 256).astype("float32"), rng.rand(64 * 100, 1).astype("float32")
    model.fit(x, y, batch_size=64, epochs=1_000_000, verbose=0, callbacks=[Each()])
else:
    sys.exit("the framework is %r, want tf1, torch or keras" % framework)
