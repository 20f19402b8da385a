"""Command lines of all scripts: argparse sections, ``--config file.yaml``, and one EasyDict that is
saved with the run.

Every option belongs to a section (``run``, ``data``, ``model``, ``loss``, ``training``) and is
found again as ``config.<section>.<key>``. A value is taken from the first of these places that
names it:

    explicit argument  >  --config file.yaml (or the run that --resume continues)  >  the data  >
                       preset (e.g. of a protocol)  >  default

A yaml file holds sections (``training: {lr: 0.001}``) or bare option names (``lr: 0.001``); the
``config.yaml`` of any run is such a file. Errors of the user are ``ValueError`` or ``OSError`` with
a one-line message: `run_script` prints it and leaves with exit code 2.
"""

import argparse
import dataclasses
import difflib
import math
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from easydict import EasyDict

from farfield.common.session import Interrupted

SESSION_ONLY = {"resume": False, "overwrite": False, "pause_after": None}
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT  # 130
DECIDED_BY_DATA = "measured"  # key of a configuration: names of the options that the data decided
UNSET = object()
Reader = Callable[[dict], dict]  # flat values -> {key: value} for options that nobody named


class Section:
    """One group of options; ``add`` declares an option with its limits, which hold for the command
    line and for yaml alike.
    """

    def __init__(self, name: str, group, defaults: Mapping[str, object]):
        self.name, self.group, self.defaults = name, group, defaults
        self.actions: dict[str, argparse.Action] = {}

    def add_fields(
        self,
        options_class: type,
        skip: Sequence[str] = (),
        decided: Mapping[str, str] | None = None,
    ):
        """One option for every field of the dataclass ``options_class``, with its type and default;
        the class checks the values.

        A field ``Annotated[type, "what it is", TABLE]`` has that text as its help, followed by the
        names in the table if it has one; a subclass that only changes the default inherits the
        text. decided: field -> what decides its value if nobody names it, in the place of the
        default ("--preset", "the data").
        """
        described: dict = {}
        for each in reversed(options_class.__mro__):
            hints = typing.get_type_hints(each, include_extras=True)
            described |= {
                name: hint
                for name, hint in hints.items()
                if typing.get_origin(hint) is typing.Annotated
            }
        hints = typing.get_type_hints(options_class)
        for field in dataclasses.fields(options_class):
            if field.name not in skip:
                hint, words = hints[field.name], field.name.replace("_", " ")
                if field.name in described:
                    _, words, *tables = typing.get_args(described[field.name])
                    words = ": ".join([words, *map(", ".join, tables)])
                kinds, flag = typing.get_args(hint) or (hint,), "--" + field.name.replace("_", "-")
                choice = (decided or {}).get(field.name)
                self.add(
                    flag,
                    kinds[0],
                    field.default,
                    optional=type(None) in kinds,
                    decided=choice,
                    help=words,
                )

    def add(
        self,
        flag: str,
        kind: type = str,
        default=None,
        *,
        key: str | None = None,
        low=None,
        above=None,
        high=None,
        below=None,
        choices=None,
        optional: bool = False,
        decided: str | None = None,
        help: str = "",
    ):
        """Declare ``flag``; ``key`` is its name in the configuration (default: the flag with
        underscores).

        ``low <= value <= high`` and ``above < value < below`` are checked; a number without an
        upper limit must be finite (``high=inf`` admits inf), a text without choices must not be
        empty. ``kind=bool`` makes a ``--flag / --no-flag`` pair; ``optional`` (or a default of None
        that nothing else decides) lets the word ``none`` stand for None. ``decided``: what gives
        the default, if not this call.
        """
        key = key or flag.lstrip("-").replace("-", "_")
        if key in self.defaults:  # of the script: it knows better than the place that declares
            default = self.defaults[key]
            decided = decided if default is None else None
        if kind is bool:
            shown = f"{help} (default that of {decided})" if decided else help
            action = self.group.add_argument(
                flag, dest=key, default=default, action=argparse.BooleanOptionalAction, help=shown
            )
        else:
            origin = f"that of {decided}" if decided else default
            read = _reader(
                flag,
                kind,
                origin,
                low,
                above,
                high,
                below,
                choices,
                optional or (default is None and not decided),
            )
            shown = help + ("" if origin is None else f" (default {origin})")
            metavar = "{" + ",".join(choices) + "}" if choices else kind.__name__.upper()
            action = self.group.add_argument(
                flag, dest=key, default=default, type=read, metavar=metavar, help=shown
            )
        self.actions[key] = action


