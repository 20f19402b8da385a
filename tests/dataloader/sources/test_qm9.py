"""QM9: all four forms of the data give the same molecules, in the project's units; broken entries
are left out, counted and named.
"""

import re

import numpy as np
import pytest
from ase import units as ase_units
from ase.data import atomic_masses_common
from scipy import constants

from farfield.dataloader.chemistry.bonds import BOND_KINDS
from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.qm9_archives import read_archive, read_sdf
from farfield.dataloader.sources.qm9_arrays import read_edge_npz, read_ragged
from farfield.dataloader.sources.qm9_targets import FREE_ATOMS, TARGETS, free_atom_energy
from tests.support import qm9_data
from tests.support.qm9_data import assert_same, labelled_molecules

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\
\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-8.766437152*^-1\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 1.339*^-1
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def test_molecule_one_as_published(tmp_path):
    qm9_data.write_archive(tmp_path / "one.tar.bz2", {"dsgdb9nsd_000001.xyz": METHANE})
    structures, bonds, report = read_archive(tmp_path / "one.tar.bz2")
    assert (report.read, report.kept, bonds, structures.names.tolist()) == (1, 1, None, ["C"])
    assert structures.positions[2].tolist() == [1.0117308433, 1.4637511618, 2.765748e-4]
    assert structures.positions[3, 2] == -0.8766437152
    extra = {name: values.item() for name, values in structures.extra.items()}
    assert extra["gdb_id"] == 1
    assert extra["A"] == 157.7118
    assert extra["mu"] == 0
    assert extra["Cv"] == 6.469
    assert extra["alpha"] == 13.21
    assert extra["homo"] == pytest.approx(-10.549854, abs=1e-6)
    assert extra["gap"] == pytest.approx(13.736308, abs=1e-6)
    assert extra["U0_atom"] / ase_units.Hartree * 627.509 == pytest.approx(
        -395.999595, abs=1e-6
    )  # of MoleculeNet's table
    distances = np.linalg.norm(structures.positions[1:] - structures.positions[0], axis=1)
    assert distances == pytest.approx([1.0919] * 4, abs=1e-3)


def twenty_files() -> tuple[dict[str, str], dict[int, str], list[int]]:
    """Files of numbers 1 .. 20 in no order, reason for each broken one, and the numbers of the good
    ones.
    """
    whole, raw, _ = labelled_molecules()
    texts = {
        number: qm9_data.xyz_text(whole, (number - 1) % len(whole), number, raw)
        for number in range(1, 21)
    }
    lines = {number: text.splitlines(keepends=True) for number, text in texts.items()}
    texts[3] = re.sub(r"(\d)\.(\d{10})", r"\1.\2*^0", texts[3])  # good: so are exponents written
    texts[4] = texts[4].replace("\n", "\r\n")  # good
    texts[5] = "".join(lines[5][:-2])
    texts[6] = "".join([f"{int(lines[6][0]) - 1}\n", *lines[6][1:]])
    texts[7] = "".join([f"{int(lines[7][0]) + 1}\n", *lines[7][1:]])
    texts[8] = texts[8].replace(f"{raw['homo'][7]:.6f}", "NaN", 1)
    texts[9] = texts[9].replace("C\t", "Xx\t", 1)
    texts[10] = texts[10].replace(".", ".1.", 1).replace("gdb 10\t", "gdb 10\t0.1.2\t", 1)
    texts[11] = ""
    texts[12] = texts[12].replace("\t", "\n", 3)
    texts[13] = re.sub(r"\t-0\.123456", "\tinf", texts[13]).replace("\t0.0000000000", "\tinf", 1)
    texts[14] = texts[14].replace("gdb 14", "gdb 2")
    texts[15] = texts[15].replace("gdb 15", "gdb x")
    reasons = {
        5: "lines, .* atoms need",
        6: "not 3 lines of atoms",
        7: "not 9 lines of atoms",
        8: "properties are not finite",
    }
    reasons |= {
        9: "'Xx' is not an element of QM9",
        10: "18 words in the line of properties, not 17",
        11: "the number of atoms is ''",
    }
    reasons |= {12: "words in the line", 13: "positions are not finite", 15: "the number is 'x'"}
    names = {number: f"dsgdb9nsd_{number:06d}.xyz" for number in texts}
    order = np.random.default_rng(0).permutation(list(texts)).tolist()
    order.remove(14)
    order.append(14)  # after the other with its number
    members = {"readme.txt": "no molecule"} | {names[number]: texts[number] for number in order}
    return (
        members,
        {names[number]: reason for number, reason in reasons.items()},
        [1, 2, 3, 4, 16, 17, 18, 19, 20],
    )


