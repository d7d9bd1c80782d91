"""Log metrics, keep checkpoints and resume, on the mlaas platform or by hand.

Nothing here slows a training step or breaks a program: recording happens in a
background thread with a bounded queue, what does not fit is counted, and what
goes wrong is said once on stderr. Outside the platform the same calls write to
``./mlaas-runs/<time>/``.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from . import mark
from ._checkpoint import Resumed, checkpoint, resume
from ._evaluate import Evaluation, evaluate
from ._log import flush, log
from ._place import data
from ._spread._sync import sync
from ._track import track

if TYPE_CHECKING:
    from ._place import Params

    rank: int
    """Among chief and workers, from 0; -1 for a ps or an evaluator."""
    world_size: int
    """How many chiefs and workers there are."""
    is_chief: bool
    """Whether this one writes checkpoints and evaluates."""
    role: str
    """chief, worker, ps or evaluator."""
    params: Params
    """The job's parameters. What the program sets is recorded."""
    config: Params
    """The same as params."""
    output: str
    """A folder whose files are kept as results."""

__version__ = "0.1.0"
__all__ = [
    "Evaluation", "Resumed", "checkpoint", "config", "data", "evaluate", "flush", "is_chief", "log", "mark", "output",
    "params", "rank", "resume", "role", "sync", "track", "world_size",
]


def __getattr__(name: str) -> Any:
    # Read from the environment when asked, so that importing costs nothing
    # and a test may change the environment.
    from . import _place

    look = {
        "rank": _place.rank, "world_size": _place.world_size, "is_chief": _place.is_chief,
        "role": _place.role, "params": _place.params, "config": _place.params, "output": _place.output,
    }.get(name)
    if look is None:
        raise AttributeError("module 'mlaas' has no attribute %r" % name)
    return look()


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(__all__))