def _reader(
    flag, kind, default, low, above, high, below, choices, optional
) -> Callable[[str], object]:
    """A function text -> value that raises ``ArgumentTypeError`` with the value, the limit and the
    mend.
    """
    mend = (
        f"leave {flag} out for the default {default}"
        if default is not None
        else f"leave {flag} out"
    )
    if kind is float and high is None and below is None:
        below = math.inf
    rules = [
        (low, lambda value: value >= low, ">="),
        (above, lambda value: value > above, ">"),
        (high, lambda value: value <= high, "<="),
        (below, lambda value: value < below, "<"),
    ]

    def read(text):
        """The checked value of ``text``."""
        if optional and text.lower() == "none":
            return None
        if not text:
            raise argparse.ArgumentTypeError(f"must not be empty; {mend}")
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be {_ARTICLE.get(kind, kind.__name__)}, got {text!r}; {mend}"
            ) from None
        for limit, holds, sign in rules:
            if limit is not None and not holds(value):
                raise argparse.ArgumentTypeError(f"must be {sign} {limit}, got {value}; {mend}")
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(choices)}, got {value!r}; {guess or mend}".rstrip()
            )
        return value

    return read


_ARTICLE = {int: "a whole number", float: "a number", str: "text"}


class OptionParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose options live in sections and whose errors are one line
    (``ValueError``).

    Arguments
        task         what is configured; stored with a run
        description  text above the options in ``--help``
        defaults     option -> default, where the script knows a better one than its declaration
        former_names name of a task in older files -> its name today
    """

    def __init__(
        self,
        task: str,
        description: str,
        defaults: Mapping[str, object] | None = None,
        former_names: Mapping[str, str] | None = None,
    ):
        self.task = task
        self.option_defaults = dict(defaults or {})
        self.former_names = dict(former_names or {})
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.sections: dict[str, Section] = {}

    def section(self, name: str, title: str) -> Section:
        """Make (or find) the section ``name``."""
        if name not in self.sections:
            group = self.add_argument_group(f"{name}: {title}")
            self.sections[name] = Section(name, group, self.option_defaults)
        return self.sections[name]

    def error(self, message: str):
        raise ValueError(f"{message.removeprefix('argument ')} (--help lists all options)")

    def parse_config(
        self, argv=None, presets: Reader | None = None, measured: Reader | None = None
    ) -> EasyDict:
        """Read the command line into ``config.<section>.<key>``.

        ``presets(values) -> {key: value}`` sees the flat values and returns better defaults for
        options that nobody named; ``measured(values)`` likewise what the data say of such options,
        before the presets. Names of options that the data decided are in ``config.measured`` and
        are stored with a run: ``--config`` leaves them out, so they are measured anew. With
        ``run.resume`` set the ``config.yaml`` of the run folder stands in the place of
        ``--config``, as it is.
        """
        actions = {
            key: action
            for section in self.sections.values()
            for key, action in section.actions.items()
        }
        self.actions_of_key = actions
        unset = argparse.Namespace(config=None, **dict.fromkeys(actions, UNSET))
        given = {
            key: value
            for key, value in vars(self.parse_args(argv, unset)).items()
            if value is not UNSET
        }
        defaults = {key: action.default for key, action in actions.items()}
        chosen, decided = {}, set()
        source = given.pop("config")
        if given.get("resume"):
            chosen, decided = self.read_yaml(
                Path(given.get("run_dir", defaults.get("run_dir"))) / "config.yaml", resumed=True
            )
        if source is not None:
            template, of_its_data = self.read_yaml(source)
            chosen |= {key: value for key, value in template.items() if key not in of_its_data}
        chosen |= given
        found = measured(defaults | chosen) if measured else {}
        values = defaults | (presets(defaults | chosen) if presets else {}) | found | chosen
        sections = {
            name: {key: values[key] for key in section.actions}
            for name, section in self.sections.items()
        }
        names = (set(found) - set(chosen)) | (decided - set(given))
        return EasyDict(
            task=self.task, **({DECIDED_BY_DATA: sorted(names)} if names else {}), **sections
        )

    def read_yaml(self, path, resumed: bool = False) -> tuple[dict, set[str]]:
        """Flat values of a yaml file, and which of them the data of its run decided; unknown keys
        and values outside the limits are errors that quote the file.
        """
        path = Path(path)
        if not path.is_file():
            mend = (
                "there is no run to resume; start it without --resume"
                if resumed
                else "give an existing yaml file to --config"
            )
            raise FileNotFoundError(
                f"{path} {'is no file' if path.exists() else 'does not exist'}: {mend}"
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (
            yaml.YAMLError,
            ValueError,
        ) as error:  # ValueError: not utf-8, or a number with thousands of digits
            raise ValueError(f"{path} is not readable as yaml: {error}") from None
        if resumed and not content:
            raise ValueError(
                f"{path} is damaged (it is empty); bring it back, or start another run with "
                "--run-dir"
            )
        content = {} if content is None else content
        if not isinstance(content, Mapping):
            raise ValueError(
                f"{path} must hold option names with values, got {type(content).__name__}"
            )
        decided = content.pop(DECIDED_BY_DATA, [])
        if not isinstance(decided, list) or not all(isinstance(name, str) for name in decided):
            raise ValueError(
                f"{path}: {DECIDED_BY_DATA} must be a list of option names, got {decided!r}"
            )
        task = content.pop("task", self.task)
        task = self.former_names.get(task, task)
        if task != self.task:
            raise ValueError(
                f"{path} configures the task {task!r}, this script trains {self.task!r}; use the "
                f"script train_{task}"
            )
        flat = {}
        for key, value in content.items():
            for entry, setting in self._entries(path, key, value):
                if entry in flat:
                    raise ValueError(f"{path}: {entry} stands there twice; keep one of them")
                flat[entry] = self._checked(path, entry, setting)
        return flat, set(decided)

    def _entries(self, path: Path, key: str, value) -> list[tuple[str, object]]:
        """Options of one line of a yaml file: itself, or those of the section it names."""
        named = value is None or isinstance(value, Mapping)
        if key not in self.sections or (key in self.actions_of_key and not named):
            return [(key, value)]
        if not named:
            raise ValueError(
                f"{path}: the section {key} must hold option names with values, got {value!r}"
            )
        for entry in value or ():
            home = next(
                (section.name for section in self.sections.values() if entry in section.actions),
                key,
            )
            if home != key:
                raise ValueError(
                    f"{path}: {entry!r} is no option of the section {key}; it belongs to {home}"
                )
        return list((value or {}).items())

    def _checked(self, path: Path, key: str, value):
        action = self.actions_of_key.get(key)
        if action is None:
            near = difflib.get_close_matches(str(key), [*self.actions_of_key, *self.sections], 1)
            raise ValueError(
                f"{path}: unknown option {key!r}; "
                + (f"did you mean {near[0]!r}?" if near else "--help lists all options")
            )
        if isinstance(action, argparse.BooleanOptionalAction):
            if not isinstance(value, bool):
                raise ValueError(f"{path}: {key} must be true or false, got {value!r}")
            return value
        try:
            return action.type(value if isinstance(value, str) else repr(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{path}: {key} {error}") from None


def add_config_option(parser: OptionParser):
    """``--config``: the one option that is not itself part of a configuration."""
    parser.add_argument(
        "--config", metavar="FILE", help="yaml file with options (explicit arguments win over it)"
    )


def find_device(name: str) -> torch.device:
    """``torch.device(name)`` if this machine has it and it holds numbers, else ``ValueError``."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].split(". ")[0][:120]
        raise ValueError(
            f"--device {name}: not usable here ({reason}); give --device cpu"
        ) from None
    return (
        torch.device("cpu") if device.type == "cpu" else device
    )  # a checkpoint tagged cpu:1 could not be read again


def plain(value):
    """Nested EasyDicts as plain dicts and lists, fit for yaml, json and
    ``torch.load(weights_only=True)``.
    """
    if isinstance(value, Mapping):
        return {key: plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(content) for content in value]
    return value


def saved_config(config: EasyDict) -> dict:
    """The configuration as it is stored with a run: plain, without the options of one session
    (resume, overwrite, pause).
    """
    content = plain(config)
    content["run"] |= SESSION_ONLY
    return content


def user_message(error: Exception) -> str:
    """One line for the user."""
    text = " ".join(str(error).split())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return (
            f"out of memory ({text.split('. ')[0]}); make the batch, the network or the "
            "data smaller"
        )
    return text


def run_script(main: Callable[[], None]):
    """Run ``main``: user errors become one line on stderr and exit code 2, an interrupted training
    exit code 130.

    ``FARFIELD_TRACEBACK=1`` in the environment shows the whole traceback instead.
    """
    try:
        main()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if os.environ.get("FARFIELD_TRACEBACK"):
            raise
        print(f"error: {user_message(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
