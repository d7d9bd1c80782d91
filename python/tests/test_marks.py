"""Marks become calls: exactly there, and nothing else changes."""
import ast
import json
import random
import sys
import textwrap
import time

import pytest

from mlaas import _marks, _prepare

TRACK = '__import__("mlaas").track(%s)'


def source(text):
    return textwrap.dedent(text).lstrip("\n").encode()


def rewritten(text):
    data = text if isinstance(text, bytes) else source(text)
    found = _marks.rewrite(data)
    assert found is not None, "no mark was found"
    assert not found.refusals, found.refusals
    same_program(data, found)
    return found.data.decode(_marks.tokenize.detect_encoding(iter(data.splitlines(True)).__next__)[0])


def same_program(before, found):
    """The lines are as many, and the tree without the calls is the tree."""
    assert len(found.before) == len(found.after)
    changed = {s.line for s in found.sites}
    for i, (a, b) in enumerate(zip(found.before, found.after), 1):
        assert (a == b) == (i not in changed), (i, a, b)
    want, got = ast.parse(before), ast.parse(found.data)
    calls = []

    class Without(ast.NodeTransformer):
        def generic_visit(self, node):
            super().generic_visit(node)
            return node

        def visit_Expr(self, node):
            if node.lineno in changed:
                calls.append((node.lineno, node))
                return None
            return self.generic_visit(node)

        def visit_Assign(self, node):
            if node.lineno in changed:
                calls.append((node.lineno, node))
                return None
            return self.generic_visit(node)

    Without().visit(got)
    for node in [*ast.walk(got), *ast.walk(want)]:
        if any(isinstance(getattr(node, f, None), list) for f in ("body", "orelse", "handlers")):
            node.end_lineno = node.end_col_offset = None  # one that a call ends is longer by it
    assert ast.dump(got, include_attributes=True) == ast.dump(want, include_attributes=True)
    assert {line for line, _ in calls} == changed
    for site in found.sites:
        made = [ast.dump(n) for line, n in calls if line == site.line]
        assert made == [ast.dump(n) for n in ast.parse(site.call).body]


def test_figure_4_6():
    assert rewritten("""
        def main():
           model = customized_define_mode()
           env = customized_setup_train(model)
           with tf.Session() as session:
               #@define: model, session
               while customized_step_train(model, env):
                   pass
        """).splitlines()[4] == "       " + TRACK % "model, session" + "  #@define: model, session"


@pytest.mark.parametrize("mark", ["#@define: model, session", "                #@define: model, session", " # @define :model,session", "\t#@define: model, session"])
def test_indented_anyhow(mark):
    got = rewritten("def main():\n    with tf.Session() as session:\n%s\n        while step(model):\n            pass\n" % mark)
    assert got.splitlines()[2].startswith("        " + TRACK % "model, session")


