"""TensorFlow in the style of version 1: sessions, optimizers, estimators."""
from __future__ import annotations

import re
import sys
from typing import Any, Dict, List, Optional, Set, Tuple

from .. import _hook, _say, _watch

# Names by which a scalar that a program fetches is a metric.
METRIC = re.compile(
    r"(^|[/_.])(loss|cost|acc|accuracy|error|entropy|xent|cross_entropy|auc|precision|recall|f1|perplexity|mse|mae|rmse|reward|lr|learning_rate)",
    re.I,
)

PLANS = 256  # kinds of fetches that are remembered
_Way = Tuple[Any, ...]


class _Graph:
    """What is known of one graph, or of one session that was given to track."""

    def __init__(self) -> None:
        self.names: Dict[int, str] = {}  # that the user gave to tensors, by their identity
        self.keep: List[Any] = []  # those tensors: an identity is theirs while they live
        self.loss: Any = None
        self.rate: Any = None
        self.trains: Set[int] = set()  # operations that an optimizer made
        self.plans: Dict[Any, _Plan] = {}
        self.step = _watch.step
        self.known: Dict[int, bool] = {}
        self.training: Set[str] = set()  # the metrics that come with each step
        self.stream = _watch.Stream(_watch.STEP)
        # Reading what the program does not ask for is work of our own: less often.
        self.besides = _watch.Sampler(first=25, every=0.25)


class _Plan:
    """What to read from the result of one kind of fetches, and what to fetch besides."""

    def __init__(self, fetches: Any) -> None:
        self.fetches = fetches
        self.read: List[Tuple[str, _Way]] = []
        self.step: Optional[_Way] = None
        self.trains = False
        self.besides: List[Tuple[str, Any]] = []  # a key and a tensor; the key "" is the global step


def _graph(graph: Any) -> _Graph:
    # It stands with the graph: it has tensors, which have the graph, and one that
    # held both from outside would keep them for ever.
    found = getattr(graph, "_mlaas", None)
    if found is None:
        found = graph._mlaas = _Graph()
    return found


# ---- sessions ----


def session(module: Any) -> None:
    """Hook BaseSession.run, through which every session goes: also monitored
    ones, those of estimators and of Keras on old TensorFlow."""

    def make(inner: Any) -> Any:
        def run(self: Any, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None) -> Any:
            plan = None
            try:
                known = _graph(self.graph)
                plan = _plan(known, fetches)
                extra = _extra(known, plan)
            except Exception as e:
                _say.once("session", "a session is not tracked: %s: %s" % (type(e).__name__, e))
                extra = ()
            if not extra:
                result, more = inner(self, fetches, feed_dict, options, run_metadata), ()
            else:
                result, more = inner(self, (fetches, extra), feed_dict, options, run_metadata)
            if plan is not None:
                try:
                    _fetched(known, plan, result, more)
                except Exception as e:
                    _hook.failed(_fetched, e)
            return result

        return run

    _hook.wrap(module.BaseSession, "run", make)


