"""PyTorch: the loss of each backward(), the steps of optimizers, their rates."""
from __future__ import annotations

import functools
import sys
import weakref
from typing import Any, Dict, List, Optional, Set, Tuple

from .. import _hook, _watch

# A place that calls backward, and what its loss is called. By the identity of
# its code: to hash code is to hash all that is in it.
_sites: Dict[Tuple[int, int], str] = {}
_libraries: Set[int] = set()  # code between the user's and backward
_codes: List[Any] = []  # all those: an identity is theirs while they live
_given: List[Any] = []  # losses of which a library makes others before it derives them
_scales = False  # whether a loss was ever scaled
_pending: Dict[str, Any] = {}  # losses since the last step, not read
_stream = _watch.Stream(_watch.STEP)
_counts: "weakref.WeakKeyDictionary[Any, _Count]" = weakref.WeakKeyDictionary()
_steps = 0
_backwards = 0
_watched = False  # whether an optimizer says when a step is done
_only: "weakref.WeakSet[Any]" = weakref.WeakSet()  # without hooks: the optimizers that were given to track


class _Count:
    """The steps of one optimizer."""

    __slots__ = ("of", "steps")

    def __init__(self, of: Any, steps: int):
        self.of, self.steps = weakref.ref(of), steps


_latest: Optional[_Count] = None  # of the optimizer that made the last step, which is mostly the one that makes the next


