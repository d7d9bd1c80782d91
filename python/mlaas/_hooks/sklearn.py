"""scikit-learn, and estimators that behave as its do: fit and partial_fit,
scores, and the metrics that a program computes."""
from __future__ import annotations

import functools
import sys
import time
import weakref
from typing import Any, Callable, Dict, List, Optional

from .. import _hook, _watch

_fitting: List[Any] = []  # the estimators that are inside fit: only the outermost is recorded
_watched: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()  # given to mlaas.track
_step = -1  # fits and scores are counted


def base(module: Any) -> None:
    """Hook the decorator of fit before estimators are defined, or, where a
    version has none, their definition; and what gives scores."""

    def make(inner: Any) -> Any:
        def fit_context(*args: Any, **kwargs: Any) -> Any:
            decorate = inner(*args, **kwargs)

            def decorator(fit: Any) -> Any:
                return _recorded(decorate(fit), fit.__name__)

            return decorator

        return fit_context

    if not _hook.wrap(module, "_fit_context", make):
        _subclasses(module.BaseEstimator)
    for name in ("ClassifierMixin", "RegressorMixin"):
        cls = getattr(module, name, None)
        if cls is not None:
            _hook.wrap(cls, "score", _scored("accuracy" if name == "ClassifierMixin" else "r2"))


def _subclasses(cls: Any) -> None:
    inner = cls.__init_subclass__

    def init_subclass(sub: Any, **kwargs: Any) -> None:
        inner.__func__(sub, **kwargs) if hasattr(inner, "__func__") else inner(**kwargs)
        for name in ("fit", "partial_fit"):
            f = sub.__dict__.get(name)
            if f is not None and hasattr(f, "__code__") and not getattr(f, "_mlaas", False):
                setattr(sub, name, _recorded(f, name))

    cls.__init_subclass__ = classmethod(init_subclass)


