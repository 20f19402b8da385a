"""The command line of a script: sections of options, ``--config file.yaml``, and one configuration
that is saved with the run.

Every option belongs to a section (``run``, ``data``, ``model``, ``loss``, ``training``) and is
found again as ``config.<section>.<key>``. A value is taken from the first of these places that
names it:

    explicit argument  >  --config file.yaml (or the run that --resume continues)  >  the data  >
                       preset (e.g. of a protocol)  >  default

Errors of the user are ``ValueError`` or ``OSError`` with a one-line message: `run_script` prints it
and leaves with exit code 2. Scripts import all they need from here; nothing slow is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from easydict import EasyDict

from farfield.common import plugins
from farfield.common.argument_parser import OneLineParser
from farfield.common.configuration import (
    DECIDED_BY_DATA,
    IF_UNNAMED,
    IMPORTED_FILES,
    NOTES,
    plain,
    saved_config,
)
from farfield.common.device import find_device
from farfield.common.option_files import FileOptions, KnownOptions, read_options_file
from farfield.common.option_values import Limits, Option
from farfield.common.script import run_script
from farfield.models.choices import nearest
from farfield.models.option_fields import Alias, option_fields

__all__ = [
    "OptionParser",
    "Section",
    "add_config_option",
    "find_device",
    "plain",
    "run_script",
    "saved_config",
]

UNSET = object()
Reader = Callable[[dict], dict]  # flat values -> {key: value} for options that nobody named


class Conversion(NamedTuple):
    """A published name whose value changes another option: ``lmax`` changes ``irreps``.

    option: reads the published name. target: key of the option that changes. convert: (value, value
    of the target so far) -> value of the target. note: value -> what the user should know of it.
    """

    option: Option
    target: str
    convert: Callable[[Any, Any], Any]
    note: Callable[[Any], str]


class Section:
    """A group of options; :meth:`add` declares one, :meth:`add_fields` those of a dataclass."""

    def __init__(self, name: str, group, parser: OptionParser):
        self.name = name
        self.options: dict[str, Option] = {}
        self.aliases: dict[str, str] = {}
        self.conversions: dict[str, Conversion] = {}
        self._group = group
        self._parser = parser

    def add(
        self,
        flag: str,
        kind: type = str,
        default: Any = None,
        *,
        key: str | None = None,
        choices: Sequence[str] | None = None,
        optional: bool = False,
        decided: str | None = None,
        help: str = "",
        main: bool = False,
        aliases: Sequence[str] = (),
        **limits: float | None,
    ) -> None:
        """Declare the option ``flag``.

        kind      int, float, str or bool (a ``--flag / --no-flag`` pair)
        key       name in the configuration (default: the flag with underscores)
        choices   allowed names
        optional  the word ``none`` stands for None, as it always does where the default is None
        decided   what sets the default, if not this call ("the data")
        help      noun, unit, effect
        main      ``--help`` shows the option (once any option is marked; else it shows all)
        aliases   published names that are accepted too, and not shown
        limits    low, above, high, below, as in :class:`Limits`
        """
        key = key or _key(flag)
        origin = None if decided is None else f"set by {decided}"
        default, origin = self._of_script(key, default, origin)
        option = Option(
            flag=flag,
            key=key,
            kind=kind,
            default=default,
            limits=Limits(**limits),
            choices=tuple(choices) if choices else None,
            optional=optional or (default is None and decided is None),
            origin=origin,
            text=help,
        )
        self._declare(option, main, aliases)

    def add_fields(
        self,
        options_class: type,
        skip: Sequence[str] = (),
        decided: Mapping[str, str] | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        preset: str | None = None,
    ) -> None:
        """One option for every field of the dataclass ``options_class``, which checks the values.

        Fields, groups and published names: see ``models.option_fields``.

        skip     fields that are no options
        decided  field -> what sets its value where nobody names it ("the data")
        presets  name of a preset -> values of fields that it sets
        preset   the preset that is taken where nobody names one; its values are shown as defaults
        """
        usual = (presets or {}).get(preset, {})
        for name, field in option_fields(options_class).items():
            if name in skip:
                continue
            if name in (decided or {}):
                origin = f"set by {decided[name]}"
            elif name in usual:
                origin = f"{usual[name]}, set by --preset {preset}"
            else:
                origin = None
            default, origin = self._of_script(name, field.default, origin)
            option = Option(
                flag=_flag(name),
                key=name,
                kind=field.kind,
                default=default,
                limits=Limits(),
                choices=field.choices,
                optional=field.optional,
                origin=origin,
                text=field.help,
            )
            same = [alias.name for alias in field.aliases if alias.convert is None]
            self._declare(option, main=field.main, aliases=same)
            for alias in field.aliases:
                if alias.convert is not None:
                    self._declare_conversion(alias, option)

    def _of_script(self, key: str, default: Any, origin: str | None) -> tuple[Any, str | None]:
        """Default and origin of an option, of which the script may know a better default."""
        defaults = self._parser.option_defaults
        if key not in defaults:
            return default, origin
        return defaults[key], (origin if defaults[key] is None else None)

    def _declare(self, option: Option, main: bool, aliases: Sequence[str]) -> None:
        """Add ``option`` to the parser, and its published names where no help shows them."""
        action = self._add_argument(option.flag, option, option.help())
        if main:
            self._parser.main_actions.add(action)
        for name in aliases:
            self._add_argument(_flag(name), option, argparse.SUPPRESS)
            self.aliases[name] = option.key
        self.options[option.key] = option

    def _declare_conversion(self, alias: Alias, target: Option) -> None:
        """Accept a published name whose value changes the option ``target``."""
        option = dataclasses.replace(
            target,
            flag=_flag(alias.name),
            key=alias.name,
            kind=alias.kind or target.kind,
            default=None,
            choices=None,
            origin=None,
        )
        self._add_argument(option.flag, option, argparse.SUPPRESS)
        self.conversions[alias.name] = Conversion(option, target.key, alias.convert, alias.note)

    def _add_argument(self, flag: str, option: Option, text: str) -> argparse.Action:
        if option.kind is bool:
            action = self._group.add_argument(
                flag, dest=option.key, action=argparse.BooleanOptionalAction
            )
        else:
            action = self._group.add_argument(
                flag, dest=option.key, type=option.read, metavar=option.metavar()
            )

        # set afterwards: argparse would append a default of its own to the help of a pair
        action.help = text if text is argparse.SUPPRESS else text.replace("%", "%%")
        action.default = option.default
        return action


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


class OptionParser(OneLineParser):
    """A parser whose options live in sections.

    task          what is configured; stored with a run, and a yaml file of another task is refused
    description   text above the options in the help
    defaults      option -> default, where the script knows a better one than its declaration;
                  :meth:`parse_config` raises ValueError for a name that is no option
    former_names  name of a task in older files -> its name today
    """

    def __init__(
        self,
        task: str,
        description: str,
        defaults: Mapping[str, Any] | None = None,
        former_names: Mapping[str, str] | None = None,
    ):
        super().__init__(description)
        self.task = task
        self.option_defaults = dict(defaults or {})
        self.former_names = dict(former_names or {})
        self.sections: dict[str, Section] = {}

    def section(self, name: str, title: str) -> Section:
        """Make (or find) the section ``name``."""
        if name not in self.sections:
            group = self.add_argument_group(f"{name}: {title}")
            self.sections[name] = Section(name, group, self)
        return self.sections[name]

    def known_options(self) -> KnownOptions:
        """All options by section, as a yaml file may name them."""
        sections = {
            name: section.options | {key: one.option for key, one in section.conversions.items()}
            for name, section in self.sections.items()
        }
        aliases = {
            alias: key
            for section in self.sections.values()
            for alias, key in section.aliases.items()
        }
        return KnownOptions(self.task, self.former_names, sections, aliases)

    def parse_config(
        self, argv=None, presets: Reader | None = None, measured: Reader | None = None
    ) -> EasyDict:
        """Read the command line into ``config.<section>.<key>``.

        presets   flat values -> better defaults for options that nobody named
        measured  flat values -> what the data say of such options, before the presets

        Names of options that the data decided are in ``config.measured`` and are stored with a run:
        ``--config`` leaves them out, so they are measured again. ``config.if_unnamed`` has the
        value of every option where nobody names it, and ``config.notes`` what the user should
        know of published options; neither is stored. ``config.imports`` lists the files of
        ``--import``, for the record: no file is executed because a configuration names it.
        """
        defaults = {
            key: option.default
            for section in self.sections.values()
            for key, option in section.options.items()
        }
        self._check_option_defaults(defaults)
        given = self._given(argv, defaults)
        template, resumed = self._files(given, defaults)

        # a template brings no values that the data of another run decided
        from_template = {
            key: value for key, value in template.values.items() if key not in template.decided
        }
        chosen, changes = self._chosen([resumed.values, from_template, given])

        found = measured(defaults | chosen) if measured else {}
        preset = presets(defaults | chosen) if presets else {}
        unnamed = defaults | preset | found
        values = unnamed | chosen
        notes = []
        for key, value in changes.items():
            conversion = self._conversions()[key]
            values[conversion.target] = conversion.convert(value, values[conversion.target])
            notes += filter(None, [conversion.note(value)])

        config: dict[str, Any] = {"task": self.task, IF_UNNAMED: unnamed, NOTES: notes}
        decided = (set(found) - set(chosen)) | (resumed.decided - set(given))
        if decided:
            config[DECIDED_BY_DATA] = sorted(decided)
        if imports := plugins.imported_files() or list(resumed.imports):
            config[IMPORTED_FILES] = imports
        for name, section in self.sections.items():
            config[name] = {key: values[key] for key in section.options}
        return EasyDict(config)

    def _check_option_defaults(self, known: Mapping[str, Any]) -> None:
        """Raise ValueError for a default of the script that belongs to no option."""
        for name in self.option_defaults:
            if name not in known:
                near = nearest(name, known)
                guess = f"did you mean {near!r}?" if near else "take it out, or declare the option"
                raise ValueError(
                    f"the task {self.task!r} has a default for {name!r}, which is no option; "
                    f"{guess}"
                )

    def _conversions(self) -> dict[str, Conversion]:
        return {
            key: conversion
            for section in self.sections.values()
            for key, conversion in section.conversions.items()
        }

    def _chosen(self, sources: Sequence[Mapping]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values of options, and of published names that change one; the last source wins."""
        chosen: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        for source in sources:
            for key, conversion in self._conversions().items():
                if conversion.target in source:
                    changes.pop(key, None)
                if key in source:
                    changes[key] = source[key]
            chosen |= {key: value for key, value in source.items() if key not in changes}
        return chosen, changes

    def _given(self, argv, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Values that the command line names, ``config`` among them."""
        names = [*defaults, *self._conversions()]
        unset = argparse.Namespace(config=None, **dict.fromkeys(names, UNSET))
        found = vars(self.parse_args(plugins.import_named_files(argv), unset))
        return {key: value for key, value in found.items() if value is not UNSET}

    def _files(self, given: dict, defaults: Mapping[str, Any]) -> tuple[FileOptions, FileOptions]:
        """Options of ``--config`` (taken out of ``given``), and of the run that is resumed."""
        known, nothing = self.known_options(), FileOptions({}, frozenset(), ())
        template = resumed = nothing
        if given.get("resume"):
            folder = Path(given.get("run_dir", defaults.get("run_dir")))
            resumed = read_options_file(folder / "config.yaml", known, resumed=True)
        if (source := given.pop("config")) is not None:
            template = read_options_file(source, known)
        return template, resumed


def add_config_option(parser: OptionParser) -> None:
    """``--config`` and ``--import``, which are not themselves part of a configuration."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="yaml file with options; explicit arguments have priority over the file",
    )
    # parse_config takes the option out of the arguments: here it is for the help alone
    parser.add_argument(plugins.FLAG, metavar="FILE", dest="config", help=plugins.HELP)
