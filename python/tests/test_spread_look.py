"""What is seen in a program without running it."""
import pytest

from mlaas._spread._look import look

KERAS = "import keras\nm = keras.Sequential([])\nm.compile('sgd', 'mse')\nm.fit([1], [2])\n"
TORCH = "import torch\nfrom torch.utils.data import DataLoader\nopt = torch.optim.SGD([], lr=1)\n"
TF1 = "import tensorflow as tf\ntf1 = tf.compat.v1\ns = tf1.Session()\n"


@pytest.mark.parametrize(
    "code, want",
    [
        (KERAS, "keras"),
        ("from tensorflow import keras\nkeras.Model().fit(1)", "keras"),
        ("import tensorflow as tf\nwith tf.GradientTape() as t: pass\no.apply_gradients([])", "keras"),
        (TORCH, "torch"),
        ("from torch import optim\noptim.Adam([])", "torch"),
        (TF1, "tf1"),
        ("import tensorflow.compat.v1 as tf\ntf.train.MonitoredTrainingSession()", "tf1"),
        ("from tensorflow.compat.v1 import Session as S\nS()", "tf1"),
        ("import tensorflow as tf\nwith tf.Session() as s: pass", "tf1"),
        ("import mlaas, numpy\nw = mlaas.sync(w)", "sync"),
        ("from mlaas import sync, rank\nsync([])", "sync"),
        ("w = 1\n#@sync: w\n", "sync"),
        ("w = __import__('mlaas').sync(w)", "sync"),
        ("import numpy", ""),
        ("s = '#@sync: w'\n", ""),
        ("print('hello'", ""),  # it does not parse: Python says so itself
        ("import sklearn.linear_model", ""),
        ("import jax", ""),
    ],
)
def test_strategy(tmp_path, code, want):
    (tmp_path / "main.py").write_text(code)
    got = look(str(tmp_path), "main.py", replicas=4)
    assert got["strategy"] == want and not got["refusals"], got
    assert look(str(tmp_path), "main.py", replicas=1) == {"strategy": "", "says": [], "refusals": []}
    assert look(str(tmp_path), "main.py", "off", replicas=4)["strategy"] == ""
    assert not want or len(got["says"]) > 1 and all("%" not in s for s in got["says"])


def test_a_module_that_is_imported_by_its_name_is_read(tmp_path):
    """Guiding mode's main program imports model.py so."""
    (tmp_path / "main.py").write_text("import importlib\nimportlib.import_module('model')\n")
    (tmp_path / "model.py").write_text(TORCH)
    assert look(str(tmp_path), "main.py", replicas=2)["strategy"] == "torch"


def test_batches_for_train_on_batch(tmp_path):
    (tmp_path / "main.py").write_text(KERAS.replace("fit([1], [2])", "train_on_batch(x, y)"))
    says = look(str(tmp_path), "main.py", replicas=2)["says"]
    assert any("train_on_batch its own batches (main.py:4)" in s for s in says), says


@pytest.mark.parametrize(
    "line, named",
    [
        ("config = os.environ['TF_CONFIG']", "TF_CONFIG"),
        ("rank = int(os.getenv('RANK', 0))", "RANK"),
        ("import torch.distributed as dist", "torch.distributed"),
        ("from torch.nn.parallel import DistributedDataParallel as DDP", "torch.nn.parallel.DistributedDataParallel"),
        ("import lightning as L", "lightning"),
        ("from transformers import Trainer", "transformers.Trainer"),
        ("import accelerate", "accelerate"),
        ("import tensorflow as tf\nx = tf.distribute.MirroredStrategy()", "tensorflow.distribute"),
        ("import tensorflow as tf\nx = tf.estimator.DNNClassifier()", "tensorflow.estimator"),
        ("import jax\njax.distributed.initialize()", "jax.distributed"),
        ("import mlaas\nseed = mlaas.rank", "mlaas.rank"),
    ],
)
def test_what_distributes_itself_is_left_alone(tmp_path, line, named):
    (tmp_path / "main.py").write_text("import os\n" + line + "\n" + TORCH)
    got = look(str(tmp_path), "main.py", replicas=4)
    assert got["strategy"] == "" and not got["refusals"]
    assert len(got["says"]) == 1 and named in got["says"][0] and "main.py:" in got["says"][0]
    forced = look(str(tmp_path), "main.py", "data-parallel", replicas=4)["refusals"]
    assert len(forced) == 1 and forced[0]["line"] in (2, 3) and named in forced[0]["text"]


def test_the_example_that_places_its_variables_by_hand_is_left_alone():
    import os

    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "mnist-ps")
    got = look(root, "main.py", replicas=2, servers=1)
    assert got["strategy"] == "" and not got["refusals"] and "main.py:" in got["says"][0]


