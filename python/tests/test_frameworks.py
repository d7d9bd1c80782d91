"""Programs that know nothing of mlaas, run as they are: what was found of them
is compared with what they print themselves.

Each framework's tests run where it is installed. MLAAS_FRAMEWORKS names those
that must be: for them a missing package is a failure.
"""
import importlib.util
import json
import os
import re

import pytest

MUST = os.environ.get("MLAAS_FRAMEWORKS", "").split()
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}


def needs(*modules):
    """Skip where a framework is missing, unless it must be there."""
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    wanted = [m for m in missing if m in MUST] if modules[0] in MUST else []
    if wanted:
        pytest.fail("not installed: %s" % ", ".join(wanted))
    if missing:
        pytest.skip("needs %s" % ", ".join(missing))


@pytest.fixture
def found(tmp_path, python, supervisor):
    """Runs a program and gives what was found of it."""

    def run(main, *args, env=None, check=True):
        (tmp_path / "main.py").write_text(main)
        done = python("main.py", *args, env=dict(QUIET, MLAAS_OUTPUT=str(tmp_path / "output"), **(env or {})), check=check, timeout=400)
        assert "not tracked" not in done.stderr and "mlaas: something" not in done.stderr, done.stderr
        return Found(done, supervisor)

    return run


class Found:
    def __init__(self, done, supervisor):
        self.out, self.err = done.stdout, done.stderr
        self.series, self.params, self.models = {}, {}, []
        for key, step, _, v in supervisor.points():
            self.series.setdefault(key, []).append((step, float(v)))
        for given in supervisor.all("params"):
            self.params.update(given)
        notes = supervisor.all("note")
        self.models = [n["value"] for n in notes if n["kind"] == "model"]
        self.environment = [n["value"] for n in notes if n["kind"] == "environment"]
        for key, points in self.series.items():
            steps = [s for s, _ in points]
            assert len(steps) == len(set(steps)), "%s was recorded twice at a step: %s" % (key, points)

    def last(self, key):
        assert key in self.series, "no %s, there are %s" % (key, sorted(self.series))
        return max(self.series[key])

    def printed(self, name):
        """The last number that the program printed after name."""
        return float(re.findall(re.escape(name) + r"[ =:]*(-?[\d.]+(?:e-?\d+)?)", self.out)[-1])

    def agrees(self, key, name=None, within=1e-3):
        assert abs(self.last(key)[1] - self.printed(name or key)) <= within, (key, self.last(key), self.out)


# ---- TensorFlow 1 ----

GRAPH = """
import numpy as np
tf.set_random_seed(1)
x, y = tf.placeholder(tf.float32, [None, 2]), tf.placeholder(tf.float32, [None, 1])
w = tf.get_variable("w", [2, 1])
hidden = tf.nn.dropout(tf.matmul(x, w), rate=0.1, seed=3)
cost = tf.reduce_mean(tf.square(hidden - y))
accuracy = tf.reduce_mean(tf.cast(tf.abs(tf.matmul(x, w) - y) < 0.5, tf.float32))
runs = tf.get_variable("runs", [], tf.int32, tf.zeros_initializer(), trainable=False)
with tf.control_dependencies([tf.assign_add(runs, 1)]):
    train = tf.train.GradientDescentOptimizer(0.1).minimize(cost)
rng = np.random.RandomState(0)
def batch():
    a = rng.rand(20, 2)
    return {x: a, y: a.sum(1, keepdims=True)}
"""

SESSION = """
with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(300):
        assert sess.run(train, batch()) is None
    print("weights", sess.run(w).tolist(), "runs", sess.run(runs))
    print("the share that is right is %.4f" % sess.run(accuracy, feed_dict=batch()))
"""


def test_tf1_session(found):
    """The loss is never fetched; the names are those of TensorFlow 1."""
    needs("tensorflow")
    f = found("import tensorflow as tf\n" + GRAPH + SESSION)
    assert "runs 300" in f.out, "a step more or less"
    losses = sorted(f.series["loss"])
    assert losses[0][0] == 1 and len(losses) >= 25 and losses[-1][1] < losses[0][1] / 2
    assert f.last("loss")[0] <= 300
    f.agrees("accuracy", "is right is")
    assert f.last("accuracy")[0] == 300
    assert f.params["learning_rate"] == 0.1 and f.params["optimizer"] == "GradientDescentOptimizer"
    assert f.models[0]["parameters"] == 2 and "w (2, 1) 2" in f.models[0]["summary"]
    assert "numpy" in f.environment[0]["packages"]


