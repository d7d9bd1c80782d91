"""What a program of guiding mode does besides training: it finds the functions
of model.py and says what is wrong with them, counts steps, records what they
measure, keeps checkpoints and goes on from the last one.

On the platform this file is the platform's own. By hand it works with the
package mlaas, and without it: then nothing is recorded or kept.
"""
import ast
import contextlib
import difflib
import importlib
import inspect
import json
import os
import random
import shutil
import sys
import tempfile
import time

try:
    import mlaas
except ImportError:
    mlaas = None

FILE = "model.py"

# Each function that model.py may have, what it is given, and what it is for.
FUNCTIONS = {
    "define_model": ((), "builds the model and returns it"),
    "setup_train": (("model",), "makes what training needs, such as an optimizer and the data, and returns it"),
    "step_train": (("model", "env"), "trains one step; it returns True to go on or False when training is over"),
    "evaluate": (("model", "env"), "returns what the trained model is measured by, as a dict of numbers"),
    "save": (("model", "env", "folder"), "writes the trained model into a folder"),
}
NEEDED = ("define_model", "setup_train", "step_train")
GO_ON = "return True to go on (or a dict of what was measured) and False when training is over"


def fail(line, text):
    """End the program with one sentence, as an error that needs no traceback:
    the file, the line, what is wrong."""
    sys.stdout.flush()
    sys.exit("ModelError: %s:%d: %s" % (FILE, line, text) if line else "ModelError: %s: %s" % (FILE, text))


