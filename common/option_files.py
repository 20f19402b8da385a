"""Options from yaml files: sections (``training: {lr: 0.001}``) or bare names (``lr: 0.001``).

The ``config.yaml`` of any run is such a file. Unknown names, values outside the limits and files of
another task are one-line errors that quote the file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from farfield.common.configuration import DECIDED_BY_DATA, IMPORTED_FILES
from farfield.common.former_values import former_values
from farfield.common.option_values import Option
from farfield.common.plugins import FLAG, imported_files
from farfield.common.yaml_files import read_yaml
from farfield.models.choices import nearest
from farfield.models.published_names import why_absent


@dataclasses.dataclass(frozen=True)
class KnownOptions:
    """What a script knows, as a file may name it.

    task          what the script does
    former_names  name of a task in older files -> its name today
    sections      name of a section -> key -> option
    aliases       published name of an option -> its key
    """

    task: str
    former_names: Mapping[str, str]
    sections: Mapping[str, Mapping[str, Option]]
    aliases: Mapping[str, str]

    def option(self, name: str) -> Option | None:
        """The option called ``name``, by its key or a published name."""
        key = self.aliases.get(name, name)
        return next((options[key] for options in self.sections.values() if key in options), None)

    def section_of(self, name: str) -> str | None:
        """Name of the section that holds the option ``name``."""
        key = self.aliases.get(name, name)
        return next((each for each, options in self.sections.items() if key in options), None)

    def names(self) -> list[str]:
        """Every name that a file may use."""
        keys = [key for options in self.sections.values() for key in options]
        return [*keys, *self.aliases, *self.sections]


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """Options of a file: values by key, the keys that the data of its run decided, and the files
    that were imported for it."""

    values: dict[str, Any]
    decided: frozenset[str]
    imports: tuple[str, ...]


def read_options_file(path: str | Path, known: KnownOptions, resumed: bool = False) -> FileOptions:
    """The options in the yaml file ``path``.

    resumed: the file is the ``config.yaml`` of a run that continues, which is not empty and may be
    of an earlier version. Raises FileNotFoundError or ValueError in one line.
    """
    path = Path(path)
    content = _content(path, resumed)

    # entries that are no options
    decided = _names(path, DECIDED_BY_DATA, content.pop(DECIDED_BY_DATA, []))
    imports = _names(path, IMPORTED_FILES, content.pop(IMPORTED_FILES, []))
    task = content.pop("task", known.task)
    task = known.former_names.get(task, task)
    if task != known.task:
        raise ValueError(
            f"{path} configures the task {task!r}, this script runs {known.task!r}; use the "
            f"script of the task {task}"
        )

    try:
        values = _values(path, known, content)
    except ValueError as error:
        # a name may be unknown because the file that registers it was not imported
        missing = [file for file in imports if file not in imported_files()]
        files = " ".join(f"{FLAG} {file}" for file in missing)
        hint = f"; it was started with {files}" if files else ""
        raise ValueError(f"{error}{hint}") from None
    if resumed:
        values = former_values(known.names(), values) | values
    return FileOptions(values, frozenset(decided), tuple(imports))


def _values(path: Path, known: KnownOptions, content: Mapping) -> dict[str, Any]:
    """Checked values of a file by key."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        for name, setting in _entries(path, known, str(key), value):
            option = known.option(name)
            if option is None:
                raise ValueError(_unknown(path, known, name))
            if option.key in values:
                raise ValueError(f"{path}: {name} is given twice; keep one of the two lines")
            values[option.key] = _checked(path, name, option, setting)
    return values


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which refuses a key that is given twice: yaml drops the first value."""

    def construct_mapping(self, node, deep=False):
        """A mapping whose keys are all different; ``ConstructorError`` otherwise."""
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                place = f"line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(
                    problem=f"{name!r} is given twice ({place}); keep one of them"
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _content(path: Path, resumed: bool) -> dict:
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        hint = (
            "there is no run to resume; start it without --resume"
            if resumed
            else "give an existing yaml file to --config"
        )
        raise FileNotFoundError(f"{path} {problem}: {hint}")

    content = read_yaml(path, _UniqueKeys, unchanged=resumed)
    if resumed and not content:
        raise ValueError(
            f"{path} is damaged (it is empty); bring it back, or start another run with --run-dir"
        )
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold option names with values, got {type(content).__name__}")
    return dict(content)


def _names(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path}: {key} must be a list of names, got {value!r}")
    return value


def _entries(path: Path, known: KnownOptions, key: str, value: Any) -> list[tuple[str, Any]]:
    """(name, value) of one line of a file: one option, or all options of a section."""
    is_group = value is None or isinstance(value, Mapping)
    if key not in known.sections or (known.option(key) is not None and not is_group):
        return [(key, value)]
    if not is_group:
        raise ValueError(
            f"{path}: the section {key} must hold option names with values, got {value!r}"
        )

    entries = [(str(name), setting) for name, setting in (value or {}).items()]
    for name, _ in entries:
        home = known.section_of(name)
        if home not in (None, key):
            raise ValueError(
                f"{path}: {name!r} is not an option of the section {key}; move it to {home}"
            )
    return entries


def _unknown(path: Path, known: KnownOptions, name: str) -> str:
    near = nearest(name, known.names())
    guess = f"did you mean {near!r}?" if near else "--help-all lists all options"
    return f"{path}: unknown option {name!r}; {why_absent(name) or guess}"


def _checked(path: Path, name: str, option: Option, value: Any) -> Any:
    try:
        return option.check(value)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{path}: {name} {error}") from None