def test_tf1_is_not_changed(found):
    """Dropout, batches and steps are those of the program without tracking."""
    needs("tensorflow")
    main = "import tensorflow.compat.v1 as tf\ntf.disable_v2_behavior()\n" + GRAPH + SESSION
    plain = found(main, env={"MLAAS_OFF": "1"})
    assert plain.series == {}
    tracked = found(main)
    assert tracked.out == plain.out and tracked.series["loss"]


MONITORED = """
step = tf.train.get_or_create_global_step()
train = tf.train.AdamOptimizer(0.05).minimize(cost, global_step=step)
hooks = [tf.train.StopAtStepHook(last_step=150), tf.train.LoggingTensorHook({"cost": cost}, every_n_iter=50)]
seen = 0
with tf.train.MonitoredTrainingSession(hooks=hooks, checkpoint_dir="ck", save_checkpoint_steps=50) as sess:
    while not sess.should_stop():
        _, loss, at = sess.run([train, cost, step], batch())
        seen += 1
print("steps %d loss %.6f" % (seen, loss))
"""


def test_tf1_monitored_session(found):
    needs("tensorflow")
    f = found("import tensorflow.compat.v1 as tf\ntf.disable_eager_execution()\n" + GRAPH + MONITORED)
    assert f.last("loss")[0] == 150 and "steps 150" in f.out
    f.agrees("loss", within=1e-5)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 151))


# ---- Keras ----

KERAS = """
import numpy as np
rng = np.random.RandomState(0)
a = rng.rand(200, 4).astype("float32"); b = (a.sum(1) > 2).astype("float32")
model = keras.Sequential([keras.layers.Dense(8, activation="relu", input_shape=(4,)), keras.layers.Dense(1, activation="sigmoid")])
model.compile(keras.optimizers.Adam(learning_rate=0.02), "binary_crossentropy", metrics=["accuracy"])
history = model.fit(a, b, epochs=3, batch_size=20, validation_split=0.2, verbose=VERBOSE)
loss, accuracy = model.evaluate(a, b, verbose=0)
print("loss %.5f val_accuracy %.5f" % (history.history["loss"][-1], history.history["val_accuracy"][-1]))
print("test accuracy %.5f" % accuracy)
print("parameters %d" % model.count_params())
"""


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_keras_fit(found, backend, verbose):
    needs(backend, "keras")
    if verbose and backend != "jax":
        pytest.skip("its progress is shown by the same code for all")
    f = found("import keras\n" + KERAS.replace("VERBOSE", str(verbose)), env={"KERAS_BACKEND": backend})
    f.agrees("loss", within=1e-4)
    f.agrees("val_accuracy", within=1e-4)
    f.agrees("test_accuracy", "test accuracy", within=1e-4)
    assert [s for s, _ in sorted(f.series["loss"])] == [8, 16, 24] and f.series["batch/loss"][0][0] == 1
    assert abs(f.last("lr")[1] - 0.02) < 1e-6 and f.params["optimizer"] == "Adam" and f.params["epochs"] == 3
    assert f.models[0]["parameters"] == f.printed("parameters")
    assert set(f.series) <= {"loss", "accuracy", "val_loss", "val_accuracy", "batch/loss", "lr", "epoch", "test_loss", "test_accuracy", "jax/compile_seconds", "jax/compilations"}


LOOP = """
import numpy as np
rng = np.random.RandomState(0)
a = rng.rand(2000, 4).astype("float32"); b = a.sum(1, keepdims=True)
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(4,))])
optimizer = tf.keras.optimizers.SGD(learning_rate=0.05)
DECORATE
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    return loss
for i in range(40):
    loss = train_step(a[i * 50:i * 50 + 50], b[i * 50:i * 50 + 50])
print("loss %.6f" % float(loss))
"""


@pytest.mark.parametrize("decorate", ["", "@tf.function"])
def test_tf2_loop(found, decorate):
    needs("tensorflow")
    f = found("import tensorflow as tf\n" + LOOP.replace("DECORATE", decorate))
    f.agrees("loss", within=1e-5)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 41))
    assert abs(f.last("lr")[1] - 0.05) < 1e-6 and f.params["optimizer"] == "SGD"


# ---- Estimator: a TensorFlow that has one ----

