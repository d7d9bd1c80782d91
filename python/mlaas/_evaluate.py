"""evaluate(y_true, y_score): how good predictions are, as numbers and charts.

The numbers are scikit-learn's, to 1e-9, without needing it: what each one is
stands in docs/reference/evaluation.md. NumPy is used where the program has it.
Curves are thinned for the way to the page; the areas under them are computed
before.
"""
from __future__ import annotations

import math
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import _log, _say

POINTS = 200  # of a curve that is sent
CURVES = 20  # classes with curves of their own, those with most rows
DENSE = 100  # classes up to which a confusion matrix is sent whole
CELLS = 5_000  # of a larger one, the largest
CLASSES = 5_000
ROWS = 1_000  # classes in the table, and rows in a sample
BINS = 10  # of a calibration curve
HISTOGRAM = 40
SORTED = 50_000_000  # scores that are ranked exactly; more are counted in bins
GRAIN = 1 << 16  # those bins, over 0 to 1
_EPS = sys.float_info.epsilon

TASKS = ("binary", "multiclass", "multilabel", "regression")


def evaluate(
    y_true: Any,
    y_score: Any,
    labels: Optional[Sequence[Any]] = None,
    name: str = "evaluation",
    step: Optional[int] = None,
    sample_weight: Any = None,
    task: Optional[str] = None,
    threshold: Optional[float] = None,
) -> Dict[str, Any]:
    """Say how good predictions are, show it on the job's page, and return it.

    ==========  ==========================  ====================================
    task        y_true, shape               y_score, shape
    ==========  ==========================  ====================================
    binary      two classes, (n,)           the score of the second class, (n,);
                                            probabilities, (n, 2); or classes
    multiclass  classes, (n,)               probabilities, (n, k); or classes
    multilabel  0 or 1, (n, k)              probabilities or 0 and 1, (n, k)
    regression  numbers, (n,)               numbers, (n,)
    ==========  ==========================  ====================================

    Floats are scores; whole numbers, booleans and texts are classes. Lists,
    NumPy arrays, tensors of PyTorch, TensorFlow and JAX and columns of pandas
    will do. The numbers are recorded as metrics too, as ``name/accuracy``.

    Args:
        labels: the names of the classes in the order of the columns of
            y_score; where y_true holds whole numbers from 0, they are numbers
            of labels. Left out: what is in y_true and y_score, sorted.
        name: of the evaluation, such as "test"; several of one name are its
            history.
        step: of the training; left out, the newest that was logged.
        sample_weight: of each row, not negative, shape (n,).
        task: one of those above; left out, by what is given.
        threshold: from which score on a row counts as the second class; left
            out, 0.5 for probabilities and 0 for other scores.
    Returns: what docs/reference/evaluation.md describes: scores, confusion,
        perClass, roc, pr, calibration; residuals and sample for regression.
    Raises: ValueError where the data cannot be evaluated: which row and why.
    """
    np = _numpy()
    t, s = _array(np, y_true, "y_true"), _array(np, y_score, "y_score")
    n = len(t)
    if n == 0:
        raise ValueError("y_true has no rows, want at least one")
    if len(s) != n:
        raise ValueError("y_score has %d rows and y_true %d, want as many" % (len(s), n))
    w = _weights(np, sample_weight, n)
    if task is None:
        task = _task(np, t, s, labels)
    if task not in TASKS:
        raise ValueError("task is %r, want one of %s" % (task, ", ".join(TASKS)))
    if task == "regression":
        found = _regression(np, _numbers(np, t, "y_true"), _numbers(np, s, "y_score"), w)
    elif task == "multilabel":
        found = _multilabel(np, t, s, w, labels, 0.5 if threshold is None else threshold)
    else:
        found = _classes(np, task, t, s, w, labels, threshold)
    return _tell(found, name, step, n, w is not None)


def _tell(found: Dict[str, Any], name: str, step: Optional[int], rows: int, weighted: bool) -> Dict[str, Any]:
    if step is None:
        step = max(0, _log._recorder.step)
    out: Dict[str, Any] = {"format": 1, "name": str(name), "step": int(step), "rows": rows, "weighted": weighted}
    out.update(found)
    try:
        _log.record_evaluation(out)
        told = {"%s/%s" % (name, k): v for k, v in out["scores"].items() if v is not None}
        before = _log._recorder.step
        _log.log(told, step=int(step))
        _log._recorder.step = max(before, _log._recorder.step)
    except Exception as e:
        _say.once("evaluate", "an evaluation could not be recorded: %s: %s" % (type(e).__name__, e))
    return out


# What is given, as NumPy arrays or lists.


def _numpy() -> Any:
    try:
        import numpy

        return numpy
    except ImportError:
        return None


def _array(np: Any, x: Any, what: str) -> Any:
    """x as an array of one or two dimensions, or as a list or a list of lists."""
    if hasattr(x, "detach"):  # PyTorch
        x = x.detach().cpu()
        if np is None or str(x.dtype) == "torch.bfloat16":
            x = x.float().numpy() if np is not None else x.tolist()
        else:
            x = x.numpy()
    elif hasattr(x, "to_numpy"):  # pandas
        x = x.to_numpy()
    elif hasattr(x, "numpy") and callable(x.numpy):  # TensorFlow
        x = x.numpy()
    if np is None:
        if hasattr(x, "tolist"):
            x = x.tolist()
        x = list(x)
        if x and isinstance(x[0], (list, tuple)):
            width = len(x[0])
            for i, row in enumerate(x):
                if len(row) != width:
                    raise ValueError("%s[%d] has %d values and the first row %d, want as many" % (what, i, len(row), width))
            return [r[0] for r in x] if width == 1 else [list(r) for r in x]
        return x
    a = np.asarray(x)
    if a.dtype == object:
        a = np.asarray(a.tolist())
    while a.ndim > 1 and a.shape[-1] == 1:
        a = a[..., 0]
    if a.ndim == 0 or a.ndim > 2:
        raise ValueError("%s has the shape %s, want (n,) or (n, k)" % (what, a.shape))
    return a


