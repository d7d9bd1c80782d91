"""What the hooks share: whose word counts, at which step, and how often.

Several hooks may see the same training: Keras, and the PyTorch under it. Each
says what it sees by a rank, and a metric belongs to the highest that said it;
what the program logs itself is above all. Of the processes of one replica the
first that trains speaks, until it ends.
"""
from __future__ import annotations

import os
import sys
import time
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from . import _hook, _log, _place, _say

PRINTED, BOARD, STEP, TRAINER = range(4)  # ranks: a line of text, TensorBoard, one training step, whoever leads them

FIRST = 200  # values of a kind that are recorded one by one
EVERY = 0.1  # seconds between later ones: recording one costs a hundred times what looking at the clock does
SLOWEST = 1.0  # seconds after which one is recorded in any case

step = max(0, _log._recorder.step)  # of the training, in this program: hooks count on from here
counted = False  # whether a hook has counted a step

_ranks: Dict[str, int] = {}
_last: Dict[str, int] = {}  # the step at which a metric was last said
_params: Dict[str, Any] = {}


class Sampler:
    """Says when to record: always at first, then a few times a second."""

    __slots__ = ("left", "every", "then", "used", "at_last")

    def __init__(self, first: int = FIRST, every: float = EVERY):
        self.left, self.every, self.then, self.used, self.at_last = first, every, 0.0, 0.0, 0.0

    def due(self) -> bool:
        if self.left:
            self.left -= 1
            return True
        now = time.monotonic()
        if now < self.then:
            return False
        self.then = now + self.every
        # On a busy machine much time passes in few steps, and recording would be
        # a larger part of them: what this thread has used counts, up to a limit.
        used = time.thread_time()
        if used - self.used < self.every and now < self.at_last + SLOWEST:
            return False
        self.used, self.at_last = used, now
        return True


class Stream:
    """Metrics of one kind, step after step: as many as the sampler lets
    through, and the last in any case."""

    def __init__(self, rank: int, first: int = FIRST, every: float = EVERY):
        self.rank, self.sampler = rank, Sampler(first, every)
        self.kept: Optional[Tuple[Mapping[str, Any], int]] = None
        _streams.append(self)

    def say(self, found: Mapping[str, Any], now: int) -> None:
        if self.sampler.due():
            self.kept = None
            say(found, now, self.rank)
        else:
            self.kept = (found, now)

    def end(self) -> None:
        if self.kept is not None:
            found, now = self.kept
            self.kept = None
            say(found, now, self.rank)


_streams: List[Stream] = []


def at(now: int) -> None:
    """The training is at this step."""
    global step, counted
    step, counted = now, True


def say(found: Mapping[str, Any], now: int, rank: int, again: bool = False) -> None:
    """Record metrics at a step. One that a higher rank has said is left to it.
    One that was said at this step already is left out, or with again put at
    the next one that is free."""
    if not speaks():
        return
    kept: Dict[int, Dict[str, Any]] = {}
    for key, v in found.items():
        if v is None or key in _log.own or _ranks.get(key, rank) > rank:
            continue
        at = now
        last = _last.get(key)
        if last is not None and last >= now and (again or last == now):
            if not again:
                continue
            at = last + 1
        if len(_last) < 10_000 or key in _last:
            _ranks[key], _last[key] = rank, at
            kept.setdefault(at, {})[key] = v
    for at, metrics in kept.items():
        _log.record(metrics, at)


def said(key: str) -> bool:
    """Whether a hook, or the program itself, has recorded this metric."""
    return key in _log.own or _ranks.get(key, PRINTED) > PRINTED


def params(given: Mapping[str, Any], of: str) -> None:
    """Record parameters. Where two things have one of the same name and another
    value, the later's is called of.NAME."""
    if not speaks():
        return
    fresh = {}
    for key, v in given.items():
        key = str(key)[: _log.KEY]
        if _secret(key):
            v = "(not recorded)"
        elif not isinstance(v, (bool, int, float, str, type(None))):
            v = repr(v)
        if isinstance(v, str):
            v = v[:1000]
        if key in _params and not _same(_params[key], v):
            key = "%s.%s" % (of, key)
        if len(_params) < 1000 and not (key in _params and _same(_params[key], v)):
            _params[key] = fresh[key] = v
    if fresh:
        _log.record_params(fresh)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or a != a and b != b)


def _secret(key: str) -> bool:
    return any(word in key.lower() for word in ("password", "passwd", "secret", "token", "api_key", "apikey", "credential")) and not any(
        word in key.lower() for word in ("tokens", "tokenizer", "token_id", "token_len", "max_token")
    )


_models: "weakref.WeakSet[Any]" = weakref.WeakSet()
_noted = 0


