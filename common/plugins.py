"""Python files of a user that add entries to the registries: sources, networks, tasks.

    python -m preprocess.preprocess_structures --import my_source.py --source mine --out data/mine

A file given with ``--import`` is executed once, before the options are read, so that what it
registers can be chosen by name like everything else. It runs with the rights of the user, like any
script that the user starts.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

FLAG = "--import"
HELP = "Python file that registers sources, networks or tasks of your own (may be repeated)"
_IMPORTED: dict[Path, ModuleType] = {}


def import_file(path: str | Path) -> ModuleType:
    """Execute the Python file ``path`` and return it as a module; a second call does nothing new.

    ``FileNotFoundError`` or ``ValueError`` with one line: no such file, no Python file, or what the
    file raised and in which of its lines.
    """
    path = Path(path).resolve()
    if path.suffix != ".py":
        raise ValueError(f"{FLAG} {path}: must be a Python file (.py), got {path.suffix!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{FLAG} {path}: the file does not exist; give an existing file")

    # one module for one file, whatever the number of calls
    if path in _IMPORTED:
        return _IMPORTED[path]

    name = f"farfield_import_{len(_IMPORTED)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(
            f"{FLAG} {path}: {_what_happened(error, path)}; correct the file"
        ) from None
    _IMPORTED[path] = module
    return module


def import_named_files(arguments: Sequence[str] | None = None) -> list[str]:
    """Execute the files of all ``--import FILE`` in a command line; returns the other arguments.

    arguments: of the command line (None: those of this process).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    rest = []
    while given:
        word = given.pop(0)
        if word == FLAG:
            if not given:
                raise ValueError(f"{FLAG} needs the name of a Python file")
            import_file(given.pop(0))
        elif word.startswith(f"{FLAG}="):
            import_file(word.removeprefix(f"{FLAG}="))
        else:
            rest.append(word)
    return rest


def imported_files() -> list[str]:
    """Paths of the files that were executed in this process, in order."""
    return [str(path) for path in _IMPORTED]


def _what_happened(error: Exception, path: Path) -> str:
    """The error of a file in one line, with the last line of that file that took part."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"line {line}: " if line else ""
    return f"{where}{type(error).__name__}: {' '.join(str(error).split())}"
