"""Read a program, without running it: can it be spread over replicas, and how?

Only the syntax tree is looked at: of the file that is started, and of the
modules beside it that it imports. Names are followed through imports and
assignments (``tf1 = tf.compat.v1``), so that ``tf1.Session`` is known for what
it is. What cannot be seen this way is not guessed.

Standard library alone: this runs before the program's environment is used.
"""
from __future__ import annotations

import ast
import os
import tokenize
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

STRATEGIES = ("tf1", "keras", "torch", "sync")
WANTS = ("auto", "off", "parameter-server", "data-parallel", "sync")

FILES = 500  # modules of the user's that are followed
SIZE = 4 << 20  # bytes of one of them

# Words by which a program finds its peers itself, as whole strings.
_WORDS = {
    "TF_CONFIG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT",
    "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_PROCESS_COUNT", "JAX_NUM_PROCESSES",
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE",
    "MLAAS_INDEX", "MLAAS_HOSTS", "MLAAS_ROLE", "MLAAS_REPLICA",
}
# Libraries and names that distribute, or do so where they find their peers.
_OWN = (
    "torch.distributed", "torch.nn.parallel.DistributedDataParallel", "torch.utils.data.distributed",
    "accelerate", "lightning", "pytorch_lightning", "deepspeed", "horovod", "ray", "mpi4py", "dask.distributed",
    "transformers.Trainer", "transformers.Seq2SeqTrainer",
    "jax.distributed", "keras.distribution", "xgboost.collective", "xgboost.dask",
    "tensorflow.distribute", "tensorflow.train.Server", "tensorflow.train.ClusterSpec", "tensorflow.train.replica_device_setter",
    "tensorflow.train.SyncReplicasOptimizer", "tensorflow.estimator", "tensorflow_estimator",
    "mlaas.rank", "mlaas.world_size",
)
_SESSIONS = (
    "tensorflow.Session", "tensorflow.InteractiveSession", "tensorflow.train.MonitoredTrainingSession",
    "tensorflow.train.MonitoredSession", "tensorflow.train.SingularMonitoredSession",
)
_ITERATORS = ("make_one_shot_iterator", "make_initializable_iterator")


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return "%s:%d" % self


class Facts:
    """What was seen: full names and words, each with the first place of it."""

    def __init__(self) -> None:
        self.names: Dict[str, Place] = {}
        self.calls: Dict[str, List[Place]] = {}
        self.methods: Dict[str, List[Place]] = {}
        self.words: Dict[str, Place] = {}
        self.lengths: List[Place] = []  # len(something.dataset)
        self.sparse: List[Place] = []
        self.compiled: List[Place] = []  # by XLA, as the program asks
        self.broken: Optional[Tuple[Place, str]] = None

    def uses(self, *names: str) -> Optional[Tuple[str, Place]]:
        """The first of the names, or something below it, that is used."""
        for name in names:
            for seen, at in self.names.items():
                if seen == name or seen.startswith(name + "."):
                    return seen, at
        return None


def look(root: str, entry: str, want: str = "auto", replicas: int = 2, servers: int = 0, made: Optional[Dict[str, str]] = None) -> Dict[str, Any]:
    """How the program that entry starts can be spread over replicas.

    Args:
        root: the folder of the code.
        entry: the file to start, below root; or "-m NAME".
        want: code.distribute of the job.
        replicas: chiefs and workers; servers: parameter servers.
        made: texts of files that are put into root before the program starts.
    Returns: {"strategy": one of STRATEGIES, or "" where each replica runs the
        program by itself; "says": sentences on what changes; "refusals":
        [{"file", "line", "text"}], which are empty where the run may begin}.
    """
    facts = _read(_Files(root, made or {}), entry)
    out: Dict[str, Any] = {"strategy": "", "says": [], "refusals": []}

    def refuse(at: Optional[Place], text: str) -> None:
        out["refusals"].append({"file": at.file if at else entry, "line": at.line if at else 0, "text": text})

    if replicas < 2 and servers < 1 or want == "off":
        return out
    if facts.broken:  # it does not parse: the program says so itself, better
        return out
    own = None if facts.uses("mlaas.sync") else _own(facts)  # who averages by mlaas.sync may well ask for its rank
    if own:
        what, at = own
        if want == "auto":
            out["says"].append("distribution is the program's own: %s has %s, so each replica runs it as it stands" % (at, what))
        else:
            refuse(at, "code.distribute is %s, but the program distributes itself: it has %s. Say off, or take that out" % (want, what))
        return out
    strategy = _strategy(facts)
    fits = {"tf1": ("parameter-server",), "keras": ("data-parallel",), "torch": ("data-parallel",), "sync": ("sync",), "": ()}[strategy]
    if want != "auto" and want not in fits:
        refuse(None, "code.distribute is %s, %s" % (want, _instead(strategy)))
        return out
    if not strategy:
        out["says"].append(
            "each of the %d replicas runs the same program, apart from the others: it trains with none of TensorFlow, Keras and PyTorch, "
            "and neither asks for its rank nor calls mlaas.sync(...), which would average its arrays" % replicas
        )
        return out
    if replicas < 2 and strategy != "tf1":
        return out
    _CHECKS[strategy](facts, refuse)
    if not out["refusals"]:
        out["strategy"] = strategy
        out["says"] += _says(strategy, facts, replicas, servers)
    return out


