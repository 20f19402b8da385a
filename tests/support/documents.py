"""What the documents show: code blocks, commands and names of files."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from farfield import console

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
)
LANGUAGES = ("python", "shell", "text")
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
FEW_FRAMES = ["--train", "60", "--val", "8", "--test", "8"]  # of the bundled ethanol
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

    @property
    def commands(self) -> list[list[str]]:
        """Words of the commands of a shell block; ``&&`` and comments are taken apart, and the
        training that torchrun starts is the command.
        """
        found = []
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                found.append(words[: words.index("&&")])
                words = words[words.index("&&") + 1 :]
            found.append(words)
        return [_started(words) for words in found if words]


def _started(words: list[str]) -> list[str]:
    """A command without variables in front, and without the torchrun that starts it."""
    while "=" in words[0]:
        words = words[1:]
    return ["python", *words[words.index("-m") :]] if words[0] == "torchrun" else words


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


def commands(page: str) -> list[list[str]]:
    """Words of all commands of a page: those of shell blocks, and inline ones with options."""
    found = [words for block in blocks(page, "shell") for words in block.commands]
    for code in inline_code(page):
        first, *rest = code.split()
        if first in SCRIPTS and any(word.startswith("--") for word in rest):
            found.append(["python", "-m", SCRIPTS[first], *rest])
        elif first in ("make", "python", "farfield") and rest:
            found.append(shlex.split(code))
    return found


def write_files(page: str, folder: Path) -> None:
    """Write the blocks of a page that are files."""
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.code, encoding="utf-8")


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """Module and arguments of ``python -m MODULE``, ``python FILE.py`` or ``farfield COMMAND``."""
    if words[0] == "farfield":
        path, _, arguments = console.find_script(words[1:])
        module = path.relative_to(console.HOME).with_suffix("")
        return ".".join(module.parts), arguments
    if words[1] == "-m":
        return words[2], words[3:]
    return words[1].removesuffix(".py").replace("/", "."), words[2:]


def load_script(module: str):
    """The module of a script of the repository, as ``python -m`` names it."""
    return importlib.import_module(
        module if module.startswith("benchmarks") else f"farfield.{module}"
    )


class Understood(Exception):
    """A script has read its options without an error; the argument is its parser."""


def stop_after_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that are loaded raise :class:`Understood` once a parser accepted the arguments."""

    def and_stop(parse):
        def parse_and_stop(self, *arguments, **named):
            parse(self, *arguments, **named)
            raise Understood(self)

        return parse_and_stop

    for kind in _parsers():
        monkeypatch.setattr(kind, "parse_args", and_stop(kind.parse_args))


def _parsers() -> list[type]:
    """All classes of parsers that read arguments in a way of their own."""
    kinds = [argparse.ArgumentParser]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [kind for kind in kinds if "parse_args" in vars(kind)]


def flags_of(module: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """All flags of a script, without reading any argument."""

    def show_parser(self, *arguments, **named):
        raise Understood(self)

    script = load_script(module)
    with monkeypatch.context() as patch:
        for kind in _parsers():
            patch.setattr(kind, "parse_args", show_parser)
        with pytest.raises(Understood) as caught:
            script.main([])
    (parser,) = caught.value.args
    return {flag for action in parser._actions for flag in action.option_strings}
