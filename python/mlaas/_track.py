"""track(model, session): record what a framework already knows.

Each framework has one way in, the least intrusive that it offers, and each
way in is guarded: if recording fails, it is said once and the training goes
on. Nothing is fetched, computed or synchronised that the program did not ask
for itself.
"""
from __future__ import annotations

import re
import sys
import time
import weakref
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from . import _log, _say

T = TypeVar("T")

# Names by which a scalar that a program fetches is a metric.
_METRIC = re.compile(
    r"(^|[/_.])(loss|cost|acc|accuracy|error|entropy|xent|cross_entropy|auc|precision|recall|f1|perplexity|mse|mae|rmse|reward|lr|learning_rate)",
    re.I,
)


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
    scikit-learn, XGBoost,  the time of ``fit``, its loss curve and scores where
    LightGBM estimator      the estimator has them, its parameters
    ======================  =====================================================

    It changes these objects' methods, never what they return, and never
    raises.
    """
    try:
        if session is not None:
            _session(model, session)
        elif _is(model, "run") and _is(model, "graph"):
            _session(None, model)
        elif _is(model, "fit") and _is(model, "compile") and _is(model, "optimizer"):
            _keras(model)
        elif _is(model, "parameters") and _is(model, "register_forward_hook"):
            _torch_loss()
        elif _is(model, "param_groups") and _is(model, "step"):
            _torch_loss()
            _torch_optimizer(model)
        elif _is(model, "fit") and _is(model, "get_params"):
            _estimator(model)
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


def _guarded(f: Callable[..., None], *args: Any) -> None:
    try:
        f(*args)
    except Exception as e:
        _say.once("tracking", "something was not tracked: %s: %s" % (type(e).__name__, e))


# ---- TensorFlow, in the style of version 1 ----


def _session(model: Any, session: Any) -> None:
    if getattr(session, "_mlaas_tracked", False):
        return
    names = _tensor_names(model)
    inner = session.run
    state = _Counter()
    plans: Dict[int, Tuple[Any, "_Plan"]] = {}  # by the fetches that a loop uses again and again

    def run(fetches: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(fetches, *args, **kwargs)
        _guarded(_fetched, names, state, plans, fetches, result)
        return result

    run.__doc__ = inner.__doc__
    session.run = run
    session._mlaas_tracked = True


class _Counter:
    def __init__(self) -> None:
        self.step = max(0, _log._recorder.step)


class _Plan:
    """What to read from the result of one kind of fetches."""

    def __init__(self) -> None:
        self.read: List[Tuple[str, Tuple[Any, ...]]] = []  # a key, and the way to its value
        self.step: Optional[Tuple[Any, ...]] = None
        self.trains = False


def _fetched(names: Dict[int, str], state: _Counter, plans: Dict[int, Tuple[Any, _Plan]], fetches: Any, result: Any) -> None:
    known = plans.get(id(fetches))
    # A list that is written anew for each call has a new identity, or that of
    # another that is gone: look into it again, which is cheap for a few names.
    if known is None or known[0] is not fetches or not isinstance(fetches, tuple):
        plan = _Plan()
        _look(names, plan, fetches, (), "")
        if isinstance(fetches, tuple) and len(plans) < 64:
            plans[id(fetches)] = (fetches, plan)
    else:
        plan = known[1]
    if plan.step is not None:
        state.step = int(_at(result, plan.step))
    elif plan.trains:
        state.step += 1
    found = {}
    for key, way in plan.read:
        v = _at(result, way)
        if isinstance(v, float) or getattr(v, "ndim", 1) == 0 and getattr(getattr(v, "dtype", None), "kind", "") == "f":
            found[key] = v
    if found:
        _log.log(found, step=state.step)


def _look(names: Dict[int, str], plan: _Plan, fetches: Any, way: Tuple[Any, ...], said: str) -> None:
    if isinstance(fetches, dict):
        for k, v in fetches.items():
            _look(names, plan, v, way + (k,), str(k))
        return
    if isinstance(fetches, (list, tuple)):
        for i, v in enumerate(fetches):
            _look(names, plan, v, way + (i,), "")
        return
    if fetches is None:
        return
    name = getattr(fetches, "name", fetches if isinstance(fetches, str) else "")
    name = name.partition(":")[0]
    if type(fetches).__name__ == "Operation":
        plan.trains = True
    elif name == "global_step" or name.endswith("/global_step") or name.startswith("global_step/"):
        plan.step = way
    elif id(fetches) in names:
        plan.read.append((names[id(fetches)], way))
    elif said:  # the program itself gave it a name
        plan.read.append((said, way))
    elif _METRIC.search(name):
        plan.read.append((_short(name), way))


def _short(name: str) -> str:
    """loss/Mean is loss: the part of a tensor's name that says what it is."""
    parts = name.split("/")
    while len(parts) > 1 and not _METRIC.search(parts[-1]):
        parts.pop()
    return "/".join(parts)


