"""TensorFlow 2 without fit: a tape, an optimizer, and perhaps a tf.function.

What is inside a tf.function is Python only while it is traced. If gradients
are applied then, each later call of that function is a step.
"""
from __future__ import annotations

import sys
import threading
import weakref
from typing import Any, Dict, List, Optional

from .. import _hook, _watch

_tracing = threading.local()  # the functions that this thread is in
_stream = _watch.Stream(_watch.STEP, first=50, every=0.25)
_pending: Dict[str, Any] = {}  # losses of an eager step, until it is applied
_steps = 0
_optimizer: Optional["weakref.ref[Any]"] = None


def _inside() -> List[Any]:
    found = _tracing.__dict__.get("functions")
    if found is None:
        found = _tracing.functions = []
    return found


def _eager() -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and tf.executing_eagerly()


def function(module: Any) -> None:
    """Hook the call of a tf.function."""

    def make(inner: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            inside = _inside()
            inside.append(self)
            try:
                result = inner(self, *args, **kwargs)
            finally:
                inside.pop()
            if _trains.get(self) and not inside:
                _hook.guarded(_called, self, result)
            return result

        return call

    _hook.wrap(module.Function, "__call__", make)


_trains: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def tape(module: Any) -> None:
    """Hook GradientTape.gradient: what it is asked to derive is the loss."""

    def make(inner: Any) -> Any:
        def gradient(self: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_derived, target)
            return inner(self, target, *args, **kwargs)

        return gradient

    _hook.wrap(module.GradientTape, "gradient", make)


def _derived(target: Any) -> None:
    if _watch.led() is not None or not hasattr(target, "numpy") or getattr(getattr(target, "shape", None), "rank", 1) != 0:
        return
    if not _inside() and len(_pending) < 16:
        name = _watch.called(target) if "loss" in _pending or not _pending else "loss"
        _pending[name if "loss" in name.lower() else "loss"] = target


def applied(optimizer: Any) -> None:
    """Gradients were applied, now or in the function that is traced."""
    global _steps, _optimizer
    if _watch.led() is not None or not _hook.installed:
        return
    _optimizer = weakref.ref(optimizer)
    inside = _inside()
    if inside:
        _trains[inside[0]] = True
        return
    if not _eager():
        return
    _step(dict(_pending))
    _pending.clear()


def _called(function: Any, result: Any) -> None:
    """A tf.function that trains returned: its scalars are metrics, by their
    keys, or the first of them the loss."""
    if _watch.led() is not None or not _eager():
        return
    found: Dict[str, Any] = {}
    if isinstance(result, dict):
        found = {str(k): v for k, v in result.items() if _scalar(v)}
    else:
        fields = getattr(result, "_fields", None)
        values = list(result) if isinstance(result, (list, tuple)) else [result]
        scalars = [(fields[i] if fields else "loss" if not found else "", v) for i, v in enumerate(values) if _scalar(v)]
        for i, (name, v) in enumerate(scalars):
            found[name if fields else "loss" if i == 0 else "output_%d" % i] = v
    _step(found)


def _trained(optimizer: Any) -> None:
    """Record what the optimizer trains: the model that has its variables, by the
    frames that led here."""
    mine = {id(v): v for v in getattr(optimizer, "_trainable_variables", None) or ()}
    best, most = None, 0
    frame: Any = sys._getframe(1)
    for _ in range(24):
        if frame is None:
            break
        if _watch.users(frame):
            for space in (frame.f_locals, frame.f_globals, getattr(frame.f_locals.get("self"), "__dict__", {})):
                for v in list(space.values()):
                    if not isinstance(v, type) and hasattr(type(v), "trainable_variables"):
                        found = v.trainable_variables
                        common = sum(1 for x in found if id(x) in mine) if mine else len(found)
                        if common > most:
                            best, most = v, common
        frame = frame.f_back
    if best is not None:
        from . import keras

        _watch.model(best, lambda: keras.summary(best) if hasattr(best, "count_params") else {"kind": type(best).__name__, "parameters": _size(best.trainable_variables)})
    elif mine:
        _watch.model(optimizer, lambda: {"kind": "TensorFlow variables", "parameters": _size(mine.values())})


def _size(variables: Any) -> int:
    count = 0
    for v in variables:
        n = 1
        for d in v.shape:
            n *= int(d)
        count += n
    return count


def _scalar(v: Any) -> bool:
    return getattr(getattr(v, "dtype", None), "is_floating", False) and getattr(getattr(v, "shape", None), "rank", 1) == 0


def _step(found: Dict[str, Any]) -> None:
    global _steps
    if _steps == 0:
        _steps = _watch.step
        optimizer = _optimizer() if _optimizer is not None else None
        if optimizer is not None:
            _watch.params({"optimizer": type(optimizer).__name__}, type(optimizer).__name__)
            _trained(optimizer)
    _steps += 1
    _watch.at(_steps)
    if not _stream.sampler.due():
        if found:
            _stream.kept = (found, _steps)
        return
    _stream.kept = None
    from . import keras

    optimizer = _optimizer() if _optimizer is not None else None
    if optimizer is not None:
        found = dict(found, lr=keras._rate(optimizer))
    _watch.say(found, _steps, _watch.STEP)
