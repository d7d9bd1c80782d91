"""PyTorch: gradients are averaged as backward ends, and shuffled batches are
cut among the workers.

Where: at the end of torch.autograd.backward, and not in optimizer.step. So
what stands between the two (clip_grad_norm_, GradScaler, a look at a
gradient's size) sees what it would see alone. Averaging is linear: where
gradients accumulate over several calls, averaging after each is the same as
averaging once.
"""
from __future__ import annotations

import os
import weakref
from typing import Any, Dict, Iterator, List, Optional

from . import Settings, diverge, fail, on

BUCKET = 25 << 20  # bytes that are averaged at a time


class _State:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.met = False
        self.optimizers: List["weakref.ref[Any]"] = []
        self.averaged = False  # since the last step of an optimizer
        self.began = False
        self.evaluating = False
        self.device: Any = None


_state: Optional[_State] = None


def register(settings: Settings) -> None:
    global _state
    _state = _State(settings)

    @on("torch")
    def torch(module: Any) -> None:
        module.manual_seed(settings.seed)

    @on("torch.optim.optimizer")
    def optimizer(module: Any) -> None:
        _hook_optimizer(module.Optimizer)

    @on("torch.autograd")
    def autograd(module: Any) -> None:
        _hook_backward(module)

    @on("torch.nn.modules.module")
    def modules(module: Any) -> None:
        _hook_mode(module.Module)

    @on("torch.utils.data.dataloader")
    def loader(module: Any) -> None:
        _hook_loader(module)


def _meet() -> Any:
    """torch.distributed among the replicas, begun when it is first needed."""
    import torch
    import torch.distributed as dist

    state = _state
    assert state is not None
    if state.met:
        return dist
    if not dist.is_available():
        fail("this PyTorch has no torch.distributed, by which replicas would average: install another build, or say code.distribute: off")
    if dist.is_initialized():
        fail("torch.distributed was begun by the program itself: say code.distribute: off")
    import atexit
    import datetime

    s = state.settings
    backend = "nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if backend == "gloo" and all(p.startswith("127.") for p in s.peers):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(backend, init_method="tcp://" + s.peers[0], rank=s.rank, world_size=s.size, timeout=datetime.timedelta(minutes=10))
    state.device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    state.met = True

    def leave() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    atexit.register(leave)
    return dist


# ---- weights ----


def _hook_optimizer(base: Any) -> None:
    inner = base.__init__
    add = base.add_param_group

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        _made(self)

    def add_param_group(self: Any, group: Any) -> Any:
        result = add(self, group)
        if getattr(self, "_mlaas_spread", False):
            _share([p for p in self.param_groups[-1]["params"]])
        return result

    init.__doc__, add_param_group.__doc__ = inner.__doc__, add.__doc__
    base.__init__, base.add_param_group = init, add_param_group


def _made(optimizer: Any) -> None:
    """The parameters that it trains begin as those of rank 0."""
    state = _state
    if state is None or getattr(optimizer, "_mlaas_spread", False):
        return
    optimizer._mlaas_spread = True
    state.optimizers.append(weakref.ref(optimizer))
    _share(_parameters(optimizer))
    optimizer.register_step_pre_hook(_before_step)


def _parameters(optimizer: Any) -> List[Any]:
    return [p for g in optimizer.param_groups for p in g["params"]]


def _share(tensors: List[Any]) -> None:
    import torch

    dist = _meet()
    with torch.no_grad():
        for t in tensors:
            if t.device == _state.device:  # type: ignore[union-attr]
                data = t.detach().contiguous()
                dist.broadcast(data, 0)
            else:
                data = t.detach().to(_state.device)  # type: ignore[union-attr]
                dist.broadcast(data, 0)
            if data.data_ptr() != t.data_ptr():
                t.copy_(data)


# ---- gradients ----


def _hook_backward(module: Any) -> None:
    inner = module.backward
    depth = [0]

    def backward(*args: Any, **kwargs: Any) -> Any:
        depth[0] += 1
        try:
            result = inner(*args, **kwargs)
        finally:
            depth[0] -= 1
        if depth[0] == 0 and _state is not None:
            _average()
        return result

    backward.__doc__ = inner.__doc__
    module.backward = backward


def _average() -> None:
    """Each gradient becomes its mean over the replicas. One that a replica has
    not is zero there; one that none has stays away."""
    import torch

    state = _state
    assert state is not None
    seen: Dict[int, Any] = {}
    for ref in state.optimizers:
        optimizer = ref()
        if optimizer is not None:
            for p in _parameters(optimizer):
                if p.requires_grad:
                    seen.setdefault(id(p), p)
    if not seen:
        return
    if not state.began:
        state.began = True
        _diverge(state.settings)
    state.averaged = True
    for params in _buckets(list(seen.values())):
        _average_bucket(torch, params)


def _buckets(params: List[Any]) -> Iterator[List[Any]]:
    """Parameters of one type and device, some megabytes at a time."""
    kinds: Dict[Any, List[Any]] = {}
    for p in params:
        kinds.setdefault((p.dtype, p.device), []).append(p)
    for some in kinds.values():
        bucket: List[Any] = []
        size = 0
        for p in some:
            bucket.append(p)
            size += p.numel() * p.element_size()
            if size >= BUCKET:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _average_bucket(torch: Any, params: List[Any]) -> None:
    dist = _meet()
    state = _state
    assert state is not None
    with torch.no_grad():
        for p in params:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError("mlaas: sparse gradients cannot be averaged over replicas: leave out sparse=True, or say code.distribute: off")
        # Behind the gradients, whether each is there at all.
        there = torch.tensor([0.0 if p.grad is None else 1.0 for p in params], dtype=params[0].dtype, device=params[0].device)
        flat = torch.cat([torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.detach().reshape(-1) for p in params] + [there])
        where = flat.to(state.device)
        _sum(dist, where)
        where /= state.settings.size
        flat = where.to(flat.device)
        anywhere = flat[-len(params):].tolist() if any(p.grad is None for p in params) else None
        at = 0
        for i, p in enumerate(params):
            part = flat[at : at + p.numel()].view_as(p)
            at += p.numel()
            if p.grad is not None:
                p.grad.copy_(part)
            elif anywhere is not None and anywhere[i] > 0:
                p.grad = part.clone()


