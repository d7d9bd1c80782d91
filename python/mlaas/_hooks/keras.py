"""Keras: fit, evaluate, single batches, and optimizers in loops of one's own.

One module for all of it: Keras 3 on each backend, Keras 2, tf_keras and the
Keras inside old TensorFlow have the same names for what is used here.
"""
from __future__ import annotations

import io
import weakref
from typing import Any, Dict

from .. import _hook, _watch

_only: "weakref.WeakSet[Any]" = weakref.WeakSet()  # without hooks: the models that were given to track


class _Fit:
    """One call of fit, by its list of callbacks."""

    def __init__(self, callbacks: Any):
        self.region = _watch.Region(callbacks)
        self.batches = _watch.Stream(_watch.TRAINER, first=20, every=0.25)  # reading a loss may wait for the device
        self.step = _watch.step
        self.first = self.step


_fits: "weakref.WeakKeyDictionary[Any, _Fit]" = weakref.WeakKeyDictionary()


def callback_list(module: Any) -> None:
    """Hook the list that calls all callbacks of a fit."""
    cls = getattr(module, "CallbackList", None)
    if cls is None:
        return
    _hook.wrap(cls, "on_train_begin", _before(_begin))
    _hook.wrap(cls, "on_train_batch_end", _after(_batch))
    _hook.wrap(cls, "on_epoch_end", _after(_epoch))
    _hook.wrap(cls, "on_train_end", _after(_end))
    _hook.wrap(cls, "on_test_end", _after(_tested))


def _after(body: Any) -> Any:
    def make(inner: Any) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            _hook.guarded(body, self, *args, *kwargs.values())
            return result

        return method

    return make


def _before(body: Any) -> Any:
    def make(inner: Any) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            _hook.guarded(body, self)
            return inner(self, *args, **kwargs)

        return method

    return make


def _model(callbacks: Any) -> Any:
    return getattr(callbacks, "_model", None) or getattr(callbacks, "model", None)


def _begin(callbacks: Any) -> None:
    model = _model(callbacks)
    if not _hook.installed and model not in _only:
        return
    _fits[callbacks] = _Fit(callbacks)
    if model is None:
        return
    _watch.model(model, lambda: summary(model))
    given = {"optimizer": type(model.optimizer).__name__} if getattr(model, "optimizer", None) is not None else {}
    for name, v in (getattr(callbacks, "params", None) or {}).items():
        if name in ("epochs", "steps", "batch_size") and v is not None:
            given[name] = v
    rate = _rate(getattr(model, "optimizer", None))
    if rate is not None:
        given["learning_rate"] = float(rate)
    if isinstance(getattr(model, "loss", None), str):
        given["loss"] = model.loss
    _watch.params(given, "keras")


def _batch(callbacks: Any, batch: Any, logs: Any = None) -> None:
    fit = _fits.get(callbacks)
    if fit is None:
        return
    fit.step += 1
    if fit.batches.sampler.due() and isinstance(logs, dict):
        _watch.at(fit.step)
        _watch.say({"batch/loss": logs.get("loss")}, fit.step, _watch.TRAINER)


def _epoch(callbacks: Any, epoch: Any, logs: Any = None) -> None:
    fit = _fits.get(callbacks)
    if fit is None:
        return
    if fit.step == fit.first:  # no batches were seen: count epochs
        fit.step = fit.first = fit.first + 1
    _watch.at(fit.step)
    found = {k: v for k, v in (logs or {}).items() if not isinstance(v, dict)}
    found["epoch"] = int(epoch) + 1
    rate = _rate(getattr(_model(callbacks), "optimizer", None))
    if rate is not None and not any(k in found for k in ("lr", "learning_rate")):
        found["lr"] = rate
    _watch.say(found, fit.step, _watch.TRAINER)


def _end(callbacks: Any, logs: Any = None) -> None:
    fit = _fits.pop(callbacks, None)
    if fit is not None:
        _watch.at(fit.step)
        fit.region.leave()


