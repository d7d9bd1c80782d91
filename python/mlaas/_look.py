"""Look into the Python processes of a replica from beside them.

The supervisor runs it as the program's user, in its sandbox::

    python -I -S -B mlaas/_look.py stacks     the stacks of all threads, as JSON
    python -I -S -B mlaas/_look.py debugger   let a debugger in, and say where

It finds the processes that _debug.py has prepared, by the file in memory that
each of them holds.
"""
from __future__ import annotations

import json
import linecache
import os
import re
import signal
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

STACKS, DEBUGGER = "mlaas-stacks", "mlaas-debugger"  # as _debug.py calls them
PATIENCE = 10.0  # seconds that one process may take
EVERY = 0.005  # nothing tells when another process has handled a signal

_THREAD = re.compile(r"^(Current thread|Thread) 0x([0-9a-f]+)(?: \[(.*)\])?")
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')


class Process:
    """A process that can be looked into."""

    def __init__(self, pid: int, path: str):
        self.pid, self.path = pid, path  # of its file, as /proc has it

    def command(self) -> List[str]:
        with open("/proc/%d/cmdline" % self.pid, "rb") as f:
            return [a.decode("utf-8", "replace") for a in f.read().split(b"\0")[:-1]]


def processes(name: str) -> Iterator[Process]:
    """Those of our replica that hold the file in memory of that name."""
    ours = os.environ.get("MLAAS_SOCKET", "")
    for entry in sorted(os.listdir("/proc"), key=lambda e: int(e) if e.isdigit() else 0):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        folder = "/proc/%s/fd" % entry
        try:
            if _socket(entry) != ours:
                continue  # without a sandbox, replicas see each other's processes
            for fd in os.listdir(folder):
                path = os.path.join(folder, fd)
                if os.readlink(path) == "/memfd:%s (deleted)" % name:
                    yield Process(int(entry), path)
                    break
        except OSError:
            continue  # it is another's, or gone


def _socket(pid: str) -> str:
    """The supervisor's socket, which each replica has for itself."""
    with open("/proc/%s/environ" % pid, "rb") as f:
        for v in f.read().split(b"\0"):
            if v.startswith(b"MLAAS_SOCKET="):
                return v[len(b"MLAAS_SOCKET="):].decode("utf-8", "replace")
    return ""


def stacks() -> Dict[str, Any]:
    """What every thread of every process does now."""
    found = []
    for p in processes(STACKS):
        try:
            found.append({"pid": p.pid, "command": p.command(), "threads": threads(dump(p)), "error": ""})
        except OSError as e:
            if os.path.exists("/proc/%d" % p.pid):
                found.append({"pid": p.pid, "command": [], "threads": [], "error": str(e)})
    return {"processes": found}


def dump(p: Process) -> str:
    """Have a process write its stacks, and read them."""
    with open(p.path, "r+b", buffering=0) as f:
        # It writes where it wrote last; a hole before that reads as zeros.
        before = os.fstat(f.fileno()).st_size
        blocked = _blocked(p.pid)
        os.kill(p.pid, signal.SIGURG)
        until = time.monotonic() + PATIENCE
        while True:
            size = os.fstat(f.fileno()).st_size
            if size > before and _blocked(p.pid) <= blocked and not _pending(p.pid):
                break
            if time.monotonic() > until:
                raise OSError("it did not answer in %.0f s: it waits in the kernel, or its program takes the signal itself" % PATIENCE)
            time.sleep(EVERY)
        return os.pread(f.fileno(), os.fstat(f.fileno()).st_size - before, before).decode("utf-8", "replace")


def _masks(pid: int, *fields: str) -> Iterator[Tuple[str, bool]]:
    bit = 1 << (int(signal.SIGURG) - 1)
    for tid in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/status" % (pid, tid)) as f:
                for line in f:
                    name, _, value = line.partition(":")
                    if name in fields:
                        yield tid, bool(int(value, 16) & bit)
        except OSError:
            continue


def _blocked(pid: int) -> set:
    """The threads that cannot take the signal now: one that handles it is among
    them until it is done."""
    return {tid for tid, set_ in _masks(pid, "SigBlk") if set_}


def _pending(pid: int) -> bool:
    return any(set_ for _, set_ in _masks(pid, "SigPnd", "ShdPnd"))


def threads(text: str) -> List[Dict[str, Any]]:
    """The threads that faulthandler wrote, each with its frames, innermost
    first."""
    found: List[Dict[str, Any]] = []
    for line in text.split("\n"):
        t = _THREAD.match(line)
        if t:
            found.append({"id": "0x" + t.group(2).lstrip("0"), "name": t.group(3) or "", "current": t.group(1) != "Thread", "frames": []})
            continue
        f = _FRAME.match(line)
        if f and found:
            number = int(f.group(2)) if f.group(2).isdigit() else 0
            found[-1]["frames"].append({"file": f.group(1), "line": number, "function": f.group(3), "text": linecache.getline(f.group(1), number).strip()})
        elif line.startswith("Current thread's C stack"):
            break
    return found


def debugger() -> Dict[str, Any]:
    """Ask the program to let a debugger in."""
    for p in processes(DEBUGGER):
        with open(p.path, "r+b", buffering=0) as f:
            os.ftruncate(f.fileno(), 0)
            os.pwrite(f.fileno(), b"please", 0)
            os.kill(p.pid, signal.SIGWINCH)
            until = time.monotonic() + 2 * PATIENCE
            while time.monotonic() < until:
                said = os.pread(f.fileno(), 1000, 0).decode("utf-8", "replace")
                if said.endswith("\n"):
                    what, _, rest = said.strip().partition(" ")
                    return {"port": int(rest) if what == "port" else 0, "error": "" if what == "port" else rest, "pid": p.pid}
                time.sleep(EVERY)
            os.ftruncate(f.fileno(), 0)
        return {"port": 0, "error": "its main thread does not come back to Python; mlaas stack shows what it does", "pid": p.pid}
    return {"port": 0, "error": "no Python process of the replica lets a debugger in", "pid": 0}


if __name__ == "__main__":
    json.dump({"stacks": stacks, "debugger": debugger}[sys.argv[1]](), sys.stdout)