def _wide(np: Any, a: Any) -> bool:
    return a.ndim == 2 if np is not None else bool(a) and isinstance(a[0], list)


def _flat(np: Any, a: Any) -> List[Any]:
    if np is not None:
        return [a.ravel()]
    return [v for row in a for v in row] if _wide(np, a) else a


def _kind(np: Any, a: Any) -> str:
    """"float" or "class"."""
    if np is not None:
        return "float" if a.dtype.kind == "f" else "class"
    return "float" if any(isinstance(v, float) for v in _flat(np, a)) else "class"


def _task(np: Any, t: Any, s: Any, labels: Any) -> str:
    if _wide(np, t):
        return "multilabel"
    if _wide(np, s):
        return "binary" if len(s[0]) == 2 else "multiclass"
    values = _distinct(np, t)
    if _kind(np, t) == "float" and not all(v in (0.0, 1.0) for v in values):
        return "regression"
    if _kind(np, s) == "float":
        few = len(labels) if labels is not None else len(values)
        return "binary" if few <= 2 else "regression"
    few = len(labels) if labels is not None else len(set(values) | set(_distinct(np, s)))
    return "binary" if few <= 2 else "multiclass"


def _distinct(np: Any, a: Any) -> List[Any]:
    if np is None:
        return sorted(set(a))
    if a.dtype.kind in "iu" and a.size > 100_000 and 0 <= a.min() and a.max() < 1 << 16:
        return np.flatnonzero(np.bincount(a)).tolist()  # many times faster than to sort
    return np.unique(a).tolist()


def _weights(np: Any, w: Any, n: int) -> Any:
    if w is None:
        return None
    w = _numbers(np, _array(np, w, "sample_weight"), "sample_weight")
    if len(w) != n:
        raise ValueError("sample_weight has %d rows and y_true %d, want as many" % (len(w), n))
    least = min(w) if np is None else w.min()
    if least < 0:
        raise ValueError("sample_weight has %g, want 0 or more" % least)
    if not (sum(w) if np is None else w.sum()) > 0:
        raise ValueError("sample_weight is 0 in every row, want more than 0 in one")
    return w


def _numbers(np: Any, a: Any, what: str) -> Any:
    """a as floats, each finite."""
    try:
        if np is None:
            a = [[float(v) for v in row] for row in a] if _wide(np, a) else [float(v) for v in a]
        else:
            a = a.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError("%s is not of numbers" % what) from None
    if np is not None:
        if not np.isfinite(a).all():
            at = np.argwhere(~np.isfinite(a))[0]
            raise ValueError("%s[%s] is %g, want a finite number" % (what, ", ".join(map(str, at)), a[tuple(at)]))
        return a
    for i, row in enumerate(a):
        for v in row if isinstance(row, list) else [row]:
            if not math.isfinite(v):
                raise ValueError("%s[%d] is %g, want a finite number" % (what, i, v))
    return a


def _column(np: Any, a: Any, k: int) -> Any:
    return a[:, k] if np is not None else [row[k] for row in a]


def _sum(np: Any, a: Any) -> float:
    return float(a.sum()) if np is not None else math.fsum(a)


def _mean(np: Any, a: Any, w: Any) -> float:
    if w is None:
        return _sum(np, a) / len(a)
    return _sum(np, a * w if np is not None else [x * y for x, y in zip(a, w)]) / _sum(np, w)


# Classes.


def _codes(np: Any, a: Any, classes: List[Any], named: bool, what: str) -> Any:
    """The number of the class in each row."""
    at = {c: i for i, c in enumerate(classes)}
    if np is None:
        out = []
        for i, v in enumerate(a):
            code = at.get(v)
            if code is None and named and not isinstance(v, str) and v == int(v) and 0 <= v < len(classes):
                code = int(v)
            if code is None:
                raise ValueError("%s[%d] is %r, want one of %s" % (what, i, v, _some(classes)))
            out.append(code)
        return out
    if a.dtype.kind == "f" and not np.isfinite(a).all():
        i = int(np.flatnonzero(~np.isfinite(a))[0])
        raise ValueError("%s[%d] is %g, want a class" % (what, i, a[i]))
    values = _distinct(np, a)
    codes = []
    for v in values:
        code = at.get(v)
        if code is None and named and not isinstance(v, str) and v == int(v) and 0 <= v < len(classes):
            code = int(v)
        if code is None:
            i = int(np.flatnonzero(a == v)[0])
            raise ValueError("%s[%d] is %r, want one of %s" % (what, i, v, _some(classes)))
        codes.append(code)
    if codes == values and a.dtype.kind in "iu":
        return a.astype(np.intp, copy=False)
    return np.asarray(codes)[np.searchsorted(np.asarray(values), a)]


def _some(classes: Sequence[Any]) -> str:
    return ", ".join(repr(c) for c in classes[:8]) + (" ..." if len(classes) > 8 else "")


