"""The kernel of a job, with a real IPython: what it says, and what it does when
what it runs dies."""
import array
import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("ipykernel")

KERNEL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "mlaas", "_kernel.py")
PATIENCE = 60.0


class Kernel:
    """A kernel as the supervisor has it."""

    def __init__(self, folder, **env):
        self.ours, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, "-B", KERNEL], stdin=theirs, stdout=subprocess.PIPE, cwd=folder, env=dict(os.environ, **env))
        theirs.close()
        self.events, self.seen, self.n = queue.Queue(), [], 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))

    def open(self, word):
        a, b = socket.socketpair()
        self.ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [b.fileno()]))])
        b.close()
        f = a.makefile("rw")
        a.close()
        f.write(json.dumps(word) + "\n")
        f.flush()
        return f

    def ask(self, op, **rest):
        with self.open(dict(rest, op=op)) as f:
            return json.loads(f.readline())

    def execute(self, code, **rest):
        self.n += 1
        id = "e%d" % self.n
        assert self.ask("execute", execution=dict(rest, id=id, code=code)) == {}
        return id

    def until(self, **want):
        """The events up to one that has these fields."""
        got, end = [], time.monotonic() + PATIENCE
        while True:
            e = self.events.get(timeout=max(0.1, end - time.monotonic()))
            got.append(e)
            self.seen.append(e)
            if all(e.get(k) == v for k, v in want.items()):
                return got

    def run(self, code, **rest):
        """What an execution said, from its beginning to its end."""
        id = self.execute(code, **rest)
        got = []
        while not got or got[-1].get("state") not in ("ok", "error", "interrupted"):
            got += self.until(type="execution", execution=id)
        return [e for e in got if e.get("execution") == id]

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.ours.close()


@pytest.fixture
def kernel(tmp_path):
    k = Kernel(str(tmp_path))
    k.until(type="kernel", state="idle")
    yield k
    k.close()


def of(events, kind):
    return [e for e in events if e["type"] == kind]


def test_says_what_it_does(kernel, tmp_path):
    (tmp_path / "mymodule.py").write_text("def f():\n    raise ValueError('of the module')\n")
    got = kernel.run("print('hello')\nx = [1, 2, 3]\nlen(x)")
    assert "".join(e["text"] for e in of(got, "stream")) == "hello\n"
    assert of(got, "result")[0]["data"]["text/plain"] == "3"
    assert of(got, "variables")[0]["variables"] == [{"name": "x", "type": "list", "size": 3, "repr": "[1, 2, 3]"}]
    assert [e["state"] for e in of(got, "execution")] == ["running", "ok"]

    # An error is at its line in the user's own file, also of a part of it.
    got = kernel.run("\ny = 1\n1/0", path="main.py", line=10)
    error = of(got, "error")[0]
    assert (error["error"], error["file"], error["line"]) == ("ZeroDivisionError", "main.py", 12)
    assert "main.py:12" in "".join(error["traceback"])
    assert of(got, "execution")[-1]["state"] == "error"

    # Into a module, and of what does not parse.
    error = of(kernel.run("import mymodule\nmymodule.f()", path="main.py", line=1), "error")[0]
    assert [(f["file"], f["line"]) for f in error["frames"]] == [("main.py", 2), ("mymodule.py", 2)]
    error = of(kernel.run("a = 1\nb = = 2", path="main.py", line=5), "error")[0]
    assert (error["error"], error["file"], error["line"]) == ("SyntaxError", "main.py", 6)

    # Rich output, and one that replaces another.
    got = kernel.run("from IPython.display import HTML, display\nh = display(HTML('<b>a</b>'), display_id=True)\nh.update(HTML('<b>c</b>'))")
    assert of(got, "display")[0]["data"]["text/html"] == "<b>a</b>"
    assert of(got, "update")[0]["display"] == of(got, "display")[0]["display"]

    # What comes twice runs once.
    assert kernel.ask("execute", execution={"id": "e1", "code": "print('again')"}) == {}
    assert not of(kernel.run("pass"), "stream")

    assert {"text": "append", "type": "function"} in kernel.ask("complete", code="x.app", cursor=5)["matches"]
    assert kernel.ask("complete", code="'\U0001f600'; x.app", cursor=11)["start"] == 8  # as JavaScript counts
    assert "Built-in mutable sequence" in kernel.ask("inspect", code="list", cursor=2)["text"]
    assert any(v["name"] == "x" for v in kernel.ask("variables")["variables"])


