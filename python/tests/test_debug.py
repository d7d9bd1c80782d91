"""What a program lets others see: stacks, a debugger, variables of a failure."""
import json
import os
import signal
import subprocess
import sys

import pytest

from mlaas import _debug, _look

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOCKET = "/nowhere/%d" % os.getpid()  # tells the programs of this test from others
LOOK = os.path.join(PACKAGE, "mlaas", "_look.py")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


@pytest.fixture
def start(tmp_path):
    """Starts a program that others may look into, and waits until it says
    ready."""
    started = []

    def begin(code, env=None):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLAAS_")}
        clean.update(PYTHONPATH=os.pathsep.join([os.path.join(PACKAGE, "mlaas", "_site"), PACKAGE]), PYTHONDONTWRITEBYTECODE="1", MLAAS_DEBUG="1", MLAAS_SOCKET=SOCKET, **(env or {}))
        (tmp_path / "main.py").write_text(code)
        p = subprocess.Popen([sys.executable, "main.py"], cwd=str(tmp_path), env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        started.append(p)
        if "ready" in code:
            assert p.stdout.readline() == "ready\n", p.stderr.read()
        return p

    yield begin
    for p in started:
        p.kill()
        p.communicate()


def look(what, pid):
    done = subprocess.run([sys.executable, "-I", "-S", "-B", LOOK, what], env={"MLAAS_SOCKET": SOCKET}, cwd="/proc/%d/cwd" % pid, stdout=subprocess.PIPE, check=True, timeout=60)
    answer = json.loads(done.stdout.decode())
    if what == "stacks":
        answer = answer["processes"]
        assert pid in [p["pid"] for p in answer]
    return answer


HANGS = """
import threading

lock = threading.Lock()

def wait():
    with lock:
        pass

def hang():
    lock.acquire()
    threading.Thread(target=wait, name="second", daemon=True).start()
    print("ready", flush=True)
    lock.acquire()

hang()
"""


def test_stacks_of_a_program_that_hangs(start):
    p = start(HANGS)
    for _ in range(3):  # as often as one likes
        (found,) = look("stacks", p.pid)
        assert found["error"] == "" and found["command"][1] == "main.py"
        assert len(found["threads"]) == 2
        frames = {t["frames"][0]["function"]: t["frames"] for t in found["threads"]}
        assert [(f["function"], f["line"], f["text"]) for f in frames["hang"]] == [("hang", 14, "lock.acquire()"), ("<module>", 16, "hang()")]
        assert frames["wait"][0]["line"] == 7
        assert [t["current"] for t in found["threads"]].count(True) == 1
    assert p.poll() is None and p.stderr is not None


def test_stacks_while_it_is_in_c(start):
    p = start("import time\ndef f():\n    print('ready', flush=True)\n    sum(iter(int, 1))\nf()\n")
    (found,) = look("stacks", p.pid)
    assert [(f["function"], f["line"]) for f in found["threads"][0]["frames"]] == [("f", 4), ("<module>", 5)]


def test_stacks_of_children(start):
    p = start("import os, sys, time\nif os.fork():\n    print('ready', flush=True)\n    os.wait()\nelse:\n    time.sleep(600)\n")
    lines = {t["frames"][0]["line"] for q in look("stacks", p.pid) for t in q["threads"]}
    with open("/proc/%d/task/%d/children" % (p.pid, p.pid)) as f:
        child = int(f.read())
    os.kill(child, signal.SIGKILL)
    assert lines == {4, 6}


def test_a_program_goes_on(start):
    """The signals are nothing to it: it neither ends nor sees an error."""
    p = start("import sys\nprint('ready', flush=True)\nline = sys.stdin.readline()\nprint('got', line, end='')\n")
    for _ in range(5):
        assert len(look("stacks", p.pid)) == 1
    os.kill(p.pid, signal.SIGWINCH)
    out, wrong = p.communicate("it\n", timeout=60)
    assert (out, wrong, p.returncode) == ("got it\n", "", 0)


def test_its_own_signals_are_left_alone(start):
    p = start("import os, signal\nsignal.signal(signal.SIGURG, lambda *a: print('mine'))\nprint('ready', flush=True)\nos.kill(os.getpid(), signal.SIGURG)\nimport time\nprint('on', flush=True)\ntime.sleep(600)\n")
    assert p.stdout.readline() == "mine\n" and p.stdout.readline() == "on\n"


def test_threads():
    text = ('Thread 0x00007f01 [worker] (most recent call first):\n  File "a.py", line 3 in f\n  File "b.py", line ??? in <module>\n\n'
            'Current thread 0x00007f02 (most recent call first):\n  <no Python frame>\n')
    assert _look.threads(text) == [
        {"id": "0x7f01", "name": "worker", "current": False, "frames": [{"file": "a.py", "line": 3, "function": "f", "text": ""}, {"file": "b.py", "line": 0, "function": "<module>", "text": ""}]},
        {"id": "0x7f02", "name": "", "current": True, "frames": []}]


def test_a_real_debugger(start):
    """debugpy itself: it answers as the debug adapter protocol has it."""
    pytest.importorskip("debugpy")
    import socket

    p = start("import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nprint('on')\n")
    answer = look("debugger", p.pid)
    assert answer["error"] == "", answer
    with socket.create_connection(("127.0.0.1", answer["port"]), timeout=30) as s:
        ask = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "mlaas"}}).encode()
        s.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(ask), ask))
        heard = b""
        while b'"command": "initialize"' not in heard:
            more = s.recv(65536)
            assert more, heard
            heard += more
    assert b'"success": true' in heard
    out, _ = p.communicate("go\n", timeout=60)
    assert out == "on\n"


