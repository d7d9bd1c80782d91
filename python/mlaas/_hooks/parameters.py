"""Parameters that a program reads from its command line or configuration."""
from __future__ import annotations

import sys
from typing import Any, Dict

from .. import _hook, _watch

_parsing = 0  # a parser of a subcommand runs inside its parent


def argparse(module: Any) -> None:
    def make(inner: Any) -> Any:
        def parse_known_args(self: Any, *args: Any, **kwargs: Any) -> Any:
            global _parsing
            _parsing += 1
            try:
                result = inner(self, *args, **kwargs)
            finally:
                _parsing -= 1
            if not _parsing:
                _hook.guarded(_parsed, vars(result[0]))
            return result

        return parse_known_args

    _hook.wrap(module.ArgumentParser, "parse_known_args", make)


def _parsed(found: Any) -> None:
    # A library may read a command line of its own; so may pip.
    if not _watch.program() or not _asked():
        return
    _watch.params({k: v for k, v in found.items() if not callable(v)}, "arguments")


def _asked() -> bool:
    """Whether it is the user's code that parses."""
    frame: Any = sys._getframe(3)
    while frame is not None:
        path = frame.f_code.co_filename
        if _watch.users(frame):
            return True
        # Between the user and the parser stand argparse itself and what is built upon it.
        if "site-packages" in path and not any(n in path for n in ("argparse", "absl", "transformers", "jsonargparse", "lightning", "simple_parsing")):
            return False
        frame = frame.f_back
    return False


def absl(module: Any) -> None:
    def make(inner: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            _hook.guarded(_flags, self)
            return result

        return call

    _hook.wrap(module.FlagValues, "__call__", make)


def _flags(flags: Any) -> None:
    """The flags that the user's own modules define."""
    found: Dict[str, Any] = {}
    for name, defined in flags.flags_by_module_dict().items():
        module = sys.modules.get("__main__" if name in (getattr(sys, "argv", [""])[0], "__main__") else name)
        if module is not None and _watch.own(getattr(module, "__file__", None) or "") or name in getattr(sys, "argv", [""])[:1]:
            found.update({f.name: f.value for f in defined})
    if _watch.program():
        _watch.params(found, "flags")


def hydra(module: Any) -> None:
    def make(inner: Any) -> Any:
        def run_job(task_function: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_config, config)
            return inner(task_function, config, *args, **kwargs)

        return run_job

    _hook.wrap(module, "run_job", make)


def _config(config: Any) -> None:
    from omegaconf import OmegaConf

    found: Dict[str, Any] = {}
    _flatten(OmegaConf.to_container(config), "", found)
    _watch.params({k: v for k, v in found.items() if not k.startswith("hydra.")}, "hydra")


def _flatten(v: Any, name: str, found: Dict[str, Any]) -> None:
    if isinstance(v, dict):
        for k, inner in v.items():
            _flatten(inner, "%s.%s" % (name, k) if name else str(k), found)
    elif len(found) < 1000:
        found[name] = v


def click(module: Any) -> None:
    def make(inner: Any) -> Any:
        def invoke(self: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_context, ctx)
            return inner(self, ctx, *args, **kwargs)

        return invoke

    _hook.wrap(module.Command, "invoke", make)


def _context(ctx: Any) -> None:
    if _watch.program():
        _watch.params(dict(ctx.params), str(ctx.info_name or "click"))