def test_asks_and_is_interrupted(kernel):
    id = kernel.execute("name = input('who? ')\nprint('hello ' + name)")
    assert kernel.until(type="input")[-1]["prompt"] == "who? "
    kernel.ask("input", value="Ada")
    got = kernel.until(type="execution", execution=id, state="ok")
    assert "".join(e["text"] for e in of(got, "stream")) == "hello Ada\n"

    first = kernel.execute("import time\nprint('began')\ntime.sleep(60)")
    second = kernel.execute("print('never')")
    kernel.until(type="stream", text="began\n")
    kernel.ask("interrupt")
    got = kernel.until(type="execution", execution=first, state="interrupted")
    assert [e["state"] for e in of(got, "execution") if e["execution"] == second] == ["interrupted"]
    assert of(kernel.run("print(1)"), "stream")[0]["text"] == "1\n"


def test_begins_again_when_it_dies(kernel):
    kernel.run("x = 1")
    id = kernel.execute("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    got = kernel.until(type="kernel", state="dead")
    assert "memory" in got[-1]["reason"] and "SIGKILL" in got[-1]["reason"]
    assert [e["state"] for e in of(got, "execution") if e["execution"] == id] == ["running", "interrupted"]
    kernel.until(type="kernel", state="idle")
    assert of(kernel.run("'x' in globals()"), "result")[0]["data"]["text/plain"] == "False"
    kernel.ask("restart")
    assert of(kernel.run("2 + 2"), "result")[0]["data"]["text/plain"] == "4"


def test_ends_when_it_has_nothing_to_do(tmp_path):
    k = Kernel(str(tmp_path), MLAAS_KERNEL_IDLE="2")
    assert "no execution for 2 s" == k.until(type="kernel", state="stopped")[-1]["reason"]
    assert k.process.wait(20) == 0
    k.close()


def test_computes_nothing_to_show_a_variable():
    sys.path.insert(0, os.path.dirname(KERNEL))
    import _kernel

    class Trap:
        __module__ = "torch"

        @property
        def shape(self):
            return (2, None)

        @property
        def dtype(self):
            raise RuntimeError("it is on another device")

        def __repr__(self):
            raise AssertionError("its value was asked for")

    found = _kernel.variables({"t": Trap(), "f": len, "_": 1, "text": "a" * 1000, "deep": [[1]]})
    assert [v["name"] for v in found] == ["deep", "t", "text"]
    assert found[1]["shape"] == [2, -1]
    assert len(found[2]["repr"]) <= 200
    assert "repr" not in found[0]


def test_language_server(kernel, tmp_path):
    pytest.importorskip("jedi_language_server")
    f = kernel.open({"op": "lsp"})

    def send(m):
        f.write(json.dumps(dict(m, jsonrpc="2.0")) + "\n")
        f.flush()

    def receive(id):
        while True:
            m = json.loads(f.readline())
            if m.get("id") == id and "method" not in m:
                return m["result"]

    send({"id": 1, "method": "initialize", "params": {"processId": None, "rootUri": "file:///code", "capabilities": {}}})
    assert "completionProvider" in receive(1)["capabilities"]
    send({"method": "initialized", "params": {}})
    uri = "file:///code/main.py"
    send({"method": "textDocument/didOpen", "params": {"textDocument": {"uri": uri, "languageId": "python", "version": 1, "text": "import os\nos.pat"}}})
    send({"id": 2, "method": "textDocument/completion", "params": {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 6}}})
    found = receive(2)
    items = found["items"] if isinstance(found, dict) else found
    assert "path" in [i["label"] for i in items]
    f.close()


def test_is_ready_when_it_is_heard():
    """What a kernel says reaches nobody before the subscription does: a kernel
    that answers, and of which nothing is heard, is asked again."""
    from mlaas import _kernel

    class Client:
        def __init__(self):
            self.asked = []

        def kernel_info(self):
            self.asked.append("ask-%d" % len(self.asked))
            return self.asked[-1]

    async def until(what):
        for _ in range(500):
            if what():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came")

    async def life():
        k = _kernel.Kernel()
        k.client, k.generation, k.begun = Client(), 1, time.monotonic()
        greeting = asyncio.ensure_future(k._greet(1))
        answer = lambda id: k._answered({"parent_header": {"msg_id": id}, "msg_type": "kernel_info_reply", "content": {}})  # noqa: E731
        await until(lambda: k.client.asked)
        answer("ask-0")
        await until(lambda: len(k.client.asked) == 2)
        assert not k.ready
        k._told({"parent_header": {"msg_id": "ask-1", "msg_type": "kernel_info_request"}, "msg_type": "status", "content": {"execution_state": "busy"}})
        answer("ask-1")
        await greeting
        assert k.ready and len(k.client.asked) == 2 and not k.replies

    asyncio.run(life())