ESTIMATOR = """
import numpy as np, tensorflow as tf
rng = np.random.RandomState(0)
a = rng.rand(400, 4).astype("float32"); b = (a.sum(1) > 2).astype("int64")
def data(epochs):
    return lambda: tf.data.Dataset.from_tensor_slices(({"x": a}, b)).shuffle(400, seed=1).repeat(epochs).batch(40)
classifier = tf.estimator.DNNClassifier([16, 8], [tf.feature_column.numeric_column("x", shape=[4])], n_classes=2, model_dir="model")
classifier.train(data(20))
result = classifier.evaluate(data(1))
print("accuracy %.5f loss %.5f global_step %d" % (result["accuracy"], result["loss"], result["global_step"]))
"""


def test_estimator(found):
    needs("tensorflow_estimator", "tensorflow")
    f = found(ESTIMATOR)
    f.agrees("eval_accuracy", "accuracy", within=1e-4)
    losses = sorted(f.series["loss"])
    assert len(losses) >= 25 and losses[0][0] <= 2 and losses[-1][0] <= 200 and f.last("eval_accuracy")[0] == 200 and losses[-1][1] < losses[0][1]
    assert f.params["estimator"] == "DNNClassifierV2" and f.models[0]["parameters"] == 4 * 16 + 16 + 16 * 8 + 8 + 8 + 1


# ---- PyTorch ----

TORCH = """
import torch
torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    def forward(self, x):
        return self.layers(x)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, gamma=0.5)
a = torch.rand(64, 4); b = a.sum(1, keepdim=True)
for i in range(60):
    optimizer.zero_grad()
    LOSS = torch.nn.functional.mse_loss(model(a), b)
    LOSS.backward()
    optimizer.step()
    schedule.step()
print("loss %.6f lr %.5f" % (LOSS.item(), optimizer.param_groups[0]["lr"]))
print("parameters %d" % sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.parametrize("name", ["loss", "objective"])
def test_torch_loop(found, name):
    needs("torch")
    f = found(TORCH.replace("LOSS", name))
    f.agrees("loss", within=1e-6)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 61))
    assert [round(v, 4) for _, v in sorted(f.series["lr"])][::20] == [0.1, 0.05, 0.025]
    assert f.params["lr"] == 0.1 and f.params["momentum"] == 0.9 and f.params["optimizer"] == "SGD"
    assert f.models == [f.models[0]] and f.models[0]["kind"] == "Net" and f.models[0]["parameters"] == f.printed("parameters")


def test_torch_two_optimizers(found):
    """A generator and a discriminator, three losses: each is a metric of its own."""
    needs("torch")
    f = found(
        "import torch\ng, d = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)\n"
        "og, od = torch.optim.Adam(g.parameters(), lr=0.01), torch.optim.SGD(d.parameters(), lr=0.02)\n"
        "for i in range(30):\n"
        "    real_loss = d(torch.ones(4, 2)).mean(); real_loss.backward()\n"
        "    fake_loss = -d(g(torch.ones(4, 2)).detach()).mean(); fake_loss.backward(); od.step(); od.zero_grad()\n"
        "    loss = d(g(torch.ones(4, 2))).mean(); loss.backward(); og.step(); og.zero_grad()\n"
        "print('real_loss %.6f fake_loss %.6f' % (real_loss, fake_loss)); print('loss %.6f' % loss)\n"
    )
    for key in ("real_loss", "fake_loss", "loss"):
        f.agrees(key, within=1e-6)
        assert f.last(key)[0] == 30 and len(f.series[key]) == 30


def test_torch_accumulates(found):
    """Four backward() to a step: one value a step, of the last of them."""
    needs("torch")
    f = found(
        "import torch\nm = torch.nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "for i in range(40):\n    loss = m(torch.ones(4, 2)).mean() / 4\n    loss.backward()\n    if i % 4 == 3: o.step(); o.zero_grad()\n"
        "print('loss %.6f' % loss)\n"
    )
    f.agrees("loss", within=1e-6)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 11))


def test_torch_many_steps(found):
    """Most steps of a long training cost a counter and a clock; the last is recorded."""
    needs("torch")
    f = found(
        "import torch\nm = torch.nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), lr=1e-4)\nx = torch.ones(4, 2)\n"
        "for i in range(5000):\n    loss = m(x).pow(2).mean(); loss.backward(); o.step(); o.zero_grad()\nprint('loss %.6f' % loss)\n"
    )
    f.agrees("loss", within=1e-6)
    assert f.last("loss")[0] == 5000 and 200 <= len(f.series["loss"]) < 2500


RANKS = """
import os, torch, torch.distributed as dist, torch.multiprocessing as mp
def train(rank):
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meet"), rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in range(20):
        loss = model(torch.full((4, 2), float(rank))).mean()
        loss.backward(); optimizer.step(); optimizer.zero_grad()
    if rank == 0:
        print("loss %.6f" % loss.item(), flush=True)
    dist.barrier()
    dist.destroy_process_group()
