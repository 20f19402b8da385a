"""The command ``farfield``: all scripts under one name.

    farfield preprocess md17 --sample --out data/ethanol_sample
    farfield train md17 --data-path data/ethanol_sample --max-cpu-minutes 4
    farfield evaluate runs/md17/checkpoint_best.pt --input in.xyz --output out.xyz
    farfield md --checkpoint runs/md17/checkpoint_best.pt

Every script ``preprocess/preprocess_X.py`` and ``train/train_X.py`` is a sub-command as soon as the
file exists, with the options of the script. Nothing but the chosen script is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path

HOME = Path(__file__).parent
GROUPS = {"preprocess": "make a data folder", "train": "train a network"}
SINGLE = {
    "evaluate": "train/evaluate.py",
    "pack": "train/pack.py",
    "md": "simulate/run_md.py",
    "large": "simulate/large.py",
    "rollout": "simulate/rollout.py",
    "analyze": "simulate/analyze_rollouts.py",
    "sample": "simulate/sample.py",
    "relax": "simulate/relax_diffusion.py",
    "bad-step": "train/bad_steps.py",
    "doctor": "train/doctor.py",
    "convert-config": "train/convert_config.py",
    "run": "preprocess/run_recipe.py",
}

SEVERAL_RANKS = ("large",)  # that torchrun may start, besides the training scripts


def group_scripts(group: str) -> dict[str, Path]:
    """Sub-command -> script of a group: ``md17`` -> ``train/train_md17.py``."""
    files = sorted((HOME / group).glob(f"{group}_*.py"))
    return {file.stem.removeprefix(f"{group}_"): file for file in files}


def summary(script: Path) -> str:
    """First sentence of the doc string of a script, which is not imported."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def overview(groups: Sequence[str] = tuple(GROUPS)) -> str:
    """The help: all sub-commands, or those of some groups."""
    lines = ["usage: farfield COMMAND [options]", ""]
    for group in groups:
        lines.append(f"{GROUPS[group]}:")
        for name, script in group_scripts(group).items():
            lines += _entry(f"{group} {name}", summary(script))
        lines.append("")

    # the help of one group leaves the other commands out
    if tuple(groups) == tuple(GROUPS):
        lines.append("use a trained network, look into a run, check the machine, and more:")
        for name, script in SINGLE.items():
            lines += _entry(name, summary(HOME / script))
        lines.append("")
    lines.append("farfield COMMAND --help shows the options of a command.")
    return "\n".join(lines)


def _entry(command: str, text: str) -> list[str]:
    """One command, its summary on lines of their own where it is long."""
    import textwrap

    wrapped = textwrap.wrap(text, 70)
    return [f"  {command:<24}{wrapped[0]}", *(" " * 26 + line for line in wrapped[1:])]


def find_script(words: Sequence[str]) -> tuple[Path, str, list[str]]:
    """Script, command and arguments of a command line; ValueError for an unknown command."""
    command, *rest = words
    if command in SINGLE:
        return HOME / SINGLE[command], command, rest
    _check("command", command, {**GROUPS, **SINGLE})

    scripts = group_scripts(command)
    if not rest:
        raise ValueError(f"farfield {command} needs one of {', '.join(scripts)}")
    name, *rest = rest
    _check(f"farfield {command}", name, scripts)
    return scripts[name], f"{command} {name}", rest


def _check(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        from farfield.models.choices import check_choice

        check_choice(what, name, known)


def main(argv: list[str] | None = None) -> None:
    """Run the script that the command line names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"farfield {metadata.version('farfield')}")
    elif not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] in GROUPS and words[1:] in ([], ["-h"], ["--help"]):
        print(overview([words[0]]))
    else:
        from farfield.common import ranks

        script, command, rest = find_script(words)
        if not command.startswith("train ") and command not in SEVERAL_RANKS:
            ranks.refuse()
        module = ".".join(script.relative_to(HOME).with_suffix("").parts)
        # --help and hints name the command as the user typed it
        sys.argv = [f"farfield {command}", *rest]
        import_module(f"farfield.{module}").main(rest)


def run() -> None:
    """Entry point of the console command."""
    from farfield.common.script import run_script

    run_script(main, several_ranks=True)