def _classes(np: Any, task: str, t: Any, s: Any, w: Any, labels: Any, threshold: Optional[float]) -> Dict[str, Any]:
    if _wide(np, t):
        raise ValueError("y_true has %d columns, want one of classes" % len(t[0]))
    named = labels is not None
    wide, scored = _wide(np, s), _kind(np, s) == "float" or _wide(np, s)
    if scored:
        s = _numbers(np, s, "y_score")
    if named:
        classes = list(labels)  # type: ignore[arg-type]
        if np is not None and isinstance(labels, np.ndarray):
            classes = labels.tolist()
    else:
        classes = _distinct(np, t)
        if not scored:
            classes = sorted(set(classes) | set(_distinct(np, s)))
        whole = all(not isinstance(c, str) and c == int(c) for c in classes)
        if wide and len(classes) != len(s[0]) and whole and classes[0] >= 0 and classes[-1] < len(s[0]):
            classes = list(range(len(s[0])))  # one class has no row
        if task == "binary" and len(classes) == 1 and whole and classes[0] in (0, 1):
            classes = [0, 1]
    if len(set(classes)) != len(classes):
        raise ValueError("labels has a label twice, want each once")
    if len(classes) < 2:
        raise ValueError("there is one class, %r, want at least two: name the others with labels=" % classes[0])
    if len(classes) > CLASSES:
        raise ValueError("there are %d classes, want at most %d; numbers need task='regression'" % (len(classes), CLASSES))
    if wide and len(s[0]) != len(classes):
        raise ValueError("y_score has %d columns, want one for each of the %d classes: name them with labels=" % (len(s[0]), len(classes)))
    if task == "binary" and len(classes) != 2:
        raise ValueError("there are %d classes, want two for task='binary'" % len(classes))
    if task == "multiclass" and scored and not wide:
        raise ValueError("y_score has one score a row, want one for each of the %d classes, or classes" % len(classes))
    truth = _codes(np, t, classes, named, "y_true")
    columns: Optional[List[Any]] = None
    if not scored:
        guess = _codes(np, s, classes, named, "y_score")
    elif wide:
        columns = [_column(np, s, k) for k in range(len(classes))]
        guess = s.argmax(axis=1) if np is not None else [row.index(max(row)) for row in s]
    else:
        least, most = (s.min(), s.max()) if np is not None else (min(s), max(s))
        sure = 0 <= least and most <= 1
        if threshold is None:
            threshold = 0.5 if sure else 0.0
        guess = (s >= threshold).astype(np.intp) if np is not None else [int(v >= threshold) for v in s]
        columns = [None, s]
    names = [str(c) for c in classes]
    found: Dict[str, Any] = {"task": task, "labels": names[:ROWS]}
    notes: List[str] = []
    matrix = _confusion(np, truth, guess, w, len(classes))
    scores, table = _report(matrix, names)
    found["scores"] = scores
    if columns is not None:
        if task == "binary" and not wide:
            found["threshold"] = threshold
        _curves(np, found, scores, table, notes, truth, columns, w, names, task)
        _sureness(np, found, scores, notes, truth, columns, w, names, task, s if wide else None)
    found["confusion"] = _sent(matrix)
    found["perClass"] = table[:ROWS]
    if len(names) > ROWS:
        notes.append("the table has the first %d of %d classes" % (ROWS, len(names)))
    if notes:
        found["notes"] = notes
    return found


def _confusion(np: Any, t: Any, p: Any, w: Any, n: int) -> List[List[float]]:
    """Weights by true class (rows) and predicted class (columns)."""
    if np is not None:
        flat = np.bincount(t * n + p, weights=w, minlength=n * n)
        return flat.reshape(n, n).tolist()
    out: List[List[float]] = [[0] * n for _ in range(n)]
    for i, (a, b) in enumerate(zip(t, p)):
        out[a][b] += 1 if w is None else w[i]
    return out


def _sent(matrix: List[List[float]]) -> Dict[str, Any]:
    n = len(matrix)
    if n <= DENSE:
        return {"matrix": matrix}
    cells = [(v, i, j) for i, row in enumerate(matrix) for j, v in enumerate(row) if v]
    cells.sort(key=lambda c: (-c[0], c[1], c[2]))
    return {"cells": [[i, j, v] for v, i, j in cells[:CELLS]], "hidden": max(0, len(cells) - CELLS)}


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0


def _f1(p: float, r: float) -> float:
    return _ratio(2 * p * r, p + r)


def _report(matrix: List[List[float]], names: List[str]) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    n = len(matrix)
    rows = [math.fsum(r) for r in matrix]
    columns = [math.fsum(c) for c in zip(*matrix)]
    total = math.fsum(rows)
    right = math.fsum(matrix[i][i] for i in range(n))
    table = []
    for i, name in enumerate(names):
        p, r = _ratio(matrix[i][i], columns[i]), _ratio(matrix[i][i], rows[i])
        # Not by p and r: where both are 0 it is 0, and it loses no digit.
        f = _ratio(2 * matrix[i][i], rows[i] + columns[i])
        table.append({"label": name, "precision": p, "recall": r, "f1": f, "support": rows[i]})
    # As scikit-learn averages: over the classes that are there, true or predicted.
    seen = [i for i in range(n) if rows[i] or columns[i]]
    scores: Dict[str, Any] = {"accuracy": _ratio(right, total)}
    scores["balanced_accuracy"] = _average([table[i]["recall"] for i in range(n) if rows[i]])
    for key in ("precision", "recall", "f1"):
        if n == 2:
            scores[key] = table[1][key]
        scores[key + "_macro"] = _average([table[i][key] for i in seen])
        scores[key + "_weighted"] = _ratio(math.fsum(table[i][key] * rows[i] for i in range(n)), total)
    # Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    over = right * total - math.fsum(a * b for a, b in zip(rows, columns))
    under = (total * total - math.fsum(a * a for a in rows)) * (total * total - math.fsum(b * b for b in columns))
    scores["mcc"] = over / math.sqrt(under) if under > 0 else 0.0
    return scores, table


def _average(v: List[float]) -> float:
    return math.fsum(v) / len(v) if v else 0.0


# Curves. A ranking is what is true and what is false at or above each score
# that occurs, from the highest down.