def _tested(callbacks: Any, logs: Any = None) -> None:
    if callbacks in _fits or not isinstance(logs, dict) or not (_hook.installed or _model(callbacks) in _only):
        return  # the validation of a fit, which says it at the end of the epoch
    _watch.say({"test_%s" % k: v for k, v in logs.items()}, _watch.step, _watch.TRAINER, again=True)


def _rate(optimizer: Any) -> Any:
    """The learning rate as a value of the backend, not read from any device."""
    rate = getattr(optimizer, "learning_rate", None)
    if rate is None or callable(rate) and not hasattr(rate, "value") and not hasattr(rate, "numpy"):
        return None
    value = getattr(rate, "value", rate)
    return value() if callable(value) else value


def summary(model: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {"kind": type(model).__name__, "name": str(getattr(model, "name", ""))}
    if getattr(model, "built", True):
        try:
            found["parameters"] = int(model.count_params())
        except Exception:
            pass
    text = io.StringIO()
    try:
        model.summary(print_fn=lambda line, *_, **__: text.write(line + "\n"))
        found["summary"] = text.getvalue()
    except Exception:
        pass
    return found


# ---- single batches ----


def trainer(module: Any) -> None:
    """Hook train_on_batch, by which programs write loops of their own."""
    for name in ("TensorFlowTrainer", "TorchTrainer", "JAXTrainer", "Model"):
        cls = getattr(module, name, None)
        if cls is not None and "train_on_batch" in vars(cls):
            _hook.wrap(cls, "train_on_batch", _train_on_batch)


_singles: "weakref.WeakKeyDictionary[Any, _watch.Stream]" = weakref.WeakKeyDictionary()


def _train_on_batch(inner: Any) -> Any:
    def train_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        region = _watch.Region(None) if _hook.installed else None  # on PyTorch it calls backward()
        try:
            result = inner(self, *args, **kwargs)
        finally:
            if region is not None:
                region.leave()
        _hook.guarded(_trained_on, self, result)
        return result

    return train_on_batch


def _trained_on(model: Any, result: Any) -> None:
    if _watch.led() is not None or not _hook.installed:
        return
    stream = _singles.get(model)
    if stream is None:
        stream = _singles[model] = _watch.Stream(_watch.TRAINER)
        stream.step = _watch.step  # type: ignore[attr-defined]
        # Several models take turns, as generator and discriminator do.
        stream.prefix = "" if len(_singles) == 1 else "%s/" % model.name  # type: ignore[attr-defined]
        _watch.model(model, lambda: summary(model))
    stream.step += 1  # type: ignore[attr-defined]
    step, prefix = stream.step, stream.prefix  # type: ignore[attr-defined]
    _watch.at(max(step, _watch.step))
    if isinstance(result, dict):
        found = dict(result)
    elif isinstance(result, (list, tuple)):
        names = list(getattr(model, "metrics_names", ()) or ())
        found = {names[i] if i < len(names) else "metric_%d" % i: v for i, v in enumerate(result)}
        if len(result) and "loss" not in found:
            found = dict(zip(["loss"] + ["metric_%d" % i for i in range(1, len(result))], result))
    else:
        found = {"loss": result}
    stream.say({prefix + k: v for k, v in found.items()}, step)


# ---- optimizers in loops of one's own ----


def optimizer(module: Any) -> None:
    """Hook what applies gradients: a step of a loop that is not Keras's."""
    for name in ("BaseOptimizer", "_BaseOptimizer", "Optimizer", "OptimizerV2"):
        cls = getattr(module, name, None)
        if isinstance(cls, type) and "apply_gradients" in vars(cls):
            _hook.wrap(cls, "apply_gradients", _apply)


_applying = 0  # that of a class calls that of the class above


def _apply(inner: Any) -> Any:
    def apply_gradients(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _applying
        _applying += 1
        try:
            result = inner(self, *args, **kwargs)
        finally:
            _applying -= 1
        if not _applying:
            from . import tensorflow2

            _hook.guarded(tensorflow2.applied, self)
        return result

    return apply_gradients


def watch(model: Any) -> None:
    """Record the fits of this model: mlaas.track gave it."""
    _only.add(model)
