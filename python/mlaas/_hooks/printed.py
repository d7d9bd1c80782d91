"""Metrics that a program prints, by a pattern that ordinary text does not have.

A line is read if the program itself prints it, or logs it by logging. It has
metrics if each of these holds (docs/reference/tracking.md):

1. It has a name, then "=", ":", "|" or a blank, then a number: "loss=0.12",
   "val acc: 93.1%", "Accuracy: 9843/10000". The name's last word, cut at _ - /
   and ., ends with a metric's (WORDS) or that and of what; the words before it
   may say of what (OF).
2. After a blank alone, and where the line names no place such as "epoch 3",
   the number has a decimal point, an exponent, a % or a whole: "error 404" and
   "score: 3" are no metrics. A learning rate needs a place.
3. In "Accuracy of the network on the 10000 test images: 54 %" the name is what
   the line begins with, up to a word such as "of", and the number its end; it
   must be exact as in 2.
4. Beside names, numbers, places, times and log levels there are at most 5 other
   words in a line that names a place, 2 in another; this is not for lines as in 3.
"""
from __future__ import annotations

import builtins
import functools
import re
import sys
from typing import Any, Dict, NamedTuple, Optional, Tuple

from .. import _hook, _watch

LINE = 500  # characters of a line that is read
LINES = 100_000  # lines of a program that are read at all

WORDS = frozenset(
    "loss losses acc accuracy error err auc auroc precision recall f1 perplexity ppl bleu rouge mse mae rmse mape r2 iou miou dice psnr ssim "
    "reward return score nll elbo kl entropy wer cer cost likelihood map fid lr rate top1 top5".split()
)
OF = frozenset("train training tr val valid validation test testing eval evaluation dev avg average mean total best final running epoch batch cross learning cls reg top1 top5 f1 roc r2".split())
_RATE = frozenset(("lr", "learning_rate"))

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf|-inf"
_PAIR = re.compile(
    r"(?P<name>(?:(?<![\w./:])[A-Za-z][\w.@/-]*[ ]+){0,3}(?<![\w./:])[A-Za-z][\w.@/-]*)['\"]?(?P<sep>\s*(?:=|:|->|\|)\s*|[ \t]+)(?P<number>%s)(?P<rest>[ ]?%%|/(?P<whole>\d+))?(?![\w.]|/\d)" % _NUMBER,
    re.I,
)
_LONG = re.compile(
    r"^\W*(?:the\s+)?(?P<name>(?:[a-z][\w-]*\s+){0,2}(?!err)[a-z][\w-]*)\s+(?:of|on|for|over|after)\s[^:=]{3,80}[:=]\s*(?P<number>%s)(?P<rest>[ ]?%%|/(?P<whole>\d+))?\s*$" % _NUMBER,
    re.I,
)
_PLACE = re.compile(r"\b(epoch|step|global[_ ]step|iter|iteration|batch|round|episode)\b['\"]?\s*[:=#\[(]*\s*(\d+)(?!\.?\d*[1-9])(?:\.0+)?", re.I)
_BRACKET = re.compile(r"^\s*\[\s*(?:\d+\s*,\s*)?(\d+)\]")
_TIMES = re.compile(
    r"\b(?:time|took|elapsed|eta|in|lr|speed|duration)\b\s*[:=]?\s*[\d.:]+\s*\w*(?:/\w+)?|\d[\d.:]*\s*(?:ms|us|s|sec|secs|seconds|min|mins|minutes|h|it/s|s/it|samples/s|img/s|images/s|steps/s|[kmg]i?b)\b|"
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[,.\d]*|\b(?:DEBUG|INFO|WARNING|root|main)\b",
    re.I,
)


class Found(NamedTuple):
    place: Optional[int]
    metrics: Dict[str, float]


def read(line: str) -> Optional[Found]:
    """The metrics of a line, None if it has none."""
    if len(line) > LINE:
        return None
    places = [int(m.group(2)) for m in _PLACE.finditer(line)]
    bracket = _BRACKET.match(line)
    place = places[-1] if len(places) == 1 else None
    if bracket is not None:
        places.append(int(bracket.group(1)))
    # Of several the innermost counts from the beginning again and again.
    anywhere = bool(places)
    metrics: Dict[str, float] = {}
    left = []
    at = 0
    for m in _PAIR.finditer(_PLACE.sub(lambda p: " " * len(p.group()), line)):
        name = _name(m.group("name"))
        if name is None:
            continue
        key, extra = name
        v = _value(m)
        exact = any(c in m.group("number").lower() for c in ".en") or m.group("rest")
        if not exact and (not anywhere or not m.group("sep").strip()):
            continue
        if key in _RATE and not anywhere:
            continue
        metrics.setdefault(key, v)
        left.append(line[at : m.start()] + " " + extra)
        at = m.end()
    if not metrics:
        return _long(line, place)
    left.append(line[at:])
    rest = _TIMES.sub(" ", _PLACE.sub(" ", " ".join(left)))
    words = [w for w in re.findall(r"[^\W\d_]{2,}", rest)]
    if len(words) > (5 if anywhere else 2):
        return None
    return Found(place, metrics)