def _recorded(fit: Any, name: str) -> Any:
    @functools.wraps(fit)
    def recorded(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        if _fitting or _watch.led() is not None or not (_hook.installed or watched(estimator)) or _inner(sys._getframe(1)):
            return fit(estimator, *args, **kwargs)
        begun = begin(estimator)
        try:
            result = fit(estimator, *args, **kwargs)
        finally:
            end(estimator)
        _hook.guarded(fitted, estimator, time.perf_counter() - begun, name == "fit")
        return result

    recorded._mlaas = True  # type: ignore[attr-defined]
    return recorded


def _inner(caller: Any) -> bool:
    """Whether it is scikit-learn itself that calls: to encode labels, to validate."""
    return str(caller.f_globals.get("__name__", "")).startswith("sklearn.")


def begin(estimator: Any) -> float:
    """An outermost fit begins: this process speaks, and those it starts do not."""
    _fitting.append(estimator)
    _hook.guarded(lambda: _watch.speaks())
    return time.perf_counter()


def end(estimator: Any) -> None:
    if _fitting:
        _fitting.pop()


def inside() -> Optional[Any]:
    """The outermost estimator that is inside fit."""
    return _fitting[0] if _fitting else None


def watched(estimator: Any) -> bool:
    try:
        return estimator in _watched
    except TypeError:  # not hashable
        return False


def _now() -> int:
    global _step
    if _step < 0:
        _step = _watch.step
    return max(_step, _watch.step)


def fitted(estimator: Any, seconds: float, whole: bool) -> None:
    """Record what an estimator wrote down while it was fitted."""
    global _step
    base = _now()
    if whole:
        _watch.params(plain(estimator), type(estimator).__name__)
        _watch.model(estimator, lambda: summary(estimator))
    length = 0
    for key, values in (curves(estimator) if whole else {}).items():
        for i, v in enumerate(values):
            _watch.say({key: float(v)}, base + i + 1, _watch.STEP)
        length = max(length, len(values))
    _step = base + max(length, 1)
    _watch.at(_step)
    last: Dict[str, Any] = {"fit_seconds": seconds}
    for key, name in (("loss", "loss_"), ("iterations", "n_iter_"), ("best_score", "best_score_"), ("inertia", "inertia_"), ("oob_score", "oob_score_")):
        v = _try(getattr, estimator, name)
        if v is not None and getattr(v, "size", 1) == 1:
            number = _try(float, v.item() if hasattr(v, "item") else v)
            if number is not None:
                last[key] = number
    _watch.say(last, _step, _watch.STEP)
    best = _try(getattr, estimator, "best_params_")
    if isinstance(best, dict):
        _watch.params({"best." + k: v for k, v in best.items()}, type(estimator).__name__)


def plain(estimator: Any) -> Dict[str, Any]:
    """The parameters that are values, those of the parts of a pipeline too."""
    found = _try(functools.partial(estimator.get_params, deep=True)) or estimator.get_params(deep=False)
    return dict([(k, v) for k, v in found.items() if _value(v) or isinstance(v, (list, tuple)) and len(v) <= 32 and all(map(_value, v))][:200])


def _value(v: Any) -> bool:
    return v is None or isinstance(v, (bool, int, float, str))


def summary(estimator: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {"kind": type(estimator).__name__, "summary": repr(estimator)}
    last = estimator
    steps = _try(getattr, estimator, "steps")
    if steps:
        last = steps[-1][1]
    last = _try(getattr, last, "best_estimator_") or last
    count = 0
    for name in ("coef_", "intercept_", "coefs_", "intercepts_"):
        v = _try(getattr, last, name)
        for part in v if isinstance(v, (list, tuple)) else [v]:
            count += int(_try(getattr, part, "size") or 0)
    if count:
        found["parameters"] = count
    features = _try(getattr, estimator, "n_features_in_")
    if features is not None:
        found["features"] = int(features)
    return found


def curves(estimator: Any) -> Dict[str, Any]:
    """What an estimator wrote down in each round of fit."""
    found: Dict[str, Any] = {}
    for key, name in (("loss", "loss_curve_"), ("validation_score", "validation_scores_"), ("train_score", "train_score_"), ("validation_score", "validation_score_")):
        values = _try(getattr, estimator, name)
        if values is not None and hasattr(values, "__len__") and len(values):
            found[key] = values
    for source in ("evals_result", "evals_result_"):
        results = _try(getattr, estimator, source)
        results = _try(results) if callable(results) else results
        for data, metrics in (results or {}).items():
            for metric, values in metrics.items():
                found["%s/%s" % (data, metric)] = values
    return found


def _try(f: Callable[..., Any], *args: Any) -> Any:
    """What f gives, or None: XGBoost raises where an attribute has no value."""
    try:
        return f(*args)
    except Exception:
        return None


# ---- scores and metrics ----

_computing = 0


def _scored(key: str) -> Any:
    def make(inner: Any) -> Any:
        def score(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _computed(key, inner, (self,) + args, kwargs)

        return score

    return make


def metrics(module: Any) -> None:
    """Hook the functions that turn labels and predictions into one number."""
    for name in _METRICS:
        if name in vars(module):
            _hook.wrap(module, name, functools.partial(_metric, name))


_METRICS = (
    "accuracy_score", "balanced_accuracy_score", "f1_score", "fbeta_score", "precision_score", "recall_score", "jaccard_score", "matthews_corrcoef",
    "cohen_kappa_score", "log_loss", "hinge_loss", "brier_score_loss", "zero_one_loss", "hamming_loss", "roc_auc_score", "average_precision_score",
    "top_k_accuracy_score", "ndcg_score", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error",
    "median_absolute_error", "mean_squared_log_error", "max_error", "r2_score", "explained_variance_score",
)


def _metric(name: str, inner: Any) -> Any:
    key = name[: -len("_score")] if name.endswith("_score") else name

    def metric(*args: Any, **kwargs: Any) -> Any:
        return _computed(key, inner, args, kwargs)

    return metric


def _computed(key: str, inner: Any, args: Any, kwargs: Any) -> Any:
    """Record a number that the program asked for, and not those that it is made of."""
    global _computing
    if _computing or _fitting or not _hook.installed:
        return inner(*args, **kwargs)
    _computing += 1
    try:
        result = inner(*args, **kwargs)
    finally:
        _computing -= 1
    if getattr(result, "ndim", 0) == 0:
        _hook.guarded(_number, key, result)
    return result


def _number(key: str, v: Any) -> None:
    _watch.say({key: float(v)}, _now(), _watch.STEP, again=True)


# ---- estimators that were given to mlaas.track ----


def watch(estimator: Any) -> None:
    # The class is changed and not the object: an object that carried a
    # function could not be pickled any more.
    _watched[estimator] = True
    for cls in type(estimator).__mro__:
        for name in ("fit", "partial_fit"):
            inner = cls.__dict__.get(name)
            if inner is not None and hasattr(inner, "__get__") and not isinstance(inner, _Fit) and not getattr(inner, "_mlaas", False):
                setattr(cls, name, _Fit(inner, name))
    _watch.params(plain(estimator), type(estimator).__name__)


class _Fit:
    """A method fit or partial_fit that is recorded for tracked estimators.

    Some are not functions but descriptors that exist for some settings only,
    so the original decides first what there is.
    """

    def __init__(self, inner: Any, name: str):
        self.inner, self.name = inner, name
        self.__doc__ = getattr(inner, "__doc__", None)

    def __get__(self, estimator: Any, owner: Any = None) -> Any:
        found = self.inner.__get__(estimator, owner)
        if estimator is None or _fitting or not watched(estimator):
            return found

        @functools.wraps(found)
        def fit(*args: Any, **kwargs: Any) -> Any:
            begun = begin(estimator)
            try:
                result = found(*args, **kwargs)
            finally:
                end(estimator)
            _hook.guarded(fitted, estimator, time.perf_counter() - begun, self.name == "fit")
            return result

        return fit
