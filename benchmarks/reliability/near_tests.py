"""Which tests stand near a module: those named after it, then those that import it, by distance.

The distance of a test file is the number of imports from it to the module. A module counts as
imported where it is named in an ``import``, or as a dotted name in a text (``python -m NAME``). A
registry, ``Registry(package="NAME")``, imports every file of its package, and so does a text that
ends in a dot, ``f"farfield.train.{name}"``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

DOTTED = re.compile(r"\b[a-z_]\w*(?:\.[a-z_]\w*)+")
PACKAGE = re.compile(r"[a-z_]\w*(?:\.[a-z_]\w*)*\.")
SKIPPED = {"farfield", "site", "runs", "build", "docs"}


class NearTests:
    """Test files of a checkout in the order of their distance to a module.

    root: the checkout. Example: ``NearTests(root).of(Path("train/losses.py"))``.
    """

    def __init__(self, root: Path):
        self.root = root
        files = {
            path.relative_to(root)
            for path in root.rglob("*.py")
            if not path.relative_to(root).parts[0].startswith(".")
            and path.relative_to(root).parts[0] not in SKIPPED
        }
        modules = {dotted(path): path for path in files}

        # module -> the files that import it
        self._users: dict[Path, set[Path]] = {path: set() for path in files}
        for path in files:
            names, packages = named_modules((root / path).read_text(encoding="utf-8"))
            for name in names & modules.keys():
                self._users[modules[name]].add(path)
            for other in files:
                if dotted(other.parent) in packages:
                    self._users[other].add(path)

    def of(self, module: Path, seconds: Mapping[str, float] | None = None) -> list[str]:
        """Test files that reach ``module``, the nearest first.

        module: path in the checkout. At one distance, tests of the same folder come first, and
        among them the cheapest. seconds: what files of tests took before; the size of the file
        stands in for it.
        """
        distances = {module: 0}
        queue = [module]
        for path in queue:
            for user in sorted(self._users[path] - distances.keys()):
                distances[user] = distances[path] + 1
                queue.append(user)

        # test_losses.py and test_losses_on_crystals.py are about losses.py, wherever they stand;
        # test_qm9.py may be about qm9_text.py
        named = re.compile(rf"test_{module.stem}(_.*)?\.py")
        alike = re.compile(rf"test_{module.stem.split('_')[0]}s?(_.*)?\.py")

        def key(path: Path):
            """Order of a test file."""
            guess = (self.root / path).stat().st_size / 1000
            cost = (seconds or {}).get(str(path), guess)
            elsewhere = path.parts[1] != module.parts[0]
            is_named, is_alike = named.fullmatch(path.name), alike.fullmatch(path.name)
            order = (not is_named, elsewhere or not is_alike, distances.get(path, 0), elsewhere)
            return (*order, cost, str(path))

        tests = [path for path in self._users if path.name.startswith("test_")]
        near = [path for path in tests if path in distances or named.fullmatch(path.name)]
        return [str(path) for path in sorted(near, key=key)]


def dotted(path: Path) -> str:
    """``train.losses`` of ``train/losses.py``."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def named_modules(source: str) -> tuple[set[str], set[str]]:
    """Modules that a file imports or names, and packages of its registries; no ``farfield.``."""
    names, packages = set(), set()

    # imports, and words that look like the name of a module
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(DOTTED.findall(node.value))
            if PACKAGE.fullmatch(node.value):
                packages.add(node.value.removesuffix("."))
        elif isinstance(node, ast.keyword) and node.arg == "package":
            packages.add(getattr(node.value, "value", ""))
    return _in_house(names), _in_house(packages)


def _in_house(names: set[str]) -> set[str]:
    return {str(name).removeprefix("farfield.") for name in names}
