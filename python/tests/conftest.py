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
