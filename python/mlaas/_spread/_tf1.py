"""Sessions of TensorFlow 1: one graph for each worker, variables on parameter
servers, steps shared out.

The program builds its graph as it does alone. Where a session begins, and
before each run that finds the graph longer than before, every operation gets
its device: variables of the graph and what must stand beside them go to the
servers, all else to the worker. So a saver reads and writes files on the
worker, whatever was built before or after it.

What a program does alone before it trains (initialise, restore) the chief does
for all. From the first training call on, the workers take turns.
"""
from __future__ import annotations

import functools
import json
import os
import re
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import Settings, on

PATIENCE = 600.0  # seconds that a worker waits for the chief's first step, and the chief for the last of the others

_TRAINS = re.compile(r"^(Resource)?(Sparse)?Apply[A-Z]|^AssignSub|^ScatterSub$|^ResourceScatterSub$")
_WRITES = re.compile(r"^Assign|^Scatter|^ResourceScatter|^ScatterNd|^Restore")
_FUNCTIONS = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase", "PartitionedCall", "StatefulPartitionedCall"}

_part: "Optional[_Part]" = None


def register(settings: Settings) -> None:
    global _part
    _part = _Part(settings)
    if settings.rank < 0:

        @on("tensorflow")
        def serve(module: Any) -> None:
            _serve(module)

        return

    @on("tensorflow.python.client.session")
    def session(module: Any) -> None:
        _hook_session(module.BaseSession)

    @on("tensorflow.python.training.session_manager")
    def manager(module: Any) -> None:
        inner = module.SessionManager.__init__

        @functools.wraps(inner)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            if len(args) < 5:
                kwargs.setdefault("recovery_wait_secs", 1)  # by itself a worker looks again after 30 s
            inner(self, *args, **kwargs)

        module.SessionManager.__init__ = init

    @on("tensorflow.python.training.monitored_session")
    def monitored(module: Any) -> None:
        _hook_monitored(module)

    if settings.size > 1:

        @on("tensorflow.python.data.ops.dataset_ops")
        def datasets(module: Any) -> None:
            _hook_iterators(module, settings)

    @on("tensorflow")
    def seeds(module: Any) -> None:
        # The graph's seed stays unset: it would make random operations repeat
        # themselves from session to session, which they do not do alone.
        pass


class _Part:
    """What this process has of the cluster."""

    def __init__(self, settings: Settings):
        self.settings = settings
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        self.cluster: Dict[str, List[str]] = config.get("cluster") or {"worker": settings.peers}
        task = config.get("task") or {}
        self.job, self.index = task.get("type", "worker"), int(task.get("index", max(settings.rank, 0)))
        self.here = "/job:%s/task:%d" % (self.job, self.index)
        servers = len(self.cluster.get("ps", []))
        first = "chief" if self.cluster.get("chief") else "worker"
        self.hosts = ["/job:ps/task:%d" % i for i in range(servers)] or ["/job:%s/task:0" % first]
        self.load = [0] * len(self.hosts)
        self.server: Any = None
        self.control: "Optional[_Control]" = None
        self.graphs: Dict[int, "_Graph"] = {}
        self.began = False  # this worker has trained
        self.making = threading.local()

    def target(self, config: Any) -> str:
        """The address of this worker's server, which begins at the first session."""
        import tensorflow as tf

        if self.server is None:
            self.server = tf.compat.v1.train.Server(tf.train.ClusterSpec(self.cluster), job_name=self.job, task_index=self.index, config=config)
            self.control = _Control(self, config)
            if self.settings.rank == 0:
                self.control.make()
            import atexit

            atexit.register(self.leave)
        return self.server.target

    def filters(self) -> List[str]:
        return sorted({re.sub(r"/task:\d+$", "", h) if h.startswith("/job:ps") else h for h in self.hosts} | {self.here})

    def leave(self) -> None:
        """Where the chief holds the variables, it stays until all have ended."""
        if self.control is None or self.hosts[0].startswith("/job:ps") or self.settings.size == 1:
            return
        try:
            if self.settings.rank:
                self.control.finish()
            elif getattr(sys, "last_type", None) is None:
                self.control.others()
        except Exception as e:
            sys.stderr.write("mlaas: this worker did not wait for the others: %s\n" % e)


