"""Hugging Face Trainer, and what is derived from it."""
from __future__ import annotations

import dataclasses
from typing import Any

from .. import _hook, _watch
from . import pytorch


def trainer_callback(module: Any) -> None:
    """Hook the making of a list of callbacks: it gets one more."""

    class Tracked(module.TrainerCallback):  # type: ignore[misc,name-defined]
        """Records what a trainer logs. Between its logs, the loss of a step is
        seen by the hooks of PyTorch, as batch/loss."""

        region: Any = None
        base = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.region = _watch.Region(state, steps=False)
            self.base = max(0, _watch.step - state.global_step)
            _hook.guarded(_begins, args, kwargs.get("model"))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.region is not None:
                self.region.leave()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            _hook.guarded(_logged, self.base, state, logs)

    def make(inner: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            inner(self, *args, **kwargs)
            _hook.guarded(self.add_callback, Tracked())

        return init

    _hook.wrap(module.CallbackHandler, "__init__", make)


def _logged(base: int, state: Any, logs: Any) -> None:
    step = base + int(state.global_step)
    _watch.at(max(step, _watch.step))
    found = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
    if "learning_rate" in found:
        found["lr"] = found.pop("learning_rate")
    _watch.say(found, step, _watch.TRAINER)


# What is recorded of the arguments even where it is the default.
_ALWAYS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "weight_decay", "lr_scheduler_type", "warmup_steps", "seed", "optim")


def _begins(args: Any, model: Any) -> None:
    given = {}
    for field in dataclasses.fields(args) if dataclasses.is_dataclass(args) else ():
        v = getattr(args, field.name, None)
        v = getattr(v, "value", v)
        if not isinstance(v, (bool, int, float, str)) or field.name.endswith(("_dir", "token")):
            continue
        if field.name in _ALWAYS or field.default is not dataclasses.MISSING and v != getattr(field.default, "value", field.default):
            given[field.name] = v
    _watch.params(given, "trainer")
    if model is not None:
        _watch.model(model, lambda: pytorch.summary(model))
