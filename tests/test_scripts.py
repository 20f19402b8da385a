"""Every script: called by its path from any folder, or as a module, in a checkout that is not
installed; and what building its options imports.
"""

import json
from importlib import import_module

import pytest

from tests.support.processes import ROOT, run_script

FOLDERS = ("preprocess", "train", "simulate")
HEAVY = ("dgl", "e3nn", "sympy", "scipy", "matplotlib", "tensorboard", "ase.io", "ase.md")


def scripts() -> list[str]:
    """Paths of all scripts for people: the files with an entry point of their own."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
    return [str(file.relative_to(ROOT)) for file in files if "__main__" in file.read_text()]


def module_of(script: str) -> str:
    """``train/train_md17.py`` -> ``train.train_md17``"""
    return script.removesuffix(".py").replace("/", ".")


def is_one_line(done) -> bool:
    """Whether a script ended as a mistake of its user should: one line, exit code 2."""
    lines = done.stderr.count("\n")
    return (done.returncode, done.stdout, lines) == (2, "", 1) and done.stderr.startswith("error: ")


@pytest.mark.parametrize("script", scripts())
def test_a_path_can_be_called_from_any_folder(script, tmp_path):
    done = run_script(str(ROOT / script), "--absent", folder=tmp_path)
    assert is_one_line(done), done


# options that are read before there is a parser for the others
EARLY = ("--source", "--task", "--model", "--preset", "--import", "--config", "--run-dir")


@pytest.mark.parametrize("script", scripts())
def test_a_flag_without_its_value_is_one_line(script, capfd):
    """In this process: a script that asks argparse would leave with ``SystemExit``."""
    main = import_module(f"farfield.{module_of(script)}").main
    for flag in EARLY:
        with pytest.raises(ValueError) as caught:
            main([flag])
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_help_all_reaches_the_parser_of_the_task():
    done = run_script("-m", "train.train_task", "--task", "nbody", "--help-all")
    assert (done.returncode, done.stderr) == (0, "") and "--batch-size" in done.stdout


def test_a_module_can_be_called_in_the_checkout():
    done = run_script("-m", "train.train_md17", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ") and "--data-path" in done.stdout


HELP = f"""
import contextlib, io, json, sys
from importlib import import_module

for name in {[module_of(script) for script in scripts()]}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        import_module(f"farfield.{{name}}").main(["--help"])
print(json.dumps(sorted(sys.modules)))
"""


def test_help_waits_for_no_heavy_package():
    """One process for all scripts; e3nn alone costs more than a second."""
    done = run_script("-c", HELP)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded and {f"farfield.{module_of(script)}" for script in scripts()} <= loaded
    assert loaded.isdisjoint(HEAVY)
