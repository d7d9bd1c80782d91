"""Checkpoints: whole or not at all."""
from __future__ import annotations

import glob
import os
import re
import shutil
import time
from typing import List, NamedTuple, Optional, Tuple, Union

from . import _place, _say, _spread


class Resumed(NamedTuple):
    """The checkpoint to begin from."""

    path: str
    """The folder that holds what was saved."""
    step: int
    """The step at which it was saved."""


def resume() -> Optional[Resumed]:
    """The checkpoint that this run begins from, or None on a fresh start.

    By hand, MLAAS_RESUME names the folder, such as
    ``mlaas-runs/20260102-030405/checkpoints/step-100``.
    """
    path = os.environ.get("MLAAS_RESUME")
    if not path:
        return None
    text = os.environ.get("MLAAS_RESUME_STEP", "")
    if not text:
        found = re.search(r"(\d+)\D*$", os.path.basename(os.path.abspath(path)))
        text = found.group(1) if found else "0"
    try:
        step = int(text)
    except ValueError:
        step = 0
    if not os.path.isdir(path):
        _say.once("resume", "the checkpoint %s is not there; starting afresh" % path)
        return None
    return Resumed(path, step)


def checkpoint(path: "Union[str, os.PathLike]", step: int, best: Optional[str] = None) -> Optional[str]:
    """Keep a copy of what is at path now, as the checkpoint of step.

    It returns when the copy is whole, so the program may overwrite its own
    files at once; uploading happens elsewhere. Call it where is_chief.

    Args:
        path: a folder, a file, or a TensorFlow prefix such as "ckpt/model-100".
        step: the step to go on from.
        best: the metric by which this is the best so far, if it is.
    Where the platform has spread a program of one replica over several, those
    of the chief are kept, and the others return None.
    Returns: the folder that was made, or None if it could not be kept, which
        is said on stderr; a training is not ended for that.
    """
    if _place.off() or not _spread.keeps():
        return None
    try:
        return _keep(os.fspath(path), int(step), best)
    except Exception as e:
        _say.once("checkpoint %s" % type(e).__name__, "a checkpoint of step %s was not kept: %s" % (step, e))
        return None


def _keep(path: str, step: int, best: Optional[str]) -> str:
    base = _place.checkpoints()
    unique = "%d-%d" % (os.getpid(), time.time_ns())
    tmp = os.path.join(base, ".tmp-" + unique)
    os.mkdir(tmp)
    try:
        for source, name in _files(path):
            target = os.path.join(tmp, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _copy(source, target)
        if not os.path.exists(path) and os.path.exists(os.path.join(tmp, os.path.basename(path) + ".index")):
            # By this file TensorFlow's latest_checkpoint(folder) finds it.
            with open(os.path.join(tmp, "checkpoint"), "w", encoding="utf-8") as f:
                f.write('model_checkpoint_path: "%s"\n' % os.path.basename(path))
        final = os.path.join(base, "step-%d" % step)
        if _place.on_platform():
            # The supervisor takes this folder away when it is safe elsewhere,
            # so a step that is saved twice needs two names.
            final += "-" + unique
        elif os.path.isdir(final):
            os.rename(final, os.path.join(base, ".tmp-old-" + unique))
        os.rename(tmp, final)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    shutil.rmtree(os.path.join(base, ".tmp-old-" + unique), ignore_errors=True)
    from . import _log

    _log.record_checkpoint(final, step, None if best is None else str(best))
    return final


def _files(path: str) -> List[Tuple[str, str]]:
    """What a checkpoint consists of: pairs of a file and its name in the copy."""
    if os.path.isdir(path):
        found = []
        for folder, _, names in os.walk(path):
            for name in names:
                full = os.path.join(folder, name)
                if os.path.isfile(full):
                    found.append((full, os.path.relpath(full, path)))
        if not found:
            raise FileNotFoundError("the folder %s is empty" % path)
        return found
    if os.path.isfile(path):
        return [(path, os.path.basename(path))]
    # A TensorFlow saver names a prefix: model-100.index, model-100.data-...
    found = [(f, os.path.basename(f)) for f in sorted(glob.glob(glob.escape(path) + ".*")) if os.path.isfile(f)]
    if not found:
        raise FileNotFoundError("%s is neither a file, nor a folder, nor the beginning of file names" % path)
    return found


def _copy(source: str, target: str) -> None:
    """A copy, and not a link: most libraries overwrite their files in place.
    Where the file system can share blocks, it costs nothing."""
    try:
        import fcntl

        with open(source, "rb") as a, open(target, "wb") as b:
            fcntl.ioctl(b.fileno(), 0x40049409, a.fileno())  # FICLONE
    except (ImportError, OSError):
        shutil.copyfile(source, target)
