"""Keras 3, on any of its backends: gradients are averaged as the optimizer
takes them, and what fit is given is cut among the workers.

Where: at the beginning of Optimizer.apply. All trainers and all loops of the
user's own come through it, on TensorFlow, JAX and PyTorch; clipping, weight
decay and accumulation stand behind it and see the mean. The exchange is a call
out of the compiled step to the ring of _ring.py, so it is one way for all
backends.
"""
from __future__ import annotations

import functools
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional

from . import Settings, diverge, fail, on, ring

_settings: Optional[Settings] = None
_began: List[bool] = []
_inside = [0]  # apply within apply: a wrapper of another optimizer


def register(settings: Settings) -> None:
    global _settings
    _settings = settings

    @on("keras.src.optimizers.base_optimizer")
    def optimizer(module: Any) -> None:
        _hook_apply(module.BaseOptimizer)

    @on("keras.src.optimizers.loss_scale_optimizer")
    def scaled(module: Any) -> None:
        _hook_apply(module.LossScaleOptimizer)

    @on("keras.src.callbacks.callback_list")
    def callbacks(module: Any) -> None:
        _hook_callbacks(module.CallbackList)

    @on("keras.src.trainers.trainer")
    def trainer(module: Any) -> None:
        _hook_compile(module.Trainer)

    for backend, name in (("tensorflow", "TensorFlowTrainer"), ("jax", "JAXTrainer"), ("torch", "TorchTrainer")):

        def fits(module: Any, name: str = name) -> None:
            _hook_fit(getattr(module, name))

        on("keras.src.backend.%s.trainer" % backend)(fits)

    @on("keras")
    def keras(module: Any) -> None:
        version = str(getattr(module, "__version__", "3"))
        if version.startswith(("2.", "1.")):
            fail("this environment has Keras %s: Keras 3 is spread, and version 2 is not. Take TensorFlow 2.16 or later, or say code.distribute: off" % version)
        module.utils.set_random_seed(settings.seed % 2**31)

    @on("tensorflow")
    def tensorflow(module: Any) -> None:
        module.random.set_seed(settings.seed % 2**31)


# ---- gradients ----


def _hook_apply(cls: Any) -> None:
    inner, build = cls.apply, cls.build

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        if _inside[0] or not len(grads):
            return inner(self, grads, trainable_variables)
        _inside[0] += 1
        try:
            if trainable_variables is not None:
                trainable_variables = list(trainable_variables)
                if not self.built:  # before the exchange, so that the weights begin alike
                    from keras.src import backend

                    with backend.name_scope(self.name, caller=self):
                        self.build(trainable_variables)
                    self.built = True
            return inner(self, _mean(list(grads)), trainable_variables)
        finally:
            _inside[0] -= 1

    def built(self: Any, variables: Any) -> Any:
        result = build(self, variables)
        if not getattr(self, "_mlaas_spread", False):
            object.__setattr__(self, "_mlaas_spread", True)
            _share(list(variables))
        return result

    apply.__doc__, built.__doc__ = inner.__doc__, build.__doc__
    cls.apply = apply
    if "build" in cls.__dict__:
        cls.build = built


def _mean(grads: List[Any]) -> List[Any]:
    """The gradients' means, where there are gradients."""
    there = [g for g in grads if g is not None]
    if not there:
        return grads
    import keras

    means = iter({"tensorflow": _mean_tensorflow, "jax": _mean_jax, "torch": _mean_torch}[keras.backend.backend()](there))
    return [None if g is None else next(means) for g in grads]


def _exchange(grads: List[Any]) -> List[Any]:
    if not _began:
        _began.append(True)
        diverge()
    return ring().mean(grads)


def _mean_tensorflow(grads: List[Any]) -> List[Any]:
    import tensorflow as tf

    grads = [tf.convert_to_tensor(g) for g in grads]  # an embedding's are IndexedSlices
    if tf.executing_eagerly():
        return [tf.constant(a) for a in _exchange([g.numpy() for g in grads])]
    # One call out of the graph, with all of them in one piece: each call costs.
    wide = tf.float64 if any(g.dtype == tf.float64 for g in grads) else tf.float32
    flat = tf.concat([tf.reshape(tf.cast(g, wide), [-1]) for g in grads], 0)
    flat = tf.numpy_function(_mean_flat, [flat], wide, stateful=True)
    sizes = [tf.size(g) for g in grads]
    parts = tf.split(flat, sizes, num=len(grads))
    return [tf.ensure_shape(tf.cast(tf.reshape(p, tf.shape(g)), g.dtype), g.shape) for p, g in zip(parts, grads)]