def _at(result: Any, way: Tuple[Any, ...]) -> Any:
    for k in way:
        result = result[k]
    return result


def _tensor_names(model: Any) -> Dict[int, str]:
    """Names that the model gives to its tensors, by their identity."""
    if model is None:
        return {}
    if hasattr(model, "_asdict"):
        model = model._asdict()
    named = model if isinstance(model, dict) else getattr(model, "__dict__", {})
    found = {}
    for k, v in list(named.items()):
        if isinstance(k, str) and hasattr(v, "graph") and hasattr(v, "dtype"):
            found[id(v)] = k
    return found


# ---- Keras ----


def _keras(model: Any) -> None:
    if getattr(model, "_mlaas_tracked", False):
        return
    base = _keras_callback(model)
    callback = _keras_callback_class(base)()
    inner = model.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        try:
            given = kwargs.get("callbacks")
            if given is None:
                kwargs["callbacks"] = [callback]
            elif isinstance(given, (list, tuple)):
                kwargs["callbacks"] = list(given) + [callback]
            else:  # a CallbackList, or one callback
                append = getattr(given, "append", None)
                if append is not None:
                    append(callback)
                else:
                    kwargs["callbacks"] = [given, callback]
        except Exception as e:
            _say.once("keras", "this fit is not tracked: %s" % e)
        return inner(*args, **kwargs)

    object.__setattr__(model, "fit", fit)
    object.__setattr__(model, "_mlaas_tracked", True)


def _keras_callback(model: Any) -> Any:
    """The Callback class of the Keras that made model: there may be several."""
    for cls in type(model).__mro__:
        home = (cls.__module__ or "").split(".")[0]
        if home in ("keras", "tf_keras", "tensorflow"):
            module = sys.modules.get(home)
            if home == "tensorflow" and module is not None:
                module = module.keras
            if module is not None:
                return module.callbacks.Callback
    raise TypeError("it is no Keras model")


def _keras_callback_class(base: Any) -> Any:
    class Tracked(base):
        """Records what Keras has computed anyway."""

        def __init__(self) -> None:
            super().__init__()
            self.step = max(0, _log._recorder.step)
            self.next = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            now = time.monotonic()
            if now < self.next:
                return
            self.next = now + 0.25  # reading a loss may wait for the device
            _guarded(self.say, {"batch/loss": (logs or {}).get("loss")})

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            _guarded(self.say, dict(logs or {}, epoch=epoch + 1))

        def say(self, found: Dict[str, Any]) -> None:
            _log.log({k: v for k, v in found.items() if v is not None}, step=self.step)

    return Tracked


# ---- PyTorch ----

_torch = {"losses": 0, "steps": 0, "counted": False}


def _torch_loss() -> None:
    torch = sys.modules.get("torch")
    if torch is None or getattr(torch.Tensor.backward, "_mlaas", False):
        return
    inner = torch.Tensor.backward
    _torch["losses"] = _torch["steps"] = max(0, _log._recorder.step)

    def backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        _guarded(_torch_backward, self)
        return result

    backward.__doc__ = inner.__doc__
    backward._mlaas = True  # type: ignore[attr-defined]
    torch.Tensor.backward = backward


def _torch_backward(loss: Any) -> None:
    _torch["losses"] += 1
    if loss.numel() == 1:
        _log.log({"loss": loss}, step=_torch["steps"] + 1 if _torch["counted"] else _torch["losses"])


