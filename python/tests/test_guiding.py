"""Guiding mode: the user's functions are found, or it is said what is wrong
with them; each template runs as it stands, and goes on from a checkpoint."""
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = os.path.join(HERE, "..", "..", "template")
PACKAGE = os.path.dirname(HERE)

# One thread: these models are so small that more would only wait for each other.
QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

# A main program without a framework, around the same workflow.
MAIN = """
from workflow import Workflow

work = Workflow()
model = work.define_model()
env = work.setup_train(model)
if work.found:
    work.restore(env)
going = True
while going:
    going = work.step_train(model, env)
    if work.due() or not going:
        with work.checkpoint(env) as folder:
            open(folder + "/weights", "w").write("x")
work.evaluate(model, env)
work.save(model, env, lambda folder: open(folder + "/model", "w").write("x"))
print("ended after", work.step, "steps; model", model, "env", env)
"""

GOOD = """
def define_model():
    return "m"

def setup_train(model):
    return {"left": 3, "unlike": object}

def step_train(model, env):
    env["left"] -= 1
    if env["left"] < 0:
        return False
    return {"loss": env["left"]}
"""


@pytest.fixture
def run(tmp_path):
    shutil.copy(os.path.join(TEMPLATES, "workflow.py"), str(tmp_path))
    (tmp_path / "main.py").write_text(MAIN)

    def run(model, *words, **env):
        (tmp_path / "model.py").write_text(model)
        env = dict(dict(os.environ, PYTHONPATH=PACKAGE, **QUIET), **env)
        return subprocess.run([sys.executable, "main.py"] + list(words), cwd=str(tmp_path), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60)

    return run


def points(folder):
    found = {}
    for path in glob.glob(os.path.join(str(folder), "mlaas-runs", "*", "metrics.jsonl")):
        with open(path) as f:
            for line in f:
                p = json.loads(line)
                found.setdefault(p["key"], []).append((p["step"], p["value"]))
    return found


def test_good(run, tmp_path):
    found = run(GOOD + "\ndef evaluate(model, env):\n    return {'test_loss': 0.25}\n")
    assert found.returncode == 0, found.stderr
    assert "test_loss 0.2500 after 4 steps" in found.stdout and "ended after 4 steps" in found.stdout
    assert points(tmp_path) == {"loss": [(1, 2.0), (2, 1.0), (3, 0.0)], "test_loss": [(4, 0.25)]}
    assert glob.glob(str(tmp_path / "mlaas-runs" / "*" / "output" / "model"))


def test_without_the_package(run, tmp_path):
    found = run(GOOD, PYTHONPATH="")
    assert found.returncode == 0, found.stderr
    assert "ended after 4 steps" in found.stdout
    assert os.listdir(str(tmp_path / "mlaas-runs")) == ["output"] and os.listdir(str(tmp_path / "mlaas-runs" / "output")) == ["model"]


def test_resume(run, tmp_path):
    assert run(GOOD, "--steps", "2").returncode == 0
    kept = glob.glob(str(tmp_path / "mlaas-runs" / "*" / "checkpoints" / "step-2"))
    assert len(kept) == 1 and sorted(os.listdir(kept[0])) == ["draws.json", "weights", "workflow.json"]
    found = run(GOOD, MLAAS_RESUME=kept[0])
    assert found.returncode == 0, found.stderr
    assert "going on from step 2" in found.stdout and "ended after 4 steps" in found.stdout  # env["left"] was 1 again


DRAWS = """
import random

import numpy as np

def define_model():
    return {"drawn": []}

def setup_train(model):
    random.seed(1)
    np.random.seed(2)
    return {"step": 0, "own": random.Random(3), "old": np.random.RandomState(4), "new": np.random.default_rng(5)}

def step_train(model, env):
    if env["step"] == 6:
        return False
    env["step"] += 1
    print("drawn", env["step"], random.random(), np.random.rand(), env["own"].random(), env["old"].randn(), env["new"].normal())
    return True
"""


def test_resume_draws_on(run, tmp_path):
    """Batches that are drawn at random are those of a run without a break."""
    pytest.importorskip("numpy")
    drawn = lambda found: [line for line in found.stdout.splitlines() if line.startswith("drawn")]  # noqa: E731
    whole = run(DRAWS)
    assert whole.returncode == 0 and len(drawn(whole)) == 6, whole.stderr
    shutil.rmtree(str(tmp_path / "mlaas-runs"))
    first = run(DRAWS, "--steps", "3")
    (kept,) = glob.glob(str(tmp_path / "mlaas-runs" / "*" / "checkpoints" / "step-3"))
    then = run(DRAWS, MLAAS_RESUME=kept)
    assert then.returncode == 0, then.stderr
    assert drawn(first) + drawn(then) == drawn(whole)


def test_checkpoints(run, tmp_path):
    many = GOOD.replace('"left": 3', '"left": 10')
    assert run(many, "--checkpoint_steps", "4", "--checkpoint_seconds", "0").returncode == 0
    kept = sorted(os.path.basename(p) for p in glob.glob(str(tmp_path / "mlaas-runs" / "*" / "checkpoints" / "*")))
    assert kept == ["step-11", "step-4", "step-8"]


