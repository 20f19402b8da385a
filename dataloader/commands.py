"""How a user calls the scripts: ``farfield train md17`` or ``python -m train.train_md17``.

The modules of the second form stand in a checkout alone. Beside an installed package a name like
``train`` may be a file of the user.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MODULE = re.compile(r"python -m ((?:preprocess|train|simulate)\.\w+)")
SINGLE = {
    "train.evaluate": "evaluate",
    "train.pack": "pack",
    "simulate.run_md": "md",
    "simulate.large": "large",
    "simulate.rollout": "rollout",
    "simulate.analyze_rollouts": "analyze",
    "simulate.sample": "sample",
    "simulate.relax_diffusion": "relax",
    "train.bad_steps": "bad-step",
    "train.doctor": "doctor",
    "train.convert_config": "convert-config",
    "preprocess.run_recipe": "run",
}


def called_as(module: str) -> str:
    """The command of the script ``module`` ("train.train_md17"), as this process was called."""
    by_console = Path(sys.argv[0]).name.startswith("farfield ")
    if not by_console and _in_checkout():
        return f"python -m {module}"
    group, _, script = module.partition(".")
    return "farfield " + SINGLE.get(module, f"{group} {script.removeprefix(f'{group}_')}")


def commands_as_called(text: str) -> str:
    """A text with every ``python -m`` of a script as the user calls it."""
    return MODULE.sub(lambda found: called_as(found[1]), text)


def _in_checkout() -> bool:
    # farfield/dataloader is a link there, and a folder in an installed package
    return Path(__file__).parent.is_symlink()
