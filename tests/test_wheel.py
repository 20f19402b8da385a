"""The wheel: what it holds and asks for, and that it works beside files of its user."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser

import pytest
from ase import Atoms
from packaging.requirements import Requirement

from farfield.common import checkpoint
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_md17
from tests.support.md_data import SMALL, make_data
from tests.support.processes import ROOT, run_script

BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
OF_TESTS = {"pytest", "pytest-xdist", "hypothesis", "mpmath", "ruff", "setuptools"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what the repository has of it."""
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    tree.mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    for link in (ROOT / "farfield").iterdir():
        if link.is_symlink():
            shutil.copytree(link, tree / link.name, ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "farfield", tree / "farfield", symlinks=True, ignore=ignored)
    done = run_script("-c", BUILD, folder=tree)
    assert done.returncode == 0, done.stderr
    (file,) = (tree / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of packages with the wheel in it."""
    packages = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(packages)]
    subprocess.run([*pip, *options, str(wheel)], check=True)
    return packages


def test_it_holds_farfield_alone_with_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"farfield"}

    # every module and every bundled file of the folders behind the links, and nothing more
    held = {name for name in names if name.startswith("farfield/")}
    links = [link for link in (ROOT / "farfield").iterdir() if link.is_symlink()]
    modules = {
        f"farfield/{link.name}/{file.relative_to(link)}"
        for link in links
        for pattern in ("*.py", "*.cpp")
        for file in link.rglob(pattern)
    }
    samples = {
        f"farfield/dataloader/samples/{file.name}"
        for file in (ROOT / "dataloader" / "samples").iterdir()
    }
    shipped = {f"farfield/checkpoints/{file.name}" for file in (ROOT / "checkpoints").iterdir()}
    own = {f"farfield/{file.name}" for file in (ROOT / "farfield").glob("*.py")}
    assert held == modules | samples | shipped | own


def _metadata(archive):
    """METADATA of a wheel, as a message of the standard library."""
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(name).decode())


def test_it_asks_for_nothing_that_only_tests_need(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = _metadata(archive)
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    packages = {need.name.lower() for need in needed if "extra" not in str(need.marker)}
    assert "torch" in packages and packages.isdisjoint(OF_TESTS | {"dgl"})
    assert {"dgl", "test", "dev", "docs"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata["Requires-Python"] == PYPROJECT["project"]["requires-python"]


def test_it_says_who_made_it_and_on_which_terms(wheel):
    archive = zipfile.ZipFile(wheel)
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    metadata = _metadata(archive)
    assert metadata["License-Expression"] == "MIT" and "License" not in metadata
    assert metadata["Author"] == "The Farfield developers"
    assert any("Chemistry" in kind for kind in metadata.get_all("Classifier"))


def test_the_pins_are_within_the_ranges():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    pins = {name.lower(): version for name, version in pins.items()}
    extras = PYPROJECT["project"]["optional-dependencies"]
    groups = [PYPROJECT["project"]["dependencies"], *(extras[name] for name in ("dgl", "test"))]
    ranges = [Requirement(text) for group in groups for text in group]
    assert {need.name.lower() for need in ranges} | {"ruff"} == set(pins)
    for need in ranges:
        assert need.specifier.contains(pins[need.name.lower()]), need


CALCULATE = """
import sys
sys.path.append(sys.argv[1])
from farfield.simulate.calculator import FarfieldCalculator
import ase, farfield

molecule = ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
molecule.calc = FarfieldCalculator(sys.argv[2])
print(farfield.__file__, farfield.__version__, molecule.get_potential_energy())
"""


HINTS = """
import sys
sys.path.append(sys.argv[1])
from farfield.dataloader.datasets import nbody_data, property_data
from farfield.dataloader import prepared_folder

print(prepared_folder.HINT, property_data.HINT, nbody_data.HINT)
from farfield.train import train_potential

train_potential.main(["--help"])
"""


def test_installed_it_names_its_console_command(installed, tmp_path):
    done = run_script("-c", HINTS, str(installed), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python -m" not in done.stdout
    assert "`farfield preprocess structures mine.xyz --out FOLDER`" in done.stdout


LOAD = """
import sys
sys.path.append(sys.argv[1])
import farfield

print(farfield.load("ethanol"))
"""


def test_installed_it_has_the_shipped_checkpoints(installed, tmp_path):
    done = run_script("-c", LOAD, str(installed), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(installed / "farfield" / "checkpoints" / "ethanol.pt") in done.stdout


def test_installed_it_computes_beside_files_of_a_user(wheel, installed, tmp_path):
    """A user's own ``train.py``, ``models/`` and ``simulate.py`` stop the program when they are
    imported.
    """
    packages, folder, run = installed, tmp_path / "user", tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    for name in ("train.py", "simulate.py", "common.py", "models/__init__.py"):
        (folder / name).write_text("raise SystemExit('a file of the user was imported')")
    data = make_data(tmp_path / "data")
    paths = ["--run-dir", str(run), "--data-path", str(data)]
    train_md17.main([*paths, *SMALL, "--epochs", "1"])

    arguments = (str(packages), str(run / checkpoint.BEST))
    done = run_script("-c", CALCULATE, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    place, version, energy = done.stdout.split()
    assert place.startswith(str(packages)) and version in wheel.name
    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
    molecule.calc = FarfieldCalculator(run / checkpoint.BEST)
    assert float(energy) == pytest.approx(molecule.get_potential_energy(), rel=1e-6)
