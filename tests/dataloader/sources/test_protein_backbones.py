"""What is read of PDB and mmCIF files: atoms, alternatives, breaks; and what is refused."""

import gzip
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

from farfield.dataloader.chemistry.residues import UNKNOWN_RESIDUE, residue_type
from farfield.dataloader.sources.built_backbones import build_backbones
from farfield.dataloader.sources.protein_backbones import find_protein_files, read_protein
from tests.support.protein_files import atom_line, chain_lines, residue_lines, write_lines


@pytest.fixture(scope="module")
def built():
    """Two chains of 12 residues, the second one far from the first."""
    one, other = build_backbones(2, 12, 12, seed=5)
    return one, other._replace(positions=other.positions + 100)


def test_pdb_mmcif_and_gzip_give_the_chains_that_were_written(built, tmp_path):
    lines = [*chain_lines(built[0]), "TER", *chain_lines(built[1], first=-3, chain="B")]
    pdb = write_lines(tmp_path / "two.pdb", *lines)
    cif = tmp_path / "two.cif"
    gemmi.read_structure(str(pdb)).make_mmcif_document().write_file(str(cif))
    packed = tmp_path / "two.ent.gz"
    packed.write_bytes(gzip.compress(pdb.read_bytes()))

    for path in (pdb, cif, packed):
        found = read_protein(path)
        assert [chain.name for chain in found.chains] == ["two_A_1-12", "two_B_-3-8"]
        assert found.left_out == 0
        for chain, expected in zip(found.chains, built, strict=True):
            assert np.array_equal(chain.residues, expected.residues)
            np.testing.assert_allclose(chain.positions, expected.positions, atol=6e-4)


def test_only_the_first_model_is_read(built, tmp_path):
    models = ["MODEL        1", *chain_lines(built[0]), "ENDMDL", "MODEL        2"]
    path = write_lines(tmp_path / "nmr.pdb", *models, *chain_lines(built[1]), "ENDMDL")
    (chain,) = read_protein(path).chains
    np.testing.assert_allclose(chain.positions, built[0].positions, atol=6e-4)


def test_the_likeliest_place_is_taken_as_a_whole(built, tmp_path):
    """Three places of residue 4; the likeliest is neither the first nor the last one."""
    chain, lines = built[0], []
    for number in range(1, 8):
        atoms, name = chain.positions[number - 1], "ALA"
        if number != 4:
            lines += residue_lines(name, number, atoms)
            continue
        for altloc, shift, share in (("A", 0.3, 0.2), ("B", 0.0, 0.5), ("C", -0.3, 0.3)):
            lines += residue_lines(name, number, atoms + shift, altloc=altloc, occupancy=share)
    (found,) = read_protein(write_lines(tmp_path / "alt.pdb", *lines)).chains
    np.testing.assert_allclose(found.positions, chain.positions[:7], atol=6e-4)


def test_atoms_without_a_letter_belong_to_every_place(built, tmp_path):
    chain = built[0]
    lines = chain_lines(chain)
    n, ca, c, o = chain.positions[2]
    lines[8:12] = [
        atom_line("N", "SER", 3, n),
        atom_line("CA", "SER", 3, ca + 0.4, altloc="A", occupancy=0.4),
        atom_line("CA", "SER", 3, ca, altloc="B", occupancy=0.6),
        atom_line("C", "SER", 3, c),
        atom_line("O", "SER", 3, o),
    ]
    (found,) = read_protein(write_lines(tmp_path / "mixed.pdb", *lines)).chains
    np.testing.assert_allclose(found.positions, chain.positions, atol=6e-4)


def test_of_two_residues_in_one_place_the_likelier_one_is_there(built, tmp_path):
    chain, lines = built[0], chain_lines(built[0])
    atoms = chain.positions[5]
    lines[20:24] = [
        *residue_lines("SER", 6, atoms + 0.2, altloc="A", occupancy=0.45),
        *residue_lines("THR", 6, atoms, altloc="B", occupancy=0.55),
    ]
    (found,) = read_protein(write_lines(tmp_path / "hetero.pdb", *lines)).chains
    assert len(found.residues) == 12 and found.residues[5] == residue_type("THR")
    np.testing.assert_allclose(found.positions, chain.positions, atol=6e-4)