def _sum(dist: Any, where: Any) -> None:
    """Add up over the replicas. One whose program has ended is missed at once:
    its connections are closed."""
    try:
        dist.all_reduce(where)
    except RuntimeError as e:
        raise RuntimeError(
            "mlaas: a replica that this one trains with is gone: it failed, or its program ended its training after fewer steps than this one. "
            "Let the program decide when to end by what is the same on all replicas, such as what is evaluated; code.distribute: off runs them apart"
        ) from e


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Gradients that came without backward, by torch.autograd.grad."""
    state = _state
    if state is None:
        return
    if not state.averaged:
        _average()
    state.averaged = False


def _diverge(settings: Settings) -> None:
    """From now on each replica draws its own numbers: other dropout, and other
    batches where the program cuts them itself."""
    import torch

    diverge()
    if settings.rank:
        torch.manual_seed((torch.initial_seed() + 1000003 * settings.rank) % 2**63)


# ---- batches ----


def _hook_mode(base: Any) -> None:
    inner = base.train  # eval() is train(False)
    depth = [0]  # it calls itself for every part: the whole is what the program named

    def train(self: Any, mode: bool = True) -> Any:
        depth[0] += 1
        try:
            result = inner(self, mode)
        finally:
            depth[0] -= 1
        if depth[0] == 0 and _state is not None:
            _mode(_state, self, bool(mode))
        return result

    train.__doc__ = inner.__doc__
    base.train = train


def _mode(state: _State, module: Any, training: bool) -> None:
    """Hear whether a module that is trained here trains or evaluates now."""
    trained = {id(p) for ref in state.optimizers for o in [ref()] if o is not None for p in _parameters(o)}
    if not any(id(p) in trained for p in module.parameters()):
        return
    evaluates = state.evaluating
    state.evaluating = not training
    if training or evaluates or not state.began:
        return
    # What it counts as it trains, such as the running means of batch norm,
    # each replica has of its own samples. Evaluated is what all have seen.
    import torch

    dist = _meet()
    with torch.no_grad():
        for b in module.buffers():
            if b.is_floating_point():
                where = b.detach().to(state.device, copy=True)
                _sum(dist, where)
                b.copy_(where / state.settings.size)


def _hook_loader(module: Any) -> None:
    base = module.DataLoader
    inner = base._index_sampler

    def index_sampler(self: Any) -> Any:
        sampler = inner.fget(self)
        return _Cut(self, sampler) if _cuts(self) else sampler

    base._index_sampler = property(index_sampler, doc=inner.__doc__)


def _cuts(loader: Any) -> bool:
    """Whether loader is for training: its order is not that of the data, and
    nothing says that the program evaluates now."""
    import torch

    state = _state
    if state is None or not loader._auto_collation or not torch.is_grad_enabled() or state.evaluating:
        return False
    from torch.utils.data import IterableDataset, SequentialSampler

    if isinstance(loader.dataset, IterableDataset):
        return False
    sampler = getattr(loader.batch_sampler, "sampler", None)
    return not isinstance(sampler, SequentialSampler)


class _Cut:
    """A batch sampler whose batches are the parts of one replica. Their order
    is that of rank 0, whatever numbers the others draw."""

    def __init__(self, loader: Any, batches: Any):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[List[Any]]:
        state = _state
        if state is None:
            for batch in self.batches:
                yield batch
            return
        s = state.settings
        for batch in _of_first(self.batches, s):
            yield part(batch, s.rank, s.size)


def part(batch: List[Any], rank: int, size: int) -> List[Any]:
    """The share of one replica. All shares are of one size: where a batch
    cannot be cut evenly, some of its first samples are in two of them."""
    n = -(-len(batch) // size)
    return [batch[(rank + size * i) % len(batch)] for i in range(n)]


def _of_first(batches: Any, s: Settings) -> Iterator[List[Any]]:
    """The batches as rank 0 draws them, some hundred at a time."""
    mine = iter(batches) if s.rank == 0 else None
    while True:
        some: List[Any] = []
        if mine is not None:
            for batch in mine:
                some.append(list(batch))
                if len(some) == 256:
                    break
        some = _said(some)
        if not some:
            return
        for batch in some:
            yield batch


def _said(what: Any) -> Any:
    """What rank 0 says, on every replica: numbers and texts, as JSON."""
    import json

    import torch

    dist = _meet()
    state = _state
    assert state is not None
    data = b""
    if state.settings.rank == 0:
        try:
            data = json.dumps(what, default=int).encode()  # NumPy's and torch's numbers are whole ones
        except (TypeError, ValueError) as e:
            raise RuntimeError("mlaas: the sampler of a DataLoader gives what is neither a number nor a text, and the replicas cannot share it: %s" % e) from None
    size = torch.tensor([len(data)], dtype=torch.int64, device=state.device)
    dist.broadcast(size, 0)
    text = torch.zeros(int(size), dtype=torch.uint8, device=state.device)
    if data:
        text.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()) or b"null")
