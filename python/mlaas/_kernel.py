"""The kernel of a job: an IPython that executes what it is given.

The supervisor runs it in place of the user's program, as the program's user and
in its sandbox::

    python -I -B mlaas/_kernel.py

It starts IPython in a process of its own, beside which it stays when that one
dies, and stands between it and the platform:

- standard output is what the kernel says, one event a line, as JSON: see
  KernelEvent in kernel.go;
- standard input is a unix socket over which the supervisor hands it
  connections. Each carries lines of JSON: the first says what is wanted.

IPython, the client of its protocol and the language server need not be among
the user's packages: $MLAAS_KERNEL_TOOLS is a folder that has them, which goes
last on sys.path, so that the user's own win.
"""
from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from typing import Any, Awaitable, Callable, Dict, List, Optional, Set

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.environ.get("MLAAS_KERNEL_TOOLS", "")
IDLE = float(os.environ.get("MLAAS_KERNEL_IDLE") or 3600)

CHUNK = 16 << 10  # letters of a stream in one event
LARGEST = 8 << 20  # letters of one event
ANSWER = 5.0  # seconds that a kernel which is busy is waited for
SERVERS = 4  # language servers at once
START = 120.0  # seconds


def tools() -> None:
    """Let the tools be found behind all that the user has."""
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
    if TOOLS and TOOLS not in sys.path:
        sys.path.append(TOOLS)


def say(event: Dict[str, Any]) -> None:
    """Tell an event. Its type goes first, by which it is searched for."""
    head: Dict[str, Any] = {"type": event.pop("type")}
    head.update((k, v) for k, v in event.items() if v not in (None, "", [], {}))
    data = (json.dumps(head, separators=(",", ":"), ensure_ascii=False) + "\n").encode("utf-8", "replace")
    while data:
        data = data[os.write(1, data):]


