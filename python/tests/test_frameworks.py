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


def thorough(framework):
    """Skip, but where all of a framework is tested: each of these takes as long
    as the framework takes to import."""
    if framework not in MUST:
        pytest.skip("make e2e-code runs it")


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
        supervisor.all_said()
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
    thorough("tensorflow")
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
    if not decorate:
        thorough("tensorflow")
    f = found("import tensorflow as tf\n" + LOOP.replace("DECORATE", decorate))
    f.agrees("loss", within=1e-5)
    assert [s for s, _ in sorted(f.series["loss"])] == list(range(1, 41))
    assert abs(f.last("lr")[1] - 0.05) < 1e-6 and f.params["optimizer"] == "SGD"
    assert [m["parameters"] for m in f.models] == [5] and f.models[0]["kind"] == "Sequential"


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


def test_torch_scaled(found):
    """What is recorded is the loss, and not the loss times what keeps its gradients from vanishing."""
    needs("torch")
    f = found(
        "import torch\nm = torch.nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), lr=0.1); s = torch.amp.GradScaler('cpu')\n"
        "for i in range(12):\n    loss_mean = m(torch.ones(4, 2)).pow(2).mean(); s.scale(loss_mean).backward(); s.step(o); s.update(); o.zero_grad()\n"
        "print('loss_mean %.6f' % loss_mean)\n"
    )
    f.agrees("loss_mean", within=1e-6)
    assert [s for s, _ in sorted(f.series["loss_mean"])] == list(range(1, 13)) and "loss" not in f.series


def test_torch_accelerate(found):
    """What is recorded is the loss, and not the part of it that one call of a step counts for."""
    needs("torch", "accelerate")
    f = found(
        "import torch\nfrom accelerate import Accelerator\na = Accelerator(cpu=True, gradient_accumulation_steps=2); m = torch.nn.Linear(2, 1)\n"
        "m, o = a.prepare(m, torch.optim.SGD(m.parameters(), lr=0.1))\n"
        "for i in range(12):\n    with a.accumulate(m):\n        out = m(torch.ones(4, 2))\n        real_loss = out.pow(2).mean(); a.backward(real_loss, retain_graph=True)\n"
        "        fake_loss = out.pow(4).mean(); a.backward(fake_loss); o.step(); o.zero_grad()\n"
        "print('real_loss %.6f fake_loss %.6f' % (real_loss, fake_loss))\n"
    )
    for key in ("real_loss", "fake_loss"):
        f.agrees(key, within=1e-6)
        assert f.last(key)[0] == 6


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


# ---- scikit-learn, XGBoost, LightGBM ----

PIPELINE = """
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.metrics import accuracy_score, f1_score, confusion_matrix
rng = np.random.RandomState(0)
a = rng.rand(200, 4); b = (a.sum(1) > 2).astype(int)
pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=200)).fit(a, b)
print("score %.6f" % pipeline.score(a, b))
print("f1 %.6f" % f1_score(b, pipeline.predict(a)))
confusion_matrix(b, pipeline.predict(a))
net = MLPClassifier((8,), max_iter=30, random_state=0).fit(a, b)
print("loss %.6f" % net.loss_)
search = GridSearchCV(LogisticRegression(max_iter=200), {"C": [0.1, 1.0]}, cv=3).fit(a, b)
print("best %.6f with %s" % (search.best_score_, search.best_params_))
print("accuracy %.6f" % accuracy_score(b, search.predict(a)))
import pickle; from sklearn.base import clone
assert pickle.loads(pickle.dumps(accuracy_score)) is accuracy_score and clone(pipeline) and pickle.loads(pickle.dumps(net)).score(a, b) == net.score(a, b)
"""


