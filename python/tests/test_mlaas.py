"""What the package promises, seen from the supervisor's end of the socket and
from the folder that is written by hand."""
import ast
import glob
import json
import os
import signal
import sys
import time

import pytest
from conftest import PACKAGE

SOURCES = sorted(glob.glob(os.path.join(PACKAGE, "mlaas", "**", "*.py"), recursive=True))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: os.path.relpath(path, PACKAGE))
def test_reads_as_python_3_8(path):
    with open(path) as f:
        ast.parse(f.read(), feature_version=(3, 8))


@pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python does not say what its standard library is")
def test_has_no_dependencies():
    for path in SOURCES:
        allowed = set(sys.stdlib_module_names) | {"mlaas"} | guests(path)
        with open(path) as f:
            for node in ast.walk(ast.parse(f.read())):
                if isinstance(node, ast.Import):
                    assert {a.name.split(".")[0] for a in node.names} <= allowed, path
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    assert node.module.split(".")[0] in allowed, path


def guests(path):
    """What a file may import besides: what the program has imported when it runs, or what it does without."""
    if "_spread" in path:
        return {"jax", "keras", "numpy", "tensorflow", "torch"}
    return {"matplotlib.py": {"matplotlib"}, "parameters.py": {"omegaconf"}, "_debug.py": {"debugpy"}, "_evaluate.py": {"numpy"},
            "_kernel.py": {"ipykernel", "jupyter_client"}}.get(os.path.basename(path), set())


def test_imports_nothing_heavy(program):
    out = program("import sys, mlaas; print([m for m in ('numpy', 'torch', 'tensorflow', 'socket', 'json') if m in sys.modules])").stdout
    assert out.strip() in ("[]", "['json']"), out


