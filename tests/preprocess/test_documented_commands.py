"""Every command that the doc string of a preprocess script shows has options that the script
takes.
"""

import importlib
import shlex

import pytest

from tests.support.documented_commands import commands_of, scripts_in, write_plugin

SCRIPTS = scripts_in("preprocess")
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
    write_plugin(tmp_path)
    monkeypatch.chdir(tmp_path)
    if hasattr(module, "read_options"):
        config = module.read_options(shlex.split(arguments))
    else:
        config = module.build_parser().parse_config(shlex.split(arguments))
    assert config.data.out in arguments
