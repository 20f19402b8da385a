"""The shape of the house: imports point down, never in a circle; files and functions are short."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# from the ground floor up: a folder imports those before it, never those after it
FLOORS = ["models", "dataloader", "common", "simulate", "train", "preprocess", "benchmarks"]
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the house."""
    files = [path for folder in FLOORS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {_dotted(path): path for path in files}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the house that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            name = name.removeprefix("farfield.")
            if name in known:
                found.add(name)
    return found - {_dotted(path)}


def imported_when_loaded(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports while it is loaded: not in functions, not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types_only(node):
            node.body = [ast.Pass()]

    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("farfield.")
                module = node.module.removeprefix("farfield.")
                found.add(whole if whole in known else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("farfield.") for alias in node.names}
    return found & known.keys() - {_dotted(path)}


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def test_no_import_points_up():
    known = modules()
    up = []
    for name, path in known.items():
        floor = FLOORS.index(name.split(".")[0])
        for other in imported(path, known):
            if FLOORS.index(other.split(".")[0]) > floor:
                up.append(f"{name} -> {other}")
    assert not up


def test_no_imports_in_a_circle():
    known = modules()
    below = {name: imported_when_loaded(path, known) for name, path in known.items()}
    # take away what imports nothing that is left, until all is gone or only circles are left
    while free := [name for name, others in below.items() if not others & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"circles among {sorted(below)}"


def test_files_and_functions_are_short():
    long = []
    for path in [*modules().values(), *sorted((ROOT / "tests").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_LINES:
            long.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines"
                    )
    assert not long


def test_no_two_files_have_one_name():
    """A test may share the name of what it tests, with ``test_`` in front."""
    places: dict[str, list[str]] = {}
    for path in [*modules().values(), *sorted((ROOT / "tests").rglob("*.py"))]:
        if path.name not in ("__init__.py", "conftest.py"):
            places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_only_one_door_leads_to_dgl():
    door, users = ROOT / "models" / "graph_ops.py", []
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        if "dgl" not in text:
            continue

        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "dgl" for name in names):
                users.append(path)
    assert set(users) == {door}