def duration(seconds: float) -> str:
    if seconds >= 60 and seconds % 60 == 0:
        return "%d min" % (seconds // 60)
    return "%g s" % seconds


class Dead(Exception):
    """The kernel ended before it answered."""


class Kernel:
    """IPython in a process of its own, and what it is to execute."""

    def __init__(self) -> None:
        self.process: Optional[asyncio.subprocess.Process] = None
        self.client: Any = None
        self.ready = False
        self.generation = 0  # how many there were
        self.asked = ""  # why it is to end; empty: nobody wants that
        self.begun = 0.0
        self.waiting: List[Dict[str, Any]] = []  # executions
        self.current: Optional[Dict[str, Any]] = None
        self.seen: Set[str] = set()  # executions that came: each runs once
        self.dropped = False  # an interrupt fell upon the current one
        self.variables: List[Dict[str, Any]] = []
        self.failed: Dict[str, Dict[str, Any]] = {}  # errors whose place is told by the reply
        self.replies: Dict[str, "asyncio.Future[Dict[str, Any]]"] = {}
        self.listeners: List[Callable[[str, Dict[str, Any]], None]] = []
        self.active = time.monotonic()
        self.folder = tempfile.mkdtemp(prefix="k", dir=_short())
        self.tasks: List["asyncio.Task[None]"] = []
        self.ended: "asyncio.Future[int]" = asyncio.get_running_loop().create_future()

    # Its life.

    async def start(self, why: str = "") -> None:
        from jupyter_client.asynchronous import AsyncKernelClient
        from jupyter_client.connect import write_connection_file

        self.generation += 1
        self.ready, self.asked, self.begun = False, "", time.monotonic()
        say({"type": "kernel", "state": "starting", "reason": why})
        file = os.path.join(self.folder, "c%d.json" % self.generation)
        write_connection_file(file, transport="ipc", ip=os.path.join(self.folder, "s%d" % self.generation), kernel_name="mlaas")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", os.path.abspath(__file__), "--ipython", file,
            stdin=asyncio.subprocess.DEVNULL, stdout=2, stderr=2, start_new_session=True)
        self.client = AsyncKernelClient(connection_file=file)
        self.client.load_connection_file()
        self.client.start_channels()
        self.tasks = [asyncio.ensure_future(t) for t in (
            self._hear("shell"), self._hear("control"), self._hear("stdin"), self._hear("iopub"),
            self._attend(self.process, self.generation))]
        asyncio.ensure_future(self._greet(self.generation))

    async def _greet(self, generation: int) -> None:
        """Wait until it executes, and until what it says is heard: iopub is a
        subscription, which reaches the kernel some time after we have made it,
        and what it said before is lost."""
        until = self.begun + START
        try:
            while time.monotonic() < until:
                id = self.client.kernel_info()
                heard = self.replies["heard " + id] = asyncio.get_running_loop().create_future()
                try:
                    await self.reply(id, 2.0)
                    await asyncio.wait_for(heard, 0.1)
                    break
                except asyncio.TimeoutError:
                    continue
                finally:
                    self.replies.pop("heard " + id, None)
                    if heard.done() and not heard.cancelled():
                        heard.exception()  # it is known: see Dead
        except Dead:
            return
        if generation == self.generation:
            self.ready = True
            say({"type": "kernel", "state": "idle", "reason": "ready after %.1f s" % (time.monotonic() - self.begun)})
            self.next()

    async def _attend(self, process: asyncio.subprocess.Process, generation: int) -> None:
        """Begin again when it ends by itself."""
        code = await process.wait()
        if generation != self.generation:
            return
        asked, lived = self.asked, time.monotonic() - self.begun
        why = asked or "the kernel died" + _cause(code)
        if not asked:
            self._drop(why)
        self._close()
        if not asked:
            say({"type": "kernel", "state": "dead", "reason": why})
            why += "; it began again, with nothing of what it knew"
        if not self.ready and not asked and lived < START and self.generation > 2:
            self.ended.set_result(1)  # it will not come up by being tried for ever
            return
        await self.start(why)

    def _close(self) -> None:
        for t in self.tasks:
            if t is not asyncio.current_task():
                t.cancel()
        for f in self.replies.values():
            if not f.done():
                f.set_exception(Dead())
        self.replies.clear()
        if self.client is not None:
            self.client.stop_channels()

    def _drop(self, why: str) -> None:
        for e in ([self.current] if self.current else []) + self.waiting:
            say({"type": "execution", "execution": e["id"], "state": "interrupted", "error": why})
        self.current, self.waiting, self.failed = None, [], {}

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    # What it is given.

    def execute(self, e: Dict[str, Any]) -> None:
        if e["id"] in self.seen:
            return
        self.seen.add(e["id"])
        self.active = time.monotonic()
        self.waiting.append(e)
        self.next()

    def next(self) -> None:
        """Give it what comes next, if it has nothing to do."""
        if not self.ready or self.current is not None or not self.waiting:
            return
        e = self.current = self.waiting.pop(0)
        self.dropped = False
        code = e.get("code", "")
        blank = re.match(r"(?:[ \t\r\f]*\n)*", code)  # IPython takes these lines away
        offset = max(int(e.get("line") or 1), 1) - 1 + code[:blank.end()].count("\n") if blank else 0
        say({"type": "execution", "execution": e["id"], "state": "running", "code": code if len(code) <= CHUNK else "",
             "path": e.get("path"), "line": e.get("line"), "cell": e.get("cell")})
        say({"type": "kernel", "state": "busy", "execution": e["id"]})
        message = self.client.session.msg("execute_request", {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": True, "stop_on_error": False})
        message["header"]["msg_id"] = message["msg_id"] = e["id"]
        message["metadata"] = {"mlaas": {"path": e.get("path") or "", "offset": offset}, "cellId": e.get("cell") or ""}
        self.client.shell_channel.send(message)

    def interrupt(self) -> None:
        for e in self.waiting:
            say({"type": "execution", "execution": e["id"], "state": "interrupted", "error": "it was interrupted before it began"})
        self.waiting = []
        if self.current is not None:
            self.dropped = True
            self.signal(signal.SIGINT)

    async def restart(self, why: str) -> None:
        self._drop("its kernel was restarted")
        self.asked, self.ready = why, False  # what comes now is for the next one
        self.signal(signal.SIGKILL)

    async def reply(self, id: str, within: float) -> Dict[str, Any]:
        f: "asyncio.Future[Dict[str, Any]]" = asyncio.get_running_loop().create_future()
        self.replies[id] = f
        try:
            return await asyncio.wait_for(f, within)
        finally:
            self.replies.pop(id, None)

    # What it says.

    async def _hear(self, channel: str) -> None:
        stream = getattr(self.client, channel + "_channel")
        while True:
            try:
                message = await stream.get_msg(timeout=None)
            except (asyncio.CancelledError, OSError):
                return
            except Exception as e:  # what cannot be read is none of ours
                print("a message of the kernel cannot be read: %s" % e, file=sys.stderr)
                continue
            try:
                if channel == "iopub":
                    self._told(message)
                elif channel == "stdin":
                    self._wanted(message)
                else:
                    self._answered(message)
            except Exception as e:
                print("a message of the kernel cannot be told: %r" % e, file=sys.stderr)

    def _answered(self, m: Dict[str, Any]) -> None:
        id = m["parent_header"].get("msg_id", "")
        f = self.replies.get(id)
        if f is not None and not f.done():
            f.set_result(m["content"])
        if self.current is not None and id == self.current["id"] and m["msg_type"] == "execute_reply":
            asyncio.ensure_future(self._finish(id, m["content"]))

    async def _finish(self, id: str, reply: Dict[str, Any]) -> None:
        """End an execution when all that it said has come: its last word on
        iopub is that the kernel is idle."""
        for _ in range(200):
            if id in self.failed or reply["status"] == "ok":
                break
            await asyncio.sleep(0.005)
        await self._quiet(id)
        if self.current is None or self.current["id"] != id:
            return
        ours = reply.get("mlaas") or {}
        place = ours.get("place") or {}
        error = self.failed.pop(id, None)
        if error is not None:
            error.update(place)
            say(error)
        if "variables" in ours and ours["variables"] != self.variables:
            self.variables = ours["variables"]
            head = {"type": "variables", "execution": id}
            say(dict(head, variables=self.variables) if self.variables else head)
        state, why = "ok", ""
        if reply["status"] != "ok":
            state = "error"
            why = "%s: %s" % (reply.get("ename", "error"), reply.get("evalue", "")) if reply.get("ename") else reply["status"]
            if reply.get("ename") == "KeyboardInterrupt" and self.dropped:
                state, why = "interrupted", "it was interrupted"
        say({"type": "execution", "execution": id, "state": state, "error": why[:1000],
             "file": place.get("file"), "line": place.get("line")})
        self.current, self.active = None, time.monotonic()
        if not self.waiting:
            say({"type": "kernel", "state": "idle"})
        self.next()

    async def _quiet(self, id: str) -> None:
        quiet = self.replies.get("idle " + id)
        if quiet is None:
            quiet = self.replies["idle " + id] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(quiet, 5.0)
        except (asyncio.TimeoutError, Dead):
            pass
        self.replies.pop("idle " + id, None)

    def _told(self, m: Dict[str, Any]) -> None:
        for tell in list(self.listeners):
            tell("iopub", m)
        id, content = m["parent_header"].get("msg_id", ""), m["content"]
        kind = m["msg_type"]
        ours = self.current is not None and id == self.current["id"]
        if kind == "status":
            heard = self.replies.get("heard " + id)
            if heard is not None and not heard.done():
                heard.set_result({})
            if m["parent_header"].get("msg_type") != "execute_request":
                return
            self.active = time.monotonic()
            if content["execution_state"] == "idle":
                if ours:
                    f = self.replies.get("idle " + id)
                    if f is None:
                        f = self.replies["idle " + id] = asyncio.get_running_loop().create_future()
                    if not f.done():
                        f.set_result({})
                else:
                    error = self.failed.pop(id, None)
                    if error is not None:
                        say(error)
                    say({"type": "execution", "execution": id, "state": "error" if error else "ok"})
                    say({"type": "kernel", "state": "idle"})
        elif kind == "execute_input":
            if not ours:  # it came by Jupyter's protocol
                say({"type": "execution", "execution": id, "state": "running", "code": content["code"][:CHUNK]})
                say({"type": "kernel", "state": "busy", "execution": id})
        elif kind == "stream":
            text = content["text"]
            for i in range(0, len(text), CHUNK):
                say({"type": "stream", "execution": id, "name": content["name"], "text": text[i:i + CHUNK]})
        elif kind in ("display_data", "execute_result", "update_display_data"):
            say({"type": {"display_data": "display", "execute_result": "result"}.get(kind, "update"), "execution": id,
                 "data": _bounded(content["data"]), "metadata": content.get("metadata"),
                 "display": (content.get("transient") or {}).get("display_id")})
        elif kind == "error":
            self.failed[id] = {"type": "error", "execution": id, "error": content["ename"], "value": content["evalue"][:CHUNK],
                               "traceback": [line[:CHUNK] for line in content["traceback"][:100]]}
        elif kind == "clear_output":
            say({"type": "clear", "execution": id, "wait": content.get("wait", False)})

    def _wanted(self, m: Dict[str, Any]) -> None:
        if m["msg_type"] == "input_request":
            c = m["content"]
            say({"type": "input", "execution": m["parent_header"].get("msg_id", ""), "prompt": c.get("prompt", ""), "password": c.get("password", False)})


def _short() -> Optional[str]:
    """A folder whose name leaves room for that of a socket."""
    own = tempfile.gettempdir()
    return own if len(own) <= 70 or not os.access("/tmp", os.W_OK) else "/tmp"


def _cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return ": it was killed (SIGKILL), as it is when it needs more memory than it may have: ask for more in the job, or hold less"
    if code < 0:
        try:
            return ": it was ended by %s" % signal.Signals(-code).name
        except ValueError:
            return ": it was ended by signal %d" % -code
    return " with exit code %d" % code


def _bounded(data: Dict[str, Any]) -> Dict[str, Any]:
    """Leave away what is too large for an event."""
    out: Dict[str, Any] = {}
    for mime, value in data.items():
        size = len(value) if isinstance(value, str) else len(json.dumps(value))
        if size > LARGEST:
            out.setdefault("text/plain", "")
            out["text/plain"] += "(%s of %.0f MB is not shown: at most %d MB are)" % (mime, size / 1e6, LARGEST >> 20)
        else:
            out[mime] = out.get(mime, "") + value if mime == "text/plain" and isinstance(value, str) else value
    return out


# Connections.


class Server:
    """Answers those who are handed over by the supervisor."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.servers = 0
        self.socket = socket.socket(fileno=os.dup(0))
        self.socket.setblocking(False)

    def begin(self) -> None:
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._accept)

    def _accept(self) -> None:
        import array

        try:
            data, extra, _, _ = self.socket.recvmsg(1, socket.CMSG_LEN(4))
        except BlockingIOError:
            return
        if not data:  # the supervisor is gone
            asyncio.get_running_loop().remove_reader(self.socket.fileno())
            return
        for level, kind, fds in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for fd in array.array("i", fds[:4]):
                    asyncio.ensure_future(self._serve(socket.socket(fileno=fd)))

    async def _serve(self, s: socket.socket) -> None:
        s.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=s, limit=64 << 20)

        async def answer(v: Any) -> None:
            writer.write((json.dumps(v, separators=(",", ":")) + "\n").encode())
            await writer.drain()

        try:
            line = await reader.readline()
            if not line:
                return
            word = json.loads(line)
            op = word.get("op", "")
            if op == "lsp":
                await self._lsp(reader, writer)
            elif op == "jupyter":
                await self._jupyter(reader, answer)
            else:
                try:
                    await answer(await self._word(op, word))
                except (asyncio.TimeoutError, Dead):
                    await answer({"error": "the kernel is busy: what it executes must end first"})
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as e:
            print("a question cannot be answered: %r" % e, file=sys.stderr)
            try:
                await answer({"error": "it cannot be answered: %s" % e})
            except ConnectionError:
                pass
        finally:
            writer.close()

    async def _word(self, op: str, word: Dict[str, Any]) -> Dict[str, Any]:
        k = self.kernel
        if op == "execute":
            k.execute(word["execution"])
        elif op == "interrupt":
            k.interrupt()
        elif op == "restart":
            await k.restart("it was restarted by its user")
        elif op == "input":
            k.client.input(word.get("value", ""))
        elif op == "variables":
            return {"variables": k.variables}
        elif op == "state":
            return {"ready": k.ready, "current": k.current["id"] if k.current else ""}
        elif op in ("complete", "inspect"):
            if not k.ready or k.current is not None:
                return {"error": "the kernel is busy: what it executes must end first"}
            code = word.get("code", "")
            at = len(_utf16(code)[:2 * int(word.get("cursor", 0))].decode("utf-16-le", "ignore"))
            if op == "inspect":
                c = await k.reply(k.client.inspect(code, at, 0), ANSWER)
                return {"found": c.get("found", False), "text": (c.get("data") or {}).get("text/plain", "")}
            c = await k.reply(k.client.complete(code, at), ANSWER)
            types = {(t.get("text"), t.get("start")): t.get("type", "") for t in (c.get("metadata") or {}).get("_jupyter_types_experimental", [])}
            start, end = c.get("cursor_start", at), c.get("cursor_end", at)
            return {"matches": [{"text": t, "type": types.get((t, start), "").replace("<unknown>", "")} for t in c.get("matches", [])[:500]],
                    "start": len(_utf16(code[:start])) // 2, "end": len(_utf16(code[:end])) // 2}
        else:
            return {"error": "op is %r, want execute, interrupt, restart, input, variables, state, complete, inspect, lsp or jupyter" % op}
        return {}

    async def _lsp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a language server to lines, each a message. The folder of the
        code is file:///code there."""
        if self.servers >= SERVERS:
            writer.write(b'{"error":"%d language servers run in this kernel, which is all there may be: close an editor"}\n' % SERVERS)
            return
        self.servers += 1
        inside, outside = b'"file://' + os.getcwd().encode(), b'"file:///code'
        bootstrap = "import sys; sys.path.append(%r); from jedi_language_server.cli import cli; sys.argv[1:] = []; cli()" % TOOLS
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-c", bootstrap, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=2,
            env=dict(os.environ, MLAAS_HOOKS=""), start_new_session=True, limit=64 << 20)
        assert process.stdin is not None and process.stdout is not None

        async def out() -> None:
            while True:
                length = 0
                while True:
                    head = await process.stdout.readline()  # type: ignore[union-attr]
                    if not head:
                        return
                    if head.lower().startswith(b"content-length:"):
                        length = int(head.split(b":")[1])
                    if head in (b"\r\n", b"\n"):
                        break
                body = await process.stdout.readexactly(length)  # type: ignore[union-attr]
                writer.write(body.replace(b"\n", b" ").replace(inside, outside) + b"\n")
                await writer.drain()

        async def into() -> None:
            while True:
                line = await reader.readline()
                if not line:
                    return
                body = line.rstrip(b"\n").replace(outside, inside)
                process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)  # type: ignore[union-attr]
                await process.stdin.drain()  # type: ignore[union-attr]

        try:
            await _either(out(), into())
        finally:
            self.servers -= 1
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _jupyter(self, reader: asyncio.StreamReader, answer: Callable[[Any], Awaitable[None]]) -> None:
        """Pass messages of Jupyter's protocol on, as a client of its own."""
        from jupyter_client.asynchronous import AsyncKernelClient

        k = self.kernel
        while not k.ready:
            await asyncio.sleep(0.05)
        generation = k.generation
        client = AsyncKernelClient()
        client.load_connection_info(k.client.get_connection_info())
        client.start_channels(hb=False)

        async def out(channel: str) -> None:
            stream = getattr(client, channel + "_channel")
            while True:
                m = await stream.get_msg(timeout=None)
                k.active = time.monotonic()
                m = {n: m.get(n) for n in ("header", "parent_header", "metadata", "content", "msg_id", "msg_type")}
                await answer(json.loads(json.dumps(dict(m, channel=channel, buffers=[]), default=str)))

        async def into() -> None:
            while True:
                line = await reader.readline()
                if not line:
                    return
                m = json.loads(line)
                if k.generation != generation:
                    return  # whoever it is finds the next one
                k.active = time.monotonic()
                channel = m.pop("channel", "shell")
                if channel in ("shell", "control", "stdin"):
                    m.pop("buffers", None)
                    m.setdefault("parent_header", {})
                    m.setdefault("metadata", {})
                    client.session.send(getattr(client, channel + "_channel").socket, m)

        async def gone() -> None:
            while k.generation == generation:
                await asyncio.sleep(0.2)
            # Who listens learns from the next one's status.

        try:
            await _either(into(), gone(), *(out(c) for c in ("shell", "control", "stdin", "iopub")))
        finally:
            client.stop_channels()


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


