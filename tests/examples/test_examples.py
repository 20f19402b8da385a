"""Every example runs from any folder, with its training made short, and leaves what it promises."""

import runpy
import sys
from pathlib import Path

import pytest
from ase.build import bulk

from farfield.simulate.calculator import FarfieldCalculator
from tests.support.registries import restore_registries, saved_registries

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MOST_LINES = 70


def run(name: str, *arguments: str) -> None:
    """``python examples/NAME ...`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of ``train_on_own_xyz.py``."""
    folder = tmp_path_factory.mktemp("example")
    run("train_on_own_xyz.py", "--folder", folder, "--minutes", "0.01")
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path, monkeypatch):
    """A potential; the test works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return trained / "run" / "checkpoint_best.pt"


def test_train_on_own_xyz(trained):
    assert (trained / "run" / "checkpoint_best.pt").exists()


def test_relax_and_vibrate(checkpoint, capsys):
    run("relax_and_vibrate.py", "--checkpoint", checkpoint)
    assert Path("example/relaxed.xyz").exists()
    numbers = capsys.readouterr().out.split("wave numbers (1/cm): ")[1].splitlines()[0]
    assert len(numbers.split()) == 21


def test_md_and_analysis(checkpoint, capsys):
    run("md_and_analysis.py", "--checkpoint", checkpoint, "--steps", "20")
    printed = capsys.readouterr().out
    assert "C0-C1" in printed and "C0-O2" in printed


def test_molecular_properties(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("molecular_properties.py", "--minutes", "0.004")
    assert "C6H6" in capsys.readouterr().out


def test_custom_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registries = saved_registries()
    run("custom_network.py", "--minutes", "0.003")
    calculator = FarfieldCalculator("example/run/checkpoint_best.pt", dtype="float64")

    # a cell of two atoms sees its images: eight cells have eight times its energy
    crystal = bulk("C", "diamond", a=3.57)
    energies = []
    for atoms in (crystal, crystal.repeat(2)):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    restore_registries(registries)
    assert energies[1] == pytest.approx(8 * energies[0], rel=1e-9)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
