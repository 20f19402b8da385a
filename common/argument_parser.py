"""An ``argparse`` parser for people: errors are one line, a mistyped name gets a guess, and
``--help`` shows the options that matter.

A script whose options are not marked shows all of them with ``--help``. Once some are marked as
main options, ``--help`` shows these, and ``--help-all`` every option.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from farfield.dataloader.commands import commands_as_called
from farfield.models.choices import nearest
from farfield.models.published_names import why_absent


class OneLineParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are ``ValueError`` with one line.

    Attributes: ``main_actions``, the actions that ``--help`` shows (none: all). A parser with
    ``add_help=False`` leaves both flags of the help to another one.
    """

    def __init__(self, description: str, **settings):
        super().__init__(
            description=commands_as_called(description),
            usage=settings.pop("usage", "%(prog)s [options]"),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )
        self.main_actions: set[argparse.Action] = set()
        self._help_all: argparse.Action | None = None
        if self.add_help:
            self._help_all = self.add_argument(
                "--help-all", action=_ShowAll, help="show every option and exit"
            )

    def error(self, message: str):
        """Raise ``message`` as a ValueError that says where the options are listed."""
        where = f"{self._list_flag()} lists all options"
        raise ValueError(f"{message.removeprefix('argument ')} ({where})")

    def parse_args(self, args=None, namespace=None):
        """As in ``argparse``; ValueError with a guess for an option that does not exist."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise ValueError(self._unknown(unknown))
        return found

    def format_help(self, everything: bool = False) -> str:
        """The help: main options, or ``everything``."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            # options outside the sections (--help, --config) are shown in any case
            general = group in (self._positionals, self._optionals)
            shown = [
                action
                for action in group._group_actions
                if self._is_shown(action, everything or general)
            ]
            formatter.start_section(group.title)
            formatter.add_arguments(shown)
            formatter.end_section()
        if not everything and self.main_actions:
            formatter.add_text("--help-all shows every option.")
        return formatter.format_help()

    def _is_shown(self, action: argparse.Action, everything: bool) -> bool:
        if action is self._help_all:
            return bool(self.main_actions)
        return everything or not self.main_actions or action in self.main_actions

    def _list_flag(self) -> str:
        return "--help-all" if self.main_actions else "--help"

    def _unknown(self, arguments: Sequence[str]) -> str:
        flags = [word for word in arguments if word.startswith("-")]
        where = f"{self._list_flag()} lists all options"
        if not flags:
            return f"unexpected argument {arguments[0]!r}; options start with -- ({where})"

        flag = flags[0].split("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        near = nearest(flag, known)
        guess = f"did you mean {near}?" if near else where
        return f"unknown option {flag}; {why_absent(flag) or guess}"


def early_options(
    argv: Sequence[str], names: Sequence[str], switches: Sequence[str] = ()
) -> argparse.Namespace | None:
    """Options of a command line that decide which other options there are.

    names: of options with a value, None where it is not given. switches: of those without. None
    for a command line that cannot be read; the whole parser says what is wrong with it.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        finder.add_argument(name)
    for name in switches:
        finder.add_argument(name, action="store_true")
    try:
        return finder.parse_known_args(argv)[0]
    except argparse.ArgumentError:
        return None


class _ShowAll(argparse.Action):
    """``--help-all``: print every option and leave."""

    def __init__(self, option_strings, dest, **settings):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **settings)
        self.default = argparse.SUPPRESS

    def __call__(self, parser, namespace, values, option_string=None):
        print(parser.format_help(everything=True), end="")
        parser.exit()