def _ranked(np: Any, positive: Any, score: Any, w: Any) -> Tuple[Any, Any]:
    if np is not None:
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        p = positive[order]
        if w is None:
            tp = np.cumsum(p, dtype=np.float64)[ends]
            return tp, ends + 1.0 - tp
        w = w[order]
        return np.cumsum(w * p)[ends], np.cumsum(w * (1 - p))[ends]
    order = sorted(range(len(score)), key=lambda i: -score[i])
    tps, fps = [], []
    tp = fp = 0.0
    for k, i in enumerate(order):
        of = 1.0 if w is None else w[i]
        tp += of * positive[i]
        fp += of * (1 - positive[i])
        if k + 1 == len(order) or score[order[k + 1]] != score[i]:
            tps.append(tp)
            fps.append(fp)
    return tps, fps


def _binned(np: Any, positive: Any, score: Any, w: Any) -> Tuple[Any, Any]:
    """The same of scores from 0 to 1, of which those in one of GRAIN bins count
    as equal."""
    at = np.minimum((score * GRAIN).astype(np.intp), GRAIN - 1)
    of = positive if w is None else positive * w
    tp = np.bincount(at, weights=of, minlength=GRAIN)
    fp = np.bincount(at, weights=w, minlength=GRAIN) - tp
    return _down(np, tp, fp)


def _down(np: Any, tp: Any, fp: Any) -> Tuple[Any, Any]:
    full = (tp + fp) > 0
    return np.cumsum(tp[::-1][full[::-1]]), np.cumsum(fp[::-1][full[::-1]])


def _area(np: Any, tp: Any, fp: Any) -> Optional[float]:
    """The area under the ROC curve of a ranking; None where a class is not there."""
    p, n = float(tp[-1]), float(fp[-1])
    if p <= 0 or n <= 0:
        return None
    if np is not None:
        x, y = np.append(0.0, fp), np.append(0.0, tp)
        return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / p / n)
    terms, x0, y0 = [], 0.0, 0.0
    for x1, y1 in zip(fp, tp):
        terms.append((x1 - x0) * (y1 + y0))
        x0, y0 = x1, y1
    return math.fsum(terms) / 2 / p / n


def _precision(np: Any, tp: Any, fp: Any) -> Optional[float]:
    """The average precision of a ranking: the sum of precision times the gain in recall."""
    p = float(tp[-1])
    if p <= 0:
        return None
    if np is not None:
        total = tp + fp
        part = np.divide(tp, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)
        return float((np.diff(np.append(0.0, tp)) * part).sum() / p)
    terms, before = [], 0.0
    for a, b in zip(tp, fp):
        terms.append((a - before) * _ratio(a, a + b))
        before = a
    return math.fsum(terms) / p


def _thin(np: Any, x: Any, y: Any) -> List[List[float]]:
    """At most POINTS of a curve within the unit square, evenly along it."""
    n = len(x)
    if n > POINTS:
        if np is not None:
            x, y = np.asarray(x), np.asarray(y)
            way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
            at = np.searchsorted(way, np.linspace(0, way[-1], POINTS))
            keep = sorted(set(np.minimum(at, n - 1).tolist()) | {0, n - 1})
        else:
            way = [0.0]
            for i in range(1, n):
                way.append(way[-1] + abs(x[i] - x[i - 1]) + abs(y[i] - y[i - 1]))
            keep, due = [], 0
            for i in range(n):
                if way[i] >= due * way[-1] / (POINTS - 1) or i == n - 1:
                    keep.append(i)
                    while due < POINTS and way[i] >= due * way[-1] / (POINTS - 1):
                        due += 1
    else:
        keep = list(range(n))
    return [[_short(x[i]), _short(y[i])] for i in keep]


def _short(v: Any) -> float:
    return float("%.6g" % v)


def _roc(np: Any, tp: Any, fp: Any) -> List[List[float]]:
    p, n = float(tp[-1]), float(fp[-1])
    if np is not None:
        return _thin(np, np.append(0.0, fp) / n, np.append(0.0, tp) / p)
    return _thin(np, [0.0] + [v / n for v in fp], [0.0] + [v / p for v in tp])


def _pr(np: Any, tp: Any, fp: Any) -> List[List[float]]:
    p = float(tp[-1])
    if np is not None:
        total = tp + fp
        precision = np.divide(tp, total, out=np.ones_like(total, dtype=np.float64), where=total > 0)
        return _thin(np, np.append(0.0, tp) / p, np.append(1.0, precision))
    return _thin(np, [0.0] + [v / p for v in tp], [1.0] + [(a / (a + b) if a + b else 1.0) for a, b in zip(tp, fp)])


def _is(np: Any, codes: Any, k: int) -> Any:
    return (codes == k).astype(np.float64) if np is not None else [1.0 if c == k else 0.0 for c in codes]


def _curves(np: Any, found: Dict[str, Any], scores: Dict[str, Any], table: List[Dict[str, Any]], notes: List[str],
            truth: Any, columns: List[Any], w: Any, names: List[str], task: str) -> None:
    ranks: Dict[int, Tuple[Any, Any]] = {}
    of = [1] if task == "binary" else range(len(names))
    many = len(truth) * len(list(of)) > SORTED
    least, most = 0.0, 1.0
    if many and np is not None:
        least = min(float(columns[k].min()) for k in of)
        most = max(float(columns[k].max()) for k in of)
    binned = many and np is not None and least >= 0 and most <= 1
    rank = _binned if binned else _ranked
    if binned:
        found["approximate"] = "scores are counted in %d bins" % GRAIN
    for k in of:
        ranks[k] = rank(np, _is(np, truth, k), columns[k], w)
    micro: Optional[Tuple[Any, Any]] = None
    if task != "binary" and not (many and not binned):
        positive: Any
        if np is not None:
            positive = np.concatenate([_is(np, truth, k) for k in of])
            every = np.concatenate([columns[k] for k in of])
            weights = None if w is None else np.tile(w, len(names))
        else:
            positive = [v for k in of for v in _is(np, truth, k)]
            every = [v for k in of for v in columns[k]]
            weights = None if w is None else list(w) * len(names)
        micro = rank(np, positive, every, weights)
    _drawn(np, found, scores, table, notes, ranks, micro, names)


