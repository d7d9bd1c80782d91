"""Marks in the cells of a notebook become calls, and nothing else of it changes.

The cells that are Python are read one after another as one program, as they
are run: a mark at the end of a cell may name what another cell defines. What is
no Python in them, such as ``%matplotlib inline`` or ``!pip install``, is left as
it is. In the file itself only the text of lines with marks is replaced: layout,
outputs and all other lines stay byte for byte.
"""
from __future__ import annotations

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import _marks

_SPACE = re.compile(r"[ \t\r\n]*")
_MAGIC = re.compile(r"([ \t]*)(?:[%!?]|(?:[\w., \t]+=[ \t]*)[%!]|[^#\r\n]*\?{1,2}[ \t]*$)")
_TIMES = re.compile(r"[ \t]*%%(?:time|timeit|capture|prun)\b")  # of a cell that is Python all the same
_decode = json.JSONDecoder().raw_decode

_Way = Tuple[Any, ...]


class _Line(NamedTuple):
    cell: int  # from 1, of all cells
    line: int  # from 1, in the cell
    way: _Way  # to the string in the file that has it


def rewrite(data: bytes, path: str = "main.ipynb") -> Optional[_marks.Marked]:
    """Make calls of the marks in a notebook, as _marks.rewrite does in a program.

    Lines of sites and refusals are lines of the file; the text of a refusal
    says which cell. Returns None where there is no mark, or no Python.
    """
    if not _marks.MAY.search(data):
        return None
    try:
        text = data.decode("utf-8")
        found = json.loads(text)
        cells = found["cells"]
        language = _language(found.get("metadata") or {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # not a notebook of version 4: nobody runs it
    if language not in ("", "python") or not isinstance(cells, list):
        return None
    where: Dict[_Way, Tuple[int, int]] = {}
    _strings(text, 0, (), where)
    rows: List[str] = ["\n", "\n"]  # what declares an encoding in a file does not in a cell
    home: List[Optional[_Line]] = [None, None]
    masked: Dict[int, str] = {}
    refusals: List[_marks.Refusal] = []

    def line_of(place: int) -> int:
        return text.count("\n", 0, place) + 1

    for i, cell in enumerate(cells):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        parts = cell.get("source", "")
        one = isinstance(parts, str)
        lines = []
        for j, part in enumerate([parts] if one else parts):
            way = ("cells", i, "source") if one else ("cells", i, "source", j)
            lines.extend((row, way) for row in _marks.lines(part))
        if any(not row.endswith("\n") for row, _ in lines[:-1]):
            continue  # strings that end in the middle of a line: no Jupyter writes them
        python, why = _python([row for row, _ in lines])
        if why and any(_marks.MAY.search(row.encode("utf-8", "replace")) for row, _ in lines):
            at = line_of(where[lines[0][1]][0])
            refusals.append(_marks.Refusal(at, 0, "cell %d does not parse (%s)" % (i + 1, why), "mend it: marks are read only in cells that Python can read"))
        for n, (row, way) in enumerate(lines):
            if python[n] != row:
                masked[len(rows)] = row
            rows.append(python[n] if python[n].endswith("\n") else python[n] + "\n")
            home.append(_Line(i + 1, n + 1, way))
    if refusals:
        return _marks.Marked(data, [], [], [], refusals)
    rows.append("pass\n")  # the end of the last cell is not the end of the program
    home.append(None)
    made = _marks.rewrite("".join(rows).encode("utf-8"), path)
    if made is None:
        return None

    def site(line: int) -> Tuple[int, str]:
        at = home[line - 1] if 0 < line <= len(home) else None
        if at is None:
            return 0, ""
        start, end = where[at.way]
        return line_of(start), "in cell %d, line %d: " % (at.cell, at.line)

    if made.refusals:
        for r in made.refusals:
            at, cell_says = site(r.line)
            refusals.append(_marks.Refusal(at, r.column if at else 0, cell_says + r.what, r.remedy))
        return _marks.Marked(data, [], [], [], refusals)
    changed: Dict[_Way, List[str]] = {}
    marked = {s.line for s in made.sites}
    for n, at in enumerate(home):
        if at is not None:
            row = made.after[n] if n + 1 in marked else masked.get(n, rows[n])
            changed.setdefault(at.way, []).append(row)
    after, last = [], 0
    for way in sorted({home[n - 1].way for n in marked}, key=lambda w: where[w]):  # type: ignore[union-attr]
        start, end = where[way]
        before = _decode(text, start)[0]
        new = "".join(changed[way])
        new = new if before.endswith("\n") else new[:-1]
        after += [text[last:start], json.dumps(new, ensure_ascii=text[start:end].isascii())]
        last = end
    after.append(text[last:])
    whole = "".join(after)
    sites = [s._replace(line=site(s.line)[0]) for s in made.sites]
    return _marks.Marked(whole.encode("utf-8"), _marks.lines(text), _marks.lines(whole), sites, [])


def _language(metadata: Dict[str, Any]) -> str:
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        said = (metadata.get(key) or {}).get(name)
        if said:
            return "python" if said == "ipython" else str(said).lower()
    return ""


def _python(lines: List[str]) -> Tuple[List[str], str]:
    """A cell as Python reads it, line for line, and why that is not possible."""
    if lines and lines[0].lstrip().startswith("%%"):
        if not _TIMES.match(lines[0]):
            return ["\n"] * len(lines), ""  # a script of another language, a file
        lines = ["\n"] + lines[1:]
    try:
        _marks._parse("".join(lines), "cell")
        return lines, ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    masked = [_masked(row) for row in lines]
    try:
        _marks._parse("".join(masked), "cell")
        return masked, ""
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        return ["\n"] * len(lines), _marks._message(e)


def _masked(row: str) -> str:
    m = _MAGIC.match(row)
    return m.group(1) + "pass\n" if m else row


def _strings(text: str, at: int, way: _Way, found: Dict[_Way, Tuple[int, int]]) -> int:
    """Where each string of a JSON text stands that is known to be well-formed;
    gives where the value at ends."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    opened = text[at]
    if opened not in "{[":
        value, end = _decode(text, at)
        if isinstance(value, str):
            found[way] = (at, end)
        return end
    n = 0
    at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] not in "}]":
        key: Any = n
        if opened == "{":
            key, at = _decode(text, at)
            at = _SPACE.match(text, at).end() + 1  # type: ignore[union-attr]
        at = _SPACE.match(text, _strings(text, at, way + (key,), found)).end()  # type: ignore[union-attr]
        if text[at] == ",":
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        n += 1
    return at + 1