PLACES = [
    ("tabs", "if a:\n\t#@define: m\n\tx()\n", 2, "\t"),
    ("after a header", "for i in r:\n#@define: m\n    x(i)\n", 2, "    "),
    ("over blank lines and comments", "if a:\n#@define: m\n\n    # why\n\n    x()\n", 2, "    "),
    ("between", "a()\n    #@define: m\nb()\n", 2, ""),
    ("the end of a block, indented like it", "for i in r:\n    x(i)\n    #@define: m\ny()\n", 3, "    "),
    ("the end of a block, indented like what follows", "for i in r:\n    x(i)\n#@define: m\ny()\n", 3, ""),
    ("the end of a block, indented anyhow", "for i in r:\n    x(i)\n  #@define: m\ny()\n", 3, ""),
    ("the end of an outer block", "for i in r:\n    if i:\n        x(i)\n    #@define: m\ny()\n", 4, "    "),
    ("before else", "if a:\n    x()\n    #@define: m\nelse:\n    y()\n", 3, "    "),
    ("after else", "if a:\n    x()\nelse:\n#@define: m\n    y()\n", 4, "    "),
    ("before elif", "if a:\n    x()\n    #@define: m\nelif b:\n    y()\n", 3, "    "),
    ("after elif", "if a:\n    x()\nelif b:\n #@define: m\n    y()\n", 4, "    "),
    ("try", "try:\n    x()\n    #@define: m\nexcept A:\n    y()\nfinally:\n    z()\n", 3, "    "),
    ("except", "try:\n    x()\nexcept (A,\n   B):\n#@define: m\n    y()\nfinally:\n    z()\n", 5, "    "),
    ("finally", "try:\n    x()\nfinally:\n    z()\n    #@define: m\n", 5, "    "),
    ("the end of the file", "x()\n#@define: m", 2, ""),
    ("the end of the file, in a block", "while a:\n    x()\n    #@define: m\n", 3, "    "),
    ("a one-line suite before", "if a: x()\n#@define: m\nif b: y()\n", 2, ""),
    ("before decorators", "a = 1\n#@define: m\n@d\n@e(1)\ndef f(): pass\n", 2, ""),
    ("before a decorated method", "class A:\n    #@define: m\n    @d\n    def f(self): pass\n", 2, "    "),
    ("after a continuation", "a = 1 + \\\n    2\n#@define: m\nb()\n", 3, ""),
    ("after brackets", "a = [\n    1,\n]\n   #@define: m\nb()\n", 4, ""),
    ("after a string of many lines", 'a = """\n#@define: no\n"""\n#@define: m\nb()\n', 4, ""),
    ("where a string ends and a bracket begins", 'a = """\n"""; b = [\n 1]\n#@define: m\nc()\n', 4, ""),
    ("a nested function", "def f():\n    def g():\n        return 1\n  #@define: m\n    return g\n", 4, "    "),
    ("a form feed", "def f():\n    a()\n\x0c\n#@define: m\n    b()\n", 4, "    "),
    ("async", "async def f():\n    async with a as b:\n #@define: m\n        await c()\n", 3, "        "),
    ("inside a class", "class A:\n  #@define: m\n    x = 1\n", 2, "    "),
    ("after a docstring", 'def f():\n    """d"""\n#@define: m\n    x()\n', 3, "    "),
    ("after an else, indented like a block before it", "if a:\n        x()\nelse:\n        #@define: m\n    y()\n", 4, "    "),
    ("before a mark that stays inside", "if a:\n    x()\n #@define: m\n    #@define: n\ny()\n", 3, "    "),
    ("an odd indentation", "if a:\n   #@define: m\n   if b:\n     c()\n", 2, "   "),
]


@pytest.mark.parametrize("text, line, indent", [p[1:] for p in PLACES], ids=[p[0] for p in PLACES])
def test_place(text, line, indent):
    got = _marks.lines(rewritten(text.encode()))
    assert got[line - 1].startswith(indent + TRACK % "m"), got[line - 1]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="match came with Python 3.10")
def test_match():
    text = "match a:\n    case 1:\n        x()\n        #@define: m\n    case 2:\n#@define: n\n        y()\n"
    got = rewritten(text.encode()).splitlines()
    assert got[3].startswith("        " + TRACK % "m") and got[5].startswith("        " + TRACK % "n")
    refused = _marks.rewrite(b"match a:\n    #@define: m\n    case 1:\n        x()\n").refusals
    assert refused[0].line == 2 and "belongs to the statement before it" in refused[0].what


@pytest.mark.parametrize("text", [
    's = "#@define: a, b"\n',
    's = """\n#@define: a, b\n"""\n',
    "s = '''x\n    #@define: a\n''' + f(1)\n",
    'def f():\n    """\n    #@define: a\n    """\n',
    's = ("a"\n     "#@define: b")\n',
    "s = r'a\\b'  # see #@define: a, b\n",
    "x = f'{a}#@define: a'\n",
    "# about #@define: model\nx()\n",
    "#@param {type: 'string'}\nx = 1\n",
    "#@title Train\n#@markdown text\n#@save\nx = 1\n",
    "# an address: me@define.org\nx = 1\n",
    "x = a #b @define\n",
])
def test_not_a_mark(text):
    assert _marks.rewrite(text.encode()) is None


