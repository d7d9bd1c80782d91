"""Run something of ours right after a module of others was imported.

    @on_import("torch.optim.optimizer")
    def torch_optimizer(module): ...

A finder in front of sys.meta_path has the others find the module, and has
their loader execute it; then the bodies run. Imports of any other name cost a
look into a dict. What a body raises is said once on stderr and ends nothing:
the program goes on untracked.
"""
from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from typing import Any, Callable, Dict, List

from . import _say

Body = Callable[[Any], None]

_bodies: Dict[str, List[Body]] = {}
_finding = threading.local()  # the names that this thread looks for: another finder may ask all of them, us too
installed = False  # whether whatever the program does is tracked, and not just what it gave to mlaas.track


def on_import(name: str) -> Callable[[Body], Body]:
    """Register a body for the module name: it is called with the module right
    after its import, at once if that was before. It is called again when the
    module is loaded again."""

    def register(body: Body) -> Body:
        _bodies.setdefault(name, []).append(body)
        if _Finder.only not in sys.meta_path:
            sys.meta_path.insert(0, _Finder.only)
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            _run(body, module)
        return body

    return register


def later(name: str, home: str, function: str) -> None:
    """Register home.function, whose module is imported when name is."""

    def body(module: Any) -> None:
        getattr(importlib.import_module(home), function)(module)

    body.__qualname__ = body.__name__ = "%s.%s" % (home.rpartition(".")[2], function)
    on_import(name)(body)


def install() -> None:
    """Do to this program what its variables ask for. sitecustomize calls it.

    MLAAS_HOOKS=1: track whatever it imports, unless MLAAS_OFF=1.
    MLAAS_DEBUG=1: let others see what its threads do, and a debugger in.
    MLAAS_SPREAD: train as one of several replicas.
    MLAAS_TF1=0: do not let code written for TensorFlow 1 find its names.
    """
    global installed
    if installed:
        return
    from . import _debug, _hooks

    if _set("MLAAS_DEBUG"):
        _debug.install()
    if _set("MLAAS_HOOKS"):
        _hooks.names()
        if not _set("MLAAS_OFF"):
            installed = True
            _hooks.register()
    if os.environ.get("MLAAS_SPREAD"):  # after tracking, so that it stands outside of it
        from . import _spread

        _spread.install()


def _set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _run(body: Body, module: Any) -> None:
    try:
        body(module)
    except Exception as e:
        _say.once("hook " + body.__qualname__, "%s is not tracked (%s): %s: %s" % (module.__name__, body.__qualname__, type(e).__name__, e))


class _Finder:
    """Finds nothing itself. It asks the finders after it and puts a loader of
    its own before theirs."""

    only: "_Finder"

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _bodies:
            return None
        names = _finding.__dict__.setdefault("names", set())
        if name in names:
            return None
        names.add(name)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec = find(name, path, target)
                if spec is not None:
                    # A loader of the old kind executes in one go what it also makes.
                    if hasattr(spec.loader, "exec_module") and not isinstance(spec.loader, _Loader):
                        spec.loader = _Loader(spec.loader)
                    return spec
        finally:
            names.discard(name)
        return None

    def invalidate_caches(self) -> None:
        pass


_Finder.only = _Finder()


class _Loader:
    """Executes as the real loader does, and runs the bodies after that. While
    it does, the module shows its real loader: it may ask it for its files."""

    def __init__(self, real: Any):
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def create_module(self, spec: Any) -> Any:
        create = getattr(self.real, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: Any) -> None:
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.loader is self:
            spec.loader = self.real
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self.real
        self.real.exec_module(module)
        # What was executed may stand under another object now.
        module = sys.modules.get(module.__name__, module)
        for body in list(_bodies.get(module.__name__, ())):
            _run(body, module)


def guarded(f: Callable[..., None], *args: Any) -> None:
    """Call f; what it raises is said once and ends nothing."""
    try:
        f(*args)
    except Exception as e:
        failed(f, e)


def failed(f: Callable[..., None], e: Exception) -> None:
    """Say once what f raised. What runs at each step has a try of its own and
    calls this: another function between would be a part of what it costs."""
    name = getattr(f, "__qualname__", "something")
    _say.once("tracking " + name, "something was not tracked (%s): %s: %s" % (name, type(e).__name__, e))


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> bool:
    """Replace the function owner.name by make(function), once: also when the
    module is loaded again. False if there is no such function."""
    inner = getattr(owner, name, None)
    if inner is None:
        return False
    if getattr(inner, "_mlaas", False):
        return True
    outer = functools.wraps(inner)(make(inner))
    outer._mlaas = True
    setattr(owner, name, outer)
    return True
