"""A supervisor for tests: it listens on a socket and keeps what it hears."""
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SITE = os.path.join(PACKAGE, "mlaas", "_site")


class Supervisor:
    def __init__(self, path):
        self.path, self.messages, self.heard = path, [], threading.Condition()
        self.server = None
        self.listen()

    def listen(self):
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(self.path)
        self.server.listen(8)
        self.conns = []
        self.readers = []
        threading.Thread(target=self.accept, args=(self.server,), daemon=True).start()

    def accept(self, server):
        while True:
            try:
                conn, _ = server.accept()
            except OSError:
                return
            self.conns.append(conn)
            self.readers.append(threading.Thread(target=self.read, args=(conn,), daemon=True))
            self.readers[-1].start()

    def read(self, conn):
        try:
            for line in conn.makefile("rb"):
                if not line.endswith(b"\n"):
                    return  # half a line ends with its connection
                with self.heard:
                    self.messages.append(json.loads(line.decode("utf-8")))
                    self.heard.notify_all()
        except OSError:
            pass

    def go_away(self):
        for s in [self.server] + self.conns:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        os.unlink(self.path)

    def all(self, what):
        with self.heard:
            return [m[what] for m in self.messages if what in m]

    def all_said(self):
        """Wait until what ended programs said is read. One that connects now is heard after them."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            before = len(self.all("all"))
            last.connect(self.path)
            last.sendall(b'{"all": "said"}\n')
            self.wait(lambda s: len(s.all("all")) > before)
        for reader in self.readers:
            reader.join(10)
            assert not reader.is_alive(), "somebody still holds the socket"

    def points(self):
        return [p for batch in self.all("points") for p in batch]

    def wait(self, want, timeout=10):
        with self.heard:
            assert self.heard.wait_for(lambda: want(self), timeout), self.messages


@pytest.fixture
def supervisor(tmp_path):
    s = Supervisor(str(tmp_path / "s"))
    yield s
    try:
        s.go_away()
    except OSError:
        pass


@pytest.fixture
def program(tmp_path):
    """Runs a program in its own process, as users do. env is added to a clean
    environment."""

    def run(code, env=None, check=True, args=(), timeout=60):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLAAS_") and k not in ("TF_CONFIG", "RANK", "WORLD_SIZE")}
        clean.update(PYTHONPATH=PACKAGE, PYTHONDONTWRITEBYTECODE="1", **(env or {}))
        done = subprocess.run([sys.executable, "-c", code] + list(args), cwd=str(tmp_path), env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=timeout)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


def addresses(n):
    """Ports of this machine that are free now."""
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    found = ["127.0.0.1:%d" % s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return found


@pytest.fixture
def spread(tmp_path):
    """Runs a program as the platform runs it on n workers (and ps parameter
    servers, which are ended when the workers have): gives the output of each
    worker. With n = 1 it runs alone."""

    def run(code, n=2, ps=0, args=(), env=None, check=True, timeout=240, distribute="auto"):
        folder = tmp_path / ("n%d" % len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "main.py").write_text(code)
        ports = addresses(2 * (n + ps))
        cluster = {"worker": ports[:n], "ps": ports[n : n + ps]}
        cluster = {k: v for k, v in cluster.items() if v}
        started = []
        for i, (role, index) in enumerate([("worker", r) for r in range(n)] + [("ps", i) for i in range(ps)]):
            own = {k: v for k, v in os.environ.items() if not k.startswith("MLAAS_") and k not in ("TF_CONFIG", "RANK", "WORLD_SIZE")}
            own.update(
                PYTHONPATH=os.pathsep.join([os.path.join(PACKAGE, "mlaas", "_site"), PACKAGE]), PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1", TF_CPP_MIN_LOG_LEVEL="3",
                OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", MLAAS_RUNS=str(folder / ("runs-%s-%d" % (role, index))),
            )
            if n + ps > 1:
                own["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
                own["MLAAS_SPREAD"] = json.dumps({"distribute": distribute, "entry": "main.py", "rank": index if role == "worker" else -1, "peers": ports[n + ps : n + ps + n], "servers": ps, "key": "k", "seed": 1})
            own.update(env or {})
            out = [open(str(folder / ("%s-%d.%s" % (role, index, what))), "w+") for what in ("out", "err")]
            p = subprocess.Popen([sys.executable, "main.py"] + list(args), cwd=str(folder), env=own, stdout=out[0], stderr=out[1])
            started.append((role, p, out))
        try:
            for role, p, _ in started:
                if role == "worker" and p.wait(timeout):
                    timeout = 60  # one that fails is not to leave the others waiting
        finally:
            for _, p, _ in started:
                p.kill()
                p.wait()
        done = []
        for role, p, out in started:
            text = []
            for f in out:
                f.seek(0)
                text.append(f.read())
                f.close()
            if role == "worker":
                done.append(subprocess.CompletedProcess(p.args, p.returncode, text[0], text[1]))
        if check:
            assert all(d.returncode == 0 for d in done), done
        return done

    return run


@pytest.fixture
def python(tmp_path, supervisor):
    """Runs Python as the platform does: with tracking on, in a folder of its own."""

    def run(*args, env=None, check=True, timeout=60):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLAAS_", "PYTHON"))}
        clean.update(PYTHONPATH=SITE, PYTHONDONTWRITEBYTECODE="1", MLAAS_HOOKS="1", MLAAS_SOCKET=supervisor.path, TMPDIR=str(tmp_path))
        clean.update(env or {})
        done = subprocess.run([sys.executable] + list(args), cwd=str(tmp_path), env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=timeout)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run