def tensor(module: Any) -> None:
    """Hook Tensor.backward."""

    def make(inner: Any) -> Any:
        def backward(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            try:
                _lost(self)
            except Exception as e:
                _hook.failed(_lost, e)
            return result

        return backward

    _hook.wrap(module.Tensor, "backward", make)


def scaler(module: Any) -> None:
    """Hook GradScaler.scale: the loss is what it was given, not what it gives."""

    def make(inner: Any) -> Any:
        def scale(self: Any, outputs: Any) -> Any:
            result = inner(self, outputs)
            if result is not outputs and hasattr(result, "grad_fn"):
                global _scales
                _scales = True
                result._mlaas_unscaled = outputs
            return result

        return scale

    _hook.wrap(module.GradScaler, "scale", make)


def accelerator(module: Any) -> None:
    """Hook Accelerator.backward, which divides the loss by the calls of a step."""

    def make(inner: Any) -> Any:
        def backward(self: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
            _given.append(loss)
            try:
                return inner(self, loss, *args, **kwargs)
            finally:
                _given.pop()

        return backward

    _hook.wrap(module.Accelerator, "backward", make)


def _lost(loss: Any) -> None:
    global _backwards, _steps
    if _given:
        loss = _given[-1]
    elif _scales:
        loss = loss.__dict__.get("_mlaas_unscaled", loss)
    region = _watch.led()
    if region is not None and region.steps or loss.numel() != 1:
        return
    frame = sys._getframe(2)
    key = _sites.get((id(frame.f_code), frame.f_lasti)) or _called(loss, frame)
    if region is not None:
        key = "batch/" + key
    if not _watched:
        # Nobody says when a step is done: each turn is one.
        if key in _pending or not _pending:
            if _pending:
                _emit()
            _backwards += 1
            if _backwards == 1:
                _steps = _watch.step
            _steps += 1
    # It leaves its graph, or it would keep the whole step alive.
    _pending[key] = loss.detach()
    _stream.kept = (_pending, _steps + 1 if _watched else _steps)


def _called(loss: Any, frame: Any) -> str:
    """What the loss is called, where the place is new or a library's: then the
    place in the user's code counts."""
    nearest, left = frame, 24
    while frame is not None and left:
        code = frame.f_code
        site = (id(code), frame.f_lasti)
        key = _sites.get(site)
        if key is not None:
            return key
        if id(code) not in _libraries:
            if _watch.users(frame) or len(_libraries) >= 1000:
                return _name(loss, site, code)
            _libraries.add(id(code))
            _codes.append(code)
        frame, left = frame.f_back, left - 1
    return _name(loss, (id(nearest.f_code), nearest.f_lasti), nearest.f_code)


def _name(loss: Any, site: Tuple[int, int], code: Any) -> str:
    if len(_sites) > 1000:
        return "loss"
    name = _watch.called(loss)
    if not any(word in name.lower() for word in ("loss", "err")):
        name = "loss"
    taken, unique, n = set(_sites.values()), name, 2
    while unique in taken:
        unique, n = "%s_%d" % (name, n), n + 1
    _sites[site] = unique
    _codes.append(code)
    return unique


def _emit() -> None:
    found = dict(_pending)
    _pending.clear()
    _stream.say(found, _steps)


def optimizer(module: Any) -> None:
    """Hook the end of every optimizer's step."""
    register = getattr(module, "register_optimizer_step_post_hook", None)
    if register is not None and not getattr(module, "_mlaas", False):
        module._mlaas = True
        register(_after_step)

    def make(inner: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> Any:
            inner(self, *args, **kwargs)
            _hook.guarded(_made, type(self), register is None)

        return init

    _hook.wrap(module.Optimizer, "__init__", make)


def _made(cls: Any, old: bool) -> None:
    """There is an optimizer: from now on a step is one of it."""
    global _watched, _steps
    if not _watched:
        _watched, _steps = True, _watch.step
    if old:  # before 2.0 there is no hook for all: each class is changed when it is first used
        _old(cls)


def _old(cls: Any) -> None:
    inner = cls.__dict__.get("step")
    if inner is None or getattr(inner, "_mlaas", False):
        return

    @functools.wraps(inner)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        _after_step(self, args, kwargs)
        return result

    step._mlaas = True  # type: ignore[attr-defined]
    cls.step = step


def watch(given: Any) -> None:
    """Record this optimizer, or with a module the losses alone: mlaas.track gave it."""
    global _watched
    torch = sys.modules["torch"]
    tensor(torch)
    if not hasattr(given, "param_groups"):
        _watch.model(given, lambda: summary(given))
        return
    _watched = True
    if not _hook.installed:
        given.register_step_post_hook(_after_step)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    try:
        _stepped(optimizer)
    except Exception as e:
        _hook.failed(_stepped, e)


def _stepped(optimizer: Any) -> None:
    global _steps, _pending
    region = _watch.led()
    if region is not None and region.steps:
        return
    count = _latest
    if count is None or count.of() is not optimizer:
        count = _count(optimizer)
    count.steps += 1
    if count.steps > _steps:
        _steps = count.steps
    _watch.at(_steps)
    if not _stream.sampler.due():
        if _pending:
            _stream.kept, _pending = (_pending, _steps), {}
        return
    found = dict(_pending)
    _pending.clear()
    _stream.kept = None
    number = 1 if len(_counts) == 1 else list(_counts).index(optimizer) + 1
    prefix = "lr" if number == 1 else "lr_%d" % number
    for i, group in enumerate(optimizer.param_groups[:8]):
        if "lr" in group:
            found[prefix if i == 0 else "%s/%d" % (prefix, i)] = group["lr"]
    _watch.say(found, _steps, _watch.STEP)


def _count(optimizer: Any) -> _Count:
    global _latest
    _latest = count = _counts.get(optimizer)
    if count is None:
        # Counting begins where the training stands, and not for one that
        # merely takes turns with another.
        _latest = count = _Count(optimizer, _watch.step if not _counts else max(_watch.step - 1, 0))
        _begin(optimizer)
        _counts[optimizer] = count
    return count


def _begin(optimizer: Any) -> None:
    """The first step of an optimizer: what it is, and what it trains."""
    group = optimizer.param_groups[0]
    given = {k: v for k, v in group.items() if k != "params" and isinstance(v, (bool, int, float, str))}
    if "initial_lr" in group:  # a schedule has changed it before the first step
        given["lr"] = optimizer.defaults.get("lr", group["initial_lr"]) if "max_lr" in group else group["initial_lr"]
    _watch.params(dict(given, optimizer=type(optimizer).__name__), type(optimizer).__name__)
    mine = {id(p) for g in optimizer.param_groups for p in g["params"]}
    model = _owner(mine)
    if model is not None:
        _watch.model(model, lambda: summary(model))
    elif _watch.led() is None:  # a trainer has said it
        _watch.model(optimizer, lambda: {"kind": "PyTorch parameters", "parameters": sum(p.numel() for g in optimizer.param_groups for p in g["params"])})


def _owner(parameters: Any) -> Any:
    """The module that has these parameters, by the frames that led here."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    frame: Any = sys._getframe(1)
    best, size = None, -1
    for _ in range(24):
        if frame is None:
            break
        if _watch.users(frame):
            spaces: List[Any] = [frame.f_locals, frame.f_globals, getattr(frame.f_locals.get("self"), "__dict__", {})]
            for space in spaces:
                for v in list(space.values()):
                    if isinstance(v, torch.nn.Module):
                        n = sum(1 for p in v.parameters() if id(p) in parameters)
                        if n > size and n > 0:
                            best, size = v, n
        frame = frame.f_back
    return best


def summary(model: Any) -> Dict[str, Any]:
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"kind": type(model).__name__, "parameters": count, "trainable": trainable, "summary": repr(model)}