def test_a_debugger_without_debugpy(start):
    p = start("import sys; sys.modules['debugpy'] = None\nprint('ready', flush=True)\nsys.stdin.readline()\n")
    answer = look("debugger", p.pid)
    assert answer == {"port": 0, "pid": p.pid, "error": "its environment has no debugpy; add it to environment.packages and run again"}


def test_a_debugger(start, tmp_path):
    """debugpy as far as it is called: it listens where it is told."""
    (tmp_path / "debugpy.py").write_text("import socket\ndef listen(at):\n    global s\n    s = socket.create_server(at)\n    return s.getsockname()\n")
    p = start("import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n", {"PYTHONSAFEPATH": ""})
    answer = look("debugger", p.pid)
    assert answer["error"] == "" and answer["port"] > 0
    assert look("debugger", p.pid) == answer, "it listens once"
    import socket

    socket.create_connection(("127.0.0.1", answer["port"]), timeout=10).close()


def test_a_debugger_where_nobody_answers(start, monkeypatch):
    p = start("print('ready', flush=True)\nsum(iter(int, 1))\n")
    monkeypatch.setattr(_look, "PATIENCE", 0.2)
    monkeypatch.setenv("MLAAS_SOCKET", SOCKET)
    answer = _look.debugger()
    assert answer["pid"] == p.pid and answer["port"] == 0 and "does not come back to Python" in answer["error"]


FAILS = """
import os, sys

class Model:
    def __repr__(self):
        return "Model(" + os.environ["KEY"] + ")"

class Bad:
    def __repr__(self):
        1 / 0

def train(x, password):
    model, bad, big, long = Model(), Bad(), list(range(1000)), "y" * 10000
    quoted = {"k": os.environ["KEY"], "n": [1, 2]}
    raise ValueError("x is %d" % x)

def main():
    rate = 0.1
    train(3, "hunter2")

main()
"""


def test_locals(start):
    p = start(FAILS, {"MLAAS_LOCALS": "1", "MLAAS_SECRETS": "KEY,OTHER", "KEY": "s3cr'et\\value"})
    _, wrong = p.communicate(timeout=60)
    head, _, shown = wrong.partition("Local variables where it failed, innermost last:\n")
    assert head.endswith("ValueError: x is 3\n")
    lines = shown.splitlines()
    assert "  main.py:19 in main" in lines and "    rate = 0.1" in lines
    inner = lines[lines.index("  main.py:15 in train"):]
    assert inner[1:] == ["    x = 3", "    password = <masked>", "    model = Model(<masked>)", "    bad = <its repr raised ZeroDivisionError>",
                         "    big = list of 1000", "    long = '" + "y" * 199 + "...", "    quoted = {'k': \"<masked>\", 'n': [1, 2]}"]
    assert "s3cr" not in wrong and "hunter2" not in wrong.replace('"hunter2"', "")


def test_locals_of_a_thread(start):
    p = start("import threading\ndef f(a):\n    raise KeyError(a)\nt = threading.Thread(target=f, args=(7,))\nt.start()\nt.join()\n", {"MLAAS_LOCALS": "1"})
    _, wrong = p.communicate(timeout=60)
    assert "  main.py:3 in f\n    a = 7\n" in wrong


def test_locals_that_take_for_ever(start):
    p = start("import time\nclass Slow:\n    def __repr__(self):\n        time.sleep(600)\na = 1\nslow = Slow()\n1 / 0\n", {"MLAAS_LOCALS": "1"})
    _, wrong = p.communicate(timeout=60)
    assert "    a = 1\n    (the rest took longer than 5 s)\n" in wrong and p.returncode == 1


def test_no_locals_unless_asked(start):
    p = start(FAILS, {"KEY": "x"})
    _, wrong = p.communicate(timeout=60)
    assert "Local variables" not in wrong and wrong.endswith("ValueError: x is 3\n")


def test_own():
    here = os.path.join(os.getcwd(), "main.py")
    assert _debug.own(here) and _debug.own("main.py")
    assert not _debug.own("/usr/lib/python3/json.py") and not _debug.own("<frozen importlib>") and not _debug.own(os.path.join(os.getcwd(), "site-packages", "x.py"))
