"""Every command in the doc string of a script has options that the script takes."""

import importlib
import shlex

import pytest

from farfield.common.plugins import import_named_files
from tests.support.documented_commands import commands_of, scripts_in, write_plugins

SCRIPTS = [name for folder in ("preprocess", "train", "simulate") for name in scripts_in(folder)]
COMMANDS = [
    (script, shlex.join(arguments))
    for script in SCRIPTS
    for arguments in commands_of(importlib.import_module(f"farfield.{script}"))
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_shows_how_it_is_called(script):
    assert script in {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("script", "arguments"), COMMANDS)
def test_the_script_takes_the_options_of_its_commands(script, arguments, tmp_path, monkeypatch):
    module = importlib.import_module(f"farfield.{script}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    write_plugins(tmp_path)
    assert read(module, import_named_files(shlex.split(arguments)))


def read(module, argv):
    """What a script reads of its arguments; ValueError for one that it does not take."""
    script = getattr(module, "SCRIPT", None)
    if hasattr(module, "chosen_script"):
        script, argv = module.chosen_script(argv)

    # a preset or the data decide what is left out, the parser reads what is there
    if script is not None:
        network = dict(zip(argv, argv[1:], strict=False)).get("--model")
        return script.parser(network).parse_args(argv)
    if hasattr(module, "read_options"):
        return module.read_options(argv)
    return module.build_parser().parse_args(argv)
