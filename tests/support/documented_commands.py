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


# files that commands name after --import, and what they hold
PLUGINS = {
    "my_source.py": """
from pathlib import Path
from farfield.dataloader.sources.source_registry import SOURCES, Source

class Mine(Source):
    paths = (Path("mine.txt"),)

    def read(self, path, progress):
        raise NotImplementedError

if "mine" not in SOURCES:
    SOURCES.register("mine")(Mine)
""",
    "my_task.py": """
from farfield.common.task_registry import TASKS
from farfield.train.tasks.energy_forces import EnergyForceTask

class MyTask(EnergyForceTask):
    pass

if "my_task" not in TASKS:
    TASKS.register("my_task")(MyTask)
""",
}


def write_plugins(folder: Path) -> None:
    """Write the files that commands name after ``--import``."""
    for name, text in PLUGINS.items():
        (folder / name).write_text(text)