@pytest.mark.parametrize("folder", [False, True])
def test_twenty_files_of_which_eleven_are_broken(tmp_path, folder):
    members, reasons, good = twenty_files()
    path = tmp_path / "files"
    if folder:
        path.mkdir()
        for name, text in members.items():
            (path / name).write_bytes(text.encode())
    else:
        qm9_data.write_archive(path, members)
    done = []
    structures, _, report = read_archive(
        path, uncharacterised=np.array([18, 5]), progress=done.append
    )
    good.remove(18)
    assert structures.extra["gdb_id"].tolist() == good
    assert sum(done) == 20
    assert (report.read, report.kept, report.uncharacterised, len(report.broken)) == (20, 8, 1, 11)
    found = dict(report.broken)
    assert found.pop("molecule 2") == "its number occurs twice"
    assert set(found) == set(reasons)
    for name, reason in reasons.items():
        assert re.search(reason, found[name]), (name, found[name])
    assert "8 of 20 molecules, left out: 1 uncharacterised, 11 broken (" in str(report) and str(
        report
    ).endswith("; ...)")
    whole, raw, _ = labelled_molecules()
    for place, number in enumerate(good):
        here = (number - 1) % len(whole)
        one, same = structures[place], whole[here]
        assert_same(one, same, {name: values[here] for name, values in raw.items()})


def test_all_forms_hold_the_same(tmp_path):
    whole, raw, found = labelled_molecules()
    texts = {
        f"{number}.xyz": qm9_data.xyz_text(whole, number - 1, number, raw)
        for number in range(1, len(whole) + 1)
    }
    qm9_data.write_archive(tmp_path / "archive", texts)
    assert_same(read_archive(tmp_path / "archive")[0], whole, raw)

    keys = {"U0": "u0", "U": "u298", "H": "h298", "G": "g298", "Cv": "cv"}
    arrays = {
        keys.get(name, name): values for name, values in raw.items() if not name.endswith("_atom")
    }
    np.savez(
        tmp_path / "ragged.npz",
        n_atoms=whole.counts,
        Z=whole.atomic_numbers,
        R=whole.positions,
        **arrays,
    )
    assert_same(read_ragged(tmp_path / "ragged.npz")[0], whole, raw)

    sdf, table = (
        qm9_data.sdf_text(whole, found.table.ends, found.orders, found.table.counts),
        qm9_data.table_text(raw),
    )
    qm9_data.write_archive(
        tmp_path / "gdb9.tar.gz", {"gdb9.sdf.csv": table, "gdb9.sdf": sdf}, "w:gz"
    )
    (tmp_path / "gdb9.sdf").write_text(sdf)
    (tmp_path / "gdb9.sdf.csv").write_text(table)
    for path in (tmp_path / "gdb9.tar.gz", tmp_path / "gdb9.sdf"):
        structures, bonds, report = read_sdf(path)
        assert_same(structures, whole, raw, positions=6e-5)
        assert np.array_equal(bonds.ends, found.table.ends)
        assert np.array_equal(bonds.kinds, found.table.kinds)
        assert not report.broken

    for dtype in (np.float32, np.float64):
        edges = qm9_data.edge_arrays(
            whole, found.table.ends, found.table.kinds, found.table.counts, raw, dtype
        )
        np.savez(tmp_path / "edge.npz", **edges)
        structures, bonds, _ = read_edge_npz(tmp_path / "edge.npz")
        assert_same(
            structures, whole, raw, positions=1e-6, energies=1e-5 if dtype is np.float32 else 1e-9
        )
        assert np.array_equal(bonds.ends, found.table.ends)
        assert np.array_equal(bonds.kinds, found.table.kinds)
        assert (bonds.kinds == BOND_KINDS["aromatic"]).sum() == 6 + 6 + 5
        assert "gdb_id" not in structures.extra


def test_rows_of_the_table_belong_to_the_molecules_that_they_name(tmp_path):
    """Another order is refused; titles without a number are paired by place."""
    whole, raw, found = labelled_molecules()
    bonds = (found.table.ends, found.orders, found.table.counts)
    head, first, second, *rest = qm9_data.table_text(raw).splitlines()
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join([head, second, first, *rest, ""]))
    (tmp_path / "gdb9.sdf").write_text(qm9_data.sdf_text(whole, *bonds))
    with pytest.raises(ValueError, match="entry 1 is gdb_1, row 1 of its table is of gdb_2; bring"):
        read_sdf(tmp_path / "gdb9.sdf")
    (tmp_path / "gdb9.sdf").write_text(qm9_data.sdf_text(whole, *bonds, title="molecule"))
    structures, _, _ = read_sdf(tmp_path / "gdb9.sdf")
    assert structures.extra["gap"][0] == pytest.approx(raw["gap"][1] * TARGETS["gap"].factor)


