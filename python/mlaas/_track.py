"""track(model), track(model, session): record what a framework already knows.

What records is in _hooks, one module for each framework. There it is switched
on for whatever a program does; here, where the platform does not do that, for
what the program gives. Either way each piece is guarded: if recording fails,
it is said once and the training goes on.
"""
from __future__ import annotations

import importlib
import sys
from typing import Any, TypeVar

from . import _hook, _say

T = TypeVar("T")


def track(model: T, session: Any = None) -> T:
    """Record the training of model, and return it.

    ======================  =====================================================
    what is given           what is recorded
    ======================  =====================================================
    TensorFlow session      each scalar that ``session.run`` fetches and that is
                            named like a metric (loss, accuracy, ...), at the
                            global step if that is fetched too, else at the
                            number of training calls. ``model`` may give names:
                            a dict, or an object with tensors as attributes
    Keras model             every metric of ``fit`` at the end of each epoch,
                            and the loss inside an epoch, a few times a second
    PyTorch module          the loss of each ``backward()``
    PyTorch optimizer       besides, the learning rate; its steps count
    JAX function            the scalars that it returns, each call being a step:
                            ``step = mlaas.track(jax.jit(step))``
    scikit-learn, XGBoost,  the time of ``fit``, its loss curve and scores where
    LightGBM estimator      the estimator has them, its parameters
    ======================  =====================================================

    Of what comes at each step, the first 200 values are recorded and then 10 a
    second, and the last. It changes these objects' methods, never what they
    return, and never raises. Of a JAX function it returns another.
    """
    try:
        if session is not None:
            _hooks("tensorflow1").watch(model, session)
        elif _is(model, "run") and _is(model, "graph"):
            _hooks("tensorflow1").watch(None, model)
        elif _is(model, "fit") and _is(model, "compile") and _is(model, "optimizer"):
            _keras(model)
        elif _is(model, "parameters") and _is(model, "register_forward_hook") or _is(model, "param_groups") and _is(model, "step"):
            _hooks("pytorch").watch(model)
        elif _is(model, "fit") and _is(model, "get_params"):
            _hooks("sklearn").watch(model)
        elif callable(model) and _is(model, "lower") and "jax" in sys.modules:
            return _hooks("jax").watch(model)
        else:
            _say.once(
                "track " + type(model).__name__,
                "track does not know %s; record with mlaas.log(...) instead" % type(model).__name__,
            )
    except Exception as e:
        _say.once("track", "this %s could not be tracked: %s: %s" % (type(model).__name__, type(e).__name__, e))
    return model


def _is(thing: Any, name: str) -> bool:
    return hasattr(type(thing), name) or name in getattr(thing, "__dict__", ())


def _hooks(name: str) -> Any:
    return importlib.import_module(__package__ + "._hooks." + name)


# Where each Keras keeps the list of callbacks of a fit.
_LISTS = {
    "keras": ("keras.src.callbacks.callback_list", "keras.src.callbacks", "keras.callbacks"),
    "tf_keras": ("tf_keras.src.callbacks",),
    "tensorflow": ("tensorflow.python.keras.callbacks",),
}


def _keras(model: Any) -> None:
    if _hook.installed:
        return
    for cls in type(model).__mro__:
        for name in _LISTS.get((cls.__module__ or "").split(".")[0], ()):
            module = sys.modules.get(name)
            if module is not None and hasattr(module, "CallbackList"):
                keras = _hooks("keras")
                keras.callback_list(module)
                keras.watch(model)
                return
    raise TypeError("it is no Keras model")