def _torch_optimizer(optimizer: Any) -> None:
    if getattr(optimizer, "_mlaas_tracked", False) or not hasattr(optimizer, "register_step_post_hook"):
        return
    optimizer.register_step_post_hook(_torch_step)
    optimizer._mlaas_tracked = True
    _torch["counted"] = True


def _torch_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    _guarded(_torch_stepped, optimizer)


def _torch_stepped(optimizer: Any) -> None:
    _torch["steps"] += 1
    groups = optimizer.param_groups
    rates = {"lr" if i == 0 else "lr/%d" % i: g["lr"] for i, g in enumerate(groups[:8]) if "lr" in g}
    _log.log(rates, step=_torch["steps"])


# ---- scikit-learn, XGBoost, LightGBM ----

# The class is changed and not the object: an object that carried a function
# could not be pickled any more.
_estimators: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()


def _estimator(model: Any) -> None:
    _estimators[model] = max(0, _log._recorder.step)
    for cls in type(model).__mro__:
        for name in ("fit", "partial_fit"):
            inner = cls.__dict__.get(name)
            if inner is not None and hasattr(inner, "__get__") and not isinstance(inner, _Fit):
                setattr(cls, name, _Fit(inner, name))
    plain = {k: v for k, v in model.get_params(deep=False).items() if v is None or isinstance(v, (bool, int, float, str))}
    _log.record_params(plain)


_fitting: List[int] = []  # the estimators that are inside fit: only the outermost is recorded


class _Fit:
    """A method fit or partial_fit that is recorded for tracked estimators.

    Some are not functions but descriptors that exist for some settings only,
    so the original decides first what there is.
    """

    def __init__(self, inner: Any, name: str):
        self.inner, self.name = inner, name
        self.__doc__ = getattr(inner, "__doc__", None)

    def __get__(self, model: Any, owner: Any = None) -> Any:
        found = self.inner.__get__(model, owner)
        if model is None or _fitting or not _tracked(model):
            return found
        import functools

        @functools.wraps(found)
        def fit(*args: Any, **kwargs: Any) -> Any:
            _fitting.append(id(model))
            start = time.perf_counter()
            try:
                result = found(*args, **kwargs)
            finally:
                _fitting.pop()
            _guarded(_fitted, model, time.perf_counter() - start, self.name == "fit")
            return result

        return fit


def _tracked(model: Any) -> bool:
    try:
        return model in _estimators
    except TypeError:  # not hashable
        return False


def _fitted(model: Any, seconds: float, whole: bool) -> None:
    base = _estimators[model]
    length = 0
    for key, values in (_curves(model) if whole else {}).items():
        for i, v in enumerate(values):
            _log.log({key: float(v)}, step=base + i + 1)
        length = max(length, len(values))
    _estimators[model] = step = base + max(length, 1)
    last = {"fit_seconds": seconds}
    for key, name in (("loss", "loss_"), ("iterations", "n_iter_"), ("best_score", "best_score_"), ("inertia", "inertia_"), ("oob_score", "oob_score_")):
        v = _try(getattr, model, name)
        if v is not None and getattr(v, "size", 1) == 1:
            number = _try(float, v.item() if hasattr(v, "item") else v)
            if number is not None:
                last[key] = number
    _log.log(last, step=step)


def _curves(model: Any) -> Dict[str, Any]:
    """What an estimator wrote down in each round of fit."""
    curves: Dict[str, Any] = {}
    for key, name in (("loss", "loss_curve_"), ("validation_score", "validation_scores_"), ("train_score", "train_score_"), ("validation_score", "validation_score_")):
        found = _try(getattr, model, name)
        if found is not None and hasattr(found, "__len__") and len(found):
            curves[key] = found
    for source in ("evals_result", "evals_result_"):
        found = _try(getattr, model, source)
        found = _try(found) if callable(found) else found
        for data, metrics in (found or {}).items():
            for metric, values in metrics.items():
                curves["%s/%s" % (data, metric)] = values
    return curves


def _try(f: Callable[..., Any], *args: Any) -> Any:
    """What f gives, or None: XGBoost raises where an attribute has no value."""
    try:
        return f(*args)
    except Exception:
        return None