def test_other_residues_are_unknown_and_other_molecules_are_not_there(built, tmp_path):
    chain, lines = built[0], chain_lines(built[0])
    lines[4:8] = residue_lines("MSE", 2, chain.positions[1], record="HETATM")
    lines += [atom_line("O", "HOH", 101, [50, 50, 50], record="HETATM")]
    lines += [atom_line("CA", " CA", 102, [60, 50, 50], record="HETATM")]
    (found,) = read_protein(write_lines(tmp_path / "mse.pdb", *lines)).chains
    assert found.residues[1] == UNKNOWN_RESIDUE and len(found.residues) == 12


def sizes(path: Path, **options) -> list[int]:
    return [len(chain.residues) for chain in read_protein(path, **options).chains]


def test_a_chain_is_cut_where_it_is_broken(built, tmp_path):
    """By a long bond, by a jump in the numbers, by a missing atom; not by an insertion."""
    chain = built[0]
    moved = chain.positions.copy()
    moved[5:] += [2.0, 0, 0]
    apart = write_lines(tmp_path / "apart.pdb", *chain_lines(chain._replace(positions=moved)))
    assert sizes(apart) == [5, 7]

    numbers = [1, 2, 3, 4, 5, 6, 7, 17, 18, 19, 20, 21]
    lines = chain_lines(chain)
    for line, text in enumerate(lines):
        lines[line] = f"{text[:22]}{numbers[line // 4]:>4}{text[26:]}"
    assert sizes(write_lines(tmp_path / "jump.pdb", *lines)) == [7, 5]

    lines = chain_lines(chain)
    del lines[4 * 3 + 3]
    lacking = write_lines(tmp_path / "lacking.pdb", *lines)
    assert sizes(lacking) == [3, 8]
    assert sizes(lacking, min_residues=4) == [8]
    assert read_protein(lacking, min_residues=4).left_out == 1

    lines = chain_lines(chain)
    for line in range(4 * 6, 4 * 7):
        lines[line] = f"{lines[line][:22]}{6:>4}A{lines[line][27:]}"
    for line in range(4 * 7, 4 * 12):
        lines[line] = f"{lines[line][:22]}{line // 4:>4}{lines[line][26:]}"
    assert sizes(write_lines(tmp_path / "inserted.pdb", *lines)) == [12]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("empty.pdb", "", "empty.pdb holds no atoms; give the file of a protein"),
        ("text.pdb", "some words\nof a letter\n", "text.pdb holds no atoms"),
        ("text.cif", "some words\n", "text.cif cannot be read as PDB or mmCIF .*give another"),
        ("rows.cif", "data_x\n_cell.length_a 1\n", "rows.cif holds no atoms"),
        ("bad.cif.gz", "not gzip", "bad.cif.gz cannot be read as PDB or mmCIF"),
        (
            "water.pdb",
            atom_line("O", "HOH", 1, [0, 0, 0]),
            "water.pdb holds no residue with N, CA, C and O; give the file of a protein",
        ),
        (
            "nan.pdb",
            "\n".join(residue_lines("ALA", 7, np.full((4, 3), np.nan), chain="C")),
            "nan.pdb: positions of residue 7 of chain C are not finite",
        ),
    ],
)
def test_files_without_a_backbone_are_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_protein(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_library_says_what_to_type(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.pdb")
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(ValueError, match="gemmi, which is missing; type: pip install gemmi"):
        read_protein(path)


def test_files_have_one_order_whatever_the_folder_lists(tmp_path, monkeypatch):
    for name in ("2b.cif", "1a.pdb", "3c.ent.gz", "notes.txt"):
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("1a.pdb", "2b.cif", "3c.ent.gz")]
    assert find_protein_files([tmp_path]) == expected

    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(listed(self))))
    assert find_protein_files([tmp_path]) == expected
    assert find_protein_files([expected[2], expected[0]]) == [expected[0], expected[2]]


def test_names_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give PDB or mmCIF"):
        find_protein_files([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="holds no PDB or mmCIF files"):
        find_protein_files([tmp_path])
    with pytest.raises(ValueError, match="notes.txt is no PDB or mmCIF file by its name"):
        find_protein_files([tmp_path / "notes.txt"])

    for name in ("1abc.pdb", "1abc.cif.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="name of one structure, which could then train and test"):
        find_protein_files([tmp_path])


def test_names_that_are_no_text_are_refused(tmp_path):
    path = write_lines(tmp_path / "odd.pdb", *residue_lines("GLY", 1, np.eye(4, 3)))
    path.write_bytes(path.read_bytes().replace(b"CA ", b"C\xbe "))
    with pytest.raises(ValueError, match="odd.pdb cannot be read as PDB or mmCIF"):
        read_protein(path)
