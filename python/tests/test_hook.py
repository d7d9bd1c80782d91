"""How tracking gets into a program that does not know of it, and that it
breaks none."""
import os

import pytest
from conftest import SITE

SAYS = "print('epoch 3 loss=0.12')\n"  # what is tracked in a program of no framework


def write(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / (name + ".py")).write_text(text)


def found(supervisor, n=1):
    supervisor.wait(lambda s: len(s.points()) >= n)
    return [[p[0], p[1], p[3]] for p in supervisor.points()]


SPAWN = "import multiprocessing as m\nimport said\nif __name__ == '__main__':\n    c = m.get_context(%r).Process(target=said.say); c.start(); c.join(); assert c.exitcode == 0\n"


@pytest.mark.parametrize(
    "args, main",
    [
        (["main.py"], SAYS),
        (["-m", "main"], SAYS),
        (["-c", SAYS], ""),
        (["main.py"], "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'], check=True)"),
        (["main.py"], SPAWN % "spawn"),
        (["main.py"], SPAWN % "fork"),
        (["main.py"], "import os\npid = os.fork()\nif pid == 0:\n    import said, mlaas; said.say(); mlaas.flush(5); os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0"),
    ],
)
def test_ways_to_run(tmp_path, python, supervisor, args, main):
    write(tmp_path, main=main, child=SAYS, said="def say():\n    " + SAYS)
    assert "epoch 3 loss=0.12\n" in python(*args).stdout or "fork()" in main
    assert found(supervisor) == [["loss", 3, 0.12]]


@pytest.mark.parametrize(
    "args, env",
    [(["-S", "main.py"], {}), (["-I", "main.py"], {}), (["main.py"], {"MLAAS_OFF": "1"}), (["main.py"], {"MLAAS_HOOKS": "0"}), (["main.py"], {"MLAAS_HOOKS": ""})],
)
def test_where_nothing_happens(tmp_path, python, supervisor, args, env):
    write(tmp_path, main=SAYS + "import builtins\nassert type(print) is type(len), print\n")
    done = python(*args, env=env)
    assert done.stdout == "epoch 3 loss=0.12\n" and done.stderr == ""
    assert supervisor.messages == []


def test_another_sitecustomize_runs_too(tmp_path, python, supervisor):
    os.makedirs(str(tmp_path / "own"))
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys\nsys.own = __name__, __file__\n")
    write(tmp_path, main="import sys\nassert sys.own[0] == 'sitecustomize' and 'own' in sys.own[1]\nassert sys.modules['sitecustomize'].__file__ == sys.own[1]\n" + SAYS)
    python("main.py", env={"PYTHONPATH": SITE + os.pathsep + str(tmp_path / "own")})
    assert found(supervisor) == [["loss", 3, 0.12]]


def test_one_that_fails_is_said_as_python_says_it(tmp_path, python):
    os.makedirs(str(tmp_path / "own"))
    (tmp_path / "own" / "sitecustomize.py").write_text("1 / 0\n")
    write(tmp_path, main="print('goes on')")
    done = python("main.py", env={"PYTHONPATH": SITE + os.pathsep + str(tmp_path / "own")})
    assert done.stdout == "goes on\n" and "ZeroDivisionError" in done.stderr and "sitecustomize" in done.stderr


def test_a_body_that_raises_is_said_once(tmp_path, python):
    write(
        tmp_path,
        thing="value = 1\n",
        main="from mlaas import _hook\n@_hook.on_import('thing')\ndef broken(module): 1 / 0\nimport thing, importlib\nimportlib.reload(thing)\nprint(thing.value)\n",
    )
    done = python("main.py")
    assert done.stdout == "1\n" and done.stderr.count("mlaas:") == 1 and "ZeroDivisionError" in done.stderr