def _own(facts: Facts) -> Optional[Tuple[str, Place]]:
    found = facts.uses(*_OWN)
    if found:
        return found
    for word in sorted(_WORDS & set(facts.words)):
        return word, facts.words[word]
    return None


def _strategy(facts: Facts) -> str:
    if facts.uses("mlaas.sync"):
        return "sync"
    if facts.uses(*_SESSIONS):
        return "tf1"
    if facts.uses("keras", "tensorflow.keras", "tf_keras") or facts.uses("tensorflow.GradientTape"):
        return "keras"
    if facts.uses("torch.optim") or facts.uses("torch.autograd.backward") or facts.uses("torch") and "backward" in facts.methods:
        return "torch"
    return ""


def _instead(strategy: str) -> str:
    return {
        "tf1": "and the program trains in sessions of TensorFlow 1: they are spread by parameter-server",
        "keras": "and the program trains with Keras: it is spread by data-parallel",
        "torch": "and the program trains with PyTorch: it is spread by data-parallel",
        "sync": "and the program calls mlaas.sync: it is spread by sync",
        "": "but the program trains with none of TensorFlow, Keras and PyTorch, and does not call mlaas.sync",
    }[strategy]


# ---- what cannot be spread ----


def _check_tf1(facts: Facts, refuse: Any) -> None:
    for method in ("make_callable", "partial_run"):
        for at in facts.methods.get(method, [])[:1]:
            refuse(at, "%s runs steps that cannot be shared out among workers: call session.run" % method)
    found = facts.uses("tensorflow.train.Supervisor")
    if found:
        refuse(found[1], "tf.train.Supervisor makes its own sessions and threads: use tf.train.MonitoredTrainingSession, or tf.Session")
    iterators = sorted(at for name in _ITERATORS for at in facts.methods.get(name, []) + facts.calls.get("tensorflow.data." + name, []))
    if len(iterators) > 1:
        refuse(iterators[1], "there are %d tf.data iterators, and which of them is for training cannot be seen: only a single one can be cut into shards. Feed the data of the others" % len(iterators))
    for name in ("tensorflow.data.Iterator.from_structure", "tensorflow.data.Iterator.from_string_handle"):
        found = facts.uses(name)
        if found:
            refuse(found[1], "an iterator of %s changes its data, and cannot be cut into shards: make_one_shot_iterator or make_initializable_iterator can" % name.rpartition(".")[2])


def _check_keras(facts: Facts, refuse: Any) -> None:
    found = facts.uses("tf_keras")
    if found:
        refuse(found[1], "tf_keras is Keras 2, which is not spread: use keras, or tf.keras of TensorFlow 2.16 and later")
    for name in ("tensorflow.keras.optimizers.legacy", "keras.optimizers.legacy"):
        found = facts.uses(name)
        if found:
            refuse(found[1], "the optimizers of Keras 2 (%s) are not spread: use those of keras.optimizers" % name)
    for at in facts.compiled[:1]:
        refuse(at, "a step that XLA compiles cannot call out to average its gradients: leave out jit_compile=True")
    tape = facts.uses("tensorflow.GradientTape")
    applied = any(m in facts.methods for m in ("apply_gradients", "apply", "fit", "train_on_batch", "minimize"))
    if tape and not applied:
        refuse(tape[1], "the program changes its variables by hand after GradientTape: only gradients that go through optimizer.apply_gradients can be averaged")


def _check_torch(facts: Facts, refuse: Any) -> None:
    found = facts.uses("torch.optim.LBFGS")
    if found:
        refuse(found[1], "LBFGS decides by its own loss how often it computes gradients, and replicas would decide differently: use another optimizer")
    found = facts.uses("torch.nn.DataParallel")
    if found:
        refuse(found[1], "torch.nn.DataParallel already cuts the batch among the GPUs of one process: take it out, each replica has its own GPU")
    for at in facts.sparse[:1]:
        refuse(at, "sparse gradients cannot be averaged: leave out sparse=True")


def _check_sync(facts: Facts, refuse: Any) -> None:
    pass


_CHECKS = {"tf1": _check_tf1, "keras": _check_keras, "torch": _check_torch, "sync": _check_sync}


