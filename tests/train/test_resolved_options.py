"""A command of today means the same tomorrow: options keep their defaults, limits and place.

    python -m tests.train.test_resolved_options     # after a change on purpose

writes ``tests/support/resolved_options.json`` with the options of every training script. Those of
networks stand in ``resolved_presets.json``.
"""

import importlib
import json
from pathlib import Path

import pytest

from farfield.common.option_values import Option
from farfield.common.task_registry import TASKS
from farfield.dataloader.storage.files import write_json
from farfield.train.launch import Script

FILE = Path(__file__).parents[1] / "support" / "resolved_options.json"
STORED = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def scripts() -> dict[str, Script]:
    """Training scripts by the name of their file."""
    found = {}
    for path in sorted((Path(__file__).parents[2] / "train").glob("train_*.py")):
        module = importlib.import_module(f"farfield.train.{path.stem}")
        if hasattr(module, "SCRIPT"):
            found[path.stem] = module.SCRIPT
    return found


def options_of(script: Script) -> dict[str, str]:
    """Flag -> default, limits, and whether --help shows it, as in "0.001, > 0, <= 100, shown"."""
    parser = script.parser()
    shown = {flag for action in parser.main_actions for flag in action.option_strings}
    return {
        option.flag: words(option) + (", shown" if option.flag in shown else "")
        for name, section in parser.sections.items()
        if name != "model"
        for option in section.options.values()
    }


def words(option: Option) -> str:
    limits = option.limits
    bounds = {">=": limits.low, ">": limits.above, "<=": limits.high, "<": limits.below}
    given = [f"{sign} {value}" for sign, value in bounds.items() if value is not None]
    return ", ".join([str(option.default), *given])


@pytest.mark.parametrize("name", STORED)
def test_options_are_what_they_were(name):
    found = options_of(scripts()[name])
    # an option that is new is free
    assert {flag: found.get(flag) for flag in STORED[name]} == STORED[name]


def test_the_options_of_every_task_are_held():
    tasks = {task for task in TASKS if TASKS[task].__module__.startswith("farfield.")}
    assert tasks <= {scripts()[name].task for name in STORED}


if __name__ == "__main__":
    write_json(FILE, {name: options_of(script) for name, script in scripts().items()})
