"""Event files of TensorBoard, read as they grow: what is written by a graph or
by a library that is not Python's is seen nowhere else."""
from __future__ import annotations

import atexit
import os
import struct
import sys
import threading
import time
import weakref
from typing import Any, Dict, Iterator, Tuple

from .. import _hook, _say, _watch
from . import tensorboard

PAUSE = 2.0  # seconds between looks
FILES = 200  # that are read

_folders: Dict[str, float] = {}  # and when the first writer for it was made
_read: Dict[str, int] = {}  # bytes of each file
_writers: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
_reading = threading.Lock()


def writers(module: Any) -> None:
    """Hook the making of TensorFlow 2's writers: they say where."""

    def make(inner: Any) -> Any:
        def create_file_writer_v2(logdir: Any, *args: Any, **kwargs: Any) -> Any:
            writer = inner(logdir, *args, **kwargs)
            _hook.guarded(_made, writer, logdir)
            return writer

        return create_file_writer_v2

    _hook.wrap(module, "create_file_writer_v2", make)


def _made(writer: Any, folder: Any) -> None:
    if isinstance(folder, (str, os.PathLike)) and not hasattr(folder, "graph"):
        folder = os.path.abspath(os.fspath(folder))
        _writers[writer] = folder
        # A trainer's own logger says what the trainer has said.
        if _watch.led() is None and _watch.users(_caller()):
            follow(folder)


def _caller() -> Any:
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and ("/mlaas/_" in frame.f_code.co_filename or "/tensorflow/python/" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def current() -> str:
    """The folder of the writer that TensorFlow 2 writes to now; "" if none."""
    state = getattr(sys.modules.get("tensorflow.python.ops.summary_ops_v2"), "_summary_state", None)
    writer = getattr(state, "writer", None)
    return "" if writer is None else _writers.get(writer, "")


def follow(folder: str) -> None:
    """Read the event files of a folder that are written from now on."""
    if not _folders:
        # After TensorFlow has registered its own end, so before it ends.
        atexit.register(_hook.guarded, _end)
        threading.Thread(target=_follow, name="mlaas events", daemon=True).start()
    if folder not in _folders:
        _folders[folder] = time.time() - 60  # a file's time is that of its file system


def _follow() -> None:
    pause = threading.Event()
    while not pause.wait(PAUSE):
        _hook.guarded(look)


def _end() -> None:
    tf = sys.modules.get("tensorflow")
    if tf is not None and tf.executing_eagerly():
        for writer in list(_writers):
            _hook.guarded(writer.flush)
    look()


def look() -> None:
    """Record what stands in the files since the last look."""
    with _reading:
        for folder, since in list(_folders.items()):
            for path in sorted(_files(folder, since)):
                if path not in _read and len(_read) >= FILES:
                    _say.once("events", "more than %d event files are written; the others are not recorded" % FILES)
                    continue
                _read[path] = _events(path, _read.get(path, 0))


def _files(folder: str, since: float) -> Iterator[str]:
    try:
        for e in os.scandir(folder):
            if "tfevents" in e.name and e.is_file() and (e.path in _read or e.stat().st_mtime >= since):
                yield e.path
    except OSError:
        pass  # it is not there yet


def _events(path: str, at: int) -> int:
    """Record the scalars from a place in a file on. Returns: how far it was whole."""
    with open(path, "rb") as f:
        f.seek(at)
        while True:
            head = f.read(12)
            if len(head) < 12:
                return at
            (size,) = struct.unpack("<Q", head[:8])
            data = f.read(size + 4)
            if len(data) < size + 4:
                return at
            at += 12 + size + 4
            _event(data[:size], os.path.dirname(path))


def _event(data: bytes, folder: str) -> None:
    step, summaries = 0, []
    for number, v in _fields(data):
        if number == 2:
            step = v
        elif number == 5:
            summaries.append(v)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == 1:
                tag, found = _value(value)
                if found is not None:
                    tensorboard.unheard(tag, found, step, folder)


def _value(data: bytes) -> Tuple[str, Any]:
    """The tag of a summary's value, and its number; None if it is no scalar."""
    tag, found = "", None
    for number, v in _fields(data):
        if number == 1:
            tag = v.decode("utf-8", "replace")
        elif number == 2 and isinstance(v, bytes):
            found = struct.unpack("<f", v)[0]
        elif number == 8:
            found = _tensor(v)
    return tag, found


def _tensor(data: bytes) -> Any:
    kind, numbers = 0, b""
    for number, v in _fields(data):
        if number == 1:
            kind = v
        elif number == 2 and any(n == 2 for n, _ in _fields(v)):
            return None  # it has dimensions
        elif number in (4, 5, 6):
            numbers = v
    form, size = {1: ("<f", 4), 2: ("<d", 8)}.get(kind, ("", 0))
    return struct.unpack(form, numbers)[0] if form and len(numbers) == size else None


def _fields(data: bytes) -> Iterator[Tuple[int, Any]]:
    """The fields of a message in protocol buffers: whole numbers, else bytes."""
    i = 0
    while i < len(data):
        key, i = _varint(data, i)
        kind = key & 7
        if kind == 0:
            v: Any
            v, i = _varint(data, i)
        else:
            if kind == 2:
                size, i = _varint(data, i)
            else:
                size = {1: 8, 5: 4}[kind]
            v, i = data[i : i + size], i + size
        yield key >> 3, v


def _varint(data: bytes, i: int) -> Tuple[int, int]:
    v = shift = 0
    while True:
        b = data[i]
        i += 1
        v |= (b & 0x7F) << shift
        if b < 0x80:
            return (v if v < 1 << 63 else v - (1 << 64)), i
        shift += 7
