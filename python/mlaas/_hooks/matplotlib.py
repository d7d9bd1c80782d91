"""matplotlib: figures that are saved or shown are kept as results."""
from __future__ import annotations

import os
import re
import shutil
import sys
import weakref
from typing import Any

from .. import _hook, _place, _watch

FIGURES = 100
BYTES = 64 << 20  # of all together
_kept = 0
_bytes = 0
_saving = 0
_seen: "weakref.WeakSet[Any]" = weakref.WeakSet()  # figures that the program saves itself


def _folder() -> str:
    path = os.path.join(_place.output(), "mlaas", "figures")
    os.makedirs(path, exist_ok=True)
    return path


def figure(module: Any) -> None:
    """Hook Figure.savefig: what is saved is copied."""

    def make(inner: Any) -> Any:
        def savefig(self: Any, fname: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, fname, *args, **kwargs)
            if not _saving:
                _seen.add(self)
                _hook.guarded(_saved, fname)
            return result

        return savefig

    _hook.wrap(module.Figure, "savefig", make)


def _saved(fname: Any) -> None:
    global _kept, _bytes
    try:
        path = os.path.abspath(os.fspath(fname))
    except TypeError:  # a stream, which is the program's own affair
        return
    if not os.path.exists(path):  # matplotlib adds an ending
        import matplotlib

        path += "." + matplotlib.rcParams["savefig.format"]
    output = os.path.abspath(_place.output())
    if path.startswith(output + os.sep):  # it is kept anyway
        return
    size = os.path.getsize(path)
    name = re.sub(r"[^\w.-]", "_", os.path.basename(path))
    target = os.path.join(_folder(), name)
    fresh = not os.path.exists(target)
    if fresh and _kept >= FIGURES or _bytes + size > BYTES or not _watch.speaks():
        return
    shutil.copyfile(path, target)
    _kept += fresh
    _bytes += size


def pyplot(module: Any) -> None:
    """Hook show: where nobody looks, the figures are kept instead."""

    def make(inner: Any) -> Any:
        def show(*args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_shown, module)
            return inner(*args, **kwargs)

        return show

    _hook.wrap(module, "show", make)


def _shown(pyplot: Any) -> None:
    global _kept, _bytes, _saving
    for number in pyplot.get_fignums():
        if _kept >= FIGURES or _bytes > BYTES or not _watch.speaks():
            return
        manager = sys.modules["matplotlib._pylab_helpers"].Gcf.figs.get(number)
        if manager is None or manager.canvas.figure in _seen:
            continue
        target = os.path.join(_folder(), "figure-%d.png" % (_kept + 1))
        _saving += 1
        try:
            manager.canvas.figure.savefig(target)
        finally:
            _saving -= 1
        _kept += 1
        _bytes += os.path.getsize(target)
