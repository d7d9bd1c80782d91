"""XGBoost: what each round evaluates, parameters, the model that comes out."""
from __future__ import annotations

import weakref
from typing import Any, Dict

from .. import _hook, _watch
from . import sklearn


def callback(module: Any) -> None:
    """Hook the list of callbacks, which train, cv and the estimators all make."""

    class Tracked(module.TrainingCallback):  # type: ignore[misc,name-defined]
        """Records what a round has evaluated anyway."""

        def __init__(self, container: Any, cv: bool):
            self.container = weakref.ref(container)
            self.base = _watch.step
            self.prefix = "cv/" if cv else ""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            _hook.guarded(_round, self, epoch, evals_log)
            return False

        def after_training(self, model: Any) -> Any:
            _hook.guarded(_last_round, self)
            _hook.guarded(_trained, model)
            return model

    def make(inner: Any) -> Any:
        def init(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:
            if _hook.installed and alone():
                callbacks = list(callbacks) + [Tracked(self, bool(kwargs.get("is_cv", args[2] if len(args) > 2 else False)))]
            inner(self, callbacks, *args, **kwargs)

        return init

    _hook.wrap(module.CallbackContainer, "__init__", make)


def alone() -> bool:
    """Whether this training is one that the program asked for itself, or the
    end of a pipeline: not one of the many of a search."""
    outer = sklearn.inside()
    return outer is None or type(outer).__name__ in ("Pipeline", "TransformedTargetRegressor")


def _round(callback: Any, epoch: int, evals_log: Any) -> None:
    step = callback.base + epoch + 1
    _watch.at(step)
    found = {}
    for data, metrics in (evals_log or {}).items():
        for metric, values in metrics.items():
            v = values[-1]
            found["%s%s/%s" % (callback.prefix, data, metric)] = v[0] if isinstance(v, (tuple, list)) else v
    _watch.say(found, step, _watch.TRAINER)


def _last_round(callback: Any) -> None:
    """Record the round in which a callback ended the training: those behind it
    are not called then."""
    history = getattr(callback.container(), "history", None) or {}
    rounds = [len(values) for metrics in history.values() for values in metrics.values()]
    if rounds:
        _round(callback, max(rounds) - 1, history)


def _trained(model: Any) -> None:
    if hasattr(model, "num_boosted_rounds") and hasattr(model, "num_features"):  # and not the folds of cv
        rounds = int(model.num_boosted_rounds())
        _watch.model(model, lambda: {"kind": "XGBoost Booster", "rounds": rounds, "features": int(model.num_features())})


def training(module: Any) -> None:
    """Hook train: its parameters."""

    def make(inner: Any) -> Any:
        def train(*args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_begins, args, kwargs)
            return inner(*args, **kwargs)

        return train

    _hook.wrap(module, "train", make)


def _begins(args: Any, kwargs: Any) -> None:
    if not _hook.installed or not alone():
        return
    given: Dict[str, Any] = dict(args[0] if args else kwargs.get("params") or {})
    rounds = args[2] if len(args) > 2 else kwargs.get("num_boost_round", 10)
    _watch.params(dict({k: v for k, v in given.items() if v is not None}, num_boost_round=rounds), "xgboost")
