"""From a call to log() to the supervisor, without the training noticing.

log() appends to a queue and returns. A daemon thread, started at the first
call, turns values into numbers and hands batches to a sink: the supervisor's
socket, or files by hand. The queue is bounded; what does not fit is counted.
"""
from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Set, Tuple

from . import _place, _say

LIMIT = 100_000  # calls that wait at most: minutes of a fast program
BATCH = 2_000  # calls written at a time, and points in a message
KEY = 256  # characters of a name
PAUSE = 0.1  # seconds between batches: few wake-ups, and still live to the eye
EXIT = 5.0  # seconds that the end of the program waits at most

_CHECKPOINT = "checkpoint"
_PARAMS = "params"
_NOTE = "note"
_EVALUATION = "evaluation"
_FOUND = "found"
_FLUSH = "flush"


def log(metrics: Mapping[str, Any], step: Optional[int] = None) -> None:
    """Record numbers, such as ``log({"loss": loss, "acc": acc}, step=i)``.

    It takes a few microseconds, never blocks and never raises. Values may be
    numbers or arrays and tensors of one element of NumPy, PyTorch, TensorFlow
    or JAX. A value on an accelerator is fetched by a background thread, so
    the step does not wait for the device. Mappings may be nested: {"val":
    {"loss": 1}} is "val/loss". NaN and infinities are values like others.

    Args:
        metrics: names and values. It may be changed afterwards.
        step: where on the axis; if left out, the last one plus 1.
    """
    try:
        for key in metrics:
            if key not in own:
                own.add(key)
        _recorder.log(metrics, step)
    except Exception as e:
        _say.once("log", "something could not be logged: %s: %s" % (type(e).__name__, e))


own: Set[str] = set()  # the names that the program logs itself: no hook says them besides
before_close: List[Callable[[], None]] = []  # called before the last values are handed over


def record(metrics: Mapping[str, Any], step: Optional[int]) -> None:
    """As log, for what was found and not said by the program. What the program
    says itself under the same name, also right after, stands instead."""
    _recorder.log(metrics, step, _FOUND)


def flush(timeout: float = EXIT) -> bool:
    """Wait until everything logged so far is handed over. Returns False if it
    took longer than timeout seconds."""
    try:
        return _recorder.flush(timeout)
    except Exception as e:
        _say.once("flush", "flush failed: %s: %s" % (type(e).__name__, e))
        return False


def record_checkpoint(path: str, step: int, best: Optional[str]) -> None:
    _recorder.put((_CHECKPOINT, {"path": path, "step": step, "best": best}, 0))


def record_params(given: Dict[str, Any]) -> None:
    _recorder.put((_PARAMS, dict(given), 0))


def record_note(kind: str, value: Dict[str, Any]) -> None:
    """Record something that is no number: what a model is, what it runs on."""
    _recorder.put((_NOTE, {"kind": kind, "value": value}, 0))


def record_evaluation(found: Dict[str, Any]) -> None:
    """Record what evaluate found. It is not changed afterwards."""
    _recorder.put((_EVALUATION, found, 0))