class _Control:
    """Two numbers beside the variables: whether the chief has begun to train,
    and how many of the others have ended. They are in a graph of their own, so
    that the program's may be finished, saved and counted as it is."""

    def __init__(self, part: _Part, config: Any):
        import tensorflow as tf

        tf1 = tf.compat.v1
        graph = tf.Graph()
        part.making.control = True
        try:
            with graph.as_default(), tf1.device(part.hosts[0]):
                begun = tf1.Variable(0, name="mlaas_begun", use_resource=True, trainable=False)
                ended = tf1.Variable(0, name="mlaas_ended", use_resource=True, trainable=False)
                self.init = tf1.group(begun.initializer, ended.initializer)
                self.there = tf1.is_variable_initialized(ended)
                self.set_begun, self.add_ended = begun.assign(1).op, ended.assign_add(1).op
                self.begun, self.ended = begun.read_value(), ended.read_value()
            self.session = tf1.Session(part.server.target, graph=graph, config=config)
        finally:
            part.making.control = False
        self.size = part.settings.size

    def make(self) -> None:
        self.session.run(self.init)

    def begin(self) -> None:
        self.session.run(self.set_begun)

    def finish(self) -> None:
        self.session.run(self.add_ended)

    def wait(self) -> None:
        """Until the chief has made its first step."""
        self._until(lambda: bool(self.session.run(self.there)) and self.session.run(self.begun) > 0, "the chief has not begun to train")

    def others(self) -> None:
        self._until(lambda: self.session.run(self.ended) >= self.size - 1, "some workers have not ended")

    @staticmethod
    def _until(done: Callable[[], bool], what: str) -> None:
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.1)):
            if done():
                return
            pause.wait(0.1)  # a variable of another process has no event to wait for
        raise RuntimeError("mlaas: %s within %d s" % (what, PATIENCE))


def _serve(tf: Any) -> None:
    """A parameter server holds variables, whatever the program would do."""
    part = _part
    assert part is not None
    sys.stderr.write("mlaas: ps %d holds variables until the platform ends it; the program is not run here\n" % part.index)
    sys.stderr.flush()
    tf.compat.v1.train.Server(tf.train.ClusterSpec(part.cluster), job_name="ps", task_index=part.index, config=_threads(tf)).join()


def _threads(tf: Any) -> Any:
    """Threads as the platform grants them."""
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)),
        inter_op_parallelism_threads=int(os.environ.get("TF_NUM_INTEROP_THREADS", 0)),
    )


# ---- sessions ----


