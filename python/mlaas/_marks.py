"""Marks in comments become calls, without a line moving.

``#@define: model, session`` on a line of its own becomes a call of
``mlaas.track(model, session)`` on that line. Nothing of the program is run
here: it is parsed (ast) to know where statements begin and end, and the few
lines around a mark are read token by token (tokenize) to know a comment from a
string. docs/reference/code-modes.md says what the marks mean.

A mark takes the indentation of the next statement, however it is indented
itself. At the end of a block, where the next statement is outside, a mark that
is indented exactly like the block stays inside.
"""
from __future__ import annotations

import ast
import bisect
import difflib
import io
import keyword
import re
import tokenize
import warnings
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

VERSION = 1
WORDS = ("define", "step", "evaluate", "data", "sync")

FORMS = {
    "define": "#@define: model, session",
    "step": "#@step: loss, accuracy=acc",
    "evaluate": "#@evaluate: accuracy",
    "data": "#@data: train=dataset",
    "sync": "#@sync: params",
}

MAY = re.compile(rb"#[ \t]*@[ \t]*[A-Za-z_]")  # a file without this has no mark
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_SPACE = re.compile(r"[ \t\f]*")
_MARK = re.compile(r"#[ \t]*@[ \t]*([A-Za-z_]\w*)(.*)", re.S)
_MAYBE = re.compile(r"#[ \t]*@[ \t]*[A-Za-z_]")
_PART = re.compile(r"[^\W\d]\w*")


class Site(NamedTuple):
    """A mark that became a call."""

    line: int  # from 1
    word: str
    call: str


class Refusal(NamedTuple):
    """Why a mark cannot become a call."""

    line: int  # from 1; 0: the whole file
    column: int  # from 1, in characters
    what: str
    remedy: str


class Marked(NamedTuple):
    """A file whose marks are calls."""

    data: bytes  # what it says now, in its own encoding and with its own line ends
    before: List[str]  # its lines as text, with their ends
    after: List[str]
    sites: List[Site]
    refusals: List[Refusal]


def rewrite(data: bytes, path: str = "main.py") -> Optional[Marked]:
    """Make calls of the marks in a Python file.

    Args:
        data: the file, in whatever encoding it declares (PEP 263).
        path: how it is called in errors of the parser.
    Returns: None where there is no mark. With refusals, data is as it was.
    """
    if not MAY.search(data):
        return None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as e:
        return _refused(data, 0, 0, "its encoding cannot be read (%s)" % e, "save it as UTF-8")
    rows = lines(text)
    maybe = [i for i, row in enumerate(rows, 1) if "@" in row and _MAYBE.search(row)]
    words = set()
    for i in maybe:
        for m in _MAYBE.finditer(rows[i - 1]):
            words.add(_known(_MARK.match(rows[i - 1], m.start()).group(1)))  # type: ignore[union-attr]
    if words <= {""}:
        return None
    if text.encode(encoding, "replace") != data:
        return _refused(data, 0, 0, "its encoding, %s, does not give the same bytes back" % encoding, "save it as UTF-8")
    try:
        tree = _parse(data, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = min(getattr(e, "lineno", 0) or 0, len(rows))
        return _refused(data, line, max(getattr(e, "offset", 0) or 0, 1) if line else 0, "it does not parse (%s)" % _message(e),
                        "mend it: marks are read only in a program that Python can read")
    return _Rewriter(data, path, encoding, rows, tree).run(maybe)


def lines(text: str) -> List[str]:
    """The lines of a program as Python counts them, with their ends."""
    return _LINE.findall(text)


def _refused(data: bytes, line: int, column: int, what: str, remedy: str) -> Marked:
    return Marked(data, [], [], [], [Refusal(line, column, what, remedy)])


def _message(e: BaseException) -> str:
    return str(getattr(e, "msg", None) or e or type(e).__name__)


def _parse(data: Union[bytes, str], path: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the user's escapes: Python says them when it runs
        return compile(data, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)  # type: ignore[return-value]


def _known(word: str) -> str:
    """The mark that word is or must mean; "" for a comment of other tools."""
    if word in WORDS:
        return word
    near = difflib.get_close_matches(word.lower(), WORDS, 1, 0.8)
    return near[0] if near else ""


class _Block:
    """A list of statements that stand one below the other."""

    __slots__ = ("indent", "parent", "owner")

    def __init__(self, indent: Optional[str], parent: Optional["_Block"], owner: ast.AST):
        self.indent = indent  # None: on the line of its header
        self.parent, self.owner = parent, owner


class _Statement:
    __slots__ = ("start", "end", "node", "block", "compound", "indent", "first")

    def __init__(self, start: int, end: int, node: Any, block: _Block, compound: bool, indent: Optional[str], first: bool):
        self.start, self.end, self.node, self.block, self.compound = start, end, node, block, compound
        self.indent = indent  # None: something stands before it on its line
        self.first = first  # in its block


class _Misplaced(Exception):
    pass


class _Rewriter:
    def __init__(self, data: bytes, path: str, encoding: str, lines: List[str], tree: ast.Module):
        self.data, self.path, self.encoding, self.lines, self.tree = data, path, encoding, lines, tree
        self.statements = list(_statements(tree, lines))
        self.starts = [s.start for s in self.statements]
        self.at: Dict[int, _Statement] = {}
        for s in self.statements:
            self.at.setdefault(s.start, s)
        self.placed: Dict[int, _Statement] = {}
        self.shadowed: Optional[bool] = None  # whether the program gives __import__ another meaning; None: nobody asked yet
        self.sites: List[Site] = []
        self.refusals: List[Refusal] = []

    def run(self, maybe: List[int]) -> Optional[Marked]:
        after = list(self.lines)
        for line in reversed(maybe):  # a mark may be the statement that follows another
            text = self.lines[line - 1]
            space = _SPACE.match(text).group()  # type: ignore[union-attr]
            own = _MARK.match(text, len(space))
            column = len(space) if own else self._behind(line)
            if column is None:
                continue
            m = own or _MARK.match(text, column)
            word = _known(m.group(1)) if m else ""
            if not word or m is None:
                continue
            if own and not self._comment(line, column):
                continue
            try:
                if not own:
                    raise _Misplaced("#@%s stands behind code" % m.group(1), "put it on a line of its own")
                call = self._call(word, m.group(1), m.group(2).rstrip("\r\n"), line)
                indent, block = self._place(line, space)
            except _Misplaced as e:
                self.refusals.append(Refusal(line, column + 1, e.args[0], e.args[1]))
                continue
            comment = text[column:].rstrip("\r\n")
            after[line - 1] = "%s%s  %s%s" % (indent, call, comment, text[column + len(comment):])
            self.sites.append(Site(line, word, call))
            self.placed[line] = _Statement(line, line, None, block, False, indent, False)
        self.sites.reverse()
        self.refusals.reverse()
        if not self.sites and not self.refusals:
            return None
        if not self.refusals:
            self._check(after)
        if self.refusals:
            return Marked(self.data, self.lines, self.lines, [], self.refusals)
        return Marked("".join(after).encode(self.encoding), self.lines, after, self.sites, [])

    def _last(self, line: int) -> Optional[_Statement]:
        """The last statement that begins on or before line."""
        i = bisect.bisect_right(self.starts, line) - 1
        return self.statements[i] if i >= 0 else None

    # ---- comments and strings ----

    def _comment(self, line: int, column: int) -> bool:
        """Whether a line that looks like a comment is one. Raises nothing: one
        in brackets is refused here."""
        first = self._from(line)
        if all(_blank(t) for t in self.lines[first - 1:line - 1]):
            return True
        for row, col, depth in self._comments(first, line):
            if row == line:
                if depth == 0:
                    return True
                self.refusals.append(Refusal(line, column + 1, "a mark stands inside brackets", "put it before the statement or after it"))
                return False
        return False  # in a string

    def _behind(self, line: int) -> Optional[int]:
        """Where the comment behind the code of a line begins, if there is one."""
        for row, col, _ in self._comments(self._from(line), line):
            if row == line:
                return col
        return None

    def _from(self, line: int) -> int:
        """The first line that must be read to know what line is: a place where
        neither a string nor a bracket is open."""
        i = bisect.bisect_right(self.starts, line) - 1
        if i < 0:
            return 1
        s = self.statements[i]
        first = s.end + 1 if s.end < line and not s.compound else s.start
        if first > s.end:
            # What is behind code may stand on the last line of a statement.
            return first
        while i > 0:  # a line on which one statement ends and the next begins
            i -= 1
            before = self.statements[i]
            if before.compound or before.end < first:
                break
            first = min(first, before.start)
        return first

    def _comments(self, first: int, line: int) -> Iterator[Tuple[int, int, int]]:
        """The comments of some lines: row, column, and how many brackets are
        open there."""
        last = line
        s = self._last(line)
        if s is not None and not s.compound:
            last = max(line, s.end)
        depth = 0
        normal = [re.sub(r"\r\n?|\n", "\n", t) for t in self.lines[first - 1:last]]
        readline = iter(normal + [""]).__next__
        try:
            for t in tokenize.generate_tokens(readline):
                if t.type == tokenize.COMMENT:
                    yield first - 1 + t.start[0], t.start[1], depth
                elif t.type == tokenize.OP and t.string in ("(", "[", "{"):
                    depth += 1
                elif t.type == tokenize.OP and t.string in (")", "]", "}"):
                    depth -= 1
        except (tokenize.TokenError, SyntaxError, StopIteration):
            return  # the lines end in the middle of something

    # ---- where a call may stand ----

    def _place(self, line: int, space: str) -> Tuple[str, _Block]:
        """The indentation of a call at line, and the block that it is in."""
        inside = self._last(line)
        if inside is not None and inside.start < line <= getattr(inside.node, "lineno", 0) - 1 and inside.end >= line:
            raise _Misplaced("a mark stands between a decorator and what it decorates", "put it before the decorators")
        nxt = self._next(line)
        s = self.placed.get(nxt) or self.at.get(nxt)
        if s is not None and (s.indent is None or _is_elif(s.node, self.lines)):
            s = None
        # Blocks that end between the mark and the next statement.
        block = inside.block if inside is not None else None
        if inside is not None and not all(_blank(t) for t in self.lines[inside.end:line - 1]):
            block = None  # an else or its like stands between: they have ended before
        outside = self._outside(s, block, nxt)
        while block is not None and block not in outside:
            if block.indent is not None and block.indent == space:
                return space, block
            block = block.parent
        if s is None:
            if not nxt:
                raise _Misplaced("no statement follows the mark", "put it before a statement, or indent it like the block that it ends")
            word = _PART.search(self.lines[nxt - 1])
            raise _Misplaced("a mark stands before %s, which belongs to the statement before it" % (word.group() if word else "this"),
                             "indent it like the block that ends here, or put it before the whole statement")
        if s.first and isinstance(s.node, ast.Expr) and _is_text(s.node.value) and isinstance(s.block.owner, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            raise _Misplaced("a mark stands before a docstring, which must stay first", "put it after the docstring")
        if isinstance(s.node, ast.ImportFrom) and s.node.module == "__future__":
            raise _Misplaced("a mark stands before from __future__, which must stay first", "put it after the imports")
        return s.indent, s.block  # type: ignore[return-value]

    def _outside(self, s: Optional[_Statement], block: Optional[_Block], nxt: int) -> List[_Block]:
        """The blocks that go on at the next line: those of its statement s, or
        where that is an else or its like, those around the whole statement."""
        b = s.block if s is not None else None
        if s is None and nxt:
            width = len(_SPACE.match(self.lines[nxt - 1]).group())  # type: ignore[union-attr]
            b = block
            while b is not None and (b.indent is None or len(b.indent) > width):
                b = b.parent
        found = []
        while b is not None:
            found.append(b)
            b = b.parent
        return found

    def _next(self, line: int) -> int:
        """The next line with code; 0: there is none."""
        for i in range(line, len(self.lines)):
            if i + 1 in self.placed or not _blank(self.lines[i]):
                return i + 1
        return 0

    # ---- what is called ----

    def _call(self, word: str, written: str, rest: str, line: int) -> str:
        form = FORMS[word]
        if written != word:
            raise _Misplaced("there is no mark #@%s" % written, "write #@%s, as in %s" % (word, form))
        head, colon, args = rest.partition(":")
        if head.strip() or not colon:
            raise _Misplaced("#@%s has no colon behind its name" % word, "write it as in %s" % form)
        items = [a.strip() for a in args.split(",")]
        if items == [""]:
            raise _Misplaced("#@%s names nothing" % word, "write it as in %s" % form)
        named = word in ("step", "evaluate", "data")
        pairs = []
        for item in items:
            key, eq, name = item.partition("=")
            key, name = key.strip(), name.strip()
            if not eq:
                key, name = item.rpartition(".")[2], item
            parts = name.split(".")
            good = all(_PART.fullmatch(p) and not keyword.iskeyword(p) for p in parts) and _PART.fullmatch(key)
            if not good or (eq and not named):
                want = "names such as loss, self.loss or key=name" if named else "names such as model or self.model"
                raise _Misplaced("#@%s has %r" % (word, item), "give %s, as in %s" % (want, form))
            pairs.append((key, name))
        keys = [k for k, _ in pairs]
        if named and len(set(keys)) < len(keys):
            raise _Misplaced("#@%s has one key twice" % word, "give keys of your own, as in #@%s: a=x.loss, b=y.loss" % word)
        if word == "define" and len(pairs) > 2:
            raise _Misplaced("#@define has %d names" % len(pairs), "give a model, and a session where there is one: %s" % form)
        if self.shadowed is None:
            self.shadowed = self._shadowed()
        if self.shadowed:
            raise _Misplaced("this program gives __import__ another meaning", "rename its own __import__")
        ours = '__import__("mlaas")'
        if word == "define":
            return "%s.track(%s)" % (ours, ", ".join(n for _, n in pairs))
        if word == "sync":
            for _, name in pairs:
                self._assignable(name, line)
            return "; ".join("%s = %s.sync(%s)" % (n, ours, n) for _, n in pairs)
        return "%s.mark.%s({%s})" % (ours, word, ", ".join('"%s": %s' % p for p in pairs))

    def _shadowed(self) -> bool:
        if b"__import__" not in self.data:
            return False
        return any(
            isinstance(n, ast.Name) and n.id == "__import__" and not isinstance(n.ctx, ast.Load)
            or isinstance(n, ast.arg) and n.arg == "__import__"
            or isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and n.name == "__import__"
            or isinstance(n, ast.alias) and (n.asname or n.name) == "__import__"
            for n in ast.walk(self.tree)
        )

    def _assignable(self, name: str, line: int) -> None:
        """A sync assigns: in a function that only reads the name, that would
        make another variable of it."""
        if "." in name:
            return
        scope: ast.AST = self.tree
        for s in self.statements:
            if s.start > line:
                break
            if s.end >= line and isinstance(s.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and s.node.lineno < line:
                scope = s.node
        if name not in _bound(scope):
            raise _Misplaced("#@sync assigns %s, which is not assigned in this function" % name,
                             "put it where %s is assigned, or say   global %s   (nonlocal) in the function" % (name, name))

    # ---- that all is well ----

    def _check(self, after: List[str]) -> None:
        """That what came out parses, with one statement more for each call."""
        data = "".join(after).encode(self.encoding)
        if tokenize.detect_encoding(io.BytesIO(data).readline)[0] != self.encoding:
            self._blame(1, "a mark stands before the line that declares the encoding", "put it after that line")
            return
        try:
            tree = _parse(data, self.path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            self._blame(getattr(e, "lineno", 0) or 0, "no statement can stand here (%s)" % _message(e), "put the mark before a whole statement")
            return
        made = sum(s.call.count("; ") + 1 for s in self.sites)
        got = list(_statements(tree, after))
        if len(got) != len(self.statements) + made:
            self._blame(0, "a call here would change the program", "put the mark before a whole statement")

    def _blame(self, line: int, what: str, remedy: str) -> None:
        before = [s for s in self.sites if s.line <= line] or self.sites
        site = before[-1] if before[-1].line <= line else before[0]
        text = self.lines[site.line - 1]
        self.refusals.append(Refusal(site.line, len(_SPACE.match(text).group()) + 1, what, remedy))  # type: ignore[union-attr]


def _blank(line: str) -> bool:
    text = line.strip(" \t\f\r\n")
    return not text or text[0] == "#"


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_elif(node: Any, lines: List[str]) -> bool:
    return isinstance(node, ast.If) and lines[node.lineno - 1].lstrip(" \t\f").startswith("elif")


def _statements(tree: ast.Module, lines: List[str]) -> Iterator[_Statement]:
    """All statements, in the order in which they begin."""
    todo: List[Tuple[Any, _Block, bool]] = []

    def push(body: List[Any], parent: Optional[_Block], owner: Any) -> None:
        if not body:
            return
        first = body[0]
        if len(body) == 1 and isinstance(owner, ast.If) and body is owner.orelse and _is_elif(first, lines):
            todo.append((first, parent, False))  # type: ignore[arg-type]
            return
        block = _Block(_indent(first, lines), parent, owner)
        for i in range(len(body) - 1, -1, -1):
            todo.append((body[i], block, i == 0))

    push(tree.body, None, tree)
    while todo:
        node, block, is_first = todo.pop()
        bodies = [getattr(node, "body", None), *[h.body for h in getattr(node, "handlers", ())],
                  getattr(node, "orelse", None), getattr(node, "finalbody", None), *[c.body for c in getattr(node, "cases", ())]]
        some = [b for b in bodies if isinstance(b, list) and b]
        yield _Statement(_start(node), node.end_lineno, node, block, bool(some), _indent(node, lines), is_first)
        for body in reversed(some):
            push(body, block, node)


def _start(node: Any) -> int:
    decorators = getattr(node, "decorator_list", None)
    return min(node.lineno, decorators[0].lineno) if decorators else node.lineno


def _indent(node: Any, lines: List[str]) -> Optional[str]:
    line = lines[_start(node) - 1]
    space = _SPACE.match(line).group()  # type: ignore[union-attr]
    if getattr(node, "decorator_list", None):
        return space if line[len(space):].startswith("@") else None
    return space if len(space) == node.col_offset else None


def _bound(scope: ast.AST) -> set:
    """The names that a scope assigns, or declares as another's."""
    names = set()
    args = getattr(scope, "args", None)
    if args is not None:
        for a in ast.walk(args):
            if isinstance(a, ast.arg):
                names.add(a.arg)
    todo: List[Any] = list(getattr(scope, "body", []))
    while todo:
        n = todo.pop()
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store):
            names.add(n.id)
        elif isinstance(n, (ast.Global, ast.Nonlocal)):
            names.update(n.names)
        elif isinstance(n, ast.alias):
            names.add((n.asname or n.name).split(".")[0])
        elif isinstance(n, ast.ExceptHandler) and n.name:
            names.add(n.name)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(n.name)
            continue
        if isinstance(n, ast.Lambda):
            continue
        todo.extend(ast.iter_child_nodes(n))
    return names
