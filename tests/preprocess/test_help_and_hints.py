"""What help and errors tell the user to type is right."""

import importlib
import re
import shlex

import pytest

from farfield.dataloader import prepared_folder
from farfield.dataloader.datasets import backbone_data, nbody_data, property_data

# commands that an error of a dataset tells the user to type
HINTED = [
    command
    for module in (prepared_folder, backbone_data, nbody_data, property_data)
    for command in re.findall(r"`python -m (.*?)`", module.HINT)
]


@pytest.mark.parametrize("command", HINTED)
def test_a_hint_is_a_whole_command(command, tmp_path, monkeypatch):
    """Nothing is missing but the data."""
    script, *arguments = shlex.split(command)
    module = importlib.import_module(f"farfield.{script}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.xyz").touch()

    read = getattr(module, "read_options", None) or module.build_parser().parse_config
    config = read(arguments)
    assert config.data.out == "FOLDER"
    choose = getattr(module, "choose", None)
    if choose is not None:
        choose(config)


DEFAULTS = {
    "preprocess_structures": r"split protocol \(default: (\w+),",
    "preprocess_md17": r"files of your own: (\w+),",
    "preprocess_md22": r"files of your own: (\w+),",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_help_names_the_protocol_that_own_files_get(name, tmp_path):
    module = importlib.import_module(f"farfield.preprocess.{name}")
    words = " ".join(module.build_parser().format_help(everything=True).split())
    (tmp_path / "mine.xyz").touch()
    config = module.build_parser().parse_config(["--file", str(tmp_path / "mine.xyz")])
    assert module.choose(config).protocol == re.search(DEFAULTS[name], words)[1]
