"""Translate a yaml file of the published E2Former programs into an options file.

    python -m train.convert_config e2former_hybrid.yaml --out hybrid.yaml
    python -m train.train_potential --config hybrid.yaml --data-path data/mine --run-dir runs/mine
    # leave out what cannot be translated
    python -m train.convert_config md22.yml --out md22.yaml --skip-refused
    # all known names, as a table
    python -m train.convert_config --table

Files of fairchem (``model: {backbone: {...}}``), files composed by Hydra (``backbone_config:
{...}``) and the backbone's part alone are read. What is printed: what each option becomes, what is
left out and why that is harmless, what is refused. With anything refused nothing is written, unless
``--skip-refused`` leaves it out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if not __package__:  # `python train/convert_config.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml

from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.dataloader.commands import called_as
from farfield.dataloader.storage.files import atomic_write, naming
from farfield.models.factory import build_model
from farfield.train import train_potential
from farfield.train.published_files import IGNORED, MAPPED, REFUSED, Line, read_published, translate
from farfield.train.published_table import known_names

TITLES = {
    MAPPED: "translated",
    IGNORED: "left out, without an effect here",
    REFUSED: "refused",
}


def build_parser() -> OneLineParser:
    """All options of the script."""
    parser = OneLineParser(__doc__, usage="%(prog)s FILE [options]")
    source = "yaml file of E2Former, E2Former-FMM, E2Former-V2 or fairchem"
    parser.add_argument("file", metavar="FILE", nargs="?", help=source)
    out = "options file to write (default: printed after the list)"
    parser.add_argument("--out", metavar="FILE", help=out)
    skip = "leave refused options out, and write the rest"
    parser.add_argument("--skip-refused", action="store_true", help=skip)
    table = "print all known names with their translation, and exit"
    parser.add_argument("--table", action="store_true", help=table)
    return parser


def translated(path: Path) -> tuple[list[Line], dict[str, Any]]:
    """What becomes of the options of a file; errors in one line that names it."""
    content = read_published(path)
    with naming(path):
        return translate(content)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_args(argv)
    if options.table:
        print(known_names())
        return
    if options.file is None:
        raise ValueError("there is no file to convert; give FILE, or --table for all known names")
    if options.out and Path(options.out).resolve() == Path(options.file).resolve():
        raise ValueError(f"--out {options.out} is the file to convert; give another name")

    lines, sections = translated(Path(options.file))
    print(report(lines))
    _refuse(options.file, lines, options.skip_refused)
    print(f"network: {resolved(sections)}")

    text = (
        f"# converted from {Path(options.file).name}\n{yaml.safe_dump(sections, sort_keys=False)}"
    )
    if options.out is None:
        print(text, end="")
        return
    with atomic_write(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    command = called_as("train.train_potential")
    print(f"written: {options.out}; train with {command} --config {options.out} --data-path ...")


def report(lines: list[Line]) -> str:
    """The list for people: one line an option, by what becomes of it."""
    parts = []
    for outcome, title in TITLES.items():
        found = [line for line in lines if line.outcome == outcome]
        if found:
            width = max(len(line.published) for line in found)
            rows = [f"  {line.published:<{width}}  {line.text}".rstrip() for line in found]
            parts.append("\n".join([f"{title}:", *rows]))
    return "\n".join(parts)


def _refuse(file: str, lines: list[Line], skipped: bool) -> None:
    """ValueError where an option is refused and not left out."""
    names = [line.name for line in lines if line.outcome == REFUSED]
    if names and not skipped:
        number = "1 option is" if len(names) == 1 else f"{len(names)} options are"
        raise ValueError(
            f"{file}: {number} refused ({', '.join(names)}); change the file, or add "
            "--skip-refused to leave them out"
        )


def resolved(sections: dict) -> str:
    """The network that the converted options make, in words; ValueError where they make none.

    Options of the training are checked by the parser of train_potential.
    """
    known = train_potential.SCRIPT.parser("e2former", "paper").known_options()
    for name, options in sections.items():
        for key, value in options.items() if isinstance(options, dict) else ():
            known.sections[name][key].check(value)

    model = build_model(sections["model"])
    options = model.network.options
    weights = sum(weight.numel() for weight in model.parameters())
    return (
        f"{len(options.attentions())} layers ({options.schedule}), {options.channels} channels, "
        f"lmax {options.lmax}, {options.near.heads} heads, cutoff {options.cutoff:g} A, "
        f"{weights} weights"
    )


if __name__ == "__main__":
    run_script(main)