def test_sklearn(found):
    needs("sklearn")
    f = found("import warnings; warnings.simplefilter('ignore')\n" + PIPELINE)
    f.agrees("f1", within=1e-5)
    f.agrees("loss", within=1e-5)
    f.agrees("best_score", "best", within=1e-5)
    assert len(f.series["loss"]) == 30 and len(f.series["fit_seconds"]) == 3, "fits inside of others are theirs"
    assert abs(f.series["accuracy"][0][1] - f.printed("score")) < 1e-5
    assert f.printed("accuracy") in [round(v, 6) for _, v in f.series["accuracy"]]
    assert f.params["logisticregression__C"] == 0.5 and f.params["hidden_layer_sizes"] == "(8,)" and f.params["max_iter"] == 30
    assert f.params["best.C"] in (0.1, 1.0)
    assert [m["kind"] for m in f.models] == ["Pipeline", "MLPClassifier", "GridSearchCV"] and f.models[0]["parameters"] == 5 and f.models[1]["parameters"] == 49


BOOST = """
import numpy as np, xgboost as xgb
rng = np.random.RandomState(0)
a = rng.rand(300, 4); b = (a.sum(1) > 2).astype(int)
train, test = xgb.DMatrix(a[:200], b[:200]), xgb.DMatrix(a[200:], b[200:])
result = {}
model = xgb.train({"objective": "binary:logistic", "max_depth": 3, "eta": 0.2, "eval_metric": "logloss"}, train, 25,
                  evals=[(train, "train"), (test, "test")], evals_result=result, verbose_eval=5)
print("train %.6f test %.6f" % (result["train"]["logloss"][-1], result["test"]["logloss"][-1]))
print("rounds %d" % model.num_boosted_rounds())
"""


def test_xgboost(found):
    needs("xgboost")
    f = found(BOOST)
    f.agrees("train/logloss", "train", within=1e-5)
    f.agrees("test/logloss", "test", within=1e-5)
    assert [s for s, _ in sorted(f.series["test/logloss"])] == list(range(1, 26))
    assert f.params["max_depth"] == 3 and f.params["eta"] == 0.2 and f.params["num_boost_round"] == 25
    assert f.models[0]["rounds"] == f.printed("rounds") and f.models[0]["features"] == 4


def test_xgboost_estimator(found):
    """In a pipeline and alone it is recorded; the many trainings of a search are not."""
    needs("xgboost", "sklearn")
    f = found(
        "import numpy as np, xgboost as xgb\nfrom sklearn.pipeline import make_pipeline\nfrom sklearn.preprocessing import StandardScaler\nfrom sklearn.model_selection import GridSearchCV\n"
        "rng = np.random.RandomState(0); a = rng.rand(200, 4); b = (a.sum(1) > 2).astype(int)\n"
        "m = xgb.XGBClassifier(n_estimators=7, max_depth=2, eval_metric='logloss').fit(a, b, eval_set=[(a, b)], verbose=False)\n"
        "print('last %.6f' % m.evals_result()['validation_0']['logloss'][-1])\n"
        "GridSearchCV(xgb.XGBClassifier(n_estimators=5), {'max_depth': [1, 2]}, cv=2).fit(a, b, eval_set=[(a, b)], verbose=False)\n"
    )
    f.agrees("validation_0/logloss", "last", within=1e-5)
    assert len(f.series["validation_0/logloss"]) == 7 and f.params["max_depth"] == 2 and len(f.series["fit_seconds"]) == 1


def test_xgboost_stops_early(found):
    """The round after which it stops is recorded, too, and the model as it is cut."""
    needs("xgboost")
    f = found(
        "import numpy as np, xgboost as xgb\nrng = np.random.RandomState(0); a = rng.rand(300, 4); b = (a.sum(1) + rng.rand(300) > 2.5).astype(int)\n"
        "stop = xgb.callback.EarlyStopping(3, save_best=True); r = {}; t = xgb.DMatrix(a[200:], b[200:])\n"
        "m = xgb.train({'objective': 'binary:logistic', 'max_depth': 6}, xgb.DMatrix(a[:200], b[:200]), 200, evals=[(t, 'test')], evals_result=r, callbacks=[stop], verbose_eval=False)\n"
        "print('last %.6f' % r['test']['logloss'][-1]); print('evaluated %d' % len(r['test']['logloss'])); print('rounds %d' % m.num_boosted_rounds())\n"
    )
    f.agrees("test/logloss", "last", within=1e-5)
    assert len(f.series["test/logloss"]) == f.printed("evaluated") < 200
    assert f.models[0]["rounds"] == f.printed("rounds") < f.printed("evaluated")


