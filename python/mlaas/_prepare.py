"""Apply a recipe to a folder of code, and say what comes out.

The supervisor starts it before the program, with the environment's own Python
and in the program's sandbox::

    python -I -S -B mlaas/_prepare.py < {"root": FOLDER, "recipe": {...}}

It only reads. The answer, one JSON object on stdout, has each file that is not
as it was written, whole and as a diff; or refusals, which are the user's to
mend. Nothing of the code is imported or run.
"""
from __future__ import annotations

import base64
import difflib
import gc
import json
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

if __name__ == "__main__":  # by its path and isolated: what lies in the code folder must not be found
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from mlaas import _marks, _notebook
from mlaas._spread import _look as _spread_look

VERSION = 1
LARGEST = 16 << 20  # bytes of one file that is read
CONTEXT = 3


def prepare(root: str, recipe: Dict[str, Any]) -> Dict[str, Any]:
    """Apply recipe to the files below root. Writes nothing.

    Args:
        root: the folder of the code.
        recipe: a mlaas.Recipe, as run.go has it.
    Returns: the answer, as supervisor/prepare reads it: "python", "files"
        (path, new, content as base64, diff, marks) and "refusals".
    """
    files: List[Dict[str, Any]] = []
    refusals: List[Dict[str, Any]] = []
    answer: Dict[str, Any] = {"python": "%d.%d.%d" % sys.version_info[:3], "files": files, "refusals": refusals}
    if recipe.get("version", 0) > VERSION:
        raise SystemExit("the recipe has version %s, and this Python package knows %d: upgrade what the environment is made of" % (recipe["version"], VERSION))
    made = recipe.get("files") or {}
    for path in sorted(made):
        if _read(os.path.join(root, path)) != made[path].encode("utf-8"):  # else it is there already
            files.append(_made(root, path, made[path]))
    if recipe.get("marks", 0):
        if recipe["marks"] > _marks.VERSION:
            raise SystemExit("the marks have version %s, and this Python package knows %d: upgrade what the environment is made of" % (recipe["marks"], _marks.VERSION))
        for path in _programs(root):
            if path not in made:
                _marked(root, path, files, refusals)
        if any(f["marks"] for f in files) or refusals:
            refusals.extend(_shadows(root, recipe.get("entry") or ""))
    ask = recipe.get("distribute")  # code.distribute, and how many there are
    if ask:
        seen = _spread_look.look(root, ask["entry"], ask["want"], ask["replicas"], ask["servers"], made)
        answer["spread"] = {"strategy": seen["strategy"], "says": seen["says"]}
        refusals.extend(_refusal(r["file"], r["line"], 0, "this program cannot be spread over replicas", r["text"]) for r in seen["refusals"])
    if refusals:
        del files[:]
    files.sort(key=lambda f: f["path"])
    return answer


def _made(root: str, path: str, text: str) -> Dict[str, Any]:
    before = _read(os.path.join(root, path))
    after = text.encode("utf-8")
    old = _text(before) if before is not None else []
    diff = "".join(_unified(path, before is None, difflib.SequenceMatcher(None, old, _text(after), autojunk=False).get_grouped_opcodes(CONTEXT), old, _text(after)))
    return {"path": path, "new": before is None, "content": base64.b64encode(after).decode("ascii"), "diff": diff, "marks": []}


def _marked(root: str, path: str, files: List[Dict[str, Any]], refusals: List[Dict[str, Any]]) -> None:
    data = _read(os.path.join(root, path))
    if data is None:
        return
    if len(data) > LARGEST:
        if _marks.MAY.search(data):
            refusals.append(_refusal(path, 0, 0, "it has %d bytes and may have marks" % len(data), "split it: at most %d are read" % LARGEST))
        return
    found = (_notebook if path.endswith(".ipynb") else _marks).rewrite(data, path)
    if found is None:
        return
    refusals.extend(_refusal(path, *r) for r in found.refusals)
    if found.sites:
        before, after = _shown(found.before), _shown(found.after)
        diff = "".join(_unified(path, False, _same_lines(sorted({s.line - 1 for s in found.sites}), len(before)), before, after))
        files.append({"path": path, "new": False, "content": base64.b64encode(found.data).decode("ascii"), "diff": diff,
                      "marks": [s._asdict() for s in found.sites]})