def _mean_flat(flat: Any) -> Any:
    return _exchange([flat])[0]


def _mean_jax(grads: List[Any]) -> List[Any]:
    import jax
    import numpy as np
    from jax.experimental import io_callback

    shapes = [jax.ShapeDtypeStruct(g.shape, g.dtype) for g in grads]

    def exchange(*given: Any) -> Any:
        return [a.astype(s.dtype) for a, s in zip(_exchange([np.asarray(g, np.float32 if g.dtype.itemsize < 4 else None) for g in given]), shapes)]

    return list(io_callback(exchange, shapes, *grads, ordered=True))


def _mean_torch(grads: List[Any]) -> List[Any]:
    import torch

    means = _exchange([g.detach().to("cpu", torch.float32 if g.dtype.itemsize < 4 else g.dtype).numpy() for g in grads])
    return [torch.from_numpy(m).to(g.device, g.dtype) for m, g in zip(means, grads)]


# ---- weights ----


def _eagerly() -> Any:
    """Outside the graph that may be in the making."""
    import contextlib

    tf = sys.modules.get("tensorflow")
    return tf.init_scope() if tf is not None else contextlib.nullcontext()  # type: ignore[attr-defined]


def _array(v: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(v.value if hasattr(v, "value") and not callable(v.value) else v)


def _share(variables: List[Any]) -> None:
    """Variables get the values that they have at rank 0."""
    with _eagerly():
        for v, a in zip(variables, ring().share([_array(v) for v in variables])):
            v.assign(a)


def _level(variables: List[Any]) -> None:
    """Variables of floats get the means over the replicas."""
    some = [v for v in variables if "float" in str(v.dtype)]  # the running means of batch norm; not the state of seeds
    if some:
        for v, a in zip(some, ring().mean([_array(v) for v in some])):
            v.assign(a)


# ---- fit ----


def _hook_compile(cls: Any) -> None:
    inner = cls.compile

    def compile(self: Any, *args: Any, **kwargs: Any) -> Any:
        import keras

        if keras.backend.backend() == "tensorflow" and len(args) < 8:  # XLA cannot call out of a step
            kwargs["jit_compile"] = False
        return inner(self, *args, **kwargs)

    compile.__doc__ = inner.__doc__
    cls.compile = compile


def _hook_fit(cls: Any) -> None:
    import inspect

    inner = cls.fit
    signature = inspect.signature(inner)

    def fit(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        _cut(given)
        return inner(*bound.args, **bound.kwargs)

    fit.__doc__ = inner.__doc__
    cls.fit = fit


def _cut(given: Dict[str, Any]) -> None:
    """This replica's part of what fit trains on."""
    s = _settings
    assert s is not None
    x, y, weight = given.get("x"), given.get("y"), given.get("sample_weight")
    if _are_arrays(x) and (y is None or _are_arrays(y)):
        if given.get("validation_split") and given.get("validation_data") is None:
            from keras.src.trainers.data_adapters import array_slicing

            (x, y, weight), given["validation_data"] = array_slicing.train_validation_split((x, y, weight), validation_split=given["validation_split"])
            given["validation_split"] = 0.0
        rows = _rows(x)
        mine = [i % rows for i in range(s.rank, -(-rows // s.size) * s.size, s.size)]
        for name, arrays in (("x", x), ("y", y), ("sample_weight", weight)):
            given[name] = _map(arrays, lambda a: _taken(a, mine))
        batch = given.get("batch_size") or 32
        given["batch_size"] = -(-batch // s.size)
        if given.get("validation_data") is not None and given.get("validation_batch_size") is None:
            given["validation_batch_size"] = batch
        return
    if hasattr(x, "map") and hasattr(x, "element_spec"):  # a tf.data.Dataset of batches
        given["x"] = x.map(lambda *batch: _map_tensors(batch if len(batch) > 1 else batch[0]))
        return
    if hasattr(x, "__getitem__") and hasattr(x, "__len__") and hasattr(x, "on_epoch_end"):
        given["x"] = _sequence(x)
        return
    if hasattr(x, "__next__"):
        given["x"] = _generated(x)
        return
    raise TypeError(
        "mlaas: fit was given %s, which cannot be cut among the replicas: arrays, tf.data.Dataset, keras.utils.PyDataset and generators of batches can. "
        "code.distribute: off runs the replicas apart" % type(x).__name__
    )


def _are_arrays(tree: Any) -> bool:
    if isinstance(tree, dict):
        return bool(tree) and all(_are_arrays(v) for v in tree.values())
    if isinstance(tree, (list, tuple)):
        return bool(tree) and all(_are_arrays(v) for v in tree)
    return hasattr(tree, "shape") and hasattr(tree, "dtype") and len(tree.shape) > 0


def _map(tree: Any, f: Callable[[Any], Any]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: _map(v, f) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [_map(v, f) for v in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return f(tree)


def _rows(tree: Any) -> int:
    while isinstance(tree, (dict, list, tuple)):
        tree = next(iter(tree.values())) if isinstance(tree, dict) else tree[0]
    return int(tree.shape[0])


def _taken(a: Any, rows: List[int]) -> Any:
    if hasattr(a, "iloc"):  # pandas
        return a.iloc[rows]
    if (type(a).__module__ or "").startswith("tensorflow"):
        import tensorflow as tf

        return tf.gather(a, rows)
    return a[rows]


def _share_of(n: int) -> List[int]:
    """The rows of a batch of n that are this replica's: as many everywhere."""
    s = _settings
    assert s is not None
    return [(s.rank + s.size * i) % n for i in range(-(-n // s.size))]


def _map_tensors(batch: Any) -> Any:
    import tensorflow as tf

    s = _settings
    assert s is not None

    def cut(t: Any) -> Any:
        n = tf.shape(t)[0]
        return tf.gather(t, (s.rank + s.size * tf.range(-(-n // s.size))) % n)

    return tf.nest.map_structure(cut, batch)


def _cut_batch(batch: Any) -> Any:
    rows = _share_of(_rows(batch))
    return _map(batch, lambda a: _taken(a, rows))


def _sequence(given: Any) -> Any:
    import keras

    class Cut(keras.utils.PyDataset):
        """Batches of another one, of which one replica has its part."""

        def __init__(self) -> None:
            super().__init__(
                workers=getattr(given, "workers", 1), use_multiprocessing=getattr(given, "use_multiprocessing", False), max_queue_size=getattr(given, "max_queue_size", 10)
            )

        def __len__(self) -> int:
            return len(given)

        def __getitem__(self, i: int) -> Any:
            return _cut_batch(given[i])

        def on_epoch_end(self) -> None:
            given.on_epoch_end()

    return Cut()


def _generated(given: Any) -> Iterator[Any]:
    for batch in given:
        yield _cut_batch(batch)


# ---- what callbacks see ----


def _hook_callbacks(cls: Any) -> None:
    """What callbacks look at, and decide by, is the same on every replica: so
    they stop, save and lower the learning rate together. The list is hooked and
    not joined, so that whatever records around it sees the same too."""
    begin, test, end = cls.on_train_begin, cls.on_test_begin, cls.on_epoch_end

    @functools.wraps(begin)
    def on_train_begin(self: Any, logs: Any = None) -> Any:
        model = self.model
        if model is not None:
            _share(list(model.variables) + list(model.optimizer.variables if model.optimizer else []))
        return begin(self, logs)

    @functools.wraps(test)
    def on_test_begin(self: Any, logs: Any = None) -> Any:
        if self.model is not None and _began:
            _level(self.model.non_trainable_variables)
        return test(self, logs)

    @functools.wraps(end)
    def on_epoch_end(self: Any, epoch: Any, logs: Any = None) -> Any:
        import numpy as np

        names = sorted(k for k, v in (logs or {}).items() if isinstance(v, (int, float)) or hasattr(v, "dtype"))
        for k, v in zip(names, ring().mean([np.float64(logs[k]) for k in names])):
            logs[k] = float(v)
        if self.model is not None:
            _level(self.model.non_trainable_variables)
        result = end(self, epoch, logs)
        if self.model is not None and float(ring().mean([np.float64(bool(self.model.stop_training))])[0]) > 0:
            self.model.stop_training = True
        return result

    cls.on_train_begin, cls.on_test_begin, cls.on_epoch_end = on_train_begin, on_test_begin, on_epoch_end