def watch(model: Any, session: Any) -> None:
    """Record what one session fetches: mlaas.track gave it."""
    given = _given_names(model)
    if _hook.installed and getattr(type(session).run, "_mlaas", False) or hasattr(session, "_sess"):
        known = _graph(session.graph)
        _name(known, given)
        if hasattr(session, "_sess") and not _hook.installed:  # a monitored session has one of the others inside
            _hook.guarded(_class_of, session)
        return
    if getattr(session, "_mlaas_tracked", False):
        return
    known = _Graph()
    _name(known, given)
    inner = session.run

    def run(fetches: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(fetches, *args, **kwargs)
        _hook.guarded(lambda: _fetched(known, _plan(known, fetches), result, ()))
        return result

    run.__doc__ = inner.__doc__
    session.run = run
    session._mlaas_tracked = True


def _class_of(session_given: Any) -> None:
    for name in ("tensorflow.python.client.session", "tensorflow_core.python.client.session"):
        if name in sys.modules:
            session(sys.modules[name])


def _name(known: _Graph, given: Dict[str, Any]) -> None:
    for name, tensor in given.items():
        known.names[id(tensor)] = name
        known.keep.append(tensor)
    known.plans.clear()


def _given_names(model: Any) -> Dict[str, Any]:
    """Tensors by the names that a model has for them: a dict, a named tuple, or
    an object's attributes."""
    if model is None:
        return {}
    if hasattr(model, "_asdict"):
        model = model._asdict()
    named = model if isinstance(model, dict) else getattr(model, "__dict__", {})
    return {k: v for k, v in list(named.items()) if isinstance(k, str) and hasattr(v, "graph") and hasattr(v, "dtype")}


def _plan(known: _Graph, fetches: Any) -> _Plan:
    # A list that is written anew for each call has another identity each time,
    # but what is in it stays.
    key = tuple(map(id, fetches)) if isinstance(fetches, (list, tuple)) else id(fetches) if not isinstance(fetches, (dict, str)) else None
    plan = known.plans.get(key) if key is not None else None
    if plan is not None:
        return plan
    plan = _Plan(fetches)
    _look(known, plan, fetches, (), "")
    if plan.trains:
        _besides(known, plan, fetches)
    if key is not None and len(known.plans) < PLANS:
        # The plan keeps the fetches, so that their identities stay theirs.
        plan.fetches = tuple(fetches) if isinstance(fetches, (list, tuple)) else fetches
        known.plans[key] = plan
    return plan


def _look(known: _Graph, plan: _Plan, fetches: Any, way: _Way, said: str) -> None:
    if isinstance(fetches, dict):
        # A monitored session fetches for the caller and for its hooks at once.
        monitored = not way and "caller" in fetches
        for k, v in fetches.items():
            _look(known, plan, v, way + (k,), "" if monitored or not isinstance(k, str) else k)
        return
    if isinstance(fetches, (list, tuple)):
        fields = getattr(fetches, "_fields", ())
        for i, v in enumerate(fetches):
            _look(known, plan, v, way + (i,), fields[i] if fields else "")
        return
    if fetches is None:
        return
    name = getattr(fetches, "name", fetches if isinstance(fetches, str) else "")
    name = name.partition(":")[0] if isinstance(name, str) else ""
    if type(fetches).__name__ == "Operation":
        plan.trains = plan.trains or _trains(known, fetches)
    elif name == "global_step" or name.endswith("/global_step") or name.startswith("global_step/"):
        plan.step = way
    elif known.loss is not None and fetches is known.loss:
        plan.read.append(("loss", way))
    elif id(fetches) in known.names:
        plan.read.append((known.names[id(fetches)], way))
    elif said:  # the program itself gave it a name
        plan.read.append((said, way))
    elif METRIC.search(name):
        plan.read.append((_short(name), way))
    elif getattr(getattr(fetches, "dtype", None), "is_floating", False):
        called = _watch.called(fetches)
        if METRIC.search(called):
            plan.read.append((called, way))


def _short(name: str) -> str:
    """loss/Mean is loss: the part of a tensor's name that says what it is."""
    parts = name.split("/")
    while len(parts) > 1 and not METRIC.search(parts[-1]):
        parts.pop()
    return "/".join(parts)


# What an operation is called that changes weights by a gradient. Moving
# averages and metrics add; initialisers and savers assign.
_TRAINING = re.compile(r"^(Resource|Sparse|ResourceSparse)*Apply[A-Z]|^AssignSub")


def _trains(known: _Graph, op: Any) -> bool:
    """Whether running op makes a step: it is, or waits for, what changes weights."""
    found = known.known.get(id(op))
    if found is None:
        found = known.known[id(op)] = any(id(o) in known.trains or _TRAINING.match(getattr(o, "type", "ApplyX")) for o in _behind(op))
        known.keep.append(op)
    return found


def _behind(*things: Any) -> List[Any]:
    """All operations that run where these are fetched, these too."""
    seen: Set[int] = set()
    todo = [getattr(t, "op", t) for t in things]
    all_of_them = []
    while todo:
        op = todo.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        all_of_them.append(op)
        if len(all_of_them) > 200_000:
            raise OverflowError("the graph has more than 200,000 operations")
        todo.extend(getattr(t, "op", t) for t in getattr(op, "inputs", ()))
        todo.extend(getattr(op, "control_inputs", ()))
    return all_of_them


# Stateful operations that only hold or read: fetching them has no effect.
_HARMLESS = {"VarHandleOp", "ReadVariableOp", "VariableV2", "Variable", "IsVariableInitialized", "VarIsInitializedOp"}


def _besides(known: _Graph, plan: _Plan, fetches: Any) -> None:
    """Which of loss, learning rate and global step may be fetched along: those
    of which everything that has an effect, or that must be fed, runs anyway.
    So the program gets what it would get, in as many steps."""
    flat = [f for f in _flat(fetches) if hasattr(f, "op") or type(f).__name__ == "Operation"]
    if not flat:
        return
    graph = getattr(flat[0], "graph", None)
    wanted = []
    if known.loss is not None and not any(key == "loss" for key, _ in plan.read):
        wanted.append(("loss", known.loss))
    if known.rate is not None:
        wanted.append(("lr", known.rate))
    if plan.step is None:
        steps = graph.get_collection("global_step") if graph is not None else []
        if len(steps) == 1:
            wanted.append(("", steps[0]))
    if not wanted:
        return
    runs = {id(op) for op in _behind(*flat)}
    for key, tensor in wanted:
        if getattr(tensor, "graph", None) is not graph or not _scalar(tensor) or not graph.is_fetchable(tensor if key != "" else tensor.op):
            continue
        ops = _behind(tensor)
        if all(id(op) in runs or not _matters(op) for op in ops):
            plan.besides.append((key, tensor))


def _matters(op: Any) -> bool:
    if op.type in _HARMLESS:
        return False
    return op.type.startswith("Placeholder") or op.op_def is None or op.op_def.is_stateful


def _scalar(tensor: Any) -> bool:
    shape = tensor.shape
    return shape.ndims == 0 or shape.ndims is None


def _flat(fetches: Any) -> List[Any]:
    if isinstance(fetches, dict):
        return [f for v in fetches.values() for f in _flat(v)]
    if isinstance(fetches, (list, tuple)):
        return [f for v in fetches for f in _flat(v)]
    return [fetches]


def _extra(known: _Graph, plan: _Plan) -> Tuple[Any, ...]:
    if not plan.besides or not known.besides.due():
        return ()
    region = _watch.led()
    if region is not None and region.steps or not _watch.speaks():
        return ()
    return tuple(tensor for _, tensor in plan.besides)


def _fetched(known: _Graph, plan: _Plan, result: Any, more: Tuple[Any, ...]) -> None:
    if plan.trains:
        known.step += 1
    if plan.step is not None:
        # Fetched beside the operation that counts it, it is from before or after.
        known.step = max(known.step, int(_at(result, plan.step)))
    region = _watch.led()
    if region is not None and region.steps:
        return
    found = {}
    for (key, _), v in zip(plan.besides, more) if more else ():
        if key:
            found[key] = v
        else:
            known.step = max(known.step, int(v))
    if plan.trains or plan.step is not None:
        _watch.at(known.step)
    for key, way in plan.read:
        v = _at(result, way)
        if isinstance(v, float) or getattr(v, "ndim", 1) == 0 and getattr(getattr(v, "dtype", None), "kind", "") == "f":
            found[key] = v
    if not found:
        return
    if not plan.trains:  # an evaluation; what each step says anyway is not said twice
        _watch.say({k: v for k, v in found.items() if k in known.training}, known.step, _watch.STEP)
        _watch.say({k: v for k, v in found.items() if k not in known.training}, known.step, _watch.STEP, again=True)
        return
    known.training.update(found)
    if more:
        _watch.say(found, known.step, _watch.STEP)
    else:
        known.stream.say(found, known.step)


def _at(result: Any, way: _Way) -> Any:
    for k in way:
        result = result[k]
    return result


# ---- optimizers ----


def optimizer(module: Any) -> None:
    """Hook what makes a training operation: it knows the loss."""

    def compute(inner: Any) -> Any:
        def compute_gradients(self: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
            _hook.guarded(_optimizes, self, loss)
            return inner(self, loss, *args, **kwargs)

        return compute_gradients

    def apply(inner: Any) -> Any:
        def apply_gradients(self: Any, *args: Any, **kwargs: Any) -> Any:
            op = inner(self, *args, **kwargs)
            _hook.guarded(_applies, self, op)
            return op

        return apply_gradients

    _hook.wrap(module.Optimizer, "compute_gradients", compute)
    _hook.wrap(module.Optimizer, "apply_gradients", apply)


def _optimizes(opt: Any, loss: Any) -> None:
    graph = getattr(loss, "graph", None)
    if graph is None or not _scalar(loss):
        return
    known = _graph(graph)
    if known.loss is None:
        known.loss = loss
    else:  # a second one, such as a discriminator's: by the user's name for it
        known.names.setdefault(id(loss), _watch.called(loss) or "loss_2")
        known.keep.append(loss)
    known.plans.clear()


def _applies(opt: Any, op: Any) -> None:
    graph = getattr(op, "graph", None)
    if graph is None:
        return
    known = _graph(graph)
    known.trains.add(id(op))
    known.keep.append(op)
    known.plans.clear()
    known.known.clear()
    rate = next((getattr(opt, name) for name in ("_learning_rate", "_lr", "_learning_rate_tensor") if getattr(opt, name, None) is not None), None)
    given = {"optimizer": type(opt).__name__}
    if isinstance(rate, (int, float)):
        given["learning_rate"] = rate
    elif hasattr(rate, "graph"):
        known.rate = rate
    _watch.params(given, type(opt).__name__)
    _watch.model(graph, lambda: _summary(graph, known))


def _summary(graph: Any, known: _Graph) -> Dict[str, Any]:
    """What the graph trains: its trainable variables."""
    lines, count = [], 0
    for v in graph.get_collection("trainable_variables"):
        size = 1
        shape = [d if isinstance(d, int) else getattr(d, "value", None) for d in v.shape]
        for d in shape:
            size *= d or 0
        count += size
        lines.append("%s %s %d" % (v.name.partition(":")[0], tuple(shape), size))
    return {"kind": "TensorFlow graph", "parameters": count, "summary": "\n".join(lines)}


# ---- estimators ----


def estimator(module: Any) -> None:
    """Hook the loss that an estimator's model function returns, and what its
    evaluate finds."""
    for cls in [c for c in (getattr(module, n, None) for n in ("Estimator", "EstimatorV2")) if c is not None]:
        _hook.wrap(cls, "_train_with_estimator_spec", _train_with)
        _hook.wrap(cls, "evaluate", _evaluates)


def _train_with(inner: Any) -> Any:
    def train(self: Any, spec: Any, *args: Any, **kwargs: Any) -> Any:
        _hook.guarded(_estimates, self, spec)
        return inner(self, spec, *args, **kwargs)

    return train


def _estimates(est: Any, spec: Any) -> None:
    known = _graph(spec.loss.graph)
    known.loss = spec.loss
    known.trains.add(id(getattr(spec.train_op, "op", spec.train_op)))
    known.keep.append(spec.train_op)
    known.plans.clear()
    graph = spec.loss.graph
    given = {k: v for k, v in (est.params or {}).items() if isinstance(v, (bool, int, float, str))}
    _watch.params(dict(given, estimator=type(est).__name__), type(est).__name__)
    _watch.model(est, lambda: dict(_summary(graph, known), kind=type(est).__name__))


def _evaluates(inner: Any) -> Any:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        region = _watch.Region(None)  # its sessions read what it returns
        try:
            result = inner(self, *args, **kwargs)
        finally:
            region.leave()
        _hook.guarded(_evaluated, result)
        return result

    return evaluate


def _evaluated(result: Any) -> None:
    if isinstance(result, dict):
        step = int(result.get("global_step", _watch.step))
        _watch.say({"eval_%s" % k: v for k, v in result.items() if k != "global_step"}, step, _watch.TRAINER, again=True)


# ---- names of TensorFlow 1 ----

# What a program that has one of these was written for: version 2 has none.
_OLD = re.compile(
    r"\btf\.(Session|InteractiveSession|placeholder|get_variable|global_variables_initializer|initialize_all_variables|assign|random_normal|"
    r"truncated_normal|train\.(GradientDescent|Adam|Momentum|RMSProp|Adagrad)Optimizer|train\.MonitoredTrainingSession|train\.Saver|app\.run|"
    r"app\.flags|flags|layers\.|losses\.(sparse_)?softmax|get_collection|reset_default_graph|set_random_seed|summary\.FileWriter|logging\.)"
)


def names(module: Any) -> None:
    """In TensorFlow 2, give a program that was written for version 1 the names
    that it uses: the module becomes what tensorflow.compat.v1 is.

    MLAAS_TF1=1 says that it is such a program, MLAAS_TF1=0 that it is not.
    Otherwise the file that imports tensorflow is looked at, and failing that,
    the first name that is missing decides.
    """
    import os

    asked = os.environ.get("MLAAS_TF1", "")
    if str(getattr(module, "__version__", "1")).split(".")[0] == "1" or asked == "0":
        return
    if asked or _old_program():
        _become_v1(module)
        return
    inner = module.__dict__.get("__getattr__")

    def missing(name: str) -> Any:
        if inner is not None:
            try:
                return inner(name)
            except AttributeError:
                pass
        if not name.startswith("_") and _OLD.match("tf.%s." % name):
            v1 = module.__dict__["compat"].v1
            if hasattr(v1, name):
                _become_v1(module)
                return getattr(v1, name)
        raise AttributeError("module %r has no attribute %r" % (module.__name__, name))

    module.__getattr__ = missing


def _old_program() -> bool:
    """Whether the file that imports tensorflow is in the style of version 1."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if _watch.own(path):
            try:
                with open(path, encoding="utf-8", errors="replace") as f:
                    text = f.read(1 << 20)
            except OSError:
                return False
            plain = re.search(r"^\s*import tensorflow as tf\b|^\s*import tensorflow\b", text, re.M)
            return plain is not None and "compat.v1" not in text and _OLD.search(text) is not None
        frame = frame.f_back
    return False


def _become_v1(module: Any) -> None:
    v1 = module.compat.v1
    v1.disable_v2_behavior()
    for name in dir(v1):
        # Keras stays what it is, or two of it would meet.
        if not name.startswith("_") and name not in ("compat", "keras"):
            try:
                setattr(module, name, getattr(v1, name))
            except Exception:
                pass
    _say.once("tf1", "this program is in the style of TensorFlow 1: tensorflow behaves as tensorflow.compat.v1 (MLAAS_TF1=0 switches that off)")
