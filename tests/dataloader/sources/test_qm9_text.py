"""Files of QM9 as text: what they hold, and the limits of what is taken for a molecule."""

import io

import pytest

from farfield.dataloader.sources.qm9_targets import LINE
from farfield.dataloader.sources.qm9_text import mol_blocks, parse_mol, parse_xyz, xyz_texts

VALUES = [0.25 * number for number in range(len(LINE))]


def xyz(count="2", number="17", values=VALUES, atoms=None, tail=("1.0 2.0", "O [OH] OX")) -> str:
    atoms = atoms or ["O 0.5 1.5*^-2 -2.0 -0.4", "H 3.0 4.0 5.0 0.4"]
    head = " ".join(["gdb", number, *map(str, values)])
    return "\n".join([count, head, *atoms, *tail])


def test_an_xyz_file_is_read_whole():
    for tail in (("1.0 2.0", "O [OH] OX", "InChI"), ("1.0 2.0", "O [OH] OX")):
        entry = parse_xyz(xyz(tail=tail))
        assert entry.numbers == [8, 1]
        assert entry.positions == [0.5, 0.015, -2.0, 3.0, 4.0, 5.0]
        assert (entry.index, entry.values, entry.smiles, entry.bonds) == (17, VALUES, "OX", [])
    assert parse_xyz(xyz(tail=("1.0", "", "InChI"))).smiles == ""
    assert parse_xyz(xyz(number="1")).index == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"count": "0"}, "the number of atoms is '0'"),
        ({"count": "1000"}, "the number of atoms is '1000'"),
        ({"count": "999"}, "999 atoms need 1004"),
        ({"count": "-2"}, "the number of atoms is '-2'"),
        ({"tail": ("1.0 2.0",)}, "5 lines, 2 atoms need 7"),
        ({"values": VALUES[1:]}, f"{len(LINE) + 1} words in the line"),
        ({"values": [*VALUES, 1.0]}, f"{len(LINE) + 3} words in the line"),
        ({"number": "0"}, "the number is '0'"),
        ({"values": [*VALUES[1:], "nan"]}, "properties are not finite"),
        ({"values": [*VALUES[1:], "x"]}, "properties are not numbers"),
        ({"atoms": ["O 0 0 0 0", "H 1 1 1"]}, "not 2 lines of atoms"),
        ({"atoms": ["O 0 0 0 0", "H 1 1 1 0", "H 2 2 2 0"]}, "not 2 lines of atoms"),
        ({"atoms": ["O 0 0 0 0", "X 1 1 1 0"]}, "'X' is not an element of QM9"),
        ({"atoms": ["O 0 0 0 0", "H 1 1 inf 0"]}, "positions are not finite"),
    ],
)
def test_a_broken_xyz_file_says_why(changes, words):
    with pytest.raises(ValueError, match=words):
        parse_xyz(xyz(**changes))
    with pytest.raises(ValueError, match="the number of atoms is ''"):
        parse_xyz("")


def mol(title="gdb_7", count="  3", bonds=("  1  2  2", "  3  1  4"), atoms="CHO") -> list[str]:
    lines = [
        f"{number + 0.5:10.4f}{-number:10.4f}{2 * number:10.4f} {element:3s} 0  0"
        for number, element in enumerate(atoms)
    ]
    return [title, "program", "comment", f"{count}{len(bonds):3d}  0", *lines, *bonds]


def test_a_molecule_of_an_sdf_is_read_whole():
    entry = parse_mol(mol())
    assert entry.numbers == [6, 1, 8]
    assert entry.positions == [0.5, 0, 0, 1.5, -1, 2, 2.5, -2, 4]
    assert entry.bonds == [(0, 1, 2), (2, 0, 4)]
    assert (entry.index, entry.values, entry.smiles) == (7, [], "")
    assert parse_mol(mol(title="water")).index is None
    assert parse_mol(mol(bonds=())).bonds == []
    assert parse_mol(mol(count="  1", atoms="C", bonds=())).numbers == [6]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"count": "  0"}, "the number of atoms is '0'"),
        ({"count": "  4"}, "9 lines, 4 atoms and 2 bonds need 10"),
        ({"bonds": ["  0  2  1"]}, "the atom of a bond is '0'"),
        ({"bonds": ["  1  4  1"]}, "the atom of a bond is '4'"),
        ({"bonds": ["  2  2  1"]}, "atom 2 is bonded to itself"),
        ({"bonds": ["  1  2  0"]}, "the order of a bond is '0'"),
        ({"bonds": ["  1  2  5"]}, "the order of a bond is '5'"),
        ({"bonds": ["  1  2  1", "  2  1  1"]}, "a bond is given twice"),
        ({"atoms": "CHX"}, "'X' is not an element"),
    ],
)
def test_a_broken_molecule_of_an_sdf_says_why(changes, words):
    with pytest.raises(ValueError, match=words):
        parse_mol(mol(**changes))


def test_molecules_need_four_lines():
    with pytest.raises(ValueError, match="3 lines, a molecule has at least 4"):
        parse_mol(mol()[:3])
    with pytest.raises(ValueError, match="the number of atoms is ''"):
        parse_mol(["", "", "", ""])


def test_files_of_a_folder_and_blocks_of_an_sdf(tmp_path):
    (tmp_path / "b.xyz").write_text("2")
    (tmp_path / "a.xyz").write_text("1")
    (tmp_path / "c.txt").write_text("3")
    assert list(xyz_texts(tmp_path)) == [("a.xyz", "1"), ("b.xyz", "2")]

    file = io.BytesIO(b"a\r\nb\n$$$$\nc\n$$$$\n\n")
    assert list(mol_blocks(file)) == [["a", "b"], ["c"]]
    assert list(mol_blocks(io.BytesIO(b"a\n$$$$\nb"))) == [["a"], ["b"]]