def _drawn(np: Any, found: Dict[str, Any], scores: Dict[str, Any], table: List[Dict[str, Any]], notes: List[str],
           ranks: Dict[int, Tuple[Any, Any]], micro: Optional[Tuple[Any, Any]], names: List[str]) -> None:
    """Put the curves of rankings, and the areas under them, where they belong."""
    binary = micro is None and len(ranks) == 1
    shown = sorted(sorted(ranks, key=lambda k: -table[k]["support"])[:CURVES])
    roc: List[Dict[str, Any]] = []
    pr: List[Dict[str, Any]] = []
    aucs, aps, missing = [], [], []
    for k, (tp, fp) in ranks.items():
        auc, ap = _area(np, tp, fp), _precision(np, tp, fp)
        table[k]["auc"], table[k]["ap"] = auc, ap
        if auc is None:
            missing.append(names[k])
        else:
            aucs.append(auc)
        if ap is not None:
            aps.append(ap)
        if k in shown and auc is not None:
            roc.append({"label": names[k], "auc": auc, "points": _roc(np, tp, fp)})
        if k in shown and ap is not None:
            pr.append({"label": names[k], "ap": ap, "points": _pr(np, tp, fp)})
    if binary:
        only = table[list(ranks)[0]]
        scores["auc"], scores["ap"] = only["auc"], only["ap"]
    else:
        scores["auc_macro"] = _average(aucs) if aucs else None
        scores["ap_macro"] = _average(aps) if aps else None
        if len(roc) > 1:
            grid = [i / 100 for i in range(101)]
            mean = [_average([_at(r["points"], x) for r in roc]) for x in grid]
            roc.append({"label": "macro", "average": True, "auc": scores["auc_macro"], "points": [[x, _short(y)] for x, y in zip(grid, mean)]})
    if micro is not None:
        scores["auc_micro"], scores["ap_micro"] = _area(np, *micro), _precision(np, *micro)
        if scores["auc_micro"] is not None:
            roc.append({"label": "micro", "average": True, "auc": scores["auc_micro"], "points": _roc(np, *micro)})
        if scores["ap_micro"] is not None:
            pr.append({"label": "micro", "average": True, "ap": scores["ap_micro"], "points": _pr(np, *micro)})
    if missing:
        notes.append("no ROC curve of %s: every row is of it, or none" % _some(missing))
    if len(ranks) > CURVES:
        notes.append("curves of the %d classes with most rows, of %d" % (CURVES, len(ranks)))
    found["roc"], found["pr"] = roc, pr


def _at(points: List[List[float]], x: float) -> float:
    """The height of a ROC curve at x, between two points the straight line."""
    y = 0.0
    for i, (x1, y1) in enumerate(points):
        if x1 > x:
            x0, y0 = points[i - 1] if i else (0.0, 0.0)
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        y = y1
    return y


# Probabilities.


def _sureness(np: Any, found: Dict[str, Any], scores: Dict[str, Any], notes: List[str], truth: Any, columns: List[Any],
              w: Any, names: List[str], task: str, wide: Any) -> None:
    """What is said of probabilities alone: log loss, Brier score, calibration."""
    given = [c for c in columns if c is not None]
    least = min(float(c.min() if np is not None else min(c)) for c in given)
    most = max(float(c.max() if np is not None else max(c)) for c in given)
    if wide is not None and len(names) > 2:
        _top(np, scores, truth, wide, w, len(names))
    if least < 0 or most > 1:
        notes.append("scores from %.6g to %.6g are no probabilities: no log loss, Brier score and calibration" % (least, most))
        return
    if wide is not None:
        off = max(abs(v - 1) for v in (wide.sum(axis=1).tolist() if np is not None else [math.fsum(r) for r in wide]))
        if off > 1e-3:
            notes.append("the probabilities of a row do not always sum to 1 (off by up to %.3g)" % off)
    if np is not None:
        of = wide[np.arange(len(truth)), truth] if wide is not None else np.where(truth == 1, columns[1], 1 - columns[1])
        scores["log_loss"] = _mean(np, -np.log(np.clip(of, _EPS, 1 - _EPS)), w)
    else:
        of = [wide[i][c] if wide is not None else (columns[1][i] if c == 1 else 1 - columns[1][i]) for i, c in enumerate(truth)]
        scores["log_loss"] = _mean(np, [-math.log(min(max(v, _EPS), 1 - _EPS)) for v in of], w)
    if task == "binary":
        scores["brier"] = _squares(np, columns[1], _is(np, truth, 1), w)
    else:
        scores["brier"] = math.fsum(_squares(np, columns[k], _is(np, truth, k), w) for k in range(len(names)))
    curves, weights = [], []
    of_k = [1] if task == "binary" else range(min(len(names), CURVES))
    for k in of_k:
        bins = _calibration(np, columns[k], _is(np, truth, k), w)
        curves.append({"label": names[k], "bins": bins})
        weights.append(math.fsum(b[2] * abs(b[0] - b[1]) for b in bins) / (math.fsum(b[2] for b in bins) or 1))
    found["calibration"] = curves
    if task == "binary":
        scores["ece"] = weights[0]


def _squares(np: Any, p: Any, y: Any, w: Any) -> float:
    return _mean(np, (p - y) ** 2 if np is not None else [(a - b) ** 2 for a, b in zip(p, y)], w)


