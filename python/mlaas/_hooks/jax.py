"""JAX: a jitted function has no step to hook, so what is seen is each
compilation; mlaas.track(step) records what a step returns."""
from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Dict

from .. import _hook, _watch

_compiled = 0


def jax(module: Any) -> None:
    """Listen to compilations."""
    monitoring = importlib.import_module("jax.monitoring")
    register = getattr(monitoring, "register_event_duration_secs_listener", None)
    if register is not None:
        register(_event)


def _event(name: str, seconds: float, **kwargs: Any) -> None:
    if name.endswith("backend_compile_duration"):
        _hook.guarded(_compile, seconds)


def _compile(seconds: float) -> None:
    global _compiled
    if _watch.led() is not None:
        return
    _compiled += 1
    _watch.say({"jax/compile_seconds": seconds, "jax/compilations": _compiled}, _watch.step, _watch.STEP, again=True)


def watch(step: Any) -> Any:
    """A function that does as step, and whose scalar results are recorded: by
    their keys or fields, else the first as loss."""
    stream = _watch.Stream(_watch.STEP)
    count = [_watch.step]

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        _hook.guarded(called, result)
        return result

    def called(result: Any) -> None:
        count[0] += 1
        _watch.at(count[0])
        found: Dict[str, Any] = {}
        _scalars(result, "", found, 0)
        if found:
            stream.say(found, count[0])

    return tracked


def _scalars(v: Any, name: str, found: Dict[str, Any], depth: int) -> None:
    if len(found) >= 32 or depth > 2:
        return
    fields = getattr(v, "_fields", None)
    if fields:
        v = dict(zip(fields, v))
    if isinstance(v, dict):
        # Weights are dicts too, and their values are no scalars.
        for k, inner in list(v.items())[:64]:
            _scalars(inner, str(k), found, depth + 1)
    elif isinstance(v, (list, tuple)):
        for inner in list(v)[:16]:
            _scalars(inner, "", found, depth + 1)
    elif getattr(v, "ndim", None) == 0 and getattr(getattr(v, "dtype", None), "kind", "") in "fV" and not _traced(v):
        key = name or ("loss" if "loss" not in found else "output_%d" % len(found))
        found.setdefault(key, v)


def _traced(v: Any) -> bool:
    core = sys.modules.get("jax.core")
    tracer = getattr(core, "Tracer", None)
    return tracer is not None and isinstance(v, tracer)


def parameters(tree: Any) -> int:
    """How many numbers a tree of arrays holds; 0 if it is none."""
    if isinstance(tree, dict):
        return sum(parameters(v) for v in tree.values())
    if isinstance(tree, (list, tuple)):
        return sum(parameters(v) for v in tree)
    return int(getattr(tree, "size", 0)) if hasattr(tree, "dtype") else 0
