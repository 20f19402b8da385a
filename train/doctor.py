"""Check this machine before a run: versions, devices, compiler, disk, memory, and the kernels.

    python -m train.doctor

Prints a line for each check, and what to type where something is wrong. Exit code 0: nothing is
wrong (notes may remain); 1: something is. Takes about ten seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if not __package__:  # `python train/doctor.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.argument_parser import OneLineParser
from farfield.common.script import run_script
from farfield.train import machine_checks, self_tests
from farfield.train.machine_checks import FINE, WRONG, Finding

EXIT_WRONG = 1


def findings(checks: Sequence[Callable[[], Finding]] | None = None) -> Iterator[Finding]:
    """What each check finds; a check that fails itself is wrong."""
    for check in checks or (*machine_checks.CHECKS, *self_tests.CHECKS):
        try:
            yield check()
        except Exception as error:
            name = check.__name__.replace("_", " ")
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield Finding(name, WRONG, text, self_tests.FIX)


def line_of(found: Finding) -> str:
    """A check for the reader."""
    fix = f"\n{'':>22}-> {found.fix}" if found.level != FINE and found.fix else ""
    return f"{found.level:<6} {found.name:<14} {found.text}{fix}"


def build_parser() -> OneLineParser:
    """The script has no options but the help."""
    return OneLineParser(__doc__)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    build_parser().parse_args(argv)
    wrong = 0
    for found in findings():
        print(line_of(found), flush=True)
        wrong += found.level == WRONG
    print("nothing is wrong" if not wrong else f"{wrong} of the checks found something wrong")
    if wrong:
        sys.exit(EXIT_WRONG)


if __name__ == "__main__":
    run_script(main)