class Recorder:
    """The queue and its thread. Its state belongs to one process: a fork gets
    a new one, and what waited stays with the parent."""

    def __init__(self) -> None:
        self.queue: Deque[Tuple[Any, Any, Any]] = deque()
        self.dropped = 0  # of calls, in all; those who log write it
        self.lost = 0  # of calls that the thread gave up; it writes these two
        self.reported = 0
        self.step = -1
        self.idle = False
        self.closing = False
        self.thread: Optional[threading.Thread] = None
        self.starting = threading.Lock()
        self.wake = threading.Event()
        self.off = _place.off()
        found = os.environ.get("MLAAS_RESUME_STEP", "")
        if found.isdigit():
            self.step = int(found)

    def log(self, metrics: Mapping[str, Any], step: Any, kind: Any = None) -> None:
        now = time.time()
        if step is None:
            self.step = step = self.step + 1
        elif type(step) is int:
            self.step = step
        else:
            step = self.step = _whole(step)
        items = []
        for key, v in metrics.items():
            cls = type(v)
            if cls is not float and cls is not int:
                v = _freeze(v)
            items.append((key, v))
        self.put((items, step, now) if kind is None else (kind, (items, step), now))

    def put(self, item: Tuple[Any, Any, Any]) -> None:
        if self.off:
            return
        if len(self.queue) >= LIMIT:
            if item[0] is not _CHECKPOINT and item[0] is not _EVALUATION and item[0] is not _FLUSH:
                self.dropped += 1
                return
        self.queue.append(item)
        # The thread says when it sleeps for good; otherwise it looks by itself
        # and waking it would only take the interpreter away from the step.
        if self.idle:
            self.idle = False
            self.wake.set()
        elif self.thread is None:
            self.start()

    def start(self) -> None:
        # Not waited for: a signal handler may log while its program starts this.
        if not self.starting.acquire(False):
            return
        try:
            if self.thread is not None or self.closing:
                return
            # Imported here and not by the thread: a program that forks in the
            # middle of an import would wait for it for ever in the child.
            import json  # noqa: F401
            import socket  # noqa: F401

            # A child of multiprocessing ends without atexit, but runs these.
            util = sys.modules.get("multiprocessing.util")
            if util is not None:
                util.Finalize(None, _at_exit, exitpriority=10)
            thread = threading.Thread(target=self.run, name="mlaas", daemon=True)
            thread.start()
            self.thread = thread
        finally:
            self.starting.release()

    def flush(self, timeout: float) -> bool:
        if self.thread is None:
            return True
        if not self.thread.is_alive():
            return False
        done = threading.Event()
        self.put((_FLUSH, done, 0))
        self.wake.set()
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Hand over what waits, for at most timeout seconds."""
        for f in before_close:
            f()
        if self.thread is None or not self.thread.is_alive():
            return
        self.closing = True
        self.wake.set()
        self.thread.join(timeout)
        if self.thread.is_alive():
            _say.once("exit", "the last values were not delivered within %g s" % timeout)

    def run(self) -> None:
        sink: Any = None
        try:
            if not _place.socket_path():
                sink = Files()
            else:
                sink = Socket(_place.socket_path() or "", self)
        except Exception as e:
            _say.once("sink", "nothing is recorded: %s" % e)
            self.off = True
            self.off = True
            self.release(list(self.queue))
            self.queue.clear()
            return
        try:
            while True:
                if not self.queue:
                    if self.closing:
                        break
                    self.idle = True
                    if self.queue:  # one came in between
                        self.idle = False
                        continue
                    self.wake.wait()
                    self.idle = False
                    self.wake.clear()
                    if not self.closing:
                        self.wake.wait(PAUSE)  # let a batch gather; flush cuts it short
                        self.wake.clear()
                    continue
                taken = []
                while self.queue and len(taken) < BATCH:
                    taken.append(self.queue.popleft())
                dropped = self.dropped + self.lost - self.reported
                try:
                    sink.write(self.messages(taken, dropped))
                    self.reported += dropped
                except Lost:
                    break
                except Exception as e:
                    self.lost += len(taken)
                    _say.once("write", "values could not be recorded: %s" % e)
                self.release(taken)
                if not self.closing and len(self.queue) < LIMIT // 2:
                    self.wake.wait(PAUSE)
                    self.wake.clear()
        finally:
            try:
                sink.close()
            except Exception:
                pass

    @staticmethod
    def release(taken: List[Tuple[Any, Any, Any]]) -> None:
        """Tell those who wait in flush."""
        for what, a, _ in taken:
            if what is _FLUSH:
                a.set()

    def messages(self, taken: List[Tuple[Any, Any, Any]], dropped: int) -> List[Dict[str, Any]]:
        out: List[Dict[str, Any]] = []
        points: List[List[Any]] = []
        for what, a, b in taken:
            if what is _CHECKPOINT:
                # In order: the points before a checkpoint are said before it.
                if points:
                    out.append({"points": points})
                    points = []
                out.append({"checkpoint": a})
            elif what is _FLUSH:
                continue
            elif what is _PARAMS:
                out.append({"params": {k: _plain(v) for k, v in a.items()}})
            elif what is _EVALUATION:
                if points:  # what was logged before is said before it
                    out.append({"points": points})
                    points = []
                out.append({"evaluation": a})
            elif what is _NOTE:
                out.append({"note": {"kind": a["kind"], "value": _plain(a["value"])}})
            else:
                if what is _FOUND:
                    what, a = [item for item in a[0] if item[0] not in own], a[1]
                step, ms = a, int(b * 1000)
                if type(step) is not int:
                    try:
                        step = int(step)
                    except Exception:
                        _say.once("step", "a step is %r, want a whole number; such values are not recorded" % (step,))
                        continue
                for key, v in what:
                    _points(points, str(key), step, ms, v)
                if len(points) >= BATCH:  # no message is larger than the supervisor takes
                    out.extend({"points": points[i : i + BATCH]} for i in range(0, len(points), BATCH))
                    points = []
        if points:
            out.append({"points": points})
        if dropped:
            _say.once("dropped", "values come faster than they can be handed over; some are dropped and counted")
            out.append({"dropped": dropped})
        return out


def _points(out: List[List[Any]], key: str, step: int, ms: int, v: Any) -> None:
    if isinstance(v, dict):
        for k, inner in v.items():
            _points(out, "%s/%s" % (key, k), step, ms, inner)
        return
    if len(key) > KEY:
        _say.once("key", "a name of %d characters, want at most %d; such values are not recorded" % (len(key), KEY))
        return
    try:
        number = float(v)
    except Exception:
        try:
            number = float(v.item())  # an array of one element, whatever its shape
        except Exception:
            _say.once("value " + key, "%r is not one number but %s; it is not recorded" % (key, type(v).__name__))
            return
    if number != number:
        out.append([key, step, ms, "NaN"])
    elif number in (_INF, -_INF):
        out.append([key, step, ms, "Infinity" if number > 0 else "-Infinity"])
    else:
        out.append([key, step, ms, number])


_INF = float("inf")


def _whole(step: Any) -> Any:
    """A step that is not an int: of NumPy, or a tensor. Those on a device are
    turned into a number later."""
    try:
        return step.__index__()
    except Exception:
        return _freeze(step)


def _freeze(v: Any) -> Any:
    """What v is now, without waiting for a device.

    Values that cannot change are kept as they are and converted later. An
    array or a tensor in host memory may be overwritten by the next step, so it
    is read now, which takes no waiting. A tensor on a device is copied there:
    the copy is queued behind the work that makes it and read in the
    background. It leaves its graph, or it would keep the whole step alive.
    """
    if isinstance(v, (float, int, str)) or v is None:
        return v
    kind = type(v)
    home = (kind.__module__ or "").partition(".")[0]
    if home == "torch" or hasattr(v, "requires_grad") and hasattr(v, "detach"):
        v = v.detach()
        if v.numel() != 1:
            return "a tensor of shape %s" % (tuple(v.shape),)
        return v.item() if v.device.type == "cpu" else v.clone()
    if home == "numpy":
        if not hasattr(v, "size") or v.size != 1:
            return "an array of shape %s" % (getattr(v, "shape", ()),)
        return v.item()
    if hasattr(v, "items"):
        return {k: _freeze(inner) for k, inner in v.items()}
    if home == "tensorflow" and hasattr(v, "assign"):
        return v.read_value() if hasattr(v, "read_value") else v
    return v


def _plain(v: Any) -> Any:
    """A parameter as JSON can carry it."""
    if v is None or isinstance(v, (bool, int, str)):
        return v
    if isinstance(v, float):
        return v if v == v and v not in (_INF, -_INF) else repr(v)
    if isinstance(v, dict):
        return {str(k): _plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple, set, frozenset)):
        return [_plain(x) for x in v]
    try:
        return _plain(v.item())
    except Exception:
        return str(v)


class Lost(Exception):
    """The supervisor is not reachable and the program ends."""


class Socket:
    """Lines of JSON to the supervisor. While it is away, what is in hand is
    kept and tried again; the queue behind it fills and then counts."""

    def __init__(self, path: str, recorder: Recorder):
        import json
        import socket

        self.path, self.recorder = path, recorder
        self.encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode
        self.socket = socket
        self.conn: Any = None

    def connect(self) -> None:
        conn = self.socket.socket(self.socket.AF_UNIX, self.socket.SOCK_STREAM)
        try:
            conn.settimeout(2.0)
            self.reach(conn)
        except BaseException:
            conn.close()
            raise
        self.conn = conn

    def reach(self, conn: Any) -> None:
        if len(os.fsencode(self.path)) < 100 or not os.path.isdir("/proc/self/fd"):
            conn.connect(self.path)
            return
        # The system takes no longer path than this; its folder has a short one.
        folder, name = os.path.split(self.path)
        fd = os.open(folder, os.O_RDONLY)
        try:
            conn.connect("/proc/self/fd/%d/%s" % (fd, name))
        finally:
            os.close(fd)

    def write(self, messages: List[Dict[str, Any]]) -> None:
        wait = 0.05
        for message in messages:
            line = (self.encode(message) + "\n").encode("ascii")
            while True:
                try:
                    if self.conn is None:
                        self.connect()
                    self.conn.sendall(line)
                    wait = 0.05
                    break
                except OSError:
                    # Half a line ends with its connection, and the supervisor
                    # drops it: the whole line is said again on the next one.
                    self.close()
                    if self.recorder.closing:
                        if wait > 1:
                            raise Lost("the supervisor is not reachable") from None
                    elif wait > 1:
                        _say.once("socket", "the supervisor does not answer; values are kept until it does")
                    self.recorder.wake.wait(wait)
                    self.recorder.wake.clear()
                    wait = min(wait * 2, 2.0)

    def close(self) -> None:
        if self.conn is not None:
            try:
                self.conn.close()
            except OSError:
                pass
            self.conn = None


class Files:
    """By hand: metrics.jsonl, params.json, evaluations.jsonl and notes.jsonl in this run's folder."""

    def __init__(self) -> None:
        import json

        self.json = json
        self.folder = _place.folder()
        # One write a batch, at the end: a forked child writes there too.
        self.file = open(os.path.join(self.folder, "metrics.jsonl"), "ab", buffering=0)
        self.params: Dict[str, Any] = dict(_place.params())
        self.write_params()
        _say.once("folder", "recording to %s" % os.path.relpath(self.folder))

    def write_params(self) -> None:
        path = os.path.join(self.folder, "params.json")
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            self.json.dump({k: _plain(v) for k, v in self.params.items()}, f, indent=1, sort_keys=True)
            f.write("\n")
        os.replace(path + ".tmp", path)

    def write(self, messages: List[Dict[str, Any]]) -> None:
        lines = []
        for message in messages:
            for key, step, ms, v in message.get("points", ()):
                lines.append(self.json.dumps({"key": key, "step": step, "time": ms, "value": v}) + "\n")
            if "params" in message:
                self.params.update(message["params"])
                self.write_params()
            if "evaluation" in message:
                with open(os.path.join(self.folder, "evaluations.jsonl"), "a", encoding="ascii") as f:
                    f.write(self.json.dumps(message["evaluation"]) + "\n")
            if "note" in message:
                with open(os.path.join(self.folder, "notes.jsonl"), "a", encoding="ascii") as f:
                    f.write(self.json.dumps(message["note"]) + "\n")
        if lines:
            self.file.write("".join(lines).encode("ascii"))

    def close(self) -> None:
        self.file.close()


_recorder = Recorder()


def _at_exit() -> None:
    try:
        _recorder.close(EXIT)
    except Exception:
        pass


def _after_fork() -> None:
    global _recorder
    _place.after_fork()
    step = _recorder.step
    _recorder = Recorder()
    _recorder.step = step


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
