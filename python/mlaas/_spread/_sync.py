"""mlaas.sync: programs that train with NumPy, JAX or scikit-learn say
themselves what is to be the same on all replicas."""
from __future__ import annotations

from typing import Any, Callable, Dict, List, TypeVar

T = TypeVar("T")


class _Periodic:
    """What an outer step keeps between two meetings."""

    def __init__(self) -> None:
        self.calls = 0
        self.anchor: List[Any] = []
        self.momentum: List[Any] = []


_kept: Dict[str, _Periodic] = {}


def sync(tree: T, every: int = 1, outer_lr: float = 1.0, outer_momentum: float = 0.0, name: str = "") -> T:
    """Average arrays over the replicas of the run. Alone, it returns tree.

    All replicas must call it equally often, with the same shapes::

        for step in range(1000):
            params = update(params, next_batch())
            params = mlaas.sync(params)              # or only now and then: every=10

    Args:
        tree: an array (NumPy, JAX, PyTorch, TensorFlow), a float, or a list,
            tuple or dict of such, nested as you like; also an object with NumPy
            arrays as attributes, such as a scikit-learn estimator after
            partial_fit, whose float arrays are averaged in place. Integers,
            texts and other leaves stay as they are on each replica.
        every: average at each ``every``-th call only; the others return at
            once. Averages of 5 to 25 local steps cost little accuracy and save
            nearly all the traffic.
        outer_lr, outer_momentum: with ``every``, treat what the replicas have
            moved since the last meeting as a gradient, and step by it with
            Nesterov momentum. 1 and 0 are the plain mean; 0.7 and 0.9 are
            those of DiLoCo. The first call then gives all the chief's values.
        name: tells two trees apart that are averaged by turns.
    Returns: tree with the averages in the places of its arrays, of the same
        types. A scikit-learn estimator is returned itself.
    Raises: RuntimeError if a replica is gone, or came with something else.
    Source: local SGD, Stich 2019, arXiv:1805.09767; the outer step as in
        Douillard et al. 2023, arXiv:2311.08105, algorithm 1.
    """
    from . import ring

    if every < 1:
        raise ValueError("every is %r, want 1 or more" % (every,))
    found = ring()
    if found is None or found.size == 1:
        return tree
    leaves: List[Any] = []
    put = _take(tree, leaves)
    state = _kept.setdefault(name, _Periodic())
    if outer_lr != 1.0 or outer_momentum:
        return put(iter(_outer(found, state, leaves, every, outer_lr, outer_momentum)))
    state.calls += 1
    if state.calls % every:
        return tree
    return put(iter(found.mean(leaves)))


def _outer(ring: Any, state: _Periodic, leaves: List[Any], every: int, lr: float, momentum: float) -> List[Any]:
    import numpy as np

    if not state.anchor:  # the first call: all begin from the chief's values of now
        state.anchor = [np.array(a) for a in ring.share(leaves)]
        state.momentum = [np.zeros_like(a) for a in state.anchor]
        return [a.copy() for a in state.anchor]
    state.calls += 1
    if state.calls % every:
        return leaves
    for anchor, velocity, mean in zip(state.anchor, state.momentum, ring.mean(leaves)):
        moved = anchor - mean
        velocity *= momentum
        velocity += moved
        anchor -= lr * (moved + momentum * velocity)
    return [a.copy() for a in state.anchor]


def _take(tree: Any, leaves: List[Any]) -> Callable[[Any], Any]:
    """Put the arrays of tree into leaves, and return what builds it anew from
    an iterator of others."""
    import numpy as np

    if isinstance(tree, dict):
        inner = [(k, _take(v, leaves)) for k, v in tree.items()]
        return lambda given: type(tree)((k, f(given)) for k, f in inner) if type(tree) is not dict else {k: f(given) for k, f in inner}
    if isinstance(tree, (list, tuple)):
        parts = [_take(v, leaves) for v in tree]
        if hasattr(tree, "_fields"):
            return lambda given: type(tree)(*[f(given) for f in parts])
        return lambda given: type(tree)([f(given) for f in parts])
    if type(tree) is float:
        leaves.append(np.float64(tree))
        return lambda given: float(next(given))
    if isinstance(tree, (np.ndarray, np.generic)):
        if tree.dtype.kind != "f":
            return lambda given: tree
        leaves.append(tree)
        return lambda given: next(given) if isinstance(tree, np.ndarray) else next(given)[()]
    home = (type(tree).__module__ or "").partition(".")[0]
    if home == "torch" and hasattr(tree, "detach"):
        return _torch_leaf(tree, leaves)
    if home in ("jax", "jaxlib") and hasattr(tree, "dtype"):
        import jax.numpy as jnp

        if not jnp.issubdtype(tree.dtype, jnp.floating):
            return lambda given: tree
        leaves.append(np.asarray(tree, np.float32 if tree.dtype.itemsize < 4 else None))
        return lambda given: jnp.asarray(next(given), tree.dtype)
    if home == "tensorflow" and hasattr(tree, "numpy") and tree.dtype.is_floating:
        import tensorflow as tf

        leaves.append(tree.numpy())
        if hasattr(tree, "assign"):
            return lambda given: _assigned(tree, next(given))
        return lambda given: tf.convert_to_tensor(next(given))
    if hasattr(tree, "get_params") and hasattr(tree, "fit"):
        return _estimator(tree, leaves)
    return lambda given: tree


def _torch_leaf(tensor: Any, leaves: List[Any]) -> Callable[[Any], Any]:
    import torch

    if not tensor.dtype.is_floating_point:
        return lambda given: tensor
    leaves.append(tensor.detach().to("cpu", torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype).numpy())

    def put(given: Any) -> Any:
        new = torch.from_numpy(next(given).copy()).to(tensor.device, tensor.dtype)
        if isinstance(tensor, torch.nn.Parameter):  # it stays the one that optimizers know
            with torch.no_grad():
                tensor.copy_(new)
            return tensor
        return new

    return put


def _assigned(variable: Any, value: Any) -> Any:
    variable.assign(value)
    return variable


def _estimator(model: Any, leaves: List[Any]) -> Callable[[Any], Any]:
    """The fitted attributes of a scikit-learn estimator: by its rule, those
    whose names end with an underscore."""
    names = sorted(k for k, v in vars(model).items() if k.endswith("_") and not k.endswith("__"))
    inner = [(k, _take(vars(model)[k], leaves)) for k in names if not isinstance(vars(model)[k], float)]

    def put(given: Any) -> Any:
        for k, f in inner:
            setattr(model, k, f(given))
        return model

    return put
