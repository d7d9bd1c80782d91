"""track on objects that behave like those of each framework, and on the real
ones where they are installed."""
import json

import pytest

STUB = """
import mlaas, json
class Value(float):
    ndim = 0
    dtype = type('D', (), {'kind': 'f'})
class Tensor:
    graph = dtype = object()
    def __init__(self, name): self.name = name
class Operation:
    def __init__(self, name): self.name = name
class Session:
    graph = object()
    step = 0
    def run(self, fetches, feed_dict=None):
        def value(f):
            if isinstance(f, dict): return {k: value(v) for k, v in f.items()}
            if isinstance(f, (list, tuple)): return [value(v) for v in f]
            if isinstance(f, Operation): self.step += 1; return None
            if 'global_step' in f.name: return self.step
            return Value(self.step / 2)
        return value(fetches)
s = Session()
train, loss, unnamed, step = Operation('train'), Tensor('loss/Mean:0'), Tensor('Mean_3:0'), Tensor('global_step:0')
"""


def values(supervisor, n):
    supervisor.wait(lambda s: len(s.points()) >= n)
    return [[p[0], p[1], p[3]] for p in supervisor.points()]


@pytest.mark.parametrize(
    "code, want",
    [
        ("mlaas.track(None, s)\nfor _ in range(2): r = s.run([train, loss])\nassert r == [None, 1.0]", [["loss", 1, 0.5], ["loss", 2, 1.0]]),
        ("mlaas.track(s)\ns.step = 40\nf = (train, step, loss, unnamed)\ns.run(f); s.run(f)", [["loss", 41, 20.5], ["loss", 42, 21.0]]),
        ("mlaas.track({'cost': unnamed}, s)\ns.run([train, unnamed])", [["cost", 1, 0.5]]),
        ("m = type('M', (), {})(); m.objective = unnamed\nassert mlaas.track(m, s) is m\ns.run(train); s.run(unnamed)", None),
        ("mlaas.track(None, s)\ns.run({'train': train, 'what': unnamed})", [["what", 1, 0.5]]),
        ("mlaas.track(None, s); mlaas.track(None, s)\ns.run([train, loss])", [["loss", 1, 0.5]]),
        ("mlaas.track(None, s)\ns.run(train)\ns.run(loss)", [["loss", 1, 0.5]]),
    ],
)
def test_session(supervisor, program, code, want):
    program(STUB + code + "\nmlaas.log({'end': 1}, step=99)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: any(p[0] == "end" for p in s.points()))
    got = [[p[0], p[1], p[3]] for p in supervisor.points() if p[0] != "end"]
    assert got == (want if want is not None else [["objective", 1, 0.5]])


def test_a_session_that_fails_is_its_own_failure(supervisor, program):
    done = program(STUB + "mlaas.track(None, s)\ntry: s.run(None)\nexcept AttributeError as e: print('its own')", {"MLAAS_SOCKET": supervisor.path})
    assert done.stdout == "its own\n"


def test_estimator(supervisor, program):
    program(
        "import mlaas, pickle, sys\n"
        "class Net:\n"
        "    def get_params(self, deep=True): return {'lr': 0.1, 'inner': object()}\n"
        "    def fit(self, x):\n        self.loss_curve_ = [3, 2, 1]; self.n_iter_ = 3; self.fit_inside(); return self\n"
        "    def fit_inside(self): Other().fit(1)\n"
        "class Other(Net):\n    def fit(self, x): pass\n"
        "n = mlaas.track(Net())\nassert n.fit(0) is n\nassert pickle.loads(pickle.dumps(n)).n_iter_ == 3\nNet().fit(0)",
        {"MLAAS_SOCKET": supervisor.path},
    )
    got = values(supervisor, 5)
    assert [g for g in got if g[0] == "loss"] == [["loss", 1, 3.0], ["loss", 2, 2.0], ["loss", 3, 1.0]]
    assert ["iterations", 3, 3.0] in got and [g[0] for g in got].count("fit_seconds") == 1
    assert supervisor.all("params") == [{"lr": 0.1}]


def test_unknown_thing_says_what_to_do(program):
    done = program("import mlaas\nassert mlaas.track(3) == 3")
    assert "track does not know int" in done.stderr and "mlaas.log" in done.stderr


def test_real_tensorflow(supervisor, program):
    pytest.importorskip("tensorflow")
    program(
        "import tensorflow as tf, mlaas\ntf1 = tf.compat.v1\ntf1.disable_v2_behavior()\n"
        "w = tf1.get_variable('w', [], initializer=tf1.ones_initializer())\nloss = tf.square(w, name='loss')\n"
        "step = tf1.train.get_or_create_global_step()\ntrain = tf1.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=step)\n"
        "s = tf1.Session()\ns.run(tf1.global_variables_initializer())\nmlaas.track(None, s)\nwith s:\n  for _ in range(3): s.run([train, step, loss])\n",
        {"MLAAS_SOCKET": supervisor.path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,  # importing it takes a while on a machine that is busy
    )
    assert [g[0] for g in values(supervisor, 3)] == ["loss"] * 3


def test_real_keras(supervisor, program):
    pytest.importorskip("keras")
    program(
        "import keras, numpy as np, mlaas\nm = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\nm.compile('sgd', 'mse')\n"
        "mlaas.track(m)\nm.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=2, batch_size=4, verbose=0, validation_split=0.5)\nm.save('m.keras')",
        {"MLAAS_SOCKET": supervisor.path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,  # importing it takes a while on a machine that is busy
    )
    got = values(supervisor, 6)
    assert [g[:2] for g in got if g[0] == "val_loss"] == [["val_loss", 1], ["val_loss", 2]]


def test_real_torch(supervisor, program):
    pytest.importorskip("torch")
    program(
        "import torch, mlaas\nm = torch.nn.Linear(2, 1)\no = torch.optim.SGD(m.parameters(), lr=0.5)\nmlaas.track(m); mlaas.track(o)\n"
        "for _ in range(3):\n  l = m(torch.ones(4, 2)).mean(); o.zero_grad(); l.backward(); o.step()\ntorch.save(m, 'm.pt')",
        {"MLAAS_SOCKET": supervisor.path},
    )
    got = values(supervisor, 6)
    assert [g[:2] for g in got] == [["loss", 1], ["lr", 1], ["loss", 2], ["lr", 2], ["loss", 3], ["lr", 3]]


def test_real_sklearn(supervisor, program):
    pytest.importorskip("sklearn")
    program(
        "import mlaas, pickle, numpy as np\nfrom sklearn.neural_network import MLPClassifier\nfrom sklearn.base import clone\n"
        "m = mlaas.track(MLPClassifier((4,), max_iter=3))\nx, y = np.random.rand(20, 2), np.arange(20) % 2\n"
        "m.partial_fit(x, y, classes=[0, 1]); m.partial_fit(x, y)\npickle.dumps(m); clone(m).fit(x, y)\n"
        "assert not hasattr(MLPClassifier(solver='lbfgs'), 'partial_fit')",
        {"MLAAS_SOCKET": supervisor.path},
    )
    got = values(supervisor, 6)
    assert [g[:2] for g in got if g[0] == "loss"] == [["loss", 1], ["loss", 2]]
    assert json.dumps(supervisor.all("params"))