def test_bodies(tmp_path, python):
    """A body sees the whole module, in the order of imports, also when it is
    registered late; and the module looks as if nobody had been there."""
    os.makedirs(str(tmp_path / "package"))
    (tmp_path / "package" / "__init__.py").write_text("from . import inner\ndone = True\n")
    (tmp_path / "package" / "inner.py").write_text("import sys\nassert type(__loader__).__name__ == type(__spec__.loader).__name__ == 'SourceFileLoader', __loader__\nx = 1\n")
    (tmp_path / "package" / "data.txt").write_text("data")
    write(
        tmp_path,
        main="import sys, inspect, pkgutil\nfrom mlaas import _hook\nseen = []\n"
        "for name in ('package.inner', 'package', 'missing'):\n"
        "    _hook.on_import(name)(lambda module: seen.append((module.__name__, sorted(n for n in vars(module) if n in ('x', 'done')))))\n"
        "import package\n"
        "_hook.on_import('package')(lambda module: seen.append('late'))\n"
        "assert seen == [('package.inner', ['x']), ('package', ['done']), 'late'], seen\n"
        "assert type(package.__loader__).__name__ == type(package.__spec__.loader).__name__ == 'SourceFileLoader'\n"
        "assert 'done = True' in inspect.getsource(package) and pkgutil.get_data('package', 'data.txt') == b'data'\n"
        "import importlib; importlib.reload(package); assert seen[3:] == [('package', ['done']), 'late'], seen\n"
        "try:\n    import missing\nexcept ModuleNotFoundError as e: assert e.name == 'missing'\nelse: assert False\n",
    )
    done = python("main.py")
    assert done.stderr == ""


def test_a_module_that_fails_to_import_fails_as_before(tmp_path, python):
    write(tmp_path, bad="1 / 0\n", main="from mlaas import _hook\n_hook.on_import('bad')(print)\ntry:\n    import bad\nexcept ZeroDivisionError: print('as before')\nimport sys; assert 'bad' not in sys.modules")
    assert python("main.py").stdout == "as before\n"


def test_two_finders_that_ask_each_other(tmp_path, python):
    write(
        tmp_path,
        thing="value = 1\n",
        main="import sys, importlib.util\nfrom mlaas import _hook\n"
        "class Asks:\n    busy = False\n    def find_spec(self, name, path=None, target=None):\n        if self.busy: return None\n        self.busy = True\n"
        "        try: return importlib.util.find_spec(name)\n        finally: self.busy = False\n"
        "sys.meta_path.insert(0, Asks())\nseen = []\n_hook.on_import('thing')(seen.append)\nimport thing\nassert seen == [thing], seen\n",
    )
    python("main.py")


def test_import_costs_little(tmp_path, python):
    """CPU time of our part of starting Python: at most 50 ms. The least of
    several: what else runs on this machine is not ours."""
    write(tmp_path, main="import time; print(time.process_time())")

    def least(**env):
        return min(float(python("main.py", env=dict(env, PYTHONDONTWRITEBYTECODE="")).stdout) for _ in range(5))

    least()  # writes the compiled files
    assert least() - least(MLAAS_HOOKS="0") <= 0.050


def test_printed_functions_stay_what_they_are(tmp_path, python):
    write(
        tmp_path,
        main="import pickle, io, contextlib, inspect\nassert pickle.loads(pickle.dumps(print)) is print\n"
        "out = io.StringIO()\nprint('loss: 0.5', 1, sep='-', end='!', file=out, flush=True); assert out.getvalue() == 'loss: 0.5-1!'\n"
        "with contextlib.redirect_stdout(out): print('x')\nassert out.getvalue().endswith('!x\\n')\n"
        "try: print(nothing=1)\nexcept TypeError: pass\nelse: assert False\n"
        "class Bad:\n    def __str__(self): raise ValueError('mine')\n"
        "try: print(Bad())\nexcept ValueError as e: assert str(e) == 'mine'\n",
    )
    assert python("main.py").stderr == ""