async def _either(*all: Awaitable[None]) -> None:
    """Run all until one ends."""
    tasks = [asyncio.ensure_future(a) for a in all]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for t in done:
            t.result()
    finally:
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def serve() -> int:
    """Be the kernel until it has nothing to execute for long."""
    kernel = Kernel()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: kernel.ended.done() or kernel.ended.set_result(0))
    Server(kernel).begin()
    await kernel.start()

    async def idle() -> None:
        while True:
            left = kernel.active + IDLE - time.monotonic()
            if kernel.current is not None or kernel.waiting:
                left = IDLE
            if left <= 0:
                say({"type": "kernel", "state": "stopped", "reason": "no execution for %s" % duration(IDLE)})
                kernel.ended.done() or kernel.ended.set_result(0)
                return
            await asyncio.sleep(left)

    watch = asyncio.ensure_future(idle())
    code = await kernel.ended
    watch.cancel()
    kernel.generation += 1  # what ends now is not begun again
    kernel._drop("its kernel was stopped")
    kernel._close()
    kernel.signal(signal.SIGKILL)
    return code


# In the process of IPython.


def ipython(file: str) -> None:
    """Run IPython's kernel, with the files of the code at their own names."""
    tools()
    sys.path.insert(0, "")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import ast
    import linecache

    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp

    home = os.getcwd()
    cell: Dict[str, Any] = {"path": "", "offset": 0}

    class Lines(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if cell["path"] and cell["offset"]:
                ast.increment_lineno(node, cell["offset"])
            return node

    def name_cells(shell: Any) -> None:
        compiler = shell.compile
        named, cached = compiler.get_code_name, compiler.cache

        def get_code_name(raw: str, code: str, number: int) -> str:
            return os.path.join(home, cell["path"]) if cell["path"] else named(raw, code, number)

        def cache(code: str, number: int = 0, raw_code: Optional[str] = None) -> str:
            name = os.path.join(home, cell["path"]) if cell["path"] else ""
            before = list(linecache.getlines(name)) if name else []
            found = cached(code, number, raw_code)
            if name:  # what stands around it in its file stays what it is
                lines = [line + "\n" for line in code.splitlines()]
                before += ["\n"] * (cell["offset"] - len(before))
                before[cell["offset"]:cell["offset"] + len(lines)] = lines
                linecache.cache[found] = (sum(map(len, before)), None, before, found)
                getattr(compiler, "_filename_map", {}).pop(found, None)  # it is no In[7]
            return found

        compiler.get_code_name, compiler.cache = get_code_name, cache
        shell.ast_transformers.append(Lines())
        show = shell._showtraceback

        def showtraceback(kind: Any, value: Any, text: Any) -> None:
            cell["error"] = value
            show(kind, value, text)

        shell._showtraceback = showtraceback

    class MlaasKernel(IPythonKernel):  # type: ignore[misc]
        def __init__(self, **kw: Any) -> None:
            super().__init__(**kw)
            name_cells(self.shell)

        async def do_execute(self, code: str, silent: bool, store_history: bool = True, user_expressions: Any = None,
                             allow_stdin: bool = False, *, cell_meta: Any = None, cell_id: Any = None) -> Any:
            ours = (cell_meta or {}).get("mlaas") if isinstance(cell_meta, dict) else None
            cell.update(path="", offset=0, error=None)
            if ours is not None:
                cell.update(path=ours["path"], offset=ours["offset"])
                if ours["path"]:
                    self.shell.user_ns["__file__"] = os.path.join(home, ours["path"])
            reply = await super().do_execute(code, silent, store_history, user_expressions, allow_stdin)
            if ours is not None and isinstance(reply, dict):
                try:
                    reply["mlaas"] = {"place": place(cell["error"], home, cell["path"], cell["offset"]) if reply["status"] != "ok" else {},
                                      "variables": variables(self.shell.user_ns, self.shell.user_ns_hidden)}
                except Exception as e:
                    print("the variables cannot be told: %r" % e, file=sys.__stderr__)
            return reply

    app = IPKernelApp.instance(kernel_class=MlaasKernel)
    app.initialize(["-f", file, "--Session.signature_scheme=hmac-sha256", "--IPKernelApp.parent_handle=%d" % os.getppid(),
                    "--HistoryManager.enabled=False"])
    app.start()


def place(error: Any, home: str, path: str, offset: int) -> Dict[str, Any]:
    """Where in the code an error happened: file, line, frames, innermost last."""
    frames: List[Dict[str, Any]] = []
    trace = getattr(error, "__traceback__", None)
    while trace is not None:
        name = os.path.abspath(trace.tb_frame.f_code.co_filename)
        if name.startswith(home + os.sep):
            frames.append({"file": os.path.relpath(name, home), "line": trace.tb_lineno, "function": trace.tb_frame.f_code.co_name})
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        name = os.path.abspath(error.filename)
        if name.startswith(home + os.sep):
            file = os.path.relpath(name, home)
            frames.append({"file": file, "line": error.lineno + (offset if file == path else 0)})
    if not frames:
        return {}
    return {"file": frames[-1]["file"], "line": frames[-1]["line"], "frames": frames[-50:]}


ARRAYS = {"numpy", "torch", "tensorflow", "jax", "jaxlib", "pandas", "polars", "scipy", "cupy", "keras"}


def variables(namespace: Dict[str, Any], hidden: Any = ()) -> List[Dict[str, Any]]:
    """What a namespace has, by name. Nothing is computed for it: of an array
    there is its shape, which may be on another device, and no value."""
    import types

    out = []
    for name in sorted(namespace):
        v = namespace[name]
        if name.startswith("_") or name in ("In", "Out", "exit", "quit", "get_ipython", "open"):
            continue
        if hidden and name in hidden and hidden[name] is v:
            continue
        if isinstance(v, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)):
            continue
        out.append(variable(name, v))
        if len(out) == 500:
            break
    return out


