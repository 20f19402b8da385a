"""What the documents show: code blocks, commands and names of files."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
)
LANGUAGES = ("python", "shell", "text")
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
FOLDERS = ("benchmarks", "preprocess", "train", "simulate")
SCRIPTS = {  # name of a script, as an inline command has it -> module
    path.stem: path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for folder in FOLDERS
    for path in ROOT.glob(f"{folder}/**/*.py")
    if "def main(" in path.read_text(encoding="utf-8")
}


class Block(NamedTuple):
    """One fenced block: its language, what follows it in the fence, its first line and its code."""

    language: str
    extras: str
    line: int
    code: str

    @property
    def file(self) -> str | None:
        """Name of the file that the block is to be saved as (``title="my_source.py"``)."""
        found = re.search(r'title="([^"]+)"', self.extras)
        return found[1] if found else None


def read(page: str) -> str:
    """Text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """Fenced blocks of a page, all or those of some languages."""
    text = read(page)
    found = [
        Block(match[1], match[2], text[: match.start()].count("\n") + 2, match[3])
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def inline_code(page: str) -> list[str]:
    """What stands in backticks in the prose and the tables of a page."""
    return INLINE.findall(FENCE.sub("", read(page)))


def commands(page: str) -> list[str]:
    """Commands of the shell blocks, one a line, and inline commands of scripts."""
    found = []
    for block in blocks(page, "shell"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = " ".join(shlex.quote(word) for word in shlex.split(line, comments=True))
            found += [part.strip() for part in words.split(" '&&' ") if part.strip()]
    for code in inline_code(page):
        first, *rest = code.split()
        if first in SCRIPTS and any(word.startswith("--") for word in rest):
            found.append(f"python -m {SCRIPTS[first]} {' '.join(rest)}")
        elif first in ("make", "python", "farfield") and rest:
            found.append(code)
    return found


class Understood(Exception):
    """A script has read its options without an error."""


def stop_after_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts raise :class:`Understood` as soon as their own parser has accepted the arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments, **named):
        parse(self, *arguments, **named)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """Module and arguments of ``python -m MODULE ...`` or ``python FILE.py ...``."""
    if words[1] == "-m":
        return words[2], words[3:]
    return words[1].removesuffix(".py").replace("/", "."), words[2:]


def run_script(module: str, arguments: list[str]) -> None:
    """Call ``main`` of a script of the repository with these arguments."""
    name = module if module.startswith("benchmarks") else f"farfield.{module}"
    importlib.import_module(name).main(arguments)