if __name__ == "__main__":
    mp.spawn(train, nprocs=2)
"""


def test_torch_ranks_of_one_replica(found):
    needs("torch")
    f = found(RANKS, env={"MLAAS_RUN": "r", "MLAAS_REPLICA": "worker-0", "MLAAS_EPOCH": "1"})
    f.agrees("loss", within=1e-6)
    assert len(f.series["loss"]) == 20


LIGHTNING = """
import torch, HOME as pl
torch.manual_seed(0)
class Module(pl.LightningModule):
    def __init__(self, width=8, lr=0.05):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
    def step(self, batch):
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
    def training_step(self, batch, i):
        loss = self.step(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss
    def validation_step(self, batch, i):
        self.log("val_loss", self.step(batch))
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
a = torch.rand(64, 4); data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(a, a.sum(1, keepdim=True)), 16)
module = Module()
trainer = pl.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
trainer.fit(module, data, data)
print("train_loss %.6f val_loss %.6f steps %d" % (trainer.callback_metrics["train_loss"], trainer.callback_metrics["val_loss"], trainer.global_step))
print("parameters %d" % sum(p.numel() for p in module.parameters()))
"""


@pytest.mark.parametrize("home", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(found, home):
    needs(home.split(".")[0], "torch")
    f = found(LIGHTNING.replace("HOME", home))
    f.agrees("val_loss", within=1e-5)
    f.agrees("train_loss", within=1e-5)
    assert f.last("val_loss")[0] == 12 and "loss" not in f.series
    assert f.series["batch/loss"][0][0] == 1 and f.params["width"] == 8 and f.params["lr"] == 0.05 and f.params["max_epochs"] == 3
    assert f.models[0]["kind"] == "Module" and f.models[0]["parameters"] == f.printed("parameters")
    assert abs(f.last("lr")[1] - 0.05) < 1e-9


TRANSFORMERS = """
import torch, transformers
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
transformers.set_seed(0)
model = BertForSequenceClassification(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16))
class Data(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i):
        ids = torch.randint(0, 50, (8,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "attention_mask": torch.ones(8, dtype=torch.long), "labels": torch.tensor(i % 2)}
args = TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, logging_steps=4, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True)
trainer = Trainer(model, args, train_dataset=Data(), eval_dataset=Data())
trainer.train()
result = trainer.evaluate()
print("eval_loss %.6f steps %d" % (result["eval_loss"], trainer.state.global_step))
print("last %.4f" % [h["loss"] for h in trainer.state.log_history if "loss" in h][-1])
print("parameters %d" % model.num_parameters())
"""


def test_transformers(found):
    needs("transformers", "torch")
    f = found(TRANSFORMERS)
    f.agrees("eval_loss", within=1e-5)
    f.agrees("loss", "last", within=1e-4)
    assert [s for s, _ in sorted(f.series["loss"])] == [4, 8, 12, 16]
    assert len(f.series["batch/loss"]) == 16 and f.params["learning_rate"] == 1e-3 and f.params["num_train_epochs"] == 2
    assert f.models[0]["parameters"] == f.printed("parameters")


# ---- JAX ----

JAX = """
import jax, jax.numpy as jnp
import numpy as np
a = np.random.RandomState(0).rand(64, 3).astype("float32"); b = a.sum(1)
@jax.jit
def step(w):
    loss, g = jax.value_and_grad(lambda w: jnp.mean((a @ w - b) ** 2))(w)
    return w - 0.1 * g, loss
TRACK
w = jnp.zeros(3)
for epoch in range(1, 31):
    w, loss = step(w)
    if epoch % 10 == 0:
        print(f"epoch {epoch} loss={loss:.6f}")
"""


def test_jax(found):
    needs("jax")
    f = found(JAX.replace("TRACK", ""))
    assert f.last("jax/compilations")[1] >= 1 and f.last("jax/compile_seconds")[1] > 0
    f.agrees("loss", within=1e-6)


def test_jax_tracked(found):
    needs("jax")
    f = found(JAX.replace("TRACK", "import sys; sys.path.append(%r)\nimport mlaas; step = mlaas.track(step)" % os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    f.agrees("loss", within=1e-6)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 31))
