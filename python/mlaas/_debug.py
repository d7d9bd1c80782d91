"""What helps to find out why a program hangs or fails. It costs nothing until
somebody looks.

install() is called before the program's first line. It takes two signals that
do nothing by default: at SIGURG the stacks of all threads are written to a file
in memory, by faulthandler, also where the interpreter itself hangs; at SIGWINCH
a debugger is let in that _attach.py asked for. A program that takes one of them
itself has it.
"""
from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any, Dict, List, Optional, Tuple

STACKS = "mlaas-stacks"  # names of files in memory, by which they are found
DEBUGGER = "mlaas-debugger"
STACK_SIGNAL = getattr(signal, "SIGURG", None)
DEBUG_SIGNAL = getattr(signal, "SIGWINCH", None)

FRAMES = 5  # of the program's own, the innermost
VARIABLES = 40  # of a frame
LENGTH = 200  # of what a variable holds
PATIENCE = 5.0  # seconds for all of them
MASK = "<masked>"

_SECRET = re.compile(r"passw|secret|token|api_?key|credential|private_?key|auth", re.I)
_files: List[Any] = []  # kept open as long as the process lives


def install() -> None:
    """Set up what this process lets others see, once. Raises nothing."""
    if _files:
        return
    for part in (_stacks, _debugger, _locals):
        try:
            part()
        except Exception:
            pass  # no reason for a program not to run


def _memory(name: str) -> Any:
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "r+b", buffering=0)  # type: ignore[attr-defined]


def _free(number: Any) -> bool:
    return number is not None and signal.getsignal(number) in (signal.SIG_DFL, None)


def _stacks() -> None:
    import faulthandler

    if not hasattr(os, "memfd_create") or not _free(STACK_SIGNAL):
        return
    file = _memory(STACKS)
    _files.append(file)
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True, chain=False)
    if not faulthandler.is_enabled():
        faulthandler.enable()  # where a crash was is said on stderr


def _debugger() -> None:
    if not hasattr(os, "memfd_create") or not _free(DEBUG_SIGNAL):
        return
    file = _memory(DEBUGGER)
    _files.append(file)

    def asked(number: int, frame: Any) -> None:
        try:
            if os.pread(file.fileno(), 16, 0) == b"please":
                _answer(file.fileno())
        except Exception:
            pass

    signal.signal(DEBUG_SIGNAL, asked)  # type: ignore[arg-type]


def _answer(fd: int) -> None:
    """Let a debugger in, and write down at which port: once for a process."""
    os.ftruncate(fd, 0)
    try:
        import debugpy  # type: ignore[import-not-found]

        if not hasattr(_answer, "port"):
            _answer.port = debugpy.listen(("127.0.0.1", 0))[1]  # type: ignore[attr-defined]
        said = "port %d" % _answer.port  # type: ignore[attr-defined]
    except ImportError:
        said = "error its environment has no debugpy; add it to environment.packages and run again"
    except Exception as e:
        said = "error debugpy cannot listen: %s: %s" % (type(e).__name__, e)
    os.pwrite(fd, (said + "\n").encode(), 0)


# ---- local variables of a failure ----


def _locals() -> None:
    if os.environ.get("MLAAS_LOCALS", "") in ("", "0"):
        return
    import threading

    inner, inner_thread = sys.excepthook, threading.excepthook

    def failed(kind: Any, error: Any, trace: Any) -> None:
        inner(kind, error, trace)
        if not issubclass(kind, KeyboardInterrupt):
            _tell(trace)

    def thread_failed(args: Any) -> None:
        inner_thread(args)
        if args.exc_type is not SystemExit:
            _tell(args.exc_traceback)

    sys.excepthook = failed
    threading.excepthook = thread_failed


def _tell(trace: Any) -> None:
    """Write the variables of a failure on stderr, below its traceback. What a
    variable says of itself may take for ever: it has so long."""
    import threading

    found: List[str] = []
    t = threading.Thread(target=_collect, args=(trace, found), daemon=True)
    t.start()
    t.join(PATIENCE)
    lines = list(found)
    if t.is_alive():
        lines.append("    (the rest took longer than %.0f s)" % PATIENCE)
    if lines:
        sys.stderr.write("Local variables where it failed, innermost last:\n" + "\n".join(lines) + "\n")
        sys.stderr.flush()


def _collect(trace: Any, found: List[str]) -> None:
    frames = []
    while trace is not None:
        if own(trace.tb_frame.f_code.co_filename):
            frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    secrets = _secrets()
    for frame, line in frames[-FRAMES:]:
        code = frame.f_code
        found.append("  %s:%d in %s" % (os.path.relpath(code.co_filename), line, code.co_name))
        shown = 0
        for name, value in list(frame.f_locals.items()):
            if name.startswith("__") or isinstance(value, _NOISE):
                continue
            if shown == VARIABLES:
                found.append("    ... and more")
                break
            shown += 1
            found.append("    %s = %s" % (name, MASK if _SECRET.search(name) else _shown(value, secrets)))


_NOISE = (type(os), type(_stacks), type(len), type)


def own(file: str) -> bool:
    """Whether a file is of the program itself, and not of a package."""
    path = os.path.abspath(file)
    return path.startswith(os.getcwd() + os.sep) and "site-packages" not in path and "dist-packages" not in path and not file.startswith("<")


def _secrets() -> List[str]:
    names = os.environ.get("MLAAS_SECRETS", "").split(",")
    values = [os.environ.get(n, "") for n in names]
    values += [repr(v)[1:-1] for v in values]  # as it stands in what a container says
    return sorted({v for v in values if len(v) >= 4}, key=len, reverse=True)


def _shown(value: Any, secrets: List[str]) -> str:
    """What a variable holds, in one short line. Masked first, then cut: half a
    secret is one too."""
    try:
        if isinstance(value, (str, bytes)) and len(value) > 64 * LENGTH:
            text = "%s of %d" % (type(value).__name__, len(value))
        elif isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > LENGTH:
            text = "%s of %d" % (type(value).__name__, len(value))
        else:
            text = repr(value)
    except Exception as e:
        return "<its repr raised %s>" % type(e).__name__
    for s in secrets:
        text = text.replace(s, MASK)
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[:LENGTH] + "..."
