"""Prepare data and train as one file says, e.g. a file of configs/.

    python -m preprocess.run_recipe configs/md22_AT-AT.yaml
    # the same network for a minute, on bundled structures
    python -m preprocess.run_recipe configs/md22_AT-AT.yaml --smoke
    python -m preprocess.run_recipe configs/oc20_s2ef.yaml --smoke-steps 3
    # further options go to the training script
    python -m preprocess.run_recipe configs/md22_AT-AT.yaml --device cuda --detach
    python -m preprocess.run_recipe configs/md22_AT-AT.yaml --resume

A file has three parts. ``preprocess`` and ``train`` name a script and its options, ``smoke`` names
a bundled sample:

    preprocess: {script: md22, molecule: AT-AT, cutoff: 6.0, out: data/md22/AT-AT}
    train:
      script: md22
      model: {preset: paper}
      training: {lr: 0.0005}
    smoke: {sample: ethanol}

A data folder that is there already is used again. ``--smoke`` keeps the network, the loss and the
optimiser, and takes few structures in batches of three.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/run_recipe.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.common.yaml_files import read_yaml
from farfield.console import group_scripts
from farfield.models.choices import check_choice

HOME = Path(__file__).resolve().parents[1]
SAMPLES = HOME / "dataloader" / "samples"
# part of a file -> an option that it must name
PARTS = {"preprocess": "out", "train": "script", "smoke": "sample"}
SMOKE_SCRIPT = "structures"
SMOKE_BATCH, SMOKE_STEPS, SMOKE_OTHERS = 3, 6, 2  # of a step, an epoch, validation and test
SMOKE_MINUTES, SMOKE_WARMUP = 1.0, 10


def build_parser() -> OneLineParser:
    """The options of the script itself."""
    parser = OneLineParser(__doc__, usage="%(prog)s FILE [options]")
    parser.add_argument("file", metavar="FILE", help="yaml file: preprocess, train, smoke")
    smoke = "train on bundled structures, for a minute"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    steps = "train so many steps on bundled structures, rounded up to whole epochs of 6"
    parser.add_argument("--smoke-steps", type=_steps, metavar="INT", help=steps)
    return parser


def _steps(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def read_options(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the script, and those of the training script."""
    return build_parser().parse_known_args(argv)


def read_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """The parts of the file ``path``; FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a yaml file, e.g. one of configs/")
    recipe = read_yaml(path)

    if not isinstance(recipe, Mapping) or set(recipe) != set(PARTS):
        raise ValueError(f"{path} must have the parts {', '.join(PARTS)}; see configs/")
    for part, needed in PARTS.items():
        options = recipe[part]
        if not isinstance(options, Mapping) or needed not in options:
            raise ValueError(f"{path}: {part} must hold options, {needed} among them")
        if name := _odd_name(options):
            raise ValueError(f"{path}: {part} names the option {name}, names must be words")
    for part in ("preprocess", "train"):
        check_choice(f"{path}: script of {part}", recipe[part].get("script"), group_scripts(part))
    check_choice(f"{path}: sample of smoke", recipe["smoke"]["sample"], samples())
    return {part: dict(options) for part, options in recipe.items()}


def _odd_name(options: Mapping) -> str:
    """The first name that is no word, also inside sections; "" where all are words."""
    for name, value in options.items():
        if not isinstance(name, str):
            return repr(name)
        if isinstance(value, Mapping) and (odd := _odd_name(value)):
            return odd
    return ""


def samples() -> list[str]:
    """Names of the bundled samples."""
    return sorted(file.stem for file in SAMPLES.glob("*.npz"))


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line: sections are opened, true is ``--name``, null is ``none``."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, Mapping):
            words += flags(value)
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", "none" if value is None else str(value)]
    return words


def commands(recipe: Mapping[str, Mapping]) -> dict[str, tuple[str, list[str]]]:
    """Part -> script and arguments; the training reads the folder that is prepared."""
    found = {}
    for part in ("preprocess", "train"):
        options = {name: value for name, value in recipe[part].items() if name != "script"}
        found[part] = (recipe[part]["script"], flags(options))
    found["train"][1][:0] = ["--data-path", str(recipe["preprocess"]["out"])]
    return found


def smoke(recipe: Mapping[str, Mapping], name: str, steps: int | None) -> dict[str, dict]:
    """The same training on a bundled sample: ``steps`` of them, or for a minute.

    name: of the file, for the folders.
    """
    sample = recipe["smoke"]["sample"]
    of_epoch = min(steps or SMOKE_STEPS, SMOKE_STEPS)
    prepare = {
        "script": SMOKE_SCRIPT,
        "file": str(SAMPLES / f"{sample}.npz"),
        "cutoff": recipe["preprocess"]["cutoff"],
        "train": SMOKE_BATCH * of_epoch,
        "val": SMOKE_OTHERS,
        "test": SMOKE_OTHERS,
        "split": "time",  # the first batch of a sample holds all its elements
        "out": f"data/smoke/{name}",
        "rebuild": True,
    }
    if sample != "ethanol":
        prepare["periodic"] = True

    length = {"epochs": -(-steps // of_epoch)} if steps else {"max_minutes": SMOKE_MINUTES}
    train = {
        **recipe["train"],
        "smoke": {
            "run_dir": f"runs/smoke/{name}",
            "overwrite": True,
            "batch_size": SMOKE_BATCH,
            "warmup_steps": SMOKE_WARMUP,
            **length,
        },
    }
    return {"preprocess": prepare, "train": train}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    options, rest = read_options(argv)
    recipe = read_recipe(Path(options.file))
    if options.smoke or options.smoke_steps:
        recipe = smoke(recipe, Path(options.file).stem, options.smoke_steps)

    for part, (script, arguments) in commands(recipe).items():
        words = arguments + (rest if part == "train" else [])
        if Path(sys.argv[0]).name.startswith("farfield "):
            sys.argv = [f"farfield {part} {script}", *words]  # hints name the script that runs
        import_module(f"farfield.{part}.{part}_{script}").main(words)


if __name__ == "__main__":
    run_script(main)