def variable(name: str, v: Any) -> Dict[str, Any]:
    import reprlib

    kind = type(v)
    module = str(getattr(kind, "__module__", "") or "")
    d: Dict[str, Any] = {"name": name, "type": kind.__name__}
    try:
        if module.split(".")[0] in ARRAYS:
            shape = getattr(v, "shape", None)
            if shape is not None:
                try:
                    d["shape"] = [int(n) if n is not None else -1 for n in shape]
                except (TypeError, ValueError):
                    pass
            dtype = getattr(v, "dtype", None)
            if dtype is not None:
                d["dtype"] = str(getattr(dtype, "name", dtype))[:50]
            size = getattr(v, "nbytes", None)
            if isinstance(size, int):
                d["size"] = size
            if module.split(".")[0] == "numpy" and getattr(v, "size", 99) <= 10 and getattr(dtype, "kind", "O") in "biufcSU":
                d["repr"] = " ".join(repr(v).split())[:200]
        elif kind in (int, float, complex, bool, str, bytes, type(None), range):
            d["repr"] = reprlib.Repr.repr(_short_repr(), v)[:200]
        if kind in (list, tuple, dict, set, frozenset, str, bytes, range):
            d["size"] = len(v)
        if kind in (list, tuple, dict, set, frozenset) and all(type(x) in (int, float, bool, str, type(None)) for x in _first(v)):
            d["repr"] = reprlib.Repr.repr(_short_repr(), v)[:200]
    except Exception as e:  # whatever its author has made of it
        d["repr"] = "(%s)" % type(e).__name__
    return d


def _first(v: Any) -> List[Any]:
    from itertools import islice

    few = list(islice(iter(v), 7))
    return few + [v[k] for k in few] if type(v) is dict else few


def _short_repr() -> Any:
    import reprlib

    r = reprlib.Repr()
    r.maxstring = r.maxother = 120
    return r


def main(argv: List[str]) -> int:
    if argv[:1] == ["--ipython"]:
        ipython(argv[1])
        return 0
    tools()
    try:
        import jupyter_client  # noqa: F401
    except ImportError:
        print("the kernel needs ipykernel, which this environment has not: add it to environment.packages", file=sys.stderr)
        return 1
    return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
