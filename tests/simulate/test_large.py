"""Laws of the script for large structures: the results of the calculator, one or two processes,
whole files, and errors of one line.
"""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms

from farfield.simulate import large
from farfield.simulate.calculator import FarfieldCalculator
from tests.support.rank_processes import RankProcesses

FILES = ("npz", "extxyz")


@pytest.fixture(scope="module")
def gridded(trained):
    """A potential whose far field goes by a grid, and a crystal for it."""
    return trained("--far-expansion", "mesh")


@pytest.fixture
def box(tmp_path):
    """A file of a crystal of 50 atoms."""
    rng = np.random.default_rng(5)
    cell = 9 * np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    numbers = rng.choice([1, 6, 8], 50)
    atoms = Atoms(numbers, rng.uniform(0, 1, (50, 3)) @ cell, cell=cell, pbc=True)
    ase.io.write(tmp_path / "box.extxyz", atoms)
    return tmp_path / "box.extxyz"


def options(checkpoint, file, out, *more) -> list[str]:
    named = ["--checkpoint", str(checkpoint), "--file", str(file), "--out", str(out)]
    return [*named, "--piece-atoms", "15", "--dtype", "float64", "--no-progress", *more]


def assert_same(found, expected, equal=1e-10):
    assert np.abs(np.subtract(found, expected)).max() < equal * np.abs(expected).max()


def test_results_are_those_of_the_calculator(gridded, box, tmp_path, capsys):
    atoms = ase.io.read(box)
    atoms.calc = FarfieldCalculator(gridded, dtype="float64")
    for suffix in FILES:
        large.main(options(gridded, box, tmp_path / f"out.{suffix}", "--stress"))
    assert "50 atoms" in capsys.readouterr().out

    with np.load(tmp_path / "out.npz") as found:
        assert_same(found["energy"], atoms.get_potential_energy())
        assert_same(found["forces"], atoms.get_forces())
        assert_same(found["stress"], atoms.get_stress(voigt=False))
        assert found["peak_gigabytes"] > 0 and found["seconds"] > 0

    # text keeps eight digits
    frame = ase.io.read(tmp_path / "out.extxyz")
    assert_same(frame.get_potential_energy(), atoms.get_potential_energy())
    assert_same(frame.get_forces(), atoms.get_forces(), 1e-6)
    assert_same(frame.get_stress(), atoms.get_stress(), 1e-6)


def test_two_ranks_find_what_one_finds(gridded, box, tmp_path):
    one, two = (tmp_path / f"{name}.npz" for name in ("one", "two"))
    large.main(options(gridded, box, one, "--stress"))
    command = ["-m", "simulate.large", *options(gridded, box, two, "--stress")]
    ends = RankProcesses(command, command).wait()
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    with np.load(one) as a, np.load(two) as b:
        for name in ("energy", "forces", "stress"):
            assert_same(b[name], a[name])

    # one of them speaks
    assert "2 processes" in ends[0].stdout and not ends[1].stdout
    assert not ends[0].stderr + ends[1].stderr


@pytest.mark.parametrize("suffix", FILES)
def test_an_interruption_leaves_nothing_behind(suffix, gridded, box, tmp_path, monkeypatch):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(large.DividedPotential, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        large.main(options(gridded, box, tmp_path / f"out.{suffix}"))
    monkeypatch.undo()
    monkeypatch.setattr("os.replace", stop)  # the last step of the write
    with pytest.raises(KeyboardInterrupt):
        large.main(options(gridded, box, tmp_path / f"out.{suffix}"))
    assert [file.name for file in tmp_path.iterdir()] == ["box.extxyz"]


def test_mistakes_are_one_line(gridded, box, tmp_path):
    out = tmp_path / "out.npz"
    mistakes = [
        (options(gridded, box, tmp_path / "out.txt"), "--out must end in .npz, .xyz, .extxyz"),
        (options(gridded, box, tmp_path / "no" / "out.npz"), "make it first"),
        (options(gridded, box, box), "is the file of the structure"),
        (options(gridded, tmp_path / "none.xyz", out), "--file .* does not exist"),
        (options(gridded, box, out, "--index", "3"), "has no structure 3"),
        (options(gridded, box, out, "--head", "water"), "has one energy head"),
        (options("ethanol", box, out, "--piece-atoms", "0"), "piece-atoms"),
        (["--checkpoint", "ethanol"], "--file is missing"),
    ]
    for arguments, message in mistakes:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            large.main(arguments)
        assert "\n" not in str(error.value)

    # what is there stays, unless it is to go
    out.write_bytes(b"mine")
    with pytest.raises(ValueError, match="--overwrite"):
        large.main(options(gridded, box, out))
    assert out.read_bytes() == b"mine"
    large.main(options(gridded, box, out, "--overwrite"))
    assert np.load(out)["forces"].shape == (50, 3)
