"""The check of QM9 data: its own computations obey closed forms, and it finds wrong labels."""

import json

import numpy as np
import pytest
from scipy import constants

from benchmarks.accuracy import check_qm9
from farfield.dataloader.sources.qm9_arrays import read_ragged
from farfield.dataloader.sources.qm9_targets import HARTREE
from farfield.dataloader.structures import Structures
from tests.support.qm9_data import molecules, raw_labels


def test_rotational_constants_of_a_diatomic_and_under_motion():
    """B = hbar / (4 pi mu r^2) of HF, 1H at 1.00783 u and 19F at 18.9984 u."""
    pair = Structures(np.array([1, 9]), np.array([[0, 0, 0.9], [0, 0, 0]]), np.array([2]))
    reduced = (
        1.00782503223 * 18.99840316273 / (1.00782503223 + 18.99840316273) * constants.atomic_mass
    )
    expected = constants.hbar / (4 * np.pi * reduced * 0.81e-20) / 1e9
    found = check_qm9.rotational_constants(pair)[0]
    assert found[1:] == pytest.approx([expected, expected], rel=1e-6) and found[0] > 1e6
    whole = molecules(("C6H6", "CH3OH"))
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    moved = Structures(whole.atomic_numbers, whole.positions @ turn + 7, whole.counts)
    assert check_qm9.rotational_constants(moved) == pytest.approx(
        check_qm9.rotational_constants(whole), rel=1e-9
    )
    planar = 1 / check_qm9.rotational_constants(whole)[0]
    assert planar[2] == pytest.approx(planar[0] + planar[1])  # perpendicular axis theorem


@pytest.mark.parametrize(
    "text, atoms, bonds",
    [
        ("C", {"C": 1}, 0),
        ("[13CH4]", {"C": 1}, 0),
        ("CCO", {"C": 2, "O": 1}, 2),
        ("C1CO1", {"C": 2, "O": 1}, 3),
        ("c1ccncc1", {"C": 5, "N": 1}, 6),
        ("CC1(CC1)C#N", {"C": 5, "N": 1}, 6),
        ("[NH3+]CC([O-])=O", {"N": 1, "C": 2, "O": 2}, 4),
        ("C12C3C4C1C5C2C3C45", {"C": 8}, 12),
        ("F/C=C\\F", {"F": 2, "C": 2}, 3),
        ("[nH]1cccc1.[H]O", {"N": 1, "C": 4, "O": 1}, 5),
        ("C%11CC%11", {"C": 3}, 3),
    ],
)
def test_smiles(text, atoms, bonds):
    assert check_qm9.read_smiles(text) == (atoms, bonds)


def test_strange_smiles():
    with pytest.raises(ValueError, match=r"the SMILES 'CC\?O' cannot be read from '\?O' on"):
        check_qm9.read_smiles("CC?O")


def consistent(path, **change):
    """A file whose columns follow from its geometries."""
    names = {
        "CH3OH": "CO",
        "C6H6": "c1ccccc1",
        "CH3CN": "CC#N",
        "NH3": "N",
        "CH3NO2": "C[N+](=O)[O-]",
    }
    whole = molecules(names)
    raw = raw_labels(whole)
    raw |= dict(zip("ABC", check_qm9.rotational_constants(whole).T, strict=True))
    raw |= {"gap": raw["lumo"] - raw["homo"], "H": raw["U"] + check_qm9.GAS_ENERGY}
    del raw["H_atom"]
    arrays = {
        "n_atoms": whole.counts,
        "Z": whole.atomic_numbers,
        "R": whole.positions,
        "smiles": np.array(list(names.values())),
    }
    np.savez(
        path,
        **arrays
        | raw
        | {
            name: values(raw[name] if name in raw else arrays[name])
            for name, values in change.items()
        },
    )


def test_right_data_pass(tmp_path, capsys):
    consistent(tmp_path / "a.npz")
    check_qm9.main(["--data-path", str(tmp_path / "a.npz"), "--json", str(tmp_path / "rows.json")])
    rows = {row["check"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert all(row.get("ok", True) for row in rows.values()) and rows["charged"]["value"] == 1
    assert {
        "A from the geometry",
        "U0_atom from U0",
        "gap",
        "H - U",
        "elements",
        "usual valence",
        "bonds of the SMILES",
    } <= set(rows)
    assert "NO" not in capsys.readouterr().out.split("check")[-1]


@pytest.mark.parametrize(
    "name, change, row",
    [
        ("B", lambda values: values * 1.001, "B from the geometry"),
        ("U0", lambda values: values + 1e-5, "U0_atom from U0"),
        ("lumo", lambda values: values + 1e-3, "gap"),
        (
            "R",
            lambda values: np.where(np.arange(len(values))[:, None] == 3, 9 * values, values),
            "usual valence",
        ),
        ("smiles", lambda values: values[[0, 1, 2, 3, 0]], "elements"),
        ("smiles", lambda values: np.array(["CO", "cccccc", *values[2:]]), "bonds of the SMILES"),
    ],
)
def test_wrong_data_are_found(tmp_path, capsys, name, change, row):
    consistent(tmp_path / "a.npz", **{name: change})
    with pytest.raises(SystemExit) as stop:
        check_qm9.main(["--data-path", str(tmp_path / "a.npz")])
    assert stop.value.code == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("NO")]
    assert any(line.startswith(row) for line in failed)


def test_units_of_the_check_are_those_of_the_reader(tmp_path):
    consistent(tmp_path / "a.npz")
    structures, _, _ = read_ragged(tmp_path / "a.npz")
    assert (structures.extra["H"] - structures.extra["U"]) / HARTREE == pytest.approx(
        0.000944, abs=1e-6
    )
    with pytest.raises(ValueError, match="--data-path is missing; give a ragged npz file of QM9"):
        check_qm9.main([])