def test_xgboost_cv(found):
    needs("xgboost")
    f = found(
        "import numpy as np, xgboost as xgb\nrng = np.random.RandomState(0); a = rng.rand(200, 4)\n"
        "r = xgb.cv({'max_depth': 2, 'objective': 'binary:logistic'}, xgb.DMatrix(a, a.sum(1) > 2), 6, nfold=3, metrics='logloss')\n"
        "print('last %.6f' % r['test-logloss-mean'].iloc[-1])\n"
    )
    f.agrees("cv/test/logloss", "last", within=1e-5)
    assert len(f.series["cv/test/logloss"]) == 6 and not f.models


LIGHT = """
import numpy as np, lightgbm as lgb
rng = np.random.RandomState(0)
a = rng.rand(300, 4); b = a.sum(1)
train = lgb.Dataset(a[:200], b[:200]); test = lgb.Dataset(a[200:], b[200:], reference=train)
result = {}
model = lgb.train({"objective": "regression", "metric": "l2", "num_leaves": 7, "learning_rate": 0.1, "verbose": -1}, train, 30,
                  valid_sets=[test], valid_names=["test"], callbacks=[lgb.record_evaluation(result), lgb.early_stopping(50, verbose=False)])
lgb.LGBMRegressor(n_estimators=5, verbose=-1).fit(a, b, eval_set=[(a[:50], b[:50])])
print("l2 %.6f" % result["test"]["l2"][-1])
print("rounds %d" % model.current_iteration())
"""


def test_lightgbm(found):
    needs("lightgbm")
    f = found(LIGHT)
    f.agrees("test/l2", "l2", within=1e-5)
    assert [s for s, _ in sorted(f.series["test/l2"])] == list(range(1, 31)) and len(f.series["valid_0/l2"]) == 5
    assert f.params["num_leaves"] == 7 and f.params["learning_rate"] == 0.1
    assert f.models[0]["rounds"] == f.printed("rounds")


# ---- what says things by itself ----


@pytest.mark.parametrize("home", ["torch.utils.tensorboard", "tensorboardX"])
def test_tensorboard_writers(found, home):
    needs(home.split(".")[0], *(["tensorboard"] if home.startswith("torch") else []))
    f = found(
        "from HOME import SummaryWriter\nw = SummaryWriter('logs')\nfor i in range(5): w.add_scalar('train/score', i / 4, i * 10)\n"
        "w.add_scalars('both', {'a': 1.5, 'b': 2.5}, 3)\nw.add_hparams({'width': 8}, {'best': 0.5})\nw.close()\nprint('score', 1.0)".replace("HOME", home)
    )
    assert sorted(f.series["train/score"]) == [(i * 10, i / 4) for i in range(5)] and f.params["width"] == 8
    assert f.series["both/a"] == [(3, 1.5)] and f.series["both/b"] == [(3, 2.5)] and "both" not in f.series


def test_tensorboard_of_tensorflow(found):
    needs("tensorflow")
    thorough("tensorflow")
    f = found(
        "import tensorflow as tf\nw = tf.summary.create_file_writer('logs')\nwith w.as_default():\n    for i in range(3): tf.summary.scalar('train/score', i / 2, step=i)\n"
        "v1 = tf.compat.v1\nwith tf.Graph().as_default():\n    w = v1.summary.FileWriter('logs1')\n"
        "    for i in range(3): w.add_summary(v1.Summary(value=[v1.Summary.Value(tag='old/score', simple_value=i / 2)]), i)\n    w.close()\n"
    )
    for key in ("train/score", "old/score"):
        assert sorted(f.series[key]) == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_tensorboard_of_functions(found):
    """What a tf.function writes is seen in the file; the same tag of two writers is two metrics."""
    needs("tensorflow", "tensorboard")
    thorough("tensorflow")
    f = found(
        "import tensorflow as tf\ntrain, test = tf.summary.create_file_writer('logs/train'), tf.summary.create_file_writer('logs/test')\n"
        "@tf.function\ndef step(i):\n    tf.summary.scalar('inner', tf.cast(i, tf.float32) / 4, step=i)\n"
        "for i in range(12):\n    with train.as_default(): step(tf.constant(i, tf.int64)); tf.summary.scalar('height', i / 2, step=i)\n"
        "    with test.as_default(): tf.summary.scalar('height', i * 3.0, step=i)\n"
    )
    assert sorted(f.series["inner"]) == [(i, i / 4) for i in range(12)]
    assert sorted(f.series["height"]) == [(i, i / 2) for i in range(12)] and sorted(f.series["test/height"]) == [(i, i * 3.0) for i in range(12)]


