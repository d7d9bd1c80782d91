"""Lightning, under both of its names."""
from __future__ import annotations

import sys
from typing import Any, Dict

from .. import _hook, _watch
from . import pytorch


def trainer(module: Any) -> None:
    """Hook the making of a Trainer: it gets one more callback."""
    home = module.__name__.rpartition(".trainer.trainer")[0]

    def make(inner: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            inner(self, *args, **kwargs)
            _hook.guarded(_join, home, self)

        return init

    _hook.wrap(module.Trainer, "__init__", make)


def _join(home: str, trainer: Any) -> None:
    # At the front: checkpoints are made after all others.
    trainer.callbacks.insert(0, _callback(sys.modules[home].callbacks.Callback)())


_classes: Dict[Any, Any] = {}


def _callback(base: Any) -> Any:
    if base in _classes:
        return _classes[base]

    class Tracked(base):
        """Records what a module logs, and the loss of its steps."""

        def __init__(self) -> None:
            super().__init__()
            self.region: Any = None
            self.base = 0
            self.last: Dict[str, float] = {}
            self.batches = _watch.Stream(_watch.TRAINER, first=50, every=0.25)

        def setup(self, trainer: Any, pl_module: Any, stage: Any = None) -> None:
            if stage == "fit" and self.region is None:
                self.region = _watch.Region(trainer)
                _hook.guarded(self.begin, trainer, pl_module)

        def teardown(self, trainer: Any, pl_module: Any, stage: Any = None) -> None:
            if stage == "fit" and self.region is not None:
                self.region.leave()
                self.region = None

        def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
            if self.region is not None:
                self.region.leave()
                self.region = None

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            _hook.guarded(self.batch, trainer, outputs)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            _hook.guarded(self.metrics, trainer, True)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not getattr(trainer, "sanity_checking", False):
                _hook.guarded(self.metrics, trainer, False)

        def on_test_end(self, trainer: Any, pl_module: Any) -> None:
            _hook.guarded(self.metrics, trainer, False)

        def begin(self, trainer: Any, pl_module: Any) -> None:
            self.base = max(0, _watch.step - trainer.global_step)
            _watch.model(pl_module, lambda: pytorch.summary(pl_module))
            given = {k: v for k, v in dict(getattr(pl_module, "hparams", {}) or {}).items() if isinstance(v, (bool, int, float, str))}
            for name in ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val"):
                v = getattr(trainer, name, None)
                if v is not None and v != -1:
                    given.setdefault(name, v)
            _watch.params(given, "lightning")

        def step(self, trainer: Any) -> int:
            return self.base + int(trainer.global_step)

        def batch(self, trainer: Any, outputs: Any) -> None:
            step = self.step(trainer)
            _watch.at(step)
            if not self.batches.sampler.due():
                return
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            found = {"batch/loss": loss.detach()} if hasattr(loss, "detach") and loss.numel() == 1 else {}
            found.update(_rates(trainer))
            _watch.say(found, step, _watch.TRAINER)

        def metrics(self, trainer: Any, epoch: bool) -> None:
            found = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith(("_step", "_step/dataloader_idx_0"))}
            if epoch:
                found["epoch"] = trainer.current_epoch + 1
            else:  # what stands there since the last epoch of training is not of this evaluation
                found = {k: v for k, v in found.items() if self.last.get(k) != v}
            self.last.update(found)
            _watch.say(found, self.step(trainer), _watch.TRAINER)

    _classes[base] = Tracked
    return Tracked


def _rates(trainer: Any) -> Dict[str, Any]:
    found = {}
    for i, optimizer in enumerate(list(trainer.optimizers)[:8]):
        if optimizer.param_groups and "lr" in optimizer.param_groups[0]:
            found["lr" if i == 0 else "lr_%d" % (i + 1)] = optimizer.param_groups[0]["lr"]
    return found
