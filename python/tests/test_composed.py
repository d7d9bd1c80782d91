"""The programs that package compose writes are run as they are, on data of
each format: they learn it, and go on from a checkpoint."""
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = {"keras": "keras", "tf1": "tensorflow", "pytorch": "torch"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tmp_path_factory.mktemp("composed"))


def run(backend, base, *nets, **env):
    if importlib.util.find_spec(MODULES[backend]) is None:
        pytest.skip("needs " + MODULES[backend])
    env = dict(dict(os.environ, PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1"), **env)
    found = subprocess.run([sys.executable, os.path.join(HERE, "run_composed.py"), backend, base] + list(nets), env=env,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=900)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def last(text, name):
    return float(re.findall(r"%s ([0-9.]+)" % name, text)[-1])


@pytest.mark.parametrize("backend", sorted(MODULES))
def test_learns(backend, base):
    said = run(backend, base)
    for net, least in (("paper", 0.95), ("convolution", 0.9), ("rates", 0.9), ("pictures", 0.9)):
        assert last(said[net], "test accuracy") >= least, said[net]
    for net, least in (("words", 0.8), ("iris", 0.9)):
        assert last(said[net], "validation accuracy") >= least, said[net]
    assert last(said["price"], "test mae") < 0.2, said["price"]
    for net, file in (("iris", "classes.json"), ("iris", "scale.npz"), ("pictures", "classes.json")):
        assert os.path.isfile(os.path.join(base, net, "output", file))
    with open(os.path.join(base, "iris", "output", "classes.json")) as f:
        assert json.load(f) == ["a", "b", "c"]


@pytest.mark.parametrize("backend", ["keras", "tf1"])
def test_goes_on(backend, tmp_path):
    """A run whose layers have learning rates of their own is the hard one."""
    run(backend, str(tmp_path), "rates", MLAAS_PARAM_EPOCHS="2")
    runs = tmp_path / "rates" / "mlaas-runs"
    kept = sorted((runs / os.listdir(str(runs))[0] / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    said = run(backend, str(tmp_path), "rates", MLAAS_PARAM_EPOCHS="8", MLAAS_RESUME=str(kept[-1]))
    assert "going on after epoch 2" in said["rates"]
    assert last(said["rates"], "test accuracy") >= 0.9, said["rates"]


def test_wrong_data(tmp_path):
    """What in the data is not as the job has it is said in one sentence."""
    np = pytest.importorskip("numpy")
    folder = tmp_path / "data" / "digits"
    folder.mkdir(parents=True)
    golden = os.path.join(HERE, "..", "..", "compose", "testdata")

    def fails(net, says):
        code = "import sys; sys.path[:0] = [%r, %r]; import data; data.read(0, 0.1)" % (os.path.join(golden, net, "keras"), os.path.dirname(HERE))
        found = subprocess.run([sys.executable, "-c", code], cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                               env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
        line = found.stderr.strip().splitlines()[-1]
        assert found.returncode == 1 and line.startswith("ValueError: ") and says in line, found.stderr

    fails("paper", "has no files such as train-images-idx3-ubyte")
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x04\0\0\0\x04" + b"x" * 32)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02\1\2")
    fails("paper", "have the shape (4, 4), and input.shape is (784,)")
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x04\0\0\0\x04" + b"x" * 31)
    fails("paper", "has 31 numbers, want (2, 4, 4): it is cut off")
    fails("words", "has 0 files .npz, want one: name it as input.file")
    np.savez(str(folder / "a.npz"), x=np.full((3, 20), 100), y=np.zeros(3))
    fails("words", "go from 100 to 100, and the embedding has a vocabulary of 100, for 0 to 99")
    (folder / "iris.csv").write_text("width,length\n1,2\n")
    fails("iris", "has no column 'species', which is the target; it has: width, length")
    (folder / "iris.csv").write_text("width,length,species\n1,2,a\n1,2\n")
    fails("iris", "line 3: 2 values, want 3 as in the first line")
    (folder / "iris.csv").write_text("width,length,species\n1,2,a\n1,2,b\n")
    fails("iris", "has 2 different values, and the output tells 3 classes apart")
    (folder / "iris.csv").write_text("width,length,species\n1,2,a\n1,2,b\n,3,c\n")
    fails("iris", "row 3: column 'width' is '', want a number")