class Workflow:
    """The functions of model.py, and what happens around them.

    The run's parameters decide how often a checkpoint is kept: after
    checkpoint_seconds (60), or checkpoint_steps. steps ends the training, if
    step_train does not before.
    """

    def __init__(self):
        self.step = 0
        self.user = self.load()
        self.most = self.parameter("steps", 0)
        self.every_steps = self.parameter("checkpoint_steps", 0)
        self.every_seconds = self.parameter("checkpoint_seconds", 60)
        self.check()
        self.found = mlaas.resume() if mlaas else None
        if self.found:
            self.step = self.found.step
            print("going on from step %d" % self.step, flush=True)
        self.kept, self.kept_at = self.step, time.monotonic()

    # ---- model.py ----

    def load(self):
        self.path = os.path.join(os.path.dirname(os.path.abspath(__file__)), FILE)
        if not os.path.isfile(self.path):
            fail(0, "the file is not there: it has the functions %s" % ", ".join(NEEDED))
        with open(self.path, "rb") as f:
            self.tree = ast.parse(f.read(), self.path)
        return importlib.import_module("model")

    def lines(self):
        """The functions that are written in model.py, by their names."""
        return {n.name: n for n in self.tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}

    def check(self):
        written = self.lines()
        strange = [n for n in written if n not in FUNCTIONS]
        for name, (arguments, does) in FUNCTIONS.items():
            called = "%s(%s)" % (name, ", ".join(arguments))
            f = getattr(self.user, name, None)
            if f is None:
                near = difflib.get_close_matches(name, strange, 1, 0.75)
                if near and name in NEEDED:
                    fail(written[near[0]].lineno, "%s is not known; it must be called %s, which %s" % (near[0], called, does))
                if near:
                    print("%s:%d: %s is never called; if it is to be %s, call it so" % (FILE, written[near[0]].lineno, near[0], called), file=sys.stderr)
                elif name in NEEDED:
                    fail(0, "there is no function %s, which %s" % (called, does))
                continue
            if not callable(f):
                fail(0, "%s is a %s, want a function %s, which %s" % (name, type(f).__name__, called, does))
            line = self.line(name)
            try:
                signature = inspect.signature(f)
                signature.bind(*arguments)
            except TypeError:
                fail(line, "%s%s does not take what it is given: it is called as %s" % (name, signature, called))
            except ValueError:
                pass  # a function of C, which does not say what it takes
            if inspect.isgeneratorfunction(f) or inspect.iscoroutinefunction(f):
                fail(line, "%s has yield or async in it, want a function that returns" % name)
        if isinstance(written.get("step_train"), ast.FunctionDef):
            self.check_end(written["step_train"])

    def check_end(self, f):
        """Whether step_train says when training is over."""
        given = [n.value for n in inner(f) if isinstance(n, ast.Return) and n.value is not None]
        if not given:
            fail(f.lineno, "step_train returns nothing: %s" % GO_ON)
        always = all(isinstance(v, ast.Dict) or isinstance(v, ast.Constant) and v.value is True for v in given)
        leaves = any(isinstance(n, ast.Raise) or isinstance(n, ast.Return) and n.value is None for n in inner(f))
        if always and returns(f.body) and not leaves and not self.most:
            fail(f.lineno, "step_train never says when training is over: return False then, or give the job the parameter steps")

    def line(self, name):
        f = inspect.unwrap(getattr(self.user, name))
        return getattr(getattr(f, "__code__", None), "co_firstlineno", 0)

    def has(self, name):
        return getattr(self.user, name, None) is not None

    # ---- the steps of the workflow ----

    def define_model(self):
        model = self.user.define_model()
        if model is None:
            fail(self.line("define_model"), "define_model returned None, want the model: does it end with return?")
        return model

    def setup_train(self, model):
        return self.user.setup_train(model)

    def step_train(self, model, env):
        """One step. Returns: whether to go on."""
        if self.most and self.step >= self.most:
            return False
        result = self.user.step_train(model, env)
        self.step += 1
        if isinstance(result, dict):
            self.log(result)
            return True
        if result is None or type(result).__name__ in ("bool", "bool_"):
            return bool(result)
        fail(self.line("step_train"), "step_train returned %.80r, which is a %s: %s" % (result, type(result).__name__, GO_ON))

    def evaluate(self, model, env):
        """Record and print what the user's evaluate measures, if there is one."""
        if not self.has("evaluate"):
            return
        result = self.user.evaluate(model, env)
        if not isinstance(result, dict):
            fail(self.line("evaluate"), "evaluate returned %.80r, want a dict such as {\"test_accuracy\": 0.97}" % (result,))
        self.log(result)
        for name, v in result.items():
            print("%s %.4f after %d steps" % (name, float(v), self.step), flush=True)

    def save(self, model, env, otherwise):
        """Write the model to where results are kept: by the user's save, or by otherwise(folder)."""
        folder = mlaas.output if mlaas else os.path.join("mlaas-runs", "output")
        os.makedirs(folder, exist_ok=True)
        if self.has("save"):
            self.user.save(model, env, folder)
        else:
            otherwise(folder)

    # ---- recording and checkpoints ----

    def parameter(self, name, default):
        """A number among the run's parameters; by hand, --name value."""
        if mlaas:
            v = mlaas.params.get(name, default)
        else:
            v = next((b for a, b in zip(sys.argv, sys.argv[1:]) if a == "--" + name.replace("_", "-") or a == "--" + name), default)
        try:
            return float(v)
        except (TypeError, ValueError):
            fail(0, "the parameter %s is %r, want a number" % (name, v))

    def log(self, measured):
        if mlaas:
            mlaas.log(measured, step=self.step)

    def track(self, model, session):
        if mlaas:
            mlaas.track(model, session)

    def due(self):
        """Whether it is time for a checkpoint."""
        if mlaas is None or not mlaas.is_chief:
            return False
        if self.every_steps and self.step - self.kept >= self.every_steps:
            return True
        return bool(self.every_seconds) and time.monotonic() - self.kept_at >= self.every_seconds

    @contextlib.contextmanager
    def checkpoint(self, env):
        """A folder to write a checkpoint into; what is in it then is kept, with
        the numbers and texts in env, and where random numbers stand."""
        folder = tempfile.mkdtemp(prefix="checkpoint-")
        try:
            yield folder
            with open(os.path.join(folder, "workflow.json"), "w", encoding="utf-8") as f:
                json.dump({k: v for k, v in members(env).items() if isinstance(v, (bool, int, float, str))}, f)
            with open(os.path.join(folder, "draws.json"), "w", encoding="utf-8") as f:
                json.dump({k: get() for k, (get, _) in draws(env).items()}, f, default=lambda v: v.tolist())
            if mlaas and mlaas.is_chief:
                mlaas.checkpoint(folder, step=self.step)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.kept, self.kept_at = self.step, time.monotonic()

    def restore(self, env):
        """Give env the numbers and texts that it had, and draw on from where it was. Returns: the folder of the checkpoint."""
        with open(os.path.join(self.found.path, "workflow.json"), encoding="utf-8") as f:
            for k, v in json.load(f).items():
                put(env, k, v)
        path = os.path.join(self.found.path, "draws.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                kept = json.load(f)
            for k, (_, go_on) in draws(env).items():
                if k in kept:
                    go_on(kept[k])
        return self.found.path


def members(env):
    """What env has, by name: the items of a dict, or the attributes of an object."""
    found = env if isinstance(env, dict) else getattr(env, "__dict__", {})
    return {k: v for k, v in found.items() if isinstance(k, str)}


def draws(env):
    """What random numbers are drawn from, by name: how to read where it stands,
    and how to go on from there. Batches that are drawn so are drawn as if there
    had been no break."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    found = {"random": (random.getstate, lambda s: random.setstate((s[0], tuple(s[1]), s[2])))}
    if numpy:
        found["numpy"] = lambda: numpy.random.get_state(legacy=False), numpy.random.set_state
    if torch:
        found["torch"] = torch.get_rng_state, lambda s: torch.set_rng_state(torch.tensor(s, dtype=torch.uint8))

    def add(name, v):
        if isinstance(v, random.Random):
            found[name] = v.getstate, lambda s: v.setstate((s[0], tuple(s[1]), s[2]))
        elif numpy and isinstance(v, numpy.random.RandomState):
            found[name] = lambda: v.get_state(legacy=False), v.set_state
        elif numpy and isinstance(v, numpy.random.Generator):
            found[name] = lambda: v.bit_generator.state, lambda s: setattr(v.bit_generator, "state", s)
        elif torch and isinstance(v, torch.Generator) and v.device.type == "cpu":
            found[name] = v.get_state, lambda s: v.set_state(torch.tensor(s, dtype=torch.uint8))

    for name, v in members(env).items():
        add("env." + name, v)
    return found


def put(env, name, v):
    if isinstance(env, dict):
        env[name] = v
    else:
        setattr(env, name, v)


def inner(f):
    """The nodes of a function, without those of functions inside it."""
    todo = list(f.body)
    while todo:
        n = todo.pop()
        yield n
        if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(n))


def returns(body):
    """Whether a block always ends with return, so that it cannot give None besides."""
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and returns(last.body) and returns(last.orelse)
    if isinstance(last, (ast.With, ast.AsyncWith)):
        return returns(last.body)
    return isinstance(last, ast.Return)
