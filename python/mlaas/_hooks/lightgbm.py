"""LightGBM: what each round evaluates, parameters, the model that comes out."""
from __future__ import annotations

import inspect
from typing import Any

from .. import _hook, _watch
from .xgboost import alone


def engine(module: Any) -> None:
    """Hook train and cv, which the estimators call too."""
    for name in ("train", "cv"):
        inner = getattr(module, name, None)
        if inner is not None and "callbacks" in inspect.signature(inner).parameters:
            _hook.wrap(module, name, _trains)


def _trains(inner: Any) -> Any:
    signature = inspect.signature(inner)

    def train(*args: Any, **kwargs: Any) -> Any:
        try:
            if _hook.installed and alone():
                bound = signature.bind(*args, **kwargs)
                _begins(bound.arguments)
                bound.arguments["callbacks"] = list(bound.arguments.get("callbacks") or []) + [_Rounds()]
                args, kwargs = bound.args, bound.kwargs
        except Exception as e:
            _hook.guarded(_failed, e)
        result = inner(*args, **kwargs)
        _hook.guarded(_trained, result)
        return result

    return train


def _failed(e: Exception) -> None:
    raise e


def _begins(arguments: Any) -> None:
    given = {k: v for k, v in (arguments.get("params") or {}).items() if v is not None}
    _watch.params(dict(given, num_boost_round=arguments.get("num_boost_round", 100)), "lightgbm")


class _Rounds:
    """A callback of LightGBM: it records what a round has evaluated anyway."""

    order = 25  # after printing, before stopping early, which ends a round by an exception
    before_iteration = False

    def __init__(self) -> None:
        self.base = _watch.step

    def __call__(self, env: Any) -> None:
        _hook.guarded(self.round, env)

    def round(self, env: Any) -> None:
        step = self.base + env.iteration + 1
        _watch.at(step)
        found = {}
        for entry in env.evaluation_result_list or ():
            found["%s/%s" % (entry[0], entry[1])] = entry[2]
        _watch.say(found, step, _watch.TRAINER)


def _trained(model: Any) -> None:
    if hasattr(model, "num_trees") and hasattr(model, "num_feature"):
        _watch.model(model, lambda: {"kind": "LightGBM Booster", "rounds": int(model.current_iteration()), "trees": int(model.num_trees()), "features": int(model.num_feature())})