def model(thing: Any, value: Callable[[], Dict[str, Any]]) -> None:
    """Record what a model is, once: its kind, how many parameters, a summary."""
    global _noted
    try:
        if thing in _models:
            return
        _models.add(thing)
    except TypeError:  # it cannot be remembered
        pass
    if _noted >= 16 or not speaks():
        return
    _noted += 1
    said = value()
    if isinstance(said.get("summary"), str):
        said["summary"] = said["summary"][: 64 << 10]
    _log.record_note("model", said)


# ---- regions: while a trainer leads, the steps under it are its own ----


class Region:
    """A stretch in which a trainer leads. It ends with leave(), or when owner
    is gone: an exception may have passed by its end."""

    def __init__(self, owner: Any, steps: bool = True):
        self.steps = steps  # whether the trainer itself says each step's loss
        self.owner = weakref.ref(owner, self.leave) if owner is not None else None
        _regions.append(self)

    def leave(self, _: Any = None) -> None:
        if self in _regions:
            _regions.remove(self)


_regions: List[Region] = []


def led() -> Optional[Region]:
    """The region that this is in."""
    return _regions[-1] if _regions else None


# ---- one process speaks ----

_speaks: Optional[bool] = None
_again = 0.0
_lock: Any = None


def speaks() -> bool:
    """Whether this process is the one of its replica whose hooks are heard."""
    global _speaks, _again
    if _speaks:
        return True
    now = time.monotonic()
    if _speaks is not None and now < _again:
        return False
    _again = now + 2
    _speaks = _claim()
    if _speaks:
        _hook.guarded(_environment)
    return _speaks


def _claim() -> bool:
    if _place.off():
        return False
    if not _hook.installed or not _place.on_platform():
        return True
    torch = sys.modules.get("torch.distributed")
    # Several ranks in one replica: the first of them. Where each replica is a
    # rank, each has its own series.
    if torch is not None and not os.environ.get("MLAAS_HOSTS") and torch.is_available() and torch.is_initialized() and torch.get_rank() != 0:
        return False
    global _lock
    try:
        import fcntl

        name = "mlaas-%s-%s-%s" % tuple(os.environ.get(v, "") for v in ("MLAAS_RUN", "MLAAS_REPLICA", "MLAAS_EPOCH"))
        _lock = open(os.path.join(os.environ.get("TMPDIR") or "/tmp", name), "a")
        fcntl.flock(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _lock.close()
        return False
    except (ImportError, OSError) as e:
        _say.once("speaks", "if several processes of this replica train, all are recorded: %s" % e)
    return True


def _environment() -> None:
    """Record what this program runs on. Packages by the names of their folders:
    reading them takes a hundred times as long."""
    if not _hook.installed:
        return
    import platform

    packages = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")) and "-" in name:
                package, version = name.rsplit(".", 1)[0].split("-")[:2]
                packages.setdefault(package.replace("_", "-").lower(), version)
    _log.record_note("environment", {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": "%s %s %s" % (platform.system(), platform.release(), platform.machine()),
        "command": [str(a)[:1000] for a in getattr(sys, "argv", [])[:100]],
        "packages": dict(sorted(packages.items())[:2000]),
    })


def own(path: Optional[str]) -> bool:
    """Whether a file is the user's own, and not one of Python or a package."""
    if not path or path.startswith("<"):
        return False
    return not any(p in path for p in ("site-packages", "dist-packages", "/lib/python", os.sep + "mlaas" + os.sep + "_"))


def users(frame: Any) -> bool:
    """Whether a frame is of the user's own code."""
    path = frame.f_code.co_filename
    if path.startswith("<"):  # python -c, a notebook
        return frame.f_globals.get("__name__") == "__main__"
    return own(path)


def program() -> bool:
    """Whether what runs here is the user's program: not pip, torchrun or a
    server of theirs."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(spec, "origin", None) or getattr(main, "__file__", None) or (sys.argv[0] if getattr(sys, "argv", None) else None)
    return own(os.path.abspath(path)) if path and path != "-c" else path == "-c"


def called(thing: Any) -> str:
    """What the user's code calls this object: the variable or attribute by
    which the nearest frames of it know it; "" if none does."""
    frame: Any = sys._getframe(1)
    for _ in range(24):
        if frame is None:
            return ""
        if users(frame):
            for space in (frame.f_locals, frame.f_globals):
                for name, v in list(space.items()):
                    if v is thing and not name.startswith("_"):
                        return name
            for holder in list(frame.f_locals.values()):  # self.loss, model.loss
                inside = getattr(holder, "__dict__", None)
                if type(inside) is dict and len(inside) < 1000:
                    for name, v in list(inside.items()):
                        if v is thing:
                            return name.lstrip("_")
        frame = frame.f_back
    return ""


def _finish() -> None:
    for stream in _streams:
        _hook.guarded(stream.end)


def _after_fork() -> None:
    """In a child: it is another process, and what waited is the parent's."""
    global _speaks, _again
    _speaks, _again = (None if _hook.installed else _speaks), 0.0
    _regions.clear()
    for stream in _streams:
        stream.kept = None


_log.before_close.append(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