def _refusal(path: str, line: int, column: int, what: str, remedy: str) -> Dict[str, Any]:
    return {"path": path, "line": line, "column": column, "what": what, "remedy": remedy}


def _programs(root: str) -> Iterator[str]:
    """Python files and notebooks below root, by their paths with slashes; no links."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [d for d in folders if d not in ("__pycache__", ".git", ".ipynb_checkpoints")]
        for name in names:
            full = os.path.join(folder, name)
            if name.endswith((".py", ".pyw", ".ipynb")) and os.path.isfile(full) and not os.path.islink(full):
                found.append(os.path.relpath(full, root).replace(os.sep, "/"))
    return iter(sorted(found))


def _shadows(root: str, entry: str) -> List[Dict[str, Any]]:
    """A module of the program that stands where a call looks for ours."""
    found = []
    for folder in sorted({"", os.path.dirname(entry)}):
        for name in ("mlaas.py", "mlaas/__init__.py"):
            path = os.path.join(folder, name)
            if os.path.exists(os.path.join(root, path)):
                found.append(_refusal(path, 0, 0, "it is called mlaas, like the package that marks call", "give it another name"))
    return found


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as f:
            return f.read(LARGEST + 1)
    except OSError:
        return None


def _text(data: bytes) -> List[str]:
    return _shown(_marks.lines(data.decode("utf-8", "replace")))


def _shown(lines: List[str]) -> List[str]:
    """Lines as a diff shows them: a lone \\r ends a line too."""
    return [line[:-1] + "\n" if line.endswith("\r") else line for line in lines]


def _same_lines(changed: List[int], count: int) -> Iterator[List[Tuple[str, int, int, int, int]]]:
    """Groups of a diff in which no line moves."""
    at = 0
    while at < len(changed):
        end = at
        while end + 1 < len(changed) and changed[end + 1] - changed[end] <= 2 * CONTEXT:
            end += 1
        group = []
        last = max(changed[at] - CONTEXT, 0)
        for i in changed[at:end + 1]:
            if i > last:
                group.append(("equal", last, i, last, i))
            group.append(("replace", i, i + 1, i, i + 1))
            last = i + 1
        tail = min(last + CONTEXT, count)
        if tail > last:
            group.append(("equal", last, tail, last, tail))
        yield group
        at = end + 1


def _unified(path: str, new: bool, groups: Any, before: List[str], after: List[str]) -> Iterator[str]:
    yield "--- %s\n+++ b/%s\n" % ("/dev/null" if new else "a/" + path, path)
    for group in groups:
        first, last = group[0], group[-1]
        yield "@@ -%s +%s @@\n" % (_range(first[1], last[2]), _range(first[3], last[4]))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                for line in before[i1:i2]:
                    yield _line(" ", line)
                continue
            for line in before[i1:i2]:
                yield _line("-", line)
            for line in after[j1:j2]:
                yield _line("+", line)


def _range(start: int, stop: int) -> str:
    count = stop - start
    if count == 1:
        return str(start + 1)
    return "%d,%d" % (start + 1 if count else start, count)


def _line(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else sign + line + "\n\\ No newline at end of file\n"


def _limit() -> None:
    """Parsing what somebody wrote takes no more than this of the machine."""
    import resource

    for what, most in ((resource.RLIMIT_CPU, 60), (resource.RLIMIT_AS, 4 << 30)):
        _, hard = resource.getrlimit(what)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(what, (most, most))


def main() -> None:
    """Read a request on stdin and answer it on stdout."""
    _limit()
    gc.disable()  # trees are large, and this process is short
    ask = json.load(sys.stdin)
    json.dump(prepare(ask["root"], ask["recipe"]), sys.stdout)


if __name__ == "__main__":
    main()