def _hook_session(base: Any) -> None:
    inner_init, inner_run = base.__init__, base.run

    @functools.wraps(inner_init)
    def init(self: Any, target: Any = "", graph: Any = None, config: Any = None) -> None:
        part = _part
        if part is not None and not target and not getattr(part.making, "control", False):
            import tensorflow as tf

            mine = _threads(tf)
            if config is not None:
                mine.MergeFrom(config)
            del mine.device_filters[:]
            mine.device_filters.extend(part.filters())
            target, config = part.target(mine), mine
        inner_init(self, target, graph=graph, config=config)
        if part is not None and not getattr(part.making, "control", False):
            _place(part, self.graph)

    @functools.wraps(inner_run)
    def run(self: Any, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any:
        part = _part
        if part is None or part.control is None or self is part.control.session:
            return inner_run(self, fetches, feed_dict, options, run_metadata)
        graph = _place(part, self.graph)
        plan = graph.plan(fetches)
        if plan.trains:
            if not part.began:
                part.began = True
                if part.settings.rank == 0:
                    part.control.begin()
                else:
                    part.control.wait()
            if not plan.mine(part.settings):
                return plan.last
            plan.last = inner_run(self, fetches, feed_dict, options, run_metadata)
            plan.ran = True
            return plan.last
        if part.settings.rank > 0 and not part.began:
            if plan.writes and plan.silent:
                return plan.nothing  # the chief does it for all
            if plan.shared:
                part.control.wait()
        return inner_run(self, fetches, feed_dict, options, run_metadata)

    base.__init__, base.run = init, run

    for name in ("make_callable", "partial_run_setup"):
        inner = getattr(base, name, None)
        if inner is not None:
            setattr(base, name, _refusing(name, inner))


def _refusing(name: str, inner: Any) -> Any:
    @functools.wraps(inner)
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        part = _part
        if part is not None and not (part.control is not None and self is part.control.session):
            raise RuntimeError("mlaas: %s runs steps that cannot be shared out among workers: call session.run, or say code.distribute: off" % name)
        return inner(self, *args, **kwargs)

    return refuse


def _hook_monitored(module: Any) -> None:
    part = _part
    assert part is not None
    chief = part.settings.rank == 0
    inner = module.MonitoredTrainingSession

    @functools.wraps(inner)
    def monitored(master: Any = "", is_chief: bool = True, *args: Any, **kwargs: Any) -> Any:
        return inner(master, is_chief and chief, *args, **kwargs)

    module.MonitoredTrainingSession = monitored
    create = module.ChiefSessionCreator.create_session

    @functools.wraps(create)
    def create_session(self: Any) -> Any:
        if chief:
            return create(self)
        waits = module.WorkerSessionCreator(scaffold=self._scaffold, master=self._master, config=self._config)
        session = waits.create_session()
        self._session_manager = getattr(waits, "_session_manager", None)
        return session

    module.ChiefSessionCreator.create_session = create_session


def _hook_iterators(module: Any, settings: Settings) -> None:
    """A worker's iterator has every Nth batch: its turns are every Nth call."""
    for name in ("make_one_shot_iterator", "make_initializable_iterator"):
        inner = getattr(module, name, None)
        if inner is not None:
            setattr(module, name, _sharding(inner, settings))
    base = getattr(module, "DatasetV1", None)
    for name in ("make_one_shot_iterator", "make_initializable_iterator", "_make_one_shot_iterator", "_make_initializable_iterator"):
        inner = base.__dict__.get(name) if base is not None else None
        if inner is not None:
            setattr(base, name, _sharding(inner, settings))


def _sharding(inner: Any, settings: Settings) -> Any:
    @functools.wraps(inner)
    def make(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(dataset, "_mlaas_shard", False):
            dataset = dataset.shard(settings.size, settings.rank)
            dataset._mlaas_shard = True
        return inner(dataset, *args, **kwargs)

    return make


# ---- graphs ----


class _Plan:
    """What one kind of run does, and whose turn it is."""

    def __init__(self) -> None:
        self.trains = self.writes = self.shared = False
        self.silent = True  # it fetches operations alone, whose values are None
        self.nothing: Any = None
        self.calls = 0
        self.ran = False
        self.last: Any = None

    def mine(self, settings: Settings) -> bool:
        """Each worker makes its first call, so that it has values to show."""
        turn = self.calls % settings.size == settings.rank
        self.calls += 1
        return turn or not self.ran


class _Graph:
    """A graph of the program: where its operations are, as far as it was built."""

    def __init__(self, part: _Part, graph: Any):
        self.part, self.graph = part, graph
        self.done = 0  # operations that have a device
        self.at: Dict[str, str] = {}  # an operation beside a shared variable: its device
        self.variables: Set[str] = set()
        self.plans: Dict[Any, _Plan] = {}

    def plan(self, fetches: Any) -> _Plan:
        ops: List[Any] = []
        plan = _Plan()
        plan.nothing = self._leaves(fetches, ops, plan)
        key = (repr(type(fetches)), tuple(op.name for op in ops))
        known = self.plans.get(key)
        if known is not None:
            return known
        self._walk(ops, plan)
        self.plans[key] = plan
        return plan

    def _leaves(self, fetches: Any, ops: List[Any], plan: _Plan) -> Any:
        """The operations behind fetches; returns fetches with None for each."""
        if fetches is None:
            return None
        if isinstance(fetches, dict):
            return {k: self._leaves(v, ops, plan) for k, v in fetches.items()}
        if isinstance(fetches, (list, tuple)):
            parts = [self._leaves(v, ops, plan) for v in fetches]
            return type(fetches)(*parts) if hasattr(fetches, "_fields") else type(fetches)(parts)
        try:
            found = self.graph.as_graph_element(fetches, allow_tensor=True, allow_operation=True)
        except (TypeError, ValueError, KeyError):
            plan.silent = False  # a sparse tensor, or what the session itself will complain of
            for name in ("values", "indices", "op"):
                inner = getattr(fetches, name, None)
                if inner is not None and hasattr(inner, "graph"):
                    ops.append(getattr(inner, "op", inner))
            return None
        if hasattr(found, "op") and hasattr(found, "dtype"):
            plan.silent = False
            found = found.op
        ops.append(found)
        return None

    def _walk(self, ops: List[Any], plan: _Plan) -> None:
        todo, seen = list(ops), set()  # type: Tuple[List[Any], Set[str]]
        while todo:
            op = todo.pop()
            if op.name in seen:
                continue
            seen.add(op.name)
            beside = op.name in self.at
            plan.shared = plan.shared or beside
            if beside and _TRAINS.match(op.type):
                plan.trains = True
            if beside and _WRITES.match(op.type):
                plan.writes = True
            todo += [t.op for t in op.inputs]
            todo += list(op.control_inputs)

    def place(self) -> None:
        ops = self.graph.get_operations()
        if len(ops) == self.done:
            return
        fresh = ops[self.done :]
        self.done = len(ops)
        names = self._shared()
        for op in fresh:
            if op.name in names and op.name not in self.at:
                self.variables.add(op.name)
                beside = [self.at[n] for n in _colocated(op) if n in self.at]
                self.at[op.name] = beside[0] if beside else self._least(op)
        for op in fresh:
            device = self.at.get(op.name)
            if device is None:
                device = self._beside(op)
                if device is not None:
                    self.at[op.name] = device
            if device is None and op.type in _FUNCTIONS and any(t.op.name in self.at for t in op.inputs):
                continue  # its body is placed where it is put into the graph
            _set(op, device, self.part.here)

    def _shared(self) -> Set[str]:
        """The names of the variables that all workers have in common."""
        import tensorflow as tf

        keys = tf.compat.v1.GraphKeys
        local = {id(v) for v in self.graph.get_collection(keys.LOCAL_VARIABLES)}
        found = set()
        for v in self.graph.get_collection(keys.GLOBAL_VARIABLES):
            for one in list(v) if hasattr(v, "_variable_list") else [v]:
                handle = getattr(one, "handle", None)
                if id(v) not in local:
                    found.add(handle.op.name if handle is not None and hasattr(handle, "op") else one.op.name)
        return found

    def _beside(self, op: Any) -> Optional[str]:
        """The device of the shared variable that op must stand beside."""
        for name in _colocated(op):
            if name in self.at:
                return self.at[name]
        if op.type in _FUNCTIONS:
            return None
        # What merely reads a variable, such as a saver, may be anywhere.
        changes = op.op_def is None or any(a.is_ref for a in op.op_def.input_arg)
        for t in op.inputs:
            if t.op.name in self.at and (t.dtype._is_ref_dtype and changes or t.dtype.name == "resource"):
                return self.at[t.op.name]
        return None

    def _least(self, op: Any) -> str:
        """The server that holds the least, and holds this variable now too."""
        load = self.part.load
        i = load.index(min(load))
        load[i] += _bytes(op)
        return self.part.hosts[i]


def _place(part: _Part, graph: Any) -> _Graph:
    found = part.graphs.get(id(graph))
    if found is None:
        found = part.graphs[id(graph)] = _Graph(part, graph)
    found.place()
    return found


def _colocated(op: Any) -> List[str]:
    try:
        groups = op.get_attr("_class")
    except ValueError:
        return []
    return [g.decode().partition("loc:@")[2] for g in groups if g.startswith(b"loc:@") and g != b"loc:@" + op.name.encode()]


def _set(op: Any, server: Optional[str], here: str) -> None:
    if server is not None:
        op._set_device(server)
    elif "/job:" not in op.device:
        op._set_device(here + op.device)


def _bytes(op: Any) -> int:
    """The size of a variable; 1 where its shape is not known."""
    size = 1
    try:
        shape, dtype = op.get_attr("shape"), op.get_attr("dtype")
        for d in shape.dim:
            size *= max(1, d.size)
        size *= max(1, getattr(dtype, "size", 4))
    except (ValueError, AttributeError):
        pass
    return size
