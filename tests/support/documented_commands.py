"""The commands that the doc strings of scripts show."""

import shlex
from pathlib import Path
from types import ModuleType

from tests.support.processes import ROOT


def scripts_in(folder: str) -> list[str]:
    """``folder.name`` of every script for people in a folder of the project."""
    files = sorted((ROOT / folder).glob("*.py"))
    return [f"{folder}.{file.stem}" for file in files if "__main__" in file.read_text()]


def commands_of(module: ModuleType) -> list[list[str]]:
    """Arguments of every command of the script itself in the doc string of ``module``.

    A command starts with ``python -m folder.name`` or ``python folder/name.py``, goes on over lines
    that end with a backslash, and ends before a comment.
    """
    name = module.__name__.removeprefix("farfield.")
    starts = (f"python -m {name}", f"python {name.replace('.', '/')}.py")
    commands = []
    for line in module.__doc__.replace("\\\n", " ").splitlines():
        if not line.strip().startswith("python "):
            continue
        words = shlex.split(line.strip(), comments=True)
        for start in starts:
            size = len(start.split())
            if words[:size] == start.split():
                commands.append(words[size:])
    return commands


def write_plugin(folder: Path, name: str = "my_source.py", source: str = "mine") -> None:
    """A file as the commands name it after ``--import``."""
    (folder / name).write_text(
        "from pathlib import Path\n"
        "from farfield.dataloader.sources.source_registry import SOURCES, Source\n"
        "class Mine(Source):\n"
        "    paths = (Path('mine.txt'),)\n"
        "    def read(self, path, progress):\n"
        "        raise NotImplementedError\n"
        f"if {source!r} not in SOURCES:\n"
        f"    SOURCES.register({source!r})(Mine)\n"
    )