def _calibration(np: Any, p: Any, y: Any, w: Any) -> List[List[float]]:
    """[mean probability, part that is positive, weight] of each bin with rows."""
    if np is not None:
        at = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], p)
        one = np.bincount(at, weights=w, minlength=BINS)
        sure = np.bincount(at, weights=p if w is None else p * w, minlength=BINS)
        true = np.bincount(at, weights=y if w is None else y * w, minlength=BINS)
        return [[float(sure[i] / one[i]), float(true[i] / one[i]), float(one[i])] for i in range(BINS) if one[i] > 0]
    edges = [i / BINS for i in range(1, BINS)]
    sums = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for i, v in enumerate(p):
        of, b = 1.0 if w is None else w[i], sums[sum(e < v for e in edges)]
        b[0] += of * v
        b[1] += of * y[i]
        b[2] += of
    return [[a / c, b / c, c] for a, b, c in sums if c > 0]


def _top(np: Any, scores: Dict[str, Any], truth: Any, s: Any, w: Any, n: int) -> None:
    """How often the true class is among the k of the highest scores. Of equal
    scores the later class counts as higher, as in scikit-learn."""
    if np is not None:
        own = s[np.arange(len(truth)), truth][:, None]
        place = (s > own).sum(axis=1) + ((s == own) & (np.arange(n)[None, :] > truth[:, None])).sum(axis=1)
    else:
        place = [sum(v > row[c] or v == row[c] and k > c for k, v in enumerate(row)) for row, c in zip(s, truth)]
    for k in (2, 3, 5):
        if k < n:
            hit = (place < k).astype(np.float64) if np is not None else [float(p < k) for p in place]
            scores["top_%d" % k] = _mean(np, hit, w)


# Several labels a row.