def test_own_save(run, tmp_path):
    found = run(GOOD + "\ndef save(model, env, folder):\n    open(folder + '/mine', 'w').write(model)\n")
    assert found.returncode == 0, found.stderr
    assert [os.path.basename(p) for p in glob.glob(str(tmp_path / "mlaas-runs" / "*" / "output" / "*"))] == ["mine"]


@pytest.mark.parametrize("old, new, says", [
    ("def define_model():", "def define_modell():", "model.py:2: define_modell is not known; it must be called define_model(), which builds the model and returns it"),
    ("def step_train(model, env):", "def train(model, env):", "model.py: there is no function step_train(model, env), which trains one step"),
    ("def setup_train(model):", "def setup_train():", "model.py:5: setup_train() does not take what it is given: it is called as setup_train(model)"),
    ("def step_train(model, env):", "def step_train(model, env, session):", "model.py:8: step_train(model, env, session) does not take what it is given: it is called as step_train(model, env)"),
    ('    return "m"', "    pass", "model.py:2: define_model returned None, want the model: does it end with return?"),
    ('        return False\n    return {"loss": env["left"]}', "        pass", "model.py:8: step_train returns nothing: return True to go on (or a dict of what was measured) and False when training is over"),
    ('    if env["left"] < 0:\n        return False\n', "", "model.py:8: step_train never says when training is over: return False then, or give the job the parameter steps"),
    ('        return False\n    return {"loss": env["left"]}', "        return True\n    else:\n        return True", "model.py:8: step_train never says when training is over"),
    ('return {"loss": env["left"]}', "return 0.5", "model.py:8: step_train returned 0.5, which is a float: return True to go on"),
    ("def step_train", "setup_train = 5\ndef step_train", "model.py: setup_train is a int, want a function setup_train(model)"),
    ('return {"loss": env["left"]}', "yield 1", "model.py:8: step_train has yield or async in it"),
    ("def step_train", "def evaluate(model, env):\n    return 0.5\n\ndef step_train", "model.py:8: evaluate returned 0.5, want a dict"),
])
def test_wrong(run, old, new, says):
    assert old in GOOD
    found = run(GOOD.replace(old, new))
    assert found.returncode == 1 and found.stderr.strip().splitlines()[-1].startswith("ModelError: " + says), found.stdout + found.stderr


def test_wrong_syntax(run):
    found = run("def define_model(:\n    pass\n")
    assert found.returncode == 1 and 'model.py", line 1' in found.stderr and "SyntaxError" in found.stderr


def test_failure_names_the_users_line(run):
    found = run(GOOD.replace('env["left"] -= 1', 'env["lefft"] -= 1'))
    assert found.returncode == 1 and 'model.py", line 9, in step_train' in found.stderr


def test_ends(run):
    # What ends in another way than by False is not told that it never ends.
    for end in ("        return\n", "        raise SystemExit(0)\n", "        return None\n"):
        found = run(GOOD.replace("        return False\n", end))
        assert found.returncode == 0, found.stderr
    always = GOOD.replace('    if env["left"] < 0:\n        return False\n', "")
    found = run(always, "--steps", "5")
    assert found.returncode == 0 and "ended after 5 steps" in found.stdout, found.stderr


def test_misspelt_option(run):
    found = run(GOOD + "\ndef evalute(model, env):\n    return {}\n")
    assert found.returncode == 0 and "model.py:14: evalute is never called; if it is to be evaluate(model, env), call it so" in found.stderr


@pytest.mark.parametrize("name, module", [("tf1", "tensorflow"), ("keras", "keras"), ("torch", "torch"), ("jax", "jax")])
def test_template(name, module, tmp_path):
    """As it stands: by hand, with a checkpoint, and on from it."""
    if importlib.util.find_spec(module) is None:
        pytest.skip("needs " + module)
    for file in ("workflow.py", name + "/main.py", name + "/model.py"):
        shutil.copy(os.path.join(TEMPLATES, file), str(tmp_path))

    def run(*words, **env):
        env = dict(dict(os.environ, PYTHONPATH=PACKAGE, **QUIET), **env)
        return subprocess.run([sys.executable, "main.py"] + list(words), cwd=str(tmp_path), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=300)

    found = run("--steps", "200")
    assert found.returncode == 0, found.stderr
    kept = glob.glob(str(tmp_path / "mlaas-runs" / "*" / "checkpoints" / "step-200"))
    assert len(kept) == 1, found.stderr
    first = points(tmp_path)
    assert len(first["loss"]) > 10 and first["loss"][-1][1] < first["loss"][0][1]
    accuracy = float(found.stdout.split("test_accuracy ")[1].split()[0])

    shutil.move(str(tmp_path / "mlaas-runs"), str(tmp_path / "before"))
    kept = kept[0].replace("mlaas-runs", "before")
    found = run(MLAAS_RESUME=kept)
    assert found.returncode == 0, found.stderr
    assert "going on from step 200" in found.stdout
    # 1000 steps in all, of which 800 or 801 are left: those that say when they
    # are over in a call of their own count it.
    after = points(tmp_path)
    assert after["loss"][0][0] == 201 and 1000 <= after["test_accuracy"][-1][0] <= 1001
    # It went on with what it had learned, and learned more.
    assert after["loss"][0][1] < first["loss"][0][1] * 0.8
    assert float(found.stdout.split("test_accuracy ")[1].split()[0]) > max(0.95, accuracy - 0.02)
