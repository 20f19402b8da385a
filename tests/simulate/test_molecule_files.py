"""What a file of molecules says is what was written."""

import numpy as np
import pytest

from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.sources.qm9_text import mol_blocks, parse_mol
from farfield.dataloader.structures import Structures
from farfield.simulate.molecule_files import write_sdf
from tests.support.qm9_data import NAMES, molecules

# nitromethane: a nitro group has two formal charges
NITRO = Structures(
    [6, 7, 8, 8, 1, 1, 1],
    [[0, 0, 0], [1.49, 0, 0], [2.06, 1.09, 0], [2.06, -1.09, 0]]
    + [[-0.36, 1.03, 0], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89]],
    [7],
)


@pytest.mark.parametrize("structures", [molecules(NAMES), NITRO], ids=["qm9", "nitro"])
def test_an_sdf_holds_positions_bonds_and_values(structures, tmp_path):
    bonds = BOND_RULES["perceived"](structures)
    steps = np.arange(len(structures)) + 3
    write_sdf(tmp_path / "all.sdf", structures, bonds, {"steps": steps})
    with open(tmp_path / "all.sdf", "rb") as file:
        blocks = list(mol_blocks(file))
    assert len(blocks) == len(structures)

    for place, block in enumerate(blocks):
        atoms = slice(*structures.offsets[place : place + 2])
        mine = slice(*bonds.table.offsets[place : place + 2])
        entry = parse_mol(block)
        assert entry.numbers == structures.atomic_numbers[atoms].tolist()
        positions = np.reshape(entry.positions, (-1, 3))
        np.testing.assert_allclose(positions, structures.positions[atoms], atol=5.1e-5)
        written = [[a, b, order] for a, b, order in entry.bonds]
        expected = np.column_stack([bonds.table.ends[mine], bonds.orders[mine]])
        assert written == expected.tolist()
        assert block[block.index("> <steps>") + 1] == str(steps[place])
        assert charges(block, len(entry.numbers)) == bonds.charges[atoms].tolist()


def charges(block: list[str], atoms: int) -> list[int]:
    """Formal charges of the atoms by the lines M  CHG."""
    found = [0] * atoms
    for line in block:
        if line.startswith("M  CHG"):
            words = line.split()[3:]
            assert int(line[6:9]) == len(words) // 2 <= 8
            for atom, charge in zip(words[::2], words[1::2], strict=True):
                found[int(atom) - 1] = int(charge)
    return found


def test_a_molecule_that_an_sdf_cannot_hold_is_refused(tmp_path):
    many = Structures(np.ones(1000, int), np.arange(3000.0).reshape(-1, 3), [1000])
    with pytest.raises(ValueError, match="1000 atoms and 0 bonds, an sdf takes at most 999"):
        write_sdf(tmp_path / "all.sdf", many, BOND_RULES["edm"](many))
    assert not list(tmp_path.iterdir())