REFUSED = [
    ("misspelt", "#@defin: model\nx()\n", 1, 1, "there is no mark #@defin", "write #@define"),
    ("in capitals", "#@Define: model\nx()\n", 1, 1, "there is no mark #@Define", "write #@define"),
    ("no colon", "  #@define model\nx()\n", 1, 3, "no colon", "#@define: model, session"),
    ("no names", "#@define:\nx()\n", 1, 1, "names nothing", "#@define: model, session"),
    ("a call", "#@define: f()\nx()\n", 1, 1, "'f()'", "names such as model"),
    ("code", "#@define: m); import os; (a\nx()\n", 1, 1, "'m); import os; (a'", "names such as model"),
    ("a keyword", "#@define: m, None\nx()\n", 1, 1, "'None'", "names such as model"),
    ("an assignment", "#@define: a=b\nx()\n", 1, 1, "'a=b'", "names such as model"),
    ("a comma too much", "#@step: loss,\nx()\n", 1, 1, "has ''", "names such as loss"),
    ("three", "#@define: a, b, c\nx()\n", 1, 1, "3 names", "give a model"),
    ("a key twice", "#@step: a.loss, b.loss\nx()\n", 1, 1, "one key twice", "keys of your own"),
    ("a key of a keyword is fine, a name is not", "#@step: x=lambda\nx()\n", 1, 1, "'x=lambda'", "names such as loss"),
    ("behind code", "if a:\n    x()  #@define: m\n", 2, 10, "stands behind code", "a line of its own"),
    ("behind a header", "while a:  #@define: m\n    x()\n", 1, 11, "stands behind code", "a line of its own"),
    ("behind else", "if a:\n    x()\nelse:  #@define: m\n    y()\n", 3, 8, "stands behind code", "a line of its own"),
    ("in brackets", "x = f(\n    #@define: m\n    1)\n", 2, 5, "inside brackets", "before the statement"),
    ("in the brackets of a header", "if (a and\n    #@define: m\n    b):\n    x()\n", 2, 5, "inside brackets", "before the statement"),
    ("under a decorator", "@d\n#@define: m\ndef f():\n    pass\n", 2, 1, "between a decorator", "before the decorators"),
    ("between decorators", "@d\n#@define: m\n@e\nclass A:\n    pass\n", 2, 1, "between a decorator", "before the decorators"),
    ("before else", "if a:\n    x()\n  #@define: m\nelse:\n    y()\n", 3, 3, "before else, which belongs", "like the block that ends here"),
    ("before except", "try:\n    x()\n#@define: m\nexcept A:\n    y()\n", 3, 1, "before except, which belongs", "like the block"),
    ("before a docstring", 'def f():\n    #@define: m\n    """d"""\n', 2, 5, "before a docstring", "after the docstring"),
    ("before the module's docstring", '#@define: m\n"""d"""\n', 1, 1, "before a docstring", "after the docstring"),
    ("before the future", '"""d"""\n#@define: m\nfrom __future__ import annotations\n', 2, 1, "__future__", "after the imports"),
    ("before the encoding", "#@define: m\n# coding: latin-1\nx()\n", 1, 1, "declares the encoding", "after that line"),
    ("at the end, indented anyhow", "if a:\n    x()\n  #@define: m\n", 3, 3, "no statement follows", "before a statement"),
    ("nothing but a mark, indented", "  #@define: m\n", 1, 3, "no statement follows", "before a statement"),
    ("a file that does not parse", "#@define: m\nx = = 1\n", 2, 5, "it does not parse", "mend it"),
    ("an unknown encoding", "# coding: klingon\n#@define: m\nx()\n", 0, 0, "its encoding cannot be read", "UTF-8"),
    ("another __import__", "__import__ = f\n#@define: m\nx()\n", 2, 1, "__import__", "rename"),
    ("a sync of what is not assigned here", "p = 1\ndef f():\n    #@sync: p\n    x(p)\n", 3, 5, "not assigned in this function", "global p"),
    ("a sync of a key", "#@sync: a=b\nx()\n", 1, 1, "'a=b'", "names such as model"),
]