def test_matplotlib(found, tmp_path):
    needs("matplotlib")
    found(
        "import matplotlib.pyplot as plt, io, os\nplt.plot([1, 2]); plt.savefig('curve.png'); plt.savefig('other'); plt.savefig(io.BytesIO())\n"
        "plt.savefig(os.path.join(os.environ['MLAAS_OUTPUT'], 'own.png'))\nplt.figure(); plt.show()\nprint('loss: 0.5')\n"
    )
    folder = tmp_path / "output" / "mlaas" / "figures"
    assert sorted(os.listdir(str(folder))) == ["curve.png", "figure-3.png", "other.png"]
    assert (folder / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_argparse(found):
    f = found(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', type=float, default=0.1)\np.add_argument('--layers', type=int, nargs='+')\np.add_argument('--api-token')\n"
        "s = p.add_subparsers(dest='what'); t = s.add_parser('train'); t.add_argument('--epochs', type=int)\na = p.parse_args()\nassert a.epochs == 3\n"
        "argparse.ArgumentParser().parse_known_args([])\n",
        "--lr", "0.5", "--layers", "8", "4", "--api-token", "hush", "train", "--epochs", "3",
    )
    assert f.params == {"lr": 0.5, "layers": "[8, 4]", "api_token": "(not recorded)", "what": "train", "epochs": 3}


def test_absl(found):
    needs("absl")
    f = found(
        "from absl import app, flags\nflags.DEFINE_float('lr', 0.1, '')\nflags.DEFINE_enum('net', 'mlp', ['mlp', 'cnn'], '')\n"
        "def main(_): print('ran', flags.FLAGS.lr)\nif __name__ == '__main__': app.run(main)\n",
        "--lr=0.5",
    )
    assert f.params == {"lr": 0.5, "net": "mlp"} and "ran 0.5" in f.out


def test_click(found):
    needs("click")
    f = found("import click\n@click.command()\n@click.option('--lr', type=float)\n@click.option('--net', default='mlp')\ndef main(lr, net): print('ran', lr)\nmain()\n", "--lr", "0.5")
    assert f.params == {"lr": 0.5, "net": "mlp"} and "ran 0.5" in f.out


def test_hydra(found, tmp_path):
    needs("hydra")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 0.1\nnet:\n  width: 8\n  layers: [4, 2]\n")
    f = found("import hydra\n@hydra.main(version_base=None, config_path='conf', config_name='config')\ndef main(c): print('ran', c.lr)\nmain()\n", "lr=0.5")
    assert f.params == {"lr": 0.5, "net.width": 8, "net.layers": "[4, 2]"} and "ran 0.5" in f.out


# ---- printed ----


@pytest.mark.parametrize(
    "line, place, want",
    [
        ("epoch 3 loss=0.12 acc: 0.93", 3, {"loss": 0.12, "acc": 0.93}),
        ("Epoch [3/10], Loss: 1.2e-3", 3, {"loss": 0.0012}),
        ("step 1,  val_loss -0.5", 1, {"val_loss": -0.5}),
        ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.310609", 1, {"loss": 2.310609}),
        ("Test set: Average loss: 0.0478, Accuracy: 9843/10000 (98%)", None, {"average_loss": 0.0478, "accuracy": 0.9843}),
        ("[1,  2000] loss: 2.173", None, {"loss": 2.173}),
        ("test accuracy 0.9312", None, {"test_accuracy": 0.9312}),
        ("Accuracy: 97.5%", None, {"accuracy": 0.975}),
        ("iter 100 | train loss 2.31 | val loss 2.42 | lr 1.0e-4 | 12.3ms/step", 100, {"train_loss": 2.31, "val_loss": 2.42, "lr": 1e-4}),
        ("{'loss': 0.5, 'epoch': 2.0}", 2, {"loss": 0.5}),
        ("epoch 2.5 loss: 0.5, lossG: 3.5, loss_d: 1.5", None, {"loss": 0.5, "loss_d": 1.5}),
        ("2026-01-02 03:04:05,678 - INFO - epoch 2: policy/entropy=1.5 reward=200", 2, {"policy/entropy": 1.5, "reward": 200.0}),
        ("RMSE: 12.5, R2 0.81", None, {"rmse": 12.5, "r2": 0.81}),
        ("epoch 4 loss=nan", 4, {"loss": float("nan")}),
        ("f1-score = 0.5", None, {"f1_score": 0.5}),
        ("Accuracy of the network on the 10000 test images: 97 %", None, {"accuracy": 0.97}),
        ("Test loss after epoch 3: 0.25", 3, {"test_loss": 0.25}),
        ("\tTrain Loss: 0.019 | Val. Loss: 0.25", None, {"train_loss": 0.019, "val_loss": 0.25}),
        ("| rmse | 1.2984 |", None, {"rmse": 1.2984}),
        # ordinary text
        ("error 404", None, None),
        ("Error: 3 files were not found", None, None),
        ("the loss was 0.5 yesterday and the cat sat on the mat", None, None),
        ("score: 3", None, None),
        ("lr=0.01 batch_size=32", None, None),
        ("Namespace(lr=0.1, epochs=3)", None, None),
        ("model has 1.5 million weights", None, None),
        ("version 2.1.0, loss 1.2.3", None, None),
        ("loss at 192.168.0.1", None, None),
        ("total time 12.5s, 0.3 ms a step", None, None),
        ("the accuracy of this approach is higher than that of 2 others: see table 3.1", None, None),
        ("error of type 3 in worker: 0.5", None, None),
        ("Losses for the quarter: 5 million", None, None),
        ("score of the match: 3", None, None),
        ("lossy compression: 0.5", None, None),
        ("see http://x/loss=0.5?", None, None),
        ("dropout rate=0.5", None, None),
        ("Traceback (most recent call last): line 3, in loss", None, None),
        ("epochs=3 accuracy_threshold=0.5 patience=2", None, None),
    ],
)
def test_printed_lines(line, place, want):
    import sys

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from mlaas._hooks import printed

    got = printed.read(line)
    if want is None:
        assert got is None, got
    else:
        assert got is not None and json.dumps(got.metrics) == json.dumps(want) and got.place == place, got


def test_printed(found):
    f = found(
        "import logging, sys\nlogging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "for epoch in range(1, 4):\n    for part in ('epoch %d ' % epoch, 'loss=', 1 / epoch): print(part, end='')\n    print()\n"
        "    logging.info('epoch %d accuracy: %.2f', epoch, epoch / 4)\n"
        "print('done\\nfinal accuracy: 75%')\nprint('loss: 1.5', file=open('elsewhere', 'w'))\n"
    )
    assert sorted(f.series["loss"]) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert sorted(f.series["accuracy"]) == [(1, 0.25), (2, 0.5), (3, 0.75)] and [v for _, v in f.series["final_accuracy"]] == [0.75]


def test_what_the_program_logs_itself_stands(found):
    """No hook says besides what the program says, not even before its first word."""
    f = found(
        "import sys; sys.path.append(%r)\nimport mlaas\n"
        "for i in range(1, 4):\n    print('step %%d loss: %%.2f' %% (i, i / 2))\n    mlaas.log({'loss': i}, step=i)\n" % os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    )
    assert sorted(f.series["loss"]) == [(1, 1.0), (2, 2.0), (3, 3.0)]