def test_broken_entries_of_the_sdf(tmp_path):
    whole, raw, found = labelled_molecules()
    blocks = qm9_data.sdf_text(whole, found.table.ends, found.orders, found.table.counts).split(
        "$$$$\n"
    )[:-1]
    blocks[2] = blocks[2].replace(" 3  2", "99  2", 1)
    blocks[4] = blocks[4].replace(" C ", " Q ", 1)
    lines = blocks[6].splitlines(keepends=True)
    blocks[6] = "".join([*lines[:-2], lines[-3], lines[-1]])
    raw["gap"][8] = np.nan
    (tmp_path / "gdb9.sdf").write_text("$$$$\n".join([*blocks, ""]))
    (tmp_path / "gdb9.sdf.csv").write_text(qm9_data.table_text(raw))
    structures, bonds, report = read_sdf(tmp_path / "gdb9.sdf", uncharacterised=np.array([1, 3]))
    left = [1, 3, 5, 7, 9, 10, 11, 12, 13]
    assert structures.extra["gdb_id"].tolist() == [place + 1 for place in left]
    assert report.uncharacterised == 1
    assert len(bonds) == len(left)
    assert np.array_equal(bonds.ends, found.table[left].ends)
    assert dict(report.broken).keys() == {"entry 3", "entry 5", "entry 7", "molecule 9"}
    assert dict(report.broken)["molecule 9"] == "gap is not finite"
    assert dict(report.broken)["entry 7"] == "a bond is given twice"
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join(qm9_data.table_text(raw).splitlines()[:-1]))
    with pytest.raises(
        ValueError, match=r"gdb9\.sdf: 13 rows of properties for 14 molecules; download it again"
    ):
        read_sdf(tmp_path / "gdb9.sdf")


def test_list_of_uncharacterised(tmp_path):
    path = tmp_path / "uncharacterized.txt"
    with pytest.raises(
        FileNotFoundError, match=r"does not exist; put uncharacterized\.txt of QM9 there"
    ):
        qm9.read_uncharacterised(path)
    numbers = np.random.default_rng(0).choice(np.arange(1, 133_886), 3054, replace=False)
    head = "=====\nIndex   SMILES\n-----\n"
    path.write_text(
        head
        + "".join(f"    {number}   CC   C1CC1  0.5\n" for number in numbers)
        + "\n  -----\nthe end\n"
    )
    assert np.array_equal(qm9.read_uncharacterised(path), np.sort(numbers))
    path.write_text(head + "1 CC\n2 CC\n")
    with pytest.raises(
        ValueError, match="must list 3054 numbers of 1 .. 133885, it lists 2; download it again"
    ):
        qm9.read_uncharacterised(path)


def test_missing_damaged_and_empty_files(tmp_path):
    for read in (read_archive, read_sdf, read_edge_npz, read_ragged):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read(tmp_path / "nothing")
        (tmp_path / "noise").write_bytes(b"no archive at all" * 100)
        with pytest.raises(ValueError, match="noise"):
            read(tmp_path / "noise")
    qm9_data.write_archive(
        tmp_path / "cut", {f"{number}.xyz": METHANE for number in range(300)}, "w:bz2"
    )
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut is damaged or not a tar archive"):
        read_archive(tmp_path / "cut")
    qm9_data.write_archive(tmp_path / "empty", {"readme": "x"})
    with pytest.raises(ValueError, match="empty: 0 of 0 molecules"):
        read_archive(tmp_path / "empty")
    with pytest.raises(
        ValueError, match=r"empty has no member gdb9\.sdf; give the archive gdb9\.tar\.gz"
    ):
        read_sdf(tmp_path / "empty")


def test_a_molecule_that_cannot_be_is_named_with_its_archive(tmp_path):
    far = METHANE.replace("1.0858041578", "1085804157.0")
    qm9_data.write_archive(tmp_path / "far.tar", {"one.xyz": far}, "w")
    with pytest.raises(ValueError, match="far.tar: atom . of structure 0 is more than"):
        read_archive(tmp_path / "far.tar")


def test_free_atoms_add_up():
    """Sums do not depend on how atoms are grouped; free atoms are ideal gases; hydrogen has -1/2
    hartree but for 0.06 %.
    """
    whole = qm9_data.molecules()
    for name in ("U0", "U", "H", "G"):
        alone = free_atom_energy(name, whole.atomic_numbers, np.ones(whole.num_atoms, int))
        assert np.add.reduceat(alone, whole.offsets[:-1]) == pytest.approx(
            free_atom_energy(name, whole.atomic_numbers, whole.counts)
        )
    from_zero = {
        name: np.array(list(free.values())) - list(FREE_ATOMS["U0"].values())
        for name, free in FREE_ATOMS.items()
    }
    thermal = constants.k * 298.15 / constants.physical_constants["Hartree energy"][0]
    assert from_zero["U"] == pytest.approx(1.5 * thermal, abs=1e-6)
    assert from_zero["H"] == pytest.approx(2.5 * thermal, abs=1e-6)
    # Sackur and Tetrode, with the multiplicity of the ground state
    masses, multiplicity = (
        atomic_masses_common[[1, 6, 7, 8, 9]] * constants.atomic_mass,
        np.array([2, 3, 4, 3, 2]),
    )
    per_volume = (2 * np.pi * masses * constants.k * 298.15 / constants.h**2) ** 1.5
    entropy = 2.5 + np.log(multiplicity * per_volume * constants.k * 298.15 / constants.atm)
    assert from_zero["H"] - from_zero["G"] == pytest.approx(thermal * entropy, abs=2e-6)
    assert free_atom_energy("U0", np.array([1]), np.array([1]))[0] == pytest.approx(
        -0.5 * ase_units.Hartree, rel=6e-4
    )
