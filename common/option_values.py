"""One option: how its text becomes a checked value, and what the help says about it.

The same checks hold for the command line and for yaml files.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

from farfield.models.choices import check_choice

NOUNS = {int: "a whole number", float: "a number", str: "text"}
MAX_CHOICES_WIDTH = 40  # characters of a list of choices that stands next to the flag


@dataclasses.dataclass(frozen=True)
class Limits:
    """The range of a number: ``low <= value <= high`` and ``above < value < below``."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def broken_by(self, value: float) -> str | None:
        """The limit that ``value`` breaks, as in ">= 1", or None. nan breaks every limit."""
        if self.low is not None and not value >= self.low:
            return f">= {self.low}"
        if self.above is not None and not value > self.above:
            return f"> {self.above}"
        if self.high is not None and not value <= self.high:
            return f"<= {self.high}"
        if self.below is not None and not value < self.below:
            return f"< {self.below}"
        return None


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a script.

    flag      its name on the command line, ``--batch-size``
    key       its name in yaml and in the configuration, ``batch_size``
    kind      type of its values: int, float, str or bool
    default   value where nobody gives one
    limits    range of a number; a float without an upper limit must be finite
    choices   allowed names, or None
    optional  whether the word ``none`` stands for None
    origin    the default as text where something else sets it ("0.8, set by --preset small")
    text      help: noun, unit, effect
    """

    flag: str
    key: str
    kind: type
    default: Any
    limits: Limits
    choices: tuple[str, ...] | None
    optional: bool
    origin: str | None
    text: str

    def read(self, text: str) -> Any:
        """The checked value of a text; ``argparse.ArgumentTypeError`` says what to type."""
        if self.optional and text.lower() == "none":
            return None
        if not text:
            raise self._refusal("must not be empty")
        try:
            value = self.kind(text)
        except ValueError:
            noun = NOUNS.get(self.kind, self.kind.__name__)
            raise self._refusal(f"must be {noun}, got {text!r}") from None

        limit = self._limits().broken_by(value) if self.kind in (int, float) else None
        if limit is not None:
            raise self._refusal(f"must be {limit}, got {value}")
        if self.choices:
            try:
                check_choice("", value, self.choices)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error).strip()) from None
        return value

    def check(self, value: Any) -> Any:
        """The checked value of a yaml file; ``argparse.ArgumentTypeError`` as in :meth:`read`."""
        if self.kind is not bool:
            return self.read(value if isinstance(value, str) else repr(value))
        if not isinstance(value, bool) and not (value is None and self.default is None):
            raise argparse.ArgumentTypeError(f"must be true or false, got {value!r}")
        return value

    def help(self) -> str:
        """Help text with the choices, where they are many, and the default."""
        listed = f": {', '.join(self.choices)}" if self.choices and not self._choices_fit() else ""
        default = self.default_text()
        shown = "" if default is None else f" (default {default})"
        return f"{self.text}{listed}{shown}"

    def metavar(self) -> str:
        """What stands for the value behind the flag."""
        if not self.choices:
            return self.kind.__name__.upper()
        return "{" + ",".join(self.choices) + "}" if self._choices_fit() else "NAME"

    def _limits(self) -> Limits:
        unbounded = self.limits.high is None and self.limits.below is None
        if self.kind is float and unbounded:
            return dataclasses.replace(self.limits, below=math.inf)
        return self.limits

    def _choices_fit(self) -> bool:
        return len(",".join(self.choices)) <= MAX_CHOICES_WIDTH

    def default_text(self) -> str | None:
        """The default as users read it; None where there is none."""
        if self.origin is not None:
            return self.origin
        if self.kind is bool:
            return {True: "yes", False: "no"}.get(self.default)
        return None if self.default is None else str(self.default)

    def _refusal(self, problem: str) -> argparse.ArgumentTypeError:
        default = self.default_text()
        hint = f"leave {self.flag} out" + ("" if default is None else f" for the default {default}")
        return argparse.ArgumentTypeError(f"{problem}; {hint}")
