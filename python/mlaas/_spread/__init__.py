"""A program for one replica, run on several: what it trains stays together.

The platform says in MLAAS_SPREAD who the replicas are; reading the program
(_look.py) says which way fits it. Then the framework's own points are hooked
as it is imported: _tf1.py, _keras.py, _torch.py. Nothing is done to a program
that distributes itself, and nothing where there is one replica.

Unlike recording, this must not fail quietly: replicas that train apart while
their user believes that they train together are worse than an error. What
goes wrong here ends the program with a sentence.
"""
from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Dict, List, Optional

from .. import _hook, _say

VARIABLE = "MLAAS_SPREAD"


class Settings:
    """What MLAAS_SPREAD says.

    Fields: distribute, as the job has it; entry, the file that is started;
    rank, -1 for a parameter server; peers, "host:port" of chief and workers by
    rank; servers, how many parameter servers; key, of this attempt; seed, the
    same for all replicas.
    """

    def __init__(self, text: str):
        given = json.loads(text)
        self.distribute: str = given.get("distribute", "auto")
        self.entry: str = given.get("entry", "")
        self.rank: int = given["rank"]
        self.peers: List[str] = given["peers"]
        self.servers: int = given.get("servers", 0)
        self.key: bytes = given.get("key", "").encode()
        self.seed: int = given.get("seed", 0)
        self.strategy = ""

    @property
    def size(self) -> int:
        return len(self.peers)


settings: Optional[Settings] = None
_ring: Any = None


def install() -> None:
    """Make ready what fits the program, as a process of Python begins.

    The variable is taken out of the environment: processes that the program
    starts help it and are no replicas.
    """
    text = os.environ.get(VARIABLE, "")
    if not text or not _is_program():
        return
    os.environ.pop(VARIABLE)
    try:
        _install(Settings(text))
    except Exception as e:
        fail("this program cannot be spread over replicas: %s: %s" % (type(e).__name__, e))


def _install(found: Settings) -> None:
    global settings
    from . import _look

    seen = _look.look(os.getcwd(), found.entry, found.distribute, found.size, found.servers)
    if seen["refusals"]:
        fail(sentence(seen["refusals"][0]))
    found.strategy = seen["strategy"]
    settings = found
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)
    if found.rank == 0 and found.strategy:
        for says in seen["says"]:
            _say.once("spread " + says, says)
    begin(found)


def begin(found: Settings) -> None:
    """Register the hooks of found.strategy."""
    if found.strategy == "tf1":
        from . import _tf1 as way
    elif found.strategy == "keras":
        from . import _keras as way  # type: ignore[no-redef]
    elif found.strategy == "torch":
        from . import _torch as way  # type: ignore[no-redef]
    else:
        return
    way.register(found)
    _seeds(found.seed)


def on(name: str) -> Callable[[Callable[[Any], None]], Any]:
    """Register a body for when module name is imported. It must not fail: a
    hook that is missing would let replicas train apart."""

    def register(body: Callable[[Any], None]) -> Any:
        def must(module: Any) -> None:
            try:
                body(module)
            except Exception as e:
                fail("this version of %s cannot be spread over replicas (%s: %s); code.distribute: off runs them apart" % (name.partition(".")[0], type(e).__name__, e))

        must.__qualname__ = must.__name__ = "spread %s" % name
        return _hook.on_import(name)(must)

    return register


def _is_program() -> bool:
    """Whether this process runs the user's code, and does not prepare it."""
    words = getattr(sys, "orig_argv", None) or _command_line()
    return "-m" not in words[1:2] or words[2:3] != ["mlaas._prepare"]


def _command_line() -> List[str]:
    try:
        with open("/proc/self/cmdline", "rb") as f:
            return [os.fsdecode(w) for w in f.read().split(b"\0")[:-1]]
    except OSError:
        return []


def _forked() -> None:
    """A child of the program is no replica."""
    global settings
    settings = None


def _seeds(seed: int) -> None:
    """Programs without seeds of their own begin with the same numbers
    everywhere: the same first weights, and the same split of their data."""
    import random

    random.seed(seed)

    @on("numpy.random")
    def numpy_random(module: Any) -> None:
        module.seed(seed % 2**32)


def diverge() -> None:
    """From now on this replica draws its own numbers: other batches, where the
    program cuts them itself. Those of rank 0 are as they would be alone."""
    if settings is None or settings.rank == 0:
        return
    import random

    random.seed(random.getrandbits(64) + settings.rank)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed((int(numpy.random.randint(2**31)) + settings.rank) % 2**32)


def ring() -> Any:
    """The ring of this process, met at the first call."""
    global _ring
    if settings is None:
        return None
    if _ring is None:
        import atexit

        from ._ring import Ring

        _ring = Ring(settings.peers, settings.rank, settings.key)
        atexit.register(_ring.leave)
    return _ring


def keeps() -> bool:
    """Whether this replica's checkpoints count: where replicas train as one,
    those of the chief alone."""
    return settings is None or not settings.strategy or settings.rank == 0


def sentence(refusal: Dict[str, Any]) -> str:
    at = "%s:%d: " % (refusal["file"], refusal["line"]) if refusal.get("line") else ""
    return "this program cannot be spread over replicas: %s%s" % (at, refusal["text"])


def fail(text: str) -> "NoReturn":  # type: ignore[name-defined]  # noqa: F821
    """End the program with a sentence: a site module's exception would not."""
    sys.stderr.write("mlaas: %s\n" % text)
    sys.stderr.flush()
    os._exit(2)
