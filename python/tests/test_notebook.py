"""Marks in notebooks become calls, and every other byte stays."""
import json

import pytest

from mlaas import _notebook, _prepare

TRACK = '__import__("mlaas").track(%s)'


def notebook(*cells, **how):
    found = {"cells": [], "metadata": how.pop("metadata", {"language_info": {"name": "python"}}), "nbformat": 4, "nbformat_minor": 5}
    for text in cells:
        kind = "markdown" if text.startswith("# A title") else "code"
        found["cells"].append({"cell_type": kind, "id": "a", "metadata": {}, "source": text if how.get("whole") else text.splitlines(True), "outputs": [{"text": ["#@define: model\\n"]}]})
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def sources(data):
    return ["".join(c["source"]) for c in json.loads(data.decode("utf-8"))["cells"]]


CELLS = ["# A title\n#@define: model", "%matplotlib inline\n!pip install x\nmodel = 'é'\n#@define: model", "%%bash\n#@define: no\necho", "for i in range(3):\n    loss = i\n    #@step: loss"]


@pytest.mark.parametrize("whole", [False, True])
def test_cells(whole):
    data = notebook(*CELLS, whole=whole)
    found = _notebook.rewrite(data)
    assert not found.refusals, found.refusals
    got = sources(found.data)
    assert got[0] == CELLS[0] and got[2] == CELLS[2]
    assert got[1] == CELLS[1].replace("#@", TRACK % "model" + "  #@")
    assert got[3].splitlines()[2] == '    __import__("mlaas").mark.step({"loss": loss})  #@step: loss'
    changed = [i for i, (a, b) in enumerate(zip(data.splitlines(), found.data.splitlines()), 1) if a != b]
    assert changed == sorted({s.line for s in found.sites}) and len(found.data.splitlines()) == len(data.splitlines())


def test_a_variable_of_another_cell_is_synced():
    found = _notebook.rewrite(notebook("w = 1", "x = 2\n#@sync: w"))
    assert not found.refusals and "w = __import__" in sources(found.data)[1]


@pytest.mark.parametrize("cell, says", [
    ("#@defin: model\nx = 1", "in cell 2, line 1: there is no mark"),
    ("x = 1  #@define: x", "in cell 2, line 1: #@define stands behind code"),
    ("x = (\n#@define: x", "cell 2 does not parse"),
])
def test_refusals_say_the_cell(cell, says):
    data = notebook("y = 1", cell)
    found = _notebook.rewrite(data)
    (r,) = found.refusals
    assert r.what.startswith(says) and found.data == data
    assert b"#@" in data.splitlines()[r.line - 1] or b"x = (" in data.splitlines()[r.line - 1]


@pytest.mark.parametrize("data", [b"#@define: x, no JSON", b'{"cells": 3, "a": "#@define: x"}', notebook("x <- 1\n#@define: x", metadata={"kernelspec": {"language": "R"}}), notebook("x = 1")])
def test_what_has_none(data):
    assert _notebook.rewrite(data) is None


def test_prepare(tmp_path):
    (tmp_path / "train.ipynb").write_bytes(notebook(*CELLS))
    got = _prepare.prepare(str(tmp_path), {"version": 1, "mode": "annotation", "marks": 1, "entry": "train.ipynb"})
    (f,) = got["files"]
    assert not got["refusals"] and f["path"] == "train.ipynb" and [m["word"] for m in f["marks"]] == ["define", "step"]
    assert f["diff"].count("\n- ") == f["diff"].count("\n+ ") == 2
