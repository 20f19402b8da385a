"""Reading yaml that somebody else may have written: plain values, small, flat, no alias bombs.

An alias (``*name``) repeats a value; a few lines of aliases of aliases stand for gigabytes. The
number of values with all aliases written out is counted before anything is built. Cost: linear in
the text.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

MOST_CHARACTERS = 1 << 20
MOST_VALUES = 100_000  # with all aliases written out
DEEPEST = 20  # nested lists and mappings


def load_yaml(text: str, loader: type = yaml.SafeLoader) -> Any:
    """The value of a yaml text; ``ValueError`` in one line for what no configuration holds.

    loader: a class of safe loaders.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, allowed are {MOST_CHARACTERS}")
    try:
        _check_depth(text, loader)
        if (count := _values(yaml.compose(text, Loader=loader))) > MOST_VALUES:
            raise ValueError(f"its aliases stand for {count} values, allowed are {MOST_VALUES}")
        return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


HEAD = "# sha256 {} of the lines below, which --resume compares\n"
HEAD_LINE = re.compile(HEAD.format("([0-9a-f]{64})"))


def with_checksum(text: str) -> str:
    """A yaml text with its SHA-256 in a comment above it."""
    return HEAD.format(hashlib.sha256(text.encode("utf-8")).hexdigest()) + text


def check_checksum(text: str) -> None:
    """``ValueError`` for a text of :func:`with_checksum` that has changed since.

    A text without such a comment, of an earlier version, is not checked.
    """
    found = HEAD_LINE.match(text)
    if found and with_checksum(text[found.end() :]) != text:
        raise ValueError(
            "its checksum does not fit: it has changed since the run wrote it. Bring it back; or "
            "take its first line away, if you changed it"
        )


def read_yaml(path: Path, loader: type = yaml.SafeLoader, unchanged: bool = False) -> Any:
    """The value of a yaml file; ``OSError``, or ``ValueError`` in one line that names the file.

    unchanged: refuse a file that is not as :func:`with_checksum` made it.
    """
    try:
        # the checksum counts every byte, so line ends stay as they are
        text = path.read_bytes().decode("utf-8")
        if unchanged:
            check_checksum(text)
        return load_yaml(text, loader)
    except ValueError as error:
        # no yaml, not utf-8, or a number with thousands of digits
        raise ValueError(f"{path} is not readable as yaml: {error}") from None


def _check_depth(text: str, loader: type) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise ValueError(f"line {line} is nested deeper than {DEEPEST} levels")


def _values(root: yaml.Node | None) -> int:
    """Number of values below a node, those of an alias each time; ``ValueError`` for a loop."""
    known: dict[int, int | None] = {}

    def count(node: yaml.Node) -> int:
        """The values of a node, counted once for each node."""
        if id(node) in known:
            if known[id(node)] is None:
                raise ValueError("an alias stands inside its own value")
            return known[id(node)]
        known[id(node)] = None
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = [
            end for entry in below for end in (entry if isinstance(entry, tuple) else (entry,))
        ]
        known[id(node)] = 1 + sum(count(end) for end in pairs)
        return known[id(node)]

    return 0 if root is None else count(root)