def _long(line: str, place: Optional[int]) -> Optional[Found]:
    m = _LONG.match(_PLACE.sub(" x ", line))
    name = _name(m.group("name")) if m is not None else None
    if m is None or name is None or name[1] or not (m.group("rest") or any(c in m.group("number").lower() for c in ".e")):
        return None
    return Found(place, {name[0]: _value(m)})


def _name(text: str) -> Optional[Tuple[str, str]]:
    """A metric's key, and the words before it that are none of it."""
    words = text.split()
    last = words[-1].strip("-./").lower()
    parts = [p for p in re.split(r"[_./@-]+", last) if p]
    while len(parts) > 1 and (parts[-1] in OF or len(parts[-1]) < 3) and parts[-1] not in WORDS:
        parts.pop()  # loss_g, accuracy_train
    if not parts or parts[-1] not in WORDS:
        return None
    if parts[-1] == "rate" and parts[-2:-1] != ["learning"] and (len(parts) > 1 or len(words) < 2 or words[-2].lower() != "learning"):
        return None
    key = [last.replace("-", "_")]
    i = len(words) - 1
    while i > 0 and words[i - 1].strip("-.").lower() in OF:
        i -= 1
        key.insert(0, words[i].strip("-.").lower())
    return "_".join(key), " ".join(words[:i])


def _value(m: Any) -> float:
    v = float(m.group("number"))
    if m.group("whole"):
        return v / float(m.group("whole")) if float(m.group("whole")) else v
    return v / 100 if m.group("rest") else v


_last: Dict[str, int] = {}
_lines = 0
_begun: Dict[Any, str] = {}  # by stream: a line that is not at its end


def install() -> None:
    """Hook print. A library that prints is not read: it has hooks of its own."""
    inner = builtins.print
    if getattr(inner, "_mlaas", False):
        return

    @functools.wraps(inner)
    def print(*values: Any, **how: Any) -> None:
        inner(*values, **how)
        try:
            if _lines < LINES and how.get("file") in (None, sys.stdout, sys.stderr):
                _printed(values, how, sys._getframe(1))
        except Exception as e:
            _hook.guarded(_failed, e)

    print._mlaas = True  # type: ignore[attr-defined]
    builtins.print = print  # type: ignore[assignment]


def _failed(e: Exception) -> None:
    raise e


def _printed(values: Tuple[Any, ...], how: Dict[str, Any], frame: Any) -> None:
    end = how.get("end")
    stream = how.get("file")
    begun = _begun.get(stream, "")
    if not values and not begun:
        return
    sep = how.get("sep")
    text = begun + (" " if sep is None else sep).join(_text(v) for v in values) + ("\n" if end is None else end)
    if "\n" not in text and "\r" not in text:
        _begun[stream] = text[-LINE:]
        return
    _begun.pop(stream, None)
    if not any(c.isdigit() for c in text[: 4 * LINE]) and "nan" not in text or not _watch.users(frame):
        return
    for line in text[: 20 * LINE].splitlines():
        hear(line)


def _text(v: Any) -> str:
    """As print writes it; of what is costly to write, nothing."""
    if isinstance(v, (str, int, float, bool, type(None))):
        return str(v)
    if getattr(v, "ndim", None) == 0 and hasattr(v, "item"):
        return repr(v.item())  # an array or a tensor of one number: printing it has waited for it
    if isinstance(v, dict) and len(v) <= 32:
        return "{%s}" % ", ".join("%s: %s" % (k, _text(x)) for k, x in v.items() if not isinstance(x, dict))
    return "?"


def hear(line: str) -> None:
    """Record the metrics of a line."""
    global _lines
    _lines += 1
    found = read(line)
    if found is None:
        return
    for key, v in found.metrics.items():
        if _watch.said(key):
            continue
        last = _last.get(key, -1)
        if _watch.counted:
            at = max(_watch.step, last + 1)
        elif found.place is not None and found.place > last:
            at = found.place
        else:
            at = last + 1 if last >= 0 else 0
        _last[key] = at
        _watch.say({key: v}, at, _watch.PRINTED)


def logging(module: Any) -> None:
    """Hook what loggers say, as far as the program and not a library says it."""

    def make(inner: Any) -> Any:
        def handle(self: Any, record: Any) -> Any:
            result = inner(self, record)
            if record.levelno >= 20 and _lines < LINES and _watch.own(getattr(record, "pathname", "")):
                _hook.guarded(lambda: hear(record.getMessage()))
            return result

        return handle

    _hook.wrap(module.Logger, "handle", make)