@pytest.mark.parametrize(
    "code, line, word",
    [
        (TF1 + "f = s.make_callable(1)", 4, "make_callable"),
        (TF1 + "tf1.train.Supervisor()", 4, "Supervisor"),
        (TF1 + "a = tf1.data.make_one_shot_iterator(d)\nb = tf1.data.make_initializable_iterator(e)", 5, "2 tf.data iterators"),
        (TF1 + "tf.compat.v1.data.Iterator.from_structure(1)", 4, "from_structure"),
        (TORCH + "torch.optim.LBFGS([])", 4, "LBFGS"),
        (TORCH + "torch.nn.DataParallel(m)", 4, "DataParallel"),
        (TORCH + "torch.nn.Embedding(1, 2, sparse=True)", 4, "sparse"),
        ("import tensorflow as tf\nwith tf.GradientTape() as t:\n    pass\nw.assign_sub(g)", 2, "by hand"),
        ("import tensorflow as tf\n@tf.function(jit_compile=True)\ndef f():\n    with tf.GradientTape() as t: pass\n    o.apply_gradients([])", 2, "XLA"),
        ("import tf_keras\ntf_keras.Model().fit(1)", 1, "Keras 2"),
    ],
)
def test_what_cannot_be_spread(tmp_path, code, line, word):
    (tmp_path / "main.py").write_text(code)
    got = look(str(tmp_path), "main.py", replicas=4, servers=1)
    assert got["strategy"] == "" and len(got["refusals"]) == 1, got
    r = got["refusals"][0]
    assert (r["file"], r["line"]) == ("main.py", line) and word in r["text"]


@pytest.mark.parametrize("want, fits", [("parameter-server", TF1), ("data-parallel", KERAS), ("data-parallel", TORCH), ("sync", "import mlaas\nmlaas.sync([])")])
def test_what_is_asked_for_by_name(tmp_path, want, fits):
    for code in (TF1, KERAS, TORCH, "import mlaas\nmlaas.sync([])", "print(1)"):
        (tmp_path / "main.py").write_text(code)
        got = look(str(tmp_path), "main.py", want, replicas=2)
        also = want == "data-parallel" and code in (KERAS, TORCH)
        assert bool(got["strategy"]) == (code == fits or also), (want, code, got)
        assert bool(got["refusals"]) == (not got["strategy"])


def test_modules_beside_the_program_are_read(tmp_path):
    (tmp_path / "main.py").write_text("import net\nfrom lib.deep import train\nnet.go()")
    (tmp_path / "net.py").write_text(KERAS)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("")
    (tmp_path / "lib" / "deep.py").write_text("from . import other\nfrom .. import nothing")
    (tmp_path / "lib" / "other.py").write_text("import os\nos.environ['WORLD_SIZE']")
    (tmp_path / "unused.py").write_text("import horovod")
    got = look(str(tmp_path), "main.py", replicas=2)
    assert "lib/other.py:2" in got["says"][0], got
    (tmp_path / "lib" / "other.py").write_text("")
    assert look(str(tmp_path), "main.py", replicas=2)["strategy"] == "keras"
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__main__.py").write_text(TORCH)
    assert look(str(tmp_path), "-m pkg", replicas=2)["strategy"] == "torch"
    assert look(str(tmp_path), "-m lib.deep", replicas=2)["strategy"] == ""


def test_a_loop_of_imports_and_bytes_that_are_no_text(tmp_path):
    (tmp_path / "main.py").write_bytes(b"# -*- coding: latin-1 -*-\nimport a, keras\nx = '\xe9'\nkeras.Model().fit(x)")
    (tmp_path / "a.py").write_text("import main, b")
    (tmp_path / "b.py").write_bytes(b"\xff\xfe\x00")
    assert look(str(tmp_path), "main.py", replicas=2)["strategy"] == "keras"


def test_files_that_are_put_beside_it_count(tmp_path):
    (tmp_path / "model.py").write_text("import keras")
    got = look(str(tmp_path), "main.py", replicas=2, made={"main.py": "import model\nmodel.go()"})
    assert got["strategy"] == "keras"
    assert look(str(tmp_path), "main.py", replicas=2, made={"main.py": "print(1)"})["strategy"] == ""


def test_a_recipe_that_asks(tmp_path):
    """As the supervisor and the preview ask: the answer, or refusals of their kind."""
    from mlaas._prepare import prepare

    recipe = {"version": 1, "mode": "nonintrusive", "entry": "main.py", "distribute": {"want": "auto", "entry": "main.py", "replicas": 4, "servers": 0}}
    (tmp_path / "main.py").write_text(TORCH)
    got = prepare(str(tmp_path), recipe)
    assert got["spread"]["strategy"] == "torch" and got["spread"]["says"] and not got["refusals"] and not got["files"]
    (tmp_path / "main.py").write_text(TORCH + "torch.optim.LBFGS([])")
    got = prepare(str(tmp_path), recipe)
    assert got["spread"]["strategy"] == "" and [(r["path"], r["line"], r["column"]) for r in got["refusals"]] == [("main.py", 4, 0)]
    assert "spread" not in prepare(str(tmp_path), {"version": 1, "mode": "nonintrusive", "entry": "main.py"})