def _multilabel(np: Any, t: Any, s: Any, w: Any, labels: Any, threshold: float) -> Dict[str, Any]:
    if not _wide(np, t) or not _wide(np, s) or len(t[0]) != len(s[0]):
        raise ValueError("y_true and y_score have to have a column for each label, as many")
    n = len(t[0])
    names = [str(v) for v in (labels if labels is not None else range(n))]
    if len(names) != n:
        raise ValueError("labels has %d names and y_true %d columns, want as many" % (len(names), n))
    if n > ROWS:
        raise ValueError("there are %d labels, want at most %d" % (n, ROWS))
    scored = _kind(np, s) == "float"
    t, s = _numbers(np, t, "y_true"), _numbers(np, s, "y_score")
    for v in _distinct(np, t.ravel() if np is not None else _flat(np, t)):
        if v not in (0.0, 1.0):
            raise ValueError("y_true has %g, want 0 or 1" % v)
    table: List[Dict[str, Any]] = []
    ranks: Dict[int, Tuple[Any, Any]] = {}
    cells, sums, wrong = [], [0.0, 0.0, 0.0], []
    exact: Any = np.ones(len(t)) if np is not None else [1.0] * len(t)
    for k in range(n):
        y, p = _column(np, t, k), _column(np, s, k)
        if np is not None:
            g = (p >= threshold).astype(np.float64)
            exact = exact * (g == y)
            wrong.append(_mean(np, (g != y).astype(np.float64), w))
            m = _confusion(np, y.astype(np.intp), g.astype(np.intp), w, 2)
        else:
            g = [float(v >= threshold) for v in p]
            exact = [e * (a == b) for e, a, b in zip(exact, g, y)]
            wrong.append(_mean(np, [float(a != b) for a, b in zip(g, y)], w))
            m = _confusion(np, [int(v) for v in y], [int(v) for v in g], w, 2)
        tp, fp, fn = m[1][1], m[0][1], m[1][0]
        sums = [a + b for a, b in zip(sums, (tp, fp, fn))]
        cells.append(m)
        table.append({"label": names[k], "precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn), "f1": _ratio(2 * tp, 2 * tp + fp + fn), "support": tp + fn})
        if scored:
            ranks[k] = _ranked(np, y, p, w)
    tp, fp, fn = sums
    scores: Dict[str, Any] = {"accuracy": _mean(np, exact, w), "hamming_loss": _average(wrong)}
    p, r = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    scores.update({"precision_micro": p, "recall_micro": r, "f1_micro": _ratio(2 * tp, 2 * tp + fp + fn)})
    support = math.fsum(row["support"] for row in table)
    for key in ("precision", "recall", "f1"):
        scores[key + "_macro"] = _average([row[key] for row in table])
        scores[key + "_weighted"] = _ratio(math.fsum(row[key] * row["support"] for row in table), support)
    found: Dict[str, Any] = {"task": "multilabel", "labels": names, "threshold": threshold, "scores": scores}
    notes: List[str] = []
    if scored:
        if np is not None:
            weights = None if w is None else np.repeat(w, n)
            micro = _ranked(np, t.ravel(), s.ravel(), weights)
        else:
            weights = None if w is None else [v for v in w for _ in range(n)]
            micro = _ranked(np, _flat(np, t), _flat(np, s), weights)
        _drawn(np, found, scores, table, notes, ranks, micro, names)
        least, most = (float(s.min()), float(s.max())) if np is not None else (min(map(min, s)), max(map(max, s)))
        if least >= 0 and most <= 1:
            found["calibration"] = [{"label": names[k], "bins": _calibration(np, _column(np, s, k), _column(np, t, k), w)} for k in range(min(n, CURVES))]
    found["perLabel"], found["perClass"] = cells[:DENSE], table
    if notes:
        found["notes"] = notes
    return found


# Numbers.


def _regression(np: Any, t: Any, s: Any, w: Any) -> Dict[str, Any]:
    if _wide(np, t) or _wide(np, s):
        raise ValueError("y_true or y_score has several columns, want one: evaluate each by itself, with a name of its own")
    r = t - s if np is not None else [a - b for a, b in zip(t, s)]
    size = abs(r) if np is not None else [abs(v) for v in r]
    square = r * r if np is not None else [v * v for v in r]
    mid, off = _mean(np, t, w), _mean(np, r, w)
    spread = _mean(np, (t - mid) ** 2 if np is not None else [(v - mid) ** 2 for v in t], w)
    noise = _mean(np, (r - off) ** 2 if np is not None else [(v - off) ** 2 for v in r], w)
    mse = _mean(np, square, w)
    scores: Dict[str, Any] = {
        "r2": _explained(mse, spread), "mae": _mean(np, size, w), "rmse": math.sqrt(mse), "mse": mse,
        "max_error": float(size.max() if np is not None else max(size)), "explained_variance": _explained(noise, spread),
    }
    ordered = np.sort(r) if np is not None else sorted(r)
    if w is None:
        scores["median_absolute_error"] = _quantile(np.sort(size) if np is not None else sorted(size), 0.5)
    least, most = float(ordered[0]), float(ordered[-1])
    if least == most:
        least, most = least - 0.5, most + 0.5
    edges = [least + (most - least) * i / HISTOGRAM for i in range(HISTOGRAM + 1)]
    if np is not None:
        counts = np.histogram(r, bins=HISTOGRAM, range=(least, most), weights=w)[0].tolist()
    else:
        counts = [0.0] * HISTOGRAM
        for i, v in enumerate(r):
            counts[min(HISTOGRAM - 1, int((v - least) / (most - least) * HISTOGRAM))] += 1 if w is None else w[i]
    n = len(t)
    rows: Sequence[int] = range(n)
    if n > ROWS:
        import random  # here, so that importing mlaas costs nothing

        rows = sorted(random.Random(0).sample(range(n), ROWS))
    return {
        "task": "regression", "scores": scores,
        "residuals": {
            "edges": [_short(e) for e in edges], "counts": counts, "mean": off, "std": math.sqrt(noise),
            "quantiles": [[q, _short(_quantile(ordered, q))] for q in (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)],
        },
        "sample": [[_short(t[i]), _short(s[i])] for i in rows],
    }


def _explained(left: float, spread: float) -> float:
    if spread == 0:
        return 1.0 if left == 0 else 0.0
    return 1 - left / spread


def _quantile(ordered: Any, q: float) -> float:
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (at - low))


# Data that does not fit into memory.


class Evaluation:
    """An evaluation of batches, of which none is kept.

        e = mlaas.Evaluation("test", labels=["cat", "dog"])
        for x, y in batches:
            e.add(y, model(x))
        e.close(step=epoch)

    What adds up (accuracy, confusion, log loss, R2, ...) is exact. Probabilities
    are counted in 65536 bins for curves and the areas under them, which moves an
    area by less than 1e-4 unless the scores crowd into few bins; the residuals'
    quantiles and histogram are of a random sample of 100,000 rows. It needs
    NumPy, and scores that are probabilities.

    Args:
        name, labels, task: as in evaluate. Classes have to be named, as later
            batches may have others: without labels it is regression.
    """

    def __init__(self, name: str = "evaluation", labels: Optional[Sequence[Any]] = None, task: Optional[str] = None):
        if _numpy() is None:
            raise ValueError("Evaluation needs numpy, which is not installed; evaluate() does not")
        self.name, self.labels = name, None if labels is None else list(labels)
        self.task = task or ("regression" if labels is None else "binary" if len(labels) == 2 else "multiclass")
        if self.task not in TASKS or self.task == "multilabel":
            raise ValueError("task is %r, want binary, multiclass or regression" % (task,))
        if self.task != "regression":
            if self.labels is None or len(self.labels) < 2:
                raise ValueError("labels is %r, want the names of at least two classes" % (labels,))
            if len(self.labels) > DENSE:
                raise ValueError("labels has %d classes, want at most %d" % (len(self.labels), DENSE))
        self.rows = 0
        self._weighted = False
        self._batches = 0
        self._sample: List[Tuple[float, float]] = []
        self._sums: Dict[str, Any] = {}

    def add(self, y_true: Any, y_score: Any, sample_weight: Any = None) -> None:
        """Count a batch. ValueError where it cannot be: nothing of it counts."""
        np = _numpy()
        t, s = _array(np, y_true, "y_true"), _array(np, y_score, "y_score")
        if len(t) != len(s):
            raise ValueError("y_score has %d rows and y_true %d, want as many" % (len(s), len(t)))
        if len(t) == 0:
            return
        w = _weights(np, sample_weight, len(t))
        if self.task == "regression":
            self._numbers(np, _numbers(np, t, "y_true"), _numbers(np, s, "y_score"), w)
        else:
            self._classes(np, t, s, w)
        self.rows += len(t)
        self._batches += 1
        self._weighted = self._weighted or w is not None

    def _plus(self, **parts: Any) -> None:
        for key, v in parts.items():
            self._sums[key] = self._sums[key] + v if key in self._sums else v

    def _classes(self, np: Any, t: Any, s: Any, w: Any) -> None:
        labels = self.labels or []
        n = len(labels)
        if "scored" in self._sums and self._sums["scored"] != (s.ndim == 2 or s.dtype.kind == "f"):
            raise ValueError("y_score has scores in one batch and classes in another, want the same in all")
        scored = s.ndim == 2 or s.dtype.kind == "f"
        truth = _codes(np, t, labels, True, "y_true")
        one = np.ones(len(t)) if w is None else w
        if not scored:
            guess = _codes(np, s, labels, True, "y_score")
            self._plus(matrix=np.asarray(_confusion(np, truth, guess, w, n), dtype=float))
            self._sums["scored"] = False
            return
        s = _numbers(np, s, "y_score")
        if s.ndim == 1:
            if n != 2:
                raise ValueError("y_score has one score a row, want one for each of the %d classes" % n)
            s = np.stack([1 - s, s], axis=1)
            guess = (s[:, 1] >= 0.5).astype(np.intp)
        else:
            guess = s.argmax(axis=1)
        if s.shape[1] != n:
            raise ValueError("y_score has %d columns, want one for each of the %d classes" % (s.shape[1], n))
        if s.min() < 0 or s.max() > 1:
            raise ValueError("y_score has %.6g, want probabilities from 0 to 1" % (s.min() if s.min() < 0 else s.max()))
        of = range(1, 2) if self.task == "binary" else range(n)
        bins, sure = [], []
        for k in of:
            y = _is(np, truth, k)
            at = np.minimum((s[:, k] * GRAIN).astype(np.intp), GRAIN - 1)
            bins.append([np.bincount(at, weights=one * y, minlength=GRAIN), np.bincount(at, weights=one * (1 - y), minlength=GRAIN)])
            b = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], s[:, k])
            sure.append([np.bincount(b, weights=one * s[:, k], minlength=BINS), np.bincount(b, weights=one * y, minlength=BINS), np.bincount(b, weights=one, minlength=BINS)])
        own = np.clip(s[np.arange(len(truth)), truth], _EPS, 1 - _EPS)
        squares = sum(float((one * (s[:, k] - _is(np, truth, k)) ** 2).sum()) for k in of)
        tops: Dict[str, Any] = {}
        if n > 2:
            _top(np, tops, truth, s, w, n)
        total = float(one.sum())
        self._plus(matrix=np.asarray(_confusion(np, truth, guess, w, n), dtype=float), bins=np.asarray(bins), sure=np.asarray(sure),
                   log=float((one * -np.log(own)).sum()), squares=squares, weight=total, **{k: v * total for k, v in tops.items()})
        self._sums["scored"] = True

    def _numbers(self, np: Any, t: Any, s: Any, w: Any) -> None:
        one = np.ones(len(t)) if w is None else w
        weight, r = float(one.sum()), t - s
        if weight > 0:
            # Means and squares about them join without losing digits (Chan,
            # Golub, LeVeque 1983, doi:10.1080/00031305.1983.10483115).
            for key, v in (("t", t), ("r", r)):
                mean = float((one * v).sum()) / weight
                spread = float((one * (v - mean) ** 2).sum())
                before, m0, s0 = self._sums.get(key, (0.0, 0.0, 0.0))
                all_of = before + weight
                self._sums[key] = (all_of, m0 + (mean - m0) * weight / all_of, s0 + spread + (mean - m0) ** 2 * before * weight / all_of)
            self._plus(absolute=float((one * abs(r)).sum()), squares=float((one * r * r).sum()))
        self._sums["most"] = max(self._sums.get("most", 0.0), float(abs(r).max()))
        limit = 100_000
        seen = self.rows
        for i in range(min(max(0, limit - len(self._sample)), len(t))):
            self._sample.append((float(t[i]), float(s[i])))
        rest = np.arange(min(max(0, limit - seen), len(t)), len(t))
        if len(rest):  # each row stays with the same chance
            places = np.random.default_rng(self._batches).integers(0, rest + seen + 1)
            for i, at in zip(rest[places < limit].tolist(), places[places < limit].tolist()):
                self._sample[at] = (float(t[i]), float(s[i]))

    def result(self) -> Dict[str, Any]:
        """What was found so far; see docs/reference/evaluation.md."""
        if not self.rows:
            raise ValueError("no batch was added, want at least one")
        np, sums = _numpy(), self._sums
        if self.task == "regression":
            t, s = np.asarray(self._sample).T
            found = _regression(np, t, s, None)
            weight, _, spread = sums["t"]
            mse = sums["squares"] / weight
            found["scores"] = {
                "r2": _explained(mse, spread / weight), "mae": sums["absolute"] / weight, "rmse": math.sqrt(mse), "mse": mse,
                "max_error": sums["most"], "explained_variance": _explained(sums["r"][2] / weight, spread / weight),
            }
            found["residuals"].update(mean=sums["r"][1], std=math.sqrt(sums["r"][2] / weight))
            if self.rows > len(self._sample):
                found["approximate"] = "residuals are of a sample of %d rows" % len(self._sample)
            return found
        names = [str(v) for v in self.labels or []]
        matrix = sums["matrix"].tolist()
        scores, table = _report(matrix, names)
        found = {"task": self.task, "labels": names, "scores": scores, "confusion": {"matrix": matrix}, "perClass": table}
        if sums["scored"]:
            notes: List[str] = []
            of = [1] if self.task == "binary" else list(range(len(names)))
            ranks = {k: _down(np, b[0], b[1]) for k, b in zip(of, sums["bins"])}
            micro = None if self.task == "binary" else _down(np, *sums["bins"].sum(axis=0))
            _drawn(np, found, scores, table, notes, ranks, micro, names)
            for key in ("top_2", "top_3", "top_5"):
                if key in sums:
                    scores[key] = sums[key] / sums["weight"]
            scores["log_loss"], scores["brier"] = sums["log"] / sums["weight"], sums["squares"] / sums["weight"]
            found["calibration"] = [
                {"label": names[k], "bins": [[float(a / c), float(b / c), float(c)] for a, b, c in zip(*part) if c > 0]}
                for k, part in zip(of[:CURVES], sums["sure"])
            ]
            found["approximate"] = "scores are counted in %d bins" % GRAIN
            if notes:
                found["notes"] = notes
        return found

    def close(self, step: Optional[int] = None) -> Dict[str, Any]:
        """Show what was found on the job's page, and return it."""
        return _tell(self.result(), self.name, step, self.rows, self._weighted)
