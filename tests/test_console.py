"""The command ``farfield``: every script is a sub-command, and the help waits for nothing."""

import contextlib
import os
import re
import subprocess
import sys
import tomllib

import pytest

from farfield import console
from tests.support.processes import ROOT, run_script
from tests.support.rank_processes import environment_of

SCRIPTS = {
    f"{group} {name}": path
    for group in console.GROUPS
    for name, path in console.group_scripts(group).items()
}
SCRIPTS |= {name: console.HOME / path for name, path in console.SINGLE.items()}


def test_every_script_for_people_is_a_command():
    files = [
        path
        for folder in ("preprocess", "train", "simulate")
        for path in (ROOT / folder).glob("*.py")
        if "__main__" in path.read_text()
    ]
    assert sorted(path.resolve() for path in SCRIPTS.values()) == sorted(files)
    for command in SCRIPTS:
        assert f"  {command} " in console.overview()


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_shows_the_help_of_its_script(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["farfield"])
    with contextlib.suppress(SystemExit):
        console.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: farfield {command} ") and "python -m" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "trian",
            "command must be one of preprocess, train, evaluate, pack, md, large, rollout, "
            "analyze, sample, relax, bad-step, doctor, convert-config, run, got 'trian'; "
            "did you mean 'train'",
        ),
        ("train", None),
        ("train mdd17", "farfield train must be one of .*, got 'mdd17'; did you mean 'md17'"),
        ("train md18", "got 'md18'$"),
        ("evaluate", "the following arguments are required: CHECKPOINT"),
        ("preprocess md17 --smaple", "unknown option --smaple; did you mean --sample"),
    ],
)
def test_mistakes_are_one_line_with_a_guess(words, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["farfield"])
    if message is None:
        console.main(words.split())
        assert "train md17" in capsys.readouterr().out
        return
    with pytest.raises(ValueError, match=message) as error:
        console.main(words.split())
    assert "\n" not in str(error.value)


def test_the_help_imports_nothing_heavy_and_nothing_of_the_project():
    code = (
        "import sys; from farfield import console; console.main(['--help']);"
        "sys.exit(str(sorted({'numpy', 'torch', 'ase', 'yaml', 'farfield.common',"
        " 'farfield.models'} & set(sys.modules)) or '') or 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "") and "train md17" in done.stdout


def test_it_runs_as_a_module_and_is_installed_as_a_command():
    done = run_script("-m", "farfield", "train", "mdd17")
    assert done.returncode == 2
    assert re.fullmatch("error: farfield train must be one of .*\n", done.stderr)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"farfield": "farfield.console:run"}


def test_hints_name_the_command_that_was_typed(monkeypatch):
    from farfield.common.script import resume_command
    from farfield.dataloader.commands import called_as

    monkeypatch.setattr(sys, "argv", ["farfield train md17", "--resume"])
    assert called_as("train.train_md17") == "farfield train md17"
    assert called_as("preprocess.preprocess_qm9") == "farfield preprocess qm9"
    for command, script in console.SINGLE.items():
        assert called_as(script.removesuffix(".py").replace("/", ".")) == f"farfield {command}"
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_md17.py"])
    assert called_as("train.train_md17") == "python -m train.train_md17"
    again = resume_command("train.train_task", "a run", ["toy.py"], ["--task", "toy"])
    expected = "train.train_task --task toy --run-dir 'a run' --resume --import toy.py"
    assert again == f"python -m {expected}"


def test_several_ranks_are_for_training_and_large_structures(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["farfield"])
    for name, value in environment_of(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="this script is one process"):
        console.main(["md", "--help"])
    for command in ("large --help", "train md17 --help"):
        with pytest.raises(SystemExit):
            console.main(command.split())