@pytest.mark.parametrize("text, line, column, what, remedy", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(text, line, column, what, remedy):
    found = _marks.rewrite(text.encode())
    assert found is not None and len(found.refusals) == 1, found
    r = found.refusals[0]
    assert (r.line, r.column) == (line, column) and what in r.what and remedy in r.remedy, r
    assert found.data == text.encode() and not found.sites


@pytest.mark.parametrize("mark, call", [
    ("#@define: self.model", '__import__("mlaas").track(self.model)'),
    ("#@step: loss, acc=self.a.accuracy", '__import__("mlaas").mark.step({"loss": loss, "acc": self.a.accuracy})'),
    ("#@step: lambda=x", '__import__("mlaas").mark.step({"lambda": x})'),
    ("#@evaluate: model.loss", '__import__("mlaas").mark.evaluate({"loss": model.loss})'),
    ("#@data: train, test=x_test", '__import__("mlaas").mark.data({"train": train, "test": x_test})'),
    ("#@sync: p", 'p = __import__("mlaas").sync(p)'),
    ("#@sync: p, self.q", 'p = __import__("mlaas").sync(p); self.q = __import__("mlaas").sync(self.q)'),
    ("#@define: größe", '__import__("mlaas").track(größe)'),
])
def test_calls(mark, call):
    got = rewritten(("p = 1\n%s\nx()\n" % mark).encode()).splitlines()[1]
    assert got == "%s  %s" % (call, mark)


@pytest.mark.parametrize("text", [
    "p = 1\n#@sync: p\nx()\n",
    "def f(p):\n    #@sync: p\n    x(p)\n",
    "def f():\n    global p\n    #@sync: p\n    x(p)\n",
    "def f():\n    for p in q:\n        #@sync: p\n        x(p)\n",
    "def f():\n    with q as p:\n        #@sync: p\n        x(p)\n",
    "def f(self):\n    #@sync: self.p\n    x(self.p)\n",
])
def test_sync_where_it_is_assigned(text):
    rewritten(text.encode())


def test_line_ends_and_encodings():
    text = "# größe\r\nif a:\r\n    #@define: m\r\n    x('ü')\r\n"
    for before, encoding in [(text.encode(), "utf-8"), (b"\xef\xbb\xbf" + text.encode(), "utf-8"), (("# coding: latin-1\r\n" + text).encode("latin-1"), "latin-1"),
                             (text.replace("\r\n", "\r").encode(), "utf-8"), (text.replace("\r\n", "\n").encode(), "utf-8")]:
        found = _marks.rewrite(before)
        assert not found.refusals, found.refusals
        mark, call = b"    #@define: m", b'    __import__("mlaas").track(m)  #@define: m'
        assert found.data == before.replace(mark, call)
        same_program(before, found)
    mixed = b"a()\r\n#@define: m\nb()\rc()\r\n"
    assert _marks.rewrite(mixed).data == mixed.replace(b"#@", b'__import__("mlaas").track(m)  #@')


@pytest.mark.skipif(sys.version_info < (3, 12), reason="comments inside f-strings came with Python 3.12")
def test_comment_in_an_f_string():
    r = _marks.rewrite(b'x = f"""{\n    #@define: m\n    a}"""\n').refusals
    assert len(r) == 1 and "inside brackets" in r[0].what


def test_all_refusals_are_said():
    found = _marks.rewrite(b"#@defin: a\nx()\n#@define: 1\ny()  #@step: l\n")
    assert [r.line for r in found.refusals] == [1, 3, 4]


# ---- programs made at random, from a seed that a failure names ----


class Writer:
    """Writes a program with marks, and knows what each becomes."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.out = []
        self.marks = 0
        self.unit = self.r.choice(["    ", "\t", "  ", " "])

    def line(self, depth, text):
        self.out.append(self.unit * depth + text)

    def mark(self, depth, block_end=False):
        if self.r.random() < 0.45:
            return
        names = self.r.choice(["m", "m, s", "self.m, s", "a.b.c"])
        word = self.r.choice(["define: " + names, "step: loss, x=a.b", "evaluate: acc", "data: d"])
        if block_end:
            space = self.unit * depth
        else:  # no block ends before the next statement, so it may stand anyhow
            space = self.r.choice(["", self.unit * depth, "      ", "\t", self.unit * (depth + 2)])
        self.out.append(space + self.r.choice(["#@", "# @"]) + word)
        self.marks += 1

    def noise(self, depth):
        for _ in range(self.r.choice([0, 0, 1, 2])):
            self.out.append(self.r.choice(["", "   ", "# a comment", " # @param x", self.unit * depth + "# é"]))

    def simple(self, depth):
        k = self.r.randrange(11)
        if k == 0:
            self.line(depth, "x = [  # a")
            self.out += ["  1, # b", "]"]
        elif k == 1:
            self.line(depth, 's = """')
            self.out += ["#@define: not, this", '    #@step: nor_this', '"""']
        elif k == 2:
            self.line(depth, "y = 1 + \\")
            self.out.append("  2")
        elif k == 3:
            self.line(depth, "s = '#@define: a'; t = \"#@step\"")
        elif k == 4:
            self.line(depth, "z = f'{x}#@define: a{y!r:>{w}}'")
        elif k == 5:
            self.line(depth, "if a: b(); c()")
        elif k == 6:
            self.line(depth, "s = rb'''\\")
            self.out += ["#@define: no", "''' ; u = {", " 'k': (1,", " 2)}"]
        elif k == 7:
            self.line(depth, "f(lambda: 0, *a, **k)  # behind")
        else:
            self.line(depth, self.r.choice(["pass", "x += 1", "del x", "import os", "assert x, y", "global g%d" % len(self.out)]))

    def block(self, depth, size, doc=False):
        if doc and self.r.random() < 0.4:
            self.line(depth, '"""#@define: in_the_docstring"""')
        for _ in range(size):
            self.mark(depth)
            self.noise(depth)
            self.statement(depth)
        self.mark(depth, block_end=True)

    def statement(self, depth):
        if depth > 4 or self.r.random() < 0.55:
            self.simple(depth)
            return
        n = self.r.randrange(1, 3)
        k = self.r.randrange(8)
        if k == 0:
            self.line(depth, "if a and (b or")
            self.out.append(" c):  # x")
            self.block(depth + 1, n)
            if self.r.random() < 0.5:
                self.line(depth, "elif b:")
                self.block(depth + 1, 1)
            if self.r.random() < 0.5:
                self.line(depth, "else:")
                self.block(depth + 1, 1)
        elif k == 1:
            self.line(depth, "for i in range(9):")
            self.block(depth + 1, n)
            if self.r.random() < 0.3:
                self.line(depth, "else:")
                self.block(depth + 1, 1)
        elif k == 2:
            self.line(depth, "with a as b, c():")
            self.block(depth + 1, n)
        elif k == 3:
            self.line(depth, "try:")
            self.block(depth + 1, n)
            self.line(depth, "except (A,")
            self.out.append("   B) as e:")
            self.block(depth + 1, 1)
            if self.r.random() < 0.5:
                self.line(depth, "finally:")
                self.block(depth + 1, 1)
        elif k == 4:
            if self.r.random() < 0.5:
                self.line(depth, "@d(1,")
                self.out.append(" 2)")
            self.line(depth, self.r.choice(["def f(a, b=1,", "async def f(a, b=1,"]))
            self.out.append("     *c):")
            self.block(depth + 1, n, doc=True)
        elif k == 5:
            self.line(depth, "class A(B):")
            self.block(depth + 1, n, doc=True)
        elif k == 6:
            self.line(depth, "while (x := f()):" if sys.version_info >= (3, 8) else "while f():")
            self.block(depth + 1, n)
        else:
            self.line(depth, "if a:")
            self.block(depth + 1, 1)

    def program(self):
        self.block(0, self.r.randrange(2, 7))
        end = self.r.choice(["\n", "\r\n", "\r"])
        return end.join(self.out + self.r.choice([[], [""]])).encode()


def test_random_programs():
    first, marks, until = random.randrange(1 << 30), 0, time.monotonic() + 10
    for seed in range(first, first + 400):
        w = Writer(seed)
        data = w.program()
        try:
            ast.parse(data)
        except SyntaxError:  # a name is global after its use, or the like
            continue
        found = _marks.rewrite(data)
        if w.marks == 0:
            assert found is None, "seed %d" % seed
            continue
        try:
            assert not found.refusals, found.refusals
            assert len(found.sites) == w.marks
            same_program(data, found)
        except AssertionError as e:
            raise AssertionError("seed %d: %s\n%s" % (seed, e, data.decode())) from e
        marks += w.marks
        if time.monotonic() > until:
            break
    assert marks > 100


def test_random_text():
    """Whatever is written: an answer, never an error, and a program that
    parses has as many lines after as before."""
    first, until = random.randrange(1 << 30), time.monotonic() + 10
    pieces = ["#@define: m", "#@step: a", "# @sync: x", "#@data", "\n", "\n    ", "\n\t", "\r", "\x0c", '"""', "'", '"', "(", ")", "[", "]", "{", "}", "\\\n", "if a:", "else:",
              "def f():", "@d", ":", "x", "= 1", "f'", ";", " ", "lambda", "é", "class A:", "try:", "except:", "\x00", "return", "# coding: latin-1\n"]
    for seed in range(first, first + 4000):
        r = random.Random(seed)
        data = "".join(r.choice(pieces) for _ in range(r.randrange(1, 14))).encode("utf-8")
        try:
            found = _marks.rewrite(data)
            if found is not None and found.sites:
                same_program(data, found)
        except Exception as e:
            raise AssertionError("seed %d: %r: %r" % (seed, data, e)) from e
        if time.monotonic() > until:
            break


# ---- the whole folder ----


def folder(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path)


def test_prepare(tmp_path):
    root = folder(tmp_path, **{"main.py": "import net\n\n\n#@define: m\nnet.train(m)\n", "net.py": "x = 1\n", "lib__deep.py": "def f():\n    #@step: loss\n    g()", "notes.txt": "#@define: m\n"})
    got = _prepare.prepare(root, {"version": 1, "mode": "annotation", "marks": 1, "entry": "main.py"})
    assert got["python"] == "%d.%d.%d" % sys.version_info[:3] and got["refusals"] == []
    assert [f["path"] for f in got["files"]] == ["lib/deep.py", "main.py"]
    assert got["files"][1]["diff"] == (
        "--- a/main.py\n+++ b/main.py\n@@ -1,5 +1,5 @@\n import net\n \n \n-#@define: m\n"
        '+__import__("mlaas").track(m)  #@define: m\n net.train(m)\n')
    assert got["files"][0]["diff"].endswith("     g()\n\\ No newline at end of file\n")
    assert got["files"][0]["marks"] == [{"line": 2, "word": "step", "call": '__import__("mlaas").mark.step({"loss": loss})'}]
    assert (tmp_path / "main.py").read_text().count("track") == 0, "it only reads"


def test_prepare_files(tmp_path):
    root = folder(tmp_path, **{"main.py": "a\nb\nc\nd\ne\nf\n", "model.py": "#@define: m\nx()\n"})
    got = _prepare.prepare(root, {"version": 1, "mode": "guiding", "files": {"main.py": "a\nb\nc\nd\ne\ng\n", "sub/new.py": "x\n"}})
    assert [(f["path"], f["new"]) for f in got["files"]] == [("main.py", False), ("sub/new.py", True)]
    assert got["files"][0]["diff"] == "--- a/main.py\n+++ b/main.py\n@@ -3,4 +3,4 @@\n c\n d\n e\n-f\n+g\n"
    (tmp_path / "same.py").write_text("x\n")
    assert _prepare.prepare(root, {"version": 1, "mode": "guiding", "files": {"same.py": "x\n"}})["files"] == [], "what is there already"
    assert got["files"][1]["diff"] == "--- /dev/null\n+++ b/sub/new.py\n@@ -0,0 +1 @@\n+x\n"


def test_prepare_refuses(tmp_path):
    root = folder(tmp_path, **{"main.py": "#@define: m\nx()\n", "mlaas.py": "", "b.py": "#@define\nx()\n"})
    got = _prepare.prepare(root, {"version": 1, "mode": "annotation", "marks": 1, "entry": "main.py"})
    assert got["files"] == [] and [(r["path"], r["line"]) for r in got["refusals"]] == [("b.py", 1), ("mlaas.py", 0)]
    for recipe in ({"version": 2}, {"version": 1, "marks": 2}):
        with pytest.raises(SystemExit) as e:
            _prepare.prepare(root, recipe)
        assert "upgrade" in str(e.value)


def test_prepared_code_runs(program, tmp_path):
    """The call is there, the traceback names the user's line, and the user's own
    track is left alone."""
    text = ("def track(*a):\n    raise SystemExit('the wrong one')\n\nclass M:\n    pass\n\nloss = 2.5\nfor i in range(3):\n    #@step: loss\n    loss -= 1\n"
            "#@evaluate: acc=loss\n1 / 0\n")
    found = _marks.rewrite(text.encode())
    (tmp_path / "p.py").write_bytes(found.data)
    done = program("import runpy, sys; sys.argv = ['p.py']; runpy.run_path('p.py', run_name='__main__')", {"MLAAS_RUNS": str(tmp_path / "runs")}, check=False)
    assert 'p.py", line 12' in done.stderr and "ZeroDivisionError" in done.stderr
    logged = [json.loads(line) for p in (tmp_path / "runs").glob("*/metrics.jsonl") for line in p.read_text().splitlines()]
    assert [(p["key"], p["step"], p["value"]) for p in logged] == [("loss", 1, 2.5), ("loss", 2, 1.5), ("loss", 3, 0.5), ("eval/acc", 3, -0.5)]
