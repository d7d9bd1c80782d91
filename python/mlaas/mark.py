"""What the marks in comments call: ``#@step: loss`` becomes ``mark.step({"loss": loss})``.

Each may be called by hand just as well. None of them raises or waits.
"""
from __future__ import annotations

import hashlib
from typing import Any, Callable, Dict, Mapping

from . import _log, _say

EDGE = 1 << 20  # bytes at each end of an array that its fingerprint reads

_steps = -1


def step(values: Mapping[str, Any]) -> None:
    """Count a step of training, and record what is known at it.

    Args:
        values: names and numbers, as mlaas.log takes them. "step" says which
            step it is; without, it is the one after the last.
    """
    _guarded(_step, values)


def evaluate(values: Mapping[str, Any]) -> None:
    """Record an evaluation, as eval/NAME, at the step where training stands.

    Args:
        values: names and numbers, as mlaas.log takes them. "step" says another
            step.
    """
    _guarded(_evaluate, values)


def data(given: Mapping[str, Any]) -> None:
    """Record what the program trains on, as the parameters data/NAME: kind,
    shape, and a fingerprint of arrays.

    Args:
        given: names and arrays, tensors, frames, datasets, or lists.
    """
    _guarded(_data, given)


def _guarded(f: Callable[[Mapping[str, Any]], None], given: Mapping[str, Any]) -> None:
    try:
        f(given)
    except Exception as e:
        _say.once("mark " + f.__name__, "a mark could not be recorded: %s: %s" % (type(e).__name__, e))


def _step(values: Mapping[str, Any]) -> None:
    global _steps
    rest = dict(values)
    if "step" in rest:
        _steps = int(rest.pop("step"))
    else:
        _steps = (_steps if _steps >= 0 else max(_log._recorder.step, 0)) + 1
    _log.log(rest, step=_steps)


def _evaluate(values: Mapping[str, Any]) -> None:
    rest = dict(values)
    at = int(rest.pop("step")) if "step" in rest else max(_steps, _log._recorder.step, 0)
    _log.log({"eval/" + k: v for k, v in rest.items()}, step=at)


def _data(given: Mapping[str, Any]) -> None:
    found: Dict[str, Any] = {}
    for name, thing in given.items():
        found["data/" + name] = describe(thing)
    _log.record_params(found)


def describe(thing: Any) -> str:
    """One line about data: "ndarray float32 (60000, 784) sha256:0f3a..."."""
    words = [type(thing).__name__]
    shape = getattr(thing, "shape", None)
    if shape is not None:
        dtype = getattr(thing, "dtype", None)
        words += ([str(dtype)] if dtype is not None else []) + [str(tuple(shape))]
    elif hasattr(thing, "__len__"):
        words.append("of %d" % len(thing))
    try:
        view = memoryview(thing).cast("B")
    except (TypeError, ValueError):  # no plain memory, or not in one piece
        return " ".join(words)
    digest = hashlib.sha256(view[:EDGE])
    if len(view) > EDGE:
        digest.update(view[max(EDGE, len(view) - EDGE):])
    words.append("sha256:" + digest.hexdigest()[:16])
    return " ".join(words)