def test_points_arrive_in_order(supervisor, program):
    program("import mlaas\nfor i in range(5000): mlaas.log({'loss': 1.0 / (i + 1), 'n': i}, step=i)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: len(s.points()) >= 10000)
    points = supervisor.points()
    assert [p[1] for p in points if p[0] == "n"] == list(range(5000))
    assert [p[3] for p in points if p[0] == "n"] == list(range(5000))
    key, step, ms, v = points[0]
    assert (key, step, v) == ("loss", 0, 1.0) and abs(ms / 1000 - time.time()) < 60
    assert supervisor.all("dropped") == []


@pytest.mark.parametrize(
    "metrics, want",
    [
        ("{'a': float('nan'), 'b': float('inf'), 'c': -float('inf')}", [["a", "NaN"], ["b", "Infinity"], ["c", "-Infinity"]]),
        ("{'a': True, 'b': 10**400, 'c': 2}", [["a", 1.0], ["c", 2.0]]),
        ("{'val': {'loss': 1, 'acc': 0.5}}", [["val/loss", 1.0], ["val/acc", 0.5]]),
        ("{'a': 'text', 'b': None, 'c': [1, 2], 'd': 3, 4: 5}", [["d", 3.0], ["4", 5.0]]),
        ("{'a': type('T', (), {'__float__': lambda s: 2.5})()}", [["a", 2.5]]),
        ("{'a': type('T', (), {'__float__': lambda s: 1 / 0})(), 'b': 1}", [["b", 1.0]]),
    ],
)
def test_values(supervisor, program, metrics, want):
    done = program("import mlaas\nmlaas.log(%s, step=7)\nmlaas.log({'end': 1})" % metrics, {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: any(p[0] == "end" for p in s.points()))
    assert [[p[0], p[3]] for p in supervisor.points() if p[0] != "end"] == want
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("call", ["mlaas.log(None)", "mlaas.log(3)", "mlaas.log({}, step='x')", "mlaas.log({'a': 1}, step=object())", "mlaas.track(object())", "mlaas.track(None, None)", "mlaas.checkpoint('nowhere', step=1)", "mlaas.checkpoint('.', step='x')"])
def test_never_raises(supervisor, program, call):
    done = program("import warnings; warnings.simplefilter('error')\nimport mlaas\n%s\n%s\nmlaas.log({'end': 1}, step=1)" % (call, call), {"MLAAS_SOCKET": supervisor.path, "MLAAS_CHECKPOINTS": os.path.dirname(supervisor.path)})
    supervisor.wait(lambda s: any(p[0] == "end" for p in s.points()))
    assert done.stderr.count("mlaas:") <= 1, "said once: " + done.stderr


def test_messages_have_a_bound(supervisor, program):
    program("import mlaas\nm = {('k%04d' % i) * 40: i for i in range(3000)}\nm['x' * 1000] = 1\nfor i in range(3): mlaas.log(m, step=i)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: len(s.points()) == 9000)
    assert max(len(json.dumps(m)) for m in supervisor.messages) < 1 << 20


def test_steps_count_by_themselves(supervisor, program):
    program("import mlaas\nmlaas.log({'a': 1})\nmlaas.log({'a': 1})\nmlaas.log({'a': 1}, step=10)\nmlaas.log({'a': 1})", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: len(s.points()) == 4)
    assert [p[1] for p in supervisor.points()] == [0, 1, 10, 11]


def test_steps_go_on_after_resume(supervisor, program):
    program("import mlaas\nmlaas.log({'a': 1})", {"MLAAS_SOCKET": supervisor.path, "MLAAS_RESUME_STEP": "500"})
    supervisor.wait(lambda s: s.points())
    assert supervisor.points()[0][1] == 501


def test_metrics_may_change_after_log(supervisor, program):
    program("import mlaas\nm = {'a': 1}\nmlaas.log(m, step=1)\nm['a'] = 2\nm['b'] = 3\nmlaas.log(m, step=2)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: len(s.points()) == 3)
    assert [p[::3] for p in supervisor.points()] == [["a", 1.0], ["a", 2.0], ["b", 3.0]]


def test_numpy_is_read_at_once(supervisor, program):
    pytest.importorskip("numpy")
    program(
        "import mlaas, numpy as np\na = np.zeros(())\nmlaas.log({'a': a, 'b': np.float32(0.5), 'c': np.ones((1, 1)), 'd': np.ones(3)}, step=np.int64(4))\na += 9",
        {"MLAAS_SOCKET": supervisor.path},
    )
    supervisor.wait(lambda s: len(s.points()) == 3)
    assert [p[:2] + p[3:] for p in supervisor.points()] == [["a", 4, 0.0], ["b", 4, 0.5], ["c", 4, 1.0]]


def test_log_costs_little_and_never_waits(program, tmp_path):
    # Nobody listens: the worst case. The queue fills, and the rest is counted.
    out = program(
        "import mlaas, time\nmlaas.log({'a': 1}, step=0)\nm = {'loss': 0.5, 'acc': 0.25}\n"
        "t, c = time.perf_counter(), time.process_time()\n"
        "for i in range(200000): mlaas.log(m, step=i)\n"
        "from mlaas import _log\n"
        "print((time.perf_counter() - t) / 200000 * 1e6, _log._recorder.dropped, len(_log._recorder.queue))\n",
        {"MLAAS_SOCKET": str(tmp_path / "nobody")},
    )
    us, dropped, waiting = out.stdout.split()
    assert float(us) < 50, "microseconds a call"
    assert int(dropped) >= 90000 and int(waiting) <= 100000
    assert "Traceback" not in out.stderr


def test_the_end_waits_at_most_five_seconds(program, tmp_path):
    start = time.monotonic()
    program("import mlaas\nmlaas.log({'a': 1})", {"MLAAS_SOCKET": str(tmp_path / "nobody")})
    assert time.monotonic() - start < 7


def test_supervisor_comes_back(supervisor, program):
    program(
        "import mlaas, os, sys, time\nmlaas.log({'a': 1}, step=1); assert mlaas.flush(5)\n"
        "os.rename(os.environ['MLAAS_SOCKET'], 'away')\n"
        "mlaas.log({'a': 2}, step=2)\nprint(mlaas.flush(5))\nos.rename('away', os.environ['MLAAS_SOCKET'])\nmlaas.log({'a': 3}, step=3)",
        {"MLAAS_SOCKET": supervisor.path},
    )
    supervisor.wait(lambda s: len(s.points()) == 3)
    assert [p[1] for p in supervisor.points()] == [1, 2, 3]


def test_connection_lost_midway_loses_nothing_that_waits(supervisor, program):
    import threading

    def cut():
        supervisor.wait(lambda s: s.points())
        for c in supervisor.conns:
            c.close()

    threading.Thread(target=cut, daemon=True).start()
    program("import mlaas, time\nfor i in range(100): mlaas.log({'a': i}, step=i); time.sleep(0.01)\nassert mlaas.flush(5)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: any(p[1] == 99 for p in s.points()))
    got = [p[1] for p in supervisor.points()]
    assert len(got) > 50 and got == sorted(got)


def test_a_long_path_is_reached(tmp_path, program):
    import conftest

    folder = tmp_path / ("x" * 60) / ("y" * 60)
    os.makedirs(str(folder))
    os.chdir(str(folder))
    s = conftest.Supervisor("s")
    try:
        program("import mlaas\nmlaas.log({'a': 1}, step=1)", {"MLAAS_SOCKET": str(folder / "s")})
        s.wait(lambda s: len(s.points()) == 1)
    finally:
        s.go_away()
        os.chdir(PACKAGE)


def test_dropped_values_are_counted(supervisor, program):
    program("import mlaas\nfrom mlaas import _log\n_log.LIMIT = 10\nfor i in range(1000): mlaas.log({'a': i}, step=i)", {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: s.all("dropped"))
    assert sum(supervisor.all("dropped")) + len(supervisor.points()) == 1000


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_fork(supervisor, program, way):
    code = {
        "os.fork": "import os\npid = os.fork()\nif pid == 0:\n  mlaas.log({'child': 1}, step=1); mlaas.flush(5); os._exit(0)\nos.waitpid(pid, 0)\n",
        "multiprocessing": "import multiprocessing as m\nc = m.get_context('fork').Process(target=lambda: mlaas.log({'child': 1}, step=1)); c.start(); c.join()\n",
    }[way]
    program("import mlaas\nmlaas.log({'before': 1}, step=0)\n%smlaas.log({'after': 1}, step=2)" % code, {"MLAAS_SOCKET": supervisor.path})
    supervisor.wait(lambda s: len(s.points()) >= 3)
    assert sorted(p[0] for p in supervisor.points()) == ["after", "before", "child"], "each exactly once"


def test_a_killed_program_loses_little(supervisor, program):
    program("import mlaas, os, time\nmlaas.log({'a': 1}, step=1)\nmlaas.flush(5)\nos.kill(os.getpid(), %d)" % signal.SIGKILL, {"MLAAS_SOCKET": supervisor.path}, check=False)
    supervisor.wait(lambda s: len(s.points()) == 1)


def test_threads(supervisor, program):
    program(
        "import mlaas, threading\nts = [threading.Thread(target=lambda k=k: [mlaas.log({'t%d' % k: i}, step=i) for i in range(500)]) for k in range(8)]\n[t.start() for t in ts]; [t.join() for t in ts]",
        {"MLAAS_SOCKET": supervisor.path},
    )
    supervisor.wait(lambda s: len(s.points()) == 4000)


# ---- by hand ----


def runs(tmp_path):
    return sorted(glob.glob(str(tmp_path / "mlaas-runs" / "*")))


def test_by_hand(program, tmp_path):
    os.makedirs(str(tmp_path / "data" / "mnist"))
    done = program(
        "import mlaas\nassert mlaas.resume() is None\nassert mlaas.is_chief and (mlaas.rank, mlaas.world_size, mlaas.role) == (0, 1, 'worker')\n"
        "assert mlaas.params.lr == 0.1 and mlaas.config['batch_size'] == 50 and mlaas.params.get('deep') is True and mlaas.params.get('no', 3) == 3\n"
        "mlaas.log({'loss': float('nan')}, step=3)\nmlaas.params.layers = 2\nopen('model.bin', 'w').write('x')\n"
        "assert mlaas.checkpoint('model.bin', step=3)\nmlaas.data('mnist')\nopen(mlaas.output + '/r.txt', 'w').write('y')\n",
        args=["--lr", "0.1", "--batch-size=50", "--deep"],
    )
    (run,) = runs(tmp_path)
    with open(run + "/metrics.jsonl") as f:
        (line,) = [json.loads(x) for x in f]
    assert (line["key"], line["step"], line["value"]) == ("loss", 3, "NaN")
    with open(run + "/params.json") as f:
        assert json.load(f) == {"lr": 0.1, "batch_size": 50, "deep": True, "layers": 2}
    assert os.path.exists(run + "/checkpoints/step-3/model.bin")
    assert os.path.exists(run + "/output/r.txt")
    assert "mlaas-runs" in done.stderr


def test_by_hand_resumes(program, tmp_path):
    os.makedirs(str(tmp_path / "c" / "step-120"))
    out = program("import mlaas; r = mlaas.resume(); print(r.step, r.path)", {"MLAAS_RESUME": "c/step-120"}).stdout
    assert out == "120 c/step-120\n"


def test_two_programs_get_two_folders(program, tmp_path):
    for _ in range(3):
        program("import mlaas; mlaas.log({'a': 1})")
    assert len(runs(tmp_path)) == 3


def test_nowhere_to_write(program, tmp_path):
    (tmp_path / "mlaas-runs").write_text("in the way")
    done = program("import mlaas\nfor i in range(100): mlaas.log({'a': i})\nmlaas.flush(1)\nprint('goes on')")
    assert done.stdout == "goes on\n" and done.stderr.count("mlaas:") == 1, done.stderr


def test_off(program, tmp_path):
    program("import mlaas\nmlaas.log({'a': 1}); mlaas.checkpoint('x', step=1); assert mlaas.flush(1)", {"MLAAS_OFF": "1"})
    assert runs(tmp_path) == []


@pytest.mark.parametrize(
    "env, want",
    [
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4, False, "worker")),
        ({"MLAAS_ROLE": "ps", "MLAAS_INDEX": "0", "WORLD_SIZE": "4"}, (-1, 4, False, "ps")),
        ({"MLAAS_ROLE": "chief", "RANK": "0", "WORLD_SIZE": "3"}, (0, 3, True, "chief")),
        ({"TF_CONFIG": json.dumps({"cluster": {"ps": ["a:1"], "chief": ["b:1"], "worker": ["c:1", "d:1"]}, "task": {"type": "worker", "index": 1}})}, (2, 3, False, "worker")),
        ({"TF_CONFIG": json.dumps({"cluster": {"ps": ["a:1"], "worker": ["c:1", "d:1"]}, "task": {"type": "worker", "index": 0}})}, (0, 2, True, "worker")),
        ({"TF_CONFIG": json.dumps({"cluster": {"ps": ["a:1"], "worker": ["c:1"]}, "task": {"type": "ps", "index": 0}})}, (-1, 1, False, "ps")),
        ({"TF_CONFIG": "{"}, (0, 1, True, "worker")),
    ],
)
def test_who_am_i(program, env, want):
    out = program("import mlaas; print((mlaas.rank, mlaas.world_size, mlaas.is_chief, mlaas.role))", env).stdout
    assert out.strip() == repr(want)


def test_params_on_the_platform(supervisor, program):
    code = "import mlaas\nassert dict(mlaas.params) == {'lr': 0.1, 'name': 'x', 'on': True, 'sizes': [1, 2]}, mlaas.params\nmlaas.params['extra'] = 1"
    program(code, {"MLAAS_SOCKET": supervisor.path, "MLAAS_PARAM_LR": "0.1", "MLAAS_PARAM_NAME": "x", "MLAAS_PARAM_ON": "true", "MLAAS_PARAM_SIZES": "[1, 2]"})
    supervisor.wait(lambda s: s.all("params"))
    assert supervisor.all("params") == [{"extra": 1}]


def test_missing_data_says_how_to_mend_it(program):
    done = program("import mlaas; mlaas.data('mnist')", check=False)
    assert "there is no data named 'mnist'" in done.stderr and "MLAAS_DATA" in done.stderr


# ---- checkpoints ----


def checkpointing(supervisor, tmp_path):
    os.makedirs(str(tmp_path / "ck"), exist_ok=True)
    return {"MLAAS_SOCKET": supervisor.path, "MLAAS_CHECKPOINTS": str(tmp_path / "ck")}


def test_checkpoint_is_a_whole_copy(supervisor, program, tmp_path):
    program(
        "import mlaas, os\nos.makedirs('m/sub')\nopen('m/a', 'w').write('1')\nopen('m/sub/b', 'w').write('2')\n"
        "mlaas.log({'acc': 0.5}, step=5)\nmlaas.checkpoint('m', step=5, best='acc')\nopen('m/a', 'w').write('changed in place')\nmlaas.checkpoint('m', step=5)",
        checkpointing(supervisor, tmp_path),
    )
    supervisor.wait(lambda s: len(s.all("checkpoint")) == 2)
    assert list(supervisor.messages[0]) == ["points"], "what came before a checkpoint is said before it"
    first, second = supervisor.all("checkpoint")
    assert first["step"] == 5 and first["best"] == "acc" and second["best"] is None
    assert first["path"] != second["path"] and os.path.dirname(first["path"]) == str(tmp_path / "ck")
    with open(first["path"] + "/a") as f:
        assert f.read() == "1"
    with open(first["path"] + "/sub/b") as f:
        assert f.read() == "2"
    assert [n for n in os.listdir(str(tmp_path / "ck")) if n.startswith(".tmp")] == []


def test_checkpoint_of_a_tensorflow_prefix(supervisor, program, tmp_path):
    program(
        "import mlaas\nfor n in ['model-7.index', 'model-7.data-00000-of-00001', 'model-70.index']: open(n, 'w').write(n)\nmlaas.checkpoint('model-7', step=7)",
        checkpointing(supervisor, tmp_path),
    )
    supervisor.wait(lambda s: s.all("checkpoint"))
    path = supervisor.all("checkpoint")[0]["path"]
    assert sorted(os.listdir(path)) == ["checkpoint", "model-7.data-00000-of-00001", "model-7.index"]
    with open(path + "/checkpoint") as f:
        assert f.read() == 'model_checkpoint_path: "model-7"\n'


def test_checkpoint_that_cannot_be_kept(supervisor, program, tmp_path):
    done = program("import mlaas, os\nos.makedirs('empty')\nprint(mlaas.checkpoint('empty', step=1), mlaas.checkpoint('none', step=1))", checkpointing(supervisor, tmp_path))
    assert done.stdout == "None None\n"
    assert "was not kept" in done.stderr
    assert os.listdir(str(tmp_path / "ck")) == []


def test_resume_on_the_platform(program, tmp_path):
    os.makedirs(str(tmp_path / "r"))
    out = program("import mlaas; print(*mlaas.resume())", {"MLAAS_RESUME": str(tmp_path / "r"), "MLAAS_RESUME_STEP": "77"}).stdout
    assert out.split() == [str(tmp_path / "r"), "77"]
    done = program("import mlaas; print(mlaas.resume())", {"MLAAS_RESUME": str(tmp_path / "gone"), "MLAAS_RESUME_STEP": "77"})
    assert done.stdout == "None\n" and "starting afresh" in done.stderr


def test_examples_share_one_reader():
    base = os.path.join(os.path.dirname(PACKAGE), "examples")
    with open(base + "/mnist-ps/mnist.py") as a, open(base + "/mnist-single/mnist.py") as b:
        assert a.read() == b.read()


def test_versions_agree(program):
    with open(os.path.join(PACKAGE, "pyproject.toml")) as f:
        (version,) = [line.split('"')[1] for line in f if line.startswith("version")]
    assert program("import mlaas; print(mlaas.__version__)").stdout.strip() == version


assert sys.version_info >= (3, 8)
