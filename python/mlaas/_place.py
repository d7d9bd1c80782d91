"""Where this program runs: on the platform, or by hand."""
from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Dict, Iterator, MutableMapping, Optional, Tuple

from . import _say

_folder: Optional[str] = None  # by hand: this run's folder, once it is needed
_params: "Optional[Params]" = None
_making = threading.Lock()


def socket_path() -> Optional[str]:
    """The supervisor's socket, or None by hand."""
    return os.environ.get("MLAAS_SOCKET") or None


def on_platform() -> bool:
    return bool(os.environ.get("MLAAS_SOCKET") or os.environ.get("MLAAS_RUN"))


def off() -> bool:
    """Whether the user asked for no recording at all."""
    return os.environ.get("MLAAS_OFF", "") not in ("", "0")


def folder() -> str:
    """By hand: ./mlaas-runs/<time>, made now. Two programs never share one."""
    global _folder
    with _making:
        if _folder is None:
            _folder = _make()
        return _folder


def _make() -> str:
    base = os.environ.get("MLAAS_RUNS") or "mlaas-runs"
    name = time.strftime("%Y%m%d-%H%M%S")
    who, index = _task()
    if os.environ.get("TF_CONFIG"):
        name += "-%s-%d" % (who, index)
    elif os.environ.get("RANK"):
        name += "-rank-%d" % rank()
    for n in range(1000):
        path = os.path.abspath(os.path.join(base, name if n == 0 else "%s-%d" % (name, n)))
        try:
            os.makedirs(path)
        except FileExistsError:
            continue
        return path
    raise OSError("no free name under %s" % base)


def after_fork() -> None:
    """In a child: a lock that a thread of the parent held is held for ever."""
    global _making
    _making = threading.Lock()


def _int(name: str, default: int) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return default


def _tf_config() -> Dict[str, Any]:
    text = os.environ.get("TF_CONFIG")
    if not text:
        return {}
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _task() -> Tuple[str, int]:
    task = _tf_config().get("task") or {}
    try:
        return str(task.get("type") or "worker"), int(task.get("index") or 0)
    except (TypeError, ValueError, AttributeError):
        return "worker", 0


def role() -> str:
    """chief, worker, ps or evaluator; worker when it runs alone."""
    return os.environ.get("MLAAS_ROLE") or _task()[0]


def rank() -> int:
    """Among chief and workers, from 0; -1 for a ps or an evaluator."""
    who = role()
    if who not in ("chief", "master", "worker"):
        return -1
    if "RANK" in os.environ:
        return _int("RANK", 0)
    cluster = _tf_config().get("cluster") or {}
    before = 0 if who != "worker" else len(cluster.get("chief", [])) + len(cluster.get("master", []))
    return before + _int("MLAAS_INDEX", _task()[1])


def world_size() -> int:
    """How many chiefs and workers there are; 1 when it runs alone."""
    if "WORLD_SIZE" in os.environ:
        return max(1, _int("WORLD_SIZE", 1))
    cluster = _tf_config().get("cluster") or {}
    return max(1, sum(len(cluster.get(who, [])) for who in ("chief", "master", "worker")))


def is_chief() -> bool:
    """Whether this replica is the one that saves and evaluates: rank 0."""
    return rank() == 0


def data(name: str) -> str:
    """The path of an input: $MLAAS_DATA/name, by hand ./data/name.

    Raises: FileNotFoundError, saying what would mend it.
    """
    base = os.environ.get("MLAAS_DATA") or "data"
    path = os.path.abspath(os.path.join(base, name))
    if not os.path.exists(path):
        mend = "add it to the job's data" if on_platform() else "put it there, or set MLAAS_DATA to the folder that holds it"
        raise FileNotFoundError("there is no data named %r: %s does not exist; %s" % (name, path, mend))
    return path


def output() -> str:
    """A folder whose files are kept as results, made if it is not there."""
    path = os.environ.get("MLAAS_OUTPUT") or os.path.join(folder(), "output")
    os.makedirs(path, exist_ok=True)
    return path


def checkpoints() -> str:
    """The folder in which checkpoints are put."""
    path = os.environ.get("MLAAS_CHECKPOINTS") or os.path.join(folder(), "checkpoints")
    os.makedirs(path, exist_ok=True)
    return path


def value(text: str) -> Any:
    """A parameter's text as JSON has it: 0.1, true, [1, 2]; else the text."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


class Params(MutableMapping):
    """Parameters by name, as a mapping and as attributes: params.lr.

    Names are in lower case with _ for -. Setting one records it with the run.
    """

    def __init__(self, given: Dict[str, Any]):
        object.__setattr__(self, "_values", {self._name(k): v for k, v in given.items()})

    @staticmethod
    def _name(name: str) -> str:
        return str(name).replace("-", "_").lower()

    def __getitem__(self, name: str) -> Any:
        return self._values[self._name(name)]

    def __setitem__(self, name: str, v: Any) -> None:
        self._values[self._name(name)] = v
        from . import _log

        _log.record_params({self._name(name): v})

    def __delitem__(self, name: str) -> None:
        del self._values[self._name(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[self._name(name)]
        except KeyError:
            raise AttributeError("there is no parameter %r; there are: %s" % (name, ", ".join(self) or "none")) from None

    def __setattr__(self, name: str, v: Any) -> None:
        self[name] = v

    def __repr__(self) -> str:
        return "Params(%r)" % (self._values,)


def _given() -> Dict[str, Any]:
    prefix = "MLAAS_PARAM_"
    found = {k[len(prefix):]: value(v) for k, v in os.environ.items() if k.startswith(prefix)}
    if found or on_platform():
        return found
    # By hand they come as the platform would have passed them: --name value.
    words = sys.argv[1:] if hasattr(sys, "argv") else []
    for i, word in enumerate(words):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, eq, text = word[2:].partition("=")
        if eq:
            found[name] = value(text)
        elif i + 1 < len(words) and not words[i + 1].startswith("--"):
            found[name] = value(words[i + 1])
        else:
            found[name] = True
    return found


def params() -> Params:
    """The job's parameters; by hand, those on the command line."""
    global _params
    if _params is None:
        try:
            _params = Params(_given())
        except Exception as e:
            _say.once("params", "parameters could not be read (%s); there are none" % e)
            _params = Params({})
    return _params