# ---- what changes ----


def _says(strategy: str, facts: Facts, n: int, servers: int) -> List[str]:
    chief = "the chief (rank 0)"
    apart = [
        "every replica prints, records metrics under its own name and has its own folder for files; checkpoints are kept of %s alone" % chief,
    ]
    if strategy == "tf1":
        where = "on the %d parameter servers" % servers if servers > 1 else "on the parameter server" if servers else "with %s, as there is no parameter server" % chief
        return [
            "TensorFlow 1 graph: variables lie %s, each whole, the least filled one first; %s gives them their first values, the other workers wait for that" % (where, chief),
            "steps: the %d workers take turns at the program's training calls, so a loop over N calls makes N steps in all, asynchronously; batch and learning rate stay" % n,
            "seeds: a program without seeds of its own draws the same numbers on all workers, so that each batch is trained once",
            "evaluation: every worker evaluates as the program says, with the variables as they are then",
        ] + apart
    if strategy == "sync":
        return ["the arrays given to mlaas.sync are averaged over the %d replicas; everything else runs on each of them as it stands" % n] + apart
    says = ["the gradients of each step are averaged over the %d workers before they are clipped and applied; weights begin as those of %s" % (n, chief)]
    if strategy == "keras":
        says[0] = "the gradients of each step are averaged over the %d workers before the optimizer clips and applies them; weights begin as those of %s" % (n, chief)
        if facts.methods.get("fit"):
            says.append(
                "batch: fit's data and batch are cut into %d parts, so that a step sees the samples it would see alone (batch / %d for each worker, rounded up); steps, epochs and learning rate stay" % (n, n)
            )
        if facts.methods.get("train_on_batch"):
            says.append("batch: the program gives train_on_batch its own batches (%s); each worker takes its own, so that a step sees %d batches; the learning rate stays" % (facts.methods["train_on_batch"][0], n))
        if facts.uses("tensorflow.GradientTape"):
            at = facts.uses("tensorflow.GradientTape")
            says.append("batch: the loop at %s cuts its own batches; each worker takes its own, so that a step sees %d batches; the learning rate stays" % (at[1] if at else "", n))
        says.append("evaluation: every worker evaluates the whole of validation_data; metrics and logs of an epoch are the means over the workers")
        says.append("fit is not compiled by XLA (jit_compile)")
    else:
        loader = facts.uses("torch.utils.data.DataLoader")
        if loader:
            says.append(
                "batch: each batch of a shuffled DataLoader is cut into %d parts, so that a step sees the samples it would see alone (batch / %d for each worker, rounded up); steps, epochs and learning rate stay" % (n, n)
            )
            says.append("a DataLoader that is not shuffled, and one that is read under model.eval() or torch.no_grad(), is read whole by every worker, so that each evaluates everything")
            for at in facts.lengths[:1]:
                says.append("%s divides by the length of a dataset: where that is the one trained on, each worker sees 1/%d of it, and what is counted there is so much smaller" % (at, n))
        else:
            says.append(
                "batch: the program has no DataLoader and cuts its own batches: each worker takes its own, so that a step sees %d times the samples; steps and learning rate stay. To be done sooner, lower the steps" % n
            )
    says.append("seeds: a program without seeds of its own begins with the same numbers on all workers, and from the first step on the others draw their own")
    return says + apart


# ---- reading ----


class _Files:
    """The code: what is in a folder, and what will be put there."""

    def __init__(self, root: str, made: Dict[str, str]):
        self.root, self.made = root, made

    def has(self, path: str) -> bool:
        return path in self.made or os.path.isfile(os.path.join(self.root, path))

    def text(self, path: str) -> Optional[str]:
        if path in self.made:
            return self.made[path]
        full = os.path.join(self.root, path)
        try:
            if os.path.getsize(full) > SIZE:
                return None
            with tokenize.open(full) as f:  # PEP 263
                return f.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            return None


def _read(files: _Files, entry: str) -> Facts:
    facts = Facts()
    first = _entry(files, entry)
    todo, seen = [first] if first else [], set()  # type: Tuple[List[str], Set[str]]
    while todo and len(seen) < FILES:
        path = todo.pop(0)
        if path in seen:
            continue
        seen.add(path)
        text = files.text(path)
        if text is None:
            continue
        try:
            tree = ast.parse(text, path)
        except (SyntaxError, ValueError, RecursionError) as e:
            if path == first:
                facts.broken = (Place(path, getattr(e, "lineno", 0) or 0), str(e))
            continue
        _marks(text, path, facts)
        reader = _Reader(files, path, facts)
        reader.read(tree)
        todo += reader.more
    return facts


