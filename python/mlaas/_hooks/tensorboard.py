"""TensorBoard: scalars that a program writes for it, by whichever library."""
from __future__ import annotations

import os
from typing import Any, Dict, Optional, Set

from .. import _hook, _watch

_stream: Dict[str, _watch.Stream] = {}
_heard: Set[str] = set()  # what the hooks have seen
_first: Dict[str, str] = {}  # the folder that had a tag first
_inside = 0  # add_scalar of a SummaryWriter writes an event, too


def writer(module: Any) -> None:
    """Hook the writers of event files that are Python's."""

    def make(inner: Any) -> Any:
        def add_event(self: Any, event: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, event, *args, **kwargs)
            if not _inside:
                _hook.guarded(_event, event, str(getattr(self, "_logdir", "")))
            return result

        return add_event

    _hook.wrap(module.EventFileWriter, "add_event", make)


def _event(event: Any, folder: str) -> None:
    if not hasattr(event, "HasField") or not event.HasField("summary"):
        return
    for value in event.summary.value:
        if value.HasField("simple_value"):
            _scalar(value.tag, value.simple_value, event.step, folder)
        elif value.HasField("tensor") and not value.tensor.tensor_shape.dim and value.tensor.dtype in (1, 2):
            t = value.tensor
            v = list(t.float_val) or list(t.double_val)
            if v:
                _scalar(value.tag, v[0], event.step, folder)


def scalar(module: Any) -> None:
    """Hook tf.summary.scalar, whose writer is not Python's. Inside a
    tf.function it is only traced: events reads the file."""

    def make(inner: Any) -> Any:
        def scalar(name: Any, data: Any, step: Any = None, *args: Any, **kwargs: Any) -> Any:
            result = inner(name, data, step, *args, **kwargs)
            _hook.guarded(_summary, name, data, step)
            return result

        return scalar

    _hook.wrap(module, "scalar", make)


def _summary(name: str, data: Any, step: Any) -> None:
    import sys

    tf = sys.modules.get("tensorflow")
    if tf is None or not tf.executing_eagerly():
        return
    if step is None:
        step = tf.summary.experimental.get_step()
    if step is not None:
        from . import events

        _scalar(name, data, step, events.current())


def summary_writer(module: Any) -> None:
    """Hook SummaryWriter: values as they are given, before they are rounded to
    single precision, and its hyperparameters."""

    def scalar(inner: Any) -> Any:
        def add_scalar(self: Any, tag: Any, scalar_value: Any, global_step: Any = None, *args: Any, **kwargs: Any) -> Any:
            global _inside
            _inside += 1
            try:
                result = inner(self, tag, scalar_value, global_step, *args, **kwargs)
            finally:
                _inside -= 1
            _hook.guarded(_scalar, tag, scalar_value, global_step, _folder(self))
            return result

        return add_scalar

    def scalars(inner: Any) -> Any:
        def add_scalars(self: Any, main_tag: Any, tag_scalar_dict: Any, global_step: Any = None, *args: Any, **kwargs: Any) -> Any:
            global _inside
            _inside += 1  # each has a writer of its own, and all of them the same tag
            try:
                result = inner(self, main_tag, tag_scalar_dict, global_step, *args, **kwargs)
            finally:
                _inside -= 1
            _hook.guarded(_scalars, main_tag, tag_scalar_dict, global_step, _folder(self))
            return result

        return add_scalars

    def hparams(inner: Any) -> Any:
        def add_hparams(self: Any, hparam_dict: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, hparam_dict, *args, **kwargs)
            _hook.guarded(_watch.params, hparam_dict, "hparams")
            return result

        return add_hparams

    _hook.wrap(module.SummaryWriter, "add_scalar", scalar)
    _hook.wrap(module.SummaryWriter, "add_scalars", scalars)
    _hook.wrap(module.SummaryWriter, "add_hparams", hparams)


def _folder(writer: Any) -> str:
    return str(getattr(writer, "log_dir", None) or getattr(writer, "logdir", None) or "")


def _scalars(main: Any, given: Any, step: Any, folder: str) -> None:
    for tag, v in given.items():
        _scalar("%s/%s" % (main, tag), v, step, folder)


def _scalar(tag: Any, v: Any, step: Any, folder: str) -> None:
    # A trainer's own logger says what the trainer has said.
    if _watch.led() is not None and not _watch.users(_caller()):
        return
    key = _key(str(tag), folder)
    _heard.add(key)
    _say(key, v, step)


def _key(tag: str, folder: str) -> str:
    """A tag, with the folder's name where another folder has it too: those of
    training and of validation are often called the same."""
    folder = os.path.abspath(folder) if folder else ""
    first = _first.setdefault(tag, folder)
    return tag if not folder or first in ("", folder) else "%s/%s" % (os.path.basename(folder), tag)


def unheard(tag: str, v: float, step: int, folder: str) -> None:
    """Record what stands in an event file, if no hook has seen it."""
    key = _key(tag, folder)
    if key not in _heard:
        _say(key, v, step)


def _say(key: str, v: Any, step: Any) -> None:
    stream = _stream.get(key)
    if stream is None:
        if len(_stream) >= 1000:
            return
        stream = _stream[key] = _watch.Stream(_watch.BOARD)
    at: Optional[int] = None if step is None else int(step)
    stream.say({key: v}, _watch.step if at is None else at)


def _caller() -> Any:
    """The nearest frame outside of the libraries that write events."""
    import sys

    frame: Any = sys._getframe(2)
    while frame.f_back is not None and ("/mlaas/_" in frame.f_code.co_filename or "tensorboard" in frame.f_code.co_filename or "/summary/" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame
