"""Small faults that could be written into a Python file, one at a time.

| kind | before -> after |
|---|---|
| compare | ``<`` -> ``<=``, ``==`` -> ``!=``, ``in`` -> ``not in``, ... |
| arithmetic | ``+`` -> ``-``, ``*`` -> ``/``, ``//`` -> ``*``, ``&`` -> ``|``, ... |
| logic | ``and`` -> ``or`` and back, ``not x`` -> ``x``, ``True`` -> ``False`` and back |
| constant | whole numbers up to 16: one more; other values from 0.01 to 16: twice as much |
| extreme | ``min`` -> ``max`` and back |
| loop | ``continue`` -> ``break`` and back |
| drop | a call or an augmented assignment whose value nobody reads -> ``pass`` |

Constants are found wherever they stand: in a formula, as an index, as the default value of an
argument, a field or an option. Left alone is what a user reads and what Python does not compute:
doc strings, annotations, decorators, messages of errors, f-strings, lines for the log, pictures.
Tolerances and sizes of buffers lie outside the range of the constants: twice as much is no fault.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import re
from collections.abc import Iterator

MAX_COUNT = 16  # the largest constant that is changed
MIN_FRACTION = 0.01  # the smallest one besides 0

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}

# calls that only tell something, and functions and files that only draw
TELLS = {"print", "warn", "log", "say", "_say", "info", "debug", "note", "progress"}
TELLS |= {"set_postfix", "set_postfix_str", "set_description"}
DRAWS = re.compile(r"^_?(draw|picture|plot)|(plots|pictures|figures)\.py$")
# branches that run in a checkout alone, as a script, or never
OUTSIDE_TESTS = re.compile(r"__package__|__name__|TYPE_CHECKING")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault in a file: ``line`` of it, its ``kind``, the text ``before`` and ``after``.

    place: first and last byte of the text.
    """

    line: int
    kind: str
    before: str
    after: str
    place: tuple[int, int]

    def applied(self, source: str) -> str:
        """The text of the file with the fault in it."""
        content = source.encode()
        first, last = self.place
        return (content[:first] + self.after.encode() + content[last:]).decode()


def find_mutants(source: str, name: str = "") -> list[Mutant]:
    """Every fault that could be written into a file, in the order of its lines.

    source: the text of the file. name: its name; files of pictures have no faults.
    """
    if DRAWS.search(name):
        return []

    # from a line and a column in bytes to a byte of the file
    content = source.encode()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    mutants = []
    for node, kind, after in _faults(ast.parse(source)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        before = content[first:last].decode()
        mutants.append(Mutant(node.lineno, kind, before, after, (first, last)))
    return sorted(mutants, key=lambda mutant: (mutant.place, mutant.after))


def _faults(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Nodes below ``node`` with a kind of fault and the text that takes their place."""
    yield from _own_faults(node)
    for child in _children(node):
        yield from _faults(child)


def _children(node: ast.AST) -> list[ast.AST]:
    """What may hold faults: neither what is read by people nor what only describes."""
    # what a user reads, and what decides nothing
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return []
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [value for value in node.args.kw_defaults if value is not None]
            return [] if DRAWS.search(node.name) else [*node.args.defaults, *defaults, *node.body]
        case ast.Lambda():
            return [*node.args.defaults, node.body]
        case ast.ClassDef():
            return node.body
        case ast.AnnAssign():
            return [node.value] if node.value is not None else []
        case ast.If() if OUTSIDE_TESTS.search(ast.unparse(node.test)):
            return node.orelse
        case ast.Expr() if _tells(node.value) or isinstance(node.value, ast.Constant):
            return []
    return list(ast.iter_child_nodes(node))


def _tells(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _called(node) in TELLS


def _called(node: ast.Call) -> str:
    """Last word of what is called: ``maximum`` of ``np.maximum(...)``."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _own_faults(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Faults of one node."""
    # a copy is changed: the tree belongs to the other faults too
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[index] = COMPARISONS[type(operator)]()
                yield node, "compare", f"({ast.unparse(changed)})"
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _has_text(node):
            yield node, "arithmetic", _with_operator(node, ARITHMETIC[type(node.op)]())
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, "logic", _with_operator(node, other)
        case ast.UnaryOp(op=ast.Not()):
            yield node, "logic", f"({ast.unparse(node.operand)})"
        case ast.Constant():
            yield from _other_constants(node)
        case ast.Call() if _called(node) in EXTREMES:
            name = _called(node)
            whole = ast.unparse(node.func)
            yield node.func, "extreme", whole.removesuffix(name) + EXTREMES[name]
        case ast.Continue():
            yield node, "loop", "break"
        case ast.Break():
            yield node, "loop", "continue"
        case ast.AugAssign():
            yield node, "drop", "pass"
        case ast.Expr(value=ast.Call()) if not _tells(node.value):
            yield node, "drop", "pass"


def _with_operator(node: ast.BinOp | ast.BoolOp, operator: ast.AST) -> str:
    changed = copy.deepcopy(node)
    changed.op = operator
    return f"({ast.unparse(changed)})"


def _has_text(node: ast.BinOp) -> bool:
    """Whether a sum joins texts, or ``/`` joins parts of a path."""
    for side in (node.left, node.right):
        if isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str):
            return True
    return False


def _other_constants(node: ast.Constant) -> Iterator[tuple[ast.AST, str, str]]:
    value = node.value
    if isinstance(value, bool):
        yield node, "logic", str(not value)
    elif isinstance(value, int) and value <= MAX_COUNT:
        yield node, "constant", str(value + 1)
    elif isinstance(value, float) and (value == 0 or MIN_FRACTION <= value <= MAX_COUNT):
        yield node, "constant", repr(2 * value if value else 1.0)