def _marks(text: str, path: str, facts: Facts) -> None:
    """``#@sync: x`` asks for mlaas.sync where marks are taken for code."""
    if "#@sync" not in text.replace(" ", ""):
        return
    import io

    try:
        for t in tokenize.generate_tokens(io.StringIO(text).readline):
            if t.type == tokenize.COMMENT and t.string.replace(" ", "").startswith("#@sync"):
                facts.names.setdefault("mlaas.sync", Place(path, t.start[0]))
    except (tokenize.TokenError, SyntaxError):
        pass


def _entry(files: _Files, entry: str) -> Optional[str]:
    if entry.startswith("-m "):
        base = entry[3:].strip().replace(".", "/")
        for path in (base + ".py", base + "/__main__.py"):
            if files.has(path):
                return path
        return None
    return entry if entry.endswith(".py") and files.has(entry) else None


class _Reader:
    """One module: what its names stand for, and what it does with them."""

    def __init__(self, files: _Files, path: str, facts: Facts):
        self.files, self.path, self.facts = files, path, facts
        self.means: Dict[str, str] = {}  # a name of the module: its full name
        self.more: List[str] = []

    def read(self, tree: ast.AST) -> None:
        # Imports anywhere count first: a function may use what stands below it.
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for a in node.names:
                    self._import(a.name, node.lineno)
                    if a.asname:
                        self.means[a.asname] = a.name
                    else:
                        self.means[a.name.partition(".")[0]] = a.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                self._import(base, node.lineno, [a.name for a in node.names])
                for a in node.names:
                    if a.name != "*":
                        self.means[a.asname or a.name] = base + "." + a.name
        for _ in range(3):  # tf1 = tf.compat.v1, and names for that
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and isinstance(node.value, (ast.Attribute, ast.Name)):
                    full = self._full(node.value)
                    if full and node.targets[0].id not in self.means:
                        self.means[node.targets[0].id] = full
        for node in ast.walk(tree):
            self._see(node)

    def _see(self, node: ast.AST) -> None:
        facts = self.facts
        if isinstance(node, (ast.Attribute, ast.Name)):
            full = self._full(node)
            if full:
                facts.names.setdefault(_plain(full), Place(self.path, node.lineno))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            facts.words.setdefault(node.value, Place(self.path, node.lineno))
        if isinstance(node, ast.Call):
            at = Place(self.path, node.lineno)
            full = self._full(node.func)
            if full:
                facts.calls.setdefault(_plain(full), []).append(at)
                if full == "importlib.import_module" and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    self._import(node.args[0].value, node.lineno)
            elif isinstance(node.func, ast.Attribute):
                facts.methods.setdefault(node.func.attr, []).append(at)
                if node.func.attr == "sync" and _imported(node.func.value) == "mlaas":  # what a mark became
                    facts.names.setdefault("mlaas.sync", at)
            if isinstance(node.func, ast.Name) and node.func.id == "len" and node.args and isinstance(node.args[0], ast.Attribute) and node.args[0].attr == "dataset":
                facts.lengths.append(at)
            for k in node.keywords:
                if k.arg == "jit_compile" and full and _plain(full) == "tensorflow.function" and isinstance(k.value, ast.Constant) and k.value.value is True:
                    facts.compiled.append(at)
                if k.arg == "sparse" and isinstance(k.value, ast.Constant) and k.value.value is True:
                    facts.sparse.append(at)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = os.path.dirname(self.path).replace(os.sep, "/")
        for _ in range(node.level - 1):
            here = os.path.dirname(here)
        return ".".join(p for p in (here.replace("/", "."), node.module or "") if p)

    def _import(self, name: str, line: int, parts: Tuple[str, ...] = ()) -> None:
        self.facts.names.setdefault(_plain(name), Place(self.path, line))
        for part in parts:
            self.facts.names.setdefault(_plain(name + "." + part), Place(self.path, line))
        here = os.path.dirname(self.path)
        for module in [name] + [name + "." + p for p in parts]:
            base = module.replace(".", "/")
            for folder in {"", here}:  # a script's own folder is on its path
                for path in (base + ".py", base + "/__init__.py"):
                    path = os.path.join(folder, path)
                    if self.files.has(path):
                        self.more.append(path)

    def _full(self, node: ast.AST) -> str:
        parts: List[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.means:
            return ""
        return ".".join([self.means[node.id]] + parts[::-1])


def _imported(node: ast.AST) -> str:
    """The module of __import__("module")."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "__import__" and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return name.value
    return ""


def _plain(name: str) -> str:
    """tensorflow.compat.v1.Session is tensorflow.Session."""
    for alias in ("tensorflow.compat.v1", "tensorflow.compat.v2", "tensorflow._api.v2.compat.v1"):
        if name == alias or name.startswith(alias + "."):
            return "tensorflow" + name[len(alias) :]
    return name
